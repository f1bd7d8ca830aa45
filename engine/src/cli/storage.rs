//! `millpond storage …`.
//!
//! `verify` and `dump` also look into a data folder that no server uses; they take its lock and change nothing.

use std::path::Path;
use std::sync::Arc;

use millpond_proto::client::{Admin, Client};
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, TopicId};
use millpond_proto::wire::admin::{KeysCompacted, ReadRequest, StoredMessage, VerifyResponse};
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::error::OpenError;
use millpond_storage::format::envelope::{Envelope, PropertyValue};
use millpond_storage::log::folder::{Folder, LogRecord, cold_of};
use prost::Message as _;

use crate::broker::record::Change;
use crate::broker::state::{CATALOG_SHARD, ShardState};
use crate::cli::args::StorageCommand;
use crate::cli::error::CliError;
use crate::cli::keep::size_in_words;
use crate::cli::output::{Format, Table, counted};
use crate::cli::run::Terminal;
use crate::cold::{ColdUrl, Variables};

/// Bytes of a body that are printed.
const BODY_BYTES: usize = 200;

/// Does a command about what is stored.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &StorageCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match command {
        StorageCommand::Ls { output } => list(client, *output, terminal).await,
        StorageCommand::Tier => tier(client, terminal).await,
        StorageCommand::Compact { topic } => compact(client, topic.as_deref(), terminal).await,
        StorageCommand::Verify { data } => verify(client, data.as_deref(), terminal).await,
        StorageCommand::Dump {
            what,
            queue,
            from,
            max,
            data,
        } => {
            let most = usize::try_from(*max).unwrap_or(usize::MAX);
            let place = Place {
                queue: *queue,
                from: *from,
                most,
            };
            match data {
                None => dump(client, what, &place, terminal).await,
                Some(data) => {
                    let folder = folder(data, &terminal.variables)?;
                    dump_folder(&folder, what, &place, terminal).await
                }
            }
        }
    }
}

/// Which messages to print.
struct Place {
    queue: u32,
    from: u64,
    most: usize,
}

async fn list(
    client: &Client,
    format: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let answer = Admin::new(client).list_storage().await?;
    let mut table = Table::new(&[
        "topic",
        "hot_bytes",
        "cold_bytes",
        "files",
        "hot_messages",
        "cold_messages",
        "lost",
        "first",
        "next",
    ]);
    for topic in answer.topics {
        table.rows.push(vec![
            topic.topic.into(),
            topic.hot_bytes.into(),
            topic.cold_bytes.into(),
            topic.files.into(),
            topic.hot_messages.into(),
            topic.cold_messages.into(),
            topic.lost.into(),
            topic.first.into(),
            topic.next.into(),
        ]);
    }
    table
        .print(format, terminal.out)
        .map_err(CliError::output)?;
    if format == Format::Table {
        let log = size_in_words(answer.log_bytes);
        terminal.say(&format!(
            "the log keeps {log}, for all topics and everything else"
        ))?;
    }
    Ok(())
}

async fn tier(client: &Client, terminal: &mut Terminal<'_>) -> Result<(), CliError> {
    let tiered = Admin::new(client).tier().await?;
    let mut text = format!(
        "moved {} into Parquet, {} bytes",
        counted(tiered.messages, "message"),
        tiered.bytes
    );
    if tiered.damaged > 0 {
        text.push_str(&format!(
            "; {} were damaged in the log and are gaps now",
            tiered.damaged
        ));
    }
    terminal.say(&text)
}

async fn compact(
    client: &Client,
    topic: Option<&str>,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let done = Admin::new(client)
        .compact(topic.unwrap_or_default())
        .await?;
    for keys in &done.keys {
        terminal.say(&compacted(keys))?;
    }
    terminal.say(&format!(
        "merged {} files ({}) into {} ({})",
        done.files_merged,
        size_in_words(done.bytes_merged),
        done.files_made,
        size_in_words(done.bytes_made)
    ))
}

