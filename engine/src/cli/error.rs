//! Why a command failed, what to do next, and the exit code.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use arrow::error::ArrowError;
use millpond_connectors::import::ImportError;
use millpond_proto::client::ClientError;
use millpond_proto::remedy::Remedy;
use millpond_sql::sort::SortError;
use millpond_storage::error::{OpenError, ReadError};
use parquet::errors::ParquetError;

use crate::cli::output::counted;
use crate::cold::ColdError;

/// A command did not do all that was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The server refused, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The words can not mean anything.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// The right command.
        help: String,
    },
    /// The file can not be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An import ended early.
    #[error("{cause}\n       {sent} rows were sent before; {}", Rest(*.batch))]
    Stopped {
        /// Rows at the front that are durable.
        sent: u64,
        /// What became of those behind them that were sent together; none: nothing behind them was sent.
        batch: Option<Batch>,
        /// Why.
        #[source]
        cause: Box<CliError>,
    },
    /// Rows can not be ordered.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// A file of the user's.
    #[error("{} can not be {verb}: {cause}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// "read" or "written".
        verb: &'static str,
        /// Cause.
        cause: io::Error,
    },
    /// The file is there already.
    #[error("{} exists already", .path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// Standard input or output.
    #[error("standard {stream} failed: {cause}")]
    Stream {
        /// "input" or "output".
        stream: &'static str,
        /// Cause.
        cause: io::Error,
    },
    /// A worker of a run ended without its figures.
    #[error("a worker ended before the run did; see its message above")]
    Worker,
    /// A data folder.
    #[error(transparent)]
    Folder(#[from] OpenError),
    /// Its cold tier.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// A stored message.
    #[error(transparent)]
    Stored(#[from] ReadError),
    /// Something that is stored is damaged.
    #[error("{} of damage, see above; what is not named there is whole", counted(*.count as u64, "finding"))]
    Damage {
        /// How many.
        count: usize,
    },
    /// The server's rows can not be read.
    #[error("the server's rows can not be read: {0}")]
    Rows(#[from] ArrowError),
    /// The rows can not be written as Parquet.
    #[error("the rows can not be written as Parquet: {0}")]
    Parquet(#[from] ParquetError),
}

/// Rows that were sent together, of which not all were stored. Queues of several shards take them, so those that were
/// stored need not be the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// How many.
    pub rows: u64,
    /// How many are stored for sure.
    pub stored: u64,
    /// Whether some of the others may be stored as well.
    pub is_unknown: bool,
}

/// What became of the rows that were not sent for sure.
struct Rest(Option<Batch>);

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(batch) = self.0 else {
            return f.write_str("the rows after them were not");
        };
        let Batch { rows, stored, .. } = batch;
        match (batch.is_unknown, stored) {
            (true, 0) => write!(
                f,
                "which of the {rows} rows after them are stored is not known"
            )?,
            (true, _) => write!(
                f,
                "of the {rows} rows after them {stored} are stored, and which of the others is not known"
            )?,
            (false, 0) => return f.write_str("the rows after them were not"),
            (false, _) => write!(
                f,
                "of the {rows} rows after them {stored} are stored and the others are not"
            )?,
        }
        f.write_str("; none behind those was sent")
    }
}

impl CliError {
    /// Output failed.
    #[must_use]
    pub fn output(cause: io::Error) -> Self {
        Self::Stream {
            stream: "output",
            cause,
        }
    }

    /// Input failed.
    #[must_use]
    pub fn input(cause: io::Error) -> Self {
        Self::Stream {
            stream: "input",
            cause,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Client(error) => error.remedy(),
            Self::Import(error) => error.remedy(),
            Self::Sort(error) => error.remedy(),
            Self::Folder(error) => error.remedy(),
            Self::Cold(error) => error.remedy(),
            Self::Stored(error) => error.remedy(),
            Self::Damage { .. } => Remedy::Operator,
            Self::Stopped { cause, .. } => cause.remedy(),
            Self::Usage { .. } | Self::File { .. } | Self::Exists { .. } | Self::Stream { .. } => {
                Remedy::FixRequest
            }
            Self::Worker | Self::Rows(_) | Self::Parquet(_) => Remedy::Bug,
        }
    }

