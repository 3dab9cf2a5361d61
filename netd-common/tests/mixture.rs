//! Several containers and a world that talk through the programs, with fragments and ICMP errors among the packets: long random
//! sequences, with few ports, so that they collide. The world keeps a book of what it has seen and answers from it, so it needs
//! no model of the translation: what counts is who gets an answer, and that it is the packet as if nobody had translated it.

use std::collections::HashMap;

use netd_common::{
    Drop, To, V4, Way,
    abi::Tuple,
    flow::When,
    host::{
        Frame, Memory,
        build::{Body, Ip, ethernet, fragments, icmp_error, internet_checksum, ipv4_of},
        cases::{At, Member, NODE, UPLINK_MACS, World, run},
    },
    wire::{protocol, tcp},
};
use proptest::prelude::*;

const WORLD: World = World::new([11, 12, 13, 20, 30]);
/// Few ports, and a quota that is reached.
const PORTS: (u16, u16) = (60_000, 60_004);
const QUOTA: u32 = 7;
const PIECE: usize = 32;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A container sends a packet, in fragments if it is long.
    Out { from: usize, port: u16, server: u8, service: u16, protocol: usize, flags: u8, long: bool },
    /// The world answers the nth packet that it has seen.
    Answer { nth: usize, flags: u8, long: bool },
    /// A router or the server complains about the nth packet.
    Complaint { nth: usize, kind: (u8, u8, u32), quoted: usize, by_router: bool },
    /// A container complains about the nth answer that it got; or another one does.
    Retort { nth: usize, forged: bool },
    /// Time passes.
    Wait(u32),
    /// The daemon cleans up.
    Collect(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let flags =
        || prop::sample::select(vec![tcp::SYN, tcp::ACK, tcp::SYN | tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST]);
    let out = (0usize..2, 0u16..6, 0u8..2, 0u16..2, 0usize..3, flags(), any::<bool>()).prop_map(
        |(from, port, server, service, protocol, flags, long)| Event::Out {
            from,
            port: if port < 3 { 1000 + port } else { PORTS.0 + port },
            server,
            service: 53 + service * 390,
            protocol,
            flags,
            long,
        },
    );
    let kinds = vec![(3, 1, 0), (3, 3, 0), (3, 4, 1300), (11, 0, 0), (12, 0, 0x0800_0000)];
    let event = prop_oneof![
        8 => out,
        6 => (0usize..64, flags(), any::<bool>())
            .prop_map(|(nth, flags, long)| Event::Answer { nth, flags, long }),
        4 => (0usize..64, prop::sample::select(kinds), 28usize..90, any::<bool>())
            .prop_map(|(nth, kind, quoted, by_router)| Event::Complaint { nth, kind, quoted, by_router }),
        3 => (0usize..64, any::<bool>()).prop_map(|(nth, forged)| Event::Retort { nth, forged }),
        2 => prop::sample::select(vec![1, 5, 60, 120, 300, 1200, 30_000]).prop_map(Event::Wait),
        1 => any::<bool>().prop_map(Event::Collect),
    ];
    prop::collection::vec(event, 1..80)
}

/// A packet that the world has seen whole: from which container it came, and both forms of it.
#[derive(Clone, Debug)]
struct Seen {
    from: usize,
    inside: Parts,
    outside: Parts,
}

/// What makes a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Parts {
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    source_port: u16,
    destination_port: u16,
}

fn member(number: usize) -> Member {
    [WORLD.a, WORLD.b][number]
}

/// A packet of a flow, the given way.
fn body(parts: &Parts, back: bool, flags: u8, data: Vec<u8>) -> Body {
    let (source, destination) = if back {
        (parts.destination_port, parts.source_port)
    } else {
        (parts.source_port, parts.destination_port)
    };
    match parts.protocol {
        protocol::TCP => Body::Tcp(source, destination, flags, data),
        protocol::UDP => Body::Udp(source, destination, data),
        // A ping has one identifier.
        _ => Body::Icmp(if back { 0 } else { 8 }, 0, parts.source_port, data),
    }
}

