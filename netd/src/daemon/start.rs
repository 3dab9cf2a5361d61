//! The start: what can be refused is refused first; then the kernel is brought to the state that the store has.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Options, bpffs, identity, lock, membership::Membership, owner::Owner, privileges, socket, work::Work,
};
use crate::{
    bpf::{self, Datapath},
    cluster::{Remotes, Update, View, said_by_cluster, said_by_configuration, slices_of},
    config::Config,
    endpoint::Endpoint,
    held::{Held, raise_limit},
    netlink::{
        Event, Netlink, Netns, NextHops, find_uplink, forward_from_loopback, monitor, release_ports,
        reserve_ports,
    },
    network::Network,
    node::{HostView, Occupied, is_own, log_uplink, wanted},
    pair,
    reconcile::{Reconciler, remove_gateways},
    state::{Facts, MAX_ENDPOINTS, Share, State},
    store::{Change, Kind, RedbStore, Store},
};

/// A daemon that is ready to serve.
pub(super) struct Started {
    pub(super) owner: Owner,
    pub(super) events: mpsc::Receiver<Event>,
    /// Held until the end.
    _locks: [lock::Lock; 2],
}

/// Starts, up to the socket.
pub(super) async fn start(options: &Options) -> Result<Started> {
    privileges::check()?;
    raise_limit();
    let config = Config::load(options.config.as_deref())?;
    let state_dir = &options.state_dir;
    fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot create the state directory {}", state_dir.display()))?;
    let state_lock = lock::state_directory(state_dir)?;
    socket::check(&options.socket)?;
    bpffs::prepare(&options.bpffs_dir)?;
    let pin_lock = lock::pin_directory(&options.bpffs_dir)?;

    let mut store = RedbStore::open(state_dir)?;
    let records = store.load().await?;
    let nl = Netlink::host()?;
    // Watching begins before looking, so that nothing is missed in between.
    let events = monitor()?;

    let (facts, same_boot) = facts(State::facts_of(&records)?, state_dir, &config)?;
    let links = nl.links().await?;
    let own: HashSet<&str> =
        links.iter().filter(|link| is_own(link, &facts.identity)).map(|link| link.name.as_str()).collect();
    let alive = |endpoint: &Endpoint| {
        let netns = &endpoint.netns;
        // A link that is there vouches for its namespace; without it, the number alone would not do.
        same_boot
            && if own.contains(endpoint.host_interface.as_str()) {
                netns.seems_there()
            } else {
                netns.open().is_some()
            }
    };
    let old_ports = same_boot
        .then(|| State::facts_of(&records).ok().flatten())
        .flatten()
        .map(|facts| facts.ports)
        .filter(|ports| *ports != config.nat.ports);
    let share = match &config.cluster.etcd {
        Some(_) => Share::OfCluster,
        None => Share::Fixed(config.node.subnets.clone()),
    };
    let (mut state, mut changes) = State::load(&records, facts, share, alive)?;

    // Here an uplink that is not as it is configured is an error, unlike later.
    find_uplink(&nl, config.node.uplink.as_deref(), wanted(&config.node)).await?;
    let mut view = HostView::observe(&nl, &config.node, &config.cluster).await?;
    let occupied = Occupied::observe(&nl, &state.facts().identity).await?;
    let mut remotes = Remotes::load(&records)?;
    let membership = match &config.cluster.etcd {
        Some(etcd) => Some(Membership::join(etcd, &config, &state, &view).await?),
        None => None,
    };
    let (removed, nodes) = match &membership {
        Some(membership) => {
            let found = membership.at_start(&config, state.networks().len() > 0)?;
            adopt(&found, &config, &mut state, &mut remotes, &occupied, &mut changes)?
        }
        None => {
            let (removed, configured) = state.configure(config.networks.values(), &occupied)?;
            changes.extend(configured);
            let said = said_by_configuration(&config.cluster.peers, config.cluster.transport);
            (removed, remotes.hear(said, &BTreeSet::new(), false)?)
        }
    };
    changes.extend(nodes.changes);

    // From here on things are changed. What goes with the old configuration goes before that is forgotten.
    for network in &removed {
        info!("network {} is no longer configured", network.name);
        remove_gateways(&nl, network).await?;
        // Another network may have them, and need them again.
        for gateway in network.gateways() {
            view.addresses.remove(&gateway);
        }
    }
    if let Some((lo, hi)) = old_ports {
        release_ports(lo, hi)?;
    }
    // Before anything is made: a full disk shows here.
    store.commit(changes).await?;
    log_uplink(&view);
    let stored = records.iter().filter(|record| record.kind == Kind::Endpoint);
    for gone in stored.filter(|record| state.endpoint(&record.name).is_none()) {
        info!("endpoint {}: its namespace is gone", gone.name);
    }
    let mut datapath = Datapath::open(&bpf::Options {
        directory: options.bpffs_dir.clone(),
        max_flows: config.nat.max_flows,
        max_endpoints: MAX_ENDPOINTS,
    })
    .context("cannot load the datapath")?;
    debug!("datapath loaded");
    // Without it all goes on, by the kernel's way for each packet.
    let next_hops = forward_from_loopback(true).and_then(|()| NextHops::watch());
    match (next_hops, datapath.take_next_hops()) {
        (Ok(changes), Some(turn)) => drop(tokio::spawn(super::next_hops::watch(changes, turn))),
        (Err(error), _) => warn!("next hops are not remembered, which costs some speed: {error:#}"),
        (Ok(_), None) => {}
    }
    for slot in nodes.reused {
        datapath.reset_node_counters(slot)?;
    }
    let (identity, transport) = (&state.facts().identity, config.cluster.transport);
    let mut kernel = Reconciler::new(nl, datapath, identity, config.nat, transport, remotes);
    let (lo, hi) = config.nat.ports;
    reserve_ports(lo, hi)?;
    let broken = kernel.converge(&state, &view).await?;
    for (name, error) in &broken {
        warn!("endpoint {name}: {error:#}");
    }
    let mut owner = Owner {
        config,
        state,
        store: Box::new(store),
        kernel,
        view,
        netns: Netns::current()?,
        held: Held::default(),
        membership,
        broken,
        pending: Vec::new(),
        work: Work::new(),
        troubles: Default::default(),
    };
    let attached = owner.kernel.attach_sockets();
    owner.note("published ports, for the host's own sockets", attached);
    // Where another's XDP program is in the way, that is a trouble: what containers have does not depend on it.
    owner.apply_denied();
    owner.hold_ports();
    Ok(Started { owner, events, _locks: [state_lock, pin_lock] })
}

