//! From messages to columns, some messages at a time.
//!
//! Messages lie scattered in memory, and fetching one costs more than anything that is done with it here. So all columns
//! take what they need of a few messages ([`AT_ONCE`]) before they go on to the next. Most optional columns hold
//! nothing at all: such a one counts its rows and is made only once a value comes.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, ArrowPrimitiveType, BinaryBuilder, GenericByteArray, GenericByteBuilder,
    Int32Array, Int64Array, ListArray, PrimitiveArray, PrimitiveBuilder, RecordBatch,
    RecordBatchOptions, StringBuilder, StructArray, TimestampMillisecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    BinaryType, ByteArrayType, Int32Type, Int64Type, SchemaRef, TimestampMillisecondType, Utf8Type,
};

use crate::format::columns::{keys_element, projected_schema, properties_element, property_fields};
use crate::format::envelope::{Envelope, Property, PropertyValue};

/// Messages that all columns take from before they go on: they stay in the nearest cache meanwhile.
pub(crate) const AT_ONCE: usize = 16;

/// Columns that grow.
pub(crate) struct Gather {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
}

impl Gather {
    /// No rows yet, of `columns` in that order.
    ///
    /// # Panics
    /// When a name is none of the schema's.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            schema: projected_schema(columns),
            columns: columns.iter().map(|name| Column::named(name)).collect(),
            rows: 0,
        }
    }

    /// Adds a row for each message: best [`AT_ONCE`].
    pub(crate) fn add(&mut self, messages: &[Envelope]) {
        self.rows += messages.len();
        for column in &mut self.columns {
            column.add(messages);
        }
    }

    /// The rows that were added since the last time.
    ///
    /// # Panics
    /// When a column outgrew 2 GiB.
    pub(crate) fn finish(&mut self) -> RecordBatch {
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .expect("each column is built from the same messages with its own type")
    }
}

/// A column of the envelope.
enum Column {
    Queue(Vec<i32>),
    Offset(Vec<i64>),
    StoredAt(Vec<i64>),
    BornAt(Vec<i64>),
    MessageId(Texts),
    MessageGroup(Texts),
    Key(Blobs),
    Keys(Keys),
    Tag(Texts),
    Properties(Box<Properties>),
    Flags(Vec<i32>),
    SchemaId(Numbers<Int32Type>),
    Body(Blobs),
    BornHost(Texts),
    TraceContext(Texts),
    DueAt(Numbers<TimestampMillisecondType>),
    Priority(Numbers<Int32Type>),
    LiteTopic(Texts),
    ProducerId(Texts),
    ProducerSequence(Numbers<Int64Type>),
}

impl Column {
    fn named(name: &str) -> Self {
        match name {
            "queue" => Self::Queue(Vec::new()),
            "offset" => Self::Offset(Vec::new()),
            "stored_at" => Self::StoredAt(Vec::new()),
            "born_at" => Self::BornAt(Vec::new()),
            "message_id" => Self::MessageId(Texts::default()),
            "message_group" => Self::MessageGroup(Texts::default()),
            "key" => Self::Key(Blobs::default()),
            "keys" => Self::Keys(Keys::default()),
            "tag" => Self::Tag(Texts::default()),
            "properties" => Self::Properties(Box::default()),
            "flags" => Self::Flags(Vec::new()),
            "schema_id" => Self::SchemaId(Numbers::default()),
            "body" => Self::Body(Blobs::default()),
            "born_host" => Self::BornHost(Texts::default()),
            "trace_context" => Self::TraceContext(Texts::default()),
            "due_at" => Self::DueAt(Numbers::default()),
            "priority" => Self::Priority(Numbers::default()),
            "lite_topic" => Self::LiteTopic(Texts::default()),
            "producer_id" => Self::ProducerId(Texts::default()),
            "producer_sequence" => Self::ProducerSequence(Numbers::default()),
            _ => unreachable!("columns are named as in the envelope's schema"),
        }
    }

