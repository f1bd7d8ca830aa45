//! Key compaction: keeping the last message of each key of a queue, in files of the cold tier.
//!
//! **Invariants.** The last message of a key that lies here is never taken away, unless it is a tombstone that was kept for
//! its time; nor is the last message of a queue, so that a read below the end finds one; nor one without a key; nor one
//! at or above [`KeyCompaction::below`]. Offsets stay as they are: what is taken away leaves holes, which are no damage.
//! A step looks at files without holding anything up and then writes those anew that lost something, at once: a crash
//! leaves the old files or the new ones of each step, and each step alone keeps the last message of every key.
//!
//! **Tombstones.** A message without a body says that its key is no more. Who reads from the beginning must meet it if
//! he met what it deletes: so its time runs from the end of the compaction that took away all that it deletes. The
//! manifest keeps one [`Mark`]: up to where and since when that is so. When its time is over the tombstones below
//! it go and the next mark is set, so a tombstone stays for at least its time and at most about twice as long.
//!
//! **Bounds.** Keys are remembered up to [`KeyCompaction::keys_bytes`]; if there are more they are looked at in several
//! passes over the key columns, by their hash. Rows are looked at in steps of [`KeyCompaction::step_rows`], a byte each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::Array as _;
use millpond_proto::limits;
use millpond_proto::message::{TopicId, stable_hash};

use crate::error::TierError;
use crate::format::hole::{Mark, QueueEnd};
use crate::format::manifest::{File, Index, Run};
use crate::tier::cold::Cold;
use crate::tier::cold::compaction::MergeError;
use crate::tier::cold::keys::rows::{Rows, keys, offsets};

mod rows;

/// Rows that one step looks at, unless a single file has more.
const STEP_ROWS: u64 = 8 * 1024 * 1024;
/// Passes over the key columns at most; more keys than fit then are remembered all the same.
const PARTS_MAX: u64 = 1024;
/// What remembering a key costs beside its bytes, about.
const KEY_OVERHEAD_BYTES: usize = 64;

/// How to compact a topic by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCompaction {
    /// The time now, ms since the epoch.
    pub now_ms: i64,
    /// How long tombstones are kept once all is gone that they delete.
    pub tombstones_ms: i64,
    /// Percent of a topic's bytes that no compaction has looked at, from which on one is worth it; 0: always.
    pub dirty_percent_min: u64,
    /// By queue, the offset from which on nothing is taken away, because somebody reads it again after a crash; a
    /// queue that is not named has no such bound.
    pub below: BTreeMap<u32, u64>,
    /// Bytes of keys that are remembered at once.
    pub keys_bytes: usize,
    /// Rows that one step looks at.
    pub step_rows: u64,
}

impl Default for KeyCompaction {
    fn default() -> Self {
        Self {
            now_ms: 0,
            tombstones_ms: limits::TOMBSTONES_MS_DEFAULT,
            dirty_percent_min: 0,
            below: BTreeMap::new(),
            keys_bytes: limits::COMPACTION_KEYS_BYTES,
            step_rows: STEP_ROWS,
        }
    }
}

/// What a key compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeysCompacted {
    /// Messages that a later one of their key superseded.
    pub superseded: u64,
    /// Tombstones whose time was over.
    pub tombstones: u64,
    /// Files that were written anew, or removed because nothing was left of them.
    pub files: u64,
    /// Their bytes before.
    pub bytes_before: u64,
    /// Their bytes after.
    pub bytes_after: u64,
    /// Files that can not be read and were left as they are.
    pub damaged: u64,
}

/// The last offset of each key of a queue, for a share of the keys.
struct Newest {
    by_queue: HashMap<u32, HashMap<Box<[u8]>, u64>>,
    bytes: usize,
}

impl Newest {
    fn add(&mut self, queue: u32, key: &[u8], offset: u64) {
        let keys = self.by_queue.entry(queue).or_default();
        match keys.get_mut(key) {
            Some(last) => *last = offset.max(*last),
            None => {
                keys.insert(key.into(), offset);
                self.bytes += key.len() + KEY_OVERHEAD_BYTES;
            }
        }
    }

    /// Whether a later message of the key lies behind an offset.
    fn supersedes(&self, queue: u32, key: &[u8], offset: u64) -> bool {
        let last = self.by_queue.get(&queue).and_then(|keys| keys.get(key));
        last.is_some_and(|last| *last > offset)
    }
}

/// What goes of a file, by row.
type Going = Vec<bool>;

