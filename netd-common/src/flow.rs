//! The state of a translated flow and how long it is kept.
//!
//! Both directions note when they last saw a packet. What else there is to know of a flow is one word, [`State`], in its
//! inbound entry, changed by compare-and-swap: so of all who want to remove, reclaim or reopen a flow at once, on
//! whatever CPU, exactly one succeeds. An entry, of either direction, is removed only by who has turned its state to
//! [`State::DEAD`].
//!
//! The kernel gives the memory of a removed entry to the next one at once, while another CPU may still hold what it has looked
//! up. So a state says whose it is as well, and nobody changes a stranger's: part of a hash of the entry's tuple, and a number that
//! both entries of a flow have and the next flow with the same tuples has not.

use crate::{
    abi::{Flow, Tuple},
    addr::Addr,
    quota,
    segment::Segment,
    shared::Shared,
    tables::{Tables, Whose},
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
/// TCP, closing or reset: 4 min (RFC 5382 REQ-5).
pub const TCP_TRANSITORY: Ticks = ticks(240);
/// TCP, half open: 60 s. RFC 5382 would have 4 min, in which whoever only ever opens takes as many flows; Linux's SYNs are a minute
/// apart at most, and netfilter has as much.
pub const TCP_OPENING: Ticks = ticks(60);
/// UDP, both directions seen: 5 min (RFC 4787 REQ-5).
pub const UDP: Ticks = ticks(300);
/// UDP, not answered: 30 s, as netfilter has it.
pub const UDP_UNANSWERED: Ticks = ticks(30);
/// DNS over UDP: 30 s. One question, one answer; RFC 4787 REQ-5 b allows it for a well-known port, and a busy resolver
/// would otherwise use up its ports.
pub const DNS: Ticks = ticks(30);
/// ICMP echo: 60 s (RFC 5508 REQ-2).
pub const ICMP: Ticks = ticks(60);
/// A connection that both sides closed, or that the container reset, is kept for stragglers; its port may go to a new
/// flow after this time already, as with `tcp_tw_reuse` in Linux.
pub const TCP_CLOSED_REUSE: Ticks = ticks(1);
/// An open connection that the other side reset: longer, because a reset can be forged by whoever guesses ports and numbers (see
/// [`crate::segment`]). What lives on has time to say so.
pub const TCP_RESET_REUSE: Ticks = ticks(120);

/// A container's flow is in use, answered or not, this long after a packet...
const IN_USE: Ticks = ticks(1);
/// ... or this long, if it has been sending for longer than that.
const LONG_IN_USE: Ticks = ticks(5);

/// What is known of a flow: a set of bits.
pub struct State;

impl State {
    /// The other side has sent a packet, of TCP: one that is no SYN.
    pub const REPLIED: u32 = 1;
    /// The container's side sent FIN.
    pub const FIN_OUT: u32 = 2;
    /// The other side sent FIN.
    pub const FIN_IN: u32 = 4;
    /// The container's side sent RST.
    pub const RST_OUT: u32 = 8;
    /// The other side sent RST.
    pub const RST_IN: u32 = 16;
    /// The container's side has sent a packet.
    pub const SENT: u32 = 32;
    /// Of an outbound entry: the state of the pair is to be looked at with the next packet of this side's.
    pub const WATCHED: u32 = 64;
    /// Somebody is removing the flow.
    pub const DEAD: u32 = 1 << 31;

    /// Both sides have sent packets.
    const ANSWERED: u32 = Self::SENT | Self::REPLIED;

    const CLOSING: u32 = Self::FIN_OUT | Self::FIN_IN | Self::RST_OUT | Self::RST_IN;
    /// The bits of the flow's number.
    const NUMBER: u32 = 0x000f_ff00;
    /// The bits of the tuple's hash.
    const HASH: u32 = 0x7ff0_0000;

    /// That of a new entry with this tuple, of a flow with this number; of the number, the last 12 bits count.
    #[inline(always)]
    pub fn initial<A: Addr>(tuple: &Tuple<A>, number: u32) -> u32 {
        let ports = u32::from(tuple.source_port.raw()) << 16 | u32::from(tuple.destination_port.raw());
        let hash = mix(mix(tuple.source.folded(), tuple.destination.folded()), ports);
        let hash = mix(hash, u32::from(tuple.protocol) << 8 | u32::from(tuple.direction));
        hash & Self::HASH | number << 8 & Self::NUMBER
    }

    /// The number of its flow.
    #[inline(always)]
    pub const fn number(state: u32) -> u32 {
        (state & Self::NUMBER) >> 8
    }

    /// Whether it is that of an entry with this tuple which nobody is removing.
    #[inline(always)]
    pub fn is_of<A: Addr>(state: u32, tuple: &Tuple<A>) -> bool {
        (state ^ Self::initial(tuple, 0)) & (Self::HASH | Self::DEAD) == 0
    }

    /// Whether it is that of an entry with this tuple, of the flow with this number, which nobody is removing.
    #[inline(always)]
    pub fn is_of_flow<A: Addr>(state: u32, tuple: &Tuple<A>, number: u32) -> bool {
        (state ^ Self::initial(tuple, number)) & (Self::HASH | Self::NUMBER | Self::DEAD) == 0
    }

    /// Whether there is nothing more to note of a packet from outside that neither opens nor closes: as of most.
    #[inline(always)]
    pub const fn is_settled(state: u32) -> bool {
        state & (Self::ANSWERED | Self::CLOSING | Self::DEAD) == Self::ANSWERED
    }

    /// Whether both sides have sent packets.
    #[inline(always)]
    pub const fn is_answered(state: u32) -> bool {
        state & Self::ANSWERED == Self::ANSWERED
    }

    /// The state after a packet. `inward`: it comes from the other side.
    #[inline(always)]
    pub const fn after(old: u32, inward: bool, protocol: u8, segment: &Segment) -> u32 {
        let here = if inward { Self::REPLIED } else { Self::SENT };
        if protocol != protocol::TCP {
            return old | here;
        }
        let flags = segment.flags;
        if flags & tcp::RST != 0 {
            return old | if inward { Self::RST_IN } else { Self::RST_OUT };
        }
        let opens = flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        if opens && (Self::is_closed(old, protocol) || !inward && old & Self::CLOSING != 0) {
            // The tuple is used for a new connection, of which nothing is known yet. From outside: only if the old one is over.
            return old & (Self::HASH | Self::NUMBER) | if inward { 0 } else { Self::SENT };
        }
        // A SYN is no answer: two sides that open at once (RFC 9293 section 3.5) answer with SYN and ACK.
        let mut new = if inward && opens { old } else { old | here };
        // It goes on talking, so the reset was forged: the other side's peer would have been silent, and so would this one.
        new &= !Self::RST_IN;
        if !inward {
            new &= !Self::RST_OUT;
        }
        if flags & tcp::FIN != 0 {
            new |= if inward { Self::FIN_IN } else { Self::FIN_OUT };
        } else if inward && segment.data {
            // Likewise.
            new &= !Self::FIN_IN;
        }
        new
    }

    /// Notes a packet of a flow, given its inbound tuple. `false`: the flow is being removed.
    #[inline(always)]
    pub fn observe<A: Addr>(state: &Shared, tuple: &Tuple<A>, inward: bool, segment: &Segment) -> bool {
        // Other CPUs may be at it: each time that this one fails, another has got on.
        let mut tries = 0;
        let mut new = 0;
        while tries < 4 {
            let old = state.get();
            if old & Self::DEAD != 0 {
                return false;
            }
            new = Self::after(old, inward, tuple.protocol, segment);
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
        state.set_bits(new & (Self::ANSWERED | Self::CLOSING));
        true
    }

    /// How long a flow in this state is kept after its last packet. `port`: see [`service`].
    #[inline(always)]
    pub const fn timeout(state: u32, protocol: u8, port: Be16) -> Ticks {
        match protocol {
            protocol::TCP if !Self::is_answered(state) => TCP_OPENING,
            protocol::TCP if state & Self::CLOSING == 0 => TCP_ESTABLISHED,
            protocol::TCP => TCP_TRANSITORY,
            protocol::UDP if port.host() == 53 => DNS,
            protocol::UDP if !Self::is_answered(state) => UDP_UNANSWERED,
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
        // A SYN that is refused names the SYN's number, and there is nothing that lives on.
        let refused = state & Self::RST_IN != 0 && !Self::is_answered(state);
        if protocol == protocol::TCP && (closed || refused || state & Self::RST_OUT != 0) {
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
    /// It has not been answered, and there are too many. What a container still sends stays all the same, of other protocols than TCP:
    /// not all that is of use is answered.
    Unanswered,
    /// Now.
    Now,
}

impl<A: Addr> Flow<A> {
    /// Notes that a packet came this way. Whether that is worth a note: the one before came in another tick.
    #[inline(always)]
    pub fn touch(&self, now: Ticks) -> bool {
        let anew = self.seen.get() != now;
        if anew {
            self.seen.set(now);
        }
        anew
    }
}

/// Mixes a word into a hash: enough to tell entries apart, and to spread them.
#[inline(always)]
pub(crate) const fn mix(hash: u32, word: u32) -> u32 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b1);
    hash ^ hash >> 15
}

/// Turns the state of an entry to [`State::DEAD`] if that is `meant`. Whether nobody else has: then it is the caller's to remove.
#[inline(always)]
fn condemn<A: Addr>(flow: &Flow<A>, meant: impl Fn(u32) -> bool) -> bool {
    // Somebody may be noting a packet: a few times in a row at most.
    let mut tries = 0;
    while tries < 8 {
        let state = flow.state.get();
        if !meant(state) {
            return false;
        }
        if flow.state.replace(state, state | State::DEAD) {
            return true;
        }
        tries += 1;
    }
    false
}

/// Removes the outbound entry with this tuple, if it is that of the flow with this mapping and number, and not that of a later one.
#[inline(always)]
pub fn remove_outward<A: Addr, T: Tables<A>>(
    tables: &T,
    outward: &Tuple<A>,
    (address, port): (A, Be16),
    number: u32,
) {
    if let Some(flow) = tables.flow(outward)
        && (flow.address, flow.port) == (address, port)
        && condemn(&flow, |state| State::is_of_flow(state, outward, number))
    {
        tables.flow_remove(outward);
    }
}

/// Removes the inbound entry that the caller has condemned, and what belongs to it.
#[inline(always)]
fn bury<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, flow: &Flow<A>, outward: &mut Tuple<A>) {
    outward.set_outward(inward, flow.address, flow.port);
    let stands_in = (inward.destination, inward.destination_port);
    remove_outward(tables, outward, stands_in, State::number(flow.state.get()));
    let (slot, account) = (flow.slot, flow.account());
    tables.flow_remove(inward);
    let cell = quota::cell_of(tables, slot, account, inward);
    quota::give_back(tables, slot, account, cell);
}

/// Removes the flow with this inbound tuple and number, whatever its state, if nobody else is removing it.
#[inline(always)]
pub fn abandon<A: Addr, T: Tables<A>>(tables: &T, inward: &Tuple<A>, number: u32) {
    let Some(mut scratch) = tables.scratch(Whose::Remove) else { return };
    if let Some(flow) = tables.flow(inward)
        && condemn(&flow, |state| State::is_of_flow(state, inward, number))
    {
        bury(tables, inward, &flow, &mut scratch.outward);
    }
}

/// Whether a container has opened this flow, of another protocol than TCP, and still sends.
#[inline(always)]
fn is_in_use<A: Addr, T: Tables<A>>(
    tables: &T,
    inward: &Tuple<A>,
    flow: &Flow<A>,
    now: Ticks,
    outward: &mut Tuple<A>,
) -> bool {
    if inward.protocol == protocol::TCP || flow.flags & Flow::<A>::PUBLISHED != 0 {
        return false;
    }
    outward.set_outward(inward, flow.address, flow.port);
    let Some(other) = tables.flow(outward) else { return false };
    let seen = other.seen.get();
    let first = flow.mark.get();
    // Another CPU's clock may be a tick ahead of ours.
    let has_lasted = seen.wrapping_sub(first).cast_signed() > IN_USE.cast_signed();
    let limit = if has_lasted { LONG_IN_USE } else { IN_USE };
    now.wrapping_sub(seen).cast_signed() <= limit.cast_signed()
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
    let Some(mut scratch) = tables.scratch(Whose::Remove) else { return false };
    remove_with(tables, inward, flow, now, when, &mut scratch.outward)
}

/// The same, with memory for a tuple of the caller's own: for who may be interrupted by others on its CPU.
#[inline(always)]
pub fn remove_with<A: Addr, T: Tables<A>>(
    tables: &T,
    inward: &Tuple<A>,
    flow: &Flow<A>,
    now: Ticks,
    when: When,
    outward: &mut Tuple<A>,
) -> bool {
    let condemned = if matches!(when, When::Now) {
        condemn(flow, |state| State::is_of(state, inward))
    } else if matches!(when, When::Unanswered) {
        let state = flow.state.get();
        State::is_of(state, inward)
            && !State::is_answered(state)
            && !is_in_use(tables, inward, flow, now, outward)
            && flow.state.replace(state, state | State::DEAD)
    } else {
        let state = flow.state.get();
        if !State::is_of(state, inward) {
            return false;
        }
        let mut idle = now.wrapping_sub(flow.seen.get());
        outward.set_outward(inward, flow.address, flow.port);
        if let Some(other) = tables.flow(outward) {
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
        bury(tables, inward, flow, outward);
    }
    condemned
}
