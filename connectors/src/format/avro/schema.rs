//! An Avro schema as shapes: what stands in a datum, in which order.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Schema};
use arrow_avro::schema::{AvroSchema as Canonical, Fingerprint, FingerprintAlgorithm};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::format::avro::DEPTH_MAX;
use crate::format::body::{Format, FormatError, SchemaColumn};
use crate::format::fit::Class;

/// What a value looks like.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Date,
    /// A long that counts so many units a second since 1970.
    Timestamp(i64),
    /// Precision and scale; the size when it is fixed.
    Decimal(u8, i8, Option<usize>),
    Array(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    /// A record, an enum or fixed bytes, by its place among the named ones.
    Named(usize),
}

/// What has a name in a schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Named {
    Record(Vec<AvroField>),
    /// Symbols, and the one that stands for those unknown.
    Enum(Vec<String>, Option<String>),
    Fixed(usize),
    /// Its own definition is still being read.
    Open,
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AvroField {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) default: Option<Value>,
}

/// A schema whose datums are records.
#[derive(Clone, Debug)]
pub(crate) struct AvroSchema {
    pub(crate) named: Vec<Named>,
    pub(crate) names: Vec<String>,
    pub(crate) root: usize,
    pub(crate) fingerprint: u64,
}

impl AvroSchema {
    /// Reads the JSON text of a schema.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, FormatError> {
        let wrong = |detail: String| FormatError::Schema {
            format: Format::Avro,
            detail,
        };
        let text = std::str::from_utf8(text).map_err(|error| wrong(error.to_string()))?;
        let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut parser = Parser::default();
        let shape = parser.shape(&value, "", 0).map_err(wrong)?;
        let Shape::Named(root) = shape else {
            return Err(wrong(
                "a message is a record; wrap the type in one".to_owned(),
            ));
        };
        if !matches!(parser.named.get(root), Some(Named::Record(_))) {
            return Err(wrong(
                "a message is a record; wrap the type in one".to_owned(),
            ));
        }
        let fingerprint = Canonical::new(text.to_owned())
            .fingerprint(FingerprintAlgorithm::Rabin)
            .map_err(|error| wrong(error.to_string()))?;
        let Fingerprint::Rabin(fingerprint) = fingerprint else {
            return Err(wrong("it has no fingerprint".to_owned()));
        };
        Ok(Self {
            named: parser.named,
            names: parser.full_names,
            root,
            fingerprint,
        })
    }

    /// The fields of a message.
    pub(crate) fn fields(&self) -> &[AvroField] {
        match self.named.get(self.root) {
            Some(Named::Record(fields)) => fields,
            _ => &[],
        }
    }

    pub(crate) fn named(&self, at: usize) -> &Named {
        self.named.get(at).unwrap_or(&Named::Open)
    }

    /// What values a shape has; what is nested is JSON text.
    pub(crate) fn class(&self, shape: &Shape) -> Class {
        match shape {
            Shape::Null => Class::Null,
            Shape::Boolean => Class::Boolean,
            Shape::Int | Shape::Long => Class::Integer,
            Shape::Float | Shape::Double => Class::Float,
            Shape::Bytes => Class::Bytes,
            Shape::Date => Class::Date,
            Shape::Timestamp(_) => Class::Timestamp,
            Shape::Decimal(..) => Class::Decimal,
            Shape::Text | Shape::Array(_) | Shape::Map(_) => Class::Text,
            Shape::Union(shapes) => match one_of(shapes) {
                Some(shape) => self.class(shape),
                None if shapes.iter().all(|shape| *shape == Shape::Null) => Class::Null,
                None => Class::Text,
            },
            Shape::Named(at) => match self.named(*at) {
                Named::Fixed(_) => Class::Bytes,
                _ => Class::Text,
            },
        }
    }

    /// The columns that its fields make.
    pub(crate) fn columns(&self) -> Vec<SchemaColumn> {
        let fields = self.fields().iter();
        fields
            .map(|field| SchemaColumn {
                name: field.name.clone(),
                sql_type: self.sql_type(&field.shape),
            })
            .collect()
    }

    fn sql_type(&self, shape: &Shape) -> String {
        let shape = match shape {
            Shape::Union(shapes) => one_of(shapes).unwrap_or(shape),
            shape => shape,
        };
        match shape {
            Shape::Int => "INT".to_owned(),
            Shape::Float => "FLOAT".to_owned(),
            Shape::Decimal(precision, scale, _) => format!("DECIMAL({precision}, {scale})"),
            shape => match self.class(shape) {
                Class::Null | Class::Text | Class::Decimal => "VARCHAR",
                Class::Boolean => "BOOLEAN",
                Class::Integer => "BIGINT",
                Class::Float => "DOUBLE",
                Class::Timestamp => "TIMESTAMP",
                Class::Date => "DATE",
                Class::Bytes => "BYTES",
            }
            .to_owned(),
        }
    }

    /// A schema of these columns; see [`crate::format::body::avro_of`].
    pub(crate) fn text_of(topic: &str, columns: &Schema) -> Bytes {
        let fields: Vec<Value> = columns
            .fields()
            .iter()
            .map(|field| {
                let of = match field.data_type() {
                    DataType::Boolean => json!("boolean"),
                    DataType::Int8 | DataType::Int16 | DataType::Int32 => json!("int"),
                    DataType::Int64 => json!("long"),
                    DataType::Float32 => json!("float"),
                    DataType::Float64 => json!("double"),
                    DataType::Binary => json!("bytes"),
                    DataType::Date32 => json!({"type": "int", "logicalType": "date"}),
                    DataType::Timestamp(_, _) => {
                        json!({"type": "long", "logicalType": "timestamp-millis"})
                    }
                    DataType::Decimal128(precision, scale) => json!({
                        "type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale,
                    }),
                    _ => json!("string"),
                };
                json!({"name": field.name(), "type": ["null", of], "default": null})
            })
            .collect();
        let takes = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut name: String = topic
            .chars()
            .map(|c| if takes(c) { c } else { '_' })
            .collect();
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert(0, '_');
        }
        let schema = json!({"type": "record", "name": name, "fields": fields});
        Bytes::from(schema.to_string())
    }
}

