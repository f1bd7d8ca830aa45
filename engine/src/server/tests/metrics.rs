//! The page for Prometheus, as it is fetched.

use tokio::net::TcpStream;

use super::consumers::{by, message, world};
use super::*;

async fn metrics(address: SocketAddr) -> String {
    let mut io = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
    io.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    answer
}

fn value(page: &str, name: &str) -> f64 {
    let mut lines = page.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {page}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn the_metrics_tell_what_was_written_and_what_has_moved() {
    let mut world = world().await;
    world.make("orders").await;
    let before = metrics(world.server.http_addr).await;
    assert!(before.starts_with("HTTP/1.1 200"), "{before}");
    assert!(
        before.contains("content-type: text/plain; version=0.0.4"),
        "{before}"
    );
    let messages: Vec<_> = (0..5)
        .map(|n| message("orders", &n.to_string(), None))
        .collect();
    let request = by("p", pb::SendMessageRequest { messages });
    world.client.send_message(request).await.unwrap();
    let sent = metrics(world.server.http_addr).await;
    for name in [
        "millpond_wal_write_seconds_count",
        "millpond_wal_written_bytes_total",
        "millpond_append_groups_total",
        "millpond_stored_bytes{tier=\"hot\"}",
    ] {
        assert!(value(&sent, name) > value(&before, name), "{name}");
    }
    assert!(value(&sent, "millpond_untiered_messages") >= 5.0, "{sent}");
    let grown = |name| value(&sent, name) - value(&before, name);
    assert!(grown("millpond_appended_records_total") >= 5.0, "{sent}");
    assert!(grown("millpond_appended_bytes_total") >= 5.0, "{sent}");
    let name = "rocketmq_storage_size{storage_type=\"local\",storage_medium=\"disk\"}";
    assert!(value(&sent, name) > 0.0, "{sent}");
    world.server.broker.tier().await.unwrap();
    let moved = metrics(world.server.http_addr).await;
    assert!(
        value(&moved, "millpond_tiered_files_total") >= 1.0,
        "{moved}"
    );
    assert!(
        value(&moved, "millpond_tiered_bytes_total") > 0.0,
        "{moved}"
    );
    let puts = "millpond_objects_calls_total{operation=\"put\"}";
    assert!(value(&moved, puts) > value(&sent, puts), "{moved}");
    assert!(value(&moved, "millpond_untiered_messages") < 1.0, "{moved}");
    let [hot, cold] =
        ["hot", "cold"].map(|tier| format!("millpond_stored_bytes{{tier=\"{tier}\"}}"));
    assert!(value(&moved, &hot) < 1.0, "{moved}");
    assert!(value(&moved, &cold) > value(&sent, &cold), "{moved}");
    assert!(value(&moved, "millpond_stored_files") >= 1.0, "{moved}");
}
