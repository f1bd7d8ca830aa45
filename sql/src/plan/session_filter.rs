//! Conditions on the rows of a session, which must not decide what the session is.
//!
//! In `FROM SESSION(…) WHERE n > 2 GROUP BY …` the sessions are those of all rows, and the condition leaves rows
//! out of them. The operators of a continuous query find sessions where they aggregate, so that a condition
//! below the aggregate would come too early and tear sessions apart. It goes into the aggregates, as their
//! `FILTER`, and a session of which no row is left is left out afterwards. A condition on the columns
//! after `PARTITION BY` takes or leaves whole sessions and stays where it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan, LogicalPlanBuilder, lit};

use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::plan::window::{Window, marked_window};

/// What the number of rows is called that a condition leaves of a session.
const ROWS_LEFT: &str = "__rows_left";

/// Moves the conditions between `SESSION` and its aggregate.
pub(super) fn into_aggregates(
    plan: LogicalPlan,
    windows: &[Window],
) -> Result<LogicalPlan, SqlError> {
    if !windows.iter().any(is_session) {
        return Ok(plan);
    }
    let plan = plan.transform_up(|node| {
        let LogicalPlan::Aggregate(aggregate) = &node else {
            return Ok(Transformed::no(node));
        };
        let LogicalPlan::Filter(filter) = aggregate.input.as_ref() else {
            return Ok(Transformed::no(node));
        };
        match session_below(&filter.input, windows) {
            Some(window) if depends_on_rows(&filter.predicate, window) => {
                Ok(Transformed::yes(moved(aggregate, filter)?))
            }
            _ => Ok(Transformed::no(node)),
        }
    })?;
    Ok(plan.data)
}

fn is_session(window: &Window) -> bool {
    matches!(window.kind, Windows::Session { .. })
}

/// The session that the rows of a plan were given.
fn session_below<'a>(plan: &LogicalPlan, windows: &'a [Window]) -> Option<&'a Window> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => session_below(&alias.input, windows),
        LogicalPlan::Projection(projection) => {
            let marks = projection.expr.iter().filter_map(|expr| match expr {
                Expr::Alias(alias) => mark_of(&alias.expr),
                other => mark_of(other),
            });
            let windows = marks.filter_map(|mark| windows.get(mark));
            windows.into_iter().find(|window| is_session(window))
        }
        _ => None,
    }
}

fn mark_of(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::ScalarFunction(function) => marked_window(function.name()),
        _ => None,
    }
}

/// Whether a condition can differ between the rows of a session. One on its bounds is refused elsewhere.
fn depends_on_rows(predicate: &Expr, window: &Window) -> bool {
    let columns = predicate.column_refs();
    let names: BTreeSet<&str> = columns.iter().map(|column| column.name()).collect();
    let on_bounds = names.contains("window_start") || names.contains("window_end");
    let on_keys = names
        .iter()
        .all(|name| window.keys.iter().any(|key| key == name));
    !on_bounds && !on_keys
}

fn moved(aggregate: &Aggregate, filter: &Filter) -> Result<LogicalPlan, DataFusionError> {
    let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let mut aggregates = Vec::new();
    for expr in &aggregate.aggr_expr {
        aggregates.push(filtered(expr, &filter.predicate));
    }
    let rows = Expr::AggregateFunction(AggregateFunction::new_udf(
        count_udaf(),
        vec![lit(1_i64)],
        false,
        Some(Box::new(filter.predicate.clone())),
        Vec::new(),
        None,
    ));
    aggregates.push(rows.alias(ROWS_LEFT));
    let over_all = LogicalPlan::Aggregate(Aggregate::try_new(
        Arc::clone(&filter.input),
        aggregate.group_expr.clone(),
        aggregates,
    )?);
    let columns = over_all.schema().columns();
    let Some((rows, columns)) = columns.split_last() else {
        return Err(DataFusionError::Internal(
            "an aggregate without columns".to_owned(),
        ));
    };
    // The columns are called as they were, whatever the conditions have made of their names.
    let names = aggregate.schema.fields().iter();
    let named = columns
        .iter()
        .zip(names)
        .enumerate()
        .map(|(at, (column, field))| {
            let column = Expr::Column(column.clone());
            match at < groups {
                true => column,
                false => column.alias(field.name()),
            }
        });
    let named: Vec<Expr> = named.collect();
    let rows = rows.clone();
    LogicalPlanBuilder::from(over_all)
        .filter(Expr::Column(rows).gt(lit(0_i64)))?
        .project(named)?
        .build()
}

/// An aggregate over the rows that a condition leaves.
fn filtered(expr: &Expr, condition: &Expr) -> Expr {
    match expr {
        Expr::Alias(alias) => filtered(&alias.expr, condition).alias(alias.name.clone()),
        Expr::AggregateFunction(function) => {
            let mut function = function.clone();
            let condition = match function.params.filter.take() {
                Some(own) => own.and(condition.clone()),
                None => condition.clone(),
            };
            function.params.filter = Some(Box::new(condition));
            Expr::AggregateFunction(function)
        }
        other => other.clone(),
    }
}
