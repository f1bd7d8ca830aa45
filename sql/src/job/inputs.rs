//! All queues that a continuous query reads, taken in whole ticks.

use std::collections::BTreeMap;
use std::sync::Arc;

use millpond_proto::message::{QueueId, TopicId};

use crate::job::error::JobError;
use crate::job::reader::{QueueReader, Room};
use crate::job::region::Arrived;
use crate::topic::Topics;
use millpond_storage::tier::cold::typed::Reads;

/// Offsets by input and queue.
pub type Offsets = BTreeMap<(usize, u32), u64>;

/// Most rows of an epoch, about.
const EPOCH_ROWS: usize = 64 * 1024;
/// Most rows of the first epoch, about: each later one may be twice as large, so that a query with much to read has
/// its first rows soon.
const FIRST_EPOCH_ROWS: usize = 2 * 1024;
/// Most bytes of an epoch's input, about.
const EPOCH_BYTES: usize = 32 * 1024 * 1024;
/// Fewest rows that are read ahead of one queue.
const QUEUE_ROWS_MIN: usize = 256;

/// What a query reads and how far it has read.
#[derive(Debug)]
pub struct Inputs {
    /// For log lines.
    name: String,
    /// The topics, in the order of the plan's inputs.
    topics: Vec<TopicId>,
    /// What is read of each input.
    reads: Vec<Arc<Reads>>,
    /// By input and queue.
    readers: BTreeMap<(usize, u32), QueueReader>,
    /// Most rows of the next epoch, about.
    epoch_rows: usize,
}

impl Inputs {
    /// Inputs of which nothing was read.
    #[must_use]
    pub fn new(name: &str, topics: Vec<TopicId>, reads: Vec<Arc<Reads>>) -> Self {
        Self {
            name: name.to_owned(),
            topics,
            reads,
            readers: BTreeMap::new(),
            epoch_rows: FIRST_EPOCH_ROWS,
        }
    }

    /// The topics, by input.
    #[must_use]
    pub fn topics(&self) -> &[TopicId] {
        &self.topics
    }

    /// What is read of an input.
    #[must_use]
    pub fn reads(&self, input: usize) -> &Arc<Reads> {
        &self.reads[input]
    }

    /// The reader of a queue; made to read from `from` on when there is none.
    pub fn reader(&mut self, input: usize, queue: u32, from: u64) -> &mut QueueReader {
        let topic = self.topics[input];
        let reads = &self.reads[input];
        self.readers
            .entry((input, queue))
            .or_insert_with(|| QueueReader::new(topic, QueueId(queue), Arc::clone(reads), from))
    }

    /// Reads until some tick up to `until_ms` is complete and has rows before it; `None` when there are none.
    ///
    /// # Errors
    /// What the broker says when it can not read.
    pub async fn read_ahead(
        &mut self,
        topics: &dyn Topics,
        until_ms: i64,
    ) -> Result<Option<i64>, JobError> {
        let mut ends: Offsets = BTreeMap::new();
        for (input, topic) in self.topics.clone().into_iter().enumerate() {
            for extent in topics.extents(topic)? {
                let reader = self.reader(input, extent.queue.0, extent.first.0);
                let skipped = reader.skip_to(extent.first.0);
                if skipped > 0 {
                    tracing::warn!(
                        job = %self.name,
                        queue = extent.queue.0,
                        skipped,
                        "rows were deleted before the query read them"
                    );
                }
                ends.insert((input, extent.queue.0), extent.next.0);
            }
        }
        let share = self.readers.len().max(1);
        let mut room = Room {
            rows: (self.epoch_rows / share).max(QUEUE_ROWS_MIN),
            bytes: EPOCH_BYTES / share,
        };
        loop {
            let mut tick_ms = until_ms;
            for (queue, reader) in &mut self.readers {
                let end = ends.get(queue).copied().unwrap_or(0);
                reader.fill(topics, until_ms, end, room).await?;
                tick_ms = tick_ms.min(reader.complete_before(until_ms, end));
            }
            let first = self
                .readers
                .values()
                .filter_map(QueueReader::first_tick_ms)
                .min();
            if first.is_some_and(|first| first < tick_ms) {
                return Ok(Some(tick_ms));
            }
            if tick_ms == until_ms {
                return Ok(None);
            }
            // One tick holds more than there was room for, and a tick is never split.
            room.rows = room.rows.saturating_mul(2);
            room.bytes = room.bytes.saturating_mul(2);
        }
    }

    /// Hands out all rows of ticks before `tick_ms`, which were read ahead.
    pub fn take_before(&mut self, tick_ms: i64) -> Vec<Arrived> {
        self.epoch_rows = (2 * self.epoch_rows).min(EPOCH_ROWS);
        let mut arrived = Vec::new();
        for ((input, _), reader) in &mut self.readers {
            let batches = reader.take_before(tick_ms);
            if !batches.is_empty() {
                arrived.push(Arrived {
                    input: *input,
                    queue: reader.queue(),
                    batches,
                });
            }
        }
        arrived
    }

    /// How far each queue was handed out: topic, queue, one past the last offset.
    pub fn taken(&self) -> impl Iterator<Item = (TopicId, u32, u64)> {
        let readers = self.readers.iter();
        readers.map(|((input, queue), reader)| (self.topics[*input], *queue, reader.taken()))
    }
}
