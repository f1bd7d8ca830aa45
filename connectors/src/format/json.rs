//! JSON bodies: one object per body.
//!
//! **Invariant.** Row `i` of the answer is body `i` of the question, whatever the other bodies hold. A body is
//! good or bad as a whole, by all columns of the schema, also those that nobody wants built: whether it parses must
//! not depend on who asks.
//!
//! A field that the schema does not name is skipped; a field that the body lacks is NULL; of a field that stands
//! there twice the last counts. Nothing is lost on the way: a number with a fraction is no integer. Which
//! texts and numbers each type takes is told in `json/column.rs`; `json/scan.rs` reads the text,
//! `json/instant.rs` the usual form of a time, `json/write.rs` writes rows.

pub(crate) mod column;
pub(crate) mod instant;
pub(crate) mod scan;
pub mod wordless;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;

use column::{Builder, Kind, Slot};
use scan::{Bad, Scanner, quoted};

/// Bodies as columns.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// As many rows as bodies; a row that failed, or had no body, is NULL in every column.
    pub batch: RecordBatch,
    /// Rows that failed and why, in order.
    pub errors: Vec<(usize, String)>,
}

/// Reads bodies as rows of a schema.
#[derive(Clone, Debug)]
pub struct JsonDecoder {
    /// What is answered: the asked schema, every column nullable.
    schema: SchemaRef,
    places: HashMap<String, usize>,
    /// The fields' names as most bodies write them.
    quoted: Vec<Vec<u8>>,
    /// Per column, whether it is built; the others are checked and answered as NULL.
    wanted: Vec<bool>,
}

/// A body without fields.
const EMPTY_OBJECT: &[u8] = b"{}";

impl JsonDecoder {
    /// A decoder for these columns. Columns become nullable, since any body may lack any field.
    #[must_use]
    pub fn new(schema: SchemaRef) -> Self {
        let fields: Vec<Field> = schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_nullable(true))
            .collect();
        let places = fields.iter().enumerate();
        Self {
            places: places
                .map(|(at, field)| (field.name().clone(), at))
                .collect(),
            quoted: fields.iter().map(|field| quoted(field.name())).collect(),
            wanted: vec![true; fields.len()],
            schema: Arc::new(Schema::new(fields)),
        }
    }

    /// Builds these columns alone; the others are checked as before, and NULL in the answer.
    #[must_use]
    pub fn with_wanted(mut self, wanted: impl Fn(&str) -> bool) -> Self {
        let fields = self.schema.fields().iter();
        self.wanted = fields.map(|field| wanted(field.name())).collect();
        self
    }

    /// The schema of every answer.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Decodes bodies; a NULL body is a tombstone, which is no error and NULL in every column.
    ///
    /// # Errors
    /// None for what a body holds: those are rows of [`Decoded::errors`]. Only a schema that JSON can
    /// not fill answers an error.
    pub fn decode(&self, bodies: &BinaryArray) -> Result<Decoded, ArrowError> {
        let rows = bodies.len();
        let fields = self.schema.fields();
        let kinds = fields
            .iter()
            .map(|field| Kind::of(field.data_type()))
            .collect::<Result<Vec<_>, _>>()?;
        // About what each text column holds, so that they seldom have to grow.
        let offsets = bodies.value_offsets();
        let all = offsets.first().zip(offsets.last());
        let bytes = all.map_or(0, |(first, last)| {
            usize::try_from(last - first).unwrap_or(0)
        });
        let share = bytes / fields.len().max(1);
        let mut builders = Vec::with_capacity(fields.len());
        for (field, wanted) in fields.iter().zip(&self.wanted) {
            builders.push(match wanted {
                true => Some(Builder::new(field.data_type(), rows, share)?),
                false => None,
            });
        }
        let mut errors = Vec::new();
        let mut slots: Vec<Slot<'_>> = vec![Slot::Null; fields.len()];
        for (row, body) in bodies.iter().enumerate() {
            slots.fill(Slot::Null);
            if let Some(body) = body
                && let Err(reason) = self.read(body, &kinds, &mut slots)
            {
                slots.fill(Slot::Null);
                errors.push((row, reason.chars().take(REASON_CHARS_MAX).collect()));
            }
            for (builder, slot) in builders.iter_mut().zip(&mut slots) {
                if let Some(builder) = builder {
                    builder.append(std::mem::replace(slot, Slot::Null));
                }
            }
        }
        let columns: Vec<ArrayRef> = builders
            .into_iter()
            .zip(fields)
            .map(|(builder, field)| match builder {
                Some(builder) => builder.finish(),
                None => new_null_array(field.data_type(), rows),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Decoded { batch, errors })
    }

    /// Fills the slots of one row.
    fn read<'a>(&self, body: &'a [u8], kinds: &[Kind], slots: &mut [Slot<'a>]) -> Result<(), Bad> {
        // Fields mostly come in the same order as in the schema, so the next one is tried first.
        let mut next = 0;
        let mut scanner = Scanner::new(body)?;
        let mut more = scanner.begin()?;
        while more {
            let expected = self.quoted.get(next).map_or(&[][..], Vec::as_slice);
            let place = match scanner.take_name(expected) {
                true => Some(next),
                false => self.places.get(scanner.name()?.as_ref()).copied(),
            };
            match place.and_then(|place| Some((place, kinds.get(place)?, slots.get_mut(place)?))) {
                Some((place, kind, slot)) => {
                    next = place + 1;
                    *slot = match kind.quick(&mut scanner) {
                        Some(value) => value,
                        None => kind
                            .read(scanner.token()?)
                            .map_err(|reason| self.refuse(place, &reason))?,
                    };
                }
                None => drop(scanner.token()?),
            }
            more = scanner.more()?;
        }
        scanner.end()
    }

    fn refuse(&self, place: usize, reason: &str) -> Bad {
        let name = self
            .schema
            .fields()
            .get(place)
            .map_or("", |field| field.name().as_str());
        format!("field {name}: {reason}").into()
    }
}

