//! A broker in memory that each continuous query loses at a step of the test's choice, as it loses a process that dies.
//!
//! What the broker took before that step stays: a test drops the jobs and starts others over the same
//! [`MemoryTopics`]. Steps are counted by query, so each of many queries dies in the same place of its own life, and
//! a test can ask which of them did. It does not tear writes; the simulation above the crates does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::BoxFuture;
use millpond_proto::message::{Epoch, JobId, Offset, QueueId, TopicId};
use millpond_proto::remedy::Remedy;
use millpond_proto::time::Timestamp;
use millpond_storage::tier::cold::typed::Reads;

use crate::savepoint::Savepoint;
use crate::testing::MemoryTopics;
use crate::topic::{
    EpochCut, Facts, FactsAsked, InsertError, JobProgress, JobSettings, JobSpec, NewTopic,
    OutputRow, QueueExtent, Scan, TopicInfo, Topics, TopicsError,
};

/// Where a broker stands still, as the process does that dies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The epoch was computed, and nothing of it is recorded.
    BeforeCommit,
    /// The cut is recorded, its rows are not out.
    AfterCommit,
    /// The rows are out.
    AfterAppend,
    /// State was written and is not known yet.
    BeforeCheckpointed,
    /// State was written and is known.
    AfterCheckpointed,
}

impl Step {
    /// Whether it is a step of saving state, which a query takes with its first epoch and then every ten seconds.
    #[must_use]
    pub fn is_of_saving(self) -> bool {
        matches!(self, Self::BeforeCheckpointed | Self::AfterCheckpointed)
    }
}

/// All of them.
pub const STEPS: [Step; 5] = [
    Step::BeforeCommit,
    Step::AfterCommit,
    Step::AfterAppend,
    Step::BeforeCheckpointed,
    Step::AfterCheckpointed,
];

/// A step and how often a query reaches it before it dies there.
pub type Fuse = (Step, u32);

/// A broker of which a query never hears again after it reached a step so many times.
#[derive(Debug)]
pub struct Dying {
    inner: Arc<MemoryTopics>,
    fuse: Option<Fuse>,
    /// How often each query reached the step of the fuse.
    reached: Mutex<BTreeMap<JobId, u32>>,
    /// How many commits it refuses before it takes one.
    troubles: Mutex<u32>,
}

impl Dying {
    /// Stands still for a query that reached the step of `fuse` so many times; refuses the first `troubles` commits.
    #[must_use]
    pub fn new(inner: Arc<MemoryTopics>, fuse: Option<Fuse>, troubles: u32) -> Self {
        Self {
            inner,
            fuse,
            reached: Mutex::default(),
            troubles: Mutex::new(troubles),
        }
    }

    /// The queries that it stands still for, by name.
    #[must_use]
    pub fn died(&self) -> Vec<String> {
        let reached = self.reached.lock();
        let reached = reached.unwrap_or_else(PoisonError::into_inner);
        let times = self.fuse.map_or(u32::MAX, |(_, times)| times);
        let jobs = self.inner.jobs().into_iter();
        jobs.filter(|job| {
            reached
                .get(&JobId(job.id))
                .is_some_and(|count| *count >= times)
        })
        .map(|job| job.name)
        .collect()
    }

    fn trouble(&self) -> Result<(), TopicsError> {
        let mut troubles = self.troubles.lock().expect("no holder panics");
        if *troubles == 0 {
            return Ok(());
        }
        *troubles -= 1;
        Err(TopicsError {
            message: "the disk is busy; try again".to_owned(),
            remedy: Remedy::Retry,
        })
    }

