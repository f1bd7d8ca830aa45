//! Filters, projections and windows within a graph: what they make of a step's rows, with the messages that the rows are.

use arrow::array::{Array as _, RecordBatch};
use arrow::compute::min;

use crate::operator::OperatorError;
use crate::operator::delta::Delta;
use crate::operator::graph::{Given, Graph, GraphStep, Kind};
use crate::operator::key::milliseconds;
use crate::operator::moment::{Ending, Moment};
use crate::operator::origin::{Message, UNKNOWN};
use crate::operator::project::Transform;
use crate::operator::slices::folded;

impl Graph {
    /// What the transform at `node` gives of the rows of a step.
    pub(super) fn transformed(
        &self,
        node: usize,
        transform: &Transform,
        delta: &Delta,
        before: &Given,
        origins: &[Message],
        step: &GraphStep,
    ) -> Result<Given, OperatorError> {
        if before.places.is_empty()
            && let Some(delta) = folded(transform, delta)?
            && self.takes_all(node, &delta.rows, step)?
        {
            return Ok(Given {
                origins: match self.judges_time {
                    true => vec![UNKNOWN; delta.weights.len()],
                    false => Vec::new(),
                },
                ..Given::unplaced(delta)
            });
        }
        let (rows, kept) = transform.run(&delta.rows)?;
        let weight = |row: &u32| delta.weights[*row as usize];
        let place = |row: &u32| before.places.get(*row as usize).cloned();
        let origin = |row: &u32| origins.get(*row as usize).copied();
        Ok(Given {
            delta: Delta {
                weights: kept.iter().map(weight).collect(),
                rows,
            },
            places: kept.iter().filter_map(place).collect(),
            origins: kept.iter().filter_map(origin).collect(),
        })
    }

    /// Whether whoever takes the rows of a node is an aggregate for which none of them is late, so that nobody asks which
    /// message a row is.
    fn takes_all(
        &self,
        node: usize,
        rows: &RecordBatch,
        step: &GraphStep,
    ) -> Result<bool, OperatorError> {
        let moment = Moment::new(&step.before, &step.after);
        let all = self.plan.nodes.iter();
        for taker in all.filter(|taker| taker.inputs.contains(&node)) {
            let Kind::Aggregate(spec) = &taker.kind else {
                return Ok(false);
            };
            let ending = spec.ending.as_ref();
            let judged = ending.and_then(Ending::column);
            let late_before = ending.and_then(|ending| ending.late_before(&moment));
            if let Some((column, late_before)) = judged.zip(late_before) {
                let times = spec.groups[column].evaluate(rows)?;
                let times = milliseconds(&times.into_array(rows.num_rows())?)?;
                if times.null_count() > 0 || min(&times).is_some_and(|first| first < late_before) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
