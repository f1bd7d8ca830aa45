//! The open transactions of one shard: half messages that nobody has decided on.
//!
//! Pure state: the shelf applies what the log says, this only keeps who is to be asked when. A decision is
//! final because the shelf gives a message its fate once; here an entry is open or not there.
//!
//! **Invariants.** Each transaction is asked about at most [`limits::TRANSACTION_CHECKS_MAX`] times, then it
//! is given up. One of those that were given up last can be shown to an operator; their number is bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millpond_proto::limits;
use millpond_proto::time::Timestamp;

use crate::broker::shelf::Spot;

/// A transaction that nobody has decided on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenTransaction {
    /// Where its half message lies.
    #[prost(message, required, tag = "1")]
    pub spot: Spot,
    /// Topic that the message is for.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue there.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// When it was stored, ms.
    #[prost(sint64, tag = "4")]
    pub stored_at_ms: i64,
    /// When a producer is asked about it next, ms.
    #[prost(sint64, tag = "5")]
    pub next_check_ms: i64,
    /// How often one was asked.
    #[prost(uint32, tag = "6")]
    pub checks: u32,
}

/// A place in the list of transactions: that of one in it. Open ones come first, the oldest of them before others; then those that
/// were given up, the newest before others.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TransactionPlace {
    /// Whether it was given up.
    #[prost(bool, tag = "1")]
    pub given_up: bool,
    /// When it was stored, ms.
    #[prost(sint64, tag = "2")]
    pub stored_at_ms: i64,
    /// Topic that its message is for.
    #[prost(fixed64, tag = "3")]
    pub topic: u64,
    /// Queue there.
    #[prost(uint32, tag = "4")]
    pub queue: u32,
    /// Where it lies on the shard's shelf.
    #[prost(message, required, tag = "5")]
    pub spot: Spot,
}

impl TransactionPlace {
    /// That of a transaction.
    #[must_use]
    pub fn of(one: &OpenTransaction, given_up: bool) -> Self {
        Self {
            given_up,
            stored_at_ms: one.stored_at_ms,
            topic: one.topic,
            queue: one.queue,
            spot: one.spot,
        }
    }

    /// Places are in the order of these.
    #[must_use]
    pub fn order(&self) -> impl Ord + use<> {
        let age = if self.given_up {
            self.stored_at_ms.saturating_neg()
        } else {
            self.stored_at_ms
        };
        (self.given_up, age, self.topic, self.queue, self.spot)
    }
}

/// The open transactions of a shard, and those that were given up last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transactions {
    open: BTreeMap<Spot, OpenTransaction>,
    by_check: BTreeSet<(i64, Spot)>,
    given_up: VecDeque<OpenTransaction>,
}

impl Transactions {
    /// Those of a snapshot.
    #[must_use]
    pub fn restore(open: &[OpenTransaction], given_up: &[OpenTransaction]) -> Self {
        let mut transactions = Self::default();
        for one in open {
            transactions.begin(one.clone());
        }
        transactions.given_up = given_up.iter().cloned().collect();
        transactions
    }

    /// All that are open, by place.
    pub fn open(&self) -> impl Iterator<Item = &OpenTransaction> {
        self.open.values()
    }

    /// Those given up last, the oldest first.
    pub fn given_up(&self) -> impl DoubleEndedIterator<Item = &OpenTransaction> {
        self.given_up.iter()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// An open one.
    #[must_use]
    pub fn get(&self, spot: Spot) -> Option<&OpenTransaction> {
        self.open.get(&spot)
    }

    /// When a producer is to be asked next.
    #[must_use]
    pub fn next_check(&self) -> Option<Timestamp> {
        self.by_check.first().map(|&(at, _)| Timestamp(at))
    }

    /// Up to `limit` of those to be asked about by now, the longest due first.
    pub fn due(&self, now: Timestamp, limit: usize) -> impl Iterator<Item = &OpenTransaction> {
        self.by_check
            .iter()
            .take_while(move |(at, _)| *at <= now.as_ms())
            .take(limit)
            .filter_map(|(_, spot)| self.open.get(spot))
    }

    /// A half message was stored.
    pub fn begin(&mut self, transaction: OpenTransaction) {
        let spot = transaction.spot;
        self.by_check.insert((transaction.next_check_ms, spot));
        self.open.insert(spot, transaction);
    }

    /// Producers are asked next at this time; those that `asked` names have been asked once more.
    pub fn put_off(&mut self, spots: &[Spot], next_ms: i64, asked: bool) {
        for spot in spots {
            if let Some(one) = self.open.get_mut(spot) {
                self.by_check.remove(&(one.next_check_ms, *spot));
                one.next_check_ms = next_ms;
                one.checks += u32::from(asked);
                self.by_check.insert((next_ms, *spot));
            }
        }
    }

    /// It was decided on, or given up.
    pub fn end(&mut self, spot: Spot, given_up: bool) {
        let Some(one) = self.open.remove(&spot) else {
            return;
        };
        self.by_check.remove(&(one.next_check_ms, spot));
        if given_up {
            if self.given_up.len() >= limits::TRANSACTIONS_GIVEN_UP_KEPT {
                self.given_up.pop_front();
            }
            self.given_up.push_back(one);
        }
    }

    /// The places of all that are for a topic.
    pub fn of_topic(&self, topic: u64) -> impl Iterator<Item = Spot> {
        let of = self.open.values().filter(move |one| one.topic == topic);
        of.map(|one| one.spot)
    }

    /// Whether an open one has been asked about, or has waited, as long as it may.
    #[must_use]
    pub fn is_spent(one: &OpenTransaction, now: Timestamp) -> bool {
        let age = now.since(Timestamp(one.stored_at_ms)).as_millis();
        one.checks >= limits::TRANSACTION_CHECKS_MAX
            || age >= u128::from(limits::TRANSACTION_AGE_MS_MAX.unsigned_abs())
    }
}
