//! What is to be done with a packet, and the doing of it.
//!
//! A plan is one flat struct, every field set from the start and filled through `&mut`: results that carry a payload leave
//! fields undefined on some path, and the verifier refuses to copy those.

use crate::{
    abi::Route,
    addr::{Addr, V4, V6},
    arp, checksum, ndp, overlay,
    packet::Packet,
    reason::{Drop, Way},
    related::{self, Edit},
    tables::Tables,
    wire::{Be16, Ethernet, MacPair, icmp, protocol, tcp, udp},
};

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum To {
    /// Nowhere.
    Drop,
    /// On, to whatever else is attached to the hook and then the host's own stack.
    Stack,
    /// Into the container behind a link's host side, at once; with [`Endpoint::SINGLE`](crate::abi::Endpoint::SINGLE) in the index, as [`To::Link`].
    Peer,
    /// Out of an interface, to the next hop that the kernel's own routes and neighbours name.
    Neighbour,
    /// Out of an interface as it is, with the Ethernet header that it has.
    Out,
    /// To a container, out of its link's host side, whatever that link is.
    Link,
}

/// The end of a packet's way through a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it goes.
    pub to: To,
    /// Out of which interface; 0 where that makes no sense.
    pub ifindex: u32,
    /// [`To::Neighbour`]: by this next hop, IPv4-mapped if it is IPv4; zero: by the one that the kernel's routes name for the
    /// packet's destination.
    pub via: V6,
}

impl Verdict {
    /// Drop it.
    pub const DROP: Self = Self { to: To::Drop, ifindex: 0, via: V6::ZERO };
    /// Leave it to the host's stack.
    pub const STACK: Self = Self { to: To::Stack, ifindex: 0, via: V6::ZERO };

    /// As one number, which is what a BPF subprogram can return; without `via`.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.to as u64) << 32 | self.ifindex as u64
    }

    /// The reverse.
    #[inline(always)]
    pub const fn unpack(packed: u64) -> Self {
        const STACK: u64 = To::Stack as u64;
        const PEER: u64 = To::Peer as u64;
        const NEIGHBOUR: u64 = To::Neighbour as u64;
        const OUT: u64 = To::Out as u64;
        const LINK: u64 = To::Link as u64;
        let to = match packed >> 32 {
            STACK => To::Stack,
            PEER => To::Peer,
            NEIGHBOUR => To::Neighbour,
            OUT => To::Out,
            LINK => To::Link,
            _ => To::Drop,
        };
        Self { to, ifindex: packed as u32, via: V6::ZERO }
    }
}

/// The slot of nobody.
pub const NO_SLOT: u32 = u32::MAX;

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan<A> {
    /// Where it goes.
    pub to: To,
    /// Out of which interface.
    pub ifindex: u32,
    /// The way that it is counted for.
    pub way: Way,
    /// The endpoint that sent it, or [`NO_SLOT`].
    pub sender: u32,
    /// The endpoint that gets it, or [`NO_SLOT`].
    pub receiver: u32,
    /// The node that it goes to, or [`NO_SLOT`].
    pub to_node: u32,
    /// The node that it comes from, or [`NO_SLOT`].
    pub from_node: u32,
    /// [`Plan::ENCAPSULATE`]: the network, whose VNI the packet gets. [`Plan::NEIGHBOUR`]: 1 if the neighbour is a router.
    pub network: u32,
    /// [`Plan::ENCAPSULATE`]: what the inner destination MAC is made from.
    pub inner: V4,
    /// What fits on the way, bytes. 0: not known, or not to be told.
    pub mtu: u32,
    /// If it is dropped, its sender is not told: trying again will help.
    pub quiet: bool,
    /// What changes in it: the constants below.
    pub rewrite: u32,
    /// [`Plan::MACS`]: the Ethernet header's addresses.
    pub macs: MacPair,
    /// Offset of the transport header.
    pub l4: u32,
    /// Its protocol.
    pub protocol: u8,
    /// [`Plan::ID`]: the new identification, as it lies in memory...
    pub id: u32,
    /// ... and its offset.
    pub id_at: u32,
    /// [`Plan::QUOTE`]: offset of the quoted transport header.
    pub quoted: u32,
    /// [`Plan::QUOTE`]: offset of the packet's end.
    pub end: u32,
    /// [`Plan::SOURCE`], [`Plan::DESTINATION`]: the port (or echo identifier) that it has...
    pub old_port: Be16,
    /// ... and the one that it gets.
    pub port: Be16,
    /// The address that it gets.
    pub address: A,
}

