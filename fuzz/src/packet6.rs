//! IPv6 packets of a story.

use netd_common::{
    host::{
        build::{Body, Ip6, ipv6_of},
        cases::At,
        ipv6::{FAR_NODE6, FAR6, FARTHER6, NEAR_NODE6, NEAR6, NODE6, OTHER6, SERVER6, address},
    },
    wire::protocol,
};

use crate::{WORLD, bytes::Bytes, member, packet::PORTS, view::View};

/// Addresses that mean something.
const ADDRESSES: [[u8; 16]; 16] = [
    SERVER6,
    WORLD.a.address6(),
    WORLD.b.address6(),
    WORLD.c.address6(),
    NODE6,
    NEAR6,
    FAR6,
    FARTHER6,
    NEAR_NODE6,
    FAR_NODE6,
    WORLD.a.network.gateway6(),
    address([0xfd88, 0, 0, 0, 0, 0, 0, 0x99]),
    address([0xff02, 0, 0, 0, 0, 0, 0, 1]),
    address([0xfe80, 0, 0, 0, 0, 0, 0, 1]),
    address([0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1]),
    [0; 16],
];

/// The next packet, for a program; `last` is the last that went anywhere.
pub(crate) fn make(bytes: &mut Bytes<'_>, at: At, last: &[u8]) -> Vec<u8> {
    match bytes.next() % 8 {
        0 | 1 => turned(last, bytes).unwrap_or_else(|| whole(bytes, at)),
        2 | 3 => {
            let quote = match bytes.next() {
                choice if choice.is_multiple_of(2) => turned(last, bytes).unwrap_or_default(),
                224.. => last.to_vec(),
                _ => whole(bytes, At::FromUplink),
            };
            let quote = &quote[..quote.len().min(usize::from(bytes.next() % 128))];
            let (kind, code) = (bytes.pick(&[1, 2, 3, 4, 137]), bytes.next() % 8);
            let body = Body::Icmp6(kind, code, u32::from(bytes.word()), quote.to_vec());
            ipv6_of(&ip(bytes, at), &body)
        }
        4 => {
            // A neighbour solicitation (RFC 4861 section 4.3).
            let target = bytes.pick(&ADDRESSES);
            let mut ip = ip(bytes, at);
            let choice = bytes.next();
            ip.hops = if choice % 4 == 3 { 64 } else { 255 };
            if choice & 0x40 != 0 {
                ip.destination = address([0xff02, 0, 0, 0, 0, 1, 0xff00, 0]);
                ip.destination[13..].copy_from_slice(&target[13..]);
            }
            let option = [1, bytes.next() % 3, 2, 0x6e, 10, 88, 0, 2];
            ipv6_of(&ip, &Body::Icmp6(135, bytes.next() / 200, 0, [&target[..], &option].concat()))
        }
        _ => whole(bytes, at),
    }
}

/// Addresses, and what else varies in the headers.
fn ip(bytes: &mut Bytes<'_>, at: At) -> Ip6 {
    let own = match at {
        At::FromContainer(ifindex) => member(ifindex).map(|member| member.address6()),
        _ => None,
    };
    let source = own.filter(|_| bytes.next() < 240).unwrap_or_else(|| bytes.pick(&ADDRESSES));
    let mut ip = Ip6::new(source, bytes.pick(&ADDRESSES));
    match bytes.next() {
        0..8 => ip.hops = bytes.next() % 3,
        8..40 => ip.extensions = vec![fragment(bytes)],
        40..64 => {
            for _ in 0..bytes.next() % 4 {
                let words = usize::from(bytes.next() % 3);
                let kind = bytes.pick(&[0, 60, 43, 60]);
                ip.extensions.push((kind, [&[0, words as u8, 1, 4][..], &vec![0; 4 + words * 8]].concat()));
            }
            if bytes.next().is_multiple_of(2) {
                ip.extensions.push(fragment(bytes));
            }
        }
        // Not among the addresses: in the stories of the corpus, these are to stay what they are.
        240.. => ip.destination = OTHER6,
        _ => {}
    }
    ip
}

/// A fragment header: offset and whether more follow, and one of few identifications.
fn fragment(bytes: &mut Bytes<'_>) -> (u8, Vec<u8>) {
    let field: u16 = bytes.pick(&[1, 1, 0, 8, 9, 16, 1480, 0xfff8]);
    let [high, low] = field.to_be_bytes();
    (protocol::FRAGMENT, vec![0, 0, high, low, 0, 0, 0, bytes.next() % 4])
}

fn whole(bytes: &mut Bytes<'_>, at: At) -> Vec<u8> {
    let ip = ip(bytes, at);
    let (source, mut destination) = (bytes.pick(&PORTS), bytes.pick(&PORTS));
    let length = match bytes.next() {
        0 => 1600,
        1 => 1453,
        // Likewise: published at one address alone, and for the routed container.
        other @ 248.. => {
            destination = if other % 2 == 0 { 6060 } else { 8088 };
            16
        }
        other => usize::from(other % 64),
    };
    let data = vec![0x5a; length];
    let body = match bytes.next() % 8 {
        0..3 => Body::Udp(source, destination, data),
        3..6 => Body::Tcp(source, destination, bytes.next() & 0x3f, data),
        6 => Body::Icmp(bytes.pick(&[128, 129, 1, 3, 133, 143]), bytes.next() % 4, source, data),
        _ => Body::Other(bytes.pick(&[132, 47, 50, 58, 6, 59]), data),
    };
    ipv6_of(&ip, &body)
}

/// The answer to a packet: what its receiver would send, with some flags if it is TCP.
fn turned(last: &[u8], bytes: &mut Bytes<'_>) -> Option<Vec<u8>> {
    let view = View::new(last).filter(|view| view.v6 && !view.later)?;
    let half = |at: usize| Some(u16::from_be_bytes(view.l4.get(at..at + 2)?.try_into().ok()?));
    let ip = Ip6::new(view.destination.bytes(), view.source.bytes());
    let data = vec![0xa5; usize::from(bytes.next() % 32)];
    let body = match view.protocol {
        protocol::TCP => Body::Tcp(half(2)?, half(0)?, bytes.next() & 0x3f, data),
        protocol::UDP => Body::Udp(half(2)?, half(0)?, data),
        _ => Body::Icmp(129, 0, half(4)?, data),
    };
    Some(ipv6_of(&ip, &body))
}
