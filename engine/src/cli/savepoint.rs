//! `millpond job savepoint …`: the state of jobs under names.

use clap::Subcommand;
use millpond_proto::client::Admin;

use crate::cli::error::CliError;
use crate::cli::output::Format;
use crate::cli::run::Terminal;
use crate::cli::sql;

/// `millpond job savepoint …`.
#[derive(Debug, Subcommand)]
pub enum SavepointCommand {
    /// Keep the state of a job as it stands under a name.
    #[command(
        after_help = "A job goes on from it with: CREATE JOB name WITH (savepoint = 'before_upgrade') AS INSERT INTO …"
    )]
    Create {
        /// Name of the savepoint.
        savepoint: String,
        /// The job.
        #[arg(long)]
        job: String,
        /// Whether the job is stopped for good with it.
        #[arg(long)]
        stop: bool,
    },
    /// List savepoints.
    #[command(visible_alias = "list")]
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Delete a savepoint and its state.
    Drop {
        /// Name of the savepoint.
        savepoint: String,
    },
}

/// Does a command about savepoints.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    admin: &Admin,
    command: &SavepointCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match command {
        SavepointCommand::Create {
            savepoint,
            job,
            stop,
        } => {
            let (name, quoted) = (sql::quoted(savepoint), sql::quoted(job));
            if *stop {
                let stop = format!("STOP JOB {quoted} WITH SAVEPOINT {name}");
                sql::collect(admin, &stop).await?;
                return terminal.say(&format!("stopped {job}, its state is {savepoint}"));
            }
            let create = format!("CREATE SAVEPOINT {name} FOR JOB {quoted}");
            sql::collect(admin, &create).await?;
            terminal.say(&format!("kept the state of {job} as {savepoint}"))
        }
        SavepointCommand::Ls { output } => {
            let list = "SELECT name, job, saved_at, epoch, bytes FROM millpond.savepoints ORDER BY saved_at";
            let (table, _) = sql::collect(admin, list).await?;
            table.print(*output, terminal.out).map_err(CliError::output)
        }
        SavepointCommand::Drop { savepoint } => {
            let drop = format!("DROP SAVEPOINT {}", sql::quoted(savepoint));
            sql::collect(admin, &drop).await?;
            terminal.say(&format!("dropped {savepoint}"))
        }
    }
}
