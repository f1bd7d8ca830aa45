//! The poll that must read before it takes: message groups, filters, priorities.
//!
//! Shards do no I/O and keep nothing of messages that no group has seen, so such a poll takes two steps.
//! It *looks*: where does each cursor stand, and what waits there. It reads the messages behind the
//! cursors, lets the filter judge them, and sends with its [`Pop`](crate::broker::request::Pop) what
//! must be known of each: wanted or not, message group, priority. The shard checks that against where
//! its cursor stands by then, and decides.
//!
//! **Priorities**: among what waits and the next [`limits::PRIORITY_WINDOW`] messages of each queue the
//! greatest go first, over all queues. Nothing ages: under a steady stream of greater priorities lesser
//! ones wait for as long as it lasts, and what lies behind the window is not looked at before.

use std::cmp::Reverse;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::ReadLimit;

use crate::broker::BrokerError;
use crate::broker::hints::Told;
use crate::broker::poll::{Poll, Visit};
use crate::broker::record::TopicKind;
use crate::broker::request::{Look, Renew, Reply, Request, Scan, Stand, Stands};
use crate::broker::topic::accepted;
use crate::broker::transfer::fact_of;

/// Messages in one read of a scan.
const READ_MESSAGES: usize = 256;
/// Bytes of bodies in one read of a scan.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Accepted messages that a scan of a FIFO topic looks for, as a multiple of the limit: some of them wait
/// for others.
const FIFO_DEPTH: usize = 8;

/// A queue, where the group stands in it, and what lies there.
struct Seen {
    stand: Stand,
    scan: Option<Scan>,
    read: Vec<Envelope>,
}

