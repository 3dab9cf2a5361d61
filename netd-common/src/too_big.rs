//! ICMP "fragmentation needed" (RFC 792, RFC 1191): a packet that is too big for its way is turned into the error about it
//! and goes back to the container that sent it.

use crate::{
    V4, checksum,
    headers::Headers,
    packet::Packet,
    plan::Plan,
    wire::{Ethernet, Ipv4, icmp, protocol},
};

/// What an error quotes of the packet (RFC 792): an IP header without options and eight bytes.
type Quote = [u32; 7];

/// Length of the error, bytes.
const LEN: u32 = Ethernet::LEN + Ipv4::LEN + icmp::LEN + size_of::<Quote>() as u32;

/// Whether a packet that is too big can be answered: it asks for it, is no fragment or error itself (RFC 1122 section
/// 3.2.2), and has no options.
#[inline(always)]
pub fn can_be_answered<P: Packet>(packet: &P, ip: &Headers<V4>) -> bool {
    const L4: u32 = Ethernet::LEN + Ipv4::LEN;
    if ip.fragment != Ipv4::DONT_FRAGMENT || ip.l4 != L4 {
        return false;
    }
    let is_echo = |[kind, _]: [u8; 2]| kind == icmp::ECHO_REQUEST || kind == icmp::ECHO_REPLY;
    ip.protocol != protocol::ICMP || packet.get(L4).is_some_and(is_echo)
}

/// Turns the packet into the error; the Ethernet header is another's work. The plan has the MTU in `mtu`, the gateway in
/// `address` and the container in `old_address`.
#[inline(always)]
pub fn answer<P: Packet>(packet: &mut P, plan: &Plan<V4>) -> Option<()> {
    let quote: Quote = packet.get(Ethernet::LEN)?;
    packet.truncate(LEN)?;
    let length = (LEN - Ethernet::LEN) as u16;
    let ip = Ipv4::simple(0, length, protocol::ICMP, plan.address, plan.old_address);
    packet.set(Ethernet::LEN, ip)?;
    let kind = u32::from_ne_bytes([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, 0, 0]);
    let mtu = (plan.mtu as u16).to_be_bytes();
    let mtu = u32::from_ne_bytes([0, 0, mtu[0], mtu[1]]);
    let mut sum = checksum::add(kind, mtu);
    let mut index = 0;
    while index < quote.len() {
        sum = checksum::add(sum, quote[index]);
        index += 1;
    }
    let [type_and_code, _]: [u16; 2] =
        [u16::from_ne_bytes([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED]), 0];
    packet.set(Ethernet::LEN + Ipv4::LEN, [type_and_code, !checksum::fold(sum)])?;
    packet.set(Ethernet::LEN + Ipv4::LEN + 4, mtu)?;
    packet.set(Ethernet::LEN + Ipv4::LEN + icmp::LEN, quote)
}
