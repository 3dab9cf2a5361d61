//! The daemon's part in its cluster: what it says to the shared store, and what it takes from there.
//!
//! The owner of the state never waits for the store: what takes time is done beside it, and comes back as an outcome.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{
    announcement::{announcement, remembered},
    handle::Reply,
    owner::Owner,
};
use crate::{
    cluster::{
        Announcement, Cluster, Directory, EtcdConfig, Identity, Presence, Remotes, SharedNetwork, View,
        said_by_cluster, slices_of,
    },
    config::Config,
    network::Definition,
    node::{HostView, Occupied},
    reconcile::remove_gateways,
    request::{NetworkView, Refusal},
    state::State,
};

/// How long the start waits for the shared store.
const JOIN: Duration = Duration::from_secs(10);
/// How long a change that the store has may take to come back to this node.
const RETURN: Duration = Duration::from_secs(5);

/// The daemon's part in its cluster.
pub(super) struct Membership {
    directory: Directory,
    views: watch::Receiver<Arc<View>>,
    /// What is seen as not right, in words.
    pub(super) problems: Vec<String>,
    /// Requests that wait until what they have changed in the store is here.
    waiting: Vec<(Instant, Waiting)>,
    outcomes: mpsc::Sender<Outcome>,
    arriving: mpsc::Receiver<Outcome>,
    announced: Announcement,
}

/// A request whose change is in the store.
enum Waiting {
    Network(String, Reply<NetworkView>),
    NoNetwork(String, Reply<()>),
}

/// What a change of the store has come to.
pub(super) enum Outcome {
    Created(Result<SharedNetwork, Refusal>, String, Reply<NetworkView>),
    Removed(Result<(), Refusal>, String, Reply<()>),
}

/// What happens on the cluster's side.
pub(super) enum News {
    View,
    Outcome(Outcome),
}

impl Membership {
    /// Joins the cluster, and waits for a moment until this node has what it needs of it.
    ///
    /// # Errors
    /// The configuration of the store is not usable.
    pub(super) async fn join(
        etcd: &EtcdConfig,
        config: &Config,
        state: &State,
        remotes: &Remotes,
        view: &HostView,
    ) -> Result<Self> {
        let announced = announcement(config, state, view, None);
        let known = remembered(&config.node.name, state, remotes);
        let me =
            Identity { node: config.node.name.clone(), id: state.facts().id.clone(), place: super::place()? };
        let (directory, mut views) = Directory::open(etcd, me, &known, announced.clone())?;
        settle(&mut views, JOIN).await?;
        if views.borrow().may_return {
            // From before a restart of the machine, perhaps: that ends.
            info!("waiting until the lease of this node's name ends: {}", views.borrow().refused.join("; "));
            settle(&mut views, etcd.lease + RETURN).await?;
        }
        views.mark_changed();
        let (outcomes, arriving) = mpsc::channel(16);
        Ok(Self {
            directory,
            views,
            problems: Vec::new(),
            waiting: Vec::new(),
            outcomes,
            arriving,
            announced,
        })
    }

    /// What the store has, at the start: what cannot be changed without a restart is refused.
    ///
    /// # Errors
    /// The node's name or a network of its configuration file is another's. Or the store was never reached, and this node
    /// knows nothing of the cluster from before (`is_known`).
    pub(super) fn at_start(&self, config: &Config, is_known: bool) -> Result<Arc<View>> {
        let view = Arc::clone(&self.views.borrow());
        let why = || view.refused.first().cloned();
        match &view.cluster {
            Some(cluster) => {
                let own = cluster.nodes.get(&config.node.name);
                if let (Some(announced), Some(why)) = (&self.announced.registration, why())
                    && (view.taken || own.is_none_or(|own| own.address != announced.address))
                {
                    bail!("{why}");
                }
                let missing = |definition: &&Definition| {
                    let shared = cluster.networks.get(&definition.name);
                    shared.is_none_or(|shared| shared.subnets() != definition.subnets())
                };
                if let Some(definition) = config.networks.values().find(missing) {
                    let why = why().or(view.unreachable.clone());
                    let why = why.unwrap_or_else(|| "etcd takes too long".to_owned());
                    bail!("networks.{}: {why}", definition.name);
                }
            }
            None => {
                let why = view.unreachable.clone().unwrap_or_else(|| "etcd does not answer".to_owned());
                if !is_known {
                    bail!("{why}");
                }
                warn!("{why}: going on with what was known of the cluster before");
            }
        }
        Ok(view)
    }
}

