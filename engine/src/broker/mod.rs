//! The broker: topics, groups, pop and ack over the shards of one log.
//!
//! Every call finds the shard that owns what it is about and hands it a request; the shard decides,
//! appends, applies and replies. Nothing here knows the wire.
//!
//! Reading order: this file (the vocabulary and the refusals), [`message`] (send, ack), [`poll`], `visit`, [`hints`], [`scan`],
//! [`undelivered`] (receive), [`filter`] (which messages a consumer wants), [`transfer`] (dead
//! letters), [`pull`] (streams by offset), [`find`] and [`trace`] (messages that people ask about), [`topic`] (topics and groups), [`standing`] (where groups
//! stand), [`incarnation`] and [`supervisor`] (one run, and what happens when it ends), [`shard`] (the
//! owner), [`request`] (what it is asked), [`state`] (decide and apply), [`consume`] and [`group`] (what
//! groups have consumed, and a group's cursor), [`producer`] (what was sent before), [`catalog`], `savepoint`, [`encoding`] (how bodies
//! are written), [`record`] (what goes to the log), [`care`] (retention and the merging of files), [`compaction`] (keeping the last message of each key), `erasure` (what was sent under a key), [`tables`] (topics as
//! outsiders see them), `room` (what is refused when the log is full), [`waiting`] and [`parking`] (polls that wait),
//! [`awaited`] (topics to come), [`arrivals`] (parked continuous queries), [`sql`] and `facts` (the broker as SQL sees it).
//!
//! Small queues by name: [`lite`].
//!
//! Messages that are not visible yet: [`delay`] and [`half`] (sending, recalling, ending a transaction),
//! [`shelf`] (where they lie), [`timer`] and [`transaction`] (what is due, what is open), [`fates`], [`errand`], [`ahead`].

pub mod ahead;
pub(crate) mod arrivals;
pub mod awaited;
pub mod care;
pub mod catalog;
pub mod compaction;
pub mod consume;
pub mod delay;
pub mod encoding;
mod erasure;
pub mod errand;
mod facts;
mod family;
pub mod fates;
pub mod filter;
pub mod find;
pub mod group;
pub mod half;
pub mod hints;
pub mod incarnation;
pub mod lite;
pub mod message;
pub mod parking;
pub mod poll;
pub mod producer;
pub mod pull;
pub mod record;
pub mod request;
mod room;
mod savepoint;
pub mod scan;
pub mod shard;
pub mod shelf;
mod spread;
pub mod sql;
pub mod standing;
pub mod state;
pub mod supervisor;
pub mod tables;
pub mod timer;
pub mod topic;
pub mod trace;
pub mod transaction;
pub mod transfer;
pub mod undelivered;
mod visit;
pub mod waiting;

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};

use millpond_connectors::format::body::Encoding;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::name::{GroupName, NameError, TopicName};
use millpond_proto::remedy::Remedy;
use millpond_proto::task::Task;
use millpond_proto::time::Timestamp;
use millpond_sql::topic::{Changelog, ColumnSpec, WatermarkSpec};
use millpond_storage::error::{AppendError, ReadError};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::Parts;

use crate::broker::incarnation::Incarnation;
use crate::broker::lite::LiteGroup;
use crate::broker::lite::listeners::Listeners;
use crate::broker::parking::Parking;
use crate::broker::record::{Backoff, TopicKind};
use crate::broker::request::Return;

/// What a topic carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicType {
    /// Independent messages.
    #[default]
    Normal,
    /// Messages with a message group, in order within it.
    Fifo,
    /// Messages with a delivery time.
    Delay,
    /// Messages that become visible when their transaction commits.
    Transaction,
    /// Messages with a priority.
    Priority,
    /// Messages of lite topics.
    Lite,
}

impl TopicType {
    /// All of them, in the order of the contract.
    pub const ALL: [Self; 6] = [
        Self::Normal,
        Self::Fifo,
        Self::Delay,
        Self::Transaction,
        Self::Priority,
        Self::Lite,
    ];

