//! The way in: opening a data folder, appending, reading, checkpointing, tiering.
//!
//! A shard's owner hands down records with [`Storage::append`] and learns from the [`Durable`] it gets
//! back when they are safe. Readers see only what is durable, through one merged view of the tail
//! cache, the WAL and the cold tier.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use millpond_proto::chance::Chance;
use millpond_proto::message::{Offset, QueueId, ShardId, Term, TopicId};
use millpond_proto::task::Spawn;
use millpond_proto::time::Clock;
use object_store::ObjectStore;

use crate::disk::Disk;
use crate::error::{AppendError, OpenError, ReadError, ShardDamaged, TierError};
use crate::format::envelope::Envelope;
use crate::meta::MetaStore;

/// The outside world, passed in.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The data folder.
    pub disk: Arc<dyn Disk>,
    /// Where the cold tier lies; must be durable when a put returns.
    pub objects: Arc<dyn ObjectStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where work runs.
    pub spawn: Arc<dyn Spawn>,
}

/// What a user may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Units of ownership; fixed when the folder is made.
    pub shards: u16,
    /// WALs that the shards are spread over; fixed when the folder is made. More than one is for tests:
    /// nothing may lean on one WAL for atomicity across shards.
    pub wals: u16,
    /// Size at which a WAL segment is closed and the next one begun.
    pub segment_bytes: u64,
    /// Memory for the tail cache.
    pub cache_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: millpond_proto::limits::SHARDS_DEFAULT,
            wals: 1,
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 128 * 1024 * 1024,
        }
    }
}

/// One entry of the log, as a shard's owner hands it down.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A message with its place.
    Message(Envelope),
    /// A change of the broker's state, in the broker's own encoding.
    State(Bytes),
}

/// One entry of the log, as recovery hands it up.
#[derive(Clone, Debug, PartialEq)]
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

/// A place in a WAL, in bytes since its beginning; grows for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Resolves when an append is durable, to the position behind it.
#[derive(Debug)]
#[must_use = "an append is not durable before this resolves"]
pub struct Durable(pub(crate) tokio::sync::oneshot::Receiver<Result<Position, AppendError>>);

impl Future for Durable {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|r| r.unwrap_or(Err(AppendError::Closed)))
    }
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovered<P> {
    /// This incarnation's term, higher than any before.
    pub term: Term,
    /// Every shard's state, by shard number; a damaged shard stays closed.
    pub shards: Vec<Result<P, ShardDamaged>>,
    /// Bytes of the torn tail that were cut: written, never acknowledged as durable.
    pub torn_bytes: u64,
    /// Damaged records below the durable mark, in words.
    pub damage: Vec<String>,
}

/// A shard's state for a checkpoint.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// The shard.
    pub shard: ShardId,
    /// Everything of this shard below this position is in `state` (see [`Storage::append`] with no
    /// records, which answers such a position).
    pub position: Position,
    /// The projection's own encoding.
    pub state: Bytes,
}

/// The durable extent of a queue: offsets `first..next`, those below `tiered` in Parquet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First offset kept.
    pub first: Offset,
    /// One past the last durable offset.
    pub next: Offset,
    /// Offsets below are read from the cold tier.
    pub tiered: Offset,
}

/// How much to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of bodies; one message is returned even above it.
    pub bytes: usize,
}

/// What a turn of the tierer moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiered {
    /// Messages moved.
    pub messages: u64,
    /// Bytes of Parquet written.
    pub bytes: u64,
}

/// An open data folder.
#[derive(Debug)]
pub struct Storage {
    /// Replaced by the implementation.
    _private: (),
}

#[expect(
    unused_variables,
    clippy::todo,
    clippy::unused_async,
    reason = "replaced by the implementation"
)]
impl Storage {
    /// Opens or makes a data folder: takes the next term, recovers every shard, starts the writers.
    ///
    /// # Errors
    /// [`OpenError`] says what to do; nothing was changed.
    pub async fn open<P: Projection>(
        parts: Parts,
        settings: Settings,
    ) -> Result<(Arc<Self>, Recovered<P>), OpenError> {
        todo!()
    }

    /// Hands records of one shard to the log, waiting while the log has too much to do.
    ///
    /// Order of durability is the order of calls per shard; the records of one call are atomic.
    /// No records: the answer is the position below which everything appended before lies.
    ///
    /// # Errors
    /// [`AppendError`] when nothing was taken; errors of the disk come from the [`Durable`].
    pub async fn append(
        &self,
        shard: ShardId,
        records: Vec<Record>,
    ) -> Result<Durable, AppendError> {
        todo!()
    }

    /// Resolves once the incarnation has ended by a failed write or sync.
    pub async fn failed(&self) -> AppendError {
        todo!()
    }

    /// The durable extent of a queue; `None` when nothing was ever stored in it.
    #[must_use]
    pub fn extent(&self, topic: TopicId, queue: QueueId) -> Option<Extent> {
        todo!()
    }

    /// The durable extent of every queue of a topic that holds or held messages, by queue.
    #[must_use]
    pub fn queues_of(&self, topic: TopicId) -> Vec<(QueueId, Extent)> {
        todo!()
    }

    /// Bytes of messages in the WAL that are not in the cold tier yet.
    #[must_use]
    pub fn hot_bytes(&self) -> u64 {
        todo!()
    }

    /// Reads whole messages from `from` on, oldest first. Empty at the tail.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the first offset kept; [`ReadError::Damaged`] when the first message
    /// asked for is damaged (a later damaged one ends the answer before it).
    pub async fn read(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Envelope>, ReadError> {
        todo!()
    }

    /// Columns of the messages in `range`, in offset order, each batch with the schema of
    /// [`crate::format::envelope::schema`] cut down to `columns` (names, in that order).
    ///
    /// The range is cut to what is kept. A damaged message ends the stream with an error.
    pub fn scan(
        self: &Arc<Self>,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        columns: &[&str],
    ) -> BoxStream<'static, Result<RecordBatch, ReadError>> {
        todo!()
    }

    /// Makes snapshots durable, and lets go of WAL segments that neither a snapshot nor the cold tier
    /// still needs. One checkpoint replaces the one before; it must name every open shard.
    ///
    /// # Errors
    /// [`TierError`]; the checkpoint before stays valid.
    pub async fn checkpoint(&self, snapshots: Vec<ShardSnapshot>) -> Result<(), TierError> {
        todo!()
    }

    /// Moves what is durable in the WAL into Parquet. Nothing is trimmed before the files, the
    /// manifest and a checkpoint are durable.
    ///
    /// # Errors
    /// [`TierError`]; what was not moved stays in the log.
    pub async fn tier(&self) -> Result<Tiered, TierError> {
        todo!()
    }

    /// Drops index, manifest and objects of a deleted topic; doing it again changes nothing.
    ///
    /// # Errors
    /// [`TierError`] when objects could not be removed: call it again.
    pub async fn forget(&self, topic: TopicId) -> Result<(), TierError> {
        todo!()
    }

    /// The metadata store of this folder.
    #[must_use]
    pub fn meta(&self) -> &Arc<dyn MetaStore> {
        todo!()
    }

    /// Writes what is queued, then stops the writers. Later appends answer [`AppendError::Closed`].
    pub async fn close(&self) {
        todo!()
    }
}
