//! The default of a field, which a schema gives as JSON, as the datum that it stands for.
//!
//! Made by the field's shape, so that it is read and written as a value that a body holds: microseconds are microseconds, and the
//! text of a bytes field has a byte in each letter (Avro specification, Complex Types, Records).

use serde_json::Value;

use crate::format::avro::DEPTH_MAX;
use crate::format::avro::schema::{AvroField, AvroSchema, Named, Shape};
use crate::format::avro::write::{put_long, put_sized};

/// Most values in a default: records may have defaults that name each other.
const VALUES_MAX: usize = 10_000;

impl AvroSchema {
    /// The bytes of a field's default, if it has one; or why it is none of its type.
    pub(crate) fn default_of(&self, field: &AvroField) -> Option<Result<Vec<u8>, String>> {
        let value = field.default.as_ref()?;
        let mut writing = Writing {
            schema: self,
            values_left: VALUES_MAX,
            out: Vec::new(),
        };
        let written = writing.put(&field.shape, value, 0);
        let wrong = |reason| format!("the default of field {} {reason}", field.name);
        Some(written.map(|()| writing.out).map_err(wrong))
    }

    /// Refuses a schema of whose fields one has a default that is none of its type.
    pub(crate) fn check_defaults(&self) -> Result<(), String> {
        let records = self.named.iter().filter_map(|named| match named {
            Named::Record(fields) => Some(fields),
            _ => None,
        });
        for field in records.flatten() {
            self.default_of(field).transpose()?;
        }
        Ok(())
    }
}

struct Writing<'s> {
    schema: &'s AvroSchema,
    values_left: usize,
    out: Vec<u8>,
}

impl Writing<'_> {
    fn put(&mut self, shape: &Shape, value: &Value, depth: usize) -> Result<(), String> {
        let not = |what: &str| format!("is {value}, which is not {what}");
        self.values_left = (self.values_left.checked_sub(1))
            .filter(|_| depth <= DEPTH_MAX)
            .ok_or("holds too many values")?;
        match shape {
            Shape::Null => value.as_null().ok_or_else(|| not("null"))?,
            Shape::Boolean => {
                let value = value.as_bool().ok_or_else(|| not("a boolean"))?;
                self.out.push(u8::from(value));
            }
            Shape::Int | Shape::Date => {
                let int = value.as_i64().and_then(|value| i32::try_from(value).ok());
                put_long(&mut self.out, int.ok_or_else(|| not("an int"))?.into());
            }
            Shape::Long | Shape::Timestamp(_) => {
                let long = value.as_i64().ok_or_else(|| not("a long"))?;
                put_long(&mut self.out, long);
            }
            Shape::Float => {
                let number = value.as_f64().ok_or_else(|| not("a number"))?;
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a float is the nearest to its number"
                )]
                let number = number as f32;
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Shape::Double => {
                let number = value.as_f64().ok_or_else(|| not("a number"))?;
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Shape::Bytes | Shape::Decimal(_, _, None) => {
                let bytes = bytes_of(value).ok_or_else(|| not("a text of bytes"))?;
                put_sized(&mut self.out, &bytes);
            }
            Shape::Decimal(_, _, Some(size)) => self.put_fixed(*size, value)?,
            Shape::Text => {
                let text = value.as_str().ok_or_else(|| not("a text"))?;
                put_sized(&mut self.out, text.as_bytes());
            }
            Shape::Array(items) => {
                let values = value.as_array().ok_or_else(|| not("a list"))?;
                self.put_count(values.len());
                for value in values {
                    self.put(items, value, depth + 1)?;
                }
                self.put_end(values.len());
            }
            Shape::Map(shape) => {
                let values = value.as_object().ok_or_else(|| not("an object"))?;
                self.put_count(values.len());
                for (key, value) in values {
                    put_sized(&mut self.out, key.as_bytes());
                    self.put(shape, value, depth + 1)?;
                }
                self.put_end(values.len());
            }
            Shape::Union(shapes) => self.put_branch(shapes, value, depth)?,
            Shape::Named(at) => self.put_named(*at, value, depth)?,
        }
        Ok(())
    }

    /// A default of a union is one of the first branch that takes it.
    fn put_branch(&mut self, shapes: &[Shape], value: &Value, depth: usize) -> Result<(), String> {
        let start = self.out.len();
        for (branch, shape) in (0..).zip(shapes) {
            put_long(&mut self.out, branch);
            if self.put(shape, value, depth + 1).is_ok() {
                return Ok(());
            }
            self.out.truncate(start);
        }
        Err(format!("is {value}, which no branch of its union takes"))
    }

    fn put_named(&mut self, at: usize, value: &Value, depth: usize) -> Result<(), String> {
        let schema = self.schema;
        let not = |what: &str| format!("is {value}, which is not {what}");
        match schema.named(at) {
            Named::Record(fields) => {
                let values = value.as_object().ok_or_else(|| not("an object"))?;
                for field in fields {
                    let value = values.get(&field.name).or(field.default.as_ref());
                    let value = value.ok_or_else(|| format!("lacks {}", field.name))?;
                    self.put(&field.shape, value, depth + 1)?;
                }
            }
            Named::Enum(symbols, _) => {
                let at = symbols.iter().position(|symbol| value == symbol.as_str());
                let at = at.and_then(|at| i64::try_from(at).ok());
                put_long(&mut self.out, at.ok_or_else(|| not("one of its symbols"))?);
            }
            Named::Fixed(size) => self.put_fixed(*size, value)?,
            Named::Open => return Err("has a type without definition".to_owned()),
        }
        Ok(())
    }

    fn put_fixed(&mut self, size: usize, value: &Value) -> Result<(), String> {
        let bytes = bytes_of(value).filter(|bytes| bytes.len() == size);
        let bytes = bytes.ok_or_else(|| format!("is {value}, which is not {size} bytes"))?;
        self.out.extend_from_slice(&bytes);
        Ok(())
    }

    /// A block of so many items; an array without any is its end alone.
    fn put_count(&mut self, count: usize) {
        put_long(&mut self.out, i64::try_from(count).unwrap_or(0));
    }

    fn put_end(&mut self, count: usize) {
        if count > 0 {
            put_long(&mut self.out, 0);
        }
    }
}

/// Bytes stand in JSON as a text whose letters are those of ISO 8859-1.
fn bytes_of(value: &Value) -> Option<Vec<u8>> {
    let letters = value.as_str()?.chars();
    letters
        .map(|letter| u8::try_from(u32::from(letter)).ok())
        .collect()
}
