//! One JSON object per line; the line is the body, untouched.
//!
//! Each field is a column; one of objects or lists is TEXT, their JSON, as a body is read. Typed columns serve the key and the order of
//! the import only; a value that does not fit its column's type ends the import, as in a CSV file, because it would be sent without its key.
//!
//! A topic that is made of the file declares the fields alone that one type holds in all rows that were looked at, as a body is read:
//! a field that is a number here and a text there is left out, and the import says so.

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
    BATCH_ROWS, BODY, Columns, Counted, INFER_ROWS_MAX, ImportColumn, ImportError, ImportOptions,
    LINE_BYTES_MAX, LeftOut,
};

/// The columns of an NDJSON file, from its first rows, by name.
pub(crate) fn infer(
    file: &str,
    reader: Box<dyn Read + Send>,
    options: &ImportOptions,
) -> Result<Columns, ImportError> {
    let mut lines = Lines::new(file, reader);
    let mut fields: BTreeMap<String, Observed> = BTreeMap::new();
    let mut rows = 0;
    while rows < INFER_ROWS_MAX {
        let Some(row) = lines.read()? else {
            break;
        };
        rows += 1;
        for (name, value) in row.fields {
            fields.entry(name).or_default().observe(&value, row.line);
        }
    }
    if rows == 0 {
        return Err(ImportError::Empty {
            file: file.to_owned(),
            needs: "one JSON object per line",
        });
    }
    let mut found = Columns::default();
    for (name, field) in fields {
        if let Some(why) = field.left_out {
            let name = name.clone();
            found.left_out.push(LeftOut { name, why });
        }
        let declared = options.declared(&name);
        let kind = declared.unwrap_or_else(|| field.inference.kind());
        found.columns.push(ImportColumn { name, kind });
    }
    Ok(found)
}

