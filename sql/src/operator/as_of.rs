//! As-of joins: each left row with the one right row that counted at its time.
//!
//! Input: rows of the left and of the right that stay. Output: the left's columns, then the right's; each
//! left row once, in the order of its time, when no right row up to that time is to come any more. Of
//! right rows of one key, each counts from its time to that of the next; those of equal time in the order
//! of the log. Of versions, a message without body ends the one before it.
//!
//! Left rows without time or key meet nothing and leave at once, if the join keeps them. Rows that
//! came too late are noted and left out. Of each key the right row that counts at the earliest time that
//! may still be asked for is kept, and those after it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, other_state};
use crate::operator::key::{Keys, from_time, milliseconds};
use crate::operator::moment::{Horizon, LateRow, Moment};

/// What is computed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AsOfSpec {
    /// Key expressions over each side.
    pub(crate) on: [Vec<Arc<dyn PhysicalExpr>>; 2],
    /// When a row of each side happened.
    pub(crate) times: [Arc<dyn PhysicalExpr>; 2],
    /// How those times move on: rows that come before are late.
    pub(crate) horizons: [Horizon; 2],
    /// Whether a right row of the very time counts.
    pub(crate) or_at: bool,
    /// Whether left rows stay that meet nothing.
    pub(crate) is_outer: bool,
    /// Key and body of the right's messages, if it stands for versions.
    pub(crate) versions: Option<[Arc<dyn PhysicalExpr>; 2]>,
    /// What right rows of equal time are ordered by; by all their columns if by none.
    pub(crate) order: Vec<Arc<dyn PhysicalExpr>>,
    /// Columns of each side.
    pub(crate) inputs: [SchemaRef; 2],
    /// The left's columns, then the right's.
    pub(crate) schema: SchemaRef,
}

/// Right rows of one key by time and order; `None` where a version ended.
type Versions = BTreeMap<(i64, Row), Option<Row>>;

#[derive(Debug)]
pub(crate) struct AsOf {
    spec: AsOfSpec,
    keys: [Keys; 2],
    codecs: [RowCodec; 2],
    order: Keys,
    message_keys: Option<Keys>,
    /// Left rows that wait, by time and row: their key, and how often.
    waiting: BTreeMap<(i64, Row), (Row, i64)>,
    versions: BTreeMap<Row, Versions>,
    /// Keys with more than one right row, by the time of the second.
    several: BTreeSet<(i64, Row)>,
    /// Of each message key, the join key of its last version.
    owners: BTreeMap<Row, Row>,
    /// Of the rows that were given last.
    places: Vec<Row>,
    state_bytes: usize,
}

const ROW_BYTES: usize = 120;

impl AsOf {
    pub(crate) fn new(spec: AsOfSpec) -> Result<Self, OperatorError> {
        let keys = |exprs: &[Arc<dyn PhysicalExpr>], input: &SchemaRef| {
            let types = exprs.iter().map(|expr| expr.data_type(input));
            Keys::new(types.collect::<Result<Vec<_>, _>>()?.iter())
        };
        let right = &spec.inputs[1];
        Ok(Self {
            keys: [
                keys(&spec.on[0], &spec.inputs[0])?,
                keys(&spec.on[1], right)?,
            ],
            codecs: [RowCodec::new(&spec.inputs[0])?, RowCodec::new(right)?],
            order: keys(&spec.order, right)?,
            message_keys: match &spec.versions {
                Some([key, _]) => Some(keys(&[Arc::clone(key)], right)?),
                None => None,
            },
            spec,
            waiting: BTreeMap::new(),
            versions: BTreeMap::new(),
            several: BTreeSet::new(),
            owners: BTreeMap::new(),
            places: Vec::new(),
            state_bytes: 0,
        })
    }

    fn evaluate(
        exprs: &[Arc<dyn PhysicalExpr>],
        rows: &RecordBatch,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let columns = exprs
            .iter()
            .map(|expr| expr.evaluate(rows)?.into_array(rows.num_rows()));
        Ok(columns.collect::<Result<Vec<_>, DataFusionError>>()?)
    }

