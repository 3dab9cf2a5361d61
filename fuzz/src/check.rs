//! What must hold after each packet.

use std::collections::HashMap;

use netd_common::{
    Addr as _, To, V4, V6, Verdict,
    abi::Tuple,
    host::{
        Memory,
        build::internet_checksum,
        cases::{At, FAR_NODE, NEAR, NODE},
    },
    tables::Tables as _,
    wire::{Be16, protocol},
};

use crate::{WORLD, member};

/// What VXLAN puts before a packet, with the inner Ethernet header.
const OVERHEAD: usize = 50;

/// Who sent last what the world sees: protocol, node's port, server and its port, to the container and its port.
#[derive(Default)]
pub(crate) struct Senders(HashMap<Ports, ([u8; 4], u16)>);

/// Protocol, own port, the other side and its port.
type Ports = (u8, u16, [u8; 4], u16);

impl Senders {
    /// A packet of a masqueraded container, before and after.
    fn sent(&mut self, before: &[u8], after: &[u8]) {
        if let (Some((_, from, _, _)), Some(wire)) = (ports(before, true), ports(after, true)) {
            self.0.insert(wire, ([before[12], before[13], before[14], before[15]], from));
        }
    }

    /// A packet that may have been too big for the uplink: it was not sent then, but it has a flow.
    fn refused(&mut self, tables: &Memory<V4>, before: &[u8]) {
        let Some((protocol, source, destination, service)) = ports(before, true) else { return };
        let container = [before[12], before[13], before[14], before[15]];
        let tuple = Tuple {
            source: V4::new(container),
            destination: V4::new(destination),
            source_port: Be16::new(source),
            destination_port: Be16::new(service),
            protocol,
            direction: Tuple::<V4>::OUT,
            reserved: 0,
        };
        if let Some(flow) = tables.flow(&tuple) {
            self.0.insert((protocol, flow.port.host(), destination, service), (container, source));
        }
    }

    /// # Panics
    /// An answer reached another than it was for.
    fn answered(&self, before: &[u8], after: &[u8]) {
        if let (Some(wire), Some((_, port, _, _))) = (ports(before, false), ports(after, false)) {
            let reached = ([after[16], after[17], after[18], after[19]], port);
            assert_eq!(self.0.get(&wire), Some(&reached), "an answer reached another than it was for");
        }
    }
}

/// The ports of a TCP or UDP packet, as its sender (`out`) or its receiver sees them.
fn ports(packet: &[u8], out: bool) -> Option<Ports> {
    let header = usize::from(packet.first()? & 15) * 4;
    let is_fragment = packet[6] & 0x1f != 0 || packet[7] != 0;
    if is_fragment || !matches!(packet[9], protocol::TCP | protocol::UDP) {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (source, destination) = (port(header)?, port(header + 2)?);
    Some(if out {
        (packet[9], source, [packet[16], packet[17], packet[18], packet[19]], destination)
    } else {
        (packet[9], destination, [packet[12], packet[13], packet[14], packet[15]], source)
    })
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
        if matches!(at, At::FromContainer(_)) && sent.len() >= 34 {
            senders.refused(tables, &sent[14..]);
        }
        if matches!(verdict.to, To::Drop) {
            assert_eq!(sent, frame, "dropped, yet changed");
            return;
        }
        if matches!(verdict.to, To::Stack) {
            assert_eq!(sent[14..], frame[14..], "the host's, yet changed");
            return;
        }
        if frame.len() < 34 || frame[12..14] != [8, 0] {
            return;
        }
        let packet = &frame[14..];
        if frame.len() + OVERHEAD == sent.len() {
            assert_eq!(sent[14 + OVERHEAD..], *packet, "changed in decapsulation");
        } else if self.sound {
            assert_ne!(sound(packet), Some(false), "a checksum is wrong now");
            let inner = packet.get(OVERHEAD..).filter(|_| frame.len() == sent.len() + OVERHEAD);
            assert_ne!(inner.and_then(sound), Some(false), "an inner checksum is wrong now");
        }
        match at {
            At::FromContainer(ifindex) if verdict.to == To::Neighbour => {
                assert_eq!(verdict.ifindex, WORLD.uplink, "out of no uplink");
                let Some(from) = member(ifindex) else { panic!("from nobody's link to the world") };
                if from.network.masquerade && verdict.via == V6::ZERO {
                    outside(packet);
                    if frame.len() == sent.len() {
                        senders.sent(&sent[14..], packet);
                    }
                } else if from.network.masquerade {
                    assert_eq!(packet[16..19], NEAR[..3], "as it is to where it is not a node's");
                }
            }
            At::FromUplink if verdict.to == To::Peer => {
                let destination: [u8; 4] = [packet[16], packet[17], packet[18], packet[19]];
                let owner = [WORLD.a, WORLD.b, WORLD.c].into_iter().find(|one| one.address == destination);
                assert_eq!(
                    owner.map(|one| one.ifindex),
                    Some(verdict.ifindex),
                    "not to whom it is addressed"
                );
                // By translation only where there is a flow of the container's.
                let outer = &sent[14..];
                let is_translated = outer[16..20] == NODE && frame.len() == sent.len();
                if is_translated {
                    senders.answered(outer, packet);
                    let flows = tables.flows.borrow();
                    let has_flow = flows.values().any(|flow| flow.address == V4::new(destination));
                    let fragment = u16::from_be_bytes([outer[6], outer[7]]) & 0x1fff != 0;
                    assert!(has_flow || fragment, "to a container without a flow");
                }
            }
            _ => {}
        }
    }
}

