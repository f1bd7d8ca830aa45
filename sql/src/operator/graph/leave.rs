//! How the rows of a graph leave it, by what can happen to them ([`Mode`](super::Mode)).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use bytes::Bytes;

use crate::operator::changes;
use crate::operator::delta::{Delta, Row};
use crate::operator::graph::{Given, Graph, Leaving, ROW_BYTES};
use crate::operator::key::message_keys;
use crate::operator::{Emission, Keys, OperatorError, Output};

impl Graph {
    /// Notes what changes in the tick that began at a time.
    pub(super) fn change(&mut self, delta: &Delta, tick_ms: i64) -> Result<(), OperatorError> {
        let rows = self.output.encode(&delta.rows)?;
        for (row, weight) in rows.into_iter().zip(&delta.weights) {
            match self.pending.get_mut(&row) {
                Some(count) => *count += *weight,
                None => {
                    self.pending_bytes += ROW_BYTES + row.len();
                    self.pending.insert(row, *weight);
                }
            }
        }
        if let Some(beat) = &mut self.beat
            && !self.pending.is_empty()
        {
            beat.changed(tick_ms);
        }
        Ok(())
    }

    pub(super) fn take_pending(&mut self) -> BTreeMap<Row, i64> {
        self.pending_bytes = 0;
        std::mem::take(&mut self.pending)
    }

    pub(super) fn append(&self, given: &Given, out: &mut Output) -> Result<(), OperatorError> {
        let Given { delta, places, .. } = given;
        let mut indices = Vec::new();
        for (row, weight) in (0_u32..).zip(&delta.weights) {
            assert!(*weight > 0, "rows of an append query stay");
            indices.extend((0..*weight).map(|_| row));
        }
        if indices.is_empty() {
            return Ok(());
        }
        let place = |row: &u32| places.get(*row as usize).cloned();
        let mut places: Vec<Row> = indices.iter().filter_map(place).collect();
        let rows = take_record_batch(&delta.rows, &UInt32Array::from(indices))?;
        if places.is_empty() && self.is_keyed() {
            places = self.output.encode(&rows)?;
        }
        let (rows, keys) = match &self.plan.leaving {
            Leaving::Keyed(key) => {
                let keys = Keys::Group(self.message_keys(&rows, Some(key))?);
                match self.plan.debezium {
                    true => (changes::created(rows)?, keys),
                    false => (rows, keys),
                }
            }
            _ => (rows, Keys::None),
        };
        out.emissions.push(Emission {
            rows,
            keys,
            places,
            deleted: Vec::new(),
        });
        Ok(())
    }

    /// Message keys of rows: all their columns, or those at `columns`.
    fn message_keys(
        &self,
        rows: &RecordBatch,
        columns: Option<&[usize]>,
    ) -> Result<Vec<Bytes>, OperatorError> {
        match columns {
            // A JSON array of nothing.
            Some([]) => Ok(vec![Bytes::from_static(b"[]"); rows.num_rows()]),
            Some([only]) if self.plan.text_keys => {
                match rows.column(*only).as_string_opt::<i32>() {
                    Some(texts) => Ok(texts.iter().map(text_key).collect()),
                    None => message_keys(&rows.project(&[*only])?),
                }
            }
            Some(columns) => message_keys(&rows.project(columns)?),
            None => message_keys(rows),
        }
    }

    pub(super) fn emit(
        &self,
        rows: Vec<Row>,
        keys: Vec<Bytes>,
        deleted: Vec<Bytes>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        if rows.is_empty() && deleted.is_empty() {
            return Ok(());
        }
        let columns = self.output.decode(rows.iter().map(AsRef::as_ref))?;
        out.emissions.push(Emission {
            places: match self.plan.leaving {
                Leaving::Rows => rows,
                _ => keys.iter().map(|key| Row::from(key.as_ref())).collect(),
            },
            rows: columns,
            keys: Keys::Group(keys),
            deleted,
        });
        Ok(())
    }

