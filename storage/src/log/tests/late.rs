//! Checkpoints that overtake each other: two are made at the same time, and the older one is stored last.

use super::*;

#[tokio::test]
async fn a_snapshot_that_was_overtaken_replaces_nothing() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let shard = ShardId(0);
    let mut snapshots = Vec::new();
    for state in ["older", "newer"] {
        let record = vec![Record::State(Bytes::from_static(state.as_bytes()))];
        let appended = storage.append(shard, record).await.unwrap();
        appended.await.unwrap();
        let position = storage.append(shard, vec![]).await.unwrap();
        snapshots.push(ShardSnapshot {
            shard,
            position: position.await.unwrap(),
            state: Bytes::from_static(state.as_bytes()),
        });
    }
    // What lies before the newer one may be gone once that is stored.
    for snapshot in snapshots.into_iter().rev() {
        storage.checkpoint(vec![snapshot]).await.unwrap();
    }
    storage.close().await;
    let seen = states(open(&disk).await.1);
    assert_eq!(seen[0].0, ["newer"]);
}
