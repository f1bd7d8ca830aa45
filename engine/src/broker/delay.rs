//! Delayed messages: sending, recalling, looking at those that wait.
//!
//! A message with a time in the future is put on the shelf of the shard that its queue belongs to
//! ([`super::shelf`]); the shard's owner fires it. A recall handle says where it lies. It is checked against
//! the message that lies there, so that nobody recalls what somebody else has sent.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId, queue_of};
use millpond_proto::name::TopicName;
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Extent, ReadLimit};
use millpond_storage::tier::cold::compaction::Compaction;
use prost::Message as _;

use crate::broker::compaction::check_keys;
use crate::broker::incarnation::Incarnation;
use crate::broker::producer::placing_key;
use crate::broker::request::{Reason, Reply, Request};
use crate::broker::shelf::{Address, Spot, address, address_of, shelf_topic, unshelved};
use crate::broker::state::shelving::{Buckets, DelayedFrom, Recall, Shelve};
use crate::broker::timer::bucket_at;
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError, Sent};

/// Small files of a shelf that are worth merging.
const FILES_MIN: usize = 8;

/// Names a delayed message; opaque to clients. Text form: URL-safe base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct RecallHandle {
    /// Topic that it is for.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue there.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Where it lies on the shard's shelf.
    #[prost(message, required, tag = "3")]
    pub spot: Spot,
}

impl RecallHandle {
    /// The handle as clients carry it.
    #[must_use]
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.encode_to_vec())
    }

    /// Reads a handle that a client sent back.
    ///
    /// # Errors
    /// [`BrokerError::InvalidRecallHandle`] when it is none of ours.
    pub fn from_text(text: &str) -> Result<Self, BrokerError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let handle = bytes.and_then(|bytes| Self::decode(bytes.as_slice()).ok());
        let handle = handle.filter(|handle| !handle.spot.is_half());
        handle.ok_or(BrokerError::InvalidRecallHandle {
            why: "it is not one that this server gives out",
        })
    }
}

/// What became of a message with a delivery time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delayed {
    /// Its time has come already: it was stored like any other.
    Sent(Sent),
    /// It waits.
    Waits(RecallHandle),
}

/// A delayed message that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingMessage {
    /// Names it.
    pub handle: RecallHandle,
    /// The message, as it will be delivered.
    pub message: Envelope,
}

/// Where to go on with the messages that wait.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DelayedPlace {
    /// Shard.
    #[prost(uint32, tag = "1")]
    pub shard: u32,
    /// Spot there.
    #[prost(message, required, tag = "2")]
    pub spot: Spot,
}

/// A message of a batch on its way to the shelf, and where it came from in the batch.
pub(super) struct Routed {
    pub(super) index: usize,
    pub(super) topic: u64,
    pub(super) queue: u32,
    numbered: Option<(String, u64)>,
}

impl Routed {
    fn stale(self) -> BrokerError {
        match self.numbered {
            Some((producer, sequence)) => BrokerError::StaleSequence { producer, sequence },
            None => BrokerError::Confused("shelve"),
        }
    }
}

impl Broker {
    /// Stores messages with a delivery time; one result per message, in order; an answer of `Ok` is durable.
    ///
    /// # Errors
    /// [`BrokerError`] when none of them could be stored.
    pub async fn send_delayed(
        &self,
        topic: &TopicName,
        messages: Vec<Envelope>,
    ) -> Result<Vec<Result<Delayed, BrokerError>>, BrokerError> {
        let placed = self.shelve(topic, messages, None).await?;
        let delayed = |result: Result<(Routed, Option<Spot>, u64), BrokerError>| {
            let (routed, spot, offset) = result?;
            Ok(match spot {
                None => Delayed::Sent(Sent {
                    queue: QueueId(routed.queue),
                    offset: Offset(offset),
                }),
                Some(spot) => Delayed::Waits(RecallHandle {
                    topic: routed.topic,
                    queue: routed.queue,
                    spot,
                }),
            })
        };
        Ok(placed.into_iter().map(delayed).collect())
    }

