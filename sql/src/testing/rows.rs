//! Messages as rows: as the log gives them, columns of the envelope, and as files of the cold tier have them, with typed columns in
//! place of bodies.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, Int32Array, Int64Array, ListArray,
    RecordBatch, RecordBatchOptions, StringArray, StructArray, TimestampMillisecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use millpond_proto::message::QueueId;
use millpond_storage::tier::cold::typed::Typed;
use millpond_storage::tier::columns::{Columns as _, ERROR};

use crate::testing::StoredMessage;
use crate::typed::TypedColumns;

/// What a file has of the messages in `envelopes`, as far as `typed` asks for it.
///
/// # Panics
/// When `envelopes` lacks a column that is asked for, or the body.
#[must_use]
pub fn as_in_a_file(envelopes: &RecordBatch, columns: &TypedColumns, typed: &Typed) -> RecordBatch {
    let envelope = |name: &str| {
        let column = envelopes.column_by_name(name);
        Arc::clone(column.expect("the test reads what it asks for"))
    };
    let bodies = envelope("body");
    let projected = columns
        .project(bodies.as_binary())
        .expect("JSON fills the columns");
    let mut reasons = vec![None; bodies.len()];
    for (row, why) in projected.errors {
        reasons[row] = Some(why);
    }
    let names = typed.envelope.iter();
    let mut named: Vec<(String, ArrayRef)> =
        names.map(|name| (name.clone(), envelope(name))).collect();
    named.push((ERROR.to_owned(), Arc::new(StringArray::from(reasons))));
    for (column, array) in columns.columns().iter().zip(&projected.columns) {
        if typed.columns.contains(&column.name) {
            let array = cast(array, &column.stored_type()).expect("it is the wider of the two");
            named.push((column.stored_name(), array));
        }
    }
    RecordBatch::try_from_iter_with_nullable(named.into_iter().map(|(n, a)| (n, a, true)))
        .expect("all columns are of the same messages")
}

/// Messages as envelope columns.
pub(super) fn envelopes(
    queue: QueueId,
    first: u64,
    messages: &[StoredMessage],
    columns: &[&str],
) -> RecordBatch {
    let each = messages.iter();
    let count = messages.len();
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for name in columns {
        let array: ArrayRef = match *name {
            "queue" => Arc::new(Int32Array::from(vec![queue.0.cast_signed(); count])),
            "offset" => Arc::new(Int64Array::from_iter_values(
                (first..).take(count).map(u64::cast_signed),
            )),
            "stored_at" => times(each.clone().map(|m| m.stored_at_ms)),
            "born_at" => times(each.clone().map(|m| m.born_at_ms)),
            "message_id" => Arc::new(StringArray::from_iter_values(
                (first..)
                    .take(count)
                    .map(|offset| format!("{queue}-{offset}")),
            )),
            "key" => Arc::new(
                each.clone()
                    .map(|m| m.key.as_deref())
                    .collect::<BinaryArray>(),
            ),
            "tag" => Arc::new(
                each.clone()
                    .map(|m| m.tag.as_deref())
                    .collect::<StringArray>(),
            ),
            "schema_id" => Arc::new(Int32Array::from(vec![None::<i32>; messages.len()])),
            "keys" => keys(messages),
            "properties" => properties(messages),
            "body" => Arc::new(
                each.clone()
                    .map(|m| m.body.as_deref())
                    .collect::<BinaryArray>(),
            ),
            other => unreachable!("no table column is made of {other}"),
        };
        fields.push(Field::new(*name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .expect("all columns are built from the same messages")
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn keys(messages: &[StoredMessage]) -> ArrayRef {
    let all: StringArray = messages.iter().flat_map(|m| &m.keys).map(Some).collect();
    Arc::new(ListArray::new(
        Arc::new(Field::new("element", DataType::Utf8, false)),
        OffsetBuffer::from_lengths(messages.iter().map(|m| m.keys.len())),
        Arc::new(all),
        None,
    ))
}

fn properties(messages: &[StoredMessage]) -> ArrayRef {
    let all = || messages.iter().flat_map(|m| &m.properties);
    let fields = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("binary", DataType::Binary, true),
    ]);
    let entries = StructArray::new(
        fields.clone(),
        vec![
            Arc::new(all().map(|(key, _)| Some(key)).collect::<StringArray>()),
            Arc::new(all().map(|(_, value)| Some(value)).collect::<StringArray>()),
            Arc::new(all().map(|_| None::<&[u8]>).collect::<BinaryArray>()),
        ],
        None,
    );
    Arc::new(ListArray::new(
        Arc::new(Field::new("element", DataType::Struct(fields), false)),
        OffsetBuffer::from_lengths(messages.iter().map(|m| m.properties.len())),
        Arc::new(entries),
        None,
    ))
}
