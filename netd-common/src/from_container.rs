//! A packet that a container sends: the host side of its link, ingress.

use crate::{
    abi::{Interface, Route, Tuple},
    addr::{Addr, V4, V6},
    fragment,
    headers::{self, Headers, Transport},
    icmp_error,
    nat::{self, Mapping},
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, To, Verdict},
    reason::{Drop, Way},
    related::{self, Found},
    tables::Tables,
    wire::{Be16, Ethernet, Vxlan, protocol, tcp},
};

/// The whole way: decide, rewrite, count.
#[inline(always)]
pub fn from_container<P: Packet, T: Tables<V4> + Tables<V6>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
) -> Verdict {
    if packet.get::<Be16>(Ethernet::ETHERTYPE) == Some(Ethernet::IPV6) {
        packet.pull(Ethernet::LEN + V6::HEADER + tcp::LEN);
        family::<V6, P, T>(packet, tables, hook)
    } else {
        family::<V4, P, T>(packet, tables, hook)
    }
}

/// The way of a family's packet, step by step. Each step is a subprogram of its own in BPF: what it needs of stack and registers, all
/// the others would pay for.
#[inline(always)]
fn family<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut via = V6::ZERO;
    let (ifindex, vlan) = (hook.ifindex, u32::from(hook.vlan));
    let mut result = common(packet, tables, ifindex, vlan, &mut via);
    if A::V6 {
        if result == Then::WORLD {
            result = world6(packet, tables, ifindex);
        } else if result == Then::DISCOVER {
            result = discover6(packet, tables, ifindex);
        }
    }
    if result == Then::RARE {
        result = rare(packet, tables, ifindex);
    }
    if result == Then::OPEN {
        result = open(packet, tables, ifindex);
        if result == Then::CREATE {
            result = create(packet, tables, ifindex);
        }
        if result == Then::WORLD {
            result = if A::V6 {
                world6(packet, tables, ifindex)
            } else {
                common(packet, tables, ifindex, vlan, &mut via)
            };
        }
        if A::V6 && result == Then::RARE {
            result = rare(packet, tables, ifindex);
        }
    }
    if Then::is_refused(result) {
        result = refuse(packet, tables, ifindex, result);
    }
    Verdict { via, ..Verdict::unpack(result) }
}

/// Most packets: the verdict, packed, or what is to be done instead.
#[inline(never)]
fn common<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    vlan: u32,
    via: &mut V6,
) -> u64 {
    let mut plan = Plan::<A>::new();
    match decide(packet, tables, ifindex, vlan != 0, &mut plan) {
        Ok(Then::Plan) => {}
        Ok(then) => return then as u64,
        Err(reason) => return Then::refused(reason, &plan),
    }
    // In VXLAN, the kernel finds the way to the node by the outer destination.
    if plan.rewrite & Plan::<A>::ENCAPSULATE == 0 {
        *via = plan.node;
    }
    carry_out(packet, tables, &plan)
}

/// A packet of IPv6 that is to be masqueraded if it goes to the world.
#[inline(never)]
fn world6<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::<A>::new();
    let mut decide = || {
        plan.sender = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?.slot;
        let slot = plan.sender;
        world(packet, tables, &headers::ip(packet)?, slot, &mut plan)
    };
    match decide() {
        Ok(Then::Plan) => carry_out(packet, tables, &plan),
        Ok(then) => then as u64,
        Err(reason) => Then::refused(reason, &plan),
    }
}

/// A packet that is to be masqueraded and has no ports of its own.
#[inline(never)]
fn rare<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::<A>::new();
    match decide_rare(packet, tables, ifindex, &mut plan) {
        Ok(Then::Plan) => carry_out(packet, tables, &plan),
        Ok(then) => then as u64,
        Err(reason) => Then::refused(reason, &plan),
    }
}

/// A packet that is to be masqueraded if it goes to the world, and belongs to no flow yet.
#[inline(never)]
fn open<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::<A>::new();
    match decide_open(packet, tables, ifindex, &mut plan) {
        Ok(Then::Plan) => carry_out(packet, tables, &plan),
        Ok(then) => then as u64,
        Err(reason) => Then::refused(reason, &plan),
    }
}

