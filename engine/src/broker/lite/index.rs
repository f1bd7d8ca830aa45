//! Which lite topics a shard has, and where their messages lie: part of the shard's state.
//!
//! No I/O, no clock, no async. A name is found by its hash; the hash also says where the search for a free number
//! begins, so that numbers are given out without a counter that would have to be kept. A number that is free
//! again may be given to another name: offsets of the real queue only grow, so that a handle of the old one never
//! fits the new one.
//!
//! **Memory.** A lite topic without messages costs its name and some 200 bytes (`benches/lite.rs` measures it),
//! a message one or two bytes.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::message::stable_hash;
use millpond_storage::format::envelope::Envelope;

use crate::broker::lite::offsets::Offsets;
use crate::broker::lite::{
    LITE, LiteLetGo, LiteMade, LiteName, LiteSnapshot, LitesGone, NUMBERS, numbered, real,
};
use crate::broker::record::{Change, Trimmed};

/// One lite topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lite {
    /// Name.
    pub name: Box<str>,
    /// When its last message was stored, or it was made.
    pub stored_at_ms: i64,
    /// Where its messages lie in the real queue.
    pub offsets: Offsets,
}

/// The lite topics of one parent in a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parent {
    /// By lite queue.
    lites: BTreeMap<u32, Lite>,
    /// Upper bits of the name's hash, and the lite queue.
    hashes: BTreeSet<u64>,
    /// How many there are, by real queue.
    counts: BTreeMap<u32, u32>,
}

/// The lite topics of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lites {
    parents: BTreeMap<u64, Parent>,
}

