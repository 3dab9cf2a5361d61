//! A packet that a container sends: the host side of its link, ingress. This is the way of most; what is rare is decided in `rare`,
//! and how programs follow each other is in `steps`.

mod rare;
mod steps;

use crate::{
    abi::{Flow, Interface, Route, Tuple},
    addr::Addr,
    fragment, hairpin,
    headers::{self, Headers, Transport},
    icmp_error,
    nat::{self, Mapping},
    overlay,
    packet::{Hook, Packet},
    plan::{Plan, To},
    reason::{Drop, Way},
    related,
    tables::Tables,
    wire::{Ethernet, Vxlan},
};

pub use self::{
    rare::{decide_discovery, decide_error, decide_open, decide_rare},
    steps::{Step4, Step6, Told, from_container, from_container6, step4, step6},
};

/// What is to be done next with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// What the plan says.
    Plan,
    /// It has no ports of its own: see [`decide_rare`].
    Rare,
    /// Likewise, and it may be an ICMP error: see [`decide_error`]. IPv6's only.
    Error,
    /// It belongs to no flow: see [`decide_open`].
    Open,
    /// It has got a flow, and is looked at anew.
    Again,
    /// It is neighbour discovery: see [`decide_discovery`].
    Discover,
    /// It goes to another container by a published port: see [`hairpin::hairpin()`].
    Hairpin,
    /// It goes to another node, and is too long for netd to encapsulate: see [`crate::overlay::hand_over`].
    Overlay,
}

/// Where the packet goes and what changes in it. Touches no byte of it. `node`: the route to the node that it goes to.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide<'t, A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    hook: Hook,
    plan: &mut Plan<A>,
    node: &mut Option<T::Ref<'t, Route>>,
) -> Result<Then, Drop> {
    let interface = tables.interface(hook.ifindex).ok_or(A::NO_INTERFACE)?;
    plan.sender = interface.slot;
    if hook.vlan {
        // Out of the uplink, the tag would put the packet into a VLAN of the container's choice.
        return Err(Drop::Vlan);
    }
    let ethernet: Ethernet = packet.get(0).ok_or(Drop::Malformed)?;
    if ethernet.source != interface.mac {
        return Err(Drop::SpoofedMac);
    }
    if ethernet.ethertype == A::ETHERTYPE {
        return ip(packet, tables, &interface, plan, node);
    }
    if ethernet.ethertype == Ethernet::ARP {
        plan.ifindex = hook.ifindex;
        return A::resolve(packet, &interface, plan).map(|()| Then::Plan);
    }
    // Where an interface receives, the kernel has taken the tag off; where netkit sends, it has not.
    let tagged = ethernet.ethertype == Ethernet::VLAN || ethernet.ethertype == Ethernet::SERVICE_VLAN;
    Err(if tagged { Drop::Vlan } else { Drop::EtherType })
}

#[inline(always)]
fn ip<'t, A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    interface: &Interface<A>,
    plan: &mut Plan<A>,
    node: &mut Option<T::Ref<'t, Route>>,
) -> Result<Then, Drop> {
    let ip = headers::ip::<A, P>(packet)?;
    if A::is_discovery(packet, interface, &ip)? {
        return Ok(Then::Discover);
    }
    if ip.protocol == A::ICMP.protocol {
        related::check_sender(packet, &ip, interface.address)?;
    }
    if ip.destination.within(&interface.subnet, &interface.mask) {
        if ip.destination == interface.gateway {
            return Ok(host_or_hairpin(packet, tables, &ip, plan));
        }
        // No two networks share an address, so whoever has this one is in the sender's network.
        let Some(endpoint) = tables.endpoint(&ip.destination) else {
            return to_node(packet, tables, interface, &ip, plan, node);
        };
        if endpoint.slot == interface.slot {
            // Its own address: the kernel in the container would not have sent it.
            return Err(Drop::Destination);
        }
        plan.to = To::Peer;
        plan.way = Way::Local;
        plan.ifindex = endpoint.ifindex;
        plan.receiver = endpoint.slot;
        plan.macs = endpoint.macs;
        plan.rewrite = Plan::<A>::MACS;
        return Ok(Then::Plan);
    }
    if !hairpin::translates(interface) {
        route(tables, &ip.destination, plan)?;
        if !matches!(plan.to, To::Neighbour) {
            return Ok(host_or_hairpin(packet, tables, &ip, plan));
        }
        return routed(packet, &ip, plan).map(|()| Then::Plan);
    }
    // Known flows first: most packets to the world belong to one, and then need no route.
    let Ok(transport) = headers::transport(packet, &ip, false) else {
        let is_error = A::V6 && ip.protocol == A::ICMP.protocol && !ip.is_fragment();
        return Ok(if is_error { Then::Error } else { Then::Rare });
    };
    if A::V6 && ip.is_fragment() {
        return Ok(Then::Rare);
    }
    let mut mapping = Mapping::NONE;
    let tuple = transport.tuple(&ip, Tuple::<A>::OUT);
    if !nat::known(tables, &tuple, transport.segment, &mut mapping) {
        return Ok(Then::Open);
    }
    if mapping.flags & Flow::<A>::HAIRPIN != 0 {
        return Ok(Then::Hairpin);
    }
    masquerade(packet, tables, &ip, &transport, &mapping, plan)?;
    if ip.is_fragment() {
        plan.id = fragment::remember(tables, &tuple, ip.id, interface.slot, &mapping);
        plan.rewrite |= Plan::<A>::ID;
    }
    Ok(Then::Plan)
}

