//! `ORDER BY … LIMIT n` of a continuous query: the first rows as they stand now, which change as others come before them.
//!
//! Input and output are syntax trees: the rows get their places by `row_number()`, and those with the first n stay. What is
//! sorted by must be among the columns that are answered. Without `LIMIT` there is nothing to keep in order, with `OFFSET` or a
//! number that is computed nothing is rewritten; both are refused where plans are walked.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, LimitClause, OrderByExpr, OrderByKind, Query, SelectItem, SetExpr, TableFactor,
    Value, VisitMut, VisitorMut,
};

use crate::error::SqlError;
use crate::plan::named;
use crate::statement::{name_of, parse_query};

/// What stands for the query's own rows until it is put there.
const ROWS: &str = "__rows";

/// Rewrites a query that says so at its end.
///
/// # Errors
/// [`SqlError`] if what is written can not be read, which is an error of ours.
pub(crate) fn to_places(query: &mut Query) -> Result<(), SqlError> {
    let (Some(count), Some(order)) = (count_of(query), order_of(query)) else {
        return Ok(());
    };
    let order: Vec<String> = order.iter().map(ToString::to_string).collect();
    let mut placed = parse_query(&format!(
        "SELECT * EXCEPT (__place) FROM (SELECT *, row_number() OVER (ORDER BY {}) AS __place FROM {ROWS} AS {ROWS}) AS __placed \
         WHERE __place <= {count}",
        order.join(", ")
    ))?;
    let mut rows = query.clone();
    rows.order_by = None;
    rows.limit_clause = None;
    named::as_written(&mut rows);
    let _: ControlFlow<()> = placed.visit(&mut Within { rows: &rows });
    *query = *placed;
    Ok(())
}

/// How many rows are wanted, if that is written out.
fn count_of(query: &Query) -> Option<u64> {
    let Some(LimitClause::LimitOffset {
        limit: Some(Expr::Value(count)),
        offset: None,
        limit_by,
    }) = &query.limit_clause
    else {
        return None;
    };
    match &count.value {
        Value::Number(digits, _) if limit_by.is_empty() => digits.parse().ok(),
        _ => None,
    }
}

/// What rows are sorted by, each a column that is answered; `None` if it is anything else.
fn order_of(query: &Query) -> Option<Vec<OrderByExpr>> {
    let OrderByKind::Expressions(order) = &query.order_by.as_ref()?.kind else {
        return None;
    };
    let SetExpr::Select(select) = query.body.as_ref() else {
        return None;
    };
    let names: Vec<Option<Ident>> = select.projection.iter().map(answered).collect();
    // A star answers columns that are not known yet.
    let is_open = names.iter().any(Option::is_none);
    let column = |by: &OrderByExpr| {
        let name = match &by.expr {
            Expr::Identifier(name) => {
                let is_there = |known: &Ident| name_of(known) == name_of(name);
                let is_known = is_open || names.iter().flatten().any(is_there);
                is_known.then(|| name.clone())
            }
            Expr::Value(place) if !is_open => match &place.value {
                Value::Number(digits, _) => {
                    let place: usize = digits.parse().ok()?;
                    names.get(place.checked_sub(1)?)?.clone()
                }
                _ => None,
            },
            _ => None,
        };
        Some(OrderByExpr {
            expr: Expr::Identifier(name?),
            ..by.clone()
        })
    };
    order.iter().map(column).collect()
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
