//! Nobody's use costs somebody else a new connection: flows and ports are shared, what nobody answers goes first.

use std::sync::Arc;

use netd_common::{
    Addr as _, Drop, Tables, V4, V6,
    abi::{Config, Port, PortKey, Tuple, UnansweredRing},
    flow::{self, State, When},
    host::Memory,
    nat::{self, Mapping},
    published,
    quota::{self, Account},
    wire::{Be16, protocol, tcp},
};

const NODE: V4 = V4::new([192, 0, 2, 1]);
const SERVER: V4 = V4::new([203, 0, 113, 5]);
const FIRST: u16 = 49_152;
const PORTS: u32 = 16_384;

fn tables(flows: u32, quota: u32, ring: u32) -> Memory<V4> {
    let config = Config {
        uplink: 1,
        address: NODE,
        underlay4: NODE,
        underlay6: V6::ZERO,
        first_port: FIRST,
        last_port: u16::MAX,
        quota,
        flows,
        ring: ring - 1,
        seed: 0x5eed,
        mtu: 1500,
        overlay: 0,
        overlay_port: Be16::ZERO,
        reserved: 0,
    };
    Memory { config: Some(Arc::new(config)), max_flows: 2 * flows as usize, ..Memory::default() }
}

fn container(slot: u32) -> V4 {
    V4::new([10, 88, 0, slot as u8 + 2])
}

fn outward(slot: u32, port: u16, to: u16, protocol: u8) -> Tuple<V4> {
    Tuple {
        source: container(slot),
        destination: SERVER,
        source_port: Be16::new(port),
        destination_port: Be16::new(to),
        protocol,
        direction: Tuple::<V4>::OUT,
        reserved: 0,
    }
}

/// A container's new flow: the port that it gets, or the reason why there is none.
fn open(tables: &Memory<V4>, slot: u32, port: u16, to: u16, protocol: u8) -> Result<u16, u32> {
    let mut mapping = Mapping::NONE;
    match nat::create(tables, &outward(slot, port, to, protocol), slot, &mut mapping) {
        0 => Ok(mapping.port.host()),
        reason => Err(reason & !nat::SOON),
    }
}

/// It is answered.
fn answer(tables: &Memory<V4>, at: u16, from: u16, protocol: u8) {
    let inward = Tuple {
        source: SERVER,
        destination: NODE,
        source_port: Be16::new(from),
        destination_port: Be16::new(at),
        protocol,
        direction: Tuple::<V4>::IN,
        reserved: 0,
    };
    let flags = if protocol == protocol::TCP { tcp::SYN | tcp::ACK } else { 0 };
    assert!(nat::reply(tables, &inward, flags, &mut { Mapping::NONE }), "no flow for the answer");
}

/// One container asks for every port of a destination; others get theirs at once, whatever the protocol.
#[test]
fn one_container_does_not_get_all_ports_of_a_destination() {
    for protocol in [protocol::UDP, protocol::TCP] {
        let tables = tables(1 << 18, 1 << 16, 4096);
        let got =
            (0..40_000u16).filter(|n| open(&tables, 0, 10_000 + n, 53, protocol).is_ok()).count() as u32;
        assert!(got <= PORTS / 2 + 512, "one container has {got} of {PORTS} ports");
        assert!(got >= PORTS / 2 - 512, "one container has {got} of {PORTS} ports only");
        assert_eq!(open(&tables, 0, 9_999, 53, protocol), Err(Drop::PortsExhausted as u32));
        for slot in 1..30 {
            for port in 0..100 {
                let at = open(&tables, slot, 20_000 + port, 53, protocol);
                assert!(at.is_ok(), "container {slot}, connection {port}: {at:?}");
            }
        }
        // To another destination it has ports still.
        assert!(open(&tables, 0, 10_000, 54, protocol).is_ok());
    }
}

/// Many that take all they get leave some for one who has none.
#[test]
fn thirty_containers_together_do_not_either() {
    let tables = tables(1 << 18, 1 << 16, 4096);
    for slot in 0..30 {
        let refused = (0..20_000).filter(|n| open(&tables, slot, 10_000 + n, 53, protocol::UDP).is_err());
        assert!(refused.count() > 0);
    }
    for port in 0..8 {
        assert!(open(&tables, 31, 20_000 + port, 53, protocol::UDP).is_ok(), "connection {port}");
    }
}

