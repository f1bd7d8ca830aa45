//! What single clients do that others do not: each quirk with the client that has it.

use futures::SinkExt as _;

use super::consumers::{World, by, message, poll, resource, system, world};
use super::*;

fn settings_of(kind: pb::ClientType, group: &str) -> pb::TelemetryCommand {
    let subscription = pb::Subscription {
        group: resource(group),
        ..pb::Subscription::default()
    };
    pb::TelemetryCommand {
        status: None,
        command: Some(Command::Settings(pb::Settings {
            client_type: Some(kind.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..pb::Settings::default()
        })),
    }
}

async fn make(world: &mut World, topic: &str, kind: &str) {
    let request = millpond_proto::wire::admin::CreateTopicRequest {
        name: topic.to_owned(),
        r#type: kind.to_owned(),
        queues: 1,
        ..Default::default()
    };
    world.admin.create_topic(request).await.unwrap();
}

fn grouped(id: &str) -> pb::Message {
    let mut made = message("steps", id, None);
    let system = made.system_properties.as_mut().unwrap();
    system.message_group = Some("g".to_owned());
    made
}

#[tokio::test]
async fn python_gets_its_settings_in_one_command_with_status_ok_and_signs_with_nothing() {
    let mut world = world().await;
    let settings = settings_of(pb::ClientType::PushConsumer, "billing");
    let mut request = by("py", futures::stream::iter([settings]));
    for (header, value) in [
        (
            "authorization",
            "MQv2-HMAC-SHA1 Credential=, SignedHeaders=x-mq-date-time, Signature=00",
        ),
        ("x-mq-protocol", "GRPC_V2"),
        ("x-mq-date-time", "20260101T000000Z"),
        ("grpc-timeout", "31536000S"),
    ] {
        request
            .metadata_mut()
            .insert(header, value.parse().unwrap());
    }
    let mut commands = world.client.telemetry(request).await.unwrap().into_inner();
    let answer = commands.message().await.unwrap().unwrap();
    assert_eq!(code(answer.status), pb::Code::Ok);
    assert!(matches!(answer.command, Some(Command::Settings(_))));
    // Node may miss the first one, so it comes twice, and then the half-closed stream ends for Java.
    let again = commands.message().await.unwrap().unwrap();
    assert!(matches!(again.command, Some(Command::Settings(_))));
    assert!(commands.message().await.unwrap().is_none());
    world.server.stop().await;
}

#[tokio::test]
async fn settings_outlive_a_half_closed_stream_and_node_nacks_by_its_groups_backoff() {
    let mut world = world().await;
    make(&mut world, "orders", "normal").await;
    world.send(message("orders", "1", None)).await;
    let settings = settings_of(pb::ClientType::PushConsumer, "billing");
    let request = by("node", futures::stream::iter([settings]));
    let mut commands = world.client.telemetry(request).await.unwrap().into_inner();
    while commands.message().await.unwrap().is_some() {}
    let group = millpond_proto::wire::admin::CreateGroupRequest {
        name: "billing".to_owned(),
        backoff: Some(millpond_proto::wire::admin::Backoff {
            list_ms: vec![3_600_000],
            ..Default::default()
        }),
        ..Default::default()
    };
    world.admin.create_group(group).await.unwrap();
    let (_, got) = world.receive("node", poll("orders", "billing", "*")).await;
    let nack = |handle: &str| pb::ChangeInvisibleDurationRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: handle.to_owned(),
        // Node's way to say "now" where it means "later".
        invisible_duration: Some(prost_types::Duration::default()),
        ..pb::ChangeInvisibleDurationRequest::default()
    };
    let handle = system(&got[0]).receipt_handle.clone().unwrap();
    let nacked = world
        .client
        .change_invisible_duration(by("node", nack(&handle)))
        .await;
    let nacked = nacked.unwrap().into_inner();
    assert_eq!(code(nacked.status), pb::Code::Ok);
    let (none, _) = world.receive("node", poll("orders", "billing", "*")).await;
    assert_eq!(
        none,
        pb::Code::MessageNotFound,
        "an hour, as the group says"
    );
    // A simple consumer means what it says.
    let now = by("simple", nack(&nacked.receipt_handle));
    let now = world.client.change_invisible_duration(now).await.unwrap();
    assert_eq!(code(now.into_inner().status), pb::Code::Ok);
    let (_, again) = world
        .receive("simple", poll("orders", "billing", "*"))
        .await;
    assert_eq!(again.len(), 1);
    world.server.stop().await;
}

#[tokio::test]
async fn the_rust_client_sees_headers_before_it_says_anything() {
    let mut world = world().await;
    let (mut commands, inbound) = futures::channel::mpsc::channel(1);
    let answered = world.client.telemetry(by("rust", inbound)).await;
    let mut answers = answered.unwrap().into_inner();
    commands
        .send(settings_of(pb::ClientType::SimpleConsumer, "billing"))
        .await
        .unwrap();
    assert!(answers.message().await.unwrap().is_some());
    drop(commands);
    world.server.stop().await;
}

