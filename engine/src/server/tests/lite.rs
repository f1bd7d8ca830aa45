//! Lite topics at the wire, as the lite consumers of the official clients use them.

use millpond_proto::wire::admin as admin_pb;
use millpond_proto::wire::rocketmq::LiteSubscriptionAction as Does;
use millpond_proto::wire::rocketmq::offset_option::{OffsetType, Policy};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::consumers::{World, by, message, poll, receive, resource, world, world_with};
use super::*;

const PARENT: &str = "chats";
const GROUP: &str = "readers";

async fn lite_world() -> World {
    let mut world = world().await;
    let request = admin_pb::CreateTopicRequest {
        name: PARENT.to_owned(),
        r#type: "lite".to_owned(),
        ..admin_pb::CreateTopicRequest::default()
    };
    world.admin.create_topic(request).await.unwrap();
    world
}

fn said(action: Does, names: &[&str]) -> pb::SyncLiteSubscriptionRequest {
    pb::SyncLiteSubscriptionRequest {
        action: action.into(),
        topic: resource(PARENT),
        group: resource(GROUP),
        lite_topic_set: names.iter().map(|name| (*name).to_owned()).collect(),
        ..pb::SyncLiteSubscriptionRequest::default()
    }
}

fn to(name: &str, id: &str) -> pb::Message {
    let mut message = message(PARENT, id, None);
    let system = message.system_properties.as_mut().unwrap();
    system.lite_topic = Some(name.to_owned());
    message
}

impl World {
    async fn sync(&mut self, client: &str, request: pb::SyncLiteSubscriptionRequest) -> pb::Code {
        let answer = self
            .client
            .sync_lite_subscription(by(client, request))
            .await;
        code(answer.unwrap().into_inner().status)
    }

    /// Lite topic, id and attempt of what a poll brings.
    async fn popped(&mut self, client: &str) -> Vec<(String, String, i32)> {
        let (_, messages) = self.receive(client, poll(PARENT, GROUP, "*")).await;
        let facts = messages.into_iter().map(|message| {
            let system = message.system_properties.unwrap();
            let name = system.lite_topic.unwrap();
            (name, system.message_id, system.delivery_attempt.unwrap())
        });
        facts.collect()
    }

    /// Opens the telemetry stream of a client of some kind, and reads its settings.
    async fn settings(
        &mut self,
        client: &str,
        kind: pb::ClientType,
    ) -> (
        pb::Subscription,
        mpsc::Sender<pb::TelemetryCommand>,
        tonic::Streaming<pb::TelemetryCommand>,
    ) {
        let (sender, commands) = mpsc::channel(4);
        let settings = pb::Settings {
            client_type: Some(kind.into()),
            pub_sub: Some(PubSub::Subscription(pb::Subscription {
                group: resource(GROUP),
                ..pb::Subscription::default()
            })),
            ..pb::Settings::default()
        };
        let command = pb::TelemetryCommand {
            status: None,
            command: Some(Command::Settings(settings)),
        };
        sender.send(command).await.unwrap();
        let stream = self
            .client
            .telemetry(by(client, ReceiverStream::new(commands)));
        let mut stream = stream.await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        let Some(Command::Settings(settings)) = first.command else {
            panic!("{first:?}");
        };
        let Some(PubSub::Subscription(subscription)) = settings.pub_sub else {
            panic!("{settings:?}");
        };
        (subscription, sender, stream)
    }
}

#[tokio::test]
async fn a_consumer_gets_the_lite_topics_that_it_subscribes_to_in_order() {
    let mut world = lite_world().await;
    for (name, id) in [("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")] {
        world.send(to(name, id)).await;
    }
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["a"])).await,
        pb::Code::Ok
    );
    let got = world.popped("c1").await;
    let one = |id: &str| ("a".to_owned(), id.to_owned(), 1);
    assert_eq!(got, [one("1"), one("3")]);
    assert!(
        world.popped("c1").await.is_empty(),
        "b and c are not its own"
    );
    // What is held back until then comes when the earlier ones are done with.
    world.send(to("a", "5")).await;
    assert!(world.popped("c1").await.is_empty());
    assert_eq!(
        world.sync("c1", said(Does::CompleteAdd, &["b", "c"])).await,
        pb::Code::Ok
    );
    let mut got = world.popped("c1").await;
    got.sort();
    assert_eq!(
        got,
        [("b".into(), "2".into(), 1), ("c".into(), "4".into(), 1)]
    );
    assert_eq!(
        world.sync("c1", said(Does::CompleteRemove, &[])).await,
        pb::Code::Ok
    );
    world.send(to("b", "6")).await;
    assert!(world.popped("c1").await.is_empty());
    world.server.stop().await;
}

