//! Comma-separated values with a header line (RFC 4180).
//!
//! A quote that is never closed would make one value of the rest of a file, so what is no CSV in this is refused with its line
//! (`import/quotes.rs`), where other readers make do.
//!
//! Input: text. Output: typed columns in the file's order and, last, each row as a JSON object without
//! its nulls: integers and decimals with all their digits, timestamps as ISO 8601.

use std::io::Read;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, Date32Array, Decimal128Array,
    Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::csv::reader::Format;
use arrow::csv::{Reader, ReaderBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;

use crate::format::json::JsonDecoder;
use crate::format::kind::{
    Inference, Kind, parse_boolean, parse_date, parse_decimal, parse_double, parse_integer,
    parse_timestamp_us,
};
use crate::import::quotes::{BrokenQuote, Quotes};
use crate::import::{
    BATCH_ROWS, BODY, Columns, Counted, INFER_ROWS_MAX, ImportColumn, ImportError, ImportOptions,
};

/// The columns of a CSV file, from its header and its first rows.
pub(crate) fn infer(
    file: &str,
    reader: Box<dyn Read + Send>,
    options: &ImportOptions,
) -> Result<Columns, ImportError> {
    let form = |cause| form_error(file, cause);
    // The header has to be read before a schema can be given; what follows it is kept and read on.
    let mut peeked = Vec::new();
    let mut reader = Peeked {
        inner: Quotes::new(reader, options.delimiter()),
        seen: &mut peeked,
    };
    let header = Format::default()
        .with_header(true)
        .with_delimiter(options.delimiter())
        .infer_schema(&mut reader, Some(0));
    let (header, _) = header.map_err(|cause| match reader.inner.broken() {
        Some(broken) => quote_error(file, broken),
        None => form(cause),
    })?;
    let inner = reader.inner;
    let names: Vec<String> = header
        .fields()
        .iter()
        .map(|field| field.name().trim_start_matches('\u{feff}').to_owned())
        .collect();
    check_header(file, &names, options)?;
    let again = std::io::Cursor::new(peeked).chain(inner);
    let texts = text_reader(names.len(), again, options).map_err(form)?;
    let mut columns = vec![Inference::default(); names.len()];
    let mut rows = 0;
    for batch in texts {
        let batch = batch.map_err(form)?;
        for (inference, column) in columns.iter_mut().zip(batch.columns()) {
            for text in column.as_string::<i32>().iter().flatten() {
                inference.observe(text, &options.nulls);
            }
        }
        rows += batch.num_rows();
        if rows >= INFER_ROWS_MAX {
            break;
        }
    }
    let columns = names.into_iter().zip(columns).map(|(name, inference)| {
        let kind = options.declared(&name).unwrap_or_else(|| inference.kind());
        ImportColumn { name, kind }
    });
    Ok(Columns {
        columns: columns.collect(),
        left_out: Vec::new(),
    })
}

/// The rows of a CSV file.
pub(crate) struct CsvRows {
    file: String,
    columns: Vec<ImportColumn>,
    nulls: Vec<String>,
    schema: SchemaRef,
    texts: Reader<Quotes<Counted>>,
    topic: JsonDecoder,
    /// Line on which the next row starts; the header is line 1.
    line: u64,
}

impl CsvRows {
    pub(crate) fn new(
        file: &str,
        reader: Counted,
        found: &Columns,
        options: &ImportOptions,
    ) -> Result<Self, ImportError> {
        let columns = &found.columns;
        let reader = Quotes::new(reader, options.delimiter());
        let texts = text_reader(columns.len(), reader, options);
        let texts = texts.map_err(|cause| form_error(file, cause))?;
        let mut fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new(&column.name, column.kind.data_type(), true))
            .collect();
        fields.push(Field::new(BODY, DataType::Binary, false));
        Ok(Self {
            file: file.to_owned(),
            columns: columns.to_vec(),
            nulls: options.nulls.clone(),
            schema: Arc::new(Schema::new(fields)),
            texts,
            topic: options.check(found),
            line: 2,
        })
    }

    fn typed(&mut self, texts: &RecordBatch) -> Result<RecordBatch, ImportError> {
        let mut typed: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 1);
        for (column, values) in self.columns.iter().zip(texts.columns()) {
            let values = values.as_string::<i32>();
            let array =
                convert(column.kind, values, &self.nulls).map_err(|row| ImportError::Value {
                    file: self.file.clone(),
                    line: self.line + row as u64 + newlines_before(texts, row),
                    column: column.name.clone(),
                    value: values.value(row).to_owned(),
                    kind: column.kind,
                })?;
            typed.push(array);
        }
        let form = |cause| form_error(&self.file, cause);
        let data = self.schema.fields().iter().take(self.columns.len());
        let data = Arc::new(Schema::new(data.cloned().collect::<Vec<_>>()));
        let data = RecordBatch::try_new(data, typed.clone()).map_err(form)?;
        let bodies = bodies(&data).map_err(form)?;
        let read = self.topic.decode(&bodies).map_err(form)?;
        if let Some((row, reason)) = read.errors.into_iter().next() {
            return Err(ImportError::Row {
                file: self.file.clone(),
                line: self.line + row as u64 + newlines_before(texts, row),
                reason,
            });
        }
        self.line += texts.num_rows() as u64 + newlines_before(texts, texts.num_rows());
        typed.push(Arc::new(bodies));
        RecordBatch::try_new(Arc::clone(&self.schema), typed).map_err(form)
    }
}

