//! The promises about message groups and dead letters, checked on what clients saw.
//!
//! In one group of consumers: a message comes when every earlier one of its message group is done with,
//! or before it in the same batch; what was acknowledged never comes again; in the end each message is
//! done with or a dead letter, never both and never twice.

use std::collections::{BTreeMap, BTreeSet};

/// A message: its message group, and its number there, from 1.
pub type Name = (String, u32);

/// One thing that a client of the ordered topic did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A send was answered OK. The next number is sent after that only.
    Sent(Name),
    /// A receive was called.
    Polled {
        /// Number of the call.
        call: u64,
    },
    /// It handed out a message.
    Came {
        /// Number of the call.
        call: u64,
        /// Which message.
        name: Name,
        /// Delivery attempt.
        attempt: u32,
    },
    /// An ack or a forward to the dead letters is about to be called.
    GivenBack(Name),
    /// The send was refused, with a word that says that it was not done.
    Refused(Name),
    /// The ack or forward was refused in that way.
    StillHeld(Name),
    /// An ack was answered OK.
    Acked(Name),
    /// A forward to the dead letters was answered OK.
    Forwarded(Name),
    /// It was found among the dead letters when all was drained.
    Dead(Name),
}

/// Checks steps as they come.
#[derive(Debug, Default)]
pub struct Check {
    index: usize,
    sent: BTreeSet<Name>,
    calls: BTreeMap<u64, usize>,
    /// The calls that a message came with, and its last attempt.
    came: BTreeMap<Name, (BTreeSet<u64>, u32)>,
    refused: BTreeSet<Name>,
    /// How often it was tried and not refused.
    given_back: BTreeMap<Name, u32>,
    acked: BTreeMap<Name, usize>,
    forwarded: BTreeSet<Name>,
    dead: BTreeSet<Name>,
    /// Messages that may have been passed only because they are dead.
    passed: BTreeMap<Name, Name>,
    broken: Vec<String>,
}

impl Check {
    /// Takes a step.
    pub fn take(&mut self, step: &Step) {
        self.index += 1;
        match step {
            Step::Sent(name) => {
                self.sent.insert(name.clone());
            }
            Step::Polled { call } => {
                self.calls.insert(*call, self.index);
            }
            Step::Came {
                call,
                name,
                attempt,
            } => self.came(*call, name, *attempt),
            Step::GivenBack(name) => {
                *self.given_back.entry(name.clone()).or_default() += 1;
            }
            Step::Refused(name) => {
                self.refused.insert(name.clone());
            }
            Step::StillHeld(name) => {
                if let Some(tries) = self.given_back.get_mut(name) {
                    *tries -= 1;
                    if *tries == 0 {
                        self.given_back.remove(name);
                    }
                }
            }
            Step::Acked(name) => {
                self.acked.entry(name.clone()).or_insert(self.index);
            }
            Step::Forwarded(name) => {
                self.forwarded.insert(name.clone());
            }
            Step::Dead(name) => {
                if !self.dead.insert(name.clone()) {
                    self.broken.push(format!("{name:?} is dead twice"));
                }
            }
        }
    }

    fn came(&mut self, call: u64, name: &Name, attempt: u32) {
        let called = self.calls.get(&call).copied().unwrap_or(0);
        if self.refused.contains(name) {
            self.broken.push(format!("{name:?} was refused and came"));
        }
        if self.acked.get(name).is_some_and(|acked| *acked < called) {
            self.broken
                .push(format!("{name:?} came after its ack was answered"));
        }
        let group = name.0.clone();
        let earlier = self.sent.range((group.clone(), 0)..(group, name.1));
        for one in earlier {
            let same = self
                .came
                .get(one)
                .is_some_and(|(calls, _)| calls.contains(&call));
            if !same && !self.given_back.contains_key(one) {
                self.passed.insert(one.clone(), name.clone());
            }
        }
        let (calls, last) = self.came.entry(name.clone()).or_default();
        if attempt <= *last {
            self.broken
                .push(format!("{name:?} came as attempt {attempt} after {last}"));
        }
        calls.insert(call);
        *last = attempt;
    }

    /// Every broken promise, in words; all was drained and the dead letters were read.
    #[must_use]
    pub fn finish(mut self) -> Vec<String> {
        for (one, by) in &self.passed {
            if !self.dead.contains(one) {
                self.broken
                    .push(format!("{by:?} came while {one:?} was open"));
            }
        }
        for name in &self.sent {
            let dead = self.dead.contains(name);
            let acked = self.acked.contains_key(name);
            if dead && acked {
                self.broken
                    .push(format!("{name:?} was acknowledged and is dead"));
            }
            if !dead && !acked && !self.given_back.contains_key(name) {
                self.broken
                    .push(format!("{name:?} was sent and is nowhere"));
            }
            if self.forwarded.contains(name) && !dead {
                self.broken
                    .push(format!("{name:?} was given up and is no dead letter"));
            }
        }
        self.broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> Name {
        ("g".to_owned(), number)
    }

    fn came(call: u64, number: u32, attempt: u32) -> [Step; 2] {
        let name = name(number);
        [
            Step::Polled { call },
            Step::Came {
                call,
                name,
                attempt,
            },
        ]
    }

    fn broken(steps: &[&[Step]]) -> Vec<String> {
        let mut check = Check::default();
        for step in [Step::Sent(name(1)), Step::Sent(name(2))] {
            check.take(&step);
        }
        for step in steps.iter().flat_map(|steps| steps.iter()) {
            check.take(step);
        }
        check.finish()
    }

    fn acked(number: u32) -> [Step; 2] {
        [Step::GivenBack(name(number)), Step::Acked(name(number))]
    }

    #[test]
    fn an_orderly_run_passes_and_each_broken_promise_is_found() {
        let fine = broken(&[&came(1, 1, 1), &acked(1), &came(2, 2, 1), &acked(2)]);
        assert_eq!(fine, Vec::<String>::new());
        let together = broken(&[&came(1, 1, 1), &came(1, 2, 1), &acked(1), &acked(2)]);
        assert_eq!(together, Vec::<String>::new());
        let dead = broken(&[
            &came(1, 1, 1),
            &came(2, 2, 1),
            &acked(2),
            &[Step::Dead(name(1))],
        ]);
        assert_eq!(dead, Vec::<String>::new());

        let early = broken(&[&came(1, 1, 1), &came(2, 2, 1), &acked(1), &acked(2)]);
        assert!(early[0].contains("was open"), "{early:?}");
        let again = broken(&[
            &came(1, 1, 1),
            &acked(1),
            &came(2, 1, 2),
            &came(3, 2, 1),
            &acked(2),
        ]);
        assert!(again[0].contains("after its ack"), "{again:?}");
        let lost = broken(&[&came(1, 1, 1), &acked(1)]);
        assert!(lost[0].contains("nowhere"), "{lost:?}");
        let refused = broken(&[
            &came(1, 1, 1),
            &[Step::GivenBack(name(1)), Step::StillHeld(name(1))],
            &came(2, 2, 1),
            &acked(2),
        ]);
        assert!(
            refused[0].contains("was open") && refused[1].contains("nowhere"),
            "{refused:?}"
        );
        let uncalled = broken(&[&[Step::Refused(name(3))], &came(1, 3, 1)]);
        assert!(uncalled[0].contains("refused and came"), "{uncalled:?}");
        let twice = broken(&[
            &came(1, 1, 1),
            &acked(1),
            &came(2, 2, 1),
            &[Step::Dead(name(2)), Step::Dead(name(2))],
        ]);
        assert!(twice[0].contains("twice"), "{twice:?}");
    }
}
