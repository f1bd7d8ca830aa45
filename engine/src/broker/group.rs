//! Where one group stands in one queue: what it has seen, what it holds, what comes back when.
//!
//! Pure state: no I/O, no clock, no async. A decision reads it and changes nothing; applying the
//! decision's record is the only mutation, live and in recovery alike.
//!
//! A message below `next` is *pending* (delivered, not acknowledged), *parked* (accepted and passed
//! over: its message group is busy, or a greater priority went first) or done with. What a filter did
//! not accept is done with when the cursor passes it. Nothing is kept of messages at `next` and behind,
//! however many there are; their message group and priority come in with a [`Scan`].
//!
//! Ten million messages in flight are bits in words ([`window`]) under one lease per batch ([`lease`]),
//! about six bytes each. A message group or a priority is kept where there is one, and nothing else is
//! kept per message. What is done with leaves no trace, so a straggler costs a word of its own and the
//! cursor goes on: the bound is on what is in flight ([`limits::IN_FLIGHT_MAX`]; nothing new is delivered
//! above it), never on how far apart it lies. A cursor that holds nothing is a number ([`kept`]).
//!
//! **Invariants.** A pending message whose `visible_at` has passed may be delivered again; one whose
//! lease was replaced answers to the new lease only. What is done with never comes back. A message of a
//! message group is delivered only when every earlier one of that group is done with, or delivered
//! before it in the same batch.

mod decide;
mod kept;
mod lease;
#[cfg(test)]
mod naive;
mod snapshot;
pub mod stir;
mod window;

use millpond_proto::limits;
use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::group::kept::{Holdings, Kept};
use crate::broker::group::window::{Bits, Delivered, Holding};
use crate::broker::record::{
    Acked, Fact, Holder, Moved, PendingSnapshot, Popped, Renewed, Returned, Scanned,
};
use crate::broker::request::Scan;

/// What is known of a message besides its offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Hash of the message group; 0 for none. Two groups of one hash wait for each other.
    pub message_group: u64,
    /// Greater goes first.
    pub priority: i32,
}

/// Where a group stands in a queue.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    next: u64,
    kept: Kept,
}

/// What a poll wants of a queue.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Now.
    pub now: Timestamp,
    /// One past the last message of the queue.
    pub end: Offset,
    /// Most messages.
    pub limit: usize,
    /// A message delivered so often is dead; 0: never.
    pub attempts_max: u32,
    /// Greater priorities first, as far as is looked ahead.
    pub by_priority: bool,
    /// What is known of the messages at `next` and behind; without it all of them are wanted, and none
    /// has a message group.
    pub scan: Option<&'a Scan>,
}

/// A message chosen for delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Offset.
    pub offset: Offset,
    /// Which delivery this is, from 1.
    pub attempt: u32,
    /// What is known of it.
    pub facts: Facts,
}

/// What a poll gets, and what becomes of the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Delivered; in offset order within a message group, greater priorities first where asked.
    pub chosen: Vec<Chosen>,
    /// Accepted and passed over.
    pub parked: Vec<(u64, Facts)>,
    /// Delivered too often: they go to the dead letters.
    pub dead: Vec<u64>,
    /// Where the cursor then stands.
    pub next: u64,
}

/// What became of a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The delivery is current: it may be acknowledged or moved.
    Current,
    /// The message was acknowledged before.
    Acknowledged,
    /// The delivery's time is over, or another one has taken its place.
    Expired,
    /// The message was never delivered to this group.
    Unknown,
}

impl Cursor {
    /// A group that starts at `next`.
    #[must_use]
    pub fn starting_at(next: Offset) -> Self {
        Self {
            next: next.0,
            ..Self::default()
        }
    }

    /// First offset never delivered.
    #[must_use]
    pub fn next(&self) -> Offset {
        Offset(self.next)
    }

    /// Every offset below is acknowledged.
    #[must_use]
    pub fn ack_floor(&self) -> Offset {
        Offset(self.kept.window.first().unwrap_or(self.next))
    }

    /// Delivered and invisible at `now`.
    #[must_use]
    pub fn in_flight(&self, now: Timestamp) -> u64 {
        let visible = self.kept.leases.visible_count(now, usize::MAX);
        (self.kept.window.delivered() - visible) as u64
    }

    /// Not acknowledged, of a queue whose next offset is `end`.
    #[must_use]
    pub fn lag(&self, end: Offset) -> u64 {
        let known = self.kept.window.delivered() + self.kept.window.parked();
        known as u64 + end.0.saturating_sub(self.next)
    }

