//! Changes of the catalog: topics, groups and continuous queries, and what is done to whole topics.

use bytes::Bytes;
use millpond_proto::limits;

use crate::broker::lite::LiteGroup;
use crate::broker::record::QueueOffset;

/// A topic as the catalog keeps it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicRecord {
    /// Identity.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Number of queues; only ever grows.
    #[prost(uint32, tag = "3")]
    pub queues: u32,
    /// Declared columns.
    #[prost(message, repeated, tag = "4")]
    pub columns: Vec<ColumnRecord>,
    /// Event-time column.
    #[prost(string, optional, tag = "5")]
    pub watermark_column: Option<String>,
    /// How far event time may lag.
    #[prost(int64, tag = "6")]
    pub watermark_delay_ms: i64,
    /// Key columns of an updating view.
    #[prost(string, repeated, tag = "7")]
    pub primary_key: Vec<String>,
    /// The continuous query that writes it.
    #[prost(string, optional, tag = "8")]
    pub written_by: Option<String>,
    /// Which messages it takes.
    #[prost(enumeration = "TopicKind", tag = "9")]
    pub kind: i32,
    /// Messages stored longer ago may be deleted; none: kept for ever.
    #[prost(int64, optional, tag = "10")]
    pub retention_ms: Option<i64>,
    /// The oldest messages above so many bytes may be deleted; none: no bound.
    #[prost(uint64, optional, tag = "11")]
    pub retention_bytes: Option<u64>,
    /// How bodies are written, as `broker/encoding.rs` numbers it; 0: JSON.
    #[prost(uint32, tag = "25")]
    pub format: u32,
    /// Protobuf: the message that bodies are.
    #[prost(string, tag = "26")]
    pub message: String,
    /// Versions of the bodies' schema, oldest first.
    #[prost(message, repeated, tag = "27")]
    pub schemas: Vec<SchemaRecord>,
    /// What a new version must be able to do; 0: read what the one before it wrote.
    #[prost(uint32, tag = "28")]
    pub compatibility: u32,
    /// What messages say of rows; 0: each is one.
    #[prost(uint32, tag = "29")]
    pub changelog: u32,
    /// Whether only the last message of each key is kept.
    #[prost(bool, tag = "45")]
    pub compacts: bool,
    /// How long tombstones are kept then; none: the default.
    #[prost(int64, optional, tag = "46")]
    pub tombstones_ms: Option<i64>,
    /// How long the table is kept, 0: for ever. When this and the bytes are none the table is kept as the log is.
    #[prost(int64, optional, tag = "47")]
    pub table_ms: Option<i64>,
    /// How many bytes of Parquet the table keeps; 0: no bound.
    #[prost(uint64, optional, tag = "48")]
    pub table_bytes: Option<u64>,
    /// Of type lite: a lite topic ends so long after its last message; none: the default.
    #[prost(int64, optional, tag = "40")]
    pub lite_expiry_ms: Option<i64>,
    /// The family whose files it shares; empty: none.
    #[prost(string, tag = "50")]
    pub family: String,
    /// By which id the family has them; 0: none.
    #[prost(fixed64, tag = "51")]
    pub family_id: u64,
    /// Further columns of times, that follow the event time.
    #[prost(message, repeated, tag = "161")]
    pub times_behind: Vec<TimeBehindRecord>,
}

/// A column whose time lies at most so long before the event time of its row.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TimeBehindRecord {
    /// Its name.
    #[prost(string, tag = "1")]
    pub column: String,
    /// How long at most.
    #[prost(int64, tag = "2")]
    pub by_ms: i64,
}

impl TopicRecord {
    /// How long after its last message a lite topic ends.
    #[must_use]
    pub fn lite_expiry_ms_or_default(&self) -> i64 {
        self.lite_expiry_ms
            .unwrap_or(limits::LITE_EXPIRY_MS_DEFAULT)
    }
}

/// What was sent to a topic under some key was erased: noted in every shard, so that the log goes on in other files.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Erasure {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Messages that were erased in Parquet.
    #[prost(uint64, tag = "2")]
    pub messages: u64,
}

/// A version of the schema of a topic's bodies.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SchemaRecord {
    /// Counted from 1; messages carry it as their schema id.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The schema as its format writes it.
    #[prost(bytes = "bytes", tag = "2")]
    pub text: Bytes,
}

