//! What is declared of a topic's bodies, checked: format, schema and its versions, columns that follow from it.
//!
//! Columns come first or follow: declared ones are checked against the schema, and where none is declared the schema's fields are the
//! columns. Avro needs no schema when there are columns; one is made of them. Fields that a new version brings become columns.

use std::sync::Arc;

use arrow::datatypes::DataType;
use bytes::Bytes;
use millpond_connectors::format::base64;
use millpond_connectors::format::body::{Encoding, Format, FormatError, SchemaColumn, avro_of};
use millpond_proto::limits;

use crate::catalog::{Table, is_system_column, sql_type};
use crate::error::SqlError;
use crate::statement::{AlterTopic, CreateTopic, TopicOptions};
use crate::topic::{Changelog, ColumnSpec, NewSchema, TopicInfo};

/// What a topic's declaration comes to.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its columns, declared or following from the schema.
    pub columns: Vec<ColumnSpec>,
    /// How its bodies are written.
    pub encoding: Encoding,
    /// What its messages say of rows.
    pub changelog: Changelog,
}

/// The declaration of a topic.
///
/// # Errors
/// [`SqlError`] when options contradict each other, or columns and schema do.
pub fn declare(topic: &CreateTopic) -> Result<Declared, SqlError> {
    let options = &topic.options;
    let changelog = options.changelog.unwrap_or_default();
    let mut columns = topic.columns.clone();
    let encoding = encode(&topic.name, options, &mut columns)?;
    if encoding.format == Format::Raw && !topic.primary_key.is_empty() {
        return Err(SqlError::invalid(
            "raw bodies have no columns that could be a key",
            "leave PRIMARY KEY out, or choose another format",
        ));
    }
    if changelog != Changelog::Rows && topic.primary_key.is_empty() {
        return Err(SqlError::invalid(
            format!(
                "a topic with changelog = '{}' holds changes of rows, and nothing tells which row a change is of",
                changelog.name()
            ),
            "declare the key of its rows: PRIMARY KEY (column, …)",
        ));
    }
    if changelog == Changelog::Debezium && encoding.format != Format::Json {
        return Err(SqlError::invalid(
            format!(
                "changes of Debezium are read in JSON, not in {}",
                encoding.format
            ),
            "leave format out, or changelog",
        ));
    }
    Ok(Declared {
        columns,
        encoding,
        changelog,
    })
}

fn encode(
    name: &str,
    options: &TopicOptions,
    columns: &mut Vec<ColumnSpec>,
) -> Result<Encoding, SqlError> {
    let format = options.format.unwrap_or_default();
    for (option, is_set) in [
        ("schema", options.schema.is_some()),
        (
            "message",
            options.message.is_some() && format != Format::Protobuf,
        ),
        ("compatibility", options.compatibility.is_some()),
    ] {
        if is_set && (!format.has_schemas() || option == "message") {
            return Err(SqlError::invalid(
                format!("bodies in {format} take no {option}"),
                format!("leave {option} out, or set format = 'avro' or 'protobuf'"),
            ));
        }
    }
    let stored = |columns: &[ColumnSpec]| columns.iter().any(|column| column.expression.is_none());
    if format == Format::Raw && !stored(columns) {
        let body = ColumnSpec {
            name: "body".to_owned(),
            sql_type: "BYTES".to_owned(),
            expression: None,
        };
        columns.insert(0, body);
    }
    let mut encoding = Encoding {
        format,
        message: options.message.clone().unwrap_or_default(),
        compatibility: options.compatibility.unwrap_or_default(),
        ..Encoding::default()
    };
    let text = match &options.schema {
        Some(text) => Some(schema_bytes(format, text)?),
        None if format == Format::Avro && stored(columns) => {
            Some(avro_of(name, &Table::of(columns)?.body))
        }
        None => None,
    };
    if let Some(text) = text {
        check_size(&encoding, text.len())?;
        encoding = encoding.with_schema(text)?;
    }
    if format.has_schemas() && !stored(columns) {
        let mut following = Vec::new();
        for column in encoding.columns()? {
            following.push(column_of(column)?);
        }
        following.append(columns);
        *columns = following;
    }
    check_count(columns.len())?;
    encoding.check(&Table::of(columns)?.body)?;
    Ok(encoding)
}

