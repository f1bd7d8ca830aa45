//! Looking messages up by id or key without reading all of them.
//!
//! Each row group has Parquet's own Bloom filters of its message ids and keys, made when the file is: about
//! a byte a message and 2 % that are read for nothing. They lie in the file that they speak of, so they move,
//! merge, expire and are checked with it, and other engines use them too; a sorted index beside the files
//! would be exact, but has to be kept in step with all of that. A group that its filter does not rule out is
//! decided by its one column. A file of an early version has no filters: its column is read.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use futures::StreamExt as _;
use millpond_proto::message::{Offset, QueueId, TopicId};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;

use crate::error::ReadError;
use crate::format::envelope::Envelope;
use crate::format::manifest::{File, Run};
use crate::tier::cold::Cold;
use crate::tier::cold::family::Shelf;
use crate::tier::cold::reading::Place;
use crate::tier::parquet::{self as file, CheckedFile};

/// Row groups that one step may rule out before it answers.
const GROUPS_MAX: usize = 256;

/// What messages are looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The producer's id of a message.
    MessageId(String),
    /// One of a message's look-up keys.
    Key(String),
}

/// How far a step of a look-up came, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LookedUp {
    /// Offsets of the messages that match, growing.
    pub matches: Vec<Offset>,
    /// Every offset below is decided.
    pub to: Offset,
    /// Messages whose value was compared.
    pub compared: u64,
    /// Messages that an index ruled out.
    pub ruled_out: u64,
    /// Bytes that were read for it, about.
    pub bytes: u64,
    /// Least and greatest store time, ms, of where it was looked, as far as that is known: of the messages
    /// that were read, of the whole file where one was looked at.
    pub stored_ms: Option<(i64, i64)>,
}

impl Lookup {
    /// Whether a message is meant.
    #[must_use]
    pub fn matches(&self, message: &Envelope) -> bool {
        match self {
            Self::MessageId(id) => message.message_id == *id,
            Self::Key(key) => message.keys.contains(key),
        }
    }

    fn value(&self) -> &str {
        match self {
            Self::MessageId(value) | Self::Key(value) => value,
        }
    }

    fn column(&self) -> &'static str {
        match self {
            Self::MessageId(_) => "message_id",
            Self::Key(_) => "keys",
        }
    }

    /// The column's path in a file.
    fn leaf(&self) -> &'static str {
        match self {
            Self::MessageId(_) => file::INDEXED[0],
            Self::Key(_) => file::INDEXED[1],
        }
    }

    /// Which rows of a batch with the one column match; none when it has another shape.
    fn rows(&self, batch: &RecordBatch) -> Option<Vec<bool>> {
        let column = batch.column_by_name(self.column())?;
        Some(match self {
            Self::MessageId(id) => {
                let ids = column.as_string_opt::<i32>()?;
                ids.iter().map(|one| one == Some(id.as_str())).collect()
            }
            Self::Key(key) => {
                let lists = column.as_list_opt::<i32>()?;
                let has_key = |row: usize| {
                    if lists.is_null(row) {
                        return Some(false);
                    }
                    let keys = lists.value(row);
                    let keys = keys.as_string_opt::<i32>()?;
                    Some(keys.iter().any(|one| one == Some(key.as_str())))
                };
                (0..lists.len()).map(has_key).collect::<Option<_>>()?
            }
        })
    }
}

impl Cold {
    /// Takes a step of a look-up in the cold part of `range`: rules out what filters rule out and reads the
    /// first row group that is left.
    ///
    /// # Errors
    /// [`ReadError`] when nothing could be decided at the beginning of the range.
    pub(crate) async fn look_up(
        &self,
        topic: TopicId,
        queue: QueueId,
        range: Range<u64>,
        lookup: &Lookup,
    ) -> Result<LookedUp, ReadError> {
        let mut found = LookedUp {
            to: Offset(range.start),
            ..LookedUp::default()
        };
        let Some(Shelf { index, lane }) = self.shelf(topic, queue) else {
            return Ok(found);
        };
        for _ in 0..GROUPS_MAX {
            let at = found.to.0;
            let mut place = Place {
                topic,
                queue,
                lane,
                at,
            };
            let step = match place.seek(&index, range.end) {
                Ok(Some((file, run))) => self.decide(file, run, place, range.end, lookup).await,
                Ok(None) => {
                    found.to = found.to.max(Offset(range.end));
                    break;
                }
                Err(error) => Err(error),
            };
            match step {
                Ok(step) => {
                    let is_read = step.compared > 0;
                    found.add(step);
                    if is_read {
                        break;
                    }
                }
                Err(error) if found.to.0 == range.start => return Err(error),
                // Whoever goes on from there meets it.
                Err(_) => break,
            }
        }
        Ok(found)
    }

