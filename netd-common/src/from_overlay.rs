//! A packet that the kernel's own VXLAN device has decapsulated: that device, ingress. Only what `from_uplink` leaves to it
//! comes by here: segmented UDP, and outer packets that had been cut into fragments.

use crate::{
    abi::network_of_vni,
    addr::{Addr, V4, V6},
    headers, overlay,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, Verdict},
    reason::{Drop, Way},
    tables::Tables,
    wire::{Be16, Ethernet},
};

/// The whole way: decide, rewrite, count.
#[inline(always)]
pub fn from_overlay<P: Packet, T: Tables<V4> + Tables<V6>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
) -> Verdict {
    if hook.vlan {
        // The device has taken the tag off the inner frame: in it, the packet would come to another network of the container's own.
        tables.count_drop(Drop::Vlan, NO_SLOT, packet.len());
        return Verdict::DROP;
    }
    match packet.get::<Be16>(Ethernet::ETHERTYPE) {
        Some(Ethernet::IPV4) => family::<V4, P, T>(packet, tables, hook),
        Some(Ethernet::IPV6) => Verdict::unpack(ipv6(packet, tables, &hook)),
        _ => {
            tables.count_drop(Drop::EtherType, NO_SLOT, packet.len());
            Verdict::DROP
        }
    }
}

/// A subprogram of its own in BPF, on a stack of its own.
#[inline(never)]
fn ipv6<P: Packet, T: Tables<V6>>(packet: &mut P, tables: &T, hook: &Hook) -> u64 {
    packet.pull(Ethernet::LEN + V6::HEADER);
    family::<V6, P, T>(packet, tables, *hook).pack()
}

#[inline(always)]
fn family<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut plan = Plan::<A>::new();
    let bytes = packet.len();
    let decided = decide(packet, tables, hook, &mut plan);
    match decided.and_then(|()| plan.carry_out(packet, tables, None)) {
        Ok(()) => {
            tables.count_way(plan.way, bytes);
            tables.count_received(plan.receiver, bytes);
            tables.count_from_node(plan.from_node, bytes);
            Verdict { to: plan.to, ifindex: plan.ifindex, via: V6::ZERO }
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
pub fn decide<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    hook: Hook,
    plan: &mut Plan<A>,
) -> Result<(), Drop> {
    let network = network_of_vni(hook.vni).ok_or(Drop::OverlayNetwork)?;
    let config = tables.config().ok_or(Drop::OverlayNode)?;
    // The device receives at all of the host's addresses. Nodes know this one by one alone; over IPv6, an IPv4-mapped source is no node.
    let own = if hook.node.is_mapped() { config.underlay4.mapped() } else { config.underlay6 };
    if hook.own != own {
        return Err(Drop::OverlayNode);
    }
    let ip = headers::ip(packet)?;
    let (node, endpoint) = overlay::admit(tables, &hook.node, network, &ip)?;
    overlay::deliver(plan, &endpoint, node, Way::FromNodeKernel);
    Ok(())
}
