//! What is in etcd, as far as it was read, and the cluster that it describes.
//!
//! The records are kept as they are, also those that make no sense beside the others: what a slice belongs to may come
//! later than the slice. Whoever can write to etcd can write anything, but takes nothing away by that from those who were
//! there before: of two that want one thing the older has it, and one whose value turns into nonsense stays what it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};

use super::{
    keys::{Counter, Key, NodeRecord, Record, SliceRecord},
    room::{Kind, Room},
    stored::{Stored, UNKNOWN, Version},
};
use crate::{
    bpf::MAX_NODES,
    cluster::{Cluster, SharedNetwork, Slice},
    names::Shown,
    network::any_overlap,
    pair,
};

/// All records at one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    /// All changes up to this revision of etcd's are in here.
    pub(super) revision: i64,
    pub(super) counter: Option<Stored<Counter>>,
    pub(super) nodes: BTreeMap<String, Stored<NodeRecord>>,
    pub(super) networks: BTreeMap<String, Stored<SharedNetwork>>,
    /// By network.
    pub(super) slices: BTreeMap<String, BTreeMap<Ipv4Net, Stored<SliceRecord>>>,
    /// How much that is.
    room: Room,
    /// The node whose own records always find room.
    me: String,
}

/// A record that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) key: Key,
    pub(super) revision: i64,
    /// Why.
    pub(super) what: String,
}

impl Model {
    /// One to be read anew, of which `before` is what was known.
    pub(super) fn after(before: &Self) -> Self {
        Self { room: Room::after(&before.room), me: before.me.clone(), ..Self::default() }
    }

    /// Takes in a record. One that makes no sense leaves what was there before, for as long as it is the same record.
    ///
    /// # Errors
    /// The key is nobody's. What is wrong with a value is for [`Self::cluster`] to say.
    pub(super) fn put(&mut self, key: &str, value: &[u8], version: Version) -> Result<()> {
        self.put_known(key, value, version, &Self::default())
    }