/// Waits, not longer than that, until all is there or refused.
async fn settle(views: &mut watch::Receiver<Arc<View>>, patience: Duration) -> Result<()> {
    match timeout(patience, views.wait_for(|view| view.settled)).await {
        Ok(Err(_)) => bail!("the connection to etcd has ended"),
        _ => Ok(()),
    }
}

/// Something of the cluster; never, where there is none.
pub(super) async fn news(membership: &mut Option<Membership>) -> News {
    match membership {
        None => std::future::pending().await,
        Some(membership) => tokio::select! {
            Some(outcome) = membership.arriving.recv() => News::Outcome(outcome),
            Ok(()) = membership.views.changed() => News::View,
            else => std::future::pending().await,
        },
    }
}

impl Owner {
    /// Takes in what has happened on the cluster's side.
    pub(super) async fn take_in(&mut self, news: News) {
        match news {
            News::View => self.see_cluster().await,
            News::Outcome(outcome) => self.finish(outcome),
        }
        self.answer_waiting();
    }

    async fn see_cluster(&mut self) {
        let Some(membership) = &mut self.membership else { return };
        let view = Arc::clone(&membership.views.borrow_and_update());
        let mut problems = view.refused.clone();
        problems.extend(view.unreachable.clone());
        problems.extend(view.ignored.iter().cloned());
        if let Some(cluster) = &view.cluster {
            match self.adopt(cluster).await {
                Ok(found) => problems.extend(found),
                Err(error) => problems.push(format!("cannot take in what the cluster has: {error:#}")),
            }
        }
        if let Some(membership) = &mut self.membership {
            // What the store has of nonsense is in the log already, record by record.
            let new =
                |problem: &&String| !membership.problems.contains(problem) && !view.ignored.contains(problem);
            for problem in problems.iter().filter(new) {
                warn!("{problem}");
            }
            if problems.is_empty() && !membership.problems.is_empty() {
                info!("all is well with the cluster");
            }
            membership.problems = problems;
        }
        self.announce();
    }

    /// Makes networks and routes what the cluster has. Returns what cannot be so.
    async fn adopt(&mut self, cluster: &Cluster) -> Result<Vec<String>> {
        let occupied = match self.state.lacks_network_of(cluster) {
            true => Occupied::observe(self.kernel.netlink(), &self.state.facts().identity).await?,
            false => Occupied::default(),
        };
        let node = &self.config.node.name;
        let networks = self.state.synchronise(cluster, node, &self.config.networks, &occupied)?;
        let nodes = self.kernel.hear_nodes(said_by_cluster(cluster, node), &slices_of(cluster, node))?;
        for network in &networks.removed {
            info!("network {} is gone", network.name);
            if let Err(error) = remove_gateways(self.kernel.netlink(), network).await {
                warn!("network {}: {error:#}", network.name);
            }
            // Another network may have them, and need them again.
            for gateway in network.gateways() {
                self.view.addresses.remove(&gateway);
            }
        }
        let applied = match (networks.changed, nodes.changed) {
            (true, _) => self.kernel.apply_view(&self.state, &self.view).await,
            (false, true) => self.kernel.set_routes(&self.state, &self.view).await,
            (false, false) => Ok(()),
        };
        self.note("cluster", applied);
        // Kept for a start without the store.
        self.pending.extend(networks.changes.into_iter().chain(nodes.changes));
        self.flush_pending().await;
        Ok(networks.problems.into_iter().chain(nodes.problems).collect())
    }

    /// Tells the cluster about this node, if that has changed.
    pub(super) fn announce(&mut self) {
        let Some(membership) = &mut self.membership else { return };
        let before = membership.announced.registration.as_ref();
        let announcement = announcement(&self.config, &self.state, &self.view, before);
        if announcement != membership.announced {
            membership.directory.announce(announcement.clone());
            membership.announced = announcement;
        }
    }

    /// Makes a network in the whole cluster.
    pub(super) fn create_shared_network(
        &mut self,
        definition: Definition,
        occupied: &Occupied,
        reply: Reply<NetworkView>,
    ) {
        if let Err(refusal) = self.state.check_creatable(&definition, occupied) {
            let _ = reply.send(Err(refusal));
            return;
        }
        let Some(membership) = &self.membership else { return };
        let (directory, outcomes) = (membership.directory.clone(), membership.outcomes.clone());
        tokio::spawn(async move {
            let created = directory.create_network(&definition).await;
            let _ = outcomes.send(Outcome::Created(created, definition.name, reply)).await;
        });
    }

