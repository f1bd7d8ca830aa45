//! What clients saw in one run, in order, and the promises that it is held to.
//!
//! The history knows nothing of the broker: it has calls, answers and times. An answer that never came
//! or was an error leaves the outcome open, and an open outcome is never counted against the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::sync::Mutex;

use millpond_proto::time::Timestamp;

use crate::later;
use crate::order::{self, Step};

/// A message's place: queue and offset.
pub type Place = (u32, u64);

/// One thing that a client or the world did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server is started, for the n-th time.
    Started {
        /// Counted from 0.
        life: u32,
    },
    /// The power went, or a start failed.
    Ended {
        /// Why.
        how: String,
    },
    /// A send was called.
    SendCalled {
        /// Unique name of the message.
        message: String,
    },
    /// A send was answered OK.
    Sent {
        /// Unique name of the message.
        message: String,
        /// Its place.
        place: Place,
    },
    /// A receive was called.
    ReceiveCalled {
        /// Number of the call.
        call: u64,
        /// Group.
        group: String,
        /// Invisible time asked for.
        invisible_ms: i64,
    },
    /// A receive handed out a message.
    Received {
        /// Number of the call.
        call: u64,
        /// Place.
        place: Place,
        /// Unique name of the message.
        message: String,
        /// Delivery attempt.
        attempt: u32,
    },
    /// The invisible time of a delivery is about to change.
    ChangeCalled {
        /// Group.
        group: String,
        /// Place.
        place: Place,
    },
    /// An ack was answered OK.
    Acked {
        /// Group.
        group: String,
        /// Place.
        place: Place,
    },
    /// A stored message was read without a group.
    Read {
        /// Place.
        place: Place,
        /// Unique name of the message.
        message: String,
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
    /// Simulated time.
    pub at: Timestamp,
    /// Name of the actor.
    pub who: String,
    /// What.
    pub event: Event,
}

/// Everything that happened, in the order in which it was seen.
#[derive(Debug, Default)]
pub struct History {
    entries: Mutex<Vec<Entry>>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { at, who, event } in self.entries.lock().unwrap().iter() {
            writeln!(f, "{} {who} {event:?}", at.as_ms())?;
        }
        Ok(())
    }
}

/// How a run went, for whoever wonders whether it tested anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages sent with answer OK.
    pub sent: usize,
    /// Sends whose outcome the client never learned.
    pub open: usize,
    /// Deliveries.
    pub received: usize,
    /// Acks answered OK.
    pub acked: usize,
    /// Crashes.
    pub crashes: usize,
    /// Deliveries of the ordered topic.
    pub ordered: usize,
    /// Dead letters in the end.
    pub dead: usize,
    /// Delayed and committed messages that came.
    pub later: usize,
}

impl History {
    /// Adds an entry.
    pub fn record(&self, at: Timestamp, who: &str, event: Event) {
        self.entries.lock().unwrap().push(Entry {
            at,
            who: who.to_owned(),
            event,
        });
    }

    /// Counts what happened.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for entry in self.entries.lock().unwrap().iter() {
            match &entry.event {
                Event::SendCalled { .. } => tally.open += 1,
                Event::Sent { .. } => {
                    tally.sent += 1;
                    tally.open -= 1;
                }
                Event::Received { .. } => tally.received += 1,
                Event::Acked { .. } => tally.acked += 1,
                Event::Ended { .. } => tally.crashes += 1,
                Event::Order(Step::Came { .. }) => tally.ordered += 1,
                Event::Order(Step::Dead(_)) => tally.dead += 1,
                Event::Later(later::Step::Came { .. }) => tally.later += 1,
                _ => {}
            }
        }
        tally
    }

    /// Every broken promise, in words; empty when all were kept.
    ///
    /// `groups` were drained while healing, so each of them must have seen all that was sent.
    #[must_use]
    pub fn broken_promises(&self, groups: &[&str]) -> Vec<String> {
        let entries = self.entries.lock().unwrap();
        let mut check = Check::default();
        for entry in entries.iter() {
            check.take(entry);
        }
        check.finish(groups);
        check.broken
    }
}

/// A call of receive.
#[derive(Clone, Debug)]
struct Call {
    group: String,
    at: Timestamp,
    invisible_ms: i64,
    /// Entries seen before it.
    index: usize,
}

