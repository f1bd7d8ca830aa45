//! `millpond dlq …`: dead letters.

use std::collections::BTreeSet;

use millpond_proto::client::{Admin, Client};
use millpond_proto::wire::admin::{DeadLetter, DeadLettersRequest};

use crate::cli::error::CliError;
use crate::cli::group_args::{DlqCommand, SettleArgs};
use crate::cli::output::Table;
use crate::cli::run::Terminal;

/// Letters in one call.
const LETTERS_AT_ONCE: u32 = 256;

/// Does a command about dead letters.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &DlqCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        DlqCommand::Ls {
            group,
            limit,
            output,
        } => {
            let request = DeadLettersRequest {
                group: group.clone(),
                limit: *limit,
                ..DeadLettersRequest::default()
            };
            let found = admin.list_dead_letters(request).await?;
            let columns = [
                "id",
                "topic",
                "queue",
                "offset",
                "attempts",
                "reason",
                "dead_since",
            ];
            let mut table = Table::new(&columns);
            for letter in found.letters {
                let since = letter
                    .message
                    .as_ref()
                    .and_then(|message| message.stored_at);
                table.rows.push(vec![
                    id_of(&letter).into(),
                    letter.topic.into(),
                    letter.queue.into(),
                    letter.offset.into(),
                    letter.attempts.into(),
                    letter.reason.into(),
                    since.map(|at| at.to_string()).into(),
                ]);
            }
            table
                .print(*output, terminal.out)
                .map_err(CliError::output)?;
            terminal.say_cut(table.rows.len(), *limit)
        }
        DlqCommand::Redrive(args) => settle(&admin, args, true, terminal).await,
        DlqCommand::Purge(args) => settle(&admin, args, false, terminal).await,
    }
}

/// Settles letters call by call, until the end of the dead letters, and prints each one's outcome.
async fn settle(
    admin: &Admin,
    args: &SettleArgs,
    redrive: bool,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let done = if redrive { "redriven" } else { "purged" };
    let mut table = Table::new(&["id", "topic", "queue", "offset", "outcome"]);
    let mut missing: BTreeSet<String> = args.ids.iter().cloned().collect();
    let mut request = DeadLettersRequest {
        group: args.group.clone(),
        message_ids: args.ids.clone(),
        limit: LETTERS_AT_ONCE,
        ..DeadLettersRequest::default()
    };
    loop {
        let answer = if redrive {
            admin.redrive_dead_letters(request.clone()).await?
        } else {
            admin.purge_dead_letters(request.clone()).await?
        };
        for letter in answer.letters {
            let id = id_of(&letter);
            missing.remove(&id);
            let outcome = match letter.failed.as_str() {
                "" => done.to_owned(),
                why => format!("stays: {why}"),
            };
            table.rows.push(vec![
                id.into(),
                letter.topic.into(),
                letter.queue.into(),
                letter.offset.into(),
                outcome.into(),
            ]);
        }
        if !answer.more {
            break;
        }
        request.from_queue = answer.next_queue;
        request.from_offset = answer.next_offset;
    }
    for id in missing {
        let nowhere: Option<&str> = None;
        table.rows.push(vec![
            id.into(),
            nowhere.into(),
            nowhere.into(),
            nowhere.into(),
            "no dead letter has this id".into(),
        ]);
    }
    table
        .print(args.output, terminal.out)
        .map_err(CliError::output)
}

fn id_of(letter: &DeadLetter) -> String {
    let message = letter.message.as_ref();
    message.map_or_else(String::new, |message| message.message_id.clone())
}