    /// The same while all is read anew: what was known `before` finds room, whatever else there is.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(super) fn put_known(
        &mut self,
        text: &str,
        value: &[u8],
        version: Version,
        before: &Self,
    ) -> Result<()> {
        /// What a value that makes no sense leaves in memory, at most: why it does not.
        const WHY: usize = 1024;
        let key = Key::parse(text)?;
        let mut read = key.read(value).map_err(|error| Shown(&format!("{error:#}")).to_string());
        let mut size = text.len() + if read.is_ok() { value.len() } else { WHY };
        let here = self.held(&key);
        let known = here.or_else(|| before.held(&key));
        let kind = known.map_or_else(|| self.kind(&key, read.as_ref().ok()), |(kind, _)| kind);
        let held = known.map(|(_, size)| size);
        if !self.room.take(kind, size, held, here.is_some()) {
            let Some(held) = held else { return Ok(()) };
            (size, read) = (held, Err("there is no room for what it has become".to_owned()));
            self.room.take(kind, size, Some(held), here.is_some());
        }
        let place = (kind, size);
        // Records before that are the same one: of this model, or of the one before.
        match key {
            Key::LastNetwork => {
                let narrow = |record| if let Record::Counter(it) = record { Some(it) } else { None };
                let old = self.counter.take().or_else(|| before.counter.clone());
                self.counter = Some(Stored::new(version, place, read, narrow).keeping(old, |_, _| None));
            }
            Key::Node(name) => {
                let narrow = |record| if let Record::Node(it) = record { Some(it) } else { None };
                let old = self.nodes.remove(&name).or_else(|| before.nodes.get(&name).cloned());
                self.nodes.insert(name, Stored::new(version, place, read, narrow).keeping(old, |_, _| None));
            }
            Key::Network(name) => {
                let narrow = |record| if let Record::Network(it) = record { Some(it) } else { None };
                let old = self.networks.remove(&name).or_else(|| before.networks.get(&name).cloned());
                let stored = Stored::new(version, place, read, narrow).keeping(old, another_network);
                self.networks.insert(name, stored);
            }
            Key::Slice(network, slice) => {
                let narrow = |record| if let Record::Slice(it) = record { Some(it) } else { None };
                let known = || before.slices.get(&network).and_then(|slices| slices.get(&slice)).cloned();
                let slices = self.slices.entry(network.clone()).or_default();
                let old = slices.remove(&slice).or_else(known);
                slices.insert(slice, Stored::new(version, place, read, narrow).keeping(old, |_, _| None));
            }
        }
        Ok(())
    }

    /// Takes in that a key is gone.
    pub(super) fn delete(&mut self, key: &str) {
        let Ok(key) = Key::parse(key) else { return };
        self.room.give_back(self.held(&key));
        match key {
            Key::LastNetwork => self.counter = None,
            Key::Node(name) => drop(self.nodes.remove(&name)),
            Key::Network(name) => drop(self.networks.remove(&name)),
            Key::Slice(network, slice) => {
                if let Some(slices) = self.slices.get_mut(&network) {
                    slices.remove(&slice);
                    if slices.is_empty() {
                        self.slices.remove(&network);
                    }
                }
            }
        }
    }

    /// What the node `me` remembers of networks and of who has which slice of them: what counts where etcd's records of these make no
    /// sense.
    pub(super) fn of_memory(me: &str, cluster: &Cluster) -> Self {
        let mut model = Self { me: me.to_owned(), ..Self::default() };
        let mut remember = |key: &Key, value: serde_json::Result<Vec<u8>>| {
            // Records are structs of numbers and texts, which can all be written.
            let _ = model.put(&key.to_string(), &value.unwrap_or_default(), Version::default());
        };
        for (name, network) in &cluster.networks {
            remember(&Key::Network(name.clone()), serde_json::to_vec(network));
        }
        for (prefix, slice) in &cluster.slices {
            let record = SliceRecord { node: slice.node.clone() };
            remember(&Key::Slice(slice.network.clone(), *prefix), serde_json::to_vec(&record));
        }
        model
    }

    /// From now on nobody knows when its records were made.
    pub(super) fn forget_ages(&mut self) {
        self.counter.iter_mut().for_each(|stored| stored.created = UNKNOWN);
        self.nodes.values_mut().for_each(|stored| stored.created = UNKNOWN);
        self.networks.values_mut().for_each(|stored| stored.created = UNKNOWN);
        let slices = self.slices.values_mut().flat_map(BTreeMap::values_mut);
        slices.for_each(|stored| stored.created = UNKNOWN);
    }

    /// The node whose own records always find room.
    #[cfg(test)]
    pub(super) fn me(&self) -> &str {
        &self.me
    }

    /// All is read.
    pub(super) fn complete(&mut self) {
        self.room.complete();
    }

    /// How many records found no room.
    pub(super) fn left_out(&self) -> usize {
        self.room.left_out()
    }

    /// Whether there is room now that there was not when records were left out.
    pub(super) fn has_room_again(&self) -> bool {
        self.room.is_free_again()
    }

    /// What the record at a key takes of the room, if there is one.
    fn held(&self, key: &Key) -> Option<(Kind, usize)> {
        match key {
            Key::LastNetwork => self.counter.as_ref().map(|stored| stored.place),
            Key::Node(name) => self.nodes.get(name).map(|stored| stored.place),
            Key::Network(name) => self.networks.get(name).map(|stored| stored.place),
            Key::Slice(network, slice) => {
                self.slices.get(network).and_then(|slices| slices.get(slice)).map(|stored| stored.place)
            }
        }
    }

    /// Of which kind a record is that comes anew. (All networks come before all slices, where all is read.)
    fn kind(&self, key: &Key, record: Option<&Record>) -> Kind {
        match key {
            Key::LastNetwork => Kind::Counter,
            Key::Node(name) if *name == self.me => Kind::Own,
            Key::Node(_) => Kind::Node,
            Key::Network(_) => Kind::Network,
            Key::Slice(name, slice) => {
                let network = self.networks.get(name).and_then(|stored| stored.record.as_ref());
                let is_one =
                    network.is_some_and(|it| it.subnet.contains(slice) && it.slice == slice.prefix_len());
                match record {
                    _ if !is_one => Kind::Stray,
                    Some(Record::Slice(record)) if record.node == self.me => Kind::Own,
                    _ => Kind::Slice,
                }
            }
        }
    }

    /// The cluster that the records describe, and those of them that do not count.
    pub(super) fn cluster(&self) -> (Cluster, Vec<Problem>) {
        let (mut cluster, mut problems) = (Cluster::default(), Vec::new());
        problems.extend(self.counter.iter().filter_map(|stored| stored.problem(|| Key::LastNetwork)));
        self.derive_nodes(&mut cluster, &mut problems);
        self.derive_networks(&mut cluster, &mut problems);
        self.derive_slices(&mut cluster, &mut problems);
        (cluster, problems)
    }

    fn derive_nodes(&self, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
        let mut owners: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        for (name, stored) in by_age(&self.nodes) {
            let key = || Key::Node(name.clone());
            problems.extend(stored.problem(key));
            let Some(node) = &stored.record else { continue };
            let what = if let Some(owner) = owners.get(&node.registration.address) {
                format!("its address {} is that of node {owner}", node.registration.address)
            } else if cluster.nodes.len() >= MAX_NODES as usize {
                format!("there is room for {MAX_NODES} nodes only")
            } else {
                owners.insert(node.registration.address, name);
                cluster.nodes.insert(name.clone(), node.registration.clone());
                continue;
            };
            problems.push(Problem { key: key(), revision: stored.revision, what });
        }
    }

    fn derive_networks(&self, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
        let mut numbers: BTreeMap<u32, &str> = BTreeMap::new();
        let mut subnets = Subnets::default();
        for (name, stored) in by_age(&self.networks) {
            let key = || Key::Network(name.clone());
            problems.extend(stored.problem(key));
            let Some(shared) = &stored.record else { continue };
            let what = if let Some(other) = numbers.get(&shared.number) {
                format!("its number {} is that of network {other}", shared.number)
            } else if let Some((own, other)) = subnets.overlapping(&shared.subnets()) {
                format!("its subnet {own} overlaps {other}")
            } else {
                numbers.insert(shared.number, name);
                subnets.0.extend(shared.subnets());
                cluster.networks.insert(name.clone(), shared.clone());
                continue;
            };
            problems.push(Problem { key: key(), revision: stored.revision, what });
        }
    }

    fn derive_slices(&self, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
        for (name, slices) in &self.slices {
            let network = cluster.networks.get(name);
            for (slice, stored) in slices {
                let key = || Key::Slice(name.clone(), *slice);
                problems.extend(stored.problem(key));
                let Some(record) = &stored.record else { continue };
                let what = match network {
                    None => format!("there is no network {name}"),
                    Some(network) if !network.subnet.contains(slice) => {
                        format!("it is not within {}", network.subnet)
                    }
                    Some(network) if network.slice != slice.prefix_len() => {
                        format!("slices of network {name} are /{}", network.slice)
                    }
                    Some(_) => {
                        let node = record.node.clone();
                        cluster.slices.insert(*slice, Slice { network: name.clone(), node });
                        continue;
                    }
                };
                problems.push(Problem { key: key(), revision: stored.revision, what });
            }
        }
    }
}

