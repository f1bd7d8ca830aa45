//! What groups have consumed in one shard: part of the shard's state.
//!
//! Cursors by group, topic and queue, and the transfers that leave this shard. Deciding reads and
//! changes nothing; [`Consumed::apply`] is the only mutation. No I/O, no clock, no async.
//!
//! There may be a million cursors, most of which hold nothing of queues that have nothing new. So what is asked
//! often looks at those alone that matter: a poll at the queues that are [`ready`], the upkeep of leases at the
//! cursors that hold something.
//!
//! A message that was delivered too often, or that its consumer gives up, leaves its group by a
//! [`Transfer`]: the intent, logged here. Its effect, a message in the group's dead letter topic, may
//! lie in another shard; it is keyed by this shard and the transfer's sequence, so doing it twice adds
//! nothing. A redrive is the same the other way round.

mod asked;
pub(super) mod kept;
mod lite;
mod parts;
pub mod ready;
mod snapshot;
mod transfers;

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::message::{Offset, ShardId};
use millpond_proto::time::Timestamp;
use millpond_storage::log::Record;

use crate::broker::consume::kept::Asked;
use crate::broker::consume::ready::Ready;
use crate::broker::consume::transfers::bury_dead;
use crate::broker::group::{Choice, Chosen, Cursor, Held, Wish};
use crate::broker::record::{
    Acked, Backoff, Change, Holder, Moved, Popped, Renewed, Returned, Scanned, Started, Transfer,
    Trimmed,
};
use crate::broker::request::{
    Ack, Acks, Handle, Lease, Leases, Move, Pop, Reason, Renew, Reply, Reset, Return, Scan,
};
use crate::broker::state::{Decision, Moment};

/// Where effects are keyed by the shard of their intent: above every id of a group.
const SHARD_BITS: u32 = 48;

/// Group, topic and queue.
type Key = (u64, u64, u32);

/// What groups have consumed.
#[derive(Debug, Default, PartialEq)]
pub struct Consumed {
    cursors: BTreeMap<Key, Cursor>,
    /// Those cursors that hold something.
    holding: BTreeSet<Key>,
    ready: Ready,
    /// Where groups stand in lite queues of which they hold nothing.
    resting: BTreeMap<Key, u64>,
    /// First offset kept, of queues that do not begin at 0.
    firsts: BTreeMap<(u64, u32), u64>,
    /// Under way, by sequence.
    transfers: BTreeMap<u64, Transfer>,
    last_transfer: u64,
}

/// Next offset of the queues of a shard.
pub type Ends = BTreeMap<(u64, u32), u64>;

/// The key of effects whose intents a shard logged for a group.
#[must_use]
pub fn origin(group: u64, shard: ShardId) -> u64 {
    group | (u64::from(shard.0) + 1) << SHARD_BITS
}

/// The group of such a key.
#[must_use]
pub fn group_of(origin: u64) -> Option<u64> {
    (origin >> SHARD_BITS != 0).then_some(origin & ((1 << SHARD_BITS) - 1))
}

/// The invisible time after so many deliveries, ms.
#[must_use]
pub fn backoff_ms(backoff: &Backoff, attempts: u32) -> i64 {
    let index = attempts.max(1) as usize - 1;
    if let Some(last) = backoff.list_ms.last() {
        return backoff.list_ms.get(index).copied().unwrap_or(*last);
    }
    let power = i32::try_from(index).unwrap_or(i32::MAX);
    let exact = backoff.initial_ms as f64 * backoff.multiplier.powi(power);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a cast of a float saturates"
    )]
    let ms = exact as i64;
    ms.clamp(0, backoff.max_ms.max(0))
}

