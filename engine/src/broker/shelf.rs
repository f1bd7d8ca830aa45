//! The shelf of one shard: messages that are stored and not visible yet, because their time has not come or
//! their transaction is open.
//!
//! A shelved message is an ordinary message of the log, in a topic that only the shard knows
//! ([`shelf_topic`]): cached, read, moved to Parquet, verified like any other. Its queue there is a *bucket*:
//! the hour in which it is due, or, for half messages, the hour in which it was stored. So what is due
//! together lies together, whatever the horizon, and a bucket that is done with goes as a whole. When a
//! message leaves the shelf, it is placed in its own queue and its fate is marked, in one append.
//!
//! Kept here are the fates (two bits each, of the decided ones), the times of what is due within the hour
//! ([`timer`](super::timer)) and the open transactions ([`transaction`](super::transaction)); never a body.
//!
//! **Invariants.** A fate is given once, so a message is placed once or never, whatever is asked twice.
//! Deciding changes nothing; [`Shelf::put`], [`Shelf::apply`] and [`Shelf::close`] are the only mutations of
//! the state. No I/O, no clock, no async.

use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_proto::limits;
use millpond_proto::message::ShardId;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::{Envelope, Property, PropertyValue};
use millpond_storage::log::Record;
use millpond_storage::tier::cold::erasure::emptied;
use prost::Message as _;

use crate::broker::fates::{Fate, Fates};
use crate::broker::record::{Change, ShardSnapshotRecord};
use crate::broker::timer::{HOUR_MS, Timer, Wish, bucket_at, start_of};
use crate::broker::transaction::{OpenTransaction, Transactions};

/// Above every id that the catalog gives out.
const TOPICS: u64 = 0xFFFF_FFFF_FFFF_0000;
/// Buckets from here on hold half messages.
const HALVES: u32 = 1 << 31;
/// Property that carries a shelved message's [`Address`]; taken off when it is placed.
const ADDRESS: &str = "millpond-address";
/// How long the fates of a bucket that is done with are remembered, so that a late question is answered.
const REMEMBERED_HOURS: u32 = 24;
/// Messages whose fates are remembered beyond their bucket's end.
const REMEMBERED_MAX: u64 = 4_000_000;

/// The topic of a shard's shelf.
#[must_use]
pub fn shelf_topic(shard: ShardId) -> u64 {
    TOPICS | u64::from(shard.0)
}

/// Whether a topic is a shelf.
#[must_use]
pub fn is_shelf(topic: u64) -> bool {
    topic >= TOPICS
}

/// Where a message lies on its shard's shelf.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Spot {
    /// The bucket.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// Its number there.
    #[prost(uint64, tag = "2")]
    pub number: u64,
}

impl Spot {
    /// Whether a half message lies there.
    #[must_use]
    pub fn is_half(self) -> bool {
        self.bucket >= HALVES
    }
}

/// Where a shelved message is to go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Half messages: how long after it was stored its producer is asked first, ms.
    #[prost(int64, tag = "3")]
    pub check_after_ms: i64,
}

/// Puts the address on a message that is to be shelved.
pub fn address(message: &mut Envelope, address: &Address) {
    message.properties.push(Property {
        key: ADDRESS.to_owned(),
        value: Some(PropertyValue::Binary(address.encode_to_vec().into())),
    });
}

/// Reads the address of a shelved message.
#[must_use]
pub fn address_of(message: &Envelope) -> Option<Address> {
    let last = message
        .properties
        .last()
        .filter(|last| last.key == ADDRESS)?;
    match &last.value {
        Some(PropertyValue::Binary(bytes)) => Address::decode(bytes.as_ref()).ok(),
        _ => None,
    }
}

/// Makes a shelved message what it is for its readers, but for its offset and store time.
#[must_use]
pub fn unshelved(mut message: Envelope) -> Option<Envelope> {
    let address = address_of(&message)?;
    message.properties.pop();
    message.topic = address.topic;
    message.queue = address.queue;
    Some(message)
}