#[tokio::test]
async fn a_poll_that_waits_hears_of_its_own_lite_topics() {
    let mut world = lite_world().await;
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["mine"])).await,
        pb::Code::Ok
    );
    let mut waiting = poll(PARENT, GROUP, "*");
    waiting.long_polling_timeout = Some(prost_types::Duration {
        seconds: 15,
        nanos: 0,
    });
    let mut client = world.client.clone();
    let received = async { receive(&mut client, "c1", waiting).await };
    let sent = async {
        world.send(to("another", "1")).await;
        world.send(to("mine", "2")).await;
    };
    let ((status, messages), ()) = futures::join!(received, sent);
    assert_eq!(status, pb::Code::Ok);
    let id = &messages[0].system_properties.as_ref().unwrap().message_id;
    assert_eq!((messages.len(), id.as_str()), (1, "2"));
    world.server.stop().await;
}

#[tokio::test]
async fn what_comes_while_its_lite_topic_is_polled_brings_nothing_twice() {
    let mut world = lite_world().await;
    let said = world.sync("c1", said(Does::PartialAdd, &["a", "b"])).await;
    assert_eq!(said, pb::Code::Ok);
    let mut client = world.client.clone();
    let received = async {
        let mut got = Vec::new();
        for attempt in 0.. {
            let mut asked = poll(PARENT, GROUP, "*");
            asked.attempt_id = Some(format!("attempt-{attempt}"));
            asked.long_polling_timeout = Some(prost_types::Duration {
                seconds: 15,
                nanos: 0,
            });
            let (_, messages) = receive(&mut client, "c1", asked).await;
            for message in messages {
                let system = message.system_properties.unwrap();
                let ack = pb::AckMessageRequest {
                    group: resource(GROUP),
                    topic: resource(PARENT),
                    entries: vec![pb::AckMessageEntry {
                        receipt_handle: system.receipt_handle.unwrap(),
                        lite_topic: system.lite_topic.clone(),
                        ..pb::AckMessageEntry::default()
                    }],
                };
                let answer = client.ack_message(by("c1", ack)).await.unwrap();
                assert_eq!(code(answer.into_inner().status), pb::Code::Ok);
                got.push((system.lite_topic.unwrap(), system.message_id));
            }
            if got.len() >= 60 {
                break;
            }
        }
        got
    };
    let sent = async {
        for id in 0..30 {
            for name in ["a", "b"] {
                world.send(to(name, &format!("{id:02}"))).await;
            }
        }
    };
    let (mut got, ()) = futures::join!(received, sent);
    got.sort();
    let wanted = ["a", "b"].into_iter();
    let wanted = wanted.flat_map(|name| (0..30).map(move |id| (name.into(), format!("{id:02}"))));
    assert_eq!(got, wanted.collect::<Vec<(String, String)>>());
    world.server.stop().await;
}

