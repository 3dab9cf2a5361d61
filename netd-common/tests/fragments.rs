//! What is remembered of fragments: for whom, for how long, and at whose expense.

use netd_common::{
    To, V4, Way,
    abi::FragmentRing,
    fragment::TIMEOUT,
    host::{
        Frame, Memory,
        build::{Body, Ip, Ip6, ethernet, fragments, fragments6, ipv4_of, ipv6_of},
        cases::{At, Member, NODE, SERVER, UPLINK_MACS, World, run},
        ipv6::NODE6,
    },
};

const WORLD: World = World::new([11, 12, 13, 20, 30]);

/// Both fragments of a datagram: the first has the ports, the other has none.
fn pair(source: [u8; 4], destination: [u8; 4], ports: (u16, u16), id: u16) -> [Vec<u8>; 2] {
    let ip = Ip { id, ..Ip::new(source, destination) };
    let pieces = fragments(&ipv4_of(&ip, &Body::Udp(ports.0, ports.1, vec![7; 100])), 64);
    pieces.try_into().expect("two fragments")
}

/// Sends a fragment of a container's; the identification that it leaves with, if it does.
fn out(tables: &Memory<V4>, from: Member, piece: &[u8]) -> Option<u16> {
    let mut frame = Frame::new(ethernet(from.host_mac, from.mac, 0x0800, piece));
    let verdict = run(&WORLD, tables, At::FromContainer(from.ifindex), &mut frame);
    (verdict.to == To::Neighbour).then(|| u16::from_be_bytes([frame.bytes[18], frame.bytes[19]]))
}

/// Sends a fragment from the world; the interface of whom it gets to.
fn back(tables: &Memory<V4>, piece: &[u8]) -> Option<u32> {
    let (node, router) = UPLINK_MACS;
    let mut frame = Frame::new(ethernet(node, router, 0x0800, piece));
    let verdict = run(&WORLD, tables, At::FromUplink, &mut frame);
    (verdict.to == To::Peer).then_some(verdict.ifindex)
}

#[test]
fn an_endpoints_oldest_makes_room_for_its_newest() {
    let tables = WORLD.tables();
    let (a, b) = (WORLD.a, WORLD.b);
    let of = |member: Member, id| pair(member.address, SERVER, (50_000, 53), id);
    let first = out(&tables, b, &of(b, 1)[0]);
    let count = FragmentRing::PLACES as u16;
    for id in 0..count {
        assert!(out(&tables, a, &of(a, id)[0]).is_some());
    }
    assert!((0..count).all(|id| out(&tables, a, &of(a, id)[1]).is_some()), "all are followed");
    // One more: the oldest goes, and nothing else, not a neighbour's either.
    assert!(out(&tables, a, &of(a, count)[0]).is_some());
    assert_eq!(out(&tables, a, &of(a, 0)[1]), None);
    assert!((1..=count).all(|id| out(&tables, a, &of(a, id)[1]).is_some()), "a newer one went");
    // However many there are.
    for id in 0..10_000 {
        assert!(out(&tables, a, &of(a, id)[0]).is_some());
    }
    assert_eq!(out(&tables, b, &of(b, 1)[1]), first, "a neighbour's went");
    assert_eq!(tables.fragments.borrow().len(), usize::from(count) + 1);
}

#[test]
fn fragments_are_followed_for_a_while() {
    let tables = WORLD.tables();
    let a = WORLD.a;
    let [first, later] = pair(a.address, SERVER, (50_000, 53), 9);
    let id = out(&tables, a, &first);
    assert_eq!(out(&tables, a, &first), id, "sent twice, it is the same packet");
    tables.time.set(TIMEOUT);
    assert_eq!(out(&tables, a, &later), id);
    tables.time.set(TIMEOUT + 1);
    assert_eq!(out(&tables, a, &later), None);
    // Used again, the identification is another packet's.
    let again = out(&tables, a, &first);
    assert_ne!(again, id);
    assert_eq!(out(&tables, a, &later), again);
    assert_eq!(tables.fragments.borrow().len(), 1);
}