    fn take_right(&mut self, delta: &Delta, moment: &Moment<'_>) -> Result<(), OperatorError> {
        let rows = &delta.rows;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let time = [Arc::clone(&self.spec.times[1])];
        let times = milliseconds(&Self::evaluate(&time, rows)?[0])?;
        let late_before = self.spec.horizons[1].at(moment.before);
        let columns = Self::evaluate(&self.spec.on[1], rows)?;
        let keys = self.keys[1].encode(&columns)?;
        let orders = self
            .order
            .encode(&Self::evaluate(&self.spec.order, rows)?)?;
        let by_row = self.spec.order.is_empty();
        let messages = match (&self.spec.versions, &self.message_keys) {
            (Some(of), Some(keys)) => {
                let of = Self::evaluate(of, rows)?;
                Some((keys.encode(&of[..1])?, of))
            }
            _ => None,
        };
        for (index, row) in self.codecs[1].encode(rows)?.into_iter().enumerate() {
            if times.is_null(index) {
                continue;
            }
            let at_ms = times.value(index);
            if let Some(late_before_ms) = late_before.filter(|late| at_ms < *late) {
                moment.leave_out(LateRow {
                    side: 1,
                    row: index,
                    count: 1,
                    at_ms,
                    late_before_ms,
                });
                continue;
            }
            let order = match by_row {
                true => Arc::clone(&row),
                false => Row::from(orders.row(index)),
            };
            let has_key = columns.iter().all(|column| column.is_valid(index));
            let key = has_key.then(|| Row::from(keys.row(index)));
            match &messages {
                None => {
                    if let Some(key) = key {
                        self.put(&key, at_ms, order, Some(row));
                    }
                }
                Some((_, of)) if of[0].is_null(index) => {}
                Some((messages, of)) => {
                    let message = Row::from(messages.row(index));
                    let key = key.filter(|_| of[1].is_valid(index));
                    self.version(message, key, at_ms, order, row);
                }
            }
        }
        Ok(())
    }

    /// Takes a message of a key: a version, or the end of one.
    fn version(&mut self, message: Row, key: Option<Row>, at_ms: i64, order: Row, row: Row) {
        let owned = self.owners.get(&message).cloned();
        if let Some(owned) = &owned
            && key.as_ref() != Some(owned)
        {
            self.put(owned, at_ms, Arc::clone(&order), None);
            self.disown(&message);
        }
        if let Some(key) = key {
            self.put(&key, at_ms, order, Some(row));
            self.own(message, key);
        }
    }

    fn own(&mut self, message: Row, key: Row) {
        let bytes = ROW_BYTES + message.len();
        if self.owners.insert(message, key).is_none() {
            self.state_bytes += bytes;
        }
    }

    fn disown(&mut self, message: &Row) {
        if self.owners.remove(message).is_some() {
            self.state_bytes -= ROW_BYTES + message.len();
        }
    }

    fn put(&mut self, key: &Row, at_ms: i64, order: Row, row: Option<Row>) {
        let bytes = version_bytes(key, &order, row.as_ref());
        let versions = self.versions.entry(Arc::clone(key)).or_default();
        let second = second_ms(versions);
        let before = versions.insert((at_ms, Arc::clone(&order)), row);
        let now = second_ms(versions);
        self.state_bytes += bytes;
        if let Some(before) = before {
            self.state_bytes -= version_bytes(key, &order, before.as_ref());
        }
        self.note(key, second, now);
    }

