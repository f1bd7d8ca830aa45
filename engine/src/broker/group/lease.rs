//! The leases of a cursor: one per delivered batch, in the order in which they end.
//!
//! A lease knows how many messages it has and in which words they lie; which ones, the
//! [window](super::window) knows. Messages that nobody holds are counted by the time at which they became
//! visible. Names of consumers are kept once. A lease with no messages is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::time::Timestamp;

use crate::broker::group::window::{Holding, Span, Window};
use crate::broker::record::Holder;

/// One batch.
#[derive(Clone, Copy, Debug)]
struct Lease {
    until: Timestamp,
    since_ms: i64,
    span: Span,
    holder: u32,
    count: u32,
}

/// Messages that nobody holds, of one time.
#[derive(Clone, Copy, Debug)]
struct Loose {
    span: Span,
    count: u64,
}

/// A consumer that holds leases.
#[derive(Clone, Debug)]
struct Known {
    consumer: String,
    renewed: bool,
    leases: u32,
}

/// The leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<u64, Lease>,
    ends: BTreeSet<(Timestamp, u64)>,
    loose: BTreeMap<Timestamp, Loose>,
    known: BTreeMap<u32, Known>,
    known_by_name: BTreeMap<(String, bool), u32>,
    /// The polls that may be asked again, and their leases.
    polls: BTreeSet<(u64, u64)>,
    poll_of: BTreeMap<u64, u64>,
}

impl Leases {
    /// Begins a lease, or gives one another end and holder.
    pub(super) fn open(&mut self, id: u64, until: Timestamp, holder: &Holder) {
        let known = self.take_hold(&holder.consumer, holder.renewed);
        let lease = Lease {
            until,
            since_ms: holder.since_ms,
            span: Span {
                first: u64::MAX,
                last: 0,
            },
            holder: known,
            count: 0,
        };
        let lease = match self.by_id.get(&id).copied() {
            Some(before) => {
                self.let_go_of(id, before);
                Lease {
                    span: before.span,
                    count: before.count,
                    ..lease
                }
            }
            None => lease,
        };
        self.by_id.insert(id, lease);
        self.ends.insert((until, id));
        if holder.poll != 0 {
            self.polls.insert((holder.poll, id));
            self.poll_of.insert(id, holder.poll);
        }
    }

    /// Forgets a lease that has no messages.
    pub(super) fn close_if_empty(&mut self, id: u64) {
        if let Some(lease) = self
            .by_id
            .get(&id)
            .copied()
            .filter(|lease| lease.count == 0)
        {
            self.let_go_of(id, lease);
            self.by_id.remove(&id);
        }
    }

    /// A holding has so many more messages, in a word.
    pub(super) fn join(&mut self, holding: Holding, word: u64, count: u32) {
        match holding {
            Holding::Lease(id) => {
                if let Some(lease) = self.by_id.get_mut(&id) {
                    lease.count += count;
                    lease.span.extend(word);
                }
            }
            Holding::Nobody(at) => {
                let none = Loose {
                    span: Span {
                        first: word,
                        last: word,
                    },
                    count: 0,
                };
                let loose = self.loose.entry(at).or_insert(none);
                loose.count += u64::from(count);
                loose.span.extend(word);
            }
        }
    }

    /// A holding has so many messages less, in a word; they are out of the window already.
    pub(super) fn leave(&mut self, holding: Holding, word: u64, count: u32, window: &Window) {
        match holding {
            Holding::Lease(id) => {
                if let Some(lease) = self.by_id.get_mut(&id) {
                    lease.count = lease.count.saturating_sub(count);
                    if lease.count > 0 {
                        lease.span.shrink(holding, word, window);
                    } else {
                        self.close_if_empty(id);
                    }
                }
            }
            Holding::Nobody(at) => {
                if let Some(loose) = self.loose.get_mut(&at) {
                    loose.count = loose.count.saturating_sub(u64::from(count));
                    if loose.count > 0 {
                        loose.span.shrink(holding, word, window);
                    } else {
                        self.loose.remove(&at);
                    }
                }
            }
        }
    }

