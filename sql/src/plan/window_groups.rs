//! Windows as group functions: `GROUP BY TUMBLE(at, INTERVAL '1 hour')` becomes the table function.
//!
//! `SELECT TUMBLE_START(at, size), count(*) FROM t GROUP BY TUMBLE(at, size)` is another way to write
//! `SELECT window_start, count(*) FROM TUMBLE(TABLE t, DESCRIPTOR(at), size) GROUP BY window_start, window_end`,
//! and is rewritten to it. `HOP(at, slide, size)`, `CUMULATE(at, step, size)` and `SESSION(at, gap)` go the same
//! way, with `…_START` and `…_END` for their bounds; sessions are those of the other group columns.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
    ObjectName, Query, Select, SetExpr, TableFactor, TableFunctionArgs, VisitMut, VisitorMut,
    visit_expressions_mut,
};

use crate::error::SqlError;

/// The functions that may stand in `GROUP BY`.
const FUNCTIONS: [&str; 4] = ["TUMBLE", "HOP", "CUMULATE", "SESSION"];

/// Rewrites all group functions of a query.
///
/// # Errors
/// [`SqlError::Invalid`] when there is not one topic to read, or bounds are asked of another window.
pub(super) fn to_table_functions(query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Groups) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Groups;

impl VisitorMut for Groups {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        // What the query is ordered by may name the bounds, too.
        let SetExpr::Select(select) = query.body.as_mut() else {
            return ControlFlow::Continue(());
        };
        let window = match rewrite(select) {
            Ok(Some(window)) => window,
            Ok(None) => return ControlFlow::Continue(()),
            Err(error) => return ControlFlow::Break(Box::new(error)),
        };
        if let Some(order) = &mut query.order_by {
            window.replace_bounds(order);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        match rewrite(select) {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        let Expr::Function(function) = expr else {
            return ControlFlow::Continue(());
        };
        let name = function.name.to_string().to_uppercase();
        let of = name.strip_suffix("_START").or(name.strip_suffix("_END"));
        let Some(of) = of.filter(|of| FUNCTIONS.contains(of)) else {
            return ControlFlow::Continue(());
        };
        ControlFlow::Break(Box::new(SqlError::invalid(
            format!("there is no {of} in GROUP BY with the arguments of {function}"),
            format!("write the same arguments in both: SELECT {function} … GROUP BY {of}(…)"),
        )))
    }
}

/// The window function of a `GROUP BY`.
struct GroupWindow {
    name: String,
    args: Vec<String>,
}

impl GroupWindow {
    fn of(expr: &Expr) -> Option<Self> {
        let Expr::Function(function) = expr else {
            return None;
        };
        let name = function.name.to_string().to_uppercase();
        let args = args_of(function)?;
        FUNCTIONS
            .contains(&name.as_str())
            .then_some(Self { name, args })
    }

    /// Puts `window_start` and `window_end` where its bounds are asked for.
    fn replace_bounds(&self, within: &mut impl VisitMut) {
        let _: ControlFlow<()> = visit_expressions_mut(within, |expr| {
            if let Expr::Function(function) = expr
                && let Some(bound) = self.bound(function)
            {
                *expr = bound;
            }
            ControlFlow::Continue(())
        });
    }

    fn bound(&self, function: &Function) -> Option<Expr> {
        let name = function.name.to_string().to_uppercase();
        let column = match name.strip_prefix(&self.name)? {
            "_START" => "window_start",
            "_END" => "window_end",
            _ => return None,
        };
        (args_of(function)? == self.args).then(|| column_named(column))
    }
}

/// The arguments as they are written.
fn args_of(function: &Function) -> Option<Vec<String>> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    Some(list.args.iter().map(ToString::to_string).collect())
}

fn column_named(name: &str) -> Expr {
    Expr::Identifier(Ident::new(name))
}

/// Rewrites one `SELECT`, if it groups by a window function.
fn rewrite(select: &mut Select) -> Result<Option<GroupWindow>, SqlError> {
    let GroupByExpr::Expressions(groups, _) = &mut select.group_by else {
        return Ok(None);
    };
    let Some(at) = groups
        .iter()
        .position(|group| GroupWindow::of(group).is_some())
    else {
        return Ok(None);
    };
    let function = groups.remove(at);
    let window = GroupWindow::of(&function);
    let Some((window, Expr::Function(function))) = window.zip(Some(function)) else {
        return Ok(None);
    };
    let keys = groups.clone();
    groups.insert(at, column_named("window_start"));
    groups.insert(at + 1, column_named("window_end"));
    let name = &window.name;
    let one_topic = || {
        SqlError::invalid(
            format!(
                "{name} in GROUP BY takes one topic, view or query in FROM, and no other table function or join"
            ),
            format!(
                "write FROM {name}(TABLE topic, DESCRIPTOR(time_column), …) GROUP BY window_start, window_end"
            ),
        )
    };
    let [from] = select.from.as_mut_slice() else {
        return Err(one_topic());
    };
    let (rows, alias) = match &mut from.relation {
        TableFactor::Table {
            name: topic,
            alias,
            args: None,
            ..
        } => match topic.0.as_slice() {
            [part] => match part.as_ident() {
                Some(topic) => (Expr::Identifier(topic.clone()), alias),
                None => return Err(one_topic()),
            },
            _ => return Err(one_topic()),
        },
        TableFactor::Derived {
            lateral: false,
            subquery,
            alias,
            ..
        } => (Expr::Subquery(subquery.clone()), alias),
        _ => return Err(one_topic()),
    };
    if !from.joins.is_empty() {
        return Err(one_topic());
    }
    if !is_column(&function) {
        return Err(SqlError::invalid(
            format!("the first argument of {name} in GROUP BY is the time column, not {function}"),
            format!("write {name}(time_column, INTERVAL '1 hour')"),
        ));
    }
    let is_name = |key: &Expr| matches!(key, Expr::Identifier(_));
    if name == "SESSION" && !keys.iter().all(is_name) {
        return Err(SqlError::invalid(
            format!("{function} does not read as a window over what stands in FROM"),
            format!("group by columns as they are and {name}(time_column, INTERVAL '1 hour')"),
        ));
    }
    let rows = match (name.as_str(), keys.is_empty()) {
        ("SESSION", false) => Expr::Tuple(std::iter::once(rows).chain(keys).collect()),
        _ => rows,
    };
    let rows = FunctionArg::Unnamed(FunctionArgExpr::Expr(rows));
    let FunctionArguments::List(list) = function.args else {
        return Ok(None);
    };
    from.relation = TableFactor::Table {
        alias: alias.take(),
        name: ObjectName::from(vec![Ident::new(name)]),
        args: Some(TableFunctionArgs {
            args: std::iter::once(rows).chain(list.args).collect(),
            settings: None,
        }),
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    };
    window.replace_bounds(&mut select.projection);
    window.replace_bounds(&mut select.having);
    window.replace_bounds(&mut select.qualify);
    Ok(Some(window))
}

fn is_column(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else {
        return false;
    };
    matches!(
        list.args.first(),
        Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(
            Expr::Identifier(_)
        )))
    )
}
