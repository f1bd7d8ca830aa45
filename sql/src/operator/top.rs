//! The first rows of each partition in some order: `ROW_NUMBER() OVER (…) <= n`.
//!
//! Input: any rows with weights. Output: the input's columns, then the row number as BIGINT unsigned; at
//! a tick, what left the first `n` goes and what entered comes, with a row whose number changed doing
//! both. Rows that the order does not tell apart come in the order of their columns, so that the answer
//! does not depend on when they came.
//!
//! A partition may end ([`Ending`]), by a time that is one of its columns or after resting too long. What
//! it gave stays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, other_state};
use crate::operator::key::{Keys, milliseconds};
use crate::operator::moment::{Ending, LateRow, Moment};

/// What is computed.
#[derive(Clone, Debug)]
pub(crate) struct TopSpec {
    pub(crate) partition: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) order: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
    pub(crate) count: u64,
    pub(crate) input: SchemaRef,
    /// The input's columns and the row number.
    pub(crate) schema: SchemaRef,
    /// When a partition is forgotten; the time is one of its columns.
    pub(crate) ending: Option<Ending>,
}

#[derive(Debug, Default)]
struct Partition {
    /// Rows by their order, then by their columns; and how often.
    rows: BTreeMap<(Row, Row), i64>,
    /// What it ends by; `None` when it does not end.
    at_ms: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Top {
    spec: TopSpec,
    keys: Keys,
    order: Option<RowConverter>,
    rows: RowCodec,
    partitions: BTreeMap<Row, Partition>,
    /// Partitions that end, in the order in which they do.
    ends: BTreeSet<(i64, Row)>,
    state_bytes: usize,
}

const ROW_BYTES: usize = 120;
/// Entries that say when a partition ends; others tell how long the order's bytes are.
const END: i64 = -1;

impl Top {
    pub(crate) fn new(spec: TopSpec) -> Result<Self, OperatorError> {
        let types = spec
            .partition
            .iter()
            .map(|key| key.data_type(&spec.input))
            .collect::<Result<Vec<_>, _>>()?;
        let fields = spec
            .order
            .iter()
            .map(|(expr, options)| {
                let kind = expr.data_type(&spec.input)?;
                Ok(SortField::new_with_options(kind, *options))
            })
            .collect::<Result<Vec<_>, DataFusionError>>()?;
        let order = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields)?),
        };
        Ok(Self {
            keys: Keys::new(types.iter())?,
            rows: RowCodec::new(&spec.input)?,
            order,
            spec,
            partitions: BTreeMap::new(),
            ends: BTreeSet::new(),
            state_bytes: 0,
        })
    }

    /// Adds the first rows of partitions with a weight.
    fn tell(&self, touched: &[Row], weight: i64, changes: &mut BTreeMap<(Row, u64), i64>) {
        for key in touched {
            let Some(partition) = self.partitions.get(key) else {
                continue;
            };
            let each = partition
                .rows
                .iter()
                .flat_map(|((_, row), count)| (0..*count).map(move |_| row));
            for (row, number) in each.zip(1..=self.spec.count) {
                *changes.entry((Arc::clone(row), number)).or_default() += weight;
            }
        }
    }

    fn put(&mut self, key: &Row, order: Row, row: Row, weight: i64) {
        let bytes = row_bytes(key, &order, &row);
        let partition = self.partitions.entry(Arc::clone(key)).or_default();
        let place = (order, row);
        match partition.rows.get_mut(&place) {
            Some(count) => {
                *count += weight;
                if *count == 0 {
                    partition.rows.remove(&place);
                    self.state_bytes -= bytes;
                }
            }
            None => {
                partition.rows.insert(place, weight);
                self.state_bytes += bytes;
            }
        }
        if partition.rows.is_empty() {
            let at_ms = partition.at_ms;
            self.partitions.remove(key);
            if let Some(at_ms) = at_ms {
                self.ends.remove(&(at_ms, Arc::clone(key)));
            }
        }
    }

    /// Notes what a partition ends by.
    fn touch(&mut self, key: &Row, at_ms: Option<i64>) {
        let Some(partition) = self.partitions.get_mut(key) else {
            return;
        };
        if partition.at_ms == at_ms {
            return;
        }
        if let Some(before) = std::mem::replace(&mut partition.at_ms, at_ms) {
            self.ends.remove(&(before, Arc::clone(key)));
        }
        if let Some(at_ms) = at_ms {
            self.ends.insert((at_ms, Arc::clone(key)));
        }
    }

    /// Forgets the partitions that end before a time.
    fn forget(&mut self, before_ms: Option<i64>) {
        let Some(before_ms) = before_ms else { return };
        while self.ends.first().is_some_and(|(at, _)| *at < before_ms) {
            let (_, key) = self.ends.pop_first().expect("it was just looked at");
            let partition = self.partitions.remove(&key).unwrap_or_default();
            for (order, row) in partition.rows.keys() {
                self.state_bytes -= row_bytes(&key, order, row);
            }
        }
    }
}

