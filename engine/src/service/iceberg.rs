//! A read-only Iceberg REST catalog: topics as tables, for pyiceberg, Spark, Trino and whoever speaks it.
//!
//! One namespace, [`NAMESPACE`], holds every topic that has something in the cold tier. A table is answered with
//! its metadata inline; the files it names are read where they lie. Tables are written by sending messages, so
//! whatever would change one is refused and says so.
//!
//! Source: the Iceberg REST catalog API, `open-api/rest-catalog-open-api.yaml` of Apache Iceberg.

use axum::extract::{ConnectInfo, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::authorize::{Action, Resource};
use crate::service::gate::Denied;
use crate::service::http::Pages;
use crate::tls::Peer;

/// The namespace of all tables.
pub const NAMESPACE: &str = "topics";

/// What stands between the levels of a namespace in a path.
const UNIT_SEPARATOR: char = '\u{1f}';

/// The routes of the catalog.
pub fn router() -> Router<Pages> {
    let read_only = |reads: MethodRouter<Pages>| reads.fallback(refuse_write);
    Router::new()
        .route("/v1/config", read_only(get(config)))
        .route("/v1/namespaces", read_only(get(namespaces)))
        .route("/v1/namespaces/{namespace}", read_only(get(namespace)))
        .route("/v1/namespaces/{namespace}/tables", read_only(get(tables)))
        .route(
            "/v1/namespaces/{namespace}/tables/{table}",
            read_only(get(table).head(has_table)),
        )
        .route(
            "/v1/namespaces/{namespace}/tables/{table}/metrics",
            read_only(post(metrics)),
        )
        .route("/v1/namespaces/{namespace}/views", read_only(get(views)))
        .route("/v1/{*rest}", axum::routing::any(unknown))
}

/// Why a request is not answered, in the catalog's form.
struct Refusal {
    code: StatusCode,
    kind: &'static str,
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"error": {
            "message": self.message,
            "type": self.kind,
            "code": self.code.as_u16(),
        }});
        (self.code, Json(body)).into_response()
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        let (code, kind) = match denied {
            Denied::Refused(_) => (StatusCode::FORBIDDEN, "ForbiddenException"),
            Denied::NoPeer => (StatusCode::INTERNAL_SERVER_ERROR, "ServerErrorException"),
            Denied::Starting | Denied::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                "ServiceUnavailableException",
            ),
        };
        Self {
            code,
            kind,
            message: denied.to_string(),
        }
    }
}

fn no_namespace(name: &str) -> Refusal {
    let name = name.replace(UNIT_SEPARATOR, ".");
    Refusal {
        code: StatusCode::NOT_FOUND,
        kind: "NoSuchNamespaceException",
        message: format!("namespace {name} does not exist; topics are in namespace {NAMESPACE}"),
    }
}

fn no_table(name: &str) -> Refusal {
    Refusal {
        code: StatusCode::NOT_FOUND,
        kind: "NoSuchTableException",
        message: format!(
            "topic {name} is no table: it does not exist, or none of its messages is in the cold tier \
             yet (millpond storage tier moves them), or it is of a family, which is the table then"
        ),
    }
}

async fn config(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Result<Json<Value>, Refusal> {
    describe(&pages, peer)?;
    Ok(Json(json!({
        "defaults": {},
        "overrides": {},
        "endpoints": [
            "GET /v1/{prefix}/namespaces",
            "GET /v1/{prefix}/namespaces/{namespace}",
            "HEAD /v1/{prefix}/namespaces/{namespace}",
            "GET /v1/{prefix}/namespaces/{namespace}/tables",
            "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
            "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
            "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
        ],
    })))
}

async fn namespaces(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Refusal> {
    describe(&pages, peer)?;
    let parts = query.iter().flat_map(|query| query.split('&'));
    let found = match parts.filter_map(|part| part.strip_prefix("parent=")).next() {
        None | Some("") => json!([[NAMESPACE]]),
        Some(NAMESPACE) => json!([]),
        Some(other) => return Err(no_namespace(other)),
    };
    Ok(Json(json!({"namespaces": found})))
}

async fn namespace(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(namespace): Path<String>,
) -> Result<Json<Value>, Refusal> {
    describe(&pages, peer)?;
    known(&namespace)?;
    let properties =
        json!({"comment": "topics of this Millpond that have messages in the cold tier"});
    Ok(Json(
        json!({"namespace": [NAMESPACE], "properties": properties}),
    ))
}

async fn tables(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(namespace): Path<String>,
) -> Result<Json<Value>, Refusal> {
    known(&namespace)?;
    let admitted = pages
        .gate
        .admit_peer(peer.address, Action::Describe, Resource::Server)?;
    let names = admitted.broker()?.tables().into_iter();
    let names: Vec<Value> = names
        .map(|name| json!({"namespace": [NAMESPACE], "name": name}))
        .collect();
    Ok(Json(json!({"identifiers": names})))
}

async fn table(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    known(&namespace)?;
    load(&pages, peer, &name).await.map(Json)
}

async fn has_table(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    known(&namespace)?;
    load(&pages, peer, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// No views: clients ask for them beside the tables.
async fn views(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path(namespace): Path<String>,
) -> Result<Json<Value>, Refusal> {
    describe(&pages, peer)?;
    known(&namespace)?;
    Ok(Json(json!({"identifiers": []})))
}

/// Takes a client's report of a scan, which nobody reads.
async fn metrics(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    known(&namespace)?;
    let resource = Resource::Topic(&name);
    let _admitted = pages
        .gate
        .admit_peer(peer.address, Action::Read, resource)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn refuse_write() -> Refusal {
    Refusal {
        code: StatusCode::NOT_ACCEPTABLE,
        kind: "UnsupportedOperationException",
        message:
            "this catalog is read-only: a table is a topic; create it, send to it and alter it \
                  with millpond topic, a client of RocketMQ, or millpond sql"
                .to_owned(),
    }
}

async fn unknown() -> Refusal {
    Refusal {
        code: StatusCode::NOT_FOUND,
        kind: "NotFoundException",
        message: "this catalog has namespaces and tables, read-only; see /v1/config for its paths"
            .to_owned(),
    }
}

fn describe(pages: &Pages, peer: Peer) -> Result<(), Refusal> {
    let gate = &pages.gate;
    let _admitted = gate.admit_peer(peer.address, Action::Describe, Resource::Server)?;
    Ok(())
}

fn known(namespace: &str) -> Result<(), Refusal> {
    if namespace == NAMESPACE {
        return Ok(());
    }
    Err(no_namespace(namespace))
}

async fn load(pages: &Pages, peer: Peer, name: &str) -> Result<Value, Refusal> {
    let admitted = pages
        .gate
        .admit_peer(peer.address, Action::Read, Resource::Topic(name))?;
    let failed = |message: String| Refusal {
        code: StatusCode::SERVICE_UNAVAILABLE,
        kind: "ServiceUnavailableException",
        message,
    };
    let found = admitted.broker()?.table(name).await;
    let found = found.map_err(|error| failed(error.to_string()))?;
    let table = found.ok_or_else(|| no_table(name))?;
    let metadata: Value = serde_json::from_slice(&table.json).map_err(|error| {
        failed(format!(
            "{} is damaged ({error}); it is made anew with the topic's next file",
            table.location
        ))
    })?;
    Ok(json!({
        "metadata-location": table.location,
        "metadata": metadata,
        "config": {},
    }))
}
