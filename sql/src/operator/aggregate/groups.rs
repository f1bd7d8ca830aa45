//! The groups of an aggregate, laid flat: each has a slot, and what is known of it lies there in a few lines that all groups share.
//!
//! Slots are numbers of their keys ([`Numbered`]); what a group keeps for its aggregates lies beside that of its neighbours, so that a group
//! that comes costs no allocation of its own. A step may hold on to many slots at a time and looks each group up once.
//!
//! **Invariant.** What a free slot keeps is that of a group without rows. Notes of when groups end may lead to a
//! slot that another group has taken since; they hold for whichever group in the slot ends at that time.

use crate::operator::aggregate::shared::{Numbers, Sharing};
use crate::operator::ends::Ends;
use crate::operator::hash::Hashed;
use crate::operator::kept::{Keeper, Kept};
use crate::operator::numbered::Numbered;

/// What is known of a group besides what it keeps.
#[derive(Debug, Default)]
struct Slot {
    rows: i64,
    at_ms: Option<i64>,
}

/// Groups by key.
#[derive(Debug, Default)]
pub(super) struct Groups {
    slots: Numbered<Slot>,
    /// What the groups keep, that of each slot in a line: so many and so many.
    kept: Vec<Kept>,
    shared: Vec<Numbers>,
    widths: (usize, usize),
    ends: Ends<u32>,
    bytes: usize,
}

/// What a group takes besides its key and what it keeps: its slot, its place in the map and the note of its end, about.
const GROUP_BYTES: usize = size_of::<Slot>() + 72;

impl Groups {
    /// The slot of a group.
    pub(super) fn find(&self, key: Hashed<'_>) -> Option<u32> {
        self.slots.find(key)
    }

    /// The key of a group.
    pub(super) fn key(&self, slot: u32) -> &[u8] {
        self.slots.key(slot)
    }

    /// Adds a group that is not there and has no rows; answers its slot.
    pub(super) fn insert(&mut self, key: Hashed<'_>, keepers: &[Keeper], sharing: &Sharing) -> u32 {
        let given = self.slots.given();
        let slot = self.slots.insert(key, Slot::default());
        if self.slots.given() > given {
            let (kept, shared) = (self.kept.len(), self.shared.len());
            self.kept.extend(sharing.fresh(keepers));
            self.shared.extend(sharing.fresh_numbers());
            self.widths = (self.kept.len() - kept, self.shared.len() - shared);
        }
        self.bytes += self.group_bytes(key.bytes);
        slot
    }

    /// Takes a group away.
    pub(super) fn remove(&mut self, slot: u32, keepers: &[Keeper], sharing: &Sharing) {
        let kept: usize = self.kept(slot).iter().map(Kept::bytes).sum();
        let shared: usize = self.shared(slot).iter().map(Numbers::bytes).sum();
        if self.slots[slot].at_ms.take().is_some() {
            self.ends.outdate();
        }
        self.bytes -= self.group_bytes(self.key(slot)) + kept + shared;
        self.slots.remove(slot);
        let (kept, shared) = self.parts(slot);
        for (kept, fresh) in self.kept[kept].iter_mut().zip(sharing.fresh(keepers)) {
            *kept = fresh;
        }
        for (shared, fresh) in self.shared[shared].iter_mut().zip(sharing.fresh_numbers()) {
            *shared = fresh;
        }
    }

    /// Takes the groups away that end before a time.
    pub(super) fn forget(&mut self, before_ms: Option<i64>, keepers: &[Keeper], sharing: &Sharing) {
        for (at_ms, slot) in self.ends.take_before(before_ms) {
            if self.ends_at(slot, at_ms) {
                self.slots[slot].at_ms = None;
                self.remove(slot, keepers, sharing);
            }
        }
        self.tidy();
    }

    fn ends_at(&self, slot: u32, at_ms: i64) -> bool {
        let known = self.slots.get(slot);
        known.is_some_and(|known| known.at_ms == Some(at_ms))
    }

    /// Gives back what groups left behind that went, once it is much.
    fn tidy(&mut self) {
        if self.ends.is_littered() {
            let mut ends = std::mem::take(&mut self.ends);
            ends.sweep(|at_ms, slot| self.ends_at(*slot, at_ms));
            self.ends = ends;
        }
        self.slots.tidy();
    }

    /// Notes what a group ends by; `None` when it does not end.
    pub(super) fn end(&mut self, slot: u32, at_ms: Option<i64>) {
        let known = &mut self.slots[slot].at_ms;
        if *known == at_ms {
            return;
        }
        if std::mem::replace(known, at_ms).is_some() {
            self.ends.outdate();
        }
        if let Some(at_ms) = at_ms {
            self.ends.note(at_ms, slot);
        }
    }

