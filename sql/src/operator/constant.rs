//! Rows that a query writes itself: `VALUES`, `SELECT` without `FROM`.
//!
//! No input. They are there once, from the first step on and for ever, in the lane that owns what has no key.

use arrow::array::RecordBatch;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, other_state};
use crate::operator::moment::Moment;

#[derive(Debug)]
pub(crate) struct Constant {
    rows: RecordBatch,
    is_given: bool,
}

impl Constant {
    pub(crate) fn new(rows: RecordBatch) -> Self {
        Self {
            // Nothing need be given of nothing.
            is_given: rows.num_rows() == 0,
            rows,
        }
    }
}

impl Node for Constant {
    fn step(&mut self, _inputs: &[&Delta], _moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        Ok(match std::mem::replace(&mut self.is_given, true) {
            true => Delta::empty(&self.rows.schema()),
            false => Delta::inserted(self.rows.clone()),
        })
    }

    fn waits(&self) -> bool {
        !self.is_given
    }

    fn save(&self, entries: &mut Entries) {
        if self.is_given && self.rows.num_rows() > 0 {
            entries.push(Entry {
                part: 0,
                key: &[],
                value: &[],
                count: 1,
                other: 0,
            });
        }
    }

    fn restore(&mut self, _entry: &Entry<'_>) -> Result<(), OperatorError> {
        match std::mem::replace(&mut self.is_given, true) {
            true => Err(other_state()),
            false => Ok(()),
        }
    }
}
