//! Where each message lies that is not in Parquet yet: per queue, a dense row of places.
//!
//! **Invariants.** A row holds the offsets `base..base + len` without holes; a message that was lost
//! has a place that can not be read. Once the cold tier has a message its place is dropped, and a queue
//! that is wholly cold has no row. So a place costs 16 bytes and an idle queue nothing; one that has a single message
//! here, as most of a million do, costs a row and nothing besides.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};

use millpond_proto::message::{QueueId, TopicId};

use crate::queue::places::Places;

/// Where the payload of a message lies in its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: u64,
    pub(crate) length: u32,
    pub(crate) checksum: u32,
}

impl Place {
    const LOST_LENGTH: u32 = u32::MAX;

    /// The place of a message that recovery could not find; `position` is near where it was.
    pub(crate) fn lost(position: u64) -> Self {
        Self {
            position,
            length: Self::LOST_LENGTH,
            checksum: 0,
        }
    }

    pub(crate) fn is_lost(self) -> bool {
        self.length == Self::LOST_LENGTH
    }

    fn bytes(self) -> u64 {
        if self.is_lost() {
            0
        } else {
            u64::from(self.length)
        }
    }
}

#[derive(Debug)]
struct Row {
    base: u64,
    places: Places,
    wal: u16,
}

impl Row {
    fn next(&self) -> u64 {
        self.base + self.places.len() as u64
    }
}

/// What the index knows of an offset and those after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    /// Not here: ask the cold tier.
    Elsewhere,
    /// Their places; none at the tail.
    Places { wal: u16, places: Vec<Place> },
}

/// The places of all hot messages.
#[derive(Debug, Default)]
pub(crate) struct Index {
    rows: BTreeMap<(TopicId, QueueId), Row>,
    /// Of all messages.
    bytes: u64,
    /// Messages, lost ones included.
    count: u64,
}

impl Index {
    /// Adds a message; see [`Index::insert_all`].
    pub(crate) fn insert(
        &mut self,
        queue: (TopicId, QueueId),
        wal: u16,
        offset: u64,
        place: Place,
    ) {
        self.insert_all(wal, std::iter::once((queue, offset, place)));
    }

    /// Adds messages of a WAL. Offsets of a queue come densely; the ones left out are taken as lost, and one that is
    /// already there stays as it is. A queue is looked up once for all of its messages that come in a row.
    pub(crate) fn insert_all(
        &mut self,
        wal: u16,
        messages: impl Iterator<Item = ((TopicId, QueueId), u64, Place)>,
    ) {
        let mut last: Option<((TopicId, QueueId), &mut Row)> = None;
        for (queue, offset, place) in messages {
            let row = match last.take().filter(|(known, _)| *known == queue) {
                Some((_, row)) => row,
                None => match self.rows.entry(queue) {
                    Entry::Occupied(row) => row.into_mut(),
                    Entry::Vacant(row) => {
                        self.bytes += place.bytes();
                        self.count += 1;
                        let places = Places::One(place);
                        row.insert(Row {
                            base: offset,
                            places,
                            wal,
                        })
                    }
                },
            };
            while row.next() < offset {
                row.places.push_back(Place::lost(place.position));
                self.count += 1;
            }
            if row.next() == offset {
                row.places.push_back(place);
                self.count += 1;
                self.bytes += place.bytes();
            }
            last = Some((queue, row));
        }
    }

    /// Makes the row begin at `base`: offsets between it and the first place are lost.
    pub(crate) fn begin_at(&mut self, queue: (TopicId, QueueId), base: u64) {
        if let Some(row) = self.rows.get_mut(&queue) {
            let near = row.places.front().position;
            while row.base > base {
                row.places.push_front(Place::lost(near));
                row.base -= 1;
                self.count += 1;
            }
        }
    }

    /// Hot offsets of a queue.
    pub(crate) fn hot(&self, queue: (TopicId, QueueId)) -> Option<Range<u64>> {
        self.rows.get(&queue).map(|row| row.base..row.next())
    }

    /// Places from `from` on, bounded by count and by bytes (one is given even above it).
    pub(crate) fn look_up(
        &self,
        queue: (TopicId, QueueId),
        from: u64,
        messages: usize,
        bytes: usize,
    ) -> Looked {
        let Some(row) = self.rows.get(&queue).filter(|row| row.base <= from) else {
            return Looked::Elsewhere;
        };
        let skip = usize::try_from(from - row.base).unwrap_or(usize::MAX);
        let mut places = Vec::new();
        let mut sum = 0_usize;
        for place in row.places.iter().skip(skip).take(messages) {
            let length = usize::try_from(place.bytes()).unwrap_or(usize::MAX);
            sum = sum.saturating_add(length);
            if sum > bytes && !places.is_empty() {
                break;
            }
            places.push(*place);
        }
        Looked::Places {
            wal: row.wal,
            places,
        }
    }

