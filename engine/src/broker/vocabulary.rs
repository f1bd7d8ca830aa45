//! The vocabulary of the broker: what its calls take and give, in its own words.
//!
//! Plain values; nothing here asks a shard or knows the wire. What goes to the log is in [`record`](super::record), what a shard is
//! asked in [`request`](super::request).

use std::time::Duration;

use millpond_connectors::format::body::Encoding;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_sql::topic::{Changelog, ColumnSpec, WatermarkSpec};
use millpond_storage::format::envelope::Envelope;

use crate::broker::error::BrokerError;
use crate::broker::lite::LiteGroup;
use crate::broker::record::{Backoff, TopicKind};

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

    pub(super) fn of(kind: TopicKind) -> Self {
        match kind {
            TopicKind::Normal => Self::Normal,
            TopicKind::Fifo => Self::Fifo,
            TopicKind::Delay => Self::Delay,
            TopicKind::Transaction => Self::Transaction,
            TopicKind::Priority => Self::Priority,
            TopicKind::Lite => Self::Lite,
        }
    }

    pub(super) fn kind(self) -> TopicKind {
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
    /// How long tombstones are kept then; none: [`millpond_proto::limits::TOMBSTONES_MS_DEFAULT`].
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

/// A topic to be made; checked by [`Broker::create_topic`](crate::broker::Broker::create_topic).
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

/// What a group has before it, as its shards count it: no message is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupWork {
    /// By topic, its own dead letters left out.
    pub topics: Vec<TopicWork>,
    /// Dead letters that nobody redrove or purged.
    pub dead_letters: u64,
}

/// What a group has before it in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicWork {
    /// Topic.
    pub topic: TopicName,
    /// Delivered, unacknowledged, invisible.
    pub in_flight: u64,
    /// Unacknowledged messages in all; those that key compaction took away count still.
    pub lag: u64,
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
