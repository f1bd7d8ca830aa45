//! How many bodies a second of CPU time become columns: all fields, a few of them, and by the reader of Arrow.
//!
//! `cargo bench -p millpond-connectors --bench json`; bodies are bids as Nexmark has them, about 260 bytes.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench reads the clock and prints"
)]

use std::sync::Arc;
use std::time::Instant;

use arrow::array::BinaryArray;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use millpond_connectors::format::json::JsonDecoder;

const ROWS: usize = 4096;
const ROUNDS: usize = 100;

fn schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field("auction", DataType::Int64),
        field("bidder", DataType::Int64),
        field("price", DataType::Int64),
        field("channel", DataType::Utf8),
        field("url", DataType::Utf8),
        field(
            "date_time",
            DataType::Timestamp(TimeUnit::Millisecond, None),
        ),
        field("extra", DataType::Utf8),
    ]))
}

fn bodies() -> Vec<String> {
    let bodies = (0..ROWS).map(|n| {
        format!(
            "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"channel-{}\",\"url\":\
             \"https://www.nexmark.com/googl/item.htm?query=1&channel_id={}\",\"date_time\":\
             \"2013-01-01T00:{:02}:{:02}.{:03}Z\",\"extra\":\"{}\"}}",
            1000 + n % 977,
            2000 + n % 1511,
            n * 7919 % 100_000_000,
            n % 10_000,
            n * 31 % 1_000_000,
            n / 60 % 60,
            n % 60,
            n % 1000,
            "x".repeat(60)
        )
    });
    bodies.collect()
}

fn measured(name: &str, mut round: impl FnMut() -> usize) {
    round();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let rows: usize = (0..ROUNDS).map(|_| round()).sum();
    let seconds = match (cpu, cpu_seconds()) {
        (Some(before), Some(after)) => after - before,
        _ => start.elapsed().as_secs_f64(),
    };
    println!("{name:32} {:6.2} M bodies/s", rows as f64 / seconds / 1e6);
}

/// Time that this thread ran, where the system tells it; another process then takes nothing of the figure.
fn cpu_seconds() -> Option<f64> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let ns: f64 = told.split(' ').next()?.parse().ok()?;
    Some(ns / 1e9)
}

fn main() {
    let texts = bodies();
    let bytes: usize = texts.iter().map(String::len).sum();
    println!("{} bytes a body", bytes / ROWS);
    let bodies: BinaryArray = texts.iter().map(|text| Some(text.as_bytes())).collect();
    let all = JsonDecoder::new(schema());
    measured("all 7 fields", || {
        all.decode(&bodies).unwrap().batch.num_rows()
    });
    let three = JsonDecoder::new(schema())
        .with_wanted(|name| ["auction", "price", "date_time"].contains(&name));
    measured("3 of 7 fields", || {
        three.decode(&bodies).unwrap().batch.num_rows()
    });
    let none = JsonDecoder::new(schema()).with_wanted(|_| false);
    measured("checked only", || {
        none.decode(&bodies).unwrap().batch.num_rows()
    });
    let joined = texts.join("\n").into_bytes();
    measured("reader of Arrow, all fields", || {
        let mut reader = arrow::json::ReaderBuilder::new(schema())
            .with_batch_size(ROWS)
            .build_decoder()
            .unwrap();
        reader.decode(&joined).unwrap();
        reader.flush().unwrap().unwrap().num_rows()
    });
}
