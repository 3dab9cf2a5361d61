//! What is in etcd, as far as it was read, and the cluster that it describes.
//!
//! The records are kept as they are, also those that make no sense beside the others: what a slice belongs to may come
//! later than the slice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};

use super::keys::{Counter, Key, NodeRecord, Record, SliceRecord};
use crate::{
    bpf::MAX_NODES,
    cluster::{Cluster, SharedNetwork, Slice},
    network::any_overlap,
};

/// What etcd knows of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// The revision at which it came to be.
    pub(super) created: i64,
    /// The revision at which it was last changed.
    pub(super) revision: i64,
    /// The lease that it goes with; 0: none.
    pub(super) lease: i64,
}

impl Version {
    pub(super) fn of(record: &etcd_client::KeyValue) -> Self {
        Self { created: record.create_revision(), revision: record.mod_revision(), lease: record.lease() }
    }
}

/// A record and what etcd knows of its key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored<T> {
    /// The revision at which it came to be.
    pub(super) created: i64,
    /// The revision at which it was last changed.
    pub(super) revision: i64,
    /// The lease that it goes with; 0: none.
    pub(super) lease: i64,
    /// What is there; none: nothing that is understood.
    pub(super) record: Option<T>,
}

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
}

/// A record that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) key: Key,
    pub(super) revision: i64,
    /// Why.
    pub(super) what: String,
}

impl<T> Stored<T> {
    fn new(version: Version, record: Option<Record>, narrow: impl Fn(Record) -> Option<T>) -> Self {
        let Version { created, revision, lease } = version;
        Self { created, revision, lease, record: record.and_then(narrow) }
    }
}

impl Model {
    /// Takes in a record.
    ///
    /// # Errors
    /// It is not understood. That the key exists is taken in nevertheless.
    pub(super) fn put(&mut self, key: &str, value: &[u8], version: Version) -> Result<()> {
        let key = Key::parse(key)?;
        let (record, result) = match key.read(value) {
            Ok(record) => (Some(record), Ok(())),
            Err(error) => (None, Err(error)),
        };
        match key {
            Key::LastNetwork => {
                let narrow = |record| if let Record::Counter(it) = record { Some(it) } else { None };
                self.counter = Some(Stored::new(version, record, narrow));
            }
            Key::Node(name) => {
                let narrow = |record| if let Record::Node(it) = record { Some(it) } else { None };
                self.nodes.insert(name, Stored::new(version, record, narrow));
            }
            Key::Network(name) => {
                let narrow = |record| if let Record::Network(it) = record { Some(it) } else { None };
                self.networks.insert(name, Stored::new(version, record, narrow));
            }
            Key::Slice(network, slice) => {
                let narrow = |record| if let Record::Slice(it) = record { Some(it) } else { None };
                let slices = self.slices.entry(network).or_default();
                slices.insert(slice, Stored::new(version, record, narrow));
            }
        }
        result
    }

    /// Takes in that a key is gone.
    pub(super) fn delete(&mut self, key: &str) {
        match Key::parse(key) {
            Ok(Key::LastNetwork) => self.counter = None,
            Ok(Key::Node(name)) => drop(self.nodes.remove(&name)),
            Ok(Key::Network(name)) => drop(self.networks.remove(&name)),
            Ok(Key::Slice(network, slice)) => {
                if let Some(slices) = self.slices.get_mut(&network) {
                    slices.remove(&slice);
                    if slices.is_empty() {
                        self.slices.remove(&network);
                    }
                }
            }
            Err(_) => {}
        }
    }

    /// The cluster that the records describe, and those of them that do not count.
    pub(super) fn cluster(&self) -> (Cluster, Vec<Problem>) {
        let (mut cluster, mut problems) = (Cluster::default(), Vec::new());
        self.derive_nodes(&mut cluster, &mut problems);
        self.derive_networks(&mut cluster, &mut problems);
        self.derive_slices(&mut cluster, &mut problems);
        (cluster, problems)
    }

    fn derive_nodes(&self, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
        let mut owners: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        // Who is there first keeps its address, whatever it is called.
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|(name, stored)| (stored.created, *name));
        for (name, stored) in nodes {
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
            problems.push(Problem { key: Key::Node(name.clone()), revision: stored.revision, what });
        }
    }

    fn derive_networks(&self, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
        let mut networks: Vec<_> = self
            .networks
            .iter()
            .filter_map(|(name, stored)| Some((stored.record.as_ref()?, name, stored.revision)))
            .collect();
        networks.sort_by_key(|(shared, name, _)| (shared.number, *name));
        let mut numbers: BTreeMap<u32, &str> = BTreeMap::new();
        let mut subnets = Subnets::default();
        for (shared, name, revision) in networks {
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
            problems.push(Problem { key: Key::Network(name.clone()), revision, what });
        }
    }

    fn derive_slices(&self, cluster: &mut Cluster, problems: &mut Vec<Problem>) {
        for (name, slices) in &self.slices {
            let network = cluster.networks.get(name);
            for (slice, stored) in slices {
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
                let key = Key::Slice(name.clone(), *slice);
                problems.push(Problem { key, revision: stored.revision, what });
            }
        }
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
