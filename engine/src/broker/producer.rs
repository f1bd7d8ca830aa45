//! Idempotent producers: a message that is sent again is not stored again.
//!
//! A producer that wants it gives itself an id and numbers its messages; both stand in the envelope, so
//! the log itself is what is remembered, and replaying it remembers the same. Part of a shard's state:
//! no I/O, no clock, no async.
//!
//! **Where the window lies.** In the shard of the queue that the message goes to, one window per topic,
//! queue and producer. A message with a key goes to its key's queue, as ever; one without goes to the
//! queue that its producer and number name (turns of [`limits::TURN_MESSAGES`], as for others), so a message that is sent again comes to the queue where it
//! was first. One queue for all messages of a producer would be simpler to explain, but would tear the
//! messages of a key, and of a message group, apart: their order lies in their queue.
//!
//! **What is known.** A window holds the latest [`limits::PRODUCER_WINDOW`] numbers of its producer in
//! that queue with their offsets, and the greatest number that it has let go of. A number above that and
//! not in the window was never stored there; a number in it was; one below is refused, because nobody
//! can tell. Numbers need not be dense, nor come in order: neither loses or doubles anything, and both
//! are what many sends at once over many queues look like.
//!
//! **What waits.** A delayed or a half message is noted when it is put on the shelf, under the queue that it will
//! go to, with its place there: sent again it is answered with the same handle or transaction id, whatever
//! became of it meanwhile. When it leaves the shelf its number is known already, and nothing changes.
//!
//! **Not done.** A queue added between a send and its repetition moves keyless messages, and the
//! repetition is then stored. A producer that was silent for [`limits::PRODUCER_EXPIRY_MS`] may be
//! forgotten.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::{Envelope, flags};

use crate::broker::request::Stored;
use crate::broker::shelf::{Spot, address_of};

/// Who numbers, and where: topic, queue, producer.
type Key = (u64, u32, String);

/// A window in a shard's snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProducerSnapshot {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// The producer's id of itself.
    #[prost(string, tag = "3")]
    pub producer: String,
    /// Numbers, growing.
    #[prost(uint64, repeated, tag = "4")]
    pub sequences: Vec<u64>,
    /// The offset of each.
    #[prost(uint64, repeated, tag = "5")]
    pub offsets: Vec<u64>,
    /// The greatest number that is no longer remembered.
    #[prost(uint64, optional, tag = "6")]
    pub forgotten: Option<u64>,
    /// When the last message was stored.
    #[prost(sint64, tag = "7")]
    pub last_at_ms: i64,
    /// The numbers among them of messages that were put on the shelf, growing; their `offsets` are those of
    /// the shelf.
    #[prost(uint64, repeated, tag = "8")]
    pub shelved: Vec<u64>,
    /// The bucket of each of those.
    #[prost(uint32, repeated, tag = "9")]
    pub buckets: Vec<u32>,
}

/// Where a message was stored first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At this offset of its queue.
    Queue(u64),
    /// On the shelf.
    Shelf(Spot),
}

/// What is remembered of one producer in one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    places: BTreeMap<u64, Place>,
    forgotten: Option<u64>,
    last_at: Timestamp,
}

/// The windows of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    windows: BTreeMap<Key, Window>,
}

/// What becomes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Stored as the n-th of the new ones.
    New(usize),
    /// Stored before, here.
    Repeat(Place),
    /// Too old to tell.
    Stale,
}

/// Messages of one send, told apart.
#[derive(Debug)]
pub struct Screened {
    /// Those to be stored, in order.
    pub new: Vec<Envelope>,
    /// One per message sent; empty when all of them are new.
    verdicts: Vec<Verdict>,
}

impl Screened {
    /// Where each message of the send is, once the new ones have their places; none for one that is too old to
    /// tell.
    #[must_use]
    pub fn places(self, new: Vec<Place>) -> Vec<Option<Place>> {
        if self.verdicts.is_empty() {
            return new.into_iter().map(Some).collect();
        }
        let place = |verdict| match verdict {
            Verdict::New(index) => new.get(index).copied(),
            Verdict::Repeat(place) => Some(place),
            Verdict::Stale => None,
        };
        self.verdicts.into_iter().map(place).collect()
    }

