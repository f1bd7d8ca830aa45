//! The words of the command line, and what to say when they are in the wrong order.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millpond_proto::limits;
use millpond_proto::time::Timestamp;

use crate::cli::body_args::{BodyArgs, SchemaCommand};
use crate::cli::group_args::{DlqCommand, GroupCommand};
use crate::cli::keep;
use crate::cli::keep::TableTime;
use crate::cli::lite::LiteCommand;
use crate::cli::msg_args::MsgCommand;
use crate::cli::output::Format;
use crate::cli::shelf::{DelayCommand, TransactionCommand, time};

/// Where the server is when nobody says.
pub const SERVER_DEFAULT: &str = "http://127.0.0.1:8081";

/// Millpond: a message queue, event hub and stream processor over one durable log.
///
/// Without a command it serves on this machine with ./data, and fills a demo when that folder is new.
#[derive(Debug, Parser)]
#[command(name = "millpond", version, max_term_width = 100)]
#[command(after_help = "\
Try:
  millpond                                       serve here, with a demo the first time
  millpond sql -c \"SHOW TOPICS\"                  ask the server that runs
  millpond topic create orders                   then: echo hello | millpond topic produce orders
  millpond import flights.csv --to flights       a file becomes a topic with columns")]
pub struct Cli {
    /// The server to talk to.
    #[arg(long, global = true, env = "MILLPOND_SERVER", default_value = SERVER_DEFAULT, value_name = "URL")]
    pub server: String,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a data folder.
    Serve(ServeArgs),
    /// Create, list, inspect, delete topics; send to and read from them.
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Create, list, inspect, alter, reset, pause, delete consumer groups.
    #[command(subcommand)]
    Group(GroupCommand),
    /// List, redrive, purge the dead letters of a group.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Find, list, show and trace messages.
    #[command(subcommand)]
    Msg(MsgCommand),
    /// List, recall messages that wait for their time.
    #[command(subcommand)]
    Delay(DelayCommand),
    /// List, commit, roll back open transactions.
    #[command(subcommand, visible_alias = "transaction")]
    Tx(TransactionCommand),
    /// Submit, list, inspect, alter, pause, resume, cancel continuous queries.
    #[command(subcommand)]
    Job(JobCommand),
    /// Run SQL: given with -c, from standard input, or at a prompt.
    Sql(SqlArgs),
    /// Load a CSV or NDJSON file into a topic, one message per row.
    Import(ImportArgs),
    /// Write a topic or the result of a query to a Parquet file on this machine.
    Export(ExportArgs),
    /// Care for what is stored.
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Put load on the server and tell throughput, latency and CPU time.
    Bench(Bench),
}

/// `millpond bench …`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Of a workload file these are obeyed: name, topics, partitionsPerTopic, keyDistributor, messageSize, payloadFile,
useRandomizedPayloads, randomBytesRatio, randomizedPayloadPoolSize, subscriptionsPerTopic,
consumerPerSubscription, producersPerTopic, producerRate (0: as fast as the producers can),
testDurationMinutes, warmupDurationMinutes. Whatever else is in it is refused by its name.

Example: millpond bench --workload 1-topic-16-partitions-1kb.yaml --output json")]
pub struct Bench {
    /// A workload file of the OpenMessaging Benchmark to run, over topics of its own.
    #[arg(long, value_name = "FILE.yaml", required = true)]
    pub workload: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
    /// What else to run.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
}

/// A load by hand.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Send durable messages.
    #[command(after_help = "\
Examples:
  millpond bench produce                         as fast as 64 producers can, for 10 s
  millpond bench produce --rate 5000 --size 128  an open load; latency counts from when each was due")]
    Produce(BenchArgs),
    /// Pop and acknowledge what a topic holds.
    #[command(after_help = "Example: millpond bench consume --topic orders --group bench")]
    Consume(BenchArgs),
    /// Send, pop and acknowledge at once: latency from when a message was due to its receipt.
    #[command(after_help = "Example: millpond bench e2e --rate 2000 --seconds 30")]
    E2e(BenchArgs),
}

