//! The types of the maps: what user space writes and the programs read, and the other way round.
//!
//! All are plain words without padding, so that a value that one side writes is, byte for byte, what the other reads.
//! A change of any of them, or of what they mean, raises [`ABI_VERSION`]: a daemon never trusts pins of another version. So does a
//! change of what a program says to another that it goes on with ([`STEP_PROGRAMS`]): during an upgrade, those of two daemons do.

use crate::{
    addr::{Addr, V4, V6},
    shared::Shared,
    wire::{Be16, Mac, MacPair, protocol},
};

/// Version of everything in this module, part of the pins' path.
pub const ABI_VERSION: u32 = 7;

/// What the programs know of the node, one entry a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Config<A> {
    /// The uplink's interface index; 0: there is none.
    pub uplink: u32,
    /// The address that masqueraded packets take; zero: the node has none of this family, and nothing is masqueraded.
    pub address: A,
    /// The node's IPv4 address, in both families' entries: outer source of VXLAN over IPv4; zero: it has none.
    pub underlay4: V4,
    /// Likewise its IPv6 address.
    pub underlay6: V6,
    /// First port of the range that masqueraded flows take, host byte order.
    pub first_port: u16,
    /// Last port of the range, inclusive, host byte order.
    pub last_port: u16,
    /// Flows that one endpoint may have on each of its accounts: see [`crate::quota::Account`].
    pub quota: u32,
    /// Flows that the table of the family has room for.
    pub flows: u32,
    /// Places of each ring of unanswered flows, less one: see [`UnansweredRing`].
    pub ring: u32,
    /// Random, and the same as long as the maps are: nobody is to know where [`crate::quota`] counts what.
    pub seed: u32,
    /// The uplink's MTU, bytes.
    pub mtu: u32,
    /// Interface index of the kernel's own VXLAN device; 0: there is none.
    pub overlay: u32,
    /// The overlay's UDP port, which containers must not send to under the node's address; zero: the node is in no cluster, and they
    /// may.
    pub overlay_port: Be16,
    /// Zero.
    pub reserved: u16,
}

/// Two of these, of which one counts: what the map holds. The kernel writes a map's value as a plain copy, while programs read it. So a
/// new one is written to the place that does not count, and then it counts: two writes, see [`Configs::change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Configs<A> {
    /// Which one counts: 0 or 1.
    pub current: u32,
    /// Both.
    pub places: [Config<A>; 2],
}

impl<A: Copy> Configs<A> {
    /// The one that counts.
    #[inline(always)]
    pub const fn get(&self) -> &Config<A> {
        &self.places[(self.current & 1) as usize]
    }

    /// What is to be written, one after the other, for `config` to count. The first leaves alone what counts now; the second changes one
    /// byte. No program may be at work that began before `self` was written: it would read from the place that is written to.
    #[must_use]
    pub const fn change(&self, config: Config<A>) -> [Self; 2] {
        let next = (self.current & 1) ^ 1;
        let mut first = *self;
        first.places[next as usize] = config;
        [first, Self { current: next, ..first }]
    }
}

/// Who sends from an interface, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Interface<A> {
    /// The one source address that it may use.
    pub address: A,
    /// The network's subnet...
    pub subnet: A,
    /// ... and its mask.
    pub mask: A,
    /// The network's gateway: the host.
    pub gateway: A,
    /// The network's IPv4 subnet, in both families' entries: an endpoint's MAC is made from its IPv4 address, which is at the
    /// same offset in this as its IPv6 address in the other.
    pub subnet4: V4,
    /// The one source MAC that it may use.
    pub mac: Mac,
    /// See [`Interface::MASQUERADE`].
    pub flags: u16,
    /// Ethernet header of frames to it: its MAC, and the host side's as the source.
    pub macs: MacPair,
    /// Number of its network.
    pub network: u32,
    /// Index of its counters and its quota.
    pub slot: u32,
}

impl<A> Interface<A> {
    /// Packets to the uplink take the uplink's address; without it they leave as they are, and packets that the host
    /// forwards may reach it.
    pub const MASQUERADE: u16 = 1;
    /// It has published ports: what it sends may be an answer that takes the host's address and port.
    pub const PUBLISHED: u16 = 2;
}

