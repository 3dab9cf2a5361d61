//! The desired state in memory: which networks and endpoints there are, and the rules for making more of them.
//!
//! Nothing in here talks to the kernel or the store. Whatever changes the state also says what to commit, so that the
//! owner can commit first and carry out then.

mod denied;
mod endpoints;
mod networks;
mod shared;

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, ensure};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

pub use self::shared::Synchronised;
use crate::{
    bpf::MAX_DENIED,
    endpoint::{Endpoint, NetnsRef},
    ipam::Pool,
    netlink::Before,
    network::Network,
    publish::Ports,
    request::Refusal,
    slots::Slots,
    store::{Change, Kind, Record},
};

/// Endpoints that one node can have. The datapath's maps have this size.
pub const MAX_ENDPOINTS: u32 = 16_384;

/// The name of the record of the node's [`Facts`].
const FACTS: &str = "facts";

/// What is kept about the node itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Marks the links of this state directory.
    pub identity: String,
    /// The boot that the endpoints are of: after another one, no namespace of theirs exists.
    pub boot: String,
    /// The ports that are reserved, inclusive.
    pub ports: (u16, u16),
    /// The number that the next network gets.
    pub next_network: u32,
    /// Tells this state directory's node from another one of its name. Random.
    #[serde(default)]
    pub id: String,
    /// What netd has changed of the host's settings in this boot, as it was before.
    #[serde(default)]
    pub before: Option<Before>,
}

/// Which part of each network this node gives addresses out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Share {
    /// These slices; a network without one is the node's as a whole.
    Fixed(Vec<Ipv4Net>),
    /// The slice that it got from its cluster; of a network without one, nothing.
    OfCluster,
}

impl Share {
    /// The part of a network.
    fn of(&self, network: &Network) -> Option<Ipv4Net> {
        match self {
            Self::Fixed(slices) => {
                let slice = slices.iter().find(|slice| network.subnet.contains(*slice));
                Some(slice.copied().unwrap_or(network.subnet))
            }
            Self::OfCluster => network.slice,
        }
    }
}

/// A network and its addresses.
#[derive(Clone, Debug)]
pub struct NetworkState {
    /// The network.
    pub network: Network,
    pool: Pool,
}

impl NetworkState {
    fn new(network: Network, share: &Share) -> Self {
        let pool = match &network.lan {
            Some(lan) => Pool::of_lan(network.subnet, lan.range),
            None => Pool::within(network.subnet, share.of(&network)),
        };
        Self { network, pool }
    }

    /// The part of it that this node gives addresses out of.
    #[must_use]
    pub fn slice(&self) -> Option<Ipv4Net> {
        self.pool.slice()
    }

    /// How many endpoints it has.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.pool.used()
    }
}

/// The desired state.
#[derive(Debug)]
pub struct State {
    facts: Facts,
    share: Share,
    networks: BTreeMap<String, NetworkState>,
    endpoints: BTreeMap<String, Endpoint>,
    host_interfaces: HashSet<String>,
    slots: Slots,
    denied: BTreeMap<IpNet, u32>,
    denied_slots: Slots,
    ports: Ports,
}

/// What an attachment needs besides what was asked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// The container's namespace.
    pub netns: NetnsRef,
    /// Name of the container's side.
    pub interface: String,
    /// Name of the host's side.
    pub host_interface: String,
    /// Why there can be no IPv6 address; none: there can be one.
    pub without_ipv6: Option<&'static str>,
    /// Addresses that are the host's own: no endpoint on its LAN can have one.
    pub reserved: Vec<std::net::Ipv4Addr>,
}

impl State {
    /// A state with nothing in it.
    #[must_use]
    pub fn new(facts: Facts, share: Share) -> Self {
        Self {
            facts,
            share,
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            host_interfaces: HashSet::new(),
            slots: Slots::new(MAX_ENDPOINTS),
            denied: BTreeMap::new(),
            denied_slots: Slots::new(MAX_DENIED),
            ports: Ports::default(),
        }
    }

    /// The node's facts, if the store has any.
    ///
    /// # Errors
    /// They are not of a shape that this version knows.
    pub fn facts_of(records: &[Record]) -> Result<Option<Facts>> {
        records.iter().find(|r| r.kind == Kind::Node && r.name == FACTS).map(Record::read).transpose()
    }

