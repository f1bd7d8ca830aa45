//! How far event time has come: a function of the log, never of the reader's pace.
//!
//! Store time is cut into ticks of [`TICK_MS`]. The watermark of a topic at tick `t` is the greatest
//! event time of all its rows stored in ticks before `t`, less the declared delay. So it is the same
//! for every reader of the same log: batches, epochs, pace and restarts do not enter into it. It never
//! goes backwards, because the greatest of a growing set never does. An idle queue holds nothing back.

use millpond_proto::time::Timestamp;

use crate::topic::TICK_MS;

/// The start of the tick that a store time lies in, in milliseconds.
#[must_use]
pub fn tick_of(stored_at_ms: i64) -> i64 {
    stored_at_ms.div_euclid(TICK_MS) * TICK_MS
}

/// The watermark of one topic, moved from tick to tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    delay_ms: i64,
    greatest_ms: Option<i64>,
}

impl Watermark {
    /// No event seen; events may come `delay_ms` late.
    #[must_use]
    pub fn new(delay_ms: i64) -> Self {
        Self {
            delay_ms,
            greatest_ms: None,
        }
    }

    /// The watermark of the same delay that goes on from `greatest_ms`, the greatest event time seen so
    /// far.
    #[must_use]
    pub fn resumed(self, greatest_ms: Option<i64>) -> Self {
        Self {
            greatest_ms,
            ..self
        }
    }

    /// Where it stands; `None` before the first event.
    #[must_use]
    pub fn at(&self) -> Option<Timestamp> {
        self.greatest_ms
            .map(|ms| Timestamp(ms.saturating_sub(self.delay_ms)))
    }

    /// The greatest event time seen so far, in milliseconds: what [`Watermark::resumed`] goes on from.
    #[must_use]
    pub fn greatest_ms(&self) -> Option<i64> {
        self.greatest_ms
    }

    /// Ends a tick in which `greatest_ms` was the greatest event time; rows of that tick were judged
    /// by the watermark before it.
    ///
    /// # Panics
    /// When the watermark would go back, which is a bug here.
    pub fn end_tick(&mut self, greatest_ms: Option<i64>) {
        let before = self.greatest_ms;
        self.greatest_ms = before.max(greatest_ms);
        assert!(before <= self.greatest_ms, "a watermark never goes back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_start_at_multiples_of_their_length_even_before_1970() {
        assert_eq!(tick_of(0), 0);
        assert_eq!(tick_of(99), 0);
        assert_eq!(tick_of(100), 100);
        assert_eq!(tick_of(-1), -100);
    }

    #[test]
    fn watermark_follows_the_greatest_event_and_never_goes_back() {
        let mut watermark = Watermark::new(5);
        assert_eq!(watermark.at(), None);
        watermark.end_tick(Some(100));
        assert_eq!(watermark.at(), Some(Timestamp(95)));
        watermark.end_tick(Some(40));
        watermark.end_tick(None);
        assert_eq!(watermark.at(), Some(Timestamp(95)));
        watermark.end_tick(Some(101));
        assert_eq!(watermark.at(), Some(Timestamp(96)));
    }
}
