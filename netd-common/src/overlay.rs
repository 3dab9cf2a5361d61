//! Between nodes: VXLAN (RFC 7348) in and out, and what may come in.

use crate::{
    V4,
    abi::{Endpoint, Route, network_of_vni, vni},
    headers,
    packet::Packet,
    plan::{Plan, To},
    reason::{Drop, Way},
    tables::Tables,
    wire::{Be16, Be32, Ethernet, Ipv4, Mac, Udp, Vxlan, protocol, udp},
};

/// Offset of the UDP header in an overlay packet; its outer header has no options.
const UDP: u32 = Ethernet::LEN + Ipv4::LEN;
/// Offset of the VXLAN header.
const VXLAN: u32 = UDP + udp::LEN;
/// Offset of the inner Ethernet header.
const INNER: u32 = Ethernet::LEN + Vxlan::OVERHEAD - Ethernet::LEN;
/// Offset of the inner IP header.
const INNER_IP: u32 = INNER + Ethernet::LEN;

/// Writes the headers around a packet that goes to the `plan`'s node. `identification` gives the first of as many
/// numbers as it is asked for, which identify the outer packets where a router
/// on the way has to cut it.
#[inline(always)]
pub fn encapsulate<P: Packet>(
    packet: &mut P,
    plan: &Plan<V4>,
    identification: impl FnOnce(u32) -> u16,
) -> Option<()> {
    // Before the headers are there, so that it is the inner flow's. RFC 7348 section 5: a port of the dynamic range.
    let hash = packet.hash();
    let source = Be16::new(0xc000 | (hash ^ hash >> 16) as u16);
    packet.encapsulate()?;
    let length = packet.len() - Ethernet::LEN;
    // Counted up by one for each packet on the wire: with DF clear, a NIC aggregates (GRO) only what is numbered so.
    let id = identification(packet.segments()).to_be();
    let ip = Ipv4::simple(id, length as u16, protocol::UDP, plan.address, plan.node);
    packet.set(Ethernet::LEN, ip)?;
    // No checksum (RFC 7348 section 5): the inner packet has its own.
    let length = Be16::new((length - Ipv4::LEN) as u16);
    packet.set(UDP, Udp { source, destination: Vxlan::PORT, length, checksum: 0 })?;
    packet.set(VXLAN, Vxlan { flags: Be32::new(Vxlan::VALID), vni: Be32::new(vni(plan.network) << 8) })?;
    let destination = Mac::of(plan.old_address);
    let inner = Ethernet { destination, source: plan.macs.source(), ethertype: Ethernet::IPV4 };
    packet.set(INNER, inner)
}

/// Decides on a packet to the VXLAN port of the node, seen at the uplink. `Ok(false)`: it is not netd's.
///
/// # Errors
/// It has a VNI of netd's, and is not what a node of netd's would send.
#[inline(always)]
pub fn decide<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    outer: &headers::Headers<V4>,
    plan: &mut Plan<V4>,
) -> Result<bool, Drop> {
    packet.pull(INNER_IP + Ipv4::LEN);
    if outer.l4 != UDP {
        // No node sends options; the kernel's own VXLAN can have it.
        return Ok(false);
    }
    let Some(vxlan) = packet.get::<Vxlan>(VXLAN) else { return Ok(false) };
    let Some(network) = network_of_vni(vxlan.vni.host() >> 8) else { return Ok(false) };
    if vxlan.flags.host() & Vxlan::VALID == 0 {
        return Ok(false);
    }
    let ethernet: Ethernet = packet.get(INNER).ok_or(Drop::Malformed)?;
    if ethernet.ethertype != Ethernet::IPV4 {
        return Err(Drop::EtherType);
    }
    let ip = headers::ipv4_at(packet, INNER_IP)?;
    let (slot, endpoint) = admit(tables, outer.source, network, &ip)?;
    if packet.segment_size() != 0 && ip.protocol == protocol::UDP {
        // Decapsulated by a program, a segmented UDP packet vanishes: the skb keeps its tunnel state. The kernel's own
        // device does it right; the packet comes back by `from_overlay`.
        return Ok(false);
    }
    deliver(plan, &endpoint, slot, Way::FromNodeVxlan);
    plan.rewrite = Plan::<V4>::MACS | Plan::<V4>::DECAPSULATE;
    Ok(true)
}

/// Whether a packet from a node may come in: the node's index and the endpoint that gets it.
///
/// # Errors
/// The reason why not.
#[inline(always)]
pub fn admit<T: Tables<V4>>(
    tables: &T,
    node: V4,
    network: u32,
    ip: &headers::Headers<V4>,
) -> Result<(u32, Endpoint), Drop> {
    let route = tables.route(&ip.source).ok_or(Drop::OverlayNode)?;
    if route.kind != Route::VXLAN && route.kind != Route::DIRECT || route.node != node {
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
pub fn deliver(plan: &mut Plan<V4>, endpoint: &Endpoint, node: u32, way: Way) {
    plan.to = To::Peer;
    plan.way = way;
    plan.ifindex = endpoint.ifindex;
    plan.receiver = endpoint.slot;
    plan.macs = endpoint.macs;
    plan.from_node = node;
    plan.rewrite = Plan::<V4>::MACS;
}
