//! Offsets without a message, which a key compaction left.

use super::*;
use crate::tier::cold::keys::KeyCompaction;

#[tokio::test]
async fn a_scan_hands_out_nothing_behind_its_range_when_holes_came_meanwhile() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..8 {
        let keyed = Envelope {
            key: Some(Bytes::from_static(b"one")),
            ..message(1, offset)
        };
        let record = vec![Record::Message(keyed)];
        let durable = storage.append(ShardId(1), record).await.unwrap();
        durable.await.unwrap();
    }
    let scan = |range| storage.scan(TOPIC, QueueId(1), range, &Reads::of(&["offset"]));
    // Both were asked while all eight lay in the log.
    let (front, all) = (scan(Offset(0)..Offset(4)), scan(Offset(0)..Offset(8)));
    storage.tier().await.unwrap();
    let how = KeyCompaction::default();
    assert_eq!(
        storage.compact_keys(TOPIC, &how).await.unwrap().superseded,
        7
    );
    for (rows, expected) in [(front, 0), (all, 1)] {
        let batches: Vec<RecordBatch> = rows.map(Result::unwrap).collect().await;
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(count, expected);
    }
}