#[tokio::test]
async fn each_refusal_of_lite_topics_has_its_code() {
    let mut world = lite_world().await;
    world.make("plain").await;
    let long = "l".repeat(65);
    for bad in ["", " ", "a\tb", &long] {
        let refused = world.sync("c1", said(Does::PartialAdd, &[bad])).await;
        assert_eq!(refused, pb::Code::IllegalLiteTopic, "{bad:?}");
    }
    let many: Vec<String> = (0..2301).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        world
            .sync("c1", said(Does::PartialAdd, &many[..2300]))
            .await,
        pb::Code::Ok
    );
    let over = world.sync("c1", said(Does::CompleteAdd, &many)).await;
    assert_eq!(over, pb::Code::LiteSubscriptionQuotaExceeded);
    let mut plain = said(Does::PartialAdd, &["a"]);
    plain.topic = resource("plain");
    assert_eq!(
        world.sync("c1", plain.clone()).await,
        pb::Code::IllegalTopic,
        "not a parent"
    );
    let request = admin_pb::CreateTopicRequest {
        name: "others".to_owned(),
        r#type: "lite".to_owned(),
        ..admin_pb::CreateTopicRequest::default()
    };
    world.admin.create_topic(request).await.unwrap();
    plain.topic = resource("others");
    assert_eq!(
        world.sync("c1", plain).await,
        pb::Code::IllegalTopic,
        "another parent"
    );
    let (refused, _) = world.receive("c1", poll("others", GROUP, "*")).await;
    assert_eq!(refused, pb::Code::IllegalTopic);
    // A group that reads whole topics, and a consumer that does.
    world.receive("c2", poll("plain", "whole", "*")).await;
    let mut whole = said(Does::PartialAdd, &["a"]);
    whole.group = resource("whole");
    assert_eq!(
        world.sync("c2", whole).await,
        pb::Code::IllegalConsumerGroup
    );
    let (_, _open, _stream) = world.settings("c3", pb::ClientType::PushConsumer).await;
    let (refused, _) = world.receive("c3", poll(PARENT, GROUP, "*")).await;
    assert_eq!(refused, pb::Code::IllegalConsumerGroup);
    let mut option = said(Does::PartialAdd, &["a"]);
    option.offset_option = Some(pb::OffsetOption {
        offset_type: Some(OffsetType::TailN(-1)),
    });
    assert_eq!(world.sync("c1", option).await, pb::Code::IllegalOffset);
    let mut unnamed = to("a", "1");
    unnamed.system_properties.as_mut().unwrap().lite_topic = None;
    let request = pb::SendMessageRequest {
        messages: vec![unnamed],
    };
    let answer = world.client.send_message(by("p", request)).await.unwrap();
    let conflict = pb::Code::MessagePropertyConflictWithType;
    assert_eq!(code(answer.into_inner().status), conflict);
    world.server.stop().await;
}

#[tokio::test]
async fn the_messages_of_lite_topics_are_not_kept_by_key() {
    let mut world = lite_world().await;
    let by_key = admin_pb::CreateTopicRequest {
        name: "by-key".to_owned(),
        r#type: "lite".to_owned(),
        compacts: true,
        ..admin_pb::CreateTopicRequest::default()
    };
    let made = world.admin.create_topic(by_key).await.unwrap_err();
    let altered = admin_pb::AlterTopicRequest {
        name: PARENT.to_owned(),
        compacts: Some(true),
        ..admin_pb::AlterTopicRequest::default()
    };
    let altered = world.admin.alter_topic(altered).await.unwrap_err();
    for refused in [made, altered] {
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("lite topics"), "{refused}");
    }
    world.server.stop().await;
}

#[tokio::test]
async fn nothing_is_made_on_first_use_where_that_is_not_wanted() {
    let mut world = world_with(Some(false)).await;
    let refused = world.sync("c1", said(Does::PartialAdd, &["a"])).await;
    assert_eq!(refused, pb::Code::TopicNotFound);
    let request = admin_pb::CreateTopicRequest {
        name: PARENT.to_owned(),
        r#type: "lite".to_owned(),
        ..admin_pb::CreateTopicRequest::default()
    };
    world.admin.create_topic(request).await.unwrap();
    let refused = world.sync("c1", said(Does::PartialAdd, &["a"])).await;
    assert_eq!(refused, pb::Code::ConsumerGroupNotFound);
    world.server.stop().await;
}

#[tokio::test]
async fn a_lite_consumer_is_told_its_quotas_and_to_work_in_order() {
    let mut world = lite_world().await;
    let (lite, _open, _stream) = world.settings("c1", pb::ClientType::LitePushConsumer).await;
    assert_eq!(
        (
            lite.lite_subscription_quota,
            lite.max_lite_topic_size,
            lite.fifo
        ),
        (Some(2000), Some(64), Some(true))
    );
    let (plain, _open, _stream) = world.settings("c2", pb::ClientType::PushConsumer).await;
    assert_eq!(
        (plain.lite_subscription_quota, plain.max_lite_topic_size),
        (None, None)
    );
    // It may poll before it subscribes: its group is one of lite topics from the start.
    let (status, _) = world.receive("c1", poll(PARENT, GROUP, "*")).await;
    assert_eq!(status, pb::Code::MessageNotFound);
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["a"])).await,
        pb::Code::Ok
    );
    world.server.stop().await;
}