impl<A: Addr> Plan<A> {
    /// The Ethernet addresses are written.
    pub const MACS: u32 = 1;
    /// Source address and port are translated.
    pub const SOURCE: u32 = 2;
    /// Destination address and port are translated.
    pub const DESTINATION: u32 = 4;
    /// The time to live counts down: the packet is routed, not switched.
    pub const TTL: u32 = 8;
    /// An ARP request becomes its reply.
    pub const ARP: u32 = 16;
    /// It is encapsulated.
    pub const ENCAPSULATE: u32 = 32;
    /// It is decapsulated from VXLAN over IPv4...
    pub const DECAPSULATE: u32 = 64;
    /// ... or over IPv6.
    pub const DECAPSULATE6: u32 = 1024;
    /// Decapsulated, it gets the mark of congestion that the outer header had (RFC 6040)...
    pub const CONGESTED: u32 = 4096;
    /// ... or its other code point.
    pub const ECT1: u32 = 8192;
    /// A neighbour solicitation becomes its advertisement.
    pub const NEIGHBOUR: u32 = 2048;

    /// It is an ICMP error, and what it quotes is translated as the packet itself is; `old_port`, `port` and `protocol` are the
    /// quoted packet's.
    pub const QUOTE: u32 = 128;
    /// It is a fragment: the identification becomes `id`.
    pub const ID: u32 = 256;
    /// It has no transport header: only addresses are translated.
    pub const PLAIN: u32 = 512;

    /// Nothing decided.
    #[inline(always)]
    pub const fn new() -> Self {
        Self {
            to: To::Drop,
            ifindex: 0,
            way: Way::Local,
            sender: NO_SLOT,
            receiver: NO_SLOT,
            to_node: NO_SLOT,
            from_node: NO_SLOT,
            network: 0,
            inner: V4(0),
            mtu: 0,
            quiet: false,
            rewrite: 0,
            macs: MacPair([0; 3]),
            l4: 0,
            protocol: 0,
            id: 0,
            id_at: 0,
            quoted: 0,
            end: 0,
            old_port: Be16::ZERO,
            port: Be16::ZERO,
            address: A::ZERO,
        }
    }

