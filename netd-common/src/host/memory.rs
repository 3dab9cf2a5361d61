//! Tables in memory.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasherDefault, DefaultHasher, Hash},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    schedule,
    sync::{Table, Value},
};
use crate::{
    Addr, Common, Drop, Tables, V4, V6, Way,
    abi::{
        Config, Counter, DESTINATIONS, Denied, Endpoint, EndpointCounters, Flow, Fragment, FragmentKey,
        Interface, NodeCounters, Port, PortKey, Route, Tuple,
    },
    flow::{self, Ticks, When},
    plan::NO_SLOT,
    quota::Account,
    tables::{Add, Scratch, Whose},
    wire::{Be16, protocol},
    xdp_uplink::DenyList,
};

/// Entries whose memory is kept for others.
const SPARE: usize = 8;

/// Rounds of a loop while orders are explored.
const ROUNDS: u32 = 3;

/// A hash map that has the same order in each run.
pub type Repeatable<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// Tables of one family, and of the other in them. Threads may share them, as CPUs share maps.
#[derive(Debug)]
pub struct Memory<A> {
    /// Tables of IPv6 that belong to these of IPv4; their clock and counters are not used.
    pub v6: Option<Box<Memory<V6>>>,
    /// The node.
    pub config: Option<Arc<Config<A>>>,
    /// Who sends from an interface.
    pub interfaces: HashMap<u32, Arc<Interface<A>>>,
    /// Who has an address.
    pub endpoints: HashMap<A, Arc<Endpoint>>,
    /// Prefix, mask, route; the longest prefix counts.
    pub routes: Vec<(A, A, Arc<Route>)>,
    /// The flow table.
    pub flows: Table<Repeatable<Tuple<A>, Arc<Flow<A>>>>,
    /// The memory of the entries that were removed last: as in the kernel, the next one to be added gets it at once, while others may
    /// still look at what was there. Here, where all that does not change in an entry is the same.
    pub spare: Mutex<Vec<Arc<Flow<A>>>>,
    /// Entries that it has room for.
    pub max_flows: usize,
    /// Flows of each slot on each of its accounts.
    pub flow_counts: Table<BTreeMap<(u32, Account), u32>>,
    /// Flows to each destination.
    pub destinations: Counts<u32>,
    /// How many keys each ring of unanswered flows has got.
    pub unanswered_turns: Counts<u32>,
    /// The keys in the rings' places.
    pub unanswered_places: Table<BTreeMap<u32, Tuple<A>>>,
    /// Flows of the table on each account.
    pub flow_totals: Counts<Account>,
    /// Published ports.
    pub ports: Table<HashMap<PortKey<A>, Arc<Port<A>>>>,
    /// Packets that come in fragments.
    pub fragments: Table<Repeatable<FragmentKey<A>, Arc<Fragment<A>>>>,
    /// How many entries each ring has got.
    pub fragment_turns: Table<BTreeMap<u32, u32>>,
    /// The keys in the rings' places.
    pub fragment_places: Table<BTreeMap<u32, FragmentKey<A>>>,
    /// The time.
    pub time: Value<Ticks>,
    /// State of the random number generator.
    pub seed: Value<u64>,
    /// What went on, by way.
    pub ways: Table<BTreeMap<u32, Counter>>,
    /// What was dropped, by reason.
    pub drops: Table<BTreeMap<u32, Counter>>,
    /// Counters of the slots.
    pub slots: Table<BTreeMap<u32, EndpointCounters>>,
    /// Counters of the other nodes.
    pub nodes: Table<BTreeMap<u32, NodeCounters>>,
    /// Numbers of outer packets that were given out, for each of them.
    pub ids: Table<BTreeMap<u32, u32>>,
    /// Denied IPv4 sources: prefix, mask, entry; the longest prefix counts.
    pub denied4: Vec<(V4, V4, Denied)>,
    /// The same of IPv6.
    pub denied6: Vec<(V6, V6, Denied)>,
    /// Packets that each of their entries has dropped.
    pub denied: Table<BTreeMap<u32, u64>>,
}

