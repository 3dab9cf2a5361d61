//! ICMP errors of netd's own (RFC 792, RFC 1812 section 4.3, RFC 4443): a packet that goes no further is turned into the error about it
//! and goes back to the container that sent it, from its gateway.

use crate::{
    addr::{Addr, V4, V6},
    checksum,
    headers::{self, Headers},
    packet::Packet,
    reason::Drop,
    tables::Tables,
    wire::{Be16, Ethernet, Ipv4, Ipv6, MacPair, icmp, protocol, tcp},
};

/// What an error quotes of the packet (RFC 792): an IP header without options and eight bytes.
type Quote4 = [u32; 7];
/// Likewise for IPv6. RFC 4443 would have as much as fits; this is what hosts look at.
type Quote6 = [u32; 12];

/// The error that tells why a packet was dropped (`reason` is the number of a [`Drop`]), as the first word of its ICMP header in host byte order, with the MTU where the
/// checksum will be; 0 if there is none. `mtu`: what would fit, bytes.
///
/// Where netd will not make a flow it says "communication administratively prohibited" (RFC 1812 section 5.2.7.1), as a firewall
/// does: with that, connect(2) fails at once for TCP and the next call for a connected UDP socket (EHOSTUNREACH; EACCES for IPv6),
/// which "network unreachable" or "host unreachable" would not do. An established connection takes it as a hint only.
#[inline(always)]
pub const fn about<A: Addr>(reason: u32, mtu: u32) -> u32 {
    const TIME: u32 = Drop::TtlExpired as u32;
    const QUOTA: u32 = Drop::FlowQuota as u32;
    const FULL: u32 = Drop::FlowTableFull as u32;
    const PORTS: u32 = Drop::PortsExhausted as u32;
    const PROTOCOL: u32 = Drop::Protocol as u32;
    const TOO_BIG: u32 = Drop::TooBig as u32;
    const NO_ROUTE: u32 = Drop::NoRoute as u32;
    const fn error([kind, code]: [u8; 2]) -> u32 {
        u32::from_be_bytes([kind, code, 0, 0])
    }
    match reason {
        TIME => error(A::ICMP.time_exceeded),
        QUOTA | FULL | PORTS | PROTOCOL => error(A::ICMP.prohibited),
        // No link of IPv6's has less (RFC 8200 section 5).
        TOO_BIG if A::V6 && mtu != 0 && mtu < 1280 => error(A::ICMP.too_big) | 1280,
        TOO_BIG if mtu != 0 => error(A::ICMP.too_big) | mtu & 0xffff,
        NO_ROUTE => error(A::ICMP.no_route),
        _ => 0,
    }
}

/// Whether there may be an error about a packet (RFC 1122 section 3.2.2, RFC 4443 section 2.4): not if it is one itself, nor a later
/// fragment, nor was sent to many; and only if it has no options, which keeps the quote's length the same for all. That something is
/// too big is said also to those who would let it be cut, unlike RFC 1191 has it: netd cuts nothing, and hosts that are told do it
/// themselves.
#[inline(always)]
fn can_be_answered<A: Addr, P: Packet>(packet: &P, ip: &Headers<A>, too_big: bool) -> bool {
    let to_many = packet.get(0).is_none_or(|[first, _]: [u8; 2]| first & 1 != 0);
    if is_jumbogram(packet, ip) {
        return !to_many && ip.protocol == protocol::TCP;
    }
    // An IPv6 fragment's own header is in the quote; what is behind it then is not.
    let l4 = const { Ethernet::LEN + A::HEADER } + if A::V6 && ip.id_at != 0 { 8 } else { 0 };
    if to_many || ip.is_later_fragment() || ip.l4 != l4 || too_big && ip.is_fragment() {
        return false;
    }
    let is_echo = |[kind, _]: [u8; 2]| kind == A::ICMP.echo_request || kind == A::ICMP.echo_reply;
    ip.protocol != A::ICMP.protocol || packet.get(ip.l4).is_some_and(is_echo)
}

/// Turns a packet that came from an interface into an error (see [`about`]) to the container there. Returns 0 if it may not have
/// one, or cannot be written.
///
/// A subprogram of its own in BPF: few packets come here.
#[inline(never)]
pub fn answer<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32, error: u32) -> u32 {
    u32::from(write(packet, tables, ifindex, error).is_some())
}

#[inline(always)]
fn write<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    error: u32,
) -> Option<()> {
    let [kind, code, mtu @ ..] = error.to_be_bytes();
    let interface = tables.interface(ifindex)?;
    let Ok(ip) = headers::ip::<A, P>(packet) else { return None };
    if !can_be_answered(packet, &ip, [kind, code] == A::ICMP.too_big) {
        return None;
    }
    let message = Message {
        macs: interface.macs,
        gateway: interface.gateway,
        container: interface.address,
        kind: u16::from_ne_bytes([kind, code]),
        mtu: u16::from_ne_bytes(mtu),
    };
    A::write_error(packet, &message)
}

