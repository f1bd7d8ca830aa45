//! Where an emitted row stands among those that other lanes emit at the same step: by bytes that sort as rows leave.
//!
//! Nearly every row has such bytes already, in its message key or in what was made of all rows of a step in one piece; so a place says where
//! they are and copies nothing. Rows that have no order of their own stand by a hash of all their columns: any order will do that no lane
//! decides, and numbers are put in order for a fraction of what bytes cost that begin alike.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use crate::operator::delta::Row;
use crate::operator::hash::Fixed;
use crate::operator::key::Encoded;

/// Where a row stands.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// By bytes of its own.
    Own(Row),
    /// By a hash of all its columns, and among equal hashes by their bytes: those of a row of several.
    Hashed(u64, Arc<Encoded>, usize),
    /// By its message key.
    Key,
}

impl Place {
    /// An order of rows that have none, by the bytes of all their columns: which row comes when, and the place of each that comes.
    pub(crate) fn hashed(encoded: Encoded, rows: usize) -> (Vec<u32>, Vec<Self>) {
        let seed = Fixed::default();
        let hash = |row: u32| seed.hash_one(encoded.row(row as usize));
        let mut order: Vec<(u64, u32)> = (0..).take(rows).map(|row| (hash(row), row)).collect();
        order.sort_unstable();
        let bytes = |(_, row): &(u64, u32)| encoded.row(*row as usize);
        for alike in order.chunk_by_mut(|one, other| one.0 == other.0) {
            // Equal rows stay as they came.
            if alike.len() > 1 {
                alike.sort_by(|one, other| bytes(one).cmp(bytes(other)));
            }
        }
        let encoded = Arc::new(encoded);
        let place = |(hash, row): (u64, u32)| {
            let place = Self::Hashed(hash, Arc::clone(&encoded), row as usize);
            (row, place)
        };
        order.into_iter().map(place).unzip()
    }

    /// What tells most places apart; equal ones are told apart by [`Self::bytes`].
    pub(crate) fn beginning(&self, key: Option<&[u8]>) -> u128 {
        match self {
            Self::Hashed(hash, ..) => u128::from(*hash),
            Self::Own(_) | Self::Key => beginning(self.bytes(key)),
        }
    }

    /// The bytes by which the row of a message key is sorted.
    pub(crate) fn bytes<'a>(&'a self, key: Option<&'a [u8]>) -> &'a [u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Hashed(_, encoded, row) => encoded.row(*row),
            Self::Key => key.unwrap_or_default(),
        }
    }
}

/// The first of some bytes as a number that sorts as they do: it tells most of them apart, and is at hand.
pub(crate) fn beginning(all: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let count = all.len().min(bytes.len());
    bytes[..count].copy_from_slice(&all[..count]);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::DataType;

    use super::*;
    use crate::operator::key::Keys;

    #[test]
    fn rows_without_an_order_get_one_that_no_lane_decides() {
        let keys = Keys::new([DataType::Int64].iter()).unwrap();
        let placed = |numbers: &[i64]| {
            let column: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
            let encoded = keys.encode(&[column]).unwrap();
            let (order, places) = Place::hashed(encoded, numbers.len());
            let sorted = places
                .iter()
                .map(|place| (place.beginning(None), place.bytes(None)));
            assert!(sorted.is_sorted());
            order
        };
        let numbers: Vec<i64> = (0..500).map(|number| number % 60).collect();
        let order = placed(&numbers);
        let given = |of: &[i64], order: &[u32]| -> Vec<i64> {
            order.iter().map(|row| of[*row as usize]).collect()
        };
        let all = given(&numbers, &order);
        // The same rows that come another way leave in the same order.
        let other: Vec<i64> = numbers.iter().rev().copied().collect();
        assert_eq!(given(&other, &placed(&other)), all);
        // Those of one lane stand among them as they do among all.
        let few: Vec<i64> = numbers
            .iter()
            .copied()
            .filter(|number| number % 3 == 0)
            .collect();
        let of_lane: Vec<i64> = all
            .iter()
            .copied()
            .filter(|number| number % 3 == 0)
            .collect();
        assert_eq!(given(&few, &placed(&few)), of_lane);
        // Equal rows stay as they came.
        let of_one = order.iter().filter(|row| numbers[**row as usize] == 7);
        assert!(of_one.is_sorted());
    }
}
