//! Making few large files of many small ones.
//!
//! **Invariants.** Only neighbours in the manifest are merged, so the offsets of each queue rise from file to
//! file as before. Every row comes back as it was, at its offset. Readers that began before read the old
//! files, which are removed when the last of them is done. A crash leaves the old files or the new one.
//!
//! Files of one day of store time are merged with such of the same day only: each stays a partition of the topic's
//! table. A damaged file stays as it is, and so do its neighbours' boundaries with it.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt as _;
use millpond_proto::message::TopicId;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::errors::ParquetError;

use crate::error::TierError;
use crate::format::manifest::File;
use crate::tier::cold::{Cold, file_key, objects_failed, parquet_failed};
use crate::tier::columns::{typed_names, with_typed};
use crate::tier::parquet::{self as file, CheckedFile, Merge};

/// Bytes up to which small files are merged.
pub const TARGET_BYTES: u64 = 128 * 1024 * 1024;

/// Which files to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Fewest neighbours worth a merge.
    pub files_min: usize,
    /// Most bytes of the files that become one.
    pub target_bytes: u64,
    /// Longest time between the first and the last message of one file, so that it grows old as a whole.
    pub span_ms_max: Option<i64>,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            files_min: 2,
            target_bytes: TARGET_BYTES,
            span_ms_max: None,
        }
    }
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files that were merged.
    pub files_merged: u64,
    /// Files that were made of them.
    pub files_made: u64,
    /// Bytes of the files that were merged.
    pub bytes_merged: u64,
    /// Bytes of the files that were made.
    pub bytes_made: u64,
}

impl Cold {
    /// Merges small neighbouring files of a topic until there is nothing left to merge.
    ///
    /// # Errors
    /// [`TierError`]; what was merged before stays merged.
    pub async fn compact(&self, topic: TopicId, how: Compaction) -> Result<Compacted, TierError> {
        let mut done = Compacted::default();
        let mut left_alone: HashSet<String> = HashSet::new();
        loop {
            let _turn = self.turn.lock().await;
            if self.is_gone(topic) {
                return Ok(done);
            }
            let (current, expected) = self.current(topic).await?;
            let Some(chosen) = choose(&current.manifest().files, how, &left_alone) else {
                return Ok(done);
            };
            let mut next = current.manifest().clone();
            let extents = next.extents();
            let files: Vec<File> = next.files.get(chosen.clone()).unwrap_or_default().to_vec();
            let made = match self.merge(topic, &files, &extents, next.next_file).await {
                Ok(made) => made,
                Err(MergeError::Damaged(key, error)) => {
                    tracing::error!(%topic, key, %error, "a damaged file is left as it is");
                    left_alone.insert(key);
                    continue;
                }
                Err(MergeError::Tier(error)) => return Err(error),
            };
            let file = self.put_file(topic, &mut next.next_file, made).await?;
            done.files_merged += files.len() as u64;
            done.bytes_merged += files.iter().map(|file| file.bytes).sum::<u64>();
            done.files_made += 1;
            done.bytes_made += file.bytes;
            next.files.splice(chosen, [file]);
            next.set_extents(&extents);
            self.swap(topic, current, expected, next).await?;
        }
    }

