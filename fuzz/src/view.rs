//! A packet of either family, as the checks see it.

use netd_common::{
    Addr as _, V4, V6,
    host::build::internet_checksum,
    wire::{icmp, protocol},
};

/// Addresses are IPv6's, or IPv4's as IPv4-mapped ones.
pub(crate) struct View<'a> {
    pub(crate) v6: bool,
    pub(crate) source: V6,
    pub(crate) destination: V6,
    pub(crate) protocol: u8,
    /// It is a fragment; a later one: it has no transport header.
    pub(crate) fragment: bool,
    pub(crate) later: bool,
    /// It has a routing header, so that its destination is not its last.
    routed: bool,
    /// From the transport header on, to its end as the header says.
    pub(crate) l4: &'a [u8],
    /// The header, where it has a checksum.
    header: &'a [u8],
    /// All of it is there.
    whole: bool,
}

impl<'a> View<'a> {
    /// None: it is no packet.
    pub(crate) fn new(packet: &'a [u8]) -> Option<Self> {
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
        let total = usize::from(half(packet, 2)?);
        let address = |at: usize| Some(V4::new(packet.get(at..at + 4)?.try_into().ok()?).mapped());
        let field = half(packet, 6)?;
        Some(Self {
            v6: false,
            source: address(12)?,
            destination: address(16)?,
            protocol: packet[9],
            fragment: field & 0x3fff != 0,
            later: field & 0x1fff != 0,
            routed: false,
            l4: packet.get(header..total.min(packet.len()))?,
            header: &packet[..header],
            whole: total <= packet.len(),
        })
    }

    fn v6(packet: &'a [u8]) -> Option<Self> {
        let address = |at: usize| Some(V6::new(packet.get(at..at + 16)?.try_into().ok()?));
        let total = 40 + usize::from(half(packet, 4)?);
        let mut view = Self {
            v6: true,
            source: address(8)?,
            destination: address(24)?,
            protocol: packet[6],
            fragment: false,
            later: false,
            routed: false,
            l4: &[],
            header: &[],
            whole: total <= packet.len(),
        };
        let mut at = 40;
        while !view.later && matches!(view.protocol, 0 | 43 | 44 | 60) {
            let extension = packet.get(at..at + 8)?;
            let mut length = 8 + usize::from(extension[1]) * 8;
            if view.protocol == protocol::FRAGMENT {
                length = 8;
                let field = half(extension, 2)?;
                view.fragment |= field & !6 != 0;
                view.later |= field & !7 != 0;
            }
            view.routed |= view.protocol == 43;
            view.protocol = extension[0];
            at += length;
        }
        view.l4 = packet.get(at..total.min(packet.len()))?;
        Some(view)
    }

    /// Source and destination port of TCP or UDP, of a first fragment too.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let has = !self.later && matches!(self.protocol, protocol::TCP | protocol::UDP);
        Some((half(self.l4, 0)?, half(self.l4, 2)?)).filter(|_| has)
    }

    /// What an ICMP error of a kind that can be about a flow quotes.
    pub(crate) fn quote(&self) -> Option<&'a [u8]> {
        let kind = *self.l4.first()?;
        let is_error = match (self.v6, self.protocol) {
            (false, protocol::ICMP) => matches!(kind, 3 | 11 | 12),
            (true, protocol::ICMPV6) => matches!(kind, 1..=4),
            _ => false,
        };
        self.l4.get(icmp::LEN as usize..).filter(|_| is_error && !self.fragment)
    }

    /// Whether all checksums are right; none: it is not whole, or has none that is known here.
    pub(crate) fn sound(&self) -> Option<bool> {
        if !self.whole || self.routed {
            return None;
        }
        if internet_checksum(&[self.header]) != 0 && !self.v6 {
            return Some(false);
        }
        if self.fragment {
            return None;
        }
        let length = (self.l4.len() as u32).to_be_bytes();
        let pseudo =
            [&self.source.bytes()[..], &self.destination.bytes(), &length, &[0, 0, 0, self.protocol]]
                .concat();
        // IPv4's has the same words: those that a mapped address begins with are taken out.
        let pseudo = if self.v6 { pseudo } else { [&pseudo[12..16], &pseudo[28..]].concat() };
        let is_sum = |pseudo: &[u8]| Some(internet_checksum(&[pseudo, self.l4]) == 0);
        match self.protocol {
            protocol::TCP if self.l4.len() >= 20 => is_sum(&pseudo),
            protocol::UDP if self.l4.len() >= 8 && usize::from(half(self.l4, 4)?) == self.l4.len() => {
                // In IPv6, tunnels alone may be without (RFC 6935).
                if self.l4[6..8] == [0, 0] { Some(true) } else { is_sum(&pseudo) }
            }
            protocol::ICMP if !self.v6 && self.l4.len() >= 8 => is_sum(&[]),
            protocol::ICMPV6 if self.v6 && self.l4.len() >= 8 => is_sum(&pseudo),
            _ => None,
        }
    }
}

pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
