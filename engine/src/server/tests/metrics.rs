//! The page for Prometheus, as it is fetched.

use millpond_proto::wire::admin as admin_pb;
use tokio::net::TcpStream;

use super::consumers::{by, message, poll, resource, system, world};
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

#[tokio::test]
async fn the_metrics_tell_what_groups_have_before_them_and_what_went_in_and_out() {
    let mut world = world().await;
    world.make("orders").await;
    for id in ["a", "b", "c"] {
        world.send(message("orders", id, None)).await;
    }
    let mut held = Vec::new();
    while held.len() < 3 {
        held.extend(world.receive("c", poll("orders", "billing", "*")).await.1);
    }
    let page = metrics(world.server.http_addr).await;
    let bytes: usize = held.iter().map(|one| one.body.len()).sum();
    let bytes = f64::from(u32::try_from(bytes).unwrap());
    for (name, count) in [
        ("rocketmq_messages_in_total{topic=\"orders\"}", 3.0),
        ("rocketmq_messages_out_total{topic=\"orders\"}", 3.0),
        ("rocketmq_throughput_in_total{topic=\"orders\"}", bytes),
        ("rocketmq_throughput_out_total{topic=\"orders\"}", bytes),
        ("millpond_topics", 1.0),
    ] {
        let found = value(&page, name);
        assert!((found - count).abs() < 0.5, "{name} is {found}: {page}");
    }
    let forward = pb::ForwardMessageToDeadLetterQueueRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: system(&held[0]).receipt_handle.clone().unwrap(),
        message_id: system(&held[0]).message_id.clone(),
        delivery_attempt: 1,
        max_delivery_attempts: 1,
        ..pb::ForwardMessageToDeadLetterQueueRequest::default()
    };
    let forwarded = world
        .client
        .forward_message_to_dead_letter_queue(by("c", forward))
        .await;
    assert_eq!(code(forwarded.unwrap().into_inner().status), pb::Code::Ok);
    let pause = admin_pb::AlterGroupRequest {
        name: "billing".to_owned(),
        paused: Some(true),
        ..admin_pb::AlterGroupRequest::default()
    };
    world.admin.alter_group(pause).await.unwrap();
    let of_topic = "{topic=\"orders\",consumer_group=\"billing\"}";
    let of_group = "{consumer_group=\"billing\"}";
    let expected = |dead: f64, page: &str| {
        for (name, labels, count) in [
            ("rocketmq_consumer_lag_messages", of_topic, 2.0),
            ("rocketmq_consumer_inflight_messages", of_topic, 2.0),
            ("millpond_dead_letters", of_group, dead),
            ("millpond_group_paused", of_group, 1.0),
            ("millpond_groups", "", 1.0),
        ] {
            let found = value(page, &format!("{name}{labels}"));
            assert!((found - count).abs() < 0.5, "{name} is {found}: {page}");
        }
        let of_letters = "topic=\"%DLQ%billing\",consumer_group";
        assert!(!page.contains(of_letters), "{page}");
    };
    expected(1.0, &metrics(world.server.http_addr).await);
    let letters = admin_pb::DeadLettersRequest {
        group: "billing".to_owned(),
        limit: 10,
        ..admin_pb::DeadLettersRequest::default()
    };
    world.admin.purge_dead_letters(letters).await.unwrap();
    expected(0.0, &metrics(world.server.http_addr).await);
}
