//! Callers that leave once they have asked: what they asked for happens, and whoever waits for it hears of it.

use futures::FutureExt as _;

use super::*;
use crate::broker::poll::Consumer;
use crate::broker::standing::ResetTo;

async fn fifo(broker: &Broker) {
    let topic = NewTopic {
        kind: TopicType::Fifo,
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap();
}

async fn store(broker: &Broker, body: &str) {
    let one = Envelope {
        message_group: Some("x".to_owned()),
        ..message("x", body)
    };
    broker.send(&topic(), vec![one]).await.unwrap()[0]
        .as_ref()
        .unwrap();
}

/// Polls for a single message, since a batch may have all that are ready of a message group.
async fn one(broker: &Broker, invisible_s: u64, poll_s: u64) -> Vec<Delivery> {
    let receive = Receive {
        group: group(),
        topic: topic(),
        limit: 1,
        invisible: Duration::from_secs(invisible_s),
        poll: Duration::from_secs(poll_s),
    };
    broker.receive(receive).await.unwrap()
}

/// What a poll gets that waits when somebody asks for something and leaves at once.
async fn heard<T>(broker: &Broker, ask: impl Future<Output = T>) -> Vec<String> {
    let (found, ()) = tokio::join!(one(broker, 30, 20), async {
        broker.parts.clock.sleep(Duration::from_secs(5)).await;
        let answer = ask.now_or_never();
        assert!(answer.is_none(), "nothing is durable so soon");
    });
    bodies(&found)
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_waits_hears_of_what_was_asked_by_one_that_left() {
    let broker = open(&SimulatedDisk::new()).await;
    fifo(&broker).await;
    store(&broker, "1").await;
    store(&broker, "2").await;
    let began = broker.now();
    let held = one(&broker, 3000, 0).await;
    let (billing, orders) = (group(), topic());
    let handles = vec![held[0].handle.clone()];
    let acked = heard(&broker, broker.ack(&billing, &orders, handles)).await;
    assert_eq!(acked, ["2"]);
    let reset = broker.reset_group(&billing, &orders, None, ResetTo::Earliest);
    assert_eq!(heard(&broker, reset).await, ["1"]);
    let held = broker.group_in_flight(&billing, 9).await.unwrap();
    assert_eq!(held.len(), 1);
    broker
        .reset_group(&billing, &orders, None, ResetTo::Earliest)
        .await
        .unwrap();
    let held = one(&broker, 3000, 0).await;
    let handle = held[0].handle.clone();
    let moved = broker.change_invisible(&billing, &orders, handle, Duration::from_secs(1));
    assert_eq!(heard(&broker, moved).await, ["1"]);
    let waited = broker.now().since(began);
    assert!(
        waited < Duration::from_secs(20),
        "no poll came to its end: {waited:?}"
    );
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_waits_hears_of_a_clone_and_of_a_goodbye_that_nobody_waited_for() {
    let broker = open(&SimulatedDisk::new()).await;
    fifo(&broker).await;
    store(&broker, "1").await;
    let began = broker.now();
    let (billing, orders) = (group(), topic());
    let held = one(&broker, 3000, 0).await;
    let behind = GroupName::new("behind").unwrap();
    broker.clone_group(&billing, &behind).await.unwrap();
    ack(&broker, &held).await[0].as_ref().unwrap();
    let cloned = broker.clone_group(&behind, &billing);
    assert_eq!(heard(&broker, cloned).await, ["1"]);
    broker
        .reset_group(&billing, &orders, None, ResetTo::Earliest)
        .await
        .unwrap();
    let push = Consumer {
        id: "host@1".to_owned(),
        renewed: true,
        ..Consumer::default()
    };
    let receive = Receive {
        group: billing,
        topic: orders,
        limit: 1,
        invisible: Duration::from_secs(3000),
        poll: Duration::ZERO,
    };
    let held = broker.receive_as(receive, &push).await.unwrap().take();
    assert_eq!(bodies(&held), ["1"]);
    assert_eq!(heard(&broker, broker.release("host@1")).await, ["1"]);
    let waited = broker.now().since(began);
    assert!(
        waited < Duration::from_secs(20),
        "no poll came to its end: {waited:?}"
    );
    broker.close().await;
}
