//! Making few large files of many small ones.
//!
//! **Invariants.** Only neighbours in the manifest are merged, so the offsets of each queue rise from file to
//! file as before. Every row comes back as it was, at its offset. Readers that began before read the old
//! files, which are removed when the last of them is done. A crash leaves the old files or the new one.
//!
//! Files of one day of store time are merged with such of the same day only: each stays a partition of the topic's
//! table. A damaged file stays as it is, and so do its neighbours' boundaries with it.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt as _;
use millpond_proto::message::TopicId;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::errors::ParquetError;

use crate::error::TierError;
use crate::format::family::settle;
use crate::format::hole::Hole;
use crate::format::manifest::{File, Index, Manifest, Run};
use crate::tier::cold::sparse::Walk;
use crate::tier::cold::{Cold, file_key, objects_failed, parquet_failed};
use crate::tier::columns::{typed_names, with_typed};
use crate::tier::parquet::{self as file, CheckedFile, Merge};

/// Bytes up to which small files are merged.
pub const TARGET_BYTES: u64 = 128 * 1024 * 1024;
/// Most files of a family merged at once: they are read side by side.
const FAMILY_FILES_MAX: usize = 64;

/// Which files to merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Fewest neighbours worth a merge.
    pub files_min: usize,
    /// Most bytes of the files that become one.
    pub target_bytes: u64,
    /// Longest time between the first and the last message of one file, so that it grows old as a whole.
    pub span_ms_max: Option<i64>,
    /// Whether files of several days may become one: where key compaction leaves little of each, or nobody sees the
    /// topic as a table.
    pub across_days: bool,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            files_min: 2,
            target_bytes: TARGET_BYTES,
            span_ms_max: None,
            across_days: false,
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
    /// Merges small neighbouring files of a topic, or of its family, until there is nothing left to merge, and writes those
    /// anew of which most is not kept any more.
    ///
    /// # Errors
    /// [`TierError`]; what was merged before stays merged.
    pub async fn compact(&self, topic: TopicId, how: Compaction) -> Result<Compacted, TierError> {
        let topic = self.family_of(topic).unwrap_or(topic);
        let mut done = Compacted::default();
        let mut left_alone: HashSet<String> = HashSet::new();
        loop {
            let _turn = self.turn.lock().await;
            if self.is_gone(topic) {
                return Ok(done);
            }
            let (current, expected) = self.current(topic).await?;
            let is_family = current.lanes().is_some();
            let chosen = choose(&current.manifest().files, how, &left_alone);
            let chosen = match chosen {
                Some(chosen) if is_family => {
                    Some(chosen.start..chosen.end.min(chosen.start + FAMILY_FILES_MAX))
                }
                None => mostly_gone(&current, &left_alone),
                chosen => chosen,
            };
            let Some(chosen) = chosen else {
                return Ok(done);
            };
            let mut next = current.manifest().clone();
            let mut extents = next.extents();
            let files: Vec<File> = next.files.get(chosen.clone()).unwrap_or_default().to_vec();
            let merged = if is_family {
                let made = self.merge_family(topic, &files, &current, next.next_file);
                made.await.map(|made| Merged {
                    made,
                    holes: Vec::new(),
                })
            } else {
                let merged = self.merge(topic, &files, current.manifest(), next.next_file);
                merged.await
            };
            let Merged { made, mut holes } = match merged {
                Ok(merged) => merged,
                Err(MergeError::Damaged(key, error)) => {
                    tracing::error!(%topic, key, %error, "a damaged file is left as it is");
                    left_alone.insert(key);
                    continue;
                }
                Err(MergeError::Tier(error)) => return Err(error),
            };
            let file = match made {
                Some(made) => Some(self.put_file(topic, &mut next.next_file, made).await?),
                None => None,
            };
            done.files_merged += files.len() as u64;
            done.bytes_merged += files.iter().map(|file| file.bytes).sum::<u64>();
            done.files_made += u64::from(file.is_some());
            done.bytes_made += file.as_ref().map_or(0, |file| file.bytes);
            next.files.splice(chosen, file);
            next.holes.append(&mut holes);
            next.set_extents(&extents);
            settle(&mut next, &mut extents, |topic| self.is_gone(topic));
            self.swap(topic, current, expected, next).await?;
        }
    }

    async fn merge(
        &self,
        topic: TopicId,
        files: &[File],
        manifest: &Manifest,
        number: u64,
    ) -> Result<Merged, MergeError> {
        let extents = manifest.extents();
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
        let mut holes = Vec::new();
        for ((source, copy, footer), run) in runs {
            let damaged = |error| MergeError::unreadable(source, error);
            let first = extents.get(&run.queue).map_or(0, |extent| extent.start);
            let at = run.base.max(first);
            if at >= run.offsets().end {
                continue; // Deleted.
            }
            if let Some(end) = merge.end_of(run.queue)
                && manifest
                    .holes
                    .iter()
                    .any(|hole| (hole.queue, hole.first, hole.end) == (run.queue, end, at))
            {
                // Nothing is left between them: one run covers it all.
                merge.cover(run.queue, &(end..at));
            }
            // In a sparse run the offsets say which rows are deleted.
            let mut walk = if run.is_sparse() {
                Walk::new(run)
            } else {
                Walk::from(run, at)
            };
            let skipped = if run.is_sparse() { 0 } else { at - run.base };
            let mut from = at;
            let rows = run.first_row + skipped..run.rows().end;
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
                let offsets = walk.next(&batch).map_err(damaged)?;
                let batch = from_offset(at, &offsets, batch).map_err(damaged)?;
                if batch.num_rows() > 0 {
                    let covered = from..offsets.end;
                    from = offsets.end;
                    merge.add(run.queue, covered, &batch).map_err(damaged)?;
                }
            }
            let left = from..run.offsets().end;
            if left.start < left.end && !merge.cover(run.queue, &left) {
                holes.push(Hole {
                    queue: run.queue,
                    first: left.start,
                    end: left.end,
                });
            }
            if !walk.is_over() {
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
        if merge.is_empty() {
            return Ok(Merged { made: None, holes });
        }
        let made = merge.finish(file_key(topic, number), first, last);
        let mut made = made.map_err(failed)?;
        made.file.compacted = files.iter().all(|file| file.compacted);
        made.file.hidden = files.iter().all(|file| file.hidden);
        Ok(Merged {
            made: Some(made),
            holes,
        })
    }
}

