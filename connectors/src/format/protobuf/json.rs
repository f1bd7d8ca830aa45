//! What is nested in a message as JSON text: fields by their name, enums by theirs, bytes as hex, what is not there left out.

use prost_reflect::{DynamicMessage, Kind, MapKey, Value};

use crate::format::fit::{Bad, NESTED_TOO_LARGE, put_json_bytes, put_json_float, put_json_text};

/// Appends a value of a field of this kind, up to about so many bytes in all.
pub(crate) fn json_of(
    value: &Value,
    kind: &Kind,
    out: &mut String,
    bytes_max: usize,
) -> Result<(), Bad> {
    if out.len() > bytes_max {
        return Err(NESTED_TOO_LARGE.into());
    }
    match value {
        Value::Bool(value) => out.push_str(&value.to_string()),
        Value::I32(value) => out.push_str(&value.to_string()),
        Value::I64(value) => out.push_str(&value.to_string()),
        Value::U32(value) => out.push_str(&value.to_string()),
        Value::U64(value) => out.push_str(&value.to_string()),
        Value::F32(value) => put_json_float(out, (*value).into()),
        Value::F64(value) => put_json_float(out, *value),
        Value::String(text) => put_json_text(out, text),
        Value::Bytes(bytes) => put_json_bytes(out, bytes),
        Value::EnumNumber(number) => match kind.as_enum().and_then(|of| of.get_value(*number)) {
            Some(value) => put_json_text(out, value.name()),
            None => out.push_str(&number.to_string()),
        },
        Value::Message(message) => message_json(message, out, bytes_max)?,
        Value::List(values) => {
            out.push('[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                json_of(value, kind, out, bytes_max)?;
            }
            out.push(']');
        }
        Value::Map(entries) => {
            let of = kind
                .as_message()
                .map(|entry| entry.map_entry_value_field().kind());
            // In the order of the keys, because the map has none of its own.
            let mut sorted: Vec<(&MapKey, &Value)> = entries.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (at, (key, value)) in sorted.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                put_json_text(out, &key_text(key));
                out.push(':');
                json_of(value, of.as_ref().unwrap_or(kind), out, bytes_max)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn message_json(message: &DynamicMessage, out: &mut String, bytes_max: usize) -> Result<(), Bad> {
    out.push('{');
    let mut is_first = true;
    for (field, value) in message.fields() {
        if !is_first {
            out.push(',');
        }
        is_first = false;
        put_json_text(out, field.name());
        out.push(':');
        json_of(value, &field.kind(), out, bytes_max)?;
    }
    out.push('}');
    Ok(())
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}
