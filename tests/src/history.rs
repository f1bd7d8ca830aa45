//! What clients saw in one run, in order, and the promises that it is held to.
//!
//! The history knows nothing of the broker: it has calls, answers and times. An answer that never came
//! or was an error leaves the outcome open, and an open outcome is never counted against the broker. Times
//! are the server's own, which never go back within a life.
//!
//! Checked here is what holds for every topic; [`order`] and [`later`] check what holds for theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use millpond_proto::time::Timestamp;

use crate::later;
use crate::order::{self, Step};

/// Nobody who polls for at least so long comes back with nothing while a message was there all the time.
const POLL_SURE_MS: i64 = 2000;

/// A message's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Id of the topic.
    pub topic: u64,
    /// Queue.
    pub queue: u32,
    /// Offset.
    pub offset: u64,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.queue, self.offset)
    }
}

/// Unique name of a message.
pub type Message = Arc<str>;

/// One thing that a client or the world did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server is started, for the n-th time.
    Started {
        /// Counted from 0.
        life: u32,
    },
    /// It serves.
    Ready,
    /// The power went, or a start failed.
    Ended {
        /// Why.
        how: String,
    },
    /// The disk fails soon, so the server may reopen its log.
    DiskFails,
    /// A topic is there, under this id.
    TopicIs {
        /// Id.
        id: u64,
        /// Name.
        name: &'static str,
    },
    /// A topic is about to be deleted.
    DeleteCalled {
        /// Id.
        id: u64,
    },
    /// It was answered that the topic is deleted.
    Deleted {
        /// Id.
        id: u64,
    },
    /// A send was called, for the first time or again.
    SendCalled {
        /// The message.
        message: Message,
    },
    /// A send was answered OK.
    Sent {
        /// The message.
        message: Message,
        /// Its place.
        place: Place,
    },
    /// A receive was called.
    ReceiveCalled {
        /// Number of the call.
        call: u64,
        /// Group.
        group: &'static str,
        /// Invisible time asked for.
        invisible_ms: i64,
    },
    /// A receive handed out a message.
    Received {
        /// Number of the call.
        call: u64,
        /// Place.
        place: Place,
        /// The message.
        message: Message,
        /// Delivery attempt.
        attempt: u32,
    },
    /// A receive was answered, and all that came was seen.
    ReceiveAnswered {
        /// Number of the call.
        call: u64,
        /// Nothing came, and everything in this topic would have done.
        nothing_of: Option<u64>,
    },
    /// A receive failed, or its answer never came: nobody knows what was given.
    ReceiveLost {
        /// Number of the call.
        call: u64,
    },
    /// The invisible time of a delivery is about to change.
    ChangeCalled {
        /// Group.
        group: &'static str,
        /// Place.
        place: Place,
    },
    /// An ack is about to be called.
    AckCalled {
        /// Group.
        group: &'static str,
        /// Place.
        place: Place,
    },
    /// An ack was answered OK.
    Acked {
        /// Group.
        group: &'static str,
        /// Place.
        place: Place,
        /// Whether the delivery was surely over when it was called.
        stale: bool,
    },
    /// A group is about to be moved.
    MoveCalled {
        /// Group.
        group: &'static str,
    },
    /// Dead letters of a group are about to be delivered again.
    RedriveCalled {
        /// Group.
        group: &'static str,
        /// Deliveries after which a message of it is dead.
        attempts_max: u32,
    },
    /// The machine's clock was set, and says so many ms more or less.
    ClockSet {
        /// How many.
        ms: i64,
    },
    /// It was answered that a group delivers nothing from now on.
    Paused {
        /// Group.
        group: &'static str,
    },
    /// A paused group is about to go on.
    ResumeCalled {
        /// Group.
        group: &'static str,
    },
    /// A message is among a group's dead letters, in the end.
    Dead {
        /// Group.
        group: &'static str,
        /// The message.
        message: Message,
    },
    /// A stored message was read without a group.
    Read {
        /// Place.
        place: Place,
        /// The message.
        message: Message,
    },
    /// A queue begins here now.
    Begins {
        /// Its first place that is kept.
        place: Place,
        /// How long its messages are to be kept, ms.
        kept_ms: i64,
    },
    /// A client of the ordered topic did or saw something.
    Order(Step),
    /// A client of messages that are not visible at once did or saw something.
    Later(later::Step),
    /// From here on the disk is kind and every group is drained.
    Healing,
    /// Something that only the trace needs.
    Note(String),
    /// What was seen is wrong in itself.
    Broken(String),
}