    /// Puts messages on the shelves of their queues' shards; `half`: they wait for the end of a
    /// transaction, about which is asked first after so many ms each.
    pub(super) async fn shelve(
        &self,
        topic: &TopicName,
        messages: Vec<Envelope>,
        half: Option<Vec<i64>>,
    ) -> Result<Vec<Result<(Routed, Option<Spot>, u64), BrokerError>>, BrokerError> {
        let record = self.topic_record(topic)?;
        check_keys(&record, &messages)?;
        let incarnation = self.incarnation()?;
        let count = messages.len();
        let mut turns = self.turns(count);
        let mut by_shard: BTreeMap<ShardId, (Vec<Routed>, Shelve)> = BTreeMap::new();
        for (index, mut message) in messages.into_iter().enumerate() {
            let queue = match (&message.key, placing_key(&message)) {
                (Some(key), _) => queue_of(key, record.queues).0,
                (None, Some(key)) => queue_of(&key, record.queues).0,
                (None, None) => turns.next() % record.queues,
            };
            (message.topic, message.queue) = (record.id, queue);
            let check_after_ms = half.as_ref().and_then(|after| after.get(index)).copied();
            let to = Address {
                topic: record.id,
                queue,
                check_after_ms: check_after_ms.unwrap_or(0),
            };
            address(&mut message, &to);
            let numbered = message.producer_id.clone().zip(message.producer_sequence);
            let shard = incarnation.shard(record.id, queue);
            let (routed, shelve) = by_shard.entry(shard).or_default();
            shelve.half = half.is_some();
            shelve.messages.push(message);
            routed.push(Routed {
                index,
                topic: record.id,
                queue,
                numbered,
            });
        }
        let asked = by_shard.into_iter().map(|(shard, (routed, shelve))| {
            let incarnation = &incarnation;
            async move {
                let reply = incarnation.ask(shard, Request::Shelve(shelve)).await;
                (routed, reply.map_err(BrokerError::from).and_then(accepted))
            }
        });
        let mut results: Vec<Option<Result<_, BrokerError>>> = (0..count).map(|_| None).collect();
        for (routed, reply) in futures::future::join_all(asked).await {
            for (place, routed) in routed.into_iter().enumerate() {
                let index = routed.index;
                let result = match &reply {
                    Ok(Reply::Shelved(shelved)) => match shelved.places.get(place) {
                        Some(place) if place.is_stale => Err(routed.stale()),
                        Some(place) => Ok((routed, place.spot, place.offset)),
                        None => Err(BrokerError::Confused("shelve")),
                    },
                    Ok(_) => Err(BrokerError::Confused("shelve")),
                    Err(error) => Err(error.clone()),
                };
                results[index] = Some(result);
            }
        }
        let answered = |result: Option<_>| result.unwrap_or(Err(BrokerError::Confused("shelve")));
        Ok(results.into_iter().map(answered).collect())
    }

    /// Takes back a message before its time and answers its id; asking again answers the same. Durable:
    /// it is never delivered.
    ///
    /// # Errors
    /// [`BrokerError::TooLateToRecall`] when it was delivered, [`BrokerError::InvalidRecallHandle`] when the
    /// handle is of no message of this topic that waits.
    pub async fn recall(
        &self,
        topic: &TopicName,
        handle: RecallHandle,
    ) -> Result<String, BrokerError> {
        let topic = self.topic_record(topic)?;
        if handle.topic != topic.id {
            return Err(BrokerError::InvalidRecallHandle {
                why: "it belongs to another topic, or to one that was deleted",
            });
        }
        let unknown = || BrokerError::InvalidRecallHandle {
            why: "no such message is known, it was delivered or recalled long ago if it ever was",
        };
        let incarnation = self.incarnation()?;
        let shard = incarnation.shard(handle.topic, handle.queue);
        let message = read_shelved(&incarnation, shard, handle.spot).await?;
        let is_meant = |to: Address| (to.topic, to.queue) == (handle.topic, handle.queue);
        if let Some(message) = &message
            && !address_of(message).is_some_and(is_meant)
        {
            return Err(unknown());
        }
        let recall = Recall {
            spot: handle.spot,
            due_ms: message.as_ref().and_then(|message| message.due_at_ms),
        };
        match incarnation.ask(shard, Request::Recall(recall)).await? {
            // Recalled long ago: the message is gone, and its id with it.
            Reply::Done(_) => message
                .map(|message| message.message_id)
                .ok_or_else(unknown),
            Reply::Refused(refused) => Err(match refused.reason() {
                Reason::AlreadyPlaced => BrokerError::TooLateToRecall,
                Reason::NotShelved => unknown(),
                _ => accepted(Reply::Refused(refused))
                    .err()
                    .unwrap_or_else(unknown),
            }),
            _ => Err(BrokerError::Confused("recall")),
        }
    }

