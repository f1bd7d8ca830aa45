//! Groups in lite queues: polls, where they start, and what is kept of a group that is done with one.
//!
//! A cursor in a lite queue is one in the real queue that is shown the lite topic's messages alone, in one
//! message group. A group that holds nothing of a lite topic is kept there as a bare offset, because there are
//! millions of them (`Consumed::rest`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::consume::transfers::bury_dead;
use crate::broker::consume::{Consumed, Key, delivery, earliest, state};
use crate::broker::group::{Cursor, Wish};
use crate::broker::lite::index::Lites;
use crate::broker::lite::{
    EndLites, ListLites, LitePage, LiteProgress, LiteStand, LiteTopic, LitesGone, ORDER, PopLite,
    StartLite, Touched, is_lite, real,
};
use crate::broker::record::{Change, Fact, Renewed, Started};
use crate::broker::request::{Handle, Lease, Leases, Pop, QueueProgress, Reply, Scan};
use crate::broker::state::{Decision, Moment};

/// Lite topics that end in one record.
const ENDS_AT_ONCE: usize = 1024;

impl Consumed {
    /// Decides on a poll of lite topics.
    ///
    /// # Panics
    /// Never: what is counted is bounded.
    pub fn decide_pop_lite(&self, asked: &PopLite, lites: &Lites, moment: Moment) -> Decision {
        let now = moment.now;
        if asked.again {
            return self.decide_again(asked, lites, now);
        }
        let mut records = Vec::new();
        let mut reply = Leases {
            group: asked.group,
            topic: asked.topic,
            ..Leases::default()
        };
        let mut sequence = self.last_transfer;
        let pop = Pop {
            group: asked.group,
            topic: asked.topic,
            invisible_ms: asked.invisible_ms,
            holder: asked.holder.clone(),
            scanned: true,
            ..Pop::default()
        };
        for (index, name) in (0..).zip(&asked.names) {
            let room = (asked.limit as usize).saturating_sub(reply.leases.len());
            if room == 0 {
                break;
            }
            let mut stand = LiteStand {
                index,
                next_due_ms: None,
            };
            let Some(queue) = lites.find(asked.topic, name) else {
                reply.lites.push(stand);
                continue;
            };
            let key = (asked.group, asked.topic, queue);
            let known = self.known(key);
            let new = Cursor::default();
            let cursor = known.as_deref().unwrap_or(&new);
            let scan = fresh(cursor, lites, key, room, now);
            let choice = cursor.decide(&Wish {
                now,
                end: Offset(scan.to),
                limit: room,
                attempts_max: asked.attempts_max,
                by_priority: false,
                scan: Some(&scan),
            });
            if let Some(buried) = bury_dead(&pop, queue, cursor, &choice, &mut sequence, now) {
                records.push(buried);
                reply.buried = true;
            }
            records.extend(delivery(&pop, queue, cursor, &choice, moment));
            reply.leases.extend(choice.chosen.iter().map(|one| Lease {
                handle: Handle {
                    queue,
                    offset: one.offset.0,
                    lease: moment.random,
                },
                attempt: one.attempt,
            }));
            let due = if choice.chosen.is_empty() {
                cursor.next_due(now)
            } else {
                let until = now.as_ms().saturating_add(asked.invisible_ms);
                Some(Timestamp(until))
            };
            stand.next_due_ms = due.map(Timestamp::as_ms);
            reply.next_due_ms = earliest(reply.next_due_ms, stand.next_due_ms.map(Timestamp));
            reply.lites.push(stand);
        }
        Decision {
            records,
            reply: Reply::Leases(reply),
        }
    }

    /// Decides on a poll that is asked again: it gets what its attempt holds, for the time that it asks for.
    fn decide_again(&self, asked: &PopLite, lites: &Lites, now: Timestamp) -> Decision {
        let poll = asked.holder.as_ref().map_or(0, |holder| holder.poll);
        let until_ms = now.as_ms().saturating_add(asked.invisible_ms);
        let mut records = Vec::new();
        let mut reply = Leases {
            group: asked.group,
            topic: asked.topic,
            ..Leases::default()
        };
        for (index, name) in (0..).zip(&asked.names) {
            let queue = lites.find(asked.topic, name);
            let key = queue.map(|queue| (asked.group, asked.topic, queue));
            // One at rest holds nothing.
            let Some((key, cursor)) = key.and_then(|key| Some((key, self.cursors.get(&key)?)))
            else {
                continue;
            };
            let held = cursor.held_by_poll(poll, now);
            if held.is_empty() {
                continue;
            }
            let (group, topic, queue) = key;
            let mut leases: Vec<u64> = held.iter().map(|(_, lease, _)| *lease).collect();
            leases.dedup();
            records.extend(leases.into_iter().map(|lease| {
                state(&Change::Renewed(Renewed {
                    group,
                    topic,
                    queue,
                    lease,
                    until_ms,
                    at_ms: now.as_ms(),
                }))
            }));
            let again = held.into_iter().map(|(offset, lease, attempt)| Lease {
                handle: Handle {
                    queue,
                    offset: offset.0,
                    lease,
                },
                attempt,
            });
            reply.leases.extend(again);
            reply.next_due_ms = Some(until_ms);
            reply.lites.push(LiteStand {
                index,
                next_due_ms: Some(until_ms),
            });
        }
        Decision {
            records,
            reply: Reply::Leases(reply),
        }
    }

