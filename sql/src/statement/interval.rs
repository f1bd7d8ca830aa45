//! Constant intervals, as watermarks and windows have them.

use datafusion::sql::sqlparser::ast::{DateTimeField, Expr, Interval, Value};

use crate::error::SqlError;

/// A constant interval in milliseconds.
///
/// # Errors
/// [`SqlError::Invalid`] when it is not a constant, or counts months, whose length varies.
pub fn interval_ms(expr: &Expr) -> Result<i64, SqlError> {
    let refuse = |cause: &str| {
        SqlError::invalid(
            format!("{cause}: {expr}"),
            "write a constant of weeks, days, hours, minutes, seconds or milliseconds, for example INTERVAL '1 day'",
        )
    };
    let Expr::Interval(Interval {
        value,
        leading_field,
        last_field: None,
        ..
    }) = expr
    else {
        return Err(refuse("this is not a constant interval"));
    };
    let number = match value.as_ref() {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            Value::Number(number, _) => number.to_string(),
            _ => return Err(refuse("this is not a constant interval")),
        },
        _ => return Err(refuse("this is not a constant interval")),
    };
    let text = match leading_field {
        Some(unit) => format!("{number} {}", unit_word(unit)),
        None => number,
    };
    let parsed = arrow::compute::kernels::cast_utils::parse_interval_month_day_nano(&text)
        .map_err(|_| refuse("this interval can not be read"))?;
    if parsed.months != 0 {
        return Err(refuse("months and years have no fixed length"));
    }
    if parsed.nanoseconds % 1_000_000 != 0 {
        return Err(refuse("event time counts milliseconds and not less"));
    }
    Ok(i64::from(parsed.days) * 86_400_000 + parsed.nanoseconds / 1_000_000)
}

fn unit_word(unit: &DateTimeField) -> String {
    unit.to_string().to_lowercase()
}
