//! The words of the command line; those of larger commands have files of their own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millpond_connectors::import::ImportFormat;

use crate::cli::bench_args::Bench;
use crate::cli::group_args::{DlqCommand, GroupCommand};
use crate::cli::msg_args::MsgCommand;
use crate::cli::output::Format;
use crate::cli::savepoint::SavepointCommand;
use crate::cli::serve_args::ServeArgs;
use crate::cli::shelf::{DelayCommand, TransactionCommand};
use crate::cli::topic_args::TopicCommand;

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
    /// The server to talk to: its gRPC address [env: MILLPOND_SERVER] [default: http://127.0.0.1:8081].
    // Read by `server()`: what the environment gives counts as typed for clap, and would be in every line of usage.
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// The server that was typed, or else that of the environment, or the usual one.
    #[must_use]
    pub fn server(&self, from_environment: Option<String>) -> String {
        let typed = self.server.clone();
        let named = typed.or(from_environment.filter(|url| !url.is_empty()));
        named.unwrap_or_else(|| SERVER_DEFAULT.to_owned())
    }
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
        #[arg(allow_hyphen_values = true)]
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
    /// Keep the state of a job under a name, list such states, drop one.
    #[command(subcommand)]
    Savepoint(SavepointCommand),
    /// Stop a continuous query for good: a view goes with its topic and its rows, late ones included; what a job wrote stays.
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
    #[arg(
        short = 'c',
        long = "command",
        value_name = "SQL",
        allow_hyphen_values = true
    )]
    pub command: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `millpond import`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millpond import flights.csv --to flights --key tailnum --order-by \"time_hour, minute\"
  millpond import prices.txt --to prices --format csv --delimiter ';'
  zcat orders.ndjson.gz | millpond import - --to orders --format ndjson

Into a topic with a PRIMARY KEY the keys follow from it, as with INSERT: a row replaces the one with its key.")]
pub struct ImportArgs {
    /// A .csv, .tsv, .ndjson or .json file (an object per line); - for standard input.
    pub file: PathBuf,
    /// The topic; made with the file's columns when it is missing.
    #[arg(long, value_name = "TOPIC")]
    pub to: String,
    /// Column whose value is the message's key: equal keys keep their order. A primary key tells it by itself.
    #[arg(long, value_name = "COLUMN")]
    pub key: Option<String>,
    /// What the file holds, where its name does not say it.
    #[arg(long, value_enum, ignore_case = true)]
    pub format: Option<FileFormat>,
    /// What stands between the values of a line, such as ';' or '\t'; a comma or a tab, as the format says.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    pub delimiter: Option<u8>,
    /// Text that means "missing" in every column; may be repeated.
    #[arg(long = "null", value_name = "TEXT")]
    pub nulls: Vec<String>,
    /// Send the rows in this order, as behind ORDER BY; holds the whole file in memory.
    #[arg(long, value_name = "EXPR")]
    pub order_by: Option<String>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// Comma-separated values with a header line.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// A JSON object per line.
    Ndjson,
}

impl From<FileFormat> for ImportFormat {
    fn from(typed: FileFormat) -> Self {
        match typed {
            FileFormat::Csv => Self::Csv,
            FileFormat::Tsv => Self::Tsv,
            FileFormat::Ndjson => Self::NdJson,
        }
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err("write one character, like --delimiter ';'".to_owned()),
    }
}

/// `millpond export`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  millpond export flights --to flights.parquet
  millpond export \"SELECT carrier, dest FROM flights\" --to routes.parquet")]
pub struct ExportArgs {
    /// The name of a topic, or a SELECT.
    #[arg(value_name = "TOPIC|SQL", allow_hyphen_values = true)]
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::topic_args::TopicType;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
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
    fn texts_may_begin_with_a_dash() {
        let comment = "-- a note\nSELECT 1";
        let cli = Cli::try_parse_from(["millpond", "sql", "-c", comment]).unwrap();
        let Some(Command::Sql(args)) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(args.command.as_deref(), Some(comment));
        let export = [
            "millpond",
            "export",
            comment,
            "--to",
            "f.parquet",
            "--force",
        ];
        let cli = Cli::try_parse_from(export).unwrap();
        let Some(Command::Export(args)) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!((args.source.as_str(), args.force), (comment, true));
        let submit = ["millpond", "job", "submit", comment, "--server", "http://x"];
        let cli = Cli::try_parse_from(submit).unwrap();
        let Some(Command::Job(JobCommand::Submit { sql })) = cli.command else {
            panic!("{cli:?}");
        };
        assert_eq!(sql, comment);
        let cli = parse("millpond topic produce t --body -5 --key -k --tag -").unwrap();
        let Some(Command::Topic(TopicCommand::Produce(args))) = cli.command else {
            panic!("{cli:?}");
        };
        let texts = [args.body, args.key, args.tag];
        assert_eq!(texts.map(Option::unwrap), ["-5", "-k", "-"]);
    }

    #[test]
    fn lists_are_no_longer_than_what_is_held_for_them() {
        for (line, most) in [
            ("millpond group inflight g --limit", 1024),
            ("millpond dlq ls g --limit", 1024),
            ("millpond tx ls --limit", 1_000_000),
            ("millpond delay ls --limit", 1_000_000),
        ] {
            assert!(parse(&format!("{line} {most}")).is_ok(), "{line}");
            assert!(parse(&format!("{line} {}", most + 1)).is_err(), "{line}");
        }
    }

    #[test]
    fn a_delimiter_is_one_character() {
        let typed = |text: &str| {
            let line = ["millpond", "import", "-", "--to", "t", "--delimiter", text];
            match Cli::try_parse_from(line).ok()?.command? {
                Command::Import(args) => args.delimiter,
                _ => None,
            }
        };
        assert_eq!([typed(";"), typed("\\t")], [Some(b';'), Some(b'\t')]);
        for wrong in ["", ";;", "\"", "\n"] {
            assert_eq!(typed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_server_may_be_named_behind_the_command() {
        let cli = parse("millpond topic ls --server http://h:1").unwrap();
        assert_eq!(cli.server(Some("http://e:1".to_owned())), "http://h:1");
        let cli = parse("millpond topic ls").unwrap();
        assert_eq!(cli.server(Some("http://e:1".to_owned())), "http://e:1");
        assert_eq!(cli.server(Some(String::new())), SERVER_DEFAULT);
        assert_eq!(cli.server(None), SERVER_DEFAULT);
    }

    #[test]
    fn usage_names_the_choice_there_is() {
        for (line, choice) in [
            (
                "millpond group reset g --topic t",
                "<--to <earliest|latest|TIME>|--offset <OFFSET>|--skip <SKIP>>",
            ),
            ("millpond msg find t", "<--id <ID>|--key <KEY>>"),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(choice), "{said}");
            assert!(!said.contains("--server"), "{said}");
        }
        assert!(parse("millpond group reset g --topic t --skip 1 --offset 2").is_err());
        assert!(parse("millpond msg find t --id a --key b").is_err());
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
        assert_eq!(typed.tail_cache, default.tail_cache);
        assert!(parse("millpond serve --demo --no-demo").is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(parse("millpond topic consume t --no-ack").is_err());
        assert!(parse("millpond topic consume t --group g --from 5").is_err());
        assert!(parse("millpond topic create t --watermark x").is_err());
        assert!(parse("millpond topic alter t --retention 7").is_err());
    }
}
