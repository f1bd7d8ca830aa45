//! Aggregates over sessions: rows of a key that follow each other within a gap.
//!
//! Columns as in [`crate::operator::group`]. A session goes from its first row to the gap after its
//! last; a row that comes at most the gap before or after it makes it longer, and may make two of them
//! one. Updating: at the end of an epoch, one row per session that changed, in the order (key, start),
//! and a deletion for each that is out and has other bounds now. On close: each session once, when the
//! watermark reaches its end, in the order (end, key).
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

use crate::operator::group::{Emit, Grouping, Groups, Unit, group_bytes, known};
use crate::operator::kernel::{State, accumulate, state_at, state_columns};
use crate::operator::key::{Key, from_time, key_at, split_key};
use crate::operator::{Emission, Keys, Late, Operator, OperatorError, Output};

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
    /// Sessions that changed in this epoch.
    touched: BTreeSet<Key>,
    /// Message keys that are out, of sessions that are no more.
    retired: BTreeSet<Bytes>,
    state_bytes: usize,
    state_bytes_max: usize,
}

/// A session that may still grow.
#[derive(Debug)]
struct Open {
    /// Time of its last row.
    last_ms: i64,
    state: State,
    /// Its message key, if it is out with these bounds.
    emitted: Option<Bytes>,
}

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
        fields.extend(groups.state_fields().iter().map(Arc::clone));
        Ok(Self {
            groups,
            gap_ms,
            state_schema: Arc::new(Schema::new(fields)),
            sessions: BTreeMap::new(),
            by_end: BTreeSet::new(),
            touched: BTreeSet::new(),
            retired: BTreeSet::new(),
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
                let Some(mut open) = self.remove(&key) else {
                    continue;
                };
                self.retired.extend(open.emitted.take());
                taken.push((index, open));
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
        for (cluster, state) in clusters.into_iter().zip(states) {
            let key = key_at(&cluster.row, cluster.first_ms);
            self.state_bytes += group_bytes(&key, &state);
            let end_ms = self.end_of(cluster.last_ms);
            self.by_end.insert((end_ms, Arc::clone(&key)));
            if !self.emit_mode().is_on_close() {
                self.touched.insert(Arc::clone(&key));
            }
            let open = Open {
                last_ms: cluster.last_ms,
                state,
                emitted: None,
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
        for (index, message) in finished.messages.into_iter().enumerate() {
            if !finished.passes[index] {
                continue;
            }
            let key = &keys[index];
            self.retired.remove(&message);
            let open = self.sessions.get_mut(key).expect("it was just evaluated");
            open.emitted = Some(message.clone());
            messages.push(message);
            places.push(match by_end {
                true => from_time(self.end_of(self.sessions[key].last_ms), &[key]),
                false => Arc::clone(key),
            });
        }
        if finished.rows.num_rows() > 0 {
            out.emissions.push(Emission {
                rows: finished.rows,
                keys: Keys::Group(messages),
                places,
                deleted: Vec::new(),
            });
        }
        Ok(())
    }

    fn delete_retired(&mut self, out: &mut Output) {
        let deleted: Vec<Bytes> = std::mem::take(&mut self.retired).into_iter().collect();
        if !deleted.is_empty() {
            out.emissions.push(Emission {
                rows: RecordBatch::new_empty(self.groups.grouping.output.schema()),
                keys: Keys::Group(Vec::new()),
                places: Vec::new(),
                deleted,
            });
        }
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
                    window_start: Timestamp(cluster.first_ms),
                    window_end: Timestamp(end_ms),
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
        let emitted: Vec<Key> = over
            .iter()
            .filter(|key| emit.is_on_close() || self.touched.contains(*key))
            .map(Arc::clone)
            .collect();
        self.emit(&emitted, true, out)?;
        for key in &over {
            self.remove(key);
        }
        Ok(())
    }

    fn on_barrier(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let touched: Vec<Key> = std::mem::take(&mut self.touched).into_iter().collect();
        self.emit(&touched, false, out)?;
        self.delete_retired(out);
        Ok(())
    }

    fn schema(&self) -> SchemaRef {
        self.groups.grouping.output.schema()
    }

    fn save(&self) -> Result<Option<RecordBatch>, OperatorError> {
        assert!(self.touched.is_empty(), "state is saved between epochs");
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
        let emitted = open.clone().map(|open| open.emitted.as_deref());
        columns.push(Arc::new(emitted.collect::<arrow::array::BinaryArray>()));
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
        _watermark: Option<Timestamp>,
    ) -> Result<(), OperatorError> {
        assert!(self.sessions.is_empty(), "state is restored before any row");
        if state.schema().fields() != self.state_schema.fields() {
            return Err(OperatorError::OtherState {
                detail: "its columns differ".to_owned(),
            });
        }
        let columns: &[ArrayRef] = state.columns();
        let width = columns.len() - self.groups.state_fields().len() - 3;
        let encoded = self.groups.keys().encode(&columns[..width])?;
        let first_ms = columns[width].as_primitive::<Int64Type>();
        let last_ms = columns[width + 1].as_primitive::<Int64Type>();
        let emitted = columns[width + 2].as_binary::<i32>();
        for row in 0..state.num_rows() {
            let key = key_at(encoded.row(row), first_ms.value(row));
            let open = Open {
                last_ms: last_ms.value(row),
                state: state_at(&columns[width + 3..], row)?,
                emitted: emitted
                    .is_valid(row)
                    .then(|| Bytes::copy_from_slice(emitted.value(row))),
            };
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
