//! Messages that are not visible at once, at the wire: each answer and each refusal.

use std::time::Duration;

use millpond_proto::limits;
use millpond_proto::time::{Clock as _, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::service::time::{to_wire, wire_duration};

fn due(mut message: pb::Message, at: Timestamp) -> pb::Message {
    message
        .system_properties
        .as_mut()
        .unwrap()
        .delivery_timestamp = Some(to_wire(at));
    message
}

fn half(mut message: pb::Message) -> pb::Message {
    let system = message.system_properties.as_mut().unwrap();
    system.message_type = pb::MessageType::Transaction.into();
    system.orphaned_transaction_recovery_duration = Some(wire_duration(1));
    message
}

fn now() -> Timestamp {
    SystemClock.now()
}

impl World {
    async fn make_kind(&mut self, topic: &str, kind: &str) {
        let request = admin_pb::CreateTopicRequest {
            name: topic.to_owned(),
            r#type: kind.to_owned(),
            ..admin_pb::CreateTopicRequest::default()
        };
        self.admin.create_topic(request).await.unwrap();
    }

    async fn try_send(&mut self, message: pb::Message) -> pb::SendMessageResponse {
        let messages = vec![message];
        let request = pb::SendMessageRequest { messages };
        let answer = self.client.send_message(by("p", request)).await;
        answer.unwrap().into_inner()
    }

    async fn entry(&mut self, message: pb::Message) -> pb::SendResultEntry {
        let answer = self.try_send(message).await;
        assert_eq!(code(answer.status), pb::Code::Ok);
        answer.entries.into_iter().next().unwrap()
    }

    async fn recall(&mut self, topic: &str, handle: &str) -> pb::RecallMessageResponse {
        let request = pb::RecallMessageRequest {
            topic: resource(topic),
            recall_handle: handle.to_owned(),
        };
        let answer = self.client.recall_message(by("p", request)).await;
        answer.unwrap().into_inner()
    }

    async fn end(
        &mut self,
        topic: &str,
        entry: &pb::SendResultEntry,
        resolution: pb::TransactionResolution,
    ) -> pb::Code {
        let request = pb::EndTransactionRequest {
            topic: resource(topic),
            message_id: entry.message_id.clone(),
            transaction_id: entry.transaction_id.clone(),
            resolution: resolution.into(),
            ..pb::EndTransactionRequest::default()
        };
        let answer = self.client.end_transaction(by("p", request)).await;
        code(answer.unwrap().into_inner().status)
    }

    /// Polls until a message comes.
    async fn next(&mut self, topic: &str) -> pb::Message {
        loop {
            let (_, messages) = self.receive("c", poll(topic, "g", "*")).await;
            if let Some(message) = messages.into_iter().next() {
                return message;
            }
        }
    }
}

#[tokio::test]
async fn a_delayed_message_comes_at_its_time_and_says_so() {
    let mut world = world().await;
    world.make_kind("later", "delay").await;
    // Far enough for a machine that has much to do: what is due when it is decided on waits for nothing.
    let at = now() + Duration::from_secs(3);
    let entry = world.entry(due(message("later", "m1", None), at)).await;
    assert!(!entry.recall_handle.is_empty());
    let came = world.next("later").await;
    assert!(now() >= at);
    let system = came.system_properties.unwrap();
    assert_eq!(system.message_id, "m1");
    assert_eq!(system.delivery_timestamp, Some(to_wire(at)));
    assert_eq!(system.message_type(), pb::MessageType::Delay);
    assert!(system.store_timestamp.unwrap().seconds >= at.as_ms() / 1000);
    assert!(came.user_properties.is_empty());
    let late = world.recall("later", &entry.recall_handle).await;
    assert_eq!(code(late.status), pb::Code::BadRequest);

    // In the past: now, and there is nothing to recall.
    let past = world
        .entry(due(message("later", "m2", None), Timestamp(5)))
        .await;
    assert!(past.recall_handle.is_empty());
    assert_eq!(world.next("later").await.body, "m2");
    world.server.stop().await;
}

#[tokio::test]
async fn a_delay_has_a_horizon_of_ten_years() {
    let mut world = world().await;
    world.make_kind("later", "delay").await;
    let years = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    let far = due(message("later", "m1", None), now() + years);
    assert!(!world.entry(far).await.recall_handle.is_empty());
    let most = Duration::from_millis(limits::DELAY_MS_MAX.unsigned_abs());
    let too_far = now() + most + Duration::from_secs(60);
    let answer = world
        .try_send(due(message("later", "m2", None), too_far))
        .await;
    let status = answer.status.unwrap();
    assert_eq!(status.code(), pb::Code::IllegalDeliveryTime);
    assert!(status.message.contains(&limits::DELAY_MS_MAX.to_string()));
    world.server.stop().await;
}

#[tokio::test]
async fn a_recalled_message_is_answered_with_its_id_as_often_as_asked() {
    let mut world = world().await;
    world.make_kind("later", "delay").await;
    world.make_kind("other", "delay").await;
    let at = now() + Duration::from_secs(3600);
    let entry = world.entry(due(message("later", "m1", None), at)).await;
    for _ in 0..2 {
        let recalled = world.recall("later", &entry.recall_handle).await;
        assert_eq!(code(recalled.status), pb::Code::Ok);
        assert_eq!(recalled.message_id, "m1");
    }
    for (topic, handle) in [
        ("other", entry.recall_handle.as_str()),
        ("later", "djEgbGF0ZXI"),
        ("later", ""),
    ] {
        let refused = world.recall(topic, handle).await;
        assert_eq!(code(refused.status), pb::Code::InvalidReceiptHandle);
    }
    let nowhere = world.recall("nowhere", &entry.recall_handle).await;
    assert_eq!(code(nowhere.status), pb::Code::TopicNotFound);
    world.server.stop().await;
}

#[tokio::test]
async fn the_first_decision_on_a_transaction_stands() {
    use pb::TransactionResolution::{Commit, Rollback, Unspecified};
    let mut world = world().await;
    world.make_kind("pay", "transaction").await;
    world.make_kind("other", "transaction").await;
    let first = world.entry(half(message("pay", "m1", None))).await;
    let second = world.entry(half(message("pay", "m2", None))).await;
    assert_eq!(world.end("pay", &first, Unspecified).await, pb::Code::Ok);
    for _ in 0..2 {
        assert_eq!(world.end("pay", &first, Rollback).await, pb::Code::Ok);
        assert_eq!(world.end("pay", &second, Commit).await, pb::Code::Ok);
    }
    assert_eq!(world.end("pay", &first, Commit).await, pb::Code::BadRequest);
    assert_eq!(
        world.end("pay", &second, Rollback).await,
        pb::Code::BadRequest
    );
    let came = world.next("pay").await;
    assert_eq!(came.body, "m2");
    let system = came.system_properties.unwrap();
    assert_eq!(system.message_type(), pb::MessageType::Transaction);

    let wrong = pb::Code::InvalidTransactionId;
    assert_eq!(world.end("other", &first, Commit).await, wrong);
    let of = |transaction_id: &str, message_id: &str| pb::SendResultEntry {
        transaction_id: transaction_id.to_owned(),
        message_id: message_id.to_owned(),
        ..pb::SendResultEntry::default()
    };
    for entry in [
        of("", "m1"),
        of("m1", "m1"),
        of(&first.transaction_id, "m2"),
    ] {
        assert_eq!(world.end("pay", &entry, Rollback).await, wrong);
    }
    world.server.stop().await;
}

#[tokio::test]
async fn a_producer_is_asked_about_a_transaction_that_nobody_ends() {
    let mut world = world().await;
    world.make_kind("pay", "transaction").await;
    let publishing = pb::Publishing {
        topics: vec![resource("pay").unwrap()],
        ..pb::Publishing::default()
    };
    let settings = pb::TelemetryCommand {
        status: None,
        command: Some(Command::Settings(pb::Settings {
            pub_sub: Some(PubSub::Publishing(publishing)),
            ..pb::Settings::default()
        })),
    };
    let (sender, inbound) = mpsc::channel(4);
    sender.send(settings).await.unwrap();
    let stream = by("other-producer", ReceiverStream::new(inbound));
    let mut commands = world.client.telemetry(stream).await.unwrap().into_inner();
    let entry = world.entry(half(message("pay", "m1", Some("t")))).await;
    let question = loop {
        let command = commands.message().await.unwrap().unwrap();
        if let Some(Command::RecoverOrphanedTransactionCommand(question)) = command.command {
            break question;
        }
    };
    assert_eq!(question.transaction_id, entry.transaction_id);
    let asked = question.message.unwrap();
    assert_eq!(
        (asked.topic, asked.body.as_ref()),
        (resource("pay"), b"m1".as_slice())
    );
    let system = asked.system_properties.unwrap();
    assert_eq!(
        (system.message_id.as_str(), system.tag.as_deref()),
        ("m1", Some("t"))
    );
    assert!(system.body_digest.is_some() && asked.user_properties.is_empty());

    let open = admin_pb::ListTransactionsRequest::default();
    let open = world
        .admin
        .list_transactions(open)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(open.transactions.len(), 1);
    assert_eq!(open.transactions[0].transaction_id, entry.transaction_id);
    let commit = admin_pb::EndTransactionRequest {
        topic: "pay".to_owned(),
        transaction_id: question.transaction_id,
        commit: true,
    };
    world.admin.end_transaction(commit).await.unwrap();
    assert_eq!(world.next("pay").await.body, "m1");
    world.server.stop().await;
}

#[tokio::test]
async fn an_operator_sees_and_cancels_what_waits() {
    let mut world = world().await;
    world.make_kind("later", "delay").await;
    for number in 0..5 {
        let at = now() + Duration::from_secs(3600 * (number + 1));
        let id = format!("m{number}");
        world.entry(due(message("later", &id, None), at)).await;
    }
    let mut request = admin_pb::ListDelayedRequest {
        topic: "later".to_owned(),
        limit: 2,
        from: String::new(),
    };
    let mut seen = Vec::new();
    loop {
        let page = world.admin.list_delayed(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.messages.len() <= 2);
        seen.extend(page.messages);
        if page.next.is_empty() {
            break;
        }
        request.from = page.next;
    }
    assert_eq!(seen.len(), 5);
    let cancel = admin_pb::CancelDelayedRequest {
        topic: "later".to_owned(),
        recall_handle: seen[0].recall_handle.clone(),
    };
    let cancelled = world.admin.cancel_delayed(cancel).await.unwrap();
    assert_eq!(cancelled.into_inner().message_id, seen[0].message_id);
    let left = admin_pb::ListDelayedRequest::default();
    let left = world.admin.list_delayed(left).await.unwrap().into_inner();
    assert_eq!(left.messages.len(), 4);
    world.server.stop().await;
}
