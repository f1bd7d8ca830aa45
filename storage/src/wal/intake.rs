//! What waits for a WAL's writer, and when the next write starts.
//!
//! There is no timer. A lone append is written at once. While a write is in flight, appends gather, and a
//! further write starts beside it once enough of them wait: a share of all that were seen waiting or in
//! flight lately (the *crowd*), so that producers who each wait for their answer are spread over as many
//! writes as may be in flight, whether there are eight of them or a thousand. Without that, what comes
//! back after a write misses the next one, and half of the producers stand still.
//!
//! Nobody is woken for an append that would only be put to the others, nor while a lane looks for itself:
//! before a lane sleeps it watches for a moment, because those that it has just answered often come back
//! sooner than a thread wakes. It learns from what comes of that ([`Watch`]).
//!
//! **Invariants.** Groups leave in the order in which their appends came. A lane that was told to sleep is
//! among the sleepers before the intake is let go of, and each ring is for one of them: none is lost.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_proto::message::ShardId;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::error::AppendError;
use crate::format::block;
use crate::log::{Position, Record};

/// Bytes of appends that may be on their way through the writers.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What an append counts for at least in [`QUEUE_BYTES_MAX`], so that their number has a bound as well.
pub(crate) const APPEND_SHARE_MIN: usize = 1024;
/// Bytes that are worth a write beside one that is in flight, however small the crowd is: the least that is written.
const OVERLAP_BYTES_MIN: usize = block::ALIGN_BYTES;
/// Bytes that a write takes if they are there, however small a share is: splitting fewer costs more than it gains.
const SHARE_BYTES_MIN: usize = 256 * 1024;

const _: () = assert!(block::APPEND_BYTES_MAX <= QUEUE_BYTES_MAX);

/// Records that become durable together.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) shard: ShardId,
    /// Let go of once they are encoded.
    pub(crate) records: Vec<Record>,
    /// How many they are.
    pub(crate) count: usize,
    /// Of all of them.
    pub(crate) payload_bytes: usize,
    pub(crate) reply: oneshot::Sender<Result<Position, AppendError>>,
    /// Its share of [`QUEUE_BYTES_MAX`], given back when it is dropped.
    pub(crate) _share: OwnedSemaphorePermit,
}

impl Append {
    /// Bytes that it adds to a block.
    pub(crate) fn block_bytes(records: usize, payload_bytes: usize) -> usize {
        2 * records * block::ENTRY_BYTES + payload_bytes
    }

    /// What it counts for in [`QUEUE_BYTES_MAX`]: records take memory of their own until they are encoded.
    pub(crate) fn share(records: usize, payload_bytes: usize) -> usize {
        let least = (records * size_of::<Record>()).clamp(APPEND_SHARE_MIN, QUEUE_BYTES_MAX);
        Self::block_bytes(records, payload_bytes).max(least)
    }

    fn bytes(&self) -> usize {
        Self::block_bytes(self.count, self.payload_bytes)
    }
}

/// The rules of an intake.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Lanes that ask for work.
    pub(crate) lanes: usize,
    /// Writes that may be in flight at once.
    pub(crate) flights_max: usize,
    /// What always is enough for a write beside one that is in flight.
    pub(crate) overlap_bytes: usize,
    /// Whether a lane has a thread to itself, so that it may watch before it sleeps.
    pub(crate) may_watch: bool,
}

/// The way to a writer; when it is dropped nobody can append any more.
#[derive(Debug)]
pub(crate) struct Door(Arc<Intake>);

impl Door {
    pub(crate) fn new(intake: Arc<Intake>) -> Self {
        Self(intake)
    }

    /// Hands an append to the writer; gives it back when there is none any more.
    pub(crate) fn send(&self, append: Append) -> Result<(), Append> {
        let mut inner = self.0.inner();
        if inner.ending.is_some() || inner.is_over {
            return Err(append);
        }
        inner.bytes += append.bytes();
        inner.appends.push_back(append);
        self.0.call(inner);
        Ok(())
    }

    /// Tells the writer to write what waits and to end.
    pub(crate) fn close(&self) {
        self.0.end_with(Ending::Closed);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.0.end_with(Ending::Abandoned);
    }
}

