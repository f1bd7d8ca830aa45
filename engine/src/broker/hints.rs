//! Where a group may find something: what the shards tell those who poll them.
//!
//! A topic with a thousand queues lies in all shards, and most of them have nothing for a group at most times. To ask
//! such a shard is a way to its owner and a wait for its log. So each owner tells, of every topic and group that is
//! polled, from when on it is worth asking; a poll passes over the others.
//!
//! **Invariant.** A shard is passed over only while its owner has said that there is nothing, and the owner says
//! otherwise when it decides on what changes that, which is before the bell of the topic is rung for it
//! ([`super::waiting`]). A poll takes hold of the bell before it looks here, so it never sleeps while something is
//! visible. What nobody has told yet is worth asking, and so is a shard where the group has not met all queues.
//!
//! What a poll passed over although it was worth asking is written down here too, with the time ([`Told::pass_over`]): the
//! next polls begin there ([`super::visit`]).
//!
//! Kept in memory only, for so many topics and groups; what is forgotten is asked for again, all of it at once, because nobody
//! knows how long it was passed over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millpond_proto::message::ShardId;
use millpond_proto::time::Timestamp;

use crate::broker::consume::ready::{Hint, Pair};
use crate::broker::group::stir::Stir;
use crate::broker::request::Request;
use crate::broker::state::ShardState;

/// Topics and groups that are kept in one stripe.
const KEPT_MAX: usize = 1024;
/// Parts that are locked apart.
const STRIPES: usize = 16;

const NOW: i64 = i64::MIN;
const NEVER: i64 = i64::MAX;

/// Topics and groups whose shards are locked together.
#[derive(Debug, Default)]
struct Stripe {
    told: BTreeMap<Pair, Arc<Told>>,
    has_forgotten: bool,
}

/// What all shards told.
#[derive(Debug)]
pub struct Hints {
    stripes: [Mutex<Stripe>; STRIPES],
    /// No shard thinks that it is earlier.
    floor_ms: AtomicI64,
}

/// What the shards of a topic told about it for a group.
#[derive(Debug)]
pub(super) struct Told {
    /// How many queues the topic had: with others it lies otherwise.
    queues: u32,
    /// Number of the last poll of the group, from 1.
    last_poll: AtomicU64,
    /// By shard.
    cells: Box<[Cell]>,
}

#[derive(Debug)]
struct Cell {
    shard: ShardId,
    stir_ms: AtomicI64,
    queues: AtomicU32,
    met: AtomicBool,
    /// The first poll that has passed it over, and when.
    passed_by: AtomicU64,
    passed_ms: AtomicI64,
}

/// A shard that polls have passed over although it was worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PassedOver {
    /// Number of the first of these polls; 0 when nobody knows.
    pub(super) by: u64,
    /// When that was, ms.
    pub(super) since_ms: i64,
}

/// Which shards a poll asks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// Index of each in the order that was given, and in how many queues it may have something.
    pub(super) shards: Vec<(usize, u32)>,
    /// When the first of the others is worth asking.
    pub(super) next_due_ms: Option<i64>,
}

impl Hints {
    /// Nothing told yet; no shard thinks that it is earlier than `floor`.
    #[must_use]
    pub fn new(floor: Timestamp) -> Self {
        Self {
            stripes: std::array::from_fn(|_| Mutex::default()),
            floor_ms: AtomicI64::new(floor.as_ms()),
        }
    }

    /// A shard thinks that it is at least so late, whatever the clock says.
    pub(super) fn raise(&self, floor: Timestamp) {
        self.floor_ms.fetch_max(floor.as_ms(), Ordering::AcqRel);
    }

    /// What was told about a topic of so many queues, which lies in these shards, for a group.
    pub(super) fn of(
        &self,
        pair: Pair,
        queues: u32,
        shards: impl Iterator<Item = ShardId>,
    ) -> Arc<Told> {
        let mut stripe = self.stripe(pair);
        let known = stripe.told.get(&pair);
        if let Some(told) = known.filter(|told| told.queues == queues) {
            return Arc::clone(told);
        }
        let mut shards: Vec<ShardId> = shards.collect();
        shards.sort_unstable();
        if stripe.told.len() >= KEPT_MAX {
            stripe.told.pop_first();
            stripe.has_forgotten = true;
        }
        let unknown = stripe.has_forgotten.then_some(PassedOver {
            by: 0,
            since_ms: NOW,
        });
        let cells = shards.into_iter().map(|shard| Cell::new(shard, unknown));
        let told = Arc::new(Told {
            queues,
            last_poll: AtomicU64::new(0),
            cells: cells.collect(),
        });
        stripe.told.insert(pair, Arc::clone(&told));
        told
    }

