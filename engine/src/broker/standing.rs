//! Where groups stand, and putting them elsewhere: progress, what is in flight, reset, clone, leases.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_storage::log::ReadLimit;

use crate::broker::incarnation::Incarnation;
use crate::broker::lite::real;
use crate::broker::record::{GroupRecord, TopicKind};
use crate::broker::request::{CloneGroup, InFlight, QueueProgress, Renew, Reply, Request, Reset};
use crate::broker::topic::accepted;
use crate::broker::transfer::dead_letter_topic;
use crate::broker::{
    Broker, BrokerError, DeliveryPolicy, Group, GroupProgress, GroupWork, InFlightMessage,
    TopicWork,
};

/// Leases that are renewed at once.
const RENEWALS_AT_ONCE: usize = 256;

/// Where a group is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// The first message kept.
    Earliest,
    /// Behind the last one.
    Latest,
    /// The first one stored at or after this time.
    Time(Timestamp),
    /// An offset; moved to the nearest one that is kept.
    Offset(Offset),
    /// So many messages further than it stands.
    Skip(u64),
}

impl Broker {
    /// Where a group stands, by topic and queue; queues that it never polled are left out.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`].
    pub async fn group_progress(
        &self,
        name: &GroupName,
    ) -> Result<Vec<GroupProgress>, BrokerError> {
        let group = self.group_record(name)?;
        let incarnation = self.incarnation()?;
        let replies = incarnation.ask_all(Request::Progress(group.id)).await?;
        let catalog = incarnation.catalog();
        let mut progress = Vec::new();
        for (_, reply) in replies {
            let Reply::Progress(found) = reply else {
                continue;
            };
            for queue in found.queues {
                let Some(topic) = catalog.topic_by_id(queue.topic) else {
                    continue;
                };
                let gone = missing(&incarnation, &queue).await;
                progress.push(GroupProgress {
                    topic: TopicName::new(&topic.name)?,
                    queue: QueueId(queue.queue),
                    ack_floor: Offset(queue.ack_floor),
                    next: Offset(queue.next),
                    in_flight: queue.in_flight,
                    lag: queue.lag.saturating_sub(gone).max(queue.in_flight),
                    oldest_at: oldest(&incarnation, &queue).await,
                });
            }
        }
        progress.sort_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        Ok(progress)
    }

    /// What a group has before it, counted by its shards. A place in a topic that it never polled is no work of it; dead letters are
    /// there before anybody polls them.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`].
    pub async fn group_work(&self, name: &GroupName) -> Result<GroupWork, BrokerError> {
        let group = self.group_record(name)?;
        let incarnation = self.incarnation()?;
        let replies = incarnation.ask_all(Request::Progress(group.id)).await?;
        let catalog = incarnation.catalog();
        let letters = catalog.topic(&dead_letter_topic(name.as_str()));
        let mut work = GroupWork::default();
        let mut by_topic: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut settled = None;
        for (_, reply) in replies {
            let Reply::Progress(found) = reply else {
                continue;
            };
            for queue in found.queues {
                if letters.is_some_and(|letters| letters.id == queue.topic) {
                    settled = Some(settled.unwrap_or(0) + queue.lag);
                    continue;
                }
                let sums = by_topic.entry(queue.topic).or_default();
                *sums = (sums.0 + queue.in_flight, sums.1 + queue.lag);
            }
        }
        // All of them lie in the first queue.
        let kept = letters.and_then(|letters| {
            let extent = incarnation
                .storage()
                .extent(TopicId(letters.id), QueueId(0))?;
            Some(extent.next.0.saturating_sub(extent.first.0))
        });
        work.dead_letters = settled.or(kept).unwrap_or(0);
        for (topic, (in_flight, lag)) in by_topic {
            let Some(topic) = catalog.topic_by_id(topic) else {
                continue;
            };
            work.topics.push(TopicWork {
                topic: TopicName::new(&topic.name)?,
                in_flight,
                lag: lag.max(in_flight),
            });
        }
        Ok(work)
    }

    /// What consumers of a group hold now, by topic, queue and offset, so many.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`].
    ///
    /// # Panics
    /// Never: the limit is bounded.
    pub async fn group_in_flight(
        &self,
        name: &GroupName,
        limit: usize,
    ) -> Result<Vec<InFlightMessage>, BrokerError> {
        let group = self.group_record(name)?.id;
        let limit = limit.clamp(1, limits::FACT_ROWS_MAX + 1);
        let incarnation = self.incarnation()?;
        let asked = InFlight {
            group,
            limit: u32::try_from(limit).expect("bounded above"),
        };
        let replies = incarnation.ask_all(Request::InFlight(asked)).await?;
        let catalog = incarnation.catalog();
        let mut found = Vec::new();
        for (_, reply) in replies {
            let Reply::Held(held) = reply else {
                continue;
            };
            for one in held.messages {
                let Some(topic) = catalog.topic_by_id(one.topic) else {
                    continue;
                };
                let holder = one.holder.unwrap_or_default();
                found.push(InFlightMessage {
                    topic: TopicName::new(&topic.name)?,
                    queue: QueueId(real(one.handle.queue)),
                    offset: Offset(one.handle.offset),
                    consumer: holder.consumer,
                    since: Timestamp(holder.since_ms),
                    until: Timestamp(one.until_ms),
                    attempts: one.attempts,
                    renewed: holder.renewed,
                });
            }
        }
        found.sort_by(|a, b| (&a.topic, a.queue, a.offset).cmp(&(&b.topic, b.queue, b.offset)));
        found.truncate(limit);
        Ok(found)
    }

