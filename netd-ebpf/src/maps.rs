//! The maps, and [`Tables`] over them. Sizes given here are the smallest; the daemon sets those of the configuration.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop},
    macros::btf_map,
};
use netd_common::{
    Addr as _, Common, Tables, V4, V6, Way,
    abi::{
        Config, Configs, Counter, DESTINATIONS, Endpoint, EndpointCounters, Flow, Fragment, FragmentKey,
        FragmentRing, Interface, NodeCounters, PLACES, Peer, PeerKey, Place, Port, PortBits, PortKey, Route,
        STEPS as STEPS_COUNT, Tuple, UnansweredRing, place_of,
    },
    flow::{TICK_SHIFT, Ticks},
    hairpin::Rewrite,
    nat::Mapping,
    plan::NO_SLOT,
    quota::Account,
    reason,
    shared::Shared,
    tables::{Add, Scratch, Whose},
    wire::protocol,
};

use crate::functions::{create_flow4, create_flow6, hairpin_flows4, hairpin_flows6, open_flow4, open_flow6};

/// Entries of a map whose size the daemon sets when it loads the programs.
const SIZED: usize = 1;
/// Errno of an update with BPF_NOEXIST where there is an entry.
const EEXIST: i32 = 17;

/// Counters of drop reasons, then of ways.
#[btf_map]
static COUNTERS: PerCpuArray<Counter, { reason::COUNTERS as usize }> = PerCpuArray::new();
/// Counters of endpoints, by slot.
#[btf_map]
static ENDPOINT_COUNTERS: PerCpuArray<EndpointCounters, SIZED> = PerCpuArray::new();
/// Counters of other nodes, by slot.
#[btf_map]
static NODE_COUNTERS: PerCpuArray<NodeCounters, SIZED> = PerCpuArray::new();
/// Numbers that outer packets to other nodes have got, by slot.
#[btf_map]
static NODE_IDS: Array<u32, SIZED> = Array::new();
/// Flows of endpoints: those of a slot's accounts, one after the other.
#[btf_map]
static FLOW_COUNTS: Array<u32, SIZED> = Array::new();
/// Flows of endpoints to destinations, by [`netd_common::quota::cell`].
#[btf_map]
static DESTINATION_COUNTS: Array<u32, { DESTINATIONS as usize }> = Array::new();
/// Flows of IPv4 that have got no answer yet: rings of their keys, one after the other.
#[btf_map]
static UNANSWERED4: Array<Tuple<V4>, { UnansweredRing::ENTRIES as usize }> = Array::new();
/// The same of IPv6. An endpoint's rings of both families turn together.
#[btf_map]
static UNANSWERED6: Array<Tuple<V6>, { UnansweredRing::ENTRIES as usize }> = Array::new();
/// What programs work on that their stacks have no room for, or what is to be the key of a map (`functions.rs`), by [`Whose`].
#[btf_map]
pub(crate) static SCRATCH4: PerCpuArray<Scratch<V4>, { Whose::COUNT as usize }> = PerCpuArray::new();
/// The same of IPv6.
#[btf_map]
pub(crate) static SCRATCH6: PerCpuArray<Scratch<V6>, { Whose::COUNT as usize }> = PerCpuArray::new();
/// How many keys each ring has got.
#[btf_map]
static UNANSWERED_TURNS: Array<u32, { UnansweredRing::RINGS as usize }> = Array::new();
/// Flows of each table: those of IPv4's accounts, then of IPv6's.
#[btf_map]
static FLOW_TOTALS: Array<u32, { 2 * Account::COUNT as usize }> = Array::new();

/// The node.
#[btf_map]
static CONFIG4: Array<Configs<V4>, 1> = Array::new();
/// Who sends from an interface.
#[btf_map]
static INTERFACES4: HashMap<u32, Interface<V4>, SIZED> = HashMap::new();
/// In front of that.
#[btf_map]
static INTERFACE_PLACES4: Array<Place<u32, Interface<V4>>, { PLACES as usize }> = Array::new();
/// Who has an address.
#[btf_map]
static ENDPOINTS4: HashMap<V4, Endpoint, SIZED> = HashMap::new();
/// In front of that.
#[btf_map]
static ENDPOINT_PLACES4: Array<Place<V4, Endpoint>, { PLACES as usize }> = Array::new();
/// Where prefixes are.
#[btf_map]
static ROUTES4: LpmTrie<V4, Route, SIZED, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
/// Translated flows, two entries each. Preallocated: an insertion never fails for want of memory, only for want of room.
#[btf_map]
static FLOWS4: HashMap<Tuple<V4>, Flow<V4>, SIZED> = HashMap::new();

