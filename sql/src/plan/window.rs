//! Window functions in `FROM` become derived tables with `window_start` and `window_end`.
//!
//! `TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '1 day')`, bare or within `TABLE(…)`, becomes
//! `(SELECT *, date_bin(INTERVAL '1 day', c) AS window_start, … AS window_end FROM t)`. Windows are
//! aligned to 1970-01-01 00:00. Bounded and continuous queries share this rewrite, so they mean the
//! same windows; a row without event time belongs to no window, which a bounded query says with a
//! `WHERE` and a continuous one by counting such rows.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, Query, SetExpr,
    TableAlias, TableFactor, VisitMut, VisitorMut,
};

use crate::error::{SqlError, nearest};
use crate::statement::{interval_ms, name_of, parse_query, quoted};

/// A window over a topic, found in a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The topic.
    pub topic: String,
    /// Its column that says when a row happened.
    pub time_column: String,
    /// Length of a window.
    pub size_ms: i64,
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

/// How a window function is written.
const FORM: &str = "write TUMBLE(TABLE topic, DESCRIPTOR(time_column), INTERVAL '1 hour')";

impl Rewriter {
    fn replace(
        &mut self,
        name: &ObjectName,
        args: &[FunctionArg],
        alias: Option<TableAlias>,
    ) -> Result<TableFactor, SqlError> {
        if !name.to_string().eq_ignore_ascii_case("tumble") {
            return Err(not_a_window(name));
        }
        let [table, column, size] = args else {
            return Err(SqlError::invalid(
                format!(
                    "TUMBLE takes a table, a time column and a size, not {} arguments",
                    args.len()
                ),
                FORM,
            ));
        };
        let topic = ident_arg(table).ok_or_else(|| {
            SqlError::invalid(
                format!("the first argument of TUMBLE is a topic, not {table}"),
                FORM,
            )
        })?;
        let time_column = descriptor_arg(column).ok_or_else(|| {
            SqlError::invalid(
                format!("the second argument of TUMBLE names its time column, not {column}"),
                FORM,
            )
        })?;
        let size_ms = match size {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => interval_ms(expr)?,
            other => {
                return Err(SqlError::invalid(
                    format!("the third argument of TUMBLE is its size, not {other}"),
                    FORM,
                ));
            }
        };
        if size_ms <= 0 {
            return Err(SqlError::invalid("a window is longer than nothing", FORM));
        }
        let window = Window {
            topic: name_of(&topic),
            time_column: name_of(&time_column),
            size_ms,
        };
        let derived = derive(&window, self.without_time, alias)?;
        self.windows.push(window);
        Ok(derived)
    }
}

fn derive(
    window: &Window,
    without_time: WithoutTime,
    alias: Option<TableAlias>,
) -> Result<TableFactor, SqlError> {
    let size = format!("INTERVAL '{} milliseconds'", window.size_ms);
    let column = quoted(&window.time_column);
    let filter = match without_time {
        WithoutTime::Stay => String::new(),
        WithoutTime::Leave => format!(" WHERE {column} IS NOT NULL"),
    };
    let subquery = parse_query(&format!(
        "SELECT *, date_bin({size}, {column}) AS window_start, \
         date_bin({size}, {column}) + {size} AS window_end FROM {topic}{filter}",
        topic = quoted(&window.topic),
    ))?;
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
    let suggestion = match nearest(&name.to_string(), ["TUMBLE"]) {
        Some(near) => format!("did you mean {near}?"),
        None => "the one table function is TUMBLE".to_owned(),
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
                size_ms: DAY_MS
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
                "the one table function is TUMBLE",
            ),
            (
                "SELECT 1 FROM TABLE(generate_series(1, 9))",
                "the one table function is TUMBLE",
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
        ] {
            let error = rewrite(&parse_query(sql).unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{sql}: {error}");
        }
    }
}
