//! Source translation: masquerade, as Linux does it (RFC 4787's address- and port-dependent mapping, so that a port serves
//! as many flows as there are destinations).

use crate::{
    abi::{Flow, Tuple},
    addr::Addr,
    flow::{self, State, TCP_CLOSED_REUSE, When},
    quota::{self, Account},
    reason::Drop,
    segment::{Packed, Segment},
    shared::Shared,
    tables::{Add, Scratch, Tables, Whose},
    wire::{Be16, protocol, tcp},
};

/// What a tuple's container side is translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Mapping<A> {
    /// The address.
    pub address: A,
    /// The port.
    pub port: Be16,
    /// The flow's flags: see [`Flow::PUBLISHED`].
    pub flags: u16,
}

impl<A: Addr> Mapping<A> {
    /// None.
    pub const NONE: Self = Self { address: A::ZERO, port: Be16::ZERO, flags: 0 };
}

impl<A: Addr> Flow<A> {
    /// What its tuple is translated to.
    #[inline(always)]
    pub fn mapping(&self) -> Mapping<A> {
        Mapping { address: self.address, port: self.port, flags: self.flags }
    }
}

/// Ports tried for a new flow. With 95 % of a destination's ports in use, 128 random tries all fail once in 700 times and
/// 256 once in 500,000; each costs a look-up.
const TRIES: u32 = 256;

/// Added to [`Drop::PortsExhausted`] where a port comes free within seconds: that of a connection which is closed. Whoever tries
/// again, as TCP does by itself, will get one, and is not to be told that there is none.
pub const SOON: u32 = 1 << 31;

/// The flow that an outbound packet belongs to, if there is one: its mapping is put into `mapping`.
///
/// This is all that a packet in the middle of a flow costs: one look-up.
#[inline(always)]
pub fn known<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    segment: impl Into<Segment>,
    mapping: &mut Mapping<A>,
) -> bool {
    let segment = segment.into();
    let Some(flow) = tables.flow(tuple) else { return false };
    *mapping = flow.mapping();
    let anew = flow.touch(tables.now());
    segment.note(&flow, anew);
    let state = flow.state.get();
    if !segment.is_special() && state & State::WATCHED == 0 {
        return true;
    }
    let Packed { flags, numbers } = segment.into();
    if note_outward(tables, tuple, &flow, flags, numbers) {
        return true;
    }
    *mapping = Mapping::NONE;
    false
}

/// Notes a packet of a container's that may change its flow's state. `false`: the flow is gone.
///
/// A subprogram of its own in BPF, so that the others do not pay for it.
#[inline(never)]
fn note_outward<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    flow: &Flow<A>,
    flags: u32,
    numbers: u64,
) -> bool {
    let segment = &Segment::from(Packed { flags, numbers });
    let state = flow.state.get();
    if state & State::WATCHED != 0 {
        // Before the look: who asks for another one after it, will get it.
        flow.state.replace(state, state & !State::WATCHED);
    }
    let Some(mut scratch) = tables.scratch(Whose::Note) else { return true };
    scratch.inward.set_inward(tuple, flow.address, flow.port);
    // The state is in the inbound entry. Where that is dead or gone, this one is a leftover.
    if let Some(inward) = tables.flow(&scratch.inward)
        && State::observe(&inward.state, &scratch.inward, false, segment)
    {
        segment.note_opening(&inward);
        return true;
    }
    flow::remove_outward(tables, tuple, (flow.address, flow.port), State::number(state));
    false
}

/// Makes a flow for an outbound packet that belongs to none. Returns 0, or the [`Drop`] reason (see [`SOON`]).
///
/// `mapping` says what is wanted, and then what it has become: an address that stands in for the container (none: the node's), a
/// port (none: the container's own) that is taken if it is in the range and free, and the flow's flags.
///
/// The inbound entry is inserted first: whoever gets it in owns the port. A function of its own in BPF (see [`Tables::create`]).
#[inline(always)]
pub fn create<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    slot: u32,
    mapping: &mut Mapping<A>,
) -> u32 {
    let outcome = make(tables, tuple, slot, mapping);
    if outcome == 0 {
        return 0;
    }
    // Another CPU may have been faster, and have taken what there was.
    if let Some(flow) = tables.flow(tuple)
        && State::is_of(flow.state.get(), tuple)
    {
        *mapping = flow.mapping();
        return 0;
    }
    // Or it is about to add the other entry.
    if outcome == THEIRS { 0 } else { outcome }
}

/// Another CPU has made the flow's inbound entry, with what is in the mapping.
const THEIRS: u32 = SOON - 1;

