//! Messages to columns.

use std::collections::{BTreeMap, HashMap};

use arrow::array::BinaryArray;
use arrow::error::ArrowError;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind};

use crate::format::body::{Format, FormatError, SchemaVersion};
use crate::format::fit::{Bad, Columns, Datum, fit, nested_text_max, takes};
use crate::format::json::Decoded;
use crate::format::json::column::Slot;
use crate::format::protobuf::json::json_of;
use crate::format::protobuf::schema::{ProtobufSchema, class, is_nested};
use crate::format::protobuf::wire::{Fields, Wire};

/// Reads messages of any version as columns.
#[derive(Clone, Debug)]
pub(crate) struct ProtobufDecoder {
    columns: Columns,
    versions: BTreeMap<u32, Version>,
}

/// One version of the descriptor, as it is read.
#[derive(Clone, Debug)]
struct Version {
    schema: ProtobufSchema,
    /// Columns read from the wire, by the number of their field.
    plain: HashMap<u32, (usize, FieldDescriptor)>,
    /// Columns that are JSON of what is nested.
    nested: Vec<(usize, FieldDescriptor)>,
    /// For each member of a oneof the others that are plain columns, with their numbers: the last one on the wire counts.
    replaced: HashMap<u32, Vec<(usize, u32)>>,
    /// Plain columns whose value is told even when the field is not there.
    implicit: Vec<(usize, Slot<'static>)>,
}

impl ProtobufDecoder {
    pub(crate) fn new(
        schemas: &[SchemaVersion],
        message: &str,
        columns: Columns,
    ) -> Result<Self, FormatError> {
        if schemas.is_empty() {
            return Err(FormatError::NoSchema {
                format: Format::Protobuf,
            });
        }
        let mut versions = BTreeMap::new();
        for SchemaVersion { version, text } in schemas {
            let schema = ProtobufSchema::parse(text, message)?;
            versions.insert(*version, Version::new(schema, &columns)?);
        }
        Ok(Self { columns, versions })
    }

    pub(crate) fn decode(
        &self,
        bodies: &BinaryArray,
        version_of: impl Fn(usize) -> Option<u32>,
    ) -> Result<Decoded, ArrowError> {
        self.columns.decode(bodies, |row, body, slots| {
            let stored = version_of(row);
            let version = match stored {
                Some(version) => self.versions.get(&version),
                None => self.versions.values().next_back(),
            };
            let version = version.ok_or_else(|| {
                let version = stored.unwrap_or_default();
                format!("version {version} of the topic's schema is not known")
            })?;
            self.read(version, body, slots)
        })
    }

