//! A frame at the uplink before the kernel has made a packet of it (XDP): what is to go no further costs the least here.
//!
//! Sources that an administrator denies, IP headers that contradict themselves, and overlay packets that no node has sent. All
//! else passes untouched and uncounted. Nothing is written.

use crate::{
    Tables, V4, V6,
    abi::Denied,
    headers, overlay,
    packet::Packet,
    plan::{NO_SLOT, Plan},
    reason::Drop,
    wire::{Be16, Ethernet, Udp, Vxlan, protocol},
};

/// The list of denied sources.
pub trait DenyList {
    /// The entry of the longest prefix of the list that an IPv4 source is in.
    fn denied4(&self, source: &V4) -> Option<Denied>;
    /// The same for IPv6.
    fn denied6(&self, source: &V6) -> Option<Denied>;
    /// Counts a packet that an entry has dropped.
    fn count_denied(&self, entry: Denied);
}

/// Offset of the source address in an IPv6 header.
const SOURCE6: u32 = 8;
/// Length of an IPv6 header.
const LEN6: u32 = 40;

/// Whether a frame may pass. One that may not is counted.
#[inline(always)]
pub fn xdp_uplink<P: Packet, T: Tables<V4> + DenyList>(frame: &P, tables: &T) -> bool {
    match check(frame, tables) {
        Ok(()) => true,
        Err(reason) => {
            tables.count_drop(reason, NO_SLOT, frame.len());
            false
        }
    }
}

/// # Errors
/// Why it may not pass.
#[inline(always)]
fn check<P: Packet, T: Tables<V4> + DenyList>(frame: &P, tables: &T) -> Result<(), Drop> {
    let Some(ethernet) = frame.get::<Ethernet>(0) else { return Ok(()) };
    let mut ethertype = ethernet.ethertype;
    let mut ip = Ethernet::LEN;
    if ethertype == Ethernet::VLAN || ethertype == Ethernet::SERVICE_VLAN {
        // The NIC mostly keeps the tag beside the frame; what it leaves in it is looked behind once.
        let Some([_, inner]) = frame.get::<[Be16; 2]>(Ethernet::LEN) else { return Ok(()) };
        ethertype = inner;
        ip += 4;
    }
    match ethertype {
        Ethernet::IPV4 => ipv4(frame, tables, ip),
        Ethernet::IPV6 => ipv6(frame, tables, ip),
        _ => Ok(()),
    }
}

#[inline(always)]
fn ipv4<P: Packet, T: Tables<V4> + DenyList>(frame: &P, tables: &T, offset: u32) -> Result<(), Drop> {
    let ip = headers::ipv4_at(frame, offset)?;
    if let Some(entry) = tables.denied4(&ip.source) {
        tables.count_denied(entry);
        return Err(Drop::Denied);
    }
    if ip.protocol != protocol::UDP || ip.is_fragment() || offset != Ethernet::LEN {
        return Ok(());
    }
    let to_overlay = frame.get::<Udp>(ip.l4).is_some_and(|udp| udp.destination == Vxlan::PORT);
    if !to_overlay || tables.config().is_none_or(|config| config.address != ip.destination) {
        return Ok(());
    }
    let mut plan = Plan::new(V4(0));
    overlay::decide(frame, tables, &ip, &mut plan).map(drop)
}

#[inline(always)]
fn ipv6<P: Packet, T: DenyList>(frame: &P, tables: &T, offset: u32) -> Result<(), Drop> {
    let head: [u16; 4] = frame.get(offset).ok_or(Drop::Malformed)?;
    let [version, _] = head[0].to_ne_bytes();
    let length = u32::from(u16::from_be(head[2]));
    if version >> 4 != 6 || offset + LEN6 + length > frame.len() {
        return Err(Drop::Malformed);
    }
    let source: V6 = frame.get(offset + SOURCE6).ok_or(Drop::Malformed)?;
    if let Some(entry) = tables.denied6(&source) {
        tables.count_denied(entry);
        return Err(Drop::Denied);
    }
    Ok(())
}
