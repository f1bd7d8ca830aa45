//! All continuous queries of a broker: made, resumed, listed and ended here.
//!
//! What exists is what the broker remembers: a query is there once `create_job` returned. So output
//! topics are made first; when a crash comes in between, the topic names its writer and no such query
//! is remembered, and the next try makes it anew. Ending goes the other way round.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use async_trait::async_trait;
use millpond_proto::limits::JOBS_MAX;
use millpond_proto::message::{JobId, TopicId};
use millpond_proto::task::{Lane, Spawn, Task};
use millpond_proto::time::Clock;
use object_store::ObjectStore;
use tokio::sync::{mpsc, watch};

use crate::batch::view::is_view;
use crate::catalog::is_system_column;
use crate::continuous::{Continuous, JobState, JobStatus};
use crate::error::SqlError;
use crate::job::alter::is_building;
use crate::job::pace::Pace;
use crate::job::runner::{Runner, Shared, late_topic, late_topic_of, state_bytes_max};
use crate::job::savepoint::{Ask, asking};
use crate::plan::continuous::{ContinuousPlan, plan_with};
use crate::plan::target::plan_into;
use crate::statement::{
    ContinuousJob, ContinuousView, JobChange, SavepointChange, Statement, parse,
};
use crate::topic::{JobSpec, NewTopic, TopicInfo, Topics};

/// What the runtime is made of.
#[derive(Clone, Debug)]
pub struct JobParts {
    /// The broker.
    pub topics: Arc<dyn Topics>,
    /// Time, for pauses and checkpoints.
    pub clock: Arc<dyn Clock>,
    /// Where loops run.
    pub spawn: Arc<dyn Spawn>,
    /// Where state is saved.
    pub state: Arc<dyn ObjectStore>,
}

/// The runtime. Dropping it stops every query at its next wait, as a crash would.
#[derive(Debug)]
pub struct Jobs {
    pub(super) parts: JobParts,
    /// Itself, for the work that outlives a statement.
    pub(super) me: Weak<Self>,
    /// Views that are built beside others, by name.
    building: Mutex<BTreeMap<String, Task>>,
    /// Held while a query is made or ended, so that these happen one after the other.
    pub(super) changing: tokio::sync::Mutex<()>,
    running: Mutex<BTreeMap<String, Running>>,
    /// See [`Runner::rests_above`].
    rests_above: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) spec: JobSpec,
    pub(super) shared: Arc<Mutex<Shared>>,
    stop: watch::Sender<bool>,
    /// Where it is asked for its state.
    pub(super) asks: mpsc::Sender<Ask>,
    /// `None` while it rests.
    task: Option<Task>,
}

impl Running {
    fn tell_to_stop(&self) {
        // A query that ended by itself no longer listens.
        let _ = self.stop.send(true);
    }

    /// Stops the loop between two epochs and waits until it is still.
    pub(super) async fn stop(&mut self) {
        self.tell_to_stop();
        if let Some(task) = self.task.take() {
            // A panic was already told in the job's status.
            let _ = task.await;
        }
    }
}

/// The status of a query of which nothing is known but what is remembered.
pub(super) fn no_status(spec: &JobSpec) -> JobStatus {
    // A statement that does not parse any more fails in its loop, which says so in its status.
    let target = match parse(&spec.sql) {
        Ok(Statement::CreateJob(job)) => Some(job.target),
        _ => None,
    };
    JobStatus {
        name: spec.name.clone(),
        state: if spec.paused {
            JobState::Paused
        } else {
            JobState::Running
        },
        sql: spec.sql.clone(),
        epoch: 0,
        watermark: None,
        rows_in: 0,
        rows_out: 0,
        rows_late: 0,
        rows_undecodable: 0,
        rows_without_time: 0,
        state_bytes: 0,
        error: None,
        lag: 0,
        output_topic: target.unwrap_or_else(|| spec.name.clone()),
        operators: Vec::new(),
        pace: Pace::default(),
        parallelism: 0,
        state_bytes_max: state_bytes_max(spec) as u64,
        restarts: 0,
    }
}

impl Jobs {
    /// Resumes every query that the broker remembers.
    #[must_use]
    pub fn start(parts: JobParts) -> Arc<Self> {
        Self::start_resting(parts, None)
    }

    /// As [`Jobs::start`]; the state of each query goes to rest above so much memory, not above most of its limit.
    pub(crate) fn start_resting(parts: JobParts, rests_above: Option<usize>) -> Arc<Self> {
        let jobs = Arc::new_cyclic(|me| Self {
            rests_above,
            parts,
            me: Weak::clone(me),
            building: Mutex::default(),
            changing: tokio::sync::Mutex::new(()),
            running: Mutex::new(BTreeMap::new()),
        });
        for spec in jobs.parts.topics.jobs() {
            if !is_view(&spec) {
                let name = spec.name.clone();
                let is_building = is_building(&spec);
                jobs.run(spec);
                if is_building {
                    jobs.watch(&name);
                }
            }
        }
        jobs
    }

