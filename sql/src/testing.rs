//! A broker in memory, so that SQL can be tested without one.
//!
//! It keeps every promise of [`Topics`]: dense offsets, store times that never run back, ticks that stay
//! closed, output that is appended once per epoch. It outlives the jobs that use it, so a test restarts a
//! job by dropping it and starting another over the same [`MemoryTopics`]. Whoever asks for typed columns gets them for every
//! other batch, so that each test that reads meets both.

pub mod discarding;
pub mod dying;
pub mod hands;
pub mod rows;
pub mod store;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt};
use millpond_proto::limits;
use millpond_proto::message::{Epoch, JobId, Offset, QueueId, TopicId, queue_of};
use millpond_proto::remedy::Remedy;
use millpond_proto::time::{Clock, Timestamp};
use millpond_storage::tier::cold::typed::Reads;
use millpond_storage::tier::columns::Columns as _;
use tokio::sync::watch;

use crate::savepoint::Savepoint;
use crate::testing::rows::{as_in_a_file, envelopes};
use crate::topic::{
    EpochCut, Facts, FactsAsked, InsertError, JOB_DEFAULTS, JobProgress, JobSettings, JobSpec,
    NewTopic, OutputRow, QueueExtent, Scan, TopicChange, TopicInfo, Topics, TopicsError, ViewSwap,
};
use crate::typed::TypedColumns;

/// A message as the broker in memory holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMessage {
    /// When it was stored.
    pub stored_at_ms: i64,
    /// When it was made.
    pub born_at_ms: i64,
    /// Routing key.
    pub key: Option<Bytes>,
    /// Tag.
    pub tag: Option<String>,
    /// Look-up keys.
    pub keys: Vec<String>,
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// Body; `None` for a tombstone.
    pub body: Option<Bytes>,
}

#[derive(Debug, Default)]
struct State {
    ids: u64,
    topics: BTreeMap<String, TopicInfo>,
    /// As they were made.
    made: BTreeMap<String, NewTopic>,
    messages: BTreeMap<(TopicId, QueueId), Vec<StoredMessage>>,
    /// No message is stored before this.
    floor_ms: i64,
    turn: u32,
    jobs: BTreeMap<u64, JobSpec>,
    progress: BTreeMap<u64, JobProgress>,
    appended: BTreeMap<(u64, TopicId), u64>,
    scanned: u64,
    savepoints: BTreeMap<u64, Savepoint>,
    /// First offset kept, of queues whose rows went.
    firsts: BTreeMap<(TopicId, QueueId), u64>,
    /// Erasures so far.
    rewrites: u64,
    /// How many more rows of statements it takes, if that is bounded.
    room: Option<usize>,
}

/// The broker in memory.
#[derive(Debug)]
pub struct MemoryTopics {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Rows per batch of a scan.
    batch_rows: usize,
    /// Counts what was stored.
    arrived: watch::Sender<u64>,
}

/// Rows per batch of a scan: few, so that tests meet several batches.
const BATCH_ROWS: usize = 100;