/// How much load.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// An existing topic; without one, a topic is made for the run and deleted behind it.
    #[arg(long)]
    pub topic: Option<String>,
    /// Queues of the topic made for the run; 0 for the server's default.
    #[arg(long, default_value_t = 0, value_name = "N", conflicts_with = "topic")]
    pub queues: u32,
    /// Consumer group.
    #[arg(long, default_value = "bench")]
    pub group: String,
    /// How long to produce, in seconds.
    #[arg(long, default_value_t = 10, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Messages per second in all; without it, each producer sends as soon as it has its answer.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Bytes of a body, at least 8.
    #[arg(long, default_value_t = 1024, value_name = "BYTES", value_parser = body_bytes)]
    pub size: usize,
    /// Messages per send.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = at_least_one)]
    pub batch: usize,
    /// Producers, each with one send at a time.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least_one)]
    pub producers: usize,
    /// Consumers, each with one poll at a time.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = at_least_one)]
    pub consumers: usize,
    /// Messages per poll, at most 32.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = at_least_one)]
    pub receive: usize,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=10_000).contains(&number) => Ok(number),
        _ => Err("give a number from 1 to 10000".to_owned()),
    }
}

fn body_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (8..=limits::BODY_BYTES_MAX).contains(&number) => Ok(number),
        _ => Err(format!(
            "give a number of bytes from 8 to {}",
            limits::BODY_BYTES_MAX
        )),
    }
}

/// `millpond serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millpond serve --data /var/lib/millpond --grpc 127.0.0.1:8081
  millpond serve --cold s3://bucket/prefix       with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
  AWS_ENDPOINT_URL=http://127.0.0.1:9000 AWS_ALLOW_HTTP=true millpond serve --cold s3://bucket/prefix

Stores are configured by the variables of their own tools: AWS_… for s3://, GOOGLE_… for gs://, AZURE_… for az://.
An emulator of Google's: GOOGLE_BASE_URL=http://127.0.0.1:4443 and
  GOOGLE_SERVICE_ACCOUNT_KEY='{\"disable_oauth\":true,\"client_email\":\"\",\"private_key\":\"\",\"private_key_id\":\"\"}'
An emulator of Azure's: AZURE_STORAGE_ENDPOINT=http://127.0.0.1:10000/devstoreaccount1, AZURE_ALLOW_HTTP=true,
  AZURE_STORAGE_ACCOUNT_NAME=devstoreaccount1 and its AZURE_STORAGE_ACCOUNT_KEY")]
