//! Lanes: how the manifest of a family tells the queues of its topics apart.
//!
//! The files of a family hold rows of many topics. Its manifest numbers every queue of every topic once, as a *lane*, and
//! whatever other manifests say by queue, it says by lane: runs, bounds and all relations between them are the same.
//!
//! **Invariants.** A number is given once. A lane stays while its topic does, because it says which offsets are no more;
//! that of a deleted topic stays, marked, until no file has rows of it.
//!
//! Bytes: `storage/FORMAT.md`, Families.

#![deny(clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use millpond_proto::message::{QueueId, TopicId};

use crate::format::manifest::Manifest;

/// What makes a manifest that of a family.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Family {
    /// The queues of its topics, by lane.
    #[prost(message, repeated, tag = "1")]
    pub lanes: Vec<Lane>,
    /// Number that no lane has yet.
    #[prost(uint32, tag = "2")]
    pub next_lane: u32,
}

/// One queue of a topic in a family.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Lane {
    /// Its number, which stands where other manifests have a queue's.
    #[prost(uint32, tag = "1")]
    pub lane: u32,
    /// The topic's id.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// The queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Whether the topic was deleted: its rows stay until their file is written anew or goes.
    #[prost(bool, tag = "4")]
    pub is_gone: bool,
}

impl Lane {
    /// The queue that it stands for.
    #[must_use]
    pub fn place(&self) -> (TopicId, QueueId) {
        (TopicId(self.topic), QueueId(self.queue))
    }
}

/// Whether lanes are in order and of one queue each, and everything that a manifest says is of one of them.
pub(crate) fn check(manifest: &Manifest) -> Result<(), &'static str> {
    let Some(family) = &manifest.family else {
        return Ok(());
    };
    let mut last = None;
    let mut places = BTreeSet::new();
    let mut known = BTreeSet::new();
    for lane in &family.lanes {
        if last.is_some_and(|last| last >= lane.lane) || lane.lane >= family.next_lane {
            return Err("the lanes of a family are not in order");
        }
        if !places.insert((lane.topic, lane.queue)) {
            return Err("a queue has two lanes");
        }
        last = Some(lane.lane);
        known.insert(lane.lane);
    }
    let runs = manifest.files.iter().flat_map(|file| &file.runs);
    let bounds = manifest.bounds.iter().map(|bounds| bounds.queue);
    if runs
        .map(|run| run.queue)
        .chain(bounds)
        .all(|lane| known.contains(&lane))
    {
        Ok(())
    } else {
        Err("something is of a lane that a family does not have")
    }
}

/// Lanes as they are looked up, and given to queues that have none yet.
#[derive(Clone, Debug, Default)]
pub struct Lanes {
    family: Family,
    by_place: BTreeMap<(TopicId, QueueId), u32>,
    by_lane: BTreeMap<u32, Lane>,
}

impl From<Family> for Lanes {
    fn from(family: Family) -> Self {
        let kept = family.lanes.iter().filter(|lane| !lane.is_gone);
        Self {
            by_place: kept.map(|lane| (lane.place(), lane.lane)).collect(),
            by_lane: family.lanes.iter().map(|lane| (lane.lane, *lane)).collect(),
            family,
        }
    }
}

impl Lanes {
    /// What a manifest says of them.
    #[must_use]
    pub fn into_family(self) -> Family {
        self.family
    }

    /// The lane of a queue of a topic that was not deleted.
    #[must_use]
    pub fn of(&self, topic: TopicId, queue: QueueId) -> Option<u32> {
        self.by_place.get(&(topic, queue)).copied()
    }

    /// Which queue a lane is of.
    #[must_use]
    pub fn get(&self, lane: u32) -> Option<Lane> {
        self.by_lane.get(&lane).copied()
    }

    /// Queues of a topic that was not deleted, with their lanes, in order.
    pub fn of_topic(&self, topic: TopicId) -> impl Iterator<Item = (QueueId, u32)> {
        let all = self
            .by_place
            .range((topic, QueueId(0))..=(topic, QueueId(u32::MAX)));
        all.map(|((_, queue), lane)| (*queue, *lane))
    }

    /// Every queue of topics that were not deleted, with its lane, by topic and queue.
    pub fn kept(&self) -> impl Iterator<Item = (TopicId, QueueId, u32)> {
        let all = self.by_place.iter();
        all.map(|((topic, queue), lane)| (*topic, *queue, *lane))
    }

    /// The lane of a queue, a new one when it has none; none when all numbers were given away.
    pub fn give(&mut self, topic: TopicId, queue: QueueId) -> Option<u32> {
        if let Some(lane) = self.of(topic, queue) {
            return Some(lane);
        }
        let number = self.family.next_lane;
        let next = number.checked_add(1)?;
        let lane = Lane {
            lane: number,
            topic: topic.0,
            queue: queue.0,
            is_gone: false,
        };
        self.family.next_lane = next;
        self.family.lanes.push(lane);
        self.by_place.insert((topic, queue), number);
        self.by_lane.insert(number, lane);
        Some(number)
    }
}

