//! Which column type a text value fits, and how a whole column settles on one.
//!
//! A column takes the first kind, in the order of [`Kind`], that fits each of its values. Empty values
//! and the words that stand for null fit every kind. `NA` stands for null by itself in every kind but
//! text, where it may be a word (an abbreviation, say), so there only the user can say so.
//!
//! A number fits a kind only if it stays what it is: whole numbers that are too large for BIGINT are DECIMAL and never a DOUBLE near
//! them, and what a number would lose (a `+`, a zero in front) makes it a word made of digits.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr as _;

use arrow::array::timezone::Tz;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, TimeUnit};

use crate::format::json::column::decimal;
use crate::format::json::instant::date_days;

/// The word that means "missing" in statistical data.
pub const NOT_AVAILABLE: &str = "NA";

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64-bit integers.
    BigInt,
    /// 64-bit floating point.
    Double,
    /// As many digits as are written: whole numbers too large for [`Kind::BigInt`], and what was declared so.
    Decimal {
        /// Digits in all.
        precision: u8,
        /// Digits behind the point.
        scale: i8,
    },
    /// `true` and `false`, in any case.
    Boolean,
    /// `YYYY-MM-DD`.
    Date,
    /// ISO 8601; `zoned` when the values name their zone.
    Timestamp {
        /// Whether the values name their zone.
        zoned: bool,
    },
    /// Anything else.
    Text,
}

/// Narrows the kinds that fit a column, value by value.
#[derive(Clone, Debug)]
pub struct Inference {
    fits: Vec<Kind>,
    seen: bool,
}

impl Kind {
    /// The type as written in `CREATE TOPIC`.
    #[must_use]
    pub fn sql_type(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::BigInt => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Decimal { precision, scale } => {
                return Cow::Owned(format!("DECIMAL({precision}, {scale})"));
            }
            Self::Boolean => "BOOLEAN",
            Self::Date => "DATE",
            Self::Timestamp { .. } => "TIMESTAMP",
            Self::Text => "TEXT",
        })
    }

    /// How values of a column that a topic has are read from text.
    #[must_use]
    pub fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Self::BigInt,
            DataType::Float32 | DataType::Float64 => Self::Double,
            DataType::Decimal128(precision, scale) => Self::Decimal {
                precision: *precision,
                scale: *scale,
            },
            DataType::Boolean => Self::Boolean,
            DataType::Date32 => Self::Date,
            // The zone is kept when there is one; a value without is read as UTC.
            DataType::Timestamp(_, _) => Self::Timestamp { zoned: true },
            _ => Self::Text,
        }
    }

    /// The Arrow type of such a column.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Self::BigInt => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp { zoned } => {
                DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "+00:00".into()))
            }
            Self::Text => DataType::Utf8,
        }
    }

    /// The Arrow type that the column has in the topic.
    #[must_use]
    pub fn body_type(self) -> DataType {
        match self {
            Self::Timestamp { .. } => DataType::Timestamp(TimeUnit::Millisecond, None),
            other => other.data_type(),
        }
    }

    /// Whether `text` stands for null in such a column.
    #[must_use]
    pub fn is_null(self, text: &str, nulls: &[String]) -> bool {
        text.is_empty()
            || nulls.iter().any(|null| null == text)
            || (self != Self::Text && text == NOT_AVAILABLE)
    }

    pub(crate) fn fits(self, text: &str) -> bool {
        match self {
            Self::BigInt => parse_integer(text).is_some() && is_canonical(text),
            Self::Double => {
                let is_exact = text.contains(['.', 'e', 'E']) || text.len() <= EXACT_DIGITS;
                parse_double(text).is_some() && is_canonical(text) && is_exact
            }
            Self::Decimal { precision, scale } => {
                let is_whole = !text.contains(['.', 'e', 'E']);
                is_whole && parse_decimal(text, precision, scale).is_some() && is_canonical(text)
            }
            Self::Boolean => parse_boolean(text).is_some(),
            Self::Date => parse_date(text).is_some(),
            Self::Timestamp { zoned } => {
                parse_timestamp_us(text).is_some() && (!zoned || names_a_zone(text))
            }
            Self::Text => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sql_type())
    }
}

impl Default for Inference {
    fn default() -> Self {
        Self {
            fits: vec![
                Kind::BigInt,
                Kind::Double,
                LARGE,
                Kind::Boolean,
                Kind::Date,
                Kind::Timestamp { zoned: true },
                Kind::Timestamp { zoned: false },
                Kind::Text,
            ],
            seen: false,
        }
    }
}

impl Inference {
    /// Takes one value into account.
    pub fn observe(&mut self, text: &str, nulls: &[String]) {
        if text == NOT_AVAILABLE || Kind::Text.is_null(text, nulls) {
            return;
        }
        self.seen = true;
        self.fits.retain(|kind| kind.fits(text));
    }

    /// Takes a value into account that fits kinds by other rules than its text alone.
    pub(crate) fn narrow(&mut self, fits: impl Fn(Kind) -> bool) {
        self.seen = true;
        self.fits.retain(|kind| fits(*kind));
    }

    /// Whether no kind fits all values; one always does where values are texts.
    pub(crate) fn fits_none(&self) -> bool {
        self.fits.is_empty()
    }

    /// The kind that fits all values; text when there was none.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.fits.first() {
            Some(kind) if self.seen => *kind,
            _ => Kind::Text,
        }
    }
}

