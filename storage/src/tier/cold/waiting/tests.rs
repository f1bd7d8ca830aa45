//! Outside readers that planned before a change, and the time they have.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_proto::message::{Offset, QueueId};
use millpond_proto::time::{SimulatedClock, Timestamp};

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::format::envelope::Envelope;
use crate::log::ReadLimit;
use crate::tier::cold::compaction::Compaction;
use crate::tier::cold::erasure::emptied;
use crate::tier::iceberg::tests::{TOPIC, files, files_of, numbers, open};

const HOUR_MS: i64 = 3_600_000;

struct World {
    disk: Arc<SimulatedDisk>,
    clock: Arc<SimulatedClock>,
    cold: Arc<Cold>,
}

impl World {
    async fn trim(&self, files: usize) {
        let ages = self.cold.ages(TOPIC);
        let firsts = BTreeMap::new();
        let trimmed = self.cold.trim(TOPIC, &ages[..files], &firsts);
        trimmed.await.unwrap();
    }

    /// Four files of one day.
    async fn new() -> Self {
        let disk = Arc::new(SimulatedDisk::default());
        let clock = Arc::new(SimulatedClock::starting_at(Timestamp(30_000)));
        let mut world = Self {
            cold: open(&disk, 0).await,
            disk,
            clock,
        };
        world.restart().await;
        for file in 0..4 {
            let messages = numbers(file * 3..file * 3 + 3, 3);
            world.cold.write(TOPIC, &messages, &[]).await.unwrap();
        }
        world
    }

    async fn restart(&mut self) {
        self.cold = open(&self.disk, 0).await;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        self.cold.set_grace(clock, HOUR_MS);
    }

    fn parquet_files(&self) -> usize {
        let paths = self.disk.snapshot().into_keys();
        paths.filter(|path| path.ends_with(".parquet")).count()
    }
}

