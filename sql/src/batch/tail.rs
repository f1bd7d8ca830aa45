//! Columns of the newest rows of topics, decoded once for all statements.
//!
//! A queue is cut into chunks of [`CHUNK_ROWS`] offsets. What a statement decodes of whole chunks near the end of a
//! queue is kept, column by column, and the next statement that names these columns reads neither log nor bodies
//! of them. Older rows are not kept, so that one look at all of history does not push out what is asked for
//! every second; nor are chunks with bodies that do not parse, which each statement shall tell of anew.
//!
//! **Invariant.** What is kept of a chunk is what the log holds of it: offsets of a topic's id are written once, and when
//! something is taken out (erased, compacted by key) the topic's number of rewrites is raised, under which nothing is kept yet.
//! What was used longest ago goes when there is more than [`limits::TAIL_COLUMNS_BYTES`], and what is kept counts as memory of statements.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, TopicId};

use crate::decode::TopicDecoder;
use crate::topic::TopicInfo;

/// Rows that are kept together.
pub const CHUNK_ROWS: u64 = 8192;

/// What is read of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueRange {
    pub(crate) queue: QueueId,
    pub(crate) offsets: Range<Offset>,
    /// Where the queue ends.
    pub(crate) next: Offset,
    /// See [`crate::topic::QueueExtent::rewrites`].
    pub(crate) rewrites: u64,
}

/// A part of a range, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// The log; whole chunks from this one on are worth keeping.
    Log(QueueRange, u64),
    /// Memory.
    Kept(RecordBatch),
}

/// Which rows, and of which shape of the topic: columns may be added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    topic: TopicId,
    declared: usize,
    queue: QueueId,
    chunk: u64,
}

#[derive(Debug, Default)]
struct Chunk {
    /// See [`QueueRange::rewrites`].
    rewrites: u64,
    /// By position in the topic's table.
    columns: BTreeMap<usize, ArrayRef>,
    /// Whether its bodies are known to parse: rows may be counted.
    is_parsed: bool,
    bytes: usize,
    used: u64,
}

/// Which columns were decoded, and whether bodies were parsed for them.
#[derive(Debug)]
struct Columns {
    projection: Vec<usize>,
    are_parsed: bool,
}

#[derive(Debug, Default)]
struct Chunks {
    by_place: BTreeMap<Place, Chunk>,
    by_use: BTreeMap<u64, Place>,
    bytes: usize,
    uses: u64,
}

/// The columns.
#[derive(Debug)]
pub struct Tail {
    chunks: Mutex<Chunks>,
    memory: MemoryReservation,
}

impl Tail {
    /// Empty; what it keeps is taken from this memory.
    #[must_use]
    pub fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        Self {
            chunks: Mutex::default(),
            memory: MemoryConsumer::new("columns of the newest rows").register(pool),
        }
    }

    /// A range in the order of its offsets, as far as possible from memory.
    pub(crate) fn pieces(
        &self,
        topic: &TopicInfo,
        decoder: &TopicDecoder,
        range: QueueRange,
    ) -> Vec<Piece> {
        let (start, end) = (range.offsets.start.0, range.offsets.end.0);
        let newest = range.next.0.saturating_sub(limits::TAIL_COLUMNS_ROWS);
        let chunks = start.max(newest).div_ceil(CHUNK_ROWS)..end / CHUNK_ROWS;
        // A view's table holds the last row of each key, which is not known of a chunk by itself.
        let is_bare = decoder.projection().is_empty() && !decoder.parses();
        if chunks.is_empty() || is_bare || !topic.primary_key.is_empty() {
            return vec![Piece::Log(range, u64::MAX)];
        }
        let part = |offsets: Range<u64>| QueueRange {
            offsets: Offset(offsets.start)..Offset(offsets.end),
            ..range.clone()
        };
        let mut pieces = Vec::new();
        let mut from = start;
        for chunk in chunks.clone() {
            let place = Place {
                topic: topic.id,
                declared: topic.columns.len(),
                queue: range.queue,
                chunk,
            };
            if let Some(batch) = self.find(place, range.rewrites, decoder) {
                if from < chunk * CHUNK_ROWS {
                    pieces.push(Piece::Log(part(from..chunk * CHUNK_ROWS), chunks.start));
                }
                pieces.push(Piece::Kept(batch));
                from = (chunk + 1) * CHUNK_ROWS;
            }
        }
        if from < end {
            pieces.push(Piece::Log(part(from..end), chunks.start));
        }
        pieces
    }

    fn find(&self, place: Place, rewrites: u64, decoder: &TopicDecoder) -> Option<RecordBatch> {
        let mut guard = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = &mut *guard;
        self.remove_older(chunks, place, rewrites);
        let chunk = chunks.by_place.get_mut(&place)?;
        if chunk.rewrites != rewrites {
            // A newer statement was quicker.
            return None;
        }
        let columns = decoder.projection().iter();
        let columns: Option<Vec<ArrayRef>> = columns
            .map(|column| chunk.columns.get(column).map(Arc::clone))
            .collect();
        if !chunk.is_parsed && decoder.parses() {
            return None;
        }
        let options = RecordBatchOptions::new().with_row_count(usize::try_from(CHUNK_ROWS).ok());
        let schema = Arc::clone(decoder.schema());
        let batch = RecordBatch::try_new_with_options(schema, columns?, &options).ok()?;
        chunks.uses += 1;
        chunks.by_use.remove(&chunk.used);
        chunk.used = chunks.uses;
        chunks.by_use.insert(chunks.uses, place);
        Some(batch)
    }

    fn keep(&self, place: Place, rewrites: u64, decoded: &Columns, batch: &RecordBatch) {
        let mut guard = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = &mut *guard;
        self.remove_older(chunks, place, rewrites);
        let chunk = chunks.by_place.entry(place).or_insert_with(|| Chunk {
            rewrites,
            ..Chunk::default()
        });
        if chunk.rewrites != rewrites {
            return;
        }
        let mut grown = 0;
        chunk.is_parsed |= decoded.are_parsed;
        for (column, array) in decoded.projection.iter().zip(batch.columns()) {
            chunk.columns.entry(*column).or_insert_with(|| {
                grown += array.get_array_memory_size();
                Arc::clone(array)
            });
        }
        chunk.bytes += grown;
        chunks.bytes += grown;
        chunks.uses += 1;
        chunks.by_use.remove(&chunk.used);
        chunk.used = chunks.uses;
        chunks.by_use.insert(chunks.uses, place);
        // Statements come first: without memory to spare nothing more is kept, and this goes again.
        let is_granted = self.memory.try_grow(grown).is_ok();
        if !is_granted {
            self.memory.grow(grown);
            self.remove(chunks, place);
        }
        while chunks.bytes > limits::TAIL_COLUMNS_BYTES {
            let Some((_, oldest)) = chunks.by_use.first_key_value() else {
                break;
            };
            let oldest = *oldest;
            self.remove(chunks, oldest);
        }
    }

    /// Lets go of what was kept before something was taken out of it.
    fn remove_older(&self, chunks: &mut Chunks, place: Place, rewrites: u64) {
        let known = chunks.by_place.get(&place);
        if known.is_some_and(|chunk| chunk.rewrites < rewrites) {
            self.remove(chunks, place);
        }
    }

    fn remove(&self, chunks: &mut Chunks, place: Place) {
        if let Some(chunk) = chunks.by_place.remove(&place) {
            chunks.by_use.remove(&chunk.used);
            chunks.bytes -= chunk.bytes;
            self.memory.shrink(chunk.bytes);
        }
    }
}

