//! Computed columns of rows that are read, and rows for which one fails.
//!
//! A row for which a computed column fails, as `100 / n` does where `n` is 0, is one that does not decode, as one whose body does not fit a
//! declared column: it is left out, counted, and `_decode_error` says why. Whether a row is good must not depend on the columns that a
//! query names, so each column that may fail is computed of every row that is parsed. Most can not ([`may_fail`]), and cost nothing
//! but where they are asked for. Those that follow from the body alone are computed when a file of the cold tier is made, which says in its column
//! of errors how they ended: who reads such a file computes them only where they are asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal,
    NotExpr, TryCastExpr,
};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

use crate::catalog::{BODY, Table};
use crate::error::SqlError;

/// Rows that failed and why, in order.
pub(crate) type Failures = Vec<(usize, String)>;

/// A computed column that may fail.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// Its place among the declared columns.
    pub(crate) place: usize,
    /// Names of the columns that it is computed of.
    pub(crate) reads: Vec<String>,
    /// Whether all of them follow from the body.
    pub(crate) is_of_body: bool,
}

impl Check {
    /// The check of a column at a place, if it may fail.
    pub(crate) fn of(
        place: usize,
        expression: &Arc<dyn PhysicalExpr>,
        input: &Schema,
        body: &Schema,
    ) -> Option<Self> {
        if !may_fail(expression, input) {
            return None;
        }
        let reads = collect_columns(expression).into_iter();
        let mut reads: Vec<String> = reads.map(|column| column.name().to_owned()).collect();
        reads.sort_unstable();
        let of_body = |name: &String| name == BODY || body.column_with_name(name).is_some();
        Some(Self {
            place,
            is_of_body: reads.iter().all(of_body),
            reads,
        })
    }
}

/// What computed columns came to.
#[derive(Debug, Default)]
pub(crate) struct Computed {
    /// By place.
    pub(crate) values: BTreeMap<usize, ArrayRef>,
    /// Rows for which one failed.
    pub(crate) failures: Failures,
}

