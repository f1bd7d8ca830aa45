//! Columns without a name are called as they were written: `SELECT max(price)` answers a column `max(price)`.
//!
//! The engine's own names tell its innards (`max(bids.price)`, `bids.price + Int64(1)`), which nobody wants to write in
//! quotes, and which may change with it. Done on the syntax tree, for the rows that a query answers and not for those within
//! it, which `*` alone could see. A column, by itself, keeps its name; of two that are written alike the second
//! is `max(price) (2)`.

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Query, SelectItem, SetExpr, Value};

/// Names the columns that a query answers.
pub(crate) fn as_written(query: &mut Query) {
    name_columns(&mut query.body);
}

fn name_columns(body: &mut SetExpr) {
    match body {
        SetExpr::Query(query) => as_written(query),
        // The names of a union are those of its first query.
        SetExpr::SetOperation { left, .. } => name_columns(left),
        SetExpr::Select(select) => {
            let mut taken = BTreeSet::new();
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) = item
                    && !is_column(expr)
                {
                    let alias = free_name(&expr.to_string(), &mut taken);
                    let expr = std::mem::replace(expr, Expr::value(Value::Null));
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
            }
        }
        _ => {}
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => true,
        Expr::Nested(inner) => is_column(inner),
        _ => false,
    }
}

fn free_name(written: &str, taken: &mut BTreeSet<String>) -> Ident {
    let mut name = written.to_owned();
    for number in 2.. {
        if taken.insert(name.clone()) {
            break;
        }
        name = format!("{written} ({number})");
    }
    Ident::with_quote('"', name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::parse_query;

    #[track_caller]
    fn named(sql: &str) -> String {
        let mut query = parse_query(sql).unwrap();
        as_written(&mut query);
        query.to_string()
    }

    #[test]
    fn what_is_no_column_is_called_as_it_was_written() {
        assert_eq!(
            named("SELECT a, t.b, max(c), -a AS d FROM t"),
            "SELECT a, t.b, max(c) AS \"max(c)\", -a AS d FROM t"
        );
    }

    #[test]
    fn of_two_that_are_written_alike_the_second_has_a_number() {
        assert_eq!(
            named("SELECT 1, 1, 1"),
            "SELECT 1 AS \"1\", 1 AS \"1 (2)\", 1 AS \"1 (3)\""
        );
    }

    #[test]
    fn a_union_is_named_by_its_first_query_and_what_is_within_is_left_alone() {
        assert_eq!(
            named("(SELECT 1 + a FROM (SELECT max(a) FROM t)) UNION ALL SELECT 2"),
            "(SELECT 1 + a AS \"1 + a\" FROM (SELECT max(a) FROM t)) UNION ALL SELECT 2"
        );
    }
}
