//! What a shard decides about messages that are not visible yet: shelving, firing, recalling, the end of a
//! transaction.
//!
//! A message that leaves the shelf for its queue is placed and marked in one append. Whatever is asked twice
//! adds nothing: the fate of a message is given once.

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::{Envelope, flags};
use millpond_storage::log::Record;

use crate::broker::fates::Fate;
use crate::broker::producer::Place;
use crate::broker::record::Change;
use crate::broker::request::{Reason, Reply};
use crate::broker::shelf::{Checked, Full, Shelf, Spot};
use crate::broker::state::{Decision, ShardState};
use crate::broker::timer::{HOUR_MS, start_of};
use crate::broker::transaction::{OpenTransaction, TransactionPlace, Transactions};

/// Messages that are not visible yet; each with the topic and queue that it will go to, and with an address
/// ([`crate::broker::shelf::address`]).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shelve {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<Envelope>,
    /// Whether they wait for the end of a transaction, not for a time.
    #[prost(bool, tag = "2")]
    pub half: bool,
}

/// Where a message was put that came to be shelved.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Shelved {
    /// On the shelf; none when its time had come already.
    #[prost(message, optional, tag = "1")]
    pub spot: Option<Spot>,
    /// Its offset in its queue, when its time had come already.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Not stored: its producer numbered it too long ago to tell whether it was before.
    #[prost(bool, tag = "3")]
    pub is_stale: bool,
}

impl Shelved {
    fn at(place: Option<Place>) -> Self {
        match place {
            Some(Place::Queue(offset)) => Self {
                offset,
                ..Self::default()
            },
            Some(Place::Shelf(spot)) => Self {
                spot: Some(spot),
                ..Self::default()
            },
            None => Self {
                is_stale: true,
                ..Self::default()
            },
        }
    }
}

/// The answer to [`Shelve`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllShelved {
    /// One per message, in order.
    #[prost(message, repeated, tag = "1")]
    pub places: Vec<Shelved>,
}

/// The time of these messages has come.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fire {
    /// Where they lie.
    #[prost(message, repeated, tag = "1")]
    pub spots: Vec<Spot>,
    /// As they are to be placed, in the same order.
    #[prost(message, repeated, tag = "2")]
    pub messages: Vec<Envelope>,
    /// Those that can not be placed: damaged, or their topic is gone.
    #[prost(message, repeated, tag = "3")]
    pub lost: Vec<Spot>,
    /// Their times, ms, in the same order.
    #[prost(sint64, repeated, tag = "4")]
    pub lost_due_ms: Vec<i64>,
}

impl Fire {
    /// The same in parts of at most `count` messages, in their order; those that can not be placed are a part of
    /// their own.
    pub fn slices(self, count: usize) -> impl Iterator<Item = Self> {
        let Self {
            spots,
            messages,
            lost,
            lost_due_ms,
        } = self;
        let (mut spots, mut messages) = (spots.into_iter(), messages.into_iter());
        let placed = std::iter::from_fn(move || {
            let slice = Self {
                spots: spots.by_ref().take(count).collect(),
                messages: messages.by_ref().take(count).collect(),
                ..Self::default()
            };
            (!slice.spots.is_empty()).then_some(slice)
        });
        let given_up = (!lost.is_empty()).then(|| Self {
            lost,
            lost_due_ms,
            ..Self::default()
        });
        placed.chain(given_up)
    }
}

/// A delayed message is to be taken back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Recall {
    /// Where it lies.
    #[prost(message, required, tag = "1")]
    pub spot: Spot,
    /// Its time, ms; none when the message is not there any more: then it is only asked what became of it.
    #[prost(sint64, optional, tag = "2")]
    pub due_ms: Option<i64>,
}

/// A transaction ends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EndHalf {
    /// Where its message lies.
    #[prost(message, required, tag = "1")]
    pub spot: Spot,
    /// Whether it is committed.
    #[prost(bool, tag = "2")]
    pub commit: bool,
    /// The message as it is to be placed; none when it can not be read any more.
    #[prost(message, optional, boxed, tag = "3")]
    pub message: Option<Box<Envelope>>,
}

