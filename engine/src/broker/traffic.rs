//! How much went into each topic and out of it since the process started: counts for the page of metrics.
//!
//! A message counts as in when it is durable in its topic, whoever put it there: a producer, a statement, the shelf when
//! its time comes, another topic's dead letters. It counts as out each time that it is handed to a consumer or a
//! reader; what nobody took, and comes again, counts again. What SQL reads is no delivery.
//!
//! Kept in memory only, and of topics alone of which something moved: a topic that rests costs nothing, however many there
//! are, and one that is deleted is forgotten. Counted by groups of appends and by batches, not by messages.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use millpond_storage::format::envelope::Envelope;

use crate::broker::Broker;

/// Messages that moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many.
    pub messages: u64,
    /// Size of their bodies.
    pub bytes: u64,
}

/// What moved in and out of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicTraffic {
    /// Stored.
    pub stored: Moved,
    /// Handed out.
    pub delivered: Moved,
}

/// What moved in and out of all topics, by id.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<HashMap<u64, TopicTraffic>>);

/// What a group of appends stores, by topic, in the order in which they come.
#[derive(Debug, Default)]
pub(super) struct Arrived(Vec<(u64, Moved)>);

impl Moved {
    /// One more.
    pub fn count(&mut self, message: &Envelope) {
        self.messages += 1;
        self.bytes += message.body.as_ref().map_or(0, |body| body.len() as u64);
    }

    fn add(&mut self, more: Self) {
        self.messages += more.messages;
        self.bytes += more.bytes;
    }
}

impl Arrived {
    /// One more; most often of the topic of the one before.
    pub(super) fn count(&mut self, message: &Envelope) {
        match self.0.last_mut() {
            Some((topic, moved)) if *topic == message.topic => moved.count(message),
            _ => {
                let mut moved = Moved::default();
                moved.count(message);
                self.0.push((message.topic, moved));
            }
        }
    }
}

impl Traffic {
    /// Messages became durable.
    pub(super) fn stored(&self, arrived: &Arrived) {
        if arrived.0.is_empty() {
            return;
        }
        let mut all = self.lock();
        for (topic, moved) in &arrived.0 {
            all.entry(*topic).or_default().stored.add(*moved);
        }
    }

    /// Messages were handed out.
    pub(super) fn delivered<'a>(&self, topic: u64, messages: impl Iterator<Item = &'a Envelope>) {
        let mut moved = Moved::default();
        messages.for_each(|message| moved.count(message));
        if moved.messages > 0 {
            self.lock().entry(topic).or_default().delivered.add(moved);
        }
    }

    /// A topic is no more.
    pub(super) fn forget(&self, topic: u64) {
        self.lock().remove(&topic);
    }

    /// Up to `most` of the topics that are there, those of which the most messages moved.
    fn greatest(&self, most: usize, is_there: impl Fn(u64) -> bool) -> Vec<(u64, TopicTraffic)> {
        let all = self.lock();
        let there = all.iter().filter(|(topic, _)| is_there(**topic));
        let mut found: Vec<(u64, TopicTraffic)> = there.map(|(id, moved)| (*id, *moved)).collect();
        drop(all);
        let rank = |(topic, moved): &(u64, TopicTraffic)| {
            let messages = moved.stored.messages + moved.delivered.messages;
            (std::cmp::Reverse(messages), *topic)
        };
        if found.len() > most {
            found.select_nth_unstable_by_key(most, rank);
            found.truncate(most);
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, TopicTraffic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// What moved in and out of topics, by name: of up to `most` of them, those of which the most messages did.
    #[must_use]
    pub fn traffic(&self, most: usize) -> Vec<(String, TopicTraffic)> {
        let catalog = self.catalog();
        let there = |topic| catalog.topic_by_id(topic).is_some();
        let found = self.traffic.greatest(most, there).into_iter();
        let mut named: Vec<(String, TopicTraffic)> = found
            .filter_map(|(topic, moved)| Some((catalog.topic_by_id(topic)?.name.clone(), moved)))
            .collect();
        named.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        named
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.catalog().topics().len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(topic: u64, body: &'static str) -> Envelope {
        Envelope {
            topic,
            body: Some(Bytes::from_static(body.as_bytes())),
            ..Envelope::default()
        }
    }

    #[test]
    fn what_moves_is_counted_by_topic_and_the_greatest_are_told() {
        let traffic = Traffic::default();
        let mut arrived = Arrived::default();
        for one in [
            message(1, "ab"),
            message(1, "c"),
            message(2, "d"),
            message(1, ""),
        ] {
            arrived.count(&one);
        }
        traffic.stored(&arrived);
        traffic.stored(&Arrived::default());
        let out = [message(2, "d"), message(2, "d")];
        traffic.delivered(2, out.iter());
        traffic.delivered(3, out[..1].iter());
        traffic.delivered(4, [].iter());
        let moved = |messages, bytes| Moved { messages, bytes };
        let of = |stored, delivered| TopicTraffic { stored, delivered };
        let mut all = traffic.greatest(9, |_| true);
        all.sort_unstable_by_key(|(topic, _)| *topic);
        assert_eq!(
            all,
            [
                (1, of(moved(3, 3), moved(0, 0))),
                (2, of(moved(1, 1), moved(2, 2))),
                (3, of(moved(0, 0), moved(1, 1))),
            ]
        );
        let mut two: Vec<u64> = traffic
            .greatest(2, |_| true)
            .iter()
            .map(|one| one.0)
            .collect();
        two.sort_unstable();
        assert_eq!(two, [1, 2]);
        let there: Vec<u64> = traffic
            .greatest(2, |topic| topic == 3)
            .iter()
            .map(|one| one.0)
            .collect();
        assert_eq!(there, [3]);
        traffic.forget(3);
        assert_eq!(traffic.greatest(9, |_| true).len(), 2);
    }
}
