//! `IN (SELECT …)` where the engine's joins do not say of NULL what SQL says.
//!
//! As a condition of its own, `x IN (SELECT y …)` is a semi join, and `x NOT IN` an anti join that knows of NULL. Anywhere else the
//! engine asks whether there is a `y` that equals `x`, and takes "unknown" for "no": `a = 1 OR x NOT IN (…)` let rows pass whose `x`
//! is NULL. Here it is asked for what is meant, by `EXISTS`:
//!
//! ```text
//! x NOT IN (SELECT y …), to hold             NOT EXISTS (SELECT … WHERE (x = y) IS NOT FALSE)
//! NOT (x IN (SELECT y …)), to hold           the same
//! x IN (SELECT y …), to hold                 as it is: unknown does as little as no
//! x IN (SELECT y …), as a value              CASE WHEN x IN (…) THEN true
//!                                                 WHEN EXISTS (SELECT … WHERE (x = y) IS NULL) THEN NULL ELSE false END
//! ```
//!
//! So it is for a `NOT IN` of its own, too, which the engine's join does not take or gets wrong: where the subquery names a row outside
//! of it, or `x` is no column of a row.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::common::{Column, DFSchema, ExprSchema as _, ScalarValue};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, Filter, LogicalPlan, Operator, Projection, Subquery, lit, when,
};

/// What the one column of such a subquery is called.
const RELATION: &str = "__in";
const VALUE: &str = "value";

/// Which `NOT IN` that are conditions of their own become `EXISTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alone {
    /// Those that the engine's join can not answer.
    Mended,
    /// None: [`crate::plan::not_in`] has joins for them.
    Kept,
}

/// Asks in all of a plan for what is meant.
pub(crate) fn plain(plan: LogicalPlan, alone: Alone) -> EngineResult<LogicalPlan> {
    let plain = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Filter(filter) if has_one(&filter.predicate)? => {
            let conditions = split_conjunction_owned(filter.predicate).into_iter();
            let schema = Arc::clone(filter.input.schema());
            let conditions = conditions.map(|condition| meant(condition, &schema, alone));
            let conditions = conditions.collect::<EngineResult<Vec<Expr>>>()?;
            let predicate = conjunction(conditions).unwrap_or_else(|| lit(true));
            let filter = Filter::try_new(predicate, filter.input)?;
            Ok(Transformed::yes(LogicalPlan::Filter(filter)))
        }
        LogicalPlan::SubqueryAlias(alias) if alias.alias.table() == RELATION => {
            Ok(Transformed::yes(rows(&alias.input)?))
        }
        other => match other.inputs().as_slice() {
            [input] => {
                let schema = Arc::clone(input.schema());
                values_of(other, &schema)
            }
            _ => Ok(Transformed::no(other)),
        },
    })?;
    Ok(plain.data)
}

/// The expressions of a node that is no condition: each `IN` of them is a value.
fn values_of(node: LogicalPlan, schema: &DFSchema) -> EngineResult<Transformed<LogicalPlan>> {
    let names = NamePreserver::new(&node);
    node.map_expressions(|expr| {
        if !has_one(&expr)? {
            return Ok(Transformed::no(expr));
        }
        let name = names.save(&expr);
        let told = told(expr, schema)?;
        Ok(Transformed::yes(name.restore(told)))
    })
}

fn has_one(expr: &Expr) -> EngineResult<bool> {
    expr.exists(|expr| Ok(matches!(expr, Expr::InSubquery(_))))
}

/// One of the conditions that all hold.
fn meant(condition: Expr, schema: &DFSchema, alone: Alone) -> EngineResult<Expr> {
    match condition {
        Expr::Not(within) => match *within {
            Expr::InSubquery(mut query) => {
                query.negated = !query.negated;
                meant(Expr::InSubquery(query), schema, alone)
            }
            within => holding(Expr::Not(Box::new(within)), schema, true),
        },
        Expr::InSubquery(query) => {
            let is_beyond_joins =
                query.expr.column_refs().is_empty() || !query.subquery.outer_ref_columns.is_empty();
            match query.negated && is_beyond_joins && alone == Alone::Mended {
                true => not_false(query, schema),
                false => Ok(Expr::InSubquery(query)),
            }
        }
        other => holding(other, schema, true),
    }
}

