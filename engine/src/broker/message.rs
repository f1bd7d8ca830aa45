//! Messages: send, receive, acknowledge, change the invisible time, read.
//!
//! A send goes to the shards that own its queues, all at once. A receive visits the shards of the
//! topic in rotation, waits on the topic's bell when there is nothing, and reads the bodies of what it
//! was given once the deliveries are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId, queue_of};
use millpond_proto::name::{GroupName, TopicName};
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::ReadLimit;

use crate::broker::incarnation::Incarnation;
use crate::broker::record::{GroupRecord, TopicRecord};
use crate::broker::request::{Ack, Handle, Lease, Move, Pop, Reply, Request, Send};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError, Delivery, ReceiptHandle, Receive, Sent};

impl Broker {
    /// Stores messages of producers; topic, queue, offset and store time of the envelopes are filled in
    /// here. One result per message, in order; an answer of `Ok` is durable. Messages with a `key` go to
    /// the key's queue, others take turns.
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

    /// Stores messages in a topic, whoever writes it.
    pub(super) async fn store(
        &self,
        topic: &TopicRecord,
        messages: Vec<Envelope>,
    ) -> Result<Vec<Result<Sent, BrokerError>>, BrokerError> {
        let incarnation = self.incarnation()?;
        let count = messages.len();
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Send)> = BTreeMap::new();
        for (index, mut message) in messages.into_iter().enumerate() {
            let queue = match &message.key {
                Some(key) => queue_of(key, topic.queues),
                None => QueueId(self.turn.fetch_add(1, Ordering::Relaxed) % topic.queues),
            };
            message.topic = topic.id;
            message.queue = queue.0;
            let shard = incarnation.shard(topic.id, queue.0);
            let (indices, send) = by_shard.entry(shard).or_default();
            indices.push(index);
            send.messages.push(message);
        }
        let asked = by_shard.into_iter().map(|(shard, (indices, send))| {
            let incarnation = &incarnation;
            async move {
                let queues: Vec<u32> = send.messages.iter().map(|message| message.queue).collect();
                let stored = match incarnation.ask(shard, Request::Send(send)).await {
                    Ok(reply) => accepted(reply),
                    Err(error) => Err(error.into()),
                };
                (indices, queues, stored)
            }
        });
        let mut results: Vec<Option<Result<Sent, BrokerError>>> = vec![None; count];
        for (indices, queues, stored) in futures::future::join_all(asked).await {
            for (place, index) in indices.into_iter().enumerate() {
                let sent = match &stored {
                    Ok(Reply::Stored(stored)) => match stored.offsets.get(place) {
                        Some(&offset) => Ok(Sent {
                            queue: QueueId(queues[place]),
                            offset: Offset(offset),
                        }),
                        None => Err(BrokerError::Confused("send")),
                    },
                    Ok(_) => Err(BrokerError::Confused("send")),
                    Err(error) => Err(error.clone()),
                };
                results[index] = Some(sent);
            }
        }
        let answered = |result: Option<_>| result.unwrap_or(Err(BrokerError::Confused("send")));
        Ok(results.into_iter().map(answered).collect())
    }

    /// Pops messages from any queue of the topic; waits up to `poll` for the first. Empty: none came.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic is unknown or the log failed.
    pub async fn receive(&self, receive: Receive) -> Result<Vec<Delivery>, BrokerError> {
        let limit = receive.limit.clamp(1, limits::RECEIVE_BATCH_MAX);
        let group = self.group_or_new(&receive.group).await?;
        let clock = &self.parts.clock;
        let deadline = clock.now() + receive.poll;
        loop {
            let topic = self.topic_record(&receive.topic)?;
            let incarnation = self.incarnation()?;
            // Take hold of the bell first: what arrives after the look rings it.
            let bell = incarnation.waiting().bell(topic.id);
            let rung = bell.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();

            let poll = Poll {
                incarnation: &incarnation,
                topic: &topic,
                group: &group,
            };
            let (leases, next_due_ms) = poll
                .visit(self.turn.fetch_add(1, Ordering::Relaxed), limit, &receive)
                .await?;
            if !leases.is_empty() {
                let deliveries = poll.read(leases).await?;
                if !deliveries.is_empty() {
                    return Ok(deliveries);
                }
            }
            let now = clock.now();
            if now >= deadline {
                return Ok(Vec::new());
            }
            let left = deadline.since(now);
            let due = next_due_ms.map(|ms| millpond_proto::time::Timestamp(ms).since(now));
            // A message that is due already was taken by another poll meanwhile.
            let wait = due.map_or(left, |due| left.min(due.max(Duration::from_millis(1))));
            drop(incarnation);
            tokio::select! {
                biased;
                () = &mut rung => {}
                () = clock.sleep(wait) => {}
            }
        }
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
            };
            let incarnation = &incarnation;
            async move { (indices, incarnation.ask(shard, Request::Ack(ack)).await) }
        });
        for (indices, reply) in futures::future::join_all(asked).await {
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
            invisible_ms: i64::try_from(invisible.as_millis()).unwrap_or(i64::MAX),
        };
        let shard = incarnation.shard(topic.id, handle.queue);
        match accepted(incarnation.ask(shard, Request::Move(change)).await?)? {
            Reply::Moved(lease) => {
                // A waiting poll must learn that the message comes back at another time.
                incarnation.waiting().wake(topic.id);
                Ok(ReceiptHandle { lease, ..handle })
            }
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

/// One look at the queues of a topic for a group.
struct Poll<'a> {
    incarnation: &'a Arc<Incarnation>,
    topic: &'a TopicRecord,
    group: &'a GroupRecord,
}

