//! Endpoints whose containers live and that the state does not know: it was lost, or is an older one. Where all about one can be told for
//! certain, from its link, the pinned tables and its container's namespace, it is taken in. Else the daemon does not start: it would
//! delete the link under the container.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use tracing::warn;

use crate::{
    bpf::{LeftEndpoint, LeftTables, PublishedPort},
    endpoint::{Endpoint, LinkKind, NetnsRef},
    mac,
    netlink::{Link, Netlink, Netns, NetnsId},
    publish::{Protocol, Publish},
    state::State,
    store::Change,
};

/// Where namespaces are kept by name.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// Takes in the endpoints of links, by their names, and what the tables know besides. Returns what to commit. `store`: what is to be
/// named where that cannot be.
///
/// # Errors
/// Not all about one can be told.
pub(super) async fn adopt(
    unknown: &BTreeMap<&str, &Link>,
    pins: &Path,
    state: &mut State,
    store: &str,
) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    if unknown.is_empty() {
        return Ok(changes);
    }
    let tables = LeftTables::open(pins);
    let mut namespaces = None;
    for (name, link) in unknown {
        let found = match &tables {
            Ok(tables) => find(name, link, tables, state, &mut namespaces).await,
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        let adopted = found.and_then(|endpoint| state.adopt(endpoint));
        changes.push(adopted.map_err(|error| refused(name, link, store, &format!("{error:#}")))?);
        warn!(
            "endpoint {name} is not in the state, but its container lives: taken in by its link {}",
            link.name
        );
    }
    if let Ok(tables) = &tables {
        let denied: Vec<String> = tables.denied()?.iter().map(ToString::to_string).collect();
        changes.extend(state.deny(&denied)?);
    }
    warn!(
        "the state {store} was lost, or is an older one: check `netd ls`, `netd network ls` and `netd deny ls`"
    );
    Ok(changes)
}

/// Why the daemon does not start, and the mend.
pub(super) fn refused(name: &str, link: &Link, store: &str, why: &str) -> anyhow::Error {
    let link = &link.name;
    anyhow::anyhow!(
        "state file {store} knows nothing of endpoint `{name}`, whose link {link} is there ({why}): put the right file back; or let \
         the container lose its network by `ip link del {link}`, or all of them by `netd run --purge`"
    )
}

/// All about an endpoint.
async fn find(
    name: &str,
    link: &Link,
    tables: &LeftTables,
    state: &State,
    namespaces: &mut Option<Vec<Namespace>>,
) -> Result<Endpoint> {
    let left = tables.endpoint(link.ifindex)?;
    let mut networks = state.networks().map(|state| &state.network);
    let network = networks.find(|network| network.subnet == left.subnet && network.gateway() == left.gateway);
    let network = network.with_context(|| format!("no network has the subnet {}", left.subnet))?;
    let link_kind = LinkKind::choose(network.link);
    ensure!(link.kind.as_deref() == Some(link_kind.as_str()), "its link is no {}", link_kind.as_str());
    if namespaces.is_none() {
        *namespaces = Some(all_namespaces().await?);
    }
    let (netns, interface) = other_end(link, &left, namespaces.as_deref().unwrap_or_default())?;
    Ok(Endpoint {
        name: name.to_owned(),
        network: network.name.clone(),
        address: left.address,
        address6: left.address6,
        gateway: left.gateway,
        netns,
        link: link_kind,
        interface,
        host_interface: link.name.clone(),
        slot: left.slot,
        publish: published(&left.ports)?,
    })
}

/// A namespace and its links.
struct Namespace {
    netns: Netns,
    links: Vec<Link>,
}

/// All namespaces that there is a path to, but for the own one.
async fn all_namespaces() -> Result<Vec<Namespace>> {
    let mut seen: HashSet<NetnsId> = HashSet::from([Netns::current()?]);
    let mut found = Vec::new();
    for path in paths() {
        // Who ends meanwhile, or may not be looked at, is not found.
        let Some(netns) = path.to_str().and_then(|path| Netns::open(path).ok()) else { continue };
        if !seen.insert(netns.id()?) {
            continue;
        }
        if let Ok(inside) = Netlink::enter(&netns).await {
            found.push(Namespace { netns, links: inside.links().await? });
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
fn other_end(link: &Link, left: &LeftEndpoint, all: &[Namespace]) -> Result<(NetnsRef, String)> {
    let own = mac::of_address(left.address).0;
    for Namespace { netns, links } in all {
        let is_it = |other: &&Link| {
            Some(other.ifindex) == link.peer_ifindex
                && other.peer_ifindex == Some(link.ifindex)
                && other.kind == link.kind
                && other.mac == Some(own)
        };
        if let Some(other) = links.iter().find(is_it) {
            return Ok((NetnsRef::of(netns)?, other.name.clone()));
        }
    }
    bail!("its container's namespace is not found")
}

/// Published ports, those in a row together.
fn published(ports: &[PublishedPort]) -> Result<Vec<Publish>> {
    let mut found: Vec<Publish> = Vec::new();
    for port in ports {
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let protocol = protocols.into_iter().find(|protocol| protocol.number() == port.protocol);
        let protocol = protocol.with_context(|| format!("protocol {} cannot be published", port.protocol))?;
        let one =
            Publish { host_ip: port.host, host_port: port.host_port, port: port.port, count: 1, protocol };
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
