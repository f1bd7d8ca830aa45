//! `date_bin` and `date_trunc` in the unit of their times.
//!
//! The engine's functions go by nanoseconds, for which `9999-12-31` or `1600-01-01` are too far away: the one answered another century, the other an
//! error, or ended the task. Ours stand in front of them: stretches of a fixed length, and weeks to years of times without a zone, are
//! computed in the unit that the times have, where each of them has its answer. What is left (bins of months, times with a zone) is
//! the engine's, for times that it can take; others are refused.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, ArrowPrimitiveType, AsArray as _, PrimitiveArray};
use arrow::datatypes::{
    DataType, FieldRef, IntervalMonthDayNano, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as EngineResult};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

const NAMES: [&str; 2] = ["date_bin", "date_trunc"];
const DAY_SECONDS: i64 = 86_400;

/// What takes the place of the engine's functions of the same names.
#[must_use]
pub fn in_their_unit(functions: &[Arc<ScalarUDF>]) -> Vec<Arc<ScalarUDF>> {
    let each = NAMES.iter().filter_map(|name| {
        let inner = functions.iter().rfind(|known| known.name() == *name)?;
        Some(Arc::new(ScalarUDF::from(InUnit {
            name,
            inner: inner.as_ref().clone(),
        })))
    });
    each.collect()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InUnit {
    name: &'static str,
    inner: ScalarUDF,
}

impl ScalarUDFImpl for InUnit {
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

    fn output_ordering(&self, input: &[ExprProperties]) -> EngineResult<SortProperties> {
        self.inner.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let stretch = match self.name {
            "date_bin" => bin_of(&args.args),
            _ => unit_of(&args.args),
        };
        let Some(times) = args.args.get(1) else {
            return self.inner.invoke_with_args(args);
        };
        let stretch = stretch.filter(|stretch| stretch.fits(&times.data_type()));
        let Some(stretch) = stretch else {
            check_reach(times)?;
            return self.inner.invoke_with_args(args);
        };
        match times {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(stretch.of(times)?)),
            ColumnarValue::Scalar(time) => {
                let begin = stretch.of(&time.to_array()?)?;
                let begin = ScalarValue::try_from_array(&begin, 0)?;
                Ok(ColumnarValue::Scalar(begin))
            }
        }
    }
}

/// What a time is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stretch {
    /// One of so many nanoseconds, counted from a time.
    Fixed { length_ns: i64, from_ns: i64 },
    /// So many months of the calendar.
    Months(i64),
}

/// The stretch of `date_bin`, if it is of a fixed length.
fn bin_of(args: &[ColumnarValue]) -> Option<Stretch> {
    let length_ns = match args.first()? {
        ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano {
            months: 0,
            days,
            nanoseconds,
        }))) => i64::from(*days)
            .checked_mul(DAY_SECONDS * 1_000_000_000)?
            .checked_add(*nanoseconds)?,
        _ => return None,
    };
    let from_ns = match args.get(2) {
        None => 0,
        Some(ColumnarValue::Scalar(ScalarValue::TimestampNanosecond(Some(from), _))) => *from,
        Some(_) => return None,
    };
    (length_ns > 0).then_some(Stretch::Fixed { length_ns, from_ns })
}

/// The stretch of `date_trunc`.
fn unit_of(args: &[ColumnarValue]) -> Option<Stretch> {
    let ColumnarValue::Scalar(unit) = args.first()? else {
        return None;
    };
    let unit = unit.try_as_str()??.to_lowercase();
    let fixed = |length_ns: i64| Stretch::Fixed {
        length_ns,
        from_ns: 0,
    };
    Some(match unit.as_str() {
        "millisecond" => fixed(1_000_000),
        "second" => fixed(1_000_000_000),
        "minute" => fixed(60 * 1_000_000_000),
        "hour" => fixed(3600 * 1_000_000_000),
        "day" => fixed(DAY_SECONDS * 1_000_000_000),
        // The first day of all was a Thursday, and a week begins with its Monday.
        "week" => Stretch::Fixed {
            length_ns: 7 * DAY_SECONDS * 1_000_000_000,
            from_ns: 4 * DAY_SECONDS * 1_000_000_000,
        },
        "month" => Stretch::Months(1),
        "quarter" => Stretch::Months(3),
        "year" => Stretch::Months(12),
        _ => return None,
    })
}

/// How many nanoseconds a unit has, if it is a coarser one.
fn coarse_ns(unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => Some(1_000_000_000),
        TimeUnit::Millisecond => Some(1_000_000),
        TimeUnit::Microsecond => Some(1000),
        TimeUnit::Nanosecond => None,
    }
}

impl Stretch {
    /// Whether it is counted in the unit of a type.
    fn fits(self, kind: &DataType) -> bool {
        let DataType::Timestamp(unit, None) = kind else {
            return false;
        };
        coarse_ns(*unit).is_some_and(|unit_ns| match self {
            Self::Fixed { length_ns, from_ns } => {
                length_ns % unit_ns == 0 && from_ns % unit_ns == 0
            }
            Self::Months(_) => true,
        })
    }

