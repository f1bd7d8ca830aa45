//! The broker as SQL sees it: SQL reads topics and writes through the same shard owners as any send.
//!
//! A job's log (its recorded cuts and the key of its last saved state) lives in its home shard. Its
//! output is the effect of a recorded cut: each shard remembers the last epoch and part that it
//! appended per job and topic, so that an effect that is asked again adds nothing.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use millpond_proto::limits;
use millpond_proto::message::{Epoch, JobId, Offset, QueueId, TopicId};
use millpond_proto::name::TopicName;
use millpond_proto::remedy::Remedy;
use millpond_proto::time::Timestamp;
use millpond_sql::savepoint::Savepoint;
use millpond_sql::topic::{
    EpochCut, Facts, FactsAsked, GROUP_PROGRESS, InsertError, JOB_DEFAULTS, JobProgress,
    JobSettings, JobSpec, NewTopic, OutputRow, QueueExtent, Scan, TopicChange, TopicInfo, Topics,
    TopicsError, ViewSwap,
};
use millpond_storage::error::AppendError;
use millpond_storage::tier::cold::typed::Reads;

use crate::broker::arrivals;
use crate::broker::compaction::check_keys;
use crate::broker::effect::{check_output, message_of, parts};
use crate::broker::encoding::bodies_of;
use crate::broker::fit::{self, Unfit};
use crate::broker::incarnation::Incarnation;
use crate::broker::record::{
    CutRecord, GroupRecord, JobRecord, QueueOffset, Saved, TopicRenamed, ViewSwapped,
};
use crate::broker::request::{JobPause, ReplaceJob, Reply, Request};
use crate::broker::savepoint::{record_of, savepoint_of};
use crate::broker::topic::accepted;
use crate::broker::{
    Bodies, Broker, BrokerError, GroupProgress, NewRetention, Retention, Topic, TopicType,
};

