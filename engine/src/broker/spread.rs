//! Which queues of a topic lie in which shard, and in which order a poll asks them.
//!
//! It follows from the topic's id and its number of queues and is worked out anew for a small topic. For a large one
//! that would cost a poll more than all the rest of it, so there it is kept, for so many topics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millpond_proto::message::ShardId;

/// Queues up to which a topic's spread is not kept.
const SMALL: u32 = 64;
/// Spreads that are kept.
const KEPT_MAX: usize = 4096;

/// The shards of a topic in turn: first the one of the queue whose turn it is.
#[derive(Debug)]
pub(super) struct Turned {
    spread: Arc<Spread>,
    /// The queue whose turn it is, and which of the shards it lies in.
    first: u32,
    place: usize,
}

/// Spreads of large topics, by topic.
#[derive(Debug, Default)]
pub(super) struct Spreads {
    kept: Mutex<BTreeMap<u64, Arc<Spread>>>,
}

/// How the queues of a topic lie.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// By the first queue; queues ascending.
    shards: Vec<(ShardId, Vec<u32>)>,
    /// Which of them each queue lies in.
    places: Vec<u16>,
}

impl Spreads {
    /// How the queues of a topic lie, as `shard` tells it.
    pub(super) fn of(
        &self,
        topic: u64,
        queues: u32,
        shard: impl Fn(u32) -> ShardId,
    ) -> Arc<Spread> {
        if queues <= SMALL {
            return Arc::new(Spread::of(queues, shard));
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.get(&topic).filter(|spread| spread.queues() == queues);
        if let Some(spread) = known {
            return Arc::clone(spread);
        }
        let spread = Arc::new(Spread::of(queues, shard));
        if kept.len() >= KEPT_MAX {
            kept.pop_first();
        }
        kept.insert(topic, Arc::clone(&spread));
        spread
    }
}

impl Turned {
    /// The shards in the order of a turn, which says which queue comes first.
    pub(super) fn new(spread: Arc<Spread>, turn: u64) -> Self {
        let first = turn.checked_rem(spread.queues().into()).unwrap_or(0);
        let first = u32::try_from(first).unwrap_or(0);
        let place = spread.places.get(first as usize).copied().unwrap_or(0);
        Self {
            spread,
            first,
            place: usize::from(place),
        }
    }

    /// The shards, in turn.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> {
        let (before, from) = self.spread.shards.split_at(self.place);
        from.iter().chain(before).map(|(shard, _)| *shard)
    }

    /// The queues of the shard at an index, in turn.
    pub(super) fn queues(&self, index: usize) -> Vec<u32> {
        let shards = &self.spread.shards;
        let place = (self.place + index) % shards.len().max(1);
        let queues = shards.get(place).map_or(&[][..], |(_, queues)| queues);
        let (before, from) = queues.split_at(queues.partition_point(|queue| *queue < self.first));
        [from, before].concat()
    }
}

impl Spread {
    /// The shards, in no turn.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardId> {
        self.shards.iter().map(|(shard, _)| *shard)
    }

    fn of(queues: u32, shard: impl Fn(u32) -> ShardId) -> Self {
        let mut spread = Self::default();
        let mut known = BTreeMap::new();
        for queue in 0..queues {
            let shard = shard(queue);
            let place = *known.entry(shard).or_insert_with(|| {
                spread.shards.push((shard, Vec::new()));
                u16::try_from(spread.shards.len() - 1).expect("shards are counted in 16 bits")
            });
            spread.shards[usize::from(place)].1.push(queue);
            spread.places.push(place);
        }
        spread
    }

    fn queues(&self) -> u32 {
        u32::try_from(self.places.len()).expect("queues are counted in 32 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: u32 = 7;

    fn shards(spreads: &Spreads, topic: u64, queues: u32, turn: u64) -> Vec<(ShardId, Vec<u32>)> {
        let turned = Turned::new(spreads.of(topic, queues, shard), turn);
        let shards = turned.shards().enumerate();
        shards
            .map(|(index, shard)| (shard, turned.queues(index)))
            .collect()
    }

    fn shard(queue: u32) -> ShardId {
        ShardId(u16::try_from(queue * queue % SHARDS).unwrap())
    }

    #[test]
    fn every_turn_begins_with_its_queue_and_has_all_of_them_once() {
        let spreads = Spreads::default();
        for queues in [1, 3, SMALL, SMALL + 1, 1000] {
            let of = u64::from(queues);
            for turn in [0, 1, 5, of - 1, of, 2 * of + 3, u64::MAX] {
                let shards = shards(&spreads, 7, queues, turn);
                let first = u32::try_from(turn % of).unwrap();
                assert_eq!(shards[0].1[0], first);
                assert_eq!(shards[0].0, shard(first));
                let mut all = Vec::new();
                for (known, queues) in shards {
                    assert!(queues.iter().all(|queue| shard(*queue) == known));
                    all.extend(queues);
                }
                all.sort_unstable();
                assert_eq!(all, (0..queues).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_topic_that_grew_is_spread_anew_and_what_is_kept_is_bounded() {
        let spreads = Spreads::default();
        for topic in 0..2 * KEPT_MAX as u64 {
            spreads.of(topic, SMALL + 1, shard);
        }
        assert_eq!(spreads.kept.lock().unwrap().len(), KEPT_MAX);
        let last = 2 * KEPT_MAX as u64 - 1;
        let grown: usize = shards(&spreads, last, SMALL + 2, 0)
            .iter()
            .map(|(_, queues)| queues.len())
            .sum();
        assert_eq!(grown, SMALL as usize + 2);
    }
}
