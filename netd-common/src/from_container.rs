//! A packet that a container sends: the host side of its link, ingress.

use crate::{
    abi::{Flow, Interface, Route, Tuple},
    addr::{Addr, V4},
    arp, fragment,
    hairpin::{self, hairpin, refusal},
    headers, icmp_error,
    nat::{self, Mapping},
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, To, Verdict},
    reason::{Drop, Way},
    related::{self, Found},
    tables::Tables,
    wire::{Be16, Ethernet, Vxlan, icmp, protocol},
};

/// The plan says it all.
pub const DECIDED: u32 = 0;
/// [`decide_rare`] decides.
pub const RARE: u32 = 1;
/// [`hairpin()`] does it.
pub const HAIRPIN: u32 = 2;
/// The same, said where a verdict is expected.
const HAIRPIN_FRAGMENT: u64 = u64::MAX;

/// The whole way: decide, rewrite, count.
#[inline(always)]
pub fn from_container<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut verdict = Verdict::DROP;
    match ordinary(packet, tables, hook.ifindex, hook.vlan, &mut verdict) {
        RARE => match rare(packet, tables, hook.ifindex) {
            HAIRPIN_FRAGMENT => Verdict::unpack(hairpin(packet, tables, hook.ifindex)),
            verdict => Verdict::unpack(verdict),
        },
        HAIRPIN => Verdict::unpack(hairpin(packet, tables, hook.ifindex)),
        _ => verdict,
    }
}

/// The whole way of all packets but those for which it returns another number than [`DECIDED`].
///
/// A subprogram of its own in BPF: its stack is not the others', who would not have enough.
#[inline(never)]
fn ordinary<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    vlan: bool,
    verdict: &mut Verdict,
) -> u32 {
    let mut plan = Plan::new(V4(0));
    let decided = match decide(packet, tables, Hook { ifindex, vlan, ..Hook::default() }, &mut plan) {
        Ok(DECIDED) => Ok(()),
        Ok(other) => return other,
        Err(reason) => Err(reason),
    };
    *verdict = carry_out(packet, tables, ifindex, decided, &plan);
    DECIDED
}

/// The whole way of a packet that is to be masqueraded and has no ports of its own; the verdict, packed.
///
/// A subprogram of its own in BPF: what it needs of stack and registers, all the others would pay for.
#[inline(never)]
fn rare<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::new(V4(0));
    let decided = decide_rare(packet, tables, ifindex, &mut plan);
    if matches!(plan.to, To::Stack)
        && headers::ipv4(packet).is_ok_and(|ip| hairpin::concerns(packet, tables, &ip))
    {
        return HAIRPIN_FRAGMENT;
    }
    carry_out(packet, tables, ifindex, decided, &plan).pack()
}

#[inline(always)]
fn carry_out<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    decided: Result<(), Drop>,
    plan: &Plan<V4>,
) -> Verdict {
    let bytes = packet.len();
    let identification = |packets| tables.count_on_wire(plan.to_node, packets);
    match decided.and_then(|()| plan.carry_out(packet, identification)) {
        Ok(()) => {
            tables.count_way(plan.way, bytes);
            tables.count_sent(plan.sender, bytes);
            if plan.receiver != NO_SLOT {
                tables.count_received(plan.receiver, bytes);
            }
            if plan.to_node != NO_SLOT {
                tables.count_to_node(plan.to_node, bytes);
            }
            // In VXLAN, the kernel finds the way to the node by the outer destination.
            let via = if plan.rewrite & Plan::<V4>::ENCAPSULATE == 0 { plan.node } else { V4(0) };
            Verdict { to: plan.to, ifindex: plan.ifindex, via }
        }
        Err(reason) => refuse(packet, tables, ifindex, reason, plan, bytes),
    }
}