impl Poll<'_> {
    /// Asks the shards of the topic, one after the other from a different one each time, until `limit`
    /// messages are found; also answers when the next invisible message comes back.
    async fn visit(
        &self,
        turn: u32,
        limit: usize,
        receive: &Receive,
    ) -> Result<(Vec<Lease>, Option<i64>), BrokerError> {
        let mut by_shard: Vec<(ShardId, Vec<u32>)> = Vec::new();
        for step in 0..self.topic.queues {
            let queue = turn.wrapping_add(step) % self.topic.queues;
            let shard = self.incarnation.shard(self.topic.id, queue);
            match by_shard.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, queues)) => queues.push(queue),
                None => by_shard.push((shard, vec![queue])),
            }
        }
        let mut leases = Vec::new();
        let mut next_due_ms: Option<i64> = None;
        let mut refused = None;
        for (shard, queues) in by_shard {
            let pop = Pop {
                group: self.group.id,
                topic: self.topic.id,
                queues,
                limit: u32::try_from(limit - leases.len()).expect("a receive is bounded"),
                invisible_ms: i64::try_from(receive.invisible.as_millis()).unwrap_or(i64::MAX),
                from_latest: self.group.from_latest,
            };
            match accepted(self.incarnation.ask(shard, Request::Pop(pop)).await?) {
                Ok(Reply::Leases(found)) => {
                    leases.extend(found.leases);
                    if let Some(due) = found.next_due_ms {
                        next_due_ms = Some(next_due_ms.unwrap_or(due).min(due));
                    }
                }
                Ok(_) => return Err(BrokerError::Confused("receive")),
                // A damaged shard does not keep the others from delivering.
                Err(error) => refused = Some(error),
            }
            if leases.len() >= limit {
                break;
            }
        }
        match refused {
            Some(error) if leases.is_empty() => Err(error),
            _ => Ok((leases, next_due_ms)),
        }
    }

    /// Reads what the leases name. A message that can not be read is left out: it comes back when its
    /// invisible time ends.
    async fn read(&self, leases: Vec<Lease>) -> Result<Vec<Delivery>, BrokerError> {
        let mut deliveries = Vec::with_capacity(leases.len());
        let mut run: Vec<Lease> = Vec::new();
        for lease in leases {
            let follows = run.last().is_none_or(|last| {
                last.handle.queue == lease.handle.queue
                    && last.handle.offset + 1 == lease.handle.offset
            });
            if !follows {
                self.read_run(std::mem::take(&mut run), &mut deliveries)
                    .await?;
            }
            run.push(lease);
        }
        self.read_run(run, &mut deliveries).await?;
        Ok(deliveries)
    }

    /// Reads neighbouring messages of one queue.
    async fn read_run(
        &self,
        run: Vec<Lease>,
        deliveries: &mut Vec<Delivery>,
    ) -> Result<(), BrokerError> {
        let (topic, storage) = (TopicId(self.topic.id), self.incarnation.storage());
        let mut left = run.as_slice();
        while let Some(first) = left.first() {
            let from = Offset(first.handle.offset);
            let limit = ReadLimit {
                messages: left.len(),
                bytes: limits::RECEIVE_BYTES_MAX,
            };
            let queue = QueueId(first.handle.queue);
            let read = match storage.read(topic, queue, from, limit).await {
                Ok(messages) => messages,
                Err(error @ (ReadError::Damaged { .. } | ReadError::Trimmed { .. })) => {
                    tracing::error!(%error, "a message could not be delivered");
                    left = &left[1..];
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if read.is_empty() {
                return Err(BrokerError::Confused("a delivered message is not readable"));
            }
            let count = read.len().min(left.len());
            for (lease, envelope) in left[..count].iter().zip(read) {
                let handle = ReceiptHandle {
                    topic: self.topic.id,
                    queue: lease.handle.queue,
                    offset: lease.handle.offset,
                    lease: lease.handle.lease,
                };
                deliveries.push(Delivery {
                    envelope,
                    handle,
                    attempt: lease.attempt,
                });
            }
            left = &left[count..];
        }
        Ok(())
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
