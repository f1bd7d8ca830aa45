//! The message as columns: the one Arrow schema that Parquet files, SQL and outside readers share.
//!
//! **Invariants.** Names, types and field ids are fixed for ever (`FORMAT.md`, Envelope as columns); a
//! later version only adds nullable columns. [`to_batch`] with every column and [`from_batch`] are
//! exact inverses, apart from the topic's id, which is not a column: a file belongs to one topic.
//!
//! Unsigned numbers are stored as the signed ones of the same bits, because Iceberg and most readers know
//! only those. Offsets and counts stay below 2^63, so nobody meets a negative one.

#![deny(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BinaryBuilder, Int32Array,
    Int64Array, ListArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray,
    StringBuilder, StructArray, TimestampMillisecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Field, Fields, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMillisecondType,
};
use bytes::Bytes;
use millpond_proto::message::TopicId;

use crate::format::envelope::{Envelope, Property, PropertyValue};

/// Where the Parquet writer and reader look for a column's field id.
pub(crate) const FIELD_ID: &str = "PARQUET:field_id";

/// Why columns are not messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column} {detail}; the file is damaged or not of this format")]
pub struct ColumnsError {
    /// Which column.
    pub column: &'static str,
    /// What is wrong with it.
    pub detail: &'static str,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        field("queue", DataType::Int32, false, 2),
        field("offset", DataType::Int64, false, 3),
        field("stored_at", time(), false, 4),
        field("born_at", time(), false, 5),
        field("message_id", DataType::Utf8, false, 6),
        field("message_group", DataType::Utf8, true, 7),
        field("key", DataType::Binary, true, 8),
        field("keys", DataType::List(Arc::new(keys_element())), false, 9),
        field("tag", DataType::Utf8, true, 10),
        field(
            "properties",
            DataType::List(Arc::new(properties_element())),
            false,
            11,
        ),
        field("flags", DataType::Int32, false, 12),
        field("schema_id", DataType::Int32, true, 13),
        field("body", DataType::Binary, true, 14),
        field("born_host", DataType::Utf8, false, 15),
        field("trace_context", DataType::Utf8, true, 16),
        field("due_at", time(), true, 17),
        field("priority", DataType::Int32, true, 18),
        field("lite_topic", DataType::Utf8, true, 19),
        field("producer_id", DataType::Utf8, true, 20),
        field("producer_sequence", DataType::Int64, true, 21),
    ]))
});

fn field(name: &str, data_type: DataType, nullable: bool, id: u32) -> Field {
    Field::new(name, data_type, nullable)
        .with_metadata(HashMap::from([(FIELD_ID.to_owned(), id.to_string())]))
}

fn keys_element() -> Field {
    field("element", DataType::Utf8, false, 109)
}

fn properties_element() -> Field {
    field("element", DataType::Struct(property_fields()), false, 111)
}

fn property_fields() -> Fields {
    Fields::from(vec![
        field("key", DataType::Utf8, false, 112),
        field("text", DataType::Utf8, true, 113),
        field("binary", DataType::Binary, true, 114),
    ])
}

/// The columns of a message, each with its Parquet field id.
///
/// `queue: Int32`, `offset: Int64`, `stored_at` and `born_at: Timestamp(ms, UTC)`, `message_id: Utf8`,
/// `message_group: Utf8?`, `key: Binary?`, `keys: List<Utf8>`, `tag: Utf8?`,
/// `properties: List<Struct{key: Utf8, text: Utf8?, binary: Binary?}>`, `flags: Int32`,
/// `schema_id: Int32?`, `body: Binary?`, `born_host: Utf8`, `trace_context: Utf8?`,
/// `due_at: Timestamp(ms, UTC)?`, `priority: Int32?`, `lite_topic: Utf8?`, `producer_id: Utf8?`,
/// `producer_sequence: Int64?`; `?` is nullable.
///
/// Bytes: `storage/FORMAT.md`, Envelope as columns.
#[must_use]
pub fn schema() -> SchemaRef {
    Arc::clone(&SCHEMA)
}

