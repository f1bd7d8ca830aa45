//! A planned query in as many lanes as it shall have, and how that is told.
//!
//! Rows of a query without state go their own ways. What keeps groups, partitions or rows by a key is cut by
//! key group; what has no key stays in one lane, while its rows are still read and decoded side by side.

use std::sync::Arc;

use millpond_proto::limits::JOB_STATE_BYTES_MAX;

use crate::error::SqlError;
use crate::operator::assign::Windows;
use crate::operator::graph::{Graph, GraphPlan, Kind};
use crate::operator::group::{Grouping, Groups};
use crate::operator::project::Transform;
use crate::operator::session::Session;
use crate::operator::spread::Router;
use crate::operator::{Operator, OperatorError, window};
use crate::plan::continuous::{ContinuousPlan, Shape};

/// A query that has seen nothing, by lane.
pub(crate) enum Built {
    /// Filters and projections, without state.
    Rows(Transform),
    /// Filters and projections, how rows find their lane, and the groups of each.
    Groups(Transform, Router, Vec<Box<dyn Operator>>),
    /// The nodes of each.
    Graph(Vec<Graph>),
}

impl ContinuousPlan {
    /// Builds it in up to so many lanes, each with at most so much state.
    ///
    /// # Errors
    /// [`SqlError`] when a column's type can not be a key.
    pub(crate) fn build(&self, lanes: usize, state_bytes_max: usize) -> Result<Built, SqlError> {
        Ok(match self.shape() {
            Shape::Rows(transform) => Built::Rows(transform.clone()),
            Shape::Groups(grouping) => {
                groups(grouping, lanes, state_bytes_max).map_err(|error| {
                    SqlError::invalid(error.to_string(), "group by columns of plain types")
                })?
            }
            Shape::Graph(graph) => {
                let plan = Arc::new(graph.as_ref().clone());
                let count = match is_cut(&plan).map_err(no_row)? {
                    true => lanes,
                    false => 1,
                };
                let lanes = (0..count).map(|lane| {
                    let graph = Graph::new(Arc::clone(&plan))?.into_lane(lane, count);
                    Ok(graph.with_state_bytes_max(state_bytes_max))
                });
                Built::Graph(lanes.collect::<Result<_, _>>().map_err(no_row)?)
            }
        })
    }

    /// One line that says whose state may go to rest when it outgrows its memory, and whose may not; `None` without state.
    ///
    /// # Errors
    /// As [`ContinuousPlan::build`].
    pub(crate) fn explain_rest(&self) -> Result<Option<String>, SqlError> {
        let (mut rests, mut stays) = (Vec::new(), Vec::new());
        match self.build(1, JOB_STATE_BYTES_MAX)? {
            Built::Rows(_) => return Ok(None),
            Built::Groups(_, router, groups) => match router.spreads() && groups[0].rests() {
                true => rests.push("aggregate"),
                false => stays.push("aggregate"),
            },
            Built::Graph(graph) => {
                for part in 0..graph[0].nodes() {
                    let Some(name) = graph[0].part_name(part) else {
                        continue;
                    };
                    match graph[0].part_rests(part) {
                        true => rests.push(name),
                        false => stays.push(name),
                    }
                }
            }
        }
        let told = [
            ("goes to rest above its limit", rests),
            ("stays in memory", stays),
        ];
        let told = told.into_iter().filter_map(|(how, mut names)| {
            names.sort_unstable();
            names.dedup();
            (!names.is_empty()).then(|| format!("{how}: {}", names.join(", ")))
        });
        let told: Vec<String> = told.collect();
        Ok((!told.is_empty()).then(|| format!("state {}", told.join("; "))))
    }

    /// One line that says what is done side by side.
    ///
    /// # Errors
    /// As [`ContinuousPlan::build`].
    pub(crate) fn explain_lanes(&self, lanes: usize) -> Result<String, SqlError> {
        let how = match self.build(lanes, JOB_STATE_BYTES_MAX)? {
            Built::Rows(_) => "rows as they come".to_owned(),
            Built::Groups(_, router, _) if router.spreads() => "groups by key group".to_owned(),
            Built::Groups(_, _, groups) => {
                let how = match groups[0].adder() {
                    Some(_) => "to read and add up; 1 to put together what was added up",
                    None => "to read; 1 to aggregate",
                };
                format!("{how}, since groups have no key but their window")
            }
            Built::Graph(graph) => {
                let whole = graph[0].in_one_lane();
                if !graph[0].is_keyed() {
                    "to read; 1 to compute, in the order of the log".to_owned()
                } else if whole.is_empty() {
                    "each step with state by key group".to_owned()
                } else {
                    format!("by key group; 1 for: {}, without a key", whole.join(", "))
                }
            }
        };
        Ok(format!("parallelism {lanes}: {how}"))
    }
}

fn no_row(error: OperatorError) -> SqlError {
    SqlError::invalid(
        error.to_string(),
        "leave out columns of type MAP, such as _properties",
    )
}

/// Whether any node has state by key; else rows keep the order of the log, which only one lane does.
fn is_cut(plan: &GraphPlan) -> Result<bool, OperatorError> {
    for node in &plan.nodes {
        // These have no key.
        if matches!(node.kind, Kind::Constant(_)) {
            continue;
        }
        if Router::of(&node.kind)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn groups(
    grouping: &Grouping,
    lanes: usize,
    state_bytes_max: usize,
) -> Result<Built, OperatorError> {
    let router = Groups::new(grouping.clone())?.router()?;
    let lanes = if router.spreads() { lanes } else { 1 };
    let mut built: Vec<Box<dyn Operator>> = Vec::with_capacity(lanes);
    for _ in 0..lanes {
        let lane = Grouping {
            // What came before them was done when rows were taken in.
            input: Transform::over(grouping.input.schema()),
            ..grouping.clone()
        };
        built.push(match grouping.window.as_ref().map(|window| window.kind) {
            Some(Windows::Session { gap_ms }) => {
                let session = Session::new(lane, gap_ms)?;
                Box::new(session.with_state_bytes_max(state_bytes_max))
            }
            _ => Box::new(window::Window::new(lane)?.with_state_bytes_max(state_bytes_max)),
        });
    }
    Ok(Built::Groups(grouping.input.clone(), router, built))
}
