//! Checks of a log that is in use.

use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use millpond_proto::time::Clock as _;

use super::*;
use crate::tier::simulated::SimulatedStore;

async fn open_over(disk: &SimulatedDisk, store: &SimulatedStore) -> Arc<Storage> {
    let parts = Parts {
        objects: Arc::new(store.clone()),
        disk: Arc::new(disk.clone()),
        clock: Arc::new(SystemClock),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    let opened = Storage::open::<Seen>(parts, settings()).await;
    opened.unwrap().0
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_check_of_a_slow_cold_tier_and_it_takes_no_change_for_damage() {
    let disk = SimulatedDisk::new();
    let store = SimulatedStore::new(1).by(Arc::new(SystemClock));
    let storage = open_over(&disk, &store).await;
    for file in 0..3 {
        send_at(&storage, file * 10..(file + 1) * 10).await;
        storage.tier().await.unwrap();
    }
    // It has listed the files and read the manifest, and reads the first of three files.
    store.set_latency(Duration::from_secs(10));
    let check = pin!(storage.verify());
    let Either::Right(((), check)) =
        select(check, SystemClock.sleep(Duration::from_secs(25))).await
    else {
        panic!("it is still at work");
    };
    storage.checkpoint(Vec::new()).await.unwrap();
    store.set_latency(Duration::ZERO);
    send_at(&storage, 30..40).await;
    assert_eq!(storage.tier().await.unwrap().messages, 10);
    storage.compact(TOPIC, Compaction::default()).await.unwrap();
    assert_eq!(storage.sizes_of(TOPIC).cold.files, 1);
    let found = check.await.unwrap();
    assert_eq!((&found.damage[..], found.whole.len()), (&[][..], 4));
    assert!(
        found.whole[3].contains("3 files with 30 messages"),
        "{:?}",
        found.whole
    );
    // What it held is let go of once it is done.
    storage.tier().await.unwrap();
    let files = store.paths().into_iter();
    let files = files.filter(|path| path.extension() == Some("parquet"));
    assert_eq!(files.count(), 1);
}

#[tokio::test]
async fn what_was_not_durable_when_a_check_began_is_no_damage() {
    let disk = SimulatedDisk::new();
    let (storage, _) = open(&disk).await;
    for offset in 0..4 {
        send(&storage, 0, offset).await.unwrap();
    }
    storage.close().await;
    let mut blocks = Vec::new();
    let whole = recovery::recover(&disk, 0, |found| {
        if let Found::Record { position, .. } = found {
            blocks.push(position - block::HEADER_BYTES as u64);
        }
    });
    assert_eq!(blocks.len(), 4);
    let tail = whole.unwrap().tail;
    // The third was read before it was there, the fourth after it, which says that the third is durable.
    let files = wal_files(&disk);
    let (path, bytes) = files
        .iter()
        .find(|(path, _)| path.starts_with("wal/0/"))
        .unwrap();
    let at = bytes.windows(8).position(|window| window == b"body 0 2");
    disk.flip_bit(path, at.unwrap() * 8);
    let checked = |settled| recovery::recover_settled(&disk, 0, settled, |_| {}).unwrap();
    let running = checked(blocks[2]);
    assert_eq!((running.damage.len(), running.tail), (0, blocks[2]));
    // It was durable before the reading began, or nobody writes.
    for settled in [blocks[3], tail, u64::MAX] {
        let found = checked(settled);
        assert_eq!((found.damage.len(), found.tail), (1, tail), "{settled}");
    }
}
