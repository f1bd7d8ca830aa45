//! Polls that wait for a message: one bell per topic, rung when something became durable.
//!
//! A waiter costs nothing while it waits. It must take hold of the bell *before* it looks for messages,
//! so that one that arrives between the look and the wait is not missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The bells.
#[derive(Debug, Default)]
pub struct Waiting {
    // Looked up by topic only, never iterated, so the map's order reaches nothing.
    bells: Mutex<HashMap<u64, Arc<Notify>>>,
}

impl Waiting {
    /// The bell of a topic.
    #[must_use]
    pub fn bell(&self, topic: u64) -> Arc<Notify> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(topic).or_default())
    }

    /// Rings the bell of a topic.
    pub fn wake(&self, topic: u64) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(&topic) {
            bell.notify_waiters();
        }
    }

    /// Rings every bell: the incarnation ends.
    pub fn wake_all(&self) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.values() {
            bell.notify_waiters();
        }
    }

    /// Takes away the bell of a deleted topic.
    pub fn forget(&self, topic: u64) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.remove(&topic) {
            bell.notify_waiters();
        }
    }
}
