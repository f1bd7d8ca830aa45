//! A manifest in memory: which file and row an offset lies in, by a binary search.
//!
//! Built once for each manifest and shared by all who read of it; it never changes.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::family::Lanes;
use crate::format::manifest::{File, Manifest, Run};

/// A manifest with its runs in the order of offsets, so that finding one is a binary search.
#[derive(Debug, Default)]
pub struct Index {
    manifest: Manifest,
    extents: BTreeMap<u32, Range<u64>>,
    /// Where the runs lie, by queue and offset. A topic may have very many queues of one run each.
    runs: Box<[RunAt]>,
    /// Whether a message may be missing although its offset is kept and not damaged.
    has_holes: bool,
    /// By which numbers the queues of a family's topics go; none: it is of one topic.
    lanes: Option<Lanes>,
}

/// Where a run lies in its manifest.
#[derive(Clone, Copy, Debug)]
struct RunAt {
    queue: u32,
    /// Index of its file.
    file: u32,
    /// Its own index there.
    run: u32,
}

impl From<Manifest> for Index {
    fn from(manifest: Manifest) -> Self {
        let files = (0_u32..).zip(&manifest.files);
        let runs = files.flat_map(|(file, of)| {
            (0_u32..).zip(&of.runs).map(move |(run, one)| RunAt {
                queue: one.queue,
                file,
                run,
            })
        });
        let mut runs: Box<[RunAt]> = runs.collect();
        // Stable: files, and runs in them, are in the order of a queue's offsets.
        runs.sort_by_key(|at| at.queue);
        let mut all = manifest.files.iter().flat_map(|file| &file.runs);
        Self {
            has_holes: !manifest.holes.is_empty() || all.any(Run::is_sparse),
            extents: manifest.extents(),
            lanes: manifest.family.clone().map(Lanes::from),
            manifest,
            runs,
        }
    }
}

impl Index {
    /// The lanes of a family; none when it is of one topic.
    #[must_use]
    pub fn lanes(&self) -> Option<&Lanes> {
        self.lanes.as_ref()
    }

    /// What is indexed.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The offsets of a queue, from the first one kept to one past the last that was ever here.
    #[must_use]
    pub fn extent(&self, queue: u32) -> Option<Range<u64>> {
        self.extents.get(&queue).cloned()
    }

    /// The first offset that readers of a queue as a log see; 0 where nothing sets it apart from what is kept.
    #[must_use]
    pub fn log_first(&self, queue: u32) -> u64 {
        let firsts = &self.manifest.log_firsts;
        let found = firsts.binary_search_by_key(&queue, |one| one.queue);
        found
            .ok()
            .and_then(|at| firsts.get(at))
            .map_or(0, |one| one.first)
    }

    /// Every queue that has or had messages, in order.
    pub fn queues(&self) -> impl Iterator<Item = u32> {
        self.extents.keys().copied()
    }

    /// Whether key compaction took messages away of what is kept.
    #[must_use]
    pub fn has_holes(&self) -> bool {
        self.has_holes
    }

    /// Runs of a queue in the order of offsets, each with its file.
    pub fn runs(&self, queue: u32) -> impl Iterator<Item = (&File, Run)> {
        self.runs_of(queue).iter().filter_map(|at| self.at(*at))
    }

    /// Runs of a queue in the order of offsets, each with its file's place among the files.
    pub fn runs_by_file(&self, queue: u32) -> impl Iterator<Item = (usize, Run)> {
        let runs = self.runs_of(queue).iter();
        runs.filter_map(|at| Some((at.file as usize, self.at(*at)?.1)))
    }

    /// One past the hole that an offset lies in.
    #[must_use]
    pub fn behind_hole(&self, queue: u32, offset: u64) -> Option<u64> {
        let holes = &self.manifest.holes;
        let after = holes.partition_point(|hole| (hole.queue, hole.first) <= (queue, offset));
        let hole = holes.get(after.checked_sub(1)?)?;
        (hole.queue == queue && offset < hole.end).then_some(hole.end)
    }

    /// The file and run that cover an offset of a queue.
    #[must_use]
    pub fn find(&self, queue: u32, offset: u64) -> Option<(&File, Run)> {
        let runs = self.runs_of(queue);
        let begins = |at: &RunAt| self.at(*at).is_some_and(|(_, run)| run.base <= offset);
        let after = runs.partition_point(begins);
        let (file, run) = self.at(*runs.get(after.checked_sub(1)?)?)?;
        run.offsets().contains(&offset).then_some((file, run))
    }

    fn runs_of(&self, queue: u32) -> &[RunAt] {
        let from = self.runs.partition_point(|at| at.queue < queue);
        let to = self.runs.partition_point(|at| at.queue <= queue);
        self.runs.get(from..to).unwrap_or_default()
    }

    fn at(&self, at: RunAt) -> Option<(&File, Run)> {
        let file = self.manifest.files.get(at.file as usize)?;
        Some((file, *file.runs.get(at.run as usize)?))
    }
}
