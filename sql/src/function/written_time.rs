//! `to_char` of times in a form that is digits and separators alone, which most are: `%Y-%m-%d`, `%H:%M`.
//!
//! The query engine's own goes through a formatter that reads the form anew for each value, which is a third of what a query
//! costs that groups by it. Everything else (names of days, parts of seconds, zones, years outside 0 to 9999) is the
//! engine's business, whose answers these are letter by letter.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray, StringBuilder};
use arrow::datatypes::{DataType, TimeUnit, TimestampMillisecondType};
use datafusion::common::ScalarValue;
use datafusion::error::Result as EngineResult;
use datafusion::functions::datetime::to_char;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

const DAY_MS: i64 = 86_400_000;
/// The first days of the years 0 and 10,000, since 1970.
const DAYS: std::ops::Range<i64> = -719_528..2_932_897;

/// The function.
#[must_use]
pub fn function() -> ScalarUDF {
    ScalarUDF::from(ToChar { engine: to_char() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    /// What does it for all that is not done here.
    engine: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn aliases(&self) -> &[String] {
        self.engine.aliases()
    }

    fn signature(&self) -> &Signature {
        self.engine.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> EngineResult<DataType> {
        self.engine.return_type(arguments)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.engine.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        if let [
            ColumnarValue::Array(times),
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(form))),
        ] = args.args.as_slice()
            && let Some(written) = parts_of(form).and_then(|parts| write(times, &parts))
        {
            return Ok(ColumnarValue::Array(Arc::new(written)));
        }
        self.engine.invoke_with_args(args)
    }
}

/// A part of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// A character that stands for itself.
    Itself(char),
}

/// The parts of a form; `None` when there are others in it.
fn parts_of(form: &str) -> Option<Vec<Part>> {
    let mut chars = form.chars();
    let mut parts = Vec::new();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '%' => match chars.next()? {
                'Y' => Part::Year,
                'm' => Part::Month,
                'd' => Part::Day,
                'H' => Part::Hour,
                'M' => Part::Minute,
                'S' => Part::Second,
                _ => return None,
            },
            other => Part::Itself(other),
        });
    }
    Some(parts)
}

/// Writes each time; `None` when they are of another kind, or one is far away.
fn write(times: &ArrayRef, parts: &[Part]) -> Option<StringArray> {
    if *times.data_type() != DataType::Timestamp(TimeUnit::Millisecond, None) {
        return None;
    }
    let times = times.as_primitive::<TimestampMillisecondType>();
    let mut written = StringBuilder::with_capacity(times.len(), times.len() * 4 * parts.len());
    let mut text = String::new();
    // Most times are of the day of the one before.
    let (mut known_day, mut date) = (0, date_of(0));
    for time in times {
        let Some(ms) = time else {
            written.append_null();
            continue;
        };
        let day = ms.div_euclid(DAY_MS);
        if !DAYS.contains(&day) {
            return None;
        }
        if day != known_day {
            (known_day, date) = (day, date_of(day));
        }
        let seconds = ms.rem_euclid(DAY_MS) / 1000;
        text.clear();
        for part in parts {
            match part {
                Part::Year => {
                    push(date.0 / 100, &mut text);
                    push(date.0 % 100, &mut text);
                }
                Part::Month => push(date.1, &mut text),
                Part::Day => push(date.2, &mut text),
                Part::Hour => push(seconds / 3600, &mut text),
                Part::Minute => push(seconds / 60 % 60, &mut text),
                Part::Second => push(seconds % 60, &mut text),
                Part::Itself(c) => text.push(*c),
            }
        }
        written.append_value(&text);
    }
    Some(written.finish())
}

/// Two digits.
fn push(number: i64, text: &mut String) {
    let digit = |digit: i64| char::from(b'0' + u8::try_from(digit % 10).unwrap_or(0));
    text.push(digit(number / 10));
    text.push(digit(number));
}

/// Year, month and day of a day since 1970, in the Gregorian calendar: in eras of 400 years that begin in March, so
/// that the day that some years have more is their last.
fn date_of(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMillisecondArray;
    use arrow::datatypes::Field;
    use datafusion::config::ConfigOptions;
    use proptest::prelude::*;

    use super::*;

    fn answer(function: &ScalarUDF, times: &TimestampMillisecondArray, form: &str) -> ArrayRef {
        let form = ScalarValue::Utf8(Some(form.to_owned()));
        let field = |data_type: DataType| Arc::new(Field::new("f", data_type, true));
        let args = ScalarFunctionArgs {
            args: vec![
                ColumnarValue::Array(Arc::new(times.clone())),
                ColumnarValue::Scalar(form),
            ],
            arg_fields: vec![field(times.data_type().clone()), field(DataType::Utf8)],
            number_rows: times.len(),
            return_field: field(DataType::Utf8),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let answered = function.invoke_with_args(args).unwrap();
        answered.into_array(times.len()).unwrap()
    }

    proptest! {
        #[test]
        fn times_are_written_as_the_engine_writes_them(
            near in prop::collection::vec(prop::option::of(-70_000_000_000_000_i64..260_000_000_000_000), 1..20),
            form in prop::collection::vec(
                prop::sample::select(vec!["%Y", "%m", "%d", "%H", "%M", "%S", "-", ":", " ", "T", "é"]), 1..9),
        ) {
            let (times, form) = (TimestampMillisecondArray::from(near), form.concat());
            prop_assert!(parts_of(&form).is_some());
            prop_assert_eq!(
                &answer(&function(), &times, &form),
                &answer(&to_char(), &times, &form)
            );
        }
    }

    #[test]
    fn other_forms_and_far_times_are_the_engines() {
        assert_eq!(parts_of("%Y-%j"), None);
        assert_eq!(parts_of("%"), None);
        let edges = [
            -62_167_219_200_001,
            -62_167_219_200_000,
            253_402_300_799_999,
            253_402_300_800_000,
        ];
        for edge in edges {
            let times = TimestampMillisecondArray::from(vec![Some(edge), None]);
            for form in ["%Y-%m-%d %H:%M:%S", "%d.%m.%Y %A", "%s"] {
                assert_eq!(
                    &answer(&function(), &times, form),
                    &answer(&to_char(), &times, form),
                    "{edge} {form}"
                );
            }
        }
    }
}
