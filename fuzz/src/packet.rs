//! Packets of a story.

use netd_common::host::{
    build::{Body, Ip, icmp_error, ipv4_of},
    cases::{At, FAR, FAR_NODE, NEAR, NEAR_NODE, NODE, OTHER, SERVER},
};

use crate::{WORLD, bytes::Bytes, member, packet6, view::View};

/// Ports of masqueraded flows.
pub(crate) const RANGE: (u16, u16) = (50_000, 50_003);

/// Addresses that mean something.
const ADDRESSES: [[u8; 4]; 15] = [
    SERVER,
    WORLD.a.address,
    WORLD.b.address,
    WORLD.c.address,
    NODE,
    NEAR,
    FAR,
    NEAR_NODE,
    FAR_NODE,
    [10, 88, 0, 1],
    [10, 88, 0, 99],
    [224, 0, 0, 1],
    [198, 51, 100, 8],
    [255, 255, 255, 255],
    OTHER,
];
pub(crate) const PORTS: [u16; 15] = [
    1000,
    53,
    443,
    4789,
    RANGE.0,
    RANGE.0 + 1,
    RANGE.0 + 2,
    RANGE.1,
    0, // Published ones, and those behind them.
    8080,
    8081,
    5353,
    9090,
    80,
    90,
];

/// The next packet, for a program; `last` is the last that went anywhere.
pub(crate) fn make(bytes: &mut Bytes<'_>, at: At, last: &[u8]) -> Vec<u8> {
    let kind = bytes.next();
    let mut packet = match kind % 8 {
        _ if kind >= 0xa0 => packet6::make(bytes, at, last),
        0 => {
            let length = usize::from(bytes.next());
            bytes.take(length).to_vec()
        }
        1 | 2 => turned(last, bytes).unwrap_or_else(|| whole(bytes, at)),
        3 => {
            let quote = match bytes.next() {
                choice if choice.is_multiple_of(2) => turned(last, bytes).unwrap_or_default(),
                224.. => last.to_vec(),
                _ => whole(bytes, At::FromUplink),
            };
            let quote = &quote[..quote.len().min(usize::from(bytes.next() % 96))];
            let kind = (bytes.pick(&[3, 11, 12, 5, 4]), bytes.next() % 16, u32::from(bytes.word()));
            ipv4_of(&ip(bytes, at), &icmp_error(kind, quote))
        }
        4 => {
            let inner = whole(bytes, At::FromUplink);
            let vni = [0, 0x6e, 0, bytes.pick(&[1, 2, 3])];
            let headers = [&[8, 0, 0, 0, vni[1], vni[2], vni[3], 0][..], &[2; 12], &[8, 0], &inner].concat();
            let outer = Ip::new(bytes.pick(&[FAR_NODE, NEAR_NODE, SERVER]), NODE);
            ipv4_of(&outer, &Body::UdpUnchecked(50_000, 4789, headers))
        }
        _ => whole(bytes, at),
    };
    if bytes.next() == 7 {
        packet.truncate(usize::from(bytes.next()));
    }
    packet
}

/// Addresses, and what else varies in a header.
fn ip(bytes: &mut Bytes<'_>, at: At) -> Ip {
    let own = match at {
        At::FromContainer(ifindex) => member(ifindex).map(|member| member.address),
        _ => None,
    };
    // Mostly its own: spoofed packets go nowhere.
    let source = own.filter(|_| bytes.next() < 240).unwrap_or_else(|| bytes.pick(&ADDRESSES));
    let mut ip = Ip::new(source, bytes.pick(&ADDRESSES));
    match bytes.next() {
        0..8 => ip.ttl = bytes.next() % 3,
        8..32 => {
            ip.fragment = bytes.pick(&[0x2000, 0x2001, 1, 2, 185, 0x4000, 0x1fff]);
            ip.id = u16::from(bytes.next() % 4);
        }
        32..40 => ip.options = vec![1; usize::from(bytes.next() % 11) * 4],
        _ => {}
    }
    ip
}

fn whole(bytes: &mut Bytes<'_>, at: At) -> Vec<u8> {
    let ip = ip(bytes, at);
    let (source, destination) = (bytes.pick(&PORTS), bytes.pick(&PORTS));
    let length = match bytes.next() {
        0 => 1600,
        1 => 1473,
        other => usize::from(other % 64),
    };
    let data = vec![0x5a; length];
    let body = match bytes.next() % 8 {
        0..3 => Body::Udp(source, destination, data),
        3..6 => Body::Tcp(source, destination, bytes.next() & 0x3f, data),
        6 => Body::Icmp(bytes.pick(&[8, 0, 3, 11, 13]), bytes.next() % 4, source, data),
        _ => Body::Other(bytes.pick(&[132, 47, 50, 1, 6]), data),
    };
    ipv4_of(&ip, &body)
}

/// The answer to a packet: what its receiver would send, with some flags if it is TCP.
fn turned(last: &[u8], bytes: &mut Bytes<'_>) -> Option<Vec<u8>> {
    View::new(last).filter(|view| !view.v6)?;
    let address = |at: usize| -> Option<[u8; 4]> { last.get(at..at + 4)?.try_into().ok() };
    let port =
        |at: usize| -> Option<u16> { Some(u16::from_be_bytes(last.get(at..at + 2)?.try_into().ok()?)) };
    let ip = Ip::new(address(16)?, address(12)?);
    let data = vec![0xa5; usize::from(bytes.next() % 32)];
    let body = match last.get(9)? {
        6 => Body::Tcp(port(22)?, port(20)?, bytes.next() & 0x3f, data),
        17 => Body::Udp(port(22)?, port(20)?, data),
        _ => Body::Icmp(0, 0, port(24)?, data),
    };
    Some(ipv4_of(&ip, &body))
}