/// What keeping the last message of each key did, in words.
fn compacted(keys: &KeysCompacted) -> String {
    let topic = &keys.topic;
    if !keys.held_by.is_empty() {
        return format!(
            "topic {topic} stays as it is: {} has saved no state yet and would read it again after a crash; run it on, \
             or drop it, and compact again",
            keys.held_by
        );
    }
    let mut text = format!(
        "topic {topic}: superseded by later ones of their key: {}; over: {}; {} ({}) became {}",
        counted(keys.superseded, "message"),
        counted(keys.tombstones, "tombstone"),
        counted(keys.files, "file"),
        size_in_words(keys.bytes_before),
        size_in_words(keys.bytes_after)
    );
    if keys.damaged_files > 0 {
        text.push_str(&format!(
            "; {} damaged files were left as they are: see millpond storage verify",
            keys.damaged_files
        ));
    }
    text
}

async fn verify(
    client: &Client,
    data: Option<&Path>,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let found = match data {
        None => Admin::new(client).verify().await?,
        Some(data) => {
            let found = folder(data, &terminal.variables)?.verify().await?;
            VerifyResponse {
                whole: found.whole,
                damage: found.damage,
                notes: found.notes,
            }
        }
    };
    let lines = [
        ("whole ", &found.whole),
        ("note  ", &found.notes),
        ("DAMAGE", &found.damage),
    ];
    for (word, lines) in lines {
        for line in lines {
            writeln!(terminal.out, "{word} {line}").map_err(CliError::output)?;
        }
    }
    match found.damage.len() {
        0 => terminal.say("no damage found"),
        count => Err(CliError::Damage { count }),
    }
}

async fn dump(
    client: &Client,
    topic: &str,
    place: &Place,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    let (mut from, mut left) = (place.from, place.most);
    while left > 0 {
        let request = ReadRequest {
            topic: topic.to_owned(),
            queue: place.queue,
            from,
            limit: u32::try_from(left.min(limits::READ_MESSAGES_MAX)).unwrap_or(u32::MAX),
        };
        let answer = admin.read_topic(request).await?;
        if answer.messages.is_empty() {
            break;
        }
        left = left.saturating_sub(answer.messages.len());
        for message in &answer.messages {
            writeln!(terminal.out, "{}", wire_in_words(message)).map_err(CliError::output)?;
        }
        from = answer.next;
    }
    tell_nothing(topic, place, left, terminal)
}

/// Says that there is no message where a dump was to begin, if none was written and so all of `left` is left.
fn tell_nothing(
    topic: &str,
    place: &Place,
    left: usize,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    if left < place.most || left == 0 {
        return Ok(());
    }
    let Place { queue, from, .. } = place;
    terminal.say(&format!(
        "no message at or behind offset {from} in queue {queue} of {topic}; millpond topic info {topic} tells its queues and offsets"
    ))
}

/// A folder at rest, with the cold tier that it remembers; its lock is held as long as it is looked at.
fn folder(data: &Path, variables: &Variables) -> Result<Folder, CliError> {
    if !data.is_dir() {
        return Err(CliError::File {
            path: data.to_owned(),
            verb: "read",
            cause: std::io::ErrorKind::NotFound.into(),
        });
    }
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(data)?);
    let cold: ColdUrl = match cold_of(&*disk)? {
        Some(url) => url.parse()?,
        None => ColdUrl::default(),
    };
    let objects = cold.open(&disk, variables)?;
    Ok(Folder::open(disk, objects)?)
}

async fn dump_folder(
    folder: &Folder,
    what: &str,
    place: &Place,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    if what.ends_with(".log") {
        return dump_segment(folder, what, place.most, terminal);
    }
    let topic = topic_of(folder, what)?;
    let (mut from, mut left) = (Offset(place.from), place.most);
    while left > 0 {
        let messages = folder
            .read(topic, QueueId(place.queue), from, left)
            .await??;
        let Some(last) = messages.last() else { break };
        from = last.at().next();
        left = left.saturating_sub(messages.len());
        for message in &messages {
            writeln!(terminal.out, "{}", in_words(message)).map_err(CliError::output)?;
        }
    }
    tell_nothing(what, place, left, terminal)
}

