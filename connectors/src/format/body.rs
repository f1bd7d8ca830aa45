//! How the bodies of a topic are written: the format, its schemas by version, and the way in to read and write them.
//!
//! **Invariant.** As in [`crate::format::json`]: row `i` of the answer is body `i` of the question, and a body is good or bad as a whole,
//! by all columns, also those that nobody wants built. A body is read by the schema that it was written with: the
//! one that it names itself (Avro's single-object encoding), else the one stored with it, else the last.
//!
//! JSON, CSV and raw bodies are described by the columns alone and have no schemas.

use std::fmt;

use arrow::array::{Array as _, BinaryArray, Int32Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use millpond_proto::remedy::Remedy;

use crate::format::avro::{AvroDecoder, AvroEncoder, AvroSchema};
use crate::format::fit::Columns;
use crate::format::json::{self, Decoded, JsonDecoder};
use crate::format::line::{self, LineDecoder};
use crate::format::protobuf::{ProtobufDecoder, ProtobufEncoder, ProtobufSchema};
use crate::format::raw::{self, RawDecoder};

/// How a body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    #[default]
    Json,
    /// One Avro datum, bare or in single-object encoding.
    Avro,
    /// One Protobuf message.
    Protobuf,
    /// One line of comma-separated fields.
    Csv,
    /// The body is the one column.
    Raw,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] = [Self::Json, Self::Avro, Self::Protobuf, Self::Csv, Self::Raw];

    /// Its name in SQL and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro => "avro",
            Self::Protobuf => "protobuf",
            Self::Csv => "csv",
            Self::Raw => "raw",
        }
    }

    /// The format of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether bodies are described by schemas beside the columns.
    #[must_use]
    pub fn has_schemas(self) -> bool {
        matches!(self, Self::Avro | Self::Protobuf)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a new version of a schema must be able to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compatibility {
    /// Read what the version before it wrote.
    #[default]
    Backward,
    /// Write what the version before it can read.
    Forward,
    /// Both.
    Full,
    /// Nothing.
    None,
}

impl Compatibility {
    /// Every rule.
    pub const ALL: [Self; 4] = [Self::Backward, Self::Forward, Self::Full, Self::None];

    /// Its name in SQL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Full => "full",
            Self::None => "none",
        }
    }

    /// The rule of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// One version of a topic's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// Counted from 1; messages name it as their schema id.
    pub version: u32,
    /// Avro: the schema as JSON. Protobuf: a `FileDescriptorSet`.
    pub text: Bytes,
}

/// How the bodies of a topic are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The format.
    pub format: Format,
    /// Protobuf: the full name of the message; empty elsewhere.
    pub message: String,
    /// Versions of the schema, oldest first; empty where the columns say it all.
    pub schemas: Vec<SchemaVersion>,
    /// What a new version must be able to do.
    pub compatibility: Compatibility,
}

/// Why a format, a schema or a row to be written is refused.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The schema can not be read.
    #[error("the {format} schema can not be read: {detail}; correct it")]
    Schema {
        /// Format.
        format: Format,
        /// Where and what.
        detail: String,
    },
    /// There is no schema where one is needed.
    #[error("bodies in {format} need a schema; give one with schema = '…'")]
    NoSchema {
        /// Format.
        format: Format,
    },
    /// A column and its field do not go together.
    #[error("column {column} can not be read from the {format} schema: {detail}")]
    Column {
        /// Format.
        format: Format,
        /// Column.
        column: String,
        /// Why, and what to do.
        detail: String,
    },
    /// Raw bodies are one column.
    #[error(
        "raw bodies are one column of type BYTES or VARCHAR, not {found} columns or another type; declare one"
    )]
    RawColumns {
        /// How many columns there are.
        found: usize,
    },
    /// A new version breaks a rule.
    #[error(
        "the new schema is not {rule} compatible with version {version}: {detail}; change it, or set compatibility = 'none' first"
    )]
    Incompatible {
        /// The rule.
        rule: &'static str,
        /// The version before.
        version: u32,
        /// What breaks it.
        detail: String,
    },
    /// A row can not be written.
    #[error("a row can not be written in {format}: {detail}")]
    Row {
        /// Format.
        format: Format,
        /// Which field, why, and what to do.
        detail: String,
    },
    /// A value does not go into its field.
    #[error("a value can not be written: {source}; cast it in the query")]
    Value {
        /// What does not.
        #[from]
        source: ArrowError,
    },
}

