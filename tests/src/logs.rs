//! One seed, one run of the log alone: appends, reads, tiering, merging, retention, checkpoints and crashes, checked
//! against a model that is a list per queue and a hash per shard.
//!
//! Faults come in any mixture that the seed draws, also none: power that goes at a random change of the disk, in the
//! middle of a recovery too; writes cut short, syncs that fail and lose what they were to save, a full disk; an
//! object store that is slow, fails, loses answers, refuses its own writes, lists what was and removes late.
//!
//! What is promised: what was acknowledged is there, under its offset and with its bytes, wherever it lies by now;
//! what was seen once stays; offsets have no holes, but where a later message of the same key took the place of one in a topic
//! that is compacted, and never return below the first that is kept; the state of
//! a shard is that of a prefix of its records; nothing is answered OK after a failure; without faults nothing fails.
//! In the end all is healed, and everything is read back and checked.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId, stable_hash};
use millpond_proto::task::Runtimes;
use millpond_proto::time::{Clock, SimulatedClock, Timestamp};
use millpond_storage::disk::Disk;
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::error::{OpenError, ReadError, ShardDamaged, TierError};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{
    Keep, Parts, Projection, ReadLimit, Record, Replayed, Settings, ShardSnapshot, Storage,
};
use millpond_storage::tier::cold::compaction::Compaction;
use millpond_storage::tier::cold::keys::KeyCompaction;
use millpond_storage::tier::objects::DiskObjectStore;
use millpond_storage::tier::simulated::{Fault, SimulatedStore};
use object_store::ObjectStore;

use crate::power::MortalDisk;

const SHARDS: u16 = 4;
/// Topic, queue; the queue of index `i` belongs to shard `i % SHARDS`.
const QUEUES: [(TopicId, QueueId); 6] = [
    (TopicId(7), QueueId(0)),
    (TopicId(7), QueueId(1)),
    (TopicId(7), QueueId(2)),
    (TopicId(8), QueueId(0)),
    (TopicId(8), QueueId(1)),
    (TopicId(7), QueueId(3)),
];
/// The topic that is compacted by key, and how many keys it has.
const COMPACTED: TopicId = TopicId(8);
const KEYS: u64 = 12;
/// Attempts to open before the run counts as stuck.
const OPENS_MAX: usize = 40;
/// Ids of a checkpoint's snapshot: count and hash.
const SNAPSHOT_BYTES: usize = 16;

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
        self.store_calls += other.store_calls;
    }
}

impl LogPlan {
    /// Runs it; panics when a promise is broken.
    #[must_use]
    pub fn run(self) -> Tally {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new(self);
            while world.tally.operations < self.operations {
                world.live().await;
            }
            world.heal().await;
            if let Some(store) = &world.store {
                world.tally.store_calls = store.calls();
            }
            world.tally
        })
    }
}

/// A shard's state: how many records it has seen, and a hash over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    hash: u64,
}

impl Sum {
    fn fold(&mut self, words: [u64; 5]) {
        let mut bytes = [0; 48];
        let all = std::iter::once(self.hash).chain(words);
        for (place, word) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.hash = stable_hash(&bytes);
        self.count += 1;
    }

    fn message(&mut self, message: &Envelope) {
        let body = stable_hash(message.body.as_deref().unwrap_or_default());
        let queue = u64::from(message.queue);
        self.fold([1, message.topic, queue, message.offset, body]);
    }

    fn state(&mut self, bytes: &[u8]) {
        self.fold([2, stable_hash(bytes), 0, 0, 0]);
    }

    fn encode(self) -> Bytes {
        [self.count.to_le_bytes(), self.hash.to_le_bytes()]
            .concat()
            .into()
    }
}