/// Drops a packet, and tells its sender why where that can be.
#[inline(always)]
fn refuse<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    reason: Drop,
    plan: &Plan<V4>,
    bytes: u32,
) -> Verdict {
    let error = if plan.quiet { 0 } else { icmp_error::about(reason, plan.mtu) };
    let told = error != 0 && icmp_error::answer(packet, tables, ifindex, error) != 0;
    if told && matches!(reason, Drop::TooBig) {
        // Nothing is wrong: so senders find out what fits.
        tables.count_way(Way::TooBigSent, bytes);
        tables.count_sent(plan.sender, bytes);
    } else {
        tables.count_drop(reason, plan.sender, bytes);
    }
    if !told {
        return Verdict::DROP;
    }
    if !matches!(reason, Drop::TooBig) {
        tables.count_way(Way::ErrorSent, bytes);
    }
    // Not back out of the link: there, `to_container` would take it for what the host forwards.
    Verdict { to: To::Peer, ifindex, via: V4(0) }
}

/// Where the packet goes and what changes in it. Touches no byte of it. Returns [`DECIDED`], or who decides.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    hook: Hook,
    plan: &mut Plan<V4>,
) -> Result<u32, Drop> {
    let interface = tables.interface(hook.ifindex).ok_or(Drop::UnknownInterface)?;
    plan.sender = interface.slot;
    if hook.vlan {
        // Out of the uplink, the tag would put the packet into a VLAN of the container's choice.
        return Err(Drop::Vlan);
    }
    let ethernet: Ethernet = packet.get(0).ok_or(Drop::Malformed)?;
    if ethernet.source != interface.mac {
        return Err(Drop::SpoofedMac);
    }
    match ethernet.ethertype {
        Ethernet::IPV4 => ipv4(packet, tables, hook, &interface, plan),
        Ethernet::ARP => {
            plan.ifindex = hook.ifindex;
            arp::decide(packet, &interface, plan).map(|()| DECIDED)
        }
        _ => Err(Drop::EtherType),
    }
}

#[inline(always)]
fn ipv4<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    hook: Hook,
    interface: &Interface<V4>,
    plan: &mut Plan<V4>,
) -> Result<u32, Drop> {
    let ip = headers::ipv4(packet)?;
    if ip.source != interface.address {
        return Err(Drop::SpoofedAddress);
    }
    if ip.protocol == protocol::ICMP {
        related::check_sender(packet, &ip, interface.address)?;
    }
    if ip.destination.within(&interface.subnet, &interface.mask) {
        if ip.destination == interface.gateway {
            return Ok(to_host(packet, tables, &ip, plan));
        }
        // No two networks share an address, so whoever has this one is in the sender's network.
        let Some(endpoint) = tables.endpoint(&ip.destination) else {
            return to_node(packet, tables, interface, &ip, plan).map(|()| DECIDED);
        };
        if endpoint.ifindex == hook.ifindex {
            // Its own address: the kernel in the container would not have sent it.
            return Err(Drop::Destination);
        }
        plan.to = To::Peer;
        plan.way = Way::Local;
        plan.ifindex = endpoint.ifindex;
        plan.receiver = endpoint.slot;
        plan.macs = endpoint.macs;
        plan.rewrite = Plan::<V4>::MACS;
        return Ok(DECIDED);
    }
    if !hairpin::translates(interface) {
        route(tables, &ip.destination, plan)?;
        if !matches!(plan.to, To::Neighbour) {
            return Ok(to_host(packet, tables, &ip, plan));
        }
        routed(packet, &ip, plan)?;
        return Ok(DECIDED);
    }
    // Known flows first: most packets to the world belong to one, and then need no route.
    let Ok(transport) = headers::transport(packet, &ip, false) else { return Ok(RARE) };
    let mut mapping = Mapping::NONE;
    let tuple = transport.tuple(&ip, Tuple::<V4>::OUT);
    if nat::known(tables, &tuple, transport.tcp_flags, &mut mapping) {
        if mapping.flags & Flow::<V4>::HAIRPIN != 0 {
            return Ok(HAIRPIN);
        }
        to_uplink(tables, plan)?;
    } else {
        route(tables, &ip.destination, plan)?;
        if !matches!(plan.to, To::Neighbour) {
            return Ok(to_host(packet, tables, &ip, plan));
        }
        if interface.flags & Interface::<V4>::MASQUERADE == 0 {
            routed(packet, &ip, plan)?;
            return Ok(DECIDED);
        }
        if ip.protocol == protocol::UDP
            && transport.destination == Vxlan::PORT
            && tables.route(&ip.destination).is_some_and(|route| route.node != V4(0))
        {
            return Err(Drop::OverlayContainer);
        }
        if ip.ttl <= 1 {
            // Not worth a flow.
            return Err(Drop::TtlExpired);
        }
        match tables.create(&tuple, interface.slot, &mut mapping) {
            0 => {}
            reason => {
                plan.quiet = reason & nat::SOON != 0;
                return Err(refusal(reason & !nat::SOON));
            }
        }
    }
    plan.old_port = transport.source;
    if ip.is_fragment() {
        let id = fragment::remember(tables, &tuple, u32::from(ip.id.raw()), interface.slot, &mapping);
        plan.rewrite = Plan::<V4>::ID;
        plan.id = Be16::from_raw(id as u16);
    }
    routed(packet, &ip, plan)?;
    plan.way = Way::Masquerade;
    plan.rewrite |= Plan::<V4>::SOURCE;
    plan.l4 = ip.l4;
    plan.protocol = ip.protocol;
    plan.old_address = ip.source;
    plan.address = mapping.address;
    plan.port = mapping.port;
    Ok(DECIDED)
}