    /// Stops every query between two epochs and waits until they are still; they stay remembered.
    pub async fn stop(&self) {
        // Dropping them stops them.
        drop(std::mem::take(&mut *self.building()));
        // Told at once, so that a change that waits for one of them comes to an end; told again for what it made.
        self.running().values().for_each(Running::tell_to_stop);
        let _changing = self.changing.lock().await;
        let running = std::mem::take(&mut *self.running());
        running.values().for_each(Running::tell_to_stop);
        for (_, mut job) in running {
            job.stop().await;
        }
    }

    pub(super) fn building(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.building.lock().expect("no holder panics")
    }

    pub(super) fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().expect("no holder panics")
    }

    pub(super) fn run(&self, spec: JobSpec) {
        let shared = Arc::new(Mutex::new(Shared::new(no_status(&spec))));
        let (stop, stopping) = watch::channel(false);
        let (asks, asked) = asking();
        let runner = self.runner(spec.clone(), Arc::clone(&shared), stopping, asked);
        let spawn = &self.parts.spawn;
        let task = (!spec.paused).then(|| spawn.spawn(Lane::Background, Box::pin(runner.run())));
        let job = Running {
            spec,
            shared,
            stop,
            asks,
            task,
        };
        self.running().insert(job.spec.name.clone(), job);
    }

    /// What would run a query.
    pub(super) fn runner(
        &self,
        spec: JobSpec,
        shared: Arc<Mutex<Shared>>,
        stopping: watch::Receiver<bool>,
        asks: mpsc::Receiver<Ask>,
    ) -> Runner {
        Runner {
            topics: Arc::clone(&self.parts.topics),
            clock: Arc::clone(&self.parts.clock),
            spawn: Arc::clone(&self.parts.spawn),
            state: Arc::clone(&self.parts.state),
            spec,
            shared,
            stopping,
            asks: tokio::sync::Mutex::new(asks),
            rests_above: self.rests_above,
            stretches: AtomicUsize::new(0),
        }
    }

    pub(super) fn found(&self, name: &str) -> Result<(JobSpec, JobState), SqlError> {
        let found = self.running().get(name).map(|job| {
            let shared = job.shared.lock().expect("no holder panics");
            (job.spec.clone(), shared.status.state)
        });
        found.ok_or_else(|| self.unknown(name))
    }

    pub(super) fn unknown(&self, name: &str) -> SqlError {
        let known: Vec<String> = self.running().keys().cloned().collect();
        SqlError::unknown("continuous query", name, None, known)
    }

    pub(super) fn check_new(&self, name: &str) -> Result<(), SqlError> {
        let jobs = self.parts.topics.jobs();
        if jobs.iter().any(|job| job.name == name) {
            return Err(SqlError::invalid(
                format!("a continuous query {name} exists already"),
                "drop it first, or choose another name",
            ));
        }
        if jobs.len() >= JOBS_MAX {
            return Err(SqlError::Limit {
                limit: "JOBS_MAX",
                value: format!("{JOBS_MAX} continuous queries"),
                advice: "drop one first",
            });
        }
        Ok(())
    }

    /// Refuses when the name is taken; what a crash left of an earlier try is not in the way.
    fn check_free(&self, topic: &str, writer: &str) -> Result<(), SqlError> {
        match self.parts.topics.topic(topic) {
            Some(found) if found.written_by.as_deref() != Some(writer) => Err(SqlError::invalid(
                format!("a topic {topic} exists already"),
                "choose another name, or drop that topic",
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn make(&self, topic: NewTopic) -> Result<TopicInfo, SqlError> {
        if self.parts.topics.topic(&topic.name).is_some() {
            self.parts.topics.drop_topic(&topic.name).await?;
        }
        Ok(self.parts.topics.create_topic(topic).await?)
    }

    /// The topics of a view.
    pub(super) async fn make_outputs(
        &self,
        name: &str,
        plan: &ContinuousPlan,
    ) -> Result<Vec<TopicId>, SqlError> {
        if let Some(column) = plan
            .columns
            .iter()
            .find(|column| is_system_column(&column.name))
        {
            return Err(SqlError::invalid(
                format!(
                    "a column of the view would be called {}, as a system column is",
                    column.name
                ),
                format!("call it otherwise, {} AS name", column.name),
            ));
        }
        self.check_free(name, name)?;
        if plan.sets_late_aside() {
            self.check_free(&late_topic_of(name), name)?;
        }
        let output = self
            .make(NewTopic {
                name: name.to_owned(),
                columns: plan.columns.clone(),
                primary_key: plan.primary_key.clone(),
                watermark: plan.watermark.clone(),
                written_by: Some(name.to_owned()),
                ..NewTopic::default()
            })
            .await?;
        let mut outputs: Vec<TopicId> = vec![output.id];
        if plan.emits_on_close() && !plan.drops_late {
            outputs.push(self.make(late_topic(name, plan)).await?.id);
        }
        Ok(outputs)
    }

    pub(super) fn lag(&self, shared: &Shared) -> u64 {
        let sources = shared.sources.iter();
        let behind = sources.flat_map(|source| {
            // Nothing is behind of what nobody can tell now; the next look finds it.
            let extents = self.parts.topics.extents(*source).unwrap_or_default();
            extents.into_iter().map(|extent| {
                let place = (*source, extent.queue.0);
                let committed = shared.committed.get(&place).copied().unwrap_or(0);
                extent.next.0.saturating_sub(committed.max(extent.first.0))
            })
        });
        behind.sum()
    }
}

#[async_trait]
impl Continuous for Jobs {
    async fn create_view(&self, view: &ContinuousView) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        self.check_new(&view.name)?;
        let topics = &self.parts.topics;
        let plan = plan_with(
            &view.query,
            view.emit,
            view.options.clone(),
            topics.as_ref(),
        )
        .await?;
        let outputs = self.make_outputs(&view.name, &plan).await?;
        let spec = topics.create_job(&view.name, &view.sql, &outputs).await?;
        self.run(spec);
        Ok(())
    }

    async fn alter_view(&self, view: &ContinuousView, sql: &str) -> Result<(), SqlError> {
        self.build_beside(view, sql).await
    }

    async fn create_job(&self, job: &ContinuousJob) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        self.check_new(&job.name)?;
        let topics = &self.parts.topics;
        let target = topics.topic(&job.target).ok_or_else(|| {
            let known = topics.topics().into_iter().map(|topic| topic.name);
            SqlError::unknown("topic", &job.target, None, known)
        })?;
        let plan = plan_into(job, &target, topics.as_ref()).await?;
        if let Some(writer) = &target.written_by {
            return Err(SqlError::invalid(
                format!(
                    "topic {} is written by the continuous query {writer}",
                    target.name
                ),
                "insert into a topic of its own",
            ));
        }
        if plan.inputs.iter().any(|input| input.source.id == target.id) {
            return Err(SqlError::invalid(
                format!(
                    "the job would read from topic {} what it writes to it",
                    target.name
                ),
                "insert into another topic",
            ));
        }
        if plan.sets_late_aside() {
            self.check_free(&late_topic_of(&job.name), &job.name)?;
        }
        let beginning = self.beginning(job, &plan)?;
        let (name, sql, outputs) = (&job.name, &job.sql, [target.id]);
        let spec = match beginning {
            Some(savepoint) => {
                topics
                    .create_job_from(name, sql, &outputs, savepoint)
                    .await?
            }
            None => topics.create_job(name, sql, &outputs).await?,
        };
        self.run(spec);
        Ok(())
    }

    async fn end(&self, name: &str) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        self.end_locked(name).await
    }

    async fn alter_job(&self, name: &str, change: JobChange) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        let (mut spec, _) = self.found(name)?;
        let settings = change.applied(spec.settings);
        if settings == spec.settings {
            return Ok(());
        }
        self.parts.topics.set_job(JobId(spec.id), settings).await?;
        spec.settings = settings;
        let removed = self.running().remove(name);
        if let Some(mut job) = removed {
            job.stop().await;
        }
        self.run(spec);
        Ok(())
    }

    async fn pause(&self, name: &str) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        let (spec, _) = self.found(name)?;
        if spec.paused {
            return Ok(());
        }
        self.parts.topics.pause_job(JobId(spec.id), true).await?;
        let removed = self.running().remove(name);
        if let Some(mut job) = removed {
            job.stop().await;
            job.spec.paused = true;
            let paused = JobState::Paused;
            job.shared.lock().expect("no holder panics").status.state = paused;
            self.running().insert(name.to_owned(), job);
        }
        Ok(())
    }

    async fn resume(&self, name: &str) -> Result<(), SqlError> {
        let _changing = self.changing.lock().await;
        let (mut spec, state) = self.found(name)?;
        if state == JobState::Running {
            return Ok(());
        }
        self.parts.topics.pause_job(JobId(spec.id), false).await?;
        spec.paused = false;
        let removed = self.running().remove(name);
        if let Some(mut job) = removed {
            job.stop().await;
        }
        self.run(spec);
        Ok(())
    }

    async fn savepoint(&self, change: &SavepointChange) -> Result<(), SqlError> {
        self.change_savepoint(change).await
    }

    fn list(&self) -> Vec<JobStatus> {
        let running = self.running();
        running
            .values()
            .map(|job| {
                let shared = job.shared.lock().expect("no holder panics");
                JobStatus {
                    lag: self.lag(&shared),
                    ..shared.status.clone()
                }
            })
            .collect()
    }
}