/// The topic of a name; or of an id, when the names are lost.
fn topic_of(folder: &Folder, what: &str) -> Result<TopicId, CliError> {
    let catalog = match folder.project::<ShardState>(CATALOG_SHARD)? {
        Ok(catalog) => catalog,
        Err(damaged) => {
            return what.parse().map(TopicId).map_err(|_| {
                let error = OpenError::Damaged {
                    what: "the catalog, which knows the names of topics,".to_owned(),
                    detail: format!(
                        "{damaged}; name the topic by its id, which its folder below topics/ in the cold tier is called"
                    ),
                };
                error.into()
            });
        }
    };
    if let Some(topic) = catalog.catalog().topic(what) {
        return Ok(TopicId(topic.id));
    }
    let names = catalog.catalog().topics().map(|topic| topic.name.clone());
    let names: Vec<String> = names.collect();
    Err(CliError::Usage {
        what: format!("topic {what:?} is not in this folder"),
        help: format!("topics are: {}", names.join(", ")),
    })
}

fn dump_segment(
    folder: &Folder,
    path: &str,
    most: usize,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let mut lines = Vec::new();
    let mut segments = Vec::new();
    folder.records(|record| {
        if segments.last() != Some(&record.path) {
            segments.push(record.path.clone());
        }
        if record.path.ends_with(path) && lines.len() < most {
            lines.push(record_in_words(record));
        }
    })?;
    if lines.is_empty() {
        return Err(CliError::Usage {
            what: format!("{path} holds no record of this folder's log"),
            help: format!("segments with records are: {}", segments.join(", ")),
        });
    }
    for line in lines {
        writeln!(terminal.out, "{line}").map_err(CliError::output)?;
    }
    Ok(())
}

fn record_in_words(record: LogRecord) -> String {
    let place = format!("position {} shard {}", record.position, record.shard);
    let Some(payload) = record.payload else {
        return match record.message {
            Some((topic, queue, offset)) => {
                format!("{place} DAMAGED message of topic {topic} queue {queue} offset {offset}")
            }
            None => format!("{place} DAMAGED change of state"),
        };
    };
    match record.message {
        Some((topic, ..)) => match Envelope::decode(payload) {
            Ok(message) => format!("{place} message topic {topic} {}", in_words(&message)),
            Err(error) => format!("{place} message topic {topic} that can not be read: {error}"),
        },
        None => match Change::from_bytes(&payload) {
            Some(change) => format!("{place} change {change:?}"),
            None => format!("{place} change of a kind that this version does not know"),
        },
    }
}

fn in_words(message: &Envelope) -> String {
    let properties = message.properties.iter().map(|property| {
        let value = match &property.value {
            Some(PropertyValue::Text(text)) => text.clone(),
            Some(PropertyValue::Binary(bytes)) => text(bytes),
            None => String::new(),
        };
        (property.key.clone(), value)
    });
    words(&Words {
        queue: message.queue,
        offset: message.offset,
        stored: format!("{} ms", message.stored_at_ms),
        id: &message.message_id,
        key: message.key.as_deref(),
        tag: message.tag.as_deref(),
        properties: properties.collect(),
        body: message.body.as_deref(),
    })
}

fn wire_in_words(message: &StoredMessage) -> String {
    let properties = message.properties.iter();
    words(&Words {
        queue: message.queue,
        offset: message.offset,
        stored: message
            .stored_at
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        id: &message.message_id,
        key: message.key.as_deref(),
        tag: message.tag.as_deref(),
        properties: properties.map(|(k, v)| (k.clone(), v.clone())).collect(),
        body: message.body.as_deref(),
    })
}

/// What is told of a message.
struct Words<'a> {
    queue: u32,
    offset: u64,
    stored: String,
    id: &'a str,
    key: Option<&'a [u8]>,
    tag: Option<&'a str>,
    properties: Vec<(String, String)>,
    body: Option<&'a [u8]>,
}

fn words(message: &Words<'_>) -> String {
    let mut line = format!(
        "queue {} offset {} stored {} id {:?}",
        message.queue, message.offset, message.stored, message.id
    );
    if let Some(key) = message.key {
        line.push_str(&format!(" key {:?}", text(key)));
    }
    if let Some(tag) = message.tag {
        line.push_str(&format!(" tag {tag:?}"));
    }
    for (key, value) in &message.properties {
        line.push_str(&format!(" {key}={value:?}"));
    }
    match message.body {
        None => line.push_str(" no body"),
        Some(body) => {
            let shown = body.get(..BODY_BYTES).unwrap_or(body);
            let more = if shown.len() < body.len() { "…" } else { "" };
            line.push_str(&format!(
                " body of {} bytes {:?}{more}",
                body.len(),
                text(shown)
            ));
        }
    }
    line
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
