//! Moving what is durable in the WAL into Parquet.
//!
//! Topics of a family are moved together, so that many small ones make one file a turn.
//!
//! First the file and its manifest are durable, then the places are dropped: at any moment each offset
//! is readable in one tier at least. A message that is damaged in the log is stepped over: its offset is kept
//! as a gap, which answers damage for ever.

use std::collections::BTreeMap;

use millpond_proto::message::{Offset, TopicId};

use crate::error::{ReadError, TierError};
use crate::format::envelope::Envelope;
use crate::log::read::Hot;
use crate::log::{ReadLimit, Storage, Tiered};
use crate::tier::cold::family::Moved;
use crate::tier::parquet::{GROUP_BYTES_MAX, size_of};

/// Bytes of messages that one Parquet file takes at most, which a turn holds in memory: a full row group, since more of them in
/// one file are had by merging files, which holds a part of one at a time.
const FILE_BYTES_MAX: usize = GROUP_BYTES_MAX;
/// Most messages of one Parquet file: while it is made each takes some 500 bytes besides its own, as many in all.
const FILE_MESSAGES_MAX: usize = 32 * 1024;

#[derive(Default)]
struct Batch {
    messages: Vec<Envelope>,
    /// Bytes of them, with their properties and keys: whoever sends decides where the bytes are.
    bytes: usize,
    /// Offsets taken over, damaged ones included.
    moved: Vec<Moved>,
    damaged: u64,
    is_full: bool,
}

impl Batch {
    fn add(&mut self, messages: Vec<Envelope>) {
        self.bytes += messages.iter().map(size_of).sum::<usize>();
        self.messages.extend(messages);
    }
}

impl Storage {
    pub(crate) async fn tier_all(&self) -> Result<Tiered, TierError> {
        let _one_at_a_time = self.tiering.lock().await;
        let mut tiered = Tiered::default();
        let topics = self.view.index().topics();
        let mut families: BTreeMap<TopicId, Vec<TopicId>> = BTreeMap::new();
        for topic in topics {
            if self.cold.is_gone(topic) {
                // Sent while the topic was deleted, or read back from a log that remembers it.
                self.view.index_mut().forget(topic);
                continue;
            }
            if let Some(family) = self.cold.family_of(topic) {
                families.entry(family).or_default().push(topic);
                continue;
            }
            loop {
                let mut batch = Batch::default();
                self.collect(topic, &mut batch).await?;
                if batch.moved.is_empty() {
                    break;
                }
                let moved = batch.moved.iter();
                let moved: Vec<_> = moved
                    .map(|(_, queue, part)| (*queue, part.clone()))
                    .collect();
                let written = self.cold.write(topic, &batch.messages, &moved).await?;
                let is_full = batch.is_full;
                self.moved(batch, written, &mut tiered);
                if !is_full {
                    break;
                }
            }
        }
        for (family, topics) in families {
            self.tier_family(family, topics, &mut tiered).await?;
        }
        self.cold.bury_members().await?;
        if let Err(error) = self.cold.show_tables().await {
            tracing::warn!(%error, "tables wait for the next turn");
        }
        self.cold.remove_garbage().await;
        Ok(tiered)
    }

    /// Moves what is hot of topics of one family, as many of them with one file as fit.
    async fn tier_family(
        &self,
        family: TopicId,
        mut topics: Vec<TopicId>,
        tiered: &mut Tiered,
    ) -> Result<(), TierError> {
        topics.sort_unstable();
        let mut left = topics.into_iter().peekable();
        while left.peek().is_some() {
            let mut batch = Batch::default();
            while let Some(&topic) = left.peek() {
                self.collect(topic, &mut batch).await?;
                if batch.is_full {
                    break;
                }
                left.next();
            }
            let (messages, moved) = (&batch.messages, &batch.moved);
            let written = self.cold.write_family(family, messages, moved).await?;
            self.moved(batch, written, tiered);
        }
        Ok(())
    }

    /// Drops from the log what was moved.
    fn moved(&self, batch: Batch, bytes: u64, tiered: &mut Tiered) {
        tiered.bytes += bytes;
        tiered.messages += batch.messages.len() as u64;
        tiered.damaged += batch.damaged;
        let mut index = self.view.index_mut();
        for (topic, queue, moved) in batch.moved {
            index.drop_below((topic, queue), moved.end);
        }
    }

    /// Adds hot messages of a topic by queue and offset, up to the bounds of a file.
    async fn collect(&self, topic: TopicId, batch: &mut Batch) -> Result<(), TierError> {
        let queues: Vec<_> = self.view.index().queues_of(topic).collect();
        for (queue, offsets) in queues {
            let mut next = Offset(offsets.start);
            while next.0 < offsets.end {
                let limit = ReadLimit {
                    messages: FILE_MESSAGES_MAX.saturating_sub(batch.messages.len()),
                    bytes: FILE_BYTES_MAX.saturating_sub(batch.bytes),
                };
                if limit.messages == 0 || limit.bytes == 0 {
                    batch.is_full = true;
                    break;
                }
                let messages = match self.read_hot(topic, queue, next, limit).await {
                    Ok(Hot::Messages(messages)) => messages,
                    Ok(Hot::Elsewhere) => break,
                    Err(error @ ReadError::Damaged { .. }) => {
                        tracing::error!(%error, "a damaged message is kept as a gap");
                        batch.damaged += 1;
                        next = next.next();
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let Some(last) = messages.last() else {
                    break;
                };
                next = last.at().next();
                batch.add(messages);
            }
            if next.0 > offsets.start {
                batch.moved.push((topic, queue, offsets.start..next.0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::envelope::{Property, PropertyValue};

    #[test]
    fn a_batch_counts_what_a_message_has_besides_its_body() {
        let text = "x".repeat(100_000);
        let bodiless = Envelope {
            topic: TopicId(7).0,
            properties: vec![Property {
                key: "k".to_owned(),
                value: Some(PropertyValue::Text(text)),
            }],
            ..Envelope::default()
        };
        let mut batch = Batch::default();
        batch.add(vec![bodiless.clone(), bodiless]);
        assert_eq!(batch.messages.len(), 2);
        assert!((200_000..201_000).contains(&batch.bytes), "{}", batch.bytes);
    }
}
