//! Polls that wait for a message: one bell per topic and group, rung when something became durable.
//!
//! A waiter costs nothing while it waits. It must take hold of the bell *before* it looks for messages,
//! so that one that arrives between the look and the wait is not missed. A ring wakes one waiter of each
//! group, not all of them: whoever was woken and found something, or leaves, rings for the next
//! ([`Bell`] does so when it is dropped), so that ten thousand idle consumers cost one look per message. Those who read
//! by offset share nothing with each other: a ring wakes all of them, and they share one bell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::broker::request::Request;

/// The bells.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Bells>);

#[derive(Debug, Default)]
struct Bells {
    /// By topic and group.
    groups: BTreeMap<(u64, u64), Arc<Notify>>,
    /// By topic, for those who read it and are no group: each of them wants to know.
    readers: BTreeMap<u64, Arc<Notify>>,
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

/// What is rung once a request is durable, besides what it stores. The shard's owner rings and not whoever asked: that one
/// may have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ring {
    /// A group may have something of this topic.
    Topic(u64),
    /// Some groups may have something of some topics, if anything was changed.
    Unnamed,
}

/// See [`Ring`]; none for what gives nobody anything.
pub(super) fn rung(request: &Request) -> Option<Ring> {
    let topic = match request {
        Request::Return(back) => back.topic,
        // A message comes back at another time, or a waiting poll must learn when it does.
        Request::Move(change) => change.topic,
        Request::Reopen(reopen) => reopen.topic,
        Request::Reset(reset) => reset.topic,
        // The next one of a message group may go.
        Request::Bury(bury) => bury.topic,
        Request::Ack(ack) if ack.frees => ack.topic,
        Request::CloneGroup(_) | Request::Release(_) => return Some(Ring::Unnamed),
        _ => return None,
    };
    Some(Ring::Topic(topic))
}

impl Waiting {
    /// The bell of a topic for a group.
    #[must_use]
    pub fn bell(&self, topic: u64, group: u64) -> Bell {
        let mut bells = self.lock();
        let notify = Arc::clone(bells.groups.entry((topic, group)).or_default());
        let stays = false;
        Bell { notify, stays }
    }

    /// What is rung for all who read a topic and are no group.
    #[must_use]
    pub fn readers(&self, topic: u64) -> Arc<Notify> {
        Arc::clone(self.lock().readers.entry(topic).or_default())
    }

    /// Rings for one waiter of each group of a topic, and for everyone who reads it.
    pub fn wake(&self, topic: u64) {
        let mut bells = self.lock();
        let mut unused = Vec::new();
        for (key, bell) in bells.groups.range((topic, 0)..=(topic, u64::MAX)) {
            if Arc::strong_count(bell) == 1 {
                unused.push(*key);
            } else {
                bell.notify_one();
            }
        }
        for key in unused {
            bells.groups.remove(&key);
        }
        if let Some(readers) = bells.readers.get(&topic) {
            readers.notify_waiters();
            if Arc::strong_count(readers) == 1 {
                bells.readers.remove(&topic);
            }
        }
    }

    /// Rings for one waiter of every topic and group.
    pub fn ring_all(&self) {
        for bell in self.lock().groups.values() {
            bell.notify_one();
        }
    }

    /// Rings every bell for every waiter: the incarnation ends, or a group was changed.
    pub fn wake_all(&self) {
        let bells = self.lock();
        for bell in bells.groups.values().chain(bells.readers.values()) {
            bell.notify_waiters();
        }
    }

    /// Takes away the bells of a deleted topic.
    pub fn forget(&self, topic: u64) {
        let mut bells = self.lock();
        bells.groups.retain(|&(t, _), bell| {
            if t == topic {
                bell.notify_waiters();
            }
            t != topic
        });
        if let Some(readers) = bells.readers.remove(&topic) {
            readers.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bells> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn everyone_who_reads_a_topic_is_rung_for_and_leaves_nothing_behind() {
        let waiting = Waiting::default();
        let held = [7, 7, 8].map(|topic| waiting.readers(topic));
        let mut rung: Vec<_> = held.iter().map(|n| Box::pin(n.notified())).collect();
        for one in &mut rung {
            one.as_mut().enable();
        }
        waiting.wake(7);
        let heard: Vec<bool> = rung
            .iter_mut()
            .map(|one| one.as_mut().now_or_never().is_some())
            .collect();
        assert_eq!(heard, [true, true, false]);
        for _ in 0..9 {
            drop(waiting.readers(8));
        }
        assert_eq!(
            waiting.lock().readers.len(),
            2,
            "one a topic, however many read it"
        );
        waiting.forget(8);
        assert!(rung[2].as_mut().now_or_never().is_some());
        drop(rung);
        drop(held);
        waiting.wake(7);
        assert!(waiting.lock().readers.is_empty());
    }
}
