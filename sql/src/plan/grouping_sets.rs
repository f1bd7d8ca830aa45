//! `GROUPING SETS`, `ROLLUP` and `CUBE`: each row once for every set, with NULL in the columns left out.
//!
//! A column more, `__grouping_id`, tells the sets apart, with the bits that the engine gives it: one for each
//! group column, the last one lowest, set where the column is left out; above them how often the same set
//! came before.
//!
//! The set without columns is an aggregate of all rows: it has its row when there are none. Other sets have groups for rows only.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Expr, GroupingSet, lit as lit_expr};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, lit};

use crate::error::SqlError;
use crate::operator::graph::{Kind, Mode};
use crate::operator::project::{Step, Transform};
use crate::plan::aggregate_build::passed_times;
use crate::plan::bounds::Time;
use crate::plan::graph::{Builder, Edge, named, nullable};
use crate::plan::refuse::refused;

/// Most sets of one `GROUP BY`.
const SETS_MAX: usize = 64;

/// The sets of a `GROUP BY`.
pub(super) struct Sets {
    /// All group expressions.
    pub(super) exprs: Vec<Expr>,
    /// For each set, whether it has each of them.
    sets: Vec<Vec<bool>>,
}

/// The expressions of a `GROUP BY` as the engine has columns for them: each once.
pub(super) fn distinct(group_expr: &[Expr]) -> Result<Vec<Expr>, SqlError> {
    let exprs = grouping_set_to_exprlist(group_expr)?;
    Ok(exprs.into_iter().cloned().collect())
}

impl Sets {
    /// The sets, if there are any.
    pub(super) fn of(group_expr: &[Expr]) -> Result<Option<Self>, SqlError> {
        let [Expr::GroupingSet(grouping)] = group_expr else {
            return Ok(None);
        };
        let exprs = distinct(group_expr)?;
        let has = |set: &[Expr]| exprs.iter().map(|expr| set.contains(expr)).collect();
        let too_many = || {
            refused(
                &format!("more than {SETS_MAX} grouping sets"),
                "write fewer, or several queries",
            )
        };
        let sets: Vec<Vec<bool>> = match grouping {
            GroupingSet::GroupingSets(sets) => sets.iter().map(|set| has(set)).collect(),
            GroupingSet::Rollup(of) => (0..=of.len()).rev().map(|to| has(&of[..to])).collect(),
            GroupingSet::Cube(of) => {
                let count = u32::try_from(of.len()).ok();
                let count = count.and_then(|bits| 1_usize.checked_shl(bits));
                let count = count
                    .filter(|count| *count <= SETS_MAX)
                    .ok_or_else(too_many)?;
                let each = (0..count).map(|bits| {
                    let set = of.iter().enumerate();
                    let set = set.filter(|(at, _)| bits >> at & 1 == 1);
                    has(&set.map(|(_, expr)| expr.clone()).collect::<Vec<_>>())
                });
                each.collect()
            }
        };
        if sets.len() > SETS_MAX {
            return Err(too_many());
        }
        Ok(Some(Self { exprs, sets }))
    }

    /// What tells each set apart, in the type that the plan has for it.
    fn ids(&self, kind: &DataType) -> Result<Vec<ScalarValue>, SqlError> {
        let mut ids = Vec::new();
        for (index, set) in self.sets.iter().enumerate() {
            let bits = set
                .iter()
                .fold(0_u64, |bits, has| bits << 1 | u64::from(!has));
            let before = self.sets[..index].iter().filter(|other| *other == set);
            let before = before.count() as u64;
            let id = before << set.len() | bits;
            ids.push(ScalarValue::UInt64(Some(id)).cast_to(kind)?);
        }
        Ok(ids)
    }
}

