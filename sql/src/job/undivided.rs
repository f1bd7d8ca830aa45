//! Changes of continuous queries go on to their end, also when whoever asked for them leaves.
//!
//! A change takes several steps: a query is stopped, then forgotten, then its topic is deleted. An asker who is cut off
//! lets go of the call in the midst of them, and what is half done would stay so until the server starts again. So each
//! change is a task of its own, and the asker waits for its answer. Two changes at a time are kept apart where they
//! are made, in [`crate::job::runtime`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::future::BoxFuture;
use millpond_proto::task::{Lane, Spawn, Task};
use tokio::sync::oneshot;

use crate::continuous::{Continuous, JobStatus};
use crate::error::SqlError;
use crate::statement::{ContinuousJob, ContinuousView, JobChange, SavepointChange};

/// A runtime of continuous queries whose changes are not broken off.
pub struct Undivided {
    jobs: Arc<dyn Continuous>,
    spawn: Arc<dyn Spawn>,
    /// Held here: to let go of a task is to stop it.
    going_on: Mutex<Vec<Task>>,
}

impl fmt::Debug for Undivided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undivided")
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl Undivided {
    /// The runtime `jobs`, with its changes on `spawn`.
    #[must_use]
    pub fn new(jobs: Arc<dyn Continuous>, spawn: Arc<dyn Spawn>) -> Self {
        Self {
            jobs,
            spawn,
            going_on: Mutex::default(),
        }
    }

    async fn whole(
        &self,
        change: impl FnOnce(Arc<dyn Continuous>) -> BoxFuture<'static, Result<(), SqlError>>,
    ) -> Result<(), SqlError> {
        let (reply, answer) = oneshot::channel();
        let change = change(Arc::clone(&self.jobs));
        let work = async move {
            // The asker may have left.
            let _ = reply.send(change.await);
        };
        let task = self.spawn.spawn(Lane::Background, Box::pin(work));
        {
            let going_on = self.going_on.lock();
            let mut going_on = going_on.unwrap_or_else(PoisonError::into_inner);
            going_on.retain(|task| !task.is_finished());
            going_on.push(task);
        }
        answer.await.unwrap_or_else(|_| {
            Err(SqlError::Bug {
                cause: "the change of a continuous query ended without an answer".to_owned(),
            })
        })
    }
}

#[async_trait]
impl Continuous for Undivided {
    async fn create_view(&self, view: &ContinuousView) -> Result<(), SqlError> {
        let view = view.clone();
        self.whole(|jobs| Box::pin(async move { jobs.create_view(&view).await }))
            .await
    }

    async fn alter_view(&self, view: &ContinuousView, sql: &str) -> Result<(), SqlError> {
        let (view, sql) = (view.clone(), sql.to_owned());
        self.whole(|jobs| Box::pin(async move { jobs.alter_view(&view, &sql).await }))
            .await
    }

    async fn create_job(&self, job: &ContinuousJob) -> Result<(), SqlError> {
        let job = job.clone();
        self.whole(|jobs| Box::pin(async move { jobs.create_job(&job).await }))
            .await
    }

    async fn end(&self, name: &str) -> Result<(), SqlError> {
        let name = name.to_owned();
        self.whole(|jobs| Box::pin(async move { jobs.end(&name).await }))
            .await
    }

    async fn alter_job(&self, name: &str, change: JobChange) -> Result<(), SqlError> {
        let name = name.to_owned();
        self.whole(move |jobs| Box::pin(async move { jobs.alter_job(&name, change).await }))
            .await
    }

    async fn pause(&self, name: &str) -> Result<(), SqlError> {
        let name = name.to_owned();
        self.whole(|jobs| Box::pin(async move { jobs.pause(&name).await }))
            .await
    }

    async fn resume(&self, name: &str) -> Result<(), SqlError> {
        let name = name.to_owned();
        self.whole(|jobs| Box::pin(async move { jobs.resume(&name).await }))
            .await
    }

    async fn savepoint(&self, change: &SavepointChange) -> Result<(), SqlError> {
        let change = change.clone();
        self.whole(|jobs| Box::pin(async move { jobs.savepoint(&change).await }))
            .await
    }

    fn list(&self) -> Vec<JobStatus> {
        self.jobs.list()
    }

    fn describe(&self, name: &str) -> Option<JobStatus> {
        self.jobs.describe(name)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt as _;
    use millpond_proto::task::Runtimes;
    use tokio::sync::Notify;

    use super::*;

    /// Ends a query in two steps, with a wait between them.
    #[derive(Debug, Default)]
    struct Slow {
        has_begun: Notify,
        may_end: Notify,
        has_ended: AtomicBool,
    }

    #[async_trait]
    impl Continuous for Slow {
        async fn create_view(&self, _view: &ContinuousView) -> Result<(), SqlError> {
            Ok(())
        }

        async fn create_job(&self, _job: &ContinuousJob) -> Result<(), SqlError> {
            Ok(())
        }

        async fn end(&self, _name: &str) -> Result<(), SqlError> {
            self.has_begun.notify_one();
            self.may_end.notified().await;
            self.has_ended.store(true, Ordering::Relaxed);
            Ok(())
        }

        async fn pause(&self, name: &str) -> Result<(), SqlError> {
            Err(SqlError::invalid(format!("no {name}"), "none"))
        }

        async fn resume(&self, _name: &str) -> Result<(), SqlError> {
            Ok(())
        }

        fn list(&self) -> Vec<JobStatus> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn a_change_goes_on_when_its_asker_has_left() {
        let slow = Arc::new(Slow::default());
        let spawn = Arc::new(Runtimes::single());
        let jobs = Undivided::new(Arc::clone(&slow) as Arc<dyn Continuous>, spawn);
        {
            let mut ending = Box::pin(jobs.end("v"));
            assert!((&mut ending).now_or_never().is_none());
            slow.has_begun.notified().await;
        }
        assert!(!slow.has_ended.load(Ordering::Relaxed));
        slow.may_end.notify_one();
        while !slow.has_ended.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_asker_who_waits_hears_how_it_went() {
        let slow = Arc::new(Slow::default());
        slow.may_end.notify_one();
        let spawn = Arc::new(Runtimes::single());
        let jobs = Undivided::new(slow as Arc<dyn Continuous>, spawn);
        jobs.end("v").await.unwrap();
        let refused = jobs.pause("w").await.unwrap_err();
        assert!(refused.to_string().contains("no w"), "{refused}");
    }
}
