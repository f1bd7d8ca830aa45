//! An inner join: pairs alone, of which none is remembered.
//!
//! The columns of a pair's changed row are taken from the rows that came; only those of the row that it meets are made
//! of bytes. Pairs are looked at so many at a time, and given as they are met. What a side keeps lies in a [`Stock`]; it is saved as that of
//! any other join, whose rows count no matches here.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use datafusion::common::cast::as_boolean_array;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, RowCodec, other_state, rows_at};
use crate::operator::hash::{Fixed, Hashed};
use crate::operator::join::came::{Came, Taker};
use crate::operator::join::stock::{Stock, Stocked};
use crate::operator::join::{Change, ENDS, JoinSpec, PAIRS_MAX};
use crate::operator::key::Encoded;
use crate::operator::moment::{Ending, Moment};

/// A join that gives nothing but pairs.
#[derive(Debug)]
pub(super) struct Inner {
    spec: JoinSpec,
    takers: [Taker; 2],
    stocks: [Stock; 2],
    /// The rows that it gives.
    given: RowCodec,
}

/// What came of one side in a step.
struct Coming<'a> {
    side: usize,
    delta: &'a Delta,
    keys: Encoded,
    rows: Encoded,
    /// Rows that may match.
    changes: Vec<(u32, Change)>,
}

/// Pairs, of a row that came and one that it meets, by its slot.
#[derive(Default)]
struct Pairs {
    came: Vec<u32>,
    met: Vec<u32>,
    weights: Vec<i64>,
}

impl Inner {
    pub(super) fn new(spec: JoinSpec) -> Result<Self, OperatorError> {
        let stock = |ending: &Option<Ending>| {
            let forgets = ending.as_ref().is_some_and(Ending::forgets);
            Stock::new(forgets)
        };
        Ok(Self {
            takers: [Taker::new(&spec, 0)?, Taker::new(&spec, 1)?],
            stocks: spec.endings.each_ref().map(stock),
            given: RowCodec::new(&spec.schema)?,
            spec,
        })
    }

    /// Forgets what ends before a time that each side's ending tells.
    fn forget(&mut self, before_ms: impl Fn(&Ending) -> Option<i64>) {
        for (stock, ending) in self.stocks.iter_mut().zip(&self.spec.endings) {
            stock.forget(ending.as_ref().and_then(&before_ms));
        }
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
        }) = self.takers[side].came(&self.spec, delta, moment)?
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

    /// Pairs of what came with the other side as it stands; then it is added to its side.
    fn meet(&mut self, coming: &Coming<'_>, given: &mut Vec<Delta>) -> Result<(), OperatorError> {
        let mut pairs = Pairs::default();
        for (row, change) in &coming.changes {
            let key = Hashed::of(coming.keys.row(*row as usize));
            for (met, count) in self.stocks[1 - coming.side].of_key(key) {
                pairs.came.push(*row);
                pairs.met.push(met);
                pairs.weights.push(change.weight * count);
                if pairs.came.len() == PAIRS_MAX {
                    given.push(self.give(coming, std::mem::take(&mut pairs))?);
                }
            }
            let row = Hashed::of(coming.rows.row(*row as usize));
            self.stocks[coming.side].change(key, row, *change);
        }
        if !pairs.came.is_empty() {
            given.push(self.give(coming, pairs)?);
        }
        self.stocks[coming.side].tidy();
        Ok(())
    }

    /// The pairs that fulfil the filter, as columns.
    fn give(&self, coming: &Coming<'_>, pairs: Pairs) -> Result<Delta, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(pairs.came.len()));
        let came = taken(&coming.delta.rows, pairs.came)?;
        let other = 1 - coming.side;
        let met = columns_of(&self.takers[other].codec, &self.stocks[other], &pairs.met)?;
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
}

impl Node for Inner {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        self.forget(|ending| ending.forgets_first(moment));
        let mut given = Vec::new();
        for (side, delta) in inputs.iter().enumerate() {
            if let Some(coming) = self.coming(side, delta, moment)? {
                self.meet(&coming, &mut given)?;
            }
        }
        self.forget(|ending| ending.forgets_last(moment));
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

    fn save(&self, entries: &mut Entries) {
        for ((part, stock), ending) in (0..).zip(&self.stocks).zip(&self.spec.endings) {
            let all = stock.all();
            for Stocked {
                key, row, count, ..
            } in &all
            {
                entries.push(Entry {
                    part,
                    key,
                    value: row,
                    count: *count,
                    other: 0,
                });
            }
            if !ending.as_ref().is_some_and(Ending::forgets) {
                continue;
            }
            let mut ends: Vec<(i64, &[u8], &[u8])> = all
                .iter()
                .map(|one| (one.at_ms, one.key, one.row))
                .collect();
            ends.sort_unstable();
            for (at_ms, key, row) in ends {
                entries.push(Entry {
                    part: part + ENDS,
                    key,
                    value: row,
                    count: at_ms,
                    other: 0,
                });
            }
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let side = match entry.part {
            0 | ENDS => 0,
            _ => 1,
        };
        let stock = &mut self.stocks[side];
        let is_fit = match entry.part < ENDS {
            true => stock.restore(entry.key, entry.value, entry.count),
            false => stock.restore_end(entry.value, entry.count),
        };
        is_fit.then_some(()).ok_or_else(other_state)
    }

    fn is_timed(&self) -> bool {
        self.spec.endings.iter().any(Option::is_some)
    }

    fn state_bytes(&self) -> usize {
        self.stocks.iter().map(Stock::bytes).sum()
    }

    fn rests(&self) -> bool {
        true
    }

    fn clear(&mut self) {
        for stock in &mut self.stocks {
            stock.clear();
        }
    }
}

/// Some rows of a batch, which are mostly a stretch of it and then not copied.
fn taken(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch, OperatorError> {
    let first = rows.first().copied().unwrap_or(0);
    if rows.iter().copied().eq((first..).take(rows.len())) {
        return Ok(batch.slice(first as usize, rows.len()));
    }
    rows_at(batch, rows)
}

/// The columns of rows that are met, each made of its bytes once, however many meet it.
fn columns_of(
    codec: &RowCodec,
    stock: &Stock,
    met: &[u32],
) -> Result<Vec<ArrayRef>, OperatorError> {
    let mut places: HashMap<u32, u32, Fixed> = HashMap::default();
    let mut rows: Vec<u32> = Vec::new();
    let mut of_pairs: Vec<u32> = Vec::with_capacity(met.len());
    let mut next = 0;
    for slot in met {
        let place = places.entry(*slot).or_insert_with(|| {
            rows.push(*slot);
            next += 1;
            next - 1
        });
        of_pairs.push(*place);
    }
    let bytes = |slot: &u32| stock.row(*slot);
    if rows.len() > met.len() / 2 {
        return codec.columns(met.iter().map(bytes));
    }
    let columns = codec.columns(rows.iter().map(bytes))?;
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
