//! Lesson 6: changes of a database's rows, as Debezium writes them: the topic is the table, and views follow it.
//!
//! A message's key tells the row; the last message of a key is what it is. Prints the table and a count by city.

use std::io::Write as _;

use millpond_examples::{Lesson, begin_anew, caught_up, connect, execute, rows};
use millpond_proto::client::{OutgoingMessage, Producer};

const TOPIC: &str = "lesson_people";
const VIEW: &str = "lesson_people_by_city";
const CHANGES: [(&str, &str); 4] = [
    (
        "1",
        r#"{"before":null,"after":{"id":1,"name":"Ada","city":"Oslo"},"op":"c"}"#,
    ),
    (
        "2",
        r#"{"before":null,"after":{"id":2,"name":"Bob","city":"Oslo"},"op":"c"}"#,
    ),
    (
        "1",
        r#"{"before":{"id":1,"name":"Ada","city":"Oslo"},"after":{"id":1,"name":"Ada","city":"Rome"},"op":"u"}"#,
    ),
    (
        "2",
        r#"{"before":{"id":2,"name":"Bob","city":"Oslo"},"after":null,"op":"d"}"#,
    ),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    begin_anew(&client, &[VIEW], &[TOPIC]).await?;
    let topic = format!(
        "CREATE TOPIC {TOPIC} (id BIGINT, name VARCHAR, city VARCHAR, PRIMARY KEY (id)) \
         WITH (changelog = 'debezium')"
    );
    execute(&client, &topic).await?;
    let view = format!(
        "CREATE MATERIALIZED VIEW {VIEW} AS SELECT city, count(*) AS people FROM {TOPIC} GROUP BY city"
    );
    execute(&client, &view).await?;

    let producer = Producer::new(&client);
    for (count, (key, change)) in (1..).zip(CHANGES) {
        let message = OutgoingMessage {
            key: Some(key.to_owned()),
            ..OutgoingMessage::new(change)
        };
        producer.send(TOPIC, message).await?;
        caught_up(&client, VIEW, count).await?;
        let table = rows(
            &client,
            &format!("SELECT name, city FROM {TOPIC} ORDER BY id"),
        )
        .await?;
        let cities = rows(
            &client,
            &format!("SELECT city, people FROM {VIEW} ORDER BY city"),
        )
        .await?;
        writeln!(
            out,
            "after change {count}: {} | {}",
            table.join(" "),
            cities.join(" ")
        )?;
    }
    Ok(())
}