/// Which transactions are asked for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransactionsOf {
    /// Only those about which a producer is to be asked now.
    #[prost(bool, tag = "1")]
    pub due: bool,
    /// Most of them.
    #[prost(uint32, tag = "2")]
    pub limit: u32,
    /// Of this topic; 0: of all.
    #[prost(fixed64, tag = "3")]
    pub topic: u64,
    /// Only those behind this one.
    #[prost(message, optional, tag = "4")]
    pub after: Option<TransactionPlace>,
}

/// Some transactions of a shard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OpenTransactions {
    /// Nobody has decided on them.
    #[prost(message, repeated, tag = "1")]
    pub open: Vec<OpenTransaction>,
    /// Rolled back, because nobody did in time.
    #[prost(message, repeated, tag = "2")]
    pub given_up: Vec<OpenTransaction>,
}

/// Buckets of a shelf.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Buckets {
    /// Ascending.
    #[prost(uint32, repeated, tag = "1")]
    pub buckets: Vec<u32>,
}

/// A bucket with messages that wait.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WaitingBucket {
    /// Which; none when there is none any more.
    #[prost(uint32, optional, tag = "1")]
    pub bucket: Option<u32>,
    /// The numbers of those that wait, ascending.
    #[prost(uint64, repeated, tag = "2")]
    pub numbers: Vec<u64>,
}

/// From where on delayed messages are asked for.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct DelayedFrom {
    /// First bucket.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// First number in that one.
    #[prost(uint64, tag = "2")]
    pub number: u64,
    /// Most numbers.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
}

fn states(changes: Vec<Change>) -> impl Iterator<Item = Record> {
    let bytes = changes.into_iter().map(|change| change.to_bytes());
    bytes.map(Record::State)
}

impl ShardState {
    /// The messages that are not visible yet.
    #[must_use]
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The same, for whoever loads its timer.
    pub fn shelf_mut(&mut self) -> &mut Shelf {
        &mut self.shelf
    }

    pub(super) fn decide_shelve(&self, shelve: Shelve, now: Timestamp) -> Decision {
        let now = now.max(self.stored_at);
        let is_due = |message: &Envelope| {
            !shelve.half && message.due_at_ms.is_none_or(|due| due <= now.as_ms())
        };
        let Some(mut screened) = self.producers.screen(shelve.messages, now) else {
            return Decision::reply(Reply::refused(Reason::ManyProducers, ""));
        };
        let order: Vec<bool> = screened.new.iter().map(is_due).collect();
        let new = std::mem::take(&mut screened.new);
        let (due, early): (Vec<_>, Vec<_>) = new.into_iter().partition(is_due);
        let due = due.into_iter().filter_map(crate::broker::shelf::unshelved);
        let (mut records, offsets) = self.place(due.collect(), now);
        let (shelved, spots) = match self.shelf.place(early, shelve.half, now) {
            Ok(placed) => placed,
            Err(Full::Transactions) => {
                return Decision::reply(Reply::refused(Reason::TransactionsFull, ""));
            }
            Err(Full::Hour) => return Decision::reply(Reply::refused(Reason::HourFull, "")),
        };
        records.extend(shelved);
        let (mut offsets, mut spots) = (offsets.into_iter(), spots.into_iter());
        let new = order.into_iter().filter_map(|is_due| {
            if is_due {
                offsets.next().map(Place::Queue)
            } else {
                spots.next().map(Place::Shelf)
            }
        });
        let new = new.collect();
        let places = screened.places(new).into_iter().map(Shelved::at).collect();
        Decision {
            records,
            reply: Reply::Shelved(AllShelved { places }),
        }
    }

