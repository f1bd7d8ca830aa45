//! Where the last row of each key of a topic lies, by the columns of its primary key.
//!
//! A question about a few keys of a view, or about a range of them, then reads these rows and no others. An index is made
//! by the first such question, which reads the topic once, and goes on where it stopped with each later one. It is kept
//! for as long as there is room: what was asked for longest ago goes first, a topic too large for all the room
//! has none and is read.
//!
//! **Invariant.** A queue's index says of each message key what its last row up to one offset was, and so the rows that it
//! finds are those that a reading of the queue up to this offset would find: all changes of an epoch, or none, for a key. What
//! was erased is in none: an index is made anew when something was taken out of its topic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array as _, RecordBatch};
use arrow::row::RowConverter;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use futures::TryStreamExt as _;
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, TopicId};

use crate::batch::key_range::{KeyBytes, KeyColumns, KeyRange};
use crate::batch::latest;
use crate::decode::TopicDecoder;
use crate::error::SqlError;
use crate::topic::{QueueExtent, TopicInfo, Topics};
use millpond_storage::tier::cold::typed::Reads;

/// Memory of one row of an index beside its key's bytes, which it holds twice, and the message's.
const ENTRY_BYTES: usize = 160;

/// The indexes of all topics.
#[derive(Debug)]
pub struct KeyIndexes {
    kept: Mutex<Kept>,
    memory: MemoryReservation,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Kept {
    topics: BTreeMap<TopicId, Place>,
    bytes: usize,
    uses: u64,
}

/// The index of a topic and what it costs.
#[derive(Debug)]
struct Place {
    /// `None` when it had no room.
    index: Option<SharedIndex>,
    bytes: usize,
    used: u64,
}

/// An index as statements hold it: it may be let go while one reads on in it.
type SharedIndex = Arc<tokio::sync::Mutex<TopicIndex>>;

#[derive(Debug, Default)]
struct TopicIndex {
    queues: BTreeMap<QueueId, QueueIndex>,
}

/// The last rows of a queue, up to an offset.
#[derive(Debug, Default)]
struct QueueIndex {
    next: u64,
    /// See [`QueueExtent::rewrites`].
    rewrites: u64,
    /// By message key.
    rows: HashMap<Box<[u8]>, (KeyBytes, i64)>,
    by_key: BTreeSet<(KeyBytes, i64)>,
    bytes: usize,
}

/// Rows that were found in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) queue: QueueId,
    /// In order.
    pub(crate) offsets: Vec<i64>,
    /// Up to where the queue was looked at.
    pub(crate) next: Offset,
    /// See [`QueueExtent::rewrites`].
    pub(crate) rewrites: u64,
}

