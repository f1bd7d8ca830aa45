//! `EXISTS` and `IN` beside `OR` in a continuous query.
//!
//! The engine joins each row of the left with a mark that says whether a row of the right fits, and the condition reads the mark. A
//! mark that changes is a row that goes and another that comes, which is what a semi join and an anti join do to each other's rows:
//!
//! ```text
//! L mark R on c   =   (SELECT L.*, true  FROM L semi R on c)
//!         UNION ALL   (SELECT L.*, false FROM L anti R on c)
//! ```

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinConstraint, JoinType};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection, Union, lit};

use crate::plan::unseen::unseen;

/// Writes every join with a mark as two that have none.
pub(crate) fn plain(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plain = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if join.join_type == JoinType::LeftMark => {
            Ok(Transformed::yes(both(&join)?))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plain.data)
}

fn both(join: &Join) -> EngineResult<LogicalPlan> {
    let halves = [(JoinType::LeftSemi, true), (JoinType::LeftAnti, false)];
    let halves = halves.map(|(kind, mark)| Ok(Arc::new(half(join, kind, mark)?)));
    let halves = halves.into_iter().collect::<EngineResult<Vec<_>>>()?;
    let rows = Arc::new(LogicalPlan::Union(Union::try_new(halves)?));
    let as_before = join.schema.iter().enumerate();
    let as_before = as_before.map(|(at, (relation, field))| {
        let column = Expr::Column(Column::new_unqualified(place(at)));
        column.alias_qualified(relation.cloned(), field.name())
    });
    let rows = Projection::try_new(as_before.collect(), rows)?;
    Ok(LogicalPlan::Projection(rows))
}

/// The left rows for which some, or no, right row fits, and the mark.
fn half(join: &Join, kind: JoinType, mark: bool) -> EngineResult<LogicalPlan> {
    let rows = Join::try_new(
        Arc::clone(&join.left),
        Arc::clone(&join.right),
        join.on.clone(),
        join.filter.clone(),
        kind,
        JoinConstraint::On,
        join.null_equality,
        false,
    )?;
    let columns: Vec<Expr> = rows
        .schema
        .columns()
        .into_iter()
        .map(Expr::Column)
        .collect();
    // A condition on a mark that is plainly true or false would read no column, and be lost below an aggregate of all rows.
    let mark = unseen(
        [lit(mark)]
            .into_iter()
            .chain(columns.first().cloned())
            .collect(),
    );
    let columns = columns.into_iter().chain([mark]).enumerate();
    let columns = columns.map(|(at, column)| column.alias(place(at)));
    let rows = Projection::try_new(columns.collect(), Arc::new(LogicalPlan::Join(rows)))?;
    Ok(LogicalPlan::Projection(rows))
}

/// What the column at a place is called between the two.
fn place(at: usize) -> String {
    format!("__{at}")
}
