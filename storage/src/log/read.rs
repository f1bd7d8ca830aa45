//! Reading: one merged view of the tail cache, the WAL and the cold tier.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::task::Lane;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::error::ReadError;
use crate::format::envelope::{self, Envelope};
use crate::log::{Extent, ReadLimit, Storage};
use crate::queue::index::{Looked, Place};
use crate::tier::cold::typed::Reads;
use crate::wal::reader::{self, Unread};

/// Most rows of a batch that a scan hands out.
pub(crate) const SCAN_ROWS_MAX: usize = 8192;
/// Most bytes of messages in it; one message comes even above it.
pub(crate) const SCAN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the log itself has at an offset.
pub(crate) enum Hot {
    /// The offset is not in the log (any more): ask the cold tier.
    Elsewhere,
    /// Messages from the offset on; none at the tail.
    Messages(Vec<Envelope>),
}

/// Reads of messages that are still in the log.
#[derive(Debug, Default)]
pub(crate) struct HotReads {
    /// Out of the tail cache.
    cached: AtomicU64,
    from_disk: AtomicU64,
}

impl Storage {
    /// How many reads of what is still in the log the tail cache answered, and how many the disk, since it was opened.
    #[must_use]
    pub fn hot_reads(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (
            read(&self.hot_reads.cached),
            read(&self.hot_reads.from_disk),
        )
    }

    pub(crate) fn extent_of(&self, topic: TopicId, queue: QueueId) -> Option<Extent> {
        // The log first: what is moved between the two look-ups is then seen twice, never missed.
        let hot = self.view.index().hot((topic, queue));
        let cold = self.cold.extent(topic, queue);
        let mut extent = extent(hot, cold)?;
        let log_first = self.cold.log_first(topic, queue);
        extent.first = extent.first.max(log_first).min(extent.next);
        Some(extent)
    }

    pub(crate) fn queues(&self, topic: TopicId) -> Vec<(QueueId, Extent)> {
        let mut queues: Vec<QueueId> = {
            let index = self.view.index();
            index.queues_of(topic).map(|(queue, _)| queue).collect()
        };
        queues.extend(self.cold.queues_of(topic));
        queues.sort_unstable();
        queues.dedup();
        let with_extent = |queue| Some((queue, self.extent_of(topic, queue)?));
        queues.into_iter().filter_map(with_extent).collect()
    }

