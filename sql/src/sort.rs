//! Sorts rows that are all in memory by SQL expressions: what `millpond import --order-by` needs.
//!
//! Input and output have the same columns and the same rows. Rows that compare equal keep their order.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::prelude::{SessionConfig, SessionContext};
use millpond_proto::remedy::Remedy;

/// Numbers the rows, so that equal rows keep their order.
const ROW: &str = "__millpond_row";

/// Why rows could not be sorted.
#[derive(Debug, thiserror::Error)]
pub enum SortError {
    /// The expressions do not parse, or name something that the rows do not have.
    #[error("rows can not be ordered by {expressions:?}: {}", first_line(cause))]
    Expression {
        /// As given.
        expressions: String,
        /// Cause.
        cause: Box<DataFusionError>,
    },
    /// The rows do not have the form of each other.
    #[error("the rows can not be sorted together")]
    Rows(#[from] ArrowError),
}

impl SortError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Expression { .. } => Remedy::FixRequest,
            Self::Rows(_) => Remedy::Bug,
        }
    }
}

/// Sorts `batches` by SQL `expressions`, written as behind `ORDER BY`: `a, b DESC, c + d`.
///
/// # Errors
/// [`SortError::Expression`] when they can not be evaluated over these columns.
pub async fn order_by(
    batches: Vec<RecordBatch>,
    expressions: &str,
) -> Result<Vec<RecordBatch>, SortError> {
    let Some(first) = batches.first() else {
        return Ok(batches);
    };
    let width = first.num_columns();
    let mut fields: Vec<Arc<Field>> = first.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(ROW, DataType::UInt64, false)));
    let schema = Arc::new(Schema::new(fields));
    let mut numbered = Vec::with_capacity(batches.len());
    let mut start = 0_u64;
    for batch in batches {
        let end = start + batch.num_rows() as u64;
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns.push(Arc::new(UInt64Array::from_iter_values(start..end)));
        numbered.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        start = end;
    }
    let sorted =
        sort(schema, numbered, expressions)
            .await
            .map_err(|cause| SortError::Expression {
                expressions: expressions.to_owned(),
                cause: Box::new(cause),
            })?;
    let kept: Vec<usize> = (0..width).collect();
    let sorted = sorted.iter().map(|batch| batch.project(&kept));
    Ok(sorted.collect::<Result<_, _>>()?)
}

async fn sort(
    schema: Arc<Schema>,
    batches: Vec<RecordBatch>,
    expressions: &str,
) -> Result<Vec<RecordBatch>, DataFusionError> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(schema, vec![batches])?;
    context.register_table("rows", Arc::new(table))?;
    let sql = format!("SELECT * FROM rows ORDER BY {expressions}, {ROW}");
    let reads_only = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    context
        .sql_with_options(&sql, reads_only)
        .await?
        .collect()
        .await
}

fn first_line(cause: &DataFusionError) -> String {
    let text = cause.strip_backtrace();
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn rows() -> Vec<RecordBatch> {
        let hours = [0, 3_600_000_000, 0].map(Some);
        let batch = RecordBatch::try_from_iter([
            (
                "time_hour",
                Arc::new(TimestampMicrosecondArray::from(hours.to_vec()).with_timezone("+00:00"))
                    as ArrayRef,
            ),
            ("minute", Arc::new(Int64Array::from(vec![59, 0, 70]))),
            ("name", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
        ]);
        vec![batch.unwrap()]
    }

    async fn minutes(expressions: &str) -> Vec<i64> {
        let sorted = order_by(rows(), expressions).await.unwrap();
        let columns = sorted.iter().map(|batch| batch.column(1));
        columns
            .flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec())
            .collect()
    }

    #[tokio::test]
    async fn columns_directions_and_arithmetic_order_rows() {
        assert_eq!(minutes("minute").await, [0, 59, 70]);
        assert_eq!(minutes("name DESC").await, [70, 0, 59]);
        let event_time = "to_unixtime(time_hour) + minute * 60";
        assert_eq!(minutes(event_time).await, [59, 0, 70]);
    }

    #[tokio::test]
    async fn equal_rows_keep_their_order() {
        assert_eq!(minutes("1 + 1").await, [59, 0, 70]);
    }

    #[tokio::test]
    async fn an_unknown_column_is_named() {
        let error = order_by(rows(), "nothing").await.unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
        assert!(order_by(rows(), "minute; DROP TABLE rows").await.is_err());
    }
}