    /// Puts a group elsewhere in a topic, in one queue or (none) in all. What it held there is let go,
    /// and handles of earlier deliveries are worth nothing.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such group, topic or queue.
    pub async fn reset_group(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: Option<QueueId>,
        to: ResetTo,
    ) -> Result<Vec<(QueueId, Offset)>, BrokerError> {
        let group = self.group_record(group)?;
        let topic = self.topic_record(topic)?;
        if group.lite.is_some() {
            return Err(BrokerError::BadChange {
                what: "the place",
                name: group.name.clone(),
                why: "a group of lite topics starts where its consumers say when they subscribe"
                    .to_owned(),
            });
        }
        if let Some(queue) = queue.filter(|queue| queue.0 >= topic.queues) {
            return Err(BrokerError::OutOfBounds {
                what: "the queue",
                found: queue.to_string(),
                allowed: format!("0 to {}", topic.queues - 1),
            });
        }
        let incarnation = self.incarnation()?;
        let queues = (0..topic.queues).filter(|one| queue.is_none_or(|queue| queue.0 == *one));
        let mut placed = Vec::new();
        for queue in queues {
            let id = TopicId(topic.id);
            let extent = incarnation
                .storage()
                .extent(id, QueueId(queue))
                .unwrap_or_default();
            let asked = match to {
                ResetTo::Earliest => extent.first,
                ResetTo::Latest => extent.next,
                ResetTo::Time(at) => incarnation.first_at(topic.id, queue, at).await?,
                ResetTo::Offset(offset) => offset,
                ResetTo::Skip(count) => {
                    let stands = self
                        .stands_at(&incarnation, group.id, topic.id, queue)
                        .await?;
                    Offset(stands.0.saturating_add(count))
                }
            };
            let next = asked.max(extent.first).min(extent.next);
            let reset = Reset {
                group: group.id,
                topic: topic.id,
                queue,
                next: next.0,
                only_new: false,
            };
            let shard = incarnation.shard(topic.id, queue);
            accepted(incarnation.ask(shard, Request::Reset(reset)).await?)?;
            placed.push((QueueId(queue), next));
        }
        Ok(placed)
    }

    /// Lets a group stand where another one stands, in every queue that the other one has read. What the
    /// other one holds is visible to it.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such group; the new one is made when there is none.
    pub async fn clone_group(&self, from: &GroupName, to: &GroupName) -> Result<(), BrokerError> {
        if from == to {
            return Err(BrokerError::BadChange {
                what: "the place",
                name: to.to_string(),
                why: "a group can not be cloned into itself".to_owned(),
            });
        }
        let from = self.group_record(from)?;
        let to = match self.group_record(to) {
            Err(BrokerError::GroupNotFound { .. }) if from.lite.is_some() => {
                let mut like = Group::new(to.clone());
                like.lite.clone_from(&from.lite);
                self.create_group(like).await?;
                self.group_record(to)?
            }
            _ => self.group_or_new(to).await?,
        };
        let parent = |group: &GroupRecord| group.lite.as_ref().map(|lite| lite.topic.clone());
        if parent(&from) != parent(&to) {
            return Err(BrokerError::BadChange {
                what: "the place",
                name: to.name.clone(),
                why: "one of the groups reads lite topics and the other one does not read the same"
                    .to_owned(),
            });
        }
        let clone = CloneGroup {
            from: from.id,
            to: to.id,
            behind: None,
        };
        let incarnation = self.incarnation()?;
        let cloned = incarnation
            .shards()
            .map(|shard| clone_in(&incarnation, shard, clone.clone()));
        futures::future::try_join_all(cloned).await?;
        Ok(())
    }

    /// What consumers of a group are told about failed deliveries; a group that is not there yet has the
    /// server's defaults.
    #[must_use]
    pub fn delivery_policy(&self, group: &GroupName, topics: &[TopicName]) -> DeliveryPolicy {
        let record = self.group_record(group).map(|record| (*record).clone());
        let record = record.unwrap_or_default();
        let is_fifo = |topic: &TopicName| {
            self.topic_record(topic)
                .is_ok_and(|topic| topic.kind() == TopicKind::Fifo)
        };
        DeliveryPolicy {
            attempts_max: record.attempts_max_or_default(),
            fifo: record.fifo || record.lite.is_some() || topics.iter().any(is_fifo),
            backoff: record.backoff,
        }
    }

