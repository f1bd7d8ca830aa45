//! Receiving: a poll over the shards of a topic.
//!
//! A poll visits the shards of the topic that may have something ([`super::visit`]). When they have nothing it waits
//! on the bell of the topic and group, and bodies are read once the deliveries are durable.
//!
//! Where order or a filter matters a poll first looks where the cursors stand and reads on from there
//! ([`super::scan`]). What was leased for an answer that nobody waits for any more is given back
//! ([`super::undelivered`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId, stable_hash};
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::ReadLimit;

use crate::broker::filter::Filter;
use crate::broker::incarnation::Incarnation;
use crate::broker::lite::real;
use crate::broker::record::{GroupRecord, Holder, TopicKind, TopicRecord};
use crate::broker::request::{Ack, Lease, Leases, Pop, Reply, Request, Reset, Scan};
use crate::broker::topic::accepted;
use crate::broker::transfer::dead_letter_topic;
use crate::broker::undelivered::{Answer, Batch, Undelivered};
use crate::broker::{Broker, BrokerError, Delivery, ReceiptHandle, Receive};

/// Who polls, and how.
#[derive(Clone, Debug, Default)]
pub struct Consumer {
    /// Client id; empty when nobody says.
    pub id: String,
    /// A poll that is asked again with the same id gets the same batch, where order matters.
    pub attempt_id: Option<String>,
    /// Whether the server renews what it gets while the consumer lives.
    pub renewed: bool,
    /// Which messages are wanted; none: all.
    pub filter: Option<Arc<Filter>>,
}

/// What a look at the shards found.
#[derive(Debug, Default)]
pub(super) struct Visit {
    pub(super) leases: Vec<Lease>,
    /// When the next invisible message comes back.
    pub(super) next_due_ms: Option<i64>,
    /// Whether it is worth looking again at once.
    pub(super) advanced: bool,
    /// Whether too much is in flight for anything new.
    full: bool,
    /// Whether messages are on their way to the dead letters.
    pub(super) buried: bool,
    /// Messages that were read already, by queue and offset.
    pub(super) read: BTreeMap<(u32, u64), Envelope>,
    /// Gives the leases back when the look leads to nothing.
    held: Vec<Undelivered>,
}

/// What a shard gave; goes back when nobody takes it on.
pub(super) struct Found {
    pub(super) leases: Leases,
    held: Undelivered,
}

impl Broker {
    /// Pops messages from any queue of the topic; waits up to `poll` for the first. Empty: none came.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic is unknown or the log failed.
    pub async fn receive(&self, receive: Receive) -> Result<Vec<Delivery>, BrokerError> {
        let batch = self.receive_as(receive, &Consumer::default()).await?;
        Ok(batch.take())
    }

    /// Pops messages for a consumer. What is in the batch is given back when it is dropped before it was
    /// taken, and so is what was leased by a call that is dropped.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic is unknown or the log failed.
    pub async fn receive_as(
        &self,
        receive: Receive,
        consumer: &Consumer,
    ) -> Result<Batch, BrokerError> {
        let limit = receive.limit.clamp(1, limits::RECEIVE_BATCH_MAX);
        if self.group_or_new(&receive.group).await?.lite.is_some() {
            return self.receive_lite(receive, consumer).await;
        }
        let clock = &self.parts.clock;
        let deadline = clock.now() + receive.poll;
        loop {
            let topic = self.topic_record(&receive.topic)?;
            let group = self.group_record(&receive.group)?;
            let incarnation = self.incarnation()?;
            // Take hold of the bell first: what arrives after the look rings it.
            let bell = incarnation.waiting().bell(topic.id, group.id);
            let notify = bell.notify();
            let rung = notify.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();

            let poll = Poll {
                broker: self,
                incarnation: &incarnation,
                topic: &topic,
                group: &group,
                receive: &receive,
                consumer,
            };
            let visit = if group.paused {
                Visit::default()
            } else {
                poll.visit(limit).await?
            };
            let (next_due_ms, mut advanced, full) = (visit.next_due_ms, visit.advanced, visit.full);
            if visit.buried || !visit.leases.is_empty() {
                if !visit.leases.is_empty() {
                    bell.pass_on();
                }
                // What was leased and is not there any more must not keep what is from coming.
                advanced |= !visit.leases.is_empty();
                let batch = poll.take(visit).await?;
                if !batch.deliveries().is_empty() {
                    return Ok(batch);
                }
            }
            let now = clock.now();
            if advanced {
                bell.stay();
                continue;
            }
            if now >= deadline && full {
                return Err(BrokerError::TooMany {
                    what: "the group holds too many messages of a queue; acknowledge some",
                    limit: limits::IN_FLIGHT_MAX,
                });
            }
            if now >= deadline {
                return Ok(Batch::default());
            }
            let left = deadline.since(now);
            let due = next_due_ms.map(|ms| Timestamp(ms).since(now));
            // A message that is due already was taken by another poll meanwhile.
            let wait = due.map_or(left, |due| left.min(due.max(Duration::from_millis(1))));
            drop(incarnation);
            let parked = self.parking.park(group.id)?;
            tokio::select! {
                biased;
                () = &mut rung => {}
                () = clock.sleep(wait) => {}
            }
            drop(parked);
            bell.stay();
        }
    }
}

