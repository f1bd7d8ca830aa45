//! One queue of a topic, read ahead a little and handed out in whole ticks.
//!
//! Store times never go back within a queue, so the rows before a tick are a prefix. What was read
//! ahead is bounded by what the loop asks for; it stays here between epochs.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array as _, Int64Array, RecordBatch, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, UInt64Type};
use futures::StreamExt;
use millpond_proto::message::{Offset, QueueId, TopicId};

use crate::error::SqlError;
use crate::job::error::JobError;
use crate::operator::key::milliseconds;
use crate::progress::tick_of;
use crate::topic::{Scan, Topics};
use millpond_storage::tier::cold::typed::Reads;

/// Rows of one queue that were read and not yet computed.
pub struct QueueReader {
    topic: TopicId,
    queue: QueueId,
    reads: Arc<Reads>,
    /// One past the last row handed out.
    taken: u64,
    /// One past the last row read ahead.
    next: u64,
    /// The running scan and where its range ends.
    scan: Option<(Scan, u64)>,
    ahead: VecDeque<Ahead>,
    rows: usize,
    bytes: usize,
}

struct Ahead {
    batch: RecordBatch,
    stored_at_ms: Int64Array,
    bytes: usize,
}

impl std::fmt::Debug for QueueReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueReader")
            .field("topic", &self.topic)
            .field("queue", &self.queue)
            .field("taken", &self.taken)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// How much may be read ahead.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
}

impl QueueReader {
    /// Reads so much of each row from `from` on.
    #[must_use]
    pub fn new(topic: TopicId, queue: QueueId, reads: Arc<Reads>, from: u64) -> Self {
        Self {
            topic,
            queue,
            reads,
            taken: from,
            next: from,
            scan: None,
            ahead: VecDeque::new(),
            rows: 0,
            bytes: 0,
        }
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// One past the last row handed out.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Goes on at `first` when what lies before it is not kept any more; answers how many rows that skips.
    pub fn skip_to(&mut self, first: u64) -> u64 {
        if first <= self.next {
            return 0;
        }
        let skipped = first - self.next;
        if self.ahead.is_empty() {
            self.taken = first;
        }
        self.next = first;
        self.scan = None;
        skipped
    }

    /// Reads ahead until a row of tick `tick_ms` or later, the offset `end`, or the room is filled.
    ///
    /// # Errors
    /// What the broker says when it can not read.
    pub async fn fill(
        &mut self,
        topics: &dyn Topics,
        tick_ms: i64,
        end: u64,
        room: Room,
    ) -> Result<(), JobError> {
        while !self.is_complete_before(tick_ms, end)
            && self.rows < room.rows
            && self.bytes < room.bytes
        {
            let (scan, scan_end) = match &mut self.scan {
                Some((scan, scan_end)) => (scan, *scan_end),
                None => {
                    let range = Offset(self.next)..Offset(end);
                    let scan = topics.scan(self.topic, self.queue, range, &self.reads);
                    (&mut self.scan.insert((scan, end)).0, end)
                }
            };
            match scan.next().await {
                Some(Ok(batch)) => self.push(batch)?,
                Some(Err(error)) => {
                    self.scan = None;
                    return Err(error.into());
                }
                None => {
                    self.next = scan_end;
                    self.scan = None;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, batch: RecordBatch) -> Result<(), JobError> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        let offsets = offsets(&batch)?;
        let stored_at = batch
            .column_by_name("stored_at")
            .ok_or_else(|| missing("stored_at"))?;
        let stored_at_ms = milliseconds(stored_at)?;
        self.next = offsets.value(rows - 1) + 1;
        let bytes = batch.get_array_memory_size();
        self.rows += rows;
        self.bytes += bytes;
        self.ahead.push_back(Ahead {
            batch,
            stored_at_ms,
            bytes,
        });
        Ok(())
    }

    fn last_tick_ms(&self) -> Option<i64> {
        let last = self.ahead.back()?;
        Some(tick_of(
            last.stored_at_ms.value(last.stored_at_ms.len() - 1),
        ))
    }

    fn is_complete_before(&self, tick_ms: i64, end: u64) -> bool {
        self.next >= end || self.last_tick_ms().is_some_and(|last| last >= tick_ms)
    }

    /// The greatest tick up to `tick_ms` before which every row was read, given that the queue ends at
    /// `end` for now.
    #[must_use]
    pub fn complete_before(&self, tick_ms: i64, end: u64) -> i64 {
        if self.is_complete_before(tick_ms, end) {
            return tick_ms;
        }
        // More rows of the last tick may follow.
        self.last_tick_ms().unwrap_or(i64::MIN)
    }

    /// The tick of the first row read ahead.
    #[must_use]
    pub fn first_tick_ms(&self) -> Option<i64> {
        let first = self.ahead.front()?;
        Some(tick_of(first.stored_at_ms.value(0)))
    }

    /// Hands out the rows before a tick; [`QueueReader::complete_before`] has reached it.
    ///
    /// # Panics
    /// When a batch was queued without offsets, which is a bug here.
    pub fn take_before(&mut self, tick_ms: i64) -> Vec<RecordBatch> {
        let mut taken = Vec::new();
        while let Some(mut first) = self.ahead.pop_front() {
            let stored_at = first.stored_at_ms.values();
            let count = stored_at.partition_point(|stored_at| *stored_at < tick_ms);
            let rows = stored_at.len();
            if count > 0 {
                taken.push(first.batch.slice(0, count));
                self.rows -= count;
            }
            if count < rows {
                first.batch = first.batch.slice(count, rows - count);
                first.stored_at_ms = first.stored_at_ms.slice(count, rows - count);
                self.ahead.push_front(first);
                break;
            }
            self.bytes -= first.bytes;
        }
        if let Some(last) = taken.last() {
            let offsets = offsets(last).expect("its offsets were read when it was read");
            self.taken = offsets.value(offsets.len() - 1) + 1;
        }
        taken
    }
}

/// Reads exactly the rows of a recorded cut.
///
/// # Errors
/// What the broker says when it can not read.
pub async fn read_range(
    topics: &dyn Topics,
    topic: TopicId,
    queue: QueueId,
    range: std::ops::Range<u64>,
    reads: &Reads,
) -> Result<Vec<RecordBatch>, JobError> {
    let range = Offset(range.start)..Offset(range.end);
    let mut scan = topics.scan(topic, queue, range, reads);
    let mut batches = Vec::new();
    while let Some(batch) = scan.next().await {
        batches.push(batch?);
    }
    Ok(batches)
}

/// The offsets of a batch of envelopes.
///
/// # Errors
/// [`SqlError::Bug`] when the column was not read.
pub(crate) fn offsets(batch: &RecordBatch) -> Result<UInt64Array, JobError> {
    let column = batch
        .column_by_name("offset")
        .ok_or_else(|| missing("offset"))?;
    if let Some(signed) = column.as_primitive_opt::<Int64Type>()
        && signed.null_count() == 0
        && signed.values().iter().fold(0, |all, offset| all | *offset) >= 0
    {
        // None is negative, so the bytes are the same, and nothing need be copied.
        let same = ScalarBuffer::from(signed.values().inner().clone());
        return Ok(UInt64Array::new(same, None));
    }
    let column = cast(column, &DataType::UInt64)?;
    Ok(column.as_primitive::<UInt64Type>().clone())
}

/// A column that the scan should have answered.
pub(crate) fn missing(column: &str) -> JobError {
    JobError::Sql(SqlError::Bug {
        cause: format!("the envelope column {column} was not read"),
    })
}
