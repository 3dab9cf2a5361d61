//! The task that talks to etcd: what it knows, and what it does from one connection to the next.

use std::{
    collections::HashMap,
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
    goal::Goal,
    model::{Model, Version},
    plan::Me,
};
use crate::{
    cluster::{Announcement, Cluster, SharedNetwork, View},
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
    /// Whether the model is what etcd had at its revision.
    pub(super) loaded: bool,
    views: watch::Sender<Arc<View>>,
    /// Records that do not count, by key, with the revision for which that was said.
    noted: HashMap<String, i64>,
}

/// Nobody wants to know any more.
pub(super) struct Ended;

impl Task {
    pub(super) fn new(
        config: EtcdConfig,
        node: &str,
        id: &str,
        announces: bool,
        wanted: watch::Receiver<Announcement>,
        asked: mpsc::Receiver<Ask>,
    ) -> Result<(Self, watch::Receiver<Arc<View>>)> {
        let (views, shown) = watch::channel(Arc::default());
        let fresh = format!("{:016x}", random());
        let me = Me { node: node.to_owned(), id: id.to_owned(), leases: Vec::new(), named: false, fresh };
        let task = Self {
            config,
            me,
            announces,
            wanted,
            asked,
            asks: Vec::new(),
            model: Model::default(),
            cluster: Cluster::default(),
            loaded: false,
            views,
            noted: HashMap::new(),
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

    /// Takes in a record, and says so once if it is not understood.
    pub(super) fn put(&mut self, key: &str, value: &[u8], version: Version) {
        if let Err(error) = self.model.put(key, value, version) {
            self.note(key.to_owned(), version.revision, &format!("{error:#}"));
        }
    }

    /// Makes the cluster what the records describe.
    pub(super) fn derive(&mut self) {
        let (cluster, problems) = self.model.cluster();
        self.cluster = cluster;
        for problem in problems {
            self.note(problem.key.to_string(), problem.revision, &problem.what);
        }
    }

    fn note(&mut self, key: String, revision: i64, what: &str) {
        /// More are not remembered: somebody fills etcd with nonsense.
        const NOTED: usize = 10_000;
        if self.noted.get(&key) == Some(&revision) {
            return;
        }
        warn!("etcd: {}/v1/{} does not count: {what}", self.config.prefix, key.escape_debug());
        if self.noted.len() >= NOTED {
            self.noted.clear();
        }
        self.noted.insert(key, revision);
    }
}

/// A random number, as good as hash tables need it.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}
