//! Which column type a text value fits, and how a whole column settles on one.
//!
//! A column takes the first kind, in the order of [`Kind`], that fits each of its values. Empty values
//! and the words that stand for null fit every kind. `NA` stands for null by itself in every kind but
//! text, where it may be a word (an abbreviation, say), so there only the user can say so.

use std::fmt;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::datatypes::{DataType, TimeUnit};

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
    pub fn sql_type(self) -> &'static str {
        match self {
            Self::BigInt => "BIGINT",
            Self::Double => "DOUBLE",
            Self::Boolean => "BOOLEAN",
            Self::Date => "DATE",
            Self::Timestamp { .. } => "TIMESTAMP",
            Self::Text => "TEXT",
        }
    }

    /// How values of a declared SQL type are read from text.
    #[must_use]
    pub fn of_sql_type(sql_type: &str) -> Self {
        let upper = sql_type.trim().to_ascii_uppercase();
        let word: String = upper
            .chars()
            .take_while(char::is_ascii_alphanumeric)
            .collect();
        match word.as_str() {
            "BIGINT" | "INT" | "INTEGER" | "SMALLINT" | "TINYINT" | "INT2" | "INT4" | "INT8" => {
                Self::BigInt
            }
            "DOUBLE" | "FLOAT" | "REAL" | "FLOAT4" | "FLOAT8" | "DECIMAL" | "NUMERIC" => {
                Self::Double
            }
            "BOOLEAN" | "BOOL" => Self::Boolean,
            "DATE" => Self::Date,
            // The zone is kept when there is one; a value without is read as UTC.
            "TIMESTAMP" | "TIMESTAMPTZ" => Self::Timestamp { zoned: true },
            _ => Self::Text,
        }
    }

    /// The Arrow type of such a column.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Self::BigInt => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp { zoned } => {
                DataType::Timestamp(TimeUnit::Microsecond, zoned.then(|| "+00:00".into()))
            }
            Self::Text => DataType::Utf8,
        }
    }

    /// Whether `text` stands for null in such a column.
    #[must_use]
    pub fn is_null(self, text: &str, nulls: &[String]) -> bool {
        text.is_empty()
            || nulls.iter().any(|null| null == text)
            || (self != Self::Text && text == NOT_AVAILABLE)
    }

    fn fits(self, text: &str) -> bool {
        match self {
            Self::BigInt => parse_integer(text).is_some() && !has_leading_zero(text),
            Self::Double => parse_double(text).is_some() && !has_leading_zero(text),
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
        f.write_str(self.sql_type())
    }
}

impl Default for Inference {
    fn default() -> Self {
        Self {
            fits: vec![
                Kind::BigInt,
                Kind::Double,
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

    /// Takes a value that is known not to be a number or boolean into account, as in a JSON string.
    pub fn observe_string(&mut self, text: &str) {
        self.seen = true;
        self.fits.retain(|kind| {
            !matches!(kind, Kind::BigInt | Kind::Double | Kind::Boolean) && kind.fits(text)
        });
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
    string_to_timestamp_nanos(text)
        .ok()
        .map(|nanos| nanos.div_euclid(1000))
}

fn names_a_zone(text: &str) -> bool {
    let text = text.trim();
    let after_date = text.get("2013-01-01".len()..).unwrap_or_default();
    after_date.ends_with(['Z', 'z']) || after_date.contains(['+', '-'])
}

/// Codes such as `02134` are words made of digits: as a number they would lose their zero.
fn has_leading_zero(text: &str) -> bool {
    let digits = text.trim().trim_start_matches('-');
    let mut chars = digits.chars();
    chars.next() == Some('0') && chars.next().is_some_and(|next| next.is_ascii_digit())
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
        assert_eq!(kind_of(&["0", "0.5"]), Kind::Double);
    }

    #[test]
    fn na_is_null_in_numbers_but_a_word_in_text_unless_the_user_says_so() {
        assert!(Kind::BigInt.is_null("NA", &[]));
        assert!(!Kind::Text.is_null("NA", &[]));
        assert!(Kind::Text.is_null("NA", &["NA".to_owned()]));
    }

    #[test]
    fn declared_types_are_read_by_their_first_word() {
        assert_eq!(Kind::of_sql_type("double precision"), Kind::Double);
        assert_eq!(Kind::of_sql_type("VARCHAR(10)"), Kind::Text);
        assert_eq!(
            Kind::of_sql_type("TIMESTAMP(3)"),
            Kind::Timestamp { zoned: true }
        );
    }
}
