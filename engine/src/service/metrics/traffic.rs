//! What goes in and out of topics, as counters that only grow while the process lives.
//!
//! A page names [`TOPICS_MAX`] topics, those of which the most messages moved since the process started, and tells how many
//! topics there are. A million topics would be four million lines, which no Prometheus wants to fetch every few seconds; a
//! topic that is named now and then only goes on counting meanwhile, so that its rate over the gap is right.

use millpond_storage::metrics::Text;

use crate::broker::Broker;
use crate::broker::traffic::TopicTraffic;
use crate::service::metrics::work::escaped;

/// Topics that a page names.
const TOPICS_MAX: usize = 1000;

/// Name of a counter, what it counts, and where it stands.
type Counter = (&'static str, &'static str, fn(&TopicTraffic) -> u64);

const COUNTERS: [Counter; 4] = [
    (
        "rocketmq_messages_in_total",
        "messages that became durable in a topic",
        |moved| moved.stored.messages,
    ),
    (
        "rocketmq_throughput_in_total",
        "bytes of their bodies",
        |moved| moved.stored.bytes,
    ),
    (
        "rocketmq_messages_out_total",
        "messages that were handed to consumers and readers of a topic, each time that they were",
        |moved| moved.delivered.messages,
    ),
    (
        "rocketmq_throughput_out_total",
        "bytes of their bodies",
        |moved| moved.delivered.bytes,
    ),
];

/// Adds the topics.
pub(super) fn of_topics(text: &mut Text, broker: &Broker) {
    text.one(
        "millpond_topics",
        "gauge",
        "topics, also those that the page does not name",
        broker.topic_count(),
    );
    let topics = broker.traffic(TOPICS_MAX);
    for (name, what, value) in COUNTERS {
        text.family(name, "counter", what);
        for (topic, moved) in &topics {
            text.value(name, &format!("topic=\"{}\"", escaped(topic)), value(moved));
        }
    }
}
