//! Rows once, when they are final: what `EMIT ON WINDOW CLOSE` makes of a table that changes.
//!
//! Input: any rows with weights, one of whose columns is a time. Output: the rows that are still there when
//! no change of that time is to come any more, in the order of their times; they stay. Rows without time
//! belong to no window and are left out, those that come too late are counted.

use std::collections::BTreeMap;

use arrow::array::Array;
use arrow::datatypes::SchemaRef;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec};
use crate::operator::key::{from_time, milliseconds};
use crate::operator::moment::{Horizon, LateRow, Moment};

/// What is waited for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CloseSpec {
    /// The column of times.
    pub(crate) column: usize,
    pub(crate) horizon: Horizon,
    pub(crate) schema: SchemaRef,
}

#[derive(Debug)]
pub(crate) struct Close {
    spec: CloseSpec,
    codec: RowCodec,
    /// Rows that may still change, by time, and how often each is there.
    open: BTreeMap<(i64, Row), i64>,
    /// Of the rows that were given last.
    places: Vec<Row>,
    state_bytes: usize,
}

const ROW_BYTES: usize = 96;

impl Close {
    pub(crate) fn new(spec: CloseSpec) -> Result<Self, OperatorError> {
        Ok(Self {
            codec: RowCodec::new(&spec.schema)?,
            spec,
            open: BTreeMap::new(),
            places: Vec::new(),
            state_bytes: 0,
        })
    }

    fn add(&mut self, at_ms: i64, row: Row, weight: i64) {
        let bytes = ROW_BYTES + row.len();
        let place = (at_ms, row);
        match self.open.get_mut(&place) {
            None => {
                self.open.insert(place, weight);
                self.state_bytes += bytes;
            }
            Some(count) => {
                *count += weight;
                if *count == 0 {
                    self.open.remove(&place);
                    self.state_bytes -= bytes;
                }
            }
        }
    }
}

impl Node for Close {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let delta = inputs[0];
        if !delta.weights.is_empty() {
            let times = milliseconds(delta.rows.column(self.spec.column))?;
            let late_before = self.spec.horizon.at(moment.before);
            for (index, row) in self.codec.encode(&delta.rows)?.into_iter().enumerate() {
                if times.is_null(index) {
                    continue;
                }
                let (at_ms, weight) = (times.value(index), delta.weights[index]);
                match late_before {
                    Some(late_before_ms) if at_ms < late_before_ms => moment.leave_out(LateRow {
                        side: 0,
                        row: index,
                        count: weight.unsigned_abs(),
                        at_ms,
                        late_before_ms,
                    }),
                    _ => self.add(at_ms, row, weight),
                }
            }
        }
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        let end_ms = self.spec.horizon.at(moment.after);
        while let Some(first) = self.open.first_entry() {
            if end_ms.is_none_or(|end_ms| first.key().0 >= end_ms) {
                break;
            }
            let ((at_ms, row), count) = first.remove_entry();
            self.state_bytes -= ROW_BYTES + row.len();
            if count > 0 {
                self.places.push(from_time(at_ms, &[&row]));
                rows.push(row);
                weights.push(count);
            }
        }
        Ok(Delta {
            rows: self.codec.decode(rows.iter().map(AsRef::as_ref))?,
            weights,
        })
    }

    fn take_places(&mut self) -> Vec<Row> {
        std::mem::take(&mut self.places)
    }

    fn is_timed(&self) -> bool {
        true
    }

    fn save(&self, entries: &mut Entries) {
        for ((at_ms, row), count) in &self.open {
            entries.push(Entry {
                part: 0,
                key: row,
                value: &[],
                count: *count,
                other: *at_ms,
            });
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        self.add(entry.other, Row::from(entry.key), entry.count);
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
