//! The promises about messages that are not visible at once, checked on what clients saw.
//!
//! A delayed message is stored once, never before its time, and not at all once a recall was answered OK. A
//! half message is never seen before a commit was asked for; the first decision that was answered stands,
//! and one that contradicts it is not answered OK, and nobody is asked about a transaction that was ended. In the
//! end everything that was answered is there. A server that serves, on a disk that works, stores a delayed
//! message at most two seconds late.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;

use crate::history::Place;

/// How late a delayed message may be stored by a server that serves.
const LATE_MS: i64 = 2000;
/// How long after its disk failed a server may be busy with that.
const REOPENING_MS: i64 = 10_000;

/// One thing that a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A delayed message is about to be sent.
    DelayCalled {
        /// Its name.
        name: String,
        /// Its time, ms.
        due_ms: i64,
    },
    /// The send was answered OK.
    Delayed(String),
    /// Each send of it, as a delayed or a half message, was refused with a word that says that it was not done.
    Refused(String),
    /// A recall is about to be called.
    RecallCalled(String),
    /// It was answered OK.
    Recalled(String),
    /// It was answered that the message was delivered.
    TooLate(String),
    /// A half message was answered OK.
    Prepared(String),
    /// It is asked which transactions a producer is to be asked about.
    ChecksCalled,
    /// A producer is asked about a transaction.
    Asked {
        /// Its name.
        name: String,
        /// How often before.
        checks: u32,
    },
    /// The end of a transaction is about to be called.
    EndCalled {
        /// Its name.
        name: String,
        /// Whether it is a commit.
        commit: bool,
    },
    /// It was answered OK.
    Ended {
        /// Its name.
        name: String,
        /// Whether it was a commit.
        commit: bool,
    },
    /// It was answered that it had ended the other way.
    Decided {
        /// Its name.
        name: String,
        /// Whether this was a commit.
        commit: bool,
    },
    /// A message was read in its queue.
    Came {
        /// Its name.
        name: String,
        /// Where it lies.
        place: Place,
        /// When it was stored there, ms.
        stored_at_ms: i64,
    },
}

/// Checks steps as they come.
#[derive(Debug, Default)]
pub struct Check {
    due_ms: BTreeMap<String, i64>,
    /// When their sends were answered.
    sent_ms: BTreeMap<String, i64>,
    answered: BTreeSet<String>,
    refused: BTreeSet<String>,
    recall_called: BTreeSet<String>,
    recalled: BTreeSet<String>,
    too_late: BTreeSet<String>,
    commit_called: BTreeSet<String>,
    committed: BTreeSet<String>,
    rolled_back: BTreeSet<String>,
    came: BTreeMap<String, Place>,
    index: usize,
    /// When the ends of transactions were answered.
    ended: BTreeMap<String, usize>,
    checks_called: usize,
    asked: BTreeMap<String, u32>,
    serves_from_ms: Vec<i64>,
    disk_failed_ms: Vec<i64>,
    broken: Vec<String>,
}

impl Check {
    /// A server serves.
    pub fn serves_from(&mut self, at_ms: i64) {
        self.serves_from_ms.push(at_ms);
    }

    /// Its disk fails a call or two.
    pub fn disk_fails(&mut self, at_ms: i64) {
        self.disk_failed_ms.push(at_ms);
    }

    /// Whether a message that was due then may have been stored at that time.
    fn is_in_time(&self, due_ms: i64, stored_at_ms: i64) -> bool {
        let starts = self.serves_from_ms.iter().copied();
        let served_from = starts.filter(|from| *from <= stored_at_ms).max();
        let from = served_from.map_or(due_ms, |from| from.max(due_ms));
        let failures = self.disk_failed_ms.iter();
        let mut disturbed =
            failures.filter(|at| **at <= stored_at_ms && **at + REOPENING_MS > from);
        stored_at_ms - from <= LATE_MS || disturbed.next().is_some()
    }