#[tokio::test]
async fn a_suspended_message_comes_back_as_the_same_attempt() {
    let mut world = lite_world().await;
    world.send(to("a", "1")).await;
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["a"])).await,
        pb::Code::Ok
    );
    for (suspend, attempt) in [(Some(true), 1), (Some(false), 1), (None, 2)] {
        let (_, messages) = world.receive("c1", poll(PARENT, GROUP, "*")).await;
        let system = messages[0].system_properties.clone().unwrap();
        assert_eq!(system.delivery_attempt, Some(attempt));
        let change = pb::ChangeInvisibleDurationRequest {
            group: resource(GROUP),
            topic: resource(PARENT),
            receipt_handle: system.receipt_handle.unwrap(),
            invisible_duration: Some(prost_types::Duration::default()),
            lite_topic: Some("a".to_owned()),
            suspend,
            ..pb::ChangeInvisibleDurationRequest::default()
        };
        let answer = world
            .client
            .change_invisible_duration(by("c1", change))
            .await;
        assert_eq!(code(answer.unwrap().into_inner().status), pb::Code::Ok);
    }
    assert_eq!(world.popped("c1").await, [("a".into(), "1".into(), 3)]);
    world.server.stop().await;
}

#[tokio::test]
async fn a_consumer_says_where_a_lite_topic_is_to_start() {
    let mut world = lite_world().await;
    for id in ["1", "2", "3"] {
        world.send(to("a", id)).await;
    }
    let mut starts = async |client: &str, group: &str, of: OffsetType| {
        let mut request = said(Does::PartialAdd, &["a"]);
        request.group = resource(group);
        request.offset_option = Some(pb::OffsetOption {
            offset_type: Some(of),
        });
        assert_eq!(world.sync(client, request).await, pb::Code::Ok);
        let (_, messages) = world.receive(client, poll(PARENT, group, "*")).await;
        let ids = messages
            .into_iter()
            .map(|m| m.system_properties.unwrap().message_id);
        ids.collect::<Vec<_>>().concat()
    };
    assert_eq!(
        starts("c1", "g1", OffsetType::Policy(Policy::Min.into())).await,
        "123"
    );
    assert_eq!(
        starts("c2", "g2", OffsetType::Policy(Policy::Max.into())).await,
        ""
    );
    assert_eq!(starts("c3", "g3", OffsetType::TailN(2)).await, "23");
    assert_eq!(
        starts("c4", "g4", OffsetType::Policy(Policy::Last.into())).await,
        "123"
    );
    assert_eq!(starts("c5", "g5", OffsetType::Timestamp(0)).await, "123");
    world.server.stop().await;
}

