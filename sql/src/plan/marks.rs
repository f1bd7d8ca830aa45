//! `EXISTS` and `IN` as values: in the list of columns, in `CASE`, in arithmetic, in the arguments of aggregates.
//!
//! The engine makes joins of the subqueries in conditions, and of no others. What it does to a condition that has one somewhere within
//! is what is wanted everywhere: each row is joined with a mark that says whether a row of the subquery fits, and the expression
//! reads the mark. So each expression of a node is made a condition of the node's rows, given to the engine's own rule, and taken out
//! of it again; the node then stands over the joins that the rule has made.
//!
//! `x = ANY (SELECT …)` and `x > ALL (SELECT …)` are written by `EXISTS` before, by another rule of the engine's.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, Projection};
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule as _};

/// Writes every comparison with `ANY` or `ALL` of a query by `EXISTS`.
pub(crate) fn by_exists(
    plan: LogicalPlan,
    config: &dyn OptimizerConfig,
) -> EngineResult<LogicalPlan> {
    Ok(RewriteSetComparison::new().rewrite(plan, config)?.data)
}

/// Joins the rows of every node that has a subquery as a value with the marks of these.
pub(crate) fn joined(plan: LogicalPlan, config: &dyn OptimizerConfig) -> EngineResult<LogicalPlan> {
    let joined = plan.transform_up_with_subqueries(|node| {
        let is_taken = matches!(
            node,
            LogicalPlan::Projection(_)
                | LogicalPlan::Aggregate(_)
                | LogicalPlan::Window(_)
                | LogicalPlan::Sort(_)
        );
        match node.inputs().as_slice() {
            [input] if is_taken && has_marks(&node)? => {
                let input = LogicalPlan::clone(input);
                Ok(Transformed::yes(over_marks(&node, input, config)?))
            }
            _ => Ok(Transformed::no(node)),
        }
    })?;
    Ok(joined.data)
}

fn has_marks(node: &LogicalPlan) -> EngineResult<bool> {
    let mut found = false;
    for expr in node.expressions() {
        found |= is_marked(&expr)?;
    }
    Ok(found)
}

fn is_marked(expr: &Expr) -> EngineResult<bool> {
    expr.exists(|expr| Ok(matches!(expr, Expr::Exists(_) | Expr::InSubquery(_))))
}

/// The node over joins with the marks that its expressions read.
fn over_marks(
    node: &LogicalPlan,
    mut input: LogicalPlan,
    config: &dyn OptimizerConfig,
) -> EngineResult<LogicalPlan> {
    let names = NamePreserver::new(node);
    let mut exprs = Vec::new();
    for expr in node.expressions() {
        if !is_marked(&expr)? {
            exprs.push(expr);
            continue;
        }
        let name = names.save(&expr);
        let (rows, expr) = marked(expr, input, config)?;
        input = rows;
        exprs.push(name.restore(expr));
    }
    let over = node.with_new_exprs(exprs, vec![input])?;
    if over.schema().fields().len() == node.schema().fields().len() {
        return Ok(over);
    }
    // A node that passes its rows on passes the marks on, too.
    let columns = node.schema().columns().into_iter().map(Expr::Column);
    let as_before = Projection::try_new(columns.collect(), Arc::new(over))?;
    Ok(LogicalPlan::Projection(as_before))
}

/// Rows with marks, and an expression over them that reads these instead of asking subqueries.
fn marked(
    expr: Expr,
    input: LogicalPlan,
    config: &dyn OptimizerConfig,
) -> EngineResult<(LogicalPlan, Expr)> {
    // A subquery that is the condition itself would choose rows, one within a condition marks them.
    let condition = Filter::try_new(expr.is_null(), Arc::new(input))?;
    let rule = DecorrelatePredicateSubquery::new();
    let joined = rule.rewrite(LogicalPlan::Filter(condition), config)?.data;
    let joined = match joined {
        // It leaves the marks out, which nobody reads above a condition.
        LogicalPlan::Projection(projection) => Arc::unwrap_or_clone(projection.input),
        other => other,
    };
    let LogicalPlan::Filter(Filter {
        predicate: Expr::IsNull(expr),
        input,
        ..
    }) = joined
    else {
        return Err(DataFusionError::Internal(
            "a condition with subqueries became something else".to_owned(),
        ));
    };
    Ok((Arc::unwrap_or_clone(input), *expr))
}
