//! `millpond group …`.

use millpond_proto::client::{Admin, Client};
use millpond_proto::wire::admin::reset_group_request::To;
use millpond_proto::wire::admin::{
    AlterGroupRequest, CloneGroupRequest, CreateGroupRequest, Group, ListInFlightRequest,
    LiteGroup, ResetGroupRequest,
};

use crate::cli::error::CliError;
use crate::cli::group_args::{GroupCommand, GroupSettings, Place, ResetArgs};
use crate::cli::keep;
use crate::cli::output::{Cell, Format, Table};
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
        GroupCommand::Ls { output } => list(&admin, *output, terminal).await,
        GroupCommand::Info { name, output } => info(&admin, name, *output, terminal).await,
        GroupCommand::Create { name, settings } => {
            let (start, start_at) = start(settings.start.as_ref());
            let request = CreateGroupRequest {
                name: name.clone(),
                start,
                attempts_max: settings.attempts.unwrap_or(0),
                backoff: settings.backoff.clone(),
                fifo: settings.fifo.unwrap_or(false),
                start_at,
                lite: settings.lite.as_ref().map(|topic| LiteGroup {
                    topic: topic.clone(),
                    exclusive: settings.exclusive.unwrap_or(false),
                }),
            };
            let group = admin.create_group(request).await?;
            terminal.say(&format!("created consumer group {}", group.name))
        }
        GroupCommand::Alter { name, settings } => {
            let group = admin.alter_group(altered(name, settings)).await?;
            terminal.say(&format!("altered consumer group {}", group.name))
        }
        GroupCommand::Pause { name } => {
            pause(&admin, name, true).await?;
            terminal.say(&format!(
                "paused consumer group {name}; go on with: millpond group resume {name}"
            ))
        }
        GroupCommand::Resume { name } => {
            pause(&admin, name, false).await?;
            terminal.say(&format!("resumed consumer group {name}"))
        }
        GroupCommand::Reset(args) => reset(&admin, args, terminal).await,
        GroupCommand::Clone { from, to } => {
            let request = CloneGroupRequest {
                from: from.clone(),
                to: to.clone(),
            };
            admin.clone_group(request).await?;
            terminal.say(&format!("consumer group {to} stands where {from} stands"))
        }
        GroupCommand::Inflight {
            name,
            limit,
            output,
        } => in_flight(&admin, name, *limit, *output, terminal).await,
        GroupCommand::Rm { name } => {
            admin.delete_group(name).await?;
            terminal.say(&format!("deleted consumer group {name}"))?;
            let letters = dead_letters_of(name);
            match admin.describe_topic(&letters).await {
                Ok(_) => terminal.say(&format!(
                    "its dead letters stay in the topic {letters}; delete them with: millpond topic rm '{letters}'"
                )),
                Err(_) => Ok(()),
            }
        }
    }
}

async fn list(admin: &Admin, output: Format, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let mut table = Table::new(&["group", "start", "attempts", "backoff", "fifo", "paused"]);
    for group in admin.list_groups().await? {
        let backoff = backoff(&group);
        let attempts = Some(group.attempts_max).filter(|attempts| *attempts > 0);
        table.rows.push(vec![
            group.name.into(),
            match group.start_at {
                Some(at) => at.to_string().into(),
                None => group.start.into(),
            },
            attempts.into(),
            backoff,
            Cell::Boolean(group.fifo),
            Cell::Boolean(group.paused),
        ]);
    }
    table.print(output, terminal.out).map_err(CliError::output)
}

async fn info(
    admin: &Admin,
    name: &str,
    output: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let answer = admin.describe_group(name).await?;
    if output == Format::Table {
        let settings = settings(&answer.group.unwrap_or_default());
        writeln!(terminal.out, "{settings}\n").map_err(CliError::output)?;
    }
    let columns = [
        "topic",
        "queue",
        "ack_floor",
        "next",
        "in_flight",
        "lag",
        "lag_seconds",
    ];
    let mut table = Table::new(&columns);
    for progress in answer.progress {
        table.rows.push(vec![
            progress.topic.into(),
            progress.queue.into(),
            progress.ack_floor.into(),
            progress.next.into(),
            progress.in_flight.into(),
            progress.lag.into(),
            (progress.lag_ms / 1000).into(),
        ]);
    }
    table.print(output, terminal.out).map_err(CliError::output)
}

/// The topic of a group's dead letters.
pub(super) fn dead_letters_of(group: &str) -> String {
    format!("%DLQ%{group}")
}

