//! `millpond.job_operators`: the steps of every continuous query, from what it reads to what it writes.
//!
//! Columns: `job`, `position` (from 0), `operator`, `rows_in`, `rows_out`, `bytes_in` (what reads a topic), `state_bytes` (in memory),
//! `state_bytes_at_rest` (what more of it would take in memory), `watermark` (what reads a topic), `busy_share` (of the query's time: computing; of what writes the output, committing, appending and saving, by which
//! the others are held back), `back_pressured_share` (in which it could not go on, since the steps behind it had the rows; what is left of the
//! whole it waited for rows). Rows and bytes are counted since the query was started here, state is as it stands.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::error::ArrowError;

use crate::continuous::{JobStatus, OperatorStatus};

/// The rows of the table.
pub(crate) fn operators_batch(jobs: &[JobStatus]) -> Result<RecordBatch, ArrowError> {
    let all: Vec<(&str, i64, &OperatorStatus)> = jobs
        .iter()
        .flat_map(|job| {
            let steps = (0..).zip(&job.operators);
            steps.map(|(position, step)| (job.name.as_str(), position, step))
        })
        .collect();
    let number = |value: fn(&OperatorStatus) -> Option<u64>| -> ArrayRef {
        let values = all.iter().map(|(_, _, step)| value(step));
        let values =
            values.map(|value| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)));
        Arc::new(values.collect::<Int64Array>())
    };
    let watermarks: TimestampMillisecondArray = all
        .iter()
        .map(|(_, _, step)| step.watermark.map(|watermark| watermark.as_ms()))
        .collect();
    let names = StringArray::from_iter_values(all.iter().map(|(job, ..)| *job));
    let positions = Int64Array::from_iter_values(all.iter().map(|(_, position, _)| *position));
    let operators = StringArray::from_iter_values(all.iter().map(|(.., step)| &step.operator));
    let share = |value: fn(&OperatorStatus) -> u64| -> ArrayRef {
        let shares = all.iter().map(|(.., step)| value(step) as f64 / 1000.0);
        Arc::new(shares.map(Some).collect::<Float64Array>())
    };
    RecordBatch::try_from_iter_with_nullable([
        ("job", Arc::new(names) as ArrayRef, false),
        ("position", Arc::new(positions) as ArrayRef, false),
        ("operator", Arc::new(operators) as ArrayRef, false),
        ("rows_in", number(|step| Some(step.rows_in)), false),
        ("rows_out", number(|step| Some(step.rows_out)), false),
        ("bytes_in", number(|step| step.bytes_in), true),
        ("state_bytes", number(|step| Some(step.state_bytes)), false),
        (
            "state_bytes_at_rest",
            number(|step| Some(step.rest_bytes)),
            false,
        ),
        ("watermark", Arc::new(watermarks) as ArrayRef, true),
        ("busy_share", share(|step| step.busy), false),
        (
            "back_pressured_share",
            share(|step| step.back_pressured),
            false,
        ),
    ])
}
