//! Offsets of runs in which messages are missing, because a key compaction took them away.
//!
//! A dense run turns an offset into a row by arithmetic. In a sparse one the column `offset` of one row group says where it is,
//! a few bytes a row that are read once and kept; which row group, its statistics say. So reading by offset costs one
//! small read more in the few row groups that are looked at now, and nothing in dense runs.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt as _;
use millpond_proto::message::{QueueId, TopicId};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;

use crate::error::ReadError;
use crate::format::manifest::{File, Index, Run};
use crate::tier::cold::Cold;
use crate::tier::cold::reading::Place;
use crate::tier::parquet::{self as file, CheckedFile};

/// Row groups whose offsets are kept in memory, each of at most 65,536 rows.
const GROUPS_KEPT_MAX: usize = 16;

/// Offsets of the row groups that were looked at last.
#[derive(Default)]
pub(super) struct KnownOffsets {
    groups: VecDeque<(String, Range<u64>, Arc<[u64]>)>,
}

impl fmt::Debug for KnownOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offsets of {} row groups", self.groups.len())
    }
}

impl KnownOffsets {
    fn get(&mut self, key: &str, rows: &Range<u64>) -> Option<Arc<[u64]>> {
        let mut groups = self.groups.iter();
        let at = groups.position(|(known, of, _)| known == key && of == rows)?;
        let found = self.groups.remove(at)?;
        let offsets = Arc::clone(&found.2);
        self.groups.push_back(found);
        Some(offsets)
    }

    fn insert(&mut self, key: &str, rows: Range<u64>, offsets: Arc<[u64]>) {
        if self.groups.len() >= GROUPS_KEPT_MAX {
            self.groups.pop_front();
        }
        self.groups.push_back((key.to_owned(), rows, offsets));
    }
}

impl Place {
    /// Moves on over holes, and answers the file and run that cover the offset then; none at `end`.
    pub(super) fn seek<'a>(
        &mut self,
        manifest: &'a Index,
        end: u64,
    ) -> Result<Option<(&'a File, Run)>, ReadError> {
        while self.at < end {
            if let Some(found) = manifest.find(self.lane, self.at) {
                return Ok(Some(found));
            }
            let Some(behind) = manifest.behind_hole(self.lane, self.at) else {
                return Err(self.damaged("the log it was moved from"));
            };
            self.at = behind;
        }
        Ok(None)
    }
}

impl Cold {
    /// The rows of a run whose offsets lie in a range.
    pub(super) async fn rows_of(
        &self,
        file: &File,
        run: Run,
        offsets: &Range<u64>,
        place: Place,
    ) -> Result<Range<u64>, ReadError> {
        let start = self.row_from(file, run, offsets.start, place).await?;
        let end = self.row_from(file, run, offsets.end, place).await?;
        Ok(start..end.max(start))
    }

    /// The first row of a run whose offset is not below `offset`; one past its rows when there is none.
    pub(super) async fn row_from(
        &self,
        file: &File,
        run: Run,
        offset: u64,
        place: Place,
    ) -> Result<u64, ReadError> {
        let rows = run.rows();
        if offset <= run.base {
            return Ok(rows.start);
        }
        if offset >= run.offsets().end {
            return Ok(rows.end);
        }
        if !run.is_sparse() {
            return Ok(rows.start + (offset - run.base));
        }
        let footer = self.footer(file, place).await?;
        let mut start = 0_u64;
        for group in footer.metadata().row_groups() {
            let end = start + u64::try_from(group.num_rows()).unwrap_or(0);
            let of_group = start..end;
            let ours = start.max(rows.start)..end.min(rows.end);
            start = end;
            if ours.start >= ours.end {
                continue;
            }
            if ours == of_group
                && let Some((least, greatest)) = offsets_within(group)
            {
                if greatest < offset {
                    continue;
                }
                if least >= offset {
                    return Ok(ours.start);
                }
            }
            let known = self.offsets(file, ours.clone(), place).await?;
            let below = known.partition_point(|known| *known < offset);
            if below < known.len() {
                return Ok(ours.start + below as u64);
            }
        }
        Ok(rows.end)
    }

    /// The offsets of rows of one row group.
    pub(super) async fn offsets(
        &self,
        file: &File,
        rows: Range<u64>,
        place: Place,
    ) -> Result<Arc<[u64]>, ReadError> {
        if let Some(known) = self.known_offsets().get(&file.key, &rows) {
            return Ok(known);
        }
        let footer = self.footer(file, place).await?;
        let checked = CheckedFile::new(&self.objects, file);
        let read = read_offsets(checked, footer, rows.clone()).await;
        let offsets = read.map_err(|error| place.unreadable(file, error))?;
        let rises = offsets.windows(2).all(|two| two[0] < two[1]);
        if offsets.len() as u64 != rows.end - rows.start || !rises {
            return Err(place.damaged(&file.key));
        }
        let mut known = self.known_offsets();
        known.insert(&file.key, rows, Arc::clone(&offsets));
        Ok(offsets)
    }