    /// When the next message that is invisible at `now` becomes visible.
    #[must_use]
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.kept.leases.next_end(now)
    }

    /// How many more messages may be parked.
    #[must_use]
    pub fn parking_room(&self) -> usize {
        limits::PARKED_MESSAGES_MAX.saturating_sub(self.kept.window.parked())
    }

    /// Whether nothing is kept but where it stands.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.kept.window.delivered() == 0 && self.kept.window.parked() == 0
    }

    /// Gives back the room for what is held when nothing is; it changes nothing else.
    pub fn rest(&mut self) {
        self.kept.rest();
    }

    /// Whether nothing new is delivered before something is acknowledged.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many more messages may be in flight.
    fn room(&self) -> usize {
        limits::IN_FLIGHT_MAX.saturating_sub(self.kept.window.delivered())
    }

    /// What a poll of that attempt id holds still, with the attempts and the lease of each.
    #[must_use]
    pub fn held_by_poll(&self, poll: u64, now: Timestamp) -> Vec<(Offset, u64, u32)> {
        let leases = self.kept.leases.of_poll(poll);
        let current = leases.filter(|&id| self.kept.leases.is_current(id, now));
        let offsets = current.flat_map(|id| self.of_lease(id).map(move |offset| (offset, id)));
        offsets
            .map(|(offset, id)| (Offset(offset), id, self.attempts(offset)))
            .collect()
    }

    /// Leases that are renewed while their holder lives and end before `before`.
    pub fn renewable(
        &self,
        now: Timestamp,
        before: Timestamp,
    ) -> impl Iterator<Item = (u64, Holder)> {
        let leases = self.kept.leases.renewable(now, before);
        leases.filter_map(|id| Some((id, self.kept.leases.holder(id)?)))
    }

    /// Whether something is held under a lease at `now`.
    #[must_use]
    pub fn is_current(&self, lease: u64, now: Timestamp) -> bool {
        self.kept.leases.is_current(lease, now)
    }

    /// What a consumer holds under leases that are renewed while it lives.
    #[must_use]
    pub fn held_by(&self, consumer: &str) -> Vec<(u64, Vec<u64>)> {
        let leases = self.kept.leases.renewed_of(consumer);
        leases.map(|id| (id, self.of_lease(id).collect())).collect()
    }

    /// What the handle of a delivery is worth at `now`.
    #[must_use]
    pub fn held(&self, offset: Offset, lease: u64, now: Timestamp) -> Held {
        match self.kept.window.get(offset.0) {
            Some(delivered)
                if delivered.holding == Holding::Lease(lease)
                    && self.kept.leases.visible_at(delivered.holding) > now =>
            {
                Held::Current
            }
            Some(_) => Held::Expired,
            None if self.kept.window.is_parked(offset.0) => Held::Unknown,
            None if offset.0 < self.next => Held::Acknowledged,
            None => Held::Unknown,
        }
    }

    /// Deliveries of a message so far.
    #[must_use]
    pub fn attempts(&self, offset: u64) -> u32 {
        self.kept
            .window
            .get(offset)
            .map_or(0, |delivered| delivered.attempts)
    }

    /// Offsets from `from` on that are not acknowledged, of a queue that ends at `end`.
    pub fn outstanding(&self, from: Offset, end: Offset) -> impl Iterator<Item = u64> {
        let known = self.kept.window.all_from(from.0);
        known.chain(self.next.max(from.0)..end.0)
    }

    /// Applies a delivery of whole runs.
    pub fn popped(&mut self, record: &Popped) {
        let fresh = record.fresh_from..record.fresh_from + u64::from(record.fresh);
        let is_new = fresh.start >= self.next;
        self.next = self.next.max(fresh.end);
        self.open(record.lease, record.until_ms, record.holder.as_ref());
        for &offset in &record.again {
            self.lease(offset, record.lease, Facts::default());
        }
        if is_new {
            let first = Delivered {
                holding: Holding::Lease(record.lease),
                attempts: 1,
            };
            for bits in Bits::of_run(fresh) {
                self.kept.window.put(bits, first);
                self.kept
                    .leases
                    .join(first.holding, bits.word, bits.count());
            }
        } else {
            for offset in fresh {
                self.lease(offset, record.lease, Facts::default());
            }
        }
        self.kept.leases.close_if_empty(record.lease);
    }

    /// Applies a delivery that came of a scan.
    pub fn scanned(&mut self, record: &Scanned) {
        self.next = self.next.max(record.next);
        self.open(record.lease, record.until_ms, record.holder.as_ref());
        for &offset in &record.again {
            self.lease(offset, record.lease, Facts::default());
        }
        for fact in &record.fresh {
            self.lease(fact.offset, record.lease, Facts::of(fact));
        }
        for fact in &record.parked {
            self.park(fact.offset, Facts::of(fact));
        }
        self.kept.leases.close_if_empty(record.lease);
    }

    /// Applies acknowledgements.
    pub fn acked(&mut self, record: &Acked) {
        if !self.kept.facts.is_empty() || self.kept.window.parked() > 0 {
            for &offset in &record.offsets {
                self.forget(offset);
            }
            return;
        }
        let mut offsets = record.offsets.iter().map(|&offset| Bits::of(offset));
        let mut next = offsets.next();
        while let Some(mut bits) = next {
            next = offsets.next();
            while let Some(one) = next.filter(|one| one.word == bits.word) {
                bits.mask |= one.mask;
                next = offsets.next();
            }
            self.take(bits);
        }
    }

    /// Applies a change of invisible time.
    pub fn moved(&mut self, record: &Moved) {
        let Some(before) = self.kept.window.get(record.offset) else {
            return;
        };
        let holder = match before.holding {
            Holding::Lease(id) => self.kept.leases.holder(id),
            Holding::Nobody(_) => None,
        };
        let holder = holder.unwrap_or_default();
        // It is neither renewed nor given again to the same attempt from now on.
        let holder = Holder {
            poll: 0,
            renewed: false,
            ..holder
        };
        self.open(record.lease, record.until_ms, Some(&holder));
        // A suspended delivery is as if it had not been.
        let taken_back = u32::from(record.suspended && before.attempts > 0);
        let moved = Delivered {
            holding: Holding::Lease(record.lease),
            attempts: before.attempts - taken_back,
        };
        let facts = self.facts(record.offset).unwrap_or_default();
        self.set(record.offset, moved, facts);
    }

    /// Applies that offsets below `first` are no longer kept: they are neither delivered nor waited for.
    pub fn trimmed(&mut self, first: Offset) {
        while let Some(offset) = self.kept.window.first().filter(|&offset| offset < first.0) {
            self.forget(offset);
        }
        self.next = self.next.max(first.0);
    }

    /// Applies the renewal of a lease.
    pub fn renewed(&mut self, record: &Renewed) {
        self.kept
            .leases
            .renew(record.lease, Timestamp(record.until_ms));
    }

    /// Applies the return of deliveries that reached nobody.
    pub fn returned(&mut self, record: &Returned) {
        for &offset in &record.offsets {
            let Some(before) = self.kept.window.get(offset) else {
                continue;
            };
            if before.holding == Holding::Lease(record.lease) {
                let back = Delivered {
                    holding: Holding::Nobody(Timestamp(record.at_ms)),
                    attempts: before.attempts - u32::from(record.unseen && before.attempts > 0),
                };
                let facts = self.facts(offset).unwrap_or_default();
                self.set(offset, back, facts);
            }
        }
    }

    /// Makes a message deliverable again that was done with.
    pub fn reopened(&mut self, fact: &Fact, attempts: u32, at: Timestamp) {
        let offset = fact.offset;
        if offset < self.next && self.facts(offset).is_none() {
            let back = Delivered {
                holding: Holding::Nobody(at),
                attempts,
            };
            self.set(offset, back, Facts::of(fact));
        }
    }

    /// Takes a message out: it was acknowledged, or goes to the dead letters.
    pub fn forget(&mut self, offset: u64) {
        if self.kept.window.unpark(offset) {
            self.kept.free.remove(&offset);
        } else if self.kept.window.get(offset).is_some() {
            self.take(Bits::of(offset));
        } else {
            return;
        }
        let group = self
            .kept
            .facts
            .remove(&offset)
            .unwrap_or_default()
            .message_group;
        if let Some(chain) = self.kept.chains.get_mut(&group) {
            chain.remove(&offset);
            match chain.first().copied() {
                None => {
                    self.kept.chains.remove(&group);
                }
                Some(head) if self.kept.window.is_parked(head) => {
                    self.kept.free.insert(head);
                }
                Some(_) => {}
            }
        }
    }

    /// The pending messages.
    pub fn pending(&self) -> impl Iterator<Item = PendingSnapshot> {
        let delivered = self.kept.window.delivered_from(0);
        delivered.map(|(offset, delivered)| self.pending_at(offset, delivered))
    }

    /// One of the pending messages.
    #[must_use]
    pub fn pending_one(&self, offset: u64) -> Option<PendingSnapshot> {
        let delivered = self.kept.window.get(offset)?;
        Some(self.pending_at(offset, delivered))
    }

    /// Whether a message was accepted and passed over.
    #[must_use]
    pub fn is_parked(&self, offset: u64) -> bool {
        self.kept.window.is_parked(offset)
    }

    /// Who holds a lease.
    #[must_use]
    pub fn holder(&self, lease: u64) -> Option<Holder> {
        self.kept.leases.holder(lease)
    }

    /// What is known of a message below `next` that is not done with.
    fn facts(&self, offset: u64) -> Option<Facts> {
        if let Some(facts) = self.kept.facts.get(&offset) {
            return Some(*facts);
        }
        let is_known = self.kept.window.get(offset).is_some() || self.kept.window.is_parked(offset);
        is_known.then(Facts::default)
    }

    /// Whether no earlier message of its message group is left.
    fn is_head(&self, offset: u64) -> bool {
        let group = self.facts(offset).unwrap_or_default().message_group;
        let chain = self.kept.chains.get(&group);
        chain.is_none_or(|chain| chain.first() == Some(&offset))
    }

    /// The next message of the same message group.
    fn successor(&self, offset: u64) -> Option<u64> {
        let chain = self.kept.chains.get(&self.facts(offset)?.message_group)?;
        chain.range(offset + 1..).next().copied()
    }

    fn of_lease(&self, id: u64) -> impl Iterator<Item = u64> {
        let span = self.kept.leases.span(id).into_iter();
        span.flat_map(move |span| self.kept.window.of(Holding::Lease(id), span))
    }

    fn pending_at(&self, offset: u64, delivered: Delivered) -> PendingSnapshot {
        let facts = self.kept.facts.get(&offset).copied().unwrap_or_default();
        let lease = match delivered.holding {
            Holding::Lease(id) => id,
            Holding::Nobody(_) => 0,
        };
        PendingSnapshot {
            offset,
            lease,
            visible_at_ms: self.kept.leases.visible_at(delivered.holding).as_ms(),
            attempts: delivered.attempts,
            message_group: facts.message_group,
            priority: facts.priority,
        }
    }

    fn open(&mut self, lease: u64, until_ms: i64, holder: Option<&Holder>) {
        let nobody = Holder::default();
        let holder = holder.unwrap_or(&nobody);
        self.kept.leases.open(lease, Timestamp(until_ms), holder);
    }

    fn lease(&mut self, offset: u64, lease: u64, facts: Facts) {
        let delivered = Delivered {
            holding: Holding::Lease(lease),
            attempts: self.attempts(offset) + 1,
        };
        let facts = self.facts(offset).unwrap_or(facts);
        self.set(offset, delivered, facts);
    }

    fn set(&mut self, offset: u64, delivered: Delivered, facts: Facts) {
        self.kept.window.unpark(offset);
        self.kept.free.remove(&offset);
        self.link(offset, facts);
        let bits = Bits::of(offset);
        let before = self.kept.window.get(offset);
        if before.is_some_and(|before| before.holding == delivered.holding) {
            self.kept.window.take(bits, |_, _| {});
            self.kept.window.put(bits, delivered);
            return;
        }
        self.take(bits);
        self.kept.window.put(bits, delivered);
        self.kept.leases.join(delivered.holding, bits.word, 1);
    }

    /// Takes delivered messages out of the window and their leases.
    fn take(&mut self, bits: Bits) {
        let Holdings { window, leases, .. } = &mut *self.kept;
        let mut left: [Option<(Holding, u32)>; 4] = [None; 4];
        let mut more = Vec::new();
        let mut places = left.iter_mut();
        window.take(bits, |delivered, count| {
            let one = (delivered.holding, count);
            match places.next() {
                Some(place) => *place = Some(one),
                None => more.push(one),
            }
        });
        for (holding, count) in left.into_iter().flatten().chain(more) {
            leases.leave(holding, bits.word, count, window);
        }
    }

    fn park(&mut self, offset: u64, facts: Facts) {
        self.link(offset, facts);
        self.kept.window.park(offset);
        if self.is_head(offset) {
            self.kept.free.insert(offset);
        }
    }

    fn link(&mut self, offset: u64, facts: Facts) {
        let kept = &mut *self.kept;
        if facts != Facts::default() {
            kept.facts.insert(offset, facts);
        }
        if facts.message_group != 0 {
            let chain = kept.chains.entry(facts.message_group).or_default();
            if let Some(head) = chain.first().filter(|head| offset < **head) {
                kept.free.remove(head);
            }
            chain.insert(offset);
        }
    }
}

impl Facts {
    fn of(fact: &Fact) -> Self {
        Self {
            message_group: fact.message_group,
            priority: fact.priority,
        }
    }

    /// As a record has it.
    #[must_use]
    pub fn at(self, offset: u64) -> Fact {
        Fact {
            offset,
            message_group: self.message_group,
            priority: self.priority,
        }
    }
}

#[cfg(test)]
mod tests;
