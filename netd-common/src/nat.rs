//! Source translation: masquerade, as Linux does it (RFC 4787's address- and port-dependent mapping, so that a port serves
//! as many flows as there are destinations).

use crate::{
    abi::{Flow, Tuple},
    addr::Addr,
    flow::{self, State, Ticks, When},
    reason::Drop,
    shared::Shared,
    tables::{Add, Tables},
    wire::{Be16, tcp},
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
    tcp_flags: u8,
    mapping: &mut Mapping<A>,
) -> bool {
    let Some(flow) = tables.flow(tuple) else { return false };
    *mapping = flow.mapping();
    flow.touch(tables.now());
    if tcp_flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0 {
        return true;
    }
    // The state is in the inbound entry. Where that is dead or gone, this one is a leftover.
    let inward = tuple.opposite(mapping.address, mapping.port);
    if tables.flow(&inward).is_some_and(|f| State::observe(&f.state, false, tuple.protocol, tcp_flags)) {
        return true;
    }
    tables.flow_remove(tuple);
    *mapping = Mapping::NONE;
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
    let Some(config) = tables.config() else { return Drop::NoRoute as u32 };
    if config.address == A::ZERO && mapping.address == A::ZERO {
        return Drop::NoRoute as u32;
    }
    if tables.flows_of(slot, 0) >= config.quota {
        return Drop::FlowQuota as u32;
    }
    if mapping.address == A::ZERO {
        mapping.address = config.address;
    }
    let range = (config.first_port, config.last_port);
    let outcome = claim_port(tables, tuple, slot, range, mapping);
    if outcome != 0 { outcome } else { record(tables, tuple, slot, mapping) }
}

/// Inserts the outbound entry of a flow that has got the `mapping`. Returns 0, or the [`Drop`] reason: then the flow is gone. Another
/// CPU may have been faster: then its mapping is the flow's.
#[inline(always)]
fn record<A: Addr, T: Tables<A>>(tables: &T, tuple: &Tuple<A>, slot: u32, mapping: &mut Mapping<A>) -> u32 {
    let flow = Flow {
        state: Shared::new(0),
        seen: Shared::new(tables.now()),
        slot,
        address: mapping.address,
        port: mapping.port,
        flags: mapping.flags,
    };
    match tables.flow_add(tuple, flow) {
        Ok(()) => {
            tables.flows_of(slot, 1);
            0
        }
        Err(full) => {
            tables.flow_remove(&inward(tuple, mapping));
            match tables.flow(tuple) {
                Some(flow) if matches!(full, Add::Exists) => {
                    *mapping = flow.mapping();
                    0
                }
                _ => Drop::FlowTableFull as u32,
            }
        }
    }
}

/// The inbound tuple of an outbound one.
#[inline(always)]
const fn inward<A: Addr>(tuple: &Tuple<A>, mapping: &Mapping<A>) -> Tuple<A> {
    Tuple {
        source: tuple.destination,
        destination: mapping.address,
        source_port: tuple.destination_port,
        destination_port: mapping.port,
        protocol: tuple.protocol,
        direction: Tuple::<A>::IN,
        reserved: 0,
    }
}

/// Finds a port for a tuple at the `mapping`'s address, and inserts the inbound entry with it. Returns 0, or the [`Drop`] reason (see
/// [`SOON`]).
#[inline(always)]
fn claim_port<A: Addr, T: Tables<A>>(
    tables: &T,
    tuple: &Tuple<A>,
    slot: u32,
    (first, last): (u16, u16),
    mapping: &mut Mapping<A>,
) -> u32 {
    let first = u32::from(first);
    let ports = u32::from(last).wrapping_sub(first).wrapping_add(1) & 0x1_ffff;
    if ports == 0 {
        return Drop::PortsExhausted as u32;
    }
    // The container's own port if it is in the range: some protocols expect it, and it is as good as any.
    let wanted = if mapping.port == Be16::ZERO { tuple.source_port } else { mapping.port };
    let mut port = u32::from(wanted.host());
    if port.wrapping_sub(first) >= ports {
        port = first + below(tables.random(), ports);
    }
    mapping.port = Be16::new(port as u16);
    let mut search = Search {
        tables,
        inward: inward(tuple, mapping),
        container: tuple.source,
        port: tuple.source_port,
        flags: mapping.flags,
        now: tables.now(),
        slot,
        first,
        ports,
        outcome: Drop::PortsExhausted as u32,
    };
    T::repeat(TRIES, claim, &mut search);
    mapping.port = search.inward.destination_port;
    search.outcome
}

/// The search for a port.
struct Search<'a, A, T> {
    tables: &'a T,
    /// The inbound tuple with the port that is tried next, or that was found.
    inward: Tuple<A>,
    /// The container's address...
    container: A,
    /// ... and port.
    port: Be16,
    /// The flow's flags.
    flags: u16,
    now: Ticks,
    slot: u32,
    first: u32,
    ports: u32,
    /// 0, or the reason why there is none.
    outcome: u32,
}

/// Tries to insert the inbound entry with one port. Returns 0 to go on, 1 when the search is over.
extern "C" fn claim<A: Addr, T: Tables<A>>(_: u32, search: &mut Search<'_, A, T>) -> i64 {
    let tables = search.tables;
    let inward = &search.inward;
    if tables.is_published(inward.protocol, inward.destination_port.host()) {
        // New connections to it are somebody's.
        search.try_another();
        return 0;
    }
    let old = tables.flow(&search.inward);
    if let Some(old) = &old
        && State::is_closed(old.state.get(), search.inward.protocol)
    {
        search.outcome |= SOON;
    }
    if old.is_none_or(|old| flow::remove(tables, &search.inward, &old, search.now, When::Reusable)) {
        let flow = Flow {
            state: Shared::new(0),
            seen: Shared::new(search.now),
            slot: search.slot,
            address: search.container,
            port: search.port,
            flags: search.flags,
        };
        match tables.flow_add(&search.inward, flow) {
            Ok(()) => {
                search.outcome = 0;
                return 1;
            }
            Err(Add::Full) => {
                search.outcome = Drop::FlowTableFull as u32;
                return 1;
            }
            // Another CPU was faster.
            Err(Add::Exists) => {}
        }
    }
    search.try_another();
    0
}

impl<A: Addr, T: Tables<A>> Search<'_, A, T> {
    #[inline(always)]
    fn try_another(&mut self) {
        let port = self.first + below(self.tables.random(), self.ports);
        self.inward.destination_port = Be16::new(port as u16);
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
    tcp_flags: u8,
    mapping: &mut Mapping<A>,
) -> bool {
    let Some(flow) = tables.flow(tuple) else { return false };
    if !State::observe(&flow.state, true, tuple.protocol, tcp_flags) {
        return false;
    }
    flow.touch(tables.now());
    *mapping = flow.mapping();
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
