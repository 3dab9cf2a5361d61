//! `netd run --purge`: nothing of netd is left.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Error, Result, anyhow, bail};
use tracing::{info, warn};

use super::{Options, boot, bpffs, identity, lock, place, privileges, socket};
use crate::{
    bpf::{Datapath, Mac},
    cluster::{Directory, Identity},
    config::{Config, NatConfig},
    endpoint::{Endpoint, alias_prefix},
    mac,
    netlink::{Before, Link, Netlink, Which},
    network::{Network, Origin},
    node::is_own,
    reconcile::{delete_link, purge_lan_links, remove_gateway},
    state::State,
    store::{Kind, REDB_FILE, REDB_FRESH, Record, RedbStore, Store},
};

/// Removes links, routes, gateways, pins, the port reservation, the socket and the state, whatever of it is there.
///
/// # Errors
/// A daemon is running, or something could not be removed; all the rest is then removed all the same.
pub async fn purge(options: &Options) -> Result<()> {
    privileges::check()?;
    let state_dir = &options.state_dir;
    // Without a directory there is no lock to take.
    let state_lock = state_dir.is_dir().then(|| lock::state_directory(state_dir)).transpose()?;
    let pin_lock = options.bpffs_dir.is_dir().then(|| lock::pin_directory(&options.bpffs_dir)).transpose()?;

    let mut errors = Vec::new();
    let nl = Netlink::host()?;
    let records = if state_lock.is_some() { records(state_dir).await } else { Vec::new() };
    let facts = State::facts_of(&records).unwrap_or_default();
    // A file that cannot be understood must not be in the way of removing things.
    let config = Config::load(options.config.as_deref())
        .inspect_err(|error| warn!("going on without the configuration: {error:#}"))
        .ok();

    // First: while it is in the cluster, others send to it.
    if let Some(config) = &config
        && let Some(etcd) = &config.cluster.etcd
    {
        let id = facts.as_ref().map(|facts| facts.id.clone()).unwrap_or_default();
        let me = Identity { node: config.node.name.clone(), id, place: place()? };
        let left = match Directory::visit(etcd, me) {
            Ok((directory, _views)) => directory.leave().await,
            Err(error) => Err(error),
        };
        let name = &config.node.name;
        errors.extend(left.err().map(|error| {
            error.context(format!("cannot leave the cluster: `netd nodes rm {name}` on another node does it"))
        }));
    }

    let mut gateways = BTreeSet::new();
    let mut identities = BTreeSet::from([identity(state_dir)?]);
    identities.extend(facts.as_ref().map(|facts| facts.identity.clone()));
    let endpoints = records.iter().filter(|record| record.kind == Kind::Endpoint);
    let endpoints = endpoints.filter_map(|record| record.read::<Endpoint>().ok());
    let prefixes: Vec<String> = identities.iter().map(|identity| alias_prefix(identity)).collect();
    errors.extend(purge_lan_links(endpoints, &prefixes).await.err());
    errors.extend(links(&nl, &identities, &mut gateways).await.err());
    let has_pins = fs::read_dir(&options.bpffs_dir).is_ok_and(|mut pins| pins.next().is_some());
    let was_here = state_dir.join(REDB_FILE).exists() || has_pins || !gateways.is_empty();
    let stored = records.iter().filter(|record| record.kind == Kind::Network);
    let stored = stored.filter_map(|record| record.read::<Network>().ok());
    let configured = config.iter().flat_map(|config| config.networks.values().cloned());
    let configured = configured.map(|definition| Network::new(definition, 0, Origin::Config));
    gateways.extend(stored.chain(configured).flat_map(|network| network.gateways().collect::<Vec<_>>()));
    for gateway in gateways {
        errors.extend(remove_gateway(&nl, gateway).await.err());
    }
    if bpffs::is_on_bpffs(&options.bpffs_dir)? {
        errors.extend(Datapath::purge(&options.bpffs_dir).err());
        errors.extend(remove_directory(&options.bpffs_dir).err());
    }
    match facts {
        Some(facts) if facts.boot == boot()? => {
            let before = facts.before.unwrap_or_default();
            errors.extend(before.release_ports(facts.ports.0, facts.ports.1).err());
            errors.extend(before.stop_forwarding().err());
        }
        // Settings begin anew with each boot, and in this one netd has changed none.
        Some(_) => {}
        // What it was before is lost: then as if it had been nothing.
        None if was_here => {
            let ports = config.map_or(NatConfig::default().ports, |config| config.nat.ports);
            errors.extend(Before::default().release_ports(ports.0, ports.1).err());
            errors.extend(Before::default().stop_forwarding().err());
        }
        // netd never was here, as far as anybody knows: what there is, is another's.
        None => {}
    }
    // One that answers is another daemon's.
    if socket::check(&options.socket).is_ok() {
        errors.extend(remove_file(&options.socket).err());
    }
    if let Some(parent) = options.socket.parent()
        && parent.ends_with("netd")
    {
        errors.extend(remove_directory(parent).err());
    }
    if state_lock.is_some() {
        errors.extend(remove_file(&state_dir.join(REDB_FILE)).err());
        errors.extend(remove_file(&state_dir.join(REDB_FRESH)).err());
        errors.extend(remove_file(&state_dir.join(lock::FILE)).err());
        errors.extend(remove_directory(state_dir).err());
    }
    drop((state_lock, pin_lock));
    if errors.is_empty() {
        return Ok(());
    }
    let errors: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    bail!("not all could be removed: {}", errors.join("; "))
}

/// What the store has, as far as it can be read.
async fn records(state_dir: &Path) -> Vec<Record> {
    if !state_dir.join(REDB_FILE).exists() {
        return Vec::new();
    }
    let loaded = match RedbStore::open(state_dir) {
        Ok(mut store) => store.load().await,
        Err(error) => Err(error),
    };
    loaded.inspect_err(|error| warn!("going on without the state: {error:#}")).unwrap_or_default()
}

/// Deletes the links of a state directory; their routes and neighbours go with them. Adds the gateways of their networks
/// to `gateways`.
async fn links(nl: &Netlink, identities: &BTreeSet<String>, gateways: &mut BTreeSet<IpAddr>) -> Result<()> {
    let links = nl.links().await?;
    let own: Vec<&Link> =
        links.iter().filter(|link| identities.iter().any(|identity| is_own(link, identity))).collect();
    // On a LAN, what these say is the host's own address.
    let served = || own.iter().filter(|link| link.kind.as_deref() != Some("macvlan"));
    gateways.extend(served().filter_map(|link| mac::to_address(Mac(link.mac?))).map(IpAddr::from));
    // The host's routes to endpoints are from the gateways.
    let indices: HashSet<u32> = served().map(|link| link.ifindex).collect();
    let routes = nl.routes(Which::Single).await?;
    gateways.extend(routes.iter().filter(|r| indices.contains(&r.ifindex)).filter_map(|r| r.source));
    let deletions = own.iter().map(|link| {
        let (nl, ifindex, name) = (nl.clone(), link.ifindex, link.name.clone());
        // At once: the kernel takes tens of milliseconds for each, most of which it waits.
        tokio::spawn(async move {
            delete_link(&nl, ifindex).await?;
            info!("link {name} deleted");
            Ok::<_, Error>(())
        })
    });
    let mut result = Ok(());
    for deletion in deletions.collect::<Vec<_>>() {
        let deleted = deletion.await.unwrap_or_else(|error| Err(anyhow!(error)));
        result = result.and(deleted);
    }
    result
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a directory that is empty.
fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir(path) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