impl MemoryTopics {
    /// An empty broker.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_batch_rows(clock, BATCH_ROWS)
    }

    /// An empty broker whose scans answer batches of so many rows.
    #[must_use]
    pub fn with_batch_rows(clock: Arc<dyn Clock>, batch_rows: usize) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::default(),
            batch_rows,
            arrived: watch::Sender::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Sends a body as a producer would: by its key, or in turn.
    ///
    /// # Panics
    /// When there is no such topic.
    pub fn send(&self, topic: &str, key: Option<&str>, body: Option<&str>) -> (QueueId, Offset) {
        let info = self.topic(topic).expect("the test made the topic");
        let queue = match key {
            Some(key) => queue_of(key.as_bytes(), info.queues),
            None => {
                let mut state = self.state();
                state.turn += 1;
                QueueId((state.turn - 1) % info.queues)
            }
        };
        let message = StoredMessage {
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            body: body.map(|body| Bytes::copy_from_slice(body.as_bytes())),
            ..StoredMessage::default()
        };
        (queue, self.store(info.id, queue, message))
    }

    /// Stores a message in a queue; its store time becomes now, or later to keep order.
    pub fn store(&self, topic: TopicId, queue: QueueId, mut message: StoredMessage) -> Offset {
        let now = self.clock.now().as_ms();
        let mut state = self.state();
        let floor = state.floor_ms;
        let messages = state.messages.entry((topic, queue)).or_default();
        let last = messages.last().map_or(i64::MIN, |last| last.stored_at_ms);
        message.stored_at_ms = now.max(floor).max(last);
        if message.born_at_ms == 0 {
            message.born_at_ms = message.stored_at_ms;
        }
        messages.push(message);
        self.arrived.send_modify(|count| *count += 1);
        Offset(messages.len() as u64 - 1)
    }

    /// Lets rows before an offset go, as retention does.
    pub fn let_go(&self, topic: TopicId, queue: QueueId, first: Offset) {
        self.state().firsts.insert((topic, queue), first.0);
    }

    /// Takes so many more rows of `INSERT`s, and refuses then, to be asked again later.
    pub fn limit_room(&self, rows: Option<usize>) {
        self.state().room = rows;
    }

    /// Erases what is stored at an offset.
    ///
    /// # Panics
    /// When nothing is.
    pub fn erase(&self, topic: TopicId, queue: QueueId, offset: Offset) {
        let mut state = self.state();
        let messages = state.messages.get_mut(&(topic, queue));
        let at = usize::try_from(offset.0).expect("offsets of a test are small");
        let message = messages.and_then(|messages| messages.get_mut(at));
        let message = message.expect("the test stored it");
        *message = StoredMessage {
            stored_at_ms: message.stored_at_ms,
            born_at_ms: message.born_at_ms,
            ..StoredMessage::default()
        };
        state.rewrites += 1;
    }

    /// How many rows were read of it so far.
    #[must_use]
    pub fn rows_scanned(&self) -> u64 {
        self.state().scanned
    }

    /// Batches of a queue, each made by its number of what gives its envelope columns.
    fn batches(
        &self,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        batch: impl Fn(&dyn Fn(&[&str]) -> RecordBatch, usize) -> RecordBatch,
    ) -> Scan {
        let mut guard = self.state();
        let state = &mut *guard;
        let messages = state
            .messages
            .get(&(topic, queue))
            .map_or(&[][..], Vec::as_slice);
        let end = usize::try_from(range.end.0)
            .unwrap_or(usize::MAX)
            .min(messages.len());
        let start = usize::try_from(range.start.0)
            .unwrap_or(usize::MAX)
            .min(end);
        state.scanned += (end - start) as u64;
        let batches: Vec<_> = (start..end)
            .step_by(self.batch_rows)
            .enumerate()
            .map(|(number, from)| {
                let to = (from + self.batch_rows).min(end);
                let rows =
                    |columns: &[&str]| envelopes(queue, from as u64, &messages[from..to], columns);
                Ok(batch(&rows, number))
            })
            .collect();
        futures::stream::iter(batches).boxed()
    }

    /// Every message of a topic, queue by queue.
    ///
    /// # Panics
    /// When there is no such topic.
    #[must_use]
    pub fn messages(&self, topic: &str) -> Vec<(QueueId, StoredMessage)> {
        let id = self.topic(topic).expect("the test made the topic").id;
        let state = self.state();
        state
            .messages
            .iter()
            .filter(|((topic, _), _)| *topic == id)
            .flat_map(|((_, queue), messages)| messages.iter().map(|m| (*queue, m.clone())))
            .collect()
    }
}

fn refuse(message: String) -> TopicsError {
    TopicsError {
        message,
        remedy: Remedy::FixRequest,
    }
}

#[async_trait]
impl Topics for MemoryTopics {
    fn topic(&self, name: &str) -> Option<TopicInfo> {
        self.state().topics.get(name).cloned()
    }

    fn topics(&self) -> Vec<TopicInfo> {
        self.state().topics.values().cloned().collect()
    }

    fn extents(&self, topic: TopicId) -> Result<Vec<QueueExtent>, TopicsError> {
        let state = self.state();
        let firsts = &state.firsts;
        let extents = state
            .messages
            .iter()
            .filter(|((id, _), _)| *id == topic)
            .map(|((id, queue), messages)| QueueExtent {
                queue: *queue,
                first: Offset(firsts.get(&(*id, *queue)).copied().unwrap_or(0)),
                next: Offset(messages.len() as u64),
                rewrites: state.rewrites,
            });
        Ok(extents.collect())
    }

