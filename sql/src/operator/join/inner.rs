//! An inner join: pairs alone, of which none is remembered.
//!
//! The columns of a pair's changed row are taken from the rows that came. Pairs are looked at so many at a time, and given as they are met.
//! Rows that only come are kept as they are ([`Lots`]); what may go again is found by its bytes in a [`Stock`], of which columns are made
//! for those that are met. Both are saved as those of any other join, whose rows count no matches here.
//!
//! The side whose rows come second is met by none of this step, so of its rows that end with the step none is kept.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take};
use datafusion::common::cast::as_boolean_array;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, RowCodec, other_state, rows_at};
use crate::operator::hash::{Fixed, Hashed};
use crate::operator::join::came::{Came, Taker};
use crate::operator::join::lots::{self, Lots};
use crate::operator::join::stock::{Stock, Stocked};
use crate::operator::join::{Change, ENDS, JoinSpec, PAIRS_MAX};
use crate::operator::key::Encoded;
use crate::operator::moment::{Ending, Moment};

/// A join that gives nothing but pairs.
#[derive(Debug)]
pub(super) struct Inner {
    spec: JoinSpec,
    takers: [Taker; 2],
    sides: [Side; 2],
    /// Whether the rows of the left meet those of the right that came in the same step; else it is the other way round.
    left_is_second: bool,
    /// The rows that it gives.
    given: RowCodec,
}

/// The rows of a side.
#[derive(Debug)]
enum Side {
    /// They come and go.
    Stock(Stock),
    /// They only come.
    Lots(Lots),
}

/// What came of one side in a step.
struct Coming<'a> {
    side: usize,
    delta: &'a Delta,
    keys: Encoded,
    /// Rows that may match.
    changes: Vec<(u32, Change)>,
    /// The rows as bytes, where they are found by these.
    rows: Option<Encoded>,
    /// What ends before this is forgotten with the step.
    forgets_before: Option<i64>,
}

/// Pairs, of a row that came and one that it meets, by its slot.
#[derive(Default)]
struct Pairs {
    came: Vec<u32>,
    met: Vec<u32>,
    weights: Vec<i64>,
}

impl Side {
    fn new(spec: &JoinSpec, side: usize) -> Self {
        let ending = spec.endings[side].as_ref();
        let forgets = ending.is_some_and(Ending::forgets);
        match ending {
            // A row that comes again rests anew, and so do those that equal it.
            Some(Ending::Idle { .. }) => Self::Stock(Stock::new(forgets)),
            _ if !spec.appends[side] => Self::Stock(Stock::new(forgets)),
            _ => Self::Lots(Lots::new(ending.and_then(Ending::column), forgets)),
        }
    }

    /// Gives the rows of a key to `meet`, each by its slot and with how often it is there.
    fn meet(
        &self,
        key: Hashed<'_>,
        meet: impl FnMut((u32, i64)) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        match self {
            Self::Stock(stock) => stock.of_key(key).try_for_each(meet),
            Self::Lots(lots) => lots.of_key(key).try_for_each(meet),
        }
    }

    fn forget(&mut self, before_ms: Option<i64>) -> Result<(), OperatorError> {
        match self {
            Self::Stock(stock) => stock.forget(before_ms),
            Self::Lots(lots) => lots.forget(before_ms)?,
        }
        Ok(())
    }

    /// Takes what came; `is_last` if no row of this step comes to meet it any more.
    fn take(&mut self, coming: &Coming<'_>, is_last: bool) -> Result<(), OperatorError> {
        let changes = &coming.changes;
        match (self, &coming.rows) {
            (Self::Stock(stock), Some(rows)) => {
                for (row, change) in changes {
                    let key = Hashed::of(coming.keys.row(*row as usize));
                    stock.change(key, Hashed::of(rows.row(*row as usize)), *change);
                }
                stock.tidy();
                Ok(())
            }
            (Self::Lots(lots), _) => {
                let kept = changes.iter();
                let kept = kept.filter(|(_, change)| !(is_last && coming.ends(change)));
                let kept: Vec<(u32, Change)> = kept.copied().collect();
                let rows = kept.iter().map(|(row, _)| *row).collect();
                let came = kept.iter().map(|(row, change)| lots::Coming {
                    key: Hashed::of(coming.keys.row(*row as usize)),
                    count: change.weight,
                    at_ms: change.at_ms,
                });
                lots.push(taken(&coming.delta.rows, rows)?, came)
            }
            (Self::Stock(_), None) => Err(other_state()),
        }
    }

    /// Gives its rows to `take`, in the order of their keys and bytes.
    fn with_all<T>(&self, codec: &RowCodec, take: impl FnOnce(Vec<Stocked<'_>>) -> T) -> T {
        match self {
            Self::Stock(stock) => take(stock.all()),
            Self::Lots(lots) => lots.with_all(codec, take),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Stock(stock) => stock.bytes(),
            Self::Lots(lots) => lots.bytes(),
        }
    }
}

impl Inner {
    pub(super) fn new(spec: JoinSpec) -> Result<Self, OperatorError> {
        Ok(Self {
            takers: [Taker::new(&spec, 0)?, Taker::new(&spec, 1)?],
            sides: [0, 1].map(|side| Side::new(&spec, side)),
            left_is_second: left_is_second(&spec),
            given: RowCodec::new(&spec.schema)?,
            spec,
        })
    }