/// What is left of a shelved message for `topic` when it is erased: it keeps its address and the time that it waits for, so it
/// is still placed, recalled or decided on. None of a message for another topic.
#[must_use]
pub fn erased(message: &Envelope, topic: u64) -> Option<Envelope> {
    let to = address_of(message).filter(|to| to.topic == topic)?;
    let mut rest = emptied(message);
    rest.due_at_ms = message.due_at_ms;
    address(&mut rest, &to);
    Some(rest)
}

/// Messages have left the shelf.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Left {
    /// Bucket.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// Their numbers.
    #[prost(uint64, repeated, tag = "2")]
    pub numbers: Vec<u64>,
    /// Their times, ms; delayed messages only.
    #[prost(sint64, repeated, tag = "3")]
    pub due_ms: Vec<i64>,
    /// What became of them.
    #[prost(enumeration = "Fate", tag = "4")]
    pub fate: i32,
}

/// Producers were asked about transactions, or there was nobody to ask.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Checked {
    /// Which.
    #[prost(message, repeated, tag = "1")]
    pub spots: Vec<Spot>,
    /// When it is done next, ms.
    #[prost(sint64, tag = "2")]
    pub next_ms: i64,
    /// Whether somebody was asked.
    #[prost(bool, tag = "3")]
    pub asked: bool,
}

/// A bucket as a snapshot holds it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BucketSnapshot {
    /// Bucket.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// How many messages it has.
    #[prost(uint64, tag = "2")]
    pub count: u64,
    /// What became of them, see [`Fates::bits`].
    #[prost(bytes = "bytes", tag = "3")]
    pub fates: Bytes,
    /// Whether it is done with.
    #[prost(bool, tag = "4")]
    pub closed: bool,
}

/// Which bound of a shelf would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// [`limits::DELAYED_PER_HOUR_MAX`].
    Hour,
    /// [`limits::TRANSACTIONS_OPEN_MAX`].
    Transactions,
}

/// A shard's shelf.
#[derive(Debug, PartialEq)]
pub struct Shelf {
    shard: ShardId,
    /// Buckets that may take messages, or have some that wait.
    buckets: BTreeMap<u32, Fates>,
    /// Done with, and remembered.
    closed: BTreeMap<u32, Fates>,
    timer: Timer,
    transactions: Transactions,
}

impl Shelf {
    /// The shelf that a snapshot holds.
    #[must_use]
    pub fn restore(shard: ShardId, snapshot: &ShardSnapshotRecord) -> Self {
        let fates = |one: &BucketSnapshot| (one.bucket, Fates::restore(one.count, &one.fates));
        let of = |closed| {
            let those = snapshot
                .buckets
                .iter()
                .filter(move |one| one.closed == closed);
            those.map(fates).collect()
        };
        Self {
            shard,
            buckets: of(false),
            closed: of(true),
            timer: Timer::default(),
            transactions: Transactions::restore(
                &snapshot.transactions,
                &snapshot.transactions_given_up,
            ),
        }
    }

    /// Puts the shelf into a snapshot.
    pub fn save(&self, snapshot: &mut ShardSnapshotRecord) {
        let saved = |closed| {
            move |(&bucket, fates): (&u32, &Fates)| BucketSnapshot {
                bucket,
                count: fates.count(),
                fates: fates.bits().to_vec().into(),
                closed,
            }
        };
        let open = self.buckets.iter().map(saved(false));
        snapshot.buckets = open.chain(self.closed.iter().map(saved(true))).collect();
        snapshot.transactions = self.transactions.open().cloned().collect();
        snapshot.transactions_given_up = self.transactions.given_up().cloned().collect();
    }

    /// The open transactions, and those that were given up.
    #[must_use]
    pub fn transactions(&self) -> &Transactions {
        &self.transactions
    }

    /// The timer.
    #[must_use]
    pub fn timer(&self) -> &Timer {
        &self.timer
    }

    /// The timer, for whoever loads it.
    pub fn timer_mut(&mut self) -> &mut Timer {
        &mut self.timer
    }

    /// What the timer wants.
    #[must_use]
    pub fn wish(&self, now: Timestamp) -> Wish {
        self.timer.wish(self.waiting_from(0), now)
    }

