//! Aggregates over groups, most often the groups of windows that are told beforehand.
//!
//! Columns as in [`crate::operator::group`]. Updating: at the end of an epoch, one row per group that
//! changed, in the order of the group's key, and a deletion for a group that HAVING now refuses; or that
//! at the beats of store time instead. On close: each group once, when the watermark reaches the end of its
//! window, in the order (window end, key); or then first, and again whenever late rows change it.
//!
//! The state holds slices, see [`crate::operator::assign`]: a row is added once, however many windows it
//! belongs to, and a window is put together when it is emitted. A row is late when the last of its
//! windows is over; a window that was emitted on close does not change when a row still comes for a
//! later one. A row whose time is NULL belongs to no window and is passed over here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_boolean_array;
use millpond_proto::limits::JOB_STATE_BYTES_MAX;
use millpond_proto::time::Timestamp;

use crate::operator::assign::Windows;
use crate::operator::beat::Beat;
use crate::operator::group::{Emit, Grouping, Groups, Unit, group_bytes};
use crate::operator::hash::Fixed;
use crate::operator::kernel::{State, accumulate, state_at, state_columns};
use crate::operator::key::{Key, from_time, key_at, split_key};
use crate::operator::partial::Partial;
use crate::operator::place::Place;
use crate::operator::{Emission, Keys, Operator, OperatorError, Output};

/// The operator.
#[derive(Debug)]
pub struct Window {
    groups: Arc<Groups>,
    state_schema: SchemaRef,
    /// By key and start of the slice; 0 without windows.
    slices: BTreeMap<Key, State>,
    /// Windows that have rows, by their end.
    by_end: BTreeSet<(i64, Key)>,
    /// Key and window end of what changed and did not leave yet.
    touched: BTreeSet<Key>,
    beat: Option<Beat>,
    /// The tick at hand.
    now_ms: i64,
    /// Windows that end up to here are over.
    closed_to_ms: i64,
    /// Key and window end of what is out; kept only where HAVING may take it back.
    emitted: BTreeSet<Key>,
    state_bytes: usize,
    state_bytes_max: usize,
}

