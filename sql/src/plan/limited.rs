//! `ORDER BY … LIMIT n` of a continuous query: the first rows as they stand now, which change as others come before them.
//!
//! Input and output are syntax trees: the rows get their places by `row_number()`, and those with the first n stay. What is
//! sorted by and not among the columns that are answered is a column more until then; after `DISTINCT` it must be among them, and
//! `DISTINCT ON` keeps its order besides, which says which row of a group is the first. With `OFFSET m` those with the m places before are kept, too, and not
//! answered. Without `LIMIT` there is nothing to keep in order, with a number that is computed nothing is rewritten; both are refused
//! where plans are walked.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Ident, LimitClause, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr,
    TableFactor, Value, VisitMut, VisitorMut,
};

use crate::catalog::is_system_column;
use crate::error::SqlError;
use crate::plan::named;
use crate::plan::refuse::refused;
use crate::statement::{name_of, parse_query};

/// What stands for the query's own rows until it is put there.
const ROWS: &str = "__rows";

/// Rewrites a query that says so at its end.
///
/// # Errors
/// [`SqlError::Invalid`] for an order that can be no column of the rows.
pub(crate) fn to_places(query: &mut Query) -> Result<(), SqlError> {
    let (Some((passed, last)), Some(_)) = (places_of(query), &query.order_by) else {
        return Ok(());
    };
    let Some((order, hidden)) = order_of(query) else {
        return Err(refused(
            "ORDER BY … LIMIT of a UNION, of the place of a column beside *, or of what SELECT DISTINCT does not answer by a name",
            "put the query into FROM and name the column: SELECT * FROM (SELECT …) AS rows ORDER BY column LIMIT 10",
        ));
    };
    let mut unanswered = vec!["__place".to_owned()];
    unanswered.extend((0..hidden.len()).map(|at| hidden_name(at).value));
    let order: Vec<String> = order.iter().map(ToString::to_string).collect();
    let beyond = match passed {
        0 => String::new(),
        passed => format!(" AND __place > {passed}"),
    };
    let mut placed = parse_query(&format!(
        "SELECT * EXCEPT ({}) FROM (SELECT *, row_number() OVER (ORDER BY {}) AS __place FROM {ROWS} AS {ROWS}) AS __placed \
         WHERE __place <= {last}{beyond}",
        unanswered.join(", "),
        order.join(", ")
    ))?;
    let mut rows = query.clone();
    if let SetExpr::Select(select) = rows.body.as_mut() {
        select.projection.extend(hidden);
    }
    // What DISTINCT ON sorts by says which row of each group it is, too.
    if !is_distinct_on(&rows) {
        rows.order_by = None;
    }
    rows.limit_clause = None;
    named::as_written(&mut rows);
    let _: ControlFlow<()> = placed.visit(&mut Within { rows: &rows });
    *query = *placed;
    Ok(())
}

fn is_distinct_on(query: &Query) -> bool {
    matches!(query.body.as_ref(), SetExpr::Select(select) if matches!(select.distinct, Some(Distinct::On(_))))
}

/// How many places are passed over and which is the last one wanted, if that is written out.
fn places_of(query: &Query) -> Option<(u64, u64)> {
    let Some(LimitClause::LimitOffset {
        limit: Some(limit),
        offset,
        limit_by,
    }) = &query.limit_clause
    else {
        return None;
    };
    if !limit_by.is_empty() {
        return None;
    }
    let passed = match offset {
        Some(offset) => number(&offset.value)?,
        None => 0,
    };
    Some((passed, passed.checked_add(number(limit)?)?))
}

fn number(expr: &Expr) -> Option<u64> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

/// What rows are sorted by, each a column, and the columns among these that are not answered; `None` if it can be none.
fn order_of(query: &Query) -> Option<(Vec<OrderByExpr>, Vec<SelectItem>)> {
    let OrderByKind::Expressions(order) = &query.order_by.as_ref()?.kind else {
        return None;
    };
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let names: Vec<Option<Ident>> = select.projection.iter().map(answered).collect();
    // A star answers columns that are not known yet.
    let is_star = |item: &SelectItem| {
        matches!(
            item,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
        )
    };
    let has_star = select.projection.iter().any(is_star);
    let mut hidden = Vec::new();
    let mut sorted = Vec::new();
    for by in order {
        let mut expr = &by.expr;
        let known = match expr {
            Expr::Identifier(name) => {
                let is_there = |known: &Ident| name_of(known) == name_of(name);
                let is_written = names.iter().flatten().any(is_there);
                // A star answers no system columns, unless there are no others; then they are sorted by all the same.
                let is_in_star = has_star && !is_system_column(&name_of(name));
                (is_written || is_in_star).then(|| name.clone())
            }
            Expr::Value(place) => match &place.value {
                Value::Number(digits, _) if !has_star => {
                    let place: usize = digits.parse().ok()?;
                    let at = place.checked_sub(1)?;
                    if let SelectItem::UnnamedExpr(unnamed) = select.projection.get(at)? {
                        expr = unnamed;
                    }
                    names.get(at)?.clone()
                }
                _ => return None,
            },
            _ => None,
        };
        let column = match known {
            Some(column) => column,
            None if matches!(select.distinct, Some(Distinct::Distinct)) => return None,
            None => {
                let alias = hidden_name(hidden.len());
                hidden.push(SelectItem::ExprWithAlias {
                    expr: expr.clone(),
                    alias: alias.clone(),
                });
                alias
            }
        };
        sorted.push(OrderByExpr {
            expr: Expr::Identifier(column),
            ..by.clone()
        });
    }
    Some((sorted, hidden))
}

/// What a column that is only sorted by is called.
fn hidden_name(at: usize) -> Ident {
    Ident::new(format!("__order_{at}"))
}

/// What a column of the answer is called, if its text says so.
fn answered(item: &SelectItem) -> Option<Ident> {
    match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.clone()),
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.clone()),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last().cloned(),
        _ => None,
    }
}

/// Puts the query's own rows in their place.
struct Within<'a> {
    rows: &'a Query,
}

impl VisitorMut for Within<'_> {
    type Break = ();

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = factor
            && name.to_string() == ROWS
        {
            *factor = TableFactor::Derived {
                lateral: false,
                subquery: Box::new(self.rows.clone()),
                alias: alias.take(),
                sample: None,
            };
        }
        ControlFlow::Continue(())
    }
}
