//! What a shard keeps of topics, groups and jobs that are deleted, and how it forgets them.
//!
//! Each is found by its range and not by a walk over what is kept of all the others: a topic that goes must not make
//! a million queues wait.

use crate::broker::consume::group_of;
use crate::broker::consume::kept::remove_range;
use crate::broker::record::Change;
use crate::broker::request::Reply;
use crate::broker::state::{Decision, ShardState};

impl ShardState {
    /// Decides to forget what is known; nothing is logged when nothing is.
    pub(super) fn decide_forget(&self, change: &Change, known: bool) -> Decision {
        if known {
            Decision::change(change, Reply::done())
        } else {
            Decision::reply(Reply::done())
        }
    }

    /// Whether anything is kept of a topic.
    pub(super) fn knows_topic(&self, topic: u64) -> bool {
        let mut queues = self.queues.range((topic, 0)..=(topic, u32::MAX));
        queues.next().is_some()
            || self.consumed.knows_topic(topic)
            || self.lites.knows_topic(topic)
            || self.shelf.knows_topic(topic)
            || self.producers.knows_topic(topic)
            || self.effects.keys().any(|&(_, t)| t == topic)
            || self.noted.keys().any(|&(_, t, _)| t == topic)
    }

    /// Whether anything is kept of a group.
    pub(super) fn knows_group(&self, group: u64) -> bool {
        let mut noted = self
            .noted
            .range((group, 0, 0)..=(group, u64::MAX, u32::MAX));
        noted.next().is_some()
            || self.consumed.knows_group(group)
            || self
                .effects
                .keys()
                .any(|&(o, _)| group_of(o) == Some(group))
    }

    pub(super) fn forget_topic(&mut self, topic: u64) {
        remove_range(&mut self.queues, (topic, 0)..=(topic, u32::MAX));
        self.consumed.forget_topic(topic);
        self.shelf.forget_topic(topic);
        self.producers.forget_topic(topic);
        self.effects.retain(|&(_, t), _| t != topic);
        self.noted.retain(|&(_, t, _), _| t != topic);
    }

    pub(super) fn forget_group(&mut self, group: u64) {
        self.consumed.forget_group(group);
        self.effects.retain(|&(o, _), _| group_of(o) != Some(group));
        remove_range(&mut self.noted, (group, 0, 0)..=(group, u64::MAX, u32::MAX));
    }
}
