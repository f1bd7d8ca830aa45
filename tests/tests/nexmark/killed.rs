//! Views of Nexmark on a real server over the wire that is killed with -9 at any moment of their epochs: DuckDB's answers.
//!
//! Only between two sends is it killed, so that each event is stored once; what the views were at, nobody knows. In each
//! life they are computed in another number of lanes. The queries are those whose answer does not hang on which queue an event lies in.

use std::fs;
use std::time::Duration;

use millpond_proto::chance::Seeded;
use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_proto::time::{Clock as _, SystemClock};
use millpond_tests::harness::{Folder, Server, eventually, workspace};

use super::events::{Sent, TOPICS, events};
use super::{EVENTS, answers, digest};

/// Views, and their columns; times as milliseconds.
const VIEWS: [(&str, &str); 6] = [
    ("q3", "name, city, state, id"),
    (
        "q5",
        "auction, num, CAST(window_start AS BIGINT), CAST(window_end AS BIGINT)",
    ),
    ("q8", "id, name, CAST(window_start AS BIGINT)"),
    (
        "q11",
        "bidder, bids, CAST(window_start AS BIGINT), CAST(window_end AS BIGINT)",
    ),
    (
        "q16",
        "channel, day, minute, total_bids, rank1_bids, rank2_bids, rank3_bids, total_bidders, rank1_bidders, \
         rank2_bidders, rank3_bidders, total_auctions, rank1_auctions, rank2_auctions, rank3_auctions",
    ),
    (
        "q20",
        "auction, bidder, price, channel, CAST(date_time AS BIGINT), item_name, initial_bid, reserve, \
         CAST(auction_time AS BIGINT), CAST(expires AS BIGINT), seller, category",
    ),
];
const LIVES: usize = 8;
/// Events sent in one go.
const TOGETHER: usize = 30;
const LIMIT: Duration = Duration::from_secs(120);

async fn send(server: &Server, sent: &[Sent]) {
    let producer = Producer::new(&server.client());
    for (index, (topic, _)) in TOPICS.iter().enumerate() {
        let messages = sent.iter().filter(|sent| sent.topic == index);
        let messages: Vec<OutgoingMessage> = messages
            .map(|sent| OutgoingMessage::new(sent.body.clone()))
            .collect();
        if messages.is_empty() {
            continue;
        }
        for answer in producer.send_batch(topic, messages).await.unwrap() {
            answer.unwrap();
        }
    }
}

fn rows(server: &Server, view: &str, columns: &str) -> Vec<String> {
    let rows = server.rows(&format!("SELECT {columns} FROM {view}"));
    let text = |row: Vec<String>| row.into_iter().map(|cell| cell + "|").collect();
    rows.into_iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_over_the_wire_equal_duckdb_through_kills() {
    let folder = Folder::new();
    let chance = Seeded::new(7);
    let nexmark = workspace().join("tests/nexmark");
    let events = events(EVENTS);
    for (life, share) in events.chunks(events.len().div_ceil(LIVES)).enumerate() {
        let server = folder.serve();
        if life == 0 {
            let topics = fs::read_to_string(nexmark.join("topics.sql")).unwrap();
            let _ = server.millpond(&["sql", &format!("--command={topics}")]);
            for (view, _) in VIEWS {
                let query = fs::read_to_string(nexmark.join(format!("{view}.sql"))).unwrap();
                let create = format!("CREATE MATERIALIZED VIEW {view} AS {query}");
                let _ = server.millpond(&["sql", &format!("--command={create}")]);
            }
        }
        let lanes = (life % 3 + 1).to_string();
        for (view, _) in VIEWS {
            let _ = server.millpond(&["job", "alter", view, "--parallelism", &lanes]);
        }
        for sent in share.chunks(TOGETHER) {
            send(&server, sent).await;
            SystemClock
                .sleep(Duration::from_millis(chance.below(60)))
                .await;
        }
        server.kill();
    }
    let server = folder.serve();
    let answers = answers();
    for (view, columns) in VIEWS {
        let (count, expected) = &answers[view];
        eventually(view, LIMIT, async || {
            let found = rows(&server, view, columns);
            found.len() == *count && digest(&found) == *expected
        })
        .await;
        let state = server.rows(&format!(
            "SELECT state, rows_late FROM millpond.jobs WHERE name = '{view}'"
        ));
        assert_eq!(state, [["running", "0"]], "{view}");
    }
    assert!(server.stop());
}
