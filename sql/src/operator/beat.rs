//! The beats of `EMIT EVERY`: whole multiples of a length of store time, at which what changed leaves.
//!
//! **Invariant.** What leaves at a beat is what changed in the ticks before it, however rows were cut into epochs. A
//! beat at which nothing waits is none.

use millpond_proto::time::Timestamp;

/// Where the beats stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    every_ms: i64,
    /// When what waits leaves; `None` while nothing does.
    due_ms: Option<i64>,
}

impl Beat {
    /// A beat every so many milliseconds, which are whole ticks.
    pub(crate) fn every(every_ms: i64) -> Self {
        assert!(every_ms > 0, "time goes on between two beats");
        Self {
            every_ms,
            due_ms: None,
        }
    }

    /// Notes that something changed in the tick that began at a time.
    pub(crate) fn changed(&mut self, tick_ms: i64) {
        let beats = tick_ms.div_euclid(self.every_ms).saturating_add(1);
        let next_ms = beats.saturating_mul(self.every_ms);
        self.due_ms.get_or_insert(next_ms);
    }

    /// Whether what waits leaves, now that all rows from before a time were taken; then nothing waits any more.
    pub(crate) fn is_over(&mut self, now: Timestamp) -> bool {
        let is_over = self.due_ms.is_some_and(|due_ms| due_ms <= now.as_ms());
        if is_over {
            self.due_ms = None;
        }
        is_over
    }

    /// When what waits leaves.
    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.due_ms.map(Timestamp)
    }

    /// Goes on from what [`Beat::due`] answered.
    pub(crate) fn resume(&mut self, due_ms: i64) {
        self.due_ms = Some(due_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_leaves_at_the_next_beat_and_only_once() {
        let mut beat = Beat::every(1000);
        assert!(!beat.is_over(Timestamp(5000)), "nothing waits");
        beat.changed(5100);
        beat.changed(5900);
        assert_eq!(beat.due(), Some(Timestamp(6000)));
        assert!(!beat.is_over(Timestamp(5900)));
        assert!(beat.is_over(Timestamp(9000)));
        assert!(!beat.is_over(Timestamp(9900)), "it left already");
        beat.changed(10_000);
        assert_eq!(
            beat.due(),
            Some(Timestamp(11_000)),
            "a beat ends before its tick"
        );
        let mut before_time = Beat::every(1000);
        before_time.changed(-100);
        assert_eq!(before_time.due(), Some(Timestamp(0)));
    }
}