    /// A shard tells what has changed, and what those who polled it do not know yet.
    pub(super) fn tell(&self, shard: ShardId, state: &mut ShardState, mut polled: Vec<Pair>) {
        for (pair, hint) in state.news() {
            self.tell_one(shard, pair, hint);
        }
        polled.sort_unstable();
        polled.dedup();
        for pair in polled {
            self.tell_one(shard, pair, state.hint(pair));
        }
    }

    fn tell_one(&self, shard: ShardId, pair: Pair, hint: Hint) {
        let stripe = self.stripe(pair);
        if let Some(cell) = stripe.told.get(&pair).and_then(|told| told.cell(shard)) {
            let stir_ms = match hint.stir {
                Stir::Now => NOW,
                Stir::At(at) => at.as_ms(),
                Stir::Never => NEVER,
            };
            cell.queues.store(hint.queues, Ordering::Relaxed);
            cell.stir_ms.store(stir_ms, Ordering::Release);
        }
    }

    /// What is worth asking of shards at `now`. With `repeats` so are those where the group holds something.
    pub(super) fn open(
        &self,
        told: &Told,
        shards: impl Iterator<Item = ShardId>,
        now: Timestamp,
        repeats: bool,
    ) -> Open {
        let now_ms = now.as_ms().max(self.floor_ms.load(Ordering::Acquire));
        let mut open = Open::default();
        for (index, shard) in shards.enumerate() {
            let Some(cell) = told
                .cell(shard)
                .filter(|cell| cell.met.load(Ordering::Acquire))
            else {
                open.shards.push((index, 1));
                continue;
            };
            match cell.stir_ms.load(Ordering::Acquire) {
                NEVER => {}
                at if at > now_ms && !repeats => {
                    open.next_due_ms = Some(open.next_due_ms.map_or(at, |first| first.min(at)));
                }
                _ => {
                    let queues = cell.queues.load(Ordering::Relaxed);
                    open.shards.push((index, queues.max(1)));
                }
            }
        }
        open
    }

    fn stripe(&self, (topic, group): Pair) -> MutexGuard<'_, Stripe> {
        // Ids are given out one after the other.
        let index = usize::try_from(topic.wrapping_add(group) % STRIPES as u64).unwrap_or(0);
        let stripe = self.stripes[index].lock();
        stripe.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The topic and group that a request polls.
pub(super) fn polled(request: &Request) -> Option<Pair> {
    match request {
        Request::Pop(pop) => Some((pop.topic, pop.group)),
        Request::Look(look) => Some((look.topic, look.group)),
        _ => None,
    }
}

impl Told {
    /// The group has a place in all queues that a shard has of the topic, or needs none.
    pub(super) fn met(&self, shard: ShardId) {
        if let Some(cell) = self.cell(shard) {
            cell.met.store(true, Ordering::Release);
        }
    }

