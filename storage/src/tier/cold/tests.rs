//! The cold tier of one topic on a disk that crashes: writing, reading, scanning, damage.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::TryStreamExt as _;
use futures::stream::StreamExt as _;
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::format::columns::tests::{all_columns, envelope};
use crate::format::columns::{projected_schema, to_batch};
use crate::format::manifest::day_of;
use crate::log::ReadLimit;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::compaction::Compaction;
use crate::tier::cold::typed::Reads;
use crate::tier::objects::DiskObjectStore;
use crate::tier::simulated::SimulatedStore;

mod crashes;
mod dying;
mod merging;
mod removing;

pub(crate) use crate::tier::cold::tests::dying::Handle;

pub(crate) const TOPIC: TopicId = TopicId(7);
pub(crate) const ALL: ReadLimit = ReadLimit {
    messages: usize::MAX,
    bytes: usize::MAX,
};

fn parts(disk: &Arc<SimulatedDisk>) -> (Arc<dyn ObjectStore>, Arc<dyn MetaStore>) {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    let objects = Arc::new(DiskObjectStore::new(Arc::clone(&disk), "cold"));
    (
        objects,
        Arc::new(EmbeddedMeta::open(disk, "facts").unwrap()),
    )
}

/// A term that nobody had before.
pub(crate) fn term() -> Term {
    static LAST: AtomicU64 = AtomicU64::new(0);
    Term(LAST.fetch_add(1, Ordering::Relaxed) + 1)
}

pub(crate) async fn open(disk: &Arc<SimulatedDisk>) -> Arc<Cold> {
    let (objects, meta) = parts(disk);
    Arc::new(Cold::open(objects, meta, term()).await.unwrap())
}

pub(crate) fn paths(disk: &SimulatedDisk, folder: &str) -> Vec<String> {
    let paths = disk.snapshot().into_keys();
    paths.filter(|path| path.starts_with(folder)).collect()
}

fn message(queue: u32, offset: u64) -> Envelope {
    // Bodies that do not shrink away, so that blocks and pages are many.
    let word =
        millpond_proto::message::stable_hash(&(offset << 32 | u64::from(queue)).to_le_bytes());
    let body: Vec<u8> = (0..25_u64)
        .flat_map(|i| word.wrapping_mul(2 * i + 1).rotate_left(17).to_le_bytes())
        .collect();
    Envelope {
        topic: TOPIC.0,
        queue,
        offset,
        message_id: format!("{queue}-{offset}"),
        body: (!offset.is_multiple_of(10)).then(|| body.into()),
        ..Envelope::default()
    }
}

pub(crate) fn messages(queue: u32, offsets: Range<u64>) -> Vec<Envelope> {
    offsets.map(|offset| message(queue, offset)).collect()
}

pub(crate) async fn read(
    cold: &Cold,
    queue: u32,
    from: u64,
    limit: ReadLimit,
) -> Result<Vec<Envelope>, ReadError> {
    cold.read(TOPIC, QueueId(queue), Offset(from), limit).await
}

#[tokio::test]
async fn offsets_come_back_from_several_files_and_queues() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let first = [messages(0, 5..300), messages(3, 0..40)].concat();
    let second = [messages(0, 300..420), messages(1, 7..9)].concat();
    assert!(cold.write(TOPIC, &first, &[]).await.unwrap() > 0);
    assert!(cold.write(TOPIC, &second, &[]).await.unwrap() > 0);
    for cold in [Arc::clone(&cold), {
        drop(cold);
        open(&disk).await
    }] {
        let extents = [
            (TOPIC, QueueId(0), Offset(5)..Offset(420)),
            (TOPIC, QueueId(1), Offset(7)..Offset(9)),
            (TOPIC, QueueId(3), Offset(0)..Offset(40)),
        ];
        assert_eq!(cold.queues(), extents);
        assert_eq!(cold.extent(TOPIC, QueueId(1)), Some(Offset(7)..Offset(9)));
        assert_eq!(cold.extent(TOPIC, QueueId(2)), None);
        assert_eq!(read(&cold, 0, 5, ALL).await.unwrap(), messages(0, 5..420));
        assert_eq!(read(&cold, 3, 39, ALL).await.unwrap(), messages(3, 39..40));
        assert_eq!(read(&cold, 0, 420, ALL).await.unwrap(), []);
        assert_eq!(read(&cold, 2, 0, ALL).await.unwrap(), []);
        let below = read(&cold, 0, 4, ALL).await.unwrap_err();
        assert!(
            matches!(
                below,
                ReadError::Trimmed {
                    first: Offset(5),
                    ..
                }
            ),
            "{below}"
        );
        let ten = ReadLimit {
            messages: 10,
            ..ALL
        };
        assert_eq!(
            read(&cold, 0, 295, ten).await.unwrap(),
            messages(0, 295..305)
        );
        let two = ReadLimit { bytes: 600, ..ALL };
        assert_eq!(read(&cold, 0, 11, two).await.unwrap(), messages(0, 11..13));
        let nothing = ReadLimit { bytes: 0, ..ALL };
        assert_eq!(
            read(&cold, 0, 11, nothing).await.unwrap(),
            messages(0, 11..12)
        );
    }
}

