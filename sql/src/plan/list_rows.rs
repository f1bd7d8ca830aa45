//! Subqueries over lists of the row outside of them: they read nothing but that row, so they are functions of it.
//!
//! ```text
//! (SELECT max(x) FROM UNNEST(t.list) AS u(x))                 of_list(t.list)
//! EXISTS (SELECT 1 FROM UNNEST(t.list) AS u(x) WHERE …)       of_list(t.list, …) > 0, of a count
//! t.n IN (SELECT x FROM UNNEST(t.list) AS u(x))               whether any equals it, and whether of any that is not known
//! JOIN LATERAL (SELECT max(x) AS m FROM UNNEST(t.list) …)     a column more
//! LEFT JOIN LATERAL (SELECT x + 1 FROM UNNEST(t.list) …)      the rows that it gives as lists, taken apart again: NULL where there is none
//! ```
//!
//! No join is left that would compare rows by their lists, and bounded and continuous queries compute the same. What has its place
//! in a join as it is (`unnest.rs`) is not touched.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, ScalarValue, TableReference, UnnestOptions};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::execution::SessionState;
use datafusion::execution::context::ExecutionProps;
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::functions_aggregate::bool_and_or::bool_or_udaf;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, Exists, InSubquery};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Aggregate, AggregateUDF, Expr, ExprSchemable as _, Filter, Join, LogicalPlan,
    LogicalPlanBuilder, ScalarUDF, Unnest, lit, when,
};

use crate::operator::folded::Folded;
use crate::plan::chain::{Walk, lower, no_function_of_the_row};
use crate::plan::unnest::{
    columns, condition_of, has_list, inner, is_plain, is_true, onto, project,
};

/// What the columns of the row outside stand in.
const ROW: &str = "__row";
/// What is looked for in a list.
const SOUGHT: &str = "__sought";

/// Makes functions of the row of all subqueries over its lists.
pub(crate) fn plain(plan: LogicalPlan, state: &SessionState) -> EngineResult<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = &node
            && let Some(joined) = lateral(join, state)?
        {
            return Ok(Transformed::yes(joined));
        }
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let told = expr.transform_up(|expr| {
                Ok(match of_expr(&expr, &schema, state)? {
                    Some(function) => Transformed::yes(function),
                    None => Transformed::no(expr),
                })
            })?;
            Ok(match told.transformed {
                true => told.update_data(|expr| name.restore(expr)),
                false => told,
            })
        })
    })?;
    Ok(plan.data)
}

fn of_expr(expr: &Expr, row: &DFSchema, state: &SessionState) -> EngineResult<Option<Expr>> {
    match expr {
        Expr::ScalarSubquery(query) => {
            let values = aggregates(&query.subquery, row, state)?;
            Ok(values.and_then(|values| values.into_iter().next()))
        }
        Expr::Exists(Exists { subquery, negated }) => {
            let count = |_: &Rows| aggregate(count_udaf(), lit(1_i64), None);
            let counted = call(&subquery.subquery, row, None, count, state)?;
            Ok(counted.map(|counted| match negated {
                true => counted.eq(lit(0_i64)),
                false => counted.gt(lit(0_i64)),
            }))
        }
        Expr::InSubquery(query) => is_in(query, row, state),
        _ => Ok(None),
    }
}

/// `x IN (…)` with its three answers.
fn is_in(query: &InSubquery, row: &DFSchema, state: &SessionState) -> EngineResult<Option<Expr>> {
    let equal = |rows: &Rows| {
        rows.first()
            .eq(Expr::Column(Column::new(Some(ROW), SOUGHT)))
    };
    let any = |rows: &Rows| aggregate(bool_or_udaf(), equal(rows), None);
    let unknown = |rows: &Rows| {
        let is_unknown = equal(rows).is_null();
        aggregate(count_udaf(), lit(1_i64), Some(is_unknown))
    };
    let (list, sought) = (&query.subquery.subquery, Some(query.expr.as_ref()));
    let any = call(list, row, sought, any, state)?;
    let unknown = call(list, row, sought, unknown, state)?;
    let Some((any, unknown)) = any.zip(unknown) else {
        return Ok(None);
    };
    let answer = when(any, lit(!query.negated))
        .when(unknown.gt(lit(0_i64)), lit(ScalarValue::Boolean(None)))
        .otherwise(lit(query.negated))?;
    Ok(Some(answer))
}

/// A list's rows beside the columns of the row outside.
struct Rows {
    plan: LogicalPlan,
    /// How many columns of the row there are before its own.
    width: usize,
}

