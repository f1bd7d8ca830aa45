//! `(a, b) IN (SELECT x, y …)` as what it says, with what NULL makes of it.
//!
//! The planner knows `IN` of one column. Rows are asked for by `EXISTS`, where they are compared column by column:
//!
//! ```text
//! (a, b) IN (SELECT x, y …), to hold        EXISTS (SELECT 1 FROM (SELECT x, y …) AS r (c1, c2) WHERE a = c1 AND b = c2)
//! (a, b) NOT IN (SELECT x, y …), to hold    NOT EXISTS (… WHERE (a = c1 AND b = c2) IS NOT FALSE)
//! (a, b) IN (SELECT x, y …), as a value     CASE WHEN EXISTS (…) THEN true
//!                                                WHEN EXISTS (… WHERE (a = c1 AND b = c2) IS NULL) THEN NULL ELSE false END
//! (a, b) IN ((1, 2), (3, 4))                a = 1 AND b = 2 OR a = 3 AND b = 4
//! ```

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, SelectItem, SetExpr, TableFactor, UnaryOperator, Value, VisitMut,
    VisitorMut,
};

use crate::error::SqlError;
use crate::statement::parser::parse_plain_expression;

/// Writes every such `IN` of a condition that lets a row pass if it is true.
///
/// # Errors
/// [`SqlError::Invalid`] for another number of columns than values.
pub(super) fn in_condition(condition: &mut Expr) -> Result<(), SqlError> {
    holding(condition, true)
}

/// A part of a condition that lets a row pass if it is true, or if it is false, as `wanted`, and not if it is unknown.
fn holding(expr: &mut Expr, wanted: bool) -> Result<(), SqlError> {
    match expr {
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And | BinaryOperator::Or,
            right,
        } => {
            holding(left, wanted)?;
            holding(right, wanted)
        }
        Expr::Nested(within) => holding(within, wanted),
        Expr::UnaryOp {
            op: UnaryOperator::Not,
            expr,
        } => holding(expr, !wanted),
        Expr::InSubquery {
            expr: values,
            subquery,
            negated,
        } => {
            let Expr::Tuple(values) = values.as_ref() else {
                return Ok(());
            };
            let test = match wanted == *negated {
                true => " IS NOT FALSE",
                false => "",
            };
            let not = if *negated { "NOT " } else { "" };
            let template = format!("{not}{}", exists(values, subquery, test)?);
            *expr = placed(&template, values, Some(subquery))?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What stands for an expression that is such an `IN`, as a value.
///
/// # Errors
/// [`SqlError::Invalid`] for another number of columns than values.
pub(super) fn as_value(expr: &Expr) -> Result<Option<Expr>, SqlError> {
    match expr {
        Expr::InSubquery {
            expr: values,
            subquery,
            negated,
        } => {
            let Expr::Tuple(values) = values.as_ref() else {
                return Ok(None);
            };
            let equal = exists(values, subquery, "")?;
            let unknown = exists(values, subquery, " IS NULL")?;
            let (found, none) = (!negated, *negated);
            let template =
                format!("CASE WHEN {equal} THEN {found} WHEN {unknown} THEN NULL ELSE {none} END");
            placed(&template, values, Some(subquery)).map(Some)
        }
        Expr::InList {
            expr: values,
            list,
            negated,
        } => {
            let Expr::Tuple(values) = values.as_ref() else {
                return Ok(None);
            };
            let (mut all, mut template) = (values.clone(), Vec::new());
            for row in list {
                let Expr::Tuple(row) = row else {
                    return Err(unlike(values.len(), 1));
                };
                if row.len() != values.len() {
                    return Err(unlike(values.len(), row.len()));
                }
                let first = all.len();
                let pairs = (1..=row.len()).map(|at| format!("${at} = ${}", first + at));
                template.push(pairs.collect::<Vec<_>>().join(" AND "));
                all.extend(row.iter().cloned());
            }
            let not = if *negated { "NOT " } else { "" };
            let template = format!("{not}({})", template.join(" OR "));
            placed(&template, &all, None).map(Some)
        }
        _ => Ok(None),
    }
}

/// Whether there is a row for which `test` of the comparison holds, as a template.
fn exists(values: &[Expr], rows: &Query, test: &str) -> Result<String, SqlError> {
    if let Some(columns) = columns_of(&rows.body)
        && columns != values.len()
    {
        return Err(unlike(values.len(), columns));
    }
    let places = 1..=values.len();
    let names = places.clone().map(|at| format!("c{at}"));
    let pairs = places.map(|at| format!("${at} = __in.c{at}"));
    let (names, pairs) = (names.collect::<Vec<_>>(), pairs.collect::<Vec<_>>());
    Ok(format!(
        "EXISTS (SELECT 1 FROM (SELECT 1) AS __in ({}) WHERE ({}){test})",
        names.join(", "),
        pairs.join(" AND ")
    ))
}

/// How many columns a query answers, if its text says so.
fn columns_of(body: &SetExpr) -> Option<usize> {
    let SetExpr::Select(select) = body else {
        return None;
    };
    let is_one = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
        )
    };
    select
        .projection
        .iter()
        .all(is_one)
        .then_some(select.projection.len())
}

fn unlike(values: usize, columns: usize) -> SqlError {
    SqlError::invalid(
        format!("IN compares rows of {values} values with rows of {columns}"),
        "write as many on the right as on the left",
    )
}

/// A template with the values and the rows in their places.
fn placed(template: &str, values: &[Expr], rows: Option<&Query>) -> Result<Expr, SqlError> {
    let mut written = parse_plain_expression(template)?;
    let _: ControlFlow<()> = written.visit(&mut Places { values, rows });
    Ok(Expr::Nested(Box::new(written)))
}

struct Places<'a> {
    values: &'a [Expr],
    rows: Option<&'a Query>,
}

impl VisitorMut for Places<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(place) = &value.value
            && let Some(place) = place.strip_prefix('$').and_then(|at| at.parse().ok())
            && let Some(value) = usize::checked_sub(place, 1).and_then(|at| self.values.get(at))
        {
            *expr = Expr::Nested(Box::new(value.clone()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let (TableFactor::Derived { subquery, .. }, Some(rows)) = (factor, self.rows) {
            **subquery = rows.clone();
        }
        ControlFlow::Continue(())
    }
}
