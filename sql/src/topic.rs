//! What SQL asks from the broker above it: topics to read, a place to write, cuts to remember.
//!
//! The engine implements [`Topics`]; tests implement it over a vector. All of it is durable when it
//! returns, and everything that may be asked twice after a crash says how it is made idempotent.

use std::fmt;
use std::ops::Range;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use millpond_connectors::format::body::{Compatibility, Encoding, SchemaVersion};
use millpond_proto::message::{Epoch, JobId, Offset, QueueId, TopicId};
use millpond_proto::remedy::Remedy;
use millpond_proto::time::Timestamp;
use millpond_storage::tier::cold::typed::Reads;
use serde::{Deserialize, Serialize};

use crate::savepoint::Savepoint;

/// Length of a store-time tick: watermarks move only between ticks.
pub const TICK_MS: i64 = 100;

/// One declared column of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// Name as the user wrote it.
    pub name: String,
    /// SQL type as the user wrote it, for example `BIGINT`.
    pub sql_type: String,
    /// Expression of a computed column; `None` for a column read from the body.
    pub expression: Option<String>,
}

/// How far event time may lag behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkSpec {
    /// The event-time column.
    pub column: String,
    /// Watermark = greatest event time seen, less this.
    pub delay_ms: i64,
    /// Further columns of times: those of closed windows, which tell the same window.
    #[serde(default)]
    pub behind: Vec<TimeBehind>,
}

/// A column whose time lies at most so long before the event time of its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeBehind {
    /// The column.
    pub column: String,
    /// How long at most.
    pub by_ms: i64,
}

/// What SQL knows of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Name.
    pub name: String,
    /// Identity; changes when the topic is deleted and made anew.
    pub id: TopicId,
    /// Number of queues.
    pub queues: u32,
    /// Declared columns, in order; empty for a topic without a schema.
    pub columns: Vec<ColumnSpec>,
    /// Event time, if declared.
    pub watermark: Option<WatermarkSpec>,
    /// For the output of an updating query: the columns that make up the key; the last row per key
    /// counts, a row without body deletes. Empty: every row counts.
    pub primary_key: Vec<String>,
    /// The job that writes it, if any.
    pub written_by: Option<String>,
    /// How its bodies are written.
    pub encoding: Encoding,
    /// What its messages say of rows.
    pub changelog: Changelog,
}

/// What the messages of a topic say of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changelog {
    /// Each is a row; where a primary key is declared, the last row of a key counts.
    #[default]
    Rows,
    /// Each is what a key's row is from now on; one without body deletes it.
    Upsert,
    /// Each is a change as Debezium writes it: `before`, `after` and `op`.
    Debezium,
}

impl Changelog {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Rows, Self::Upsert, Self::Debezium];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Upsert => "upsert",
            Self::Debezium => "debezium",
        }
    }

    /// The kind of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A change of how a topic's bodies are written from now on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSchema {
    /// The next version; refused when another one took its number meanwhile.
    pub schema: Option<SchemaVersion>,
    /// Columns that it brings.
    pub add_columns: Vec<ColumnSpec>,
    /// What later versions must be able to do.
    pub compatibility: Option<Compatibility>,
}

/// How long and how much of a topic is kept; what is not said is as it is, or as is usual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Messages stored longer ago may be deleted; 0: kept for ever.
    pub retention_ms: Option<i64>,
    /// The oldest messages above so many bytes may be deleted; 0: no bound.
    pub retention_bytes: Option<u64>,
    /// Whether only the last message of each key is kept.
    pub compacts: Option<bool>,
    /// How long tombstones are kept then; 0: as is usual.
    pub tombstones_ms: Option<i64>,
    /// How long the table is kept, where that is not as long as the log; 0: for ever.
    pub table_ms: Option<i64>,
    /// How many bytes of Parquet the table keeps; 0: no bound.
    pub table_bytes: Option<u64>,
    /// Whether the table is kept as the log is.
    pub table_as_log: bool,
}

/// A change of a topic; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// Number of queues, at least as many as there are.
    pub queues: Option<u32>,
    /// Columns behind those that there are, and behind those that a schema brings.
    pub add_columns: Vec<ColumnSpec>,
    /// How bodies are written from now on.
    pub schema: NewSchema,
    /// How long and how much is kept.
    pub keep: Keep,
}

