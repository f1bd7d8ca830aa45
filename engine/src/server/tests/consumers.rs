//! Consumers at the wire: a whole server over a simulated disk, called as the official clients call it.

use millpond_proto::chance::Seeded;
use millpond_proto::wire::admin as admin_pb;
use millpond_proto::wire::admin::admin_client::AdminClient;
use millpond_proto::wire::rocketmq::receive_message_response::Content;
use millpond_proto::wire::rocketmq::retry_policy::Strategy;
use millpond_storage::disk::simulated::SimulatedDisk;

use super::*;

mod later;

type Client = MessagingServiceClient<Channel>;

pub(super) struct World {
    pub(super) server: Running,
    pub(super) client: Client,
    pub(super) admin: AdminClient<Channel>,
}

pub(super) async fn world() -> World {
    world_with(None).await
}

/// A server that was told whether it makes topics and groups on first use.
pub(super) async fn world_with(auto_create: Option<bool>) -> World {
    let disk: Arc<dyn millpond_storage::disk::Disk> = Arc::new(SimulatedDisk::new());
    let storage = millpond_storage::log::Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SystemClock),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    };
    let any = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        grpc: any,
        http: any,
        auto_create,
        ..Config::default()
    };
    let parts = Parts {
        storage,
        network: Arc::new(TcpNetwork),
    };
    let server = Server::start(config, parts).await.unwrap();
    let address = format!("http://{}", server.grpc_addr);
    let channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    World {
        server,
        client: MessagingServiceClient::new(channel.clone()),
        admin: AdminClient::new(channel),
    }
}

pub(super) fn resource(name: &str) -> Option<pb::Resource> {
    Some(pb::Resource {
        name: name.to_owned(),
        ..pb::Resource::default()
    })
}

pub(super) fn by<T>(client: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = client.parse().unwrap();
    request.metadata_mut().insert("x-mq-client-id", id);
    request
}

pub(super) fn message(topic: &str, id: &str, tag: Option<&str>) -> pb::Message {
    pb::Message {
        topic: resource(topic),
        body: id.as_bytes().to_vec().into(),
        system_properties: Some(pb::SystemProperties {
            message_id: id.to_owned(),
            tag: tag.map(str::to_owned),
            ..pb::SystemProperties::default()
        }),
        ..pb::Message::default()
    }
}

impl World {
    pub(super) async fn make(&mut self, topic: &str) {
        let request = admin_pb::CreateTopicRequest {
            name: topic.to_owned(),
            ..admin_pb::CreateTopicRequest::default()
        };
        self.admin.create_topic(request).await.unwrap();
    }

    pub(super) async fn send(&mut self, message: pb::Message) {
        let request = pb::SendMessageRequest {
            messages: vec![message],
        };
        let answer = self.client.send_message(by("p", request)).await.unwrap();
        assert_eq!(code(answer.into_inner().status), pb::Code::Ok);
    }

    pub(super) async fn receive(
        &mut self,
        client: &str,
        request: pb::ReceiveMessageRequest,
    ) -> (pb::Code, Vec<pb::Message>) {
        receive(&mut self.client, client, request).await
    }
}

pub(super) async fn receive(
    wire: &mut Client,
    client: &str,
    request: pb::ReceiveMessageRequest,
) -> (pb::Code, Vec<pb::Message>) {
    let frames = wire.receive_message(by(client, request)).await;
    let mut frames = frames.unwrap().into_inner();
    let (mut status, mut messages) = (None, Vec::new());
    while let Some(frame) = frames.message().await.unwrap() {
        match frame.content.unwrap() {
            Content::Status(found) => status = Some(found),
            Content::Message(message) => messages.push(message),
            Content::DeliveryTimestamp(_) => {}
        }
    }
    (code(status), messages)
}

pub(super) fn poll(topic: &str, group: &str, tag: &str) -> pb::ReceiveMessageRequest {
    pb::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(pb::MessageQueue {
            topic: resource(topic),
            ..pb::MessageQueue::default()
        }),
        filter_expression: Some(pb::FilterExpression {
            r#type: pb::FilterType::Tag.into(),
            expression: tag.to_owned(),
        }),
        batch_size: 8,
        auto_renew: true,
        long_polling_timeout: Some(prost_types::Duration::default()),
        ..pb::ReceiveMessageRequest::default()
    }
}

