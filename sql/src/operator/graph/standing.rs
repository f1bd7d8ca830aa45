//! What becomes of keys until it leaves, where a key may get a row without its last one going.
//!
//! A step that forgets (`state_ttl`) makes a group anew and says nothing of the row that it gave before; and a producer may give rows of
//! one primary key under several message keys. Then the rows of a key do not add up to one, and the last that came is its row: so steps
//! are taken in their order, and **of each key there is at most one row that came**. What went for good is told even if it came
//! in the same epoch, because the row that it stood in for may be out. So what leaves does not depend on where epochs begin.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Row, RowCodec};
use crate::operator::graph::ROW_BYTES;
use crate::operator::hash::Fixed;

/// What changed, by key.
#[derive(Debug)]
pub(super) struct Standing {
    columns: Vec<usize>,
    keys: RowCodec,
    changes: HashMap<Row, Change, Fixed>,
    bytes: usize,
}

/// What became of a key: it had one row and has another, or none.
#[derive(Debug, Default)]
struct Change {
    went: Option<Row>,
    came: Option<Row>,
}

impl Change {
    fn bytes(&self) -> usize {
        let rows = self.went.iter().chain(&self.came);
        rows.map(|row| ROW_BYTES + row.len()).sum()
    }

    /// Takes what a step gave of its key.
    fn take(&mut self, step: &OfKey<'_>) {
        let is_new = self.went.is_none() && self.came.is_none();
        let is_gone = self
            .came
            .as_deref()
            .is_some_and(|row| step.went.contains(&row));
        let before = match step.came {
            Some(row) => self.came.replace(Row::from(row)),
            None => self.came.take_if(|_| is_gone),
        };
        if is_new {
            self.went = step.went.first().map(|row| Row::from(*row));
        } else if self.came.is_none() && self.went.is_none() {
            self.went = before;
        }
    }
}

/// The rows of a key that a step gave: those that went in their order, and the greatest of those that came.
#[derive(Default)]
struct OfKey<'a> {
    went: Vec<&'a [u8]>,
    came: Option<&'a [u8]>,
}

