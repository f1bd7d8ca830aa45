//! Tokens as values of one column: which texts and numbers a type takes, exactly.
//!
//! | type | takes |
//! |---|---|
//! | VARCHAR | text; objects and arrays as the JSON text that stands there |
//! | integers | numbers and texts without a fraction that fit; `2.0` and `1e3` have none |
//! | DOUBLE, FLOAT | numbers and texts of numbers within their range, also `"NaN"`, `"Infinity"` and `"-Infinity"` |
//! | DECIMAL | numbers, texts of numbers; digits behind the scale are rounded, however many |
//! | BOOLEAN | `true`, `false` |
//! | TIMESTAMP | ISO 8601 text, years of more than four digits with their sign; whole numbers of milliseconds since 1970 |
//! | DATE | ISO 8601 text, of a time its date as it is written; whole numbers of days since 1970 |
//! | BYTES | hex text |
//!
//! NULL everywhere. Everything else makes the whole body one that does not parse.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, PrimitiveBuilder, StringBuilder,
};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMillisecondType,
};
use arrow::error::ArrowError;

use crate::format::json::instant::{date_days, instant_ms, timestamp_ms};
use crate::format::json::scan::{Bad, Scanner, Token};

/// A checked value of a row that is not yet known to be good as a whole.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slot<'a> {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Decimal(i128),
    Text(Cow<'a, str>),
    Bytes(Vec<u8>),
}

impl Slot<'_> {
    /// The value for itself, whatever it was read from.
    pub(crate) fn into_owned(self) -> Slot<'static> {
        match self {
            Self::Null => Slot::Null,
            Self::Boolean(value) => Slot::Boolean(value),
            Self::Integer(value) => Slot::Integer(value),
            Self::Float(value) => Slot::Float(value),
            Self::Decimal(value) => Slot::Decimal(value),
            Self::Text(text) => Slot::Text(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Slot::Bytes(bytes),
        }
    }
}

/// What a column takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Text,
    /// Between two bounds; the word names the type in refusals.
    Integer(i64, i64, &'static str),
    Float,
    Double,
    Decimal(u8, i8),
    Boolean,
    Timestamp,
    Date,
    Bytes,
}

impl Kind {
    pub(crate) fn of(data_type: &DataType) -> Result<Self, ArrowError> {
        Ok(match data_type {
            DataType::Utf8 => Self::Text,
            DataType::Int8 => Self::Integer(i8::MIN.into(), i8::MAX.into(), "TINYINT"),
            DataType::Int16 => Self::Integer(i16::MIN.into(), i16::MAX.into(), "SMALLINT"),
            DataType::Int32 => Self::Integer(i32::MIN.into(), i32::MAX.into(), "INT"),
            DataType::Int64 => Self::Integer(i64::MIN, i64::MAX, "BIGINT"),
            DataType::Float32 => Self::Float,
            DataType::Float64 => Self::Double,
            DataType::Decimal128(precision, scale) => Self::Decimal(*precision, *scale),
            DataType::Boolean => Self::Boolean,
            DataType::Timestamp(TimeUnit::Millisecond, None) => Self::Timestamp,
            DataType::Date32 => Self::Date,
            DataType::Binary => Self::Bytes,
            other => {
                return Err(ArrowError::NotYetImplemented(format!(
                    "a column of {other} can not be read from JSON"
                )));
            }
        })
    }