impl Projection for Sum {
    fn restore(shard: ShardId, snapshot: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        let Some(bytes) = snapshot else {
            return Ok(Self::default());
        };
        let words: Option<[u8; SNAPSHOT_BYTES]> = bytes.try_into().ok();
        let words = words.ok_or_else(|| ShardDamaged {
            shard,
            detail: "a snapshot of another length".to_owned(),
        })?;
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap());
        Ok(Self {
            count: word(0),
            hash: word(8),
        })
    }

    fn apply(&mut self, record: &Replayed) -> Result<(), ShardDamaged> {
        match record {
            Replayed::Message(message) => self.message(message),
            Replayed::State(bytes) => self.state(bytes),
            Replayed::Lost { .. } => {
                return Err(ShardDamaged {
                    shard: ShardId(0),
                    detail: "a message was lost".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// What a shard was given.
#[derive(Debug)]
struct Shard {
    /// Its state after so many records; the first is the empty one.
    sums: Vec<Sum>,
    /// The queue of each record; none for a change of state.
    records: Vec<Option<usize>>,
    /// Records that must be there after any crash.
    acknowledged: usize,
}

/// What a queue was given.
#[derive(Debug, Default)]
struct Queue {
    /// Where its messages come from, by offset.
    nonces: Vec<u64>,
    /// Offsets below were let go.
    first: u64,
}

/// The message at a place: it follows from its nonce.
fn message(queue: usize, offset: u64, nonce: u64) -> Envelope {
    let (topic, id) = QUEUES[queue];
    let word = stable_hash(&nonce.to_le_bytes());
    let length = match word % 100 {
        0..2 => 3000,
        2..20 => 400,
        _ => word % 90,
    };
    let mut body = nonce.to_le_bytes().to_vec();
    while (body.len() as u64) < length {
        body.extend_from_slice(&word.wrapping_mul(body.len() as u64 | 1).to_le_bytes());
    }
    Envelope {
        topic: topic.0,
        queue: id.0,
        offset,
        message_id: format!("{nonce:x}"),
        stored_at_ms: i64::try_from(nonce).unwrap(),
        key: (topic == COMPACTED).then(|| key(nonce).to_le_bytes().to_vec().into()),
        body: Some(body.into()),
        ..Envelope::default()
    }
}

fn key(nonce: u64) -> u64 {
    nonce % KEYS
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
    nonce: u64,
    term: u64,
    tally: Tally,
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
            shards: (0..SHARDS).map(shard).collect(),
            queues: QUEUES.iter().map(|_| Queue::default()).collect(),
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

    async fn try_open(
        &self,
        disk: &MortalDisk,
    ) -> Result<(Arc<Storage>, Vec<Sum>, u64), OpenError> {
        let on_disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let objects: Arc<dyn ObjectStore> = match &self.store {
            Some(store) => Arc::new(store.clone()),
            None => Arc::new(DiskObjectStore::new(Arc::clone(&on_disk), "objects")),
        };
        let parts = Parts {
            disk: on_disk,
            objects,
            clock: Arc::clone(&self.clock),
            chance: Arc::new(Seeded::new(self.chance.next_u64())),
            spawn: Arc::new(Runtimes::single()),
        };
        let (storage, recovered) = Storage::open::<Sum>(parts, self.settings.clone()).await?;
        assert_eq!(
            recovered.damage,
            Vec::<String>::new(),
            "nothing was damaged"
        );
        let sums = recovered.shards.into_iter().map(|shard| shard.unwrap());
        Ok((storage, sums.collect(), recovered.term.0))
    }

    fn power(&self) -> u64 {
        if !self.is_mortal {
            return u64::MAX;
        }
        let most = [80, 800, 8000][usize::try_from(self.chance.below(3)).unwrap()];
        self.chance.below(most) + 1
    }

    /// Opens the log, through as many crashes as that takes, and checks what is there.
    async fn open(&mut self, mut power: u64) -> Life {
        self.misbehave(true);
        for _ in 0..OPENS_MAX {
            let disk = MortalDisk::new(self.disk.clone(), power);
            match self.try_open(&disk).await {
                Ok((storage, sums, term)) => {
                    assert!(term > self.term, "terms rise");
                    self.term = term;
                    let life = Life {
                        storage,
                        disk,
                        is_disturbed: false,
                    };
                    self.check_recovered(&life, &sums);
                    return life;
                }
                Err(_) if disk.power.is_gone() => {
                    self.crash();
                    self.tally.crashes_at_opening += 1;
                    power = self.power();
                }
                Err(error) => {
                    // A store that fails, or a disk that is full: help, and it must go.
                    let is_excused = self.is_store_faulty() || self.disk_percent > 0;
                    assert!(is_excused, "the log opens: {error:?}");
                    self.misbehave(false);
                    self.disk.limit_room(None);
                    power = self.power();
                }
            }
        }
        panic!("not open after {OPENS_MAX} attempts");
    }

    fn crash(&mut self) {
        self.tally.crashes += 1;
        self.disk.limit_room(None);
        self.disk = self.disk.crash(&self.chance);
    }

    fn check_recovered(&mut self, life: &Life, sums: &[Sum]) {
        for (shard, sum) in self.shards.iter_mut().zip(sums) {
            let count = usize::try_from(sum.count).unwrap();
            assert!(
                count >= shard.acknowledged,
                "{} records were acknowledged, {count} are there",
                shard.acknowledged
            );
            assert_eq!(
                shard.sums.get(count),
                Some(sum),
                "a prefix of what was given"
            );
            for queue in shard.records.drain(count..).flatten() {
                self.queues[queue].nonces.pop();
            }
            shard.sums.truncate(count + 1);
            shard.acknowledged = count;
        }
        self.check_extents(life);
    }

    fn check_extents(&mut self, life: &Life) {
        for (queue, (topic, id)) in self.queues.iter_mut().zip(QUEUES) {
            let Some(extent) = life.storage.extent(topic, id) else {
                assert!(
                    queue.nonces.is_empty(),
                    "a queue with messages has an extent"
                );
                continue;
            };
            assert_eq!(
                extent.next.0,
                queue.nonces.len() as u64,
                "no hole and no loss"
            );
            assert!(extent.first.0 >= queue.first, "no offset returns");
            assert!(extent.tiered >= extent.first || extent.tiered.0 == 0);
            queue.first = extent.first.0;
        }
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
            0..720 => self.burst(life).await,
            720..970 => self.read(life).await,
            970..988 => self.turn_beside_appends(life).await,
            988..993 => self.retain(life).await,
            993..996 => self.scan(life).await,
            996..998 => Some(End::Closed),
            _ if self.is_mortal => Some(End::Crashed),
            _ => None,
        }
    }

    /// Several appends at once.
    async fn burst(&mut self, life: &Life) -> Option<End> {
        let mut answers = Vec::new();
        for _ in 0..=self.chance.below(28) {
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
            let choice = usize::try_from(self.chance.below(3)).unwrap();
            let queue = of_shard.into_iter().nth(choice);
            self.nonce += 1;
            let Shard {
                sums,
                records: known,
                ..
            } = &mut self.shards[shard];
            let mut sum = *sums.last().unwrap();
            if let Some(queue) = queue {
                let nonces = &mut self.queues[queue].nonces;
                let message = message(queue, nonces.len() as u64, self.nonce);
                nonces.push(self.nonce);
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

    /// An offset to read at: mostly near the end, where most readers are.
    fn somewhere(&self) -> (usize, u64) {
        let queue = usize::try_from(self.chance.below(QUEUES.len() as u64)).unwrap();
        let next = self.queues[queue].nonces.len() as u64;
        let back = if self.chance.percent(85) {
            next.min(60)
        } else {
            next
        };
        (queue, next - self.chance.below(back + 1))
    }

    async fn read(&mut self, life: &Life) -> Option<End> {
        let (queue, from) = self.somewhere();
        let limit = ReadLimit {
            messages: usize::try_from(self.chance.below(40)).unwrap() + 1,
            bytes: usize::try_from(self.chance.below(8000)).unwrap() + 1,
        };
        self.read_at(life, queue, from, limit).await;
        life.disk.power.is_gone().then_some(End::Crashed)
    }

    /// Reads and compares; answers how far it came.
    async fn read_at(&mut self, life: &Life, queue: usize, from: u64, limit: ReadLimit) -> u64 {
        let (topic, id) = QUEUES[queue];
        for attempt in 0..2 {
            self.tally.operations += 1;
            self.tally.reads += 1;
            let read = life.storage.read(topic, id, Offset(from), limit).await;
            let known = &self.queues[queue];
            let next = known.nonces.len() as u64;
            match read {
                Ok(found) => {
                    assert!(
                        from >= known.first,
                        "nothing below the first offset is read"
                    );
                    assert_eq!(found.is_empty(), from >= next, "there is a message or none");
                    assert!(found.len() <= limit.messages);
                    let mut expected = from;
                    for message in &found {
                        while expected < message.offset {
                            self.check_superseded(queue, expected);
                            expected += 1;
                        }
                        self.check_message(queue, expected, message);
                        expected += 1;
                    }
                    return expected;
                }
                Err(ReadError::Trimmed { first, .. }) => {
                    assert_eq!(first.0, known.first, "the first offset kept is told");
                    assert!(from < known.first);
                    return from;
                }
                Err(error) => {
                    let is_excused = self.is_store_faulty() && attempt == 0;
                    assert!(is_excused, "offset {from} of queue {queue}: {error:?}");
                    self.misbehave(false);
                }
            }
        }
        unreachable!("the second attempt answers");
    }

    /// A message may be missing where a later one has its key.
    fn check_superseded(&self, queue: usize, offset: u64) {
        let nonces = &self.queues[queue].nonces;
        let mut from = nonces.iter().skip(usize::try_from(offset).unwrap());
        let missing = key(*from.next().unwrap());
        let is_superseded = from.any(|nonce| key(*nonce) == missing);
        let is_compacted = QUEUES[queue].0 == COMPACTED;
        assert!(
            is_compacted && is_superseded,
            "offset {offset} of queue {queue} is missing"
        );
    }

    fn check_message(&self, queue: usize, offset: u64, found: &Envelope) {
        let known = &self.queues[queue].nonces;
        let nonce = known.get(usize::try_from(offset).unwrap()).copied();
        let nonce = nonce.unwrap_or_else(|| panic!("offset {offset} was never given"));
        assert_eq!(*found, message(queue, offset, nonce), "the very bytes");
    }

    /// Columns of a range, in order and without a gap.
    async fn scan(&mut self, life: &Life) -> Option<End> {
        use futures::StreamExt as _;
        let (queue, from) = self.somewhere();
        let (topic, id) = QUEUES[queue];
        self.tally.operations += 1;
        let next = self.queues[queue].nonces.len() as u64;
        let range = Offset(from)..Offset(next);
        let mut rows = life.storage.scan(topic, id, range, &["offset", "body"]);
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            match batch {
                Ok(batch) => count += batch.num_rows() as u64,
                Err(error) => {
                    assert!(self.is_store_faulty(), "a scan fails: {error:?}");
                    return None;
                }
            }
        }
        let first = from.max(self.queues[queue].first);
        let all = next.saturating_sub(first);
        if topic == COMPACTED {
            assert!(
                count <= all && (count > 0) == (all > 0),
                "{count} of {all} rows"
            );
        } else {
            assert_eq!(count, all, "every row once");
        }
        None
    }

    /// A turn of what runs in the background, while appends go on.
    async fn turn_beside_appends(&mut self, life: &Life) -> Option<End> {
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

    fn turned(&mut self, life: &Life, turned: Result<(), TierError>) {
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
    async fn snapshots(&mut self, life: &Life) -> Option<Vec<ShardSnapshot>> {
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

    async fn retain(&mut self, life: &Life) -> Option<End> {
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
    async fn heal(&mut self) {
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

    async fn turn_to_rest(&mut self, life: &Life) -> Option<End> {
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

    async fn read_everything(&mut self, life: &Life) {
        let limit = ReadLimit {
            messages: 1000,
            bytes: usize::MAX,
        };
        for queue in 0..QUEUES.len() {
            let mut next = self.queues[queue].first;
            while next < self.queues[queue].nonces.len() as u64 {
                next = self.read_at(life, queue, next, limit).await;
            }
        }
    }
}
