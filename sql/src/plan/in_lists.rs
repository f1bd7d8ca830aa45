//! Two lists of one column beside each other: `k NOT IN (1, 2) OR k NOT IN (3, 4)`, or as `NOT (k = 1 OR k = 2) OR …`.
//!
//! The engine makes one list of them, and where nothing is left of it `true` or `false`, also for rows where the column is NULL and
//! the answer is NULL. Here it is kept from seeing that the second list is of the same column.

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use crate::plan::unseen::unseen;

/// Keeps such lists apart, in all of a plan.
pub(crate) fn apart(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr
                .transform_up(one)?
                .update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(plan.data)
}

fn one(expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    let Expr::BinaryExpr(BinaryExpr {
        left,
        op: op @ (Operator::And | Operator::Or),
        right,
    }) = expr
    else {
        return Ok(Transformed::no(expr));
    };
    let hidden = match (list_of(&left), list_of(&right)) {
        // Others become one list of the values of both, which is right.
        (Some(one), Some(other)) if one.of == other.of && one.meets(&other, op) => {
            Some(one.of.clone())
        }
        _ => None,
    };
    let Some(hidden) = hidden else {
        let same = BinaryExpr::new(left, op, right);
        return Ok(Transformed::no(Expr::BinaryExpr(same)));
    };
    let right = right.transform_up(|expr| match expr == hidden {
        true => Ok(Transformed::yes(unseen(vec![expr]))),
        false => Ok(Transformed::no(expr)),
    })?;
    let both = BinaryExpr::new(left, op, Box::new(right.data));
    Ok(Transformed::yes(Expr::BinaryExpr(both)))
}

/// What the engine makes one list of constants.
struct List<'a> {
    /// What is in it, or not.
    of: &'a Expr,
    is_negated: bool,
}

impl List<'_> {
    /// Whether values are left that both lists have, and none may be.
    fn meets(&self, other: &Self, op: Operator) -> bool {
        match op {
            Operator::And => !(self.is_negated && other.is_negated),
            _ => self.is_negated || other.is_negated,
        }
    }
}

/// The list that a condition is, in whatever words.
fn list_of(expr: &Expr) -> Option<List<'_>> {
    match expr {
        Expr::InList(list) => Some(List {
            of: &list.expr,
            is_negated: list.negated,
        }),
        Expr::Not(inner) => list_of(inner).map(|list| List {
            is_negated: !list.is_negated,
            ..list
        }),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Eq | Operator::NotEq => {
                let of = match (left.as_ref(), right.as_ref()) {
                    (of, Expr::Literal(..)) | (Expr::Literal(..), of) => of,
                    _ => return None,
                };
                Some(List {
                    of,
                    is_negated: *op == Operator::NotEq,
                })
            }
            Operator::And | Operator::Or => {
                let (one, other) = (list_of(left)?, list_of(right)?);
                let is_one = one.of == other.of && one.is_negated == other.is_negated;
                (is_one && one.is_negated == (*op == Operator::And)).then_some(one)
            }
            _ => None,
        },
        _ => None,
    }
}
