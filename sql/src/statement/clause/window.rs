//! `WINDOW w AS (…)`: written out in every call that names it.
//!
//! The planner knows the names in `SELECT` alone and takes `OVER (w ORDER BY x)` for `OVER (ORDER BY x)`, so it gets none of
//! them. What a window may add to another is PostgreSQL's.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, Ident, NamedWindowDefinition, NamedWindowExpr, Query, Select, VisitorMut,
    WindowSpec, WindowType,
};

use crate::error::SqlError;
use crate::statement::clause::invalid;
use crate::statement::name::name_of;

/// The windows that a `SELECT` names, each without a name of another in it.
pub(super) fn windows_of(select: &Select) -> Result<Vec<(String, WindowSpec)>, SqlError> {
    let mut windows: Vec<(String, WindowSpec)> = Vec::new();
    for NamedWindowDefinition(name, window) in &select.named_window {
        let spec = match window {
            NamedWindowExpr::NamedWindow(other) => known(&windows, other)?.clone(),
            NamedWindowExpr::WindowSpec(spec) => completed(&windows, spec)?,
        };
        windows.push((name_of(name), spec));
    }
    Ok(windows)
}

fn known<'a>(
    windows: &'a [(String, WindowSpec)],
    name: &Ident,
) -> Result<&'a WindowSpec, SqlError> {
    let (wanted, mut all) = (name_of(name), windows.iter());
    match all.find(|(known, _)| *known == wanted) {
        Some((_, spec)) => Ok(spec),
        None => Err(invalid(
            name.span,
            format!("there is no window {wanted}"),
            "name it behind the query: WINDOW w AS (PARTITION BY … ORDER BY …)",
        )),
    }
}

/// `(w ORDER BY …)`: what `w` says, and what stands behind it.
fn completed(windows: &[(String, WindowSpec)], spec: &WindowSpec) -> Result<WindowSpec, SqlError> {
    let Some(name) = &spec.window_name else {
        return Ok(spec.clone());
    };
    let base = known(windows, name)?;
    let twice = [
        (!spec.partition_by.is_empty(), "PARTITION BY"),
        (
            !spec.order_by.is_empty() && !base.order_by.is_empty(),
            "ORDER BY",
        ),
        (base.window_frame.is_some(), "rows"),
    ];
    if let Some((_, what)) = twice.iter().find(|(is_there, _)| *is_there) {
        return Err(invalid(
            name.span,
            format!(
                "window {name} has its {what} already, and none of its own may stand behind it"
            ),
            "write the whole window in parentheses",
        ));
    }
    Ok(WindowSpec {
        window_name: None,
        partition_by: base.partition_by.clone(),
        order_by: match base.order_by.is_empty() {
            true => spec.order_by.clone(),
            false => base.order_by.clone(),
        },
        window_frame: spec.window_frame.clone(),
    })
}

/// Writes windows into the calls that name them.
pub(super) struct Calls<'a> {
    windows: &'a [(String, WindowSpec)],
    /// How many subqueries stand around what is visited: these have windows of their own.
    depth: usize,
}

impl<'a> Calls<'a> {
    pub(super) fn of(windows: &'a [(String, WindowSpec)]) -> Self {
        Self { windows, depth: 0 }
    }

    fn write(&self, function: &mut Function) -> Result<(), SqlError> {
        let spec = match &function.over {
            Some(WindowType::NamedWindow(name)) => known(self.windows, name)?.clone(),
            Some(WindowType::WindowSpec(spec)) => completed(self.windows, spec)?,
            None => return Ok(()),
        };
        function.over = Some(WindowType::WindowSpec(spec));
        Ok(())
    }
}

impl VisitorMut for Calls<'_> {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let written = match expr {
            Expr::Function(function) if self.depth == 0 => self.write(function),
            _ => Ok(()),
        };
        written.map_or_else(
            |error| ControlFlow::Break(Box::new(error)),
            ControlFlow::Continue,
        )
    }
}
