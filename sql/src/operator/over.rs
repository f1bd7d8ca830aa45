//! `OVER (PARTITION BY … ORDER BY time …)`: each row once, with what was computed of the rows before it.
//!
//! Input: rows that stay. Output: their columns, then one column per function; a row leaves when no row of
//! its time or an earlier one is to come any more, so that its place among the others is final. Rows of
//! equal time come by the further columns of `ORDER BY`, then by all their columns; rows without time are
//! left out, those that come too late are counted.
//!
//! A function over all rows before keeps its state per partition at rest, as grouped aggregates do; one
//! over a few rows before, or a stretch of time, computes anew from the rows that are kept for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array, new_null_array,
};
use arrow::compute::{SortOptions, cast, filter};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, other_state};
use crate::operator::kernel::{Kernel, State, state_at, state_bytes, state_columns, state_fields};
use crate::operator::key::{Keys, from_time, milliseconds};
use crate::operator::moment::{Horizon, LateRow, Moment};

/// Which rows before a row, itself among them, a function is computed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// All; with those of equal order if `peers`.
    All { peers: bool },
    /// So many before it, up to so many before it.
    Rows { from: u64, to: u64 },
    /// Those at most so long before it, and those of equal order, which may be that of more than the time: 0 is these alone.
    Stretch { ms: i64 },
}

/// One function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Function {
    /// The number of the row in its partition.
    Number,
    /// An aggregate.
    Aggregate { kernel: Kernel, frame: Frame },
    /// A value of the row so many before it, or another if there is none.
    Lag {
        value: Arc<dyn PhysicalExpr>,
        rows: u64,
        otherwise: ScalarValue,
    },
}

/// What is computed.
#[derive(Clone, Debug)]
pub(crate) struct OverSpec {
    pub(crate) partition: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) time: Arc<dyn PhysicalExpr>,
    /// How that time moves on: rows that come before are late.
    pub(crate) horizon: Horizon,
    /// What rows are ordered by, the time first.
    pub(crate) order: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
    pub(crate) functions: Vec<Function>,
    pub(crate) input: SchemaRef,
    /// The input's columns, then one per function.
    pub(crate) schema: SchemaRef,
}

impl PartialEq for OverSpec {
    fn eq(&self, other: &Self) -> bool {
        self.partition == other.partition
            && *self.time == *other.time
            && self.horizon == other.horizon
            && self.order == other.order
            && self.functions == other.functions
            && self.input == other.input
            && self.schema == other.schema
    }
}

/// A row in its order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    at_ms: i64,
    order: Row,
    row: Row,
}

impl Placed {
    fn bytes(&self) -> usize {
        ROW_BYTES + self.order.len() + self.row.len()
    }

    /// Where it stands among rows of all partitions: by partition, then in its order.
    fn place(&self, key: &[u8]) -> Row {
        [key, &from_time(self.at_ms, &[&self.order, &self.row])]
            .concat()
            .into()
    }
}

/// What is known of the rows of a partition that left.
#[derive(Debug, Default)]
struct Partition {
    /// How many.
    count: u64,
    /// The last of them, as far as a frame reaches back.
    kept: Vec<Placed>,
    /// States of the functions over all of them, in a line; empty before the first.
    running: State,
}

#[derive(Debug)]
pub(crate) struct Over {
    spec: OverSpec,
    keys: Keys,
    order: RowConverter,
    rows: RowCodec,
    /// Fields of the states of functions over all rows.
    running: Vec<FieldRef>,
    running_keys: Keys,
    waiting: BTreeMap<Placed, (Row, i64)>,
    partitions: BTreeMap<Row, Partition>,
    /// Of the rows that were given last.
    places: Vec<Row>,
    state_bytes: usize,
}

const ROW_BYTES: usize = 140;
const PARTITION_BYTES: usize = 160;

/// Rows of one partition in a step: those that are kept, then those that leave.
struct Segment {
    key: Row,
    rows: Range<usize>,
    leaving: usize,
}

impl Over {
    pub(crate) fn new(spec: OverSpec) -> Result<Self, OperatorError> {
        let types = spec.partition.iter();
        let types = types.map(|expr| expr.data_type(&spec.input));
        let types = types.collect::<Result<Vec<_>, _>>()?;
        let order = spec.order.iter().map(|(expr, options)| {
            let kind = expr.data_type(&spec.input)?;
            Ok(SortField::new_with_options(kind, *options))
        });
        let order = order.collect::<Result<Vec<_>, DataFusionError>>()?;
        let kernels: Vec<Kernel> = spec.functions.iter().filter_map(running).cloned().collect();
        let running = state_fields(&kernels)?;
        Ok(Self {
            keys: Keys::new(types.iter())?,
            order: RowConverter::new(order)?,
            rows: RowCodec::new(&spec.input)?,
            running_keys: Keys::new(running.iter().map(|field| field.data_type()))?,
            running,
            spec,
            waiting: BTreeMap::new(),
            partitions: BTreeMap::new(),
            places: Vec::new(),
            state_bytes: 0,
        })
    }

