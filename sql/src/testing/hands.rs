//! Background threads for tests: as many as they say, of which none is real.

use millpond_proto::task::{Lane, Runtimes, Spawn, Task, Work};

/// The runtime that calls it, with a number of workers to tell.
#[derive(Clone, Debug)]
pub struct Hands {
    runtime: Runtimes,
    workers: usize,
}

impl Hands {
    /// Everything on the runtime that calls this, as `workers` workers.
    ///
    /// # Panics
    /// When called outside a tokio runtime.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            runtime: Runtimes::single(),
            workers,
        }
    }
}

impl Spawn for Hands {
    fn spawn(&self, lane: Lane, work: Work) -> Task {
        self.runtime.spawn(lane, work)
    }

    fn workers(&self, _lane: Lane) -> usize {
        self.workers
    }
}