    /// Whether messages of a topic may be missing that are neither deleted nor damaged.
    #[must_use]
    pub fn has_holes(&self, topic: TopicId) -> bool {
        self.manifest(topic).is_some_and(|m| m.has_holes())
    }

    /// How many offsets of a queue, of all that are kept, have no message any more because a key compaction took it away.
    #[must_use]
    pub fn superseded(&self, topic: TopicId, queue: QueueId) -> u64 {
        let Some(manifest) = self.manifest(topic) else {
            return 0;
        };
        let holes = manifest.manifest().holes.iter();
        let holes = holes.filter(|hole| hole.queue == queue.0);
        let sparse = manifest.runs(queue.0).map(|(_, run)| run);
        let sparse = sparse.filter(Run::is_sparse);
        let in_runs: u64 = sparse.map(|run| run.span - run.count).sum();
        holes.map(|hole| hole.end - hole.first).sum::<u64>() + in_runs
    }

    /// How many offsets of a range of a queue have no message any more because a key compaction took it away.
    ///
    /// # Errors
    /// [`ReadError`] when a file can not be read.
    pub async fn missing(
        &self,
        topic: TopicId,
        queue: QueueId,
        offsets: Range<u64>,
    ) -> Result<u64, ReadError> {
        let Some(manifest) = self.manifest(topic).filter(|m| m.has_holes()) else {
            return Ok(0);
        };
        let length = |part: &Range<u64>| part.end.saturating_sub(part.start);
        let within = |part: Range<u64>| part.start.max(offsets.start)..part.end.min(offsets.end);
        let holes = manifest.manifest().holes.iter();
        let holes = holes.filter(|hole| hole.queue == queue.0);
        let mut missing: u64 = holes
            .map(|hole| length(&within(hole.first..hole.end)))
            .sum();
        for (file, run) in manifest.runs(queue.0).filter(|(_, run)| run.is_sparse()) {
            let part = within(run.offsets());
            if part.start >= part.end {
                continue;
            }
            let at = part.start;
            let lane = queue.0;
            let place = Place {
                topic,
                queue,
                lane,
                at,
            };
            let rows = self.rows_of(file, run, &part, place).await?;
            missing += length(&part) - length(&rows);
        }
        Ok(missing)
    }
}

async fn read_offsets(
    checked: CheckedFile,
    footer: ArrowReaderMetadata,
    rows: Range<u64>,
) -> Result<Arc<[u64]>, ParquetError> {
    let mut batches = file::batches(checked, footer, rows, &["offset"])?;
    let mut offsets = Vec::new();
    while let Some(batch) = batches.next().await {
        let missing = || ParquetError::General("the column offset is missing".to_owned());
        offsets.extend(file::offsets_of(&batch?).ok_or_else(missing)?);
    }
    Ok(offsets.into())
}

/// Least and greatest offset of a row group, of whatever queue.
fn offsets_within(group: &RowGroupMetaData) -> Option<(u64, u64)> {
    let mut columns = group.columns().iter();
    let column = columns.find(|column| column.column_path().string() == "offset")?;
    let Statistics::Int64(known) = column.statistics()? else {
        return None;
    };
    let (least, greatest) = known.min_opt().zip(known.max_opt())?;
    Some((least.cast_unsigned(), greatest.cast_unsigned()))
}

/// A run read from its first row on: which offsets each batch stands for.
pub(super) struct Walk {
    run: Run,
    at: u64,
    rows_left: u64,
}

impl Walk {
    pub(super) fn new(run: Run) -> Self {
        Self {
            run,
            at: run.base,
            rows_left: run.count,
        }
    }

    /// From an offset of a dense run on.
    pub(super) fn from(run: Run, at: u64) -> Self {
        let skipped = at.saturating_sub(run.base);
        Self {
            run,
            at,
            rows_left: run.count.saturating_sub(skipped),
        }
    }

    /// The offsets up to the next batch; together they are all of the run.
    pub(super) fn next(&mut self, batch: &RecordBatch) -> Result<Range<u64>, ParquetError> {
        let wrong = || ParquetError::General("its rows are not those of the run".to_owned());
        let rows = batch.num_rows() as u64;
        self.rows_left = self.rows_left.checked_sub(rows).ok_or_else(wrong)?;
        let end = if self.rows_left == 0 {
            self.run.offsets().end
        } else {
            let offsets = file::offsets_of(batch).ok_or_else(wrong)?;
            offsets
                .last()
                .map_or(self.at, |last| last.saturating_add(1))
        };
        if end < self.at || end > self.run.offsets().end {
            return Err(wrong());
        }
        let covered = self.at..end;
        self.at = end;
        Ok(covered)
    }

    /// Whether every row has come.
    pub(super) fn is_over(&self) -> bool {
        self.rows_left == 0
    }
}
