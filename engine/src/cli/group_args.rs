//! Words of `millpond group …` and `millpond dlq …`, and what they mean.

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use clap::{ArgGroup, Args, Subcommand};
use millpond_proto::wire::admin::Backoff;

use crate::cli::output::Format;

/// `millpond group …`.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List consumer groups.
    #[command(visible_alias = "list")]
    Ls {
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Show where a group stands in each queue.
    #[command(visible_alias = "describe")]
    Info {
        /// Name of the group.
        name: String,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Make a group; a consumer's first poll makes it with every setting at its default.
    #[command(
        after_help = "Example: millpond group create billing --start latest --attempts 5 --backoff 1s,10s,1m"
    )]
    Create {
        /// Name of the group.
        name: String,
        /// What is set.
        #[command(flatten)]
        settings: GroupSettings,
    },
    /// Change a group; what is not named stays as it is.
    Alter {
        /// Name of the group.
        name: String,
        /// What is set.
        #[command(flatten)]
        settings: GroupSettings,
    },
    /// Put a group elsewhere in a topic; what its consumers hold there is let go.
    #[command(
        after_help = "Example: millpond group reset billing --topic orders --to 2026-05-01T00:00:00Z"
    )]
    Reset(ResetArgs),
    /// Let a group stand where another one stands; it is made when there is none.
    Clone {
        /// The group that is copied.
        from: String,
        /// The group that is set.
        to: String,
    },
    /// Deliver nothing to a group until it is resumed.
    Pause {
        /// Name of the group.
        name: String,
    },
    /// Deliver to a group again.
    Resume {
        /// Name of the group.
        name: String,
    },
    /// Show what consumers of a group hold: who, since when, until when, which attempt.
    #[command(visible_alias = "in-flight")]
    Inflight {
        /// Name of the group.
        name: String,
        /// Most messages.
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
        limit: u32,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Delete a group and its progress.
    #[command(visible_alias = "delete")]
    Rm {
        /// Name of the group.
        name: String,
    },
}

/// What can be set of a group.
#[derive(Clone, Debug, Args)]
pub struct GroupSettings {
    /// Where it starts in queues that it has not read: earliest, latest or a time.
    #[arg(long, value_name = "earliest|latest|TIME", value_parser = place)]
    pub start: Option<Place>,
    /// Deliveries before a message goes to the dead letters; 0 for the server's default.
    #[arg(long, value_name = "N")]
    pub attempts: Option<u32>,
    /// Pauses after failed deliveries: a list (1s,10s,1m), FIRST..LONGEST (5s..2h, doubling), or default.
    #[arg(long, value_parser = backoff)]
    pub backoff: Option<Backoff>,
    /// Whether push consumers are told to work in order, whatever the topic.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub fifo: Option<bool>,
    /// Read the lite topics of this parent, and no whole topics; fixed when the group is made.
    #[arg(long, value_name = "TOPIC")]
    pub lite: Option<String>,
    /// Of lite topics: whether each has one listener at a time, the last one that asked.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true")]
    pub exclusive: Option<bool>,
}

/// `millpond group reset`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(["to", "offset", "skip"]))]
pub struct ResetArgs {
    /// Name of the group.
    pub name: String,
    /// Topic.
    #[arg(long)]
    pub topic: String,
    /// One queue; without it, all of them.
    #[arg(long)]
    pub queue: Option<u32>,
    /// earliest, latest, or the first message stored at or after a time.
    #[arg(long, value_name = "earliest|latest|TIME", value_parser = place)]
    pub to: Option<Place>,
    /// An offset; moved to the nearest one that is kept.
    #[arg(long)]
    pub offset: Option<u64>,
    /// So many messages further than the oldest that is not acknowledged.
    #[arg(long)]
    pub skip: Option<u64>,
}

/// `millpond dlq …`.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List a group's dead letters.
    #[command(visible_alias = "list")]
    Ls {
        /// Name of the group.
        group: String,
        /// Most letters.
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
        limit: u32,
        /// How to print.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Deliver dead letters to the group once more, where they came from.
    #[command(after_help = "Example: millpond dlq redrive billing --id 01A2B3")]
    Redrive(SettleArgs),
    /// Be done with dead letters.
    Purge(SettleArgs),
}

/// Which dead letters.
#[derive(Clone, Debug, Args)]
pub struct SettleArgs {
    /// Name of the group.
    pub group: String,
    /// Message id; may be repeated. Without it, all of them.
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// How to print the outcomes.
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// An end of a queue, or a time.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// The first message kept.
    Earliest,
    /// Behind the last one.
    Latest,
    /// A time.
    At(prost_types::Timestamp),
}

fn place(text: &str) -> Result<Place, String> {
    match text {
        "earliest" => Ok(Place::Earliest),
        "latest" => Ok(Place::Latest),
        other => match time(other) {
            Ok(at) => Ok(Place::At(at)),
            Err(error) => Err(format!("{error}, earliest or latest")),
        },
    }
}

/// Reads a time.
pub(super) fn time(text: &str) -> Result<prost_types::Timestamp, String> {
    let nanos = string_to_timestamp_nanos(text)
        .map_err(|_| format!("{text:?} is no time; write 2026-05-01T12:00:00Z"))?;
    let below_second = i32::try_from(nanos.rem_euclid(1_000_000_000));
    Ok(prost_types::Timestamp {
        seconds: nanos.div_euclid(1_000_000_000),
        nanos: below_second.unwrap_or(0),
    })
}

fn backoff(text: &str) -> Result<Backoff, String> {
    if text == "default" {
        return Ok(Backoff::default());
    }
    if let Some((first, longest)) = text.split_once("..") {
        let (initial_ms, max_ms) = (duration_ms(first)?, duration_ms(longest)?);
        if max_ms < initial_ms {
            return Err(format!(
                "the longest pause, {longest}, is shorter than the first, {first}; write FIRST..LONGEST, like 5s..2h"
            ));
        }
        return Ok(Backoff {
            initial_ms,
            max_ms,
            multiplier: 2.0,
            ..Backoff::default()
        });
    }
    let list_ms: Result<Vec<i64>, String> = text.split(',').map(duration_ms).collect();
    Ok(Backoff {
        list_ms: list_ms?,
        ..Backoff::default()
    })
}

fn duration_ms(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    let count: Option<i64> = digits.parse().ok().filter(|_| unit_ms > 0);
    count
        .and_then(|count| count.checked_mul(unit_ms))
        .ok_or_else(|| format!("{text:?} is no duration; write 500ms, 10s, 5m or 2h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoffs_are_lists_or_ranges() {
        assert_eq!(
            backoff("1s,500ms, 2h").unwrap().list_ms,
            [1000, 500, 7_200_000]
        );
        let doubling = backoff("5s..2m").unwrap();
        assert_eq!((doubling.initial_ms, doubling.max_ms), (5000, 120_000));
        assert_eq!(backoff("default").unwrap(), Backoff::default());
        assert!(backoff("5").unwrap_err().contains("10s"));
        assert!(backoff("ä").is_err());
        let shrinks = backoff("10s..1s").unwrap_err();
        assert!(shrinks.contains("FIRST..LONGEST"), "{shrinks}");
        assert!(backoff("1s..1s").is_ok());
    }

    #[test]
    fn places_are_ends_or_times() {
        assert_eq!(place("latest"), Ok(Place::Latest));
        let at = prost_types::Timestamp {
            seconds: 1_767_225_600,
            nanos: 500_000_000,
        };
        assert_eq!(place("2026-01-01T00:00:00.5Z"), Ok(Place::At(at)));
        assert!(place("soon").unwrap_err().contains("latest"));
    }
}