#[tokio::test]
async fn a_scan_gives_the_columns_asked_for_in_their_order() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(
        TOPIC,
        &[messages(0, 0..100), messages(1, 0..50)].concat(),
        &[],
    )
    .await
    .unwrap();
    cold.write(TOPIC, &messages(0, 100..150), &[])
        .await
        .unwrap();
    let all = all_columns();
    for columns in [&["body", "offset"][..], &[], &["properties", "keys"], &all] {
        let range = Offset(90)..Offset(1000);
        let batches: Vec<_> = cold
            .scan(TOPIC, QueueId(0), range, &Reads::of(columns))
            .try_collect()
            .await
            .unwrap();
        let schema = projected_schema(columns);
        assert!(batches.iter().all(|b| b.schema() == schema));
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(rows, 60);
        if !columns.is_empty() {
            let together = arrow::compute::concat_batches(&schema, &batches).unwrap();
            assert_eq!(together, to_batch(&messages(0, 90..150), columns));
        }
    }
    let nothing = cold.scan(
        TOPIC,
        QueueId(9),
        Offset(0)..Offset(9),
        &Reads::of(&["body"]),
    );
    assert_eq!(nothing.count().await, 0);
}

#[tokio::test]
async fn writing_what_is_cold_already_changes_nothing() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
    assert_eq!(
        cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap(),
        0
    );
    cold.write(TOPIC, &messages(0, 5..15), &[]).await.unwrap();
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..15));
}

#[tokio::test]
async fn a_message_that_was_lost_before_is_damaged_and_its_neighbours_are_not() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &[messages(0, 0..3), messages(0, 4..6)].concat(), &[])
        .await
        .unwrap();
    assert_eq!(read(&cold, 0, 0, ALL).await.unwrap(), messages(0, 0..3));
    let lost = read(&cold, 0, 3, ALL).await.unwrap_err();
    assert!(
        matches!(
            lost,
            ReadError::Damaged {
                offset: Offset(3),
                ..
            }
        ),
        "{lost}"
    );
    assert_eq!(read(&cold, 0, 4, ALL).await.unwrap(), messages(0, 4..6));
}

#[tokio::test]
async fn forgetting_leaves_nothing_and_may_be_repeated() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..10), &[]).await.unwrap();
    let mut other = message(0, 0);
    other.topic = 70;
    cold.write(TopicId(70), &[other.clone()], &[])
        .await
        .unwrap();
    for _ in 0..2 {
        cold.forget(TOPIC).await.unwrap();
        assert_eq!(cold.extent(TOPIC, QueueId(0)), None);
        assert!(paths(&disk, "cold/topics/7/").is_empty());
    }
    drop(cold);
    let cold = open(&disk).await;
    assert_eq!(cold.queues().len(), 1);
    let kept = cold
        .read(TopicId(70), QueueId(0), Offset(0), ALL)
        .await
        .unwrap();
    assert_eq!(kept, [other]);
}