/// It gets a flow. [`Then::World`]: it has one.
#[inline(never)]
fn create<A: Addr, P: Packet, T: Tables<A>>(packet: &P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::<A>::new();
    let mut create = || {
        let slot = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?.slot;
        let ip = headers::ip::<A, P>(packet)?;
        let tuple = headers::transport(packet, &ip, false)?.tuple(&ip, Tuple::<A>::OUT);
        match nat::create(tables, &tuple, slot) {
            0 => Ok(()),
            reason => {
                plan.quiet = reason & nat::SOON != 0;
                Err(refusal(reason & !nat::SOON))
            }
        }
    };
    match create() {
        Ok(()) => Then::WORLD,
        Err(reason) => Then::refused(reason, &plan),
    }
}

/// Neighbour discovery.
#[inline(never)]
fn discover6<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::<A>::new();
    let mut decide = || {
        let interface = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?;
        (plan.sender, plan.ifindex) = (interface.slot, ifindex);
        A::discover(packet, &interface, &headers::ip::<A, P>(packet)?, &mut plan)
    };
    match decide() {
        Ok(()) => carry_out(packet, tables, &plan),
        Err(reason) => Then::refused(reason, &plan),
    }
}

/// What is to be done next with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Then {
    /// What the plan says.
    Plan = 1 << 40,
    /// It has no ports of its own: see [`decide_rare`].
    Rare = Self::RARE,
    /// It belongs to no flow: see [`decide_open`].
    Open = Self::OPEN,
    /// It needs one.
    Create = Self::CREATE,
    /// It is to be masqueraded if it goes to the world.
    World = Self::WORLD,
    /// It is neighbour discovery.
    Discover = Self::DISCOVER,
}

/// Numbers that no packed [`Verdict`] is.
impl Then {
    const RARE: u64 = 2 << 40;
    const OPEN: u64 = 3 << 40;
    const WORLD: u64 = 4 << 40;
    const DISCOVER: u64 = 5 << 40;
    const CREATE: u64 = 6 << 40;
    const REFUSED: u64 = 7 << 40;
    /// The sender is not told.
    const QUIET: u64 = 1 << 39;

    /// It is dropped for a reason.
    #[inline(always)]
    const fn refused<A: Addr>(reason: Drop, plan: &Plan<A>) -> u64 {
        Self::REFUSED
            | if plan.quiet { Self::QUIET } else { 0 }
            | ((plan.mtu & 0xffff) as u64) << 16
            | reason as u64
    }

    #[inline(always)]
    const fn is_refused(result: u64) -> bool {
        result >> 40 == Self::REFUSED >> 40
    }
}

/// Does what the plan says; the verdict, packed.
#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, plan: &Plan<A>) -> u64 {
    let bytes = packet.len();
    if let Err(reason) = plan.carry_out(packet, tables) {
        return Then::refused(reason, plan);
    }
    tables.count_way(plan.way, bytes);
    tables.count_sent(plan.sender, bytes);
    if plan.receiver != NO_SLOT {
        tables.count_received(plan.receiver, bytes);
    }
    if plan.to_node != NO_SLOT {
        tables.count_to_node(plan.to_node, bytes);
    }
    Verdict { to: plan.to, ifindex: plan.ifindex, via: V6::ZERO }.pack()
}

/// Drops a packet, and tells its sender why where that can be; the verdict, packed. `refused`: see [`Then::refused`].
#[inline(never)]
fn refuse<A: Addr, P: Packet, T: Tables<A>>(packet: &mut P, tables: &T, ifindex: u32, refused: u64) -> u64 {
    let bytes = packet.len();
    let slot = tables.interface(ifindex).map_or(NO_SLOT, |interface| interface.slot);
    let (reason, mtu) = (refused as u32 & 0xffff, (refused >> 16) as u32 & 0xffff);
    let error = if refused & Then::QUIET == 0 { icmp_error::about::<A>(reason, mtu) } else { 0 };
    let told = error != 0 && icmp_error::answer(packet, tables, ifindex, error);
    let too_big = reason == Drop::TooBig as u32;
    if told && too_big {
        // Nothing is wrong: so senders find out what fits.
        tables.count_way(Way::TooBigSent, bytes);
        tables.count_sent(slot, bytes);
    } else {
        tables.count_refused(reason, slot, bytes);
    }
    if !told {
        return Verdict::DROP.pack();
    }
    if !too_big {
        tables.count_way(Way::ErrorSent, bytes);
    }
    // Not back out of the link: there, `to_container` would take it for what the host forwards.
    Verdict { to: To::Peer, ifindex, via: V6::ZERO }.pack()
}

