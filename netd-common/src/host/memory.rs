//! Tables in memory.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    hash::Hash,
    rc::Rc,
};

use crate::{
    Addr, Drop, Tables, Way,
    abi::{
        Config, Counter, Endpoint, EndpointCounters, Flow, Fragment, FragmentKey, Interface, NodeCounters,
        Port, PortKey, Route, Tuple,
    },
    flow::{self, Ticks, When},
    plan::NO_SLOT,
    tables::Add,
    wire::{Be16, protocol},
};

/// Tables of one family.
#[derive(Debug)]
pub struct Memory<A> {
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
    /// Flows of each slot.
    pub flow_counts: RefCell<BTreeMap<u32, u32>>,
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
}

impl<A> Default for Memory<A> {
    fn default() -> Self {
        Self {
            config: None,
            interfaces: HashMap::new(),
            endpoints: HashMap::new(),
            routes: Vec::new(),
            flows: RefCell::default(),
            max_flows: 1 << 20,
            flow_counts: RefCell::default(),
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
        }
    }
}

impl<A: Addr + Hash> Memory<A> {
    /// What the daemon does every few seconds: removes the flows that may go. Returns how many.
    pub fn collect(&self, when: When) -> usize {
        let inward: Vec<_> = self
            .flows
            .borrow()
            .iter()
            .filter(|(tuple, _)| tuple.direction == Tuple::<A>::IN)
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

impl<A: Addr + Hash> Tables<A> for Memory<A> {
    type Ref<'a, V: 'a>
        = Rc<V>
    where
        A: 'a;

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

    fn flows_of(&self, slot: u32, change: i32) -> u32 {
        let mut counts = self.flow_counts.borrow_mut();
        let count = counts.entry(slot).or_default();
        let old = *count;
        *count = old.checked_add_signed(change).expect("more flows removed than there were");
        old
    }

    fn is_published(&self, protocol: u8, port: u16) -> bool {
        let is = |key: &PortKey<A>| (key.protocol, key.port) == (protocol, Be16::new(port));
        matches!(protocol, protocol::TCP | protocol::UDP) && self.ports.keys().any(is)
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

    fn fragment_turn(&self, ring: u32) -> u32 {
        let mut turns = self.fragment_turns.borrow_mut();
        let turn = turns.entry(ring).or_default();
        *turn = turn.wrapping_add(1);
        turn.wrapping_sub(1)
    }

    fn fragment_place(&self, place: u32, key: &FragmentKey<A>) -> FragmentKey<A> {
        // An empty place is a key that no packet has; here, one that is removed and added again.
        self.fragment_places.borrow_mut().insert(place, *key).unwrap_or(*key)
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

    fn count_drop(&self, reason: Drop, slot: u32, bytes: u32) {
        count(&mut self.drops.borrow_mut(), reason as u32, bytes);
        if slot != NO_SLOT {
            self.slots.borrow_mut().entry(slot).or_default().dropped += 1;
        }
    }
}

fn count(counters: &mut BTreeMap<u32, Counter>, number: u32, bytes: u32) {
    let counter = counters.entry(number).or_default();
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}
