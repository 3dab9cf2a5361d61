//! What must hold after each packet.

use std::{collections::HashMap, hash::Hash};

use netd_common::{
    Addr, Common as _, Tables, To, V4, V6, Verdict,
    abi::{PortKey, Tuple},
    host::{
        Memory,
        cases::{At, FAR_NODE, Member, NEAR, NODE, OTHER},
        ipv6::{FAR_NODE6, NEAR6, NODE6, OTHER6},
    },
    wire::{Be16, Vxlan, protocol},
};

use crate::{WORLD, member, view::View};

/// What VXLAN puts before a packet, with the inner Ethernet header, over IPv4 and over IPv6.
const OVERHEADS: [usize; 2] = [Vxlan::OVERHEAD as usize, Vxlan::OVERHEAD6 as usize];

/// Who sent last what the other side sees: the container and its port.
#[derive(Default)]
pub(crate) struct Senders(HashMap<Seen, (V6, u16)>);

/// Protocol, the host's address and port, the other side and its port.
type Seen = (u8, (V6, u16), (V6, u16));

impl Senders {
    /// A packet of a container's, before and after its source was translated.
    fn sent(&mut self, before: &View<'_>, after: &View<'_>) {
        if let (Some((from, _)), Some((source, destination))) = (before.ports(), after.ports()) {
            let seen = (after.protocol, (after.source, source), (after.destination, destination));
            self.0.insert(seen, (before.source, from));
        }
    }

    /// A packet that may have been too big for the uplink, or whose time was up: it was not sent then, but it has a flow.
    fn refused(&mut self, tables: &Memory<V4>, before: &View<'_>) {
        let Some(ports @ (source, destination)) = before.ports() else { return };
        let own = match v4(before.source).zip(v4(before.destination)) {
            Some(ends) => masqueraded(tables, ends, before.protocol, ports),
            None => masqueraded(tables, (before.source, before.destination), before.protocol, ports),
        };
        if let Some(own) = own {
            // By a published port, the other side is the container behind it.
            let asked = (before.destination, destination);
            let other = Self::published(tables, before.protocol, asked).unwrap_or(asked);
            self.0.insert((before.protocol, own, other), (before.source, source));
        }
    }

    /// The container and its port behind a published port.
    fn published(tables: &Memory<V4>, protocol: u8, (host, port): (V6, u16)) -> Option<(V6, u16)> {
        if !is_host(host) && !is_gateway(host) {
            return None;
        }
        match v4(host) {
            Some(address) => published(tables, address, protocol, port),
            None => published(tables.v6.as_ref()?.as_ref(), host, protocol, port),
        }
    }

    /// To whom a packet to a port of the host's is.
    fn receiver(&self, tables: &Memory<V4>, seen: Seen) -> Option<(V6, u16)> {
        Self::published(tables, seen.0, seen.1).or_else(|| self.0.get(&seen).copied())
    }

    /// # Panics
    /// A packet reached another than it was for.
    fn answered(&self, tables: &Memory<V4>, before: &View<'_>, after: &View<'_>) {
        if let (Some((source, destination)), Some((_, port))) = (before.ports(), after.ports()) {
            let seen = (before.protocol, (before.destination, destination), (before.source, source));
            let reached = Some((after.destination, port));
            assert_eq!(self.receiver(tables, seen), reached, "an answer reached another than it was for");
        }
    }

    /// What an error quotes of a packet from one container to another by a published port, before and after.
    ///
    /// # Panics
    /// It reached another than who has sent that packet, or does not quote it as that was sent.
    fn complained(&self, tables: &Memory<V4>, after: &View<'_>, quotes: (&View<'_>, &View<'_>)) {
        let (got, sent) = quotes;
        assert_eq!((sent.source, sent.destination), (after.destination, after.source), "a quote of others");
        let (Some((source, destination)), Some((port, _))) = (got.ports(), sent.ports()) else {
            panic!("an error about no connection");
        };
        let seen = (got.protocol, (got.source, source), (got.destination, destination));
        assert_eq!(self.receiver(tables, seen), Some((sent.source, port)), "an error reached another");
    }
}

