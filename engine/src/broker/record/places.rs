//! Offsets of many queues in a snapshot, a few bytes each.
//!
//! There may be a million queues, and of nearly all of them a shard keeps two numbers: where the queue ends, and where a
//! group stands that has nothing to do in it. So these are written as columns, by group and topic.

/// An offset in each of many queues of a topic.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PlacesSnapshot {
    /// Group; 0: the offsets are no group's.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queues, ascending: the distance of each to the one before.
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    /// The offset in each.
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
}

/// Group, topic and queue.
type Key = (u64, u64, u32);

impl PlacesSnapshot {
    /// As a snapshot has them; in the order of their keys.
    #[must_use]
    pub fn of(places: impl Iterator<Item = (Key, u64)>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut last = 0;
        for ((group, topic, queue), offset) in places {
            let known = all
                .last_mut()
                .filter(|one| (one.group, one.topic) == (group, topic));
            let distance = known.as_ref().map_or(queue, |_| queue - last);
            last = queue;
            match known {
                Some(one) => {
                    one.queues.push(distance);
                    one.offsets.push(offset);
                }
                None => all.push(Self {
                    group,
                    topic,
                    queues: vec![distance],
                    offsets: vec![offset],
                }),
            }
        }
        all
    }

    /// What a snapshot has.
    pub fn all(snapshot: &[Self]) -> impl Iterator<Item = (Key, u64)> {
        snapshot.iter().flat_map(|one| {
            let queues = one.queues.iter().scan(0_u32, |queue, distance| {
                *queue = queue.wrapping_add(*distance);
                Some(*queue)
            });
            let places = queues.zip(&one.offsets);
            places.map(|(queue, &offset)| ((one.group, one.topic, queue), offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            places in prop::collection::btree_map((0..3_u64, 0..3_u64, any::<u32>()), any::<u64>(), 0..40),
        ) {
            let written = PlacesSnapshot::of(places.iter().map(|(&key, &offset)| (key, offset)));
            let read: BTreeMap<Key, u64> = PlacesSnapshot::all(&written).collect();
            prop_assert_eq!(read, places);
        }

        #[test]
        fn whatever_is_read_does_no_harm(queues: Vec<u32>, offsets: Vec<u64>) {
            let one = PlacesSnapshot { group: 1, topic: 2, queues, offsets };
            PlacesSnapshot::all(&[one]).for_each(drop);
        }
    }

    #[test]
    fn an_idle_queue_takes_a_few_bytes() {
        let places = (0..1000).map(|queue| ((1, 2, queue * 64), 17));
        let bytes: usize = PlacesSnapshot::of(places)
            .iter()
            .map(|one| one.encoded_len())
            .sum();
        assert!(bytes < 2100, "{bytes}");
    }
}
