//! Changes of a table: rows with weights, +1 for each that came and -1 for each that went.
//!
//! Between the nodes of a [`crate::operator::graph`] everything is such a delta, one per tick. Weights of
//! equal rows add up; a node may give the same row twice. What a node gives is a function of the ticks
//! alone, so that float sums and orders do not depend on how epochs were cut.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use crate::operator::OperatorError;
use crate::operator::hash::Fixed;
use crate::operator::key::{Encoded, Keys};
use crate::operator::moment::Moment;

/// Bytes of all columns of a row, which sort as the columns do.
pub(crate) type Row = Arc<[u8]>;

/// Rows and how often each came, or went.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    pub(crate) rows: RecordBatch,
    pub(crate) weights: Vec<i64>,
}

impl Delta {
    pub(crate) fn empty(schema: &SchemaRef) -> Self {
        Self {
            rows: RecordBatch::new_empty(Arc::clone(schema)),
            weights: Vec::new(),
        }
    }

    /// Rows that came.
    pub(crate) fn inserted(rows: RecordBatch) -> Self {
        Self {
            weights: vec![1; rows.num_rows()],
            rows,
        }
    }
}

/// A step of a graph: deltas of its inputs in, its own delta out.
pub(crate) trait Node: Send + fmt::Debug {
    /// Takes the deltas of a step, then lets time go on.
    fn step(&mut self, inputs: &[&Delta], moment: &Moment<'_>) -> Result<Delta, OperatorError>;

    /// Where the rows of the last step stand among those of other lanes, for a node that gives them in an order of its own.
    fn take_places(&mut self) -> Vec<Row> {
        Vec::new()
    }

    /// Whether it has something to do in a step that brings time alone.
    fn is_timed(&self) -> bool {
        false
    }

    /// Whether it has something to give before any row comes.
    fn waits(&self) -> bool {
        false
    }

    /// The state as entries of bytes, see [`Entries`].
    fn save(&self, _entries: &mut Entries) {}

    /// Takes one entry back.
    fn restore(&mut self, _entry: &Entry<'_>) -> Result<(), OperatorError> {
        Err(other_state())
    }

    /// Memory of the state, about.
    fn state_bytes(&self) -> usize {
        0
    }

    /// Whether its state may lie elsewhere while no row comes for it: time alone makes it give nothing, and what a time
    /// makes it forget may as well be forgotten when the next row comes.
    fn rests(&self) -> bool {
        false
    }

    /// Lets go of its state, which lies elsewhere; [`Node::restore`] brings it back.
    fn clear(&mut self) {}
}

pub(crate) fn other_state() -> OperatorError {
    OperatorError::OtherState {
        detail: "its entries differ".to_owned(),
    }
}

/// Rows as bytes and back, for one schema.
#[derive(Debug)]
pub(crate) struct RowCodec {
    pub(crate) schema: SchemaRef,
    keys: Keys,
}

impl RowCodec {
    pub(crate) fn new(schema: &SchemaRef) -> Result<Self, OperatorError> {
        let types = schema.fields().iter().map(|field| field.data_type());
        Ok(Self {
            keys: Keys::new(types)?,
            schema: Arc::clone(schema),
        })
    }

    /// The bytes of all rows, in one piece.
    pub(crate) fn encode_all(&self, rows: &RecordBatch) -> Result<Encoded, OperatorError> {
        self.keys.encode(rows.columns())
    }

    pub(crate) fn encode(&self, rows: &RecordBatch) -> Result<Vec<Row>, OperatorError> {
        let encoded = self.keys.encode(rows.columns())?;
        Ok((0..rows.num_rows())
            .map(|row| Row::from(encoded.row(row)))
            .collect())
    }

    pub(crate) fn columns<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        self.keys.decode(rows)
    }