/// What a change of a topic means for its schema.
///
/// # Errors
/// [`SqlError`] when the change can not be made, or the new version is not compatible.
pub fn change(topic: &TopicInfo, change: &AlterTopic) -> Result<NewSchema, SqlError> {
    let options = &change.options;
    for (option, is_set) in [
        ("format", options.format.is_some()),
        ("message", options.message.is_some()),
        ("changelog", options.changelog.is_some()),
        ("family", options.family.is_some()),
    ] {
        if is_set {
            return Err(SqlError::invalid(
                format!("{option} of a topic is fixed for its life"),
                "make another topic, and copy the rows with INSERT INTO … SELECT",
            ));
        }
    }
    let format = topic.encoding.format;
    if !format.has_schemas() {
        if options.schema.is_some() || options.compatibility.is_some() {
            return Err(SqlError::invalid(
                format!(
                    "bodies of topic {} are written in {format}, without a schema",
                    topic.name
                ),
                "add columns instead: ALTER TOPIC name ADD COLUMN column TYPE",
            ));
        }
        return Ok(NewSchema::default());
    }
    if change
        .add_columns
        .iter()
        .any(|column| column.expression.is_none())
    {
        return Err(SqlError::invalid(
            format!(
                "columns of topic {} follow from its {format} schema",
                topic.name
            ),
            "set a schema with more fields: ALTER TOPIC name SET (schema = '…')",
        ));
    }
    let mut new = NewSchema {
        compatibility: options.compatibility,
        ..NewSchema::default()
    };
    let Some(text) = &options.schema else {
        return Ok(new);
    };
    let text = schema_bytes(format, text)?;
    check_size(&topic.encoding, text.len())?;
    let mut before = topic.encoding.clone();
    before.compatibility = options.compatibility.unwrap_or(before.compatibility);
    let after = before.with_schema(text)?;
    let known: Vec<String> = before
        .columns()?
        .into_iter()
        .map(|column| column.name)
        .collect();
    let mut columns = topic.columns.clone();
    for column in after.columns()? {
        let is_declared = columns.iter().any(|declared| declared.name == column.name);
        if !is_declared && !known.contains(&column.name) {
            let column = column_of(column)?;
            columns.push(column.clone());
            new.add_columns.push(column);
        }
    }
    check_count(columns.len())?;
    check_types(topic, &before.columns()?, &after.columns()?)?;
    // Every version must still be readable as the columns, which may name fields that the last one has no more.
    let body = Arc::clone(&Table::of(&columns)?.body);
    millpond_connectors::format::body::BodyDecoder::new(&after, &body, |_| true)?;
    new.schema = after.last().cloned();
    Ok(new)
}

/// Refuses fields that become of a type whose values the topic's column, which stays as it is, does not hold.
fn check_types(
    topic: &TopicInfo,
    before: &[SchemaColumn],
    after: &[SchemaColumn],
) -> Result<(), SqlError> {
    let declared = Table::of(&topic.columns)?.body;
    for field in after {
        let was = before.iter().find(|known| known.name == field.name);
        let (Some(was), Ok(column)) = (was, declared.field_with_name(&field.name)) else {
            continue;
        };
        if was.sql_type == field.sql_type {
            continue;
        }
        let becomes = Table::of(&[column_of(field.clone())?])?.body;
        if !holds(column.data_type(), becomes.field(0).data_type()) {
            return Err(SqlError::invalid(
                format!(
                    "field {} was {} and is {} in the new schema, and column {0} of topic {}, which stays {}, does not hold all of its values",
                    field.name,
                    was.sql_type,
                    field.sql_type,
                    topic.name,
                    sql_type(column.data_type()),
                ),
                "make another topic with the new schema, and copy the rows with INSERT INTO … SELECT",
            ));
        }
    }
    Ok(())
}

/// Whether a column holds all values of a field of another type.
fn holds(column: &DataType, field: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Float32, Float64, Int32, Int64, Timestamp};
    column == field
        || matches!(
            (column, field),
            (Int64, Int32)
                | (Float64, Float32 | Int32 | Int64)
                | (Timestamp(..) | Decimal128(..), Int32 | Int64)
                | (Date32, Int32)
        )
}

fn column_of(column: SchemaColumn) -> Result<ColumnSpec, SqlError> {
    if is_system_column(&column.name) {
        return Err(SqlError::invalid(
            format!(
                "field {} of the schema has the name of a system column",
                column.name
            ),
            "declare the columns that you need, without it",
        ));
    }
    Ok(ColumnSpec {
        name: column.name,
        sql_type: column.sql_type,
        expression: None,
    })
}

fn schema_bytes(format: Format, text: &str) -> Result<Bytes, SqlError> {
    if format != Format::Protobuf {
        return Ok(Bytes::copy_from_slice(text.as_bytes()));
    }
    let set = base64::decode(text).ok_or_else(|| FormatError::Schema {
        format,
        detail: "it is not base64; give the descriptor set that protoc writes, in base64"
            .to_owned(),
    })?;
    Ok(Bytes::from(set))
}

fn check_count(columns: usize) -> Result<(), SqlError> {
    if columns <= limits::COLUMNS_MAX {
        return Ok(());
    }
    Err(SqlError::Limit {
        limit: "COLUMNS_MAX",
        value: limits::COLUMNS_MAX.to_string(),
        advice: "declare the columns that you need, and leave the other fields to _body",
    })
}

fn check_size(encoding: &Encoding, more: usize) -> Result<(), SqlError> {
    let bytes: usize = encoding
        .schemas
        .iter()
        .map(|schema| schema.text.len())
        .sum();
    if bytes + more <= limits::SCHEMAS_BYTES_MAX {
        return Ok(());
    }
    Err(SqlError::Limit {
        limit: "SCHEMAS_BYTES_MAX",
        value: format!(
            "{} bytes for all versions of a topic's schema",
            limits::SCHEMAS_BYTES_MAX
        ),
        advice: "make another topic for the new schema",
    })
}
