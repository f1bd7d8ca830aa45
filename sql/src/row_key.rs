//! The message key of a row of a topic with a primary key: what tells it from other rows, whoever sends it.
//!
//! One text is the key itself; anything else is a JSON array of the columns, in the order of the primary key. `INSERT` writes such
//! keys, and so do the commands that send rows.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Fields};
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

/// Whether a message with this key can be one of a row, where the primary key has these columns.
#[must_use]
pub fn can_be_key(key: &str, columns: &Fields) -> bool {
    if let [only] = columns.as_ref()
        && only.data_type().is_string()
    {
        return true;
    }
    let values: Vec<serde_json::Value> = match serde_json::from_str(key) {
        Ok(values) => values,
        Err(_) => return false,
    };
    let fits = |(value, field): (&serde_json::Value, &FieldRef)| match field.data_type() {
        kind if kind.is_integer() => value.is_i64(),
        DataType::Boolean => value.is_boolean(),
        // Numbers that JSON has no word for are texts.
        kind if kind.is_numeric() => value.is_number() || value.is_string(),
        _ => value.is_string(),
    };
    values.len() == columns.len() && values.iter().zip(columns).all(fits) && is_compact(key)
}

/// Whether a text of JSON has no blanks between its parts, as we write it.
fn is_compact(json: &str) -> bool {
    let (mut is_text, mut is_escaped) = (false, false);
    json.bytes().all(|byte| {
        let is_between = !is_text && byte.is_ascii_whitespace();
        is_text ^= byte == b'"' && !is_escaped;
        is_escaped = is_text && byte == b'\\' && !is_escaped;
        !is_between
    })
}

/// What the key of a message must be for it to be one of a row: for people, with an example.
#[must_use]
pub fn key_form(columns: &Fields) -> String {
    let example = |field: &FieldRef| match field.data_type() {
        kind if kind.is_integer() => "7",
        DataType::Boolean => "true",
        DataType::Date32 => "\"2013-01-01\"",
        DataType::Timestamp(..) => "\"2013-01-01T00:00:00.000Z\"",
        kind if kind.is_numeric() => "7.5",
        _ => "\"a\"",
    };
    if let [only] = columns.as_ref()
        && only.data_type().is_string()
    {
        return format!("the key of a row is its {}, as it is", only.name());
    }
    let names: Vec<&str> = columns.iter().map(|field| field.name().as_str()).collect();
    let examples: Vec<&str> = columns.iter().map(example).collect();
    format!(
        "the key of a row is the JSON array of {}, without blanks, as in '[{}]'",
        names.join(", "),
        examples.join(",")
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMillisecondArray,
    };
    use arrow::datatypes::Field;

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
        let of = |kinds: &[DataType]| {
            let fields = kinds.iter().zip(["a", "b"]);
            let fields = fields.map(|(kind, name)| Field::new(name, kind.clone(), false));
            fields.collect::<Fields>()
        };
        let (text, number) = (of(&[DataType::Utf8]), of(&[DataType::Int64]));
        let both = of(&[DataType::Int64, DataType::Utf8]);
        let others = of(&[DataType::Float64, DataType::Boolean]);
        for (key, columns) in [
            ("14", &text),
            ("", &text),
            ("[14]", &number),
            (r#"[14,"a b\\"]"#, &both),
            (r#"[14,"\" "]"#, &both),
            ("[1.5,true]", &others),
            (r#"["NaN",false]"#, &others),
        ] {
            assert!(can_be_key(key, columns), "{key}");
        }
        for (key, columns) in [
            ("14", &number),
            ("[14", &number),
            ("", &number),
            ("[14,15]", &number),
            ("[\"14\"]", &number),
            ("[null]", &number),
            ("[1.5]", &number),
            ("[ 14 ]", &number),
            ("[14]", &both),
            ("[14,15]", &both),
            ("[14, \"a\"]", &both),
            ("[1.5,1]", &others),
        ] {
            assert!(!can_be_key(key, columns), "{key}");
        }
        assert_eq!(key_form(&text), "the key of a row is its a, as it is");
        assert!(key_form(&both).ends_with("a, b, without blanks, as in '[7,\"a\"]'"));
    }

    #[test]
    fn what_is_written_as_the_key_of_a_row_can_be_one() {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX]));
        let names: ArrayRef = Arc::new(StringArray::from(vec!["", "a \\\" b", "é\n"]));
        let at: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![0, -1, 86_400_000]));
        let price = Decimal128Array::from(vec![1, -150, 0]);
        let price: ArrayRef = Arc::new(price.with_precision_and_scale(10, 2).unwrap());
        let ratio: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 1e300, -0.5]));
        let columns = [
            ("i", ids),
            ("n", names),
            ("t", at),
            ("p", price),
            ("r", ratio),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        for key in row_keys(&batch).unwrap() {
            let key = str::from_utf8(&key).unwrap();
            assert!(can_be_key(key, batch.schema_ref().fields()), "{key}");
        }
    }
}
