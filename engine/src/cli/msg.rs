//! `millpond msg …`: finding, showing and tracing messages.
//!
//! A search is a loop of steps over the server; what was looked at is added up and said at the end, with
//! the place to go on from when the limit was reached first.

use millpond_proto::client::{Admin, Client};
use millpond_proto::limits;
use millpond_proto::wire::admin::find_messages_request::By;
use millpond_proto::wire::admin::{
    FindMessagesRequest, ReadRequest, Scanned, StoredMessage, TraceMessageRequest,
};

use crate::cli::consume::properties;
use crate::cli::error::CliError;
use crate::cli::msg_args::{MsgCommand, PlaceArgs, TraceArgs, WhereArgs};
use crate::cli::output::{Cell, Format, Table, counted};
use crate::cli::run::Terminal;

/// Does a command about messages.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &MsgCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    match command {
        MsgCommand::Find(args) => {
            let id = args.id.clone().map(By::MessageId);
            let by = id.or_else(|| args.key.clone().map(By::Key));
            search(&admin, &args.within, by, terminal).await
        }
        MsgCommand::Ls(args) => search(&admin, args, None, terminal).await,
        MsgCommand::Get(args) => get(&admin, args, terminal).await,
        MsgCommand::Trace(args) => trace(&admin, args, terminal).await,
    }
}

async fn search(
    admin: &Admin,
    args: &WhereArgs,
    by: Option<By>,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let (from_queue, from_offset) = args.from.unwrap_or_default();
    let (filter, filter_type) = match (&args.filter, &args.tag) {
        (Some(sql), _) => (sql.clone(), "sql92"),
        (None, Some(tags)) => (tags.clone(), "tag"),
        (None, None) => (String::new(), ""),
    };
    let mut request = FindMessagesRequest {
        topic: args.topic.clone(),
        by,
        filter,
        filter_type: filter_type.to_owned(),
        queue: args.queue,
        since: args.since,
        until: args.until,
        limit: 0,
        from_queue,
        from_offset,
    };
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX).max(1);
    let mut messages: Vec<StoredMessage> = Vec::new();
    let mut scanned = Scanned::default();
    let complete = loop {
        let left = (most - messages.len()).min(limits::READ_MESSAGES_MAX);
        request.limit = u32::try_from(left).unwrap_or(u32::MAX);
        let answer = admin.find_messages(request.clone()).await?;
        messages.extend(answer.messages);
        add(&mut scanned, answer.scanned.unwrap_or_default());
        if answer.complete {
            break true;
        }
        (request.from_queue, request.from_offset) = (answer.next_queue, answer.next_offset);
        if messages.len() >= most {
            break false;
        }
    };
    let columns = [
        "queue",
        "offset",
        "stored_at",
        "id",
        "keys",
        "tag",
        "properties",
        "body",
    ];
    let mut table = Table::new(&columns);
    table.rows.extend(messages.into_iter().map(|message| {
        vec![
            message.queue.into(),
            message.offset.into(),
            message.stored_at.map(|at| at.to_string()).into(),
            message.message_id.into(),
            message.keys.join(" ").into(),
            message.tag.into(),
            properties(&message.properties),
            message.body.map_or(Cell::Null, |body| Cell::body(&body)),
        ]
    }));
    table
        .print(args.output, terminal.out)
        .map_err(CliError::output)?;
    let end = if complete {
        "complete".to_owned()
    } else {
        format!(
            "stopped at the limit; go on with: --from {}:{}",
            request.from_queue, request.from_offset
        )
    };
    terminal.say(&format!("{end}; {}", looked_at(&scanned)))
}

fn add(sum: &mut Scanned, step: Scanned) {
    let key = |at: &prost_types::Timestamp| (at.seconds, at.nanos);
    sum.compared += step.compared;
    sum.ruled_out += step.ruled_out;
    sum.damaged += step.damaged;
    sum.bytes += step.bytes;
    let first = [sum.stored_first, step.stored_first].into_iter().flatten();
    sum.stored_first = first.min_by_key(key);
    let last = [sum.stored_last, step.stored_last].into_iter().flatten();
    sum.stored_last = last.max_by_key(key);
}

/// What was looked at, in words.
fn looked_at(scanned: &Scanned) -> String {
    let mut words = format!(
        "looked at {} ({} bytes)",
        counted(scanned.compared, "message"),
        scanned.bytes
    );
    if scanned.ruled_out > 0 {
        words += &format!(", an index ruled out {} more", scanned.ruled_out);
    }
    if let (Some(first), Some(last)) = (scanned.stored_first, scanned.stored_last) {
        words += &format!(", stored from {first} to {last}");
    }
    if scanned.damaged > 0 {
        words += &format!(
            "; {} are damaged and could not be compared, see: millpond storage verify",
            scanned.damaged
        );
    }
    words
}