/// The schema cut down to `columns`, in that order.
///
/// # Panics
/// When a name is none of [`schema`]'s: columns are chosen by us, not by the world.
#[must_use]
pub fn projected_schema(columns: &[&str]) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|name| {
            SCHEMA
                .field_with_name(name)
                .expect("columns are named as in the envelope's schema")
                .clone()
        })
        .collect();
    Arc::new(Schema::new(fields))
}

/// Columns of messages, by name and in that order; one row each.
///
/// No columns: a batch without columns that still counts its rows. Text or bytes of one column stay
/// below 2 GiB, which a caller keeps by handing over at most some 16 MiB of messages.
///
/// # Panics
/// When a name is none of [`schema`]'s, or a column outgrows 2 GiB.
#[must_use]
pub fn to_batch(messages: &[Envelope], columns: &[&str]) -> RecordBatch {
    let arrays = columns.iter().map(|name| column(messages, name)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(messages.len()));
    RecordBatch::try_new_with_options(projected_schema(columns), arrays, &options)
        .expect("each column is built from the same messages with its own type")
}

fn column(messages: &[Envelope], name: &str) -> ArrayRef {
    let each = messages.iter();
    match name {
        "queue" => Arc::new(Int32Array::from_iter_values(
            each.map(|m| m.queue.cast_signed()),
        )),
        "offset" => Arc::new(Int64Array::from_iter_values(
            each.map(|m| m.offset.cast_signed()),
        )),
        "stored_at" => Arc::new(
            TimestampMillisecondArray::from_iter_values(each.map(|m| m.stored_at_ms))
                .with_timezone("UTC"),
        ),
        "born_at" => Arc::new(
            TimestampMillisecondArray::from_iter_values(each.map(|m| m.born_at_ms))
                .with_timezone("UTC"),
        ),
        "message_id" => text(each.map(|m| Some(m.message_id.as_str()))),
        "message_group" => text(each.map(|m| m.message_group.as_deref())),
        "key" => binary(each.map(|m| m.key.as_deref())),
        "keys" => keys(messages),
        "tag" => text(each.map(|m| m.tag.as_deref())),
        "properties" => properties(messages),
        "flags" => Arc::new(Int32Array::from_iter_values(
            each.map(|m| m.flags.cast_signed()),
        )),
        "schema_id" => numbers::<Int32Type>(each.map(|m| m.schema_id.map(u32::cast_signed))),
        "body" => binary(each.map(|m| m.body.as_deref())),
        "born_host" => text(each.map(|m| Some(m.born_host.as_str()))),
        "trace_context" => text(each.map(|m| m.trace_context.as_deref())),
        "due_at" => {
            let due = gather_numbers::<TimestampMillisecondType>(each.map(|m| m.due_at_ms));
            Arc::new(due.with_timezone("UTC"))
        }
        "priority" => numbers::<Int32Type>(each.map(|m| m.priority)),
        "lite_topic" => text(each.map(|m| m.lite_topic.as_deref())),
        "producer_id" => text(each.map(|m| m.producer_id.as_deref())),
        "producer_sequence" => {
            numbers::<Int64Type>(each.map(|m| m.producer_sequence.map(u64::cast_signed)))
        }
        _ => unreachable!("columns are named as in the envelope's schema"),
    }
}

/// Numbers as a column; most optional columns hold nothing at all.
fn numbers<T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<T::Native>> + Clone,
) -> ArrayRef {
    Arc::new(gather_numbers::<T>(values))
}

fn gather_numbers<T: ArrowPrimitiveType>(
    values: impl Iterator<Item = Option<T::Native>> + Clone,
) -> PrimitiveArray<T> {
    let rows = values.clone().count();
    if values.clone().all(|value| value.is_none()) {
        return PrimitiveArray::new_null(rows);
    }
    values.collect()
}

