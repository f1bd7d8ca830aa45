//! A poll of a group of lite topics: it asks for those alone that the consumer listens to and that may have
//! something.
//!
//! What waits is a hint in [`super::listeners`]; the shards decide. An idle poll asks nobody, however many lite
//! topics its consumer listens to: it waits on the consumer's bell, or until something that it saw held is due.
//!
//! A poll that may be one that is asked again begins with what its attempt holds, and is given that and nothing else: a
//! batch with a part of it and something new would leave the rest of it held by nobody who knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::message::{ShardId, queue_of};
use millpond_proto::time::Timestamp;

use crate::broker::lite::listeners::Who;
use crate::broker::lite::{LiteName, PopLite};
use crate::broker::poll::{Consumer, Poll, Visit};
use crate::broker::record::{GroupRecord, TopicRecord};
use crate::broker::request::Request;
use crate::broker::undelivered::Batch;
use crate::broker::visit::even_shares;
use crate::broker::{Broker, BrokerError, Receive};

/// Lite topics that are looked at together.
const LOOKS_AT_ONCE: usize = 256;
/// Looks of a poll that finds nothing: all that a consumer may listen to.
const LOOKS_MAX: usize = limits::LITE_SUBSCRIPTIONS_MAX / LOOKS_AT_ONCE + 1;
/// Looks of a poll that has found something.
const LOOKS_FOR_MORE: usize = 2;

impl Broker {
    /// Pops messages of the lite topics that a consumer listens to.
    pub(in crate::broker) async fn receive_lite(
        &self,
        receive: Receive,
        consumer: &Consumer,
    ) -> Result<Batch, BrokerError> {
        let limit = receive.limit.clamp(1, limits::RECEIVE_BATCH_MAX);
        let clock = &self.parts.clock;
        let deadline = clock.now() + receive.poll;
        let mut may_repeat = true;
        loop {
            let topic = self.topic_record(&receive.topic)?;
            let group = self.group_record(&receive.group)?;
            check_parent(&group, &topic)?;
            let who = Who {
                group: group.id,
                consumer: consumer.id.clone(),
            };
            let incarnation = self.incarnation()?;
            let bell = self.listeners.bell(&who, topic.id, clock.now());
            let bell = bell.ok_or(BrokerError::TooMany {
                what: "too many consumers listen to lite topics",
                limit: limits::CLIENTS_MAX,
            })?;
            // Take hold of the bell first: what arrives after the look rings it.
            let rung = bell.notified();
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
            let mut visit = Visit::default();
            if !group.paused {
                if std::mem::take(&mut may_repeat) {
                    visit = poll.visit_again(&who).await?;
                }
                if visit.leases.is_empty() {
                    visit = poll.visit_lite(&who, limit).await?;
                }
            }
            if visit.buried || !visit.leases.is_empty() {
                self.listeners.pass_on(&who);
                let leased = !visit.leases.is_empty();
                let batch = poll.take(visit).await?;
                if !batch.deliveries().is_empty() {
                    return Ok(batch);
                }
                // What was leased and is not there any more must not keep what is from coming.
                if leased && clock.now() < deadline {
                    continue;
                }
            }
            let now = clock.now();
            if now >= deadline {
                // Another poll of the consumer may hear what this one would have.
                self.listeners.pass_on(&who);
                return Ok(Batch::default());
            }
            let due = self.listeners.next_due(&who).filter(|_| !group.paused);
            let due = due.map(|ms| Timestamp(ms).since(now).max(Duration::from_millis(1)));
            let left = deadline.since(now);
            let wait = due.map_or(left, |due| left.min(due));
            drop(incarnation);
            let parked = self.parking.park(group.id)?;
            tokio::select! {
                biased;
                () = &mut rung => {}
                () = clock.sleep(wait) => {}
            }
            drop(parked);
        }
    }
}

/// Refuses a parent that is not the group's.
pub(in crate::broker) fn check_parent(
    group: &GroupRecord,
    topic: &TopicRecord,
) -> Result<(), BrokerError> {
    match &group.lite {
        Some(lite) if lite.topic == topic.name => Ok(()),
        Some(lite) => Err(BrokerError::OtherParent {
            group: group.name.clone(),
            parent: lite.topic.clone(),
            topic: topic.name.clone(),
        }),
        None => Err(BrokerError::NotLite {
            group: group.name.clone(),
        }),
    }
}

