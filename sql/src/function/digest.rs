//! Digests of texts and bytes, as hexadecimal texts in lower case: what Flink and PostgreSQL's `md5` answer.
//!
//! | function | answers |
//! |---|---|
//! | `md5(x)`, `sha1(x)` | 32 and 40 digits; they tell values apart and keep nothing secret |
//! | `sha256(x)`, `sha384(x)`, `sha512(x)` | 64, 96 and 128 digits |
//! | `sha2(x, bits)` | that of 256, 384 or 512 bits |
//!
//! NULL of NULL. A text is digested as UTF-8.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TypeSignature;
use md5::{Digest as _, Md5};
use ring::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512, digest};

use crate::function::scalar::{Compute, Scalar};

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let of_one = |name, compute: Compute| Scalar {
        name,
        arguments: TypeSignature::OneOf(vec![
            TypeSignature::Exact(vec![DataType::Utf8]),
            TypeSignature::Exact(vec![DataType::Binary]),
        ]),
        returns: DataType::Utf8,
        compute,
    };
    vec![
        of_one("md5", |arguments, rows| {
            each(arguments, rows, |bytes, _| {
                Ok(Some(digits(&Md5::digest(bytes))))
            })
        }),
        of_one("sha1", |arguments, rows| {
            each(arguments, rows, |bytes, _| {
                Ok(sha(&SHA1_FOR_LEGACY_USE_ONLY, bytes))
            })
        }),
        of_one("sha256", |arguments, rows| {
            each(arguments, rows, |bytes, _| Ok(sha(&SHA256, bytes)))
        }),
        of_one("sha384", |arguments, rows| {
            each(arguments, rows, |bytes, _| Ok(sha(&SHA384, bytes)))
        }),
        of_one("sha512", |arguments, rows| {
            each(arguments, rows, |bytes, _| Ok(sha(&SHA512, bytes)))
        }),
        Scalar {
            name: "sha2",
            arguments: TypeSignature::OneOf(vec![
                TypeSignature::Exact(vec![DataType::Utf8, DataType::Int64]),
                TypeSignature::Exact(vec![DataType::Binary, DataType::Int64]),
            ]),
            returns: DataType::Utf8,
            compute: |arguments, rows| each(arguments, rows, sha_of_bits),
        },
    ]
}

fn sha_of_bits(bytes: &[u8], bits: Option<i64>) -> Result<Option<String>, DataFusionError> {
    let algorithm = match bits {
        None => return Ok(None),
        Some(256) => &SHA256,
        Some(384) => &SHA384,
        Some(512) => &SHA512,
        Some(other) => {
            return Err(DataFusionError::Execution(format!(
                "there is no sha2 of {other} bits; write 256, 384 or 512"
            )));
        }
    };
    Ok(sha(algorithm, bytes))
}

fn sha(algorithm: &'static Algorithm, bytes: &[u8]) -> Option<String> {
    Some(digits(digest(algorithm, bytes).as_ref()))
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text can not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What `read` makes of the bytes of the first argument and the number of the second, row by row.
fn each(
    arguments: &[ArrayRef],
    rows: usize,
    read: impl Fn(&[u8], Option<i64>) -> Result<Option<String>, DataFusionError>,
) -> Result<ArrayRef, DataFusionError> {
    let bytes = cast(&arguments[0], &DataType::Binary)?;
    let bytes = bytes.as_binary::<i32>();
    let numbers = arguments
        .get(1)
        .map(|numbers| numbers.as_primitive::<Int64Type>());
    let values = (0..rows).map(|row| {
        if bytes.is_null(row) {
            return Ok(None);
        }
        let number = numbers.filter(|numbers| numbers.is_valid(row));
        read(bytes.value(row), number.map(|numbers| numbers.value(row)))
    });
    let values = values.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(StringArray::from(values)))
}