/// What the values of a field were so far.
#[derive(Debug, Default)]
struct Observed {
    inference: Inference,
    /// What its first value was, and in which line.
    first: Option<(&'static str, u64)>,
    /// Why no column can hold all of its values.
    left_out: Option<String>,
}

impl Observed {
    fn observe(&mut self, value: &Value, line: u64) {
        let word = value.word();
        let (first, first_line) = *self.first.get_or_insert((word, line));
        if self.left_out.is_some() {
            return;
        }
        self.inference.narrow(|kind| value.fits(kind));
        if self.inference.fits_none() {
            self.left_out = Some(match first == word {
                true => format!("no type holds each {} of it", word_alone(word)),
                false => format!("{first} in line {first_line}, {word} in line {line}"),
            });
        }
    }
}

/// A word without its article.
fn word_alone(word: &str) -> &str {
    word.split_once(' ').map_or(word, |(_, alone)| alone)
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
        found: &Columns,
        options: &ImportOptions,
    ) -> Self {
        let columns = &found.columns;
        let mut fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new(&column.name, column.kind.data_type(), true))
            .collect();
        fields.push(Field::new(BODY, DataType::Binary, false));
        Self {
            lines: Lines::new(file, reader),
            columns: columns.to_vec(),
            schema: Arc::new(Schema::new(fields)),
            topic: options.check(found),
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
        let value = row.fields.get(&column.name);
        let Some(value) = value else {
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
    /// Fields that are not null; of one that stands there twice the last.
    fields: BTreeMap<String, Value>,
}

/// A value as it is written.
enum Value {
    Boolean(bool),
    Number(String),
    Text(String),
    Object(String),
    List(String),
}

impl Value {
    fn of(token: Token<'_>) -> Option<Self> {
        match token {
            Token::Boolean(value) => Some(Self::Boolean(value)),
            Token::Number(text) => Some(Self::Number(text.to_owned())),
            Token::Text(text) => Some(Self::Text(text.into_owned())),
            Token::Object(json) => Some(Self::Object(json.to_owned())),
            Token::Array(json) => Some(Self::List(json.to_owned())),
            Token::Null => None,
        }
    }

    fn token(&self) -> Token<'_> {
        match self {
            Self::Boolean(value) => Token::Boolean(*value),
            Self::Number(text) => Token::Number(text),
            Self::Text(text) => Token::Text(text.into()),
            Self::Object(json) => Token::Object(json),
            Self::List(json) => Token::Array(json),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Boolean(true) => "true",
            Self::Boolean(false) => "false",
            Self::Number(text) | Self::Text(text) | Self::Object(text) | Self::List(text) => text,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Boolean(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Object(_) => "an object",
            Self::List(_) => "a list",
        }
    }

    /// Whether a column of this kind holds the value as it is, and bodies with it are read as such.
    fn fits(&self, kind: Kind) -> bool {
        let may_be = match self {
            // A text that looks like a number is a word made of digits.
            Self::Text(_) => matches!(kind, Kind::Date | Kind::Timestamp { .. } | Kind::Text),
            Self::Boolean(_) | Self::Number(_) => true,
            Self::Object(_) | Self::List(_) => kind == Kind::Text,
        };
        let is_read = || {
            let reader = column::Kind::of(&kind.body_type());
            reader.is_ok_and(|reader| reader.read(self.token()).is_ok())
        };
        may_be && kind.fits(self.text()) && is_read()
    }
}

fn fields(line: &[u8]) -> Result<BTreeMap<String, Value>, Bad> {
    let mut fields = BTreeMap::new();
    let mut scanner = Scanner::new(line)?;
    let mut more = scanner.begin()?;
    while more {
        let name = scanner.name()?.into_owned();
        match Value::of(scanner.token()?) {
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
                reason: match text.starts_with(b"[") {
                    true => "a list; make lines of it with: jq -c '.[]'".to_owned(),
                    false => reason.into_owned(),
                },
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
    fn lines_are_kept_as_they_are_and_fields_become_columns() {
        let rows = read("{\"b\": 1,  \"a\":\"x\",\"o\":{}}\n\n{\"a\":null}\n").unwrap();
        let columns: Vec<(&str, Kind)> = rows
            .columns()
            .iter()
            .map(|column| (column.name.as_str(), column.kind))
            .collect();
        assert_eq!(
            columns,
            [("a", Kind::Text), ("b", Kind::BigInt), ("o", Kind::Text)]
        );
        let batches: Vec<RecordBatch> = rows.map(Result::unwrap).collect();
        let bodies = batches[0].column_by_name(BODY).unwrap().as_binary::<i32>();
        assert_eq!(bodies.value(0), b"{\"b\": 1,  \"a\":\"x\",\"o\":{}}");
        assert!(batches[0].column_by_name("b").unwrap().is_null(1));
        let nested = batches[0].column_by_name("o").unwrap().as_string::<i32>();
        assert_eq!(nested.iter().collect::<Vec<_>>(), [Some("{}"), None]);
    }

    #[test]
    fn a_value_that_its_topic_does_not_take_is_named_and_not_sent_without_its_key() {
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
        let options = ImportOptions {
            topic: Some(Arc::new(schema)),
            ..ImportOptions::default()
        };
        let text = "{\"id\":7}\n{\"id\":\"x7\"}\n";
        let open =
            move || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(text))) };
        let rows = Rows::read("test.ndjson", ImportFormat::NdJson, &open, &options).unwrap();
        let error = rows.last().unwrap().unwrap_err().to_string();
        let reason = "test.ndjson, line 2: field id: \"x7\" is not a BIGINT";
        assert!(error.starts_with(reason), "{error}");
    }

    /// What the topic of a file declares, and what it leaves out.
    fn declared(text: &'static str) -> (Vec<String>, Vec<String>) {
        let rows = read(text).unwrap();
        let columns = rows.declarable();
        let columns = columns.map(|column| format!("{} {}", column.name, column.kind));
        let left_out = rows.left_out().iter();
        let left_out = left_out.map(|field| format!("{}: {}", field.name, field.why));
        let told = (columns.collect(), left_out.collect());
        // Whatever is declared, the rows that were looked at are read as it.
        for batch in rows {
            batch.unwrap();
        }
        told
    }

    #[test]
    fn a_field_that_changes_its_type_is_left_out_and_the_rows_still_fit() {
        let text = "{\"a\":1,\"b\":\"x\"}\n{\"a\":2.5,\"c\":[1,2],\"d\":{\"e\":1}}\n{\"a\":\"str\",\"d\":5}\n";
        let (columns, left_out) = declared(text);
        assert_eq!(columns, ["b TEXT", "c TEXT"]);
        assert_eq!(
            left_out,
            [
                "a: a number in line 1, a text in line 3",
                "d: an object in line 2, a number in line 3"
            ]
        );
        let numbers = "{\"a\":1,\"n\":0.5}\n{\"a\":2.5,\"n\":10000000000000000001}\n";
        let (columns, left_out) = declared(numbers);
        assert_eq!(columns, ["a DOUBLE"]);
        assert_eq!(left_out, ["n: no type holds each number of it"]);
    }

    #[test]
    fn days_and_times_are_columns_where_bodies_are_read_as_such() {
        let text = "{\"d\":\"2024-05-01\",\"e\":\" 2024-05-01\",\"n\":\"7\"}\n";
        let (columns, left_out) = declared(text);
        assert_eq!(columns, ["d DATE", "e TEXT", "n TEXT"]);
        assert!(left_out.is_empty(), "{left_out:?}");
    }

    #[test]
    fn a_file_that_is_one_list_says_how_to_make_lines_of_it() {
        let error = read("[{\"a\":1}]\n").unwrap_err().to_string();
        assert!(error.ends_with("jq -c '.[]'"), "{error}");
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
