//! What is to be done with a packet, and the doing of it.
//!
//! A plan is one flat struct, every field set from the start and filled through `&mut`: results that carry a payload leave
//! fields undefined on some path, and the verifier refuses to copy those.

use crate::{
    V4,
    addr::Addr,
    arp, checksum, overlay,
    packet::Packet,
    reason::{Drop, Way},
    related::{self, Edit},
    wire::{Be16, MacPair, icmp, protocol, tcp, udp},
};

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum To {
    /// Nowhere.
    Drop,
    /// On, to whatever else is attached to the hook and then the host's own stack.
    Stack,
    /// Into the container behind a link's host side, at once.
    Peer,
    /// Out of an interface, to the next hop that the kernel's own routes and neighbours name.
    Neighbour,
    /// Back out of the interface that it came from.
    Reflect,
}

/// The end of a packet's way through a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it goes.
    pub to: To,
    /// Out of which interface; 0 where that makes no sense.
    pub ifindex: u32,
    /// [`To::Neighbour`]: by this next hop; 0: by the one that the kernel's routes name for the packet's destination.
    pub via: V4,
}

impl Verdict {
    /// Drop it.
    pub const DROP: Self = Self { to: To::Drop, ifindex: 0, via: V4(0) };
    /// Leave it to the host's stack.
    pub const STACK: Self = Self { to: To::Stack, ifindex: 0, via: V4(0) };

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
        let to = match packed >> 32 {
            STACK => To::Stack,
            PEER => To::Peer,
            NEIGHBOUR => To::Neighbour,
            _ => To::Drop,
        };
        Self { to, ifindex: packed as u32, via: V4(0) }
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
    /// [`To::Neighbour`]: the next hop, if it is not the destination's own; [`Plan::ENCAPSULATE`]: the outer destination.
    pub node: V4,
    /// [`Plan::ENCAPSULATE`]: the network, whose VNI the packet gets.
    pub network: u32,
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
    /// [`Plan::ID`]: the new identification.
    pub id: Be16,
    /// [`Plan::QUOTE`]: offset of the quoted transport header.
    pub quoted: u32,
    /// [`Plan::QUOTE`]: offset of the packet's end.
    pub end: u32,
    /// [`Plan::SOURCE`], [`Plan::DESTINATION`]: the port (or echo identifier) that it has...
    pub old_port: Be16,
    /// ... and the one that it gets.
    pub port: Be16,
    /// The address that it has...
    pub old_address: A,
    /// ... and the one that it gets.
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
    /// It is encapsulated: `address` is the outer source, `old_address` the inner destination.
    pub const ENCAPSULATE: u32 = 32;
    /// It is decapsulated.
    pub const DECAPSULATE: u32 = 64;

    /// It is an ICMP error, and what it quotes is translated as the packet itself is; `old_port`, `port` and `protocol` are the
    /// quoted packet's.
    pub const QUOTE: u32 = 128;
    /// It is a fragment: the identification becomes `id`.
    pub const ID: u32 = 256;
    /// It has no transport header: only addresses are translated.
    pub const PLAIN: u32 = 512;

    /// Nothing decided: `zero` is any address.
    #[inline(always)]
    pub const fn new(zero: A) -> Self {
        Self {
            to: To::Drop,
            ifindex: 0,
            way: Way::Local,
            sender: NO_SLOT,
            receiver: NO_SLOT,
            to_node: NO_SLOT,
            from_node: NO_SLOT,
            node: V4(0),
            network: 0,
            mtu: 0,
            quiet: false,
            rewrite: 0,
            macs: MacPair([0; 3]),
            l4: 0,
            protocol: 0,
            id: Be16::ZERO,
            quoted: 0,
            end: 0,
            old_port: Be16::ZERO,
            port: Be16::ZERO,
            old_address: zero,
            address: zero,
        }
    }

