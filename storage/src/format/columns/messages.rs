//! From columns back to messages.
//!
//! **Invariant.** Type and nulls of every column are checked before a value is read: bytes from a file make errors, never
//! a panic. One kept message holds no more memory than its own.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, ListArray, RecordBatch, StringArray, new_null_array,
};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMillisecondType};
use bytes::Bytes;
use millpond_proto::message::TopicId;

use crate::format::columns::{ColumnsError, SCHEMA};
use crate::format::envelope::{Envelope, Property, PropertyValue};

/// The messages of a batch that has every column of [`SCHEMA`](static@SCHEMA), found by name. A nullable column that a
/// file of an earlier version does not have reads as nulls.
///
/// # Errors
/// [`ColumnsError`] when a column that may not be null is missing or holds a null, or one has another type.
pub fn from_batch(batch: &RecordBatch, topic: TopicId) -> Result<Vec<Envelope>, ColumnsError> {
    let queue = get(batch, "queue")?;
    let queue = queue.as_primitive::<Int32Type>();
    let offset = get(batch, "offset")?;
    let offset = offset.as_primitive::<Int64Type>();
    let stored_at = get(batch, "stored_at")?;
    let stored_at = stored_at.as_primitive::<TimestampMillisecondType>();
    let born_at = get(batch, "born_at")?;
    let born_at = born_at.as_primitive::<TimestampMillisecondType>();
    let message_id = get(batch, "message_id")?;
    let message_id = message_id.as_string::<i32>();
    let message_group = get(batch, "message_group")?;
    let message_group = message_group.as_string::<i32>();
    let key = get(batch, "key")?;
    let key = key.as_binary::<i32>();
    let keys = get(batch, "keys")?;
    let keys = keys.as_list::<i32>();
    let tag = get(batch, "tag")?;
    let tag = tag.as_string::<i32>();
    let properties = get(batch, "properties")?;
    let properties = Properties::of(properties.as_list::<i32>())?;
    let flags = get(batch, "flags")?;
    let flags = flags.as_primitive::<Int32Type>();
    let schema_id = get(batch, "schema_id")?;
    let schema_id = schema_id.as_primitive::<Int32Type>();
    let body = get(batch, "body")?;
    let body = body.as_binary::<i32>();
    let born_host = get(batch, "born_host")?;
    let born_host = born_host.as_string::<i32>();
    let trace_context = get(batch, "trace_context")?;
    let trace_context = trace_context.as_string::<i32>();
    let due_at = get(batch, "due_at")?;
    let due_at = due_at.as_primitive::<TimestampMillisecondType>();
    let priority = get(batch, "priority")?;
    let priority = priority.as_primitive::<Int32Type>();
    let lite_topic = get(batch, "lite_topic")?;
    let lite_topic = lite_topic.as_string::<i32>();
    let producer_id = get(batch, "producer_id")?;
    let producer_id = producer_id.as_string::<i32>();
    let producer_sequence = get(batch, "producer_sequence")?;
    let producer_sequence = producer_sequence.as_primitive::<Int64Type>();

    (0..batch.num_rows())
        .map(|row| {
            Ok(Envelope {
                topic: topic.0,
                queue: queue.value(row).cast_unsigned(),
                offset: offset.value(row).cast_unsigned(),
                stored_at_ms: stored_at.value(row),
                born_at_ms: born_at.value(row),
                message_id: message_id.value(row).to_owned(),
                message_group: text_at(message_group, row),
                key: bytes_at(key, row),
                keys: keys_at(keys, row),
                tag: text_at(tag, row),
                properties: properties.at(row)?,
                flags: flags.value(row).cast_unsigned(),
                schema_id: schema_id
                    .is_valid(row)
                    .then(|| schema_id.value(row).cast_unsigned()),
                body: bytes_at(body, row),
                born_host: born_host.value(row).to_owned(),
                trace_context: text_at(trace_context, row),
                due_at_ms: due_at.is_valid(row).then(|| due_at.value(row)),
                priority: priority.is_valid(row).then(|| priority.value(row)),
                lite_topic: text_at(lite_topic, row),
                producer_id: text_at(producer_id, row),
                producer_sequence: producer_sequence
                    .is_valid(row)
                    .then(|| producer_sequence.value(row).cast_unsigned()),
            })
        })
        .collect()
}

/// The column, once its type and nulls are known to be as in the schema: what reads it can then not panic.
fn get(batch: &RecordBatch, name: &'static str) -> Result<ArrayRef, ColumnsError> {
    let wrong = |detail| ColumnsError {
        column: name,
        detail,
    };
    let expected = SCHEMA
        .field_with_name(name)
        .map_err(|_| wrong("is unknown"))?;
    let array = match batch.column_by_name(name) {
        Some(array) => Arc::clone(array),
        None if expected.is_nullable() => new_null_array(expected.data_type(), batch.num_rows()),
        None => return Err(wrong("is missing")),
    };
    if !array.data_type().equals_datatype(expected.data_type()) {
        return Err(wrong("has another type"));
    }
    if !expected.is_nullable() && array.null_count() > 0 {
        return Err(wrong("holds nulls"));
    }
    Ok(array)
}

fn text_at(array: &StringArray, row: usize) -> Option<String> {
    array.is_valid(row).then(|| array.value(row).to_owned())
}

fn bytes_at(array: &BinaryArray, row: usize) -> Option<Bytes> {
    // Copied, so that one kept message does not hold its whole batch in memory.
    array
        .is_valid(row)
        .then(|| Bytes::copy_from_slice(array.value(row)))
}

/// Where the values of a list lie in the array of all.
fn places_of(array: &ListArray, row: usize) -> Range<usize> {
    let offsets = array.value_offsets();
    let at = |row| offsets.get(row).and_then(|&at| usize::try_from(at).ok());
    let places = at(row).zip(at(row + 1));
    places.map_or(0..0, |(from, to)| from..to)
}

fn keys_at(array: &ListArray, row: usize) -> Vec<String> {
    let keys = array.values().as_string::<i32>();
    let places = places_of(array, row);
    places.map(|at| keys.value(at).to_owned()).collect()
}

/// The parts of all properties of a batch. Cutting a list of structs out for each row would cost more than all
/// that is read of it.
struct Properties<'a> {
    lists: &'a ListArray,
    key: &'a StringArray,
    text: &'a StringArray,
    binary: &'a BinaryArray,
}

impl<'a> Properties<'a> {
    fn of(lists: &'a ListArray) -> Result<Self, ColumnsError> {
        let all = lists.values().as_struct();
        let part = |name| {
            all.column_by_name(name)
                .ok_or_else(|| wrong("lacks a part"))
        };
        Ok(Self {
            lists,
            key: part("key")?.as_string(),
            text: part("text")?.as_string(),
            binary: part("binary")?.as_binary(),
        })
    }

    fn at(&self, row: usize) -> Result<Vec<Property>, ColumnsError> {
        let property = |at| {
            let value = match (text_at(self.text, at), bytes_at(self.binary, at)) {
                (Some(text), None) => Some(PropertyValue::Text(text)),
                (None, Some(binary)) => Some(PropertyValue::Binary(binary)),
                (None, None) => None,
                (Some(_), Some(_)) => return Err(wrong("has a value that is text and bytes")),
            };
            Ok(Property {
                key: self.key.value(at).to_owned(),
                value,
            })
        };
        places_of(self.lists, row).map(property).collect()
    }
}

fn wrong(detail: &'static str) -> ColumnsError {
    ColumnsError {
        column: "properties",
        detail,
    }
}