    /// The word of the API and of the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
            Self::Transaction => "transaction",
            Self::Priority => "priority",
            Self::Lite => "lite",
        }
    }

    /// The type of that name, in any case; empty is normal.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name.is_empty() {
            return Some(Self::Normal);
        }
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.as_str().eq_ignore_ascii_case(name))
    }

    fn of(kind: TopicKind) -> Self {
        match kind {
            TopicKind::Normal => Self::Normal,
            TopicKind::Fifo => Self::Fifo,
            TopicKind::Delay => Self::Delay,
            TopicKind::Transaction => Self::Transaction,
            TopicKind::Priority => Self::Priority,
            TopicKind::Lite => Self::Lite,
        }
    }

    fn kind(self) -> TopicKind {
        match self {
            Self::Normal => TopicKind::Normal,
            Self::Fifo => TopicKind::Fifo,
            Self::Delay => TopicKind::Delay,
            Self::Transaction => TopicKind::Transaction,
            Self::Priority => TopicKind::Priority,
            Self::Lite => TopicKind::Lite,
        }
    }
}

/// How long and how much of a topic is kept; what is not said has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Messages stored longer ago may be deleted.
    pub ms: Option<i64>,
    /// The oldest messages above so many bytes may be deleted.
    pub bytes: Option<u64>,
    /// Messages that later ones of the same key supersede may be deleted.
    pub compacts: bool,
    /// How long tombstones are kept then; none: [`limits::TOMBSTONES_MS_DEFAULT`].
    pub tombstones_ms: Option<i64>,
    /// How long the table is kept, what SQL and outside readers see; 0: for ever. When this and the bytes are none it is
    /// kept as the log is.
    pub table_ms: Option<i64>,
    /// How many bytes of Parquet the table keeps; 0: no bound.
    pub table_bytes: Option<u64>,
    /// Of type lite: a lite topic ends so long after its last message; none: the default.
    pub lite_ms: Option<i64>,
}

/// A change of a [`Retention`]; what is not said stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewRetention {
    /// 0 for ever.
    pub ms: Option<i64>,
    /// 0 without bound.
    pub bytes: Option<u64>,
    /// Whether only the last message of each key is kept.
    pub compacts: Option<bool>,
    /// 0 for the default.
    pub tombstones_ms: Option<i64>,
    /// 0 for ever.
    pub table_ms: Option<i64>,
    /// 0 without bound.
    pub table_bytes: Option<u64>,
    /// Whether the table is kept as the log is from now on.
    pub table_as_log: bool,
    /// 0 for the default.
    pub lite_ms: Option<i64>,
}

/// A topic as the broker knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Name.
    pub name: TopicName,
    /// Identity; changes when the topic is deleted and made anew.
    pub id: TopicId,
    /// What it carries.
    pub kind: TopicType,
    /// Number of queues.
    pub queues: u32,
    /// Declared columns of its bodies.
    pub columns: Vec<ColumnSpec>,
    /// Event time.
    pub watermark: Option<WatermarkSpec>,
    /// Key columns of a materialized view.
    pub primary_key: Vec<String>,
    /// The continuous query that writes it; producers may not.
    pub written_by: Option<String>,
    /// How long and how much of it is kept.
    pub retention: Retention,
    /// What its bodies are.
    pub bodies: Bodies,
    /// The family whose files and table it shares.
    pub family: Option<String>,
}

/// A topic to be made; checked by [`Broker::create_topic`].
#[derive(Clone, Debug, PartialEq)]
pub struct NewTopic {
    /// Name.
    pub name: TopicName,
    /// What it carries; fixed for its life.
    pub kind: TopicType,
    /// Number of queues; `None` for the default.
    pub queues: Option<u32>,
    /// Declared columns.
    pub columns: Vec<ColumnSpec>,
    /// Event time.
    pub watermark: Option<WatermarkSpec>,
    /// Key columns of a materialized view.
    pub primary_key: Vec<String>,
    /// The continuous query that writes it.
    pub written_by: Option<String>,
}

/// What the bodies of a topic are; JSON that says nothing further, unless something is said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bodies {
    /// How they are written.
    pub encoding: Encoding,
    /// What they say of rows.
    pub changelog: Changelog,
}

