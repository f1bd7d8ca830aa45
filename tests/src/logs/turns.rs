//! What runs in the background of a log: checkpoints, tiering, merging, compaction by key, retention and sweeping; and
//! the rest in the end, when nothing fails any more.

use std::sync::Arc;

use millpond_proto::message::{ShardId, TopicId};
use millpond_storage::error::TierError;
use millpond_storage::log::{Keep, ShardSnapshot};
use millpond_storage::tier::cold::compaction::Compaction;
use millpond_storage::tier::cold::keys::KeyCompaction;
use millpond_storage::tier::simulated::SimulatedStore;

use crate::logs::{COMPACTED, End, Life, QUEUES, World};

impl World {
    /// A turn of what runs in the background, while appends go on.
    pub(super) async fn turn_beside_appends(&mut self, life: &Life) -> Option<End> {
        let storage = Arc::clone(&life.storage);
        let topic = QUEUES[usize::try_from(self.chance.below(QUEUES.len() as u64)).unwrap()].0;
        let choice = self.chance.below(10);
        let snapshots = if choice < 3 {
            match self.snapshots(life).await {
                Some(snapshots) => snapshots,
                None => return self.failed(life),
            }
        } else {
            Vec::new()
        };
        self.tally.operations += 1;
        self.tally.turns += 1;
        let turn = async move {
            match choice {
                0..3 => storage.checkpoint(snapshots).await,
                3..7 => storage.tier().await.map(|_| ()),
                7..9 => {
                    let merged = storage.compact(topic, Compaction::default()).await;
                    merged.map(|_| ())
                }
                _ if topic == COMPACTED => {
                    let all = KeyCompaction {
                        step_rows: 100,
                        ..KeyCompaction::default()
                    };
                    storage.compact_keys(topic, &all).await.map(|_| ())
                }
                _ => storage.sweep().await.map(|_| ()),
            }
        };
        let (turned, end) = futures::future::join(turn, self.burst(life)).await;
        self.turned(life, turned);
        end
    }

    pub(super) fn turned(&mut self, life: &Life, turned: Result<(), TierError>) {
        if let Err(error) = turned {
            let is_excused = self.is_store_faulty()
                || life.is_disturbed
                || life.disk.power.is_gone()
                || self.tally.failures > 0;
            assert!(is_excused, "a turn fails without a reason: {error:?}");
            self.tally.failed_turns += 1;
        }
    }

    /// The state of every shard, each with its place in the log.
    pub(super) async fn snapshots(&mut self, life: &Life) -> Option<Vec<ShardSnapshot>> {
        let mut snapshots = Vec::new();
        for (shard, known) in (0..).map(ShardId).zip(&self.shards) {
            let state = known.sums.last().unwrap().encode();
            self.tally.operations += 1;
            let durable = life.storage.append(shard, Vec::new()).await.ok()?;
            snapshots.push((shard, state, durable));
        }
        let mut placed = Vec::new();
        for (shard, state, durable) in snapshots {
            let position = durable.await.ok()?;
            placed.push(ShardSnapshot {
                shard,
                position,
                state,
            });
        }
        Some(placed)
    }

    pub(super) async fn retain(&mut self, life: &Life) -> Option<End> {
        let topic = QUEUES[usize::try_from(self.chance.below(QUEUES.len() as u64)).unwrap()].0;
        let age = self.chance.below(self.nonce + 1);
        let keep = Keep {
            stored_from_ms: self
                .chance
                .percent(70)
                .then(|| i64::try_from(age / 2).unwrap()),
            bytes_max: self.chance.percent(30).then(|| self.chance.below(400_000)),
            table: None,
        };
        self.tally.operations += 1;
        self.tally.turns += 1;
        let kept = life.storage.retain(topic, keep).await;
        self.turned(life, kept.map(|_| ()));
        self.check_extents(life);
        life.disk.power.is_gone().then_some(End::Crashed)
    }

    /// The end: nothing fails any more, and everything must be there.
    pub(super) async fn heal(&mut self) {
        (self.percent, self.disk_percent, self.is_mortal) = (0, 0, false);
        // What was still to fail fails no more after a crash.
        self.crash();
        for round in 0..2 {
            let life = self.open(u64::MAX).await;
            self.read_everything(&life).await;
            if round == 0 {
                let end = self.turn_to_rest(&life).await;
                assert_eq!(end, None, "nothing fails any more");
                self.read_everything(&life).await;
            }
            life.storage.close().await;
        }
        let reused = self.store.as_ref().map(SimulatedStore::reused);
        let reused = reused.unwrap_or_default();
        assert!(reused.is_empty(), "names are used once: {reused:?}");
    }

    pub(super) async fn turn_to_rest(&mut self, life: &Life) -> Option<End> {
        let end = self.burst(life).await;
        let storage = &life.storage;
        storage.tier().await.unwrap();
        for topic in [TopicId(7), TopicId(8)] {
            storage.compact(topic, Compaction::default()).await.unwrap();
        }
        let all = KeyCompaction::default();
        let done = storage.compact_keys(COMPACTED, &all).await.unwrap();
        assert_eq!(done.damaged, 0);
        let snapshots = self.snapshots(life).await.unwrap();
        storage.checkpoint(snapshots).await.unwrap();
        storage.sweep().await.unwrap();
        let findings = storage.verify().await.unwrap();
        assert_eq!((findings.damage, findings.notes), (vec![], vec![]));
        end
    }
}
