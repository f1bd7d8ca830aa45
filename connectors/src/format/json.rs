//! JSON bodies: one object per body.
//!
//! **Invariant.** Row `i` of the answer is body `i` of the question, whatever the other bodies hold. The
//! decoder below reads a stream of concatenated values, so each body is checked to be exactly one
//! whole object before the next is pushed; a batch that fails is halved until the bad bodies stand alone.
//!
//! Types are read as the JSON reader of Arrow does: a number may also be written as a string, a number
//! with a fraction loses it in an integer column, a timestamp is ISO 8601 (`2013-01-01T10:00:00Z`, with
//! a space, or the date alone) or a number of the column's unit since 1970. Binary columns are hex.
//! A field that the schema does not name is skipped; a field that the body lacks is NULL.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use bytes::Bytes;

/// Bodies as columns.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// As many rows as bodies; a row that failed, or had no body, is NULL in every column.
    pub batch: RecordBatch,
    /// Rows that failed and why, in order.
    pub errors: Vec<(usize, String)>,
}

/// Reads bodies as rows of a schema.
pub struct JsonDecoder {
    /// What is answered: the asked schema, every column nullable.
    schema: SchemaRef,
}

impl fmt::Debug for JsonDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonDecoder")
            .field("schema", &self.schema)
            .finish()
    }
}

/// Stands in for a body that is absent or bad: every column of it is NULL.
const EMPTY_OBJECT: &[u8] = b"{}";

impl JsonDecoder {
    /// A decoder for these columns. Columns become nullable, since any body may lack any field.
    #[must_use]
    pub fn new(schema: SchemaRef) -> Self {
        let fields: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
        }
    }

    /// The schema of every answer.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes bodies; a NULL body is a tombstone, which is no error and NULL in every column.
    ///
    /// # Errors
    /// None for what a body holds: those are rows of [`Decoded::errors`]. Only a schema that JSON can
    /// not fill answers an error.
    pub fn decode(&self, bodies: &BinaryArray) -> Result<Decoded, ArrowError> {
        let mut parts = Vec::new();
        let mut errors = Vec::new();
        self.decode_range(bodies, 0..bodies.len(), &mut parts, &mut errors)?;
        let batch = match parts.as_slice() {
            [] => RecordBatch::new_empty(Arc::clone(&self.schema)),
            [one] => one.clone(),
            many => concat_batches(&self.schema, many)?,
        };
        assert_eq!(
            batch.num_rows(),
            bodies.len(),
            "every body is exactly one row"
        );
        Ok(Decoded { batch, errors })
    }

    fn decode_range(
        &self,
        bodies: &BinaryArray,
        range: Range<usize>,
        parts: &mut Vec<RecordBatch>,
        errors: &mut Vec<(usize, String)>,
    ) -> Result<(), ArrowError> {
        if range.is_empty() {
            return Ok(());
        }
        let reason = match self.decode_whole(bodies, range.clone())? {
            Ok(batch) => {
                parts.push(batch);
                return Ok(());
            }
            Err(reason) => reason,
        };
        if range.len() == 1 {
            errors.push((range.start, reason));
            let empty = BinaryArray::from(vec![EMPTY_OBJECT]);
            match self.decode_whole(&empty, 0..1)? {
                Ok(batch) => parts.push(batch),
                Err(reason) => return Err(ArrowError::JsonError(reason)),
            }
            return Ok(());
        }
        let middle = range.start + range.len() / 2;
        self.decode_range(bodies, range.start..middle, parts, errors)?;
        self.decode_range(bodies, middle..range.end, parts, errors)
    }

    /// All bodies of a range at once, or why at least one of them is bad.
    fn decode_whole(
        &self,
        bodies: &BinaryArray,
        range: Range<usize>,
    ) -> Result<Result<RecordBatch, String>, ArrowError> {
        let rows = range.len();
        // Room for one more row than there are bodies, so that a second object is read and seen.
        let mut decoder = ReaderBuilder::new(Arc::clone(&self.schema))
            .with_batch_size(rows + 1)
            .build_decoder()?;
        for (pushed, row) in range.enumerate() {
            let body = if bodies.is_null(row) {
                EMPTY_OBJECT
            } else {
                bodies.value(row)
            };
            match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'{') => {}
                Some(_) => return Ok(Err("body is not a JSON object".to_owned())),
                None => return Ok(Err("body is empty".to_owned())),
            }
            match decoder.decode(body) {
                Err(error) => return Ok(Err(reason(&error))),
                Ok(_) if decoder.has_partial_record() => {
                    return Ok(Err("JSON ends within an object".to_owned()));
                }
                Ok(read) if read != body.len() || decoder.len() != pushed + 1 => {
                    return Ok(Err("body holds more than one JSON object".to_owned()));
                }
                Ok(_) => {}
            }
        }
        if self.schema.fields().is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            return RecordBatch::try_new_with_options(Arc::clone(&self.schema), vec![], &options)
                .map(Ok);
        }
        match decoder.flush() {
            Ok(Some(batch)) if batch.num_rows() == rows => Ok(Ok(batch)),
            Ok(_) => Ok(Err("body is not one JSON object".to_owned())),
            Err(error) => Ok(Err(reason(&error))),
        }
    }
}

