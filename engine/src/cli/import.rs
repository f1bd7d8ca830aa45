//! `millpond import`: a file becomes messages, one per row, in the order of the file.
//!
//! Batches go one after another, each durable before the next is sent: so the order within a key is that
//! of the file, and an error leaves no more than one batch of which something is not known.
//!
//! The keys of a topic with a primary key follow from it, so that a row replaces the one that is there; else `--key` names a column.
//!
//! Bodies are JSON, so a topic that takes others is refused before the first row, and a row that the topic could not read as its columns
//! ends the import.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use indicatif::{ProgressBar, ProgressStyle};
use millpond_connectors::import::{BODY, ImportColumn, ImportFormat, ImportOptions, Rows};
use millpond_proto::client::{Admin, Client, OutgoingMessage, Producer};
use millpond_proto::wire::admin::{Column, CreateTopicRequest, Topic};
use millpond_sql::sort::order_by;

use crate::cli::args::ImportArgs;
use crate::cli::error::CliError;
use crate::cli::output::counted;
use crate::cli::row_key::{RowKeys, stored_columns};
use crate::cli::run::Terminal;
use crate::cli::topic::send;

/// Messages per send.
const SEND_MESSAGES: usize = 256;
/// Bytes of bodies per send, unless one body alone is larger: well below the server's limit.
const SEND_BYTES: usize = 4 * 1024 * 1024;

/// What is typed instead of a file's name to read standard input.
const STANDARD_INPUT: &str = "-";

/// Sends a file's rows as messages of a topic.
#[derive(Debug)]
pub struct Importer {
    producer: Producer,
    topic: String,
    keys: Keys,
    sent: u64,
}

/// Where the keys of messages come from.
#[derive(Debug)]
pub enum Keys {
    /// Messages have none.
    None,
    /// The values of this column, as text.
    Column(String),
    /// The topic's primary key, as `INSERT` writes it.
    Row(RowKeys),
}

/// Imports the file that the arguments name.
///
/// # Errors
/// [`CliError`]; [`CliError::Stopped`] says how many rows were sent.
pub async fn run(
    client: &Client,
    args: &ImportArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    let topic = existing(&admin, &args.to).await?;
    let options = ImportOptions {
        nulls: args.nulls.clone(),
        delimiter: args.delimiter,
        topic: topic.as_ref().map(read_columns).transpose()?,
    };
    let mut rows = open(args, &options)?;
    let keys = keys(args, topic.as_ref(), rows.columns())?;
    if topic.is_none() {
        let request = missing_topic(&args.to, &rows);
        let columns: Vec<String> = request
            .columns
            .iter()
            .map(|column| format!("{} {}", column.name, column.sql_type))
            .collect();
        admin.create_topic(request).await?;
        terminal.say(&format!(
            "created topic {} ({})",
            args.to,
            columns.join(", ")
        ))?;
        for field in rows.left_out() {
            terminal.say(&format!(
                "it has no column for {}: {}; SQL finds it in the body, as _body->'{}'",
                field.name,
                field.why,
                field.name.replace('\'', "''")
            ))?;
        }
    }
    let bar = progress_bar(&args.file);
    let mut importer = Importer::new(client, &args.to, keys);
    if let Some(expressions) = &args.order_by {
        let mut all = Vec::new();
        for batch in &mut rows {
            all.push(batch?);
        }
        let total = all.iter().map(|batch| batch.num_rows() as u64).sum();
        bar.set_length(total);
        for batch in order_by(all, expressions).await? {
            importer.send(&batch).await?;
            bar.set_position(importer.sent());
        }
    } else {
        while let Some(batch) = rows.next() {
            let batch = batch.map_err(|cause| importer.stopped(cause.into()))?;
            importer.send(&batch).await?;
            bar.set_position(rows.bytes_read());
        }
    }
    bar.finish_and_clear();
    let rows = counted(importer.sent(), "row");
    terminal.say(&format!("imported {rows} into {}", args.to))
}

/// Opens the file, or standard input.
fn open(args: &ImportArgs, options: &ImportOptions) -> Result<Rows, CliError> {
    let format = match args.format {
        Some(format) => format.into(),
        None => ImportFormat::of(&args.file)?,
    };
    if args.file.as_os_str() != STANDARD_INPUT {
        return Ok(Rows::open(&args.file, format, options)?);
    }
    let input = Box::new(std::io::stdin());
    Ok(Rows::read_once("standard input", format, input, options)?)
}

