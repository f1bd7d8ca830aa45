//! What typed columns cost when messages are moved to the cold tier: CPU time and bytes at rest with and without them,
//! measured in the same run over the same messages.
//!
//! `storage/benches/cold.rs` compares tiering without them with plain zstd blocks; the two ratios multiply. Storage knows
//! no schema, so this stands above it.

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench prints what it measured"
)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_proto::message::{Term, TopicId};
use millpond_sql::topic::ColumnSpec;
use millpond_sql::typed::TypedColumns;
use millpond_storage::disk::Disk;
use millpond_storage::disk::local::LocalDisk;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::meta::embedded::EmbeddedMeta;
use millpond_storage::tier::cold::Cold;
use millpond_storage::tier::columns::{Columns, Table, Tables};
use millpond_storage::tier::objects::DiskObjectStore;
use object_store::ObjectStore;

const TOPIC: TopicId = TopicId(7);
const MESSAGES: u64 = 200_000;
/// Rounds of which the cheapest counts.
const ROUNDS: usize = 5;

fn message(offset: u64) -> Envelope {
    let word = millpond_proto::message::stable_hash(&offset.to_le_bytes());
    let body = format!(
        "{{\"id\":{offset},\"carrier\":\"{}\",\"delay\":{},\"origin\":\"{}\",\"token\":\"{word:016x}\",\
         \"note\":\"the quick brown fox jumps over the lazy dog and waits for the next flight\"}}",
        ["UA", "AA", "DL", "B6"][(word % 4) as usize],
        word % 300,
        ["EWR", "JFK", "LGA"][(word % 3) as usize],
    );
    Envelope {
        topic: TOPIC.0,
        offset,
        stored_at_ms: 1_700_000_000_000 + offset.cast_signed() / 7,
        message_id: format!("01{word:032X}"),
        body: Some(Bytes::from(body)),
        born_host: "10.0.0.7".to_owned(),
        ..Envelope::default()
    }
}

/// One topic with these columns.
#[derive(Debug)]
struct OneTable(Option<Arc<dyn Columns>>);

impl Tables for OneTable {
    fn revision(&self) -> u64 {
        1
    }

    fn table(&self, _: TopicId) -> Option<Table> {
        Some(Table {
            name: "flights".to_owned(),
            columns: self.0.clone(),
        })
    }
}

/// CPU time of this process, which is one thread.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells");
    let on_cpu = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(on_cpu.expect("a number"))
}

/// CPU time of moving the messages, and the bytes that they take.
fn tier(messages: &[Envelope], columns: Option<&Arc<dyn Columns>>) -> (Duration, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let mut best = (Duration::MAX, 0);
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("a folder");
        let disk: Arc<dyn Disk> = Arc::new(LocalDisk::open(folder.path()).expect("a disk"));
        let objects: Arc<dyn ObjectStore> =
            Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects"));
        let meta = Arc::new(EmbeddedMeta::open(disk, "facts").expect("a store"));
        runtime.block_on(async {
            let cold = Cold::open(objects, meta, Term(1)).await.expect("opens");
            cold.set_tables(None, Arc::new(OneTable(columns.cloned())));
            let start = cpu_time();
            cold.write(TOPIC, messages, &[]).await.expect("writes");
            let took = cpu_time().saturating_sub(start);
            if took < best.0 {
                best = (took, cold.sizes(TOPIC).bytes);
            }
        });
    }
    best
}

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // A test of all targets: there is nothing to measure.
    }
    let messages: Vec<Envelope> = (0..MESSAGES).map(message).collect();
    let column = |(name, sql_type): (&str, &str)| ColumnSpec {
        name: name.to_owned(),
        sql_type: sql_type.to_owned(),
        expression: None,
    };
    let columns = [
        ("id", "BIGINT"),
        ("carrier", "VARCHAR"),
        ("delay", "INTEGER"),
        ("origin", "VARCHAR"),
        ("token", "VARCHAR"),
    ];
    let columns: Vec<ColumnSpec> = columns.map(column).into();
    let typed = TypedColumns::of(&columns).expect("columns");
    let typed: Arc<dyn Columns> = Arc::new(typed.expect("there are some"));
    let (without, bytes) = tier(&messages, None);
    let (with, typed_bytes) = tier(&messages, Some(&typed));
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "tiering {:.0} ms of CPU, with 5 typed columns {:.0} ms: ratio {:.2}",
        ms(without),
        ms(with),
        ms(with) / ms(without)
    );
    println!(
        "at rest {bytes} bytes, with 5 typed columns {typed_bytes}: ratio {:.2}",
        typed_bytes as f64 / bytes as f64
    );
}
