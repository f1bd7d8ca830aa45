//! Erasing what was sent under a key, to the last byte of the data folder.
//!
//! First everything is moved to Parquet and the files that hold the key are written anew. Then the log leaves the files that
//! the messages came in by: a note in every shard begins new segments, what was sent meanwhile is moved too, and with the
//! checkpoint behind it the old segments are removed, and those that wait to be used again. Nothing is erased in place, so a
//! crash anywhere leaves a log as ever, and doing it again finishes it.
//!
//! It does not reach what others made of the messages (views, dead letters, what consumers hold), nor messages that wait on
//! the shelf for their time or the end of their transaction.

use millpond_proto::message::TopicId;
use millpond_storage::error::{AppendError, TierError};
use millpond_storage::tier::cold::erasure::Erased;

use crate::broker::Broker;
use crate::broker::incarnation::Incarnation;
use crate::broker::record::Erasure;
use crate::broker::request::Request;

impl Broker {
    /// Erases what was sent to a topic under a key. What is sent under the key meanwhile may stay. The bytes are in no file
    /// any more when the answer says that no old file is held and none of the log is left; else another call finishes it.
    ///
    /// # Errors
    /// [`TierError`]; then some of it may be erased, and another call goes on.
    pub async fn erase(&self, topic: TopicId, key: &[u8]) -> Result<Erased, TierError> {
        let Ok(incarnation) = self.incarnation() else {
            return Ok(Erased::default());
        };
        incarnation.tier().await?;
        let storage = incarnation.storage();
        let mut erased = storage.erase(topic, key).await?;
        let mut shredding = storage.shred()?;
        let note = Erasure {
            topic: topic.0,
            messages: erased.messages,
        };
        // The first note sees to it that there is something to begin a new segment behind.
        incarnation.note_erasure(note).await?;
        shredding.begin_segments();
        incarnation.note_erasure(note).await?;
        incarnation.tier().await?;
        erased.log_bytes = shredding.left()?;
        Ok(erased)
    }
}

impl Incarnation {
    async fn note_erasure(&self, note: Erasure) -> Result<(), TierError> {
        let noted = self.ask_all(Request::NoteErasure(note)).await;
        let failed = |error: AppendError| TierError::Disk {
            what: "note the erasure in the log".to_owned(),
            source: std::io::Error::other(error),
        };
        noted.map(|_| ()).map_err(failed)
    }
}
