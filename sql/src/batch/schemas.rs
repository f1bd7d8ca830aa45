//! `millpond.schemas`: every version of every topic's schema.
//!
//! Columns: `topic`, `version`, `format`, `message` (Protobuf), `compatibility`, `is_last`, `schema` (Avro: JSON text; Protobuf: the
//! descriptor set in base64).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use millpond_connectors::format::base64;
use millpond_connectors::format::body::Format;

use crate::topic::Topics;

/// The rows of the table.
pub(crate) fn schemas_batch(topics: &dyn Topics) -> Result<RecordBatch, ArrowError> {
    let mut names = Vec::new();
    let mut versions = Vec::new();
    let mut formats = Vec::new();
    let mut messages = Vec::new();
    let mut rules = Vec::new();
    let mut last = Vec::new();
    let mut texts = Vec::new();
    for topic in topics.topics() {
        let encoding = &topic.encoding;
        let newest = encoding.last().map(|schema| schema.version);
        for schema in &encoding.schemas {
            names.push(topic.name.clone());
            versions.push(i64::from(schema.version));
            formats.push(encoding.format.name());
            messages.push(Some(encoding.message.clone()).filter(|name| !name.is_empty()));
            rules.push(encoding.compatibility.name());
            last.push(newest == Some(schema.version));
            texts.push(match encoding.format {
                Format::Protobuf => base64::encode(&schema.text),
                _ => String::from_utf8_lossy(&schema.text).into_owned(),
            });
        }
    }
    let version = Int64Array::from(versions);
    RecordBatch::try_from_iter_with_nullable([
        (
            "topic",
            Arc::new(StringArray::from(names)) as ArrayRef,
            false,
        ),
        ("version", Arc::new(version) as ArrayRef, false),
        (
            "format",
            Arc::new(StringArray::from(formats)) as ArrayRef,
            false,
        ),
        (
            "message",
            Arc::new(StringArray::from(messages)) as ArrayRef,
            true,
        ),
        (
            "compatibility",
            Arc::new(StringArray::from(rules)) as ArrayRef,
            false,
        ),
        (
            "is_last",
            Arc::new(BooleanArray::from(last)) as ArrayRef,
            false,
        ),
        (
            "schema",
            Arc::new(StringArray::from(texts)) as ArrayRef,
            false,
        ),
    ])
}
