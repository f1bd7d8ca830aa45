//! Bodies as they are: one column that holds the body, as BYTES, or as VARCHAR when it is UTF-8.

use arrow::array::{Array as _, ArrayRef, AsArray as _, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;

use crate::format::body::FormatError;
use crate::format::fit::{Bad, Columns};
use crate::format::json::Decoded;
use crate::format::json::column::{Kind, Slot};

/// Refuses columns that are not one column of bytes or text.
pub(crate) fn check(schema: &Schema) -> Result<(), FormatError> {
    let [field] = schema.fields().as_ref() else {
        return Err(FormatError::RawColumns {
            found: schema.fields().len(),
        });
    };
    match field.data_type() {
        DataType::Utf8 | DataType::Binary => Ok(()),
        _ => Err(FormatError::RawColumns { found: 1 }),
    }
}

/// Reads bodies as one column.
#[derive(Clone, Debug)]
pub(crate) struct RawDecoder {
    columns: Columns,
}

impl RawDecoder {
    pub(crate) fn new(columns: Columns) -> Self {
        Self { columns }
    }

    pub(crate) fn decode(&self, bodies: &BinaryArray) -> Result<Decoded, ArrowError> {
        self.columns.decode(bodies, |_, body, slots| {
            if let (Some(kind), Some(slot)) = (self.columns.kinds.first(), slots.first_mut()) {
                *slot = match kind {
                    Kind::Bytes => Slot::Bytes(body.to_vec()),
                    _ => Slot::Text(std::str::from_utf8(body).map_err(not_text)?.into()),
                };
            }
            Ok(())
        })
    }
}

fn not_text(error: std::str::Utf8Error) -> Bad {
    format!("the body is not UTF-8 at byte {}", error.valid_up_to()).into()
}

/// The one column as bodies; NULL is an empty body.
pub(crate) fn encode(batch: &RecordBatch) -> Result<Vec<Bytes>, FormatError> {
    check(&batch.schema())?;
    let column: ArrayRef = cast(batch.column(0), &DataType::Binary)?;
    let values = column.as_binary::<i32>();
    Ok((0..values.len())
        .map(|row| match values.is_null(row) {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(values.value(row)),
        })
        .collect())
}
