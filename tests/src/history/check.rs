//! The promises that hold for every topic, held against a history entry by entry.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use millpond_proto::time::Timestamp;

use crate::history::{Entry, Event, Message, Place, Reader};
use crate::{later, order};

/// Nobody who polls for at least so long comes back with nothing while a message was there all the time.
const POLL_SURE_MS: i64 = 2000;

/// A call of receive.
#[derive(Clone, Debug)]
struct Call {
    group: &'static str,
    at: Timestamp,
    invisible_ms: i64,
    /// Entries seen before it.
    index: usize,
}

/// The last delivery of a message to a group.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// Earliest and latest end of its invisible time; `None` when the time may have been changed.
    until: Option<(Timestamp, Timestamp)>,
    attempt: u32,
    /// Entries seen when it came.
    index: usize,
}

/// What is known of a group.
#[derive(Debug, Default)]
struct Group {
    leases: BTreeMap<Place, Lease>,
    /// How often it was tried, and when last.
    ack_called: BTreeMap<Place, (u32, usize)>,
    acked: BTreeMap<Place, usize>,
    delivered: BTreeSet<Message>,
    dead: BTreeSet<Message>,
    /// When answers to its polls were lost, by entry.
    lost: Vec<usize>,
    /// Messages may be held by somebody until then of whom nobody knows.
    unsure_until: Timestamp,
    /// Whether it was ever moved: then messages come again, and others never.
    moved: bool,
    /// Since which entry it delivers nothing.
    paused: Option<usize>,
}

impl Group {
    /// Whether a message is dead and may never have been seen: as many answers were lost since it was sent as it is delivered times.
    fn may_have_lost_all(&self, message: &Message, called: usize, reader: &Reader) -> bool {
        let lost = self.lost.iter().filter(|index| **index > called).count();
        let most = reader
            .attempts_max
            .and_then(|most| usize::try_from(most).ok());
        self.dead.contains(message) && most.is_some_and(|most| lost >= most)
    }
}

#[derive(Debug, Default)]
pub(super) struct Check {
    pub(super) broken: Vec<String>,
    index: usize,
    called: BTreeMap<Message, (usize, Timestamp)>,
    /// How many of its sends were not refused as not done.
    open_sends: BTreeMap<Message, u32>,
    sent: BTreeMap<Message, (Place, Timestamp)>,
    /// What lies where, as first seen.
    places: BTreeMap<Place, Message>,
    answered: Answered,
    calls: BTreeMap<u64, Call>,
    groups: BTreeMap<&'static str, Group>,
    topics: BTreeMap<u64, &'static str>,
    delete_called: BTreeSet<u64>,
    deleted: BTreeMap<u64, usize>,
    begins: BTreeMap<(u64, u32), u64>,
    /// Times that are later than any that was told after them, by entry.
    late: Vec<(usize, Timestamp)>,
    healing: bool,
    /// Places read while healing.
    read: BTreeSet<Place>,
    order: order::Check,
    later: later::Check,
}

