//! Rows that came too late as messages for the side topic: as they came, with what is told of them in properties.

use std::sync::Arc;

use arrow::array::cast::AsArray;
use arrow::array::{Array, BinaryArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use bytes::Bytes;
use millpond_proto::time::Timestamp;

use crate::job::error::JobError;
use crate::job::intake::Taken;
use crate::job::reader::{missing, offsets};
use crate::job::region::Region;
use crate::job::written::LateRow;
use crate::operator::LateTime;
use crate::topic::OutputRow;

impl Region {
    pub(super) fn late_message(
        &self,
        late: &LateRow,
        piece: &Taken,
    ) -> Result<OutputRow, JobError> {
        let row = piece.envelope_row(late.row);
        let late = &late.late;
        let offset = offsets(&piece.envelope)?.value(row);
        let mut properties = text_properties(&piece.envelope, row)?;
        let times = match late.time {
            LateTime::Window { start, end } => {
                vec![("window_start", iso(start)), ("window_end", iso(end))]
            }
            LateTime::At(time) => vec![("event_time", iso(time))],
        };
        let reason = ("late_reason", late.reason.as_str().to_owned());
        for (key, value) in [reason].into_iter().chain(times).chain([
            ("watermark", iso(late.watermark)),
            (
                "source_topic",
                self.plan.inputs[piece.input].source.name.clone(),
            ),
            ("source_queue", piece.queue.to_string()),
            ("source_offset", offset.to_string()),
        ]) {
            properties.push((key.to_owned(), value));
        }
        // What a query writes has no tag of its own, so it goes where the rest of its origin stands.
        if let Some(tag) = text_at(&piece.envelope, "tag", row)? {
            properties.push(("source_tag".to_owned(), tag));
        }
        Ok(OutputRow {
            key: bytes_at(&piece.envelope, "key", row)?,
            body: bytes_at(&piece.envelope, "body", row)?,
            properties,
        })
    }
}

fn bytes_at(envelope: &RecordBatch, column: &str, row: usize) -> Result<Option<Bytes>, JobError> {
    let column = envelope
        .column_by_name(column)
        .ok_or_else(|| missing(column))?;
    let value = cast(&column.slice(row, 1), &DataType::Binary)?;
    let value: &BinaryArray = value.as_binary();
    Ok(value
        .is_valid(0)
        .then(|| Bytes::copy_from_slice(value.value(0))))
}

fn text_at(envelope: &RecordBatch, column: &str, row: usize) -> Result<Option<String>, JobError> {
    let column = envelope
        .column_by_name(column)
        .ok_or_else(|| missing(column))?;
    let value = cast(&column.slice(row, 1), &DataType::Utf8)?;
    let value: &StringArray = value.as_string();
    Ok(value.is_valid(0).then(|| value.value(0).to_owned()))
}

/// The properties of a message that are text.
fn text_properties(envelope: &RecordBatch, row: usize) -> Result<Vec<(String, String)>, JobError> {
    let wrong = || missing("properties");
    let column = envelope.column_by_name("properties").ok_or_else(wrong)?;
    let list: &ListArray = column.as_list_opt().ok_or_else(wrong)?;
    if list.is_null(row) {
        return Ok(Vec::new());
    }
    let entries = list.value(row);
    let entries: &StructArray = entries.as_struct_opt().ok_or_else(wrong)?;
    let text = |name: &str| {
        let column = entries.column_by_name(name).map(Arc::clone);
        column.ok_or_else(wrong)
    };
    let (keys, values) = (text("key")?, text("text")?);
    let keys: &StringArray = keys.as_string_opt().ok_or_else(wrong)?;
    let values: &StringArray = values.as_string_opt().ok_or_else(wrong)?;
    Ok((0..entries.len())
        .filter(|entry| values.is_valid(*entry))
        .map(|entry| (keys.value(entry).to_owned(), values.value(entry).to_owned()))
        .collect())
}

/// A time as the bodies write it.
fn iso(time: Timestamp) -> String {
    arrow::temporal_conversions::timestamp_ms_to_datetime(time.as_ms()).map_or_else(
        || time.to_string(),
        |time| time.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    )
}
