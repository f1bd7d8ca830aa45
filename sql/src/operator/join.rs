//! Joins of two tables that change.
//!
//! Input: rows of the left and of the right with weights. Output: the left's columns, then the right's
//! (of a semi or anti join those of one side). Both sides are kept by join key: a change of one side
//! meets the other side as it stood, then the change of the other side meets the new state, so each
//! pair is counted once: `ΔL ⋈ R + (L + ΔL) ⋈ ΔR`. A row remembers how many rows it matches; with none it
//! is what an outer join pads and an anti join gives. A key that is NULL matches nothing.
//!
//! An inner join gives pairs alone, so it counts no matches and is a node of its own ([`inner`]).
//!
//! A side may say when its rows end ([`Ending`]): by a time within them, once no row to come can meet
//! them, or after resting too long. A row that is forgotten is not taken back from what was given; a row
//! that comes to be taken back later finds nothing and changes this side no more.

mod came;
mod inner;
mod lots;
mod rows;
mod stock;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::common::cast::as_boolean_array;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, add, other_state};
use crate::operator::ends::Ends;
use crate::operator::hash::Fixed;
use crate::operator::join::came::Taker;
use crate::operator::join::inner::Inner;
use crate::operator::join::rows::{Kept, OfKey};
use crate::operator::moment::{Ending, Moment};

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JoinSpec {
    pub(crate) kind: JoinType,
    /// Key expressions over each side.
    pub(crate) on: [Vec<Arc<dyn PhysicalExpr>>; 2],
    /// What else a pair must fulfil, over the left's and then the right's columns.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of each side.
    pub(crate) inputs: [SchemaRef; 2],
    /// The left's columns, then the right's.
    pub(crate) pairs: SchemaRef,
    pub(crate) schema: SchemaRef,
    /// Whether NULL is a key as any other.
    pub(crate) null_is_equal: bool,
    /// Whether rows of each side only come.
    pub(crate) appends: [bool; 2],
    /// When rows of each side are forgotten; a row without the time that tells it matches nothing.
    pub(crate) endings: [Option<Ending>; 2],
}

#[derive(Debug)]
struct Side {
    taker: Taker,
    rows: HashMap<Row, OfKey, Fixed>,
    /// Rows that end, by [`Kept::at_ms`]: key and row.
    ends: Ends<(Row, Row)>,
}

/// A changed row that may match.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    weight: i64,
    at_ms: i64,
}

/// What a side changes by in a tick: key and row.
#[derive(Debug, Default)]
struct Changed {
    joining: BTreeMap<(Row, Row), Change>,
    /// Rows whose key is NULL, or the time that bounds the join.
    alone: BTreeMap<Row, i64>,
}

/// A pair that may match.
struct Pair {
    key: Row,
    left: Row,
    right: Row,
    /// Changed rows' weight and standing rows' count.
    left_weight: i64,
    right_weight: i64,
    /// Whether the left changes; else the right.
    is_left: bool,
}

#[derive(Debug)]
struct Join {
    spec: JoinSpec,
    sides: [Side; 2],
    state_bytes: usize,
}

const ROW_BYTES: usize = 120;
/// What it takes to find a row by its end.
const END_BYTES: usize = 64;
/// Added to the number of a side: entries that say when its rows end.
const ENDS: i64 = 2;
/// Most pairs that are looked at in one go.
const PAIRS_MAX: usize = 16 * 1024;

/// The node that computes a join.
pub(crate) fn node(spec: JoinSpec) -> Result<Box<dyn Node>, OperatorError> {
    Ok(match spec.kind {
        JoinType::Inner => Box::new(Inner::new(spec)?),
        _ => Box::new(Join::new(spec)?),
    })
}

impl Join {
    fn new(spec: JoinSpec) -> Result<Self, OperatorError> {
        let side = |index: usize| -> Result<Side, OperatorError> {
            Ok(Side {
                taker: Taker::new(&spec, index)?,
                rows: HashMap::default(),
                ends: Ends::default(),
            })
        };
        Ok(Self {
            sides: [side(0)?, side(1)?],
            spec,
            state_bytes: 0,
        })
    }