/// A topic to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Name.
    pub name: String,
    /// Number of queues; `None` for the default.
    pub queues: Option<u32>,
    /// Declared columns.
    pub columns: Vec<ColumnSpec>,
    /// Event time.
    pub watermark: Option<WatermarkSpec>,
    /// See [`TopicInfo::primary_key`].
    pub primary_key: Vec<String>,
    /// The job that will write it, if any; no producer may then.
    pub written_by: Option<String>,
    /// How its bodies are written.
    pub encoding: Encoding,
    /// What its messages say of rows.
    pub changelog: Changelog,
    /// How long and how much of it is kept.
    pub keep: Keep,
    /// The family whose files and table it shares, with other small topics.
    pub family: Option<String>,
}

/// Durable offsets of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueExtent {
    /// Queue.
    pub queue: QueueId,
    /// First offset kept.
    pub first: Offset,
    /// One past the last durable offset.
    pub next: Offset,
    /// How often something was taken out of what is stored: what was kept under a lesser number may hold it still.
    pub rewrites: u64,
}

/// A message to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRow {
    /// Chooses the queue; equal keys share one. `None`: queues take turns within the epoch, or by epoch where the topic is a view's that
    /// has a watermark, so that no row is stored behind one of a later time.
    pub key: Option<Bytes>,
    /// The body; `None` deletes the key.
    pub body: Option<Bytes>,
    /// User properties.
    pub properties: Vec<(String, String)>,
}

/// The input of one epoch: what a continuous query commits.
///
/// A recorded cut is the intent; the rows it leads to are the effect, which is the same at every replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochCut {
    /// Counted from 1.
    pub epoch: u64,
    /// Every row stored before this tick, and none at or after it, belongs to this epoch or an
    /// earlier one; of a query without state, when the epoch was. Milliseconds, a multiple of [`TICK_MS`].
    pub tick_ms: i64,
    /// Input read so far, per input topic id and queue: one past the last offset.
    pub offsets: Vec<(u64, u32, u64)>,
}

/// A continuous query as the broker remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Identity.
    pub id: u64,
    /// Name: that of its view or job.
    pub name: String,
    /// The whole statement.
    pub sql: String,
    /// Ids of the output topic and, if there is one, of the side topic for late rows.
    pub outputs: Vec<u64>,
    /// Whether it rests until it is resumed.
    #[serde(default)]
    pub paused: bool,
    /// How it is run.
    #[serde(default)]
    pub settings: JobSettings,
    /// The savepoint that it goes on from until it has saved state of its own.
    #[serde(default)]
    pub savepoint: Option<u64>,
    /// What its statement means where it says nothing, see [`JOB_DEFAULTS`].
    #[serde(default)]
    pub defaults: u32,
}

/// How the columns that tell a row of a view become the key of its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFormat {
    /// A JSON array of them.
    Json,
    /// A single VARCHAR as it is, as `INSERT` and other producers write it; anything else, a text that is empty or begins with `[`,
    /// and NULL as [`KeyFormat::Json`], so that no two rows have one key.
    #[default]
    Raw,
}

/// The defaults of statements that are made now. What runs keeps those that it was made with: 0 wrote the key of a view as
/// JSON, since 1 it is `raw`; since 2 columns without a name are called as they are written, and not `max(bids.price)`; since 3
/// a number beside a DECIMAL is exact, and not a DOUBLE, and a time that is cast to a number is milliseconds.
pub const JOB_DEFAULTS: u32 = 3;

/// How a continuous query is run; `None` where nothing was said. Nothing that it computes depends on these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSettings {
    /// In how many lanes, whatever its statement says.
    pub parallelism: Option<usize>,
    /// How much memory its state may take.
    pub state_bytes_max: Option<u64>,
    /// How often an hour it is started over after trouble that passes.
    pub restarts_max: Option<u32>,
}

/// A view that takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewSwap {
    /// The name that both had or will have.
    pub name: String,
    /// The view that is no more.
    pub old: JobId,
    /// The view that takes its name.
    pub new: JobId,
    /// The statement that it has from then on.
    pub sql: String,
    /// Topics that are deleted.
    pub dropped: Vec<TopicId>,
    /// Topics that get another name; the view writes them.
    pub renamed: Vec<(TopicId, String)>,
}

/// What a job goes on from after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobProgress {
    /// Epoch of the last saved state (0: none) and the key of its object in the state store.
    pub checkpoint: Option<(u64, String)>,
    /// Every cut recorded after that checkpoint, in order.
    pub cuts: Vec<EpochCut>,
}

