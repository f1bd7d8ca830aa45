//! `SESSION` in the plan of a query that is no chain.
//!
//! A node of our own over the rows that are given their sessions, so that no rule of the engine's optimiser moves a condition
//! below it: what the sessions are is decided by all rows, before any condition.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::error::SqlError;
use crate::plan::session_filter::{has_session, is_session};
use crate::plan::window::Window;

/// What no condition passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionNode {
    /// Rows with their sessions.
    pub(crate) input: LogicalPlan,
    /// The columns that each have sessions of their own, so that they are read.
    keys: Vec<Expr>,
}

impl PartialOrd for SessionNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.input.partial_cmp(&other.input)
    }
}

impl UserDefinedLogicalNodeCore for SessionNode {
    fn name(&self) -> &'static str {
        "Session"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        inputs: Vec<LogicalPlan>,
    ) -> EngineResult<Self> {
        let input = inputs.into_iter().next();
        let lost = || DataFusionError::Internal("sessions lost their rows".to_owned());
        Ok(Self {
            input: input.ok_or_else(lost)?,
            keys: exprs,
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

/// Puts a node over all rows that are given sessions.
pub(crate) fn nodes(plan: LogicalPlan, windows: &[Window]) -> Result<LogicalPlan, SqlError> {
    if !windows.iter().any(is_session) {
        return Ok(plan);
    }
    let plan = plan.transform_up_with_subqueries(|plan| {
        let window = match &plan {
            LogicalPlan::Projection(projection) => has_session(projection, windows),
            _ => None,
        };
        let Some(window) = window else {
            return Ok(Transformed::no(plan));
        };
        let keys = window.keys.iter().map(Column::new_unqualified);
        let keys = keys.map(|key| {
            let at = plan.schema().index_of_column(&key)?;
            Ok(Expr::Column(Column::from(
                plan.schema().qualified_field(at),
            )))
        });
        let keys = keys.collect::<EngineResult<Vec<_>>>()?;
        let node = SessionNode { input: plan, keys };
        Ok(Transformed::yes(LogicalPlan::Extension(Extension {
            node: Arc::new(node),
        })))
    })?;
    Ok(plan.data)
}