impl Check {
    pub(super) fn take(&mut self, entry: &Entry) {
        self.index += 1;
        let (index, at) = (self.index, entry.at);
        while self.late.pop_if(|(_, known)| *known <= at).is_some() {}
        self.late.push((index, at));
        match &entry.event {
            Event::SendCalled { message } => {
                let called = self.called.entry(Arc::clone(message));
                called.or_insert((index, at));
                *self.open_sends.entry(Arc::clone(message)).or_default() += 1;
            }
            Event::Refused { message } => match self.open_sends.get_mut(message) {
                Some(open) if *open > 0 => *open -= 1,
                _ => self.broken.push(format!("{message} was refused uncalled")),
            },
            Event::Sent { message, place } => self.sent(message, *place, at),
            Event::ReceiveCalled {
                call,
                group,
                invisible_ms,
            } => {
                let call_made = Call {
                    group,
                    at,
                    invisible_ms: *invisible_ms,
                    index,
                };
                self.calls.insert(*call, call_made);
            }
            Event::Received {
                call,
                place,
                message,
                attempt,
            } => self.received(at, *call, *place, message, *attempt),
            Event::ReceiveAnswered { call, nothing_of } => {
                if let (Some(call), Some(topic)) = (self.calls.remove(call), nothing_of) {
                    self.nothing(at, &call, *topic);
                }
            }
            Event::ReceiveLost { call } => {
                if let Some(call) = self.calls.remove(call) {
                    self.unsure(&call, at);
                }
            }
            Event::ChangeCalled { group, place } => {
                let group = self.groups.entry(group).or_default();
                if let Some(lease) = group.leases.get_mut(place) {
                    lease.until = None;
                }
            }
            Event::AckCalled { group, place } => {
                let group = self.groups.entry(group).or_default();
                let (calls, last) = group.ack_called.entry(*place).or_default();
                *calls += 1;
                *last = index;
            }
            Event::AckRefused { group, place } => {
                let group = self.groups.entry(group).or_default();
                if let Some((calls, _)) = group.ack_called.get_mut(place) {
                    *calls -= 1;
                    if *calls == 0 {
                        group.ack_called.remove(place);
                    }
                }
            }
            Event::Acked {
                group,
                place,
                stale,
            } => self.acked(group, *place, *stale),
            Event::MoveCalled { group } => self.groups.entry(group).or_default().moved = true,
            Event::RedriveCalled {
                group,
                attempts_max,
            } => {
                // Which ones come again, and when, nobody knows: the last delivery before a death may be one
                // that nobody saw. Those that come are counted anew.
                let group = self.groups.entry(group).or_default();
                for lease in group.leases.values_mut() {
                    if lease.attempt >= *attempts_max {
                        lease.until = None;
                    }
                    lease.attempt = 0;
                }
            }
            Event::ClockSet { .. } => self.later.serves_from(at.as_ms()),
            Event::Paused { group } => {
                self.groups.entry(group).or_default().paused = Some(index);
            }
            Event::ResumeCalled { group } => self.groups.entry(group).or_default().paused = None,
            Event::Dead { group, message } => {
                let found = self.groups.entry(group).or_default();
                if !found.dead.insert(Arc::clone(message)) {
                    self.broken
                        .push(format!("{message} is dead twice in {group}"));
                }
            }
            Event::Read { place, message } => {
                self.lies(*place, message);
                if self.healing {
                    self.read.insert(*place);
                }
            }
            Event::Begins { place, kept_ms } => self.begins(*place, *kept_ms),
            Event::TopicIs { id, name } => {
                self.topics.insert(*id, name);
            }
            Event::DeleteCalled { id } => {
                self.delete_called.insert(*id);
            }
            Event::Deleted { id } => {
                self.deleted.entry(*id).or_insert(index);
            }
            Event::Healing => self.healing = true,
            Event::Broken(what) => self.broken.push(what.clone()),
            Event::Order(step) => self.order.take(step),
            Event::Later(step) => self.later.take(at.as_ms(), step),
            Event::Ready => self.later.serves_from(at.as_ms()),
            Event::DiskFails => self.later.disk_fails(at.as_ms()),
            Event::Ended { .. } => {
                // What was under way when the power went may have been done.
                for call in std::mem::take(&mut self.calls).into_values() {
                    self.unsure(&call, at);
                }
            }
            Event::Started { .. } | Event::Note(_) => {}
        }
    }

    /// What this call was given, if anything, nobody knows.
    fn unsure(&mut self, call: &Call, at: Timestamp) {
        let group = self.groups.entry(call.group).or_default();
        let until = Timestamp(at.as_ms() + call.invisible_ms);
        group.unsure_until = group.unsure_until.max(until);
        group.lost.push(self.index);
    }

    fn sent(&mut self, message: &Message, place: Place, at: Timestamp) {
        self.lies(place, message);
        let before = self.sent.insert(Arc::clone(message), (place, at));
        if before.is_some_and(|(other, _)| other != place) {
            self.broken.push(format!("{message} was answered twice"));
        }
        // In real-time order: what was answered before this send was called lies before it.
        let called = self.called.get(message).map_or(0, |&(index, _)| index);
        let answered = self.answered.entry((place.topic, place.queue)).or_default();
        let earlier = answered.partition_point(|&(index, _)| index < called);
        if let Some(&(_, offset)) = answered[..earlier].last()
            && offset > place.offset
        {
            self.broken.push(format!(
                "{message} lies at {place:?}, behind in time and before offset {offset}"
            ));
        }
        let most = answered.last().map_or(0, |&(_, offset)| offset);
        answered.push((self.index, most.max(place.offset)));
    }

