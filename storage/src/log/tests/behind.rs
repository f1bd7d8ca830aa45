//! A shard whose state was saved further back in the log than that of its neighbours.

use super::*;

async fn save(storage: &Storage, shard: u16, state: &'static str) {
    let position = storage.append(ShardId(shard), vec![]).await.unwrap();
    let snapshot = ShardSnapshot {
        shard: ShardId(shard),
        position: position.await.unwrap(),
        state: Bytes::from_static(state.as_bytes()),
    };
    storage.checkpoint(vec![snapshot]).await.unwrap();
}

#[tokio::test]
async fn the_log_reaches_back_to_what_the_shard_that_was_saved_first_needs() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    // Both shards write to one WAL.
    save(&storage, 1, "saved").await;
    state(&storage, 1, "replayed").await;
    for offset in 0..80 {
        send(&storage, 3, offset).await.unwrap();
    }
    storage.tier().await.unwrap();
    let before = wal_files(&disk).len();
    save(&storage, 3, "of its neighbour").await;
    storage.close().await;
    let disk = disk.crash(&Seeded::new(1));
    let (storage, recovered) = open(&disk).await;
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    let seen = states(recovered);
    assert_eq!(seen[1].0, ["saved", "state b\"replayed\""]);
    assert_eq!(seen[3].0, ["of its neighbour"]);
    save(&storage, 1, "saved again").await;
    assert!(wal_files(&disk).len() < before, "now segments are let go");
    storage.close().await;
    assert_eq!(states(open(&disk).await.1)[1].0, ["saved again"]);
}

#[tokio::test]
async fn no_crash_brings_back_a_checkpoint_whose_log_may_be_gone() {
    for seed in 0..8 {
        let disk = SimulatedDisk::new();
        let (storage, _) = open(&disk).await;
        save(&storage, 1, "older").await;
        save(&storage, 1, "newer").await;
        let disk = disk.crash(&Seeded::new(seed));
        assert_eq!(disk.list("checkpoint").unwrap().len(), 1, "seed {seed}");
        let seen = states(open(&disk).await.1);
        assert_eq!(seen[1].0, ["newer"]);
    }
}

#[tokio::test]
async fn segments_that_a_crash_made_worthless_are_used_again() {
    let disk = SimulatedDisk::new();
    let mut logs = Vec::new();
    for round in 0..12 {
        let (storage, _) = open(&disk).await;
        logs.push(wal_files(&disk).len());
        // Nothing is written: each opening begins where the one before did.
        if round % 3 == 2 {
            state(&storage, 1, "something").await;
        }
        storage.close().await;
    }
    assert!(logs.iter().all(|&count| count <= 2 + 4), "{logs:?}");
}
