//! Aggregates over a table that changes: rows come and go.
//!
//! Input: any rows with weights. Output: one row per group that has rows, group columns first, then one
//! column per aggregate. At a tick, the old row of each group that changed goes and the new one comes.
//!
//! Accumulators do not take rows back. So a group keeps for each aggregate what it must: a count, a sum
//! of whole numbers, or the bag of its arguments in order; of a bag the accumulator is computed again
//! from the smallest argument up, for `min` and `max` from one argument. So the result is a function of
//! the rows that are there, not of the order in which they came. Where rows only come, `min` and `max` keep
//! the one argument that counts. Without GROUP BY there is one group,
//! whose row comes with the first row of the input.
//!
//! A group may end ([`Ending`]), by a time that is one of its columns or after resting too long. What it
//! gave stays; rows that come for it later make a new one, or are late.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, add, other_state};
use crate::operator::kernel::{Kernel, accumulator};
use crate::operator::key::{Keys, milliseconds};
use crate::operator::moment::{Ending, Moment};

/// What is computed.
#[derive(Clone, Debug)]
pub(crate) struct AggregateSpec {
    pub(crate) groups: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) input: SchemaRef,
    pub(crate) schema: SchemaRef,
    /// Whether rows only come.
    pub(crate) is_append: bool,
    /// When a group is forgotten; the time is one of its columns.
    pub(crate) ending: Option<Ending>,
}

/// How one aggregate keeps a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Count,
    /// Of whole numbers.
    Sum,
    Least,
    Most,
    Bag,
}

/// What one aggregate keeps of a group.
#[derive(Debug, Default)]
struct Kept {
    /// Sum of whole numbers; may pass through values that do not fit the result.
    total: i128,
    /// How many arguments.
    count: i64,
    /// Arguments and how often.
    bag: BTreeMap<Row, i64>,
}

#[derive(Debug)]
struct Group {
    rows: i64,
    kept: Vec<Kept>,
    /// What it ends by; `None` when it does not end.
    at_ms: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Aggregate {
    spec: AggregateSpec,
    ways: Vec<Way>,
    arguments: Vec<Keys>,
    keys: Keys,
    output: RowCodec,
    groups: BTreeMap<Row, Group>,
    /// Groups that end, in the order in which they do.
    ends: BTreeSet<(i64, Row)>,
    state_bytes: usize,
}

const GROUP_BYTES: usize = 200;
const ENTRY_BYTES: usize = 80;

impl Aggregate {
    pub(crate) fn new(spec: AggregateSpec) -> Result<Self, OperatorError> {
        let mut ways = Vec::new();
        let mut arguments = Vec::new();
        for kernel in &spec.kernels {
            let types = kernel
                .function
                .expressions()
                .iter()
                .map(|argument| argument.data_type(&spec.input))
                .collect::<Result<Vec<_>, _>>()?;
            ways.push(way(kernel, &types));
            arguments.push(Keys::new(types.iter())?);
        }
        let fields = spec.schema.fields();
        let types = fields.iter().take(spec.groups.len());
        Ok(Self {
            keys: Keys::new(types.map(|field| field.data_type()))?,
            output: RowCodec::new(&spec.schema)?,
            ways,
            arguments,
            spec,
            groups: BTreeMap::new(),
            ends: BTreeSet::new(),
            state_bytes: 0,
        })
    }

