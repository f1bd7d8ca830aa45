//! One seed, one run of the log alone: appends, reads, tiering, merging, retention, checkpoints and crashes, checked
//! against a model that is a list per queue and a hash per shard.
//!
//! Faults come in any mixture that the seed draws, also none: power that goes at a random change of the disk, in the
//! middle of a recovery too; writes cut short, syncs that fail and lose what they were to save, a full disk; an
//! object store that is slow, fails, loses answers, refuses its own writes, lists what was and removes late.
//!
//! What is promised: what was acknowledged is there, under its offset and with its bytes, wherever it lies by now;
//! what was seen once stays; offsets have no holes, but where a later message of the same key took the place of one in a topic
//! that is compacted, and never return below the first that is kept; what a table keeps for longer than its log is there for
//! scans and not for readers of the log; retention lets go of nothing that is to be kept; topics of a family share files and
//! nothing else; of a topic that was deleted nothing is answered again; the state of a shard is that of a prefix of its records; nothing is answered OK after a failure; without faults nothing fails.
//! In the end all is healed, and everything is read back and checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::message::{QueueId, ShardId, TopicId};
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::log::{Record, Settings, Storage};
use millpond_storage::tier::columns::{Table, Tables};
use millpond_storage::tier::simulated::{Fault, SimulatedStore};

use crate::logs::model::{Queue, Shard, Sum};
use crate::panics;
use crate::power::MortalDisk;

mod deletion;
mod model;
mod opening;
mod reads;
mod turns;

const SHARDS: u16 = 4;
/// Topic as it is made first, queue; the queue of index `i` belongs to shard `i % SHARDS`.
const QUEUES: [(TopicId, QueueId); 10] = [
    (TopicId(7), QueueId(0)),
    (TopicId(7), QueueId(1)),
    (TopicId(7), QueueId(2)),
    (TopicId(8), QueueId(0)),
    (TopicId(8), QueueId(1)),
    (TopicId(7), QueueId(3)),
    (TopicId(9), QueueId(0)),
    (TopicId(9), QueueId(1)),
    (TopicId(10), QueueId(0)),
    (TopicId(11), QueueId(0)),
];
/// The topic that is compacted by key, and how many keys it has.
const COMPACTED: TopicId = TopicId(8);
const KEYS: u64 = 12;
/// The topics that share files, and whose they are.
const IN_FAMILY: [TopicId; 3] = [TopicId(9), TopicId(10), TopicId(11)];
const FAMILY: TopicId = TopicId(1 << 62 | 9);
/// A topic that is made anew has an id that is higher by this, and is as its forerunner was.
const ANEW: u64 = 100;
/// Of a hundred appends of a burst, those before which the log's writer has a turn.
const BETWEEN_PERCENT: u64 = 30;
/// Attempts to open before the run counts as stuck.
const OPENS_MAX: usize = 40;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct LogPlan {
    /// Everything follows from it.
    pub seed: u64,
    /// Calls of the log after which it ends.
    pub operations: u64,
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls of the log.
    pub operations: u64,
    /// Of these, reads.
    pub reads: u64,
    /// Of these, turns of tiering, merging, retention and checkpoints.
    pub turns: u64,
    /// Turns that failed.
    pub failed_turns: u64,
    /// Records that were acknowledged.
    pub records: u64,
    /// Times that the log failed.
    pub failures: u64,
    /// Crashes.
    pub crashes: u64,
    /// Of these, in the middle of an opening.
    pub crashes_at_opening: u64,
    /// Topics that were deleted and made anew.
    pub deleted: u64,
    /// Calls of the object store.
    pub store_calls: u64,
}

impl Tally {
    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.reads += other.reads;
        self.turns += other.turns;
        self.failed_turns += other.failed_turns;
        self.records += other.records;
        self.failures += other.failures;
        self.crashes += other.crashes;
        self.crashes_at_opening += other.crashes_at_opening;
        self.deleted += other.deleted;
        self.store_calls += other.store_calls;
    }
}