impl Standing {
    /// Of rows of a schema whose key these columns are.
    pub(super) fn new(columns: &[usize], schema: &Schema) -> Result<Self, OperatorError> {
        Ok(Self {
            columns: columns.to_vec(),
            keys: RowCodec::new(&schema.project(columns)?.into())?,
            changes: HashMap::default(),
            bytes: 0,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what a step gave; `output` writes its rows.
    pub(super) fn push(&mut self, delta: &Delta, output: &RowCodec) -> Result<(), OperatorError> {
        let rows = output.encode_all(&delta.rows)?;
        let keys = self.keys.encode_all(&delta.rows.project(&self.columns)?)?;
        let weights = delta.weights.iter().enumerate();
        let mut step: Vec<(&[u8], &[u8], i64)> = weights
            .map(|(row, weight)| (keys.row(row), rows.row(row), *weight))
            .collect();
        step.sort_unstable();
        for of_key in step.chunk_by(|one, other| one.0 == other.0) {
            let mut given = OfKey::default();
            for same in of_key.chunk_by(|one, other| one.1 == other.1) {
                match same.iter().map(|(_, _, weight)| *weight).sum::<i64>() {
                    0 => {}
                    1.. => given.came = Some(same[0].1),
                    _ => given.went.push(same[0].1),
                }
            }
            if given.came.is_some() || !given.went.is_empty() {
                self.change(of_key[0].0, |change| change.take(&given));
            }
        }
        Ok(())
    }

    fn change(&mut self, key: &[u8], how: impl FnOnce(&mut Change)) {
        if let Some(change) = self.changes.get_mut(key) {
            self.bytes -= change.bytes();
            how(change);
            self.bytes += change.bytes();
            return;
        }
        let mut change = Change::default();
        how(&mut change);
        self.bytes += ROW_BYTES + key.len() + change.bytes();
        self.changes.insert(Row::from(key), change);
    }

    /// All of it as rows that went and came; nothing is left.
    pub(super) fn take(&mut self, output: &RowCodec) -> Result<Delta, OperatorError> {
        self.bytes = 0;
        let mut changes: Vec<(Row, Change)> = std::mem::take(&mut self.changes)
            .into_iter()
            .filter(|(_, change)| change.went != change.came)
            .collect();
        changes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let rows = || changes.iter().flat_map(|(_, change)| rows_of(change));
        Ok(Delta {
            rows: output.decode(rows().map(|(row, _)| row.as_ref()))?,
            weights: rows().map(|(_, weight)| weight).collect(),
        })
    }

    /// Saves what waits, until `due_ms`.
    pub(super) fn save(&self, due_ms: i64, entries: &mut Entries) {
        let mut changes: Vec<(&Row, &Change)> = self.changes.iter().collect();
        changes.sort_unstable_by_key(|(key, _)| *key);
        for (row, weight) in changes.iter().flat_map(|(_, change)| rows_of(change)) {
            entries.push(Entry {
                part: 0,
                key: row,
                value: &[],
                count: weight,
                other: due_ms,
            });
        }
    }

    /// Takes one row back, and how often it came or went.
    pub(super) fn restore(
        &mut self,
        row: &RecordBatch,
        entry: &Entry<'_>,
    ) -> Result<(), OperatorError> {
        let keys = self.keys.encode_all(&row.project(&self.columns)?)?;
        let saved = Some(Row::from(entry.key));
        self.change(keys.row(0), |change| match entry.count > 0 {
            true => change.came = saved,
            false => change.went = saved,
        });
        Ok(())
    }
}

/// The row that went and the one that came, with their weights.
fn rows_of(change: &Change) -> impl Iterator<Item = (&Row, i64)> + Clone {
    let went = change.went.iter().map(|row| (row, -1));
    went.chain(change.came.iter().map(|row| (row, 1)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray as _, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type};

    use super::*;

    struct Rows {
        output: RowCodec,
        standing: Standing,
    }

    impl Rows {
        /// Rows of a key and a number.
        fn new() -> Self {
            let field = |name: &str| Field::new(name, DataType::Int64, false);
            let schema = Arc::new(Schema::new(vec![field("k"), field("n")]));
            Self {
                output: RowCodec::new(&schema).unwrap(),
                standing: Standing::new(&[0], &schema).unwrap(),
            }
        }

        fn step(&mut self, rows: &[(i64, i64, i64)]) {
            let of = |pick: fn(&(i64, i64, i64)) -> i64| {
                Arc::new(Int64Array::from_iter_values(rows.iter().map(pick)))
            };
            let columns = vec![of(|row| row.0) as _, of(|row| row.1) as _];
            let delta = Delta {
                rows: RecordBatch::try_new(Arc::clone(&self.output.schema), columns).unwrap(),
                weights: rows.iter().map(|row| row.2).collect(),
            };
            self.standing.push(&delta, &self.output).unwrap();
        }

        fn taken(&mut self) -> Vec<(i64, i64, i64)> {
            let taken = self.standing.take(&self.output).unwrap();
            assert!(self.standing.is_empty() && self.standing.bytes() == 0);
            let number = |at: usize| taken.rows.column(at).as_primitive::<Int64Type>();
            let rows = (0..taken.weights.len()).map(|row| {
                (
                    number(0).value(row),
                    number(1).value(row),
                    taken.weights[row],
                )
            });
            rows.collect()
        }
    }

    #[test]
    fn the_last_row_of_a_key_stands_though_none_before_it_went() {
        let mut rows = Rows::new();
        rows.step(&[(7, 1, 1), (8, 1, 1)]);
        rows.step(&[(7, 2, 1), (7, 1, -1)]);
        rows.step(&[(7, 1, 1)]);
        assert_eq!(rows.taken(), [(7, 1, 1), (8, 1, 1)]);
    }

    #[test]
    fn what_went_before_another_came_changes_nothing_and_what_stands_goes() {
        let mut rows = Rows::new();
        rows.step(&[(7, 1, 1)]);
        rows.step(&[(7, 5, 1)]);
        rows.step(&[(7, 1, -1)]);
        assert_eq!(rows.taken(), [(7, 5, 1)]);
        rows.step(&[(7, 6, 1)]);
        rows.step(&[(7, 6, -1)]);
        assert_eq!(rows.taken(), [(7, 6, -1)], "the row before it may be out");
    }

    #[test]
    fn a_row_that_changes_has_the_first_one_behind_it_and_none_if_it_is_as_it_was() {
        let mut rows = Rows::new();
        rows.step(&[(7, 1, -1), (7, 2, 1)]);
        rows.step(&[(7, 3, 1), (7, 2, -1)]);
        assert_eq!(rows.taken(), [(7, 1, -1), (7, 3, 1)]);
        rows.step(&[(7, 3, -1), (7, 4, 1), (7, 9, 1), (7, 9, -1)]);
        rows.step(&[(7, 4, -1), (7, 3, 1)]);
        assert_eq!(rows.taken(), []);
    }
}
