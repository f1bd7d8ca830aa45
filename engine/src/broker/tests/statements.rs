//! Statements over a broker with a log and files: what is stored, looked up and erased.

use super::database::{Database, database};
use super::*;

/// The only cell of an answer, as text.
async fn cells(database: &Database, query: &str) -> Vec<String> {
    let finished = database.ask(query).await.unwrap();
    let text = arrow::util::pretty::pretty_format_batches(&finished.batches);
    let text = text.unwrap().to_string();
    let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.trim_matches(['|', ' ']).to_owned());
    cells.collect()
}

async fn refused(database: &Database, statement: &str) -> String {
    match database.ask(statement).await {
        Ok(done) => panic!("{statement}: {done:?}"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_with_another_condition_finds_what_a_reading_finds_in_files_too() {
    let database = database(&SimulatedDisk::new()).await;
    database
        .ask("CREATE TOPIC p (k VARCHAR, n BIGINT, PRIMARY KEY (k)) WITH (queues = 1)")
        .await
        .unwrap();
    database
        .ask("INSERT INTO p VALUES ('a', 5), ('b', 50), ('c', 7)")
        .await
        .unwrap();
    database.broker.tier().await.unwrap();
    database
        .ask("INSERT INTO p VALUES ('d', 500)")
        .await
        .unwrap();
    for (condition, keys) in [
        ("k = 'a' AND n > 100", vec![]),
        ("k IN ('a', 'd') AND n > 100", vec!["d"]),
        ("k >= 'b' AND n > 6", vec!["b", "c", "d"]),
    ] {
        let query = format!("SELECT k FROM p WHERE {condition} ORDER BY k");
        assert_eq!(cells(&database, &query).await, keys, "{condition}");
    }
    database.broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_erased_is_answered_by_no_statement() {
    let database = database(&SimulatedDisk::new()).await;
    database
        .ask("CREATE TOPIC people (name VARCHAR) WITH (queues = 1)")
        .await
        .unwrap();
    let many = "INSERT INTO people (_key, name) SELECT CASE WHEN n = 7 THEN 'k' END, CASE WHEN n = 7 THEN 'Ann' ELSE 'x' END \
                FROM (SELECT unnest(range(0, 9000)) AS n) AS t";
    database.ask(many).await.unwrap();
    let query =
        "SELECT count(*) FROM people WHERE name = 'Ann' OR _key = 'k' OR strpos(_body, 'Ann') > 0";
    for _ in 0..2 {
        assert_eq!(cells(&database, query).await, ["1"]);
    }
    let people = database.broker.topic(&TopicName::new("people").unwrap());
    let erased = database.broker.erase(people.unwrap().id, b"k").await;
    assert_eq!(erased.unwrap().messages, 1);
    for _ in 0..2 {
        assert_eq!(cells(&database, query).await, ["0"]);
    }
    let all = "SELECT count(*) FROM people";
    assert_eq!(cells(&database, all).await, ["9000"]);
    database.broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_insert_of_more_than_one_append_takes_is_stored_in_parts() {
    let database = database(&SimulatedDisk::new()).await;
    database
        .ask("CREATE TOPIC big WITH (queues = 1)")
        .await
        .unwrap();
    let insert = "INSERT INTO big (_body) SELECT repeat('x', 5000) FROM (SELECT unnest(range(0, 7000)) AS n) AS t";
    database.ask(insert).await.unwrap();
    assert_eq!(cells(&database, "SELECT count(*) FROM big").await, ["7000"]);
    database.broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_insert_meets_the_bounds_of_a_message_as_a_producer_does() {
    let database = database(&SimulatedDisk::new()).await;
    database
        .ask("CREATE TOPIC t WITH (queues = 2)")
        .await
        .unwrap();
    let properties = |key: &str, value: &str| {
        format!("(_body, _properties) VALUES ('{{}}', MAP {{{key}: {value}}})")
    };
    for (row, why) in [
        ("(_body) VALUES ('')".to_owned(), "the body is empty"),
        (
            "(_body) SELECT repeat('x', 4194305)".to_owned(),
            "the body has 4194305 bytes, limit 4194304",
        ),
        (
            "(_body, _key) VALUES ('{}', repeat('k', 16385))".to_owned(),
            "have 16385 bytes, limit 16384",
        ),
        (
            properties("'a'", "repeat('v', 20000)"),
            "have 20001 bytes, limit 16384",
        ),
        (properties("'KEYS'", "'x'"), "\"KEYS\" is reserved"),
        (properties("'a'", "chr(7)"), "has control characters"),
        (
            // The first row fits, and is not stored either.
            "(_body) VALUES ('{}'), ('')".to_owned(),
            "the body is empty",
        ),
    ] {
        let refused = refused(&database, &format!("INSERT INTO t {row}")).await;
        assert!(refused.contains(why), "{row}: {refused}");
    }
    assert_eq!(cells(&database, "SELECT count(*) FROM t").await, ["0"]);
    // A key that is no text for people is one of bytes.
    database
        .ask("INSERT INTO t (_body, _key) VALUES ('{}', 'a' || chr(10) || 'b')")
        .await
        .unwrap();
    let found = "SELECT count(*) FROM t WHERE _key = 'a' || chr(10) || 'b'";
    assert_eq!(cells(&database, found).await, ["1"]);
    database.broker.close().await;
}
