//! Lists as rows: `FROM orders AS o CROSS JOIN UNNEST(o.items) AS u(item)`.
//!
//! Two steps, for bounded and continuous queries alike. On the syntax tree (`unnest_written.rs`) whatever gives rows of a list becomes
//! `UNNEST` with names. Here, in the plan, the list, which reads the columns of the tables before it, moves onto these: there it is
//! a column like any other, and no join is left. What a list in `SELECT` gives needs neither.
//!
//! **Invariant.** A row with an empty list or without one goes, and stays with NULL behind `LEFT JOIN … ON TRUE`.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, ScalarValue, TableReference};
use datafusion::error::Result as EngineResult;
use datafusion::functions_nested::expr_fn::array_length;
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan, Projection, Unnest, lit, when};

use crate::error::SqlError;
use crate::operator::graph::Kind;
use crate::operator::project::{Step, Transform};
use crate::operator::unnest::Lists;
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge};
use crate::plan::refuse::refused;

/// Puts every list that is joined onto the rows that it is joined with.
///
/// # Errors
/// [`SqlError::Invalid`] for a condition of `LEFT JOIN` on a list.
pub(crate) fn beside(plan: LogicalPlan) -> Result<LogicalPlan, SqlError> {
    let mut refusal = None;
    let moved = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::Join(join) = &node else {
            return Ok(Transformed::no(node));
        };
        let keeps = join.join_type == JoinType::Left;
        if !keeps && join.join_type != JoinType::Inner {
            return Ok(Transformed::no(node));
        }
        // A row of constants is beside every row; behind LEFT JOIN it may meet none, and what chance gives is one value.
        let stays = |of: &Side| !of.has_list && (keeps || of.is_volatile);
        let of = side(&join.right)?;
        // What leaves elements out, or computes with them, has nothing for a row without one: see `list_rows.rs`.
        let pads = keeps && of.has_list && !is_plain(&join.right);
        if stays(&of) || pads {
            return Ok(Transformed::no(node));
        }
        let Some(joined) = onto(&join.right, &join.left, keeps, None)? else {
            return Ok(Transformed::no(node));
        };
        let condition = condition_of(join);
        let Some(condition) = condition.filter(|condition| !is_true(condition)) else {
            return Ok(Transformed::yes(joined));
        };
        if keeps {
            refusal = Some(SqlError::invalid(
                "LEFT JOIN UNNEST with another condition than ON TRUE",
                "write ON TRUE, and choose the elements before: LEFT JOIN UNNEST(array_remove_all(list, 'x')) … ON TRUE",
            ));
            return Ok(Transformed::no(node));
        }
        let filter = Filter::try_new(condition, Arc::new(joined))?;
        Ok(Transformed::yes(LogicalPlan::Filter(filter)))
    })?;
    match refusal {
        Some(error) => Err(error),
        None => Ok(moved.data),
    }
}

/// What stands on the right of a join.
struct Side {
    has_list: bool,
    /// Whether it gives other values each time.
    is_volatile: bool,
}

