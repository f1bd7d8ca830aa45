//! The contract of `apache.rocketmq.v2` at the wire: statuses, limits, order of frames, echoes.
//!
//! One test per rule of the contract, as a client meets it. What a message may be is tested in
//! `sending.rs`; pulling and offsets are tested from the outside in `tests/tests/streams.rs`.

use super::consumers::{World, by, message, poll, resource, system, world};
use super::*;

fn endpoints(host: &str, port: i32) -> Option<pb::Endpoints> {
    Some(pb::Endpoints {
        scheme: pb::AddressScheme::DomainName.into(),
        addresses: vec![pb::Address {
            host: host.to_owned(),
            port,
        }],
    })
}

async fn acked(world: &mut World, topic: &str, handles: &[&str]) -> pb::AckMessageResponse {
    let entries = handles.iter().map(|handle| pb::AckMessageEntry {
        message_id: format!("id of {handle}"),
        receipt_handle: (*handle).to_owned(),
        ..pb::AckMessageEntry::default()
    });
    let request = pb::AckMessageRequest {
        group: resource("billing"),
        topic: resource(topic),
        entries: entries.collect(),
    };
    let answer = world.client.ack_message(by("c", request)).await;
    answer.unwrap().into_inner()
}

fn changed(handle: &str, ms: i64) -> Request<pb::ChangeInvisibleDurationRequest> {
    let request = pb::ChangeInvisibleDurationRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: handle.to_owned(),
        invisible_duration: Some(crate::service::time::wire_duration(ms)),
        ..pb::ChangeInvisibleDurationRequest::default()
    };
    by("c", request)
}

fn handle(message: &pb::Message) -> String {
    system(message).receipt_handle.clone().unwrap()
}

/// Calls every unary method with a request and asserts the code of its answer.
macro_rules! all_answer {
    ($world:expr, $code:expr, $($method:ident($request:expr)),* $(,)?) => {$(
        let answer = $world.client.$method($request).await.unwrap().into_inner();
        assert_eq!(code(answer.status), $code, stringify!($method));
    )*};
}

#[tokio::test]
async fn every_call_must_say_which_client_calls() {
    let mut world = world().await;
    let required = pb::Code::ClientIdRequired;
    all_answer!(
        world,
        required,
        query_route(pb::QueryRouteRequest::default()),
        heartbeat(pb::HeartbeatRequest::default()),
        send_message(pb::SendMessageRequest::default()),
        query_assignment(pb::QueryAssignmentRequest::default()),
        ack_message(pb::AckMessageRequest::default()),
        forward_message_to_dead_letter_queue(pb::ForwardMessageToDeadLetterQueueRequest::default()),
        end_transaction(pb::EndTransactionRequest::default()),
        notify_client_termination(pb::NotifyClientTerminationRequest::default()),
        change_invisible_duration(pb::ChangeInvisibleDurationRequest::default()),
        recall_message(pb::RecallMessageRequest::default()),
        sync_lite_subscription(pb::SyncLiteSubscriptionRequest::default()),
        update_offset(pb::UpdateOffsetRequest::default()),
        get_offset(pb::GetOffsetRequest::default()),
        query_offset(pb::QueryOffsetRequest::default()),
    );
    let request = pb::ReceiveMessageRequest::default();
    let (refused, none) = world.receive("  ", request).await;
    assert_eq!((refused, none.len()), (required, 0));
    // Telemetry has no place for a status: it ends.
    let nothing = futures::stream::empty::<pb::TelemetryCommand>();
    let ended = world.client.telemetry(nothing).await.map(|_| ());
    assert_eq!(ended.unwrap_err().code(), tonic::Code::InvalidArgument);
    world.server.stop().await;
}