/// What a decoding error says about the body, without the wording of the library around it.
fn reason(error: &ArrowError) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("Json error: ").unwrap_or(&text);
    text.chars().take(REASON_CHARS_MAX).collect()
}

/// Longest reason that is kept of a bad body; the library quotes the body's text in it.
const REASON_CHARS_MAX: usize = 200;

/// Writes each row as one JSON object: NULLs are left out, timestamps are ISO 8601 UTC with
/// milliseconds, numbers are plain and read back as the same value.
///
/// # Errors
/// When a column's type has no JSON form.
pub fn encode_rows(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    let batch = with_plain_timestamps(batch)?;
    if batch.num_columns() == 0 {
        return Ok(vec![Bytes::from_static(EMPTY_OBJECT); batch.num_rows()]);
    }
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(false)
        .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned())
        .build::<_, LineDelimited>(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let all = Bytes::from(writer.into_inner());
    // JSON escapes newlines within strings, so every newline ends a row.
    let mut rows = Vec::with_capacity(batch.num_rows());
    let mut start = 0;
    for (at, byte) in all.iter().enumerate() {
        if *byte == b'\n' {
            rows.push(all.slice(start..at));
            start = at + 1;
        }
    }
    assert_eq!(
        rows.len(),
        batch.num_rows(),
        "every row is exactly one line"
    );
    Ok(rows)
}

