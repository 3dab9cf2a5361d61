//! The task that owns the state: requests, the kernel's announcements and the clock come to it one at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::mpsc,
    task::block_in_place,
    time::{self, Instant, MissedTickBehavior},
};
use tracing::{debug, error, info, warn};

use super::{
    deny::DENIED,
    handle::Request,
    looks::Looks,
    membership::{Membership, news},
    repairs::Repairs,
    work::Work,
};
use crate::{
    bpf::Expired,
    cluster::TooBig,
    config::Config,
    held::Held,
    netlink::{Event, Netlink, NetnsId, forward_from_loopback, monitor, reserve_ports},
    node::{HostRoutes, HostView, host_routes, log_uplink},
    reconcile::Reconciler,
    state::State,
    store::{Change, Kind, Store},
};

/// How often flows are looked at, and what failed is tried again.
const TICK: Duration = Duration::from_secs(5);
/// How long after one part of the flow table the next is looked at.
const MOMENT: Duration = Duration::from_millis(100);
/// How long nobody has asked for anything when endpoints are moved to a faster hook: the kernel lets others wait meanwhile.
const IDLE: Duration = Duration::from_secs(2);
/// How long after one endpoint the next is moved.
const PAUSE: Duration = Duration::from_millis(200);

/// How long the flows of an address are kept that the host has lost: it may come back.
const AWAY: Duration = Duration::from_secs(30);

/// The owner of the state.
pub(super) struct Owner {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) store: Box<dyn Store>,
    pub(super) kernel: Reconciler,
    pub(super) view: HostView,
    /// The daemon's own network namespace.
    pub(super) netns: NetnsId,
    /// The sockets that hold published ports.
    pub(super) held: Held,
    /// Its part in a cluster with a shared store.
    pub(super) membership: Option<Membership>,
    /// What routers say of packets to other nodes.
    pub(super) paths: mpsc::Receiver<TooBig>,
    /// Endpoints that do not work, and why.
    pub(super) broken: Repairs,
    /// Changes that are made already, but that the store did not take. They are part of the next commit.
    pub(super) pending: Vec<Change>,
    /// What is done beside this task.
    pub(super) work: Work,
    /// Links of endpoints that have been detached, with the endpoints' names.
    pub(super) leaving: HashMap<u32, String>,
    /// What went wrong beside endpoints when it was last tried; one line for each task.
    pub(super) troubles: BTreeMap<&'static str, String>,
    /// Addresses of flows' that the host has lost, and until when they may come back.
    pub(super) away: BTreeMap<IpAddr, Instant>,
}