/// What the writer ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was told to close.
    Closed,
    /// Nobody can append any more.
    Abandoned,
}

/// What a lane is told when it asks for work.
#[derive(Debug)]
pub(crate) enum Turn {
    /// To write this group beside what is in flight.
    Write(Vec<Append>),
    /// To watch for as many looks, then ask again.
    Watch(u32),
    /// To sleep, then ask again.
    Sleep,
    /// All was written and answered: to end the log. Only one lane is told.
    End(Ending),
    /// To stop.
    Over,
}

/// Appends on their way to the lanes.
#[derive(Debug)]
pub(crate) struct Intake {
    rules: Rules,
    inner: Mutex<Inner>,
    /// There is work for the lane that watches.
    is_seen: AtomicBool,
    /// One for each lane.
    bells: Vec<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    appends: VecDeque<Append>,
    /// Of what waits.
    bytes: usize,
    /// Writes in flight.
    flights: usize,
    flight_bytes: usize,
    /// Groups that were taken and not answered yet.
    unanswered: usize,
    crowd: Crowd,
    watch: Watch,
    /// Lanes that sleep; the last one is woken first.
    sleepers: Vec<usize>,
    /// A lane was called and has not asked for its turn yet.
    is_called: bool,
    ending: Option<Ending>,
    is_over: bool,
}

/// Bytes that were waiting or in flight lately: the highest number, forgotten bit by bit.
#[derive(Clone, Copy, Debug, Default)]
struct Crowd(usize);

impl Crowd {
    fn see(&mut self, bytes: usize) {
        self.0 = bytes.max(self.0 - self.0 / 8);
    }

    /// What is worth a write beside others.
    fn share(self, rules: &Rules) -> usize {
        // As many shares as there are writes: with one more, one would always wait for a write to land.
        let share = self.0 / rules.flights_max;
        share.max(OVERLAP_BYTES_MIN).min(rules.overlap_bytes)
    }
}

/// Whether it is worth a lane's while to watch before it sleeps.
///
/// Watching that was in vain halves the patience; after a while without any it is tried again.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    is_on: bool,
    patience: u32,
    /// Sleeps since the patience was gone.
    sleeps: u32,
}

impl Watch {
    /// Looks at most; between two a lane lets others run.
    const LOOKS_MAX: u32 = 256;
    /// Patience below this is none.
    const LOOKS_MIN: u32 = 16;
    /// Sleeps before watching is tried again.
    const SLEEPS: u32 = 32;

    /// How often to look; none when it is better to sleep.
    fn begin(&mut self) -> Option<u32> {
        if self.is_on {
            return None;
        }
        if self.patience < Self::LOOKS_MIN {
            self.sleeps += 1;
            if self.sleeps < Self::SLEEPS {
                return None;
            }
            self.sleeps = 0;
            self.patience = Self::LOOKS_MAX;
        }
        self.is_on = true;
        Some(self.patience)
    }

    fn end(&mut self, has_seen: bool) {
        self.is_on = false;
        self.patience = if has_seen {
            Self::LOOKS_MAX
        } else {
            self.patience / 2
        };
    }
}

impl Inner {
    /// Whether a write is to start now.
    fn is_due(&self, rules: &Rules) -> bool {
        if self.appends.is_empty() || self.flights >= rules.flights_max {
            return false;
        }
        self.flights == 0 || self.ending.is_some() || self.bytes >= self.crowd.share(rules)
    }

    /// Whether a lane has something else to do than to write.
    fn is_ending(&self) -> bool {
        self.is_over || (self.ending.is_some() && self.appends.is_empty() && self.unanswered == 0)
    }