/// The host's address and port of a container's flow.
fn masqueraded<A: Addr>(
    tables: &impl Tables<A>,
    (source, destination): (A, A),
    protocol: u8,
    ports: (u16, u16),
) -> Option<(V6, u16)> {
    let tuple = Tuple {
        source,
        destination,
        source_port: Be16::new(ports.0),
        destination_port: Be16::new(ports.1),
        protocol,
        direction: Tuple::<A>::OUT,
        reserved: 0,
    };
    let flow = tables.flow(&tuple)?;
    Some((flow.address.mapped(), flow.port.host()))
}

/// Whose port a published one is.
fn published<A: Addr + Hash>(tables: &Memory<A>, address: A, protocol: u8, number: u16) -> Option<(V6, u16)> {
    [address, A::ZERO].into_iter().find_map(|address| {
        let is = |key: &&PortKey<A>| {
            (key.address, key.protocol, key.port) == (address, protocol, Be16::new(number))
        };
        let ports = tables.ports.borrow();
        let port = &ports[ports.keys().find(is)?];
        Some((port.address.mapped(), port.port.host()))
    })
}

/// The IPv4 address that a mapped one stands for.
fn v4(address: V6) -> Option<V4> {
    let bytes = address.bytes();
    (bytes[..12] == V4::ZERO.mapped().bytes()[..12]).then(|| {
        let [.., a, b, c, d] = bytes;
        V4::new([a, b, c, d])
    })
}

/// Whether an address is one of the host's on the uplink.
fn is_host(address: V6) -> bool {
    [V4::new(NODE).mapped(), V4::new(OTHER).mapped(), V6::new(NODE6), V6::new(OTHER6)].contains(&address)
}

/// What is known of a packet before a program sees it.
pub(crate) struct Checked {
    /// Its checksums are right, as far as it has any.
    sound: bool,
}

impl Checked {
    pub(crate) fn before(frame: &[u8]) -> Self {
        Self { sound: sound(&frame[14..]) == Some(true) }
    }

    /// # Panics
    /// Something does not hold.
    pub(crate) fn after(
        &self,
        (tables, senders): (&Memory<V4>, &mut Senders),
        at: At,
        verdict: &Verdict,
        sent: &[u8],
        frame: &[u8],
    ) {
        let before = View::new(&sent[14..]);
        if let (At::FromContainer(_), Some(before)) = (at, &before) {
            senders.refused(tables, before);
        }
        if matches!(verdict.to, To::Drop) {
            assert_eq!(sent, frame, "dropped, yet changed");
            return;
        }
        if matches!(verdict.to, To::Stack) {
            assert_eq!(sent[14..], frame[14..], "the host's, yet changed");
            return;
        }
        if frame.len() < 34 || !matches!(frame[12..14], [8, 0] | [0x86, 0xdd]) {
            return;
        }
        let packet = &frame[14..];
        if let Some(overhead) = OVERHEADS.into_iter().find(|more| frame.len() + more == sent.len()) {
            assert_eq!(sent[14 + overhead..], *packet, "changed in decapsulation");
        } else if self.sound {
            assert_ne!(sound(packet), Some(false), "a checksum is wrong now");
            let overhead = OVERHEADS.into_iter().find(|more| frame.len() == sent.len() + more);
            let inner = overhead.and_then(|overhead| packet.get(overhead..));
            assert_ne!(inner.and_then(sound), Some(false), "an inner checksum is wrong now");
        }
        let (Some(before), Some(after)) = (before, View::new(packet)) else { return };
        match at {
            At::FromContainer(ifindex) if verdict.to == To::Neighbour => {
                assert_eq!(verdict.ifindex, WORLD.uplink, "out of no uplink");
                let Some(from) = member(ifindex) else { panic!("from nobody's link to the world") };
                if from.network.masquerade && verdict.via == V6::ZERO {
                    outside(&after);
                    if frame.len() == sent.len() {
                        senders.sent(&before, &after);
                    }
                } else if from.network.masquerade {
                    let near = if after.v6 { V6::new(NEAR6) } else { V4::new(NEAR).mapped() };
                    assert_eq!(
                        after.destination.bytes()[..15],
                        near.bytes()[..15],
                        "as it is to where it is not a node's"
                    );
                }
            }
            At::FromContainer(ifindex) if verdict.to == To::Peer => {
                // A neighbour solicitation is answered by a neighbour advertisement, to all where nobody in particular has asked.
                let kinds = [before.l4.first(), after.l4.first()];
                if after.protocol == protocol::ICMPV6 && kinds == [Some(&135), Some(&136)] {
                    assert_eq!(verdict.ifindex, ifindex, "an answer to another");
                    return;
                }
                reached(&after, verdict);
                let is_local = after.source == before.source && after.destination == before.destination;
                let own = verdict.ifindex == ifindex && before.quote().is_none() && is_gateway(after.source);
                if is_local || own && after.quote().is_some() {
                    return;
                }
                // By a published port: to the other it comes from the host's address that was asked for.
                assert_eq!(after.source, before.destination, "hairpin from elsewhere");
                if let Some((got, sent)) = before.quote().zip(after.quote()) {
                    let quotes = View::new(got).zip(View::new(sent)).expect("an error quotes a packet");
                    senders.complained(tables, &after, (&quotes.0, &quotes.1));
                    return;
                }
                senders.answered(tables, &before, &after);
                if before.ports().is_some_and(|(_, port)| tables.is_published(before.protocol, port)) {
                    senders.sent(&before, &after);
                }
            }
            At::FromUplink if verdict.to == To::Peer => {
                reached(&after, verdict);
                // By translation only where there is a flow of the container's.
                if is_host(before.destination) && frame.len() == sent.len() {
                    senders.answered(tables, &before, &after);
                    let has_flow = has_flow(tables, after.destination)
                        || tables.v6.as_ref().is_some_and(|v6| has_flow(v6, after.destination));
                    assert!(has_flow || before.later, "to a container without a flow");
                    // What goes from one container to another is not seen outside.
                    assert_ne!(before.source, before.destination, "from the host's own address");
                    let about = after.quote().and_then(View::new);
                    assert!(!about.is_some_and(|quote| is_host(quote.destination)), "about the host's own");
                }
            }
            _ => {}
        }
    }
}

