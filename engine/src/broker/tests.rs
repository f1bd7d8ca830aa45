//! The broker over the simulated disk: what producers and consumers see, and what survives a crash.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millpond_proto::chance::Seeded;
use millpond_proto::message::{Epoch, JobId, Offset, QueueId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::task::Runtimes;
use millpond_proto::time::{SimulatedClock, Timestamp};
use millpond_sql::topic::{EpochCut, JobSettings, OutputRow, Topics};
use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Parts, Settings};
use millpond_storage::tier::objects::DiskObjectStore;

use super::*;

mod alter;
mod apart;
mod carry;
mod compaction;
mod crowd;
mod database;
mod effects;
mod elsewhere;
mod erasure;
mod family;
mod fates;
mod groups;
mod hangup;
mod large;
mod later;
mod lites;
mod messages;
mod producers;
mod reopening;
mod room;
mod rot;
mod sparse;
mod statements;
mod turns;

fn parts(disk: &SimulatedDisk) -> Parts {
    let disk: Arc<dyn millpond_storage::disk::Disk> = Arc::new(disk.clone());
    Parts {
        objects: Arc::new(DiskObjectStore::new(Arc::clone(&disk), "objects")),
        disk,
        clock: Arc::new(SimulatedClock::starting_at(Timestamp(1_000_000))),
        chance: Arc::new(Seeded::new(1)),
        spawn: Arc::new(Runtimes::single()),
    }
}

fn settings() -> Settings {
    Settings {
        shards: 8,
        ..Settings::default()
    }
}

async fn open(disk: &SimulatedDisk) -> Arc<Broker> {
    Broker::start(parts(disk), settings()).await.unwrap()
}

fn topic() -> TopicName {
    TopicName::new("orders").unwrap()
}

fn group() -> GroupName {
    GroupName::new("billing").unwrap()
}

fn new_topic() -> NewTopic {
    NewTopic {
        name: topic(),
        kind: TopicType::Normal,
        queues: Some(4),
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        written_by: None,
    }
}

fn message(key: &str, body: &str) -> Envelope {
    Envelope {
        message_id: format!("id-{body}"),
        key: Some(Bytes::from(key.to_owned())),
        body: Some(Bytes::from(body.to_owned())),
        ..Envelope::default()
    }
}

async fn send(broker: &Broker, bodies: &[&str]) -> Vec<Sent> {
    let messages = bodies.iter().map(|body| message(body, body)).collect();
    let sent = broker.send(&topic(), messages).await.unwrap();
    sent.into_iter().map(|one| one.unwrap()).collect()
}

async fn receive(broker: &Broker, invisible_s: u64, poll_s: u64) -> Vec<Delivery> {
    let receive = Receive {
        group: group(),
        topic: topic(),
        limit: 32,
        invisible: Duration::from_secs(invisible_s),
        poll: Duration::from_secs(poll_s),
    };
    broker.receive(receive).await.unwrap()
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let text = |d: &Delivery| String::from_utf8(d.envelope.body.clone().unwrap().to_vec()).unwrap();
    let mut bodies: Vec<String> = deliveries.iter().map(text).collect();
    bodies.sort();
    bodies
}

async fn ack(broker: &Broker, deliveries: &[Delivery]) -> Vec<Result<(), BrokerError>> {
    let handles = deliveries
        .iter()
        .map(|delivery| delivery.handle.clone())
        .collect();
    broker.ack(&group(), &topic(), handles).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_sent_message_is_popped_acknowledged_and_never_comes_back() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    send(&broker, &["a", "b", "c"]).await;
    let deliveries = receive(&broker, 30, 0).await;
    assert_eq!(bodies(&deliveries), ["a", "b", "c"]);
    assert!(deliveries.iter().all(|delivery| delivery.attempt == 1));
    assert!(
        receive(&broker, 30, 0).await.is_empty(),
        "they are invisible"
    );
    assert!(
        ack(&broker, &deliveries[..2])
            .await
            .iter()
            .all(Result::is_ok)
    );
    // The third comes back when its time ends, as its second delivery; its old handle is worthless.
    let again = receive(&broker, 30, 60).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].attempt, 2);
    assert!(matches!(
        ack(&broker, &deliveries[2..]).await[..],
        [Err(BrokerError::InvalidHandle { .. })]
    ));
    assert!(ack(&broker, &again).await[0].is_ok());
    assert!(receive(&broker, 30, 120).await.is_empty());
    let progress = broker.group_progress(&group()).await.unwrap();
    assert!(
        progress
            .iter()
            .all(|queue| queue.lag == 0 && queue.in_flight == 0)
    );
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_poll_gets_a_message_sent_meanwhile() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    let (deliveries, _) = tokio::join!(receive(&broker, 30, 20), async {
        broker.parts.clock.sleep(Duration::from_secs(5)).await;
        send(&broker, &["late"]).await
    });
    assert_eq!(bodies(&deliveries), ["late"]);
    assert!(
        broker.now() < Timestamp(1_000_000 + 6_000),
        "it did not wait for the poll to end"
    );
}