/// Reads an integer.
#[must_use]
pub fn parse_integer(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

/// Reads a finite number.
#[must_use]
pub fn parse_double(text: &str) -> Option<f64> {
    text.trim()
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite())
}

/// Reads a number in units of its scale, rounded to it.
#[must_use]
pub fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    decimal(text.trim(), precision, scale)
}

/// Reads a boolean.
#[must_use]
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text.trim() {
        yes if yes.eq_ignore_ascii_case("true") => Some(true),
        no if no.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Reads a date as days since 1970.
#[must_use]
pub fn parse_date(text: &str) -> Option<i32> {
    let text = text.trim();
    (text.len() == 10).then(|| date_days(text)).flatten()
}

/// Reads a timestamp as microseconds since 1970; one without a zone as UTC.
#[must_use]
pub fn parse_timestamp_us(text: &str) -> Option<i64> {
    let text = text.trim();
    // Shorter texts are dates, or numbers that only look like one.
    if text.len() < "2013-01-01T10:00".len() {
        return None;
    }
    let utc = Tz::from_str("+00:00").ok()?;
    let at = string_to_datetime(&utc, text).ok()?;
    Some(at.timestamp_micros())
}

fn names_a_zone(text: &str) -> bool {
    let text = text.trim();
    let after_date = text.get("2013-01-01".len()..).unwrap_or_default();
    after_date.ends_with(['Z', 'z']) || after_date.contains(['+', '-'])
}

/// So many digits a DOUBLE holds whatever they are.
const EXACT_DIGITS: usize = 15;

/// Whole numbers that are too large for BIGINT.
const LARGE: Kind = Kind::Decimal {
    precision: 38,
    scale: 0,
};

/// Codes such as `02134` and `+49301234` are words made of digits: as a number they would lose their zero or their sign.
fn is_canonical(text: &str) -> bool {
    let text = text.trim();
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    !matches!(digits, [b'+', ..] | [b'0', b'0'..=b'9', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(values: &[&str]) -> Kind {
        let mut inference = Inference::default();
        for value in values {
            inference.observe(value, &[]);
        }
        inference.kind()
    }

    #[test]
    fn a_column_takes_the_narrowest_kind_that_fits_all() {
        assert_eq!(kind_of(&["1", "-2", ""]), Kind::BigInt);
        assert_eq!(kind_of(&["1", "2.5"]), Kind::Double);
        assert_eq!(kind_of(&["true", "FALSE"]), Kind::Boolean);
        assert_eq!(kind_of(&["2013-01-01"]), Kind::Date);
        let zoned = Kind::Timestamp { zoned: true };
        assert_eq!(kind_of(&["2013-01-01T10:00:00Z"]), zoned);
        let local = Kind::Timestamp { zoned: false };
        assert_eq!(kind_of(&["2013-01-01 10:00:00"]), local);
        assert_eq!(kind_of(&["1", "one"]), Kind::Text);
        assert_eq!(kind_of(&[]), Kind::Text);
    }

    #[test]
    fn missing_values_do_not_make_a_number_column_text() {
        assert_eq!(kind_of(&["NA", "4", "NA"]), Kind::BigInt);
        assert_eq!(kind_of(&["NA", "x"]), Kind::Text);
    }

    #[test]
    fn codes_with_leading_zeros_stay_text() {
        assert_eq!(kind_of(&["02134", "10001"]), Kind::Text);
        assert_eq!(kind_of(&["-02134"]), Kind::Text);
        assert_eq!(kind_of(&["0", "0.5"]), Kind::Double);
    }

    #[test]
    fn a_phone_number_stays_text_with_its_sign() {
        assert_eq!(kind_of(&["+4915112345678", "+4930123456"]), Kind::Text);
        assert_eq!(kind_of(&["+0.5"]), Kind::Text);
        assert_eq!(kind_of(&["-5"]), Kind::BigInt);
    }

    #[test]
    fn whole_numbers_too_large_for_bigint_are_never_doubles() {
        let large = ["10000000000000000001", "-10000000000000000002", "7"];
        assert_eq!(kind_of(&large), LARGE);
        assert_eq!(kind_of(&["1".repeat(39).as_str()]), Kind::Text);
        // A double near it would be another number.
        assert_eq!(kind_of(&["0.5", "10000000000000000001"]), Kind::Text);
        assert_eq!(kind_of(&["0.5", "100000000000000"]), Kind::Double);
    }

    #[test]
    fn the_usual_first_and_last_days_are_times() {
        for text in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
            assert_eq!(kind_of(&[text]), Kind::Timestamp { zoned: true });
        }
    }

    #[test]
    fn na_is_null_in_numbers_but_a_word_in_text_unless_the_user_says_so() {
        assert!(Kind::BigInt.is_null("NA", &[]));
        assert!(!Kind::Text.is_null("NA", &[]));
        assert!(Kind::Text.is_null("NA", &["NA".to_owned()]));
    }

    #[test]
    fn a_declared_decimal_keeps_its_digits() {
        let kind = Kind::of(&DataType::Decimal128(20, 2));
        assert_eq!(kind.sql_type(), "DECIMAL(20, 2)");
        assert_eq!(Kind::of(&DataType::Int16), Kind::BigInt);
        assert_eq!(Kind::of(&DataType::Binary), Kind::Text);
    }
}
