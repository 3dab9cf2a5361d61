//! ICMP errors about translated flows (RFC 5508 section 4): an error quotes the packet that it is about, as its sender saw it,
//! and has to reach the packet's source with the quote translated back.
//!
//! An error belongs to the flow of the packet that it quotes. It does not keep the flow alive and does not change its state,
//! as netfilter's RELATED does not: it may come from anywhere.

use crate::{
    abi::{Flow, Tuple},
    addr::Addr,
    checksum,
    flow::State,
    headers::Headers,
    packet::Packet,
    reason::Drop,
    tables::Tables,
    wire::{Be16, Ethernet, icmp, protocol, tcp, udp},
};

/// Most bytes of an error that are looked at at once, from its ICMP header on: quoted headers with all of IPv4's options.
/// (IPv6's extension headers are brought into reach one by one.)
const REACH: u32 = icmp::LEN + 60 + tcp::LEN;

/// Whether an error may come from `own`: a host that is no router complains only about what was sent to itself, so anything
/// else is an attempt to break others' connections.
///
/// # Errors
/// [`Drop::SpoofedError`] if not; [`Drop::Malformed`] if it does not say what it is about.
#[inline(always)]
pub fn check_sender<A: Addr, P: Packet>(packet: &P, ip: &Headers<A>, own: A) -> Result<(), Drop> {
    if ip.is_later_fragment() {
        return Ok(());
    }
    if ip.end < ip.l4 + icmp::LEN {
        return Err(Drop::Malformed);
    }
    let [kind, _]: [u8; 2] = packet.get(ip.l4).ok_or(Drop::Malformed)?;
    if !A::is_icmp_error(kind) {
        return Ok(());
    }
    packet.pull(ip.l4 + REACH);
    // All of it in the first fragment, if there are several: what would follow must not get past this.
    if ip.end < ip.l4 + icmp::LEN + A::HEADER {
        return Err(Drop::Malformed);
    }
    let about: A = packet.get(ip.l4 + icmp::LEN + A::DESTINATION - Ethernet::LEN).ok_or(Drop::Malformed)?;
    if about == own { Ok(()) } else { Err(Drop::SpoofedError) }
}

/// What an error is about: the packet as the error quotes it, and the flow that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Found<A> {
    /// Before: end of the error in the frame. After: offset of the quoted transport header.
    pub offset: u32,
    /// The quoted packet's protocol.
    pub protocol: u32,
    /// The port (or echo identifier) that the flow's translated side has in the quote...
    pub old_port: Be16,
    /// ... and the one that it gets.
    pub port: Be16,
    /// The flow's flags: see [`Flow::PUBLISHED`].
    pub flags: u32,
    /// Before: whom the error is sent to. After: the address that the flow's translated side gets.
    pub address: A,
}

impl<A: Addr> Found<A> {
    /// For an error with this header.
    #[inline(always)]
    pub const fn new(ip: &Headers<A>) -> Self {
        Self {
            offset: ip.end,
            protocol: 0,
            old_port: Be16::ZERO,
            port: Be16::ZERO,
            flags: 0,
            address: ip.destination,
        }
    }

    /// Whether the flow is one of two of a connection between containers: see [`Flow::HAIRPIN`].
    #[inline(always)]
    pub const fn is_hairpin(&self) -> bool {
        self.flags & Flow::<A>::HAIRPIN as u32 != 0
    }
}

/// Finds the flow that an error at `l4` is about. `direction`: [`Tuple::OUT`] for an error that a container sends, which quotes
/// what came back to it; [`Tuple::IN`] for one from the uplink, which quotes what the container sent. Returns 1 if there is
/// one, else 0.
///
/// Only types that say something about the quoted packet are looked at: unreachable, too big, time exceeded, parameter problem.
///
/// A subprogram of its own in BPF, so that packets which are no errors do not pay for it.
#[inline(never)]
pub fn find<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    l4: u32,
    direction: u32,
    found: &mut Found<A>,
) -> u32 {
    u32::from(flow_of(packet, tables, l4, direction as u8, found).is_some())
}

