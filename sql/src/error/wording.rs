//! The engine's sentences, said as ours: with the names that types have in SQL, and with what to do next.
//!
//! They are told apart by their text, since the engine has no other way to tell them apart; a sentence that is not known here
//! is passed on as it is, with its types in SQL's words.

use crate::error::{Refusal, SqlError};

/// The planner's sentences that we can say better.
pub(super) fn of_plan(text: &str) -> SqlError {
    let invalid = |cause: String, suggestion: Option<&str>| {
        SqlError::Invalid(Refusal {
            position: None,
            cause,
            suggestion: suggestion.map(str::to_owned),
        })
    };
    if let Some(name) = between(text, "Invalid function '", "'") {
        if crate::runtime::expressions()
            .window_functions()
            .contains_key(name)
        {
            return invalid(
                format!("function {name} needs to know in what order rows stand"),
                Some("write OVER (ORDER BY …) behind it"),
            );
        }
        if let Some(instead) = crate::statement::foreign::function(name) {
            return SqlError::unknown("function", name, None, [""; 0]).or_say(instead);
        }
        return SqlError::unknown("function", name, None, crate::runtime::function_names())
            .or_say("SHOW FUNCTIONS lists what there is");
    }
    if let Some((_, rest)) = text.split_once("Function '")
        && rest.contains("failed to match any signature")
        && let Some((name, _)) = rest.split_once('\'')
    {
        return invalid(
            format!("function {name} does not take arguments of these types"),
            Some("cast them, for example CAST(x AS DOUBLE)"),
        );
    }
    if let Some(call) = between(text, "the given name and argument types '", "'")
        && let Some((name, types)) = call.split_once('(')
    {
        return invalid(
            format!("function {name} does not take ({}", sql_types(types)),
            Some("see what it takes, and cast the arguments, for example CAST(x AS DOUBLE)"),
        );
    }
    if let Some(name) = between(text, "table 'main.", "' not found")
        && let Some((schema, _)) = name.split_once('.')
    {
        let schemas = [crate::runtime::TOPICS_SCHEMA, crate::runtime::SYSTEM_SCHEMA];
        if !schemas.contains(&schema) {
            return SqlError::unknown("schema", schema, None, schemas)
                .or_say("topics are named without a schema, system tables as millpond.name");
        }
    }
    if let Some((what, at)) = said_better(text) {
        return invalid(what, Some(&at));
    }
    if let Some((_, rest)) = text.split_once("While expanding wildcard, ") {
        return invalid(
            rest.split(", currently").next().unwrap_or(rest).to_owned(),
            None,
        );
    }
    invalid(sql_types(text), None)
}

/// A subquery or an aggregate where the engine can not compute one.
pub(super) fn misplaced(text: &str) -> Option<Refusal> {
    let (_, what) = text.split_once("Physical plan does not support logical expression ")?;
    let (cause, suggestion) = if what.starts_with("AggregateFunction") {
        (
            "an aggregate can not stand here",
            "aggregate in a subquery first, and use its column here",
        )
    } else if what.starts_with("InSubquery") || what.starts_with("Exists") {
        (
            "IN and EXISTS with a subquery can not stand here",
            "move them to WHERE, or join with the subquery",
        )
    } else if what.starts_with("SetComparison") {
        (
            "a comparison with ANY or ALL of a subquery can not stand here",
            "compare with the least or the greatest: x > (SELECT min(y) FROM …) for ANY, max(y) for ALL",
        )
    } else if what.starts_with("ScalarSubquery") {
        (
            "a subquery in the place of a value can not name a row outside of it but by =",
            "compare with = in it, or join with its rows and group: LEFT JOIN … ON … GROUP BY …",
        )
    } else {
        return None;
    };
    Some(Refusal {
        position: None,
        cause: cause.to_owned(),
        suggestion: Some(suggestion.to_owned()),
    })
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?
        .1
        .split_once(after)
        .map(|(found, _)| found)
}