pub(super) fn system(message: &pb::Message) -> &pb::SystemProperties {
    message.system_properties.as_ref().unwrap()
}

#[tokio::test]
async fn the_answer_to_a_poll_begins_once_there_is_something_and_leaves_in_one_piece() {
    let mut world = world().await;
    world.make("orders").await;
    let patient = pb::ReceiveMessageRequest {
        long_polling_timeout: Some(prost_types::Duration {
            seconds: 15,
            nanos: 0,
        }),
        ..poll("orders", "billing", "*")
    };
    let mut consumer = world.client.clone();
    let mut answer = Box::pin(consumer.receive_message(by("c", patient)));
    // Other calls of the same connection come and go meanwhile.
    for _ in 0..3 {
        let beat = by("c", pb::HeartbeatRequest::default());
        tokio::select! {
            biased;
            _ = &mut answer => panic!("it began before there was anything to say"),
            beat = world.client.heartbeat(beat) => assert!(beat.is_ok()),
        }
    }
    let (answer, ()) = tokio::join!(answer, world.send(message("orders", "one", None)));
    let frames = answer.unwrap().into_inner();
    let frames: Vec<_> = futures::TryStreamExt::try_collect(frames).await.unwrap();
    assert_eq!(frames.len(), 3, "a status, the message, a timestamp");
}

#[tokio::test]
async fn a_negative_ack_brings_a_message_back_and_a_forward_makes_it_a_dead_letter() {
    let mut world = world().await;
    world.make("orders").await;
    world.send(message("orders", "one", None)).await;
    let (_, first) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(system(&first[0]).delivery_attempt, Some(1));
    let old = system(&first[0]).receipt_handle.clone().unwrap();
    let change = pb::ChangeInvisibleDurationRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: old.clone(),
        invisible_duration: Some(prost_types::Duration::default()),
        ..pb::ChangeInvisibleDurationRequest::default()
    };
    let changed = world
        .client
        .change_invisible_duration(by("c", change))
        .await;
    let changed = changed.unwrap().into_inner();
    assert_eq!(code(changed.status), pb::Code::Ok);
    assert_ne!(changed.receipt_handle, old);
    let (_, second) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(system(&second[0]).delivery_attempt, Some(2));

    let in_flight = admin_pb::ListInFlightRequest {
        group: "billing".to_owned(),
        limit: 0,
    };
    let held = world
        .admin
        .list_in_flight(in_flight)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(held.messages.len(), 1);
    assert_eq!(held.messages[0].consumer, "c");
    assert!(held.messages[0].renewed && held.messages[0].attempts == 2);

    let forward = pb::ForwardMessageToDeadLetterQueueRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: system(&second[0]).receipt_handle.clone().unwrap(),
        message_id: "one".to_owned(),
        delivery_attempt: 2,
        max_delivery_attempts: 2,
        ..pb::ForwardMessageToDeadLetterQueueRequest::default()
    };
    let forwarded = world
        .client
        .forward_message_to_dead_letter_queue(by("c", forward))
        .await;
    assert_eq!(code(forwarded.unwrap().into_inner().status), pb::Code::Ok);
    let (none, _) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(none, pb::Code::MessageNotFound);
    let (_, dead) = world
        .receive("d", poll("%DLQ%billing", "doctors", "*"))
        .await;
    let letter = system(&dead[0]).dead_letter_queue.clone().unwrap();
    assert_eq!(
        (letter.topic.as_str(), letter.message_id.as_str()),
        ("orders", "one")
    );
    assert_eq!(dead[0].body, first[0].body);
    assert_eq!(dead[0].user_properties["DLQ_REASON"], "request");
    assert!(!dead[0].user_properties.contains_key("DLQ_ORIGIN_TOPIC"));

    let letters = admin_pb::DeadLettersRequest {
        group: "billing".to_owned(),
        ..admin_pb::DeadLettersRequest::default()
    };
    let redriven = world
        .admin
        .redrive_dead_letters(letters.clone())
        .await
        .unwrap();
    let redriven = redriven.into_inner();
    assert_eq!(redriven.letters.len(), 1);
    assert_eq!(
        (redriven.letters[0].failed.as_str(), redriven.more),
        ("", false)
    );
    let (_, again) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(system(&again[0]).delivery_attempt, Some(1));
    world.server.stop().await;
}