impl FormatError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Schema { .. }
            | Self::NoSchema { .. }
            | Self::Column { .. }
            | Self::RawColumns { .. }
            | Self::Incompatible { .. }
            | Self::Row { .. }
            | Self::Value { .. } => Remedy::FixRequest,
        }
    }
}

/// A column that a schema describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaColumn {
    /// Name of the field.
    pub name: String,
    /// SQL type.
    pub sql_type: String,
}

impl Encoding {
    /// The last version of the schema.
    #[must_use]
    pub fn last(&self) -> Option<&SchemaVersion> {
        self.schemas.last()
    }

    /// The columns that the last schema describes; none where a format has no schemas.
    ///
    /// # Errors
    /// [`FormatError`] when there is no schema or it can not be read.
    pub fn columns(&self) -> Result<Vec<SchemaColumn>, FormatError> {
        if !self.format.has_schemas() {
            return Ok(Vec::new());
        }
        let last = self.last().ok_or(FormatError::NoSchema {
            format: self.format,
        })?;
        match self.format {
            Format::Avro => Ok(AvroSchema::parse(&last.text)?.columns()),
            _ => Ok(ProtobufSchema::parse(&last.text, &self.message)?.columns()),
        }
    }

    /// Checks that bodies can be read as these columns.
    ///
    /// # Errors
    /// [`FormatError`] that names the column which can not, and why.
    pub fn check(&self, columns: &Schema) -> Result<(), FormatError> {
        match self.format {
            Format::Json | Format::Csv => Ok(()),
            Format::Raw => raw::check(columns),
            Format::Avro | Format::Protobuf => {
                BodyDecoder::new(self, &SchemaRef::new(columns.clone()), |_| true)?;
                let known = self.columns()?;
                for field in columns.fields() {
                    if !known.iter().any(|column| column.name == *field.name()) {
                        return Err(FormatError::Column {
                            format: self.format,
                            column: field.name().clone(),
                            detail: "the schema has no field of that name; remove the column, or add the field".to_owned(),
                        });
                    }
                }
                Ok(())
            }
        }
    }