/// A sentence of the planner in our words: what is wrong, and what to write.
fn said_better(text: &str) -> Option<(String, String)> {
    if let Some(what) = between(
        text,
        "Cannot coerce arithmetic expression ",
        " to valid types",
    ) {
        let what = sql_types(what);
        let instead = if what.contains("TIMESTAMP") || what.contains("DATE") {
            "a time takes a length of time, for example x + INTERVAL '5 minutes'"
        } else {
            "cast one of them, for example CAST(x AS DOUBLE); texts are put together with ||"
        };
        return Some((format!("{what} can not be computed"), instead.to_owned()));
    }
    if let Some(what) = text.strip_prefix("Cannot infer common argument type for ") {
        let (kind, what) = what.split_once(" operation ")?;
        return Some((
            format!("{} has no {kind}", sql_types(what)),
            "cast one side to the type of the other".to_owned(),
        ));
    }
    if let Some((_, rest)) = text.split_once("non-boolean predicate '")
        && let Some((column, kind)) = rest.split_once("' returning ")
    {
        let kind = sql_types(kind);
        return Some((
            format!("a condition is true or false, and {column} is {kind}"),
            format!("compare it, for example {column} = …"),
        ));
    }
    if text.starts_with("null_aware anti join only supports single column") {
        return Some((
            "NOT IN can not stand before a subquery that names a row outside of it".to_owned(),
            "write NOT EXISTS (SELECT 1 FROM … WHERE …)".to_owned(),
        ));
    }
    if let Some((has, names)) = between(text, "Source table contains ", " names given")
        .and_then(|counts| counts.split_once(" columns but only "))
    {
        return Some((
            format!("{names} names are given to {has} columns"),
            "give a name to each of them".to_owned(),
        ));
    }
    if let Some(position) = between(text, "Order by column out of bounds, specified: ", ",") {
        return Some((
            format!("ORDER BY {position} means column {position}, and there are not as many"),
            "name the column, or an expression".to_owned(),
        ));
    }
    if let Some(position) = between(text, "Cannot find column with position ", " in SELECT") {
        return Some((
            format!("GROUP BY {position} means column {position}, and there are not as many"),
            "name the column, or an expression".to_owned(),
        ));
    }
    if let Some(what) = between(
        text,
        "HAVING clause references: ",
        " must appear in the GROUP BY",
    ) {
        return Some((
            format!(
                "HAVING reads {}, which is neither grouped by nor within an aggregate",
                sql_types(what)
            ),
            "write it in WHERE, which chooses rows before they are grouped".to_owned(),
        ));
    }
    if text.starts_with("Aggregate functions are not allowed in the WHERE clause") {
        return Some((
            "an aggregate can not stand in WHERE, which chooses rows before they are grouped"
                .to_owned(),
            "write it after GROUP BY: HAVING …".to_owned(),
        ));
    }
    if let Some(column) = between(
        text,
        "Projections require unique expression names but the expression \"",
        "\" at position",
    ) {
        let is_name = !column.contains(|letter: char| " ()".contains(letter));
        let name = match column.rsplit_once('.') {
            Some((_, name)) if is_name => name,
            _ => column,
        };
        return Some((
            format!("two columns of the query are called {name}"),
            "name one of them otherwise with AS".to_owned(),
        ));
    }
    if let Some(column) = between(text, "olumn \"", "\" must appear in the GROUP BY clause") {
        return Some((
            format!("column {column} is neither grouped by nor within an aggregate"),
            format!(
                "add it to GROUP BY, or say which of its values is meant, for example max({column})"
            ),
        ));
    }
    None
}

