//! What CPUs do to each other: packets that open, use and close flows while others do the same, and while the daemon removes flows. Each
//! scene is played in every order of its steps, up to a number of interruptions; the memory of a removed entry is the next one's at once, as
//! in the kernel. After each, every flow has both entries or none, each port one owner, and the counters are exact.

use std::sync::Arc;

use netd_common::{
    Addr as _, Drop, Tables as _, V4,
    abi::{Config, Flow, Port, PortKey, Tuple},
    flow::{self, State, When},
    hairpin::{self, Rewrite},
    host::{
        Memory,
        schedule::{Explorer, Thread},
    },
    nat::{self, Mapping},
    published,
    wire::{Be16, protocol, tcp},
};

const EXPLORER: Explorer = Explorer { interruptions: 3, limit: 300_000 };
/// For three threads.
const FEWER: Explorer = Explorer { interruptions: 2, ..EXPLORER };

/// The first port of the range.
const FIRST: u16 = 60_000;
/// A published port, and the container's behind it.
const PUBLISHED: u16 = 8080;
const INNER: u16 = 80;
const HTTPS: u16 = 443;

const fn address(number: u8) -> V4 {
    V4::new([10, 0, 0, number])
}
const NODE: V4 = address(200);
const SERVER: V4 = address(100);
const OTHER_SERVER: V4 = address(101);

