//! What is made by using it, at the wire, and what is refused where nothing is.

use millpond_proto::wire::admin as admin_pb;

use super::consumers::{World, by, message, poll, resource, world, world_with};
use super::*;

fn route(topic: &str) -> Request<pb::QueryRouteRequest> {
    let endpoints = pb::Endpoints {
        scheme: pb::AddressScheme::IPv4.into(),
        addresses: vec![pb::Address {
            host: "127.0.0.1".to_owned(),
            port: 8081,
        }],
    };
    from_client(pb::QueryRouteRequest {
        topic: resource(topic),
        endpoints: Some(endpoints),
    })
}

async fn types_of(world: &mut World, topic: &str) -> Vec<pb::MessageType> {
    let answer = world.client.query_route(route(topic)).await.unwrap();
    let answer = answer.into_inner();
    assert_eq!(code(answer.status), pb::Code::Ok);
    let queue = &answer.message_queues[0];
    assert_eq!(answer.message_queues.len(), 8);
    queue.accept_message_types().collect()
}

async fn send(world: &mut World, message: pb::Message) -> pb::Status {
    let request = pb::SendMessageRequest {
        messages: vec![message],
    };
    let answer = world.client.send_message(from_client(request)).await;
    answer.unwrap().into_inner().status.unwrap()
}

fn grouped(topic: &str) -> pb::Message {
    let mut message = message(topic, "1", None);
    let system = message.system_properties.as_mut().unwrap();
    system.message_group = Some("g".to_owned());
    message
}

#[tokio::test]
async fn the_first_message_makes_its_topic_with_its_type() {
    let mut world = world().await;
    use pb::MessageType::{Delay, Fifo, Normal, Transaction};
    let any = [Normal, Fifo, Delay, Transaction];
    assert_eq!(types_of(&mut world, "new").await, any);
    assert!(
        world.server.broker.topics().is_empty(),
        "a look makes nothing"
    );
    assert_eq!(
        code(Some(send(&mut world, grouped("new")).await)),
        pb::Code::Ok
    );
    assert_eq!(types_of(&mut world, "new").await, [Fifo]);
    let other = send(&mut world, message("new", "2", None)).await;
    assert_eq!(code(Some(other)), pb::Code::MessagePropertyConflictWithType);
    // What begins with '%' is the server's own.
    let own = send(&mut world, message("%DLQ%new", "3", None)).await;
    assert_eq!(code(Some(own)), pb::Code::TopicNotFound);
    world.server.stop().await;
}

#[tokio::test]
async fn dead_letters_can_be_asked_for_before_the_first_one_is_there() {
    let mut world = world_with(Some(false)).await;
    let group = admin_pb::CreateGroupRequest {
        name: "billing".to_owned(),
        ..admin_pb::CreateGroupRequest::default()
    };
    world.admin.create_group(group).await.unwrap();
    let letters = world.client.query_route(route("%DLQ%billing")).await;
    let letters = letters.unwrap().into_inner();
    assert_eq!(code(letters.status), pb::Code::Ok);
    let types = letters.message_queues[0].accept_message_types();
    assert_eq!(types.collect::<Vec<_>>(), [pb::MessageType::Normal]);
    for unknown in ["%DLQ%typo", "%other", "typo"] {
        let answer = world.client.query_route(route(unknown)).await.unwrap();
        let status = answer.into_inner().status;
        assert_eq!(code(status), pb::Code::TopicNotFound, "{unknown}");
    }
    world.server.stop().await;
}

#[tokio::test]
async fn a_consumer_may_wait_for_a_topic_that_is_not_there_yet() {
    let mut world = world().await;
    let (none, _) = world.receive("d", poll("new", "hasty", "*")).await;
    assert_eq!(
        none,
        pb::Code::MessageNotFound,
        "nothing is there, and nothing is wrong"
    );
    let mut patient = poll("new", "early", "*");
    patient.long_polling_timeout = Some(prost_types::Duration {
        seconds: 15,
        nanos: 0,
    });
    let mut producer = World {
        server: world.server,
        client: world.client.clone(),
        admin: world.admin.clone(),
    };
    let mut consumer = world.client;
    let received = async {
        let frames = consumer.receive_message(by("c", patient)).await.unwrap();
        let frames = frames.into_inner();
        futures::TryStreamExt::try_collect::<Vec<_>>(frames)
            .await
            .unwrap()
    };
    let (frames, sent) = futures::join!(received, send(&mut producer, message("new", "1", None)));
    assert_eq!(code(Some(sent)), pb::Code::Ok);
    assert_eq!(
        frames.len(),
        3,
        "a status, the message, a timestamp: {frames:?}"
    );
    producer.server.stop().await;
}

#[tokio::test]
async fn where_nothing_is_made_on_first_use_the_refusal_names_the_command() {
    let mut world = world_with(Some(false)).await;
    let answer = world.client.query_route(route("typo")).await.unwrap();
    let unknown = answer.into_inner().status.unwrap();
    assert_eq!(code(Some(unknown.clone())), pb::Code::TopicNotFound);
    assert!(
        unknown.message.contains("millpond topic create typo"),
        "{}",
        unknown.message
    );
    let refused = send(&mut world, message("typo", "1", None)).await;
    assert_eq!(code(Some(refused)), pb::Code::TopicNotFound);
    let (refused, _) = world.receive("c", poll("typo", "nobody", "*")).await;
    assert_eq!(refused, pb::Code::ConsumerGroupNotFound);

    world.make("orders").await;
    let (refused, _) = world.receive("c", poll("orders", "nobody", "*")).await;
    assert_eq!(refused, pb::Code::ConsumerGroupNotFound);
    let group = millpond_proto::wire::admin::CreateGroupRequest {
        name: "billing".to_owned(),
        ..Default::default()
    };
    world.admin.create_group(group).await.unwrap();
    let (none, _) = world.receive("c", poll("orders", "billing", "*")).await;
    assert_eq!(none, pb::Code::MessageNotFound);
    let (refused, _) = world.receive("c", poll("typo", "billing", "*")).await;
    assert_eq!(refused, pb::Code::TopicNotFound);
    world.server.stop().await;
}
