//! Conditions that read no column, above an aggregate of all rows.
//!
//! The engine moves a condition below an aggregate if all columns that it reads are groups, and takes that for granted where it reads
//! none. Below an aggregate of all rows it would be lost: that one has its row when no row comes. Here such a condition is made to read
//! a column, in a way that no rule sees through, so that it stays where it was written. So is a column of a query that is the same in
//! all rows (`SELECT 1 AS one, count(*) …`), since a condition on it is one that reads no column as soon as it is moved. Both for
//! questions that end and for those that go on.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};

use crate::plan::unseen::unseen;

/// Makes them read a column, in all of a plan.
pub(crate) fn bound(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let plan = plan.transform_up_with_subqueries(|node| {
        Ok(match node {
            LogicalPlan::Filter(filter) if counts_all(&filter.input)? => {
                let predicate = read(filter.predicate, filter.input.schema().columns().last());
                let filter = Filter::try_new(predicate, filter.input)?;
                Transformed::yes(LogicalPlan::Filter(filter))
            }
            LogicalPlan::Join(mut join)
                if join.filter.is_some()
                    && (counts_all(&join.left)? || counts_all(&join.right)?) =>
            {
                let column = join.right.schema().columns();
                join.filter = join.filter.map(|filter| read(filter, column.last()));
                Transformed::yes(LogicalPlan::Join(join))
            }
            LogicalPlan::Projection(projection) if counts_all(&projection.input)? => {
                let column = projection.input.schema().columns();
                let node = LogicalPlan::Projection(projection);
                let names = NamePreserver::new(&node);
                node.map_expressions(|expr| {
                    if !reads_none(&expr)? {
                        return Ok(Transformed::no(expr));
                    }
                    let name = names.save(&expr);
                    let expr = read_one(expr.unalias(), column.last());
                    Ok(Transformed::yes(name.restore(expr)))
                })?
            }
            other => Transformed::no(other),
        })
    });
    Ok(plan?.data)
}

/// Whether there is an aggregate of all rows in it.
fn counts_all(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut found = false;
    plan.apply(|node| {
        found |= match node {
            LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
            LogicalPlan::TableScan(scan) => match scan.source.get_logical_plan() {
                Some(view) => counts_all(&view)?,
                None => false,
            },
            _ => false,
        };
        Ok(match found {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })?;
    Ok(found)
}

/// The same conditions, each of which reads a column.
fn read(predicate: Expr, column: Option<&Column>) -> Expr {
    let Some(column) = column else {
        return predicate;
    };
    let conditions = split_conjunction_owned(predicate.clone());
    let conditions = conditions.into_iter();
    let conditions = conditions.map(|condition| read_one(condition, Some(column)));
    conjunction(conditions).unwrap_or(predicate)
}

/// Whether an expression is the same for all rows, and no subquery's.
fn reads_none(expr: &Expr) -> Result<bool, DataFusionError> {
    let has_query = expr.exists(|expr| {
        Ok(matches!(
            expr,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
        ))
    })?;
    Ok(!has_query && expr.column_refs().is_empty() && !expr.contains_outer())
}

fn read_one(expr: Expr, column: Option<&Column>) -> Expr {
    match column {
        Some(column) if expr.column_refs().is_empty() && !expr.contains_outer() => {
            unseen(vec![expr, Expr::Column(column.clone())])
        }
        _ => expr,
    }
}
