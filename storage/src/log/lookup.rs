//! Looking up in the merged view: the cold tier by its filters, the log itself by reading it.
//!
//! What is hot has no index: it is what came since the last turn of the tierer, lies in memory or was
//! written moments ago, and is read at the speed of memory; an index would cost every send for the sake of a
//! look-up that happens seldom.

use std::ops::Range;

use millpond_proto::message::{Offset, QueueId, TopicId};
use prost::Message as _;

use crate::error::ReadError;
use crate::log::read::{SCAN_BYTES_MAX, SCAN_ROWS_MAX};
use crate::log::{ReadLimit, Storage};
use crate::tier::cold::lookup::{LookedUp, Lookup};

impl Storage {
    /// Takes a step of a look-up in a range of a queue; call it again from [`LookedUp::to`] on. A step that
    /// decides nothing has come to the end of what there is.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] when the first message of the range can not be read: go on behind it.
    pub async fn look_up(
        &self,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        lookup: &Lookup,
    ) -> Result<LookedUp, ReadError> {
        let extent = self.extent_of(topic, queue).unwrap_or_default();
        let from = range.start.max(extent.first);
        let end = range.end.min(extent.next);
        if from >= end {
            return Ok(LookedUp {
                to: range.start,
                ..LookedUp::default()
            });
        }
        if from < extent.tiered {
            let cold = from.0..end.min(extent.tiered).0;
            return self.cold.look_up(topic, queue, cold, lookup).await;
        }
        let limit = ReadLimit {
            messages: usize::try_from(end.0 - from.0)
                .unwrap_or(usize::MAX)
                .min(SCAN_ROWS_MAX),
            bytes: SCAN_BYTES_MAX,
        };
        let messages = self.read_merged(topic, queue, from, limit).await?;
        let matching = messages.iter().filter(|message| lookup.matches(message));
        Ok(LookedUp {
            matches: matching.map(|message| message.at()).collect(),
            to: messages.last().map_or(from, |last| last.at().next()),
            compared: messages.len() as u64,
            ruled_out: 0,
            bytes: messages.iter().map(|m| m.encoded_len() as u64).sum(),
            stored_ms: messages.first().zip(messages.last()).map(|(first, last)| {
                // Store times of a queue never fall.
                (first.stored_at_ms, last.stored_at_ms)
            }),
        })
    }
}
