//! A packet from the world: the uplink, ingress. What is not netd's goes to the host's stack untouched and uncounted.

use crate::{
    abi::{Flow, Route, Tuple},
    addr::{Addr, V4, V6},
    fragment,
    headers::{self, Headers},
    nat::{self, Mapping},
    overlay,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, To, Verdict},
    published::NOT_OURS,
    reason::{Drop, Way},
    related::{self, Found},
    tables::Tables,
    wire::{Be16, Ethernet, Udp, Vxlan, protocol, tcp},
};

/// The whole way of all but IPv6: decide, rewrite, count. `None`: it is IPv6, for [`step6`].
#[inline(always)]
pub fn from_uplink<P: Packet, T: Tables<V4> + Tables<V6>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
) -> Option<Verdict> {
    let mut plan = Plan::<V4>::new();
    let bytes = packet.len();
    Some(match decide(packet, tables, hook, &mut plan) {
        Ok(Then::Ipv6) => return None,
        Ok(Then::Host) => Verdict::STACK,
        Ok(Then::Rare) => Verdict::unpack(rare::<V4, P, T>(packet, tables)),
        Ok(Then::Overlay) => Verdict::unpack(overlay::<V4, V6, P, T>(packet, tables)),
        decided => carry_out(packet, tables, bytes, decided.map(|_| ()), &plan),
    })
}

/// A step of an IPv6 packet's way; see [`crate::from_container::Step6`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step6 {
    /// Most packets.
    Begin = 0,
    /// One to an address of the host that has no ports of its own: see [`decide_rare`].
    Rare = 1,
    /// One to a published port that belongs to no flow: its flow is made.
    Open = 2,
}

/// One step of IPv6. `Err`: the step to go on with.
///
/// # Errors
/// There is another step.
#[inline(always)]
pub fn step6<P: Packet, T: Tables<V4> + Tables<V6>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
    step: Step6,
) -> Result<Verdict, Step6> {
    packet.pull(Ethernet::LEN + V6::HEADER + tcp::LEN);
    if matches!(step, Step6::Rare) {
        return Ok(Verdict::unpack(rare::<V6, P, T>(packet, tables)));
    }
    if matches!(step, Step6::Open) {
        return open(packet, tables).ok_or(Step6::Begin);
    }
    let mut plan = Plan::<V6>::new();
    let bytes = packet.len();
    match decide(packet, tables, hook, &mut plan) {
        Ok(Then::Host) => Ok(Verdict::STACK),
        Ok(Then::Rare) => Err(Step6::Rare),
        Ok(Then::Open) => Err(Step6::Open),
        Ok(Then::Overlay) => Ok(Verdict::unpack(overlay::<V6, V4, P, T>(packet, tables))),
        decided => Ok(carry_out(packet, tables, bytes, decided.map(|_| ()), &plan)),
    }
}

/// The whole way of IPv6, in steps.
pub fn from_uplink6<P: Packet, T: Tables<V4> + Tables<V6>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
) -> Verdict {
    let mut step = Step6::Begin;
    // As many as the kernel lets programs follow each other.
    for _ in 0..33 {
        match step6(packet, tables, hook, step) {
            Ok(verdict) => return verdict,
            Err(next) => step = next,
        }
    }
    Verdict::STACK
}

/// Makes the flow of an IPv6 packet to a published port: then `None`, and the packet is to be looked at anew, as one of that flow.
#[inline(always)]
fn open<P: Packet, T: Tables<V6>>(packet: &P, tables: &T) -> Option<Verdict> {
    let Ok(ip) = headers::ip::<V6, P>(packet) else { return Some(Verdict::STACK) };
    let Ok(transport) = headers::transport(packet, &ip, true) else { return Some(Verdict::STACK) };
    let tuple = transport.tuple(&ip, Tuple::<V6>::IN);
    let mut mapping = Mapping::NONE;
    match tables.open(&tuple, u32::from(transport.segment.flags), &mut mapping) {
        0 => None,
        NOT_OURS => {
            if ip.is_fragment() {
                fragment::forget(tables, &tuple, ip.id);
            }
            Some(Verdict::STACK)
        }
        reason => {
            tables.count_drop(nat::refusal(reason), NO_SLOT, packet.len());
            Some(Verdict::DROP)
        }
    }
}