#[tokio::test]
async fn cpp_fills_a_junk_attempt_and_labels_what_is_no_gzip_and_both_do_no_harm() {
    let mut world = world().await;
    make(&mut world, "orders", "normal").await;
    let mut odd = message("orders", "1", None);
    odd.body = b"x\x9c zlib, not gzip".to_vec().into();
    let system_of = odd.system_properties.as_mut().unwrap();
    system_of.delivery_attempt = Some(1_819_239_275);
    system_of.queue_id = -7;
    system_of.body_encoding = pb::Encoding::Gzip.into();
    system_of.body_digest = Some(pb::Digest {
        r#type: pb::DigestType::Crc32.into(),
        checksum: "not even hex".to_owned(),
    });
    world.send(odd.clone()).await;
    let (_, got) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(got[0].body, odd.body, "the bytes go through untouched");
    assert_eq!(system(&got[0]).delivery_attempt, Some(1));
    assert_eq!(system(&got[0]).body_encoding(), pb::Encoding::Gzip);
    world.server.stop().await;
}

#[tokio::test]
async fn java_asks_again_with_its_attempt_id_and_gets_the_batch_that_was_lost() {
    let mut world = world().await;
    make(&mut world, "steps", "fifo").await;
    for id in ["1", "2", "3"] {
        world.send(grouped(id)).await;
    }
    let ask = |attempt: &str| pb::ReceiveMessageRequest {
        attempt_id: Some(attempt.to_owned()),
        batch_size: 2,
        ..poll("steps", "walkers", "*")
    };
    let ids = |got: &[pb::Message]| -> Vec<String> {
        got.iter().map(|m| system(m).message_id.clone()).collect()
    };
    let (_, lost) = world.receive("java", ask("a")).await;
    let (_, again) = world.receive("java", ask("a")).await;
    assert_eq!(
        (ids(&lost), ids(&again)),
        (ids(&again), vec!["1".into(), "2".into()])
    );
    let mut attempts = again.iter().map(|m| system(m).delivery_attempt);
    assert!(attempts.all(|attempt| attempt == Some(1)));
    // Another attempt must wait for the group's turn: also Java's own after an empty answer.
    let (none, _) = world.receive("java", ask("b")).await;
    assert_eq!(none, pb::Code::MessageNotFound);
    world.server.stop().await;
}

#[tokio::test]
async fn go_says_no_polling_time_and_too_little_deadline_is_told_by_version() {
    let mut world = world().await;
    make(&mut world, "orders", "normal").await;
    for (version, expected) in [
        ("5.1.4", pb::Code::IllegalPollingTime),
        ("5.0.2", pb::Code::BadRequest),
    ] {
        let mut request = by(
            "go",
            pb::ReceiveMessageRequest {
                long_polling_timeout: None,
                ..poll("orders", "billing", "*")
            },
        );
        for (header, value) in [("grpc-timeout", "3S"), ("x-mq-client-version", version)] {
            request
                .metadata_mut()
                .insert(header, value.parse().unwrap());
        }
        let frames = world.client.receive_message(request).await.unwrap();
        let mut frames = frames.into_inner();
        let first = frames.message().await.unwrap().unwrap().content.unwrap();
        let pb::receive_message_response::Content::Status(status) = first else {
            panic!("a status comes first");
        };
        assert_eq!(code(Some(status)), expected, "{version}");
    }
    world.server.stop().await;
}

#[tokio::test]
async fn rust_sends_a_batch_of_one_message_group_and_its_order_holds() {
    let mut world = world().await;
    make(&mut world, "steps", "fifo").await;
    let messages = (0..20).map(|n| grouped(&n.to_string())).collect();
    let request = by("rust", pb::SendMessageRequest { messages });
    let answer = world
        .client
        .send_message(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.entries.len(), 20);
    let offsets: Vec<i64> = answer.entries.iter().map(|entry| entry.offset).collect();
    assert_eq!(offsets, (0..20).collect::<Vec<_>>());
    world.server.stop().await;
}

#[tokio::test]
async fn an_unknown_language_or_enum_value_of_tomorrow_changes_nothing() {
    let mut world = world().await;
    make(&mut world, "orders", "normal").await;
    let mut made = message("orders", "1", None);
    let system_of = made.system_properties.as_mut().unwrap();
    system_of.message_type = 99;
    system_of.body_encoding = 99;
    let request = pb::SendMessageRequest {
        messages: vec![made],
    };
    let mut request = by("node", request);
    request
        .metadata_mut()
        .insert("x-mq-language", "HTTP".parse().unwrap());
    let answer = world
        .client
        .send_message(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(code(answer.status), pb::Code::Ok);
    let (_, got) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(system(&got[0]).message_type(), pb::MessageType::Normal);
    world.server.stop().await;
}
