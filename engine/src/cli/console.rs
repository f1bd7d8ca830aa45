//! The prompt of `millpond sql`: statements over several lines, with history, completion and colours.
//!
//! A statement ends at its semicolon, wherever lines end. Ctrl-C cancels what is typed, or the statement that runs,
//! which the server then ends as well; a subscription is left in the same way. What begins with a backslash is a command
//! of the prompt itself ([`command`]). [`editor`] reads keys, on the thread that calls it: other threads look after the
//! connection meanwhile. [`words`] knows what can be completed and what has a colour.

mod command;
mod editor;
pub(super) mod words;

use std::path::Path;
use std::sync::Arc;

use millpond_proto::client::Admin;
use millpond_proto::time::{Clock as _, SystemClock};

use crate::cli::console::command::{Command, help};
use crate::cli::console::editor::{Editor, Typed};
use crate::cli::console::words::Words;
use crate::cli::error::CliError;
use crate::cli::output::Format;
use crate::cli::run::Terminal;
use crate::cli::sql::{collect, execute, statements_of};

/// Names of topics and of columns that can be completed, of each so many.
const NAMES_MAX: usize = 10_000;

/// How answers are shown.
struct Shown {
    format: Format,
    is_timed: bool,
}

/// Reads statements and does them until the user leaves; an error is shown and the prompt comes back.
///
/// # Errors
/// [`CliError::Stream`] when the terminal can not be read or written.
pub(super) async fn prompt(
    admin: &Admin,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    terminal.say("Millpond SQL; help with \\?, leave with \\q")?;
    let words = Arc::new(Words::default());
    let history = terminal.history.take();
    let mut editor = Editor::new(&words, history, terminal.has_colours);
    let mut shown = Shown {
        format,
        is_timed: false,
    };
    learn(admin, &words).await;
    loop {
        terminal.out.flush().map_err(CliError::output)?;
        let text = match editor.read().map_err(CliError::input)? {
            Typed::Text(text) => text,
            Typed::LetGo => continue,
            Typed::End => return Ok(()),
        };
        let statements = match Command::of(&text) {
            Command::Leave => return Ok(()),
            Command::Help => {
                terminal.say(&help())?;
                continue;
            }
            Command::Unknown(word) => {
                terminal.say(&format!("there is no command {word}; help with \\?"))?;
                continue;
            }
            Command::Show(format) => {
                shown.format = format.unwrap_or(match shown.format {
                    Format::Vertical => Format::Table,
                    _ => Format::Vertical,
                });
                continue;
            }
            Command::Time => {
                shown.is_timed = !shown.is_timed;
                continue;
            }
            Command::File(path) => match read(&path) {
                Ok(text) => text,
                Err(why) => {
                    terminal.say(&why)?;
                    continue;
                }
            },
            Command::Statements(text) => text,
        };
        do_all(admin, &statements, &shown, terminal).await?;
        learn(admin, &words).await;
    }
}

/// Does statements until one fails or is cancelled.
async fn do_all(
    admin: &Admin,
    text: &str,
    shown: &Shown,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    for statement in statements_of(text) {
        let started = SystemClock.now();
        let done = tokio::select! {
            biased;
            done = execute(admin, &statement, shown.format, terminal) => done,
            _ = tokio::signal::ctrl_c() => {
                return terminal.say("cancelled");
            }
        };
        if let Err(error) = done {
            terminal.out.flush().map_err(CliError::output)?;
            return error.report(terminal.err).map_err(CliError::output);
        }
        if shown.is_timed {
            let took_ms = SystemClock.now().as_ms() - started.as_ms();
            terminal.say(&format!("{took_ms} ms"))?;
        }
    }
    Ok(())
}

/// Tells the words what names there are now; whoever types gets along without.
async fn learn(admin: &Admin, words: &Words) {
    let mut names = Vec::new();
    for table in ["topics", "columns"] {
        let query = format!("SELECT DISTINCT name FROM millpond.{table} LIMIT {NAMES_MAX}");
        if let Ok((table, _)) = collect(admin, &query).await {
            let firsts = table
                .rows
                .into_iter()
                .filter_map(|row| row.into_iter().next());
            names.extend(firsts.map(|cell| cell.plain().into_owned()));
        }
    }
    words.learn(names);
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("{} can not be read: {error}", path.display()))
}