/// A packet of a masqueraded container on its way to the world, or to another node in VXLAN: nothing shows where it is from.
fn outside(packet: &[u8]) {
    assert_eq!(packet[12..16], NODE, "an inner address on the uplink");
    let header = usize::from(packet[0] & 15) * 4;
    let in_vxlan = packet[9] == protocol::UDP
        && packet[16..20] == FAR_NODE
        && packet[header + 2..header + 4] == [0x12, 0xb5];
    let is_fragment = packet[6] & 0x1f != 0 || packet[7] != 0;
    if !in_vxlan && !is_fragment && packet[9] == protocol::ICMP && matches!(packet[header], 3 | 11 | 12) {
        let quote = &packet[header + 8..];
        assert_eq!(quote[16..20], NODE, "an inner address in a quote");
    }
}

/// Whether all checksums of a packet are right; none: it is no whole IPv4 packet.
fn sound(packet: &[u8]) -> Option<bool> {
    let header = usize::from(packet.first()? & 15) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    if packet[0] >> 4 != 4 || header < 20 || total < header || total > packet.len() {
        return None;
    }
    if internet_checksum(&[&packet[..header]]) != 0 {
        return Some(false);
    }
    let l4 = &packet[header..total];
    let is_fragment = packet[6] & 0x3f != 0 || packet[7] != 0;
    if is_fragment {
        return None;
    }
    let pseudo = [&packet[12..20], &[0, packet[9]], &(l4.len() as u16).to_be_bytes()[..]].concat();
    match packet[9] {
        protocol::TCP if l4.len() >= 20 => Some(internet_checksum(&[&pseudo, l4]) == 0),
        protocol::UDP if l4.len() >= 8 && u16::from_be_bytes([l4[4], l4[5]]) as usize == l4.len() => {
            Some(l4[6..8] == [0, 0] || internet_checksum(&[&pseudo, l4]) == 0)
        }
        protocol::ICMP if l4.len() >= 8 => Some(internet_checksum(&[l4]) == 0),
        _ => None,
    }
}

/// Every flow has two entries that agree, and they are counted.
pub(crate) fn flows(tables: &Memory<V4>) {
    let flows = tables.flows.borrow();
    let mut inward = 0;
    for (tuple, flow) in flows.iter().filter(|(tuple, _)| tuple.direction == Tuple::<V4>::IN) {
        inward += 1;
        let other = flows.get(&tuple.opposite(flow.address, flow.port)).expect("half a flow");
        assert_eq!(
            (other.address, other.port),
            (tuple.destination, tuple.destination_port),
            "halves of two flows"
        );
        assert_eq!(other.slot, flow.slot, "of two endpoints");
    }
    assert_eq!(inward * 2, flows.len(), "half a flow");
    let counted: u32 = tables.flow_counts.borrow().values().sum();
    assert_eq!(counted as usize, inward, "flows and their counts differ");
}