/// The last delivery of a message to a group.
#[derive(Clone, Copy, Debug)]
struct Lease {
    /// Earliest end of its invisible time; `None` when the time may have been changed.
    until: Option<Timestamp>,
    attempt: u32,
}

#[derive(Debug, Default)]
struct Check {
    broken: Vec<String>,
    index: usize,
    called: BTreeMap<String, usize>,
    sent: BTreeMap<String, Place>,
    /// What lies where, as first seen.
    places: BTreeMap<Place, String>,
    /// Highest offset per queue that a send was answered with, and when.
    answered: BTreeMap<u32, Vec<(usize, u64)>>,
    calls: BTreeMap<u64, Call>,
    leases: BTreeMap<(String, Place), Lease>,
    acked: BTreeMap<(String, Place), usize>,
    delivered: BTreeMap<String, BTreeSet<String>>,
    healing: bool,
    /// Places read while healing.
    read: BTreeSet<Place>,
    order: order::Check,
    later: later::Check,
}

impl Check {
    fn take(&mut self, entry: &Entry) {
        self.index += 1;
        match &entry.event {
            Event::SendCalled { message } => {
                self.called.insert(message.clone(), self.index);
            }
            Event::Sent { message, place } => self.sent(message, *place),
            Event::ReceiveCalled {
                call,
                group,
                invisible_ms,
            } => {
                let call_made = Call {
                    group: group.clone(),
                    at: entry.at,
                    invisible_ms: *invisible_ms,
                    index: self.index,
                };
                self.calls.insert(*call, call_made);
            }
            Event::Received {
                call,
                place,
                message,
                attempt,
            } => self.received(entry.at, *call, *place, message, *attempt),
            Event::ChangeCalled { group, place } => {
                if let Some(lease) = self.leases.get_mut(&(group.clone(), *place)) {
                    lease.until = None;
                }
            }
            Event::Acked { group, place } => {
                self.acked
                    .entry((group.clone(), *place))
                    .or_insert(self.index);
            }
            Event::Read { place, message } => {
                self.lies(*place, message);
                if self.healing {
                    self.read.insert(*place);
                }
            }
            Event::Healing => self.healing = true,
            Event::Broken(what) => self.broken.push(what.clone()),
            Event::Order(step) => self.order.take(step),
            Event::Later(step) => self.later.take(entry.at.as_ms(), step),
            Event::Started { .. } | Event::Ended { .. } | Event::Note(_) => {}
        }
    }

    fn sent(&mut self, message: &str, place: Place) {
        self.lies(place, message);
        if self.sent.insert(message.to_owned(), place).is_some() {
            self.broken.push(format!("{message} was answered twice"));
        }
        // In real-time order: what was answered before this send was called lies before it.
        let called = self.called.get(message).copied().unwrap_or(0);
        let answered = self.answered.entry(place.0).or_default();
        for (index, offset) in answered.iter() {
            if *index < called && *offset > place.1 {
                self.broken.push(format!(
                    "{message} lies at {place:?}, behind in time and before offset {offset}"
                ));
            }
        }
        answered.push((self.index, place.1));
    }

    fn received(&mut self, at: Timestamp, call: u64, place: Place, message: &str, attempt: u32) {
        self.lies(place, message);
        let Some(call) = self.calls.get(&call).cloned() else {
            self.broken.push(format!("{message} came without a call"));
            return;
        };
        let group = call.group;
        let key = (group.clone(), place);
        if self
            .acked
            .get(&key)
            .is_some_and(|acked| *acked < call.index)
        {
            self.broken.push(format!(
                "{message} at {place:?} came to {group} after its ack was answered"
            ));
        }
        if let Some(lease) = self.leases.get(&key) {
            if lease.until.is_some_and(|until| at < until) {
                self.broken.push(format!(
                    "{message} at {place:?} came to {group} while it was invisible"
                ));
            }
            if attempt <= lease.attempt {
                self.broken.push(format!(
                    "{message} at {place:?} came to {group} as attempt {attempt} after {}",
                    lease.attempt
                ));
            }
        }
        // The broker took the message at some time between the call and now.
        let until = Timestamp(call.at.as_ms() + call.invisible_ms);
        let lease = Lease {
            until: Some(until),
            attempt,
        };
        self.leases.insert(key, lease);
        self.delivered
            .entry(group)
            .or_default()
            .insert(message.to_owned());
    }