impl KeyIndexes {
    /// None yet; what they keep is taken from this memory.
    #[must_use]
    pub fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        Self {
            kept: Mutex::default(),
            memory: MemoryConsumer::new("indexes of keys").register(pool),
            bytes_max: limits::KEY_INDEX_BYTES,
        }
    }

    /// Bounds them by `bytes` instead of the usual limit.
    #[cfg(test)]
    pub(crate) fn with_bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// The rows whose keys lie in one of some ranges; `None` when the topic has no index.
    ///
    /// # Errors
    /// What the broker says when it can not read.
    pub(crate) async fn find(
        &self,
        topics: &dyn Topics,
        topic: &TopicInfo,
        table: &arrow::datatypes::Schema,
        key: &KeyColumns,
        ranges: &[KeyRange],
    ) -> Result<Option<Vec<Found>>, SqlError> {
        let Some(index) = self.of(topic.id) else {
            return Ok(None);
        };
        let decoder = TopicDecoder::new(topic, &key.places(table)?)?;
        let filler = Filler {
            topics,
            topic: topic.id,
            index: Arc::clone(&index),
            decoder,
            converter: key.converter()?,
        };
        let mut index = index.lock().await;
        // Taken once the index is held, so that it never knows more than this statement.
        let extents = topics.extents(topic.id)?;
        let mut found = Vec::with_capacity(extents.len());
        for extent in extents {
            let next = extent.next;
            let queue = index.queues.entry(extent.queue).or_default();
            if !self.fill(&filler, &extent, queue).await? {
                return Ok(None);
            }
            found.push(Found {
                queue: extent.queue,
                offsets: queue.offsets(ranges, extent.first),
                next,
                rewrites: extent.rewrites,
            });
        }
        Ok(Some(found))
    }

    /// Reads on to the end of a queue; answers whether there was room.
    async fn fill(
        &self,
        filler: &Filler<'_>,
        extent: &QueueExtent,
        queue: &mut QueueIndex,
    ) -> Result<bool, SqlError> {
        if queue.rewrites != extent.rewrites {
            let before = std::mem::take(queue).bytes;
            queue.rewrites = extent.rewrites;
            if !self.account(filler.topic, &filler.index, before, 0) {
                return Ok(false);
            }
        }
        let from = queue.next.max(extent.first.0);
        if from >= extent.next.0 {
            return Ok(true);
        }
        let mut columns = filler.decoder.envelope_columns();
        for needed in latest::COLUMNS {
            if !columns.contains(&needed) {
                columns.push(needed);
            }
        }
        let range = Offset(from)..extent.next;
        let (topics, topic) = (filler.topics, filler.topic);
        let mut scan = topics.scan(topic, extent.queue, range, &Reads::of(&columns));
        while let Some(batch) = scan.try_next().await? {
            let before = queue.bytes;
            filler.take(&batch, queue)?;
            if !self.account(topic, &filler.index, before, queue.bytes) {
                return Ok(false);
            }
        }
        queue.next = extent.next.0;
        Ok(true)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, topic: TopicId) -> Option<SharedIndex> {
        let mut kept = self.kept();
        kept.uses += 1;
        let used = kept.uses;
        let place = kept.topics.entry(topic).or_insert_with(|| Place {
            index: Some(Arc::default()),
            bytes: 0,
            used,
        });
        place.used = used;
        place.index.as_ref().map(Arc::clone)
    }

    /// Notes that a topic's index grew or shrank; answers whether it still has room.
    fn account(&self, topic: TopicId, index: &SharedIndex, before: usize, after: usize) -> bool {
        let mut kept = self.kept();
        let place = kept.topics.get(&topic);
        let own = place.and_then(|place| place.index.as_ref());
        if !own.is_some_and(|own| Arc::ptr_eq(own, index)) {
            // It was let go meanwhile, with all that it had; another may be in its place.
            return false;
        }
        let grown = after.saturating_sub(before);
        let has_memory = self.memory.try_grow(grown).is_ok();
        if !has_memory {
            self.memory.grow(grown);
        }
        self.memory.shrink(before.saturating_sub(after));
        let Some(place) = kept.topics.get_mut(&topic) else {
            self.memory.shrink(grown);
            return false;
        };
        place.bytes = place.bytes + after - before;
        kept.bytes = kept.bytes + after - before;
        while kept.bytes > self.bytes_max || !has_memory {
            let others = kept.topics.iter().filter(|(other, place)| {
                **other != topic && place.index.is_some() && place.bytes > 0
            });
            let oldest = others.min_by_key(|(_, place)| place.used);
            let Some(other) = oldest.map(|(other, _)| *other) else {
                break;
            };
            if let Some(place) = kept.topics.remove(&other) {
                kept.bytes -= place.bytes;
                self.memory.shrink(place.bytes);
            }
        }
        let fits = has_memory && kept.bytes <= self.bytes_max;
        if let Some(place) = kept.topics.get_mut(&topic).filter(|_| !fits) {
            let bytes = std::mem::take(&mut place.bytes);
            // For want of memory alone, the next statement may try again.
            let is_too_large = bytes > self.bytes_max;
            place.index = (!is_too_large).then(Arc::default);
            kept.bytes -= bytes;
            self.memory.shrink(bytes);
        }
        fits
    }
}

/// What fills an index.
struct Filler<'a> {
    topics: &'a dyn Topics,
    topic: TopicId,
    index: SharedIndex,
    decoder: TopicDecoder,
    converter: RowConverter,
}

impl Filler<'_> {
    fn take(&self, batch: &RecordBatch, queue: &mut QueueIndex) -> Result<(), SqlError> {
        let (keys, at) = latest::columns(batch)?;
        let bodies = batch.column_by_name("body").ok_or_else(latest::missing)?;
        let decoded = self.decoder.decode(batch)?;
        let rows = self.converter.convert_columns(decoded.batch.columns())?;
        for row in 0..batch.num_rows() {
            let is_left_out = decoded
                .left_out
                .as_ref()
                .is_some_and(|left_out| left_out.value(row));
            let key = (bodies.is_valid(row) && !is_left_out).then(|| rows.row(row).data());
            let message = keys.is_valid(row).then(|| keys.value(row));
            queue.put(message, key, at.value(row));
        }
        Ok(())
    }
}

impl QueueIndex {
    /// Takes the next message: its key, and the bytes of its row's key, if it has a row.
    fn put(&mut self, message: Option<&[u8]>, key: Option<&[u8]>, offset: i64) {
        if let Some(message) = message
            && let Some(before) = self.rows.remove(message)
        {
            self.bytes -= entry_bytes(message, &before.0);
            self.by_key.remove(&before);
        }
        let Some(key) = key else { return };
        let entry: (KeyBytes, i64) = (Box::from(key), offset);
        self.bytes += entry_bytes(message.unwrap_or_default(), key);
        self.by_key.insert(entry.clone());
        // A row without a message key stays.
        if let Some(message) = message {
            self.rows.insert(Box::from(message), entry);
        }
        let next = u64::try_from(offset).unwrap_or(0).saturating_add(1);
        self.next = self.next.max(next);
    }

    fn offsets(&self, ranges: &[KeyRange], first: Offset) -> Vec<i64> {
        let first = i64::try_from(first.0).unwrap_or(i64::MAX);
        let mut offsets: Vec<i64> = Vec::new();
        for range in ranges {
            let from = (range.from.clone(), i64::MIN);
            let found = self.by_key.range(from..);
            let found = found.take_while(|(key, _)| range.to.as_ref().is_none_or(|to| key < to));
            offsets.extend(found.map(|(_, offset)| *offset).filter(|at| *at >= first));
        }
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}

fn entry_bytes(message: &[u8], key: &[u8]) -> usize {
    ENTRY_BYTES + message.len() + 2 * key.len()
}

#[cfg(test)]
mod tests;