    #[inline(always)]
    fn write<P: Packet>(&self, packet: &mut P) -> Option<()> {
        if self.rewrite & Self::TTL != 0 {
            let old: [u8; 2] = packet.get(A::TTL)?;
            let new = [old[0] - 1, old[1]];
            packet.set(A::TTL, new)?;
            let diff = checksum::diff(u32::from(u16::from_ne_bytes(old)), u32::from(u16::from_ne_bytes(new)));
            self.header_checksum(packet, diff)?;
        }
        if self.rewrite & (Self::SOURCE | Self::DESTINATION) != 0 {
            self.translate(packet)?;
        }
        if let (true, Some(offset)) = (self.rewrite & Self::ID != 0, A::ID) {
            let old: Be16 = packet.get(offset)?;
            packet.set(offset, self.id)?;
            self.header_checksum(packet, checksum::diff(u32::from(old.raw()), u32::from(self.id.raw())))?;
        }
        Some(())
    }

    #[inline(always)]
    fn header_checksum<P: Packet>(&self, packet: &mut P, diff: u32) -> Option<()> {
        if let Some(offset) = A::CHECKSUM {
            let old: u16 = packet.get(offset)?;
            packet.set(offset, checksum::update(old, diff))?;
        }
        Some(())
    }

    #[inline(always)]
    fn translate<P: Packet>(&self, packet: &mut P) -> Option<()> {
        let source = self.rewrite & Self::SOURCE != 0;
        packet.set(if source { A::SOURCE } else { A::DESTINATION }, self.address)?;
        let pseudo = self.old_address.checksum_diff(&self.address);
        self.header_checksum(packet, pseudo)?;
        if self.rewrite & Self::QUOTE != 0 {
            let edit = Edit {
                l4: self.l4,
                quoted: self.quoted,
                end: self.end,
                protocol: u32::from(self.protocol),
                outward: u32::from(source),
                old_address: self.old_address,
                address: self.address,
                old_port: self.old_port,
                port: self.port,
            };
            return if related::translate(packet, &edit) == 0 { None } else { Some(()) };
        }
        if self.rewrite & Self::PLAIN != 0 {
            return Some(());
        }
        let data = if self.old_port == self.port {
            0
        } else {
            checksum::diff(u32::from(self.old_port.raw()), u32::from(self.port.raw()))
        };
        if self.protocol == protocol::ICMP {
            // No pseudo-header, and no device leaves this one to be summed up later: the field is always the sum.
            packet.set(self.l4 + icmp::IDENTIFIER, self.port)?;
            let old: u16 = packet.get(self.l4 + icmp::CHECKSUM)?;
            return packet.set(self.l4 + icmp::CHECKSUM, checksum::update(old, data));
        }
        packet.set(self.l4 + if source { 0 } else { 2 }, self.port)?;
        let is_udp = self.protocol == protocol::UDP;
        let field = if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
        packet.l4_checksum(self.l4 + field, pseudo, data, is_udp, A::V6)
    }
}

impl Plan<V4> {
    /// Writes to the packet all that the plan says. `identification`: see [`overlay::encapsulate`]; asked for only there.
    ///
    /// # Errors
    /// [`Drop::Rewrite`] where the packet cannot be written to.
    #[inline(always)]
    pub fn carry_out<P: Packet>(
        &self,
        packet: &mut P,
        identification: impl FnOnce(u32) -> u16,
    ) -> Result<(), Drop> {
        self.reshape(packet, identification).ok_or(Drop::Rewrite)
    }

    #[inline(always)]
    fn reshape<P: Packet>(&self, packet: &mut P, identification: impl FnOnce(u32) -> u16) -> Option<()> {
        if self.rewrite & Self::ENCAPSULATE != 0 {
            return overlay::encapsulate(packet, self, identification);
        }
        if self.rewrite & Self::DECAPSULATE != 0 {
            packet.decapsulate()?;
        }

        if self.rewrite & Self::MACS != 0 {
            packet.set(0, self.macs)?;
        }
        if self.rewrite & Self::ARP != 0 {
            return arp::answer(packet, &self.macs);
        }
        self.write(packet)
    }
}
