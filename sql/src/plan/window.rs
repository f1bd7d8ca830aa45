//! Window functions in `FROM` become derived tables with `window_start` and `window_end`.
//!
//! `TUMBLE(TABLE t, DESCRIPTOR(c), size)`, `HOP(TABLE t, DESCRIPTOR(c), slide, size)`,
//! `CUMULATE(TABLE t, DESCRIPTOR(c), step, size)` and
//! `SESSION(TABLE t PARTITION BY k, DESCRIPTOR(c), gap)`, bare or within `TABLE(…)`; group functions have become these
//! before (`window_groups.rs`). Windows are half
//! open and aligned to 1970-01-01 00:00; a session goes on while its next row comes at most the gap
//! later, and ends the gap after its last row. Bounded and continuous queries share the meaning: a
//! bounded one gets plain SQL, a continuous one gets marks ([`start_mark`]), which the planner takes for
//! what they stand for. A row without event time belongs to no window: a bounded query leaves it out with a
//! `WHERE`, a continuous one counts it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, SetExpr,
    TableAlias, TableFactor, VisitMut, VisitorMut,
};

use crate::error::{SqlError, nearest};
use crate::operator::assign::Windows;
use crate::plan::window_groups;
use crate::statement::{interval_ms, name_of, parse_query, quoted};

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

/// A window over a topic, found in a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The topic.
    pub topic: String,
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
pub fn rewrite(query: &Query) -> Result<(Query, Vec<Window>), SqlError> {
    rewrite_with(query, WithoutTime::Stay)
}

/// As [`rewrite`], and rows without event time are left out.
///
/// # Errors
/// As [`rewrite`].
pub fn rewrite_bounded(query: &Query) -> Result<(Query, Vec<Window>), SqlError> {
    rewrite_with(query, WithoutTime::Leave)
}

