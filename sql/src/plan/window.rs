//! Window functions in `FROM` become derived tables with `window_start` and `window_end`.
//!
//! `TUMBLE(TABLE t, DESCRIPTOR(c), size)`, `HOP(TABLE t, DESCRIPTOR(c), slide, size)`,
//! `CUMULATE(TABLE t, DESCRIPTOR(c), step, size)` and
//! `SESSION(TABLE t PARTITION BY k, DESCRIPTOR(c), gap)`, bare or within `TABLE(…)`; group functions have become these
//! before (`window_groups.rs`). A query that names `window_time` gets that too, the last millisecond of the window. Instead of a topic
//! there may stand a view or a query in parentheses; bounds that its rows have already (`window_bounds.rs`), because they are those of
//! smaller windows, give way to the new ones. Windows are half open and aligned to 1970-01-01 00:00; a session goes on while its next row
//! comes at most the gap later, and ends the gap after its last row. Bounded and continuous queries share the meaning: a bounded one
//! gets plain SQL, a continuous one gets marks ([`start_mark`]), which the planner takes for what they stand for. A row without event
//! time belongs to no window: a bounded query leaves it out with a `WHERE`, a continuous one counts it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, SetExpr,
    TableAlias, TableFactor, VisitMut, VisitorMut,
};

use crate::error::{SqlError, nearest};
use crate::operator::assign::Windows;
use crate::plan::scopes::Scopes;
use crate::plan::window_bounds::{WINDOW_TIME, bounds_of, names_time};
use crate::plan::window_groups;
use crate::statement::{interval_ms, name_of, parse_query, quoted};
use crate::topic::Topics;

/// What the rows of a query go by that has no name.
const ROWS: &str = "__rows";
const START: &str = "millpond_window_start";
const END: &str = "millpond_window_end";

/// What stands for the start of a row's window in the plan of a continuous query; windows are counted
/// as they stand in the query.
#[must_use]
pub fn start_mark(window: usize) -> String {
    format!("{START}_{window}")
}

/// What stands for its end.
#[must_use]
pub fn end_mark(window: usize) -> String {
    format!("{END}_{window}")
}

/// The window that a function marks, if it is a mark.
#[must_use]
pub fn marked_window(function: &str) -> Option<usize> {
    let marks = [START, END].into_iter();
    let mut numbers = marks.filter_map(|mark| function.strip_prefix(mark)?.strip_prefix('_'));
    numbers.next()?.parse().ok()
}

/// A window over a topic or the rows of a query, found in a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The topic, or what the rows go by.
    pub topic: String,
    /// Where the rows come from, if that is no topic.
    pub rows: Option<Box<Query>>,
    /// Its column that says when a row happened.
    pub time_column: String,
    /// Which windows a row belongs to.
    pub kind: Windows,
    /// For sessions: the columns that each have sessions of their own.
    pub keys: Vec<String>,
}

/// What becomes of rows whose event time is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WithoutTime {
    /// They stay, with NULL bounds: a continuous query counts them.
    Stay,
    /// They belong to no window and are not answered.
    Leave,
}

/// Rewrites every window function of a query and answers the windows in the order they stand.
///
/// Rows without event time stay, with NULL as `window_start`.
///
/// # Errors
/// [`SqlError::Invalid`] for arguments that are not a table, a column and a constant interval;
/// [`SqlError::NotAllowed`] for other table functions.
pub fn rewrite(query: &Query, topics: &dyn Topics) -> Result<(Query, Vec<Window>), SqlError> {
    rewrite_with(query, topics, WithoutTime::Stay)
}

/// As [`rewrite`], and rows without event time are left out.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_bounded(
    query: &Query,
    topics: &dyn Topics,
) -> Result<(Query, Vec<Window>), SqlError> {
    rewrite_with(query, topics, WithoutTime::Leave)
}