/// A node with so many ports for flows, and so many flows for an endpoint; slot and address of an endpoint have the same number. The
/// first has published a port of TCP.
fn tables(ports: u16, quota: u32) -> Memory<V4> {
    let tables = Memory {
        config: Some(Arc::new(Config {
            uplink: 1,
            address: NODE,
            underlay4: V4(0),
            underlay6: V4(0).mapped(),
            first_port: FIRST,
            last_port: FIRST + (ports - 1),
            quota,
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
    let port = Port { address: address(1), port: Be16::new(INNER), reserved: 0, slot: 1 };
    tables.ports.borrow_mut().insert(key(), Arc::new(port));
    // Its first numbers are not all the same.
    tables.seed.set(0x9e37_79b9_7f4a_7c15);
    tables
}

/// That port's.
fn key() -> PortKey<V4> {
    PortKey { address: V4::ZERO, port: Be16::new(PUBLISHED), protocol: protocol::TCP, reserved: 0 }
}

/// A container's packet.
fn out(container: u8, port: u16, to: V4, service: u16, protocol: u8) -> Tuple<V4> {
    Tuple {
        source: address(container),
        destination: to,
        source_port: Be16::new(port),
        destination_port: Be16::new(service),
        protocol,
        direction: Tuple::<V4>::OUT,
        reserved: 0,
    }
}

/// What the first container sends to a server over TCP.
fn connection() -> Tuple<V4> {
    out(1, 1000, SERVER, HTTPS, protocol::TCP)
}

/// A client's packet to the published port.
fn visit() -> Tuple<V4> {
    Tuple {
        source: SERVER,
        destination: NODE,
        source_port: Be16::new(5000),
        destination_port: Be16::new(PUBLISHED),
        protocol: protocol::TCP,
        direction: Tuple::<V4>::IN,
        reserved: 0,
    }
}

/// What becomes of a container's packet: 0, or why it is refused.
fn send(tables: &Memory<V4>, tuple: &Tuple<V4>, flags: u8) -> u32 {
    let mut mapping = Mapping::NONE;
    if nat::known(tables, tuple, flags, &mut mapping) {
        return 0;
    }
    nat::create(tables, tuple, u32::from(tuple.source.bytes()[3]), &mut mapping)
}

/// What becomes of a packet to the published port.
fn come(tables: &Memory<V4>, tuple: &Tuple<V4>, flags: u8) -> u32 {
    let mut mapping = Mapping::NONE;
    if nat::reply(tables, tuple, flags, &mut mapping) {
        return 0;
    }
    published::open(tables, tuple, u32::from(flags), &mut mapping)
}

/// What becomes of a container's packet to the published port.
fn cross(tables: &Memory<V4>, tuple: &Tuple<V4>, flags: u8) -> u32 {
    let mut rewrite = Rewrite { source: Mapping::NONE, destination: Mapping::NONE, id: 0 };
    let slot = u32::from(tuple.source.bytes()[3]);
    hairpin::translate(tables, tuple, u32::from(flags), slot, &mut rewrite)
}

/// The inbound tuple of a container's flow.
fn inward(tables: &Memory<V4>, tuple: &Tuple<V4>) -> Tuple<V4> {
    let flow = tables.flow(tuple).expect("a flow");
    tuple.opposite(flow.address, flow.port)
}

/// A server's answer to what a container has sent.
fn answer(tables: &Memory<V4>, tuple: &Tuple<V4>, flags: u8) -> bool {
    let mut mapping = Mapping::NONE;
    nat::reply(tables, &inward(tables, tuple), flags, &mut mapping)
}

/// Plays a scene in all orders.
///
/// # Panics
/// Something does not hold.
fn play(set_up: impl Fn() -> Memory<V4>, threads: &[Thread<'_, Memory<V4>>]) {
    play_and(set_up, threads, |_| Ok(()));
}

/// The same, and something more must hold.
fn play_and(
    set_up: impl Fn() -> Memory<V4>,
    threads: &[Thread<'_, Memory<V4>>],
    check: impl Fn(&Memory<V4>) -> Result<(), String>,
) {
    let explorer = if threads.len() > 2 { FEWER } else { EXPLORER };
    let all = |tables: &Memory<V4>| tables.consistent().and_then(|()| check(tables));
    match explorer.explore(set_up, threads, all) {
        Ok(orders) => assert!(orders > 10, "hardly an order: {orders}"),
        Err(error) => panic!("{error}"),
    }
}

/// How many flows there are.
fn has(count: usize) -> impl Fn(&Memory<V4>) -> Result<(), String> {
    move |tables| {
        let entries = tables.flows.borrow().len();
        if entries == 2 * count { Ok(()) } else { Err(format!("{entries} entries, not {count} flows")) }
    }
}

/// So that what was made at time 0 has timed out.
fn later(tables: &Memory<V4>) {
    tables.time.set(flow::TCP_ESTABLISHED + 1);
}

#[test]
fn two_packets_open_one_flow() {
    let sent = |tables: &Memory<V4>| assert_eq!(send(tables, &connection(), tcp::SYN), 0);
    play_and(|| tables(4, 9), &[&sent, &sent], has(1));
    play_and(|| tables(4, 9), &[&sent, &sent, &sent], has(1));
}

#[test]
fn two_containers_want_one_port() {
    let of = |container| {
        move |tables: &Memory<V4>| {
            assert_eq!(send(tables, &out(container, FIRST, SERVER, HTTPS, protocol::UDP), 0), 0);
        }
    };
    let (one, two) = (of(1), of(2));
    play_and(|| tables(4096, 9), &[&one, &two], has(2));
}

/// The last port has a connection that is closed: one of two gets it.
#[test]
fn two_want_the_port_of_a_closed_connection() {
    let closed = || {
        let tables = tables(1, 9);
        assert_eq!(send(&tables, &connection(), tcp::SYN), 0);
        assert!(answer(&tables, &connection(), tcp::FIN | tcp::ACK));
        assert_eq!(send(&tables, &connection(), tcp::FIN | tcp::ACK), 0);
        later(&tables);
        tables
    };
    let of = |container| {
        move |tables: &Memory<V4>| {
            send(tables, &out(container, 2000, SERVER, HTTPS, protocol::TCP), tcp::SYN);
        }
    };
    let (two, three) = (of(2), of(3));
    play_and(closed, &[&two, &three], has(1));
    // And its owner opens it anew.
    let again = |tables: &Memory<V4>| {
        send(tables, &connection(), tcp::SYN);
    };
    play_and(closed, &[&two, &again], has(1));
    play(closed, &[&two, &again, &three]);
}

#[test]
fn a_flow_is_made_while_the_endpoint_is_flushed() {
    let sent = |tables: &Memory<V4>| {
        send(tables, &connection(), tcp::SYN);
    };
    let flushed = |tables: &Memory<V4>| tables.flush(address(1));
    play(|| tables(4, 9), &[&sent, &flushed]);
    play(|| tables(4, 9), &[&sent, &flushed, &sent]);
}

#[test]
fn a_flow_is_used_and_closed_while_it_is_removed() {
    let open = || {
        let tables = tables(4, 9);
        assert_eq!(send(&tables, &connection(), tcp::SYN), 0);
        assert!(answer(&tables, &connection(), tcp::SYN | tcp::ACK));
        tables
    };
    let flushed = |tables: &Memory<V4>| tables.flush(address(1));
    for flags in [tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST, tcp::SYN] {
        let sent = |tables: &Memory<V4>| {
            send(tables, &connection(), flags);
        };
        play(open, &[&sent, &flushed]);
        play(open, &[&sent, &flushed, &sent]);
    }
}

#[test]
fn a_flow_is_removed_by_several() {
    let timed_out = || {
        let tables = tables(4, 9);
        assert_eq!(send(&tables, &connection(), tcp::SYN), 0);
        later(&tables);
        tables
    };
    let collected = |tables: &Memory<V4>| {
        tables.collect(When::TimedOut);
    };
    let flushed = |tables: &Memory<V4>| tables.flush(address(1));
    play_and(timed_out, &[&collected, &flushed, &collected], has(0));
}

/// The memory of a flow that is removed becomes that of another, which its remover leaves alone.
#[test]
fn a_removed_flow_makes_place_for_another() {
    let first = out(1, 1000, SERVER, HTTPS, protocol::UDP);
    let second = out(1, 1000, OTHER_SERVER, HTTPS, protocol::UDP);
    let timed_out = move || {
        let tables = tables(4, 9);
        assert_eq!(send(&tables, &first, 0), 0);
        later(&tables);
        tables
    };
    let collected = |tables: &Memory<V4>| {
        tables.collect(When::TimedOut);
    };
    let and_another = move |tables: &Memory<V4>| {
        tables.collect(When::TimedOut);
        assert_eq!(send(tables, &second, 0), 0);
    };
    let lives = move |tables: &Memory<V4>| {
        if tables.flow(&second).is_some() { Ok(()) } else { Err("the new flow is gone".to_owned()) }
    };
    play_and(timed_out, &[&collected, &and_another], lives);
    // Nor does what is noted of the one become the other's.
    let reset = move |tables: &Memory<V4>| {
        let inward = first.opposite(NODE, Be16::new(FIRST));
        let mut mapping = Mapping::NONE;
        nat::reply(tables, &inward, tcp::RST, &mut mapping);
    };
    let open = move || {
        let tables = tables(1, 9);
        let first = Tuple { protocol: protocol::TCP, ..first };
        assert_eq!(send(&tables, &first, tcp::SYN), 0);
        tables
    };
    let replaced = move |tables: &Memory<V4>| {
        tables.flush(address(1));
        assert_eq!(send(tables, &Tuple { protocol: protocol::TCP, ..second }, tcp::SYN), 0);
    };
    let untouched = move |tables: &Memory<V4>| {
        let inward = inward(tables, &Tuple { protocol: protocol::TCP, ..second });
        let state = tables.flow(&inward).map(|flow| flow.state.get());
        if state.is_some_and(|state| state & 0xff == State::SENT) {
            Ok(())
        } else {
            Err(format!("state of the new flow: {state:x?}"))
        }
    };
    play_and(open, &[&reset, &replaced], untouched);
}

/// Of two who want the last flow of a quota, one gets it.
#[test]
fn a_quota_is_never_exceeded() {
    let of = |port| {
        move |tables: &Memory<V4>| {
            send(tables, &out(1, port, SERVER, HTTPS, protocol::UDP), 0);
        }
    };
    let (one, two) = (of(1000), of(1001));
    let at_most_one = |tables: &Memory<V4>| {
        let entries = tables.flows.borrow().len();
        if entries <= 2 { Ok(()) } else { Err(format!("{entries} entries with a quota of one flow")) }
    };
    play_and(|| tables(4, 1), &[&one, &two], at_most_one);
    let came = |tables: &Memory<V4>| {
        come(tables, &visit(), tcp::SYN);
    };
    let other = |tables: &Memory<V4>| {
        come(tables, &Tuple { source_port: Be16::new(5001), ..visit() }, tcp::SYN);
    };
    play_and(|| tables(4, 1), &[&came, &other], at_most_one);
}

/// A table that has room for a flow and a half: the halves go again.
#[test]
fn a_table_is_full() {
    let narrow = || Memory { max_flows: 3, ..tables(4, 9) };
    let of = |port| {
        move |tables: &Memory<V4>| {
            let outcome = send(tables, &out(1, port, SERVER, HTTPS, protocol::UDP), 0);
            assert!(outcome == 0 || outcome == Drop::FlowTableFull as u32, "{outcome}");
        }
    };
    let (one, two) = (of(1000), of(1001));
    play(narrow, &[&one, &two]);
    let came = |tables: &Memory<V4>| {
        come(tables, &visit(), tcp::SYN);
    };
    play(narrow, &[&one, &came]);
}

#[test]
fn two_packets_come_to_a_published_port() {
    let came = |tables: &Memory<V4>| {
        come(tables, &visit(), tcp::SYN);
    };
    play_and(|| tables(4, 9), &[&came, &came], has(1));
    let flushed = |tables: &Memory<V4>| tables.flush(address(1));
    play(|| tables(4, 9), &[&came, &flushed]);
    play(|| tables(4, 9), &[&came, &flushed, &came]);
}

/// Whoever comes while a port is taken back has no flow afterwards.
#[test]
fn a_port_is_taken_back() {
    let came = |tables: &Memory<V4>| {
        come(tables, &visit(), tcp::SYN);
    };
    let taken_back = |tables: &Memory<V4>| tables.unpublish(&key());
    play_and(|| tables(4, 9), &[&came, &taken_back], has(0));
    play_and(|| tables(4, 9), &[&came, &taken_back, &came], has(0));
}

/// The container talks to the client from the port behind the published one, or the client to it: not both.
#[test]
fn a_client_and_the_container_meet() {
    let came = |tables: &Memory<V4>| {
        come(tables, &visit(), tcp::SYN);
    };
    let calls = |tables: &Memory<V4>| {
        send(tables, &out(1, INNER, SERVER, 5000, protocol::TCP), tcp::SYN);
    };
    play_and(|| tables(4, 9), &[&came, &calls], has(1));
    play_and(|| tables(4, 9), &[&came, &calls, &came], has(1));
}

#[test]
fn containers_meet_by_a_published_port() {
    let of = |container| {
        move |tables: &Memory<V4>| {
            cross(tables, &out(container, 1000, NODE, PUBLISHED, protocol::TCP), tcp::SYN);
        }
    };
    let (two, three) = (of(2), of(3));
    let goes_on = |containers: &'static [u8]| {
        move |tables: &Memory<V4>| {
            let mut all =
                containers.iter().map(|container| out(*container, 1000, NODE, PUBLISHED, protocol::TCP));
            match all.find(|tuple| cross(tables, tuple, tcp::SYN) != 0) {
                Some(tuple) => Err(format!("nothing goes on: {tuple:?}")),
                None => tables.consistent(),
            }
        }
    };
    play_and(|| tables(4, 9), &[&two, &two], goes_on(&[2]));
    play_and(|| tables(4, 9), &[&two, &three], goes_on(&[2, 3]));
    let taken_back = |tables: &Memory<V4>| tables.unpublish(&key());
    play(|| tables(4, 9), &[&two, &taken_back]);
    let flushed = |tables: &Memory<V4>| tables.flush(address(2));
    play(|| tables(4, 9), &[&two, &flushed]);
}

/// Both sides close at once: the connection is closed.
#[test]
fn both_sides_close_at_once() {
    let open = || {
        let tables = tables(4, 9);
        assert_eq!(send(&tables, &connection(), tcp::SYN), 0);
        assert!(answer(&tables, &connection(), tcp::SYN | tcp::ACK));
        tables
    };
    let we = |tables: &Memory<V4>| {
        send(tables, &connection(), tcp::FIN | tcp::ACK);
    };
    let they = |tables: &Memory<V4>| {
        answer(tables, &connection(), tcp::FIN | tcp::ACK);
    };
    let closed = |tables: &Memory<V4>| {
        let state =
            tables.flow(&inward(tables, &connection())).map_or(0, |flow: Arc<Flow<V4>>| flow.state.get());
        let both = State::FIN_OUT | State::FIN_IN;
        if state & both == both { Ok(()) } else { Err(format!("state {state:x}")) }
    };
    play_and(open, &[&we, &they], closed);
}