/// An error, as [`Addr::write_error`] writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<A> {
    /// The Ethernet header's addresses.
    pub macs: MacPair,
    /// Whom it is from.
    pub gateway: A,
    /// Whom it is to.
    pub container: A,
    /// Type and code, as they lie in memory.
    pub kind: u16,
    /// Likewise the lower half of the second word: the MTU.
    pub mtu: u16,
}

/// An error about an IPv4 packet, which it quotes.
#[inline(always)]
pub fn write4<P: Packet>(packet: &mut P, message: &Message<V4>) -> Option<()> {
    const L4: u32 = Ethernet::LEN + Ipv4::LEN;
    const LEN: u32 = L4 + icmp::LEN + size_of::<Quote4>() as u32;
    let quote: Quote4 = packet.get(Ethernet::LEN)?;
    packet.resize(LEN)?;
    packet.set(0, message.macs)?;
    const LENGTH: u16 = (LEN - Ethernet::LEN) as u16;
    let ip = Ipv4::simple(0, 0, LENGTH, protocol::ICMP, message.gateway, message.container);
    packet.set(Ethernet::LEN, ip)?;
    let sum = sum(u32::from(message.kind) + u32::from(message.mtu), &quote);
    packet.set(L4, [message.kind, !checksum::fold(sum)])?;
    packet.set(L4 + 4, [0, message.mtu])?;
    packet.set(L4 + icmp::LEN, quote)
}

/// An error about an IPv6 packet, which it quotes.
#[inline(always)]
pub fn write6<P: Packet>(packet: &mut P, message: &Message<V6>) -> Option<()> {
    const L4: u32 = Ethernet::LEN + Ipv6::LEN;
    const LEN: u32 = L4 + icmp::LEN + size_of::<Quote6>() as u32;
    let mut quote: Quote6 = packet.get(Ethernet::LEN)?;
    let [length @ .., next, hops] = quote[1].to_ne_bytes();
    if next == protocol::HOP_BY_HOP {
        // A jumbogram (see `can_be_answered`): as its segments are, for the ports to be in the quote.
        let [ports, sequence]: [u32; 2] = packet.get(L4 + 8)?;
        quote[1] = u32::from_ne_bytes([length[0], length[1], protocol::TCP, hops]);
        quote[10] = ports;
        quote[11] = sequence;
    }
    packet.resize(LEN)?;
    packet.set(0, message.macs)?;
    const PAYLOAD: u16 = (LEN - L4) as u16;
    let ip = Ipv6::simple(0, PAYLOAD, protocol::ICMPV6, 64, message.gateway, message.container);
    packet.set(Ethernet::LEN, ip)?;
    let head = u32::from(message.kind)
        + u32::from(message.mtu)
        + u32::from(PAYLOAD.to_be())
        + u32::from(u16::from_ne_bytes([0, protocol::ICMPV6]));
    let pseudo = checksum::add(message.gateway.sum(), message.container.sum());
    let sum = sum(checksum::add(head, pseudo), &quote);
    packet.set(L4, [message.kind, !checksum::fold(sum)])?;
    packet.set(L4 + 4, [0, message.mtu])?;
    packet.set(L4 + icmp::LEN, quote)
}

#[inline(always)]
fn sum<const N: usize>(mut sum: u32, quote: &[u32; N]) -> u32 {
    let mut index = 0;
    while index < N {
        sum = checksum::add(sum, quote[index]);
        index += 1;
    }
    sum
}

/// Length of the longest packet on the wire, from its IP header on: of one that will be cut into segments, that of each.
#[inline(always)]
pub fn length_on_wire<A: Addr, P: Packet>(packet: &P, ip: &Headers<A>) -> u32 {
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
    let network = ip.l4 - Ethernet::LEN;
    let network = if A::V6 && is_jumbogram(packet, ip) { Ipv6::LEN } else { network };
    network + header + segment
}

/// Whether it has a jumbo payload option (RFC 2675) and no other extension header: the kernel puts one in front of more than 64 KiB
/// of TCP (BIG TCP, since 5.19), and takes it off again when it cuts the packet into segments. No such packet is ever on a wire.
#[inline(always)]
fn is_jumbogram<A: Addr, P: Packet>(packet: &P, ip: &Headers<A>) -> bool {
    const WITH_OPTION: u32 = Ethernet::LEN + Ipv6::LEN + 8;
    A::V6 && ip.l4 == WITH_OPTION && packet.len() > Ethernet::LEN + Ipv6::LEN + 0xffff
}