/// What the broker answers when it can not do what SQL asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TopicsError {
    /// What, which, and what to do next.
    pub message: String,
    /// Kind of way out.
    pub remedy: Remedy,
}

impl TopicsError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        self.remedy
    }
}

/// Which rows of a system table are asked for; where nothing is said, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactsAsked {
    /// Those whose column `group` is this.
    pub group: Option<String>,
    /// Those whose column `topic` is this.
    pub topic: Option<String>,
}

/// Rows of a system table.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The rows.
    pub rows: RecordBatch,
    /// Whether there are more, which are left out for the bound of the table.
    pub is_cut: bool,
}

impl From<RecordBatch> for Facts {
    fn from(rows: RecordBatch) -> Self {
        Self {
            rows,
            is_cut: false,
        }
    }
}

/// Why not all rows of an `INSERT` were stored, and what became of them.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{error}")]
pub struct InsertError {
    /// Rows that are stored.
    pub stored: u64,
    /// Rows of which nobody knows: the log failed under them.
    pub unknown: u64,
    /// Why.
    #[source]
    pub error: TopicsError,
}

impl From<TopicsError> for InsertError {
    fn from(error: TopicsError) -> Self {
        Self {
            stored: 0,
            unknown: 0,
            error,
        }
    }
}

/// Batches in offset order.
pub type Scan = BoxStream<'static, Result<RecordBatch, TopicsError>>;

/// The broker, as SQL sees it.
#[async_trait]
pub trait Topics: Send + Sync + fmt::Debug {
    /// A topic by name.
    fn topic(&self, name: &str) -> Option<TopicInfo>;

    /// All topics, by name.
    fn topics(&self) -> Vec<TopicInfo>;

    /// A topic as it would have to be made to be what it is now.
    ///
    /// # Errors
    /// For a topic that there is not, and one that SQL does not make.
    fn topic_as_made(&self, name: &str) -> Result<NewTopic, TopicsError>;

    /// Durable offsets of every queue of a topic that holds or held messages, by queue.
    ///
    /// # Errors
    /// When the broker can not tell now.
    fn extents(&self, topic: TopicId) -> Result<Vec<QueueExtent>, TopicsError>;

    /// Reads durable messages of a queue, cold, WAL and tail as one: a batch has the columns of the envelope, or where a
    /// file has them the typed ones.
    fn scan(&self, topic: TopicId, queue: QueueId, range: Range<Offset>, reads: &Reads) -> Scan;

    /// Closes all ticks before `tick`: when it returns, every row of these topics that is or ever will be
    /// stored with a store time before `tick` is durable and visible to [`Topics::scan`].
    async fn close_ticks(&self, topics: &[TopicId], tick: Timestamp) -> Result<(), TopicsError>;

    /// Now, on the broker's clock.
    fn now(&self) -> Timestamp;

