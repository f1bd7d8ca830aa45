//! Words of `millpond topic …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use millpond_proto::time::Timestamp;

use crate::cli::body_args::{BodyArgs, SchemaCommand};
use crate::cli::keep;
use crate::cli::keep::TableTime;
use crate::cli::lite::LiteCommand;
use crate::cli::output::Format;
use crate::cli::shelf::time;

/// What a topic carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopicType {
    /// Independent messages.
    Normal,
    /// In order within a message group.
    Fifo,
    /// Delivered at a time.
    Delay,
    /// Sent in two steps.
    Transaction,
    /// Urgent ones first.
    Priority,
    /// Many small queues by name.
    Lite,
}

impl TopicType {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
            Self::Transaction => "transaction",
            Self::Priority => "priority",
            Self::Lite => "lite",
        }
    }
}

/// `millpond topic …`.
#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic.
    #[command(after_help = "\
Examples:
  millpond topic create orders --queues 16
  millpond topic create flights --schema \"carrier TEXT, dep_delay DOUBLE, at TIMESTAMP\" \\
      --watermark \"at - INTERVAL '5 minutes'\"
  millpond topic create readings --format avro --schema-file reading.avsc
  millpond topic create meter-17 --queues 1 --family meters")]
    Create {
        /// Name of the topic.
        name: String,
        /// What it carries.
        #[arg(long, value_enum, ignore_case = true, default_value = "normal")]
        r#type: TopicType,
        /// Number of queues.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        queues: Option<u32>,
        /// Columns of its bodies, as in CREATE TOPIC.
        #[arg(long, value_name = "COLUMNS")]
        schema: Option<String>,
        /// How its bodies are written.
        #[command(flatten)]
        bodies: BodyArgs,
        /// How far event time may lag: "column - INTERVAL '5 minutes'".
        #[arg(long, value_name = "EXPR", requires = "schema")]
        watermark: Option<String>,
        /// How long and how much to keep.
        #[command(flatten)]
        keep: KeepArgs,
        /// Share the Parquet files and the table of a family with other small topics; can not be changed later.
        #[arg(long, value_name = "NAME")]
        family: Option<String>,
    },
    /// Change a topic: more queues, another retention.
    #[command(after_help = "\
Examples:
  millpond topic alter orders --retention 7d --retention-bytes 10GiB
  millpond topic alter customers --cleanup compact
  millpond topic alter orders --retention 7d --table-retention 365d")]
    Alter {
        /// Name of the topic.
        name: String,
        /// Number of queues; it can only grow.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        queues: Option<u32>,
        /// How long and how much to keep.
        #[command(flatten)]
        keep: KeepArgs,
    },
    /// List topics.
    #[command(visible_alias = "list")]
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Show a topic, its columns and its queues.
    #[command(visible_alias = "describe")]
    Info {
        /// Name of the topic.
        name: String,
        /// How to print the queues.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// List and add versions of the schema of a topic's bodies.
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Look at the lite topics of a parent, and end them.
    #[command(subcommand)]
    Lite(LiteCommand),
    /// Delete a topic and its messages.
    #[command(visible_alias = "delete")]
    Rm {
        /// Name of the topic.
        name: String,
    },
    /// Erase what was sent under a key: each message keeps its offset, times and id alone.
    #[command(after_help = "\
Example: millpond topic erase orders --key customer-7
Erased are messages routed by the key, of that message group, and those with it among their look-up keys.
The command is done when no file of the server holds them any more, the log's included, and says so.
What others derived of them, such as views and dead letters, are topics of their own: erase it there too. Dead letters that
hold the key are named. A message
that waits for its time or the end of its transaction is erased where it waits, and arrives without content; one that left
there within the last hours counts twice.")]
    Erase {
        /// Name of the topic.
        name: String,
        /// The key.
        #[arg(long, value_name = "KEY")]
        key: String,
    },
    /// Send messages: --body, --body-file, or one per line of standard input.
    #[command(
        visible_alias = "send",
        after_help = "\
Examples:
  echo '{\"n\":1}' | millpond topic produce orders --key customer-7
  millpond topic produce customers --tombstone --key '[7]'    delete the row of PRIMARY KEY (id)

Into a topic with a PRIMARY KEY a row is sent under the key that follows from it, as INSERT does: the text of a key that is one
VARCHAR, else a JSON array of its columns, such as [7] or [7,\"ann\"]. That key deletes the row."
    )]
    Produce(ProduceArgs),
    /// Read messages: a look without a group, or receive and acknowledge with --group.
    #[command(
        visible_alias = "receive",
        after_help = "\
Examples:
  millpond topic consume orders                  look at the first messages, change nothing
  millpond topic consume orders --group billing  receive as the group billing and acknowledge"
    )]
    Consume(ConsumeArgs),
}

