//! A broker in memory that a continuous query loses at a step of its choice, as it loses a process that dies.
//!
//! What the broker took before that step stays: a test drops the jobs and starts others over the same
//! [`MemoryTopics`]. It does not tear writes; the simulation above the crates does.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
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
    EpochCut, JobProgress, JobSettings, JobSpec, NewTopic, OutputRow, QueueExtent, Scan, TopicInfo,
    Topics, TopicsError,
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

/// All of them.
pub const STEPS: [Step; 5] = [
    Step::BeforeCommit,
    Step::AfterCommit,
    Step::AfterAppend,
    Step::BeforeCheckpointed,
    Step::AfterCheckpointed,
];

/// A broker whose callers never hear from it again after a step was reached so many times.
#[derive(Debug)]
pub struct Dying {
    inner: Arc<MemoryTopics>,
    fuse: Mutex<Option<(Step, u32)>>,
    /// How many commits it refuses before it takes one.
    troubles: Mutex<u32>,
}

impl Dying {
    /// Stands still when the step of `fuse` was reached so many times; refuses the first `troubles` commits.
    #[must_use]
    pub fn new(inner: Arc<MemoryTopics>, fuse: Option<(Step, u32)>, troubles: u32) -> Self {
        Self {
            inner,
            fuse: Mutex::new(fuse),
            troubles: Mutex::new(troubles),
        }
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

    async fn reach(&self, step: Step) {
        let dies = match &mut *self.fuse.lock().expect("no holder panics") {
            Some((at, left)) if *at == step => {
                *left = left.saturating_sub(1);
                *left == 0
            }
            _ => false,
        };
        if dies {
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
    fn extents(&self, topic: TopicId) -> Vec<QueueExtent> {
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
        self.reach(Step::BeforeCommit).await;
        self.trouble()?;
        self.inner.commit(job, cut).await?;
        self.reach(Step::AfterCommit).await;
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
        self.reach(Step::AfterAppend).await;
        Ok(())
    }
    async fn checkpointed(&self, job: JobId, epoch: Epoch, key: &str) -> Result<(), TopicsError> {
        self.reach(Step::BeforeCheckpointed).await;
        self.inner.checkpointed(job, epoch, key).await?;
        self.reach(Step::AfterCheckpointed).await;
        Ok(())
    }
    async fn insert(&self, topic: TopicId, rows: Vec<OutputRow>) -> Result<u64, TopicsError> {
        self.inner.insert(topic, rows).await
    }
    fn facts(&self, table: &str) -> RecordBatch {
        self.inner.facts(table)
    }
    fn facts_schema(&self, table: &str) -> SchemaRef {
        self.inner.facts_schema(table)
    }
}
