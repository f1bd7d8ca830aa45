//! Time comes in as an argument; this is the only file that reads a clock.
//!
//! [`SystemClock`] is real. [`SimulatedClock`] (feature `test-util`) follows tokio's paused time,
//! which jumps ahead whenever every task waits, so that an hour passes at once and always alike.

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::LazyLock;
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
    start: Timestamp,
    origin: tokio::time::Instant,
}

#[cfg(any(test, feature = "test-util"))]
impl SimulatedClock {
    /// A clock that says `start` now. Must be called inside the paused runtime.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            start,
            origin: tokio::time::Instant::now(),
        }
    }
}

#[cfg(any(test, feature = "test-util"))]
impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.start + self.origin.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "simulated time is the runtime's paused time"
    )]
    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}
