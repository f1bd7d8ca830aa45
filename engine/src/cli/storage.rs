//! `millpond storage …`.

use millpond_proto::client::{Admin, Client};

use crate::cli::error::CliError;
use crate::cli::run::Terminal;

/// `millpond storage tier`.
///
/// # Errors
/// [`CliError::Client`].
pub async fn tier(client: &Client, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let tiered = Admin::new(client).tier().await?;
    terminal.say(&format!(
        "moved {} messages into Parquet, {} bytes",
        tiered.messages, tiered.bytes
    ))
}