    fn add(&mut self, messages: &[Envelope]) {
        let each = messages.iter();
        match self {
            Self::Queue(values) => values.extend(each.map(|m| m.queue.cast_signed())),
            Self::Offset(values) => values.extend(each.map(|m| m.offset.cast_signed())),
            Self::StoredAt(values) => values.extend(each.map(|m| m.stored_at_ms)),
            Self::BornAt(values) => values.extend(each.map(|m| m.born_at_ms)),
            Self::MessageId(texts) => texts.add(each.map(|m| Some(m.message_id.as_str()))),
            Self::MessageGroup(texts) => texts.add(each.map(|m| m.message_group.as_deref())),
            Self::Key(blobs) => blobs.add(each.map(|m| m.key.as_deref())),
            Self::Keys(keys) => each.for_each(|m| keys.add(&m.keys)),
            Self::Tag(texts) => texts.add(each.map(|m| m.tag.as_deref())),
            Self::Properties(all) => each.for_each(|m| all.add(&m.properties)),
            Self::Flags(values) => values.extend(each.map(|m| m.flags.cast_signed())),
            Self::SchemaId(numbers) => numbers.add(each.map(|m| m.schema_id.map(u32::cast_signed))),
            Self::Body(blobs) => blobs.add(each.map(|m| m.body.as_deref())),
            Self::BornHost(texts) => texts.add(each.map(|m| Some(m.born_host.as_str()))),
            Self::TraceContext(texts) => texts.add(each.map(|m| m.trace_context.as_deref())),
            Self::DueAt(numbers) => numbers.add(each.map(|m| m.due_at_ms)),
            Self::Priority(numbers) => numbers.add(each.map(|m| m.priority)),
            Self::LiteTopic(texts) => texts.add(each.map(|m| m.lite_topic.as_deref())),
            Self::ProducerId(texts) => texts.add(each.map(|m| m.producer_id.as_deref())),
            Self::ProducerSequence(numbers) => {
                numbers.add(each.map(|m| m.producer_sequence.map(u64::cast_signed)));
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Queue(values) | Self::Flags(values) => Arc::new(Int32Array::from(taken(values))),
            Self::Offset(values) => Arc::new(Int64Array::from(taken(values))),
            Self::StoredAt(values) | Self::BornAt(values) => {
                let times = TimestampMillisecondArray::from(taken(values));
                Arc::new(times.with_timezone("UTC"))
            }
            Self::MessageId(texts)
            | Self::MessageGroup(texts)
            | Self::Tag(texts)
            | Self::BornHost(texts)
            | Self::TraceContext(texts)
            | Self::LiteTopic(texts)
            | Self::ProducerId(texts) => Arc::new(texts.finish()),
            Self::Key(blobs) | Self::Body(blobs) => Arc::new(blobs.finish()),
            Self::Keys(keys) => Arc::new(keys.finish()),
            Self::Properties(properties) => Arc::new(properties.finish()),
            Self::SchemaId(numbers) | Self::Priority(numbers) => Arc::new(numbers.finish()),
            Self::DueAt(numbers) => Arc::new(numbers.finish().with_timezone("UTC")),
            Self::ProducerSequence(numbers) => Arc::new(numbers.finish()),
        }
    }
}

/// Takes the values, and leaves room for as many.
fn taken<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len());
    std::mem::replace(values, room)
}

type Texts = Values<Utf8Type>;
type Blobs = Values<BinaryType>;

/// Texts or bytes; nothing but a count until the first one that is there.
struct Values<T: ByteArrayType> {
    missing: usize,
    builder: Option<GenericByteBuilder<T>>,
    /// Rows and bytes of the batch before.
    before: (usize, usize),
}

impl<T: ByteArrayType> Default for Values<T> {
    fn default() -> Self {
        Self {
            missing: 0,
            builder: None,
            before: (0, 0),
        }
    }
}