    /// When the stretch of each time begins.
    fn of(self, times: &ArrayRef) -> EngineResult<ArrayRef> {
        match times.data_type() {
            DataType::Timestamp(TimeUnit::Second, _) => {
                self.each(times.as_primitive::<TimestampSecondType>(), 1)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                self.each(times.as_primitive::<TimestampMillisecondType>(), 1000)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.each(times.as_primitive::<TimestampMicrosecondType>(), 1_000_000)
            }
            other => Err(DataFusionError::Internal(format!(
                "{other} is no such time"
            ))),
        }
    }

    fn each<T>(self, times: &PrimitiveArray<T>, per_second: i64) -> EngineResult<ArrayRef>
    where
        T: ArrowPrimitiveType<Native = i64>,
    {
        let begins: PrimitiveArray<T> = times.try_unary(|time| {
            let begin = self.begin(time, per_second);
            begin.ok_or_else(|| {
                ArrowError::ComputeError(
                    "a time is so early that its stretch begins before all times".to_owned(),
                )
            })
        })?;
        Ok(Arc::new(begins))
    }

    fn begin(self, time: i64, per_second: i64) -> Option<i64> {
        match self {
            Self::Fixed { length_ns, from_ns } => {
                let unit_ns = 1_000_000_000 / per_second;
                let (length, from) = (length_ns / unit_ns, from_ns / unit_ns);
                let passed = (i128::from(time) - i128::from(from)).rem_euclid(i128::from(length));
                i64::try_from(i128::from(time) - passed).ok()
            }
            Self::Months(months) => {
                let day_length = DAY_SECONDS * per_second;
                let (year, month) = month_of(time.div_euclid(day_length));
                let month = month - (month - 1).rem_euclid(months);
                first_day(year, month).checked_mul(day_length)
            }
        }
    }
}

/// Years of 400 come again to the day.
const ERA_DAYS: i64 = 146_097;
/// From the first of March of the year 0 to the first of January 1970.
const EPOCH_DAYS: i64 = 719_468;

/// The year and month (from 1) of a day, counted from 1970-01-01 (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
fn month_of(day: i64) -> (i64, i64) {
    let day = day + EPOCH_DAYS;
    let (era, day) = (day.div_euclid(ERA_DAYS), day.rem_euclid(ERA_DAYS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    // Years begin with March here, so that the leap day is the last one.
    let month = (5 * in_year + 2) / 153;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + 400 * era + i64::from(month <= 2), month)
}

/// The first day of a month, counted from 1970-01-01.
fn first_day(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    let in_year = (153 * month + 2) / 5;
    era * ERA_DAYS + 365 * year + year / 4 - year / 100 + in_year - EPOCH_DAYS
}

/// Refuses times that the engine's functions can not take.
fn check_reach(times: &ColumnarValue) -> EngineResult<()> {
    let DataType::Timestamp(unit, _) = times.data_type() else {
        return Ok(());
    };
    let unit_ns = coarse_ns(unit).unwrap_or(1);
    let reach = || {
        let year = |year: i64| first_day(year, 1).saturating_mul(DAY_SECONDS) as i128;
        (year(1678) * 1_000_000_000)..(year(2262) * 1_000_000_000)
    };
    let within = |time: i64| reach().contains(&(i128::from(time) * i128::from(unit_ns)));
    let all = times.cast_to(&DataType::Int64, None)?;
    let are_within = match all {
        ColumnarValue::Scalar(ScalarValue::Int64(time)) => time.is_none_or(within),
        ColumnarValue::Array(all) => {
            let mut all = all
                .as_primitive::<arrow::datatypes::Int64Type>()
                .iter()
                .flatten();
            all.all(within)
        }
        ColumnarValue::Scalar(_) => true,
    };
    match are_within {
        true => Ok(()),
        false => Err(DataFusionError::Execution(
            "bins of months and stretches of times with a zone are of the years 1678 to 2261; \
             leave the others out, or take another length"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONTH: Stretch = Stretch::Months(1);

    #[test]
    fn days_and_months_are_those_of_the_calendar() {
        assert_eq!(month_of(0), (1970, 1));
        assert_eq!(month_of(-1), (1969, 12));
        assert_eq!(month_of(11_016), (2000, 2));
        assert_eq!(month_of(11_017), (2000, 3));
        let mut first = first_day(1599, 12);
        for year in 1600..2500 {
            for month in 1..=12 {
                let next = first_day(year, month);
                assert!((28..=31).contains(&(next - first)), "{year}-{month}");
                assert_eq!(month_of(next), (year, month));
                assert_eq!(month_of(next - 1), month_of(first));
                first = next;
            }
        }
    }

    #[test]
    fn a_stretch_begins_at_or_before_its_time_however_far_that_is() {
        let day = Stretch::Fixed {
            length_ns: DAY_SECONDS * 1_000_000_000,
            from_ns: 0,
        };
        // 9999-12-31T00:00:00.001, and a millisecond before 1970.
        assert_eq!(
            day.begin(253_402_214_400_001, 1000),
            Some(253_402_214_400_000)
        );
        assert_eq!(day.begin(-1, 1000), Some(-86_400_000));
        assert_eq!(
            MONTH.begin(253_402_214_400_001, 1000),
            Some(253_399_622_400_000)
        );
        assert_eq!(MONTH.begin(-1, 1000), Some(-2_678_400_000));
        assert_eq!(day.begin(i64::MIN, 1000), None);
    }
}
