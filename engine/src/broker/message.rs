//! Messages: send, acknowledge, change the invisible time, read. Receiving is in [`super::poll`].
//!
//! What concerns several shards goes to all of them at once, and is answered when each has said that its
//! part is durable.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId, queue_of};
use millpond_proto::name::{GroupName, TopicName};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::ReadLimit;

use crate::broker::compaction::check_keys;
use crate::broker::encoding;
use crate::broker::incarnation::Incarnation;
use crate::broker::producer::placing_key;
use crate::broker::record::{TopicKind, TopicRecord};
use crate::broker::request::{Ack, Handle, Move, Reply, Request, Send, Stored};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError, ReceiptHandle, Sent, TopicType};

/// Which messages a topic takes, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takes {
    /// Their type.
    pub kind: TopicType,
    /// The continuous query that alone writes it.
    pub written_by: Option<String>,
}

impl Broker {
    /// What may be sent to a topic: all that a send asks of it, at little cost.
    ///
    /// # Errors
    /// [`BrokerError::TopicNotFound`].
    pub fn takes(&self, name: &TopicName) -> Result<Takes, BrokerError> {
        let topic = self.topic_record(name)?;
        Ok(Takes {
            kind: TopicType::of(topic.kind()),
            written_by: topic.written_by.clone(),
        })
    }

    /// Stores messages of producers; topic, queue, offset and store time of the envelopes are filled in
    /// here. One result per message, in order; an answer of `Ok` is durable. Messages with a `key` go to
    /// the key's queue; the queues take turns with the others ([`Broker::turns`]).
    ///
    /// # Errors
    /// [`BrokerError`] when none of them could be stored.
    pub async fn send(
        &self,
        topic: &TopicName,
        messages: Vec<Envelope>,
    ) -> Result<Vec<Result<Sent, BrokerError>>, BrokerError> {
        let record = self.topic_record(topic)?;
        if let Some(job) = &record.written_by {
            return Err(BrokerError::WrittenBy {
                name: topic.to_string(),
                job: job.clone(),
                advice: "send to one of its inputs instead",
            });
        }
        self.store(&record, messages).await
    }

    /// The turns of a call's messages that have no key.
    ///
    /// A queue has its turn for [`limits::TURN_MESSAGES`], of as many calls as they come in: what is sent at the
    /// same time meets in one shard, which makes one append of it and wakes once. Those of one call stay
    /// together up to that number, so that a batch is in order.
    pub(super) fn turns(&self, count: usize) -> Turns {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Turns {
            first: self.turn.fetch_add(count, Ordering::Relaxed),
            given: 0,
        }
    }

    /// Stores messages in a topic, whoever writes it.
    pub(super) async fn store(
        &self,
        topic: &TopicRecord,
        mut messages: Vec<Envelope>,
    ) -> Result<Vec<Result<Sent, BrokerError>>, BrokerError> {
        check_keys(topic, &messages)?;
        let incarnation = self.incarnation()?;
        let count = messages.len();
        let mut turns = self.turns(count);
        let mut shards = Vec::with_capacity(count);
        for message in &mut messages {
            let queue = match (&message.key, placing_key(message)) {
                _ if message.lite_topic.is_some() => {
                    let name = message.lite_topic.as_deref().unwrap_or_default();
                    queue_of(name.as_bytes(), topic.queues)
                }
                (Some(key), _) => queue_of(key, topic.queues),
                (None, Some(key)) => queue_of(&key, topic.queues),
                (None, None) => QueueId(turns.next() % topic.queues),
            };
            message.topic = topic.id;
            message.queue = queue.0;
            encoding::complete(topic, message);
            shards.push(incarnation.shard(topic.id, queue.0));
        }
        if let Some(&only) = shards.first()
            && shards.iter().all(|shard| *shard == only)
        {
            // Most often: all of them in their order, so that nothing has to be sorted, and back.
            let asked = messages.iter().map(Asked::of).collect();
            let part = Part {
                shard: only,
                indices: Vec::new(),
                asked,
                messages,
            };
            let (_, sent) = part.store(&incarnation).await;
            return Ok(sent.collect());
        }
        let mut parts: BTreeMap<ShardId, Part> = BTreeMap::new();
        for (index, (message, shard)) in messages.into_iter().zip(shards).enumerate() {
            let part = parts.entry(shard).or_insert_with(|| Part::new(shard));
            part.push(index, message);
        }
        let stored = parts.into_values().map(|part| part.store(&incarnation));
        let mut results: Vec<Option<Result<Sent, BrokerError>>> = vec![None; count];
        for (indices, sent) in futures::future::join_all(stored).await {
            for (index, sent) in indices.into_iter().zip(sent) {
                results[index] = Some(sent);
            }
        }
        let answered = |result: Option<_>| result.unwrap_or(Err(BrokerError::Confused("send")));
        Ok(results.into_iter().map(answered).collect())
    }

