//! How the rows of a graph leave it, by what can happen to them ([`Mode`](super::Mode)).

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use bytes::Bytes;

use crate::operator::changes;
use crate::operator::delta::{Delta, Row, RowCodec, rows_at};
use crate::operator::graph::{Given, Graph, Leaving, ROW_BYTES};
use crate::operator::hash::Fixed;
use crate::operator::key::{message_keys, message_keys_as};
use crate::operator::place::{Place, beginning};
use crate::operator::{Emission, Keys, OperatorError, Output};

impl Graph {
    /// Notes what changes in the tick that began at a time.
    pub(super) fn change(&mut self, delta: Delta, tick_ms: i64) -> Result<(), OperatorError> {
        if let Some(standing) = &mut self.standing {
            standing.push(&delta, &self.output)?;
            self.beats(tick_ms);
            return Ok(());
        }
        if self.beat.is_none() && matches!(self.plan.leaving, Leaving::Upsert(_)) {
            // It leaves with the epoch, and is never saved.
            return self.changed.push(delta, &self.output);
        }
        let rows = self.output.encode_all(&delta.rows)?;
        for (index, weight) in delta.weights.iter().enumerate() {
            let row = rows.row(index);
            match self.pending.get_mut(row) {
                Some(count) => {
                    *count += *weight;
                    if *count == 0 {
                        self.pending_bytes -= ROW_BYTES + row.len();
                        self.pending.remove(row);
                    }
                }
                None => {
                    self.pending_bytes += ROW_BYTES + row.len();
                    self.pending.insert(Row::from(row), *weight);
                }
            }
        }
        self.beats(tick_ms);
        Ok(())
    }

    /// Notes when what waits leaves, if it leaves at beats.
    fn beats(&mut self, tick_ms: i64) {
        let waits = self.standing.as_ref().is_some_and(|rows| !rows.is_empty());
        if let Some(beat) = &mut self.beat
            && (waits || !self.pending.is_empty())
        {
            beat.changed(tick_ms);
        }
    }

    /// What changed, in no order that is told.
    fn take_pending(&mut self) -> Vec<(Row, i64)> {
        self.pending_bytes = 0;
        let pending = std::mem::take(&mut self.pending).into_iter();
        pending.filter(|(_, weight)| *weight != 0).collect()
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
        let place = |row: &u32| places.get(*row as usize).cloned().map(Place::Own);
        let mut places: Vec<Place> = indices.iter().filter_map(place).collect();
        if places.is_empty() && self.is_keyed() {
            let all = self.output.encode_all(&delta.rows)?;
            let (order, of_rows) = Place::hashed(all, delta.weights.len());
            indices.clear();
            for (row, place) in order.into_iter().zip(of_rows) {
                for _ in 0..delta.weights[row as usize] {
                    indices.push(row);
                    places.push(place.clone());
                }
            }
        }
        let rows = take_record_batch(&delta.rows, &UInt32Array::from(indices))?;
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
            Some(columns) => message_keys_as(self.plan.key_format, &rows.project(columns)?),
            None => message_keys(rows),
        }
    }

    /// What changed by key, as rows and their weights: of the rows of a key that come up for nothing, none is left.
    fn take_changed(&mut self, key: &[usize]) -> Result<Delta, OperatorError> {
        if let Some(standing) = &mut self.standing {
            return standing.take(&self.output);
        }
        if self.beat.is_some() {
            let mut pending = self.take_pending();
            pending.sort_unstable();
            let rows = pending.iter().map(|(row, _)| row.as_ref());
            return Ok(Delta {
                rows: self.output.decode(rows)?,
                weights: pending.iter().map(|(_, weight)| *weight).collect(),
            });
        }
        let changed = self.changed.take(&self.output)?;
        let schema = &self.output.schema;
        let codec = RowCodec::new(&Arc::new(schema.project(key)?))?;
        let keys = codec.encode_all(&changed.rows.project(key)?)?;
        let count = changed.weights.len();
        let mut first: HashMap<&[u8], u32, Fixed> =
            HashMap::with_capacity_and_hasher(count, Fixed::default());
        // Most keys have one row that changes; what the rows of others come to is seen by all their columns.
        let mut is_one = vec![true; count];
        for (row, index) in (0..count).zip(0_u32..) {
            let before = *first.entry(keys.row(row)).or_insert(index);
            if before != index {
                is_one[before as usize] = false;
                is_one[row] = false;
            }
        }
        let several = (0_u32..).zip(&is_one).filter(|(_, is_one)| !**is_one);
        let several: Vec<u32> = several.map(|(row, _)| row).collect();
        if several.is_empty() {
            return Ok(changed);
        }
        let weights = several.iter().map(|row| changed.weights[*row as usize]);
        let several = self.output.folded(Delta {
            weights: weights.collect(),
            rows: rows_at(&changed.rows, several)?,
        })?;
        let one = (0_u32..).zip(&is_one).filter(|(_, is_one)| **is_one);
        let one: Vec<u32> = one.map(|(row, _)| row).collect();
        let weights = one.iter().map(|row| changed.weights[*row as usize]);
        Ok(Delta {
            weights: weights.chain(several.weights).collect(),
            rows: concat_batches(schema, [&rows_at(&changed.rows, one)?, &several.rows])?,
        })
    }

    fn upsert(&mut self, columns: &[usize], out: &mut Output) -> Result<(), OperatorError> {
        let Delta { rows, weights } = self.take_changed(columns)?;
        let keys = self.message_keys(&rows, Some(columns))?;
        let changes = by_key(&keys, &weights, self.plan.text_keys);
        if changes.is_empty() {
            return Ok(());
        }
        if self.plan.debezium {
            return changed(&rows, changes, out);
        }
        let came: Vec<u32> = changes.iter().filter_map(|change| change.came).collect();
        let (came_keys, went): (Vec<Change<'_>>, Vec<Change<'_>>) = changes
            .into_iter()
            .partition(|change| change.came.is_some());
        let key = |change: &Change<'_>| Bytes::clone(change.key);
        let keys: Vec<Bytes> = came_keys.iter().map(key).collect();
        out.emissions.push(Emission {
            rows: take_record_batch(&rows, &UInt32Array::from(came))?,
            places: vec![Place::Key; keys.len()],
            keys: Keys::Group(keys),
            deleted: went.iter().map(key).collect(),
        });
        Ok(())
    }

    fn rows(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let mut pending = self.take_pending();
        pending.sort_unstable();
        let decoded = self
            .output
            .decode(pending.iter().map(|(row, _)| row.as_ref()))?;
        let keys = self.message_keys(&decoded, None)?;
        let (mut places, mut indices, mut row_keys) = (Vec::new(), Vec::new(), Vec::new());
        let mut deleted = Vec::new();
        for (((row, weight), key), index) in pending.into_iter().zip(keys).zip(0_u32..) {
            let was = self.there.get(&row).copied().unwrap_or(0);
            let now = was + weight;
            for number in was..now {
                places.push(Place::Own(Arc::clone(&row)));
                indices.push(index);
                row_keys.push(numbered(&key, number));
            }
            deleted.extend((now..was).map(|number| numbered(&key, number)));
            self.put_there(row, now);
        }
        if indices.is_empty() && deleted.is_empty() {
            return Ok(());
        }
        out.emissions.push(Emission {
            rows: take_record_batch(&decoded, &UInt32Array::from(indices))?,
            keys: Keys::Group(row_keys),
            places,
            deleted,
        });
        Ok(())
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

/// The rows of a key that went and came, by their places among all that changed.
struct Change<'a> {
    key: &'a Bytes,
    went: Option<u32>,
    came: Option<u32>,
}

