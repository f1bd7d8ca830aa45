//! The timer of one shard: the messages that are due soon, by time.
//!
//! It knows the time and the place of each and nothing else, and only of those whose hour is near: the
//! others lie on the shelf alone, in buckets of an hour, and are loaded shortly before their time. What is
//! loaded is no state of the shard: it can be had again from the shelf at any time, and after a restart it
//! is.
//!
//! **Invariants.** No message is handed out before its time. Messages are handed out in the order of their
//! times, and none before one of an earlier bucket that is not loaded yet.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::time::Timestamp;

/// Length of a bucket.
pub const HOUR_MS: i64 = 60 * 60 * 1000;
/// How long before its beginning a bucket is loaded.
const LEAD_MS: i64 = 10 * 60 * 1000;
/// Messages beyond which no further bucket is loaded until some of them have left.
const LOADED_MAX: usize = 2_000_000;

/// The bucket of a time.
#[must_use]
pub fn bucket_at(at: Timestamp) -> u32 {
    u32::try_from(at.as_ms().div_euclid(HOUR_MS).max(0)).unwrap_or(u32::MAX)
}

/// When a bucket begins.
#[must_use]
pub fn start_of(bucket: u32) -> Timestamp {
    Timestamp(i64::from(bucket) * HOUR_MS)
}

/// How far a bucket is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loaded {
    /// It is being read; what comes meanwhile is here.
    Partly,
    /// All of it is here.
    Whole,
}

/// What the timer wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// A bucket to load, and how many messages it has: tell [`Timer::begin`], read them, then tell
    /// [`Timer::finish`].
    pub load: Option<(u32, u64)>,
    /// When something is due, or a bucket is to be loaded; may have passed.
    pub wake_at: Option<Timestamp>,
    /// A bucket before whose messages no other may go.
    pub fire_before: Option<u32>,
}

/// Bits of a number in [`Entry`].
const NUMBER_BITS: u32 = 22;
/// Greatest time in it: in the year 2109.
const DUE_MS_MAX: i64 = (1 << (u64::BITS - NUMBER_BITS)) - 1;

const _: () = assert!(limits::DELAYED_PER_HOUR_MAX <= 1 << NUMBER_BITS);

/// A message that is loaded: its time above its number, in the order of times. There may be millions, so it is one
/// word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u64);

impl Entry {
    fn new(due_ms: i64, number: u64) -> Self {
        let due = due_ms.clamp(0, DUE_MS_MAX).unsigned_abs();
        Self(due << NUMBER_BITS | number)
    }

    fn due(self) -> Timestamp {
        let due = self.0 >> NUMBER_BITS;
        Timestamp(due.cast_signed())
    }

    fn parts(self) -> (Timestamp, u64) {
        (self.due(), self.0 & ((1 << NUMBER_BITS) - 1))
    }
}

/// The messages that are due soon.
#[derive(Clone, Debug, Default)]
pub struct Timer {
    due: BTreeSet<Entry>,
    loaded: BTreeMap<u32, Loaded>,
}

/// What is loaded is not part of a shard's state, and makes no difference between two of them.
impl PartialEq for Timer {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Timer {
    /// A message was put on the shelf now; its number is the next of its bucket.
    pub fn add(&mut self, due: Timestamp, number: u64, now: Timestamp) {
        let bucket = bucket_at(due);
        if number == 0 && is_near(bucket, now) {
            self.loaded.insert(bucket, Loaded::Whole);
        }
        if self.loaded.contains_key(&bucket) {
            self.due.insert(Entry::new(due.as_ms(), number));
        }
    }

    /// A message has left the shelf.
    pub fn remove(&mut self, due: Timestamp, number: u64) {
        self.due.remove(&Entry::new(due.as_ms(), number));
    }