impl Poll<'_> {
    /// What the attempt of this poll holds already, if it was asked before.
    async fn visit_again(&self, who: &Who) -> Result<Visit, BrokerError> {
        let mut visit = Visit::default();
        let listeners = &self.broker.listeners;
        let maybe_held = listeners.maybe_held(who, self.poll_id());
        if maybe_held.is_empty() {
            return Ok(visit);
        }
        let mut by_shard: BTreeMap<ShardId, Vec<(Arc<str>, LiteName)>> = BTreeMap::new();
        for name in maybe_held {
            let (shard, place) = self.place_of(&name);
            by_shard.entry(shard).or_default().push((name, place));
        }
        let asked = by_shard.into_iter().map(|(shard, names)| async move {
            let (names, places): (Vec<Arc<str>>, Vec<LiteName>) = names.into_iter().unzip();
            let pop = PopLite {
                again: true,
                ..self.lite_request(places, 0)
            };
            (names, self.pop_of(shard, Request::PopLite(pop)).await)
        });
        let mut held = Vec::new();
        for (names, found) in futures::future::join_all(asked).await {
            match found {
                Ok(found) => {
                    for stand in &found.leases.lites {
                        let name = names.get(stand.index as usize);
                        let Some((name, due_ms)) = name.zip(stand.next_due_ms) else {
                            continue;
                        };
                        listeners.look_at(who, name, due_ms);
                        held.push(Arc::clone(name));
                    }
                    visit.add(found);
                }
                Err(error) if is_end_of_log(&error) => return Err(error),
                // What a damaged shard has can not be read either.
                Err(error) => tracing::debug!(%error, "an attempt is not asked for there"),
            }
        }
        listeners.gave(who, self.poll_id(), held);
        Ok(visit)
    }

    /// Asks for what may have something, until there is enough or nothing is left to look at.
    async fn visit_lite(&self, who: &Who, limit: usize) -> Result<Visit, BrokerError> {
        let mut visit = Visit::default();
        let mut looked = Vec::new();
        let mut refused = None;
        for look in 0..LOOKS_MAX {
            let room = limit.saturating_sub(visit.leases.len());
            if room == 0 || (look >= LOOKS_FOR_MORE && !visit.leases.is_empty()) {
                break;
            }
            let now = self.broker.parts.clock.now();
            let mut taken = self.broker.listeners.take(who, now, LOOKS_AT_ONCE);
            if taken.is_empty() {
                break;
            }
            let mut by_shard: BTreeMap<ShardId, Vec<(usize, LiteName)>> = BTreeMap::new();
            for (index, name) in taken.names() {
                let (shard, place) = self.place_of(name);
                if by_shard.len() < room || by_shard.contains_key(&shard) {
                    by_shard.entry(shard).or_default().push((index, place));
                }
            }
            let shares = even_shares(room, by_shard.len());
            let asked = by_shard.into_iter().zip(shares);
            let asked = asked.map(|((shard, names), share)| async move {
                let (indices, names): (Vec<usize>, Vec<LiteName>) = names.into_iter().unzip();
                let pop = self.lite_request(names, share);
                (indices, self.pop_of(shard, Request::PopLite(pop)).await)
            });
            for (indices, found) in futures::future::join_all(asked).await {
                match found {
                    Ok(found) => {
                        for stand in &found.leases.lites {
                            let Some(index) = indices.get(stand.index as usize) else {
                                continue;
                            };
                            looked.extend(taken.looked(*index, stand.next_due_ms));
                        }
                        visit.add(found);
                    }
                    // A damaged shard does not keep the others from delivering.
                    Err(error) => refused = Some(error),
                }
            }
            if refused.is_some() {
                break;
            }
        }
        if !visit.leases.is_empty() {
            self.broker.listeners.gave(who, self.poll_id(), looked);
        }
        match refused {
            Some(error) if visit.leases.is_empty() => Err(error),
            // A log that ends refuses shard after shard: a part of what an attempt has would pass for all of it.
            Some(error) if is_end_of_log(&error) => Err(error),
            _ => Ok(visit),
        }
    }

    /// Where a lite topic lies.
    fn place_of(&self, name: &str) -> (ShardId, LiteName) {
        let queue = queue_of(name.as_bytes(), self.topic.queues).0;
        let shard = self.incarnation.shard(self.topic.id, queue);
        let name = name.to_owned();
        (shard, LiteName { queue, name })
    }

    fn lite_request(&self, names: Vec<LiteName>, share: usize) -> PopLite {
        let pop = self.request(&[], share, Vec::new());
        PopLite {
            group: pop.group,
            topic: pop.topic,
            names,
            limit: pop.limit,
            invisible_ms: pop.invisible_ms,
            attempts_max: pop.attempts_max,
            holder: pop.holder.map(|holder| crate::broker::record::Holder {
                poll: self.poll_id(),
                ..holder
            }),
            again: false,
        }
    }
}

/// Whether an answer is missing because the log ended, and not because a shard is damaged.
fn is_end_of_log(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Append(_))
}
