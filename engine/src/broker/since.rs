//! Where a time lies in a queue: the one place that looks for it.
//!
//! **Invariant.** Store times grow with offsets, so that halving finds it. A message that can not be read has lost its
//! time and tells nothing: the next one behind it that can be read tells for it, and it counts as stored with that one.

use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::log::ReadLimit;

use crate::broker::incarnation::Incarnation;

impl Incarnation {
    /// The first offset of a queue stored at or after a time; its end when there is none.
    ///
    /// # Errors
    /// [`ReadError`] when the log can not be read there.
    pub(super) async fn first_at(
        &self,
        topic: u64,
        queue: u32,
        at: Timestamp,
    ) -> Result<Offset, ReadError> {
        let (topic, queue) = (TopicId(topic), QueueId(queue));
        let extent = self.storage().extent(topic, queue).unwrap_or_default();
        let (mut low, mut high) = (extent.first, extent.next);
        while low < high {
            let middle = Offset(low.0 + (high.0 - low.0) / 2);
            match self.stored_from(topic, queue, middle, high).await? {
                Some((found, stored_at)) if stored_at < at => low = found.next(),
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The first message in `from..end` that can be read: its offset and store time.
    async fn stored_from(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        end: Offset,
    ) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let one = ReadLimit {
            messages: 1,
            bytes: 1,
        };
        let mut at = from;
        while at < end {
            match self.storage().read(topic, queue, at, one).await {
                Ok(read) => return Ok(read.first().map(|one| (one.at(), one.stored_at()))),
                // Let go meanwhile.
                Err(ReadError::Trimmed { first, .. }) => at = first.max(at.next()),
                Err(ReadError::Damaged { .. }) => at = at.next(),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}
