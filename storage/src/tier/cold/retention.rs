//! Letting go of the oldest messages of a topic: whole files at the front, and what was hot below an offset.
//!
//! **Invariants.** The first offset of a queue only rises, and what lies below it is never answered again,
//! whatever files still hold it. The manifest says so first; objects are removed after. Files are chosen without the turn and
//! let go of by name: others may have been taken out between, by a key compaction for example.

use std::collections::{BTreeMap, HashSet};

use millpond_proto::message::{QueueId, TopicId};

use crate::error::TierError;
use crate::format::manifest::{File, Run};
use crate::tier::cold::Cold;

/// What lies in the cold tier of a topic, for choosing what to let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAge {
    /// Its name: what is chosen by it is let go of under this name alone, whatever became of its neighbours meanwhile.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Greatest store time of its messages, when it is known.
    pub stored_last_ms: Option<i64>,
}

/// How much a topic has in the cold tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdSizes {
    /// Parquet files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Messages that are kept and can be read.
    pub messages: u64,
    /// Messages that are kept and were lost before they could be moved.
    pub lost: u64,
    /// Offsets that are kept and have no message any more: a key compaction took it away.
    pub superseded: u64,
}

impl Cold {
    /// The files of a topic, oldest first.
    #[must_use]
    pub fn ages(&self, topic: TopicId) -> Vec<FileAge> {
        if let Some(family) = self.family_index(topic) {
            return self.ages_in(&family, topic);
        }
        let manifest = self.manifest(topic);
        let files = manifest.iter().flat_map(|m| &m.manifest().files);
        files
            .map(|file| FileAge {
                key: file.key.clone(),
                bytes: file.bytes,
                stored_last_ms: file.stored_last_ms,
            })
            .collect()
    }

    /// How much a topic has here.
    #[must_use]
    pub fn sizes(&self, topic: TopicId) -> ColdSizes {
        if let Some(family) = self.family_index(topic) {
            return self.sizes_in(&family, topic);
        }
        let Some(manifest) = self.manifest(topic) else {
            return ColdSizes::default();
        };
        let manifest = manifest.manifest();
        let extents = manifest.extents();
        let kept: u64 = extents.values().map(|e| e.end - e.start).sum();
        let gaps = manifest.gaps();
        let lost: u64 = gaps.iter().map(|(_, gap)| gap.end - gap.start).sum();
        let holes = manifest.holes.iter().map(|hole| hole.end - hole.first);
        let runs = manifest.files.iter().flat_map(|file| &file.runs);
        let sparse = runs.filter(|run| run.is_sparse());
        let superseded = holes.sum::<u64>() + sparse.map(|run| run.span - run.count).sum::<u64>();
        ColdSizes {
            files: manifest.files.len() as u64,
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
            messages: (kept - lost).saturating_sub(superseded),
            lost,
            superseded,
        }
    }

    /// How many files all topics consist of, and their bytes.
    pub(crate) fn at_rest(&self) -> (u64, u64) {
        let manifests = self.manifests();
        let files = manifests.values().flat_map(|m| &m.manifest().files);
        files.fold((0, 0), |(files, bytes), file| {
            (files + 1, bytes + file.bytes)
        })
    }

    /// Lets the table begin behind the last of the files `hidden`, and the log at `log_firsts`, offsets by queue, where both
    /// are kept for another time. Doing it again changes nothing. In a family they are not apart.
    ///
    /// # Errors
    /// [`TierError`]; then it is done or not, which the next call finds out.
    pub async fn set_apart(
        &self,
        topic: TopicId,
        hidden: &[FileAge],
        log_firsts: &BTreeMap<u32, u64>,
    ) -> Result<(), TierError> {
        let _turn = self.turn.lock().await;
        if self.is_gone(topic) || self.family_of(topic).is_some() {
            return Ok(());
        }
        let (current, expected) = self.current(topic).await?;
        let mut next = current.manifest().clone();
        let keys = keys_of(hidden);
        let is_chosen = |file: &File| keys.contains(file.key.as_str());
        let behind = next
            .files
            .iter()
            .rposition(is_chosen)
            .map_or(0, |at| at + 1);
        for file in next.files.iter_mut().take(behind) {
            file.hidden = true;
        }
        next.raise_log_firsts(log_firsts);
        if next == *current.manifest() {
            return Ok(());
        }
        self.swap(topic, current, expected, next).await
    }

    /// One past the last offset of each queue in those of `files` that the topic still has.
    #[must_use]
    pub fn ends_of(&self, topic: TopicId, files: &[FileAge]) -> BTreeMap<u32, u64> {
        if let Some(family) = self.family_index(topic) {
            return self.ends_in(&family, topic, files);
        }
        let keys = keys_of(files);
        let manifest = self.manifest(topic);
        let files = manifest.iter().flat_map(|m| &m.manifest().files);
        let files = files.filter(|file| keys.contains(file.key.as_str()));
        let runs = files.flat_map(|file| &file.runs);
        runs.map(|run| (run.queue, run.offsets().end)).collect()
    }

    /// Lets go of `files`, the oldest ones, and of everything below `firsts`, offsets by queue, also where it was never
    /// cold. A file that was written anew since it was chosen has another name and stays, unless one behind it goes.
    /// Doing it again changes nothing.
    ///
    /// # Errors
    /// [`TierError`]; then it is done or not, which the next call finds out.
    pub async fn trim(
        &self,
        topic: TopicId,
        files: &[FileAge],
        firsts: &BTreeMap<u32, u64>,
    ) -> Result<(), TierError> {
        if let Some(family) = self.family_of(topic) {
            let mut all = self.ends_of(topic, files);
            raise(&mut all, firsts);
            let all = all.into_iter();
            let all = all.map(|(queue, first)| ((topic, QueueId(queue)), first));
            return self.trim_family(family, &all.collect()).await;
        }
        let _turn = self.turn.lock().await;
        if self.is_gone(topic) {
            return Ok(());
        }
        let (current, expected) = self.current(topic).await?;
        let mut next = current.manifest().clone();
        let mut extents = next.extents();
        let keys = keys_of(files);
        let is_chosen = |file: &mut File| keys.contains(file.key.as_str());
        let gone = next.files.extract_if(.., is_chosen);
        for run in gone.flat_map(|file| file.runs) {
            if let Some(extent) = extents.get_mut(&run.queue) {
                extent.start = extent.start.max(run.offsets().end);
            }
        }
        for (&queue, &first) in firsts {
            let extent = extents.entry(queue).or_insert(first..first);
            extent.start = extent.start.max(first);
            extent.end = extent.end.max(first);
        }
        let is_kept = |run: &Run| {
            extents
                .get(&run.queue)
                .is_some_and(|e| run.offsets().end > e.start)
        };
        next.files.retain(|file| file.runs.iter().any(is_kept));
        next.set_extents(&extents);
        if next == *current.manifest() {
            return Ok(());
        }
        self.swap(topic, current, expected, next).await
    }
}

/// The names of files.
pub(super) fn keys_of(files: &[FileAge]) -> HashSet<&str> {
    files.iter().map(|file| file.key.as_str()).collect()
}

/// Raises first offsets, by queue, to at least `firsts`.
pub(crate) fn raise(known: &mut BTreeMap<u32, u64>, firsts: &BTreeMap<u32, u64>) {
    for (&queue, &first) in firsts {
        let known = known.entry(queue).or_insert(first);
        *known = first.max(*known);
    }
}