/// What changed by key, in the order of the keys. Where keys may repeat, because a text is written as NULL is, the last row that came for
/// one is its row.
fn by_key<'a>(keys: &'a [Bytes], weights: &[i64], repeats: bool) -> Vec<Change<'a>> {
    let mut rows: Vec<(u128, &Bytes, u32, i64)> = keys
        .iter()
        .zip(0..)
        .zip(weights)
        .map(|((key, row), weight)| (beginning(key), key, row, *weight))
        .collect();
    rows.sort_unstable();
    let mut changes: Vec<Change<'_>> = Vec::with_capacity(rows.len());
    for (_, key, row, weight) in rows {
        if changes.last().is_none_or(|last| last.key != key) {
            let (went, came) = (None, None);
            changes.push(Change { key, went, came });
        }
        let change = changes.last_mut().expect("one was just pushed");
        if weight > 0 {
            let other = change.came.replace(row);
            assert!(other.is_none() || repeats, "a key tells its row");
        } else {
            change.went = Some(row);
        }
    }
    changes
}

/// What went and came, by key, as changes of Debezium.
fn changed(
    rows: &RecordBatch,
    changes: Vec<Change<'_>>,
    out: &mut Output,
) -> Result<(), OperatorError> {
    let of = |side: fn(&Change<'_>) -> Option<u32>| {
        let found: Vec<u32> = changes.iter().filter_map(side).collect();
        let there: Vec<Option<usize>> = changes
            .iter()
            .scan(0, |next, change| {
                let at = *next;
                let is_there = side(change).is_some();
                *next += usize::from(is_there);
                Some(is_there.then_some(at))
            })
            .collect();
        let rows = take_record_batch(rows, &UInt32Array::from(found))?;
        Ok::<_, OperatorError>((rows, there))
    };
    let (before, after) = (of(|change| change.went)?, of(|change| change.came)?);
    let keys: Vec<Bytes> = changes.iter().map(|change| change.key.clone()).collect();
    out.emissions.push(Emission {
        rows: changes::changed(&before.0, &before.1, &after.0, &after.1)?,
        places: vec![Place::Key; keys.len()],
        keys: Keys::Group(keys),
        deleted: Vec::new(),
    });
    Ok(())
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
