//! `/metrics` of the HTTP port: what an operator watches, in the text form of Prometheus.
//!
//! Counts of the disk and the object store come from [`millpond_storage::metrics`]; what the open log holds is asked when the page is,
//! and so are what groups and continuous queries have before them (`metrics/work.rs`) and what went in and out of topics
//! (`metrics/traffic.rs`).
//! Names are RocketMQ's where it has one. While the server starts, the page has the counts alone.

use axum::extract::{ConnectInfo, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use millpond_storage::log::Storage;
use millpond_storage::log::counts::{Appended, AtRest};
use millpond_storage::metrics::Text;

use crate::service::http::{Pages, refuse};
use crate::tls::Peer;

mod traffic;
mod work;

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
    if let Some(open) = pages.gate.opened() {
        if let Some(storage) = open.broker.storage() {
            text.push_str(&of_storage(&storage));
        }
        let mut more = Text::default();
        traffic::of_topics(&mut more, &open.broker);
        work::of_groups(&mut more, &open.broker).await;
        work::of_queries(&mut more, &open.sql.jobs());
        text.push_str(&more.into_string());
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
    of_appends(&mut text, &storage.appended());
    of_tiers(&mut text, &storage.at_rest());
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

fn of_appends(text: &mut Text, appended: &Appended) {
    let counts = [
        (
            "millpond_appended_records_total",
            "messages and changes of state that became durable",
            appended.records,
        ),
        (
            "millpond_appended_bytes_total",
            "bytes of those records",
            appended.bytes,
        ),
        (
            "millpond_append_groups_total",
            "blocks that they became durable in, one write and one sync each",
            appended.groups,
        ),
    ];
    for (name, what, count) in counts {
        text.one(name, "counter", what, count);
    }
}

fn of_tiers(text: &mut Text, at_rest: &AtRest) {
    let name = "millpond_stored_bytes";
    let what = "bytes at rest: messages that lie in the log alone, and Parquet files";
    text.family(name, "gauge", what);
    text.value(name, "tier=\"hot\"", at_rest.hot_bytes);
    text.value(name, "tier=\"cold\"", at_rest.cold_bytes);
    let what = "Parquet files that topics consist of";
    text.one("millpond_stored_files", "gauge", what, at_rest.cold_files);
}
