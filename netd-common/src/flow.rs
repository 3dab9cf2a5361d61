//! The state of a translated flow and how long it is kept.
//!
//! Both directions note when they last saw a packet. What else there is to know of a flow is one word, [`State`], in its
//! inbound entry, changed by compare-and-swap: so of all who want to remove, reclaim or reopen a flow at once, on
//! whatever CPU, exactly one succeeds. An entry, of either direction, is removed only by who has turned its state to
//! [`State::DEAD`].
//!
//! The kernel gives the memory of a removed entry to the next one at once, while another CPU may still hold what it has looked
//! up. So a state says whose it is as well, and nobody changes a stranger's.

use crate::{
    abi::{Flow, Tuple},
    addr::Addr,
    quota,
    shared::Shared,
    tables::Tables,
    wire::{Be16, protocol, tcp},
};

/// Time since boot in units of 2^28 ns (about 0.27 s): fine enough for timeouts, and a flow's cache line is written at
/// most four times a second however many packets it carries.
pub type Ticks = u32;

/// Nanoseconds are shifted by this to get [`Ticks`].
pub const TICK_SHIFT: u32 = 28;

/// Seconds as ticks, rounded up.
pub const fn ticks(seconds: u32) -> Ticks {
    (((seconds as u64) * 1_000_000_000).div_ceil(1 << TICK_SHIFT)) as Ticks
}

/// TCP, both directions seen and nothing closed: 2 h 4 min (RFC 5382 REQ-5).
pub const TCP_ESTABLISHED: Ticks = ticks(2 * 3600 + 4 * 60);
/// TCP, half open, closing or reset: 4 min (RFC 5382 REQ-5).
pub const TCP_TRANSITORY: Ticks = ticks(240);
/// UDP: 5 min (RFC 4787 REQ-5).
pub const UDP: Ticks = ticks(300);
/// DNS over UDP: 30 s. One question, one answer; RFC 4787 REQ-5 b allows it for a well-known port, and a busy resolver
/// would otherwise use up its ports.
pub const DNS: Ticks = ticks(30);
/// ICMP echo: 60 s (RFC 5508 REQ-2).
pub const ICMP: Ticks = ticks(60);
/// A connection that both sides closed, or that the container reset, is kept for stragglers; its port may go to a new
/// flow after this time already, as with `tcp_tw_reuse` in Linux.
pub const TCP_CLOSED_REUSE: Ticks = ticks(1);
/// A connection that the other side reset: longer, because a reset can be forged by whoever guesses the ports.
pub const TCP_RESET_REUSE: Ticks = ticks(10);

/// What is known of a flow: a set of bits.
pub struct State;

impl State {
    /// A packet came back.
    pub const REPLIED: u32 = 1;
    /// The container's side sent FIN.
    pub const FIN_OUT: u32 = 2;
    /// The other side sent FIN.
    pub const FIN_IN: u32 = 4;
    /// The container's side sent RST.
    pub const RST_OUT: u32 = 8;
    /// The other side sent RST.
    pub const RST_IN: u32 = 16;
    /// Somebody is removing the flow.
    pub const DEAD: u32 = 1 << 31;

    const CLOSING: u32 = Self::FIN_OUT | Self::FIN_IN | Self::RST_OUT | Self::RST_IN;
    /// The bits that say whose it is.
    const IDENTITY: u32 = 0x7fff_ff00;

    /// That of a new entry with this tuple.
    #[inline(always)]
    pub fn new<A: Addr>(tuple: &Tuple<A>) -> u32 {
        let ports = u32::from(tuple.source_port.raw()) << 16 | u32::from(tuple.destination_port.raw());
        let hash = mix(mix(tuple.source.folded(), tuple.destination.folded()), ports);
        mix(hash, u32::from(tuple.protocol) << 8 | u32::from(tuple.direction)) & Self::IDENTITY
    }