pub struct ServeArgs {
    /// Data folder; made when it is missing.
    #[arg(long, default_value = "data", value_name = "DIR")]
    pub data: PathBuf,
    /// Where gRPC listens.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    pub grpc: SocketAddr,
    /// Where HTTP listens.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub http: SocketAddr,
    /// Fill the demo if it is not there yet.
    #[arg(long, conflicts_with = "no_demo")]
    pub demo: bool,
    /// Fill no demo; so it is unless --demo says otherwise.
    #[arg(long)]
    pub no_demo: bool,
    /// Let in everyone who can reach the ports, and allow addresses beyond loopback.
    #[arg(long)]
    pub insecure: bool,
    /// Make a topic by its first message and a group by its first poll; so it is on loopback alone.
    #[arg(long, conflicts_with = "no_auto_create")]
    pub auto_create: bool,
    /// Refuse unknown topics and groups by name; so it is beyond loopback.
    #[arg(long)]
    pub no_auto_create: bool,
    /// How the log is written: through the system's cache, past it, or as measured once on this disk.
    #[arg(long, value_enum, default_value_t = WalIo::Auto)]
    pub wal_io: WalIo,
    /// Where what leaves the log is kept as Parquet: file:///folder, s3://bucket/prefix, gs://… or az://…;
    /// in the data folder when nothing is said.
    #[arg(long, value_name = "URL")]
    pub cold: Option<String>,
    /// Bytes that the log may keep before messages are refused, such as 10GiB; what has moved to the cold tier
    /// does not count.
    #[arg(long, value_name = "SIZE", default_value = "none", value_parser = keep::size)]
    pub log_bytes_max: u64,
    /// Free bytes of the disk below which messages are refused, so that acknowledgements have room.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = keep::size)]
    pub disk_reserve: u64,
    /// How long Parquet files that were merged or let go of stay for those who read the tables, such as 2h, at most 24h;
    /// "none" removes them at once.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = keep::time)]
    pub table_grace: u64,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WalIo {
    /// As measured once on this disk, and remembered with the data.
    Auto,
    /// Through the system's cache, then a sync.
    Buffered,
    /// Past the cache, where the file system can.
    Direct,
}

impl From<WalIo> for millpond_storage::log::WalIo {
    fn from(asked: WalIo) -> Self {
        match asked {
            WalIo::Auto => Self::Auto,
            WalIo::Buffered => Self::Buffered,
            WalIo::Direct => Self::Direct,
        }
    }
}

impl Default for ServeArgs {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            grpc: SocketAddr::from(([127, 0, 0, 1], 8081)),
            http: SocketAddr::from(([127, 0, 0, 1], 8080)),
            demo: false,
            no_demo: false,
            insecure: false,
            auto_create: false,
            no_auto_create: false,
            wal_io: WalIo::Auto,
            cold: None,
            log_bytes_max: 0,
            disk_reserve: 256 * 1024 * 1024,
            table_grace: limits::TABLE_GRACE_MS_DEFAULT.unsigned_abs(),
        }
    }
}

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
  millpond topic create readings --format avro --schema-file reading.avsc")]
    Create {
        /// Name of the topic.
        name: String,
        /// What it carries.
        #[arg(long, value_enum, ignore_case = true, default_value = "normal")]
        r#type: TopicType,
        /// Number of queues.
        #[arg(long, value_name = "N")]
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
        #[arg(long, value_name = "N")]
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
What others derived of them, such as views and dead letters, are topics of their own: erase it there too. Messages that
wait for their time or the end of a transaction are not reached: cancel or end them first.")]
    Erase {
        /// Name of the topic.
        name: String,
        /// The key.
        #[arg(long, value_name = "KEY")]
        key: String,
    },
    /// Send messages: --body, or one per line of standard input.
    #[command(
        visible_alias = "send",
        after_help = "Example: echo '{\"n\":1}' | millpond topic produce orders --key customer-7"
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
    /// Whether anything is said.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.retention.is_some()
            || self.retention_bytes.is_some()
            || self.cleanup.is_some()
            || self.tombstone_retention.is_some()
            || self.table_retention.is_some()
            || self.table_retention_bytes.is_some()
            || self.lite_expiry.is_some()
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
    #[arg(long)]
    pub body: Option<String>,
    /// Equal keys share a queue and keep their order.
    #[arg(long)]
    pub key: Option<String>,
    /// Send one message without a body: it says that its key is no more.
    #[arg(long, requires = "key", conflicts_with = "body")]
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
    #[arg(long)]
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
    /// Do not acknowledge: the messages return to the group after 5 minutes.
    #[arg(long, requires = "group")]
    pub no_ack: bool,
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

/// `millpond job …`.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List continuous queries.
    #[command(visible_alias = "list")]
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Show a continuous query and how far it is.
    #[command(visible_alias = "describe")]
    Info {
        /// Name of the query.
        name: String,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Start a continuous statement.
    #[command(
        after_help = "Example: millpond job submit \"CREATE MATERIALIZED VIEW late AS \
        SELECT * FROM flights WHERE dep_delay > 60\""
    )]
    Submit {
        /// CREATE MATERIALIZED VIEW … or CREATE JOB … AS INSERT INTO ….
        sql: String,
    },
    /// Change how a continuous query is run; it stops for a moment and goes on.
    #[command(after_help = "Example: millpond job alter late --parallelism 4 --state-limit 1GiB")]
    Alter(JobAlterArgs),
    /// Let a continuous query rest until it is resumed, also over restarts of the server.
    Pause {
        /// Name of the query.
        name: String,
    },
    /// Let a continuous query go on that rests or failed.
    Resume {
        /// Name of the query.
        name: String,
    },
    /// Stop a continuous query for good.
    Cancel {
        /// Name of the query.
        name: String,
    },
}

/// `millpond job alter`: what is left out stays as it is.
#[derive(Clone, Debug, Args)]
#[group(multiple = true)]
pub struct JobAlterArgs {
    /// Name of the query.
    pub name: String,
    /// In how many lanes it is computed; "default": as its statement says, or the server sees fit.
    #[arg(long, value_name = "LANES")]
    pub parallelism: Option<String>,
    /// How much memory its state may take, such as 256MiB; "default": 512MiB.
    #[arg(long, value_name = "SIZE")]
    pub state_limit: Option<String>,
    /// How often an hour it is started over after trouble that passes; "default": 300.
    #[arg(long, value_name = "TIMES")]
    pub restarts: Option<String>,
}

