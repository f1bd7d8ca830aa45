//! The declared columns of a topic as files of the cold tier have them.
//!
//! [`TypedColumns`] is what storage is handed: the same parser that reads bodies in a query, over all columns that are
//! read from the body. Computed columns are not stored; a query computes them of these. Those that follow from the body and may fail are
//! computed here once, so that the column of errors says of which rows they do.
//!
//! **Invariants.** The number of a declaration changes with every column that is added, but for those that are computed and
//! told nothing of here, and with every change of what the parser makes of a body, so columns of an older declaration are
//! never taken for those of a newer one.

use std::sync::Arc;

use arrow::array::{Array as _, BinaryArray, RecordBatch};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use millpond_connectors::format::body::Format;
use millpond_connectors::format::json::JsonDecoder;
use millpond_proto::message::stable_hash;
use millpond_storage::tier::columns::{Column, Columns, Projected};

use crate::catalog::{BODY, Table};
use crate::computed::{self, Failures};
use crate::decode::{parse, text_or_null, without};
use crate::error::SqlError;
use crate::topic::{Changelog, ColumnSpec};

/// Raised when the parser reads some body otherwise than before: files are then read by their bodies until
/// they are merged.
const PARSER: u32 = 2;

/// Whether files have columns of such bodies: only of JSON, and not where the row stands within a change.
#[must_use]
pub fn has_typed_columns(format: Format, changelog: Changelog) -> bool {
    format == Format::Json && changelog != Changelog::Debezium
}

/// Tells the body columns of one declaration, and what is said of its rows, from those of any other; never 0.
pub(crate) fn declaration(columns: &[ColumnSpec], table: &Table) -> u64 {
    let mut words = PARSER.to_le_bytes().to_vec();
    for (place, column) in columns.iter().enumerate() {
        let mut checks = table.checks.iter().filter(|check| check.is_of_body);
        if column.expression.is_none() || checks.any(|check| check.place == place) {
            words.extend_from_slice(&place.to_le_bytes());
            let expression = column.expression.as_ref();
            for word in [&column.name, &column.sql_type]
                .into_iter()
                .chain(expression)
            {
                words.extend_from_slice(&word.len().to_le_bytes());
                words.extend_from_slice(word.as_bytes());
            }
        }
    }
    stable_hash(&words).max(1)
}

/// The body columns of one declaration.
#[derive(Debug)]
pub struct TypedColumns {
    declaration: u64,
    columns: Vec<Column>,
    json: JsonDecoder,
    table: Table,
}

impl TypedColumns {
    /// The columns of a declaration that are read from the body; none when there are none.
    ///
    /// # Errors
    /// As [`crate::catalog::check_columns`].
    pub fn of(specs: &[ColumnSpec]) -> Result<Option<Self>, SqlError> {
        let table = Table::of(specs)?;
        let places = specs.iter().zip(0_u32..);
        let places = places.filter(|(spec, _)| spec.expression.is_none());
        let columns: Vec<Column> = places
            .zip(table.body.fields())
            .map(|((spec, place), field)| Column {
                place,
                name: spec.name.clone(),
                data_type: field.data_type().clone(),
            })
            .collect();
        Ok((!columns.is_empty()).then(|| Self {
            declaration: declaration(specs, &table),
            columns,
            json: JsonDecoder::new(Arc::clone(&table.body)),
            table,
        }))
    }

    /// How the computed columns that follow from bodies, read as `body`, end.
    fn failures(&self, bodies: &BinaryArray, body: &RecordBatch) -> Result<Failures, SqlError> {
        let checks = self.table.checks.iter().filter(|check| check.is_of_body);
        let places: Vec<usize> = checks.map(|check| check.place).collect();
        if places.is_empty() {
            return Ok(Failures::new());
        }
        let texts = |field: &Field| {
            let texts = (field.name() == BODY).then(|| text_or_null(bodies));
            texts.transpose()
        };
        let input = computed::input(&self.table, Some(body), bodies.len(), texts)?;
        let counts = |_, row| bodies.is_valid(row);
        Ok(computed::compute(&self.table, places, &input, counts)?.failures)
    }
}

