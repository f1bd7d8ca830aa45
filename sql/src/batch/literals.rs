//! Texts among the `VALUES` of an insert are read as the types of their columns.
//!
//! `VALUES (TIMESTAMP '2026-01-01 00:00:00'), ('2026-01-02 00:00:00')` is a column of two types to the planner, which refuses
//! it; what is meant the topic says. A column whose values are all of one kind is left alone: the insert fits them
//! itself, and its errors name the column. Numbers keep all their digits on the way to a DECIMAL ([`exact`]), and are DOUBLEs on the way to one.

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, Value};

use crate::catalog::sql_type;
use crate::error::SqlError;
use crate::plan::exact;
use crate::statement::parse_expression;

/// Casts the texts of columns that hold other values too, and gives numbers the kind of their column.
///
/// # Errors
/// [`SqlError`] when a type can not be written.
pub(super) fn typed(query: &mut Query, fields: &[Field]) -> Result<(), SqlError> {
    let SetExpr::Values(values) = query.body.as_mut() else {
        return Ok(());
    };
    for (at, field) in fields.iter().enumerate() {
        let column = values
            .rows
            .iter_mut()
            .filter_map(|row| row.content.get_mut(at));
        match field.data_type() {
            DataType::Decimal128(_, _) => column.for_each(exact::given),
            DataType::Float32 | DataType::Float64 => column.for_each(exact::rounded),
            _ => {}
        }
        if matches!(field.data_type(), DataType::Utf8 | DataType::Binary) {
            continue;
        }
        let column = || values.rows.iter().filter_map(|row| row.content.get(at));
        if !column().any(is_text) || column().all(|value| is_text(value) || is_null(value)) {
            continue;
        }
        for row in &mut values.rows {
            if let Some(value) = row.content.get_mut(at).filter(|value| is_text(value)) {
                let cast = format!("CAST({value} AS {})", sql_type(field.data_type()));
                *value = parse_expression(&cast)?;
            }
        }
    }
    Ok(())
}

fn is_text(value: &Expr) -> bool {
    matches!(value, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_)))
}

fn is_null(value: &Expr) -> bool {
    matches!(value, Expr::Value(value) if value.value == Value::Null)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;
    use crate::statement::parse_query;

    #[test]
    fn texts_beside_other_values_are_read_as_their_column() {
        let at = DataType::Timestamp(TimeUnit::Millisecond, None);
        let types = [DataType::Int64, at, DataType::Utf8];
        let fields = types.map(|data_type| Field::new("c", data_type, true));
        let mut query = parse_query(
            "VALUES (1, TIMESTAMP '2026-01-01 00:00:00', 'a'), ('2', '2026-01-02 00:00:00', 3), (NULL, NULL, NULL)",
        )
        .unwrap();
        typed(&mut query, &fields).unwrap();
        assert_eq!(
            query.to_string(),
            "VALUES (1, TIMESTAMP '2026-01-01 00:00:00', 'a'), \
             (CAST('2' AS BIGINT), CAST('2026-01-02 00:00:00' AS TIMESTAMP), 3), (NULL, NULL, NULL)"
        );
    }

    #[test]
    fn numbers_are_exact_for_a_decimal_and_doubles_for_a_double() {
        let types = [DataType::Decimal128(20, 2), DataType::Float64];
        let fields = types.map(|data_type| Field::new("c", data_type, true));
        let mut query = parse_query("VALUES (-1.005, 0.1), (1, 1234567890.123456789)").unwrap();
        typed(&mut query, &fields).unwrap();
        assert_eq!(
            query.to_string(),
            "VALUES (-CAST($exact$1.005$exact$ AS DECIMAL(4,3)), 0.1), (1, 1.2345678901234567e9)"
        );
    }

    #[test]
    fn texts_alone_are_left_to_the_insert() {
        let fields = [Field::new("c", DataType::Int64, true)];
        for sql in ["VALUES ('1'), (NULL)", "VALUES (1), (2)", "SELECT 1"] {
            let mut query = parse_query(sql).unwrap();
            typed(&mut query, &fields).unwrap();
            assert_eq!(query.to_string(), sql);
        }
    }
}
