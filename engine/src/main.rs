//! The binary `millpond`: parses arguments, starts tracing, and serves or does one command.

use std::io::{BufWriter, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use millpond_engine::cli::advice::advice;
use millpond_engine::cli::args::{Cli, Command};
use millpond_engine::cli::error::CliError;
use millpond_engine::cli::run::{Terminal, run};
use millpond_engine::cli::serve::{Demo, serve};
use millpond_engine::cli::serve_args::ServeArgs;
use millpond_engine::cold::PREFIXES;
use millpond_proto::client::Client;
use millpond_proto::files;
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Where memory comes from. A message is a dozen small pieces that one thread takes and another one gives back, by the batch. The
/// system's allocator has them go through locks, looks for neighbours to join them with, and keeps megabytes of freed ones
/// around each that lives on.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    if matches!(cli.command, None | Some(Command::Serve(_))) {
        files::ask_for_most();
    }
    let filter = EnvFilter::try_from_env("MILLPOND_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && has_colours())
        .init();
    let mut runtime = match &cli.command {
        // The prompt waits for keys on this thread, and the connection is looked after meanwhile.
        None | Some(Command::Serve(_) | Command::Bench(_) | Command::Sql(_)) => {
            tokio::runtime::Builder::new_multi_thread()
        }
        Some(_) => tokio::runtime::Builder::new_current_thread(),
    };
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(start(cli)),
        Err(error) => failed(&format!("no threads could be started: {error}")),
    }
}

async fn start(cli: Cli) -> ExitCode {
    let mut out = BufWriter::new(std::io::stdout());
    // Not locked: whatever is logged while a command runs goes there too, and would wait for it for ever.
    let mut err = std::io::stderr();
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        input_is_terminal: std::io::stdin().is_terminal(),
        variables: store_variables(),
        history: history_file(),
        has_colours: has_colours(),
    };
    let (args, demo) = match &cli.command {
        None => (ServeArgs::default(), Demo::WhenNew),
        Some(Command::Serve(args)) => (args.clone(), Demo::of(args)),
        Some(command) => {
            let done = match Client::connect(&cli.server(std::env::var("MILLPOND_SERVER").ok())) {
                Ok(client) => run(&client, command, &mut terminal).await,
                Err(error) => Err(error.into()),
            };
            return reported(done, &mut terminal);
        }
    };
    let served = serve(&args, demo, &program(), &mut terminal, stop_signal()).await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(terminal.err, "error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                let _ = writeln!(terminal.err, "cause: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether the user wants colours (no-color.org).
fn has_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none()
}

/// The variables that clients of object stores are configured by.
fn store_variables() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect()
}

/// Where statements that were typed are kept, as the XDG base directories say.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    let folder = state.filter(|path| path.is_absolute()).or_else(home)?;
    Some(folder.join("millpond").join("sql_history"))
}

/// Resolves at Ctrl-C or SIGTERM. Listens from when it is first awaited: before that, while a log is recovered or an
/// object store is waited for, they end the process at once, which loses nothing.
async fn stop_signal() {
    let listening = signal(SignalKind::interrupt())
        .and_then(|interrupt| Ok((interrupt, signal(SignalKind::terminate())?)));
    match listening {
        Ok((mut interrupt, mut terminate)) => {
            let name = tokio::select! {
                biased;
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            // Not by way of the log, which tells warnings alone unless it is told to: this line is expected.
            let mut err = std::io::stderr();
            let _ = writeln!(
                err,
                "{name}: what is under way is finished, then the server ends"
            );
        }
        Err(error) => {
            tracing::error!(%error, "signals can not be listened for; they end the server at once");
            std::future::pending().await
        }
    }
}

fn reported(done: Result<(), CliError>, terminal: &mut Terminal<'_>) -> ExitCode {
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    if error.is_reader_gone() {
        return ExitCode::SUCCESS;
    }
    let _ = terminal.out.flush();
    let _ = error.report(terminal.err);
    error.exit_code()
}

/// Help is an answer; wrong use gets clap's words and, where we can guess it, the right command.
fn misused(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    // What is no text can be part of no command that we know.
    let words = std::env::args_os().skip(1);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Some(command) = advice(&words) {
        let _ = writeln!(std::io::stderr(), "\nhelp: {command}");
    }
    ExitCode::from(2)
}

fn failed(what: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {what}");
    ExitCode::FAILURE
}

/// Our name as the reader typed it, so that what we print can be typed as well.
fn program() -> String {
    let typed = std::env::args_os().next();
    typed.map_or_else(
        || Cli::command().get_name().to_owned(),
        |typed| typed.to_string_lossy().into_owned(),
    )
}
