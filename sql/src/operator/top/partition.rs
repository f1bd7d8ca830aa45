//! The rows of a partition in their order: mostly few, seldom many.
//!
//! One lies by itself, few in a line, many in a tree. A row that lies behind all those that count is not made room for at all, which is what most
//! rows of an input that stays come to.

use std::collections::BTreeMap;

use crate::operator::delta::Row;

/// Most rows that lie in a line.
const FEW: usize = 32;
/// What a row takes besides its bytes, about.
const ROW_BYTES: usize = 120;

/// Rows of equal columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked {
    pub(super) count: i64,
    /// How many of the bytes are the order's; the others are the row's.
    pub(super) order: usize,
}

/// Rows by the bytes of their order and then of their columns.
#[derive(Debug)]
enum Rows {
    /// The only one, as where no more than the first counts.
    One(Row, Ranked),
    Few(Vec<(Row, Ranked)>),
    Many(BTreeMap<Row, Ranked>),
}

/// What is kept of a partition.
#[derive(Debug)]
pub(super) struct Partition {
    rows: Rows,
    /// How many they are, counting each.
    pub(super) total: i64,
    /// What it ends by; `None` when it does not end.
    pub(super) at_ms: Option<i64>,
}

impl Default for Partition {
    fn default() -> Self {
        Self {
            rows: Rows::Few(Vec::new()),
            total: 0,
            at_ms: None,
        }
    }
}

impl Rows {
    fn get_mut(&mut self, place: &[u8]) -> Option<&mut Ranked> {
        match self {
            Self::One(known, ranked) => (known.as_ref() == place).then_some(ranked),
            Self::Few(rows) => {
                let at = rows.binary_search_by(|(known, _)| known.as_ref().cmp(place));
                at.ok().map(|at| &mut rows[at].1)
            }
            Self::Many(rows) => rows.get_mut(place),
        }
    }

    /// Adds a row that is not there.
    fn insert(&mut self, place: &[u8], ranked: Ranked) {
        match self {
            Self::Few(rows) if rows.is_empty() => *self = Self::One(Row::from(place), ranked),
            Self::One(known, first) => {
                let mut rows = vec![(Row::clone(known), *first), (Row::from(place), ranked)];
                if place < known.as_ref() {
                    rows.swap(0, 1);
                }
                *self = Self::Few(rows);
            }
            Self::Few(rows) if rows.len() < FEW => {
                let at = rows.partition_point(|(known, _)| known.as_ref() < place);
                rows.insert(at, (Row::from(place), ranked));
            }
            Self::Few(rows) => {
                let mut many: BTreeMap<Row, Ranked> = rows.drain(..).collect();
                many.insert(Row::from(place), ranked);
                *self = Self::Many(many);
            }
            Self::Many(rows) => {
                rows.insert(Row::from(place), ranked);
            }
        }
    }

    fn remove(&mut self, place: &[u8]) {
        match self {
            Self::One(known, _) if known.as_ref() == place => *self = Self::Few(Vec::new()),
            Self::One(..) => {}
            Self::Few(rows) => {
                let at = rows.binary_search_by(|(known, _)| known.as_ref().cmp(place));
                if let Ok(at) = at {
                    rows.remove(at);
                }
            }
            Self::Many(rows) => {
                rows.remove(place);
            }
        }
    }

