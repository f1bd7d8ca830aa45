//! `millpond export`: rows over gRPC into a Parquet file on this machine.
//!
//! The file is written beside its place and renamed at the end: it is there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use millpond_proto::client::{Admin, Client};
use millpond_sql::statement::{Statement, parse};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::cli::args::ExportArgs;
use crate::cli::error::CliError;
use crate::cli::output::counted;
use crate::cli::run::Terminal;
use crate::cli::sql::{Batches, quoted};

/// A file that is being written; removed when it is not finished.
struct Partial {
    place: PathBuf,
    partial: PathBuf,
    writer: Option<ArrowWriter<File>>,
}

/// Exports a topic or the result of a query.
///
/// # Errors
/// [`CliError`]; no file is left behind then.
pub async fn run(
    client: &Client,
    args: &ExportArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    if args.to.exists() && !args.force {
        return Err(CliError::Exists {
            path: args.to.clone(),
        });
    }
    check_ending(args)?;
    let statement = statement(&args.source);
    check_query(&statement)?;
    let mut batches = Batches::of(&Admin::new(client), &statement).await?;
    let mut file: Option<Partial> = None;
    let mut rows = 0_u64;
    while let Some(batch) = batches.next().await? {
        let file = match &mut file {
            Some(file) => file,
            none => none.insert(Partial::create(&args.to, batch.schema())?),
        };
        rows += batch.num_rows() as u64;
        file.write(&batch)?;
    }
    let file = match file {
        Some(file) => file,
        // A result without rows still has columns.
        None => match batches.schema() {
            Some(schema) if !schema.fields().is_empty() => Partial::create(&args.to, schema)?,
            _ => {
                return Err(CliError::Usage {
                    what: format!("{} gives no rows to export", args.source),
                    help: "millpond export \"SELECT …\" --to FILE.parquet".to_owned(),
                });
            }
        },
    };
    file.finish(args.force)?;
    for notice in batches.summary().notices {
        terminal.say(&format!("notice: {notice}"))?;
    }
    let wrote = counted(rows, "row");
    terminal.say(&format!("wrote {wrote} to {}", args.to.display()))
}

/// Refuses a file whose name says that it is something else than Parquet.
fn check_ending(args: &ExportArgs) -> Result<(), CliError> {
    let ending = args.to.extension().unwrap_or_default().to_ascii_lowercase();
    let output = match ending.to_str() {
        Some("csv") => "csv",
        Some("json" | "jsonl" | "ndjson") => "json",
        _ => return Ok(()),
    };
    // As one word of a shell.
    let statement = statement(&args.source).replace('\'', "'\\''");
    Err(CliError::Usage {
        what: format!(
            "{} would be a Parquet file under the name of another kind",
            args.to.display()
        ),
        help: format!(
            "millpond sql -c '{statement}' -o {output} > {}",
            args.to.display()
        ),
    })
}

/// Refuses what does more than to answer rows and end; what can not be read is for the server to say.
fn check_query(statement: &str) -> Result<(), CliError> {
    match parse(statement) {
        Ok(Statement::Query(_) | Statement::Show(_) | Statement::Describe { .. }) | Err(_) => {
            Ok(())
        }
        Ok(_) => Err(CliError::Usage {
            what: "only the rows of a query that ends can be exported".to_owned(),
            help: "millpond export \"SELECT …\" --to FILE.parquet; other statements are for: millpond sql -c"
                .to_owned(),
        }),
    }
}

/// A single word is the name of a topic.
fn statement(source: &str) -> String {
    if source.trim().contains(char::is_whitespace) {
        source.trim().trim_end_matches(';').to_owned()
    } else {
        format!("SELECT * FROM {}", quoted(source.trim()))
    }
}

impl Partial {
    fn create(place: &Path, schema: SchemaRef) -> Result<Self, CliError> {
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let partial = place.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)
            .map_err(|cause| written(place, cause))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(parquet::basic::ZstdLevel::default()))
            .build();
        // What the server notes about its columns means nothing to readers of the file.
        let plain = Schema::new(schema.fields().clone());
        let writer = ArrowWriter::try_new(file, plain.into(), Some(properties))?;
        Ok(Self {
            place: place.to_owned(),
            partial,
            writer: Some(writer),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), CliError> {
        let writer = self.writer.as_mut().expect("only finish takes the writer");
        Ok(writer.write(batch)?)
    }

    fn finish(mut self, replace: bool) -> Result<(), CliError> {
        let writer = self.writer.take().expect("only finish takes the writer");
        let file = writer.into_inner()?;
        file.sync_all()
            .map_err(|cause| written(&self.place, cause))?;
        if self.place.exists() && !replace {
            return Err(CliError::Exists {
                path: self.place.clone(),
            });
        }
        std::fs::rename(&self.partial, &self.place).map_err(|cause| written(&self.place, cause))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = std::fs::remove_file(&self.partial);
    }
}

fn written(path: &Path, cause: io::Error) -> CliError {
    CliError::File {
        path: path.to_owned(),
        verb: "written",
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    fn batch() -> RecordBatch {
        let numbers = Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef;
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    #[test]
    fn a_word_is_a_topic_and_more_is_sql() {
        assert_eq!(statement("flights"), "SELECT * FROM \"flights\"");
        assert_eq!(statement("SELECT 1; "), "SELECT 1");
    }

    #[test]
    fn only_queries_that_end_are_exported_and_only_as_what_they_are() {
        for good in [
            "SELECT 1",
            "WITH a AS (SELECT 1 AS n) SELECT n FROM a",
            "SHOW TOPICS",
            "SELEC 1",
        ] {
            assert!(check_query(good).is_ok(), "{good}");
        }
        for bad in [
            "DROP TOPIC t",
            "INSERT INTO t VALUES (1)",
            "SUBSCRIBE SELECT n FROM t",
        ] {
            assert!(check_query(bad).is_err(), "{bad}");
        }
        let ending = |name: &str| {
            check_ending(&ExportArgs {
                source: "flights".to_owned(),
                to: name.into(),
                force: false,
            })
        };
        assert!(ending("f.parquet").and(ending("f")).is_ok());
        let refused = ending("f.CSV").unwrap_err().to_string();
        assert!(refused.contains("Parquet"), "{refused}");
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a.parquet");
        let mut file = Partial::create(&place, batch().schema()).unwrap();
        file.write(&batch()).unwrap();
        assert!(!place.exists());
        file.finish(false).unwrap();
        assert!(place.exists());

        let again = Partial::create(&place, batch().schema()).unwrap();
        assert!(matches!(again.finish(false), Err(CliError::Exists { .. })));
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "no partial file stays");
    }
}
