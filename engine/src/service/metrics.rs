//! `/metrics` of the HTTP port: what an operator watches, in the text form of Prometheus.
//!
//! Counts of the disk and the object store come from [`Metrics`]; what the open log holds is asked when the page is.
//! Names are RocketMQ's where it has one. While the server starts, the page has the counts alone.

use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use millpond_storage::log::Storage;
use millpond_storage::metrics::Text;

use crate::service::http::{Pages, refuse};
use crate::tls::Peer;

/// The type of the text, as Prometheus names it.
const TEXT: &str = "text/plain; version=0.0.4";

/// Answers `/metrics`.
pub(super) async fn metrics(
    State(pages): State<Pages>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Response {
    if let Err(denied) = pages.admit(peer) {
        return refuse(&denied);
    }
    let mut text = pages.metrics.text();
    if let Some(open) = pages.gate.opened()
        && let Some(storage) = open.broker.storage()
    {
        text.push_str(&of_storage(&storage));
    }
    ([(CONTENT_TYPE, TEXT)], text).into_response()
}

fn of_storage(storage: &Storage) -> String {
    let mut text = Text::default();
    let sizes = storage.sizes();
    text.family(
        "rocketmq_storage_size",
        "gauge",
        "bytes of the log that are kept",
    );
    let labels = "storage_type=\"local\",storage_medium=\"disk\"";
    text.value("rocketmq_storage_size", labels, sizes.wal_bytes);
    let behind = sizes.hot_messages;
    text.one(
        "millpond_untiered_messages",
        "gauge",
        "messages that are not in the cold tier yet",
        behind,
    );
    if let Some(free) = storage.free_bytes() {
        text.one(
            "millpond_disk_free_bytes",
            "gauge",
            "room on the disk that the log lies on",
            free,
        );
    }
    let (cached, from_disk) = storage.hot_reads();
    let name = "millpond_hot_reads_total";
    text.family(name, "counter", "reads of what is still in the log");
    text.value(name, "from=\"cache\"", cached);
    text.value(name, "from=\"disk\"", from_disk);
    text.into_string()
}