fn ip(parts: &Parts, back: bool, id: u16) -> Ip {
    let (source, destination) =
        if back { (parts.destination, parts.source) } else { (parts.source, parts.destination) };
    Ip { id, ..Ip::new(source, destination) }
}

/// An IPv4 packet out of its fragments.
fn whole(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = pieces[0][..20].to_vec();
    for piece in pieces {
        assert_eq!(piece[4..6], pieces[0][4..6], "fragments with different identifications");
        let offset = (usize::from(u16::from_be_bytes([piece[6], piece[7]])) & 0x1fff) * 8;
        assert_eq!(offset, packet.len() - 20, "a fragment is missing");
        packet.extend(&piece[20..]);
    }
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6..8].fill(0);
    packet[10..12].fill(0);
    let sum = internet_checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Panics unless all checksums of a whole packet are right, those of what it quotes too, as far as they are there.
fn assert_checksums(packet: &[u8], quoted: bool) {
    assert_eq!(internet_checksum(&[&packet[..20]]), 0, "header checksum (quoted: {quoted})");
    let l4 = &packet[20..];
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let is_error = packet[9] == protocol::ICMP && matches!(l4[0], 3 | 11 | 12);
    if total == packet.len() {
        let length = (l4.len() as u16).to_be_bytes();
        let pseudo = [&packet[12..20], &[0, packet[9]], &length].concat();
        let parts: &[&[u8]] = if packet[9] == protocol::ICMP { &[l4] } else { &[&pseudo, l4] };
        assert_eq!(internet_checksum(parts), 0, "transport checksum (quoted: {quoted})");
    }
    if is_error && !quoted {
        assert_checksums(&l4[8..], true);
    }
}

