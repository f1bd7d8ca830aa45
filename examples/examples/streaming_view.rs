//! Lesson 3: a continuous view counts orders per minute while they arrive.
//!
//! Prints each row of the view's changelog: the view is a topic too, so it is received like any other.
//! A row is the newest state of its window; a later row of the same window replaces it.

use std::io::Write as _;
use std::time::Duration;

use millpond_examples::{Lesson, begin_anew, connect, execute};
use millpond_proto::client::{Admin, OutgoingMessage, Producer, SimpleConsumer};

const TOPIC: &str = "lesson_orders";
const VIEW: &str = "lesson_orders_per_minute";
const ORDERS: [(&str, u32); 4] = [
    ("2026-01-01T10:00:05Z", 20),
    ("2026-01-01T10:00:40Z", 5),
    ("2026-01-01T10:01:10Z", 7),
    ("2026-01-01T10:00:59Z", 1), // Late, but within the five minutes that the topic allows.
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    let admin = Admin::new(&client);
    begin_anew(&client, &[VIEW], &[TOPIC]).await?;
    execute(
        &client,
        &format!(
            "CREATE TOPIC {TOPIC} (at TIMESTAMP, amount BIGINT, \
             WATERMARK FOR at AS at - INTERVAL '5 minutes')"
        ),
    )
    .await?;
    let view = format!(
        "CREATE MATERIALIZED VIEW {VIEW} AS \
         SELECT window_start, window_end, count(*) AS orders, sum(amount) AS amount \
         FROM TUMBLE(TABLE {TOPIC}, DESCRIPTOR(at), INTERVAL '1 minute') \
         GROUP BY window_start, window_end"
    );
    let job = admin.submit_job(&view).await?;
    writeln!(out, "the view {} is {}", job.name, job.state)?;

    let producer = Producer::new(&client);
    for (at, amount) in ORDERS {
        let body = format!("{{\"at\":\"{at}\",\"amount\":{amount}}}");
        producer.send(TOPIC, OutgoingMessage::new(body)).await?;
        writeln!(out, "sent an order of {amount} at {at}")?;
    }

    let consumer = SimpleConsumer::new(&client, "lesson_orders_readers", VIEW);
    let (invisible, poll) = (Duration::from_secs(30), Duration::from_secs(5));
    let mut rows = consumer.receive(32, invisible, poll).await?;
    while !rows.is_empty() {
        for row in rows {
            writeln!(out, "view: {}", String::from_utf8_lossy(&row.body))?;
            consumer.ack(&row).await?;
        }
        rows = consumer
            .receive(32, invisible, Duration::from_secs(1))
            .await?;
    }
    Ok(())
}