    /// Forgets what ends before a time that each side's ending tells.
    fn forget(&mut self, before_ms: impl Fn(&Ending) -> Option<i64>) -> Result<(), OperatorError> {
        for (side, ending) in self.sides.iter_mut().zip(&self.spec.endings) {
            side.forget(ending.as_ref().and_then(&before_ms))?;
        }
        Ok(())
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
            joining: mut changes,
            ..
        }) = self.takers[side].came(&self.spec, delta, moment)?
        else {
            return Ok(None);
        };
        let rows = match &self.sides[side] {
            Side::Stock(_) => Some(self.takers[side].codec.encode_all(&delta.rows)?),
            Side::Lots(_) => None,
        };
        if let Some(rows) = &rows
            && changes.iter().any(|(_, change)| change.weight < 0)
        {
            changes = folded(changes, rows);
        }
        let ending = self.spec.endings[side].as_ref();
        Ok(Some(Coming {
            side,
            delta,
            keys,
            changes,
            rows,
            forgets_before: ending.and_then(|ending| ending.forgets_last(moment)),
        }))
    }

    /// Pairs of what came with the other side as it stands.
    fn meet(&self, coming: &Coming<'_>, given: &mut Vec<Delta>) -> Result<(), OperatorError> {
        let mut pairs = Pairs::default();
        for (row, change) in &coming.changes {
            let key = Hashed::of(coming.keys.row(*row as usize));
            self.sides[1 - coming.side].meet(key, |(met, count)| {
                pairs.came.push(*row);
                pairs.met.push(met);
                pairs.weights.push(change.weight * count);
                if pairs.came.len() == PAIRS_MAX {
                    given.push(self.give(coming, std::mem::take(&mut pairs))?);
                }
                Ok(())
            })?;
        }
        if !pairs.came.is_empty() {
            given.push(self.give(coming, pairs)?);
        }
        Ok(())
    }

    /// The pairs that fulfil the filter, as columns.
    fn give(&self, coming: &Coming<'_>, pairs: Pairs) -> Result<Delta, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(pairs.came.len()));
        let came = taken(&coming.delta.rows, pairs.came)?;
        let other = 1 - coming.side;
        let met = match &self.sides[other] {
            Side::Stock(stock) => columns_of(&self.takers[other].codec, stock, &pairs.met)?,
            Side::Lots(lots) => lots.columns(&pairs.met)?,
        };
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
        for (side, taker) in self.sides.iter_mut().zip(&self.takers) {
            if let Side::Lots(lots) = side {
                lots.settle(&taker.codec)?;
            }
        }
        self.forget(|ending| ending.forgets_first(moment))?;
        let left = self.coming(0, inputs[0], moment)?;
        let right = self.coming(1, inputs[1], moment)?;
        let order = if self.left_is_second {
            [right, left]
        } else {
            [left, right]
        };
        let coming: Vec<Coming<'_>> = order.into_iter().flatten().collect();
        let mut given = Vec::new();
        let count = coming.len();
        for (at, coming) in coming.iter().enumerate() {
            self.meet(coming, &mut given)?;
            self.sides[coming.side].take(coming, at + 1 == count)?;
        }
        self.forget(|ending| ending.forgets_last(moment))?;
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
        let sides = self.sides.iter().zip(&self.takers);
        for ((part, (side, taker)), ending) in (0..).zip(sides).zip(&self.spec.endings) {
            let forgets = ending.as_ref().is_some_and(Ending::forgets);
            side.with_all(&taker.codec, |all| {
                for one in &all {
                    entries.push(Entry {
                        part,
                        key: one.key,
                        value: one.row,
                        count: one.count,
                        other: 0,
                    });
                }
                let ends = all.iter().filter(|_| forgets);
                let mut ends: Vec<(i64, &[u8], &[u8])> =
                    ends.map(|one| (one.at_ms, one.key, one.row)).collect();
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
            });
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let side = match entry.part {
            0 | ENDS => 0,
            _ => 1,
        };
        let is_fit = match (&mut self.sides[side], entry.part < ENDS) {
            (Side::Stock(stock), true) => stock.restore(entry.key, entry.value, entry.count),
            (Side::Stock(stock), false) => stock.restore_end(entry.value, entry.count),
            (Side::Lots(lots), true) => {
                let codec = &self.takers[side].codec;
                return lots.restore(codec, entry.key, entry.value, entry.count);
            }
            // Each row tells when it ends.
            (Side::Lots(_), false) => true,
        };
        is_fit.then_some(()).ok_or_else(other_state)
    }

    fn is_timed(&self) -> bool {
        self.spec.endings.iter().any(Option::is_some)
    }

    fn state_bytes(&self) -> usize {
        self.sides.iter().map(Side::bytes).sum()
    }

    fn rests(&self) -> bool {
        true
    }

    fn clear(&mut self) {
        for side in &mut self.sides {
            match side {
                Side::Stock(stock) => stock.clear(),
                Side::Lots(lots) => lots.clear(),
            }
        }
    }
}

/// Whether it is the left of whose rows some end with the step that they come in, and the right of whose none do. What goes would
/// meet rows in another order that it never met before.
fn left_is_second(spec: &JoinSpec) -> bool {
    let forgets = |ending: &Option<Ending>| ending.as_ref().is_some_and(Ending::forgets);
    spec.appends == [true, true] && spec.endings.each_ref().map(forgets) == [true, false]
}

impl Coming<'_> {
    /// Whether a row is forgotten with the step that it comes in.
    fn ends(&self, change: &Change) -> bool {
        self.forgets_before.is_some_and(|at| change.at_ms < at)
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
