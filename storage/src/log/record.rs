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
