//! Between nodes: VXLAN (RFC 7348) in and out, over IPv4 and IPv6, and what may come in.

use crate::{
    abi::{Config, Endpoint, Route, network_of_vni, vni},
    addr::{Addr, V6},
    class,
    headers::Headers,
    packet::Packet,
    plan::{NO_SLOT, Plan, To, Verdict},
    reason::{Drop, Way},
    tables::Tables,
    wire::{Be16, Be32, Ethernet, Ipv4, Ipv6, Mac, Udp, Vxlan, ecn, protocol, udp},
};

/// Offset of the UDP header in an overlay packet over IPv4, whose outer header has no options...
const UDP: u32 = Ethernet::LEN + Ipv4::LEN;
/// ... and over IPv6.
const UDP6: u32 = Ethernet::LEN + Ipv6::LEN;
/// From there: to the VXLAN header, the inner Ethernet header, the inner IP header.
const VXLAN: u32 = udp::LEN;
const INNER: u32 = VXLAN + 8;
const INNER_IP: u32 = INNER + Ethernet::LEN;

/// Whether a container's packet to this port would pass for the node's own, were it to leave under the node's address.
#[inline(always)]
pub fn is_overlay<A>(config: &Config<A>, protocol: u8, port: Be16) -> bool {
    port == config.overlay_port && protocol == protocol::UDP && port != Be16::ZERO
}

/// Writes the headers around a packet that goes to a node, by its route. The outer one has the inner one's traffic class: routers are to
/// treat the packet alike (RFC 2983), and may tell of congestion (RFC 6040, normal mode).
#[inline(always)]
pub fn encapsulate<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    plan: &Plan<A>,
    node: &Route,
) -> Option<()> {
    // Before the headers are there, so that it is the inner flow's. RFC 7348 section 5: a port of the dynamic range.
    let hash = packet.hash();
    let source = Be16::new(0xc000 | (hash ^ hash >> 16) as u16);
    let config = tables.config()?;
    if let Some(node) = node.node.unmapped() {
        packet.encapsulate(false)?;
        let length = packet.len() - Ethernet::LEN;
        // One more for each packet on the wire: with DF clear, a NIC aggregates (GRO) only what is numbered so.
        let id = tables.outer_ids(plan.to_node, packet.segments()).to_be();
        if A::V6 {
            packet.set(Ethernet::ETHERTYPE, Ethernet::IPV4)?;
        }
        let class = class::of::<A, P>(packet, UDP + INNER_IP)?;
        let ip = Ipv4::simple(class, id, length as u16, protocol::UDP, config.underlay4, node);
        packet.set(Ethernet::LEN, ip)?;
        wrap(packet, plan, UDP, source, length - Ipv4::LEN)
    } else {
        packet.encapsulate(true)?;
        let length = packet.len() - Ethernet::LEN - Ipv6::LEN;
        if !A::V6 {
            packet.set(Ethernet::ETHERTYPE, Ethernet::IPV6)?;
        }
        let class = class::of::<A, P>(packet, UDP6 + INNER_IP)?;
        let ip = Ipv6::simple(class, length as u16, protocol::UDP, 64, config.underlay6, node.node);
        packet.set(Ethernet::LEN, ip)?;
        wrap(packet, plan, UDP6, source, length)
    }
}

/// Has the kernel's own VXLAN device encapsulate a packet that came from an interface: one that does not fit an outer header, whose
/// lengths are 16 bits. The kernel cuts it into its segments before: slower, but right. Few packets come here, so it looks anew at
/// what the step before has seen.
#[inline(always)]
pub fn hand_over<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32) -> Verdict {
    let bytes = packet.len();
    let slot = tables.interface(ifindex).map_or(NO_SLOT, |interface| interface.slot);
    let Some((device, node)) = by_kernel(packet, tables, ifindex) else {
        tables.count_drop(Drop::TooBig, slot, bytes);
        return Verdict::DROP;
    };
    tables.count_way(Way::ToNodeVxlan, bytes);
    tables.count_sent(slot, bytes);
    tables.count_to_node(node, bytes);
    Verdict { to: To::Out, ifindex: device, via: V6::ZERO }
}