async fn after(minutes: u64) {
    tokio::time::advance(Duration::from_secs(60 * minutes)).await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_planned_before_a_merge_finishes_within_the_hour() {
    let mut world = World::new().await;
    let (planned, _) = files(&world.cold, &world.disk).await;
    let list = planned
        .current_snapshot()
        .unwrap()
        .manifest_list()
        .to_owned();
    world
        .cold
        .compact(TOPIC, Compaction::default())
        .await
        .unwrap();
    after(59).await;
    world.restart().await;
    world.cold.sweep().await.unwrap();
    world.cold.show_tables().await.unwrap();
    // Not even a start takes away what waits, and its snapshots can still be asked for.
    assert_eq!(world.parquet_files(), 5);
    let (found, _) = files_of(&list, &world.disk).await;
    assert_eq!(found.len(), 4);
    let (metadata, found) = files(&world.cold, &world.disk).await;
    assert_eq!((found.len(), metadata.snapshots().count()), (1, 5));

    after(2).await;
    world.cold.show_tables().await.unwrap();
    assert_eq!(world.parquet_files(), 1);
    let (metadata, found) = files(&world.cold, &world.disk).await;
    let rows: u64 = found.iter().map(|(_, rows)| rows).sum();
    assert_eq!((found.len(), rows), (1, 12));
    // That of the merge and that of its files' end.
    assert_eq!(metadata.snapshots().count(), 2);
    for snapshot in metadata.snapshots() {
        files_of(snapshot.manifest_list(), &world.disk).await;
    }
    assert_eq!(world.cold.sweep().await.unwrap(), 0);
    let version = world.cold.manifest(TOPIC).unwrap().manifest().version;
    after(600).await;
    world.cold.show_tables().await.unwrap();
    let later = world.cold.manifest(TOPIC).unwrap().manifest().version;
    assert_eq!(version, later, "metadata alone is no reason for a change");
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_swept_at_a_start_too() {
    let mut world = World::new().await;
    world
        .cold
        .compact(TOPIC, Compaction::default())
        .await
        .unwrap();
    after(61).await;
    world.restart().await;
    world.cold.sweep().await.unwrap();
    assert_eq!(world.parquet_files(), 1);
}

#[tokio::test(start_paused = true)]
async fn retention_gives_outside_readers_their_time_and_our_own_nothing() {
    let world = World::new().await;
    world.trim(2).await;
    assert_eq!(world.parquet_files(), 4);
    let all = ReadLimit {
        messages: 99,
        bytes: 9999,
    };
    let below = world.cold.read(TOPIC, QueueId(0), Offset(5), all).await;
    assert!(below.is_err(), "it is not kept: {below:?}");
    after(61).await;
    world.cold.show_tables().await.unwrap();
    assert_eq!(world.parquet_files(), 2);
}

#[tokio::test(start_paused = true)]
async fn erasing_and_deleting_wait_for_nobody() {
    let world = World::new().await;
    let secret = Envelope {
        key: Some(b"anna".to_vec().into()),
        ..numbers(12..13, 3).remove(0)
    };
    world.cold.write(TOPIC, &[secret], &[]).await.unwrap();
    world
        .cold
        .compact(TOPIC, Compaction::default())
        .await
        .unwrap();
    assert_eq!(world.parquet_files(), 6, "one waits that holds the key");
    let erased = world
        .cold
        .erase(TOPIC, b"anna", &|message| Some(emptied(message)))
        .await
        .unwrap();
    assert_eq!((erased.messages, erased.held), (1, 0));
    assert_eq!(world.parquet_files(), 1, "nothing waits any more");
    let (metadata, _) = files(&world.cold, &world.disk).await;
    assert_eq!(metadata.snapshots().count(), 1);
    // What was let go of before holds it too.
    let secret = Envelope {
        key: Some(b"anna".to_vec().into()),
        ..numbers(13..14, 4).remove(0)
    };
    world.cold.write(TOPIC, &[secret], &[]).await.unwrap();
    world.trim(2).await;
    assert_eq!(world.parquet_files(), 2);
    world
        .cold
        .erase(TOPIC, b"anna", &|message| Some(emptied(message)))
        .await
        .unwrap();
    assert_eq!(world.parquet_files(), 0);

    let world = World::new().await;
    world
        .cold
        .compact(TOPIC, Compaction::default())
        .await
        .unwrap();
    world.cold.forget(TOPIC).await.unwrap();
    let left = world.disk.snapshot().into_keys();
    assert_eq!(
        left.filter(|path| path.starts_with("cold/topics")).count(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_crash_in_between_neither_loses_what_waits_nor_keeps_it_for_ever() {
    use millpond_proto::chance::Seeded;

    use crate::tier::cold::tests::{Handle, term};

    for (dies_at, happens) in (0..16).flat_map(|at| [(at, false), (at, true)]) {
        let mut world = World::new().await;
        let dying = Handle::over(&world.disk, dies_at, happens);
        let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term());
        let cold = cold.await.unwrap();
        cold.set_grace(Arc::clone(&world.clock) as Arc<dyn Clock>, HOUR_MS);
        let _ = cold.compact(TOPIC, Compaction::default()).await;
        after(61).await;
        let _ = cold.release().await;
        drop(cold);
        let seed = Seeded::new(dies_at as u64);
        world.disk = Arc::new(world.disk.crash(&seed));
        world.restart().await;
        after(61).await;
        world.cold.sweep().await.unwrap();
        world
            .cold
            .compact(TOPIC, Compaction::default())
            .await
            .unwrap();
        after(61).await;
        world.cold.show_tables().await.unwrap();
        let at = format!("died at {dies_at}, {happens}");
        assert_eq!(world.parquet_files(), 1, "{at}");
        assert_eq!(world.cold.sizes(TOPIC).messages, 12, "{at}");
        assert_eq!(world.cold.sweep().await.unwrap(), 0, "{at}");
    }
}
