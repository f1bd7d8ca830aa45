//! The rows of one side of an inner join: found by key, by row and by when they end.
//!
//! Rows and their keys are [`Numbered`], and rows of one key follow each other from number to number. So a row that comes costs its bytes and
//! a place in one map, not an allocation each for the row, its key and the list that it is in, and a state that is let go of is dropped in a
//! few pieces.
//!
//! **Invariant.** A key is there as long as it has rows. Notes of when rows end may lead to a number that
//! another row has taken since; they hold for whichever row with the number ends at that time.

use crate::operator::ends::Ends;
use crate::operator::hash::Hashed;
use crate::operator::join::{Change, row_bytes};
use crate::operator::numbered::{NONE, Numbered};

/// What is known of a row.
#[derive(Clone, Copy, Debug)]
struct Slot {
    count: i64,
    at_ms: i64,
    /// Its key, and the rows of that key beside it.
    key: u32,
    before: u32,
    next: u32,
}

/// Rows of a side.
#[derive(Debug)]
pub(super) struct Stock {
    /// Whether its rows end.
    forgets: bool,
    rows: Numbered<Slot>,
    /// The first row of each key.
    keys: Numbered<u32>,
    ends: Ends<u32>,
    bytes: usize,
}

/// A row as it is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stocked<'a> {
    pub(super) key: &'a [u8],
    pub(super) row: &'a [u8],
    pub(super) count: i64,
    pub(super) at_ms: i64,
}

impl Stock {
    pub(super) fn new(forgets: bool) -> Self {
        Self {
            forgets,
            rows: Numbered::default(),
            keys: Numbered::default(),
            ends: Ends::default(),
            bytes: 0,
        }
    }