/// The same, without a look whether another CPU has made it.
#[inline(always)]
fn make<A: Addr, T: Tables<A>>(tables: &T, tuple: &Tuple<A>, slot: u32, mapping: &mut Mapping<A>) -> u32 {
    let Some(config) = tables.config() else { return Drop::NoRoute as u32 };
    if config.address == A::ZERO && mapping.address == A::ZERO {
        return Drop::NoRoute as u32;
    }
    let Some(mut scratch) = tables.scratch(Whose::Create) else { return Drop::FlowTableFull as u32 };
    let number = quota::number(tables, slot, Account::Outward);
    let refused = quota::take(tables, &config, slot, Account::Outward, number);
    if refused != 0 {
        return refused;
    }
    if mapping.address == A::ZERO {
        mapping.address = config.address;
    }
    let now = tables.now();
    scratch.flow = Flow {
        state: Shared::new(State::initial(tuple, number)),
        seen: Shared::new(now),
        mark: Shared::new(if tuple.protocol == protocol::TCP { 0 } else { now }),
        slot,
        address: tuple.source,
        port: tuple.source_port,
        flags: mapping.flags,
    };
    let range = (config.first_port, config.last_port);
    let cell = quota::cell(config.seed, slot, &tuple.destination, tuple.destination_port, tuple.protocol);
    let there = tables.flows_to(cell, 1);
    let outcome = claim_port(tables, tuple, range, there, mapping, &mut scratch);
    if outcome != 0 {
        quota::give_back(tables, slot, Account::Outward, cell);
        return outcome;
    }
    record(tables, tuple, mapping, &mut scratch)
}

/// Inserts the outbound entry of a flow that has got the `mapping`. Returns 0, or the [`Drop`] reason: then the flow is gone.
#[inline(always)]
fn record<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    mapping: &mut Mapping<A>,
    scratch: &mut Scratch<A>,
) -> u32 {
    let Scratch { inward, flow, .. } = scratch;
    let (slot, number) = (flow.slot, State::number(flow.state.get()));
    flow.state = Shared::new(State::initial(tuple, number));
    (flow.address, flow.port) = (mapping.address, mapping.port);
    let added = tables.flow_add(tuple, flow);
    if added.is_ok() {
        if is_whole(tables, inward, number) {
            quota::enter(tables, inward, slot, Account::Outward, number);
            return 0;
        }
        // It was removed before it was whole: what has just been added belongs to nothing.
        flow::remove_outward(tables, tuple, (mapping.address, mapping.port), number);
        return Drop::FlowTableFull as u32 | SOON;
    }
    flow::abandon(tables, inward, number);
    Drop::FlowTableFull as u32
}

/// Whether the inbound entry of the flow with this number is there, now that its outbound one is. Who removes it from now on sees both.
#[inline(always)]
pub(crate) fn is_whole<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, number: u32) -> bool {
    tables.flow(inward).is_some_and(|flow| State::is_of_flow(flow.state.get(), inward, number))
}

/// Finds a port for a tuple at the `mapping`'s address, and inserts the inbound entry with it. Returns 0, or the [`Drop`] reason (see
/// [`SOON`]).
#[inline(always)]
fn claim_port<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    (first, last): (u16, u16),
    there: u32,
    mapping: &mut Mapping<A>,
    scratch: &mut Scratch<A>,
) -> u32 {
    let first = u32::from(first);
    let ports = u32::from(last).wrapping_sub(first).wrapping_add(1) & 0x1_ffff;
    if ports == 0 {
        return Drop::PortsExhausted as u32;
    }
    let ports = quota::ports(ports, there);
    // The container's own port if it is in the range: some protocols expect it, and it is as good as any.
    let wanted = if mapping.port == Be16::ZERO { tuple.source_port } else { mapping.port };
    let mut port = u32::from(wanted.host());
    if port.wrapping_sub(first) >= ports {
        port = first + below(tables.random(), ports);
    }
    mapping.port = Be16::new(port as u16);
    scratch.inward.set_inward(tuple, mapping.address, mapping.port);
    let mut search = Search { tables, scratch, first, ports, outcome: Drop::PortsExhausted as u32 };
    T::repeat(TRIES, claim, &mut search);
    mapping.port = search.scratch.inward.destination_port;
    search.outcome
}

/// The search for a port.
struct Search<'a, A, T> {
    tables: &'a T,
    /// The inbound tuple with the port that is tried next, or that was found, and the flow.
    scratch: &'a mut Scratch<A>,
    first: u32,
    ports: u32,
    /// 0, or the reason why there is none.
    outcome: u32,
}

/// The first tries, which are for ports that nobody has: one that a closed connection leaves is as good, but the connection may be
/// less closed than it looks.
const FREE: u32 = 16;

