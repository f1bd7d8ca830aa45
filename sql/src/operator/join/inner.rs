//! The way of an inner join: pairs alone, of which none is remembered.
//!
//! The columns of a pair's changed row are taken from the rows that came; only those of the row that it meets are made
//! of bytes. Pairs are looked at so many at a time, and given as they are met.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use datafusion::common::cast::as_boolean_array;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Row, RowCodec, rows_at};
use crate::operator::hash::Fixed;
use crate::operator::join::came::Came;
use crate::operator::join::rows::{Kept, OfKey};
use crate::operator::join::{Change, Join, PAIRS_MAX, Side, row_bytes};
use crate::operator::key::Encoded;
use crate::operator::moment::Moment;

/// What came of one side in a step.
struct Coming<'a> {
    side: usize,
    delta: &'a Delta,
    keys: Encoded,
    rows: Encoded,
    /// Rows that may match.
    changes: Vec<(u32, Change)>,
}

/// Pairs, of a row that came and one that it meets.
#[derive(Default)]
struct Pairs<'a> {
    came: Vec<u32>,
    met: Vec<&'a [u8]>,
    weights: Vec<i64>,
}

impl Join {
    /// A step of an inner join.
    pub(super) fn inner(
        &mut self,
        inputs: &[&Delta],
        moment: &Moment<'_>,
    ) -> Result<Delta, OperatorError> {
        let mut given = Vec::new();
        for (side, delta) in inputs.iter().enumerate() {
            if let Some(coming) = self.coming(side, delta, moment)? {
                self.meet(&coming, &mut given)?;
                self.take_in(&coming);
            }
        }
        self.forget_last(moment);
        let met = match given.len() {
            0 => return Ok(Delta::empty(&self.spec.schema)),
            1 => return Ok(given.swap_remove(0)),
            _ => Delta {
                rows: concat_batches(&self.spec.schema, given.iter().map(|some| &some.rows))?,
                weights: given
                    .iter()
                    .flat_map(|some| &some.weights)
                    .copied()
                    .collect(),
            },
        };
        // A pair whose one row came and whose other went is met twice, and was never there.
        if met.weights.iter().any(|weight| *weight < 0) {
            return self.given.folded(met);
        }
        Ok(met)
    }

