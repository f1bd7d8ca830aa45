//! `SELECT DISTINCT ON (k) … ORDER BY k, at DESC` in a continuous query: the first row of each group.
//!
//! It is another way to write `ROW_NUMBER() OVER (PARTITION BY k ORDER BY at DESC) = 1`, and becomes it. Without `ORDER BY` the first
//! row is that of the least columns, so that a replay finds the same.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result as EngineResult;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprFunctionExt as _, Filter, LogicalPlan, Projection, Window, lit,
};

/// Writes every `DISTINCT ON` as a row number that is 1.
pub(crate) fn plain(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plain = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Distinct(Distinct::On(on)) => Ok(Transformed::yes(first_rows(on)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plain.data)
}

fn first_rows(on: DistinctOn) -> EngineResult<LogicalPlan> {
    let numbered = row_number()
        .partition_by(on.on_expr)
        .order_by(on.sort_expr.unwrap_or_default())
        .build()?;
    let window = Window::try_new(vec![numbered], on.input)?;
    let number = window.schema.fields().iter().last();
    let number = number.map(|field| Column::new_unqualified(field.name()));
    let window = Arc::new(LogicalPlan::Window(window));
    let first = match number {
        Some(number) => {
            let is_first = Expr::Column(number).lt_eq(lit(1_u64));
            Arc::new(LogicalPlan::Filter(Filter::try_new(is_first, window)?))
        }
        None => window,
    };
    let rows = Projection::try_new_with_schema(on.select_expr, first, on.schema)?;
    Ok(LogicalPlan::Projection(rows))
}
