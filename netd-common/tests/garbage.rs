//! A container may send any bytes. Whatever they are, nothing panics, nothing is read or written out of bounds, and what
//! goes on is the container's own.

use std::collections::BTreeMap;

use netd_common::{
    Addr as _, Drop, Packet, To, V4, V6,
    abi::{Counter, Denied},
    host::{
        Frame, Memory,
        build::{Body, Ip, frame},
        cases::{At, FAR_NODE, Member, NEAR, NEAR_NODE, NODE, OTHER, SERVER, UPLINK_MACS, World, cases, run},
        ipv6::{NEAR6, NODE6, OTHER6},
    },
    wire::protocol,
    xdp_uplink,
};
use proptest::prelude::*;

const WORLD: World = World::new([11, 12, 13, 20, 30]);
/// The node's addresses: ports are published at any of them.
const HOST: [[u8; 4]; 2] = [NODE, OTHER];
const HOST6: [[u8; 16]; 2] = [NODE6, OTHER6];

/// Frames of the table, any of its bytes changed, cut or made longer: near enough to sense to get far.
fn damaged() -> impl Strategy<Value = (At, Vec<u8>)> {
    let steps: Vec<_> = cases(&WORLD).into_iter().flat_map(|case| case.steps).collect();
    (
        prop::sample::select(steps),
        prop::collection::vec((0usize..80, any::<u8>()), 0..4),
        prop::option::of(0usize..80),
        prop::collection::vec(any::<u8>(), 0..8),
    )
        .prop_map(|(step, changes, cut, tail)| {
            let mut bytes = step.frame;
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            if let Some(cut) = cut {
                bytes.truncate(cut);
            }
            bytes.extend(tail);
            (step.at, bytes)
        })
}

/// Any bytes; of some, the beginning makes sense: MACs as they are on some link, and a type that is looked at.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let (a, (node, router)) = (WORLD.a, UPLINK_MACS);
    let macs = prop::sample::select(vec![[a.host_mac, a.mac], [node, router], [a.mac, a.host_mac]]);
    let kind = prop::sample::select(vec![[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]]);
    let first = prop::sample::select(vec![0x45, 0x46, 0x4f, 0x60]);
    let begun = (macs, kind, first, prop::collection::vec(any::<u8>(), 0..100))
        .prop_map(|(macs, kind, first, rest)| [&macs.concat()[..], &kind, &[first], &rest].concat());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..120), begun]
}

/// All places where a packet may come.
fn places() -> Vec<At> {
    let members = [WORLD.a, WORLD.b, WORLD.c];
    let mut all = vec![At::FromUplink, At::FromContainer(WORLD.stranger)];
    for member in members {
        all.push(At::FromContainer(member.ifindex));
        all.extend([0, WORLD.uplink].map(|from| At::ToContainer(member.ifindex, from)));
    }
    for node in [FAR_NODE, NEAR_NODE, SERVER] {
        all.extend([1, 2, 9].map(|network| At::FromOverlay(node, 0x6e_0000 + network)));
    }
    all
}

/// The container that an address in a frame is of, that at `at` in IPv4 and `at6` in IPv6.
fn member_at(frame: &[u8], at: usize, at6: usize) -> Option<Member> {
    [WORLD.a, WORLD.b, WORLD.c].into_iter().find(|member| match frame[12..14] {
        [8, 0] => frame[at..at + 4] == member.address,
        _ => frame[at6..at6 + 16] == member.address6(),
    })
}

/// How many packets have gone some way, and how many were dropped.
fn counted(tables: &Memory<V4>) -> (u64, u64) {
    let sum = |counters: &BTreeMap<u32, Counter>| counters.values().map(|counter| counter.packets).sum();
    (sum(&tables.ways.borrow()), sum(&tables.drops.borrow()))
}