    async fn reach(&self, job: JobId, step: Step) {
        let Some((_, times)) = self.fuse.filter(|(at, _)| *at == step) else {
            return;
        };
        let count = {
            let mut reached = self.reached.lock().expect("no holder panics");
            let count = reached.entry(job).or_default();
            *count += 1;
            *count
        };
        if count >= times {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Topics for Dying {
    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.inner.topic(name)
    }
    fn topics(&self) -> Vec<TopicInfo> {
        self.inner.topics()
    }
    fn topic_as_made(&self, name: &str) -> Result<NewTopic, TopicsError> {
        self.inner.topic_as_made(name)
    }
    fn extents(&self, topic: TopicId) -> Result<Vec<QueueExtent>, TopicsError> {
        self.inner.extents(topic)
    }
    fn scan(&self, topic: TopicId, queue: QueueId, range: Range<Offset>, reads: &Reads) -> Scan {
        self.inner.scan(topic, queue, range, reads)
    }
    async fn close_ticks(&self, topics: &[TopicId], tick: Timestamp) -> Result<(), TopicsError> {
        self.inner.close_ticks(topics, tick).await
    }
    fn now(&self) -> Timestamp {
        self.inner.now()
    }
    fn arrivals(&self, job: JobId, topics: &[TopicId]) -> BoxFuture<'static, ()> {
        self.inner.arrivals(job, topics)
    }
    async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo, TopicsError> {
        self.inner.create_topic(topic).await
    }
    async fn drop_topic(&self, name: &str) -> Result<(), TopicsError> {
        self.inner.drop_topic(name).await
    }
    async fn create_job(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
    ) -> Result<JobSpec, TopicsError> {
        self.inner.create_job(name, sql, outputs).await
    }
    async fn create_job_from(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
        savepoint: u64,
    ) -> Result<JobSpec, TopicsError> {
        let inner = &self.inner;
        inner.create_job_from(name, sql, outputs, savepoint).await
    }
    fn savepoints(&self) -> Vec<Savepoint> {
        self.inner.savepoints()
    }
    async fn create_savepoint(&self, savepoint: Savepoint) -> Result<(), TopicsError> {
        self.inner.create_savepoint(savepoint).await
    }
    async fn drop_savepoint(&self, id: u64) -> Result<(), TopicsError> {
        self.inner.drop_savepoint(id).await
    }
    async fn pause_job(&self, job: JobId, paused: bool) -> Result<(), TopicsError> {
        self.inner.pause_job(job, paused).await
    }
    async fn set_job(&self, job: JobId, settings: JobSettings) -> Result<(), TopicsError> {
        self.inner.set_job(job, settings).await
    }
    async fn drop_job(&self, job: JobId) -> Result<(), TopicsError> {
        self.trouble()?;
        self.inner.drop_job(job).await
    }
    fn jobs(&self) -> Vec<JobSpec> {
        self.inner.jobs()
    }
    async fn progress(&self, job: JobId) -> Result<JobProgress, TopicsError> {
        self.inner.progress(job).await
    }
    async fn commit(&self, job: JobId, cut: EpochCut) -> Result<(), TopicsError> {
        self.reach(job, Step::BeforeCommit).await;
        self.trouble()?;
        self.inner.commit(job, cut).await?;
        self.reach(job, Step::AfterCommit).await;
        Ok(())
    }
    async fn append(
        &self,
        job: JobId,
        topic: TopicId,
        epoch: Epoch,
        rows: Vec<OutputRow>,
    ) -> Result<(), TopicsError> {
        self.inner.append(job, topic, epoch, rows).await?;
        self.reach(job, Step::AfterAppend).await;
        Ok(())
    }
    async fn checkpointed(&self, job: JobId, epoch: Epoch, key: &str) -> Result<(), TopicsError> {
        self.reach(job, Step::BeforeCheckpointed).await;
        self.inner.checkpointed(job, epoch, key).await?;
        self.reach(job, Step::AfterCheckpointed).await;
        Ok(())
    }
    async fn insert(&self, topic: TopicId, rows: Vec<OutputRow>) -> Result<u64, InsertError> {
        self.inner.insert(topic, rows).await
    }
    async fn ask_facts(&self, table: &str, asked: &FactsAsked) -> Result<Facts, TopicsError> {
        self.inner.ask_facts(table, asked).await
    }
    fn facts_schema(&self, table: &str) -> SchemaRef {
        self.inner.facts_schema(table)
    }
}