/// What a flow counts against is free again when it is gone.
#[test]
fn counts_are_given_back() {
    let tables = tables(1 << 18, 1 << 16, 4096);
    let fill = || (0..20_000u16).filter(|n| open(&tables, 0, 10_000 + n, 53, protocol::UDP).is_ok()).count();
    let before = fill();
    tables.time.set(flow::DNS + 1);
    assert_eq!(tables.collect(When::TimedOut), before);
    assert!(tables.destinations.all().values().all(|count| *count == 0));
    assert!(tables.flow_counts.borrow().values().all(|count| *count == 0));
    assert!(tables.flow_totals.all().values().all(|count| *count == 0));
    let after = fill();
    assert!(after.abs_diff(before) < 600, "{before} flows, then {after}");
}

/// Four containers that take all they get, and a fifth.
#[test]
fn who_has_few_flows_never_finds_the_table_full() {
    let tables = tables(1 << 12, 1 << 12, 256);
    for slot in 0..4 {
        for n in 0..4_000u16 {
            // Answered, so that none goes for another.
            if let Ok(at) = open(&tables, slot, n, 1_000 + n, protocol::UDP) {
                answer(&tables, at, 1_000 + n, protocol::UDP);
            }
        }
        assert_eq!(open(&tables, slot, 5_000, 53, protocol::UDP), Err(Drop::FlowTableFull as u32));
    }
    let own = |slot| tables.flow_counts.borrow().get(&(slot, Account::Outward)).copied().unwrap_or(0);
    let all: u32 = (0..4).map(own).sum();
    // Each leaves two thirds of what was free.
    assert!(all <= (1 << 12) * 65 / 81 + 8, "{all} flows: 16/81 of the table are to stay free");
    for n in 0..200 {
        assert!(open(&tables, 5, n, 53, protocol::UDP).is_ok(), "flow {n} of who has few");
    }
}

/// What comes in has no more than half of the table, and leaves an endpoint's own quota alone.
#[test]
fn what_comes_in_does_not_use_up_what_goes_out() {
    assert_eq!(quota::share(1000, 0, 0, Account::Outward), 500);
    assert_eq!(quota::share(1000, 0, 0, Account::Inward), 250);
    assert_eq!(quota::share(1000, 0, 500, Account::Inward), 0);
    assert_eq!(quota::share(1000, 0, 500, Account::Outward), 250);
    assert_eq!(quota::share(1000, 999, 0, Account::Outward), 1, "the last place is for who has none");
    assert_eq!(quota::share(1000, 1000, 0, Account::Outward), 0);

    let tables = published_at(80, 1 << 12, 64, 4096);
    for port in 0..64 {
        connect(&tables, port, true);
    }
    assert_eq!(come(&tables, 100, 1, tcp::SYN), Drop::FlowQuota as u32);
    for n in 0..32 {
        assert!(open(&tables, 0, n, 443, protocol::TCP).is_ok(), "connection {n} of its own");
    }
}

/// Container 0 has published a port.
fn published_at(number: u16, flows: u32, quota: u32, ring: u32) -> Memory<V4> {
    let tables = tables(flows, quota, ring);
    let key = PortKey { address: V4::ZERO, port: Be16::new(number), protocol: protocol::TCP, reserved: 0 };
    let port = Port { address: container(0), port: Be16::new(8080), reserved: 0, slot: 0 };
    tables.ports.borrow_mut().insert(key, Arc::new(port));
    tables
}

fn client(number: u32, port: u16) -> Tuple<V4> {
    let [_, a, b, c] = number.to_be_bytes();
    Tuple {
        source: V4::new([198, a | 0x10, b, c]),
        destination: NODE,
        source_port: Be16::new(port),
        destination_port: Be16::new(80),
        protocol: protocol::TCP,
        direction: Tuple::<V4>::IN,
        reserved: 0,
    }
}