/// The one shape of a union that is not null, if there is one.
pub(crate) fn one_of(shapes: &[Shape]) -> Option<&Shape> {
    let mut others = shapes.iter().filter(|shape| **shape != Shape::Null);
    others.next().filter(|_| others.next().is_none())
}

/// Reads a schema's JSON.
#[derive(Default)]
struct Parser {
    named: Vec<Named>,
    full_names: Vec<String>,
    /// What each name stands for.
    shapes: HashMap<String, Shape>,
}

impl Parser {
    fn shape(&mut self, value: &Value, space: &str, depth: usize) -> Result<Shape, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
        }
        match value {
            Value::String(name) => self.reference(name, space),
            Value::Array(shapes) => {
                let shapes: Vec<Shape> = shapes
                    .iter()
                    .map(|shape| self.shape(shape, space, depth + 1))
                    .collect::<Result<_, _>>()?;
                if shapes.iter().any(|shape| matches!(shape, Shape::Union(_))) {
                    return Err("a union stands directly in a union".to_owned());
                }
                Ok(Shape::Union(shapes))
            }
            Value::Object(object) => self.complex(object, space, depth),
            other => Err(format!("{other} is no type")),
        }
    }

    fn reference(&self, name: &str, space: &str) -> Result<Shape, String> {
        Ok(match name {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "int" => Shape::Int,
            "long" => Shape::Long,
            "float" => Shape::Float,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            "string" => Shape::Text,
            name => {
                let names = [full_name(name, space), name.to_owned()];
                let mut found = names.iter().filter_map(|name| self.shapes.get(name));
                let shape = found.next();
                shape
                    .cloned()
                    .ok_or_else(|| format!("type {name} is not known"))?
            }
        })
    }

    fn complex(
        &mut self,
        object: &Map<String, Value>,
        space: &str,
        depth: usize,
    ) -> Result<Shape, String> {
        let of = object.get("type").ok_or("a type lacks the word type")?;
        let inner = |word: &str| {
            object
                .get(word)
                .ok_or_else(|| format!("an {of} lacks {word}"))
        };
        match of.as_str() {
            Some("array") => {
                let items = self.shape(inner("items")?, space, depth + 1)?;
                Ok(Shape::Array(Box::new(items)))
            }
            Some("map") => {
                let values = self.shape(inner("values")?, space, depth + 1)?;
                Ok(Shape::Map(Box::new(values)))
            }
            Some("record" | "error") => {
                let (at, space) = self.open(object, space)?;
                let fields = inner("fields")?.as_array().ok_or("fields is no list")?;
                let mut read: Vec<AvroField> = Vec::with_capacity(fields.len());
                for field in fields {
                    let name = text(field.get("name"), "a field")?;
                    if read.iter().any(|known| known.name == name) {
                        return Err(format!("field {name} stands there twice"));
                    }
                    let of = field
                        .get("type")
                        .ok_or_else(|| format!("field {name} has no type"))?;
                    let shape = self
                        .shape(of, &space, depth + 1)
                        .map_err(|error| format!("field {name}: {error}"))?;
                    read.push(AvroField {
                        name,
                        shape,
                        default: field.get("default").cloned(),
                    });
                }
                self.close(at, Named::Record(read))
            }
            Some("enum") => {
                let (at, _) = self.open(object, space)?;
                let symbols = inner("symbols")?.as_array().ok_or("symbols is no list")?;
                let symbols = symbols.iter().map(|symbol| text(Some(symbol), "an enum"));
                let symbols = symbols.collect::<Result<_, _>>()?;
                let default = object.get("default").and_then(Value::as_str);
                self.close(at, Named::Enum(symbols, default.map(str::to_owned)))
            }
            Some("fixed") => {
                let (at, _) = self.open(object, space)?;
                let size = inner("size")?
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok());
                let size = size.ok_or("the size of a fixed is no number")?;
                let fixed = self.close(at, Named::Fixed(size))?;
                let Some(decimal) = decimal(object, Some(size)) else {
                    return Ok(fixed);
                };
                // Wherever else it is named as well.
                let name = self.full_names.get(at).cloned();
                self.shapes.extend(name.map(|name| (name, decimal.clone())));
                Ok(decimal)
            }
            Some(_) | None => {
                let shape = self.shape(of, space, depth + 1)?;
                Ok(logical(object, shape))
            }
        }
    }

    /// Makes room for a named type, so that its definition can name it.
    fn open(
        &mut self,
        object: &Map<String, Value>,
        space: &str,
    ) -> Result<(usize, String), String> {
        let name = text(object.get("name"), "a named type")?;
        let declared = object.get("namespace").and_then(Value::as_str);
        let full = full_name(&name, declared.unwrap_or(space));
        let space = full
            .rsplit_once('.')
            .map_or("", |(space, _)| space)
            .to_owned();
        let at = self.named.len();
        let named = Shape::Named(at);
        if self.shapes.insert(full.clone(), named).is_some() {
            return Err(format!("type {full} is defined twice"));
        }
        self.named.push(Named::Open);
        self.full_names.push(full);
        Ok((at, space))
    }

    fn close(&mut self, at: usize, named: Named) -> Result<Shape, String> {
        let open = self.named.get_mut(at).ok_or("a type was not opened")?;
        *open = named;
        Ok(Shape::Named(at))
    }
}

