//! Reads of the cold tier: whole messages from an offset on; columns of a range of offsets are `scan`'s.
//!
//! Both find the file and run of an offset in the manifest that they began with, and check that what a file gives is what the
//! manifest says: a damaged message is an error that names its place, never a missing or another one.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt as _;
use millpond_proto::message::{Offset, QueueId, TopicId};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::errors::ParquetError;

use crate::error::ReadError;
use crate::format::columns::from_batch;
use crate::format::envelope::Envelope;
use crate::format::manifest::{File, Index, Run};
use crate::log::ReadLimit;
use crate::tier::cold::Cold;
use crate::tier::cold::family::Shelf;
use crate::tier::parquet::{self as file, CheckedFile};

/// Footers kept in memory.
const FOOTERS_MAX: usize = 256;
/// Rows asked for at first in a read; doubled while the limit allows more.
const READ_ROWS_FIRST: u64 = 64;
/// Most rows asked for at once in a read.
const READ_ROWS_MAX: u64 = 8192;

/// Parsed footers by file key, the least recently used going first.
#[derive(Default)]
pub(super) struct Footers {
    by_key: HashMap<String, (ArrowReaderMetadata, u64)>,
    uses: u64,
}

impl fmt::Debug for Footers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} footers", self.by_key.len())
    }
}

impl Footers {
    pub(super) fn get(&mut self, key: &str) -> Option<ArrowReaderMetadata> {
        self.uses += 1;
        let (footer, used) = self.by_key.get_mut(key)?;
        *used = self.uses;
        Some(footer.clone())
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.by_key.remove(key);
    }

    pub(super) fn insert(&mut self, key: &str, footer: ArrowReaderMetadata) {
        self.uses += 1;
        if self.by_key.len() >= FOOTERS_MAX {
            let oldest = self.by_key.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.by_key.remove(&oldest);
            }
        }
        self.by_key.insert(key.to_owned(), (footer, self.uses));
    }
}