impl Poll<'_> {
    pub(super) async fn visit_scanning(
        &self,
        shards: &[(ShardId, Vec<u32>)],
        told: &Told,
        limit: usize,
    ) -> Result<Visit, BrokerError> {
        let mut visit = Visit::default();
        let looks = shards
            .iter()
            .map(|(shard, queues)| self.look(*shard, queues, limit));
        let mut refused = None;
        let mut found = Vec::new();
        for (index, looked) in futures::future::join_all(looks)
            .await
            .into_iter()
            .enumerate()
        {
            match looked {
                Ok(stands) => {
                    if !self.meets_queues() || stands.stands.iter().all(|stand| stand.known) {
                        told.met(shards[index].0);
                    }
                    found.push((index, stands));
                }
                Err(error) => refused = Some(error),
            }
        }
        let all = || found.iter().flat_map(|(_, stands)| &stands.stands);
        visit.next_due_ms = found
            .iter()
            .filter_map(|(_, stands)| stands.next_due_ms)
            .min();
        let repeats: Vec<_> = all()
            .flat_map(|stand| stand.repeats.iter().cloned())
            .collect();
        if self.topic.kind() == TopicKind::Fifo && !repeats.is_empty() {
            visit.leases = repeats;
            self.renew(&visit).await?;
            return Ok(visit);
        }
        if self.group.start_at_ms.is_some() {
            let new = all().filter(|stand| !stand.known).map(|stand| stand.queue);
            let new: Vec<u32> = new.collect();
            if !new.is_empty() {
                self.start(new).await?;
                visit.advanced = true;
                return Ok(visit);
            }
        }
        let mut seen: Vec<Vec<Seen>> = shards.iter().map(|_| Vec::new()).collect();
        for (index, stands) in found {
            let scans = stands
                .stands
                .into_iter()
                .map(|stand| self.scan(stand, limit));
            seen[index] = futures::future::try_join_all(scans).await?;
        }
        self.pop_seen(shards, &mut seen, limit, &mut visit).await?;
        match refused {
            Some(error) if visit.leases.is_empty() && !visit.advanced => Err(error),
            _ => Ok(visit),
        }
    }

    /// Takes from each shard its share of what was seen.
    async fn pop_seen(
        &self,
        shards: &[(ShardId, Vec<u32>)],
        seen: &mut [Vec<Seen>],
        limit: usize,
        visit: &mut Visit,
    ) -> Result<(), BrokerError> {
        let mut asked = vec![false; shards.len()];
        let mut refused = None;
        // Some of what was seen waits for others: what a shard leaves goes to those not asked yet.
        loop {
            let room = limit.saturating_sub(visit.leases.len());
            let shares = self.shares(seen, &asked, room);
            let mut pops = Vec::new();
            for (index, share) in shares.into_iter().enumerate() {
                let moves = seen[index].iter().any(|one| self.moves_without_share(one));
                if asked[index] || (share == 0 && !moves) {
                    continue;
                }
                asked[index] = true;
                let (shard, queues) = &shards[index];
                let seen = &mut seen[index];
                let scans = seen.iter_mut().filter_map(|one| one.scan.take()).collect();
                for envelope in seen.iter_mut().flat_map(|one| one.read.drain(..)) {
                    let place = (envelope.queue, envelope.offset);
                    visit.read.insert(place, envelope);
                }
                let mut pop = self.request(queues, share, scans);
                pop.scanned = true;
                pops.push(self.pop(*shard, pop));
            }
            if pops.is_empty() {
                break;
            }
            for found in futures::future::join_all(pops).await {
                match found {
                    Ok(found) => visit.add(found),
                    Err(error) => refused = Some(error),
                }
            }
        }
        match refused {
            Some(error) if visit.leases.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether there is something to decide in a queue even if nothing is to be delivered from it.
    fn moves_without_share(&self, one: &Seen) -> bool {
        let nothing_wanted = one.scan.as_ref().is_some_and(|s| s.accepted.is_empty());
        nothing_wanted || one.stand.dead || (!one.stand.known && self.group.from_latest)
    }

    async fn look(
        &self,
        shard: ShardId,
        queues: &[u32],
        limit: usize,
    ) -> Result<Stands, BrokerError> {
        let look = Look {
            group: self.group.id,
            topic: self.topic.id,
            queues: queues.to_vec(),
            limit: u32::try_from(limit).expect("a receive is bounded"),
            poll: self.poll_id(),
            by_priority: self.topic.kind() == TopicKind::Priority,
            attempts_max: self.attempts_max(),
        };
        match accepted(self.incarnation.ask(shard, Request::Look(look)).await?)? {
            Reply::Stands(stands) => Ok(stands),
            _ => Err(BrokerError::Confused("look")),
        }
    }

    /// Reads on from where a cursor stands, until enough is accepted or looked at.
    async fn scan(&self, stand: Stand, limit: usize) -> Result<Seen, BrokerError> {
        let (topic, queue) = (TopicId(self.topic.id), QueueId(stand.queue));
        let mut seen = Seen {
            stand,
            scan: None,
            read: Vec::new(),
        };
        if !seen.stand.known && self.group.from_latest {
            return Ok(seen);
        }
        let storage = self.incarnation.storage();
        let extent = storage.extent(topic, queue).unwrap_or_default();
        let from = seen.stand.next;
        let mut to = from.max(extent.first.0);
        let room = seen.stand.parking_room as usize;
        let most = match self.topic.kind() {
            TopicKind::Priority => room.min(limits::PRIORITY_WINDOW) + limit,
            TopicKind::Fifo => limit * FIFO_DEPTH,
            _ => limit,
        };
        let mut accepted = Vec::new();
        while accepted.len() < most
            && to < extent.next.0
            && to - from < limits::SCAN_MESSAGES_MAX as u64
        {
            let limit = ReadLimit {
                messages: READ_MESSAGES,
                bytes: READ_BYTES,
            };
            let read = match storage.read(topic, queue, Offset(to), limit).await {
                Ok(read) => read,
                Err(ReadError::Trimmed { first, .. }) => {
                    to = first.0;
                    continue;
                }
                Err(error @ ReadError::Damaged { .. }) => {
                    // It can not be judged, so it is passed over like one that is not wanted.
                    tracing::error!(%error, "a message could not be delivered");
                    to += 1;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let Some(last) = read.last() else { break };
            to = last.offset + 1;
            for envelope in read {
                if self
                    .consumer
                    .filter
                    .as_ref()
                    .is_none_or(|f| f.matches(&envelope))
                {
                    accepted.push(fact_of(&envelope, self.topic));
                    seen.read.push(envelope);
                }
            }
        }
        seen.scan = (to > from).then_some(Scan {
            queue: queue.0,
            from,
            to,
            accepted,
        });
        Ok(seen)
    }

    /// How many each shard is asked for: the greatest priorities first, else a fair share.
    fn shares(&self, seen: &[Vec<Seen>], asked: &[bool], limit: usize) -> Vec<usize> {
        let mut waiting: Vec<(Reverse<i32>, usize, usize)> = Vec::new();
        for (shard, seen) in seen.iter().enumerate() {
            if asked[shard] {
                continue;
            }
            let ready = seen.iter().flat_map(|one| one.stand.ready.iter().copied());
            let scans = seen.iter().filter_map(|one| one.scan.as_ref());
            let fresh = scans.flat_map(|scan| scan.accepted.iter().map(|fact| fact.priority));
            // By turns among equals, beginning with the shard whose turn it is.
            let ranked = ready.chain(fresh).enumerate();
            waiting.extend(ranked.map(|(place, priority)| (Reverse(priority), place, shard)));
        }
        if self.topic.kind() == TopicKind::Priority {
            waiting.sort_unstable();
        } else {
            waiting.sort_unstable_by_key(|&(_, place, shard)| (place, shard));
        }
        let mut shares = vec![0; seen.len()];
        for (_, _, shard) in waiting.into_iter().take(limit) {
            shares[shard] += 1;
        }
        shares
    }

    /// A repeated poll gets the same batch for the time that it asks for.
    async fn renew(&self, visit: &Visit) -> Result<(), BrokerError> {
        let mut leases: Vec<(u32, u64)> = visit
            .leases
            .iter()
            .map(|lease| (lease.handle.queue, lease.handle.lease))
            .collect();
        leases.sort_unstable();
        leases.dedup();
        for (queue, lease) in leases {
            let renew = Renew {
                group: self.group.id,
                topic: self.topic.id,
                queue,
                lease,
                invisible_ms: i64::try_from(self.receive.invisible.as_millis()).unwrap_or(i64::MAX),
            };
            let shard = self.incarnation.shard(self.topic.id, queue);
            accepted(self.incarnation.ask(shard, Request::Renew(renew)).await?)?;
        }
        Ok(())
    }
}