    /// Decides where a group stands in lite topics from now on.
    pub fn decide_start_lite(&self, start: &StartLite, lites: &Lites, now: Timestamp) -> Decision {
        let mut records = Vec::new();
        for name in &start.names {
            let Some(queue) = lites.find(start.topic, name) else {
                continue;
            };
            let key = (start.group, start.topic, queue);
            if start.only_new && self.known(key).is_some() {
                continue;
            }
            let Some(lite) = lites.get(start.topic, queue) else {
                continue;
            };
            let end = lite.offsets.last().map_or(0, |last| last + 1);
            let next = match (start.offset, start.tail) {
                (Some(offset), _) => offset.min(end),
                (None, 0) => end,
                (None, tail) => {
                    let tail = usize::try_from(tail).unwrap_or(usize::MAX);
                    lite.offsets.tail(tail).unwrap_or(end)
                }
            };
            records.push(state(&Change::Started(Started {
                group: start.group,
                topic: start.topic,
                queue,
                next,
                at_ms: now.as_ms(),
            })));
        }
        Decision {
            records,
            reply: Reply::done(),
        }
    }

    /// Lite topics of a parent, or one with where each group stands.
    pub fn list_lites(&self, asked: &ListLites, lites: &Lites, now: Timestamp) -> Reply {
        let shown = |queue, groups| {
            let lite = lites.get(asked.topic, queue)?;
            Some(LiteTopic {
                queue,
                groups,
                name: lite.name.to_string(),
                messages: lite.offsets.count() as u64,
                stored_at_ms: lite.stored_at_ms,
            })
        };
        let mut page = LitePage {
            count: lites.count(asked.topic) as u64,
            ..LitePage::default()
        };
        if let Some(only) = &asked.only {
            if let Some(queue) = lites.find(asked.topic, only) {
                let groups = self.in_lite(asked.topic, queue, lites, now);
                page.topics.extend(shown(queue, groups));
            }
            return Reply::LitePage(page);
        }
        let mut found = lites.of_topic(asked.topic, asked.from);
        let topics = found.by_ref().take(asked.limit as usize);
        let topics = topics.filter_map(|(queue, _)| shown(queue, Vec::new()));
        page.topics = topics.collect();
        page.next = found.next().map(|(queue, _)| queue);
        Reply::LitePage(page)
    }

    /// Decides on the end of lite topics.
    pub fn decide_end_lites(&self, end: &EndLites, lites: &Lites, now: Timestamp) -> Decision {
        let mut page = LitePage::default();
        let queues: Vec<u32> = match &end.only {
            Some(only) => lites.find(end.topic, only).into_iter().collect(),
            None => {
                let mut looked = lites.of_topic(end.topic, end.from);
                let some = looked.by_ref().take(end.limit as usize);
                let before = now.as_ms().saturating_sub(end.expiry_ms);
                let old = some.filter(|(_, lite)| lite.stored_at_ms <= before);
                let old = old.map(|(queue, _)| queue).collect();
                page.next = looked.next().map(|(queue, _)| queue);
                old
            }
        };
        page.count = queues.len() as u64;
        let records = queues.chunks(ENDS_AT_ONCE).map(|queues| {
            state(&Change::LitesGone(LitesGone {
                topic: end.topic,
                queues: queues.to_vec(),
                at_ms: now.as_ms(),
            }))
        });
        Decision {
            records: records.collect(),
            reply: Reply::LitePage(page),
        }
    }

    /// Every group that listens to a lite topic, or has read it, is done with the messages before this one; none:
    /// there is no such group.
    pub(in crate::broker) fn lite_floor(&self, topic: u64, queue: u32) -> Option<u64> {
        let groups = self.groups_of(topic).into_iter();
        let cursors = groups.filter_map(|group| self.known((group, topic, queue)));
        cursors.map(|cursor| cursor.ack_floor().0).min()
    }

