//! Checkpoints that fail, and what they leave behind.

use super::*;

fn snapshot(state: Vec<u8>) -> Vec<ShardSnapshot> {
    vec![ShardSnapshot {
        shard: ShardId(0),
        position: Position(0),
        state: state.into(),
    }]
}

#[tokio::test]
async fn a_checkpoint_for_which_there_is_no_room_takes_none() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let used: usize = disk.snapshot().values().map(Vec::len).sum();
    disk.limit_room(Some(used + 1000));
    for _ in 0..3 {
        let made = storage.checkpoint(snapshot(vec![7; 100_000])).await;
        assert!(matches!(made, Err(TierError::Disk { .. })), "{made:?}");
        assert!(disk.list("checkpoint").unwrap().is_empty());
    }
    disk.limit_room(None);
    storage.checkpoint(snapshot(vec![7])).await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_of_a_checkpoint_goes_with_the_next_one() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    let left = disk.create("checkpoint/00000000000000000007.new").unwrap();
    left.write_at(b"half of it", 0).unwrap();
    storage.checkpoint(snapshot(vec![7])).await.unwrap();
    assert_eq!(disk.list("checkpoint").unwrap().len(), 1);
}
