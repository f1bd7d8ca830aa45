//! How often a query is started over after a trouble that passes, and when it is given up.
//!
//! The pause before it is started over doubles up to the longest, and is short again once an epoch went well. So many
//! times within an hour are tried; then the trouble does not pass by itself, and the query stops and says so.

use std::collections::VecDeque;
use std::time::Duration;

use millpond_proto::limits::JOB_RESTARTS_USUAL;
use millpond_proto::time::Timestamp;

/// First pause.
const PAUSE_MS_MIN: u64 = 100;
/// Longest pause.
const PAUSE_MS_MAX: u64 = 10_000;
/// Within how long tries are counted.
const WINDOW_MS: i64 = 60 * 60 * 1000;

/// The tries of one run.
#[derive(Debug)]
pub(crate) struct Restarts {
    most: u32,
    tries: VecDeque<Timestamp>,
    pause_ms: u64,
    /// The epoch that the query had reached at the last try.
    epoch: u64,
}

impl Restarts {
    /// None yet, at most `most` within an hour, of a query that reached `epoch`.
    pub(crate) fn new(most: Option<u32>, epoch: u64) -> Self {
        Self {
            most: most.unwrap_or(JOB_RESTARTS_USUAL),
            tries: VecDeque::new(),
            pause_ms: PAUSE_MS_MIN,
            epoch,
        }
    }

    /// How long to wait before it is started over; `None` when it is given up.
    pub(crate) fn next(&mut self, now: Timestamp, epoch: u64) -> Option<Duration> {
        while let Some(first) = self.tries.front()
            && first.as_ms() <= now.as_ms() - WINDOW_MS
        {
            self.tries.pop_front();
        }
        if self.tries.len() as u64 >= u64::from(self.most) {
            return None;
        }
        self.tries.push_back(now);
        if epoch > self.epoch {
            self.epoch = epoch;
            self.pause_ms = PAUSE_MS_MIN;
        }
        let pause = Duration::from_millis(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
        Some(pause)
    }

    /// Tries within the last hour.
    pub(crate) fn count(&self) -> usize {
        self.tries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_an_epoch_goes_well_and_tries_end_within_an_hour_only() {
        let mut restarts = Restarts::new(Some(3), 7);
        let ms = |pause: Option<Duration>| pause.map(|pause| pause.as_millis());
        assert_eq!(ms(restarts.next(Timestamp(0), 7)), Some(100));
        assert_eq!(ms(restarts.next(Timestamp(100), 7)), Some(200));
        assert_eq!(ms(restarts.next(Timestamp(200), 8)), Some(100));
        assert_eq!(restarts.next(Timestamp(WINDOW_MS - 1), 8), None);
        // The first has left the hour.
        assert_eq!(ms(restarts.next(Timestamp(WINDOW_MS), 8)), Some(200));
        assert_eq!(restarts.count(), 3);
        let mut longest = Restarts::new(None, 0);
        let pauses = (0..20).filter_map(|_| ms(longest.next(Timestamp(0), 0)));
        assert_eq!(pauses.max(), Some(10_000));
        assert_eq!(Restarts::new(Some(0), 0).next(Timestamp(0), 0), None);
    }
}