    fn group_columns(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, OperatorError> {
        let groups = self.spec.groups.iter();
        let columns = groups.map(|group| group.evaluate(rows)?.into_array(rows.num_rows()));
        Ok(columns.collect::<Result<Vec<_>, DataFusionError>>()?)
    }

    /// The rows of groups that have any, added with a weight.
    fn tell(
        &self,
        touched: &[Row],
        weight: i64,
        changes: &mut BTreeMap<Row, i64>,
    ) -> Result<(), OperatorError> {
        let found: Vec<(&Row, &Group)> = touched
            .iter()
            .filter_map(|key| self.groups.get_key_value(key))
            .collect();
        if found.is_empty() {
            return Ok(());
        }
        let mut columns = self
            .keys
            .decode(found.iter().map(|(key, _)| key.as_ref()))?;
        for index in 0..self.spec.kernels.len() {
            let kept = found.iter().map(|(_, group)| &group.kept[index]);
            columns.push(self.column(index, kept)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(found.len()));
        let schema = Arc::clone(&self.spec.schema);
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        for row in self.output.encode(&rows)? {
            add(changes, row, weight);
        }
        Ok(())
    }

    /// The value of one aggregate for some groups.
    fn column<'a>(
        &self,
        index: usize,
        kept: impl ExactSizeIterator<Item = &'a Kept>,
    ) -> Result<ArrayRef, OperatorError> {
        let groups = kept.len();
        let way = self.ways[index];
        match way {
            Way::Count => {
                return Ok(Arc::new(Int64Array::from_iter_values(
                    kept.map(|kept| kept.count),
                )));
            }
            Way::Sum => {
                let sums: Int64Array = kept
                    .map(|kept| match kept.count {
                        0 => Ok(None),
                        _ => i64::try_from(kept.total).map(Some),
                    })
                    .collect::<Result<_, _>>()
                    .map_err(|_| {
                        DataFusionError::Execution("a sum is larger than a BIGINT".to_owned())
                    })?;
                return Ok(Arc::new(sums));
            }
            Way::Least | Way::Most | Way::Bag => {}
        }
        let function = &self.spec.kernels[index].function;
        let (mut indices, mut rows): (Vec<usize>, Vec<&[u8]>) = (Vec::new(), Vec::new());
        for (group, kept) in kept.enumerate() {
            let mut put = |row: &'a Row, count: i64| {
                for _ in 0..count {
                    indices.push(group);
                    rows.push(row.as_ref());
                }
            };
            match way {
                Way::Least => kept.bag.first_key_value().map(|(row, _)| put(row, 1)),
                Way::Most => kept.bag.last_key_value().map(|(row, _)| put(row, 1)),
                _ => {
                    for (row, count) in kept.bag.iter().filter(|(_, count)| **count > 0) {
                        put(row, if function.is_distinct() { 1 } else { *count });
                    }
                    None
                }
            };
        }
        let arguments = self.arguments[index].decode(rows.iter().copied())?;
        let mut accumulator = accumulator(function)?;
        // A filter makes the accumulator note which groups it saw; some may have no argument.
        let all = BooleanArray::from(vec![true; rows.len()]);
        accumulator.update_batch(&arguments, &indices, Some(&all), groups)?;
        Ok(accumulator.evaluate(EmitTo::All)?)
    }