    fn changed(
        &self,
        side: usize,
        delta: &Delta,
        moment: &Moment<'_>,
    ) -> Result<Changed, OperatorError> {
        let mut changed = Changed::default();
        let Some(came) = self.sides[side].taker.came(&self.spec, delta, moment)? else {
            return Ok(changed);
        };
        let rows = self.sides[side].taker.codec.encode_all(&delta.rows)?;
        for (row, change) in came.joining {
            let row = row as usize;
            let place = (Row::from(came.keys.row(row)), Row::from(rows.row(row)));
            let sum = changed.joining.entry(place).or_default();
            sum.weight += change.weight;
            sum.at_ms = change.at_ms;
        }
        for (row, weight) in came.alone {
            let row = Row::from(rows.row(row as usize));
            add(&mut changed.alone, row, weight);
        }
        changed.joining.retain(|_, change| change.weight != 0);
        Ok(changed)
    }

    /// The pairs that fulfil the filter.
    fn matching(&self, pairs: Vec<Pair>) -> Result<Vec<Pair>, OperatorError> {
        let Some(filter) = &self.spec.filter else {
            return Ok(pairs);
        };
        let mut left = Vec::with_capacity(pairs.len());
        let mut pairs = pairs.into_iter();
        loop {
            let some: Vec<Pair> = pairs.by_ref().take(PAIRS_MAX).collect();
            if some.is_empty() {
                return Ok(left);
            }
            let rows = self.pair_rows(
                some.iter().map(|pair| pair.left.as_ref()),
                some.iter().map(|pair| pair.right.as_ref()),
            )?;
            let mask = filter.evaluate(&rows)?.into_array(rows.num_rows())?;
            let mask = as_boolean_array(&mask)?;
            let kept = some.into_iter().zip(mask.iter());
            left.extend(
                kept.filter(|(_, keep)| *keep == Some(true))
                    .map(|(pair, _)| pair),
            );
        }
    }

    fn pair_rows<'a>(
        &self,
        left: impl Iterator<Item = &'a [u8]> + Clone,
        right: impl Iterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(left.clone().count()));
        let mut columns = self.sides[0].taker.codec.columns(left)?;
        columns.extend(self.sides[1].taker.codec.columns(right)?);
        let schema = Arc::clone(&self.spec.pairs);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    /// Pairs of the left's changes with the right as it stands, and the other way round.
    fn pairs_of(&self, changed: &Changed, is_left: bool) -> Vec<Pair> {
        let other = &self.sides[usize::from(is_left)].rows;
        let mut pairs = Vec::new();
        for ((key, row), Change { weight, .. }) in &changed.joining {
            for (met, kept) in other.get(key).into_iter().flat_map(OfKey::iter) {
                let (left, right) = if is_left { (row, met) } else { (met, row) };
                let (left_weight, right_weight) = if is_left {
                    (*weight, kept.count)
                } else {
                    (kept.count, *weight)
                };
                pairs.push(Pair {
                    key: Arc::clone(key),
                    left: Arc::clone(left),
                    right: Arc::clone(right),
                    left_weight,
                    right_weight,
                    is_left,
                });
            }
        }
        pairs
    }

    /// How often a row of a side is given by itself.
    fn alone(&self, side: usize, kept: Kept) -> i64 {
        let on_none = match (self.spec.kind, side) {
            (JoinType::Full, _)
            | (JoinType::Left | JoinType::LeftAnti, 0)
            | (JoinType::Right | JoinType::RightAnti, 1) => true,
            (JoinType::LeftSemi, 0) | (JoinType::RightSemi, 1) => false,
            _ => return 0,
        };
        if (kept.matches == 0) == on_none {
            kept.count
        } else {
            0
        }
    }

    fn gives_pairs(&self) -> bool {
        matches!(
            self.spec.kind,
            JoinType::Left | JoinType::Right | JoinType::Full
        )
    }

    fn kept(&self, side: usize, key: &[u8], row: &[u8]) -> Kept {
        let rows = self.sides[side].rows.get(key);
        rows.and_then(|rows| rows.get(row)).unwrap_or_default()
    }

    /// Whether rows of a side are forgotten by a time.
    fn forgets(&self, side: usize) -> bool {
        let ending = self.spec.endings[side].as_ref();
        ending.is_some_and(Ending::forgets)
    }

    fn put(&mut self, side: usize, key: &Row, row: &Row, kept: Kept) {
        let ends = self.forgets(side);
        let bytes = row_bytes(key, row, ends);
        let Side {
            rows, ends: by_end, ..
        } = &mut self.sides[side];
        // A row that was forgotten can not be taken back.
        if kept.count <= 0 {
            if let Some(of_key) = rows.get_mut(key) {
                if of_key.remove(row).is_some() {
                    self.state_bytes -= bytes;
                    if ends {
                        by_end.outdate();
                    }
                }
                if of_key.is_empty() {
                    rows.remove(key);
                }
            }
            return;
        }
        let of_key = rows.entry(Arc::clone(key)).or_default();
        let before = of_key.put(row, kept);
        if before.is_none() {
            self.state_bytes += bytes;
        }
        if ends && before.is_none_or(|before| before.at_ms != kept.at_ms) {
            if before.is_some() {
                by_end.outdate();
            }
            by_end.note(kept.at_ms, (Arc::clone(key), Arc::clone(row)));
        }
    }

    /// Forgets the rows of a side that end before a time.
    fn forget(&mut self, side: usize, before_ms: Option<i64>) {
        let Side { rows, ends, .. } = &mut self.sides[side];
        for (at_ms, (key, row)) in ends.take_before(before_ms) {
            let Some(of_key) = rows.get_mut(&key) else {
                continue;
            };
            if of_key.remove_at(&row, at_ms) {
                self.state_bytes -= row_bytes(&key, &row, true);
                if of_key.is_empty() {
                    rows.remove(&key);
                }
            }
        }
        if ends.is_littered() {
            ends.sweep(|at_ms, (key, row)| {
                let kept = rows.get(key).and_then(|of_key| of_key.get(row));
                kept.is_some_and(|kept| kept.at_ms == at_ms)
            });
        }
    }

    /// Forgets what ends with the step.
    fn forget_last(&mut self, moment: &Moment<'_>) {
        for side in 0..2 {
            let ending = self.spec.endings[side].as_ref();
            let before_ms = ending.and_then(|ending| ending.forgets_last(moment));
            self.forget(side, before_ms);
        }
    }

    /// Rows of one side by themselves, in the output's columns.
    fn alone_rows(
        &self,
        side: usize,
        changes: &BTreeMap<Row, i64>,
    ) -> Result<Delta, OperatorError> {
        let delta = self.sides[side].taker.codec.delta(changes)?;
        if !self.gives_pairs() {
            let schema = Arc::clone(&self.spec.schema);
            let options = RecordBatchOptions::new().with_row_count(Some(delta.rows.num_rows()));
            let columns = delta.rows.columns().to_vec();
            return Ok(Delta {
                rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
                weights: delta.weights,
            });
        }
        let count = delta.rows.num_rows();
        let nulls = self.spec.inputs[1 - side].fields().iter();
        let nulls = nulls.map(|field| new_null_array(field.data_type(), count));
        let own = delta.rows.columns().to_vec();
        let columns: Vec<ArrayRef> = if side == 0 {
            own.into_iter().chain(nulls).collect()
        } else {
            nulls.chain(own).collect()
        };
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.spec.schema);
        Ok(Delta {
            rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
            weights: delta.weights,
        })
    }
}

