//! Topics that share the files of a family: what they are told apart by, and what each keeps for itself.

use futures::StreamExt as _;
use millpond_storage::tier::cold::typed::Reads;

use super::*;
use crate::broker::request::Request;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn named(name: &str) -> NewTopic {
    NewTopic {
        name: TopicName::new(name).unwrap(),
        queues: Some(1),
        ..new_topic()
    }
}

async fn make(broker: &Broker, name: &str, kept: Retention) -> Result<Topic, BrokerError> {
    let made = broker.create_topic_in(Some("meters"), named(name), kept, Bodies::default());
    made.await
}

async fn send_to(broker: &Broker, topic: &Topic, body: &str) {
    let sent = broker
        .send(&topic.name, vec![message(body, body)])
        .await
        .unwrap();
    assert!(sent.iter().all(Result::is_ok));
}

/// What SQL sees of a topic, as a count of rows.
async fn rows(broker: &Broker, topic: &Topic) -> usize {
    let extent = Topics::extents(broker, topic.id).unwrap()[0];
    let range = extent.first..extent.next;
    let scanned = Topics::scan(
        broker,
        topic.id,
        extent.queue,
        range,
        &Reads::of(&["offset"]),
    );
    let rows = scanned.map(|batch| batch.unwrap().num_rows());
    rows.fold(0, |sum, rows| async move { sum + rows }).await
}

fn files(disk: &SimulatedDisk) -> usize {
    let paths = disk.snapshot().into_keys();
    paths.filter(|path| path.ends_with(".parquet")).count()
}

#[tokio::test(start_paused = true)]
async fn two_hundred_small_topics_make_one_file_a_round() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let mut topics = Vec::new();
    for n in 0..200 {
        topics.push(
            make(&broker, &format!("m{n}"), Retention::default())
                .await
                .unwrap(),
        );
    }
    for round in 1..=2 {
        for topic in &topics {
            send_to(&broker, topic, &format!("{} {round}", topic.name)).await;
        }
        broker.tier().await.unwrap();
        assert_eq!(files(&disk), round);
    }
    broker.compact(Some(topics[0].id)).await.unwrap();
    drop(broker);
    let broker = open(&disk.crash(&Seeded::new(1))).await;
    for topic in &topics {
        assert_eq!(rows(&broker, topic).await, 2);
        let sizes = broker.sizes_of(topic.id);
        assert_eq!(
            (sizes.cold.files, sizes.cold.messages, sizes.hot_messages),
            (1, 2, 0)
        );
    }
    assert!(broker.verify().await.unwrap().damage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_topic_of_a_family_is_kept_for_its_own_time() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let half_a_day = Retention {
        ms: Some(DAY_MS / 2),
        ..Retention::default()
    };
    let short = make(&broker, "short", half_a_day).await.unwrap();
    let long = make(&broker, "long", Retention::default()).await.unwrap();
    for day in 0..3 {
        for topic in [&short, &long] {
            send_to(&broker, topic, &day.to_string()).await;
        }
        broker.tier().await.unwrap();
        broker.parts.clock.sleep(Duration::from_secs(86_400)).await;
    }
    broker.care().await;
    assert_eq!(broker.sizes_of(long.id).cold.messages, 3);
    assert_eq!(broker.sizes_of(short.id).cold.messages, 0);
    assert_eq!(rows(&broker, &long).await, 3);
    assert_eq!(files(&disk), 3, "the other topic needs them");
    broker.delete_topic(&long.name).await.unwrap();
    broker.tier().await.unwrap();
    assert_eq!(files(&disk), 0);
    send_to(&broker, &short, "3").await;
    assert_eq!(rows(&broker, &short).await, 1);
    broker.delete_topic(&short.name).await.unwrap();
    broker.tier().await.unwrap();
    broker.care().await;
    let left = disk
        .snapshot()
        .into_keys()
        .filter(|path| path.contains("topics/"));
    assert_eq!(left.count(), 0, "a family ends with its last topic");
    let again = make(&broker, "short", Retention::default()).await.unwrap();
    send_to(&broker, &again, "0").await;
    broker.tier().await.unwrap();
    assert_eq!((rows(&broker, &again).await, files(&disk)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_family_can_not_hold_is_refused_with_the_reason() {
    let broker = open(&SimulatedDisk::new()).await;
    let refused = |made: Result<Topic, BrokerError>, why: &str| {
        let error = made.unwrap_err();
        assert!(matches!(error, BrokerError::NotInFamily { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    };
    let compacts = Retention {
        compacts: true,
        ..Retention::default()
    };
    refused(make(&broker, "a", compacts).await, "compacts by key");
    let apart = Retention {
        table_ms: Some(DAY_MS),
        ..Retention::default()
    };
    refused(make(&broker, "a", apart).await, "kept apart");
    refused(
        make(&broker, "meters", Retention::default()).await,
        "another name",
    );
    let made = make(&broker, "a", Retention::default()).await.unwrap();
    assert_eq!(made.family.as_deref(), Some("meters"));
    refused(broker.create_topic(named("meters")).await, "another name");
    let family = Some("a");
    let made = broker.create_topic_in(family, named("b"), Retention::default(), Bodies::default());
    refused(made.await, "a topic is called so");
    let change = NewRetention {
        compacts: Some(true),
        ..NewRetention::default()
    };
    let name = TopicName::new("a").unwrap();
    refused(
        broker.alter_topic(&name, change.into()).await,
        "compacts by key",
    );
    // The catalog itself keeps names apart, for two that come at once.
    let mut record = Broker::record_of(named("meters"), Retention::default(), Bodies::default());
    let asked = broker.ask_catalog(Request::CreateTopic(Box::new(record.clone().unwrap())));
    assert!(asked.await.is_err());
    record.as_mut().unwrap().name = "full".to_owned();
    record.as_mut().unwrap().family = "meters".to_owned();
    record.as_mut().unwrap().queues = 100_000;
    let asked = broker.ask_catalog(Request::CreateTopic(Box::new(record.unwrap())));
    let full = asked.await.unwrap_err().to_string();
    assert!(
        full.contains("\"meters\"") && full.contains("100000 queues"),
        "{full}"
    );
}