/// Where a container is, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// Interface index of its link's host side; with [`Endpoint::SINGLE`], if the link has no other end that packets could be put
    /// into.
    pub ifindex: u32,
    /// Ethernet header of frames to it.
    pub macs: MacPair,
    /// Number of its network.
    pub network: u32,
    /// Index of its counters.
    pub slot: u32,
}

impl Endpoint {
    /// Bit of `ifindex`: the link is a single device, such as a tap, and what goes to the container is sent out of it. (The kernel's
    /// indices are below 2^31.)
    pub const SINGLE: u32 = 1 << 31;
}

/// `skb->mark` of a packet that a program sends out of a container's link: all is decided about it, and `to_container` lets it pass. The
/// mark stays, as a filter and a link may both run that program for a moment; the container does not get to see it. Nor can one set it:
/// the kernel takes marks off on the way into a namespace and out of it.
pub const DELIVERED: u32 = 0x6e65_7464;

/// An entry of an array in front of a hash map, which has a copy of some of the map's entries: a look-up there costs a fraction. What
/// has no place of its own, because another entry was there first, is in the map alone.
///
/// A place is written after the map's entry, and emptied before that is removed: so it never knows more than the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Place<K, V> {
    /// The entry's key; zero: nobody's. Written last, and emptied first.
    pub key: K,
    /// Its value.
    pub value: V,
}

/// Places of such an array.
pub const PLACES: u32 = 1 << 14;

/// The place of a key that has this number, an interface index or what [`Addr::folded`] says of an address, in the arrays of
/// [`PLACES`] places.
#[inline(always)]
pub const fn place_of(number: u32) -> u32 {
    spread::<PLACES>(number)
}

/// Where a number goes among so many places, a power of two: such that numbers in a row do not meet (Fibonacci hashing; an address
/// counts in its last byte, which is the highest of its word in memory, and that decides alone about the first eight bits).
#[inline(always)]
pub const fn spread<const PLACES: u32>(number: u32) -> u32 {
    const { assert!(PLACES.is_power_of_two() && PLACES > 1) };
    number.wrapping_mul(0x9e37_79b1) >> (32 - PLACES.trailing_zeros())
}

/// Where packets for a prefix go that is not the sender's own subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Route {
    /// One of the constants below.
    pub kind: u8,
    /// See [`Route::ROUTED`].
    pub flags: u8,
    /// [`Route::DIRECT`], [`Route::VXLAN`]: the largest packet that gets there, as a container sends it, bytes.
    pub mtu: u16,
    /// [`Route::NETWORK`], [`Route::DIRECT`], [`Route::VXLAN`]: the network's number.
    pub network: u32,
    /// [`Route::DIRECT`], [`Route::VXLAN`]: the node's address on its uplink, IPv4-mapped (`::ffff:a.b.c.d`) if it is IPv4.
    /// [`Route::UPLINK`]: the same where the prefix is that address, else zero.
    pub node: V6,
    /// Index of the node's counters.
    pub slot: u32,
}

impl Route {
    /// One of the host's own addresses.
    pub const HOST: u8 = 1;
    /// A network of netd's: its endpoints are reachable from that network only.
    pub const NETWORK: u8 = 2;
    /// The world behind the uplink.
    pub const UPLINK: u8 = 3;
    /// Another node's slice of a network; the node is on the uplink's subnet and gets packets as they are.
    pub const DIRECT: u8 = 4;
    /// Another node's slice of a network; packets go there in VXLAN.
    pub const VXLAN: u8 = 5;

    /// Flag of [`Route::DIRECT`] and [`Route::VXLAN`]: the network is not masqueraded, so its containers come to the world with their
    /// own addresses.
    pub const ROUTED: u8 = 1;
}

/// The VNI of a network. netd has the 65,536 from 7,208,960 (0x6e0000) on; VXLAN traffic with any other is not its.
#[inline(always)]
pub const fn vni(network: u32) -> u32 {
    VNI_BASE | network & 0xffff
}

/// The network of a VNI, if it is one of netd's.
#[inline(always)]
pub const fn network_of_vni(vni: u32) -> Option<u32> {
    if vni & !0xffff == VNI_BASE { Some(vni & 0xffff) } else { None }
}

