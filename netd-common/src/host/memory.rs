//! Tables in memory.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    hash::Hash,
    rc::Rc,
};

use crate::{
    Addr, Common, Drop, Tables, V4, V6, Way,
    abi::{
        Config, Counter, Denied, Endpoint, EndpointCounters, Flow, Fragment, FragmentKey, Interface,
        NodeCounters, Port, PortKey, Route, Tuple,
    },
    flow::{self, Ticks, When},
    plan::NO_SLOT,
    quota::Account,
    tables::Add,
    wire::{Be16, protocol},
    xdp_uplink::DenyList,
};

/// Tables of one family, and of the other in them.
#[derive(Debug)]
pub struct Memory<A> {
    /// Tables of IPv6 that belong to these of IPv4; their clock and counters are not used.
    pub v6: Option<Box<Memory<V6>>>,
    /// The node.
    pub config: Option<Rc<Config<A>>>,
    /// Who sends from an interface.
    pub interfaces: HashMap<u32, Rc<Interface<A>>>,
    /// Who has an address.
    pub endpoints: HashMap<A, Rc<Endpoint>>,
    /// Prefix, mask, route; the first that matches counts.
    pub routes: Vec<(A, A, Rc<Route>)>,
    /// The flow table.
    pub flows: RefCell<HashMap<Tuple<A>, Rc<Flow<A>>>>,
    /// Entries that it has room for.
    pub max_flows: usize,
    /// Flows of each slot on each of its accounts.
    pub flow_counts: RefCell<BTreeMap<(u32, Account), u32>>,
    /// Flows of the table on each account.
    pub flow_totals: RefCell<BTreeMap<Account, u32>>,
    /// Published ports.
    pub ports: HashMap<PortKey<A>, Rc<Port<A>>>,
    /// Packets that come in fragments.
    pub fragments: RefCell<HashMap<FragmentKey<A>, Rc<Fragment<A>>>>,
    /// How many entries each ring has got.
    pub fragment_turns: RefCell<BTreeMap<u32, u32>>,
    /// The keys in the rings' places.
    pub fragment_places: RefCell<BTreeMap<u32, FragmentKey<A>>>,
    /// The time.
    pub time: Cell<Ticks>,
    /// State of the random number generator.
    pub seed: Cell<u64>,
    /// What went on, by way.
    pub ways: RefCell<BTreeMap<u32, Counter>>,
    /// What was dropped, by reason.
    pub drops: RefCell<BTreeMap<u32, Counter>>,
    /// Counters of the slots.
    pub slots: RefCell<BTreeMap<u32, EndpointCounters>>,
    /// Counters of the other nodes.
    pub nodes: RefCell<BTreeMap<u32, NodeCounters>>,
    /// Denied IPv4 sources: prefix, mask, entry; the first that matches counts.
    pub denied4: Vec<(V4, V4, Denied)>,
    /// The same of IPv6.
    pub denied6: Vec<(V6, V6, Denied)>,
    /// Packets that each of their entries has dropped.
    pub denied: RefCell<BTreeMap<u32, u64>>,
}

