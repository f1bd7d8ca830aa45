//! What became of a message: where each group stands with it now, and what the log still tells.
//!
//! The first is asked of the shard's state and is exact. The second is read back from the shard's state
//! records ([`millpond_storage::log::history`]), which are kept as long as the log is: a trace says how far
//! back it looked, and whether that is all there was. Nothing is written for traces but the times in records
//! that are written anyway.

use std::collections::{BTreeMap, VecDeque};

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::ReadLimit;
use millpond_storage::log::history::History;

use crate::broker::lite::real;
use crate::broker::lite::topics::find;
use crate::broker::record::{
    Change, Fact, Holder, Popped, Returned, Scanned, Transfer, TransferKind,
};
use crate::broker::request::{Fate, FatesOf, Reply, Request};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError};

/// What became of a message.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The message, or why it can not be read.
    pub message: Result<Envelope, String>,
    /// Where the groups stand with it, by name.
    pub fates: Vec<(String, Fate)>,
    /// What the log tells, oldest first.
    pub events: Vec<Event>,
    /// How far back that goes.
    pub history: History,
    /// Whether the log tells of everything since the message was stored.
    pub is_complete: bool,
}

/// Something that happened to a message in a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The group's name; its number when it was deleted.
    pub group: String,
    /// What, in a word or two.
    pub what: &'static str,
    /// When; none in logs of early versions.
    pub at: Option<Timestamp>,
    /// Who got it.
    pub consumer: String,
    /// Which delivery this is, from 1, as far as that is known.
    pub attempt: Option<u32>,
    /// Until when it is invisible.
    pub until: Option<Timestamp>,
    /// Why, in words.
    pub why: String,
}

/// Reads the state records of a shard for what they say of one message.
#[derive(Debug, Default)]
struct Story {
    topic: u64,
    queue: u32,
    offset: u64,
    /// One group's alone.
    group: Option<u64>,
    tellings: BTreeMap<u64, Telling>,
    /// Transfers of the message, by sequence.
    transfers: BTreeMap<u64, u64>,
    /// By group.
    events: VecDeque<(u64, Event)>,
    forgotten: bool,
}

/// What the story knows of a group so far.
#[derive(Clone, Debug, Default)]
struct Telling {
    /// Where its cursor stands, once that was said.
    next: Option<u64>,
    /// Deliveries so far, once that is known.
    attempts: Option<u32>,
    lease: u64,
    /// Why the message comes back, when it does.
    comes_back: &'static str,
}

const TIME_ENDED: &str = "its invisible time ended without an acknowledgement";

impl Broker {
    /// What became of a message; in one group or in all.
    ///
    /// # Errors
    /// [`BrokerError`] when the topic or group is unknown, or the log can not be read.
    pub async fn trace(
        &self,
        topic: &TopicName,
        queue: QueueId,
        offset: Offset,
        group: Option<&GroupName>,
    ) -> Result<Trace, BrokerError> {
        let record = self.topic_record(topic)?;
        let group = group.map(|name| self.group_record(name)).transpose()?;
        let incarnation = self.incarnation()?;
        let storage = incarnation.storage();
        let extent = storage
            .extent(TopicId(record.id), queue)
            .unwrap_or_default();
        if queue.0 >= record.queues || offset >= extent.next {
            let allowed = format!(
                "queue 0 to {}, offset below {}",
                record.queues - 1,
                extent.next
            );
            return Err(BrokerError::OutOfBounds {
                what: "the message",
                found: format!("queue {queue}, offset {offset}"),
                allowed,
            });
        }
        let one = ReadLimit {
            messages: 1,
            bytes: 1,
        };
        let read = storage.read(TopicId(record.id), queue, offset, one).await;
        let message = match read {
            Ok(messages) => messages
                .into_iter()
                .find(|message| message.at() == offset)
                .ok_or("a later message of the same key took its place".to_owned()),
            Err(error @ (ReadError::Trimmed { .. } | ReadError::Damaged { .. })) => {
                Err(error.to_string())
            }
            Err(error) => return Err(error.into()),
        };
        let shard = incarnation.shard(record.id, queue.0);
        let asked = FatesOf {
            topic: record.id,
            queue: queue.0,
            offset: offset.0,
        };
        let Reply::Fates(fates) = accepted(incarnation.ask(shard, Request::Fates(asked)).await?)?
        else {
            return Err(BrokerError::Confused("trace"));
        };
        // Groups of lite topics note what they do with it under its lite queue.
        let lite = message.as_ref().ok().and_then(|m| m.lite_topic.as_deref());
        let lite = match lite {
            Some(name) => find(&incarnation, &record, name).await?,
            None => None,
        };
        let story = Story {
            topic: record.id,
            queue: lite.map_or(queue.0, |lite| lite.queue),
            offset: offset.0,
            group: group.as_ref().map(|group| group.id),
            ..Story::default()
        };
        let told = storage.history(shard, limits::TRACE_LOG_BYTES_MAX, story, Story::tell);
        let (story, history) = told.await?;
        let catalog = incarnation.catalog();
        let name = |id: u64| {
            let known = catalog.groups().find(|group| group.id == id);
            known.map_or_else(|| format!("(deleted, {id})"), |group| group.name.clone())
        };
        let wanted = |id: u64| group.as_ref().is_none_or(|group| group.id == id);
        let fates = fates.fates.into_iter().filter(|fate| wanted(fate.group));
        let stored = message.as_ref().map(|message| message.stored_at_ms).ok();
        let reaches_back = history
            .since_ms
            .zip(stored)
            .is_some_and(|(since, at)| since < at);
        Ok(Trace {
            is_complete: (history.is_whole || reaches_back)
                && history.damaged == 0
                && !story.forgotten,
            message,
            fates: fates.map(|fate| (name(fate.group), fate)).collect(),
            events: story
                .events
                .into_iter()
                .map(|(group, event)| Event {
                    group: name(group),
                    ..event
                })
                .collect(),
            history,
        })
    }
}