/// The device's interface index, and the index of the node's counters.
#[inline(always)]
fn by_kernel<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
) -> Option<(u32, u32)> {
    let (config, interface) = (tables.config()?, tables.interface(ifindex)?);
    let destination: A = packet.get(A::DESTINATION)?;
    let route = tables.route(&destination)?;
    if config.overlay == 0 || route.kind != Route::VXLAN || route.network != interface.network {
        return None;
    }
    let inner = Ethernet {
        destination: Mac::of(destination.address4(&interface)),
        source: interface.macs.source(),
        ethertype: A::ETHERTYPE,
    };
    packet.set(0, inner)?;
    let own = if route.node.is_mapped() { config.underlay4.mapped() } else { config.underlay6 };
    let class = class::of::<A, P>(packet, Ethernet::LEN)? & !ecn::MASK;
    packet.tunnel(&route.node, &own, vni(route.network), class)?;
    Some((config.overlay, route.slot))
}

/// Writes the headers from UDP's on.
#[inline(always)]
fn wrap<A: Addr, P: Packet>(
    packet: &mut P,
    plan: &Plan<A>,
    at: u32,
    source: Be16,
    length: u32,
) -> Option<()> {
    // No checksum (RFC 7348 section 5, RFC 6935): the inner packet has its own.
    let length = Be16::new(length as u16);
    packet.set(at, Udp { source, destination: Vxlan::PORT, length, checksum: 0 })?;
    let vni = Be32::new(vni(plan.network) << 8);
    packet.set(at + VXLAN, Vxlan { flags: Be32::new(Vxlan::VALID), vni })?;
    let inner =
        Ethernet { destination: Mac::of(plan.inner), source: plan.macs.source(), ethertype: A::ETHERTYPE };
    packet.set(at + INNER, inner)
}

/// Takes the headers off a packet of family `A`. `v6`: they are those of VXLAN over IPv6. `rewrite`: the plan's, which says what of
/// congestion goes into the inner header.
#[inline(always)]
pub fn decapsulate<A: Addr, P: Packet>(packet: &mut P, v6: bool, rewrite: u32) -> Option<()> {
    packet.decapsulate(v6, A::V6)?;
    if v6 != A::V6 {
        packet.set(Ethernet::ETHERTYPE, A::ETHERTYPE)?;
    }
    if rewrite & Plan::<A>::CONGESTED != 0 {
        class::set_ecn::<A, P>(packet, ecn::CE)?;
    } else if rewrite & Plan::<A>::ECT1 != 0 {
        class::set_ecn::<A, P>(packet, ecn::ECT1)?;
    }
    Some(())
}

/// The EtherType of the packet in a packet of family `O` to the VXLAN port of the node; `None`: it is not netd's.
#[inline(always)]
pub fn inner_type<O: Addr, P: Packet>(packet: &P, outer: &Headers<O>) -> Option<Be16> {
    let at = const { Ethernet::LEN + O::HEADER };
    packet.pull(at + INNER_IP + Ipv4::LEN);
    if outer.l4 != at {
        // No node sends options; the kernel's own VXLAN can have it.
        return None;
    }
    network::<P>(packet, at)?;
    // A frame that is cut before its type is netd's too, and malformed.
    Some(packet.get::<Ethernet>(at + INNER).map_or(Be16::ZERO, |ethernet| ethernet.ethertype))
}

/// The network whose VXLAN it is, if it is one of netd's.
#[inline(always)]
fn network<P: Packet>(packet: &P, at: u32) -> Option<u32> {
    let vxlan = packet.get::<Vxlan>(at + VXLAN)?;
    if vxlan.flags.host() & Vxlan::VALID == 0 {
        return None;
    }
    network_of_vni(vxlan.vni.host() >> 8)
}