fn text(value: Option<&Value>, of: &str) -> Result<String, String> {
    let name = value.and_then(Value::as_str);
    name.map(str::to_owned)
        .ok_or_else(|| format!("{of} has no name"))
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() {
        name.to_owned()
    } else {
        format!("{space}.{name}")
    }
}

/// A primitive with its logical type; one that is not known here is its primitive, as Avro asks.
fn logical(object: &Map<String, Value>, shape: Shape) -> Shape {
    let name = object.get("logicalType").and_then(Value::as_str);
    match (name, shape) {
        (Some("date"), Shape::Int) => Shape::Date,
        (Some("timestamp-millis" | "local-timestamp-millis"), Shape::Long) => {
            Shape::Timestamp(1_000)
        }
        (Some("timestamp-micros" | "local-timestamp-micros"), Shape::Long) => {
            Shape::Timestamp(1_000_000)
        }
        (Some("timestamp-nanos" | "local-timestamp-nanos"), Shape::Long) => {
            Shape::Timestamp(1_000_000_000)
        }
        (Some("decimal"), Shape::Bytes) => decimal(object, None).unwrap_or(Shape::Bytes),
        (_, shape) => shape,
    }
}

fn decimal(object: &Map<String, Value>, size: Option<usize>) -> Option<Shape> {
    if object.get("logicalType").and_then(Value::as_str) != Some("decimal") {
        return None;
    }
    let precision = object.get("precision").and_then(Value::as_u64)?;
    let scale = object.get("scale").map_or(Some(0), Value::as_u64)?;
    if !(1..=38).contains(&precision) || scale > precision {
        return None;
    }
    Some(Shape::Decimal(
        u8::try_from(precision).ok()?,
        i8::try_from(scale).ok()?,
        size,
    ))
}