impl LogPlan {
    /// Runs it; panics when a promise is broken.
    #[must_use]
    pub fn run(self) -> Tally {
        panics::watch();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let tally = runtime.block_on(async {
            let mut world = World::new(self);
            while world.tally.operations < self.operations {
                world.live().await;
            }
            world.heal().await;
            if let Some(store) = &world.store {
                world.tally.store_calls = store.calls();
            }
            world.tally
        });
        drop(runtime);
        let panics = panics::taken();
        assert!(panics.is_empty(), "tasks of the log panicked: {panics:#?}");
        tally
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In order.
    Closed,
    /// The log failed; it is opened again as it is.
    Failed,
    /// The power went.
    Crashed,
}

/// One run.
struct World {
    plan: LogPlan,
    chance: Seeded,
    disk: SimulatedDisk,
    /// A bucket; without one, objects lie on the disk.
    store: Option<SimulatedStore>,
    percent: u64,
    faults: Vec<Fault>,
    /// Of a hundred steps, those that let the disk fail.
    disk_percent: u64,
    /// Whether the power goes by itself.
    is_mortal: bool,
    settings: Settings,
    clock: Arc<dyn Clock>,
    shards: Vec<Shard>,
    queues: Vec<Queue>,
    /// Whether tables are kept for another time than their logs, and those that ever were.
    has_tables: bool,
    apart: BTreeSet<TopicId>,
    /// Topics that were deleted, and those of them that the log may not know of yet.
    deleted: Vec<TopicId>,
    undeleted: BTreeSet<TopicId>,
    nonce: u64,
    term: u64,
    tally: Tally,
}

/// What the log is told of topics: which of them are of the family.
#[derive(Debug)]
struct Named;

impl Tables for Named {
    fn revision(&self) -> u64 {
        1
    }

    fn table(&self, topic: TopicId) -> Option<Table> {
        let name = format!("topic{topic}");
        let columns = None;
        Some(Table { name, columns })
    }

    fn family(&self, topic: TopicId) -> Option<TopicId> {
        IN_FAMILY.contains(&first_of(topic)).then_some(FAMILY)
    }
}

/// The topic that was made first of those that were made anew one after the other.
fn first_of(topic: TopicId) -> TopicId {
    TopicId(topic.0 % ANEW)
}

/// An open log and what may go wrong with it.
struct Life {
    storage: Arc<Storage>,
    disk: MortalDisk,
    /// Whether something was made to fail, so that errors are no surprise.
    is_disturbed: bool,
}

impl World {
    fn new(plan: LogPlan) -> Self {
        let chance = Seeded::new(plan.seed);
        let disk = SimulatedDisk::new();
        disk.reorder(plan.seed);
        let clock: Arc<dyn Clock> = Arc::new(SimulatedClock::starting_at(Timestamp(0)));
        let store = chance
            .percent(60)
            .then(|| SimulatedStore::new(chance.next_u64()).by(Arc::clone(&clock)));
        let draw = |of: [u64; 3]| of[usize::try_from(chance.below(3)).unwrap()];
        let kinds = Fault::ALL.into_iter().filter(|_| chance.percent(50));
        let settings = Settings {
            shards: SHARDS,
            wals: 1 + u16::try_from(chance.below(2)).unwrap(),
            segment_bytes: draw([16, 32, 64]) * 1024,
            writes_in_flight: 1 + u16::try_from(chance.below(4)).unwrap(),
            overlap_bytes: 0,
            cache_bytes: usize::try_from(draw([0, 4096, 256 * 1024])).unwrap(),
            disk_reserve_bytes: 0,
            ..Settings::default()
        };
        let shard = |_| Shard {
            sums: vec![Sum::default()],
            records: Vec::new(),
            acknowledged: 0,
        };
        Self {
            faults: kinds.collect(),
            percent: draw([0, 3, 15]),
            disk_percent: draw([0, 0, 2]),
            is_mortal: chance.percent(70),
            has_tables: chance.percent(50),
            apart: BTreeSet::new(),
            deleted: Vec::new(),
            undeleted: BTreeSet::new(),
            shards: (0..SHARDS).map(shard).collect(),
            queues: QUEUES.into_iter().map(Queue::new).collect(),
            plan,
            disk,
            store,
            settings,
            clock,
            nonce: 0,
            term: 0,
            tally: Tally::default(),
            chance,
        }
    }

    fn misbehave(&self, does: bool) {
        if let Some(store) = &self.store {
            let percent = if does && !self.faults.is_empty() {
                self.percent
            } else {
                0
            };
            store.misbehave(percent, &self.faults);
        }
    }

    /// Whether the store is made to fail.
    fn is_store_faulty(&self) -> bool {
        self.store.is_some() && self.percent > 0 && !self.faults.is_empty()
    }

