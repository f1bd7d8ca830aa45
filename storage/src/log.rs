//! The way in: opening a data folder, appending, reading, checkpointing, tiering.
//!
//! A shard's owner hands down records with [`Storage::append`] and learns from the [`Durable`] it gets
//! back when they are safe. Readers see only what is durable, through one merged view of the tail
//! cache, the WAL and the cold tier.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use millpond_proto::message::{Offset, QueueId, ShardId, Term, TopicId};
use millpond_proto::task::Task;
use tokio::sync::{Semaphore, oneshot};

use crate::error::{AppendError, OpenError, ReadError, ShardDamaged, TierError};
use crate::format::block;
use crate::format::envelope::Envelope;
use crate::log::checkpoint::Checkpoints;
use crate::meta::MetaStore;
use crate::queue::view::View;
use crate::tier::cold::Cold;
use crate::tier::cold::TableMetadata;
use crate::tier::cold::compaction::{Compacted, Compaction};
use crate::tier::cold::erasure::{Erased, Rest};
use crate::tier::cold::typed::Reads;
use crate::tier::columns::Tables;
use crate::wal::intake::{Append, Door};

pub(crate) mod catch_up;
mod checkpoint;
pub mod counts;
pub mod folder;
pub mod history;
mod identity;
mod kept;
mod keys;
mod lookup;
mod open;
pub(crate) mod read;
mod record;
mod retention;
pub mod room;
mod settings;
pub mod shred;
mod tiering;
mod verify;
mod way;

pub use crate::log::kept::{
    Extent, Keep, KeepTable, ReadLimit, Sizes, Tiered, TopicSizes, Trimmed,
};
pub use crate::log::record::{Batch, Projection, Record, Replayed};
pub use crate::log::settings::{COLD_DEFAULT, Parts, Settings, WalIo};
pub use crate::log::verify::Findings;

/// A place in a WAL, in bytes since its beginning; grows for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Resolves when an append is durable, to the position behind it.
#[derive(Debug)]
#[must_use = "an append is not durable before this resolves"]
pub struct Durable(pub(crate) oneshot::Receiver<Result<Position, AppendError>>);

impl Future for Durable {
    type Output = Result<Position, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or_else(|_| Err(unanswered())))
    }
}

