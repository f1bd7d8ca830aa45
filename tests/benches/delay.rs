//! Delayed messages over the wire: how late they come, how much memory the waiting ones take, and what a burst
//! costs producers.
//!
//! The server is the built binary in a process of its own. Build it first; the first number is how many
//! messages (default 1,000,000), the second within how many seconds they are due (default 60, which is
//! harder than an hour), the third how many more are due within the year (default 0):
//!
//! ```console
//! $ cargo build --release && cargo bench -p millpond-tests --bench delay -- 1000000 60 9000000
//! ```
//!
//! A word with a unit, such as `16MiB`, is the size of the server's tail cache, which is most of what it takes otherwise.

#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_proto::limits;
use millpond_proto::time::{Clock as _, SystemClock, Timestamp};
use millpond_proto::wire::admin::{CreateTopicRequest, ReadRequest};
use millpond_tests::harness::{Folder, Server};

/// Size of a body; it begins with the time that the message is due.
const BODY_BYTES: usize = 128;
/// Producers that fill the topic.
const PRODUCERS: usize = 16;
/// Messages due in the same second.
const BURST: u64 = 500_000;
/// When the messages that are due within a year begin, and over how long they are spread.
const YEAR_BEGINS: Duration = Duration::from_secs(3 * 60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Time that sending a message takes at most, to know when the first may be due.
const SEND_US: u64 = 60;

fn main() {
    let numbers: Vec<u64> = std::env::args()
        .filter_map(|word| word.parse().ok())
        .collect();
    let count = numbers.first().copied().unwrap_or(1_000_000);
    let within = Duration::from_secs(numbers.get(1).copied().unwrap_or(60));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let far = numbers.get(2).copied().unwrap_or(0);
    let cache = std::env::args().find(|word| word.ends_with("iB"));
    let cache = cache.unwrap_or_else(|| "128MiB".to_owned());
    runtime.block_on(run(count, within, far, &cache));
}

async fn run(count: u64, within: Duration, far: u64, cache: &str) {
    let serve = |folder: &Folder| folder.serve_with(&["--tail-cache", cache], &[]).unwrap();
    let folder = Folder::new();
    let server = serve(&folder);
    fill_cache(&server).await;
    spread(&server, count, within, far).await;
    drop(server);
    let folder = Folder::new();
    let server = serve(&folder);
    burst(&server).await;
    assert!(server.stop());
}

/// Messages that are due evenly over some time, among others that are due within the year.
async fn spread(server: &Server, count: u64, within: Duration, far: u64) {
    create(server, "far", "delay").await;
    create(server, "spread", "delay").await;
    let before = resident_mib(server);
    let started = now();
    let year = SystemClock.now() + YEAR_BEGINS;
    let apart_ms = u64::try_from(YEAR.as_millis()).unwrap() / far.max(1);
    fill(server, "far", far, |number| {
        year + Duration::from_millis(number * apart_ms)
    })
    .await;
    let first = SystemClock.now() + sending(count);
    let step_us = u64::try_from(within.as_micros()).unwrap() / count.max(1);
    fill(server, "spread", count, |number| {
        first + Duration::from_micros(number * step_us)
    })
    .await;
    let (sent, held) = (started.elapsed(), resident_mib(server));
    placed(server, "spread", count).await;
    let most = resident_mib(server);
    let lags = lags(server, "spread").await;
    say(&format!(
        "{far} messages due within a year and {count} within {within:?}, sent in {sent:.1?}: lag p50 {} ms, p99 {} ms, \
         most {} ms; memory {before} MiB before, most of it the log's tail cache, {held} MiB when all waited ({} more), \
         {most} MiB when the near ones had left ({} more, of which {} may be what was read ahead of its time)",
        lags[lags.len() / 2],
        lags[lags.len() * 99 / 100],
        lags[lags.len() - 1],
        held.saturating_sub(before),
        most.saturating_sub(before),
        limits::FIRE_AHEAD_BYTES_MAX / (1024 * 1024),
    ));
}

/// Many messages due in the same second, while others send.
async fn burst(server: &Server) {
    create(server, "burst", "delay").await;
    create(server, "calm", "normal").await;
    let due = SystemClock.now() + sending(BURST);
    fill(server, "burst", BURST, |number| {
        due + Duration::from_millis(number % 1000)
    })
    .await;
    let early = due.since(SystemClock.now());
    assert!(
        !early.is_zero(),
        "the messages were due before all of them were sent"
    );
    let calm = p99_of_sends(server, Duration::from_secs(3).min(early)).await;
    #[expect(clippy::disallowed_methods, reason = "a bench waits in real time")]
    tokio::time::sleep(due.since(SystemClock.now())).await;
    let (busy, ()) = tokio::join!(
        p99_of_sends(server, Duration::from_secs(5)),
        placed(server, "burst", BURST)
    );
    let lags = lags(server, "burst").await;
    say(&format!(
        "{BURST} messages due in the same second: the last left {} ms after its time; producers' p99 {calm:.1?} \
         before and {busy:.1?} meanwhile",
        lags[lags.len() - 1]
    ));
}

fn sending(count: u64) -> Duration {
    Duration::from_secs(5) + Duration::from_micros(count * SEND_US)
}

async fn create(server: &Server, name: &str, kind: &str) {
    let request = CreateTopicRequest {
        name: name.to_owned(),
        r#type: kind.to_owned(),
        ..CreateTopicRequest::default()
    };
    server.admin().create_topic(request).await.unwrap();
}

async fn fill(server: &Server, topic: &str, count: u64, due: impl Fn(u64) -> Timestamp) {
    let batch = limits::SEND_BATCH_MAX as u64;
    let due = &due;
    let tasks = (0..PRODUCERS as u64).map(|lane| {
        let producer = Producer::new(&server.client());
        async move {
            let mut from = lane * batch;
            while from < count {
                let numbers = from..(from + batch).min(count);
                let messages = numbers.map(|number| {
                    let at = due(number);
                    let mut body = at.as_ms().to_string().into_bytes();
                    body.resize(BODY_BYTES, b' ');
                    OutgoingMessage::new(Bytes::from(body)).deliver_at(at)
                });
                for sent in producer
                    .send_batch(topic, messages.collect())
                    .await
                    .unwrap()
                {
                    sent.unwrap();
                }
                from += batch * PRODUCERS as u64;
            }
        }
    });
    futures::future::join_all(tasks).await;
}

/// Waits until as many messages as were sent lie in the topic's queues.
async fn placed(server: &Server, topic: &str, count: u64) {
    loop {
        let described = server.admin().describe_topic(topic).await.unwrap();
        let ranges = described.ranges.iter();
        if ranges.map(|range| range.next - range.first).sum::<u64>() >= count {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "a bench waits in real time")]
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How long after its time each message was stored in its queue, ms, ascending.
async fn lags(server: &Server, topic: &str) -> Vec<i64> {
    let admin = server.admin();
    let mut lags = Vec::new();
    for queue in 0..limits::QUEUES_DEFAULT {
        let mut from = 0;
        loop {
            let request = ReadRequest {
                topic: topic.to_owned(),
                queue,
                from,
                limit: 1024,
            };
            let read = admin.read_topic(request).await.unwrap();
            if read.messages.is_empty() {
                break;
            }
            from = read.next;
            for message in read.messages {
                let body = String::from_utf8(message.body.unwrap().to_vec()).unwrap();
                let due: i64 = body.trim().parse().unwrap();
                let at = message.stored_at.unwrap();
                let stored = at.seconds * 1000 + i64::from(at.nanos) / 1_000_000;
                assert!(stored >= due, "no message comes early");
                lags.push(stored - due);
            }
        }
    }
    lags.sort_unstable();
    lags
}

/// Fills the cache of the log's tail, whose size is a setting and no matter of what waits.
async fn fill_cache(server: &Server) {
    create(server, "filler", "normal").await;
    let tasks = (0..PRODUCERS).map(|_| {
        let producer = Producer::new(&server.client());
        async move {
            for _ in 0..160 {
                let body = Bytes::from(vec![b'x'; 64 * 1024]);
                producer
                    .send("filler", OutgoingMessage::new(body))
                    .await
                    .unwrap();
            }
        }
    });
    futures::future::join_all(tasks).await;
}

async fn p99_of_sends(server: &Server, time: Duration) -> Duration {
    let until = now() + time;
    let tasks = (0..8).map(|_| {
        let producer = Producer::new(&server.client());
        async move {
            let mut took = Vec::new();
            while now() < until {
                let started = now();
                let message = OutgoingMessage::new(vec![b'x'; 1024]);
                producer.send("calm", message).await.unwrap();
                took.push(started.elapsed());
            }
            took
        }
    });
    let mut took: Vec<Duration> = futures::future::join_all(tasks).await.concat();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// Memory of the server but for the pages of its binary, which the system lends and takes back.
fn resident_mib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures the real passing of time"
)]
fn now() -> Instant {
    Instant::now()
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
}
