//! Lesson 1: send three messages, receive them, acknowledge them.
//!
//! Prints each message as it was received, and then that none is left.

use std::io::Write as _;
use std::time::Duration;

use millpond_examples::{Lesson, connect, forget_topic};
use millpond_proto::client::{Admin, OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::wire::admin::CreateTopicRequest;

const TOPIC: &str = "lesson_hello";
const GROUP: &str = "lesson_hello_readers";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Lesson {
    let client = connect()?;
    let mut out = std::io::stdout();
    forget_topic(&client, TOPIC).await?;
    let topic = CreateTopicRequest {
        name: TOPIC.to_owned(),
        ..CreateTopicRequest::default()
    };
    Admin::new(&client).create_topic(topic).await?;

    // When send returns, the message is on disk.
    let producer = Producer::new(&client);
    for word in ["one", "two", "three"] {
        let message = OutgoingMessage::new(word).with_key("greeting");
        let sent = producer.send(TOPIC, message).await?;
        writeln!(out, "sent {word} at offset {}", sent.offset)?;
    }

    // What is received stays invisible to others of the group for 30 seconds: time to handle it.
    let consumer = SimpleConsumer::new(&client, GROUP, TOPIC);
    let (invisible, poll) = (Duration::from_secs(30), Duration::from_secs(2));
    let mut count = 0;
    while count < 3 {
        for message in consumer.receive(16, invisible, poll).await? {
            let body = String::from_utf8_lossy(&message.body);
            writeln!(out, "received {body}, delivery {}", message.attempt)?;
            // Without this it would come again.
            consumer.ack(&message).await?;
            count += 1;
        }
    }
    let left = consumer.receive(16, invisible, Duration::ZERO).await?;
    writeln!(out, "{} messages are left", left.len())?;
    Ok(())
}
