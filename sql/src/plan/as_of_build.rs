//! From an as-of join of the plan to its node in the graph.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use crate::error::SqlError;
use crate::operator::as_of::AsOfSpec;
use crate::operator::graph::{Kind, Mode};
use crate::operator::moment::Horizon;
use crate::plan::as_of::Seek;
use crate::plan::as_of_node::AsOfNode;
use crate::plan::bounds::{Time, time_of};
use crate::plan::graph::{Builder, Edge, named, nullable};
use crate::plan::refuse::refused;

impl Builder<'_> {
    pub(super) fn as_of(&mut self, node: &AsOfNode) -> Result<Edge, SqlError> {
        let left = self.relation(&node.left)?;
        let before = std::mem::replace(&mut self.reads_versions, node.versions.is_some());
        let right = self.relation(&node.right);
        self.reads_versions = before;
        let right = right?;
        for (edge, side) in [(&left, "left"), (&right, "right")] {
            if edge.mode == Mode::Retract {
                return Err(refused(
                    &format!("an as-of join whose {side} side is a table that changes"),
                    "join topics, or a materialized view by FOR SYSTEM_TIME AS OF a._stored_at",
                ));
            }
        }
        let inputs = [left.node, right.node].map(|node| Arc::clone(&self.nodes[node].schema));
        let schemas = [node.left.schema(), node.right.schema()];
        let horizon = |edge: &Edge, side: usize| {
            let expr = &node.times[side];
            let time = time_of(expr, schemas[side], &edge.times);
            let time =
                time.ok_or_else(|| without_watermark(expr, &node.left, &node.right, side))?;
            let lateness_ms = self.options.allowed_lateness_ms.unwrap_or(0);
            Ok::<_, SqlError>(match time.is_strict {
                true => time.horizon,
                false => time.horizon.lagging(lateness_ms),
            })
        };
        let horizons: [Horizon; 2] = [horizon(&left, 0)?, horizon(&right, 1)?];
        let all = |exprs: Vec<&Expr>, schema: &DFSchema| {
            let exprs = exprs.into_iter();
            let exprs = exprs.map(|expr| self.physical(expr, schema));
            exprs.collect::<Result<Vec<Arc<dyn PhysicalExpr>>, SqlError>>()
        };
        let (on_left, on_right): (Vec<&Expr>, Vec<&Expr>) =
            node.on.iter().map(|(left, right)| (left, right)).unzip();
        let versions = match &node.versions {
            Some([key, body]) => Some([
                self.physical(key, schemas[1])?,
                self.physical(body, schemas[1])?,
            ]),
            None => None,
        };
        let schema = nullable(named(&inputs[0]).into_iter().chain(named(&inputs[1])));
        let emitted = horizons[0].and(&horizons[1]);
        let times = left.times.iter().filter_map(|time| {
            let its = time_of(&node.times[0], schemas[0], std::slice::from_ref(time));
            its.is_some().then(|| Time {
                column: time.column,
                horizon: emitted.clone(),
                is_strict: true,
                // The times of the left, whose rows all stay.
                is_padded: time.is_padded,
            })
        });
        let times = times.collect();
        let spec = AsOfSpec {
            on: [all(on_left, schemas[0])?, all(on_right, schemas[1])?],
            times: [
                self.physical(&node.times[0], schemas[0])?,
                self.physical(&node.times[1], schemas[1])?,
            ],
            horizons,
            or_at: node.seek == Seek::Back { or_at: true },
            is_outer: node.is_outer,
            versions,
            order: all(node.order.iter().collect(), schemas[1])?,
            inputs,
            schema: Arc::clone(&schema),
        };
        let edge = Edge {
            node: self.push(
                Kind::AsOf(Box::new(spec)),
                vec![left.node, right.node],
                schema,
            ),
            mode: Mode::Append,
            unique: None,
            times,
        };
        self.tell("as-of join, state ends by time", &edge);
        Ok(edge)
    }
}

fn without_watermark(
    time: &Expr,
    left: &LogicalPlan,
    right: &LogicalPlan,
    side: usize,
) -> SqlError {
    let plan = [left, right][side];
    let topic = crate::plan::as_of::scanned(plan).map(|name| format!(" of topic {name}"));
    SqlError::invalid(
        format!(
            "an as-of join needs to know how late rows{} may come, and {time} is no column with a watermark",
            topic.unwrap_or_default()
        ),
        "make the topic with WATERMARK FOR its time column, or compare _stored_at with _stored_at",
    )
}
