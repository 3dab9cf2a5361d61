//! The API: HTTP/1.1 with JSON on a unix socket.
//!
//! | | | |
//! |---|---|---|
//! | `GET` | `/v1/endpoints` | all endpoints ([`EndpointList`]) |
//! | `POST` | `/v1/endpoints` | attaches one ([`AttachRequest`]), answers 201 with it ([`EndpointView`]) |
//! | `DELETE` | `/v1/endpoints/{name}` | detaches it |
//! | `POST` | `/v1/endpoints/{name}/ports` | publishes more ports of it ([`PublishRequest`]), answers with it ([`EndpointView`]) |
//! | `DELETE` | `/v1/endpoints/{name}/ports` | publishes ports of it no more (likewise) |
//! | `GET` | `/v1/networks` | all networks ([`NetworkList`]) |
//! | `POST` | `/v1/networks` | creates one ([`NetworkRequest`]), answers 201 with it ([`NetworkView`]) |
//! | `DELETE` | `/v1/networks/{name}` | removes it |
//! | `GET` | `/v1/nodes` | the other nodes ([`NodeList`]) |
//! | `DELETE` | `/v1/nodes/{name}` | forgets one that is no more |
//! | `GET` | `/v1/flows?…` | the translated flows ([`FlowList`]) that a question ([`FlowQuery`]) is about |
//! | `DELETE` | `/v1/flows?…` | removes them ([`Flushed`]) |
//! | `GET` | `/v1/deny` | the sources that are denied ([`DeniedList`]) |
//! | `POST` | `/v1/deny` | denies some ([`DenyRequest`]) |
//! | `DELETE` | `/v1/deny` | lets some pass again ([`DenyRequest`]) |
//! | `GET` | `/v1/status` | how things are ([`Status`]) |
//!
//! Errors are `{"error": "one line"}` with status 400, 404, 405, 409, 413 or 500.

pub mod client;

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::net::UnixListener;

use crate::{
    daemon::Handle,
    names,
    request::{
        AttachRequest, DeniedList, DenyRequest, EndpointList, EndpointView, FlowList, FlowQuery, Flushed,
        NetworkList, NetworkRequest, NetworkView, NodeList, PublishRequest, Refusal, Status,
    },
};

/// The longest body of a request, in bytes; the longest sensible one is a few hundred.
const MAX_BODY: usize = 64 * 1024;

/// An error, as it is sent.
#[derive(Debug, Serialize, Deserialize)]
struct ErrorBody {
    error: String,
}

/// An error on its way out.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        // It may quote what was sent.
        (self.0, Json(ErrorBody { error: names::one_line(&self.1) })).into_response()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal {
            Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Conflict(_) | Refusal::NotHeld(_) => StatusCode::CONFLICT,
            Refusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, refusal.to_string())
    }
}

/// A body that is JSON of a type; other bodies are errors of ours, not axum's plain text.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(rejection) => {
                let why = match &rejection {
                    // The cause says which field it is.
                    JsonRejection::JsonDataError(error) => source(error),
                    JsonRejection::JsonSyntaxError(error) => source(error),
                    other => other.body_text(),
                };
                // Where it is well-formed, but not what was expected, axum would say 422.
                let status = match rejection.status() {
                    StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
                    status => status,
                };
                Err(Failure(status, format!("request body: {why}")))
            }
        }
    }
}

fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Serves until `stop`, and then until the requests under way are answered.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: UnixListener,
    daemon: Handle,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    axum::serve(listener, router(daemon))
        .with_graceful_shutdown(stop)
        .await
        .context("the API's server failed")
}

