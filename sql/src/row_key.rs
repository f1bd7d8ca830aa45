//! The message key of a row of a topic with a primary key: what tells it from other rows, whoever sends it.
//!
//! One text is the key itself; anything else is a JSON array of the columns, in the order of the primary key. `INSERT` writes such
//! keys, and so do the commands that send rows.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use bytes::Bytes;

use millpond_proto::remedy::Remedy;

use crate::operator::OperatorError;
use crate::operator::key::message_keys;

/// Why rows have no keys.
#[derive(Debug, thiserror::Error)]
pub enum RowKeyError {
    /// A row lacks a part of its key.
    #[error("column {column} is a part of the primary key and can not be NULL; fill it")]
    Null {
        /// Which column.
        column: String,
    },
    /// A column can not be written as JSON.
    #[error(transparent)]
    Write(#[from] OperatorError),
}

impl RowKeyError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Null { .. } => Remedy::FixRequest,
            Self::Write(error) => error.remedy(),
        }
    }
}

/// The key of each row of a batch, whose columns are those of the primary key and hold no NULL.
///
/// # Errors
/// [`RowKeyError`].
pub fn row_keys(columns: &RecordBatch) -> Result<Vec<Bytes>, RowKeyError> {
    let fields = columns.schema();
    let mut named = fields.fields().iter().zip(columns.columns());
    if let Some((field, _)) = named.find(|(_, column)| column.null_count() > 0) {
        let column = field.name().clone();
        return Err(RowKeyError::Null { column });
    }
    match columns.columns() {
        [only] if only.as_string_opt::<i32>().is_some() => {
            let texts = only.as_string::<i32>().iter().flatten();
            let keys = texts.map(|text| Bytes::copy_from_slice(text.as_bytes()));
            Ok(keys.collect())
        }
        _ => Ok(message_keys(columns)?),
    }
}

/// Whether a message with this key can be one of a row, where the primary key has so many columns.
#[must_use]
pub fn can_be_key(key: &str, columns: usize, is_text: bool) -> bool {
    if columns == 1 && is_text {
        return true;
    }
    let values: Result<Vec<serde_json::Value>, _> = serde_json::from_str(key);
    values.is_ok_and(|values| values.len() == columns)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn keys(columns: Vec<(&str, ArrayRef)>) -> Vec<String> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let keys = row_keys(&batch).unwrap();
        let texts = keys.iter().map(|key| String::from_utf8(key.to_vec()));
        texts.map(Result::unwrap).collect()
    }

    #[test]
    fn one_text_is_the_key_and_all_else_is_a_list() {
        let id: ArrayRef = Arc::new(Int64Array::from(vec![14, -1]));
        let name: ArrayRef = Arc::new(StringArray::from(vec!["ann", "[b]"]));
        assert_eq!(keys(vec![("name", Arc::clone(&name))]), ["ann", "[b]"]);
        assert_eq!(keys(vec![("id", Arc::clone(&id))]), ["[14]", "[-1]"]);
        assert_eq!(
            keys(vec![("id", id), ("name", name)]),
            ["[14,\"ann\"]", "[-1,\"[b]\"]"]
        );
        let none: ArrayRef = Arc::new(Int64Array::from(vec![None]));
        let batch = RecordBatch::try_from_iter([("id", none)]).unwrap();
        let error = row_keys(&batch).unwrap_err().to_string();
        assert!(error.contains("column id"), "{error}");
    }

    #[test]
    fn a_key_that_no_row_can_have_is_known_by_its_form() {
        assert!(can_be_key("14", 1, true));
        assert!(can_be_key("[14]", 1, false));
        assert!(can_be_key("[14,\"a\"]", 2, false));
        for (key, columns) in [("14", 1), ("[14]", 2), ("[14", 1), ("", 1)] {
            assert!(!can_be_key(key, columns, false), "{key}");
        }
    }
}
