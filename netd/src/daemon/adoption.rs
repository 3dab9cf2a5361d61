//! A state that is not the one that containers live by: it was lost, or is an older one. What lives is told by its links, by the
//! tables that programs go on with, and by its containers' namespaces. Where all about it can be told for certain, the state takes
//! that in. Else the daemon does not start: by the state, it would take the network from containers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::IpAddr,
    path::PathBuf,
};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use tracing::warn;

use crate::{
    bpf::{LeftEndpoint, LeftTables, PublishedPort},
    endpoint::{Endpoint, NetnsRef},
    netlink::{Link, Netlink, Netns, NetnsId},
    publish::{Protocol, Publish},
    state::State,
    store::Change,
};

/// Where namespaces are kept by name.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// What is to be taken in.
#[derive(Debug)]
pub(super) struct Adoption<'a> {
    tables: Option<LeftTables>,
    /// What lives, by the names of the endpoints.
    found: BTreeMap<&'a str, Found<'a>>,
    /// Endpoints of the state that have no link, where the state is one of another time: they were detached since.
    pub(super) gone: Vec<String>,
    /// Whether the state is one of another time, or lost; else it only does not know all ports that are published.
    other_time: bool,
    store: &'a str,
}

#[derive(Debug)]
struct Found<'a> {
    link: &'a Link,
    left: Option<LeftEndpoint>,
    /// Whether the state has it as it is, but perhaps for its ports.
    known: bool,
}

impl<'a> Adoption<'a> {
    /// Compares a state with what lives: `own` are links by the names of their endpoints. None: the state is the one that they live
    /// by. `lost`: it has nothing, although there was a daemon before in this boot.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub(super) fn look(
        tables: Option<LeftTables>,
        own: &HashMap<&'a str, &'a Link>,
        state: &State,
        leaving: &[&str],
        lost: bool,
        store: &'a str,
    ) -> Result<Option<Self>> {
        let mut found = BTreeMap::new();
        let (mut other_time, mut other_ports) = (lost && tables.is_some(), false);
        // Endpoints' names have no colon; what has one is netd's own.
        for (name, link) in own.iter().filter(|(name, _)| !name.contains(':') && !leaving.contains(name)) {
            let left = tables.as_ref().map(|tables| tables.endpoint(link.ifindex)).transpose()?.flatten();
            let endpoint = state.endpoint(name);
            // One that is half made is in no table.
            let known = endpoint.is_some_and(|own| left.as_ref().is_none_or(|left| is_as(own, left, state)));
            other_time |= !known;
            if let (Some(endpoint), Some(left)) = (endpoint, &left) {
                let ports = endpoint.ports(&endpoint.publish);
                // The other way round it may be one that is about to be published.
                other_ports |= known && left.ports.iter().any(|port| !ports.contains(port));
            }
            found.insert(*name, Found { link, left, known });
        }
        if !other_time && !other_ports {
            return Ok(None);
        }
        let unlinked = state.endpoints().filter(|endpoint| !own.contains_key(endpoint.name.as_str()));
        let gone =
            if other_time { unlinked.map(|endpoint| endpoint.name.clone()).collect() } else { Vec::new() };
        Ok(Some(Self { tables, found, gone, other_time, store }))
    }

    /// The first number that no network has that lives.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub(super) fn next_network(&self) -> Result<u32> {
        let numbers = self.tables.as_ref().map(LeftTables::networks).transpose()?.unwrap_or_default();
        Ok(numbers.values().max().map_or(1, |number| number + 1))
    }

    /// Why this cannot be, if something that an endpoint of the state does not have is to be told from elsewhere.
    ///
    /// # Errors
    /// There is such an endpoint.
    pub(super) fn refuse_if_any(&self, why: &str) -> Result<()> {
        let unknown = self.found.iter().find(|(_, found)| !found.known);
        unknown.map_or(Ok(()), |(name, _)| Err(self.refused(name, &anyhow!("{why}"))))
    }

    /// Takes all in, once the networks are those of the configuration. `numbered`: the networks' numbers are this node's to give.
    /// Returns what to commit.
    ///
    /// # Errors
    /// Not all can be told: the state is of no use then, and nothing is done.
    pub(super) async fn adopt(&self, nl: &Netlink, state: &mut State, numbered: bool) -> Result<Vec<Change>> {
        let (mut changes, mut endpoints) = (Vec::new(), Vec::new());
        if let (Some(tables), true) = (&self.tables, numbered) {
            changes.extend(state.renumber(&tables.networks()?)?);
        }
        let namespaces = match self.found.is_empty() {
            true => HashMap::new(),
            false => namespaces(nl).await?,
        };
        for (name, found) in &self.found {
            let endpoint = found.endpoint(name, state, &namespaces).await;
            endpoints.extend(endpoint.map_err(|error| self.refused(name, &error))?);
        }
        let said: Vec<String> = endpoints.iter().map(|endpoint| said(endpoint, state)).collect();
        let adopted = state.adopt(&self.gone, endpoints);
        changes.extend(adopted.map_err(|(name, error)| self.refused(&name, &error))?);
        if let Some(tables) = &self.tables {
            changes.extend(state.adopt_denied(&tables.denied()?)?);
        }
        said.iter().for_each(|said| warn!("{said}"));
        for name in &self.gone {
            warn!(
                "endpoint {name} of the state has no link: it is forgotten. Attach its container again if it is to have one"
            );
        }
        if self.other_time {
            warn!(
                "state file {} was lost, or is an older one: what lives is taken in from the kernel. Check `netd ls`, \
                 `netd network ls` and `netd deny ls`",
                self.store
            );
        }
        Ok(changes)
    }

    /// Why the daemon does not start, and the mend.
    fn refused(&self, name: &str, why: &Error) -> Error {
        let link = self.found.get(name).map_or("", |found| found.link.name.as_str());
        anyhow!(
            "state file {} does not have endpoint `{name}` as it lives at link {link}: it was lost, or is an older one. It cannot be \
             taken in: {why:#}. Put the right file back; or let the container lose its network, by `ip link del {link}`, or all of \
             them, by `netd run --purge`",
            self.store
        )
    }
}

