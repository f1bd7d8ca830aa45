//! Erasing what was sent under a key, to the last byte of the data folder.
//!
//! First everything is moved to Parquet and the files that hold the key are written anew. Then the log leaves the files that
//! the messages came in by: a note in every shard begins new segments, what was sent meanwhile is moved too, and with the
//! checkpoint behind it the old segments are removed, and those that wait to be used again. Nothing is erased in place, so a
//! crash anywhere leaves a log as ever, and doing it again finishes it.
//!
//! Messages that wait on a shelf for their time or the end of their transaction lie in files of the shelf, and stay there for
//! a while after they left it. These are written anew first; the shards let go of what they read ahead, and what was on its
//! way off a shelf is in the topic's log by then. An erased message stays on its shelf and is placed without content.
//!
//! It does not reach what others made of the messages (views, dead letters, what consumers hold), nor what is sent under the
//! key, or decided on by its producer, in the meantime.

use millpond_proto::message::TopicId;
use millpond_storage::error::{AppendError, TierError};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::tier::cold::erasure::{Erased, emptied};

use crate::broker::Broker;
use crate::broker::incarnation::Incarnation;
use crate::broker::record::Erasure;
use crate::broker::request::Request;
use crate::broker::shelf::{self, shelf_topic};

impl Broker {
    /// Erases what was sent to a topic under a key, on the shelves too. What is sent under the key meanwhile may stay. A message
    /// counts as often as it is stored: what left a shelf lately lies in both places. The bytes are in no file any more when
    /// the answer says that no old file is held and none of the log is left; else another call finishes it.
    ///
    /// # Errors
    /// [`TierError`]; then some of it may be erased, and another call goes on.
    pub async fn erase(&self, topic: TopicId, key: &[u8]) -> Result<Erased, TierError> {
        let Ok(incarnation) = self.incarnation() else {
            return Ok(Erased::default());
        };
        incarnation.tier().await?;
        let storage = incarnation.storage();
        let shelved = incarnation.erase_shelved(topic, key).await?;
        let note = |messages| Erasure {
            topic: topic.0,
            messages,
        };
        // The shards drop what they read off their shelves before; what they had placed by then is moved, and erased, with the rest.
        incarnation.note_erasure(note(shelved.messages)).await?;
        incarnation.tier().await?;
        let all = |message: &Envelope| Some(emptied(message));
        let erased = storage.erase(topic, key, &all).await;
        // Also when it failed half way: some files may be written anew.
        incarnation.rewrites().note(topic);
        let mut erased = erased?;
        erased.add(shelved);
        let mut shredding = storage.shred()?;
        // The first note sees to it that there is something to begin a new segment behind.
        incarnation.note_erasure(note(erased.messages)).await?;
        shredding.begin_segments();
        incarnation.note_erasure(note(erased.messages)).await?;
        incarnation.tier().await?;
        erased.log_bytes = shredding.left()?;
        Ok(erased)
    }
}

impl Incarnation {
    /// Erases what lies on the shelves for a topic.
    async fn erase_shelved(&self, topic: TopicId, key: &[u8]) -> Result<Erased, TierError> {
        let rest = |message: &Envelope| shelf::erased(message, topic.0);
        let mut erased = Erased::default();
        for shard in self.shards() {
            let shelf = TopicId(shelf_topic(shard));
            erased.add(self.storage().erase(shelf, key, &rest).await?);
        }
        Ok(erased)
    }

    async fn note_erasure(&self, note: Erasure) -> Result<(), TierError> {
        let noted = self.ask_all(Request::NoteErasure(note)).await;
        let failed = |error: AppendError| TierError::Disk {
            what: "note the erasure in the log".to_owned(),
            source: std::io::Error::other(error),
        };
        noted.map(|_| ()).map_err(failed)
    }
}