/// Where a group starts in a queue that it has not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupStart {
    /// At the first message kept.
    #[default]
    Earliest,
    /// Behind the last message stored when the group first polls the queue.
    Latest,
    /// At the first message stored at or after this time.
    At(Timestamp),
}

/// A consumer group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Name.
    pub name: GroupName,
    /// Where it starts.
    pub start: GroupStart,
    /// Deliveries before a message goes to the dead letters; none: the server's default.
    pub attempts_max: Option<u32>,
    /// How long its consumers are told to leave a failed message alone; none: the server's default.
    pub backoff: Option<Backoff>,
    /// Whether its consumers are told to work in order, whatever the topic.
    pub fifo: bool,
    /// Whether nothing is delivered for the time being.
    pub paused: bool,
    /// Of lite topics: of which parent.
    pub lite: Option<LiteGroup>,
}

impl Group {
    /// A group with every setting at its default.
    #[must_use]
    pub fn new(name: GroupName) -> Self {
        Self {
            name,
            start: GroupStart::Earliest,
            attempts_max: None,
            backoff: None,
            fifo: false,
            paused: false,
            lite: None,
        }
    }
}

/// What a group's consumers are told about failed deliveries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeliveryPolicy {
    /// Deliveries before a message is dead.
    pub attempts_max: u32,
    /// Pauses between them; none: the server's default.
    pub backoff: Option<Backoff>,
    /// Whether messages of one message group are worked on in order.
    pub fifo: bool,
}

/// Where a group stands in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProgress {
    /// Topic.
    pub topic: TopicName,
    /// Queue.
    pub queue: QueueId,
    /// Every offset below is acknowledged.
    pub ack_floor: Offset,
    /// First offset never delivered.
    pub next: Offset,
    /// Delivered, unacknowledged, invisible.
    pub in_flight: u64,
    /// Unacknowledged messages in all.
    pub lag: u64,
    /// When the oldest of them was stored; none when there is none, or it can not be read.
    pub oldest_at: Option<Timestamp>,
}

/// A message that a consumer of a group holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightMessage {
    /// Topic.
    pub topic: TopicName,
    /// Queue.
    pub queue: QueueId,
    /// Offset.
    pub offset: Offset,
    /// The consumer's client id; empty when it did not say.
    pub consumer: String,
    /// When it was delivered.
    pub since: Timestamp,
    /// When it comes back.
    pub until: Timestamp,
    /// Deliveries so far.
    pub attempts: u32,
    /// Whether the server renews the lease while the consumer lives.
    pub renewed: bool,
}

/// A stored message's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Queue.
    pub queue: QueueId,
    /// Offset.
    pub offset: Offset,
}

/// A poll.
#[derive(Clone, Debug)]
pub struct Receive {
    /// Group; made on first use.
    pub group: GroupName,
    /// Topic.
    pub topic: TopicName,
    /// Most messages, at most [`millpond_proto::limits::RECEIVE_BATCH_MAX`].
    pub limit: usize,
    /// How long the messages stay invisible to others of the group.
    pub invisible: Duration,
    /// How long to wait for a message when there is none.
    pub poll: Duration,
}

/// Names one delivery; opaque to clients. Text form: URL-safe base64.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ReceiptHandle {
    /// Topic id.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// The lease it belongs to; another delivery of the same message has another.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
}

/// A delivered message.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The message as stored.
    pub envelope: Envelope,
    /// Names this delivery for ack and change of invisible time.
    pub handle: ReceiptHandle,
    /// 1 at the first delivery.
    pub attempt: u32,
}