#[tokio::test]
async fn the_next_consumer_of_an_exclusive_group_takes_over_and_the_one_before_is_told() {
    let mut world = lite_world().await;
    let request = admin_pb::CreateGroupRequest {
        name: GROUP.to_owned(),
        lite: Some(admin_pb::LiteGroup {
            topic: PARENT.to_owned(),
            exclusive: true,
        }),
        ..admin_pb::CreateGroupRequest::default()
    };
    world.admin.create_group(request).await.unwrap();
    let (_, _open, mut stream) = world.settings("c1", pb::ClientType::LitePushConsumer).await;
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["a", "b"])).await,
        pb::Code::Ok
    );
    assert_eq!(
        world.sync("c2", said(Does::PartialAdd, &["a"])).await,
        pb::Code::Ok
    );
    let told = loop {
        match stream.message().await.unwrap().unwrap().command {
            Some(Command::NotifyUnsubscribeLiteCommand(command)) => break command.lite_topic,
            // Settings are repeated once.
            Some(Command::Settings(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told, "a");
    world.send(to("a", "1")).await;
    world.send(to("b", "2")).await;
    assert_eq!(world.popped("c1").await, [("b".into(), "2".into(), 1)]);
    assert_eq!(world.popped("c2").await, [("a".into(), "1".into(), 1)]);
    let request = admin_pb::ListLiteListenersRequest {
        group: GROUP.to_owned(),
    };
    let listeners = world.admin.list_lite_listeners(request).await.unwrap();
    let listeners = listeners.into_inner().listeners.into_iter();
    let listeners: Vec<_> = listeners
        .map(|one| (one.consumer, one.lite_topics))
        .collect();
    let expected = [
        ("c1".to_owned(), vec!["b".to_owned()]),
        ("c2".into(), vec!["a".into()]),
    ];
    assert_eq!(listeners, expected);
    world.server.stop().await;
}

#[tokio::test]
async fn lite_topics_are_listed_shown_and_ended() {
    let mut world = lite_world().await;
    for number in 0..5 {
        world.send(to(&format!("l{number}"), "m")).await;
    }
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["l0"])).await,
        pb::Code::Ok
    );
    world.popped("c1").await;
    let mut names = Vec::new();
    let mut from = None;
    loop {
        let request = admin_pb::ListLiteTopicsRequest {
            topic: PARENT.to_owned(),
            limit: 2,
            from: from.take(),
            ..admin_pb::ListLiteTopicsRequest::default()
        };
        let page = world
            .admin
            .list_lite_topics(request)
            .await
            .unwrap()
            .into_inner();
        assert!(page.topics.len() <= 2 && page.count == 5);
        names.extend(page.topics.into_iter().map(|one| one.name));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    names.sort();
    assert_eq!(names, ["l0", "l1", "l2", "l3", "l4"]);
    let show = || admin_pb::ListLiteTopicsRequest {
        topic: PARENT.to_owned(),
        name: "l0".to_owned(),
        ..admin_pb::ListLiteTopicsRequest::default()
    };
    let shown = world
        .admin
        .list_lite_topics(show())
        .await
        .unwrap()
        .into_inner();
    let group = &shown.topics[0].groups[0];
    assert_eq!(
        (group.group.as_str(), group.in_flight, group.lag),
        (GROUP, 1, 1)
    );
    let end = || admin_pb::EndLiteTopicRequest {
        topic: PARENT.to_owned(),
        name: "l0".to_owned(),
    };
    world.admin.end_lite_topic(end()).await.unwrap();
    for gone in [
        world
            .admin
            .list_lite_topics(show())
            .await
            .map(|_| ())
            .unwrap_err(),
        world
            .admin
            .end_lite_topic(end())
            .await
            .map(|_| ())
            .unwrap_err(),
    ] {
        assert_eq!(gone.code(), tonic::Code::NotFound);
    }
    // The same name anew begins with what is sent then.
    world.send(to("l0", "new")).await;
    assert_eq!(world.popped("c1").await, [("l0".into(), "new".into(), 1)]);
    world.server.stop().await;
}

#[tokio::test]
async fn a_dead_letter_goes_back_to_its_lite_topic() {
    let mut world = lite_world().await;
    world.send(to("a", "1")).await;
    assert_eq!(
        world.sync("c1", said(Does::PartialAdd, &["a"])).await,
        pb::Code::Ok
    );
    let (_, messages) = world.receive("c1", poll(PARENT, GROUP, "*")).await;
    let system = messages[0].system_properties.clone().unwrap();
    let request = pb::ForwardMessageToDeadLetterQueueRequest {
        group: resource(GROUP),
        topic: resource(PARENT),
        receipt_handle: system.receipt_handle.unwrap(),
        message_id: "1".to_owned(),
        lite_topic: Some("a".to_owned()),
        ..pb::ForwardMessageToDeadLetterQueueRequest::default()
    };
    let answer = world
        .client
        .forward_message_to_dead_letter_queue(by("c1", request));
    assert_eq!(
        code(answer.await.unwrap().into_inner().status),
        pb::Code::Ok
    );
    assert!(world.popped("c1").await.is_empty());
    let letters = || admin_pb::DeadLettersRequest {
        group: GROUP.to_owned(),
        ..admin_pb::DeadLettersRequest::default()
    };
    let found = world.admin.redrive_dead_letters(letters()).await.unwrap();
    let found = found.into_inner().letters;
    assert_eq!((found.len(), found[0].failed.as_str()), (1, ""));
    assert_eq!(world.popped("c1").await, [("a".into(), "1".into(), 1)]);
    world.server.stop().await;
}