impl<A> Default for Memory<A> {
    fn default() -> Self {
        Self {
            v6: None,
            config: None,
            interfaces: HashMap::new(),
            endpoints: HashMap::new(),
            routes: Vec::new(),
            flows: Table::default(),
            spare: Mutex::default(),
            max_flows: 1 << 20,
            flow_counts: Table::default(),
            flow_totals: Counts::default(),
            destinations: Counts::default(),
            unanswered_turns: Counts::default(),
            unanswered_places: Table::default(),
            ports: Table::default(),
            fragments: Table::default(),
            fragment_turns: Table::default(),
            fragment_places: Table::default(),
            time: Value::new(0),
            seed: Value::new(1),
            ways: Table::default(),
            drops: Table::default(),
            slots: Table::default(),
            nodes: Table::default(),
            ids: Table::default(),
            denied4: Vec::new(),
            denied6: Vec::new(),
            denied: Table::default(),
        }
    }
}

impl<A: Addr + Hash> Memory<A> {
    /// What the daemon does every few seconds: removes the flows that may go. Returns how many.
    pub fn collect(&self, when: When) -> usize {
        self.collect_from(self, when)
    }

    /// The same with the flows of a family's tables.
    fn collect_from<B: Addr + Hash>(&self, tables: &Memory<B>, when: When) -> usize
    where
        Self: Tables<B>,
    {
        self.remove_flows(&tables.inward(|_, _| true), when)
    }

    /// The inbound tuples of the flows for which `which` says so.
    fn inward(&self, which: impl Fn(&Tuple<A>, &Flow<A>) -> bool) -> Vec<Tuple<A>> {
        let flows = self.flows.borrow();
        let all =
            flows.iter().filter(|(tuple, flow)| tuple.direction == Tuple::<A>::IN && which(tuple, flow));
        all.map(|(tuple, _)| *tuple).collect()
    }

    /// What the program does that the daemon has remove flows: looks for each anew. Returns how many are gone.
    fn remove_flows<B: Addr>(&self, tuples: &[Tuple<B>], when: When) -> usize
    where
        Self: Tables<B>,
    {
        let now = self.time.get();
        let remove = |tuple: &&Tuple<B>| {
            self.flow(tuple).is_some_and(|flow| flow::remove(self, tuple, &flow, now, when))
        };
        tuples.iter().filter(remove).count()
    }

    /// An entry in the memory of another that is gone.
    fn in_spare(&self, flow: &Flow<A>) -> Arc<Flow<A>> {
        let fixed = |flow: &Flow<A>| (flow.slot, flow.address, flow.port, flow.flags);
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = spare.iter().rposition(|old| fixed(old) == fixed(flow)) else {
            return Arc::new(flow.clone());
        };
        let memory = spare.remove(index);
        schedule::in_one_step(|| {
            memory.state.set(flow.state.get());
            memory.seen.set(flow.seen.get());
            memory.mark.set(flow.mark.get());
        });
        memory
    }

    /// What the daemon does where a port is no longer published: takes out the port first, then its flows.
    pub fn unpublish(&self, key: &PortKey<A>) {
        let Some(port) = self.ports.borrow_mut().remove(key) else { return };
        let by = |tuple: &Tuple<A>, flow: &Flow<A>| {
            flow.flags & Flow::<A>::PUBLISHED != 0
                && (tuple.destination_port, tuple.protocol) == (key.port, key.protocol)
                && (flow.address, flow.port) == (port.address, port.port)
        };
        self.remove_flows(&self.inward(by), When::Now);
    }

    /// What the daemon does where an endpoint is detached, or asked to: removes all flows of an address.
    pub fn flush(&self, address: A) {
        let of = |tuple: &Tuple<A>, flow: &Flow<A>| flow.address == address || tuple.destination == address;
        self.remove_flows(&self.inward(of), When::Now);
    }

