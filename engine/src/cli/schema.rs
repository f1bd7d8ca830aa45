//! `millpond topic schema …`: versions of the schema of a topic's bodies.

use millpond_proto::client::Admin;

use crate::cli::body_args::{SchemaCommand, schema_option, text};
use crate::cli::error::CliError;
use crate::cli::run::Terminal;
use crate::cli::sql;

/// Does a command about schemas.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    admin: &Admin,
    command: &SchemaCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match command {
        SchemaCommand::Ls { topic, output } => {
            let of = topic
                .as_ref()
                .map(|topic| format!(" FROM {}", sql::quoted(topic)));
            let statement = format!("SHOW SCHEMAS{}", of.unwrap_or_default());
            let (table, _) = sql::collect(admin, &statement).await?;
            table.print(*output, terminal.out).map_err(CliError::output)
        }
        SchemaCommand::Add { topic, file } => {
            let of = format!("FROM millpond.schemas WHERE topic = {}", text(topic));
            let asked = format!("SELECT 1 {of} AND format = 'protobuf' LIMIT 1");
            let (protobuf, _) = sql::collect(admin, &asked).await?;
            let schema = schema_option(file, !protobuf.rows.is_empty())?;
            let alter = format!("ALTER TOPIC {} SET ({schema})", sql::quoted(topic));
            sql::collect(admin, &alter).await?;
            terminal.say(&format!(
                "added a version to the schema of {topic}; list them with: millpond topic schema ls {topic}"
            ))
        }
    }
}