/// What is said of an endpoint that is taken in.
fn said(endpoint: &Endpoint, state: &State) -> String {
    let Endpoint { name, address, host_interface, .. } = endpoint;
    let how = match state.endpoint(name) {
        None => "is not in the state, but lives".to_owned(),
        Some(own) if own.address != *address => {
            format!("is {} in the state, but lives otherwise", own.address)
        }
        Some(own) if own.publish != endpoint.publish => {
            return format!(
                "endpoint {name}: published ports are not those of the state. They stay as they are; check `netd ls`"
            );
        }
        Some(_) => "lives otherwise than in the state".to_owned(),
    };
    format!("endpoint {name} {how}: taken in with {address} at link {host_interface}")
}

/// Whether an endpoint of the state is the one that the tables have, but perhaps for its ports.
fn is_as(own: &Endpoint, left: &LeftEndpoint, state: &State) -> bool {
    let subnet = state.network(&own.network).map(|network| network.subnet);
    // Without IPv6 on the host, programs know of none.
    let same6 = left.address6.is_none() || left.address6 == own.address6;
    (own.slot, own.address, own.gateway) == (left.slot, left.address, left.gateway)
        && subnet.is_ok_and(|subnet| subnet == left.subnet)
        && same6
}

impl Found<'_> {
    /// The endpoint as it lives; none: the state has it so.
    async fn endpoint(
        &self,
        name: &str,
        state: &State,
        namespaces: &HashMap<i32, Netns>,
    ) -> Result<Option<Endpoint>> {
        let own = state.endpoint(name).filter(|_| self.known);
        let Some(left) = &self.left else {
            return own.map(|_| None).context("the pinned tables do not know it");
        };
        if let Some(own) = own {
            let mut ports = own.ports(&own.publish);
            ports.sort_unstable_by_key(|port| (port.host, port.protocol, port.host_port));
            let publish = if ports == left.ports { own.publish.clone() } else { published(&left.ports)? };
            let lives = Endpoint { publish, host_interface: self.link.name.clone(), ..own.clone() };
            return Ok(Some(lives).filter(|lives| lives != own));
        }
        let mut networks = state.networks().map(|state| &state.network);
        let network = networks.find(|network| network.subnet == left.subnet);
        let network = network.with_context(|| {
            format!(
                "its network is not known: say networks.NAME.subnets = [\"{}\"] in the configuration",
                left.subnet
            )
        })?;
        let gateway = network.gateway();
        ensure!(gateway == left.gateway, "its gateway is {}, not {gateway}", left.gateway);
        let link = network.link.kind();
        let is_one = self.link.kind.as_deref() == Some(link.kernel_kind());
        ensure!(is_one, "its link is no {}", link.as_str());
        let (netns, interface) = other_end(self.link, namespaces).await?;
        Ok(Some(Endpoint {
            name: name.to_owned(),
            network: network.name.clone(),
            address: left.address,
            address6: left.address6,
            gateway,
            netns,
            link,
            tap: None,
            interface,
            host_interface: self.link.name.clone(),
            slot: left.slot,
            publish: published(&left.ports)?,
        }))
    }
}