    /// The answer to a send of messages that are visible at once, once the new ones have their offsets.
    #[must_use]
    pub fn answer(self, offsets: Vec<u64>) -> Stored {
        if self.verdicts.is_empty() {
            return Stored {
                offsets,
                stale: Vec::new(),
            };
        }
        let mut answer = Stored::default();
        let new = offsets.into_iter().map(Place::Queue).collect();
        for (index, place) in (0..).zip(self.places(new)) {
            answer.offsets.push(match place {
                Some(Place::Queue(offset)) => offset,
                // Its number belongs to a message that waited: no offset can be told.
                Some(Place::Shelf(_)) | None => {
                    answer.stale.push(index);
                    0
                }
            });
        }
        answer
    }
}

impl Window {
    fn verdict(&self, sequence: u64) -> Option<Verdict> {
        if let Some(&place) = self.places.get(&sequence) {
            return Some(Verdict::Repeat(place));
        }
        let is_stale = self.forgotten.is_some_and(|last| sequence <= last);
        is_stale.then_some(Verdict::Stale)
    }

    fn note(&mut self, sequence: u64, place: Place) {
        self.places.insert(sequence, place);
        if self.places.len() > limits::PRODUCER_WINDOW
            && let Some((oldest, _)) = self.places.pop_first()
        {
            self.forgotten = self.forgotten.max(Some(oldest));
        }
    }

    fn is_expired(&self, now: Timestamp) -> bool {
        now.as_ms() - self.last_at.as_ms() > limits::PRODUCER_EXPIRY_MS
    }
}

impl Producers {
    /// Tells new messages from repeated ones; changes nothing. None: too many producers are remembered here,
    /// and nothing of the send is stored.
    #[must_use]
    pub fn screen(&self, messages: Vec<Envelope>, now: Timestamp) -> Option<Screened> {
        if messages.iter().all(|message| numbered(message).is_none()) {
            let verdicts = Vec::new();
            return Some(Screened {
                new: messages,
                verdicts,
            });
        }
        let mut new: Vec<Envelope> = Vec::with_capacity(messages.len());
        let mut verdicts = Vec::with_capacity(messages.len());
        // What this send itself stores: it may hold a message twice.
        let mut here: BTreeMap<(Key, u64), usize> = BTreeMap::new();
        let mut met: BTreeSet<Key> = BTreeSet::new();
        for message in messages {
            let known = numbered(&message).map(|(key, sequence)| {
                let window = self.windows.get(&key);
                if window.is_none() {
                    met.insert(key.clone());
                }
                let known = window.and_then(|window| window.verdict(sequence));
                let place = (key, sequence);
                let twice = here.get(&place).copied().map(Verdict::New);
                let known = known.or(twice);
                if known.is_none() {
                    here.insert(place, new.len());
                }
                known
            });
            verdicts.push(known.flatten().unwrap_or(Verdict::New(new.len())));
            if known.flatten().is_none() {
                new.push(message);
            }
        }
        let is_full = self.windows.len() + met.len() > limits::PRODUCERS_PER_SHARD_MAX;
        if is_full && !met.is_empty() {
            let expired = self.windows.values().filter(|w| w.is_expired(now)).count();
            if self.windows.len() - expired + met.len() > limits::PRODUCERS_PER_SHARD_MAX {
                return None;
            }
        }
        Some(Screened { new, verdicts })
    }

    /// Applies that a message was stored in its queue.
    pub fn stored(&mut self, message: &Envelope) {
        // A committed one was noted when it was prepared, and its transaction is what names it.
        let is_new = message.flags & flags::TRANSACTION == 0;
        if let Some((key, sequence)) = numbered(message).filter(|_| is_new) {
            let place = Place::Queue(message.offset);
            self.note(key, sequence, place, message.stored_at());
        }
    }