    pub(super) fn decide_fire(&self, fire: Fire, now: Timestamp) -> Decision {
        let now = now.max(self.stored_at);
        let mut leaving = Vec::with_capacity(fire.spots.len());
        let mut messages = Vec::with_capacity(fire.messages.len());
        for (spot, message) in fire.spots.into_iter().zip(fire.messages) {
            let due_ms = message.due_at_ms.unwrap_or(0);
            // The full time is compared here once more: whoever read the message may have a faster clock.
            if due_ms <= now.as_ms() && self.shelf.fate(spot) == Some(Fate::Waiting) {
                leaving.push((spot, due_ms));
                messages.push(message);
            }
        }
        let lost: Vec<_> = fire.lost.into_iter().zip(fire.lost_due_ms).collect();
        let (mut records, _) = self.place(messages, now);
        records.extend(states(self.shelf.leave(&leaving, Fate::Placed)));
        records.extend(states(self.shelf.leave(&lost, Fate::GivenUp)));
        Decision {
            records,
            reply: Reply::done(),
        }
    }

    pub(super) fn decide_recall(&self, recall: &Recall) -> Decision {
        let reply = match self.shelf.fate(recall.spot) {
            Some(Fate::Waiting) => {
                let Some(due_ms) = recall.due_ms else {
                    return Decision::reply(Reply::refused(Reason::NotShelved, ""));
                };
                let leaving = [(recall.spot, due_ms)];
                let changes = self.shelf.leave(&leaving, Fate::Withdrawn);
                return Decision {
                    records: states(changes).collect(),
                    reply: Reply::done(),
                };
            }
            // Asked again, because the answer was lost.
            Some(Fate::Withdrawn) => Reply::done(),
            Some(Fate::Placed) => Reply::refused(Reason::AlreadyPlaced, ""),
            Some(Fate::GivenUp) | None => Reply::refused(Reason::NotShelved, ""),
        };
        Decision::reply(reply)
    }

    pub(super) fn decide_end_half(&self, end: EndHalf, now: Timestamp) -> Decision {
        let now = now.max(self.stored_at);
        let wanted = if end.commit {
            Fate::Placed
        } else {
            Fate::Withdrawn
        };
        let reply = match self.shelf.fate(end.spot) {
            Some(Fate::Waiting) => {
                let mut records = Vec::new();
                if end.commit {
                    let Some(mut message) = end.message else {
                        return Decision::reply(Reply::refused(Reason::NotShelved, ""));
                    };
                    message.flags |= flags::TRANSACTION;
                    records = self.place(vec![*message], now).0;
                }
                records.extend(states(self.shelf.leave(&[(end.spot, 0)], wanted)));
                return Decision {
                    records,
                    reply: Reply::done(),
                };
            }
            Some(fate) if fate == wanted => Reply::done(),
            Some(Fate::GivenUp) if !end.commit => Reply::done(),
            Some(Fate::Placed) => Reply::refused(Reason::AlreadyPlaced, ""),
            Some(Fate::Withdrawn) => Reply::refused(Reason::AlreadyWithdrawn, ""),
            Some(Fate::GivenUp) => Reply::refused(Reason::TransactionGivenUp, ""),
            None => Reply::refused(Reason::NotShelved, ""),
        };
        Decision::reply(reply)
    }

    /// Producers were asked, or there was nobody: what was asked about for the last time is given up.
    pub(super) fn decide_checked(&self, checked: Checked, now: Timestamp) -> Decision {
        let transactions = self.shelf.transactions();
        let open = checked
            .spots
            .iter()
            .filter_map(|spot| transactions.get(*spot));
        let (spent, others): (Vec<_>, Vec<_>) =
            open.partition(|one| Transactions::is_spent(one, now));
        let spent: Vec<_> = spent.into_iter().map(|one| (one.spot, 0)).collect();
        let mut changes = self.shelf.leave(&spent, Fate::GivenUp);
        if !others.is_empty() {
            changes.push(Change::ShelfChecked(Checked {
                spots: others.into_iter().map(|one| one.spot).collect(),
                next_ms: now.as_ms() + limits::TRANSACTION_CHECK_PAUSE_MS,
                asked: checked.asked,
            }));
        }
        Decision {
            records: states(changes).collect(),
            reply: Reply::done(),
        }
    }

