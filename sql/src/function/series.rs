//! `generate_series` and `range` within a bound.
//!
//! The engine makes the whole list before anybody counts its memory, and for constants while it plans: `generate_series(1, 1000000000)` took
//! eight gigabytes. Ours look at the arguments first, and refuse more than [`SERIES_ELEMENTS_MAX`] elements for the rows that are
//! computed at a time.

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, TimeUnit, TimestampMillisecondType,
};
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};
use millpond_proto::limits::SERIES_ELEMENTS_MAX;

const NAMES: [&str; 2] = ["generate_series", "range"];
const DAY_MS: i64 = 86_400_000;

/// What takes the place of the engine's functions of the same names.
#[must_use]
pub fn within_bounds(functions: &[Arc<ScalarUDF>]) -> Vec<Arc<ScalarUDF>> {
    let each = NAMES.iter().filter_map(|name| {
        let inner = functions.iter().rfind(|known| known.name() == *name)?;
        Some(Arc::new(ScalarUDF::from(Series {
            name,
            inner: inner.as_ref().clone(),
        })))
    });
    each.collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Series {
    name: &'static str,
    inner: ScalarUDF,
}

impl ScalarUDFImpl for Series {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> EngineResult<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> EngineResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let elements = elements(&args)?;
        if elements > SERIES_ELEMENTS_MAX {
            return Err(DataFusionError::Execution(format!(
                "{} of {elements} elements at a time, and SERIES_ELEMENTS_MAX is {SERIES_ELEMENTS_MAX}; choose bounds that lie closer",
                self.name
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

/// How many elements the lists of all rows have together, or a little more.
fn elements(args: &ScalarFunctionArgs) -> EngineResult<u64> {
    // Lists of constants are made once.
    let is_constant = |value: &ColumnarValue| matches!(value, ColumnarValue::Scalar(_));
    let rows = match args.args.iter().all(is_constant) {
        true => 1,
        false => args.number_rows,
    };
    let mut numbers = Vec::with_capacity(args.args.len());
    for argument in &args.args {
        numbers.push(numbers_of(argument, rows)?);
    }
    let of_row = |row: usize| {
        let number = |at: usize| numbers.get(at)?.get(row).copied()?;
        let (first, last, step) = match numbers.len() {
            1 => (0, number(0)?, 1),
            2 => (number(0)?, number(1)?, 1),
            _ => (number(0)?, number(1)?, number(2)?),
        };
        let distance = i128::from(last) - i128::from(first);
        let steps = distance.checked_div(i128::from(step))?;
        u64::try_from(steps + 1).ok()
    };
    Ok((0..rows)
        .filter_map(of_row)
        .fold(0, |sum: u64, of| sum.saturating_add(of)))
}

/// Whole numbers as they are, times and intervals in milliseconds; a month is the shortest that there is.
fn numbers_of(argument: &ColumnarValue, rows: usize) -> EngineResult<Vec<Option<i64>>> {
    let values = argument.to_array(rows)?;
    Ok(match values.data_type() {
        DataType::Interval(_) => {
            let of = DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano);
            let lengths = cast(&values, &of)?;
            let lengths = lengths.as_primitive::<IntervalMonthDayNanoType>().iter();
            let in_ms = lengths.map(|length| {
                let length = length?;
                let days = i64::from(length.months) * 28 + i64::from(length.days);
                let ms = days * DAY_MS + length.nanoseconds / 1_000_000;
                // Shorter than a millisecond.
                Some(if ms == 0 {
                    length.nanoseconds.signum()
                } else {
                    ms
                })
            });
            in_ms.collect()
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            let times = cast(&values, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
            times
                .as_primitive::<TimestampMillisecondType>()
                .iter()
                .collect()
        }
        _ => {
            let numbers = cast(&values, &DataType::Int64)?;
            numbers.as_primitive::<Int64Type>().iter().collect()
        }
    })
}
