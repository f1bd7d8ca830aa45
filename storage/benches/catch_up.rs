//! What a catch-up costs producers: how long a message takes to become durable while others read the cold tier as
//! fast as they are answered, against the same load without them, measured in the same run.
//!
//! The load is open-loop: messages of 1 KiB come at half of the rate that 64 producers reach in a closed loop,
//! whatever became of those before, and the time of each is counted from when it was to come. Stretches without
//! readers, with readers by offset (as consumers that have fallen behind) and with scans (as SQL) take turns. The
//! files that are read fit into the system's cache: what is measured is CPU and locks, not a slow disk.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints what it measured"
)]

#[expect(dead_code, reason = "it uses a part of what the benches share")]
mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::producers::{Shape, keep_short, produce};
use common::{BODY_BYTES, Load, SHARDS, Threads, messages};
use futures::StreamExt as _;
use millpond_proto::chance::Seeded;
use millpond_proto::message::{Offset, QueueId, TopicId, shard_of};
use millpond_storage::log::{ReadLimit, Record, Storage};
use millpond_storage::tier::cold::typed::Reads;
use tokio::runtime::Handle;

const ROUNDS: u32 = 3;
const TIME: Duration = Duration::from_millis(1200);
const MAXIMUM_TIME: Duration = Duration::from_secs(2);
/// Above the topics that the log is cut by.
const COLD: TopicId = TopicId(1 << 40);
const COLD_QUEUES: u32 = 4;
const COLD_MESSAGES: u64 = 48 * 1024;
const COLD_BATCH: u64 = 512;
/// What a reader asks for at once.
const LIMIT: ReadLimit = ReadLimit {
    messages: 1024,
    bytes: 4 * 1024 * 1024,
};

/// Who reads meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Readers {
    None,
    ByOffset,
    Scans,
}

const ALL: [(Readers, &str); 3] = [
    (Readers::None, "no readers"),
    (Readers::ByOffset, "4 readers by offset"),
    (Readers::Scans, "4 scans"),
];

/// Fills the cold topic, with bodies of which zstd makes about half.
async fn fill(storage: &Storage) {
    let chance = Seeded::new(1);
    for queue in 0..COLD_QUEUES {
        for from in (0..COLD_MESSAGES).step_by(usize::try_from(COLD_BATCH).expect("it is small")) {
            let mut records = messages(COLD.0, queue, from, COLD_BATCH, &Bytes::new());
            for record in &mut records {
                let Record::Message(message) = record else {
                    continue;
                };
                let word = || format!("{:08x}", chance.below(1 << 32));
                let words: String = (0..BODY_BYTES / 8).map(|_| word()).collect();
                message.body = Some(words.into());
            }
            let shard = shard_of(COLD, QueueId(queue), SHARDS);
            let durable = storage.append(shard, records).await;
            let durable = durable.expect("the log is open");
            durable.await.expect("the disk works");
        }
    }
    storage.tier().await.expect("the disk works");
}

/// Reads a cold queue again and again until `stop`; the bytes of bodies are added to `read`.
async fn catch_up(storage: Arc<Storage>, queue: u32, stop: Arc<AtomicBool>, read: Arc<AtomicU64>) {
    let mut from = Offset(0);
    while !stop.load(Ordering::Relaxed) {
        let messages = storage.read(COLD, QueueId(queue), from, LIMIT).await;
        let messages = messages.expect("the files are whole");
        let bytes = messages.iter().filter_map(|m| m.body.as_ref());
        read.fetch_add(bytes.map(|b| b.len() as u64).sum(), Ordering::Relaxed);
        from = messages.last().map_or(Offset(0), |last| last.at().next());
    }
}

/// The same by scans of all columns that a table has.
async fn scan(storage: Arc<Storage>, queue: u32, stop: Arc<AtomicBool>, read: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let range = Offset(0)..Offset(COLD_MESSAGES);
        let mut batches = storage.scan(
            COLD,
            QueueId(queue),
            range,
            &Reads::of(&["offset", "tag", "body"]),
        );
        while let Some(batch) = batches.next().await
            && !stop.load(Ordering::Relaxed)
        {
            let rows = batch.expect("the files are whole").num_rows();
            read.fetch_add((rows * BODY_BYTES) as u64, Ordering::Relaxed);
        }
    }
}

