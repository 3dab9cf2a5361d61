//! Making and removing endpoints.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};

use super::{MAX_ENDPOINTS, Place, State};
use crate::{
    config::DEFAULT_NETWORK,
    endpoint::{Endpoint, LinkKind, host_interface},
    names,
    network::Network,
    publish::Publish,
    request::{AttachRequest, Refusal},
    store::{Change, Kind},
};

impl State {
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
        self.ports.check(&parse(&request.publish)?).map_err(Refusal::Conflict)
    }

    /// Publishes more ports of an endpoint. Returns it as it is then, the new ports, and what to commit; [`Self::set_ports`] takes
    /// them back.
    ///
    /// # Errors
    /// There is no such endpoint, or a port cannot be one or is taken.
    pub fn publish(
        &mut self,
        name: &str,
        publish: &[String],
    ) -> Result<(Endpoint, Vec<Publish>, Vec<Change>), Refusal> {
        let publish = parse(publish)?;
        let mut all = self.known(name)?.publish.clone();
        self.ports.check(&publish).map_err(Refusal::Conflict)?;
        all.extend(&publish);
        let (endpoint, changes) = self.set_ports(name, all)?;
        Ok((endpoint, publish, changes))
    }

    /// Publishes ports of an endpoint no more. Returns it as it is then, those ports, and what to commit.
    ///
    /// # Errors
    /// There is no such endpoint, or it has not published them.
    pub fn unpublish(
        &mut self,
        name: &str,
        publish: &[String],
    ) -> Result<(Endpoint, Vec<Publish>, Vec<Change>), Refusal> {
        let publish = parse(publish)?;
        let mut left = self.known(name)?.publish.clone();
        for those in &publish {
            let found = left.iter().enumerate().find_map(|(n, these)| Some((n, these.without(*those)?)));
            let Some((n, rest)) = found else {
                let has: Vec<String> = left.iter().map(|these| format!("`{these}`")).collect();
                let has = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
                return Err(Refusal::NotFound(format!(
                    "endpoint `{name}` does not publish {those}, but {has}"
                )));
            };
            left.splice(n..=n, rest);
        }
        let (endpoint, changes) = self.set_ports(name, left)?;
        Ok((endpoint, publish, changes))
    }

    /// Gives an endpoint exactly these ports. Returns it as it is then, and what to commit.
    ///
    /// # Errors
    /// There is no such endpoint.
    pub fn set_ports(
        &mut self,
        name: &str,
        publish: Vec<Publish>,
    ) -> Result<(Endpoint, Vec<Change>), Refusal> {
        let mut endpoint = self.known(name)?.clone();
        self.ports.free(name, &endpoint.publish);
        self.ports.take(name, &publish);
        endpoint.publish = publish;
        let changes = vec![Change::put(Kind::Endpoint, name, &endpoint)?];
        self.endpoints.insert(name.to_owned(), endpoint.clone());
        Ok((endpoint, changes))
    }

    fn known(&self, name: &str) -> Result<&Endpoint, Refusal> {
        let unknown = || Refusal::NotFound(format!("no endpoint `{name}`: `netd ls` shows all"));
        self.endpoints.get(name).ok_or_else(unknown)
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
            publish: parse(&request.publish)?,
        };
        let changes = vec![
            Change::put(Kind::Endpoint, name, &endpoint)?,
            Change::put(Kind::Cursor, &network_name, &state.pool.cursor())?,
        ];
        self.host_interfaces.insert(endpoint.host_interface.clone());
        self.ports.take(name, &endpoint.publish);
        self.endpoints.insert(name.clone(), endpoint.clone());
        Ok((endpoint, changes))
    }

    /// Frees an endpoint with all it has. Returns it with what to commit.
    pub fn remove(&mut self, name: &str) -> Option<(Endpoint, Vec<Change>)> {
        let endpoint = self.endpoints.remove(name)?;
        self.host_interfaces.remove(&endpoint.host_interface);
        self.slots.free(endpoint.slot);
        self.ports.free(name, &endpoint.publish);
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

    /// The network of an attachment.
    fn network_of<'a>(&self, request: &'a AttachRequest) -> &'a str {
        request.network.as_deref().unwrap_or(DEFAULT_NETWORK)
    }
}

/// Ports that are asked for.
fn parse(publish: &[String]) -> Result<Vec<Publish>, Refusal> {
    publish.iter().map(|text| text.parse().map_err(Refusal::Invalid)).collect()
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
