//! What runs in the background of a log: checkpoints, tiering, merging, compaction by key, retention and sweeping; and
//! the rest in the end, when nothing fails any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use millpond_proto::message::{ShardId, TopicId};
use millpond_storage::error::TierError;
use millpond_storage::log::{Keep, KeepTable, ShardSnapshot};
use millpond_storage::tier::cold::compaction::Compaction;
use millpond_storage::tier::cold::keys::KeyCompaction;
use millpond_storage::tier::simulated::SimulatedStore;

use crate::logs::{COMPACTED, End, FAMILY, IN_FAMILY, Life, World, first_of};

/// Of a hundred checkpoints, those that save some shards only: the log must then reach back to the others.
const SOME_SAVED_PERCENT: u64 = 40;

impl World {
    /// A turn of what runs in the background, while appends go on.
    pub(super) async fn turn_beside_appends(&mut self, life: &Life) -> Option<End> {
        let storage = Arc::clone(&life.storage);
        let topic = self.some_topic();
        // The topics of the family have their files together.
        let owner = if is_in_family(topic) { FAMILY } else { topic };
        let choice = self.chance.below(10);
        let snapshots = if choice < 3 {
            let Some(mut snapshots) = self.snapshots(life).await else {
                return self.failed(life);
            };
            if self.chance.percent(SOME_SAVED_PERCENT) {
                snapshots.retain(|_| self.chance.percent(50));
            }
            snapshots
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
                    let merged = storage.compact(owner, Compaction::default()).await;
                    merged.map(|_| ())
                }
                _ if first_of(topic) == COMPACTED => {
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
            let is_excused =
                self.is_store_faulty() || life.is_disturbed || life.disk.power.is_gone();
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

    /// Lets go of what is old or too much, of the log and, where it is kept for another time, of the table.
    pub(super) async fn retain(&mut self, life: &Life) -> Option<End> {
        let topic = self.some_topic();
        if is_in_family(topic) && self.chance.percent(50) {
            return self.retain_in_family(life).await;
        }
        let (stored_from_ms, bytes_max) = self.draw_keep();
        let mut keep = Keep {
            stored_from_ms,
            bytes_max,
            table: None,
        };
        if self.has_tables && !is_in_family(topic) && self.chance.percent(70) {
            let (stored_from_ms, bytes_max) = self.draw_keep();
            keep.table = Some(KeepTable {
                stored_from_ms,
                bytes_max,
            });
            self.apart.insert(topic);
        }
        self.tally.operations += 1;
        self.tally.turns += 1;
        let kept = life.storage.retain(topic, keep).await;
        self.turned(life, kept.map(|_| ()));
        self.check_retained(life, topic, &keep);
        self.check_extents(life);
        life.disk.power.is_gone().then_some(End::Crashed)
    }

    /// As [`World::retain`], of all topics of the family at once.
    async fn retain_in_family(&mut self, life: &Life) -> Option<End> {
        let mut keeps = Vec::new();
        for topic in self
            .topics()
            .into_iter()
            .filter(|topic| is_in_family(*topic))
        {
            let (stored_from_ms, bytes_max) = self.draw_keep();
            let table = None;
            let keep = Keep {
                stored_from_ms,
                bytes_max,
                table,
            };
            keeps.push((topic, keep));
        }
        self.tally.operations += 1;
        self.tally.turns += 1;
        let kept = life.storage.retain_in_family(FAMILY, &keeps).await;
        self.turned(life, kept.map(|_| ()));
        for (topic, keep) in keeps {
            self.check_retained(life, topic, &keep);
        }
        self.check_extents(life);
        life.disk.power.is_gone().then_some(End::Crashed)
    }

    /// The topics as they are now, each once.
    pub(super) fn topics(&self) -> BTreeSet<TopicId> {
        self.queues.iter().map(|queue| queue.topic).collect()
    }

    pub(super) fn some_topic(&self) -> TopicId {
        let queue = self.chance.below(self.queues.len() as u64);
        self.queues[usize::try_from(queue).unwrap()].topic
    }

    /// From when on and how much of it to keep.
    fn draw_keep(&self) -> (Option<i64>, Option<u64>) {
        let age = self.chance.below(self.nonce + 1);
        let from = self.chance.percent(70);
        let bytes_max = self.chance.percent(30);
        (
            from.then(|| i64::try_from(age / 2).unwrap()),
            bytes_max.then(|| self.chance.below(400_000)),
        )
    }

    /// What is to be kept is there: by the log what it keeps, and by a scan what either of log and table keeps.
    fn check_retained(&self, life: &Life, topic: TopicId, keep: &Keep) {
        for queue in self.queues.iter().filter(|queue| queue.topic == topic) {
            let Some(extent) = life.storage.extent(topic, queue.id) else {
                continue;
            };
            let of_log = queue.let_go_below(keep.stored_from_ms, keep.bytes_max);
            let of_table = keep.table.map_or(of_log, |table| {
                queue.let_go_below(table.stored_from_ms, table.bytes_max)
            });
            let (first, kept) = (extent.first.0, extent.kept.0);
            assert!(
                first <= of_log.max(queue.first),
                "the log begins at {first} after {keep:?}"
            );
            assert!(
                kept <= of_log.min(of_table).max(queue.kept),
                "scans begin at {kept} after {keep:?}"
            );
        }
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
        // What crashes have left goes now; nothing that follows may leave anything.
        storage.sweep().await.unwrap();
        storage.tier().await.unwrap();
        let own = self.topics().into_iter();
        let own = own.filter(|topic| !is_in_family(*topic));
        for owner in own.chain([FAMILY]) {
            storage.compact(owner, Compaction::default()).await.unwrap();
        }
        let all = KeyCompaction::default();
        let compacted = self.queues.iter().find(|queue| queue.is_compacted());
        let compacted = compacted.map(|queue| queue.topic).unwrap();
        let done = storage.compact_keys(compacted, &all).await.unwrap();
        assert_eq!(done.damaged, 0);
        let snapshots = self.snapshots(life).await.unwrap();
        storage.checkpoint(snapshots).await.unwrap();
        let files = self.disk.snapshot().into_keys();
        let segments = files.filter(|path| path.starts_with("wal/") && path.ends_with(".log"));
        let (segments, wals) = (segments.count(), usize::from(self.settings.wals));
        assert!(segments <= 2 * wals, "{segments} segments of a log at rest");
        let findings = storage.verify().await.unwrap();
        assert_eq!((findings.damage, findings.notes), (vec![], vec![]));
        end
    }
}

fn is_in_family(topic: TopicId) -> bool {
    IN_FAMILY.contains(&first_of(topic))
}