    fn scan(&self, topic: TopicId, queue: QueueId, range: Range<Offset>, reads: &Reads) -> Scan {
        let columns: Vec<&str> = reads.envelope.iter().map(String::as_str).collect();
        let Some(typed) = &reads.typed else {
            return self.batches(topic, queue, range, |rows, _| rows(&columns));
        };
        let state = self.state();
        let mut topics = state.topics.values();
        let info = topics.find(|info| info.id == topic).cloned();
        drop(state);
        let stored = info.and_then(|info| TypedColumns::of(&info.columns).ok().flatten());
        let stored = stored.filter(|stored| stored.id() == typed.declaration);
        self.batches(topic, queue, range, |rows, batch| match &stored {
            Some(stored) if batch % 2 == 0 => {
                let mut names: Vec<&str> = typed.envelope.iter().map(String::as_str).collect();
                if !names.contains(&"body") {
                    names.push("body");
                }
                as_in_a_file(&rows(&names), stored, typed)
            }
            _ => rows(&columns),
        })
    }

    async fn close_ticks(&self, _topics: &[TopicId], tick: Timestamp) -> Result<(), TopicsError> {
        let mut state = self.state();
        state.floor_ms = state.floor_ms.max(tick.as_ms());
        Ok(())
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn arrivals(&self, _job: JobId, _topics: &[TopicId]) -> BoxFuture<'static, ()> {
        let mut arrived = self.arrived.subscribe();
        async move {
            // The sender goes with the broker; then nobody looks any more.
            let _ = arrived.changed().await;
        }
        .boxed()
    }

    fn topic_as_made(&self, name: &str) -> Result<NewTopic, TopicsError> {
        let state = self.state();
        let made = state.made.get(name).zip(state.topics.get(name));
        let (made, info) = made.ok_or_else(|| refuse(format!("there is no topic {name}")))?;
        Ok(NewTopic {
            queues: Some(info.queues),
            columns: info.columns.clone(),
            encoding: info.encoding.clone(),
            ..made.clone()
        })
    }

    async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo, TopicsError> {
        let mut state = self.state();
        if state.topics.contains_key(&topic.name) {
            return Err(refuse(format!(
                "topic {} exists already; choose another name",
                topic.name
            )));
        }
        state.ids += 1;
        state.made.insert(topic.name.clone(), topic.clone());
        let info = TopicInfo {
            name: topic.name.clone(),
            id: TopicId(state.ids),
            queues: topic.queues.unwrap_or(limits::QUEUES_DEFAULT),
            columns: topic.columns,
            watermark: topic.watermark,
            primary_key: topic.primary_key,
            written_by: topic.written_by,
            encoding: topic.encoding,
            changelog: topic.changelog,
        };
        state.topics.insert(topic.name, info.clone());
        Ok(info)
    }

    async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo, TopicsError> {
        let mut state = self.state();
        let Some(info) = state.topics.get_mut(name) else {
            return Err(refuse(format!("there is no topic {name}")));
        };
        if change.queues.is_some_and(|queues| queues < info.queues) {
            return Err(refuse("queues can only be added".to_owned()));
        }
        let more = change.queues.is_some_and(|queues| queues > info.queues);
        if more && !info.primary_key.is_empty() {
            return Err(refuse("rows of a key must stay in one queue".to_owned()));
        }
        info.queues = change.queues.unwrap_or(info.queues);
        info.encoding.schemas.extend(change.schema.schema);
        info.columns.extend(change.schema.add_columns);
        info.columns.extend(change.add_columns);
        if let Some(rule) = change.schema.compatibility {
            info.encoding.compatibility = rule;
        }
        Ok(info.clone())
    }

    async fn drop_topic(&self, name: &str) -> Result<(), TopicsError> {
        let mut state = self.state();
        let Some(info) = state.topics.remove(name) else {
            return Err(refuse(format!("there is no topic {name}")));
        };
        state.messages.retain(|(id, _), _| *id != info.id);
        Ok(())
    }