impl Rows {
    fn column(&self, at: usize) -> Expr {
        Expr::Column(Column::from(
            self.plan.schema().qualified_field(self.width + at),
        ))
    }

    fn first(&self) -> Expr {
        self.column(0)
    }
}

fn aggregate(function: Arc<AggregateUDF>, of: Expr, filter: Option<Expr>) -> Expr {
    Expr::AggregateFunction(AggregateFunction::new_udf(
        function,
        vec![of],
        false,
        filter.map(Box::new),
        Vec::new(),
        None,
    ))
}

/// The columns of a query that aggregates the rows of a list, as functions of the row; `None`: it is another one.
fn aggregates(
    plan: &LogicalPlan,
    row: &DFSchema,
    state: &SessionState,
) -> EngineResult<Option<Vec<Expr>>> {
    let (exprs, aggregate) = match plan {
        LogicalPlan::Subquery(query) => return aggregates(&query.subquery, row, state),
        LogicalPlan::SubqueryAlias(alias) => return aggregates(&alias.input, row, state),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Aggregate(aggregate) => (projection.expr.clone(), aggregate),
            _ => return Ok(None),
        },
        LogicalPlan::Aggregate(aggregate) => {
            let all = 0..aggregate.schema.fields().len();
            (columns(&aggregate.schema, all).collect(), aggregate)
        }
        _ => return Ok(None),
    };
    if !aggregate.group_expr.is_empty() || !has_list(&aggregate.input)? {
        return Ok(None);
    }
    let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
    for expr in &aggregate.aggr_expr {
        let of_rows = |_: &Rows| expr.clone().unalias();
        match call(&aggregate.input, row, None, of_rows, state)? {
            Some(call) => calls.push(call),
            None => return Ok(None),
        }
    }
    let exprs = exprs.into_iter().map(|expr| {
        let expr = inner(expr, row)?;
        let told = expr.transform(|expr| match &expr {
            Expr::Column(column) => Ok(match aggregate.schema.maybe_index_of_column(column) {
                Some(at) => Transformed::yes(calls[at].clone()),
                None => Transformed::no(expr),
            }),
            _ => Ok(Transformed::no(expr)),
        })?;
        Ok(told.data.unalias())
    });
    Ok(Some(exprs.collect::<EngineResult<_>>()?))
}