impl Cold {
    /// Reads whole messages from `from` on, oldest first. Empty at and above the cold end. The offsets of messages that a
    /// key compaction took away are passed over.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the first cold offset; [`ReadError::Damaged`] when the first message
    /// asked for is damaged (a later damaged one ends the answer before it).
    pub async fn read(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Envelope>, ReadError> {
        let Some(Shelf { index, lane }) = self.shelf(topic, queue) else {
            return Ok(Vec::new());
        };
        let Some(extent) = index.extent(lane) else {
            return Ok(Vec::new());
        };
        if from.0 < extent.start {
            return Err(ReadError::Trimmed {
                topic,
                queue,
                first: Offset(extent.start),
                asked: from,
            });
        }
        let mut answer: Vec<Envelope> = Vec::new();
        let (mut bytes, mut step) = (0_usize, READ_ROWS_FIRST);
        let at = from.0;
        let mut place = Place {
            topic,
            queue,
            lane,
            at,
        };
        while place.at < extent.end && answer.len() < limit.messages {
            let left = Left {
                rows: u64::try_from(limit.messages - answer.len())
                    .unwrap_or(u64::MAX)
                    .min(step),
                bytes: limit.bytes.saturating_sub(bytes) as u64,
            };
            let read = self.read_some(&index, &mut place, extent.end, left);
            let messages = match read.await {
                Ok(messages) => messages,
                Err(error) if answer.is_empty() => return Err(error),
                // Whoever reads on from there meets it.
                Err(_) => return Ok(answer),
            };
            for message in messages {
                bytes = bytes.saturating_add(file::size_of(&message));
                if bytes > limit.bytes && !answer.is_empty() {
                    return Ok(answer);
                }
                answer.push(message);
            }
            step = (step * 2).min(READ_ROWS_MAX);
        }
        Ok(answer)
    }

    /// What may be `left` to read from a place on, which moves behind it; fewer messages at the end of a run or before
    /// damage, none where a run has no more.
    async fn read_some(
        &self,
        manifest: &Index,
        place: &mut Place,
        end: u64,
        left: Left,
    ) -> Result<Vec<Envelope>, ReadError> {
        let Some((file, run)) = place.seek(manifest, end)? else {
            return Ok(Vec::new());
        };
        let first = self.row_from(file, run, place.at, *place).await?;
        let mut count = left.rows_of(file).min(run.rows().end - first);
        if count == 0 {
            place.at = run.offsets().end;
            return Ok(Vec::new());
        }
        let near = self.near(file, run, first..first + count, *place).await?;
        if let Some(batch) = near {
            count = batch.num_rows() as u64;
            if let Ok(messages) = messages_of(&[batch], file, run, *place, count) {
                place.pass(&messages);
                return Ok(messages);
            }
        }
        loop {
            match self
                .read_rows(file, run, *place, first..first + count)
                .await
            {
                // Damage behind the first message must not hide the first.
                Err(ReadError::Damaged { .. }) if count > 1 => count /= 2,
                Ok(messages) => {
                    place.pass(&messages);
                    return Ok(messages);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_rows(
        &self,
        file: &File,
        run: Run,
        place: Place,
        rows: Range<u64>,
    ) -> Result<Vec<Envelope>, ReadError> {
        let columns = file::column_names();
        let count = rows.end - rows.start;
        let mut batches = self.batches(file, rows, &columns, place).await?;
        let mut read = Vec::new();
        while let Some(batch) = batches.next().await {
            read.push(batch.map_err(|error| place.unreadable(file, error))?);
        }
        messages_of(&read, file, run, place, count)
    }

    pub(super) async fn footer(
        &self,
        file: &File,
        place: Place,
    ) -> Result<ArrowReaderMetadata, ReadError> {
        if let Some(known) = self.footers().get(&file.key) {
            return Ok(known);
        }
        let checked = CheckedFile::new(&self.objects, file);
        let footer = file::footer(checked, file).await;
        let footer = footer.map_err(|error| place.unreadable(file, error))?;
        self.footers().insert(&file.key, footer.clone());
        Ok(footer)
    }

    pub(super) async fn batches(
        &self,
        file: &File,
        rows: Range<u64>,
        columns: &[&str],
        place: Place,
    ) -> Result<ParquetRecordBatchStream<CheckedFile>, ReadError> {
        let footer = self.footer(file, place).await?;
        let checked = CheckedFile::new(&self.objects, file);
        file::batches(checked, footer, rows, columns).map_err(|error| place.unreadable(file, error))
    }
}

/// The messages of so many rows of a run, each of which must be the next of its queue.
fn messages_of(
    batches: &[RecordBatch],
    file: &File,
    run: Run,
    place: Place,
    count: u64,
) -> Result<Vec<Envelope>, ReadError> {
    let mut messages = Vec::new();
    for batch in batches {
        let read = from_batch(batch, place.topic).map_err(|_| place.damaged(&file.key))?;
        messages.extend(read);
    }
    let mut next = place.at;
    let mut is_expected = |m: &Envelope| {
        let is_next = if run.is_sparse() {
            (next..run.offsets().end).contains(&m.offset)
        } else {
            m.offset == next
        };
        next = m.offset.saturating_add(1);
        m.queue == place.queue.0 && is_next
    };
    if messages.len() as u64 != count || !messages.iter().all(&mut is_expected) {
        return Err(place.damaged(&file.key));
    }
    Ok(messages)
}

/// How much more a read is to bring.
#[derive(Clone, Copy)]
struct Left {
    rows: u64,
    bytes: u64,
}

impl Left {
    /// Rows of a file to decode: no more than are likely to be handed on, because what is above the limit is thrown
    /// away. At least one.
    fn rows_of(self, file: &File) -> u64 {
        let bytes_of_a_row = file.bytes.checked_div(file.rows).unwrap_or(0).max(1);
        self.rows.min(self.bytes / bytes_of_a_row + 1)
    }
}

/// What is being read, for lookups and errors.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) topic: TopicId,
    pub(super) queue: QueueId,
    /// What the manifest calls the queue: its number, or its lane in a family.
    pub(super) lane: u32,
    pub(super) at: u64,
}

impl Place {
    /// Moves behind what was read.
    fn pass(&mut self, read: &[Envelope]) {
        let last = read.last().map_or(self.at, |last| last.offset);
        self.at = last.saturating_add(1);
    }

    pub(super) fn damaged(&self, place: &str) -> ReadError {
        ReadError::Damaged {
            topic: self.topic,
            queue: self.queue,
            offset: Offset(self.at),
            place: place.to_owned(),
        }
    }

    pub(super) fn unreadable(&self, file: &File, error: ParquetError) -> ReadError {
        match file::store_error(error) {
            Ok(source) => ReadError::Objects {
                place: file.key.clone(),
                source: Arc::new(source),
            },
            Err(_) => self.damaged(&file.key),
        }
    }
}