    /// How many messages are loaded.
    #[must_use]
    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// What to do next with buckets that have so many messages each, in order.
    #[must_use]
    pub fn wish(&self, mut buckets: impl Iterator<Item = (u32, u64)>, now: Timestamp) -> Wish {
        let unread = buckets.find(|(bucket, _)| self.loaded.get(bucket) != Some(&Loaded::Whole));
        let mut wish = Wish::default();
        if let Some((bucket, count)) = unread {
            let near = Timestamp(start_of(bucket).as_ms() - LEAD_MS);
            if now < near {
                wish.wake_at = Some(near);
            } else {
                wish.fire_before = Some(bucket);
                if !self.loaded.contains_key(&bucket) && self.due.len() < LOADED_MAX {
                    wish.load = Some((bucket, count));
                }
            }
        }
        if let Some(due) = self.due.first().map(|first| first.due())
            && wish.fire_before.is_none_or(|end| bucket_at(due) < end)
        {
            wish.wake_at = Some(wish.wake_at.map_or(due, |at| at.min(due)));
        }
        wish
    }

    /// What a bucket has now is being read; what comes from now on is added at once.
    pub fn begin(&mut self, bucket: u32) {
        self.loaded.insert(bucket, Loaded::Partly);
    }

    /// A bucket was read; these messages of it wait.
    pub fn finish(&mut self, bucket: u32, waiting: impl Iterator<Item = (Timestamp, u64)>) {
        self.due
            .extend(waiting.map(|(due, number)| Entry::new(due.as_ms(), number)));
        self.loaded.insert(bucket, Loaded::Whole);
    }

    /// A bucket could not be read: it is to be loaded again.
    pub fn abandon(&mut self, bucket: u32) {
        let end = start_of(bucket).as_ms() + HOUR_MS;
        let mut tail = self.due.split_off(&Entry::new(start_of(bucket).as_ms(), 0));
        let mut later = tail.split_off(&Entry::new(end, 0));
        self.due.append(&mut later);
        self.loaded.remove(&bucket);
    }

    /// Forgets that a bucket was loaded: nothing of it waits any more.
    pub fn forget(&mut self, bucket: u32) {
        self.loaded.remove(&bucket);
    }

    /// Up to `limit` messages whose time has come, the earliest first, as (time, number); of buckets before
    /// `end` only.
    #[must_use]
    pub fn due(&self, now: Timestamp, end: Option<u32>, limit: usize) -> Vec<(Timestamp, u64)> {
        let end = end.map_or(Timestamp(i64::MAX), start_of);
        let due = self.due.iter().map(|entry| entry.parts());
        due.take_while(|&(due, _)| due <= now && due < end)
            .take(limit)
            .collect()
    }

    /// The messages that are due next behind the first `skip`, at most `limit`, as (time, number).
    pub fn next(&self, skip: usize, limit: usize) -> impl Iterator<Item = (Timestamp, u64)> {
        let next = self.due.iter().skip(skip).take(limit);
        next.map(|entry| entry.parts())
    }
}

fn is_near(bucket: u32, now: Timestamp) -> bool {
    start_of(bucket).as_ms() - LEAD_MS <= now.as_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_handed_out_before_what_an_earlier_hour_may_have() {
        let at = |bucket: u32, ms: i64| Timestamp(start_of(bucket).as_ms() + ms);
        let now = at(100, 5);
        let mut timer = Timer::default();
        timer.finish(100, [(at(100, 1), 0)].into_iter());
        let wish = |timer: &Timer| timer.wish([(99, 1), (100, 1)].into_iter(), now);
        let wished = wish(&timer);
        assert_eq!((wished.load, wished.fire_before), (Some((99, 1)), Some(99)));
        assert_eq!(
            wished.wake_at, None,
            "nothing can be done before it is loaded"
        );
        assert_eq!(timer.due(now, wished.fire_before, 9), []);
        timer.begin(99);
        assert_eq!(wish(&timer).load, None, "it is being loaded");
        timer.finish(99, [(at(99, 7), 3)].into_iter());
        assert_eq!(wish(&timer).fire_before, None);
        let due = timer.due(now, None, 9);
        assert_eq!(due, [(at(99, 7), 3), (at(100, 1), 0)]);
    }

    #[test]
    fn an_hour_is_loaded_ten_minutes_ahead_and_not_before() {
        let near = Timestamp(start_of(100).as_ms() - LEAD_MS);
        let timer = Timer::default();
        let wish = |now| timer.wish([(100, 7)].into_iter(), now);
        let early = wish(Timestamp(near.as_ms() - 1));
        assert_eq!((early.load, early.wake_at), (None, Some(near)));
        assert_eq!(wish(near).load, Some((100, 7)));
    }
}
