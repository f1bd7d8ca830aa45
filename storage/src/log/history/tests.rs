//! A history is what was appended, in order, and says what it could not read.

use std::sync::Arc;

use millpond_proto::chance::Seeded;
use millpond_proto::message::{QueueId, TopicId};
use millpond_proto::task::Runtimes;
use millpond_proto::time::SystemClock;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ShardDamaged;
use crate::log::{Parts, Projection, Record, Replayed, Settings};
use crate::tier::objects::DiskObjectStore;

struct Nothing;

impl Projection for Nothing {
    fn restore(_: ShardId, _: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        Ok(Self)
    }

    fn apply(&mut self, _: &Replayed) -> Result<(), ShardDamaged> {
        Ok(())
    }
}

async fn open(disk: &SimulatedDisk) -> Arc<Storage> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let parts = Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SystemClock),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    let settings = Settings {
        shards: 2,
        segment_bytes: 64 * 1024,
        ..Settings::default()
    };
    Storage::open::<Nothing>(parts, settings).await.unwrap().0
}

async fn append(storage: &Storage, shard: u16, number: u32) {
    let message = Envelope {
        topic: 7,
        queue: shard.into(),
        offset: number.into(),
        stored_at_ms: 100 + i64::from(number),
        body: Some(vec![1; 3000].into()),
        ..Envelope::default()
    };
    let state = Record::State(format!("{shard}/{number}").into_bytes().into());
    let records = vec![Record::Message(message), state];
    let durable = storage.append(ShardId(shard), records).await.unwrap();
    durable.await.unwrap();
}

async fn told(storage: &Storage, bytes_max: u64) -> (Vec<String>, History) {
    let tell = |told: &mut Vec<String>, bytes: &[u8]| {
        told.push(String::from_utf8(bytes.to_vec()).unwrap());
    };
    let told = storage.history(ShardId(1), bytes_max, Vec::new(), tell);
    told.await.unwrap()
}

#[tokio::test]
async fn the_records_of_a_shard_are_told_in_order_over_segments_and_restarts() {
    let disk = SimulatedDisk::new();
    let mut expected = Vec::new();
    for life in 0..2 {
        let storage = open(&disk).await;
        for number in life * 40..life * 40 + 40 {
            append(&storage, 0, number).await;
            append(&storage, 1, number).await;
            expected.push(format!("1/{number}"));
        }
        let (records, history) = told(&storage, u64::MAX).await;
        assert_eq!(records, expected);
        assert_eq!((history.since_ms, history.damaged), (Some(100), 0));
        assert!(history.is_whole && history.bytes > 80 * 3000, "{history:?}");
        // The last bytes only: a later beginning, the same end.
        let (records, history) = told(&storage, 20_000).await;
        assert!(
            !records.is_empty() && expected.ends_with(&records),
            "{records:?}"
        );
        assert!(
            !history.is_whole && history.since_ms > Some(100),
            "{history:?}"
        );
        storage.close().await;
    }
}

#[tokio::test]
async fn what_can_not_be_read_is_counted_and_the_rest_is_told() {
    let disk = SimulatedDisk::new();
    let storage = open(&disk).await;
    for number in 0..40 {
        append(&storage, 1, number).await;
    }
    let first = disk.snapshot().into_keys();
    let first = first.filter(|path| path.starts_with("wal/")).min().unwrap();
    let bytes = disk.snapshot()[&first].clone();
    let at = bytes.windows(3).position(|bytes| bytes == b"1/2").unwrap();
    disk.flip_bit(&first, at * 8);
    let (records, history) = told(&storage, u64::MAX).await;
    assert_eq!(history.damaged, 1);
    assert!(!records.contains(&"1/2".to_owned()) && records.contains(&"1/3".to_owned()));
    assert_eq!(records.len(), 39);
    let read = storage.extent(TopicId(7), QueueId(1)).unwrap();
    assert_eq!(read.next.0, 40, "messages are no concern of a history");
    storage.close().await;
}
