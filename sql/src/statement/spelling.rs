//! Functions as other systems spell them, written as those that the engine has.
//!
//! Whoever comes from Flink, PostgreSQL or ksqlDB knows `mod(a, b)`, `IF(c, x, y)`, `TIMESTAMPDIFF(HOUR, a, b)` or
//! `FLOOR(at TO DAY)`. They are no functions of their own: the syntax tree is rewritten where it is parsed, so that
//! statements, continuous queries and computed columns know them alike, and types are those of what stands behind.
//!
//! **Invariant.** Only calls by an unquoted name of one word are rewritten, and only to what any statement could have
//! written itself. What is written stays as it is in stored texts, and is rewritten whenever it is parsed.
//!
//! To add one, add a line to [`names`](mod@names); functions that need code are in [`crate::function`]. Operators are in [`operators`].

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CeilFloorKind, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, ObjectNamePart,
    UnaryOperator, Value, VisitMut, VisitorMut,
};

use crate::error::{Position, Refusal, SqlError};
use crate::statement::name::name_of;
use crate::statement::template::filled;
use names::{RENAMED, WRITTEN};

mod names;
mod operators;

/// Units of a fixed length, in milliseconds.
const FIXED: [(&str, i64); 6] = [
    ("millisecond", 1),
    ("second", 1000),
    ("minute", 60_000),
    ("hour", 3_600_000),
    ("day", 86_400_000),
    ("week", 604_800_000),
];

/// Units of the calendar, in months.
const CALENDAR: [(&str, i64); 3] = [("month", 1), ("quarter", 3), ("year", 12)];

/// From `$1` to `$2`.
const MILLISECONDS_BETWEEN: &str = "(CAST(arrow_cast($2, 'Timestamp(Millisecond, None)') AS BIGINT) \
     - CAST(arrow_cast($1, 'Timestamp(Millisecond, None)') AS BIGINT))";

/// Months of the calendar from `$1` to `$2`, as if all began with both.
const MONTHS_APART: &str = "(12 * (CAST(date_part('year', $2) AS BIGINT) - CAST(date_part('year', $1) AS BIGINT)) \
     + CAST(date_part('month', $2) AS BIGINT) - CAST(date_part('month', $1) AS BIGINT))";

/// Where in its month a time lies.
const DAY_AND_TIME: &str =
    "to_char(arrow_cast($, 'Timestamp(Millisecond, None)'), '%dT%H:%M:%S%.3f')";

/// Most nodes that what is written instead may have, all together: a call may stand for several copies of its
/// arguments, and calls nest.
const NODES_MAX: usize = 20_000;

/// All names that are taken besides those of the engine's functions and ours, for suggestions.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let renamed = RENAMED.iter().map(|(name, _)| *name);
    let written = WRITTEN.iter().map(|(name, ..)| *name);
    let of_time = ["dateadd", "timestampadd", "timestampdiff"].into_iter();
    renamed.chain(written).chain(of_time)
}

/// Every name with what it is written as.
pub(crate) fn meanings() -> impl Iterator<Item = (&'static str, &'static str)> {
    let written = WRITTEN.iter().map(|(name, _, template)| (*name, *template));
    RENAMED.iter().copied().chain(written)
}