impl Window {
    /// An operator without any group yet.
    ///
    /// # Errors
    /// [`OperatorError::Compute`] when a group column's type can not be a key.
    pub fn new(grouping: Grouping) -> Result<Self, OperatorError> {
        let groups = Groups::new(grouping)?;
        let mut fields = groups.key_fields();
        fields.push(Arc::new(Field::new("at_ms", DataType::Int64, false)));
        fields.push(Arc::new(Field::new("emitted", DataType::Boolean, false)));
        let beat = groups.grouping.emit.beat();
        if beat.is_some() {
            fields.push(Arc::new(Field::new("due_ms", DataType::Int64, true)));
        }
        fields.extend(groups.state_fields().iter().map(Arc::clone));
        Ok(Self {
            groups: Arc::new(groups),
            state_schema: Arc::new(Schema::new(fields)),
            slices: BTreeMap::new(),
            by_end: BTreeSet::new(),
            touched: BTreeSet::new(),
            beat,
            now_ms: 0,
            closed_to_ms: i64::MIN,
            emitted: BTreeSet::new(),
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

    fn emit_mode(&self) -> Emit {
        self.groups.grouping.emit
    }

    fn windows(&self) -> Option<Windows> {
        let window = self.groups.grouping.window.as_ref();
        window.map(|window| window.kind)
    }

    fn takes_back(&self) -> bool {
        !self.emit_mode().is_on_close() && self.groups.grouping.output.filters()
    }

    /// Adds rows to slices, `indices` tells the slice of each; then what was added up apart, with its slice.
    fn add(
        &mut self,
        rows: &RecordBatch,
        keys: &[Key],
        indices: &[usize],
        partials: &[(usize, &State)],
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        let known = keys.iter().enumerate();
        let mut rested: Vec<(usize, &State)> = known
            .filter_map(|(index, key)| Some((index, self.slices.get(key)?)))
            .collect();
        rested.extend(partials);
        let kernels = &self.groups.grouping.aggregates;
        let states = accumulate(kernels, &rested, rows, indices, keys.len())?;
        for (key, state) in keys.iter().zip(states) {
            self.state_bytes += group_bytes(key, &state);
            match self.slices.insert(Arc::clone(key), state) {
                Some(before) => self.state_bytes -= group_bytes(key, &before),
                None => self.expect_windows(key, watermark),
            }
            self.touch(key, watermark);
        }
        if self.state_bytes > self.state_bytes_max {
            return Err(OperatorError::StateTooLarge {
                size_bytes: self.state_bytes,
                limit_bytes: self.state_bytes_max,
            });
        }
        Ok(())
    }

    /// Ends of the windows of a slice that are not over.
    fn open_ends(&self, slice_ms: i64, watermark: Option<Timestamp>) -> Vec<i64> {
        let Some(kind) = self.windows() else {
            return vec![0];
        };
        let emit = self.emit_mode();
        let is_open = |end: &i64| watermark.is_none_or(|at| emit.lateness(*end, at).is_none());
        kind.ends_of(slice_ms).filter(is_open).collect()
    }

    fn expect_windows(&mut self, slice: &Key, watermark: Option<Timestamp>) {
        if self.windows().is_none() {
            return;
        }
        let (row, slice_ms) = split_key(slice);
        for end in self.open_ends(slice_ms, watermark) {
            self.by_end.insert((end, key_at(row, end)));
        }
    }

    fn touch(&mut self, slice: &Key, watermark: Option<Timestamp>) {
        let emit = self.emit_mode();
        if emit.is_on_close() {
            return;
        }
        let (row, slice_ms) = split_key(slice);
        for end in self.open_ends(slice_ms, watermark) {
            // A window that is not over yet leaves when it is, whether it changed or not.
            if emit.waits_for_close() && end > self.closed_to_ms {
                continue;
            }
            self.touched.insert(key_at(row, end));
            if let Some(beat) = &mut self.beat {
                beat.changed(self.now_ms);
            }
        }
    }

    /// The windows that are over now and were not before, and leave for that.
    fn closing(&mut self, watermark: Timestamp) -> Vec<Key> {
        let emit = self.emit_mode();
        let ends = std::mem::replace(&mut self.closed_to_ms, watermark.as_ms());
        if !emit.waits_for_close() && !emit.fires_on_close() {
            return Vec::new();
        }
        let from = |end_ms: i64| (end_ms.saturating_add(1), key_at(&[], i64::MIN));
        let closing = self.by_end.range(from(ends)..from(watermark.as_ms()));
        let closing = closing.map(|(_, key)| Arc::clone(key));
        match emit.waits_for_close() {
            true => closing.collect(),
            false => closing.filter(|key| self.touched.remove(key)).collect(),
        }
    }

    fn emit_touched(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let touched: Vec<Key> = std::mem::take(&mut self.touched).into_iter().collect();
        self.emit(&touched, false, out)
    }

    /// Emits windows, told by key and end; what HAVING refuses is deleted if a row of it is out.
    ///
    /// They stand in the order of their keys, or of their ends.
    fn emit(
        &mut self,
        windows: &[Key],
        by_end: bool,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        if windows.is_empty() {
            return Ok(());
        }
        let kind = self.windows();
        let mut units = Vec::with_capacity(windows.len());
        let mut rested = Vec::with_capacity(windows.len());
        for (index, key) in windows.iter().enumerate() {
            let (row, end_ms) = split_key(key);
            let range = match kind {
                Some(kind) => kind.window_to(end_ms),
                None => 0..1,
            };
            let last = match kind {
                // Whole windows may overlap where a query computes with their bounds.
                Some(Windows::Tumble { .. }) => range.start.saturating_add(1),
                _ => range.end,
            };
            let slices = key_at(row, range.start)..key_at(row, last);
            let states = self.slices.range(slices).map(|(_, state)| (index, state));
            rested.extend(states);
            units.push(Unit {
                row,
                start_ms: range.start,
                end_ms,
            });
        }
        let finished = self.groups.finish(&units, &rested)?;
        let (mut keys, mut places) = (Vec::with_capacity(windows.len()), Vec::new());
        let mut deleted = Vec::new();
        let takes_back = self.takes_back();
        for ((key, passes), message) in windows.iter().zip(finished.passes).zip(finished.messages) {
            if passes {
                keys.push(message);
                places.push(match by_end {
                    true => Place::Own(from_time(split_key(key).1, &[key])),
                    false => Place::Own(Arc::clone(key)),
                });
                if takes_back {
                    self.emitted.insert(Arc::clone(key));
                }
            } else if self.emitted.remove(key) {
                deleted.push(message);
            }
        }
        if finished.rows.num_rows() > 0 || !deleted.is_empty() {
            out.emissions.push(Emission {
                rows: finished.rows,
                keys: Keys::Group(keys),
                places,
                deleted,
            });
        }
        Ok(())
    }

    /// Takes windows that end before or at `end_ms` out of `by_end`, in order.
    fn take_ended(&mut self, end_ms: i64) -> Vec<Key> {
        let mut ended = Vec::new();
        while self.by_end.first().is_some_and(|(end, _)| *end <= end_ms) {
            let (_, key) = self.by_end.pop_first().expect("it was just looked at");
            ended.push(key);
        }
        ended
    }

    /// Forgets a window, and its slices that no later window needs.
    fn forget(&mut self, window: &Key) {
        self.touched.remove(window);
        self.emitted.remove(window);
        let Some(kind) = self.windows() else { return };
        let (row, end_ms) = split_key(window);
        let range = kind.window_to(end_ms);
        let over: Vec<Key> = self
            .slices
            .range(key_at(row, range.start)..key_at(row, range.end))
            .map(|(key, _)| Arc::clone(key))
            .filter(|key| kind.last_end_of(split_key(key).1) <= end_ms)
            .collect();
        for key in over {
            if let Some(state) = self.slices.remove(&key) {
                self.state_bytes -= group_bytes(&key, &state);
            }
        }
    }
}

impl Operator for Window {
    fn on_batch(
        &mut self,
        batch: &RecordBatch,
        watermark: Option<Timestamp>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let mut sorted = self.groups.sorted(batch, watermark)?;
        out.late.append(&mut sorted.late);
        if sorted.keys.is_empty() {
            return Ok(());
        }
        self.add(&sorted.rows, &sorted.keys, &sorted.indices, &[], watermark)
    }

    fn adder(&self) -> Option<Arc<Groups>> {
        self.groups.adds_up().then(|| Arc::clone(&self.groups))
    }

    fn on_partials(
        &mut self,
        partials: &[Partial],
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        let mut keys: Vec<Key> = Vec::new();
        let mut states = Vec::new();
        let mut places: HashMap<&[u8], usize, Fixed> = HashMap::default();
        for partial in partials {
            for (key, state) in partial.keys.iter().zip(&partial.states) {
                let place = *places.entry(key).or_insert_with(|| {
                    keys.push(Arc::clone(key));
                    keys.len() - 1
                });
                states.push((place, state));
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        let none = RecordBatch::new_empty(self.groups.grouping.input.schema());
        self.add(&none, &keys, &[], &states, watermark)
    }

    fn on_watermark(
        &mut self,
        watermark: Timestamp,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let emit = self.emit_mode();
        let mut emitted = self.closing(watermark);
        let over = self.take_ended(emit.over_to_ms(watermark));
        match emit {
            Emit::OnClose { .. } => emitted.clone_from(&over),
            Emit::Changes { .. } => {
                let changed = over.iter().filter(|key| self.touched.contains(*key));
                emitted.extend(changed.map(Arc::clone));
            }
        }
        self.emit(&emitted, true, out)?;
        for key in &over {
            self.forget(key);
        }
        Ok(())
    }

    fn on_time(&mut self, now: Timestamp, out: &mut Output) -> Result<(), OperatorError> {
        self.now_ms = now.as_ms();
        let is_over = self.beat.as_mut().is_some_and(|beat| beat.is_over(now));
        if is_over {
            self.emit_touched(out)
        } else {
            Ok(())
        }
    }

    fn due(&self) -> Option<Timestamp> {
        let beat = self.beat.filter(|_| !self.touched.is_empty());
        beat.and_then(|beat| beat.due())
    }

    fn on_barrier(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        match self.beat {
            Some(_) => Ok(()),
            None => self.emit_touched(out),
        }
    }

    fn schema(&self) -> SchemaRef {
        self.groups.grouping.output.schema()
    }

    /// One row per slice, one per window that is out and may be taken back, and one per window that waits for a beat.
    fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        let waits = self.beat.is_some() || self.touched.is_empty();
        assert!(waits, "state is saved between epochs");
        let told = self.slices.len() + self.emitted.len();
        let count = told + self.touched.len();
        if count == 0 {
            return Ok(Some(RecordBatch::new_empty(Arc::clone(&self.state_schema))));
        }
        let all = || self.slices.keys().chain(&self.emitted).chain(&self.touched);
        let keys = self.groups.keys();
        let mut columns = keys.decode(all().map(|key| split_key(key).0))?;
        let at_ms = all().map(|key| split_key(key).1);
        columns.push(Arc::new(Int64Array::from_iter_values(at_ms)));
        let emitted = (0..count).map(|row| Some(row >= self.slices.len() && row < told));
        columns.push(Arc::new(BooleanArray::from_iter(emitted)));
        if let Some(beat) = self.beat {
            let due_ms = beat.due().map(|due| due.as_ms());
            let due_ms = (0..count).map(|row| due_ms.filter(|_| row >= told));
            columns.push(Arc::new(Int64Array::from_iter(due_ms)));
        }
        let fields = self.groups.state_fields();
        let none = empty_state(fields)?;
        let none = std::iter::repeat_n(&none, count - self.slices.len());
        let states = self.slices.values().chain(none);
        columns.extend(state_columns(states, fields)?);
        Ok(Some(RecordBatch::try_new(
            Arc::clone(&self.state_schema),
            columns,
        )?))
    }

    fn restore(
        &mut self,
        state: &RecordBatch,
        watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        assert!(self.slices.is_empty(), "state is restored before any row");
        if state.schema().fields() != self.state_schema.fields() {
            return Err(OperatorError::OtherState {
                detail: "its columns differ".to_owned(),
            });
        }
        let columns: &[ArrayRef] = state.columns();
        let states = columns.len() - self.groups.state_fields().len();
        let width = states - 2 - usize::from(self.beat.is_some());
        self.closed_to_ms = watermark.map_or(i64::MIN, Timestamp::as_ms);
        let encoded = self.groups.keys().encode(&columns[..width])?;
        let at_ms = arrow::array::AsArray::as_primitive::<Int64Type>(&columns[width]);
        let emitted = as_boolean_array(&columns[width + 1])?;
        let due_ms = (self.beat.is_some())
            .then(|| arrow::array::AsArray::as_primitive::<Int64Type>(&columns[width + 2]));
        for row in 0..state.num_rows() {
            let key = key_at(encoded.row(row), at_ms.value(row));
            if emitted.value(row) {
                self.emitted.insert(key);
                continue;
            }
            if let (Some(due_ms), Some(beat)) = (due_ms, &mut self.beat)
                && due_ms.is_valid(row)
            {
                beat.resume(due_ms.value(row));
                self.touched.insert(key);
                continue;
            }
            let values = state_at(&columns[states..], row)?;
            self.state_bytes += group_bytes(&key, &values);
            self.expect_windows(&key, watermark);
            self.slices.insert(key, values);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn state_key_columns(&self) -> usize {
        self.groups.key_fields().len()
    }

    fn rests(&self) -> bool {
        self.windows().is_none() && self.beat.is_none()
    }

    fn clear(&mut self) {
        assert!(self.touched.is_empty(), "what changed has left");
        self.slices = BTreeMap::new();
        self.emitted = BTreeSet::new();
        self.state_bytes = 0;
    }
}

fn empty_state(fields: &[FieldRef]) -> Result<State, OperatorError> {
    let mut state = State::new();
    for field in fields {
        state.push(ScalarValue::try_from(field.data_type())?);
    }
    Ok(state)
}