    /// Removes a network from the whole cluster.
    pub(super) fn remove_shared_network(&mut self, name: &str, reply: Reply<()>) {
        if let Err(refusal) = self.state.check_removable(name) {
            let _ = reply.send(Err(refusal));
            return;
        }
        let Some(membership) = &self.membership else { return };
        let (directory, outcomes) = (membership.directory.clone(), membership.outcomes.clone());
        let name = name.to_owned();
        tokio::spawn(async move {
            let removed = directory.remove_network(&name).await;
            let _ = outcomes.send(Outcome::Removed(removed, name, reply)).await;
        });
    }

    /// Gives back the slices of a node that is no more.
    pub(super) fn remove_node(&mut self, name: &str, reply: Reply<()>) {
        let refusal = match (&self.membership, self.kernel.remotes().get(name)) {
            (None, _) => Some(Refusal::Invalid(format!(
                "node `{name}` is not in a shared store: remove it from [[cluster.peers]] and restart netd"
            ))),
            (Some(_), None) if name == self.config.node.name => Some(Refusal::Conflict(format!(
                "node `{name}` is this one: `netd run --purge` makes it leave the cluster"
            ))),
            (Some(_), None) => Some(Refusal::NotFound(format!("no node `{name}`: `netd nodes` shows all"))),
            (Some(_), Some(node)) if node.presence != Presence::Lost => {
                Some(Refusal::Conflict(format!("node `{name}` is still there: stop it first")))
            }
            (Some(_), Some(_)) => None,
        };
        if let Some(refusal) = refusal {
            let _ = reply.send(Err(refusal));
            return;
        }
        let Some(membership) = &self.membership else { return };
        let (directory, name) = (membership.directory.clone(), name.to_owned());
        tokio::spawn(async move {
            let _ = reply.send(directory.remove_node(&name).await);
        });
    }

    fn finish(&mut self, outcome: Outcome) {
        let Some(membership) = &mut self.membership else { return };
        let until = Instant::now() + RETURN;
        match outcome {
            Outcome::Created(Ok(_), name, reply) => {
                membership.waiting.push((until, Waiting::Network(name, reply)));
            }
            Outcome::Removed(Ok(()), name, reply) => {
                membership.waiting.push((until, Waiting::NoNetwork(name, reply)));
            }
            Outcome::Created(Err(refusal), _, reply) => drop(reply.send(Err(refusal))),
            Outcome::Removed(Err(refusal), _, reply) => drop(reply.send(Err(refusal))),
        }
    }

    /// Answers those whose change has come back from the store.
    pub(super) fn answer_waiting(&mut self) {
        let Some(membership) = &mut self.membership else { return };
        let waiting = std::mem::take(&mut membership.waiting);
        let mut still = Vec::new();
        for (until, request) in waiting {
            let late = Instant::now() >= until;
            match request {
                Waiting::Network(name, reply) => {
                    let here = self.state.networks().find(|state| state.network.name == name);
                    match here.filter(|state| state.slice().is_some()) {
                        Some(state) => {
                            let _ = reply.send(Ok(self.show_network(&state.network, state.endpoints())));
                        }
                        None if late => {
                            let _ = reply.send(Err(self.not_here(&name)));
                        }
                        None => still.push((until, Waiting::Network(name, reply))),
                    }
                }
                Waiting::NoNetwork(name, reply) => {
                    if late || self.state.network(&name).is_err() {
                        let _ = reply.send(Ok(()));
                    } else {
                        still.push((until, Waiting::NoNetwork(name, reply)));
                    }
                }
            }
        }
        if let Some(membership) = &mut self.membership {
            membership.waiting = still;
        }
    }

    fn not_here(&self, name: &str) -> Refusal {
        let quoted = format!("`{name}`");
        let mut problems = self.membership.iter().flat_map(|membership| &membership.problems);
        let why =
            problems.find(|problem| problem.contains(&quoted)).map_or("etcd takes long", String::as_str);
        Refusal::Failed(anyhow!("network {quoted} is in the cluster now, but not of use on this node: {why}"))
    }
}
