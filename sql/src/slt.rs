//! SQL logic tests: files of statements with the rows, or the error, that each must answer.
//!
//! The format is SQLite's, as the crate `sqllogictest` reads it, of which this is the part we use; that
//! crate would bring fifteen packages and other features of shared ones for it. A file is a list of
//! records, each ended by an empty line; `#` begins a comment line.
//!
//! ```text
//! statement ok                    statement count 3               statement error
//! CREATE TOPIC t (n BIGINT)       INSERT INTO t VALUES (1),…      SELECT m FROM t
//!                                                                 ----
//!                                                                 line 1, column 8: there is no …
//! query IT rowsort streaming
//! SELECT n, s FROM t
//! ----
//! 1 a
//! 2 NULL
//! ```
//!
//! A query names the kind of each column (`I` integer, `R` number with a fraction, `T` text, `B` boolean,
//! `P` timestamp, `D` date, `?` any other), `rowsort` when the order does not matter, and `streaming` when
//! the same query, run as a materialized view over the same topics, must hold the same rows.
//! `job failed NAME` waits until a continuous query has stopped and compares what it says; sizes in it are not compared.
//! `job current NAME` waits until one has read all that was sent before, so that its rows can be asked for.
//! Values are separated by blanks; an empty text is written `(empty)`, a line break `\n`.
//!
//! The files lie in `tests/slt`. The tests of this crate run them over the broker in memory, the tests above
//! the crates over the real one; each file has a broker of its own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millpond_proto::time::{Clock, within};

use crate::answer::Finished;
use crate::catalog::is_system_column;
use crate::continuous::{Continuous as _, JobState, JobStatus};
use crate::error::SqlError;
use crate::job::runtime::Jobs;
use crate::sql::Sql;
use crate::statement::quoted;

/// How long a view may take to catch up, in simulated time.
const CATCH_UP_MS: u64 = 60_000;

/// What a record expects.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Done,
    Count(u64),
    Error(Vec<String>),
    /// The continuous query of this name stops, and says why.
    Failed(String, Vec<String>),
    /// The continuous query of this name comes to have read everything.
    Current(String),
    Rows {
        kinds: String,
        sorted: bool,
        streaming: bool,
        rows: Vec<String>,
    },
}

/// One record of a file.
#[derive(Clone, Debug)]
struct Record {
    /// Where its first line stands, counted from 1.
    line: usize,
    /// The lines before the first expected one, as they are.
    head: Vec<String>,
    sql: String,
    expected: Expected,
}

/// A piece of a file: a record, or lines between records.
#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Record(Box<Record>),
}

/// What came of a file.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Statements that were run.
    pub statements: usize,
    /// Those of them that were run as a view as well.
    pub streamed: usize,
    /// What was not as written.
    pub failures: Vec<String>,
    /// The file as it would have to be.
    pub actual: String,
}

fn read(name: &str, text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.trim().is_empty() || line.starts_with('#') {
            pieces.push(Piece::Text(line.to_owned()));
            continue;
        }
        let mut head = vec![line.to_owned()];
        let mut sql = Vec::new();
        let mut expected = Vec::new();
        let mut below = false;
        while let Some((_, line)) = lines.next_if(|(_, line)| !line.trim().is_empty()) {
            if below {
                expected.push(line.to_owned());
            } else if line == "----" {
                below = true;
            } else {
                sql.push(line);
                head.push(line.to_owned());
            }
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let expected = match words.as_slice() {
            ["statement", "ok"] => Expected::Done,
            ["statement", "count", count] => Expected::Count(count.parse().unwrap()),
            ["statement" | "query", "error"] => Expected::Error(expected),
            ["job", "failed", job] => Expected::Failed((*job).to_owned(), expected),
            ["job", "current", job] => Expected::Current((*job).to_owned()),
            ["query", kinds, how @ ..] => Expected::Rows {
                kinds: (*kinds).to_owned(),
                sorted: how.contains(&"rowsort"),
                streaming: how.contains(&"streaming"),
                rows: expected,
            },
            _ => panic!("{name}:{}: no record begins with {line:?}", at + 1),
        };
        pieces.push(Piece::Record(Box::new(Record {
            line: at + 1,
            head,
            sql: sql.join("\n"),
            expected,
        })));
    }
    pieces
}

/// Everything that a file talks to. Time is simulated, so that waiting for a view costs none.
#[derive(Debug)]
pub struct World {
    /// SQL over a broker that is empty.
    pub sql: Sql,
    /// Its continuous queries.
    pub jobs: Arc<Jobs>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
}

impl World {
    async fn run(&self, sql: &str) -> Result<Finished, SqlError> {
        self.sql.execute(sql).await?.finish().await
    }