/// Where keys come from: a primary key tells the row, and `--key` may not say otherwise.
fn keys(
    args: &ImportArgs,
    topic: Option<&Topic>,
    columns: &[ImportColumn],
) -> Result<Keys, CliError> {
    let Some(row) = topic.map(RowKeys::of).transpose()?.flatten() else {
        check_key(args.key.as_deref(), columns, &args.file)?;
        return Ok(args.key.clone().map_or(Keys::None, Keys::Column));
    };
    let names: Vec<&str> = row.names().collect();
    if let Some(key) = &args.key
        && names != [key.as_str()]
    {
        return Err(CliError::Usage {
            what: format!(
                "topic {} has PRIMARY KEY ({}), which tells its rows apart, and not {key}",
                args.to,
                names.join(", ")
            ),
            help: "leave --key out: the keys of rows follow from the primary key, as with INSERT"
                .to_owned(),
        });
    }
    for name in names {
        check_key(Some(name), columns, &args.file)?;
    }
    Ok(Keys::Row(row))
}

impl Importer {
    /// Sends to `topic`.
    #[must_use]
    pub fn new(client: &Client, topic: &str, keys: Keys) -> Self {
        Self {
            producer: Producer::new(client),
            topic: topic.to_owned(),
            keys,
            sent: 0,
        }
    }

    /// Rows that are durable.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends the rows of a batch of [`Rows`]; they are durable when this returns.
    ///
    /// # Errors
    /// [`CliError::Stopped`].
    pub async fn send(&mut self, batch: &RecordBatch) -> Result<(), CliError> {
        let messages = messages(batch, &self.keys).map_err(|cause| self.stopped(cause))?;
        let mut pending = Vec::new();
        let mut bytes = 0;
        for message in messages {
            let full = pending.len() >= SEND_MESSAGES || bytes + message.body.len() > SEND_BYTES;
            if full && !pending.is_empty() {
                self.flush(std::mem::take(&mut pending)).await?;
                bytes = 0;
            }
            bytes += message.body.len();
            pending.push(message);
        }
        self.flush(pending).await
    }

    async fn flush(&mut self, pending: Vec<OutgoingMessage>) -> Result<(), CliError> {
        if !pending.is_empty() {
            self.sent += send(&self.producer, &self.topic, pending, self.sent).await?;
        }
        Ok(())
    }

    fn stopped(&self, cause: CliError) -> CliError {
        CliError::Stopped {
            sent: self.sent,
            batch: None,
            cause: Box::new(cause),
        }
    }
}

/// The request that makes a topic with the file's columns.
#[must_use]
pub fn missing_topic(name: &str, rows: &Rows) -> CreateTopicRequest {
    let columns = rows.declarable().map(|column| Column {
        name: column.name.clone(),
        sql_type: column.kind.sql_type().into_owned(),
        expression: String::new(),
    });
    CreateTopicRequest {
        name: name.to_owned(),
        columns: columns.collect(),
        ..CreateTopicRequest::default()
    }
}

