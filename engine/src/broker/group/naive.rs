//! The cursor written down plainly, one map entry per message: what the compact one is tested against.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::group::{Choice, Chosen, Facts, Held, Wish};
use crate::broker::record::{
    Acked, Fact, Holder, Moved, PendingSnapshot, Popped, Renewed, Returned, Scanned,
};
use crate::broker::request::Scan;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    /// 0 when nobody holds it.
    lease: u64,
    visible_at: Timestamp,
    attempts: u32,
    facts: Facts,
}

/// Who holds what under one lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lease {
    holder: Holder,
    offsets: BTreeSet<u64>,
}

/// Where a group stands in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// The pending ones by the time they become visible.
    due: BTreeSet<(Timestamp, u64)>,
    parked: BTreeMap<u64, Facts>,
    /// The parked ones that wait for no earlier message.
    free: BTreeSet<u64>,
    /// Pending and parked ones of each message group.
    chains: BTreeMap<u64, BTreeSet<u64>>,
    leases: BTreeMap<u64, Lease>,
}

/// Candidates, best first.
type Candidates = BTreeSet<(Reverse<i32>, u64)>;

impl Cursor {
    /// A group that starts at `next`.
    pub(super) fn starting_at(next: Offset) -> Self {
        Self {
            next: next.0,
            ..Self::default()
        }
    }

    /// First offset never delivered.
    pub(super) fn next(&self) -> Offset {
        Offset(self.next)
    }

    /// Every offset below is acknowledged.
    pub(super) fn ack_floor(&self) -> Offset {
        let pending = self.pending.keys().next().copied();
        let parked = self.parked.keys().next().copied();
        let first = [pending, parked].into_iter().flatten().min();
        Offset(first.unwrap_or(self.next))
    }

    /// Delivered and invisible at `now`.
    pub(super) fn in_flight(&self, now: Timestamp) -> u64 {
        let visible = self.due.range(..=(now, u64::MAX)).count();
        (self.pending.len() - visible) as u64
    }

    /// Not acknowledged, of a queue whose next offset is `end`.
    pub(super) fn lag(&self, end: Offset) -> u64 {
        (self.pending.len() + self.parked.len()) as u64 + end.0.saturating_sub(self.next)
    }

