//! From parsed words to the verb that does them.

use std::io::Write;
use std::path::PathBuf;

use millpond_proto::client::Client;

use crate::cli::args::Command;
use crate::cli::error::CliError;
use crate::cli::{bench, dlq, export, group, import, job, msg, shelf, sql, storage, topic};

/// Where a command reads and writes.
pub struct Terminal<'a> {
    /// Results.
    pub out: &'a mut dyn Write,
    /// Everything else: notices, progress, what was done.
    pub err: &'a mut dyn Write,
    /// Whether a person types on standard input.
    pub input_is_terminal: bool,
    /// What the environment says of object stores.
    pub variables: Vec<(String, String)>,
    /// Where the prompt keeps what was typed; none: nowhere.
    pub history: Option<PathBuf>,
    /// Whether the prompt shows colours.
    pub has_colours: bool,
}

impl std::fmt::Debug for Terminal<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal")
            .field("input_is_terminal", &self.input_is_terminal)
            .finish_non_exhaustive()
    }
}

impl Terminal<'_> {
    /// Says what was done, behind the results.
    ///
    /// # Errors
    /// [`CliError::Stream`].
    pub fn say(&mut self, what: &str) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::output)?;
        writeln!(self.err, "{what}").map_err(CliError::output)
    }

    /// Says that a list of so many rows may have been cut off, when it is as long as it may be.
    ///
    /// # Errors
    /// [`CliError::Stream`].
    pub fn say_cut(&mut self, rows: usize, limit: u32) -> Result<(), CliError> {
        if u32::try_from(rows).is_ok_and(|rows| rows < limit) {
            return Ok(());
        }
        self.say(&format!(
            "the first {limit}; there may be more, see --limit"
        ))
    }

    /// Prints a line of the command's own result, at once: whoever started it may wait for it.
    ///
    /// # Errors
    /// [`CliError::Stream`].
    pub fn tell(&mut self, what: &str) -> Result<(), CliError> {
        writeln!(self.out, "{what}").map_err(CliError::output)?;
        self.out.flush().map_err(CliError::output)
    }
}

/// Does a command against the server that `client` is connected to. `serve` is not one of them.
///
/// # Errors
/// [`CliError`] says what to print and how to exit.
pub async fn run(
    client: &Client,
    command: &Command,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match command {
        Command::Serve(_) => Err(CliError::Usage {
            what: "serve does not talk to a server, it is one".to_owned(),
            help: "millpond serve --data DIR".to_owned(),
        }),
        Command::Topic(command) => topic::run(client, command, terminal).await,
        Command::Group(command) => group::run(client, command, terminal).await,
        Command::Dlq(command) => dlq::run(client, command, terminal).await,
        Command::Msg(command) => msg::run(client, command, terminal).await,
        Command::Delay(command) => shelf::delay(client, command, terminal).await,
        Command::Tx(command) => shelf::transaction(client, command, terminal).await,
        Command::Job(command) => job::run(client, command, terminal).await,
        Command::Sql(args) => sql::run(client, args, terminal).await,
        Command::Import(args) => import::run(client, args, terminal).await,
        Command::Export(args) => export::run(client, args, terminal).await,
        Command::Bench(command) => bench::run(client, command, terminal).await,
        Command::Storage(command) => storage::run(client, command, terminal).await,
    }?;
    terminal.out.flush().map_err(CliError::output)
}
