//! What the benches of the log share: an open log, raw durable writes, and numbers in words.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "benches read the clock and print what they measured"
)]

pub(crate) mod producers;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use millpond_proto::chance::Entropy;
use millpond_proto::message::ShardId;
use millpond_proto::task::{Runtimes, stand_back};
use millpond_proto::time::SystemClock;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::disk::{Disk, Way};
use millpond_storage::error::ShardDamaged;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Parts, Projection, Record, Replayed, Settings, Storage, WalIo};
use millpond_storage::tier::objects::DiskObjectStore;
use tokio::runtime::Runtime;

/// Shards of the log; few, so that a checkpoint in between is cheap.
pub(crate) const SHARDS: u16 = 4;
/// Body of a message.
pub(crate) const BODY_BYTES: usize = 1024;

/// Keeps no state.
pub(crate) struct Nothing;

impl Projection for Nothing {
    fn restore(_: ShardId, _: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        Ok(Self)
    }

    fn apply(&mut self, _: &Replayed) -> Result<(), ShardDamaged> {
        Ok(())
    }
}

/// Threads as a server has them.
pub(crate) struct Threads {
    pub(crate) service: Runtime,
    pub(crate) background: Runtime,
    pub(crate) reading: Runtime,
}

impl Threads {
    pub(crate) fn start() -> Self {
        let runtime = |begin: fn()| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .on_thread_start(begin)
                .build()
                .expect("the machine has threads")
        };
        Self {
            service: runtime(|| ()),
            background: runtime(|| ()),
            reading: runtime(stand_back),
        }
    }

    pub(crate) fn lanes(&self) -> Runtimes {
        Runtimes::new(
            self.service.handle().clone(),
            self.background.handle().clone(),
            self.reading.handle().clone(),
        )
    }
}

/// A folder on the disk that is measured: `MILLPOND_BENCH_DIR`, or the build's own folder.
pub(crate) fn folder() -> tempfile::TempDir {
    let place = std::env::var_os("MILLPOND_BENCH_DIR")
        .unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    std::fs::create_dir_all(&place).expect("the folder can be made");
    tempfile::tempdir_in(place).expect("the folder can be written")
}

/// How the log is to be written: `MILLPOND_BENCH_WAL_IO`, `buffered` or `direct`; else as it measures itself.
fn wal_io() -> WalIo {
    match std::env::var("MILLPOND_BENCH_WAL_IO").as_deref() {
        Ok("buffered") => WalIo::Buffered,
        Ok("direct") => WalIo::Direct,
        _ => WalIo::Auto,
    }
}

/// Opens a log and says what the outside world is.
pub(crate) async fn open(folder: &Path, runtimes: &Runtimes) -> Arc<Storage> {
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(folder).expect("the folder is ours"));
    let parts = Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SystemClock),
        chance: Arc::new(Entropy),
        spawn: Arc::new(runtimes.clone()),
    };
    let settings = Settings {
        shards: SHARDS,
        wal_io: wal_io(),
        ..Settings::default()
    };
    let (storage, recovered) = Storage::open::<Nothing>(parts, settings)
        .await
        .expect("the log opens");
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    storage
}

/// Messages of 1 KiB, from `offset` on.
pub(crate) fn messages(
    topic: u64,
    queue: u32,
    offset: u64,
    count: u64,
    body: &Bytes,
) -> Vec<Record> {
    let message = |offset| {
        Record::Message(Envelope {
            topic,
            queue,
            offset,
            body: Some(body.clone()),
            ..Envelope::default()
        })
    };
    (offset..offset + count).map(message).collect()
}

/// What a stretch of durable writes came to.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Of each write, ascending once [`Load::sort`]ed.
    pub(crate) latencies: Vec<Duration>,
}

impl Load {
    pub(crate) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.seconds += other.seconds;
        self.latencies.extend(other.latencies);
    }

    pub(crate) fn quantile_us(&mut self, percent: usize) -> f64 {
        self.latencies.sort_unstable();
        let at = self.latencies.len() * percent / 100;
        let latency = self
            .latencies
            .get(at.min(self.latencies.len().saturating_sub(1)));
        latency.map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// Durable writes one after the other in each of `in_flight` threads, over a file that was written before.
pub(crate) fn raw(
    disk: &LocalDisk,
    way: Way,
    bytes: usize,
    in_flight: u64,
    time: Duration,
) -> Option<Load> {
    const FILE: &str = "raw";
    const FILE_BYTES: u64 = 128 * 1024 * 1024;
    if disk.open(FILE).is_err() {
        let file = disk.create(FILE).expect("the folder can be written");
        file.allocate(FILE_BYTES).expect("the disk has room");
    }
    disk.open_durable(FILE, way).ok()?;
    let next = AtomicU64::new(0);
    let start = Instant::now();
    let work = || {
        let file = disk.open_durable(FILE, way).expect("it was opened before");
        let mut room = BytesMut::zeroed(bytes + 4096);
        let skipped = room.as_ptr().align_offset(4096);
        let mut block = room.split_off(skipped);
        block.truncate(bytes);
        let mut latencies = Vec::new();
        while start.elapsed() < time {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            let offset = number * bytes as u64 % FILE_BYTES;
            file.write_durable(&block, offset).expect("the disk works");
            latencies.push(began.elapsed());
        }
        latencies
    };
    let latencies: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..in_flight).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.flat_map(|l| l.expect("no thread panics")).collect()
    });
    Some(Load {
        bytes: latencies.len() as u64 * bytes as u64,
        seconds: start.elapsed().as_secs_f64(),
        latencies,
    })
}

/// Whether this is no bench but a test of one: then there is nothing to measure. `cargo bench` says so.
pub(crate) fn is_test() -> bool {
    !std::env::args().any(|argument| argument == "--bench")
}

/// One line of what was measured.
pub(crate) fn tell(what: &str, load: &Load) {
    let (rate, count) = (load.bytes_per_second() / 1e6, load.latencies.len());
    println!("{what:56} {rate:8.1} MB/s {count:9} writes");
}
