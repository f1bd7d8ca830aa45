//! Rows with the bounds of their sessions, for a query that is no chain: rows come and go, and with them what their sessions are.
//!
//! Input: any rows with weights. Output: the same columns, then start and end of the row's session. When a session grows, shrinks,
//! falls apart or becomes one with another, its rows go with the old bounds and come with the new ones; so whatever is above
//! needs to know nothing of sessions. A row whose time is NULL belongs to none and is left out.
//!
//! The rows of a step enter together: a row is late when the session that it and its step would make is over already. What is over
//! is forgotten, and what was given of it stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec};
use crate::operator::key::{Keys, milliseconds};
use crate::operator::moment::{Horizon, LateRow, Moment};

/// Whose sessions are found, and how.
#[derive(Clone, Debug)]
pub(crate) struct SessionRowsSpec {
    pub(crate) time: Arc<dyn PhysicalExpr>,
    /// The columns that each have sessions of their own.
    pub(crate) keys: Vec<usize>,
    pub(crate) gap_ms: i64,
    /// Sessions that end up to here are over.
    pub(crate) horizon: Horizon,
    pub(crate) input: SchemaRef,
    /// The input's columns and the two bounds.
    pub(crate) schema: SchemaRef,
}

impl PartialEq for SessionRowsSpec {
    fn eq(&self, other: &Self) -> bool {
        let rest = |spec: &Self| {
            (
                spec.gap_ms,
                Arc::clone(&spec.input),
                Arc::clone(&spec.schema),
            )
        };
        self.time.as_ref() == other.time.as_ref()
            && self.keys == other.keys
            && self.horizon == other.horizon
            && rest(self) == rest(other)
    }
}

#[derive(Debug)]
pub(crate) struct SessionRows {
    spec: SessionRowsSpec,
    codec: RowCodec,
    keys: Keys,
    open: BTreeMap<Row, Own>,
    /// End, key and first time of each session.
    ends: BTreeSet<(i64, Row, i64)>,
    state_bytes: usize,
}

/// What is open of a key.
#[derive(Debug, Default)]
struct Own {
    /// By time, how often each row is there.
    rows: BTreeMap<i64, BTreeMap<Row, i64>>,
    /// The times of the last rows of sessions, by those of the first.
    sessions: BTreeMap<i64, i64>,
}

/// A row of the step.
struct Arrived {
    at_ms: i64,
    index: usize,
    row: Row,
    weight: i64,
}

/// Stretches of time, from first to last row: what arrives, and the sessions that it meets.
struct Cluster {
    first_ms: i64,
    last_ms: i64,
}

/// Rows with their bounds, and how often each comes or goes.
type Changes = BTreeMap<(Row, i64, i64), i64>;

const ROW_BYTES: usize = 128;

impl Own {
    /// The sessions that a row at a time would become a part of.
    fn met_by(&self, at_ms: i64, gap_ms: i64) -> impl Iterator<Item = (i64, i64)> {
        let before = self.sessions.range(..=at_ms).next_back();
        let before = before.filter(move |(_, last)| at_ms.saturating_sub(**last) <= gap_ms);
        let after = at_ms.saturating_add(1)..=at_ms.saturating_add(gap_ms);
        let after = self.sessions.range(after);
        before
            .into_iter()
            .chain(after)
            .map(|(first, last)| (*first, *last))
    }
}

impl SessionRows {
    pub(crate) fn new(spec: SessionRowsSpec) -> Result<Self, OperatorError> {
        let keys = spec.keys.iter();
        let kinds = keys.map(|key| spec.input.field(*key).data_type());
        Ok(Self {
            keys: Keys::new(kinds)?,
            codec: RowCodec::new(&spec.input)?,
            spec,
            open: BTreeMap::new(),
            ends: BTreeSet::new(),
            state_bytes: 0,
        })
    }

    fn end_of(&self, last_ms: i64) -> i64 {
        last_ms.saturating_add(self.spec.gap_ms)
    }

    /// The rows of a step by key, those without time left out.
    fn arrived(&self, delta: &Delta) -> Result<BTreeMap<Row, Vec<Arrived>>, OperatorError> {
        let count = delta.weights.len();
        let times = self.spec.time.evaluate(&delta.rows)?.into_array(count)?;
        let times = milliseconds(&times)?;
        let columns = self.spec.keys.iter();
        let columns: Vec<ArrayRef> = columns
            .map(|key| Arc::clone(delta.rows.column(*key)))
            .collect();
        let keys = self.keys.encode(&columns)?;
        let mut by_key: BTreeMap<Row, Vec<Arrived>> = BTreeMap::new();
        for (index, row) in self.codec.encode(&delta.rows)?.into_iter().enumerate() {
            if times.is_null(index) {
                continue;
            }
            let rows = by_key.entry(Row::from(keys.row(index))).or_default();
            rows.push(Arrived {
                at_ms: times.value(index),
                index,
                row,
                weight: delta.weights[index],
            });
        }
        Ok(by_key)
    }