/// All namespaces that a link leads to and that there is a path to, by their numbers.
async fn namespaces(nl: &Netlink) -> Result<HashMap<i32, Netns>> {
    let mut seen: HashSet<NetnsId> = HashSet::from([Netns::current()?]);
    let mut found = HashMap::new();
    for path in paths() {
        // What ends meanwhile, or may not be looked at, is not found.
        let Some(netns) = path.to_str().and_then(|path| Netns::open(path).ok()) else { continue };
        if seen.insert(netns.id()?)
            && let Some(number) = nl.number_of(&netns).await?
        {
            found.insert(number, netns);
        }
    }
    Ok(found)
}

/// Where namespaces are: by their names first, then by processes, the oldest first.
fn paths() -> Vec<PathBuf> {
    let entries = |directory: &str| fs::read_dir(directory).into_iter().flatten().flatten();
    let named = NAMED.into_iter().flat_map(entries).map(|entry| entry.path());
    let ids = entries("/proc").filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    named.chain(ids.into_iter().map(|id| format!("/proc/{id}/ns/net").into())).collect()
}

/// The other end of a link: its namespace, and its name there.
async fn other_end(link: &Link, namespaces: &HashMap<i32, Netns>) -> Result<(NetnsRef, String)> {
    let (Some(index), Some(number)) = (link.peer_ifindex, link.peer_netns) else {
        bail!("its link leads to no other namespace");
    };
    let netns = namespaces.get(&number).context(
        "neither `ip netns` nor a process has its container's namespace: keep that by a name, such as with `ip netns attach`",
    )?;
    let other = Netlink::enter(netns).await?.link_by_index(index).await?;
    let other = other.context("its container's end is not where its link leads to")?;
    Ok((NetnsRef::of(netns)?, other.name))
}

/// Published ports, those in a row together.
fn published(ports: &[PublishedPort]) -> Result<Vec<Publish>> {
    let mut found: Vec<Publish> = Vec::new();
    for port in ports {
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let protocol = protocols.into_iter().find(|protocol| protocol.number() == port.protocol);
        let protocol = protocol.with_context(|| format!("protocol {} cannot be published", port.protocol))?;
        let host_ip: IpAddr = port.host;
        let one = Publish { host_ip, host_port: port.host_port, port: port.port, count: 1, protocol };
        let follows = |last: &&mut Publish| {
            (last.host_ip, last.protocol) == (one.host_ip, one.protocol)
                && last.host_port.checked_add(last.count) == Some(one.host_port)
                && last.port.checked_add(last.count) == Some(one.port)
        };
        match found.last_mut().filter(follows) {
            Some(last) => last.count += 1,
            None => found.push(one),
        }
    }
    // As they are asked for mostly: one of each family.
    found.sort_by_key(|publish| (publish.host_port, publish.protocol, publish.host_ip));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_a_row_are_one_range() {
        let port = |host: &str, host_port, port, protocol| PublishedPort {
            host: host.parse().unwrap(),
            host_port,
            protocol,
            address: "10.88.0.2".parse().unwrap(),
            port,
            slot: 1,
        };
        let ports = [
            port("0.0.0.0", 80, 8080, 6),
            port("0.0.0.0", 81, 8081, 6),
            port("0.0.0.0", 82, 9000, 6),
            port("0.0.0.0", 83, 9001, 17),
            port("192.0.2.1", 84, 9002, 17),
            port("::", 65535, 65535, 17),
        ];
        let found = published(&ports).unwrap();
        let shown: Vec<String> = found.iter().map(|one| one.shown()).collect();
        assert_eq!(
            shown,
            [
                "0.0.0.0:80-81->8080-8081/tcp",
                "0.0.0.0:82->9000/tcp",
                "0.0.0.0:83->9001/udp",
                "192.0.2.1:84->9002/udp",
                "[::]:65535->65535/udp"
            ]
        );
        published(&[port("0.0.0.0", 1, 1, 132)]).unwrap_err();
    }
}
