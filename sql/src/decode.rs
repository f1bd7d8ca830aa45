//! Envelopes to rows: from what the log holds to the columns of a topic's table.
//!
//! Bodies are parsed only when a declared column is asked for, and then checked as all declared columns:
//! whether a body is good must not depend on which columns a query happens to name. Columns are built only of
//! what is asked for. A body that does not parse is counted, and its row is left out unless the columns that are asked for
//! show it ([`catalog::shows_undecodable`]): then it is NULL in every declared column, and `_decode_error` says why. A row of
//! which a computed column fails is one of those (`crate::computed`). Of a topic of changes as Debezium writes them, the
//! row within the change is what counts as the body.
//!
//! Files of the cold tier have the declared columns of JSON bodies already, made by the same parser (`crate::typed`):
//! where a batch comes with them its bodies are not parsed again, and the answer is the same.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, MapArray, RecordBatch,
    RecordBatchOptions, StringArray, StringBuilder, StructArray, new_null_array,
};
use arrow::compute::{cast, or};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::physical_expr::utils::collect_columns;
use millpond_connectors::format::body::{BodyDecoder, Format};
use millpond_connectors::format::debezium;
use millpond_connectors::format::json::JsonDecoder;
use millpond_storage::tier::cold::typed::Typed;
use millpond_storage::tier::columns::{ERROR, stored_name};

use crate::catalog::{self, BODY, DECODE_ERROR, Table};
use crate::computed::{self, Computed};
use crate::error::SqlError;
use crate::topic::{Changelog, TopicInfo};
use crate::typed::{declaration, has_typed_columns};

/// Rows of a table.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// As many rows as envelopes; the projected columns, in the order asked for.
    pub batch: RecordBatch,
    /// How many bodies did not parse.
    pub undecodable: u64,
    /// The first of them: its row in this batch, and why.
    pub first_error: Option<(usize, String)>,
    /// Which rows are not to be answered, if any: those that are no more, where bodies say so (a tombstone says it by having
    /// none), and those whose body does not parse, where they are not asked for.
    pub left_out: Option<BooleanArray>,
}

/// Reads envelopes of one topic as some columns of its table.
#[derive(Debug)]
pub struct TopicDecoder {
    table: Table,
    /// The answered columns, as positions in the table's schema.
    projection: Vec<usize>,
    schema: SchemaRef,
    /// `Some` when bodies are parsed.
    body: Option<BodyDecoder>,
    /// Whether bodies are changes and rows stand within them.
    unwraps: bool,
    /// Whether bodies are text.
    is_text: bool,
    /// Whether rows whose body does not parse are answered.
    shows_undecodable: bool,
    /// Places of the columns that are computed where the file says how those that follow from the body ended,
    computed: BTreeSet<usize>,
    /// and of those that are computed besides where bodies are parsed.
    checked: BTreeSet<usize>,
    /// Names of system columns that are built, for the answer or for an expression.
    system: BTreeSet<&'static str>,
    envelope: Vec<&'static str>,
    /// Body columns that are read of files that have them.
    wanted: BTreeSet<String>,
    declaration: u64,
    /// Whether files have the body's columns.
    is_typed: bool,
}

