//! Durable appends against what the same file system can do, measured in the same run.
//!
//! 64 producers each append one message and wait until it is durable. The yardstick is a plain loop of
//! a 64 KiB write and an fdatasync. Ratios travel between machines; the absolute numbers do not.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints what it measured"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_proto::chance::Entropy;
use millpond_proto::message::{QueueId, TopicId};
use millpond_proto::message::{ShardId, shard_of};
use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::error::ShardDamaged;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Parts, Projection, Record, Replayed, Settings, Storage};
use millpond_storage::tier::objects::DiskObjectStore;

const PRODUCERS: u32 = 64;
const BODY_BYTES: usize = 1024;
const RAW_BYTES: usize = 64 * 1024;
const MEASURED: Duration = Duration::from_secs(3);

struct Nothing;

impl Projection for Nothing {
    fn restore(_: ShardId, _: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        Ok(Self)
    }

    fn apply(&mut self, _: &Replayed) -> Result<(), ShardDamaged> {
        Ok(())
    }
}

fn raw_syncs_per_second(folder: &std::path::Path) -> f64 {
    let file = File::create(folder.join("raw")).expect("the folder can be written");
    let bytes = vec![7; RAW_BYTES];
    let start = Instant::now();
    let mut count = 0_u32;
    while start.elapsed() < MEASURED {
        file.write_all_at(&bytes, u64::from(count) * RAW_BYTES as u64)
            .expect("the disk has room");
        file.sync_data().expect("the disk works");
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

async fn appends_per_second(folder: &std::path::Path, runtimes: Runtimes) -> f64 {
    let disk: Arc<dyn Disk> =
        Arc::new(LocalDisk::open(folder.join("data")).expect("the folder is new"));
    let parts = Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SystemClock),
        chance: Arc::new(Entropy),
        spawn: Arc::new(runtimes),
    };
    let settings = Settings::default();
    let shards = settings.shards;
    let (storage, _) = Storage::open::<Nothing>(parts, settings)
        .await
        .expect("a new folder opens");
    let count = AtomicU64::new(0);
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let start = Instant::now();
    let producer = |queue: u32| {
        let (storage, body, count) = (&storage, &body, &count);
        async move {
            let shard = shard_of(TopicId(1), QueueId(queue), shards);
            let mut offset = 0;
            while start.elapsed() < MEASURED {
                let envelope = Envelope {
                    topic: 1,
                    queue,
                    offset,
                    body: Some(body.clone()),
                    ..Envelope::default()
                };
                let record = vec![Record::Message(envelope)];
                let durable = storage
                    .append(shard, record)
                    .await
                    .expect("the log is open");
                durable.await.expect("the disk works");
                offset += 1;
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    futures::future::join_all((0..PRODUCERS).map(producer)).await;
    let seconds = start.elapsed().as_secs_f64();
    storage.close().await;
    #[expect(
        clippy::cast_precision_loss,
        reason = "far below 2^52 appends in a few seconds"
    )]
    let count = count.load(Ordering::Relaxed) as f64;
    count / seconds
}

fn main() {
    // Cargo passes --test when benches are run as tests: then there is nothing to measure.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the machine has threads")
    };
    let (service, background) = (runtime(), runtime());
    let runtimes = Runtimes::new(service.handle().clone(), background.handle().clone());
    let folder = tempfile::tempdir().expect("the machine has a temporary folder");
    let raw = raw_syncs_per_second(folder.path());
    let appends = service.block_on(appends_per_second(folder.path(), runtimes));
    println!("raw: {raw:.0} writes of {RAW_BYTES} bytes with fdatasync a second");
    println!(
        "log: {appends:.0} durable appends of {BODY_BYTES} bytes a second, {PRODUCERS} producers"
    );
    println!("ratio: {:.1} durable appends per raw sync", appends / raw);
}
