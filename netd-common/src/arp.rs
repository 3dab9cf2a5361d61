//! ARP (RFC 826): the host's MAC answers for everything in a container's subnet, so that a container with an on-link
//! subnet needs no bridge to find its neighbours.

use crate::{
    abi::Interface,
    addr::{Addr, V4},
    packet::Packet,
    plan::{Plan, To},
    reason::{Drop, Way},
    wire::{Arp, Be16, Ethernet, MacPair},
};

/// Decides on an ARP message from a container.
///
/// # Errors
/// [`Drop::Malformed`], [`Drop::SpoofedArp`], or [`Drop::Arp`] for what gets no answer: a message that is no request, an
/// address outside the subnet, and the container's own address, for which an answer would mean a conflict (RFC 5227).
#[inline(always)]
pub fn decide<P: Packet>(packet: &P, interface: &Interface<V4>, plan: &mut Plan<V4>) -> Result<(), Drop> {
    let arp: Arp = packet.get(Ethernet::LEN).ok_or(Drop::Malformed)?;
    if arp.hardware != Be16::new(1) || arp.protocol != Ethernet::IPV4 || arp.lengths != Be16::new(0x0604) {
        return Err(Drop::Malformed);
    }
    let sender = address(arp.sender);
    // A probe (RFC 5227) asks without an address of its own.
    if arp.sender_mac != interface.mac || (sender != interface.address && sender != V4(0)) {
        return Err(Drop::SpoofedArp);
    }
    let target = address(arp.target);
    if arp.operation != Arp::REQUEST
        || target == interface.address
        || !target.within(&interface.subnet, &interface.mask)
    {
        return Err(Drop::Arp);
    }
    plan.to = To::Out;
    plan.way = Way::Arp;
    plan.macs = interface.macs;
    plan.rewrite = Plan::<V4>::MACS | Plan::<V4>::ARP;
    Ok(())
}

/// Turns a request into its answer; the Ethernet header is another's work. `macs` is that header: to the container, from
/// the host's side.
#[inline(always)]
pub fn answer<P: Packet>(packet: &mut P, macs: &MacPair) -> Option<()> {
    let request: Arp = packet.get(Ethernet::LEN)?;
    let reply = Arp {
        operation: Arp::REPLY,
        sender_mac: macs.source(),
        sender: request.target,
        target_mac: macs.destination(),
        target: request.sender,
        ..request
    };
    packet.set(Ethernet::LEN, reply)
}

#[inline(always)]
fn address(words: [u16; 2]) -> V4 {
    let [a, b] = [words[0].to_ne_bytes(), words[1].to_ne_bytes()];
    V4::new([a[0], a[1], b[0], b[1]])
}