/// Tries to insert the inbound entry with one port. Returns 0 to go on, 1 when the search is over.
extern "C" fn claim<A: Addr, T: Tables<A>>(round: u32, search: &mut Search<'_, A, T>) -> i64 {
    let tables = search.tables;
    let Scratch { inward, flow, .. } = &mut *search.scratch;
    if tables.is_published(inward.protocol, inward.destination_port.host()) {
        // New connections to it are somebody's.
        search.try_another(round);
        return 0;
    }
    let old = tables.flow(inward);
    let is_free = match &old {
        None => true,
        Some(old) => {
            let state = old.state.get();
            if (old.address, old.port) == (flow.address, flow.port) && State::is_of(state, inward) {
                search.outcome = THEIRS;
                return 1;
            }
            if State::reuse(state, inward.protocol, flow::service(inward)) <= TCP_CLOSED_REUSE {
                search.outcome |= SOON;
            }
            round >= FREE && flow::remove(tables, inward, old, flow.seen.get(), When::Reusable)
        }
    };
    if is_free {
        flow.state = Shared::new(State::initial(inward, State::number(flow.state.get())) | State::SENT);
        match tables.flow_add(inward, flow) {
            Ok(()) => {
                search.outcome = 0;
                return 1;
            }
            Err(Add::Full) => {
                search.outcome = Drop::FlowTableFull as u32;
                return 1;
            }
            // Another CPU was faster: perhaps with the same flow.
            Err(Add::Exists) => return 0,
        }
    }
    search.try_another(round);
    0
}

impl<A: Addr, T: Tables<A>> Search<'_, A, T> {
    /// Finds a port for the round after this one: of all, and then nearer and nearer to the end, which is for who has few.
    #[inline(always)]
    fn try_another(&mut self, round: u32) {
        let narrowed = self.ports >> ((round / FREE).saturating_sub(1) & 15);
        let least = if self.ports < FREE { self.ports } else { FREE };
        let ports = if narrowed < least { least } else { narrowed };
        let port = self.first + (self.ports - ports) + below(self.tables.random(), ports);
        self.scratch.inward.destination_port = Be16::new(port as u16);
    }
}

/// A random number below `limit`: by multiplication, because a division costs more and would have to exclude zero.
#[inline(always)]
const fn below(random: u32, limit: u32) -> u32 {
    ((random as u64 * limit as u64) >> 32) as u32
}

/// The container that an inbound packet is for, if it belongs to a flow.
#[inline(always)]
pub fn reply<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    segment: impl Into<Segment>,
    mapping: &mut Mapping<A>,
) -> bool {
    let segment = segment.into();
    let Some(flow) = tables.flow(tuple) else { return false };
    let state = flow.state.get();
    if segment.is_special() || !State::is_settled(state) {
        let Packed { flags, numbers } = segment.into();
        if !note_inward(tables, tuple, &flow, flags, numbers) {
            return false;
        }
    }
    flow.touch(tables.now());
    *mapping = flow.mapping();
    true
}

/// Notes a packet from outside that may change a flow's state. `false`: the flow is being removed.
///
/// A subprogram of its own in BPF, so that the others do not pay for it.
#[inline(never)]
fn note_inward<A: Addr, T: Tables<A>>(
    tables: &T,
    inward: &Tuple<A>,
    flow: &Flow<A>,
    flags: u32,
    numbers: u64,
) -> bool {
    let segment = &Segment::from(Packed { flags, numbers });
    let state = flow.state.get();
    if !segment.is_believed(tables, inward, flow, state) {
        return state & State::DEAD == 0;
    }
    if !State::observe(&flow.state, inward, true, segment) {
        return false;
    }
    if segment.flags & tcp::RST != 0 {
        // Should the container go on talking, it is not reset.
        let Some(mut scratch) = tables.scratch(Whose::Note) else { return true };
        scratch.outward.set_outward(inward, flow.address, flow.port);
        if let Some(outward) = tables.flow(&scratch.outward) {
            outward.state.set_bits(State::WATCHED);
        }
    }
    true
}

/// The reason behind the number that [`create`] or [`crate::published::open`] returned, without [`SOON`].
#[inline(always)]
pub fn refusal(number: u32) -> Drop {
    const QUOTA: u32 = Drop::FlowQuota as u32;
    const FULL: u32 = Drop::FlowTableFull as u32;
    const PORTS: u32 = Drop::PortsExhausted as u32;
    const CLASH: u32 = Drop::PublishedClash as u32;
    const MARTIAN: u32 = Drop::Martian as u32;
    match number {
        QUOTA => Drop::FlowQuota,
        FULL => Drop::FlowTableFull,
        PORTS => Drop::PortsExhausted,
        CLASH => Drop::PublishedClash,
        MARTIAN => Drop::Martian,
        _ => Drop::NoRoute,
    }
}
