//! `millpond.savepoints`: the state of jobs under names.
//!
//! Columns: `name`, `job` (whose state it is), `saved_at`, `epoch` (of that job), `bytes`, `sql` (the job's statement).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::error::ArrowError;

use crate::savepoint::Savepoint;

/// The rows of the table.
pub(crate) fn savepoints_batch(savepoints: &[Savepoint]) -> Result<RecordBatch, ArrowError> {
    let text = |value: fn(&Savepoint) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(savepoints.iter().map(value)))
    };
    let number = |value: fn(&Savepoint) -> u64| -> ArrayRef {
        let values = savepoints.iter().map(value);
        let values = values.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        Arc::new(Int64Array::from_iter_values(values))
    };
    let saved_at = savepoints
        .iter()
        .map(|savepoint| savepoint.saved_at.as_ms());
    let saved_at = TimestampMillisecondArray::from_iter_values(saved_at);
    RecordBatch::try_from_iter([
        ("name", text(|savepoint| &savepoint.name)),
        ("job", text(|savepoint| &savepoint.job)),
        ("saved_at", Arc::new(saved_at) as ArrayRef),
        ("epoch", number(|savepoint| savepoint.cut.epoch)),
        ("bytes", number(|savepoint| savepoint.size_bytes)),
        ("sql", text(|savepoint| &savepoint.sql)),
    ])
}