    /// Packets dropped for a reason.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops.borrow().get(&(reason as u32)).map_or(0, |counter| counter.packets)
    }

    /// Packets that took a way.
    pub fn went(&self, way: Way) -> u64 {
        self.ways.borrow().get(&(way as u32)).map_or(0, |counter| counter.packets)
    }
}

impl<A: Addr + Hash> Common for Memory<A> {
    fn now(&self) -> Ticks {
        self.time.get()
    }

    fn random(&self) -> u32 {
        // xorshift64: any will do, as long as a failure can be repeated.
        let next = self.seed.update(|mut x| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^ x << 17
        });
        (next >> 32) as u32
    }

    fn flows_of(&self, slot: u32, account: Account, change: i32) -> u32 {
        add(self.flow_counts.borrow_mut().entry((slot, account)).or_default(), change)
    }

    fn flows_to(&self, cell: u32, change: i32) -> u32 {
        if cell >= DESTINATIONS { 0 } else { self.destinations.add(cell, change) }
    }

    fn unanswered_turn(&self, ring: u32) -> u32 {
        self.unanswered_turns.add(ring, 1)
    }

    fn is_published(&self, protocol: u8, port: u16) -> bool {
        let is = |key: &PortKey<A>| (key.protocol, key.port) == (protocol, Be16::new(port));
        let other = self.v6.as_ref().is_some_and(|v6| v6.is_published(protocol, port));
        matches!(protocol, protocol::TCP | protocol::UDP) && (self.ports.borrow().keys().any(is) || other)
    }

    fn fragment_turn(&self, ring: u32) -> u32 {
        let mut turns = self.fragment_turns.borrow_mut();
        let turn = turns.entry(ring).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    fn repeat<S>(times: u32, step: extern "C" fn(u32, &mut S) -> i64, state: &mut S) {
        // Of hundreds of rounds there are too many orders.
        let times = if schedule::is_running() { times.min(ROUNDS) } else { times };
        let _ = (0..times).any(|round| step(round, state) != 0);
    }

    fn count_way(&self, way: Way, bytes: u32) {
        count(&mut self.ways.borrow_mut(), way as u32, bytes);
    }

    fn count_sent(&self, slot: u32, bytes: u32) {
        let mut slots = self.slots.borrow_mut();
        let counters = slots.entry(slot).or_default();
        counters.tx_packets += 1;
        counters.tx_bytes += u64::from(bytes);
    }

    fn count_received(&self, slot: u32, bytes: u32) {
        let mut slots = self.slots.borrow_mut();
        let counters = slots.entry(slot).or_default();
        counters.rx_packets += 1;
        counters.rx_bytes += u64::from(bytes);
    }

    fn count_to_node(&self, slot: u32, bytes: u32) {
        let mut nodes = self.nodes.borrow_mut();
        let counters = nodes.entry(slot).or_default();
        counters.tx_packets += 1;
        counters.tx_bytes += u64::from(bytes);
    }

    fn outer_ids(&self, slot: u32, packets: u32) -> u16 {
        let mut given = self.ids.borrow_mut();
        let given = given.entry(slot).or_default();
        let mut nodes = self.nodes.borrow_mut();
        let before = *given;
        nodes.entry(slot).or_default().number(packets, before, |more| {
            *given = before.wrapping_add(more);
            before
        })
    }

    fn count_from_node(&self, slot: u32, bytes: u32) {
        let mut nodes = self.nodes.borrow_mut();
        let counters = nodes.entry(slot).or_default();
        counters.rx_packets += 1;
        counters.rx_bytes += u64::from(bytes);
    }

    fn count_refused(&self, reason: u32, slot: u32, bytes: u32) {
        count(&mut self.drops.borrow_mut(), reason, bytes);
        if slot != NO_SLOT {
            self.slots.borrow_mut().entry(slot).or_default().dropped += 1;
        }
    }
}

