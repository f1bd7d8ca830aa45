//! JSON by a path of SQL/JSON, as in Flink and PostgreSQL.
//!
//! | function | answers |
//! |---|---|
//! | `json_value(json, '$.a[0].b')` | the text, number or truth at the path, as text; NULL for an object, an array and `null` |
//! | `json_query(json, '$.a')` | the object or array at the path, as JSON; NULL for anything else |
//! | `json_exists(json, '$.a')` | whether there is anything at the path |
//!
//! A path is `$`, then members (`.name` or `['name']`) and places in arrays (`[0]`), one after the other; wildcards,
//! filters and `strict` are not taken. What is no JSON, and what is not there, is NULL. A path that can not be read
//! is an error, since it would otherwise be NULL in every row.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TypeSignature;

use crate::function::json_text::{Json, Kind};
use crate::function::scalar::{Compute, Scalar};

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let function = |name, returns, compute: Compute| Scalar {
        name,
        arguments: TypeSignature::Any(2),
        returns,
        compute,
    };
    vec![
        function("json_value", DataType::Utf8, |arguments, rows| {
            let texts = each(arguments, rows, |found| match found?.kind() {
                Kind::Object | Kind::Array => None,
                _ => found?.shown(),
            })?;
            Ok(Arc::new(StringArray::from(texts)))
        }),
        function("json_query", DataType::Utf8, |arguments, rows| {
            let texts = each(arguments, rows, |found| match found?.kind() {
                Kind::Object | Kind::Array => Some(found?.written()),
                _ => None,
            })?;
            Ok(Arc::new(StringArray::from(texts)))
        }),
        function("json_exists", DataType::Boolean, |arguments, rows| {
            let found = each(arguments, rows, |found| Some(found.is_some()))?;
            Ok(Arc::new(BooleanArray::from(found)))
        }),
    ]
}

/// What `read` makes of what is found at the path, if anything is, row by row; NULL where there is no JSON.
fn each<T>(
    arguments: &[ArrayRef],
    rows: usize,
    read: impl Fn(Option<Json<'_>>) -> Option<T>,
) -> Result<Vec<Option<T>>, DataFusionError> {
    let json = cast(&arguments[0], &DataType::Utf8)?;
    let paths = cast(&arguments[1], &DataType::Utf8)?;
    let (json, paths) = (json.as_string::<i32>(), paths.as_string::<i32>());
    // A path is a constant nearly always, and read once then.
    let mut last: Option<(&str, Vec<Step>)> = None;
    let mut values = Vec::with_capacity(rows);
    for row in 0..rows {
        if json.is_null(row) || paths.is_null(row) {
            values.push(None);
            continue;
        }
        let path = paths.value(row);
        if last.as_ref().is_none_or(|(known, _)| *known != path) {
            last = Some((path, steps(path)?));
        }
        let mut steps = last.iter().flat_map(|(_, steps)| steps);
        values.push(Json::of(json.value(row)).and_then(|whole| {
            read(steps.try_fold(whole, |at, step| match step {
                Step::Member(name) => at.member(name),
                Step::Place(place) => at.place(*place),
            }))
        }));
    }
    Ok(values)
}

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Place(usize),
}

/// Reads a path.
fn steps(path: &str) -> Result<Vec<Step>, DataFusionError> {
    let wrong = || {
        DataFusionError::Execution(format!(
            "'{path}' is no path in JSON; write one like '$.order.lines[0].price'"
        ))
    };
    let text = path.trim();
    let text = text.strip_prefix("lax ").unwrap_or(text).trim_start();
    let mut rest = text.strip_prefix('$').ok_or_else(wrong)?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(member) = rest.strip_prefix('.') {
            let end = member.find(['.', '[']).unwrap_or(member.len());
            let (name, after) = member.split_at(end);
            if name.is_empty() || name.contains(['*', '?', '"', ' ']) {
                return Err(wrong());
            }
            steps.push(Step::Member(name.to_owned()));
            rest = after;
            continue;
        }
        let inner = rest.strip_prefix('[').ok_or_else(wrong)?;
        let quote = inner
            .chars()
            .next()
            .filter(|first| matches!(first, '\'' | '"'));
        if let Some(quote) = quote {
            let (name, after) = inner[1..].split_once(quote).ok_or_else(wrong)?;
            steps.push(Step::Member(name.to_owned()));
            rest = after.strip_prefix(']').ok_or_else(wrong)?;
        } else {
            let (place, after) = inner.split_once(']').ok_or_else(wrong)?;
            steps.push(Step::Place(place.trim().parse().map_err(|_| wrong())?));
            rest = after;
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_members_and_places_and_anything_else_is_refused() {
        let member = |name: &str| Step::Member(name.to_owned());
        assert_eq!(steps("$").unwrap(), []);
        let all = [member("a"), Step::Place(2), member("b c"), member("d")];
        assert_eq!(steps("lax $.a[2]['b c'].d").unwrap(), all);
        for wrong in [
            "",
            "a.b",
            "$a",
            "$.",
            "$..a",
            "$[*]",
            "$.*",
            "$['a",
            "$[-1]",
            "$[0",
            "strict $.a",
        ] {
            assert!(steps(wrong).is_err(), "{wrong}");
        }
    }
}
