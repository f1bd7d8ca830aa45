//! The end of a continuous query: it is stopped and forgotten, with the topics that are its own and its state.
//!
//! **Invariant.** A query that could not be ended whole is still listed, so that the same statement ends it later: it goes on if it is
//! remembered, and rests if what is left of it are topics alone.

use millpond_proto::message::JobId;

use crate::error::SqlError;
use crate::job::runner::late_topic_of;
use crate::job::runner::saved::delete_checkpoints;
use crate::job::runtime::Jobs;

impl Jobs {
    /// Ends a query for whoever changes queries at the time.
    pub(super) async fn end_locked(&self, name: &str) -> Result<(), SqlError> {
        let removed = self.running().remove(name);
        let Some(mut job) = removed else {
            return Err(self.unknown(name));
        };
        job.stop().await;
        let mut spec = job.spec;
        let id = spec.id;
        if let Err(error) = self.parts.topics.drop_job(JobId(id)).await {
            self.run(spec);
            return Err(error.into());
        }
        if let Err(error) = self.drop_outputs(name).await {
            // Nobody remembers it any more, so it has nothing to go on from.
            spec.paused = true;
            self.run(spec);
            return Err(error);
        }
        let deleted = delete_checkpoints(self.parts.state.as_ref(), id, &[]).await;
        if let Err(error) = deleted {
            tracing::warn!(job = name, %error, "the state of a dropped query was not deleted");
        }
        Ok(())
    }

    async fn drop_outputs(&self, name: &str) -> Result<(), SqlError> {
        let topics = &self.parts.topics;
        // Of a job only the late rows are its own: the topic that it writes was there before.
        for topic in [name.to_owned(), late_topic_of(name)] {
            let found = topics.topic(&topic);
            if found.is_some_and(|found| found.written_by.as_deref() == Some(name)) {
                topics.drop_topic(&topic).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::continuous::{Continuous as _, JobState};
    use crate::job::tests::{World, create, status};
    use crate::topic::Topics as _;

    #[tokio::test(start_paused = true)]
    async fn a_query_that_could_not_be_dropped_goes_on_and_is_dropped_by_the_next_try() {
        let world = World::new(970).await;
        let jobs = world.troubled_jobs(None, 1);
        let view = "CREATE MATERIALIZED VIEW v AS SELECT carrier FROM flights";
        create(&jobs, view).await.unwrap();
        let error = jobs.end("v").await.unwrap_err().to_string();
        assert!(error.contains("the disk is busy"), "{error}");
        world.send_some();
        world.wait_ms(1000).await;
        assert_eq!(status(&jobs, "v").state, JobState::Running);
        assert!(!world.rows("v").is_empty());
        jobs.end("v").await.unwrap();
        assert!(world.topics.topic("v").is_none());
        create(&jobs, view).await.unwrap();
        jobs.stop().await;
    }
}
