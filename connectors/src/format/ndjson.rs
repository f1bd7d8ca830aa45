//! One JSON object per line; the line is the body, untouched.
//!
//! Columns are the fields that hold plain values; an object or a list inside stays in the body and makes
//! no column. Typed columns serve the key and the order of the import only.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Map, Value};

use crate::format::kind::{Inference, Kind, parse_date, parse_timestamp_us};
use crate::import::{
    BATCH_ROWS, BODY, Counted, INFER_ROWS_MAX, ImportColumn, ImportError, ImportOptions,
    LINE_BYTES_MAX,
};

type Object = Map<String, Value>;

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
        let Some((_, object)) = lines.read()? else {
            break;
        };
        rows += 1;
        for (name, value) in &object {
            match value {
                Value::Null | Value::Array(_) | Value::Object(_) => {}
                Value::String(text) => {
                    columns
                        .entry(name.clone())
                        .or_default()
                        .observe_string(text);
                }
                Value::Bool(_) | Value::Number(_) => {
                    let column = columns.entry(name.clone()).or_default();
                    column.observe(&value.to_string(), &[]);
                }
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
        let declared = options.declared.get(&name).copied();
        let kind = declared.unwrap_or_else(|| inference.kind());
        ImportColumn { name, kind }
    });
    Ok(columns.collect())
}

/// The rows of an NDJSON file.
pub(crate) struct NdJsonRows {
    lines: Lines<Counted>,
    columns: Vec<ImportColumn>,
    schema: SchemaRef,
}

impl NdJsonRows {
    pub(crate) fn new(file: &str, reader: Counted, columns: &[ImportColumn]) -> Self {
        let mut fields: Vec<Field> = columns
            .iter()
            .map(|column| Field::new(&column.name, column.kind.data_type(), true))
            .collect();
        fields.push(Field::new(BODY, DataType::Binary, false));
        Self {
            lines: Lines::new(file, reader),
            columns: columns.to_vec(),
            schema: Arc::new(Schema::new(fields)),
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
        let mut arrays: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|column| convert(column, &rows))
            .collect();
        let bodies = rows.iter().map(|(line, _)| line.as_slice());
        arrays.push(Arc::new(BinaryArray::from_iter_values(bodies)));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays);
        Some(batch.map_err(|cause| ImportError::Form {
            file: self.lines.file.clone(),
            cause,
        }))
    }
}

/// One field of all rows; null where it is missing or of another type.
fn convert(column: &ImportColumn, rows: &[(Vec<u8>, Object)]) -> ArrayRef {
    let values = rows.iter().map(|(_, object)| object.get(&column.name));
    match column.kind {
        Kind::BigInt => {
            let values = values.map(|value| value.and_then(Value::as_i64));
            Arc::new(values.collect::<Int64Array>())
        }
        Kind::Double => {
            let values = values.map(|value| value.and_then(Value::as_f64));
            Arc::new(values.collect::<Float64Array>())
        }
        Kind::Boolean => {
            let values = values.map(|value| value.and_then(Value::as_bool));
            Arc::new(values.collect::<BooleanArray>())
        }
        Kind::Date => {
            let values = values.map(|value| value.and_then(Value::as_str).and_then(parse_date));
            Arc::new(values.collect::<Date32Array>())
        }
        Kind::Timestamp { .. } => {
            let values =
                values.map(|value| value.and_then(Value::as_str).and_then(parse_timestamp_us));
            let array = values.collect::<TimestampMicrosecondArray>();
            Arc::new(array.with_data_type(column.kind.data_type()))
        }
        Kind::Text => {
            let values = values.map(|value| match value {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(other) => Some(other.to_string()),
            });
            Arc::new(values.collect::<StringArray>())
        }
    }
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
    fn read(&mut self) -> Result<Option<(Vec<u8>, Object)>, ImportError> {
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
            let object = serde_json::from_slice(text).map_err(|cause| ImportError::Json {
                file: self.file.clone(),
                line: self.line,
                cause,
            })?;
            return Ok(Some((text.to_vec(), object)));
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
