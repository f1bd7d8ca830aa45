//! `millpond delay …` and `millpond tx …`: messages that are not visible yet.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use clap::{Args, Subcommand};
use millpond_proto::client::{Admin, Client};
use millpond_proto::time::Timestamp;
use millpond_proto::wire::admin::{
    CancelDelayedRequest, EndTransactionRequest, ListDelayedRequest, ListTransactionsRequest,
};

use crate::cli::error::CliError;
use crate::cli::output::{Format, Table};
use crate::cli::run::Terminal;

/// Most entries that are asked for at once.
const PAGE: u32 = 1024;

/// `millpond delay …`.
#[derive(Debug, Subcommand)]
pub enum DelayCommand {
    /// List messages that wait for their time.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Take a message back before its time.
    #[command(after_help = "Example: millpond delay cancel reminders CfEXAMPLE")]
    Cancel {
        /// Name of the topic.
        topic: String,
        /// The recall handle, as the send answered it or `delay ls` shows it.
        handle: String,
    },
}

/// `millpond tx …`.
#[derive(Debug, Subcommand)]
pub enum TransactionCommand {
    /// List transactions that nobody has ended, and those that the server rolled back for that.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Commit a transaction: its message becomes visible.
    Commit(EndArgs),
    /// Roll a transaction back: its message is never seen.
    Rollback(EndArgs),
}

/// What to list.
#[derive(Clone, Debug, Args)]
pub struct LsArgs {
    /// Name of the topic; without it, all of them.
    pub topic: Option<String>,
    /// Most entries.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub limit: u32,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// Which transaction.
#[derive(Clone, Debug, Args)]
pub struct EndArgs {
    /// Name of the topic.
    pub topic: String,
    /// The transaction id, as `tx ls` shows it.
    pub id: String,
}

/// A time as people write it.
///
/// # Errors
/// What is wrong, in words.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let nanos = string_to_timestamp_nanos(text)
        .map_err(|_| format!("{text:?} is no time; write it like 2026-05-01T12:00:00Z"))?;
    Ok(Timestamp(nanos.div_euclid(1_000_000)))
}

/// Does a command about delayed messages.
///
/// # Errors
/// [`CliError`].
pub async fn delay(
    client: &Client,
    command: &DelayCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        DelayCommand::Ls(args) => {
            let mut request = ListDelayedRequest {
                topic: args.topic.clone().unwrap_or_default(),
                limit: args.limit.min(PAGE),
                from: String::new(),
            };
            let columns = ["due", "topic", "queue", "id", "bytes", "handle"];
            let mut table = Table::new(&columns);
            let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
            loop {
                let answer = admin.list_delayed(request.clone()).await?;
                for one in answer.messages.into_iter().take(most - table.rows.len()) {
                    table.rows.push(vec![
                        one.due.map(|at| at.to_string()).into(),
                        one.topic.into(),
                        one.queue.into(),
                        one.message_id.into(),
                        one.body_bytes.into(),
                        one.recall_handle.into(),
                    ]);
                }
                if answer.next.is_empty() || table.rows.len() >= most {
                    break;
                }
                request.from = answer.next;
            }
            table
                .print(args.output, terminal.out)
                .map_err(CliError::output)?;
            terminal.say_cut(table.rows.len(), args.limit)
        }
        DelayCommand::Cancel { topic, handle } => {
            let request = CancelDelayedRequest {
                topic: topic.clone(),
                recall_handle: handle.clone(),
            };
            let answer = admin.cancel_delayed(request).await?;
            terminal.say(&format!(
                "message {} is recalled and is never delivered",
                answer.message_id
            ))
        }
    }
}

/// Does a command about transactions.
///
/// # Errors
/// [`CliError`].
pub async fn transaction(
    client: &Client,
    command: &TransactionCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        TransactionCommand::Ls(args) => {
            let mut request = ListTransactionsRequest {
                topic: args.topic.clone().unwrap_or_default(),
                limit: args.limit.min(PAGE),
                from: String::new(),
            };
            let columns = [
                "stored",
                "topic",
                "id",
                "bytes",
                "checks",
                "next_check",
                "transaction",
            ];
            let mut table = Table::new(&columns);
            let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
            loop {
                let answer = admin.list_transactions(request.clone()).await?;
                let left = most - table.rows.len();
                for one in answer.transactions.into_iter().take(left) {
                    let next = one.next_check.map(|at| at.to_string());
                    table.rows.push(vec![
                        one.stored_at.map(|at| at.to_string()).into(),
                        one.topic.into(),
                        one.message_id.into(),
                        one.body_bytes.into(),
                        one.checks.into(),
                        next.unwrap_or_else(|| "rolled back".to_owned()).into(),
                        one.transaction_id.into(),
                    ]);
                }
                if answer.next.is_empty() || table.rows.len() >= most {
                    break;
                }
                request.from = answer.next;
            }
            table
                .print(args.output, terminal.out)
                .map_err(CliError::output)?;
            terminal.say_cut(table.rows.len(), args.limit)
        }
        TransactionCommand::Commit(args) => end(&admin, args, true, terminal).await,
        TransactionCommand::Rollback(args) => end(&admin, args, false, terminal).await,
    }
}

async fn end(
    admin: &Admin,
    args: &EndArgs,
    commit: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let request = EndTransactionRequest {
        topic: args.topic.clone(),
        transaction_id: args.id.clone(),
        commit,
    };
    admin.end_transaction(request).await?;
    terminal.say(if commit {
        "committed; the message is visible"
    } else {
        "rolled back; the message is never seen"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_millisecond() {
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Ok(Timestamp(1500)));
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Ok(Timestamp(0)));
        assert!(time("tomorrow").is_err());
    }
}
