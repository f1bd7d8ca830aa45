//! Savepoints: the state of a job as an object of its own under a name, and jobs that go on from it.
//!
//! A job that runs is asked between two turns and writes its state where it stands ([`Ask`]). For one that rests, or failed, a runner is
//! made that recovers and writes, and computes nothing. The object is written first, then the broker remembers it: an object that
//! nothing remembers is what a crash left, and goes with the next change.
//!
//! A job begins with a savepoint if it computes the same ([`crate::plan::fingerprint`]) and its inputs are kept from there on; how many lanes
//! it has, and where it writes, is its own affair. It counts its epochs anew, and stands on the savepoint until it has saved state of its own.
//! What a view has given is in its topic and not in its state, so views have no savepoints.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use millpond_proto::limits::SAVEPOINTS_MAX;
use millpond_proto::message::{JobId, TopicId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::SqlError;
use crate::job::error::JobError;
use crate::job::runner::Shared;
use crate::job::runtime::{Jobs, no_status};
use crate::plan::continuous::ContinuousPlan;
use crate::plan::fingerprint::difference;
use crate::savepoint::Savepoint;
use crate::statement::{ContinuousJob, SavepointChange, Statement, parse};
use crate::topic::{EpochCut, JobSpec, Topics};

/// Where the objects lie.
const FOLDER: &str = "savepoints";

/// Asks a running job to write its state.
#[derive(Debug)]
pub(crate) struct Ask {
    /// Where to.
    pub(crate) key: String,
    /// Whether it is the last thing that the job does.
    pub(crate) then_stops: bool,
    /// Where the answer goes; dropped when the job ends before it comes to it.
    pub(crate) reply: oneshot::Sender<Result<Written, JobError>>,
}

/// State that was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) cut: EpochCut,
    pub(crate) size_bytes: u64,
    /// See [`Savepoint::computes`].
    pub(crate) computes: String,
}

/// Where a job can be asked; one ask waits at most.
pub(crate) fn asking() -> (mpsc::Sender<Ask>, mpsc::Receiver<Ask>) {
    mpsc::channel(1)
}