fn rewrite_with(
    query: &Query,
    without_time: WithoutTime,
) -> Result<(Query, Vec<Window>), SqlError> {
    let mut query = query.clone();
    window_groups::to_table_functions(&mut query)?;
    let mut rewriter = Rewriter {
        windows: Vec::new(),
        without_time,
    };
    match VisitMut::visit(&mut query, &mut rewriter) {
        ControlFlow::Continue(()) => Ok((query, rewriter.windows)),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Rewriter {
    windows: Vec<Window>,
    without_time: WithoutTime,
}

impl VisitorMut for Rewriter {
    type Break = Box<SqlError>;

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

impl Rewriter {
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
        let (topic, keys) = table_arg(table).ok_or_else(|| {
            SqlError::invalid(
                format!("the first argument of {function} is a topic, not {table}"),
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
        let window = Window {
            topic: name_of(&topic),
            time_column: name_of(&time_column),
            kind: windows_of(function, &lengths_ms, form)?,
            keys: keys.iter().map(name_of).collect(),
        };
        let derived = derive(&window, self.windows.len(), self.without_time, alias)?;
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

fn derive(
    window: &Window,
    index: usize,
    without_time: WithoutTime,
    alias: Option<TableAlias>,
) -> Result<TableFactor, SqlError> {
    let subquery = match without_time {
        WithoutTime::Stay => marked(window, index),
        WithoutTime::Leave => plain(window),
    };
    let subquery = parse_query(&subquery)?;
    debug_assert!(matches!(subquery.body.as_ref(), SetExpr::Select(_)));
    // Without an alias of its own the derived table goes by the topic's name, so that
    // `flights.carrier` still means the column.
    let alias = alias.unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::with_quote('"', window.topic.clone()),
        columns: Vec::new(),
        at: None,
    });
    Ok(TableFactor::Derived {
        lateral: false,
        subquery,
        alias: Some(alias),
        sample: None,
    })
}

/// What the planner of continuous queries takes for the window.
fn marked(window: &Window, index: usize) -> String {
    let column = quoted(&window.time_column);
    let topic = quoted(&window.topic);
    let (start, end) = (start_mark(index), end_mark(index));
    format!(
        "SELECT *, {start}({column}) AS window_start, {end}({column}) AS window_end FROM {topic}"
    )
}

/// The windows in plain SQL.
fn plain(window: &Window) -> String {
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
                "SELECT *, date_bin({size}, {column}) AS window_start, \
                 date_bin({size}, {column}) + {size} AS window_end FROM {topic} \
                 WHERE {column} IS NOT NULL"
            )
        }
        Windows::Hop { slide_ms, size_ms } => {
            let (slide, size) = (interval(slide_ms), interval(size_ms));
            let shifts = steps(0, slide_ms, size_ms / slide_ms);
            format!(
                "SELECT {topic}.*, date_bin({slide}, {at}) - __window.shift AS window_start, \
                 date_bin({slide}, {at}) - __window.shift + {size} AS window_end \
                 FROM {topic} CROSS JOIN {shifts} WHERE {at} IS NOT NULL"
            )
        }
        Windows::Cumulate { step_ms, size_ms } => {
            let size = interval(size_ms);
            let shifts = steps(step_ms, step_ms, size_ms / step_ms);
            format!(
                "SELECT {topic}.*, date_bin({size}, {at}) AS window_start, \
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
            // Rows of equal time are peers in both sorts, so they end up in one session.
            format!(
                "SELECT * EXCEPT (__first, __session), min({column}) OVER ({within}) AS window_start, \
                 max({column}) OVER ({within}) + {gap} AS window_end FROM (\
                 SELECT *, sum(__first) OVER ({by}ORDER BY {column}) AS __session FROM (\
                 SELECT *, CASE WHEN {column} <= lag({column}) OVER ({by}ORDER BY {column}) + {gap} \
                 THEN 0 ELSE 1 END AS __first FROM {topic} WHERE {column} IS NOT NULL))"
            )
        }
    }
}

/// A topic, with the columns after `PARTITION BY` if there are any.
fn table_arg(arg: &FunctionArg) -> Option<(Ident, Vec<Ident>)> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Tuple(parts))) => {
            let mut idents = parts.iter().map(|part| match part {
                Expr::Identifier(ident) => Some(ident.clone()),
                _ => None,
            });
            let topic = idents.next()??;
            Some((topic, idents.collect::<Option<Vec<_>>>()?))
        }
        other => Some((ident_arg(other)?, Vec::new())),
    }
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
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn both_spellings_of_tumble_become_the_same_derived_table() {
        let bare = "SELECT carrier FROM TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1 day') GROUP BY carrier";
        let nested = "SELECT carrier FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(departure), INTERVAL '1' DAY)) GROUP BY carrier";
        let (bare, windows) = rewrite(&parse_query(bare).unwrap()).unwrap();
        let (nested, _) = rewrite(&parse_query(nested).unwrap()).unwrap();
        assert_eq!(bare.to_string(), nested.to_string());
        assert_eq!(
            windows,
            vec![Window {
                topic: "flights".to_owned(),
                time_column: "departure".to_owned(),
                kind: Windows::Tumble { size_ms: DAY_MS },
                keys: Vec::new(),
            }]
        );
        assert!(bare.to_string().contains("AS window_start"), "{bare}");
    }

    #[test]
    fn a_bounded_window_leaves_out_rows_without_time() {
        let query =
            parse_query("SELECT 1 FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 hour') AS w")
                .unwrap();
        assert!(
            rewrite_bounded(&query)
                .unwrap()
                .0
                .to_string()
                .contains("IS NOT NULL")
        );
        assert!(
            !rewrite(&query)
                .unwrap()
                .0
                .to_string()
                .contains("IS NOT NULL")
        );
    }

    #[test]
    fn other_table_functions_and_odd_sizes_are_refused() {
        for (sql, expected) in [
            (
                "SELECT 1 FROM read_csv('/etc/passwd')",
                "the table functions are TUMBLE",
            ),
            (
                "SELECT 1 FROM TABLE(generate_series(1, 9))",
                "the table functions are TUMBLE",
            ),
            (
                "SELECT 1 FROM TUMBEL(TABLE t, DESCRIPTOR(c), INTERVAL '1 hour')",
                "did you mean TUMBLE?",
            ),
            (
                "SELECT 1 FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 month')",
                "no fixed length",
            ),
            (
                "SELECT 1 FROM TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '0 hours')",
                "longer than nothing",
            ),
            ("SELECT 1 FROM TUMBLE(TABLE t)", "1 arguments"),
            (
                "SELECT 1 FROM HOP(TABLE t, DESCRIPTOR(c), INTERVAL '2 hours', INTERVAL '3 hours')",
                "not a multiple",
            ),
            (
                "SELECT 1 FROM CUMULATE(TABLE t, DESCRIPTOR(c), INTERVAL '1 second', INTERVAL '1 day')",
                "86400 windows",
            ),
            (
                "SELECT 1 FROM HOP(TABLE t, DESCRIPTOR(c), INTERVAL '1 hour')",
                "3 arguments",
            ),
            (
                "SELECT 1 FROM TUMBLE(TABLE t PARTITION BY k, DESCRIPTOR(c), INTERVAL '1 hour')",
                "takes no PARTITION BY",
            ),
        ] {
            let error = rewrite(&parse_query(sql).unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{sql}: {error}");
        }
    }
}