/// A view took the place of another: one change, so that its name never stands for nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ViewSwapped {
    /// The name that both had or have.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The job that is no more.
    #[prost(fixed64, tag = "2")]
    pub old: u64,
    /// The job that has the name.
    #[prost(fixed64, tag = "3")]
    pub new: u64,
    /// Its statement.
    #[prost(string, tag = "4")]
    pub sql: String,
    /// Topics that are deleted; every shard must still forget them.
    #[prost(fixed64, repeated, tag = "5")]
    pub dropped: Vec<u64>,
    /// Topics with their new names; the job writes them.
    #[prost(message, repeated, tag = "6")]
    pub renamed: Vec<TopicRenamed>,
}

/// A topic's new name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopicRenamed {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// The first messages of queues are no longer kept.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Trimmed {
    /// First offset kept, per queue.
    #[prost(message, repeated, tag = "1")]
    pub firsts: Vec<QueueOffset>,
}

/// Which messages a topic takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TopicKind {
    /// Messages without special properties.
    Normal = 0,
    /// Messages with a message group, delivered in order within it.
    Fifo = 1,
    /// Messages with a delivery time.
    Delay = 2,
    /// Messages that become visible when their transaction commits.
    Transaction = 3,
    /// Messages with a priority.
    Priority = 4,
    /// Messages of lite topics.
    Lite = 5,
}

/// A declared column.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ColumnRecord {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// SQL type as written.
    #[prost(string, tag = "2")]
    pub sql_type: String,
    /// Expression of a computed column.
    #[prost(string, optional, tag = "3")]
    pub expression: Option<String>,
}

/// A consumer group as the catalog keeps it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GroupRecord {
    /// Identity; a group deleted and made anew gets another one.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Whether it starts behind the last message instead of at the first.
    #[prost(bool, tag = "3")]
    pub from_latest: bool,
    /// Deliveries before a message is dead; 0: as the server's default.
    #[prost(uint32, tag = "4")]
    pub attempts_max: u32,
    /// Invisible time after each failed delivery; none: as the server's default.
    #[prost(message, optional, tag = "5")]
    pub backoff: Option<Backoff>,
    /// Whether messages of one message group wait for the one before.
    #[prost(bool, tag = "6")]
    pub fifo: bool,
    /// Whether nothing is delivered for the time being.
    #[prost(bool, tag = "7")]
    pub paused: bool,
    /// It starts at the first message stored at or after this time (ms), in queues that it meets.
    #[prost(sint64, optional, tag = "8")]
    pub start_at_ms: Option<i64>,
    /// Of lite topics: of which parent.
    #[prost(message, optional, tag = "40")]
    pub lite: Option<LiteGroup>,
}

impl GroupRecord {
    /// Deliveries before a message is dead.
    #[must_use]
    pub fn attempts_max_or_default(&self) -> u32 {
        match self.attempts_max {
            0 => limits::DELIVERY_ATTEMPTS_MAX.unsigned_abs(),
            attempts => attempts,
        }
    }
}

/// How long a message stays invisible after a failed delivery.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Backoff {
    /// One entry per delivery, the last one for all that follow; empty: exponential.
    #[prost(int64, repeated, tag = "1")]
    pub list_ms: Vec<i64>,
    /// Exponential: after the first delivery.
    #[prost(int64, tag = "2")]
    pub initial_ms: i64,
    /// Exponential: never more.
    #[prost(int64, tag = "3")]
    pub max_ms: i64,
    /// Exponential: each is so many times the one before.
    #[prost(double, tag = "4")]
    pub multiplier: f64,
}

/// A continuous query as the catalog keeps it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobRecord {
    /// Identity.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The whole statement.
    #[prost(string, tag = "3")]
    pub sql: String,
    /// Output topics.
    #[prost(fixed64, repeated, tag = "4")]
    pub outputs: Vec<u64>,
    /// Whether it rests until it is resumed.
    #[prost(bool, tag = "5")]
    pub paused: bool,
    /// In how many lanes it is computed, whatever its statement says.
    #[prost(uint32, optional, tag = "30")]
    pub parallelism: Option<u32>,
    /// How much memory its state may take.
    #[prost(uint64, optional, tag = "31")]
    pub state_bytes_max: Option<u64>,
    /// How often an hour it is started over after trouble that passes.
    #[prost(uint32, optional, tag = "32")]
    pub restarts_max: Option<u32>,
    /// The savepoint that it goes on from until it has saved state of its own.
    #[prost(fixed64, optional, tag = "50")]
    pub savepoint: Option<u64>,
    /// What its statement means where it says nothing, as `JOB_DEFAULTS` of SQL counts it.
    #[prost(uint32, tag = "51")]
    pub defaults: u32,
}