impl Story {
    /// Takes in the next record.
    fn tell(&mut self, record: &[u8]) {
        // What a later version wrote is passed over: it is about other things, or the shard was closed.
        if let Some(change) = Change::from_bytes(record) {
            self.take(&change);
        }
    }

    fn take(&mut self, change: &Change) {
        match change {
            Change::Popped(r) if self.is_about(r.group, r.topic, r.queue) => self.popped(r),
            Change::Scanned(r) if self.is_about(r.group, r.topic, r.queue) => self.scanned(r),
            Change::Acked(r)
                if self.is_about(r.group, r.topic, r.queue) && r.offsets.contains(&self.offset) =>
            {
                self.event(r.group, "acknowledged", r.at_ms, "");
            }
            Change::Moved(r)
                if self.is_about(r.group, r.topic, r.queue) && r.offset == self.offset =>
            {
                let telling = self.telling(r.group);
                telling.lease = r.lease;
                telling.comes_back = "its consumer asked for it again, or for more time that ended";
                self.event(
                    r.group,
                    "moved",
                    r.at_ms,
                    "its consumer changed the invisible time",
                );
                self.until(r.until_ms);
            }
            Change::Renewed(r) if self.is_about(r.group, r.topic, r.queue) => {
                let lease = self.telling(r.group).lease;
                if lease != 0 && lease == r.lease {
                    self.event(r.group, "renewed", r.at_ms, "its consumer is alive");
                    self.until(r.until_ms);
                }
            }
            Change::Returned(r)
                if self.is_about(r.group, r.topic, r.queue) && r.offsets.contains(&self.offset) =>
            {
                self.returned(r);
            }
            Change::TransfersBegun(begun) => {
                for transfer in &begun.transfers {
                    self.transferred(transfer, begun.at_ms);
                }
            }
            Change::TransfersEnded(ended) if ended.back => {
                for sequence in &ended.sequences {
                    if let Some(&group) = self.transfers.get(sequence) {
                        let why = "there was nowhere to put it; it is delivered again";
                        self.telling(group).comes_back = why;
                        self.event(group, "not buried", ended.at_ms, why);
                    }
                }
            }
            Change::Reopened(r)
                if self.is_about(r.group, r.topic, r.queue) && r.fact.offset == self.offset =>
            {
                let telling = self.telling(r.group);
                telling.attempts = Some(0);
                telling.comes_back = "its dead letter was redriven";
                self.event(r.group, "redriven", r.at_ms, "back from the dead letters");
            }
            Change::Started(r) if self.is_about(r.group, r.topic, r.queue) => {
                self.placed(r.group, r.next, r.at_ms);
            }
            Change::CursorSet(r) if self.is_about(r.group, r.topic, r.queue) => {
                self.placed(r.group, r.next, 0);
            }
            _ => {}
        }
    }

