//! How results are printed: as a table for people, as JSON or CSV for programs.
//!
//! JSON is one array with an object per line, its fields in column order. CSV is RFC 4180 with a header;
//! null is an empty field, and an empty text is `""`. A list, a struct or a map is JSON in both. A table aligns numbers
//! to the right and shows null as an empty cell. A body that is no text loses nothing: it is `{"base64":"…"}` in JSON,
//! and `\x` and hex digits elsewhere, as PostgreSQL writes bytes.
//!
//! **Invariant.** Nothing that somebody sent steers the terminal of whoever looks at it: control characters are
//! shown as what they are where people read.

use std::borrow::Cow;
use std::io::{self, Write};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::make_encoder;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, presets};
use millpond_connectors::format::json::wordless;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// An array of objects, one per line.
    Json,
    /// Comma-separated values with a header.
    Csv,
    /// For people: a line a column, for rows that are wider than a line.
    Vertical,
}

impl Format {
    /// Whether a person reads it, who is told what was done as well.
    #[must_use]
    pub fn is_for_people(self) -> bool {
        matches!(self, Self::Table | Self::Vertical)
    }
}

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A number, as its digits.
    Number(String),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(String),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
    /// A list, a struct or a map.
    Nested {
        /// As people see it.
        shown: String,
        /// As JSON.
        json: String,
    },
}

/// Rows under column names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Column names.
    pub columns: Vec<String>,
    /// Rows; each as long as `columns`.
    pub rows: Vec<Vec<Cell>>,
}

impl From<u64> for Cell {
    fn from(value: u64) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<u32> for Cell {
    fn from(value: u32) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl Cell {
    /// The body of a message: text, if it is some.
    #[must_use]
    pub fn body(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_owned()),
        }
    }

    /// As it is written without quotes.
    #[must_use]
    pub fn plain(&self) -> Cow<'_, str> {
        match self {
            Self::Null => Cow::Borrowed(""),
            Self::Boolean(true) => Cow::Borrowed("true"),
            Self::Boolean(false) => Cow::Borrowed("false"),
            Self::Number(text) | Self::Text(text) | Self::Nested { shown: text, .. } => {
                Cow::Borrowed(text)
            }
            Self::Bytes(bytes) => {
                let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
                Cow::Owned(format!("\\x{}", digits.collect::<String>()))
            }
        }
    }

    /// As a field of CSV, if there is something.
    fn in_csv(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Null => None,
            Self::Nested { json, .. } => Some(Cow::Borrowed(json)),
            other => Some(other.plain()),
        }
    }

    /// As people see it.
    fn shown(&self) -> Cow<'_, str> {
        let plain = self.plain();
        let steers = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
        if !plain.contains(steers) {
            return plain;
        }
        let mut shown = String::with_capacity(plain.len() + 8);
        for letter in plain.chars() {
            if steers(letter) {
                shown.push_str(&format!("\\x{:02x}", u32::from(letter)));
            } else {
                shown.push(letter);
            }
        }
        Cow::Owned(shown)
    }
}

