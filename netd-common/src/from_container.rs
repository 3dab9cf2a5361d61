//! A packet that a container sends: the host side of its link, ingress.

use crate::{
    abi::{Flow, Interface, Route, Tuple},
    addr::{Addr, V4, V6},
    fragment,
    hairpin::{self, hairpin},
    hairpin_error::hairpin_error,
    headers::{self, Headers, Transport},
    icmp_error,
    nat::{self, Mapping},
    overlay,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, To, Verdict},
    published::NOT_OURS,
    reason::{Drop, Way},
    related::{self, Found},
    tables::Tables,
    wire::{Ethernet, Vxlan, protocol, tcp},
};

/// What [`rare`] returns for a packet that [`hairpin()`] is for; no packed [`Verdict`].
const HAIRPIN: u64 = u64::MAX;

/// The whole way of all but IPv6: decide, rewrite, count.
pub fn from_container<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let mut step = Step4::Begin;
    // A flow that is removed as soon as it is made may be made again: as often as the kernel lets programs follow each other.
    for _ in 0..33 {
        match step4(packet, tables, hook, step) {
            Ok(verdict) => return verdict,
            Err(next) => step = next,
        }
    }
    Verdict::DROP
}

/// A step of an IPv4 packet's way. Each is a program of its own in BPF, which the one before ends with: what it needs of stack, all
/// the others would pay for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step4 {
    /// Most packets.
    Begin = 0,
    /// One that is to be masqueraded if it goes to the world, and belongs to no flow: see [`decide_open`].
    Open = 1,
    /// One to another container by a published port: see [`hairpin()`].
    Hairpin = 2,
    /// An ICMP error about one of those: see [`hairpin_error()`].
    HairpinError = 3,
    /// One to another node that is too long for netd to encapsulate: see [`overlay::hand_over`].
    Overlay = 4,
}

/// One step of IPv4. `Err`: the step to go on with.
///
/// # Errors
/// There is another step.
#[inline(always)]
pub fn step4<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
    step: Step4,
) -> Result<Verdict, Step4> {
    let ifindex = hook.ifindex;
    if matches!(step, Step4::Hairpin) {
        // IPv4's makes the flows itself.
        let mut told = Told::default();
        return match hairpin::<V4, P, T>(packet, tables, ifindex, &mut told) {
            Ok(verdict) => Ok(verdict),
            Err(hairpin::Then::Error) => Err(Step4::HairpinError),
            Err(_) => Ok(refuse_step(packet, tables, ifindex, &told)),
        };
    }
    if matches!(step, Step4::HairpinError) {
        return Ok(hairpin_error::<V4, P, T>(packet, tables, ifindex));
    }
    if matches!(step, Step4::Overlay) {
        return Ok(overlay::hand_over(packet, tables, ifindex));
    }
    let mut plan = Plan::<V4>::new();
    let mut node = None;
    let decided = if matches!(step, Step4::Open) {
        decide_open(packet, tables, ifindex, &mut plan)
    } else {
        decide(packet, tables, hook, &mut plan, &mut node)
    };
    match decided {
        Ok(Then::Again) => Err(Step4::Begin),
        Ok(Then::Open) => Err(Step4::Open),
        Ok(Then::Hairpin) => Err(Step4::Hairpin),
        Ok(Then::Overlay) => Err(Step4::Overlay),
        Ok(Then::Rare) => match rare(packet, tables, ifindex) {
            HAIRPIN => Err(Step4::Hairpin),
            verdict => Ok(Verdict::unpack(verdict)),
        },
        decided => Ok(finish(packet, tables, ifindex, decided.map(|_| ()), &plan, node.as_deref())),
    }
}