    async fn create_job(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
    ) -> Result<JobSpec, TopicsError> {
        let mut state = self.state();
        if state.jobs.values().any(|job| job.name == name) {
            return Err(refuse(format!(
                "job {name} exists already; choose another name"
            )));
        }
        state.ids += 1;
        let job = JobSpec {
            id: state.ids,
            name: name.to_owned(),
            sql: sql.to_owned(),
            outputs: outputs.iter().map(|id| id.0).collect(),
            paused: false,
            settings: JobSettings::default(),
            savepoint: None,
            defaults: JOB_DEFAULTS,
        };
        state.jobs.insert(job.id, job.clone());
        Ok(job)
    }

    async fn create_job_from(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
        savepoint: u64,
    ) -> Result<JobSpec, TopicsError> {
        let mut job = self.create_job(name, sql, outputs).await?;
        job.savepoint = Some(savepoint);
        self.state().jobs.insert(job.id, job.clone());
        Ok(job)
    }

    fn savepoints(&self) -> Vec<Savepoint> {
        self.state().savepoints.values().cloned().collect()
    }

    async fn create_savepoint(&self, mut savepoint: Savepoint) -> Result<(), TopicsError> {
        let mut state = self.state();
        state.ids += 1;
        savepoint.id = state.ids;
        state.savepoints.insert(savepoint.id, savepoint);
        Ok(())
    }

    async fn drop_savepoint(&self, id: u64) -> Result<(), TopicsError> {
        self.state().savepoints.remove(&id);
        Ok(())
    }

    async fn pause_job(&self, job: JobId, paused: bool) -> Result<(), TopicsError> {
        let mut state = self.state();
        match state.jobs.get_mut(&job.0) {
            Some(job) => {
                job.paused = paused;
                Ok(())
            }
            None => Err(refuse(format!("there is no job {job}"))),
        }
    }

    async fn set_job(&self, job: JobId, settings: JobSettings) -> Result<(), TopicsError> {
        let mut state = self.state();
        match state.jobs.get_mut(&job.0) {
            Some(job) => {
                job.settings = settings;
                Ok(())
            }
            None => Err(refuse(format!("there is no job {job}"))),
        }
    }

    async fn swap_view(&self, swap: ViewSwap) -> Result<JobSpec, TopicsError> {
        let mut state = self.state();
        state
            .topics
            .retain(|_, info| !swap.dropped.contains(&info.id));
        state
            .messages
            .retain(|(id, _), _| !swap.dropped.contains(id));
        for (id, name) in swap.renamed {
            let found = state.topics.values().find(|info| info.id == id).cloned();
            let Some(mut info) = found else {
                return Err(refuse(format!("there is no topic with the id {id}")));
            };
            state.topics.remove(&info.name);
            info.name.clone_from(&name);
            info.written_by = Some(swap.name.clone());
            state.topics.insert(name, info);
        }
        state.jobs.remove(&swap.old.0);
        match state.jobs.get_mut(&swap.new.0) {
            Some(job) => {
                job.name = swap.name;
                job.sql = swap.sql;
                Ok(job.clone())
            }
            None => Err(refuse(format!("there is no job {}", swap.new))),
        }
    }

    async fn replace_job(&self, job: JobId, sql: &str) -> Result<(), TopicsError> {
        let mut state = self.state();
        match state.jobs.get_mut(&job.0) {
            Some(job) => {
                sql.clone_into(&mut job.sql);
                Ok(())
            }
            None => Err(refuse(format!("there is no job {job}"))),
        }
    }

    async fn drop_job(&self, job: JobId) -> Result<(), TopicsError> {
        let mut state = self.state();
        state.jobs.remove(&job.0);
        state.progress.remove(&job.0);
        Ok(())
    }

    fn jobs(&self) -> Vec<JobSpec> {
        self.state().jobs.values().cloned().collect()
    }

    async fn progress(&self, job: JobId) -> Result<JobProgress, TopicsError> {
        Ok(self
            .state()
            .progress
            .get(&job.0)
            .cloned()
            .unwrap_or_default())
    }