impl<T: ByteArrayType> Values<T> {
    fn add<'a>(&mut self, values: impl Iterator<Item = Option<&'a T::Native>>)
    where
        T::Native: 'a,
    {
        for value in values {
            match (value, &mut self.builder) {
                (value, Some(builder)) => builder.append_option(value),
                (None, None) => self.missing += 1,
                (Some(value), None) => {
                    let (rows, bytes) = self.before;
                    let mut builder = GenericByteBuilder::with_capacity(rows, bytes);
                    for _ in 0..std::mem::take(&mut self.missing) {
                        builder.append_null();
                    }
                    builder.append_value(value);
                    self.builder = Some(builder);
                }
            }
        }
    }

    fn finish(&mut self) -> GenericByteArray<T> {
        match self.builder.take() {
            Some(mut builder) => {
                let array = builder.finish();
                self.before = (array.len(), array.value_data().len());
                array
            }
            None => GenericByteArray::new_null(std::mem::take(&mut self.missing)),
        }
    }
}

/// Numbers that may be missing; nothing but a count until the first one that is there.
struct Numbers<T: ArrowPrimitiveType> {
    missing: usize,
    builder: Option<PrimitiveBuilder<T>>,
}

impl<T: ArrowPrimitiveType> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            missing: 0,
            builder: None,
        }
    }
}

impl<T: ArrowPrimitiveType> Numbers<T> {
    fn add(&mut self, values: impl Iterator<Item = Option<T::Native>>) {
        for value in values {
            match (value, &mut self.builder) {
                (value, Some(builder)) => builder.append_option(value),
                (None, None) => self.missing += 1,
                (Some(value), None) => {
                    let mut builder = PrimitiveBuilder::new();
                    builder.append_nulls(std::mem::take(&mut self.missing));
                    builder.append_value(value);
                    self.builder = Some(builder);
                }
            }
        }
    }

    fn finish(&mut self) -> PrimitiveArray<T> {
        match self.builder.take() {
            Some(mut builder) => builder.finish(),
            None => PrimitiveArray::new_null(std::mem::take(&mut self.missing)),
        }
    }
}

/// Where the list of each row ends in the values of all.
#[derive(Default)]
struct Ends(Vec<i32>);

impl Ends {
    fn add(&mut self, end: usize) {
        let end = i32::try_from(end).expect("lists of a batch hold less than 2^31 values");
        self.0.push(end);
    }

    fn finish(&mut self) -> OffsetBuffer<i32> {
        let mut ends = Vec::with_capacity(self.0.len() + 1);
        ends.push(0);
        ends.append(&mut self.0);
        OffsetBuffer::new(ScalarBuffer::from(ends))
    }
}

/// Look-up keys.
#[derive(Default)]
struct Keys {
    ends: Ends,
    keys: StringBuilder,
}

impl Keys {
    fn add(&mut self, keys: &[String]) {
        for key in keys {
            self.keys.append_value(key);
        }
        self.ends.add(arrow::array::ArrayBuilder::len(&self.keys));
    }

    fn finish(&mut self) -> ListArray {
        let keys = Arc::new(self.keys.finish());
        ListArray::new(Arc::new(keys_element()), self.ends.finish(), keys, None)
    }
}

/// User properties.
#[derive(Default)]
struct Properties {
    ends: Ends,
    key: StringBuilder,
    text: StringBuilder,
    binary: BinaryBuilder,
}

impl Properties {
    fn add(&mut self, properties: &[Property]) {
        for property in properties {
            self.key.append_value(&property.key);
            let (text, binary) = match &property.value {
                Some(PropertyValue::Text(value)) => (Some(value.as_str()), None),
                Some(PropertyValue::Binary(value)) => (None, Some(value.as_ref())),
                None => (None, None),
            };
            self.text.append_option(text);
            self.binary.append_option(binary);
        }
        self.ends.add(arrow::array::ArrayBuilder::len(&self.key));
    }

    fn finish(&mut self) -> ListArray {
        let all = StructArray::new(
            property_fields(),
            vec![
                Arc::new(self.key.finish()),
                Arc::new(self.text.finish()),
                Arc::new(self.binary.finish()),
            ],
            None::<NullBuffer>,
        );
        let element = Arc::new(properties_element());
        ListArray::new(element, self.ends.finish(), Arc::new(all), None)
    }
}
