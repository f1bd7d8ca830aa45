//! Streams: reading a queue by offset, and keeping where a reader stands.
//!
//! A pull reads messages as they are stored, from any offset that is kept, and leases nothing: any
//! number of readers see every message, each at its own pace. Who names a group can keep one offset per
//! queue with it; that offset is the reader's own note, durable and never read by the server, and has
//! nothing to do with what the group popped and acknowledged.

use std::sync::Arc;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Extent, ReadLimit};

use crate::broker::filter::Filter;
use crate::broker::record::{GroupOffset, TopicRecord};
use crate::broker::request::{OffsetOf, Reply, Request};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError};

/// A read of one queue by offset.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Topic.
    pub topic: TopicName,
    /// Queue.
    pub queue: QueueId,
    /// First offset wanted.
    pub from: Offset,
    /// Most messages, at most [`limits::READ_MESSAGES_MAX`].
    pub limit: usize,
    /// Which messages are wanted.
    pub filter: Filter,
    /// How long to wait for a message when there is none.
    pub poll: Duration,
}

/// What a pull found.
#[derive(Clone, Debug, PartialEq)]
pub struct Pulled {
    /// Wanted messages, by offset; empty when none came in time.
    pub messages: Vec<Envelope>,
    /// Where to go on: behind the last message looked at, wanted or not.
    pub next: Offset,
}

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first message kept.
    Beginning,
    /// Behind the last message.
    End,
    /// The first message stored at this time or later; the end, if there is none.
    StoredAt(Timestamp),
}

impl Broker {
    /// Reads messages of one queue from an offset on; waits up to `poll` for the first wanted one.
    ///
    /// # Errors
    /// [`BrokerError::OffsetOutside`] for an offset that is not kept, or lies behind the end.
    pub async fn pull(&self, pull: Pull) -> Result<Pulled, BrokerError> {
        let clock = &self.parts.clock;
        let deadline = clock.now() + pull.poll;
        let (mut next, mut scanned) = (pull.from, 0);
        loop {
            let topic = self.topic_record(&pull.topic)?;
            let incarnation = self.incarnation()?;
            // Take hold of the bell first: what arrives after the look rings it.
            let readers = incarnation.waiting().readers(topic.id);
            let rung = readers.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();

            let extent = self.kept(&topic, pull.queue)?;
            inside(&topic, pull.queue, next, extent)?;
            let limit = ReadLimit {
                messages: pull.limit.clamp(1, limits::READ_MESSAGES_MAX),
                bytes: limits::RECEIVE_BYTES_MAX,
            };
            let storage = incarnation.storage();
            let read = storage.read(TopicId(topic.id), pull.queue, next, limit);
            let mut messages = read.await?;
            if let Some(last) = messages.last() {
                next = last.at().next();
                scanned += messages.len();
                messages.retain(|message| pull.filter.matches(message));
                if !messages.is_empty() || scanned >= limits::PULL_SCAN_MAX {
                    self.traffic.delivered(topic.id, messages.iter());
                    return Ok(Pulled { messages, next });
                }
                continue;
            }
            let now = clock.now();
            if now >= deadline {
                return Ok(Pulled { messages, next });
            }
            drop(incarnation);
            tokio::select! {
                biased;
                () = &mut rung => {}
                () = clock.sleep(deadline.since(now)) => {}
            }
        }
    }

    /// The offset of a place in a queue.
    ///
    /// # Errors
    /// [`BrokerError`] when the queue is unknown or can not be read.
    pub async fn offset_at(
        &self,
        topic: &TopicName,
        queue: QueueId,
        place: Place,
    ) -> Result<Offset, BrokerError> {
        let topic = self.topic_record(topic)?;
        let extent = self.kept(&topic, queue)?;
        let wanted = match place {
            Place::Beginning => return Ok(extent.first),
            Place::End => return Ok(extent.next),
            Place::StoredAt(time) => time,
        };
        let incarnation = self.incarnation()?;
        Ok(incarnation.first_at(topic.id, queue.0, wanted).await?)
    }

    /// The offset that a group's reader has noted for a queue; `None` when it noted none.
    ///
    /// # Errors
    /// [`BrokerError`] when the queue or the group is unknown.
    pub async fn noted_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
    ) -> Result<Option<Offset>, BrokerError> {
        let topic = self.topic_record(topic)?;
        self.kept(&topic, queue)?;
        let asked = OffsetOf {
            group: self.group_record(group)?.id,
            topic: topic.id,
            queue: queue.0,
        };
        let incarnation = self.incarnation()?;
        let shard = incarnation.shard(topic.id, queue.0);
        match accepted(incarnation.ask(shard, Request::OffsetOf(asked)).await?)? {
            Reply::NotedOffset(noted) => Ok(noted.offset.map(Offset)),
            _ => Err(BrokerError::Confused("offset of a group")),
        }
    }

    /// Notes a reader's offset in a queue with its group, which is made on first use; durable when this
    /// answers.
    ///
    /// # Errors
    /// [`BrokerError::OffsetOutside`] behind the end. An offset that is no longer kept is taken: retention
    /// may have passed a slow reader.
    pub async fn note_offset(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: Offset,
    ) -> Result<(), BrokerError> {
        let topic = self.topic_record(topic)?;
        let extent = self.kept(&topic, queue)?;
        if offset > extent.next {
            inside(&topic, queue, offset, extent)?;
        }
        let noted = GroupOffset {
            group: self.group_or_new(group).await?.id,
            topic: topic.id,
            queue: queue.0,
            offset: offset.0,
        };
        let incarnation = self.incarnation()?;
        let shard = incarnation.shard(topic.id, queue.0);
        match accepted(incarnation.ask(shard, Request::NoteOffset(noted)).await?)? {
            Reply::Done(_) => Ok(()),
            _ => Err(BrokerError::Confused("note of an offset")),
        }
    }

    /// What is kept of a queue.
    fn kept(&self, topic: &Arc<TopicRecord>, queue: QueueId) -> Result<Extent, BrokerError> {
        if queue.0 >= topic.queues {
            return Err(BrokerError::OutOfBounds {
                what: "the queue",
                found: queue.to_string(),
                allowed: format!("0 to {}", topic.queues - 1),
            });
        }
        let extent = self
            .incarnation()?
            .storage()
            .extent(TopicId(topic.id), queue);
        Ok(extent.unwrap_or_default())
    }
}

fn inside(
    topic: &TopicRecord,
    queue: QueueId,
    offset: Offset,
    extent: Extent,
) -> Result<(), BrokerError> {
    if (extent.first..=extent.next).contains(&offset) {
        return Ok(());
    }
    Err(BrokerError::OffsetOutside {
        topic: topic.name.clone(),
        queue,
        offset,
        first: extent.first,
        next: extent.next,
    })
}
