//! Lesson 2: real flights as messages, keyed by aircraft, and SQL over them.
//!
//! Reads `examples/data/flights.csv`, or the file that `FLIGHTS_CSV` names. Prints how many were sent and
//! how many SQL counts. The command line does the same with
//! `millpond import flights.csv --to flights --key tailnum --null NA`.

use std::io::Write as _;

use millpond_examples::{Lesson, connect, execute, forget_topic};
use millpond_proto::client::{OutgoingMessage, Producer};
use serde_json::{Map, Value};

const TOPIC: &str = "lesson_flights";
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/flights.csv");
const BATCH: usize = 256;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    forget_topic(&client, TOPIC).await?;
    // The columns that SQL sees; the bodies may hold more.
    let create = format!(
        "CREATE TOPIC {TOPIC} (carrier TEXT, tailnum TEXT, origin TEXT, dest TEXT, dep_delay BIGINT)"
    );
    execute(&client, &create).await?;

    let path = std::env::var("FLIGHTS_CSV").unwrap_or_else(|_| SAMPLE.to_owned());
    let text = std::fs::read_to_string(path)?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let producer = Producer::new(&client);
    let mut sent = 0;
    let mut batch = Vec::with_capacity(BATCH);
    for line in lines {
        batch.push(flight(&header, line));
        if batch.len() == BATCH {
            sent += send(&producer, std::mem::take(&mut batch)).await?;
        }
    }
    sent += send(&producer, batch).await?;
    writeln!(out, "sent {sent} flights, one message each")?;

    let carriers =
        format!("SELECT carrier, count(*), avg(dep_delay) FROM {TOPIC} GROUP BY carrier");
    let summary = execute(&client, &carriers).await?;
    writeln!(out, "{} (one row per carrier)", summary.command)?;
    writeln!(out, "see them with: millpond sql -c \"{carriers}\"")?;
    Ok(())
}

/// This file quotes nothing, so a comma always separates; `millpond import` knows the whole format.
fn flight(header: &[&str], line: &str) -> OutgoingMessage {
    let fields = header.iter().zip(line.split(','));
    let known = fields.filter(|(_, value)| *value != "NA");
    let body: Map<String, Value> = known
        .map(|(name, value)| {
            let number = value.parse::<i64>().map(Value::from);
            ((*name).to_owned(), number.unwrap_or_else(|_| value.into()))
        })
        .collect();
    // Flights of one aircraft share a queue, so they stay in order.
    let key = body
        .get("tailnum")
        .and_then(Value::as_str)
        .map(str::to_owned);
    OutgoingMessage {
        key,
        ..OutgoingMessage::new(Value::Object(body).to_string())
    }
}

async fn send(
    producer: &Producer,
    batch: Vec<OutgoingMessage>,
) -> Result<usize, Box<dyn std::error::Error>> {
    let mut sent = 0;
    for result in producer.send_batch(TOPIC, batch).await? {
        result?;
        sent += 1;
    }
    Ok(sent)
}