#[inline(always)]
fn flow_of<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    l4: u32,
    direction: u8,
    found: &mut Found<A>,
) -> Option<()> {
    let end = found.offset;
    packet.pull(l4 + REACH);
    let [kind, _]: [u8; 2] = packet.get(l4)?;
    if !A::is_icmp_error_of_flow(kind) {
        return None;
    }
    let quote = A::quoted(packet, l4 + icmp::LEN)?;
    // Eight bytes of the transport header are in every quote (RFC 792); without them nobody knows the flow.
    if quote.is_later_fragment() || quote.l4 + 8 > end {
        return None;
    }
    // An error goes to the source of what it is about.
    if quote.source != found.address {
        return None;
    }
    let outward = direction == Tuple::<A>::OUT;
    let words: [u16; 4] = packet.get(quote.l4)?;
    let (source, destination) = match quote.protocol {
        protocol::TCP | protocol::UDP => (words[0], words[1]),
        other if other == A::ICMP.protocol => {
            let [kind, _] = words[0].to_ne_bytes();
            if !outward && kind == A::ICMP.echo_request {
                (words[2], 0)
            } else if outward && kind == A::ICMP.echo_reply {
                (0, words[2])
            } else {
                return None;
            }
        }
        _ => return None,
    };
    // The quoted packet went the other way.
    let tuple = Tuple {
        source: quote.destination,
        destination: quote.source,
        source_port: Be16::from_raw(destination),
        destination_port: Be16::from_raw(source),
        protocol: quote.protocol,
        direction,
        reserved: 0,
    };
    let flow = tables.flow(&tuple)?;
    if flow.state.get() & State::DEAD != 0 {
        return None;
    }
    found.offset = quote.l4;
    found.protocol = u32::from(quote.protocol);
    found.old_port = if outward { tuple.source_port } else { tuple.destination_port };
    (found.address, found.port) = (flow.address, flow.port);
    found.flags = u32::from(flow.flags);
    Some(())
}

/// What is to be written into an error.
#[derive(Clone, Copy, Debug)]
pub struct Edit<A> {
    /// Offset of the ICMP header.
    pub l4: u32,
    /// Offset of the quoted transport header.
    pub quoted: u32,
    /// Offset of the packet's end.
    pub end: u32,
    /// The quoted packet's protocol.
    pub protocol: u32,
    /// 1: the container sends it, and was the quoted packet's destination; 0: it gets it, and was the source.
    pub outward: u32,
    /// The container's side in the quote as it becomes.
    pub address: A,
    /// What that changes in a checksum.
    pub diff: u32,
    /// Likewise its port (or echo identifier).
    pub old_port: Be16,
    /// As it becomes.
    pub port: Be16,
}

/// Translates what an error quotes, with all checksums. Returns 0 if the packet cannot be written.
///
/// Plain writes: the ICMP checksum, which makes up for all of them, is never left to a device.
#[inline(never)]
pub fn translate<P: Packet, A: Addr>(packet: &mut P, edit: &Edit<A>) -> u32 {
    u32::from(rewrite(packet, edit).is_some())
}

#[inline(always)]
fn rewrite<P: Packet, A: Addr>(packet: &mut P, edit: &Edit<A>) -> Option<()> {
    // Where the quoted header is, as far from a whole packet's.
    let ip = edit.l4 + icmp::LEN - Ethernet::LEN;
    let outward = edit.outward != 0;
    packet.set(ip + if outward { A::DESTINATION } else { A::SOURCE }, edit.address)?;
    let address = edit.diff;
    let mut sum = address;
    if let Some(field) = A::CHECKSUM {
        // The quoted header's own checksum, and what its change means for the error's.
        sum = checksum::add(sum, update(packet, ip + field, address)?);
    } else {
        // ICMPv6's covers the pseudo-header (RFC 4443 section 2.3), in which the same address changes.
        sum = checksum::add(sum, address);
    }
    let port = checksum::diff(u32::from(edit.old_port.raw()), u32::from(edit.port.raw()));
    sum = checksum::add(sum, port);
    let (at, field) = match edit.protocol as u8 {
        other if other == A::ICMP.protocol => (icmp::IDENTIFIER, icmp::CHECKSUM),
        protocol::UDP => (if outward { 2 } else { 0 }, udp::CHECKSUM),
        _ => (if outward { 2 } else { 0 }, tcp::CHECKSUM),
    };
    packet.set(edit.quoted + at, edit.port)?;
    let field = edit.quoted + field;
    // TCP's is mostly beyond the eight bytes that a quote must have. A UDP checksum of zero means that there is none.
    if field + 2 <= edit.end {
        let is_udp = edit.protocol as u8 == protocol::UDP;
        // Of all, IPv4's ICMP alone has no pseudo-header.
        let plain = edit.protocol as u8 == protocol::ICMP;
        let change = if plain { port } else { checksum::add(address, port) };
        let old: u16 = packet.get(field)?;
        if !is_udp || old != 0 {
            sum = checksum::add(sum, update(packet, field, change)?);
        }
    }
    update(packet, edit.l4 + icmp::CHECKSUM, sum)?;
    Some(())
}

/// Changes a checksum field by the change of what it covers; the change of the field itself.
#[inline(always)]
fn update<P: Packet>(packet: &mut P, offset: u32, change: u32) -> Option<u32> {
    let old: u16 = packet.get(offset)?;
    let new = checksum::update(old, change);
    packet.set(offset, new)?;
    Some(checksum::diff(u32::from(old), u32::from(new)))
}