    /// One opening and what is done until it ends.
    async fn live(&mut self) {
        let power = self.power();
        let mut life = self.open(power).await;
        let end = loop {
            if self.tally.operations >= self.plan.operations {
                break End::Closed;
            }
            if let Some(end) = self.step(&mut life).await {
                break end;
            }
        };
        let Life { storage, disk, .. } = life;
        if end != End::Crashed && !disk.power.is_gone() {
            storage.close().await;
        }
        drop(storage);
        if end == End::Crashed || disk.power.is_gone() {
            self.crash();
        } else {
            self.disk.limit_room(None);
        }
    }

    async fn step(&mut self, life: &mut Life) -> Option<End> {
        if self.chance.percent(self.disk_percent) {
            life.is_disturbed = true;
            match self.chance.below(3) {
                0 => self.disk.fail_next_sync(),
                1 => self.disk.fail_next_write(),
                _ => {
                    let used = self.disk.snapshot().values().map(Vec::len).sum::<usize>();
                    let more = usize::try_from(self.chance.below(40_000)).unwrap();
                    self.disk.limit_room(Some(used + more));
                }
            }
        }
        match self.chance.below(1000) {
            0..716 => self.burst(life).await,
            716..966 => self.read(life).await,
            966..984 => self.turn_beside_appends(life).await,
            984..990 => self.retain(life).await,
            990..993 => self.scan(life).await,
            993..996 => self.delete(life).await,
            996..998 => Some(End::Closed),
            _ if self.is_mortal => Some(End::Crashed),
            _ => None,
        }
    }

    /// Several appends at once.
    async fn burst(&mut self, life: &Life) -> Option<End> {
        let mut answers = Vec::new();
        for _ in 0..=self.chance.below(28) {
            if self.chance.percent(BETWEEN_PERCENT) {
                // A write starts with what is there, so that the next one is in flight beside it.
                tokio::task::yield_now().await;
            }
            let shard = usize::try_from(self.chance.below(u64::from(SHARDS))).unwrap();
            let records = self.decide(shard);
            let id = ShardId(u16::try_from(shard).unwrap());
            self.tally.operations += 1;
            let count = self.shards[shard].records.len();
            match life.storage.append(id, records).await {
                Ok(durable) => answers.push((shard, count, durable)),
                Err(_) => return self.failed(life),
            }
        }
        let answers = answers
            .into_iter()
            .map(|(shard, count, durable)| async move { (shard, count, durable.await.is_ok()) });
        let mut has_failed = false;
        for (shard, count, is_durable) in join_all(answers).await {
            has_failed |= !is_durable;
            if is_durable {
                let shard = &mut self.shards[shard];
                assert!(count >= shard.acknowledged, "answered in order");
                self.tally.records += (count - shard.acknowledged) as u64;
                shard.acknowledged = count;
            }
        }
        if has_failed {
            return self.failed(life);
        }
        None
    }

    fn failed(&mut self, life: &Life) -> Option<End> {
        let is_excused = life.is_disturbed || life.disk.power.is_gone();
        assert!(is_excused, "the log fails for a reason");
        self.tally.failures += 1;
        let crashes = self.is_mortal && self.chance.percent(40);
        Some(if crashes { End::Crashed } else { End::Failed })
    }

    /// Records for a shard, as its owner decides and applies them.
    fn decide(&mut self, shard: usize) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..=self.chance.below(3) {
            let of_shard = (shard..QUEUES.len()).step_by(usize::from(SHARDS));
            let choice = usize::try_from(self.chance.below(4)).unwrap();
            let queue = of_shard.into_iter().nth(choice);
            self.nonce += 1;
            let Shard {
                sums,
                records: known,
                ..
            } = &mut self.shards[shard];
            let mut sum = *sums.last().unwrap();
            if let Some(queue) = queue {
                let queue = &mut self.queues[queue];
                let message = queue.message(queue.nonces.len() as u64, self.nonce);
                queue.nonces.push(self.nonce);
                sum.message(&message);
                records.push(Record::Message(message));
            } else {
                let length = if self.chance.percent(2) { 9000 } else { 24 };
                let text = self.nonce.to_le_bytes().repeat(length / 8);
                sum.state(&text);
                records.push(Record::State(text.into()));
            }
            known.push(queue);
            sums.push(sum);
        }
        records
    }
}