fn side(plan: &LogicalPlan) -> EngineResult<Side> {
    let mut found = Side {
        has_list: false,
        is_volatile: false,
    };
    plan.apply_with_subqueries(|node| {
        found.has_list |= matches!(node, LogicalPlan::Unnest(_));
        found.is_volatile |= node.expressions().iter().any(Expr::is_volatile);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Whether a plan has a list whose elements become rows.
pub(super) fn has_list(plan: &LogicalPlan) -> EngineResult<bool> {
    Ok(side(plan)?.has_list)
}

/// Whether the rows of a list are its elements as they are, all of them.
pub(super) fn is_plain(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Subquery(subquery) => is_plain(&subquery.subquery),
        LogicalPlan::SubqueryAlias(alias) => is_plain(&alias.input),
        LogicalPlan::Projection(projection) => {
            let exprs = projection.expr.iter().cloned();
            let mut exprs = exprs.map(|expr| expr.unalias_nested().data);
            exprs.all(|expr| matches!(expr, Expr::Column(_))) && is_plain(&projection.input)
        }
        LogicalPlan::Unnest(_) => true,
        _ => false,
    }
}

/// Refuses lists of the row outside of a subquery, which no join puts beside them.
///
/// # Errors
/// [`SqlError::Invalid`] for such a list.
pub(crate) fn check_left(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut is_left = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Unnest(unnest) = node {
            is_left |= !unnest.input.all_out_ref_exprs().is_empty();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match is_left {
        true => Err(SqlError::invalid(
            "UNNEST in a subquery is of a list of the row outside of it, and the subquery neither aggregates its elements nor asks for one",
            "aggregate them, (SELECT max(x) FROM UNNEST(t.list) AS u(x)), or join the row with it: FROM t CROSS JOIN UNNEST(t.list) AS u(element)",
        )),
        false => Ok(()),
    }
}

pub(super) fn condition_of(join: &Join) -> Option<Expr> {
    let equal = join.on.iter();
    let equal = equal.map(|(left, right)| left.clone().eq(right.clone()));
    equal.chain(join.filter.clone()).reduce(Expr::and)
}

pub(super) fn is_true(condition: &Expr) -> bool {
    matches!(
        condition,
        Expr::Literal(ScalarValue::Boolean(Some(true)), _)
    )
}

/// A list that stands over no table as one that stands over `left`, whose columns come first; `None`: it is something else.
pub(super) fn onto(
    list: &LogicalPlan,
    left: &Arc<LogicalPlan>,
    keeps: bool,
    name: Option<&TableReference>,
) -> EngineResult<Option<LogicalPlan>> {
    let below = |input: &Arc<LogicalPlan>, name| onto(input, left, keeps, name);
    let width = left.schema().fields().len();
    Ok(match list {
        LogicalPlan::EmptyRelation(empty) if empty.produce_one_row => Some(left.as_ref().clone()),
        LogicalPlan::Subquery(subquery) => below(&subquery.subquery, name)?,
        LogicalPlan::SubqueryAlias(alias) => {
            let Some(input) = below(&alias.input, Some(&alias.alias))? else {
                return Ok(None);
            };
            let columns = columns(input.schema(), 0..width);
            let ours = columns_of(input.schema()).skip(width).map(|column| {
                let name = column.name.clone();
                Expr::Column(column).alias_qualified(Some(alias.alias.clone()), name)
            });
            Some(project(columns.chain(ours).collect(), input)?)
        }
        LogicalPlan::Projection(projection) => {
            let Some(input) = below(&projection.input, None)? else {
                return Ok(None);
            };
            let columns = columns(input.schema(), 0..width);
            let ours = projection.expr.iter().map(|expr| {
                let expr = inner(expr.clone(), left.schema())?;
                // Beside columns of the same name it has to have the table's name at once.
                Ok(match name {
                    Some(name) => {
                        let column = match &expr {
                            Expr::Column(column) => column.name.clone(),
                            other => other.schema_name().to_string(),
                        };
                        expr.unalias().alias_qualified(Some(name.clone()), column)
                    }
                    None => expr,
                })
            });
            let ours = ours.collect::<EngineResult<Vec<_>>>()?;
            Some(project(columns.chain(ours).collect(), input)?)
        }
        LogicalPlan::Filter(filter) if !keeps => {
            let Some(input) = below(&filter.input, name)? else {
                return Ok(None);
            };
            let predicate = inner(filter.predicate.clone(), left.schema())?;
            let filter = Filter::try_new(predicate, Arc::new(input))?;
            Some(LogicalPlan::Filter(filter))
        }
        LogicalPlan::Unnest(unnest) => {
            let Some(input) = below(&unnest.input, None)? else {
                return Ok(None);
            };
            let mut options = unnest.options.clone();
            options.preserve_nulls = keeps;
            let columns = unnest.exec_columns.clone();
            let input = match keeps {
                true => without_empty(input, &columns)?,
                false => input,
            };
            let unnest = Unnest::try_new(Arc::new(input), columns, options)?;
            Some(LogicalPlan::Unnest(unnest))
        }
        _ => None,
    })
}

/// Rows with NULL in the place of lists without elements, so that they stay.
fn without_empty(input: LogicalPlan, lists: &[Column]) -> EngineResult<LogicalPlan> {
    let exprs = columns_of(input.schema()).map(|column| {
        if !lists.contains(&column) {
            return Ok(Expr::Column(column));
        }
        let (table, name) = (column.relation.clone(), column.name.clone());
        let list = Expr::Column(column);
        let has_elements = array_length(list.clone()).gt(lit(0_u64));
        Ok(when(has_elements, list).end()?.alias_qualified(table, name))
    });
    project(exprs.collect::<EngineResult<Vec<_>>>()?, input)
}

pub(super) fn project(exprs: Vec<Expr>, input: LogicalPlan) -> EngineResult<LogicalPlan> {
    let projection = Projection::try_new(exprs, Arc::new(input))?;
    Ok(LogicalPlan::Projection(projection))
}

fn columns_of(schema: &DFSchema) -> impl Iterator<Item = Column> {
    schema.iter().map(Column::from)
}

pub(super) fn columns(
    schema: &DFSchema,
    which: std::ops::Range<usize>,
) -> impl Iterator<Item = Expr> {
    let all = columns_of(schema).skip(which.start).take(which.len());
    all.map(Expr::Column)
}

/// Columns of the tables before the list as those of its own input.
pub(super) fn inner(expr: Expr, left: &DFSchema) -> EngineResult<Expr> {
    let moved = expr.transform(|expr| {
        Ok(match expr {
            Expr::OuterReferenceColumn(_, column) if left.has_column(&column) => {
                Transformed::yes(Expr::Column(column))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(moved.data)
}

/// The lists of a plan's node, over rows of a schema.
///
/// # Errors
/// [`SqlError::Invalid`] for structs and for lists within lists.
pub(crate) fn lists_of(unnest: &Unnest, input: &Schema) -> Result<Lists, SqlError> {
    let lists = &unnest.list_type_columns;
    if !unnest.struct_type_columns.is_empty() || lists.iter().any(|(_, list)| list.depth > 1) {
        return Err(refused(
            "UNNEST of structs and of lists within lists",
            "take one list after the other: UNNEST(a) AS u(b) CROSS JOIN UNNEST(b) AS v(c)",
        ));
    }
    let columns: Vec<usize> = lists.iter().map(|(column, _)| *column).collect();
    let fields = input.fields().iter().zip(unnest.schema.fields());
    let fields = fields.enumerate().map(|(at, (before, after))| {
        let is_list = columns.contains(&at);
        let kind = if is_list { after } else { before }.data_type().clone();
        Field::new(after.name(), kind, true)
    });
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    if unnest.schema.fields().len() != input.fields().len() {
        return Err(SqlError::Bug {
            cause: "a list became several columns".to_owned(),
        });
    }
    Ok(Lists {
        columns,
        keeps_empty: unnest.options.preserve_nulls,
        schema,
    })
}

impl Builder<'_> {
    /// `UNNEST`, whose rows come and go with those that have the lists.
    pub(super) fn unnest(&mut self, unnest: &Unnest) -> Result<Edge, SqlError> {
        let below = self.relation(&unnest.input)?;
        let input = Arc::clone(&self.nodes[below.node].schema);
        let lists = lists_of(unnest, &input)?;
        let stays = |column: &usize| !lists.columns.contains(column);
        let times = below.times.into_iter();
        let times: Vec<Time> = times.filter(|time| stays(&time.column)).collect();
        let mut transform = Transform::over(input);
        let schema = Arc::clone(&lists.schema);
        transform.push(Step::Unnest(lists));
        let edge = Edge {
            node: self.push(Kind::Transform(transform), vec![below.node], schema),
            mode: below.mode,
            unique: None,
            times,
        };
        self.tell("unnest", &edge);
        Ok(edge)
    }
}
