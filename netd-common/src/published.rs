//! Published ports: who connects to one of the host's ports from outside comes to a container.
//!
//! Such a connection is a flow like any other, of two entries, only that its first packet comes from the other side: the
//! [`Tuple::IN`] entry turns the host's address and port into the container's, the [`Tuple::OUT`] entry turns them back. So its
//! later packets, both ways, are what those of masqueraded flows are.

use crate::{
    abi::{Flow, Port, PortKey, Route, Tuple},
    addr::Addr,
    flow::{self, State, Ticks, When},
    nat::{self, Mapping},
    quota::{self, Account, NO_CELL},
    reason::Drop,
    segment::Segment,
    shared::Shared,
    tables::{Add, Scratch, Tables, Whose},
    wire::{Be16, protocol, tcp},
};

/// No flow is to be made: the packet is the host's.
pub const NOT_OURS: u32 = u32::MAX;

/// Whose a port is: the exact address counts before any address.
#[inline(always)]
fn owner<A: Addr, T: Tables<A>>(tables: &T, mut key: PortKey<A>) -> Option<T::Ref<'_, Port<A>>> {
    if let Some(port) = tables.port(&key) {
        return Some(port);
    }
    key.address = A::ZERO;
    tables.port(&key)
}

/// Whose port a packet is for, given its tuple of either direction.
#[inline(always)]
pub(crate) fn find<'a, A: Addr, T: Tables<A>>(
    tables: &'a T,
    tuple: &Tuple<A>,
) -> Option<T::Ref<'a, Port<A>>> {
    let (address, port) = (tuple.destination, tuple.destination_port);
    owner(tables, PortKey { address, port, protocol: tuple.protocol, reserved: 0 })
}

/// Where a socket of the host's is to connect to instead of an address and a port that it asks for, if they are a published port:
/// the host's own packets to itself come by none of the programs that see packets.
#[inline(always)]
pub fn for_host<A: Addr, T: Tables<A>>(
    tables: &T,
    asked: A,
    port: Be16,
    protocol: u8,
) -> Option<T::Ref<'_, Port<A>>> {
    if !tables.is_published(protocol, port.host()) {
        return None;
    }
    // For connect(2) and its like, 0.0.0.0 and :: are the host itself.
    let address = if asked == A::ZERO { A::LOOPBACK } else { asked };
    if !address.is_loopback() && tables.route(&address).is_none_or(|route| route.kind != Route::HOST) {
        return None;
    }
    owner(tables, PortKey { address, port, protocol, reserved: 0 })
}

/// Whether a packet can be the first of a flow by a published port. TCP's is a SYN: anything else that belongs to no flow may be
/// for a socket of the host's.
#[inline(always)]
pub const fn opens(protocol: u8, tcp_flags: u8) -> bool {
    const FLAGS: u8 = tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST;
    protocol == protocol::UDP || (protocol == protocol::TCP && tcp_flags & FLAGS == tcp::SYN)
}