/// What is set of a group, in words.
fn settings(group: &Group) -> String {
    let start = match group.start_at {
        Some(at) => format!("at messages stored at {at} or later"),
        None if group.start.is_empty() => "earliest".to_owned(),
        None => group.start.clone(),
    };
    let attempts = match group.attempts_max {
        0 => "as many as the server's default".to_owned(),
        attempts => attempts.to_string(),
    };
    let pauses = match backoff(group) {
        Cell::Null => "the server's default".to_owned(),
        backoff => backoff.plain().into_owned(),
    };
    let mut text = format!(
        "consumer group {}{}\n  starts       {start}\n  attempts     {attempts}\n  back-off     {pauses}",
        group.name,
        if group.paused {
            ", paused: nothing is delivered until it is resumed"
        } else {
            ""
        },
    );
    if group.fifo {
        text.push_str("\n  fifo         push consumers work in order");
    }
    if let Some(lite) = &group.lite {
        let way = if lite.exclusive {
            ", each by one listener"
        } else {
            ""
        };
        text.push_str(&format!("\n  lite topics  of {}{way}", lite.topic));
    }
    text
}

async fn reset(
    admin: &Admin,
    args: &ResetArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let to = match (&args.to, args.offset, args.skip) {
        (_, Some(offset), _) => To::Offset(offset),
        (_, _, Some(count)) => To::Skip(count),
        (Some(Place::At(at)), ..) => To::Time(*at),
        (Some(Place::Latest), ..) => To::End("latest".to_owned()),
        (Some(Place::Earliest) | None, ..) => To::End("earliest".to_owned()),
    };
    let request = ResetGroupRequest {
        group: args.name.clone(),
        topic: args.topic.clone(),
        queue: args.queue,
        to: Some(to),
    };
    let answer = admin.reset_group(request).await?;
    let mut table = Table::new(&["queue", "next"]);
    for place in answer.places {
        table.rows.push(vec![place.queue.into(), place.next.into()]);
    }
    table
        .print(Format::Table, terminal.out)
        .map_err(CliError::output)
}

async fn in_flight(
    admin: &Admin,
    name: &str,
    limit: u32,
    output: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let request = ListInFlightRequest {
        group: name.to_owned(),
        limit,
    };
    let columns = [
        "topic", "queue", "offset", "consumer", "since", "until", "attempt", "renewed",
    ];
    let mut table = Table::new(&columns);
    for one in admin.list_in_flight(request).await?.messages {
        table.rows.push(vec![
            one.topic.into(),
            one.queue.into(),
            one.offset.into(),
            one.consumer.into(),
            one.since.map(|at| at.to_string()).into(),
            one.until.map(|at| at.to_string()).into(),
            one.attempts.into(),
            Cell::Boolean(one.renewed),
        ]);
    }
    table
        .print(output, terminal.out)
        .map_err(CliError::output)?;
    terminal.say_cut(table.rows.len(), limit)
}

async fn pause(admin: &Admin, name: &str, paused: bool) -> Result<(), CliError> {
    let request = AlterGroupRequest {
        name: name.to_owned(),
        paused: Some(paused),
        ..AlterGroupRequest::default()
    };
    admin.alter_group(request).await?;
    Ok(())
}

fn altered(name: &str, settings: &GroupSettings) -> AlterGroupRequest {
    let (start, start_at) = start(settings.start.as_ref());
    AlterGroupRequest {
        name: name.to_owned(),
        start,
        attempts_max: settings.attempts,
        backoff: settings.backoff.clone(),
        fifo: settings.fifo,
        paused: None,
        start_at,
        lite_exclusive: settings.exclusive,
    }
}

fn start(place: Option<&Place>) -> (String, Option<prost_types::Timestamp>) {
    match place {
        None => (String::new(), None),
        Some(Place::Earliest) => ("earliest".to_owned(), None),
        Some(Place::Latest) => ("latest".to_owned(), None),
        Some(Place::At(at)) => ("time".to_owned(), Some(*at)),
    }
}

/// The back-off as `--backoff` takes it; nothing for the server's default.
fn backoff(group: &Group) -> Cell {
    let Some(backoff) = &group.backoff else {
        return Cell::Null;
    };
    let words = |ms: i64| keep::time_in_words(u64::try_from(ms).unwrap_or(0));
    if backoff.list_ms.is_empty() {
        return format!("{}..{}", words(backoff.initial_ms), words(backoff.max_ms)).into();
    }
    let list: Vec<String> = backoff.list_ms.iter().map(|ms| words(*ms)).collect();
    list.join(",").into()
}

#[cfg(test)]
mod tests {
    use millpond_proto::wire::admin::Backoff;

    use super::*;

    #[test]
    fn what_is_set_of_a_group_is_told_as_it_is_typed() {
        let group = Group {
            name: "g".to_owned(),
            start: "latest".to_owned(),
            attempts_max: 5,
            backoff: Some(Backoff {
                initial_ms: 1000,
                max_ms: 7_200_000,
                ..Backoff::default()
            }),
            paused: true,
            ..Group::default()
        };
        let told = settings(&group);
        assert_eq!(
            told,
            "consumer group g, paused: nothing is delivered until it is resumed\n  starts       latest\n  \
             attempts     5\n  back-off     1s..2h"
        );
        let usual = settings(&Group {
            name: "g".to_owned(),
            ..Group::default()
        });
        assert!(
            usual.starts_with("consumer group g\n  starts       earliest\n"),
            "{usual}"
        );
    }
}