    /// The value that comes next, if it is written as most are; `None` takes nothing, and says nothing either.
    pub(crate) fn quick<'a>(&self, scanner: &mut Scanner<'a>) -> Option<Slot<'a>> {
        match self {
            Self::Text => scanner.quick_text().map(|text| Slot::Text(text.into())),
            Self::Integer(min, max, _) => scanner.quick_integer(*min, *max).map(Slot::Integer),
            Self::Timestamp => scanner
                .quick_text_as(instant_ms)
                .or_else(|| scanner.quick_integer(i64::MIN, i64::MAX))
                .map(Slot::Integer),
            _ => None,
        }
    }

    /// The value of a token, or why it is none of this type.
    pub(crate) fn read<'a>(&self, token: Token<'a>) -> Result<Slot<'a>, Bad> {
        let (text, is_number) = match (self, token) {
            (_, Token::Null) => return Ok(Slot::Null),
            (Self::Boolean, Token::Boolean(value)) => return Ok(Slot::Boolean(value)),
            (Self::Text, Token::Text(text)) => return Ok(Slot::Text(text)),
            (Self::Text, Token::Object(json) | Token::Array(json)) => {
                return Ok(Slot::Text(Cow::Borrowed(json)));
            }
            (Self::Text | Self::Boolean, token) => return Err(self.refuse(&token)),
            (_, Token::Text(text)) => (text, false),
            (Self::Bytes, token) => return Err(self.refuse(&token)),
            (_, Token::Number(text)) => (Cow::Borrowed(text), true),
            (_, token) => return Err(self.refuse(&token)),
        };
        let value = match self {
            Self::Integer(min, max, name) => {
                let value = whole(&text).ok_or_else(|| self.refuse_text(&text, is_number))?;
                match i64::try_from(value) {
                    Ok(value) if (*min..=*max).contains(&value) => Some(Slot::Integer(value)),
                    _ => return Err(format!("{text} does not fit {name}").into()),
                }
            }
            Self::Float | Self::Double => match text.parse() {
                // A word for infinity has no digit; a number that has some is too large.
                Ok(number) if !self.holds(number) && text.bytes().any(|b| b.is_ascii_digit()) => {
                    return Err(format!("{text} does not fit {}", self.name()).into());
                }
                number => number.ok().map(Slot::Float),
            },
            Self::Decimal(precision, scale) => {
                decimal(&text, *precision, *scale).map(Slot::Decimal)
            }
            Self::Timestamp if is_number => whole(&text)
                .and_then(|ms| i64::try_from(ms).ok())
                .map(Slot::Integer),
            Self::Timestamp => timestamp_ms(&text).map(Slot::Integer),
            Self::Date if is_number => whole(&text)
                .and_then(|days| i32::try_from(days).ok())
                .map(|days| Slot::Integer(days.into())),
            Self::Date => date_days(&text).map(|days| Slot::Integer(days.into())),
            Self::Bytes => unhex(&text).map(Slot::Bytes),
            Self::Text | Self::Boolean => None,
        };
        value.ok_or_else(|| self.refuse_text(&text, is_number))
    }

    pub(crate) fn name(&self) -> Cow<'static, str> {
        match self {
            Self::Text => "VARCHAR".into(),
            Self::Integer(_, _, name) => (*name).into(),
            Self::Float => "FLOAT".into(),
            Self::Double => "DOUBLE".into(),
            Self::Decimal(precision, scale) => format!("DECIMAL({precision}, {scale})").into(),
            Self::Boolean => "BOOLEAN".into(),
            Self::Timestamp => "TIMESTAMP".into(),
            Self::Date => "DATE".into(),
            Self::Bytes => "text of hex digits".into(),
        }
    }

    /// Whether a number stays one in this type of floats, and does not become infinite.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what a FLOAT makes of the number is asked"
    )]
    pub(crate) fn holds(&self, number: f64) -> bool {
        match self {
            Self::Float => (number as f32).is_finite(),
            _ => number.is_finite(),
        }
    }

    fn refuse(&self, token: &Token<'_>) -> Bad {
        match token {
            Token::Text(text) => self.refuse_text(text, false),
            Token::Number(text) => self.refuse_text(text, true),
            Token::Boolean(value) => format!("{value} is not a {}", self.name()).into(),
            Token::Object(_) => format!("an object is not a {}", self.name()).into(),
            Token::Array(_) => format!("an array is not a {}", self.name()).into(),
            Token::Null => "NULL is taken by every type".into(),
        }
    }

    fn refuse_text(&self, text: &str, is_number: bool) -> Bad {
        let name = self.name();
        if is_number {
            format!("{text} is not a {name}").into()
        } else {
            format!("{text:?} is not a {name}").into()
        }
    }
}

/// Most digits that a decimal has.
const DECIMAL_DIGITS: i64 = 38;

/// A number in units of a scale, and whether none of its digits stands behind that; no float comes in between. Rounded as by a cast,
/// half away from zero, with no regard to how many digits there are. `None` if it is no number, or too large for any decimal.
fn units_of(text: &str, scale: i8) -> Option<(i128, bool)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (sign, unsigned) = match mantissa.as_bytes().first() {
        Some(b'-') => (-1, mantissa.get(1..)?),
        Some(b'+') => (1, mantissa.get(1..)?),
        _ => (1, mantissa),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let exponent = far(exponent)?;
    let mut digits = whole.bytes().chain(fraction.bytes()).peekable();
    let mut before_point = i64::try_from(whole.len()).ok()?;
    while digits.next_if_eq(&b'0').is_some() {
        before_point -= 1;
    }
    if digits.peek().is_none() {
        return Some((0, true));
    }
    let count = before_point
        .checked_add(exponent)?
        .checked_add(scale.into())?;
    if count > DECIMAL_DIGITS {
        return None;
    }
    let mut units = 0;
    for _ in 0..count {
        units = units * 10 + i128::from(digits.next().map_or(0, |digit| digit - b'0'));
    }
    let rounds_up = count >= 0 && digits.peek().is_some_and(|digit| *digit >= b'5');
    let is_exact = digits.all(|digit| digit == b'0');
    Some((sign * (units + i128::from(rounds_up)), is_exact))
}