/// What the programs and the world make of the events.
struct Play {
    tables: Memory<V4>,
    seen: Vec<Seen>,
    /// Which container's packet the world saw last with these addresses and ports.
    owners: HashMap<Parts, usize>,
    id: u16,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut tables = WORLD.tables();
        let mut config = **tables.config.as_ref().expect("the world has a node");
        (config.first_port, config.last_port, config.quota) = (PORTS.0, PORTS.1, QUOTA);
        tables.config = Some(config.into());
        tables.seed.set(seed);
        Self { tables, seen: Vec::new(), owners: HashMap::new(), id: 0 }
    }

    /// Sends a packet through a program, in fragments if it is long. What comes out, whole; or `None` if not all of it did.
    fn pass(&mut self, at: At, to: To, packet: &[u8], interface: Option<u32>) -> Option<Vec<u8>> {
        let (destination, source) = match at {
            At::FromContainer(ifindex) => {
                let from = if ifindex == WORLD.a.ifindex { WORLD.a } else { WORLD.b };
                (from.host_mac, from.mac)
            }
            _ => UPLINK_MACS,
        };
        let mut pieces = Vec::new();
        for piece in fragments(packet, if packet.len() > 150 { PIECE } else { 2000 }) {
            let mut frame = Frame::new(ethernet(destination, source, 0x0800, &piece));
            let verdict = run(&WORLD, &self.tables, at, &mut frame);
            if verdict.to != to || interface.is_some_and(|interface| interface != verdict.ifindex) {
                if matches!(verdict.to, To::Drop | To::Stack) {
                    assert_eq!(frame.bytes[14..], piece[..], "dropped or passed, yet changed");
                }
                continue;
            }
            if to == To::Neighbour {
                assert_eq!(verdict.ifindex, WORLD.uplink);
            }
            pieces.push(frame.bytes[14..].to_vec());
        }
        if pieces.is_empty() {
            return None;
        }
        let packet = whole(&pieces);
        assert_checksums(&packet, false);
        Some(packet)
    }

    /// Nothing of what leaves may show where it comes from.
    fn check_outside(packet: &[u8]) {
        assert_eq!(packet[12..16], NODE, "an inner address on the uplink");
        if packet[9] == protocol::ICMP && matches!(packet[20], 3 | 11 | 12) {
            assert_eq!(packet[44..48], NODE, "an inner address in a quote");
        }
    }

    fn next_id(&mut self) -> u16 {
        self.id = self.id.wrapping_add(1);
        self.id
    }

    fn data(long: bool) -> Vec<u8> {
        vec![0x5a; if long { 200 } else { 40 }]
    }

    fn out(&mut self, from: usize, inside: Parts, flags: u8, long: bool) {
        let id = self.next_id();
        let sent = ipv4_of(&ip(&inside, false, id), &body(&inside, false, flags, Self::data(long)));
        let told = self.tables.went(Way::ErrorSent);
        let short = self.tables.dropped(Drop::PortsExhausted);
        let sender = member(from);
        let Some(packet) = self.pass(At::FromContainer(sender.ifindex), To::Neighbour, &sent, None) else {
            // Where ports come free in a moment, nobody is told.
            let quiet = self.tables.dropped(Drop::PortsExhausted) > short;
            assert!(quiet || self.tables.went(Way::ErrorSent) > told, "refused, and nobody was told");
            return;
        };
        Self::check_outside(&packet);
        let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let source_port = if inside.protocol == protocol::ICMP { port(24) } else { port(20) };
        let outside = Parts { source: NODE, source_port, ..inside };
        assert!((PORTS.0..=PORTS.1).contains(&source_port), "port {source_port}");
        // As if nobody had translated it, but for the hop and the identification.
        let expected = Ip { ttl: 63, ..ip(&outside, false, u16::from_be_bytes([packet[4], packet[5]])) };
        assert_eq!(packet, ipv4_of(&expected, &body(&outside, false, flags, Self::data(long))));
        self.owners.insert(outside, from);
        self.seen.push(Seen { from, inside, outside });
    }

    /// Whether the flow of a packet that was seen still belongs to whom it did.
    fn lives(&self, seen: &Seen) -> bool {
        let port = |port: u16| netd_common::wire::Be16::new(port);
        let tuple = Tuple {
            source: V4::new(seen.outside.destination),
            destination: V4::new(NODE),
            source_port: port(seen.outside.destination_port),
            destination_port: port(seen.outside.source_port),
            protocol: seen.inside.protocol,
            direction: Tuple::<V4>::IN,
            reserved: 0,
        };
        let found = self.tables.flows.borrow().get(&tuple).cloned();
        found.is_some_and(|flow| {
            flow.address == V4::new(seen.inside.source) && flow.port == port(seen.inside.source_port)
        })
    }

    fn answer(&mut self, seen: &Seen, flags: u8, long: bool) -> bool {
        let id = self.next_id();
        let sent = ipv4_of(&ip(&seen.outside, true, id), &body(&seen.outside, true, flags, Self::data(long)));
        let owner = member(seen.from);
        let lives = self.lives(seen);
        let got = self.pass(At::FromUplink, To::Peer, &sent, Some(owner.ifindex));
        if !lives {
            // It may have got to whom the port belongs now; not to whom it did.
            assert!(got.is_none() || self.owners[&seen.outside] == seen.from, "an answer to a dead flow");
            return false;
        }
        let expected = ipv4_of(
            &Ip { ttl: 63, ..ip(&seen.inside, true, id) },
            &body(&seen.inside, true, flags, Self::data(long)),
        );
        assert_eq!(got, Some(expected), "an answer did not reach the flow's owner");
        true
    }

    fn complain(&mut self, seen: &Seen, kind: (u8, u8, u32), quoted: usize, by_router: bool) {
        // Half a checksum cannot be translated.
        let quoted = if quoted == 37 { 38 } else { quoted };
        let quote = |parts: &Parts| {
            let mut packet = ipv4_of(&ip(parts, false, 7), &body(parts, false, tcp::ACK, Self::data(false)));
            packet.truncate(quoted);
            packet
        };
        let from = if by_router { [203, 0, 113, 99] } else { seen.outside.destination };
        let id = self.next_id();
        let sent = ipv4_of(&Ip { id, ..Ip::new(from, NODE) }, &icmp_error(kind, &quote(&seen.outside)));
        let before = self.states();
        let lives = self.lives(seen);
        let got = self.pass(At::FromUplink, To::Peer, &sent, Some(member(seen.from).ifindex));
        assert_eq!(self.states(), before, "an error changed a flow");
        if lives {
            let inside = Ip { id, ttl: 63, ..Ip::new(from, seen.inside.source) };
            assert_eq!(got, Some(ipv4_of(&inside, &icmp_error(kind, &quote(&seen.inside)))));
        }
    }

    fn retort(&mut self, seen: &Seen, forged: bool) {
        let quote =
            |parts: &Parts| ipv4_of(&ip(parts, true, 7), &body(parts, true, tcp::ACK, Self::data(false)));
        let from = member(if forged { 1 - seen.from } else { seen.from });
        let kind = (3, 3, 0);
        let id = self.next_id();
        let sent = ipv4_of(
            &Ip { id, ..Ip::new(from.address, seen.inside.destination) },
            &icmp_error(kind, &quote(&seen.inside)),
        );
        let (before, lives) = (self.states(), self.lives(seen));
        let got = self.pass(At::FromContainer(from.ifindex), To::Neighbour, &sent, None);
        assert_eq!(self.states(), before, "an error changed a flow");
        if let Some(packet) = &got {
            Self::check_outside(packet);
        }
        let expected = (lives && !forged).then(|| {
            let outside = Ip { id, ttl: 63, ..Ip::new(NODE, seen.inside.destination) };
            ipv4_of(&outside, &icmp_error(kind, &quote(&seen.outside)))
        });
        if forged {
            assert!(self.tables.dropped(Drop::SpoofedError) > 0);
        }
        if lives || forged {
            assert_eq!(got, expected);
        }
    }

    /// Tuples, states and times of all flows.
    fn states(&self) -> HashMap<Tuple<V4>, (u32, u32)> {
        let flows = self.tables.flows.borrow();
        flows.iter().map(|(tuple, flow)| (*tuple, (flow.state.get(), flow.seen.get()))).collect()
    }

    /// Every flow has two entries, and they are counted.
    fn check_counts(&self) {
        let flows = self.tables.flows.borrow();
        let inward = flows.iter().filter(|(tuple, _)| tuple.direction == Tuple::<V4>::IN).count();
        assert_eq!(inward * 2, flows.len(), "half a flow");
        let counted: u32 = self.tables.flow_counts.borrow().values().sum();
        assert_eq!(counted as usize, inward, "flows and their counts differ");
    }
}