async fn get(admin: &Admin, args: &PlaceArgs, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let (queue, offset) = args.place;
    let request = ReadRequest {
        topic: args.topic.clone(),
        queue,
        from: offset,
        limit: 1,
    };
    let answer = admin.read_topic(request).await?;
    let mut messages = answer.messages.into_iter();
    let Some(message) = messages.find(|message| message.offset == offset) else {
        return Err(CliError::Usage {
            what: format!("topic {:?} has no message at {queue}:{offset}", args.topic),
            help: format!(
                "millpond topic info {} tells its first and next offsets",
                args.topic
            ),
        });
    };
    let mut table = details(message);
    if args.output != Format::Table {
        table = sideways(table);
    }
    table
        .print(args.output, terminal.out)
        .map_err(CliError::output)
}

fn details(message: StoredMessage) -> Table {
    let mut table = Table::new(&["field", "value"]);
    let mut row = |field: &str, value: Cell| table.rows.push(vec![field.into(), value]);
    row("queue", message.queue.into());
    row("offset", message.offset.into());
    row("id", message.message_id.into());
    row(
        "stored_at",
        message.stored_at.map(|at| at.to_string()).into(),
    );
    row("born_at", message.born_at.map(|at| at.to_string()).into());
    row("born_host", message.born_host.into());
    row("message_group", message.message_group.into());
    row("priority", message.priority.map(i64::from).into());
    row("keys", message.keys.join(" ").into());
    row("tag", message.tag.into());
    row("properties", properties(&message.properties));
    row("trace_context", message.trace_context.into());
    row(
        "body",
        message.body.map_or(Cell::Null, |body| Cell::body(&body)),
    );
    table
}

/// Fields as columns of one row.
fn sideways(table: Table) -> Table {
    let mut turned = Table::default();
    let mut values = Vec::new();
    for row in table.rows {
        let mut cells = row.into_iter();
        if let (Some(Cell::Text(name)), Some(value)) = (cells.next(), cells.next()) {
            turned.columns.push(name);
            values.push(value);
        }
    }
    turned.rows.push(values);
    turned
}

async fn trace(
    admin: &Admin,
    args: &TraceArgs,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let (queue, offset) = args.message.place;
    let request = TraceMessageRequest {
        topic: args.message.topic.clone(),
        queue,
        offset,
        group: args.group.clone().unwrap_or_default(),
    };
    let answer = admin.trace_message(request).await?;
    let columns = ["group", "at", "what", "attempt", "consumer", "until", "why"];
    let mut table = Table::new(&columns);
    let at = |at: Option<prost_types::Timestamp>| Cell::from(at.map(|at| at.to_string()));
    if let Some(message) = &answer.message {
        table.rows.push(vec![
            Cell::Null,
            at(message.stored_at),
            "stored".into(),
            Cell::Null,
            message.born_host.as_str().into(),
            Cell::Null,
            format!("id {}", message.message_id).into(),
        ]);
    }
    for event in answer.events {
        table.rows.push(vec![
            event.group.into(),
            at(event.at),
            event.what.into(),
            Some(event.attempt).filter(|attempt| *attempt > 0).into(),
            event.consumer.into(),
            at(event.until),
            event.why.into(),
        ]);
    }
    for fate in answer.fates {
        table.rows.push(vec![
            fate.group.into(),
            Cell::Null,
            format!("now: {}", fate.state).into(),
            Some(fate.attempts).filter(|attempts| *attempts > 0).into(),
            fate.consumer.into(),
            at(fate.until),
            "".into(),
        ]);
    }
    table
        .print(args.message.output, terminal.out)
        .map_err(CliError::output)?;
    if !answer.unreadable.is_empty() {
        terminal.say(&format!(
            "the message can not be read: {}",
            answer.unreadable
        ))?;
    }
    let reach = match (answer.complete, answer.log_since) {
        (true, _) => "the log tells of everything since the message was stored".to_owned(),
        (false, Some(since)) => {
            format!("the log reaches back to {since}; what was before is not known")
        }
        (false, None) => "the log holds nothing that old; what was before is not known".to_owned(),
    };
    let damaged = match answer.log_damaged {
        0 => String::new(),
        places => format!("; {places} places of it could not be read"),
    };
    terminal.say(&format!(
        "{reach}; {} bytes of it were read{damaged}",
        answer.log_bytes
    ))
}