/// The whole way of a packet that is to be masqueraded and has no ports of its own; the verdict, packed.
///
/// A subprogram of its own in BPF: what it needs of stack and registers, all the others would pay for.
#[inline(never)]
fn rare<P: Packet, T: Tables<V4>>(packet: &mut P, tables: &T, ifindex: u32) -> u64 {
    let mut plan = Plan::<V4>::new();
    match decide_rare(packet, tables, ifindex, &mut plan) {
        Ok(Then::Hairpin) => HAIRPIN,
        decided => finish(packet, tables, ifindex, decided.map(|_| ()), &plan, None).pack(),
    }
}

#[inline(always)]
fn finish<P: Packet, T: Tables<V4>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    decided: Result<(), Drop>,
    plan: &Plan<V4>,
    node: Option<&Route>,
) -> Verdict {
    let bytes = packet.len();
    match decided.and_then(|()| carry_out(packet, tables, plan, node)) {
        Ok(verdict) => verdict,
        Err(reason) => {
            let told = Told { reason: reason as u32, mtu: plan.mtu, quiet: plan.quiet, tries: 0 };
            refuse(packet, tables, ifindex, plan.sender, &told, bytes)
        }
    }
}

/// A step of an IPv6 packet's way. Each is a program of its own in BPF, which the one before ends with: no stack holds what two of
/// them need. IPv4 needs less: see [`Step4`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step6 {
    /// Most packets.
    Begin = 0,
    /// A fragment that is to be masqueraded: see [`decide_rare`].
    Rare = 1,
    /// One that is to be masqueraded if it goes to the world, and belongs to no flow: see [`decide_open`].
    Open = 2,
    /// Neighbour discovery.
    Discover = 3,
    /// One that is dropped: its sender is told, where that can be.
    Refuse = 4,
    /// Anything of ICMPv6 but echo requests that is to be masqueraded: see [`decide_error`].
    Error = 5,
    /// One to another container by a published port: see [`hairpin()`].
    Hairpin = 6,
    /// Likewise, where the sender's flow is to be made: see [`hairpin::make_first`].
    HairpinFirst = 7,
    /// Likewise, where the receiver's is: see [`hairpin::make_second`].
    HairpinSecond = 8,
    /// An ICMP error about one of those: see [`hairpin_error()`].
    HairpinError = 9,
    /// One to another node that is too long for netd to encapsulate: see [`overlay::hand_over`].
    Overlay = 10,
}

impl Step6 {
    /// All of them, by number.
    pub const ALL: [Self; 11] = [
        Self::Begin,
        Self::Rare,
        Self::Open,
        Self::Discover,
        Self::Refuse,
        Self::Error,
        Self::Hairpin,
        Self::HairpinFirst,
        Self::HairpinSecond,
        Self::HairpinError,
        Self::Overlay,
    ];
}

/// What the steps hand on: why a packet is dropped, or how its making of flows goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Number of the [`Drop`] reason.
    pub reason: u32,
    /// What would fit, bytes; 0: not known.
    pub mtu: u32,
    /// The sender is not told.
    pub quiet: bool,
    /// How often another port was to be found for the sender: see [`hairpin::make_first`].
    pub tries: u32,
}

impl Told {
    /// For what [`nat::create`] or [`crate::published::open`] returned.
    #[inline(always)]
    pub const fn refused(outcome: u32) -> Self {
        Self { reason: outcome & !nat::SOON, mtu: 0, quiet: outcome & nat::SOON != 0, tries: 0 }
    }
}