    /// Adds rows to groups; `at_ms` is what the group of each ends by.
    fn apply(
        &mut self,
        delta: &Delta,
        keys: &[Row],
        at_ms: &[Option<i64>],
    ) -> Result<(), OperatorError> {
        let count = delta.rows.num_rows();
        // What was forgotten can not be taken back.
        let forgets = self.spec.ending.is_some();
        let is_stale = |row: usize, key: &Row| {
            forgets && delta.weights[row] < 0 && !self.groups.contains_key(key)
        };
        let stale: Vec<bool> = (0..count).map(|row| is_stale(row, &keys[row])).collect();
        for (row, key) in keys.iter().enumerate() {
            if stale[row] {
                continue;
            }
            let width = self.spec.kernels.len();
            let group = self.groups.entry(Arc::clone(key)).or_insert_with(|| {
                self.state_bytes += GROUP_BYTES + key.len();
                Group {
                    rows: 0,
                    kept: (0..width).map(|_| Kept::default()).collect(),
                    at_ms: None,
                }
            });
            group.rows += delta.weights[row];
            self.touch(key, at_ms[row]);
        }
        for (index, kernel) in self.spec.kernels.iter().enumerate() {
            let arguments = kernel
                .function
                .expressions()
                .into_iter()
                .map(|argument| argument.evaluate(&delta.rows)?.into_array(count))
                .collect::<Result<Vec<_>, DataFusionError>>()?;
            let filter = match &kernel.filter {
                Some(filter) => Some(filter.evaluate(&delta.rows)?.into_array(count)?),
                None => None,
            };
            let mask = filter
                .as_ref()
                .map(|mask| as_boolean_array(mask))
                .transpose()?;
            let way = self.ways[index];
            let encoded = self.arguments[index].encode(&arguments)?;
            let numbers = match way {
                Way::Sum => Some(arrow::compute::cast(&arguments[0], &DataType::Int64)?),
                _ => None,
            };
            let numbers = numbers.as_ref().map(|numbers| {
                arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(numbers)
            });
            for (row, key) in keys.iter().enumerate() {
                if stale[row] || mask.is_some_and(|mask| mask.is_null(row) || !mask.value(row)) {
                    continue;
                }
                let has_null = arguments.iter().any(|argument| argument.is_null(row));
                if has_null && way != Way::Bag {
                    continue;
                }
                let weight = delta.weights[row];
                let group = self.groups.get_mut(key).expect("it was just made");
                let kept = &mut group.kept[index];
                match way {
                    Way::Count => kept.count += weight,
                    Way::Sum => {
                        kept.count += weight;
                        let number = numbers.map_or(0, |numbers| numbers.value(row));
                        kept.total += i128::from(number) * i128::from(weight);
                    }
                    Way::Least | Way::Most | Way::Bag => {
                        let bytes = encoded.row(row);
                        if self.spec.is_append && way != Way::Bag {
                            let before = kept.bag.first_key_value().map(|(before, _)| before);
                            let counts = match before {
                                None => true,
                                Some(before) if way == Way::Least => bytes < before.as_ref(),
                                Some(before) => bytes > before.as_ref(),
                            };
                            if !counts {
                                continue;
                            }
                            if let Some((before, _)) = kept.bag.pop_first() {
                                self.state_bytes -= ENTRY_BYTES + before.len();
                            }
                        }
                        let now = match kept.bag.get_mut(bytes) {
                            Some(now) => {
                                *now += weight;
                                *now
                            }
                            None => {
                                self.state_bytes += ENTRY_BYTES + bytes.len();
                                kept.bag.insert(Row::from(bytes), weight);
                                weight
                            }
                        };
                        if now == 0 {
                            kept.bag.remove(bytes);
                            self.state_bytes -= ENTRY_BYTES + bytes.len();
                        }
                    }
                }
            }
        }
        for key in keys {
            if self.groups.get(key).is_some_and(|group| group.rows <= 0) {
                self.remove(key);
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &Row) {
        let Some(group) = self.groups.remove(key) else {
            return;
        };
        if let Some(at_ms) = group.at_ms {
            self.ends.remove(&(at_ms, Arc::clone(key)));
        }
        self.state_bytes -= GROUP_BYTES + key.len();
        for row in group.kept.iter().flat_map(|kept| kept.bag.keys()) {
            self.state_bytes -= ENTRY_BYTES + row.len();
        }
    }

    /// Notes what a group ends by.
    fn touch(&mut self, key: &Row, at_ms: Option<i64>) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        if group.at_ms == at_ms {
            return;
        }
        if let Some(before) = std::mem::replace(&mut group.at_ms, at_ms) {
            self.ends.remove(&(before, Arc::clone(key)));
        }
        if let Some(at_ms) = at_ms {
            self.ends.insert((at_ms, Arc::clone(key)));
        }
    }

    /// Forgets the groups that end before a time.
    fn forget(&mut self, before_ms: Option<i64>) {
        let Some(before_ms) = before_ms else { return };
        while self.ends.first().is_some_and(|(at, _)| *at < before_ms) {
            let (_, key) = self.ends.first().cloned().expect("it was just looked at");
            self.remove(&key);
        }
    }

    /// The rows that a group takes, and what each of their groups ends by; `None` when it takes all.
    fn taken(
        &self,
        columns: &[ArrayRef],
        delta: &Delta,
        moment: &Moment<'_>,
    ) -> Result<(Option<Delta>, Vec<Option<i64>>), OperatorError> {
        let count = delta.rows.num_rows();
        let Some(ending) = &self.spec.ending else {
            return Ok((None, vec![None; count]));
        };
        let Some(column) = ending.column() else {
            return Ok((None, vec![Some(moment.before.stored_ms); count]));
        };
        let times = milliseconds(&columns[column])?;
        let late_before = ending.late_before(moment);
        let is_late = |at: Option<i64>| at.zip(late_before).is_some_and(|(at, late)| at < late);
        if !times.iter().any(is_late) {
            return Ok((None, times.iter().collect()));
        }
        let (mut kept, mut weights, mut at_ms) = (Vec::new(), Vec::new(), Vec::new());
        for (row, at) in (0_u32..).zip(times.iter()) {
            let weight = delta.weights[row as usize];
            if is_late(at) {
                moment.count_late(weight.unsigned_abs());
            } else {
                kept.push(row);
                weights.push(weight);
                at_ms.push(at);
            }
        }
        let rows = take_record_batch(&delta.rows, &UInt32Array::from(kept))?;
        Ok((Some(Delta { rows, weights }), at_ms))
    }
}

fn way(kernel: &Kernel, types: &[DataType]) -> Way {
    let function = &kernel.function;
    let is_whole = types.first().is_some_and(DataType::is_signed_integer);
    match function.fun().name() {
        "count" if !function.is_distinct() => Way::Count,
        "sum" if is_whole && !function.is_distinct() => Way::Sum,
        "min" if types.len() == 1 => Way::Least,
        "max" if types.len() == 1 => Way::Most,
        _ => Way::Bag,
    }
}

const ROWS: i64 = -1;
/// Entries that say when a group ends.
const END: i64 = -2;

impl Node for Aggregate {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let ending = self.spec.ending.clone();
        let first = ending.as_ref();
        self.forget(first.and_then(|ending| ending.forgets_first(moment)));
        let delta = inputs[0];
        let mut changes = BTreeMap::new();
        if delta.rows.num_rows() > 0 {
            let columns = self.group_columns(&delta.rows)?;
            let (taken, at_ms) = self.taken(&columns, delta, moment)?;
            let (delta, columns) = match &taken {
                Some(taken) => (taken, self.group_columns(&taken.rows)?),
                None => (delta, columns),
            };
            let encoded = self.keys.encode(&columns)?;
            let count = delta.rows.num_rows();
            let keys: Vec<Row> = (0..count).map(|row| Row::from(encoded.row(row))).collect();
            let mut touched = keys.clone();
            touched.sort_unstable();
            touched.dedup();
            self.tell(&touched, -1, &mut changes)?;
            self.apply(delta, &keys, &at_ms)?;
            self.tell(&touched, 1, &mut changes)?;
        }
        self.forget(ending.and_then(|ending| ending.forgets_last(moment)));
        self.output.delta(&changes)
    }