    /// Takes a step that was seen at this time.
    pub fn take(&mut self, at_ms: i64, step: &Step) {
        self.index += 1;
        match step {
            Step::DelayCalled { name, due_ms } => {
                self.due_ms.insert(name.clone(), *due_ms);
            }
            Step::Delayed(name) => {
                self.answered.insert(name.clone());
                self.sent_ms.insert(name.clone(), at_ms);
            }
            Step::Refused(name) => {
                self.refused.insert(name.clone());
            }
            Step::RecallCalled(name) => {
                self.recall_called.insert(name.clone());
            }
            Step::Recalled(name) => {
                self.recalled.insert(name.clone());
            }
            Step::TooLate(name) => {
                self.too_late.insert(name.clone());
            }
            Step::Prepared(_) => {}
            Step::ChecksCalled => self.checks_called = self.index,
            Step::Asked { name, checks } => {
                let ended = self.ended.get(name);
                if ended.is_some_and(|ended| *ended < self.checks_called) {
                    self.broken
                        .push(format!("{name} was asked about after its end"));
                }
                let before = self.asked.insert(name.clone(), *checks);
                if before.is_some_and(|before| *checks < before)
                    || *checks >= limits::TRANSACTION_CHECKS_MAX
                {
                    self.broken.push(format!(
                        "{name} was asked about {checks} times, {before:?} before"
                    ));
                }
            }
            Step::EndCalled { name, commit } => {
                if *commit {
                    self.commit_called.insert(name.clone());
                }
            }
            Step::Ended { name, commit } => {
                let ended = if *commit {
                    &mut self.committed
                } else {
                    &mut self.rolled_back
                };
                ended.insert(name.clone());
                self.ended.entry(name.clone()).or_insert(self.index);
            }
            Step::Decided { name, commit: true } => {
                self.rolled_back.insert(name.clone());
            }
            Step::Decided { name, .. } => {
                self.committed.insert(name.clone());
            }
            Step::Came {
                name,
                place,
                stored_at_ms,
            } => self.came(at_ms, name, *place, *stored_at_ms),
        }
    }

    fn came(&mut self, at_ms: i64, name: &str, place: Place, stored_at_ms: i64) {
        let other = self.came.insert(name.to_owned(), place);
        if let Some(other) = other.filter(|other| *other != place) {
            let what = format!("{name} lies at {place:?} and at {other:?}");
            self.broken.push(what);
        }
        if let Some(due_ms) = self.due_ms.get(name) {
            if at_ms < *due_ms || stored_at_ms < *due_ms {
                self.broken.push(format!(
                    "{name} was stored at {stored_at_ms} and seen at {at_ms}, before {due_ms}"
                ));
            }
            let sent_ms = self.sent_ms.get(name).copied().unwrap_or(i64::MAX);
            if other.is_none() && !self.is_in_time((*due_ms).max(sent_ms), stored_at_ms) {
                self.broken.push(format!(
                    "{name} was due at {due_ms} and stored at {stored_at_ms}"
                ));
            }
        } else if !self.commit_called.contains(name) {
            self.broken
                .push(format!("{name} was seen before any commit"));
        }
    }

    /// Every broken promise, in words.
    #[must_use]
    pub fn finish(mut self) -> Vec<String> {
        let mut broken = std::mem::take(&mut self.broken);
        let came = |name: &&String| self.came.contains_key(*name);
        let lost = |name: &&String| !came(name);
        for name in self.recalled.iter().chain(&self.rolled_back).filter(came) {
            broken.push(format!("{name} was taken back and came all the same"));
        }
        let sure = |name: &&String| !self.recall_called.contains(*name);
        let expected = self.answered.iter().filter(sure);
        for name in expected
            .chain(&self.too_late)
            .chain(&self.committed)
            .filter(lost)
        {
            broken.push(format!("{name} was answered and never came"));
        }
        for name in self.refused.iter().filter(came) {
            broken.push(format!("{name} was refused and came all the same"));
        }
        for name in self.committed.intersection(&self.rolled_back) {
            broken.push(format!("{name} ended both ways"));
        }
        broken
    }
}
