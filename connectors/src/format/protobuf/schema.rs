//! A message's descriptor as columns, and which version of it reads what another wrote.

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

    /// Whether messages of `writer` mean the same to this descriptor; or why not.
    pub(crate) fn reads(&self, writer: &Self) -> Result<(), String> {
        for field in self.message.fields() {
            let name = field.name();
            if let Some(before) = writer.message.get_field_by_name(name)
                && before.number() != field.number()
            {
                return Err(format!(
                    "field {name} had the number {} and has {}",
                    before.number(),
                    field.number()
                ));
            }
            match writer.message.get_field(field.number()) {
                None if field.is_required() => {
                    return Err(format!("field {name} is new and required"));
                }
                None => {}
                Some(before) if before.name() != name => {
                    return Err(format!(
                        "number {} was field {} and is field {name}; take a number that was never used",
                        field.number(),
                        before.name()
                    ));
                }
                Some(before) => {
                    let same = before.is_list() == field.is_list()
                        && before.is_map() == field.is_map()
                        && coded(&before.kind()) == coded(&field.kind());
                    if !same {
                        return Err(format!(
                            "field {name} was {} and is {}",
                            word(&before),
                            word(&field)
                        ));
                    }
                }
            }
        }
        Ok(())
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

/// Kinds that are coded alike, and read each other's values.
fn coded(kind: &Kind) -> u8 {
    match kind {
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Bool | Kind::Enum(_) => 0,
        Kind::Sint32 | Kind::Sint64 => 1,
        Kind::Fixed32 | Kind::Sfixed32 => 2,
        Kind::Fixed64 | Kind::Sfixed64 => 3,
        Kind::String | Kind::Bytes => 4,
        Kind::Float => 5,
        Kind::Double => 6,
        Kind::Message(_) => 7,
    }
}

fn word(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(of) => of.full_name().to_owned(),
        plain => format!("{plain:?}").to_lowercase(),
    };
    match field.is_list() {
        true => format!("repeated {kind}"),
        false => kind,
    }
}
