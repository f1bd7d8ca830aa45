//! Changes as Debezium writes them: a row before, the row after, and what happened to it.
//!
//! Output schema: `before`, `after` (structs of the row's columns, NULL where there is none), `op` (`c`, `u` or `d`). There is no
//! `ts_ms`: what a query writes depends on the log alone.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, UInt64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema};

use crate::operator::OperatorError;

/// Rows that came and of which nobody knows what was before.
pub(crate) fn created(rows: RecordBatch) -> Result<RecordBatch, OperatorError> {
    let there: Vec<Option<usize>> = (0..rows.num_rows()).map(Some).collect();
    let nothing = vec![None; rows.num_rows()];
    changed(&rows, &nothing, &rows, &there)
}

/// For each key the row that went and the row that came, as places in the two batches.
pub(crate) fn changed(
    before: &RecordBatch,
    went: &[Option<usize>],
    after: &RecordBatch,
    came: &[Option<usize>],
) -> Result<RecordBatch, OperatorError> {
    let what: StringArray = went
        .iter()
        .zip(came)
        .map(|(went, came)| {
            Some(match (went, came) {
                (Some(_), Some(_)) => "u",
                (Some(_), None) => "d",
                (None, _) => "c",
            })
        })
        .collect();
    let (before, after) = (rows_at(before, went)?, rows_at(after, came)?);
    let of = |name: &str, rows: &ArrayRef| Field::new(name, rows.data_type().clone(), true);
    let schema = Schema::new(vec![
        of("before", &before),
        of("after", &after),
        Field::new("op", DataType::Utf8, false),
    ]);
    let columns: Vec<ArrayRef> = vec![before, after, Arc::new(what)];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn rows_at(rows: &RecordBatch, places: &[Option<usize>]) -> Result<ArrayRef, OperatorError> {
    let indices: UInt64Array = places.iter().map(|at| at.map(|at| at as u64)).collect();
    let columns = rows.columns().iter();
    let columns: Vec<ArrayRef> = columns
        .map(|column| take(column, &indices, None))
        .collect::<Result<_, _>>()?;
    let nulls = NullBuffer::from_iter(places.iter().map(Option::is_some));
    let fields = rows.schema_ref().fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    let fields: Vec<Field> = fields.collect();
    let rows = StructArray::try_new_with_length(fields.into(), columns, Some(nulls), places.len())?;
    Ok(Arc::new(rows))
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use millpond_connectors::format::json::encode_rows;

    use super::*;

    #[test]
    fn each_change_tells_what_was_and_what_is() {
        let rows = |values: Vec<i64>| {
            let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values))])
                .unwrap()
        };
        let changes = changed(
            &rows(vec![1, 2]),
            &[Some(0), None, Some(1)],
            &rows(vec![10, 20]),
            &[Some(0), Some(1), None],
        )
        .unwrap();
        let texts: Vec<String> = encode_rows(&changes)
            .unwrap()
            .into_iter()
            .map(|row| String::from_utf8(row.to_vec()).unwrap())
            .collect();
        assert_eq!(
            texts,
            [
                r#"{"before":{"n":1},"after":{"n":10},"op":"u"}"#,
                r#"{"after":{"n":20},"op":"c"}"#,
                r#"{"before":{"n":2},"op":"d"}"#,
            ]
        );
    }
}
