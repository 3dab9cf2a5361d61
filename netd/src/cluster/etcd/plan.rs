//! What this node does next, so that all that it has announced is in etcd.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use super::{
    keys::{Counter, Key, NodeRecord, SliceRecord},
    model::Model,
    step::{Guard, Step},
    stored::Stored,
};
use crate::{
    cluster::{Announcement, Cluster, SharedNetwork},
    network::{self, Definition, slice_length},
    pair,
};

/// Who this node is.
#[derive(Clone, Debug, Default)]
pub(super) struct Me {
    /// Its name.
    pub(super) node: String,
    /// Tells it from others of that name.
    pub(super) id: String,
    /// Tells where it runs: a copy of its state runs elsewhere.
    pub(super) place: String,
    /// The leases that this process has had; the last is the present one.
    pub(super) leases: Vec<i64>,
    /// This process has had the name.
    pub(super) named: bool,
    /// Random, for an etcd without a counter.
    pub(super) fresh: String,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The next step; none: all is there that can be.
    pub(super) step: Option<Step>,
    /// What cannot be, in words.
    pub(super) refused: Vec<String>,
    /// Another node has this one's name.
    pub(super) taken: bool,
    /// It may be this one itself, before its machine was restarted: its lease then ends.
    pub(super) may_return: bool,
}

/// The next step towards what was announced.
pub(super) fn next(model: &Model, cluster: &Cluster, me: &Me, wanted: &Announcement) -> Plan {
    let mut plan = Plan::default();
    match me.registration(model, wanted) {
        Own::Taken { by, has_our_state, may_return } => {
            let name = &me.node;
            let copy = if has_our_state { ", of whose state directory this one's is a copy" } else { "" };
            plan.refused
                .push(format!("node name `{name}` is taken in the cluster by {by}{copy}: set node.name"));
            // What the cluster has for that name is the other's.
            (plan.taken, plan.may_return) = (true, may_return);
            return plan;
        }
        Own::Step(step) => plan.step = Some(step),
        Own::Done => {}
    }
    me.address(cluster, wanted, &mut plan);
    networks(model, cluster, me, wanted, &mut plan);
    slices(model, cluster, me, wanted, &mut plan);
    plan
}

/// How it is about a node's own registration.
enum Own {
    Done,
    Step(Step),
    /// By a node at that address.
    Taken {
        by: Ipv4Addr,
        has_our_state: bool,
        may_return: bool,
    },
}

impl Me {
    /// The present lease; 0: none.
    pub(super) fn lease(&self) -> i64 {
        self.leases.last().copied().unwrap_or_default()
    }

    /// The key of its registration.
    pub(super) fn key(&self) -> Key {
        Key::Node(self.node.clone())
    }

    /// Whether a registration of this node's name is its own.
    pub(super) fn owns(&self, stored: &Stored<NodeRecord>, address: Option<Ipv4Addr>) -> bool {
        let Some(record) = &stored.record else { return true };
        if self.leases.contains(&stored.lease) {
            return true;
        }
        let has_our_state = record.id == self.id;
        let has_our_address = address == Some(record.registration.address);
        // An earlier process of this node's, before a restart: of one machine and boot and namespace at least the state or the
        // address is the same; where the machine was restarted, both. One that has our state only is a copy of this node, or
        // this node before a restart that has given it another address: its lease tells.
        let same = match record.place == self.place {
            true => has_our_state || has_our_address,
            false => has_our_state && has_our_address,
        };
        // But not one that has taken the name from this process.
        same && (!self.named || stored.lease == 0)
    }

    fn registration(&self, model: &Model, wanted: &Announcement) -> Own {
        let key = self.key();
        let stored = model.nodes.get(&self.node);
        let address = wanted.registration.as_ref().map(|registration| registration.address);
        if let Some(stored) = stored
            && let Some(there) = &stored.record
            && !self.owns(stored, address)
        {
            let by = there.registration.address;
            let has_our_state = there.id == self.id;
            let may_return = (has_our_state || address == Some(by)) && !self.named;
            return Own::Taken { by, has_our_state, may_return };
        }
        let revision = stored.map_or(0, |stored| stored.revision);
        match (&wanted.registration, stored) {
            (None, None) => Own::Done,
            (None, Some(_)) => Own::Step(Step::default().at(&key, revision).delete(&key)),
            (Some(registration), stored) => {
                let record = NodeRecord {
                    id: self.id.clone(),
                    place: self.place.clone(),
                    registration: registration.clone(),
                };
                match stored {
                    Some(Stored { lease, record: Some(there), wrong: None, .. })
                        if *lease == self.lease() && *there == record =>
                    {
                        Own::Done
                    }
                    _ => Own::Step(Step::default().at(&key, revision).put(&key, &record, self.lease())),
                }
            }
        }
    }

