//! The events of Nexmark, the same on every run: what is sent, in which queue, in which order.
//!
//! The generator's own shape (one person and three auctions to 46 bids, some of them hot), a little out of
//! order, fifty events a second of event time. Each topic's events take turns in its queues, so that the place of
//! an event (queue, offset) is known from the file alone, and ties can be broken by it in any engine.

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

/// 2015-07-15T00:00:00Z, as Nexmark has it.
const BASE_TIME_MS: u64 = 1_436_918_400_000;
/// Events a second of event time.
const RATE: usize = 50;
/// So many events in a row are shuffled.
const SHUFFLED: usize = 7;
/// The topics, and how many queues each has in `tests/nexmark/topics.sql`.
pub(crate) const TOPICS: [(&str, u32); 4] =
    [("person", 2), ("auction", 2), ("bid", 3), ("side_input", 1)];
/// Keys of the side topic; bids ask for some that it lacks.
const SIDE_KEYS: u64 = 90;

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Place in [`TOPICS`].
    pub(crate) topic: usize,
    /// Queue.
    pub(crate) queue: u32,
    /// Event time.
    pub(crate) at_ms: i64,
    /// JSON.
    pub(crate) body: String,
}

/// The first `count` events, and the rows of the side topic before them.
pub(crate) fn events(count: usize) -> Vec<Sent> {
    let config = NexmarkConfig {
        base_time: BASE_TIME_MS,
        first_rate: RATE,
        next_rate: RATE,
        out_of_order_group_size: SHUFFLED,
        ..NexmarkConfig::default()
    };
    let side = (0..SIDE_KEYS).map(|key| {
        let body = format!("{{\"key\":{key},\"value\":\"value-{}\"}}", key * key);
        (3, BASE_TIME_MS, body)
    });
    let generated = EventGenerator::new(config).take(count).map(|event| {
        let at_ms = event.timestamp();
        let (topic, body) = match event {
            Event::Person(person) => (0, serde_json::to_string(&person)),
            Event::Auction(auction) => (1, serde_json::to_string(&auction)),
            Event::Bid(bid) => (2, serde_json::to_string(&bid)),
        };
        (topic, at_ms, body.unwrap())
    });
    let mut turns = [0; TOPICS.len()];
    side.chain(generated)
        .map(|(topic, at_ms, body)| {
            let queue = turns[topic] % TOPICS[topic].1;
            turns[topic] += 1;
            Sent {
                topic,
                queue,
                at_ms: i64::try_from(at_ms).unwrap(),
                body,
            }
        })
        .collect()
}