impl TopicDecoder {
    /// A decoder that answers the columns at `projection`, positions in [`catalog::table_schema`].
    ///
    /// # Errors
    /// As [`catalog::table_schema`], and [`SqlError::Bug`] for a position that is not there.
    pub fn new(topic: &TopicInfo, projection: &[usize]) -> Result<Self, SqlError> {
        let table = Table::of(&topic.columns)?;
        let declared = table.computed.len();
        let mut fields = Vec::with_capacity(projection.len());
        let mut system = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        let mut computed = BTreeSet::new();
        let mut parses = false;
        for &at in projection {
            let field = table.schema.fields().get(at).ok_or_else(|| SqlError::Bug {
                cause: format!("table {} has no column at {at}", topic.name),
            })?;
            fields.push(Arc::clone(field));
            if let Some(expression) = table.computed.get(at) {
                // Whether a computed column is NULL depends on whether the body parses.
                parses = true;
                match expression {
                    None => {
                        wanted.insert(field.name().clone());
                    }
                    Some(expression) => {
                        computed.insert(at);
                        for column in collect_columns(expression) {
                            system.extend(system_name(column.name()));
                            wanted.insert(column.name().to_owned());
                        }
                    }
                }
            } else {
                system.extend(system_name(field.name()));
                parses |= field.name() == DECODE_ERROR && declared > 0;
            }
        }
        let unwraps = topic.changelog == Changelog::Debezium;
        parses |= unwraps;
        let shows_undecodable = catalog::shows_undecodable(&table.schema, declared, projection);
        parses |= !shows_undecodable && declared > 0;
        let mut checked = BTreeSet::new();
        let mut built = BTreeSet::new();
        for check in table.checks.iter().filter(|_| parses) {
            if check.is_of_body {
                checked.insert(check.place);
                built.extend(check.reads.iter().cloned());
            } else {
                computed.insert(check.place);
                system.extend(check.reads.iter().filter_map(|name| system_name(name)));
                wanted.extend(check.reads.iter().cloned());
            }
        }
        built.extend(wanted.iter().cloned());
        let mut envelope: Vec<&'static str> =
            system.iter().filter_map(|name| source(name)).collect();
        if parses && !envelope.contains(&"body") {
            envelope.push("body");
        }
        let mut body = None;
        if parses {
            let is_built = |name: &str| built.contains(name);
            let decoder = BodyDecoder::new(&topic.encoding, &table.body, is_built)?;
            if decoder.reads_versions() {
                envelope.push("schema_id");
            }
            body = Some(decoder);
        }
        let is_typed = parses
            && has_typed_columns(topic.encoding.format, topic.changelog)
            && !table.body.fields().is_empty();
        wanted.retain(|name| table.body.column_with_name(name).is_some());
        Ok(Self {
            declaration: declaration(&topic.columns, &table),
            is_typed,
            wanted,
            schema: Arc::new(Schema::new(fields)),
            projection: projection.to_vec(),
            computed,
            checked,
            table,
            body,
            unwraps,
            shows_undecodable,
            is_text: !matches!(topic.encoding.format, Format::Avro | Format::Protobuf),
            system,
            envelope,
        })
    }

    /// The answered columns, as positions in the table's schema.
    #[must_use]
    pub fn projection(&self) -> &[usize] {
        &self.projection
    }

    /// Whether bodies are parsed, so that it is known which do not.
    pub(crate) fn parses(&self) -> bool {
        self.body.is_some()
    }

    /// The answered columns.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Names of the envelope columns that [`TopicDecoder::decode`] must be given; more do no harm.
    #[must_use]
    pub fn envelope_columns(&self) -> Vec<&str> {
        self.envelope.clone()
    }

    /// What is read instead where files have typed columns; none when no body is parsed.
    #[must_use]
    pub fn typed(&self) -> Option<Typed> {
        if !self.is_typed {
            return None;
        }
        let is_needed = |name: &&&str| **name != "body" || self.system.contains("_body");
        let envelope = self.envelope.iter().filter(is_needed);
        Some(Typed {
            declaration: self.declaration,
            envelope: envelope.map(|&name| name.to_owned()).collect(),
            columns: self.wanted.iter().cloned().collect(),
            skip: None,
        })
    }