async fn existing(admin: &Admin, topic: &str) -> Result<Option<Topic>, CliError> {
    match admin.describe_topic(topic).await {
        Ok(answer) => Ok(Some(answer.topic.unwrap_or_default())),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The columns that a topic reads from JSON bodies; an error where it takes other bodies.
fn read_columns(topic: &Topic) -> Result<SchemaRef, CliError> {
    let takes = match (topic.format.as_str(), topic.changelog.as_str()) {
        ("" | "json", "debezium") => "changes as Debezium writes them".to_owned(),
        ("" | "json", _) => String::new(),
        (format, _) => format!("bodies in {format}"),
    };
    if !takes.is_empty() {
        return Err(CliError::Usage {
            what: format!(
                "topic {} takes {takes}, and an import writes rows in JSON",
                topic.name
            ),
            help: format!(
                "import into a topic of its own, and copy: INSERT INTO {} SELECT … FROM that topic",
                topic.name
            ),
        });
    }
    stored_columns(topic)
}

fn check_key(key: Option<&str>, columns: &[ImportColumn], file: &Path) -> Result<(), CliError> {
    let Some(key) = key else {
        return Ok(());
    };
    if columns.iter().any(|column| column.name == key) {
        return Ok(());
    }
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    Err(CliError::Usage {
        what: format!("{} has no column {key:?} to take keys from", file.display()),
        help: format!("choose one of its columns: {}", names.join(", ")),
    })
}

fn messages(batch: &RecordBatch, keys: &Keys) -> Result<Vec<OutgoingMessage>, CliError> {
    let bodies = batch
        .column_by_name(BODY)
        .expect("every batch of an import has its bodies")
        .as_binary::<i32>();
    let keys: Vec<Option<String>> = match keys {
        Keys::None => vec![None; batch.num_rows()],
        Keys::Column(name) => column_keys(batch, name)?,
        Keys::Row(row) => match row.read(bodies)? {
            Some(keys) => keys.into_iter().map(Some).collect(),
            None => vec![None; batch.num_rows()],
        },
    };
    let messages = bodies.iter().zip(keys).map(|(body, key)| OutgoingMessage {
        key,
        ..OutgoingMessage::new(body.unwrap_or_default().to_vec())
    });
    Ok(messages.collect())
}

/// The values of a column as keys; blank ones are none.
fn column_keys(batch: &RecordBatch, name: &str) -> Result<Vec<Option<String>>, CliError> {
    let column = batch
        .column_by_name(name)
        .expect("the column of the keys was looked for before");
    let texts = cast(column, &DataType::Utf8)?;
    let texts = texts.as_string::<i32>().iter();
    let keys = texts.map(|text| text.filter(|text| !text.trim().is_empty()));
    Ok(keys.map(|key| key.map(str::to_owned)).collect())
}

/// Hidden by itself when standard error is not a terminal.
fn progress_bar(file: &Path) -> ProgressBar {
    let bytes = std::fs::metadata(file).map_or(0, |facts| facts.len());
    let style = ProgressStyle::with_template("{bar:40} {percent}% {elapsed}, {eta} left")
        .expect("the template is constant");
    ProgressBar::new(bytes).with_style(style)
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read};

    use millpond_connectors::format::kind::Kind;

    use super::*;

    fn batch(text: &'static str) -> RecordBatch {
        let open =
            move || -> std::io::Result<Box<dyn Read + Send>> { Ok(Box::new(Cursor::new(text))) };
        let options = ImportOptions::default();
        let rows = Rows::read("t.csv", ImportFormat::Csv, &open, &options).unwrap();
        rows.map(Result::unwrap).next().unwrap()
    }

    #[test]
    fn rows_are_keyed_by_a_column_and_without_value_by_none() {
        let messages = messages(&batch("n,t\n7,a\nNA,b\n"), &Keys::Column("n".to_owned())).unwrap();
        let keys: Vec<_> = messages
            .iter()
            .map(|message| message.key.as_deref())
            .collect();
        assert_eq!(keys, [Some("7"), None]);
        assert_eq!(messages[0].body, r#"{"n":7,"t":"a"}"#);
    }

    #[test]
    fn a_topic_whose_bodies_are_not_json_rows_is_refused_by_name() {
        let topic = |format: &str, changelog: &str| Topic {
            name: "t".to_owned(),
            format: format.to_owned(),
            changelog: changelog.to_owned(),
            columns: vec![
                Column {
                    name: "a".to_owned(),
                    sql_type: "SMALLINT".to_owned(),
                    expression: String::new(),
                },
                Column {
                    name: "b".to_owned(),
                    sql_type: "BIGINT".to_owned(),
                    expression: "a + 1".to_owned(),
                },
            ],
            ..Topic::default()
        };
        for (format, changelog, takes) in [
            ("csv", "rows", "bodies in csv"),
            ("avro", "rows", "bodies in avro"),
            ("protobuf", "upsert", "bodies in protobuf"),
            ("raw", "rows", "bodies in raw"),
            ("json", "debezium", "changes as Debezium writes them"),
        ] {
            let error = read_columns(&topic(format, changelog)).unwrap_err();
            let what = format!("topic t takes {takes}, and an import writes rows in JSON");
            assert_eq!(error.to_string(), what);
        }
        for (format, changelog) in [("json", "rows"), ("json", "upsert"), ("", "")] {
            let columns = read_columns(&topic(format, changelog)).unwrap();
            let types: Vec<&DataType> = columns.fields().iter().map(|f| f.data_type()).collect();
            assert_eq!(types, [&DataType::Int16], "{format} {changelog}");
        }
    }

    #[test]
    fn numbers_that_are_large_have_keys_of_their_own() {
        let text = "id\n10000000000000000001\n10000000000000000002\n";
        let messages = messages(&batch(text), &Keys::Column("id".to_owned())).unwrap();
        let keys: Vec<_> = messages
            .iter()
            .map(|message| message.key.as_deref())
            .collect();
        assert_eq!(
            keys,
            [Some("10000000000000000001"), Some("10000000000000000002")]
        );
    }

    #[test]
    fn an_unknown_key_column_names_the_columns_there_are() {
        let columns = [ImportColumn {
            name: "a".to_owned(),
            kind: Kind::Text,
        }];
        let error = check_key(Some("b"), &columns, Path::new("f.csv")).unwrap_err();
        assert_eq!(error.help().unwrap(), "choose one of its columns: a");
    }
}