    /// When the next message that is invisible at `now` becomes visible.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let mut later = self.due.range((now, u64::MAX)..);
        later.next().map(|&(at, _)| at)
    }

    /// How many more messages may be parked.
    pub(super) fn parking_room(&self) -> usize {
        limits::PARKED_MESSAGES_MAX.saturating_sub(self.parked.len())
    }

    /// Chooses up to `limit` messages: those that come back first, then new ones. Changes nothing.
    pub(super) fn decide(&self, wish: &Wish<'_>) -> Choice {
        let mut choice = Choice {
            next: self.next,
            ..Choice::default()
        };
        let mut candidates = self.candidates(wish, &mut choice);
        let mut room = limits::IN_FLIGHT_MAX.saturating_sub(self.pending.len());
        let mut fresh = BTreeMap::new();
        if let (true, Some(scan)) = (wish.by_priority, self.fitting(wish.scan)) {
            let most = self.parking_room().min(limits::PRIORITY_WINDOW) + wish.limit;
            choice.next = self.look_ahead(scan, most, &mut fresh);
            candidates.extend(fresh.iter().map(|(&o, f)| (Reverse(f.priority), o)));
        }
        while choice.chosen.len() < wish.limit
            && let Some((_, offset)) = candidates.pop_first()
        {
            let known = self.facts(offset);
            let is_new = !self.pending.contains_key(&offset);
            let facts = known.or_else(|| fresh.get(&offset).copied());
            if is_new && room == 0 {
                continue;
            }
            room -= usize::from(is_new);
            fresh.remove(&offset);
            choice.chosen.push(Chosen {
                offset: Offset(offset),
                attempt: self.attempts(offset) + 1,
                facts: facts.unwrap_or_default(),
            });
            if let Some(successor) = self.successor(offset) {
                self.consider(successor, wish, &mut candidates, &mut choice);
            }
        }
        if wish.by_priority {
            choice.parked.extend(fresh);
        } else {
            match wish.scan {
                None => self.take_fresh(wish, room, &mut choice),
                Some(_) => self.take_scanned(wish, room, &mut choice),
            }
        }
        choice
    }

    /// How many messages could be delivered at `now` without a scan, counted up to `most`.
    pub(super) fn available(&self, now: Timestamp, end: Offset, most: usize) -> usize {
        let again = self.due.range(..=(now, u64::MAX)).take(most).count();
        let room = limits::IN_FLIGHT_MAX.saturating_sub(self.pending.len()) as u64;
        let fresh = end.0.saturating_sub(self.next).min(room);
        let known = again + self.free.len();
        most.min(known.saturating_add(usize::try_from(fresh).unwrap_or(most)))
    }

    /// Priorities of those below `next` that could be delivered at `now`, best first.
    pub(super) fn ready(&self, wish: &Wish<'_>) -> Vec<i32> {
        let known = Wish {
            scan: None,
            end: self.next(),
            ..*wish
        };
        let chosen = self.decide(&known).chosen.into_iter();
        chosen.map(|one| one.facts.priority).collect()
    }

    /// What a poll of that attempt id holds still, with the attempts and the lease of each.
    pub(super) fn held_by_poll(&self, poll: u64, now: Timestamp) -> Vec<(Offset, u64, u32)> {
        let leases = self.leases.iter();
        let mine = leases.filter(|(_, lease)| poll != 0 && lease.holder.poll == poll);
        let offsets = mine.flat_map(|(&id, lease)| lease.offsets.iter().map(move |&o| (o, id)));
        let current = offsets.filter_map(|(offset, id)| {
            let pending = self.pending.get(&offset)?;
            (pending.visible_at > now).then_some((Offset(offset), id, pending.attempts))
        });
        current.collect()
    }

    /// Leases that are renewed while their holder lives and end before `before`.
    pub(super) fn renewable(
        &self,
        now: Timestamp,
        before: Timestamp,
    ) -> impl Iterator<Item = (u64, &Holder)> {
        let ends = move |lease: &Lease| {
            let first = lease.offsets.first().and_then(|o| self.pending.get(o));
            first.is_some_and(|p| now < p.visible_at && p.visible_at <= before)
        };
        let leases = self.leases.iter();
        leases
            .filter(move |(_, lease)| lease.holder.renewed && ends(lease))
            .map(|(&id, lease)| (id, &lease.holder))
    }

    /// Whether something is held under a lease at `now`.
    pub(super) fn is_current(&self, lease: u64, now: Timestamp) -> bool {
        let offsets = self.leases.get(&lease).map(|lease| &lease.offsets);
        let mut pending = offsets
            .into_iter()
            .flatten()
            .filter_map(|o| self.pending.get(o));
        pending.any(|pending| pending.visible_at > now)
    }

    /// What a consumer holds under leases that are renewed while it lives.
    pub(super) fn held_by(&self, consumer: &str) -> Vec<(u64, Vec<u64>)> {
        let leases = self.leases.iter();
        leases
            .filter(|(_, lease)| lease.holder.renewed && lease.holder.consumer == consumer)
            .map(|(&id, lease)| (id, lease.offsets.iter().copied().collect()))
            .collect()
    }

    /// What the handle of a delivery is worth at `now`.
    pub(super) fn held(&self, offset: Offset, lease: u64, now: Timestamp) -> Held {
        match self.pending.get(&offset.0) {
            Some(pending) if pending.lease == lease && pending.visible_at > now => Held::Current,
            Some(_) => Held::Expired,
            None if self.parked.contains_key(&offset.0) => Held::Unknown,
            None if offset.0 < self.next => Held::Acknowledged,
            None => Held::Unknown,
        }
    }

    /// Deliveries of a message so far.
    pub(super) fn attempts(&self, offset: u64) -> u32 {
        self.pending
            .get(&offset)
            .map_or(0, |pending| pending.attempts)
    }

    /// Offsets from `from` on that are not acknowledged, of a queue that ends at `end`.
    pub(super) fn outstanding(&self, from: Offset, end: Offset) -> impl Iterator<Item = u64> {
        let known: BTreeSet<u64> = self
            .pending
            .keys()
            .chain(self.parked.keys())
            .copied()
            .collect();
        let known = known.into_iter().filter(move |&offset| offset >= from.0);
        known.chain(self.next.max(from.0)..end.0)
    }

    /// Applies a delivery of whole runs.
    pub(super) fn popped(&mut self, record: &Popped) {
        let fresh = record.fresh_from..record.fresh_from + u64::from(record.fresh);
        self.next = self.next.max(fresh.end);
        let holder = record.holder.clone().unwrap_or_default();
        self.leases.entry(record.lease).or_default().holder = holder;
        for offset in record.again.iter().copied().chain(fresh) {
            self.lease(offset, record.lease, record.until_ms, Facts::default());
        }
        self.let_go(record.lease);
    }

    /// Applies a delivery that came of a scan.
    pub(super) fn scanned(&mut self, record: &Scanned) {
        self.next = self.next.max(record.next);
        let holder = record.holder.clone().unwrap_or_default();
        self.leases.entry(record.lease).or_default().holder = holder;
        for &offset in &record.again {
            self.lease(offset, record.lease, record.until_ms, Facts::default());
        }
        for fact in &record.fresh {
            self.lease(fact.offset, record.lease, record.until_ms, Facts::of(fact));
        }
        for fact in &record.parked {
            self.park(fact.offset, Facts::of(fact));
        }
        self.let_go(record.lease);
    }

    /// Applies acknowledgements.
    pub(super) fn acked(&mut self, record: &Acked) {
        for offset in &record.offsets {
            self.forget(*offset);
        }
    }

    /// Applies a change of invisible time.
    pub(super) fn moved(&mut self, record: &Moved) {
        if let Some(pending) = self.pending.get(&record.offset).copied() {
            let before = self.leases.get(&pending.lease);
            let holder = before.map_or_else(Holder::default, |lease| lease.holder.clone());
            let holder = Holder {
                poll: 0,
                renewed: false,
                ..holder
            };
            self.leases.entry(record.lease).or_default().holder = holder;
            let visible_at = Timestamp(record.until_ms);
            let moved = Pending {
                lease: record.lease,
                visible_at,
                ..pending
            };
            self.set(record.offset, moved);
        }
    }

    /// Applies that offsets below `first` are no longer kept: they are neither delivered nor waited for.
    pub(super) fn trimmed(&mut self, first: Offset) {
        let pending = self.pending.range(..first.0).map(|(&offset, _)| offset);
        let parked = self.parked.range(..first.0).map(|(&offset, _)| offset);
        let gone: Vec<u64> = pending.chain(parked).collect();
        for offset in gone {
            self.forget(offset);
        }
        self.next = self.next.max(first.0);
    }

    /// Applies the renewal of a lease.
    pub(super) fn renewed(&mut self, record: &Renewed) {
        let lease = self.leases.get(&record.lease);
        let offsets = lease.map_or_else(Vec::new, |l| l.offsets.iter().copied().collect());
        for offset in offsets {
            if let Some(pending) = self.pending.get(&offset).copied() {
                let visible_at = Timestamp(record.until_ms);
                self.set(
                    offset,
                    Pending {
                        visible_at,
                        ..pending
                    },
                );
            }
        }
    }

    /// Applies the return of deliveries that reached nobody.
    pub(super) fn returned(&mut self, record: &Returned) {
        for &offset in &record.offsets {
            let Some(pending) = self.pending.get(&offset).copied() else {
                continue;
            };
            if pending.lease == record.lease {
                let back = Pending {
                    lease: 0,
                    visible_at: Timestamp(record.at_ms),
                    attempts: pending.attempts - u32::from(record.unseen && pending.attempts > 0),
                    ..pending
                };
                self.set(offset, back);
            }
        }
    }

    /// Makes a message deliverable again that was done with.
    pub(super) fn reopened(&mut self, fact: &Fact, attempts: u32, at: Timestamp) {
        let offset = fact.offset;
        if offset < self.next && self.facts(offset).is_none() {
            let back = Pending {
                lease: 0,
                visible_at: at,
                attempts,
                facts: Facts::of(fact),
            };
            self.set(offset, back);
        }
    }

    /// Takes a message out: it was acknowledged, or goes to the dead letters.
    pub(super) fn forget(&mut self, offset: u64) {
        let facts = if let Some(pending) = self.pending.remove(&offset) {
            self.due.remove(&(pending.visible_at, offset));
            self.leave(pending.lease, offset);
            pending.facts
        } else if let Some(facts) = self.parked.remove(&offset) {
            self.free.remove(&offset);
            facts
        } else {
            return;
        };
        let group = facts.message_group;
        if let Some(chain) = self.chains.get_mut(&group) {
            chain.remove(&offset);
            match chain.first().copied() {
                None => {
                    self.chains.remove(&group);
                }
                Some(head) if self.parked.contains_key(&head) => {
                    self.free.insert(head);
                }
                Some(_) => {}
            }
        }
    }

    /// The pending messages.
    pub(super) fn pending(&self) -> impl Iterator<Item = PendingSnapshot> {
        self.pending
            .iter()
            .map(|(&offset, pending)| PendingSnapshot {
                offset,
                lease: pending.lease,
                visible_at_ms: pending.visible_at.as_ms(),
                attempts: pending.attempts,
                message_group: pending.facts.message_group,
                priority: pending.facts.priority,
            })
    }

    /// Who holds a lease.
    pub(super) fn holder(&self, lease: u64) -> Option<&Holder> {
        self.leases.get(&lease).map(|lease| &lease.holder)
    }

    /// Those below `next` that nothing holds back, up to what the wish can use.
    fn candidates(&self, wish: &Wish<'_>, choice: &mut Choice) -> Candidates {
        let most = if wish.by_priority {
            limits::PRIORITY_WINDOW
        } else {
            // One that is dead leaves even when nothing is wanted.
            wish.limit.max(1)
        };
        let mut candidates = Candidates::new();
        for &(_, offset) in self.due.range(..=(wish.now, u64::MAX)) {
            if candidates.len() >= most {
                break;
            }
            if self.is_head(offset) {
                self.consider(offset, wish, &mut candidates, choice);
            }
        }
        for &offset in self.free.iter().take(most) {
            self.consider(offset, wish, &mut candidates, choice);
        }
        candidates
    }

    /// Takes a message for a candidate when it is visible; one that is dead gives way to the next of its
    /// message group.
    fn consider(
        &self,
        offset: u64,
        wish: &Wish<'_>,
        candidates: &mut Candidates,
        choice: &mut Choice,
    ) {
        let mut next = Some(offset);
        while let Some(offset) = next {
            let facts = match self.pending.get(&offset) {
                Some(pending) if pending.visible_at > wish.now => return,
                Some(pending) if wish.attempts_max > 0 && pending.attempts >= wish.attempts_max => {
                    if choice.dead.len() >= limits::DEAD_LETTERS_AT_ONCE {
                        return;
                    }
                    choice.dead.push(offset);
                    next = self.successor(offset);
                    continue;
                }
                Some(pending) => pending.facts,
                None => self.parked.get(&offset).copied().unwrap_or_default(),
            };
            let rank = if wish.by_priority { facts.priority } else { 0 };
            candidates.insert((Reverse(rank), offset));
            return;
        }
    }

    /// New messages, all of which are wanted.
    fn take_fresh(&self, wish: &Wish<'_>, room: usize, choice: &mut Choice) {
        let fresh = (wish.limit - choice.chosen.len()).min(room) as u64;
        let until = wish
            .end
            .0
            .min(self.next.saturating_add(fresh))
            .max(self.next);
        let new = (self.next..until).map(|offset| Chosen {
            offset: Offset(offset),
            attempt: 1,
            facts: Facts::default(),
        });
        choice.chosen.extend(new);
        choice.next = until;
    }

    /// New messages that a scan accepted; those of a busy message group are parked.
    fn take_scanned(&self, wish: &Wish<'_>, mut room: usize, choice: &mut Choice) {
        let Some(scan) = self.fitting(wish.scan) else {
            return;
        };
        let mut taken: BTreeMap<u64, usize> = BTreeMap::new();
        let gone = choice.chosen.iter().map(|one| one.offset.0);
        for offset in gone.chain(choice.dead.iter().copied()) {
            let group = self.facts(offset).unwrap_or_default().message_group;
            *taken.entry(group).or_default() += 1;
        }
        let mut waiting = BTreeSet::new();
        for fact in scan.accepted.iter().filter(|fact| fact.offset >= self.next) {
            let facts = Facts::of(fact);
            let group = facts.message_group;
            let before = self.chains.get(&group).map_or(0, BTreeSet::len);
            let free = group == 0
                || (!waiting.contains(&group) && before == taken.get(&group).copied().unwrap_or(0));
            choice.next = fact.offset;
            if choice.chosen.len() >= wish.limit {
                return;
            }
            if free {
                if room == 0 {
                    return;
                }
                room -= 1;
                choice.chosen.push(Chosen {
                    offset: Offset(fact.offset),
                    attempt: 1,
                    facts,
                });
            } else {
                if choice.parked.len() >= self.parking_room() {
                    return;
                }
                waiting.insert(group);
                choice.parked.push((fact.offset, facts));
            }
        }
        choice.next = scan.to;
    }

    /// Accepted messages of a scan, so many; where the look ends.
    fn look_ahead(&self, scan: &Scan, most: usize, fresh: &mut BTreeMap<u64, Facts>) -> u64 {
        for fact in scan.accepted.iter().filter(|fact| fact.offset >= self.next) {
            if fresh.len() >= most {
                return fact.offset;
            }
            fresh.insert(fact.offset, Facts::of(fact));
        }
        scan.to
    }

    /// The scan, if it goes on where the cursor stands.
    fn fitting<'a>(&self, scan: Option<&'a Scan>) -> Option<&'a Scan> {
        scan.filter(|scan| scan.from <= self.next && self.next < scan.to)
    }

    fn facts(&self, offset: u64) -> Option<Facts> {
        let pending = self.pending.get(&offset).map(|pending| pending.facts);
        pending.or_else(|| self.parked.get(&offset).copied())
    }

    /// Whether no earlier message of its message group is left.
    fn is_head(&self, offset: u64) -> bool {
        let group = self.facts(offset).unwrap_or_default().message_group;
        let chain = self.chains.get(&group);
        chain.is_none_or(|chain| chain.first() == Some(&offset))
    }

    /// The next message of the same message group.
    fn successor(&self, offset: u64) -> Option<u64> {
        let chain = self.chains.get(&self.facts(offset)?.message_group)?;
        chain.range(offset + 1..).next().copied()
    }

    fn lease(&mut self, offset: u64, lease: u64, until_ms: i64, facts: Facts) {
        let pending = Pending {
            lease,
            visible_at: Timestamp(until_ms),
            attempts: self.attempts(offset) + 1,
            facts: self.facts(offset).unwrap_or(facts),
        };
        self.set(offset, pending);
    }

    fn set(&mut self, offset: u64, pending: Pending) {
        self.parked.remove(&offset);
        self.free.remove(&offset);
        self.link(offset, pending.facts);
        if let Some(before) = self.pending.insert(offset, pending) {
            self.due.remove(&(before.visible_at, offset));
            if before.lease != pending.lease {
                self.leave(before.lease, offset);
            }
        }
        self.due.insert((pending.visible_at, offset));
        if pending.lease != 0 {
            let lease = self.leases.entry(pending.lease).or_default();
            lease.offsets.insert(offset);
        }
    }

    fn park(&mut self, offset: u64, facts: Facts) {
        self.link(offset, facts);
        self.parked.insert(offset, facts);
        if self.is_head(offset) {
            self.free.insert(offset);
        }
    }

    fn link(&mut self, offset: u64, facts: Facts) {
        if facts.message_group != 0 {
            let chain = self.chains.entry(facts.message_group).or_default();
            if let Some(head) = chain.first().filter(|head| offset < **head) {
                self.free.remove(head);
            }
            chain.insert(offset);
        }
    }

    fn leave(&mut self, lease: u64, offset: u64) {
        if let Some(held) = self.leases.get_mut(&lease) {
            held.offsets.remove(&offset);
        }
        self.let_go(lease);
    }

    /// Forgets a lease under which nothing is held.
    fn let_go(&mut self, lease: u64) {
        let held = self.leases.get(&lease);
        if held.is_some_and(|held| held.offsets.is_empty()) {
            self.leases.remove(&lease);
        }
    }
}