/// As [`numbers`], of bytes.
fn binary<'a>(values: impl ExactSizeIterator<Item = Option<&'a [u8]>> + Clone) -> ArrayRef {
    match gather(values) {
        Gathered::Nothing(rows) => Arc::new(BinaryArray::new_null(rows)),
        Gathered::Some { ends, bytes, nulls } => {
            Arc::new(BinaryArray::new(ends, bytes.into(), nulls))
        }
    }
}

/// As [`binary`], of texts.
fn text<'a>(values: impl ExactSizeIterator<Item = Option<&'a str>> + Clone) -> ArrayRef {
    match gather(values.map(|value| value.map(str::as_bytes))) {
        Gathered::Nothing(rows) => Arc::new(StringArray::new_null(rows)),
        Gathered::Some { ends, bytes, nulls } => {
            Arc::new(StringArray::new(ends, bytes.into(), nulls))
        }
    }
}

/// The parts of a column of bytes.
enum Gathered {
    /// So many nulls.
    Nothing(usize),
    Some {
        ends: OffsetBuffer<i32>,
        bytes: Vec<u8>,
        nulls: Option<NullBuffer>,
    },
}

/// Copies values one behind the other, into memory of the right size from the start.
fn gather<'a>(values: impl ExactSizeIterator<Item = Option<&'a [u8]>> + Clone) -> Gathered {
    let rows = values.len();
    let (mut length, mut there) = (0, 0);
    for value in values.clone().flatten() {
        length += value.len();
        there += 1;
    }
    if there == 0 {
        return Gathered::Nothing(rows);
    }
    let mut bytes = Vec::with_capacity(length);
    for value in values.clone().flatten() {
        bytes.extend_from_slice(value);
    }
    let lengths = values.clone().map(|value| value.map_or(0, <[u8]>::len));
    let nulls = (there < rows).then(|| values.map(|value| value.is_some()).collect());
    Gathered::Some {
        ends: OffsetBuffer::from_lengths(lengths),
        bytes,
        nulls,
    }
}

fn keys(messages: &[Envelope]) -> ArrayRef {
    let lengths = OffsetBuffer::from_lengths(messages.iter().map(|m| m.keys.len()));
    let mut all = StringBuilder::new();
    for key in messages.iter().flat_map(|m| &m.keys) {
        all.append_value(key);
    }
    Arc::new(ListArray::new(
        Arc::new(keys_element()),
        lengths,
        Arc::new(all.finish()),
        None,
    ))
}

fn properties(messages: &[Envelope]) -> ArrayRef {
    let lengths = OffsetBuffer::from_lengths(messages.iter().map(|m| m.properties.len()));
    let (mut key, mut text, mut binary) = (
        StringBuilder::new(),
        StringBuilder::new(),
        BinaryBuilder::new(),
    );
    for property in messages.iter().flat_map(|m| &m.properties) {
        key.append_value(&property.key);
        let (as_text, as_binary) = match &property.value {
            Some(PropertyValue::Text(value)) => (Some(value.as_str()), None),
            Some(PropertyValue::Binary(value)) => (None, Some(value.as_ref())),
            None => (None, None),
        };
        text.append_option(as_text);
        binary.append_option(as_binary);
    }
    let all = StructArray::new(
        property_fields(),
        vec![
            Arc::new(key.finish()),
            Arc::new(text.finish()),
            Arc::new(binary.finish()),
        ],
        None::<NullBuffer>,
    );
    Arc::new(ListArray::new(
        Arc::new(properties_element()),
        lengths,
        Arc::new(all),
        None,
    ))
}

