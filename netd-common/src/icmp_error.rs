//! ICMP errors of netd's own (RFC 792, RFC 1812 section 4.3): a packet that goes no further is turned into the error about it
//! and goes back to the container that sent it, from its gateway.

use crate::{
    V4, checksum,
    headers::{self, Headers},
    packet::Packet,
    reason::Drop,
    tables::Tables,
    wire::{Be16, Ethernet, Ipv4, icmp, protocol, tcp},
};

/// What an error quotes of the packet (RFC 792): an IP header without options and eight bytes.
type Quote = [u32; 7];

/// Offset of the ICMP header, and of the transport header of a packet that can be answered.
const L4: u32 = Ethernet::LEN + Ipv4::LEN;
/// Length of the error, bytes.
const LEN: u32 = L4 + icmp::LEN + size_of::<Quote>() as u32;

/// The error that tells why a packet was dropped, as the first word of its ICMP header in host byte order, with the MTU where the
/// checksum will be; 0 if there is none. `mtu`: what would fit, bytes.
///
/// Where netd will not make a flow it says "communication administratively prohibited" (RFC 1812 section 5.2.7.1), as a firewall
/// does: with that, connect(2) fails at once for TCP and the next call for a connected UDP socket (EHOSTUNREACH), which "network
/// unreachable" or "host unreachable" would not do. An established connection takes it as a hint only.
#[inline(always)]
pub const fn about(reason: Drop, mtu: u32) -> u32 {
    const fn error(kind: u8, code: u8) -> u32 {
        u32::from_be_bytes([kind, code, 0, 0])
    }
    match reason {
        Drop::TtlExpired => error(icmp::TIME_EXCEEDED, icmp::IN_TRANSIT),
        Drop::FlowQuota | Drop::FlowTableFull | Drop::PortsExhausted | Drop::Protocol => {
            error(icmp::UNREACHABLE, icmp::PROHIBITED)
        }
        Drop::TooBig if mtu != 0 => error(icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) | mtu & 0xffff,
        _ => 0,
    }
}

/// Whether there may be an error about a packet (RFC 1122 section 3.2.2): not if it is one itself, nor a later fragment, nor was
/// sent to many; and only if it has no options, which keeps the quote's length the same for all. That something is too big is said
/// also to those who would let it be cut, unlike RFC 1191 has it: netd cuts nothing, and hosts that are told do it themselves.
#[inline(always)]
fn can_be_answered<P: Packet>(packet: &P, ip: &Headers<V4>, too_big: bool) -> bool {
    let to_many = packet.get(0).is_none_or(|[first, _]: [u8; 2]| first & 1 != 0);
    if to_many || ip.is_later_fragment() || ip.l4 != L4 || too_big && ip.is_fragment() {
        return false;
    }
    let is_echo = |[kind, _]: [u8; 2]| kind == icmp::ECHO_REQUEST || kind == icmp::ECHO_REPLY;
    ip.protocol != protocol::ICMP || packet.get(L4).is_some_and(is_echo)
}

/// Turns a packet that came from an interface into an error (see [`about`]) to the container there. Returns 0 if it may not have
/// one, or cannot be written.
///
/// A subprogram of its own in BPF: few packets come here.
#[inline(never)]
pub fn answer<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, ifindex: u32, error: u32) -> u32 {
    u32::from(write(packet, tables, ifindex, error).is_some())
}

#[inline(always)]
fn write<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, ifindex: u32, error: u32) -> Option<()> {
    let [kind, code, mtu @ ..] = error.to_be_bytes();
    let interface = tables.interface(ifindex)?;
    let Ok(ip) = headers::ipv4(packet) else { return None };
    let too_big = kind == icmp::UNREACHABLE && code == icmp::FRAGMENTATION_NEEDED;
    if !can_be_answered(packet, &ip, too_big) {
        return None;
    }
    let quote: Quote = packet.get(Ethernet::LEN)?;
    packet.resize(LEN)?;
    packet.set(0, interface.macs)?;
    let length = (LEN - Ethernet::LEN) as u16;
    packet
        .set(Ethernet::LEN, Ipv4::simple(0, length, protocol::ICMP, interface.gateway, interface.address))?;
    let kind = u16::from_ne_bytes([kind, code]);
    let mtu = u16::from_ne_bytes(mtu);
    let mut sum = u32::from(kind) + u32::from(mtu);
    let mut index = 0;
    while index < quote.len() {
        sum = checksum::add(sum, quote[index]);
        index += 1;
    }
    packet.set(L4, [kind, !checksum::fold(sum)])?;
    packet.set(L4 + 4, [0, mtu])?;
    packet.set(L4 + icmp::LEN, quote)
}

/// Length of the longest packet on the wire, from its IP header on: of one that will be cut into segments, that of each.
#[inline(always)]
pub fn length_on_wire<P: Packet>(packet: &P, ip: &Headers<V4>) -> u32 {
    let segment = packet.segment_size();
    if segment == 0 {
        return packet.len() - Ethernet::LEN;
    }
    let header = match ip.protocol {
        protocol::TCP => {
            let word: Be16 = packet.get(ip.l4 + tcp::DATA_OFFSET).unwrap_or(Be16::ZERO);
            u32::from(word.host() >> 12) * 4
        }
        _ => 8,
    };
    ip.l4 - Ethernet::LEN + header + segment
}
