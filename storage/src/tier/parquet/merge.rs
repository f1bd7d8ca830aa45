//! A file that is made of rows of others.
//!
//! **Invariants.** Every batch is checked to hold rows of the queue and offsets that it is said to hold, in order. Rows
//! are copied as columns and never become messages.

use std::ops::Range;

use arrow::array::{Array as _, RecordBatch};
use millpond_proto::message::TopicId;
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::errors::ParquetError;

use crate::format::manifest::Run;
use crate::tier::columns::Columns;
use crate::tier::parquet::checked::damage;
use crate::tier::parquet::{
    Bounds, GROUP_BYTES_MAX, GROUP_ROWS_MAX, Made, finish, numbers, offsets_of, writer,
};

/// Values between two looks at a page's size: the sizes of rows of other files are not known.
pub(crate) const WRITE_BATCH_UNKNOWN: usize = 64;

/// A file that is made of rows of others, without making messages of them.
pub(crate) struct Merge {
    writer: ArrowWriter<Vec<u8>>,
    runs: Vec<Run>,
    rows: u64,
    group_bytes: usize,
    group_rows: usize,
    columns: u64,
    bodiless: u64,
}

impl Merge {
    pub(crate) fn new(topic: TopicId, typed: Option<&dyn Columns>) -> Result<Self, ParquetError> {
        Ok(Self {
            writer: writer(topic, typed, WRITE_BATCH_UNKNOWN)?,
            runs: Vec::new(),
            rows: 0,
            group_bytes: 0,
            group_rows: 0,
            columns: typed.map_or(0, Columns::id),
            bodiless: 0,
        })
    }

    /// Adds rows, with all columns of the file, that must be of `queue` and are all that is left of `offsets`. Queues
    /// come in ascending order, and so do the offsets of each.
    pub(crate) fn add(
        &mut self,
        queue: u32,
        offsets: Range<u64>,
        batch: &RecordBatch,
    ) -> Result<(), ParquetError> {
        Self::check(queue, &offsets, batch)?;
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let bytes: usize = batch
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size())
            .sum::<Result<usize, _>>()?;
        let is_full = self.group_bytes + bytes > GROUP_BYTES_MAX
            || self.group_rows + batch.num_rows() > GROUP_ROWS_MAX;
        if self.group_rows > 0 && is_full {
            self.writer.flush()?;
            (self.group_bytes, self.group_rows) = (0, 0);
        }
        self.writer.write(batch)?;
        self.group_bytes += bytes;
        self.group_rows += batch.num_rows();
        let count = batch.num_rows() as u64;
        let bodies = batch.column_by_name("body");
        self.bodiless += bodies.map_or(0, |bodies| bodies.null_count()) as u64;
        match self.runs.last_mut() {
            Some(run) if run.queue == queue && run.offsets().end == offsets.start => {
                let all = run.base..offsets.end;
                *run = Run::covering(queue, all, run.first_row, run.count + count);
            }
            _ => {
                let run = Run::covering(queue, offsets, self.rows, count);
                self.runs.push(run);
            }
        }
        self.rows += count;
        Ok(())
    }

    /// Lets the last run cover `offsets` too, of which nothing is left; false when it does not end there.
    pub(crate) fn cover(&mut self, queue: u32, offsets: &Range<u64>) -> bool {
        match self.runs.last_mut() {
            Some(run) if run.queue == queue && run.offsets().end == offsets.start => {
                let all = run.base..offsets.end;
                *run = Run::covering(queue, all, run.first_row, run.count);
                true
            }
            _ => false,
        }
    }

    /// Where the last run of a queue ends.
    pub(crate) fn end_of(&self, queue: u32) -> Option<u64> {
        let last = self.runs.last().filter(|run| run.queue == queue)?;
        Some(last.offsets().end)
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Whether all rows of a batch are of `queue`, and their offsets rise within `offsets`.
    pub(crate) fn check(
        queue: u32,
        offsets: &Range<u64>,
        batch: &RecordBatch,
    ) -> Result<(), ParquetError> {
        let wrong = || damage("its rows are not those that the manifest names");
        let queues = numbers(batch, "queue").ok_or_else(wrong)?;
        // Unsigned numbers are stored as the signed ones of the same bits.
        let is_of_queue = |&value: &i64| value == i64::from(queue.cast_signed());
        let mut next = offsets.start;
        let mut rises = |offset: u64| {
            let is_behind = offset >= next && offset < offsets.end;
            next = offset.saturating_add(1);
            is_behind
        };
        let found = offsets_of(batch).ok_or_else(wrong)?;
        if queues.iter().all(is_of_queue) && found.into_iter().all(&mut rises) {
            return Ok(());
        }
        Err(wrong())
    }

    /// The file, with the least and greatest store time of what it was made of.
    pub(crate) fn finish(
        self,
        key: String,
        stored_first_ms: Option<i64>,
        stored_last_ms: Option<i64>,
    ) -> Result<Made, ParquetError> {
        let known = Bounds {
            stored_first_ms,
            stored_last_ms,
            columns: self.columns,
            bodiless: self.bodiless,
        };
        finish(self.writer, key, self.runs, known)
    }
}
