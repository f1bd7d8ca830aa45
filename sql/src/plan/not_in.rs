//! `NOT IN (SELECT …)` in a continuous query, with what it says of NULL.
//!
//! `x NOT IN (SELECT y …)` holds where the query answers no row; else it holds where `x` is none of its values, provided that neither
//! `x` nor any of these is NULL. An anti join by `x = y` alone would let rows with NULL pass. It becomes two that each know
//! their part: one by the key, and one with the at most two rows that say whether there is a value, and whether there is a NULL:
//!
//! ```text
//! (L anti R on x = y) anti (SELECT DISTINCT y IS NULL AS n FROM R) on n OR x IS NULL
//! ```
//!
//! Where the query depends on the row in other ways, too, it is one anti join by these, for pairs that are equal or might be.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{JoinConstraint, JoinType, NullEquality};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, Join, LogicalPlan, Operator as Sign, Projection,
};

/// What says whether a value is NULL.
const IS_NULL: &str = "__is_null";

/// Writes every null-aware anti join as joins that know nothing of NULL.
pub(crate) fn plain(plan: LogicalPlan) -> EngineResult<LogicalPlan> {
    let plain = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if join.null_aware => Ok(Transformed::yes(joins(join)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plain.data)
}

fn joins(join: Join) -> EngineResult<LogicalPlan> {
    let on = join.on.iter();
    let on = on.map(|(left, right)| left.clone().eq(right.clone()));
    let filter = join.filter.clone().into_iter();
    let conditions: Vec<Expr> = on.chain(filter.flat_map(split_conjunction_owned)).collect();
    // The first is the comparison of `NOT IN` itself.
    let (compared, others) = match conditions.split_first() {
        Some((compared, others)) => (compared.clone(), others.to_vec()),
        None => return anti(join.left, join.right, None),
    };
    let Expr::BinaryExpr(BinaryExpr {
        left: value,
        op: Sign::Eq,
        right: other,
    }) = &compared
    else {
        return anti(join.left, join.right, conjunction(conditions));
    };
    let value_is_null = value.as_ref().clone().is_null();
    let other_is_null = other.as_ref().clone().is_null();
    if !others.is_empty() {
        let may_be_equal = compared.or(value_is_null).or(other_is_null);
        let conditions = others.into_iter().chain([may_be_equal]);
        return anti(join.left, join.right, conjunction(conditions));
    }
    let nulls = Projection::try_new(vec![other_is_null.alias(IS_NULL)], Arc::clone(&join.right))?;
    let nulls = Distinct::All(Arc::new(LogicalPlan::Projection(nulls)));
    let nulls = LogicalPlan::Distinct(nulls);
    let has_null = Expr::Column(nulls.schema().qualified_field(0).into());
    let unequal = anti(join.left, join.right, Some(compared))?;
    let condition = has_null.or(value_is_null);
    anti(Arc::new(unequal), Arc::new(nulls), Some(condition))
}

fn anti(
    left: Arc<LogicalPlan>,
    right: Arc<LogicalPlan>,
    condition: Option<Expr>,
) -> EngineResult<LogicalPlan> {
    let join = Join::try_new(
        left,
        right,
        Vec::new(),
        condition,
        JoinType::LeftAnti,
        JoinConstraint::On,
        NullEquality::NullEqualsNothing,
        false,
    )?;
    Ok(LogicalPlan::Join(join))
}