/// Runs a packet, and looks at what must hold whatever it is.
fn hold(tables: &Memory<V4>, at: At, bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut packet = Frame::new(bytes);
    let before = counted(tables);
    let verdict = run(&WORLD, tables, at, &mut packet);
    let after = counted(tables);
    let (went, dropped) = (after.0 - before.0, after.1 - before.1);
    match verdict.to {
        To::Drop => prop_assert_eq!((went, dropped), (0, 1), "a drop is counted once"),
        // Who is told why counts twice.
        To::Stack => prop_assert!(went <= 1 && dropped == 0, "passed, but counted: {went} {dropped}"),
        _ => prop_assert!(went == 1 && dropped <= 1, "sent on, but counted: {went} {dropped}"),
    }
    match (at, verdict.to) {
        (_, To::Drop | To::Stack) => {
            prop_assert_eq!(&packet.bytes, bytes, "dropped or passed, yet changed");
            if let At::ToContainer(ifindex, from) = at {
                let to = [WORLD.a, WORLD.b, WORLD.c].into_iter().find(|member| member.ifindex == ifindex);
                let is_ip = matches!(bytes.get(12..14), Some([8, 0] | [0x86, 0xdd]));
                let refused = to.is_none_or(|to| is_ip && to.network.masquerade && from != 0);
                prop_assert_eq!(
                    verdict.to == To::Drop,
                    refused,
                    "behind the masquerade, only the host gets in"
                );
            }
        }
        (At::ToContainer(..), to) => prop_assert!(false, "sent elsewhere: {to:?}"),
        (At::FromOverlay(node, vni), to) => {
            prop_assert_eq!(to, To::Peer);
            prop_assert_eq!(&packet.bytes[12..], &bytes[12..], "what is decapsulated stays as it is");
            let to = member_at(bytes, 30, 38);
            let to = to.ok_or_else(|| TestCaseError::fail("to nobody here"))?;
            prop_assert_eq!(verdict.ifindex, to.ifindex, "not to whom it is addressed");
            prop_assert_eq!(&packet.bytes[..6], &to.mac);
            prop_assert_eq!(vni, 0x6e_0000 + to.network.number, "into another network");
            prop_assert_ne!(node, SERVER, "from no node");
        }
        (At::FromContainer(ifindex), to) => {
            let own = [WORLD.a, WORLD.b, WORLD.c].into_iter().find(|member| member.ifindex == ifindex);
            let own = own.ok_or_else(|| TestCaseError::fail("from nobody"))?;
            prop_assert_eq!(&bytes[6..12], &own.mac, "another's MAC got through");
            let v6 = bytes[12..14] == [0x86, 0xdd];
            let asks = v6 && bytes[20] == 58 && bytes[54] == 135;
            if bytes[12..14] == [8, 0] {
                prop_assert_eq!(&bytes[26..30], &own.address, "another's address got through");
            } else if v6 && !asks {
                prop_assert_eq!(&bytes[22..38], &own.address6(), "another's address got through");
            }
            // By a next hop of its own: to another node, untranslated.
            if to == To::Neighbour && own.network.masquerade && verdict.via == V6::ZERO {
                let is_host = match packet.bytes[12..14] {
                    [8, 0] => HOST.iter().any(|host| packet.bytes[26..30] == *host),
                    _ => HOST6.iter().any(|host| packet.bytes[22..38] == *host),
                };
                prop_assert!(is_host, "an inner address on the uplink");
            }
        }
        (At::FromUplink, _) if bytes[12..14] == [8, 0] => {
            let is_host = HOST.iter().any(|host| bytes[30..34] == *host);
            prop_assert!(is_host || bytes[26..29] == NEAR[..3], "taken, though it is for another address");
        }
        (At::FromUplink, _) => {
            let is_host = HOST6.iter().any(|host| bytes[38..54] == *host);
            prop_assert!(is_host || bytes[22..37] == NEAR6[..15], "taken, though it is for another address");
        }
    }
    prop_assert_eq!(packet.get::<u8>(packet.bytes.len() as u32), None);
    tables.consistent().map_err(TestCaseError::fail)
}

/// The same for what an uplink's driver sees first. `denied`: the first byte of the sources that are denied.
fn hold_at_driver(bytes: &[u8], denied: u8) -> Result<(), TestCaseError> {
    let mut tables = WORLD.tables();
    tables.denied4 = vec![(V4::new([denied, 0, 0, 0]), V4::new([255, 0, 0, 0]), Denied { slot: 3 })];
    let frame = Frame::new(bytes);
    let passes = xdp_uplink(&frame, &tables);
    prop_assert_eq!(counted(&tables), (0, u64::from(!passes)), "a drop is counted once, and nothing else");
    prop_assert_eq!(&frame.bytes, bytes);
    let by_list = tables.denied.borrow().values().sum::<u64>();
    prop_assert_eq!(by_list, tables.dropped(Drop::Denied), "not counted where it is listed");
    let is_denied = bytes.len() >= 34 && bytes[12..14] == [8, 0] && bytes[26] == denied;
    prop_assert!(!(is_denied && passes), "who is denied gets in");
    if bytes.len() >= 14 && !matches!(bytes[12..14], [8 | 0x81, 0] | [0x86, 0xdd] | [0x88, 0xa8]) {
        prop_assert!(passes, "what is no IP is the host's");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in noise()) {
        let tables = WORLD.tables();
        for at in places() {
            hold(&tables, at, &bytes)?;
        }
    }

    #[test]
    fn damaged_packets_in_a_row(packets in prop::collection::vec(damaged(), 1..6)) {
        let tables = WORLD.tables();
        for (at, bytes) in packets {
            hold(&tables, at, &bytes)?;
        }
    }

    /// A packet that comes elsewhere than it was made for.
    #[test]
    fn damaged_packets_everywhere((_, bytes) in damaged(), at in prop::sample::select(places())) {
        hold(&WORLD.tables(), at, &bytes)?;
    }

    #[test]
    fn any_bytes_before_the_kernel(bytes in prop_oneof![noise(), damaged().prop_map(|(_, bytes)| bytes)], denied in any::<u8>()) {
        hold_at_driver(&bytes, denied)?;
    }

    /// From the uplink: only an answer to a flow gets in.
    #[test]
    fn nobody_gets_in_uninvited(
        source in any::<[u8; 4]>(), destination in prop::sample::select(vec![NODE, WORLD.a.address, SERVER]),
        ports in any::<(u16, u16)>(), flags in any::<u8>(), kind in 0u8..4,
    ) {
        let tables = WORLD.tables();
        let published = |tcp: bool| WORLD.ports().iter().any(|port| (port.protocol == protocol::TCP) == tcp && port.host_port == ports.1);
        prop_assume!(!(kind < 2 && published(kind == 1)));
        let body = match kind {
            0 => Body::Udp(ports.0, ports.1, vec![1]),
            1 => Body::Tcp(ports.0, ports.1, flags, vec![]),
            2 => Body::Icmp(flags, 0, ports.0, vec![]),
            _ => Body::Other(flags, vec![0; 20]),
        };
        let (node, router) = UPLINK_MACS;
        let mut packet = Frame::new(frame(node, router, &Ip::new(source, destination), &body));
        prop_assert_eq!(run(&WORLD, &tables, At::FromUplink, &mut packet).to, To::Stack);
        prop_assert!(tables.flows.borrow().is_empty());
    }
}
