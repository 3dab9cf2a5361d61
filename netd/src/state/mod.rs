//! The desired state in memory: which networks and endpoints there are, and the rules for making more of them.
//!
//! Nothing in here talks to the kernel or the store. Whatever changes the state also says what to commit, so that the
//! owner can commit first and carry out then.

mod slots;

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use self::slots::Slots;
use crate::{
    config::DEFAULT_NETWORK,
    endpoint::{Endpoint, LinkKind, NetnsRef, host_interface},
    ipam::Pool,
    names,
    network::{Definition, Network, Origin, overlap},
    node::Occupied,
    request::{AttachRequest, Refusal},
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
}

/// A network and its addresses.
#[derive(Clone, Debug)]
pub struct NetworkState {
    /// The network.
    pub network: Network,
    pool: Pool,
}

impl NetworkState {
    /// `slices` are the node's; a network without one is the node's as a whole.
    fn new(network: Network, slices: &[Ipv4Net]) -> Self {
        let slice = slices.iter().find(|slice| network.subnet.contains(*slice));
        let pool = Pool::within(network.subnet, slice.copied().unwrap_or(network.subnet));
        Self { network, pool }
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
    slices: Vec<Ipv4Net>,
    networks: BTreeMap<String, NetworkState>,
    endpoints: BTreeMap<String, Endpoint>,
    host_interfaces: HashSet<String>,
    slots: Slots,
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
}

impl State {
    /// A state with nothing in it, of a node with these slices of the networks.
    #[must_use]
    pub fn new(facts: Facts, slices: &[Ipv4Net]) -> Self {
        Self {
            facts,
            slices: slices.to_vec(),
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            host_interfaces: HashSet::new(),
            slots: Slots::new(MAX_ENDPOINTS),
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
        slices: &[Ipv4Net],
        alive: impl Fn(&Endpoint) -> bool,
    ) -> Result<(Self, Vec<Change>)> {
        let mut state = Self::new(facts, slices);
        for record in records.iter().filter(|record| record.kind == Kind::Network) {
            let network: Network = record.read()?;
            crate::network::check_subnet(network.subnet)
                .with_context(|| format!("network `{}` of the stored state", network.name))?;
            let slices = &state.slices;
            state.networks.insert(record.name.clone(), NetworkState::new(network, slices));
        }
        for record in records.iter().filter(|record| record.kind == Kind::Cursor) {
            if let Some(network) = state.networks.get_mut(&record.name) {
                network.pool.set_cursor(record.read()?);
            }
        }
        let mut changes = Vec::new();
        for record in records.iter().filter(|record| record.kind == Kind::Endpoint) {
            let endpoint: Endpoint = record.read()?;
            state.insert(endpoint)?;
        }
        let gone: Vec<String> = state
            .endpoints
            .values()
            .filter(|endpoint| !alive(endpoint))
            .map(|endpoint| endpoint.name.clone())
            .collect();
        for name in gone {
            changes.extend(state.remove(&name).map(|(_, changes)| changes).unwrap_or_default());
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
        network.pool.take(endpoint.address, name).with_context(what)?;
        self.slots.claim(endpoint.slot).with_context(what)?;
        self.host_interfaces.insert(endpoint.host_interface.clone());
        self.endpoints.insert(name.clone(), endpoint);
        Ok(())
    }

    /// Makes the networks of the configuration file those of the file. Returns the networks that go, and what to commit.
    ///
    /// # Errors
    /// A network would be taken from endpoints that use it, or overlaps another one or the host's own network. The state
    /// is of no use then.
    pub fn configure<'a>(
        &mut self,
        definitions: impl Iterator<Item = &'a Definition>,
        occupied: &Occupied,
    ) -> Result<(Vec<Network>, Vec<Change>)> {
        let wanted: BTreeMap<&str, &Definition> = definitions.map(|d| (d.name.as_str(), d)).collect();
        let (mut removed, mut changes) = (Vec::new(), Vec::new());

        let configured: Vec<Network> = self
            .networks
            .values()
            .map(|state| &state.network)
            .filter(|network| network.origin == Origin::Config)
            .cloned()
            .collect();
        for network in configured {
            let name = &network.name;
            match wanted.get(name.as_str()) {
                None => {
                    self.check_unused(name, "put it back into the configuration file, or detach them first")?;
                    changes.extend(self.remove_network(name));
                    removed.push(network);
                }
                Some(definition) if definition.subnet != network.subnet => {
                    let mend =
                        format!("leave networks.{name}.subnets at {}, or detach them first", network.subnet);
                    self.check_unused(name, &mend)?;
                    changes.extend(self.remove_network(name));
                    removed.push(network);
                }
                Some(_) => {}
            }
        }

        for (name, definition) in wanted {
            let number = match self.networks.get(name).map(|state| &state.network) {
                Some(network) if network.origin == Origin::Command => bail!(
                    "networks.{name}: `netd network create` has made a network of that name: \
                     remove it with `netd network rm {name}`, or choose another name"
                ),
                Some(network) => Some(network.number),
                None => None,
            };
            if number.is_none() {
                self.check_subnet(definition, occupied)
                    .with_context(|| format!("networks.{name}.subnets"))?;
            }
            let number = number.unwrap_or_else(|| self.next_number());
            let network = Network::new(definition.clone(), number, Origin::Config);
            match self.networks.get_mut(name) {
                Some(state) if state.network == network => continue,
                Some(state) => state.network = network.clone(),
                None => drop(
                    self.networks.insert(name.to_owned(), NetworkState::new(network.clone(), &self.slices)),
                ),
            }
            changes.push(Change::put(Kind::Network, name, &network)?);
        }
        changes.push(self.put_facts()?);
        Ok((removed, changes))
    }

    fn check_unused(&self, network: &str, mend: &str) -> Result<()> {
        let users = self.users(network);
        if !users.is_empty() {
            bail!("network `{network}` is in use by {}: {mend}", enumerate(&users));
        }
        Ok(())
    }

    fn check_subnet(&self, definition: &Definition, occupied: &Occupied) -> Result<()> {
        let subnet = definition.subnet;
        let mut others = self.networks.values().map(|state| &state.network);
        if let Some(other) = others.find(|other| overlap(other.subnet, subnet)) {
            bail!("{subnet} overlaps {} of network `{}`", other.subnet, other.name);
        }
        if let Some(holder) = occupied.holder(subnet) {
            bail!("{subnet} overlaps {holder}: choose a subnet that this host does not use");
        }
        Ok(())
    }

    fn next_number(&mut self) -> u32 {
        let number = self.facts.next_network;
        self.facts.next_network += 1;
        number
    }

    fn put_facts(&self) -> Result<Change> {
        Change::put(Kind::Node, FACTS, &self.facts)
    }

    /// Adds a network.
    ///
    /// # Errors
    /// The name is taken, or the subnet overlaps another network or the host's own.
    pub fn create_network(
        &mut self,
        definition: Definition,
        occupied: &Occupied,
    ) -> Result<(Network, Vec<Change>), Refusal> {
        let name = definition.name.clone();
        if let Some(existing) = self.networks.get(&name) {
            let subnet = existing.network.subnet;
            return Err(Refusal::Conflict(format!("network `{name}` exists already ({subnet})")));
        }
        self.check_subnet(&definition, occupied).map_err(|error| Refusal::Conflict(error.to_string()))?;
        let network = Network::new(definition, self.next_number(), Origin::Command);
        let changes = vec![Change::put(Kind::Network, &name, &network)?, self.put_facts()?];
        self.networks.insert(name, NetworkState::new(network.clone(), &self.slices));
        Ok((network, changes))
    }

    /// Whether a network can be removed.
    ///
    /// # Errors
    /// It does not exist, is in use, or is the configuration file's.
    pub fn check_removable(&self, name: &str) -> Result<&Network, Refusal> {
        let network = self.network(name)?;
        if network.origin == Origin::Config {
            return Err(Refusal::Conflict(format!(
                "network `{name}` is defined in the configuration file: remove it there and restart netd"
            )));
        }
        let users = self.users(name);
        if !users.is_empty() {
            let users = enumerate(&users);
            return Err(Refusal::Conflict(format!(
                "network `{name}` is in use by {users}: detach them first"
            )));
        }
        Ok(network)
    }

    /// Removes a network, and returns what to commit.
    pub fn remove_network(&mut self, name: &str) -> Vec<Change> {
        self.networks.remove(name);
        vec![Change::delete(Kind::Network, name), Change::delete(Kind::Cursor, name)]
    }

    /// Puts a network back that could not be removed, or removed in the store.
    pub fn restore_network(&mut self, network: Network) {
        self.networks.insert(network.name.clone(), NetworkState::new(network, &self.slices));
    }

    /// Names of the endpoints of a network. Walks over all endpoints: for errors only.
    fn users(&self, network: &str) -> Vec<&str> {
        if self.networks.get(network).is_none_or(|state| state.endpoints() == 0) {
            return Vec::new();
        }
        self.endpoints.values().filter(|e| e.network == network).map(|e| e.name.as_str()).collect()
    }

    /// Checks what can be checked of a request before its namespace is looked at.
    ///
    /// # Errors
    /// The name cannot be one or is taken, there is no such network, or the address is not free.
    pub fn check_attach(&self, request: &AttachRequest) -> Result<(), Refusal> {
        names::check(&request.name).map_err(|error| Refusal::Invalid(format!("endpoint name: {error}")))?;
        if let Some(existing) = self.endpoints.get(&request.name) {
            return Err(Refusal::Conflict(format!(
                "endpoint `{}` exists already ({} in network `{}`): detach it first, or choose another name",
                existing.name, existing.address, existing.network
            )));
        }
        let network = self.network(self.network_of(request))?;
        if let Some(address) = chosen(request)? {
            self.check_address(network, address)?;
        }
        Ok(())
    }

    fn check_address(&self, network: &Network, address: Ipv4Addr) -> Result<(), Refusal> {
        let pool = &self.networks[&network.name].pool;
        if let Err(error) = pool.usable(address) {
            return Err(Refusal::Invalid(format!("{error} (network `{}`)", network.name)));
        }
        match pool.holder(address) {
            Some(holder) => Err(Refusal::Conflict(format!("{address} is in use by endpoint `{holder}`"))),
            None => Ok(()),
        }
    }

    /// Makes the endpoint that was asked for. Returns it with what to commit; [`Self::remove`] takes it back.
    ///
    /// # Errors
    /// As [`Self::check_attach`]; and there may be no address or no room left.
    pub fn attach(
        &mut self,
        request: &AttachRequest,
        place: Place,
    ) -> Result<(Endpoint, Vec<Change>), Refusal> {
        self.check_attach(request)?;
        let name = &request.name;
        let slot = self.slots.take().ok_or_else(|| {
            Refusal::Conflict(format!("this node has {MAX_ENDPOINTS} endpoints: there is room for no more"))
        })?;
        let network_name = self.network_of(request).to_owned();
        let state = self.networks.get_mut(&network_name).context("the network is gone")?;
        let address = match chosen(request)? {
            Some(address) => state.pool.take(address, name).map(|()| address),
            None => state.pool.take_next(name),
        };
        let address = match address {
            Ok(address) => address,
            Err(error) => {
                self.slots.free(slot);
                return Err(Refusal::Conflict(format!("{error} (network `{network_name}`)")));
            }
        };
        let endpoint = Endpoint {
            name: name.clone(),
            network: network_name.clone(),
            address,
            gateway: state.network.gateway(),
            netns: place.netns,
            link: LinkKind::choose(request.link.unwrap_or(state.network.link)),
            interface: place.interface,
            host_interface: place.host_interface,
            slot,
        };
        let changes = vec![
            Change::put(Kind::Endpoint, name, &endpoint)?,
            Change::put(Kind::Cursor, &network_name, &state.pool.cursor())?,
        ];
        self.host_interfaces.insert(endpoint.host_interface.clone());
        self.endpoints.insert(name.clone(), endpoint.clone());
        Ok((endpoint, changes))
    }

    /// Frees an endpoint with all it has. Returns it with what to commit.
    pub fn remove(&mut self, name: &str) -> Option<(Endpoint, Vec<Change>)> {
        let endpoint = self.endpoints.remove(name)?;
        self.host_interfaces.remove(&endpoint.host_interface);
        self.slots.free(endpoint.slot);
        let mut changes = vec![Change::delete(Kind::Endpoint, name)];
        if let Some(state) = self.networks.get_mut(&endpoint.network) {
            let before = state.pool.cursor();
            state.pool.free(endpoint.address);
            if state.pool.cursor() != before {
                changes.extend(Change::put(Kind::Cursor, &endpoint.network, &state.pool.cursor()));
            }
        }
        Some((endpoint, changes))
    }

    /// Takes an endpoint back whose removal could not be committed.
    ///
    /// # Errors
    /// Something of it has been given away since.
    pub fn restore(&mut self, endpoint: Endpoint) -> Result<()> {
        self.insert(endpoint)
    }

    /// Names that an endpoint's host side can have, best first, without those of other endpoints.
    pub fn host_interfaces<'a>(&'a self, endpoint: &'a str) -> impl Iterator<Item = String> + 'a {
        (0..8)
            .map(|attempt| host_interface(endpoint, attempt))
            .filter(|name| !self.host_interfaces.contains(name))
    }

    /// The node's facts.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The network of an attachment.
    fn network_of<'a>(&self, request: &'a AttachRequest) -> &'a str {
        request.network.as_deref().unwrap_or(DEFAULT_NETWORK)
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

    /// The subnets of all networks, with their numbers.
    pub fn subnets(&self) -> impl Iterator<Item = (Ipv4Net, u32)> {
        self.networks.values().map(|state| (state.network.subnet, state.network.number))
    }
}

/// The address that was asked for.
fn chosen(request: &AttachRequest) -> Result<Option<Ipv4Addr>, Refusal> {
    match request.addresses[..] {
        [] => Ok(None),
        [IpAddr::V4(address)] => Ok(Some(address)),
        [IpAddr::V6(address)] => {
            Err(Refusal::Invalid(format!("not supported yet: the IPv6 address {address}")))
        }
        [..] => Err(Refusal::Invalid("not supported yet: more than one address".to_owned())),
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
