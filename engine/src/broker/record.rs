//! What a shard writes to the log besides messages, and what its snapshot holds.
//!
//! A [`Change`] is one state record: the outcome of a decision, in Protobuf. Applying it is the only way
//! that a shard's state moves, live and in recovery alike, so a change holds everything that its
//! application needs and never asks a clock or a dice. Field numbers are fixed for ever.

use bytes::Bytes;
use millpond_proto::limits;
use prost::Message as _;

use crate::broker::lite::{LiteGroup, LiteLetGo, LiteMade, LiteSnapshot, LitesGone};
use crate::broker::producer::ProducerSnapshot;
use crate::broker::shelf::{BucketSnapshot, Checked, Left};
use crate::broker::transaction::OpenTransaction;

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
}

/// A batch was delivered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Popped {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The lease that the whole batch shares.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// When the messages become visible again.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// Offsets delivered before, now again.
    #[prost(uint64, repeated, tag = "6")]
    pub again: Vec<u64>,
    /// First offset delivered for the first time.
    #[prost(uint64, tag = "7")]
    pub fresh_from: u64,
    /// How many offsets from there on.
    #[prost(uint32, tag = "8")]
    pub fresh: u32,
    /// Who holds them; none in logs of early versions.
    #[prost(message, optional, tag = "9")]
    pub holder: Option<Holder>,
}

/// Who holds a lease, and how.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Holder {
    /// The consumer's client id.
    #[prost(string, tag = "1")]
    pub consumer: String,
    /// Hash of the poll's attempt id; 0: none.
    #[prost(fixed64, tag = "2")]
    pub poll: u64,
    /// Whether the server renews the lease while the consumer lives.
    #[prost(bool, tag = "3")]
    pub renewed: bool,
    /// When the batch was delivered.
    #[prost(sint64, tag = "4")]
    pub since_ms: i64,
}

/// What is kept of a message besides its place.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Fact {
    /// Offset.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Hash of its message group; 0: none.
    #[prost(fixed64, tag = "2")]
    pub message_group: u64,
    /// Greater goes first.
    #[prost(sint32, tag = "3")]
    pub priority: i32,
}

/// A batch was delivered after a look at the messages. What lies between the cursor and `next` and is
/// not named here was not accepted, and is done with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scanned {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The lease that the whole batch shares.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// When the messages become visible again.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// Where the cursor then stands.
    #[prost(uint64, tag = "6")]
    pub next: u64,
    /// Delivered; known to the cursor before.
    #[prost(uint64, repeated, tag = "7")]
    pub again: Vec<u64>,
    /// Delivered for the first time.
    #[prost(message, repeated, tag = "8")]
    pub fresh: Vec<Fact>,
    /// Passed over until their turn comes.
    #[prost(message, repeated, tag = "9")]
    pub parked: Vec<Fact>,
    /// Who holds what was delivered.
    #[prost(message, optional, tag = "10")]
    pub holder: Option<Holder>,
}

/// A lease ends later than it would have.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Renewed {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Lease; stays what it is.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// When its messages become visible again.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// When it was renewed; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// Deliveries ended early: nobody got them, or whoever did is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Returned {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Lease that ends.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// Offsets under it.
    #[prost(uint64, repeated, tag = "5")]
    pub offsets: Vec<u64>,
    /// When they become visible.
    #[prost(sint64, tag = "6")]
    pub at_ms: i64,
    /// Whether no consumer can have seen them, so that the attempt does not count.
    #[prost(bool, tag = "7")]
    pub unseen: bool,
}

/// A message leaves its group here and arrives somewhere else: the intent. The effect is keyed by the
/// sequence.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transfer {
    /// Numbers the transfers of a shard, from 1.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Where to.
    #[prost(enumeration = "TransferKind", tag = "2")]
    pub kind: i32,
    /// Group.
    #[prost(fixed64, tag = "3")]
    pub group: u64,
    /// Topic that it leaves.
    #[prost(fixed64, tag = "4")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "5")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// Deliveries so far.
    #[prost(uint32, tag = "7")]
    pub attempts: u32,
    /// Whether a consumer asked for it; otherwise the attempts were used up.
    #[prost(bool, tag = "8")]
    pub requested: bool,
}

/// Where a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TransferKind {
    /// To the group's dead letters.
    Bury = 0,
    /// From the dead letters back to where the message came from.
    Redrive = 1,
}

