//! A container may send any bytes. Whatever they are, nothing panics, nothing is read or written out of bounds, and what
//! goes on is the container's own.

use netd_common::{
    Addr as _, Packet, To, V6,
    host::{
        Frame,
        build::{Body, Ip, frame},
        cases::{At, NEAR, NODE, OTHER, SERVER, UPLINK_MACS, World, cases, run},
        ipv6::{NEAR6, NODE6},
    },
    wire::protocol,
};
use proptest::prelude::*;

const WORLD: World = World::new([11, 12, 13, 20, 30]);

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let tables = WORLD.tables();
        for at in [At::FromContainer(WORLD.a.ifindex), At::FromUplink, At::ToContainer(WORLD.a.ifindex, 0)] {
            let mut frame = Frame::new(bytes.clone());
            run(&WORLD, &tables, at, &mut frame);
            prop_assert_eq!(frame.bytes.len(), bytes.len());
        }
    }

    #[test]
    fn damaged_packets_in_a_row(packets in prop::collection::vec(damaged(), 1..6)) {
        let tables = WORLD.tables();
        for (at, bytes) in packets {
            let mut packet = Frame::new(bytes.clone());
            let verdict = run(&WORLD, &tables, at, &mut packet);
            match (at, verdict.to) {
                (_, To::Drop | To::Stack) => prop_assert_eq!(&packet.bytes, &bytes, "dropped or passed, yet changed"),
                (At::FromContainer(ifindex), to) => {
                    let own = [WORLD.a, WORLD.b, WORLD.c].into_iter().find(|member| member.ifindex == ifindex).unwrap();
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
                        match packet.bytes[12..14] {
                            [8, 0] => prop_assert_eq!(&packet.bytes[26..30], &NODE, "an inner address on the uplink"),
                            _ => prop_assert_eq!(&packet.bytes[22..38], &NODE6, "an inner address on the uplink"),
                        }
                    }
                }
                (At::FromUplink, _) if bytes[12..14] == [8, 0] => {
                    let near = bytes[26..29] == NEAR[..3] && bytes[30..34] != NODE;
                    // The host's other address has published ports only.
                    let host = bytes[30..34] == NODE || bytes[30..34] == OTHER;
                    prop_assert!(near || host, "taken, though it is for another address");
                }
                (At::FromUplink, _) => {
                    let near = bytes[22..37] == NEAR6[..15] && bytes[38..54] != NODE6;
                    prop_assert!(near || bytes[38..54] == NODE6, "taken, though it is for another address");
                }
                (At::ToContainer(..) | At::FromOverlay(..), _) => {}
            }
            prop_assert_eq!(packet.get::<u8>(packet.bytes.len() as u32), None);
        }
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