#[tokio::test(start_paused = true)]
async fn everything_answered_survives_a_crash_and_a_checkpoint() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    broker.create_topic(new_topic()).await.unwrap();
    send(&broker, &["a", "b", "c", "d"]).await;
    let deliveries = receive(&broker, 3600, 0).await;
    let (gone, kept): (Vec<_>, Vec<_>) = deliveries
        .into_iter()
        .partition(|d| d.envelope.body.as_deref() == Some(b"a"));
    ack(&broker, &gone).await;
    let moved = broker
        .change_invisible(
            &group(),
            &topic(),
            kept[0].handle.clone(),
            Duration::from_secs(60),
        )
        .await
        .unwrap();
    assert_ne!(moved, kept[0].handle);
    broker.tier().await.unwrap();
    send(&broker, &["e"]).await;
    drop(broker);
    let disk = disk.crash(&Seeded::new(3));

    let broker = open(&disk).await;
    assert_eq!(
        bodies(&receive(&broker, 10, 0).await),
        ["e"],
        "leases survive"
    );
    assert_eq!(
        bodies(&receive(&broker, 3600, 70).await),
        ["e"],
        "its ten seconds are over"
    );
    let moved_back = receive(&broker, 3600, 70).await;
    assert_eq!(moved_back.len(), 1);
    assert_eq!(moved_back[0].envelope, kept[0].envelope);
    assert_eq!(moved_back[0].attempt, 2);
    assert!(
        ack(&broker, &gone).await[0].is_ok(),
        "acknowledging again is fine"
    );
    assert_eq!(send(&broker, &["a"]).await[0].offset, {
        let sent = gone[0].envelope.at();
        Offset(sent.0 + 1)
    });
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_ends_the_incarnation_and_the_next_one_serves() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    broker.create_topic(new_topic()).await.unwrap();
    send(&broker, &["kept"]).await;
    disk.fail_next_sync();
    let outcome = broker.send(&topic(), vec![message("x", "x")]).await;
    let failed = match outcome {
        Err(_) => true,
        Ok(results) => results[0].is_err(),
    };
    assert!(failed, "a send whose sync failed is never answered OK");
    broker.parts.clock.sleep(Duration::from_secs(5)).await;
    send(&broker, &["after"]).await;
    let found = bodies(&receive(&broker, 30, 0).await);
    assert!(
        found.contains(&"kept".to_owned()) && found.contains(&"after".to_owned()),
        "{found:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_topic_made_anew_shares_nothing_with_the_one_before() {
    let broker = open(&SimulatedDisk::new()).await;
    let first = broker.create_topic(new_topic()).await.unwrap();
    send(&broker, &["old"]).await;
    let old = receive(&broker, 30, 0).await;
    broker.delete_topic(&topic()).await.unwrap();
    assert!(matches!(
        broker.topic(&topic()),
        Err(BrokerError::TopicNotFound { .. })
    ));
    let second = broker.create_topic(new_topic()).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(send(&broker, &["old"]).await[0].offset, Offset(0));
    assert!(
        ack(&broker, &old).await[0].is_err(),
        "an old handle does not reach the new topic"
    );
    assert_eq!(bodies(&receive(&broker, 30, 0).await), ["old"]);
}