    /// Whether it is that of an entry with this tuple which nobody is removing.
    #[inline(always)]
    pub fn is_of<A: Addr>(state: u32, tuple: &Tuple<A>) -> bool {
        (state ^ Self::new(tuple)) & (Self::IDENTITY | Self::DEAD) == 0
    }

    /// The state after a packet. `inward`: it comes from the other side.
    #[inline(always)]
    pub const fn after(old: u32, inward: bool, protocol: u8, tcp_flags: u8) -> u32 {
        if protocol != protocol::TCP {
            return if inward { old | Self::REPLIED } else { old };
        }
        let opens = tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        if opens && old & Self::CLOSING != 0 && tcp_flags & tcp::RST == 0 {
            // The tuple is used for a new connection, of which nothing is known yet.
            return old & Self::IDENTITY;
        }
        // A SYN is no answer: two sides that open at once (RFC 9293 section 3.5) answer with SYN and ACK.
        let mut new = if inward && !opens { old | Self::REPLIED } else { old };
        if tcp_flags & tcp::RST != 0 {
            return new | if inward { Self::RST_IN } else { Self::RST_OUT };
        }
        if inward {
            // It goes on talking: the reset was not the container's peer's.
            new &= !Self::RST_IN;
        }
        if tcp_flags & tcp::FIN != 0 {
            new |= if inward { Self::FIN_IN } else { Self::FIN_OUT };
        }
        new
    }

    /// Notes a packet of a flow, given its inbound tuple. `false`: the flow is being removed.
    #[inline(always)]
    pub fn observe<A: Addr>(state: &Shared, tuple: &Tuple<A>, inward: bool, tcp_flags: u8) -> bool {
        // Other CPUs may be at it: each time that this one fails, another has got on.
        let mut tries = 0;
        let mut new = 0;
        while tries < 4 {
            let old = state.get();
            if old & Self::DEAD != 0 {
                return false;
            }
            new = Self::after(old, inward, tuple.protocol, tcp_flags);
            if new == old {
                return true;
            }
            if !Self::is_of(old, tuple) {
                return false;
            }
            if state.replace(old, new) {
                return true;
            }
            tries += 1;
        }
        // What is to be undone or begun anew can wait for the next packet; an end that is not noted would be lost.
        state.set_bits(new & (Self::REPLIED | Self::CLOSING));
        true
    }

    /// How long a flow in this state is kept after its last packet. `port`: see [`service`].
    #[inline(always)]
    pub const fn timeout(state: u32, protocol: u8, port: Be16) -> Ticks {
        match protocol {
            protocol::TCP if state & Self::REPLIED != 0 && state & Self::CLOSING == 0 => TCP_ESTABLISHED,
            protocol::TCP => TCP_TRANSITORY,
            protocol::UDP if port.host() == 53 => DNS,
            protocol::UDP => UDP,
            _ => ICMP,
        }
    }

    /// Whether its place may go to another flow before it has timed out.
    #[inline(always)]
    pub const fn is_closed(state: u32, protocol: u8) -> bool {
        const BOTH: u32 = State::FIN_OUT | State::FIN_IN;
        protocol == protocol::TCP && (state & BOTH == BOTH || state & (Self::RST_OUT | Self::RST_IN) != 0)
    }

    /// How long it is kept where its place is needed.
    #[inline(always)]
    pub const fn reuse(state: u32, protocol: u8, port: Be16) -> Ticks {
        let closed = state & (Self::FIN_OUT | Self::FIN_IN) == Self::FIN_OUT | Self::FIN_IN;
        if protocol == protocol::TCP && (closed || state & Self::RST_OUT != 0) {
            TCP_CLOSED_REUSE
        } else if protocol == protocol::TCP && state & Self::RST_IN != 0 {
            TCP_RESET_REUSE
        } else {
            Self::timeout(state, protocol, port)
        }
    }
}

/// The port by which a flow's timeout goes, given its inbound entry: the far side's, or that which a client of the container's
/// asked for, if that is DNS.
#[inline(always)]
pub const fn service<A>(inward: &Tuple<A>) -> Be16 {
    if inward.destination_port.host() == 53 { inward.destination_port } else { inward.source_port }
}