/// What an append is told when its writer ends before it answers: it may have been written.
fn unanswered() -> AppendError {
    AppendError::Failed {
        cause: Arc::new(io::Error::other(
            "the log's writer ended before it answered",
        )),
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

/// An open data folder.
///
/// [`Storage::close`] it before the folder is opened again: a writer that is still at work would go on
/// with a segment that recovery has already read.
#[derive(Debug)]
pub struct Storage {
    parts: Parts,
    settings: Settings,
    view: Arc<View>,
    cold: Arc<Cold>,
    meta: Arc<dyn MetaStore>,
    /// One per WAL.
    doors: Vec<Door>,
    /// Bytes that may still wait for the writers.
    budget: Arc<Semaphore>,
    writers: Mutex<Vec<Task>>,
    checkpoints: tokio::sync::Mutex<Checkpoints>,
    tiering: tokio::sync::Mutex<()>,
    /// Whether this incarnation has looked for the best way to write.
    was_measured: AtomicBool,
    looked: room::Looked,
    hot_reads: read::HotReads,
    catch_up: catch_up::CatchUp,
}

impl Storage {
    /// Opens or makes a data folder: takes the next term, recovers every shard, starts the writers.
    ///
    /// # Errors
    /// [`OpenError`] says what to do; nothing was changed.
    pub async fn open<P: Projection>(
        parts: Parts,
        settings: Settings,
    ) -> Result<(Arc<Self>, Recovered<P>), OpenError> {
        open::open(parts, settings).await
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
        records: impl Into<Batch>,
    ) -> Result<Durable, AppendError> {
        self.append_batch(shard, records.into()).await
    }

    async fn append_batch(&self, shard: ShardId, batch: Batch) -> Result<Durable, AppendError> {
        let size = batch.append_bytes();
        let (records, payload_bytes) = batch.into_parts();
        if size > block::APPEND_BYTES_MAX {
            return Err(AppendError::TooLarge {
                size_bytes: size as u64,
                limit_bytes: block::APPEND_BYTES_MAX as u64,
            });
        }
        if let Some(error) = self.view.failure() {
            return Err(error);
        }
        let share = Append::share(records.len(), payload_bytes);
        let permits = u32::try_from(share).unwrap_or(u32::MAX);
        let budget = Arc::clone(&self.budget);
        let Ok(share) = budget.acquire_many_owned(permits).await else {
            return Err(AppendError::Closed);
        };
        self.count_growth(size as u64);
        let (reply, durable) = oneshot::channel();
        let append = Append {
            shard,
            count: records.len(),
            records,
            payload_bytes,
            reply,
            _share: share,
        };
        match self.door(shard).send(append) {
            Ok(()) => Ok(Durable(durable)),
            Err(_) => Err(self.view.failure().unwrap_or(AppendError::Closed)),
        }
    }

    /// Finds out once for a data folder how its WAL is best written, when the settings leave it open, and
    /// remembers it; what comes later is written so. Takes part of a second and waits for the disk:
    /// call it from the background, after the server is ready. What fails is logged and changes nothing.
    pub fn choose_wal_io(&self) {
        self.measure_ways();
    }

    /// Resolves once the incarnation has ended by a failed write or sync.
    pub async fn failed(&self) -> AppendError {
        self.view.failed().await
    }

    /// The durable extent of a queue; `None` when nothing was ever stored in it.
    #[must_use]
    pub fn extent(&self, topic: TopicId, queue: QueueId) -> Option<Extent> {
        self.extent_of(topic, queue)
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
        self.read_merged(topic, queue, from, limit).await
    }

    /// Columns of the messages in `range`, in offset order.
    ///
    /// The range is cut to what is kept. A damaged message ends the stream with an error.
    pub fn scan(
        self: &Arc<Self>,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        reads: &Reads,
    ) -> BoxStream<'static, Result<RecordBatch, ReadError>> {
        self.scan_merged(topic, queue, range, reads)
    }

    /// Says what the topics are called and which columns they have: from now on files get typed columns, and
    /// where the settings say how outsiders find the object store, topics are shown as Iceberg tables. The first
    /// call counts.
    pub fn set_tables(&self, tables: Arc<dyn Tables>) {
        self.cold
            .set_tables(self.settings.location.as_deref(), tables);
    }

    /// Brings the tables up to date that a change of columns or a crash has left behind.
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn show_tables(&self) -> Result<(), TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        self.cold.show_tables().await
    }

    /// Topics that are shown as Iceberg tables, ascending.
    #[must_use]
    pub fn shown_topics(&self) -> Vec<TopicId> {
        self.cold.shown_topics()
    }

    /// The Iceberg table of a topic as of now; none when it is not shown (yet).
    ///
    /// # Errors
    /// [`TierError`] when the object store does not answer.
    pub async fn table_metadata(&self, topic: TopicId) -> Result<Option<TableMetadata>, TierError> {
        self.cold.table_metadata(topic).await
    }

    /// Makes snapshots durable, and lets go of WAL segments that neither a snapshot nor the cold tier
    /// still needs. One checkpoint replaces the one before; it must name every open shard.
    ///
    /// # Errors
    /// [`TierError`]; the checkpoint before stays valid.
    pub async fn checkpoint(&self, snapshots: Vec<ShardSnapshot>) -> Result<(), TierError> {
        self.make_checkpoint(snapshots).await
    }

    /// Moves what is durable in the WAL into Parquet. Nothing is trimmed before the files, the
    /// manifest and a checkpoint are durable.
    ///
    /// # Errors
    /// [`TierError`]; what was not moved stays in the log.
    pub async fn tier(&self) -> Result<Tiered, TierError> {
        self.tier_all().await
    }

    /// Lets go of the oldest messages of a topic that need not be kept. First offsets rise and never fall;
    /// a read below answers [`ReadError::Trimmed`].
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn retain(&self, topic: TopicId, keep: Keep) -> Result<Trimmed, TierError> {
        self.retain_within(topic, keep).await
    }

    /// As [`Storage::retain`], of topics of one family with one change for all of them. A table is not kept apart in one.
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn retain_in_family(
        &self,
        family: TopicId,
        keeps: &[(TopicId, Keep)],
    ) -> Result<Trimmed, TierError> {
        self.retain_family(family, keeps).await
    }

    /// Every family that has something in the cold tier, ascending.
    #[must_use]
    pub fn families(&self) -> Vec<TopicId> {
        self.cold.families()
    }

    /// Lets go of the messages below these offsets, by queue; doing it again changes nothing. Files go when
    /// nothing in them is kept.
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn release(
        &self,
        topic: TopicId,
        firsts: &BTreeMap<QueueId, Offset>,
    ) -> Result<(), TierError> {
        self.release_below(topic, firsts).await
    }

    /// Merges small Parquet files of a topic to large ones; offsets and bytes stay as they are.
    ///
    /// # Errors
    /// [`TierError`]; what was merged before stays merged.
    pub async fn compact(&self, topic: TopicId, how: Compaction) -> Result<Compacted, TierError> {
        self.compact_topic(topic, how).await
    }

    /// Erases what was sent to a topic under a key, as far as it lies in the cold tier; see
    /// [`crate::tier::cold::erasure`].
    ///
    /// # Errors
    /// [`TierError`]; then nothing was erased.
    pub async fn erase(
        &self,
        topic: TopicId,
        key: &[u8],
        rest: Rest<'_>,
    ) -> Result<Erased, TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        self.cold.erase(topic, key, rest).await
    }

    /// Removes objects that a crash left behind, and answers how many.
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn sweep(&self) -> Result<u64, TierError> {
        self.cold.sweep().await
    }

    /// Checks everything that is stored, and says what it found.
    ///
    /// # Errors
    /// [`OpenError`] when the disk or a store does not answer; damage is a finding.
    pub async fn verify(&self) -> Result<Findings, OpenError> {
        self.verify_all().await
    }

    /// How much a topic holds.
    #[must_use]
    pub fn sizes_of(&self, topic: TopicId) -> TopicSizes {
        self.sizes_of_topic(topic)
    }

    /// Drops index, manifest and objects of a deleted topic; doing it again changes nothing.
    ///
    /// # Errors
    /// [`TierError`] when objects could not be removed: call it again.
    pub async fn forget(&self, topic: TopicId) -> Result<(), TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        self.view.index_mut().forget(topic);
        self.cold.forget(topic).await
    }

    /// The metadata store of this folder.
    #[must_use]
    pub fn meta(&self) -> &Arc<dyn MetaStore> {
        &self.meta
    }

    /// Writes what is queued, then stops the writers. Later appends answer [`AppendError::Closed`], and
    /// nothing else is written either, so that the folder may be opened again while this is still held.
    pub async fn close(&self) {
        for door in &self.doors {
            door.close();
        }
        let writers = {
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *writers)
        };
        for writer in writers {
            if let Err(error) = writer.await {
                tracing::error!(%error, "a writer ended badly");
            }
        }
        // Calls that still hold this log must not write beside its successor.
        self.checkpoints.lock().await.end();
        self.meta.close();
    }

    /// The durable extents of a topic's queues, by queue; those that never stored anything are left out.
    #[must_use]
    pub fn queues_of(&self, topic: TopicId) -> Vec<(QueueId, Extent)> {
        self.queues(topic)
    }

    /// Every topic that has messages, hot or cold, ascending: whoever knows which topics exist can
    /// [`Storage::forget`] the others.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicId> {
        let mut topics = self.view.index().topics();
        topics.extend(self.cold.queues().into_iter().map(|cold| cold.0));
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// How much is kept.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let wals = self.view.wals().iter();
        Sizes {
            wal_bytes: wals
                .map(|wal| wal.segments.bytes_up_to(wal.durable()))
                .sum(),
            hot_messages: self.view.index().len(),
        }
    }

    fn door(&self, shard: ShardId) -> &Door {
        &self.doors[usize::from(shard.0 % self.settings.wals)]
    }
}

#[cfg(test)]
mod tests;