/// One step of IPv6. `Err`: the step to go on with; to [`Step6::Refuse`] with what is in `told`.
///
/// # Errors
/// There is another step.
#[inline(always)]
pub fn step6<P: Packet, T: Tables<V6>>(
    packet: &mut P,
    tables: &T,
    hook: Hook,
    step: Step6,
    told: &mut Told,
) -> Result<Verdict, Step6> {
    packet.pull(Ethernet::LEN + V6::HEADER + tcp::LEN);
    let ifindex = hook.ifindex;
    if matches!(step, Step6::Refuse) {
        return Ok(refuse_step(packet, tables, ifindex, told));
    }
    if matches!(step, Step6::Hairpin) {
        told.tries = 0;
        return hairpin::<V6, P, T>(packet, tables, ifindex, told).map_err(|then| match then {
            hairpin::Then::MakeFirst => Step6::HairpinFirst,
            hairpin::Then::MakeSecond => Step6::HairpinSecond,
            hairpin::Then::Error => Step6::HairpinError,
            _ => Step6::Refuse,
        });
    }
    if matches!(step, Step6::HairpinError) {
        return Ok(hairpin_error::<V6, P, T>(packet, tables, ifindex));
    }
    if matches!(step, Step6::Overlay) {
        return Ok(overlay::hand_over(packet, tables, ifindex));
    }
    if matches!(step, Step6::HairpinFirst | Step6::HairpinSecond) {
        return make(packet, tables, ifindex, matches!(step, Step6::HairpinFirst), told);
    }
    let mut plan = Plan::<V6>::new();
    let mut node = None;
    let decided = match step {
        Step6::Rare => decide_rare(packet, tables, ifindex, &mut plan),
        Step6::Error => decide_error(packet, tables, ifindex, &mut plan),
        Step6::Open => decide_open(packet, tables, ifindex, &mut plan),
        Step6::Discover => decide_discovery(packet, tables, ifindex, &mut plan),
        _ => decide(packet, tables, hook, &mut plan, &mut node),
    };
    let done = match decided {
        Ok(Then::Plan) => carry_out(packet, tables, &plan, node.as_deref()),
        Ok(Then::Error) => return Err(Step6::Error),
        Ok(Then::Rare) => return Err(Step6::Rare),
        Ok(Then::Open) => return Err(Step6::Open),
        Ok(Then::Discover) => return Err(Step6::Discover),
        Ok(Then::Again) => return Err(Step6::Begin),
        Ok(Then::Hairpin) => return Err(Step6::Hairpin),
        Ok(Then::Overlay) => return Err(Step6::Overlay),
        Err(reason) => Err(reason),
    };
    match done {
        Ok(verdict) => Ok(verdict),
        Err(reason) => {
            *told = Told { reason: reason as u32, mtu: plan.mtu, quiet: plan.quiet, tries: 0 };
            Err(Step6::Refuse)
        }
    }
}

/// Makes one of the two flows of a packet to another container by a published port. `Err`: the step to go on with.
#[inline(always)]
fn make<P: Packet, T: Tables<V6>>(
    packet: &P,
    tables: &T,
    ifindex: u32,
    first: bool,
    told: &mut Told,
) -> Result<Verdict, Step6> {
    const CLASH: u32 = Drop::PublishedClash as u32;
    let made = if first {
        hairpin::make_first::<V6, P, T>(packet, tables, ifindex, told.tries)
    } else {
        hairpin::make_second::<V6, P, T>(packet, tables, ifindex)
    };
    match made {
        0 if first => Err(Step6::HairpinSecond),
        0 => Err(Step6::Hairpin),
        CLASH if told.tries + 1 < hairpin::TRIES => {
            told.tries += 1;
            Err(Step6::HairpinFirst)
        }
        NOT_OURS => {
            let slot = tables.interface(ifindex).map_or(NO_SLOT, |interface| interface.slot);
            tables.count_way(Way::ToHost, packet.len());
            tables.count_sent(slot, packet.len());
            Ok(Verdict::STACK)
        }
        reason => {
            *told = Told::refused(reason);
            Err(Step6::Refuse)
        }
    }
}

/// The whole way of IPv6, in steps.
pub fn from_container6<P: Packet, T: Tables<V6>>(packet: &mut P, tables: &T, hook: Hook) -> Verdict {
    let (mut step, mut told) = (Step6::Begin, Told::default());
    // As many as the kernel lets programs follow each other.
    for _ in 0..33 {
        match step6(packet, tables, hook, step, &mut told) {
            Ok(verdict) => return verdict,
            Err(next) => step = next,
        }
    }
    Verdict::DROP
}

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
    /// It goes to another container by a published port: see [`hairpin()`].
    Hairpin,
    /// It goes to another node, and is too long for netd to encapsulate: see [`overlay::hand_over`].
    Overlay,
}