/// Sends `per_second` messages for a while, each at its time.
fn send(storage: &Arc<Storage>, service: &Handle, topic: &AtomicU64, per_second: f64) -> Load {
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let (mut sent, mut at) = (0_u64, (0, 0));
    let start = Instant::now();
    while start.elapsed() < TIME {
        let comes = start + Duration::from_secs_f64(sent as f64 / per_second);
        if let Some(early) = comes.checked_duration_since(Instant::now()) {
            std::thread::sleep(early);
        }
        let topic = topic.load(Ordering::Relaxed);
        at = if at.0 == topic { at } else { (topic, 0) };
        // Offsets of a queue are dense: this thread alone appends to them.
        let queue = u32::try_from(sent % 64).expect("it is small");
        let records = messages(topic, queue, at.1 / 64, 1, &body);
        let shard = shard_of(TopicId(topic), QueueId(queue), SHARDS);
        let durable = service.block_on(storage.append(shard, records));
        let durable = durable.expect("the log is open");
        let latencies = Arc::clone(&latencies);
        service.spawn(async move {
            durable.await.expect("the disk works");
            let mut latencies = latencies.lock().expect("nobody panics");
            latencies.push(comes.elapsed());
        });
        (sent, at.1) = (sent + 1, at.1 + 1);
    }
    // Those that are still on their way count as well.
    let count = || latencies.lock().expect("nobody panics").len() as u64;
    while count() < sent {
        std::thread::sleep(Duration::from_millis(1));
    }
    let latencies = std::mem::take(&mut *latencies.lock().expect("nobody panics"));
    Load {
        bytes: sent * BODY_BYTES as u64,
        seconds: start.elapsed().as_secs_f64(),
        latencies,
    }
}

fn main() {
    if common::is_test() {
        return;
    }
    let folder = common::folder();
    let threads = Threads::start();
    let (service, background, reading) = (&threads.service, &threads.background, &threads.reading);
    let storage = service.block_on(common::open(&folder.path().join("log"), &threads.lanes()));
    storage.choose_wal_io();
    background.block_on(fill(&storage));
    let topic = Arc::new(AtomicU64::new(1));

    // The first stretch makes segments that later ones use again.
    let closed_loop = |batch| {
        let shape = Shape {
            producers: 64,
            batch,
        };
        service.block_on(produce(
            &storage,
            background.handle(),
            &topic,
            shape,
            MAXIMUM_TIME,
        ))
    };
    closed_loop(64);
    let maximum = closed_loop(1);
    let maximum = maximum.latencies.len() as f64 / maximum.seconds;
    let cutting = keep_short(&storage, background.handle(), &topic);
    let mut measured = ALL.map(|_| (Load::default(), 0_u64));
    for _ in 0..ROUNDS {
        for ((readers, _), (load, bytes)) in ALL.iter().zip(&mut measured) {
            // Of its own, so that offsets begin at 0 again.
            topic.fetch_add(1, Ordering::Relaxed);
            let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::default());
            let tasks: Vec<_> = (0..COLD_QUEUES)
                .filter(|_| *readers != Readers::None)
                .map(|queue| {
                    let (storage, stop) = (Arc::clone(&storage), Arc::clone(&stop));
                    let read = Arc::clone(&read);
                    match readers {
                        // Consumers are served where producers are, SQL runs apart.
                        Readers::ByOffset => service.spawn(catch_up(storage, queue, stop, read)),
                        _ => reading.spawn(scan(storage, queue, stop, read)),
                    }
                })
                .collect();
            load.add(send(&storage, service.handle(), &topic, maximum / 2.0));
            *bytes += read.load(Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
            for task in tasks {
                service.block_on(task).expect("no reader panics");
            }
        }
    }
    cutting.abort();
    service.block_on(storage.close());

    println!("64 producers in a closed loop: {maximum:.0} messages/s; open loop at half of it:");
    let mut alone = [0.0; 2];
    for ((readers, what), (load, bytes)) in ALL.iter().zip(&mut measured) {
        let at = [50, 99].map(|percent| load.quantile_us(percent));
        if *readers == Readers::None {
            alone = at;
        }
        println!(
            "{what:20} {:6.0} messages/s, p50 {:7.0} us, p99 {:7.0} us, {:6.0} MB/s caught up",
            load.latencies.len() as f64 / load.seconds,
            at[0],
            at[1],
            *bytes as f64 / load.seconds / 1e6,
        );
        if *readers != Readers::None {
            let ratio = |n: usize| at[n] / alone[n];
            println!(
                "ratio: {:.2} at p50, {:.2} at p99, with {what}",
                ratio(0),
                ratio(1)
            );
        }
    }
}