    /// What rows of a key and the sessions that they meet make together.
    fn clusters(&self, key: &Row, arrived: &[Arrived]) -> Vec<Cluster> {
        let gap_ms = self.spec.gap_ms;
        let own = self.open.get(key);
        let mut stretches: BTreeSet<(i64, i64)> = BTreeSet::new();
        for Arrived { at_ms, .. } in arrived {
            stretches.insert((*at_ms, *at_ms));
            stretches.extend(own.into_iter().flat_map(|own| own.met_by(*at_ms, gap_ms)));
        }
        let mut clusters: Vec<Cluster> = Vec::new();
        for (first_ms, last_ms) in stretches {
            match clusters.last_mut() {
                Some(cluster) if first_ms.saturating_sub(cluster.last_ms) <= gap_ms => {
                    cluster.last_ms = cluster.last_ms.max(last_ms);
                }
                _ => clusters.push(Cluster { first_ms, last_ms }),
            }
        }
        clusters
    }

    /// Takes the sessions of a stretch apart: their rows go with the bounds that they had.
    fn take_apart(&mut self, key: &Row, cluster: &Cluster, changes: &mut Changes) {
        let Some(own) = self.open.get_mut(key) else {
            return;
        };
        let sessions = own.sessions.range(cluster.first_ms..=cluster.last_ms);
        let sessions: Vec<(i64, i64)> = sessions.map(|(first, last)| (*first, *last)).collect();
        for (first_ms, last_ms) in sessions {
            let end_ms = last_ms.saturating_add(self.spec.gap_ms);
            own.sessions.remove(&first_ms);
            self.ends.remove(&(end_ms, Row::clone(key), first_ms));
            for (row, count) in own
                .rows
                .range(first_ms..=last_ms)
                .flat_map(|(_, rows)| rows)
            {
                *changes
                    .entry((Row::clone(row), first_ms, end_ms))
                    .or_default() -= count;
            }
        }
    }

    /// Finds the sessions of a stretch anew: their rows come with the bounds that they have.
    fn put_together(&mut self, key: &Row, cluster: &Cluster, changes: &mut Changes) {
        let gap_ms = self.spec.gap_ms;
        let Some(own) = self.open.get_mut(key) else {
            return;
        };
        let times = own.rows.range(cluster.first_ms..=cluster.last_ms);
        let mut found: Vec<(i64, i64)> = Vec::new();
        for (at_ms, _) in times {
            match found.last_mut() {
                Some((_, last_ms)) if at_ms.saturating_sub(*last_ms) <= gap_ms => *last_ms = *at_ms,
                _ => found.push((*at_ms, *at_ms)),
            }
        }
        for (first_ms, last_ms) in found {
            let end_ms = last_ms.saturating_add(gap_ms);
            own.sessions.insert(first_ms, last_ms);
            self.ends.insert((end_ms, Row::clone(key), first_ms));
            for (row, count) in own
                .rows
                .range(first_ms..=last_ms)
                .flat_map(|(_, rows)| rows)
            {
                *changes
                    .entry((Row::clone(row), first_ms, end_ms))
                    .or_default() += count;
            }
        }
        if own.rows.is_empty() {
            self.open.remove(key);
        }
    }

    fn add(&mut self, key: &Row, at_ms: i64, row: Row, weight: i64) {
        let own = self.open.entry(Row::clone(key)).or_default();
        let rows = own.rows.entry(at_ms).or_default();
        let bytes = ROW_BYTES + row.len();
        match rows.get_mut(&row) {
            Some(count) => {
                *count += weight;
                if *count <= 0 {
                    rows.remove(&row);
                    self.state_bytes -= bytes;
                }
            }
            // What was forgotten can not be taken back.
            None if weight < 0 => {}
            None => {
                rows.insert(row, weight);
                self.state_bytes += bytes;
            }
        }
        if rows.is_empty() {
            own.rows.remove(&at_ms);
        }
    }