#[test]
fn later_fragments_follow_whom_the_first_one_went_to() {
    let tables = WORLD.tables();
    for (member, port) in [(WORLD.a, 50_000), (WORLD.b, 50_001)] {
        assert!(out(&tables, member, &pair(member.address, SERVER, (port, 53), 1)[0]).is_some());
    }
    // One server, one identification, one packet after the other.
    for (member, port) in [(WORLD.a, 50_000), (WORLD.b, 50_001), (WORLD.a, 50_000)] {
        let [first, later] = pair(SERVER, NODE, (53, port), 5);
        assert_eq!(back(&tables, &first), Some(member.ifindex));
        assert_eq!(back(&tables, &later), Some(member.ifindex));
    }
    // The same one again, of a packet for the host itself, in netd's range and out of it.
    for port in [50_003, 40_000] {
        let [first, later] = pair(SERVER, NODE, (53, port), 5);
        assert_eq!(back(&tables, &pair(SERVER, NODE, (53, 50_000), 5)[0]), Some(WORLD.a.ifindex));
        assert_eq!((back(&tables, &first), back(&tables, &later)), (None, None));
    }
    // Of another server or another packet, nothing is known.
    assert_eq!(back(&tables, &pair([198, 51, 100, 8], NODE, (53, 50_000), 5)[1]), None);
    assert_eq!(back(&tables, &pair(SERVER, NODE, (53, 50_000), 6)[1]), None);
    assert_eq!(tables.went(Way::Reply), 8);
}

/// Sends a fragment of b's to a published port; as it reaches a.
fn across(tables: &Memory<V4>, ethertype: u16, piece: &[u8]) -> Vec<u8> {
    let mut frame = Frame::new(ethernet(WORLD.b.host_mac, WORLD.b.mac, ethertype, piece));
    let verdict = run(&WORLD, tables, At::FromContainer(WORLD.b.ifindex), &mut frame);
    assert_eq!((verdict.to, verdict.ifindex), (To::Peer, WORLD.a.ifindex));
    frame.bytes[14..].to_vec()
}

/// Sends a fragment from the world.
fn outside(tables: &Memory<V4>, ethertype: u16, piece: &[u8]) -> To {
    let (node, router) = UPLINK_MACS;
    let mut frame = Frame::new(ethernet(node, router, ethertype, piece));
    let verdict = run(&WORLD, tables, At::FromUplink, &mut frame);
    assert_eq!(frame.bytes[14..], *piece, "changed");
    verdict.to
}

#[test]
fn who_says_from_outside_that_it_is_the_host_adds_no_fragment_to_a_containers() {
    let tables = WORLD.tables();
    let body = Body::Udp(50_000, 5353, vec![7; 100]);
    let pieces = fragments(&ipv4_of(&Ip::new(WORLD.b.address, NODE), &body), 64);
    let got = across(&tables, 0x0800, &pieces[0]);
    let forged = Ip { id: u16::from_be_bytes([got[4], got[5]]), ..Ip::new(NODE, NODE) };
    let forged = fragments(&ipv4_of(&forged, &body), 64);
    assert_eq!(outside(&tables, 0x0800, &forged[1]), To::Stack);
    across(&tables, 0x0800, &pieces[1]);

    let pieces = fragments6(&ipv6_of(&Ip6::new(WORLD.b.address6(), NODE6), &body), 1, 64);
    let got = across(&tables, 0x86dd, &pieces[0]);
    let id = u32::from_be_bytes([got[44], got[45], got[46], got[47]]);
    let forged = fragments6(&ipv6_of(&Ip6::new(NODE6, NODE6), &body), id, 64);
    assert_eq!(outside(&tables, 0x86dd, &forged[1]), To::Stack);
    across(&tables, 0x86dd, &pieces[1]);
}
