//! The message as it is stored: what the producer sent, plus where and when it was stored.
//!
//! Encoded as Protobuf. **Field numbers are fixed for ever**; numbers 22 to 31 are kept for what later
//! wires bring.

use bytes::Bytes;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::time::Timestamp;

pub use crate::format::columns::{from_batch, schema, to_batch};

/// One property: text as every wire has it, or bytes as some do. Order and duplicates are kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Property {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// A text value, or a binary one.
    #[prost(oneof = "PropertyValue", tags = "2, 3")]
    pub value: Option<PropertyValue>,
}

/// The value of a property.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum PropertyValue {
    /// UTF-8 text.
    #[prost(string, tag = "2")]
    Text(String),
    /// Any bytes.
    #[prost(bytes = "bytes", tag = "3")]
    Binary(Bytes),
}

/// Bits of [`Envelope::flags`].
pub mod flags {
    /// The producer compressed the body with gzip; it is stored and handed out as it came.
    pub const BODY_GZIP: u32 = 1;
    /// The message was prepared in a transaction that was committed.
    pub const TRANSACTION: u32 = 2;
}

/// A stored message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Envelope {
    /// [`TopicId`].
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// [`QueueId`].
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// [`Offset`].
    #[prost(uint64, tag = "3")]
    pub offset: u64,
    /// When the shard's owner took it, ms since the epoch; monotone per shard.
    #[prost(sint64, tag = "4")]
    pub stored_at_ms: i64,
    /// When the producer made it, ms since the epoch.
    #[prost(sint64, tag = "5")]
    pub born_at_ms: i64,
    /// The producer's id of it.
    #[prost(string, tag = "6")]
    pub message_id: String,
    /// FIFO message group.
    #[prost(string, optional, tag = "7")]
    pub message_group: Option<String>,
    /// Routes to a queue; compaction and PRIMARY KEY go by it.
    #[prost(bytes = "bytes", optional, tag = "8")]
    pub key: Option<Bytes>,
    /// Look-up keys.
    #[prost(string, repeated, tag = "9")]
    pub keys: Vec<String>,
    /// Tag for filters.
    #[prost(string, optional, tag = "10")]
    pub tag: Option<String>,
    /// User properties.
    #[prost(message, repeated, tag = "11")]
    pub properties: Vec<Property>,
    /// Bits, see [`flags`].
    #[prost(uint32, tag = "12")]
    pub flags: u32,
    /// The schema that the body was written with.
    #[prost(uint32, optional, tag = "13")]
    pub schema_id: Option<u32>,
    /// The body, exactly as it came; absent for a tombstone.
    #[prost(bytes = "bytes", optional, tag = "14")]
    pub body: Option<Bytes>,
    /// Host that the producer ran on.
    #[prost(string, tag = "15")]
    pub born_host: String,
    /// W3C trace context.
    #[prost(string, optional, tag = "16")]
    pub trace_context: Option<String>,
    /// When the producer wants it delivered, ms since the epoch; kept once it was.
    #[prost(sint64, optional, tag = "17")]
    pub due_at_ms: Option<i64>,
    /// Greater is delivered first.
    #[prost(int32, optional, tag = "18")]
    pub priority: Option<i32>,
    /// Name of the lite topic inside the topic.
    #[prost(string, optional, tag = "19")]
    pub lite_topic: Option<String>,
    /// An idempotent producer's id of itself.
    #[prost(string, optional, tag = "20")]
    pub producer_id: Option<String>,
    /// An idempotent producer's number of the message.
    #[prost(uint64, optional, tag = "21")]
    pub producer_sequence: Option<u64>,
}

impl Envelope {
    /// The topic's id.
    #[must_use]
    pub fn topic_id(&self) -> TopicId {
        TopicId(self.topic)
    }

    /// The queue.
    #[must_use]
    pub fn queue_id(&self) -> QueueId {
        QueueId(self.queue)
    }

    /// The place in the queue.
    #[must_use]
    pub fn at(&self) -> Offset {
        Offset(self.offset)
    }

    /// When it was stored.
    #[must_use]
    pub fn stored_at(&self) -> Timestamp {
        Timestamp(self.stored_at_ms)
    }

    /// When the producer made it.
    #[must_use]
    pub fn born_at(&self) -> Timestamp {
        Timestamp(self.born_at_ms)
    }
}
