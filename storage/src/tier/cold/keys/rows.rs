//! The rows of a file that is compacted by key: reading them run by run, and a file without some of them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use futures::StreamExt as _;
use millpond_proto::message::TopicId;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::errors::ParquetError;

use crate::format::hole::Hole;
use crate::format::manifest::{File, Run};
use crate::tier::cold::compaction::MergeError;
use crate::tier::cold::keys::Going;
use crate::tier::cold::sparse::Walk;
use crate::tier::cold::{Cold, file_key, objects_failed, parquet_failed};
use crate::tier::columns::{typed_names, with_typed};
use crate::tier::parquet::{self as file, CheckedFile, Made, Merge};

/// What is left of a file.
pub(super) struct Left {
    /// None when it is nothing.
    pub(super) made: Option<Made>,
    /// Offsets that nothing of it covers.
    pub(super) holes: Vec<Hole>,
}

impl Cold {
    /// A file without some of its rows.
    pub(super) async fn without_rows(
        &self,
        topic: TopicId,
        source: &File,
        going: &Going,
        number: u64,
    ) -> Result<Left, MergeError> {
        let failed = |error| MergeError::Tier(parquet_failed(topic)(error));
        let unreadable = |error| MergeError::unreadable(source, error);
        let typed = self.columns_of(topic);
        let mut names: Vec<String> = file::column_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        // Typed columns of the same declaration are taken over, others are made of the bodies anew.
        let made_anew = typed
            .as_deref()
            .filter(|typed| typed.id() != source.columns);
        if let Some(typed) = typed.as_deref().filter(|_| made_anew.is_none()) {
            names.extend(typed_names(typed));
        }
        let read: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut rows = Rows::open(self, source, &read).await?;
        let mut merge = Merge::new(topic, typed.as_deref()).map_err(failed)?;
        let mut holes = Vec::new();
        for run in &source.runs {
            let mut walk = Walk::new(*run);
            let mut from = run.base;
            while let Some((first_row, batch)) = rows.next_of(run).await? {
                let offsets = walk.next(&batch).map_err(unreadable)?;
                let first = usize::try_from(first_row).unwrap_or(usize::MAX);
                let going = going.iter().skip(first).take(batch.num_rows());
                let stays: BooleanArray = going.map(|goes| Some(!goes)).collect();
                let batch = file::arrange(&batch, &names).map_err(unreadable)?;
                let batch = filter_record_batch(&batch, &stays)
                    .map_err(|error| unreadable(ParquetError::from(error)))?;
                if batch.num_rows() == 0 {
                    continue;
                }
                let batch = match made_anew {
                    Some(typed) => with_typed(&batch, typed)
                        .map_err(|error| unreadable(ParquetError::from(error)))?,
                    None => batch,
                };
                let covered = from..offsets.end;
                from = offsets.end;
                merge.add(run.queue, covered, &batch).map_err(unreadable)?;
            }
            let left = from..run.offsets().end;
            if left.start < left.end && !merge.cover(run.queue, &left) {
                holes.push(Hole {
                    queue: run.queue,
                    first: left.start,
                    end: left.end,
                });
            }
        }
        if merge.is_empty() {
            return Ok(Left { made: None, holes });
        }
        // The times of what it was made of: it stays the file of its day.
        let (first, last) = (source.stored_first_ms, source.stored_last_ms);
        let made = merge.finish(file_key(topic, number), first, last);
        let mut made = made.map_err(failed)?;
        made.file.compacted = source.compacted;
        made.file.hidden = source.hidden;
        Ok(Left {
            made: Some(made),
            holes,
        })
    }
}

/// The rows of a file, run by run, of a copy in memory: it is fetched once.
pub(super) struct Rows<'a> {
    source: &'a File,
    checked: CheckedFile,
    footer: parquet::arrow::arrow_reader::ArrowReaderMetadata,
    columns: Vec<String>,
    run: usize,
    open: Option<Open>,
}

struct Open {
    batches: parquet::arrow::async_reader::ParquetRecordBatchStream<CheckedFile>,
    rows: Range<u64>,
}

impl<'a> Rows<'a> {
    /// Nothing is read of the runs yet.
    pub(super) async fn open(
        cold: &Cold,
        source: &'a File,
        columns: &[&str],
    ) -> Result<Self, MergeError> {
        let unreadable = |error| MergeError::unreadable(source, error);
        let mut checked = CheckedFile::new(&cold.objects, source);
        // A few columns are read from where they lie, all of them from a copy.
        if columns.len() > 3 {
            let copies: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let bytes = checked.all().await.map_err(unreadable)?;
            let path = Path::from(source.key.as_str());
            copies
                .put(&path, bytes.into())
                .await
                .map_err(|error| MergeError::Tier(objects_failed("copy a file")(error)))?;
            checked = CheckedFile::new(&copies, source);
        }
        let footer = file::footer(checked.clone(), source).await;
        Ok(Self {
            source,
            footer: footer.map_err(unreadable)?,
            checked,
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            run: 0,
            open: None,
        })
    }

    /// The next rows of any run, with the first one's number.
    pub(super) async fn next(&mut self) -> Result<Option<(Run, u64, RecordBatch)>, MergeError> {
        while let Some(run) = self.source.runs.get(self.run).copied() {
            if let Some((first, batch)) = self.next_of(&run).await? {
                return Ok(Some((run, first, batch)));
            }
        }
        Ok(None)
    }

    /// The next rows of the run whose turn it is; none once they are over, and then it is the next one's turn.
    async fn next_of(&mut self, run: &Run) -> Result<Option<(u64, RecordBatch)>, MergeError> {
        let unreadable = |error| MergeError::unreadable(self.source, error);
        if self.open.is_none() {
            let names: Vec<&str> = self.columns.iter().map(String::as_str).collect();
            let (checked, footer) = (self.checked.clone(), self.footer.clone());
            let batches = file::batches(checked, footer, run.rows(), &names);
            self.open = Some(Open {
                batches: batches.map_err(unreadable)?,
                rows: run.rows(),
            });
        }
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        let Some(batch) = open.batches.next().await else {
            let is_over = open.rows.start == open.rows.end;
            self.open = None;
            self.run += 1;
            if is_over {
                return Ok(None);
            }
            let ends = ParquetError::General("its rows end early".to_owned());
            return Err(MergeError::unreadable(self.source, ends));
        };
        let batch = batch.map_err(|error| MergeError::unreadable(self.source, error))?;
        let first = open.rows.start;
        open.rows.start += batch.num_rows() as u64;
        Ok(Some((first, batch)))
    }
}

/// The offsets of rows.
pub(super) fn offsets(source: &File, batch: &RecordBatch) -> Result<Vec<u64>, MergeError> {
    let missing = || ParquetError::General("the column offset is missing".to_owned());
    file::offsets_of(batch).ok_or_else(|| MergeError::unreadable(source, missing()))
}

/// The keys of rows.
pub(super) fn keys<'a>(
    source: &File,
    batch: &'a RecordBatch,
) -> Result<&'a arrow::array::BinaryArray, MergeError> {
    let column = batch.column_by_name("key");
    let keys = column.and_then(|column| column.as_binary_opt::<i32>());
    let missing = || ParquetError::General("the column key is missing".to_owned());
    keys.ok_or_else(|| MergeError::unreadable(source, missing()))
}
