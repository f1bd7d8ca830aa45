//! `INSERT`: the rows of a query as messages.
//!
//! A row fills declared columns, of which its body is made in the topic's format, or `_body` itself; beside
//! either, `_key` and `_properties`. A text for the `_body` of a format of bytes (Avro, Protobuf) is their hex digits, as
//! `SELECT` shows it. Where a primary key is declared the message key follows from it: the
//! text of its one column, or else its columns as the text of a JSON array, as in the topics of views.
//! A value that does not fit its column is an error and never a NULL, nor another value ([`super::fit`]); so is one of which a computed column
//! fails, since nobody would see its row.
//!
//! All rows are computed before the first is stored, up to [`limits::INSERT_HELD_BYTES`]. What fails behind that, or because the
//! broker takes no more, says how many rows are stored ([`Inserted`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, MapArray, RecordBatch, RecordBatchOptions,
    StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::prelude::DataFrame;
use datafusion::sql::sqlparser::ast::Query;
use futures::StreamExt as _;
use millpond_connectors::format::body::{BodyEncoder, Format};
use millpond_proto::limits;

use crate::batch::latest::external;
use crate::batch::{fit, literals};
use crate::catalog::{BODY, Table, table_schema};
use crate::computed::{self, Check};
use crate::error::{Refusal, SqlError};
use crate::row_key::{RowKeyError, can_be_key, key_form, row_keys};
use crate::statement::quoted;
use crate::topic::{Changelog, OutputRow, TopicInfo, Topics};

/// The system columns that an insert may fill.
const KEY: &str = "_key";
const PROPERTIES: &str = "_properties";

/// A topic and the columns that an insert fills, with the types they are sent as.
#[derive(Clone, Debug)]
pub struct Target {
    topic: TopicInfo,
    fields: Vec<Field>,
    encoder: BodyEncoder,
    table: Table,
    /// Whether its bodies are no texts.
    is_binary: bool,
}

impl Target {
    /// The target of an insert that names these columns; none: all that are stored.
    ///
    /// # Errors
    /// [`SqlError`] that names the column which can not be filled, and why.
    pub fn new(topic: TopicInfo, columns: &[String]) -> Result<Self, SqlError> {
        if let Some(job) = &topic.written_by {
            return Err(SqlError::invalid(
                format!(
                    "topic {} is written by {job} and by nobody else",
                    topic.name
                ),
                "insert into the topic that it reads instead",
            ));
        }
        let stored: Vec<&str> = topic
            .columns
            .iter()
            .filter(|column| column.expression.is_none())
            .map(|column| column.name.as_str())
            .collect();
        let wanted: Vec<&str> = match (columns, stored.as_slice()) {
            ([], []) => vec![BODY],
            ([], stored) => stored.to_vec(),
            (named, _) => named.iter().map(String::as_str).collect(),
        };
        let schema = table_schema(&topic)?;
        let mut fields = Vec::with_capacity(wanted.len());
        for (at, column) in wanted.iter().enumerate() {
            if wanted[..at].contains(column) {
                return Err(SqlError::invalid(
                    format!("column {column} is filled twice"),
                    "name it once",
                ));
            }
            let is_system = [KEY, BODY, PROPERTIES].contains(column);
            if !is_system && !stored.contains(column) {
                let fillable = stored.iter().copied().chain([KEY, BODY, PROPERTIES]);
                return Err(SqlError::unknown("stored column", column, None, fillable));
            }
            let field = schema.field_with_name(column).map_err(SqlError::from)?;
            fields.push(match *column {
                BODY => field.clone().with_data_type(DataType::Binary),
                _ => field.clone(),
            });
        }
        if topic.changelog == Changelog::Debezium && !fields.iter().any(|f| f.name() == BODY) {
            return Err(SqlError::invalid(
                format!(
                    "topic {} holds changes as Debezium writes them, not rows",
                    topic.name
                ),
                "fill _key and _body, or let a job write it: CREATE JOB name AS INSERT INTO …",
            ));
        }
        let table = Table::of(&topic.columns)?;
        let encoder = BodyEncoder::new(&topic.encoding)?.with_columns(&table.body);
        let format = topic.encoding.format;
        let target = Self {
            is_binary: matches!(format, Format::Avro | Format::Protobuf),
            topic,
            fields,
            encoder,
            table,
        };
        target.check_body_and_key()?;
        Ok(target)
    }

