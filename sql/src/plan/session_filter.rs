//! Conditions on the rows of a session, which must not decide what the session is.
//!
//! In `FROM SESSION(…) WHERE n > 2 GROUP BY …` the sessions are those of all rows, and the condition leaves rows
//! out of them. The operators of a continuous query find sessions where they aggregate, so that a condition
//! below the aggregate would come too early and tear sessions apart. It goes into the aggregates, as their
//! `FILTER`, and a session of which no row is left is left out afterwards. A condition on the columns
//! after `PARTITION BY` takes or leaves whole sessions and stays where it is. What stands between is passed through: a projection
//! gets the condition as a column more. What can not be passed, such as a list beside the rows, is refused where the chain is walked.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias,
    lit, when,
};

use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::plan::window::{Window, marked_window};

/// What the number of rows is called that a condition leaves of a session.
const ROWS_LEFT: &str = "__rows_left";
/// What the column is called that says whether a condition leaves a row.
const IS_LEFT: &str = "__is_left";

/// Moves the conditions between `SESSION` and its aggregate.
pub(super) fn into_aggregates(
    plan: LogicalPlan,
    windows: &[Window],
) -> Result<LogicalPlan, SqlError> {
    if !windows.iter().any(is_session) {
        return Ok(plan);
    }
    let plan = plan.transform_up(|node| {
        let aggregate = match &node {
            LogicalPlan::Aggregate(aggregate) => aggregate,
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let groups = input.schema().columns().into_iter().map(Expr::Column);
                &Aggregate::try_new(Arc::clone(input), groups.collect(), Vec::new())?
            }
            _ => return Ok(Transformed::no(node)),
        };
        match all_rows(&aggregate.input, windows)? {
            Some((rows, Some(condition))) => {
                Ok(Transformed::yes(moved(aggregate, rows, &condition)?))
            }
            _ => Ok(Transformed::no(node)),
        }
    })?;
    Ok(plan.data)
}

/// The rows of sessions without the conditions that leave some of them out, and what these come to; `None` for any other plan.
/// The columns are those of the plan, and behind them there may be one more.
fn all_rows(
    plan: &LogicalPlan,
    windows: &[Window],
) -> Result<Option<(LogicalPlan, Option<Expr>)>, DataFusionError> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => {
            let Some((rows, condition)) = all_rows(&alias.input, windows)? else {
                return Ok(None);
            };
            let below = Arc::clone(rows.schema());
            let alias = SubqueryAlias::try_new(Arc::new(rows), alias.alias.clone())?;
            // The same columns, by the name of the whole.
            let called = condition.map(|condition| {
                condition.transform(|expr| match &expr {
                    Expr::Column(column) => {
                        let at = below.index_of_column(column)?;
                        let column = Column::from(alias.schema.qualified_field(at));
                        Ok(Transformed::yes(Expr::Column(column)))
                    }
                    _ => Ok(Transformed::no(expr)),
                })
            });
            let condition = called.transpose()?.map(|called| called.data);
            Ok(Some((LogicalPlan::SubqueryAlias(alias), condition)))
        }
        LogicalPlan::Filter(filter) => {
            let Some((rows, before)) = all_rows(&filter.input, windows)? else {
                return Ok(None);
            };
            let predicate = filter.predicate.clone();
            let session = windows.iter().find(|window| is_session(window));
            if !session.is_some_and(|window| depends_on_rows(&predicate, window)) {
                let kept = Filter::try_new(predicate, Arc::new(rows))?;
                return Ok(Some((LogicalPlan::Filter(kept), before)));
            }
            let both = match before {
                Some(before) => when(before, predicate).otherwise(lit(false))?,
                None => predicate,
            };
            Ok(Some((rows, Some(both))))
        }
        LogicalPlan::Projection(projection) => {
            if has_session(projection, windows).is_some() {
                return Ok(Some((plan.clone(), None)));
            }
            let Some((rows, condition)) = all_rows(&projection.input, windows)? else {
                return Ok(None);
            };
            let Some(condition) = condition else {
                let same = Projection::try_new(projection.expr.clone(), Arc::new(rows))?;
                return Ok(Some((LogicalPlan::Projection(same), None)));
            };
            let mut exprs = Vec::new();
            for (expr, field) in projection.expr.iter().zip(projection.schema.fields()) {
                exprs.push(match expr.clone().unalias() {
                    Expr::Column(_) | Expr::Literal(..) => expr.clone(),
                    // It may fail for rows that are left out.
                    computed => when(condition.clone(), computed).end()?.alias(field.name()),
                });
            }
            exprs.push(condition.alias(IS_LEFT));
            let rows = Projection::try_new(exprs, Arc::new(rows))?;
            let is_left = Expr::Column(Column::new_unqualified(IS_LEFT));
            Ok(Some((LogicalPlan::Projection(rows), Some(is_left))))
        }
        _ => Ok(None),
    }
}

pub(super) fn is_session(window: &Window) -> bool {
    matches!(window.kind, Windows::Session { .. })
}

/// The sessions that rows are given here.
pub(super) fn has_session<'a>(
    projection: &Projection,
    windows: &'a [Window],
) -> Option<&'a Window> {
    let marks = projection.expr.iter().filter_map(|expr| match expr {
        Expr::Alias(alias) => mark_of(&alias.expr),
        other => mark_of(other),
    });
    let mut given = marks.filter_map(|mark| windows.get(mark));
    given.find(|window| is_session(window))
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

/// The aggregate over all rows, that a condition leaves some of.
fn moved(
    aggregate: &Aggregate,
    rows: LogicalPlan,
    condition: &Expr,
) -> Result<LogicalPlan, DataFusionError> {
    let groups = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
    let mut aggregates = Vec::new();
    for expr in &aggregate.aggr_expr {
        aggregates.push(filtered(expr, condition));
    }
    let rows_left = Expr::AggregateFunction(AggregateFunction::new_udf(
        count_udaf(),
        vec![lit(1_i64)],
        false,
        Some(Box::new(condition.clone())),
        Vec::new(),
        None,
    ));
    aggregates.push(rows_left.alias(ROWS_LEFT));
    let over_all = LogicalPlan::Aggregate(Aggregate::try_new(
        Arc::new(rows),
        aggregate.group_expr.clone(),
        aggregates,
    )?);
    let columns = over_all.schema().columns();
    let Some((rows_left, columns)) = columns.split_last() else {
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
    let rows_left = rows_left.clone();
    LogicalPlanBuilder::from(over_all)
        .filter(Expr::Column(rows_left).gt(lit(0_i64)))?
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
