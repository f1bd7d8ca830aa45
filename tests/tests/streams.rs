//! Streams over RocketMQ's wire: pulling by offset, and the offsets that readers note.

use millpond_proto::client::{OutgoingMessage, Producer};
use millpond_proto::wire::admin::CreateTopicRequest;
use millpond_proto::wire::rocketmq::messaging_service_client::MessagingServiceClient;
use millpond_proto::wire::rocketmq::pull_message_response::Content;
use millpond_proto::wire::rocketmq::{
    Code, FilterExpression, FilterType, GetOffsetRequest, MessageQueue, PullMessageRequest,
    QueryOffsetPolicy, QueryOffsetRequest, Resource, UpdateOffsetRequest,
};
use millpond_tests::harness::{Folder, Server};
use tonic::transport::Channel;

type Wire = MessagingServiceClient<Channel>;

async fn connect(server: &Server) -> Wire {
    MessagingServiceClient::connect(server.url()).await.unwrap()
}

fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let id = "streams-test".parse().unwrap();
    request.metadata_mut().insert("x-mq-client-id", id);
    request
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource {
        name: name.to_owned(),
        ..Resource::default()
    })
}

fn queue(topic: &str, id: i32) -> Option<MessageQueue> {
    Some(MessageQueue {
        topic: resource(topic),
        id,
        ..MessageQueue::default()
    })
}

async fn topic(server: &Server, name: &str) {
    let request = CreateTopicRequest {
        name: name.to_owned(),
        queues: 1,
        ..CreateTopicRequest::default()
    };
    server.admin().create_topic(request).await.unwrap();
}

async fn send(server: &Server, topic: &str, bodies: std::ops::Range<usize>) {
    let producer = Producer::new(&server.client());
    for i in bodies {
        let mut message = OutgoingMessage::new(format!("body-{i}"));
        message.tag = Some(if i % 2 == 0 { "even" } else { "odd" }.to_owned());
        producer.send(topic, message).await.unwrap();
    }
}

fn from(topic: &str, offset: i64) -> PullMessageRequest {
    PullMessageRequest {
        message_queue: queue(topic, 0),
        offset,
        batch_size: 4,
        ..PullMessageRequest::default()
    }
}

struct Pulled {
    code: Code,
    said: String,
    bodies: Vec<String>,
    stored: Vec<(i64, i32)>,
    next: Option<i64>,
}

/// Pulls; checks that the frames come in their order and that nothing was leased.
async fn pull(wire: &mut Wire, message: PullMessageRequest) -> Pulled {
    let mut frames = wire
        .pull_message(request(message))
        .await
        .unwrap()
        .into_inner();
    let Some(Content::Status(status)) = frames.message().await.unwrap().unwrap().content else {
        panic!("the first frame is a status");
    };
    let mut pulled = Pulled {
        code: status.code(),
        said: status.message,
        bodies: Vec::new(),
        stored: Vec::new(),
        next: None,
    };
    while let Some(frame) = frames.message().await.unwrap() {
        assert_eq!(pulled.next, None, "the next offset is the last frame");
        match frame.content.unwrap() {
            Content::Message(message) => {
                let system = message.system_properties.unwrap();
                assert_eq!(system.receipt_handle, None);
                let stored = system.store_timestamp.unwrap();
                pulled.stored.push((stored.seconds, stored.nanos));
                pulled
                    .bodies
                    .push(String::from_utf8(message.body.to_vec()).unwrap());
            }
            Content::NextOffset(next) => pulled.next = Some(next),
            Content::Status(_) => panic!("a second status"),
        }
    }
    pulled
}

fn bodies(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|i| format!("body-{i}")).collect()
}

#[tokio::test]
async fn a_queue_is_read_by_offset_as_often_as_one_likes() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "orders").await;
    send(&server, "orders", 0..10).await;
    let mut wire = connect(&server).await;
    for _ in 0..2 {
        let (mut next, mut found) = (0, Vec::new());
        while next < 10 {
            let pulled = pull(&mut wire, from("orders", next)).await;
            assert_eq!(pulled.code, Code::Ok, "{}", pulled.said);
            found.extend(pulled.bodies);
            next = pulled.next.unwrap();
        }
        assert_eq!(found, bodies(0..10));
    }
    let end = pull(&mut wire, from("orders", 10)).await;
    assert_eq!((end.code, end.next), (Code::MessageNotFound, Some(10)));
    for outside in [11, -1] {
        let refused = pull(&mut wire, from("orders", outside)).await;
        assert_eq!(refused.code, Code::IllegalOffset, "{}", refused.said);
        assert!(
            refused.said.contains(&outside.to_string()),
            "{}",
            refused.said
        );
        assert_eq!(refused.next, None);
    }
    let mut elsewhere = from("orders", 0);
    elsewhere.message_queue = queue("orders", 1);
    let refused = pull(&mut wire, elsewhere).await;
    assert_eq!(refused.code, Code::BadRequest, "{}", refused.said);
    let refused = pull(&mut wire, from("nowhere", 0)).await;
    assert_eq!(refused.code, Code::TopicNotFound, "{}", refused.said);
}