    fn note(&mut self, key: &Row, before: Option<i64>, now: Option<i64>) {
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.several.remove(&(before, Arc::clone(key)));
        }
        if let Some(now) = now {
            self.several.insert((now, Arc::clone(key)));
        }
    }

    /// Takes left rows; answers those that meet nothing and leave at once.
    fn take_left(
        &mut self,
        delta: &Delta,
        moment: &Moment<'_>,
    ) -> Result<Vec<(Row, i64)>, OperatorError> {
        let rows = &delta.rows;
        let mut alone = Vec::new();
        if rows.num_rows() == 0 {
            return Ok(alone);
        }
        let time = [Arc::clone(&self.spec.times[0])];
        let times = milliseconds(&Self::evaluate(&time, rows)?[0])?;
        let late_before = self.spec.horizons[0].at(moment.before);
        let columns = Self::evaluate(&self.spec.on[0], rows)?;
        let keys = self.keys[0].encode(&columns)?;
        for (index, row) in self.codecs[0].encode(rows)?.into_iter().enumerate() {
            let weight = delta.weights[index];
            let at_ms = times.value(index);
            let has_time = times.is_valid(index);
            if let Some(late_before_ms) = late_before.filter(|late| has_time && at_ms < *late) {
                moment.leave_out(LateRow {
                    side: 0,
                    row: index,
                    count: weight.unsigned_abs(),
                    at_ms,
                    late_before_ms,
                });
                continue;
            }
            if !has_time || columns.iter().any(|column| column.is_null(index)) {
                if self.spec.is_outer {
                    alone.push((row, weight));
                }
                continue;
            }
            self.wait(at_ms, row, Row::from(keys.row(index)), weight);
        }
        Ok(alone)
    }

    fn wait(&mut self, at_ms: i64, row: Row, key: Row, weight: i64) {
        let bytes = waiting_bytes(&row, &key);
        let waiting = self.waiting.entry((at_ms, row)).or_insert_with(|| {
            self.state_bytes += bytes;
            (key, 0)
        });
        waiting.1 += weight;
    }

    /// Takes the left rows that no right row to come can change, with what they meet.
    fn take_ready(&mut self, moment: &Moment<'_>) -> Vec<(Row, i64, Option<Row>)> {
        let mut ready = Vec::new();
        let Some(right_ms) = self.spec.horizons[1].at(moment.after) else {
            return ready;
        };
        // A right row may still come at the horizon itself.
        let is_ready = |at_ms: i64| match self.spec.or_at {
            true => at_ms < right_ms,
            false => at_ms <= right_ms,
        };
        while let Some(first) = self.waiting.first_entry() {
            let (at_ms, _) = *first.key();
            if !is_ready(at_ms) {
                break;
            }
            let ((_, row), (key, count)) = first.remove_entry();
            self.state_bytes -= waiting_bytes(&row, &key);
            let versions = self.versions.get(&key);
            let met = versions.and_then(|versions| {
                let mut before = versions.range((Bound::Unbounded, self.up_to(at_ms)));
                before.next_back().and_then(|(_, row)| row.clone())
            });
            if met.is_some() || self.spec.is_outer {
                self.places.push(from_time(at_ms, &[&row]));
                ready.push((row, count, met));
            }
        }
        ready
    }

    /// Where the right rows end that count at a time.
    fn up_to(&self, at_ms: i64) -> Bound<(i64, Row)> {
        let end_ms = if self.spec.or_at {
            at_ms.saturating_add(1)
        } else {
            at_ms
        };
        Bound::Excluded((end_ms, Row::from([])))
    }

    /// Forgets right rows that no left row can meet any more.
    fn forget(&mut self, moment: &Moment<'_>) {
        let Some(left_ms) = self.spec.horizons[0].at(moment.after) else {
            return;
        };
        let waiting = self.waiting.first_key_value().map(|((at_ms, _), _)| *at_ms);
        let asked_ms = waiting.map_or(left_ms, |waiting| waiting.min(left_ms));
        let first = |several: &BTreeSet<(i64, Row)>| {
            let (second_ms, key) = several.first()?;
            (*second_ms <= asked_ms).then(|| Arc::clone(key))
        };
        while let Some(key) = first(&self.several) {
            let end = self.up_to(asked_ms);
            let Some(versions) = self.versions.get_mut(&key) else {
                return;
            };
            let before = second_ms(versions);
            let mut kept = versions.split_off(&match end {
                Bound::Excluded(end) | Bound::Included(end) => end,
                Bound::Unbounded => return,
            });
            // The last one before still counts, unless it is an end, which says what none says.
            let last = versions.pop_last();
            for ((_, order), row) in versions.iter() {
                self.state_bytes -= version_bytes(&key, order, row.as_ref());
            }
            if let Some((place, row)) = last {
                if row.is_some() {
                    kept.insert(place, row);
                } else {
                    self.state_bytes -= version_bytes(&key, &place.1, None);
                }
            }
            let now = second_ms(&kept);
            if kept.is_empty() {
                self.versions.remove(&key);
            } else {
                *versions = kept;
            }
            self.note(&key, before, now);
            if before == now {
                // What counts up to a time without the time itself has its second row at it.
                return;
            }
        }
    }

    fn output(&self, rows: &[(Row, i64, Option<Row>)]) -> Result<Delta, OperatorError> {
        let mut columns = self.codecs[0].columns(rows.iter().map(|(row, ..)| row.as_ref()))?;
        let met = rows.iter().filter_map(|(_, _, met)| met.as_deref());
        let met = self.codecs[1].columns(met)?;
        let mut next = 0_u32;
        let indices = rows.iter().map(|(_, _, met)| {
            met.as_ref().map(|_| {
                next += 1;
                next - 1
            })
        });
        let indices: UInt32Array = indices.collect();
        for column in met {
            columns.push(take(&column, &indices, None)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let schema = Arc::clone(&self.spec.schema);
        Ok(Delta {
            rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
            weights: rows.iter().map(|(_, weight, _)| *weight).collect(),
        })
    }
}

/// The time of the second right row of a key.
fn second_ms(versions: &Versions) -> Option<i64> {
    versions.keys().nth(1).map(|(at_ms, _)| *at_ms)
}

fn version_bytes(key: &[u8], order: &[u8], row: Option<&Row>) -> usize {
    ROW_BYTES + key.len() + order.len() + row.map_or(0, |row| row.len())
}

fn waiting_bytes(row: &[u8], key: &[u8]) -> usize {
    ROW_BYTES + row.len() + key.len()
}

const WAITING: i64 = 0;
const VERSION: i64 = 1;
const ENDED: i64 = 2;
const OWNER: i64 = 3;

impl Node for AsOf {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let (left, right) = (inputs[0], inputs[1]);
        assert!(
            left.weights.iter().chain(&right.weights).all(|w| *w > 0),
            "rows of both sides stay"
        );
        self.take_right(right, moment)?;
        let alone = self.take_left(left, moment)?;
        // Those that meet nothing come first.
        let first = alone.iter().map(|(row, _)| from_time(i64::MIN, &[row]));
        self.places = first.collect();
        let mut rows: Vec<(Row, i64, Option<Row>)> = alone
            .into_iter()
            .map(|(row, weight)| (row, weight, None))
            .collect();
        rows.extend(self.take_ready(moment));
        self.forget(moment);
        self.output(&rows)
    }

    fn take_places(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.places)
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn save(&self, entries: &mut Entries) {
        for ((at_ms, row), (key, count)) in &self.waiting {
            entries.push(Entry {
                part: WAITING,
                key,
                value: row,
                count: *count,
                other: *at_ms,
            });
        }
        for (key, versions) in &self.versions {
            for ((at_ms, order), row) in versions {
                let mut value = order.to_vec();
                value.extend_from_slice(row.as_deref().unwrap_or(&[]));
                entries.push(Entry {
                    part: if row.is_some() { VERSION } else { ENDED },
                    key,
                    value: &value,
                    count: i64::try_from(order.len()).expect("a row fits into memory"),
                    other: *at_ms,
                });
            }
        }
        for (message, key) in &self.owners {
            entries.push(Entry {
                part: OWNER,
                key: message,
                value: key,
                count: 0,
                other: 0,
            });
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        let (key, value) = (Row::from(entry.key), entry.value);
        match entry.part {
            WAITING => self.wait(entry.other, Row::from(value), key, entry.count),
            VERSION | ENDED => {
                let length = usize::try_from(entry.count).map_err(|_| other_state())?;
                let (order, row) = value.split_at_checked(length).ok_or_else(other_state)?;
                let row = (entry.part == VERSION).then(|| Row::from(row));
                self.put(&key, entry.other, Row::from(order), row);
            }
            OWNER => self.own(key, Row::from(value)),
            _ => return Err(other_state()),
        }
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