#[tokio::test]
async fn damage_in_one_block_spares_messages_of_others() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    // About a megabyte of bodies: several blocks, one row group.
    let all = messages(0, 0..6000);
    cold.write(TOPIC, &all, &[]).await.unwrap();
    let path = paths(&disk, "cold/topics/7/data").remove(0);
    let length = disk.snapshot()[&path].len();
    assert!(length > 1_000_000, "{length} bytes");
    disk.flip_bit(&path, length / 2 * 8);
    let good = read(&cold, 0, 0, ALL).await.unwrap();
    assert!(!good.is_empty() && good.len() < all.len());
    assert_eq!(good, all[..good.len()]);
    let at = good.len() as u64;
    let error = read(&cold, 0, at, ALL).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Damaged { offset, .. } if offset.0 == at),
        "{error}"
    );
    assert_eq!(read(&cold, 0, 5999, ALL).await.unwrap(), all[5999..]);
}

#[tokio::test]
async fn a_damaged_manifest_is_named_when_opening() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    cold.write(TOPIC, &messages(0, 0..2), &[]).await.unwrap();
    drop(cold);
    let path = paths(&disk, "cold/topics/7/manifest").remove(0);
    disk.flip_bit(&path, 160);
    let (objects, meta) = parts(&disk);
    let error = Cold::open(objects, meta, term()).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn any_message_comes_back_from_a_file_as_it_went_in() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let many = proptest::collection::vec(envelope(), 1..20);
    proptest!(ProptestConfig::with_cases(64), |(mut many in many, queues in 1..4_u32)| {
        for (message, number) in many.iter_mut().zip(0..) {
            message.queue = number % queues;
            message.offset = 100 + u64::from(number / queues);
        }
        many.sort_by_key(|m| (m.queue, m.offset));
        let found = runtime.block_on(async {
            let disk = Arc::new(SimulatedDisk::default());
            let cold = open(&disk).await;
            cold.write(TOPIC, &many, &[]).await.unwrap();
            let mut found = Vec::new();
            for queue in 0..queues {
                found.extend(read(&cold, queue, 100, ALL).await.unwrap_or_default());
            }
            found
        });
        prop_assert_eq!(found, many);
    });
}

async fn whole(cold: &Cold, queue: u32, from: u64) -> Vec<Envelope> {
    let mut found: Vec<Envelope> = Vec::new();
    let mut at = from;
    loop {
        let read = read(cold, queue, at, ALL).await.unwrap();
        let Some(last) = read.last() else {
            return found;
        };
        at = last.offset + 1;
        found.extend(read);
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_anywhere_in_a_large_file_takes_two_round_trips_and_a_mebibyte() {
    let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
    let store = SimulatedStore::new(1).by(Arc::clone(&clock));
    let disk = Arc::new(SimulatedDisk::default());
    let meta = Arc::clone(&parts(&disk).1);
    let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let chance = Seeded::new(1);
    // A kibibyte each, that does not shrink.
    let body = || (0..128).flat_map(|_| chance.next_u64().to_le_bytes());
    let all: Vec<Envelope> = (0..20_000)
        .map(|offset| Envelope {
            topic: TOPIC.0,
            offset,
            message_id: format!("{:016x}", chance.next_u64()),
            key: Some(Bytes::from(chance.next_u64().to_string())),
            tag: Some("a".to_owned()),
            body: Some(body().collect::<Vec<u8>>().into()),
            ..Envelope::default()
        })
        .collect();
    let cold = Cold::open(Arc::clone(&objects), Arc::clone(&meta), term());
    cold.await.unwrap().write(TOPIC, &all, &[]).await.unwrap();
    // By someone who has not seen the file yet.
    for from in [0, 7_000, 16_383, 19_968] {
        let cold = Cold::open(Arc::clone(&objects), Arc::clone(&meta), term());
        let cold = cold.await.unwrap();
        store.set_latency(Duration::from_secs(1));
        let (before, bytes) = (clock.now(), store.bytes_read());
        let limit = ReadLimit {
            messages: 32,
            bytes: usize::MAX,
        };
        let found = read(&cold, 0, from, limit).await.unwrap();
        let index = usize::try_from(from).unwrap();
        assert_eq!(found, all[index..index + 32]);
        let trips = clock.now().since(before).as_secs();
        let bytes = store.bytes_read() - bytes;
        assert!(trips <= 2, "{trips} round trips from offset {from}");
        assert!(bytes <= 1024 * 1024, "{bytes} bytes from offset {from}");
        store.set_latency(Duration::ZERO);
    }
}
