//! Moving what is durable in the WAL into Parquet.
//!
//! First the file and its manifest are durable, then the places are dropped: at any moment each offset
//! is readable in one tier at least. A message that is damaged in the log is stepped over: its offset is kept
//! as a gap, which answers damage for ever.

use std::ops::Range;

use millpond_proto::message::{Offset, QueueId, TopicId};

use crate::error::{ReadError, TierError};
use crate::format::envelope::Envelope;
use crate::log::read::Hot;
use crate::log::{ReadLimit, Storage, Tiered};

/// Bytes of bodies that one Parquet file takes at most; also what a turn holds in memory.
const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most messages of one Parquet file.
const FILE_MESSAGES_MAX: usize = 1_000_000;

struct Batch {
    messages: Vec<Envelope>,
    /// Offsets taken over, damaged ones included.
    moved: Vec<(QueueId, Range<u64>)>,
    damaged: u64,
    is_full: bool,
}

impl Storage {
    pub(crate) async fn tier_all(&self) -> Result<Tiered, TierError> {
        let _one_at_a_time = self.tiering.lock().await;
        let mut tiered = Tiered::default();
        let topics = self.view.index().topics();
        for topic in topics {
            if self.cold.is_gone(topic) {
                // Sent while the topic was deleted, or read back from a log that remembers it.
                self.view.index_mut().forget(topic);
                continue;
            }
            loop {
                let batch = self.collect(topic).await?;
                if batch.moved.is_empty() {
                    break;
                }
                tiered.bytes += self
                    .cold
                    .write(topic, &batch.messages, &batch.moved)
                    .await?;
                tiered.messages += batch.messages.len() as u64;
                tiered.damaged += batch.damaged;
                let mut index = self.view.index_mut();
                for (queue, moved) in batch.moved {
                    index.drop_below((topic, queue), moved.end);
                }
                drop(index);
                if !batch.is_full {
                    break;
                }
            }
        }
        if let Err(error) = self.cold.show_tables().await {
            tracing::warn!(%error, "tables wait for the next turn");
        }
        self.cold.remove_garbage().await;
        Ok(tiered)
    }

    /// Hot messages of a topic by queue and offset, up to the bounds of a file.
    async fn collect(&self, topic: TopicId) -> Result<Batch, TierError> {
        let mut batch = Batch {
            messages: Vec::new(),
            moved: Vec::new(),
            damaged: 0,
            is_full: false,
        };
        let mut bytes = 0;
        let queues: Vec<_> = self.view.index().queues_of(topic).collect();
        for (queue, offsets) in queues {
            let mut next = Offset(offsets.start);
            while next.0 < offsets.end {
                let limit = ReadLimit {
                    messages: FILE_MESSAGES_MAX.saturating_sub(batch.messages.len()),
                    bytes: FILE_BYTES_MAX.saturating_sub(bytes),
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
                bytes += messages.iter().map(body_bytes).sum::<usize>();
                batch.messages.extend(messages);
            }
            if next.0 > offsets.start {
                batch.moved.push((queue, offsets.start..next.0));
            }
        }
        Ok(batch)
    }
}

fn body_bytes(message: &Envelope) -> usize {
    message.body.as_ref().map_or(0, bytes::Bytes::len)
}
