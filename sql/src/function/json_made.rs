//! JSON texts made of values.
//!
//! | function | answers |
//! |---|---|
//! | `json_object(key, value, …)` | an object with these members in their order; a value that is NULL is `null` |
//! | `json_array(value, …)` | an array without those that are NULL, as the standard has it |
//! | `json_build_array(value, …)` | an array with `null` for those, as PostgreSQL has it |
//! | `json_string(value)` | the value as JSON; NULL of NULL |
//! | `json_unquote(text)` | the text that a JSON text stands for; what is none stays as it is |
//! | `is_json(text)` | whether a text is JSON; false of NULL |
//!
//! Numbers and truths are those of JSON, lists are arrays, maps and structs objects; times and bytes are texts, as they are
//! shown. A number that JSON has not, such as infinity, is `null`.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray as _, BooleanArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TypeSignature;
use serde_json::Value;

use crate::function::json_text::Json;
use crate::function::scalar::{Compute, Scalar};

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let function = |name, arguments, returns, compute: Compute| Scalar {
        name,
        arguments,
        returns,
        compute,
    };
    let of_text = || TypeSignature::Exact(vec![DataType::Utf8]);
    let of_any = || TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
    vec![
        function("json_object", of_any(), DataType::Utf8, object),
        function("json_array", of_any(), DataType::Utf8, |arguments, rows| {
            array(arguments, rows, false)
        }),
        function(
            "json_build_array",
            of_any(),
            DataType::Utf8,
            |arguments, rows| array(arguments, rows, true),
        ),
        function(
            "json_string",
            TypeSignature::Any(1),
            DataType::Utf8,
            |arguments, rows| {
                let texts = (0..rows).map(|row| {
                    let is_there = !is_null(&arguments[0], row);
                    is_there.then(|| written(&arguments[0], row)).transpose()
                });
                let texts = texts.collect::<Result<Vec<_>, _>>()?;
                Ok(Arc::new(StringArray::from(texts)))
            },
        ),
        function("json_unquote", of_text(), DataType::Utf8, |arguments, _| {
            let texts = arguments[0].as_string::<i32>().iter().map(|text| {
                text.map(|text| match serde_json::from_str(text) {
                    Ok(Value::String(inner)) => inner,
                    _ => text.to_owned(),
                })
            });
            Ok(Arc::new(texts.collect::<StringArray>()))
        }),
        function("is_json", of_text(), DataType::Boolean, |arguments, _| {
            let texts = arguments[0].as_string::<i32>().iter();
            let is_json = |text: &str| Json::of(text).is_some();
            let found = texts.map(|text| Some(text.is_some_and(is_json)));
            Ok(Arc::new(found.collect::<BooleanArray>()))
        }),
    ]
}

fn object(arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef, DataFusionError> {
    if !arguments.len().is_multiple_of(2) {
        return Err(DataFusionError::Execution(
            "json_object takes keys and values in turn; write json_object('a', 1, 'b', 2)"
                .to_owned(),
        ));
    }
    let pairs = arguments
        .chunks_exact(2)
        .map(|pair| Ok((cast(&pair[0], &DataType::Utf8)?, &pair[1])))
        .collect::<Result<Vec<_>, DataFusionError>>()?;
    let texts = (0..rows).map(|row| {
        let mut text = String::from("{");
        for (at, (keys, values)) in pairs.iter().enumerate() {
            let keys = keys.as_string::<i32>();
            if keys.is_null(row) {
                return Err(DataFusionError::Execution(
                    "a key of json_object is NULL; write coalesce(key, '')".to_owned(),
                ));
            }
            if at > 0 {
                text.push(',');
            }
            text.push_str(&quoted(keys.value(row)));
            text.push(':');
            write(values, row, &mut text)?;
        }
        text.push('}');
        Ok(text)
    });
    let texts = texts.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StringArray::from(texts)))
}

fn array(
    arguments: &[ArrayRef],
    rows: usize,
    with_nulls: bool,
) -> Result<ArrayRef, DataFusionError> {
    let texts = (0..rows).map(|row| {
        let mut text = String::from("[");
        for values in arguments {
            if !with_nulls && is_null(values, row) {
                continue;
            }
            if text.len() > 1 {
                text.push(',');
            }
            write(values, row, &mut text)?;
        }
        text.push(']');
        Ok(text)
    });
    let texts = texts.collect::<Result<Vec<_>, DataFusionError>>()?;
    Ok(Arc::new(StringArray::from(texts)))
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn written(values: &dyn Array, row: usize) -> Result<String, DataFusionError> {
    let mut text = String::new();
    write(values, row, &mut text)?;
    Ok(text)
}

/// Whether a value is NULL; a column of NULLs alone has no mask of them.
fn is_null(values: &dyn Array, row: usize) -> bool {
    values.is_null(row) || values.data_type() == &DataType::Null
}

/// Appends one value as JSON.
fn write(values: &dyn Array, row: usize, text: &mut String) -> Result<(), DataFusionError> {
    if is_null(values, row) {
        text.push_str("null");
        return Ok(());
    }
    match values.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let texts = cast(&values.slice(row, 1), &DataType::Utf8)?;
            text.push_str(&quoted(texts.as_string::<i32>().value(0)));
        }
        DataType::Float32 => {
            let number = values.as_primitive::<Float32Type>().value(row);
            // By its own digits: the nearest double has more.
            text.push_str(&serde_json::to_string(&number).unwrap_or_default());
        }
        DataType::Float16 | DataType::Float64 => {
            let numbers = cast(&values.slice(row, 1), &DataType::Float64)?;
            let number = numbers.as_primitive::<Float64Type>().value(0);
            text.push_str(&Value::from(number).to_string());
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            let items = match values.data_type() {
                DataType::List(_) => values.as_list::<i32>().value(row),
                DataType::LargeList(_) => values.as_list::<i64>().value(row),
                _ => values.as_fixed_size_list().value(row),
            };
            text.push('[');
            for item in 0..items.len() {
                if item > 0 {
                    text.push(',');
                }
                write(&items, item, text)?;
            }
            text.push(']');
        }
        DataType::Struct(fields) => {
            text.push('{');
            for (at, (field, column)) in fields.iter().zip(values.as_struct().columns()).enumerate()
            {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&quoted(field.name()));
                text.push(':');
                write(column, row, text)?;
            }
            text.push('}');
        }
        DataType::Map(..) => {
            let entries = values.as_map().value(row);
            let keys = cast(entries.column(0), &DataType::Utf8)?;
            text.push('{');
            for entry in 0..entries.len() {
                if entry > 0 {
                    text.push(',');
                }
                text.push_str(&quoted(keys.as_string::<i32>().value(entry)));
                text.push(':');
                write(entries.column(1), entry, text)?;
            }
            text.push('}');
        }
        kind => {
            let shown = ArrayFormatter::try_new(values, &FormatOptions::default())?;
            let shown = shown.value(row);
            if kind.is_numeric() || kind == &DataType::Boolean {
                let _ = write!(text, "{shown}");
            } else {
                text.push_str(&quoted(&shown.to_string()));
            }
        }
    }
    Ok(())
}