/// An error of data in our words.
pub(super) fn of_data(text: &str) -> String {
    if let Some((value, kind)) = between(text, "Cannot cast string ", " type")
        .and_then(|rest| rest.split_once(" to value of "))
    {
        let kind = sql_types(kind);
        return format!("{value} is no {kind}; try_cast(x AS {kind}) gives NULL for what is none");
    }
    if let Some(value) = between(text, "Error parsing timestamp from ", ": ") {
        return format!(
            "{value} is no TIMESTAMP; write one like '2013-01-01T00:00:00', or read it with to_timestamp(x, 'yyyy-MM-dd HH:mm')"
        );
    }
    if text.contains("Cannot cast timezone to different timezone") {
        return "a time does not come in its zone, where clocks are put forward over it; shift it by an INTERVAL first, \
                or keep times in UTC"
            .to_owned();
    }
    if text.contains("with DISTINCT, ORDER BY expressions must appear in argument list") {
        return "DISTINCT values are ordered by something else, and equal ones have several places then; order by the value itself, \
                and by its text where a text is made of it, ORDER BY CAST(x AS VARCHAR); or leave DISTINCT out"
            .to_owned();
    }
    if text.trim_end() == "Divide by zero error" {
        return "a number is divided by zero; x / nullif(y, 0) gives NULL instead".to_owned();
    }
    sql_types(text)
}

/// A text with the types in it called as in SQL.
fn sql_types(text: &str) -> String {
    const TYPES: [(&str, &str); 14] = [
        ("LargeUtf8", "VARCHAR"),
        ("Utf8View", "VARCHAR"),
        ("Utf8", "VARCHAR"),
        ("Int8", "TINYINT"),
        ("Int16", "SMALLINT"),
        ("Int32", "INT"),
        ("Int64", "BIGINT"),
        ("Float32", "FLOAT"),
        ("Float64", "DOUBLE"),
        ("Boolean", "BOOLEAN"),
        ("Date32", "DATE"),
        ("Binary", "BYTES"),
        ("Decimal128", "DECIMAL"),
        ("Interval(MonthDayNano)", "INTERVAL"),
    ];
    let mut written = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word_before = written.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let known = TYPES.iter().find(|(arrow, _)| rest.starts_with(arrow));
        let times = rest
            .strip_prefix("Timestamp(")
            .and_then(|inner| inner.split_once(')'));
        match (is_word_before, known, times) {
            // A literal, as the planner shows one: Int64(2).
            (false, Some((arrow, _)), _) if rest[arrow.len()..].starts_with("(\"") => {
                let inner = &rest[arrow.len() + 2..];
                let Some((literal, after)) = inner.split_once("\")") else {
                    written.push_str(rest);
                    break;
                };
                written.push_str(&format!("'{literal}'"));
                rest = after;
            }
            // A number as the planner shows one: Int64(2); a decimal's digits stand for its type.
            (false, Some((arrow, sql)), _)
                if !sql.starts_with("DECIMAL") && rest[arrow.len()..].starts_with('(') =>
            {
                let inner = &rest[arrow.len() + 1..];
                let Some((literal, after)) = inner.split_once(')') else {
                    written.push_str(rest);
                    break;
                };
                written.push_str(literal);
                rest = after;
            }
            (false, Some((arrow, sql)), _) => {
                written.push_str(sql);
                rest = &rest[arrow.len()..];
            }
            (false, None, Some((_, after))) => {
                written.push_str("TIMESTAMP");
                rest = after;
            }
            _ => {
                written.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_called_as_in_sql_and_other_words_stay() {
        assert_eq!(sql_types("Utf8 + Int64"), "VARCHAR + BIGINT");
        assert_eq!(
            sql_types("(Timestamp(ms), Decimal128(3, 1))"),
            "(TIMESTAMP, DECIMAL(3, 1))"
        );
        assert_eq!(
            sql_types("t.id > Int64(1) + Int64(NULL)"),
            "t.id > 1 + NULL"
        );
        assert_eq!(sql_types("myUtf8 and Utf8(\"x\")"), "myUtf8 and 'x'");
    }
}
