//! How often what is stored of a topic was written anew with less in it: erased, or compacted by key.
//!
//! Whoever keeps what was read of a topic keeps this number beside it, and reads again when there is a greater one. It is
//! raised when the files are written, so that what is read under it holds nothing that was taken out. A restart
//! begins at zero, with nobody who kept anything.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use millpond_proto::message::TopicId;

/// The numbers of all topics; those that are not there are zero.
#[derive(Debug, Default)]
pub(super) struct Rewrites(Mutex<BTreeMap<TopicId, u64>>);

impl Rewrites {
    /// The number of a topic.
    pub(super) fn of(&self, topic: TopicId) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&topic).copied().unwrap_or(0)
    }

    /// Something was taken out of a topic.
    pub(super) fn note(&self, topic: TopicId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(topic).or_insert(0) += 1;
    }

    /// A topic is no more.
    pub(super) fn forget(&self, topic: TopicId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&topic);
    }
}