/// Longest reason that is kept of a bad body, whose text it quotes.
const REASON_CHARS_MAX: usize = 200;

/// Writes each row as one JSON object: NULLs are left out, timestamps are ISO 8601 UTC with
/// milliseconds, numbers are plain and read back as the same value.
///
/// # Errors
/// When a column's type has no JSON form.
pub fn encode_rows(batch: &RecordBatch) -> Result<Vec<Bytes>, ArrowError> {
    if batch.num_columns() == 0 {
        return Ok(vec![Bytes::from_static(EMPTY_OBJECT); batch.num_rows()]);
    }
    let (all, rows) = write::objects(batch)?;
    let all = Bytes::from(all);
    Ok(rows.into_iter().map(|row| all.slice(row)).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType};
    use proptest::prelude::*;

    use super::*;

    fn flights() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("carrier", DataType::Utf8, true),
            Field::new("delay", DataType::Float64, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("n", DataType::Int64, true),
        ]))
    }

    fn decode(bodies: &[Option<&str>]) -> Decoded {
        let bodies: BinaryArray = bodies.iter().map(|body| body.map(str::as_bytes)).collect();
        JsonDecoder::new(flights())
            .decode(&bodies)
            .expect("the schema is one that JSON fills")
    }

    fn carriers(decoded: &Decoded) -> Vec<Option<String>> {
        decoded
            .batch
            .column(0)
            .as_string::<i32>()
            .iter()
            .map(|value| value.map(str::to_owned))
            .collect()
    }

    #[test]
    fn bad_bodies_are_found_and_their_neighbours_stay_in_place() {
        let bodies = [
            Some(r#"{"carrier":"AA","delay":1.5}"#),
            Some(r#"{"carrier":"B1"}{"carrier":"B2"}"#),
            Some(r#"{"carrier":"#),
            Some(r#""AA"}"#),
            Some(r#"{"carrier":"UA"} x"#),
            None,
            Some("[1]"),
            Some(r#"{"carrier":7}"#),
            Some(r#"{"delay":"much"}"#),
            Some(""),
            Some("null"),
            Some(" { } "),
            Some(r#"{"carrier":"DL","other":[{"x":1}]}"#),
        ];
        let decoded = decode(&bodies);
        let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
        assert_eq!(bad, vec![1, 2, 3, 4, 6, 7, 8, 9, 10], "{decoded:?}");
        let expected: Vec<Option<String>> = (0..bodies.len())
            .map(|row| match row {
                0 => Some("AA".to_owned()),
                12 => Some("DL".to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(carriers(&decoded), expected);
        assert_eq!(
            decoded
                .batch
                .column(1)
                .as_primitive::<Float64Type>()
                .value(0),
            1.5
        );
    }

    #[test]
    fn a_column_that_nobody_wants_is_checked_and_not_built() {
        let bodies = BinaryArray::from(vec![
            &b"{\"carrier\":\"AA\",\"n\":1}"[..],
            &b"{\"carrier\":\"UA\",\"n\":1.5}"[..],
        ]);
        let all = JsonDecoder::new(flights()).decode(&bodies).unwrap();
        let decoder = JsonDecoder::new(flights()).with_wanted(|name| name == "carrier");
        let some = decoder.decode(&bodies).unwrap();
        assert_eq!(some.errors, all.errors);
        assert_eq!(
            some.errors,
            [(1, "field n: 1.5 is not a BIGINT".to_owned())]
        );
        assert_eq!(carriers(&some), [Some("AA".to_owned()), None]);
        assert_eq!(some.batch.column(3).null_count(), 2);
    }

    #[test]
    fn timestamps_are_read_in_each_iso_form() {
        let decoded = decode(&[
            Some(r#"{"at":"2013-01-01T10:00:00Z"}"#),
            Some(r#"{"at":"2013-01-01 10:00:00"}"#),
            Some(r#"{"at":"2013-01-01"}"#),
            Some(r#"{"at":1357034400000}"#),
            Some(r#"{"at":"soon"}"#),
        ]);
        let at = decoded
            .batch
            .column(2)
            .as_primitive::<TimestampMillisecondType>();
        let ten = 1_357_034_400_000;
        assert_eq!(
            at.iter().collect::<Vec<_>>(),
            vec![
                Some(ten),
                Some(ten),
                Some(ten - 36_000_000),
                Some(ten),
                None
            ]
        );
        assert_eq!(decoded.errors.len(), 1);
    }

    #[test]
    fn bodies_that_are_not_utf8_are_errors_of_their_row() {
        let bodies = BinaryArray::from(vec![
            &b"{\"carrier\":\"\xff\xfe\"}"[..],
            &b"{\"carrier\":\"AA\"}"[..],
        ]);
        let decoded = JsonDecoder::new(flights()).decode(&bodies).unwrap();
        assert_eq!(decoded.errors.len(), 1);
        assert_eq!(carriers(&decoded), vec![None, Some("AA".to_owned())]);
    }

    #[test]
    fn without_columns_bodies_are_still_counted_and_checked() {
        let bodies = BinaryArray::from(vec![&b"{}"[..], &b"{"[..]]);
        let decoded = JsonDecoder::new(Arc::new(Schema::empty()))
            .decode(&bodies)
            .unwrap();
        assert_eq!(decoded.batch.num_rows(), 2);
        assert_eq!(decoded.errors.len(), 1);
    }

    #[test]
    fn rows_are_written_as_objects_that_read_back_the_same() {
        let batch = RecordBatch::try_new(
            flights(),
            vec![
                Arc::new(StringArray::from(vec![Some("A\n\"A"), None])),
                Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(1e300)])),
                Arc::new(TimestampMillisecondArray::from(vec![
                    Some(1_357_034_400_123),
                    None,
                ])),
                Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(-1)])),
            ],
        )
        .unwrap();
        let rows = encode_rows(&batch).unwrap();
        assert_eq!(
            std::str::from_utf8(&rows[0]).unwrap(),
            "{\"carrier\":\"A\\n\\\"A\",\"delay\":0.30000000000000004,\"at\":\"2013-01-01T10:00:00.123Z\",\"n\":9223372036854775807}"
        );
        assert!(!String::from_utf8_lossy(&rows[1]).contains("carrier"));
        let bodies: BinaryArray = rows.iter().map(|row| Some(row.as_ref())).collect();
        let back = JsonDecoder::new(flights()).decode(&bodies).unwrap();
        assert!(back.errors.is_empty());
        assert_eq!(back.batch, batch);
    }

    /// A value as some field may hold it.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<i32>().prop_map(|n| n.to_string()),
            (-1e6_f64..1e6).prop_map(|f| serde_json::Value::from(f).to_string()),
            ".{0,6}".prop_map(|text| serde_json::Value::from(text).to_string()),
            Just("\"2013-01-01T10:00:00.5Z\"".to_owned()),
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("[1,{\"a\":[]}]".to_owned()),
        ]
    }

    proptest! {
        /// Where both take a body they read the same; ours refuses more only for fractions in integers, and takes more only for
        /// what is nested where a text is asked for.
        #[test]
        fn bodies_are_read_as_by_the_reader_of_arrow(
            fields in proptest::collection::vec((0_usize..5, value()), 0..5)
        ) {
            let names = ["carrier", "delay", "at", "n", "other"];
            // What a name that comes twice means is left open by the standard.
            let mut named = std::collections::BTreeSet::new();
            let fields = fields.into_iter().filter(|(at, _)| named.insert(*at));
            let fields: Vec<(usize, String)> = fields.collect();
            let nests = fields.iter().any(|(at, value)| *at == 0 && value.starts_with('['));
            let members = fields.iter().map(|(at, value)| format!("\"{}\": {value}", names[*at]));
            let body = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
            let ours = decode(&[Some(&body)]);
            let mut arrow = arrow::json::ReaderBuilder::new(flights()).build_decoder().unwrap();
            let theirs = arrow.decode(body.as_bytes()).and_then(|_| arrow.flush());
            match (ours.errors.as_slice(), theirs) {
                ([], Ok(Some(theirs))) => prop_assert_eq!(&ours.batch, &theirs, "{}", body),
                ([], Err(_)) if nests => {}
                ([], theirs) => prop_assert!(false, "{}: theirs is {:?}", body, theirs),
                ([(_, reason)], Ok(_)) => prop_assert!(
                    reason.contains("BIGINT") || reason.contains("TIMESTAMP"),
                    "{}: {}",
                    body,
                    reason
                ),
                _ => {}
            }
        }

        #[test]
        fn exactly_the_bad_bodies_are_flagged(
            kinds in proptest::collection::vec((0_u8..8, any::<i64>()), 0..60)
        ) {
            let bodies: Vec<Option<String>> = kinds
                .iter()
                .map(|(kind, n)| match kind {
                    0..=3 => Some(format!("{{\"n\":{n}}}")),
                    4 => None,
                    5 => Some(format!("{{\"n\":{n}}}{{\"n\":{n}}}")),
                    6 => Some(format!("{{\"n\":{n}")),
                    _ => Some("{\"n\":\"x\"}".to_owned()),
                })
                .collect();
            let refs: Vec<Option<&str>> = bodies.iter().map(Option::as_deref).collect();
            let decoded = decode(&refs);
            let bad: Vec<usize> = decoded.errors.iter().map(|(row, _)| *row).collect();
            let expected: Vec<usize> = (0..kinds.len()).filter(|row| kinds[*row].0 > 4).collect();
            prop_assert_eq!(bad, expected);
            let n = decoded.batch.column(3).as_primitive::<Int64Type>();
            for (row, (kind, value)) in kinds.iter().enumerate() {
                prop_assert_eq!(n.is_valid(row), *kind < 4);
                if *kind < 4 {
                    prop_assert_eq!(n.value(row), *value);
                }
            }
        }
    }
}