    fn take(&mut self, delta: &Delta, moment: &Moment<'_>) -> Result<(), OperatorError> {
        let count = delta.rows.num_rows();
        if count == 0 {
            return Ok(());
        }
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| -> Result<ArrayRef, DataFusionError> {
            expr.evaluate(&delta.rows)?.into_array(count)
        };
        let keys = self.spec.partition.iter().map(evaluate);
        let keys = self.keys.encode(&keys.collect::<Result<Vec<_>, _>>()?)?;
        let orders = self.spec.order.iter().map(|(expr, _)| evaluate(expr));
        let orders = orders.collect::<Result<Vec<_>, _>>()?;
        let orders = self.order.convert_columns(&orders)?;
        let times = milliseconds(&evaluate(&self.spec.time)?)?;
        let late_before = self.spec.horizon.at(moment.before);
        for (index, row) in self.rows.encode(&delta.rows)?.into_iter().enumerate() {
            if times.is_null(index) {
                continue;
            }
            let placed = Placed {
                at_ms: times.value(index),
                order: Row::from(orders.row(index).data()),
                row,
            };
            let weight = delta.weights[index];
            if let Some(late_before_ms) = late_before.filter(|late| placed.at_ms < *late) {
                moment.leave_out(LateRow {
                    side: 0,
                    row: index,
                    count: weight.unsigned_abs(),
                    at_ms: placed.at_ms,
                    late_before_ms,
                });
                continue;
            }
            self.wait(placed, Row::from(keys.row(index)), weight);
        }
        Ok(())
    }

    fn wait(&mut self, placed: Placed, key: Row, weight: i64) {
        let bytes = placed.bytes() + key.len();
        let waiting = self.waiting.entry(placed).or_insert_with(|| {
            self.state_bytes += bytes;
            (key, 0)
        });
        waiting.1 += weight;
    }

    /// Rows that leave, by partition and in order, each behind those that are kept.
    fn take_ready(&mut self, end_ms: i64) -> (Vec<Placed>, Vec<Segment>) {
        let mut ready: BTreeMap<Row, Vec<Placed>> = BTreeMap::new();
        while let Some(first) = self.waiting.first_entry() {
            if first.key().at_ms >= end_ms {
                break;
            }
            let (placed, (key, count)) = first.remove_entry();
            self.state_bytes -= placed.bytes() + key.len();
            let rows = ready.entry(key).or_default();
            rows.extend((0..count).map(|_| placed.clone()));
        }
        let (mut rows, mut segments) = (Vec::new(), Vec::new());
        for (key, leaving) in ready {
            let from = rows.len();
            if let Some(partition) = self.partitions.get(&key) {
                rows.extend(partition.kept.iter().cloned());
            }
            let first = rows.len();
            rows.extend(leaving);
            segments.push(Segment {
                key,
                rows: from..rows.len(),
                leaving: first,
            });
        }
        (rows, segments)
    }