/// Transfers began, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransfersBegun {
    /// All of one queue.
    #[prost(message, repeated, tag = "1")]
    pub transfers: Vec<Transfer>,
    /// When; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// The effects of transfers are durable, or can not be had.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransfersEnded {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub sequences: Vec<u64>,
    /// Whether the messages are back where they were, because there is nowhere to go.
    #[prost(bool, tag = "2")]
    pub back: bool,
    /// When they are visible there.
    #[prost(sint64, tag = "3")]
    pub at_ms: i64,
}

/// A message that was done with is delivered again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reopened {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The message.
    #[prost(message, required, tag = "4")]
    pub fact: Fact,
    /// When it is visible.
    #[prost(sint64, tag = "5")]
    pub at_ms: i64,
}

/// A group met a queue and starts behind what it holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Started {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// First offset that the group will see.
    #[prost(uint64, tag = "4")]
    pub next: u64,
    /// When; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// Deliveries were acknowledged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Acked {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Offsets.
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
    /// When; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// The end of a delivery's invisible time was moved.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Moved {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// The lease that takes the old one's place.
    #[prost(fixed64, tag = "5")]
    pub lease: u64,
    /// When the message becomes visible again.
    #[prost(sint64, tag = "6")]
    pub until_ms: i64,
    /// When it was moved; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
    /// Whether the delivery is not to count.
    #[prost(bool, tag = "80")]
    pub suspended: bool,
}

/// One part of an epoch's output was appended; stands in the same append as its messages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EffectDone {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Output topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Epoch.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Part of the epoch, from 0.
    #[prost(uint32, tag = "4")]
    pub part: u32,
}

/// A continuous query committed an epoch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CutRecord {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Every row stored before this tick belongs to this epoch or an earlier one.
    #[prost(sint64, tag = "3")]
    pub tick_ms: i64,
    /// One past the last offset read, per queue.
    #[prost(message, repeated, tag = "4")]
    pub offsets: Vec<QueueOffset>,
}

/// A place in an input queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueueOffset {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// A continuous query saved its state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Saved {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Epoch up to which the state goes.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Object that holds it.
    #[prost(string, tag = "3")]
    pub key: String,
}

/// The offset that a group's reader noted for a queue.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GroupOffset {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The next offset that it wants.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
}

/// One state record.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Change {
    /// A topic was made or altered (catalog shard).
    #[prost(message, tag = "1")]
    TopicSet(TopicRecord),
    /// A topic was deleted; every shard must still forget it (catalog shard).
    #[prost(fixed64, tag = "2")]
    TopicDropped(u64),
    /// Every shard has forgotten a deleted topic (catalog shard).
    #[prost(fixed64, tag = "3")]
    TopicGone(u64),
    /// A group was made or altered (catalog shard).
    #[prost(message, tag = "4")]
    GroupSet(GroupRecord),
    /// A group was deleted; every shard must still forget it (catalog shard).
    #[prost(fixed64, tag = "5")]
    GroupDropped(u64),
    /// Every shard has forgotten a deleted group (catalog shard).
    #[prost(fixed64, tag = "6")]
    GroupGone(u64),
    /// A job was made (catalog shard).
    #[prost(message, tag = "7")]
    JobSet(JobRecord),
    /// A job was deleted (catalog shard).
    #[prost(fixed64, tag = "8")]
    JobDropped(u64),
    /// See [`ViewSwapped`] (catalog shard).
    #[prost(message, tag = "70")]
    ViewSwapped(ViewSwapped),
    /// See [`Popped`].
    #[prost(message, tag = "16")]
    Popped(Popped),
    /// See [`Started`].
    #[prost(message, tag = "17")]
    Started(Started),
    /// See [`Acked`].
    #[prost(message, tag = "18")]
    Acked(Acked),
    /// See [`Moved`].
    #[prost(message, tag = "19")]
    Moved(Moved),
    /// See [`EffectDone`].
    #[prost(message, tag = "20")]
    EffectDone(EffectDone),
    /// This shard forgets a topic.
    #[prost(fixed64, tag = "21")]
    TopicForgotten(u64),
    /// This shard forgets a group.
    #[prost(fixed64, tag = "22")]
    GroupForgotten(u64),
    /// See [`CutRecord`] (the job's home shard).
    #[prost(message, tag = "24")]
    Cut(CutRecord),
    /// See [`Saved`] (the job's home shard).
    #[prost(message, tag = "25")]
    Saved(Saved),
    /// This shard forgets a job.
    #[prost(fixed64, tag = "26")]
    JobForgotten(u64),
    /// See [`GroupOffset`].
    #[prost(message, tag = "80")]
    OffsetNoted(GroupOffset),
    /// See [`Trimmed`].
    #[prost(message, tag = "60")]
    Trimmed(Trimmed),
    /// See [`Scanned`].
    #[prost(message, tag = "30")]
    Scanned(Scanned),
    /// See [`Renewed`].
    #[prost(message, tag = "31")]
    Renewed(Renewed),
    /// See [`Returned`].
    #[prost(message, tag = "32")]
    Returned(Returned),
    /// See [`TransfersBegun`].
    #[prost(message, tag = "33")]
    TransfersBegun(TransfersBegun),
    /// See [`TransfersEnded`].
    #[prost(message, tag = "34")]
    TransfersEnded(TransfersEnded),
    /// See [`Reopened`].
    #[prost(message, tag = "35")]
    Reopened(Reopened),
    /// A cursor as it stands from now on, whatever it was.
    #[prost(message, tag = "36")]
    CursorSet(CursorSnapshot),
    /// See [`Left`].
    #[prost(message, tag = "100")]
    ShelfLeft(Left),
    /// See [`Checked`].
    #[prost(message, tag = "101")]
    ShelfChecked(Checked),
    /// A bucket of the shelf is done with.
    #[prost(uint32, tag = "102")]
    BucketClosed(u32),
    /// See [`Erasure`]; changes nothing.
    #[prost(message, tag = "85")]
    Erased(Erasure),
    /// See [`LiteMade`].
    #[prost(message, tag = "81")]
    LiteMade(LiteMade),
    /// See [`LitesGone`].
    #[prost(message, tag = "82")]
    LitesGone(LitesGone),
    /// See [`LiteLetGo`].
    #[prost(message, tag = "83")]
    LiteLetGo(LiteLetGo),
}