fn row_bytes(key: &[u8], row: &[u8], ends: bool) -> usize {
    ROW_BYTES + row.len() + key.len() + if ends { END_BYTES } else { 0 }
}

impl Node for Join {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        for side in 0..2 {
            let ending = self.spec.endings[side].as_ref();
            let before_ms = ending.and_then(|ending| ending.forgets_first(moment));
            self.forget(side, before_ms);
        }
        let changed = [
            self.changed(0, inputs[0], moment)?,
            self.changed(1, inputs[1], moment)?,
        ];
        let mut alone: [BTreeMap<Row, i64>; 2] = [BTreeMap::new(), BTreeMap::new()];
        for side in 0..2 {
            for (row, weight) in &changed[side].alone {
                let kept = Kept {
                    count: *weight,
                    ..Kept::default()
                };
                add(&mut alone[side], Arc::clone(row), self.alone(side, kept));
            }
        }
        // Rows as they stood, of all that change or whose matches change.
        let mut before: [BTreeMap<(Row, Row), Kept>; 2] = [BTreeMap::new(), BTreeMap::new()];
        let is_new = [0, 1].map(|side| {
            let rows = changed[side].joining.keys();
            rows.filter(|(key, row)| self.kept(side, key, row).count == 0)
                .cloned()
                .collect::<BTreeSet<_>>()
        });

        let left_pairs = self.matching(self.pairs_of(&changed[0], true))?;
        for side in 0..2 {
            for (key, row) in changed[side].joining.keys() {
                let place = (Arc::clone(key), Arc::clone(row));
                before[side].insert(place, self.kept(side, key, row));
            }
        }
        for ((key, row), change) in &changed[0].joining {
            let mut kept = self.kept(0, key, row);
            kept.count += change.weight;
            kept.at_ms = change.at_ms;
            self.put(0, key, row, kept);
        }
        let right_pairs = self.matching(self.pairs_of(&changed[1], false))?;
        for ((key, row), change) in &changed[1].joining {
            let mut kept = self.kept(1, key, row);
            kept.count += change.weight;
            kept.at_ms = change.at_ms;
            self.put(1, key, row, kept);
        }