/// A packet of a flow gets what stands for its container. Here alone, packets with ports get an address of the host's: none of them may
/// pass for the node's own, whatever its flow was made for.
#[inline(always)]
fn masquerade<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ip: &Headers<A>,
    transport: &Transport,
    mapping: &Mapping<A>,
    plan: &mut Plan<A>,
) -> Result<(), Drop> {
    let config = tables.config().ok_or(Drop::NoRoute)?;
    if overlay::is_overlay(&config, ip.protocol, transport.destination) {
        return Err(Drop::OverlayContainer);
    }
    plan.ifindex = config.uplink;
    plan.mtu = config.mtu;
    routed(packet, ip, plan)?;
    plan.way = Way::Masquerade;
    plan.rewrite |= Plan::<A>::SOURCE;
    plan.l4 = ip.l4;
    plan.protocol = ip.protocol;
    plan.old_port = transport.source;
    plan.address = mapping.address;
    plan.port = mapping.port;
    Ok(())
}

/// An address of the sender's subnet that no endpoint here has: another node's slice, or nobody's.
#[inline(always)]
fn to_node<'t, A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    interface: &Interface<A>,
    ip: &Headers<A>,
    plan: &mut Plan<A>,
    node: &mut Option<T::Ref<'t, Route>>,
) -> Result<Then, Drop> {
    let route = tables.route(&ip.destination).ok_or(Drop::NoEndpoint)?;
    let vxlan = route.kind == Route::VXLAN;
    if !vxlan && route.kind != Route::DIRECT {
        return Err(Drop::NoEndpoint);
    }
    if route.network != interface.network {
        return Err(Drop::Isolated);
    }
    let config = tables.config().ok_or(Drop::NoRoute)?;
    plan.mtu = u32::from(route.mtu);
    plan.macs = interface.macs;
    if icmp_error::length_on_wire(packet, ip) > plan.mtu {
        return Err(Drop::TooBig);
    }
    if vxlan && packet.len() - Ethernet::LEN > 0xffff - Vxlan::overhead(!route.node.is_mapped()) {
        // Its segments fit, all of it in one does not.
        return Ok(Then::Overlay);
    }
    if config.uplink == 0 {
        return Err(Drop::NoRoute);
    }
    plan.to = To::Neighbour;
    plan.ifindex = config.uplink;
    plan.network = route.network;
    plan.to_node = route.slot;
    if vxlan {
        // Switched, as within a node: the time to live stays.
        plan.inner = ip.destination.address4(interface);
        plan.way = Way::ToNodeVxlan;
        plan.rewrite = Plan::<A>::ENCAPSULATE;
    } else {
        if ip.ttl <= 1 {
            return Err(Drop::TtlExpired);
        }
        plan.way = Way::ToNode;
        plan.rewrite = Plan::<A>::TTL;
    }
    *node = Some(route);
    Ok(Then::Plan)
}

/// Where a destination is that is not in the sender's subnet.
#[inline(always)]
fn route<A: Addr, T: Tables<A>>(tables: &T, destination: &A, plan: &mut Plan<A>) -> Result<(), Drop> {
    if !destination.is_routable() {
        return Err(Drop::Destination);
    }
    let route = tables.route(destination).ok_or(Drop::NoRoute)?;
    match route.kind {
        Route::HOST => {
            to_host(plan);
            Ok(())
        }
        Route::UPLINK => {
            plan.to = To::Neighbour;
            to_uplink(tables, plan)
        }
        Route::NETWORK | Route::DIRECT | Route::VXLAN => Err(Drop::Isolated),
        _ => Err(Drop::NoRoute),
    }
}

#[inline(always)]
fn to_uplink<A: Addr, T: Tables<A>>(tables: &T, plan: &mut Plan<A>) -> Result<(), Drop> {
    let config = tables.config().ok_or(Drop::NoRoute)?;
    plan.ifindex = config.uplink;
    plan.mtu = config.mtu;
    Ok(())
}

#[inline(always)]
fn to_host<A: Addr>(plan: &mut Plan<A>) {
    plan.to = To::Stack;
    plan.way = Way::ToHost;
}

/// To the host's stack, or by it to another container.
#[inline(always)]
fn host_or_hairpin<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ip: &Headers<A>,
    plan: &mut Plan<A>,
) -> Then {
    if hairpin::concerns(packet, tables, ip) {
        return Then::Hairpin;
    }
    to_host(plan);
    Then::Plan
}

/// The kernel finds the next hop and writes the Ethernet header; a router's duty is the time to live.
#[inline(always)]
fn routed<A: Addr, P: Packet>(packet: &P, ip: &Headers<A>, plan: &mut Plan<A>) -> Result<(), Drop> {
    if ip.ttl <= 1 {
        return Err(Drop::TtlExpired);
    }
    if plan.ifindex == 0 {
        return Err(Drop::NoRoute);
    }
    if packet.len() - Ethernet::LEN > plan.mtu && icmp_error::length_on_wire(packet, ip) > plan.mtu {
        return Err(Drop::TooBig);
    }
    plan.to = To::Neighbour;
    plan.way = Way::Routed;
    plan.rewrite |= Plan::<A>::TTL;
    Ok(())
}
