//! `millpond topic …`.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::time::Duration;

use millpond_proto::client::{Admin, Client, ClientError, OutgoingMessage, Producer};
use millpond_proto::property::TOMBSTONE;
use millpond_proto::wire::admin::find_messages_request::By;
use millpond_proto::wire::admin::{
    AlterTopicRequest, CreateTopicRequest, DescribeTopicResponse, FindMessagesRequest, Topic,
};

use crate::cli::error::{Batch, CliError};
use crate::cli::group::dead_letters_of;
use crate::cli::keep::{self, TableTime};
use crate::cli::output::{Format, Table, counted};
use crate::cli::row_key::RowKeys;
use crate::cli::run::Terminal;
use crate::cli::topic_args::{Cleanup, KeepArgs, ProduceArgs, TopicCommand, TopicType};
use crate::cli::{consume, lite, schema, sql};

/// Messages per send.
const SEND_MESSAGES: usize = 256;

/// Does a command about topics.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &TopicCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        TopicCommand::Create {
            name,
            r#type,
            queues,
            schema,
            watermark,
            bodies,
            keep,
            family,
        } => {
            let columns = schema.as_deref().or(bodies.is_set().then_some(""));
            match columns {
                None => {
                    let request = CreateTopicRequest {
                        name: name.clone(),
                        r#type: r#type.as_str().to_owned(),
                        queues: queues.unwrap_or_default(),
                        retention_ms: keep.retention.unwrap_or_default(),
                        retention_bytes: keep.retention_bytes.unwrap_or_default(),
                        compacts: keep.cleanup == Some(Cleanup::Compact),
                        tombstone_retention_ms: keep.tombstone_retention.unwrap_or_default(),
                        table_retention_ms: table_ms(keep),
                        table_retention_bytes: keep.table_retention_bytes,
                        lite_expiry_ms: keep.lite_expiry.unwrap_or_default(),
                        family: family.clone().unwrap_or_default(),
                        ..CreateTopicRequest::default()
                    };
                    admin.create_topic(request).await?;
                }
                Some(columns) => {
                    if keep.lite_expiry.is_some() {
                        return Err(CliError::Usage {
                            what: "--lite-expiry is for topics of type lite, which have no --schema or --format"
                                .to_owned(),
                            help: format!("millpond topic create {name} --type lite"),
                        });
                    }
                    let mut options = bodies.options()?;
                    options.extend(keep.options());
                    let family = family.as_ref();
                    options.extend(
                        family.map(|name| format!("family = '{}'", name.replace('\'', "''"))),
                    );
                    let watermark = watermark.as_deref();
                    let statement = create(name, *r#type, *queues, columns, watermark, options)?;
                    sql::collect(&admin, &statement).await?;
                }
            }
            terminal.say(&format!("created topic {name}"))
        }
        TopicCommand::Alter { name, queues, keep } => {
            let topic = admin.alter_topic(altered(name, *queues, *keep)).await?;
            terminal.say(&format!(
                "topic {name}: {}, {}",
                counted(topic.queues.into(), "queue"),
                kept(&topic)
            ))
        }
        TopicCommand::Ls { output } => list(&admin.list_topics().await?)
            .print(*output, terminal.out)
            .map_err(CliError::output),
        TopicCommand::Info { name, output } => {
            info(admin.describe_topic(name).await?, *output, terminal)
        }
        TopicCommand::Lite(command) => lite::run(&admin, command, terminal).await,
        TopicCommand::Schema(command) => schema::run(&admin, command, terminal).await,
        TopicCommand::Rm { name } => {
            admin.delete_topic(name).await?;
            terminal.say(&format!("deleted topic {name} and its messages"))
        }
        TopicCommand::Erase { name, key } => erase(&admin, name, key, terminal).await,
        TopicCommand::Produce(args) => produce(client, args, terminal).await,
        TopicCommand::Consume(args) => consume::run(client, args, terminal).await,
    }
}

async fn erase(
    admin: &Admin,
    name: &str,
    key: &str,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let erased = admin.erase_key(name, key.as_bytes()).await?;
    terminal.say(&match erased.messages {
        0 => format!("topic {name} has no message with the key {key:?}"),
        messages => format!(
            "erased {} of topic {name} in {}",
            counted(messages, "message"),
            counted(erased.files, "file")
        ),
    })?;
    if erased.held_files > 0 {
        terminal.say(&format!(
            "{} of the old files go once those who read them are done",
            erased.held_files
        ))?;
    }
    if erased.log_bytes_left > 0 {
        terminal.say(&format!(
            "{} of the log may still hold some of it, because a shard is closed or messages can not be moved (see \
             millpond storage verify); mend that and erase again",
            keep::size_in_words(erased.log_bytes_left)
        ))?;
    } else if erased.held_files > 0 {
        terminal.say("erase again then, to be told that nothing is left")?;
    } else {
        terminal.say("no file of the server holds any as a message of this topic")?;
    }
    say_where_else(admin, name, key, terminal).await
}