    /// The appends that came first, up to the size of a block or a share of the crowd; at least one. When all come back
    /// at once, several lanes so encode side by side, where one would have all others wait for it.
    fn take(&mut self, rules: &Rules) -> Vec<Append> {
        self.crowd.see(self.bytes + self.flight_bytes);
        let share = self.crowd.share(rules).max(SHARE_BYTES_MIN);
        let bytes_max = share.min(block::TARGET_BYTES);
        let mut bytes = 0;
        let fitting = self.appends.iter().take_while(|append| {
            bytes += append.bytes();
            bytes <= bytes_max
        });
        let count = fitting.count().max(1).min(self.appends.len());
        let group: Vec<Append> = self.appends.drain(..count).collect();
        let bytes = bytes_of(&group);
        self.bytes -= bytes;
        self.flights += 1;
        self.flight_bytes += bytes;
        self.unanswered += 1;
        group
    }
}

/// Bytes that a group adds to a block.
pub(crate) fn bytes_of(group: &[Append]) -> usize {
    group.iter().map(Append::bytes).sum()
}

impl Intake {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            inner: Mutex::default(),
            is_seen: AtomicBool::new(false),
            bells: (0..rules.lanes).map(|_| Notify::new()).collect(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets one lane to look, if there is something for it to do.
    fn call(&self, mut inner: MutexGuard<'_, Inner>) {
        if inner.is_called || !(inner.is_due(&self.rules) || inner.is_ending()) {
            return;
        }
        if inner.watch.is_on {
            inner.is_called = true;
            self.is_seen.store(true, Ordering::Release);
        } else if let Some(lane) = inner.sleepers.pop() {
            inner.is_called = true;
            drop(inner);
            self.bells[lane].notify_one();
        }
    }

    fn end_with(&self, ending: Ending) {
        let mut inner = self.inner();
        if inner.ending.is_none() {
            inner.ending = Some(ending);
            self.call(inner);
        }
    }

    /// Work for a lane; `has_watched` when it was told to watch the last time.
    pub(crate) fn turn(&self, lane: usize, has_watched: bool) -> Turn {
        let mut inner = self.inner();
        inner.is_called = false;
        let is_due = inner.is_due(&self.rules);
        let is_ending = inner.is_ending();
        if has_watched {
            inner.watch.end(is_due || is_ending);
        }
        if inner.is_over {
            return Turn::Over;
        }
        if is_due {
            let group = inner.take(&self.rules);
            // What is left may be enough for one more.
            self.call(inner);
            return Turn::Write(group);
        }
        if let Some(ending) = inner.ending.filter(|_| is_ending) {
            inner.is_over = true;
            // The closing mark lands as any other.
            inner.flights += 1;
            inner.unanswered += 1;
            return Turn::End(ending);
        }
        let may_watch = self.rules.may_watch && !has_watched;
        if may_watch && let Some(looks) = inner.watch.begin() {
            self.is_seen.store(false, Ordering::Relaxed);
            return Turn::Watch(looks);
        }
        inner.sleepers.push(lane);
        Turn::Sleep
    }

    /// Waits until the lane is called.
    pub(crate) async fn sleep(&self, lane: usize) {
        self.bells[lane].notified().await;
    }

    /// Looks for work for a moment, in a thread that has nothing else to do.
    pub(crate) fn watch(&self, looks: u32) {
        for _ in 0..looks {
            if self.is_seen.load(Ordering::Acquire) {
                return;
            }
            // Whoever has the work may need this core.
            std::thread::yield_now();
        }
    }

    /// A write has landed: the next one may start before it is answered.
    pub(crate) fn landed(&self, bytes: usize) {
        let mut inner = self.inner();
        inner.flights -= 1;
        inner.flight_bytes -= bytes;
        self.call(inner);
    }

    /// So many groups were answered.
    pub(crate) fn answered(&self, groups: usize) {
        let mut inner = self.inner();
        inner.unanswered -= groups;
        self.call(inner);
    }

    /// Takes no more, wakes all lanes, and hands out what waits.
    pub(crate) fn shut(&self) -> VecDeque<Append> {
        let (left, sleepers) = {
            let mut inner = self.inner();
            inner.is_over = true;
            inner.bytes = 0;
            (
                std::mem::take(&mut inner.appends),
                std::mem::take(&mut inner.sleepers),
            )
        };
        self.is_seen.store(true, Ordering::Release);
        for lane in sleepers {
            self.bells[lane].notify_one();
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;
    use tokio::sync::Semaphore;

    use super::*;

    const RULES: Rules = Rules {
        lanes: 3,
        flights_max: 2,
        overlap_bytes: usize::MAX,
        may_watch: false,
    };

    fn append(bytes: usize) -> Append {
        let budget = Arc::new(Semaphore::new(1));
        Append {
            shard: ShardId(0),
            records: Vec::new(),
            count: 0,
            payload_bytes: bytes,
            reply: oneshot::channel().0,
            _share: budget.try_acquire_owned().unwrap(),
        }
    }

    fn intake(rules: Rules) -> (Arc<Intake>, Door) {
        let intake = Arc::new(Intake::new(rules));
        let door = Door::new(Arc::clone(&intake));
        (intake, door)
    }

    fn sizes(turn: Turn) -> Vec<usize> {
        match turn {
            Turn::Write(group) => group.iter().map(Append::bytes).collect(),
            other => panic!("not a write but {other:?}"),
        }
    }

    fn is_asleep(turn: &Turn) -> bool {
        matches!(turn, Turn::Sleep)
    }

    #[test]
    fn a_lone_append_is_written_at_once_and_others_beside_it_once_they_are_worth_it() {
        let (intake, door) = intake(RULES);
        door.send(append(10)).unwrap();
        assert_eq!(sizes(intake.turn(0, false)), [10]);
        door.send(append(OVERLAP_BYTES_MIN - 1)).unwrap();
        assert!(is_asleep(&intake.turn(1, false)));
        door.send(append(1)).unwrap();
        assert_eq!(sizes(intake.turn(1, false)), [OVERLAP_BYTES_MIN - 1, 1]);
        // Two are in flight, which is all that may be.
        door.send(append(1 << 20)).unwrap();
        assert!(is_asleep(&intake.turn(2, false)));
        intake.landed(10);
        assert_eq!(sizes(intake.turn(2, false)), [1 << 20]);
    }

    #[test]
    fn the_larger_the_crowd_the_more_waits_for_a_write_beside_others_up_to_what_is_always_enough() {
        let enough = |overlap_bytes, crowd: usize| {
            let (intake, door) = intake(Rules {
                overlap_bytes,
                ..RULES
            });
            door.send(append(crowd)).unwrap();
            drop(intake.turn(0, false));
            (0..).step_by(1024).find(|_| {
                door.send(append(1024)).unwrap();
                !is_asleep(&intake.turn(1, false))
            })
        };
        assert_eq!(enough(usize::MAX, 2 * 65536), Some(65536 - 1024));
        assert_eq!(enough(32768, 3 * 65536), Some(32768 - 1024));
        assert_eq!(enough(0, 3 * 65536), Some(0));
    }

    #[test]
    fn a_crowd_that_has_left_is_forgotten() {
        let mut crowd = Crowd::default();
        crowd.see(1 << 20);
        for _ in 0..100 {
            crowd.see(1000);
        }
        assert_eq!(crowd.share(&RULES), OVERLAP_BYTES_MIN);
    }

    #[test]
    fn a_group_is_no_larger_than_a_block_unless_it_is_one_append() {
        let (intake, door) = intake(RULES);
        for bytes in [block::TARGET_BYTES + 1, block::TARGET_BYTES - 1, 1, 1] {
            door.send(append(bytes)).unwrap();
        }
        assert_eq!(sizes(intake.turn(0, false)), [block::TARGET_BYTES + 1]);
        assert_eq!(sizes(intake.turn(1, false)), [block::TARGET_BYTES - 1, 1]);
        intake.landed(block::TARGET_BYTES);
        intake.landed(block::TARGET_BYTES + 1);
        assert_eq!(sizes(intake.turn(0, false)), [1]);
    }

    #[test]
    fn what_waits_for_the_first_write_is_shared_among_all() {
        let (intake, door) = intake(RULES);
        for _ in 0..4 {
            door.send(append(SHARE_BYTES_MIN)).unwrap();
        }
        for lane in 0..RULES.flights_max {
            assert_eq!(sizes(intake.turn(lane, false)), [SHARE_BYTES_MIN; 2]);
        }
        intake.landed(2 * SHARE_BYTES_MIN);
        intake.landed(2 * SHARE_BYTES_MIN);
        for _ in 0..4 {
            door.send(append(SHARE_BYTES_MIN / 4)).unwrap();
        }
        assert_eq!(sizes(intake.turn(2, false)), [SHARE_BYTES_MIN / 4; 4]);
    }

    #[test]
    fn a_lane_watches_while_that_is_of_use_and_for_a_trial_now_and_then() {
        let (intake, door) = intake(Rules {
            may_watch: true,
            ..RULES
        });
        let looks = |has_watched| match intake.turn(0, has_watched) {
            Turn::Watch(looks) => looks,
            Turn::Sleep => 0,
            other => panic!("nothing waits, yet {other:?}"),
        };
        let trial = (1..).find(|_| looks(false) > 0);
        assert_eq!(trial, Some(Watch::SLEEPS));
        // Somebody came meanwhile, and nobody was woken for it.
        door.send(append(1)).unwrap();
        intake.watch(u32::MAX);
        assert_eq!(sizes(intake.turn(0, true)), [1]);
        intake.landed(1);
        let mut patience = Vec::new();
        while let found @ 1.. = looks(false) {
            patience.push(found);
            assert_eq!(looks(true), 0, "after watching in vain a lane sleeps");
        }
        assert_eq!(patience, [256, 128, 64, 32, 16]);
    }

    /// Lanes as threads would be: asleep until they are called, in any order.
    #[test]
    fn whatever_comes_in_between_all_is_written_in_order_and_the_log_ends_once() {
        for seed in 0..300 {
            let chance = Seeded::new(seed);
            let below = |bound| usize::try_from(chance.below(bound)).unwrap();
            let rules = Rules {
                lanes: 3,
                flights_max: 1 + below(3),
                overlap_bytes: below(3) * OVERLAP_BYTES_MIN,
                may_watch: chance.percent(50),
            };
            let (intake, door) = intake(rules);
            let mut door = Some(door);
            let (mut sent, mut written, mut ends) = (0, 0, 0);
            let mut lanes = vec![Lane::Asks(false); rules.lanes];
            let mut steps = 0;
            while lanes.iter().any(|lane| *lane != Lane::Over) {
                steps += 1;
                assert!(
                    steps < 10_000,
                    "seed {seed}: a lane sleeps for ever: {lanes:?}"
                );
                match &door {
                    Some(door) if sent < 60 && chance.percent(30) => {
                        // Its size tells which it is.
                        door.send(append(300 * sent)).unwrap();
                        sent += 1;
                    }
                    Some(open) if sent == 60 => {
                        open.close();
                        door = None;
                    }
                    _ => {}
                }
                let number = below(rules.lanes as u64);
                let lane = &mut lanes[number];
                *lane = match lane.clone() {
                    Lane::Asks(has_watched) => match intake.turn(number, has_watched) {
                        Turn::Write(group) => {
                            for append in &group {
                                assert_eq!(append.bytes(), 300 * written, "seed {seed}");
                                written += 1;
                            }
                            Lane::Flies(bytes_of(&group))
                        }
                        Turn::Watch(_) => Lane::Asks(true),
                        Turn::Sleep => Lane::Sleeps,
                        Turn::End(_) => {
                            ends += 1;
                            assert!(intake.shut().is_empty());
                            Lane::Flies(0)
                        }
                        Turn::Over => Lane::Over,
                    },
                    Lane::Flies(bytes) => {
                        intake.landed(bytes);
                        Lane::Answers
                    }
                    Lane::Answers => {
                        intake.answered(1);
                        Lane::Asks(false)
                    }
                    Lane::Sleeps => {
                        let called = futures::FutureExt::now_or_never(intake.sleep(number));
                        called.map_or(Lane::Sleeps, |()| Lane::Asks(false))
                    }
                    Lane::Over => Lane::Over,
                };
            }
            assert_eq!((sent, written, ends), (60, 60, 1), "seed {seed}");
        }
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Lane {
        Asks(bool),
        Flies(usize),
        Answers,
        Sleeps,
        Over,
    }
}
