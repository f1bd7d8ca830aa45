//! How long a connection may be silent where its protocol does not ask whether the other end is still there.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use millpond_proto::time::{Clock, Sleep};

/// A bound on the time in which nothing is read or written.
pub(super) struct Idle {
    clock: Arc<dyn Clock>,
    limit: Duration,
    /// Since nothing was there to be read.
    sleep: Option<Sleep>,
}

impl Idle {
    pub(super) fn new(clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self {
            clock,
            limit,
            sleep: None,
        }
    }

    /// Something was read or written.
    pub(super) fn stirred(&mut self) {
        self.sleep = None;
    }

    /// Nothing is there to be read; ready when that has been so for too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (clock, limit) = (&self.clock, self.limit);
        let sleep = self.sleep.get_or_insert_with(|| clock.sleep(limit));
        sleep.as_mut().poll(cx)
    }
}