impl<A: Addr + Hash> Tables<A> for Memory<A> {
    type Ref<'a, V: 'a>
        = Arc<V>
    where
        A: 'a;
    type Scratch<'a>
        = Box<Scratch<A>>
    where
        A: 'a;

    fn config(&self) -> Option<Arc<Config<A>>> {
        self.config.clone()
    }

    fn interface(&self, ifindex: u32) -> Option<Arc<Interface<A>>> {
        self.interfaces.get(&ifindex).cloned()
    }

    fn endpoint(&self, address: &A) -> Option<Arc<Endpoint>> {
        self.endpoints.get(address).cloned()
    }

    fn route(&self, address: &A) -> Option<Arc<Route>> {
        longest(&self.routes, address).cloned()
    }

    fn flow(&self, tuple: &Tuple<A>) -> Option<Arc<Flow<A>>> {
        self.flows.borrow().get(tuple).cloned()
    }

    fn scratch(&self, _: Whose) -> Option<Box<Scratch<A>>> {
        Some(Box::default())
    }

    fn flow_add(&self, tuple: &Tuple<A>, flow: &Flow<A>) -> Result<(), Add> {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(tuple) {
            return Err(Add::Exists);
        }
        if flows.len() >= self.max_flows {
            return Err(Add::Full);
        }
        flows.insert(*tuple, schedule::in_one_step(|| self.in_spare(flow)));
        Ok(())
    }

    fn flow_remove(&self, tuple: &Tuple<A>) {
        if let Some(flow) = self.flows.borrow_mut().remove(tuple) {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() == SPARE {
                spare.remove(0);
            }
            spare.push(flow);
        }
    }

    fn flows_in_table(&self, account: Account, change: i32) -> u32 {
        self.flow_totals.add(account, change)
    }

    fn unanswered(&self, place: u32, inward: &mut Tuple<A>) {
        *inward = self.unanswered_places.borrow().get(&place).copied().unwrap_or(Tuple::NONE);
    }

    fn unanswered_set(&self, place: u32, inward: &Tuple<A>) {
        self.unanswered_places.borrow_mut().insert(place, *inward);
    }

    fn port(&self, key: &PortKey<A>) -> Option<Arc<Port<A>>> {
        self.ports.borrow().get(key).cloned()
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<Arc<Fragment<A>>> {
        self.fragments.borrow().get(key).cloned()
    }

    fn fragment_set(&self, key: &FragmentKey<A>, fragment: &Fragment<A>) {
        self.fragments.borrow_mut().insert(*key, Arc::new(*fragment));
    }

    fn fragment_remove(&self, key: &FragmentKey<A>) {
        self.fragments.borrow_mut().remove(key);
    }

    fn fragment_place(&self, place: u32, key: &FragmentKey<A>) -> FragmentKey<A> {
        // An empty place is a key that no packet has; here, one that is removed and added again.
        self.fragment_places.borrow_mut().insert(place, *key).unwrap_or(*key)
    }
}

impl Memory<V4> {
    /// As [`Memory::collect`], for IPv6.
    pub fn collect6(&self, when: When) -> usize {
        self.v6.as_ref().map_or(0, |v6| self.collect_from(v6, when))
    }
}

/// Those of IPv6 that belong to these of IPv4.
impl Tables<V6> for Memory<V4> {
    type Ref<'a, V: 'a> = Arc<V>;
    type Scratch<'a> = Box<Scratch<V6>>;

    fn config(&self) -> Option<Arc<Config<V6>>> {
        self.v6.as_ref()?.config()
    }

    fn interface(&self, ifindex: u32) -> Option<Arc<Interface<V6>>> {
        self.v6.as_ref()?.interface(ifindex)
    }

    fn endpoint(&self, address: &V6) -> Option<Arc<Endpoint>> {
        self.v6.as_ref()?.endpoint(address)
    }

    fn route(&self, address: &V6) -> Option<Arc<Route>> {
        self.v6.as_ref()?.route(address)
    }