/// Where a packet goes that is to be masqueraded if it goes to the world, and has no ports of its own: a fragment that follows a
/// first one, or an ICMP error about a flow.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide_rare<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    plan: &mut Plan<V4>,
) -> Result<(), Drop> {
    let interface = tables.interface(ifindex).ok_or(Drop::UnknownInterface)?;
    plan.sender = interface.slot;
    let ip = headers::ipv4(packet)?;
    // Only packets to the world need translation.
    route(tables, &ip.destination, plan)?;
    if !matches!(plan.to, To::Neighbour) {
        plan.way = Way::ToHost;
        return Ok(());
    }
    let Err(reason) = headers::transport(packet, &ip, false) else { return Err(Drop::Malformed) };
    let masquerade = interface.flags & Interface::<V4>::MASQUERADE != 0;
    if ip.is_later_fragment() {
        fragment::check_offset(&ip)?;
        let tuple = fragment::tuple(&ip, Tuple::<V4>::OUT);
        let mut mapping = Mapping::NONE;
        let id = fragment::follow(tables, &tuple, u32::from(ip.id.raw()), &mut mapping);
        if id == fragment::UNKNOWN {
            return if masquerade { Err(reason) } else { routed(packet, &ip, plan) };
        }
        plan.rewrite = Plan::<V4>::SOURCE | Plan::<V4>::PLAIN | Plan::<V4>::ID;
        plan.id = Be16::from_raw(id as u16);
        plan.old_address = ip.source;
        plan.address = mapping.address;
        routed(packet, &ip, plan)?;
        plan.way = Way::Masquerade;
        return Ok(());
    }
    let is_error = packet.get(ip.l4).is_some_and(|[kind, _]: [u8; 2]| icmp::is_error(kind));
    if ip.protocol != protocol::ICMP || ip.is_fragment() || !is_error {
        return if masquerade { Err(reason) } else { routed(packet, &ip, plan) };
    }
    let mut found = Found::new(&ip);
    if related::find(packet, tables, ip.l4, u32::from(Tuple::<V4>::OUT), &mut found) == 0 {
        return if masquerade { Err(Drop::UnrelatedError) } else { routed(packet, &ip, plan) };
    }
    routed(packet, &ip, plan)?;
    plan.way = Way::Masquerade;
    plan.rewrite |= Plan::<V4>::SOURCE | Plan::<V4>::QUOTE;
    plan.l4 = ip.l4;
    plan.protocol = found.protocol as u8;
    plan.quoted = found.offset;
    plan.end = ip.end;
    plan.old_address = ip.source;
    plan.address = found.address;
    plan.old_port = found.old_port;
    plan.port = found.port;
    Ok(())
}

