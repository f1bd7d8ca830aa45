//! What any WAL must do, whatever it lies on: a test that each backend runs.
//!
//! Appends of which many are in flight become durable in order; the durable tail never lies; what is read is
//! what was written; an incarnation that a later term has sealed can not write; trimming takes nothing that
//! is still needed. Crashes are the simulation's to try.

use std::sync::Arc;

use bytes::Bytes;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;

use crate::disk::Disk;
use crate::disk::local::LocalDisk;
use crate::disk::simulated::SimulatedDisk;
use crate::error::{AppendError, ShardDamaged};
use crate::format::envelope::Envelope;
use crate::log::{
    Parts, Position, Projection, ReadLimit, Record, Recovered, Replayed, Settings, ShardSnapshot,
    Storage, WalIo,
};
use crate::tier::objects::DiskObjectStore;

const TOPIC: TopicId = TopicId(3);
const SHARDS: u16 = 4;
const IN_FLIGHT: u64 = 200;

/// The records of a shard, in words, behind what its snapshot says.
#[derive(Debug, PartialEq)]
struct Words(Vec<String>);

impl Projection for Words {
    fn restore(_: ShardId, snapshot: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        let words = snapshot.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
        Ok(Self(words.into_iter().collect()))
    }

    fn apply(&mut self, record: &Replayed) -> Result<(), ShardDamaged> {
        self.0.push(match record {
            Replayed::Message(message) => format!("message {}", message.offset),
            Replayed::State(bytes) => format!("state {}", String::from_utf8_lossy(bytes)),
            other => format!("{other:?}"),
        });
        Ok(())
    }
}

fn message(queue: u16, offset: u64) -> Record {
    Record::Message(Envelope {
        topic: TOPIC.0,
        queue: u32::from(queue),
        offset,
        body: Some(Bytes::from(vec![b'a' + (offset % 26) as u8; 700])),
        ..Envelope::default()
    })
}

async fn open(disk: &Arc<dyn Disk>, wal_io: WalIo) -> (Arc<Storage>, Recovered<Words>) {
    let parts = Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(disk), "objects")),
        disk: Arc::clone(disk),
        clock: Arc::new(SystemClock),
        chance: Arc::new(millpond_proto::chance::Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    let settings = Settings {
        shards: SHARDS,
        segment_bytes: 64 * 1024,
        overlap_bytes: 0,
        wal_io,
        ..Settings::default()
    };
    Storage::open(parts, settings).await.unwrap()
}

async fn tail(storage: &Storage, shard: u16) -> Position {
    let durable = storage.append(ShardId(shard), Vec::new()).await.unwrap();
    durable.await.unwrap()
}

async fn bodies(storage: &Storage, queue: u16) -> Vec<(u64, Bytes)> {
    let (mut found, mut next) = (Vec::new(), Offset(0));
    loop {
        let limit = ReadLimit {
            messages: 64,
            bytes: usize::MAX,
        };
        let read = storage.read(TOPIC, QueueId(queue.into()), next, limit);
        let read = read.await.unwrap();
        let Some(last) = read.last() else {
            return found;
        };
        next = last.at().next();
        found.extend(read.into_iter().map(|m| (m.offset, m.body.unwrap())));
    }
}

