//! The tables that decisions are made from: BPF maps in the kernel, hash maps in tests.

use core::ops::{Deref, DerefMut};

use crate::{
    abi::{Config, Endpoint, Flow, Fragment, FragmentKey, Interface, Port, PortKey, Route, Tuple},
    addr::Addr,
    flow::Ticks,
    hairpin::{self, Rewrite},
    nat::{self, Mapping},
    published,
    quota::Account,
    reason::{Drop, Way},
};
#[cfg(feature = "host")]
use crate::{shared::Shared, wire::Be16};

/// Why an entry could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Add {
    /// There is one already.
    Exists,
    /// The table is full.
    Full,
}

/// What does something that needs memory: of those that call each other, each has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Whose {
    /// Makes a flow.
    Create = 0,
    /// Removes one.
    Remove = 1,
    /// Removes one that nobody answers.
    Evict = 2,
    /// Notes a packet.
    Note = 3,
    /// Makes the second flow of two.
    Hairpin = 4,
    /// Was given a tuple to make a flow of...
    GivenCreate = 5,
    /// ... to open one by a published port...
    GivenOpen = 6,
    /// ... or to make two of.
    GivenHairpin = 7,
}

impl Whose {
    /// How many there are.
    pub const COUNT: u32 = 8;
}

/// Tuples and a flow that are being worked on.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Scratch<A> {
    /// A [`Tuple::IN`].
    pub inward: Tuple<A>,
    /// A [`Tuple::OUT`].
    pub outward: Tuple<A>,
    /// What is to be added.
    pub flow: Flow<A>,
}

#[cfg(feature = "host")]
impl<A: Addr> Default for Scratch<A> {
    fn default() -> Self {
        let flow = Flow {
            state: Shared::new(0),
            seen: Shared::new(0),
            mark: Shared::new(0),
            slot: 0,
            address: A::ZERO,
            port: Be16::ZERO,
            flags: 0,
        };
        Self { inward: Tuple::NONE, outward: Tuple::NONE, flow }
    }
}

/// What does not depend on the address family: the clock, chance, and what is counted.
pub trait Common {
    /// The time. Reading it costs, so it is asked for only where a flow needs it.
    fn now(&self) -> Ticks;
    /// 32 random bits.
    fn random(&self) -> u32;
    /// Changes the number of flows that an endpoint's slot has on an account, and returns what it was.
    fn flows_of(&self, slot: u32, account: Account, change: i32) -> u32;
    /// Changes the number of flows to a destination, by its [`crate::quota::cell`], and returns what it was.
    fn flows_to(&self, cell: u32, change: i32) -> u32;
    /// Counts the flows that a ring of unanswered ones has got; what it was before.
    fn unanswered_turn(&self, ring: u32) -> u32;
    /// Whether anybody has published a port of a protocol (TCP or UDP), at whatever address.
    fn is_published(&self, protocol: u8, port: u16) -> bool;
    /// Counts the entries that a ring of fragments has got; what it was before.
    fn fragment_turn(&self, ring: u32) -> u32;

    /// Calls `step` with `state` until it returns other than 0, at most `times` times. In BPF this is `bpf_loop` (kernel
    /// 5.17): the verifier looks at the body once, not once a round.
    fn repeat<S>(times: u32, step: extern "C" fn(u32, &mut S) -> i64, state: &mut S);

    /// Counts a packet that went on.
    fn count_way(&self, way: Way, bytes: u32);
    /// Counts a packet that a container sent.
    fn count_sent(&self, slot: u32, bytes: u32);
    /// Counts a packet that a container gets.
    fn count_received(&self, slot: u32, bytes: u32);
    /// Counts a packet that goes to another node.
    fn count_to_node(&self, slot: u32, bytes: u32);
    /// Numbers so many packets in a row that another node gets in VXLAN over IPv4, each segment one. Returns the first number: mostly one
    /// more than the last before, of the same CPU. See [`crate::abi::NodeCounters::number`].
    fn outer_ids(&self, slot: u32, packets: u32) -> u16;
    /// Counts a packet that comes from another node.
    fn count_from_node(&self, slot: u32, bytes: u32);
    /// Counts a packet that was dropped for a [`Drop`] reason, by its number; against its sender too where that is known
    /// ([`crate::plan::NO_SLOT`] if not).
    fn count_refused(&self, reason: u32, slot: u32, bytes: u32);
    /// Likewise.
    #[inline(always)]
    fn count_drop(&self, reason: Drop, slot: u32, bytes: u32) {
        self.count_refused(reason as u32, slot, bytes);
    }
}

