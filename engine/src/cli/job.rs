//! `millpond job …`.

use millpond_proto::client::{Admin, Client};
use millpond_proto::wire::admin::Job;

use crate::cli::args::{JobAlterArgs, JobCommand};
use crate::cli::error::CliError;
use crate::cli::output::{Cell, Format, Table};
use crate::cli::run::Terminal;
use crate::cli::{savepoint, sql};

/// Does a command about continuous queries.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &JobCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        JobCommand::Ls { output } => {
            let columns = [
                "job",
                "state",
                "output",
                "epoch",
                "watermark",
                "rows_in",
                "rows_out",
                "lag",
            ];
            let mut table = Table::new(&columns);
            for job in admin.list_jobs().await? {
                let watermark = watermark(&job);
                table.rows.push(vec![
                    job.name.into(),
                    job.state.into(),
                    job.output_topic.into(),
                    job.epoch.into(),
                    watermark,
                    job.rows_in.into(),
                    job.rows_out.into(),
                    job.lag.into(),
                ]);
            }
            table.print(*output, terminal.out).map_err(CliError::output)
        }
        JobCommand::Info { name, output } => {
            let job = admin.describe_job(name).await?;
            let record = info(job, *output == Format::Table);
            let printed = match output {
                Format::Table => record.print_record(terminal.out),
                format => record.print(*format, terminal.out),
            };
            printed.map_err(CliError::output)?;
            if *output != Format::Table {
                return Ok(());
            }
            let steps = format!("EXPLAIN JOB {}", sql::quoted(name));
            let (steps, _) = sql::collect(&admin, &steps).await?;
            if steps.rows.is_empty() {
                return Ok(());
            }
            writeln!(terminal.out).map_err(CliError::output)?;
            steps.print(*output, terminal.out).map_err(CliError::output)
        }
        JobCommand::Submit { sql } => {
            let job = admin.submit_job(sql).await?;
            terminal.say(&format!(
                "{} is {}; look at it with: millpond job info {}",
                job.name, job.state, job.name
            ))
        }
        JobCommand::Alter(alter) => {
            sql::collect(&admin, &altering(alter)?).await?;
            terminal.say(&format!("altered {}", alter.name))
        }
        JobCommand::Pause { name } => {
            sql::collect(&admin, &format!("PAUSE JOB {}", sql::quoted(name))).await?;
            terminal.say(&format!("paused {name}"))
        }
        JobCommand::Resume { name } => {
            sql::collect(&admin, &format!("RESUME JOB {}", sql::quoted(name))).await?;
            terminal.say(&format!("resumed {name}"))
        }
        JobCommand::Savepoint(command) => savepoint::run(&admin, command, terminal).await,
        JobCommand::Cancel { name } => {
            let notices = admin.cancel_job(name).await?;
            for notice in notices {
                terminal.say(&format!("notice: {notice}"))?;
            }
            terminal.say(&format!("cancelled {name}"))
        }
    }
}

/// The statement that sets what was given.
fn altering(alter: &JobAlterArgs) -> Result<String, CliError> {
    let mut settings = Vec::new();
    for (setting, value, is_text) in [
        ("parallelism", &alter.parallelism, false),
        ("state_limit", &alter.state_limit, true),
        ("restarts", &alter.restarts, false),
    ] {
        let Some(value) = value else { continue };
        if value.eq_ignore_ascii_case("default") {
            settings.push(format!("{setting} = DEFAULT"));
        } else if is_text {
            settings.push(format!("{setting} = '{}'", value.replace('\'', "''")));
        } else {
            let number: u32 = value
                .parse()
                .map_err(|_| usage(format!("{value:?} is no number")))?;
            settings.push(format!("{setting} = {number}"));
        }
    }
    if settings.is_empty() {
        return Err(usage("there is nothing to alter".to_owned()));
    }
    let name = sql::quoted(&alter.name);
    Ok(format!("ALTER JOB {name} SET ({})", settings.join(", ")))
}

fn usage(what: String) -> CliError {
    CliError::Usage {
        what,
        help: "millpond job alter NAME --parallelism 4 --state-limit 1GiB --restarts default"
            .to_owned(),
    }
}

/// What is told of a query: a record. The SQL text is as long as it is, so people get a line per fact.
fn info(job: Job, is_for_people: bool) -> Table {
    let facts: Vec<(&str, Cell)> = vec![
        ("job", job.name.clone().into()),
        ("state", job.state.clone().into()),
        // Of a query that goes on it is no error: the first row that could not be decoded, which is counted below.
        (
            match job.state.as_str() {
                "running" | "paused" if is_for_people => "noticed",
                _ => "error",
            },
            Some(job.error.clone())
                .filter(|error| !error.is_empty())
                .into(),
        ),
        ("output", job.output_topic.clone().into()),
        ("epoch", job.epoch.into()),
        ("watermark", watermark(&job)),
        ("rows_in", job.rows_in.into()),
        ("rows_out", job.rows_out.into()),
        ("rows_late", job.rows_late.into()),
        ("rows_undecodable", job.rows_undecodable.into()),
        ("rows_without_time", job.rows_without_time.into()),
        ("lag", job.lag.into()),
        ("state_bytes", job.state_bytes.into()),
        ("sql", job.sql.into()),
    ];
    let (columns, row): (Vec<&str>, Vec<Cell>) = facts.into_iter().unzip();
    let mut table = Table::new(&columns);
    table.rows.push(row);
    table
}

fn watermark(job: &Job) -> Cell {
    job.watermark.map(|time| time.to_string()).into()
}
