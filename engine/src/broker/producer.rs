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
//! **Not done.** A queue added between a send and its repetition moves keyless messages, and the
//! repetition is then stored. A producer that was silent for [`limits::PRODUCER_EXPIRY_MS`] may be
//! forgotten.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;

use crate::broker::request::Stored;

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
}

/// What is remembered of one producer in one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    offsets: BTreeMap<u64, u64>,
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
    Repeat(u64),
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
    /// The answer to the send, once the new ones have their offsets.
    #[must_use]
    pub fn answer(self, offsets: Vec<u64>) -> Stored {
        if self.verdicts.is_empty() {
            return Stored {
                offsets,
                stale: Vec::new(),
            };
        }
        let mut answer = Stored::default();
        for (place, verdict) in (0..).zip(self.verdicts) {
            answer.offsets.push(match verdict {
                Verdict::New(index) => offsets.get(index).copied().unwrap_or(0),
                Verdict::Repeat(offset) => offset,
                Verdict::Stale => {
                    answer.stale.push(place);
                    0
                }
            });
        }
        answer
    }
}

impl Window {
    fn verdict(&self, sequence: u64) -> Option<Verdict> {
        if let Some(&offset) = self.offsets.get(&sequence) {
            return Some(Verdict::Repeat(offset));
        }
        let is_stale = self.forgotten.is_some_and(|last| sequence <= last);
        is_stale.then_some(Verdict::Stale)
    }

    fn note(&mut self, sequence: u64, offset: u64) {
        self.offsets.insert(sequence, offset);
        if self.offsets.len() > limits::PRODUCER_WINDOW
            && let Some((oldest, _)) = self.offsets.pop_first()
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

    /// Applies that a message was stored.
    pub fn stored(&mut self, message: &Envelope) {
        let Some((key, sequence)) = numbered(message) else {
            return;
        };
        let at = message.stored_at();
        let is_full = self.windows.len() >= limits::PRODUCERS_PER_SHARD_MAX;
        if is_full && !self.windows.contains_key(&key) {
            self.windows.retain(|_, window| !window.is_expired(at));
        }
        let window = self.windows.entry(key).or_default();
        window.note(sequence, message.offset);
        window.last_at = window.last_at.max(at);
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
        let saved = windows.map(|((topic, queue, producer), window)| ProducerSnapshot {
            topic: *topic,
            queue: *queue,
            producer: producer.clone(),
            sequences: window.offsets.keys().copied().collect(),
            offsets: window.offsets.values().copied().collect(),
            forgotten: window.forgotten,
            last_at_ms: window.last_at.as_ms(),
        });
        saved.collect()
    }

    /// The windows that a snapshot holds.
    #[must_use]
    pub fn restore(saved: Vec<ProducerSnapshot>) -> Self {
        let windows = saved.into_iter().map(|one| {
            let window = Window {
                offsets: one.sequences.into_iter().zip(one.offsets).collect(),
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
