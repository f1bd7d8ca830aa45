//! Bad input: each case gets an error that says what, which, and what to do, and nothing is lost.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use millpond_proto::client::{ClientError, OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::limits;
use millpond_proto::remedy::Remedy;
use millpond_proto::wire::admin::CreateTopicRequest;
use millpond_proto::wire::rocketmq::{
    Code, Message, MessageType, Resource, SendMessageRequest, SystemProperties,
    messaging_service_client::MessagingServiceClient,
};
use millpond_tests::harness::{Folder, Server};

async fn topic(server: &Server, name: &str) {
    let request = CreateTopicRequest {
        name: name.to_owned(),
        ..CreateTopicRequest::default()
    };
    server.admin().create_topic(request).await.unwrap();
}

/// What is in a topic, as a group that starts at its beginning sees it.
async fn bodies(server: &Server, topic: &str) -> Vec<Bytes> {
    let consumer = SimpleConsumer::new(&server.client(), "readers", topic);
    let (invisible, poll) = (Duration::from_secs(60), Duration::ZERO);
    let messages = consumer.receive(32, invisible, poll).await.unwrap();
    messages.into_iter().map(|message| message.body).collect()
}

#[track_caller]
fn assert_says(error: &ClientError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} says {word:?}");
    }
    assert_eq!(error.remedy(), Remedy::FixRequest, "{text}");
}

#[test]
fn a_topic_that_a_view_reads_is_kept_and_told_what_to_drop_first() {
    let folder = Folder::new();
    let server = folder.serve();
    let sql = |text: &str| server.try_millpond(&["sql", "-c", text]);
    assert!(sql("CREATE TOPIC read (n BIGINT)").status.success());
    assert!(
        sql("CREATE MATERIALIZED VIEW sums AS SELECT sum(n) AS total FROM read")
            .status
            .success()
    );
    let refused = server.try_millpond(&["topic", "rm", "read"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    for word in ["read by sums", "DROP MATERIALIZED VIEW sums"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(sql("DROP MATERIALIZED VIEW sums").status.success());
    assert!(
        server
            .try_millpond(&["topic", "rm", "read"])
            .status
            .success()
    );
}

#[tokio::test]
async fn a_server_that_logs_goes_on_serving() {
    let folder = Folder::new();
    let variables = [("MILLPOND_LOG".to_owned(), "debug".to_owned())];
    let server = folder.serve_with(&[], &variables).unwrap();
    topic(&server, "told").await;
    let producer = Producer::new(&server.client());
    let message = OutgoingMessage::new("x");
    producer.send("told", message).await.unwrap();
    assert_eq!(bodies(&server, "told").await, ["x"]);
    assert!(server.stop());
    let said = std::fs::read_to_string(folder.beside("server.log")).unwrap();
    assert!(said.contains("DEBUG"), "{said:?}");
}

#[tokio::test]
async fn an_unknown_topic_is_named_with_the_command_that_makes_it() {
    let folder = Folder::new();
    let server = folder.serve_with(&["--no-auto-create"], &[]).unwrap();
    let producer = Producer::new(&server.client());
    let message = OutgoingMessage::new("x");
    let error = producer.send("nowhere", message).await.unwrap_err();
    assert_says(&error, &["nowhere", "millpond topic create"]);
    assert!(error.is_not_found(), "{error:?}");
    let error = server.admin().describe_topic("nowhere").await.unwrap_err();
    assert_says(&error, &["nowhere"]);
    let said = server.try_millpond(&["sql", "-c", "SELECT * FROM nowhere"]);
    assert!(!said.status.success());
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("nowhere"), "{said}");
}

#[test]
fn a_mistyped_topic_is_no_empty_one_and_a_change_is_refused_with_its_reason() {
    let folder = Folder::new();
    let server = folder.serve();
    let refused = |arguments: &[&str]| {
        let output = server.try_millpond(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(
        server
            .try_millpond(&["topic", "create", "orders"])
            .status
            .success()
    );
    let said = refused(&["topic", "consume", "ordres", "--group", "billing"]);
    assert!(said.contains("topic \"ordres\" does not exist"), "{said}");
    let said = refused(&["topic", "alter", "orders", "--queues", "4"]);
    assert!(said.contains("topic \"orders\" has 8 queues"), "{said}");
}

#[test]
fn a_list_that_is_cut_off_says_so() {
    let folder = Folder::new();
    let server = folder.serve();
    let told = |arguments: &[&str]| {
        let output = server.try_millpond(arguments);
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    told(&["topic", "create", "orders"]);
    for body in ["one", "two"] {
        told(&["topic", "produce", "orders", "--body", body]);
    }
    told(&[
        "topic", "consume", "orders", "--group", "billing", "--no-ack",
    ]);
    let said = told(&["group", "inflight", "billing", "--limit", "1"]);
    assert!(said.contains("the first 1; there may be more"), "{said}");
    assert_eq!(told(&["group", "inflight", "billing", "--limit", "3"]), "");
}

#[tokio::test]
async fn an_oversized_body_is_refused_with_the_limit_and_its_neighbours_are_kept() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "parcels").await;
    let producer = Producer::new(&server.client());
    let largest = OutgoingMessage::new(vec![b'a'; limits::BODY_BYTES_MAX]);
    producer.send("parcels", largest).await.unwrap();
    let larger = OutgoingMessage::new(vec![b'b'; limits::BODY_BYTES_MAX + 1]);
    let error = producer.send("parcels", larger).await.unwrap_err();
    assert_says(&error, &[&limits::BODY_BYTES_MAX.to_string()]);
    assert!(
        matches!(
            error,
            ClientError::Refused {
                code: Code::MessageBodyTooLarge,
                ..
            }
        ),
        "{error:?}"
    );
    let found = bodies(&server, "parcels").await;
    assert_eq!(found.len(), 1);
    assert!(found[0].iter().all(|byte| *byte == b'a'));
}

#[tokio::test]
async fn a_message_of_another_type_than_its_topic_is_refused() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "plain").await;
    let mut wire = MessagingServiceClient::connect(server.url()).await.unwrap();
    let message = Message {
        topic: Some(Resource {
            name: "plain".to_owned(),
            ..Resource::default()
        }),
        user_properties: BTreeMap::default(),
        system_properties: Some(SystemProperties {
            message_id: "01A2B3C4D5E6F708090A0B0C0D0E0F1011".to_owned(),
            message_type: MessageType::Fifo as i32,
            message_group: Some("g".to_owned()),
            ..SystemProperties::default()
        }),
        body: Bytes::from_static(b"x"),
    };
    let request = SendMessageRequest {
        messages: vec![message],
    };
    let mut request = tonic::Request::new(request);
    let id = "errors-test".parse().unwrap();
    request.metadata_mut().insert("x-mq-client-id", id);
    let answer = wire.send_message(request).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!(
        status.code(),
        Code::MessagePropertyConflictWithType,
        "{status:?}"
    );
    assert!(status.message.to_lowercase().contains("fifo"), "{status:?}");
    assert_eq!(bodies(&server, "plain").await.len(), 0);
}

#[tokio::test]
async fn a_body_that_is_not_json_is_counted_and_shown_and_the_others_are_read() {
    let folder = Folder::new();
    let server = folder.serve();
    let _ = server.millpond(&["sql", "-c", "CREATE TOPIC orders (id BIGINT, city VARCHAR)"]);
    let producer = Producer::new(&server.client());
    for body in [
        r#"{"id": 1, "city": "Oslo"}"#,
        "{broken",
        r#"{"id": "two"}"#,
        r#"{"id": 3}"#,
    ] {
        producer
            .send("orders", OutgoingMessage::new(body))
            .await
            .unwrap();
    }
    let mut answer = server
        .admin()
        .query("SELECT id FROM orders ORDER BY id")
        .await
        .unwrap();
    let mut notices = Vec::new();
    while let Some(frame) = answer.next().await.unwrap() {
        if let millpond_proto::client::admin::Frame::Summary(summary) = frame {
            notices = summary.notices;
        }
    }
    assert!(
        notices.iter().any(|notice| notice.contains('2')),
        "two rows did not parse, and the answer says so: {notices:?}"
    );
    let rows = server.rows("SELECT id FROM orders WHERE id IS NOT NULL ORDER BY id");
    assert_eq!(rows, [["1"], ["3"]]);
    // Nothing was dropped: a group gets all four, byte for byte.
    let mut found = bodies(&server, "orders").await;
    while found.len() < 4 {
        let more = bodies(&server, "orders").await;
        assert!(!more.is_empty(), "only {found:?} came");
        found.extend(more);
    }
    assert!(found.contains(&Bytes::from_static(b"{broken")), "{found:?}");
}

#[test]
fn a_folder_that_is_not_ours_is_left_alone() {
    let folder = Folder::new();
    std::fs::create_dir(folder.data()).unwrap();
    let precious = folder.data().join("thesis.txt");
    std::fs::write(&precious, "chapter one").unwrap();
    let free = "127.0.0.1:0";
    let error = folder.try_serve(free, free).unwrap_err();
    assert!(error.said.contains("--data"), "{error}");
    assert!(error.said.contains("no Millpond data"), "{error}");
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "chapter one");
    assert_eq!(std::fs::read_dir(folder.data()).unwrap().count(), 1);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (grpc, http, flag) in [
        (address.as_str(), free, "--grpc"),
        (free, &address, "--http"),
    ] {
        let error = Folder::new().try_serve(grpc, http).unwrap_err();
        assert!(error.said.contains(&address), "{error}");
        assert!(error.said.contains(flag), "{error}");
    }
}

