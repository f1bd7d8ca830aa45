//! Ten million messages in flight: what they take, and how fast they are acknowledged on one core.
//!
//! Ten queues of one group hold a million messages each, popped by 32. Memory is what the process grew
//! by. Acknowledging goes the whole way of a shard: the decision on 32 handles, the record's bytes, and
//! the record applied; once batch by batch as consumers do, once with the messages of a thousand batches
//! mixed.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a bench reads the clock and prints what it measured"
)]

use std::time::Instant;

use millpond_engine::broker::consume::{Consumed, Ends};
use millpond_engine::broker::record::{Change, Holder};
use millpond_engine::broker::request::{Ack, Handle, Pop, Reply};
use millpond_engine::broker::state::{Decision, Moment};
use millpond_proto::time::Timestamp;
use millpond_storage::log::Record;

const QUEUES: u32 = 10;
const PER_QUEUE: u64 = 1_000_000;
const BATCH: u32 = 32;
const GROUP: u64 = 7;
const TOPIC: u64 = 8;
const PAGE_BYTES: f64 = 4096.0;
const MIB: f64 = 1024.0 * 1024.0;

/// Bytes of this process that lie in memory; 0 where the system does not say.
fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or(0.0) * PAGE_BYTES
}

fn ends() -> Ends {
    let queues = 0..QUEUES;
    queues.map(|queue| ((TOPIC, queue), PER_QUEUE)).collect()
}

fn apply(consumed: &mut Consumed, ends: &Ends, decision: Decision) -> Reply {
    for record in &decision.records {
        if let Record::State(bytes) = record {
            let change = Change::from_bytes(bytes).expect("made a moment ago");
            let _ = consumed.apply(change, ends);
        }
    }
    decision.reply
}

/// Batches by the clock, each under a lease that looks like chance.
fn pop_all(consumed: &mut Consumed) -> Vec<Vec<Handle>> {
    let ends = ends();
    let mut batches = Vec::new();
    let mut moment = Moment {
        now: Timestamp(1_700_000_000_000),
        random: 1,
    };
    for round in 0..PER_QUEUE / u64::from(BATCH) {
        for queue in 0..QUEUES {
            moment.random = moment
                .random
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .wrapping_add(1);
            let pop = Pop {
                group: GROUP,
                topic: TOPIC,
                queues: vec![queue],
                limit: BATCH,
                invisible_ms: 60_000,
                holder: Some(Holder {
                    consumer: format!("consumer-{}", round % 100),
                    ..Holder::default()
                }),
                ..Pop::default()
            };
            let decision = consumed.decide_pop(&pop, &ends, moment);
            if let Reply::Leases(leases) = apply(consumed, &ends, decision) {
                // Collected in place they would keep the larger room of the leases.
                let mut handles = Vec::with_capacity(leases.leases.len());
                handles.extend(leases.leases.iter().map(|lease| lease.handle.clone()));
                batches.push(handles);
            }
        }
        moment.now = Timestamp(moment.now.as_ms() + i64::from(round % 4 == 0));
    }
    batches
}

fn ack_all(consumed: &mut Consumed, batches: Vec<Vec<Handle>>, now: Timestamp) -> f64 {
    let asked: Vec<Ack> = batches
        .into_iter()
        .map(|handles| Ack {
            group: GROUP,
            topic: TOPIC,
            handles,
            frees: false,
        })
        .collect();
    let count: usize = asked.iter().map(|ack| ack.handles.len()).sum();
    let ends = ends();
    let began = Instant::now();
    for ack in &asked {
        let decision = consumed.decide_ack(ack, now);
        apply(consumed, &ends, decision);
    }
    count as f64 / began.elapsed().as_secs_f64()
}

/// The messages of a thousand batches of a queue dealt out in turns.
fn mixed(batches: Vec<Vec<Handle>>) -> Vec<Vec<Handle>> {
    let mut by_queue: Vec<Vec<Vec<Handle>>> = (0..QUEUES).map(|_| Vec::new()).collect();
    for batch in batches {
        if let Some(queue) = batch.first().map(|handle| handle.queue as usize) {
            by_queue[queue].push(batch);
        }
    }
    let mut mixed = Vec::new();
    for batches in by_queue {
        for thousand in batches.chunks(1000) {
            let all: Vec<&Handle> = thousand.iter().flatten().collect();
            let size = all.len().div_ceil(BATCH as usize);
            let deal = |first: usize| all.iter().skip(first).step_by(size);
            mixed.extend((0..size).map(|first| deal(first).map(|&h| h.clone()).collect()));
        }
    }
    mixed
}

fn main() {
    let now = Timestamp(1_700_000_000_000);
    for (name, mix) in [("batch by batch", false), ("mixed", true)] {
        let before = resident_bytes();
        let mut consumed = Consumed::default();
        let began = Instant::now();
        let batches = pop_all(&mut consumed);
        let popped: usize = batches.iter().map(Vec::len).sum();
        let pop_rate = popped as f64 / began.elapsed().as_secs_f64();
        // The handles are the consumers' and not the broker's.
        let handle_bytes = (popped * size_of::<Handle>()) as f64;
        let batch_bytes = (batches.len() * (size_of::<Vec<Handle>>() + 16)) as f64;
        let bytes = resident_bytes() - before - handle_bytes - batch_bytes;
        // Only the first round grows the process by what it needs; the second finds room that was freed.
        if !mix {
            println!(
                "{popped} in flight: {:.1} MiB, {:.1} bytes each",
                bytes / MIB,
                bytes / popped as f64
            );
        }
        println!("popped by {BATCH}: {:.2} M/s on one core", pop_rate / 1e6);
        let batches = if mix { mixed(batches) } else { batches };
        let rate = ack_all(&mut consumed, batches, now);
        println!("acknowledged {name}: {:.2} M/s on one core", rate / 1e6);
    }
}
