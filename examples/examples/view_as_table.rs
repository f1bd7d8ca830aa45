//! Lesson 5: a materialized view is a table: it is asked like any other, by its key at once, however long its log is.
//!
//! Prints a row of it, and the same row once more messages came.

use std::io::Write as _;

use millpond_examples::{Lesson, begin_anew, caught_up, connect, execute, rows};
use millpond_proto::client::{OutgoingMessage, Producer};

const TOPIC: &str = "lesson_readings";
const VIEW: &str = "lesson_meters";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    begin_anew(&client, &[VIEW], &[TOPIC]).await?;
    let topic = format!("CREATE TOPIC {TOPIC} (meter VARCHAR, kwh DOUBLE)");
    execute(&client, &topic).await?;
    let view = format!(
        "CREATE MATERIALIZED VIEW {VIEW} AS \
         SELECT meter, count(*) AS readings, max(kwh) AS kwh FROM {TOPIC} GROUP BY meter"
    );
    execute(&client, &view).await?;

    let producer = Producer::new(&client);
    let question = format!("SELECT readings, kwh FROM {VIEW} WHERE meter = 'm7'");
    for turn in 1..=2 {
        let bodies = (0..100).map(|n| format!("{{\"meter\":\"m{}\",\"kwh\":{turn}.5}}", n % 10));
        for sent in producer
            .send_batch(TOPIC, bodies.map(OutgoingMessage::new).collect())
            .await?
        {
            sent?;
        }
        caught_up(&client, VIEW, turn * 100).await?;
        for row in rows(&client, &question).await? {
            writeln!(out, "m7 after {} messages: {row}", turn * 100)?;
        }
    }
    Ok(())
}
