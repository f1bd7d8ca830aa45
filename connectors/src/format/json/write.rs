//! Rows as JSON objects, a line of bytes each.
//!
//! Texts, whole numbers and times, which make up nearly all that is written, are written here; every other type, and times outside
//! the years 0 to 9999, is Arrow's writer's business, whose form this is byte by byte.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{
    DataType, Field, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};

use super::instant::{TIMES_MS, write_instant};

/// How one column is written.
enum Column<'a> {
    Text(&'a StringArray),
    Whole(&'a Int64Array),
    /// Milliseconds since 1970, all within [`TIMES_MS`].
    Time(Int64Array),
    Other(NullableEncoder<'a>),
}

/// Writes each row as an object without its NULLs; answers the bytes of all, and where each row lies.
pub(super) fn objects(batch: &RecordBatch) -> Result<(Vec<u8>, Vec<Range<usize>>), ArrowError> {
    let options = EncoderOptions::default()
        .with_explicit_nulls(false)
        .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned());
    let schema = batch.schema();
    let mut names = Vec::with_capacity(batch.num_columns());
    let mut plain: Vec<(Arc<Field>, ArrayRef)> = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let mut name = serde_json::to_vec(field.name())
            .map_err(|error| ArrowError::JsonError(error.to_string()))?;
        name.push(b':');
        names.push(name);
        plain.push(in_utc(field, column)?);
    }
    let mut columns = Vec::with_capacity(plain.len());
    for (field, column) in &plain {
        columns.push(match column.data_type() {
            DataType::Utf8 => Column::Text(column.as_string()),
            DataType::Int64 => Column::Whole(column.as_primitive::<Int64Type>()),
            DataType::Timestamp(unit, None) => match times(column, *unit) {
                Some(times) => Column::Time(times),
                None => Column::Other(make_encoder(field, column.as_ref(), &options)?),
            },
            _ => Column::Other(make_encoder(field, column.as_ref(), &options)?),
        });
    }
    let mut bytes = Vec::new();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let start = bytes.len();
        bytes.push(b'{');
        for (name, column) in names.iter().zip(&mut columns) {
            if column.is_null(row) {
                continue;
            }
            if bytes.len() > start + 1 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(name);
            column.write(row, &mut bytes)?;
        }
        bytes.push(b'}');
        rows.push(start..bytes.len());
    }
    Ok((bytes, rows))
}

impl Column<'_> {
    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(texts) => texts.is_null(row),
            Self::Whole(numbers) => numbers.is_null(row),
            Self::Time(times) => times.is_null(row),
            Self::Other(encoder) => encoder.is_null(row),
        }
    }

    fn write(&mut self, row: usize, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Text(texts) => return write_text(texts.value(row), bytes),
            Self::Whole(numbers) => write_whole(numbers.value(row), bytes),
            Self::Time(times) => write_instant(times.value(row), bytes),
            Self::Other(encoder) => encoder.encode(row, bytes),
        }
        Ok(())
    }
}

/// Brings a timestamp of any zone to UTC, so that one format fits all.
fn in_utc(field: &Arc<Field>, column: &ArrayRef) -> Result<(Arc<Field>, ArrayRef), ArrowError> {
    let DataType::Timestamp(unit, Some(_)) = field.data_type() else {
        return Ok((Arc::clone(field), Arc::clone(column)));
    };
    let plain = DataType::Timestamp(*unit, None);
    let column = arrow::compute::cast(column, &plain)?;
    Ok((
        Arc::new(field.as_ref().clone().with_data_type(plain)),
        column,
    ))
}

/// Milliseconds, rounded down as they are written; `None` if any is far away.
fn times(column: &ArrayRef, unit: TimeUnit) -> Option<Int64Array> {
    let ms: Int64Array = match unit {
        TimeUnit::Second => {
            let seconds = column.as_primitive::<TimestampSecondType>();
            seconds.unary(|seconds| seconds.saturating_mul(1000))
        }
        TimeUnit::Millisecond => column
            .as_primitive::<TimestampMillisecondType>()
            .reinterpret_cast(),
        TimeUnit::Microsecond => column
            .as_primitive::<TimestampMicrosecondType>()
            .unary(|us| us.div_euclid(1000)),
        TimeUnit::Nanosecond => column
            .as_primitive::<TimestampNanosecondType>()
            .unary(|ns| ns.div_euclid(1_000_000)),
    };
    let are_near = ms.iter().flatten().all(|ms| TIMES_MS.contains(&ms));
    are_near.then_some(ms)
}

fn write_text(text: &str, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    // Looked at as a whole, which takes many bytes at a time.
    if text
        .as_bytes()
        .iter()
        .fold(true, |plain, byte| plain & is_plain(byte))
    {
        bytes.push(b'"');
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'"');
        return Ok(());
    }
    serde_json::to_writer(bytes, text).map_err(|error| ArrowError::JsonError(error.to_string()))
}

fn write_whole(number: i64, bytes: &mut Vec<u8>) {
    if number < 0 {
        bytes.push(b'-');
    }
    let mut rest = number.unsigned_abs();
    let start = bytes.len();
    loop {
        let digit = u8::try_from(rest % 10).expect("a digit is less than ten");
        bytes.push(b'0' + digit);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    bytes[start..].reverse();
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Float64Array, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray,
    };
    use arrow::datatypes::Schema;
    use arrow::json::writer::{LineDelimited, WriterBuilder};
    use proptest::prelude::*;

    use super::*;

    fn arrows(batch: &RecordBatch) -> String {
        let mut writer = WriterBuilder::new()
            .with_explicit_nulls(false)
            .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned())
            .build::<_, LineDelimited>(Vec::new());
        writer.write(batch).unwrap();
        writer.finish().unwrap();
        String::from_utf8(writer.into_inner()).unwrap()
    }

    proptest! {
        #[test]
        fn rows_are_written_as_arrows_writer_writes_them(
            texts in prop::collection::vec(prop::option::of(".{0,9}"), 5),
            numbers in prop::collection::vec(prop::option::of(any::<i64>()), 5),
            near in prop::collection::vec(prop::option::of(-70_000_000_000_000_i64..260_000_000_000_000), 5),
            precise in prop::collection::vec(prop::option::of(any::<i64>()), 5),
            floats in prop::collection::vec(prop::option::of(-1e9_f64..1e9), 5),
            flags in prop::collection::vec(prop::option::of(any::<bool>()), 5),
        ) {
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("text", Arc::new(StringArray::from(texts))),
                ("a \"number\"", Arc::new(Int64Array::from(numbers))),
                ("ms", Arc::new(TimestampMillisecondArray::from(near.clone()))),
                ("us", Arc::new(TimestampMicrosecondArray::from(near))),
                ("ns", Arc::new(TimestampNanosecondArray::from(precise))),
                ("float", Arc::new(Float64Array::from(floats))),
                ("flag", Arc::new(BooleanArray::from(flags))),
            ];
            let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
            let schema = Schema::new(fields.collect::<Vec<_>>());
            let columns = columns.into_iter().map(|(_, column)| column).collect();
            let batch = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
            let (bytes, rows) = objects(&batch).unwrap();
            let lines: Vec<&str> = rows.into_iter().map(|row| std::str::from_utf8(&bytes[row]).unwrap()).collect();
            let expected = arrows(&batch);
            prop_assert_eq!(lines, expected.lines().collect::<Vec<_>>());
        }
    }
}