/// A number of things, by their name for one of them.
#[must_use]
pub fn counted(count: u64, name: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {name}{ending}")
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|name| (*name).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// A table with the columns of a schema.
    #[must_use]
    pub fn of_schema(schema: &Schema) -> Self {
        Self {
            columns: schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds the rows of a batch.
    ///
    /// # Errors
    /// When a value can not be shown as text.
    pub fn push_batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let options = FormatOptions::default();
        let as_json = wordless::options();
        let schema = batch.schema();
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
            // What has no form in JSON, such as a map whose keys are no texts, stays a text.
            let nested = array.data_type().is_nested().then(|| {
                let encoder = make_encoder(field, array.as_ref(), &as_json);
                encoder.ok()
            });
            columns.push((array, formatter, nested.flatten()));
        }
        for row in 0..batch.num_rows() {
            let cells = columns.iter_mut().map(|(array, formatter, nested)| {
                if array.is_null(row) {
                    return Ok(Cell::Null);
                }
                let text = formatter.value(row).try_to_string()?;
                if let Some(encoder) = nested {
                    let mut json = Vec::new();
                    encoder.encode(row, &mut json);
                    return Ok(match String::from_utf8(json) {
                        Ok(json) => Cell::Nested { shown: text, json },
                        Err(_) => Cell::Text(text),
                    });
                }
                Ok(match array.data_type() {
                    DataType::Null => Cell::Null,
                    DataType::Boolean => Cell::Boolean(text == "true"),
                    // JSON has no word for infinity: it stays a text.
                    kind if kind.is_numeric() && is_json_number(&text) => Cell::Number(text),
                    _ => Cell::Text(text),
                })
            });
            self.rows.push(cells.collect::<Result<_, ArrowError>>()?);
        }
        Ok(())
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When `out` can not be written.
    pub fn print(&self, format: Format, out: &mut dyn Write) -> io::Result<()> {
        match format {
            Format::Table => self.print_table(out),
            Format::Json => self.print_json(out),
            Format::Csv => self.print_csv(out),
            Format::Vertical => self.print_vertical(out),
        }
    }

    fn print_vertical(&self, out: &mut dyn Write) -> io::Result<()> {
        for (number, row) in (1..).zip(&self.rows) {
            writeln!(out, "-[ row {number} ]-")?;
            self.print_facts(row, out)?;
        }
        Ok(())
    }

    /// Prints the one row that there is, a line a column.
    ///
    /// # Errors
    /// When `out` can not be written.
    pub fn print_record(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = self.rows.iter();
        rows.try_for_each(|row| self.print_facts(row, out))
    }

    fn print_facts(&self, row: &[Cell], out: &mut dyn Write) -> io::Result<()> {
        let widths = self.columns.iter().map(|name| name.chars().count());
        let width = widths.max().unwrap_or(0);
        for (name, cell) in self.columns.iter().zip(row) {
            let fact = format!("{name:width$}  {}", cell.shown());
            writeln!(out, "{}", fact.trim_end())?;
        }
        Ok(())
    }

    fn print_table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut table = comfy_table::Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| {
                let aligned = match cell {
                    Cell::Number(_) => CellAlignment::Right,
                    _ => CellAlignment::Left,
                };
                comfy_table::Cell::new(cell.shown()).set_alignment(aligned)
            }));
        }
        for line in table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn print_json(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "[")?;
        for (index, row) in self.rows.iter().enumerate() {
            write!(out, "{}", if index == 0 { "\n" } else { ",\n" })?;
            self.json_row(row, out)?;
        }
        writeln!(out, "\n]")
    }

    fn json_row(&self, row: &[Cell], out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{{")?;
        for (column, (name, cell)) in self.columns.iter().zip(row).enumerate() {
            let comma = if column == 0 { "" } else { "," };
            write!(out, "{comma}{}:", json_text(name))?;
            match cell {
                Cell::Null => write!(out, "null")?,
                Cell::Text(text) => write!(out, "{}", json_text(text))?,
                Cell::Number(_) | Cell::Boolean(_) => write!(out, "{}", cell.plain())?,
                Cell::Nested { json, .. } => write!(out, "{json}")?,
                Cell::Bytes(bytes) => {
                    write!(out, "{{\"base64\":\"{}\"}}", STANDARD.encode(bytes))?;
                }
            }
        }
        write!(out, "}}")
    }

    /// Prints rows of which more follow: CSV, its header before the first ones, or else an object per line, since nobody knows
    /// yet how wide columns will be.
    ///
    /// # Errors
    /// What the output says.
    pub fn print_part(
        &self,
        format: Format,
        is_first: bool,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if format == Format::Csv && is_first {
            csv_line(
                self.columns.iter().map(|name| Some(name.as_str().into())),
                out,
            )?;
        }
        for row in &self.rows {
            if format == Format::Csv {
                csv_line(row.iter().map(Cell::in_csv), out)?;
            } else {
                self.json_row(row, out)?;
                writeln!(out)?;
            }
        }
        out.flush()
    }

    fn print_csv(&self, out: &mut dyn Write) -> io::Result<()> {
        csv_line(
            self.columns.iter().map(|name| Some(name.as_str().into())),
            out,
        )?;
        for row in &self.rows {
            csv_line(row.iter().map(Cell::in_csv), out)?;
        }
        Ok(())
    }
}

/// A line of values; of what is none, nothing.
fn csv_line<'a>(
    values: impl Iterator<Item = Option<Cow<'a, str>>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, value) in values.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let Some(value) = value else {
            write!(out, "{comma}")?;
            continue;
        };
        if value.is_empty() || value.contains([',', '"', '\n', '\r']) {
            write!(out, "{comma}\"{}\"", value.replace('"', "\"\""))?;
        } else {
            write!(out, "{comma}{value}")?;
        }
    }
    writeln!(out)
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn is_json_number(text: &str) -> bool {
    serde_json::from_str::<serde_json::Number>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BooleanArray, Float64Array, ListArray, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn printed(format: Format) -> String {
        let table = Table {
            columns: vec!["name".to_owned(), "n".to_owned(), "ok".to_owned()],
            rows: vec![
                vec!["a, \"b\"".into(), 7_u64.into(), Cell::Boolean(true)],
                vec!["c".into(), Cell::Null, Cell::Boolean(false)],
            ],
        };
        let mut out = Vec::new();
        table.print(format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn json_keeps_types_and_column_order() {
        let text = printed(Format::Json);
        assert_eq!(
            text,
            "[\n{\"name\":\"a, \\\"b\\\"\",\"n\":7,\"ok\":true},\n\
             {\"name\":\"c\",\"n\":null,\"ok\":false}\n]\n"
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(
            printed(Format::Csv),
            "name,n,ok\n\"a, \"\"b\"\"\",7,true\nc,,false\n"
        );
    }

    #[test]
    fn a_table_has_a_header_and_a_line_per_row() {
        let text = printed(Format::Table);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with(" name"), "{text}");
    }

    #[test]
    fn vertically_each_column_has_a_line() {
        assert_eq!(
            printed(Format::Vertical),
            "-[ row 1 ]-\nname  a, \"b\"\nn     7\nok    true\n-[ row 2 ]-\nname  c\nn\nok    false\n"
        );
    }

    #[test]
    fn a_body_that_is_no_text_loses_nothing_and_no_body_steers_the_terminal() {
        let table = Table {
            columns: vec!["body".to_owned()],
            rows: vec![
                vec![Cell::body(b"\xff\x00")],
                vec![Cell::body("a\u{1b}[2J\u{9b}é".as_bytes())],
            ],
        };
        let printed = |format| {
            let mut out = Vec::new();
            table.print(format, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            printed(Format::Json),
            "[\n{\"body\":{\"base64\":\"/wA=\"}},\n{\"body\":\"a\\u001b[2J\u{9b}é\"}\n]\n"
        );
        assert_eq!(printed(Format::Csv), "body\n\\xff00\na\u{1b}[2J\u{9b}é\n");
        for format in [Format::Table, Format::Vertical] {
            let text = printed(format);
            assert!(text.contains("\\xff00"), "{text}");
            assert!(text.contains("a\\x1b[2J\\x9bé"), "{text}");
        }
    }

    #[test]
    fn one_is_told_as_one() {
        assert_eq!(counted(1, "message"), "1 message");
        assert_eq!(counted(0, "message"), "0 messages");
    }

    #[test]
    fn an_empty_result_is_still_valid_json() {
        let mut out = Vec::new();
        Table::new(&["a"]).print(Format::Json, &mut out).unwrap();
        assert_eq!(out, b"[\n]\n");
    }

    #[test]
    fn what_is_nested_is_json_for_programs_and_nothing_is_no_empty_text() {
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]);
        let texts = StringArray::from(vec![Some(""), None, Some("x")]);
        let batch = RecordBatch::try_from_iter([
            ("l", Arc::new(lists) as ArrayRef),
            ("t", Arc::new(texts)),
        ]);
        let batch = batch.unwrap();
        let mut table = Table::of_schema(&batch.schema());
        table.push_batch(&batch).unwrap();
        let printed = |format| {
            let mut out = Vec::new();
            table.print(format, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            printed(Format::Json),
            "[\n{\"l\":[1,null],\"t\":\"\"},\n{\"l\":null,\"t\":null},\n{\"l\":[],\"t\":\"x\"}\n]\n"
        );
        assert_eq!(printed(Format::Csv), "l,t\n\"[1,null]\",\"\"\n,\n[],x\n");
        assert!(printed(Format::Table).contains("[1, ]"));
    }

    #[test]
    fn batches_become_cells_of_their_type() {
        let batch = RecordBatch::try_from_iter([
            (
                "f",
                Arc::new(Float64Array::from(vec![
                    Some(1.5),
                    Some(f64::INFINITY),
                    None,
                ])) as ArrayRef,
            ),
            ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
            ("s", Arc::new(StringArray::from(vec!["1", "", "x"]))),
        ])
        .unwrap();
        let mut table = Table::of_schema(&batch.schema());
        table.push_batch(&batch).unwrap();
        assert_eq!(
            table.rows[0],
            [
                Cell::Number("1.5".to_owned()),
                Cell::Boolean(true),
                "1".into()
            ]
        );
        assert_eq!(table.rows[1][0], "inf".into());
        assert_eq!(table.rows[2][0], Cell::Null);
    }
}
