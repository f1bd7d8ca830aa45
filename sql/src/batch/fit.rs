//! What a column takes that a query fills: values as they are, and those of another type that lose nothing by it.
//!
//! A number is no time and no truth, whatever the engine would make of it: `CAST` in the query says what is meant. A number with a
//! fraction is no whole one, and a time of day is no part of a date, so that a column means the same to `INSERT` as to the body
//! of a producer.

use arrow::array::{Array as _, ArrayRef, AsArray as _};
use arrow::compute::kernels::cmp::neq;
use arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type};
use arrow::util::display::array_value_to_string;

use crate::catalog::sql_type;
use crate::error::SqlError;

/// Whether values of a type may fill a column of another without a word for it.
pub(crate) fn may_fill(from: &DataType, to: &DataType) -> bool {
    let is_other = |from: &DataType, to: &DataType| {
        from.is_numeric() && (to.is_temporal() || to == &DataType::Boolean)
    };
    can_cast_types(from, to) && !is_other(from, to) && !is_other(to, from)
}

/// The values of a column that a query answers as those of the column that they fill.
///
/// # Errors
/// [`SqlError::Invalid`] that names the column and what does not fit it.
pub(crate) fn fitted(values: &ArrayRef, column: &Field) -> Result<ArrayRef, SqlError> {
    let (from, to) = (values.data_type(), column.data_type());
    if !may_fill(from, to) {
        return Err(SqlError::invalid(
            format!(
                "column {} is {}, and the query answers {} for it",
                column.name(),
                sql_type(to),
                sql_type(from)
            ),
            "cast it in the query",
        ));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let filled = cast_with_options(values, to, &strict)?;
    if let Some(row) = first_loss(values, &filled)? {
        return Err(SqlError::invalid(
            format!(
                "{} does not fit column {}, which is {}",
                array_value_to_string(values, row)?,
                column.name(),
                sql_type(to)
            ),
            "round it, or cast it in the query",
        ));
    }
    Ok(filled)
}

/// The first value that lost a fraction, or a time of day.
fn first_loss(values: &ArrayRef, filled: &ArrayRef) -> Result<Option<usize>, SqlError> {
    let is_whole = filled.data_type().is_integer();
    Ok(match values.data_type() {
        DataType::Float16 | DataType::Float32 | DataType::Float64 if is_whole => {
            let numbers = cast(values, &DataType::Float64)?;
            let mut numbers = numbers.as_primitive::<Float64Type>().iter();
            numbers.position(|number| number.is_some_and(|number| number.fract() != 0.0))
        }
        from if from.is_decimal() && is_whole => differs(values, filled)?,
        DataType::Timestamp(..) if matches!(filled.data_type(), DataType::Date32) => {
            differs(values, filled)?
        }
        _ => None,
    })
}

/// The first value that is another one when it is brought back.
fn differs(values: &ArrayRef, filled: &ArrayRef) -> Result<Option<usize>, SqlError> {
    let back = cast(filled, values.data_type())?;
    let differ = neq(values, &back)?;
    Ok(differ.iter().position(|differs| differs == Some(true)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int64Array, NullArray, StringArray,
        TimestampMillisecondArray,
    };
    use arrow::datatypes::TimeUnit;

    use super::*;

    fn fill(values: ArrayRef, to: DataType) -> Result<ArrayRef, String> {
        let column = Field::new("n", to, true);
        fitted(&values, &column).map_err(|error| error.to_string())
    }

    fn floats(values: &[f64]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    fn decimals(hundredths: &[i128]) -> ArrayRef {
        let values = Decimal128Array::from(hundredths.to_vec());
        Arc::new(values.with_precision_and_scale(10, 2).unwrap())
    }

    #[test]
    fn whole_numbers_are_taken_and_fractions_are_refused() {
        let whole = fill(floats(&[2.0, -0.0, 1e3]), DataType::Int64).unwrap();
        assert_eq!(whole.as_ref(), &Int64Array::from(vec![2, 0, 1000]));
        let whole = fill(decimals(&[200, -700]), DataType::Int64).unwrap();
        assert_eq!(whole.as_ref(), &Int64Array::from(vec![2, -7]));
        for fractions in [floats(&[1.0, 1.7]), decimals(&[100, 170])] {
            let refused = fill(fractions, DataType::Int64).unwrap_err();
            assert!(
                refused.contains("does not fit column n, which is BIGINT"),
                "{refused}"
            );
            assert!(refused.starts_with("1.7"), "{refused}");
        }
        assert!(fill(floats(&[f64::NAN]), DataType::Int64).is_err());
    }

    #[test]
    fn numbers_are_no_times_and_no_truths() {
        let time = DataType::Timestamp(TimeUnit::Millisecond, None);
        for (from, to) in [
            (DataType::Float64, time.clone()),
            (DataType::Int64, time.clone()),
            (DataType::Int64, DataType::Date32),
            (DataType::Int64, DataType::Boolean),
        ] {
            assert!(
                !may_fill(&from, &to) && !may_fill(&to, &from),
                "{from} {to}"
            );
        }
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![5]));
        let refused = fill(numbers, time.clone()).unwrap_err();
        assert!(refused.contains("column n is TIMESTAMP"), "{refused}");
        // A NULL has no type, and a text is read.
        assert!(fill(Arc::new(NullArray::new(1)), time.clone()).is_ok());
        let text: ArrayRef = Arc::new(StringArray::from(vec!["2013-01-01T00:00:00"]));
        assert!(fill(text, time).is_ok());
    }

    #[test]
    fn a_date_takes_a_time_at_midnight_alone() {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        let at = |ms: i64| -> ArrayRef { Arc::new(TimestampMillisecondArray::from(vec![ms])) };
        let day = fill(at(3 * DAY_MS), DataType::Date32).unwrap();
        assert_eq!(day.as_ref(), &Date32Array::from(vec![3]));
        assert!(fill(at(3 * DAY_MS + 1), DataType::Date32).is_err());
    }
}
