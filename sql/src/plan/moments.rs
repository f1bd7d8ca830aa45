//! Times as numbers: milliseconds, wherever the time comes from.
//!
//! The engine's own times are nanoseconds, those of topics milliseconds, and a cast to a number would show which one it is:
//! `CAST(at AS BIGINT)` of a column and of a literal in another unit. The way back would be another one still, seconds; a number
//! does not say its unit, so that one is refused, with the functions that do say it.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Cast, Expr, ExprSchemable, LogicalPlan, TryCast};

use crate::error::SqlError;

/// Makes milliseconds of all times that are cast to a number.
///
/// # Errors
/// For a number that is cast to a time.
pub(crate) fn in_milliseconds(plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
    let mut has_number = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                has_number |= is_time_of_number(expr);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if has_number {
        return Err(SqlError::invalid(
            "a number that is cast to a TIMESTAMP does not say what it counts",
            "write to_timestamp_millis(x) or to_timestamp_seconds(x)",
        ));
    }
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let expr = expr.transform_up(|expr| Ok(counted(expr, &schema)))?;
            Ok(expr.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(plan.data)
}

/// What the planner makes of a number that is cast to a time: seconds, and then what was asked for.
fn is_time_of_number(expr: &Expr) -> bool {
    let Expr::Cast(outer) = expr else {
        return false;
    };
    let Expr::Cast(inner) = outer.expr.as_ref() else {
        return false;
    };
    let unit = |cast: &Cast| match cast.field.data_type() {
        DataType::Timestamp(unit, _) => Some(*unit),
        _ => None,
    };
    unit(outer) == Some(TimeUnit::Nanosecond) && unit(inner) == Some(TimeUnit::Second)
}

fn counted(mut expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let (Expr::Cast(Cast { expr: of, field }) | Expr::TryCast(TryCast { expr: of, field })) =
        &mut expr
    else {
        return Transformed::no(expr);
    };
    match of.get_type(schema) {
        Ok(DataType::Timestamp(unit, zone))
            if unit != TimeUnit::Millisecond && field.data_type().is_integer() =>
        {
            let time = std::mem::take(of.as_mut());
            let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, zone);
            **of = Expr::Cast(Cast::new(Box::new(time), milliseconds));
            Transformed::yes(expr)
        }
        _ => Transformed::no(expr),
    }
}
