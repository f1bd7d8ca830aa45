//! Which queues of a topic a group may find something in, kept so that a poll need not look into each.
//!
//! It follows from the cursors and the ends of the queues and is no state of its own: it is made when a topic and
//! group are first polled in this run, kept up with every change after that, and never saved. A topic and group that
//! are not here yet are looked through queue by queue.
//!
//! **Invariant.** Of a topic and group that are here, every queue is, whose [`Stir`] is not [`Stir::Never`]; lite queues
//! apart, which are found by name.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::time::Timestamp;

use crate::broker::group::stir::Stir;

/// Topic and group.
pub(in crate::broker) type Pair = (u64, u64);

/// What groups may find where.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pairs: BTreeMap<Pair, Stirs>,
    /// What was told of them is no longer so.
    changed: BTreeSet<Pair>,
    /// A message came to this queue, and nothing else happened since.
    last: Option<(u64, u32)>,
}

/// The queues of a topic that stir for a group.
#[derive(Debug, Default)]
pub(super) struct Stirs {
    /// Those where it is worth looking at any time.
    now: BTreeSet<u32>,
    /// Those where it is at some time, by that and by queue.
    later: BTreeSet<(Timestamp, u32)>,
    later_at: BTreeMap<u32, Timestamp>,
    /// How many queues the group has a place in.
    met: usize,
    told: Hint,
}

/// What is told to those who choose which shards to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// When it is worth asking the shard.
    pub stir: Stir,
    /// Queues in which something may be found at any time.
    pub queues: u32,
}

impl Default for Hint {
    fn default() -> Self {
        Self {
            stir: Stir::Never,
            queues: 0,
        }
    }
}

impl Ready {
    /// What is known of a topic and group; none: it was not polled yet.
    pub(super) fn of(&self, pair: Pair) -> Option<&Stirs> {
        self.pairs.get(&pair)
    }

    /// Begins a topic and group with all its queues that stir, and the number of those it has a place in.
    pub(super) fn begin(
        &mut self,
        pair: Pair,
        met: usize,
        queues: impl Iterator<Item = (u32, Stir)>,
    ) {
        let mut stirs = Stirs {
            met,
            ..Stirs::default()
        };
        for (queue, stir) in queues {
            stirs.set(queue, stir);
        }
        stirs.told = stirs.hint();
        self.last = None;
        self.pairs.insert(pair, stirs);
    }

    /// A message came to a queue: every group may find it.
    pub(super) fn arrived(&mut self, topic: u64, queue: u32) {
        if self.last == Some((topic, queue)) {
            return;
        }
        self.last = Some((topic, queue));
        for (pair, stirs) in self.pairs.range_mut((topic, 0)..=(topic, u64::MAX)) {
            if stirs.now.contains(&queue) {
                continue;
            }
            stirs.set(queue, Stir::Now);
            if stirs.is_news() {
                self.changed.insert(*pair);
            }
        }
    }

    /// A group's place in a queue changed, or is new.
    pub(super) fn moved(
        &mut self,
        pair: Pair,
        queue: u32,
        is_new: bool,
        stir: impl FnOnce() -> Stir,
    ) {
        let Some(stirs) = self.pairs.get_mut(&pair) else {
            return;
        };
        self.last = None;
        stirs.met += usize::from(is_new);
        stirs.set(queue, stir());
        if stirs.is_news() {
            self.changed.insert(pair);
        }
    }

    /// Groups whose topic is here.
    pub(super) fn groups_of(&self, topic: u64) -> Vec<u64> {
        let pairs = self.pairs.range((topic, 0)..=(topic, u64::MAX));
        pairs.map(|(&(_, group), _)| group).collect()
    }

    pub(super) fn forget_topic(&mut self, topic: u64) {
        self.last = None;
        self.pairs.retain(|&(t, _), _| t != topic);
        self.changed.retain(|&(t, _)| t != topic);
    }

    pub(super) fn forget_group(&mut self, group: u64) {
        self.pairs.retain(|&(_, g), _| g != group);
        self.changed.retain(|&(_, g)| g != group);
    }

    /// What is to be told of topics and groups since this was asked last.
    pub(super) fn news(&mut self) -> Vec<(Pair, Hint)> {
        let changed = std::mem::take(&mut self.changed);
        let told = changed.into_iter().filter_map(|pair| {
            let stirs = self.pairs.get_mut(&pair)?;
            stirs.told = stirs.hint();
            Some((pair, stirs.told))
        });
        told.collect()
    }
}

/// It follows from what it is made of, which is compared where that is.
impl PartialEq for Ready {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Stirs {
    /// How many queues the group has a place in.
    pub(super) fn met(&self) -> usize {
        self.met
    }

    /// When it is worth looking into a queue.
    pub(super) fn stir(&self, queue: u32) -> Stir {
        if self.now.contains(&queue) {
            return Stir::Now;
        }
        self.later_at
            .get(&queue)
            .map_or(Stir::Never, |&at| Stir::At(at))
    }

    /// The queues that are worth looking into at `now`: where a lease ended, then the others from `first` on, in turn.
    pub(super) fn due(&self, now: Timestamp, first: u32) -> impl Iterator<Item = u32> {
        let ended = self.later.range(..=(now, u32::MAX));
        let turned = self.now.range(first..).chain(self.now.range(..first));
        ended.map(|&(_, queue)| queue).chain(turned.copied())
    }

    /// When the next queue is worth looking into that is not at `now`.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let later = Timestamp(now.as_ms().checked_add(1)?);
        self.later.range((later, 0)..).next().map(|&(at, _)| at)
    }

    /// What there is to tell.
    pub(super) fn hint(&self) -> Hint {
        let later = self
            .later
            .first()
            .map_or(Stir::Never, |&(at, _)| Stir::At(at));
        Hint {
            stir: if self.now.is_empty() {
                later
            } else {
                Stir::Now
            },
            queues: u32::try_from(self.now.len()).unwrap_or(u32::MAX),
        }
    }

    fn is_news(&self) -> bool {
        self.hint() != self.told
    }

    fn set(&mut self, queue: u32, stir: Stir) {
        if let Some(at) = self.later_at.remove(&queue) {
            self.later.remove(&(at, queue));
        }
        match stir {
            Stir::Now => {
                self.now.insert(queue);
            }
            Stir::At(at) => {
                self.now.remove(&queue);
                self.later.insert((at, queue));
                self.later_at.insert(queue, at);
            }
            Stir::Never => {
                self.now.remove(&queue);
            }
        }
    }
}

#[cfg(test)]
mod tests;
