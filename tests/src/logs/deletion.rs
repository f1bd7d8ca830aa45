//! Deleting topics and making them anew under another id, as an owner of names does.
//!
//! **Invariants.** From the moment that a deletion was answered nothing of the topic is there, after any crash either. One
//! that failed may have happened or not, until it is asked for again; that is done at every opening, as long as it takes.

use millpond_proto::message::{QueueId, TopicId};

use crate::logs::model::Queue;
use crate::logs::{ANEW, End, Life, World};

/// What queues of any topic are called.
const QUEUE_IDS: [QueueId; 4] = [QueueId(0), QueueId(1), QueueId(2), QueueId(3)];

impl World {
    /// Deletes a topic; its queues begin again.
    pub(super) async fn delete(&mut self, life: &Life) -> Option<End> {
        let old = self.some_topic();
        let new = TopicId(old.0 + ANEW);
        for queue in self.queues.iter_mut().filter(|queue| queue.topic == old) {
            *queue = Queue::new((new, queue.id));
        }
        self.deleted.push(old);
        self.undeleted.insert(old);
        self.tally.deleted += 1;
        self.delete_again(life).await;
        self.check_extents(life);
        life.disk.power.is_gone().then_some(End::Crashed)
    }

    /// Deletes what may not be deleted yet.
    pub(super) async fn delete_again(&mut self, life: &Life) {
        for topic in self.undeleted.clone() {
            self.tally.operations += 1;
            self.tally.turns += 1;
            let forgotten = life.storage.forget(topic).await;
            if forgotten.is_ok() {
                self.undeleted.remove(&topic);
            }
            self.turned(life, forgotten);
        }
    }

    /// Of deleted topics nothing is there.
    pub(super) fn check_deleted(&self, life: &Life) {
        let mut there = life.storage.topics();
        there.retain(|topic| self.deleted.contains(topic) && !self.undeleted.contains(topic));
        assert_eq!(there, [], "deleted topics stay deleted");
        for (topic, queue) in self
            .deleted
            .iter()
            .flat_map(|topic| QUEUE_IDS.map(|id| (*topic, id)))
        {
            let extent = life.storage.extent(topic, queue);
            let is_gone = extent.is_none() || self.undeleted.contains(&topic);
            assert!(is_gone, "{topic} was deleted, and has {extent:?}");
        }
    }
}