const VNI_BASE: u32 = 0x6e_0000;

/// Counters of another node, one a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NodeCounters {
    /// Packets sent to it.
    pub tx_packets: u64,
    /// Bytes of them, as the containers sent them.
    pub tx_bytes: u64,
    /// Packets that came from it.
    pub rx_packets: u64,
    /// Bytes of them, as they came by the uplink.
    pub rx_bytes: u64,
    /// The next number (IP identification) of an outer packet to it...
    pub next_id: u32,
    /// ... and how many numbers from there on are this CPU's.
    pub ids: u32,
}

impl NodeCounters {
    /// Numbers that a CPU gets at once.
    pub const IDS: u32 = 256;

    /// So many numbers in a row for outer packets to the node; the first of them. A receiver puts fragments together by them for 30 s, so a
    /// number is to come again as late as can be: all CPUs draw from one count, which says how many were given out (`given`), and take
    /// that many more from it (`take`, returns what it was). What a CPU has left when half of all numbers were given out since, it
    /// gives up.
    #[inline(always)]
    pub fn number(&mut self, packets: u32, given: u32, take: impl FnOnce(u32) -> u32) -> u16 {
        let is_old = given.wrapping_sub(self.next_id) > 1 << 15;
        if is_old || self.ids < packets {
            let more = if packets > Self::IDS { packets } else { Self::IDS };
            self.next_id = take(more);
            self.ids = more;
        }
        let first = self.next_id as u16;
        self.next_id = self.next_id.wrapping_add(packets);
        self.ids -= packets;
        first
    }
}

/// A flow as a packet shows it, before translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Tuple<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port, or the identifier of an ICMP echo request.
    pub source_port: Be16,
    /// Destination port, or the identifier of an ICMP echo reply.
    pub destination_port: Be16,
    /// IP protocol.
    pub protocol: u8,
    /// [`Tuple::OUT`] or [`Tuple::IN`].
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

impl<A: Addr> Tuple<A> {
    /// Nobody's.
    pub const NONE: Self = Self {
        source: A::ZERO,
        destination: A::ZERO,
        source_port: Be16::ZERO,
        destination_port: Be16::ZERO,
        protocol: 0,
        direction: 0,
        reserved: 0,
    };
    /// From a container, untranslated; its [`Flow`] holds the new source.
    pub const OUT: u8 = 0;
    /// From the uplink, untranslated; its [`Flow`] holds the new destination.
    pub const IN: u8 = 1;

    /// Becomes the outbound tuple of a flow, given its inbound one and the container's address and port. Field by field, and with
    /// no question asked: [`Tuple::opposite`] takes stack.
    #[inline(always)]
    pub fn set_outward(&mut self, inward: &Self, address: A, port: Be16) {
        self.source = address;
        self.destination = inward.source;
        self.source_port = port;
        self.destination_port = inward.source_port;
        self.protocol = inward.protocol;
        self.direction = Self::OUT;
        self.reserved = 0;
    }

    /// Becomes the inbound tuple of a flow, given its outbound one and the address and port that stand for the container. Likewise.
    #[inline(always)]
    pub fn set_inward(&mut self, outward: &Self, address: A, port: Be16) {
        self.source = outward.destination;
        self.destination = address;
        self.source_port = outward.destination_port;
        self.destination_port = port;
        self.protocol = outward.protocol;
        self.direction = Self::IN;
        self.reserved = 0;
    }

    /// The tuple of packets the other way when `address` and `port` stand in for this tuple's container (from
    /// [`Tuple::OUT`]) or are the container (from [`Tuple::IN`]).
    #[inline(always)]
    pub fn opposite(&self, address: A, port: Be16) -> Self {
        let out = self.direction == Self::OUT;
        Self {
            source: if out { self.destination } else { address },
            destination: if out { address } else { self.source },
            source_port: if out { self.destination_port } else { port },
            destination_port: if out { port } else { self.source_port },
            protocol: self.protocol,
            direction: self.direction ^ 1,
            reserved: 0,
        }
    }
}

