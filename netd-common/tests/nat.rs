//! Source translation against a simple model: long random sequences of packets, answers, waiting and clean-up, with few
//! ports, so that they collide. For both families: the code is one.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc};

use netd_common::{
    Addr, Drop, Tables, V4, V6,
    abi::{Config, Tuple},
    flow::{State, Ticks, When},
    host::Memory,
    nat::{self, Mapping},
    wire::{Be16, protocol, tcp},
};
use proptest::prelude::*;

const PORTS: u16 = 6;
const FIRST: u16 = 60_000;
const QUOTA: u32 = 9;

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
    /// A container sends: container, its port, server, the server's port, protocol, TCP flags.
    Out { from: u8, port: u16, to: u8, service: u16, protocol: u8, flags: u8 },
    /// The nth mapping that was ever used is answered.
    Answer { nth: usize, flags: u8 },
    /// Time passes.
    Wait(Ticks),
    /// The daemon cleans up.
    Collect(bool),
    /// A container's flows are removed.
    Flush(u8),
}

fn flags() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![
        tcp::SYN,
        tcp::ACK,
        tcp::SYN | tcp::ACK,
        tcp::FIN | tcp::ACK,
        tcp::RST,
        tcp::ACK,
    ])
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let out = (0u8..3, 0u16..8, 0u8..2, 0u16..2, 0usize..3, flags()).prop_map(
        |(from, port, to, service, protocol, flags)| {
            let protocol = [protocol::TCP, protocol::UDP, protocol::ICMP][protocol];
            Event::Out {
                from,
                // Half of them in the range, where the port is kept if it is free.
                port: if port < 4 { 1000 + port } else { FIRST + port - 4 },
                to,
                service: if protocol == protocol::ICMP { 0 } else { 53 + service * 390 },
                protocol,
                flags: if protocol == protocol::TCP { flags } else { 0 },
            }
        },
    );
    let wait =
        prop::sample::select(vec![1, 3, 5, 60, 120, 300, 1000, 1200, 5000, 30_000]).prop_map(Event::Wait);
    let event = prop_oneof![
        8 => out,
        6 => (0usize..64, flags()).prop_map(|(nth, flags)| Event::Answer { nth, flags }),
        2 => wait,
        1 => any::<bool>().prop_map(Event::Collect),
        1 => (0u8..3).prop_map(Event::Flush),
    ];
    prop::collection::vec(event, 1..120)
}

/// What the model knows of a flow: what it was translated to and when it was last used.
#[derive(Clone, Copy, Debug)]
struct Known<A> {
    mapping: Mapping<A>,
    /// When the flow's timeout would be over at the earliest, whatever its state: the shortest time that it must last.
    until: Ticks,
}

