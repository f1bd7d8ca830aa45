//! Lite topics as consumers, people and SQL ask for them.

use super::*;
use crate::broker::lite::LiteGroup;
use crate::broker::lite::listeners::Action;
use crate::broker::lite::topics::{StartAt, Word};
use crate::broker::poll::Consumer;

/// A parent with a group of its lite topics and one message in `x`.
async fn parent(broker: &Broker) -> Topic {
    let made = NewTopic {
        kind: TopicType::Lite,
        ..new_topic()
    };
    let made = broker.create_topic(made).await.unwrap();
    let lite = LiteGroup {
        topic: topic().to_string(),
        exclusive: false,
    };
    let readers = Group {
        lite: Some(lite),
        ..Group::new(group())
    };
    broker.create_group(readers).await.unwrap();
    let one = Envelope {
        lite_topic: Some("x".to_owned()),
        ..message("x", "1")
    };
    broker.send(&topic(), vec![one]).await.unwrap()[0]
        .as_ref()
        .unwrap();
    made
}

async fn say(
    broker: &Broker,
    names: &[String],
    version: i64,
    start: Option<StartAt>,
) -> Result<Vec<(String, String)>, BrokerError> {
    let word = Word {
        group: &group(),
        topic: &topic(),
        consumer: "reader",
        action: Action::Set,
        names,
        version: Some(version),
        start,
    };
    broker.listen(word).await
}

#[tokio::test(start_paused = true)]
async fn a_word_that_is_outdated_or_refused_moves_no_group() {
    let broker = open(&SimulatedDisk::new()).await;
    parent(&broker).await;
    let x = ["x".to_owned()];
    say(&broker, &x, 2, None).await.unwrap();
    say(&broker, &x, 1, Some(StartAt::Latest)).await.unwrap();
    let mut many: Vec<String> = (0..millpond_proto::limits::LITE_SUBSCRIPTIONS_MAX)
        .map(|n| format!("n{n}"))
        .collect();
    many.extend(x);
    let refused = say(&broker, &many, 3, Some(StartAt::Latest)).await;
    assert!(
        matches!(refused, Err(BrokerError::LiteSubscriptions { .. })),
        "{refused:?}"
    );
    let receive = Receive {
        group: group(),
        topic: topic(),
        limit: 9,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    let reader = Consumer {
        id: "reader".to_owned(),
        ..Consumer::default()
    };
    let found = broker.receive_as(receive, &reader).await.unwrap().take();
    assert_eq!(bodies(&found), ["1"]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_listens_has_a_place_in_a_lite_topic_before_it_reads_and_keeps_it() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    parent(&broker).await;
    let names = ["x".to_owned(), "made-later".to_owned()];
    say(&broker, &names, 1, None).await.unwrap();
    let one = Envelope {
        lite_topic: Some("made-later".to_owned()),
        ..message("later", "2")
    };
    assert!(broker.send(&topic(), vec![one]).await.unwrap()[0].is_ok());
    // What a full one may let go of follows from the places.
    let lag = async |broker: &Broker, name| {
        let found = broker.lite_topic(&topic(), name).await.unwrap();
        let groups = found.groups.iter();
        let standing = groups.map(|one| (one.group.clone(), one.lag));
        standing.collect::<Vec<_>>()
    };
    let expected = |lag| vec![(group().to_string(), lag)];
    assert_eq!(lag(&broker, "x").await, expected(1));
    assert_eq!(lag(&broker, "made-later").await, expected(1));
    let mut batch = attempt(&broker, "1").await;
    batch.sort();
    assert_eq!(batch, ["1", "2"]);
    broker.close().await;
    let broker = open(&disk).await;
    assert_eq!(lag(&broker, "made-later").await, expected(1));
    // It is new to them again, and stays where it was.
    say(&broker, &names, 2, None).await.unwrap();
    let mut batch = attempt(&broker, "1").await;
    batch.sort();
    assert_eq!(batch, ["1", "2"]);
    broker.close().await;
}

/// Receives up to two messages for "reader" under an attempt id.
async fn attempt(broker: &Broker, id: &str) -> Vec<String> {
    let receive = Receive {
        group: group(),
        topic: topic(),
        limit: 2,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    let reader = Consumer {
        id: "reader".to_owned(),
        attempt_id: Some(id.to_owned()),
        ..Consumer::default()
    };
    bodies(&broker.receive_as(receive, &reader).await.unwrap().take())
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_asked_again_gets_its_batch_whole_and_nothing_else_over_a_restart_too() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let made = parent(&broker).await;
    let shard_of = |name: &String| {
        let queue = millpond_proto::message::queue_of(name.as_bytes(), made.queues);
        broker.incarnation().unwrap().shard(made.id.0, queue.0)
    };
    // Two of one shard, and one of another that comes between them.
    let names: Vec<String> = (0..99).map(|n| format!("n{n:02}")).collect();
    let first = &names[0];
    let other = names.iter().find(|name| shard_of(name) != shard_of(first));
    let other = other.unwrap();
    let last = names.iter().rfind(|name| shard_of(name) == shard_of(first));
    let last = last.unwrap();
    assert!(first < other && other < last);
    let send = async |broker: &Broker, name: &String| {
        let one = Envelope {
            lite_topic: Some(name.clone()),
            ..message(name, name)
        };
        let sent = broker.send(&topic(), vec![one]).await.unwrap();
        assert!(sent[0].is_ok());
    };
    let all = [first.clone(), other.clone(), last.clone()];
    say(&broker, &all, 1, None).await.unwrap();
    for name in [first, last] {
        send(&broker, name).await;
    }
    let batch = attempt(&broker, "1").await;
    assert_eq!(batch, [first.as_str(), last.as_str()]);
    send(&broker, other).await;
    assert_eq!(attempt(&broker, "1").await, batch);
    broker.close().await;
    let broker = open(&disk).await;
    say(&broker, &all, 2, None).await.unwrap();
    assert_eq!(attempt(&broker, "1").await, batch, "nobody remembers it");
    assert_eq!(attempt(&broker, "2").await, [other.as_str()]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_has_no_lite_topic_and_is_not_stored_in_a_parent() {
    let broker = open(&SimulatedDisk::new()).await;
    let made = parent(&broker).await;
    let row = OutputRow {
        key: None,
        body: Some(Bytes::from_static(b"{}")),
        properties: Vec::new(),
    };
    let sql: &dyn Topics = &*broker;
    let refused = sql.insert(made.id, vec![row]).await.unwrap_err();
    assert!(refused.error.message.contains("type lite"), "{refused:?}");
    let refused = sql
        .create_job("j", "SELECT 1", &[made.id])
        .await
        .unwrap_err();
    assert!(refused.message.contains("type lite"), "{refused:?}");
    assert!(sql.jobs().is_empty());
    broker.close().await;
}