/// When a flow may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum When {
    /// It has timed out.
    TimedOut,
    /// It has timed out, or is closed and its place is needed.
    Reusable,
    /// Now.
    Now,
}

impl<A: Addr> Flow<A> {
    /// Notes that a packet came this way.
    #[inline(always)]
    pub fn touch(&self, now: Ticks) {
        if self.seen.get() != now {
            self.seen.set(now);
        }
    }
}

/// Mixes a word into a hash: enough to tell entries apart, and to spread them.
#[inline(always)]
pub(crate) const fn mix(hash: u32, word: u32) -> u32 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
    hash ^ hash >> 15
}

/// Turns the state of an entry with this tuple to [`State::DEAD`]. Whether nobody else has: then it is the caller's to remove.
#[inline(always)]
pub fn condemn<A: Addr>(flow: &Flow<A>, tuple: &Tuple<A>) -> bool {
    // Somebody may be noting a packet: a few times in a row at most.
    let mut tries = 0;
    while tries < 8 {
        let state = flow.state.get();
        if !State::is_of(state, tuple) {
            return false;
        }
        if flow.state.replace(state, state | State::DEAD) {
            return true;
        }
        tries += 1;
    }
    false
}

/// Removes the outbound entry with this tuple, if it is that of the flow with this mapping.
#[inline(always)]
pub fn remove_outward<A: Addr, T: Tables<A>>(tables: &T, outward: &Tuple<A>, address: A, port: Be16) {
    if let Some(flow) = tables.flow(outward)
        && (flow.address, flow.port) == (address, port)
        && condemn(&flow, outward)
    {
        tables.flow_remove(outward);
    }
}

/// Removes the inbound entry that the caller has condemned, and what belongs to it.
#[inline(always)]
fn bury<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, flow: &Flow<A>) {
    let outward = inward.opposite(flow.address, flow.port);
    remove_outward(tables, &outward, inward.destination, inward.destination_port);
    let (slot, account) = (flow.slot, flow.account());
    tables.flow_remove(inward);
    quota::give_back(tables, slot, account);
}

/// Removes the flow with this inbound tuple, whatever its state, if it is this endpoint's and nobody else is removing it.
#[inline(always)]
pub fn abandon<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, slot: u32) {
    if let Some(flow) = tables.flow(inward)
        && flow.slot == slot
        && condemn(&flow, inward)
    {
        bury(tables, inward, &flow);
    }
}

/// Removes both entries of a flow, given its inbound one, if it may go by `when`. Whether it did.
///
/// The outbound entry goes first: while the inbound one is there nobody else can take the port, so no packet ever leaves
/// with a port that has a new owner. Whoever turns the state to [`State::DEAD`] removes the flow, and nobody else.
#[inline(always)]
pub fn remove<A: Addr, T: Tables<A>>(
    tables: &T,
    inward: &Tuple<A>,
    flow: &Flow<A>,
    now: Ticks,
    when: When,
) -> bool {
    let condemned = if matches!(when, When::Now) {
        condemn(flow, inward)
    } else {
        let state = flow.state.get();
        if !State::is_of(state, inward) {
            return false;
        }
        let mut idle = now.wrapping_sub(flow.seen.get());
        if let Some(other) = tables.flow(&inward.opposite(flow.address, flow.port)) {
            let other = now.wrapping_sub(other.seen.get());
            if other < idle {
                idle = other;
            }
        }
        // A clock read on another CPU may be a tick ahead of ours: that is no time at all, not 36 years.
        if idle > Ticks::MAX / 2 {
            idle = 0;
        }
        let limit = if matches!(when, When::TimedOut) {
            State::timeout(state, inward.protocol, service(inward))
        } else {
            State::reuse(state, inward.protocol, service(inward))
        };
        // Where a packet has come meanwhile, it stays.
        idle > limit && flow.state.replace(state, state | State::DEAD)
    };
    if condemned {
        bury(tables, inward, flow);
    }
    condemned
}
