//! Aggregates as nodes: their groups, grouping sets, and when a group ends.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use crate::error::SqlError;
use crate::operator::aggregate::AggregateSpec;
use crate::operator::graph::{Kind, Mode};
use crate::operator::group::STATE_TTL_MS;
use crate::operator::moment::Ending;
use crate::plan::bounds::{Time, time_of};
use crate::plan::chain::{depends_on_order, lower};
use crate::plan::continuous::lateness_ms;
use crate::plan::graph::{Builder, Edge, nullable, told};
use crate::plan::grouping_sets::{Sets, distinct};
use crate::plan::refuse::refused;

impl Builder<'_> {
    pub(super) fn aggregate(
        &mut self,
        input: &LogicalPlan,
        group_expr: &[Expr],
        aggr_expr: &[Expr],
        schema: &DFSchema,
    ) -> Result<Edge, SqlError> {
        let below = self.relation(input)?;
        if let Some(sets) = Sets::of(group_expr)? {
            return self.aggregate_by_sets(below, &sets, input.schema(), aggr_expr, schema);
        }
        let group_expr = distinct(group_expr)?;
        let mut groups = Vec::new();
        for (expr, field) in group_expr.iter().zip(schema.fields()) {
            groups.push((field.name().clone(), self.physical(expr, input.schema())?));
        }
        let times = passed_times(&group_expr, input.schema(), &below.times);
        self.aggregate_node(&below, groups, times, aggr_expr, input.schema())
    }

    /// One node that groups by these expressions under these names, of which `times` move on. `input` names the first columns of the rows below.
    pub(super) fn aggregate_node(
        &mut self,
        below: &Edge,
        named_groups: Vec<(String, Arc<dyn PhysicalExpr>)>,
        times: Vec<Time>,
        aggr_expr: &[Expr],
        input: &DFSchema,
    ) -> Result<Edge, SqlError> {
        let rows = Arc::clone(&self.nodes[below.node].schema);
        let mut groups = Vec::new();
        let mut fields = Vec::new();
        for (name, group) in named_groups {
            fields.push((name, group.data_type(&rows)?));
            groups.push(group);
        }
        let mut kernels = Vec::new();
        for expr in aggr_expr {
            let kernel = lower(expr, input, &rows)?;
            if let Some(name) = depends_on_order(&kernel) {
                return Err(refused(
                    &format!(
                        "{name} over a table that changes, since it depends on the order of rows"
                    ),
                    &format!(
                        "say which order: {name}(… ORDER BY column), or use an aggregate that does not"
                    ),
                ));
            }
            let kind = kernel.function.field().data_type().clone();
            fields.push((format!("aggregate_{}", kernels.len()), kind));
            kernels.push(kernel);
        }
        let schema = nullable(fields);
        let is_distinct = kernels.is_empty() && below.mode == Mode::Append;
        let (ending, times) = match groups.is_empty() {
            // One group is no more state than none, and its row would be wrong once it was forgotten.
            true => (None, times),
            false => self.group_ending(times),
        };
        let told = told(ending.as_ref());
        let spec = AggregateSpec {
            groups,
            kernels,
            input: rows,
            schema: Arc::clone(&schema),
            is_append: below.mode == Mode::Append,
            ending,
        };
        let count = spec.groups.len();
        let edge = Edge {
            node: self.push(Kind::Aggregate(spec), vec![below.node], schema),
            mode: if is_distinct {
                Mode::Append
            } else {
                Mode::Retract
            },
            unique: Some((0..count).collect()),
            times,
        };
        self.tell(&format!("aggregate{told}"), &edge);
        Ok(edge)
    }

    /// When groups end that have these columns of times among their own, and how those move on then.
    pub(super) fn group_ending(&self, mut times: Vec<Time>) -> (Option<Ending>, Vec<Time>) {
        let ttl_ms = self.options.state_ttl_ms;
        let idle = ttl_ms.map(|ttl_ms| Ending::Idle { ttl_ms });
        // Groups whose time is NULL would stay for ever.
        let at = times.iter().position(|time| !time.is_padded);
        let at = at.or((idle.is_none() && !times.is_empty()).then_some(0));
        let Some(first) = at.and_then(|at| times.get_mut(at)) else {
            return (idle, times);
        };
        if !first.is_strict {
            let lateness_ms = lateness_ms(&self.options, STATE_TTL_MS);
            first.horizon = first.horizon.lagging(lateness_ms);
            first.is_strict = true;
        }
        let ending = Ending::Time {
            column: first.column,
            horizon: Some(first.horizon.clone()),
            late: first.horizon.clone(),
        };
        (Some(ending), times)
    }
}

/// The columns of times that expressions compute of others.
pub(super) fn passed_times(exprs: &[Expr], input: &DFSchema, times: &[Time]) -> Vec<Time> {
    let each = exprs.iter().enumerate();
    let each = each.filter_map(|(column, expr)| {
        let time = time_of(expr, input, times)?;
        Some(Time { column, ..time })
    });
    each.collect()
}