    fn lies(&mut self, place: Place, message: &str) {
        if !self.called.contains_key(message) {
            self.broken.push(format!("{message} was never sent"));
        }
        let there = self
            .places
            .entry(place)
            .or_insert_with(|| message.to_owned());
        if there != message {
            self.broken
                .push(format!("{place:?} holds {message}, and held {there}"));
        }
    }

    fn finish(&mut self, groups: &[&str]) {
        self.broken.extend(std::mem::take(&mut self.order).finish());
        self.broken.extend(std::mem::take(&mut self.later).finish());
        for (message, place) in &self.sent {
            if !self.read.contains(place) {
                self.broken
                    .push(format!("{message} was sent and is gone from {place:?}"));
            }
            for group in groups {
                let delivered = self.delivered.get(*group);
                if !delivered.is_some_and(|seen| seen.contains(message)) {
                    self.broken
                        .push(format!("{message} was sent and never came to {group}"));
                }
            }
        }
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        for (queue, offset) in &self.read {
            let expected = next.entry(*queue).or_default();
            if offset != expected {
                self.broken.push(format!(
                    "queue {queue} goes on at {offset}, not at {expected}"
                ));
            }
            *expected = offset + 1;
        }
        let mut homes: BTreeMap<&String, Place> = BTreeMap::new();
        for (place, message) in &self.places {
            if let Some(other) = homes.insert(message, *place) {
                let mut text = String::new();
                write!(text, "{message} lies at {other:?} and at {place:?}").unwrap();
                self.broken.push(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(history: &History, message: &str, place: Place) {
        let message = message.to_owned();
        let called = Event::SendCalled {
            message: message.clone(),
        };
        history.record(Timestamp(0), "p", called);
        history.record(Timestamp(0), "p", Event::Sent { message, place });
    }

    fn received(history: &History, at: i64, call: u64, place: Place, message: &str, attempt: u32) {
        let called = Event::ReceiveCalled {
            call,
            group: "g".to_owned(),
            invisible_ms: 10,
        };
        history.record(Timestamp(at), "c", called);
        let came = Event::Received {
            call,
            place,
            message: message.to_owned(),
            attempt,
        };
        history.record(Timestamp(at), "c", came);
    }

    fn healed(history: &History, places: &[(Place, &str)]) -> Vec<String> {
        history.record(Timestamp(99), "w", Event::Healing);
        for (place, message) in places {
            let read = Event::Read {
                place: *place,
                message: (*message).to_owned(),
            };
            history.record(Timestamp(99), "w", read);
        }
        history.broken_promises(&["g"])
    }

    #[test]
    fn a_run_that_kept_its_promises_passes() {
        let history = History::default();
        sent(&history, "a", (0, 0));
        received(&history, 0, 1, (0, 0), "a", 1);
        received(&history, 10, 2, (0, 0), "a", 2);
        let group = "g".to_owned();
        let place = (0, 0);
        history.record(Timestamp(11), "c", Event::Acked { group, place });
        assert_eq!(healed(&history, &[((0, 0), "a")]), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let lost = History::default();
        sent(&lost, "a", (0, 0));
        received(&lost, 0, 1, (0, 0), "a", 1);
        assert!(healed(&lost, &[])[0].contains("is gone"));

        let never_came = History::default();
        sent(&never_came, "a", (0, 0));
        assert!(healed(&never_came, &[((0, 0), "a")])[0].contains("never came"));

        let returned = History::default();
        sent(&returned, "a", (0, 0));
        received(&returned, 0, 1, (0, 0), "a", 1);
        let group = "g".to_owned();
        let place = (0, 0);
        returned.record(Timestamp(1), "c", Event::Acked { group, place });
        received(&returned, 20, 2, (0, 0), "a", 2);
        assert!(healed(&returned, &[((0, 0), "a")])[0].contains("after its ack"));

        let early = History::default();
        sent(&early, "a", (0, 0));
        received(&early, 0, 1, (0, 0), "a", 1);
        received(&early, 9, 2, (0, 0), "a", 1);
        let broken = healed(&early, &[((0, 0), "a")]);
        assert!(broken[0].contains("invisible") && broken[1].contains("attempt 1"));

        let gap = History::default();
        sent(&gap, "a", (0, 1));
        received(&gap, 0, 1, (0, 1), "a", 1);
        assert!(healed(&gap, &[((0, 1), "a")])[0].contains("goes on at 1"));

        let invented = History::default();
        assert!(healed(&invented, &[((0, 0), "b")])[0].contains("never sent"));
    }
}
