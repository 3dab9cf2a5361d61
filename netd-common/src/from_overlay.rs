//! A packet that the kernel's own VXLAN device has decapsulated: that device, ingress. Only what `from_uplink` leaves to it
//! comes by here: segmented UDP, and outer packets that had been cut into fragments.

use crate::{
    abi::network_of_vni,
    addr::V4,
    headers, overlay,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, Verdict},
    reason::{Drop, Way},
    tables::Tables,
    wire::Ethernet,
};

/// The whole way: decide, rewrite, count.
#[inline(always)]
pub fn from_overlay<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut plan = Plan::new(V4(0));
    let bytes = packet.len();
    let decided = decide(packet, tables, hook, &mut plan);
    match decided.and_then(|()| plan.carry_out(packet, |_| 0)) {
        Ok(()) => {
            tables.count_way(plan.way, bytes);
            tables.count_received(plan.receiver, bytes);
            tables.count_from_node(plan.from_node, bytes);
            Verdict { to: plan.to, ifindex: plan.ifindex, via: V4(0) }
        }
        Err(reason) => {
            tables.count_drop(reason, NO_SLOT, bytes);
            Verdict::DROP
        }
    }
}

/// Where the packet goes and what changes in it. Touches no byte of it.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    hook: Hook,
    plan: &mut Plan<V4>,
) -> Result<(), Drop> {
    let ethernet: Ethernet = packet.get(0).ok_or(Drop::Malformed)?;
    if ethernet.ethertype != Ethernet::IPV4 {
        return Err(Drop::EtherType);
    }
    let network = network_of_vni(hook.vni).ok_or(Drop::OverlayNetwork)?;
    let ip = headers::ipv4(packet)?;
    let (node, endpoint) = overlay::admit(tables, hook.node, network, &ip)?;
    overlay::deliver(plan, &endpoint, node, Way::FromNodeKernel);
    Ok(())
}
