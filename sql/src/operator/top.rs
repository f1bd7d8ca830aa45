//! The first rows of each partition in some order: `ROW_NUMBER() OVER (…) <= n`, and so `RANK()` and `DENSE_RANK()`.
//!
//! Input: any rows with weights. Output: the input's columns, then the row number as BIGINT unsigned; at
//! a tick, what left the first `n` goes and what entered comes, with a row whose number changed doing
//! both. Rows that the order does not tell apart come in the order of their columns, so that the answer
//! does not depend on when they came; ranks give them one number. Of an input whose rows stay no more than those first rows are kept.
//!
//! A partition may end ([`Ending`]), by a time that is one of its columns or after resting too long. What
//! it gave stays.

mod candidates;
mod partition;
mod ranks;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, other_state, rows_at};
use crate::operator::ends::Ends;
use crate::operator::hash::Fixed;
use crate::operator::key::{Keys, milliseconds};
use crate::operator::moment::{Ending, LateRow, Moment};
use crate::operator::place::beginning;
use crate::operator::top::candidates::{Candidates, Touched};
use crate::operator::top::partition::{Partition, Ranked, row_bytes};

pub(crate) use ranks::Numbers;

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopSpec {
    pub(crate) partition: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) order: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
    /// The greatest number that a row may have.
    pub(crate) count: u64,
    pub(crate) numbers: Numbers,
    /// Whether rows only come; then those behind the first ones never matter.
    pub(crate) is_append: bool,
    pub(crate) input: SchemaRef,
    /// The input's columns and the row number.
    pub(crate) schema: SchemaRef,
    /// When a partition is forgotten; the time is one of its columns.
    pub(crate) ending: Option<Ending>,
}

/// A row with its number that came among the first ones, or went.
struct Change {
    /// How the row's bytes begin, which tells most of them apart.
    begins: u128,
    place: Row,
    order: usize,
    number: u64,
    weight: i64,
}

impl Change {
    fn new(place: &Row, order: usize, number: u64, weight: i64) -> Self {
        Self {
            begins: beginning(&place[order..]),
            place: Row::clone(place),
            order,
            number,
            weight,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Top {
    spec: TopSpec,
    keys: Keys,
    order: Option<RowConverter>,
    rows: RowCodec,
    partitions: HashMap<Row, Partition, Fixed>,
    /// Partitions that end.
    ends: Ends<Row>,
    state_bytes: usize,
}

/// Entries that say when a partition ends; others tell how long the order's bytes are.
const END: i64 = -1;

impl Top {
    pub(crate) fn new(spec: TopSpec) -> Result<Self, OperatorError> {
        let types = spec
            .partition
            .iter()
            .map(|key| key.data_type(&spec.input))
            .collect::<Result<Vec<_>, _>>()?;
        let fields = spec
            .order
            .iter()
            .map(|(expr, options)| {
                let kind = expr.data_type(&spec.input)?;
                Ok(SortField::new_with_options(kind, *options))
            })
            .collect::<Result<Vec<_>, DataFusionError>>()?;
        let order = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields)?),
        };
        Ok(Self {
            keys: Keys::new(types.iter())?,
            rows: RowCodec::new(&spec.input)?,
            order,
            spec,
            partitions: HashMap::default(),
            ends: Ends::default(),
            state_bytes: 0,
        })
    }

    /// How many rows of a partition are worth keeping, if that follows from their number alone.
    fn most(&self) -> i64 {
        match self.spec.numbers {
            Numbers::Rows => self.rows_until_passed_over(),
            Numbers::Rank | Numbers::DenseRank => i64::MAX,
        }
    }

    /// How many rows there must be for one that lies behind them not to count.
    fn rows_until_passed_over(&self) -> i64 {
        match (self.spec.is_append, self.spec.numbers) {
            (true, Numbers::Rows | Numbers::Rank) => {
                i64::try_from(self.spec.count).unwrap_or(i64::MAX)
            }
            // Any number of rows may have one dense rank.
            (true, Numbers::DenseRank) | (false, _) => i64::MAX,
        }
    }

    /// Forgets the partitions that end before a time.
    fn forget(&mut self, before_ms: Option<i64>) {
        let holds = |partition: Option<&Partition>, at_ms: i64| {
            partition.is_some_and(|partition| partition.at_ms == Some(at_ms))
        };
        for (at_ms, key) in self.ends.take_before(before_ms) {
            if holds(self.partitions.get(&key), at_ms) {
                let partition = self.partitions.remove(&key).unwrap_or_default();
                for (place, _) in partition.rows() {
                    self.state_bytes -= row_bytes(&key, place);
                }
            }
        }
        if self.ends.is_littered() {
            let partitions = &self.partitions;
            self.ends
                .sweep(|at_ms, key| holds(partitions.get(key), at_ms));
        }
    }
}