impl Consumed {
    /// Decides on a poll.
    ///
    /// # Panics
    /// Never: what is counted is bounded.
    pub fn decide_pop(&self, pop: &Pop, ends: &Ends, moment: Moment) -> Decision {
        let mut records = Vec::new();
        let mut reply = Leases {
            group: pop.group,
            topic: pop.topic,
            ..Leases::default()
        };
        let mut sequence = self.last_transfer;
        let now = moment.now;
        let asked = self.asked(pop, now);
        let is_counted = matches!(asked, Asked::Ready(_));
        for queue in asked {
            // There is enough of them for this poll and the next: the others need not be looked into.
            if is_counted
                && reply.leases.len() >= pop.limit as usize
                && reply.more as usize >= limits::RECEIVE_BATCH_MAX
            {
                break;
            }
            let end = Offset(ends.get(&(pop.topic, queue)).copied().unwrap_or(0));
            let known = self.cursors.get(&(pop.group, pop.topic, queue));
            if known.is_none() && pop.only_known {
                reply.unstarted.push(queue);
                continue;
            }
            // Also in an empty queue: the first message that comes is then new to the group.
            if known.is_none() && pop.from_latest {
                let started = Started {
                    group: pop.group,
                    topic: pop.topic,
                    queue,
                    next: end.0,
                    at_ms: now.as_ms(),
                };
                records.push(state(&Change::Started(started)));
                reply.advanced = true;
                continue;
            }
            let new = Cursor::starting_at(self.first(pop.topic, queue));
            let cursor = known.unwrap_or(&new);
            let wish = Wish {
                now,
                end,
                limit: (pop.limit as usize).saturating_sub(reply.leases.len()),
                attempts_max: pop.attempts_max,
                by_priority: pop.by_priority,
                scan: pop.scans.iter().find(|scan| scan.queue == queue),
            };
            let nothing = Scan {
                queue,
                ..Scan::default()
            };
            let wish = Wish {
                scan: wish.scan.or_else(|| pop.scanned.then_some(&nothing)),
                ..wish
            };
            let choice = cursor.decide(&wish);
            if !pop.scanned {
                let most = choice.chosen.len() + limits::RECEIVE_BATCH_MAX;
                let more = cursor.available(now, end, most) - choice.chosen.len();
                // Those that are dead are seen but never given.
                let more = more.saturating_sub(choice.dead.len());
                reply.more += u32::try_from(more).expect("counted up to a bound");
            }
            if let Some(buried) = bury_dead(pop, queue, cursor, &choice, &mut sequence, now) {
                records.push(buried);
                reply.buried = true;
            }
            reply.full |= cursor.is_full() && cursor.next() < end;
            reply.advanced |= choice.next > cursor.next().0;
            records.extend(delivery(pop, queue, cursor, &choice, moment));
            reply.leases.extend(choice.chosen.iter().map(|one| Lease {
                handle: Handle {
                    queue,
                    offset: one.offset.0,
                    lease: moment.random,
                },
                attempt: one.attempt,
            }));
            reply.next_due_ms = earliest(reply.next_due_ms, cursor.next_due(now));
        }
        let others = self.ready.of((pop.topic, pop.group));
        let others = others.and_then(|stirs| stirs.next_due(now));
        reply.next_due_ms = earliest(reply.next_due_ms, others);
        Decision {
            records,
            reply: Reply::Leases(reply),
        }
    }

    /// Decides on acknowledgements.
    pub fn decide_ack(&self, ack: &Ack, now: Timestamp) -> Decision {
        let mut by_queue: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let mut acknowledged = Vec::with_capacity(ack.handles.len());
        // The deliveries of a batch lie side by side, mostly in one queue.
        for run in ack.handles.chunk_by(|one, other| one.queue == other.queue) {
            let Some(queue) = run.first().map(|handle| handle.queue) else {
                continue;
            };
            let cursor = self.known((ack.group, ack.topic, queue));
            let cursor = cursor.as_deref();
            let mut current = Vec::with_capacity(run.len());
            for handle in run {
                let held = cursor.map_or(Held::Unknown, |cursor| {
                    cursor.held(Offset(handle.offset), handle.lease, now)
                });
                if held == Held::Current {
                    current.push(handle.offset);
                }
                acknowledged.push(matches!(held, Held::Current | Held::Acknowledged));
            }
            if !current.is_empty() {
                by_queue.entry(queue).or_default().append(&mut current);
            }
        }
        let records = by_queue.into_iter().map(|(queue, offsets)| {
            state(&Change::Acked(Acked {
                group: ack.group,
                topic: ack.topic,
                queue,
                offsets,
                at_ms: now.as_ms(),
            }))
        });
        Decision {
            records: records.collect(),
            reply: Reply::Acks(Acks { acknowledged }),
        }
    }