    /// Reads the texts among the values of a query as the columns that they fill.
    ///
    /// # Errors
    /// [`SqlError`] when the type of a column can not be written.
    pub fn read_literals(&self, query: &mut Query) -> Result<(), SqlError> {
        literals::typed(query, &self.fields)
    }

    fn fills(&self, column: &str) -> bool {
        self.fields.iter().any(|field| field.name() == column)
    }

    fn check_body_and_key(&self) -> Result<(), SqlError> {
        let fills_body = self.fills(BODY);
        let mut stored = self.topic.columns.iter().map(|column| &column.name);
        if fills_body && let Some(column) = stored.find(|column| self.fills(column)) {
            return Err(SqlError::invalid(
                format!("column {column} is a part of _body, and both are filled"),
                "fill either _body or columns",
            ));
        }
        let key = &self.topic.primary_key;
        if key.is_empty() {
            return Ok(());
        }
        if fills_body {
            if self.fills(KEY) {
                return Ok(());
            }
            return Err(SqlError::invalid(
                format!(
                    "topic {} has a primary key, and _key is not filled",
                    self.topic.name
                ),
                "fill _key beside _body, or the columns instead of both",
            ));
        }
        if self.fills(KEY) {
            return Err(SqlError::invalid(
                format!(
                    "the key of topic {} follows from its primary key",
                    self.topic.name
                ),
                "leave _key out",
            ));
        }
        match key.iter().find(|column| !self.fills(column)) {
            Some(column) => Err(SqlError::invalid(
                format!("column {column} is a part of the primary key and is not filled"),
                "fill it",
            )),
            None => Ok(()),
        }
    }

    /// Sends all rows of a query and answers how many they were; `inserted` knows of them also when this is given up.
    ///
    /// # Errors
    /// Those of the query, of a value that does not fit its column, and of the broker.
    pub async fn insert(
        &self,
        frame: DataFrame,
        topics: &dyn Topics,
        inserted: &Inserted,
    ) -> Result<u64, SqlError> {
        let found = frame.schema().fields().len();
        if found != self.fields.len() {
            return Err(SqlError::invalid(
                format!(
                    "{} columns are to be filled and the query answers {found}",
                    self.fields.len()
                ),
                format!(
                    "name the columns: INSERT INTO {} (column, …) …",
                    quoted(&self.topic.name)
                ),
            ));
        }
        let memory = MemoryConsumer::new(format!("rows for {}", self.topic.name));
        let memory = memory.register(frame.task_ctx().memory_pool());
        let mut rows = frame.execute_stream().await?;
        let mut held = Vec::new();
        while let Some(batch) = rows.next().await {
            let messages = self.messages(&batch?)?;
            let bytes = messages.iter().map(bytes_held).sum();
            held.extend(messages);
            let has_room = memory.try_grow(bytes).is_ok();
            if !has_room || memory.size() > limits::INSERT_HELD_BYTES {
                self.store(std::mem::take(&mut held), topics, inserted)
                    .await?;
                memory.free();
            }
        }
        self.store(held, topics, inserted).await?;
        Ok(inserted.stored.load(Ordering::Relaxed))
    }

