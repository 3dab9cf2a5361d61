//! A packet from the world: the uplink, ingress. What is not netd's goes to the host's stack untouched and uncounted.

use crate::{
    abi::{Route, Tuple},
    addr::V4,
    fragment,
    hairpin::refusal,
    headers::{self, Headers},
    nat::{self, Mapping},
    overlay,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, To, Verdict},
    published::NOT_OURS,
    reason::{Drop, Way},
    related::{self, Found},
    tables::Tables,
    wire::{Be16, Ethernet, Udp, Vxlan, protocol},
};

/// The whole way: decide, rewrite, count.
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut plan = Plan::new(V4(0));
    match decide(packet, tables, hook, &mut plan) {
        Ok(true) => Verdict::unpack(rare(packet, tables)),
        decided => carry_out(packet, tables, decided.map(|_| ()), &plan),
    }
}

/// The whole way of a packet to an address of the host that has no ports of its own; the verdict, packed.
///
/// A subprogram of its own in BPF: what it needs of stack and registers, all the others would pay for.
#[inline(never)]
fn rare<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T) -> u64 {
    let mut plan = Plan::new(V4(0));
    plan.to = To::Stack;
    let decided = match headers::ipv4(packet) {
        Ok(ip) => decide_rare(packet, tables, &ip, &mut plan),
        Err(_) => Ok(()),
    };
    carry_out(packet, tables, decided, &plan).pack()
}

#[inline(always)]
fn carry_out<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    decided: Result<(), Drop>,
    plan: &Plan<V4>,
) -> Verdict {
    let bytes = packet.len();
    match decided.and_then(|()| plan.carry_out(packet, |_| 0)) {
        Ok(()) => {
            if !matches!(plan.to, To::Stack) {
                tables.count_way(plan.way, bytes);
                // As it is delivered: without what an overlay put around it.
                tables.count_received(plan.receiver, packet.len());
                if plan.from_node != NO_SLOT {
                    tables.count_from_node(plan.from_node, bytes);
                }
            }
            Verdict { to: plan.to, ifindex: plan.ifindex, via: V4(0) }
        }
        Err(reason) => {
            tables.count_drop(reason, plan.sender, bytes);
            Verdict::DROP
        }
    }
}

/// Where the packet goes and what changes in it. Touches no byte of it. `Ok(true)`: that is for [`decide_rare`] to say.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    hook: Hook,
    plan: &mut Plan<V4>,
) -> Result<bool, Drop> {
    plan.to = To::Stack;
    let Some(ethernet) = packet.get::<Ethernet>(0) else { return Ok(false) };
    if ethernet.ethertype != Ethernet::IPV4 || hook.vlan {
        return Ok(false);
    }
    let (Some(config), Ok(ip)) = (tables.config(), headers::ipv4(packet)) else { return Ok(false) };
    let other = ip.destination != config.address;
    if other {
        match from_node(packet, tables, &ip, plan)? {
            PUBLISHED => {}
            decided => return Ok(decided == RARE),
        }
    } else if ip.protocol == protocol::UDP
        && !ip.is_fragment()
        && packet.get::<Udp>(ip.l4).is_some_and(|udp| udp.destination == Vxlan::PORT)
    {
        return match overlay::decide(packet, tables, &ip, plan) {
            Ok(_) => Ok(false),
            Err(reason) => Err(reason),
        };
    }
    let Ok(transport) = headers::transport(packet, &ip, true) else { return Ok(true) };
    // The host's own sockets are kept out of the range (ip_local_reserved_ports), so their packets cost no look-up.
    let port = transport.destination.host();
    let published = tables.is_published(ip.protocol, port);
    if (other || port < config.first_port || port > config.last_port) && !published {
        return Ok(false);
    }
    let tuple = transport.tuple(&ip, Tuple::<V4>::IN);
    let mut mapping = Mapping::NONE;
    let mut way = Way::Reply;
    if !nat::reply(tables, &tuple, transport.tcp_flags, &mut mapping) {
        // Not worth a flow with its last hop.
        if !published || ip.ttl <= 1 {
            return Ok(false);
        }
        match tables.open(&tuple, u32::from(transport.tcp_flags), &mut mapping) {
            0 => way = Way::Published,
            NOT_OURS => return Ok(false),
            reason => return Err(refusal(reason)),
        }
    }
    let slot = deliver(tables, &ip, mapping.address, plan)?;
    if ip.is_fragment() {
        fragment::remember(tables, &tuple, u32::from(ip.id.raw()), slot, &mapping);
    }
    plan.way = way;
    plan.protocol = ip.protocol;
    plan.old_port = transport.destination;
    plan.port = mapping.port;
    Ok(false)
}