/// One compaction on its way.
struct Pass<'a> {
    cold: &'a Cold,
    topic: TopicId,
    how: &'a KeyCompaction,
    manifest: Arc<Index>,
    /// One past the last offset of each queue: its message stays.
    ends: BTreeMap<u32, u64>,
    /// Tombstones below may go.
    over: BTreeMap<u32, u64>,
    /// Shares that the keys are looked at in.
    parts: u64,
    /// Whether every file up to here could be read.
    is_whole: bool,
    unreadable: HashSet<String>,
    done: KeysCompacted,
}

impl Cold {
    /// Takes away what later messages of the same key supersede, in all files of a topic, if there is enough of it.
    ///
    /// # Errors
    /// [`TierError`]; what was done before stays done, and the next call goes on.
    pub async fn compact_keys(
        &self,
        topic: TopicId,
        how: &KeyCompaction,
    ) -> Result<KeysCompacted, TierError> {
        let _one_at_a_time = self.compacting.lock().await;
        let Some(manifest) = self.manifest(topic).filter(|_| !self.is_gone(topic)) else {
            return Ok(KeysCompacted::default());
        };
        if !is_worth_it(&manifest, how) {
            return Ok(KeysCompacted::default());
        }
        let ends = manifest.queues().filter_map(|queue| {
            let end = manifest.runs(queue).last()?.1.offsets().end;
            Some((queue, end))
        });
        let mut pass = Pass {
            cold: self,
            topic,
            how,
            ends: ends.collect(),
            over: tombstones_over(&manifest, how),
            parts: 1,
            is_whole: true,
            unreadable: HashSet::new(),
            done: KeysCompacted::default(),
            manifest,
        };
        let looked_at = pass.run().await?;
        let (is_whole, ends) = (pass.is_whole, pass.ends_looked_at());
        pass.done.damaged = pass.unreadable.len() as u64;
        let done = pass.done;
        // Nobody reads by the files before any more.
        drop(pass);
        self.note_compacted(topic, how, &looked_at, is_whole.then_some(ends))
            .await?;
        self.remove_garbage().await;
        Ok(done)
    }

    /// Notes in the manifest which files were looked at, and how far.
    async fn note_compacted(
        &self,
        topic: TopicId,
        how: &KeyCompaction,
        looked_at: &HashSet<String>,
        ends: Option<Vec<QueueEnd>>,
    ) -> Result<(), TierError> {
        let _turn = self.turn.lock().await;
        if self.is_gone(topic) {
            return Ok(());
        }
        let (current, expected) = self.current(topic).await?;
        let mut next = current.manifest().clone();
        for file in &mut next.files {
            let is_below = file.runs.iter().all(|run| {
                let bound = how.below.get(&run.queue);
                bound.is_none_or(|bound| run.offsets().end <= *bound)
            });
            file.compacted |= is_below && looked_at.contains(&file.key);
        }
        let is_due = is_due(next.mark.as_ref(), how);
        if let Some(ends) = ends.filter(|_| is_due) {
            next.mark = Some(Mark {
                at_ms: how.now_ms,
                ends,
            });
        }
        if next == *current.manifest() {
            return Ok(());
        }
        self.swap(topic, current, expected, next).await
    }
}

/// Whether the time of the tombstones below the mark is over, or there is no mark.
fn is_due(mark: Option<&Mark>, how: &KeyCompaction) -> bool {
    mark.is_none_or(|mark| mark.at_ms.saturating_add(how.tombstones_ms) <= how.now_ms)
}

fn tombstones_over(manifest: &Index, how: &KeyCompaction) -> BTreeMap<u32, u64> {
    let mark = manifest.manifest().mark.as_ref();
    let over = mark.filter(|mark| is_due(Some(mark), how));
    let ends = over.into_iter().flat_map(|mark| &mark.ends);
    ends.map(|end| (end.queue, end.end)).collect()
}

fn is_worth_it(manifest: &Index, how: &KeyCompaction) -> bool {
    let files = &manifest.manifest().files;
    let bytes = |files: &mut dyn Iterator<Item = &File>| files.map(|file| file.bytes).sum::<u64>();
    let all = bytes(&mut files.iter());
    let dirty = bytes(&mut files.iter().filter(|file| !file.compacted));
    let has_tombstones = files.iter().any(|file| file.bodiless != Some(0));
    let mark = manifest.manifest().mark.as_ref();
    let is_over = mark.is_some() && is_due(mark, how) && has_tombstones;
    let share = u128::from(dirty) * 100 >= u128::from(all) * u128::from(how.dirty_percent_min);
    is_over || (dirty > 0 && share)
}

