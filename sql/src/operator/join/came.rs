//! What comes of one side of a join in a step, as both ways of a join take it: keys as bytes, rows judged by their times.

use arrow::array::{Array as _, ArrayRef};
use datafusion::error::DataFusionError;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, RowCodec};
use crate::operator::join::{Change, JoinSpec};
use crate::operator::key::{Encoded, Keys, milliseconds};
use crate::operator::moment::{Ending, LateRow, Moment};

/// What came of one side.
pub(super) struct Came {
    pub(super) keys: Encoded,
    /// Rows that may match, in the order in which they came.
    pub(super) joining: Vec<(u32, Change)>,
    /// Rows whose key is NULL, or the time that bounds the join: they match nothing.
    pub(super) alone: Vec<(u32, i64)>,
}

/// Takes in the rows of one side.
#[derive(Debug)]
pub(super) struct Taker {
    side: usize,
    pub(super) codec: RowCodec,
    keys: Keys,
}

impl Taker {
    pub(super) fn new(spec: &JoinSpec, side: usize) -> Result<Self, OperatorError> {
        let types = spec.on[side]
            .iter()
            .map(|key| key.data_type(&spec.inputs[side]))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            side,
            codec: RowCodec::new(&spec.inputs[side])?,
            keys: Keys::new(types.iter())?,
        })
    }

    /// Takes in what came; rows that came too late are left out. `None` when there is no row at all.
    pub(super) fn came(
        &self,
        spec: &JoinSpec,
        delta: &Delta,
        moment: &Moment<'_>,
    ) -> Result<Option<Came>, OperatorError> {
        let side = self.side;
        let count = delta.rows.num_rows();
        if count == 0 {
            return Ok(None);
        }
        let columns = spec.on[side]
            .iter()
            .map(|key| key.evaluate(&delta.rows)?.into_array(count))
            .collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
        let ending = spec.endings[side].as_ref();
        let times = ending
            .and_then(Ending::column)
            .map(|column| milliseconds(delta.rows.column(column)))
            .transpose()?;
        let late_before = ending.and_then(|ending| ending.late_before(moment));
        let mut joining = Vec::with_capacity(count);
        let mut alone = Vec::new();
        for ((row, index), weight) in (0..count).zip(0_u32..).zip(&delta.weights) {
            let mut matches_none = false;
            let mut at_ms = moment.before.stored_ms;
            if let Some(times) = &times {
                matches_none = times.is_null(row);
                if !matches_none {
                    at_ms = times.value(row);
                    if let Some(late_before_ms) = late_before.filter(|late| at_ms < *late) {
                        moment.leave_out(LateRow {
                            side,
                            row,
                            count: weight.unsigned_abs(),
                            at_ms,
                            late_before_ms,
                        });
                        continue;
                    }
                }
            }
            let has_null = !spec.null_is_equal && columns.iter().any(|key| key.is_null(row));
            if matches_none || has_null {
                alone.push((index, *weight));
            } else {
                let weight = *weight;
                joining.push((index, Change { weight, at_ms }));
            }
        }
        Ok(Some(Came {
            keys: self.keys.encode(&columns)?,
            joining,
            alone,
        }))
    }
}
