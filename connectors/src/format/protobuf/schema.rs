//! A message's descriptor as columns.

use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::format::body::{Format, FormatError, SchemaColumn};
use crate::format::fit::Class;
use crate::format::protobuf::TIMESTAMP;

/// The message that bodies are.
#[derive(Clone, Debug)]
pub(crate) struct ProtobufSchema {
    pub(crate) message: MessageDescriptor,
}

impl ProtobufSchema {
    /// Reads a descriptor set; `message` may be empty when it has one message that no other file uses.
    pub(crate) fn parse(set: &[u8], message: &str) -> Result<Self, FormatError> {
        let wrong = |detail: String| FormatError::Schema {
            format: Format::Protobuf,
            detail,
        };
        let pool = DescriptorPool::decode(set).map_err(|error| {
            wrong(format!(
                "{error}; give what protoc --include_imports --descriptor_set_out writes"
            ))
        })?;
        if !message.is_empty() {
            let found = pool.get_message_by_name(message);
            let found = found.ok_or_else(|| {
                let known: Vec<String> = top_messages(&pool).collect();
                wrong(format!(
                    "it has no message {message}, but {}",
                    known.join(", ")
                ))
            })?;
            return Ok(Self { message: found });
        }
        let mut names = top_messages(&pool);
        match (names.next(), names.next()) {
            (Some(only), None) => {
                let found = pool.get_message_by_name(&only);
                let found = found.ok_or_else(|| wrong(format!("it has no message {only}")))?;
                Ok(Self { message: found })
            }
            (None, _) => Err(wrong("it has no message".to_owned())),
            (Some(first), Some(second)) => Err(wrong(format!(
                "it has several messages, such as {first} and {second}; choose one with message = '{first}'"
            ))),
        }
    }

    pub(crate) fn columns(&self) -> Vec<SchemaColumn> {
        let fields = self.message.fields();
        fields
            .map(|field| SchemaColumn {
                name: field.name().to_owned(),
                sql_type: sql_type(&field).to_owned(),
            })
            .collect()
    }
}

/// Messages that no other file of the set needs: those of the last file.
fn top_messages(pool: &DescriptorPool) -> impl Iterator<Item = String> + use<> {
    // Imports come before what imports them.
    let last = pool.files().last();
    let messages = last.map(|file| {
        let messages = file.messages();
        messages
            .map(|message| message.full_name().to_owned())
            .collect::<Vec<_>>()
    });
    messages.unwrap_or_default().into_iter()
}

/// Whether a field is read as JSON text.
pub(crate) fn is_nested(field: &FieldDescriptor) -> bool {
    if field.is_list() || field.is_map() {
        return true;
    }
    match field.kind() {
        Kind::Message(message) => message.full_name() != TIMESTAMP,
        _ => false,
    }
}

/// What values a field has.
pub(crate) fn class(field: &FieldDescriptor) -> Class {
    if is_nested(field) {
        return Class::Text;
    }
    match field.kind() {
        Kind::Double | Kind::Float => Class::Float,
        Kind::Bool => Class::Boolean,
        Kind::String | Kind::Enum(_) => Class::Text,
        Kind::Bytes => Class::Bytes,
        Kind::Message(_) => Class::Timestamp,
        Kind::Uint64 | Kind::Fixed64 => Class::Decimal,
        Kind::Int32
        | Kind::Int64
        | Kind::Uint32
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Fixed32
        | Kind::Sfixed32
        | Kind::Sfixed64 => Class::Integer,
    }
}

fn sql_type(field: &FieldDescriptor) -> &'static str {
    if is_nested(field) {
        return "VARCHAR";
    }
    match field.kind() {
        Kind::Double => "DOUBLE",
        Kind::Float => "FLOAT",
        Kind::Bool => "BOOLEAN",
        Kind::String | Kind::Enum(_) => "VARCHAR",
        Kind::Bytes => "BYTES",
        Kind::Message(_) => "TIMESTAMP",
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "INT",
        Kind::Uint64 | Kind::Fixed64 => "DECIMAL(20, 0)",
        Kind::Int64 | Kind::Uint32 | Kind::Sint64 | Kind::Fixed32 | Kind::Sfixed64 => "BIGINT",
    }
}