/// The frame of a [`Change`] in the log.
#[derive(Clone, PartialEq, prost::Message)]
struct StateRecord {
    #[prost(
        oneof = "Change",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 30, 31, 32, 33, 34, 35, 36, 60, 70, 80, 81, 82, 83, 85, 100, 101, 102"
    )]
    change: Option<Change>,
}

impl Change {
    /// The record's bytes in the log.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode(&mut bytes);
        bytes.into()
    }

    /// Reads a record; `None` when it is not one that this version knows.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        StateRecord::decode(bytes).ok()?.change
    }
}

/// One message that a group has seen and not acknowledged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PendingSnapshot {
    /// Offset.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Lease of the last delivery.
    #[prost(fixed64, tag = "2")]
    pub lease: u64,
    /// When it becomes, or became, visible.
    #[prost(sint64, tag = "3")]
    pub visible_at_ms: i64,
    /// Deliveries so far.
    #[prost(uint32, tag = "4")]
    pub attempts: u32,
    /// Hash of its message group; 0: none.
    #[prost(fixed64, tag = "5")]
    pub message_group: u64,
    /// Greater goes first.
    #[prost(sint32, tag = "6")]
    pub priority: i32,
}

/// Who holds a lease.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HolderSnapshot {
    /// Lease.
    #[prost(fixed64, tag = "1")]
    pub lease: u64,
    /// Who.
    #[prost(message, optional, tag = "2")]
    pub holder: Option<Holder>,
}

/// Messages that a group has seen and not acknowledged: of one lease, delivered equally often.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeldSnapshot {
    /// Lease of the last delivery.
    #[prost(fixed64, tag = "1")]
    pub lease: u64,
    /// Whether it is a lease; otherwise nobody holds them.
    #[prost(bool, tag = "2")]
    pub is_held: bool,
    /// When they become, or became, visible.
    #[prost(sint64, tag = "3")]
    pub until_ms: i64,
    /// Deliveries so far.
    #[prost(uint32, tag = "4")]
    pub attempts: u32,
    /// Who holds the lease.
    #[prost(message, optional, tag = "5")]
    pub holder: Option<Holder>,
    /// Runs of offsets: the distance to the end of the run before, then how many.
    #[prost(uint64, repeated, tag = "6")]
    pub runs: Vec<u64>,
}

/// Where one group stands in one queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CursorSnapshot {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// First offset never delivered.
    #[prost(uint64, tag = "4")]
    pub next: u64,
    /// Delivered, not acknowledged; in snapshots of early versions.
    #[prost(message, repeated, tag = "5")]
    pub pending: Vec<PendingSnapshot>,
    /// Accepted and passed over.
    #[prost(message, repeated, tag = "6")]
    pub parked: Vec<Fact>,
    /// Who holds the leases of `pending`.
    #[prost(message, repeated, tag = "7")]
    pub holders: Vec<HolderSnapshot>,
    /// Delivered, not acknowledged.
    #[prost(message, repeated, tag = "20")]
    pub held: Vec<HeldSnapshot>,
    /// Of those that have a message group or a priority.
    #[prost(message, repeated, tag = "21")]
    pub facts: Vec<Fact>,
}