    fn popped(&mut self, record: &Popped) {
        let fresh = record.fresh_from..record.fresh_from + u64::from(record.fresh);
        let is_first = fresh.contains(&self.offset);
        if is_first || record.again.contains(&self.offset) {
            let holder = record.holder.as_ref();
            self.delivered(
                record.group,
                is_first,
                record.lease,
                record.until_ms,
                holder,
            );
        }
        self.telling(record.group).next = Some(fresh.end);
    }

    fn scanned(&mut self, record: &Scanned) {
        let (group, offset) = (record.group, self.offset);
        let next = self.telling(group).next;
        let is_named = |facts: &[Fact]| facts.iter().any(|fact| fact.offset == offset);
        let is_fresh = is_named(&record.fresh);
        if is_fresh || record.again.contains(&offset) {
            let is_first = is_fresh || self.telling(group).attempts == Some(0);
            let holder = record.holder.as_ref();
            self.delivered(group, is_first, record.lease, record.until_ms, holder);
        } else if is_named(&record.parked) {
            self.telling(group).attempts = Some(0);
            let why = "an earlier one of its message group, or a greater priority, goes first";
            self.event(group, "parked", 0, why);
        } else if next.is_some_and(|next| (next..record.next).contains(&offset)) {
            self.event(
                group,
                "passed over",
                0,
                "the group's filter does not want it",
            );
        }
        self.telling(group).next = Some(record.next);
    }

    fn returned(&mut self, record: &Returned) {
        let why = if record.unseen {
            "the answer reached nobody, and does not count"
        } else {
            "its consumer is gone, or left its answer unread"
        };
        self.event(record.group, "returned", record.at_ms, why);
        let telling = self.telling(record.group);
        telling.lease = 0;
        telling.comes_back = why;
        let attempts = telling.attempts;
        telling.attempts = attempts.map(|n| n.saturating_sub(u32::from(record.unseen)));
    }

    fn transferred(&mut self, transfer: &Transfer, at_ms: i64) {
        if transfer.offset != self.offset
            || !self.is_about(transfer.group, transfer.topic, transfer.queue)
        {
            return;
        }
        self.transfers.insert(transfer.sequence, transfer.group);
        self.telling(transfer.group).attempts = Some(transfer.attempts);
        let (what, why) = match (transfer.kind(), transfer.requested) {
            (TransferKind::Bury, true) => ("dead letter", "its consumer gave it up"),
            (TransferKind::Bury, false) => ("dead letter", "its attempts are used up"),
            (TransferKind::Redrive, _) => ("redriven", "it goes back where it came from"),
        };
        self.event(transfer.group, what, at_ms, why);
    }

    fn is_about(&self, group: u64, topic: u64, queue: u32) -> bool {
        let is_there = queue == self.queue || queue == real(self.queue);
        topic == self.topic && is_there && self.group.is_none_or(|only| only == group)
    }

    fn telling(&mut self, group: u64) -> &mut Telling {
        self.tellings.entry(group).or_default()
    }

    fn delivered(
        &mut self,
        group: u64,
        is_first: bool,
        lease: u64,
        until_ms: i64,
        holder: Option<&Holder>,
    ) {
        let telling = self.telling(group);
        telling.attempts = match (is_first, telling.attempts) {
            (true, _) => Some(1),
            (false, known) => known.map(|attempts| attempts + 1),
        };
        let why = if is_first { "" } else { telling.comes_back };
        let why = if is_first || !why.is_empty() {
            why
        } else {
            TIME_ENDED
        };
        telling.lease = lease;
        telling.comes_back = "";
        self.event(
            group,
            "delivered",
            holder.map_or(0, |holder| holder.since_ms),
            why,
        );
        self.until(until_ms);
        if let (Some((_, event)), Some(holder)) = (self.events.back_mut(), holder) {
            event.consumer.clone_from(&holder.consumer);
        }
    }

    fn placed(&mut self, group: u64, next: u64, at_ms: i64) {
        let is_before = next <= self.offset;
        *self.telling(group) = Telling {
            next: Some(next),
            attempts: is_before.then_some(0),
            comes_back: "the group was put before it",
            ..Telling::default()
        };
        let why = format!(
            "the group was put at offset {next}, {} it",
            if is_before { "at or before" } else { "behind" }
        );
        self.event(group, "placed", at_ms, &why);
    }

