//! Questions about what groups have consumed; nothing here changes anything.

use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::consume::{Consumed, Ends, earliest};
use crate::broker::group::stir::Stir;
use crate::broker::group::{Cursor, Wish};
use crate::broker::lite::index::Lites;
use crate::broker::lite::{is_lite, real};
use crate::broker::request::{
    Fate, FateKind, Fates, FatesOf, Handle, HeldMessage, HeldMessages, InFlight, Lease, Look,
    Outstanding, Progress, QueueProgress, Reply, Stand, Stands, Stored,
};

impl Consumed {
    /// Where the cursors of a poll stand.
    pub fn look(&self, look: &Look, now: Timestamp) -> Reply {
        let mut reply = Stands::default();
        let stirs = self.ready.of((look.topic, look.group));
        // There is nothing to do in a queue that the group has met and where nothing stirs, if it is not to be given
        // again what it holds.
        let is_idle = |queue: &u32| match stirs.map(|stirs| stirs.stir(*queue)) {
            Some(Stir::At(_)) if look.poll != 0 => false,
            Some(stir) if !stir.is_due(now) => {
                let key = (look.group, look.topic, *queue);
                self.cursors.contains_key(&key)
            }
            _ => false,
        };
        for &queue in look.queues.iter().filter(|queue| !is_idle(queue)) {
            let known = self.cursors.get(&(look.group, look.topic, queue));
            let new = Cursor::starting_at(self.first(look.topic, queue));
            let cursor = known.unwrap_or(&new);
            let wish = Wish {
                now,
                end: cursor.next(),
                limit: look.limit as usize,
                attempts_max: look.attempts_max,
                by_priority: look.by_priority,
                scan: None,
            };
            let repeats = cursor.held_by_poll(look.poll, now).into_iter();
            let repeats = repeats.map(|(offset, lease, attempt)| Lease {
                handle: Handle {
                    queue,
                    offset: offset.0,
                    lease,
                },
                attempt,
            });
            reply.stands.push(Stand {
                queue,
                known: known.is_some(),
                next: cursor.next().0,
                ready: cursor.ready(&wish),
                parking_room: u32::try_from(cursor.parking_room()).unwrap_or(u32::MAX),
                repeats: repeats.collect(),
                dead: !cursor.decide(&wish).dead.is_empty(),
            });
            reply.next_due_ms = earliest(reply.next_due_ms, cursor.next_due(now));
        }
        let others = stirs.and_then(|stirs| stirs.next_due(now));
        reply.next_due_ms = earliest(reply.next_due_ms, others);
        Reply::Stands(reply)
    }

    /// Leases that are renewed while their holder lives and end within so many ms.
    pub fn renewable(&self, within_ms: i64, now: Timestamp) -> Reply {
        let before = Timestamp(now.as_ms().saturating_add(within_ms));
        let mut messages = Vec::new();
        for ((group, topic, queue), cursor) in self.holders() {
            for (lease, holder) in cursor.renewable(now, before) {
                messages.push(HeldMessage {
                    group,
                    topic,
                    handle: Handle {
                        queue,
                        offset: 0,
                        lease,
                    },
                    attempts: 0,
                    until_ms: 0,
                    holder: Some(holder),
                });
            }
        }
        Reply::Held(HeldMessages { messages })
    }

    /// What a group holds at `now`.
    pub fn in_flight(&self, asked: &InFlight, now: Timestamp) -> Reply {
        let cursors = self.holders_of(asked.group);
        let messages = cursors.flat_map(|((group, topic, queue), cursor)| {
            let held = cursor.pending().filter(|p| p.visible_at_ms > now.as_ms());
            held.map(move |pending| HeldMessage {
                group,
                topic,
                handle: Handle {
                    queue,
                    offset: pending.offset,
                    lease: pending.lease,
                },
                attempts: pending.attempts,
                until_ms: pending.visible_at_ms,
                holder: cursor.holder(pending.lease),
            })
        });
        let messages = messages.take(asked.limit as usize).collect();
        Reply::Held(HeldMessages { messages })
    }

    /// Where the groups stand with a message at `now`.
    pub fn fates(&self, of: &FatesOf, lites: &Lites, now: Timestamp) -> Reply {
        let is_there = |topic: u64, queue: u32| {
            (topic, real(queue)) == (of.topic, of.queue)
                && (!is_lite(queue) || lites.holds(topic, queue, of.offset))
        };
        let groups = self.groups_of(of.topic);
        let of_topic = |group: &u64| (*group, of.topic, 0)..=(*group, of.topic, u32::MAX);
        let cursors = groups.iter().flat_map(|g| self.cursors.range(of_topic(g)));
        let here = cursors.filter(|&(&(_, topic, queue), _)| is_there(topic, queue));
        let fates = here.map(|(&(group, ..), cursor)| {
            let pending = cursor.pending_one(of.offset);
            let kind = match &pending {
                Some(pending) if pending.visible_at_ms > now.as_ms() => FateKind::InFlight,
                Some(_) => FateKind::Waiting,
                None if cursor.is_parked(of.offset) => FateKind::Parked,
                None if of.offset < cursor.next().0 => FateKind::Done,
                None => FateKind::NotDelivered,
            };
            Fate {
                group,
                kind: kind.into(),
                attempts: pending.as_ref().map_or(0, |pending| pending.attempts),
                holder: pending
                    .as_ref()
                    .and_then(|pending| cursor.holder(pending.lease)),
                until_ms: pending.map(|pending| pending.visible_at_ms),
            }
        });
        let resting = groups.iter().flat_map(|g| self.resting.range(of_topic(g)));
        let resting = resting.filter(|&(&(_, topic, queue), _)| is_there(topic, queue));
        let resting = resting.map(|(&(group, ..), next)| Fate {
            group,
            kind: if of.offset < *next {
                FateKind::Done.into()
            } else {
                FateKind::NotDelivered.into()
            },
            ..Fate::default()
        });
        Reply::Fates(Fates {
            fates: fates.chain(resting).collect(),
        })
    }

    /// Messages that a group is not done with.
    pub fn outstanding(&self, asked: &Outstanding, ends: &Ends) -> Reply {
        let key = (asked.group, asked.topic, asked.queue);
        let new = Cursor::default();
        let cursor = self.cursors.get(&key).unwrap_or(&new);
        let end = ends.get(&(asked.topic, asked.queue)).copied().unwrap_or(0);
        let offsets = cursor.outstanding(Offset(asked.from), Offset(end));
        let offsets = offsets.take(asked.limit as usize).collect();
        Reply::Stored(Stored {
            offsets,
            ..Stored::default()
        })
    }

    /// Where a group stands.
    pub fn progress(&self, group: u64, ends: &Ends, lites: &Lites, now: Timestamp) -> Reply {
        let queues = self
            .of_group(group)
            .filter(|(key, _)| !is_lite(key.2))
            .map(|(&(_, topic, queue), cursor)| QueueProgress {
                topic,
                queue,
                ack_floor: cursor.ack_floor().0,
                next: cursor.next().0,
                in_flight: cursor.in_flight(now),
                lag: cursor.lag(Offset(ends.get(&(topic, queue)).copied().unwrap_or(0))),
            })
            .chain(self.lite_progress(group, lites, now))
            .collect();
        Reply::Progress(Progress { queues })
    }
}
