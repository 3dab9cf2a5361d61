//! The task that talks to etcd: what it knows, and what it does from one connection to the next.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use etcd_client::ConnectOptions;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    config::EtcdConfig,
    directory::Identity,
    goal::Goal,
    model::Model,
    notes::{Notes, Say},
    plan::Me,
};
use crate::{
    cluster::{Announcement, Cluster, SharedNetwork, View},
    names::Shown,
    request::Refusal,
};

/// What is waited for between two rounds of all members, at first and at last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often an idle connection is tried. etcd closes those that are tried more often than every 5 s
/// (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(10);

/// Something that was asked for, and where the answer goes.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) goal: Goal,
    pub(super) reply: oneshot::Sender<Result<Option<SharedNetwork>, Refusal>>,
    /// A step of it may have happened, though nobody has said so.
    pub(super) tried: bool,
}

/// The task.
pub(super) struct Task {
    pub(super) config: EtcdConfig,
    pub(super) me: Me,
    /// Whether this node takes part, or only looks.
    pub(super) announces: bool,
    pub(super) wanted: watch::Receiver<Announcement>,
    pub(super) asked: mpsc::Receiver<Ask>,
    pub(super) asks: Vec<Ask>,
    pub(super) model: Model,
    pub(super) cluster: Cluster,
    /// What does not count of what is in etcd, in words.
    pub(super) ignored: Vec<String>,
    views: watch::Sender<Arc<View>>,
    notes: Notes,
}

/// Nobody wants to know any more.
pub(super) struct Ended;

impl Task {
    pub(super) fn new(
        config: EtcdConfig,
        me: Identity,
        model: Model,
        announces: bool,
        wanted: watch::Receiver<Announcement>,
        asked: mpsc::Receiver<Ask>,
    ) -> Result<(Self, watch::Receiver<Arc<View>>)> {
        let (views, shown) = watch::channel(Arc::default());
        let fresh = format!("{:016x}", random());
        let Identity { node, id, place } = me;
        let me = Me { node, id, place, leases: Vec::new(), named: false, fresh };
        let task = Self {
            config,
            me,
            announces,
            wanted,
            asked,
            asks: Vec::new(),
            model,
            cluster: Cluster::default(),
            ignored: Vec::new(),
            views,
            notes: Notes::new(),
        };
        // Said at the start, not at the first connection.
        task.options()?;
        Ok((task, shown))
    }

    /// Goes from member to member until nobody wants to know any more.
    pub(super) async fn run(mut self) {
        let members = self.config.endpoints.len();
        // Not all nodes to the same one.
        let mut turn = usize::try_from(random() % members as u64).unwrap_or_default();
        let (mut failed, mut backoff) = (0, BACKOFF.0);
        loop {
            let endpoint = self.config.endpoints[turn % members].clone();
            turn += 1;
            let mut reached = false;
            match self.session(&endpoint, &mut reached).await {
                Ok(Ended) => return,
                Err(error) => {
                    if reached {
                        (failed, backoff) = (0, BACKOFF.0);
                        info!("etcd at {endpoint}: {error:#}; connecting anew");
                    }
                    failed += 1;
                    // One member that does not answer is nothing to worry about where there are others.
                    if failed < members {
                        continue;
                    }
                    if failed >= members.max(2) || !reached {
                        self.unreachable(format!("etcd does not answer ({endpoint}): {error:#}"));
                    }
                }
            }
            let jitter = backoff.mul_f64((random() % 1000) as f64 / 2000.0);
            let until = Instant::now() + backoff + jitter;
            backoff = (backoff * 2).min(BACKOFF.1);
            loop {
                tokio::select! {
                    () = sleep_until(until) => break,
                    ask = self.asked.recv() => match ask {
                        Some(ask) => self.asks.push(ask),
                        None => return,
                    },
                }
            }
        }
    }

    /// How to connect. Files are read anew each time, so that certificates can be renewed.
    ///
    /// # Errors
    /// One cannot be read.
    pub(super) fn options(&self) -> Result<ConnectOptions> {
        let patience = self.patience();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(patience)
            // A member that is cut off from the others knows nothing new.
            .with_require_leader(true)
            // A connection on which nothing comes back any more is found, though nobody closes it. (One with a lease is found
            // sooner, by that.)
            .with_keep_alive(PING, patience)
            .with_keep_alive_while_idle(true);
        if let Some((name, password)) = &self.config.user {
            options = options.with_user(name, password);
        }
        if let Some(files) = &self.config.tls {
            options = options.with_tls(files.options()?);
        }
        Ok(options)
    }

    /// How long one answer may take.
    pub(super) fn patience(&self) -> Duration {
        (self.config.lease / 3).min(Duration::from_secs(5))
    }

    /// Shows how things are seen, if that has changed.
    pub(super) fn show(&self, view: View) {
        self.views.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
    }

    fn unreachable(&self, why: String) {
        let before = self.views.borrow().unreachable.is_some();
        if !before {
            warn!("{why}");
        }
        let last = View::clone(&self.views.borrow());
        self.show(View { unreachable: Some(why), settled: false, ..last });
    }

    /// Makes the cluster what the records describe.
    pub(super) fn derive(&mut self) {
        /// Records that `netd status` names.
        const SHOWN: usize = 5;
        let (cluster, problems) = self.model.cluster();
        self.cluster = cluster;
        let root = self.root();
        let line = |key: &str, what: &str| format!("etcd: {root}{key} does not count: {what}");
        self.ignored = problems
            .iter()
            .take(SHOWN)
            .map(|problem| line(&problem.key.to_string(), &problem.what))
            .collect();
        if let more @ 1.. = problems.len().saturating_sub(SHOWN) {
            self.ignored.push(format!("etcd: {more} more records below {root} do not count: see the log"));
        }
        if let more @ 1.. = self.model.left_out() {
            self.ignored.push(format!(
                "etcd: {more} records below {root} are more than there is room for: remove what is not netd's; what was \
                 known before still counts"
            ));
        }
        for problem in problems {
            self.note(&problem.key.to_string(), problem.revision, &problem.what);
        }
    }

    /// Says once why a record does not count.
    pub(super) fn note(&mut self, key: &str, revision: i64, what: &str) {
        let root = self.root();
        match self.notes.say(key, revision) {
            Say::It => warn!("etcd: {root}{} does not count: {}", Shown(key), Shown(what)),
            Say::TooMuch => warn!("etcd: more records below {root} do not count than are named here"),
            Say::Nothing => {}
        }
    }
}

/// A random number, as good as hash tables need it.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