/// Puts decoded rows of a queue together to whole chunks, and keeps these.
#[derive(Debug)]
pub(crate) struct Filler {
    tail: Arc<Tail>,
    place: Place,
    rewrites: u64,
    decoded: Columns,
    /// The first chunk that is worth it.
    from: u64,
    /// Rows of the chunk at hand from its beginning on, and the offset that follows them.
    rows: Vec<RecordBatch>,
    next: Option<u64>,
}

impl Filler {
    /// Keeps whole chunks of what is read of a queue, from `from` on.
    pub(crate) fn new(
        tail: &Arc<Tail>,
        topic: &TopicInfo,
        decoder: &TopicDecoder,
        range: &QueueRange,
        from: u64,
    ) -> Self {
        Self {
            tail: Arc::clone(tail),
            place: Place {
                topic: topic.id,
                declared: topic.columns.len(),
                queue: range.queue,
                chunk: 0,
            },
            rewrites: range.rewrites,
            decoded: Columns {
                projection: decoder.projection().to_vec(),
                are_parsed: decoder.parses(),
            },
            from,
            rows: Vec::new(),
            next: None,
        }
    }

    /// Takes the next rows: their envelopes, for the offsets, and what was decoded; `None` when some did not parse.
    pub(crate) fn push(&mut self, envelopes: &RecordBatch, decoded: Option<&RecordBatch>) {
        let offsets = envelopes
            .column_by_name("offset")
            .and_then(|column| column.as_primitive_opt::<Int64Type>());
        let ends = offsets.and_then(|offsets| {
            let values = offsets.values();
            let first = u64::try_from(*values.first()?).ok()?;
            let last = u64::try_from(*values.last()?).ok()?;
            // A message that was damaged is missing, and its chunk is not whole.
            (last - first + 1 == values.len() as u64).then_some((first, last))
        });
        let (Some((first, last)), Some(batch)) = (ends, decoded) else {
            self.forget();
            return;
        };
        let mut at = first.max(self.from.saturating_mul(CHUNK_ROWS));
        while at <= last {
            let end = ((at / CHUNK_ROWS + 1) * CHUNK_ROWS).min(last + 1);
            if at.is_multiple_of(CHUNK_ROWS) {
                self.forget();
                self.next = Some(at);
            }
            if self.next == Some(at) {
                let (skip, count) = (at - first, end - at);
                let (Ok(skip), Ok(count)) = (usize::try_from(skip), usize::try_from(count)) else {
                    return;
                };
                self.rows.push(batch.slice(skip, count));
                self.next = Some(end);
                if end.is_multiple_of(CHUNK_ROWS) {
                    self.complete(at / CHUNK_ROWS);
                }
            }
            at = end;
        }
    }

    fn forget(&mut self) {
        self.rows.clear();
        self.next = None;
    }

    fn complete(&mut self, chunk: u64) {
        let whole = self.rows.first().map(RecordBatch::schema);
        let whole = whole.and_then(|schema| concat_batches(&schema, &self.rows).ok());
        if let Some(whole) = whole {
            let place = Place {
                chunk,
                ..self.place
            };
            self.tail.keep(place, self.rewrites, &self.decoded, &whole);
        }
        self.forget();
    }
}

#[cfg(test)]
mod tests;
