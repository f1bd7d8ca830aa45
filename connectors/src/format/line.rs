//! CSV bodies: one line per body (RFC 4180), fields in the order of the columns, without a header.
//!
//! An empty field is NULL, an empty field in quotes is the empty text. Columns that were added later are NULL in
//! lines that end before them; a line with more fields than columns does not decode, and neither do two lines. Fields have no
//! names, so a row is written by all columns of its topic in their order, with an empty field for what it lacks.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::error::ArrowError;
use bytes::Bytes;

use crate::format::fit::{Bad, Columns};
use crate::format::json::Decoded;
use crate::format::json::column::{Kind, Slot};
use crate::format::json::instant::{Instants, TIMES_MS, write_date};
use crate::format::json::scan::Token;

/// Reads lines as rows.
#[derive(Clone, Debug)]
pub(crate) struct LineDecoder {
    columns: Columns,
}

impl LineDecoder {
    pub(crate) fn new(columns: Columns) -> Self {
        Self { columns }
    }

    pub(crate) fn decode(&self, bodies: &BinaryArray) -> Result<Decoded, ArrowError> {
        self.columns.decode(bodies, |_, body, slots| {
            let text = std::str::from_utf8(body).map_err(|error| {
                format!("the body is not UTF-8 at byte {}", error.valid_up_to())
            })?;
            let text = text.strip_suffix('\n').unwrap_or(text);
            let mut rest = Some(text.strip_suffix('\r').unwrap_or(text));
            let mut column = 0;
            while let Some(line) = rest {
                let (field, behind) = field(line)?;
                rest = behind;
                let (Some(kind), Some(slot)) =
                    (self.columns.kinds.get(column), slots.get_mut(column))
                else {
                    return Err(format!(
                        "the line has more fields than the {} columns of the topic",
                        self.columns.kinds.len()
                    )
                    .into());
                };
                *slot = value(kind, field)
                    .map_err(|reason| format!("field {}: {reason}", self.columns.name(column)))?;
                column += 1;
            }
            Ok(())
        })
    }
}

fn value<'a>(kind: &Kind, field: Option<Cow<'a, str>>) -> Result<Slot<'a>, Bad> {
    match (kind, field) {
        (_, None) => Ok(Slot::Null),
        (Kind::Boolean, Some(text)) => match text.as_ref() {
            "true" => Ok(Slot::Boolean(true)),
            "false" => Ok(Slot::Boolean(false)),
            _ => kind.read(Token::Text(text)),
        },
        (_, Some(text)) => kind.read(Token::Text(text)),
    }
}

/// A line break outside quotes ends a record (RFC 4180).
const MORE_LINES: &str = "the body holds more than one line";

type Split<'a> = (Option<Cow<'a, str>>, Option<&'a str>);

/// The first field of a line, and what follows its comma.
fn field(line: &str) -> Result<Split<'_>, Bad> {
    let Some(quoted) = line.strip_prefix('"') else {
        let (field, rest) = match line.split_once(',') {
            Some((field, rest)) => (field, Some(rest)),
            None => (line, None),
        };
        if field.contains(['\r', '\n']) {
            return Err(MORE_LINES.into());
        }
        if field.contains('"') {
            return Err("a quote stands within a field that is not quoted".into());
        }
        return Ok((
            Some(field).filter(|field| !field.is_empty()).map(Cow::from),
            rest,
        ));
    };
    let mut text = Cow::Borrowed("");
    let mut rest = quoted;
    loop {
        let Some((part, behind)) = rest.split_once('"') else {
            return Err("a quoted field does not end".into());
        };
        if text.is_empty() {
            text = Cow::Borrowed(part);
        } else {
            text.to_mut().push_str(part);
        }
        if let Some(more) = behind.strip_prefix('"') {
            text.to_mut().push('"');
            rest = more;
        } else if behind.is_empty() {
            return Ok((Some(text), None));
        } else if let Some(more) = behind.strip_prefix(',') {
            return Ok((Some(text), Some(more)));
        } else if behind.starts_with(['\r', '\n']) {
            return Err(MORE_LINES.into());
        } else {
            return Err("something stands between a quoted field and its comma".into());
        }
    }
}

/// Writes each row as one line of these columns; where there are none, the rows have all columns in order.
pub(crate) fn encode(
    batch: &RecordBatch,
    columns: Option<&SchemaRef>,
) -> Result<Vec<Bytes>, ArrowError> {
    let schema = columns.map_or_else(|| batch.schema(), SchemaRef::clone);
    let mut columns: Vec<Option<ArrayRef>> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = batch.column_by_name(field.name());
        columns.push(column.map(text_of).transpose()?);
    }
    Ok((0..batch.num_rows())
        .map(|row| {
            let mut line = String::new();
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    line.push(',');
                }
                if let Some(column) = column
                    && column.is_valid(row)
                {
                    put(&mut line, column.as_string::<i32>().value(row));
                }
            }
            Bytes::from(line)
        })
        .collect())
}

