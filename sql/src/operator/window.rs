//! Aggregates over groups, most often the groups of tumbling windows.
//!
//! Input: the rows that the query's filters and projections leave, among them the group columns.
//! Output: one row per group, group columns first, then one column per aggregate, put through the
//! query's HAVING and select list. Updating: at the end of an epoch, one row per group that changed, in
//! the order of the group's key, and a deletion for a group that HAVING now refuses. On close: each
//! group once, when the watermark reaches the end of its window, in the order (window end, key).
//!
//! DataFusion's accumulators do not retract and their `state` and `evaluate` use them up. So the state
//! of a group rests as plain values between ticks; for each tick fresh accumulators take first the
//! rested state of the groups that the tick touches, then the tick's rows in log order. The tick being
//! the unit, sums of floats come out the same to the last bit, however epochs were cut.
//!
//! A row whose group column of the window is NULL belongs to no window and is passed over here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, TimeUnit};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use millpond_proto::limits::JOB_STATE_BYTES_MAX;
use millpond_proto::time::Timestamp;

use crate::operator::project::Transform;
use crate::operator::{Emission, Keys, Late, LateReason, Operator, OperatorError, Output};

/// How long an updating query keeps the state of a window after its end, in event time: rows that
/// come even later are late.
pub const STATE_TTL_MS: i64 = 365 * 24 * 60 * 60 * 1000;

/// What the maps take per group besides keys and values, about.
const GROUP_BYTES: usize = 160;

/// When rows of a group are emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emit {
    /// At the end of each epoch in which the group changed.
    Changes,
    /// Once, when its window is over.
    OnClose,
}

/// The group column that tells the window, and how to get from its value to start and end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowColumn {
    /// Index among the group columns.
    pub column: usize,
    /// Whether it holds the end; otherwise the start.
    pub is_end: bool,
    /// Length of the window.
    pub size_ms: i64,
}

/// One aggregate of the query.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The function with its arguments.
    pub function: Arc<AggregateFunctionExpr>,
    /// Its FILTER clause.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

/// What the operator computes.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// From the topic's columns to the aggregate's input.
    pub input: Transform,
    /// The group columns' expressions over that input.
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    /// The aggregates over that input.
    pub aggregates: Vec<Kernel>,
    /// Columns of the aggregate: groups, then aggregates.
    pub schema: SchemaRef,
    /// From those to the output: HAVING and select list.
    pub output: Transform,
    /// The window, if the groups have one.
    pub window: Option<WindowColumn>,
    /// When groups are emitted.
    pub emit: Emit,
}

/// Bytes of a group's columns; they sort as the columns do.
type Key = Arc<[u8]>;

#[derive(Debug)]
struct Group {
    /// The rested state of each aggregate, one value per state column.
    state: Vec<ScalarValue>,
    /// Whether a row of it was emitted that was not deleted since.
    emitted: bool,
}

/// The operator.
#[derive(Debug)]
pub struct Window {
    grouping: Grouping,
    converter: RowConverter,
    state_schema: SchemaRef,
    groups: BTreeMap<Key, Group>,
    /// Windowed groups by the end of their window.
    by_end: BTreeSet<(i64, Key)>,
    touched: BTreeSet<Key>,
    state_bytes: usize,
    state_bytes_max: usize,
}

impl Window {
    /// An operator without any group yet.
    ///
    /// # Errors
    /// [`OperatorError::Compute`] when a group column's type can not be a key.
    pub fn new(grouping: Grouping) -> Result<Self, OperatorError> {
        let group_fields = &grouping.schema.fields()[..grouping.groups.len()];
        let sort_fields = group_fields
            .iter()
            .map(|field| SortField::new(field.data_type().clone()))
            .collect();
        let converter = RowConverter::new(sort_fields)?;
        let state_schema = state_schema(&grouping)?;
        Ok(Self {
            grouping,
            converter,
            state_schema,
            groups: BTreeMap::new(),
            by_end: BTreeSet::new(),
            touched: BTreeSet::new(),
            state_bytes: 0,
            state_bytes_max: JOB_STATE_BYTES_MAX,
        })
    }

