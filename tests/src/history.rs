//! What clients saw in one run, in order, and the promises that it is held to.
//!
//! The history knows nothing of the broker: it has calls, answers and times. An answer that never came
//! leaves the outcome open, as an error does that does not say that nothing was done, and an open outcome is never counted
//! against the broker. A refusal that says so is a promise: what was refused never comes. Times are the server's own,
//! which never go back within a life.
//!
//! `check` holds it against what is promised of every topic; [`order`](crate::order) and [`later`] against what is promised of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use millpond_proto::time::Timestamp;

use crate::history::check::Check;
use crate::order::Step;
use crate::{later, panics};

mod check;

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
    /// The last send that was called was refused, with a word that says that it was not done.
    Refused {
        /// The message.
        message: Message,
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
    /// An ack was refused, with a word that says that it was not done.
    AckRefused {
        /// Group.
        group: &'static str,
        /// Place.
        place: Place,
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
    /// How often it gets one that it does not acknowledge; none: more often than a run has time for.
    pub attempts_max: Option<u32>,
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
    /// Sends and acks that were refused as not done.
    pub refused: u64,
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
            refused,
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
        self.refused += refused;
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

    /// Adds what panicked on this thread, wherever that was, since it was asked last: nothing may.
    pub fn record_panics(&self, at: Timestamp) {
        for panic in panics::taken() {
            let what = format!("something panicked: {panic}");
            self.record(at, &Arc::from("world"), Event::Broken(what));
        }
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
                Event::Refused { .. } | Event::AckRefused { .. } => tally.refused += 1,
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

#[cfg(test)]
mod tests;