    /// Why a continuous query stopped; that it goes on, if it does.
    async fn stopped(&self, job: &str) -> String {
        let stopped = async {
            loop {
                let status = self.jobs.describe(job);
                match status.map(|status| (status.state, status.error)) {
                    Some((JobState::Failed, error)) => break error.unwrap_or_default(),
                    Some(_) => self.clock.sleep(Duration::from_millis(500)).await,
                    None => break "there is none of that name".to_owned(),
                }
            }
        };
        let limit = Duration::from_millis(CATCH_UP_MS);
        let said = within(self.clock.as_ref(), limit, stopped).await;
        said.unwrap_or_else(|| "it did not fail".to_owned())
    }

    /// The rows of a query that was run as a view over the topics as they are now.
    async fn streamed(&self, view: &str, sql: &str) -> Result<Vec<String>, SqlError> {
        let create = format!("CREATE MATERIALIZED VIEW {view} AS {}", without_order(sql));
        self.run(&create).await?;
        let status = self
            .current(view)
            .await
            .unwrap_or_else(|| panic!("view {view} did not catch up: {sql}"));
        if status.state != JobState::Running {
            let why = status.error.unwrap_or_default();
            return Err(SqlError::invalid(
                format!("it is {}: {why}", status.state),
                "",
            ));
        }
        let rows = self.held(view).await?;
        self.run(&format!("DROP MATERIALIZED VIEW {view}")).await?;
        Ok(rows)
    }

    /// How a continuous query stands once it has read everything, or stopped; `None` when that takes too long.
    async fn current(&self, job: &str) -> Option<JobStatus> {
        let current = async {
            loop {
                // A committed epoch shows up after its tick is over.
                self.clock.sleep(Duration::from_millis(500)).await;
                let status = self.jobs.describe(job)?;
                if status.lag == 0 || status.state != JobState::Running {
                    return Some(status);
                }
            }
        };
        let limit = Duration::from_millis(CATCH_UP_MS);
        within(self.clock.as_ref(), limit, current).await.flatten()
    }

    /// What a view holds, in the order of its query's columns.
    async fn held(&self, view: &str) -> Result<Vec<String>, SqlError> {
        let columns = self.run(&format!("DESCRIBE {view}")).await?;
        // Names have blanks in them where a column was called as it was written.
        let names = columns
            .batches
            .iter()
            .map(|batch| batch.column(0).as_string::<i32>());
        let columns: Vec<String> = names
            .flat_map(|names| names.iter().flatten())
            .filter(|name| !is_system_column(name))
            .map(quoted)
            .collect();
        let read = self
            .run(&format!("SELECT {} FROM {view}", columns.join(", ")))
            .await?;
        Ok(rows_of(&read))
    }
}

/// A text with the number before each `bytes` left out: how large state is differs a little from build to build.
fn masked(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let size = |at: usize| {
        let is_bytes = words
            .get(at + 1)
            .is_some_and(|next| next.starts_with("bytes"));
        is_bytes && words[at].chars().all(|digit| digit.is_ascii_digit())
    };
    let masked = words
        .iter()
        .enumerate()
        .map(|(at, word)| if size(at) { "…" } else { *word });
    masked.collect::<Vec<_>>().join(" ")
}

/// A view has no order of its own.
fn without_order(sql: &str) -> &str {
    sql.rfind("\nORDER BY").map_or(sql, |at| &sql[..at])
}

fn kind_of(data_type: &DataType) -> char {
    match data_type {
        DataType::Boolean => 'B',
        other if other.is_integer() => 'I',
        other if other.is_floating() => 'R',
        DataType::Decimal128(..) | DataType::Decimal256(..) => 'R',
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 'T',
        DataType::Timestamp(..) => 'P',
        DataType::Date32 | DataType::Date64 => 'D',
        _ => '?',
    }
}

fn rows_of(finished: &Finished) -> Vec<String> {
    finished.batches.iter().flat_map(rows_of_batch).collect()
}

fn rows_of_batch(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let formatters: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    let rows = (0..batch.num_rows()).map(|row| {
        let values = formatters
            .iter()
            .zip(batch.columns())
            .map(|(format, column)| {
                let text = format.value(row).to_string();
                if text.is_empty() && column.is_valid(row) {
                    return "(empty)".to_owned();
                }
                text.replace('\n', "\\n")
            });
        squeezed(&values.collect::<Vec<_>>().join(" "))
    });
    rows.collect()
}

/// One blank wherever there is white space.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

/// Runs a file.
///
/// # Panics
/// When the file is not one, or a view stands still.
pub async fn run(world: &World, name: &str, text: &str) -> Outcome {
    run_behind(world, name, text, async || ()).await
}

