//! Numbers that JSON has no word for: NaN and the infinities.
//!
//! They are written as texts, `"NaN"`, `"Infinity"` and `"-Infinity"`, which are read back as what they were: a column of numbers takes texts
//! of numbers ([`super::column`]). As `null`, which Arrow's writer makes of them, a quotient by zero would come back as no value at all.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray as _, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{Encoder, EncoderFactory, EncoderOptions, NullableEncoder, make_encoder};

/// How Arrow's writer writes values that may be such numbers.
#[must_use]
pub fn options() -> EncoderOptions {
    EncoderOptions::default().with_encoder_factory(Arc::new(Wordless))
}

/// The options without it, for all other numbers.
static PLAIN: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

/// The JSON of a number that is not finite.
pub(crate) fn name(number: f64) -> &'static str {
    if number.is_nan() {
        "\"NaN\""
    } else if number > 0.0 {
        "\"Infinity\""
    } else {
        "\"-Infinity\""
    }
}

#[derive(Debug)]
struct Wordless;

impl EncoderFactory for Wordless {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        if !matches!(array.data_type(), DataType::Float32 | DataType::Float64) {
            return Ok(None);
        }
        let numbers = cast(array, &DataType::Float64)?;
        let numbers = numbers.as_primitive::<Float64Type>().clone();
        if numbers.iter().flatten().all(f64::is_finite) {
            return Ok(None);
        }
        let others = make_encoder(field, array, &PLAIN)?;
        let encoder = Box::new(Numbers { numbers, others });
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Some of which are such numbers.
struct Numbers<'a> {
    numbers: Float64Array,
    others: NullableEncoder<'a>,
}

impl Encoder for Numbers<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let number = self.numbers.value(row);
        if number.is_finite() {
            return self.others.encode(row, out);
        }
        out.extend_from_slice(name(number).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, BinaryArray, Float32Array, RecordBatch};

    use super::*;
    use crate::format::json::{JsonDecoder, encode_rows};

    #[test]
    fn numbers_without_a_word_are_read_as_what_they_were_and_others_as_before() {
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5, 1e300];
        let numbers: Float64Array = values.into_iter().map(Some).chain([None]).collect();
        let short: Float32Array = [Some(f32::NEG_INFINITY), None, Some(0.25)]
            .into_iter()
            .cycle()
            .take(numbers.len())
            .collect();
        let columns: [(&str, ArrayRef); 2] = [
            ("a", Arc::new(numbers.clone())),
            ("b", Arc::new(short.clone())),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let rows = encode_rows(&batch).unwrap();
        let bodies: Vec<&[u8]> = rows.iter().map(|row| row.as_ref()).collect();
        assert_eq!(bodies[0], br#"{"a":"NaN","b":"-Infinity"}"#);
        assert_eq!(bodies[2], br#"{"a":"-Infinity","b":0.25}"#);
        assert_eq!(bodies[5], br#"{"b":0.25}"#);
        let decoder = JsonDecoder::new(batch.schema());
        let read = decoder.decode(&BinaryArray::from(bodies)).unwrap().batch;
        assert_eq!(
            format!("{:?}", read.column(0)),
            format!("{:?}", batch.column(0))
        );
        assert_eq!(
            format!("{:?}", read.column(1)),
            format!("{:?}", batch.column(1))
        );
    }
}
