//! `millpond group …`.

use millpond_proto::client::{Admin, Client};

use crate::cli::args::GroupCommand;
use crate::cli::error::CliError;
use crate::cli::output::Table;
use crate::cli::run::Terminal;

/// Does a command about groups.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &GroupCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        GroupCommand::Ls { output } => {
            let mut table = Table::new(&["group", "start"]);
            for group in admin.list_groups().await? {
                table.rows.push(vec![group.name.into(), group.start.into()]);
            }
            table.print(*output, terminal.out).map_err(CliError::output)
        }
        GroupCommand::Info { name, output } => {
            let answer = admin.describe_group(name).await?;
            let columns = ["topic", "queue", "ack_floor", "next", "in_flight", "lag"];
            let mut table = Table::new(&columns);
            for progress in answer.progress {
                table.rows.push(vec![
                    progress.topic.into(),
                    progress.queue.into(),
                    progress.ack_floor.into(),
                    progress.next.into(),
                    progress.in_flight.into(),
                    progress.lag.into(),
                ]);
            }
            table.print(*output, terminal.out).map_err(CliError::output)
        }
        GroupCommand::Rm { name } => {
            admin.delete_group(name).await?;
            terminal.say(&format!("deleted consumer group {name}"))
        }
    }
}
