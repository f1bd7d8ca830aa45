//! Time comes in as an argument; this is the only file that reads a clock.
//!
//! [`SystemClock`] is real, and [`SteadyClock`] over it never goes back. [`SimulatedClock`] (feature `test-util`)
//! follows tokio's paused time, which jumps ahead whenever every task waits, so that an hour passes at once
//! and always alike.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(u64::try_from(ms).unwrap_or(0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(ms))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(ms))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A future that owns what it needs.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Wall-clock time and waiting.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now. May step backwards when the machine's clock is set; callers that need order keep their own.
    fn now(&self) -> Timestamp;

    /// Ends after `duration`, whatever the wall clock does meanwhile.
    fn sleep(&self, duration: Duration) -> Sleep;

    /// Time since some fixed moment, for measuring how long something took; [`Clock::now`] unless there is something finer.
    fn ticks(&self) -> Duration {
        Duration::from_millis(self.now().0.unsigned_abs())
    }

    /// Tells the clock that it was `at` already, in an earlier run; one that never goes back goes on from there.
    fn was(&self, _at: Timestamp) {}
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    fn ticks(&self) -> Duration {
        static FIRST: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
        FIRST.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that waits"
    )]
    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// How much slower than it should a clock goes that waits for the machine's to come up with it.
const CATCHING_UP: u32 = 2;

/// Time that never goes back and never stands still, over a clock that may be set.
///
/// When that one is set forward, this one follows at once. When it is set back, this one goes on at half its
/// pace until the other has come up with it: what was to happen in ten seconds happens in twenty at most, and
/// not once the machine's clock says so again. Elapsed time is tokio's, so a paused runtime decides it.
#[derive(Debug)]
pub struct SteadyClock {
    wall: Arc<dyn Clock>,
    /// What it said last, to the nanosecond, and when.
    said: Mutex<(i128, tokio::time::Instant)>,
}

impl SteadyClock {
    /// A clock that begins at what the other one says.
    #[must_use]
    pub fn over(wall: Arc<dyn Clock>) -> Self {
        let said = Mutex::new((in_ns(wall.now()), tokio::time::Instant::now()));
        Self { wall, said }
    }
}

fn in_ns(at: Timestamp) -> i128 {
    i128::from(at.as_ms()) * 1_000_000
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, at) = *said;
        let instant = tokio::time::Instant::now();
        let least = instant.saturating_duration_since(at) / CATCHING_UP;
        let least = last + i128::try_from(least.as_nanos()).unwrap_or(i128::MAX / 2);
        let now = least.max(in_ns(self.wall.now()));
        *said = (now, instant);
        Timestamp(i64::try_from(now / 1_000_000).unwrap_or(i64::MAX))
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.wall.sleep(duration)
    }

    fn ticks(&self) -> Duration {
        self.wall.ticks()
    }

    fn was(&self, at: Timestamp) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.0 = said.0.max(in_ns(at));
    }
}

/// Measures how long something takes, in steps finer than a [`Timestamp`]; for figures, never for decisions.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(std::time::Instant);

impl Stopwatch {
    /// Starts to measure.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Runs `future`, but for no longer than `limit`; `None` when the time ran out.
pub async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let future = std::pin::pin!(future);
    match futures::future::select(future, clock.sleep(limit)).await {
        futures::future::Either::Left((value, _)) => Some(value),
        futures::future::Either::Right(_) => None,
    }
}

/// Time that starts where it is told and follows the runtime's paused clock.
///
/// Use it on a current-thread runtime built with `start_paused(true)`.
#[cfg(any(test, feature = "test-util"))]
#[derive(Debug)]
pub struct SimulatedClock {
    start: std::sync::atomic::AtomicI64,
    origin: tokio::time::Instant,
}

#[cfg(any(test, feature = "test-util"))]
impl SimulatedClock {
    /// A clock that says `start` now. Must be called inside the paused runtime.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            start: start.as_ms().into(),
            origin: tokio::time::Instant::now(),
        }
    }

    /// Sets it: from now on it says so many ms more, or less.
    pub fn set_by(&self, ms: i64) {
        self.start
            .fetch_add(ms, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.start.load(std::sync::atomic::Ordering::Relaxed)) + self.origin.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "simulated time is the runtime's paused time"
    )]
    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_neither_goes_back_nor_stands_still_and_meets_the_wall_again() {
        let wall = Arc::new(SimulatedClock::starting_at(Timestamp(1_000_000)));
        let clock = SteadyClock::over(Arc::clone(&wall) as Arc<dyn Clock>);
        assert_eq!(clock.now(), Timestamp(1_000_000));
        wall.set_by(5000);
        assert_eq!(clock.now(), Timestamp(1_005_000), "forward at once");
        wall.set_by(-60_000);
        for second in 1..=120 {
            clock.sleep(Duration::from_secs(1)).await;
            let expected = 1_005_000 + second * 500;
            assert_eq!(clock.now(), Timestamp(expected), "half as fast");
        }
        assert_eq!(clock.now(), wall.now());
        clock.sleep(Duration::from_secs(9)).await;
        assert_eq!(clock.now(), wall.now(), "as fast as the wall again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_clock_goes_on_from_what_an_earlier_run_saw() {
        let wall = Arc::new(SimulatedClock::starting_at(Timestamp(1_000_000)));
        let clock = SteadyClock::over(Arc::clone(&wall) as Arc<dyn Clock>);
        clock.was(Timestamp(900_000));
        assert_eq!(clock.now(), Timestamp(1_000_000), "that is past");
        clock.was(Timestamp(2_000_000));
        clock.sleep(Duration::from_secs(2)).await;
        assert_eq!(clock.now(), Timestamp(2_001_000));
    }
}