/// An exponent; one that no number of this size can make up for is as good as any other of its sign.
fn far(exponent: &str) -> Option<i64> {
    const FAR: i64 = 1 << 40;
    let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(match exponent.parse::<i64>() {
        Ok(exponent) => exponent.clamp(-FAR, FAR),
        Err(_) if exponent.starts_with('-') => -FAR,
        Err(_) => FAR,
    })
}

/// The value of a number without fraction, however it is written.
fn whole(text: &str) -> Option<i128> {
    if let Ok(value) = text.parse() {
        return Some(value);
    }
    let (value, is_exact) = units_of(text, 0)?;
    is_exact.then_some(value)
}

/// A number in units of its scale, rounded to it.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (units, _) = units_of(text, scale)?;
    bounded(units, precision)
}

/// Units that have no more digits than a precision.
pub(crate) fn bounded(units: i128, precision: u8) -> Option<i128> {
    let bound = 10_i128.checked_pow(precision.into())?;
    (-bound < units && units < bound).then_some(units)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks_exact(2) {
        let [high, low] = pair else { return None };
        let value = digit(*high)? * 16 + digit(*low)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(bytes)
}

/// A column being built.
#[derive(Debug)]
pub(crate) enum Builder {
    Text(StringBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Decimal(Decimal128Builder),
    Boolean(BooleanBuilder),
    Timestamp(PrimitiveBuilder<TimestampMillisecondType>),
    Date(PrimitiveBuilder<Date32Type>),
    Bytes(BinaryBuilder),
}

impl Builder {
    /// For so many rows whose texts may take so many bytes.
    pub(crate) fn new(data_type: &DataType, rows: usize, bytes: usize) -> Result<Self, ArrowError> {
        Ok(match data_type {
            DataType::Utf8 => Self::Text(StringBuilder::with_capacity(rows, bytes)),
            DataType::Int8 => Self::Int8(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int16 => Self::Int16(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int32 => Self::Int32(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int64 => Self::Int64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Float32 => Self::Float32(PrimitiveBuilder::with_capacity(rows)),
            DataType::Float64 => Self::Float64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Decimal128(precision, scale) => Self::Decimal(
                Decimal128Builder::with_capacity(rows)
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            DataType::Boolean => Self::Boolean(BooleanBuilder::with_capacity(rows)),
            DataType::Timestamp(TimeUnit::Millisecond, None) => {
                Self::Timestamp(PrimitiveBuilder::with_capacity(rows))
            }
            DataType::Date32 => Self::Date(PrimitiveBuilder::with_capacity(rows)),
            DataType::Binary => Self::Bytes(BinaryBuilder::with_capacity(rows, bytes)),
            other => {
                return Err(ArrowError::NotYetImplemented(format!(
                    "a column of {other} can not be read from JSON"
                )));
            }
        })
    }

    /// Appends a value of the builder's kind; anything else is NULL.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "integers were checked against the bounds of their type; a FLOAT is the nearest to its number"
    )]
    pub(crate) fn append(&mut self, slot: Slot<'_>) {
        match (self, slot) {
            (Self::Text(builder), Slot::Text(value)) => builder.append_value(value),
            (Self::Int8(builder), Slot::Integer(value)) => builder.append_value(value as i8),
            (Self::Int16(builder), Slot::Integer(value)) => builder.append_value(value as i16),
            (Self::Int32(builder), Slot::Integer(value)) => builder.append_value(value as i32),
            (Self::Int64(builder), Slot::Integer(value)) => builder.append_value(value),
            (Self::Float32(builder), Slot::Float(value)) => builder.append_value(value as f32),
            (Self::Float64(builder), Slot::Float(value)) => builder.append_value(value),
            (Self::Decimal(builder), Slot::Decimal(value)) => builder.append_value(value),
            (Self::Boolean(builder), Slot::Boolean(value)) => builder.append_value(value),
            (Self::Timestamp(builder), Slot::Integer(value)) => builder.append_value(value),
            (Self::Date(builder), Slot::Integer(value)) => builder.append_value(value as i32),
            (Self::Bytes(builder), Slot::Bytes(value)) => builder.append_value(value),
            (Self::Text(builder), _) => builder.append_null(),
            (Self::Int8(builder), _) => builder.append_null(),
            (Self::Int16(builder), _) => builder.append_null(),
            (Self::Int32(builder), _) => builder.append_null(),
            (Self::Int64(builder), _) => builder.append_null(),
            (Self::Float32(builder), _) => builder.append_null(),
            (Self::Float64(builder), _) => builder.append_null(),
            (Self::Decimal(builder), _) => builder.append_null(),
            (Self::Boolean(builder), _) => builder.append_null(),
            (Self::Timestamp(builder), _) => builder.append_null(),
            (Self::Date(builder), _) => builder.append_null(),
            (Self::Bytes(builder), _) => builder.append_null(),
        }
    }

    pub(crate) fn finish(self) -> ArrayRef {
        match self {
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Int8(mut builder) => Arc::new(builder.finish()),
            Self::Int16(mut builder) => Arc::new(builder.finish()),
            Self::Int32(mut builder) => Arc::new(builder.finish()),
            Self::Int64(mut builder) => Arc::new(builder.finish()),
            Self::Float32(mut builder) => Arc::new(builder.finish()),
            Self::Float64(mut builder) => Arc::new(builder.finish()),
            Self::Decimal(mut builder) => Arc::new(builder.finish()),
            Self::Boolean(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => Arc::new(builder.finish()),
            Self::Date(mut builder) => Arc::new(builder.finish()),
            Self::Bytes(mut builder) => Arc::new(builder.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_however_it_is_written_and_loses_no_digit() {
        for (text, expected) in [
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("2.0", Some(2)),
            ("-0.0", Some(0)),
            ("1e3", Some(1000)),
            ("15e-1", None),
            ("150e-1", Some(15)),
            ("1.5", None),
            ("1.5e1", Some(15)),
            ("9223372036854775807.0", Some(i128::from(i64::MAX))),
            ("1e400", None),
            ("0e400", Some(0)),
            ("", None),
            ("-", None),
            ("1.", Some(1)),
            (".5", None),
            ("x", None),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }

    #[test]
    fn a_decimal_is_rounded_to_its_scale_and_bounded_by_its_precision() {
        for (text, expected) in [
            ("1.25", Some(125)),
            ("1.255", Some(126)),
            ("1.2549999", Some(125)),
            ("-1.255", Some(-126)),
            ("-0.004", Some(0)),
            ("1e2", Some(10_000)),
            ("999.99", Some(99_999)),
            ("999.995", None),
            ("1000", None),
            ("1e-60", Some(0)),
            ("+1.5", Some(150)),
            ("much", None),
            ("1e", None),
            ("1e+", None),
            ("-", None),
            // As Java and Python write the double that is nearest to 0.1.
            (
                "0.1000000000000000055511151231257827021181583404541015625",
                Some(10),
            ),
            (
                "0.00499999999999999999999999999999999999999999999999999",
                Some(0),
            ),
            (
                "0.00500000000000000000000000000000000000000000000000000",
                Some(1),
            ),
            ("1e-99999999999", Some(0)),
            ("1e-99999999999999999999999", Some(0)),
            ("1e99999999999999999999999", None),
            ("0e99999999999999999999999", Some(0)),
            ("-170141183460469231731687303715884105728", None),
        ] {
            assert_eq!(decimal(text, 5, 2), expected, "{text}");
        }
        assert_eq!(
            decimal("-170141183460469231731687303715884105728", 5, 0),
            None
        );
        let nines = 10_i128.pow(38) - 1;
        assert_eq!(decimal(&nines.to_string(), 38, 0), Some(nines));
        assert_eq!(decimal(&(nines + 1).to_string(), 38, 0), None);
    }

    #[test]
    fn a_number_beyond_its_type_is_refused_and_never_infinite() {
        for (kind, text, fits) in [
            (Kind::Double, "1e308", true),
            (Kind::Double, "1e400", false),
            (Kind::Double, "-1e400", false),
            (Kind::Double, "1e-400", true),
            (Kind::Double, "Infinity", true),
            (Kind::Float, "1e38", true),
            (Kind::Float, "1e39", false),
            (Kind::Float, "-inf", true),
            (Kind::Float, "NaN", true),
        ] {
            let read = kind.read(Token::Text(text.into()));
            assert_eq!(read.is_ok(), fits, "{text}: {read:?}");
        }
        let refused = Kind::Float.read(Token::Number("1e39")).unwrap_err();
        assert_eq!(refused, "1e39 does not fit FLOAT");
    }
}
