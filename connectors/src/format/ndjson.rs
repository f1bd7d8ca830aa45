//! One JSON object per line; the line is the body, untouched.
//!
//! Columns are the fields that hold plain values; an object or a list inside stays in the body and makes
//! no column. Typed columns serve the key and the order of the import only; a plain value that does not fit its column's type
//! ends the import, as in a CSV file, because it would be sent without its key.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::format::json::JsonDecoder;
use crate::format::json::column::{self, Builder, Slot};
use crate::format::json::scan::{Bad, Scanner, Token};
use crate::format::kind::{Inference, Kind};
use crate::import::{
    BATCH_ROWS, BODY, Counted, INFER_ROWS_MAX, ImportColumn, ImportError, ImportOptions,
    LINE_BYTES_MAX,
};

/// The columns of an NDJSON file, from its first rows, by name.
pub(crate) fn infer(
    file: &str,
    reader: Box<dyn Read + Send>,
    options: &ImportOptions,
) -> Result<Vec<ImportColumn>, ImportError> {
    let mut lines = Lines::new(file, reader);
    let mut columns: BTreeMap<String, Inference> = BTreeMap::new();
    let mut rows = 0;
    while rows < INFER_ROWS_MAX {
        let Some(row) = lines.read()? else {
            break;
        };
        rows += 1;
        for (name, value) in row.fields {
            let column = columns.entry(name).or_default();
            match value {
                Plain::Text(text) => column.observe_string(&text),
                plain => column.observe(plain.text(), &[]),
            }
        }
    }
    if rows == 0 {
        return Err(ImportError::Empty {
            file: file.to_owned(),
            needs: "one JSON object per line",
        });
    }
    let columns = columns.into_iter().map(|(name, inference)| {
        let kind = options.declared(&name).unwrap_or_else(|| inference.kind());
        ImportColumn { name, kind }
    });
    Ok(columns.collect())
}

/// The rows of an NDJSON file.
pub(crate) struct NdJsonRows {
    lines: Lines<Counted>,
    columns: Vec<ImportColumn>,
    schema: SchemaRef,
    topic: JsonDecoder,
}

impl NdJsonRows {
    pub(crate) fn new(
        file: &str,
        reader: Counted,
        columns: &[ImportColumn],
        options: &ImportOptions,
    ) -> Self {
        let mut fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new(&column.name, column.kind.data_type(), true))
            .collect();
        fields.push(Field::new(BODY, DataType::Binary, false));
        Self {
            lines: Lines::new(file, reader),
            columns: columns.to_vec(),
            schema: Arc::new(Schema::new(fields)),
            topic: options.check(columns),
        }
    }
}

impl Iterator for NdJsonRows {
    type Item = Result<RecordBatch, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut rows = Vec::with_capacity(BATCH_ROWS);
        while rows.len() < BATCH_ROWS {
            match self.lines.read() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => break,
                Err(error) => return Some(Err(error)),
            }
        }
        if rows.is_empty() {
            return None;
        }
        Some(self.typed(&rows))
    }
}

impl NdJsonRows {
    fn typed(&self, rows: &[Row]) -> Result<RecordBatch, ImportError> {
        let file = &self.lines.file;
        let form = |cause| ImportError::Form {
            file: file.clone(),
            cause,
        };
        let bodies = rows.iter().map(|row| row.body.as_slice());
        let bodies = BinaryArray::from_iter_values(bodies);
        let read = self.topic.decode(&bodies).map_err(form)?;
        if let Some((row, reason)) = read.errors.into_iter().next() {
            return Err(ImportError::Row {
                file: file.clone(),
                line: rows.get(row).map_or(0, |row| row.line),
                reason,
            });
        }
        let columns = self.columns.iter();
        let arrays = columns.map(|column| convert(file, column, rows));
        let mut arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        arrays.push(Arc::new(bodies));
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(form)
    }
}

/// One field of all rows; null where it is missing.
fn convert(file: &str, column: &ImportColumn, rows: &[Row]) -> Result<ArrayRef, ImportError> {
    let form = |cause| ImportError::Form {
        file: file.to_owned(),
        cause,
    };
    let data_type = column.kind.body_type();
    let kind = column::Kind::of(&data_type).map_err(form)?;
    let mut builder = Builder::new(&data_type, rows.len(), 0).map_err(form)?;
    for row in rows {
        let Some(value) = row.fields.get(&column.name) else {
            builder.append(Slot::Null);
            continue;
        };
        let slot = match column.kind {
            Kind::Text => Ok(Slot::Text(value.text().into())),
            _ => kind.read(value.token()),
        };
        builder.append(slot.map_err(|_| ImportError::Value {
            file: file.to_owned(),
            line: row.line,
            column: column.name.clone(),
            value: value.text().to_owned(),
            kind: column.kind,
        })?);
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(&builder.finish(), &column.kind.data_type(), &strict).map_err(form)
}

/// A line of the file.
struct Row {
    line: u64,
    body: Vec<u8>,
    /// Fields that hold plain values and are not null; of one that stands there twice the last.
    fields: BTreeMap<String, Plain>,
}

/// A plain value as it is written.
enum Plain {
    Boolean(bool),
    Number(String),
    Text(String),
}

impl Plain {
    fn of(token: Token<'_>) -> Option<Self> {
        match token {
            Token::Boolean(value) => Some(Self::Boolean(value)),
            Token::Number(text) => Some(Self::Number(text.to_owned())),
            Token::Text(text) => Some(Self::Text(text.into_owned())),
            Token::Null | Token::Object | Token::Array => None,
        }
    }

    fn token(&self) -> Token<'_> {
        match self {
            Self::Boolean(value) => Token::Boolean(*value),
            Self::Number(text) => Token::Number(text),
            Self::Text(text) => Token::Text(text.into()),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
            Self::Number(text) | Self::Text(text) => text,
        }
    }
}

