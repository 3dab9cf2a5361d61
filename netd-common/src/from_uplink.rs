//! A packet from the world: the uplink, ingress. What is not netd's goes to the host's stack untouched and uncounted.

use crate::{
    abi::Tuple,
    addr::V4,
    headers,
    nat::{self, Mapping},
    packet::{Hook, Packet},
    plan::{Plan, To, Verdict},
    reason::{Drop, Way},
    tables::Tables,
    wire::{Be16, Ethernet},
};

/// The whole way: decide, rewrite, count.
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut plan = Plan::new(V4(0));
    let bytes = packet.len();
    match decide(packet, tables, hook, &mut plan).and_then(|()| plan.apply(packet)) {
        Ok(()) => {
            if !matches!(plan.to, To::Stack) {
                tables.count_way(plan.way, bytes);
                tables.count_received(plan.receiver, bytes);
            }
            Verdict { to: plan.to, ifindex: plan.ifindex }
        }
        Err(reason) => {
            tables.count_drop(reason, plan.sender, bytes);
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
    plan.to = To::Stack;
    let Some(ethernet) = packet.get::<Ethernet>(0) else { return Ok(()) };
    if ethernet.ethertype != Ethernet::IPV4 || hook.vlan {
        return Ok(());
    }
    let (Some(config), Ok(ip)) = (tables.config(), headers::ipv4(packet)) else { return Ok(()) };
    if ip.destination != config.address {
        return Ok(());
    }
    let Ok(transport) = headers::transport(packet, &ip, true) else { return Ok(()) };
    // The host's own sockets are kept out of the range (ip_local_reserved_ports), so their packets cost no look-up.
    let port = transport.destination.host();
    if port < config.first_port || port > config.last_port {
        return Ok(());
    }
    let tuple = transport.tuple(&ip, Tuple::<V4>::IN);
    let mut mapping = Mapping { address: V4(0), port: Be16::ZERO };
    if !nat::reply(tables, &tuple, transport.tcp_flags, &mut mapping) {
        return Ok(());
    }
    if ip.ttl <= 1 {
        return Err(Drop::TtlExpired);
    }
    let endpoint = tables.endpoint(&mapping.address).ok_or(Drop::NoEndpoint)?;
    plan.to = To::Peer;
    plan.way = Way::Reply;
    plan.ifindex = endpoint.ifindex;
    plan.receiver = endpoint.slot;
    plan.macs = endpoint.macs;
    plan.rewrite = Plan::<V4>::MACS | Plan::<V4>::DESTINATION | Plan::<V4>::TTL;
    plan.l4 = ip.l4;
    plan.protocol = ip.protocol;
    plan.old_address = ip.destination;
    plan.old_port = transport.destination;
    plan.address = mapping.address;
    plan.port = mapping.port;
    Ok(())
}
