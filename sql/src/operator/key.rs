//! Keys of groups: as bytes that sort like the columns, and as the text of message keys.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, ArrowPrimitiveType, AsArray as _, Int64Array, PrimitiveArray,
    RecordBatch, downcast_primitive_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};
use arrow::row::{RowConverter, Rows, SortField};
use bytes::Bytes;

use crate::operator::OperatorError;
use crate::topic::KeyFormat;

/// Bytes of some columns of a group and then a time: they sort as the columns, then as the time does.
pub(crate) type Key = Arc<[u8]>;

/// Turns columns to bytes and back.
#[derive(Debug)]
pub(crate) struct Keys {
    /// `None` for no columns at all, which the converter does not take.
    converter: Option<RowConverter>,
}

/// The bytes of some rows' columns.
#[derive(Debug)]
pub(crate) struct Encoded {
    rows: Option<Rows>,
}

impl Encoded {
    /// The bytes of a row.
    pub(crate) fn row(&self, row: usize) -> &[u8] {
        match &self.rows {
            Some(rows) => rows.row(row).data(),
            None => &[],
        }
    }
}

impl Keys {
    /// Keys of columns of these types.
    ///
    /// # Errors
    /// When a type can not be a key.
    pub(crate) fn new<'a>(
        types: impl Iterator<Item = &'a DataType>,
    ) -> Result<Self, OperatorError> {
        Self::of(types.map(|kind| SortField::new(kind.clone())).collect())
    }

    /// Keys of columns that sort so.
    ///
    /// # Errors
    /// When a type can not be a key.
    pub(crate) fn of(fields: Vec<SortField>) -> Result<Self, OperatorError> {
        Ok(Self {
            converter: match fields.as_slice() {
                [] => None,
                _ => Some(RowConverter::new(fields)?),
            },
        })
    }

    /// Whether columns of these types can be put into bytes.
    pub(crate) fn take<'a>(types: impl Iterator<Item = &'a DataType>) -> bool {
        let fields: Vec<SortField> = types.map(|kind| SortField::new(kind.clone())).collect();
        RowConverter::supports_fields(&fields)
    }

    /// Columns to bytes.
    ///
    /// # Errors
    /// What Arrow says when the types are others.
    pub(crate) fn encode(&self, columns: &[ArrayRef]) -> Result<Encoded, OperatorError> {
        Ok(Encoded {
            rows: match &self.converter {
                Some(converter) => Some(converter.convert_columns(columns)?),
                None => None,
            },
        })
    }

    /// Bytes back to columns.
    ///
    /// # Errors
    /// What Arrow says when the bytes are others.
    pub(crate) fn decode<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let Some(converter) = &self.converter else {
            return Ok(Vec::new());
        };
        let parser = converter.parser();
        let columns = converter.convert_rows(rows.map(|bytes| parser.parse(bytes)))?;
        Ok(columns.into_iter().map(empty_where_null).collect())
    }
}

/// Leaves nothing where a value is NULL: what was decoded there are the least values, on which a computation that looks at all
/// of them overflows.
fn empty_where_null(column: ArrayRef) -> ArrayRef {
    fn emptied<T: ArrowPrimitiveType>(column: &PrimitiveArray<T>) -> ArrayRef {
        let values = column.iter().map(Option::unwrap_or_default);
        let values: Vec<T::Native> = values.collect();
        let emptied = PrimitiveArray::<T>::new(values.into(), column.nulls().cloned());
        Arc::new(emptied.with_data_type(column.data_type().clone()))
    }
    if column.null_count() == 0 {
        return column;
    }
    let array = column.as_ref();
    downcast_primitive_array!(
        array => emptied(array),
        _ => column
    )
}

const AT_BYTES: usize = size_of::<i64>();

/// Puts the bytes of columns and a time into one key.
pub(crate) fn key_at(row: &[u8], at_ms: i64) -> Key {
    let mut key = Vec::with_capacity(row.len() + AT_BYTES);
    write_key_at(&mut key, row, at_ms);
    Arc::from(key)
}

/// As [`key_at`], into a buffer that is emptied first.
pub(crate) fn write_key_at(key: &mut Vec<u8>, row: &[u8], at_ms: i64) {
    key.clear();
    key.extend_from_slice(row);
    // With the sign turned, bytes sort as the numbers do.
    key.extend_from_slice(&(at_ms ^ i64::MIN).to_be_bytes());
}

/// A time and then other bytes: they sort by the time first.
pub(crate) fn from_time(at_ms: i64, rest: &[&[u8]]) -> Key {
    let mut key = (at_ms ^ i64::MIN).to_be_bytes().to_vec();
    rest.iter().for_each(|bytes| key.extend_from_slice(bytes));
    Arc::from(key)
}