    fn event(&mut self, group: u64, what: &'static str, at_ms: i64, why: &str) {
        if self.events.len() >= limits::TRACE_EVENTS_MAX {
            self.events.pop_front();
            self.forgotten = true;
        }
        let attempt = self
            .telling(group)
            .attempts
            .filter(|attempts| *attempts > 0);
        let event = Event {
            what,
            at: (at_ms != 0).then_some(Timestamp(at_ms)),
            attempt,
            why: why.to_owned(),
            ..Event::default()
        };
        self.events.push_back((group, event));
    }

    fn until(&mut self, until_ms: i64) {
        if let Some((_, event)) = self.events.back_mut() {
            event.until = Some(Timestamp(until_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::record::{Acked, Moved, TransfersBegun};

    fn story() -> Story {
        Story {
            topic: 7,
            queue: 3,
            offset: 40,
            ..Story::default()
        }
    }

    fn told(story: &Story) -> Vec<(&'static str, Option<u32>, &str)> {
        let events = story.events.iter();
        events
            .map(|(_, e)| (e.what, e.attempt, e.why.as_str()))
            .collect()
    }

    fn popped(again: &[u64], fresh: u32, at: i64) -> Change {
        Change::Popped(Popped {
            group: 1,
            topic: 7,
            queue: 3,
            lease: 9,
            until_ms: at + 10,
            again: again.to_vec(),
            fresh_from: 33,
            fresh,
            holder: Some(Holder {
                consumer: "c".to_owned(),
                since_ms: at,
                ..Holder::default()
            }),
        })
    }

    #[test]
    fn a_story_tells_each_delivery_and_why_it_came_back() {
        let mut story = story();
        let place = (1, 7, 3);
        story.take(&popped(&[], 32, 100));
        story.take(&popped(&[39, 40], 0, 200));
        story.take(&Change::Returned(Returned {
            group: place.0,
            topic: place.1,
            queue: place.2,
            offsets: vec![40],
            at_ms: 205,
            ..Returned::default()
        }));
        story.take(&popped(&[40], 0, 206));
        story.take(&Change::Moved(Moved {
            group: place.0,
            topic: place.1,
            queue: place.2,
            offset: 40,
            until_ms: 300,
            at_ms: 210,
            ..Moved::default()
        }));
        story.take(&Change::TransfersBegun(TransfersBegun {
            transfers: vec![Transfer {
                group: place.0,
                topic: place.1,
                queue: place.2,
                offset: 40,
                attempts: 3,
                ..Transfer::default()
            }],
            at_ms: 310,
        }));
        let gone = "its consumer is gone, or left its answer unread";
        assert_eq!(
            told(&story),
            [
                ("delivered", Some(1), ""),
                ("delivered", Some(2), TIME_ENDED),
                ("returned", Some(2), gone),
                ("delivered", Some(3), gone),
                ("moved", Some(3), "its consumer changed the invisible time"),
                ("dead letter", Some(3), "its attempts are used up"),
            ]
        );
        let first = &story.events[0].1;
        assert_eq!(
            (first.at, first.until),
            (Some(Timestamp(100)), Some(Timestamp(110)))
        );
        assert_eq!(first.consumer, "c");
    }

    #[test]
    fn an_attempt_is_not_guessed_when_the_log_begins_in_the_middle() {
        let mut story = story();
        story.take(&popped(&[40], 0, 200));
        assert_eq!(told(&story), [("delivered", None, TIME_ENDED)]);
    }

    #[test]
    fn other_messages_groups_and_queues_are_left_out() {
        let mut story = Story {
            group: Some(2),
            ..story()
        };
        story.take(&popped(&[], 32, 100));
        let acked = |queue, offset| {
            Change::Acked(Acked {
                group: 2,
                topic: 7,
                queue,
                offsets: vec![offset],
                ..Acked::default()
            })
        };
        story.take(&acked(3, 41));
        story.take(&acked(4, 40));
        assert_eq!(told(&story), []);
        story.take(&acked(3, 40));
        assert_eq!(told(&story), [("acknowledged", None, "")]);
    }

    #[test]
    fn a_story_keeps_its_last_events_and_says_that_it_forgot_others() {
        let mut story = story();
        for at in 0..=limits::TRACE_EVENTS_MAX {
            story.take(&popped(&[40], 0, i64::try_from(at).unwrap() + 1));
        }
        assert_eq!(story.events.len(), limits::TRACE_EVENTS_MAX);
        assert!(story.forgotten);
    }
}