impl Columns for TypedColumns {
    fn id(&self) -> u64 {
        self.declaration
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn project(&self, bodies: &BinaryArray) -> Result<Projected, ArrowError> {
        let (batch, mut errors) = parse(&self.json, bodies)?;
        let failures = self.failures(bodies, &batch);
        let failures = failures.map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let mut columns = batch.columns().to_vec();
        if !failures.is_empty() {
            computed::add(&mut errors, failures);
            for column in &mut columns {
                *column = without(column, &errors)?;
            }
        }
        Ok(Projected { columns, errors })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, Int64Array};
    use arrow::datatypes::DataType;
    use millpond_connectors::format::body::Encoding;
    use millpond_proto::message::TopicId;
    use proptest::prelude::*;

    use super::*;
    use crate::decode::TopicDecoder;
    use crate::testing::rows::as_in_a_file;
    use crate::topic::TopicInfo;

    fn specs() -> Vec<ColumnSpec> {
        let column = |name: &str, sql_type: &str, expression: Option<&str>| ColumnSpec {
            name: name.to_owned(),
            sql_type: sql_type.to_owned(),
            expression: expression.map(str::to_owned),
        };
        vec![
            column("n", "BIGINT", None),
            column("small", "SMALLINT", None),
            column("twice", "", Some("n * 2")),
            column("word", "VARCHAR", None),
            column("at", "TIMESTAMP", None),
            column("price", "DECIMAL(10, 2)", None),
            column("quotient", "", Some("100 / small")),
            column("share", "", Some("100 / coalesce(n, 0)")),
            column("total", "INT", Some("_body->>'n'")),
            column("placed", "", Some("n / _offset")),
        ]
    }

    fn topic() -> TopicInfo {
        TopicInfo {
            name: "t".to_owned(),
            id: TopicId(7),
            queues: 1,
            columns: specs(),
            watermark: None,
            primary_key: Vec::new(),
            written_by: None,
            encoding: Encoding::default(),
            changelog: Changelog::default(),
        }
    }

    fn envelopes(bodies: &[Option<String>]) -> RecordBatch {
        let bodies: BinaryArray = bodies
            .iter()
            .map(|b| b.as_ref().map(String::as_bytes))
            .collect();
        let offsets = Int64Array::from_iter_values((0..).take(bodies.len()));
        let queues = Int32Array::from(vec![0; bodies.len()]);
        RecordBatch::try_from_iter([
            ("queue", Arc::new(queues) as ArrayRef),
            ("offset", Arc::new(offsets)),
            ("body", Arc::new(bodies)),
        ])
        .unwrap()
    }

    /// What a file has of the same messages, with the columns that the decoder asks for.
    fn stored(envelopes: &RecordBatch, decoder: &TopicDecoder) -> RecordBatch {
        let columns = TypedColumns::of(&specs()).unwrap().unwrap();
        let typed = decoder.typed().unwrap();
        assert_eq!(typed.declaration, columns.id());
        as_in_a_file(envelopes, &columns, &typed)
    }

    fn body() -> impl Strategy<Value = Option<String>> {
        prop_oneof![
            Just(None),
            Just(Some("not json".to_owned())),
            Just(Some("{}".to_owned())),
            Just(Some(r#"{"n":"x"}"#.to_owned())),
            Just(Some(r#"{"small":70000}"#.to_owned())),
            Just(Some(r#"{"n":0,"small":7}"#.to_owned())),
            Just(Some(r#"{"n":7,"small":0}"#.to_owned())),
            Just(Some(r#"{"n":3000000000}"#.to_owned())),
            (any::<i32>(), any::<i16>(), "[a-z]{0,4}").prop_map(|(n, small, word)| Some(format!(
                r#"{{"n":{n},"small":{small},"word":"{word}","at":"2013-01-02 03:04:05","price":1.25}}"#
            ))),
        ]
    }

    proptest! {
        #[test]
        fn typed_columns_answer_as_bodies_do(
            bodies in proptest::collection::vec(body(), 1..40),
            projection in proptest::sample::subsequence((0..21_usize).collect::<Vec<_>>(), 1..21),
        ) {
            let needed = |at: &usize| matches!(at, 0..=11 | 19 | 20);
            let projection: Vec<usize> = projection.into_iter().filter(needed).collect();
            let decoder = TopicDecoder::new(&topic(), &projection).unwrap();
            let envelopes = envelopes(&bodies);
            let by_body = decoder.decode(&envelopes).unwrap();
            if decoder.typed().is_some() {
                let by_column = decoder.decode(&stored(&envelopes, &decoder)).unwrap();
                prop_assert_eq!(by_body.batch, by_column.batch);
                prop_assert_eq!(by_body.undecodable, by_column.undecodable);
                prop_assert_eq!(by_body.first_error, by_column.first_error);
            }
        }
    }

    #[test]
    fn a_declaration_is_told_from_one_with_another_column_or_type() {
        let declaration = |specs: &[ColumnSpec]| declaration(specs, &Table::of(specs).unwrap());
        let first = declaration(&specs());
        let mut more = specs();
        more.push(ColumnSpec {
            name: "z".to_owned(),
            sql_type: "INT".to_owned(),
            expression: None,
        });
        assert_ne!(first, declaration(&more));
        let mut other = specs();
        other[0].sql_type = "INT".to_owned();
        assert_ne!(first, declaration(&other));
        let mut computed = specs();
        computed[2].expression = Some("n * 3".to_owned());
        assert_eq!(first, declaration(&computed), "it is not in the files");
        computed[6].expression = Some("100 / n".to_owned());
        assert_ne!(first, declaration(&computed), "files say where it fails");
        computed[6] = specs().remove(6);
        computed[9].expression = Some("n / _queue".to_owned());
        assert_eq!(first, declaration(&computed), "files do not know it");
        let columns = TypedColumns::of(&more).unwrap().unwrap();
        let ids: Vec<u32> = columns.columns().iter().map(Column::id).collect();
        assert_eq!(ids, [1001, 1002, 1004, 1005, 1006, 1011]);
        assert_eq!(columns.columns()[1].stored_type(), DataType::Int32);
        assert!(TypedColumns::of(&[]).unwrap().is_none());
    }
}