impl Iterator for CsvRows {
    type Item = Result<RecordBatch, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let texts = self.texts.next()?;
        Some(
            texts
                .map_err(|cause| form_error(&self.file, cause))
                .and_then(|texts| self.typed(&texts)),
        )
    }
}

/// Every row as a JSON object.
fn bodies(columns: &RecordBatch) -> Result<BinaryArray, ArrowError> {
    let mut lines = LineDelimitedWriter::new(Vec::new());
    lines.write(columns)?;
    lines.finish()?;
    let lines = lines.into_inner();
    let mut bodies = BinaryBuilder::with_capacity(columns.num_rows(), lines.len());
    // JSON escapes line feeds inside strings, so each one ends an object.
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        bodies.append_value(line.strip_suffix(b"\n").unwrap_or(line));
    }
    Ok(bodies.finish())
}

/// A column of texts as its kind, or the first row that does not fit.
fn convert(kind: Kind, texts: &StringArray, nulls: &[String]) -> Result<ArrayRef, usize> {
    fn each<T>(
        kind: Kind,
        texts: &StringArray,
        nulls: &[String],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<Option<T>>, usize> {
        let values = texts.iter().enumerate().map(|(row, text)| match text {
            Some(text) if !kind.is_null(text, nulls) => parse(text).map(Some).ok_or(row),
            _ => Ok(None),
        });
        values.collect()
    }
    Ok(match kind {
        Kind::BigInt => Arc::new(Int64Array::from(each(kind, texts, nulls, parse_integer)?)),
        Kind::Double => Arc::new(Float64Array::from(each(kind, texts, nulls, parse_double)?)),
        Kind::Decimal { precision, scale } => {
            let parse = |text: &str| parse_decimal(text, precision, scale);
            let values = Decimal128Array::from(each(kind, texts, nulls, parse)?);
            Arc::new(values.with_data_type(kind.data_type()))
        }
        Kind::Boolean => Arc::new(BooleanArray::from(each(kind, texts, nulls, parse_boolean)?)),
        Kind::Date => Arc::new(Date32Array::from(each(kind, texts, nulls, parse_date)?)),
        Kind::Timestamp { .. } => {
            let values = each(kind, texts, nulls, parse_timestamp_us)?;
            let array = TimestampMicrosecondArray::from(values);
            Arc::new(array.with_data_type(kind.data_type()))
        }
        Kind::Text => {
            let values = texts
                .iter()
                .map(|text| text.filter(|t| !kind.is_null(t, nulls)));
            Arc::new(values.collect::<StringArray>())
        }
    })
}

/// Line feeds inside quoted values of the rows before `row`: each makes the file a line longer.
fn newlines_before(texts: &RecordBatch, row: usize) -> u64 {
    let columns = texts.columns().iter().map(|column| {
        let texts = column.as_string::<i32>().slice(0, row);
        let texts = texts.iter().flatten();
        texts
            .map(|text| text.bytes().filter(|byte| *byte == b'\n').count() as u64)
            .sum::<u64>()
    });
    columns.sum()
}

fn text_reader<R: Read>(
    columns: usize,
    reader: R,
    options: &ImportOptions,
) -> Result<Reader<R>, ArrowError> {
    let fields = (0..columns).map(|index| Field::new(index.to_string(), DataType::Utf8, true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    ReaderBuilder::new(schema)
        .with_header(true)
        .with_delimiter(options.delimiter())
        .with_batch_size(BATCH_ROWS)
        .build(reader)
}

fn check_header(file: &str, names: &[String], options: &ImportOptions) -> Result<(), ImportError> {
    if names.iter().all(String::is_empty) {
        return Err(ImportError::Empty {
            file: file.to_owned(),
            needs: "a header line with the names of its columns",
        });
    }
    // One column whose name looks like several; who means it so says which delimiter there is.
    if let ([only], None) = (names, options.delimiter)
        && let Some(other) = only.chars().find(|c| [';', '\t', '|'].contains(c))
    {
        return Err(ImportError::Delimiter {
            file: file.to_owned(),
            header: only.clone(),
            delimiter: other,
        });
    }
    let problem = names.iter().enumerate().find_map(|(index, name)| {
        if name.is_empty() {
            return Some(format!("has no name for column {}", index + 1));
        }
        let earlier = names.iter().take(index).any(|other| other == name);
        earlier.then(|| format!("names {name:?} twice"))
    });
    match problem {
        Some(problem) => Err(ImportError::Header {
            file: file.to_owned(),
            problem,
        }),
        None => Ok(()),
    }
}

fn form_error(file: &str, cause: ArrowError) -> ImportError {
    if let ArrowError::IoError(_, error) = &cause
        && let Some(broken) = error.get_ref().and_then(|error| error.downcast_ref())
    {
        return quote_error(file, *broken);
    }
    ImportError::Form {
        file: file.to_owned(),
        cause,
    }
}

fn quote_error(file: &str, BrokenQuote { line, what }: BrokenQuote) -> ImportError {
    ImportError::Quote {
        file: file.to_owned(),
        line,
        what,
    }
}

/// Remembers what was read through it.
struct Peeked<'a, R> {
    inner: R,
    seen: &'a mut Vec<u8>,
}

impl<R: Read> Read for Peeked<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.seen.extend(buffer.iter().take(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::import::{ImportFormat, Rows};

    fn read(text: &'static str, nulls: &[&str]) -> Result<Rows, ImportError> {
        let options = ImportOptions {
            nulls: nulls.iter().map(|null| (*null).to_owned()).collect(),
            ..ImportOptions::default()
        };
        read_with(text, &options)
    }

    /// Into a topic with this one column.
    fn read_into(
        text: &'static str,
        column: &str,
        data_type: DataType,
    ) -> Result<Rows, ImportError> {
        let schema = Schema::new(vec![Field::new(column, data_type, true)]);
        let options = ImportOptions {
            topic: Some(Arc::new(schema)),
            ..ImportOptions::default()
        };
        read_with(text, &options)
    }

    fn read_with(text: &'static str, options: &ImportOptions) -> Result<Rows, ImportError> {
        let open =
            move || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(text))) };
        Rows::read("test.csv", ImportFormat::Csv, &open, options)
    }

    fn bodies_of(rows: Rows) -> Vec<String> {
        let mut bodies = Vec::new();
        for batch in rows {
            let batch = batch.unwrap();
            let column = batch.column_by_name(BODY).unwrap().as_binary::<i32>();
            bodies.extend(
                column
                    .iter()
                    .map(|body| String::from_utf8(body.unwrap().to_vec()).unwrap()),
            );
        }
        bodies
    }

    #[test]
    fn rows_become_json_objects_without_their_nulls() {
        let text = "n,name,at\n1,a,2013-01-01T10:00:00Z\nNA,NA,\n";
        let rows = read(text, &[]).unwrap();
        let kinds: Vec<_> = rows.columns().iter().map(|c| c.kind.sql_type()).collect();
        assert_eq!(kinds, ["BIGINT", "TEXT", "TIMESTAMP"]);
        assert_eq!(
            bodies_of(rows),
            [
                r#"{"n":1,"name":"a","at":"2013-01-01T10:00:00Z"}"#,
                r#"{"name":"NA"}"#
            ]
        );
    }

    #[test]
    fn a_null_word_counts_in_every_column() {
        assert_eq!(
            bodies_of(read("a,b\nNA,x\n", &["NA"]).unwrap()),
            [r#"{"b":"x"}"#]
        );
    }

    #[test]
    fn a_value_that_does_not_fit_names_its_line_even_after_quoted_line_feeds() {
        let text = "n,t\n1,\"two\nlines\"\nfour,x\n";
        let rows = read_into(text, "n", DataType::Int64).unwrap();
        let error = rows.last().unwrap().unwrap_err().to_string();
        assert!(
            error.starts_with("test.csv, line 4: \"four\" in column n is not a BIGINT"),
            "{error}"
        );
    }

    #[test]
    fn no_digit_of_a_number_is_lost() {
        let text = "price\n123456789012345678.91\n0.005\n";
        let rows = read_into(text, "price", DataType::Decimal128(20, 2)).unwrap();
        assert_eq!(
            bodies_of(rows),
            [r#"{"price":123456789012345678.91}"#, r#"{"price":0.01}"#]
        );
        let rows = read("id\n10000000000000000001\n10000000000000000002\n", &[]).unwrap();
        assert_eq!(rows.columns()[0].kind.sql_type(), "DECIMAL(38, 0)");
        assert_eq!(
            bodies_of(rows),
            [
                r#"{"id":10000000000000000001}"#,
                r#"{"id":10000000000000000002}"#
            ]
        );
    }

    #[test]
    fn a_row_that_its_topic_could_not_read_is_not_sent() {
        for (text, data_type, reason) in [
            (
                "n\n1\n70000\n",
                DataType::Int16,
                "test.csv, line 3: field n: 70000 does not fit SMALLINT",
            ),
            (
                "n\n0a\nabc\n",
                DataType::Binary,
                "test.csv, line 3: field n: \"abc\" is not a text of hex digits",
            ),
        ] {
            let rows = read_into(text, "n", data_type).unwrap();
            let error = rows.last().unwrap().unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn a_row_with_too_few_fields_names_its_line() {
        let error = read("a,b\n1,2\n3\n", &[]).unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
    }

    #[test]
    fn a_quote_that_is_not_closed_is_refused_with_its_line() {
        for (text, line, what) in [
            ("a,b\n1,\"unclosed\n2,x\n", 2, "is never closed"),
            ("a,b\n1,x\n\n2,\"y\n3,\"z\"\n", 4, "goes on behind"),
            ("\"a,b\n1,x\n", 1, "is never closed"),
        ] {
            let rows = read(text, &[]);
            let error = rows.unwrap_err().to_string();
            let place = format!("test.csv, line {line}: a value begins with a quote and {what}");
            assert!(error.starts_with(&place), "{error}");
        }
        let whole = "a,b\n\"\"\"x\"\" y\",\"1\n2\"\n\"\",z\"z\n";
        assert_eq!(
            bodies_of(read(whole, &[]).unwrap()),
            [r#"{"a":"\"x\" y","b":"1\n2"}"#, r#"{"b":"z\"z"}"#]
        );
    }

    #[test]
    fn values_may_stand_apart_by_something_else() {
        let error = read("a;b\n1;2\n", &[]).unwrap_err().to_string();
        assert!(error.ends_with("say --delimiter ';'"), "{error}");
        for (text, delimiter) in [("a;b\n1;\"x;y\"\n", b';'), ("a\tb\n1\tx;y\n", b'\t')] {
            let options = ImportOptions {
                delimiter: Some(delimiter),
                ..ImportOptions::default()
            };
            let rows = read_with(text, &options).unwrap();
            assert_eq!(bodies_of(rows), [r#"{"a":1,"b":"x;y"}"#]);
        }
    }

    #[test]
    fn headers_must_name_each_column_once() {
        assert!(matches!(read("", &[]), Err(ImportError::Empty { .. })));
        assert!(matches!(
            read("a,a\n1,2\n", &[]),
            Err(ImportError::Header { .. })
        ));
    }
}
