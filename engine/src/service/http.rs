//! The HTTP port: health pages and a front door.
//!
//! `/livez` answers 200 while the process runs, `/readyz` 200 only while calls are served and 503 with
//! the reason otherwise, `/` names the version and the ports, `/metrics` is for Prometheus ([`crate::service::metrics`]). Below `/v1` is the catalog of tables, see
//! [`crate::service::iceberg`].

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use millpond_storage::metrics::Metrics;
use serde::Serialize;

use crate::authorize::{Action, Resource};
use crate::service::gate::{Denied, Gate, Phase};
use crate::service::{iceberg, metrics};
use crate::tls::Peer;

/// What the pages know.
#[derive(Clone, Debug)]
pub struct Pages {
    /// The one way in.
    pub gate: Arc<Gate>,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// What is counted of disk and object store.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, Serialize)]
struct Home {
    name: &'static str,
    version: &'static str,
    grpc: String,
    http: String,
    state: &'static str,
}

/// The pages of the HTTP port.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(home))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::metrics))
        .merge(iceberg::router())
        .with_state(pages)
}

impl Pages {
    pub(super) fn admit(&self, peer: Peer) -> Result<(), Denied> {
        self.gate
            .admit_peer(peer.address, Action::Describe, Resource::Server)
            .map(|_admitted| ())
    }
}

async fn home(State(pages): State<Pages>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if let Err(denied) = pages.admit(peer) {
        return refuse(&denied);
    }
    let home = Home {
        name: "millpond",
        version: env!("CARGO_PKG_VERSION"),
        grpc: pages.grpc.to_string(),
        http: pages.http.to_string(),
        state: word(pages.gate.phase()),
    };
    Json(home).into_response()
}

async fn live(State(pages): State<Pages>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    match pages.admit(peer) {
        Ok(()) => "ok\n".into_response(),
        Err(denied) => refuse(&denied),
    }
}

async fn ready(State(pages): State<Pages>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    if let Err(denied) = pages.admit(peer) {
        return refuse(&denied);
    }
    match pages.gate.phase() {
        Phase::Serving => "ready\n".into_response(),
        Phase::Starting => refuse(&Denied::Starting),
        Phase::Stopping => refuse(&Denied::Stopping),
    }
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Stopping => "stopping",
    }
}

pub(super) fn refuse(denied: &Denied) -> Response {
    let code = match denied {
        Denied::Refused(_) => StatusCode::FORBIDDEN,
        Denied::NoPeer => StatusCode::INTERNAL_SERVER_ERROR,
        Denied::Starting | Denied::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, format!("{denied}\n")).into_response()
}
