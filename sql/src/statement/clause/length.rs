//! Lengths of time that the planner does not read: `INTERVAL '1 02:30' DAY TO MINUTE`, and numbers of intervals.
//!
//! Both become intervals with their units written out, `n * INTERVAL '1 hour'` of a column one that is computed.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DateTimeField, Expr, Interval, Spanned, Value, VisitMut, VisitorMut,
};

use crate::error::SqlError;
use crate::statement::clause::invalid;
use crate::statement::interval::interval_ms;
use crate::statement::parser::parse_plain_expression;

/// Units in the order in which they follow each other, and how the planner calls them.
const UNITS: [(DateTimeField, &str); 6] = [
    (DateTimeField::Year, "years"),
    (DateTimeField::Month, "months"),
    (DateTimeField::Day, "days"),
    (DateTimeField::Hour, "hours"),
    (DateTimeField::Minute, "minutes"),
    (DateTimeField::Second, "seconds"),
];

/// `INTERVAL '1 02:30' DAY TO MINUTE` as `INTERVAL '1 days 02 hours 30 minutes'`.
pub(super) fn in_units(interval: &mut Interval) -> Result<(), SqlError> {
    let Interval {
        value,
        leading_field: Some(first),
        last_field: Some(last),
        ..
    } = &*interval
    else {
        return Ok(());
    };
    let place = |unit: &DateTimeField| UNITS.iter().position(|(known, _)| known == unit);
    let wrong = || {
        invalid(
            value.span(),
            format!("{value} is no interval from {first} to {last}"),
            "write INTERVAL '1 02:03:04' DAY TO SECOND, or each length by its unit: INTERVAL '1 day 2 hours'",
        )
    };
    let Expr::Value(literal) = value.as_ref() else {
        return Err(wrong());
    };
    let Value::SingleQuotedString(text) = &literal.value else {
        return Err(wrong());
    };
    let (Some(first_at), Some(last_at)) = (place(first), place(last)) else {
        return Err(wrong());
    };
    let (sign, digits) = match text.trim().strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.trim()),
    };
    let numbers: Vec<&str> = digits.split([' ', ':', '-']).collect();
    let units = UNITS.get(first_at..=last_at).unwrap_or_default();
    let is_number = |text: &&str| {
        !text.is_empty()
            && text
                .chars()
                .all(|digit| digit.is_ascii_digit() || digit == '.')
    };
    if units.len() < 2 || numbers.len() != units.len() || !numbers.iter().all(is_number) {
        return Err(wrong());
    }
    let parts = numbers.iter().zip(units);
    let parts: Vec<String> = parts
        .map(|(number, (_, unit))| format!("{sign}{number} {unit}"))
        .collect();
    let mut written = literal.clone();
    written.value = Value::SingleQuotedString(parts.join(" "));
    *interval.value = Expr::Value(written);
    interval.leading_field = None;
    interval.leading_precision = None;
    interval.last_field = None;
    interval.fractional_seconds_precision = None;
    Ok(())
}

/// `n * INTERVAL '1 hour'`, either way round, as one interval; `None` if it is no such product.
pub(super) fn times(
    left: &Expr,
    op: &BinaryOperator,
    right: &Expr,
) -> Result<Option<Expr>, SqlError> {
    let (count, interval) = match (op, left, right) {
        (BinaryOperator::Multiply, Expr::Interval(_), Expr::Interval(_)) => return Ok(None),
        (BinaryOperator::Multiply, count, interval @ Expr::Interval(_))
        | (BinaryOperator::Multiply, interval @ Expr::Interval(_), count) => (count, interval),
        _ => return Ok(None),
    };
    let ms = interval_ms(interval)?;
    let mut product = parse_plain_expression(&format!(
        "arrow_cast(CAST(round(CAST(NULL AS DOUBLE) * {ms}) AS BIGINT), 'Duration(Millisecond)')"
    ))?;
    let _: ControlFlow<()> = product.visit(&mut Count { count });
    Ok(Some(product))
}

/// Puts the number in its place.
struct Count<'a> {
    count: &'a Expr,
}

impl VisitorMut for Count<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && value.value == Value::Null
        {
            *expr = Expr::Nested(Box::new(self.count.clone()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}
