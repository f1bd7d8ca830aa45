//! Rows to messages. A NULL is a field that is not there, which a required one may not be.

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMillisecondType, UInt32Type,
};
use bytes::Bytes;
use prost_reflect::prost::{Message as _, encoding};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use crate::format::body::{Format, FormatError};
use crate::format::fit::column_as;
use crate::format::protobuf::schema::{ProtobufSchema, is_nested};

/// Writes rows as messages.
#[derive(Clone, Debug)]
pub(crate) struct ProtobufEncoder {
    schema: ProtobufSchema,
}

impl ProtobufEncoder {
    pub(crate) fn new(schema: ProtobufSchema) -> Self {
        Self { schema }
    }

    pub(crate) fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>, FormatError> {
        let mut columns: Vec<(FieldDescriptor, ArrayRef)> = Vec::with_capacity(rows.num_columns());
        for column in rows.schema().fields() {
            let name = column.name();
            let field = self.schema.message.get_field_by_name(name).ok_or_else(|| {
                refuse(format!(
                    "the message has no field {name}; leave the column out, or add the field to the schema"
                ))
            })?;
            let target = target(&field).ok_or_else(|| {
                refuse(format!(
                    "field {name} is repeated, a map or a message, which SQL reads and does not write; leave it out"
                ))
            })?;
            if let Some(values) = column_as(rows, name, &target)? {
                columns.push((field, values));
            }
        }
        let mut required = self.schema.message.fields();
        let missing = required.find(|field| {
            field.is_required() && !columns.iter().any(|(filled, _)| filled == field)
        });
        if let Some(field) = missing {
            return Err(lacks(&field));
        }
        (0..rows.num_rows())
            .map(|row| {
                let mut zeros = Vec::new();
                let mut message = DynamicMessage::new(self.schema.message.clone());
                for (field, values) in &columns {
                    if values.is_valid(row) {
                        let value = value(field, values, row)?;
                        put_negative_zero(field, &value, &mut zeros);
                        message
                            .try_set_field(field, value)
                            .map_err(|error| refuse(error.to_string()))?;
                    } else if field.is_required() {
                        return Err(lacks(field));
                    }
                }
                let mut body = message.encode_to_vec();
                body.append(&mut zeros);
                Ok(Bytes::from(body))
            })
            .collect()
    }
}

/// A zero that is not the default, though it equals it: the library leaves it out of a field without presence.
fn put_negative_zero(field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) {
    if field.supports_presence() {
        return;
    }
    match value {
        Value::F64(zero) if *zero == 0.0 && zero.is_sign_negative() => {
            encoding::double::encode(field.number(), zero, out);
        }
        Value::F32(zero) if *zero == 0.0 && zero.is_sign_negative() => {
            encoding::float::encode(field.number(), zero, out);
        }
        _ => {}
    }
}

fn lacks(field: &FieldDescriptor) -> FormatError {
    refuse(format!(
        "field {} is required and not filled; fill it",
        field.name()
    ))
}

fn refuse(detail: String) -> FormatError {
    FormatError::Row {
        format: Format::Protobuf,
        detail,
    }
}

fn target(field: &FieldDescriptor) -> Option<DataType> {
    if is_nested(field) {
        return None;
    }
    Some(match field.kind() {
        Kind::Double => DataType::Float64,
        Kind::Float => DataType::Float32,
        Kind::Bool => DataType::Boolean,
        Kind::String | Kind::Enum(_) => DataType::Utf8,
        Kind::Bytes => DataType::Binary,
        Kind::Message(_) => DataType::Timestamp(TimeUnit::Millisecond, None),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => DataType::Int32,
        Kind::Uint32 | Kind::Fixed32 => DataType::UInt32,
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => DataType::Int64,
        Kind::Uint64 | Kind::Fixed64 => DataType::Decimal128(20, 0),
    })
}

fn value(field: &FieldDescriptor, values: &ArrayRef, row: usize) -> Result<Value, FormatError> {
    Ok(match field.kind() {
        Kind::Double => Value::F64(values.as_primitive::<Float64Type>().value(row)),
        Kind::Float => Value::F32(values.as_primitive::<Float32Type>().value(row)),
        Kind::Bool => Value::Bool(values.as_boolean().value(row)),
        Kind::String => Value::String(values.as_string::<i32>().value(row).to_owned()),
        Kind::Bytes => Value::Bytes(Bytes::copy_from_slice(values.as_binary::<i32>().value(row))),
        Kind::Enum(of) => {
            let name = values.as_string::<i32>().value(row);
            let number = match of.get_value_by_name(name) {
                Some(value) => Some(value.number()),
                // As it was read when the number had no name.
                None => name.parse().ok(),
            };
            Value::EnumNumber(number.ok_or_else(|| {
                let known: Vec<String> = of.values().map(|value| value.name().to_owned()).collect();
                refuse(format!(
                    "{name:?} is no value of field {}; write one of {}",
                    field.name(),
                    known.join(", ")
                ))
            })?)
        }
        Kind::Message(message) => {
            let ms = values.as_primitive::<TimestampMillisecondType>().value(row);
            Value::Message(timestamp(message, ms)?)
        }
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(values.as_primitive::<Int32Type>().value(row))
        }
        Kind::Uint32 | Kind::Fixed32 => Value::U32(values.as_primitive::<UInt32Type>().value(row)),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(values.as_primitive::<Int64Type>().value(row))
        }
        Kind::Uint64 | Kind::Fixed64 => {
            let value = values.as_primitive::<Decimal128Type>().value(row);
            Value::U64(u64::try_from(value).map_err(|_| {
                refuse(format!(
                    "{value} does not fit field {}, which is unsigned",
                    field.name()
                ))
            })?)
        }
    })
}

fn timestamp(of: MessageDescriptor, ms: i64) -> Result<DynamicMessage, FormatError> {
    let mut message = DynamicMessage::new(of);
    let nanos = i32::try_from(ms.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    for (name, value) in [
        ("seconds", Value::I64(ms.div_euclid(1_000))),
        ("nanos", Value::I32(nanos)),
    ] {
        let set = message.try_set_field_by_name(name, value);
        set.map_err(|error| refuse(error.to_string()))?;
    }
    Ok(message)
}