    fn change(&mut self, delta: &Delta, moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let over_to = self.spec.horizon.at(moment.before);
        let mut changes = Changes::new();
        for (key, arrived) in self.arrived(delta)? {
            let clusters = self.clusters(&key, &arrived);
            let is_late = |cluster: &Cluster| {
                over_to.filter(|over_to| self.end_of(cluster.last_ms) <= *over_to)
            };
            let (mut open, mut late): (Vec<Cluster>, Vec<(Cluster, i64)>) =
                (Vec::new(), Vec::new());
            for cluster in clusters {
                match is_late(&cluster) {
                    Some(over_to) => late.push((cluster, over_to)),
                    None => open.push(cluster),
                }
            }
            for cluster in &open {
                self.take_apart(&key, cluster, &mut changes);
            }
            for arrived in arrived {
                let holds = |cluster: &Cluster| {
                    (cluster.first_ms..=cluster.last_ms).contains(&arrived.at_ms)
                };
                match late.iter().find(|(cluster, _)| holds(cluster)) {
                    Some((_, over_to)) => moment.leave_out(LateRow {
                        side: 0,
                        row: arrived.index,
                        count: arrived.weight.unsigned_abs(),
                        at_ms: arrived.at_ms,
                        late_before_ms: *over_to,
                    }),
                    None => self.add(&key, arrived.at_ms, arrived.row, arrived.weight),
                }
            }
            for cluster in &open {
                self.put_together(&key, cluster, &mut changes);
            }
        }
        changes.retain(|_, weight| *weight != 0);
        self.given(&changes)
    }

    fn given(&self, changes: &Changes) -> Result<Delta, OperatorError> {
        let rows = self
            .codec
            .decode(changes.keys().map(|(row, ..)| row.as_ref()))?;
        let mut columns = rows.columns().to_vec();
        let bounds = |of: fn(&(Row, i64, i64)) -> i64| -> ArrayRef {
            let times = changes.keys().map(of);
            Arc::new(TimestampMillisecondArray::from_iter_values(times))
        };
        let added = [bounds(|(_, first, _)| *first), bounds(|(.., end)| *end)];
        for (times, field) in added
            .iter()
            .zip(&self.spec.schema.fields()[columns.len()..])
        {
            columns.push(cast(times, field.data_type())?);
        }
        let schema = Arc::clone(&self.spec.schema);
        Ok(Delta {
            rows: RecordBatch::try_new(schema, columns)?,
            weights: changes.values().copied().collect(),
        })
    }

    /// Forgets the sessions that are over.
    fn forget(&mut self, over_to: Option<i64>) {
        while let Some((end_ms, ..)) = self.ends.first()
            && over_to.is_some_and(|over_to| *end_ms <= over_to)
        {
            let Some((end_ms, key, first_ms)) = self.ends.pop_first() else {
                return;
            };
            let Some(own) = self.open.get_mut(&key) else {
                continue;
            };
            own.sessions.remove(&first_ms);
            let last_ms = end_ms.saturating_sub(self.spec.gap_ms);
            let times = own.rows.range(first_ms..=last_ms);
            let times: Vec<i64> = times.map(|(at_ms, _)| *at_ms).collect();
            for at_ms in times {
                let gone = own.rows.remove(&at_ms).unwrap_or_default();
                let bytes = gone.keys().map(|row| ROW_BYTES + row.len());
                self.state_bytes -= bytes.sum::<usize>();
            }
            if own.rows.is_empty() {
                self.open.remove(&key);
            }
        }
    }
}

impl Node for SessionRows {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        self.forget(self.spec.horizon.at(moment.before));
        let changes = match inputs[0].weights.is_empty() {
            true => Delta::empty(&self.spec.schema),
            false => self.change(inputs[0], moment)?,
        };
        self.forget(self.spec.horizon.at(moment.after));
        Ok(changes)
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn save(&self, entries: &mut Entries) {
        for (key, own) in &self.open {
            for (at_ms, rows) in &own.rows {
                for (row, count) in rows {
                    entries.push(Entry {
                        part: 0,
                        key,
                        value: row,
                        count: *count,
                        other: *at_ms,
                    });
                }
            }
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let (key, at_ms) = (Row::from(entry.key), entry.other);
        let mut all = Cluster {
            first_ms: at_ms,
            last_ms: at_ms,
        };
        if let Some(own) = self.open.get(&key) {
            for (first_ms, last_ms) in own.met_by(at_ms, self.spec.gap_ms) {
                all.first_ms = all.first_ms.min(first_ms);
                all.last_ms = all.last_ms.max(last_ms);
            }
        }
        self.add(&key, at_ms, Row::from(entry.value), entry.count);
        let own = self.open.entry(Row::clone(&key)).or_default();
        let parts: Vec<i64> = own
            .sessions
            .range(all.first_ms..=all.last_ms)
            .map(|(first, _)| *first)
            .collect();
        for first_ms in parts {
            if let Some(last_ms) = own.sessions.remove(&first_ms) {
                let end_ms = last_ms.saturating_add(self.spec.gap_ms);
                self.ends.remove(&(end_ms, Row::clone(&key), first_ms));
            }
        }
        own.sessions.insert(all.first_ms, all.last_ms);
        let end_ms = all.last_ms.saturating_add(self.spec.gap_ms);
        self.ends.insert((end_ms, key, all.first_ms));
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