#[tokio::test]
async fn names_that_break_a_rule_have_codes_of_their_own() {
    let mut world = world().await;
    world.make("orders").await;
    for bad in ["", "with space", &"t".repeat(128), "TBW102", "rmq_sys_x"] {
        let topic = || resource(bad);
        let group = || resource("billing");
        all_answer!(
            world,
            pb::Code::IllegalTopic,
            query_route(by(
                "c",
                pb::QueryRouteRequest {
                    topic: topic(),
                    endpoints: endpoints("a", 1),
                }
            )),
            query_assignment(by(
                "c",
                pb::QueryAssignmentRequest {
                    topic: topic(),
                    group: group(),
                    endpoints: endpoints("a", 1),
                }
            )),
            send_message(by(
                "c",
                pb::SendMessageRequest {
                    messages: vec![message(bad, "1", None)],
                }
            )),
            ack_message(by(
                "c",
                pb::AckMessageRequest {
                    topic: topic(),
                    group: group(),
                    ..pb::AckMessageRequest::default()
                }
            )),
            change_invisible_duration(by(
                "c",
                pb::ChangeInvisibleDurationRequest {
                    topic: topic(),
                    group: group(),
                    ..pb::ChangeInvisibleDurationRequest::default()
                }
            )),
            forward_message_to_dead_letter_queue(by(
                "c",
                pb::ForwardMessageToDeadLetterQueueRequest {
                    topic: topic(),
                    group: group(),
                    ..pb::ForwardMessageToDeadLetterQueueRequest::default()
                }
            )),
        );
        let (refused, _) = world.receive("c", poll(bad, "billing", "*")).await;
        assert_eq!(refused, pb::Code::IllegalTopic, "{bad:?}");
    }
    for bad in ["", "with space", &"g".repeat(121), "CID_RMQ_SYS_x"] {
        let (refused, _) = world.receive("c", poll("orders", bad, "*")).await;
        assert_eq!(refused, pb::Code::IllegalConsumerGroup, "{bad:?}");
        all_answer!(
            world,
            pb::Code::IllegalConsumerGroup,
            query_assignment(by(
                "c",
                pb::QueryAssignmentRequest {
                    topic: resource("orders"),
                    group: resource(bad),
                    endpoints: endpoints("a", 1),
                }
            )),
            ack_message(by(
                "c",
                pb::AckMessageRequest {
                    topic: resource("orders"),
                    group: resource(bad),
                    ..pb::AckMessageRequest::default()
                }
            )),
        );
    }
    world.server.stop().await;
}

#[tokio::test]
async fn a_route_echoes_the_endpoints_and_every_broker_has_a_queue_zero() {
    let mut world = world().await;
    world.make("orders").await;
    let dialled = endpoints("behind.nat.example", 18081);
    let request = |endpoints| {
        by(
            "c",
            pb::QueryRouteRequest {
                topic: resource("orders"),
                endpoints,
            },
        )
    };
    let answer = world.client.query_route(request(dialled.clone())).await;
    let queues = answer.unwrap().into_inner().message_queues;
    assert_eq!(queues.iter().filter(|queue| queue.id == 0).count(), 1);
    for queue in &queues {
        let broker = queue.broker.as_ref().unwrap();
        assert_eq!((broker.id, &broker.endpoints), (0, &dialled));
        assert_eq!(queue.permission(), pb::Permission::ReadWrite);
        assert_eq!(queue.accept_message_types, [pb::MessageType::Normal as i32]);
    }
    let assigned = by(
        "c",
        pb::QueryAssignmentRequest {
            topic: resource("orders"),
            group: resource("billing"),
            endpoints: dialled,
        },
    );
    let assigned = world.client.query_assignment(assigned).await.unwrap();
    let assigned = assigned.into_inner().assignments;
    assert_eq!(assigned.len(), 1);
    assert_eq!(assigned[0].message_queue.as_ref().unwrap().id, -1);
    for bad in [
        None,
        endpoints("", 1),
        endpoints("a", 0),
        endpoints("a", 65_536),
    ] {
        all_answer!(
            world,
            pb::Code::IllegalAccessPoint,
            query_route(request(bad))
        );
    }
    world.server.stop().await;
}

