//! What one worker saw, and what all of them saw together.

use std::time::Duration;

use hdrhistogram::Histogram;
use millpond_proto::client::ClientError;

/// Longest latency that is told apart; longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Messages, bytes, errors and latencies.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Messages that went well.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Calls that did not.
    pub errors: u64,
    /// Why the first of them did not.
    pub first_error: Option<String>,
    /// How long it all took.
    pub elapsed: Duration,
    latency_us: Histogram<u64>,
}

impl Default for Measured {
    fn default() -> Self {
        let max = u64::try_from(LATENCY_MAX.as_micros()).unwrap_or(u64::MAX);
        Self {
            messages: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            elapsed: Duration::ZERO,
            latency_us: Histogram::new_with_bounds(1, max, 3)
                .expect("1 us to 600 s at 3 digits are bounds that a histogram can have"),
        }
    }
}

impl Measured {
    /// Counts messages that took so long.
    pub fn record(&mut self, messages: u64, bytes: u64, latency: Duration) {
        self.messages += messages;
        self.bytes += bytes;
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record_n(us.max(1), messages);
    }

    /// Counts a call that failed.
    pub fn fail(&mut self, error: &ClientError) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    /// Takes in what another worker saw; the longest time counts.
    pub fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.latency_us += &other.latency_us;
    }

    /// The latency that the given share of messages did not exceed, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, share: f64) -> f64 {
        self.latency_us.value_at_quantile(share) as f64 / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_to_one_picture() {
        let mut all = Measured::default();
        for ms in 1..=100 {
            let mut one = Measured::default();
            one.record(2, 20, Duration::from_millis(ms));
            one.elapsed = Duration::from_millis(ms);
            all.add(one);
        }
        assert_eq!((all.messages, all.bytes, all.errors), (200, 2000, 0));
        assert_eq!(all.elapsed, Duration::from_millis(100));
        assert!((all.latency_ms(0.5) - 50.0).abs() < 0.1);
        assert!((all.latency_ms(1.0) - 100.0).abs() < 0.1);
    }

    #[test]
    fn a_latency_beyond_all_bounds_counts_as_the_longest() {
        let mut one = Measured::default();
        one.record(1, 1, Duration::from_secs(10_000));
        assert!(one.latency_ms(1.0) >= 600_000.0);
    }
}