/// One direction of a translated flow. Each flow has two entries, and the [`Tuple::IN`] one is its truth: whoever inserts
/// it owns the port, its `state` is the state of the pair, and it goes last.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Flow<A> {
    /// [`Tuple::IN`]: state of the pair, see [`crate::flow::State`]. [`Tuple::OUT`]: whether the next packet is to be looked at
    /// closely.
    pub state: Shared,
    /// When a packet last came this way, in [`crate::flow::Ticks`].
    pub seen: Shared,
    /// What a TCP segment from outside is judged by, host byte order. [`Tuple::OUT`]: what the container has acknowledged, as far
    /// as it was noted. [`Tuple::IN`]: the number after its SYN's. Of other protocols: when the flow was made, in
    /// [`crate::flow::Ticks`].
    pub mark: Shared,
    /// The endpoint whose quota it counts against.
    pub slot: u32,
    /// [`Tuple::OUT`]: the new source; [`Tuple::IN`]: the new destination.
    pub address: A,
    /// The new source or destination port.
    pub port: Be16,
    /// See [`Flow::PUBLISHED`].
    pub flags: u16,
}

impl<A> Flow<A> {
    /// The other side opened it, by a published port.
    pub const PUBLISHED: u16 = 1;
    /// It is one of two that make up a connection from one container to another by a published port: each packet of it is
    /// translated twice, by [`Tuple::OUT`] of the sender's flow and [`Tuple::IN`] of the receiver's.
    pub const HAIRPIN: u16 = 2;
}

/// A published port, as packets to it show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PortKey<A> {
    /// The host's address; zero: any of them.
    pub address: A,
    /// The host's port.
    pub port: Be16,
    /// IP protocol.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}

/// Whose a published port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Port<A> {
    /// The endpoint's address...
    pub address: A,
    /// ... and the port there.
    pub port: Be16,
    /// Zero.
    pub reserved: u16,
    /// The endpoint whose quota its flows count against.
    pub slot: u32,
}

/// A socket of the host's that talks to a published port: what its packets really go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PeerKey {
    /// The socket's cookie.
    pub cookie: u64,
    /// The endpoint's address, IPv4-mapped (`::ffff:a.b.c.d`) if it is IPv4...
    pub address: V6,
    /// ... and its port.
    pub port: Be16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// What it was asked to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Peer {
    /// The address, IPv4-mapped (`::ffff:a.b.c.d`) if it is IPv4.
    pub address: V6,
    /// The port.
    pub port: Be16,
    /// Zero.
    pub reserved: u16,
}

/// A bit for each port of TCP and of UDP: whether it is published, at any address of either family. What is looked at first, so
/// that packets to other ports cost next to nothing.
pub struct PortBits;

impl PortBits {
    /// Words of 64 bits.
    pub const WORDS: u32 = 2 * 65_536 / 64;

    /// The word and the bit of a port. Protocols other than TCP are taken for UDP.
    #[inline(always)]
    pub const fn place(protocol: u8, port: u16) -> (u32, u32) {
        let half = if protocol == protocol::TCP { 0 } else { Self::WORDS / 2 };
        (half + (port as u32 >> 6), port as u32 & 63)
    }
}

/// What the fragments of a packet have in common, before translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification as it lies in memory: IPv6's has 32 bits, IPv4's 16.
    pub id: u32,
    /// IP protocol.
    pub protocol: u8,
    /// [`Tuple::OUT`] or [`Tuple::IN`].
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

/// What later fragments get of the first one's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fragment<A> {
    /// When the first fragment came, in [`crate::flow::Ticks`].
    pub seen: u32,
    /// [`Tuple::OUT`]: the new source; [`Tuple::IN`]: the new destination.
    pub address: A,
    /// The new identification, likewise.
    pub id: u32,
}

/// An endpoint's share of the fragment table: a ring of places, each of which holds the key of an entry.
pub struct FragmentRing;

impl FragmentRing {
    /// Places in a ring: datagrams of an endpoint, both directions, whose fragments may be under way at once.
    pub const PLACES: u32 = 64;
    /// Rings. Endpoints have one each as long as there are not more of them; then some share one.
    pub const RINGS: u32 = 1024;
    /// What of an endpoint's slot is the number of its ring.
    pub const MASK: u32 = Self::RINGS - 1;
    /// Entries that the table can hold.
    pub const ENTRIES: u32 = Self::RINGS * Self::PLACES;
}

