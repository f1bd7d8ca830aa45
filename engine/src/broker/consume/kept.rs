//! The cursors of a shard: how they change and go, and what is kept up with them.
//!
//! **Invariant.** A cursor is among those that hold something exactly when it does, and [`Ready`](super::ready::Ready)
//! tells of every queue what its cursor and its end do. Nobody changes a cursor but by the functions here.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::consume::ready::{Hint, Pair};
use crate::broker::consume::{Consumed, Ends, Key};
use crate::broker::group::Cursor;
use crate::broker::group::stir::Stir;
use crate::broker::lite::{is_lite, real};
use crate::broker::record::Trimmed;
use crate::broker::request::Pop;

/// The queues that a poll looks into.
pub(super) enum Asked<'a> {
    /// All that it names, or those of them that can tell it something.
    Named(Box<dyn Iterator<Item = u32> + 'a>),
    /// Those where it may find something.
    Ready(Box<dyn Iterator<Item = u32> + 'a>),
}

impl Iterator for Asked<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        match self {
            Self::Named(queues) | Self::Ready(queues) => queues.next(),
        }
    }
}

impl Consumed {
    /// The queues that a poll looks into, in the order in which it does.
    pub(super) fn asked<'a>(&'a self, pop: &'a Pop, now: Timestamp) -> Asked<'a> {
        let named = pop.queues.iter().copied();
        let Some(stirs) = self.ready.of((pop.topic, pop.group)) else {
            return Asked::Named(Box::new(named));
        };
        // Those that the group has not met are met by being named.
        if (pop.from_latest || pop.only_known) && stirs.met() < pop.queues.len() {
            return Asked::Named(Box::new(named));
        }
        if pop.scanned {
            let is_scanned = |queue| pop.scans.iter().any(|scan| scan.queue == queue);
            let asked = named.filter(move |&q| stirs.stir(q).is_due(now) || is_scanned(q));
            return Asked::Named(Box::new(asked));
        }
        let first = pop.queues.first().copied().unwrap_or(0);
        let due = stirs.due(now, first);
        Asked::Ready(Box::new(due.filter(|&queue| is_named(&pop.queues, queue))))
    }

    /// When a poll of a group may find something of a topic here.
    pub(in crate::broker) fn hint(&mut self, pair: Pair, ends: &Ends) -> Hint {
        if let Some(stirs) = self.ready.of(pair) {
            return stirs.hint();
        }
        let (topic, group) = pair;
        let cursors = self.cursors.range(of_pair(group, topic));
        let cursors = cursors.filter(|((_, _, queue), _)| !is_lite(*queue));
        let mut queues: BTreeSet<u32> = cursors.map(|(&(_, _, queue), _)| queue).collect();
        let met = queues.len();
        queues.extend(
            ends.range((topic, 0)..=(topic, u32::MAX))
                .map(|(&(_, q), _)| q),
        );
        let stirs: Vec<(u32, Stir)> = queues
            .into_iter()
            .map(|queue| (queue, self.stir((group, topic, queue), ends)))
            .collect();
        self.ready.begin(pair, met, stirs.into_iter());
        self.ready
            .of(pair)
            .map(|stirs| stirs.hint())
            .unwrap_or_default()
    }

    /// What changed of what was told with [`Consumed::hint`].
    pub(in crate::broker) fn news(&mut self) -> Vec<(Pair, Hint)> {
        self.ready.news()
    }

    /// A message came to a queue.
    pub(in crate::broker) fn arrived(&mut self, topic: u64, queue: u32) {
        self.ready.arrived(topic, queue);
    }

    /// The cursors that hold something.
    pub(super) fn holders(&self) -> impl Iterator<Item = (Key, &Cursor)> {
        let keys = self.holding.iter();
        keys.filter_map(|&key| Some((key, self.cursors.get(&key)?)))
    }

    /// The cursors of a group that hold something.
    pub(super) fn holders_of(&self, group: u64) -> impl Iterator<Item = (Key, &Cursor)> {
        let keys = self.holding.range(of_group(group));
        keys.filter_map(|&key| Some((key, self.cursors.get(&key)?)))
    }

    /// The cursors of a group.
    pub(super) fn of_group(&self, group: u64) -> impl Iterator<Item = (&Key, &Cursor)> {
        self.cursors.range(of_group(group))
    }

    /// The groups that have been in a topic.
    pub(super) fn groups_of(&self, topic: u64) -> Vec<u64> {
        let mut groups = Vec::new();
        let mut next = Some(0);
        while let Some(group) = next {
            let of_topic = of_pair(group, topic);
            if self.cursors.range(of_topic.clone()).next().is_some()
                || self.resting.range(of_topic).next().is_some()
            {
                groups.push(group);
            }
            let behind = (group + 1, 0, 0)..;
            let cursors = self.cursors.range(behind.clone()).next();
            let resting = self.resting.range(behind).next();
            let found = [cursors.map(|(key, _)| key.0), resting.map(|(key, _)| key.0)];
            next = found.into_iter().flatten().min();
        }
        groups
    }

    /// Whether anything is kept of a topic.
    #[must_use]
    pub fn knows_topic(&self, topic: u64) -> bool {
        !self.groups_of(topic).is_empty() || self.transfers.values().any(|t| t.topic == topic)
    }

    /// Whether anything is kept of a group.
    #[must_use]
    pub fn knows_group(&self, group: u64) -> bool {
        self.of_group(group).next().is_some()
            || self.resting.range(of_group(group)).next().is_some()
            || self.transfers.values().any(|t| t.group == group)
    }