    /// Whether a group could be given something of a lite queue now, as far as its cursor tells.
    pub(in crate::broker) fn is_open(&self, touched: &Touched, now: Timestamp) -> bool {
        let key = (touched.group, touched.topic, touched.queue);
        let cursor = self.cursors.get(&key);
        cursor.is_none_or(|cursor| cursor.in_flight(now) == 0)
    }

    /// A group's cursor, also where nothing is kept of it but its place.
    pub(super) fn known(&self, key: Key) -> Option<Cow<'_, Cursor>> {
        match self.cursors.get(&key) {
            Some(cursor) => Some(Cow::Borrowed(cursor)),
            None if is_lite(key.2) => {
                let next = self.resting.get(&key)?;
                Some(Cow::Owned(Cursor::starting_at(Offset(*next))))
            }
            None => None,
        }
    }

    /// Forgets what groups have consumed of lite topics that are no more.
    pub(super) fn lites_gone(&mut self, gone: &LitesGone) {
        for group in self.groups_of(gone.topic) {
            for &queue in &gone.queues {
                self.cursors.remove(&(group, gone.topic, queue));
                self.holding.remove(&(group, gone.topic, queue));
                self.resting.remove(&(group, gone.topic, queue));
            }
        }
    }

    /// Where a group stands in its lite topics, added up by real queue.
    pub(super) fn lite_progress(
        &self,
        group: u64,
        lites: &Lites,
        now: Timestamp,
    ) -> Vec<QueueProgress> {
        let mut queues: BTreeMap<(u64, u32), QueueProgress> = BTreeMap::new();
        let range = (group, 0, 0)..=(group, u64::MAX, u32::MAX);
        let cursors = self.cursors.range(range.clone());
        let cursors = cursors.map(|(key, cursor)| (key, Cow::Borrowed(cursor)));
        let resting = self.resting.range(range);
        let resting = resting.map(|(key, next)| {
            let cursor = Cursor::starting_at(Offset(*next));
            (key, Cow::Owned(cursor))
        });
        for (&(_, topic, queue), cursor) in cursors.chain(resting) {
            if !is_lite(queue) {
                continue;
            }
            let (next, floor) = (cursor.next().0, cursor.ack_floor().0);
            let one = lite_lag(&cursor, topic, queue, lites, now);
            let sum = queues.entry((topic, real(queue))).or_insert(QueueProgress {
                topic,
                queue: real(queue),
                ack_floor: u64::MAX,
                ..QueueProgress::default()
            });
            // The oldest place that still has something to deliver is where the group stands.
            if one.lag > 0 {
                sum.ack_floor = sum.ack_floor.min(floor);
            }
            sum.next = sum.next.max(next);
            sum.in_flight += one.in_flight;
            sum.lag += one.lag;
        }
        let mut queues: Vec<QueueProgress> = queues.into_values().collect();
        for queue in &mut queues {
            queue.ack_floor = queue.ack_floor.min(queue.next);
        }
        queues
    }

    fn in_lite(&self, topic: u64, queue: u32, lites: &Lites, now: Timestamp) -> Vec<LiteProgress> {
        let groups = self.groups_of(topic).into_iter();
        let groups = groups.filter_map(|group| {
            let cursor = self.known((group, topic, queue))?;
            let mut progress = lite_lag(&cursor, topic, queue, lites, now);
            progress.group = group;
            Some(progress)
        });
        groups.collect()
    }
}

/// What lies behind a cursor of a lite queue; nothing while it holds something back.
fn fresh(cursor: &Cursor, lites: &Lites, key: Key, room: usize, now: Timestamp) -> Scan {
    let (_, topic, queue) = key;
    let mut scan = Scan {
        queue,
        from: cursor.next().0,
        to: cursor.next().0,
        ..Scan::default()
    };
    let Some(lite) = lites.get(topic, queue) else {
        return scan;
    };
    if cursor.in_flight(now) > 0 {
        return scan;
    }
    // Those that come back first are not taken off: some of them may be dead.
    let offsets = lite.offsets.from(scan.from).take(room);
    let accepted = offsets.map(|offset| Fact {
        offset,
        message_group: ORDER,
        priority: 0,
    });
    scan.accepted = accepted.collect();
    scan.to = scan
        .accepted
        .last()
        .map_or(scan.from, |fact| fact.offset + 1);
    scan
}

fn lite_lag(
    cursor: &Cursor,
    topic: u64,
    queue: u32,
    lites: &Lites,
    now: Timestamp,
) -> LiteProgress {
    let lite = lites.get(topic, queue);
    let behind = lite.map_or(0, |lite| lite.offsets.count_from(cursor.next().0));
    LiteProgress {
        group: 0,
        in_flight: cursor.in_flight(now),
        // No end: what the cursor itself knows of.
        lag: cursor.lag(cursor.next()) + behind as u64,
    }
}