fn fields(line: &[u8]) -> Result<BTreeMap<String, Plain>, Bad> {
    let mut fields = BTreeMap::new();
    let mut scanner = Scanner::new(line)?;
    let mut more = scanner.begin()?;
    while more {
        let name = scanner.name()?.into_owned();
        match Plain::of(scanner.token()?) {
            Some(value) => fields.insert(name, value),
            None => fields.remove(&name),
        };
        more = scanner.more()?;
    }
    scanner.end()?;
    Ok(fields)
}

struct Lines<R> {
    file: String,
    reader: BufReader<R>,
    line: u64,
}

impl<R: Read> Lines<R> {
    fn new(file: &str, reader: R) -> Self {
        Self {
            file: file.to_owned(),
            reader: BufReader::new(reader),
            line: 0,
        }
    }

    /// The next line that is not blank, as it is and parsed.
    fn read(&mut self) -> Result<Option<Row>, ImportError> {
        loop {
            let mut line = Vec::new();
            self.line += 1;
            // One byte above the limit tells that the line goes on.
            let limit = LINE_BYTES_MAX as u64 + 1;
            let count = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut line)
                .map_err(|cause| ImportError::Read {
                    file: self.file.clone(),
                    cause,
                })?;
            if count == 0 {
                return Ok(None);
            }
            let text = line.trim_ascii();
            if text.len() > LINE_BYTES_MAX {
                return Err(ImportError::LineTooLong {
                    file: self.file.clone(),
                    line: self.line,
                    limit_bytes: LINE_BYTES_MAX,
                });
            }
            if text.is_empty() {
                continue;
            }
            let fields = fields(text).map_err(|reason| ImportError::Json {
                file: self.file.clone(),
                line: self.line,
                reason: reason.into_owned(),
            })?;
            return Ok(Some(Row {
                line: self.line,
                fields,
                body: text.to_vec(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow::array::{Array, AsArray};

    use super::*;
    use crate::import::{ImportFormat, Rows};

    fn read(text: &'static str) -> Result<Rows, ImportError> {
        let open =
            move || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(text))) };
        let options = ImportOptions::default();
        Rows::read("test.ndjson", ImportFormat::NdJson, &open, &options)
    }

    #[test]
    fn lines_are_kept_as_they_are_and_plain_fields_become_columns() {
        let rows = read("{\"b\": 1,  \"a\":\"x\",\"o\":{}}\n\n{\"a\":null}\n").unwrap();
        let columns: Vec<(&str, Kind)> = rows
            .columns()
            .iter()
            .map(|column| (column.name.as_str(), column.kind))
            .collect();
        assert_eq!(columns, [("a", Kind::Text), ("b", Kind::BigInt)]);
        let batches: Vec<RecordBatch> = rows.map(Result::unwrap).collect();
        let bodies = batches[0].column_by_name(BODY).unwrap().as_binary::<i32>();
        assert_eq!(bodies.value(0), b"{\"b\": 1,  \"a\":\"x\",\"o\":{}}");
        assert!(batches[0].column_by_name("b").unwrap().is_null(1));
    }

    #[test]
    fn a_value_of_another_type_is_named_and_not_sent_without_its_key() {
        let text = "{\"id\":18446744073709551614}\n{\"id\":18446744073709551615,\"at\":\"2024-01-01T00:00:00Z\"}\n";
        let rows = read(text).unwrap();
        let ids = rows
            .map(Result::unwrap)
            .map(|batch| Arc::clone(batch.column_by_name("id").unwrap()));
        let ids = ids.map(|ids| cast_with_options(&ids, &DataType::Utf8, &CastOptions::default()));
        let ids = ids.map(Result::unwrap).next().unwrap();
        let ids: Vec<Option<&str>> = ids.as_string::<i32>().iter().collect();
        assert_eq!(
            ids,
            [Some("18446744073709551614"), Some("18446744073709551615")]
        );

        let schema = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
        for (topic, reason) in [
            (
                schema,
                "test.ndjson, line 2: field id: \"x7\" is not a BIGINT",
            ),
            (Schema::empty(), "test.ndjson, line 1: field id"),
        ] {
            let options = ImportOptions {
                topic: Some(Arc::new(topic.clone())).filter(|topic| !topic.fields().is_empty()),
                ..ImportOptions::default()
            };
            let text = "{\"id\":7}\n{\"id\":\"x7\"}\n";
            let open = move || -> std::io::Result<Box<dyn Read + Send>> {
                Ok(Box::new(Cursor::new(text)))
            };
            let rows = Rows::read("test.ndjson", ImportFormat::NdJson, &open, &options).unwrap();
            let error = rows.last().unwrap().unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = read("{\"a\":1}\n{broken\n").unwrap_err().to_string();
        assert!(
            error.starts_with("test.ndjson, line 2: not a JSON object"),
            "{error}"
        );
        assert!(matches!(
            read("[1]\n"),
            Err(ImportError::Json { line: 1, .. })
        ));
        assert!(matches!(read("\n"), Err(ImportError::Empty { .. })));
    }
}