    pub(super) fn transactions(&self, of: &TransactionsOf, now: Timestamp) -> Reply {
        let transactions = self.shelf.transactions();
        let limit = of.limit as usize;
        if of.due {
            return Reply::OpenTransactions(OpenTransactions {
                open: transactions.due(now, limit).cloned().collect(),
                given_up: Vec::new(),
            });
        }
        let first = |these: &mut dyn Iterator<Item = &OpenTransaction>, given_up: bool| {
            let place = |one: &OpenTransaction| TransactionPlace::of(one, given_up).order();
            let after = of.after.map(|after| after.order());
            let is_asked = |one: &&OpenTransaction| {
                (of.topic == 0 || one.topic == of.topic)
                    && after.as_ref().is_none_or(|after| place(one) > *after)
            };
            let mut found: Vec<_> = these.filter(is_asked).cloned().collect();
            found.sort_unstable_by_key(place);
            found.truncate(limit);
            found
        };
        Reply::OpenTransactions(OpenTransactions {
            open: first(&mut transactions.open(), false),
            given_up: first(&mut transactions.given_up(), true),
        })
    }

    pub(super) fn delayed(&self, from: DelayedFrom) -> Reply {
        let mut answer = WaitingBucket::default();
        for (bucket, count) in self.shelf.waiting_from(from.bucket) {
            let first = if bucket == from.bucket {
                from.number
            } else {
                0
            };
            let waits = |number: &u64| {
                let number = *number;
                self.shelf.fate(Spot { bucket, number }) == Some(Fate::Waiting)
            };
            let numbers = (first..count).filter(waits).take(from.limit as usize);
            answer.numbers = numbers.collect();
            if !answer.numbers.is_empty() {
                answer.bucket = Some(bucket);
                break;
            }
        }
        Reply::WaitingBucket(answer)
    }

    /// Closes what is done with, and says which of the buckets named have nothing that is needed.
    pub(super) fn decide_sweep(&self, asked: &Buckets, now: Timestamp) -> Decision {
        let finished = self.shelf.finished(now.max(self.stored_at));
        let is_free = |bucket: &&u32| finished.contains(bucket) || !self.shelf.is_live(**bucket);
        let buckets = asked.buckets.iter().filter(is_free).copied().collect();
        let closed = finished.iter().map(|bucket| Change::BucketClosed(*bucket));
        Decision {
            records: states(closed.collect()).collect(),
            reply: Reply::Buckets(Buckets { buckets }),
        }
    }

    /// No message comes into a bucket any more once it is closed, whatever the clock does.
    pub(super) fn apply_closed(&mut self, bucket: u32) {
        let end = Timestamp(start_of(bucket & (u32::MAX >> 1)).as_ms() + HOUR_MS);
        self.stored_at = self.stored_at.max(end);
        self.shelf.close(bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_the_whole_in_its_order() {
        let spot = |number| Spot { bucket: 7, number };
        for (placed, lost) in [(0, 0), (1, 0), (0, 1), (8, 0), (9, 3), (17, 1)] {
            let fire = Fire {
                spots: (0..placed).map(spot).collect(),
                messages: (0..placed)
                    .map(|number| Envelope {
                        offset: number,
                        ..Envelope::default()
                    })
                    .collect(),
                lost: (0..lost).map(|number| spot(100 + number)).collect(),
                lost_due_ms: (0..).take(usize::try_from(lost).unwrap()).collect(),
            };
            let mut whole = Fire::default();
            for slice in fire.clone().slices(4) {
                assert!((1..=4).contains(&(slice.spots.len() + slice.lost.len())));
                let numbers = slice.messages.iter().map(|message| message.offset);
                assert!(numbers.eq(slice.spots.iter().map(|spot| spot.number)));
                whole.spots.extend(slice.spots);
                whole.messages.extend(slice.messages);
                whole.lost.extend(slice.lost);
                whole.lost_due_ms.extend(slice.lost_due_ms);
            }
            assert_eq!(whole, fire);
        }
    }
}
