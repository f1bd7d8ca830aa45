//! `millpond.functions`: every function that a statement can call.
//!
//! Columns: `name`, `kind` (`scalar`, `aggregate`, `window`, or `other name` for what is written as other functions), `call` (how it is
//! called, or what is written instead) and `description`; the last two are NULL for functions that nobody described.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::error::ArrowError;
use datafusion::logical_expr::Documentation;

use crate::runtime::expressions;
use crate::statement::spelling;

/// A row of the table.
struct Row {
    name: String,
    kind: &'static str,
    call: Option<String>,
    description: Option<String>,
}

impl Row {
    fn of(name: &str, kind: &'static str, told: Option<&Documentation>) -> Self {
        let description = told.map(|told| told.description.clone());
        Self {
            name: name.to_owned(),
            kind,
            call: told.map(|told| told.syntax_example.clone()),
            description: description
                .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")),
        }
    }
}

/// The rows of the table, by name.
pub(crate) fn functions_batch() -> Result<RecordBatch, ArrowError> {
    let state = expressions();
    let mut rows = Vec::new();
    for (name, function) in state.scalar_functions() {
        rows.push(Row::of(name, "scalar", function.documentation()));
    }
    for (name, function) in state.aggregate_functions() {
        rows.push(Row::of(name, "aggregate", function.documentation()));
    }
    for (name, function) in state.window_functions() {
        rows.push(Row::of(name, "window", function.documentation()));
    }
    for (name, instead) in spelling::meanings() {
        rows.push(Row {
            name: name.to_owned(),
            kind: "other name",
            call: Some(instead.to_owned()),
            description: None,
        });
    }
    rows.sort_by(|a, b| (&a.name, a.kind, &a.call).cmp(&(&b.name, b.kind, &b.call)));
    let some = |value: fn(&Row) -> Option<&String>| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<StringArray>())
    };
    let kinds = StringArray::from_iter_values(rows.iter().map(|row| row.kind));
    RecordBatch::try_from_iter_with_nullable([
        ("name", some(|row| Some(&row.name)), false),
        ("kind", Arc::new(kinds) as ArrayRef, false),
        ("call", some(|row| row.call.as_ref()), true),
        ("description", some(|row| row.description.as_ref()), true),
    ])
}