    /// The rows of a side that may match; none has no row, or those that came add up to nothing.
    fn coming<'a>(
        &self,
        side: usize,
        delta: &'a Delta,
        moment: &Moment<'_>,
    ) -> Result<Option<Coming<'a>>, OperatorError> {
        let Some(Came {
            keys,
            rows,
            joining: mut changes,
            ..
        }) = self.came(side, delta, moment)?
        else {
            return Ok(None);
        };
        if changes.iter().any(|(_, change)| change.weight < 0) {
            changes = folded(changes, &rows);
        }
        Ok(Some(Coming {
            side,
            delta,
            keys,
            rows,
            changes,
        }))
    }

    /// Pairs of what came with the other side as it stands.
    fn meet(&self, coming: &Coming<'_>, given: &mut Vec<Delta>) -> Result<(), OperatorError> {
        let other = &self.sides[1 - coming.side].rows;
        let mut pairs = Pairs::default();
        for (row, change) in &coming.changes {
            let met = other.get(coming.keys.row(*row as usize));
            for (met, kept) in met.into_iter().flat_map(OfKey::iter) {
                pairs.came.push(*row);
                pairs.met.push(met);
                pairs.weights.push(change.weight * kept.count);
                if pairs.came.len() == PAIRS_MAX {
                    given.push(self.give(coming, std::mem::take(&mut pairs))?);
                }
            }
        }
        if !pairs.came.is_empty() {
            given.push(self.give(coming, pairs)?);
        }
        Ok(())
    }

    /// The pairs that fulfil the filter, as columns.
    fn give(&self, coming: &Coming<'_>, pairs: Pairs<'_>) -> Result<Delta, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(pairs.came.len()));
        let came = rows_at(&coming.delta.rows, pairs.came)?;
        let met = columns_of(&self.sides[1 - coming.side].codec, &pairs.met)?;
        let came = came.columns().to_vec();
        let (mut columns, right) = match coming.side {
            0 => (came, met),
            _ => (met, came),
        };
        columns.extend(right);
        let Some(filter) = &self.spec.filter else {
            let schema = Arc::clone(&self.spec.schema);
            return Ok(Delta {
                rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
                weights: pairs.weights,
            });
        };
        let schema = Arc::clone(&self.spec.pairs);
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let mask = filter.evaluate(&rows)?.into_array(rows.num_rows())?;
        let mask = as_boolean_array(&mask)?;
        let rows = filter_record_batch(&rows, mask)?;
        let kept = pairs.weights.iter().zip(mask.iter());
        let kept = kept.filter(|(_, keep)| *keep == Some(true));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let (schema, columns) = (Arc::clone(&self.spec.schema), rows.columns().to_vec());
        Ok(Delta {
            rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
            weights: kept.map(|(weight, _)| *weight).collect(),
        })
    }

    /// Adds what came to its side.
    fn take_in(&mut self, coming: &Coming<'_>) {
        let forgets = self.forgets(coming.side);
        for (row, change) in &coming.changes {
            let row = *row as usize;
            let (key, row) = (coming.keys.row(row), coming.rows.row(row));
            let is_done = match change.weight > 0 {
                true => self.push(coming.side, key, row, change, forgets),
                false => self.pull(coming.side, key, row, change, forgets),
            };
            if is_done {
                continue;
            }
            let known = self.sides[coming.side].rows.get_key_value(key);
            let key = known.map_or_else(|| Row::from(key), |(known, _)| Arc::clone(known));
            let mut kept = self.kept(coming.side, &key, row);
            kept.count += change.weight;
            kept.at_ms = change.at_ms;
            self.put(coming.side, &key, &Row::from(row), kept);
        }
    }

    /// Adds a row that is not there, as most that come are not; answers whether it was so.
    fn push(
        &mut self,
        side: usize,
        key_bytes: &[u8],
        row: &[u8],
        change: &Change,
        forgets: bool,
    ) -> bool {
        let Side { rows, ends, .. } = &mut self.sides[side];
        let kept = Kept {
            count: change.weight,
            at_ms: change.at_ms,
            ..Kept::default()
        };
        let known = forgets.then(|| rows.get_key_value(key_bytes)).flatten();
        let known = known.map(|(known, _)| Arc::clone(known));
        let (key, row) = if let Some(of_key) = rows.get_mut(key_bytes) {
            let Some(row) = of_key.push(row, kept) else {
                return false;
            };
            (known, row)
        } else {
            let key = Row::from(key_bytes);
            let mut of_key = OfKey::default();
            let Some(row) = of_key.push(row, kept) else {
                return false;
            };
            rows.insert(Arc::clone(&key), of_key);
            (Some(key), row)
        };
        self.state_bytes += row_bytes(key_bytes, &row, forgets);
        if let Some(key) = key.filter(|_| forgets) {
            ends.note(kept.at_ms, (key, row));
        }
        true
    }

    /// Takes a row back that goes for good, as most that go do; answers whether it was so. What was forgotten is not there to go.
    fn pull(
        &mut self,
        side: usize,
        key: &[u8],
        row: &[u8],
        change: &Change,
        forgets: bool,
    ) -> bool {
        let Side { rows, ends, .. } = &mut self.sides[side];
        let Some(of_key) = rows.get_mut(key) else {
            return true;
        };
        let goes = |kept: &Kept| kept.count + change.weight <= 0;
        if of_key.remove_if(row, goes).is_none() {
            return false;
        }
        if of_key.is_empty() {
            rows.remove(key);
        }
        self.state_bytes -= row_bytes(key, row, forgets);
        if forgets {
            ends.outdate();
        }
        true
    }
}

/// The columns of rows that are met, each made of its bytes once, however many meet it.
fn columns_of(codec: &RowCodec, met: &[&[u8]]) -> Result<Vec<ArrayRef>, OperatorError> {
    let mut places: HashMap<*const u8, u32, Fixed> = HashMap::default();
    let mut rows: Vec<&[u8]> = Vec::new();
    let mut of_pairs: Vec<u32> = Vec::with_capacity(met.len());
    let mut next = 0;
    for row in met {
        // Where a row lies in the state tells it from all others.
        let place = places.entry(row.as_ptr()).or_insert_with(|| {
            rows.push(row);
            next += 1;
            next - 1
        });
        of_pairs.push(*place);
    }
    if rows.len() > met.len() / 2 {
        return codec.columns(met.iter().copied());
    }
    let columns = codec.columns(rows.into_iter())?;
    let of_pairs = UInt32Array::from(of_pairs);
    let taken = columns.iter().map(|column| take(column, &of_pairs, None));
    Ok(taken.collect::<Result<_, _>>()?)
}

/// Changes of equal rows as one: what goes before it comes would find nothing to go.
fn folded(changes: Vec<(u32, Change)>, rows: &Encoded) -> Vec<(u32, Change)> {
    let mut places: HashMap<&[u8], usize, Fixed> = HashMap::default();
    let mut folded: Vec<(u32, Change)> = Vec::with_capacity(changes.len());
    for (row, change) in changes {
        let place = *places.entry(rows.row(row as usize)).or_insert(folded.len());
        match folded.get_mut(place) {
            Some((_, sum)) => {
                sum.weight += change.weight;
                sum.at_ms = change.at_ms;
            }
            None => folded.push((row, change)),
        }
    }
    folded.retain(|(_, change)| change.weight != 0);
    folded
}