/// One look at the queues of a topic for a group.
pub(super) struct Poll<'a> {
    pub(super) broker: &'a Broker,
    pub(super) incarnation: &'a Arc<Incarnation>,
    pub(super) topic: &'a TopicRecord,
    pub(super) group: &'a GroupRecord,
    pub(super) receive: &'a Receive,
    pub(super) consumer: &'a Consumer,
}

impl Poll<'_> {
    /// Whether the group takes messages as they come.
    pub(super) fn is_plain(&self) -> bool {
        let takes_all = matches!(
            self.topic.kind(),
            TopicKind::Normal | TopicKind::Delay | TopicKind::Transaction | TopicKind::Lite
        );
        // Where key compaction took messages away a cursor passes over their offsets as over what is not wanted.
        let storage = self.incarnation.storage();
        takes_all
            && self.consumer.filter.as_ref().is_none_or(|f| f.is_all())
            && !storage.has_holes(TopicId(self.topic.id))
    }

    /// What a shard is asked for its share.
    pub(super) fn request(&self, queues: &[u32], share: usize, scans: Vec<Scan>) -> Pop {
        Pop {
            group: self.group.id,
            topic: self.topic.id,
            queues: queues.to_vec(),
            limit: u32::try_from(share).expect("a receive is bounded"),
            invisible_ms: i64::try_from(self.receive.invisible.as_millis()).unwrap_or(i64::MAX),
            from_latest: self.group.from_latest,
            only_known: self.group.start_at_ms.is_some(),
            attempts_max: self.attempts_max(),
            holder: Some(Holder {
                consumer: self.consumer.id.clone(),
                // Only a poll that looks first can find what it got before.
                poll: if self.is_plain() { 0 } else { self.poll_id() },
                renewed: self.consumer.renewed,
                since_ms: 0,
            }),
            by_priority: self.topic.kind() == TopicKind::Priority,
            scanned: false,
            scans,
        }
    }

    /// A group's dead letters that it reads itself do not die again.
    pub(super) fn attempts_max(&self) -> u32 {
        if self.topic.name == dead_letter_topic(&self.group.name) {
            return 0;
        }
        self.group.attempts_max_or_default()
    }

    /// What tells the polls of one attempt from others; 0: nothing.
    pub(super) fn poll_id(&self) -> u64 {
        let id = self.consumer.attempt_id.as_deref().unwrap_or("");
        if id.is_empty() {
            0
        } else {
            stable_hash(id.as_bytes()).max(1)
        }
    }

    pub(super) fn undelivered(&self) -> Undelivered {
        self.broker.undelivered(self.group.id, self.topic.id)
    }

    pub(super) async fn pop(&self, shard: ShardId, pop: Pop) -> Result<Found, BrokerError> {
        self.pop_of(shard, Request::Pop(pop)).await
    }

    /// A poll of one kind or another.
    pub(super) async fn pop_of(&self, shard: ShardId, pop: Request) -> Result<Found, BrokerError> {
        let asked = self.incarnation.call(shard, pop).await?;
        let answer = Answer::of(asked, self.undelivered());
        match accepted(answer.await?)? {
            Reply::Leases(leases) => {
                let mut held = self.undelivered();
                held.extend(&leases.leases);
                Ok(Found { leases, held })
            }
            _ => Err(BrokerError::Confused("receive")),
        }
    }

    /// Begins queues that the group meets at the time that it is to start at.
    pub(super) async fn start(&self, queues: Vec<u32>) -> Result<(), BrokerError> {
        let at = Timestamp(self.group.start_at_ms.unwrap_or(0));
        for queue in queues {
            let next = self.incarnation.first_at(self.topic.id, queue, at).await?;
            let reset = Reset {
                group: self.group.id,
                topic: self.topic.id,
                queue,
                next: next.0,
                only_new: true,
            };
            let shard = self.incarnation.shard(self.topic.id, queue);
            accepted(self.incarnation.ask(shard, Request::Reset(reset)).await?)?;
        }
        Ok(())
    }

    /// Reads what was leased, and sees that dead letters get where they belong.
    pub(super) async fn take(&self, mut visit: Visit) -> Result<Batch, BrokerError> {
        let mut undelivered = self.undelivered();
        for held in &mut visit.held {
            undelivered.absorb(held);
        }
        let by_priority = self.topic.kind() == TopicKind::Priority;
        let bury = async {
            if visit.buried
                && let Err(error) = self.broker.finish_transfers(self.incarnation).await
            {
                tracing::warn!(%error, "dead letters wait for the next turn");
            }
        };
        let (deliveries, ()) = futures::join!(self.read(visit.leases, visit.read), bury);
        let mut deliveries = deliveries?;
        let messages = deliveries.iter().map(|one| &one.envelope);
        self.broker.traffic.delivered(self.topic.id, messages);
        if by_priority {
            deliveries.sort_by_key(|d| std::cmp::Reverse(d.envelope.priority.unwrap_or(0)));
        }
        if deliveries.len() < undelivered.count() {
            // Given back at once, what can not be read would be leased again at once.
            undelivered.keep_only(&deliveries);
        }
        Ok(Batch::new(deliveries, undelivered))
    }

    /// Reads what the leases name. A message that can not be read is left out: it comes back when its
    /// invisible time ends.
    async fn read(
        &self,
        leases: Vec<Lease>,
        mut known: BTreeMap<(u32, u64), Envelope>,
    ) -> Result<Vec<Delivery>, BrokerError> {
        let mut deliveries = Vec::with_capacity(leases.len());
        let mut run: Vec<Lease> = Vec::new();
        for lease in leases {
            let place = (lease.handle.queue, lease.handle.offset);
            if let Some(envelope) = known.remove(&place) {
                self.read_run(std::mem::take(&mut run), &mut deliveries)
                    .await?;
                deliveries.push(self.delivery(&lease, envelope));
                continue;
            }
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
            let queue = QueueId(real(first.handle.queue));
            let read = match storage.read(topic, queue, from, limit).await {
                Ok(messages) => messages,
                Err(ReadError::Trimmed { first: kept, .. }) => {
                    // The topic no longer keeps it, so there is nothing to wait for.
                    self.drop_trimmed(first, kept).await?;
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
            let last = read.last().map_or(from, Envelope::at);
            let mut read = read.into_iter().peekable();
            while let Some(lease) = left.first().filter(|l| l.handle.offset <= last.0) {
                left = &left[1..];
                while read.next_if(|m| m.offset < lease.handle.offset).is_some() {}
                match read.next_if(|m| m.offset == lease.handle.offset) {
                    Some(envelope) => deliveries.push(self.delivery(lease, envelope)),
                    // A later one of its key took its place since it was given out first.
                    None => self.drop_gone(lease).await?,
                }
            }
            if left.first().is_some_and(|l| l.handle.offset == from.0) {
                // Only later messages are there.
                self.drop_gone(&left[0]).await?;
                left = &left[1..];
            }
        }
        Ok(())
    }
}

impl Poll<'_> {
    fn delivery(&self, lease: &Lease, envelope: Envelope) -> Delivery {
        Delivery {
            envelope,
            handle: ReceiptHandle {
                topic: self.topic.id,
                queue: lease.handle.queue,
                offset: lease.handle.offset,
                lease: lease.handle.lease,
            },
            attempt: lease.attempt,
        }
    }

    /// Is done with a message that key compaction took away.
    async fn drop_gone(&self, lease: &Lease) -> Result<(), BrokerError> {
        let ack = Request::Ack(self.ack_of(lease));
        let shard = self.incarnation.shard(self.topic.id, lease.handle.queue);
        accepted(self.incarnation.ask(shard, ack).await?)?;
        Ok(())
    }

    fn ack_of(&self, lease: &Lease) -> Ack {
        Ack {
            group: self.group.id,
            topic: self.topic.id,
            handles: vec![lease.handle.clone()],
            frees: self.topic.kind() == TopicKind::Fifo,
        }
    }

    /// Is done with a message that is no longer kept, and with all before the first one that is.
    async fn drop_trimmed(&self, lease: &Lease, kept: Offset) -> Result<(), BrokerError> {
        let queue = lease.handle.queue;
        let ack = self.ack_of(lease);
        let nothing = Scan {
            queue,
            from: 0,
            to: kept.0,
            accepted: Vec::new(),
        };
        let mut skip = self.request(&[queue], 0, vec![nothing]);
        skip.scanned = true;
        let shard = self.incarnation.shard(self.topic.id, queue);
        for request in [Request::Ack(ack), Request::Pop(skip)] {
            accepted(self.incarnation.ask(shard, request).await?)?;
        }
        Ok(())
    }
}

impl Visit {
    /// Adds what a shard gave.
    pub(super) fn add(&mut self, found: Found) {
        let Found {
            leases: found,
            held,
        } = found;
        self.held.push(held);
        self.leases.extend(found.leases);
        self.advanced |= found.advanced;
        self.full |= found.full;
        self.buried |= found.buried;
        self.next_due_ms = [self.next_due_ms, found.next_due_ms]
            .into_iter()
            .flatten()
            .min();
    }
}