/// How long and how much of a topic is kept.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct KeepArgs {
    /// Delete messages when they are older: 7d, 12h, 30m, none.
    #[arg(long, value_name = "TIME", value_parser = keep::time)]
    pub retention: Option<u64>,
    /// Delete the oldest messages when the topic holds more: 10GiB, 500MB, none.
    #[arg(long, value_name = "SIZE", value_parser = keep::size)]
    pub retention_bytes: Option<u64>,
    /// What goes of old messages: delete them by time and size only, or compact: also all but the last of each key.
    #[arg(long, value_enum, ignore_case = true)]
    pub cleanup: Option<Cleanup>,
    /// How long a compacted topic keeps tombstones, messages that delete their key: 7d, 12h, none (the default, 24h).
    #[arg(long, value_name = "TIME", value_parser = keep::time)]
    pub tombstone_retention: Option<u64>,
    /// Keep the table, what SQL and outside readers see, for another time than the log: 365d, none, log (as the log).
    #[arg(long, value_name = "TIME", value_parser = keep::table_time)]
    pub table_retention: Option<TableTime>,
    /// Keep so much Parquet of the table: 1TiB, 500MB, none.
    #[arg(long, value_name = "SIZE", value_parser = keep::size)]
    pub table_retention_bytes: Option<u64>,
    /// Of type lite: end a lite topic so long after its last message: 1h, 7d, at most 30d; none for 30d.
    #[arg(long, value_name = "TIME", value_parser = keep::time)]
    pub lite_expiry: Option<u64>,
}

impl KeepArgs {
    /// What is said, as options of `CREATE TOPIC … WITH`; it has none for the expiry of lite topics.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let time = |name: &str, ms: u64| match ms {
            0 => format!("{name} = 'none'"),
            ms => format!("{name} = '{ms} milliseconds'"),
        };
        let bytes = |name: &str, bytes: u64| match bytes {
            0 => format!("{name} = 'none'"),
            bytes => format!("{name} = {bytes}"),
        };
        let cleanup = self.cleanup.map(|cleanup| match cleanup {
            Cleanup::Delete => "cleanup = 'delete'".to_owned(),
            Cleanup::Compact => "cleanup = 'compact'".to_owned(),
        });
        let table = self.table_retention.map(|kept| match kept {
            TableTime::AsLog => "table_retention = 'log'".to_owned(),
            TableTime::For(ms) => time("table_retention", ms),
        });
        let options = [
            self.retention.map(|ms| time("retention", ms)),
            self.retention_bytes.map(|n| bytes("retention_bytes", n)),
            cleanup,
            self.tombstone_retention
                .map(|ms| time("tombstone_retention", ms)),
            table,
            self.table_retention_bytes
                .map(|n| bytes("table_retention_bytes", n)),
        ];
        options.into_iter().flatten().collect()
    }
}

/// What goes of old messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cleanup {
    /// What is older, or more, than the topic keeps.
    Delete,
    /// Also what later messages of the same key supersede.
    Compact,
}

/// `millpond topic produce`.
#[derive(Clone, Debug, Args)]
pub struct ProduceArgs {
    /// Name of the topic.
    pub name: String,
    /// The body of one message.
    #[arg(long, allow_hyphen_values = true)]
    pub body: Option<String>,
    /// A file that is the body of one message, whatever its bytes.
    #[arg(long, value_name = "FILE", conflicts_with = "body")]
    pub body_file: Option<PathBuf>,
    /// Equal keys share a queue and keep their order; of a topic with a primary key the row tells it.
    #[arg(long, allow_hyphen_values = true)]
    pub key: Option<String>,
    /// Send one message without a body: it says that its key is no more.
    #[arg(long, requires = "key", conflicts_with_all = ["body", "body_file"])]
    pub tombstone: bool,
    /// Message group, for a fifo topic: its messages are delivered in order.
    #[arg(long, value_name = "GROUP")]
    pub message_group: Option<String>,
    /// Lite topic, for a topic of such: its messages are delivered in order.
    #[arg(long, value_name = "NAME")]
    pub lite_topic: Option<String>,
    /// Priority, for a priority topic: greater is delivered first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    pub priority: Option<i32>,
    /// Deliver it so long from now, for a delay topic: 90s, 30m, 7d.
    #[arg(long, value_name = "TIME", value_parser = keep::time, conflicts_with = "at")]
    pub delay: Option<u64>,
    /// Deliver it at this time, for a delay topic: 2026-05-01T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub at: Option<Timestamp>,
    /// Tag for filters.
    #[arg(long, allow_hyphen_values = true)]
    pub tag: Option<String>,
    /// A property; may be repeated.
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    pub properties: Vec<(String, String)>,
}

/// `millpond topic consume`.
#[derive(Clone, Debug, Args)]
pub struct ConsumeArgs {
    /// Name of the topic.
    pub name: String,
    /// Consumer group; without one, nothing changes on the server.
    #[arg(long)]
    pub group: Option<String>,
    /// Most messages.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max: u32,
    /// Acknowledge what was printed; so it is with --group unless --no-ack says otherwise.
    #[arg(long, requires = "group", conflicts_with = "no_ack")]
    pub ack: bool,
    /// Do not acknowledge: the messages return to the group when their invisible time is over.
    #[arg(long, requires = "group")]
    pub no_ack: bool,
    /// How long received messages stay invisible to others: 10s to 12h; 5m unless it is said.
    #[arg(long, value_name = "TIME", value_parser = keep::time, requires = "group")]
    pub invisible: Option<u64>,
    /// First offset to look at in each queue.
    #[arg(
        long,
        default_value_t = 0,
        value_name = "OFFSET",
        conflicts_with = "group"
    )]
    pub from: u64,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like --property colour=blue".to_owned()),
    }
}
