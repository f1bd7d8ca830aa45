//! What the topic of a view that emits on window close declares of time, so that windows may be put over its rows again.
//!
//! Rows leave in the order in which their windows end, and are stored in it: those of an epoch in one queue, those of the next when they
//! are durable ([`crate::topic::OutputRow::key`]). So the end of the windows is an event time whose watermark needs no delay, and the other
//! columns that tell the window follow it.

use datafusion::logical_expr::{Distinct, Expr, Join, JoinType, LogicalPlan};

use crate::operator::assign::Windows;
use crate::operator::group::Bound;
use crate::plan::bounds::end_of_last_moment;
use crate::plan::graph::{Builder, passed};
use crate::plan::grouping_sets::distinct;
use crate::plan::window::{marked_window, start_mark};
use crate::topic::{ColumnSpec, TimeBehind, WatermarkSpec};

/// A bound of a window that a column of a relation holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) window: usize,
    pub(crate) bound: Bound,
    /// The sides of joins on the way to where rows get it: two columns are of one window if they come the same way.
    way: Vec<Side>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Told {
    pub(crate) fn is_of_the_window_of(&self, other: &Self) -> bool {
        self.window == other.window && self.way == other.way
    }
}

/// The bound of a window that a column of a relation holds, if it does.
pub(crate) fn bound_told(plan: &LogicalPlan, column: usize) -> Option<Told> {
    let of_expr = |expr: &Expr, input: &LogicalPlan| {
        if let Some(end) = end_of_last_moment(expr) {
            let told = told_by(end, input).filter(|told| told.bound == Bound::End)?;
            return Some(Told {
                bound: Bound::Last,
                ..told
            });
        }
        told_by(expr, input)
    };
    match plan {
        LogicalPlan::Filter(filter) => bound_told(&filter.input, column),
        LogicalPlan::SubqueryAlias(alias) => bound_told(&alias.input, column),
        LogicalPlan::Distinct(Distinct::All(input)) => bound_told(input, column),
        // What it adds comes behind.
        LogicalPlan::Window(window) if column < window.input.schema().fields().len() => {
            bound_told(&window.input, column)
        }
        LogicalPlan::Join(join) => {
            let (side, column) = side_of(join, column)?;
            let mut told = match side {
                Side::Left => bound_told(&join.left, column)?,
                Side::Right => bound_told(&join.right, column)?,
            };
            told.way.push(side);
            Some(told)
        }
        LogicalPlan::Aggregate(aggregate) => {
            let groups = distinct(&aggregate.group_expr).ok()?;
            of_expr(groups.get(column)?, &aggregate.input)
        }
        LogicalPlan::Projection(projection) => {
            of_expr(projection.expr.get(column)?, &projection.input)
        }
        _ => None,
    }
}

fn told_by(expr: &Expr, input: &LogicalPlan) -> Option<Told> {
    match expr {
        Expr::Alias(alias) => told_by(&alias.expr, input),
        Expr::ScalarFunction(function) => {
            let name = function.func.name();
            let window = marked_window(name)?;
            Some(Told {
                window,
                bound: match name == start_mark(window) {
                    true => Bound::Start,
                    false => Bound::End,
                },
                way: Vec::new(),
            })
        }
        expr => bound_told(input, passed(expr, input.schema())?),
    }
}

/// The side that a column of a join is of, and its place there.
fn side_of(join: &Join, column: usize) -> Option<(Side, usize)> {
    let width = join.left.schema().fields().len();
    match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
            Some(match column.checked_sub(width) {
                None => (Side::Left, column),
                Some(column) => (Side::Right, column),
            })
        }
        JoinType::LeftSemi | JoinType::LeftAnti => Some((Side::Left, column)),
        JoinType::RightSemi | JoinType::RightAnti => Some((Side::Right, column)),
        JoinType::LeftMark | JoinType::RightMark => None,
    }
}

/// The event time of rows that leave when the window ends that these columns tell. A session may begin before one that ended
/// earlier, so its start is none.
pub(crate) fn declared(
    kind: Windows,
    bounds: &[(usize, Bound)],
    columns: &[ColumnSpec],
) -> Option<WatermarkSpec> {
    let size_ms = match kind {
        Windows::Tumble { size_ms }
        | Windows::Hop { size_ms, .. }
        | Windows::Cumulate { size_ms, .. } => Some(size_ms),
        Windows::Session { .. } => None,
    };
    // How long before its end each bound of a window is at most.
    let before_end_ms = |bound: Bound| match bound {
        Bound::End => Some(0),
        Bound::Last => Some(1),
        Bound::Start => size_ms,
    };
    let known = bounds.iter().filter_map(|(column, bound)| {
        let name = columns.get(*column)?.name.clone();
        Some((before_end_ms(*bound)?, name))
    });
    let mut known: Vec<(i64, String)> = known.collect();
    known.sort();
    let mut known = known.into_iter();
    let (first_ms, column) = known.next()?;
    let behind = known.map(|(before_ms, column)| TimeBehind {
        column,
        by_ms: before_ms - first_ms,
    });
    Some(WatermarkSpec {
        column,
        delay_ms: 0,
        behind: behind.collect(),
    })
}

impl Builder<'_> {
    /// The event time of rows that leave by a column of a plan: that column, and what tells the same window.
    pub(super) fn declared(
        &self,
        plan: &LogicalPlan,
        column: usize,
        columns: &[ColumnSpec],
    ) -> Option<WatermarkSpec> {
        let alone = WatermarkSpec {
            column: columns.get(column)?.name.clone(),
            delay_ms: 0,
            behind: Vec::new(),
        };
        let Some(first) = bound_told(plan, column) else {
            return Some(alone);
        };
        let kind = self.windows.get(first.window)?.kind;
        let same = (0..columns.len()).filter_map(|at| {
            let told = bound_told(plan, at).filter(|told| told.is_of_the_window_of(&first))?;
            Some((at, told.bound))
        });
        let same: Vec<(usize, Bound)> = same.collect();
        // Rows leave by this column, so no other one can be known better.
        let declared = declared(kind, &same, columns);
        Some(
            declared
                .filter(|spec| spec.column == alone.column)
                .unwrap_or(alone),
        )
    }
}