    /// Bounds the state by `bytes` instead of the usual limit.
    #[must_use]
    pub fn with_state_bytes_max(mut self, bytes: usize) -> Self {
        self.state_bytes_max = bytes;
        self
    }

    /// Start and end of the window that a group column's value tells.
    fn bounds(window: WindowColumn, value_ms: i64) -> (Timestamp, Timestamp) {
        if window.is_end {
            (Timestamp(value_ms - window.size_ms), Timestamp(value_ms))
        } else {
            (Timestamp(value_ms), Timestamp(value_ms + window.size_ms))
        }
    }

    /// Whether rows of the window that ends at `end` come too late at this watermark.
    fn lateness(&self, end: Timestamp, watermark: Timestamp) -> Option<LateReason> {
        match self.grouping.emit {
            Emit::OnClose => (end <= watermark).then_some(LateReason::WindowClosed),
            Emit::Changes => {
                let expiry_ms = end.as_ms().saturating_add(STATE_TTL_MS);
                (expiry_ms < watermark.as_ms()).then_some(LateReason::StateExpired)
            }
        }
    }

    /// Adds the rows to their groups: rested state first, then the rows in order, then to rest again.
    fn accumulate(
        &mut self,
        rows: &RecordBatch,
        group_columns: &[ArrayRef],
        ends_ms: Option<&Int64Array>,
    ) -> Result<(), OperatorError> {
        let encoded = self.converter.convert_columns(group_columns)?;
        let mut index_of: HashMap<Key, usize> = HashMap::new();
        let mut keys: Vec<(Key, Option<i64>)> = Vec::new();
        let mut group_indices = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let bytes = encoded.row(row).data();
            let index = match index_of.get(bytes) {
                Some(index) => *index,
                None => {
                    let key: Key = Arc::from(bytes);
                    index_of.insert(Arc::clone(&key), keys.len());
                    keys.push((key, ends_ms.map(|ends| ends.value(row))));
                    keys.len() - 1
                }
            };
            group_indices.push(index);
        }

        let rested: Vec<(usize, &Group)> = keys
            .iter()
            .enumerate()
            .filter_map(|(index, (key, _))| Some((index, self.groups.get(key)?)))
            .collect();
        let mut states: Vec<Vec<ScalarValue>> = vec![Vec::new(); keys.len()];
        let mut first_column = 0;
        for kernel in &self.grouping.aggregates {
            let mut accumulator = accumulator(&kernel.function)?;
            let width = kernel.function.state_fields()?.len();
            merge_rested(
                accumulator.as_mut(),
                &rested,
                first_column,
                width,
                keys.len(),
            )?;
            update(
                accumulator.as_mut(),
                kernel,
                rows,
                &group_indices,
                keys.len(),
            )?;
            for column in accumulator.state(EmitTo::All)? {
                for (index, state) in states.iter_mut().enumerate() {
                    state.push(ScalarValue::try_from_array(&column, index)?.compacted());
                }
            }
            first_column += width;
        }

