//! Which version of a message reads what another wrote: fields keep their numbers, names and codes, in messages within messages as well.
//!
//! **Invariant.** Each pair of messages is compared once, so it ends where messages hold themselves.

use std::collections::BTreeSet;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::format::protobuf::TIMESTAMP;
use crate::format::protobuf::schema::ProtobufSchema;

/// Two messages that are still to be compared, and what leads to their fields.
struct Pair {
    reader: MessageDescriptor,
    writer: MessageDescriptor,
    path: String,
}

impl ProtobufSchema {
    /// Whether messages of `writer` mean the same to this descriptor; or why not.
    pub(crate) fn reads(&self, writer: &Self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        let mut left = vec![Pair {
            reader: self.message.clone(),
            writer: writer.message.clone(),
            path: String::new(),
        }];
        while let Some(pair) = left.pop() {
            let names = (pair.reader.full_name(), pair.writer.full_name());
            if !seen.insert((names.0.to_owned(), names.1.to_owned())) {
                continue;
            }
            for field in pair.reader.fields() {
                left.extend(compared(&pair, &field)?);
            }
        }
        Ok(())
    }
}

/// Compares a field with what it was; answers the messages that are its values.
fn compared(pair: &Pair, field: &FieldDescriptor) -> Result<Option<Pair>, String> {
    let name = format!("{}{}", pair.path, field.name());
    if let Some(before) = pair.writer.get_field_by_name(field.name())
        && before.number() != field.number()
    {
        return Err(format!(
            "field {name} had the number {} and has {}",
            before.number(),
            field.number()
        ));
    }
    let before = match pair.writer.get_field(field.number()) {
        None if field.is_required() => {
            return Err(format!("field {name} is new and required"));
        }
        None => return Ok(None),
        Some(before) => before,
    };
    if before.name() != field.name() {
        return Err(format!(
            "number {} was field {}{} and is field {name}; take a number that was never used",
            field.number(),
            pair.path,
            before.name()
        ));
    }
    let same = before.is_list() == field.is_list()
        && before.is_map() == field.is_map()
        && coded(&before.kind()) == coded(&field.kind());
    if !same {
        return Err(format!(
            "field {name} was {} and is {}",
            word(&before),
            word(field)
        ));
    }
    match (field.kind(), before.kind()) {
        (Kind::Message(reader), Kind::Message(writer)) => Ok(Some(Pair {
            reader,
            writer,
            path: format!("{name}."),
        })),
        _ => Ok(None),
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
        Kind::Message(message) if message.full_name() == TIMESTAMP => 7,
        Kind::Message(_) => 8,
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