    /// One value of each function for each row that leaves, in the order of `segments`.
    fn compute(
        &mut self,
        batch: &RecordBatch,
        placed: &[Placed],
        segments: &[Segment],
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut states: Vec<State> = vec![State::new(); segments.len()];
        let mut first_state = 0;
        let mut columns = Vec::new();
        let width = self.spec.input.fields().len();
        for (index, function) in self.spec.functions.iter().enumerate() {
            let kind = self.spec.schema.field(width + index).data_type();
            let column = match function {
                Function::Number => {
                    let numbers = segments.iter().flat_map(|segment| {
                        let before = self.partitions.get(&segment.key);
                        let before = before.map_or(0, |partition| partition.count);
                        (before + 1..).take(segment.rows.end - segment.leaving)
                    });
                    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(numbers));
                    cast(&numbers, kind)?
                }
                Function::Lag {
                    value,
                    rows,
                    otherwise,
                } => lagged(batch, segments, value, *rows, otherwise, kind)?,
                Function::Aggregate { kernel, frame } => {
                    let arguments = Arguments::of(kernel, batch)?;
                    let count = running(function).map_or(Ok(0), |kernel| {
                        kernel.function.state_fields().map(|fields| fields.len())
                    })?;
                    let mut values = Vec::new();
                    for (at, segment) in segments.iter().enumerate() {
                        let partition = self.partitions.get(&segment.key);
                        let frames = Frames {
                            kernel,
                            arguments: &arguments,
                            placed,
                            segment,
                        };
                        match frame {
                            Frame::All { peers } => {
                                let rested = partition
                                    .map(|partition| partition.running.as_slice())
                                    .and_then(|state| state.get(first_state..first_state + count));
                                states[at].extend(frames.running(rested, *peers, &mut values)?);
                            }
                            _ => frames.sliding(*frame, &mut values)?,
                        }
                    }
                    first_state += count;
                    let column = match values.is_empty() {
                        true => new_null_array(kind, 0),
                        false => ScalarValue::iter_to_array(values)?,
                    };
                    cast(&column, kind)?
                }
            };
            columns.push(column);
        }
        for (segment, state) in segments.iter().zip(states) {
            self.rest(segment, placed, state);
        }
        Ok(columns)
    }

    /// Remembers of a partition what rows to come will need.
    fn rest(&mut self, segment: &Segment, placed: &[Placed], state: State) {
        let before = self.partitions.remove(&segment.key);
        if let Some(before) = &before {
            self.state_bytes -= partition_bytes(&segment.key, before);
        }
        let leaving = segment.rows.end - segment.leaving;
        let partition = Partition {
            count: before.map_or(0, |before| before.count) + leaving as u64,
            kept: kept(&self.spec, &placed[segment.rows.clone()]).to_vec(),
            running: state,
        };
        self.insert(Arc::clone(&segment.key), partition);
    }

    fn insert(&mut self, key: Row, partition: Partition) {
        let is_needed =
            self.spec.functions.iter().any(|function| {
                matches!(function, Function::Number) || running(function).is_some()
            });
        if is_needed || !partition.kept.is_empty() {
            self.state_bytes += partition_bytes(&key, &partition);
            self.partitions.insert(key, partition);
        }
    }
}

/// The aggregate of a function over all rows before.
fn running(function: &Function) -> Option<&Kernel> {
    match function {
        Function::Aggregate {
            kernel,
            frame: Frame::All { .. },
        } => Some(kernel),
        _ => None,
    }
}

/// The rows that a frame of a later row may reach.
fn kept<'a>(spec: &OverSpec, rows: &'a [Placed]) -> &'a [Placed] {
    let Some(last) = rows.last() else { return rows };
    let mut from = rows.len();
    for function in &spec.functions {
        let reaches = match function {
            Function::Lag { rows: count, .. }
            | Function::Aggregate {
                frame: Frame::Rows { from: count, .. },
                ..
            } => {
                let count = usize::try_from(*count).unwrap_or(usize::MAX);
                rows.len().saturating_sub(count)
            }
            Function::Aggregate {
                frame: Frame::Stretch { ms },
                ..
            } => {
                let first_ms = last.at_ms.saturating_sub(*ms);
                rows.partition_point(|row| row.at_ms < first_ms)
            }
            _ => rows.len(),
        };
        from = from.min(reaches);
    }
    &rows[from..]
}

fn partition_bytes(key: &[u8], partition: &Partition) -> usize {
    let kept: usize = partition.kept.iter().map(Placed::bytes).sum();
    PARTITION_BYTES + key.len() + kept + state_bytes(&partition.running)
}

fn lagged(
    batch: &RecordBatch,
    segments: &[Segment],
    value: &Arc<dyn PhysicalExpr>,
    rows: u64,
    otherwise: &ScalarValue,
    kind: &DataType,
) -> Result<ArrayRef, OperatorError> {
    let column = value.evaluate(batch)?.into_array(batch.num_rows())?;
    let otherwise = otherwise.cast_to(kind)?;
    let back = usize::try_from(rows).unwrap_or(usize::MAX);
    let mut values = Vec::new();
    for segment in segments {
        for row in segment.leaving..segment.rows.end {
            let from = row
                .checked_sub(back)
                .filter(|from| *from >= segment.rows.start);
            values.push(match from {
                Some(from) => ScalarValue::try_from_array(&column, from)?,
                None => otherwise.clone(),
            });
        }
    }
    Ok(match values.is_empty() {
        true => new_null_array(kind, 0),
        false => ScalarValue::iter_to_array(values)?,
    })
}

/// The arguments of an aggregate, without the rows that its filter leaves out.
struct Arguments {
    columns: Vec<ArrayRef>,
    /// For each row, how many before it are not left out; one more at the end.
    places: Vec<usize>,
}