    /// This encoding with one more version of the schema.
    ///
    /// # Errors
    /// [`FormatError`] when it can not be read or is not compatible with the version before.
    pub fn with_schema(&self, text: Bytes) -> Result<Self, FormatError> {
        let version = self.last().map_or(1, |last| last.version + 1);
        let mut next = self.clone();
        next.schemas.push(SchemaVersion { version, text });
        next.columns()?;
        if let Some(last) = next.last().filter(|_| self.format == Format::Avro) {
            let checked = AvroSchema::parse(&last.text)?.check_defaults();
            checked.map_err(|detail| FormatError::Schema {
                format: Format::Avro,
                detail,
            })?;
        }
        let Some((before, after)) = self.last().zip(next.last()) else {
            return Ok(next);
        };
        let rules: &[(&'static str, bool)] = match self.compatibility {
            Compatibility::None => &[],
            Compatibility::Backward => &[("backward", true)],
            Compatibility::Forward => &[("forward", false)],
            Compatibility::Full => &[("backward", true), ("forward", false)],
        };
        for (rule, backward) in rules {
            let (reader, writer) = match backward {
                true => (&after.text, &before.text),
                false => (&before.text, &after.text),
            };
            let reads = match self.format {
                Format::Avro => AvroSchema::parse(reader)?.reads(&AvroSchema::parse(writer)?),
                _ => ProtobufSchema::parse(reader, &self.message)?
                    .reads(&ProtobufSchema::parse(writer, &self.message)?),
            };
            if let Err(detail) = reads {
                return Err(FormatError::Incompatible {
                    rule,
                    version: before.version,
                    detail,
                });
            }
        }
        Ok(next)
    }
}

/// An Avro schema of these columns, for topics whose columns come first.
///
/// Every field may be NULL. The name of the record is that of the topic, with `_` for what Avro does not take.
#[must_use]
pub fn avro_of(topic: &str, columns: &Schema) -> Bytes {
    AvroSchema::text_of(topic, columns)
}

/// Reads bodies as columns, whatever their format.
#[derive(Clone, Debug)]
pub struct BodyDecoder(Reader);

#[derive(Clone, Debug)]
enum Reader {
    Json(JsonDecoder),
    Avro(Box<AvroDecoder>),
    Protobuf(Box<ProtobufDecoder>),
    Csv(LineDecoder),
    Raw(RawDecoder),
}

impl BodyDecoder {
    /// A decoder that answers these columns and builds the wanted ones.
    ///
    /// # Errors
    /// [`FormatError`] when the bodies can not be read as these columns.
    pub fn new(
        encoding: &Encoding,
        columns: &SchemaRef,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Self, FormatError> {
        if encoding.format == Format::Json {
            let decoder = JsonDecoder::new(SchemaRef::clone(columns)).with_wanted(wanted);
            return Ok(Self(Reader::Json(decoder)));
        }
        let columns = Columns::new(columns, wanted)?;
        Ok(Self(match encoding.format {
            Format::Avro => Reader::Avro(Box::new(AvroDecoder::new(&encoding.schemas, columns)?)),
            Format::Protobuf => Reader::Protobuf(Box::new(ProtobufDecoder::new(
                &encoding.schemas,
                &encoding.message,
                columns,
            )?)),
            Format::Csv => Reader::Csv(LineDecoder::new(columns)),
            Format::Json | Format::Raw => Reader::Raw(RawDecoder::new(columns)),
        }))
    }

    /// Decodes bodies; a NULL body is NULL in every column and no error. `schemas` has the version stored with each.
    ///
    /// # Errors
    /// None for what a body holds: those are rows of [`Decoded::errors`]. Only columns that can not be
    /// built at all answer an error.
    pub fn decode(
        &self,
        bodies: &BinaryArray,
        schemas: Option<&Int32Array>,
    ) -> Result<Decoded, ArrowError> {
        let version_of = |row: usize| {
            let schemas = schemas.filter(|schemas| schemas.is_valid(row))?;
            u32::try_from(schemas.value(row)).ok()
        };
        match &self.0 {
            Reader::Json(decoder) => decoder.decode(bodies),
            Reader::Avro(decoder) => decoder.decode(bodies, version_of),
            Reader::Protobuf(decoder) => decoder.decode(bodies, version_of),
            Reader::Csv(decoder) => decoder.decode(bodies),
            Reader::Raw(decoder) => decoder.decode(bodies),
        }
    }

    /// Whether [`BodyDecoder::decode`] needs the versions.
    #[must_use]
    pub fn reads_versions(&self) -> bool {
        matches!(self.0, Reader::Avro(_) | Reader::Protobuf(_))
    }
}

/// Writes rows as bodies, in the last version of the schema.
#[derive(Clone, Debug)]
pub struct BodyEncoder(Writer);

#[derive(Clone, Debug)]
enum Writer {
    Json,
    Avro(Box<AvroEncoder>),
    Protobuf(Box<ProtobufEncoder>),
    /// With the columns of a line, where rows may lack some.
    Csv(Option<SchemaRef>),
    Raw,
}

impl BodyEncoder {
    /// An encoder for an encoding.
    ///
    /// # Errors
    /// [`FormatError`] when there is no schema or it can not be read.
    pub fn new(encoding: &Encoding) -> Result<Self, FormatError> {
        let last = || {
            encoding.last().ok_or(FormatError::NoSchema {
                format: encoding.format,
            })
        };
        Ok(Self(match encoding.format {
            Format::Json => Writer::Json,
            Format::Avro => Writer::Avro(Box::new(AvroEncoder::new(AvroSchema::parse(
                &last()?.text,
            )?))),
            Format::Protobuf => {
                let schema = ProtobufSchema::parse(&last()?.text, &encoding.message)?;
                Writer::Protobuf(Box::new(ProtobufEncoder::new(schema)))
            }
            Format::Csv => Writer::Csv(None),
            Format::Raw => Writer::Raw,
        }))
    }

    /// Takes rows that lack some of a topic's columns, or have them in another order: these are all, in theirs. Without it a line of CSV
    /// is made of the columns as they come.
    #[must_use]
    pub fn with_columns(self, columns: &SchemaRef) -> Self {
        Self(match self.0 {
            Writer::Csv(_) => Writer::Csv(Some(SchemaRef::clone(columns))),
            other => other,
        })
    }

    /// Writes each row as one body.
    ///
    /// # Errors
    /// [`FormatError`] when a column has no field, or a value does not go into its field.
    pub fn encode(&self, rows: &RecordBatch) -> Result<Vec<Bytes>, FormatError> {
        match &self.0 {
            Writer::Json => Ok(json::encode_rows(rows)?),
            Writer::Avro(encoder) => encoder.encode(rows),
            Writer::Protobuf(encoder) => encoder.encode(rows),
            Writer::Csv(columns) => Ok(line::encode(rows, columns.as_ref())?),
            Writer::Raw => raw::encode(rows),
        }
    }
}
