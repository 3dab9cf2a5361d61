//! What a TCP segment says of its connection, and whether it is to be believed.
//!
//! Whoever can send with a server's address can send a segment for each of a node's ports. The container's kernel looks at the
//! numbers in it, and so does netd before it takes a connection for opened, closed or reset: what is not believed is delivered
//! all the same, but changes nothing.

use crate::{
    abi::{Flow, Tuple},
    addr::Addr,
    flow::State,
    tables::{Tables, Whose},
    wire::{Be32, protocol, tcp},
};

/// What TCP's header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The flags; 0: it is not TCP's.
    pub flags: u8,
    /// Whether data follow.
    pub data: bool,
    /// Nobody can have forged it: it is from one container to another.
    pub trusted: bool,
    /// The number of its first byte...
    pub sequence: Be32,
    /// ... and of the next that its sender waits for.
    pub acknowledged: Be32,
}

impl From<u8> for Segment {
    /// One that nobody can have forged, with these flags.
    #[inline(always)]
    fn from(flags: u8) -> Self {
        Self { flags, trusted: true, ..Self::default() }
    }
}

/// What a container has acknowledged is noted anew once it is that much more, bytes: not with each of its packets, also where each
/// acknowledges a whole train of segments.
const STEP: u32 = 1 << 17;
/// How far behind that a segment may be, bytes: the container's acknowledgements can overtake each other.
const BEHIND: u32 = 1 << 16;
/// How far ahead of it a segment may be that closes or resets, bytes: what is under way. Who guesses hits it once in 4,096 times.
const AHEAD: u32 = 1 << 20;
/// How far ahead of its SYN a container's data may be acknowledged by the first segment that comes back, bytes.
const OPENING: u32 = 1 << 16;

/// The same in two words, as a subprogram of BPF takes it: a reference would have all of it on the stack of each program that calls one.
#[derive(Clone, Copy, Debug)]
pub struct Packed {
    /// The flags, and above them the other two.
    pub flags: u32,
    /// The numbers.
    pub numbers: u64,
}

impl Packed {
    const DATA: u32 = 1 << 8;
    const TRUSTED: u32 = 1 << 9;
}

impl From<Segment> for Packed {
    #[inline(always)]
    fn from(segment: Segment) -> Self {
        let data = if segment.data { Self::DATA } else { 0 };
        let trusted = if segment.trusted { Self::TRUSTED } else { 0 };
        Self {
            flags: u32::from(segment.flags) | data | trusted,
            numbers: u64::from(segment.sequence.raw()) << 32 | u64::from(segment.acknowledged.raw()),
        }
    }
}

impl From<Packed> for Segment {
    #[inline(always)]
    fn from(packed: Packed) -> Self {
        Self {
            flags: packed.flags as u8,
            data: packed.flags & Packed::DATA != 0,
            trusted: packed.flags & Packed::TRUSTED != 0,
            sequence: Be32::from_raw((packed.numbers >> 32) as u32),
            acknowledged: Be32::from_raw(packed.numbers as u32),
        }
    }
}

impl Segment {
    const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Whether it opens, closes or resets a connection.
    #[inline(always)]
    pub const fn is_special(&self) -> bool {
        self.has(tcp::SYN | tcp::FIN | tcp::RST)
    }

    /// Notes what a container acknowledges, given its flow's outbound entry. `anew`: some time has passed since the packet before.
    #[inline(always)]
    pub fn note<A: Addr>(&self, flow: &Flow<A>, anew: bool) {
        if self.has(tcp::ACK) && !self.trusted {
            let number = self.acknowledged.host();
            if anew || number.wrapping_sub(flow.mark.get()) >= STEP {
                flow.mark.set(number);
            }
        }
    }

    /// Notes which number a container's SYN has, given its flow's inbound entry.
    #[inline(always)]
    pub fn note_opening<A: Addr>(&self, flow: &Flow<A>) {
        if self.has(tcp::SYN) && !self.trusted {
            flow.mark.set(self.sequence.host().wrapping_add(1));
        }
    }

    /// Whether one from outside is to be believed, given the flow's inbound tuple, entry and state.
    #[inline(always)]
    pub fn is_believed<A: Addr, T: Tables<A>>(
        &self,
        tables: &T,
        inward: &Tuple<A>,
        flow: &Flow<A>,
        state: u32,
    ) -> bool {
        if self.trusted || inward.protocol != protocol::TCP {
            return true;
        }
        let published = flow.flags & Flow::<A>::PUBLISHED != 0;
        let opened = flow.mark.get();
        let answers =
            opened != 0 && self.has(tcp::ACK) && self.acknowledged.host().wrapping_sub(opened) < OPENING;
        let opening = state & State::REPLIED == 0;
        if self.has(tcp::FIN | tcp::RST) {
            // Of a SYN that is refused, there is no more to go by than that it is what is refused.
            return opening && !published && answers || self.is_near(tables, inward, flow);
        }
        if self.has(tcp::SYN) && !self.has(tcp::ACK) {
            return true;
        }
        // The SYN may not have been seen: then the flow was found in the middle.
        !opening || answers || !published && opened == 0
    }

    /// Whether it is near what the container has acknowledged.
    #[inline(always)]
    fn is_near<A: Addr, T: Tables<A>>(&self, tables: &T, inward: &Tuple<A>, flow: &Flow<A>) -> bool {
        let Some(mut scratch) = tables.scratch(Whose::Note) else { return false };
        scratch.outward.set_outward(inward, flow.address, flow.port);
        let Some(outward) = tables.flow(&scratch.outward) else { return false };
        let acknowledged = outward.mark.get();
        let ahead = self.sequence.host().wrapping_sub(acknowledged).wrapping_add(BEHIND);
        acknowledged != 0 && ahead < BEHIND + AHEAD
    }
}