    /// Up to `limit` messages whose time has come and which may go, the earliest first.
    pub fn take_due(&mut self, now: Timestamp, limit: usize) -> Vec<(Timestamp, Spot)> {
        let end = self.wish(now).fire_before;
        let mut ready = Vec::new();
        for (due, number) in self.timer.due(now, end, limit) {
            let bucket = bucket_at(due);
            let spot = Spot { bucket, number };
            if self.fate(spot) == Some(Fate::Waiting) {
                ready.push((due, spot));
            } else {
                self.timer.remove(due, number);
            }
        }
        ready
    }

    /// Up to `limit` of the messages that are due next, whatever the time is, behind the first `skip`.
    #[must_use]
    pub fn next_due(&self, skip: usize, limit: usize) -> Vec<(Timestamp, Spot)> {
        let next = self.timer.next(skip, limit);
        next.map(|(due, number)| {
            let bucket = bucket_at(due);
            (due, Spot { bucket, number })
        })
        .collect()
    }

    /// A bucket was read: these are its messages.
    pub fn loaded(&mut self, bucket: u32, messages: Vec<(Timestamp, u64)>) {
        let fates = self.buckets.get(&bucket);
        let waits = |number| fates.and_then(|fates| fates.of(number)) == Some(Fate::Waiting);
        let waiting = messages.into_iter().filter(|&(_, number)| waits(number));
        self.timer.finish(bucket, waiting);
    }

    /// Buckets of delayed messages that have some waiting, and how many messages they have, from one on.
    pub fn waiting_from(&self, bucket: u32) -> impl Iterator<Item = (u32, u64)> {
        let buckets = self.buckets.range(bucket.min(HALVES)..HALVES);
        let waiting = buckets.filter(|(_, fates)| fates.waiting() > 0);
        waiting.map(|(&bucket, fates)| (bucket, fates.count()))
    }

    /// What became of a message; `None` when it is not known.
    #[must_use]
    pub fn fate(&self, spot: Spot) -> Option<Fate> {
        let fates = self.buckets.get(&spot.bucket);
        let fates = fates.or_else(|| self.closed.get(&spot.bucket))?;
        fates.of(spot.number)
    }

    /// Whether a bucket still has messages that wait or may come.
    #[must_use]
    pub fn is_live(&self, bucket: u32) -> bool {
        self.buckets.contains_key(&bucket)
    }

    /// Gives messages their spots, delayed ones by `due_at_ms`.
    ///
    /// # Errors
    /// [`Full`] when a bound would be passed; then none of them is taken.
    pub fn place(
        &self,
        messages: Vec<Envelope>,
        half: bool,
        now: Timestamp,
    ) -> Result<(Vec<Record>, Vec<Spot>), Full> {
        let topic = shelf_topic(self.shard);
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let mut records = Vec::with_capacity(messages.len());
        let mut spots = Vec::with_capacity(messages.len());
        if half && self.transactions.len() + messages.len() > limits::TRANSACTIONS_OPEN_MAX {
            return Err(Full::Transactions);
        }
        for mut message in messages {
            let bucket = if half {
                HALVES | bucket_at(now)
            } else {
                bucket_at(Timestamp(message.due_at_ms.unwrap_or(0)))
            };
            let count = || self.buckets.get(&bucket).map_or(0, Fates::count);
            let number = next.entry(bucket).or_insert_with(count);
            if !half && *number >= limits::DELAYED_PER_HOUR_MAX as u64 {
                return Err(Full::Hour);
            }
            message.topic = topic;
            message.queue = bucket;
            message.offset = *number;
            message.stored_at_ms = now.as_ms();
            spots.push(Spot {
                bucket,
                number: *number,
            });
            *number += 1;
            records.push(Record::Message(message));
        }
        Ok((records, spots))
    }

    /// The marks of messages that leave with one fate, by bucket; those that do not wait are left out.
    #[must_use]
    pub fn leave(&self, leaving: &[(Spot, i64)], fate: Fate) -> Vec<Change> {
        let mut by_bucket: BTreeMap<u32, Left> = BTreeMap::new();
        for &(spot, due_ms) in leaving {
            if self.fate(spot) != Some(Fate::Waiting) {
                continue;
            }
            let left = by_bucket.entry(spot.bucket).or_insert_with(|| Left {
                bucket: spot.bucket,
                fate: fate.into(),
                ..Left::default()
            });
            left.numbers.push(spot.number);
            if !spot.is_half() {
                left.due_ms.push(due_ms);
            }
        }
        by_bucket.into_values().map(Change::ShelfLeft).collect()
    }

