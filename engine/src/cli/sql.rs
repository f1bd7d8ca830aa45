//! `millpond sql`: statements from `-c`, from standard input, or at a prompt.

use std::io::Read as _;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use millpond_proto::client::admin::{Frame, QueryAnswer};
use millpond_proto::client::{Admin, Client};
use millpond_proto::wire::admin::QuerySummary;

use crate::cli::args::SqlArgs;
use crate::cli::console;
use crate::cli::console::words::without_comments;
use crate::cli::error::CliError;
use crate::cli::output::{Format, Table};
use crate::cli::run::Terminal;

/// A statement's rows as they arrive.
#[derive(Debug)]
pub struct Batches {
    answer: QueryAnswer,
    decoder: StreamDecoder,
    buffer: Buffer,
    summary: Option<QuerySummary>,
}

impl Batches {
    /// Runs a statement.
    ///
    /// # Errors
    /// [`CliError::Client`].
    pub async fn of(admin: &Admin, statement: &str) -> Result<Self, CliError> {
        Ok(Self {
            answer: admin.query(statement).await?,
            decoder: StreamDecoder::new(),
            buffer: Buffer::default(),
            summary: None,
        })
    }

    /// The next rows; `None` when all were read.
    ///
    /// # Errors
    /// [`CliError::Client`] when the statement failed, [`CliError::Rows`] when its rows are broken.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, CliError> {
        loop {
            if let Some(batch) = self.decoder.decode(&mut self.buffer)? {
                return Ok(Some(batch));
            }
            match self.answer.next().await? {
                Some(Frame::ArrowIpc(bytes)) => self.buffer = Buffer::from(bytes),
                Some(Frame::Summary(summary)) => self.summary = Some(summary),
                None => return Ok(None),
            }
        }
    }

    /// The columns, once the first frame was read.
    #[must_use]
    pub fn schema(&self) -> Option<SchemaRef> {
        self.decoder.schema()
    }

    /// What was done, once all was read.
    #[must_use]
    pub fn summary(&self) -> QuerySummary {
        self.summary.clone().unwrap_or_default()
    }
}

/// Runs a statement and holds all its rows.
///
/// # Errors
/// As [`Batches::next`].
pub async fn collect(admin: &Admin, statement: &str) -> Result<(Table, QuerySummary), CliError> {
    let mut batches = Batches::of(admin, statement).await?;
    let mut table = Table::default();
    while let Some(batch) = batches.next().await? {
        if table.columns.is_empty() {
            table = Table::of_schema(&batch.schema());
        }
        table.push_batch(&batch)?;
    }
    if let Some(schema) = batches.schema()
        && table.columns.is_empty()
    {
        table = Table::of_schema(&schema);
    }
    Ok((table, batches.summary()))
}

/// Runs the statements that the arguments name.
///
/// # Errors
/// [`CliError`]; the statements after a failed one are not run.
pub async fn run(
    client: &Client,
    args: &SqlArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    let text = match &args.command {
        Some(command) => command.clone(),
        None if terminal.input_is_terminal => {
            return console::prompt(&admin, args.output, terminal).await;
        }
        None => {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .read_to_string(&mut text)
                .map_err(CliError::input)?;
            text
        }
    };
    let statements = statements_of(&text);
    if statements.is_empty() {
        return Err(CliError::Usage {
            what: "there is no statement to run".to_owned(),
            help: "millpond sql -c \"SHOW TOPICS\"".to_owned(),
        });
    }
    for statement in statements {
        execute(&admin, &statement, args.output, terminal).await?;
    }
    Ok(())
}

/// Runs one statement and prints what it answers.
///
/// # Errors
/// [`CliError`].
pub(super) async fn execute(
    admin: &Admin,
    statement: &str,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    if is_subscription(statement) {
        return follow(admin, statement, format, terminal).await;
    }
    let (table, summary) = collect(admin, statement).await?;
    if !table.columns.is_empty() {
        table
            .print(format, terminal.out)
            .map_err(CliError::output)?;
    }
    for notice in &summary.notices {
        terminal.say(&format!("notice: {notice}"))?;
    }
    if table.columns.is_empty() || format.is_for_people() {
        terminal.say(&summary.command)?;
    }
    Ok(())
}

/// Whether rows come for as long as somebody reads them: `SUBSCRIBE …` and `SELECT … EMIT CHANGES`.
fn is_subscription(statement: &str) -> bool {
    let statement = without_comments(statement);
    let words = statement.split_whitespace().map(str::to_ascii_uppercase);
    let words: Vec<String> = words.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["SUBSCRIBE", ..] => true,
        ["CREATE" | "ALTER" | "EXPLAIN" | "INSERT", ..] => false,
        [.., "EMIT", "CHANGES"] => true,
        _ => false,
    }
}

