//! Where one group stands in one queue: what it has seen, what it holds, what comes back when.
//!
//! Pure state: no I/O, no clock, no async. A decision reads it and changes nothing; applying the
//! decision's record is the only mutation, live and in recovery alike.
//!
//! **Invariants.** Every offset below `next` is either in `pending` or acknowledged. A pending message
//! whose `visible_at` has passed may be delivered again; one whose lease was replaced answers to the
//! new lease only. Acknowledged offsets never come back.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::record::{Acked, Moved, PendingSnapshot, Popped};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    lease: u64,
    visible_at: Timestamp,
    attempts: u32,
}

/// Where a group stands in a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    next: u64,
    pending: BTreeMap<u64, Pending>,
    /// The pending ones by the time they become visible.
    due: BTreeSet<(Timestamp, u64)>,
}

/// A message chosen for delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Offset.
    pub offset: Offset,
    /// Which delivery this is, from 1.
    pub attempt: u32,
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
        Offset(self.pending.keys().next().copied().unwrap_or(self.next))
    }

    /// Delivered and invisible at `now`.
    #[must_use]
    pub fn in_flight(&self, now: Timestamp) -> u64 {
        let visible = self.due.range(..=(now, u64::MAX)).count();
        (self.pending.len() - visible) as u64
    }

    /// Not acknowledged, of a queue whose next offset is `end`.
    #[must_use]
    pub fn lag(&self, end: Offset) -> u64 {
        self.pending.len() as u64 + end.0.saturating_sub(self.next)
    }

    /// When the next pending message becomes visible.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Chooses up to `limit` messages visible at `now` of a queue that ends at `end`: those that come
    /// back first, by offset, then new ones. Changes nothing.
    #[must_use]
    pub fn decide_pop(&self, now: Timestamp, end: Offset, limit: usize) -> Vec<Chosen> {
        let mut again: Vec<u64> = self
            .due
            .range(..=(now, u64::MAX))
            .take(limit)
            .map(|&(_, offset)| offset)
            .collect();
        again.sort_unstable();
        let mut chosen: Vec<Chosen> = again
            .into_iter()
            .map(|offset| Chosen {
                offset: Offset(offset),
                attempt: self.attempts(offset) + 1,
            })
            .collect();
        let room = limits::IN_FLIGHT_MAX.saturating_sub(self.pending.len());
        let fresh = (limit - chosen.len()).min(room) as u64;
        let until = end.0.min(self.next.saturating_add(fresh));
        chosen.extend((self.next..until).map(|offset| Chosen {
            offset: Offset(offset),
            attempt: 1,
        }));
        chosen
    }

    /// How many messages could be delivered at `now`, counted up to `most`.
    #[must_use]
    pub fn available(&self, now: Timestamp, end: Offset, most: usize) -> usize {
        let again = self.due.range(..=(now, u64::MAX)).take(most).count();
        let room = limits::IN_FLIGHT_MAX.saturating_sub(self.pending.len()) as u64;
        let fresh = end.0.saturating_sub(self.next).min(room);
        most.min(again + usize::try_from(fresh).unwrap_or(most))
    }

    /// What the handle of a delivery is worth at `now`.
    #[must_use]
    pub fn held(&self, offset: Offset, lease: u64, now: Timestamp) -> Held {
        match self.pending.get(&offset.0) {
            Some(pending) if pending.lease == lease && pending.visible_at > now => Held::Current,
            Some(_) => Held::Expired,
            None if offset.0 < self.next => Held::Acknowledged,
            None => Held::Unknown,
        }
    }

    /// Applies a delivery.
    pub fn popped(&mut self, record: &Popped) {
        let fresh = record.fresh_from..record.fresh_from + u64::from(record.fresh);
        self.next = self.next.max(fresh.end);
        for offset in record.again.iter().copied().chain(fresh) {
            let attempts = self.attempts(offset) + 1;
            let visible_at = Timestamp(record.until_ms);
            self.set(
                offset,
                Pending {
                    lease: record.lease,
                    visible_at,
                    attempts,
                },
            );
        }
    }

    /// Applies acknowledgements.
    pub fn acked(&mut self, record: &Acked) {
        for offset in &record.offsets {
            if let Some(pending) = self.pending.remove(offset) {
                self.due.remove(&(pending.visible_at, *offset));
            }
        }
    }

    /// Applies a change of invisible time.
    pub fn moved(&mut self, record: &Moved) {
        if let Some(pending) = self.pending.get(&record.offset).copied() {
            let visible_at = Timestamp(record.until_ms);
            self.set(
                record.offset,
                Pending {
                    lease: record.lease,
                    visible_at,
                    ..pending
                },
            );
        }
    }

    /// Applies that offsets below `first` are no longer kept: they are neither delivered nor waited for.
    pub fn trimmed(&mut self, first: Offset) {
        let kept = self.pending.split_off(&first.0);
        for (offset, gone) in std::mem::replace(&mut self.pending, kept) {
            self.due.remove(&(gone.visible_at, offset));
        }
        self.next = self.next.max(first.0);
    }

    /// The pending messages, for a snapshot.
    pub fn pending(&self) -> impl Iterator<Item = PendingSnapshot> {
        self.pending
            .iter()
            .map(|(&offset, pending)| PendingSnapshot {
                offset,
                lease: pending.lease,
                visible_at_ms: pending.visible_at.as_ms(),
                attempts: pending.attempts,
            })
    }

    /// The cursor that a snapshot holds.
    #[must_use]
    pub fn restore(next: Offset, pending: &[PendingSnapshot]) -> Self {
        let mut cursor = Self::starting_at(next);
        for one in pending {
            let visible_at = Timestamp(one.visible_at_ms);
            cursor.set(
                one.offset,
                Pending {
                    lease: one.lease,
                    visible_at,
                    attempts: one.attempts,
                },
            );
        }
        cursor
    }

    fn attempts(&self, offset: u64) -> u32 {
        self.pending
            .get(&offset)
            .map_or(0, |pending| pending.attempts)
    }

    fn set(&mut self, offset: u64, pending: Pending) {
        if let Some(before) = self.pending.insert(offset, pending) {
            self.due.remove(&(before.visible_at, offset));
        }
        self.due.insert((pending.visible_at, offset));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pop(cursor: &mut Cursor, now: i64, end: u64, limit: usize, lease: u64) -> Vec<Chosen> {
        let chosen = cursor.decide_pop(Timestamp(now), Offset(end), limit);
        let next = cursor.next;
        let again = chosen
            .iter()
            .map(|c| c.offset.0)
            .filter(|&o| o < next)
            .collect();
        let fresh = chosen.iter().filter(|c| c.offset.0 >= next).count();
        cursor.popped(&Popped {
            lease,
            until_ms: now + 100,
            again,
            fresh_from: next,
            fresh: u32::try_from(fresh).unwrap(),
            ..Popped::default()
        });
        chosen
    }

    fn ack(cursor: &mut Cursor, offsets: &[u64]) {
        cursor.acked(&Acked {
            offsets: offsets.to_vec(),
            ..Acked::default()
        });
    }

    #[test]
    fn a_popped_message_is_invisible_until_its_time_ends_and_then_returns_once_more() {
        let mut cursor = Cursor::default();
        assert_eq!(pop(&mut cursor, 0, 2, 32, 1).len(), 2);
        assert_eq!(pop(&mut cursor, 99, 2, 32, 2), []);
        let again = pop(&mut cursor, 100, 2, 32, 3);
        assert_eq!(again.iter().map(|c| c.attempt).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(cursor.held(Offset(0), 1, Timestamp(100)), Held::Expired);
        assert_eq!(cursor.held(Offset(0), 3, Timestamp(100)), Held::Current);
    }

    #[test]
    fn an_acknowledged_message_never_returns_and_the_floor_follows() {
        let mut cursor = Cursor::default();
        pop(&mut cursor, 0, 3, 32, 1);
        ack(&mut cursor, &[1, 2]);
        assert_eq!(cursor.ack_floor(), Offset(0));
        ack(&mut cursor, &[0]);
        assert_eq!(cursor.ack_floor(), Offset(3));
        assert_eq!(pop(&mut cursor, 1_000, 3, 32, 2), []);
        assert_eq!(
            cursor.held(Offset(1), 1, Timestamp(1_000)),
            Held::Acknowledged
        );
    }

    #[test]
    fn moving_the_invisible_time_replaces_the_handle() {
        let mut cursor = Cursor::default();
        pop(&mut cursor, 0, 1, 1, 1);
        cursor.moved(&Moved {
            offset: 0,
            lease: 9,
            until_ms: 500,
            ..Moved::default()
        });
        assert_eq!(cursor.held(Offset(0), 1, Timestamp(10)), Held::Expired);
        assert_eq!(cursor.held(Offset(0), 9, Timestamp(10)), Held::Current);
        assert_eq!(cursor.next_due(), Some(Timestamp(500)));
        assert_eq!(cursor.in_flight(Timestamp(499)), 1);
        assert_eq!(cursor.in_flight(Timestamp(500)), 0);
    }

    #[test]
    fn what_is_no_longer_kept_is_neither_delivered_nor_waited_for() {
        let mut cursor = Cursor::default();
        pop(&mut cursor, 0, 9, 3, 1);
        cursor.trimmed(Offset(2));
        assert_eq!((cursor.ack_floor(), cursor.lag(Offset(9))), (Offset(2), 7));
        assert_eq!(cursor.held(Offset(0), 1, Timestamp(1)), Held::Acknowledged);
        assert_eq!(cursor.held(Offset(2), 1, Timestamp(1)), Held::Current);
        cursor.trimmed(Offset(6));
        assert_eq!((cursor.next(), cursor.next_due()), (Offset(6), None));
        assert_eq!(cursor.lag(Offset(9)), 3);
        cursor.trimmed(Offset(1));
        assert_eq!(cursor.next(), Offset(6), "it only rises");
    }

    proptest! {
        /// Against a model that writes down every message's fate.
        #[test]
        fn behaves_as_a_list_of_fates(steps in proptest::collection::vec((0_u8..3, 0_u64..64), 1..200)) {
            let mut cursor = Cursor::default();
            let mut acknowledged = BTreeSet::new();
            let mut seen: BTreeMap<u64, (i64, u32)> = BTreeMap::new();
            let (mut now, mut end) = (0_i64, 0_u64);
            for (lease, (step, n)) in steps.into_iter().enumerate() {
                match step {
                    0 => end += n % 5,
                    1 => {
                        now += i64::try_from(n).unwrap();
                        for chosen in pop(&mut cursor, now, end, 4, lease as u64) {
                            let offset = chosen.offset.0;
                            prop_assert!(offset < end);
                            prop_assert!(!acknowledged.contains(&offset));
                            let (until, attempts) = seen.get(&offset).copied().unwrap_or((now, 0));
                            prop_assert!(until <= now, "delivered while invisible");
                            prop_assert_eq!(chosen.attempt, attempts + 1);
                            seen.insert(offset, (now + 100, attempts + 1));
                        }
                    }
                    _ => {
                        if seen.contains_key(&n) {
                            ack(&mut cursor, &[n]);
                            acknowledged.insert(n);
                        }
                    }
                }
                let floor = (0..cursor.next).find(|o| !acknowledged.contains(o)).unwrap_or(cursor.next);
                prop_assert_eq!(cursor.ack_floor(), Offset(floor));
                let restored = Cursor::restore(cursor.next(), &cursor.pending().collect::<Vec<_>>());
                prop_assert_eq!(&restored, &cursor);
            }
        }
    }
}