    #[inline(always)]
    fn write<P: Packet>(&self, packet: &mut P) -> Option<()> {
        if self.rewrite & Self::TTL != 0 {
            count_down::<A, P>(packet)?;
        }
        if self.rewrite & (Self::SOURCE | Self::DESTINATION) != 0 {
            self.translate(packet)?;
        }
        if self.rewrite & Self::ID != 0 {
            if A::V6 {
                let old: u32 = packet.get(self.id_at)?;
                packet.set(self.id_at, self.id)?;
                packet.summed(checksum::diff(old, self.id));
            } else {
                const OFFSET: u32 = Ethernet::LEN + 4;
                let old: u16 = packet.get(OFFSET)?;
                packet.set(OFFSET, self.id as u16)?;
                header_checksum::<A, P>(packet, checksum::diff(u32::from(old), self.id))?;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn translate<P: Packet>(&self, packet: &mut P) -> Option<()> {
        let source = self.rewrite & Self::SOURCE != 0;
        let at = if source { A::SOURCE } else { A::DESTINATION };
        let pseudo = packet.get::<A>(at)?.checksum_diff(&self.address);
        packet.set(at, self.address)?;
        header_checksum::<A, P>(packet, pseudo)?;
        if self.rewrite & Self::QUOTE != 0 {
            let edit = Edit {
                l4: self.l4,
                quoted: self.quoted,
                end: self.end,
                protocol: u32::from(self.protocol),
                outward: u32::from(source),
                diff: pseudo,
                address: self.address,
                old_port: self.old_port,
                port: self.port,
            };
            return if related::translate(packet, &edit) == 0 { None } else { Some(()) };
        }
        if self.rewrite & Self::PLAIN != 0 {
            if A::V6 {
                packet.summed(pseudo);
            }
            return Some(());
        }
        let data = if self.old_port == self.port {
            0
        } else {
            checksum::diff(u32::from(self.old_port.raw()), u32::from(self.port.raw()))
        };
        if self.protocol == protocol::ICMP && !A::V6 {
            // No pseudo-header, and no device leaves this one to be summed up later: the field is always the sum.
            packet.set(self.l4 + icmp::IDENTIFIER, self.port)?;
            let old: u16 = packet.get(self.l4 + icmp::CHECKSUM)?;
            return packet.set(self.l4 + icmp::CHECKSUM, checksum::update(old, data));
        }
        if self.protocol == protocol::ICMPV6 && A::V6 {
            packet.set(self.l4 + icmp::IDENTIFIER, self.port)?;
            return packet.l4_checksum(self.l4 + icmp::CHECKSUM, pseudo, data, false, true);
        }
        packet.set(self.l4 + if source { 0 } else { 2 }, self.port)?;
        let is_udp = self.protocol == protocol::UDP;
        let field = if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
        packet.l4_checksum(self.l4 + field, pseudo, data, is_udp, A::V6)
    }
}

impl<A: Addr> Default for Plan<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: Addr> Plan<A> {
    /// Writes to the packet all that the plan says. `node`: the route to the node that the packet goes to.
    ///
    /// # Errors
    /// [`Drop::Rewrite`] where the packet cannot be written to.
    #[inline(always)]
    pub fn carry_out<P: Packet, T: Tables<A>>(
        &self,
        packet: &mut P,
        tables: &T,
        node: Option<&Route>,
    ) -> Result<(), Drop> {
        self.reshape(packet, tables, node).ok_or(Drop::Rewrite)
    }

    #[inline(always)]
    fn reshape<P: Packet, T: Tables<A>>(
        &self,
        packet: &mut P,
        tables: &T,
        node: Option<&Route>,
    ) -> Option<()> {
        if self.rewrite & Self::ENCAPSULATE != 0 {
            return overlay::encapsulate(packet, tables, self, node?);
        }
        let decapsulate = self.rewrite & (Self::DECAPSULATE | Self::DECAPSULATE6);
        if decapsulate != 0 {
            overlay::decapsulate::<A, P>(packet, decapsulate != Self::DECAPSULATE, self.rewrite)?;
        }

        if self.rewrite & Self::MACS != 0 {
            packet.set(0, self.macs)?;
        }
        if A::V6 {
            if self.rewrite & Self::NEIGHBOUR != 0 {
                return ndp::answer(packet, &self.macs, self.network != 0);
            }
        } else if self.rewrite & Self::ARP != 0 {
            return arp::answer(packet, &self.macs);
        }
        self.write(packet)
    }
}

/// As a router does: the time to live, which is more than 1, counts down.
#[inline(always)]
pub(crate) fn count_down<A: Addr, P: Packet>(packet: &mut P) -> Option<()> {
    let old: [u8; 2] = packet.get(A::TTL)?;
    let mut new = old;
    new[A::TTL_BYTE] -= 1;
    packet.set(A::TTL, new)?;
    let diff = checksum::diff(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)));
    if A::V6 {
        packet.summed(diff);
    }
    header_checksum::<A, P>(packet, diff)
}

/// Makes up in the header's checksum, if it has one, for what has changed there.
#[inline(always)]
pub(crate) fn header_checksum<A: Addr, P: Packet>(packet: &mut P, diff: u32) -> Option<()> {
    if let Some(offset) = A::CHECKSUM {
        let old: u16 = packet.get(offset)?;
        packet.set(offset, checksum::update(old, diff))?;
    }
    Some(())
}