    /// Applies that a message was put on the shelf.
    pub fn shelved(&mut self, message: &Envelope) {
        let Some(to) = address_of(message) else {
            return;
        };
        if let Some(((_, _, producer), sequence)) = numbered(message) {
            let spot = Spot {
                bucket: message.queue,
                number: message.offset,
            };
            let key = (to.topic, to.queue, producer);
            self.note(key, sequence, Place::Shelf(spot), message.stored_at());
        }
    }

    fn note(&mut self, key: Key, sequence: u64, place: Place, at: Timestamp) {
        if !self.windows.contains_key(&key) && self.windows.len() >= limits::PRODUCERS_PER_SHARD_MAX
        {
            self.windows.retain(|_, window| !window.is_expired(at));
            // One that leaves the shelf was not screened again: its producer may be forgotten by now.
            if self.windows.len() >= limits::PRODUCERS_PER_SHARD_MAX {
                return;
            }
        }
        let window = self.windows.entry(key).or_default();
        if window.verdict(sequence).is_none() {
            window.note(sequence, place);
            window.last_at = window.last_at.max(at);
        }
    }

    /// Applies that a topic is gone.
    pub fn forget_topic(&mut self, topic: u64) {
        self.windows.retain(|(t, _, _), _| *t != topic);
    }

    /// Whether something of a topic is remembered.
    #[must_use]
    pub fn knows_topic(&self, topic: u64) -> bool {
        let mut of_topic = self.windows.range((topic, 0, String::new())..);
        of_topic.next().is_some_and(|((t, _, _), _)| *t == topic)
    }

    /// The windows as a snapshot holds them.
    #[must_use]
    pub fn snapshot(&self) -> Vec<ProducerSnapshot> {
        let windows = self.windows.iter();
        let saved = windows.map(|((topic, queue, producer), window)| {
            let mut saved = ProducerSnapshot {
                topic: *topic,
                queue: *queue,
                producer: producer.clone(),
                sequences: window.places.keys().copied().collect(),
                forgotten: window.forgotten,
                last_at_ms: window.last_at.as_ms(),
                ..ProducerSnapshot::default()
            };
            for (sequence, place) in &window.places {
                match place {
                    Place::Queue(offset) => saved.offsets.push(*offset),
                    Place::Shelf(spot) => {
                        saved.offsets.push(spot.number);
                        saved.shelved.push(*sequence);
                        saved.buckets.push(spot.bucket);
                    }
                }
            }
            saved
        });
        saved.collect()
    }

    /// The windows that a snapshot holds.
    #[must_use]
    pub fn restore(saved: Vec<ProducerSnapshot>) -> Self {
        let windows = saved.into_iter().map(|one| {
            let places = one.sequences.into_iter().zip(one.offsets);
            let mut places: BTreeMap<u64, Place> = places
                .map(|(sequence, offset)| (sequence, Place::Queue(offset)))
                .collect();
            for (sequence, bucket) in one.shelved.into_iter().zip(one.buckets) {
                if let Some(place) = places.get_mut(&sequence)
                    && let Place::Queue(number) = *place
                {
                    *place = Place::Shelf(Spot { bucket, number });
                }
            }
            let window = Window {
                places,
                forgotten: one.forgotten,
                last_at: Timestamp(one.last_at_ms),
            };
            ((one.topic, one.queue, one.producer), window)
        });
        Self {
            windows: windows.collect(),
        }
    }
}

/// What places a message without a key that is numbered: the same bytes for the same message, and for the
/// neighbours that take their turn with it.
#[must_use]
pub fn placing_key(message: &Envelope) -> Option<Vec<u8>> {
    let (producer, sequence) = (message.producer_id.as_ref()?, message.producer_sequence?);
    let mut key = producer.clone().into_bytes();
    let turn = sequence / u64::from(limits::TURN_MESSAGES);
    key.extend_from_slice(&turn.to_le_bytes());
    Some(key)
}

fn numbered(message: &Envelope) -> Option<(Key, u64)> {
    let producer = message.producer_id.clone()?;
    let sequence = message.producer_sequence?;
    Some(((message.topic, message.queue, producer), sequence))
}

#[cfg(test)]
mod tests;