/// The same for IPv6: the node.
#[btf_map]
static CONFIG6: Array<Configs<V6>, 1> = Array::new();
/// Who sends from an interface.
#[btf_map]
static INTERFACES6: HashMap<u32, Interface<V6>, SIZED> = HashMap::new();
/// In front of that.
#[btf_map]
static INTERFACE_PLACES6: Array<Place<u32, Interface<V6>>, { PLACES as usize }> = Array::new();
/// Who has an address.
#[btf_map]
static ENDPOINTS6: HashMap<V6, Endpoint, SIZED> = HashMap::new();
/// In front of that.
#[btf_map]
static ENDPOINT_PLACES6: Array<Place<V6, Endpoint>, { PLACES as usize }> = Array::new();
/// Where prefixes are.
#[btf_map]
static ROUTES6: LpmTrie<V6, Route, SIZED, { BPF_F_NO_PREALLOC as usize }> = LpmTrie::new();
/// Translated flows.
#[btf_map]
static FLOWS6: HashMap<Tuple<V6>, Flow<V6>, SIZED> = HashMap::new();

/// Published ports.
#[btf_map]
static PORTS4: HashMap<PortKey<V4>, Port<V4>, SIZED, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// The same of IPv6.
#[btf_map]
static PORTS6: HashMap<PortKey<V6>, Port<V6>, SIZED, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
/// Which ports are published at all.
#[btf_map]
static PORT_BITS: Array<u64, { PortBits::WORDS as usize }> = Array::new();

/// The cookie of the network namespace whose sockets may reach published ports.
#[btf_map]
pub(crate) static HOST: Array<u64, 1> = Array::new();
/// What those sockets asked for.
#[btf_map]
pub(crate) static HOST_PEERS: LruHashMap<PeerKey, Peer, 65_536> = LruHashMap::new();

/// Packets that come in fragments.
#[btf_map]
static FRAGMENTS4: HashMap<FragmentKey<V4>, Fragment<V4>, { FragmentRing::ENTRIES as usize }> =
    HashMap::new();
/// Rings of keys of that map, one after the other.
#[btf_map]
static FRAGMENT_PLACES4: Array<FragmentKey<V4>, { FragmentRing::ENTRIES as usize }> = Array::new();
/// The same for IPv6.
#[btf_map]
static FRAGMENTS6: HashMap<FragmentKey<V6>, Fragment<V6>, { FragmentRing::ENTRIES as usize }> =
    HashMap::new();
/// Its rings: an endpoint has one of either family, and both turn together.
#[btf_map]
static FRAGMENT_PLACES6: Array<FragmentKey<V6>, { FragmentRing::ENTRIES as usize }> = Array::new();
/// How many entries each ring has got.
#[btf_map]
static FRAGMENT_TURNS: Array<u32, { FragmentRing::RINGS as usize }> = Array::new();

/// Programs that go on where others end, by the numbers in [`netd_common::abi`].
#[btf_map]
pub(crate) static STEPS: ProgramArray<{ STEPS_COUNT as usize }> = ProgramArray::new();

/// The maps as the core's tables.
pub(crate) struct Maps;

/// Counters are one a CPU and programs do not interrupt each other on one, so plain additions lose nothing.
macro_rules! count {
    ($map:ident, $index:expr, |$counter:ident| $body:block) => {
        if let Some(pointer) = $map.get_ptr_mut($index) {
            // SAFETY: the entry of this CPU, which no other writes.
            let $counter = unsafe { &mut *pointer };
            $body
        }
    };
}

#[inline(always)]
fn count(index: u32, bytes: u32) {
    count!(COUNTERS, index, |counter| {
        counter.packets += 1;
        counter.bytes += u64::from(bytes);
    });
}

