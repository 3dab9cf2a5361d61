//! Source translation against a simple model: long random sequences of packets, answers, waiting and clean-up, with few
//! ports, so that they collide. For both families: the code is one.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc};

use netd_common::{
    Addr, Drop, Tables, V4, V6,
    abi::{Config, Flow, Tuple},
    flow::{self, State, Ticks, When},
    host::Memory,
    nat::{self, Mapping},
    quota::{self, Account},
    segment::Segment,
    shared::Shared,
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
            flows: 1 << 20,
            ring: 0xfff,
            seed: 1,
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
                let allowed = allowed(&tables, &tuple);
                let had_port = is_unused(&tables, &tuple, port);
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
                            // All ports towards this destination that it may have belong to flows that are not closed.
                            r if r == Drop::PortsExhausted as u32 => {
                                for port in FIRST..FIRST + allowed {
                                    prop_assert!(!port_is_free(&tables, &tuple, port), "port {port} is free");
                                }
                            }
                            other => prop_assert!(false, "refused with {other}"),
                        }
                        continue;
                    }
                    if had_port && (FIRST..FIRST + allowed).contains(&port) {
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
                            flow::remove(&tables, &inward, &flow, now, When::Now);
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

/// How many of the ports its sender may have towards a tuple's destination.
fn allowed<A: Family>(tables: &Memory<A>, tuple: &Tuple<A>) -> u16 {
    let flows = tables.flows.borrow();
    let there = flows.iter().filter(|(known, flow)| {
        known.direction == Tuple::<A>::IN
            && flow.address == tuple.source
            && (known.source, known.source_port, known.protocol)
                == (tuple.destination, tuple.destination_port, tuple.protocol)
    });
    quota::ports(u32::from(PORTS), there.count() as u32) as u16
}

/// Whether no flow has this port towards the tuple's destination.
fn is_unused<A: Family>(tables: &Memory<A>, tuple: &Tuple<A>, port: u16) -> bool {
    tables.flow(&tuple.opposite(A::numbered(200), Be16::new(port))).is_none()
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
    for ((slot, account), count) in tables.flow_counts.borrow().iter() {
        prop_assert_eq!(*account, Account::Outward);
        prop_assert_eq!(counts.get(slot).copied().unwrap_or(0), *count, "count of slot {}", slot);
        prop_assert!(*count <= QUOTA);
    }
    let all: u32 = counts.values().sum();
    prop_assert_eq!(tables.flows_in_table(Account::Outward, 0), all);
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
    use netd_common::flow::{
        TCP_CLOSED_REUSE, TCP_ESTABLISHED, TCP_OPENING, TCP_RESET_REUSE, TCP_TRANSITORY,
    };
    const OUT: bool = false;
    const IN: bool = true;
    // TCP's own flag for them.
    const DATA: u8 = 8;
    const OPEN: [(bool, u8); 3] = [(OUT, tcp::SYN), (IN, tcp::SYN | tcp::ACK), (OUT, tcp::ACK)];
    type Packets = &'static [(bool, u8)];
    let half_open: &[(&str, Packets, Ticks, Ticks)] = &[
        ("half open", &[(OUT, tcp::SYN)], TCP_OPENING, TCP_OPENING),
        ("half open, by the other side", &[(IN, tcp::SYN)], TCP_OPENING, TCP_OPENING),
        (
            "its SYN is answered, and no more",
            &[(IN, tcp::SYN), (OUT, tcp::SYN | tcp::ACK)],
            TCP_OPENING,
            TCP_OPENING,
        ),
        (
            "it answers that",
            &[(IN, tcp::SYN), (OUT, tcp::SYN | tcp::ACK), (IN, tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        ("picked up in the middle", &[(OUT, tcp::ACK), (IN, tcp::ACK)], TCP_ESTABLISHED, TCP_ESTABLISHED),
        ("refused", &[(OUT, tcp::SYN), (IN, tcp::RST | tcp::ACK)], TCP_OPENING, TCP_CLOSED_REUSE),
        ("both open at once", &[(OUT, tcp::SYN), (IN, tcp::SYN)], TCP_OPENING, TCP_OPENING),
        (
            "both have opened",
            &[(OUT, tcp::SYN), (IN, tcp::SYN), (OUT, tcp::SYN | tcp::ACK), (IN, tcp::SYN | tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
    ];
    let opened: &[(&str, Packets, Ticks, Ticks)] = &[
        ("established", &[], TCP_ESTABLISHED, TCP_ESTABLISHED),
        ("half closed by us", &[(OUT, tcp::FIN)], TCP_TRANSITORY, TCP_TRANSITORY),
        ("half closed by them", &[(IN, tcp::FIN)], TCP_TRANSITORY, TCP_TRANSITORY),
        ("closed", &[(OUT, tcp::FIN), (IN, tcp::FIN)], TCP_TRANSITORY, TCP_CLOSED_REUSE),
        ("reset by us", &[(OUT, tcp::RST)], TCP_TRANSITORY, TCP_CLOSED_REUSE),
        ("reset by them", &[(IN, tcp::RST)], TCP_TRANSITORY, TCP_RESET_REUSE),
        (
            "a forged reset, and the peer goes on",
            &[(IN, tcp::RST), (IN, tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        (
            "a forged reset, and the container goes on",
            &[(IN, tcp::RST), (OUT, tcp::ACK)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        (
            "a forged end, and the peer goes on",
            &[(IN, tcp::FIN), (IN, tcp::ACK | DATA)],
            TCP_ESTABLISHED,
            TCP_ESTABLISHED,
        ),
        (
            "a forged end after ours, and the peer goes on",
            &[(OUT, tcp::FIN), (IN, tcp::FIN), (IN, tcp::ACK | DATA)],
            TCP_TRANSITORY,
            TCP_TRANSITORY,
        ),
        (
            "an end, and what is sent is acknowledged",
            &[(IN, tcp::FIN), (OUT, tcp::ACK | DATA), (IN, tcp::ACK)],
            TCP_TRANSITORY,
            TCP_TRANSITORY,
        ),
        (
            "a new connection on a closed one's ports",
            &[(OUT, tcp::FIN), (IN, tcp::FIN), (OUT, tcp::SYN)],
            TCP_OPENING,
            TCP_OPENING,
        ),
        ("a SYN sent again changes nothing", &[(OUT, tcp::SYN)], TCP_ESTABLISHED, TCP_ESTABLISHED),
        (
            "the other side calls back on a closed connection's ports",
            &[(OUT, tcp::FIN), (IN, tcp::FIN), (IN, tcp::SYN)],
            TCP_OPENING,
            TCP_OPENING,
        ),
        (
            "and on those of one that it has half closed",
            &[(IN, tcp::FIN), (IN, tcp::SYN)],
            TCP_TRANSITORY,
            TCP_TRANSITORY,
        ),
        (
            "a reset that also claims to open",
            &[(IN, tcp::RST), (IN, tcp::RST | tcp::SYN)],
            TCP_TRANSITORY,
            TCP_RESET_REUSE,
        ),
    ];
    let half_open = half_open.iter().map(|case| (&[][..], case));
    for (before, (name, packets, timeout, reuse)) in
        half_open.chain(opened.iter().map(|case| (&OPEN[..], case)))
    {
        let state = before.iter().chain(*packets).fold(0, |state, (inward, flags)| {
            let segment = Segment { data: flags & DATA != 0, ..Segment::from(*flags) };
            State::after(state, *inward, protocol::TCP, &segment)
        });
        assert_eq!(State::timeout(state, protocol::TCP, Be16::new(443)), *timeout, "{name}: timeout");
        assert_eq!(State::reuse(state, protocol::TCP, Be16::new(443)), *reuse, "{name}: reuse");
    }
}

/// A flow that somebody is removing takes no more packets: it is made anew.
#[test]
fn a_dying_flow_is_left_alone() {
    let tuple = inward(1);
    let flow = Shared::new(State::initial(&tuple, 1) | State::REPLIED);
    assert!(State::observe(&flow, &tuple, false, &tcp::SYN.into()));
    flow.set(flow.get() | State::DEAD);
    let dead = flow.get();
    assert!(!State::observe(&flow, &tuple, true, &tcp::SYN.into()));
    assert_eq!(flow.get(), dead);
}

/// The inbound tuple of a connection to a server, at this port.
fn inward(port: u16) -> Tuple<V4> {
    Tuple {
        source: V4::numbered(100),
        destination: V4::numbered(200),
        source_port: Be16::new(443),
        destination_port: Be16::new(port),
        protocol: protocol::TCP,
        direction: Tuple::<V4>::IN,
        reserved: 0,
    }
}

/// Where the entry that was looked up has become another flow's meanwhile, as the kernel uses memory again at once, that flow is
/// left alone.
#[test]
fn a_stranger_in_the_same_place_is_left_alone() {
    let (gone, other) = (inward(1), inward(2));
    let state = Shared::new(State::initial(&other, 1) | State::REPLIED);
    assert!(!State::observe(&state, &gone, true, &tcp::FIN.into()), "the flow of that packet is gone");
    assert_eq!(state.get(), State::initial(&other, 1) | State::REPLIED);
    let (address, port) = (V4::numbered(1), Be16::new(1000));
    let flow = Flow { state, seen: Shared::new(0), mark: Shared::new(0), slot: 1, address, port, flags: 0 };
    let tables = Memory::<V4>::default();
    for when in [When::TimedOut, When::Reusable, When::Now] {
        assert!(!flow::remove(&tables, &gone, &flow, 1 << 20, when), "{when:?}");
    }
    assert_eq!(flow.state.get(), State::initial(&other, 1) | State::REPLIED);
}