    fn last(&self) -> Option<(&Row, &Ranked)> {
        match self {
            Self::One(place, ranked) => Some((place, ranked)),
            Self::Few(rows) => rows.last().map(|(place, ranked)| (place, ranked)),
            Self::Many(rows) => rows.last_key_value(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&Row, &Ranked)> {
        let (one, few, many) = match self {
            Self::One(place, ranked) => (Some((place, ranked)), None, None),
            Self::Few(rows) => (None, Some(rows), None),
            Self::Many(rows) => (None, None, Some(rows)),
        };
        let few = few.into_iter().flatten();
        let few = few.map(|(place, ranked)| (place, ranked));
        let several = few.chain(many.into_iter().flatten());
        one.into_iter().chain(several)
    }
}

/// Memory that a row takes, about.
pub(super) fn row_bytes(key: &[u8], place: &[u8]) -> usize {
    ROW_BYTES + key.len() + place.len()
}

impl Partition {
    /// All rows, in order.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Row, &Ranked)> {
        self.rows.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.last().is_none()
    }

    /// Puts the first rows, in order, into `first`, which is emptied before.
    pub(super) fn first(&self, count: u64, first: &mut Vec<(Row, usize)>) {
        first.clear();
        let each = self.rows.iter().flat_map(|(place, ranked)| {
            let count = usize::try_from(ranked.count).unwrap_or(0);
            std::iter::repeat_n((place, ranked.order), count)
        });
        let each = each.take(usize::try_from(count).unwrap_or(usize::MAX));
        first.extend(each.map(|(place, order)| (Row::clone(place), order)));
    }

    /// Lets go of all rows (equal ones counted once) behind the first so many.
    pub(super) fn keep(&mut self, count: usize, key: &[u8], bytes: &mut usize) {
        let behind: Vec<(Row, i64)> = self
            .rows
            .iter()
            .skip(count)
            .map(|(place, ranked)| (Row::clone(place), ranked.count))
            .collect();
        for (place, count) in behind {
            self.rows.remove(&place);
            self.total -= count;
            *bytes -= row_bytes(key, &place);
        }
    }

    /// Whether a row that comes lies behind the first `most`, by its order alone.
    pub(super) fn passes_over(&self, order: &[u8], most: i64) -> bool {
        self.total >= most
            && self.rows.last().is_none_or(|(last, ranked)| {
                let last = last.get(..ranked.order);
                last.is_some_and(|last| order > last)
            })
    }

    /// Adds a row so many times, or takes it back, and lets go of what lies behind the first `most`.
    pub(super) fn put(
        &mut self,
        key: &[u8],
        place: &[u8],
        ranked: Ranked,
        most: i64,
        bytes: &mut usize,
    ) {
        if let Some(known) = self.rows.get_mut(place) {
            known.count += ranked.count;
            if known.count == 0 {
                self.rows.remove(place);
                *bytes -= row_bytes(key, place);
            }
        } else {
            let last = self.rows.last().map(|(last, _)| last.as_ref());
            if self.total >= most && last.is_none_or(|last| place > last) {
                return;
            }
            self.rows.insert(place, ranked);
            *bytes += row_bytes(key, place);
        }
        self.total += ranked.count;
        while self.total > most {
            let Some((last, ranked)) = self.rows.last() else {
                return;
            };
            let (last, mut ranked) = (Row::clone(last), *ranked);
            let gone = ranked.count.min(self.total - most);
            self.total -= gone;
            ranked.count -= gone;
            if ranked.count == 0 {
                self.rows.remove(&last);
                *bytes -= row_bytes(key, &last);
            } else if let Some(known) = self.rows.get_mut(&last) {
                *known = ranked;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_lie_in_order_whether_few_or_many(
            steps in prop::collection::vec((0_u8..90, any::<bool>()), 0..200),
            most in prop_oneof![Just(i64::MAX), 0_i64..50],
        ) {
            let (mut partition, mut bytes) = (Partition::default(), 0);
            let mut model: BTreeMap<u8, i64> = BTreeMap::new();
            for (row, goes) in steps {
                let there = model.get(&row).copied().unwrap_or(0);
                // What was let go of can not be taken back.
                let weight = if goes && there > 0 && most == i64::MAX { -1 } else { 1 };
                let is_over = partition.passes_over(&[row], most);
                let ranked = Ranked { count: weight, order: 1 };
                partition.put(b"k", &[row, 7], ranked, most, &mut bytes);
                *model.entry(row).or_default() += weight;
                let mut total: i64 = model.values().sum();
                while total > most {
                    let mut last = model.last_entry().unwrap();
                    *last.get_mut() -= 1;
                    total -= 1;
                    if *last.get() == 0 {
                        last.remove();
                    }
                }
                model.retain(|_, count| *count > 0);
                prop_assert!(!is_over || model.get(&row).copied().unwrap_or(0) == there);
                let found: Vec<(u8, i64)> = partition.rows().map(|(row, ranked)| (row[0], ranked.count)).collect();
                prop_assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>());
                prop_assert_eq!(partition.total, total);
                prop_assert_eq!(bytes, model.len() * row_bytes(b"k", b"rr"));
                prop_assert_eq!(partition.is_empty(), model.is_empty());
            }
        }
    }
}
