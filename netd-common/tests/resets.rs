//! Forged segments from outside: they neither end a connection's flow, nor hand its port to a neighbour, nor keep one open that is
//! only half so.

use std::sync::Arc;

use netd_common::{
    Tables, V4, V6,
    abi::{Config, Flow, Port, PortKey, Tuple},
    flow::{State, TCP_ESTABLISHED, TCP_OPENING, TCP_RESET_REUSE, TCP_TRANSITORY, Ticks, When, ticks},
    host::Memory,
    nat::{self, Mapping},
    published,
    segment::Segment,
    wire::{Be16, Be32, protocol, tcp},
};

const NODE: V4 = V4::new([192, 0, 2, 1]);
const SERVER: V4 = V4::new([203, 0, 113, 5]);
const FIRST: u16 = 60_000;
/// Number of a container's SYN, and of the server's.
const OURS: u32 = 0xffff_fff0;
const THEIRS: u32 = 0x1234_5678;
/// What the server has sent when it falls silent.
const SO_FAR: u32 = THEIRS.wrapping_add(40_000);

fn tables(ports: u16) -> Memory<V4> {
    let config = Config {
        uplink: 1,
        address: NODE,
        underlay4: NODE,
        underlay6: V6([0; 4]),
        first_port: FIRST,
        last_port: FIRST + ports - 1,
        quota: 100,
        flows: 1000,
        ring: 63,
        seed: 1,
        mtu: 1500,
        overlay: 0,
        overlay_port: Be16::ZERO,
        reserved: 0,
    };
    Memory { config: Some(Arc::new(config)), ..Memory::default() }
}

fn segment(flags: u8, sequence: u32, acknowledged: u32) -> Segment {
    Segment {
        flags,
        data: false,
        trusted: false,
        sequence: Be32::new(sequence),
        acknowledged: Be32::new(acknowledged),
    }
}

fn outward(slot: u8, port: u16) -> Tuple<V4> {
    Tuple {
        source: V4::new([10, 88, 0, slot + 2]),
        destination: SERVER,
        source_port: Be16::new(port),
        destination_port: Be16::new(443),
        protocol: protocol::TCP,
        direction: Tuple::<V4>::OUT,
        reserved: 0,
    }
}

fn inward(port: u16) -> Tuple<V4> {
    Tuple {
        source: SERVER,
        destination: NODE,
        source_port: Be16::new(443),
        destination_port: Be16::new(port),
        direction: Tuple::<V4>::IN,
        ..outward(0, 0)
    }
}

fn leave(tables: &Memory<V4>, tuple: &Tuple<V4>, segment: Segment) {
    assert!(nat::known(tables, tuple, segment, &mut { Mapping::NONE }), "no flow for {segment:?}");
}

fn come(tables: &Memory<V4>, port: u16, segment: Segment) -> V4 {
    let mut mapping = Mapping::NONE;
    assert!(nat::reply(tables, &inward(port), segment, &mut mapping), "no flow for {segment:?}");
    mapping.address
}

fn state(tables: &Memory<V4>, port: u16) -> u32 {
    tables.flow(&inward(port)).expect("a flow").state.get()
}

fn timeout(tables: &Memory<V4>, port: u16) -> Ticks {
    State::timeout(state(tables, port), protocol::TCP, Be16::new(443))
}

/// Container 0's connection, open and then quiet.
fn open(tables: &Memory<V4>, port: u16) {
    let tuple = outward(0, port);
    assert_eq!(nat::create(tables, &tuple, 0, &mut { Mapping::NONE }), 0);
    leave(tables, &tuple, segment(tcp::SYN, OURS, 0));
    come(tables, port, segment(tcp::SYN | tcp::ACK, THEIRS, OURS.wrapping_add(1)));
    leave(tables, &tuple, segment(tcp::ACK, OURS.wrapping_add(1), THEIRS + 1));
    leave(tables, &tuple, segment(tcp::ACK, OURS.wrapping_add(1), SO_FAR));
    assert_eq!(timeout(tables, port), TCP_ESTABLISHED);
}

fn wait(tables: &Memory<V4>, time: Ticks) {
    tables.time.set(tables.time.get() + time);
}

#[test]
fn a_blind_reset_does_not_hand_a_port_to_a_neighbour() {
    for ports in [1, 16] {
        let tables = tables(ports);
        open(&tables, FIRST);
        for guess in [0, 1, 0x8000_0000, SO_FAR + (1 << 21), SO_FAR - (1 << 17), u32::MAX] {
            for flags in [tcp::RST, tcp::RST | tcp::ACK, tcp::FIN | tcp::ACK, tcp::FIN] {
                come(&tables, FIRST, segment(flags, guess, guess));
            }
        }
        assert_eq!(timeout(&tables, FIRST), TCP_ESTABLISHED, "a blind segment has changed something");
        wait(&tables, ticks(1000));
        // The neighbour asks for just that port.
        let mut mapping = Mapping::NONE;
        let outcome = nat::create(&tables, &outward(1, FIRST), 1, &mut mapping);
        assert!(outcome != 0 || mapping.port.host() != FIRST, "the neighbour has got the port");
        assert_eq!(come(&tables, FIRST, segment(tcp::ACK, SO_FAR, OURS + 1)), outward(0, 0).source);
    }
}