/// Why no lite topic could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Lites {
    /// The lite queue of a name.
    #[must_use]
    pub fn find(&self, topic: u64, name: &LiteName) -> Option<u32> {
        self.parents.get(&topic)?.find(name.queue, &name.name)
    }

    /// A lite topic by its lite queue.
    #[must_use]
    pub fn get(&self, topic: u64, queue: u32) -> Option<&Lite> {
        self.parents.get(&topic)?.lites.get(&queue)
    }

    /// Whether a message is one of a lite topic.
    #[must_use]
    pub fn holds(&self, topic: u64, queue: u32, offset: u64) -> bool {
        let lite = self.get(topic, queue);
        lite.is_some_and(|lite| lite.offsets.from(offset).next() == Some(offset))
    }

    /// Whether a message is the only one of its lite topic.
    #[must_use]
    pub fn is_first(&self, message: &Envelope) -> bool {
        let parent = self.parents.get(&message.topic);
        let lite = parent.zip(message.lite_topic.as_deref());
        let lite = lite.and_then(|(parent, name)| {
            let queue = parent.find(message.queue, name)?;
            parent.lites.get(&queue)
        });
        lite.is_some_and(|lite| lite.offsets.count() == 1)
    }

    /// Decides on a lite queue for a name that has none; `taken` are those decided on in the same breath.
    ///
    /// # Errors
    /// [`Full`] when the real queue has as many as it may.
    pub fn choose(&self, topic: u64, name: &LiteName, taken: &BTreeSet<u32>) -> Result<u32, Full> {
        let parent = self.parents.get(&topic);
        let count = parent.and_then(|parent| parent.counts.get(&name.queue));
        if count.map_or(0, |count| *count as usize) + taken.len()
            >= limits::LITE_TOPICS_PER_QUEUE_MAX
        {
            return Err(Full);
        }
        let is_free = |queue: &u32| {
            !taken.contains(queue) && parent.is_none_or(|parent| !parent.lites.contains_key(queue))
        };
        let start = number_of(stable_hash(name.name.as_bytes()));
        let mut tried = (0..NUMBERS).map(|step| numbered(name.queue, start.wrapping_add(step)));
        tried.find(is_free).ok_or(Full)
    }

    /// The lite topics of a parent from a lite queue on.
    pub fn of_topic(&self, topic: u64, from: u32) -> impl Iterator<Item = (u32, &Lite)> {
        let parent = self.parents.get(&topic);
        let lites = parent.map(|parent| parent.lites.range(from..));
        lites
            .into_iter()
            .flatten()
            .map(|(queue, lite)| (*queue, lite))
    }

    /// How many lite topics a parent has here.
    #[must_use]
    pub fn count(&self, topic: u64) -> usize {
        let parent = self.parents.get(&topic);
        parent.map_or(0, |parent| parent.lites.len())
    }

    /// Whether anything is kept of a topic.
    #[must_use]
    pub fn knows_topic(&self, topic: u64) -> bool {
        self.parents.contains_key(&topic)
    }

    /// Applies that a message was stored.
    pub fn stored(&mut self, message: &Envelope) {
        let Some(name) = &message.lite_topic else {
            return;
        };
        let Some(parent) = self.parents.get_mut(&message.topic) else {
            return;
        };
        if let Some(queue) = parent.find(message.queue, name)
            && let Some(lite) = parent.lites.get_mut(&queue)
        {
            lite.offsets.push(message.offset);
            lite.stored_at_ms = lite.stored_at_ms.max(message.stored_at_ms);
        }
    }

    /// Applies what concerns lite topics of a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::LiteMade(made) => self.made(made),
            Change::LitesGone(gone) => self.gone(gone),
            Change::LiteLetGo(let_go) => self.let_go(let_go),
            Change::Trimmed(trimmed) => self.trimmed(trimmed),
            Change::TopicForgotten(topic) => {
                self.parents.remove(topic);
            }
            _ => {}
        }
    }

    fn made(&mut self, made: &LiteMade) {
        let lite = Lite {
            name: made.name.as_str().into(),
            stored_at_ms: made.at_ms,
            offsets: Offsets::default(),
        };
        self.parents
            .entry(made.topic)
            .or_default()
            .insert(made.queue, lite);
    }

    fn gone(&mut self, gone: &LitesGone) {
        let Some(parent) = self.parents.get_mut(&gone.topic) else {
            return;
        };
        for &queue in &gone.queues {
            parent.remove(queue);
        }
        if parent.lites.is_empty() {
            self.parents.remove(&gone.topic);
        }
    }

    fn let_go(&mut self, let_go: &LiteLetGo) {
        let parent = self.parents.get_mut(&let_go.topic);
        if let Some(lite) = parent.and_then(|parent| parent.lites.get_mut(&let_go.queue)) {
            lite.offsets.let_go(let_go.first);
        }
    }

    fn trimmed(&mut self, trimmed: &Trimmed) {
        for first in &trimmed.firsts {
            let Some(parent) = self.parents.get_mut(&first.topic) else {
                continue;
            };
            let of_queue = numbered(first.queue, 0)..=numbered(first.queue, NUMBERS - 1);
            for (_, lite) in parent.lites.range_mut(of_queue) {
                lite.offsets.let_go(first.offset);
            }
        }
    }

    /// What a snapshot holds of them.
    #[must_use]
    pub fn save(&self) -> Vec<LiteSnapshot> {
        let all = self.parents.iter();
        let all = all.flat_map(|(topic, parent)| {
            let lites = parent.lites.iter();
            lites.map(move |(queue, lite)| (*topic, *queue, lite))
        });
        let saved = all.map(|(topic, queue, lite)| {
            let mut before = 0;
            let steps = lite.offsets.walk().map(|offset| {
                let step = offset - before;
                before = offset;
                step
            });
            LiteSnapshot {
                topic,
                queue,
                steps: steps.collect(),
                name: lite.name.to_string(),
                stored_at_ms: lite.stored_at_ms,
            }
        });
        saved.collect()
    }

    /// What a snapshot held of them.
    #[must_use]
    pub fn restore(saved: &[LiteSnapshot]) -> Self {
        let mut lites = Self::default();
        for one in saved {
            let mut offset = 0_u64;
            let offsets = one.steps.iter().map(|step| {
                offset = offset.saturating_add(*step);
                offset
            });
            let lite = Lite {
                offsets: offsets.collect(),
                name: one.name.as_str().into(),
                stored_at_ms: one.stored_at_ms,
            };
            let parent = lites.parents.entry(one.topic).or_default();
            parent.insert(one.queue | LITE, lite);
        }
        lites
    }
}

impl Parent {
    fn find(&self, real: u32, name: &str) -> Option<u32> {
        let alike = key(numbered(real, 0), name)..=key(numbered(real, NUMBERS - 1), name);
        let alike = self.hashes.range(alike);
        let mut alike = alike.map(|key| numbered(real, number_of(*key)));
        alike.find(|queue| {
            let lite = self.lites.get(queue);
            lite.is_some_and(|lite| &*lite.name == name)
        })
    }

    fn insert(&mut self, queue: u32, lite: Lite) {
        self.hashes.insert(key(queue, &lite.name));
        if self.lites.insert(queue, lite).is_none() {
            *self.counts.entry(real(queue)).or_default() += 1;
        }
    }

    fn remove(&mut self, queue: u32) {
        let Some(lite) = self.lites.remove(&queue) else {
            return;
        };
        self.hashes.remove(&key(queue, &lite.name));
        if let Some(count) = self.counts.get_mut(&real(queue)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&real(queue));
            }
        }
    }
}

/// The upper bits of a name's hash, and its lite queue: what names are found by.
fn key(queue: u32, name: &str) -> u64 {
    let hash = stable_hash(name.as_bytes()) & !u64::from(LITE - 1);
    hash | u64::from(queue & !LITE)
}

/// The lowest bits.
fn number_of(key: u64) -> u32 {
    u32::try_from(key % u64::from(NUMBERS)).expect("a remainder of 21 bits")
}
