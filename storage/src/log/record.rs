//! The entries of the log: handed down, encoded, and handed up again by recovery.

use bytes::{BufMut, Bytes, BytesMut};
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use prost::Message as _;

use crate::error::{AppendError, ShardDamaged};
use crate::format::block::{self, Entry, Kind};
use crate::format::checksum::crc32c;
use crate::format::envelope::Envelope;

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

/// Encodes records on the caller's thread, so that the writer only copies.
pub(super) fn encode(
    shard: ShardId,
    records: &[Record],
) -> Result<(Vec<Entry>, Bytes), AppendError> {
    let length = |record: &Record| match record {
        Record::Message(envelope) => envelope.encoded_len(),
        Record::State(bytes) => bytes.len(),
    };
    let size: usize = records.iter().map(length).sum();
    if size > block::APPEND_BYTES_MAX {
        return Err(AppendError::TooLarge {
            size_bytes: size as u64,
            limit_bytes: block::APPEND_BYTES_MAX as u64,
        });
    }
    let mut payload = BytesMut::with_capacity(size);
    let mut entries = Vec::with_capacity(records.len());
    for record in records {
        let from = payload.len();
        let (kind, topic, queue, offset) = match record {
            Record::Message(envelope) => {
                envelope
                    .encode(&mut payload)
                    .expect("a growing buffer has room");
                let Envelope {
                    topic,
                    queue,
                    offset,
                    ..
                } = *envelope;
                (Kind::Message, topic, queue, offset)
            }
            Record::State(bytes) => {
                payload.put_slice(bytes);
                (Kind::State, 0, 0, 0)
            }
        };
        entries.push(Entry {
            shard: shard.0,
            kind,
            length: u32::try_from(payload.len() - from).expect("bounded above"),
            checksum: crc32c(&[&payload[from..]]),
            topic,
            queue,
            offset,
        });
    }
    Ok((entries, payload.freeze()))
}