    /// Decides on a change of invisible time.
    pub fn decide_move(&self, change: &Move, moment: Moment) -> Decision {
        let handle = &change.handle;
        match self.held(change.group, change.topic, handle, moment.now) {
            Held::Current => {
                let cursor = self
                    .cursors
                    .get(&(change.group, change.topic, handle.queue));
                let attempts = cursor.map_or(0, |cursor| cursor.attempts(handle.offset));
                let backoff = change.backoff.as_ref().map(|b| backoff_ms(b, attempts));
                let invisible_ms = backoff.unwrap_or(change.invisible_ms);
                let record = Moved {
                    group: change.group,
                    topic: change.topic,
                    queue: handle.queue,
                    offset: handle.offset,
                    lease: moment.random,
                    until_ms: moment.now.as_ms().saturating_add(invisible_ms),
                    at_ms: moment.now.as_ms(),
                    suspended: change.suspended,
                };
                Decision::change(&Change::Moved(record), Reply::Moved(moment.random))
            }
            held => Decision::reply(not_held(held)),
        }
    }

    /// Decides on the renewal of a lease.
    pub fn decide_renew(&self, renew: &Renew, now: Timestamp) -> Decision {
        let cursor = self.cursors.get(&(renew.group, renew.topic, renew.queue));
        let current = cursor.is_some_and(|cursor| cursor.is_current(renew.lease, now));
        if !current {
            return Decision::reply(Reply::done());
        }
        let record = Renewed {
            group: renew.group,
            topic: renew.topic,
            queue: renew.queue,
            lease: renew.lease,
            until_ms: now.as_ms().saturating_add(renew.invisible_ms),
            at_ms: now.as_ms(),
        };
        Decision::change(&Change::Renewed(record), Reply::done())
    }

    /// Decides on the return of deliveries.
    pub fn decide_return(&self, back: &Return, now: Timestamp) -> Decision {
        let mut by_lease: BTreeMap<(u32, u64), Vec<u64>> = BTreeMap::new();
        for handle in &back.handles {
            if self.held(back.group, back.topic, handle, now) == Held::Current {
                let key = (handle.queue, handle.lease);
                by_lease.entry(key).or_default().push(handle.offset);
            }
        }
        let records = by_lease.into_iter().map(|((queue, lease), offsets)| {
            state(&Change::Returned(Returned {
                group: back.group,
                topic: back.topic,
                queue,
                lease,
                offsets,
                at_ms: now.as_ms(),
                unseen: back.unseen,
            }))
        });
        Decision {
            records: records.collect(),
            reply: Reply::done(),
        }
    }

    /// Decides where a group stands from now on.
    pub fn decide_reset(&self, reset: &Reset, now: Timestamp) -> Decision {
        let key = (reset.group, reset.topic, reset.queue);
        if reset.only_new && self.cursors.contains_key(&key) {
            return Decision::reply(Reply::done());
        }
        let started = Started {
            group: reset.group,
            topic: reset.topic,
            queue: reset.queue,
            next: reset.next,
            at_ms: now.as_ms(),
        };
        Decision::change(&Change::Started(started), Reply::done())
    }

    /// Keeps what is new of it, of queues that this shard has messages of.
    pub fn decide_trim(&self, trimmed: Trimmed, ends: &Ends) -> Decision {
        let mut firsts = trimmed.firsts;
        firsts.retain(|first| {
            ends.contains_key(&(first.topic, first.queue))
                && self.first(first.topic, first.queue).0 < first.offset
        });
        if firsts.is_empty() {
            return Decision::reply(Reply::done());
        }
        Decision::change(&Change::Trimmed(Trimmed { firsts }), Reply::done())
    }