    /// Lets go of all rows.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.forgets);
    }

    /// Memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows of a key, by slot, and how often each is there.
    pub(super) fn of_key(&self, key: Hashed<'_>) -> impl Iterator<Item = (u32, i64)> {
        let key = self.keys.find(key);
        let mut next = key.map_or(NONE, |key| self.keys[key]);
        std::iter::from_fn(move || {
            let slot = self.rows.get(next)?;
            Some((std::mem::replace(&mut next, slot.next), slot.count))
        })
    }

    /// The bytes of a row.
    pub(super) fn row(&self, slot: u32) -> &[u8] {
        self.rows.key(slot)
    }

    /// Adds a row so many times, or takes it back. What was forgotten is not there to go.
    pub(super) fn change(&mut self, key: Hashed<'_>, row: Hashed<'_>, change: Change) {
        let Some(slot) = self.rows.find(row) else {
            if change.weight > 0 {
                let slot = self.push(key, row, change);
                if self.forgets {
                    self.ends.note(change.at_ms, slot);
                }
            }
            return;
        };
        let known = &mut self.rows[slot];
        known.count += change.weight;
        if known.count <= 0 {
            self.remove(slot);
            if self.forgets {
                self.ends.outdate();
            }
            return;
        }
        if std::mem::replace(&mut known.at_ms, change.at_ms) != change.at_ms && self.forgets {
            self.ends.outdate();
            self.ends.note(change.at_ms, slot);
        }
    }

    /// Adds a row that is not there; when it ends is not noted yet.
    fn push(&mut self, key: Hashed<'_>, row: Hashed<'_>, change: Change) -> u32 {
        let of_key = self.keys.find(key);
        let of_key = of_key.unwrap_or_else(|| self.keys.insert(key, NONE));
        let next = self.keys[of_key];
        let slot = Slot {
            count: change.weight,
            at_ms: change.at_ms,
            key: of_key,
            before: NONE,
            next,
        };
        let number = self.rows.insert(row, slot);
        self.keys[of_key] = number;
        if let Some(next) = self.rows.get_mut(next) {
            next.before = number;
        }
        self.bytes += row_bytes(key.bytes, row.bytes, self.forgets);
        number
    }

    /// Takes a row out.
    fn remove(&mut self, number: u32) {
        let Slot {
            key, before, next, ..
        } = self.rows[number];
        self.bytes -= row_bytes(self.keys.key(key), self.rows.key(number), self.forgets);
        match self.rows.get_mut(before) {
            Some(before) => before.next = next,
            None => self.keys[key] = next,
        }
        if let Some(next) = self.rows.get_mut(next) {
            next.before = before;
        }
        self.rows.remove(number);
        if self.keys[key] == NONE {
            self.keys.remove(key);
        }
    }

    /// Forgets the rows that end before a time.
    pub(super) fn forget(&mut self, before_ms: Option<i64>) {
        for (at_ms, slot) in self.ends.take_before(before_ms) {
            if self.ends_at(slot, at_ms) {
                self.remove(slot);
            }
        }
        self.tidy();
    }

    /// Whether a number is that of a row that ends at a time.
    fn ends_at(&self, slot: u32, at_ms: i64) -> bool {
        let known = self.rows.get(slot);
        known.is_some_and(|known| known.at_ms == at_ms)
    }

    /// Gives back what rows left behind that went, once it is much.
    pub(super) fn tidy(&mut self) {
        if self.ends.is_littered() {
            let mut ends = std::mem::take(&mut self.ends);
            ends.sweep(|at_ms, slot| self.ends_at(*slot, at_ms));
            self.ends = ends;
        }
        self.rows.tidy();
        self.keys.tidy();
    }

    /// All rows, in the order of their keys and bytes.
    pub(super) fn all(&self) -> Vec<Stocked<'_>> {
        let there = self.rows.iter();
        let mut all: Vec<Stocked<'_>> = there
            .map(|(number, slot)| Stocked {
                key: self.keys.key(slot.key),
                row: self.rows.key(number),
                count: slot.count,
                at_ms: slot.at_ms,
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// Takes a saved row back; answers whether it was not there yet.
    pub(super) fn restore(&mut self, key: &[u8], row: &[u8], count: i64) -> bool {
        let (key, row) = (Hashed::of(key), Hashed::of(row));
        if count <= 0 || self.rows.find(row).is_some() {
            return false;
        }
        let (weight, at_ms) = (count, 0);
        self.push(key, row, Change { weight, at_ms });
        true
    }

    /// Takes back when a row ends; answers whether it is there.
    pub(super) fn restore_end(&mut self, row: &[u8], at_ms: i64) -> bool {
        let Some(slot) = self.rows.find(Hashed::of(row)) else {
            return false;
        };
        self.rows[slot].at_ms = at_ms;
        self.ends.note(at_ms, slot);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// The key of a row of the tests.
    fn key_of(row: u8) -> [u8; 1] {
        [row % 5]
    }

    fn hashed(bytes: &[u8], hashes: u64) -> Hashed<'_> {
        let Hashed { bytes, hash } = Hashed::of(bytes);
        Hashed {
            bytes,
            hash: hash % hashes,
        }
    }

    proptest! {
        #[test]
        fn rows_are_found_by_key_and_forgotten_by_time_even_if_hashes_collide(
            hashes in prop::sample::select(vec![1, 2, 7, u64::MAX]),
            forgets in any::<bool>(),
            steps in prop::collection::vec((0..6, 0_u8..30, -3_i64..4, 0_i64..2000), 0..160),
        ) {
            let mut stock = Stock::new(forgets);
            let mut model: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
            for (how, row, weight, at_ms) in steps {
                if how == 0 && forgets {
                    stock.forget(Some(at_ms));
                    model.retain(|_, (_, end)| *end >= at_ms);
                } else if weight != 0 {
                    let bytes = ([row], key_of(row));
                    let (row_bytes, key) = (hashed(&bytes.0, hashes), hashed(&bytes.1, hashes));
                    stock.change(key, row_bytes, Change { weight, at_ms });
                    let (count, end) = model.entry(row).or_default();
                    (*count, *end) = (*count + weight, at_ms);
                    model.retain(|_, (count, _)| *count > 0);
                }
                stock.tidy();
                let expected: BTreeMap<([u8; 1], u8), (i64, i64)> =
                    model.iter().map(|(row, known)| ((key_of(*row), *row), *known)).collect();
                let all = stock.all();
                let found: Vec<_> = all.iter().map(|one| (one.key, one.row, one.count, one.at_ms)).collect();
                let expected: Vec<_> = expected.iter().map(|((key, row), (count, end))| {
                    (&key[..], std::slice::from_ref(row), *count, *end)
                }).collect();
                prop_assert_eq!(found, expected);
                for key in 0..5 {
                    let bytes = [key];
                    let of_key = stock.of_key(hashed(&bytes, hashes));
                    let mut of_key: Vec<(u8, i64)> =
                        of_key.map(|(slot, count)| (stock.row(slot)[0], count)).collect();
                    of_key.sort_unstable();
                    let expected = model.iter().filter(|(row, _)| key_of(**row) == [key]);
                    let expected: Vec<(u8, i64)> = expected.map(|(row, (count, _))| (*row, *count)).collect();
                    prop_assert_eq!(of_key, expected);
                }
                prop_assert_eq!(stock.bytes() == 0, model.is_empty());
            }
        }
    }

    #[test]
    fn what_many_rows_leave_behind_is_given_back() {
        let mut stock = Stock::new(true);
        let bytes = |number: i64| [number.to_be_bytes(); 12].concat();
        for number in 0..40_000_i64 {
            let (key, row) = ((number % 90).to_be_bytes(), bytes(number));
            let change = Change {
                weight: 1,
                at_ms: number,
            };
            stock.change(Hashed::of(&key), Hashed::of(&row), change);
            // Every hundredth stays to the end, so that blocks never become empty by themselves.
            if number >= 1000 && number % 100 != 0 {
                let (key, row) = (((number - 1000) % 90).to_be_bytes(), bytes(number - 1000));
                let change = Change {
                    weight: -1,
                    at_ms: number,
                };
                stock.change(Hashed::of(&key), Hashed::of(&row), change);
                stock.tidy();
            }
        }
        assert!(stock.rows.given() < 2200, "{}", stock.rows.given());
        stock.forget(Some(i64::MAX));
        assert_eq!((stock.bytes(), stock.all().len()), (0, 0));
    }
}