    /// Tells if another node has the address, which then counts as the other's.
    fn address(&self, cluster: &Cluster, wanted: &Announcement, plan: &mut Plan) {
        let Some(registration) = &wanted.registration else { return };
        let address = registration.address;
        let mut others = cluster.nodes.iter().filter(|(name, _)| **name != self.node);
        if let Some((name, _)) = others.find(|(_, node)| node.address == address) {
            plan.refused.push(format!("address {address} is that of node `{name}` too: set node.address"));
        }
    }

    /// Only as long as the name is this node's.
    fn guard(&self, step: Step, wanted: &Announcement) -> Step {
        match wanted.registration {
            Some(_) => step.when(Guard::Lease(self.key().to_string(), self.lease())),
            None => step.at(&self.key(), 0),
        }
    }
}

fn networks(model: &Model, cluster: &Cluster, me: &Me, wanted: &Announcement, plan: &mut Plan) {
    let mut networks: Vec<_> = wanted.networks.iter().collect();
    // In the order of their numbers, so that an empty etcd gets them one by one.
    networks.sort_by_key(|(definition, number)| (number.unwrap_or(u32::MAX), &definition.name));
    for (definition, number) in networks {
        let key = |key: &str| format!("networks.{}.{key}", definition.name);
        if let Some(shared) = cluster.networks.get(&definition.name) {
            let there = format!("the cluster has network `{}` with", definition.name);
            let gets_ipv6 = shared.subnet6.is_none() && definition.subnet6.is_some();
            if shared.subnet != definition.subnet || shared.subnet6 != definition.subnet6 && !gets_ipv6 {
                let subnets = pair::text(shared.subnet, shared.subnet6);
                plan.refused.push(format!("{}: {there} {subnets}", key("subnets")));
            } else if definition.slice.is_some_and(|length| length != shared.slice) {
                plan.refused.push(format!("{}: {there} slices of /{}", key("slice"), shared.slice));
            } else if gets_ipv6 {
                match overlapping(cluster, definition) {
                    Some(overlap) => plan.refused.push(format!("{}: {overlap}", key("subnets"))),
                    None => drop(plan.step.get_or_insert_with(|| add_ipv6(model, me, definition, shared))),
                }
            }
        } else if let Some(overlap) = overlapping(cluster, definition) {
            plan.refused.push(format!("{}: {overlap}", key("subnets")));
        } else if model.networks.contains_key(&definition.name) {
            plan.refused.push(format!(
                "networks.{name}: what etcd has of network `{name}` does not count: `netd network rm {name}` removes it",
                name = definition.name
            ));
        } else {
            match create(model, me, definition, *number) {
                Some((step, _)) => drop(plan.step.get_or_insert(step)),
                None => plan.refused.push(format!("networks.{}: {NO_NUMBER}", definition.name)),
            }
        }
    }
}

/// Why there can be no more networks.
pub(super) const NO_NUMBER: &str = "all 65535 numbers of networks were given";

/// In words, the network of the cluster that this one overlaps.
pub(super) fn overlapping(cluster: &Cluster, definition: &Definition) -> Option<String> {
    let mut others = cluster.networks.iter().filter(|(name, _)| **name != definition.name);
    others.find_map(|(name, shared)| {
        let (own, its) = network::overlapping(&definition.subnets(), &shared.subnets())?;
        Some(format!("{own} overlaps {its} of network `{name}` of the cluster"))
    })
}

/// Gives a network the IPv6 subnet of its definition: those of a netd that knew only IPv4 have none. As all creations do it
/// writes the counter, so that no two networks get one subnet.
fn add_ipv6(model: &Model, me: &Me, definition: &Definition, shared: &SharedNetwork) -> Step {
    let stored = model.counter.as_ref();
    let start = Counter { store: me.fresh.clone(), ..Counter::default() };
    let counter = stored.and_then(|stored| stored.record.clone()).unwrap_or(start);
    let key = Key::Network(definition.name.clone());
    let network = SharedNetwork { subnet6: definition.subnet6, ..shared.clone() };
    let revision = model.networks.get(&definition.name).map_or(0, |stored| stored.revision);
    Step::default()
        .at(&Key::LastNetwork, stored.map_or(0, |stored| stored.revision))
        .at(&key, revision)
        .put(&Key::LastNetwork, &counter, 0)
        .put(&key, &network, 0)
}