/// The tables of one address family.
pub trait Tables<A>: Common {
    /// An entry: a plain reference in BPF, where the kernel keeps a removed entry's memory readable until the program
    /// ends, a counted one in tests.
    type Ref<'a, V: 'a>: Deref<Target = V>
    where
        Self: 'a;
    /// Memory for what is done now.
    type Scratch<'a>: DerefMut<Target = Scratch<A>>
    where
        Self: 'a;

    /// What the node is like.
    fn config(&self) -> Option<Self::Ref<'_, Config<A>>>;
    /// Who sends from an interface.
    fn interface(&self, ifindex: u32) -> Option<Self::Ref<'_, Interface<A>>>;
    /// Who has an address.
    fn endpoint(&self, address: &A) -> Option<Self::Ref<'_, Endpoint>>;
    /// Where an address is that no endpoint of the sender's subnet has: longest prefix.
    fn route(&self, address: &A) -> Option<Self::Ref<'_, Route>>;
    /// A flow.
    fn flow(&self, tuple: &Tuple<A>) -> Option<Self::Ref<'_, Flow<A>>>;
    /// Adds a flow where there is none: of several CPUs that try at once, one succeeds.
    ///
    /// # Errors
    /// See [`Add`].
    fn flow_add(&self, tuple: &Tuple<A>, flow: &Flow<A>) -> Result<(), Add>;
    /// Memory for what is done now. In BPF it is this CPU's: the stack has no room.
    fn scratch(&self, whose: Whose) -> Option<Self::Scratch<'_>>;
    /// Removes a flow, if it is there.
    fn flow_remove(&self, tuple: &Tuple<A>);
    /// Changes the number of flows of the table on an account, and returns what it was.
    fn flows_in_table(&self, account: Account, change: i32) -> u32;
    /// The inbound tuple of an unanswered flow that is in a place.
    fn unanswered(&self, place: u32, inward: &mut Tuple<A>);
    /// Puts one there.
    fn unanswered_set(&self, place: u32, inward: &Tuple<A>);
    /// What is known of a packet that comes in fragments.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Self::Ref<'_, Fragment<A>>>;
    /// Adds or replaces an entry.
    fn fragment_set(&self, key: &FragmentKey<A>, fragment: &Fragment<A>);
    /// Removes an entry, if it is there.
    fn fragment_remove(&self, key: &FragmentKey<A>);
    /// Puts a key into a place; what was there before.
    fn fragment_place(&self, place: u32, key: &FragmentKey<A>) -> FragmentKey<A>;
    /// Who has published a port.
    fn port(&self, key: &PortKey<A>) -> Option<Self::Ref<'_, Port<A>>>;

    /// [`nat::create`]. In BPF this, and the next two, are global functions: the verifier looks at each once, by itself, and not
    /// again for every way that leads to a call.
    fn create(&self, tuple: &Tuple<A>, slot: u32, mapping: &mut Mapping<A>) -> u32
    where
        A: Addr,
        Self: Sized,
    {
        nat::create(self, tuple, slot, mapping)
    }
    /// [`published::open`].
    fn open(&self, inward: &Tuple<A>, tcp_flags: u32, mapping: &mut Mapping<A>) -> u32
    where
        A: Addr,
        Self: Sized,
    {
        published::open(self, inward, tcp_flags, mapping)
    }
    /// [`hairpin::translate`].
    fn hairpin(&self, tuple: &Tuple<A>, tcp_flags: u32, slot: u32, rewrite: &mut Rewrite<A>) -> u32
    where
        A: Addr,
        Self: Sized,
    {
        hairpin::translate(self, tuple, tcp_flags, slot, rewrite)
    }
}