/// Takes a key apart: the bytes of the columns, and the time.
pub(crate) fn split_key(key: &[u8]) -> (&[u8], i64) {
    let (row, at) = key
        .split_last_chunk::<AT_BYTES>()
        .expect("every key ends with a time");
    (row, i64::from_be_bytes(*at) ^ i64::MIN)
}

/// Milliseconds since the epoch of a date or timestamp column.
///
/// # Errors
/// What Arrow says when the column holds no time.
pub(crate) fn milliseconds(column: &ArrayRef) -> Result<Int64Array, arrow::error::ArrowError> {
    let zone = match column.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let column = cast(column, &DataType::Timestamp(TimeUnit::Millisecond, zone))?;
    let column = cast(&column, &DataType::Int64)?;
    Ok(column.as_primitive::<Int64Type>().clone())
}

/// Milliseconds as a column of a type of time.
///
/// # Errors
/// What Arrow says when the type is none of time.
pub(crate) fn times(
    values: impl Iterator<Item = Option<i64>>,
    kind: &DataType,
) -> Result<ArrayRef, arrow::error::ArrowError> {
    let zone = match kind {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let values: ArrayRef = Arc::new(values.collect::<Int64Array>());
    let values = cast(&values, &DataType::Timestamp(TimeUnit::Millisecond, zone))?;
    cast(&values, kind)
}

/// The message key of each group, in a format.
///
/// # Errors
/// As [`message_keys`].
pub(crate) fn message_keys_as(
    format: KeyFormat,
    groups: &RecordBatch,
) -> Result<Vec<Bytes>, OperatorError> {
    let mut keys = message_keys(groups)?;
    let texts = match (format, groups.columns()) {
        (KeyFormat::Raw, [only]) => only.as_string_opt::<i32>(),
        _ => None,
    };
    for (key, text) in keys.iter_mut().zip(texts.into_iter().flatten()) {
        // What a JSON array may be stays one, so that no two rows have one key.
        if let Some(text) = text.filter(|text| !text.is_empty() && !text.starts_with('[')) {
            *key = Bytes::copy_from_slice(text.as_bytes());
        }
    }
    Ok(keys)
}

/// The message key of each group: its columns as the text of a JSON array.
///
/// # Errors
/// What Arrow says when a column can not be written as JSON.
pub(crate) fn message_keys(groups: &RecordBatch) -> Result<Vec<Bytes>, OperatorError> {
    let options = millpond_connectors::format::json::wordless::options();
    let fields: Vec<Arc<Field>> = groups.schema().fields().iter().map(Arc::clone).collect();
    let mut columns = fields
        .iter()
        .zip(groups.columns())
        .map(|(field, column)| arrow::json::writer::make_encoder(field, column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut keys = Vec::with_capacity(groups.num_rows());
    for row in 0..groups.num_rows() {
        let mut text = vec![b'['];
        for (index, column) in columns.iter_mut().enumerate() {
            if index > 0 {
                text.push(b',');
            }
            if column.is_null(row) {
                text.extend_from_slice(b"null");
            } else {
                column.encode(row, &mut text);
            }
        }
        text.push(b']');
        keys.push(Bytes::from(text));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::StringArray;

    use super::*;

    #[test]
    fn keys_sort_by_their_columns_and_then_by_time() {
        let times = [i64::MIN, -5, -1, 0, 1, 700, i64::MAX];
        let mut keys = Vec::new();
        for row in [b"a".as_slice(), b"b"] {
            for at in times {
                let key = key_at(row, at);
                assert_eq!(split_key(&key), (row, at));
                keys.push(key);
            }
        }
        assert!(keys.is_sorted());
    }

    #[test]
    fn raw_keys_are_the_texts_and_never_those_of_other_rows() {
        let texts = ["ann", "", "[null]", "[\"ann\"]", "[", "a b"].map(Some);
        let texts: StringArray = texts.into_iter().chain([None]).collect();
        let rows = RecordBatch::try_from_iter([("k", Arc::new(texts) as ArrayRef)]).unwrap();
        let raw = message_keys_as(KeyFormat::Raw, &rows).unwrap();
        let lists = message_keys_as(KeyFormat::Json, &rows).unwrap();
        assert_eq!(lists, message_keys(&rows).unwrap());
        assert_eq!((&raw[0][..], &raw[5][..]), (&b"ann"[..], &b"a b"[..]));
        assert_eq!(raw[1..5], lists[1..5]);
        assert_eq!(raw[6][..], b"[null]"[..]);
        let different: BTreeSet<&Bytes> = raw.iter().collect();
        assert_eq!(different.len(), raw.len());
        let two = RecordBatch::try_from_iter([
            ("a", Arc::clone(rows.column(0))),
            ("b", Arc::clone(rows.column(0))),
        ]);
        let two = two.unwrap();
        assert_eq!(
            message_keys_as(KeyFormat::Raw, &two).unwrap(),
            message_keys(&two).unwrap()
        );
    }
}