    pub(crate) fn decode<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<RecordBatch, OperatorError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.clone().count()));
        let columns = self.columns(rows)?;
        let schema = Arc::clone(&self.schema);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    /// Equal rows as one, those whose weights add up to nothing left out.
    pub(crate) fn folded(&self, delta: Delta) -> Result<Delta, OperatorError> {
        let encoded = self.encode_all(&delta.rows)?;
        let mut places: HashMap<&[u8], usize, Fixed> = HashMap::default();
        let mut sums: Vec<(u32, i64)> = Vec::with_capacity(delta.weights.len());
        for ((row, index), weight) in (0..).zip(0..).zip(&delta.weights) {
            let place = *places.entry(encoded.row(row)).or_insert(sums.len());
            match sums.get_mut(place) {
                Some((_, sum)) => *sum += *weight,
                None => sums.push((index, *weight)),
            }
        }
        sums.retain(|(_, weight)| *weight != 0);
        let (rows, weights): (Vec<u32>, Vec<i64>) = sums.into_iter().unzip();
        Ok(Delta {
            rows: rows_at(&delta.rows, rows)?,
            weights,
        })
    }

    /// Rows in order, those whose weights add up to nothing left out.
    pub(crate) fn delta(&self, changes: &BTreeMap<Row, i64>) -> Result<Delta, OperatorError> {
        let left = || changes.iter().filter(|(_, weight)| **weight != 0);
        Ok(Delta {
            rows: self.decode(left().map(|(row, _)| row.as_ref()))?,
            weights: left().map(|(_, weight)| *weight).collect(),
        })
    }
}

/// Adds up weights by row.
pub(crate) fn add(changes: &mut BTreeMap<Row, i64>, row: Row, weight: i64) {
    *changes.entry(row).or_default() += weight;
}

/// The state of all nodes as one batch: node, part, key, value and numbers.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    node: i64,
    nodes: Vec<i64>,
    parts: Vec<i64>,
    keys: Vec<Box<[u8]>>,
    values: Vec<Box<[u8]>>,
    counts: Vec<i64>,
    others: Vec<i64>,
}

/// One entry of a state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// Which map of the node.
    pub(crate) part: i64,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    pub(crate) count: i64,
    pub(crate) other: i64,
}

impl Entries {
    /// What is pushed from now on belongs to this node.
    pub(crate) fn begin(&mut self, node: usize) {
        self.node = i64::try_from(node).expect("a query has few nodes");
    }

    pub(crate) fn push(&mut self, entry: Entry<'_>) {
        self.nodes.push(self.node);
        self.parts.push(entry.part);
        self.keys.push(entry.key.into());
        self.values.push(entry.value.into());
        self.counts.push(entry.count);
        self.others.push(entry.other);
    }

    /// Columns that tell the node and its key.
    pub(crate) const CELL: &'static [usize] = &[0, 2];

    pub(crate) fn schema() -> SchemaRef {
        let number = |name: &str| Field::new(name, DataType::Int64, false);
        let bytes = |name: &str| Field::new(name, DataType::Binary, false);
        Arc::new(Schema::new(vec![
            number("node"),
            number("part"),
            bytes("key"),
            bytes("value"),
            number("count"),
            number("other"),
        ]))
    }

    pub(crate) fn batch(self) -> Result<RecordBatch, OperatorError> {
        let bytes = |values: Vec<Box<[u8]>>| -> ArrayRef {
            Arc::new(BinaryArray::from_iter_values(values))
        };
        let numbers = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let columns = vec![
            numbers(self.nodes),
            numbers(self.parts),
            bytes(self.keys),
            bytes(self.values),
            numbers(self.counts),
            numbers(self.others),
        ];
        Ok(RecordBatch::try_new(Self::schema(), columns)?)
    }

    /// Gives each entry of a saved batch to `take`, with its node.
    pub(crate) fn each(
        batch: &RecordBatch,
        mut take: impl FnMut(usize, &Entry<'_>) -> Result<(), OperatorError>,
    ) -> Result<(), OperatorError> {
        if batch.schema().fields() != Self::schema().fields() {
            return Err(other_state());
        }
        let number = |column: usize| batch.column(column).as_primitive::<Int64Type>();
        let bytes = |column: usize| batch.column(column).as_binary::<i32>();
        for row in 0..batch.num_rows() {
            let node = usize::try_from(number(0).value(row)).map_err(|_| other_state())?;
            let entry = Entry {
                part: number(1).value(row),
                key: bytes(2).value(row),
                value: bytes(3).value(row),
                count: number(4).value(row),
                other: number(5).value(row),
            };
            take(node, &entry)?;
        }
        Ok(())
    }
}

/// Some rows of a batch, also of one without columns, which Arrow's own function refuses.
pub(crate) fn rows_at(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch, OperatorError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let rows = UInt32Array::from(rows);
    let columns = batch.columns().iter();
    let columns = columns.map(|column| take(column, &rows, None));
    let columns = columns.collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new_with_options(
        batch.schema(),
        columns,
        &options,
    )?)
}