/// A part of a condition that lets a row pass if it is true, or if it is false, as `wanted`, and not if it is unknown.
fn holding(expr: Expr, schema: &DFSchema, wanted: bool) -> EngineResult<Expr> {
    if !has_one(&expr)? {
        return Ok(expr);
    }
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::And | Operator::Or),
            right,
        }) => {
            let left = holding(*left, schema, wanted)?;
            let right = holding(*right, schema, wanted)?;
            Ok(Expr::BinaryExpr(BinaryExpr::new(
                Box::new(left),
                op,
                Box::new(right),
            )))
        }
        Expr::Not(within) => Ok(Expr::Not(Box::new(holding(*within, schema, !wanted)?))),
        Expr::InSubquery(query) if wanted != query.negated => named(query),
        Expr::InSubquery(query) => not_false(query, schema),
        other => told(other, schema),
    }
}

/// An expression whose every `IN` is a value.
fn told(expr: Expr, schema: &DFSchema) -> EngineResult<Expr> {
    let told = expr.transform_up(|expr| match expr {
        Expr::InSubquery(query) => Ok(Transformed::yes(as_value(query, schema)?)),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(told.data)
}

/// `x NOT IN (…)` that is false where it is unknown, and `x IN (…)` that is true there.
fn not_false(query: InSubquery, schema: &DFSchema) -> EngineResult<Expr> {
    match exists(&query, schema, |equal| Expr::IsNotFalse(Box::new(equal)))? {
        Some(exists) if query.negated => Ok(Expr::Not(Box::new(exists))),
        Some(exists) => Ok(exists),
        None => Ok(Expr::InSubquery(query)),
    }
}

/// `x IN (…)` with its three answers.
fn as_value(query: InSubquery, schema: &DFSchema) -> EngineResult<Expr> {
    let Some(unknown) = exists(&query, schema, Expr::is_null)? else {
        return Ok(Expr::InSubquery(query));
    };
    let negated = query.negated;
    let is_in = named(InSubquery {
        negated: false,
        ..query
    })?;
    when(is_in, lit(!negated))
        .when(unknown, lit(ScalarValue::Boolean(None)))
        .otherwise(lit(negated))
}

/// The same with a name for the value that nothing outside has.
fn named(query: InSubquery) -> EngineResult<Expr> {
    let subquery = Arc::new(values(&query.subquery)?);
    Ok(Expr::InSubquery(InSubquery {
        subquery: Subquery {
            subquery,
            ..query.subquery
        },
        ..query
    }))
}

/// The rows of a comparison of several columns (`statement/clause/rows_in.rs`) under the names that it gave them. They are columns of that
/// relation, and it is none of its own: the engine does not find columns of a row further out within one.
fn rows(input: &Arc<LogicalPlan>) -> EngineResult<LogicalPlan> {
    let columns = input.schema().iter().map(|(qualifier, field)| {
        let column = Expr::Column((qualifier, field).into());
        column.alias_qualified(Some(RELATION), field.name())
    });
    let rows = Projection::try_new(columns.collect(), Arc::clone(input))?;
    Ok(LogicalPlan::Projection(rows))
}

fn values(query: &Subquery) -> EngineResult<LogicalPlan> {
    let value = Column::from(query.subquery.schema().qualified_field(0));
    let value = Expr::Column(value).alias_qualified(Some(RELATION), VALUE);
    let values = Projection::try_new(vec![value], Arc::clone(&query.subquery))?;
    Ok(LogicalPlan::Projection(values))
}

/// Whether there is a row for which `test` of the comparison holds; `None` if the value is of a row further out, which joins do not reach.
fn exists(
    query: &InSubquery,
    schema: &DFSchema,
    test: impl FnOnce(Expr) -> Expr,
) -> EngineResult<Option<Expr>> {
    if query.expr.contains_outer() {
        return Ok(None);
    }
    let mut outer_ref_columns = query.subquery.outer_ref_columns.clone();
    let outside = query.expr.as_ref().clone().transform(|expr| match expr {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            let outer = Expr::OuterReferenceColumn(field, column);
            if !outer_ref_columns.contains(&outer) {
                outer_ref_columns.push(outer.clone());
            }
            Ok(Transformed::yes(outer))
        }
        other => Ok(Transformed::no(other)),
    })?;
    let value = Expr::Column(Column::new(Some(RELATION), VALUE));
    let rows = Arc::new(values(&query.subquery)?);
    let rows = Filter::try_new(test(outside.data.eq(value)), rows)?;
    Ok(Some(Expr::Exists(Exists {
        subquery: Subquery {
            subquery: Arc::new(LogicalPlan::Filter(rows)),
            outer_ref_columns,
            spans: query.subquery.spans.clone(),
        },
        negated: false,
    })))
}