/// Runs the events and checks after each that the tables make sense and that the model agrees.
fn run<A: Family>(events: &[Event]) -> Result<(), TestCaseError> {
    let node = A::numbered(200);
    let tables = Memory {
        config: Some(Arc::new(Config {
            uplink: 1,
            address: node,
            underlay4: V4(0),
            underlay6: V6([0; 4]),
            first_port: FIRST,
            last_port: FIRST + PORTS - 1,
            quota: QUOTA,
            mtu: 1500,
            overlay: 0,
            overlay_port: Be16::ZERO,
            reserved: 0,
        })),
        ..Memory::default()
    };
    let mut known: HashMap<Tuple<A>, Known<A>> = HashMap::new();
    let mut used: Vec<Tuple<A>> = Vec::new();
    for event in events {
        let now = tables.time.get();
        match *event {
            Event::Out { from, port, to, service, protocol, flags } => {
                let tuple = Tuple {
                    source: A::numbered(from),
                    destination: A::numbered(100 + to),
                    source_port: Be16::new(port),
                    destination_port: Be16::new(service),
                    protocol,
                    direction: Tuple::<A>::OUT,
                    reserved: 0,
                };
                let mut mapping = Mapping::NONE;
                let had_port = port_is_free(&tables, &tuple, port);
                if nat::known(&tables, &tuple, flags, &mut mapping) {
                    let before = known.get(&tuple);
                    prop_assert!(
                        before.is_some_and(|known| known.mapping == mapping),
                        "a flow changed its mapping"
                    );
                } else {
                    if let Some(known) = known.get(&tuple) {
                        prop_assert!(known.until <= now, "a live flow was lost: {tuple:?} {known:?}");
                    }
                    let result = nat::create(&tables, &tuple, u32::from(from), &mut mapping);
                    if result != 0 {
                        let mine = used
                            .iter()
                            .filter(|other| tables.flow(other).is_some() && other.source == tuple.source);
                        // Ports that come free within seconds make it a refusal that the container is not told of.
                        match result & !nat::SOON {
                            r if r == Drop::FlowQuota as u32 => prop_assert!(mine.count() >= QUOTA as usize),
                            // All ports towards this destination belong to flows that are not closed.
                            r if r == Drop::PortsExhausted as u32 => {
                                for port in FIRST..FIRST + PORTS {
                                    prop_assert!(!port_is_free(&tables, &tuple, port), "port {port} is free");
                                }
                            }
                            other => prop_assert!(false, "refused with {other}"),
                        }
                        continue;
                    }
                    if had_port && (FIRST..FIRST + PORTS).contains(&port) {
                        prop_assert_eq!(mapping.port, tuple.source_port, "a free port was not kept");
                    }
                }
                prop_assert_eq!(mapping.address, node);
                prop_assert!((FIRST..FIRST + PORTS).contains(&mapping.port.host()));
                let until = now + shortest(&tables, &tuple, &mapping);
                known.insert(tuple, Known { mapping, until });
                used.push(tuple);
            }
            Event::Answer { nth, flags } => {
                if used.is_empty() {
                    continue;
                }
                let tuple = used[nth % used.len()];
                let Some(flow) = tables.flow(&tuple) else { continue };
                let inward = tuple.opposite(flow.address, flow.port);
                let mut owner = Mapping::NONE;
                let flags = if tuple.protocol == protocol::TCP { flags } else { 0 };
                prop_assert!(nat::reply(&tables, &inward, flags, &mut owner), "an answer found no flow");
                prop_assert_eq!(
                    (owner.address, owner.port),
                    (tuple.source, tuple.source_port),
                    "an answer reached another than the flow's owner"
                );
                let mapping = flow.mapping();
                let until = now + shortest(&tables, &tuple, &mapping);
                known.insert(tuple, Known { mapping, until });
            }
            Event::Wait(ticks) => tables.time.set(now + ticks),
            Event::Collect(pressed) => {
                tables.collect(if pressed { When::Reusable } else { When::TimedOut });
            }
            Event::Flush(from) => {
                let mine: Vec<_> =
                    used.iter().filter(|tuple| tuple.source == A::numbered(from)).copied().collect();
                for tuple in mine {
                    if let Some(flow) = tables.flow(&tuple) {
                        let inward = tuple.opposite(flow.address, flow.port);
                        if let Some(flow) = tables.flow(&inward) {
                            netd_common::flow::remove(&tables, &inward, &flow, now, When::Now);
                        }
                    }
                    known.remove(&tuple);
                }
            }
        }
        check(&tables)?;
    }
    Ok(())
}

/// The least time that a flow must be kept now, with others pressing for its port.
fn shortest<A: Family>(tables: &Memory<A>, tuple: &Tuple<A>, mapping: &Mapping<A>) -> Ticks {
    let inward = tuple.opposite(mapping.address, mapping.port);
    let state = tables.flow(&inward).map_or(0, |flow| flow.state.get());
    State::reuse(state, tuple.protocol, tuple.destination_port)
}

/// Whether no flow has this port towards the tuple's destination, or only one that may be reused.
fn port_is_free<A: Family>(tables: &Memory<A>, tuple: &Tuple<A>, port: u16) -> bool {
    let inward = tuple.opposite(A::numbered(200), Be16::new(port));
    let Some(flow) = tables.flow(&inward) else { return true };
    let mut seen = flow.seen.get();
    if let Some(other) = tables.flow(&inward.opposite(flow.address, flow.port)) {
        seen = seen.max(other.seen.get());
    }
    tables.time.get() - seen > State::reuse(flow.state.get(), inward.protocol, inward.source_port)
}

