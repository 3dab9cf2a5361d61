//! Published ports against what must hold of them, whatever happens in whatever order: packets from outside and from containers,
//! answers, ports that change hands, clean-up. For both families: the code is one.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use netd_common::{
    Addr, Common as _, Drop, Tables, V4, V6,
    abi::{Config, Flow, Port, PortKey, Tuple},
    flow::{Ticks, When},
    hairpin::{self, Rewrite},
    host::Memory,
    nat::{self, Mapping},
    published::{self, NOT_OURS},
    wire::{Be16, protocol, tcp},
};
use proptest::prelude::*;

const FIRST: u16 = 60_000;
const PORTS: u16 = 4;
const QUOTA: u32 = 7;
const HOST: u8 = 200;

/// Addresses of a family.
trait Family: Addr + Hash + Debug {
    fn numbered(number: u8) -> Self;
}

impl Family for V4 {
    fn numbered(number: u8) -> Self {
        Self::new([10, 0, 0, number])
    }
}

impl Family for V6 {
    fn numbered(number: u8) -> Self {
        Self([0xfd, 0, 7, u32::from(number)])
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A client outside (100 and up) sends from a port to one of the host's.
    In { client: u8, port: u16, to: u16, udp: bool, flags: u8 },
    /// A container sends from a port to one of the host's.
    Across { from: u8, port: u16, to: u16, udp: bool, flags: u8 },
    /// A container sends by masquerade, from what may be a published port of its.
    Out { from: u8, port: u16, client: u8, client_port: u16, udp: bool },
    /// A port of the host's becomes a container's, at one address or any.
    Publish { to: u16, udp: bool, exact: bool, whose: u8, port: u16 },
    /// Or nobody's.
    Unpublish { to: u16, udp: bool, exact: bool },
    /// Time passes.
    Wait(Ticks),
    /// The daemon cleans up.
    Collect(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flags = || prop::sample::select(vec![tcp::SYN, tcp::SYN, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST]);
    // Two of the host's ports are in the range.
    let to = || prop::sample::select(vec![80, 81, FIRST, FIRST + 1]);
    let own = || prop::sample::select(vec![8, 9, FIRST, FIRST + 2]);
    let event = prop_oneof![
        6 => (100u8..102, 0u16..2, to(), any::<bool>(), flags())
            .prop_map(|(client, port, to, udp, flags)| Event::In { client, port: 1000 + port, to, udp, flags }),
        6 => (0u8..3, own(), to(), any::<bool>(), flags())
            .prop_map(|(from, port, to, udp, flags)| Event::Across { from, port, to, udp, flags }),
        3 => (0u8..3, own(), 100u8..102, 0u16..2, any::<bool>())
            .prop_map(|(from, port, client, n, udp)| Event::Out { from, port, client, client_port: 1000 + n, udp }),
        3 => (to(), any::<bool>(), any::<bool>(), 0u8..3, 8u16..10)
            .prop_map(|(to, udp, exact, whose, port)| Event::Publish { to, udp, exact, whose, port }),
        1 => (to(), any::<bool>(), any::<bool>()).prop_map(|(to, udp, exact)| Event::Unpublish { to, udp, exact }),
        1 => prop::sample::select(vec![1, 5, 60, 1000, 1200, 30_000]).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(Event::Collect),
    ];
    prop::collection::vec(event, 1..100)
}

fn number(udp: bool) -> u8 {
    if udp { protocol::UDP } else { protocol::TCP }
}

fn key<A: Family>(to: u16, udp: bool, exact: bool) -> PortKey<A> {
    let address = if exact { A::numbered(HOST) } else { A::ZERO };
    PortKey { address, port: Be16::new(to), protocol: number(udp), reserved: 0 }
}

/// Whose a port is.
fn owner<A: Family>(tables: &Memory<A>, to: u16, udp: bool) -> Option<(A, Be16)> {
    let ports = tables.ports.borrow();
    let exact = ports.get(&key(to, udp, true)).or_else(|| ports.get(&key(to, udp, false)));
    exact.map(|port| (port.address, port.port))
}

fn run<A: Family>(events: &[Event]) -> Result<(), TestCaseError> {
    let host = A::numbered(HOST);
    let tables = Memory {
        config: Some(Arc::new(Config {
            uplink: 1,
            address: host,
            first_port: FIRST,
            last_port: FIRST + PORTS - 1,
            quota: QUOTA,
            flows: 1 << 20,
            ring: 0xfff,
            seed: 1,
            mtu: 1500,
            overlay: 0,
            overlay_port: Be16::ZERO,
            reserved: 0,
            underlay4: V4::ZERO,
            underlay6: V6::ZERO,
        })),
        ..Memory::default()
    };
    for event in events {
        let tuple = |source: u8, port: u16, destination: A, to: u16, udp, direction| Tuple {
            source: A::numbered(source),
            destination,
            source_port: Be16::new(port),
            destination_port: Be16::new(to),
            protocol: number(udp),
            direction,
            reserved: 0,
        };
        let refused = |outcome: u32| {
            let reasons = [Drop::FlowQuota, Drop::FlowTableFull, Drop::PortsExhausted, Drop::PublishedClash];
            outcome == NOT_OURS || reasons.iter().any(|reason| *reason as u32 == outcome & !nat::SOON)
        };
        match *event {
            Event::In { client, port, to, udp, flags } => {
                let inward = tuple(client, port, host, to, udp, Tuple::<A>::IN);
                let flags = if udp { 0 } else { flags };
                let mut mapping = Mapping::NONE;
                if nat::reply(&tables, &inward, flags, &mut mapping) {
                    let published = mapping.flags & Flow::<A>::PUBLISHED != 0;
                    if published && !tables.ports.borrow().is_empty() {
                        // A flow of an owner before is gone with the port; one by a wildcard may outlast a port of one address.
                        let wildcard = tables.port(&key(to, udp, false));
                        let wildcard = wildcard.map(|port| (port.address, port.port));
                        let now = (mapping.address, mapping.port);
                        prop_assert!(
                            owner(&tables, to, udp) == Some(now) || wildcard == Some(now),
                            "{mapping:?}"
                        );
                    }
                } else {
                    let outcome = published::open(&tables, &inward, u32::from(flags), &mut mapping);
                    match owner(&tables, to, udp) {
                        Some(owner) if outcome == 0 => {
                            prop_assert_eq!((mapping.address, mapping.port), owner);
                            let mut back = Mapping::NONE;
                            let answer = inward.opposite(mapping.address, mapping.port);
                            prop_assert!(nat::known(&tables, &answer, tcp::SYN | tcp::ACK, &mut back));
                            prop_assert_eq!((back.address, back.port), (host, Be16::new(to)));
                        }
                        _ => prop_assert!(refused(outcome), "{outcome}"),
                    }
                }
            }
            Event::Across { from, port, to, udp, flags } => {
                let outward = tuple(from, port, host, to, udp, Tuple::<A>::OUT);
                let flags = if udp { 0 } else { flags };
                let mut rewrite = Rewrite { source: Mapping::NONE, destination: Mapping::NONE, id: 0 };
                let outcome =
                    hairpin::translate(&tables, &outward, u32::from(flags), u32::from(from), &mut rewrite);
                if outcome != 0 {
                    prop_assert!(refused(outcome), "{outcome}");
                } else {
                    let Rewrite { source, destination, .. } = rewrite;
                    prop_assert_eq!(source.address, host);
                    // Unless it is an answer itself.
                    let is_answer = source.flags & Flow::<A>::PUBLISHED != 0;
                    prop_assert!(is_answer || (FIRST..FIRST + PORTS).contains(&source.port.host()));
                    // The answer comes back to who asked.
                    let answer = Tuple {
                        source: destination.address,
                        source_port: destination.port,
                        destination: source.address,
                        destination_port: source.port,
                        ..outward
                    };
                    let mut back = Rewrite { source: Mapping::NONE, destination: Mapping::NONE, id: 0 };
                    let slot = tables.flow(&answer).map_or(0, |flow| flow.slot);
                    let flags = u32::from(if udp { 0 } else { tcp::ACK });
                    prop_assert_eq!(hairpin::translate(&tables, &answer, flags, slot, &mut back), 0);
                    prop_assert_eq!((back.source.address, back.source.port), (host, Be16::new(to)));
                    prop_assert_eq!(
                        (back.destination.address, back.destination.port),
                        (outward.source, outward.source_port)
                    );
                }
            }
            Event::Out { from, port, client, client_port, udp } => {
                let outward = tuple(from, port, A::numbered(client), client_port, udp, Tuple::<A>::OUT);
                let mut mapping = Mapping::NONE;
                let flags = if udp { 0 } else { tcp::SYN };
                if !nat::known(&tables, &outward, flags, &mut mapping) {
                    let outcome = nat::create(&tables, &outward, u32::from(from), &mut mapping);
                    let taken = tables.is_published(number(udp), mapping.port.host());
                    prop_assert!(outcome != 0 || !taken, "a published port was given away");
                }
            }
            Event::Publish { to, udp, exact, whose, port } => {
                let key = key(to, udp, exact);
                tables.unpublish(&key);
                let port = Port {
                    address: A::numbered(whose),
                    port: Be16::new(port),
                    reserved: 0,
                    slot: u32::from(whose),
                };
                tables.ports.borrow_mut().insert(key, Arc::new(port));
            }
            Event::Unpublish { to, udp, exact } => tables.unpublish(&key(to, udp, exact)),
            Event::Wait(ticks) => tables.time.set(tables.time.get() + ticks),
            Event::Collect(pressed) => {
                tables.collect(if pressed { When::Reusable } else { When::TimedOut });
            }
        }
        consistent(&tables)?;
    }
    Ok(())
}

/// Each flow has both its entries, which undo each other, and each slot's count is right.
fn consistent<A: Family>(tables: &Memory<A>) -> Result<(), TestCaseError> {
    let flows = tables.flows.borrow();
    let mut counts = std::collections::BTreeMap::new();
    for (tuple, flow) in flows.iter().filter(|(tuple, _)| tuple.direction == Tuple::<A>::IN) {
        *counts.entry((flow.slot, flow.account())).or_insert(0) += 1;
        let other = flows.get(&tuple.opposite(flow.address, flow.port));
        let other = other.map(|other| (other.address, other.port, other.slot));
        prop_assert_eq!(other, Some((tuple.destination, tuple.destination_port, flow.slot)), "{:?}", tuple);
    }
    for (slot, count) in tables.flow_counts.borrow().iter() {
        prop_assert_eq!(counts.get(slot).copied().unwrap_or(0), *count, "flows of slot {:?}", slot);
        prop_assert!(*count <= QUOTA);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn published_ports_hold_what_they_promise_ipv4(events in events()) {
        run::<V4>(&events)?;
    }

    #[test]
    fn published_ports_hold_what_they_promise_ipv6(events in events()) {
        run::<V6>(&events)?;
    }
}