/// Where the packet goes and what changes in it. Touches no byte of it. `vlan`: the kernel keeps a tag of it.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    vlan: bool,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    let interface = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?;
    plan.sender = interface.slot;
    if vlan {
        // Out of the uplink, the tag would put the packet into a VLAN of the container's choice.
        return Err(Drop::Vlan);
    }
    let ethernet: Ethernet = packet.get(0).ok_or(Drop::Malformed)?;
    if ethernet.source != interface.mac {
        return Err(Drop::SpoofedMac);
    }
    if ethernet.ethertype == A::ETHERTYPE {
        return ip(packet, tables, ifindex, &interface, plan);
    }
    if ethernet.ethertype == Ethernet::ARP {
        plan.ifindex = ifindex;
        return A::resolve(packet, &interface, plan).map(|()| Then::Plan);
    }
    Err(Drop::EtherType)
}

#[inline(always)]
fn ip<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    interface: &Interface<A>,
    plan: &mut Plan<A>,
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
            to_host(plan);
            return Ok(Then::Plan);
        }
        // No two networks share an address, so whoever has this one is in the sender's network.
        let Some(endpoint) = tables.endpoint(&ip.destination) else {
            return to_node(packet, tables, interface, &ip, plan).map(|()| Then::Plan);
        };
        if endpoint.ifindex == ifindex {
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
    if interface.flags & Interface::<A>::MASQUERADE == 0 {
        route(tables, &ip.destination, plan)?;
        if matches!(plan.to, To::Neighbour) {
            routed(packet, &ip, plan)?;
        }
        return Ok(Then::Plan);
    }
    if A::V6 {
        return Ok(Then::World);
    }
    world(packet, tables, &ip, interface.slot, plan)
}

/// Where a packet goes that is to be masqueraded if it goes to the world.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
fn world<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ip: &Headers<A>,
    slot: u32,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    // Known flows first: most packets to the world belong to one, and then need no route.
    let Ok(transport) = headers::transport(packet, ip, false) else { return Ok(Then::Rare) };
    if A::V6 && ip.is_fragment() {
        return Ok(Then::Rare);
    }
    let mut mapping = Mapping { address: A::ZERO, port: Be16::ZERO };
    let tuple = transport.tuple(ip, Tuple::<A>::OUT);
    if !nat::known(tables, &tuple, transport.tcp_flags, &mut mapping) {
        return Ok(Then::Open);
    }
    to_uplink(tables, plan)?;
    if ip.is_fragment() {
        plan.id = fragment::remember(tables, &tuple, ip.id, slot, &mapping);
        plan.rewrite = Plan::<A>::ID;
    }
    masquerade(packet, ip, &transport, &mapping, plan).map(|()| Then::Plan)
}

/// A packet of a flow gets what stands for its container.
#[inline(always)]
fn masquerade<A: Addr, P: Packet>(
    packet: &P,
    ip: &Headers<A>,
    transport: &Transport,
    mapping: &Mapping<A>,
    plan: &mut Plan<A>,
) -> Result<(), Drop> {
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

/// Where a packet goes that is to be masqueraded if it goes to the world, and belongs to no flow: [`Then::Create`] if it needs one.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide_open<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    plan.sender = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?.slot;
    let ip = headers::ip::<A, P>(packet)?;
    route(tables, &ip.destination, plan)?;
    if !matches!(plan.to, To::Neighbour) {
        return Ok(Then::Plan);
    }
    if ip.protocol == protocol::UDP
        && headers::transport(packet, &ip, false)?.destination == Vxlan::PORT
        && tables.route(&ip.destination).is_some_and(|route| route.node != V6::ZERO)
    {
        return Err(Drop::OverlayContainer);
    }
    // Not worth a flow.
    if ip.ttl <= 1 { Err(Drop::TtlExpired) } else { Ok(Then::Create) }
}

