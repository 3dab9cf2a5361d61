//! What leaves is what a sender of the translated packet would have sent: every checksum equals that computed from scratch,
//! by other code than ours.

use etherparse::{Ipv4HeaderSlice, NetSlice, SlicedPacket, TransportSlice, checksum::u32_16bit_word};
use netd_common::{
    Packet, To, V4,
    checksum::{add, diff, fold, update},
    host::{
        Frame, Memory,
        build::{Body, Ip, frame, internet_checksum},
        cases::{At, NODE, UPLINK_MACS, World, run},
    },
};
use proptest::prelude::*;

const WORLD: World = World::new([11, 12, 13, 20, 30]);

/// Panics unless all checksums of the packet are right. A UDP checksum of zero is right: there is none.
fn assert_checksums(bytes: &[u8]) {
    let packet = SlicedPacket::from_ethernet(bytes).expect("a packet that parses");
    let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("no IPv4 packet") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "header checksum");
    match packet.transport.expect("a transport header") {
        TransportSlice::Udp(udp) if udp.checksum() == 0 => {}
        TransportSlice::Udp(udp) => assert_eq!(
            udp.checksum(),
            udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("a UDP length"),
            "UDP checksum"
        ),
        TransportSlice::Tcp(tcp) => assert_eq!(
            tcp.checksum(),
            tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).expect("a TCP length"),
            "TCP checksum"
        ),
        TransportSlice::Icmpv4(icmp) => assert_eq!(internet_checksum(&[icmp.slice()]), 0, "ICMP checksum"),
        other => panic!("unexpected transport: {other:?}"),
    }
}

fn address_of(bytes: &[u8]) -> ([u8; 4], [u8; 4]) {
    let ip = Ipv4HeaderSlice::from_slice(&bytes[14..]).expect("an IPv4 header");
    (ip.source(), ip.destination())
}

fn bodies() -> impl Strategy<Value = Body> {
    let payload = || prop::collection::vec(any::<u8>(), 0..64);
    prop_oneof![
        (any::<u16>(), any::<u16>(), payload()).prop_map(|(s, d, p)| Body::Udp(s, d, p)),
        (any::<u16>(), any::<u16>(), payload()).prop_map(|(s, d, p)| Body::UdpUnchecked(s, d, p)),
        (any::<u16>(), any::<u16>(), any::<u8>(), payload()).prop_map(|(s, d, f, p)| Body::Tcp(s, d, f, p)),
        (any::<u16>(), payload()).prop_map(|(id, p)| Body::Icmp(8, 0, id, p)),
    ]
}

/// The answer to a packet as the world sees it.
fn answer(sent: &[u8], payload: &[u8], options: &[u8]) -> Vec<u8> {
    let (source, destination) = address_of(sent);
    let packet = SlicedPacket::from_ethernet(sent).expect("a packet that parses");
    let body = match packet.transport.expect("a transport header") {
        TransportSlice::Udp(udp) => Body::Udp(udp.destination_port(), udp.source_port(), payload.to_vec()),
        TransportSlice::Tcp(tcp) => {
            Body::Tcp(tcp.destination_port(), tcp.source_port(), 0x12, payload.to_vec())
        }
        TransportSlice::Icmpv4(icmp) => {
            let id = u16::from_be_bytes([icmp.bytes5to8()[0], icmp.bytes5to8()[1]]);
            Body::Icmp(0, 0, id, payload.to_vec())
        }
        other => panic!("unexpected transport: {other:?}"),
    };
    let (node, router) = UPLINK_MACS;
    frame(node, router, &Ip { options: options.to_vec(), ..Ip::new(destination, source) }, &body)
}

fn forward(tables: &Memory<V4>, at: At, bytes: &[u8], to: To) -> Vec<u8> {
    let mut packet = Frame::new(bytes.to_vec());
    assert_eq!(run(&WORLD, tables, at, &mut packet).to, to, "{:?}", tables.drops);
    packet.bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_a_packet_and_its_answer(
        body in bodies(), ttl in 2u8.., words in 0usize..10, back in 0usize..10,
        payload in prop::collection::vec(any::<u8>(), 0..64), seed in 1u64..,
    ) {
        let tables = WORLD.tables();
        tables.seed.set(seed);
        let a = WORLD.a;
        let ip = Ip { ttl, options: vec![1; words * 4], ..Ip::new(a.address, [203, 0, 113, 5]) };
        let at = At::FromContainer(a.ifindex);
        let sent = forward(&tables, at, &frame(a.host_mac, a.mac, &ip, &body), To::Neighbour);
        assert_checksums(&sent);
        prop_assert_eq!(address_of(&sent), (NODE, [203, 0, 113, 5]));
        let reply = answer(&sent, &payload, &vec![1; back * 4]);
        let got = forward(&tables, At::FromUplink, &reply, To::Peer);
        assert_checksums(&got);
        prop_assert_eq!(address_of(&got), ([203, 0, 113, 5], a.address));
    }

    /// Left to the device: the field is the pseudo-header's sum, and becomes that of the new addresses; ports are not in it.
    #[test]
    fn of_an_offloaded_packet(source in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..64)) {
        let tables = WORLD.tables();
        let a = WORLD.a;
        let server = [203, 0, 113, 5];
        let pseudo = |address: [u8; 4], length: usize| {
            let tail = [0, 6, (length >> 8) as u8, length as u8];
            !internet_checksum(&[&address, &server, &tail])
        };
        let mut bytes = frame(a.host_mac, a.mac, &Ip::new(a.address, server), &Body::Tcp(source, 80, 2, payload));
        let length = bytes.len() - 34;
        bytes[50..52].copy_from_slice(&pseudo(a.address, length).to_be_bytes());
        let mut packet = Frame { partial: true, ..Frame::new(bytes) };
        prop_assert_eq!(run(&WORLD, &tables, At::FromContainer(a.ifindex), &mut packet).to, To::Neighbour);
        let field = u16::from_be_bytes(packet.get::<[u8; 2]>(50).unwrap());
        let expected = pseudo(NODE, length);
        // Zero has two representations in one's complement.
        prop_assert_eq!(u32::from(field) % 0xffff, u32::from(expected) % 0xffff);
    }

    #[test]
    fn by_difference_and_from_scratch(old in any::<[u16; 8]>(), at in 0usize..8, new in any::<u16>()) {
        let sum = |words: &[u16; 8]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            u16::from_ne_bytes(internet_checksum(&[&bytes]).to_be_bytes())
        };
        let mut words = old;
        words[at] = new;
        let updated = update(sum(&old), diff(u32::from(old[at]), u32::from(new)));
        // ~0 and 0 are the same sum; a sum over data that is not all zero is never reported as ~0 by the plain way.
        prop_assert_eq!(u32::from(!updated) % 0xffff, u32::from(!sum(&words)) % 0xffff);
    }

    #[test]
    fn sums_fold(a in any::<u32>(), b in any::<u32>()) {
        let expected = u32_16bit_word::ones_complement(u32_16bit_word::add_4bytes(
            u32_16bit_word::add_4bytes(0, a.to_ne_bytes()), b.to_ne_bytes(),
        ));
        prop_assert_eq!(u32::from(!fold(add(a, b))) % 0xffff, u32::from(expected) % 0xffff);
        prop_assert_eq!(fold(diff(a, a)) % 0xffff, 0);
    }
}