/// Every flow has two entries that name each other, so no two flows share a tuple on the wire; and the counts are right.
fn check<A: Family>(tables: &Memory<A>) -> Result<(), TestCaseError> {
    let flows = tables.flows.borrow();
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for (tuple, flow) in flows.iter() {
        let other = tuple.opposite(flow.address, flow.port);
        let Some(back) = flows.get(&other) else {
            return Err(TestCaseError::fail(format!("half a flow: {tuple:?} {flow:?}")));
        };
        prop_assert_eq!(other.opposite(back.address, back.port), *tuple);
        prop_assert_eq!(back.slot, flow.slot);
        if tuple.direction == Tuple::<A>::IN {
            *counts.entry(flow.slot).or_default() += 1;
        }
    }
    for (slot, count) in tables.flow_counts.borrow().iter() {
        prop_assert_eq!(counts.get(slot).copied().unwrap_or(0), *count, "count of slot {}", slot);
        prop_assert!(*count <= QUOTA);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follows_the_model_ipv4(events in events()) {
        run::<V4>(&events)?;
    }

    #[test]
    fn follows_the_model_ipv6(events in events()) {
        run::<V6>(&events)?;
    }
}

/// The states that a TCP connection goes through, and what each is worth.
#[test]
fn states_of_a_connection() {
    use netd_common::flow::{TCP_CLOSED_REUSE, TCP_ESTABLISHED, TCP_RESET_REUSE, TCP_TRANSITORY};
    const OUT: bool = false;
    const IN: bool = true;
    type Packets = &'static [(bool, u8)];
    let table: &[(&str, Packets, Ticks, Ticks)] = &[
        ("half open", &[(OUT, tcp::SYN)], TCP_TRANSITORY, TCP_TRANSITORY),
        (
            "established",
            &[(OUT, tcp::SYN), (IN, tcp::SYN | tcp::ACK), (OUT, tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        ("picked up in the middle", &[(OUT, tcp::ACK), (IN, tcp::ACK)], TCP_ESTABLISHED, TCP_ESTABLISHED),
        ("half closed by us", &[(IN, tcp::ACK), (OUT, tcp::FIN)], TCP_TRANSITORY, TCP_TRANSITORY),
        ("half closed by them", &[(IN, tcp::FIN)], TCP_TRANSITORY, TCP_TRANSITORY),
        ("closed", &[(IN, tcp::ACK), (OUT, tcp::FIN), (IN, tcp::FIN)], TCP_TRANSITORY, TCP_CLOSED_REUSE),
        ("reset by us", &[(IN, tcp::ACK), (OUT, tcp::RST)], TCP_TRANSITORY, TCP_CLOSED_REUSE),
        ("refused", &[(OUT, tcp::SYN), (IN, tcp::RST | tcp::ACK)], TCP_TRANSITORY, TCP_RESET_REUSE),
        (
            "a forged reset, and the peer goes on",
            &[(IN, tcp::ACK), (IN, tcp::RST), (IN, tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        (
            "a new connection on a closed one's ports",
            &[(IN, tcp::ACK), (OUT, tcp::FIN), (IN, tcp::FIN), (OUT, tcp::SYN)],
            TCP_TRANSITORY,
            TCP_TRANSITORY,
        ),
        (
            "a SYN sent again changes nothing",
            &[(OUT, tcp::SYN), (IN, tcp::SYN | tcp::ACK), (OUT, tcp::SYN)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        ("both open at once", &[(OUT, tcp::SYN), (IN, tcp::SYN)], TCP_TRANSITORY, TCP_TRANSITORY),
        (
            "both have opened",
            &[(OUT, tcp::SYN), (IN, tcp::SYN), (OUT, tcp::SYN | tcp::ACK), (IN, tcp::SYN | tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        (
            "the other side calls back on a closed connection's ports",
            &[(IN, tcp::ACK), (OUT, tcp::FIN), (IN, tcp::FIN), (IN, tcp::SYN)],
            TCP_TRANSITORY,
            TCP_TRANSITORY,
        ),
        (
            "a reset that also claims to open",
            &[(IN, tcp::ACK), (IN, tcp::RST), (IN, tcp::RST | tcp::SYN)],
            TCP_TRANSITORY,
            TCP_RESET_REUSE,
        ),
    ];
    for (name, packets, timeout, reuse) in table {
        let state = packets
            .iter()
            .fold(0, |state, (inward, flags)| State::after(state, *inward, protocol::TCP, *flags));
        assert_eq!(State::timeout(state, protocol::TCP, Be16::new(443)), *timeout, "{name}: timeout");
        assert_eq!(State::reuse(state, protocol::TCP, Be16::new(443)), *reuse, "{name}: reuse");
    }
}

/// A flow that somebody is removing takes no more packets: it is made anew.
#[test]
fn a_dying_flow_is_left_alone() {
    let flow = netd_common::shared::Shared::new(State::REPLIED);
    assert!(State::observe(&flow, false, protocol::TCP, tcp::SYN));
    flow.set(State::DEAD);
    assert!(!State::observe(&flow, true, protocol::TCP, tcp::SYN));
    assert_eq!(flow.get(), State::DEAD);
}
