//! What few packets of a container's are: the first of a flow, neighbour discovery, later fragments, ICMP errors.

use super::{Then, host_or_hairpin, masquerade, route, routed};
use crate::{
    abi::{Interface, Tuple},
    addr::Addr,
    fragment,
    headers::{self, Headers},
    nat::{self, Mapping},
    overlay,
    packet::Packet,
    plan::{Plan, To},
    reason::{Drop, Way},
    related::{self, Found},
    tables::Tables,
};

/// Where a packet goes that belongs to no flow, and a new flow if that is the world: then [`Then::Again`].
#[inline(always)]
fn open<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    interface: &Interface<A>,
    ip: &Headers<A>,
    tuple: &Tuple<A>,
    mapping: &mut Mapping<A>,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    route(tables, &ip.destination, plan)?;
    if !matches!(plan.to, To::Neighbour) {
        return Ok(host_or_hairpin(packet, tables, ip, plan));
    }
    if interface.flags & Interface::<A>::MASQUERADE == 0 {
        return routed(packet, ip, plan).map(|()| Then::Plan);
    }
    let config = tables.config().ok_or(Drop::NoRoute)?;
    if overlay::is_overlay(&config, tuple.protocol, tuple.destination_port) {
        return Err(Drop::OverlayContainer);
    }
    if ip.ttl <= 1 {
        // Not worth a flow.
        return Err(Drop::TtlExpired);
    }
    match tables.create(tuple, interface.slot, mapping) {
        0 => Ok(Then::Again),
        reason => {
            plan.quiet = reason & nat::SOON != 0;
            Err(nat::refusal(reason & !nat::SOON))
        }
    }
}

/// Where a packet goes that is to be masqueraded if it goes to the world, and belongs to no flow: [`Then::Again`] if it has got one.
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
    let Some(interface) = tables.interface(ifindex) else { return Err(A::NO_INTERFACE) };
    plan.sender = interface.slot;
    let ip = headers::ip::<A, P>(packet)?;
    let tuple = headers::transport(packet, &ip, false)?.tuple(&ip, Tuple::<A>::OUT);
    let mut mapping = Mapping::NONE;
    open(packet, tables, &interface, &ip, &tuple, &mut mapping, plan)
}

/// What becomes of neighbour discovery.
///
/// # Errors
/// Why it gets no answer.
#[inline(always)]
pub fn decide_discovery<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    let Some(interface) = tables.interface(ifindex) else { return Err(A::NO_INTERFACE) };
    (plan.sender, plan.ifindex) = (interface.slot, ifindex);
    A::discover(packet, &interface, &headers::ip::<A, P>(packet)?, plan)?;
    Ok(Then::Plan)
}

/// Where a packet goes that is to be masqueraded if it goes to the world, and has no ports of its own: a fragment that follows a
/// first one, or an ICMP error about a flow. Of IPv6: a fragment, first or later, but no error.
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
    let Some(interface) = tables.interface(ifindex) else { return Err(A::NO_INTERFACE) };
    let slot = interface.slot;
    plan.sender = slot;
    let masquerade = interface.flags & Interface::<A>::MASQUERADE != 0;
    let ip = headers::ip::<A, P>(packet)?;
    // Only packets to the world need translation.
    route(tables, &ip.destination, plan)?;
    if !matches!(plan.to, To::Neighbour) {
        return Ok(host_or_hairpin(packet, tables, &ip, plan));
    }
    let reason = match headers::transport(packet, &ip, false) {
        Ok(transport) if A::V6 => {
            // The first fragment of several.
            let mut mapping = Mapping::NONE;
            let tuple = transport.tuple(&ip, Tuple::<A>::OUT);
            if !nat::known(tables, &tuple, transport.segment, &mut mapping) {
                return Ok(Then::Open);
            }
            self::masquerade(packet, tables, &ip, &transport, &mapping, plan)?;
            plan.id = fragment::remember(tables, &tuple, ip.id, slot, &mapping);
            plan.id_at = ip.id_at;
            plan.rewrite |= Plan::<A>::ID;
            return Ok(Then::Plan);
        }
        Ok(_) => return Err(Drop::Malformed),
        Err(reason) => reason,
    };
    if ip.is_later_fragment() {
        fragment::check_offset(&ip)?;
        let tuple = fragment::tuple(&ip, Tuple::<A>::OUT);
        let mut mapping = Mapping::NONE;
        let id = fragment::follow(tables, &tuple, ip.id, &mut mapping);
        if id == fragment::UNKNOWN {
            return unless(masquerade, reason, packet, &ip, plan);
        }
        plan.rewrite = Plan::<A>::SOURCE | Plan::<A>::PLAIN | Plan::<A>::ID;
        plan.id = id as u32;
        plan.id_at = ip.id_at;
        plan.address = mapping.address;
        routed(packet, &ip, plan)?;
        plan.way = Way::Masquerade;
        return Ok(Then::Plan);
    }
    if A::V6 {
        return unless(masquerade, reason, packet, &ip, plan);
    }
    error(packet, tables, &ip, masquerade, reason, plan)
}

/// What of a routed network needs no translation, as an answer by a published port would, goes on as it is.
#[inline(always)]
fn unless<A: Addr, P: Packet>(
    masquerade: bool,
    reason: Drop,
    packet: &P,
    ip: &Headers<A>,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    if masquerade { Err(reason) } else { routed(packet, ip, plan).map(|()| Then::Plan) }
}

/// Where a packet of ICMPv6 that is to be masqueraded and no echo request goes: see [`decide_rare`].
///
/// # Errors
/// Why it goes nowhere.
#[inline(always)]
pub fn decide_error<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    let Some(interface) = tables.interface(ifindex) else { return Err(A::NO_INTERFACE) };
    plan.sender = interface.slot;
    let masquerade = interface.flags & Interface::<A>::MASQUERADE != 0;
    let ip = headers::ip::<A, P>(packet)?;
    // Only packets to the world need translation.
    route(tables, &ip.destination, plan)?;
    if !matches!(plan.to, To::Neighbour) {
        return Ok(host_or_hairpin(packet, tables, &ip, plan));
    }
    error(packet, tables, &ip, masquerade, Drop::Protocol, plan)
}

/// An ICMP error about a flow, on its way to the world; anything else is dropped for the `reason`.
#[inline(always)]
fn error<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    ip: &Headers<A>,
    masquerade: bool,
    reason: Drop,
    plan: &mut Plan<A>,
) -> Result<Then, Drop> {
    let is_error = packet.get(ip.l4).is_some_and(|[kind, _]: [u8; 2]| A::is_icmp_error(kind));
    if ip.protocol != A::ICMP.protocol || ip.is_fragment() || !is_error {
        return unless(masquerade, reason, packet, ip, plan);
    }
    let mut found = Found::new(ip);
    if related::find(packet, tables, ip.l4, u32::from(Tuple::<A>::OUT), &mut found) == 0 {
        return unless(masquerade, Drop::UnrelatedError, packet, ip, plan);
    }
    routed(packet, ip, plan)?;
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
