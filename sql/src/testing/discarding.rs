//! A broker that takes the rows of continuous queries and throws them away, so that a bench measures the query.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::future::BoxFuture;
use millpond_proto::message::{Epoch, JobId, Offset, QueueId, TopicId};
use millpond_proto::time::Timestamp;
use millpond_storage::tier::cold::typed::Reads;

use crate::topic::{
    EpochCut, Facts, FactsAsked, InsertError, JobProgress, JobSettings, JobSpec, NewTopic,
    OutputRow, QueueExtent, Scan, TopicInfo, Topics, TopicsError,
};

/// All but the output goes to another broker.
#[derive(Debug)]
pub struct Discarding {
    /// The other broker.
    pub inner: Arc<dyn Topics>,
}

#[async_trait]
impl Topics for Discarding {
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
    async fn pause_job(&self, job: JobId, paused: bool) -> Result<(), TopicsError> {
        self.inner.pause_job(job, paused).await
    }
    async fn set_job(&self, job: JobId, settings: JobSettings) -> Result<(), TopicsError> {
        self.inner.set_job(job, settings).await
    }
    async fn drop_job(&self, job: JobId) -> Result<(), TopicsError> {
        self.inner.drop_job(job).await
    }
    fn jobs(&self) -> Vec<JobSpec> {
        self.inner.jobs()
    }
    async fn progress(&self, job: JobId) -> Result<JobProgress, TopicsError> {
        self.inner.progress(job).await
    }
    async fn commit(&self, job: JobId, cut: EpochCut) -> Result<(), TopicsError> {
        self.inner.commit(job, cut).await
    }
    async fn append(
        &self,
        _job: JobId,
        _topic: TopicId,
        _epoch: Epoch,
        _rows: Vec<OutputRow>,
    ) -> Result<(), TopicsError> {
        Ok(())
    }
    async fn checkpointed(&self, job: JobId, epoch: Epoch, key: &str) -> Result<(), TopicsError> {
        self.inner.checkpointed(job, epoch, key).await
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
