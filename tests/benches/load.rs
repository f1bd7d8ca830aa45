//! Whole-system load over the wire: durable sends, pops with acks, and bounded queries.
//!
//! The server is the built binary in a process of its own, so its CPU time is told apart from the
//! clients'. Figures are ratios against something measured in the same run, or CPU time per unit, since
//! machines are shared and noisy. Build the server first:
//!
//! ```console
//! $ cargo build --release && cargo bench -p millpond-tests --bench load
//! ```

#![expect(clippy::unwrap_used, reason = "a bench that fails ends")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_proto::client::{OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::wire::admin::CreateTopicRequest;
use millpond_tests::harness::{Folder, Server};

/// Producers that each wait for an answer before they send again.
const PRODUCERS: usize = 64;
/// Messages per producer.
const MESSAGES: usize = 400;
/// Size of a body.
const BODY_BYTES: usize = 1024;
/// Rows for the queries.
const ROWS: usize = 200_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run());
}

async fn run() {
    let folder = Folder::new();
    let server = folder.serve();
    let mut out = std::io::stdout();
    let raw = raw_writes(&folder);
    writeln!(out, "raw 64 KiB write + fdatasync: {raw:.0} a second").unwrap();

    sends(&server, raw, &mut out).await;
    pops(&server, &mut out).await;
    queries(&server, &mut out).await;
    assert!(server.stop());
}

/// Durable sends of one message each by many producers in closed loops.
async fn sends(server: &Server, raw: f64, out: &mut impl std::io::Write) {
    create(server, "load", Vec::new()).await;
    let (before, started) = (cpu(server), now());
    let mut tasks = Vec::new();
    for number in 0..PRODUCERS {
        let producer = Producer::new(&server.client());
        tasks.push(async move {
            for turn in 0..MESSAGES {
                let body = Bytes::from(vec![b'x'; BODY_BYTES]);
                let message = OutgoingMessage::new(body).with_key(format!("{number}-{turn}"));
                producer.send("load", message).await.unwrap();
            }
        });
    }
    futures::future::join_all(tasks).await;
    let (elapsed, spent) = (started.elapsed(), cpu(server) - before);
    let count = (PRODUCERS * MESSAGES) as f64;
    let rate = count / elapsed.as_secs_f64();
    writeln!(
        out,
        "durable sends of 1 KiB, {PRODUCERS} producers: {rate:.0} a second = {:.1} per raw durable \
         write; {:.1} us of server CPU each",
        rate / raw,
        spent.as_secs_f64() * 1e6 / count
    )
    .unwrap();
}

/// Two consumers of one group take and acknowledge what was sent.
async fn pops(server: &Server, out: &mut impl std::io::Write) {
    let (before, started) = (cpu(server), now());
    let consume = || async {
        let consumer = SimpleConsumer::new(&server.client(), "loaders", "load");
        let mut count = 0;
        loop {
            let messages = consumer
                .receive(32, Duration::from_secs(60), Duration::from_millis(500))
                .await
                .unwrap();
            if messages.is_empty() {
                return count;
            }
            count += messages.len();
            consumer.ack_all(&messages).await.unwrap();
        }
    };
    let (a, b) = tokio::join!(consume(), consume());
    let elapsed = started.elapsed().saturating_sub(Duration::from_millis(500));
    assert_eq!(
        a + b,
        PRODUCERS * MESSAGES,
        "each message is delivered once"
    );
    let count = (a + b) as f64;
    writeln!(
        out,
        "pops with acks, 2 consumers: {:.0} messages a second; {:.1} us of server CPU each",
        count / elapsed.as_secs_f64(),
        (cpu(server) - before).as_secs_f64() * 1e6 / count
    )
    .unwrap();
}

/// A bounded aggregate over JSON bodies in the log, then over the same rows in Parquet.
async fn queries(server: &Server, out: &mut impl std::io::Write) {
    let columns = ["carrier VARCHAR", "delay BIGINT", "distance DOUBLE"].map(|column| {
        let (name, sql_type) = column.split_once(' ').unwrap();
        millpond_proto::wire::admin::Column {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: String::new(),
        }
    });
    create(server, "rows", columns.to_vec()).await;
    let producer = Producer::new(&server.client());
    for from in (0..ROWS).step_by(1000) {
        let batch = (from..from + 1000).map(|row| {
            OutgoingMessage::new(format!(
                r#"{{"carrier":"C{}","delay":{},"distance":{}.5}}"#,
                row % 16,
                row % 300,
                row % 2500
            ))
        });
        producer.send_batch("rows", batch.collect()).await.unwrap();
    }
    let sql = "SELECT carrier, count(*), avg(delay), max(distance) FROM rows GROUP BY carrier";
    measure(server, "JSON bodies in the log", sql, out);
    server.admin().tier().await.unwrap();
    measure(server, "JSON bodies in Parquet", sql, out);
    measure(
        server,
        "system columns in Parquet",
        "SELECT _queue, count(*), max(_stored_at) FROM rows GROUP BY _queue",
        out,
    );
}

fn measure(server: &Server, what: &str, sql: &str, out: &mut impl std::io::Write) {
    const TURNS: u32 = 5;
    let before = cpu(server);
    for _ in 0..TURNS {
        assert!(!server.rows(sql).is_empty());
    }
    let spent = (cpu(server) - before) / TURNS;
    writeln!(
        out,
        "SELECT over {ROWS} rows, {what}: {:.0} rows per CPU-second",
        ROWS as f64 / spent.as_secs_f64()
    )
    .unwrap();
}

async fn create(server: &Server, name: &str, columns: Vec<millpond_proto::wire::admin::Column>) {
    let request = CreateTopicRequest {
        name: name.to_owned(),
        columns,
        ..CreateTopicRequest::default()
    };
    server.admin().create_topic(request).await.unwrap();
}

/// Durable writes of 64 KiB a second, one after the other, on the file system of the data folder.
fn raw_writes(folder: &Folder) -> f64 {
    const COUNT: u32 = 500;
    let path = folder.beside("raw");
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .unwrap();
    let block = vec![7_u8; 64 * 1024];
    let started = now();
    for turn in 0..COUNT {
        file.write_all_at(&block, u64::from(turn) * block.len() as u64)
            .unwrap();
        file.sync_data().unwrap();
    }
    let rate = f64::from(COUNT) / started.elapsed().as_secs_f64();
    std::fs::remove_file(path).unwrap();
    rate
}

/// CPU time that the server's process has used, by the kernel's count of its user and system ticks.
fn cpu(server: &Server) -> Duration {
    const TICKS_A_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.id())).unwrap();
    // The name stands in brackets and may hold blanks; what follows it does not.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / TICKS_A_SECOND)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a bench measures the real passing of time"
)]
fn now() -> Instant {
    Instant::now()
}