/// Takes in what the cluster has, if it is known. Returns the networks that go, and what becomes of the other nodes.
fn adopt(
    view: &View,
    config: &Config,
    state: &mut State,
    remotes: &mut Remotes,
    occupied: &Occupied,
    changes: &mut Vec<Change>,
) -> Result<(Vec<Network>, Update)> {
    let Some(cluster) = &view.cluster else { return Ok(Default::default()) };
    let node = &config.node.name;
    let networks = state.synchronise(cluster, node, &config.networks, occupied)?;
    let missing = |name: &&String| state.network(name).is_err();
    if let (Some(_), Some(problem)) = (config.networks.keys().find(missing), networks.problems.first()) {
        bail!("{problem}");
    }
    changes.extend(networks.changes);
    changes.push(state.put_facts()?);
    Ok((networks.removed, remotes.hear(said_by_cluster(cluster, node), &slices_of(cluster, node), true)?))
}

/// A random name.
fn random_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?.trim().to_owned())
}

/// The node's facts as they are from now on, and whether the stored ones are of this boot.
fn facts(stored: Option<Facts>, state_dir: &Path, config: &Config) -> Result<(Facts, bool)> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?.trim().to_owned();
    let ports = config.nat.ports;
    Ok(match stored {
        Some(facts) => {
            let same_boot = facts.boot == boot;
            // Those of a netd that knew no clusters have none.
            let id = if facts.id.is_empty() { random_id()? } else { facts.id };
            (Facts { boot, ports, id, ..facts }, same_boot)
        }
        None => {
            (Facts { identity: identity(state_dir)?, boot, ports, next_network: 1, id: random_id()? }, true)
        }
    })
}

impl Owner {
    /// What the daemon says when it is ready: one line.
    pub(super) fn summary(&self) -> String {
        let uplink = match &self.view.uplink {
            Some(uplink) => {
                let addresses: Vec<String> = uplink.subnets().iter().map(ToString::to_string).collect();
                format!("{} ({})", uplink.name, addresses.join(" "))
            }
            None => "none".to_owned(),
        };
        let network =
            |network: &Network| format!("{} ({})", network.name, pair::text(network.subnet, network.subnet6));
        let networks: Vec<String> = self.state.networks().map(|state| network(&state.network)).collect();
        let networks = if networks.is_empty() { "none".to_owned() } else { networks.join(" ") };
        let endpoints = self.state.endpoints().len();
        format!(
            "netd ready: node {}, uplink {uplink}, networks {networks}, {endpoints} {}",
            self.config.node.name,
            if endpoints == 1 { "endpoint" } else { "endpoints" }
        )
    }
}
