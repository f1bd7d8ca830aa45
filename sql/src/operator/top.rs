//! The first rows of each partition in some order: `ROW_NUMBER() OVER (…) <= n`.
//!
//! Input: any rows with weights. Output: the input's columns, then the row number as BIGINT unsigned; at
//! a tick, what left the first `n` goes and what entered comes, with a row whose number changed doing
//! both. Rows that the order does not tell apart come in the order of their columns, so that the answer
//! does not depend on when they came.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;

use crate::operator::OperatorError;
use crate::operator::delta::{Delta, Entries, Entry, Node, Row, RowCodec, other_state};
use crate::operator::key::Keys;

/// What is computed.
#[derive(Clone, Debug)]
pub(crate) struct TopSpec {
    pub(crate) partition: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) order: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
    pub(crate) count: u64,
    pub(crate) input: SchemaRef,
    /// The input's columns and the row number.
    pub(crate) schema: SchemaRef,
}

/// Rows of a partition by their order, then by their columns; and how often.
type Partition = BTreeMap<(Row, Row), i64>;

#[derive(Debug)]
pub(crate) struct Top {
    spec: TopSpec,
    keys: Keys,
    order: Option<RowConverter>,
    rows: RowCodec,
    partitions: BTreeMap<Row, Partition>,
    state_bytes: usize,
}

const ROW_BYTES: usize = 120;

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
                .iter()
                .flat_map(|((_, row), count)| (0..*count).map(move |_| row));
            for (row, number) in each.zip(1..=self.spec.count) {
                *changes.entry((Arc::clone(row), number)).or_default() += weight;
            }
        }
    }

    fn put(&mut self, key: &Row, order: Row, row: Row, weight: i64) {
        let bytes = ROW_BYTES + key.len() + order.len() + row.len();
        let partition = self.partitions.entry(Arc::clone(key)).or_default();
        let place = (order, row);
        match partition.get_mut(&place) {
            Some(count) => {
                *count += weight;
                if *count == 0 {
                    partition.remove(&place);
                    self.state_bytes -= bytes;
                }
            }
            None => {
                partition.insert(place, weight);
                self.state_bytes += bytes;
            }
        }
        if partition.is_empty() {
            self.partitions.remove(key);
        }
    }
}

impl Node for Top {
    fn step(&mut self, inputs: &[&Delta]) -> Result<Delta, OperatorError> {
        let delta = inputs[0];
        let count = delta.rows.num_rows();
        let mut changes = BTreeMap::new();
        if count > 0 {
            let evaluate = |expr: &Arc<dyn PhysicalExpr>| -> Result<ArrayRef, DataFusionError> {
                expr.evaluate(&delta.rows)?.into_array(count)
            };
            let keys = self.spec.partition.iter().map(evaluate);
            let keys = self.keys.encode(&keys.collect::<Result<Vec<_>, _>>()?)?;
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
            self.tell(&touched, -1, &mut changes);
            for (index, row) in self.rows.encode(&delta.rows)?.into_iter().enumerate() {
                let order = orders
                    .as_ref()
                    .map_or_else(|| Row::from([]), |rows| Row::from(rows.row(index).data()));
                self.put(&keys[index], order, row, delta.weights[index]);
            }
            self.tell(&touched, 1, &mut changes);
        }
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
            for ((order, row), count) in partition {
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
    }

    fn restore(&mut self, entry: &Entry<'_>) -> Result<(), OperatorError> {
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

    fn state_bytes(&self) -> usize {
        self.state_bytes
    }
}