    fn read<'a>(
        &self,
        version: &Version,
        body: &'a [u8],
        slots: &mut [Slot<'a>],
    ) -> Result<(), Bad> {
        for (at, value) in &version.implicit {
            if let Some(slot) = slots.get_mut(*at) {
                slot.clone_from(value);
            }
        }
        let mut times: BTreeMap<u32, Time> = BTreeMap::new();
        let mut fields = Fields::of(body);
        while let Some((number, wire)) = fields.next()? {
            for (at, other) in version.replaced.get(&number).into_iter().flatten() {
                times.remove(other);
                if let Some(slot) = slots.get_mut(*at) {
                    *slot = Slot::Null;
                }
            }
            let Some((at, field)) = version.plain.get(&number) else {
                continue;
            };
            let named = |reason: Bad| Bad::Owned(format!("field {}: {reason}", field.name()));
            if let (Some(kind), Some(slot)) = (self.columns.kinds.get(*at), slots.get_mut(*at)) {
                let datum = match (field.kind(), wire) {
                    (Kind::Message(_), Wire::Bytes(bytes)) => {
                        let time = times.entry(number).or_default();
                        time.merge(bytes).and_then(|()| time.datum())
                    }
                    (kind, wire) => datum(&kind, wire),
                };
                let datum = datum.map_err(named)?;
                *slot = fit(kind, datum).map_err(named)?;
            }
        }
        if version.nested.is_empty() {
            return Ok(());
        }
        let message = DynamicMessage::decode(version.schema.message.clone(), body)
            .map_err(|error| error.to_string())?;
        // Also for columns that nobody wants: what is too large must not depend on who asks.
        let mut text_left = nested_text_max(body.len());
        for (at, field) in &version.nested {
            if message.has_field(field)
                && let Some(slot) = slots.get_mut(*at)
            {
                let mut text = String::new();
                json_of(
                    &message.get_field(field),
                    &field.kind(),
                    &mut text,
                    text_left,
                )
                .map_err(|reason| format!("field {}: {reason}", field.name()))?;
                text_left = text_left.saturating_sub(text.len());
                *slot = Slot::Text(text.into());
            }
        }
        Ok(())
    }
}

impl Version {
    fn new(schema: ProtobufSchema, columns: &Columns) -> Result<Self, FormatError> {
        let mut version = Self {
            plain: HashMap::new(),
            nested: Vec::new(),
            implicit: Vec::new(),
            replaced: HashMap::new(),
            schema,
        };
        for (at, kind) in columns.kinds.iter().enumerate() {
            let Some(field) = version.schema.message.get_field_by_name(columns.name(at)) else {
                continue;
            };
            let class = class(&field);
            if !takes(kind, class) {
                return Err(FormatError::Column {
                    format: Format::Protobuf,
                    column: columns.name(at).to_owned(),
                    detail: format!(
                        "its field has {}, which a column of {} does not take; declare another type",
                        class.name(),
                        kind.name()
                    ),
                });
            }
            if is_nested(&field) {
                version.nested.push((at, field));
                continue;
            }
            if !field.supports_presence()
                && let Some(Ok(value)) = absent(&field.kind()).map(|datum| fit(kind, datum))
            {
                version.implicit.push((at, value));
            }
            if let Some(oneof) = field.containing_oneof() {
                for member in oneof.fields().filter(|member| *member != field) {
                    let replaced = version.replaced.entry(member.number()).or_default();
                    replaced.push((at, field.number()));
                }
            }
            version.plain.insert(field.number(), (at, field));
        }
        Ok(version)
    }
}

/// What a field without presence says when it is not there.
fn absent(kind: &Kind) -> Option<Datum<'static>> {
    Some(match kind {
        Kind::Double | Kind::Float => Datum::Float(0.0),
        Kind::Bool => Datum::Boolean(false),
        Kind::String => Datum::Text("".into()),
        Kind::Bytes => Datum::Bytes(Vec::new().into()),
        Kind::Enum(of) => Datum::Text(of.default_value().name().to_owned().into()),
        Kind::Uint64 | Kind::Fixed64 => Datum::Decimal(0, 0),
        Kind::Message(_) => return None,
        _ => Datum::Integer(0),
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "32-bit numbers keep their low half, as the encoding says"
)]
fn datum<'a>(kind: &Kind, wire: Wire<'a>) -> Result<Datum<'a>, Bad> {
    let zigzag = |value: u64| (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
    Ok(match (kind, wire) {
        (Kind::Double, Wire::Fixed64(bytes)) => Datum::Float(f64::from_le_bytes(bytes)),
        (Kind::Float, Wire::Fixed32(bytes)) => Datum::Float(f32::from_le_bytes(bytes).into()),
        (Kind::Int32, Wire::Varint(value)) => Datum::Integer((value as i32).into()),
        (Kind::Int64, Wire::Varint(value)) => Datum::Integer(value.cast_signed()),
        (Kind::Uint32, Wire::Varint(value)) => Datum::Integer((value as u32).into()),
        (Kind::Uint64, Wire::Varint(value)) => Datum::Decimal(value.into(), 0),
        (Kind::Sint32, Wire::Varint(value)) => Datum::Integer((zigzag(value) as i32).into()),
        (Kind::Sint64, Wire::Varint(value)) => Datum::Integer(zigzag(value)),
        (Kind::Fixed32, Wire::Fixed32(bytes)) => Datum::Integer(u32::from_le_bytes(bytes).into()),
        (Kind::Fixed64, Wire::Fixed64(bytes)) => {
            Datum::Decimal(u64::from_le_bytes(bytes).into(), 0)
        }
        (Kind::Sfixed32, Wire::Fixed32(bytes)) => Datum::Integer(i32::from_le_bytes(bytes).into()),
        (Kind::Sfixed64, Wire::Fixed64(bytes)) => Datum::Integer(i64::from_le_bytes(bytes)),
        (Kind::Bool, Wire::Varint(value)) => Datum::Boolean(value != 0),
        (Kind::String, Wire::Bytes(bytes)) => {
            let text = std::str::from_utf8(bytes).map_err(|_| "the text is not UTF-8")?;
            Datum::Text(text.into())
        }
        (Kind::Bytes, Wire::Bytes(bytes)) => Datum::Bytes(bytes.into()),
        (Kind::Enum(of), Wire::Varint(value)) => {
            let number = value as i32;
            Datum::Text(match of.get_value(number) {
                Some(value) => value.name().to_owned().into(),
                None => number.to_string().into(),
            })
        }
        (kind, _) => {
            return Err(format!("the wire has another type than {kind:?}").into());
        }
    })
}

/// Seconds and nanoseconds since 1970, which may come in parts: a message that stands there twice is merged.
#[derive(Default)]
struct Time {
    seconds: i64,
    nanos: i32,
}

impl Time {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "32-bit numbers keep their low half, as the encoding says"
    )]
    fn merge(&mut self, message: &[u8]) -> Result<(), Bad> {
        let mut fields = Fields::of(message);
        while let Some((number, wire)) = fields.next()? {
            match (number, wire) {
                (1, Wire::Varint(value)) => self.seconds = value.cast_signed(),
                (2, Wire::Varint(value)) => self.nanos = value as i32,
                _ => {}
            }
        }
        Ok(())
    }

    fn datum(&self) -> Result<Datum<'static>, Bad> {
        let ms = self
            .seconds
            .checked_mul(1_000)
            .and_then(|ms| ms.checked_add(self.nanos.div_euclid(1_000_000).into()));
        ms.map(Datum::Timestamp)
            .ok_or_else(|| "the time is too far from 1970".into())
    }
}