/// Names the topics of dead letters that hold messages with the key, and says what may hold it as well.
async fn say_where_else(
    admin: &Admin,
    name: &str,
    key: &str,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    for group in admin.list_groups().await? {
        let letters = dead_letters_of(&group.name);
        if letters != name && holds(admin, &letters, key).await? {
            terminal.say(&format!(
                "the dead letters of {} hold it still; erase it there with: millpond topic erase '{letters}' --key '{key}'",
                group.name
            ))?;
        }
    }
    terminal.say("what views and jobs made of such messages lies in topics of their own, and is erased there")
}

/// Whether a topic has a message with a key.
async fn holds(admin: &Admin, topic: &str, key: &str) -> Result<bool, CliError> {
    let mut request = FindMessagesRequest {
        topic: topic.to_owned(),
        by: Some(By::Key(key.to_owned())),
        limit: 1,
        ..FindMessagesRequest::default()
    };
    loop {
        let answer = match admin.find_messages(request.clone()).await {
            Ok(answer) => answer,
            // A group without dead letters has no such topic.
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !answer.messages.is_empty() || answer.complete {
            return Ok(!answer.messages.is_empty());
        }
        (request.from_queue, request.from_offset) = (answer.next_queue, answer.next_offset);
    }
}

fn altered(name: &str, queues: Option<u32>, keep: KeepArgs) -> AlterTopicRequest {
    AlterTopicRequest {
        name: name.to_owned(),
        queues: queues.unwrap_or_default(),
        retention_ms: keep.retention,
        retention_bytes: keep.retention_bytes,
        compacts: keep.cleanup.map(|cleanup| cleanup == Cleanup::Compact),
        tombstone_retention_ms: keep.tombstone_retention,
        table_retention_ms: table_ms(&keep),
        table_retention_bytes: keep.table_retention_bytes,
        table_as_log: keep.table_retention == Some(TableTime::AsLog),
        lite_expiry_ms: keep.lite_expiry,
        ..AlterTopicRequest::default()
    }
}

fn table_ms(keep: &KeepArgs) -> Option<u64> {
    match keep.table_retention {
        Some(TableTime::For(ms)) => Some(ms),
        Some(TableTime::AsLog) | None => None,
    }
}

fn kept(topic: &Topic) -> String {
    let mut kept = kept_within(topic.retention_ms, topic.retention_bytes);
    if topic.table_retention_ms.is_some() || topic.table_retention_bytes.is_some() {
        let ms = topic.table_retention_ms.unwrap_or_default();
        let bytes = topic.table_retention_bytes.unwrap_or_default();
        kept.push_str(&format!(", its table {}", kept_within(ms, bytes)));
    }
    if topic.compacts {
        kept.push_str(", the last message of each key");
        if topic.tombstone_retention_ms != 0 {
            let time = keep::time_in_words(topic.tombstone_retention_ms);
            kept.push_str(&format!(", tombstones for {time}"));
        }
    }
    kept
}

fn kept_within(ms: u64, bytes: u64) -> String {
    match (ms, bytes) {
        (0, 0) => "kept for ever".to_owned(),
        (ms, 0) => format!("kept for {}", keep::time_in_words(ms)),
        (0, bytes) => format!("kept up to {}", keep::size_in_words(bytes)),
        (ms, bytes) => format!(
            "kept for {} and up to {}",
            keep::time_in_words(ms),
            keep::size_in_words(bytes)
        ),
    }
}

/// Columns are SQL, so the statement that declares them is what the server gets.
fn create(
    name: &str,
    kind: TopicType,
    queues: Option<u32>,
    columns: &str,
    watermark: Option<&str>,
    mut options: Vec<String>,
) -> Result<String, CliError> {
    if kind != TopicType::Normal {
        return Err(CliError::Usage {
            what: format!(
                "a topic of type {} can not have --schema or --format yet",
                kind.as_str()
            ),
            help: format!("millpond topic create {name} --schema \"{columns}\""),
        });
    }
    let mut statement = format!("CREATE TOPIC {}", sql::quoted(name));
    if !columns.is_empty() {
        statement.push_str(&format!(" ({columns}"));
    }
    if let Some(expression) = watermark {
        let column = expression.split([' ', '-']).next().unwrap_or_default();
        statement.push_str(&format!(", WATERMARK FOR {column} AS {expression}"));
    }
    if !columns.is_empty() {
        statement.push(')');
    }
    options.extend(queues.map(|queues| format!("queues = {queues}")));
    if !options.is_empty() {
        statement.push_str(&format!(" WITH ({})", options.join(", ")));
    }
    Ok(statement)
}

fn list(topics: &[Topic]) -> Table {
    let mut table = Table::new(&["topic", "type", "queues", "columns", "kept", "written_by"]);
    for topic in topics {
        let written_by = Some(topic.written_by.as_str()).filter(|job| !job.is_empty());
        table.rows.push(vec![
            topic.name.as_str().into(),
            topic.r#type.as_str().into(),
            topic.queues.into(),
            (topic.columns.len() as u64).into(),
            kept(topic).into(),
            written_by.into(),
        ]);
    }
    table
}

fn info(
    answer: DescribeTopicResponse,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let topic = answer.topic.unwrap_or_default();
    if format == Format::Table {
        let mut text = format!(
            "topic {}: {}, {}",
            topic.name,
            topic.r#type,
            counted(topic.queues.into(), "queue")
        );
        if !topic.family.is_empty() {
            text.push_str(&format!(", of family {}", topic.family));
        }
        if !topic.written_by.is_empty() {
            text.push_str(&format!(", written by {}", topic.written_by));
        }
        for column in &topic.columns {
            text.push_str(&format!("\n  {} {}", column.name, column.sql_type));
            if !column.expression.is_empty() {
                text.push_str(&format!(" AS ({})", column.expression));
            }
        }
        if !topic.primary_key.is_empty() {
            text.push_str(&format!(
                "\n  PRIMARY KEY ({})",
                topic.primary_key.join(", ")
            ));
        }
        if let Some(watermark) = &topic.watermark {
            let delay = Duration::from_millis(watermark.delay_ms);
            text.push_str(&format!(
                "\n  WATERMARK FOR {} lags {delay:?}",
                watermark.column
            ));
        }
        text.push_str(&format!("\n  {}", kept(&topic)));
        if topic.lite_expiry_ms > 0 {
            let time = keep::time_in_words(topic.lite_expiry_ms);
            text.push_str(&format!(
                "\n  a lite topic ends {time} after its last message"
            ));
        }
        if let Some(sizes) = answer.sizes {
            text.push_str(&format!(
                "\n  hot {} in {}, cold {} in {} and {}{}",
                keep::size_in_words(sizes.hot_bytes),
                counted(sizes.hot_messages, "message"),
                keep::size_in_words(sizes.cold_bytes),
                counted(sizes.cold_messages, "message"),
                counted(sizes.files, "file"),
                match sizes.superseded {
                    0 => String::new(),
                    count => format!(", {count} superseded by later ones of their key"),
                }
            ));
        }
        writeln!(terminal.out, "{text}\n").map_err(CliError::output)?;
    }
    let mut table = Table::new(&["queue", "first", "next", "messages", "in_parquet_below"]);
    for range in answer.ranges {
        table.rows.push(vec![
            range.queue.into(),
            range.first.into(),
            range.next.into(),
            range
                .next
                .saturating_sub(range.first)
                .saturating_sub(range.superseded)
                .into(),
            range.tiered.into(),
        ]);
    }
    table.print(format, terminal.out).map_err(CliError::output)
}

async fn produce(
    client: &Client,
    args: &ProduceArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let delay = args.delay.map(Duration::from_millis);
    let deliver_at = args.at.or_else(|| delay.map(|delay| client.now() + delay));
    let keys = row_keys(client, &args.name).await?;
    let message = |body: Vec<u8>| -> Result<OutgoingMessage, CliError> {
        let said = args.key.as_deref();
        let key = match (&keys, said) {
            (Some(keys), Some(said)) if args.tombstone => {
                keys.check_deletion(said)?;
                args.key.clone()
            }
            (Some(keys), said) => keys.of_message(said, &body)?,
            (None, _) => args.key.clone(),
        };
        Ok(OutgoingMessage {
            key,
            keys: Vec::new(),
            tag: args.tag.clone(),
            properties: properties_to_send(args),
            message_group: args.message_group.clone(),
            priority: args.priority,
            lite_topic: args.lite_topic.clone(),
            deliver_at,
            body: body.into(),
        })
    };
    let producer = Producer::new(client);
    if let Some(body) = only_body(args)? {
        let sent = producer.send(&args.name, message(body)?).await?;
        let (name, id) = (&args.name, &sent.message_id);
        return terminal.say(&match &sent.recall_handle {
            Some(handle) => format!(
                "1 message waits for its time in {name} (id {id}); take it back with: millpond \
                 delay cancel {name} {handle}"
            ),
            None => format!("sent 1 message to {name} (id {id}, offset {})", sent.offset),
        });
    }
    if terminal.input_is_terminal {
        terminal.say("one message per line; Ctrl-D ends")?;
    }
    let mut count = 0_u64;
    let mut batch = Vec::new();
    let mut lines = std::io::stdin().lock();
    loop {
        let mut line = Vec::new();
        let read = lines
            .read_until(b'\n', &mut line)
            .map_err(CliError::input)?;
        let body = line.strip_suffix(b"\n").unwrap_or(&line);
        let body = body.strip_suffix(b"\r").unwrap_or(body).to_vec();
        if !body.is_empty() {
            // What came before it is sent first, so that an error leaves nothing behind.
            match message(body) {
                Ok(message) => batch.push(message),
                Err(error) => {
                    count += send(&producer, &args.name, batch, count).await?;
                    return Err(CliError::Stopped {
                        sent: count,
                        batch: None,
                        cause: Box::new(error),
                    });
                }
            }
        }
        // A person wants every line sent at once, a pipe wants them together.
        let full = batch.len() >= SEND_MESSAGES || terminal.input_is_terminal;
        if !batch.is_empty() && (full || read == 0) {
            count += send(&producer, &args.name, std::mem::take(&mut batch), count).await?;
        }
        if read == 0 {
            break;
        }
    }
    let sent = counted(count, "message");
    terminal.say(&format!("sent {sent} to {}", args.name))
}

/// What tells the rows of the topic apart, if it is there, its rows have a key, and we may look.
async fn row_keys(client: &Client, topic: &str) -> Result<Option<RowKeys>, CliError> {
    let Ok(answer) = Admin::new(client).describe_topic(topic).await else {
        // Whoever may send may not be one who may look, and a first message makes its topic.
        return Ok(None);
    };
    RowKeys::of(&answer.topic.unwrap_or_default())
}

/// The body of the one message that is to be sent, if it is said.
fn only_body(args: &ProduceArgs) -> Result<Option<Vec<u8>>, CliError> {
    if args.tombstone {
        return Ok(Some(Vec::new()));
    }
    let Some(path) = &args.body_file else {
        return Ok(args.body.clone().map(String::into_bytes));
    };
    let read = std::fs::read(path);
    read.map(Some).map_err(|cause| CliError::File {
        path: path.clone(),
        verb: "read",
        cause,
    })
}

fn properties_to_send(args: &ProduceArgs) -> BTreeMap<String, String> {
    let tombstone = args
        .tombstone
        .then(|| (TOMBSTONE.to_owned(), "true".to_owned()));
    args.properties.iter().cloned().chain(tombstone).collect()
}

/// Sends a batch; when a message fails, says how many were sent before the batch and what is known of it.
pub(crate) async fn send(
    producer: &Producer,
    topic: &str,
    batch: Vec<OutgoingMessage>,
    sent_before: u64,
) -> Result<u64, CliError> {
    let rows = batch.len() as u64;
    let stopped = |stored, is_unknown, cause| CliError::Stopped {
        sent: sent_before,
        batch: Some(Batch {
            rows,
            stored,
            is_unknown,
        }),
        cause: Box::new(CliError::Client(cause)),
    };
    let results = producer.send_batch(topic, batch).await;
    let results = results.map_err(|cause| stopped(0, cause.leaves_unknown(), cause))?;
    let stored = results.iter().filter(|result| result.is_ok()).count() as u64;
    let mut failed: Vec<ClientError> = results.into_iter().filter_map(Result::err).collect();
    let is_unknown = failed.iter().any(ClientError::leaves_unknown);
    if failed.is_empty() {
        return Ok(rows);
    }
    Err(stopped(stored, is_unknown, failed.swap_remove(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_becomes_the_statement_that_declares_it() {
        let watermark = Some("at - INTERVAL '5 minutes'");
        let columns = "at TIMESTAMP";
        let statement = create(
            "t",
            TopicType::Normal,
            Some(4),
            columns,
            watermark,
            Vec::new(),
        );
        assert_eq!(
            statement.unwrap(),
            "CREATE TOPIC \"t\" (at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '5 minutes') \
             WITH (queues = 4)"
        );
        let keep = KeepArgs {
            retention: Some(90_000),
            retention_bytes: Some(0),
            cleanup: Some(Cleanup::Compact),
            table_retention: Some(TableTime::AsLog),
            ..KeepArgs::default()
        };
        let statement = create("t", TopicType::Normal, None, columns, None, keep.options());
        assert_eq!(
            statement.unwrap(),
            "CREATE TOPIC \"t\" (at TIMESTAMP) WITH (retention = '90000 milliseconds', \
             retention_bytes = 'none', cleanup = 'compact', table_retention = 'log')"
        );
        assert!(create("t", TopicType::Fifo, None, "a INT", None, Vec::new()).is_err());
        let options = vec!["format = 'avro'".to_owned()];
        let statement = create("t", TopicType::Normal, Some(4), "", None, options);
        assert_eq!(
            statement.unwrap(),
            "CREATE TOPIC \"t\" WITH (format = 'avro', queues = 4)"
        );
    }
}