/// What expressions read: the columns of bodies, and system columns as far as they are there; all others are NULL.
pub(crate) fn input(
    table: &Table,
    body: Option<&RecordBatch>,
    rows: usize,
    system: impl Fn(&Field) -> Result<Option<ArrayRef>, SqlError>,
) -> Result<RecordBatch, SqlError> {
    let mut fields = Vec::with_capacity(table.input.fields().len());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(fields.capacity());
    for (at, field) in table.input.fields().iter().enumerate() {
        let of_body = body.filter(|body| at < body.num_columns());
        let array = match of_body {
            Some(body) => Some(Arc::clone(body.column(at))),
            None => system(field)?,
        };
        columns.push(array.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
        fields.push(field.as_ref().clone().with_nullable(true));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(
        schema, columns, &options,
    )?)
}

/// Computes the columns at some places. A row for which one fails has NULL in it, and is a failure where `counts` says so of the column and it.
pub(crate) fn compute(
    table: &Table,
    places: impl IntoIterator<Item = usize>,
    input: &RecordBatch,
    counts: impl Fn(usize, usize) -> bool,
) -> Result<Computed, SqlError> {
    let mut found = BTreeMap::new();
    let mut values = BTreeMap::new();
    for place in places {
        let Some(Some(expression)) = table.computed.get(place) else {
            continue;
        };
        let mut parts = Vec::new();
        let mut failures = Vec::new();
        halves(expression, input, 0, &mut parts, &mut failures)?;
        let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
        values.insert(place, concat(&parts)?);
        let name = table.schema.field(place).name();
        for (row, reason) in failures.into_iter().filter(|(row, _)| counts(place, *row)) {
            let told = || {
                format!("column {name}: {reason}")
                    .chars()
                    .take(REASON_CHARS_MAX)
                    .collect()
            };
            found.entry(row).or_insert_with(told);
        }
    }
    Ok(Computed {
        values,
        failures: found.into_iter().collect(),
    })
}

/// Longest reason that is kept of a row, whose values it quotes.
const REASON_CHARS_MAX: usize = 200;

/// Values of an expression for each row of a batch that begins with row `first`; where all at once fails, of halves, down to the rows that do.
fn halves(
    expression: &Arc<dyn PhysicalExpr>,
    input: &RecordBatch,
    first: usize,
    parts: &mut Vec<ArrayRef>,
    failures: &mut Failures,
) -> Result<(), SqlError> {
    let rows = input.num_rows();
    let values = expression.evaluate(input);
    let error = match values.and_then(|values| values.into_array(rows)) {
        Ok(values) => {
            parts.push(values);
            return Ok(());
        }
        Err(error) => error,
    };
    if rows <= 1 {
        let kind = expression.data_type(input.schema_ref())?;
        parts.push(new_null_array(&kind, rows));
        if rows == 1 {
            failures.push((first, reason(error.into())));
        }
        return Ok(());
    }
    let half = rows / 2;
    halves(expression, &input.slice(0, half), first, parts, failures)?;
    let rest = input.slice(half, rows - half);
    halves(expression, &rest, first + half, parts, failures)
}

fn reason(error: SqlError) -> String {
    match error {
        SqlError::Data { cause, .. } => cause,
        other => other.to_string(),
    }
}

/// Adds rows that failed to those that did before, whose reasons stay.
pub(crate) fn add(failures: &mut Failures, more: Failures) {
    if failures.is_empty() {
        *failures = more;
        return;
    }
    let mut all: BTreeMap<usize, String> = more.into_iter().collect();
    all.extend(std::mem::take(failures));
    *failures = all.into_iter().collect();
}

/// Whether an expression may fail for a row. What is not known here may.
fn may_fail(expression: &Arc<dyn PhysicalExpr>, input: &Schema) -> bool {
    let kind_of = |part: &Arc<dyn PhysicalExpr>| part.data_type(input).unwrap_or(DataType::Null);
    let is_safe = if let Some(binary) = expression.downcast_ref::<BinaryExpr>() {
        let kind = kind_of(expression);
        match binary.op() {
            Operator::Plus | Operator::Minus | Operator::Multiply => {
                kind.is_integer() || kind.is_floating()
            }
            Operator::Divide | Operator::Modulo => kind.is_floating(),
            Operator::StringConcat
            | Operator::And
            | Operator::Or
            | Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom => true,
            _ => false,
        }
    } else if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        holds_all(&kind_of(cast.expr()), cast.cast_type())
    } else if let Some(call) = expression.downcast_ref::<ScalarFunctionExpr>() {
        SAFE_FUNCTIONS.contains(&call.name())
    } else {
        expression.downcast_ref::<Column>().is_some()
            || expression.downcast_ref::<Literal>().is_some()
            || expression.downcast_ref::<CaseExpr>().is_some()
            || expression.downcast_ref::<IsNullExpr>().is_some()
            || expression.downcast_ref::<IsNotNullExpr>().is_some()
            || expression.downcast_ref::<NotExpr>().is_some()
            || expression.downcast_ref::<InListExpr>().is_some()
            || expression.downcast_ref::<TryCastExpr>().is_some()
    };
    let mut parts = expression.children().into_iter();
    !is_safe || parts.any(|part| may_fail(part, input))
}

/// Whether each value of a type is one of another.
fn holds_all(from: &DataType, to: &DataType) -> bool {
    let is_number = from.is_integer() || from.is_floating();
    from == to
        || match to {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                is_number || from.is_string() || *from == DataType::Boolean
            }
            DataType::Float64 => is_number,
            DataType::Float32 => from.is_integer(),
            DataType::Int64 | DataType::Int32 | DataType::Int16 => {
                let is_signed = from.is_signed_integer();
                is_signed && from.primitive_width() <= to.primitive_width()
            }
            _ => false,
        }
}

