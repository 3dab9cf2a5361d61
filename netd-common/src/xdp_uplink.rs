//! A frame at the uplink before the kernel has made a packet of it (XDP): what is to go no further costs the least here.
//!
//! Sources that an administrator denies, IP headers that contradict themselves, and overlay packets that no node has sent. All
//! else passes untouched and uncounted. Nothing is written.

use crate::{
    Addr, Tables, V4, V6,
    abi::Denied,
    overlay,
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

/// Whether a frame may pass. One that may not is counted.
#[inline(always)]
pub fn xdp_uplink<P: Packet, T: Tables<V4> + Tables<V6> + DenyList>(frame: &P, tables: &T) -> bool {
    match check(frame, tables) {
        Ok(()) => true,
        Err(reason) => {
            tables.count_drop(reason, NO_SLOT, frame.len());
            false
        }
    }
}

/// Length of a VLAN tag, bytes.
const TAG: u32 = 4;
/// VLAN tags that are looked behind; nobody has more for good reason.
const TAGS: u32 = 4;

#[inline(always)]
fn is_tag(ethertype: Be16) -> bool {
    ethertype == Ethernet::VLAN || ethertype == Ethernet::SERVICE_VLAN
}

/// # Errors
/// Why it may not pass.
#[inline(always)]
fn check<P: Packet, T: Tables<V4> + Tables<V6> + DenyList>(frame: &P, tables: &T) -> Result<(), Drop> {
    let Some(ethernet) = frame.get::<Ethernet>(0) else { return Ok(()) };
    let mut ethertype = ethernet.ethertype;
    let mut ip = Ethernet::LEN;
    // The NIC mostly keeps a tag beside the frame. Those in it the kernel takes off one by one, as many as only give a priority.
    while is_tag(ethertype) {
        if ip == Ethernet::LEN + TAGS * TAG {
            return Err(Drop::Vlan);
        }
        let Some([_, inner]) = frame.get::<[Be16; 2]>(ip) else { return Ok(()) };
        ethertype = inner;
        ip += TAG;
    }
    match ethertype {
        V4::ETHERTYPE => self::ip::<V4, P, T>(frame, tables, ip, |source| tables.denied4(source)),
        V6::ETHERTYPE => self::ip::<V6, P, T>(frame, tables, ip, |source| tables.denied6(source)),
        _ => Ok(()),
    }
}

#[inline(always)]
fn ip<A: Addr, P: Packet, T: Tables<A> + Tables<V4> + Tables<V6> + DenyList>(
    frame: &P,
    tables: &T,
    offset: u32,
    denied: impl FnOnce(&A) -> Option<Denied>,
) -> Result<(), Drop> {
    let source: A = frame.get(offset + A::SOURCE - Ethernet::LEN).ok_or(Drop::Malformed)?;
    if let Some(entry) = denied(&source) {
        tables.count_denied(entry);
        return Err(Drop::Denied);
    }
    let ip = match A::headers(frame, offset) {
        Ok(ip) => ip,
        Err(Drop::Malformed) => return Err(Drop::Malformed),
        // What else is odd about it is for others to say.
        Err(_) => return Ok(()),
    };
    if ip.protocol != protocol::UDP || ip.is_fragment() || offset != Ethernet::LEN {
        return Ok(());
    }
    let to_overlay = frame.get::<Udp>(ip.l4).is_some_and(|udp| udp.destination == Vxlan::PORT);
    let config: Option<_> = Tables::<A>::config(tables);
    if !to_overlay || config.is_none_or(|config| config.address != ip.destination) {
        return Ok(());
    }
    match overlay::inner_type(frame, &ip) {
        Some(V6::ETHERTYPE) => overlay::decide::<A, V6, P, T>(frame, tables, &ip, &mut Plan::new()).map(drop),
        Some(_) => overlay::decide::<A, V4, P, T>(frame, tables, &ip, &mut Plan::new()).map(drop),
        None => Ok(()),
    }
}
