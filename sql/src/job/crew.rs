//! How a query's work is done side by side: pieces that depend on nothing but what they own.
//!
//! The pieces run in any order and on any thread of the background lane; what they answer is put in their
//! order, so nothing that is computed depends on how many hands there are. With one hand, or little to do,
//! the caller does it all. Dropping the caller drops what has not begun.

use std::sync::Arc;

use millpond_proto::limits::{JOB_PARALLELISM_MAX, JOB_PARALLELISM_USUAL_MAX};
use millpond_proto::task::{Lane, Panicked, Spawn, Task};
use millpond_proto::time::Clock;
use tokio::sync::oneshot;

use crate::job::pace::Laps;

/// Fewer rows than this are not worth the way to another thread.
pub(crate) const ROWS_APART_MIN: usize = 1024;

/// Who does a query's work, and in how many lanes.
#[derive(Clone, Debug)]
pub struct Crew {
    lanes: usize,
    spawn: Option<Arc<dyn Spawn>>,
    clock: Option<Arc<dyn Clock>>,
}

impl Crew {
    /// The caller alone, in one lane.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            lanes: 1,
            spawn: None,
            clock: None,
        }
    }

    /// So many lanes, on the background threads of `spawn`.
    #[must_use]
    pub fn of(lanes: usize, spawn: Arc<dyn Spawn>) -> Self {
        Self {
            lanes: lanes.clamp(1, JOB_PARALLELISM_MAX),
            spawn: Some(spawn),
            clock: None,
        }
    }

    /// The same, which tells how long its work takes.
    #[must_use]
    pub fn timed(self, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// Begins to tell how long work takes.
    pub(crate) fn laps(&self) -> Laps {
        Laps::begin(self.clock.clone())
    }

    /// How many lanes the work is cut into.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Does every piece and answers in their order; `rows` is about how much there is to do.
    ///
    /// # Errors
    /// [`Panicked`] when a piece did.
    pub(crate) async fn all<T, F>(&self, rows: usize, work: Vec<F>) -> Result<Vec<T>, Panicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let apart = self.spawn.as_ref();
        let apart = apart.filter(|_| work.len() > 1 && rows >= ROWS_APART_MIN);
        let Some(spawn) = apart else {
            return Ok(work.into_iter().map(|piece| piece()).collect());
        };
        let mut work = work.into_iter();
        let first = work.next();
        let others: Vec<(Task, oneshot::Receiver<T>)> = work
            .map(|piece| {
                let (done, answer) = oneshot::channel();
                let piece = async move {
                    // Whoever asked may have left.
                    let _ = done.send(piece());
                };
                (spawn.spawn(Lane::Background, Box::pin(piece)), answer)
            })
            .collect();
        let mut answers: Vec<T> = first.map(|piece| piece()).into_iter().collect();
        for (_task, answer) in others {
            answers.push(answer.await.map_err(|_| Panicked)?);
        }
        Ok(answers)
    }
}

/// The lanes of a query that does not say how many: one for each background thread, up to a bound.
pub(crate) fn usual_lanes(spawn: &dyn Spawn) -> usize {
    let workers = spawn.workers(Lane::Background);
    workers.clamp(1, JOB_PARALLELISM_USUAL_MAX)
}

#[cfg(test)]
mod tests {
    use millpond_proto::task::Runtimes;

    use super::*;

    #[tokio::test]
    async fn answers_come_in_the_order_of_the_work_and_a_panic_is_told() {
        let crew = Crew::of(3, Arc::new(Runtimes::single()));
        for rows in [0, ROWS_APART_MIN] {
            let work = (0..5).map(|piece| move || piece * 2).collect();
            assert_eq!(crew.all(rows, work).await.unwrap(), [0, 2, 4, 6, 8]);
        }
        let work: Vec<_> = (0..2).map(|piece| move || assert_eq!(piece, 0)).collect();
        assert_eq!(crew.all(ROWS_APART_MIN, work).await, Err(Panicked));
        assert_eq!(Crew::of(0, Arc::new(Runtimes::single())).lanes(), 1);
    }
}