/// One entry: when, who, what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The server's time.
    pub at: Timestamp,
    /// Name of the actor.
    pub who: Arc<str>,
    /// What.
    pub event: Event,
}

/// A group that was drained in the end, so that it must have seen all that it wants.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Name of the topic.
    pub topic: &'static str,
    /// Group.
    pub group: &'static str,
    /// Which messages it wants.
    pub wants: fn(&str) -> bool,
}

/// Everything that happened, in the order in which it was seen.
#[derive(Debug, Default)]
pub struct History {
    entries: Mutex<Vec<Entry>>,
    requests: Mutex<u64>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { at, who, event } in self.entries.lock().unwrap().iter() {
            writeln!(f, "{} {who} {event:?}", at.as_ms())?;
        }
        Ok(())
    }
}

/// How runs went, for whoever wonders whether they tested anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls of the broker by its clients.
    pub requests: u64,
    /// Starts of the broker on what a crash or an end had left.
    pub restarts: u64,
    /// Messages sent with answer OK.
    pub sent: u64,
    /// Sends whose outcome the client never learned.
    pub open: u64,
    /// Deliveries.
    pub received: u64,
    /// Receives whose answer never came.
    pub lost: u64,
    /// Receives that came back with nothing where everything was wanted.
    pub empty: u64,
    /// Acks answered OK.
    pub acked: u64,
    /// Deliveries of the ordered topic.
    pub ordered: u64,
    /// Dead letters in the end.
    pub dead: u64,
    /// Delayed and committed messages that came.
    pub later: u64,
    /// Messages that their topic no longer keeps.
    pub expired: u64,
    /// Topics that were deleted.
    pub deleted: u64,
    /// Moves of groups and redrives.
    pub moved: u64,
    /// How often the machine's clock was set.
    pub clock_sets: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        let Self {
            requests,
            restarts,
            sent,
            open,
            received,
            lost,
            empty,
            acked,
            ordered,
            dead,
            later,
            expired,
            deleted,
            moved,
            clock_sets,
        } = other;
        self.requests += requests;
        self.restarts += restarts;
        self.sent += sent;
        self.open += open;
        self.received += received;
        self.lost += lost;
        self.empty += empty;
        self.acked += acked;
        self.ordered += ordered;
        self.dead += dead;
        self.later += later;
        self.expired += expired;
        self.deleted += deleted;
        self.moved += moved;
        self.clock_sets += clock_sets;
    }
}

impl History {
    /// Adds an entry.
    pub fn record(&self, at: Timestamp, who: &Arc<str>, event: Event) {
        self.entries.lock().unwrap().push(Entry {
            at,
            who: Arc::clone(who),
            event,
        });
    }

    /// Counts a call of the broker.
    pub fn count(&self) {
        *self.requests.lock().unwrap() += 1;
    }