    async fn store(
        &self,
        rows: Vec<OutputRow>,
        topics: &dyn Topics,
        inserted: &Inserted,
    ) -> Result<(), SqlError> {
        if rows.is_empty() {
            return Ok(());
        }
        // Whoever gives this up while it waits does not know of these.
        inserted.unknown.store(rows.len() as u64, Ordering::Relaxed);
        let (stored, unknown, error) = match topics.insert(self.topic.id, rows).await {
            Ok(stored) => (stored, 0, None),
            Err(failed) => (failed.stored, failed.unknown, Some(failed.error)),
        };
        inserted.stored.fetch_add(stored, Ordering::Relaxed);
        inserted.unknown.store(unknown, Ordering::Relaxed);
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    fn messages(&self, batch: &RecordBatch) -> Result<Vec<OutputRow>, SqlError> {
        let mut system: [Option<ArrayRef>; 3] = [None, None, None];
        let mut kept = Vec::with_capacity(self.fields.len());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.fields.len());
        for (field, column) in self.fields.iter().zip(batch.columns()) {
            let value =
                match field.name() == BODY && self.is_binary && column.data_type().is_string() {
                    true => from_hex(column)?,
                    false => fit::fitted(column, field)?,
                };
            match [KEY, BODY, PROPERTIES]
                .iter()
                .position(|name| field.name() == name)
            {
                Some(at) => system[at] = Some(value),
                None => {
                    kept.push(field.clone().with_nullable(true));
                    columns.push(value);
                }
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let body =
            RecordBatch::try_new_with_options(Arc::new(Schema::new(kept)), columns, &options)?;
        let [keys, bodies, properties] = system;
        let bodies: Vec<Option<Bytes>> = match &bodies {
            Some(bodies) => bytes_of(bodies.as_binary::<i32>()),
            None => {
                self.check_computed(&body)?;
                self.encoder.encode(&body)?.into_iter().map(Some).collect()
            }
        };
        let keys: Vec<Option<Bytes>> = match &keys {
            Some(keys) => {
                let keys = keys.as_string::<i32>();
                self.check_keys(keys)?;
                texts_of(keys)
            }
            None if self.topic.primary_key.is_empty() => vec![None; bodies.len()],
            None => self.keys(&body)?,
        };
        let properties = properties.as_ref().map(|properties| properties.as_map());
        let rows = keys.into_iter().zip(bodies).enumerate();
        rows.map(|(row, (key, body))| {
            Ok(OutputRow {
                key,
                body,
                properties: properties.map_or(Ok(Vec::new()), |all| properties_of(all, row))?,
            })
        })
        .collect()
    }

    /// Refuses rows of which a column fails that is computed of those that are filled.
    fn check_computed(&self, filled: &RecordBatch) -> Result<(), SqlError> {
        let of_columns =
            |check: &&Check| check.is_of_body && !check.reads.iter().any(|name| name == BODY);
        let checks = self.table.checks.iter().filter(of_columns);
        let places: Vec<usize> = checks.map(|check| check.place).collect();
        if places.is_empty() {
            return Ok(());
        }
        let input = computed::input(&self.table, None, filled.num_rows(), |field| {
            Ok(filled.column_by_name(field.name()).map(Arc::clone))
        })?;
        let computed = computed::compute(&self.table, places, &input, |_, _| true)?;
        match computed.failures.into_iter().next() {
            None => Ok(()),
            Some((_, reason)) => Err(SqlError::Invalid(Refusal {
                position: None,
                cause: format!("a row would not decode, {reason}"),
                suggestion: None,
            })),
        }
    }

    /// Refuses keys that no row of the topic can have, if it has a primary key: they would neither replace nor delete one.
    fn check_keys(&self, keys: &StringArray) -> Result<(), SqlError> {
        // Changes have the keys that Debezium gives them.
        if self.topic.primary_key.is_empty() || self.topic.changelog == Changelog::Debezium {
            return Ok(());
        }
        let schema = table_schema(&self.topic)?;
        let columns = self.topic.primary_key.iter();
        let columns = columns.map(|name| schema.field_with_name(name).cloned());
        let columns: Fields = columns.collect::<Result<Vec<_>, _>>()?.into();
        let wrong = keys
            .iter()
            .find(|key| !key.is_some_and(|key| can_be_key(key, &columns)));
        match wrong {
            None => Ok(()),
            Some(key) => Err(SqlError::invalid(
                match key {
                    Some(key) => format!("no row of topic {} has the key {key:?}", self.topic.name),
                    None => format!(
                        "each row of topic {} has a key, and _key is NULL",
                        self.topic.name
                    ),
                },
                key_form(&columns),
            )),
        }
    }

    /// The message key of each row, made of the columns of the primary key.
    fn keys(&self, body: &RecordBatch) -> Result<Vec<Option<Bytes>>, SqlError> {
        let schema = body.schema();
        let places = self.topic.primary_key.iter();
        let places = places.map(|name| schema.index_of(name));
        let key = body.project(&places.collect::<Result<Vec<_>, _>>()?)?;
        let keys = row_keys(&key).map_err(|error| match error {
            RowKeyError::Null { column } => SqlError::invalid(
                format!("column {column} is a part of the primary key and can not be NULL"),
                "fill it, or leave such rows out with WHERE",
            ),
            RowKeyError::Write(error) => external(error).into(),
        })?;
        Ok(keys.into_iter().map(Some).collect())
    }
}

/// What became of the rows of an `INSERT` so far.
#[derive(Debug, Default)]
pub struct Inserted {
    stored: AtomicU64,
    /// Those that are on their way.
    unknown: AtomicU64,
}

impl Inserted {
    /// Says in an error that ended the statement what is stored by then.
    #[must_use]
    pub fn told_in(&self, error: SqlError) -> SqlError {
        let stored = self.stored.load(Ordering::Relaxed);
        let unknown = self.unknown.load(Ordering::Relaxed);
        if stored == 0 && unknown == 0 {
            return error;
        }
        SqlError::Partly {
            stored,
            unknown,
            cause: Box::new(error),
        }
    }
}

/// Memory that a row takes until it is stored.
fn bytes_held(row: &OutputRow) -> usize {
    let properties = row.properties.iter();
    let properties =
        properties.map(|(key, value)| size_of::<(String, String)>() + key.len() + value.len());
    let bytes = [&row.key, &row.body].into_iter().flatten().map(Bytes::len);
    size_of::<OutputRow>() + properties.sum::<usize>() + bytes.sum::<usize>()
}

fn bytes_of(values: &BinaryArray) -> Vec<Option<Bytes>> {
    let values = values.iter();
    values
        .map(|value| value.map(Bytes::copy_from_slice))
        .collect()
}

/// The bytes of hex digits.
fn from_hex(texts: &ArrayRef) -> Result<ArrayRef, SqlError> {
    let texts = cast(texts, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>().iter();
    let bytes = texts.map(|text| text.map(hex_bytes).transpose());
    let bytes = bytes.collect::<Result<BinaryArray, SqlError>>()?;
    Ok(Arc::new(bytes))
}

fn hex_bytes(text: &str) -> Result<Vec<u8>, SqlError> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
    let digits = digits.ok_or_else(|| {
        SqlError::invalid(
            "a text for _body is no hex digits, as which bodies of this format are written",
            "write X'00ff', or fill the columns instead",
        )
    })?;
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}

fn texts_of(values: &StringArray) -> Vec<Option<Bytes>> {
    let values = values.iter();
    values
        .map(|value| value.map(|text| Bytes::copy_from_slice(text.as_bytes())))
        .collect()
}

/// The properties of one message; their order is that of the map.
fn properties_of(maps: &MapArray, row: usize) -> Result<Vec<(String, String)>, SqlError> {
    if maps.is_null(row) {
        return Ok(Vec::new());
    }
    let entries = maps.value(row);
    let (keys, values) = (
        entries.column(0).as_string::<i32>(),
        entries.column(1).as_string::<i32>(),
    );
    let pairs = keys.iter().zip(values.iter()).map(|(key, value)| {
        let key = key.unwrap_or_default();
        let value = value.ok_or_else(|| {
            SqlError::invalid(
                format!("property {key} is NULL, and a property has a text"),
                "give it one, or leave it out",
            )
        })?;
        Ok((key.to_owned(), value.to_owned()))
    });
    pairs.collect()
}