impl Arguments {
    fn of(kernel: &Kernel, batch: &RecordBatch) -> Result<Self, OperatorError> {
        let count = batch.num_rows();
        let columns = kernel.function.expressions().into_iter();
        let columns = columns.map(|argument| argument.evaluate(batch)?.into_array(count));
        let columns = columns.collect::<Result<Vec<_>, DataFusionError>>()?;
        let Some(kept) = &kernel.filter else {
            return Ok(Self {
                columns,
                places: (0..=count).collect(),
            });
        };
        let mask = kept.evaluate(batch)?.into_array(count)?;
        let mask: BooleanArray = as_boolean_array(&mask)?
            .iter()
            .map(|keep| Some(keep == Some(true)))
            .collect();
        let mut places = vec![0];
        for keep in mask.iter().flatten() {
            places.push(places[places.len() - 1] + usize::from(keep));
        }
        let columns = columns.iter().map(|column| filter(column, &mask));
        Ok(Self {
            columns: columns.collect::<Result<Vec<_>, _>>()?,
            places,
        })
    }

    fn slice(&self, rows: Range<usize>) -> Vec<ArrayRef> {
        let (from, to) = (self.places[rows.start], self.places[rows.end]);
        let columns = self.columns.iter();
        columns
            .map(|column| column.slice(from, to - from))
            .collect()
    }
}

/// One aggregate over one partition.
struct Frames<'a> {
    kernel: &'a Kernel,
    arguments: &'a Arguments,
    placed: &'a [Placed],
    segment: &'a Segment,
}

impl Frames<'_> {
    /// One past the last row that is of equal order with a row.
    fn peers_end(&self, row: usize) -> usize {
        let rows = &self.placed[row..self.segment.rows.end];
        row + rows.partition_point(|other| other.order == self.placed[row].order)
    }

    /// Values over all rows before; answers the state after the last.
    fn running(
        &self,
        rested: Option<&[ScalarValue]>,
        peers: bool,
        values: &mut Vec<ScalarValue>,
    ) -> Result<State, OperatorError> {
        let mut accumulator = self.kernel.function.create_accumulator()?;
        if let Some(rested) = rested {
            let columns = rested.iter().map(ScalarValue::to_array);
            accumulator.merge_batch(&columns.collect::<Result<Vec<_>, _>>()?)?;
        }
        let mut row = self.segment.leaving;
        while row < self.segment.rows.end {
            let end = if peers { self.peers_end(row) } else { row + 1 };
            accumulator.update_batch(&self.arguments.slice(row..end))?;
            let value = accumulator.evaluate()?;
            values.extend(std::iter::repeat_n(value, end - row));
            row = end;
        }
        let state = accumulator.state()?.into_iter();
        Ok(state.map(ScalarValue::compacted).collect())
    }

    /// Values over the few rows before.
    fn sliding(&self, frame: Frame, values: &mut Vec<ScalarValue>) -> Result<(), OperatorError> {
        let mut accumulator: Option<Box<dyn Accumulator>> = None;
        let mut covered = self.segment.rows.start..self.segment.rows.start;
        for row in self.segment.leaving..self.segment.rows.end {
            let frame = self.frame_of(frame, row);
            let slides = accumulator.as_ref().is_some_and(|accumulator| {
                frame.start == covered.start || accumulator.supports_retract_batch()
            });
            let is_apart = frame.start > covered.end || frame.end < covered.end;
            if !slides || is_apart {
                accumulator = None;
                covered = frame.start..frame.start;
            }
            let accumulator = match &mut accumulator {
                Some(accumulator) => accumulator,
                None => {
                    // One that takes nothing back is made anew for each row.
                    let function = &self.kernel.function;
                    let made = function.create_sliding_accumulator();
                    accumulator.insert(made.or_else(|_| function.create_accumulator())?)
                }
            };
            if covered.end < frame.end {
                let came = self.arguments.slice(covered.end..frame.end);
                accumulator.update_batch(&came)?;
            }
            if covered.start < frame.start {
                let went = self.arguments.slice(covered.start..frame.start);
                accumulator.retract_batch(&went)?;
            }
            covered = frame;
            values.push(accumulator.evaluate()?);
        }
        Ok(())
    }

    fn frame_of(&self, frame: Frame, row: usize) -> Range<usize> {
        let first = self.segment.rows.start;
        match frame {
            Frame::All { .. } => first..row + 1,
            Frame::Rows { from, to } => {
                let back = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
                let start = row.saturating_sub(back(from)).max(first);
                let end = (row + 1).saturating_sub(back(to)).max(start);
                start..end
            }
            Frame::Stretch { ms } => {
                let (this, rows) = (&self.placed[row], &self.placed[first..=row]);
                let start = rows.partition_point(|other| match ms {
                    0 => other.order != this.order,
                    _ => other.at_ms < this.at_ms.saturating_sub(ms),
                });
                first + start..self.peers_end(row)
            }
        }
    }
}