/// As [`run`], with something done before each statement.
///
/// # Panics
/// As [`run`].
pub async fn run_behind(world: &World, name: &str, text: &str, before: impl AsyncFn()) -> Outcome {
    let mut outcome = Outcome::default();
    for piece in read(name, text) {
        let record = match piece {
            Piece::Text(line) => {
                outcome.actual.push_str(&line);
                outcome.actual.push('\n');
                continue;
            }
            Piece::Record(record) => record,
        };
        before().await;
        outcome.statements += 1;
        if let Expected::Failed(job, expected) = &record.expected {
            let actual = world.stopped(job).await;
            if masked(&squeezed(&expected.join(" "))) != masked(&squeezed(&actual)) {
                let said = differing(expected, std::slice::from_ref(&actual));
                outcome
                    .failures
                    .push(format!("{name}:{}: job {job}\n{said}", record.line));
            }
            for line in &record.head {
                outcome.actual.push_str(line);
                outcome.actual.push('\n');
            }
            let _ = writeln!(outcome.actual, "----\n{actual}");
            continue;
        }
        if let Expected::Current(job) = &record.expected {
            let status = world.current(job).await;
            if status.is_none_or(|status| status.state != JobState::Running) {
                let line = record.line;
                let failure =
                    format!("{name}:{line}: job {job} does not come to have read everything");
                outcome.failures.push(failure);
            }
            for line in &record.head {
                outcome.actual.push_str(line);
                outcome.actual.push('\n');
            }
            continue;
        }
        let answer = world.run(&record.sql).await;
        let below = check(world, name, &record, answer, &mut outcome).await;
        for line in &record.head {
            outcome.actual.push_str(line);
            outcome.actual.push('\n');
        }
        if let Some(below) = below {
            outcome.actual.push_str("----\n");
            for line in below {
                outcome.actual.push_str(&line);
                outcome.actual.push('\n');
            }
        }
    }
    outcome
}

/// Compares an answer with what was expected; answers the lines that belong below the statement.
async fn check(
    world: &World,
    name: &str,
    record: &Record,
    answer: Result<Finished, SqlError>,
    outcome: &mut Outcome,
) -> Option<Vec<String>> {
    let Record {
        line,
        sql,
        expected,
        ..
    } = record;
    let mut fail = |what: String| {
        outcome
            .failures
            .push(format!("{name}:{line}: {sql}\n{what}"));
    };
    let (expected, finished) = match (expected, answer) {
        (Expected::Error(expected), Err(error)) => {
            let actual: Vec<String> = error.to_string().lines().map(str::to_owned).collect();
            if squeezed(&actual.join(" ")) != squeezed(&expected.join(" ")) {
                fail(differing(expected, &actual));
            }
            return Some(actual);
        }
        (Expected::Error(expected), Ok(finished)) => {
            fail(format!("did not fail: {:?}", rows_of(&finished)));
            return Some(expected.clone());
        }
        (expected, Err(error)) => {
            fail(format!("failed: {error}"));
            return match expected {
                Expected::Rows { rows, .. } => Some(rows.clone()),
                _ => None,
            };
        }
        (expected, Ok(finished)) => (expected, finished),
    };
    match expected {
        Expected::Count(count) => {
            let told = finished.command.rsplit(' ').next().unwrap_or_default();
            if told != count.to_string() {
                fail(format!("answered {}", finished.command));
            }
            None
        }
        Expected::Rows {
            kinds,
            sorted: any_order,
            streaming,
            rows,
        } => {
            let fields = finished.schema.fields().iter();
            let found: String = fields.map(|field| kind_of(field.data_type())).collect();
            if found != *kinds {
                fail(format!("the columns are {found}, not {kinds}"));
            }
            let mut actual = rows_of(&finished);
            if *any_order {
                actual.sort();
            }
            let wanted: Vec<String> = rows.iter().map(|row| squeezed(row)).collect();
            if actual != wanted {
                fail(differing(&wanted, &actual));
            }
            if *streaming {
                outcome.streamed += 1;
                let view = format!("view_of_line_{line}");
                match world.streamed(&view, sql).await {
                    Ok(streamed) if sorted(streamed.clone()) == sorted(actual.clone()) => {}
                    Ok(streamed) => outcome.failures.push(format!(
                        "{name}:{line}: {sql}\nas a view: {}",
                        differing(&sorted(actual.clone()), &sorted(streamed))
                    )),
                    Err(error) => outcome
                        .failures
                        .push(format!("{name}:{line}: {sql}\nas a view: {error}")),
                }
            }
            Some(actual)
        }
        Expected::Done | Expected::Error(_) | Expected::Failed(..) | Expected::Current(_) => None,
    }
}

fn differing(expected: &[String], actual: &[String]) -> String {
    let mut text = String::from("expected\n");
    for line in expected {
        let _ = writeln!(text, "  {line}");
    }
    text.push_str("answered\n");
    for line in actual {
        let _ = writeln!(text, "  {line}");
    }
    text
}

#[cfg(test)]
mod tests;