        for ((key, end_ms), state) in keys.into_iter().zip(states) {
            let emitted = match self.groups.get(&key) {
                Some(group) => {
                    self.state_bytes -= group_bytes(&key, &group.state);
                    group.emitted
                }
                None => {
                    if let Some(end_ms) = end_ms {
                        self.by_end.insert((end_ms, Arc::clone(&key)));
                    }
                    false
                }
            };
            self.state_bytes += group_bytes(&key, &state);
            if self.grouping.emit == Emit::Changes {
                self.touched.insert(Arc::clone(&key));
            }
            self.groups.insert(key, Group { state, emitted });
        }
        if self.state_bytes > self.state_bytes_max {
            return Err(OperatorError::StateTooLarge {
                size_bytes: self.state_bytes,
                limit_bytes: self.state_bytes_max,
            });
        }
        Ok(())
    }

    /// One row per group, in the order of `keys`: group columns, then aggregates.
    fn evaluate(&self, keys: &[Key]) -> Result<RecordBatch, OperatorError> {
        let rested: Vec<(usize, &Group)> = keys
            .iter()
            .map(|key| {
                self.groups
                    .get(key)
                    .expect("only groups that are kept are emitted")
            })
            .enumerate()
            .collect();
        let parser = self.converter.parser();
        let mut columns = self
            .converter
            .convert_rows(keys.iter().map(|key| parser.parse(key)))?;
        let mut first_column = 0;
        for kernel in &self.grouping.aggregates {
            let mut accumulator = accumulator(&kernel.function)?;
            let width = kernel.function.state_fields()?.len();
            merge_rested(
                accumulator.as_mut(),
                &rested,
                first_column,
                width,
                keys.len(),
            )?;
            columns.push(accumulator.evaluate(EmitTo::All)?);
            first_column += width;
        }
        Ok(RecordBatch::try_new(
            Arc::clone(&self.grouping.schema),
            columns,
        )?)
    }

    /// Puts the groups through HAVING and the select list; what HAVING refuses is deleted if a row of it
    /// is out.
    fn emit(&mut self, keys: &[Key], out: &mut Output) -> Result<(), OperatorError> {
        if keys.is_empty() {
            return Ok(());
        }
        let groups = self.evaluate(keys)?;
        let (rows, kept) = self.grouping.output.run(&groups)?;
        let count = self.grouping.groups.len();
        let messages = message_keys(&groups.project(&(0..count).collect::<Vec<_>>())?)?;
        let mut passes = vec![false; keys.len()];
        for index in &kept {
            passes[*index as usize] = true;
        }
        let mut kept_keys = Vec::with_capacity(kept.len());
        let mut deleted = Vec::new();
        for ((key, passes), message) in keys.iter().zip(passes).zip(messages) {
            let group = self.groups.get_mut(key).expect("it was just evaluated");
            if passes {
                kept_keys.push(message);
            } else if group.emitted {
                deleted.push(message);
            }
            group.emitted = passes;
        }
        if rows.num_rows() > 0 || !deleted.is_empty() {
            out.emissions.push(Emission {
                rows,
                keys: Keys::Group(kept_keys),
                deleted,
            });
        }
        Ok(())
    }

    /// Takes groups whose window ends before or at `end_ms` out of `by_end`, in order.
    fn take_ended(&mut self, end_ms: i64) -> Vec<Key> {
        let mut ended = Vec::new();
        while let Some((end, _)) = self.by_end.first() {
            if *end > end_ms {
                break;
            }
            let (_, key) = self.by_end.pop_first().expect("it was just looked at");
            ended.push(key);
        }
        ended
    }

    fn forget(&mut self, key: &Key) {
        if let Some(group) = self.groups.remove(key) {
            self.state_bytes -= group_bytes(key, &group.state);
        }
        self.touched.remove(key);
    }
}

impl Operator for Window {
    fn on_batch(
        &mut self,
        batch: &RecordBatch,
        watermark: Option<Timestamp>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let (rows, origin) = self.grouping.input.run(batch)?;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let group_columns = self
            .grouping
            .groups
            .iter()
            .map(|group| group.evaluate(&rows)?.into_array(rows.num_rows()))
            .collect::<Result<Vec<_>, DataFusionError>>()?;
        let Some(window) = self.grouping.window else {
            return self.accumulate(&rows, &group_columns, None);
        };

        let values = milliseconds(&group_columns[window.column])?;
        let mut on_time = Vec::with_capacity(rows.num_rows());
        let mut ends_ms = Vec::with_capacity(rows.num_rows());
        for (index, row) in origin.iter().enumerate() {
            if values.is_null(index) {
                continue;
            }
            let (start, end) = Self::bounds(window, values.value(index));
            let lateness = watermark.and_then(|at| Some((self.lateness(end, at)?, at)));
            if let Some((reason, watermark)) = lateness {
                out.late.push(Late {
                    row: *row,
                    reason,
                    window_start: start,
                    window_end: end,
                    watermark,
                });
            } else {
                on_time.push(u32::try_from(index).expect("a tick has fewer rows than a u32"));
                ends_ms.push(end.as_ms());
            }
        }
        if on_time.is_empty() {
            return Ok(());
        }
        let ends_ms = Int64Array::from(ends_ms);
        if on_time.len() == rows.num_rows() {
            return self.accumulate(&rows, &group_columns, Some(&ends_ms));
        }
        let on_time = UInt32Array::from(on_time);
        let rows = take_record_batch(&rows, &on_time)?;
        let group_columns = group_columns
            .iter()
            .map(|column| take(column, &on_time, None))
            .collect::<Result<Vec<_>, _>>()?;
        self.accumulate(&rows, &group_columns, Some(&ends_ms))
    }

