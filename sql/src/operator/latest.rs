//! An upsert changelog as a table: the last row of each key.
//!
//! Input: the messages of a topic that is updated by key, with key and body as text. Output: the same
//! columns; for each key the row that counted goes and the new one comes. A message without body deletes,
//! one without key always counts. The key is the message's: two messages of one primary key under different message keys are two
//! rows, here as in a bounded query, and where rows leave by that primary key the last that came is its row.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::SchemaRef;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, add};
use crate::operator::moment::Moment;

/// Where key and body are among the input's columns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LatestSpec {
    pub(crate) key: usize,
    pub(crate) body: usize,
    pub(crate) schema: SchemaRef,
}

#[derive(Debug)]
pub(crate) struct Latest {
    spec: LatestSpec,
    codec: RowCodec,
    rows: BTreeMap<Row, Row>,
    state_bytes: usize,
}

const ROW_BYTES: usize = 96;

impl Latest {
    pub(crate) fn new(spec: LatestSpec) -> Result<Self, OperatorError> {
        Ok(Self {
            codec: RowCodec::new(&spec.schema)?,
            spec,
            rows: BTreeMap::new(),
            state_bytes: 0,
        })
    }

    fn insert(&mut self, key: Row, row: Row) -> Option<Row> {
        self.state_bytes += ROW_BYTES + key.len() + row.len();
        let key_bytes = key.len();
        let before = self.rows.insert(key, row);
        if let Some(before) = &before {
            self.state_bytes -= ROW_BYTES + key_bytes + before.len();
        }
        before
    }

    fn remove(&mut self, key: &[u8]) -> Option<Row> {
        let before = self.rows.remove(key)?;
        self.state_bytes -= ROW_BYTES + key.len() + before.len();
        Some(before)
    }
}

impl Node for Latest {
    fn step(&mut self, inputs: &[&Delta], _moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let delta = inputs[0];
        let keys: &StringArray = delta.rows.column(self.spec.key).as_string();
        let bodies: &StringArray = delta.rows.column(self.spec.body).as_string();
        let mut changes = BTreeMap::new();
        for (index, row) in self.codec.encode(&delta.rows)?.into_iter().enumerate() {
            let is_row = bodies.is_valid(index);
            if keys.is_null(index) {
                if is_row {
                    add(&mut changes, row, 1);
                }
                continue;
            }
            let key = keys.value(index).as_bytes();
            let before = if is_row {
                add(&mut changes, Row::clone(&row), 1);
                self.insert(Row::from(key), row)
            } else {
                self.remove(key)
            };
            if let Some(before) = before {
                add(&mut changes, before, -1);
            }
        }
        self.codec.delta(&changes)
    }

    fn save(&self, entries: &mut Entries) {
        for (key, row) in &self.rows {
            entries.push(Entry {
                part: 0,
                key,
                value: row,
                count: 1,
                other: 0,
            });
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        self.insert(Row::from(entry.key), Row::from(entry.value));
        Ok(())
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }

    fn rests(&self) -> bool {
        true
    }

    fn clear(&mut self) {
        self.rows = BTreeMap::new();
        self.state_bytes = 0;
    }
}