/// Prints rows as they come, until the server or the user ends it.
async fn follow(
    admin: &Admin,
    statement: &str,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let mut batches = Batches::of(admin, statement).await?;
    let mut is_first = true;
    while let Some(batch) = batches.next().await? {
        let mut table = Table::of_schema(&batch.schema());
        table.push_batch(&batch)?;
        let printed = table.print_part(format, is_first, terminal.out);
        printed.map_err(CliError::output)?;
        is_first = false;
    }
    Ok(())
}

/// A name as SQL reads it back unchanged.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The statements of a text; the last one needs no semicolon.
pub(super) fn statements_of(text: &str) -> Vec<String> {
    let (mut statements, rest) = split(text);
    statements.extend(Some(rest).filter(|rest| !is_blank(rest)));
    statements
}

/// Whether every statement that a text begins ends in it.
pub(super) fn is_whole(text: &str) -> bool {
    is_blank(&split(text).1)
}

/// Cuts text at semicolons that stand outside quotes and comments: whole statements, and what follows
/// the last semicolon.
fn split(text: &str) -> (Vec<String>, String) {
    let mut statements = Vec::new();
    let mut current = String::new();
    let mut chars = text.chars().peekable();
    // What ends the quote or comment that we are in.
    let mut until: Option<&str> = None;
    while let Some(c) = chars.next() {
        if until.is_none() && c == ';' {
            let statement = std::mem::take(&mut current);
            if !is_blank(&statement) {
                statements.push(statement.trim().to_owned());
            }
            continue;
        }
        current.push(c);
        until = match (until, c, chars.peek()) {
            (None, '\'', _) => Some("'"),
            (None, '"', _) => Some("\""),
            (None, '-', Some('-')) => Some("\n"),
            (None, '/', Some('*')) => Some("*/"),
            // A doubled quote closes and opens again, which comes to the same.
            (Some("'"), '\'', _) | (Some("\""), '"', _) | (Some("\n"), '\n', _) => None,
            (Some("*/"), '*', Some('/')) => {
                current.extend(chars.next());
                None
            }
            (unchanged, _, _) => unchanged,
        };
    }
    (statements, current)
}

/// Whether there is nothing but space and comments.
fn is_blank(text: &str) -> bool {
    without_comments(text).trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_outside_quotes_and_comments() {
        let (statements, rest) =
            split("SELECT ';', \"a;b\" -- no; not here\n; /* nor ; here */ SELECT 2;\n x");
        assert_eq!(
            statements,
            [
                "SELECT ';', \"a;b\" -- no; not here",
                "/* nor ; here */ SELECT 2"
            ]
        );
        assert_eq!(rest.trim(), "x");
    }

    #[test]
    fn comments_alone_are_no_statement() {
        assert_eq!(split(";;  ; -- only; this").0, Vec::<String>::new());
        assert!(is_blank("-- only this\n  "));
        assert_eq!(statements_of("SELECT 1; /* end */ "), ["SELECT 1"]);
        assert!(!is_blank("/* a */ '--'"));
    }

    #[test]
    fn a_text_is_whole_when_its_last_statement_ends() {
        for (text, whole) in [
            ("SELECT 1;", true),
            ("SELECT 1; SELECT", false),
            ("SELECT ';", false),
            ("SELECT 1; -- done", true),
            ("SELECT 1; /* all\nof it */", true),
            ("SELECT 1; /* not", false),
            ("  ", true),
        ] {
            assert_eq!(is_whole(text), whole, "{text}");
        }
        assert_eq!(statements_of("SELECT 1; SELECT 2").len(), 2);
    }

    #[test]
    fn what_emits_changes_is_followed_and_what_makes_a_view_is_not() {
        assert!(is_subscription("SUBSCRIBE v"));
        assert!(is_subscription("select * from t emit\n changes"));
        assert!(is_subscription("-- watch\nSUBSCRIBE v"));
        assert!(is_subscription(
            "SELECT * FROM t EMIT /* its */ CHANGES -- all"
        ));
        assert!(!is_subscription("SELECT 1 -- EMIT CHANGES"));
        assert!(!is_subscription(
            "CREATE MATERIALIZED VIEW v AS SELECT * FROM t EMIT CHANGES"
        ));
        assert!(!is_subscription("SELECT 1"));
    }

    #[test]
    fn quoted_names_keep_their_quotes() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