/// Places where it is counted how many flows an endpoint has to a destination: see [`crate::quota::cell`].
pub const DESTINATIONS: u32 = 1 << 18;

/// Flows that have got no answer yet: rings of places, each of which holds the key of one, its [`Tuple::IN`].
pub struct UnansweredRing;

impl UnansweredRing {
    /// Most places that a ring has.
    pub const PLACES: u32 = 4096;
    /// Fewest that are used of them.
    pub const LEAST: u32 = 64;
    /// Rings. An endpoint has one for each of its accounts as long as there are not more of them; then some share one.
    pub const RINGS: u32 = 64;
    /// Places of all.
    pub const ENTRIES: u32 = Self::RINGS * Self::PLACES;
}

/// Entries of the map of programs that go on where others end: from here on those of [`crate::from_container::Step6`]...
pub const STEP_FROM_CONTAINER6: u32 = 0;
/// ... and from here on those of [`crate::from_uplink::Step6`].
pub const STEP_FROM_UPLINK6: u32 = 11;
/// ... and from here on those of [`crate::from_container::Step4`].
pub const STEP_FROM_CONTAINER4: u32 = 14;
/// All of them, as they are called in the object.
pub const STEP_PROGRAMS: [&str; STEPS as usize] = [
    "from_container6",
    "rare6",
    "open6",
    "discover6",
    "refuse6",
    "error6",
    "hairpin6",
    "hairpin6_first",
    "hairpin6_second",
    "hairpin6_error",
    "overlay6",
    "from_uplink6",
    "reply6_rare",
    "publish6",
    "from_container",
    "open4",
    "hairpin4",
    "hairpin4_error",
    "overlay4",
    "rare4",
];
/// How many.
pub const STEPS: u32 = 20;
/// Words that a program hands on to the next, in the packet's control block: see [`crate::from_container::Told`].
pub const STEP_WORDS: usize = 4;

/// The steps of this version, in one number: programs of two daemons go on with each other by these during an upgrade.
const STEPS_OF_THIS_VERSION: (u32, u64) = (7, 0x0eee_0c69_2271_669a);
const _: () = assert!(
    ABI_VERSION == STEPS_OF_THIS_VERSION.0 && fingerprint() == STEPS_OF_THIS_VERSION.1,
    "the steps are not those of this version: where it is out already, raise ABI_VERSION; then write down the new fingerprint"
);

/// A hash of the steps' names and numbers, and of how much they hand on (FNV-1a).
const fn fingerprint() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let mut step = 0;
    while step < STEP_PROGRAMS.len() {
        let name = STEP_PROGRAMS[step].as_bytes();
        let mut at = 0;
        while at < name.len() {
            hash = mix(hash, name[at]);
            at += 1;
        }
        hash = mix(hash, 0);
        step += 1;
    }
    mix(hash, STEP_WORDS as u8)
}

const fn mix(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3)
}

/// Counters of an endpoint, one a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EndpointCounters {
    /// Packets that the container sent and that went on.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Packets delivered to the container.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Packets that the container sent and that were dropped.
    pub dropped: u64,
}

/// A counter, one a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Packets, as the kernel hands them over: a segmentation-offloaded one counts once.
    pub packets: u64,
    /// Bytes, with the Ethernet header.
    pub bytes: u64,
}

/// An entry of the list of denied sources: what a prefix is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Denied {
    /// Index of its counter.
    pub slot: u32,
}

impl Denied {
    /// Prefixes that the list can hold.
    pub const ENTRIES: u32 = 65_536;
}

/// The list that the `flow_gc` program is run on: this head, then `count` tuples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowList {
    /// [`FlowList::EXPIRE`], [`FlowList::RECLAIM`] or [`FlowList::REMOVE`].
    pub what: u32,
    /// Tuples that follow.
    pub count: u32,
    /// [`FlowList::IPV4`] or [`FlowList::IPV6`]: the family of all tuples in the list.
    pub family: u32,
    /// Zero; a packet that the kernel runs a program on has at least an Ethernet header's length.
    pub reserved: u32,
}

/// What the helpers of a kernel know, as the program `features` returns it: bits.
#[derive(Clone, Copy, Debug)]
pub struct HelperFlags;

