//! Aggregates over sessions: rows of a key that follow each other within a gap.
//!
//! Columns as in [`crate::operator::group`]. A session goes from its first row to the gap after its
//! last; a row that comes at most the gap before or after it makes it longer, and may make two of them
//! one. Updating: at the end of an epoch, or at the beats of store time, one row per session that changed, in
//! the order (key, start), and a deletion for each that is out and has other bounds now. On close: each session
//! once, when the watermark reaches its end, in the order (end, key); or then first, and again when late rows
//! change it.
//!
//! The rows of a tick enter together: a row is late when the session that it and its tick would make is
//! over already. A row whose time is NULL belongs to no session and is passed over here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use bytes::Bytes;
use millpond_proto::limits::JOB_STATE_BYTES_MAX;
use millpond_proto::time::Timestamp;

use crate::operator::beat::Beat;
use crate::operator::group::{Emit, Grouping, Groups, Unit, group_bytes, known};
use crate::operator::kernel::{State, accumulate, state_at, state_columns};
use crate::operator::key::{Key, from_time, key_at, split_key};
use crate::operator::place::Place;
use crate::operator::{Emission, Keys, Late, LateTime, Operator, OperatorError, Output};

/// The operator.
#[derive(Debug)]
pub struct Session {
    groups: Groups,
    gap_ms: i64,
    state_schema: SchemaRef,
    /// By key and time of the first row.
    sessions: BTreeMap<Key, Open>,
    /// Sessions by their end.
    by_end: BTreeSet<(i64, Key)>,
    /// Sessions that changed and did not leave yet.
    touched: BTreeSet<Key>,
    beat: Option<Beat>,
    /// The tick at hand.
    now_ms: i64,
    /// Sessions that end up to here are over.
    closed_to_ms: i64,
    state_bytes: usize,
    state_bytes_max: usize,
}

/// A session that may still grow.
#[derive(Debug)]
struct Open {
    /// Time of its last row.
    last_ms: i64,
    state: State,
    /// Message keys that are out: its own, and those of sessions that became a part of it.
    emitted: BTreeSet<Bytes>,
}

/// Between the message keys of a session in its saved state: they are texts of JSON, which hold no line ends.
const BETWEEN_KEYS: u8 = b'\n';

/// What becomes one session: rows of the tick and sessions that were there.
struct Cluster {
    row: Vec<u8>,
    first_ms: i64,
    last_ms: i64,
    rows: Vec<usize>,
    absorbed: Vec<Key>,
}