impl Common for Maps {
    #[inline(always)]
    fn now(&self) -> Ticks {
        // SAFETY: a helper without arguments. Coarse: the time of the last timer tick, at a tenth of the cost.
        (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as Ticks
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn flows_of(&self, slot: u32, account: Account, change: i32) -> u32 {
        let index = slot.wrapping_mul(Account::COUNT) + account as u32;
        let Some(count) = FLOW_COUNTS.get_ptr(index) else { return u32::MAX };
        add(count, change)
    }

    #[inline(always)]
    fn flows_to(&self, cell: u32, change: i32) -> u32 {
        DESTINATION_COUNTS.get_ptr(cell).map_or(0, |count| add(count, change))
    }

    #[inline(always)]
    fn unanswered_turn(&self, ring: u32) -> u32 {
        UNANSWERED_TURNS.get_ptr(ring).map_or(0, |turn| add(turn, 1))
    }

    #[inline(always)]
    fn is_published(&self, protocol: u8, port: u16) -> bool {
        is_published(protocol, port)
    }

    #[inline(always)]
    fn fragment_turn(&self, ring: u32) -> u32 {
        FRAGMENT_TURNS.get_ptr(ring).map_or(0, |turn| add(turn, 1))
    }

    #[inline(always)]
    fn repeat<S>(times: u32, step: extern "C" fn(u32, &mut S) -> i64, state: &mut S) {
        // SAFETY: the kernel calls `step` with the number of the round and `state`, and returns before this does.
        unsafe { bpf_loop(times, step as *mut c_void, (&raw mut *state).cast(), 0) };
    }

    #[inline(always)]
    fn count_way(&self, way: Way, bytes: u32) {
        count(reason::WAYS + way as u32, bytes);
    }

    #[inline(always)]
    fn count_sent(&self, slot: u32, bytes: u32) {
        count!(ENDPOINT_COUNTERS, slot, |counter| {
            counter.tx_packets += 1;
            counter.tx_bytes += u64::from(bytes);
        });
    }

    #[inline(always)]
    fn count_received(&self, slot: u32, bytes: u32) {
        count!(ENDPOINT_COUNTERS, slot, |counter| {
            counter.rx_packets += 1;
            counter.rx_bytes += u64::from(bytes);
        });
    }

    #[inline(always)]
    fn count_to_node(&self, slot: u32, bytes: u32) {
        count!(NODE_COUNTERS, slot, |counter| {
            counter.tx_packets += 1;
            counter.tx_bytes += u64::from(bytes);
        });
    }

    #[inline(always)]
    fn outer_ids(&self, slot: u32, packets: u32) -> u16 {
        let mut first = 0;
        let Some(given) = NODE_IDS.get_ptr(slot) else { return first };
        // SAFETY: as in `add`.
        let given = unsafe { &*given.cast::<Shared>() };
        count!(NODE_COUNTERS, slot, |counter| {
            first = counter.number(packets, given.get(), |more| given.add(more.cast_signed()));
        });
        first
    }

    #[inline(always)]
    fn count_from_node(&self, slot: u32, bytes: u32) {
        count!(NODE_COUNTERS, slot, |counter| {
            counter.rx_packets += 1;
            counter.rx_bytes += u64::from(bytes);
        });
    }

    #[inline(always)]
    fn count_refused(&self, reason: u32, slot: u32, bytes: u32) {
        count(reason, bytes);
        if slot != NO_SLOT {
            count!(ENDPOINT_COUNTERS, slot, |counter| { counter.dropped += 1 });
        }
    }
}

/// One family's tables over its maps.
macro_rules! tables {
    ($address:ty, $bits:literal, $config:ident, [$interfaces:ident, $interface_places:ident], [$endpoints:ident, $endpoint_places:ident], $routes:ident, $flows:ident, $ports:ident, $fragments:ident, $places:ident, $unanswered:ident, $scratch:ident,
     $create:ident, $open:ident, $hairpin:ident) => {
        // SAFETY (of the `get`s): the kernel keeps the memory of a removed entry readable until the program ends. It may
        // be given to another entry meanwhile; the fields of a flow are read at once after the look-up, so what is read
        // belongs to one entry, for all but a removal and an insertion within those few nanoseconds.
        impl Tables<$address> for Maps {
            type Ref<'a, V: 'a> = &'a V;
            type Scratch<'a> = &'a mut Scratch<$address>;

            #[inline(always)]
            fn config(&self) -> Option<&Config<$address>> {
                $config.get(0).map(Configs::get)
            }

            #[inline(always)]
            fn interface(&self, ifindex: u32) -> Option<&Interface<$address>> {
                match $interface_places.get(place_of(ifindex)) {
                    Some(place) if place.key == ifindex => Some(&place.value),
                    // SAFETY: see above.
                    _ => unsafe { $interfaces.get(ifindex) },
                }
            }

            #[inline(always)]
            fn endpoint(&self, address: &$address) -> Option<&Endpoint> {
                match $endpoint_places.get(place_of(address.folded())) {
                    Some(place) if place.key == *address => Some(&place.value),
                    // SAFETY: see above.
                    _ => unsafe { $endpoints.get(address) },
                }
            }

            #[inline(always)]
            fn route(&self, address: &$address) -> Option<&Route> {
                $routes.get(&Key::new($bits, *address))
            }

            #[inline(always)]
            fn flow(&self, tuple: &Tuple<$address>) -> Option<&Flow<$address>> {
                // SAFETY: see above.
                unsafe { $flows.get(tuple) }
            }

            #[inline(always)]
            fn scratch(&self, whose: Whose) -> Option<&mut Scratch<$address>> {
                // SAFETY: the entry of this CPU, which programs do not interrupt each other on; and of what is being done, once.
                $scratch.get_ptr_mut(whose as u32).map(|pointer| unsafe { &mut *pointer })
            }

            #[inline(always)]
            fn flow_add(&self, tuple: &Tuple<$address>, flow: &Flow<$address>) -> Result<(), Add> {
                match $flows.insert(tuple, flow, u64::from(BPF_NOEXIST)) {
                    Ok(()) => Ok(()),
                    Err(error) if error == -EEXIST => Err(Add::Exists),
                    Err(_) => Err(Add::Full),
                }
            }

            #[inline(always)]
            fn flow_remove(&self, tuple: &Tuple<$address>) {
                let _ = $flows.remove(tuple);
            }

            #[inline(always)]
            fn port(&self, key: &PortKey<$address>) -> Option<&Port<$address>> {
                // SAFETY: see above.
                unsafe { $ports.get(key) }
            }

            #[inline(always)]
            fn flows_in_table(&self, account: Account, change: i32) -> u32 {
                let index = u32::from(<$address>::V6) * Account::COUNT + account as u32;
                FLOW_TOTALS.get_ptr(index).map_or(0, |total| add(total, change))
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$address>) -> Option<&Fragment<$address>> {
                // SAFETY: see above.
                unsafe { $fragments.get(key) }
            }

            #[inline(always)]
            fn fragment_set(&self, key: &FragmentKey<$address>, fragment: &Fragment<$address>) {
                // There is room: what is added has just taken the place of another (`netd_common::fragment`).
                let _ = $fragments.insert(key, fragment, 0);
            }

            #[inline(always)]
            fn fragment_remove(&self, key: &FragmentKey<$address>) {
                let _ = $fragments.remove(key);
            }

            #[inline(always)]
            fn fragment_place(&self, place: u32, key: &FragmentKey<$address>) -> FragmentKey<$address> {
                let Some(pointer) = $places.get_ptr_mut(place) else { return *key };
                // SAFETY: the entry is there as long as the map. Another CPU comes to the same place only after a whole round of
                // the ring; should it, what is lost is that an entry is removed.
                unsafe { core::mem::replace(&mut *pointer, *key) }
            }

            #[inline(always)]
            fn unanswered(&self, place: u32, inward: &mut Tuple<$address>) {
                if let Some(pointer) = $unanswered.get_ptr(place) {
                    // SAFETY: as above; should another CPU be writing it, it is nobody's tuple.
                    *inward = unsafe { pointer.read() };
                }
            }

            #[inline(always)]
            fn unanswered_set(&self, place: u32, inward: &Tuple<$address>) {
                if let Some(pointer) = $unanswered.get_ptr_mut(place) {
                    // SAFETY: as above.
                    unsafe { pointer.write(*inward) };
                }
            }

            #[inline(always)]
            fn create(&self, tuple: &Tuple<$address>, slot: u32, mapping: &mut Mapping<$address>) -> u32 {
                $create(tuple, slot, mapping)
            }

            #[inline(always)]
            fn open(&self, inward: &Tuple<$address>, tcp_flags: u32, mapping: &mut Mapping<$address>) -> u32 {
                $open(inward, tcp_flags, mapping)
            }

            #[inline(always)]
            fn hairpin(
                &self,
                tuple: &Tuple<$address>,
                tcp_flags: u32,
                slot: u32,
                rewrite: &mut Rewrite<$address>,
            ) -> u32 {
                $hairpin(tuple, tcp_flags, slot, rewrite)
            }
        }
    };
}

/// Whether a port is published by anybody.
#[inline(always)]
pub(crate) fn is_published(protocol: u8, port: u16) -> bool {
    if protocol != protocol::TCP && protocol != protocol::UDP {
        return false;
    }
    let (word, bit) = PortBits::place(protocol, port);
    PORT_BITS.get(word).is_some_and(|word| word >> bit & 1 != 0)
}

/// Adds to a word of an array that other CPUs add to as well; returns what it was.
#[inline(always)]
fn add(word: *const u32, change: i32) -> u32 {
    // SAFETY: an entry of an array, which is there as long as the map; Shared is transparent over the word, which programs change
    // by atomic instructions only.
    let word = unsafe { &*word.cast::<Shared>() };
    if change == 0 { word.get() } else { word.add(change) }
}

tables!(
    V4,
    32,
    CONFIG4,
    [INTERFACES4, INTERFACE_PLACES4],
    [ENDPOINTS4, ENDPOINT_PLACES4],
    ROUTES4,
    FLOWS4,
    PORTS4,
    FRAGMENTS4,
    FRAGMENT_PLACES4,
    UNANSWERED4,
    SCRATCH4,
    create_flow4,
    open_flow4,
    hairpin_flows4
);
tables!(
    V6,
    128,
    CONFIG6,
    [INTERFACES6, INTERFACE_PLACES6],
    [ENDPOINTS6, ENDPOINT_PLACES6],
    ROUTES6,
    FLOWS6,
    PORTS6,
    FRAGMENTS6,
    FRAGMENT_PLACES6,
    UNANSWERED6,
    SCRATCH6,
    create_flow6,
    open_flow6,
    hairpin_flows6
);
