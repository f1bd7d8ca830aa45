//! Numbers and bytes as digits: `hex(x)` of a number or a text in capital letters, `bin(n)` of a number.
//!
//! A number below zero is shown as its 64 bits are, as in Flink. NULL of NULL.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TypeSignature;

use crate::function::scalar::Scalar;

/// All of them.
#[must_use]
pub fn functions() -> Vec<Scalar> {
    let number = || TypeSignature::Exact(vec![DataType::Int64]);
    vec![
        Scalar {
            name: "hex",
            arguments: TypeSignature::OneOf(vec![
                number(),
                TypeSignature::Exact(vec![DataType::Utf8]),
                TypeSignature::Exact(vec![DataType::Binary]),
            ]),
            returns: DataType::Utf8,
            compute: hex,
        },
        Scalar {
            name: "bin",
            arguments: number(),
            returns: DataType::Utf8,
            compute: |arguments, _| {
                let numbers = arguments[0].as_primitive::<Int64Type>().iter();
                let texts = numbers.map(|number| number.map(|number| format!("{number:b}")));
                Ok(Arc::new(texts.collect::<StringArray>()))
            },
        },
    ]
}

fn hex(arguments: &[ArrayRef], _rows: usize) -> Result<ArrayRef, DataFusionError> {
    let texts: StringArray = match arguments[0].data_type() {
        DataType::Int64 => {
            let numbers = arguments[0].as_primitive::<Int64Type>().iter();
            numbers
                .map(|number| number.map(|number| format!("{number:X}")))
                .collect()
        }
        DataType::Utf8 => {
            let texts = arguments[0].as_string::<i32>().iter();
            texts
                .map(|text| text.map(|text| of_bytes(text.as_bytes())))
                .collect()
        }
        _ => {
            let values = arguments[0].as_binary::<i32>().iter();
            values.map(|bytes| bytes.map(of_bytes)).collect()
        }
    };
    Ok(Arc::new(texts))
}

fn of_bytes(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text can not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}