    /// Drops the places of offsets below `end`, which the cold tier now has.
    pub(crate) fn drop_below(&mut self, queue: (TopicId, QueueId), end: u64) {
        let Some(row) = self.rows.get_mut(&queue) else {
            return;
        };
        let count = usize::try_from(end.saturating_sub(row.base)).unwrap_or(usize::MAX);
        let count = count.min(row.places.len());
        self.count -= count as u64;
        let dropped = row.places.iter().take(count);
        self.bytes -= dropped.map(|place| place.bytes()).sum::<u64>();
        if count == row.places.len() {
            self.rows.remove(&queue);
        } else {
            row.places.drop_first(count);
            row.base += count as u64;
        }
    }

    /// Drops all of a topic.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        let queues: Vec<QueueId> = self.rows_of(topic).map(|(queue, _)| queue).collect();
        for queue in queues {
            self.drop_below((topic, queue), u64::MAX);
        }
    }

    /// Hot queues of a topic and their offsets.
    pub(crate) fn queues_of(
        &self,
        topic: TopicId,
    ) -> impl Iterator<Item = (QueueId, Range<u64>)> + '_ {
        self.rows_of(topic)
            .map(|(queue, row)| (queue, row.base..row.next()))
    }

    /// Bytes of the hot messages of a topic.
    pub(crate) fn bytes_of(&self, topic: TopicId) -> u64 {
        let rows = self.rows_of(topic).flat_map(|(_, row)| row.places.iter());
        rows.map(|place| place.bytes()).sum()
    }

    /// Where each hot queue of a topic would begin if only the newest messages of up to `bytes_max` were
    /// kept; queues that lose nothing are left out.
    pub(crate) fn newest(&self, topic: TopicId, bytes_max: u64) -> BTreeMap<u32, u64> {
        let places = self.rows_of(topic).flat_map(|(_, row)| row.places.iter());
        let mut places: Vec<(u64, u64)> = places
            .map(|place| (place.position, place.bytes()))
            .collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        let mut sum = 0;
        let kept = places.iter().take_while(|(_, bytes)| {
            sum += bytes;
            sum <= bytes_max
        });
        let from = kept.last().map_or(u64::MAX, |&(position, _)| position);
        let first = |row: &Row| {
            let older = row.places.partition_point(|place| place.position < from);
            (older > 0).then(|| row.base + older as u64)
        };
        let rows = self.rows_of(topic);
        rows.filter_map(|(queue, row)| Some((queue.0, first(row)?)))
            .collect()
    }

    fn rows_of(&self, topic: TopicId) -> impl Iterator<Item = (QueueId, &Row)> {
        self.rows
            .range((topic, QueueId(0))..=(topic, QueueId(u32::MAX)))
            .map(|(&(_, queue), row)| (queue, row))
    }

    /// Topics with hot messages, ascending.
    pub(crate) fn topics(&self) -> Vec<TopicId> {
        let mut topics = Vec::new();
        let mut next = self.rows.keys().next();
        while let Some(&(topic, _)) = next {
            topics.push(topic);
            let behind = Bound::Excluded((topic, QueueId(u32::MAX)));
            let mut behind = self.rows.range((behind, Bound::Unbounded));
            next = behind.next().map(|(queue, _)| queue);
        }
        topics
    }

    /// By WAL, the lowest position that a hot message still needs. It looks at every queue once.
    pub(crate) fn lowest_positions(&self, wals: usize) -> Vec<Option<u64>> {
        let mut lowest: Vec<Option<u64>> = vec![None; wals];
        for row in self.rows.values() {
            let position = row.places.front().position;
            if let Some(known) = lowest.get_mut(usize::from(row.wal)) {
                *known = Some(known.map_or(position, |known| known.min(position)));
            }
        }
        lowest
    }

    /// Number of hot messages.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// Bytes of all hot messages.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;

    use super::*;

    const QUEUE: (TopicId, QueueId) = (TopicId(1), QueueId(2));
    /// Bytes of a row with its key; there may be a million.
    const ROW_BYTES: usize = 56;

    fn place(position: u64) -> Place {
        Place {
            position,
            length: 10,
            checksum: 0,
        }
    }

    #[test]
    fn places_are_found_by_offset_within_the_limits() {
        let mut index = Index::default();
        for offset in 5..10 {
            index.insert(QUEUE, 0, offset, place(offset * 100));
        }
        let look_up = |from, messages, bytes| match index.look_up(QUEUE, from, messages, bytes) {
            Looked::Places { places, .. } => places.iter().map(|p| p.position).collect(),
            Looked::Elsewhere => vec![0],
        };
        assert_eq!(look_up(4, 9, 999), [0]);
        assert_eq!(look_up(6, 2, 999), [600, 700]);
        assert_eq!(look_up(6, 9, 20), [600, 700]);
        assert_eq!(look_up(6, 9, 1), [600]);
        assert_eq!(look_up(10, 9, 999), Vec::<u64>::new());
        assert_eq!(index.lowest_positions(2), [Some(500), None]);
    }

    #[test]
    fn offsets_left_out_are_lost_and_their_neighbours_stay() {
        let mut index = Index::default();
        index.insert(QUEUE, 0, 1, place(100));
        index.insert(QUEUE, 0, 4, place(400));
        index.begin_at(QUEUE, 0);
        assert_eq!(index.hot(QUEUE), Some(0..5));
        let Looked::Places { places, .. } = index.look_up(QUEUE, 0, 9, 999) else {
            panic!("the row begins at 0");
        };
        let lost: Vec<bool> = places.iter().map(|place| place.is_lost()).collect();
        assert_eq!(lost, [true, false, true, true, false]);
    }

    #[test]
    fn a_queue_that_is_wholly_cold_has_no_row() {
        let mut index = Index::default();
        index.insert(QUEUE, 0, 0, place(0));
        index.insert(QUEUE, 0, 1, place(100));
        index.drop_below(QUEUE, 1);
        assert_eq!(index.hot(QUEUE), Some(1..2));
        index.drop_below(QUEUE, 2);
        assert_eq!((index.hot(QUEUE), index.topics().len()), (None, 0));
    }

    #[test]
    fn a_queue_with_one_message_here_costs_a_row_alone() {
        assert!(size_of::<((TopicId, QueueId), Row)>() <= ROW_BYTES);
    }

    #[test]
    fn messages_that_come_together_lie_where_they_would_lie_one_by_one() {
        let chance = Seeded::new(8);
        let (mut together, mut single) = (Index::default(), Index::default());
        let queues = [0, 1, 2].map(|queue| (TopicId(1), QueueId(queue)));
        for _ in 0..300 {
            let mut block = Vec::new();
            let mut next = queues.map(|queue| single.hot(queue).map_or(3, |hot| hot.end));
            for n in 0..chance.below(12) {
                // Several of a queue in a row, some of them there already or leaving others out.
                let at = usize::try_from(chance.below(7) / 3).unwrap();
                let offset = (next[at] + chance.below(12)).saturating_sub(5);
                next[at] = next[at].max(offset + 1);
                block.push((queues[at], offset, place(n)));
            }
            for &(queue, offset, place) in &block {
                single.insert(queue, 0, offset, place);
            }
            together.insert_all(0, block.into_iter());
            if chance.percent(20) {
                let queue = queues[usize::try_from(chance.below(3)).unwrap()];
                for index in [&mut together, &mut single] {
                    index.drop_below(queue, index.hot(queue).map_or(0, |hot| hot.end - 1));
                }
            }
            assert_eq!(
                (together.len(), together.bytes()),
                (single.len(), single.bytes())
            );
            for queue in queues {
                let first = single.hot(queue).map_or(0, |hot| hot.start);
                let of = |index: &Index| index.look_up(queue, first, usize::MAX, usize::MAX);
                assert_eq!(together.hot(queue), single.hot(queue));
                assert_eq!(of(&together), of(&single));
            }
        }
    }

    #[test]
    fn what_is_counted_of_all_messages_is_that_of_each_topic_whatever_comes_and_goes() {
        let chance = Seeded::new(7);
        let mut index = Index::default();
        let topics = [TopicId(1), TopicId(2), TopicId(3)];
        for _ in 0..2000 {
            let queue = (
                topics[usize::try_from(chance.below(3)).unwrap()],
                QueueId(u32::try_from(chance.below(2)).unwrap()),
            );
            let next = index.hot(queue).map_or(5, |hot| hot.end);
            match chance.below(20) {
                0 => index.forget(queue.0),
                1 => index.begin_at(queue, next.saturating_sub(9)),
                2..5 => index.drop_below(queue, next - chance.below(3).min(next)),
                // One that is there already, the next one, and some that leave others out.
                n => index.insert(queue, 0, (next + n).saturating_sub(15), place(n)),
            }
            let sum: u64 = topics.iter().map(|&topic| index.bytes_of(topic)).sum();
            assert_eq!(index.bytes(), sum);
            let queues = topics.iter().flat_map(|&topic| index.queues_of(topic));
            assert_eq!(
                index.len(),
                queues.map(|(_, hot)| hot.end - hot.start).sum::<u64>()
            );
        }
    }
}