    /// Ends when rows of these topics became durable since it was asked for; take hold of it before looking for rows.
    ///
    /// It may end without any. A broker that does not know never ends it, so nobody waits for it alone.
    fn arrivals(&self, _job: JobId, _topics: &[TopicId]) -> BoxFuture<'static, ()> {
        futures::future::pending().boxed()
    }

    /// Makes a topic.
    async fn create_topic(&self, topic: NewTopic) -> Result<TopicInfo, TopicsError>;

    /// Changes a topic, as a whole or not at all.
    async fn alter_topic(&self, name: &str, change: TopicChange) -> Result<TopicInfo, TopicsError> {
        let _ = change;
        Err(TopicsError {
            message: format!("topic {name} can not be changed here; make another one"),
            remedy: Remedy::FixRequest,
        })
    }

    /// Deletes a topic and its messages.
    async fn drop_topic(&self, name: &str) -> Result<(), TopicsError>;

    /// Remembers a job; `outputs` exist already. The id is assigned here.
    async fn create_job(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
    ) -> Result<JobSpec, TopicsError>;

    /// As [`Topics::create_job`], for a job that goes on from a savepoint.
    async fn create_job_from(
        &self,
        name: &str,
        sql: &str,
        outputs: &[TopicId],
        savepoint: u64,
    ) -> Result<JobSpec, TopicsError> {
        let _ = (sql, outputs, savepoint);
        Err(no_savepoints(name))
    }

    /// All savepoints, by id.
    fn savepoints(&self) -> Vec<Savepoint> {
        Vec::new()
    }

    /// Remembers a savepoint whose object is written. The id is assigned here.
    async fn create_savepoint(&self, savepoint: Savepoint) -> Result<(), TopicsError> {
        Err(no_savepoints(&savepoint.name))
    }

    /// Forgets a savepoint; doing it again changes nothing.
    async fn drop_savepoint(&self, id: u64) -> Result<(), TopicsError> {
        Err(no_savepoints(&format!("{id}")))
    }

    /// Remembers that a job rests, or goes on; doing it again changes nothing.
    async fn pause_job(&self, job: JobId, paused: bool) -> Result<(), TopicsError>;

    /// Remembers how a job is run; doing it again changes nothing.
    async fn set_job(&self, job: JobId, settings: JobSettings) -> Result<(), TopicsError> {
        let _ = settings;
        Err(TopicsError {
            message: format!("{job} can not be altered here; drop it and create it again"),
            remedy: Remedy::FixRequest,
        })
    }

    /// Gives a remembered statement another text, at once for everybody: the one or the other is there, never none.
    async fn replace_job(&self, job: JobId, sql: &str) -> Result<(), TopicsError> {
        let _ = sql;
        Err(TopicsError {
            message: format!("{job} can not be replaced here; drop it and create it again"),
            remedy: Remedy::FixRequest,
        })
    }

    /// Puts a view in the place of another at once: readers of the name see the one or the other, and never none.
    async fn swap_view(&self, swap: ViewSwap) -> Result<JobSpec, TopicsError> {
        Err(TopicsError {
            message: format!(
                "view {} can not be altered here; drop it and create it again",
                swap.name
            ),
            remedy: Remedy::FixRequest,
        })
    }

    /// Forgets a job and its progress; doing it again changes nothing.
    async fn drop_job(&self, job: JobId) -> Result<(), TopicsError>;

    /// All remembered jobs.
    fn jobs(&self) -> Vec<JobSpec>;

    /// What a job goes on from.
    async fn progress(&self, job: JobId) -> Result<JobProgress, TopicsError>;

    /// Records a cut (the intent). Epochs are recorded in order; one already recorded is an error.
    async fn commit(&self, job: JobId, cut: EpochCut) -> Result<(), TopicsError>;

    /// Appends the output of a committed epoch to a topic (the effect), in order.
    ///
    /// Idempotent by (job, topic, epoch): an epoch that was appended before adds nothing, queue by queue.
    /// Epochs must be appended in order, and the same epoch always with the same rows.
    async fn append(
        &self,
        job: JobId,
        topic: TopicId,
        epoch: Epoch,
        rows: Vec<OutputRow>,
    ) -> Result<(), TopicsError>;

    /// Records that the state up to `epoch` is saved under `key`; earlier cuts are then forgotten.
    async fn checkpointed(&self, job: JobId, epoch: Epoch, key: &str) -> Result<(), TopicsError>;

    /// Appends rows of an `INSERT` by a user, as any producer would; answers how many.
    async fn insert(&self, topic: TopicId, rows: Vec<OutputRow>) -> Result<u64, InsertError>;

    /// Facts for the system tables; `table` is one of [`FACTS`]. The batch's columns are the table's. Rows that are not asked for may
    /// be there all the same.
    async fn ask_facts(&self, table: &str, asked: &FactsAsked) -> Result<Facts, TopicsError>;

    /// The schema of a system table.
    fn facts_schema(&self, table: &str) -> arrow::datatypes::SchemaRef;
}

fn no_savepoints(name: &str) -> TopicsError {
    TopicsError {
        message: format!("{name}: this broker keeps no savepoints; start the job without one"),
        remedy: Remedy::FixRequest,
    }
}

/// System tables that the broker fills, found as `millpond.<name>`. (`millpond.jobs` is filled by the
/// job runtime itself.)
pub const FACTS: [&str; 8] = [
    "topics",
    "queues",
    "groups",
    GROUP_PROGRESS,
    DELAYED,
    TRANSACTIONS,
    IN_FLIGHT,
    DEAD_LETTERS,
];

/// A system table whose facts the shards are asked for, as those of the following ones.
pub const GROUP_PROGRESS: &str = "group_progress";
/// Messages that wait for their time.
pub const DELAYED: &str = "delayed";
/// Transactions that nobody has ended, and those that the server rolled back for that.
pub const TRANSACTIONS: &str = "transactions";
/// Messages that consumers hold.
pub const IN_FLIGHT: &str = "in_flight";
/// Dead letters of every group.
pub const DEAD_LETTERS: &str = "dead_letters";
