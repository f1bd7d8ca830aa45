//! Polls that wait for a message: one bell per topic and group, rung when something became durable.
//!
//! A waiter costs nothing while it waits. It must take hold of the bell *before* it looks for messages,
//! so that one that arrives between the look and the wait is not missed. A ring wakes one waiter of each
//! group, not all of them: whoever was woken and found something, or leaves, rings for the next
//! ([`Bell`] does so when it is dropped), so that ten thousand idle consumers cost one look per message.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::broker::request::Request;

/// The bells.
#[derive(Debug, Default)]
pub struct Waiting {
    /// By topic and group.
    bells: Mutex<BTreeMap<(u64, u64), Arc<Notify>>>,
}

/// One waiter's hold on the bell of a topic and group; dropping it rings for the next waiter.
#[derive(Debug)]
pub struct Bell {
    notify: Arc<Notify>,
    stays: bool,
}

impl Bell {
    /// What is rung.
    #[must_use]
    pub fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// Wakes the next waiter: there may be more than this one took.
    pub fn pass_on(&self) {
        self.notify.notify_one();
    }
}

impl Bell {
    /// Lets go of the bell without a ring: the waiter found nothing and takes hold of it again.
    pub fn stay(mut self) {
        self.stays = true;
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if !self.stays {
            self.pass_on();
        }
    }
}

/// The topic of which a group may have something once a request is durable, besides what it stores. The shard's owner
/// rings for it and not whoever asked: that one may have left.
pub(super) fn rung(request: &Request) -> Option<u64> {
    match request {
        Request::Return(back) => Some(back.topic),
        // A message comes back at another time, or a waiting poll must learn when it does.
        Request::Move(change) => Some(change.topic),
        Request::Reopen(reopen) => Some(reopen.topic),
        Request::Reset(reset) => Some(reset.topic),
        // The next one of a message group may go.
        Request::Bury(bury) => Some(bury.topic),
        Request::Ack(ack) => ack.frees.then_some(ack.topic),
        _ => None,
    }
}

impl Waiting {
    /// The bell of a topic for a group.
    #[must_use]
    pub fn bell(&self, topic: u64, group: u64) -> Bell {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let notify = Arc::clone(bells.entry((topic, group)).or_default());
        let stays = false;
        Bell { notify, stays }
    }

    /// Rings for one waiter of each group of a topic.
    pub fn wake(&self, topic: u64) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unused = Vec::new();
        for (key, bell) in bells.range((topic, 0)..=(topic, u64::MAX)) {
            if Arc::strong_count(bell) == 1 {
                unused.push(*key);
            } else {
                bell.notify_one();
            }
        }
        for key in unused {
            bells.remove(&key);
        }
    }

    /// Rings for one waiter of every topic and group.
    pub fn ring_all(&self) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.values() {
            bell.notify_one();
        }
    }

    /// Rings every bell for every waiter: the incarnation ends, or a group was changed.
    pub fn wake_all(&self) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.values() {
            bell.notify_waiters();
        }
    }

    /// Takes away the bells of a deleted topic.
    pub fn forget(&self, topic: u64) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|&(t, _), bell| {
            if t == topic {
                bell.notify_waiters();
            }
            t != topic
        });
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_ring_wakes_one_waiter_of_each_group_and_the_one_that_leaves_wakes_the_next() {
        let waiting = Waiting::default();
        let held: Vec<Bell> = [1, 1, 2].map(|group| waiting.bell(7, group)).into();
        let notifies: Vec<Arc<Notify>> = held.iter().map(Bell::notify).collect();
        let mut rung: Vec<_> = notifies.iter().map(|n| Box::pin(n.notified())).collect();
        for one in &mut rung {
            one.as_mut().enable();
        }
        waiting.wake(8);
        assert!(rung[0].as_mut().now_or_never().is_none());
        waiting.wake(7);
        assert!(rung[0].as_mut().now_or_never().is_some());
        assert!(rung[1].as_mut().now_or_never().is_none(), "one per group");
        assert!(rung[2].as_mut().now_or_never().is_some());
        drop(held);
        assert!(rung[1].as_mut().now_or_never().is_some());
    }
}
