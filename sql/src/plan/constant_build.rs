//! What a query writes itself as a node: `VALUES`, `SELECT` without `FROM`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, concat};
use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{EmptyRelation, Values};

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::plan::graph::{Builder, Edge, named, nullable};

impl Builder<'_> {
    pub(super) fn values(&mut self, values: &Values) -> Result<Edge, SqlError> {
        let schema = nullable(named(values.schema.as_arrow()));
        let nothing = DFSchema::empty();
        let one_row = one_row(&Arc::new(Schema::empty()))?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        for (column, field) in schema.fields().iter().enumerate() {
            let mut each: Vec<ArrayRef> = Vec::with_capacity(values.values.len());
            for row in &values.values {
                let value = self.physical(&row[column], &nothing)?.evaluate(&one_row)?;
                each.push(cast(&value.into_array(1)?, field.data_type())?);
            }
            let each: Vec<&dyn arrow::array::Array> = each.iter().map(AsRef::as_ref).collect();
            columns.push(concat(&each)?);
        }
        Ok(self.constant(RecordBatch::try_new(schema, columns)?))
    }

    pub(super) fn empty_relation(&mut self, empty: &EmptyRelation) -> Result<Edge, SqlError> {
        let schema = nullable(named(empty.schema.as_arrow()));
        let rows = match empty.produce_one_row {
            true => one_row(&schema)?,
            false => RecordBatch::new_empty(schema),
        };
        Ok(self.constant(rows))
    }

    fn constant(&mut self, rows: RecordBatch) -> Edge {
        let (count, schema) = (rows.num_rows(), rows.schema());
        let edge = Edge {
            node: self.push(Kind::Constant(rows), Vec::new(), schema),
            mode: Mode::Append,
            // One row needs nothing to be told by.
            unique: (count <= 1).then(Vec::new),
            times: Vec::new(),
        };
        self.tell("rows of the query itself", &edge);
        edge
    }
}

/// A row of nothing but NULL.
fn one_row(schema: &Arc<Schema>) -> Result<RecordBatch, SqlError> {
    let columns = schema.fields().iter();
    let columns = columns.map(|field| arrow::array::new_null_array(field.data_type(), 1));
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(
        Arc::clone(schema),
        columns.collect(),
        &options,
    )?)
}