#[async_trait]
impl Topics for Broker {
    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.catalog()
            .topic(name)
            .map(|record| Topic::of(record).into())
    }

    fn topics(&self) -> Vec<TopicInfo> {
        self.catalog()
            .topics()
            .map(|record| Topic::of(record).into())
            .collect()
    }

    fn topic_as_made(&self, name: &str) -> Result<NewTopic, TopicsError> {
        let catalog = self.catalog();
        let refused = |message: String| TopicsError {
            message,
            remedy: Remedy::FixRequest,
        };
        let record = catalog.topic(name);
        let record = record.ok_or_else(|| refused(format!("there is no topic {name}")))?;
        let topic = Topic::of(record);
        if topic.kind != TopicType::Normal {
            let kind = topic.kind.as_str();
            return Err(refused(format!(
                "topic {name} is of type {kind}, which no statement makes; write: millpond topic create {name} --type {kind}"
            )));
        }
        Ok(NewTopic {
            name: topic.name.to_string(),
            queues: Some(topic.queues),
            columns: topic.columns,
            watermark: topic.watermark,
            primary_key: topic.primary_key,
            written_by: topic.written_by,
            encoding: topic.bodies.encoding,
            changelog: topic.bodies.changelog,
            keep: topic.retention.keep(),
            family: topic.family,
        })
    }

    fn extents(&self, topic: TopicId) -> Result<Vec<QueueExtent>, TopicsError> {
        let incarnation = self.incarnation().map_err(BrokerError::from)?;
        // Asked first: what is taken out from now on is not known to whoever keeps what it reads.
        let rewrites = incarnation.rewrites().of(topic);
        let queues = incarnation.storage().queues_of(topic);
        let extents = queues.into_iter().map(|(queue, extent)| QueueExtent {
            queue,
            first: extent.kept,
            next: extent.next,
            rewrites,
        });
        Ok(extents.collect())
    }

    fn scan(&self, topic: TopicId, queue: QueueId, range: Range<Offset>, reads: &Reads) -> Scan {
        match self.incarnation() {
            Ok(incarnation) => incarnation
                .storage()
                .scan(topic, queue, range, reads)
                .map(|batch| batch.map_err(|error| BrokerError::from(error).into()))
                .boxed(),
            Err(error) => {
                let error = TopicsError::from(BrokerError::from(error));
                futures::stream::once(async move { Err(error) }).boxed()
            }
        }
    }

    async fn close_ticks(&self, topics: &[TopicId], tick: Timestamp) -> Result<(), TopicsError> {
        let incarnation = self.incarnation().map_err(BrokerError::from)?;
        let catalog = incarnation.catalog();
        let mut shards = std::collections::BTreeSet::new();
        for topic in topics {
            // A topic that is gone has no more rows.
            let queues = catalog
                .topic_by_id(topic.0)
                .map_or(0, |record| record.queues);
            shards.extend((0..queues).map(|queue| incarnation.shard(topic.0, queue)));
        }
        let closed = shards.into_iter().map(|shard| {
            let incarnation = &incarnation;
            async move {
                incarnation
                    .ask(shard, Request::CloseTick(tick.as_ms()))
                    .await
            }
        });
        for reply in futures::future::join_all(closed).await {
            accepted(reply.map_err(BrokerError::from)?)?;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        Self::now(self)
    }

    fn arrivals(&self, job: JobId, topics: &[TopicId]) -> BoxFuture<'static, ()> {
        match self.incarnation() {
            Ok(incarnation) => arrivals::of(incarnation.waiting(), job, topics).boxed(),
            Err(_) => futures::future::pending().boxed(),
        }
    }

    async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo, TopicsError> {
        let topic_keep = topic.keep;
        let family = topic.family;
        let bodies = Bodies {
            encoding: topic.encoding,
            changelog: topic.changelog,
        };
        let topic = crate::broker::NewTopic {
            name: TopicName::new(&topic.name).map_err(BrokerError::from)?,
            kind: TopicType::Normal,
            queues: topic.queues,
            columns: topic.columns,
            watermark: topic.watermark,
            primary_key: topic.primary_key,
            written_by: topic.written_by,
        };
        let kept = Retention::of(&topic_keep);
        let made = self.create_topic_in(family.as_deref(), topic, kept, bodies);
        Ok(made.await?.into())
    }

    async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo, TopicsError> {
        let name = TopicName::new(name).map_err(BrokerError::from)?;
        let TopicChange {
            queues,
            add_columns,
            schema,
            keep,
        } = change;
        let change = crate::broker::TopicChange {
            queues,
            add_columns: [schema.add_columns, add_columns].concat(),
            schema: schema.schema,
            compatibility: schema.compatibility,
            retention: NewRetention::of(&keep),
        };
        Ok(Self::alter_topic(self, &name, change).await?.into())
    }

    async fn drop_topic(&self, name: &str) -> Result<(), TopicsError> {
        let name = TopicName::new(name).map_err(BrokerError::from)?;
        Ok(self.drop_topic_of_any_writer(&name).await?)
    }

    async fn create_job(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
    ) -> Result<JobSpec, TopicsError> {
        self.make_job(name, sql, outputs, None).await
    }

    async fn create_job_from(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
        savepoint: u64,
    ) -> Result<JobSpec, TopicsError> {
        self.make_job(name, sql, outputs, Some(savepoint)).await
    }

    fn savepoints(&self) -> Vec<Savepoint> {
        let catalog = self.catalog();
        let records = catalog.savepoints();
        records.map(|record| savepoint_of(record)).collect()
    }

    async fn create_savepoint(&self, savepoint: Savepoint) -> Result<(), TopicsError> {
        let record = record_of(savepoint);
        self.ask_catalog(Request::CreateSavepoint(record)).await?;
        Ok(())
    }

    async fn drop_savepoint(&self, id: u64) -> Result<(), TopicsError> {
        self.ask_catalog(Request::DropSavepoint(id)).await?;
        Ok(())
    }

    async fn pause_job(&self, job: JobId, paused: bool) -> Result<(), TopicsError> {
        let pause = JobPause { id: job.0, paused };
        self.ask_catalog(Request::PauseJob(pause)).await?;
        Ok(())
    }

    async fn set_job(&self, job: JobId, settings: JobSettings) -> Result<(), TopicsError> {
        let set = JobRecord {
            id: job.0,
            parallelism: settings
                .parallelism
                .and_then(|lanes| u32::try_from(lanes).ok()),
            state_bytes_max: settings.state_bytes_max,
            restarts_max: settings.restarts_max,
            ..JobRecord::default()
        };
        self.ask_catalog(Request::SetJob(set)).await?;
        Ok(())
    }

    async fn swap_view(&self, swap: ViewSwap) -> Result<JobSpec, TopicsError> {
        let renamed = swap.renamed.into_iter();
        let swapped = ViewSwapped {
            name: swap.name,
            old: swap.old.0,
            new: swap.new.0,
            sql: swap.sql,
            dropped: swap.dropped.iter().map(|topic| topic.0).collect(),
            renamed: renamed
                .map(|(topic, name)| TopicRenamed { id: topic.0, name })
                .collect(),
        };
        let Reply::NewJob(job) = self.ask_catalog(Request::SwapView(swapped)).await? else {
            return Err(BrokerError::Confused("swap view").into());
        };
        // The swap stands, whatever comes of what is left to forget: that is done again when another run begins.
        let forgotten = match self.incarnation() {
            Ok(incarnation) => incarnation.finish_deletions().await,
            Err(closed) => Err(closed),
        };
        if let Err(error) = forgotten {
            tracing::warn!(view = %job.name, %error, "the topic of a replaced query was not forgotten yet");
        }
        Ok(spec(&job))
    }

    async fn replace_job(&self, job: JobId, sql: &str) -> Result<(), TopicsError> {
        let change = ReplaceJob {
            id: job.0,
            sql: sql.to_owned(),
        };
        self.ask_catalog(Request::ReplaceJob(change)).await?;
        Ok(())
    }

    async fn drop_job(&self, job: JobId) -> Result<(), TopicsError> {
        self.ask_catalog(Request::DropJob(job.0)).await?;
        let incarnation = self.incarnation().map_err(BrokerError::from)?;
        incarnation
            .ask_all(Request::ForgetJob(job.0))
            .await
            .map_err(BrokerError::from)?;
        Ok(())
    }

    fn jobs(&self) -> Vec<JobSpec> {
        self.catalog().jobs().map(|job| spec(job)).collect()
    }

    async fn progress(&self, job: JobId) -> Result<JobProgress, TopicsError> {
        match self.ask_home(job, Request::Job(job.0)).await? {
            Reply::Job(log) => Ok(JobProgress {
                checkpoint: log.saved.map(|saved| (saved.epoch, saved.key)),
                cuts: log.cuts.into_iter().map(cut).collect(),
            }),
            _ => Err(BrokerError::Confused("job progress").into()),
        }
    }

    async fn commit(&self, job: JobId, cut: EpochCut) -> Result<(), TopicsError> {
        let offsets = cut.offsets.into_iter();
        let record = CutRecord {
            job: job.0,
            epoch: cut.epoch,
            tick_ms: cut.tick_ms,
            offsets: offsets
                .map(|(topic, queue, offset)| QueueOffset {
                    topic,
                    queue,
                    offset,
                })
                .collect(),
            outputs: self.outputs_of(job),
        };
        self.ask_home(job, Request::Commit(record)).await?;
        Ok(())
    }

    async fn append(
        &self,
        job: JobId,
        topic: TopicId,
        epoch: Epoch,
        rows: Vec<OutputRow>,
    ) -> Result<(), TopicsError> {
        let catalog = self.incarnation().map_err(BrokerError::from)?.catalog();
        let Some(record) = catalog.topic_by_id(topic.0).map(Arc::clone) else {
            return Err(TopicsError {
                message: format!("the output topic of job {job} was deleted; drop the job"),
                remedy: Remedy::FixRequest,
            });
        };
        Ok(self.append_output(job, &record, epoch, rows).await?)
    }

    async fn checkpointed(&self, job: JobId, epoch: Epoch, key: &str) -> Result<(), TopicsError> {
        let saved = Saved {
            job: job.0,
            epoch: epoch.0,
            key: key.to_owned(),
        };
        self.ask_home(job, Request::Saved(saved)).await?;
        Ok(())
    }

    async fn insert(&self, topic: TopicId, rows: Vec<OutputRow>) -> Result<u64, InsertError> {
        let incarnation = self.incarnation().map_err(refused)?;
        let catalog = incarnation.catalog();
        let Some(record) = catalog.topic_by_id(topic.0) else {
            let error = TopicsError {
                message: "the topic was deleted meanwhile; create it anew".into(),
                remedy: Remedy::FixRequest,
            };
            return Err(error.into());
        };
        check_output(record)?;
        let now_ms = self.now().as_ms();
        let random = self.parts.chance.next_u64();
        let mut messages = Vec::with_capacity(rows.len());
        for (turn, row) in (0_u64..).zip(rows) {
            let id = format!("{random:016X}-{turn}");
            let mut message = message_of(record, record.queues, turn, row, now_ms, &id);
            // A key that is no text for people is one all the same, as bytes that are none at all are.
            message.keys.retain(|key| fit::is_key(key));
            fit::check_row(&message).map_err(|unfit| unfit_row(&unfit))?;
            messages.push(message);
        }
        check_keys(record, &messages).map_err(refused)?;
        let mut stored = 0;
        for part in parts(messages) {
            let sent = self.store(record, part).await;
            let sent = sent.map_err(|error| InsertError {
                stored,
                ..refused(error)
            })?;
            let (mut unknown, mut failed) = (0, None);
            for one in sent {
                match one {
                    Ok(_) => stored += 1,
                    Err(error) => {
                        let is_unknown =
                            matches!(error, BrokerError::Append(AppendError::Failed { .. }));
                        unknown += u64::from(is_unknown);
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(InsertError {
                    stored,
                    unknown,
                    error: error.into(),
                });
            }
        }
        Ok(stored)
    }

    async fn ask_facts(&self, table: &str, asked: &FactsAsked) -> Result<Facts, TopicsError> {
        // Between two runs nobody can tell, whatever there is to be asked.
        let incarnation = self.incarnation().map_err(BrokerError::from)?;
        if let Some(facts) = self.fact_rows(table, asked, limits::FACT_ROWS_MAX).await? {
            return Ok(facts);
        }
        if table != GROUP_PROGRESS {
            return Ok(self.known_facts(&incarnation, table).into());
        }
        let mut rows = Vec::new();
        for group in self.groups_asked(asked) {
            match self.group_progress(&group.name).await {
                Ok(progress) => {
                    rows.extend(progress.into_iter().map(|at| (group.name.clone(), at)))
                }
                // It was deleted while the others were asked.
                Err(BrokerError::GroupNotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let numbers = |value: fn(&GroupProgress) -> u64| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(
                rows.iter().map(|(_, at)| value(at)),
            ))
        };
        let columns = vec![
            strings(rows.iter().map(|(group, _)| Some(group.as_str()))),
            strings(rows.iter().map(|(_, at)| Some(at.topic.as_str()))),
            Arc::new(UInt32Array::from_iter_values(
                rows.iter().map(|(_, at)| at.queue.0),
            )),
            numbers(|at| at.ack_floor.0),
            numbers(|at| at.next.0),
            numbers(|at| at.in_flight),
            numbers(|at| at.lag),
        ];
        let rows = RecordBatch::try_new(self.facts_schema(table), columns)
            .expect("the columns are those of the schema below");
        Ok(rows.into())
    }

    fn facts_schema(&self, table: &str) -> SchemaRef {
        if let Some(schema) = self.fact_columns(table) {
            return schema;
        }
        let text = |name| Field::new(name, DataType::Utf8, true);
        let small = |name| Field::new(name, DataType::UInt32, false);
        let large = |name| Field::new(name, DataType::UInt64, false);
        Arc::new(Schema::new(match table {
            "topics" => vec![
                text("name"),
                large("id"),
                small("queues"),
                large("messages"),
                text("written_by"),
                text("format"),
                text("changelog"),
            ],
            "queues" => {
                vec![
                    text("topic"),
                    small("queue"),
                    large("first"),
                    large("next"),
                    large("tiered"),
                ]
            }
            GROUP_PROGRESS => vec![
                text("group"),
                text("topic"),
                small("queue"),
                large("ack_floor"),
                large("next"),
                large("in_flight"),
                large("lag"),
            ],
            _ => {
                let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
                let start_at = Field::new("start_at", utc, true);
                vec![text("name"), text("start"), start_at]
            }
        }))
    }
}

impl Broker {
    async fn ask_home(&self, job: JobId, request: Request) -> Result<Reply, BrokerError> {
        let incarnation = self.incarnation()?;
        accepted(incarnation.ask(incarnation.home(job), request).await?)
    }
}

impl Broker {
    /// The facts of a table that no shard is asked for.
    fn known_facts(&self, incarnation: &Incarnation, table: &str) -> RecordBatch {
        let (catalog, storage) = (incarnation.catalog(), incarnation.storage());
        let columns: Vec<ArrayRef> = match table {
            "topics" => {
                let topics: Vec<_> = catalog.topics().collect();
                let bodies: Vec<Bodies> = topics.iter().map(|topic| bodies_of(topic)).collect();
                let messages = topics.iter().map(|topic| {
                    let extents = storage.queues_of(TopicId(topic.id)).into_iter();
                    let offsets = extents.map(|(_, e)| e.next.0 - e.kept.0).sum::<u64>();
                    let sizes = storage.sizes_of(TopicId(topic.id));
                    offsets.saturating_sub(sizes.cold.superseded)
                });
                vec![
                    strings(topics.iter().map(|topic| Some(topic.name.as_str()))),
                    Arc::new(UInt64Array::from_iter_values(
                        topics.iter().map(|topic| topic.id),
                    )),
                    Arc::new(UInt32Array::from_iter_values(
                        topics.iter().map(|t| t.queues),
                    )),
                    Arc::new(UInt64Array::from_iter_values(messages)),
                    strings(topics.iter().map(|topic| topic.written_by.as_deref())),
                    strings(bodies.iter().map(|of| Some(of.encoding.format.name()))),
                    strings(bodies.iter().map(|of| Some(of.changelog.name()))),
                ]
            }
            "queues" => {
                let extents: Vec<_> = catalog
                    .topics()
                    .flat_map(|topic| {
                        let queues = (0..topic.queues).map(QueueId);
                        queues.map(move |queue| {
                            let extent = storage.extent(TopicId(topic.id), queue);
                            (topic, queue, extent.unwrap_or_default())
                        })
                    })
                    .collect();
                vec![
                    strings(extents.iter().map(|(topic, ..)| Some(topic.name.as_str()))),
                    Arc::new(UInt32Array::from_iter_values(extents.iter().map(|e| e.1.0))),
                    Arc::new(UInt64Array::from_iter_values(
                        extents.iter().map(|e| e.2.first.0),
                    )),
                    Arc::new(UInt64Array::from_iter_values(
                        extents.iter().map(|e| e.2.next.0),
                    )),
                    Arc::new(UInt64Array::from_iter_values(
                        extents.iter().map(|e| e.2.tiered.0),
                    )),
                ]
            }
            _ => {
                let groups: Vec<_> = catalog.groups().collect();
                let start = |group: &GroupRecord| match (group.from_latest, group.start_at_ms) {
                    (true, _) => Some("latest"),
                    (false, Some(_)) => Some("time"),
                    (false, None) => Some("earliest"),
                };
                let at = groups.iter().map(|group| group.start_at_ms);
                let at = TimestampMillisecondArray::from_iter(at).with_timezone("UTC");
                vec![
                    strings(groups.iter().map(|group| Some(group.name.as_str()))),
                    strings(groups.iter().map(|group| start(group))),
                    Arc::new(at),
                ]
            }
        };
        RecordBatch::try_new(self.facts_schema(table), columns)
            .expect("the columns are those of the schema beside it")
    }

    async fn make_job(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
        savepoint: Option<u64>,
    ) -> Result<JobSpec, TopicsError> {
        let catalog = self.catalog();
        for output in outputs {
            catalog
                .topic_by_id(output.0)
                .map_or(Ok(()), |topic| check_output(topic))?;
        }
        let job = JobRecord {
            id: 0,
            name: name.to_owned(),
            sql: sql.to_owned(),
            outputs: outputs.iter().map(|topic| topic.0).collect(),
            savepoint,
            defaults: JOB_DEFAULTS,
            ..JobRecord::default()
        };
        match self.ask_catalog(Request::CreateJob(job)).await? {
            Reply::NewJob(job) => Ok(spec(&job)),
            _ => Err(BrokerError::Confused("create job").into()),
        }
    }
}

/// Nothing of an `INSERT` was stored.
fn refused(error: impl Into<BrokerError>) -> InsertError {
    TopicsError::from(error.into()).into()
}

fn unfit_row(unfit: &Unfit) -> InsertError {
    let error = TopicsError {
        message: unfit.to_string(),
        remedy: Remedy::FixRequest,
    };
    error.into()
}

fn strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(StringArray::from_iter(values))
}

fn spec(job: &JobRecord) -> JobSpec {
    JobSpec {
        id: job.id,
        name: job.name.clone(),
        sql: job.sql.clone(),
        outputs: job.outputs.clone(),
        paused: job.paused,
        settings: JobSettings {
            parallelism: job
                .parallelism
                .and_then(|lanes| usize::try_from(lanes).ok()),
            state_bytes_max: job.state_bytes_max,
            restarts_max: job.restarts_max,
        },
        savepoint: job.savepoint,
        defaults: job.defaults,
    }
}

pub(super) fn cut(record: CutRecord) -> EpochCut {
    let offsets = record
        .offsets
        .into_iter()
        .map(|at| (at.topic, at.queue, at.offset));
    EpochCut {
        epoch: record.epoch,
        tick_ms: record.tick_ms,
        offsets: offsets.collect(),
    }
}

impl From<Topic> for TopicInfo {
    fn from(topic: Topic) -> Self {
        Self {
            name: topic.name.to_string(),
            id: topic.id,
            queues: topic.queues,
            columns: topic.columns,
            watermark: topic.watermark,
            primary_key: topic.primary_key,
            written_by: topic.written_by,
            encoding: topic.bodies.encoding,
            changelog: topic.bodies.changelog,
        }
    }
}

impl From<BrokerError> for TopicsError {
    fn from(error: BrokerError) -> Self {
        Self {
            message: error.to_string(),
            remedy: error.remedy(),
        }
    }
}
