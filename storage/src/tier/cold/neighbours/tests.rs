use std::sync::Arc;

use arrow::array::Int64Array;
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::message::QueueId;
use object_store::ObjectStore;

use super::*;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::format::envelope::Envelope;
use crate::log::ReadLimit;
use crate::meta::MetaStore;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::tests::{TOPIC, messages, open, paths, read, term};
use crate::tier::simulated::SimulatedStore;

fn some(messages: usize) -> ReadLimit {
    ReadLimit {
        messages,
        bytes: usize::MAX,
    }
}

/// The cold tier over a store that counts what is read, with these messages in one file.
async fn counted(all: &[Envelope]) -> (Arc<Cold>, SimulatedStore) {
    let store = SimulatedStore::new(1);
    let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let disk = Arc::new(SimulatedDisk::default()) as Arc<dyn Disk>;
    let meta: Arc<dyn MetaStore> = Arc::new(EmbeddedMeta::open(disk, "facts").unwrap());
    let cold = Arc::new(Cold::open(objects, meta, term()).await.unwrap());
    cold.write(TOPIC, all, &[]).await.unwrap();
    (cold, store)
}

fn window(first: i64, rows: usize) -> RecordBatch {
    let numbers = Int64Array::from_iter_values((first..).take(rows));
    RecordBatch::try_from_iter([("n", Arc::new(numbers) as _)]).unwrap()
}

#[tokio::test]
async fn small_reads_of_many_queues_fetch_what_they_share_once() {
    let queues = 0..200;
    let all: Vec<Envelope> = queues.clone().flat_map(|q| messages(q, 0..3)).collect();
    let (cold, store) = counted(&all).await;
    let mut fetched = Vec::new();
    for queue in queues {
        let before = store.bytes_read();
        let found = read(&cold, queue, 1, some(2)).await.unwrap();
        assert_eq!(found, messages(queue, 1..3));
        fetched.push(store.bytes_read() - before);
    }
    fetched.retain(|bytes| *bytes > 0);
    assert!(fetched.len() <= 2, "{fetched:?}");
}

#[tokio::test]
async fn the_neighbours_of_one_message_of_a_long_queue_are_decoded_when_more_of_them_is_asked_for()
{
    let (cold, store) = counted(&messages(0, 0..5000)).await;
    let windows = || cold.neighbours().windows.len();
    read(&cold, 0, 2000, some(1)).await.unwrap();
    assert_eq!(windows(), 0);
    read(&cold, 0, 2001, some(1)).await.unwrap();
    assert_eq!(windows(), 1);
    let before = store.bytes_read();
    let found = read(&cold, 0, 2002, some(9)).await.unwrap();
    assert_eq!(found, messages(0, 2002..2011));
    assert_eq!(store.bytes_read(), before);
}

#[tokio::test]
async fn reads_of_any_length_anywhere_give_what_was_written_whatever_was_read_before() {
    let lengths = [1, 700, 2, 40, 1500, 3, 3, 3];
    let queues = (0..).zip(lengths);
    let all: Vec<Envelope> = queues
        .flat_map(|(q, count)| messages(q, 0..count))
        .collect();
    let (cold, _) = counted(&all).await;
    let chance = Seeded::new(7);
    for _ in 0..300 {
        let queue = chance.next_u64() % 8;
        let length = lengths[usize::try_from(queue).unwrap()];
        let queue = u32::try_from(queue).unwrap();
        let from = chance.next_u64() % length;
        let count = 1 + chance.next_u64() % 64;
        let limit = some(usize::try_from(count).unwrap());
        let found = read(&cold, queue, from, limit).await.unwrap();
        assert_eq!(found, messages(queue, from..length.min(from + count)));
    }
    assert!(!cold.neighbours().windows.is_empty());
}

#[tokio::test]
async fn damage_among_the_neighbours_hides_nothing_and_what_is_forgotten_is_not_kept() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    // Bodies take several blocks, one of which is damaged.
    let all: Vec<Envelope> = (0..3000).flat_map(|q| messages(q, 1..3)).collect();
    cold.write(TOPIC, &all, &[]).await.unwrap();
    let path = paths(&disk, "cold/topics/7/data").remove(0);
    let body_at = {
        let index = cold.manifest(TOPIC).unwrap();
        let file = &index.manifest().files[0];
        let footer = cold.footers().get(&file.key).unwrap();
        let columns = footer.metadata().row_group(0).columns();
        let body = columns.iter().max_by_key(|c| c.compressed_size()).unwrap();
        let (start, length) = body.byte_range();
        start + length / 2
    };
    disk.flip_bit(&path, usize::try_from(body_at).unwrap() * 8);
    let mut damaged = 0;
    for queue in (0..3000).step_by(7) {
        match read(&cold, queue, 1, some(2)).await {
            Ok(found) => assert_eq!(found, messages(queue, 1..3)),
            Err(error) => {
                assert!(matches!(error, ReadError::Damaged { .. }));
                damaged += 1;
            }
        }
    }
    assert!((1..200).contains(&damaged), "{damaged} queues are damaged");
    assert!(!cold.neighbours().windows.is_empty());
    cold.forget(TOPIC).await.unwrap();
    assert!(cold.neighbours().windows.is_empty());
    assert_eq!(cold.extent(TOPIC, QueueId(0)), None);
}

#[test]
fn the_windows_used_last_are_kept_up_to_a_bound() {
    let mut kept = Neighbours::default();
    let rows = COLD_WINDOWS_BYTES_MAX / 16 / 8 - 64;
    for first in 0..40 {
        kept.insert("a", first, window(0, rows));
        assert!(kept.get("a", 0).is_some(), "it is used each time");
    }
    assert!(kept.bytes <= COLD_WINDOWS_BYTES_MAX);
    assert!(kept.get("a", 1).is_none() && kept.get("a", 39).is_some());
    kept.insert("b", 0, window(0, COLD_WINDOWS_BYTES_MAX / 8));
    assert!(kept.get("b", 0).is_none(), "it would drive out many");
    for first in 0..2 * WINDOWS_MAX as u64 {
        kept.insert("c", first, window(0, 1));
    }
    assert_eq!(kept.windows.len(), WINDOWS_MAX);
    kept.remove("c");
    assert_eq!((kept.windows.len(), kept.bytes), (0, 0));
}