/// Does what the plan says, and counts.
#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    plan: &Plan<A>,
    node: Option<&Route>,
) -> Result<Verdict, Drop> {
    let bytes = packet.len();
    plan.carry_out(packet, tables, node)?;
    tables.count_way(plan.way, bytes);
    tables.count_sent(plan.sender, bytes);
    if plan.receiver != NO_SLOT {
        tables.count_received(plan.receiver, bytes);
    }
    if plan.to_node != NO_SLOT {
        tables.count_to_node(plan.to_node, bytes);
    }
    // In VXLAN, the kernel finds the way to the node by the outer destination.
    let via = match node {
        Some(node) if plan.rewrite & Plan::<A>::ENCAPSULATE == 0 => node.node,
        _ => V6::ZERO,
    };
    Ok(Verdict { to: plan.to, ifindex: plan.ifindex, via })
}

/// [`refuse`], of a step that knows the interface alone.
#[inline(always)]
fn refuse_step<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    told: &Told,
) -> Verdict {
    let slot = tables.interface(ifindex).map_or(NO_SLOT, |interface| interface.slot);
    let bytes = packet.len();
    refuse(packet, tables, ifindex, slot, told, bytes)
}

/// Drops a packet, and tells its sender why where that can be.
#[inline(always)]
fn refuse<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    ifindex: u32,
    slot: u32,
    told: &Told,
    bytes: u32,
) -> Verdict {
    let error = if told.quiet { 0 } else { icmp_error::about::<A>(told.reason, told.mtu) };
    let is_told = error != 0 && icmp_error::answer(packet, tables, ifindex, error) != 0;
    let too_big = told.reason == Drop::TooBig as u32;
    if is_told && too_big {
        // Nothing is wrong: so senders find out what fits.
        tables.count_way(Way::TooBigSent, bytes);
        tables.count_sent(slot, bytes);
    } else {
        tables.count_refused(told.reason, slot, bytes);
    }
    if !is_told {
        return Verdict::DROP;
    }
    if !too_big {
        tables.count_way(Way::ErrorSent, bytes);
    }
    // Not back out of the link: there, `to_container` would take it for what the host forwards.
    Verdict { to: To::Peer, ifindex, via: V6::ZERO }
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
        return ip(packet, tables, hook.ifindex, &interface, plan, node);
    }
    if ethernet.ethertype == Ethernet::ARP {
        plan.ifindex = hook.ifindex;
        return A::resolve(packet, &interface, plan).map(|()| Then::Plan);
    }
    Err(Drop::EtherType)
}

#[inline(always)]
fn ip<'t, A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &'t T,
    ifindex: u32,
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
    if nat::known(tables, &tuple, transport.tcp_flags, &mut mapping) {
        if mapping.flags & Flow::<A>::HAIRPIN != 0 {
            return Ok(Then::Hairpin);
        }
        to_uplink(tables, plan)?;
    } else {
        return Ok(Then::Open);
    }
    if ip.is_fragment() {
        plan.id = fragment::remember(tables, &tuple, ip.id, interface.slot, &mapping);
        plan.rewrite = Plan::<A>::ID;
    }
    masquerade(packet, &ip, &transport, &mapping, plan).map(|()| Then::Plan)
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
    if tuple.protocol == protocol::UDP
        && tuple.destination_port == Vxlan::PORT
        && tables.route(&ip.destination).is_some_and(|route| route.node != V6::ZERO)
    {
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
            if !nat::known(tables, &tuple, transport.tcp_flags, &mut mapping) {
                return Ok(Then::Open);
            }
            plan.id = fragment::remember(tables, &tuple, ip.id, slot, &mapping);
            plan.id_at = ip.id_at;
            plan.rewrite = Plan::<A>::ID;
            return self::masquerade(packet, &ip, &transport, &mapping, plan).map(|()| Then::Plan);
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