fn row_bytes(key: &[u8], order: &[u8], row: &[u8]) -> usize {
    ROW_BYTES + key.len() + order.len() + row.len()
}

impl Node for Top {
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError> {
        let ending = self.spec.ending.clone();
        let first = ending.as_ref();
        self.forget(first.and_then(|ending| ending.forgets_first(moment)));
        let delta = inputs[0];
        let count = delta.rows.num_rows();
        let mut changes = BTreeMap::new();
        if count > 0 {
            let evaluate = |expr: &Arc<dyn PhysicalExpr>| -> Result<ArrayRef, DataFusionError> {
                expr.evaluate(&delta.rows)?.into_array(count)
            };
            let columns = self.spec.partition.iter().map(evaluate);
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let keys = self.keys.encode(&columns)?;
            let times = ending
                .as_ref()
                .and_then(Ending::column)
                .map(|column| milliseconds(&columns[column]))
                .transpose()?;
            let late_before = ending
                .as_ref()
                .and_then(|ending| ending.late_before(moment));
            let orders = self.spec.order.iter().map(|(expr, _)| evaluate(expr));
            let orders = orders.collect::<Result<Vec<_>, _>>()?;
            let orders = match &self.order {
                Some(order) => Some(order.convert_columns(&orders)?),
                None => None,
            };
            let keys: Vec<Row> = (0..count).map(|row| Row::from(keys.row(row))).collect();
            let mut touched = keys.clone();
            touched.sort_unstable();
            touched.dedup();
            let known: Vec<bool> = keys
                .iter()
                .map(|key| self.partitions.contains_key(key))
                .collect();
            self.tell(&touched, -1, &mut changes);
            for (index, row) in self.rows.encode(&delta.rows)?.into_iter().enumerate() {
                let order = orders
                    .as_ref()
                    .map_or_else(|| Row::from([]), |rows| Row::from(rows.row(index).data()));
                let weight = delta.weights[index];
                let at_ms = match (&times, &ending) {
                    (Some(times), _) => times.is_valid(index).then(|| times.value(index)),
                    (None, Some(_)) => Some(moment.before.stored_ms),
                    (None, None) => None,
                };
                let late = at_ms.zip(late_before).filter(|(at, late)| at < late);
                if let Some((at_ms, late_before_ms)) = late {
                    moment.leave_out(LateRow {
                        side: 0,
                        row: index,
                        count: weight.unsigned_abs(),
                        at_ms,
                        late_before_ms,
                    });
                    continue;
                }
                // What was forgotten can not be taken back.
                if ending.is_some() && weight < 0 && !known[index] {
                    continue;
                }
                self.put(&keys[index], order, row, weight);
                self.touch(&keys[index], at_ms);
            }
            self.tell(&touched, 1, &mut changes);
        }
        self.forget(ending.and_then(|ending| ending.forgets_last(moment)));
        changes.retain(|_, weight| *weight != 0);
        let mut columns = self
            .rows
            .columns(changes.keys().map(|(row, _)| row.as_ref()))?;
        let numbers = changes.keys().map(|(_, number)| *number);
        columns.push(Arc::new(UInt64Array::from_iter_values(numbers)));
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let schema = Arc::clone(&self.spec.schema);
        Ok(Delta {
            rows: RecordBatch::try_new_with_options(schema, columns, &options)?,
            weights: changes.into_values().collect(),
        })
    }

    fn save(&self, entries: &mut Entries) {
        for (key, partition) in &self.partitions {
            for ((order, row), count) in &partition.rows {
                let mut value = order.to_vec();
                value.extend_from_slice(row);
                entries.push(Entry {
                    part: i64::try_from(order.len()).expect("a row fits into memory"),
                    key,
                    value: &value,
                    count: *count,
                    other: 0,
                });
            }
        }
        for (at_ms, key) in &self.ends {
            entries.push(Entry {
                part: END,
                key,
                value: &[],
                count: *at_ms,
                other: 0,
            });
        }
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
        if entry.part == END {
            self.touch(&Row::from(entry.key), Some(entry.count));
            return Ok(());
        }
        let at = usize::try_from(entry.part).map_err(|_| other_state())?;
        let (order, row) = entry.value.split_at_checked(at).ok_or_else(other_state)?;
        self.put(
            &Row::from(entry.key),
            Row::from(order),
            Row::from(row),
            entry.count,
        );
        Ok(())
    }

    fn is_timed(&self) -> bool {
        self.spec.ending.is_some()
    }

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
