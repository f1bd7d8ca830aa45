//! What a statement noticed beside its rows: bodies that did not parse, counted and located.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use millpond_proto::message::{Offset, QueueId};

/// Bodies of one topic that did not parse.
#[derive(Clone, Debug)]
struct Undecodable {
    /// By reading: a statement may read a topic several times, and a body is the same each time.
    rows: BTreeMap<Reading, u64>,
    first: (QueueId, Offset, String),
}

impl Undecodable {
    fn rows(&self) -> u64 {
        self.rows.values().copied().max().unwrap_or(0)
    }
}

/// One reading of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reading(u64);

#[derive(Debug, Default)]
struct Noticed {
    undecodable: BTreeMap<String, Undecodable>,
    texts: Vec<String>,
    readings: u64,
}

/// A shared list, complete when the answer's last batch has been read.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<Mutex<Noticed>>);

impl Notices {
    fn noticed(&self) -> MutexGuard<'_, Noticed> {
        self.0.lock().expect("no holder panics")
    }

    /// Adds a sentence.
    pub fn add(&self, text: String) {
        self.noticed().texts.push(text);
    }

    /// Another reading of a topic.
    pub(crate) fn reading(&self) -> Reading {
        let mut noticed = self.noticed();
        noticed.readings += 1;
        Reading(noticed.readings)
    }

    /// Counts bodies of a topic that did not parse, with the first of them.
    pub(crate) fn add_undecodable(
        &self,
        reading: Reading,
        topic: &str,
        rows: u64,
        queue: QueueId,
        offset: Offset,
        reason: String,
    ) {
        let mut noticed = self.noticed();
        let first = (queue, offset, reason);
        match noticed.undecodable.get_mut(topic) {
            Some(known) => {
                *known.rows.entry(reading).or_insert(0) += rows;
                // Queues are read side by side, so the first is chosen by place and not by time.
                if (first.0, first.1) < (known.first.0, known.first.1) {
                    known.first = first;
                }
            }
            None => {
                let bad = Undecodable {
                    rows: BTreeMap::from([(reading, rows)]),
                    first,
                };
                noticed.undecodable.insert(topic.to_owned(), bad);
            }
        }
    }

    /// The sentences, for a person to read.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let noticed = self.noticed();
        let mut all = noticed.texts.clone();
        all.extend(noticed.undecodable.iter().map(|(topic, bad)| {
            let (queue, offset, reason) = &bad.first;
            let rows = bad.rows();
            let noun = if rows == 1 { "row" } else { "rows" };
            format!(
                "{rows} {noun} of topic {topic} did not parse as its columns, first: queue {queue} offset \
                 {offset}: {reason}; see SELECT _queue, _offset, _decode_error FROM \"{topic}\" WHERE \
                 _decode_error IS NOT NULL"
            )
        }));
        all
    }

    /// How many bodies did not parse, in all topics.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.noticed()
            .undecodable
            .values()
            .map(Undecodable::rows)
            .sum()
    }
}