#[tokio::test(start_paused = true)]
async fn retention_skips_what_is_gone_for_every_group_and_after_a_restart() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let one_queue = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    let hour = Retention {
        ms: Some(3_600_000),
        ..Retention::default()
    };
    let made = broker.create_topic_keeping(one_queue, hour).await.unwrap();
    assert_eq!(made.retention, hour);
    send(&broker, &["a", "b", "c"]).await;
    let held = receive(&broker, 7200, 0).await;
    assert!(ack(&broker, &held[..1]).await[0].is_ok());
    broker.tier().await.unwrap();
    broker.parts.clock.sleep(Duration::from_secs(3000)).await;
    send(&broker, &["d"]).await;
    broker.parts.clock.sleep(Duration::from_secs(1000)).await;
    broker.care().await;
    let extent = |broker: &Broker| broker.extents(&made)[0].1;
    assert_eq!(extent(&broker).first, Offset(3));
    let progress = broker.group_progress(&group()).await.unwrap();
    assert_eq!((progress[0].ack_floor, progress[0].lag), (Offset(3), 1));
    assert!(
        ack(&broker, &held[1..]).await.iter().all(Result::is_ok),
        "nothing is left to do"
    );
    let below = broker.read(&topic(), QueueId(0), Offset(1), 9).await;
    let (kept, next) = below.unwrap();
    assert_eq!((kept.len(), kept[0].at(), next), (1, Offset(3), Offset(4)));
    broker.close().await;
    let broker = open(&disk).await;
    broker.parts.clock.sleep(Duration::from_secs(1)).await;
    assert_eq!(extent(&broker).first, Offset(3));
    assert_eq!(bodies(&receive(&broker, 30, 0).await), ["d"]);
    let other = Receive {
        group: GroupName::new("other").unwrap(),
        topic: topic(),
        limit: 32,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    assert_eq!(bodies(&broker.receive(other).await.unwrap()), ["d"]);
    // For ever again.
    let forever = NewRetention {
        ms: Some(0),
        ..NewRetention::default()
    };
    let altered = broker.alter_topic(&topic(), forever.into()).await.unwrap();
    assert_eq!(altered.retention, Retention::default());
    broker.parts.clock.sleep(Duration::from_secs(10_000)).await;
    assert_eq!(extent(&broker).first, Offset(3));
    let short = NewRetention {
        ms: Some(1),
        ..NewRetention::default()
    };
    let refused = broker.alter_topic(&topic(), short.into()).await;
    assert!(refused.is_err());
}

#[tokio::test(start_paused = true)]
async fn upkeep_merges_small_files_and_nothing_changes_for_readers() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let made = broker.create_topic(new_topic()).await.unwrap();
    for round in 0..9 {
        send(&broker, &[&format!("m{round}")]).await;
        broker.tier().await.unwrap();
    }
    broker.care().await;
    let sizes = broker.sizes_of(made.id).cold;
    assert!(sizes.files < 9 && sizes.messages == 9, "{sizes:?}");
    let done = broker.compact(Some(made.id)).await.unwrap();
    assert!(done.files_made <= 1);
    assert_eq!(broker.sizes_of(made.id).cold.files, 1);
    assert_eq!(receive(&broker, 30, 0).await.len(), 9);
    assert!(broker.verify().await.unwrap().damage.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_group_from_latest_sees_only_what_comes_after_its_first_poll() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    broker
        .create_group(Group {
            start: GroupStart::Latest,
            ..Group::new(group())
        })
        .await
        .unwrap();
    send(&broker, &["before"]).await;
    assert!(receive(&broker, 30, 0).await.is_empty());
    send(&broker, &["after", "before"]).await;
    assert_eq!(bodies(&receive(&broker, 30, 0).await), ["after", "before"]);
}

#[tokio::test(start_paused = true)]
async fn a_poll_over_many_shards_gives_what_there_is_and_never_more_than_asked() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    // Keyed: most of them in one queue, some elsewhere.
    let names: Vec<String> = (0..40).map(|n| format!("{}", n % 3)).collect();
    send(
        &broker,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await;
    let mut seen = 0;
    for limit in [1, 5, 32, 32] {
        let receive = Receive {
            group: group(),
            topic: topic(),
            limit,
            invisible: Duration::from_secs(30),
            poll: Duration::ZERO,
        };
        let found = broker.receive(receive).await.unwrap().len();
        assert_eq!(
            found,
            limit.min(40 - seen),
            "a full batch while there is one"
        );
        seen += found;
    }
    assert_eq!(seen, 40);
}

#[tokio::test(start_paused = true)]
async fn many_idle_polls_each_get_one_of_the_messages_that_come_at_once() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    let poll = || {
        broker.receive(Receive {
            group: group(),
            topic: topic(),
            limit: 1,
            invisible: Duration::from_secs(30),
            poll: Duration::from_secs(20),
        })
    };
    let polls = futures::future::join_all((0..10).map(|_| poll()));
    let (found, _) = tokio::join!(polls, async {
        broker.parts.clock.sleep(Duration::from_secs(5)).await;
        send(&broker, &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]).await
    });
    assert!(found.iter().all(|found| found.as_ref().unwrap().len() == 1));
    assert!(broker.now() < Timestamp(1_000_000 + 6_000), "nobody waited");
}