#[tokio::test]
async fn the_server_filters_and_a_group_has_one_filter() {
    let mut world = world().await;
    world.make("orders").await;
    for (id, tag) in [("1", "a"), ("2", "b"), ("3", "c")] {
        world.send(message("orders", id, Some(tag))).await;
    }
    let (_, found) = world.receive("c", poll("orders", "g", "a || c")).await;
    let mut ids: Vec<_> = found.iter().map(|m| system(m).message_id.clone()).collect();
    ids.sort();
    assert_eq!(ids, ["1", "3"]);
    let (refused, _) = world.receive("other", poll("orders", "g", "b")).await;
    assert_eq!(refused, pb::Code::IllegalFilterExpression);
    // The first one says goodbye: its messages come back, and the filter is free.
    let bye = pb::NotifyClientTerminationRequest {
        group: resource("g"),
    };
    world
        .client
        .notify_client_termination(by("c", bye))
        .await
        .unwrap();
    let (_, found) = world
        .receive("other", poll("orders", "g", "b || a || c"))
        .await;
    let attempts = found.iter().map(|m| system(m).delivery_attempt.unwrap());
    assert_eq!(
        attempts.collect::<Vec<_>>(),
        [2, 2],
        "b was passed over for good"
    );
    let mut bad = poll("orders", "h", "a >");
    bad.filter_expression.as_mut().unwrap().r#type = pb::FilterType::Sql.into();
    let (bad, _) = world.receive("x", bad).await;
    assert_eq!(bad, pb::Code::IllegalFilterExpression);
    world.server.stop().await;
}

#[tokio::test]
async fn push_consumers_are_told_what_their_group_says() {
    let mut world = world().await;
    let topic = admin_pb::CreateTopicRequest {
        name: "steps".to_owned(),
        r#type: "fifo".to_owned(),
        ..admin_pb::CreateTopicRequest::default()
    };
    world.admin.create_topic(topic).await.unwrap();
    let group = admin_pb::CreateGroupRequest {
        name: "walkers".to_owned(),
        attempts_max: 5,
        backoff: Some(admin_pb::Backoff {
            list_ms: vec![1000, 2000],
            ..admin_pb::Backoff::default()
        }),
        ..admin_pb::CreateGroupRequest::default()
    };
    world.admin.create_group(group).await.unwrap();
    let settings = pb::TelemetryCommand {
        status: None,
        command: Some(Command::Settings(pb::Settings {
            client_type: Some(pb::ClientType::PushConsumer.into()),
            pub_sub: Some(PubSub::Subscription(pb::Subscription {
                group: resource("walkers"),
                subscriptions: vec![pb::SubscriptionEntry {
                    topic: resource("steps"),
                    expression: None,
                }],
                ..pb::Subscription::default()
            })),
            ..pb::Settings::default()
        })),
    };
    let request = by("push", futures::stream::iter([settings]));
    let mut commands = world.client.telemetry(request).await.unwrap().into_inner();
    let answer = commands.message().await.unwrap().unwrap();
    let Some(Command::Settings(merged)) = answer.command else {
        panic!("settings");
    };
    let Some(PubSub::Subscription(subscription)) = merged.pub_sub else {
        panic!("a subscription");
    };
    assert_eq!(subscription.fifo, Some(true));
    let policy = merged.backoff_policy.unwrap();
    assert_eq!(policy.max_attempts, 5);
    let Some(Strategy::CustomizedBackoff(list)) = policy.strategy else {
        panic!("a list");
    };
    assert_eq!(
        list.next.iter().map(|d| d.seconds).collect::<Vec<_>>(),
        [1, 2]
    );
    drop(commands);
    world.server.stop().await;
}