    /// Delayed messages that wait, of one topic or of all, by shard and time of delivery up to the hour,
    /// and where to go on; none: that was all.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such topic or a message can not be read.
    ///
    /// # Panics
    /// Never: the limit is bounded.
    pub async fn delayed(
        &self,
        topic: Option<&TopicName>,
        from: DelayedPlace,
        limit: usize,
    ) -> Result<(Vec<WaitingMessage>, Option<DelayedPlace>), BrokerError> {
        let topic = topic.map(|topic| self.topic_record(topic)).transpose()?;
        let incarnation = self.incarnation()?;
        let limit = limit.clamp(1, limits::READ_MESSAGES_MAX);
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut place = from;
        for shard in incarnation.shards().skip(from.shard as usize) {
            if u32::from(shard.0) != place.shard {
                place = DelayedPlace {
                    shard: shard.0.into(),
                    spot: Spot::default(),
                };
            }
            loop {
                let left = limits::READ_MESSAGES_MAX.saturating_sub(looked_at);
                if found.len() >= limit || left == 0 {
                    return Ok((found, Some(place)));
                }
                let asked = DelayedFrom {
                    bucket: place.spot.bucket,
                    number: place.spot.number,
                    limit: u32::try_from(left).expect("bounded above"),
                };
                let bucket = match incarnation.ask(shard, Request::Delayed(asked)).await? {
                    Reply::WaitingBucket(bucket) => bucket,
                    // A damaged shard shows nothing.
                    _ => break,
                };
                let Some(number) = bucket.bucket else { break };
                for at in bucket.numbers {
                    if found.len() >= limit {
                        break;
                    }
                    looked_at += 1;
                    let spot = Spot {
                        bucket: number,
                        number: at,
                    };
                    place.spot = Spot {
                        bucket: number,
                        number: at + 1,
                    };
                    let message = read_shelved(&incarnation, shard, spot).await?;
                    let Some(message) = message.and_then(unshelved) else {
                        continue;
                    };
                    if topic.as_ref().is_none_or(|topic| topic.id == message.topic) {
                        let handle = RecallHandle {
                            topic: message.topic,
                            queue: message.queue,
                            spot,
                        };
                        found.push(WaitingMessage { handle, message });
                    }
                }
            }
        }
        Ok((found, None))
    }
}

impl Incarnation {
    /// Closes what is done with on every shelf, lets go of its messages, and merges the small files of what waits on.
    pub(super) async fn sweep_shelves(&self, now: Timestamp) {
        for shard in self.shards() {
            let topic = TopicId(shelf_topic(shard));
            let over = bucket_at(now);
            let queues = self.storage().queues_of(topic);
            let kept = queues
                .into_iter()
                .filter(|(_, extent)| extent.first < extent.next);
            let past = kept.filter(|(queue, _)| queue.0 & (u32::MAX >> 1) < over);
            let past: Vec<_> = past.collect();
            if !past.is_empty() {
                self.let_go_of_past(shard, past).await;
            }
            // Nobody sees a shelf as a table, so its files need not be of one day each: what waits for months would
            // lie in files of every day that it was sent on.
            let how = Compaction {
                files_min: FILES_MIN,
                across_days: true,
                ..Compaction::default()
            };
            if let Err(error) = self.storage().compact(topic, how).await {
                tracing::warn!(%error, "files of delayed messages stay unmerged");
            }
        }
    }

    /// Closes buckets whose hour is over, as far as nothing waits there, and lets go of their messages.
    async fn let_go_of_past(&self, shard: ShardId, past: Vec<(QueueId, Extent)>) {
        let asked = Buckets {
            buckets: past.iter().map(|(queue, _)| queue.0).collect(),
        };
        let Ok(Reply::Buckets(free)) = self.ask(shard, Request::SweepShelf(asked)).await else {
            return;
        };
        let ends: BTreeMap<QueueId, Offset> = past
            .into_iter()
            .filter(|(queue, _)| free.buckets.contains(&queue.0))
            .map(|(queue, extent)| (queue, extent.next))
            .collect();
        if !ends.is_empty()
            && let Err(error) = self
                .storage()
                .release(TopicId(shelf_topic(shard)), &ends)
                .await
        {
            tracing::warn!(%error, "delayed messages that are done with stay a while longer");
        }
    }
}

/// The message at a spot, as it lies there; none when it is not there, or was let go.
pub(super) async fn read_shelved(
    incarnation: &Incarnation,
    shard: ShardId,
    spot: Spot,
) -> Result<Option<Envelope>, BrokerError> {
    let one = ReadLimit {
        messages: 1,
        bytes: 1,
    };
    let topic = TopicId(shelf_topic(shard));
    let (queue, offset) = (QueueId(spot.bucket), Offset(spot.number));
    match incarnation.storage().read(topic, queue, offset, one).await {
        Ok(mut messages) => Ok(messages.pop().filter(|found| found.offset == spot.number)),
        Err(ReadError::Trimmed { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