    fn save(&self, entries: &mut Entries) {
        for (key, group) in &self.groups {
            entries.push(Entry {
                part: ROWS,
                key,
                value: &[],
                count: group.rows,
                other: 0,
            });
            if let Some(at_ms) = group.at_ms {
                entries.push(Entry {
                    part: END,
                    key,
                    value: &[],
                    count: at_ms,
                    other: 0,
                });
            }
            for (part, kept) in (0..).zip(&group.kept) {
                if kept.count != 0 || kept.total != 0 {
                    entries.push(Entry {
                        part,
                        key,
                        value: &kept.total.to_be_bytes(),
                        count: kept.count,
                        other: 1,
                    });
                }
                for (row, count) in &kept.bag {
                    entries.push(Entry {
                        part,
                        key,
                        value: row,
                        count: *count,
                        other: 0,
                    });
                }
            }
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let width = self.spec.kernels.len();
        if entry.part == ROWS {
            self.state_bytes += GROUP_BYTES + entry.key.len();
            let group = Group {
                rows: entry.count,
                kept: (0..width).map(|_| Kept::default()).collect(),
                at_ms: None,
            };
            self.groups.insert(Row::from(entry.key), group);
            return Ok(());
        }
        if entry.part == END {
            self.touch(&Row::from(entry.key), Some(entry.count));
            return Ok(());
        }
        let group = self.groups.get_mut(entry.key).ok_or_else(other_state)?;
        let part = usize::try_from(entry.part).map_err(|_| other_state())?;
        let kept = group.kept.get_mut(part).ok_or_else(other_state)?;
        if entry.other == 1 {
            let total = entry.value.try_into().map_err(|_| other_state())?;
            kept.total = i128::from_be_bytes(total);
            kept.count = entry.count;
        } else {
            self.state_bytes += ENTRY_BYTES + entry.value.len();
            kept.bag.insert(Row::from(entry.value), entry.count);
        }
        Ok(())
    }

    fn is_timed(&self) -> bool {
        self.spec.ending.is_some()
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