/// Creates a network, with the number that it has already where that can be. None: there are no more numbers.
///
/// All creations write the counter, so of two at a time one is decided anew, and sees the other's subnet and number.
pub(super) fn create(
    model: &Model,
    me: &Me,
    definition: &Definition,
    number: Option<u32>,
) -> Option<(Step, SharedNetwork)> {
    let start = Counter { store: me.fresh.clone(), ..Counter::default() };
    let stored = model.counter.as_ref();
    let counter = stored.and_then(|stored| stored.record.clone()).unwrap_or(start);
    let there = model.networks.values().filter_map(|stored| Some(stored.record.as_ref()?.number));
    let used: BTreeSet<u32> = there.collect();
    let (number, counter) = counter.give(number, |number| used.contains(&number))?;
    let shared = SharedNetwork {
        number,
        subnet: definition.subnet,
        subnet6: definition.subnet6,
        slice: definition.slice.unwrap_or_else(|| slice_length(definition.subnet)),
        masquerade: definition.masquerade,
        link: definition.link,
        mtu: definition.mtu,
        big_tcp: definition.big_tcp,
    };
    let key = Key::Network(definition.name.clone());
    let step = Step::default()
        .at(&Key::LastNetwork, stored.map_or(0, |stored| stored.revision))
        .at(&key, 0)
        .put(&Key::LastNetwork, &counter, 0)
        .put(&key, &shared, 0);
    Some((step, shared))
}

/// A slice of each network that there is.
fn slices(model: &Model, cluster: &Cluster, me: &Me, wanted: &Announcement, plan: &mut Plan) {
    let own = cluster.slices.values().filter(|slice| slice.node == me.node);
    let have: BTreeSet<&str> = own.map(|slice| slice.network.as_str()).collect();
    for (name, shared) in &cluster.networks {
        if have.contains(name.as_str()) {
            continue;
        }
        let Some(network) = model.networks.get(name) else { continue };
        let none = BTreeMap::new();
        let taken = model.slices.get(name).unwrap_or(&none);
        match free_slice(shared, taken, wanted.slices.get(name).copied(), &me.node) {
            Some(slice) => {
                let step = Step::default()
                    .at(&Key::Network(name.clone()), network.revision)
                    .take(&Key::Slice(name.clone(), slice), &me.node);
                let step = me.guard(step, wanted);
                plan.step.get_or_insert(step);
            }
            None => plan.refused.push(format!(
                "all {} slices of network `{name}` are taken: `netd nodes` shows by whom, and `netd nodes rm NAME` \
                 frees those of a node that is gone",
                count(shared)
            )),
        }
    }
}

/// How many slices a network has.
fn count(shared: &SharedNetwork) -> u32 {
    1 << (shared.slice - shared.subnet.prefix_len())
}

/// A slice that nobody has: the one that the node had, or else the first from a place on that depends on the node, so that
/// nodes which start at the same time do not all try to get the same.
fn free_slice(
    shared: &SharedNetwork,
    taken: &BTreeMap<Ipv4Net, Stored<SliceRecord>>,
    earlier: Option<Ipv4Net>,
    node: &str,
) -> Option<Ipv4Net> {
    let fits = |slice: &Ipv4Net| {
        slice.prefix_len() == shared.slice && shared.subnet.contains(slice) && *slice == slice.trunc()
    };
    let earlier = earlier.filter(fits).filter(|slice| !taken.contains_key(slice));
    earlier.or_else(|| {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let count = count(shared);
        let start = u32::try_from(hasher.finish() % u64::from(count)).unwrap_or_default();
        let slice = |index: u32| {
            let first = shared.subnet.addr().to_bits() + (index << (32 - shared.slice));
            Ipv4Net::new(Ipv4Addr::from_bits(first), shared.slice).ok()
        };
        (start..count).chain(0..start).filter_map(slice).find(|slice| !taken.contains_key(slice))
    })
}
