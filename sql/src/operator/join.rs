//! Joins of two tables that change.
//!
//! Input: rows of the left and of the right with weights. Output: the left's columns, then the right's
//! (of a semi or anti join those of one side). Both sides are kept by join key: a change of one side
//! meets the other side as it stood, then the change of the other side meets the new state, so each
//! pair is counted once: `ΔL ⋈ R + (L + ΔL) ⋈ ΔR`. A row remembers how many rows it matches; with none it
//! is what an outer join pads and an anti join gives. A key that is NULL matches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, add};
use crate::operator::key::Keys;

/// What is computed.
#[derive(Clone, Debug)]
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
}

/// A row of one side.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    count: i64,
    /// Rows of the other side that it matches.
    matches: i64,
}

#[derive(Debug)]
struct Side {
    codec: RowCodec,
    keys: Keys,
    rows: BTreeMap<Row, BTreeMap<Row, Kept>>,
}

/// What a side changes by in a tick: key and row.
#[derive(Debug, Default)]
struct Changed {
    joining: BTreeMap<(Row, Row), i64>,
    /// Rows whose key is NULL.
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
pub(crate) struct Join {
    spec: JoinSpec,
    sides: [Side; 2],
    state_bytes: usize,
}

const ROW_BYTES: usize = 120;
/// Most pairs that are looked at in one go.
const PAIRS_MAX: usize = 16 * 1024;

impl Join {
    pub(crate) fn new(spec: JoinSpec) -> Result<Self, OperatorError> {
        let side = |index: usize| -> Result<Side, OperatorError> {
            let types = spec.on[index]
                .iter()
                .map(|key| key.data_type(&spec.inputs[index]))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Side {
                codec: RowCodec::new(&spec.inputs[index])?,
                keys: Keys::new(types.iter())?,
                rows: BTreeMap::new(),
            })
        };
        Ok(Self {
            sides: [side(0)?, side(1)?],
            spec,
            state_bytes: 0,
        })
    }

    fn changed(&self, side: usize, delta: &Delta) -> Result<Changed, OperatorError> {
        let count = delta.rows.num_rows();
        let mut changed = Changed::default();
        if count == 0 {
            return Ok(changed);
        }
        let columns = self.spec.on[side]
            .iter()
            .map(|key| key.evaluate(&delta.rows)?.into_array(count))
            .collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
        let keys = self.sides[side].keys.encode(&columns)?;
        let rows = self.sides[side].codec.encode(&delta.rows)?;
        for (index, row) in rows.into_iter().enumerate() {
            let weight = delta.weights[index];
            let is_null = columns.iter().any(|column| column.is_null(index));
            if is_null && !self.spec.null_is_equal {
                add(&mut changed.alone, row, weight);
            } else {
                let key = Row::from(keys.row(index));
                *changed.joining.entry((key, row)).or_default() += weight;
            }
        }
        changed.joining.retain(|_, weight| *weight != 0);
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
        let mut columns = self.sides[0].codec.columns(left)?;
        columns.extend(self.sides[1].codec.columns(right)?);
        let schema = Arc::clone(&self.spec.pairs);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    /// Pairs of the left's changes with the right as it stands, and the other way round.
    fn pairs_of(&self, changed: &Changed, is_left: bool) -> Vec<Pair> {
        let other = &self.sides[usize::from(is_left)].rows;
        let mut pairs = Vec::new();
        for ((key, row), weight) in &changed.joining {
            for (met, kept) in other.get(key).into_iter().flatten() {
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
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full
        )
    }

    fn kept(&self, side: usize, key: &Row, row: &Row) -> Kept {
        let rows = self.sides[side].rows.get(key);
        rows.and_then(|rows| rows.get(row))
            .copied()
            .unwrap_or_default()
    }

    fn put(&mut self, side: usize, key: &Row, row: &Row, kept: Kept) {
        let bytes = ROW_BYTES + row.len() + key.len();
        let rows = &mut self.sides[side].rows;
        if kept.count == 0 {
            if let Some(of_key) = rows.get_mut(key) {
                if of_key.remove(row).is_some() {
                    self.state_bytes -= bytes;
                }
                if of_key.is_empty() {
                    rows.remove(key);
                }
            }
            return;
        }
        let of_key = rows.entry(Arc::clone(key)).or_default();
        if of_key.insert(Arc::clone(row), kept).is_none() {
            self.state_bytes += bytes;
        }
    }

    /// Rows of one side by themselves, in the output's columns.
    fn alone_rows(
        &self,
        side: usize,
        changes: &BTreeMap<Row, i64>,
    ) -> Result<Delta, OperatorError> {
        let delta = self.sides[side].codec.delta(changes)?;
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

impl Node for Join {
    fn step(&mut self, inputs: &[&Delta]) -> Result<Delta, OperatorError> {
        let changed = [self.changed(0, inputs[0])?, self.changed(1, inputs[1])?];
        let mut alone: [BTreeMap<Row, i64>; 2] = [BTreeMap::new(), BTreeMap::new()];
        for side in 0..2 {
            for (row, weight) in &changed[side].alone {
                let kept = Kept {
                    count: *weight,
                    matches: 0,
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
        for ((key, row), weight) in &changed[0].joining {
            let mut kept = self.kept(0, key, row);
            kept.count += weight;
            self.put(0, key, row, kept);
        }
        let right_pairs = self.matching(self.pairs_of(&changed[1], false))?;
        for ((key, row), weight) in &changed[1].joining {
            let mut kept = self.kept(1, key, row);
            kept.count += weight;
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
        Ok(Delta {
            rows: concat_batches(&self.spec.schema, &batches)?,
            weights,
        })
    }

    fn save(&self, entries: &mut Entries) {
        for (part, side) in (0..).zip(&self.sides) {
            for (key, rows) in &side.rows {
                for (row, kept) in rows {
                    entries.push(Entry {
                        part,
                        key,
                        value: row,
                        count: kept.count,
                        other: kept.matches,
                    });
                }
            }
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let side = usize::from(entry.part != 0);
        let kept = Kept {
            count: entry.count,
            matches: entry.other,
        };
        self.put(side, &Row::from(entry.key), &Row::from(entry.value), kept);
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
