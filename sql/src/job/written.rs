//! From what operators emit to messages, and from what lanes emit to one order.
//!
//! **Invariant.** What leaves at a step, and in which order, depends on the log alone: rows stand by their
//! places, which no lane decides, and deletions after them by their keys.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;
use millpond_connectors::format::body::BodyEncoder;

use crate::error::SqlError;
use crate::job::error::JobError;
use crate::operator::place::Place;
use crate::operator::{Keys, Late, Output};
use crate::topic::OutputRow;

/// What a lane emitted at a step, as messages.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) step: usize,
    /// Each with its place among those of other lanes; without one as they come.
    pub(crate) rows: Vec<(Option<Place>, OutputRow)>,
    pub(crate) deleted: Vec<Bytes>,
    pub(crate) late: Vec<LateRow>,
    /// How many more came too late, that no row stands for.
    pub(crate) late_more: u64,
}

/// A row that came too late, and where it was taken in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LateRow {
    /// Index of what was taken in together.
    pub(crate) taken: usize,
    /// Its row in the table that the query's first steps left.
    pub(crate) row: usize,
    pub(crate) late: Late,
}

/// Writes what an operator emitted; its late rows are told by `rows`, the places of the rows that it was given.
pub(crate) fn written(
    encoder: &BodyEncoder,
    step: usize,
    out: Output,
    rows: &[(usize, usize)],
) -> Result<Left, JobError> {
    let mut left = Left {
        step,
        late_more: out.late_more,
        ..Left::default()
    };
    for late in out.late {
        let index = usize::try_from(late.row).expect("a u32 fits a usize");
        let (taken, row) = rows[index];
        left.late.push(LateRow { taken, row, late });
    }
    for emission in out.emissions {
        let bodies = encoder.encode(&emission.rows).map_err(SqlError::from)?;
        left.rows.reserve(bodies.len());
        let mut places = emission.places.into_iter();
        let mut keys = match emission.keys {
            Keys::None => Vec::new(),
            Keys::Group(keys) => keys,
        }
        .into_iter();
        for body in bodies {
            let row = OutputRow {
                key: keys.next(),
                body: Some(body),
                properties: Vec::new(),
            };
            left.rows.push((places.next(), row));
        }
        left.deleted.extend(emission.deleted);
    }
    Ok(left)
}

/// Puts what all lanes emitted into one order, step by step.
pub(crate) fn in_order(lanes: Vec<Vec<Left>>) -> Vec<Left> {
    let mut steps: BTreeMap<usize, Left> = BTreeMap::new();
    for left in lanes.into_iter().flatten() {
        let step = steps.entry(left.step).or_default();
        step.rows.extend(left.rows);
        step.deleted.extend(left.deleted);
        step.late.extend(left.late);
        step.late_more += left.late_more;
    }
    let mut steps: Vec<Left> = steps.into_values().collect();
    for step in &mut steps {
        step.rows = by_place(std::mem::take(&mut step.rows));
        step.deleted.sort();
        step.late.sort_by_key(|late| (late.taken, late.row));
        // A message that came too late for nodes of several lanes is one late row.
        step.late.dedup_by_key(|late| (late.taken, late.row));
    }
    steps
}

/// Rows in the order of their places, equal ones as they come.
///
/// How a place begins tells most of them apart, and lies beside the others' beginnings: what is moved is small and what is looked at near.
fn by_place(rows: Vec<(Option<Place>, OutputRow)>) -> Vec<(Option<Place>, OutputRow)> {
    if rows.is_sorted_by(|one, other| compare(one, other).is_le()) {
        return rows;
    }
    let mut order: Vec<(u128, usize)> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| (first(row), at))
        .collect();
    // What each lane emits is mostly in order already; a sort that is stable finds such stretches and only merges them.
    order.sort_by(|(one, at), (other, then)| {
        let places = || bytes(&rows[*at]).cmp(&bytes(&rows[*then]));
        one.cmp(other).then_with(places)
    });
    let mut rows: Vec<Option<(Option<Place>, OutputRow)>> = rows.into_iter().map(Some).collect();
    let sorted = order.into_iter().filter_map(|(_, at)| rows[at].take());
    sorted.collect()
}

/// Which of two rows comes first.
fn compare(one: &(Option<Place>, OutputRow), other: &(Option<Place>, OutputRow)) -> Ordering {
    let places = || bytes(one).cmp(&bytes(other));
    first(one).cmp(&first(other)).then_with(places)
}

/// What tells most rows apart.
fn first((place, row): &(Option<Place>, OutputRow)) -> u128 {
    let place = place.as_ref();
    place.map_or(0, |place| place.beginning(row.key.as_deref()))
}

/// What rows are sorted by that are not told apart by this; nothing without a place.
fn bytes((place, row): &(Option<Place>, OutputRow)) -> Option<&[u8]> {
    let place = place.as_ref()?;
    Some(place.bytes(row.key.as_deref()))
}

/// A deletion as a message.
pub(crate) fn deletion(key: Bytes) -> OutputRow {
    OutputRow {
        key: Some(key),
        body: None,
        properties: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_stand_by_their_places_and_equal_ones_as_they_come(
            places in prop::collection::vec(prop::option::of(prop::collection::vec(0_u8..3, 0..20)), 0..60),
        ) {
            let rows = places.into_iter().enumerate().map(|(number, place)| {
                let row = OutputRow {
                    key: Some(Bytes::from(number.to_string())),
                    body: None,
                    properties: Vec::new(),
                };
                (place.map(|place| Place::Own(place.into())), row)
            });
            let rows: Vec<(Option<Place>, OutputRow)> = rows.collect();
            let mut expected = rows.clone();
            expected.sort_by(|one, other| bytes(one).cmp(&bytes(other)));
            let keys = |rows: Vec<(Option<Place>, OutputRow)>| {
                let keys = rows.into_iter().map(|(_, row)| row.key);
                keys.collect::<Vec<_>>()
            };
            prop_assert_eq!(keys(by_place(rows)), keys(expected));
        }
    }
}
