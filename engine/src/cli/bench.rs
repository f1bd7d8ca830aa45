//! `millpond bench …`: load on a running server, and what it cost.
//!
//! With `--rate` the load is open: message *n* is due at *n / rate*, and its latency counts from then on,
//! so that a server which falls behind can not hide it. Without, each producer sends as soon as its last
//! answer is there: that finds the greatest throughput. Waiting goes in steps of a millisecond, and they are
//! in the latency. The CPU time is the server's own, all of it, so let nothing else run there.

pub mod load;
pub mod measure;
pub mod plan;
pub mod workload;

use std::time::Duration;

use millpond_proto::chance::{Chance as _, Entropy};
use millpond_proto::client::{Admin, Client};
use millpond_proto::limits;
use millpond_proto::time::{Clock as _, SystemClock};
use millpond_proto::wire::admin::CreateTopicRequest;

use crate::cli::bench::load::Load;
use crate::cli::bench::measure::Measured;
use crate::cli::bench::plan::Plan;
use crate::cli::bench::workload::Workload;
use crate::cli::bench_args::{Bench, BenchCommand};
use crate::cli::error::CliError;
use crate::cli::output::{Cell, Format, Table};
use crate::cli::run::Terminal;

/// Does a command about load.
///
/// # Errors
/// [`CliError`].
pub async fn run(
    client: &Client,
    command: &Bench,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    match (&command.workload, &command.command) {
        (Some(path), _) => {
            let workload = Workload::read(path)?.lasting(command.seconds);
            run_workload(client, workload, command.output, terminal).await
        }
        (None, Some(command)) => run_command(client, command, terminal).await,
        (None, None) => Err(CliError::Usage {
            what: "there is no load to put on the server".to_owned(),
            help: "millpond bench produce, or millpond bench --workload FILE.yaml".to_owned(),
        }),
    }
}

async fn run_command(
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
        None => {
            let name = format!("bench-{:016x}", Entropy.next_u64());
            create(&admin, &name, args.queues).await?;
            Some(name)
        }
    };
    let topic = args.topic.as_ref().or(own.as_ref());
    let known = admin.describe_group(&args.group).await;
    let is_new_group = known.is_err_and(|error| error.is_not_found());
    let load = Load::new(client, Plan::of(args, topic.map_or("", String::as_str)));
    let before = cpu(&admin).await?;
    let measured = match command {
        BenchCommand::Produce(_) => load.produce().await,
        BenchCommand::Consume(_) => load.consume().await,
        BenchCommand::E2e(_) => load.end_to_end().await,
    };
    let after = cpu(&admin).await;
    if let Some(own) = own {
        admin.delete_topic(&own).await?;
        if is_new_group {
            // A run that only sends has made none.
            let _ = admin.delete_group(&args.group).await;
        }
    }
    tell(
        &measured?,
        after?.saturating_sub(before),
        args.output,
        terminal,
    )
}

/// Runs a workload over topics and groups that are made for it and deleted behind it.
async fn run_workload(
    client: &Client,
    workload: Workload,
    output: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    let admin = Admin::new(client);
    let plan = workload.plan;
    terminal.say(&format!(
        "{}: {} topics, {} producers, {} consumers; {} s before anything counts, then {} s",
        workload.name,
        plan.topics.len(),
        plan.all_producers(),
        plan.all_consumers(),
        plan.warm_up.as_secs(),
        plan.time.as_secs(),
    ))?;
    let ran = async {
        for topic in &plan.topics {
            create(&admin, topic, workload.queues).await?;
        }
        let load = Load::new(client, plan.clone());
        let measured = async {
            match plan.groups.is_empty() {
                true => load.produce().await,
                false => load.end_to_end().await,
            }
        };
        let before = async {
            SystemClock.sleep(plan.warm_up).await;
            cpu(&admin).await
        };
        let (measured, before) = tokio::join!(measured, before);
        let after = cpu(&admin).await?;
        Ok::<_, CliError>((measured?, after.saturating_sub(before?)))
    };
    let ran = ran.await;
    for topic in &plan.topics {
        let _ = admin.delete_topic(topic).await;
    }
    for group in &plan.groups {
        let _ = admin.delete_group(group).await;
    }
    let (measured, cpu) = ran?;
    tell(&measured, cpu, output, terminal)
}

/// CPU time that the server has used.
async fn cpu(admin: &Admin) -> Result<Duration, CliError> {
    Ok(Duration::from_millis(admin.describe_server().await?.cpu_ms))
}

fn tell(
    measured: &[(&'static str, Measured)],
    cpu: Duration,
    output: Format,
    terminal: &mut Terminal<'_>,
) -> Result<(), CliError> {
    report(measured, cpu)
        .print(output, terminal.out)
        .map_err(CliError::output)?;
    let errors: u64 = measured.iter().map(|(_, measured)| measured.errors).sum();
    if errors > 0 {
        let mut first = measured.iter();
        let first = first.find_map(|(_, measured)| measured.first_error.as_deref());
        terminal.say(&format!(
            "{errors} calls were refused or failed; the first one: {}",
            first.unwrap_or("not known")
        ))?;
    }
    Ok(())
}

async fn create(admin: &Admin, name: &str, queues: u32) -> Result<(), CliError> {
    admin
        .create_topic(CreateTopicRequest {
            name: name.to_owned(),
            queues,
            ..CreateTopicRequest::default()
        })
        .await?;
    Ok(())
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