fn rewrite_with(
    query: &Query,
    topics: &dyn Topics,
    without_time: WithoutTime,
) -> Result<(Query, Vec<Window>), SqlError> {
    let mut query = query.clone();
    window_groups::to_table_functions(&mut query)?;
    let mut rewriter = Rewriter {
        topics,
        parts: BTreeMap::new(),
        scopes: Scopes::default(),
        windows: Vec::new(),
        gives_time: Vec::new(),
        without_time,
    };
    match VisitMut::visit(&mut query, &mut rewriter) {
        ControlFlow::Continue(()) => Ok((query, rewriter.windows)),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter<'a> {
    topics: &'a dyn Topics,
    /// Queries that `WITH` names.
    parts: BTreeMap<String, Query>,
    scopes: Scopes,
    windows: Vec<Window>,
    /// Whether each query around the place names the last moment of a window.
    gives_time: Vec<bool>,
    without_time: WithoutTime,
}

impl VisitorMut for Rewriter<'_> {
    type Break = Box<SqlError>;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        for part in query.with.iter().flat_map(|with| &with.cte_tables) {
            let query = part.query.as_ref().clone();
            self.parts.insert(name_of(&part.alias.name), query);
        }
        self.scopes.enter(query);
        self.gives_time.push(names_time(query));
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<Self::Break> {
        self.scopes.leave();
        self.gives_time.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let replaced = match factor {
            TableFactor::Table {
                name,
                alias,
                args: Some(args),
                ..
            } => self.replace(name, &args.args, alias.take()),
            TableFactor::TableFunction {
                expr: Expr::Function(function),
                alias,
            } => match &function.args {
                FunctionArguments::List(list) => {
                    self.replace(&function.name, &list.args, alias.take())
                }
                _ => return ControlFlow::Continue(()),
            },
            TableFactor::Function { name, .. } => Err(not_a_window(name)),
            _ => return ControlFlow::Continue(()),
        };
        match replaced {
            Ok(derived) => {
                *factor = derived;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

/// The window functions, and how each is written.
const FORMS: [(&str, &str); 4] = [
    (
        "TUMBLE",
        "write TUMBLE(TABLE topic, DESCRIPTOR(time_column), INTERVAL '1 hour')",
    ),
    (
        "HOP",
        "write HOP(TABLE topic, DESCRIPTOR(time_column), INTERVAL '5 minutes', INTERVAL '1 hour'), \
         first how far windows lie apart, then how long they are",
    ),
    (
        "CUMULATE",
        "write CUMULATE(TABLE topic, DESCRIPTOR(time_column), INTERVAL '1 hour', INTERVAL '1 day'), \
         first the step, then the longest window",
    ),
    (
        "SESSION",
        "write SESSION(TABLE topic PARTITION BY key, DESCRIPTOR(time_column), INTERVAL '30 minutes')",
    ),
];

/// Most windows that one row may belong to.
pub const WINDOWS_PER_ROW_MAX: i64 = 1000;

impl Rewriter<'_> {
    fn replace(
        &mut self,
        name: &ObjectName,
        args: &[FunctionArg],
        alias: Option<TableAlias>,
    ) -> Result<TableFactor, SqlError> {
        let written = name.to_string().to_uppercase();
        let Some((function, form)) = FORMS.into_iter().find(|(known, _)| *known == written) else {
            return Err(not_a_window(name));
        };
        let wanted = if matches!(function, "HOP" | "CUMULATE") {
            2
        } else {
            1
        };
        let [table, column, lengths @ ..] = args else {
            return Err(wrong_count(function, args.len(), form));
        };
        if lengths.len() != wanted {
            return Err(wrong_count(function, args.len(), form));
        }
        let (rows, keys) = table_arg(table).ok_or_else(|| {
            SqlError::invalid(
                format!(
                    "the first argument of {function} is a topic, a view or a query, not {table}"
                ),
                form,
            )
        })?;
        if !keys.is_empty() && function != "SESSION" {
            return Err(SqlError::invalid(
                format!("{function} takes no PARTITION BY, which says whose sessions they are"),
                "leave it out, and group by the columns",
            ));
        }
        let time_column = descriptor_arg(column).ok_or_else(|| {
            SqlError::invalid(
                format!("the second argument of {function} names its time column, not {column}"),
                form,
            )
        })?;
        let mut lengths_ms = Vec::new();
        for length in lengths {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = length else {
                return Err(SqlError::invalid(
                    format!("{length} is no length of {function}"),
                    form,
                ));
            };
            let length_ms = interval_ms(expr)?;
            if length_ms <= 0 {
                return Err(SqlError::invalid("a window is longer than nothing", form));
            }
            lengths_ms.push(length_ms);
        }
        let (topic, rows) = match rows {
            Expr::Subquery(query) => {
                let called = alias.as_ref().map(|alias| name_of(&alias.name));
                (called.unwrap_or_else(|| ROWS.to_owned()), Some(query))
            }
            Expr::Identifier(topic) => (name_of(&topic), None),
            other => return Err(SqlError::invalid(format!("{other} has no rows"), form)),
        };
        let window = Window {
            topic,
            rows,
            time_column: name_of(&time_column),
            kind: windows_of(function, &lengths_ms, form)?,
            keys: keys.iter().map(name_of).collect(),
        };
        let part = self.parts.get(&window.topic);
        let part = part.filter(|_| self.scopes.holds(&window.topic));
        let rows = window.rows.as_deref().or(part);
        let gives_time = self.gives_time.last().copied().unwrap_or_default();
        let hidden = bounds_of(&window.topic, rows, gives_time, self.topics);
        let mut text = match self.without_time {
            WithoutTime::Stay => marked(&window, self.windows.len(), &hidden),
            WithoutTime::Leave => plain(&window, &hidden),
        };
        if gives_time {
            text = format!(
                "SELECT *, window_end - INTERVAL '1 millisecond' AS {WINDOW_TIME} FROM ({text})"
            );
        }
        let derived = derive(&window, &text, alias)?;
        self.windows.push(window);
        Ok(derived)
    }
}

fn wrong_count(function: &str, count: usize, form: &str) -> SqlError {
    SqlError::invalid(
        format!("{function} takes a table, a time column and its lengths, not {count} arguments"),
        form,
    )
}

fn windows_of(function: &str, lengths_ms: &[i64], form: &str) -> Result<Windows, SqlError> {
    let (first, last) = match lengths_ms {
        [one] => (*one, *one),
        [first, last] => (*first, *last),
        _ => return Err(wrong_count(function, lengths_ms.len() + 2, form)),
    };
    if last % first != 0 {
        return Err(SqlError::invalid(
            format!("the size of {function} is not a multiple of its step"),
            "choose a size that is, so that windows begin and end at steps",
        ));
    }
    if last / first > WINDOWS_PER_ROW_MAX {
        return Err(SqlError::invalid(
            format!("each row would belong to {} windows", last / first),
            format!("choose a step that leaves at most {WINDOWS_PER_ROW_MAX}"),
        ));
    }
    Ok(match function {
        "TUMBLE" => Windows::Tumble { size_ms: last },
        "HOP" => Windows::Hop {
            slide_ms: first,
            size_ms: last,
        },
        "CUMULATE" => Windows::Cumulate {
            step_ms: first,
            size_ms: last,
        },
        _ => Windows::Session { gap_ms: last },
    })
}

/// The rows of a window, which this text tells.
fn derive(window: &Window, text: &str, alias: Option<TableAlias>) -> Result<TableFactor, SqlError> {
    let mut subquery = parse_query(text)?;
    debug_assert!(matches!(subquery.body.as_ref(), SetExpr::Select(_)));
    if let Some(rows) = &window.rows {
        read_rows(&mut subquery, &window.topic, rows);
    }
    // Without an alias of its own the derived table goes by the topic's name, so that
    // `flights.carrier` still means the column.
    let alias = alias.unwrap_or_else(|| called(&window.topic));
    Ok(TableFactor::Derived {
        lateral: false,
        subquery,
        alias: Some(alias),
        sample: None,
    })
}

/// Puts the query in the place of the name that its rows go by.
fn read_rows(within: &mut Query, name: &str, rows: &Query) {
    struct Reader<'a>(&'a str, &'a Query);
    impl VisitorMut for Reader<'_> {
        type Break = ();
        fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
            if let TableFactor::Table { name, alias, .. } = factor
                && alias.is_none()
                && name.to_string() == quoted(self.0)
            {
                *factor = TableFactor::Derived {
                    lateral: false,
                    subquery: Box::new(self.1.clone()),
                    alias: Some(called(self.0)),
                    sample: None,
                };
            }
            ControlFlow::Continue(())
        }
    }
    let _: ControlFlow<()> = within.visit(&mut Reader(name, rows));
}

fn called(name: &str) -> TableAlias {
    TableAlias {
        explicit: true,
        name: Ident::with_quote('"', name),
        columns: Vec::new(),
        at: None,
    }
}

/// What the planner of continuous queries takes for the window.
fn marked(window: &Window, index: usize, hidden: &[&str]) -> String {
    let column = quoted(&window.time_column);
    let topic = quoted(&window.topic);
    let (start, end) = (start_mark(index), end_mark(index));
    let except = except(hidden);
    format!(
        "SELECT *{except}, {start}({column}) AS window_start, {end}({column}) AS window_end FROM {topic}"
    )
}

fn except(hidden: &[&str]) -> String {
    match hidden {
        [] => String::new(),
        hidden => format!(" EXCEPT ({})", hidden.join(", ")),
    }
}

/// The windows in plain SQL.
fn plain(window: &Window, hidden: &[&str]) -> String {
    let except = except(hidden);
    let interval = |ms: i64| format!("INTERVAL '{ms} milliseconds'");
    let topic = quoted(&window.topic);
    let column = quoted(&window.time_column);
    let at = format!("{topic}.{column}");
    let steps = |from: i64, step: i64, count: i64| {
        let values: Vec<String> = (0..count)
            .map(|index| format!("({})", interval(from + step * index)))
            .collect();
        format!("(VALUES {}) AS __window(shift)", values.join(", "))
    };
    match window.kind {
        Windows::Tumble { size_ms } => {
            let size = interval(size_ms);
            format!(
                "SELECT *{except}, date_bin({size}, {column}) AS window_start, \
                 date_bin({size}, {column}) + {size} AS window_end FROM {topic} \
                 WHERE {column} IS NOT NULL"
            )
        }
        Windows::Hop { slide_ms, size_ms } => {
            let (slide, size) = (interval(slide_ms), interval(size_ms));
            let shifts = steps(0, slide_ms, size_ms / slide_ms);
            format!(
                "SELECT {topic}.*{except}, date_bin({slide}, {at}) - __window.shift AS window_start, \
                 date_bin({slide}, {at}) - __window.shift + {size} AS window_end \
                 FROM {topic} CROSS JOIN {shifts} WHERE {at} IS NOT NULL"
            )
        }
        Windows::Cumulate { step_ms, size_ms } => {
            let size = interval(size_ms);
            let shifts = steps(step_ms, step_ms, size_ms / step_ms);
            format!(
                "SELECT {topic}.*{except}, date_bin({size}, {at}) AS window_start, \
                 date_bin({size}, {at}) + __window.shift AS window_end \
                 FROM {topic} CROSS JOIN {shifts} \
                 WHERE {at} IS NOT NULL AND {at} < date_bin({size}, {at}) + __window.shift"
            )
        }
        Windows::Session { gap_ms } => {
            let gap = interval(gap_ms);
            let keys: Vec<String> = window.keys.iter().map(|key| quoted(key)).collect();
            let by = match keys.as_slice() {
                [] => String::new(),
                keys => format!("PARTITION BY {} ", keys.join(", ")),
            };
            let within = match keys.as_slice() {
                [] => "PARTITION BY __session".to_owned(),
                keys => format!("PARTITION BY {}, __session", keys.join(", ")),
            };
            let hidden: String = hidden.iter().map(|name| format!("{name}, ")).collect();
            // Rows of equal time are peers in both sorts, so they end up in one session.
            format!(
                "SELECT * EXCEPT ({hidden}__first, __session), min({column}) OVER ({within}) AS window_start, \
                 max({column}) OVER ({within}) + {gap} AS window_end FROM (\
                 SELECT *, sum(__first) OVER ({by}ORDER BY {column}) AS __session FROM (\
                 SELECT *, CASE WHEN {column} <= lag({column}) OVER ({by}ORDER BY {column}) + {gap} \
                 THEN 0 ELSE 1 END AS __first FROM {topic} WHERE {column} IS NOT NULL))"
            )
        }
    }
}

/// A topic or a query, with the columns after `PARTITION BY` if there are any.
fn table_arg(arg: &FunctionArg) -> Option<(Expr, Vec<Ident>)> {
    let FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) = arg else {
        return None;
    };
    let (rows, keys) = match arg {
        Expr::Tuple(parts) => parts.split_first()?,
        rows => (rows, &[][..]),
    };
    let keys = keys.iter().map(|key| match key {
        Expr::Identifier(ident) => Some(ident.clone()),
        _ => None,
    });
    let keys = keys.collect::<Option<Vec<_>>>()?;
    matches!(rows, Expr::Identifier(_) | Expr::Subquery(_)).then(|| (rows.clone(), keys))
}

fn ident_arg(arg: &FunctionArg) -> Option<Ident> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident))) => Some(ident.clone()),
        _ => None,
    }
}

/// `DESCRIPTOR(c)`, or `c` alone.
fn descriptor_arg(arg: &FunctionArg) -> Option<Ident> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Function(function)))
            if function.name.to_string().eq_ignore_ascii_case("descriptor") =>
        {
            match &function.args {
                FunctionArguments::List(list) => match list.args.as_slice() {
                    [one] => ident_arg(one),
                    _ => None,
                },
                _ => None,
            }
        }
        other => ident_arg(other),
    }
}

fn not_a_window(name: &ObjectName) -> SqlError {
    let suggestion = match nearest(&name.to_string(), FORMS.map(|(function, _)| function)) {
        Some(near) => format!("did you mean {near}?"),
        None => "the table functions are TUMBLE, HOP, CUMULATE and SESSION".to_owned(),
    };
    SqlError::NotAllowed(crate::error::Refusal {
        position: None,
        cause: format!("{name} is not a table function of this server"),
        suggestion: Some(suggestion),
    })
}

#[cfg(test)]
mod tests;