    /// Counts what happened.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally {
            requests: *self.requests.lock().unwrap(),
            ..Tally::default()
        };
        let mut begins: BTreeMap<(u64, u32), u64> = BTreeMap::new();
        let mut called: BTreeSet<&Message> = BTreeSet::new();
        let mut starts = 0;
        let entries = self.entries.lock().unwrap();
        for entry in entries.iter() {
            match &entry.event {
                Event::SendCalled { message } => {
                    called.insert(message);
                }
                Event::Sent { message, .. } => {
                    tally.sent += 1;
                    called.remove(message);
                }
                Event::Received { .. } => tally.received += 1,
                Event::ReceiveLost { .. } => tally.lost += 1,
                Event::ReceiveAnswered { nothing_of, .. } => {
                    tally.empty += u64::from(nothing_of.is_some());
                }
                Event::Acked { .. } => tally.acked += 1,
                Event::Started { .. } => starts += 1,
                Event::Order(Step::Came { .. }) => tally.ordered += 1,
                Event::Order(Step::Dead(_)) | Event::Dead { .. } => tally.dead += 1,
                Event::Later(later::Step::Came { .. }) => tally.later += 1,
                Event::Begins { place, .. } => {
                    let first = begins.entry((place.topic, place.queue)).or_default();
                    *first = place.offset.max(*first);
                }
                Event::Deleted { .. } => tally.deleted += 1,
                Event::MoveCalled { .. } | Event::RedriveCalled { .. } => tally.moved += 1,
                Event::ClockSet { .. } => tally.clock_sets += 1,
                _ => {}
            }
        }
        tally.restarts = starts - 1;
        tally.open = called.len() as u64;
        tally.expired = begins.values().sum();
        tally
    }

    /// Every broken promise, in words; empty when all were kept.
    ///
    /// The readers were drained while healing, so each of them must have seen all that was sent, is kept and
    /// wanted.
    #[must_use]
    pub fn broken_promises(&self, readers: &[Reader]) -> Vec<String> {
        let entries = self.entries.lock().unwrap();
        let mut check = Check::default();
        for entry in entries.iter() {
            check.take(entry);
        }
        check.finish(readers);
        check.broken
    }
}

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
    /// Messages may be held by somebody until then of whom nobody knows.
    unsure_until: Timestamp,
    /// Whether it was ever moved: then messages come again, and others never.
    moved: bool,
    /// Since which entry it delivers nothing.
    paused: Option<usize>,
}