    fn received(
        &mut self,
        at: Timestamp,
        call: u64,
        place: Place,
        message: &Message,
        attempt: u32,
    ) {
        self.lies(place, message);
        let Some(call) = self.calls.get(&call).cloned() else {
            self.broken.push(format!("{message} came without a call"));
            return;
        };
        let mut broken = Vec::new();
        let mut say = |what: &str| {
            broken.push(format!(
                "{message} at {place:?} came to {} {what}",
                call.group
            ));
        };
        let deleted = self.deleted.get(&place.topic);
        if deleted.is_some_and(|deleted| *deleted < call.index) {
            say("after its topic was deleted");
        }
        let group = self.groups.entry(call.group).or_default();
        if group.paused.is_some_and(|paused| paused < call.index) {
            say("while that was paused");
        }
        if !group.moved {
            if group
                .acked
                .get(&place)
                .is_some_and(|acked| *acked < call.index)
            {
                say("after its ack was answered");
            }
            if let Some(lease) = group.leases.get(&place) {
                if lease.until.is_some_and(|(until, _)| at < until) {
                    say("while it was invisible");
                }
                if attempt <= lease.attempt {
                    say(&format!("as attempt {attempt} after {}", lease.attempt));
                }
            }
        }
        // The broker took the message at some time between the call and now.
        let after = |at: Timestamp| Timestamp(at.as_ms() + call.invisible_ms);
        let lease = Lease {
            until: Some((after(call.at), after(at))),
            attempt,
            index: self.index,
        };
        group.leases.insert(place, lease);
        group.delivered.insert(Arc::clone(message));
        self.broken.extend(broken);
    }

    /// Nothing came: then nothing was there all the time.
    fn nothing(&mut self, at: Timestamp, call: &Call, topic: u64) {
        let group = &*self.groups.entry(call.group).or_default();
        let is_sure = at.as_ms() - call.at.as_ms() >= POLL_SURE_MS
            && group.unsure_until < call.at
            && !group.moved
            && group.paused.is_none();
        if !is_sure {
            return;
        }
        for (message, &(place, _)) in &self.sent {
            if place.topic != topic || group.ack_called.contains_key(&place) {
                continue;
            }
            let was_there = match group.leases.get(&place) {
                None => is_behind(&self.answered, place, call.index),
                Some(lease) => {
                    lease.index < call.index
                        && lease.until.is_some_and(|(_, until)| until <= call.at)
                }
            };
            if was_there {
                self.broken.push(format!(
                    "{message} at {place:?} waited for {} and a poll from {} to {at} came back with nothing",
                    call.group, call.at
                ));
            }
        }
    }

    fn acked(&mut self, group: &'static str, place: Place, stale: bool) {
        let found = self.groups.entry(group).or_default();
        let (calls, called) = found.ack_called.get(&place).copied().unwrap_or((1, 0));
        if self
            .deleted
            .get(&place.topic)
            .is_some_and(|gone| *gone < called)
        {
            self.broken.push(format!(
                "{place:?} was acknowledged after its topic was deleted"
            ));
        }
        // Only an ack of another delivery makes this one right.
        let others = calls - 1;
        if stale && !found.moved && others == 0 {
            self.broken.push(format!(
                "{place:?} was acknowledged by {group} after its time"
            ));
        }
        found.acked.entry(place).or_insert(self.index);
    }

    /// The latest time told since an entry: it may be later than the last one, because clocks are set back.
    fn latest_since(&self, index: usize) -> Timestamp {
        let from = self.late.partition_point(|(known, _)| *known < index);
        self.late
            .get(from)
            .map_or(Timestamp(i64::MAX), |(_, at)| *at)
    }

    fn begins(&mut self, place: Place, kept_ms: i64) {
        let queue = (place.topic, place.queue);
        let begins = self.begins.get(&queue).copied().unwrap_or(0);
        let gone = self.places.range(
            Place {
                offset: begins,
                ..place
            }..place,
        );
        let mut broken = Vec::new();
        for (other, message) in gone {
            let Some(&(index, called)) = self.called.get(message) else {
                continue;
            };
            if self.latest_since(index).as_ms() < called.as_ms() + kept_ms {
                broken.push(format!("{message} at {other:?} is gone before its time"));
            }
        }
        self.begins.insert(queue, place.offset.max(begins));
        self.broken.extend(broken);
    }