/// A job's log in its home shard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobSnapshot {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Last saved state.
    #[prost(message, optional, tag = "2")]
    pub saved: Option<Saved>,
    /// Cuts after it.
    #[prost(message, repeated, tag = "3")]
    pub cuts: Vec<CutRecord>,
    /// The cut that the state was saved at, from which on inputs are read again; none: it is not known.
    #[prost(message, optional, tag = "45")]
    pub since: Option<CutRecord>,
}

/// The whole state of a shard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardSnapshotRecord {
    /// Next offset per queue.
    #[prost(message, repeated, tag = "1")]
    pub queues: Vec<QueueOffset>,
    /// Cursors.
    #[prost(message, repeated, tag = "2")]
    pub cursors: Vec<CursorSnapshot>,
    /// Last part of the last epoch appended, per job and topic.
    #[prost(message, repeated, tag = "3")]
    pub effects: Vec<EffectDone>,
    /// Jobs at home here.
    #[prost(message, repeated, tag = "4")]
    pub jobs: Vec<JobSnapshot>,
    /// Greatest store time given out.
    #[prost(sint64, tag = "5")]
    pub stored_at_ms: i64,
    /// The catalog (catalog shard only).
    #[prost(message, optional, tag = "6")]
    pub catalog: Option<CatalogSnapshot>,
    /// Offsets that readers noted.
    #[prost(message, repeated, tag = "19")]
    pub noted: Vec<GroupOffset>,
    /// First offset kept, of queues that do not begin at 0.
    #[prost(message, repeated, tag = "25")]
    pub firsts: Vec<QueueOffset>,
    /// Transfers whose effect is not known to be durable.
    #[prost(message, repeated, tag = "7")]
    pub transfers: Vec<Transfer>,
    /// Number of the last transfer.
    #[prost(uint64, tag = "8")]
    pub last_transfer: u64,
    /// Buckets of messages that are, or were, not visible yet.
    #[prost(message, repeated, tag = "30")]
    pub buckets: Vec<BucketSnapshot>,
    /// Transactions that nobody has decided on.
    #[prost(message, repeated, tag = "31")]
    pub transactions: Vec<OpenTransaction>,
    /// Transactions that were rolled back because nobody did, the oldest first.
    #[prost(message, repeated, tag = "32")]
    pub transactions_given_up: Vec<OpenTransaction>,
    /// What idempotent producers sent last.
    #[prost(message, repeated, tag = "40")]
    pub producers: Vec<ProducerSnapshot>,
    /// Lite topics.
    #[prost(message, repeated, tag = "55")]
    pub lites: Vec<LiteSnapshot>,
    /// Where groups stand in lite queues of which they hold nothing.
    #[prost(message, repeated, tag = "56")]
    pub resting: Vec<GroupOffset>,
}

/// The catalog.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CatalogSnapshot {
    /// Greatest id given out.
    #[prost(uint64, tag = "1")]
    pub last_id: u64,
    /// Topics.
    #[prost(message, repeated, tag = "2")]
    pub topics: Vec<TopicRecord>,
    /// Groups.
    #[prost(message, repeated, tag = "3")]
    pub groups: Vec<GroupRecord>,
    /// Jobs.
    #[prost(message, repeated, tag = "4")]
    pub jobs: Vec<JobRecord>,
    /// Deleted topics that some shard may still hold.
    #[prost(fixed64, repeated, tag = "5")]
    pub dropped_topics: Vec<u64>,
    /// Deleted groups that some shard may still hold.
    #[prost(fixed64, repeated, tag = "6")]
    pub dropped_groups: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_every_number_comes_back_from_its_bytes() {
        // A number that the frame does not list would be lost, silently, until recovery.
        let changes = [
            Change::ViewSwapped(ViewSwapped::default()),
            Change::Erased(Erasure::default()),
            Change::OffsetNoted(GroupOffset::default()),
            Change::BucketClosed(7),
            Change::LiteMade(LiteMade::default()),
            Change::LitesGone(LitesGone::default()),
            Change::LiteLetGo(LiteLetGo::default()),
        ];
        for change in changes {
            assert_eq!(Change::from_bytes(&change.to_bytes()), Some(change));
        }
    }
}
