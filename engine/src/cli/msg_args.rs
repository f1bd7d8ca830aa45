//! Words of `millpond msg …`, and what they mean.

use clap::{ArgGroup, Args, Subcommand};

use crate::cli::group_args::time;
use crate::cli::output::Format;

/// `millpond msg …`.
#[derive(Debug, Subcommand)]
pub enum MsgCommand {
    /// Find messages by id or key.
    #[command(after_help = "\
Examples:
  millpond msg find orders --id 01A2B3
  millpond msg find orders --key order-17 --since 2026-05-01T12:00:00Z")]
    Find(FindArgs),
    /// List messages, by time and filter.
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  millpond msg ls orders --since 2026-05-01T12:00:00Z --until 2026-05-01T13:00:00Z
  millpond msg ls orders --filter \"country = 'DE' AND amount > 100\""
    )]
    Ls(WhereArgs),
    /// Show one message, with its body.
    #[command(after_help = "Example: millpond msg get orders 3:1042")]
    Get(PlaceArgs),
    /// Tell what became of a message: each delivery, and why it came back.
    #[command(after_help = "Example: millpond msg trace orders 3:1042 --group billing")]
    Trace(TraceArgs),
}

/// Where to look: `millpond msg ls`.
#[derive(Clone, Debug, Args)]
pub struct WhereArgs {
    /// Topic.
    pub topic: String,
    /// One queue; without it, all of them.
    #[arg(long)]
    pub queue: Option<u32>,
    /// Stored at or after.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<prost_types::Timestamp>,
    /// Stored before.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<prost_types::Timestamp>,
    /// A condition on properties, in SQL92.
    #[arg(long, value_name = "SQL")]
    pub filter: Option<String>,
    /// Tags: a, or a || b.
    #[arg(long, value_name = "TAGS", conflicts_with = "filter")]
    pub tag: Option<String>,
    /// Most messages.
    #[arg(long, default_value_t = 32)]
    pub limit: u32,
    /// Go on where an earlier answer stopped.
    #[arg(long, value_name = "QUEUE:OFFSET", value_parser = place)]
    pub from: Option<(u32, u64)>,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `millpond msg find`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("by").required(true).args(["id", "key"]))]
pub struct FindArgs {
    /// The producer's message id.
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// One of the message's keys.
    #[arg(long)]
    pub key: Option<String>,
    /// Where to look.
    #[command(flatten)]
    pub within: WhereArgs,
}

/// `millpond msg get`.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// Topic.
    pub topic: String,
    /// Which message; find it with: millpond msg find.
    #[arg(value_name = "QUEUE:OFFSET", value_parser = place)]
    pub place: (u32, u64),
    /// How to print.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `millpond msg trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// Which message.
    #[command(flatten)]
    pub message: PlaceArgs,
    /// One group; without it, all of them.
    #[arg(long)]
    pub group: Option<String>,
}

fn place(text: &str) -> Result<(u32, u64), String> {
    let numbers = text.split_once(':');
    let numbers =
        numbers.and_then(|(queue, offset)| Some((queue.parse().ok()?, offset.parse().ok()?)));
    numbers.ok_or_else(|| format!("{text:?} is no place; write QUEUE:OFFSET, like 3:1042"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_queue_and_an_offset() {
        assert_eq!(place("3:1042"), Ok((3, 1042)));
        for wrong in ["3", "3:", ":4", "a:b", "3:-1"] {
            assert!(place(wrong).unwrap_err().contains("3:1042"), "{wrong}");
        }
    }
}
