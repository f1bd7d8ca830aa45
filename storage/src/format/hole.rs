//! What a key compaction leaves in a manifest: offsets whose messages were superseded.
//!
//! **Invariants.** A hole is no damage: whoever reads by offset goes on behind it. Holes and runs of a queue never overlap,
//! and neighbouring holes are one. Inside a sparse run holes need no entry: the run covers them.
//!
//! Bytes: `storage/FORMAT.md`, Manifest.

#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::manifest::File;

/// Offsets of a queue that a compaction took away and no run covers.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Hole {
    /// The queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// First offset.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// One past the last offset.
    #[prost(uint64, tag = "3")]
    pub end: u64,
}

/// Up to where every superseded message was taken away, and since when: tombstones below may go once they were kept
/// for their time from then on.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mark {
    /// When the compaction ended, ms since the epoch.
    #[prost(sint64, tag = "1")]
    pub at_ms: i64,
    /// By queue, one past the last offset that it looked at.
    #[prost(message, repeated, tag = "2")]
    pub ends: Vec<QueueEnd>,
}

/// The first offset that readers of a queue as a log see, where the table keeps more.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LogFirst {
    /// The queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// The offset.
    #[prost(uint64, tag = "2")]
    pub first: u64,
}

/// An end of a queue.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct QueueEnd {
    /// The queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// One past its last offset.
    #[prost(uint64, tag = "2")]
    pub end: u64,
}

/// Whether holes are in order, apart, and of offsets that no run covers.
pub(crate) fn check(holes: &[Hole], files: &[File]) -> Result<(), &'static str> {
    let mut covered: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for run in files.iter().flat_map(|file| &file.runs) {
        covered.insert((run.queue, run.base), run.offsets().end);
    }
    let mut last: Option<Hole> = None;
    for hole in holes {
        if hole.first >= hole.end {
            return Err("a hole is empty");
        }
        let is_behind = last.is_none_or(|last| (last.queue, last.end) < (hole.queue, hole.first));
        if !is_behind {
            return Err("holes are not in order");
        }
        last = Some(*hole);
        let before = covered
            .range(..(hole.queue, hole.end))
            .next_back()
            .filter(|((queue, _), _)| *queue == hole.queue);
        if before.is_some_and(|(_, end)| *end > hole.first) {
            return Err("a hole lies in a run");
        }
    }
    Ok(())
}

/// The holes that are left of `holes` where neither a run covers them nor they lie below what is kept; in order, with
/// neighbours as one.
pub(crate) fn arranged(
    mut holes: Vec<Hole>,
    files: &[File],
    kept: &BTreeMap<u32, Range<u64>>,
) -> Vec<Hole> {
    holes.sort_by_key(|hole| (hole.queue, hole.first));
    let mut runs: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
    for run in files.iter().flat_map(|file| &file.runs) {
        runs.entry(run.queue).or_default().push(run.offsets());
    }
    let mut arranged: Vec<Hole> = Vec::new();
    let mut add = |hole: Hole| match arranged.last_mut() {
        Some(last) if last.queue == hole.queue && last.end >= hole.first => {
            last.end = last.end.max(hole.end);
        }
        _ if hole.first < hole.end => arranged.push(hole),
        _ => {}
    };
    for hole in holes {
        let first = kept.get(&hole.queue).map_or(0, |kept| kept.start);
        let mut rest = hole.first.max(first)..hole.end;
        let runs = runs.get(&hole.queue).map_or(&[][..], Vec::as_slice);
        // Runs of a queue rise.
        let from = runs.partition_point(|run| run.end <= rest.start);
        for run in runs.iter().skip(from) {
            if run.start >= rest.end {
                break;
            }
            add(Hole {
                end: run.start,
                first: rest.start,
                ..hole
            });
            rest.start = rest.start.max(run.end);
        }
        add(Hole {
            first: rest.start,
            end: rest.end,
            ..hole
        });
    }
    arranged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::Run;

    fn hole(queue: u32, offsets: Range<u64>) -> Hole {
        Hole {
            queue,
            first: offsets.start,
            end: offsets.end,
        }
    }

    fn file(runs: &[(u32, Range<u64>)]) -> File {
        let runs = runs.iter().map(|(queue, offsets)| Run {
            queue: *queue,
            base: offsets.start,
            first_row: 0,
            count: 1,
            span: offsets.end - offsets.start,
        });
        File {
            runs: runs.collect(),
            ..File::default()
        }
    }

    #[test]
    fn holes_are_what_no_run_covers_and_neighbours_are_one() {
        let files = [file(&[(0, 10..20), (1, 0..5)]), file(&[(0, 30..40)])];
        let holes = vec![
            hole(1, 5..9),
            hole(0, 20..25),
            hole(0, 25..32),
            hole(0, 2..10),
            hole(1, 1..3),
        ];
        let kept = [(0, 4..40), (1, 0..9)].into();
        let arranged = arranged(holes, &files, &kept);
        assert_eq!(arranged, [hole(0, 4..10), hole(0, 20..30), hole(1, 5..9)]);
        assert_eq!(check(&arranged, &files), Ok(()));
    }

    #[test]
    fn holes_that_overlap_or_lie_in_a_run_are_damage() {
        let files = [file(&[(0, 10..20)])];
        assert!(check(&[hole(0, 9..11)], &files).is_err());
        assert!(check(&[hole(0, 19..21)], &files).is_err());
        assert!(check(&[hole(0, 5..5)], &files).is_err());
        assert!(check(&[hole(0, 1..4), hole(0, 4..6)], &files).is_err());
        assert!(check(&[hole(0, 1..4), hole(0, 20..22), hole(1, 12..13)], &files).is_ok());
    }
}