    fn on_watermark(
        &mut self,
        watermark: Timestamp,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        match self.grouping.emit {
            Emit::OnClose => {
                let closed = self.take_ended(watermark.as_ms());
                self.emit(&closed, out)?;
                for key in &closed {
                    self.forget(key);
                }
            }
            Emit::Changes => {
                // Expired when end + TTL < watermark, so the last end to go is one below.
                let expired_ms = watermark.as_ms().saturating_sub(STATE_TTL_MS + 1);
                let expired = self.take_ended(expired_ms);
                let changed: Vec<Key> = expired
                    .iter()
                    .filter(|key| self.touched.contains(*key))
                    .map(Arc::clone)
                    .collect();
                self.emit(&changed, out)?;
                for key in &expired {
                    self.forget(key);
                }
            }
        }
        Ok(())
    }

    fn on_barrier(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let touched: Vec<Key> = std::mem::take(&mut self.touched).into_iter().collect();
        self.emit(&touched, out)
    }

    fn schema(&self) -> SchemaRef {
        self.grouping.output.schema()
    }

    fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        assert!(self.touched.is_empty(), "state is saved between epochs");
        if self.groups.is_empty() {
            return Ok(Some(RecordBatch::new_empty(Arc::clone(&self.state_schema))));
        }
        let parser = self.converter.parser();
        let mut columns = self
            .converter
            .convert_rows(self.groups.keys().map(|key| parser.parse(key)))?;
        let emitted = self.groups.values().map(|group| Some(group.emitted));
        columns.push(Arc::new(BooleanArray::from_iter(emitted)));
        let width = self.state_schema.fields().len() - columns.len();
        for column in 0..width {
            let values = self
                .groups
                .values()
                .map(|group| group.state[column].clone());
            columns.push(ScalarValue::iter_to_array(values)?);
        }
        Ok(Some(RecordBatch::try_new(
            Arc::clone(&self.state_schema),
            columns,
        )?))
    }

    fn restore(&mut self, state: &RecordBatch) -> Result<(), OperatorError> {
        assert!(self.groups.is_empty(), "state is restored before any row");
        if state.schema().fields() != self.state_schema.fields() {
            return Err(OperatorError::OtherState {
                detail: "its columns differ".to_owned(),
            });
        }
        if state.num_rows() == 0 {
            return Ok(());
        }
        let count = self.grouping.groups.len();
        let group_columns = &state.columns()[..count];
        let emitted = as_boolean_array(state.column(count))?;
        let encoded = self.converter.convert_columns(group_columns)?;
        let ends = match self.grouping.window {
            Some(window) => Some((window, milliseconds(&group_columns[window.column])?)),
            None => None,
        };
        for row in 0..state.num_rows() {
            let key: Key = Arc::from(encoded.row(row).data());
            let values = state.columns()[count + 1..]
                .iter()
                .map(|column| Ok(ScalarValue::try_from_array(column, row)?.compacted()))
                .collect::<Result<Vec<_>, DataFusionError>>()?;
            if let Some((window, values)) = &ends {
                let (_, end) = Self::bounds(*window, values.value(row));
                self.by_end.insert((end.as_ms(), Arc::clone(&key)));
            }
            self.state_bytes += group_bytes(&key, &values);
            let group = Group {
                state: values,
                emitted: emitted.value(row),
            };
            self.groups.insert(key, group);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}

/// Milliseconds since the epoch of a date or timestamp column.
///
/// # Errors
/// What Arrow says when the column holds no time.
pub(crate) fn milliseconds(column: &ArrayRef) -> Result<Int64Array, arrow::error::ArrowError> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let column = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, zone))?;
    let column = cast(&column, &DataType::Int64)?;
    Ok(arrow::array::cast::AsArray::as_primitive::<Int64Type>(&column).clone())
}

