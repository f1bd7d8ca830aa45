//! Where the time of a query's loop goes: waiting for rows, computing, writing.
//!
//! A query that mostly waits has room; one that mostly computes is at its limit; one that mostly writes is held back by what it writes to.

use std::sync::Arc;

use millpond_proto::time::{Clock, Timestamp};

/// Times older than this count half.
const HALF_MS: i64 = 60_000;

/// Shares of time, in thousandths, and how long the last epoch took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// From the first row of the last epoch read to its output written, in milliseconds.
    pub epoch_ms: u64,
    /// The mean of that over the epochs of late.
    pub epoch_ms_mean: u64,
    /// The longest of these.
    pub epoch_ms_max: u64,
    /// Reading, or waiting for rows to come.
    pub waiting: u32,
    /// Computing.
    pub busy: u32,
    /// Committing, appending the output and saving state.
    pub held_back: u32,
}

/// What a loop does with its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Reading, or waiting for rows.
    Waiting,
    /// Computing.
    Computing,
    /// Writing.
    Writing,
}

/// Tells how long pieces of work take, one after the other; without a clock none takes any time.
///
/// A piece shorter than a millisecond counts as one or as none, as the clock happens to move on within it or not: over many, the
/// sum is right.
#[derive(Clone, Debug)]
pub(crate) struct Laps {
    clock: Option<Arc<dyn Clock>>,
    at: Timestamp,
}

impl Laps {
    pub(crate) fn begin(clock: Option<Arc<dyn Clock>>) -> Self {
        let at = clock.as_ref().map_or(Timestamp(0), |clock| clock.now());
        Self { clock, at }
    }

    /// Milliseconds since it was asked last.
    pub(crate) fn lap(&mut self) -> u64 {
        let Some(clock) = &self.clock else { return 0 };
        let now = clock.now();
        let passed = now.as_ms() - self.at.as_ms();
        self.at = now;
        u64::try_from(passed).unwrap_or(0)
    }
}

/// Adds up where time goes.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    at: Timestamp,
    since: Timestamp,
    spent_ms: [i64; 3],
    epoch_ms: i64,
    epochs: Epochs,
    /// Those of the stretch before.
    epochs_before: Epochs,
}

/// How long some epochs took.
#[derive(Clone, Copy, Debug, Default)]
struct Epochs {
    count: i64,
    sum_ms: i64,
    longest_ms: i64,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn started(now: Timestamp) -> Self {
        Self {
            at: now,
            since: now,
            spent_ms: [0; 3],
            epoch_ms: 0,
            epochs: Epochs::default(),
            epochs_before: Epochs::default(),
        }
    }

    /// Counts the time since the last call as spent so; answers how long that was.
    pub fn spent(&mut self, doing: Doing, now: Timestamp) -> i64 {
        let passed = (now.as_ms() - self.at.as_ms()).max(0);
        self.at = now;
        let [waiting, busy, held_back] = &mut self.spent_ms;
        *match doing {
            Doing::Waiting => waiting,
            Doing::Computing => busy,
            Doing::Writing => held_back,
        } += passed;
        if now.as_ms() - self.since.as_ms() >= HALF_MS {
            self.since = now;
            self.spent_ms = self.spent_ms.map(|ms| ms / 2);
            self.epochs_before = std::mem::take(&mut self.epochs);
        }
        passed
    }

    /// Remembers how long an epoch took.
    pub fn epoch(&mut self, took_ms: i64) {
        self.epoch_ms = took_ms;
        self.epochs.count += 1;
        self.epochs.sum_ms += took_ms;
        self.epochs.longest_ms = self.epochs.longest_ms.max(took_ms);
    }

    /// The shares.
    #[must_use]
    pub fn pace(&self) -> Pace {
        let all: i64 = self.spent_ms.iter().sum();
        let share = |ms: i64| u32::try_from(ms * 1000 / all.max(1)).unwrap_or(0);
        let [waiting, busy, held_back] = self.spent_ms.map(share);
        let [now, before] = [self.epochs, self.epochs_before];
        let count = (now.count + before.count).max(1);
        Pace {
            epoch_ms: self.epoch_ms.unsigned_abs(),
            epoch_ms_mean: ((now.sum_ms + before.sum_ms) / count).unsigned_abs(),
            epoch_ms_max: now.longest_ms.max(before.longest_ms).unsigned_abs(),
            waiting,
            busy,
            held_back,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_what_is_long_ago_counts_less() {
        let mut watch = Stopwatch::started(Timestamp(0));
        assert_eq!(watch.pace(), Pace::default());
        assert_eq!(watch.spent(Doing::Waiting, Timestamp(600)), 600);
        watch.spent(Doing::Computing, Timestamp(900));
        watch.spent(Doing::Writing, Timestamp(1000));
        let pace = watch.pace();
        assert_eq!((pace.waiting, pace.busy, pace.held_back), (600, 300, 100));
        watch.spent(Doing::Waiting, Timestamp(60_000));
        watch.spent(Doing::Computing, Timestamp(90_000));
        assert!(watch.pace().busy > 480, "{:?}", watch.pace());
        watch.epoch(10);
        watch.epoch(40);
        let pace = watch.pace();
        assert_eq!(
            (pace.epoch_ms, pace.epoch_ms_mean, pace.epoch_ms_max),
            (40, 25, 40)
        );
        watch.spent(Doing::Waiting, Timestamp(150_000));
        watch.epoch(4);
        assert_eq!(
            (watch.pace().epoch_ms_mean, watch.pace().epoch_ms_max),
            (18, 40)
        );
        watch.spent(Doing::Waiting, Timestamp(210_000));
        watch.spent(Doing::Waiting, Timestamp(270_000));
        assert_eq!(
            watch.pace().epoch_ms_max,
            0,
            "what is long ago is no longer told"
        );
        // A clock that goes back takes nothing away.
        assert_eq!(watch.spent(Doing::Writing, Timestamp(260_000)), 0);
    }
}
