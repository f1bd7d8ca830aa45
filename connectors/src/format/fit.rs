//! Typed values of Avro and Protobuf as values of a column, and rows of them as columns.
//!
//! What a column takes: an integer that fits its type, its own kind of value, VARCHAR also enums and, as JSON, whatever is
//! nested; DOUBLE and DECIMAL also integers; TIMESTAMP also integers of milliseconds, DATE of days. NULL everywhere. Nothing is
//! cut off: what does not fit makes the body one that does not decode.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::format::json::Decoded;
use crate::format::json::column::{Builder, Kind, Slot, bounded};
use crate::format::json::wordless;

/// What is wrong with a body.
pub(crate) type Bad = Cow<'static, str>;

/// Longest reason that is kept of a bad body, which it may quote.
const REASON_CHARS_MAX: usize = 200;

/// A value as a typed format holds it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// Units of the scale.
    Decimal(i128, i8),
    /// Milliseconds since 1970.
    Timestamp(i64),
    /// Days since 1970.
    Date(i32),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

/// What kind of values a field of a schema has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Null,
    Boolean,
    Integer,
    Float,
    Decimal,
    Timestamp,
    Date,
    Text,
    Bytes,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "nothing but NULL",
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Float => "a float",
            Self::Decimal => "a decimal",
            Self::Timestamp => "a timestamp",
            Self::Date => "a date",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }
}

/// Whether a column takes values of a class; a single value may still be too large for it.
pub(crate) fn takes(kind: &Kind, class: Class) -> bool {
    match kind {
        _ if class == Class::Null => true,
        Kind::Text => class == Class::Text,
        Kind::Boolean => class == Class::Boolean,
        Kind::Bytes => class == Class::Bytes,
        Kind::Integer(..) => matches!(class, Class::Integer | Class::Decimal),
        Kind::Float | Kind::Double => matches!(class, Class::Integer | Class::Float),
        Kind::Decimal(..) => matches!(class, Class::Integer | Class::Decimal),
        Kind::Timestamp => matches!(class, Class::Timestamp | Class::Integer),
        Kind::Date => matches!(class, Class::Date | Class::Integer),
    }
}

/// The value as the column's own, or why it is none.
pub(crate) fn fit<'a>(kind: &Kind, datum: Datum<'a>) -> Result<Slot<'a>, Bad> {
    let too_large = |value: &dyn std::fmt::Display| {
        Err(Bad::Owned(format!("{value} does not fit {}", kind.name())))
    };
    Ok(match (kind, datum) {
        (_, Datum::Null) => Slot::Null,
        (Kind::Boolean, Datum::Boolean(value)) => Slot::Boolean(value),
        (Kind::Text, Datum::Text(value)) => Slot::Text(value),
        (Kind::Bytes, Datum::Bytes(value)) => Slot::Bytes(value.into_owned()),
        (Kind::Integer(min, max, _), Datum::Integer(value)) => {
            if !(*min..=*max).contains(&value) {
                return too_large(&value);
            }
            Slot::Integer(value)
        }
        (Kind::Integer(min, max, _), Datum::Decimal(units, scale)) => {
            match rescaled(units, scale, 0).and_then(|value| i64::try_from(value).ok()) {
                Some(value) if (*min..=*max).contains(&value) => Slot::Integer(value),
                _ => return too_large(&format!("{units}e-{scale}")),
            }
        }
        (Kind::Float | Kind::Double, Datum::Float(value)) => {
            if value.is_finite() && !kind.holds(value) {
                return too_large(&value);
            }
            Slot::Float(value)
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "a DOUBLE is the nearest to its number"
        )]
        (Kind::Float | Kind::Double, Datum::Integer(value)) => Slot::Float(value as f64),
        (Kind::Decimal(precision, scale), Datum::Integer(value)) => {
            match rescaled(value.into(), 0, *scale).and_then(|units| bounded(units, *precision)) {
                Some(units) => Slot::Decimal(units),
                None => return too_large(&value),
            }
        }
        (Kind::Decimal(precision, scale), Datum::Decimal(units, from)) => {
            match rescaled(units, from, *scale).and_then(|units| bounded(units, *precision)) {
                Some(units) => Slot::Decimal(units),
                None => return too_large(&format!("{units}e-{from}")),
            }
        }
        (Kind::Timestamp, Datum::Timestamp(value) | Datum::Integer(value)) => Slot::Integer(value),
        (Kind::Date, Datum::Date(value)) => Slot::Integer(value.into()),
        (Kind::Date, Datum::Integer(value)) => match i32::try_from(value) {
            Ok(days) => Slot::Integer(days.into()),
            Err(_) => return too_large(&value),
        },
        (kind, _) => return Err(format!("the value is not a {}", kind.name()).into()),
    })
}

/// Units of another scale; `None` when digits would be lost or there are too many.
pub(crate) fn rescaled(units: i128, from: i8, to: i8) -> Option<i128> {
    let shift = i32::from(to) - i32::from(from);
    let factor = 10_i128.checked_pow(shift.unsigned_abs())?;
    if shift >= 0 {
        units.checked_mul(factor)
    } else {
        (units % factor == 0).then_some(units / factor)
    }
}

/// Columns to be filled, row by row.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// What is answered; every column is nullable.
    pub(crate) schema: SchemaRef,
    pub(crate) kinds: Vec<Kind>,
    /// Per column, whether it is built; the others are checked and answered as NULL.
    pub(crate) wanted: Vec<bool>,
}

impl Columns {
    pub(crate) fn new(schema: &Schema, wanted: impl Fn(&str) -> bool) -> Result<Self, ArrowError> {
        let fields: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let kinds = fields.iter().map(|field| Kind::of(field.data_type()));
        Ok(Self {
            kinds: kinds.collect::<Result<_, _>>()?,
            wanted: fields.iter().map(|field| wanted(field.name())).collect(),
            schema: Arc::new(Schema::new(fields)),
        })
    }

