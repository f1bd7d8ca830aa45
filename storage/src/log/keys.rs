//! Key compaction as the log's users see it; the work is done in [`crate::tier::cold::keys`].

use std::ops::Range;

use millpond_proto::message::{Offset, QueueId, TopicId};

use crate::error::{ReadError, TierError};
use crate::log::Storage;
use crate::tier::cold::keys::{KeyCompaction, KeysCompacted};

impl Storage {
    /// Takes away the messages of a topic that later ones of the same key supersede, as far as they lie in Parquet. Offsets
    /// stay as they are: readers pass over those that have no message any more.
    ///
    /// # Errors
    /// [`TierError`]; what was done before stays done, and the next call goes on.
    pub async fn compact_keys(
        &self,
        topic: TopicId,
        how: &KeyCompaction,
    ) -> Result<KeysCompacted, TierError> {
        self.cold.compact_keys(topic, how).await
    }

    /// Whether messages of a topic may be missing that are neither deleted nor damaged: a read from an offset may then
    /// begin with a later one.
    #[must_use]
    pub fn has_holes(&self, topic: TopicId) -> bool {
        self.cold.has_holes(topic)
    }

    /// How many of the offsets kept of a queue have no message any more because a later one superseded it.
    #[must_use]
    pub fn superseded(&self, topic: TopicId, queue: QueueId) -> u64 {
        self.cold.superseded(topic, queue)
    }

    /// How many offsets of a range of a queue have no message any more because a later one superseded it.
    ///
    /// # Errors
    /// [`ReadError`] when a file can not be read.
    pub async fn missing(
        &self,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
    ) -> Result<u64, ReadError> {
        let range = range.start.0..range.end.0;
        self.cold.missing(topic, queue, range).await
    }
}