/// `millpond sql`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millpond sql -c \"SELECT carrier, count(*) FROM flights GROUP BY carrier\"
  millpond sql -o csv < report.sql > report.csv")]
pub struct SqlArgs {
    /// Statements, separated by semicolons.
    #[arg(short = 'c', long = "command", value_name = "SQL")]
    pub command: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `millpond import`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Example: millpond import flights.csv --to flights --key tailnum --order-by \"time_hour, minute\"")]
pub struct ImportArgs {
    /// A .csv or .ndjson file.
    pub file: PathBuf,
    /// The topic; made with the file's columns when it is missing.
    #[arg(long, value_name = "TOPIC")]
    pub to: String,
    /// Column whose value is the message's key: equal keys keep their order.
    #[arg(long, value_name = "COLUMN")]
    pub key: Option<String>,
    /// Text that means "missing" in every column; may be repeated.
    #[arg(long = "null", value_name = "TEXT")]
    pub nulls: Vec<String>,
    /// Send the rows in this order, as behind ORDER BY; holds the whole file in memory.
    #[arg(long, value_name = "EXPR")]
    pub order_by: Option<String>,
}

/// `millpond export`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millpond export flights --to flights.parquet
  millpond export \"SELECT carrier, dest FROM flights\" --to routes.parquet")]
pub struct ExportArgs {
    /// The name of a topic, or a SELECT.
    #[arg(value_name = "TOPIC|SQL")]
    pub source: String,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Replace the file when it exists.
    #[arg(long)]
    pub force: bool,
}

/// `millpond storage …`.
#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Show how much every topic holds, in the log and in Parquet.
    #[command(visible_alias = "list")]
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Move everything durable in the log into Parquet now.
    Tier,
    /// Merge small Parquet files to large ones now.
    Compact {
        /// Only this topic.
        topic: Option<String>,
    },
    /// Check every checksum, manifest and gap; exits with 1 when something is damaged.
    #[command(after_help = "\
Examples:
  millpond storage verify                        ask the server that runs
  millpond storage verify --data ./data          check a folder that no server uses")]
    Verify {
        /// A data folder that no server uses.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Print stored records in words.
    #[command(after_help = "\
Examples:
  millpond storage dump orders 0 100             messages of queue 0 from offset 100 on
  millpond storage dump orders --data ./data     the same without a server
  millpond storage dump wal/0/00000000000000000000-0000000001.log --data ./data")]
    Dump {
        /// Name of a topic; with --data also a segment of the log, below the folder.
        what: String,
        /// Queue.
        #[arg(default_value_t = 0)]
        queue: u32,
        /// First offset.
        #[arg(default_value_t = 0)]
        from: u64,
        /// Most records.
        #[arg(long, default_value_t = 100)]
        max: u64,
        /// A data folder that no server uses.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like --property colour=blue".to_owned()),
    }
}