/// A client's packet: 0, or the reason why it is refused.
fn come(tables: &Memory<V4>, number: u32, port: u16, flags: u8) -> u32 {
    let (inward, mut mapping) = (client(number, port), Mapping::NONE);
    if nat::reply(tables, &inward, flags, &mut mapping) {
        return 0;
    }
    published::open(tables, &inward, u32::from(flags), &mut mapping)
}

/// A client's handshake, all of it or but the last step.
fn connect(tables: &Memory<V4>, port: u16, whole: bool) {
    assert_eq!(come(tables, 1, port, tcp::SYN), 0, "SYN of {port}");
    let answer = client(1, port).opposite(container(0), Be16::new(8080));
    assert!(nat::known(tables, &answer, tcp::SYN | tcp::ACK, &mut { Mapping::NONE }), "its answer");
    if whole {
        assert_eq!(come(tables, 1, port, tcp::ACK), 0, "the last step of {port}");
    }
}

/// SYNs of as many sources as one likes: they keep no client out, and end nobody's connection.
#[test]
fn a_flood_of_syns_keeps_nobody_out() {
    let tables = published_at(80, 1 << 16, 1 << 12, 1024);
    connect(&tables, 9_999, true);
    for number in 0..30_000 {
        assert_eq!(come(&tables, 1_000 + number, 4_000, tcp::SYN), 0, "SYN {number}");
        if number % 1_000 == 0 {
            connect(&tables, 10_000 + (number / 1_000) as u16, true);
        }
    }
    let flows = tables.flow_counts.borrow()[&(0, Account::Inward)];
    assert!(flows <= (1 << 11) + 64, "{flows} flows are left");
    for port in (9_999..10_030).filter(|port| *port < 10_029) {
        let inward = client(1, port);
        let state = tables.flow(&inward).map(|flow| flow.state.get());
        assert!(state.is_some_and(State::is_answered), "the connection of {port} is gone");
    }
}

/// The same the other way: one container opens connections that nobody answers, and its own that are answered live.
#[test]
fn what_is_not_answered_goes_first() {
    let tables = tables(1 << 16, 1 << 12, UnansweredRing::LEAST);
    let live = open(&tables, 0, 1, 443, protocol::TCP).expect("a connection");
    answer(&tables, live, 443, protocol::TCP);
    for n in 0..20_000u16 {
        assert!(open(&tables, 0, n, 1_000 + n % 500, protocol::TCP).is_ok(), "SYN {n}");
    }
    answer(&tables, live, 443, protocol::TCP);
}

/// Not all that is of use is answered: what a container still sends stays. What it has sent once goes.
#[test]
fn what_is_sent_without_an_answer_stays() {
    let tables = tables(1 << 16, 256, UnansweredRing::LEAST);
    // It has nearly half of what it may have.
    for n in 0..125u16 {
        open(&tables, 0, n, 442, protocol::TCP).expect("a flow");
    }
    for port in [1, 2] {
        open(&tables, 0, port, 514, protocol::UDP).expect("a flow");
    }
    tables.time.set(flow::ticks(3));
    let send = |port| nat::known(&tables, &outward(0, port, 514, protocol::UDP), 0, &mut { Mapping::NONE });
    assert!(send(1));
    tables.time.set(flow::ticks(5));
    open(&tables, 0, 3, 514, protocol::UDP).expect("a flow");
    for n in 0..1_000u16 {
        assert!(open(&tables, 0, n, 443, protocol::TCP).is_ok(), "SYN {n}");
    }
    assert_eq!((send(1), send(2), send(3)), (true, false, true));
}

/// A port that a closed connection has left is taken last.
#[test]
fn a_free_port_is_taken_before_a_closed_ones() {
    let tables = tables(1 << 18, 1 << 16, 4096);
    let at = open(&tables, 0, FIRST + 5, 443, protocol::TCP).expect("a connection");
    assert_eq!(at, FIRST + 5);
    answer(&tables, at, 443, protocol::TCP);
    let own = outward(0, FIRST + 5, 443, protocol::TCP);
    assert!(nat::known(&tables, &own, tcp::RST, &mut { Mapping::NONE }));
    tables.time.set(flow::TCP_TRANSITORY);
    let other = open(&tables, 1, FIRST + 5, 443, protocol::TCP).expect("another's connection");
    assert_ne!(other, at, "another container got the port though others were free");
}