    fn lies(&mut self, place: Place, message: &Message) {
        if !self.called.contains_key(message) {
            self.broken.push(format!("{message} was never sent"));
        }
        let there = self
            .places
            .entry(place)
            .or_insert_with(|| Arc::clone(message));
        if there != message {
            self.broken
                .push(format!("{place:?} holds {message}, and held {there}"));
        }
    }

    fn is_kept(&self, place: Place) -> bool {
        let first = self.begins.get(&(place.topic, place.queue)).copied();
        !self.delete_called.contains(&place.topic) && place.offset >= first.unwrap_or(0)
    }

    pub(super) fn finish(&mut self, readers: &[Reader]) {
        self.broken.extend(std::mem::take(&mut self.order).finish());
        self.broken.extend(std::mem::take(&mut self.later).finish());
        let mut broken = Vec::new();
        for (message, &(place, _)) in &self.sent {
            if !self.is_kept(place) {
                continue;
            }
            if !self.read.contains(&place) {
                broken.push(format!("{message} was sent and is gone from {place:?}"));
            }
            let topic = self.topics.get(&place.topic).copied().unwrap_or_default();
            for reader in readers.iter().filter(|reader| reader.topic == topic) {
                let group = self.groups.get(reader.group);
                let seen = group.is_some_and(|group| group.delivered.contains(message));
                let called = self.called.get(message).map_or(0, |&(index, _)| index);
                let is_excused =
                    group.is_some_and(|group| group.may_have_lost_all(message, called, reader));
                if !seen && !is_excused && (reader.wants)(message) {
                    broken.push(format!(
                        "{message} was sent and never came to {}",
                        reader.group
                    ));
                }
                let Some(group) = group else { continue };
                if group.dead.contains(message) && group.acked.contains_key(&place) && !group.moved
                {
                    broken.push(format!(
                        "{message} was acknowledged by {} and is dead",
                        reader.group
                    ));
                }
                if seen && !group.dead.contains(message) && !group.ack_called.contains_key(&place) {
                    broken.push(format!("{message} was lost on its way in {}", reader.group));
                }
            }
        }
        for reader in readers {
            let group = self.groups.get(reader.group);
            let unwanted = group.into_iter().flat_map(|group| &group.delivered);
            for message in unwanted.filter(|message| !(reader.wants)(message)) {
                broken.push(format!("{message} came to {} unwanted", reader.group));
            }
        }
        let mut next: BTreeMap<(u64, u32), u64> = BTreeMap::new();
        for place in &self.read {
            if !self.is_kept(*place) {
                continue;
            }
            let queue = (place.topic, place.queue);
            let first = self.begins.get(&queue).copied().unwrap_or(0);
            let expected = next.entry(queue).or_insert(first);
            if place.offset != *expected {
                broken.push(format!("{place:?} comes where {expected} is expected"));
            }
            *expected = place.offset + 1;
        }
        let mut homes: BTreeMap<&Message, Place> = BTreeMap::new();
        for (place, message) in &self.places {
            if self.open_sends.get(message) == Some(&0) {
                broken.push(format!("{message} was refused and lies at {place:?}"));
            }
            if let Some(other) = homes.insert(message, *place) {
                let mut text = String::new();
                write!(text, "{message} lies at {other:?} and at {place:?}").unwrap();
                broken.push(text);
            }
        }
        self.broken.extend(broken);
    }
}

/// Highest offsets of a queue that were answered, by the time of the answer.
type Answered = BTreeMap<(u64, u32), Vec<(usize, u64)>>;

/// Whether that message, or one behind it, was answered before that entry.
fn is_behind(answered: &Answered, place: Place, index: usize) -> bool {
    let Some(answered) = answered.get(&(place.topic, place.queue)) else {
        return false;
    };
    let earlier = answered.partition_point(|&(answer, _)| answer < index);
    answered[..earlier]
        .last()
        .is_some_and(|&(_, most)| place.offset <= most)
}