    /// What a group ends by.
    pub(super) fn at_ms(&self, slot: u32) -> Option<i64> {
        self.slots[slot].at_ms
    }

    /// How many rows a group has.
    pub(super) fn rows(&self, slot: u32) -> i64 {
        self.slots[slot].rows
    }

    /// The same, to be changed.
    pub(super) fn rows_mut(&mut self, slot: u32) -> &mut i64 {
        &mut self.slots[slot].rows
    }

    /// What a group keeps, by aggregate.
    pub(super) fn kept(&self, slot: u32) -> &[Kept] {
        &self.kept[self.parts(slot).0]
    }

    /// What a group keeps for one of the aggregates, to be changed, and the memory that all take.
    pub(super) fn kept_mut(&mut self, slot: u32, aggregate: usize) -> (&mut Kept, &mut usize) {
        let at = slot as usize * self.widths.0 + aggregate;
        (&mut self.kept[at], &mut self.bytes)
    }

    /// What several aggregates of a group keep together, by set.
    pub(super) fn shared(&self, slot: u32) -> &[Numbers] {
        &self.shared[self.parts(slot).1]
    }

    /// All that a group keeps, to be changed, and the memory that all take.
    pub(super) fn all_mut(&mut self, slot: u32) -> (&mut [Kept], &mut [Numbers], &mut usize) {
        let (kept, shared) = self.parts(slot);
        (
            &mut self.kept[kept],
            &mut self.shared[shared],
            &mut self.bytes,
        )
    }

    /// Where what a slot keeps lies.
    fn parts(&self, slot: u32) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let slot = slot as usize;
        let (kept, shared) = self.widths;
        (
            slot * kept..(slot + 1) * kept,
            slot * shared..(slot + 1) * shared,
        )
    }

    /// The slots of all groups, in the order of their keys.
    pub(super) fn sorted(&self) -> Vec<u32> {
        let mut there: Vec<u32> = self.slots.iter().map(|(slot, _)| slot).collect();
        there.sort_unstable_by_key(|slot| self.key(*slot));
        there
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Memory that a group without rows takes.
    fn group_bytes(&self, key: &[u8]) -> usize {
        let (kept, shared) = self.widths;
        GROUP_BYTES + key.len() + kept * size_of::<Kept>() + shared * size_of::<Numbers>()
    }

    /// Memory that they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn groups_are_found_by_key_and_forgotten_by_time_even_if_hashes_collide(
            hashes in prop::sample::select(vec![1, 2, 7, u64::MAX]),
            steps in prop::collection::vec((0..5, 0_u8..30, 1_i64..4, prop::option::of(0_i64..2000)), 0..160),
        ) {
            let (keepers, sharing) = (Vec::new(), Sharing::default());
            let keys: Vec<Vec<u8>> = (0_u8..30).map(|key| vec![key; usize::from(key)]).collect();
            let mut groups = Groups::default();
            let mut model: BTreeMap<&[u8], (i64, Option<i64>)> = BTreeMap::new();
            for (how, key, rows, at_ms) in steps {
                let key = keys[usize::from(key)].as_slice();
                let hashed = Hashed { hash: Hashed::of(key).hash % hashes, bytes: key };
                let known = groups.find(hashed);
                prop_assert_eq!(known.is_some(), model.contains_key(key));
                match (how, known) {
                    (0, _) => {
                        groups.forget(at_ms, &keepers, &sharing);
                        model.retain(|_, (_, end)| end.zip(at_ms).is_none_or(|(end, at_ms)| end >= at_ms));
                    }
                    (1, Some(slot)) => {
                        groups.remove(slot, &keepers, &sharing);
                        model.remove(key);
                    }
                    _ => {
                        let slot = known.unwrap_or_else(|| groups.insert(hashed, &keepers, &sharing));
                        *groups.rows_mut(slot) += rows;
                        groups.end(slot, at_ms);
                        let (counted, end) = model.entry(key).or_default();
                        (*counted, *end) = (*counted + rows, at_ms);
                    }
                }
                let found: Vec<_> = groups.sorted().into_iter()
                    .map(|slot| (groups.key(slot), (groups.rows(slot), groups.at_ms(slot)))).collect();
                let expected: Vec<_> = model.iter().map(|(key, known)| (*key, *known)).collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(groups.is_empty(), model.is_empty());
                prop_assert_eq!(groups.bytes() == 0, model.is_empty());
            }
        }
    }
}
