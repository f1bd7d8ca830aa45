//! Reading typed columns instead of bodies where files have them.
//!
//! **Invariants.** Rows come in the order of offsets, as in any scan. A batch has either the columns asked for of
//! the envelope, or those asked for of a typed file and then [`ERROR`] among them, so that a reader tells one from the
//! other. Rows that a [`Skip`] passes over are whole row groups in which every body parses: what is
//! said of bodies that do not is the same whether or not rows are passed over.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use millpond_proto::message::{Offset, QueueId, TopicId};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::file::statistics::Statistics;

use crate::error::ReadError;
use crate::format::manifest::{File, Index, Run};
use crate::tier::cold::Cold;
use crate::tier::cold::family::Shelf;
use crate::tier::cold::reading::Place;
use crate::tier::columns::{ERROR, stored_name};
use crate::tier::parquet::{self as file, CheckedFile};

/// What is read of files that have typed columns.
#[derive(Clone, Debug)]
pub struct Typed {
    /// The declaration; files of another one are read by their bodies.
    pub declaration: u64,
    /// Columns of the envelope.
    pub envelope: Vec<String>,
    /// Declared columns, by their declared names.
    pub columns: Vec<String>,
    /// What need not be read.
    pub skip: Option<Arc<dyn Skip>>,
}

/// Says which row groups of a file can not hold a row that is looked for.
pub trait Skip: fmt::Debug + Send + Sync {
    /// One answer per row group of the file: whether it may be passed over.
    fn skipped(&self, footer: &ArrowReaderMetadata) -> Vec<bool>;
}

impl Typed {
    fn names(&self) -> Vec<String> {
        let mut names = self.envelope.clone();
        names.push(ERROR.to_owned());
        names.extend(self.columns.iter().map(|name| stored_name(name)));
        names
    }
}

impl Cold {
    /// As [`Cold::scan`], with typed columns instead of `columns` where files have them.
    pub fn scan_typed(
        self: &Arc<Self>,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        columns: &[&str],
        typed: Typed,
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
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            names: typed.names(),
            typed,
            open: None,
        };
        stream::try_unfold(scan, |mut scan| async move {
            let batch = scan.next().await?;
            Ok(batch.map(|batch| (batch, scan)))
        })
        .boxed()
    }
}

/// A scan on its way; it keeps the manifest that it began with.
struct Scan {
    cold: Arc<Cold>,
    manifest: Arc<Index>,
    place: Place,
    end: u64,
    columns: Vec<String>,
    typed: Typed,
    /// Names in a typed file, in the order of the answer.
    names: Vec<String>,
    open: Option<Open>,
}

/// The part of a run that is being read.
struct Open {
    batches: ParquetRecordBatchStream<CheckedFile>,
    file: File,
    is_typed: bool,
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
            let names = if open.is_typed {
                &self.names
            } else {
                &self.columns
            };
            let batch = batch
                .and_then(|batch| file::arrange(&batch, names))
                .map_err(|error| self.place.unreadable(&open.file, error))?;
            let rows = batch.num_rows() as u64;
            open.left = open
                .left
                .checked_sub(rows)
                .ok_or_else(|| self.place.damaged(&open.file.key))?;
            return Ok(Some(batch));
        }
    }

    /// None when nothing of the run need be read.
    async fn open(&mut self, file: &File, run: Run, until: u64) -> Result<Option<Open>, ReadError> {
        let place = self.place;
        let is_typed = file.columns == self.typed.declaration;
        let footer = self.cold.footer(file, place).await?;
        let skipped = match &self.typed.skip {
            Some(skip) if is_typed => skip.skipped(&footer),
            _ => Vec::new(),
        };
        let all_parse = |group: usize| is_all_null(&footer, group);
        let is_kept = |group: usize| {
            let is_skipped = skipped.get(group).copied().unwrap_or(false);
            !(is_skipped && all_parse(group))
        };
        let names = if is_typed { &self.names } else { &self.columns };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let offsets = place.at..until;
        let rows = self.cold.rows_of(file, run, &offsets, place).await?;
        if rows.start >= rows.end {
            return Ok(None);
        }
        let checked = CheckedFile::new(&self.cold.objects, file);
        let opened = file::batches_of(checked, footer.clone(), rows, &names, is_kept)
            .map_err(|error| place.unreadable(file, error))?;
        Ok(opened.map(|(batches, left)| Open {
            batches,
            file: file.clone(),
            is_typed,
            left,
            until,
        }))
    }
}

/// Whether every body of a row group parses, by what the footer counts.
fn is_all_null(footer: &ArrowReaderMetadata, group: usize) -> bool {
    let group = footer.metadata().row_groups().get(group);
    group.is_some_and(|group| {
        let mut columns = group.columns().iter();
        let errors = columns.find(|column| column.column_path().parts() == [ERROR]);
        let nulls = errors
            .and_then(|column| column.statistics())
            .and_then(Statistics::null_count_opt);
        nulls.is_some() && nulls == u64::try_from(group.num_rows()).ok()
    })
}