#[tokio::test]
async fn an_ack_is_answered_entry_by_entry_with_what_was_sent() {
    let mut world = world().await;
    world.make("orders").await;
    world.send(message("orders", "1", None)).await;
    let (_, got) = world.receive("c", poll("orders", "billing", "*")).await;
    let good = handle(&got[0]);
    let answer = acked(&mut world, "orders", &[&good, "garbage"]).await;
    assert_eq!(code(answer.status), pb::Code::MultipleResults);
    let entry = |n: usize| &answer.entries[n];
    assert_eq!(code(entry(0).status.clone()), pb::Code::Ok);
    assert_eq!(
        code(entry(1).status.clone()),
        pb::Code::InvalidReceiptHandle
    );
    assert_eq!(entry(1).receipt_handle, "garbage");
    assert_eq!(entry(0).message_id, format!("id of {good}"));
    // With one entry the outer status is the entry's: Python looks at nothing else.
    let alone = acked(&mut world, "orders", &["garbage"]).await;
    assert_eq!(code(alone.status), pb::Code::InvalidReceiptHandle);
    let again = acked(&mut world, "orders", &[&good]).await;
    assert_eq!(
        code(again.status),
        pb::Code::Ok,
        "an ack whose answer was lost"
    );
    let empty = acked(&mut world, "orders", &[]).await;
    assert_eq!(code(empty.status), pb::Code::InternalServerError);
    world.server.stop().await;
}

#[tokio::test]
async fn an_invisible_time_is_bounded_and_moving_it_gives_a_new_handle() {
    let mut world = world().await;
    world.make("orders").await;
    world.send(message("orders", "1", None)).await;
    for (ms, expected) in [
        (9_999, pb::Code::IllegalInvisibleTime),
        (43_200_001, pb::Code::IllegalInvisibleTime),
        (10_000, pb::Code::Ok),
    ] {
        let request = pb::ReceiveMessageRequest {
            auto_renew: false,
            invisible_duration: Some(crate::service::time::wire_duration(ms)),
            ..poll("orders", "billing", "*")
        };
        let (answer, got) = world.receive("c", request).await;
        assert_eq!(answer, expected, "{ms}");
        let Some(got) = got.first() else { continue };
        let first = handle(got);
        let beyond = world
            .client
            .change_invisible_duration(changed(&first, 43_200_001))
            .await;
        let beyond = beyond.unwrap().into_inner().status;
        assert_eq!(code(beyond), pb::Code::IllegalInvisibleTime);
        let moved = world
            .client
            .change_invisible_duration(changed(&first, 60_000))
            .await;
        let second = moved.unwrap().into_inner().receipt_handle;
        let stale = acked(&mut world, "orders", &[&first]).await;
        assert_eq!(code(stale.status), pb::Code::InvalidReceiptHandle);
        let at_once = world
            .client
            .change_invisible_duration(changed(&second, 0))
            .await;
        assert_eq!(code(at_once.unwrap().into_inner().status), pb::Code::Ok);
        let (_, again) = world.receive("c", poll("orders", "billing", "*")).await;
        assert_eq!(system(&again[0]).delivery_attempt, Some(2));
    }
    world.server.stop().await;
}

#[tokio::test]
async fn a_handle_of_a_topic_that_was_made_anew_touches_nothing() {
    let mut world = world().await;
    world.make("orders").await;
    world.send(message("orders", "old", None)).await;
    let (_, old) = world.receive("c", poll("orders", "billing", "*")).await;
    let name = millpond_proto::wire::admin::DeleteTopicRequest {
        name: "orders".to_owned(),
    };
    world.admin.delete_topic(name).await.unwrap();
    world.make("orders").await;
    world.send(message("orders", "new", None)).await;
    let stale = handle(&old[0]);
    let answer = acked(&mut world, "orders", &[&stale]).await;
    assert_eq!(code(answer.status), pb::Code::InvalidReceiptHandle);
    let moved = world
        .client
        .change_invisible_duration(changed(&stale, 0))
        .await;
    assert_eq!(
        code(moved.unwrap().into_inner().status),
        pb::Code::InvalidReceiptHandle
    );
    let (_, new) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(system(&new[0]).message_id, "new");
    world.server.stop().await;
}

#[tokio::test]
async fn beats_and_goodbyes_of_unknown_clients_are_welcome() {
    let mut world = world().await;
    for kind in 0..=6 {
        let beat = pb::HeartbeatRequest {
            client_type: kind,
            ..pb::HeartbeatRequest::default()
        };
        let bye = pb::NotifyClientTerminationRequest::default();
        all_answer!(
            world,
            pb::Code::Ok,
            heartbeat(by("nobody knows me", beat)),
            notify_client_termination(by("nobody knows me", bye)),
        );
    }
    world.server.stop().await;
}