    /// Acknowledges deliveries; one result per handle, in order; `Ok` is durable. Acknowledging an
    /// acknowledged message again is `Ok`.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic or group is unknown or the log failed.
    pub async fn ack(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handles: Vec<ReceiptHandle>,
    ) -> Result<Vec<Result<(), BrokerError>>, BrokerError> {
        let topic = self.topic_record(topic)?;
        let group = self.group_record(group)?;
        let incarnation = self.incarnation()?;
        let mut results: Vec<Result<(), BrokerError>> = Vec::with_capacity(handles.len());
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<Handle>)> = BTreeMap::new();
        for (index, handle) in handles.into_iter().enumerate() {
            let known = handle.topic == topic.id;
            results.push(if known { Ok(()) } else { Err(other_topic()) });
            if known {
                let shard = incarnation.shard(topic.id, handle.queue);
                let (indices, handles) = by_shard.entry(shard).or_default();
                indices.push(index);
                handles.push(Handle {
                    queue: handle.queue,
                    offset: handle.offset,
                    lease: handle.lease,
                });
            }
        }
        let asked = by_shard.into_iter().map(|(shard, (indices, handles))| {
            let ack = Ack {
                group: group.id,
                topic: topic.id,
                handles,
                frees: topic.kind() == TopicKind::Fifo,
            };
            let incarnation = &incarnation;
            async move { (indices, incarnation.ask(shard, Request::Ack(ack)).await) }
        });
        for (indices, reply) in all(asked).await {
            let reply = reply.map_err(BrokerError::from).and_then(accepted);
            for (place, index) in indices.into_iter().enumerate() {
                results[index] = match &reply {
                    Ok(Reply::Acks(acks)) => match acks.acknowledged.get(place) {
                        Some(true) => Ok(()),
                        Some(false) => Err(expired()),
                        None => Err(BrokerError::Confused("ack")),
                    },
                    Ok(_) => Err(BrokerError::Confused("ack")),
                    Err(error) => Err(error.clone()),
                };
            }
        }
        Ok(results)
    }

    /// Moves the end of a delivery's invisible time to `invisible` from now (0: visible at once); the
    /// old handle stops working.
    ///
    /// # Errors
    /// [`BrokerError::InvalidHandle`] when the delivery is over.
    pub async fn change_invisible(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: ReceiptHandle,
        invisible: Duration,
    ) -> Result<ReceiptHandle, BrokerError> {
        self.change_invisible_or_back_off(group, topic, handle, Some(invisible))
            .await
    }

    /// As [`Broker::change_invisible`], and the delivery does not count: the next one has the same number.
    ///
    /// # Errors
    /// As [`Broker::change_invisible`].
    pub async fn suspend(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: ReceiptHandle,
        invisible: Duration,
    ) -> Result<ReceiptHandle, BrokerError> {
        self.move_end(group, topic, handle, Some(invisible), true)
            .await
    }

    /// As [`Broker::change_invisible`]; without a time, the group's own back-off for as many deliveries as
    /// the message had, or none when the group has none.
    ///
    /// # Errors
    /// As [`Broker::change_invisible`].
    pub async fn change_invisible_or_back_off(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: ReceiptHandle,
        invisible: Option<Duration>,
    ) -> Result<ReceiptHandle, BrokerError> {
        self.move_end(group, topic, handle, invisible, false).await
    }

    async fn move_end(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: ReceiptHandle,
        invisible: Option<Duration>,
        suspended: bool,
    ) -> Result<ReceiptHandle, BrokerError> {
        let topic = self.topic_record(topic)?;
        let group = self.group_record(group)?;
        if handle.topic != topic.id {
            return Err(other_topic());
        }
        let incarnation = self.incarnation()?;
        let change = Move {
            group: group.id,
            topic: topic.id,
            handle: Handle {
                queue: handle.queue,
                offset: handle.offset,
                lease: handle.lease,
            },
            invisible_ms: invisible.map_or(0, |invisible| {
                i64::try_from(invisible.as_millis()).unwrap_or(i64::MAX)
            }),
            backoff: group.backoff.clone().filter(|_| invisible.is_none()),
            suspended,
        };
        let shard = incarnation.shard(topic.id, handle.queue);
        match accepted(incarnation.ask(shard, Request::Move(change)).await?)? {
            Reply::Moved(lease) => Ok(ReceiptHandle { lease, ..handle }),
            _ => Err(BrokerError::Confused("change invisible time")),
        }
    }

    /// Messages as stored, without a group, from `from` (raised to the first kept), and the next offset
    /// to ask for.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic is unknown or a message can not be read.
    pub async fn read(
        &self,
        topic: &TopicName,
        queue: QueueId,
        from: Offset,
        limit: usize,
    ) -> Result<(Vec<Envelope>, Offset), BrokerError> {
        let topic = self.topic_record(topic)?;
        if queue.0 >= topic.queues {
            return Err(BrokerError::OutOfBounds {
                what: "the queue",
                found: queue.to_string(),
                allowed: format!("0 to {}", topic.queues - 1),
            });
        }
        let incarnation = self.incarnation()?;
        let id = TopicId(topic.id);
        let extent = incarnation.storage().extent(id, queue).unwrap_or_default();
        let from = from.max(extent.first).min(extent.next);
        let limit = ReadLimit {
            messages: limit.clamp(1, limits::READ_MESSAGES_MAX),
            bytes: limits::RECEIVE_BYTES_MAX,
        };
        let messages = incarnation.storage().read(id, queue, from, limit).await?;
        let next = messages.last().map_or(from, |message| message.at().next());
        Ok((messages, next))
    }
}