/// Notes what a partition ends by.
fn touch(ends: &mut Ends<Row>, key: &[u8], partition: &mut Partition, at_ms: Option<i64>) {
    if partition.at_ms == at_ms {
        return;
    }
    if std::mem::replace(&mut partition.at_ms, at_ms).is_some() {
        ends.outdate();
    }
    if let Some(at_ms) = at_ms {
        ends.note(at_ms, Row::from(key));
    }
}

/// What differs between the first rows before and after.
fn differences(before: &[(Row, usize)], after: &[(Row, usize)], changes: &mut Vec<Change>) {
    for (number, place) in (1..).zip(0..before.len().max(after.len())) {
        let (was, is) = (before.get(place), after.get(place));
        if was == is {
            continue;
        }
        for (row, weight) in [(was, -1), (is, 1)] {
            let change = row.map(|(place, order)| Change::new(place, *order, number, weight));
            changes.extend(change);
        }
    }
}

impl Node for Top {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let ending = self.spec.ending.clone();
        let first = ending.as_ref();
        self.forget(first.and_then(|ending| ending.forgets_first(moment)));
        let delta = inputs[0];
        let count = delta.rows.num_rows();
        let mut changes: Vec<Change> = Vec::new();
        if count > 0 {
            let evaluate = |expr: &Arc<dyn PhysicalExpr>| -> Result<ArrayRef, DataFusionError> {
                expr.evaluate(&delta.rows)?.into_array(count)
            };
            let columns = self.spec.partition.iter().map(evaluate);
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let keys = self.keys.encode(&columns)?;
            let times = ending
                .as_ref()
                .and_then(Ending::column)
                .map(|column| milliseconds(&columns[column]))
                .transpose()?;
            let late_before = ending
                .as_ref()
                .and_then(|ending| ending.late_before(moment));
            let orders = self.spec.order.iter().map(|(expr, _)| evaluate(expr));
            let orders = orders.collect::<Result<Vec<_>, _>>()?;
            let orders = match &self.order {
                Some(order) => Some(order.convert_columns(&orders)?),
                None => None,
            };
            let order = |index: usize| orders.as_ref().map(|orders| orders.row(index));
            let order_bytes = |index: usize, bytes: &mut Vec<u8>| {
                bytes.clear();
                bytes
                    .extend_from_slice(order(index).as_ref().map_or(&[][..], |order| order.data()));
            };
            let (most, enough) = (self.most(), self.rows_until_passed_over());
            let mut bytes = Vec::new();
            let mut places: HashMap<&[u8], usize, Fixed> = HashMap::default();
            let mut touched: Vec<Touched<'_>> = Vec::new();
            let mut standing: Vec<Option<&Partition>> = Vec::new();
            let mut candidates = Candidates::default();
            for (index, row) in (0..count).zip(0_u32..) {
                let at_ms = match (&times, &ending) {
                    (Some(times), _) => times.is_valid(index).then(|| times.value(index)),
                    (None, Some(_)) => Some(moment.before.stored_ms),
                    (None, None) => None,
                };
                let late = at_ms.zip(late_before).filter(|(at, late)| at < late);
                if let Some((at_ms, late_before_ms)) = late {
                    moment.leave_out(LateRow {
                        side: 0,
                        row: index,
                        count: delta.weights[index].unsigned_abs(),
                        at_ms,
                        late_before_ms,
                    });
                    continue;
                }
                let key = keys.row(index);
                let place = *places.entry(key).or_insert_with(|| {
                    touched.push(Touched::new(key, at_ms));
                    standing.push(self.partitions.get(key));
                    touched.len() - 1
                });
                touched[place].at_ms = at_ms;
                order_bytes(index, &mut bytes);
                if standing[place].is_some_and(|known| known.passes_over(&bytes, enough)) {
                    continue;
                }
                candidates.push(row, &mut touched[place]);
            }
            let rows = match candidates.rows.len() == count {
                true => self.rows.encode_all(&delta.rows)?,
                false => {
                    let rows = candidates.rows.clone();
                    self.rows.encode_all(&rows_at(&delta.rows, rows)?)?
                }
            };
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for touched in touched {
                let has_none = touched.has_none();
                if has_none && ending.is_none() {
                    continue;
                }
                let key = touched.key;
                let mut new = Partition::default();
                let known = self.partitions.get_mut(key);
                let is_new = known.is_none();
                let partition = known.unwrap_or(&mut new);
                let ranks_before = match (self.spec.numbers, has_none) {
                    (_, true) => None,
                    (Numbers::Rows, false) => {
                        partition.first(self.spec.count, &mut before);
                        None
                    }
                    (ranks, false) => Some(ranks::first(partition, ranks, self.spec.count)),
                };
                // What was forgotten can not be taken back.
                let is_known = ending.is_none() || !partition.is_empty();
                let mut takes = has_none;
                for (candidate, index) in candidates.of(&touched) {
                    let weight = delta.weights[index];
                    if weight < 0 && !is_known {
                        continue;
                    }
                    takes = true;
                    order_bytes(index, &mut bytes);
                    let ranked = Ranked {
                        count: weight,
                        order: bytes.len(),
                    };
                    bytes.extend_from_slice(rows.row(candidate));
                    partition.put(key, &bytes, ranked, most, &mut self.state_bytes);
                }
                if let Some(before) = ranks_before {
                    let after = ranks::first(partition, self.spec.numbers, self.spec.count);
                    ranks::differences(&before, &after, &mut changes);
                    if self.spec.is_append {
                        partition.keep(after.len(), key, &mut self.state_bytes);
                    }
                } else if !has_none {
                    partition.first(self.spec.count, &mut after);
                    differences(&before, &after, &mut changes);
                }
                if partition.is_empty() {
                    touch(&mut self.ends, key, partition, None);
                    self.partitions.remove(key);
                } else {
                    if takes {
                        touch(&mut self.ends, key, partition, touched.at_ms);
                    }
                    if is_new {
                        self.partitions.insert(Row::from(key), new);
                    }
                }
            }
        }
        self.forget(ending.and_then(|ending| ending.forgets_last(moment)));
        let row = |change: &'_ Change| change.order..change.place.len();
        changes.sort_unstable_by(|one: &Change, other: &Change| {
            let key = |change: &Change| (change.number, change.weight);
            let bytes = || one.place[row(one)].cmp(&other.place[row(other)]);
            let rows = one.begins.cmp(&other.begins).then_with(bytes);
            rows.then_with(|| key(one).cmp(&key(other)))
        });
        let mut columns = self
            .rows
            .columns(changes.iter().map(|change| &change.place[row(change)]))?;
        let numbers = changes.iter().map(|change| change.number);
        columns.push(Arc::new(UInt64Array::from_iter_values(numbers)));
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let schema = Arc::clone(&self.spec.schema);
        Ok(Delta {
            rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
            weights: changes.iter().map(|change| change.weight).collect(),
        })
    }

    fn save(&self, entries: &mut Entries) {
        let mut partitions: Vec<(&Row, &Partition)> = self.partitions.iter().collect();
        partitions.sort_unstable_by_key(|(key, _)| *key);
        for (key, partition) in partitions {
            for (place, ranked) in partition.rows() {
                entries.push(Entry {
                    part: i64::try_from(ranked.order).expect("a row fits into memory"),
                    key,
                    value: place,
                    count: ranked.count,
                    other: 0,
                });
            }
        }
        let ends = self.partitions.iter();
        let ends = ends.filter_map(|(key, partition)| Some((partition.at_ms?, key)));
        let mut ends: Vec<(i64, &Row)> = ends.collect();
        ends.sort_unstable();
        for (at_ms, key) in ends {
            entries.push(Entry {
                part: END,
                key,
                value: &[],
                count: at_ms,
                other: 0,
            });
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let key = Row::from(entry.key);
        let known = self.partitions.remove(&key);
        if entry.part == END {
            let mut partition = known.ok_or_else(other_state)?;
            touch(&mut self.ends, &key, &mut partition, Some(entry.count));
            self.partitions.insert(key, partition);
            return Ok(());
        }
        let order = usize::try_from(entry.part).map_err(|_| other_state())?;
        if order > entry.value.len() {
            return Err(other_state());
        }
        let ranked = Ranked {
            count: entry.count,
            order,
        };
        let mut partition = known.unwrap_or_default();
        partition.put(
            &key,
            entry.value,
            ranked,
            self.most(),
            &mut self.state_bytes,
        );
        self.partitions.insert(key, partition);
        Ok(())
    }

    fn is_timed(&self) -> bool {
        self.spec.ending.is_some()
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn rests(&self) -> bool {
        true
    }

    fn clear(&mut self) {
        self.partitions = HashMap::default();
        self.ends = Ends::default();
        self.state_bytes = 0;
    }
}

#[cfg(test)]
mod tests;
