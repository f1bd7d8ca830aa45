//! `millpond bench …`: load on a running server, and what it cost.
//!
//! With `--rate` the load is open: message *n* is due at *n / rate*, and its latency counts from then on,
//! so that a server which falls behind can not hide it. Without, each producer sends as soon as its last
//! answer is there: that finds the greatest throughput. Waiting goes in steps of a millisecond, and they are
//! in the latency. The CPU time is the server's own, all of it, so let nothing else run there.

pub mod load;
pub mod measure;

use std::time::Duration;

use millpond_proto::chance::{Chance as _, Entropy};
use millpond_proto::client::{Admin, Client};
use millpond_proto::limits;
use millpond_proto::wire::admin::CreateTopicRequest;

use crate::cli::args::{BenchArgs, BenchCommand};
use crate::cli::bench::load::Load;
use crate::cli::bench::measure::Measured;
use crate::cli::error::CliError;
use crate::cli::output::{Cell, Table};
use crate::cli::run::Terminal;

/// Does a command about load.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &BenchCommand,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let (BenchCommand::Produce(args) | BenchCommand::Consume(args) | BenchCommand::E2e(args)) =
        command;
    if matches!(command, BenchCommand::Consume(_)) && args.topic.is_none() {
        return Err(CliError::Usage {
            what: "there is nothing to consume in a new topic".to_owned(),
            help: "millpond bench consume --topic TOPIC --group GROUP".to_owned(),
        });
    }
    if args.batch > limits::SEND_BATCH_MAX {
        return Err(CliError::Usage {
            what: format!("a send takes at most {} messages", limits::SEND_BATCH_MAX),
            help: format!("millpond bench … --batch {}", limits::SEND_BATCH_MAX),
        });
    }
    let admin = Admin::new(client);
    let own = match &args.topic {
        Some(_) => None,
        None => Some(new_topic(&admin, args).await?),
    };
    let topic = args.topic.clone().or_else(|| own.clone());
    let load = Load::new(client, args, &topic.unwrap_or_default());
    let before = admin.describe_server().await?;
    let measured = match command {
        BenchCommand::Produce(_) => load.produce().await,
        BenchCommand::Consume(_) => load.consume().await,
        BenchCommand::E2e(_) => load.end_to_end().await,
    };
    let after = admin.describe_server().await;
    if let Some(own) = own {
        admin.delete_topic(&own).await?;
    }
    let cpu = Duration::from_millis(after?.cpu_ms.saturating_sub(before.cpu_ms));
    let measured = measured?;
    report(&measured, cpu)
        .print(args.output, terminal.out)
        .map_err(CliError::output)?;
    let errors: u64 = measured.iter().map(|(_, measured)| measured.errors).sum();
    if errors > 0 {
        terminal.say(&format!(
            "{errors} calls were refused or failed; the first one: {}",
            measured
                .iter()
                .find_map(|(_, measured)| measured.first_error.as_deref())
                .unwrap_or("not known")
        ))?;
    }
    Ok(())
}

async fn new_topic(admin: &Admin, args: &BenchArgs) -> Result<String, CliError> {
    let name = format!("bench-{:016x}", Entropy.next_u64());
    admin
        .create_topic(CreateTopicRequest {
            name: name.clone(),
            queues: args.queues,
            ..CreateTopicRequest::default()
        })
        .await?;
    Ok(name)
}

/// One row per thing measured. The server's CPU time is told per message of the first row: what the server did
/// meanwhile, it did for those.
fn report(measured: &[(&'static str, Measured)], cpu: Duration) -> Table {
    let mut table = Table::new(&[
        "what",
        "messages",
        "seconds",
        "messages_per_s",
        "mib_per_s",
        "p50_ms",
        "p99_ms",
        "p99_9_ms",
        "max_ms",
        "errors",
        "server_cpu_us_per_message",
    ]);
    for (index, (what, measured)) in measured.iter().enumerate() {
        let seconds = measured.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let number = |value: f64, digits: usize| Cell::Number(format!("{value:.digits$}"));
        let at = |quantile| number(measured.latency_ms(quantile), 2);
        let count = measured.messages as f64;
        let cpu_us = (index == 0 && measured.messages > 0 && !cpu.is_zero())
            .then(|| number(cpu.as_secs_f64() * 1e6 / count, 1));
        table.rows.push(vec![
            (*what).into(),
            measured.messages.into(),
            number(seconds, 2),
            number(count / seconds, 0),
            number(measured.bytes as f64 / seconds / 1_048_576.0, 1),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            measured.errors.into(),
            cpu_us.unwrap_or(Cell::Null),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_rates_latencies_and_the_servers_cpu_time_once() {
        let mut produced = Measured::default();
        produced.record(1000, 1000 * 1024, Duration::from_millis(4));
        produced.elapsed = Duration::from_secs(2);
        let consumed = produced.clone();
        let measured = [("produce", produced), ("end to end", consumed)];
        let table = report(&measured, Duration::from_millis(20));
        let text = |row: usize, name: &str| {
            let at = table.columns.iter().position(|c| c == name).unwrap();
            table.rows[row][at].clone()
        };
        assert_eq!(text(0, "messages_per_s"), Cell::Number("500".to_owned()));
        assert_eq!(text(0, "p99_ms"), Cell::Number("4.00".to_owned()));
        let cpu = text(0, "server_cpu_us_per_message");
        assert_eq!(cpu, Cell::Number("20.0".to_owned()));
        assert_eq!(text(1, "server_cpu_us_per_message"), Cell::Null);
    }
}