impl Jobs {
    /// Does what a statement says of a savepoint.
    pub(super) async fn change_savepoint(&self, change: &SavepointChange) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        match change {
            SavepointChange::Create { name, job } => {
                self.take(name, job, false).await?;
            }
            SavepointChange::Stop { name, job } => {
                self.take(name, job, true).await?;
                self.end_locked(job).await?;
            }
            SavepointChange::Drop { name, if_exists } => match self.savepoint_of(name) {
                Ok(savepoint) => {
                    self.check_unused(&savepoint).await?;
                    self.parts.topics.drop_savepoint(savepoint.id).await?;
                }
                Err(_) if *if_exists => {}
                Err(error) => return Err(error),
            },
        }
        self.sweep_savepoints().await;
        Ok(())
    }

    /// Writes the state of a job and has it remembered.
    async fn take(&self, name: &str, job: &str, then_stops: bool) -> Result<(), SqlError> {
        let (spec, _) = self.found(job)?;
        if !matches!(parse(&spec.sql), Ok(Statement::CreateJob(_))) {
            return Err(SqlError::invalid(
                format!(
                    "{job} is a materialized view, and a savepoint would hold none of its rows"
                ),
                "take savepoints of jobs and sinks; ALTER MATERIALIZED VIEW builds a view anew beside the old one",
            ));
        }
        let topics = self.parts.topics.as_ref();
        let known = topics.savepoints();
        if known.iter().any(|savepoint| savepoint.name == name) {
            return Err(SqlError::invalid(
                format!("a savepoint {name} exists already"),
                "drop it first, or choose another name",
            ));
        }
        if known.len() >= SAVEPOINTS_MAX {
            return Err(SqlError::Limit {
                limit: "SAVEPOINTS_MAX",
                value: format!("{SAVEPOINTS_MAX} savepoints"),
                advice: "drop one first",
            });
        }
        let key = format!("{FOLDER}/{}-{name}", spec.id);
        let written = self.written(&spec, &key, then_stops).await;
        let written = written.map_err(|error| {
            SqlError::invalid(
                format!("the state of {job} could not be saved: {error}"),
                "mend that and take the savepoint again; nothing of it is remembered",
            )
        })?;
        let savepoint = Savepoint {
            id: 0,
            name: name.to_owned(),
            job: job.to_owned(),
            sql: spec.sql.clone(),
            computes: written.computes,
            cut: written.cut,
            key,
            size_bytes: written.size_bytes,
            saved_at: self.parts.clock.now(),
        };
        let remembered = topics.create_savepoint(savepoint).await;
        if remembered.is_err() && then_stops {
            // It stood still for a savepoint that is not to be.
            let removed = self.running().remove(job);
            if let Some(mut job) = removed {
                job.stop().await;
            }
            self.run(spec);
        }
        Ok(remembered?)
    }

    /// Has a job write its state: by itself if it runs.
    async fn written(
        &self,
        spec: &JobSpec,
        key: &str,
        then_stops: bool,
    ) -> Result<Written, JobError> {
        let asks = self.running().get(&spec.name).map(|job| job.asks.clone());
        if let Some(asks) = asks {
            let (reply, answer) = oneshot::channel();
            let ask = Ask {
                key: key.to_owned(),
                then_stops,
                reply,
            };
            if asks.send(ask).await.is_ok()
                && let Ok(written) = answer.await
            {
                return written;
            }
        }
        // It rests, or ended before it came to it.
        let (_stop, stopping) = watch::channel(false);
        let (_, asked) = asking();
        let runner = self.runner(
            spec.clone(),
            Arc::new(Mutex::new(Shared::new(no_status(spec)))),
            stopping,
            asked,
        );
        runner.written(key).await
    }

    /// A savepoint by its name.
    fn savepoint_of(&self, name: &str) -> Result<Savepoint, SqlError> {
        let known = self.parts.topics.savepoints();
        match known.iter().find(|savepoint| savepoint.name == name) {
            Some(savepoint) => Ok(savepoint.clone()),
            None => {
                let names = known.iter().map(|savepoint| savepoint.name.as_str());
                Err(SqlError::unknown("savepoint", name, None, names))
            }
        }
    }

    /// The savepoint that a new job begins with, if it says so, and if it can.
    pub(super) fn beginning(
        &self,
        job: &ContinuousJob,
        plan: &ContinuousPlan,
    ) -> Result<Option<u64>, SqlError> {
        let Some(name) = &job.options.savepoint else {
            return Ok(None);
        };
        let savepoint = self.savepoint_of(name)?;
        let computes = plan.fingerprint(job);
        if let Some((before, now)) = difference(&savepoint.computes, &computes) {
            return Err(SqlError::invalid(
                format!(
                    "savepoint {name} is of another query: it has \"{before}\", this one \"{now}\""
                ),
                "write the query as the savepoint's job had it (SHOW SAVEPOINTS), or leave savepoint out: the job is computed from the log",
            ));
        }
        check_inputs(&savepoint, plan, self.parts.topics.as_ref())?;
        Ok(Some(savepoint.id))
    }

    /// Refuses while a job stands on a savepoint.
    async fn check_unused(&self, savepoint: &Savepoint) -> Result<(), SqlError> {
        let topics = &self.parts.topics;
        for job in topics.jobs() {
            if job.savepoint == Some(savepoint.id)
                && topics.progress(JobId(job.id)).await?.checkpoint.is_none()
            {
                return Err(SqlError::invalid(
                    format!(
                        "job {} began with savepoint {} and has not saved its own state yet",
                        job.name, savepoint.name
                    ),
                    "wait until it has run for some seconds, or drop the job",
                ));
            }
        }
        Ok(())
    }

    /// Deletes objects that no savepoint has.
    async fn sweep_savepoints(&self) {
        let known = self.parts.topics.savepoints();
        let swept = async {
            let folder = Path::from(FOLDER);
            let mut found = self.parts.state.list(Some(&folder));
            let mut left = Vec::new();
            while let Some(object) = found.next().await {
                let location = object?.location;
                if !known
                    .iter()
                    .any(|savepoint| savepoint.key == location.as_ref())
                {
                    left.push(location);
                }
            }
            for location in left {
                self.parts.state.delete(&location).await?;
            }
            Ok::<_, object_store::Error>(())
        };
        if let Err(error) = swept.await {
            tracing::warn!(%error, "the state of a dropped savepoint was not deleted");
        }
    }
}

/// Refuses when rows are gone that come after a savepoint.
pub(crate) fn check_inputs(
    savepoint: &Savepoint,
    plan: &ContinuousPlan,
    topics: &dyn Topics,
) -> Result<(), SqlError> {
    for input in &plan.inputs {
        let topic = TopicId(input.source.id.0);
        for extent in topics.extents(topic)? {
            let mut read = savepoint.cut.offsets.iter();
            let read = read.find(|(id, queue, _)| *id == topic.0 && *queue == extent.queue.0);
            // Of a queue that it had not read from, nothing is missing that was there then.
            let from = read.map_or(0, |(.., offset)| *offset);
            if from < extent.first.0 {
                return Err(SqlError::invalid(
                    format!(
                        "savepoint {} goes on from offset {from} in queue {} of topic {}, and rows before offset {} are gone",
                        savepoint.name, extent.queue.0, input.source.name, extent.first.0
                    ),
                    "leave savepoint out: the job is computed from what is kept; and keep an input longer than its savepoints are to be of use",
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
