//! The entries of the log: handed down, encoded, and handed up again by recovery.

use bytes::{BufMut as _, Bytes};
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use prost::Message as _;

use crate::error::ShardDamaged;
use crate::format::block::{Builder, Entry, Kind};
use crate::format::envelope::Envelope;
use crate::wal::intake::Append;

/// One entry of the log, as a shard's owner hands it down.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every record is a message; a box would cost each one an allocation"
)]
pub enum Record {
    /// A message with its place.
    Message(Envelope),
    /// A change of the broker's state, in the broker's own encoding.
    State(Bytes),
}

/// Records that become durable together, with what they take.
///
/// A record's length is found by looking at all of it: once, and not by each who must know it.
#[derive(Debug, Default)]
pub struct Batch {
    records: Vec<Record>,
    /// Of all of them.
    payload_bytes: usize,
}

impl Batch {
    /// Bytes that it adds to the log as an append, of which one may have [`crate::format::block::APPEND_BYTES_MAX`].
    #[must_use]
    pub fn append_bytes(&self) -> usize {
        Append::block_bytes(self.records.len(), self.payload_bytes)
    }

    /// The records, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Adds what another one has behind its own; `expected` is how many records there will be in all, most often.
    pub fn append(&mut self, other: Self, expected: usize) {
        self.payload_bytes += other.payload_bytes;
        if self.records.capacity() == 0 {
            self.records.reserve(expected.max(other.records.len()));
        }
        self.records.extend(other.records);
    }

    /// The records, and the bytes of their payloads.
    pub(crate) fn into_parts(self) -> (Vec<Record>, usize) {
        (self.records, self.payload_bytes)
    }
}

impl From<Vec<Record>> for Batch {
    fn from(records: Vec<Record>) -> Self {
        let payload_bytes = records.iter().map(Record::payload_bytes).sum();
        Self {
            records,
            payload_bytes,
        }
    }
}

/// One entry of the log, as recovery hands it up.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every record is a message; a box would cost each one an allocation"
)]
pub enum Replayed {
    /// A message.
    Message(Envelope),
    /// A message whose bytes are damaged: its place is taken, its content is lost.
    Lost {
        /// Topic.
        topic: TopicId,
        /// Queue.
        queue: QueueId,
        /// Offset.
        offset: Offset,
    },
    /// A change of the broker's state.
    State(Bytes),
}

/// What the engine makes of a shard's records.
///
/// Storage restores one per shard from its last snapshot and applies every later record in order;
/// from then on the shard's owner applies what it appends itself.
pub trait Projection: Sized + Send {
    /// The state that a snapshot holds, or the empty state of a new shard.
    ///
    /// # Errors
    /// [`ShardDamaged`] when the bytes can not be read: the shard stays closed.
    fn restore(shard: ShardId, snapshot: Option<&[u8]>) -> Result<Self, ShardDamaged>;

    /// Applies one record; the only way the state changes.
    ///
    /// # Errors
    /// [`ShardDamaged`] when a state record can not be read: the shard stays closed.
    fn apply(&mut self, record: &Replayed) -> Result<(), ShardDamaged>;
}

impl Record {
    /// Bytes that it adds to an append, of which one may have [`crate::format::block::APPEND_BYTES_MAX`].
    #[must_use]
    pub fn append_bytes(&self) -> usize {
        Append::block_bytes(1, self.payload_bytes())
    }

    /// Bytes of its payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            Self::Message(envelope) => envelope.encoded_len(),
            Self::State(bytes) => bytes.len(),
        }
    }

    /// Adds it to a block.
    pub(crate) fn write(&self, shard: ShardId, block: &mut Builder) {
        let (kind, topic, queue, offset) = match self {
            Self::Message(of) => (Kind::Message, of.topic, of.queue, of.offset),
            Self::State(_) => (Kind::State, 0, 0, 0),
        };
        let entry = Entry {
            shard: shard.0,
            kind,
            length: 0,
            checksum: 0,
            topic,
            queue,
            offset,
        };
        block.push(entry, |out| match self {
            Self::Message(envelope) => envelope.encode(out).expect("a growing buffer has room"),
            Self::State(bytes) => out.put_slice(bytes),
        });
    }
}
