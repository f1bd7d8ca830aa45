//! Finding and tracing messages, as an operator types it, hot and cold.

use std::time::Duration;

use millpond_proto::client::SimpleConsumer;
use millpond_tests::harness::{Folder, Server};

/// What a command prints, and what it says about it.
fn told(server: &Server, arguments: &[&str]) -> (String, String) {
    let output = server.try_millpond(arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{said}");
    (out, said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_can_be_found_shown_and_traced() {
    let folder = Folder::new();
    let server = folder.serve();
    told(&server, &["topic", "create", "orders", "--queues", "2"]);
    for (body, key) in [("first", "a"), ("second", "b"), ("third", "a")] {
        let produce = ["topic", "produce", "orders", "--body", body, "--key", key];
        told(&server, &produce);
        if body == "second" {
            told(&server, &["storage", "tier"]);
        }
    }
    let (found, said) = told(
        &server,
        &["msg", "find", "orders", "--key", "a", "-o", "json"],
    );
    let found: Vec<serde_json::Value> = serde_json::from_str(&found).unwrap();
    let bodies: Vec<&str> = found.iter().map(|m| m["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["first", "third"]);
    assert!(said.starts_with("complete; looked at "), "{said}");
    let id = found[0]["id"].as_str().unwrap();
    let (by_id, _) = told(
        &server,
        &["msg", "find", "orders", "--id", id, "-o", "json"],
    );
    assert!(
        by_id.contains("\"first\"") && !by_id.contains("third"),
        "{by_id}"
    );
    let (_, said) = told(&server, &["msg", "ls", "orders", "--limit", "1"]);
    assert!(said.contains("go on with: --from "), "{said}");
    let (listed, _) = told(
        &server,
        &["msg", "ls", "orders", "--since", "2026-01-01T00:00:00Z"],
    );
    assert!(listed.contains("second"), "{listed}");

    let place = format!("{}:{}", found[0]["queue"], found[0]["offset"]);
    let (shown, _) = told(&server, &["msg", "get", "orders", &place]);
    assert!(
        shown.contains("born_host") && shown.contains("first"),
        "{shown}"
    );
    let nowhere = server.try_millpond(&["msg", "get", "orders", "0:77"]);
    assert!(!nowhere.status.success());

    let client = server.client();
    let consumer = SimpleConsumer::new(&client, "billing", "orders");
    let minute = Duration::from_secs(60);
    let received = consumer
        .receive(32, minute, Duration::from_secs(1))
        .await
        .unwrap();
    assert_eq!(received.len(), 3);
    for message in received {
        consumer.ack(&message).await.unwrap();
    }
    let (trace, said) = told(&server, &["msg", "trace", "orders", &place]);
    for word in [
        "stored",
        "delivered",
        "acknowledged",
        "now: done",
        "billing",
    ] {
        assert!(trace.contains(word), "{word}: {trace}");
    }
    assert!(
        said.contains("everything since the message was stored"),
        "{said}"
    );
}