/// [`decide_rare`] decides.
const RARE: u32 = 1;
/// To an address of the host that is not the node's, and a port that somebody has published.
const PUBLISHED: u32 = 2;

/// Where a packet to an address of the host goes that has no ports of its own: a fragment that follows a first one, or an ICMP
/// error about a flow.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide_rare<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    ip: &Headers<V4>,
    plan: &mut Plan<V4>,
) -> Result<(), Drop> {
    if ip.is_later_fragment() {
        let tuple = fragment::tuple(ip, Tuple::<V4>::IN);
        let mut mapping = Mapping::NONE;
        if fragment::follow(tables, &tuple, u32::from(ip.id.raw()), &mut mapping) == fragment::UNKNOWN {
            return Ok(());
        }
        fragment::check_offset(ip)?;
        deliver(tables, ip, mapping.address, plan)?;
        plan.rewrite |= Plan::<V4>::PLAIN;
        return Ok(());
    }
    if ip.protocol != protocol::ICMP || ip.is_fragment() {
        return Ok(());
    }
    let mut found = Found::new(ip);
    if related::find(packet, tables, ip.l4, u32::from(Tuple::<V4>::IN), &mut found) == 0 {
        return Ok(());
    }
    deliver(tables, ip, found.address, plan)?;
    plan.rewrite |= Plan::<V4>::QUOTE;
    plan.protocol = found.protocol as u8;
    plan.quoted = found.offset;
    plan.end = ip.end;
    plan.old_port = found.old_port;
    plan.port = found.port;
    Ok(())
}

/// To the container that has this address, as a router would. Returns its slot.
#[inline(always)]
fn deliver<T: Tables<V4>>(
    tables: &T,
    ip: &Headers<V4>,
    address: V4,
    plan: &mut Plan<V4>,
) -> Result<u32, Drop> {
    if ip.ttl <= 1 {
        return Err(Drop::TtlExpired);
    }
    let endpoint = tables.endpoint(&address).ok_or(Drop::NoEndpoint)?;
    plan.to = To::Peer;
    plan.way = Way::Reply;
    plan.ifindex = endpoint.ifindex;
    plan.receiver = endpoint.slot;
    plan.macs = endpoint.macs;
    plan.rewrite = Plan::<V4>::MACS | Plan::<V4>::DESTINATION | Plan::<V4>::TTL;
    plan.l4 = ip.l4;
    plan.old_address = ip.destination;
    plan.address = address;
    Ok(endpoint.slot)
}

/// A packet to another address than the node's: an endpoint's, from a node on the uplink's subnet? Or one that the host has
/// besides, and that ports may be published at: then [`PUBLISHED`], or [`RARE`] if it has no ports of its own.
#[inline(always)]
fn from_node<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    ip: &Headers<V4>,
    plan: &mut Plan<V4>,
) -> Result<u32, Drop> {
    let Some(endpoint) = tables.endpoint(&ip.destination) else {
        let rare = ip.protocol == protocol::ICMP || ip.is_later_fragment();
        let is_published = |[_, port]: [Be16; 2]| tables.is_published(ip.protocol, port.host());
        if !rare && !packet.get(ip.l4).is_some_and(is_published) {
            return Ok(0);
        }
        let is_host = tables.route(&ip.destination).is_some_and(|route| route.kind == Route::HOST);
        return Ok(match (is_host, rare) {
            (false, _) => 0,
            (true, true) => RARE,
            (true, false) => PUBLISHED,
        });
    };
    match tables.route(&ip.source) {
        Some(route) if route.kind == Route::DIRECT && route.network == endpoint.network => {
            overlay::deliver(plan, &endpoint, route.slot, Way::FromNode);
            Ok(0)
        }
        // The host's to route, if it does, and `to_container`'s to refuse.
        _ => Ok(0),
    }
}
