//! Requests to the task that owns the state, and the way to send them.

use tokio::sync::{mpsc, oneshot};

use crate::request::{
    AttachRequest, DeniedList, DenyRequest, EndpointList, EndpointView, FlowList, FlowQuery, Flushed,
    NetworkList, NetworkRequest, NetworkView, NodeList, PublishRequest, Refusal, Status,
};

/// Where the answer to a request goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the owner of the state can be asked.
#[derive(Debug)]
pub(super) enum Request {
    Attach(AttachRequest, Reply<EndpointView>),
    Detach(String, Reply<()>),
    Publish(String, PublishRequest, Reply<EndpointView>),
    Unpublish(String, PublishRequest, Reply<EndpointView>),
    Endpoints(Reply<EndpointList>),
    CreateNetwork(NetworkRequest, Reply<NetworkView>),
    RemoveNetwork(String, Reply<()>),
    Networks(Reply<NetworkList>),
    Nodes(Reply<NodeList>),
    RemoveNode(String, Reply<()>),
    Flows(FlowQuery, Reply<FlowList>),
    FlushFlows(FlowQuery, Reply<Flushed>),
    Deny(DenyRequest, Reply<()>),
    Allow(DenyRequest, Reply<()>),
    Denied(Reply<DeniedList>),
    Status(Reply<Status>),
}

/// A way to ask the daemon. It ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Request>);

/// Requests that wait.
const QUEUE: usize = 64;

impl Handle {
    pub(super) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let ended = || Refusal::Failed(anyhow::anyhow!("the daemon is stopping"));
        self.0.send(request(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Makes an endpoint; returns when traffic can flow.
    pub async fn attach(&self, request: AttachRequest) -> Result<EndpointView, Refusal> {
        self.ask(|reply| Request::Attach(request, reply)).await
    }

    /// Removes an endpoint.
    pub async fn detach(&self, name: String) -> Result<(), Refusal> {
        self.ask(|reply| Request::Detach(name, reply)).await
    }

    /// Publishes more ports of an endpoint.
    pub async fn publish(&self, name: String, request: PublishRequest) -> Result<EndpointView, Refusal> {
        self.ask(|reply| Request::Publish(name, request, reply)).await
    }

    /// Publishes ports of an endpoint no more.
    pub async fn unpublish(&self, name: String, request: PublishRequest) -> Result<EndpointView, Refusal> {
        self.ask(|reply| Request::Unpublish(name, request, reply)).await
    }

    /// All endpoints.
    pub async fn endpoints(&self) -> Result<EndpointList, Refusal> {
        self.ask(Request::Endpoints).await
    }

    /// Makes a network.
    pub async fn create_network(&self, request: NetworkRequest) -> Result<NetworkView, Refusal> {
        self.ask(|reply| Request::CreateNetwork(request, reply)).await
    }

    /// Removes a network without endpoints.
    pub async fn remove_network(&self, name: String) -> Result<(), Refusal> {
        self.ask(|reply| Request::RemoveNetwork(name, reply)).await
    }

    /// All networks.
    pub async fn networks(&self) -> Result<NetworkList, Refusal> {
        self.ask(Request::Networks).await
    }

    /// The other nodes.
    pub async fn nodes(&self) -> Result<NodeList, Refusal> {
        self.ask(Request::Nodes).await
    }

    /// Forgets a node that is no more, and gives its slices back.
    pub async fn remove_node(&self, name: String) -> Result<(), Refusal> {
        self.ask(|reply| Request::RemoveNode(name, reply)).await
    }

    /// Translated flows.
    pub async fn flows(&self, query: FlowQuery) -> Result<FlowList, Refusal> {
        self.ask(|reply| Request::Flows(query, reply)).await
    }

    /// Removes translated flows.
    pub async fn flush_flows(&self, query: FlowQuery) -> Result<Flushed, Refusal> {
        self.ask(|reply| Request::FlushFlows(query, reply)).await
    }

    /// Denies sources.
    pub async fn deny(&self, request: DenyRequest) -> Result<(), Refusal> {
        self.ask(|reply| Request::Deny(request, reply)).await
    }

    /// Lets denied sources pass again.
    pub async fn allow(&self, request: DenyRequest) -> Result<(), Refusal> {
        self.ask(|reply| Request::Allow(request, reply)).await
    }

    /// The denied sources.
    pub async fn denied(&self) -> Result<DeniedList, Refusal> {
        self.ask(Request::Denied).await
    }

    /// How things are.
    pub async fn status(&self) -> Result<Status, Refusal> {
        self.ask(Request::Status).await
    }
}