/// Where a packet goes that is to be masqueraded if it goes to the world, and has no ports of its own: a fragment that follows a
/// first one, or an ICMP error about a flow. Of IPv6, the first fragment too.
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide_rare<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    let slot = tables.interface(ifindex).ok_or(A::NO_INTERFACE)?.slot;
    plan.sender = slot;
    let ip = headers::ip::<A, P>(packet)?;
    // Only packets to the world need translation.
    route(tables, &ip.destination, plan)?;
    if !matches!(plan.to, To::Neighbour) {
        return Ok(Then::Plan);
    }
    let reason = match headers::transport(packet, &ip, false) {
        Ok(transport) if A::V6 => {
            // The first fragment of several.
            let mut mapping = Mapping { address: A::ZERO, port: Be16::ZERO };
            let tuple = transport.tuple(&ip, Tuple::<A>::OUT);
            if !nat::known(tables, &tuple, transport.tcp_flags, &mut mapping) {
                return Ok(Then::Open);
            }
            plan.id = fragment::remember(tables, &tuple, ip.id, slot, &mapping);
            plan.id_at = ip.id_at;
            plan.rewrite = Plan::<A>::ID;
            return masquerade(packet, &ip, &transport, &mapping, plan).map(|()| Then::Plan);
        }
        Ok(_) => return Err(Drop::Malformed),
        Err(reason) => reason,
    };
    if ip.is_later_fragment() {
        fragment::check_offset(&ip)?;
        let tuple = fragment::tuple(&ip, Tuple::<A>::OUT);
        let mut mapping = Mapping { address: A::ZERO, port: Be16::ZERO };
        let id = fragment::follow(tables, &tuple, ip.id, &mut mapping);
        if id == fragment::UNKNOWN {
            return Err(reason);
        }
        plan.rewrite = Plan::<A>::SOURCE | Plan::<A>::PLAIN | Plan::<A>::ID;
        plan.id = id as u32;
        plan.id_at = ip.id_at;
        plan.address = mapping.address;
        routed(packet, &ip, plan)?;
        plan.way = Way::Masquerade;
        return Ok(Then::Plan);
    }
    let is_error = packet.get(ip.l4).is_some_and(|[kind, _]: [u8; 2]| A::is_icmp_error(kind));
    if ip.protocol != A::ICMP.protocol || ip.is_fragment() || !is_error {
        return Err(reason);
    }
    let mut found = Found::new(&ip);
    if related::find(packet, tables, ip.l4, u32::from(Tuple::<A>::OUT), &mut found) == 0 {
        return Err(Drop::UnrelatedError);
    }
    routed(packet, &ip, plan)?;
    plan.way = Way::Masquerade;
    plan.rewrite |= Plan::<A>::SOURCE | Plan::<A>::QUOTE;
    plan.l4 = ip.l4;
    plan.protocol = found.protocol as u8;
    plan.quoted = found.offset;
    plan.end = ip.end;
    plan.address = found.address;
    plan.old_port = found.old_port;
    plan.port = found.port;
    Ok(Then::Plan)
}

/// An address of the sender's subnet that no endpoint here has: another node's slice, or nobody's.
#[inline(always)]
fn to_node<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    interface: &Interface<A>,
    ip: &Headers<A>,
    plan: &mut Plan<A>,
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
    let overhead = if vxlan { Vxlan::overhead(!route.node.is_mapped()) } else { 0 };
    plan.mtu = u32::from(route.mtu);
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
        plan.inner = ip.destination.mac(interface);
        plan.way = Way::ToNodeVxlan;
        plan.rewrite = Plan::<A>::ENCAPSULATE;
    } else {
        if ip.ttl <= 1 {
            return Err(Drop::TtlExpired);
        }
        plan.way = Way::ToNode;
        plan.rewrite = Plan::<A>::TTL;
    }
    Ok(())
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

/// The reason behind the number that a subprogram returned.
#[inline(always)]
fn refusal(number: u32) -> Drop {
    const QUOTA: u32 = Drop::FlowQuota as u32;
    const FULL: u32 = Drop::FlowTableFull as u32;
    const PORTS: u32 = Drop::PortsExhausted as u32;
    match number {
        QUOTA => Drop::FlowQuota,
        FULL => Drop::FlowTableFull,
        PORTS => Drop::PortsExhausted,
        _ => Drop::NoRoute,
    }
}