/// The number was hit by chance.
#[test]
fn a_reset_that_hits_is_undone_by_either_side() {
    let tables = tables(1);
    open(&tables, FIRST);
    for by_the_container in [false, true] {
        come(&tables, FIRST, segment(tcp::RST, SO_FAR + 1000, 0));
        assert_eq!(timeout(&tables, FIRST), TCP_TRANSITORY);
        // Not at once: what lives on has time to say so.
        wait(&tables, TCP_RESET_REUSE);
        assert_ne!(nat::create(&tables, &outward(1, 5), 1, &mut { Mapping::NONE }), 0);
        if by_the_container {
            // As a kernel answers a reset that is near (RFC 5961).
            leave(&tables, &outward(0, FIRST), segment(tcp::ACK, OURS.wrapping_add(1), SO_FAR));
        } else {
            come(&tables, FIRST, segment(tcp::ACK, SO_FAR, OURS.wrapping_add(1)));
        }
        assert_eq!(timeout(&tables, FIRST), TCP_ESTABLISHED);
    }
}

#[test]
fn a_true_reset_and_a_true_end_count() {
    let tables = tables(16);
    for (port, flags) in [(FIRST, tcp::RST), (FIRST + 1, tcp::FIN | tcp::ACK)] {
        open(&tables, port);
        come(&tables, port, segment(flags, SO_FAR, OURS.wrapping_add(1)));
        assert_eq!(timeout(&tables, port), TCP_TRANSITORY);
    }
    // What was received since the last note.
    let tuple = outward(0, FIRST + 2);
    open(&tables, FIRST + 2);
    leave(&tables, &tuple, segment(tcp::ACK, OURS.wrapping_add(1), SO_FAR + 10_000));
    come(&tables, FIRST + 2, segment(tcp::RST, SO_FAR + 10_000, 0));
    assert_eq!(timeout(&tables, FIRST + 2), TCP_TRANSITORY);
}

#[test]
fn an_end_that_was_forged_is_undone_by_data() {
    let tables = tables(1);
    open(&tables, FIRST);
    come(&tables, FIRST, segment(tcp::FIN | tcp::ACK, SO_FAR + 500, OURS.wrapping_add(1)));
    assert_eq!(timeout(&tables, FIRST), TCP_TRANSITORY);
    come(&tables, FIRST, Segment { data: true, ..segment(tcp::ACK, SO_FAR, OURS.wrapping_add(1)) });
    assert_eq!(timeout(&tables, FIRST), TCP_ESTABLISHED);
}

/// A SYN is refused by what names its number, and by nothing else.
#[test]
fn a_syn_is_refused_by_its_number() {
    let tables = tables(1);
    let tuple = outward(0, FIRST);
    assert_eq!(nat::create(&tables, &tuple, 0, &mut { Mapping::NONE }), 0);
    leave(&tables, &tuple, segment(tcp::SYN, OURS, 0));
    let half_open = state(&tables, FIRST);
    for guess in [1 << 20, 0x8000_0000, OURS.wrapping_sub(5), OURS.wrapping_add(1 << 20)] {
        come(&tables, FIRST, segment(tcp::RST | tcp::ACK, 0, guess));
        come(&tables, FIRST, segment(tcp::SYN | tcp::ACK, guess, guess));
        come(&tables, FIRST, segment(tcp::ACK, guess, guess));
        assert_eq!(state(&tables, FIRST), half_open, "{guess:#x}");
    }
    come(&tables, FIRST, segment(tcp::RST | tcp::ACK, 0, OURS.wrapping_add(1)));
    assert_eq!(State::reuse(state(&tables, FIRST), protocol::TCP, Be16::new(443)), ticks(1));
}

/// From outside, a handshake takes its three steps: who cannot see the answer to its SYN has a flow that is half open.
#[test]
fn a_client_that_is_not_there_stays_half_open() {
    let tables = tables(1);
    let key = PortKey { address: V4(0), port: Be16::new(80), protocol: protocol::TCP, reserved: 0 };
    let address = outward(0, 0).source;
    tables
        .ports
        .borrow_mut()
        .insert(key, Arc::new(Port { address, port: Be16::new(80), reserved: 0, slot: 0 }));
    let client = Tuple { destination_port: Be16::new(80), ..inward(0) };
    let mut mapping = Mapping::NONE;
    assert_eq!(published::open(&tables, &client, u32::from(tcp::SYN), &mut mapping), 0);
    let answer = client.opposite(mapping.address, mapping.port);
    let state = || tables.flow(&client).expect("a flow").state.get();
    let timeout = || State::timeout(state(), protocol::TCP, Be16::new(80));
    let come = |segment| assert!(nat::reply(&tables, &client, segment, &mut { Mapping::NONE }));
    // Before and after the container's answer.
    for _ in 0..2 {
        for guess in [1 << 20, 0x4000_0000, OURS.wrapping_sub(3), 0x7fff_ffff] {
            come(segment(tcp::ACK, THEIRS + 1, guess));
        }
        assert_eq!(timeout(), TCP_OPENING);
        leave(&tables, &answer, segment(tcp::SYN | tcp::ACK, OURS, THEIRS + 1));
    }
    come(segment(tcp::ACK, THEIRS + 1, OURS.wrapping_add(1)));
    assert_eq!(timeout(), TCP_ESTABLISHED);
    // Its answers go with it, and the clean-up spares it.
    wait(&tables, TCP_OPENING + 1);
    assert_eq!(tables.collect(When::Reusable), 0);
    assert_ne!(tables.flow(&client).expect("a flow").flags & Flow::<V4>::PUBLISHED, 0);
}
