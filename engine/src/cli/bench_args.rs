//! Words of `millpond bench …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use millpond_proto::limits;

use crate::cli::output::Format;

/// `millpond bench …`.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Of a workload file these are obeyed: name, topics, partitionsPerTopic, keyDistributor, messageSize, payloadFile,
useRandomizedPayloads, randomBytesRatio, randomizedPayloadPoolSize, subscriptionsPerTopic,
consumerPerSubscription, producersPerTopic, producerRate (0: as fast as the producers can),
testDurationMinutes, warmupDurationMinutes. Whatever else is in it is refused by its name.

Examples:
  millpond bench --workload 1-topic-16-partitions-1kb.yaml --output json
  millpond bench --workload 1-topic-16-partitions-1kb.yaml --seconds 10      a look at it, without its minutes")]
pub struct Bench {
    /// A workload file of the OpenMessaging Benchmark to run, over topics of its own.
    #[arg(long, value_name = "FILE.yaml", required = true)]
    pub workload: Option<PathBuf>,
    /// Run the workload for so many seconds, all of which count, whatever the file says about time.
    #[arg(long, value_name = "S", requires = "workload", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,
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