/// Lets go of what nobody needs any more: marks the lanes of deleted topics, drops files without a row that is kept, and
/// lanes that are marked and have no rows.
pub fn settle(
    manifest: &mut Manifest,
    extents: &mut BTreeMap<u32, Range<u64>>,
    is_gone: impl Fn(TopicId) -> bool,
) {
    let Some(family) = &mut manifest.family else {
        return;
    };
    for lane in &mut family.lanes {
        lane.is_gone |= is_gone(TopicId(lane.topic));
        if let Some(extent) = extents.get_mut(&lane.lane).filter(|_| lane.is_gone) {
            extent.start = extent.end;
        }
    }
    let is_kept = |(queue, end): (u32, u64)| extents.get(&queue).is_some_and(|e| end > e.start);
    manifest.files.retain(|file| {
        let mut runs = file.runs.iter();
        runs.any(|run| is_kept((run.queue, run.offsets().end)))
    });
    let runs = manifest.files.iter().flat_map(|file| &file.runs);
    let used: BTreeSet<u32> = runs.map(|run| run.queue).collect();
    family
        .lanes
        .retain(|lane| !lane.is_gone || used.contains(&lane.lane));
    let known: BTreeSet<u32> = family.lanes.iter().map(|lane| lane.lane).collect();
    extents.retain(|lane, _| known.contains(lane));
    manifest.set_extents(extents);
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "the bytes are the test's own")]
mod tests {
    use super::*;
    use crate::format::manifest::{Bounds, File, Index, MAGIC, MAGIC_FAMILY, Run};

    fn lane(lane: u32, topic: u64, queue: u32, is_gone: bool) -> Lane {
        Lane {
            lane,
            topic,
            queue,
            is_gone,
        }
    }

    fn run(lane: u32, offsets: Range<u64>, first_row: u64) -> Run {
        Run::covering(
            lane,
            offsets.clone(),
            first_row,
            offsets.end - offsets.start,
        )
    }

    fn file(key: &str, runs: &[(u32, Range<u64>)]) -> File {
        let mut rows = 0;
        let mut file = File {
            key: key.to_owned(),
            bytes: 200,
            blocks: vec![1],
            ..File::default()
        };
        for (lane, offsets) in runs {
            file.runs.push(run(*lane, offsets.clone(), rows));
            rows += offsets.end - offsets.start;
        }
        file.rows = rows;
        file
    }

    /// Two topics in one file; what the first one has below offset 1 is no more.
    fn manifest() -> Manifest {
        Manifest {
            topic: 9,
            version: 1,
            next_file: 1,
            files: vec![file("a", &[(0, 0..2), (1, 5..6)])],
            bounds: vec![Bounds {
                queue: 0,
                first: 1,
                end: 2,
            }],
            family: Some(Family {
                lanes: vec![lane(0, 7, 0, false), lane(1, 8, 3, false)],
                next_lane: 2,
            }),
            ..Manifest::default()
        }
    }

    #[test]
    fn the_worked_example_of_the_format_holds() {
        let hex: Vec<String> = manifest()
            .encode()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex.join(" "), EXAMPLE);
    }

    const EXAMPLE: &str = "4d 50 4d 41 4e 49 30 33 \
        50 00 00 00 \
        6b a0 a4 9d \
        09 09 00 00 00 00 00 00 00 \
        10 01 18 01 \
        22 1c \
        0a 01 61 10 c8 01 18 03 \
        22 02 20 02 \
        22 08 08 01 10 05 18 02 20 01 \
        2a 04 01 00 00 00 \
        2a 04 10 01 18 02 \
        82 03 1c \
        0a 09 11 07 00 00 00 00 00 00 00 \
        0a 0d 08 01 11 08 00 00 00 00 00 00 00 18 03 \
        10 02";

    #[test]
    fn a_family_is_of_a_version_that_earlier_ones_refuse() {
        let bytes = manifest().encode();
        assert_eq!(&bytes[..8], MAGIC_FAMILY);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest()));
        let mut early = bytes.to_vec();
        early[..8].copy_from_slice(MAGIC);
        assert!(Manifest::decode(&early).is_err());
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let bytes = manifest().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lanes_that_contradict_the_rest_are_damage() {
        let changes: [fn(&mut Family); 5] = [
            |family| family.lanes[1].lane = 0,
            |family| family.next_lane = 1,
            |family| family.lanes[1] = lane(1, 7, 0, false),
            |family| family.lanes.truncate(1),
            |family| family.lanes.clear(),
        ];
        for change in changes {
            let mut wrong = manifest();
            change(wrong.family.as_mut().unwrap());
            assert!(Manifest::decode(&wrong.encode()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_lane_is_given_once_and_found_by_its_queue() {
        let mut lanes = Lanes::from(manifest().family.unwrap());
        assert_eq!(lanes.of(TopicId(8), QueueId(3)), Some(1));
        assert_eq!(lanes.give(TopicId(8), QueueId(3)), Some(1));
        assert_eq!(lanes.give(TopicId(8), QueueId(0)), Some(2));
        let of_topic: Vec<_> = lanes.of_topic(TopicId(8)).collect();
        assert_eq!(of_topic, [(QueueId(0), 2), (QueueId(3), 1)]);
        assert_eq!(lanes.into_family().next_lane, 3);
    }

    #[test]
    fn what_settles_is_what_nobody_needs() {
        let mut next = manifest();
        next.files.push(file("b", &[(1, 6..7)]));
        let mut extents = next.extents();
        settle(&mut next, &mut extents, |topic| topic == TopicId(8));
        assert_eq!(next.files.len(), 1, "nothing of the second is kept");
        assert!(
            next.family.as_ref().unwrap().lanes[1].is_gone,
            "the first has a row of it"
        );
        let index = Index::from(next.clone());
        assert_eq!(index.lanes().unwrap().of(TopicId(8), QueueId(3)), None);
        assert_eq!(index.extent(0), Some(1..2));
        next.files.clear();
        let mut extents = next.extents();
        settle(&mut next, &mut extents, |_| false);
        assert_eq!(next.family.as_ref().unwrap().lanes, [lane(0, 7, 0, false)]);
        assert_eq!(next.extents(), [(0, 1..2)].into());
        assert_eq!(Manifest::decode(&next.encode()), Ok(next));
    }
}
