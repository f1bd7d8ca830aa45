//! A table that is kept for another time than its log.

use arrow::array::AsArray as _;
use arrow::datatypes::Int64Type;

use super::*;
use crate::tier::cold::typed::Reads;

fn extent_of(storage: &Storage) -> [u64; 4] {
    let extent = storage.extent(TOPIC, QueueId(1)).unwrap();
    [extent.kept, extent.tiered, extent.first, extent.next].map(|offset| offset.0)
}

/// Offsets that a scan sees.
async fn scanned(storage: &Arc<Storage>) -> Vec<i64> {
    let all = Offset(0)..Offset(1000);
    let mut rows = storage.scan(TOPIC, QueueId(1), all, &Reads::of(&["offset"]));
    let mut offsets = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.unwrap();
        let column = batch.column(0).as_primitive::<Int64Type>();
        offsets.extend(column.values());
    }
    offsets
}

#[tokio::test]
async fn a_log_may_begin_behind_what_still_waits_to_be_moved_for_its_table() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    send_at(&storage, 0..10).await;
    let apart = Keep {
        stored_from_ms: Some(60),
        table: Some(KeepTable::default()),
        ..Keep::default()
    };
    let trimmed = storage.retain(TOPIC, apart).await.unwrap();
    assert_eq!((trimmed.messages, trimmed.files), (6, 0));
    // Doing it again changes nothing.
    assert_eq!(storage.retain(TOPIC, apart).await.unwrap().messages, 0);
    storage.close().await;
    let disk = disk.crash(&Seeded::new(1));
    for tiered in [0, 10] {
        let (storage, _) = open(&disk).await;
        if tiered > 0 {
            assert_eq!(storage.tier().await.unwrap().messages, 10);
        }
        assert_eq!(extent_of(&storage), [0, tiered, 6, 10]);
        let below = one(&storage, 1, 5).await;
        let is_trimmed = matches!(below, Err(ReadError::Trimmed { first, .. }) if first.0 == 6);
        assert!(is_trimmed, "{below:?}");
        assert_eq!(offsets_from(&storage, 6).await, [6, 7, 8, 9]);
        assert_eq!(scanned(&storage).await, (0..10).collect::<Vec<_>>());
        storage.close().await;
    }
    // What both let go of is no more; the log's beginning stays where it was.
    let (storage, _) = open(&disk).await;
    let table = Some(KeepTable {
        stored_from_ms: Some(999),
        ..KeepTable::default()
    });
    let keep = Keep { table, ..apart };
    send_at(&storage, 10..12).await;
    storage.retain(TOPIC, keep).await.unwrap();
    assert_eq!(
        extent_of(&storage),
        [0, 10, 6, 12],
        "the log keeps the file"
    );
    let stored_from_ms = Some(100);
    let keep = Keep {
        stored_from_ms,
        ..keep
    };
    storage.retain(TOPIC, keep).await.unwrap();
    assert_eq!(extent_of(&storage), [10, 10, 10, 12]);
    assert_eq!(scanned(&storage).await, [10, 11]);
}

async fn offsets_from(storage: &Storage, from: u64) -> Vec<u64> {
    let read = storage.read(TOPIC, QueueId(1), Offset(from), ALL).await;
    read.unwrap().iter().map(|message| message.offset).collect()
}
