//! `version()`: what answers.

use std::sync::Arc;

use arrow::array::StringArray;
use arrow::datatypes::DataType;
use datafusion::logical_expr::TypeSignature;

use crate::function::scalar::Scalar;

/// The function.
#[must_use]
pub fn function() -> Scalar {
    Scalar {
        name: "version",
        arguments: TypeSignature::Nullary,
        returns: DataType::Utf8,
        compute: |_, rows| {
            let version = concat!("Millpond ", env!("CARGO_PKG_VERSION"));
            Ok(Arc::new(StringArray::from_iter_values(
                std::iter::repeat_n(version, rows),
            )))
        },
    }
}