    async fn merge(
        &self,
        topic: TopicId,
        files: &[File],
        extents: &BTreeMap<u32, Range<u64>>,
        number: u64,
    ) -> Result<file::Made, MergeError> {
        let failed = |error| MergeError::Tier(parquet_failed(topic)(error));
        // Each file is fetched once: its queues are read one after the other.
        let copies: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut sources = Vec::new();
        for source in files {
            let damaged = |error| MergeError::unreadable(source, error);
            let bytes = CheckedFile::new(&self.objects, source)
                .all()
                .await
                .map_err(damaged)?;
            let path = Path::from(source.key.as_str());
            copies
                .put(&path, bytes.into())
                .await
                .map_err(|e| MergeError::Tier(objects_failed("copy a file")(e)))?;
            let copy = CheckedFile::new(&copies, source);
            let footer = file::footer(copy.clone(), source).await.map_err(damaged)?;
            sources.push((source, copy, footer));
        }
        let mut runs: Vec<_> = sources
            .iter()
            .flat_map(|source| source.0.runs.iter().map(move |run| (source, *run)))
            .collect();
        runs.sort_by_key(|(_, run)| (run.queue, run.base));
        let typed = self.columns_of(topic);
        let columns = file::column_names();
        let mut merge = Merge::new(topic, typed.as_deref()).map_err(failed)?;
        for ((source, copy, footer), run) in runs {
            let damaged = |error| MergeError::unreadable(source, error);
            let first = extents.get(&run.queue).map_or(0, |extent| extent.start);
            let mut at = run.base.max(first);
            if at >= run.offsets().end {
                continue; // Deleted.
            }
            let row = |offset: u64| run.first_row + (offset - run.base);
            let rows = row(at)..row(run.offsets().end);
            let mut names: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
            // Typed columns of the same declaration are taken over, others are made of the bodies anew.
            let made_anew = typed
                .as_deref()
                .filter(|typed| typed.id() != source.columns);
            if let Some(typed) = typed.as_deref().filter(|_| made_anew.is_none()) {
                names.extend(typed_names(typed));
            }
            let read: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut batches =
                file::batches(copy.clone(), footer.clone(), rows, &read).map_err(damaged)?;
            while let Some(batch) = batches.next().await {
                let batch = batch
                    .and_then(|batch| match made_anew {
                        Some(typed) => Ok(with_typed(&file::arrange(&batch, &names)?, typed)?),
                        None => file::arrange(&batch, &names),
                    })
                    .map_err(damaged)?;
                merge.add(run.queue, at, &batch).map_err(damaged)?;
                at += batch.num_rows() as u64;
            }
            if at != run.offsets().end {
                let ends = ParquetError::General("its rows end early".to_owned());
                return Err(damaged(ends));
            }
        }
        let first = files
            .iter()
            .map(|file| file.stored_first_ms)
            .min()
            .flatten();
        let last = files.iter().map(|file| file.stored_last_ms);
        let last = last
            .collect::<Option<Vec<i64>>>()
            .and_then(|all| all.into_iter().max());
        merge
            .finish(file_key(topic, number), first, last)
            .map_err(failed)
    }
}

enum MergeError {
    /// This file can not be read.
    Damaged(String, ParquetError),
    Tier(TierError),
}

impl MergeError {
    fn unreadable(source: &File, error: ParquetError) -> Self {
        match file::store_error(error) {
            Ok(error) => Self::Tier(objects_failed(format!("read {}", source.key))(error)),
            Err(error) => Self::Damaged(source.key.clone(), error),
        }
    }
}

/// The first neighbours that are worth merging.
///
/// None of them is larger than all others together, so a large file is not written again for each small
/// one that comes behind it; where fewest is two, whatever fits is merged.
fn choose(files: &[File], how: Compaction, left_alone: &HashSet<String>) -> Option<Range<usize>> {
    let mut start = 0;
    while start < files.len() {
        let (mut end, mut bytes) = (start, 0_u64);
        while let Some(file) = files.get(end) {
            let chosen = files.get(start..=end).unwrap_or_default();
            if left_alone.contains(&file.key)
                || bytes.saturating_add(file.bytes) > how.target_bytes
                || !within(chosen, how.span_ms_max)
            {
                break;
            }
            bytes += file.bytes;
            end += 1;
        }
        let chosen = files.get(start..end).unwrap_or_default();
        let largest = chosen.iter().map(|file| file.bytes).max().unwrap_or(0);
        let is_even = how.files_min <= 2 || largest <= bytes - largest;
        if chosen.len() >= how.files_min.max(2) && is_even {
            return Some(start..end);
        }
        start += 1;
    }
    None
}

fn within(files: &[File], span_ms_max: Option<i64>) -> bool {
    // A file of one day stays one: it is a partition of the topic's table.
    let day = files.first().and_then(File::day);
    if files.iter().any(|file| file.day() != day) {
        return false;
    }
    let Some(span_ms_max) = span_ms_max else {
        return true;
    };
    let first = files.iter().filter_map(|file| file.stored_first_ms).min();
    let last = files.iter().filter_map(|file| file.stored_last_ms).max();
    first
        .zip(last)
        .is_none_or(|(first, last)| last.saturating_sub(first) <= span_ms_max)
}