    async fn commit(&self, job: JobId, cut: EpochCut) -> Result<(), TopicsError> {
        let mut state = self.state();
        let progress = state.progress.entry(job.0).or_default();
        let last = progress.cuts.last().map_or_else(
            || progress.checkpoint.as_ref().map_or(0, |(epoch, _)| *epoch),
            |cut| cut.epoch,
        );
        if cut.epoch != last + 1 {
            return Err(refuse(format!(
                "job {job}: epoch {} can not follow epoch {last}",
                cut.epoch
            )));
        }
        progress.cuts.push(cut);
        Ok(())
    }

    async fn append(
        &self,
        job: JobId,
        topic: TopicId,
        epoch: Epoch,
        rows: Vec<OutputRow>,
    ) -> Result<(), TopicsError> {
        {
            let mut state = self.state();
            let appended = state.appended.entry((job.0, topic)).or_default();
            if epoch.0 <= *appended {
                return Ok(());
            }
            *appended = epoch.0;
        }
        self.append_rows(topic, rows)
    }

    async fn checkpointed(&self, job: JobId, epoch: Epoch, key: &str) -> Result<(), TopicsError> {
        let mut state = self.state();
        let progress = state.progress.entry(job.0).or_default();
        progress.checkpoint = Some((epoch.0, key.to_owned()));
        progress.cuts.retain(|cut| cut.epoch > epoch.0);
        Ok(())
    }

    async fn insert(&self, topic: TopicId, rows: Vec<OutputRow>) -> Result<u64, InsertError> {
        let mut rows = rows;
        let room = self.state().room.unwrap_or(usize::MAX);
        let left_out = rows.split_off(room.min(rows.len())).len();
        let count = rows.len() as u64;
        self.append_rows(topic, rows)?;
        let taken = usize::try_from(count).unwrap_or(usize::MAX);
        let mut state = self.state();
        state.room = state.room.map(|room| room.saturating_sub(taken));
        drop(state);
        if left_out > 0 {
            return Err(InsertError {
                stored: count,
                unknown: 0,
                error: TopicsError {
                    message: "there is no room for more; try again later".to_owned(),
                    remedy: Remedy::Retry,
                },
            });
        }
        Ok(count)
    }

    async fn ask_facts(&self, table: &str, _: &FactsAsked) -> Result<Facts, TopicsError> {
        let topics = self.topics();
        let schema = self.facts_schema(table);
        if table != "topics" {
            return Ok(RecordBatch::new_empty(schema).into());
        }
        let names = StringArray::from_iter_values(topics.iter().map(|topic| &topic.name));
        let queues =
            Int64Array::from_iter_values(topics.iter().map(|topic| i64::from(topic.queues)));
        let rows = RecordBatch::try_new(schema, vec![Arc::new(names), Arc::new(queues)])
            .expect("the columns are built for this schema");
        Ok(rows.into())
    }

    fn facts_schema(&self, table: &str) -> SchemaRef {
        let (name, number) = match table {
            "topics" => ("name", "queues"),
            "queues" => ("topic", "queue"),
            _ => ("name", "inflight"),
        };
        Arc::new(Schema::new(vec![
            Field::new(name, DataType::Utf8, false),
            Field::new(number, DataType::Int64, false),
        ]))
    }
}

impl MemoryTopics {
    /// Makes all jobs ones of a time when statements had these defaults.
    pub fn set_defaults(&self, defaults: u32) {
        for job in self.state().jobs.values_mut() {
            job.defaults = defaults;
        }
    }

    fn append_rows(&self, topic: TopicId, rows: Vec<OutputRow>) -> Result<(), TopicsError> {
        let queues = self
            .topics()
            .iter()
            .find(|info| info.id == topic)
            .map(|info| info.queues)
            .ok_or_else(|| refuse(format!("there is no topic with the id {topic}")))?;
        for (turn, row) in (0_u32..).zip(rows) {
            let queue = match &row.key {
                Some(key) => queue_of(key, queues),
                None => QueueId(turn % queues),
            };
            let message = StoredMessage {
                key: row.key,
                body: row.body,
                properties: row.properties,
                ..StoredMessage::default()
            };
            self.store(topic, queue, message);
        }
        Ok(())
    }
}