/// Makes a flow for a packet to a published port that belongs to none, given its [`Tuple::IN`]. `flags` are TCP's.
/// `mapping.flags` are the flow's besides [`Flow::PUBLISHED`]; the rest of it becomes the container's address and port. Returns 0,
/// [`NOT_OURS`], or the [`Drop`] reason.
///
/// A function of its own in BPF (see [`Tables::open`]).
#[inline(always)]
pub fn open<A: Addr, T: Tables<A>>(
    tables: &T,
    inward: &Tuple<A>,
    tcp_flags: u32,
    mapping: &mut Mapping<A>,
) -> u32 {
    if !opens(inward.protocol, tcp_flags as u8) {
        return NOT_OURS;
    }
    let (Some(port), Some(config)) = (find(tables, inward), tables.config()) else { return NOT_OURS };
    let outside = mapping.flags & Flow::<A>::HAIRPIN == 0;
    if outside && !is_outside(tables, &inward.source) {
        return Drop::Martian as u32;
    }
    let slot = port.slot;
    (mapping.address, mapping.port) = (port.address, port.port);
    mapping.flags |= Flow::<A>::PUBLISHED;
    let now = tables.now();
    let Some(mut scratch) = tables.scratch(Whose::Create) else { return Drop::FlowTableFull as u32 };
    scratch.outward.set_outward(inward, mapping.address, mapping.port);
    if !make_way(tables, now, &mut scratch) {
        return Drop::PublishedClash as u32;
    }
    let number = quota::number(tables, slot, Account::Inward);
    let refused = quota::take(tables, &config, slot, Account::Inward, number);
    if refused != 0 {
        return refused;
    }
    let state =
        State::after(State::initial(inward, number), true, inward.protocol, &Segment::from(tcp_flags as u8));
    scratch.flow = Flow {
        state: Shared::new(state),
        seen: Shared::new(now),
        mark: Shared::new(0),
        slot,
        address: mapping.address,
        port: mapping.port,
        flags: mapping.flags,
    };
    if let Err(full) = tables.flow_add(inward, &scratch.flow) {
        quota::give_back(tables, slot, Account::Inward, NO_CELL);
        return match full {
            Add::Exists => settle(tables, inward, tcp_flags, mapping),
            Add::Full => Drop::FlowTableFull as u32,
        };
    }
    // Its answer is to be noted.
    let Scratch { outward, flow, .. } = &mut *scratch;
    flow.state = Shared::new(State::initial(outward, number) | State::WATCHED);
    (flow.address, flow.port) = (inward.destination, inward.destination_port);
    if let Err(full) = tables.flow_add(outward, flow) {
        flow::abandon(tables, inward, number);
        return match full {
            Add::Exists => Drop::PublishedClash as u32,
            Add::Full => Drop::FlowTableFull as u32,
        };
    }
    // Who takes a port back takes it out of the table first, and then removes its flows. This one may have come too late for that.
    let still =
        find(tables, inward).is_some_and(|port| (port.address, port.port) == (mapping.address, mapping.port));
    if !still {
        flow::abandon(tables, inward, number);
    }
    if !nat::is_whole(tables, inward, number) {
        // It was removed before it was whole: what has just been added belongs to nothing.
        flow::remove_outward(tables, outward, (inward.destination, inward.destination_port), number);
        return NOT_OURS;
    }
    quota::enter(tables, inward, slot, Account::Inward, number);
    0
}

/// Whether somebody outside can have an address, as what comes by the uplink says: who is answered there is to be outside, and no
/// container is to hear an answer that it has not asked for. Those of networks that are not masqueraded come with their own addresses.
#[inline(always)]
fn is_outside<A: Addr, T: Tables<A>>(tables: &T, source: &A) -> bool {
    if !source.is_routable() {
        return false;
    }
    // What no route leads to is in nobody's network.
    let Some(route) = tables.route(source) else { return true };
    match route.kind {
        Route::UPLINK => true,
        Route::DIRECT | Route::VXLAN => route.flags & Route::ROUTED != 0,
        _ => false,
    }
}

/// There is an entry already: another packet of the flow made it, on another CPU; or it is what is left of a connection between
/// containers whose other half is gone, and goes too.
#[inline(always)]
fn settle<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, tcp_flags: u32, mapping: &Mapping<A>) -> u32 {
    let mut found = Mapping::NONE;
    if nat::reply(tables, inward, tcp_flags as u8, &mut found) && found == *mapping {
        return 0;
    }
    if let Some(old) = tables.flow(inward) {
        flow::remove(tables, inward, &old, tables.now(), When::Now);
    }
    Drop::PublishedClash as u32
}

/// Makes sure that there is no entry for a container's packets, given their outbound tuple: one that nobody uses any more goes.
/// `false`: it talks to that client already, by another port of the host's.
#[inline(always)]
fn make_way<A: Addr, T: Tables<A>>(tables: &T, now: Ticks, scratch: &mut Scratch<A>) -> bool {
    let Scratch { inward, outward, .. } = scratch;
    let Some(old) = tables.flow(outward) else { return true };
    let number = State::number(old.state.get());
    inward.set_inward(outward, old.address, old.port);
    match tables.flow(inward) {
        Some(flow) => flow::remove(tables, inward, &flow, now, When::Reusable),
        None => {
            flow::remove_outward(tables, outward, (old.address, old.port), number);
            true
        }
    }
}