/// An address of the sender's subnet that no endpoint here has: another node's slice, or nobody's.
#[inline(always)]
fn to_node<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    interface: &Interface<V4>,
    ip: &headers::Headers<V4>,
    plan: &mut Plan<V4>,
) -> Result<(), Drop> {
    let route = tables.route(&ip.destination).ok_or(Drop::NoEndpoint)?;
    let vxlan = route.kind == Route::VXLAN;
    if !vxlan && route.kind != Route::DIRECT {
        return Err(Drop::NoEndpoint);
    }
    if route.network != interface.network {
        return Err(Drop::Isolated);
    }
    let config = tables.config().ok_or(Drop::NoRoute)?;
    let overhead = if vxlan { Vxlan::OVERHEAD } else { 0 };
    plan.mtu = u32::from(route.mtu);
    plan.address = config.address;
    plan.old_address = ip.destination;
    plan.macs = interface.macs;
    if packet.len() - Ethernet::LEN > 0xffff - overhead {
        // Its segments might fit, so there is no size to tell.
        plan.mtu = 0;
        return Err(Drop::TooBig);
    }
    if icmp_error::length_on_wire(packet, ip) > plan.mtu {
        return Err(Drop::TooBig);
    }
    if config.uplink == 0 {
        return Err(Drop::NoRoute);
    }
    plan.to = To::Neighbour;
    plan.ifindex = config.uplink;
    plan.node = route.node;
    plan.network = route.network;
    plan.to_node = route.slot;
    if vxlan {
        // Switched, as within a node: the time to live stays.
        plan.way = Way::ToNodeVxlan;
        plan.rewrite = Plan::<V4>::ENCAPSULATE;
    } else {
        if ip.ttl <= 1 {
            return Err(Drop::TtlExpired);
        }
        plan.way = Way::ToNode;
        plan.rewrite = Plan::<V4>::TTL;
    }
    Ok(())
}

/// Where a destination is that is not in the sender's subnet.
#[inline(always)]
fn route<T: Tables<V4>>(tables: &T, destination: &V4, plan: &mut Plan<V4>) -> Result<(), Drop> {
    if !destination.is_routable() {
        return Err(Drop::Destination);
    }
    let route = tables.route(destination).ok_or(Drop::NoRoute)?;
    match route.kind {
        Route::HOST => {
            plan.to = To::Stack;
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
fn to_uplink<T: Tables<V4>>(tables: &T, plan: &mut Plan<V4>) -> Result<(), Drop> {
    let config = tables.config().ok_or(Drop::NoRoute)?;
    plan.ifindex = config.uplink;
    plan.mtu = config.mtu;
    Ok(())
}

/// To an address of the host: its stack, or another container behind one of its ports.
#[inline(always)]
fn to_host<P: Packet, T: Tables<V4>>(
    packet: &P,
    tables: &T,
    ip: &headers::Headers<V4>,
    plan: &mut Plan<V4>,
) -> u32 {
    plan.to = To::Stack;
    plan.way = Way::ToHost;
    if hairpin::concerns(packet, tables, ip) { HAIRPIN } else { DECIDED }
}

/// The kernel finds the next hop and writes the Ethernet header; a router's duty is the time to live.
#[inline(always)]
fn routed<P: Packet>(packet: &P, ip: &headers::Headers<V4>, plan: &mut Plan<V4>) -> Result<(), Drop> {
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
    plan.rewrite |= Plan::<V4>::TTL;
    Ok(())
}