    /// Forgets a topic.
    pub fn forget_topic(&mut self, topic: u64) {
        for group in self.groups_of(topic) {
            self.forget_cursors(of_pair(group, topic));
        }
        remove_range(&mut self.firsts, (topic, 0)..=(topic, u32::MAX));
        self.ready.forget_topic(topic);
        self.transfers.retain(|_, transfer| transfer.topic != topic);
    }

    /// Forgets a group.
    pub fn forget_group(&mut self, group: u64) {
        self.forget_cursors(of_group(group));
        self.ready.forget_group(group);
        self.transfers.retain(|_, transfer| transfer.group != group);
    }

    fn forget_cursors(&mut self, range: RangeInclusive<Key>) {
        remove_range(&mut self.cursors, range.clone());
        remove_range(&mut self.resting, range.clone());
        let holding: Vec<Key> = self.holding.range(range).copied().collect();
        for key in holding {
            self.holding.remove(&key);
        }
    }

    /// Changes a cursor. One of a lite queue is there for as long as it holds something, and any other from then on.
    pub(super) fn change(&mut self, key: Key, ends: &Ends, change: impl FnOnce(&mut Cursor)) {
        let (_, topic, queue) = key;
        if is_lite(queue)
            && let Some(next) = self.resting.remove(&key)
        {
            self.cursors.insert(key, Cursor::starting_at(Offset(next)));
        }
        let first = self.first(topic, queue);
        let mut is_new = false;
        let cursor = self.cursors.entry(key).or_insert_with(|| {
            is_new = true;
            Cursor::starting_at(first)
        });
        let held = !cursor.is_at_rest();
        change(cursor);
        self.follow(key, ends, held, is_new);
    }

    /// Puts a cursor in the place of the one that was there.
    pub(super) fn set(&mut self, key: Key, ends: &Ends, cursor: Cursor) {
        self.resting.remove(&key);
        let before = self.cursors.insert(key, cursor);
        let held = before.as_ref().is_some_and(|before| !before.is_at_rest());
        self.follow(key, ends, held, before.is_none());
    }

    /// Applies that messages are no longer kept.
    pub(super) fn trim(&mut self, trimmed: &Trimmed, ends: &Ends) {
        let mut topics = BTreeSet::new();
        for first in &trimmed.firsts {
            self.firsts.insert((first.topic, first.queue), first.offset);
            topics.insert(first.topic);
        }
        for topic in topics {
            for group in self.groups_of(topic) {
                let keys = self.cursors.range(of_pair(group, topic));
                let keys: Vec<Key> = keys.map(|(&key, _)| key).collect();
                for key in keys {
                    if let Some(&first) = self.firsts.get(&(topic, real(key.2))) {
                        self.change(key, ends, |cursor| cursor.trimmed(Offset(first)));
                    }
                }
            }
        }
        // A queue that a group has not met has nothing for it when all of it is gone.
        for first in &trimmed.firsts {
            for group in self.ready.groups_of(first.topic) {
                let key = (group, first.topic, first.queue);
                let stir = self.stir(key, ends);
                self.ready.moved((key.1, key.0), key.2, false, || stir);
            }
        }
    }

    /// Keeps up what follows from a cursor that changed.
    fn follow(&mut self, key: Key, ends: &Ends, held: bool, is_new: bool) {
        let (group, topic, queue) = key;
        let Some(cursor) = self.cursors.get_mut(&key) else {
            return;
        };
        cursor.rest();
        let holds = !cursor.is_at_rest();
        if holds && !held {
            self.holding.insert(key);
        } else if held && !holds {
            self.holding.remove(&key);
        }
        if !is_lite(queue) {
            let stir = || cursor.stir(end_of(ends, topic, queue));
            self.ready.moved((topic, group), queue, is_new, stir);
        } else if !holds {
            // Of a lite queue's cursor its place alone is kept when that is all there is.
            let next = cursor.next().0;
            self.cursors.remove(&key);
            self.resting.insert(key, next);
        }
    }

    fn stir(&self, key: Key, ends: &Ends) -> Stir {
        let (_, topic, queue) = key;
        let end = end_of(ends, topic, queue);
        match self.cursors.get(&key) {
            Some(cursor) => cursor.stir(end),
            None if self.first(topic, queue) < end => Stir::Now,
            None => Stir::Never,
        }
    }
}

fn end_of(ends: &Ends, topic: u64, queue: u32) -> Offset {
    Offset(ends.get(&(topic, queue)).copied().unwrap_or(0))
}

fn of_group(group: u64) -> RangeInclusive<Key> {
    (group, 0, 0)..=(group, u64::MAX, u32::MAX)
}

fn of_pair(group: u64, topic: u64) -> RangeInclusive<Key> {
    (group, topic, 0)..=(group, topic, u32::MAX)
}

/// Takes a range out of a map without a walk over the rest of it.
pub(in crate::broker) fn remove_range<K: Copy + Ord, V>(
    map: &mut BTreeMap<K, V>,
    range: RangeInclusive<K>,
) {
    let keys: Vec<K> = map.range(range).map(|(&key, _)| key).collect();
    for key in keys {
        map.remove(&key);
    }
}

/// Whether a queue is among those that are named: ascending from some queue on and around, as polls name them, or in
/// whatever order.
fn is_named(queues: &[u32], queue: u32) -> bool {
    let first = queues.first().copied().unwrap_or(0);
    let at = queues.partition_point(|&one| (one < first, one) < (queue < first, queue));
    queues.get(at) == Some(&queue) || queues.contains(&queue)
}
