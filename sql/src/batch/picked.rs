//! The rows that an index found: which parts of the queues are read for them, and which rows of these are meant.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::remedy::Remedy;

use crate::batch::index::Found;
use crate::batch::latest;
use crate::batch::tail::QueueRange;
use crate::error::SqlError;
use crate::topic::TopicsError;

/// Rows that lie apart by no more are read together, those between them as well.
const APART_MAX: i64 = 256;

/// What was found, by queue.
#[derive(Debug)]
pub(crate) struct Picked {
    queues: BTreeMap<QueueId, Found>,
}

impl Picked {
    pub(crate) fn of(found: Vec<Found>) -> Self {
        let queues = found.into_iter().map(|found| (found.queue, found));
        Self {
            queues: queues.collect(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.queues.values().map(|found| found.offsets.len()).sum()
    }

    fn offsets(&self, queue: QueueId) -> &[i64] {
        let found = self.queues.get(&queue);
        found.map_or(&[][..], |found| found.offsets.as_slice())
    }

    /// What is read of a queue.
    pub(crate) fn ranges(&self, queue: QueueId) -> Vec<QueueRange> {
        let mut ranges: Vec<QueueRange> = Vec::new();
        let Some(found) = self.queues.get(&queue) else {
            return ranges;
        };
        let place = |offset: i64| Offset(u64::try_from(offset).unwrap_or(0));
        let mut last: Option<i64> = None;
        for offset in &found.offsets {
            let is_near = last.is_some_and(|last| offset - last <= APART_MAX);
            let end = place(offset.saturating_add(1));
            match ranges.last_mut().filter(|_| is_near) {
                Some(range) => range.offsets.end = end,
                None => ranges.push(QueueRange {
                    queue,
                    offsets: place(*offset)..end,
                    next: found.next,
                    rewrites: found.rewrites,
                }),
            }
            last = Some(*offset);
        }
        ranges
    }

    /// How many of the rows lie within some ranges.
    pub(crate) fn within(&self, ranges: &[QueueRange]) -> usize {
        let each = ranges.iter().map(|range| {
            let offsets = self.offsets(range.queue);
            let before = |end: Offset| {
                let end = i64::try_from(end.0).unwrap_or(i64::MAX);
                offsets.partition_point(|offset| *offset < end)
            };
            before(range.offsets.end) - before(range.offsets.start)
        });
        each.sum()
    }

    /// The rows of a batch that are meant.
    pub(crate) fn keep(
        &self,
        queue: QueueId,
        batch: &RecordBatch,
    ) -> Result<RecordBatch, SqlError> {
        let offsets = self.offsets(queue);
        let at = latest::offsets(batch)?;
        let kept: BooleanArray = at
            .values()
            .iter()
            .map(|offset| Some(offsets.binary_search(offset).is_ok()))
            .collect();
        Ok(filter_record_batch(batch, &kept)?)
    }
}

/// A row that was found was deleted before it was read, because a newer one of its key came.
pub(crate) fn gone(topic: &str) -> SqlError {
    TopicsError {
        message: format!(
            "rows of topic {topic} were replaced and deleted while they were looked up; ask again"
        ),
        remedy: Remedy::Retry,
    }
    .into()
}
