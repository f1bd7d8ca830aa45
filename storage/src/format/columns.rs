//! The message as columns: the one Arrow schema that Parquet files, SQL and outside readers share.
//!
//! **Invariants.** Names, types and field ids are fixed for ever (`FORMAT.md`, Envelope as columns); a
//! later version only adds nullable columns. [`to_batch`] with every column and [`from_batch`] are
//! exact inverses, apart from the topic's id, which is not a column: a file belongs to one topic.
//!
//! Unsigned numbers are stored as the signed ones of the same bits, because Iceberg and most readers know
//! only those. Offsets and counts stay below 2^63, so nobody meets a negative one.
//!
//! Reading order: this file (the schema), `gather` (from messages to columns), `messages` (and back).

#![deny(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::format::columns::gather::Gather;
pub use crate::format::columns::messages::from_batch;
use crate::format::envelope::Envelope;

pub(crate) mod gather;
mod messages;

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
    let mut gather = Gather::new(columns);
    for some in messages.chunks(gather::AT_ONCE) {
        gather.add(some);
    }
    gather.finish()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use bytes::Bytes;
    use millpond_proto::message::TopicId;

    use super::*;
    use crate::format::envelope::{Property, PropertyValue};

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