    /// Reads envelopes as rows, in order.
    ///
    /// # Errors
    /// [`SqlError::Bug`] when an envelope column is missing.
    pub fn decode(&self, envelopes: &RecordBatch) -> Result<Decoded, SqlError> {
        let rows = envelopes.num_rows();
        let unwrapped;
        let (envelopes, mut errors, deleted) = match self.unwraps {
            false => (envelopes, Vec::new(), None),
            true => {
                let (rows, errors, deleted) = unwrap(envelopes)?;
                unwrapped = rows;
                (&unwrapped, errors, Some(deleted))
            }
        };
        let mut bodies = None;
        let body = match (&self.body, envelopes.column_by_name(ERROR)) {
            (Some(_), Some(reasons)) if self.is_typed => {
                let (batch, found) = self.stored_columns(envelopes, reasons)?;
                errors = found;
                Some(batch)
            }
            (Some(decoder), _) => {
                let read = cast(column(envelopes, "body")?, &DataType::Binary)?;
                let read: &BinaryArray = bodies.insert(read).as_binary();
                let mut versions = None;
                if decoder.reads_versions() {
                    versions = Some(cast(column(envelopes, "schema_id")?, &DataType::Int32)?);
                }
                let versions = versions.as_ref().map(|versions| versions.as_primitive());
                let mut decoded = decoder.decode(read, versions)?;
                tell_gzip(read, &mut decoded.errors);
                errors.append(&mut decoded.errors);
                errors.sort_by_key(|(row, _)| *row);
                Some(decoded.batch)
            }
            (None, _) => None,
        };
        let computed = self.compute(envelopes, body.as_ref(), bodies.as_ref())?;
        let has_failed = !computed.failures.is_empty();
        computed::add(&mut errors, computed.failures);
        let declared = self.table.computed.len();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.projection.len());
        for (&at, field) in self.projection.iter().zip(self.schema.fields()) {
            let of_body = || body.as_ref().filter(|_| at < declared);
            columns.push(match computed.values.get(&at) {
                Some(values) => without(values, &errors)?,
                _ if field.name() == DECODE_ERROR && at >= declared => error_column(&errors, rows),
                _ => match of_body() {
                    Some(body) if has_failed => without(column(body, field.name())?, &errors)?,
                    Some(body) => Arc::clone(column(body, field.name())?),
                    None => self.system_column(field, envelopes)?,
                },
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let left_out = match self.shows_undecodable || errors.is_empty() {
            true => deleted,
            false => {
                let bad = marked(&errors, rows);
                Some(match deleted {
                    Some(deleted) => or(&deleted, &bad)?,
                    None => bad,
                })
            }
        };
        Ok(Decoded {
            batch,
            undecodable: errors.len() as u64,
            first_error: errors.into_iter().next(),
            left_out,
        })
    }

    /// Body columns as a file has them, those that nobody asked for NULL, and the rows whose body did not parse.
    fn stored_columns(
        &self,
        batch: &RecordBatch,
        errors: &ArrayRef,
    ) -> Result<(RecordBatch, Vec<(usize, String)>), SqlError> {
        let rows = batch.num_rows();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.table.body.fields().len());
        for field in self.table.body.fields() {
            columns.push(if self.wanted.contains(field.name()) {
                let stored = column(batch, &stored_name(field.name()))?;
                cast(stored, field.data_type())?
            } else {
                new_null_array(field.data_type(), rows)
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::clone(&self.table.body);
        let body = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let reasons: &StringArray = errors.as_string_opt().ok_or_else(|| SqlError::Bug {
            cause: format!("the column {ERROR} of a file is not text"),
        })?;
        let errors = reasons.iter().enumerate();
        let errors = errors.filter_map(|(row, why)| Some((row, why?.to_owned())));
        Ok((body, errors.collect()))
    }

    fn system_column(&self, field: &Field, envelopes: &RecordBatch) -> Result<ArrayRef, SqlError> {
        match field.name().as_str() {
            "_body" if !self.is_text => hex(column(envelopes, "body")?),
            name => system_column(name, field.data_type(), envelopes),
        }
    }

    /// The computed columns that are asked for or may fail; `bodies` are there where they were parsed, and not where a file has their columns.
    fn compute(
        &self,
        envelopes: &RecordBatch,
        body: Option<&RecordBatch>,
        bodies: Option<&ArrayRef>,
    ) -> Result<Computed, SqlError> {
        let besides = self.checked.iter().filter(|_| bodies.is_some());
        let places: BTreeSet<usize> = self.computed.iter().chain(besides).copied().collect();
        if places.is_empty() {
            return Ok(Computed::default());
        }
        let reads_body_text = || {
            let mut checks = self.table.checks.iter();
            checks.any(|check| check.is_of_body && check.reads.iter().any(|name| name == BODY))
        };
        let has_body_text = bodies.is_some() && reads_body_text();
        let is_built = |name: &str| self.system.contains(name) || (has_body_text && name == BODY);
        let input = computed::input(&self.table, body, envelopes.num_rows(), |field| {
            let built = is_built(field.name()).then(|| self.system_column(field, envelopes));
            built.transpose()
        })?;
        computed::compute(&self.table, places, &input, |place, row| {
            // What follows from a body is told by the file, and a message without one deletes a row, of which no value is wrong.
            !self.checked.contains(&place) || bodies.is_some_and(|bodies| bodies.is_valid(row))
        })
    }
}

/// Body columns of JSON bodies, and the rows whose body does not parse, with the reason.
pub(crate) fn parse(
    json: &JsonDecoder,
    bodies: &BinaryArray,
) -> Result<(RecordBatch, Vec<(usize, String)>), ArrowError> {
    let mut decoded = json.decode(bodies)?;
    tell_gzip(bodies, &mut decoded.errors);
    Ok((decoded.batch, decoded.errors))
}

fn tell_gzip(bodies: &BinaryArray, errors: &mut [(usize, String)]) {
    for (row, reason) in errors {
        if bodies.value(*row).starts_with(GZIP_MAGIC) {
            "body is compressed with gzip, which SQL does not read".clone_into(reason);
        }
    }
}

/// How a gzip stream begins.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

fn system_name(name: &str) -> Option<&'static str> {
    catalog::system_columns()
        .iter()
        .find(|field| field.name() == name)
        .map(|field| field.name().as_str())
}

/// The envelope column that a system column is made of.
fn source(system: &str) -> Option<&'static str> {
    Some(match system {
        "_queue" => "queue",
        "_offset" => "offset",
        "_key" => "key",
        "_tag" => "tag",
        "_keys" => "keys",
        "_message_id" => "message_id",
        "_stored_at" => "stored_at",
        "_born_at" => "born_at",
        "_properties" => "properties",
        "_body" => "body",
        _ => return None,
    })
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, SqlError> {
    batch.column_by_name(name).ok_or_else(|| SqlError::Bug {
        cause: format!("the column {name} was not read"),
    })
}

fn system_column(
    name: &str,
    data_type: &DataType,
    envelopes: &RecordBatch,
) -> Result<ArrayRef, SqlError> {
    let from = source(name).ok_or_else(|| SqlError::Bug {
        cause: format!("the system column {name} has no source"),
    })?;
    let array = column(envelopes, from)?;
    Ok(match name {
        "_key" | "_body" => text_or_null(array)?,
        "_properties" => properties(array)?,
        _ => cast(array, data_type)?,
    })
}

/// Bytes as text where they are UTF-8, NULL where they are not.
pub(crate) fn text_or_null(array: &dyn Array) -> Result<ArrayRef, SqlError> {
    let bytes = cast(array, &DataType::Binary)?;
    let bytes: &BinaryArray = bytes.as_binary();
    let text: StringArray = bytes
        .iter()
        .map(|value| value.and_then(|value| std::str::from_utf8(value).ok()))
        .collect();
    Ok(Arc::new(text))
}

/// Bytes as hex digits, so that a body that is there is never NULL.
fn hex(array: &ArrayRef) -> Result<ArrayRef, SqlError> {
    let bytes = cast(array, &DataType::Binary)?;
    let bytes: &BinaryArray = bytes.as_binary();
    let digits = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect();
    let text: StringArray = bytes
        .iter()
        .map(|value| value.map(digits))
        .collect::<Vec<Option<String>>>()
        .into();
    Ok(Arc::new(text))
}

type Unwrapped = (RecordBatch, Vec<(usize, String)>, BooleanArray);

/// Changes of Debezium as rows: envelopes whose body is the row, what could not be read, and which rows are no more.
fn unwrap(envelopes: &RecordBatch) -> Result<Unwrapped, SqlError> {
    let (at, _) = envelopes
        .schema_ref()
        .column_with_name("body")
        .ok_or_else(|| SqlError::Bug {
            cause: "the column body was not read".to_owned(),
        })?;
    let bodies = cast(envelopes.column(at), &DataType::Binary)?;
    let bodies: &BinaryArray = bodies.as_binary();
    let mut errors = Vec::new();
    let mut deleted = Vec::with_capacity(bodies.len());
    let mut rows: Vec<Option<&[u8]>> = Vec::with_capacity(bodies.len());
    for (row, body) in bodies.iter().enumerate() {
        let change = match body.map(debezium::read) {
            Some(Ok(change)) => Some(change),
            Some(Err(reason)) => {
                errors.push((row, reason.into_owned()));
                None
            }
            None => None,
        };
        deleted.push(change.is_some_and(|change| change.deleted));
        rows.push(
            change
                .filter(|change| !change.deleted)
                .and_then(|change| change.row),
        );
    }
    let body: BinaryArray = rows.into_iter().collect();
    let mut columns = envelopes.columns().to_vec();
    columns[at] = Arc::new(body);
    let mut fields: Vec<_> = envelopes
        .schema_ref()
        .fields()
        .iter()
        .map(Arc::clone)
        .collect();
    fields[at] = Arc::new(Field::new("body", DataType::Binary, true));
    let options = RecordBatchOptions::new().with_row_count(Some(envelopes.num_rows()));
    let schema = Arc::new(Schema::new(fields));
    let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
    Ok((rows, errors, deleted.into()))
}

/// A list of key, text and binary as a map from text to text.
fn properties(array: &ArrayRef) -> Result<ArrayRef, SqlError> {
    let wrong = || SqlError::Bug {
        cause: "the column properties is not a list of key, text and binary".to_owned(),
    };
    let list: &ListArray = array.as_list_opt().ok_or_else(wrong)?;
    let entries: &StructArray = list.values().as_struct_opt().ok_or_else(wrong)?;
    let key = entries.column_by_name("key").ok_or_else(wrong)?;
    let text = entries.column_by_name("text").ok_or_else(wrong)?;
    let text: &StringArray = text.as_string_opt().ok_or_else(wrong)?;
    let binary = entries.column_by_name("binary").ok_or_else(wrong)?;
    let binary: &BinaryArray = binary.as_binary_opt().ok_or_else(wrong)?;
    let mut values = StringBuilder::with_capacity(entries.len(), 0);
    for row in 0..entries.len() {
        if text.is_valid(row) {
            values.append_value(text.value(row));
        } else if binary.is_valid(row) {
            values.append_option(std::str::from_utf8(binary.value(row)).ok());
        } else {
            values.append_null();
        }
    }
    let entries = StructArray::try_new(
        catalog::property_fields(),
        vec![Arc::clone(key), Arc::new(values.finish())],
        None,
    )?;
    Ok(Arc::new(MapArray::try_new(
        Arc::new(catalog::properties_entry()),
        list.offsets().clone(),
        entries,
        list.nulls().cloned(),
        false,
    )?))
}

fn error_column(errors: &[(usize, String)], rows: usize) -> ArrayRef {
    if errors.is_empty() {
        return new_null_array(&DataType::Utf8, rows);
    }
    let mut reasons: Vec<Option<&str>> = vec![None; rows];
    for (row, reason) in errors {
        reasons[*row] = Some(reason);
    }
    Arc::new(StringArray::from(reasons))
}

/// A declared column with NULL where its row does not decode.
pub(crate) fn without(
    array: &ArrayRef,
    errors: &[(usize, String)],
) -> Result<ArrayRef, ArrowError> {
    if errors.is_empty() {
        return Ok(Arc::clone(array));
    }
    arrow::compute::nullif(array, &marked(errors, array.len()))
}

/// Which of so many rows have an error.
fn marked(errors: &[(usize, String)], rows: usize) -> BooleanArray {
    let mut bad = vec![false; rows];
    for (row, _) in errors {
        bad[*row] = true;
    }
    bad.into()
}
