//! What changed of rows with a key, until it leaves with the epoch.
//!
//! An epoch of a query that is kept is short. The first one of a subscription is all that the log holds, so what came and went again is
//! let go from time to time: **there are never much more rows than twice those that are left of them**. It is never saved.

use arrow::compute::concat_batches;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, RowCodec};

/// Rows below which nothing is folded: an epoch's usual ones leave as they are.
const FOLD_ROWS_MIN: usize = 256 * 1024;
/// Memory of a row that was not folded yet, about.
const ROW_BYTES: usize = 64;

/// Changes in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Changed {
    deltas: Vec<Delta>,
    rows: usize,
    folded_rows: usize,
    folded_bytes: usize,
}

impl Changed {
    pub(super) fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.folded_bytes + (self.rows - self.folded_rows) * ROW_BYTES
    }

    pub(super) fn push(&mut self, delta: Delta, output: &RowCodec) -> Result<(), OperatorError> {
        self.push_folding_above(FOLD_ROWS_MIN, delta, output)
    }

    fn push_folding_above(
        &mut self,
        rows_min: usize,
        delta: Delta,
        output: &RowCodec,
    ) -> Result<(), OperatorError> {
        if delta.weights.is_empty() {
            return Ok(());
        }
        self.rows += delta.weights.len();
        self.deltas.push(delta);
        if self.rows > rows_min.max(self.folded_rows.saturating_mul(2)) {
            let folded = output.folded(self.take(output)?)?;
            self.rows = folded.weights.len();
            self.folded_rows = self.rows;
            self.folded_bytes = folded.rows.get_array_memory_size();
            self.deltas.push(folded);
        }
        Ok(())
    }

    /// All of it as one; nothing is left.
    pub(super) fn take(&mut self, output: &RowCodec) -> Result<Delta, OperatorError> {
        let Self { deltas, .. } = std::mem::take(self);
        match <[Delta; 1]>::try_from(deltas) {
            Ok([one]) => Ok(one),
            Err(many) => Ok(Delta {
                rows: concat_batches(&output.schema, many.iter().map(|delta| &delta.rows))?,
                weights: many.into_iter().flat_map(|delta| delta.weights).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray as _, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    #[test]
    fn rows_that_come_and_go_are_let_go_and_the_others_are_left() {
        let field = Field::new("n", DataType::Int64, false);
        let schema = Arc::new(Schema::new(vec![field]));
        let codec = RowCodec::new(&schema).unwrap();
        let mut changed = Changed::default();
        for n in 0..1000_i64 {
            let column = Arc::new(Int64Array::from(vec![n, n, n / 100]));
            let delta = Delta {
                rows: RecordBatch::try_new(Arc::clone(&schema), vec![column]).unwrap(),
                weights: vec![1, -1, 1],
            };
            changed.push_folding_above(64, delta, &codec).unwrap();
            assert!(changed.rows <= 64 + 3, "{}", changed.rows);
        }
        assert!(changed.bytes() > 0);
        let left = codec.folded(changed.take(&codec).unwrap()).unwrap();
        let numbers = left.rows.column(0).as_primitive::<Int64Type>();
        assert_eq!(numbers.values().to_vec(), (0..10).collect::<Vec<i64>>());
        assert_eq!(left.weights, [100; 10]);
        assert!(changed.is_empty());
        assert_eq!(changed.bytes(), 0);
    }
}