/// The messages of a batch that has every column of [`schema`], found by name. A nullable column that a
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

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// Every column's name, in the schema's order.
    pub(crate) fn all_columns() -> Vec<&'static str> {
        SCHEMA.fields().iter().map(|f| f.name().as_str()).collect()
    }

    fn property() -> impl Strategy<Value = Property> {
        let value = prop_oneof![
            ".{0,8}".prop_map(PropertyValue::Text),
            vec(any::<u8>(), 0..8).prop_map(|b| PropertyValue::Binary(b.into())),
        ];
        ("[a-c]{0,2}", option::of(value)).prop_map(|(key, value)| Property { key, value })
    }

    /// Any message of topic 7; queue and offset are any numbers.
    pub(crate) fn envelope() -> impl Strategy<Value = Envelope> {
        let place = (any::<u32>(), any::<u64>(), any::<i64>(), any::<i64>());
        let names = (
            ".{0,8}",
            option::of(".{0,8}"),
            option::of(vec(any::<u8>(), 0..8)),
            vec(".{0,4}", 0..4),
        );
        let rest = (
            option::of(".{0,8}"),
            vec(property(), 0..5),
            any::<u32>(),
            option::of(any::<u32>()),
            option::of(vec(any::<u8>(), 0..64)),
            ".{0,8}",
            option::of(".{0,8}"),
        );
        let kinds = (
            option::of(any::<i64>()),
            option::of(any::<i32>()),
            option::of(".{0,8}"),
            option::of(".{0,8}"),
            option::of(any::<u64>()),
        );
        (place, names, rest, kinds).prop_map(|(place, names, rest, kinds)| Envelope {
            topic: 7,
            queue: place.0,
            offset: place.1,
            stored_at_ms: place.2,
            born_at_ms: place.3,
            message_id: names.0,
            message_group: names.1,
            key: names.2.map(Bytes::from),
            keys: names.3,
            tag: rest.0,
            properties: rest.1,
            flags: rest.2,
            schema_id: rest.3,
            body: rest.4.map(Bytes::from),
            born_host: rest.5,
            trace_context: rest.6,
            due_at_ms: kinds.0,
            priority: kinds.1,
            lite_topic: kinds.2,
            producer_id: kinds.3,
            producer_sequence: kinds.4,
        })
    }

    proptest! {
        #[test]
        fn messages_come_back_from_columns_as_they_went_in(messages in vec(envelope(), 0..20)) {
            let batch = to_batch(&messages, &all_columns());
            prop_assert_eq!(batch.schema(), schema());
            prop_assert_eq!(from_batch(&batch, TopicId(7)).unwrap(), messages);
        }
    }

    #[test]
    fn columns_come_in_the_order_asked_for() {
        let messages = vec![Envelope::default(); 3];
        let batch = to_batch(&messages, &["body", "offset"]);
        assert_eq!(batch.schema(), projected_schema(&["body", "offset"]));
        assert_eq!(batch.num_rows(), 3);
    }

    #[test]
    fn no_columns_still_count_rows() {
        let batch = to_batch(&vec![Envelope::default(); 3], &[]);
        assert_eq!((batch.num_columns(), batch.num_rows()), (0, 3));
    }

    #[test]
    fn field_ids_never_change() {
        let ids: Vec<String> = schema()
            .fields()
            .iter()
            .map(|f| format!("{}={}", f.name(), f.metadata()[FIELD_ID]))
            .collect();
        assert_eq!(
            ids.join(" "),
            "queue=2 offset=3 stored_at=4 born_at=5 message_id=6 message_group=7 key=8 keys=9 tag=10 \
             properties=11 flags=12 schema_id=13 body=14 born_host=15 trace_context=16 \
             due_at=17 priority=18 lite_topic=19 producer_id=20 producer_sequence=21"
        );
    }

    #[test]
    fn a_nullable_column_of_a_later_version_reads_as_nulls() {
        let first: Vec<_> = all_columns()
            .into_iter()
            .filter(|name| *name != "due_at")
            .collect();
        let messages = vec![Envelope::default(); 2];
        let batch = to_batch(&messages, &first);
        assert_eq!(from_batch(&batch, TopicId(0)).unwrap(), messages);
    }

    #[test]
    fn a_missing_column_is_named() {
        let batch = to_batch(&[Envelope::default()], &["queue"]);
        assert_eq!(from_batch(&batch, TopicId(7)).unwrap_err().column, "offset");
    }
}