    /// The next step in words, where the message itself does not say it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Usage { help, .. } => Some(help.clone()),
            Self::Exists { .. } => Some("name another file, or replace it with --force".to_owned()),
            Self::Stopped { cause, .. } => cause.help(),
            Self::Import(_) | Self::Sort(_) | Self::File { .. } | Self::Stream { .. } => None,
            Self::Client(ClientError::Unreachable { .. } | ClientError::Address { .. }) => None,
            other => match other.remedy() {
                Remedy::Retry => Some("try again a little later".to_owned()),
                Remedy::Bug => Some("this is an error of Millpond; please report it".to_owned()),
                Remedy::FixRequest | Remedy::Redirect | Remedy::Operator => None,
            },
        }
    }

    /// 2 for wrong use, 1 for everything else.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage { .. } => ExitCode::from(2),
            _ => ExitCode::from(1),
        }
    }

    /// Whether the reader of our output has left, as `head` does: no reason to complain.
    #[must_use]
    pub fn is_reader_gone(&self) -> bool {
        matches!(self, Self::Stream { cause, .. } if cause.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Writes `error: …` and, where there is a next step, `help: …`.
    ///
    /// # Errors
    /// When `to` can not be written.
    pub fn report(&self, to: &mut dyn io::Write) -> io::Result<()> {
        // What has a next step says it behind a semicolon; the two parts read better on two lines.
        let text = self.to_string();
        let (what, next) = match (text.split_once("; "), self) {
            (Some((what, next)), Self::Client(_) | Self::Import(_)) => (what, Some(next)),
            _ => (text.as_str(), None),
        };
        writeln!(to, "error: {what}")?;
        if let Some(cause) = std::error::Error::source(self)
            && !matches!(self, Self::Stopped { .. })
        {
            writeln!(to, "cause: {cause}")?;
        }
        if let Some(next) = next {
            writeln!(to, "help: {next}")?;
        }
        if let Some(help) = self.help() {
            writeln!(to, "help: {help}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(error: &CliError) -> String {
        let mut text = Vec::new();
        error.report(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn nobody_listening_says_how_to_start_a_server() {
        let error = CliError::Client(ClientError::Unreachable {
            address: "127.0.0.1:8081".to_owned(),
            detail: "refused".to_owned(),
        });
        assert_eq!(
            reported(&error),
            "error: no Millpond answers at 127.0.0.1:8081\n\
             help: start one with: millpond serve --data DIR, or name another with --server\n"
        );
    }

    #[test]
    fn an_import_that_stops_says_how_many_rows_were_sent() {
        let stopped = |batch| CliError::Stopped {
            sent: 512,
            batch,
            cause: Box::new(CliError::Usage {
                what: "no".to_owned(),
                help: "yes".to_owned(),
            }),
        };
        let batch = |stored, is_unknown| {
            Some(Batch {
                rows: 256,
                stored,
                is_unknown,
            })
        };
        for (batch, said) in [
            (None, "the rows after them were not\n"),
            (batch(0, false), "the rows after them were not\n"),
            (
                batch(7, false),
                "of the 256 rows after them 7 are stored and the others are not; none",
            ),
            (
                batch(0, true),
                "which of the 256 rows after them are stored is not known; none",
            ),
            (
                batch(7, true),
                "7 are stored, and which of the others is not known; none",
            ),
        ] {
            let text = reported(&stopped(batch));
            assert!(
                text.contains("512 rows were sent before") && text.contains("help: yes"),
                "{text}"
            );
            assert!(text.contains(said), "{text}");
        }
    }
}
