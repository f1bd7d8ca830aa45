//! Rows as JSON objects, a line of bytes each.
//!
//! Texts, whole numbers, decimals, dates and times, which make up nearly all that is written, are written here; every other type
//! is Arrow's writer's business, whose form this is byte by byte.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray as _, Date32Array, Decimal128Array, Int64Array, RecordBatch,
    StringArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};

use super::instant::{Instants, write_date};
use super::wordless;

/// How one column is written.
enum Column<'a> {
    Text(&'a StringArray),
    Whole(&'a Int64Array),
    /// With so many digits behind the point.
    Decimal(&'a Decimal128Array, usize),
    /// Milliseconds since 1970.
    Time(Int64Array, Instants),
    Date(&'a Date32Array),
    Other(NullableEncoder<'a>),
}

/// Writes each row as an object without its NULLs; answers the bytes of all, and where each row lies.
pub(super) fn objects(batch: &RecordBatch) -> Result<(Vec<u8>, Vec<Range<usize>>), ArrowError> {
    let options = wordless::options()
        .with_explicit_nulls(false)
        .with_timestamp_format("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned());
    let schema = batch.schema();
    let mut names = Vec::with_capacity(batch.num_columns());
    let mut plain: Vec<(Arc<Field>, ArrayRef)> = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let mut name = vec![b','];
        serde_json::to_writer(&mut name, field.name())
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
            DataType::Decimal128(_, scale @ 0..) => {
                let scale = usize::from(scale.unsigned_abs());
                Column::Decimal(column.as_primitive::<Decimal128Type>(), scale)
            }
            DataType::Timestamp(unit, None) => {
                Column::Time(times(column, *unit), Instants::default())
            }
            DataType::Date32 => Column::Date(column.as_primitive::<Date32Type>()),
            _ => Column::Other(make_encoder(field, column.as_ref(), &options)?),
        });
    }
    let count = batch.num_rows();
    let names_bytes: usize = names.iter().map(Vec::len).sum();
    let values_bytes: usize = columns.iter().map(|column| column.bytes(count)).sum();
    let mut bytes = Vec::with_capacity(values_bytes + count * (names_bytes + 1));
    let mut rows = Vec::with_capacity(count);
    for row in 0..count {
        let start = bytes.len();
        for (name, column) in names.iter().zip(&mut columns) {
            if !column.is_null(row) {
                bytes.extend_from_slice(name);
                column.write(row, &mut bytes)?;
            }
        }
        // The comma before the first member is where the brace belongs.
        match bytes.get_mut(start) {
            Some(comma) => *comma = b'{',
            None => bytes.push(b'{'),
        }
        bytes.push(b'}');
        rows.push(start..bytes.len());
    }
    Ok((bytes, rows))
}

impl Column<'_> {
    /// What the values of so many rows take, about.
    fn bytes(&self, rows: usize) -> usize {
        match self {
            Self::Text(texts) => {
                let offsets = texts.value_offsets();
                let ends = offsets.first().zip(offsets.last());
                let texts = ends.map_or(0, |(first, last)| last - first);
                usize::try_from(texts).unwrap_or(0) + 2 * rows
            }
            Self::Whole(_) | Self::Decimal(..) | Self::Date(_) | Self::Other(_) => 12 * rows,
            Self::Time(..) => 26 * rows,
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Text(texts) => texts.is_null(row),
            Self::Whole(numbers) => numbers.is_null(row),
            Self::Decimal(numbers, _) => numbers.is_null(row),
            Self::Time(times, _) => times.is_null(row),
            Self::Date(days) => days.is_null(row),
            Self::Other(encoder) => encoder.is_null(row),
        }
    }

    fn write(&mut self, row: usize, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
        match self {
            Self::Text(texts) => return write_text(texts.value(row), bytes),
            Self::Whole(numbers) => write_whole(numbers.value(row), bytes),
            Self::Decimal(numbers, scale) => write_decimal(numbers.value(row), *scale, bytes),
            Self::Time(times, instants) => instants.write(times.value(row), bytes),
            Self::Date(days) => write_day(days.value(row), bytes),
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

/// Milliseconds, rounded down as they are written.
fn times(column: &ArrayRef, unit: TimeUnit) -> Int64Array {
    match unit {
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
    }
}

fn write_day(days: i32, bytes: &mut Vec<u8>) {
    let mut text = String::with_capacity("\"1970-01-01\"".len());
    text.push('"');
    let written = write_date(days, &mut text);
    debug_assert!(written.is_ok(), "a string takes all that is written");
    text.push('"');
    bytes.extend_from_slice(text.as_bytes());
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
    // Written from its end, two digits at a time.
    let mut text = [b'-'; 20];
    let mut at = text.len();
    let mut rest = number.unsigned_abs();
    while rest >= 100 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&pair(rest % 100));
        rest /= 100;
    }
    at -= 2;
    text[at..at + 2].copy_from_slice(&pair(rest));
    at += usize::from(rest < 10);
    if number < 0 {
        at -= 1;
        text[at] = b'-';
    }
    bytes.extend_from_slice(&text[at..]);
}

/// The two digits of a number below a hundred.
fn pair(number: u64) -> [u8; 2] {
    let number = u8::try_from(number).expect("it is below a hundred");
    [b'0' + number / 10, b'0' + number % 10]
}

/// Writes a number that counts so many digits behind the point: all of these, and at least one before it.
fn write_decimal(number: i128, scale: usize, bytes: &mut Vec<u8>) {
    if number < 0 {
        bytes.push(b'-');
    }
    let mut rest = number.unsigned_abs();
    let start = bytes.len();
    let mut count = 0;
    while rest > 0 || count <= scale {
        if count == scale && scale > 0 {
            bytes.push(b'.');
        }
        let digit = match u64::try_from(rest) {
            // Most fit, and the processor divides them by itself.
            Ok(small) => {
                rest = u128::from(small / 10);
                u128::from(small % 10)
            }
            Err(_) => {
                let digit = rest % 10;
                rest /= 10;
                digit
            }
        };
        bytes.push(b'0' + u8::try_from(digit).expect("a digit is less than ten"));
        count += 1;
    }
    bytes[start..].reverse();
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryArray, BooleanArray, Float64Array, TimestampMicrosecondArray,
        TimestampMillisecondArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::Schema;
    use arrow::json::writer::{LineDelimited, WriterBuilder};
    use proptest::prelude::*;

    use super::*;
    use crate::format::json::JsonDecoder;
    use crate::format::json::instant::TIMES_MS;

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
        fn every_time_and_every_date_reads_back_the_same(
            times in prop::collection::vec(prop::option::of(any::<i64>()), 5),
            days in prop::collection::vec(prop::option::of(any::<i32>()), 5),
        ) {
            let columns: [(&str, ArrayRef); 2] = [
                ("at", Arc::new(TimestampMillisecondArray::from(times))),
                ("day", Arc::new(Date32Array::from(days))),
            ];
            let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
            let (bytes, rows) = objects(&batch).unwrap();
            let bodies: BinaryArray = rows.into_iter().map(|row| Some(&bytes[row])).collect();
            let back = JsonDecoder::new(batch.schema()).decode(&bodies).unwrap();
            prop_assert!(back.errors.is_empty(), "{:?}", back.errors);
            prop_assert_eq!(back.batch, batch);
        }

        #[test]
        fn rows_are_written_as_arrows_writer_writes_them(
            texts in prop::collection::vec(prop::option::of(".{0,9}"), 5),
            numbers in prop::collection::vec(prop::option::of(any::<i64>()), 5),
            near in prop::collection::vec(prop::option::of(TIMES_MS), 5),
            days in prop::collection::vec(prop::option::of(-719_528_i32..2_932_897), 5),
            precise in prop::collection::vec(prop::option::of(any::<i64>()), 5),
            floats in prop::collection::vec(prop::option::of(-1e9_f64..1e9), 5),
            flags in prop::collection::vec(prop::option::of(any::<bool>()), 5),
            decimals in prop::collection::vec(prop::option::of(-10_i128.pow(38) + 1..10_i128.pow(38)), 5),
            small in prop::collection::vec(prop::option::of(-99_999_i128..100_000), 5),
        ) {
            let decimal = |numbers: Vec<Option<i128>>, precision, scale| {
                let numbers = Decimal128Array::from(numbers);
                Arc::new(numbers.with_precision_and_scale(precision, scale).unwrap())
            };
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("text", Arc::new(StringArray::from(texts))),
                ("a \"number\"", Arc::new(Int64Array::from(numbers))),
                ("ms", Arc::new(TimestampMillisecondArray::from(near.clone()))),
                ("us", Arc::new(TimestampMicrosecondArray::from(near))),
                ("day", Arc::new(Date32Array::from(days))),
                ("ns", Arc::new(TimestampNanosecondArray::from(precise))),
                ("float", Arc::new(Float64Array::from(floats))),
                ("flag", Arc::new(BooleanArray::from(flags))),
                ("large", decimal(decimals.clone(), 38, 20)),
                ("whole", decimal(decimals, 38, 0)),
                ("small", decimal(small.clone(), 5, 3)),
                ("fraction", decimal(small.clone(), 5, 5)),
                ("round", decimal(small, 5, -2)),
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