/// Brings timestamps of every unit and zone to UTC, so that one format fits all.
fn with_plain_timestamps(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if let DataType::Timestamp(unit, Some(_)) = field.data_type() {
            let plain = DataType::Timestamp(*unit, None);
            columns.push(arrow::compute::cast(column, &plain)?);
            fields.push(field.as_ref().clone().with_data_type(plain));
        } else {
            columns.push(Arc::clone(column));
            fields.push(field.as_ref().clone());
        }
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::{Float64Type, Int64Type, TimeUnit, TimestampMillisecondType};
    use proptest::prelude::*;

    use super::*;

    fn flights() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("carrier", DataType::Utf8, true),
            Field::new("delay", DataType::Float64, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("n", DataType::Int64, true),
        ]))
    }

    fn decode(bodies: &[Option<&str>]) -> Decoded {
        let bodies: BinaryArray = bodies.iter().map(|body| body.map(str::as_bytes)).collect();
        JsonDecoder::new(flights())
            .decode(&bodies)
            .expect("the schema is one that JSON fills")
    }

    fn carriers(decoded: &Decoded) -> Vec<Option<String>> {
        decoded
            .batch
            .column(0)
            .as_string::<i32>()
            .iter()
            .map(|value| value.map(str::to_owned))
            .collect()
    }

    #[test]
    fn bad_bodies_are_found_and_their_neighbours_stay_in_place() {
        let bodies = [
            Some(r#"{"carrier":"AA","delay":1.5}"#),
            Some(r#"{"carrier":"B1"}{"carrier":"B2"}"#),
            Some(r#"{"carrier":"#),
            Some(r#""AA"}"#),
            Some(r#"{"carrier":"UA"} x"#),
            None,
            Some("[1]"),
            Some(r#"{"carrier":7}"#),
            Some(r#"{"delay":"much"}"#),
            Some(""),
            Some("null"),
            Some(" { } "),
            Some(r#"{"carrier":"DL","other":[{"x":1}]}"#),
        ];
        let decoded = decode(&bodies);
        let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
        assert_eq!(bad, vec![1, 2, 3, 4, 6, 7, 8, 9, 10], "{decoded:?}");
        let expected: Vec<Option<String>> = (0..bodies.len())
            .map(|row| match row {
                0 => Some("AA".to_owned()),
                12 => Some("DL".to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(carriers(&decoded), expected);
        assert_eq!(
            decoded
                .batch
                .column(1)
                .as_primitive::<Float64Type>()
                .value(0),
            1.5
        );
    }

    #[test]
    fn timestamps_are_read_in_each_iso_form() {
        let decoded = decode(&[
            Some(r#"{"at":"2013-01-01T10:00:00Z"}"#),
            Some(r#"{"at":"2013-01-01 10:00:00"}"#),
            Some(r#"{"at":"2013-01-01"}"#),
            Some(r#"{"at":1357034400000}"#),
            Some(r#"{"at":"soon"}"#),
        ]);
        let at = decoded
            .batch
            .column(2)
            .as_primitive::<TimestampMillisecondType>();
        let ten = 1_357_034_400_000;
        assert_eq!(
            at.iter().collect::<Vec<_>>(),
            vec![
                Some(ten),
                Some(ten),
                Some(ten - 36_000_000),
                Some(ten),
                None
            ]
        );
        assert_eq!(decoded.errors.len(), 1);
    }

    #[test]
    fn bodies_that_are_not_utf8_are_errors_of_their_row() {
        let bodies = BinaryArray::from(vec![
            &b"{\"carrier\":\"\xff\xfe\"}"[..],
            &b"{\"carrier\":\"AA\"}"[..],
        ]);
        let decoded = JsonDecoder::new(flights()).decode(&bodies).unwrap();
        assert_eq!(decoded.errors.len(), 1);
        assert_eq!(carriers(&decoded), vec![None, Some("AA".to_owned())]);
    }

    #[test]
    fn without_columns_bodies_are_still_counted_and_checked() {
        let bodies = BinaryArray::from(vec![&b"{}"[..], &b"{"[..]]);
        let decoded = JsonDecoder::new(Arc::new(Schema::empty()))
            .decode(&bodies)
            .unwrap();
        assert_eq!(decoded.batch.num_rows(), 2);
        assert_eq!(decoded.errors.len(), 1);
    }

    #[test]
    fn rows_are_written_as_objects_that_read_back_the_same() {
        let batch = RecordBatch::try_new(
            flights(),
            vec![
                Arc::new(StringArray::from(vec![Some("A\n\"A"), None])),
                Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(1e300)])),
                Arc::new(TimestampMillisecondArray::from(vec![
                    Some(1_357_034_400_123),
                    None,
                ])),
                Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(-1)])),
            ],
        )
        .unwrap();
        let rows = encode_rows(&batch).unwrap();
        assert_eq!(
            std::str::from_utf8(&rows[0]).unwrap(),
            "{\"carrier\":\"A\\n\\\"A\",\"delay\":0.30000000000000004,\"at\":\"2013-01-01T10:00:00.123Z\",\"n\":9223372036854775807}"
        );
        assert!(!String::from_utf8_lossy(&rows[1]).contains("carrier"));
        let bodies: BinaryArray = rows.iter().map(|row| Some(row.as_ref())).collect();
        let back = JsonDecoder::new(flights()).decode(&bodies).unwrap();
        assert!(back.errors.is_empty());
        assert_eq!(back.batch, batch);
    }

    proptest! {
        #[test]
        fn exactly_the_bad_bodies_are_flagged(
            kinds in proptest::collection::vec((0_u8..8, any::<i64>()), 0..60)
        ) {
            let bodies: Vec<Option<String>> = kinds
                .iter()
                .map(|(kind, n)| match kind {
                    0..=3 => Some(format!("{{\"n\":{n}}}")),
                    4 => None,
                    5 => Some(format!("{{\"n\":{n}}}{{\"n\":{n}}}")),
                    6 => Some(format!("{{\"n\":{n}")),
                    _ => Some("{\"n\":\"x\"}".to_owned()),
                })
                .collect();
            let refs: Vec<Option<&str>> = bodies.iter().map(Option::as_deref).collect();
            let decoded = decode(&refs);
            let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
            let expected: Vec<usize> = (0..kinds.len()).filter(|row| kinds[*row].0 > 4).collect();
            prop_assert_eq!(bad, expected);
            let n = decoded.batch.column(3).as_primitive::<Int64Type>();
            for (row, (kind, value)) in kinds.iter().enumerate() {
                prop_assert_eq!(n.is_valid(row), *kind < 4);
                if *kind < 4 {
                    prop_assert_eq!(n.value(row), *value);
                }
            }
        }
    }
}