/// Waits for all of them at once; one alone needs nothing around it.
async fn all<F: Future>(mut asked: impl ExactSizeIterator<Item = F>) -> Vec<F::Output> {
    match (asked.len(), asked.next()) {
        (1, Some(only)) => vec![only.await],
        (_, first) => futures::future::join_all(first.into_iter().chain(asked)).await,
    }
}

/// Gives out turns, see [`Broker::turns`].
#[derive(Debug)]
pub(super) struct Turns {
    first: u32,
    given: u32,
}

impl Turns {
    /// The turn of the next message.
    pub(super) fn next(&mut self) -> u32 {
        let run = self.given / limits::TURN_MESSAGES;
        self.given += 1;
        (self.first / limits::TURN_MESSAGES).wrapping_add(run)
    }
}

/// What of a call goes to one shard.
struct Part {
    shard: ShardId,
    /// Which messages of the call they are; empty when they are all of them.
    indices: Vec<usize>,
    asked: Vec<Asked>,
    messages: Vec<Envelope>,
}

impl Part {
    fn new(shard: ShardId) -> Self {
        Self {
            shard,
            indices: Vec::new(),
            asked: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn push(&mut self, index: usize, message: Envelope) {
        self.indices.push(index);
        self.asked.push(Asked::of(&message));
        self.messages.push(message);
    }

    /// Has them stored: one result for each, in order.
    async fn store(
        self,
        incarnation: &Incarnation,
    ) -> (
        Vec<usize>,
        impl Iterator<Item = Result<Sent, BrokerError>> + use<>,
    ) {
        let send = Request::Send(Send {
            messages: self.messages,
        });
        let stored = match incarnation.ask(self.shard, send).await {
            Ok(reply) => accepted(reply),
            Err(error) => Err(error.into()),
        };
        let sent = self.asked.into_iter().enumerate();
        let sent = sent.map(move |(place, asked)| match &stored {
            Ok(Reply::Stored(stored)) => asked.answer(place, stored),
            Ok(_) => Err(BrokerError::Confused("send")),
            Err(error) => Err(error.clone()),
        });
        (self.indices, sent)
    }
}

/// What the answer to one message needs of it.
struct Asked {
    queue: u32,
    /// Producer and number, of a message that is numbered.
    numbered: Option<(String, u64)>,
}

impl Asked {
    fn of(message: &Envelope) -> Self {
        let sequence = message.producer_sequence;
        Self {
            queue: message.queue,
            numbered: message.producer_id.clone().zip(sequence),
        }
    }

    fn answer(self, place: usize, stored: &Stored) -> Result<Sent, BrokerError> {
        let is_stale = stored.stale.iter().any(|&stale| stale as usize == place);
        match (stored.offsets.get(place), self.numbered) {
            (Some(_), Some((producer, sequence))) if is_stale => {
                Err(BrokerError::StaleSequence { producer, sequence })
            }
            (Some(&offset), _) => Ok(Sent {
                queue: QueueId(self.queue),
                offset: Offset(offset),
            }),
            (None, _) => Err(BrokerError::Confused("send")),
        }
    }
}

fn other_topic() -> BrokerError {
    BrokerError::InvalidHandle {
        why: "it belongs to another topic, or to one that was deleted",
    }
}

fn expired() -> BrokerError {
    BrokerError::InvalidHandle {
        why: "its invisible time is over or it was replaced by a newer one",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_has_its_turn_for_a_while_and_a_batch_stays_together() {
        let turns = |first, count: usize| {
            let mut turns = Turns { first, given: 0 };
            (0..count).map(|_| turns.next()).collect::<Vec<_>>()
        };
        assert_eq!(turns(0, 1), [0]);
        assert_eq!(turns(63, 1), [0]);
        assert_eq!(turns(64, 1), [1]);
        assert_eq!(turns(40, 64), vec![0; 64], "a batch is not torn");
        assert_eq!(turns(64, 130)[63..66], [1, 2, 2]);
        assert_eq!(turns(64, 130)[127..], [2, 3, 3]);
        assert_eq!(turns(u32::MAX, 65)[64], u32::MAX / 64 + 1);
    }
}
