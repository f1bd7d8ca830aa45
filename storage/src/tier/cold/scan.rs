//! Columns of a range of offsets, file by file and run by run, with typed columns instead of bodies where that is wanted
//! and files have them.
//!
//! **Invariants.** Rows come in the order of offsets. What a file gives is what the manifest says: a missing row is an error
//! that names its place. A scan keeps the manifest that it began with.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use millpond_proto::message::{Offset, QueueId, TopicId};
use parquet::arrow::async_reader::ParquetRecordBatchStream;

use crate::error::ReadError;
use crate::format::manifest::{File, Index, Run};
use crate::tier::cold::Cold;
use crate::tier::cold::family::Shelf;
use crate::tier::cold::reading::Place;
use crate::tier::cold::typed::{Reads, Typed};
use crate::tier::parquet::{self as file, CheckedFile};

impl Cold {
    /// Columns of the cold messages in `range`, in offset order.
    ///
    /// The range is cut to what is cold. A damaged message ends the stream with an error.
    pub fn scan(
        self: &Arc<Self>,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        reads: &Reads,
    ) -> BoxStream<'static, Result<RecordBatch, ReadError>> {
        let shelf = self.shelf(topic, queue);
        let extent = shelf
            .as_ref()
            .and_then(|shelf| shelf.index.extent(shelf.lane));
        let (Some(Shelf { index, lane }), Some(extent)) = (shelf, extent) else {
            return stream::empty().boxed();
        };
        let scan = Scan {
            cold: Arc::clone(self),
            manifest: index,
            place: Place {
                topic,
                queue,
                lane,
                at: range.start.0.max(extent.start),
            },
            end: range.end.0.min(extent.end),
            reads: reads.clone(),
            open: None,
        };
        stream::try_unfold(scan, |mut scan| async move {
            let batch = scan.next().await?;
            Ok(batch.map(|batch| (batch, scan)))
        })
        .boxed()
    }
}

/// A scan on its way.
struct Scan {
    cold: Arc<Cold>,
    manifest: Arc<Index>,
    place: Place,
    end: u64,
    reads: Reads,
    open: Option<Open>,
}

/// The part of a run that is being read.
struct Open {
    batches: ParquetRecordBatchStream<CheckedFile>,
    file: File,
    /// The columns that are answered, in that order.
    names: Vec<String>,
    /// Whether rows of it are passed over.
    has_skipped: bool,
    /// Rows still to come.
    left: u64,
    /// Where the scan goes on behind it.
    until: u64,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        loop {
            let Some(open) = &mut self.open else {
                let manifest = Arc::clone(&self.manifest);
                let Some((file, run)) = self.place.seek(&manifest, self.end)? else {
                    return Ok(None);
                };
                let until = run.offsets().end.min(self.end);
                self.open = self.open(file, run, until).await?;
                if self.open.is_none() {
                    self.place.at = until;
                }
                continue;
            };
            let Some(batch) = open.batches.next().await else {
                if open.left != 0 {
                    return Err(self.place.damaged(&open.file.key));
                }
                self.place.at = open.until;
                self.open = None;
                continue;
            };
            let batch = batch
                .and_then(|batch| file::arrange(&batch, &open.names))
                .map_err(|error| self.place.unreadable(&open.file, error))?;
            let rows = batch.num_rows() as u64;
            open.left = open
                .left
                .checked_sub(rows)
                .ok_or_else(|| self.place.damaged(&open.file.key))?;
            if !open.has_skipped {
                // Exact in a dense run; in a sparse one it is only told where damage is.
                self.place.at = (self.place.at + rows).min(open.until);
            }
            return Ok(Some(batch));
        }
    }

    /// None when nothing of the run need be read. Alone with the scan, because what is open can not be shared between threads.
    async fn open(&mut self, file: &File, run: Run, until: u64) -> Result<Option<Open>, ReadError> {
        let place = self.place;
        let offsets = place.at..until;
        let rows = self.cold.rows_of(file, run, &offsets, place).await?;
        if rows.start >= rows.end {
            return Ok(None);
        }
        let footer = self.cold.footer(file, place).await?;
        let typed = self.reads.typed_of(file.columns);
        let skipped = typed.map_or_else(Vec::new, |typed| typed.skipped(&footer));
        let names = typed.map_or_else(|| self.reads.envelope.clone(), Typed::names);
        let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
        let checked = CheckedFile::new(&self.cold.objects, file);
        let is_kept = |group: usize| !skipped.get(group).copied().unwrap_or(false);
        let opened = file::batches_of(checked, footer, rows, &wanted, is_kept)
            .map_err(|error| place.unreadable(file, error))?;
        Ok(opened.map(|(batches, left)| Open {
            batches,
            file: file.clone(),
            names,
            has_skipped: skipped.contains(&true),
            left,
            until,
        }))
    }
}
