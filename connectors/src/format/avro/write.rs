//! Rows to datums, in single-object encoding, so that every body says which schema it was written with.

use arrow::array::{Array as _, ArrayRef, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMillisecondType,
};
use bytes::Bytes;

use crate::format::avro::SINGLE_OBJECT;
use crate::format::avro::schema::{AvroField, AvroSchema, Named, Shape, one_of};
use crate::format::body::{Format, FormatError};
use crate::format::fit::column_as;

/// Writes rows as datums.
#[derive(Clone, Debug)]
pub(crate) struct AvroEncoder {
    schema: AvroSchema,
}

impl AvroEncoder {
    pub(crate) fn new(schema: AvroSchema) -> Self {
        Self { schema }
    }

    pub(crate) fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>, FormatError> {
        for field in rows.schema().fields() {
            if !self
                .schema
                .fields()
                .iter()
                .any(|known| known.name == *field.name())
            {
                return Err(refuse(format!(
                    "the schema has no field {}; leave the column out, or add the field to the schema",
                    field.name()
                )));
            }
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let column = match self.target(&field.shape) {
                Some(data_type) => column_as(rows, &field.name, &data_type)?,
                None => rows.column_by_name(&field.name).cloned(),
            };
            let default = self.schema.default_of(field);
            columns.push((field, column, default));
        }
        (0..rows.num_rows())
            .map(|row| {
                let mut datum = Vec::with_capacity(64);
                datum.extend_from_slice(&SINGLE_OBJECT);
                datum.extend_from_slice(&self.schema.fingerprint.to_le_bytes());
                for (field, column, default) in &columns {
                    self.put_field(field, column.as_ref(), default.as_ref(), row, &mut datum)?;
                }
                Ok(Bytes::from(datum))
            })
            .collect()
    }

    /// The type that a column is brought to; none for what is nested.
    fn target(&self, shape: &Shape) -> Option<DataType> {
        Some(match shape {
            Shape::Boolean => DataType::Boolean,
            Shape::Int => DataType::Int32,
            Shape::Long => DataType::Int64,
            Shape::Float => DataType::Float32,
            Shape::Double => DataType::Float64,
            Shape::Bytes => DataType::Binary,
            Shape::Text => DataType::Utf8,
            Shape::Date => DataType::Date32,
            Shape::Timestamp(_) => DataType::Timestamp(TimeUnit::Millisecond, None),
            Shape::Decimal(precision, scale, _) => DataType::Decimal128(*precision, *scale),
            Shape::Union(_) => self.target(self.written(shape)?.1)?,
            Shape::Named(at) => match self.schema.named(*at) {
                Named::Enum(..) => DataType::Utf8,
                Named::Fixed(_) => DataType::Binary,
                Named::Record(_) | Named::Open => return None,
            },
            Shape::Null | Shape::Array(_) | Shape::Map(_) => return None,
        })
    }

