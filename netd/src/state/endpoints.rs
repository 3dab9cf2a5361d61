//! Making and removing endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use super::{MAX_ENDPOINTS, NetworkState, Place, State};
use crate::{
    config::DEFAULT_NETWORK,
    endpoint::{Endpoint, host_interface},
    ipam::IpamError,
    link::{LinkKind, Tap},
    names,
    network::Network,
    pair,
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
        check_link(request, network).map_err(Refusal::Invalid)?;
        let kind = link(request, network);
        if kind.is_lan() != network.lan.is_some() {
            return Err(Refusal::Invalid(format!(
                "{} is no link for network `{}`: leave --link out, or choose another network",
                kind.as_str(),
                network.name
            )));
        }
        if network.lan.is_some() && !request.publish.is_empty() {
            return Err(no_ports(network));
        }
        if let Some(address) = chosen(request, network)? {
            self.check_address(network, address)?;
        }
        // Whether it gets IPv6 depends on its namespace, and with that, which of the host's ports of IPv6 it needs.
        let mut publish = parse(&request.publish, without_ipv6(network).as_deref())?;
        publish.retain(|publish| publish.host_ip.is_ipv4());
        self.ports.check(&publish).map_err(Refusal::Conflict)
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
        let network = self.network(&self.known(name)?.network)?;
        if network.lan.is_some() {
            return Err(no_ports(network));
        }
        let publish = parse(publish, self.why_without_ipv6(name)?.as_deref())?;
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
        let publish = parse(publish, self.why_without_ipv6(name)?.as_deref())?;
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

    /// Why an endpoint has no IPv6 address, if it has none.
    fn why_without_ipv6(&self, name: &str) -> Result<Option<String>, Refusal> {
        let endpoint = self.known(name)?;
        if endpoint.address6.is_some() {
            return Ok(None);
        }
        let own = || format!("endpoint `{name}` has no IPv6 address");
        Ok(Some(without_ipv6(self.network(&endpoint.network)?).unwrap_or_else(own)))
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
        if let (Some(address), Some(why)) = (wanted6(request), place.without_ipv6) {
            return Err(Refusal::Invalid(format!("{address}: {why}")));
        }
        let network = self.network(self.network_of(request))?;
        if let Some(address) = chosen(request, network)?.filter(|_| network.lan.is_some())
            && (address == network.gateway() || place.reserved.contains(&address))
        {
            let whose = if address == network.gateway() { "the gateway's" } else { "this host's own" };
            return Err(Refusal::Invalid(format!(
                "{address} is {whose}: choose another address (network `{}`)",
                network.name
            )));
        }
        let without_ipv6 = without_ipv6(network).or(place.without_ipv6.map(str::to_owned));
        let publish = parse(&request.publish, without_ipv6.as_deref())?;
        self.ports.check(&publish).map_err(Refusal::Conflict)?;
        let name = &request.name;
        let slot = self.slots.take().ok_or_else(|| {
            Refusal::Conflict(format!("this node has {MAX_ENDPOINTS} endpoints: there is room for no more"))
        })?;
        let network_name = self.network_of(request).to_owned();
        let state = self.networks.get_mut(&network_name).context("the network is gone")?;
        let address = match chosen(request, &state.network) {
            Ok(Some(address)) => state.pool.take(address, name).map(|()| address),
            _ => take_next(state, name, &place.reserved),
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
            address6: state.network.address6(address).filter(|_| place.without_ipv6.is_none()),
            gateway: state.network.gateway(),
            netns: place.netns,
            link: link(request, &state.network),
            tap: (link(request, &state.network) == LinkKind::Tap).then(|| request.tap.unwrap_or_default()),
            interface: place.interface,
            host_interface: place.host_interface,
            slot,
            publish,
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
        let (endpoint, mut changes) = self.remove_name(name)?;
        changes.extend(self.release(&endpoint));
        Some((endpoint, changes))
    }

    /// Takes in endpoints as they live, in place of what the state has of their names, and of the names of those that are `gone`.
    /// Returns what to commit.
    ///
    /// # Errors
    /// One does not go with what there is: which, and why. The state is of no use then.
    pub fn adopt(
        &mut self,
        gone: &[String],
        endpoints: Vec<Endpoint>,
    ) -> Result<Vec<Change>, (String, anyhow::Error)> {
        let mut changes = Vec::new();
        // All of these first: another one of them may have what the state has given to one.
        for name in gone.iter().chain(endpoints.iter().map(|endpoint| &endpoint.name)) {
            changes.extend(self.remove(name).map(|(_, changes)| changes).unwrap_or_default());
        }
        for endpoint in endpoints {
            let name = endpoint.name.clone();
            let change = Change::put(Kind::Endpoint, &name, &endpoint);
            let adopted = change.and_then(|change| self.insert(endpoint).map(|()| change));
            changes.push(adopted.map_err(|error| (name, error))?);
        }
        Ok(changes)
    }

    /// Takes in that the host's side of an endpoint's link has another name. None: it has not, or there is no such endpoint.
    pub fn rename_link(&mut self, name: &str, link: &str) -> Option<Change> {
        let endpoint = self.endpoints.get_mut(name).filter(|endpoint| endpoint.host_interface != link)?;
        self.host_interfaces.remove(&endpoint.host_interface);
        self.host_interfaces.insert(link.to_owned());
        link.clone_into(&mut endpoint.host_interface);
        Change::put(Kind::Endpoint, name, endpoint).ok()
    }

    /// Frees an endpoint's name and ports. Its slot and its addresses stay taken until [`Self::release`], as long as there are
    /// flows that would come to be another's. Returns it with what to commit.
    pub fn remove_name(&mut self, name: &str) -> Option<(Endpoint, Vec<Change>)> {
        let endpoint = self.endpoints.remove(name)?;
        self.host_interfaces.remove(&endpoint.host_interface);
        self.ports.free(name, &endpoint.publish);
        Some((endpoint, vec![Change::delete(Kind::Endpoint, name)]))
    }

    /// Frees the slot and the addresses of an endpoint whose name is free already. Returns what to commit.
    pub fn release(&mut self, endpoint: &Endpoint) -> Option<Change> {
        self.slots.free(endpoint.slot);
        let state = self.networks.get_mut(&endpoint.network)?;
        if state.pool.holder(endpoint.address) != Some(endpoint.name.as_str()) {
            // The network was removed meanwhile, and there is another one of its name.
            return None;
        }
        let before = state.pool.cursor();
        state.pool.free(endpoint.address);
        let after = state.pool.cursor();
        (after != before).then(|| Change::put(Kind::Cursor, &endpoint.network, &after).ok()).flatten()
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

/// Takes the next free address that is not one of the host's own or of a LAN's router.
fn take_next(state: &mut NetworkState, name: &str, reserved: &[Ipv4Addr]) -> Result<Ipv4Addr, IpamError> {
    let gateway = state.network.gateway();
    let mut passed = Vec::new();
    let taken = loop {
        match state.pool.take_next(name) {
            Ok(address) if address == gateway || reserved.contains(&address) => passed.push(address),
            taken => break taken,
        }
    };
    passed.into_iter().for_each(|address| state.pool.free(address));
    taken
}

/// Why ports of an endpoint on a LAN cannot be published.
fn no_ports(network: &Network) -> Refusal {
    Refusal::Invalid(format!(
        "network `{}` is a LAN, whose hosts reach each port by the endpoint's own address: leave the published ports out",
        network.name
    ))
}

/// The kind of link that is asked for.
fn link(request: &AttachRequest, network: &Network) -> LinkKind {
    request.link.unwrap_or(network.link).kind()
}

/// Why the link that is asked for cannot be, with the mend.
fn check_link(request: &AttachRequest, network: &Network) -> Result<(), String> {
    let link = link(request, network);
    if let Some(why) = link.missing() {
        return Err(why);
    }
    let kind = link.as_str();
    if request.netns.is_some() != link.has_netns() {
        return Err(match link.has_netns() {
            true => {
                format!("a {kind} leads into a container: say which network namespace that has (--netns)")
            }
            false => format!("a {kind} is in the host's own network namespace: leave --netns out"),
        });
    }
    match &request.tap {
        Some(_) if link != LinkKind::Tap => Err(format!(
            "an owner and queues are a tap's, and this is a {kind}: say --link tap, or leave them out"
        )),
        Some(tap) if !(1..=Tap::MAX_QUEUES).contains(&tap.queues) => {
            Err(format!("{} queues: a tap has 1 to {}", tap.queues, Tap::MAX_QUEUES))
        }
        _ if link == LinkKind::Tap && network.big_tcp => Err(format!(
            "network `{}` has BIG TCP, and a tap takes no packets above 64 KiB: choose a network without",
            network.name
        )),
        _ => Ok(()),
    }
}

/// Ports that are asked for; why they can be of IPv4 only.
fn parse(publish: &[String], without_ipv6: Option<&str>) -> Result<Vec<Publish>, Refusal> {
    let all: Result<Vec<_>, _> = publish.iter().map(|text| Publish::parse(text, without_ipv6)).collect();
    Ok(all.map_err(Refusal::Invalid)?.concat())
}

/// Why the endpoints of a network have no IPv6 address, if they have none.
fn without_ipv6(network: &Network) -> Option<String> {
    network.subnet6.is_none().then(|| format!("network `{}` has no IPv6 subnet", network.name))
}

/// The IPv6 address that was asked for.
fn wanted6(request: &AttachRequest) -> Option<Ipv6Addr> {
    request.addresses.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    })
}

/// The address that was asked for, of which the IPv6 one follows; one of either family determines both.
fn chosen(request: &AttachRequest, network: &Network) -> Result<Option<Ipv4Addr>, Refusal> {
    let refused = |why: String| Refusal::Invalid(format!("{why} (network `{}`)", network.name));
    let (v4, v6) = match request.addresses[..] {
        [] => return Ok(None),
        [IpAddr::V4(v4)] => return Ok(Some(v4)),
        [IpAddr::V6(v6)] => (None, v6),
        [IpAddr::V4(v4), IpAddr::V6(v6)] | [IpAddr::V6(v6), IpAddr::V4(v4)] => (Some(v4), v6),
        [..] => {
            let why = "an endpoint has one IPv4 address and one IPv6 address: choose at most one of each";
            return Err(Refusal::Invalid(why.to_owned()));
        }
    };
    let Some(subnet6) = network.subnet6 else {
        return Err(refused(format!("{v6}: there is no IPv6 subnet")));
    };
    if !subnet6.contains(&v6) {
        return Err(refused(format!("{v6} is not in {subnet6}")));
    }
    let subnet = network.subnet;
    let Some(of_v6) = pair::address4(subnet, subnet6, v6) else {
        let last = pair::address6(subnet, subnet6, subnet.broadcast());
        return Err(refused(format!("{v6} goes with no address of {subnet}: those up to {last} do")));
    };
    match v4 {
        Some(v4) if v4 != of_v6 && subnet.contains(&v4) => {
            let of_v4 = pair::address6(subnet, subnet6, v4);
            Err(refused(format!("{v4} goes with {of_v4}, not with {v6}, which goes with {of_v6}")))
        }
        Some(v4) => Ok(Some(v4)),
        None => Ok(Some(of_v6)),
    }
}
