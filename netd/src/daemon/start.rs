//! The start: what can be refused is refused first; then the kernel is brought to the state that the store has.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Options, adoption::Adoption, boot, bpffs, identity, lock, membership::Membership, owner::Owner, paths,
    private, privileges, repairs::Repairs, socket, work::Work,
};
use crate::{
    bpf::{self, Datapath, LeftTables},
    cluster::{Remotes, Update, View, said_by_cluster, said_by_configuration, slices_of},
    config::{Config, check_beside},
    endpoint::{Endpoint, alias_prefix},
    held::{Held, raise_limit},
    ipam::gateway_of,
    netlink::{
        Before, Event, Link, Netlink, Netns, NextHops, find_uplink, forward_from_loopback, monitor,
        reserve_ports,
    },
    network::Network,
    node::{HostView, Occupied, log_uplink, wanted},
    pair,
    reconcile::{Reconciler, remove_gateway, remove_gateways},
    state::{Facts, MAX_ENDPOINTS, Share, State},
    store::{Change, Kind, REDB_FILE, Record, RedbStore, Store},
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
    raise_limit()?;
    let config = Config::load(options.config.as_deref())?;
    let state_dir = &options.state_dir;
    private::directory(state_dir)?;
    let state_lock = lock::state_directory(state_dir)?;
    socket::check(&options.socket)?;
    bpffs::prepare(&options.bpffs_dir)?;
    let pin_lock = lock::pin_directory(&options.bpffs_dir)?;

    let mut store = RedbStore::open(state_dir)?;
    private::file(&state_dir.join(REDB_FILE))?;
    let records = store.load().await?;
    let nl = Netlink::host()?;
    // Watching begins before looking, so that nothing is missed in between.
    let events = monitor()?;

    for (name, network) in &config.networks {
        if let Some(why) = network.link.kind().missing() {
            bail!("networks.{name}.link: {why}");
        }
    }
    // Pins do not outlive a boot.
    let pins = bpf::Options {
        directory: options.bpffs_dir.clone(),
        max_flows: config.nat.max_flows,
        max_endpoints: MAX_ENDPOINTS,
    };
    let tables = LeftTables::open(&pins).context("cannot look at what is pinned")?;
    let (facts, same_boot) = facts(State::facts_of(&records)?, state_dir, &config, tables.is_some())?;
    let links = nl.links().await?;
    let prefix = alias_prefix(&facts.identity);
    let named = links.iter().filter_map(|link| Some((link.alias.as_deref()?.strip_prefix(&prefix)?, link)));
    let own: HashMap<&str, &Link> = named.collect();
    let alive = |endpoint: &Endpoint| {
        // A link that is there vouches for its namespace, by whatever path that is reached now.
        own.contains_key(endpoint.name.as_str()) || same_boot && seems_alive(endpoint)
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
    let leaving: Vec<&str> = leaving(&records).collect();
    let file = store.describe();
    let adoption = Adoption::look(tables, &own, &state, &leaving, records.is_empty(), &file)?;
    if let Some(adoption) = &adoption {
        if records.is_empty() && config.cluster.etcd.is_some() {
            adoption.refuse_if_any(
                "which addresses of the cluster's networks are this node's was lost with it",
            )?;
        }
        state.number_from(adoption.next_network()?);
    }
    changes.extend(own.iter().filter_map(|(name, link)| state.rename_link(name, &link.name)));

    // Here an uplink that is not as it is configured is an error, unlike later.
    find_uplink(&nl, config.node.uplink.as_deref(), wanted(&config.node)).await?;
    let mut view = HostView::observe(&nl, &config.node, &config.cluster, None).await?;
    check_beside(&config.cluster.peers, &view.addresses)?;
    let occupied = Occupied::observe(&nl, &state.facts().identity).await?;
    let mut remotes = Remotes::load(&records)?;
    let membership = match &config.cluster.etcd {
        Some(etcd) => Some(Membership::join(etcd, &config, &state, &remotes, &view).await?),
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
    if let Some(adoption) = &adoption {
        changes.extend(adoption.adopt(&nl, &mut state, membership.is_none()).await?);
    }

    // From here on things are changed. What goes with the old configuration goes before that is forgotten.
    for network in &removed {
        info!("network {} is no longer configured", network.name);
        remove_gateways(&nl, network).await?;
        // Another network may have them, and need them again.
        for gateway in network.gateways() {
            view.addresses.remove(&gateway);
        }
    }
    if let (Some((lo, hi)), Some(before)) = (old_ports, &state.facts().before) {
        before.release_ports(lo, hi)?;
    }
    // Before anything is made. With what is to be given back of that.
    changes.push(state.put_facts()?);
    let (unkept, store_trouble) = match store.commit(changes.clone()).await {
        Ok(()) => (Vec::new(), Ok(())),
        // Without a first state nothing can be kept at all.
        Err(error) if records.is_empty() => return Err(error),
        // On a full disk, what is there is served; what is new is refused until it can be kept.
        Err(error) => (changes, Err(error)),
    };
    log_uplink(&view);
    let stored = records.iter().filter(|record| record.kind == Kind::Endpoint);
    let forgotten = adoption.map(|adoption| adoption.gone).unwrap_or_default();
    let is_gone =
        |record: &&Record| state.endpoint(&record.name).is_none() && !forgotten.contains(&record.name);
    for gone in stored.filter(is_gone) {
        info!("endpoint {}: its namespace is gone", gone.name);
    }
    let mut datapath = Datapath::open(&pins).context("cannot load the datapath")?;
    debug!("datapath loaded");
    // Without it all goes on, by the kernel's way for each packet.
    let next_hops = forward_from_loopback().and_then(|_| NextHops::watch());
    match (next_hops, datapath.take_next_hops()) {
        (Ok(changes), Some(turn)) => drop(tokio::spawn(super::next_hops::watch(changes, turn))),
        (Err(error), _) => warn!("next hops are not remembered, which costs some speed: {error:#}"),
        (Ok(_), None) => {}
    }
    for network in datapath.pinned_networks()? {
        let gateway = gateway_of(network);
        if !state.networks().any(|state| state.network.gateways().any(|own| own == gateway)) {
            info!("network {network} is not known any more");
            remove_gateway(&nl, gateway).await?;
            view.addresses.remove(&gateway);
        }
    }
    for slot in nodes.reused {
        datapath.reset_node_counters(slot)?;
    }
    let identity = &state.facts().identity;
    let mut kernel = Reconciler::new(nl, datapath, identity, config.nat, &config.cluster, remotes);
    let (lo, hi) = config.nat.ports;
    reserve_ports(lo, hi)?;
    kernel.take_over_uplink(&mut view).await?;
    let broken = kernel.converge(&state, &view).await?;
    for (name, error) in &broken {
        warn!("endpoint {name}: {error:#}");
    }
    let paths = paths::listen(&config);
    let mut owner = Owner {
        config,
        state,
        store: Box::new(store),
        kernel,
        view,
        netns: Netns::current()?,
        held: Held::default(),
        membership,
        paths,
        broken: Repairs::after_start(broken),
        pending: unkept,
        work: Work::new(),
        leaving: Default::default(),
        troubles: Default::default(),
        away: Default::default(),
    };
    owner.note("store", store_trouble);
    let shortage = owner.kernel.datapath().shortage(owner.config.nat.max_flows);
    owner.note("nat.max-flows", shortage.map_or(Ok(()), |short| Err(anyhow!(short))));
    let away = owner.kernel.addresses_away(&owner.state, &owner.view)?;
    owner.expect_back(away);
    // Their links are gone now.
    owner.pending.extend(leaving.iter().map(|name| Change::delete(Kind::Leaving, name)));
    let attached = owner.kernel.attach_sockets();
    owner.note("published ports, for the host's own sockets", attached);
    // Where another's XDP program is in the way, that is a trouble: what containers have does not depend on it.
    owner.apply_denied();
    owner.hold_ports();
    Ok(Started { owner, events, _locks: [state_lock, pin_lock] })
}

/// Whether an endpoint's namespace is there, or may be.
fn seems_alive(endpoint: &Endpoint) -> bool {
    match endpoint.netns.open() {
        Ok(netns) => netns.is_some(),
        Err(error) => {
            warn!("endpoint {}: {error:#}", endpoint.name);
            true
        }
    }
}

/// Endpoints that were being detached when the daemon before this one ended.
fn leaving(records: &[Record]) -> impl Iterator<Item = &str> {
    records.iter().filter(|record| record.kind == Kind::Leaving).map(|record| record.name.as_str())
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
    Ok((networks.removed, remotes.hear(said_by_cluster(cluster, node), &slices_of(cluster, node), true)?))
}

/// A random name.
fn random_id() -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/uuid";
    Ok(fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?.trim().to_owned())
}

/// The node's facts as they are from now on, and whether the stored ones are of this boot.
///
/// `was_here`: there was a daemon in this boot already.
fn facts(stored: Option<Facts>, state_dir: &Path, config: &Config, was_here: bool) -> Result<(Facts, bool)> {
    let boot = boot()?;
    let ports = config.nat.ports;
    // Where that has changed settings, what they were before is lost, but for the ports that it has not reserved.
    let observe = |(lo, hi)| if was_here { Before::observe_without(lo, hi) } else { Before::observe() };
    Ok(match stored {
        Some(facts) => {
            let same_boot = facts.boot == boot;
            // Those of a netd that knew no clusters have none.
            let id = if facts.id.is_empty() { random_id()? } else { facts.id };
            let before = match facts.before {
                Some(before) if same_boot => before,
                // A netd that did not keep it has reserved its ports already.
                None if same_boot => Before::observe_without(facts.ports.0, facts.ports.1)?,
                _ => observe(facts.ports)?,
            };
            (Facts { boot, ports, id, before: Some(before), ..facts }, same_boot)
        }
        None => {
            let (identity, before) = (identity(state_dir)?, Some(observe(ports)?));
            (Facts { identity, boot, ports, next_network: 1, id: random_id()?, before }, true)
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