const WAITING: i64 = 0;
const COUNT: i64 = 1;
const KEPT: i64 = 2;
const RUNNING: i64 = 3;

impl Node for Over {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        assert!(inputs[0].weights.iter().all(|w| *w > 0), "rows stay");
        self.take(inputs[0], moment)?;
        let Some(end_ms) = self.spec.horizon.at(moment.after) else {
            return Ok(Delta::empty(&self.spec.schema));
        };
        let (placed, segments) = self.take_ready(end_ms);
        if segments.is_empty() {
            return Ok(Delta::empty(&self.spec.schema));
        }
        let batch = self
            .rows
            .decode(placed.iter().map(|placed| placed.row.as_ref()))?;
        let functions = self.compute(&batch, &placed, &segments)?;
        let mut leaving = vec![false; placed.len()];
        for segment in &segments {
            let left = segment.leaving..segment.rows.end;
            leaving[left.clone()].fill(true);
            let places = placed[left].iter().map(|placed| placed.place(&segment.key));
            self.places.extend(places);
        }
        let leaving = BooleanArray::from(leaving);
        let columns = batch
            .columns()
            .iter()
            .map(|column| filter(column, &leaving));
        let mut columns = columns.collect::<Result<Vec<_>, _>>()?;
        columns.extend(functions);
        let count = leaving.true_count();
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.spec.schema);
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Delta::inserted(rows))
    }

    fn take_places(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.places)
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn save(&self, entries: &mut Entries) {
        let mut push = |part, key: &Row, placed: &Placed, count| {
            let mut value = placed.order.to_vec();
            value.extend_from_slice(&placed.row);
            let length = i64::try_from(placed.order.len()).expect("a row fits into memory");
            let mut head = placed.at_ms.to_be_bytes().to_vec();
            head.extend_from_slice(&value);
            entries.push(Entry {
                part,
                key,
                value: &head,
                count,
                other: length,
            });
        };
        for (placed, (key, count)) in &self.waiting {
            push(WAITING, key, placed, *count);
        }
        for (key, partition) in &self.partitions {
            for placed in &partition.kept {
                push(KEPT, key, placed, 1);
            }
        }
        for (key, partition) in &self.partitions {
            let count = i64::try_from(partition.count).unwrap_or(i64::MAX);
            entries.push(Entry {
                part: COUNT,
                key,
                value: &[],
                count,
                other: 0,
            });
            if !partition.running.is_empty() {
                let columns = state_columns(std::iter::once(&partition.running), &self.running);
                let encoded = columns
                    .map_err(OperatorError::from)
                    .and_then(|columns| self.running_keys.encode(&columns));
                let encoded = encoded.expect("a state was built of the columns' types");
                entries.push(Entry {
                    part: RUNNING,
                    key,
                    value: encoded.row(0),
                    count: 0,
                    other: 0,
                });
            }
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let key = Row::from(entry.key);
        let mut partition = match entry.part {
            WAITING => Partition::default(),
            _ => {
                let before = self.partitions.remove(&key).unwrap_or_default();
                if before.count > 0 || !before.kept.is_empty() {
                    self.state_bytes -= partition_bytes(&key, &before);
                }
                before
            }
        };
        let placed = || {
            let (at_ms, rest) = entry.value.split_first_chunk().ok_or_else(other_state)?;
            let length = usize::try_from(entry.other).map_err(|_| other_state())?;
            let (order, row) = rest.split_at_checked(length).ok_or_else(other_state)?;
            Ok::<_, OperatorError>(Placed {
                at_ms: i64::from_be_bytes(*at_ms),
                order: Row::from(order),
                row: Row::from(row),
            })
        };
        match entry.part {
            WAITING => {
                self.wait(placed()?, key, entry.count);
                return Ok(());
            }
            KEPT => partition.kept.push(placed()?),
            COUNT => partition.count = u64::try_from(entry.count).map_err(|_| other_state())?,
            RUNNING => {
                let columns = self.running_keys.decode(std::iter::once(entry.value))?;
                partition.running = state_at(&columns, 0)?;
            }
            _ => return Err(other_state()),
        }
        self.state_bytes += partition_bytes(&key, &partition);
        self.partitions.insert(key, partition);
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
