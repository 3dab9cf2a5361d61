//! The networks of a cluster: made what all nodes have agreed on.

use std::collections::BTreeMap;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};

use super::{NetworkState, State, enumerate};
use crate::{
    cluster::{Cluster, SharedNetwork},
    network::{Definition, Network, Origin},
    node::Occupied,
    pair,
    store::{Change, Kind},
};

/// What [`State::synchronise`] has done.
#[derive(Debug, Default, PartialEq)]
pub struct Synchronised {
    /// Networks that are gone, or have another subnet now: their gateways are to be removed.
    pub removed: Vec<Network>,
    /// Whether there is anything new: gateways and routes are to be set.
    pub changed: bool,
    /// What to commit.
    pub changes: Vec<Change>,
    /// What cannot be as the cluster has it, in words.
    pub problems: Vec<String>,
}

impl State {
    /// Whether the cluster has a network that this node has not, or has otherwise: then [`State::synchronise`] needs to
    /// know what the host itself uses.
    #[must_use]
    pub fn lacks_network_of(&self, cluster: &Cluster) -> bool {
        cluster.networks.iter().any(|(name, shared)| {
            let state = self.networks.get(name);
            !state
                .is_some_and(|state| same(&state.network, shared) && state.network.subnet6 == shared.subnet6)
        })
    }

    /// Makes the networks those of the cluster. One that has endpoints here is never taken from them: that it should go,
    /// or be another one, is a problem, until they are detached.
    ///
    /// `configured` are those of the node's own file, which says how their links are; `node` is the node's name.
    ///
    /// # Errors
    /// A record cannot be written.
    pub fn synchronise(
        &mut self,
        cluster: &Cluster,
        node: &str,
        configured: &BTreeMap<String, Definition>,
        occupied: &Occupied,
    ) -> Result<Synchronised> {
        let mut done = Synchronised::default();
        self.drop_foreign(cluster, configured, &mut done);

        let mut slices: BTreeMap<&str, Ipv4Net> = BTreeMap::new();
        for (prefix, slice) in cluster.slices.iter().rev().filter(|(_, slice)| slice.node == node) {
            slices.insert(&slice.network, *prefix);
        }
        for (name, shared) in &cluster.networks {
            let slice = slices.get(name.as_str()).copied();
            let wanted = network(name, shared, configured.get(name));
            if let Err(error) = self.check_new(&wanted, occupied) {
                done.problems.push(format!("network `{name}` of the cluster is not available here: {error}"));
                continue;
            }
            if let Some(state) = self.networks.get_mut(name) {
                if !same(&state.network, shared) {
                    continue; // Said already.
                }
                if let Err(error) = state.pool.set_slice(slice.or(state.pool.slice())) {
                    done.problems.push(format!("network `{name}`: {error}, held since before: detach it"));
                }
                let wanted = Network { slice: state.pool.slice(), ..wanted };
                if state.network != wanted {
                    done.changes.push(Change::put(Kind::Network, name, &wanted)?);
                    done.changed = true;
                    state.network = wanted;
                }
                continue;
            }
            let wanted = Network { slice, ..wanted };
            done.changes.push(Change::put(Kind::Network, name, &wanted)?);
            done.changed = true;
            self.networks.insert(name.clone(), NetworkState::new(wanted, &self.share));
        }
        Ok(done)
    }

    /// Whether the subnets that this node does not have yet are free: all of a network that is new, or its IPv6 one.
    fn check_new(&self, wanted: &Network, occupied: &Occupied) -> Result<()> {
        let present = self.networks.get(&wanted.name).map(|state| &state.network);
        if present.is_some_and(|present| present.number != wanted.number || present.subnet != wanted.subnet) {
            return Ok(()); // Another one, which is said already.
        }
        let is_new = |subnet: &IpNet| present.is_none_or(|present| !present.subnets().contains(subnet));
        let new: Vec<IpNet> = wanted.subnets().into_iter().filter(is_new).collect();
        self.check_free(&new, None, occupied)
    }

    /// Removes the networks that the cluster has not, or has as another one.
    fn drop_foreign(
        &mut self,
        cluster: &Cluster,
        configured: &BTreeMap<String, Definition>,
        done: &mut Synchronised,
    ) {
        let foreign = |network: &Network| match cluster.networks.get(&network.name) {
            Some(shared) => !same(network, shared),
            // The configuration's are made in the cluster again, if it has lost them.
            None => !configured.contains_key(&network.name),
        };
        let foreign: Vec<Network> =
            self.networks.values().map(|state| &state.network).filter(|n| foreign(n)).cloned().collect();
        for network in foreign {
            let name = &network.name;
            let users = self.users(name);
            if users.is_empty() {
                done.changes.extend(self.remove_network(name));
                done.changed = true;
                done.removed.push(network);
            } else {
                let what = match cluster.networks.get(name) {
                    Some(other) => {
                        let subnets = pair::text(other.subnet, other.subnet6);
                        format!("is another one in the cluster ({subnets})")
                    }
                    None => "is gone from the cluster".to_owned(),
                };
                let users = enumerate(&users);
                done.problems.push(format!("network `{name}` {what}, but is in use by {users}: detach them"));
            }
        }
    }
}

/// Whether a network here is the cluster's. One without IPv6 can still get it.
fn same(network: &Network, shared: &SharedNetwork) -> bool {
    (network.number, network.subnet) == (shared.number, shared.subnet)
        && network.subnet6.is_none_or(|subnet6| shared.subnet6 == Some(subnet6))
}

/// A network of the cluster as this node has it.
fn network(name: &str, shared: &SharedNetwork, configured: Option<&Definition>) -> Network {
    let own = configured.filter(|definition| definition.subnet == shared.subnet);
    Network {
        name: name.to_owned(),
        number: shared.number,
        subnet: shared.subnet,
        subnet6: shared.subnet6,
        masquerade: own.map_or(shared.masquerade, |own| own.masquerade),
        link: own.map_or(shared.link, |own| own.link),
        mtu: own.map_or(shared.mtu, |own| own.mtu),
        big_tcp: own.map_or(shared.big_tcp, |own| own.big_tcp),
        origin: if own.is_some() { Origin::Config } else { Origin::Cluster },
        slice: None,
        lan: None,
    }
}
