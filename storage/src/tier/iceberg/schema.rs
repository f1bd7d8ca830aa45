//! The columns of a topic's table: the same names as in SQL, the field ids of the Parquet files.
//!
//! | column | field | from |
//! |---|---|---|
//! | declared ones | 1001 and on | typed columns, null where the body does not parse |
//! | `_decode_error` | 1000 | why it does not |
//! | `_queue`, `_offset`, `_stored_at`, … | 2 to 21 | the envelope, `_` before each name |

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use iceberg::spec::{
    ListType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type,
};
use iceberg::{Error, ErrorKind, Result};

use crate::format::columns::{FIELD_ID, schema as envelope};
use crate::tier::columns::{Columns, ERROR, ERROR_ID, stored_name};
use crate::tier::family;

/// The partition field: the day of the store time.
pub(super) const DAY: &str = "_stored_day";
/// Field id of the store time, which is partitioned by.
pub(super) const STORED_AT_ID: i32 = 4;
/// Field ids of queue and offset.
pub(super) const QUEUE_ID: i32 = 2;
pub(super) const OFFSET_ID: i32 = 3;

/// The schema of a table with these declared columns; that of a family has its topics before the others.
pub(super) fn schema(columns: Option<&dyn Columns>, is_family: bool) -> Result<Schema> {
    let mut fields: Vec<NestedFieldRef> = Vec::new();
    let mut taken: HashSet<String> = HashSet::from([DAY.to_owned(), format!("_{ERROR}")]);
    let mut system = Vec::new();
    let topics = if is_family {
        family::fields()
    } else {
        Vec::new()
    };
    let envelope = envelope();
    let envelope = envelope.fields().iter().map(AsRef::as_ref);
    for field in topics.iter().chain(envelope) {
        let name = format!("_{}", field.name());
        system.push(nested(field, &name)?);
        taken.insert(name);
    }
    if let Some(columns) = columns {
        for column in columns.columns() {
            // A declared column that is called as one of ours shows under its name in the files.
            let name = if taken.contains(&column.name.to_lowercase()) {
                stored_name(&column.name)
            } else {
                column.name.clone()
            };
            let id = number(column.id())?;
            let field = NestedField::optional(id, name, type_of(&column.stored_type())?);
            fields.push(Arc::new(field));
        }
        let string = Type::Primitive(PrimitiveType::String);
        let error = NestedField::optional(number(ERROR_ID)?, format!("_{ERROR}"), string);
        fields.push(Arc::new(error));
    }
    fields.extend(system);
    Schema::builder().with_fields(fields).build()
}

fn number(id: u32) -> Result<i32> {
    i32::try_from(id).map_err(|_| unexpected(format!("field id {id} is too large")))
}

fn nested(field: &Field, name: &str) -> Result<NestedFieldRef> {
    let id = field
        .metadata()
        .get(FIELD_ID)
        .and_then(|id| id.parse().ok());
    let id: i32 = id.ok_or_else(|| unexpected(format!("{name} has no field id")))?;
    let is_required = !field.is_nullable();
    Ok(Arc::new(NestedField::new(
        id,
        name,
        type_of(field.data_type())?,
        is_required,
    )))
}

fn type_of(data_type: &DataType) -> Result<Type> {
    Ok(Type::Primitive(match data_type {
        DataType::Boolean => PrimitiveType::Boolean,
        DataType::Int32 => PrimitiveType::Int,
        DataType::Int64 => PrimitiveType::Long,
        DataType::Float32 => PrimitiveType::Float,
        DataType::Float64 => PrimitiveType::Double,
        DataType::Utf8 => PrimitiveType::String,
        DataType::Binary => PrimitiveType::Binary,
        DataType::Date32 => PrimitiveType::Date,
        DataType::Timestamp(_, Some(_)) => PrimitiveType::Timestamptz,
        DataType::Timestamp(_, None) => PrimitiveType::Timestamp,
        DataType::Decimal128(precision, scale) => {
            let scale = u32::try_from(*scale).map_err(|_| unexpected("a negative scale".into()))?;
            return Type::decimal(u32::from(*precision), scale);
        }
        DataType::List(element) => {
            let element = nested(element, "element")?;
            return Ok(Type::List(ListType::new(element)));
        }
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| nested(field, field.name()));
            let fields = fields.collect::<Result<Vec<_>>>()?;
            return Ok(Type::Struct(StructType::new(fields)));
        }
        other => return Err(unexpected(format!("{other} has no place in a table"))),
    }))
}

pub(super) fn unexpected(what: String) -> Error {
    Error::new(ErrorKind::Unexpected, what)
}