/// What comes into a container is addressed to it.
fn reached(packet: &View<'_>, verdict: &Verdict) {
    let is_its =
        |one: &Member| [V4::new(one.address).mapped(), V6::new(one.address6())].contains(&packet.destination);
    let owner = [WORLD.a, WORLD.b, WORLD.c].into_iter().find(is_its);
    assert_eq!(owner.map(|one| one.ifindex), Some(verdict.ifindex), "not to whom it is addressed");
}

/// Whether netd's own errors come from there.
fn is_gateway(address: V6) -> bool {
    let networks = [WORLD.a.network, WORLD.c.network];
    networks.iter().any(|one| [V4::new(one.gateway).mapped(), V6::new(one.gateway6())].contains(&address))
}

fn has_flow<A: Addr + Hash>(tables: &Memory<A>, address: V6) -> bool {
    tables.flows.borrow().values().any(|flow| flow.address.mapped() == address)
}

/// A packet of a masqueraded container on its way to the world, or to another node in VXLAN: nothing shows where it is from.
fn outside(packet: &View<'_>) {
    assert!(is_host(packet.source), "an inner address on the uplink");
    let to_node = [V4::new(FAR_NODE).mapped(), V6::new(FAR_NODE6)].contains(&packet.destination);
    let in_vxlan = to_node && packet.protocol == protocol::UDP && packet.l4.get(2..4) == Some(&[0x12, 0xb5]);
    if !in_vxlan && let Some(quote) = packet.quote().and_then(View::new) {
        assert!(is_host(quote.destination), "an inner address in a quote");
    }
}

fn sound(packet: &[u8]) -> Option<bool> {
    View::new(packet)?.sound()
}

/// Every flow has two entries that agree, and they are counted.
///
/// # Panics
/// It is not so.
pub(crate) fn flows(tables: &Memory<V4>) {
    tables.consistent().unwrap_or_else(|error| panic!("{error}"));
}

/// No endpoint has more flows than it may.
///
/// # Panics
/// One has.
pub(crate) fn quotas(tables: &Memory<V4>) {
    let quota = tables.config.as_ref().map_or(0, |config| config.quota);
    for (slot, count) in tables.flow_counts.borrow().iter() {
        assert!(*count <= quota, "slot and account {slot:?} have {count} flows of {quota}");
    }
}