/// A column as text that reads back as the same value.
fn text_of(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match column.data_type() {
        DataType::Binary => {
            let values = column.as_binary::<i32>().iter();
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let texts: StringArray = values
                .map(|value| value.map(hex))
                .collect::<Vec<Option<String>>>()
                .into();
            Ok(Arc::new(texts))
        }
        DataType::Timestamp(TimeUnit::Millisecond, None) => {
            let times = column.as_primitive::<TimestampMillisecondType>();
            let near: TimestampMillisecondArray =
                times.unary_opt(|ms| TIMES_MS.contains(&ms).then_some(ms));
            let near = cast(&near, &DataType::Utf8)?;
            let mut instants = Instants::default();
            let mut far = |ms| {
                let mut text = Vec::new();
                instants.write(ms, &mut text);
                String::from_utf8_lossy(&text).replace('"', "")
            };
            let texts: StringArray = times
                .iter()
                .zip(near.as_string::<i32>())
                .map(|(ms, near)| near.map(str::to_owned).or_else(|| ms.map(&mut far)))
                .collect();
            Ok(Arc::new(texts))
        }
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().iter();
            let texts = days.map(|days| {
                let mut text = String::new();
                write_date(days?, &mut text).ok()?;
                Some(text)
            });
            Ok(Arc::new(texts.collect::<StringArray>()))
        }
        _ => cast(column, &DataType::Utf8),
    }
}

fn put(line: &mut String, text: &str) {
    let plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']);
    if plain {
        line.push_str(text);
        return;
    }
    line.push('"');
    line.push_str(&text.replace('"', "\"\""));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Date32Array, Float64Array, Int64Array};
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;

    fn decoder() -> LineDecoder {
        let schema = Schema::new(vec![
            Field::new("name", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
            Field::new("ok", DataType::Boolean, true),
        ]);
        LineDecoder::new(Columns::new(&schema, |_| true).unwrap())
    }

    fn decode(lines: &[&str]) -> Decoded {
        let bodies: BinaryArray = lines.iter().map(|line| Some(line.as_bytes())).collect();
        decoder().decode(&bodies).unwrap()
    }

    #[test]
    fn a_bad_line_is_found_and_its_neighbours_stay_in_place() {
        let decoded = decode(&[
            "a,1,1.5,true",
            "a,x,1.5,true",
            "\"a",
            "a,1,1.5,true,more",
            "\"a\"b,1",
            "b",
            "",
            "\"\",2,,false\r\n",
        ]);
        let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
        assert_eq!(bad, [1, 2, 3, 4], "{decoded:?}");
        let names: Vec<Option<&str>> = decoded.batch.column(0).as_string::<i32>().iter().collect();
        assert_eq!(
            names,
            [Some("a"), None, None, None, None, Some("b"), None, Some("")]
        );
    }

    #[test]
    fn a_body_of_two_lines_is_no_row() {
        let decoded = decode(&["a,1\n", "a,1\nb,2", "a\rb", "\"a\"\nb", "\"a\nb\",1\r\n"]);
        let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
        assert_eq!(bad, [1, 2, 3], "{decoded:?}");
        let reasons = decoded.errors.iter().map(|(_, reason)| reason.as_str());
        assert!(
            reasons.into_iter().all(|reason| reason == MORE_LINES),
            "{decoded:?}"
        );
        let names: Vec<Option<&str>> = decoded.batch.column(0).as_string::<i32>().iter().collect();
        assert_eq!(names, [Some("a"), None, None, None, Some("a\nb")]);
    }

    #[test]
    fn a_row_of_some_columns_in_any_order_is_written_by_place() {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let columns = Arc::new(Schema::new(vec![text("a"), text("b"), text("c")]));
        let rows = RecordBatch::try_new(
            Arc::new(Schema::new(vec![text("c"), text("a")])),
            vec![
                Arc::new(StringArray::from(vec!["C", ""])),
                Arc::new(StringArray::from(vec![Some("A"), None])),
            ],
        )
        .unwrap();
        assert_eq!(encode(&rows, Some(&columns)).unwrap(), ["A,,C", ",,\"\""]);
        assert_eq!(encode(&rows, None).unwrap(), ["C,A", "\"\","]);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            rows in proptest::collection::vec(
                (
                    proptest::option::of(".{0,8}"),
                    proptest::option::of(any::<i64>()),
                    proptest::option::of(-1e300_f64..1e300),
                    proptest::option::of(any::<bool>()),
                ),
                1..20,
            )
        ) {
            let batch = RecordBatch::try_new(
                Arc::clone(&decoder().columns.schema),
                vec![
                    Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0.clone()))),
                    Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1))),
                    Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.2))),
                    Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.3))),
                ],
            )
            .unwrap();
            let lines = encode(&batch, None).unwrap();
            let bodies: BinaryArray = lines.iter().map(|line| Some(line.as_ref())).collect();
            let back = decoder().decode(&bodies).unwrap();
            prop_assert!(back.errors.is_empty(), "{:?}", back.errors);
            prop_assert_eq!(back.batch, batch);
        }

        #[test]
        fn every_time_and_every_date_reads_back_the_same(
            times in proptest::collection::vec(proptest::option::of(any::<i64>()), 5),
            days in proptest::collection::vec(proptest::option::of(any::<i32>()), 5),
        ) {
            let columns: [(&str, ArrayRef); 2] = [
                ("at", Arc::new(TimestampMillisecondArray::from(times))),
                ("day", Arc::new(Date32Array::from(days))),
            ];
            let columns = columns.map(|(name, column)| (name, column, true));
            let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            let lines = encode(&batch, None).unwrap();
            let bodies: BinaryArray = lines.iter().map(|line| Some(line.as_ref())).collect();
            let decoder = LineDecoder::new(Columns::new(&batch.schema(), |_| true).unwrap());
            let back = decoder.decode(&bodies).unwrap();
            prop_assert!(back.errors.is_empty(), "{:?}", back.errors);
            prop_assert_eq!(back.batch, batch);
        }

        #[test]
        fn no_line_makes_it_panic(line in ".{0,40}") {
            let decoded = decode(&[&line]);
            prop_assert_eq!(decoded.batch.num_rows(), 1);
        }
    }
}
