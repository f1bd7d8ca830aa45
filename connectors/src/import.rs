//! What an import reads: rows with typed columns, and each row as the JSON body of a message.
//!
//! Memory is bounded by [`BATCH_ROWS`]; types come from the first [`INFER_ROWS_MAX`] rows, so a file is
//! opened twice, and of an input that can be read once (`import/once.rs`) these rows are kept until then.
//! Nothing is skipped: a row that can not be read, or that its topic could not read as its columns, ends the import with
//! its line.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use millpond_proto::remedy::Remedy;

use crate::format::json::JsonDecoder;
use crate::format::kind::Kind;
use crate::format::{csv, ndjson};

pub(crate) mod once;
pub(crate) mod quotes;

/// Rows that are held at a time.
pub const BATCH_ROWS: usize = 1024;
/// Rows from which the types of columns are taken.
pub const INFER_ROWS_MAX: usize = 20_000;
/// Longest line of NDJSON; a longer one could not be sent as one message either.
pub const LINE_BYTES_MAX: usize = millpond_proto::limits::BODY_BYTES_MAX;
/// The last column of every batch: each row as a JSON object (`Binary`, not null).
pub const BODY: &str = "__millpond_body";

/// A column that the file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportColumn {
    /// Name.
    pub name: String,
    /// Type.
    pub kind: Kind,
}

/// A field that a topic made of the file has no column for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Name.
    pub name: String,
    /// Which values no column holds together, and where they are.
    pub why: String,
}

/// What the first rows of a file show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    /// What rows are read as. One that is left out stands here as well if keys can be taken from it.
    pub(crate) columns: Vec<ImportColumn>,
    /// What a topic made of the file does not declare.
    pub(crate) left_out: Vec<LeftOut>,
}

impl Columns {
    /// What a topic made of the file declares.
    fn declarable(&self) -> impl Iterator<Item = &ImportColumn> {
        let is_left_out = |name: &str| self.left_out.iter().any(|left| left.name == name);
        let columns = self.columns.iter();
        columns.filter(move |column| !is_left_out(&column.name))
    }
}

/// What the user said about the file.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Texts that stand for null in every column.
    pub nulls: Vec<String>,
    /// What stands between the values of a line; none: a comma.
    pub delimiter: Option<u8>,
    /// The columns that the topic reads from bodies; none when it is made with those of the file.
    pub topic: Option<SchemaRef>,
}

impl ImportOptions {
    /// How the topic reads a column of the file, if it knows that.
    pub(crate) fn declared(&self, column: &str) -> Option<Kind> {
        let field = self.topic.as_ref()?.field_with_name(column).ok()?;
        Some(Kind::of(field.data_type()))
    }

    pub(crate) fn delimiter(&self) -> u8 {
        self.delimiter.unwrap_or(b',')
    }

    /// Reads bodies as the topic will, without building anything.
    pub(crate) fn check(&self, found: &Columns) -> JsonDecoder {
        let of_file = || {
            let fields = found
                .declarable()
                .map(|column| Field::new(&column.name, column.kind.body_type(), true));
            SchemaRef::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        JsonDecoder::new(self.topic.clone().unwrap_or_else(of_file)).with_wanted(|_| false)
    }
}

/// The formats that can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportFormat {
    /// Comma-separated values with a header line.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// One JSON object per line.
    NdJson,
}

/// Opens the file from its start.
pub type Open = dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send;

/// Batches of at most [`BATCH_ROWS`] rows: the columns of [`Rows::columns`] and then [`BODY`].
pub struct Rows {
    found: Columns,
    batches: Box<dyn Iterator<Item = Result<RecordBatch, ImportError>> + Send>,
    bytes_read: Arc<AtomicU64>,
}