/// The right command for words that are wrong in a way that people often are.
#[must_use]
pub fn advice(words: &[String]) -> Option<String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let rest = |from: usize| {
        words
            .iter()
            .skip(from)
            .fold(String::new(), |mut text, word| {
                text.push(' ');
                text.push_str(word);
                text
            })
    };
    let noun = |word: &str| match word {
        "topic" | "topics" => Some("topic"),
        "group" | "groups" | "consumer-group" => Some("group"),
        "job" | "jobs" | "query" | "view" => Some("job"),
        "dlq" | "dead-letters" | "dead-letter" => Some("dlq"),
        _ => None,
    };
    let verb = |word: &str| match word {
        "create" | "add" | "new" | "make" => Some("create"),
        "ls" | "list" | "show" => Some("ls"),
        "info" | "describe" | "get" | "inspect" => Some("info"),
        "rm" | "delete" | "drop" | "remove" => Some("rm"),
        "produce" | "send" | "publish" | "put" => Some("produce"),
        "consume" | "receive" | "read" | "peek" | "tail" | "subscribe" => Some("consume"),
        _ => None,
    };
    match words.as_slice() {
        // Verb before noun, as in kubectl.
        [first, second, ..] if verb(first).is_some() && noun(second).is_some() => Some(format!(
            "millpond {} {}{}",
            noun(second)?,
            verb(first)?,
            rest(2)
        )),
        ["message" | "messages", ..] => Some(format!("millpond msg{}", rest(1))),
        ["find" | "trace", ..] => Some(format!("millpond msg{}", rest(0))),
        // A topic's verb without its noun.
        [first, ..] if matches!(verb(first), Some("produce" | "consume")) => {
            Some(format!("millpond topic {}{}", verb(first)?, rest(1)))
        }
        [first, second, ..] if noun(first).is_some() && verb(second).is_some() => {
            let command = format!("millpond {} {}{}", noun(first)?, verb(second)?, rest(2));
            let typed = format!("millpond{}", rest(0));
            (command != typed).then_some(command)
        }
        ["topics" | "groups" | "jobs"] => Some(format!("millpond {} ls", noun(words.first()?)?)),
        ["sql", statement] if statement.contains(' ') => {
            Some(format!("millpond sql -c \"{statement}\""))
        }
        ["query" | "select" | "SELECT", ..] => Some("millpond sql -c \"SELECT …\"".to_owned()),
        ["import", file, topic] if !topic.starts_with('-') => {
            Some(format!("millpond import {file} --to {topic}"))
        }
        ["import", file] if !file.starts_with('-') => {
            Some(format!("millpond import {file} --to TOPIC"))
        }
        ["export", source, file] if !file.starts_with('-') => {
            Some(format!("millpond export \"{source}\" --to {file}"))
        }
        ["export", source] if !source.starts_with('-') => {
            Some(format!("millpond export \"{source}\" --to FILE.parquet"))
        }
        ["start" | "run" | "server" | "up", ..] => Some(format!("millpond serve{}", rest(1))),
        ["tier", ..] => Some("millpond storage tier".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    fn advised(line: &str) -> Option<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        advice(&words)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_topic_type_may_be_written_in_any_case() {
        let cli = parse("millpond topic create t --type FIFO").unwrap();
        let Some(Command::Topic(TopicCommand::Create { r#type, .. })) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(r#type, TopicType::Fifo);
    }

    #[test]
    fn the_server_may_be_named_behind_the_command() {
        let cli = parse("millpond topic ls --server http://h:1").unwrap();
        assert_eq!(cli.server, "http://h:1");
    }

    #[test]
    fn nothing_at_all_means_to_serve() {
        assert!(parse("millpond").unwrap().command.is_none());
    }

    #[test]
    fn serve_without_words_means_what_its_defaults_say() {
        let Some(Command::Serve(typed)) = parse("millpond serve").unwrap().command else {
            panic!("serve");
        };
        let default = ServeArgs::default();
        assert_eq!(
            (typed.data, typed.grpc, typed.http),
            (default.data, default.grpc, default.http)
        );
        assert_eq!(
            (typed.cold, typed.log_bytes_max, typed.disk_reserve),
            (default.cold, default.log_bytes_max, default.disk_reserve)
        );
        assert_eq!(typed.table_grace, default.table_grace);
        assert!(parse("millpond serve --demo --no-demo").is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(parse("millpond topic consume t --no-ack").is_err());
        assert!(parse("millpond topic consume t --group g --from 5").is_err());
        assert!(parse("millpond topic create t --watermark x").is_err());
        assert!(parse("millpond topic alter t --retention 7").is_err());
    }

    #[test]
    fn swapped_or_forgotten_words_lead_to_the_right_command() {
        for (wrong, right) in [
            (
                "create topic orders --queues 4",
                "millpond topic create orders --queues 4",
            ),
            ("list topics", "millpond topic ls"),
            ("produce orders", "millpond topic produce orders"),
            ("topics", "millpond topic ls"),
            ("topic drop orders", "millpond topic rm orders"),
            ("messages ls orders", "millpond msg ls orders"),
            ("find orders --key k", "millpond msg find orders --key k"),
            ("import f.csv flights", "millpond import f.csv --to flights"),
            ("import f.csv", "millpond import f.csv --to TOPIC"),
            ("start --data d", "millpond serve --data d"),
        ] {
            assert_eq!(advised(wrong).as_deref(), Some(right), "{wrong}");
        }
        assert_eq!(advised("topic create"), None);
    }
}
