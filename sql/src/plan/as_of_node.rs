//! An as-of join in the plan of a continuous query.
//!
//! A node of our own, so that no rule of the engine's optimiser sees a plain join in it and moves a
//! condition on the right's columns below it: which right row counts is decided before any condition.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchemaRef};
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, Projection, UserDefinedLogicalNodeCore,
};

use crate::error::SqlError;
use crate::plan::as_of::{Marked, Seek, check_key, refuse_ahead, scanned, with_place};
use crate::plan::source::Source;

/// The join.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AsOfNode {
    pub(crate) left: LogicalPlan,
    pub(crate) right: LogicalPlan,
    /// Pairs that are equal.
    pub(crate) on: Vec<(Expr, Expr)>,
    /// When a row of the left, and one of the right, happened.
    pub(crate) times: [Expr; 2],
    pub(crate) seek: Seek,
    pub(crate) is_outer: bool,
    /// Key and body of the right's messages, if it stands for versions.
    pub(crate) versions: Option<[Expr; 2]>,
    /// What right rows of equal time are ordered by.
    pub(crate) order: Vec<Expr>,
    schema: DFSchemaRef,
}

impl PartialOrd for AsOfNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.left.partial_cmp(&other.left) {
            Some(Ordering::Equal) => self.right.partial_cmp(&other.right),
            order => order,
        }
    }
}

impl UserDefinedLogicalNodeCore for AsOfNode {
    fn name(&self) -> &'static str {
        "AsOf"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let pairs = self.on.iter().flat_map(|(left, right)| [left, right]);
        let versions = self.versions.iter().flatten();
        pairs
            .chain(&self.times)
            .chain(versions)
            .chain(&self.order)
            .cloned()
            .collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsOf: {} of {}", self.times[1], self.times[0])
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        inputs: Vec<LogicalPlan>,
    ) -> EngineResult<Self> {
        let lost = || DataFusionError::Internal("an as-of join lost a part".to_owned());
        let mut inputs = inputs.into_iter();
        let (left, right) = inputs.next().zip(inputs.next()).ok_or_else(lost)?;
        let mut exprs = exprs.into_iter();
        let mut next = || exprs.next().ok_or_else(lost);
        let mut on = Vec::with_capacity(self.on.len());
        for _ in &self.on {
            on.push((next()?, next()?));
        }
        let times = [next()?, next()?];
        let versions = match self.versions {
            Some(_) => Some([next()?, next()?]),
            None => None,
        };
        Ok(Self {
            schema: Arc::new(left.schema().join(right.schema())?),
            left,
            right,
            on,
            times,
            versions,
            order: exprs.collect(),
            ..self.clone()
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let (left, right): (Vec<usize>, Vec<usize>) =
            output_columns.iter().partition(|column| **column < width);
        let right = right.into_iter().map(|column| column - width);
        Some(vec![left, right.collect()])
    }
}

/// Replaces marked joins by nodes.
pub(crate) fn nodes(plan: LogicalPlan, sources: &[Source]) -> Result<LogicalPlan, SqlError> {
    let mut failed = None;
    let replaced = plan.transform_up_with_subqueries(|plan| {
        let LogicalPlan::Join(join) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let node = Marked::of(join).and_then(|marked| match marked {
            Some(marked) => node(&join.left, &join.right, marked, sources).map(Some),
            None => Ok(None),
        });
        match node {
            Ok(None) => Ok(Transformed::no(plan)),
            Ok(Some(node)) => {
                let joined = LogicalPlan::Extension(Extension {
                    node: Arc::new(node),
                });
                if joined.schema().fields().len() == join.schema.fields().len() {
                    return Ok(Transformed::yes(joined));
                }
                // Without what only tells where rows of the right stand in the log.
                let columns = join.schema.iter();
                let columns = columns.map(|column| Expr::Column(column.into()));
                let joined = Projection::try_new(columns.collect(), Arc::new(joined))?;
                Ok(Transformed::yes(LogicalPlan::Projection(joined)))
            }
            Err(error) => {
                failed = Some(error);
                Err(DataFusionError::Internal("an as-of join failed".to_owned()))
            }
        }
    });
    match (replaced, failed) {
        (_, Some(error)) => Err(error),
        (replaced, None) => Ok(replaced?.data),
    }
}

fn node(
    left: &LogicalPlan,
    right: &LogicalPlan,
    marked: Marked,
    sources: &[Source],
) -> Result<AsOfNode, SqlError> {
    if matches!(marked.seek, Seek::Ahead { .. }) {
        return Err(refuse_ahead());
    }
    let source = scanned(right).and_then(|name| {
        let mut sources = sources.iter();
        sources.find(|source| source.topic.name == name)
    });
    let column = |name: &str| -> Option<Expr> {
        let mut fields = right.schema().iter();
        let (qualifier, field) = fields.find(|(_, field)| field.name() == name)?;
        Some(Expr::Column(Column::from((qualifier, field))))
    };
    let topic = source.map(|source| &source.topic);
    let versions = match topic.filter(|topic| !topic.primary_key.is_empty()) {
        Some(topic) => {
            check_key(&marked, topic)?;
            column("_key").zip(column("_body")).map(<[Expr; 2]>::from)
        }
        None => None,
    };
    let (right, order) = with_place(right)?;
    Ok(AsOfNode {
        schema: Arc::new(left.schema().join(right.schema())?),
        left: left.clone(),
        right,
        on: marked.on,
        times: marked.times,
        seek: marked.seek,
        is_outer: marked.is_outer,
        versions,
        order,
    })
}