async fn contract(disk: Arc<dyn Disk>, wal_io: WalIo) {
    let (storage, recovered) = open(&disk, wal_io).await;
    let first_term = recovered.term;

    // Many in flight: each is answered, in the order of the calls.
    let mut waiting = Vec::new();
    for offset in 0..IN_FLIGHT {
        for shard in 0..SHARDS {
            let records = match offset % 3 {
                0 => vec![
                    message(shard, offset),
                    Record::State(Bytes::from(format!("{offset}"))),
                ],
                _ => vec![message(shard, offset)],
            };
            waiting.push(storage.append(ShardId(shard), records).await.unwrap());
        }
        if offset % 7 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut last = Position(0);
    for durable in waiting {
        let position = durable.await.unwrap();
        assert!(position > last, "positions rise in the order of the calls");
        last = position;
    }
    // The durable tail covers what was answered, and stands still when nothing comes.
    let durable = tail(&storage, 0).await;
    assert!(durable >= last);
    assert_eq!(tail(&storage, 1).await, durable);

    // What is read is what was written.
    let expected: Vec<(u64, Bytes)> = (0..IN_FLIGHT)
        .map(|offset| (offset, Bytes::from(vec![b'a' + (offset % 26) as u8; 700])))
        .collect();
    for shard in 0..SHARDS {
        assert_eq!(bodies(&storage, shard).await, expected);
    }

    // Sealed by a later term: the old one can not write, and all that it acknowledged is there, once.
    storage.close().await;
    let (next, recovered) = open(&disk, wal_io).await;
    assert!(recovered.term > first_term);
    assert_eq!((recovered.torn_bytes, recovered.damage.len()), (0, 0));
    let late = storage
        .append(ShardId(0), vec![message(0, IN_FLIGHT)])
        .await;
    assert!(matches!(late, Err(AppendError::Closed)));
    let words = |from: u64| {
        let words = (from..IN_FLIGHT).flat_map(|offset| {
            let state = (offset % 3 == 0).then(|| format!("state {offset}"));
            [format!("message {offset}")].into_iter().chain(state)
        });
        words.collect::<Vec<String>>()
    };
    for shard in recovered.shards {
        assert_eq!(shard.unwrap().0, words(0));
    }
    let tail_after = tail(&next, 0).await;
    assert!(
        tail_after >= durable,
        "the log goes on behind what was acknowledged"
    );

    // Trimming: without the cold tier nothing of a queue is let go, whatever the checkpoint covers.
    let kept = next.sizes().wal_bytes;
    checkpoint(&next, SHARDS).await;
    assert_eq!(next.sizes().wal_bytes, kept);
    // Without a checkpoint of one shard, nothing that it needs.
    next.append(
        ShardId(1),
        vec![Record::State(Bytes::from_static(b"after"))],
    )
    .await
    .unwrap()
    .await
    .unwrap();
    next.tier().await.unwrap();
    checkpoint(&next, 1).await;
    checkpoint(&next, 1).await;
    next.close().await;
    let (last, recovered) = open(&disk, wal_io).await;
    let shards: Vec<Words> = recovered.shards.into_iter().map(Result::unwrap).collect();
    assert_eq!(shards[1].0, ["snapshot", "state after"]);
    assert_eq!(shards[2].0, ["snapshot"]);
    checkpoint(&last, SHARDS).await;
    assert!(
        last.sizes().wal_bytes < kept,
        "what nobody needs was let go"
    );
    for shard in 0..SHARDS {
        assert_eq!(
            bodies(&last, shard).await,
            expected,
            "and is read from elsewhere"
        );
    }
    last.close().await;
    let (end, recovered) = open(&disk, wal_io).await;
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    for shard in recovered.shards {
        assert_eq!(shard.unwrap().0, ["snapshot"]);
    }
    end.close().await;
}

/// Checkpoints the first `shards` shards where they are.
async fn checkpoint(storage: &Storage, shards: u16) {
    let mut snapshots = Vec::new();
    for shard in 0..shards {
        snapshots.push(ShardSnapshot {
            shard: ShardId(shard),
            position: tail(storage, shard).await,
            state: Bytes::from_static(b"snapshot"),
        });
    }
    storage.checkpoint(snapshots).await.unwrap();
}

#[tokio::test]
async fn the_simulated_disk_keeps_the_contract() {
    for seed in 0..10 {
        let disk = SimulatedDisk::new();
        disk.reorder(seed);
        contract(Arc::new(disk), WalIo::Auto).await;
    }
}

#[tokio::test]
async fn the_local_disk_keeps_the_contract_through_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let disk = LocalDisk::open(folder.path()).unwrap();
    contract(Arc::new(disk), WalIo::Buffered).await;
}

#[tokio::test]
async fn the_local_disk_keeps_the_contract_past_the_cache_or_falls_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = LocalDisk::open(folder.path()).unwrap();
    contract(Arc::new(disk), WalIo::Direct).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_that_race_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let disk = LocalDisk::open(folder.path()).unwrap();
    contract(Arc::new(disk), WalIo::Auto).await;
}