    /// Applies a change; gives back one that is none of its business.
    pub fn apply(&mut self, change: Change, ends: &Ends) -> Option<Change> {
        match change {
            Change::Popped(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| cursor.popped(&record));
            }
            Change::Scanned(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| cursor.scanned(&record));
            }
            Change::Started(record) => {
                let key = (record.group, record.topic, record.queue);
                self.set(key, ends, Cursor::starting_at(Offset(record.next)));
            }
            Change::CursorSet(record) => {
                let key = (record.group, record.topic, record.queue);
                self.set(key, ends, Cursor::restore(&record));
            }
            Change::Acked(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| cursor.acked(&record));
            }
            Change::Moved(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| cursor.moved(&record));
            }
            Change::Renewed(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| cursor.renewed(&record));
            }
            Change::Returned(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| cursor.returned(&record));
            }
            Change::Reopened(record) => {
                let key = (record.group, record.topic, record.queue);
                self.change(key, ends, |cursor| {
                    cursor.reopened(&record.fact, 0, Timestamp(record.at_ms));
                });
            }
            Change::TransfersBegun(begun) => {
                for transfer in begun.transfers {
                    let key = (transfer.group, transfer.topic, transfer.queue);
                    self.change(key, ends, |cursor| cursor.forget(transfer.offset));
                    self.last_transfer = self.last_transfer.max(transfer.sequence);
                    self.transfers.insert(transfer.sequence, transfer);
                }
            }
            Change::LitesGone(gone) => self.lites_gone(&gone),
            // Of no concern to any cursor.
            Change::LiteMade(_) | Change::LiteLetGo(_) => {}
            Change::TransfersEnded(ended) => self.ended(&ended, ends),
            Change::Trimmed(trimmed) => self.trim(&trimmed, ends),
            other => return Some(other),
        }
        None
    }

    fn held(&self, group: u64, topic: u64, handle: &Handle, now: Timestamp) -> Held {
        let cursor = self.known((group, topic, handle.queue));
        cursor.map_or(Held::Unknown, |c| {
            c.held(Offset(handle.offset), handle.lease, now)
        })
    }

    fn first(&self, topic: u64, queue: u32) -> Offset {
        Offset(self.firsts.get(&(topic, queue)).copied().unwrap_or(0))
    }
}

/// The record of a choice; none when it changes nothing.
fn delivery(
    pop: &Pop,
    queue: u32,
    cursor: &Cursor,
    choice: &Choice,
    moment: Moment,
) -> Option<Record> {
    let next = cursor.next();
    let until_ms = moment.now.as_ms().saturating_add(pop.invisible_ms);
    let holder = pop.holder.clone().map(|holder| Holder {
        since_ms: moment.now.as_ms(),
        ..holder
    });
    let (again, fresh): (Vec<&Chosen>, Vec<&Chosen>) =
        choice.chosen.iter().partition(|one| one.offset < next);
    let again = again.into_iter().map(|one| one.offset.0).collect();
    if !pop.scanned {
        let record = Popped {
            group: pop.group,
            topic: pop.topic,
            queue,
            lease: moment.random,
            until_ms,
            again,
            fresh_from: next.0,
            fresh: u32::try_from(fresh.len()).expect("a pop is bounded by its limit"),
            holder,
        };
        return (!choice.chosen.is_empty()).then(|| state(&Change::Popped(record)));
    }
    if choice.chosen.is_empty() && choice.parked.is_empty() && choice.next == next.0 {
        return None;
    }
    let facts = fresh.into_iter().map(|one| one.facts.at(one.offset.0));
    let parked = choice
        .parked
        .iter()
        .map(|&(offset, facts)| facts.at(offset));
    let record = Scanned {
        group: pop.group,
        topic: pop.topic,
        queue,
        lease: moment.random,
        until_ms,
        next: choice.next,
        again,
        fresh: facts.collect(),
        parked: parked.collect(),
        holder,
    };
    Some(state(&Change::Scanned(record)))
}

fn not_held(held: Held) -> Reply {
    let reason = match held {
        Held::Acknowledged => Reason::HandleAcknowledged,
        Held::Current | Held::Expired | Held::Unknown => Reason::HandleExpired,
    };
    Reply::refused(reason, "")
}

fn earliest(known: Option<i64>, due: Option<Timestamp>) -> Option<i64> {
    [known, due.map(Timestamp::as_ms)]
        .into_iter()
        .flatten()
        .min()
}

fn state(change: &Change) -> Record {
    Record::State(change.to_bytes())
}