fn play(events: &[Event], seed: u64) {
    let mut play = Play::new(seed);
    for event in events {
        match *event {
            Event::Out { from, port, server, service, protocol, flags, long } => {
                let protocol = [protocol::TCP, protocol::UDP, protocol::ICMP][protocol];
                let is_ping = protocol == protocol::ICMP;
                let parts = Parts {
                    source: member(from).address,
                    destination: [203, 0, 113, 5 + server],
                    protocol,
                    source_port: port,
                    destination_port: if is_ping { 0 } else { service },
                };
                play.out(from, parts, flags, long);
            }
            Event::Answer { nth, flags, long } => {
                if let Some(seen) = play.nth(nth) {
                    play.answer(&seen, flags, long);
                }
            }
            Event::Complaint { nth, kind, quoted, by_router } => {
                if let Some(seen) = play.nth(nth) {
                    play.complain(&seen, kind, quoted, by_router);
                }
            }
            Event::Retort { nth, forged } => {
                if let Some(seen) = play.nth(nth) {
                    play.retort(&seen, forged);
                }
            }
            Event::Wait(ticks) => play.tables.time.set(play.tables.time.get() + ticks),
            Event::Collect(pressed) => {
                play.tables.collect(if pressed { When::Reusable } else { When::TimedOut });
            }
        }
        play.check_counts();
    }
}

impl Play {
    fn nth(&self, nth: usize) -> Option<Seen> {
        self.seen.get(nth % self.seen.len().max(1)).cloned()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_packets_fragments_and_errors(events in events(), seed in 1u64..) {
        play(&events, seed);
    }
}
