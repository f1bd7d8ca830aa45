//! The promises about messages that are not visible at once, checked on what clients saw.
//!
//! A delayed message is stored once, never before its time, and not at all once a recall was answered OK. A
//! half message is never seen before a commit was asked for; the first decision that was answered stands,
//! and one that contradicts it is not answered OK. In the end everything that was answered is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::Place;

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
    /// A recall is about to be called.
    RecallCalled(String),
    /// It was answered OK.
    Recalled(String),
    /// It was answered that the message was delivered.
    TooLate(String),
    /// A half message was answered OK.
    Prepared(String),
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
    answered: BTreeSet<String>,
    recall_called: BTreeSet<String>,
    recalled: BTreeSet<String>,
    too_late: BTreeSet<String>,
    commit_called: BTreeSet<String>,
    committed: BTreeSet<String>,
    rolled_back: BTreeSet<String>,
    came: BTreeMap<String, Place>,
    broken: Vec<String>,
}

impl Check {
    /// Takes a step that was seen at this time.
    pub fn take(&mut self, at_ms: i64, step: &Step) {
        match step {
            Step::DelayCalled { name, due_ms } => {
                self.due_ms.insert(name.clone(), *due_ms);
            }
            Step::Delayed(name) => {
                self.answered.insert(name.clone());
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
            Step::EndCalled { name, commit } => {
                if *commit {
                    self.commit_called.insert(name.clone());
                }
            }
            Step::Ended { name, commit: true } => {
                self.committed.insert(name.clone());
            }
            Step::Ended { name, .. } => {
                self.rolled_back.insert(name.clone());
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
        for name in self.committed.intersection(&self.rolled_back) {
            broken.push(format!("{name} ended both ways"));
        }
        broken
    }
}
