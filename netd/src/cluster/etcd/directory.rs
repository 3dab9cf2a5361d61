//! What the daemon holds of the task that talks to etcd.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    config::EtcdConfig,
    goal::Goal,
    model::Model,
    task::{Ask, Task},
};
use crate::{
    cluster::{Announcement, Cluster, SharedNetwork, View},
    network::Definition,
    request::Refusal,
};

/// How long what was asked for may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that wait.
const QUEUE: usize = 64;

/// Who a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub node: String,
    /// Tells its state directory from others. A copy of that directory has it too.
    pub id: String,
    /// Tells where it runs: which boot of which machine, and which network namespace.
    pub place: String,
}

/// The way to the task that talks to etcd. When the last one is dropped, the task ends; the node's lease then goes on for
/// its time, as its containers do.
#[derive(Clone, Debug)]
pub struct Directory {
    asks: mpsc::Sender<Ask>,
    wanted: Arc<watch::Sender<Announcement>>,
    endpoints: Arc<str>,
}

impl Directory {
    /// Starts the task, which announces the node, and shows what it sees. `remembered`: the networks and slices that the node
    /// knows from before. Returns at once.
    ///
    /// # Errors
    /// A file of the configuration cannot be read.
    pub fn open(
        config: &EtcdConfig,
        me: Identity,
        remembered: &Cluster,
        announcement: Announcement,
    ) -> Result<(Self, watch::Receiver<Arc<View>>)> {
        let memory = Model::of_memory(&me.node, remembered);
        Self::start(config, me, memory, Some(announcement))
    }

    /// The same without announcing anything: to look, or to leave.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn visit(config: &EtcdConfig, me: Identity) -> Result<(Self, watch::Receiver<Arc<View>>)> {
        let memory = Model::of_memory(&me.node, &Cluster::default());
        Self::start(config, me, memory, None)
    }

    fn start(
        config: &EtcdConfig,
        me: Identity,
        memory: Model,
        announcement: Option<Announcement>,
    ) -> Result<(Self, watch::Receiver<Arc<View>>)> {
        let announces = announcement.is_some();
        let (wanted, wishes) = watch::channel(announcement.unwrap_or_default());
        let (asks, asked) = mpsc::channel(QUEUE);
        let (task, views) = Task::new(config.clone(), me, memory, announces, wishes, asked)?;
        tokio::spawn(task.run());
        let endpoints = config.endpoints.join(" ").into();
        Ok((Self { asks, wanted: Arc::new(wanted), endpoints }, views))
    }

    /// Announces something else from now on.
    pub fn announce(&self, announcement: Announcement) {
        self.wanted.send_replace(announcement);
    }

    /// Makes a network in the whole cluster.
    ///
    /// # Errors
    /// There is one of that name, or one that overlaps it; or etcd does not answer in time, in which case it may or may not
    /// be there later.
    pub async fn create_network(&self, definition: &Definition) -> Result<SharedNetwork, Refusal> {
        let created = self.ask(Goal::CreateNetwork(definition.clone())).await?;
        created.ok_or_else(|| Refusal::Failed(anyhow!("the network was created, and is gone again")))
    }

    /// Removes a network, and all nodes' slices of it.
    ///
    /// # Errors
    /// There is none of that name, another node uses it, or etcd does not answer in time.
    pub async fn remove_network(&self, name: &str) -> Result<(), Refusal> {
        self.ask(Goal::RemoveNetwork(name.to_owned())).await.map(drop)
    }

    /// Frees the slices of a node that is not there.
    ///
    /// # Errors
    /// It is there, or was never; or etcd does not answer in time.
    pub async fn remove_node(&self, name: &str) -> Result<(), Refusal> {
        self.ask(Goal::RemoveNode(name.to_owned())).await.map(drop)
    }

    /// Removes this node's registration and slices, and announces nothing any more.
    ///
    /// # Errors
    /// etcd does not answer in time.
    pub async fn leave(&self) -> Result<()> {
        Ok(self.ask(Goal::Leave).await.map(drop)?)
    }

    async fn ask(&self, goal: Goal) -> Result<Option<SharedNetwork>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let ended = || Refusal::Failed(anyhow!("the connection to etcd has ended"));
        self.asks.send(Ask { goal, reply, tried: false }).await.map_err(|_| ended())?;
        match timeout(PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|_| ended())?,
            Err(_) => Err(Refusal::Failed(anyhow!(
                "etcd does not answer ({}): try again when it does",
                self.endpoints
            ))),
        }
    }
}