impl Builder<'_> {
    /// Aggregates for each set, one below the other; the columns are the groups, the id and the aggregates.
    pub(super) fn aggregate_by_sets(
        &mut self,
        below: Edge,
        sets: &Sets,
        input: &DFSchema,
        aggr_expr: &[Expr],
        schema: &DFSchema,
    ) -> Result<Edge, SqlError> {
        let rows = Arc::clone(&self.nodes[below.node].schema);
        let groups = sets.exprs.iter().map(|expr| self.physical(expr, input));
        let groups = groups.collect::<Result<Vec<_>, _>>()?;
        let ids = sets.ids(schema.field(groups.len()).data_type())?;
        let mut of_rows = Vec::new();
        let mut of_all = Vec::new();
        for (set, id) in sets.sets.iter().zip(ids) {
            match set.contains(&true) {
                true => of_rows.push((set.as_slice(), id)),
                false => of_all.push(id),
            }
        }
        let mut edges = Vec::new();
        if !of_rows.is_empty() {
            let names = schema.fields().iter().take(groups.len() + 1).enumerate();
            let columns = names.map(|(index, field)| -> (String, Arc<dyn PhysicalExpr>) {
                let column = Column::new(field.name(), rows.fields().len() + index);
                (field.name().clone(), Arc::new(column))
            });
            let columns = columns.collect();
            let times = passed_times(&sets.exprs, input, &below.times);
            // Rows of a set without the column have NULL in its place.
            let times = times.into_iter().map(|time| Time {
                is_padded: time.is_padded || !of_rows.iter().all(|(set, _)| set[time.column]),
                ..time
            });
            let times: Vec<Time> = times.collect();
            let expanded = Edge {
                node: self.expand(below.node, &of_rows, &groups)?,
                ..below.clone()
            };
            edges.push(self.aggregate_node(&expanded, columns, times, aggr_expr, input)?);
        }
        // A row must have a column, also if nothing is asked of it but that it is there.
        let counted = [count(lit_expr(1_i64))];
        let of_group = match aggr_expr.is_empty() {
            true => counted.as_slice(),
            false => aggr_expr,
        };
        for id in of_all {
            let whole = self.aggregate_node(&below, Vec::new(), Vec::new(), of_group, input)?;
            let from = Arc::clone(&self.nodes[whole.node].schema);
            let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
            for group in &groups {
                expressions.push(lit(ScalarValue::try_from(&group.data_type(&rows)?)?));
            }
            expressions.push(lit(id));
            for (at, field) in from.fields().iter().take(aggr_expr.len()).enumerate() {
                expressions.push(Arc::new(Column::new(field.name(), at)));
            }
            let mut fields = Vec::new();
            for (expression, field) in expressions.iter().zip(schema.fields()) {
                fields.push((field.name().clone(), expression.data_type(&from)?));
            }
            let schema = nullable(fields);
            let mut transform = Transform::over(from);
            transform.push(Step::Project {
                expressions,
                schema: Arc::clone(&schema),
            });
            edges.push(Edge {
                node: self.push(Kind::Transform(transform), vec![whole.node], schema),
                ..whole
            });
        }
        if let [edge] = edges.as_slice() {
            return Ok(edge.clone());
        }
        let nodes: Vec<usize> = edges.iter().map(|edge| edge.node).collect();
        let schema = Arc::clone(&self.nodes[nodes[0]].schema);
        let edge = Edge {
            node: self.push(Kind::Union, nodes, schema),
            mode: Mode::Retract,
            unique: Some((0..=groups.len()).collect()),
            times: Vec::new(),
        };
        self.tell("union of grouping sets", &edge);
        Ok(edge)
    }

    /// Repeats the rows of a node for each set; its columns, then the group columns and the id.
    fn expand(
        &mut self,
        node: usize,
        sets: &[(&[bool], ScalarValue)],
        groups: &[Arc<dyn PhysicalExpr>],
    ) -> Result<usize, SqlError> {
        let rows = Arc::clone(&self.nodes[node].schema);
        let mut fields = named(&rows);
        for (index, group) in groups.iter().enumerate() {
            fields.push((format!("group_{index}"), group.data_type(&rows)?));
        }
        fields.push(("grouping_id".to_owned(), sets[0].1.data_type()));
        let schema = nullable(fields);
        let mut nodes = Vec::new();
        for (set, id) in sets {
            let columns = rows.fields().iter().enumerate();
            let mut expressions: Vec<Arc<dyn PhysicalExpr>> = columns
                .map(|(at, field)| -> Arc<dyn PhysicalExpr> {
                    Arc::new(Column::new(field.name(), at))
                })
                .collect();
            for (has, group) in set.iter().zip(groups) {
                expressions.push(match has {
                    true => Arc::clone(group),
                    false => lit(ScalarValue::try_from(&group.data_type(&rows)?)?),
                });
            }
            expressions.push(lit(id.clone()));
            let mut transform = Transform::over(Arc::clone(&rows));
            transform.push(Step::Project {
                expressions,
                schema: Arc::clone(&schema),
            });
            let kind = Kind::Transform(transform);
            nodes.push(self.push(kind, vec![node], Arc::clone(&schema)));
        }
        Ok(self.push(Kind::Union, nodes, schema))
    }
}
