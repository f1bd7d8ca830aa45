//! Reopening a log of 1 GiB (`MILLPOND_BENCH_MIB` sets another size) against plain reading of the same files,
//! measured in the same run: from the disk, with nothing of them in the system's cache, and from the cache.
//!
//! The log was not checkpointed, so all of it is replayed: each record is read, checked and handed to a
//! projection that keeps nothing; each message gets its place in the index of its queue.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench reads the clock and prints what it measured"
)]

#[expect(dead_code, reason = "it uses a part of what the benches share")]
mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{BODY_BYTES, SHARDS, Threads, messages};
use millpond_proto::message::{QueueId, TopicId, shard_of};
use millpond_storage::log::Storage;

const QUEUES: u32 = 64;
const BATCH: u64 = 64;
const MIB: u64 = 1024 * 1024;
const ROUNDS: usize = 3;

async fn fill(storage: &Storage, bytes: u64) {
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let batches = bytes / (u64::from(QUEUES) * BATCH * BODY_BYTES as u64);
    let producer = |queue: u32| {
        let body = &body;
        async move {
            let shard = shard_of(TopicId(1), QueueId(queue), SHARDS);
            for batch in 0..batches {
                let records = messages(1, queue, batch * BATCH, BATCH, body);
                let durable = storage
                    .append(shard, records)
                    .await
                    .expect("the log is open");
                durable.await.expect("the disk works");
            }
        }
    };
    futures::future::join_all((0..QUEUES).map(producer)).await;
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("wal/0")).expect("the log is there");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    let mut segments: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    segments
}

/// Drops what the system's cache holds of the log.
fn forget_cache(segments: &[PathBuf]) {
    for path in segments {
        let file = File::open(path).expect("the segment is there");
        file.sync_all().expect("the disk works");
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .expect("the system takes advice");
    }
}

fn read_all(segments: &[PathBuf]) -> (u64, Duration) {
    let start = Instant::now();
    let mut buffer = vec![0; 1024 * 1024];
    let mut bytes = 0;
    for path in segments {
        let file = File::open(path).expect("the segment is there");
        let mut at = 0;
        loop {
            let count = file.read_at(&mut buffer, at).expect("the disk works") as u64;
            if count == 0 {
                break;
            }
            at += count;
        }
        bytes += at;
    }
    (bytes, start.elapsed())
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times
        .get(times.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
}

fn main() {
    if common::is_test() {
        return;
    }
    let size = std::env::var("MILLPOND_BENCH_MIB").ok();
    let mib: u64 = size.map_or(1024, |size| size.parse().expect("a number of MiB"));
    let folder = common::folder();
    let data = folder.path().join("log");
    let threads = Threads::start();
    let service = &threads.service;
    service.block_on(async {
        let storage = common::open(&data, &threads.lanes()).await;
        fill(&storage, mib * MIB).await;
        storage.close().await;
    });
    for is_cold in [true, false] {
        let (mut raw, mut ours, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            let files = segments(&data);
            if is_cold {
                forget_cache(&files);
            } else {
                read_all(&files);
            }
            let (count, time) = read_all(&files);
            bytes = count;
            raw.push(time);
            if is_cold {
                forget_cache(&files);
            }
            let start = Instant::now();
            let storage = service.block_on(common::open(&data, &threads.lanes()));
            ours.push(start.elapsed());
            assert!(storage.sizes().hot_messages > 0, "it was all replayed");
            service.block_on(storage.close());
        }
        let (raw, ours) = (median(raw), median(ours));
        let place = if is_cold { "disk" } else { "cache" };
        let mib = bytes as f64 / MIB as f64;
        println!(
            "from the {place}: {mib:.0} MiB read in {raw:.3} s ({:.0} MiB/s), recovered in {ours:.3} s ({:.0} MiB/s)",
            mib / raw,
            mib / ours
        );
        println!(
            "ratio: recovery at {:.0} % of plain reading from the {place}",
            raw / ours * 100.0
        );
    }
}