    /// Decides on the rows of one row group, from a place on.
    async fn decide(
        &self,
        file: &File,
        run: Run,
        place: Place,
        end: u64,
        lookup: &Lookup,
    ) -> Result<LookedUp, ReadError> {
        let unreadable = |error| place.unreadable(file, error);
        let checked = CheckedFile::new(&self.objects, file);
        let footer = self.footer(file, place).await?;
        let end = end.min(run.offsets().end);
        let rows = self.rows_of(file, run, &(place.at..end), place).await?;
        if rows.start == rows.end {
            return Ok(LookedUp {
                to: Offset(end),
                ..LookedUp::default()
            });
        }
        let found = Group::holding(&footer, rows.start);
        let mut group = found.ok_or_else(|| place.damaged(&file.key))?;
        let rows = rows.start..rows.end.min(group.end);
        let offsets: Arc<[u64]> = if run.is_sparse() {
            let ours = group.start.max(run.rows().start)..group.end.min(run.rows().end);
            let known = self.offsets(file, ours.clone(), place).await?;
            let skipped = usize::try_from(rows.start - ours.start).unwrap_or(usize::MAX);
            let count = usize::try_from(rows.end - rows.start).unwrap_or(usize::MAX);
            known.iter().skip(skipped).take(count).copied().collect()
        } else {
            (place.at..place.at + (rows.end - rows.start)).collect()
        };
        let count = rows.end - rows.start;
        let end = offsets.last().map_or(end, |last| last.saturating_add(1));
        let filter = group.rules_out(checked, footer, lookup).await;
        let stored_ms = file.stored_first_ms.zip(file.stored_last_ms);
        if filter.map_err(unreadable)? {
            return Ok(LookedUp {
                to: Offset(end),
                ruled_out: count,
                stored_ms,
                ..LookedUp::default()
            });
        }
        let column = [lookup.column()];
        let batches = self.batches(file, rows, &column, place);
        let mut batches = batches.await?;
        let mut found = LookedUp {
            to: Offset(end),
            compared: count,
            bytes: group.bytes,
            stored_ms,
            ..LookedUp::default()
        };
        let mut left = offsets.iter();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(unreadable)?;
            let rows = lookup.rows(&batch);
            for is_match in rows.ok_or_else(|| place.damaged(&file.key))? {
                let at = left.next().ok_or_else(|| place.damaged(&file.key))?;
                found.matches.extend(is_match.then_some(Offset(*at)));
            }
        }
        if left.next().is_some() {
            return Err(place.damaged(&file.key));
        }
        Ok(found)
    }
}

/// A row group of a file.
struct Group {
    index: usize,
    /// Its first row, in the file.
    start: u64,
    /// One past its last row, in the file.
    end: u64,
    /// Bytes of the column that is looked at, 0 while it is not known.
    bytes: u64,
}

impl Group {
    fn holding(footer: &ArrowReaderMetadata, row: u64) -> Option<Self> {
        let (mut start, mut end) = (0, 0);
        let groups = footer.metadata().row_groups();
        let index = groups.iter().position(|group| {
            start = end;
            end += u64::try_from(group.num_rows()).unwrap_or(0);
            row < end
        })?;
        Some(Self {
            index,
            start,
            end,
            bytes: 0,
        })
    }

    /// Whether no row of the group can match.
    async fn rules_out(
        &mut self,
        checked: CheckedFile,
        footer: ArrowReaderMetadata,
        lookup: &Lookup,
    ) -> Result<bool, ParquetError> {
        let metadata = Arc::clone(footer.metadata());
        let mut columns = metadata.row_group(self.index).columns().iter();
        let leaf = columns.position(|column| column.column_path().string() == lookup.leaf());
        let Some(leaf) = leaf else {
            return Ok(false);
        };
        let column = metadata.row_group(self.index).column(leaf);
        self.bytes = u64::try_from(column.compressed_size()).unwrap_or(0);
        let mut reader = ParquetRecordBatchStreamBuilder::new_with_metadata(checked, footer);
        let filter = reader.get_row_group_column_bloom_filter(self.index, leaf);
        let filter = filter.await?;
        Ok(filter.is_some_and(|filter| !filter.check(lookup.value())))
    }
}

impl LookedUp {
    /// Adds a step that began where this one ended.
    pub fn add(&mut self, step: Self) {
        self.matches.extend(step.matches);
        self.to = step.to;
        self.compared += step.compared;
        self.ruled_out += step.ruled_out;
        self.bytes += step.bytes;
        let ranges = [self.stored_ms, step.stored_ms].into_iter().flatten();
        self.stored_ms = ranges.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
    }
}

#[cfg(test)]
mod tests;