/// Group columns, whether it was emitted, then the state columns of each aggregate.
fn state_schema(grouping: &Grouping) -> Result<SchemaRef, OperatorError> {
    let mut fields: Vec<FieldRef> = Vec::new();
    for (index, field) in grouping.schema.fields().iter().enumerate() {
        if index < grouping.groups.len() {
            let name = format!("group_{index}");
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        }
    }
    fields.push(Arc::new(Field::new("emitted", DataType::Boolean, false)));
    for (index, kernel) in grouping.aggregates.iter().enumerate() {
        for (part, field) in kernel.function.state_fields()?.iter().enumerate() {
            let name = format!("state_{index}_{part}");
            fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn accumulator(
    function: &Arc<AggregateFunctionExpr>,
) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
    if function.groups_accumulator_supported() {
        return function.create_groups_accumulator();
    }
    let function = Arc::clone(function);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
        function.create_accumulator()
    })))
}

fn merge_rested(
    accumulator: &mut dyn GroupsAccumulator,
    rested: &[(usize, &Group)],
    first_column: usize,
    width: usize,
    groups: usize,
) -> Result<(), DataFusionError> {
    if rested.is_empty() {
        return Ok(());
    }
    let indices: Vec<usize> = rested.iter().map(|(index, _)| *index).collect();
    let columns = (first_column..first_column + width)
        .map(|column| {
            let values = rested.iter().map(|(_, group)| group.state[column].clone());
            ScalarValue::iter_to_array(values)
        })
        .collect::<Result<Vec<_>, _>>()?;
    accumulator.merge_batch(&columns, &indices, None, groups)
}

fn update(
    accumulator: &mut dyn GroupsAccumulator,
    kernel: &Kernel,
    rows: &RecordBatch,
    group_indices: &[usize],
    groups: usize,
) -> Result<(), DataFusionError> {
    let count = rows.num_rows();
    let order = kernel.function.order_bys().iter();
    let arguments = kernel
        .function
        .expressions()
        .into_iter()
        .chain(order.map(|sort| Arc::clone(&sort.expr)))
        .map(|argument| argument.evaluate(rows)?.into_array(count))
        .collect::<Result<Vec<_>, _>>()?;
    let filter = match &kernel.filter {
        Some(filter) => Some(filter.evaluate(rows)?.into_array(count)?),
        None => None,
    };
    let filter = filter
        .as_ref()
        .map(|mask| as_boolean_array(mask))
        .transpose()?;
    accumulator.update_batch(&arguments, group_indices, filter, groups)
}

fn group_bytes(key: &Key, state: &[ScalarValue]) -> usize {
    let values: usize = state.iter().map(ScalarValue::size).sum();
    GROUP_BYTES + 2 * key.len() + values
}

/// The message key of each group: its columns as the text of a JSON array.
fn message_keys(groups: &RecordBatch) -> Result<Vec<Bytes>, OperatorError> {
    let options = arrow::json::writer::EncoderOptions::default();
    let schema = groups.schema();
    let mut columns = schema
        .fields()
        .iter()
        .zip(groups.columns())
        .map(|(field, column)| arrow::json::writer::make_encoder(field, column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut keys = Vec::with_capacity(groups.num_rows());
    for row in 0..groups.num_rows() {
        let mut text = vec![b'['];
        for (index, column) in columns.iter_mut().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            if column.is_null(row) {
                text.extend_from_slice(b"null");
            } else {
                column.encode(row, &mut text);
            }
        }
        text.push(b']');
        keys.push(Bytes::from(text));
    }
    Ok(keys)
}
