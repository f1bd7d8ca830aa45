//! Rows beside those that were asked for: decoded with them, and kept for whoever asks next.
//!
//! In a topic with very many queues a file holds a few rows of each, and a group that catches up asks for a few
//! messages of one queue after the other. To decode so few costs as much as all that lie in their pages: a decompressor
//! and a reader for every column. So a small read decodes a *window*, rows of the file that begin at a multiple of the
//! window's length, and the reads of the neighbours are cut out of that. It does so at once where other queues share the
//! window, and otherwise when somebody asks for more of it: one who reads a single message of a long queue does not
//! pay for those around it.
//!
//! **Invariants.** A window is asked for by the key of its file, and no key ever names another file. It never decides what
//! is damaged: where it can not be decoded whole, the rows asked for are read alone, and what is cut out of it is
//! checked as what is read alone. Nothing of a file that was let go of stays.
//!
//! Bounds: [`WINDOW_ROWS_MAX`], [`WINDOW_BYTES_MAX`], [`COLD_WINDOWS_BYTES_MAX`].

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::TryStreamExt as _;
use millpond_proto::limits::COLD_WINDOWS_BYTES_MAX;

use crate::error::ReadError;
use crate::format::manifest::{File, Run};
use crate::tier::cold::Cold;
use crate::tier::cold::reading::Place;
use crate::tier::parquet::column_names;

/// Most rows of a window.
const WINDOW_ROWS_MAX: u64 = 1024;
/// Most bytes that a window takes in its file: a read of it fetches little more than a block.
const WINDOW_BYTES_MAX: u64 = 128 * 1024;
/// Windows kept, however small they are.
const WINDOWS_MAX: usize = 512;
/// Windows of which it is remembered that they were asked for.
const ASKED_MAX: usize = 128;

/// Decoded rows of one file.
struct Window {
    key: String,
    first: u64,
    rows: RecordBatch,
    bytes: usize,
}

/// The windows that were used last.
#[derive(Default)]
pub(super) struct Neighbours {
    /// The least recently used first.
    windows: VecDeque<Window>,
    bytes: usize,
    /// Windows that somebody read a part of alone: key and first row.
    asked: VecDeque<(String, u64)>,
}

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} windows, {} bytes", self.windows.len(), self.bytes)
    }
}

impl Neighbours {
    /// The window that begins at a row.
    fn get(&mut self, key: &str, first: u64) -> Option<RecordBatch> {
        // What is used again is mostly what was used just now.
        let mut windows = self.windows.iter();
        let at = windows.rposition(|window| window.first == first && window.key == key)?;
        let found = self.windows.remove(at)?;
        let rows = found.rows.clone();
        self.windows.push_back(found);
        Some(rows)
    }

    fn insert(&mut self, key: &str, first: u64, rows: RecordBatch) {
        let bytes = rows.get_array_memory_size();
        let is_known = self.get(key, first).is_some();
        if is_known || bytes > COLD_WINDOWS_BYTES_MAX / 16 {
            return;
        }
        self.bytes += bytes;
        self.windows.push_back(Window {
            key: key.to_owned(),
            first,
            rows,
            bytes,
        });
        while self.bytes > COLD_WINDOWS_BYTES_MAX || self.windows.len() > WINDOWS_MAX {
            let Some(oldest) = self.windows.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
        }
    }

    /// Lets go of what is kept of a file.
    fn remove(&mut self, key: &str) {
        self.windows.retain(|window| window.key != key);
        self.bytes = self.windows.iter().map(|window| window.bytes).sum();
        self.asked.retain(|(asked, _)| asked != key);
    }

    /// Whether a part of the window was asked for before; from now on it was.
    fn was_asked(&mut self, key: &str, first: u64) -> bool {
        let mut asked = self.asked.iter();
        if asked.any(|(known, at)| *at == first && known == key) {
            return true;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((key.to_owned(), first));
        false
    }
}

/// The window of a file that a row lies in.
fn window_of(file: &File, row: u64) -> Range<u64> {
    let bytes_of_a_row = file.bytes.checked_div(file.rows).unwrap_or(0).max(1);
    let rows = (WINDOW_BYTES_MAX / bytes_of_a_row).clamp(1, WINDOW_ROWS_MAX);
    let first = row - row % rows;
    first..first.saturating_add(rows).min(file.rows)
}

impl Cold {
    fn neighbours(&self) -> MutexGuard<'_, Neighbours> {
        let neighbours = self.neighbours.lock();
        neighbours.unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps nothing in memory of what was in a file.
    pub(super) fn forget_file(&self, key: &str) {
        self.footers().remove(key);
        self.neighbours().remove(key);
    }

    /// The first of these rows that lie in one window, if it is there or worth decoding; none: they are to be read
    /// alone.
    ///
    /// # Errors
    /// [`ReadError::Objects`] when the store does not answer, which it would not either for fewer rows.
    pub(super) async fn near(
        &self,
        file: &File,
        run: Run,
        rows: Range<u64>,
        place: Place,
    ) -> Result<Option<RecordBatch>, ReadError> {
        let window = window_of(file, rows.start);
        let end = rows.end.min(window.end);
        let count = end.saturating_sub(rows.start);
        if count * 2 > window.end.saturating_sub(window.start) {
            return Ok(None);
        }
        let known = {
            let mut neighbours = self.neighbours();
            let known = neighbours.get(&file.key, window.start);
            let is_shared = run.rows().start > window.start || run.rows().end < window.end;
            if known.is_none() && !neighbours.was_asked(&file.key, window.start) && !is_shared {
                return Ok(None);
            }
            known
        };
        let decoded = match known {
            Some(known) => known,
            None => match self.decoded(file, window.clone(), place).await {
                Ok(decoded) => {
                    let mut neighbours = self.neighbours();
                    neighbours.insert(&file.key, window.start, decoded.clone());
                    decoded
                }
                Err(error @ ReadError::Objects { .. }) => return Err(error),
                // It need not lie in the rows that were asked for.
                Err(_) => return Ok(None),
            },
        };
        let index = |row: u64| usize::try_from(row - window.start).unwrap_or(usize::MAX);
        let (from, end) = (index(rows.start), index(end));
        let has_all = end <= decoded.num_rows();
        Ok(has_all.then(|| decoded.slice(from, end - from)))
    }

    /// Every row of a window.
    async fn decoded(
        &self,
        file: &File,
        rows: Range<u64>,
        place: Place,
    ) -> Result<RecordBatch, ReadError> {
        let columns = column_names();
        let batches = self.batches(file, rows, &columns, place).await?;
        let unreadable = |error| place.unreadable(file, error);
        let batches: Vec<RecordBatch> = batches.try_collect().await.map_err(unreadable)?;
        let schema = batches.first().map(RecordBatch::schema);
        let schema = schema.ok_or_else(|| place.damaged(&file.key))?;
        concat_batches(&schema, &batches).map_err(|_| place.damaged(&file.key))
    }
}

#[cfg(test)]
mod tests;