#[derive(Debug, Default)]
struct Check {
    broken: Vec<String>,
    index: usize,
    called: BTreeMap<Message, (usize, Timestamp)>,
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
    fn take(&mut self, entry: &Entry) {
        self.index += 1;
        let (index, at) = (self.index, entry.at);
        while self.late.pop_if(|(_, known)| *known <= at).is_some() {}
        self.late.push((index, at));
        match &entry.event {
            Event::SendCalled { message } => {
                let called = self.called.entry(Arc::clone(message));
                called.or_insert((index, at));
            }
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

    fn finish(&mut self, readers: &[Reader]) {
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
                if !seen && (reader.wants)(message) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "g";

    fn at(offset: u64) -> Place {
        Place {
            topic: 1,
            queue: 0,
            offset,
        }
    }

    fn see(history: &History, ms: i64, event: Event) {
        history.record(Timestamp(ms), &Arc::from("someone"), event);
    }

    fn sent(history: &History, message: &str, place: Place) {
        let message: Message = Arc::from(message);
        let called = Event::SendCalled {
            message: Arc::clone(&message),
        };
        see(history, 0, called);
        see(history, 0, Event::Sent { message, place });
    }

    fn received(history: &History, ms: i64, call: u64, place: Place, message: &str, attempt: u32) {
        let called = Event::ReceiveCalled {
            call,
            group: GROUP,
            invisible_ms: 10,
        };
        see(history, ms, called);
        let came = Event::Received {
            call,
            place,
            message: Arc::from(message),
            attempt,
        };
        see(history, ms, came);
    }

    fn acked(history: &History, ms: i64, place: Place, stale: bool) {
        let group = GROUP;
        see(history, ms, Event::AckCalled { group, place });
        see(
            history,
            ms,
            Event::Acked {
                group,
                place,
                stale,
            },
        );
    }

    fn nothing(history: &History, from_ms: i64, to_ms: i64, call: u64) {
        let called = Event::ReceiveCalled {
            call,
            group: GROUP,
            invisible_ms: 10,
        };
        see(history, from_ms, called);
        let nothing_of = Some(1);
        see(history, to_ms, Event::ReceiveAnswered { call, nothing_of });
    }

    fn healed(history: &History, places: &[(Place, &str)]) -> Vec<String> {
        see(history, 99, Event::TopicIs { id: 1, name: "t" });
        see(history, 99, Event::Healing);
        for (place, message) in places {
            let read = Event::Read {
                place: *place,
                message: Arc::from(*message),
            };
            see(history, 99, read);
        }
        history.broken_promises(&[Reader {
            topic: "t",
            group: GROUP,
            wants: |message| message != "unwanted",
        }])
    }

    #[test]
    fn a_run_that_kept_its_promises_passes() {
        let history = History::default();
        sent(&history, "a", at(0));
        received(&history, 0, 1, at(0), "a", 1);
        received(&history, 10, 2, at(0), "a", 2);
        acked(&history, 11, at(0), false);
        nothing(&history, 20, 5000, 3);
        assert_eq!(healed(&history, &[(at(0), "a")]), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let lost = History::default();
        sent(&lost, "a", at(0));
        received(&lost, 0, 1, at(0), "a", 1);
        acked(&lost, 1, at(0), false);
        assert!(healed(&lost, &[])[0].contains("is gone"));

        let never_came = History::default();
        sent(&never_came, "a", at(0));
        assert!(healed(&never_came, &[(at(0), "a")])[0].contains("never came"));

        let returned = History::default();
        sent(&returned, "a", at(0));
        received(&returned, 0, 1, at(0), "a", 1);
        acked(&returned, 1, at(0), false);
        received(&returned, 20, 2, at(0), "a", 2);
        assert!(healed(&returned, &[(at(0), "a")])[0].contains("after its ack"));

        let early = History::default();
        sent(&early, "a", at(0));
        received(&early, 0, 1, at(0), "a", 1);
        received(&early, 9, 2, at(0), "a", 1);
        let broken = healed(&early, &[(at(0), "a")]);
        assert!(broken[0].contains("invisible") && broken[1].contains("attempt 1"));

        let gap = History::default();
        sent(&gap, "a", at(1));
        received(&gap, 0, 1, at(1), "a", 1);
        acked(&gap, 1, at(1), false);
        assert!(healed(&gap, &[(at(1), "a")])[0].contains("where 0 is expected"));

        let invented = History::default();
        assert!(healed(&invented, &[(at(0), "b")])[0].contains("never sent"));

        let silent = History::default();
        sent(&silent, "a", at(0));
        nothing(&silent, 1, 2000, 1);
        assert!(silent.broken_promises(&[]).len() == 1, "not long enough");
        nothing(&silent, 1, 2001, 2);
        let broken = silent.broken_promises(&[]);
        assert!(broken[0].contains("came back with nothing"), "{broken:?}");

        let stale = History::default();
        sent(&stale, "a", at(0));
        received(&stale, 0, 1, at(0), "a", 1);
        acked(&stale, 30, at(0), true);
        assert!(healed(&stale, &[(at(0), "a")])[0].contains("after its time"));

        let unwanted = History::default();
        sent(&unwanted, "unwanted", at(0));
        received(&unwanted, 0, 1, at(0), "unwanted", 1);
        acked(&unwanted, 1, at(0), false);
        assert!(healed(&unwanted, &[(at(0), "unwanted")])[0].contains("came to g unwanted"));

        let expired = History::default();
        sent(&expired, "a", at(0));
        let (place, kept_ms) = (at(1), 100);
        see(&expired, 99, Event::Begins { place, kept_ms });
        assert!(healed(&expired, &[])[0].contains("before its time"));

        // It went when the clock said so, and was missed when the clock had been set back.
        let missed = History::default();
        sent(&missed, "a", at(0));
        see(
            &missed,
            100,
            Event::Begins {
                place: at(0),
                kept_ms,
            },
        );
        see(&missed, 99, Event::Begins { place, kept_ms });
        let broken = healed(&missed, &[]);
        assert!(
            broken.iter().all(|one| !one.contains("before its time")),
            "{broken:?}"
        );
    }
}