/// Decides on a packet of family `A` in one of family `O` to the VXLAN port of the node, seen at the uplink. `Ok(false)`: it is
/// for the kernel's own device to decapsulate, or not netd's.
///
/// # Errors
/// It has a VNI of netd's, and is not what a node of netd's would send.
#[inline(always)]
pub fn decide<O: Addr, A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    outer: &Headers<O>,
    plan: &mut Plan<A>,
) -> Result<bool, Drop> {
    let at = const { Ethernet::LEN + O::HEADER };
    packet.pull(at + INNER_IP + A::HEADER);
    if outer.l4 != at {
        // No node sends options; the kernel's own VXLAN can have it.
        return Ok(false);
    }
    let Some(network) = network(packet, at) else { return Ok(false) };
    let ethernet: Ethernet = packet.get(at + INNER).ok_or(Drop::Malformed)?;
    if ethernet.ethertype != A::ETHERTYPE {
        return Err(Drop::EtherType);
    }
    let ip = A::headers(packet, at + INNER_IP)?;
    if ip.end > outer.end {
        // What is behind the outer packet's end is padding.
        return Err(Drop::Malformed);
    }
    let node = outer.source.mapped();
    if O::V6 && node.is_mapped() {
        // That is no IPv6 source, and would count as an IPv4 node's.
        return Err(Drop::OverlayNode);
    }
    let (slot, endpoint) = admit(tables, &node, network, &ip)?;
    if packet.segment_size() != 0 && ip.protocol == protocol::UDP {
        // Decapsulated by a program, a segmented UDP packet vanishes: the skb keeps its tunnel state. The kernel's own
        // device does it right; the packet comes back by `from_overlay`.
        return Ok(false);
    }
    let congestion = congestion::<O, A, P>(packet, at + INNER_IP)?;
    deliver(plan, &endpoint, slot, Way::FromNodeVxlan);
    plan.rewrite |= if O::V6 { Plan::<A>::DECAPSULATE6 } else { Plan::<A>::DECAPSULATE };
    plan.rewrite |= congestion;
    Ok(true)
}

/// What the outer header says of congestion that the inner one, at an offset, does not: what is to be rewritten (RFC 6040 section 4.2).
///
/// # Errors
/// The inner one cannot say it: the router that has met congestion would have dropped the packet.
#[inline(always)]
fn congestion<O: Addr, A: Addr, P: Packet>(packet: &P, inner: u32) -> Result<u32, Drop> {
    let outer = class::of::<O, P>(packet, Ethernet::LEN).ok_or(Drop::Malformed)? & ecn::MASK;
    if outer & ecn::ECT1 == 0 {
        return Ok(0);
    }
    let inner = class::of::<A, P>(packet, inner).ok_or(Drop::Malformed)? & ecn::MASK;
    match (inner, outer) {
        (ecn::NOT_ECT, ecn::CE) => Err(Drop::OverlayCongested),
        (_, ecn::CE) => Ok(Plan::<A>::CONGESTED),
        (ecn::ECT0, _) => Ok(Plan::<A>::ECT1),
        _ => Ok(0),
    }
}

/// Whether a packet from a node may come in: the node's index and the endpoint that gets it. `node`: IPv4-mapped if it is IPv4.
///
/// # Errors
/// The reason why not.
#[inline(always)]
pub fn admit<A: Addr, T: Tables<A>>(
    tables: &T,
    node: &V6,
    network: u32,
    ip: &Headers<A>,
) -> Result<(u32, Endpoint), Drop> {
    let route = tables.route(&ip.source).ok_or(Drop::OverlayNode)?;
    if route.kind != Route::VXLAN && route.kind != Route::DIRECT || route.node != *node {
        return Err(Drop::OverlayNode);
    }
    let endpoint = tables.endpoint(&ip.destination).ok_or(Drop::NoEndpoint)?;
    if route.network != network || endpoint.network != network {
        return Err(Drop::OverlayNetwork);
    }
    Ok((route.slot, *endpoint))
}

/// Into the endpoint's namespace.
#[inline(always)]
pub fn deliver<A: Addr>(plan: &mut Plan<A>, endpoint: &Endpoint, node: u32, way: Way) {
    plan.to = To::Peer;
    plan.way = way;
    plan.ifindex = endpoint.ifindex;
    plan.receiver = endpoint.slot;
    plan.macs = endpoint.macs;
    plan.from_node = node;
    plan.rewrite = Plan::<A>::MACS;
}