impl Pass<'_> {
    /// Step by step through all files; answers which were looked at, by the names that they have now.
    async fn run(&mut self) -> Result<HashSet<String>, TierError> {
        let files = self.manifest.manifest().files.clone();
        let mut looked_at = HashSet::new();
        let mut known: Option<Newest> = None;
        let mut at = 0;
        while at < files.len() {
            let mut rows = 0;
            let rest = files.get(at..).unwrap_or_default();
            let fitting = rest.iter().take_while(|file| {
                rows += file.rows;
                rows <= self.how.step_rows
            });
            let count = fitting.count().max(1);
            let step = rest.get(..count).unwrap_or_default();
            at += count;
            let going = self.look(&files, step, &mut known).await?;
            self.take_away(step, &going, &mut looked_at).await?;
        }
        Ok(looked_at)
    }

    /// What goes of the files of a step; nothing of those that can not be read.
    async fn look(
        &mut self,
        files: &[File],
        step: &[File],
        known: &mut Option<Newest>,
    ) -> Result<Vec<Going>, TierError> {
        'shares: loop {
            let empty = |file: &File| vec![false; usize::try_from(file.rows).unwrap_or(0)];
            let mut going: Vec<Going> = step.iter().map(empty).collect();
            let (was_whole, done) = (self.is_whole, self.done);
            for part in 0..self.parts {
                let newest = match known.take().filter(|_| self.parts == 1) {
                    Some(newest) => newest,
                    None => match self.newest(files, part).await? {
                        Some(newest) => newest,
                        None => {
                            self.parts *= 2;
                            (self.is_whole, self.done) = (was_whole, done);
                            continue 'shares;
                        }
                    },
                };
                for (file, going) in step.iter().zip(&mut going) {
                    match self.mark_going(file, part, &newest, going).await {
                        Ok(()) => {}
                        Err(error) => self.leave_alone(file, error)?,
                    }
                }
                *known = Some(newest);
            }
            for (file, going) in step.iter().zip(&mut going) {
                if self.unreadable.contains(&file.key) {
                    going.fill(false);
                }
            }
            return Ok(going);
        }
    }

    /// The last offset of each key of a share, among the files that no compaction has looked at; none when there are
    /// too many keys.
    async fn newest(&mut self, files: &[File], part: u64) -> Result<Option<Newest>, TierError> {
        let mut newest = Newest {
            by_queue: HashMap::new(),
            bytes: 0,
        };
        // One that could not be read before may lie among those that were looked at.
        let clean = files.iter().take_while(|file| file.compacted).count();
        let is_prefix = files.iter().skip(clean).all(|file| !file.compacted);
        let dirty = if is_prefix { clean } else { 0 };
        for file in files.get(dirty..).unwrap_or_default() {
            if self.unreadable.contains(&file.key) {
                continue;
            }
            match self.add_keys(file, part, &mut newest).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => self.leave_alone(file, error)?,
            }
        }
        Ok(Some(newest))
    }

    /// False when there are too many keys.
    async fn add_keys(
        &self,
        file: &File,
        part: u64,
        newest: &mut Newest,
    ) -> Result<bool, MergeError> {
        let mut rows = Rows::open(self.cold, file, &["offset", "key"]).await?;
        while let Some((run, _, batch)) = rows.next().await? {
            let offsets = offsets(file, &batch)?;
            let keys = keys(file, &batch)?;
            for (row, offset) in offsets.into_iter().enumerate() {
                if keys.is_null(row) || !self.is_of(keys.value(row), part) {
                    continue;
                }
                newest.add(run.queue, keys.value(row), offset);
            }
            if newest.bytes > self.how.keys_bytes && self.parts < PARTS_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_of(&self, key: &[u8], part: u64) -> bool {
        self.parts == 1 || stable_hash(key) % self.parts == part
    }

    /// Marks the rows of a file that go, of a share of the keys.
    async fn mark_going(
        &mut self,
        file: &File,
        part: u64,
        newest: &Newest,
        going: &mut Going,
    ) -> Result<(), MergeError> {
        let is_below = |run: &Run| self.over.get(&run.queue).is_some_and(|end| run.base < *end);
        let is_over = self.is_whole && file.bodiless != Some(0) && file.runs.iter().any(is_below);
        if newest.by_queue.is_empty() && !is_over {
            return Ok(());
        }
        let mut columns = vec!["offset", "key"];
        if is_over {
            columns.push("body");
        }
        let mut rows = Rows::open(self.cold, file, &columns).await?;
        let (mut superseded, mut tombstones) = (0, 0);
        while let Some((run, first_row, batch)) = rows.next().await? {
            let offsets = offsets(file, &batch)?;
            let keys = keys(file, &batch)?;
            let bodies = batch.column_by_name("body");
            let bound = self.how.below.get(&run.queue).copied().unwrap_or(u64::MAX);
            let end = self.ends.get(&run.queue).copied().unwrap_or(0);
            let over = self.over.get(&run.queue).copied().unwrap_or(0);
            for (row, offset) in offsets.into_iter().enumerate() {
                let is_ours = !keys.is_null(row) && self.is_of(keys.value(row), part);
                if !is_ours || offset >= bound || offset.saturating_add(1) >= end {
                    continue;
                }
                let is_superseded = newest.supersedes(run.queue, keys.value(row), offset);
                let is_tombstone =
                    offset < over && bodies.is_some_and(|bodies| bodies.is_null(row));
                if !is_superseded && !is_tombstone {
                    continue;
                }
                let at = usize::try_from(first_row)
                    .unwrap_or(usize::MAX)
                    .saturating_add(row);
                if let Some(goes) = going.get_mut(at) {
                    *goes = true;
                    superseded += u64::from(is_superseded);
                    tombstones += u64::from(!is_superseded);
                }
            }
        }
        self.done.superseded += superseded;
        self.done.tombstones += tombstones;
        Ok(())
    }

    /// A file that can not be read stays as it is; a store that does not answer ends the compaction.
    fn leave_alone(&mut self, file: &File, error: MergeError) -> Result<(), TierError> {
        match error {
            MergeError::Damaged(key, error) => {
                let topic = self.topic;
                tracing::error!(%topic, key, %error, "a damaged file is left as it is");
                self.is_whole = false;
                self.unreadable.insert(file.key.clone());
                Ok(())
            }
            MergeError::Tier(error) => Err(error),
        }
    }

    /// Writes the files anew that lost something.
    async fn take_away(
        &mut self,
        step: &[File],
        going: &[Going],
        looked_at: &mut HashSet<String>,
    ) -> Result<(), TierError> {
        let loses = |going: &Going| going.contains(&true);
        let kept = step.iter().zip(going).filter(|(_, going)| !loses(going));
        let kept = kept.filter(|(file, _)| !self.unreadable.contains(&file.key));
        looked_at.extend(kept.map(|(file, _)| file.key.clone()));
        if !going.iter().any(loses) {
            return Ok(());
        }
        let (cold, topic) = (self.cold, self.topic);
        let _turn = cold.turn.lock().await;
        if cold.is_gone(topic) {
            return Ok(());
        }
        let (current, expected) = cold.current(topic).await?;
        let mut next = current.manifest().clone();
        let extents = next.extents();
        for (source, going) in step.iter().zip(going).filter(|(_, going)| loses(going)) {
            let Some(at) = next.files.iter().position(|file| file.key == source.key) else {
                // It was merged, erased or let go meanwhile: the next compaction looks at what became of it.
                self.is_whole = false;
                continue;
            };
            let number = next.next_file;
            let left = match cold.without_rows(topic, source, going, number).await {
                Ok(left) => left,
                Err(error) => {
                    self.leave_alone(source, error)?;
                    continue;
                }
            };
            self.done.files += 1;
            self.done.bytes_before += source.bytes;
            next.holes.extend(left.holes);
            match left.made {
                Some(made) => {
                    let file = cold.put_file(topic, &mut next.next_file, made).await?;
                    self.done.bytes_after += file.bytes;
                    looked_at.insert(file.key.clone());
                    if let Some(place) = next.files.get_mut(at) {
                        *place = file;
                    }
                }
                None => {
                    next.files.remove(at);
                }
            }
        }
        next.set_extents(&extents);
        if next == *current.manifest() {
            return Ok(());
        }
        cold.swap(topic, current, expected, next).await
    }

    /// One past the last offset of each queue that was looked at and below which nothing superseded is left.
    fn ends_looked_at(&self) -> Vec<QueueEnd> {
        let ends = self.ends.iter().map(|(&queue, &end)| {
            let bound = self.how.below.get(&queue).copied().unwrap_or(u64::MAX);
            QueueEnd {
                queue,
                end: end.min(bound),
            }
        });
        ends.collect()
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
