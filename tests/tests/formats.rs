//! Formats, their schemas and changes of rows, from a producer over the wire to the command line.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use bytes::Bytes;
use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_tests::harness::{Folder, binary};

const FIRST: &str = r#"{"type":"record","name":"Reading","fields":[{"name":"sensor","type":"string"},{"name":"n","type":"long"}]}"#;
const SECOND: &str = r#"{"type":"record","name":"Reading","fields":[{"name":"sensor","type":"string"},{"name":"n","type":"long"},{"name":"unit","type":"string","default":"K"}]}"#;
const OTHER: &str =
    r#"{"type":"record","name":"Reading","fields":[{"name":"sensor","type":"long"}]}"#;

#[tokio::test]
async fn a_body_is_read_by_the_schema_it_was_sent_under_after_a_crash_as_before() {
    let folder = Folder::new();
    let file = |name: &str, text: &str| {
        let path = folder.beside(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (first, second, other) = (
        file("1.avsc", FIRST),
        file("2.avsc", SECOND),
        file("3.avsc", OTHER),
    );
    let server = folder.serve();
    let created = [
        "topic",
        "create",
        "readings",
        "--queues",
        "1",
        "--format",
        "avro",
        "--schema-file",
        &first,
    ];
    let _ = server.millpond(&created);
    let send = async |producer: &Producer, body: &'static [u8]| {
        let message = OutgoingMessage::new(Bytes::from_static(body));
        producer.send("readings", message).await.unwrap();
    };
    let producer = Producer::new(&server.client());
    send(&producer, b"\x02a\x02").await;

    let refused = server.try_millpond(&["topic", "schema", "add", "readings", &other]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("was string and is long"),
        "{said}"
    );
    let _ = server.millpond(&["topic", "schema", "add", "readings", &second]);
    send(&producer, b"\x02b\x04\x02C").await;
    send(&producer, b"?").await;
    server.kill();

    let server = folder.serve();
    let rows = server
        .rows("SELECT sensor, n, unit FROM readings WHERE _decode_error IS NULL ORDER BY _offset");
    assert_eq!(rows, [["a", "1", "K"], ["b", "2", "C"]]);
    let bad = server.rows("SELECT _offset FROM readings WHERE _decode_error IS NOT NULL");
    assert_eq!(bad, [["2"]]);
    let versions = server.millpond(&["topic", "schema", "ls", "readings", "-o", "csv"]);
    assert_eq!(versions.lines().count(), 3, "{versions}");
}

#[tokio::test]
async fn a_subscription_prints_the_snapshot_and_each_change_as_it_comes() {
    let folder = Folder::new();
    let server = folder.serve();
    let _ = server.rows(
        "CREATE TOPIC prices (item VARCHAR, price BIGINT, PRIMARY KEY (item)) WITH (changelog = 'upsert')",
    );
    let _ = server.rows("INSERT INTO prices VALUES ('pen', 1)");
    let mut child = Command::new(binary())
        .args(["sql", "-c", "SUBSCRIBE SELECT item, price FROM prices"])
        .env("MILLPOND_SERVER", server.url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let line = next();
    assert!(
        line.contains(r#""_op":"upsert""#) && line.contains(r#""price":1"#),
        "{line}"
    );
    let message = OutgoingMessage {
        key: Some("pen".to_owned()),
        properties: [("_deleted".to_owned(), "true".to_owned())].into(),
        ..OutgoingMessage::new("-")
    };
    Producer::new(&server.client())
        .send("prices", message)
        .await
        .unwrap();
    let line = next();
    assert!(line.contains(r#""_op":"delete""#), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(server.rows("SELECT item FROM prices").is_empty());
}
