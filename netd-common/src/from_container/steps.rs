//! The steps of a container's packet, each a program of its own in BPF, and what they end with: rewrite, count, refuse.

use super::{Then, decide, decide_discovery, decide_error, decide_open, decide_rare};
use crate::{
    abi::Route,
    addr::{Addr, V4, V6},
    hairpin::{self, hairpin},
    hairpin_error::hairpin_error,
    icmp_error, nat, overlay,
    packet::{Hook, Packet},
    plan::{NO_SLOT, Plan, To, Verdict},
    published::NOT_OURS,
    reason::{Drop, Way},
    tables::Tables,
    wire::{Ethernet, tcp},
};

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
    /// One that is to be masqueraded if it goes to the world, and has no ports of its own: see [`decide_rare`].
    Rare = 5,
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
    let decided = match step {
        Step4::Open => decide_open(packet, tables, ifindex, &mut plan),
        Step4::Rare => decide_rare(packet, tables, ifindex, &mut plan),
        _ => decide(packet, tables, hook, &mut plan, &mut node),
    };
    match decided {
        Ok(Then::Again) => Err(Step4::Begin),
        Ok(Then::Open) => Err(Step4::Open),
        Ok(Then::Hairpin) => Err(Step4::Hairpin),
        Ok(Then::Overlay) => Err(Step4::Overlay),
        Ok(Then::Rare) => Err(Step4::Rare),
        decided => Ok(finish(packet, tables, ifindex, decided.map(|_| ()), &plan, node.as_deref())),
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
    Verdict { to: To::Link, ifindex, via: V6::ZERO }
}
