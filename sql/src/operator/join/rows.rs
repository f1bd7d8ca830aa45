//! The rows of one key of one side of a join that counts matches: mostly few, seldom many.
//!
//! One lies by itself; few lie in a line and are found by looking at each; many are found by their hash. In which order they are given is
//! not told: whoever saves them sorts them.

use std::collections::HashMap;

use crate::operator::delta::Row;
use crate::operator::hash::Fixed;

/// Most rows that lie in a line.
const FEW: usize = 8;

/// What is known of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) count: i64,
    /// Rows of the other side that it matches.
    pub(super) matches: i64,
    /// What it ends by: its own time, or when it came last.
    pub(super) at_ms: i64,
}

/// Rows, and what is known of each.
#[derive(Debug)]
pub(super) enum OfKey {
    /// The only one, as where a key is that of one row.
    One(Row, Kept),
    Few(Vec<(Row, Kept)>),
    Many(HashMap<Row, Kept, Fixed>),
}

impl Default for OfKey {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl OfKey {
    pub(super) fn get(&self, row: &[u8]) -> Option<Kept> {
        match self {
            Self::One(known, kept) => (known.as_ref() == row).then_some(*kept),
            Self::Few(rows) => {
                let mut rows = rows.iter();
                rows.find(|(known, _)| known.as_ref() == row)
                    .map(|(_, kept)| *kept)
            }
            Self::Many(rows) => rows.get(row).copied(),
        }
    }

    /// Puts a row in place of what was known of it, which it answers.
    pub(super) fn put(&mut self, row: &Row, kept: Kept) -> Option<Kept> {
        let known = match self {
            Self::One(known, before) => (known == row).then_some(before),
            Self::Few(rows) => {
                let known = rows.iter_mut().find(|(known, _)| known == row);
                known.map(|(_, kept)| kept)
            }
            Self::Many(rows) => rows.get_mut(row),
        };
        match known {
            Some(known) => Some(std::mem::replace(known, kept)),
            None => {
                self.add(Row::clone(row), kept);
                None
            }
        }
    }

    /// Adds a row that is not there.
    fn add(&mut self, row: Row, kept: Kept) {
        match self {
            Self::Few(rows) if rows.is_empty() => *self = Self::One(row, kept),
            Self::Few(rows) if rows.len() < FEW => rows.push((row, kept)),
            Self::Few(rows) => {
                let mut many: HashMap<Row, Kept, Fixed> = rows.drain(..).collect();
                many.insert(row, kept);
                *self = Self::Many(many);
            }
            Self::One(known, before) => {
                *self = Self::Few(vec![(Row::clone(known), *before), (row, kept)]);
            }
            Self::Many(rows) => {
                rows.insert(row, kept);
            }
        }
    }

    pub(super) fn remove(&mut self, row: &[u8]) -> Option<Kept> {
        self.remove_if(row, |_| true)
    }

    /// Removes a row if it ends at that time; answers whether it did.
    pub(super) fn remove_at(&mut self, row: &[u8], at_ms: i64) -> bool {
        self.remove_if(row, |kept| kept.at_ms == at_ms).is_some()
    }

    /// Removes a row if that holds of it.
    pub(super) fn remove_if(&mut self, row: &[u8], goes: impl Fn(&Kept) -> bool) -> Option<Kept> {
        match self {
            Self::One(known, kept) => {
                let kept = *kept;
                if known.as_ref() != row || !goes(&kept) {
                    return None;
                }
                *self = Self::default();
                Some(kept)
            }
            Self::Few(rows) => {
                let mut known = rows.iter();
                let place = known.position(|(known, kept)| known.as_ref() == row && goes(kept))?;
                Some(rows.swap_remove(place).1)
            }
            Self::Many(rows) => match rows.get(row) {
                Some(kept) if goes(kept) => rows.remove(row),
                _ => None,
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::One(..) => false,
            Self::Few(rows) => rows.is_empty(),
            Self::Many(rows) => rows.is_empty(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Row, &Kept)> {
        let (one, few, many) = match self {
            Self::One(row, kept) => (Some((row, kept)), None, None),
            Self::Few(rows) => (None, Some(rows), None),
            Self::Many(rows) => (None, None, Some(rows)),
        };
        let few = few.into_iter().flatten().map(|(row, kept)| (row, kept));
        let several = few.chain(many.into_iter().flatten());
        one.into_iter().chain(several)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_of_a_key_are_found_whether_few_or_many(
            steps in prop::collection::vec((0..3, 0_u8..24, 1_i64..9), 0..120),
        ) {
            let mut model: BTreeMap<Row, Kept> = BTreeMap::new();
            let mut rows = OfKey::default();
            for (how, row, count) in steps {
                let row = Row::from([row]);
                let kept = Kept { count, at_ms: count % 2, ..Kept::default() };
                match how {
                    2 => {
                        let ends = model.get(&row).is_some_and(|kept| kept.at_ms == 1);
                        prop_assert_eq!(rows.remove_at(&row, 1), ends);
                        model.retain(|known, _| known != &row || !ends);
                    }
                    0 => prop_assert_eq!(rows.put(&row, kept), model.insert(row, kept)),
                    _ => prop_assert_eq!(rows.remove(&row), model.remove(&row)),
                }
                prop_assert_eq!(rows.is_empty(), model.is_empty());
                let all: BTreeMap<Row, Kept> = rows.iter().map(|(row, kept)| (Row::clone(row), *kept)).collect();
                prop_assert_eq!(&all, &model);
                for row in 0_u8..24 {
                    prop_assert_eq!(rows.get(&[row]), model.get(&[row][..]).copied());
                }
            }
        }
    }
}