/// Why a file can not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file name does not tell the format.
    #[error("the name of {file} does not tell what it holds; say --format csv, tsv or ndjson")]
    UnknownFormat {
        /// File.
        file: String,
    },
    /// The file can not be read.
    #[error("{file} can not be read")]
    Read {
        /// File.
        file: String,
        /// Cause.
        #[source]
        cause: io::Error,
    },
    /// No header, or no row from which columns could be known.
    #[error("{file} is empty; it needs {needs}")]
    Empty {
        /// File.
        file: String,
        /// What is missing.
        needs: &'static str,
    },
    /// Two columns of one name, or one without.
    #[error("{file}: the header {problem}; give each column a name of its own")]
    Header {
        /// File.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// The header is one name that looks like several.
    #[error(
        "{file}: the header has no comma and makes one column, {header:?}; say --delimiter {delimiter:?}"
    )]
    Delimiter {
        /// File.
        file: String,
        /// The header.
        header: String,
        /// What stands between its parts.
        delimiter: char,
    },
    /// Where a quoted value ends nobody can tell.
    #[error(
        "{file}, line {line}: a value begins with a quote and {what}; close it, and double each quote that is a part of the value"
    )]
    Quote {
        /// File.
        file: String,
        /// Line on which the value begins, counted from 1.
        line: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A row does not have the form of the others.
    #[error("{file}: {cause}")]
    Form {
        /// File.
        file: String,
        /// Cause, with its line.
        cause: ArrowError,
    },
    /// A value does not fit its column.
    #[error(
        "{file}, line {line}: {value:?} in column {column} is not a {kind}; \
         mend it, say --null {value:?} if it means missing, \
         or declare the column as TEXT with: millpond topic create NAME --schema \"{column} TEXT, …\""
    )]
    Value {
        /// File.
        file: String,
        /// Line, counted from 1.
        line: u64,
        /// Column.
        column: String,
        /// The text.
        value: String,
        /// The column's type.
        kind: Kind,
    },
    /// The topic could not read a row as its columns.
    #[error(
        "{file}, line {line}: {reason}; mend it, or make the topic before, with a type for this column that takes it or without the column"
    )]
    Row {
        /// File.
        file: String,
        /// Line, counted from 1.
        line: u64,
        /// Which field, and why.
        reason: String,
    },
    /// A line is not JSON.
    #[error("{file}, line {line}: not a JSON object: {reason}")]
    Json {
        /// File.
        file: String,
        /// Line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A line is longer than a message can be.
    #[error("{file}, line {line} is longer than {limit_bytes} bytes, the limit of a message body")]
    LineTooLong {
        /// File.
        file: String,
        /// Line, counted from 1.
        line: u64,
        /// Limit.
        limit_bytes: usize,
    },
}

impl ImportError {
    /// What to do next: mend the file or the command.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::FixRequest
    }
}

impl ImportFormat {
    /// The format that a file's name tells.
    ///
    /// # Errors
    /// [`ImportError::UnknownFormat`].
    pub fn of(path: &Path) -> Result<Self, ImportError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("csv") => Ok(Self::Csv),
            Some("tsv" | "tab") => Ok(Self::Tsv),
            Some("ndjson" | "jsonl" | "json") => Ok(Self::NdJson),
            _ => Err(ImportError::UnknownFormat {
                file: path.display().to_string(),
            }),
        }
    }
}

impl Rows {
    /// Opens a file.
    ///
    /// # Errors
    /// Any [`ImportError`] that the first rows show.
    pub fn open(
        path: &Path,
        format: ImportFormat,
        options: &ImportOptions,
    ) -> Result<Self, ImportError> {
        let owned = path.to_owned();
        let open =
            move || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(File::open(&owned)?)) };
        Self::read(&path.display().to_string(), format, &open, options)
    }

    /// Reads what can be read once alone; `file` is its name in errors.
    ///
    /// # Errors
    /// Any [`ImportError`] that the first rows show.
    pub fn read_once(
        file: &str,
        format: ImportFormat,
        input: Box<dyn Read + Send>,
        options: &ImportOptions,
    ) -> Result<Self, ImportError> {
        Self::read(file, format, &once::opened(input), options)
    }

    /// Reads what `open` opens; `file` is its name in errors.
    ///
    /// # Errors
    /// Any [`ImportError`] that the first rows show.
    pub fn read(
        file: &str,
        format: ImportFormat,
        open: &Open,
        options: &ImportOptions,
    ) -> Result<Self, ImportError> {
        let opened = || {
            open().map_err(|cause| ImportError::Read {
                file: file.to_owned(),
                cause,
            })
        };
        let (first, again) = (opened()?, opened()?);
        let bytes_read = Arc::new(AtomicU64::new(0));
        let again = Counted {
            inner: again,
            bytes_read: Arc::clone(&bytes_read),
        };
        let (found, batches): (_, Box<dyn Iterator<Item = _> + Send>) = match format {
            ImportFormat::Csv | ImportFormat::Tsv => {
                let mut options = options.clone();
                if format == ImportFormat::Tsv {
                    options.delimiter = options.delimiter.or(Some(b'\t'));
                }
                let found = csv::infer(file, first, &options)?;
                let rows = csv::CsvRows::new(file, again, &found, &options)?;
                (found, Box::new(rows))
            }
            ImportFormat::NdJson => {
                let found = ndjson::infer(file, first, options)?;
                let rows = ndjson::NdJsonRows::new(file, again, &found, options);
                (found, Box::new(rows))
            }
        };
        Ok(Self {
            found,
            batches,
            bytes_read,
        })
    }

    /// The columns that rows are read as, in the order of the file.
    #[must_use]
    pub fn columns(&self) -> &[ImportColumn] {
        &self.found.columns
    }

    /// The columns that a topic made of the file declares.
    pub fn declarable(&self) -> impl Iterator<Item = &ImportColumn> {
        self.found.declarable()
    }

    /// The fields that it has no column for.
    #[must_use]
    pub fn left_out(&self) -> &[LeftOut] {
        &self.found.left_out
    }

    /// How many bytes of the file have been read: for a progress bar, live while the rows are read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

/// Counts what passes through.
pub(crate) struct Counted {
    inner: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
