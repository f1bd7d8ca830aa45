//! A million lite topics: what an idle one takes, and how fast one more message and its delivery are decided.
//!
//! Each has a name as long as a UUID, one message, and a group that is done with it. Memory is what the process grew
//! by. All go the whole way of a shard: the decision, the record's bytes, and the record applied.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints what it measured"
)]

use std::time::Instant;

use millpond_engine::broker::lite::{LiteName, PopLite};
use millpond_engine::broker::request::{Ack, Handle, Reply, Request, Send};
use millpond_engine::broker::state::{Moment, ShardState};
use millpond_proto::message::{ShardId, queue_of};
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::Projection as _;

const COUNT: u32 = 1_000_000;
const QUEUES: u32 = 8;
const TOPIC: u64 = 8;
const GROUP: u64 = 7;
const BATCH: u32 = 32;
const PAGE_BYTES: f64 = 4096.0;

/// Bytes of this process that lie in memory; 0 where the system does not say.
fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<f64>().ok());
    pages.unwrap_or(0.0) * PAGE_BYTES
}

fn ask(state: &mut ShardState, request: Request, random: u64) -> Reply {
    let now = Timestamp(1_700_000_000_000);
    let decision = state.decide(request, Moment { now, random });
    for record in &decision.records {
        state.apply_record(record);
    }
    decision.reply
}

fn place(number: u32) -> LiteName {
    let name = format!("{number:036}");
    LiteName {
        queue: queue_of(name.as_bytes(), QUEUES).0,
        name,
    }
}

fn send(state: &mut ShardState) -> f64 {
    let started = Instant::now();
    for number in 0..COUNT {
        let name = place(number);
        let message = Envelope {
            topic: TOPIC,
            queue: name.queue,
            lite_topic: Some(name.name),
            ..Envelope::default()
        };
        let messages = vec![message];
        ask(state, Request::Send(Send { messages }), 1);
    }
    started.elapsed().as_secs_f64()
}

/// Pops and acknowledges everything.
fn consume(state: &mut ShardState) -> f64 {
    let started = Instant::now();
    let mut popped = 0;
    for first in (0..COUNT).step_by(BATCH as usize) {
        let pop = PopLite {
            group: GROUP,
            topic: TOPIC,
            names: (first..COUNT.min(first + BATCH)).map(place).collect(),
            limit: BATCH,
            invisible_ms: 60_000,
            ..PopLite::default()
        };
        let Reply::Leases(leases) = ask(state, Request::PopLite(pop), u64::from(first) + 1) else {
            continue;
        };
        let handles: Vec<Handle> = leases.leases.into_iter().map(|one| one.handle).collect();
        popped += handles.len();
        let ack = Ack {
            group: GROUP,
            topic: TOPIC,
            handles,
            frees: false,
        };
        ask(state, Request::Ack(ack), 1);
    }
    assert_eq!(popped, COUNT as usize, "every message was delivered");
    started.elapsed().as_secs_f64()
}

fn main() {
    let before = resident_bytes();
    let mut state = ShardState::restore(ShardId(1), None).expect("nothing to read");
    let made = send(&mut state);
    let consumed = consume(&mut state);
    let each = (resident_bytes() - before) / f64::from(COUNT);
    let again = send(&mut state);
    let rate = |seconds: f64| f64::from(COUNT) / seconds / 1e6;
    println!("{COUNT} lite topics, each with one message and one group that is done with it");
    println!("memory        {each:8.0} B each");
    println!("made          {:8.2} M/s", rate(made));
    println!("popped, acked {:8.2} M/s", rate(consumed));
    println!("sent again    {:8.2} M/s", rate(again));
}
