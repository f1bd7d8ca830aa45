//! Receiving: a poll over the shards of a topic.
//!
//! A poll asks all shards of the topic at once, each for its share of the limit, and then those that
//! have more for what is left: two waits for the log at most, however many queues there are. Which shard
//! gets the larger share turns with every poll. When there is nothing it waits on the bell of the topic
//! and group, and bodies are read once the deliveries are durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::log::ReadLimit;

use crate::broker::incarnation::Incarnation;
use crate::broker::record::{GroupRecord, TopicRecord};
use crate::broker::request::{Lease, Leases, Pop, Reply, Request};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError, Delivery, ReceiptHandle, Receive};

impl Broker {
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
            let bell = incarnation.waiting().bell(topic.id, group.id);
            let notify = bell.notify();
            let rung = notify.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();

            let poll = Poll {
                incarnation: &incarnation,
                topic: &topic,
                group: &group,
                receive: &receive,
            };
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let (leases, next_due_ms) = poll.visit(turn, limit).await?;
            if !leases.is_empty() {
                bell.pass_on();
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
            let due = next_due_ms.map(|ms| Timestamp(ms).since(now));
            // A message that is due already was taken by another poll meanwhile.
            let wait = due.map_or(left, |due| left.min(due.max(Duration::from_millis(1))));
            drop(incarnation);
            tokio::select! {
                biased;
                () = &mut rung => {}
                () = clock.sleep(wait) => {}
            }
            bell.stay();
        }
    }
}

/// One look at the queues of a topic for a group.
struct Poll<'a> {
    incarnation: &'a Arc<Incarnation>,
    topic: &'a TopicRecord,
    group: &'a GroupRecord,
    receive: &'a Receive,
}

impl Poll<'_> {
    /// Asks the shards of the topic for up to `limit` messages; also answers when the next invisible
    /// message comes back.
    async fn visit(
        &self,
        turn: u32,
        limit: usize,
    ) -> Result<(Vec<Lease>, Option<i64>), BrokerError> {
        let shards = self.shards(turn);
        let mut shares = even_shares(limit, shards.len());
        let mut leases = Vec::new();
        let mut next_due_ms: Option<i64> = None;
        let mut refused = None;
        let mut first_round = true;
        loop {
            // In the first round a share of nothing still tells how much there is.
            let asked = shards.iter().zip(&shares).enumerate();
            let asked = asked.filter(|(_, (_, share))| first_round || **share > 0);
            let asked = asked.map(|(index, ((shard, queues), share))| async move {
                (index, self.pop(*shard, queues, *share).await)
            });
            let mut more = vec![0; shards.len()];
            for (index, found) in futures::future::join_all(asked).await {
                match found {
                    Ok(found) => {
                        leases.extend(found.leases);
                        more[index] = found.more as usize;
                        next_due_ms = [next_due_ms, found.next_due_ms].into_iter().flatten().min();
                    }
                    // A damaged shard does not keep the others from delivering.
                    Err(error) => refused = Some(error),
                }
            }
            first_round = false;
            let room = limit.saturating_sub(leases.len());
            if room == 0 || more.iter().all(|more| *more == 0) {
                break;
            }
            shares = shares_of(room, &more);
        }
        match refused {
            Some(error) if leases.is_empty() => Err(error),
            _ => Ok((leases, next_due_ms)),
        }
    }

    /// The topic's shards with their queues, beginning with another queue each turn.
    fn shards(&self, turn: u32) -> Vec<(ShardId, Vec<u32>)> {
        let mut by_shard: Vec<(ShardId, Vec<u32>)> = Vec::new();
        for step in 0..self.topic.queues {
            let queue = turn.wrapping_add(step) % self.topic.queues;
            let shard = self.incarnation.shard(self.topic.id, queue);
            match by_shard.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, queues)) => queues.push(queue),
                None => by_shard.push((shard, vec![queue])),
            }
        }
        by_shard
    }

    async fn pop(
        &self,
        shard: ShardId,
        queues: &[u32],
        share: usize,
    ) -> Result<Leases, BrokerError> {
        let pop = Pop {
            group: self.group.id,
            topic: self.topic.id,
            queues: queues.to_vec(),
            limit: u32::try_from(share).expect("a receive is bounded"),
            invisible_ms: i64::try_from(self.receive.invisible.as_millis()).unwrap_or(i64::MAX),
            from_latest: self.group.from_latest,
        };
        match accepted(self.incarnation.ask(shard, Request::Pop(pop)).await?)? {
            Reply::Leases(found) => Ok(found),
            _ => Err(BrokerError::Confused("receive")),
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
                // Retention has let go of it; the shard is told next.
                Err(ReadError::Trimmed { .. }) => {
                    left = &left[1..];
                    continue;
                }
                Err(error @ ReadError::Damaged { .. }) => {
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

/// The limit spread over so many shards; the first ones get what does not divide.
fn even_shares(limit: usize, shards: usize) -> Vec<usize> {
    let shards_or_one = shards.max(1);
    (0..shards)
        .map(|index| limit / shards_or_one + usize::from(index < limit % shards_or_one))
        .collect()
}

/// What is left of the limit, to those that have more, in order.
fn shares_of(mut room: usize, more: &[usize]) -> Vec<usize> {
    let share = |more: &usize| {
        let share = room.min(*more);
        room -= share;
        share
    };
    more.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_limit() {
        assert_eq!(even_shares(32, 8), [4; 8]);
        assert_eq!(even_shares(5, 3), [2, 2, 1]);
        assert_eq!(even_shares(1, 3), [1, 0, 0]);
        assert_eq!(shares_of(10, &[3, 0, 20, 4]), [3, 0, 7, 0]);
    }
}
