//! What a continuous query writes: the columns of its topic and what makes up their key.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, Field, Schema};

use crate::error::SqlError;
use crate::plan::chain::{Grouped, Origin};
use crate::topic::ColumnSpec;

/// Where in the output the columns stand that tell the groups apart; the group of which there is none, if one lacks.
pub(crate) fn key_places(grouped: &Grouped, outputs: &[Origin]) -> Result<Vec<usize>, usize> {
    let is_window = |group: usize| grouped.origins[group].is_window();
    let output_of = |group: usize| outputs.iter().position(|o| *o == Origin::Group(group));
    let window_is_out =
        (0..grouped.groups.len()).any(|group| is_window(group) && output_of(group).is_some());
    let mut places = Vec::new();
    for group in 0..grouped.groups.len() {
        match output_of(group) {
            Some(index) => places.push(index),
            // Start and end of a window say the same, so one of them is enough.
            None if is_window(group) && window_is_out => {}
            None => return Err(group),
        }
    }
    Ok(places)
}

/// The output columns that tell the groups apart.
pub(crate) fn primary_key(
    grouped: &Grouped,
    outputs: &[Origin],
    columns: &[ColumnSpec],
) -> Result<Vec<String>, SqlError> {
    let places = key_places(grouped, outputs).map_err(|group| {
        let name = &grouped.names[group];
        SqlError::invalid(
            format!(
                "the select list lacks the group column {name}, so rows of a group could not be told apart"
            ),
            format!("add {name} to the select list"),
        )
    })?;
    let names = places.into_iter().map(|place| columns[place].name.clone());
    Ok(names.collect())
}

/// Output columns as a topic declares them.
pub(crate) fn columns_of(schema: &Schema) -> Result<Vec<ColumnSpec>, SqlError> {
    let mut names = BTreeSet::new();
    let mut columns = Vec::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(SqlError::invalid(
                format!("two output columns are named {}", field.name()),
                "name one of them otherwise with AS",
            ));
        }
        columns.push(ColumnSpec {
            name: field.name().clone(),
            sql_type: sql_type(field)?,
            expression: None,
        });
    }
    Ok(columns)
}

/// What to write for a type that no topic declares.
fn instead_of(kind: &DataType, name: &str) -> String {
    match kind {
        DataType::Duration(_) | DataType::Interval(_) => format!(
            "tell it in seconds, date_part('epoch', …) AS {name}, or as a text, CAST(… AS VARCHAR)"
        ),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => format!(
            "write it as JSON, json_string(…) AS {name}, which UNNEST(json_items({name})) reads, or as a text, array_to_string(…, ',')"
        ),
        DataType::Struct(_) | DataType::Map(..) => {
            format!("write it as JSON, json_string(…) AS {name}, or take its members apart")
        }
        _ => "cast it, for example to VARCHAR".to_owned(),
    }
}

pub(crate) fn sql_type(field: &Field) -> Result<String, SqlError> {
    Ok(match field.data_type() {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int8 => "TINYINT".to_owned(),
        DataType::Int16 | DataType::UInt8 => "SMALLINT".to_owned(),
        DataType::Int32 | DataType::UInt16 => "INT".to_owned(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "BIGINT".to_owned(),
        DataType::Float32 => "REAL".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BYTES".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(_, _) => "TIMESTAMP".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        other => {
            return Err(SqlError::invalid(
                format!(
                    "output column {} has type {other}, which no topic declares",
                    field.name()
                ),
                instead_of(other, field.name()),
            ));
        }
    })
}
