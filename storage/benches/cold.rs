//! The cold tier against the least that the same bytes cost, measured in the same run.
//!
//! Tiering: CPU time of moving a topic's messages (Parquet, manifest, pointer) against writing the same messages as
//! plain zstd blocks, each with a checksum, one object of the same store for each of the files; and the bytes at rest of
//! both. What opening the stores costs is not counted. With typed columns see `tests/benches/typed.rs`. Catch-up: reading
//! all columns of the messages back, checksums and all, against the parquet crate's own decode of the same file in memory.
//! Ratios travel between machines; the absolute numbers do not.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints what it measured"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use millpond_proto::message::{Offset, QueueId, Term, TopicId};
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::format::columns::schema;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::meta::embedded::EmbeddedMeta;
use millpond_storage::tier::cold::Cold;
use millpond_storage::tier::cold::typed::Reads;
use millpond_storage::tier::objects::DiskObjectStore;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message as _;

const TOPIC: TopicId = TopicId(7);
const MESSAGES: u64 = 200_000;
/// Rounds of which the fastest counts.
const ROUNDS: usize = 5;
/// A plain block, as a log would compress it.
const BLOCK_BYTES: usize = 128 * 1024;

fn message(offset: u64) -> Envelope {
    let word = millpond_proto::message::stable_hash(&offset.to_le_bytes());
    let body = format!(
        "{{\"id\":{offset},\"carrier\":\"{}\",\"delay\":{},\"origin\":\"{}\",\"token\":\"{word:016x}\",\
         \"note\":\"the quick brown fox jumps over the lazy dog and waits for the next flight\"}}",
        ["UA", "AA", "DL", "B6"][(word % 4) as usize],
        word % 300,
        ["EWR", "JFK", "LGA"][(word % 3) as usize],
    );
    Envelope {
        topic: TOPIC.0,
        offset,
        stored_at_ms: 1_700_000_000_000 + offset.cast_signed() / 7,
        born_at_ms: 1_700_000_000_000 + offset.cast_signed() / 7 - 3,
        message_id: format!("01{word:032X}"),
        tag: Some("flight".to_owned()),
        body: Some(Bytes::from(body)),
        born_host: "10.0.0.7".to_owned(),
        ..Envelope::default()
    }
}

/// CPU time of this process, which is one thread. The scheduler counts it in nanoseconds.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells");
    let on_cpu = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(on_cpu.expect("a number"))
}

/// The least CPU time of some rounds, each with what was made ready for it.
fn cheapest<R, T>(mut ready: impl FnMut() -> R, mut work: impl FnMut(R) -> T) -> (Duration, T) {
    let mut best: Option<(Duration, T)> = None;
    for _ in 0..ROUNDS {
        let made_ready = ready();
        let start = cpu_time();
        let made = work(made_ready);
        let took = cpu_time().saturating_sub(start);
        if best.as_ref().is_none_or(|(time, _)| took < *time) {
            best = Some((took, made));
        }
    }
    best.expect("there is a round")
}

/// The fastest of some rounds.
fn fastest<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut best: Option<(Duration, T)> = None;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let made = work();
        let took = start.elapsed();
        if best.as_ref().is_none_or(|(time, _)| took < *time) {
            best = Some((took, made));
        }
    }
    best.expect("there is a round")
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let messages: Vec<Envelope> = (0..MESSAGES).map(message).collect();

    let store = || {
        let folder = tempfile::tempdir().expect("a folder");
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(folder.path()).expect("a disk"));
        let objects: Arc<dyn ObjectStore> =
            Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects"));
        (disk, objects, folder)
    };
    let blocks = || {
        let mut compressor = zstd::bulk::Compressor::new(1).expect("a compressor");
        let mut blocks = Vec::new();
        let mut add = |block: &mut Vec<u8>| {
            let compressed = compressor.compress(block).expect("zstd");
            block.clear();
            blocks.extend_from_slice(&compressed.len().to_le_bytes());
            let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &compressed);
            blocks.extend_from_slice(&checksum.to_le_bytes());
            blocks.extend_from_slice(&compressed);
        };
        let mut block = Vec::new();
        for message in &messages {
            message.encode(&mut block).expect("a vector grows");
            if block.len() >= BLOCK_BYTES {
                add(&mut block);
            }
        }
        add(&mut block);
        blocks
    };
    let (compressing, zstd_bytes) = cheapest(|| (), |()| blocks().len());
    let (zstd, _) = cheapest(store, |(_disk, objects, folder)| {
        let path = "blocks".into();
        let put = objects.put(&path, blocks().into());
        runtime.block_on(put).expect("writes");
        folder
    });
    let opened = || {
        let (disk, objects, folder) = store();
        let meta = Arc::new(EmbeddedMeta::open(disk, "facts").expect("a store"));
        let cold = Cold::open(Arc::clone(&objects), meta, Term(1));
        let cold = runtime.block_on(cold).expect("opens");
        (Arc::new(cold), objects, folder)
    };
    let (tiering, (cold, objects, _folder)) = cheapest(opened, |opened| {
        let written = opened.0.write(TOPIC, &messages, &[]);
        runtime.block_on(written).expect("writes");
        opened
    });
    let cold_bytes = cold.sizes(TOPIC).bytes;
    println!(
        "tiering {:.0} ms of CPU, plain zstd blocks {:.0} ms: ratio {:.2} ({:.2} of encoding and compressing them alone)",
        ms(tiering),
        ms(zstd),
        ms(tiering) / ms(zstd),
        ms(tiering) / ms(compressing)
    );
    println!(
        "at rest {cold_bytes} bytes, plain zstd blocks {zstd_bytes}: ratio {:.2}",
        cold_bytes as f64 / zstd_bytes as f64
    );

    let names = schema();
    let names: Vec<&str> = names.fields().iter().map(|f| f.name().as_str()).collect();
    let (catch_up, rows) = fastest(|| {
        runtime.block_on(async {
            let range = Offset(0)..Offset(MESSAGES);
            let mut scan = cold.scan(TOPIC, QueueId(0), range, &Reads::of(&names));
            let mut rows = 0;
            while let Some(batch) = scan.next().await {
                rows += batch.expect("reads").num_rows();
            }
            rows
        })
    });
    let file = runtime.block_on(async {
        let mut listed = objects.list(Some(&"topics".into()));
        let mut largest = None;
        while let Some(object) = listed.next().await {
            let object = object.expect("lists");
            if object.location.as_ref().ends_with(".parquet") {
                largest = Some(object.location);
            }
        }
        let path = largest.expect("there is a file");
        let options = object_store::GetOptions::default();
        let found = objects.get_opts(&path, options).await.expect("reads");
        found.bytes().await.expect("reads")
    });
    let (plain, plain_rows) = fastest(|| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).expect("a file");
        let reader = reader.with_batch_size(8192).build().expect("a reader");
        reader
            .map(|batch| batch.expect("reads").num_rows())
            .sum::<usize>()
    });
    assert_eq!(rows, plain_rows);
    println!(
        "catch-up {:.0} ms, the parquet crate from memory {:.0} ms: {:.0} % of its speed",
        ms(catch_up),
        ms(plain),
        100.0 * ms(plain) / ms(catch_up)
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