/// Why the broker refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// A name breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No such topic.
    #[error("topic {name:?} does not exist; create it with: millpond topic create {name}")]
    TopicNotFound {
        /// Name asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{what} {name:?} exists already; choose another name or delete it first")]
    Exists {
        /// "topic", "consumer group" or "job".
        what: &'static str,
        /// Name.
        name: String,
    },
    /// No such group.
    #[error("consumer group {name:?} does not exist; create it with: millpond group create {name}")]
    GroupNotFound {
        /// Name asked for.
        name: String,
    },
    /// A continuous query writes it.
    #[error("topic {name:?} is written by the continuous query {job:?}; {advice}")]
    WrittenBy {
        /// Topic.
        name: String,
        /// Job.
        job: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// A message without a key, where only the last one of each key is kept.
    #[error(
        "topic {name:?} keeps the last message of each key (cleanup = compact), and a message has none; give it a key \
         or a message group, or keep all messages: millpond topic alter {name} --cleanup delete"
    )]
    KeyMissing {
        /// Topic.
        name: String,
    },
    /// A value outside its bound.
    #[error("{what} is {found}, allowed is {allowed}")]
    OutOfBounds {
        /// Which value.
        what: &'static str,
        /// As given.
        found: String,
        /// The bound in words.
        allowed: String,
    },
    /// An offset that is not kept, or behind the end.
    #[error(
        "offset {offset} of queue {queue} of topic {topic:?} is not there; kept are {first} to \
         {next}, go on at one of them"
    )]
    OffsetOutside {
        /// Topic.
        topic: String,
        /// Queue.
        queue: QueueId,
        /// Offset asked for.
        offset: Offset,
        /// The first one kept.
        first: Offset,
        /// The one that the next message gets.
        next: Offset,
    },
    /// The handle is malformed, of another topic, or its invisible time is over.
    #[error("the receipt handle is no longer valid: {why}; receive the message again")]
    InvalidHandle {
        /// Why.
        why: &'static str,
    },
    /// The recall handle is malformed, of another topic, or of a message that is not known.
    #[error(
        "the recall handle is of no message that waits here: {why}; use it as the send answered it"
    )]
    InvalidRecallHandle {
        /// Why.
        why: &'static str,
    },
    /// The message can not be recalled any more.
    #[error("the message was delivered already; a message can be recalled before its time only")]
    TooLateToRecall,
    /// The transaction id is malformed, of another topic or message, or not known any more.
    #[error("the transaction id is of no transaction here: {why}; use it as the send answered it")]
    InvalidTransaction {
        /// Why.
        why: &'static str,
    },
    /// The transaction has ended in another way.
    #[error(
        "the transaction was {how} before; the first decision stands, send the message again if needed"
    )]
    TransactionDecided {
        /// In which.
        how: &'static str,
    },
    /// More than the server may hold.
    #[error("{what}; limit {limit}, try again a little later")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A number of an idempotent producer that is too old to be known.
    #[error(
        "message {sequence} of producer {producer:?} is older than the latest {} that are remembered, so \
         nobody can tell whether it was stored; look for it in the topic before you send it under a new \
         number",
        millpond_proto::limits::PRODUCER_WINDOW
    )]
    StaleSequence {
        /// The producer's id of itself.
        producer: String,
        /// The number.
        sequence: u64,
    },
    /// The topic has no lite topics.
    #[error(
        "topic {name:?} is not of type lite; make one with: millpond topic create NAME --type lite"
    )]
    NoParent {
        /// Topic.
        name: String,
    },
    /// The group reads the lite topics of another parent.
    #[error(
        "group {group:?} reads the lite topics of {parent:?} and not those of {topic:?}; use another group"
    )]
    OtherParent {
        /// Group.
        group: String,
        /// Its parent.
        parent: String,
        /// The one asked for.
        topic: String,
    },
    /// The group reads whole topics.
    #[error(
        "group {group:?} reads whole topics and no lite topics; make one that does with: \
         millpond group create NAME --lite TOPIC"
    )]
    NotLite {
        /// Group.
        group: String,
    },
    /// The messages of lite topics are not kept by key.
    #[error(
        "topic {name:?} has lite topics, which keep all their messages until they end; leave out the cleanup by \
         key, or use a topic of another type"
    )]
    LiteCompaction {
        /// Its name.
        name: String,
    },
    /// No lite topic of that name.
    #[error("topic {topic:?} has no lite topic {name:?}; its first message makes it")]
    LiteTopicNotFound {
        /// Parent.
        topic: String,
        /// Name asked for.
        name: String,
    },
    /// Too many lite topics, or too many messages in one.
    #[error("{what}: {name:?}; limit {limit}, {advice}")]
    LiteTopicsFull {
        /// What there is too much of.
        what: &'static str,
        /// Lite topic.
        name: String,
        /// The bound.
        limit: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Too many subscriptions to lite topics.
    #[error("{what} {limit} lite topics, which is the limit; unsubscribe from some first")]
    LiteSubscriptions {
        /// Who.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A topic that can not be of a family, or be called as one.
    #[error("family {family:?} can not have the topic: {why}")]
    NotInFamily {
        /// The family.
        family: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A change that is not possible.
    #[error("{what} of {name:?} can not be changed: {why}")]
    BadChange {
        /// What was to be changed.
        what: &'static str,
        /// Of which object.
        name: String,
        /// Why not.
        why: String,
    },
    /// A change that its shard's owner refused, and why.
    #[error("{0}")]
    ChangeRefused(String),
    /// An error of ours.
    #[error("a shard answered what it was not asked ({0}); please report this")]
    Confused(&'static str),
    /// The shard stays closed because its state is damaged.
    #[error("{0}")]
    ShardDamaged(String),
    /// Not durable; the outcome is unknown.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A message could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl BrokerError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Name(error) => error.remedy(),
            Self::TopicNotFound { .. }
            | Self::Exists { .. }
            | Self::GroupNotFound { .. }
            | Self::WrittenBy { .. }
            | Self::KeyMissing { .. }
            | Self::OutOfBounds { .. }
            | Self::BadChange { .. }
            | Self::ChangeRefused(_)
            | Self::NotInFamily { .. }
            | Self::OffsetOutside { .. }
            | Self::InvalidRecallHandle { .. }
            | Self::TooLateToRecall
            | Self::InvalidTransaction { .. }
            | Self::TransactionDecided { .. }
            | Self::StaleSequence { .. }
            | Self::NoParent { .. }
            | Self::OtherParent { .. }
            | Self::NotLite { .. }
            | Self::LiteCompaction { .. }
            | Self::LiteTopicNotFound { .. }
            | Self::InvalidHandle { .. } => Remedy::FixRequest,
            Self::Confused(_) => Remedy::Bug,
            Self::TooMany { .. } | Self::LiteTopicsFull { .. } | Self::LiteSubscriptions { .. } => {
                Remedy::Retry
            }
            Self::ShardDamaged(_) => Remedy::Operator,
            Self::Append(error) => error.remedy(),
            Self::Read(error) => error.remedy(),
        }
    }
}

/// The broker of one data folder. It also implements [`millpond_sql::topic::Topics`].
#[derive(Debug)]
pub struct Broker {
    parts: Parts,
    current: watch::Receiver<Option<Arc<Incarnation>>>,
    supervisor: Mutex<Option<Task>>,
    stop: Notify,
    turn: AtomicU32,
    parking: Parking,
    listeners: Arc<Listeners>,
    returns: mpsc::Sender<Return>,
}

impl ReceiptHandle {
    /// Bytes of the longest one: a tag for each field, eight bytes for a number of a fixed size, five or ten for others.
    const BYTES_MAX: usize = 9 + 6 + 11 + 9;

    /// The handle as clients carry it.
    ///
    /// # Panics
    /// Never: there is room for the longest.
    #[must_use]
    pub fn to_text(&self) -> String {
        use base64::Engine as _;
        use prost::Message as _;
        let mut bytes = [0; Self::BYTES_MAX];
        let mut room = bytes.as_mut_slice();
        self.encode(&mut room)
            .expect("there is room for the longest");
        let left = room.len();
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        text.encode(&bytes[..Self::BYTES_MAX - left])
    }

    /// Reads a handle that a client sent back.
    ///
    /// # Errors
    /// [`BrokerError::InvalidHandle`] when it is none of ours.
    pub fn from_text(text: &str) -> Result<Self, BrokerError> {
        use base64::Engine as _;
        use prost::Message as _;
        // Room as the decoder reckons it, which counts in threes.
        let mut bytes = [0; Self::BYTES_MAX + 3];
        base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode_slice(text, &mut bytes)
            .ok()
            .and_then(|length| Self::decode(&bytes[..length]).ok())
            .ok_or(BrokerError::InvalidHandle {
                why: "it is not one of this server's",
            })
    }
}

#[cfg(test)]
mod tests;