/// Rewrites every call in a syntax tree.
///
/// # Errors
/// [`SqlError::Invalid`] for a call with other arguments than its function takes, [`SqlError::Limit`] for calls that nest
/// so that they stand for too much.
pub(super) fn rewrite(tree: &mut impl VisitMut) -> Result<(), SqlError> {
    match tree.visit(&mut Spelling { nodes: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Spelling {
    /// Of what was written instead so far.
    nodes: usize,
}

impl VisitorMut for Spelling {
    type Break = Box<SqlError>;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match self.rewritten(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(other)) => {
                *expr = other;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(Box::new(error)),
        }
    }
}

impl Spelling {
    fn rewritten(&mut self, expr: &mut Expr) -> Result<Option<Expr>, SqlError> {
        match expr {
            Expr::Floor {
                expr,
                field: CeilFloorKind::DateTimeField(unit),
            } if *unit != DateTimeField::NoDateTime => {
                let template = format!("date_trunc('{}', $1)", unit.to_string().to_lowercase());
                self.write(&template, &[expr.as_ref()]).map(Some)
            }
            Expr::Ceil {
                expr,
                field: CeilFloorKind::DateTimeField(unit),
            } if *unit != DateTimeField::NoDateTime => {
                let unit = unit.to_string().to_lowercase();
                let length = match unit.as_str() {
                    "quarter" => "3 month",
                    _ => &format!("1 {unit}"),
                };
                let template = format!(
                    "CASE WHEN date_trunc('{unit}', $1) = $1 THEN $1 ELSE date_trunc('{unit}', $1) + INTERVAL '{length}' END"
                );
                self.write(&template, &[expr.as_ref()]).map(Some)
            }
            Expr::Function(function) => self.call(function),
            Expr::BinaryOp { left, op, right } => match operators::meaning(left, op, right) {
                Some((template, arguments)) => self.write(&template, &arguments).map(Some),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }

    fn call(&mut self, function: &mut Function) -> Result<Option<Expr>, SqlError> {
        let name = match function.name.0.as_slice() {
            [part] => match part.as_ident() {
                Some(ident) if ident.quote_style.is_none() => name_of(ident),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        if let Some((_, other)) = RENAMED.iter().find(|(known, _)| *known == name) {
            rename(function, other);
        }
        if matches!(name.as_str(), "listagg" | "string_agg" | "group_concat") {
            join_texts(function);
        }
        match name.as_str() {
            "timestampadd" | "dateadd" => return self.of_time("timestampadd", function).map(Some),
            "timestampdiff" => return self.of_time("timestampdiff", function).map(Some),
            _ => {}
        }
        let takes: Vec<usize> = WRITTEN
            .iter()
            .filter(|(known, ..)| *known == name)
            .map(|(_, count, _)| *count)
            .collect();
        if takes.is_empty() {
            return Ok(None);
        }
        let arguments = plain_arguments(function);
        let template = WRITTEN.iter().find(|(known, count, _)| {
            let given = arguments.as_ref().map(Vec::len);
            *known == name && given == Some(*count)
        });
        match (template, arguments) {
            (Some((.., template)), Some(arguments)) => self.write(template, &arguments).map(Some),
            _ => {
                let takes: Vec<String> = takes.iter().map(ToString::to_string).collect();
                let cause = format!("{name} takes {} plain arguments", takes.join(" or "));
                Err(refused(function, cause, "write them by position"))
            }
        }
    }

    /// `TIMESTAMPADD(unit, count, time)` and `TIMESTAMPDIFF(unit, from, to)`.
    fn of_time(&mut self, name: &str, function: &Function) -> Result<Expr, SqlError> {
        let wrong = |cause: String| {
            let form = match name {
                "timestampadd" => "write TIMESTAMPADD(HOUR, 2, time)",
                _ => "write TIMESTAMPDIFF(HOUR, from, to)",
            };
            refused(function, cause, form)
        };
        let arguments = plain_arguments(function).unwrap_or_default();
        let [unit, first, second] = arguments.as_slice() else {
            return Err(wrong(format!("{name} takes a unit and two arguments")));
        };
        let unit = unit_of(unit).ok_or_else(|| wrong(format!("{unit} is no unit of time")))?;
        let length = |units: &[(&str, i64)]| {
            let found = units.iter().find(|(known, _)| *known == unit);
            found.map(|(_, length)| *length)
        };
        if let Some(ms) = length(&FIXED) {
            let template = match name {
                "timestampadd" => {
                    format!("($2 + arrow_cast(CAST($1 AS BIGINT) * {ms}, 'Duration(Millisecond)'))")
                }
                _ => format!("({MILLISECONDS_BETWEEN} / {ms})"),
            };
            return self.write(&template, &[first, second]);
        }
        let Some(months) = length(&CALENDAR) else {
            let known = FIXED.iter().chain(&CALENDAR).map(|(unit, _)| *unit);
            let known = known.collect::<Vec<_>>().join(", ").to_uppercase();
            return Err(wrong(format!(
                "{unit} is no unit of time; there are {known}"
            )));
        };
        if name == "timestampdiff" {
            let [from, to] = ["$1", "$2"].map(|time| DAY_AND_TIME.replace('$', time));
            let template = format!(
                "((CASE WHEN {MONTHS_APART} > 0 AND {to} < {from} THEN {MONTHS_APART} - 1 \
                 WHEN {MONTHS_APART} < 0 AND {to} > {from} THEN {MONTHS_APART} + 1 \
                 ELSE {MONTHS_APART} END) / {months})"
            );
            return self.write(&template, &[first, second]);
        }
        let count = whole(first).and_then(|count| count.checked_mul(months));
        let count = count.ok_or_else(|| {
            wrong(format!(
                "the length of a {unit} varies, so {name} takes a constant number of them"
            ))
        })?;
        self.write(&format!("($1 + INTERVAL '{count} month')"), &[second])
    }

    /// A template with arguments in their places.
    fn write(&mut self, template: &str, arguments: &[&Expr]) -> Result<Expr, SqlError> {
        let mut written = filled(template, arguments)?;
        let mut count = Count(0);
        let _: ControlFlow<()> = written.visit(&mut count);
        self.nodes += count.0;
        if self.nodes > NODES_MAX {
            return Err(SqlError::Limit {
                limit: "NODES_MAX",
                value: format!("{NODES_MAX} operations"),
                advice: "nest fewer calls of functions like locate and timestampdiff, or compute in a subquery first",
            });
        }
        Ok(written)
    }
}

/// Counts the expressions of a tree.
struct Count(usize);

impl VisitorMut for Count {
    type Break = ();

    fn pre_visit_expr(&mut self, _expr: &mut Expr) -> ControlFlow<()> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}

fn rename(function: &mut Function, name: &str) {
    for part in &mut function.name.0 {
        if let Some(ident) = part.as_ident() {
            let renamed = Ident {
                value: name.to_owned(),
                ..ident.clone()
            };
            *part = ObjectNamePart::Identifier(renamed);
        }
    }
}

/// `LISTAGG(x) WITHIN GROUP (ORDER BY y)`: the separator may be left out, and the order stand behind.
fn join_texts(function: &mut Function) {
    let order = std::mem::take(&mut function.within_group);
    if let FunctionArguments::List(list) = &mut function.args {
        if list.args.len() == 1 {
            let comma = Expr::value(Value::SingleQuotedString(",".to_owned()));
            let comma = FunctionArgExpr::Expr(comma);
            list.args.push(FunctionArg::Unnamed(comma));
        }
        if !order.is_empty() {
            list.clauses.push(FunctionArgumentClause::OrderBy(order));
        }
    }
}

/// The arguments of a call that is nothing but a name and values.
fn plain_arguments(function: &Function) -> Option<Vec<&Expr>> {
    let is_plain = function.over.is_none()
        && function.filter.is_none()
        && function.null_treatment.is_none()
        && function.within_group.is_empty();
    // Words such as LOCALTIMESTAMP are calls without parentheses.
    if is_plain && function.args == FunctionArguments::None {
        return Some(Vec::new());
    }
    let FunctionArguments::List(FunctionArgumentList {
        duplicate_treatment: None,
        args,
        clauses,
    }) = &function.args
    else {
        return None;
    };
    if !is_plain || !clauses.is_empty() {
        return None;
    }
    let each = args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    each.collect()
}

/// `HOUR`, `HOURS`, `'hour'` or Flink's `SQL_TSI_HOUR`.
fn unit_of(expr: &Expr) -> Option<String> {
    let word = match expr {
        Expr::Identifier(ident) => ident.value.to_lowercase(),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.to_lowercase(),
            _ => return None,
        },
        _ => return None,
    };
    let word = word.strip_prefix("sql_tsi_").unwrap_or(&word);
    Some(word.strip_suffix('s').unwrap_or(word).to_owned())
}

/// A whole number that stands there as such.
fn whole(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } => whole(expr).and_then(i64::checked_neg),
        _ => None,
    }
}

fn refused(function: &Function, cause: String, suggestion: &str) -> SqlError {
    let ident = function.name.0.first().and_then(|part| part.as_ident());
    let start = ident.map(|ident| ident.span.start);
    let position = start.filter(|start| start.line > 0).map(|start| Position {
        line: start.line,
        column: start.column,
    });
    SqlError::Invalid(Refusal {
        position,
        cause,
        suggestion: Some(suggestion.to_owned()),
    })
}

#[cfg(test)]
mod tests;
