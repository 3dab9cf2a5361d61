//! The other end of the API: what the commands use.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::ErrorBody;
use crate::{
    names,
    request::{
        AttachRequest, DeniedList, DenyRequest, EndpointList, EndpointView, FlowList, FlowQuery, Flushed,
        NetworkList, NetworkRequest, NetworkView, NodeList, PublishRequest, Status,
    },
};

/// A daemon, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// How long an answer may take.
    patience: Duration,
}

/// Longer than any request takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    /// The daemon at a socket. Each request makes its own connection.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), patience: PATIENCE }
    }

    /// Makes an endpoint.
    ///
    /// # Errors
    /// For this and all others: no daemon answers, or it refuses; in one line.
    pub async fn attach(&self, request: &AttachRequest) -> Result<EndpointView> {
        self.json(Method::POST, "/v1/endpoints", Some(request)).await
    }

    /// Removes an endpoint.
    pub async fn detach(&self, name: &str) -> Result<()> {
        // What is no name needs no daemon to be refused, and could not be part of a path.
        names::check(name).context("endpoint name")?;
        self.request(Method::DELETE, &format!("/v1/endpoints/{name}"), None::<&()>).await.map(drop)
    }

    /// Publishes more ports of an endpoint.
    pub async fn publish(&self, name: &str, request: &PublishRequest) -> Result<EndpointView> {
        names::check(name).context("endpoint name")?;
        self.json(Method::POST, &format!("/v1/endpoints/{name}/ports"), Some(request)).await
    }

    /// Publishes ports of an endpoint no more.
    pub async fn unpublish(&self, name: &str, request: &PublishRequest) -> Result<EndpointView> {
        names::check(name).context("endpoint name")?;
        self.json(Method::DELETE, &format!("/v1/endpoints/{name}/ports"), Some(request)).await
    }

    /// All endpoints.
    pub async fn endpoints(&self) -> Result<EndpointList> {
        self.json(Method::GET, "/v1/endpoints", None::<&()>).await
    }

    /// Makes a network.
    pub async fn create_network(&self, request: &NetworkRequest) -> Result<NetworkView> {
        self.json(Method::POST, "/v1/networks", Some(request)).await
    }

    /// Removes a network.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        names::check(name).context("network name")?;
        self.request(Method::DELETE, &format!("/v1/networks/{name}"), None::<&()>).await.map(drop)
    }

    /// The other nodes.
    ///
    /// # Errors
    /// No daemon answers, or not so.
    pub async fn nodes(&self) -> Result<NodeList> {
        self.json(Method::GET, "/v1/nodes", None::<&()>).await
    }

    /// Forgets a node that is no more.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn remove_node(&self, name: &str) -> Result<()> {
        names::check(name).context("node name")?;
        self.request(Method::DELETE, &format!("/v1/nodes/{name}"), None::<&()>).await.map(drop)
    }

    /// Translated flows.
    ///
    /// # Errors
    /// The daemon refuses: there is no such endpoint.
    pub async fn flows(&self, query: &FlowQuery) -> Result<FlowList> {
        self.json(Method::GET, &format!("/v1/flows{}", text(query)?), None::<&()>).await
    }

    /// Removes translated flows.
    ///
    /// # Errors
    /// As [`Client::flows`].
    pub async fn flush_flows(&self, query: &FlowQuery) -> Result<Flushed> {
        self.json(Method::DELETE, &format!("/v1/flows{}", text(query)?), None::<&()>).await
    }

    /// Denies sources.
    ///
    /// # Errors
    /// The daemon refuses.
    pub async fn deny(&self, request: &DenyRequest) -> Result<()> {
        self.request(Method::POST, "/v1/deny", Some(request)).await.map(drop)
    }

    /// Lets denied sources pass again.
    ///
    /// # Errors
    /// The daemon refuses: one is not denied.
    pub async fn allow(&self, request: &DenyRequest) -> Result<()> {
        self.request(Method::DELETE, "/v1/deny", Some(request)).await.map(drop)
    }

    /// The denied sources.
    ///
    /// # Errors
    /// No daemon answers, or not so.
    pub async fn denied(&self) -> Result<DeniedList> {
        self.json(Method::GET, "/v1/deny", None::<&()>).await
    }

    /// All networks.
    pub async fn networks(&self) -> Result<NetworkList> {
        self.json(Method::GET, "/v1/networks", None::<&()>).await
    }

    /// How things are.
    pub async fn status(&self) -> Result<Status> {
        self.json(Method::GET, "/v1/status", None::<&()>).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T> {
        let answer = self.request(method, path, body).await?;
        serde_json::from_slice(&answer)
            .context("the daemon's answer is not understood: is it another version of netd?")
    }

    /// Sends a request; returns the body of a successful answer.
    async fn request(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes> {
        match tokio::time::timeout(self.patience, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => bail!(
                "the daemon at {} has not answered for {} s: does it hang? What it was asked for may still be done",
                self.socket.display(),
                self.patience.as_secs()
            ),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Bytes> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);

        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "netd");
        let bytes = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                serde_json::to_vec(body)?.into()
            }
            None => Bytes::new(),
        };
        let lost = || format!("the daemon at {} has not answered", self.socket.display());
        let answer = sender.send_request(request.body(Full::new(bytes))?).await.with_context(lost)?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.with_context(lost)?.to_bytes();
        connection.abort();
        if !status.is_success() {
            match serde_json::from_slice::<ErrorBody>(&bytes) {
                Ok(body) => bail!("{}", body.error),
                Err(_) => bail!("{} answers with status {status}: is it netd?", self.socket.display()),
            }
        }
        Ok(bytes)
    }

    fn unreachable(&self, error: &io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                anyhow!("no netd daemon answers at {socket}: start one with `netd run`")
            }
            io::ErrorKind::PermissionDenied => {
                anyhow!("no permission for {socket}: run this as root, e.g. with `sudo`")
            }
            _ => anyhow!("cannot connect to {socket}: {error}"),
        }
    }
}

/// A question as the end of a URI. Nothing in it needs an escape: names are checked, the rest are numbers and words.
fn text(query: &FlowQuery) -> Result<String> {
    if let Some(name) = &query.endpoint {
        names::check(name).context("endpoint name")?;
    }
    let fields = serde_json::to_value(query)?;
    let mut text = String::new();
    for (key, value) in fields.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text += &format!("{}{key}={value}", if text.is_empty() { '?' } else { '&' });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        let expected = format!("no netd daemon answers at {}: start one with `netd run`", path.display());
        let client = Client::new(&path);
        assert_eq!(client.status().await.unwrap_err().to_string(), expected);
        // A socket that nobody listens at.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(client.endpoints().await.unwrap_err().to_string(), expected);
    }

    #[tokio::test]
    async fn a_daemon_that_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let client = Client { patience: Duration::from_millis(10), ..Client::new(&path) };
        let error = client.status().await.unwrap_err().to_string();
        assert!(error.contains("has not answered for"), "{error}");
    }
}
