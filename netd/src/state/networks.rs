//! Making and removing networks.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ipnet::{IpNet, Ipv4Net};

use super::{FACTS, NetworkState, State, enumerate};
use crate::{
    network::{Definition, Lan, Network, Origin, overlapping},
    node::Occupied,
    pair,
    request::Refusal,
    store::{Change, Kind},
};

impl State {
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
                // IPv6 can come to a network at any time; it is for those who are attached from then on.
                Some(definition)
                    if definition.subnet != network.subnet
                        || definition.lan != network.lan
                        || network.subnet6.is_some_and(|subnet6| definition.subnet6 != Some(subnet6)) =>
                {
                    let subnets = pair::text(network.subnet, network.subnet6);
                    let mend = format!("leave networks.{name}.subnets at {subnets}, or detach them first");
                    self.check_unused(name, &mend)?;
                    changes.extend(self.remove_network(name));
                    removed.push(network);
                }
                Some(_) => {}
            }
        }

        for (name, definition) in wanted {
            let present = self.networks.get(name).map(|state| &state.network);
            let is_new = |subnet: &IpNet| present.is_none_or(|present| !present.subnets().contains(subnet));
            let new: Vec<IpNet> = definition.subnets().into_iter().filter(is_new).collect();
            let number = match present {
                Some(network) if network.origin == Origin::Command => bail!(
                    "networks.{name}: `netd network create` has made a network of that name: \
                     remove it with `netd network rm {name}`, or choose another name"
                ),
                Some(network) => Some(network.number),
                None => None,
            };
            self.check_free(&new, definition.lan.as_ref(), occupied)
                .with_context(|| format!("networks.{name}.subnets"))?;
            let number = number.unwrap_or_else(|| self.next_number());
            let network = Network::new(definition.clone(), number, Origin::Config);
            match self.networks.get_mut(name) {
                Some(state) if state.network == network => continue,
                Some(state) => state.network = network.clone(),
                None => drop(
                    self.networks.insert(name.to_owned(), NetworkState::new(network.clone(), &self.share)),
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

    /// Whether new subnets overlap nothing.
    pub(super) fn check_free(&self, subnets: &[IpNet], lan: Option<&Lan>, occupied: &Occupied) -> Result<()> {
        for other in self.networks.values().map(|state| &state.network) {
            if let Some((own, its)) = overlapping(subnets, &other.subnets()) {
                bail!("{own} overlaps {its} of network `{}`", other.name);
            }
        }
        for subnet in subnets {
            if let Some(holder) = occupied.holder_beside(*subnet, lan.map(|lan| lan.parent.as_str())) {
                bail!("{subnet} overlaps {holder}: choose a subnet that this host does not use");
            }
        }
        Ok(())
    }

    fn next_number(&mut self) -> u32 {
        let number = self.facts.next_network;
        self.facts.next_network += 1;
        number
    }

    /// Gives networks that come from now on numbers from `first` on, if those are not the next ones anyway.
    pub fn number_from(&mut self, first: u32) {
        self.facts.next_network = self.facts.next_network.max(first);
    }

    /// Gives networks the numbers that the programs know their subnets by. Returns what to commit.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn renumber(&mut self, numbers: &BTreeMap<Ipv4Net, u32>) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (name, state) in &mut self.networks {
            let network = &mut state.network;
            if let Some(number) = numbers.get(&network.subnet).filter(|number| **number != network.number) {
                network.number = *number;
                changes.push(Change::put(Kind::Network, name, network)?);
            }
        }
        Ok(changes)
    }

    /// The facts, to be committed.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn put_facts(&self) -> Result<Change> {
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
        self.check_creatable(&definition, occupied)?;
        let name = definition.name.clone();
        let network = Network::new(definition, self.next_number(), Origin::Command);
        let changes = vec![Change::put(Kind::Network, &name, &network)?, self.put_facts()?];
        self.networks.insert(name, NetworkState::new(network.clone(), &self.share));
        Ok((network, changes))
    }

    /// Whether a network can be added.
    ///
    /// # Errors
    /// As [`Self::create_network`].
    pub fn check_creatable(&self, definition: &Definition, occupied: &Occupied) -> Result<(), Refusal> {
        let name = &definition.name;
        if let Some(existing) = self.networks.get(name) {
            let subnets = pair::text(existing.network.subnet, existing.network.subnet6);
            return Err(Refusal::Conflict(format!("network `{name}` exists already ({subnets})")));
        }
        self.check_free(&definition.subnets(), definition.lan.as_ref(), occupied)
            .map_err(|error| Refusal::Conflict(error.to_string()))
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
        self.networks.insert(network.name.clone(), NetworkState::new(network, &self.share));
    }

    /// Names of the endpoints of a network. Walks over all endpoints: for errors only.
    pub(super) fn users(&self, network: &str) -> Vec<&str> {
        if self.networks.get(network).is_none_or(|state| state.endpoints() == 0) {
            return Vec::new();
        }
        self.endpoints.values().filter(|e| e.network == network).map(|e| e.name.as_str()).collect()
    }
}