/// Functions that have a value, or NULL, for whatever they are given.
const SAFE_FUNCTIONS: [&str; 22] = [
    "btrim",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "ends_with",
    "json_as_text",
    "json_contains",
    "json_get_bool",
    "json_get_float",
    "json_get_int",
    "json_get_json",
    "json_get_str",
    "json_length",
    "lower",
    "ltrim",
    "nullif",
    "octet_length",
    "rtrim",
    "starts_with",
    "strpos",
    "upper",
];

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::topic::ColumnSpec;

    fn column(name: &str, sql_type: &str, expression: Option<&str>) -> ColumnSpec {
        ColumnSpec {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: expression.map(str::to_owned),
        }
    }

    fn table(sql_type: &str, expression: &str) -> Table {
        let columns = [
            column("n", "BIGINT", None),
            column("f", "DOUBLE", None),
            column("s", "VARCHAR", None),
            column("at", "TIMESTAMP", None),
            column("c", sql_type, Some(expression)),
        ];
        Table::of(&columns).unwrap()
    }

    #[test]
    fn what_can_not_fail_is_known_and_all_else_may() {
        for (sql_type, safe) in [
            ("", "n * 2 - n + 1"),
            ("", "f / n"),
            ("", "s || '-' || n"),
            ("", "n > 3 AND s IS NOT NULL OR n IN (1, 2)"),
            ("", "CASE WHEN n > 0 THEN lower(s) ELSE s END"),
            ("", "coalesce(s, 'x')"),
            ("", "_body->'order'->>'total'"),
            ("", "try_cast(s AS BIGINT)"),
            ("DOUBLE", "n"),
            ("VARCHAR", "n"),
        ] {
            assert!(table(sql_type, safe).checks.is_empty(), "{safe}");
        }
        for (sql_type, open) in [
            ("", "100 / n"),
            ("", "100 % n"),
            ("", "CAST(s AS BIGINT)"),
            ("", "CASE WHEN n > 0 THEN 100 / n ELSE 0 END"),
            ("", "abs(n)"),
            ("", "to_timestamp_millis(n)"),
            ("INT", "n"),
            ("VARCHAR", "at"),
            ("DECIMAL(10, 2)", "n"),
        ] {
            assert_eq!(table(sql_type, open).checks.len(), 1, "{open}");
        }
    }

    #[test]
    fn what_a_check_reads_is_known_and_whether_it_is_of_the_body() {
        let of = |expression: &str| table("", expression).checks.remove(0);
        assert_eq!(of("n / n").reads, ["n"]);
        assert!(of("n / n").is_of_body);
        assert!(of("CAST(_body->>'x' AS INT)").is_of_body);
        assert!(!of("n / CAST(_key AS BIGINT)").is_of_body);
    }

    #[test]
    fn each_row_that_fails_is_found_and_its_neighbours_have_their_values() {
        let table = table("", "100 / n");
        let rows = 100;
        let zero = |row: i64| row % 7 == 3 || row >= 90;
        let numbers = (0..rows).map(|row| if zero(row) { 0 } else { row + 1 });
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        let input = input(&table, None, 100, |field| {
            Ok((field.name() == "n").then(|| Arc::clone(&numbers)))
        });
        let computed = compute(&table, [4], &input.unwrap(), |_, row| row != 99).unwrap();
        let values = computed.values[&4].as_primitive::<Int64Type>();
        let values: Vec<Option<i64>> = values.iter().collect();
        let expected = (0..rows).map(|row| (!zero(row)).then(|| 100 / (row + 1)));
        assert_eq!(values, expected.collect::<Vec<_>>());
        let failed = computed.failures.iter().map(|(row, _)| *row);
        let expected = (0..99).filter(|row| zero(*row));
        let expected = expected.map(|row| usize::try_from(row).unwrap());
        assert_eq!(failed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        assert_eq!(
            computed.failures[0].1,
            "column c: a number is divided by zero; x / nullif(y, 0) gives NULL instead"
        );
    }

    #[test]
    fn a_row_that_failed_before_keeps_its_reason() {
        let failure = |row: usize, reason: &str| (row, reason.to_owned());
        let mut failures = vec![failure(3, "body"), failure(7, "body")];
        add(&mut failures, vec![failure(1, "c"), failure(7, "c")]);
        let expected = [failure(1, "c"), failure(3, "body"), failure(7, "body")];
        assert_eq!(failures, expected);
    }
}