/// The whole way of a packet of family `A` that comes in VXLAN over another, `O`; the verdict, packed. Likewise.
#[inline(never)]
fn overlay<O: Addr, A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T) -> u64 {
    let mut plan = Plan::<A>::new();
    let bytes = packet.len();
    plan.to = To::Stack;
    let Ok(outer) = headers::ip::<O, P>(packet) else { return Verdict::STACK.pack() };
    let decided = overlay::decide::<O, A, P, T>(packet, tables, &outer, &mut plan).map(|_| ());
    if plan.rewrite & (Plan::<A>::DECAPSULATE | Plan::<A>::DECAPSULATE6) != 0
        && overlay::decapsulate::<A, P>(packet, O::V6, plan.rewrite).is_none()
    {
        // Of segments of UDP, Linux before 6.3 cannot make a packet of the other family. Its own device can.
        return Verdict::STACK.pack();
    }
    plan.rewrite &= Plan::<A>::MACS;
    carry_out(packet, tables, bytes, decided, &plan).pack()
}

/// What is to be done next with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// What the plan says.
    Plan,
    /// Nothing: it is the host's own. Apart from the plan's, so that most packets on many nodes do not pay for one.
    Host,
    /// It has no ports of its own: see [`decide_rare`].
    Rare,
    /// It is VXLAN, with a packet of the other family in it.
    Overlay,
    /// It is for a published port, and belongs to no flow, which is to be made. IPv6's only.
    Open,
    /// It is IPv6, and was looked at as IPv4.
    Ipv6,
}

/// The whole way of a packet to an address of the host that has no ports of its own; the verdict, packed.
///
/// A subprogram of its own in BPF: what it needs of stack and registers, all the others would pay for.
#[inline(never)]
fn rare<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T) -> u64 {
    let mut plan = Plan::<A>::new();
    let bytes = packet.len();
    plan.to = To::Stack;
    let decided = match headers::ip::<A, P>(packet) {
        Ok(ip) => decide_rare(packet, tables, &ip, &mut plan),
        Err(_) => Ok(()),
    };
    carry_out(packet, tables, bytes, decided, &plan).pack()
}

#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    bytes: u32,
    decided: Result<(), Drop>,
    plan: &Plan<A>,
) -> Verdict {
    // The host's own, as most packets are on some nodes: nothing is asked about them that is known.
    if decided.is_ok() && matches!(plan.to, To::Stack) {
        return Verdict::STACK;
    }
    match decided.and_then(|()| plan.carry_out(packet, tables, None)) {
        Ok(()) => {
            tables.count_way(plan.way, bytes);
            // As it is delivered: without what an overlay put around it.
            tables.count_received(plan.receiver, packet.len());
            if plan.from_node != NO_SLOT {
                tables.count_from_node(plan.from_node, bytes);
            }
            Verdict { to: plan.to, ifindex: plan.ifindex, via: V6::ZERO }
        }
        Err(reason) => {
            tables.count_drop(reason, plan.sender, bytes);
            Verdict::DROP
        }
    }
}

