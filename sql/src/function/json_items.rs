//! Arrays within JSON texts as lists.
//!
//! | function | answers |
//! |---|---|
//! | `json_items(json)` | the elements of the array, each as JSON; NULL of what is no array |
//! | `json_items_text(json)` | the same, but texts without their quotes, and NULL for `null` |
//!
//! A column whose format has arrays (JSON, Avro, Protobuf) is such a text; `UNNEST` makes rows of the list.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, ListBuilder, StringBuilder};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TypeSignature;

use crate::function::json_text::Json;
use crate::function::scalar::{Compute, Scalar};

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let function = |name, compute: Compute| Scalar {
        name,
        arguments: TypeSignature::Exact(vec![DataType::Utf8]),
        returns: DataType::new_list(DataType::Utf8, true),
        compute,
    };
    vec![
        function("json_items", |arguments, rows| {
            lists(arguments, rows, |json| Some(json.written()))
        }),
        function("json_items_text", |arguments, rows| {
            lists(arguments, rows, |json| json.shown())
        }),
    ]
}

/// What `read` makes of the elements of each row's array, as lists of texts.
fn lists(
    arguments: &[ArrayRef],
    rows: usize,
    read: impl Fn(Json<'_>) -> Option<String>,
) -> Result<ArrayRef, DataFusionError> {
    let texts = arguments[0].as_string::<i32>();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in 0..rows {
        let text = texts.is_valid(row).then(|| texts.value(row));
        match text.and_then(Json::of).and_then(|json| json.items()) {
            Some(items) => {
                for item in items {
                    lists.values().append_option(read(item));
                }
                lists.append(true);
            }
            None => lists.append(false),
        }
    }
    Ok(Arc::new(lists.finish()))
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use arrow::util::display::array_value_to_string;

    use super::*;

    fn of(function: &str, json: Option<&str>) -> String {
        let mut all = functions().into_iter();
        let function = all.find(|known| known.name == function).unwrap();
        let texts: ArrayRef = Arc::new(StringArray::from(vec![json]));
        let list = (function.compute)(&[texts], 1).unwrap();
        match list.is_null(0) {
            true => "NULL".to_owned(),
            false => array_value_to_string(&list, 0).unwrap(),
        }
    }

    #[test]
    fn elements_are_json_or_texts() {
        let json = Some(r#"[{"a": 1}, "x", null, 2.5]"#);
        assert_eq!(of("json_items", json), r#"[{"a":1}, "x", null, 2.5]"#);
        assert_eq!(of("json_items_text", json), r#"[{"a":1}, x, , 2.5]"#);
    }

    #[test]
    fn what_is_no_array_has_no_list() {
        for json in [None, Some("{}"), Some("[1"), Some("3")] {
            assert_eq!(of("json_items", json), "NULL");
        }
        assert_eq!(of("json_items", Some("[]")), "[]");
    }
}
