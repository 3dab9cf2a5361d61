//! BIG TCP through the core: packets longer than the length field of their IP header can say.

use std::sync::Arc;

use netd_common::{
    Addr as _, Drop, To, V4, V6, Verdict, Way,
    abi::{Config, vni},
    host::{
        Frame, Memory,
        build::{Body, Ip, Ip6, frame, frame6, internet_checksum},
        cases::{At, FAR, FAR_NODE, NEAR, NODE, OVERLAY, SERVER, UPLINK_MACS, World, run},
        ipv6::{FAR_NODE6, FAR6, FARTHER6, NEAR6, NODE6, SERVER6},
    },
    wire::{Mac, tcp},
};

const WORLD: World = World::new([11, 12, 13, 20, 30]);
const FROM_A: At = At::FromContainer(WORLD.a.ifindex);
/// What such packets are of.
const BODY: Body = Body::Tcp(50_000, 80, tcp::ACK, Vec::new());
/// Bytes of payload.
const PAYLOAD: usize = 150_000;
/// What fits the uplink, and what fits VXLAN over IPv6, with TCP's header.
const SEGMENT: u32 = 1370;

/// A packet that has so much payload besides, and says so in no length.
fn big(mut bytes: Vec<u8>, segment_size: u32) -> Frame {
    bytes.extend(vec![0xa5; PAYLOAD]);
    if bytes[12..14] == [8, 0] {
        bytes[16..18].fill(0);
        bytes[24..26].fill(0);
        let sum = internet_checksum(&[&bytes[14..34]]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        bytes[18..20].fill(0);
    }
    Frame { partial: true, segment_size, ..Frame::new(bytes) }
}

fn big4(source: [u8; 4], destination: [u8; 4]) -> Frame {
    big(frame(WORLD.a.host_mac, WORLD.a.mac, &Ip::new(source, destination), &BODY), SEGMENT)
}

/// `option`: with what the kernel puts in front of the payload up to Linux 6.18, for a jumbogram (RFC 2675).
fn big6(destination: [u8; 16], option: bool, segment_size: u32) -> Frame {
    let mut ip = Ip6::new(WORLD.a.address6(), destination);
    if option {
        let length = u32::try_from(8 + 20 + PAYLOAD).unwrap().to_be_bytes();
        ip.extensions = vec![(0, [&[0, 0, 0xc2, 4][..], &length].concat())];
    }
    big(frame6(WORLD.a.host_mac, WORLD.a.mac, &ip, &BODY), segment_size)
}

/// Runs a packet through; its verdict, and that it was counted for this way, and nothing dropped.
fn goes(tables: &Memory<V4>, at: At, packet: &mut Frame, way: Way) -> Verdict {
    let verdict = run(&WORLD, tables, at, packet);
    let drops: Vec<_> = Drop::ALL.iter().filter(|reason| tables.dropped(**reason) > 0).collect();
    assert_eq!(drops, Vec::<&Drop>::new(), "{way:?}");
    let counted = tables.ways.borrow().get(&(way as u32)).map_or(0, |counter| counter.packets);
    assert_eq!(counted, 1, "{way:?}: {tables:#?}");
    verdict
}

#[test]
fn ipv4_goes_everywhere() {
    let a = WORLD.a;
    for (destination, to, way) in [
        (WORLD.b.address, To::Peer, Way::Local),
        (a.network.gateway, To::Stack, Way::ToHost),
        (SERVER, To::Neighbour, Way::Masquerade),
        (NEAR, To::Neighbour, Way::ToNode),
        (FAR, To::Out, Way::ToNodeVxlan),
    ] {
        let mut packet = big4(a.address, destination);
        let length = packet.bytes.len();
        assert_eq!(goes(&WORLD.tables(), FROM_A, &mut packet, way).to, to, "{destination:?}");
        // No header has come or gone, and what has changed of IP's is summed up.
        assert_eq!(packet.bytes.len(), length);
        assert_eq!(internet_checksum(&[&packet.bytes[14..34]]), 0, "{destination:?}");
        assert_eq!(packet.segment_size, SEGMENT);
    }
}

#[test]
fn ipv6_goes_everywhere() {
    let a = WORLD.a;
    let gateway = a.network.gateway6();
    for option in [false, true] {
        for (destination, to, way) in [
            (WORLD.b.address6(), To::Peer, Way::Local),
            (gateway, To::Stack, Way::ToHost),
            (SERVER6, To::Neighbour, Way::Masquerade),
            (NEAR6, To::Neighbour, Way::ToNode),
            (FAR6, To::Out, Way::ToNodeVxlan),
            (FARTHER6, To::Out, Way::ToNodeVxlan),
        ] {
            let mut packet = big6(destination, option, SEGMENT);
            let length = packet.bytes.len();
            assert_eq!(goes(&WORLD.tables(), FROM_A, &mut packet, way).to, to, "{destination:?}");
            assert_eq!(packet.bytes.len(), length);
        }
    }
}

#[test]
fn replies_come_back() {
    let tables = WORLD.tables();
    goes(&tables, FROM_A, &mut big4(WORLD.a.address, SERVER), Way::Masquerade);
    let (node, router) = UPLINK_MACS;
    let body = Body::Tcp(80, 50_000, tcp::ACK, Vec::new());
    let mut reply = big(frame(node, router, &Ip::new(SERVER, NODE), &body), SEGMENT);
    assert_eq!(goes(&tables, At::FromUplink, &mut reply, Way::Reply).to, To::Peer);
    assert_eq!(reply.bytes[30..34], WORLD.a.address);
}

#[test]
fn the_kernels_device_is_told_where_to() {
    let a = WORLD.a;
    let far = V4::new(FAR_NODE).mapped();
    let far6 = V6::new(FAR_NODE6);
    let (own, own6) = (V4::new(NODE).mapped(), V6::new(NODE6));
    for (mut packet, node, own, last) in [
        (big4(a.address, FAR), far, own, FAR),
        (big6(FAR6, true, SEGMENT), far, own, FAR),
        (big6(FARTHER6, true, SEGMENT), far6, own6, [10, 88, 96, 5]),
    ] {
        let verdict = goes(&WORLD.tables(), FROM_A, &mut packet, Way::ToNodeVxlan);
        assert_eq!(verdict, Verdict { to: To::Out, ifindex: OVERLAY, via: V6::ZERO });
        assert_eq!(packet.tunnel, Some((node, own, vni(1), 0)));
        // The inner Ethernet header, as netd itself would write it.
        let macs = [&Mac::of(V4::new(last)).bytes()[..], &a.host_mac].concat();
        assert_eq!(packet.bytes[..12], macs);
    }
}

#[test]
fn what_just_fits_an_outer_header() {
    for (length, tunnelled) in [(65_485, false), (65_486, true)] {
        let mut packet = big4(WORLD.a.address, FAR);
        packet.bytes.truncate(14 + length);
        packet.bytes[16..18].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        goes(&WORLD.tables(), FROM_A, &mut packet, Way::ToNodeVxlan);
        assert_eq!(packet.tunnel.is_some(), tunnelled, "{length}");
    }
}

#[test]
fn without_the_kernels_device_it_is_too_big() {
    let mut tables = WORLD.tables();
    let config = Config { overlay: 0, ..**tables.config.as_ref().expect("the world has a node") };
    tables.config = Some(Arc::new(config));
    assert_eq!(run(&WORLD, &tables, FROM_A, &mut big4(WORLD.a.address, FAR)).to, To::Drop);
    assert_eq!(tables.dropped(Drop::TooBig), 1);
}

/// Segments are larger than the way's MTU: the sender is told, and finds its connection in what is quoted.
#[test]
fn segments_that_do_not_fit() {
    let a = WORLD.a;
    // 40 bytes of headers.
    for (segment, fits) in [(1460, true), (1461, false)] {
        let mut packet = big4(a.address, SERVER);
        packet.segment_size = segment;
        let way = if fits { Way::Masquerade } else { Way::TooBigSent };
        goes(&WORLD.tables(), FROM_A, &mut packet, way);
    }
    // 60 bytes; the jumbo payload option is in none of the segments.
    for option in [false, true] {
        for (destination, segment, mtu) in
            [(SERVER6, 1440, None), (SERVER6, 1441, Some(1500)), (FAR6, 1390, None), (FAR6, 1391, Some(1450))]
        {
            let mut packet = big6(destination, option, segment);
            let sent = packet.bytes.clone();
            let Some(mtu) = mtu else {
                let way = if destination == FAR6 { Way::ToNodeVxlan } else { Way::Masquerade };
                goes(&WORLD.tables(), FROM_A, &mut packet, way);
                continue;
            };
            goes(&WORLD.tables(), FROM_A, &mut packet, Way::TooBigSent);
            let l4 = sent.len() - PAYLOAD - 20;
            let mut quote = [&sent[14..54], &sent[l4..l4 + 8]].concat();
            quote[6] = 6;
            let gateway = a.network.gateway6();
            let ip = Ip6::new(gateway, a.address6());
            let error = Body::Icmp6(2, 0, mtu, quote);
            assert_eq!(packet.bytes, frame6(a.mac, a.host_mac, &ip, &error));
        }
    }
}

/// A length of zero stands for more than 64 KiB, and for nothing else.
#[test]
fn a_length_of_zero_in_a_small_packet() {
    let tables = WORLD.tables();
    let mut packet = big4(WORLD.a.address, WORLD.b.address);
    packet.bytes.truncate(1000);
    assert_eq!(run(&WORLD, &tables, FROM_A, &mut packet).to, To::Drop);
    assert_eq!(tables.dropped(Drop::Malformed), 1);
}