    pub(crate) async fn read_merged(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Envelope>, ReadError> {
        let first = self.extent_of(topic, queue).unwrap_or_default().first;
        if from < first {
            return Err(ReadError::Trimmed {
                topic,
                queue,
                first,
                asked: from,
            });
        }
        self.read_kept(topic, queue, from, limit).await
    }

    /// As [`Storage::read_merged`], also what only the table keeps.
    async fn read_kept(
        &self,
        topic: TopicId,
        queue: QueueId,
        mut from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Envelope>, ReadError> {
        loop {
            let Some(extent) = self.extent_of(topic, queue) else {
                return Ok(Vec::new());
            };
            if from < extent.kept {
                return Err(ReadError::Trimmed {
                    topic,
                    queue,
                    first: extent.kept,
                    asked: from,
                });
            }
            if from >= extent.next || limit.messages == 0 {
                return Ok(Vec::new());
            }
            if from < extent.tiered {
                let read = self.catch_up.read(&self.cold, topic, queue, from, limit);
                let messages = read.await?;
                if !messages.is_empty() {
                    return Ok(messages);
                }
                // Holes up to where the log begins.
                from = extent.tiered;
                continue;
            }
            if let Hot::Messages(messages) = self.read_hot(topic, queue, from, limit).await? {
                return Ok(messages);
            }
            if self.is_between(topic, queue, from) {
                return Err(ReadError::Damaged {
                    topic,
                    queue,
                    offset: from,
                    place: "the log, which lost the end of the queue".to_owned(),
                });
            }
            // It was moved to the cold tier meanwhile, so the next extent says so.
        }
    }

    /// Whether an offset lies behind what is cold and before what is hot: the log lost all that it had of the queue, as a gap,
    /// and what came later has begun behind that.
    fn is_between(&self, topic: TopicId, queue: QueueId, offset: Offset) -> bool {
        // The log first: what leaves it is in the cold tier already.
        let hot = self.view.index().hot((topic, queue));
        let cold = self.cold.extent(topic, queue);
        let is_before = hot.is_some_and(|hot| offset.0 < hot.start);
        is_before && cold.is_some_and(|cold| offset >= cold.end)
    }

    /// Reads from the tail cache, or else from segments on a thread that may wait for the disk.
    pub(crate) async fn read_hot(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Hot, ReadError> {
        let look_up = |messages| {
            let index = self.view.index();
            index.look_up((topic, queue), from.0, messages, limit.bytes)
        };
        let Looked::Places { wal, places } = look_up(limit.messages) else {
            return Ok(Hot::Elsewhere);
        };
        let cached = self.view.wal(wal).cached(&places);
        let payloads = match cached.into_iter().collect::<Option<Vec<Bytes>>>() {
            Some(payloads) => {
                self.hot_reads.cached.fetch_add(1, Ordering::Relaxed);
                payloads.into_iter().map(Ok).collect()
            }
            None => {
                self.hot_reads.from_disk.fetch_add(1, Ordering::Relaxed);
                self.read_segments(wal, places).await
            }
        };
        let mut messages = Vec::with_capacity(payloads.len());
        for (number, payload) in (from.0..).zip(payloads) {
            let offset = Offset(number);
            let error = match payload.map(Envelope::decode) {
                Ok(Ok(message)) => {
                    messages.push(message);
                    continue;
                }
                Ok(Err(_)) => ReadError::Damaged {
                    topic,
                    queue,
                    offset,
                    place: "its envelope".to_owned(),
                },
                Err(Unread::Damaged { place }) => ReadError::Damaged {
                    topic,
                    queue,
                    offset,
                    place,
                },
                Err(Unread::Disk { place, source }) => ReadError::Disk { place, source },
            };
            if !messages.is_empty() {
                break;
            }
            // Its segment may have been let go since the look-up, because the cold tier has it now.
            return match look_up(1) {
                Looked::Elsewhere => Ok(Hot::Elsewhere),
                Looked::Places { .. } => Err(error),
            };
        }
        Ok(Hot::Messages(messages))
    }

    async fn read_segments(&self, wal: u16, places: Vec<Place>) -> Vec<Result<Bytes, Unread>> {
        let (reply, answer) = oneshot::channel();
        let view = Arc::clone(&self.view);
        let work = async move {
            // The reader may have left.
            let _ = reply.send(reader::read(&view.wal(wal).segments, &places));
        };
        // Held until the answer is there: dropping the task would stop it.
        let _task = self.parts.spawn.spawn(Lane::Background, Box::pin(work));
        answer.await.unwrap_or_else(|_| {
            vec![Err(Unread::Disk {
                place: "the log".to_owned(),
                source: Arc::new(std::io::Error::other("the reading thread has ended")),
            })]
        })
    }

    pub(crate) fn scan_merged(
        self: &Arc<Self>,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        reads: &Reads,
    ) -> BoxStream<'static, Result<RecordBatch, ReadError>> {
        let Some(extent) = self.extent_of(topic, queue) else {
            return stream::empty().boxed();
        };
        let range = range.start.max(extent.kept)..range.end.min(extent.next);
        let cold = range.start..range.end.min(extent.tiered);
        let hot = range.start.max(extent.tiered)..range.end;
        let cold = match cold.start < cold.end {
            true => self.cold.scan(topic, queue, cold, reads),
            false => stream::empty().boxed(),
        };
        let columns = reads.envelope.clone();
        let storage = Arc::clone(self);
        let hot = stream::unfold(Some(hot), move |left| {
            let (storage, columns) = (Arc::clone(&storage), columns.clone());
            async move {
                let left = left.filter(|left| left.start < left.end)?;
                match storage.read_rows(topic, queue, left.clone()).await {
                    Ok(messages) => {
                        let next = messages.last()?.at().next();
                        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                        let batch = envelope::to_batch(&messages, &columns);
                        Some((Ok(batch), Some(next..left.end)))
                    }
                    // Retention let go of messages meanwhile: the range is cut to what is kept.
                    Err(ReadError::Trimmed { first, .. }) => {
                        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                        let nothing = envelope::to_batch(&[], &columns);
                        Some((Ok(nothing), Some(first..left.end)))
                    }
                    Err(error) => Some((Err(error), None)),
                }
            }
        });
        // A stream that has failed has ended: no rows come behind a hole.
        let mut has_failed = false;
        let rows = cold.chain(hot).take_while(move |batch| {
            let goes_on = !has_failed;
            has_failed = batch.is_err();
            std::future::ready(goes_on)
        });
        rows.boxed()
    }

    async fn read_rows(
        &self,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
    ) -> Result<Vec<Envelope>, ReadError> {
        let left = usize::try_from(range.end.0 - range.start.0).unwrap_or(usize::MAX);
        let limit = ReadLimit {
            messages: left.min(SCAN_ROWS_MAX),
            bytes: SCAN_BYTES_MAX,
        };
        let mut rows = self.read_kept(topic, queue, range.start, limit).await?;
        // Where a key compaction left holes, so many messages reach behind the range.
        rows.truncate(rows.partition_point(|row| row.offset < range.end.0));
        Ok(rows)
    }
}

fn extent(hot: Option<Range<u64>>, cold: Option<Range<Offset>>) -> Option<Extent> {
    match (hot, cold) {
        (None, None) => None,
        (Some(hot), None) => Some(Extent {
            first: Offset(hot.start),
            next: Offset(hot.end),
            tiered: Offset(hot.start),
            kept: Offset(hot.start),
        }),
        (hot, Some(cold)) => Some(Extent {
            first: cold.start,
            next: cold.end.max(Offset(hot.map_or(0, |hot| hot.end))),
            tiered: cold.end,
            kept: cold.start,
        }),
    }
}