    /// The branch of a union that values are written to.
    fn written<'s>(&self, shape: &'s Shape) -> Option<(usize, &'s Shape)> {
        let Shape::Union(shapes) = shape else {
            return None;
        };
        let mut branches = shapes.iter().enumerate();
        if one_of(shapes).is_none()
            && let Some(text) = branches.clone().find(|(_, shape)| **shape == Shape::Text)
        {
            // A column of such a union is VARCHAR, and what it holds is written as what it is.
            return Some(text);
        }
        branches.find(|(_, shape)| self.target(shape).is_some())
    }

    fn put_field(
        &self,
        field: &AvroField,
        column: Option<&ArrayRef>,
        default: Option<&Result<Vec<u8>, String>>,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        if field.shape == Shape::Null {
            return Ok(());
        }
        let null = match &field.shape {
            Shape::Union(shapes) => shapes.iter().position(|shape| *shape == Shape::Null),
            _ => None,
        };
        match (column, default, null) {
            (Some(column), _, _) if column.is_valid(row) => match self.written(&field.shape) {
                Some((branch, shape)) => {
                    put_long(out, i64::try_from(branch).unwrap_or(0));
                    self.put(&field.name, shape, column, row, out)
                }
                None => self.put(&field.name, &field.shape, column, row, out),
            },
            // A default stands for a column that is left out, and never for NULL.
            (None, Some(default), _) => {
                let default = default.as_ref();
                out.extend_from_slice(default.map_err(|wrong| refuse(wrong.clone()))?);
                Ok(())
            }
            (_, _, Some(branch)) => {
                put_long(out, i64::try_from(branch).unwrap_or(0));
                Ok(())
            }
            (Some(_), Some(_), None) => Err(refuse(format!(
                "field {} may not be NULL; fill it, or leave the column out for its default",
                field.name
            ))),
            (_, None, None) => Err(no_null(&field.name)),
        }
    }

    fn put(
        &self,
        name: &str,
        shape: &Shape,
        column: &ArrayRef,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        match shape {
            Shape::Boolean => out.push(u8::from(column.as_boolean().value(row))),
            Shape::Int => put_long(out, column.as_primitive::<Int32Type>().value(row).into()),
            Shape::Long => put_long(out, column.as_primitive::<Int64Type>().value(row)),
            Shape::Float => {
                let value = column.as_primitive::<Float32Type>().value(row);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Shape::Double => {
                let value = column.as_primitive::<Float64Type>().value(row);
                out.extend_from_slice(&value.to_le_bytes());
            }
            Shape::Bytes => put_sized(out, column.as_binary::<i32>().value(row)),
            Shape::Text => put_sized(out, column.as_string::<i32>().value(row).as_bytes()),
            Shape::Date => put_long(out, column.as_primitive::<Date32Type>().value(row).into()),
            Shape::Timestamp(units) => {
                let ms = column.as_primitive::<TimestampMillisecondType>().value(row);
                let value = ms.checked_mul(units / 1_000).ok_or_else(|| {
                    refuse(format!("field {name} can not hold a time so far from 1970"))
                })?;
                put_long(out, value);
            }
            Shape::Decimal(_, _, size) => {
                let units = column.as_primitive::<Decimal128Type>().value(row);
                put_decimal(out, name, units, *size)?;
            }
            Shape::Named(at) => match self.schema.named(*at) {
                Named::Enum(symbols, _) => {
                    put_symbol(out, name, symbols, column.as_string::<i32>().value(row))?;
                }
                Named::Fixed(size) => {
                    let bytes = column.as_binary::<i32>().value(row);
                    if bytes.len() != *size {
                        return Err(refuse(format!(
                            "field {name} takes {size} bytes, not {}; cut or fill the value",
                            bytes.len()
                        )));
                    }
                    out.extend_from_slice(bytes);
                }
                Named::Record(_) | Named::Open => return Err(nested(name)),
            },
            Shape::Null | Shape::Union(_) | Shape::Array(_) | Shape::Map(_) => {
                return Err(nested(name));
            }
        }
        Ok(())
    }
}

fn refuse(detail: String) -> FormatError {
    FormatError::Row {
        format: Format::Avro,
        detail,
    }
}

fn nested(name: &str) -> FormatError {
    refuse(format!(
        "field {name} is a record, an array or a map, which SQL reads and does not write; leave it out"
    ))
}

fn no_null(name: &str) -> FormatError {
    refuse(format!(
        "field {name} is neither filled nor may it be NULL; fill it, or give it a default in the schema"
    ))
}

fn put_symbol(
    out: &mut Vec<u8>,
    name: &str,
    symbols: &[String],
    text: &str,
) -> Result<(), FormatError> {
    let at = symbols.iter().position(|symbol| symbol == text);
    match at.and_then(|at| i64::try_from(at).ok()) {
        Some(at) => {
            put_long(out, at);
            Ok(())
        }
        None => Err(refuse(format!(
            "{text:?} is no symbol of field {name}; write one of {}",
            symbols.join(", ")
        ))),
    }
}

fn put_decimal(
    out: &mut Vec<u8>,
    name: &str,
    units: i128,
    size: Option<usize>,
) -> Result<(), FormatError> {
    let all = units.to_be_bytes();
    let sign = if units < 0 { 0xff } else { 0 };
    match size {
        None => {
            // As few bytes as keep the sign.
            let mut bytes: &[u8] = &all;
            while let [first, rest @ ..] = bytes
                && let Some(next) = rest.first()
                && *first == sign
                && next & 0x80 == sign & 0x80
            {
                bytes = rest;
            }
            put_sized(out, bytes);
        }
        Some(size) if size >= all.len() => {
            out.resize(out.len() + (size - all.len()), sign);
            out.extend_from_slice(&all);
        }
        Some(size) => {
            let (head, tail) = all.split_at(all.len() - size);
            let keeps_sign = tail.first().is_none_or(|byte| byte & 0x80 == sign & 0x80);
            if head.iter().any(|byte| *byte != sign) || !keeps_sign {
                return Err(refuse(format!(
                    "a decimal does not fit the {size} bytes of field {name}"
                )));
            }
            out.extend_from_slice(tail);
        }
    }
    Ok(())
}

pub(super) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(bytes);
}

pub(super) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).unwrap_or(0));
}