    /// Renews leases that end within `within_ms` and whose consumers live, by `invisible_ms` from now.
    ///
    /// A lease is renewed for [`limits::RENEWAL_MS_MAX`] at most; a consumer that works longer than that
    /// on a message has lost its way.
    ///
    /// # Errors
    /// [`BrokerError`] of the first lease that could not be renewed; all others were.
    pub async fn renew_leases(
        &self,
        within_ms: i64,
        invisible_ms: i64,
        lives: impl Fn(&str) -> bool,
    ) -> Result<(), BrokerError> {
        let incarnation = self.incarnation()?;
        let now = self.parts.clock.now();
        let replies = incarnation.ask_all(Request::Renewable(within_ms)).await?;
        let held = replies.into_iter().flat_map(|(shard, reply)| {
            let messages = match reply {
                Reply::Held(held) => held.messages,
                _ => Vec::new(),
            };
            messages.into_iter().map(move |message| (shard, message))
        });
        let due = held.filter_map(|(shard, message)| {
            let holder = message.holder.unwrap_or_default();
            let held_ms = now.as_ms().saturating_sub(holder.since_ms);
            let renew = Renew {
                group: message.group,
                topic: message.topic,
                queue: message.handle.queue,
                lease: message.handle.lease,
                invisible_ms,
            };
            let is_due = held_ms < limits::RENEWAL_MS_MAX && lives(&holder.consumer);
            is_due.then_some((shard, renew))
        });
        // Many at once: one after the other, each with its wait for the disk, the last ones would end meanwhile.
        let due: Vec<(ShardId, Renew)> = due.collect();
        let incarnation = &incarnation;
        let renewed = due.into_iter().map(|(shard, renew)| async move {
            accepted(incarnation.ask(shard, Request::Renew(renew)).await?)
        });
        let mut renewed = futures::stream::iter(renewed).buffer_unordered(RENEWALS_AT_ONCE);
        let mut refused = None;
        while let Some(reply) = renewed.next().await {
            refused = refused.or(reply.err());
        }
        refused.map_or(Ok(()), Err)
    }

    /// Gives back what a consumer held under renewed leases: it has said that it is gone.
    ///
    /// # Errors
    /// [`BrokerError`] when the log failed.
    pub async fn release(&self, consumer: &str) -> Result<(), BrokerError> {
        let incarnation = self.incarnation()?;
        let shards = incarnation.shards();
        let released = shards.map(|shard| release_in(&incarnation, shard, consumer));
        futures::future::try_join_all(released).await?;
        Ok(())
    }

    async fn stands_at(
        &self,
        incarnation: &Incarnation,
        group: u64,
        topic: u64,
        queue: u32,
    ) -> Result<Offset, BrokerError> {
        let shard = incarnation.shard(topic, queue);
        let Reply::Progress(progress) =
            accepted(incarnation.ask(shard, Request::Progress(group)).await?)?
        else {
            return Err(BrokerError::Confused("progress"));
        };
        let mut queues = progress.queues.iter();
        let known = queues.find(|one| one.topic == topic && one.queue == queue);
        Ok(Offset(known.map_or(0, |one| one.ack_floor)))
    }
}

/// Clones a group in one shard, part by part.
async fn clone_in(
    incarnation: &Incarnation,
    shard: ShardId,
    mut clone: CloneGroup,
) -> Result<(), BrokerError> {
    loop {
        let asked = Request::CloneGroup(clone.clone());
        match accepted(incarnation.ask(shard, asked).await?)? {
            Reply::More(place) => clone.behind = Some(place),
            _ => return Ok(()),
        }
    }
}

/// Releases what a consumer holds in one shard, part by part.
async fn release_in(
    incarnation: &Incarnation,
    shard: ShardId,
    consumer: &str,
) -> Result<(), BrokerError> {
    loop {
        let asked = Request::Release(consumer.to_owned());
        // A damaged shard does not keep the others from releasing.
        if !matches!(incarnation.ask(shard, asked).await?, Reply::More(_)) {
            return Ok(());
        }
    }
}

/// When the oldest message that a group is not done with was stored.
async fn oldest(incarnation: &Incarnation, queue: &QueueProgress) -> Option<Timestamp> {
    if queue.lag == 0 {
        return None;
    }
    let (topic, id) = (TopicId(queue.topic), QueueId(queue.queue));
    let first = incarnation.storage().extent(topic, id)?.first;
    let one = ReadLimit {
        messages: 1,
        bytes: 1,
    };
    let from = Offset(queue.ack_floor).max(first);
    let read = incarnation.storage().read(topic, id, from, one).await;
    read.ok()?.first().map(|message| message.stored_at())
}

/// Offsets that a group counts as not done with and that have no message any more: key compaction took it away.
async fn missing(incarnation: &Incarnation, queue: &QueueProgress) -> u64 {
    let (topic, id) = (TopicId(queue.topic), QueueId(queue.queue));
    let storage = incarnation.storage();
    let Some(extent) = storage.extent(topic, id).filter(|_| queue.lag > 0) else {
        return 0;
    };
    let range = Offset(queue.ack_floor)..extent.next;
    match storage.missing(topic, id, range).await {
        Ok(missing) => missing,
        Err(error) => {
            tracing::warn!(%error, "the lag counts messages that key compaction took away");
            0
        }
    }
}