    /// The state that the store has, less the endpoints for which `alive` is false: they are freed. Returns it with the
    /// changes that this makes.
    ///
    /// # Errors
    /// The records do not fit together, or are not of a shape that this version knows.
    pub fn load(
        records: &[Record],
        facts: Facts,
        share: Share,
        alive: impl Fn(&Endpoint) -> bool,
    ) -> Result<(Self, Vec<Change>)> {
        let mut state = Self::new(facts, share);
        for record in records.iter().filter(|record| record.kind == Kind::Network) {
            let network: Network = record.read()?;
            crate::network::check_subnets(network.subnet, network.subnet6)
                .with_context(|| format!("network `{}` of the stored state", network.name))?;
            let network = NetworkState::new(network, &state.share);
            state.networks.insert(record.name.clone(), network);
        }
        for record in records.iter().filter(|record| record.kind == Kind::Cursor) {
            if let Some(network) = state.networks.get_mut(&record.name) {
                network.pool.set_cursor(record.read()?);
            }
        }
        state.load_denied(records)?;
        let mut changes = Vec::new();
        for record in records.iter().filter(|record| record.kind == Kind::Endpoint) {
            let endpoint: Endpoint = record.read()?;
            // One that is gone need not fit into what has been changed meanwhile.
            if alive(&endpoint) {
                state.insert(endpoint)?;
            } else {
                changes.push(Change::delete(Kind::Endpoint, &endpoint.name));
            }
        }
        Ok((state, changes))
    }

    fn insert(&mut self, endpoint: Endpoint) -> Result<()> {
        let name = &endpoint.name;
        let what = || format!("endpoint `{name}` of the stored state");
        let network = self
            .networks
            .get_mut(&endpoint.network)
            .with_context(|| format!("{}: no network `{}`", what(), endpoint.network))?;
        if let Some(address6) = endpoint.address6 {
            let right = network.network.address6(endpoint.address) == Some(address6);
            ensure!(right, "{}: {address6} does not go with {}", what(), endpoint.address);
        }
        self.ports.check(&endpoint.publish).map_err(anyhow::Error::msg).with_context(what)?;
        network.pool.take(endpoint.address, name).with_context(what)?;
        self.slots.claim(endpoint.slot).with_context(what)?;
        self.ports.take(name, &endpoint.publish);
        self.host_interfaces.insert(endpoint.host_interface.clone());
        self.endpoints.insert(name.clone(), endpoint);
        Ok(())
    }

    /// The node's facts.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A network by its name.
    ///
    /// # Errors
    /// There is none; the error says which there are.
    pub fn network(&self, name: &str) -> Result<&Network, Refusal> {
        self.networks.get(name).map(|state| &state.network).ok_or_else(|| {
            let names: Vec<&str> = self.networks.keys().map(String::as_str).collect();
            let mend = if names.is_empty() {
                "there is none; make one with `netd network create`".to_owned()
            } else {
                format!("there is {}", enumerate(&names))
            };
            Refusal::NotFound(format!("no network `{name}`: {mend}"))
        })
    }

    /// All networks, by name.
    pub fn networks(&self) -> impl ExactSizeIterator<Item = &NetworkState> {
        self.networks.values()
    }

    /// An endpoint by its name.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.get(name)
    }

    /// All endpoints, by name.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.endpoints.values()
    }

    /// The subnets of all networks that netd's programs serve, of both families, with their numbers.
    pub fn subnets(&self) -> impl Iterator<Item = (IpNet, u32)> {
        let networks = self.networks.values().map(|state| &state.network);
        let networks = networks.filter(|network| network.lan.is_none());
        networks.flat_map(|network| network.subnets().into_iter().map(|subnet| (subnet, network.number)))
    }

    /// The network that has a prefix as a part.
    #[must_use]
    pub fn network_around(&self, prefix: Ipv4Net) -> Option<&Network> {
        self.networks.values().map(|state| &state.network).find(|network| network.subnet.contains(&prefix))
    }
}

/// `a, b, c and 7 more`.
fn enumerate(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let quoted: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => quoted.join(", "),
        more => format!("{} and {more} more", quoted.join(", ")),
    }
}

#[cfg(test)]
mod tests;
