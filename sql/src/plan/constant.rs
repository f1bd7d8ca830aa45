//! Conditions that read no column, above an aggregate of all rows.
//!
//! The engine moves a condition below an aggregate if all columns that it reads are groups, and takes that for granted where it reads
//! none. Below an aggregate of all rows it would be lost: that one has its row when no row comes. Here such a condition is made to read
//! a column, in a way that no rule sees through, so that it stays where it was written. Both for questions that end and for those that go on.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
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
    let conditions = conditions.into_iter().map(|condition| {
        let reads_none = condition.column_refs().is_empty() && !condition.contains_outer();
        match reads_none {
            true => unseen(vec![condition, Expr::Column(column.clone())]),
            false => condition,
        }
    });
    conjunction(conditions).unwrap_or(predicate)
}
