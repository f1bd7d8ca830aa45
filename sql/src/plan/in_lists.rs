//! Two lists of one column beside each other: `k NOT IN (1, 2) OR k NOT IN (3, 4)`.
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
    Ok(match (*left, *right) {
        (Expr::InList(one), Expr::InList(mut other)) if one.expr == other.expr => {
            *other.expr = unseen(vec![*other.expr]);
            let both = BinaryExpr::new(
                Box::new(Expr::InList(one)),
                op,
                Box::new(Expr::InList(other)),
            );
            Transformed::yes(Expr::BinaryExpr(both))
        }
        (left, right) => {
            let same = BinaryExpr::new(Box::new(left), op, Box::new(right));
            Transformed::no(Expr::BinaryExpr(same))
        }
    })
}