#[tokio::test]
async fn a_data_folder_in_use_is_refused_and_its_server_works_on() {
    let folder = Folder::new();
    let server = folder.serve();
    let free = "127.0.0.1:0";
    let error = folder.try_serve(free, free).unwrap_err();
    assert!(error.said.contains("in use by another"), "{error}");
    topic(&server, "still-here").await;
}

#[test]
fn an_address_beyond_loopback_needs_insecure() {
    let error = Folder::new()
        .try_serve("0.0.0.0:0", "127.0.0.1:0")
        .unwrap_err();
    assert!(error.said.contains("--insecure"), "{error}");
}

#[tokio::test]
async fn sql_reaches_no_file_setting_or_network_of_the_server() {
    let folder = Folder::new();
    let server = folder.serve();
    topic(&server, "t").await;
    let refused = [
        "SET datafusion.execution.target_partitions = 1",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/out.parquet'",
        "COPY (SELECT 1) TO '../out.parquet'",
        "COPY (SELECT 1) TO 's3://bucket/out.parquet'",
        "SELECT 1; SELECT 2",
    ];
    for sql in refused {
        let outcome = match server.admin().query(sql).await {
            Err(error) => Err(error),
            Ok(mut answer) => loop {
                match answer.next().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            },
        };
        let error = outcome.expect_err(sql);
        assert_eq!(error.remedy(), Remedy::FixRequest, "{sql}: {error}");
    }
}