    fn upsert(&mut self, columns: &[usize], out: &mut Output) -> Result<(), OperatorError> {
        let pending = self.take_pending();
        let delta = self.output.delta(&pending)?;
        let keys = self.message_keys(&delta.rows, Some(columns))?;
        let changes: Vec<(Row, i64)> = pending
            .into_iter()
            .filter(|(_, weight)| *weight != 0)
            .collect();
        let mut came: BTreeMap<Bytes, Row> = BTreeMap::new();
        let mut went: BTreeMap<Bytes, Row> = BTreeMap::new();
        for ((row, weight), key) in changes.into_iter().zip(keys) {
            if weight > 0 {
                let other = came.insert(key, row);
                assert!(other.is_none(), "a key tells its row");
            } else {
                went.insert(key, row);
            }
        }
        if self.plan.debezium {
            return self.changes(went, came, out);
        }
        went.retain(|key, _| !came.contains_key(key));
        let went = went.into_keys().collect();
        let (keys, rows): (Vec<Bytes>, Vec<Row>) = came.into_iter().unzip();
        self.emit(rows, keys, went, out)
    }

    /// What went and came, by key, as changes of Debezium.
    fn changes(
        &self,
        went: BTreeMap<Bytes, Row>,
        came: BTreeMap<Bytes, Row>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let keys: BTreeSet<Bytes> = went.keys().chain(came.keys()).cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let of = |rows: &BTreeMap<Bytes, Row>| {
            let there: Vec<Option<usize>> = keys
                .iter()
                .scan(0, |next, key| {
                    let at = *next;
                    let is_there = rows.contains_key(key);
                    *next += usize::from(is_there);
                    Some(is_there.then_some(at))
                })
                .collect();
            let rows = self.output.decode(rows.values().map(AsRef::as_ref))?;
            Ok::<_, OperatorError>((rows, there))
        };
        let (before, after) = (of(&went)?, of(&came)?);
        out.emissions.push(Emission {
            rows: changes::changed(&before.0, &before.1, &after.0, &after.1)?,
            places: keys.iter().map(|key| Row::from(key.as_ref())).collect(),
            keys: Keys::Group(keys.into_iter().collect()),
            deleted: Vec::new(),
        });
        Ok(())
    }

    fn rows(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let pending = self.take_pending();
        let delta = self.output.delta(&pending)?;
        let keys = self.message_keys(&delta.rows, None)?;
        let (mut rows, mut row_keys, mut deleted) = (Vec::new(), Vec::new(), Vec::new());
        let changes = pending.into_iter().filter(|(_, weight)| *weight != 0);
        for ((row, weight), key) in changes.zip(keys) {
            let was = self.there.get(&row).copied().unwrap_or(0);
            let now = was + weight;
            for number in was..now {
                rows.push(Arc::clone(&row));
                row_keys.push(numbered(&key, number));
            }
            deleted.extend((now..was).map(|number| numbered(&key, number)));
            self.put_there(row, now);
        }
        self.emit(rows, row_keys, deleted, out)
    }

    pub(super) fn put_there(&mut self, row: Row, count: i64) {
        let bytes = ROW_BYTES + row.len();
        if count == 0 {
            if self.there.remove(&row).is_some() {
                self.there_bytes -= bytes;
            }
        } else if self.there.insert(row, count).is_none() {
            self.there_bytes += bytes;
        }
    }

    pub(super) fn leave(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        match self.plan.leaving.clone() {
            Leaving::Append | Leaving::Keyed(_) => Ok(()),
            Leaving::Upsert(columns) => self.upsert(&columns, out),
            Leaving::Rows => self.rows(out),
        }
    }
}

/// A row whose key is NULL has a key all the same: it is one row.
fn text_key(text: Option<&str>) -> Bytes {
    match text {
        Some(text) => Bytes::copy_from_slice(text.as_bytes()),
        None => Bytes::from_static(b"[null]"),
    }
}

/// The key of the row that is there for the `number`th time again.
fn numbered(key: &Bytes, number: i64) -> Bytes {
    match number {
        0 => key.clone(),
        _ => {
            let mut text = key.to_vec();
            text.extend_from_slice(format!("#{number}").as_bytes());
            Bytes::from(text)
        }
    }
}