/// An aggregate over the rows of a list, as a function of the row outside; `None`: there is no list, or it reads more than that.
fn call(
    list: &LogicalPlan,
    row: &DFSchema,
    sought: Option<&Expr>,
    of_rows: impl Fn(&Rows) -> Expr,
    state: &SessionState,
) -> EngineResult<Option<Expr>> {
    if !has_list(list)? || sought.is_some_and(Expr::contains_outer) {
        return Ok(None);
    }
    let mut outside: Vec<(DataType, Column)> = Vec::new();
    let mut is_known = true;
    let mut read = |expr: &Expr| {
        expr.apply(|expr| {
            if let Expr::OuterReferenceColumn(field, column) = expr {
                is_known &= row.has_column(column);
                if outside.iter().all(|(_, known)| known != column) {
                    outside.push((field.data_type().clone(), column.clone()));
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })
    };
    list.apply_with_subqueries(|node| {
        node.apply_expressions(&mut read)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    // What the aggregate itself reads of the row is known once it is asked for.
    let probe = Rows {
        plan: list.clone(),
        width: 0,
    };
    if sought.is_none() {
        read(&of_rows(&probe))?;
    }
    if !is_known || (outside.is_empty() && sought.is_none()) {
        return Ok(None);
    }
    let mut arguments: Vec<Expr> = Vec::new();
    let (mut fields, mut names) = (Vec::new(), Vec::new());
    let sought = match sought {
        Some(sought) => Some((sought.get_type(row)?, sought.clone())),
        None => None,
    };
    let outside = outside.into_iter().map(|(kind, column)| {
        let (relation, name) = (column.relation.clone(), column.name.clone());
        (kind, Expr::Column(column), relation, name)
    });
    let sought = sought.map(|(kind, sought)| {
        let relation = Some(TableReference::bare(ROW));
        (kind, sought, relation, SOUGHT.to_owned())
    });
    for (at, (kind, argument, relation, name)) in outside.chain(sought).enumerate() {
        fields.push(Field::new(format!("c{at}"), kind, true));
        let column = Expr::Column(Column::new(Some(ROW), format!("c{at}")));
        names.push(column.alias_qualified(relation, name));
        arguments.push(argument);
    }
    let source: SchemaRef = Arc::new(Schema::new(fields));
    let table = provider_as_source(Arc::new(EmptyTable::new(Arc::clone(&source))));
    let scan = LogicalPlanBuilder::scan(ROW, table, None)?.build()?;
    let base = Arc::new(project(names, scan)?);
    let width = base.schema().fields().len();
    let Some(plan) = onto(list, &base, false, None)? else {
        return Ok(None);
    };
    let rows = Rows { plan, width };
    let aggregate = inner(of_rows(&rows), base.schema())?;
    let closed = Aggregate::try_new(Arc::new(rows.plan), Vec::new(), vec![aggregate])?;
    let closed = state.analyzer().execute_and_check(
        LogicalPlan::Aggregate(closed),
        state.config_options(),
        |_, _| {},
    )?;
    let function = function_of(&closed, &source)?;
    Ok(function.map(|function| ScalarUDF::from(function).call(arguments)))
}

/// The function of a plan that aggregates rows of lists; `None`: something in it is none of the row.
fn function_of(closed: &LogicalPlan, source: &SchemaRef) -> EngineResult<Option<Folded>> {
    let LogicalPlan::Aggregate(aggregate) = closed else {
        return Ok(None);
    };
    let mut is_of_row = true;
    closed.apply_with_subqueries(|node| {
        for expr in node.expressions() {
            let found = no_function_of_the_row(&expr);
            is_of_row &= matches!(found, Ok(None));
        }
        Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
    })?;
    let walk = Walk {
        source_schema: source,
        window: None,
        properties: ExecutionProps::new(),
    };
    let (true, [expr]) = (is_of_row, aggregate.aggr_expr.as_slice()) else {
        return Ok(None);
    };
    // What a walk refuses has its own words elsewhere.
    let Ok(chain) = walk.chain(&aggregate.input) else {
        return Ok(None);
    };
    let Ok(kernel) = lower(expr, aggregate.input.schema(), &chain.transform.schema()) else {
        return Ok(None);
    };
    // Its accumulator takes rows in that order only.
    if !kernel.function.order_bys().is_empty() {
        return Ok(None);
    }
    let text = closed.display_indent_schema().to_string();
    Folded::new(text, Arc::clone(source), chain.transform, kernel).map(Some)
}

/// A join with a query over lists of its left side; `None`: it is another join, or one that [`crate::plan::unnest::beside`] knows.
fn lateral(join: &Join, state: &SessionState) -> EngineResult<Option<LogicalPlan>> {
    let keeps = join.join_type == JoinType::Left;
    if !(keeps || join.join_type == JoinType::Inner) || !has_list(&join.right)? {
        return Ok(None);
    }
    let condition = condition_of(join).filter(|condition| !is_true(condition));
    if keeps && condition.is_some() {
        return Ok(None);
    }
    let left = join.left.schema();
    let own = columns(left, 0..left.fields().len());
    let names = join.right.schema().iter();
    let named = |(expr, (relation, field)): (Expr, (Option<&TableReference>, &Arc<Field>))| {
        expr.alias_qualified(relation.cloned(), field.name())
    };
    let joined = match aggregates(&join.right, left, state)? {
        Some(values) => {
            let values = values.into_iter().zip(names).map(named);
            project(own.chain(values).collect(), join.left.as_ref().clone())?
        }
        None if keeps && !is_plain(&join.right) => {
            let mut lists = Vec::new();
            for at in 0..join.right.schema().fields().len() {
                let all = |rows: &Rows| aggregate(array_agg_udaf(), rows.column(at), None);
                match call(&join.right, left, None, all, state)? {
                    Some(list) => lists.push(list),
                    None => return Ok(None),
                }
            }
            let lists = lists.into_iter().zip(names).map(named);
            let rows = project(own.chain(lists).collect(), join.left.as_ref().clone())?;
            let width = left.fields().len();
            let lists = rows.schema().columns().split_off(width);
            let options = UnnestOptions::new().with_preserve_nulls(true);
            let rows = Unnest::try_new(Arc::new(rows), lists, options)?;
            // What was a list has lost the name of its table.
            let all = columns(&rows.schema, 0..rows.schema.fields().len());
            let names = join.schema.iter();
            let all = all.zip(names).map(|(column, (relation, field))| {
                column.alias_qualified(relation.cloned(), field.name())
            });
            project(all.collect(), LogicalPlan::Unnest(rows))?
        }
        None => return Ok(None),
    };
    Ok(Some(match condition {
        Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(joined))?),
        None => joined,
    }))
}