    fn flow(&self, tuple: &Tuple<V6>) -> Option<Arc<Flow<V6>>> {
        self.v6.as_ref()?.flow(tuple)
    }

    fn scratch(&self, whose: Whose) -> Option<Box<Scratch<V6>>> {
        self.v6.as_ref()?.scratch(whose)
    }

    fn flow_add(&self, tuple: &Tuple<V6>, flow: &Flow<V6>) -> Result<(), Add> {
        self.v6.as_ref().map_or(Err(Add::Full), |v6| v6.flow_add(tuple, flow))
    }

    fn flow_remove(&self, tuple: &Tuple<V6>) {
        self.v6.iter().for_each(|v6| v6.flow_remove(tuple));
    }

    fn flows_in_table(&self, account: Account, change: i32) -> u32 {
        self.v6.as_ref().map_or(0, |v6| Tables::flows_in_table(&**v6, account, change))
    }

    fn unanswered(&self, place: u32, inward: &mut Tuple<V6>) {
        self.v6.iter().for_each(|v6| v6.unanswered(place, inward));
    }

    fn unanswered_set(&self, place: u32, inward: &Tuple<V6>) {
        self.v6.iter().for_each(|v6| v6.unanswered_set(place, inward));
    }

    fn port(&self, key: &PortKey<V6>) -> Option<Arc<Port<V6>>> {
        self.v6.as_ref()?.port(key)
    }

    fn fragment(&self, key: &FragmentKey<V6>) -> Option<Arc<Fragment<V6>>> {
        self.v6.as_ref()?.fragment(key)
    }

    fn fragment_set(&self, key: &FragmentKey<V6>, fragment: &Fragment<V6>) {
        self.v6.iter().for_each(|v6| v6.fragment_set(key, fragment));
    }

    fn fragment_remove(&self, key: &FragmentKey<V6>) {
        self.v6.iter().for_each(|v6| v6.fragment_remove(key));
    }

    fn fragment_place(&self, place: u32, key: &FragmentKey<V6>) -> FragmentKey<V6> {
        self.v6.as_ref().map_or(*key, |v6| v6.fragment_place(place, key))
    }
}

/// Counts that are only added to, each in one step: in which order makes no difference, so it is no point of a schedule's.
#[derive(Debug)]
pub struct Counts<K>(Mutex<BTreeMap<K, u32>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord + Copy> Counts<K> {
    /// All of them.
    pub fn all(&self) -> BTreeMap<K, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds to one; what it was.
    fn add(&self, key: K, change: i32) -> u32 {
        add(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default(), change)
    }
}

/// Adds to a count of flows; what it was.
fn add(count: &mut u32, change: i32) -> u32 {
    let old = *count;
    *count = old.checked_add_signed(change).expect("more flows removed than there were");
    old
}

fn count(counters: &mut BTreeMap<u32, Counter>, number: u32, bytes: u32) {
    let counter = counters.entry(number).or_default();
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}

/// What a list says of an address: that of the longest prefix that it is in, as in the kernel's LPM tries.
fn longest<'a, A: Addr, V>(list: &'a [(A, A, V)], address: &A) -> Option<&'a V> {
    let all = list.iter().filter(|(prefix, mask, _)| address.within(prefix, mask));
    // Of two masks that hold the same address, the longer one has all bits of the other.
    let longer = |a: &&(A, A, V), b: &&(A, A, V)| a.1.within(&b.1, &b.1).cmp(&b.1.within(&a.1, &a.1));
    all.max_by(longer).map(|(.., value)| value)
}

impl<A> DenyList for Memory<A> {
    fn denied4(&self, source: &V4) -> Option<Denied> {
        longest(&self.denied4, source).copied()
    }

    fn denied6(&self, source: &V6) -> Option<Denied> {
        longest(&self.denied6, source).copied()
    }

    fn count_denied(&self, entry: Denied) {
        *self.denied.borrow_mut().entry(entry.slot).or_default() += 1;
    }
}