    /// Buckets that are done with by now: their hour is over and nothing of them waits.
    #[must_use]
    pub fn finished(&self, now: Timestamp) -> Vec<u32> {
        let over = |bucket: u32| start_of(bucket & !HALVES).as_ms() + HOUR_MS <= now.as_ms();
        let done = |(&bucket, fates): (&u32, &Fates)| fates.waiting() == 0 && over(bucket);
        self.buckets
            .iter()
            .filter(|one| done(*one))
            .map(|(&bucket, _)| bucket)
            .collect()
    }

    /// A message was put on the shelf.
    pub fn put(&mut self, message: &Envelope) {
        let spot = Spot {
            bucket: message.queue,
            number: message.offset,
        };
        self.buckets
            .entry(spot.bucket)
            .or_default()
            .extend_to(spot.number);
        if !spot.is_half() {
            if let Some(due) = message.due_at_ms {
                self.timer
                    .add(Timestamp(due), spot.number, message.stored_at());
            }
            return;
        }
        if let Some(address) = address_of(message) {
            self.transactions.begin(OpenTransaction {
                spot,
                topic: address.topic,
                queue: address.queue,
                stored_at_ms: message.stored_at_ms,
                next_check_ms: message.stored_at_ms.saturating_add(address.check_after_ms),
                checks: 0,
            });
        }
    }

    /// A message of the shelf was found to be damaged: its number is taken, its content is lost.
    pub fn put_lost(&mut self, bucket: u32, number: u64) {
        let fates = self.buckets.entry(bucket).or_default();
        fates.extend_to(number);
        fates.give(number, Fate::GivenUp);
    }

    /// Applies a change; hands back one that is not of the shelf.
    pub fn apply(&mut self, change: Change) -> Option<Change> {
        match change {
            Change::ShelfLeft(left) => {
                let fate = left.fate();
                let given_up = fate == Fate::GivenUp;
                let dues = left.due_ms.iter().map(Some).chain(std::iter::repeat(None));
                for (&number, due) in left.numbers.iter().zip(dues) {
                    let bucket = left.bucket;
                    if let Some(fates) = self.buckets.get_mut(&bucket) {
                        fates.give(number, fate);
                    }
                    match due {
                        Some(due) => self.timer.remove(Timestamp(*due), number),
                        None => self.transactions.end(Spot { bucket, number }, given_up),
                    }
                }
            }
            Change::ShelfChecked(checked) => {
                self.transactions
                    .put_off(&checked.spots, checked.next_ms, checked.asked);
            }
            other => return Some(other),
        }
        None
    }

    /// A bucket is done with.
    pub fn close(&mut self, bucket: u32) {
        self.timer.forget(bucket);
        if let Some(fates) = self.buckets.remove(&bucket) {
            self.closed.insert(bucket, fates);
        }
        let oldest = (bucket & !HALVES).saturating_sub(REMEMBERED_HOURS);
        self.closed.retain(|other, _| other & !HALVES >= oldest);
        let mut count: u64 = self.closed.values().map(Fates::count).sum();
        while count > REMEMBERED_MAX {
            let oldest = self.closed.keys().min_by_key(|other| **other & !HALVES);
            let Some(oldest) = oldest.copied() else { break };
            count -= self.closed.remove(&oldest).map_or(0, |fates| fates.count());
        }
    }

    /// A topic is gone, and its open transactions with it.
    pub fn forget_topic(&mut self, topic: u64) {
        let spots: Vec<Spot> = self.transactions.of_topic(topic).collect();
        for spot in spots {
            self.transactions.end(spot, false);
            if let Some(fates) = self.buckets.get_mut(&spot.bucket) {
                fates.give(spot.number, Fate::GivenUp);
            }
        }
    }

    /// Whether a transaction is open for a topic.
    #[must_use]
    pub fn knows_topic(&self, topic: u64) -> bool {
        self.transactions.of_topic(topic).next().is_some()
    }
}

#[cfg(test)]
mod tests;
