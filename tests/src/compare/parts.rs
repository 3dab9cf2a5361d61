//! Packets of either family, taken apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_common::{host::build::internet_checksum, wire::protocol};

use super::Family;

/// The parts of a packet, or of the beginning of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a> {
    pub(super) family: Family,
    pub(super) ttl: u8,
    pub(super) df: bool,
    /// IPv4's identification.
    pub(super) id: u16,
    /// Of what follows all headers of the network's; ICMPv6's is ICMP's.
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What the header says.
    pub(super) total: usize,
    /// Options, or extension headers.
    pub(super) options: &'a [u8],
    /// The header's checksum is right.
    pub(super) sound: bool,
    pub(super) l4: &'a [u8],
}

impl<'a> Parts<'a> {
    /// None: it is too short, or no packet.
    pub(super) fn new(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::v4(packet),
            6 => Self::v6(packet),
            _ => None,
        }
    }

    fn v4(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet[0] & 15) * 4;
        if header < 20 || packet.len() < header {
            return None;
        }
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
        Some(Self {
            family: Family::V4,
            ttl: packet[8],
            df: packet[6] & 0x40 != 0,
            id: u16::from_be_bytes([packet[4], packet[5]]),
            protocol: packet[9],
            source: address(12)?.into(),
            destination: address(16)?.into(),
            total,
            options: &packet[20..header],
            sound: internet_checksum(&[&packet[..header]]) == 0,
            l4: &packet[header..packet.len().min(total.max(header))],
        })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        let head = packet.get(..40)?;
        let total = 40 + usize::from(u16::from_be_bytes([head[4], head[5]]));
        let end = packet.len().min(total);
        let (mut next, mut at) = (head[6], 40);
        // Hop-by-hop options, routing, fragment, destination options.
        while matches!(next, 0 | 43 | 44 | 60) {
            let extension = packet[..end].get(at..at + 8)?;
            let length = if next == 44 { 8 } else { 8 + usize::from(extension[1]) * 8 };
            (next, at) = (extension[0], at + length);
        }
        let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
        Some(Self {
            family: Family::V6,
            ttl: head[7],
            df: false,
            id: 0,
            protocol: if next == protocol::ICMPV6 { protocol::ICMP } else { next },
            source: address(8)?.into(),
            destination: address(24)?.into(),
            total,
            options: packet.get(40..at)?,
            // The traffic class and the flow label, which nobody sets.
            sound: head[..4] == [0x60, 0, 0, 0],
            l4: packet.get(at..end)?,
        })
    }

    /// Whether it is an ICMP error, of a kind that can be about a flow or not.
    pub(super) fn is_error(&self) -> bool {
        self.protocol == protocol::ICMP
            && match (self.family, self.l4.first()) {
                (Family::V4, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
                (Family::V6, Some(kind)) => *kind < 128,
                _ => false,
            }
    }

    /// Whether it is an echo request (`true`) or reply.
    pub(super) fn echo(&self) -> Option<bool> {
        match (self.protocol, self.family, self.l4.first()?) {
            (protocol::ICMP, Family::V4, 8) | (protocol::ICMP, Family::V6, 128) => Some(true),
            (protocol::ICMP, Family::V4, 0) | (protocol::ICMP, Family::V6, 129) => Some(false),
            _ => None,
        }
    }

    /// Whether it is of neighbour discovery, which is not compared.
    pub(super) fn is_discovery(&self) -> bool {
        self.family == Family::V6
            && self.protocol == protocol::ICMP
            && matches!(self.l4.first(), Some(133..=137))
    }

    /// Whether the transport checksum is right; none: there is none.
    pub(super) fn sum(&self) -> Option<bool> {
        let length = (self.l4.len() as u32).to_be_bytes();
        let pseudo = |protocol: u8| match (self.source, self.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, protocol]].concat()
            }
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                [&source.octets()[..], &destination.octets(), &[0, protocol], &length[2..]].concat()
            }
            _ => Vec::new(),
        };
        let is_sum = |pseudo: Vec<u8>| Some(internet_checksum(&[&pseudo, self.l4]) == 0);
        match (self.protocol, self.family) {
            (protocol::UDP, Family::V4) if self.l4.get(6..8) == Some(&[0, 0]) => None,
            // RFC 8200 section 8.1: none may be without.
            (protocol::UDP, Family::V6) if self.l4.get(6..8) == Some(&[0, 0]) => Some(false),
            (protocol::TCP | protocol::UDP, _) => is_sum(pseudo(self.protocol)),
            (protocol::ICMP, Family::V4) => is_sum(Vec::new()),
            (protocol::ICMP, Family::V6) => is_sum(pseudo(protocol::ICMPV6)),
            _ => Some(true),
        }
    }
}