    pub(crate) fn name(&self, column: usize) -> &str {
        self.schema
            .fields()
            .get(column)
            .map_or("", |field| field.name())
    }

    /// Reads each body into the slots of its row; a NULL body is NULL in every column.
    pub(crate) fn decode<'a>(
        &self,
        bodies: &'a BinaryArray,
        mut read: impl FnMut(usize, &'a [u8], &mut [Slot<'a>]) -> Result<(), Bad>,
    ) -> Result<Decoded, ArrowError> {
        let rows = bodies.len();
        let fields = self.schema.fields();
        // About what each text column holds, so that they seldom have to grow.
        let offsets = bodies.value_offsets();
        let ends = offsets.first().zip(offsets.last());
        let bytes = ends.map_or(0, |(first, last)| {
            usize::try_from(last - first).unwrap_or(0)
        });
        let share = bytes / fields.len().max(1);
        let mut builders = Vec::with_capacity(fields.len());
        for (field, wanted) in fields.iter().zip(&self.wanted) {
            builders.push(match wanted {
                true => Some(Builder::new(field.data_type(), rows, share)?),
                false => None,
            });
        }
        let mut errors = Vec::new();
        let mut slots: Vec<Slot<'a>> = vec![Slot::Null; fields.len()];
        for (row, body) in bodies.iter().enumerate() {
            slots.fill(Slot::Null);
            if let Some(body) = body
                && let Err(reason) = read(row, body, &mut slots)
            {
                slots.fill(Slot::Null);
                errors.push((row, reason.chars().take(REASON_CHARS_MAX).collect()));
            }
            for (builder, slot) in builders.iter_mut().zip(&mut slots) {
                if let Some(builder) = builder {
                    builder.append(std::mem::replace(slot, Slot::Null));
                }
            }
        }
        let columns: Vec<ArrayRef> = builders
            .into_iter()
            .zip(fields)
            .map(|(builder, field)| match builder {
                Some(builder) => builder.finish(),
                None => new_null_array(field.data_type(), rows),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Decoded { batch, errors })
    }
}

/// Most bytes of JSON that what is nested in a body of this size becomes: names and words take more room there than they do in a body,
/// and a scan's worth of bodies must fit a column, 2 GiB.
pub(crate) fn nested_text_max(body_bytes: usize) -> usize {
    16 * 1024 + body_bytes.saturating_mul(64)
}

/// What is wrong with a body above [`nested_text_max`].
pub(crate) const NESTED_TOO_LARGE: &str = "what is nested in it is too large as JSON";

/// Appends text as a JSON string.
pub(crate) fn put_json_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Appends a number as JSON; those that it has no word for as columns of numbers are written.
pub(crate) fn put_json_float(out: &mut String, value: f64) {
    match serde_json::Number::from_f64(value) {
        Some(number) => out.push_str(&number.to_string()),
        None => out.push_str(wordless::name(value)),
    }
}

/// Appends bytes as a JSON string of hex digits, as columns of BYTES are written in JSON.
pub(crate) fn put_json_bytes(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for byte in bytes {
        out.push_str(&format!("{byte:02x}"));
    }
    out.push('"');
}

/// The column of a batch that a field is written from, in the type that the field takes.
pub(crate) fn column_as(
    batch: &RecordBatch,
    name: &str,
    data_type: &DataType,
) -> Result<Option<ArrayRef>, ArrowError> {
    let strict = arrow::compute::CastOptions {
        safe: false,
        ..arrow::compute::CastOptions::default()
    };
    let Some(column) = batch.column_by_name(name) else {
        return Ok(None);
    };
    arrow::compute::cast_with_options(column, data_type, &strict).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_fits_or_is_refused_and_never_cut() {
        let int = Kind::Integer(i32::MIN.into(), i32::MAX.into(), "INT");
        assert_eq!(fit(&int, Datum::Integer(7)), Ok(Slot::Integer(7)));
        assert!(fit(&int, Datum::Integer(1 << 40)).is_err());
        assert_eq!(fit(&int, Datum::Decimal(700, 2)), Ok(Slot::Integer(7)));
        assert!(fit(&int, Datum::Decimal(701, 2)).is_err());
        assert!(fit(&int, Datum::Text("7".into())).is_err());
        let decimal = Kind::Decimal(4, 2);
        assert_eq!(fit(&decimal, Datum::Integer(12)), Ok(Slot::Decimal(1200)));
        assert!(fit(&decimal, Datum::Integer(123)).is_err());
        assert_eq!(fit(&decimal, Datum::Decimal(15, 1)), Ok(Slot::Decimal(150)));
        assert!(fit(&decimal, Datum::Decimal(1555, 3)).is_err());
        assert!(fit(&decimal, Datum::Decimal(i128::MIN, 0)).is_err());
        assert_eq!(fit(&Kind::Text, Datum::Null), Ok(Slot::Null));
        assert!(fit(&Kind::Float, Datum::Float(1e39)).is_err());
        for (kind, value) in [(Kind::Float, f64::INFINITY), (Kind::Double, 1e39)] {
            assert_eq!(fit(&kind, Datum::Float(value)), Ok(Slot::Float(value)));
        }
    }

    #[test]
    fn a_nested_number_without_a_word_is_written_as_one_in_a_column() {
        let mut out = String::new();
        for value in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1.5] {
            put_json_float(&mut out, value);
        }
        assert_eq!(out, "\"Infinity\"\"-Infinity\"\"NaN\"1.5");
    }
}