/// Records of one kind, with those first that were there first: these keep what others want too, whatever they are called.
fn by_age<T>(records: &BTreeMap<String, Stored<T>>) -> Vec<(&String, &Stored<T>)> {
    let mut records: Vec<_> = records.iter().collect();
    records.sort_by_key(|(name, stored)| (stored.created, *name));
    records
}

/// What shows that a value is not of the network that was at its key, though nobody has removed that. In words.
fn another_network(old: &SharedNetwork, new: &SharedNetwork) -> Option<String> {
    let subnets = |network: &SharedNetwork| pair::text(network.subnet, network.subnet6);
    let moved = old.subnet != new.subnet || old.subnet6.is_some() && new.subnet6 != old.subnet6;
    let text =
        |what: &str, old: String, new: String| Some(format!("its {what} was {old}, and cannot become {new}"));
    if old.number != new.number {
        text("number", old.number.to_string(), new.number.to_string())
    } else if moved {
        text("subnet", subnets(old), subnets(new))
    } else if old.slice != new.slice {
        text("slice", format!("/{}", old.slice), format!("/{}", new.slice))
    } else {
        None
    }
}

/// Subnets that do not overlap, by family and first address.
#[derive(Default)]
struct Subnets(BTreeSet<IpNet>);

impl Subnets {
    /// One of `subnets`, and one of these that has addresses in common with it.
    fn overlapping(&self, subnets: &[IpNet]) -> Option<(IpNet, IpNet)> {
        subnets.iter().find_map(|subnet| {
            // Where prefixes overlap, one contains the other: the one that begins first is a neighbour.
            let before = self.0.range(..=*subnet).next_back();
            let behind = self.0.range(*subnet..).next();
            let mut near = before.into_iter().chain(behind).copied();
            near.find(|other| any_overlap(*other, *subnet)).map(|other| (*subnet, other))
        })
    }
}