impl<A> Default for Memory<A> {
    fn default() -> Self {
        Self {
            v6: None,
            config: None,
            interfaces: HashMap::new(),
            endpoints: HashMap::new(),
            routes: Vec::new(),
            flows: RefCell::default(),
            max_flows: 1 << 20,
            flow_counts: RefCell::default(),
            flow_totals: RefCell::default(),
            ports: HashMap::new(),
            fragments: RefCell::default(),
            fragment_turns: RefCell::default(),
            fragment_places: RefCell::default(),
            time: Cell::new(0),
            seed: Cell::new(1),
            ways: RefCell::default(),
            drops: RefCell::default(),
            slots: RefCell::default(),
            nodes: RefCell::default(),
            denied4: Vec::new(),
            denied6: Vec::new(),
            denied: RefCell::default(),
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
        let inward: Vec<_> = tables
            .flows
            .borrow()
            .iter()
            .filter(|(tuple, _)| tuple.direction == Tuple::<B>::IN)
            .map(|(tuple, flow)| (*tuple, flow.clone()))
            .collect();
        inward.iter().filter(|(tuple, flow)| flow::remove(self, tuple, flow, self.time.get(), when)).count()
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
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        (x >> 32) as u32
    }

    fn flows_of(&self, slot: u32, account: Account, change: i32) -> u32 {
        add(self.flow_counts.borrow_mut().entry((slot, account)).or_default(), change)
    }

    fn is_published(&self, protocol: u8, port: u16) -> bool {
        let is = |key: &PortKey<A>| (key.protocol, key.port) == (protocol, Be16::new(port));
        let other = self.v6.as_ref().is_some_and(|v6| v6.is_published(protocol, port));
        matches!(protocol, protocol::TCP | protocol::UDP) && (self.ports.keys().any(is) || other)
    }

    fn fragment_turn(&self, ring: u32) -> u32 {
        let mut turns = self.fragment_turns.borrow_mut();
        let turn = turns.entry(ring).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    fn repeat<S>(times: u32, step: extern "C" fn(u32, &mut S) -> i64, state: &mut S) {
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

    fn count_on_wire(&self, slot: u32, packets: u32) -> u16 {
        let mut nodes = self.nodes.borrow_mut();
        let counters = nodes.entry(slot).or_default();
        let first = counters.tx_wire;
        counters.tx_wire += u64::from(packets);
        first as u16
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
        = Rc<V>
    where
        A: 'a;

    fn config(&self) -> Option<Rc<Config<A>>> {
        self.config.clone()
    }

    fn interface(&self, ifindex: u32) -> Option<Rc<Interface<A>>> {
        self.interfaces.get(&ifindex).cloned()
    }

    fn endpoint(&self, address: &A) -> Option<Rc<Endpoint>> {
        self.endpoints.get(address).cloned()
    }

    fn route(&self, address: &A) -> Option<Rc<Route>> {
        let found = self.routes.iter().find(|(network, mask, _)| address.within(network, mask));
        found.map(|(_, _, route)| route.clone())
    }

    fn flow(&self, tuple: &Tuple<A>) -> Option<Rc<Flow<A>>> {
        self.flows.borrow().get(tuple).cloned()
    }

    fn flow_add(&self, tuple: &Tuple<A>, flow: Flow<A>) -> Result<(), Add> {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(tuple) {
            return Err(Add::Exists);
        }
        if flows.len() >= self.max_flows {
            return Err(Add::Full);
        }
        flows.insert(*tuple, Rc::new(flow));
        Ok(())
    }

    fn flow_remove(&self, tuple: &Tuple<A>) {
        self.flows.borrow_mut().remove(tuple);
    }

    fn flows_in_table(&self, account: Account, change: i32) -> u32 {
        add(self.flow_totals.borrow_mut().entry(account).or_default(), change)
    }

    fn port(&self, key: &PortKey<A>) -> Option<Rc<Port<A>>> {
        self.ports.get(key).cloned()
    }

    fn fragment(&self, key: &FragmentKey<A>) -> Option<Rc<Fragment<A>>> {
        self.fragments.borrow().get(key).cloned()
    }

    fn fragment_set(&self, key: &FragmentKey<A>, fragment: &Fragment<A>) {
        self.fragments.borrow_mut().insert(*key, Rc::new(*fragment));
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
    type Ref<'a, V: 'a> = Rc<V>;

    fn config(&self) -> Option<Rc<Config<V6>>> {
        self.v6.as_ref()?.config()
    }

    fn interface(&self, ifindex: u32) -> Option<Rc<Interface<V6>>> {
        self.v6.as_ref()?.interface(ifindex)
    }

    fn endpoint(&self, address: &V6) -> Option<Rc<Endpoint>> {
        self.v6.as_ref()?.endpoint(address)
    }

    fn route(&self, address: &V6) -> Option<Rc<Route>> {
        self.v6.as_ref()?.route(address)
    }

    fn flow(&self, tuple: &Tuple<V6>) -> Option<Rc<Flow<V6>>> {
        self.v6.as_ref()?.flow(tuple)
    }

    fn flow_add(&self, tuple: &Tuple<V6>, flow: Flow<V6>) -> Result<(), Add> {
        self.v6.as_ref().map_or(Err(Add::Full), |v6| v6.flow_add(tuple, flow))
    }

    fn flow_remove(&self, tuple: &Tuple<V6>) {
        self.v6.iter().for_each(|v6| v6.flow_remove(tuple));
    }

    fn flows_in_table(&self, account: Account, change: i32) -> u32 {
        self.v6.as_ref().map_or(0, |v6| Tables::flows_in_table(&**v6, account, change))
    }

    fn port(&self, key: &PortKey<V6>) -> Option<Rc<Port<V6>>> {
        self.v6.as_ref()?.port(key)
    }

    fn fragment(&self, key: &FragmentKey<V6>) -> Option<Rc<Fragment<V6>>> {
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

fn find<A: Addr>(list: &[(A, A, Denied)], source: &A) -> Option<Denied> {
    list.iter().find(|(prefix, mask, _)| source.within(prefix, mask)).map(|(.., entry)| *entry)
}

impl<A> DenyList for Memory<A> {
    fn denied4(&self, source: &V4) -> Option<Denied> {
        find(&self.denied4, source)
    }

    fn denied6(&self, source: &V6) -> Option<Denied> {
        find(&self.denied6, source)
    }

    fn count_denied(&self, entry: Denied) {
        *self.denied.borrow_mut().entry(entry.slot).or_default() += 1;
    }
}