impl Owner {
    /// Serves until all handles are dropped.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut events: mpsc::Receiver<Event>,
    ) {
        let Some(mut done) = self.work.done.take() else { return };
        let mut looks = Looks::new();
        // The kernel's announcements cannot be heard: this end of a channel keeps the loop from asking for them all the time.
        let mut deaf: Option<mpsc::Sender<Event>> = None;
        let mut expire_at = Instant::now() + TICK;
        let mut listen_at = Instant::now();
        let mut promote_at = Some(Instant::now() + IDLE);
        let mut ticks = time::interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => {
                        if matches!(request, Request::Attach(..) | Request::Detach(..)) {
                            promote_at = promote_at.max(Some(Instant::now() + IDLE));
                        }
                        self.serve(request).await;
                        self.announce();
                    }
                    None => return,
                },
                event = events.recv() => {
                    let mut batch = vec![event.unwrap_or(Event::Lost)];
                    while let Ok(event) = events.try_recv() {
                        batch.push(event);
                    }
                    if events.is_closed() {
                        let heard = monitor().map(|receiver| events = receiver);
                        if heard.is_err() {
                            let (sender, silence) = mpsc::channel(1);
                            (deaf, events) = (Some(sender), silence);
                        }
                        self.note("the kernel's announcements", heard);
                    }
                    if self.hear(&batch).await {
                        looks.changed();
                    }
                },
                () = sleep_until(looks.due()) => {
                    // On a task of its own: it grows with the host's network, and nobody waits for it.
                    let (nl, config) = (self.kernel.netlink().clone(), self.config.clone());
                    let last = self.kernel.last_uplink();
                    looks.begin(tokio::spawn(async move { look(&nl, &config, last).await }));
                },
                seen = looks.seen() => {
                    self.see(seen).await;
                    self.announce();
                }
                Some(done) = done.recv() => {
                    self.take_in_work(done).await;
                    self.announce();
                }
                news = news(&mut self.membership) => self.take_in(news).await,
                Some(told) = self.paths.recv() => self.learn(told).await,
                () = time::sleep_until(listen_at) => listen_at = self.listen().await,
                () = time::sleep_until(expire_at) => expire_at = self.expire(),
                () = sleep_until(self.away.values().min().copied()) => self.forget_addresses(),
                // One at a time: requests come in between.
                () = sleep_until(self.broken.next().map(|(at, _)| at)) => self.repair().await,
                () = sleep_until(promote_at) => promote_at = self.promote(),
                _ = ticks.tick() => {
                    // Its end of the channel goes: the loop takes it for lost announcements, looks, and asks for more of them.
                    drop(deaf.take());
                    self.tick().await;
                    promote_at = promote_at.or_else(|| Some(Instant::now() + IDLE));
                },
            }
        }
    }

    /// Takes in what the kernel announces; true: the host's network may have changed.
    async fn hear(&mut self, batch: &[Event]) -> bool {
        let mut changed = false;
        let mut lost = Vec::new();
        // First what is open meanwhile.
        self.put_filters_back(batch);
        for event in batch {
            match event {
                Event::LinkRemoved(ifindex) => {
                    let left = self.leaving.remove(ifindex);
                    self.pending.extend(left.map(|name| Change::delete(Kind::Leaving, &name)));
                    lost.extend(self.kernel.owner(*ifindex).map(str::to_owned));
                    changed |= self.kernel.last_uplink() == Some(*ifindex);
                }
                Event::LinkAdded(ifindex, name) => {
                    if let Err(error) = self.kernel.expect_uplink(*ifindex, name) {
                        debug!("{name} may become the uplink: {error:#}");
                    }
                }
                Event::FiltersRemoved(_) => {}
                Event::HostChanged => changed = true,
                Event::Lost => {
                    changed = true;
                    self.forget_links_that_left().await;
                    match self.kernel.without_link().await {
                        Ok(names) => lost.extend(names),
                        Err(error) => error!("cannot look for missing links: {error:#}"),
                    }
                }
            }
        }
        self.see_to(lost, "its link is gone, while its namespace is there").await;
        changed
    }

    /// Puts filters of links back that somebody has removed, so that nothing is open for longer than that takes.
    fn put_filters_back(&mut self, batch: &[Event]) {
        let all = batch.contains(&Event::Lost);
        let removed = batch.iter().filter_map(|event| match event {
            Event::FiltersRemoved(ifindex) => Some(*ifindex),
            _ => None,
        });
        let links: HashSet<u32> = removed.collect();
        if links.is_empty() && !all {
            return;
        }
        match self.kernel.put_filters_back(Some(&links).filter(|_| !all)) {
            Ok(owners) => {
                for owner in owners {
                    warn!("{owner}: filters of its link were removed: they are there again");
                }
            }
            // If a link is gone, that is announced on its own.
            Err(error) => warn!("cannot put filters back: {error:#}"),
        }
    }

    /// Takes in what the host's network looks like now.
    async fn see(&mut self, seen: Result<(HostView, HostRoutes)>) {
        let (view, routes) = match seen {
            Ok(seen) => seen,
            // What was seen before is gone by. In the next look it may be right again.
            Err(error) => return self.note("looking at the host's network", Err(error)),
        };
        self.note("looking at the host's network", Ok(()));
        if view != self.view {
            self.change_view(view).await;
        }
        let restored = self.kernel.restore_routes(&routes).await;
        self.note("host routes", restored);
        let kept = self.keep_settings();
        self.note("sysctls", kept);
    }

    /// Puts settings of the host's back that somebody has changed: `ip_forward`, for one, changes those of all interfaces.
    fn keep_settings(&self) -> Result<()> {
        let (lo, hi) = self.config.nat.ports;
        if reserve_ports(lo, hi)? {
            warn!(
                "ports {lo}-{hi} were no longer reserved (net.ipv4.ip_local_reserved_ports): they are again"
            );
        }
        if forward_from_loopback()? {
            warn!("net.ipv4.conf.lo.forwarding or IPv6's was switched off: it is on again");
        }
        Ok(())
    }

    async fn change_view(&mut self, view: HostView) {
        debug!("the host's network has changed: {view:?}");
        let old = std::mem::replace(&mut self.view, view);
        let ipv6_is_back = self.view.ipv6 && !old.ipv6;
        if (&old.uplink, &old.problem) != (&self.view.uplink, &self.view.problem) {
            log_uplink(&self.view);
        }
        self.apply_view().await;
        self.away.retain(|address, _| !self.view.addresses.contains(address));
        self.expect_back(old.addresses.difference(&self.view.addresses).copied().collect());
        if ipv6_is_back {
            let without = self.kernel.without_ipv6(&self.state);
            self.see_to(without, "it has no IPv6 yet, which the host has again").await;
        }
    }

    /// Keeps the flows of addresses that the host has lost, for a while.
    pub(super) fn expect_back(&mut self, addresses: BTreeSet<IpAddr>) {
        let until = Instant::now() + AWAY;
        for address in addresses {
            self.away.entry(address).or_insert(until);
        }
    }

    /// Removes the flows of addresses that have not come back.
    fn forget_addresses(&mut self) {
        let now = Instant::now();
        let late: Vec<IpAddr> =
            self.away.iter().filter(|(_, until)| **until <= now).map(|(address, _)| *address).collect();
        for address in late {
            self.away.remove(&address);
            let forgotten = self.kernel.forget_address(address, &self.view);
            self.note("addresses that are gone", forgotten);
        }
        self.remove_stale_flows();
    }

    async fn apply_view(&mut self) {
        let applied = self.kernel.apply_view(&self.state, &self.view).await;
        self.note("host network", applied);
        self.remove_stale_flows();
        self.apply_denied();
    }

    /// Looks at a part of the flow table. Returns when to look at the next: in a moment, so that requests come in between,
    /// or in some seconds where the table is through.
    fn expire(&mut self) -> Instant {
        let expired = block_in_place(|| self.kernel.expire_flows());
        let more = expired.as_ref().is_ok_and(|expired| expired.more);
        if let Ok(Expired { removed: flows @ 1.., .. }) = expired {
            debug!("{flows} flows have timed out");
        }
        self.note("flows", expired.map(drop));
        Instant::now() + if more { MOMENT } else { TICK }
    }

    /// Moves an endpoint to a faster hook. Returns when to do it with the next, if there is one.
    fn promote(&mut self) -> Option<Instant> {
        match block_in_place(|| self.kernel.promote()) {
            Ok(true) => Some(Instant::now() + PAUSE),
            Ok(false) => None,
            Err(error) => {
                debug!("an endpoint stays as it is: {error:#}");
                Some(Instant::now() + PAUSE)
            }
        }
    }

    /// Listens to the nodes of which nobody says that they are there. Returns when to do it again.
    async fn listen(&mut self) -> Instant {
        let silence = self.config.cluster.silence();
        match self.kernel.listen_to_nodes(silence) {
            Ok(update) if !update.changed => {}
            Ok(update) => {
                info!("routes to nodes change: some are silent, or their ways are tried anew");
                self.pending.extend(update.changes);
                self.flush_pending().await;
                let set = self.kernel.set_routes(&self.state, &self.view).await;
                self.note("routes", set);
            }
            Err(error) => error!("{error:#}"),
        }
        let closely = self.kernel.remotes().any_unsettled();
        Instant::now() + if closely { TICK.min(silence / 2) } else { TICK }
    }

    /// What is done every few seconds.
    async fn tick(&mut self) {
        self.flush_pending().await;
        self.answer_waiting();
        // What of it has failed.
        self.walk();
        if self.troubles.contains_key("host network") {
            self.apply_view().await;
        } else if self.troubles.contains_key(DENIED) {
            self.apply_denied();
        }
        self.retry_ports();
        self.broken.calm_down();
        self.free_gone(self.broken.names()).await;
        self.look_at_lans().await;
    }

    /// Looks after endpoints on LANs: nothing announces to the host what becomes of their links.
    async fn look_at_lans(&mut self) {
        if !self.state.endpoints().any(|endpoint| endpoint.link.is_lan()) {
            return;
        }
        let missing = match host_routes(self.kernel.netlink()).await {
            Ok(routes) => self.kernel.without_lan_link(&self.state, &routes).await,
            Err(error) => Err(error),
        };
        match missing {
            Ok(names) => self.see_to(names, "its link is gone, while its namespace is there").await,
            Err(error) => error!("cannot look for missing links: {error:#}"),
        }
    }

    pub(super) async fn flush_pending(&mut self) {
        if !self.pending.is_empty() {
            // What does not succeed stays pending, and is shown by `netd status`.
            let _ = self.commit(Vec::new()).await;
        }
    }

    /// Makes changes durable, with those that are pending.
    ///
    /// # Errors
    /// The store did not take them. Pending ones stay pending; those given are for the caller to undo.
    pub(super) async fn commit(&mut self, changes: Vec<Change>) -> Result<()> {
        let mut all = self.pending.clone();
        all.extend(changes);
        let committed = self.store.commit(all).await;
        match &committed {
            Ok(()) => self.pending.clear(),
            Err(error) => error!("{error:#}"),
        }
        // A refused commit that leaves nothing pending concerns the one who asked for it only.
        let trouble = match &committed {
            Err(error) if !self.pending.is_empty() => Err(anyhow::anyhow!("{error:#}")),
            _ => Ok(()),
        };
        self.note("store", trouble);
        committed
    }

    /// Remembers how a task went, for `netd status`.
    pub(super) fn note(&mut self, task: &'static str, result: Result<()>) {
        match result {
            Ok(()) => drop(self.troubles.remove(task)),
            Err(error) => {
                let text = format!("{error:#}");
                if self.troubles.insert(task, text.clone()).as_ref() != Some(&text) {
                    warn!("{task}: {text}");
                }
            }
        }
    }
}

/// Never, if there is no time.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Looks at the host's network.
async fn look(nl: &Netlink, config: &Config, last: Option<u32>) -> Result<(HostView, HostRoutes)> {
    Ok((HostView::observe(nl, &config.node, &config.cluster, last).await?, host_routes(nl).await?))
}