fn router(daemon: Handle) -> Router {
    Router::new()
        .route("/v1/endpoints", get(endpoints).post(attach))
        .route("/v1/endpoints/{name}", delete(detach))
        .route("/v1/endpoints/{name}/ports", post(publish).delete(unpublish))
        .route("/v1/networks", get(networks).post(create_network))
        .route("/v1/networks/{name}", delete(remove_network))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", delete(remove_node))
        .route("/v1/flows", get(flows).delete(flush_flows))
        .route("/v1/deny", get(denied).post(deny).delete(allow))
        .route("/v1/status", get(status))
        .fallback(async |uri: Uri| Failure(StatusCode::NOT_FOUND, format!("no such path: {}", uri.path())))
        .method_not_allowed_fallback(async |method: Method, uri: Uri| {
            let what = format!("{method} is not a method of {}", uri.path());
            Failure(StatusCode::METHOD_NOT_ALLOWED, what)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(daemon)
}

async fn endpoints(State(daemon): State<Handle>) -> Result<Json<EndpointList>, Failure> {
    Ok(Json(daemon.endpoints().await?))
}

async fn attach(
    State(daemon): State<Handle>,
    Body(request): Body<AttachRequest>,
) -> Result<(StatusCode, Json<EndpointView>), Failure> {
    Ok((StatusCode::CREATED, Json(daemon.attach(request).await?)))
}

async fn detach(
    State(daemon): State<Handle>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Failure> {
    daemon.detach(in_path(name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn publish(
    State(daemon): State<Handle>,
    name: Result<Path<String>, PathRejection>,
    Body(request): Body<PublishRequest>,
) -> Result<Json<EndpointView>, Failure> {
    Ok(Json(daemon.publish(in_path(name)?, request).await?))
}

async fn unpublish(
    State(daemon): State<Handle>,
    name: Result<Path<String>, PathRejection>,
    Body(request): Body<PublishRequest>,
) -> Result<Json<EndpointView>, Failure> {
    Ok(Json(daemon.unpublish(in_path(name)?, request).await?))
}

async fn networks(State(daemon): State<Handle>) -> Result<Json<NetworkList>, Failure> {
    Ok(Json(daemon.networks().await?))
}

async fn create_network(
    State(daemon): State<Handle>,
    Body(request): Body<NetworkRequest>,
) -> Result<(StatusCode, Json<NetworkView>), Failure> {
    Ok((StatusCode::CREATED, Json(daemon.create_network(request).await?)))
}

async fn remove_network(
    State(daemon): State<Handle>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Failure> {
    daemon.remove_network(in_path(name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn nodes(State(daemon): State<Handle>) -> Result<Json<NodeList>, Failure> {
    Ok(Json(daemon.nodes().await?))
}

async fn remove_node(
    State(daemon): State<Handle>,
    name: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Failure> {
    daemon.remove_node(in_path(name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn flows(
    State(daemon): State<Handle>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Json<FlowList>, Failure> {
    Ok(Json(daemon.flows(in_query(query)?).await?))
}

async fn flush_flows(
    State(daemon): State<Handle>,
    query: Result<Query<FlowQuery>, QueryRejection>,
) -> Result<Json<Flushed>, Failure> {
    Ok(Json(daemon.flush_flows(in_query(query)?).await?))
}

async fn denied(State(daemon): State<Handle>) -> Result<Json<DeniedList>, Failure> {
    Ok(Json(daemon.denied().await?))
}

async fn deny(State(daemon): State<Handle>, Body(request): Body<DenyRequest>) -> Result<StatusCode, Failure> {
    daemon.deny(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn allow(
    State(daemon): State<Handle>,
    Body(request): Body<DenyRequest>,
) -> Result<StatusCode, Failure> {
    daemon.allow(request).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn status(State(daemon): State<Handle>) -> Result<Json<Status>, Failure> {
    Ok(Json(daemon.status().await?))
}

fn in_query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(rejection) => Err(Failure(rejection.status(), format!("query: {}", source(&rejection)))),
    }
}

fn in_path(name: Result<Path<String>, PathRejection>) -> Result<String, Failure> {
    match name {
        Ok(Path(name)) => Ok(name),
        Err(rejection) => Err(Failure(rejection.status(), rejection.body_text())),
    }
}