/// What became of files.
struct Merged {
    /// None when none of their messages are kept.
    made: Option<file::Made>,
    /// Offsets that are kept and that nothing of the file covers.
    holes: Vec<Hole>,
}

/// The rows at or behind an offset, of rows that stand for `offsets`.
fn from_offset(
    at: u64,
    offsets: &Range<u64>,
    batch: RecordBatch,
) -> Result<RecordBatch, ParquetError> {
    if offsets.start >= at {
        return Ok(batch);
    }
    let missing = || ParquetError::General("the column offset is missing".to_owned());
    let known = file::offsets_of(&batch).ok_or_else(missing)?;
    let below = known.partition_point(|known| *known < at);
    Ok(batch.slice(below, batch.num_rows() - below))
}

pub(super) enum MergeError {
    /// This file can not be read.
    Damaged(String, ParquetError),
    Tier(TierError),
}

impl MergeError {
    pub(super) fn unreadable(source: &File, error: ParquetError) -> Self {
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
                || !within(chosen, how)
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

/// The first file of which most rows are not kept any more: it is worth writing anew by itself.
fn mostly_gone(index: &Index, left_alone: &HashSet<String>) -> Option<Range<usize>> {
    let kept = |run: &Run| {
        let first = index.extent(run.queue).map_or(0, |extent| extent.start);
        let offsets = run.offsets();
        offsets.end.saturating_sub(offsets.start.max(first))
    };
    let is_mostly_gone = |file: &File| {
        let kept: u64 = file.runs.iter().map(kept).sum();
        kept < file.rows - kept.min(file.rows) && !left_alone.contains(&file.key)
    };
    let at = index.manifest().files.iter().position(is_mostly_gone)?;
    Some(at..at + 1)
}

fn within(files: &[File], how: Compaction) -> bool {
    // A file of one day stays one: it is a partition of the topic's table.
    let day = files.first().and_then(File::day);
    if !how.across_days && files.iter().any(|file| file.day() != day) {
        return false;
    }
    // What a key compaction has looked at stays apart from what it has not, and the table's from what is not.
    let kind = |file: &File| (file.compacted, file.hidden);
    let first = files.first().map(kind);
    if files.iter().any(|file| Some(kind(file)) != first) {
        return false;
    }
    let Some(span_ms_max) = how.span_ms_max else {
        return true;
    };
    let first = files.iter().filter_map(|file| file.stored_first_ms).min();
    let last = files.iter().filter_map(|file| file.stored_last_ms).max();
    first
        .zip(last)
        .is_none_or(|(first, last)| last.saturating_sub(first) <= span_ms_max)
}
