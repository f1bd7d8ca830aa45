//! `millpond topic consume`: a look by offset, or receiving as a group.

use std::collections::BTreeMap;
use std::time::Duration;

use millpond_proto::client::consumer::ReceivedMessage;
use millpond_proto::client::{Admin, Client, SimpleConsumer};
use millpond_proto::limits;
use millpond_proto::wire::admin::ReadRequest;

use crate::cli::error::CliError;
use crate::cli::keep;
use crate::cli::output::{Cell, Format, Table, counted};
use crate::cli::run::Terminal;
use crate::cli::topic_args::ConsumeArgs;

/// How long a received message stays with us, unless it is said otherwise: printing must end before.
const INVISIBLE: Duration = Duration::from_secs(300);
/// How long to wait for the first message.
const POLL: Duration = Duration::from_secs(3);
/// How long to wait once messages have come: only for what is there already.
const POLL_AGAIN: Duration = Duration::from_millis(200);

/// Looks at messages, or receives them as a group.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    args: &ConsumeArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match &args.group {
        None => peek(client, args, terminal).await,
        Some(group) => receive(client, group, args, terminal).await,
    }
}

async fn peek(
    client: &Client,
    args: &ConsumeArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    let mut table = messages_table(false);
    let ranges = admin.describe_topic(&args.name).await?.ranges;
    let max = args.max as usize;
    for range in &ranges {
        let mut from = args.from.max(range.first);
        while from < range.next && table.rows.len() < max {
            let wanted = max - table.rows.len();
            let request = ReadRequest {
                topic: args.name.clone(),
                queue: range.queue,
                from,
                limit: u32::try_from(wanted.min(limits::READ_MESSAGES_MAX)).unwrap_or(u32::MAX),
            };
            let answer = admin.read_topic(request).await?;
            if answer.next <= from {
                break;
            }
            from = answer.next;
            for message in answer.messages {
                let key = message.key.as_deref().map(String::from_utf8_lossy);
                table.rows.push(vec![
                    message.queue.into(),
                    message.offset.into(),
                    message.stored_at.map(|time| time.to_string()).into(),
                    key.map(|key| key.into_owned()).into(),
                    message.tag.into(),
                    properties(&message.properties),
                    message.body.map_or(Cell::Null, |body| Cell::body(&body)),
                ]);
            }
        }
    }
    table
        .print(args.output, terminal.out)
        .map_err(CliError::output)?;
    if args.output != Format::Table {
        return Ok(());
    }
    let kept: u64 = ranges
        .iter()
        .map(|range| range.next.saturating_sub(range.first))
        .sum();
    match table.rows.len() {
        0 if kept > 0 => terminal.say(&format!(
            "no messages from offset {} on; {} before it",
            args.from,
            counted(kept, "message")
        )),
        0 => terminal.say(&format!(
            "no messages; send one with: millpond topic produce {} --body hello",
            args.name
        )),
        shown if shown >= max && (shown as u64) < kept => terminal.say(&format!(
            "{shown} of {}; more with --max, or from an offset with --from",
            counted(kept, "message")
        )),
        _ => Ok(()),
    }
}

async fn receive(
    client: &Client,
    group: &str,
    args: &ConsumeArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let consumer = SimpleConsumer::new(client, group, &args.name);
    let mut messages: Vec<ReceivedMessage> = Vec::new();
    let max = args.max as usize;
    let invisible = args.invisible.map_or(INVISIBLE, Duration::from_millis);
    while messages.len() < max {
        let wanted = (max - messages.len()).min(limits::RECEIVE_BATCH_MAX);
        let poll = if messages.is_empty() {
            POLL
        } else {
            POLL_AGAIN
        };
        let received = consumer.receive(wanted, invisible, poll).await?;
        if received.is_empty() {
            break;
        }
        messages.extend(received);
    }
    if messages.is_empty() {
        is_there(client, &args.name).await?;
        if is_paused(client, group).await {
            terminal.say(&format!(
                "consumer group {group} is paused and is given nothing; go on with: millpond group resume {group}"
            ))?;
        }
    }
    let mut table = messages_table(true);
    for message in &messages {
        let stored = message.stored_at.map(|time| prost_types::Timestamp {
            seconds: time.as_ms().div_euclid(1000),
            nanos: i32::try_from(time.as_ms().rem_euclid(1000) * 1_000_000).unwrap_or_default(),
        });
        table.rows.push(vec![
            i64::from(message.queue).into(),
            message.offset.into(),
            stored.map(|time| time.to_string()).into(),
            message.keys.first().cloned().into(),
            message.tag.clone().into(),
            properties(&message.properties),
            i64::from(message.attempt).into(),
            Cell::body(&message.body),
        ]);
    }
    table
        .print(args.output, terminal.out)
        .map_err(CliError::output)?;
    // Only what was printed counts as handled.
    terminal.out.flush().map_err(CliError::output)?;
    if args.no_ack {
        return terminal.say(&format!(
            "{} received by {group}, none acknowledged: what is not given up returns in {}",
            counted(messages.len() as u64, "message"),
            keep::time_in_words(u64::try_from(invisible.as_millis()).unwrap_or(u64::MAX))
        ));
    }
    for batch in messages.chunks(limits::RECEIVE_BATCH_MAX) {
        for acked in consumer.ack_all(batch).await? {
            acked?;
        }
    }
    terminal.say(&format!(
        "{} received and acknowledged by {group}",
        counted(messages.len() as u64, "message")
    ))
}

/// Whether a group is given nothing, as far as we may know.
async fn is_paused(client: &Client, group: &str) -> bool {
    let answer = Admin::new(client).describe_group(group).await;
    answer.is_ok_and(|answer| answer.group.is_some_and(|group| group.paused))
}

/// Refuses a topic that does not exist: a server that makes topics on their first message has a poll wait for that, and
/// whoever mistyped a name would read that there is nothing.
async fn is_there(client: &Client, topic: &str) -> Result<(), CliError> {
    match Admin::new(client).describe_topic(topic).await {
        Err(error) if error.is_not_found() => Err(error.into()),
        // Whoever may receive may not be one who may look.
        _ => Ok(()),
    }
}

fn messages_table(delivered: bool) -> Table {
    let mut columns = vec!["queue", "offset", "stored_at", "key", "tag", "properties"];
    if delivered {
        columns.push("attempt");
    }
    columns.push("body");
    Table::new(&columns)
}

pub(super) fn properties(properties: &BTreeMap<String, String>) -> Cell {
    if properties.is_empty() {
        return Cell::Null;
    }
    let pairs = properties
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(" ").into()
}