#[tokio::test]
async fn a_filter_passes_over_messages_and_the_next_offset_lies_behind_them() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "orders").await;
    send(&server, "orders", 0..10).await;
    let mut wire = connect(&server).await;
    let filtered = |offset, kind: FilterType, expression: &str| {
        let mut message = from("orders", offset);
        message.filter_expression = Some(FilterExpression {
            r#type: kind.into(),
            expression: expression.to_owned(),
        });
        message
    };
    let odd = pull(&mut wire, filtered(0, FilterType::Tag, "odd || other")).await;
    assert_eq!(odd.bodies, bodies([1, 3]));
    assert_eq!(odd.next, Some(4));
    let even = pull(&mut wire, filtered(4, FilterType::Sql, "TAGS = 'even'")).await;
    assert_eq!(even.bodies, bodies([4, 6]));
    let none = pull(
        &mut wire,
        filtered(0, FilterType::Sql, "colour IS NOT NULL"),
    )
    .await;
    assert_eq!((none.code, none.next), (Code::MessageNotFound, Some(10)));
    let refused = pull(&mut wire, filtered(0, FilterType::Sql, "TAGS LIKE 'e%'")).await;
    assert_eq!(refused.code, Code::IllegalFilterExpression);
    assert!(refused.said.contains("STARTSWITH"), "{}", refused.said);
}

#[tokio::test]
async fn every_waiting_reader_gets_the_message_that_comes() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "orders").await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut wire = connect(&server).await;
        readers.spawn(async move {
            let mut message = from("orders", 0);
            let wait = prost_types::Duration {
                seconds: 20,
                nanos: 0,
            };
            message.long_polling_timeout = Some(wait);
            pull(&mut wire, message).await.bodies
        });
    }
    send(&server, "orders", 0..1).await;
    assert_eq!(readers.join_all().await, vec![bodies(0..1); 3]);
}

#[tokio::test]
async fn offsets_of_a_queue_are_found_by_place_and_by_time() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "orders").await;
    send(&server, "orders", 0..10).await;
    let mut wire = connect(&server).await;
    let mut at = async |policy: QueryOffsetPolicy, timestamp| {
        let message = QueryOffsetRequest {
            message_queue: queue("orders", 0),
            query_offset_policy: policy.into(),
            timestamp,
        };
        let answer = wire
            .query_offset(request(message))
            .await
            .unwrap()
            .into_inner();
        (answer.status.unwrap().code(), answer.offset)
    };
    assert_eq!(at(QueryOffsetPolicy::Beginning, None).await, (Code::Ok, 0));
    assert_eq!(at(QueryOffsetPolicy::End, None).await, (Code::Ok, 10));
    let (code, _) = at(QueryOffsetPolicy::Timestamp, None).await;
    assert_eq!(code, Code::BadRequest);
    let seconds = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let long_ago = at(QueryOffsetPolicy::Timestamp, seconds(0)).await;
    assert_eq!(long_ago, (Code::Ok, 0));
    let far_ahead = at(QueryOffsetPolicy::Timestamp, seconds(9_999_999_999)).await;
    assert_eq!(far_ahead, (Code::Ok, 10));
    // A message's own time finds it, or the first of those stored in the same millisecond.
    let mut reader = connect(&server).await;
    let mut message = from("orders", 0);
    message.batch_size = 10;
    let stored = pull(&mut reader, message).await.stored;
    for time in &stored {
        let (seconds, nanos) = *time;
        let timestamp = prost_types::Timestamp { seconds, nanos };
        let first = stored.iter().position(|one| one >= time).unwrap();
        let found = at(QueryOffsetPolicy::Timestamp, Some(timestamp)).await;
        assert_eq!(found, (Code::Ok, i64::try_from(first).unwrap()));
    }
}

#[tokio::test]
async fn a_noted_offset_survives_a_kill() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "orders").await;
    send(&server, "orders", 0..10).await;
    let noted = |offset| UpdateOffsetRequest {
        group: resource("readers"),
        message_queue: queue("orders", 0),
        offset,
    };
    let asked = |group: &str| GetOffsetRequest {
        group: resource(group),
        message_queue: queue("orders", 0),
    };
    let mut wire = connect(&server).await;
    let unknown = wire
        .get_offset(request(asked("readers")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(unknown.status.unwrap().code(), Code::ConsumerGroupNotFound);
    for (offset, code) in [(7, Code::Ok), (4, Code::Ok), (11, Code::IllegalOffset)] {
        let answer = wire
            .update_offset(request(noted(offset)))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.status.unwrap().code(), code, "{offset}");
    }
    server.kill();

    let server = folder.serve();
    let mut wire = connect(&server).await;
    let answer = wire
        .get_offset(request(asked("readers")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.status.unwrap().code(), answer.offset),
        (Code::Ok, 4)
    );
    let _ = server.millpond(&["topic", "create", "other"]);
    let mut elsewhere = asked("readers");
    elsewhere.message_queue = queue("other", 0);
    let none = wire
        .get_offset(request(elsewhere))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(none.status.unwrap().code(), Code::OffsetNotFound);
    let _ = server.millpond(&["group", "rm", "readers"]);
    let gone = wire
        .get_offset(request(asked("readers")))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(gone.status.unwrap().code(), Code::ConsumerGroupNotFound);
}