    /// Numbers the polls of the group, from 1.
    pub(super) fn next_poll(&self) -> u64 {
        self.last_poll.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What is known of polls that have passed over a shard that was worth asking; none: none has.
    pub(super) fn passed_over(&self, shard: ShardId) -> Option<PassedOver> {
        let cell = self.cell(shard)?;
        let by = cell.passed_by.load(Ordering::Relaxed);
        let since_ms = cell.passed_ms.load(Ordering::Relaxed);
        (by != u64::MAX).then_some(PassedOver { by, since_ms })
    }

    /// A poll ends without having asked a shard that was worth it.
    pub(super) fn pass_over(&self, shard: ShardId, poll: u64, now: Timestamp) {
        if let Some(cell) = self.cell(shard) {
            cell.passed_by.fetch_min(poll, Ordering::Relaxed);
            cell.passed_ms.fetch_min(now.as_ms(), Ordering::Relaxed);
        }
    }

    /// A poll asks a shard.
    pub(super) fn ask(&self, shard: ShardId) {
        if let Some(cell) = self.cell(shard) {
            cell.passed_by.store(u64::MAX, Ordering::Relaxed);
            cell.passed_ms.store(NEVER, Ordering::Relaxed);
        }
    }

    fn cell(&self, shard: ShardId) -> Option<&Cell> {
        let at = self.cells.binary_search_by_key(&shard, |cell| cell.shard);
        at.ok().and_then(|at| self.cells.get(at))
    }
}

impl Cell {
    fn new(shard: ShardId, passed: Option<PassedOver>) -> Self {
        let by = passed.map_or(u64::MAX, |passed| passed.by);
        let since_ms = passed.map_or(NEVER, |passed| passed.since_ms);
        Self {
            shard,
            stir_ms: AtomicI64::new(NOW),
            queues: AtomicU32::new(0),
            met: AtomicBool::new(false),
            passed_by: AtomicU64::new(by),
            passed_ms: AtomicI64::new(since_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: [ShardId; 3] = [ShardId(4), ShardId(2), ShardId(9)];

    fn told(hints: &Hints, queues: u32) -> Arc<Told> {
        hints.of((7, 1), queues, SHARDS.into_iter())
    }

    fn open(
        hints: &Hints,
        told: &Told,
        ms: i64,
        repeats: bool,
    ) -> (Vec<(usize, u32)>, Option<i64>) {
        let open = hints.open(told, SHARDS.into_iter(), Timestamp(ms), repeats);
        (open.shards, open.next_due_ms)
    }

    fn tell(hints: &Hints, shard: ShardId, stir: Stir, queues: u32) {
        hints.tell_one(shard, (7, 1), Hint { stir, queues });
    }

    #[test]
    fn a_shard_is_passed_over_when_it_has_nothing_and_the_group_has_met_its_queues() {
        let hints = Hints::new(Timestamp(0));
        let told = told(&hints, 8);
        let all = vec![(0, 1), (1, 1), (2, 1)];
        assert_eq!(open(&hints, &told, 10, false), (all.clone(), None));
        tell(&hints, ShardId(4), Stir::Never, 0);
        tell(&hints, ShardId(2), Stir::At(Timestamp(50)), 0);
        tell(&hints, ShardId(9), Stir::Now, 5);
        assert_eq!(open(&hints, &told, 10, false), (all, None), "not met");
        SHARDS.iter().for_each(|&shard| told.met(shard));
        assert_eq!(open(&hints, &told, 10, false), (vec![(2, 5)], Some(50)));
        let later = (vec![(1, 1), (2, 5)], None);
        assert_eq!(open(&hints, &told, 50, false), later);
        assert_eq!(open(&hints, &told, 10, true), later, "it holds something");
        hints.raise(Timestamp(60));
        assert_eq!(open(&hints, &told, 10, false), later, "the shard is ahead");
    }

    #[test]
    fn a_topic_that_grew_and_what_was_forgotten_are_asked_anew_and_what_is_kept_is_bounded() {
        let hints = Hints::new(Timestamp(0));
        let before = told(&hints, 8);
        SHARDS.iter().for_each(|&shard| before.met(shard));
        tell(&hints, ShardId(4), Stir::Never, 0);
        assert_eq!(open(&hints, &told(&hints, 8), 10, false).0.len(), 2);
        assert_eq!(open(&hints, &told(&hints, 9), 10, false).0.len(), 3);
        for topic in 0..3 * (KEPT_MAX * STRIPES) as u64 {
            hints.of((topic, 2), 8, SHARDS.into_iter());
        }
        let kept = hints
            .stripes
            .iter()
            .map(|stripe| stripe.lock().unwrap().told.len());
        assert!(kept.sum::<usize>() <= KEPT_MAX * STRIPES);
        let anew = told(&hints, 9);
        let passed = SHARDS.map(|shard| anew.passed_over(shard).map(|passed| passed.by));
        assert_eq!(passed, [Some(0); 3], "nobody knows how long");
    }
}