/// Where the packet goes and what changes in it. Touches no byte of it. Says what is left to do.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    hook: Hook,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    plan.to = To::Stack;
    if hook.foreign {
        // The interface hears others' frames (promiscuous mode, a switch that floods), and those to all: no container is meant.
        return Ok(Then::Host);
    }
    let Some(mut ethernet) = packet.get::<Ethernet>(0) else { return Ok(Then::Host) };
    if !A::V6
        && ethernet.ethertype != A::ETHERTYPE
        && ethernet.ethertype != Ethernet::IPV6
        && packet.restore_link_header()
        && let Some(restored) = packet.get::<Ethernet>(0)
    {
        ethernet = restored;
    }
    if ethernet.ethertype != A::ETHERTYPE || hook.vlan {
        let v6 = !A::V6 && ethernet.ethertype == Ethernet::IPV6;
        return Ok(if v6 { Then::Ipv6 } else { Then::Host });
    }
    let (Some(config), Ok(ip)) = (tables.config(), headers::ip::<A, P>(packet)) else {
        return Ok(Then::Host);
    };
    let other = ip.destination != config.address;
    if other {
        match from_node(packet, tables, &ip, plan)? {
            PUBLISHED => {}
            RARE => return Ok(Then::Rare),
            _ => return Ok(if matches!(plan.to, To::Stack) { Then::Host } else { Then::Plan }),
        }
    } else if ip.protocol == protocol::UDP
        && !ip.is_fragment()
        && packet.get::<Udp>(ip.l4).is_some_and(|udp| udp.destination == Vxlan::PORT)
    {
        return match overlay::inner_type(packet, &ip) {
            None => Ok(Then::Host),
            Some(inner) if inner == A::OTHER => Ok(Then::Overlay),
            Some(_) => overlay::decide(packet, tables, &ip, plan).map(|_| Then::Plan),
        };
    }
    let Ok(transport) = headers::transport(packet, &ip, true) else { return Ok(Then::Rare) };
    // The host's own sockets are kept out of the range (ip_local_reserved_ports), so their packets cost no look-up.
    let port = transport.destination.host();
    let published = tables.is_published(ip.protocol, port);
    let in_range = !other && config.first_port <= port && port <= config.last_port;
    let tuple = transport.tuple(&ip, Tuple::<A>::IN);
    let mut mapping = Mapping::NONE;
    let mut way = Way::Reply;
    if !(in_range || published) || !nat::reply(tables, &tuple, transport.segment, &mut mapping) {
        // Not worth a flow with its last hop.
        let opened = if !published || ip.ttl <= 1 {
            NOT_OURS
        } else if A::V6 {
            return Ok(Then::Open);
        } else {
            tables.open(&tuple, u32::from(transport.segment.flags), &mut mapping)
        };
        match opened {
            0 => way = Way::Published,
            NOT_OURS => {
                if ip.is_fragment() {
                    fragment::forget(tables, &tuple, ip.id);
                }
                return Ok(Then::Host);
            }
            reason => return Err(nat::refusal(reason)),
        }
    }
    if mapping.flags & Flow::<A>::HAIRPIN != 0 {
        // From the host's own address: a forged one. The host's stack drops it.
        return Ok(Then::Host);
    }
    let slot = deliver(tables, &ip, mapping.address, plan)?;
    if ip.is_fragment() {
        fragment::remember(tables, &tuple, ip.id, slot, &mapping);
    }
    plan.way = way;
    plan.protocol = ip.protocol;
    plan.old_port = transport.destination;
    plan.port = mapping.port;
    Ok(Then::Plan)
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
pub fn decide_rare<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ip: &Headers<A>,
    plan: &mut Plan<A>,
) -> Result<(), Drop> {
    if ip.source == ip.destination {
        // From an address of the host's own, as what is remembered of fragments between containers is: a forged one.
        return Ok(());
    }
    if ip.is_later_fragment() {
        let tuple = fragment::tuple(ip, Tuple::<A>::IN);
        let mut mapping = Mapping::NONE;
        if fragment::follow(tables, &tuple, ip.id, &mut mapping) == fragment::UNKNOWN {
            return Ok(());
        }
        fragment::check_offset(ip)?;
        deliver(tables, ip, mapping.address, plan)?;
        plan.rewrite |= Plan::<A>::PLAIN;
        return Ok(());
    }
    if ip.protocol != A::ICMP.protocol || ip.is_fragment() {
        return Ok(());
    }
    let mut found = Found::new(ip);
    // What containers send each other is not seen outside, and nobody there has an error to report about it.
    if related::find(packet, tables, ip.l4, u32::from(Tuple::<A>::IN), &mut found) == 0 || found.is_hairpin()
    {
        return Ok(());
    }
    deliver(tables, ip, found.address, plan)?;
    plan.rewrite |= Plan::<A>::QUOTE;
    plan.protocol = found.protocol as u8;
    plan.quoted = found.offset;
    plan.end = ip.end;
    plan.old_port = found.old_port;
    plan.port = found.port;
    Ok(())
}

/// To the container that has this address, as a router would. Returns its slot.
#[inline(always)]
fn deliver<A: Addr, T: Tables<A>>(
    tables: &T,
    ip: &Headers<A>,
    address: A,
    plan: &mut Plan<A>,
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
    plan.rewrite = Plan::<A>::MACS | Plan::<A>::DESTINATION | Plan::<A>::TTL;
    plan.l4 = ip.l4;
    plan.address = address;
    Ok(endpoint.slot)
}

/// A packet to another address than the node's: an endpoint's, from a node on the uplink's subnet? Or one that the host has
/// besides, and that ports may be published at: then [`PUBLISHED`], or [`RARE`] if it has no ports of its own.
#[inline(always)]
fn from_node<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ip: &Headers<A>,
    plan: &mut Plan<A>,
) -> Result<u32, Drop> {
    let Some(endpoint) = tables.endpoint(&ip.destination) else {
        if !ip.destination.is_routable() {
            // What is bound to 127.0.0.1 or ::1 is the host's alone.
            return Ok(0);
        }
        let rare = ip.protocol == A::ICMP.protocol || ip.is_later_fragment();
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