    /// A lease ends at another time.
    pub(super) fn renew(&mut self, id: u64, until: Timestamp) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            self.ends.remove(&(lease.until, id));
            lease.until = until;
            self.ends.insert((until, id));
        }
    }

    /// When what is held so becomes visible.
    pub(super) fn visible_at(&self, holding: Holding) -> Timestamp {
        match holding {
            Holding::Lease(id) => self.by_id.get(&id).map_or(Timestamp(0), |l| l.until),
            Holding::Nobody(at) => at,
        }
    }

    /// Whether something is held under a lease at `now`.
    pub(super) fn is_current(&self, id: u64, now: Timestamp) -> bool {
        let lease = self.by_id.get(&id);
        lease.is_some_and(|lease| lease.count > 0 && lease.until > now)
    }

    /// Where the messages of a lease lie.
    pub(super) fn span(&self, id: u64) -> Option<Span> {
        self.by_id.get(&id).map(|lease| lease.span)
    }

    /// Who holds a lease.
    pub(super) fn holder(&self, id: u64) -> Option<Holder> {
        let lease = self.by_id.get(&id)?;
        let known = self.known.get(&lease.holder)?;
        Some(Holder {
            consumer: known.consumer.clone(),
            poll: self.poll_of.get(&id).copied().unwrap_or(0),
            renewed: known.renewed,
            since_ms: lease.since_ms,
        })
    }

    /// The leases of a poll.
    pub(super) fn of_poll(&self, poll: u64) -> impl Iterator<Item = u64> {
        let polls = self.polls.range((poll, 0)..=(poll, u64::MAX));
        polls.filter(move |_| poll != 0).map(|&(_, id)| id)
    }

    /// The leases that are renewed while a consumer lives.
    pub(super) fn renewed_of(&self, consumer: &str) -> impl Iterator<Item = u64> {
        let holder = self
            .known_by_name
            .get(&(consumer.to_owned(), true))
            .copied();
        let leases = holder.into_iter().flat_map(|holder| {
            let leases = self.by_id.iter();
            leases.filter(move |(_, lease)| lease.holder == holder)
        });
        leases.map(|(&id, _)| id)
    }

    /// The renewed leases that end after `now` and until `before`.
    pub(super) fn renewable(&self, now: Timestamp, before: Timestamp) -> impl Iterator<Item = u64> {
        let ends = (before > now).then(|| self.ends.range((now, u64::MAX)..=(before, u64::MAX)));
        let ids = ends.into_iter().flatten().map(|&(_, id)| id);
        ids.filter(|id| {
            let lease = self.by_id.get(id);
            let known = lease.and_then(|lease| self.known.get(&lease.holder));
            known.is_some_and(|known| known.renewed)
        })
    }

    /// What is visible at `now`, in the order of the times at which it became so.
    pub(super) fn visible(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = (Timestamp, Holding, Span)> {
        let leases = self.ends.range(..=(now, u64::MAX)).filter_map(|&(at, id)| {
            let lease = self.by_id.get(&id)?;
            Some((at, Holding::Lease(id), lease.span))
        });
        let loose = self.loose.range(..=now);
        let loose = loose.map(|(&at, loose)| (at, Holding::Nobody(at), loose.span));
        let (mut leases, mut loose) = (leases.peekable(), loose.peekable());
        std::iter::from_fn(move || match (leases.peek(), loose.peek()) {
            (Some((at, ..)), Some((other, ..))) if other < at => loose.next(),
            (Some(_), _) => leases.next(),
            (None, _) => loose.next(),
        })
    }

    /// How many messages are visible at `now`, counted up to `most`.
    pub(super) fn visible_count(&self, now: Timestamp, most: usize) -> usize {
        let mut count: u64 = 0;
        for (_, holding, _) in self.visible(now) {
            count += match holding {
                Holding::Lease(id) => self.by_id.get(&id).map_or(0, |l| u64::from(l.count)),
                Holding::Nobody(at) => self.loose.get(&at).map_or(0, |loose| loose.count),
            };
            if count >= most as u64 {
                return most;
            }
        }
        usize::try_from(count).unwrap_or(most)
    }

    /// The first time after `now` at which something becomes visible.
    pub(super) fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let later = Timestamp(now.as_ms().checked_add(1)?);
        let lease = self.ends.range((later, 0)..).next().map(|&(at, _)| at);
        let loose = self.loose.range(later..).next().map(|(&at, _)| at);
        [lease, loose].into_iter().flatten().min()
    }

    /// When the first of all leases ends, or ended.
    pub(super) fn first_end(&self) -> Option<Timestamp> {
        let lease = self.ends.first().map(|&(at, _)| at);
        let loose = self.loose.keys().next().copied();
        [lease, loose].into_iter().flatten().min()
    }

    fn take_hold(&mut self, consumer: &str, renewed: bool) -> u32 {
        let name = (consumer.to_owned(), renewed);
        let id = match self.known_by_name.get(&name) {
            Some(&id) => id,
            None => {
                // The smallest number that is free: they are few.
                let mut used = self.known.keys();
                let id = (0..u32::MAX).find(|id| used.next() != Some(id));
                let id = id.unwrap_or(u32::MAX);
                let known = Known {
                    consumer: name.0.clone(),
                    renewed,
                    leases: 0,
                };
                self.known.insert(id, known);
                self.known_by_name.insert(name, id);
                id
            }
        };
        if let Some(known) = self.known.get_mut(&id) {
            known.leases += 1;
        }
        id
    }

    fn let_go_of(&mut self, id: u64, lease: Lease) {
        self.ends.remove(&(lease.until, id));
        if let Some(poll) = self.poll_of.remove(&id) {
            self.polls.remove(&(poll, id));
        }
        let Some(known) = self.known.get_mut(&lease.holder) else {
            return;
        };
        known.leases -= 1;
        if known.leases == 0
            && let Some(known) = self.known.remove(&lease.holder)
        {
            self.known_by_name.remove(&(known.consumer, known.renewed));
        }
    }
}

impl Span {
    fn extend(&mut self, word: u64) {
        self.first = self.first.min(word);
        self.last = self.last.max(word);
    }

    /// Begins at the next word with a message, when the first one lost its last.
    fn shrink(&mut self, holding: Holding, word: u64, window: &Window) {
        if word == self.first
            && let Some(first) = window.word_of(holding, self.first, self.last)
        {
            self.first = first;
        }
    }
}