impl Session {
    /// An operator without any session yet.
    ///
    /// # Errors
    /// [`OperatorError::Compute`] when a group column's type can not be a key.
    pub fn new(grouping: Grouping, gap_ms: i64) -> Result<Self, OperatorError> {
        let groups = Groups::new(grouping)?;
        let mut fields = groups.key_fields();
        fields.push(Arc::new(Field::new("first_ms", DataType::Int64, false)));
        fields.push(Arc::new(Field::new("last_ms", DataType::Int64, false)));
        fields.push(Arc::new(Field::new("emitted", DataType::Binary, true)));
        let beat = groups.grouping.emit.beat();
        if beat.is_some() {
            fields.push(Arc::new(Field::new("due_ms", DataType::Int64, true)));
        }
        fields.extend(groups.state_fields().iter().map(Arc::clone));
        Ok(Self {
            groups,
            gap_ms,
            state_schema: Arc::new(Schema::new(fields)),
            sessions: BTreeMap::new(),
            by_end: BTreeSet::new(),
            touched: BTreeSet::new(),
            beat,
            now_ms: 0,
            closed_to_ms: i64::MIN,
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

    fn end_of(&self, last_ms: i64) -> i64 {
        last_ms.saturating_add(self.gap_ms)
    }

    /// The sessions that the rows of a key make, together with those that are there.
    fn clusters(&self, row: &[u8], mut times: Vec<(i64, usize)>) -> Vec<Cluster> {
        times.sort_unstable();
        let mut clusters: Vec<Cluster> = Vec::new();
        for (at_ms, index) in times {
            match clusters.last_mut() {
                Some(last) if at_ms <= self.end_of(last.last_ms) => {
                    last.last_ms = last.last_ms.max(at_ms);
                    last.rows.push(index);
                }
                _ => clusters.push(Cluster {
                    row: row.to_vec(),
                    first_ms: at_ms,
                    last_ms: at_ms,
                    rows: vec![index],
                    absorbed: Vec::new(),
                }),
            }
            // Sessions are disjoint, so what this row reaches are neighbours in order.
            let cluster = clusters.last_mut().expect("one was just there");
            self.absorb(cluster);
        }
        clusters
    }

    /// Takes in every session that the cluster reaches.
    fn absorb(&self, cluster: &mut Cluster) {
        let reach =
            key_at(&cluster.row, i64::MIN)..=key_at(&cluster.row, self.end_of(cluster.last_ms));
        // The next session after the last one taken in may be within reach by its length now.
        for (key, open) in self.sessions.range(reach).rev() {
            let (_, first_ms) = split_key(key);
            if self.end_of(open.last_ms) < cluster.first_ms {
                break;
            }
            if !cluster.absorbed.contains(key) {
                cluster.absorbed.push(Arc::clone(key));
                cluster.first_ms = cluster.first_ms.min(first_ms);
                cluster.last_ms = cluster.last_ms.max(open.last_ms);
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Open> {
        let open = self.sessions.remove(key)?;
        self.by_end
            .remove(&(self.end_of(open.last_ms), Arc::clone(key)));
        self.touched.remove(key);
        self.state_bytes -= group_bytes(key, &open.state);
        Some(open)
    }

    /// Adds the rows of clusters to their sessions.
    fn add(&mut self, rows: &RecordBatch, clusters: Vec<Cluster>) -> Result<(), OperatorError> {
        let mut order: Vec<(usize, usize)> = Vec::new();
        let mut taken: Vec<(usize, Open)> = Vec::new();
        for (index, cluster) in clusters.iter().enumerate() {
            order.extend(cluster.rows.iter().map(|row| (*row, index)));
            let mut absorbed = cluster.absorbed.clone();
            absorbed.sort_unstable();
            for key in absorbed {
                if let Some(open) = self.remove(&key) {
                    taken.push((index, open));
                }
            }
        }
        // Within a tick, rows enter in the order of the log.
        order.sort_unstable();
        let picked = order.iter().map(|(row, _)| u32::try_from(*row));
        let picked: UInt32Array = picked
            .map(|row| Some(row.expect("a tick has fewer rows than a u32")))
            .collect();
        let rows = take_record_batch(rows, &picked)?;
        let indices: Vec<usize> = order.into_iter().map(|(_, index)| index).collect();
        let rested: Vec<(usize, &State)> = taken
            .iter()
            .map(|(index, open)| (*index, &open.state))
            .collect();
        let kernels = &self.groups.grouping.aggregates;
        let states = accumulate(kernels, &rested, &rows, &indices, clusters.len())?;
        let mut emitted = vec![BTreeSet::new(); clusters.len()];
        for (index, open) in taken {
            emitted[index].extend(open.emitted);
        }
        let emit = self.emit_mode();
        for ((cluster, state), emitted) in clusters.into_iter().zip(states).zip(emitted) {
            let key = key_at(&cluster.row, cluster.first_ms);
            self.state_bytes += group_bytes(&key, &state);
            let end_ms = self.end_of(cluster.last_ms);
            self.by_end.insert((end_ms, Arc::clone(&key)));
            // A session that is not over yet leaves when it is, whether it changed or not.
            let waits = emit.waits_for_close() && end_ms > self.closed_to_ms;
            if !emit.is_on_close() && !waits {
                self.touched.insert(Arc::clone(&key));
                if let Some(beat) = &mut self.beat {
                    beat.changed(self.now_ms);
                }
            }
            let open = Open {
                last_ms: cluster.last_ms,
                state,
                emitted,
            };
            self.sessions.insert(key, open);
        }
        if self.state_bytes > self.state_bytes_max {
            return Err(OperatorError::StateTooLarge {
                size_bytes: self.state_bytes,
                limit_bytes: self.state_bytes_max,
            });
        }
        Ok(())
    }

    /// Emits sessions; what is out with other bounds, or is refused by HAVING now, is deleted.
    ///
    /// They stand in the order of their keys, or of their ends.
    fn emit(&mut self, keys: &[Key], by_end: bool, out: &mut Output) -> Result<(), OperatorError> {
        if keys.is_empty() {
            return Ok(());
        }
        let units: Vec<Unit<'_>> = keys
            .iter()
            .map(|key| {
                let (row, start_ms) = split_key(key);
                let end_ms = self.end_of(self.sessions[key].last_ms);
                Unit {
                    row,
                    start_ms,
                    end_ms,
                }
            })
            .collect();
        let rested = keys.iter().map(|key| &self.sessions[key].state);
        let rested: Vec<(usize, &State)> = rested.enumerate().collect();
        let finished = self.groups.finish(&units, &rested)?;
        let (mut messages, mut places) = (Vec::with_capacity(keys.len()), Vec::new());
        let mut deleted: BTreeSet<Bytes> = BTreeSet::new();
        for (index, message) in finished.messages.into_iter().enumerate() {
            let key = &keys[index];
            let open = self.sessions.get_mut(key).expect("it was just evaluated");
            deleted.append(&mut open.emitted);
            if finished.passes[index] {
                open.emitted.insert(message.clone());
                messages.push(message);
                places.push(match by_end {
                    true => {
                        let end_ms = self.end_of(self.sessions[key].last_ms);
                        Place::Own(from_time(end_ms, &[key]))
                    }
                    false => Place::Own(Arc::clone(key)),
                });
            }
        }
        for message in &messages {
            deleted.remove(message);
        }
        if !messages.is_empty() || !deleted.is_empty() {
            out.emissions.push(Emission {
                rows: finished.rows,
                keys: Keys::Group(messages),
                places,
                deleted: deleted.into_iter().collect(),
            });
        }
        Ok(())
    }

    /// The sessions that are over now and were not before, and leave for that.
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
}

impl Operator for Session {
    fn on_batch(
        &mut self,
        batch: &RecordBatch,
        watermark: Option<Timestamp>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let arrived = self.groups.arrive(batch)?;
        let Some(at) = &arrived.slices_ms else {
            return Ok(());
        };
        let mut by_key: BTreeMap<&[u8], Vec<(i64, usize)>> = BTreeMap::new();
        for (row, at_ms) in known(at) {
            by_key
                .entry(arrived.keys.row(row))
                .or_default()
                .push((at_ms, row));
        }
        let mut clusters = Vec::new();
        let mut late: Vec<Late> = Vec::new();
        let emit = self.emit_mode();
        for (row, times) in by_key {
            for cluster in self.clusters(row, times) {
                let end_ms = self.end_of(cluster.last_ms);
                let reason = watermark.and_then(|at| Some((emit.lateness(end_ms, at)?, at)));
                let Some((reason, watermark)) = reason else {
                    clusters.push(cluster);
                    continue;
                };
                late.extend(cluster.rows.iter().map(|row| Late {
                    row: arrived.origin[*row],
                    reason,
                    time: LateTime::Window {
                        start: Timestamp(cluster.first_ms),
                        end: Timestamp(end_ms),
                    },
                    watermark,
                }));
            }
        }
        late.sort_by_key(|late| late.row);
        out.late.extend(late);
        if clusters.is_empty() {
            return Ok(());
        }
        self.add(&arrived.rows, clusters)
    }

    fn on_watermark(
        &mut self,
        watermark: Timestamp,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let emit = self.emit_mode();
        let over_to_ms = emit.over_to_ms(watermark);
        let ended = self.by_end.iter().take_while(|(end, _)| *end <= over_to_ms);
        let over: Vec<Key> = ended.map(|(_, key)| Arc::clone(key)).collect();
        let mut emitted = self.closing(watermark);
        let changed = over
            .iter()
            .filter(|key| emit.is_on_close() || self.touched.contains(*key));
        emitted.extend(changed.map(Arc::clone));
        self.emit(&emitted, true, out)?;
        for key in &over {
            self.remove(key);
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

    fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        let waits = self.beat.is_some() || self.touched.is_empty();
        assert!(waits, "state is saved between epochs");
        if self.sessions.is_empty() {
            return Ok(Some(RecordBatch::new_empty(Arc::clone(&self.state_schema))));
        }
        let keys = self.sessions.keys();
        let mut columns = self
            .groups
            .keys()
            .decode(keys.clone().map(|key| split_key(key).0))?;
        let first_ms = keys.map(|key| split_key(key).1);
        columns.push(Arc::new(Int64Array::from_iter_values(first_ms)));
        let open = self.sessions.values();
        let last_ms = open.clone().map(|open| open.last_ms);
        columns.push(Arc::new(Int64Array::from_iter_values(last_ms)));
        let emitted = open.clone().map(|open| {
            let keys: Vec<&[u8]> = open.emitted.iter().map(AsRef::as_ref).collect();
            (!keys.is_empty()).then(|| keys.join(&BETWEEN_KEYS))
        });
        columns.push(Arc::new(emitted.collect::<arrow::array::BinaryArray>()));
        if let Some(beat) = self.beat {
            let due_ms = beat.due().map(|due| due.as_ms());
            let keys = self.sessions.keys();
            let due_ms = keys.map(|key| due_ms.filter(|_| self.touched.contains(key)));
            columns.push(Arc::new(due_ms.collect::<Int64Array>()));
        }
        let states = open.map(|open| &open.state);
        columns.extend(state_columns(states, self.groups.state_fields())?);
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
        assert!(self.sessions.is_empty(), "state is restored before any row");
        if state.schema().fields() != self.state_schema.fields() {
            return Err(OperatorError::OtherState {
                detail: "its columns differ".to_owned(),
            });
        }
        let columns: &[ArrayRef] = state.columns();
        let states = columns.len() - self.groups.state_fields().len();
        let width = states - 3 - usize::from(self.beat.is_some());
        self.closed_to_ms = watermark.map_or(i64::MIN, Timestamp::as_ms);
        let encoded = self.groups.keys().encode(&columns[..width])?;
        let first_ms = columns[width].as_primitive::<Int64Type>();
        let last_ms = columns[width + 1].as_primitive::<Int64Type>();
        let emitted = columns[width + 2].as_binary::<i32>();
        for row in 0..state.num_rows() {
            let key = key_at(encoded.row(row), first_ms.value(row));
            let open = Open {
                last_ms: last_ms.value(row),
                state: state_at(&columns[states..], row)?,
                emitted: match emitted.is_valid(row) {
                    true => {
                        let keys = emitted.value(row).split(|byte| *byte == BETWEEN_KEYS);
                        keys.map(Bytes::copy_from_slice).collect()
                    }
                    false => BTreeSet::new(),
                },
            };
            if let Some(beat) = &mut self.beat {
                let due_ms = columns[width + 3].as_primitive::<Int64Type>();
                if due_ms.is_valid(row) {
                    beat.resume(due_ms.value(row));
                    self.touched.insert(Arc::clone(&key));
                }
            }
            self.state_bytes += group_bytes(&key, &open.state);
            let end_ms = self.end_of(open.last_ms);
            self.by_end.insert((end_ms, Arc::clone(&key)));
            self.sessions.insert(key, open);
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn state_key_columns(&self) -> usize {
        self.groups.key_fields().len()
    }
}