        let mut given: BTreeMap<(Row, Row), i64> = BTreeMap::new();
        for pair in left_pairs.into_iter().chain(right_pairs) {
            let weight = pair.left_weight * pair.right_weight;
            let left = (Arc::clone(&pair.key), Arc::clone(&pair.left));
            let right = (Arc::clone(&pair.key), Arc::clone(&pair.right));
            // The side that changes tells the other; a new row counts all that it meets.
            for (side, place, tells) in [
                (0, &left, !pair.is_left || is_new[0].contains(&left)),
                (1, &right, pair.is_left || is_new[1].contains(&right)),
            ] {
                let mut kept = self.kept(side, &place.0, &place.1);
                let known = before[side].entry(place.clone());
                known.or_insert(kept);
                if tells && kept.count != 0 {
                    kept.matches += if side == 0 {
                        pair.right_weight
                    } else {
                        pair.left_weight
                    };
                    self.put(side, &place.0, &place.1, kept);
                }
            }
            *given.entry((pair.left, pair.right)).or_default() += weight;
        }

        for side in 0..2 {
            for ((key, row), was) in &before[side] {
                let now = self.alone(side, self.kept(side, key, row));
                let weight = now - self.alone(side, *was);
                add(&mut alone[side], Arc::clone(row), weight);
            }
        }

        let mut batches = Vec::new();
        let mut weights = Vec::new();
        if self.gives_pairs() {
            given.retain(|_, weight| *weight != 0);
            let rows = self.pair_rows(
                given.keys().map(|(left, _)| left.as_ref()),
                given.keys().map(|(_, right)| right.as_ref()),
            )?;
            let columns = rows.columns().to_vec();
            let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
            let schema = Arc::clone(&self.spec.schema);
            batches.push(RecordBatch::try_new_with_options(
                schema, columns, &options,
            )?);
            weights.extend(given.into_values());
        }
        for (side, changes) in alone.iter().enumerate() {
            if changes.values().any(|weight| *weight != 0) {
                let delta = self.alone_rows(side, changes)?;
                batches.push(delta.rows);
                weights.extend(delta.weights);
            }
        }
        self.forget_last(moment);
        Ok(Delta {
            rows: concat_batches(&self.spec.schema, &batches)?,
            weights,
        })
    }

    fn save(&self, entries: &mut Entries) {
        for (part, side) in (0..).zip(&self.sides) {
            let forgets = self.forgets(usize::from(part == 1));
            let mut ends: Vec<(i64, &Row, &Row)> = Vec::new();
            let mut keys: Vec<(&Row, &OfKey)> = side.rows.iter().collect();
            keys.sort_unstable_by_key(|(key, _)| *key);
            for (key, rows) in keys {
                let mut rows: Vec<(&Row, &Kept)> = rows.iter().collect();
                rows.sort_unstable_by_key(|(row, _)| *row);
                for (row, kept) in rows {
                    if forgets {
                        ends.push((kept.at_ms, key, row));
                    }
                    entries.push(Entry {
                        part,
                        key,
                        value: row,
                        count: kept.count,
                        other: kept.matches,
                    });
                }
            }
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
        let (key, row) = (Row::from(entry.key), Row::from(entry.value));
        let side = match entry.part {
            0 | ENDS => 0,
            _ => 1,
        };
        let forgets = self.forgets(side);
        let Side { rows, ends, .. } = &mut self.sides[side];
        if entry.part < ENDS {
            let kept = Kept {
                count: entry.count,
                matches: entry.other,
                ..Kept::default()
            };
            let of_key = rows.entry(Arc::clone(&key)).or_default();
            if of_key.put(&row, kept).is_some() {
                return Err(other_state());
            }
            self.state_bytes += row_bytes(&key, &row, forgets);
            return Ok(());
        }
        let of_key = rows.get_mut(&key).ok_or_else(other_state)?;
        let mut kept = of_key.get(&row).ok_or_else(other_state)?;
        kept.at_ms = entry.count;
        of_key.put(&row, kept);
        ends.note(entry.count, (key, row));
        Ok(())
    }

    fn is_timed(&self) -> bool {
        self.spec.endings.iter().any(Option::is_some)
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn rests(&self) -> bool {
        true
    }

    fn clear(&mut self) {
        for side in &mut self.sides {
            side.rows = HashMap::default();
            side.ends = Ends::default();
        }
        self.state_bytes = 0;
    }
}
