//! Aggregates of one query that take their rows in opposite orders.
//!
//! The engine sorts rows once for two aggregates whose orders are each other's reverse, and turns one's values round; in
//! two phases it turns them round twice, so `array_agg(x ORDER BY x DESC)` beside `array_agg(x ORDER BY x)` had the order of
//! the latter. In one phase it does it once. So such a query, and no other, runs in one partition.

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::error::SqlError;

/// Whether a query is to run in one partition, so that each of its aggregates has its own order.
///
/// # Errors
/// When the rows come of a union, which has a partition for each of its parts.
pub(super) fn needs_one_partition(plan: &LogicalPlan) -> Result<bool, SqlError> {
    let (mut differ, mut has_union) = (false, false);
    look(plan, &mut differ, &mut has_union)?;
    if differ && has_union {
        return Err(SqlError::invalid(
            "aggregates with different orders over a UNION are not computed",
            "compute each of them in a query of its own",
        ));
    }
    Ok(differ)
}

fn look(plan: &LogicalPlan, differ: &mut bool, has_union: &mut bool) -> EngineResult<()> {
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Aggregate(aggregate) => {
                let mut orders = aggregate.aggr_expr.iter().filter_map(order_of);
                let first = orders.next();
                *differ |= first.is_some_and(|first| orders.any(|order| order != first));
            }
            LogicalPlan::Union(_) => *has_union = true,
            LogicalPlan::TableScan(scan) => {
                if let Some(view) = scan.source.get_logical_plan() {
                    look(&view, differ, has_union)?;
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// The order that an aggregate takes its rows in, if it tells one.
fn order_of(expr: &Expr) -> Option<&[Sort]> {
    match expr {
        Expr::Alias(alias) => order_of(&alias.expr),
        Expr::AggregateFunction(of) if !of.params.order_by.is_empty() => Some(&of.params.order_by),
        _ => None,
    }
}