impl HelperFlags {
    /// `bpf_l4_csum_replace` knows `BPF_F_IPV6`.
    pub const IPV6_SUMS: u32 = 1;
    /// `bpf_skb_adjust_room` knows `BPF_F_ADJ_ROOM_DECAP_L3_IPV4` and `..._IPV6`.
    pub const DECAPSULATE: u32 = 2;
}

impl FlowList {
    /// Remove those that have timed out.
    pub const EXPIRE: u32 = 1;
    /// Remove all.
    pub const REMOVE: u32 = 2;
    /// Remove those that have timed out or are closed: the table is filling up.
    pub const RECLAIM: u32 = 3;
    /// The tuples are [`Tuple<V4>`].
    pub const IPV4: u32 = 4;
    /// The tuples are [`Tuple<V6>`].
    pub const IPV6: u32 = 6;
    /// Most tuples in a list: what fits the kernel's limit of one page with both families.
    pub const MAX: usize = 64;
}

// SAFETY: four words.
unsafe impl crate::wire::Wire for FlowList {}
// SAFETY: words, bytes and their newtypes, no padding (sizes asserted below).
unsafe impl<A: Addr> crate::wire::Wire for Tuple<A> {}

/// Fails to compile where a type has padding, whose bytes would be undefined: size is the sum of the fields'.
macro_rules! no_padding {
    ($($type:ty = $size:expr;)+) => { $(const _: () = assert!(size_of::<$type>() == $size);)+ };
}
no_padding! {
    Config<V4> = 4 + 4 + 4 + 16 + 2 + 2 + 4 * 4 + 4 + 4 + 2 + 2;
    Config<V6> = 4 + 16 + 4 + 16 + 2 + 2 + 4 * 4 + 4 + 4 + 2 + 2;
    Configs<V4> = 4 + 2 * 60;
    Configs<V6> = 4 + 2 * 72;
    Interface<V4> = 4 * 4 + 4 + 6 + 2 + 12 + 4 + 4;
    Interface<V6> = 4 * 16 + 4 + 6 + 2 + 12 + 4 + 4;
    Endpoint = 4 + 12 + 4 + 4;
    Place<u32, Interface<V4>> = 4 + 48;
    Place<u32, Interface<V6>> = 4 + 96;
    Place<V4, Endpoint> = 4 + 24;
    Place<V6, Endpoint> = 16 + 24;
    Route = 1 + 1 + 2 + 4 + 16 + 4;
    NodeCounters = 40;
    Tuple<V4> = 16;
    Tuple<V6> = 40;
    Flow<V4> = 4 + 4 + 4 + 4 + 4 + 2 + 2;
    Flow<V6> = 4 + 4 + 4 + 4 + 16 + 2 + 2;
    FragmentKey<V4> = 16;
    FragmentKey<V6> = 40;
    Fragment<V4> = 12;
    Fragment<V6> = 24;
    EndpointCounters = 40;
    Counter = 16;
    Denied = 4;
    FlowList = 16;
    PeerKey = 8 + 16 + 2 + 6;
    Peer = 20;
    PortKey<V4> = 8;
    PortKey<V6> = 20;
    Port<V4> = 12;
    Port<V6> = 24;
}

#[cfg(feature = "host")]
mod pod {
    use super::*;

    // SAFETY: words without padding (sizes asserted above), every bit pattern valid.
    unsafe impl<A: Addr> aya::Pod for Configs<A> {}
    // SAFETY: as above.
    unsafe impl<A: Addr> aya::Pod for Interface<A> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl<K: aya::Pod, V: aya::Pod> aya::Pod for Place<K, V> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Route {}
    // SAFETY: as above.
    unsafe impl<A: Addr> aya::Pod for Tuple<A> {}
    // SAFETY: as above.
    unsafe impl<A: Addr> aya::Pod for PortKey<A> {}
    // SAFETY: as above.
    unsafe impl<A: Addr> aya::Pod for Port<A> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EndpointCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NodeCounters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counter {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Denied {}
    // SAFETY: as above.
    unsafe impl aya::Pod for V4 {}
    // SAFETY: as above.
    unsafe impl aya::Pod for V6 {}
}
