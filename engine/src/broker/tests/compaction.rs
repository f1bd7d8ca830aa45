//! Topics that keep the last message of each key: what groups, readers and queries see of them.

use futures::StreamExt as _;
use millpond_storage::tier::cold::typed::Reads;

use super::*;
use crate::broker::filter::Filter;
use crate::broker::pull::Pull;

async fn compacting(disk: &SimulatedDisk) -> (Arc<Broker>, Topic) {
    let broker = open(disk).await;
    let one_queue = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    let compact = Retention {
        compacts: true,
        ..Retention::default()
    };
    let made = broker
        .create_topic_keeping(one_queue, compact)
        .await
        .unwrap();
    (broker, made)
}

async fn store(broker: &Broker, keys: &[(&str, Option<&str>)]) {
    let messages = keys.iter().map(|(key, body)| Envelope {
        body: body.map(|body| body.to_owned().into()),
        ..message(key, "")
    });
    for stored in broker.send(&topic(), messages.collect()).await.unwrap() {
        stored.unwrap();
    }
}

/// Offsets 0 to 8, of which a compaction leaves 6, 7 and 8.
async fn three_rounds(broker: &Broker) {
    for round in ["1", "2", "3"] {
        let bodies: Vec<String> = ["a", "b", "c"].map(|key| format!("{key}{round}")).into();
        let of = |at: usize| Some(bodies[at].as_str());
        store(broker, &[("a", of(0)), ("b", of(1)), ("c", of(2))]).await;
    }
}

fn texts(messages: &[Envelope]) -> Vec<String> {
    let text = |m: &Envelope| String::from_utf8(m.body.clone().unwrap_or_default().to_vec());
    messages.iter().map(|m| text(m).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn groups_and_readers_pass_over_what_was_superseded() {
    let disk = SimulatedDisk::new();
    let (broker, made) = compacting(&disk).await;
    three_rounds(&broker).await;
    // This group holds the first two messages.
    let receive_two = || Receive {
        group: group(),
        topic: topic(),
        limit: 2,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    assert_eq!(
        bodies(&broker.receive(receive_two()).await.unwrap()),
        ["a1", "b1"]
    );
    broker.tier().await.unwrap();
    store(&broker, &[("d", Some("d1"))]).await;
    let done = broker.compact_keys(Some(made.id)).await.unwrap();
    assert_eq!(done[0].1.keys.superseded, 6);
    broker.close().await;
    let broker = open(&disk).await;
    assert_eq!(broker.extents(&made)[0].1.first, Offset(0));
    let pull = |from| Pull {
        topic: topic(),
        queue: QueueId(0),
        from: Offset(from),
        limit: 9,
        filter: Filter::all(),
        poll: Duration::ZERO,
    };
    for from in [0, 3, 6] {
        let pulled = broker.pull(pull(from)).await.unwrap();
        let (mut found, mut next) = (texts(&pulled.messages), pulled.next);
        if next < Offset(10) {
            let rest = broker.pull(pull(next.0)).await.unwrap();
            found.extend(texts(&rest.messages));
            next = rest.next;
        }
        assert_eq!(found, ["a3", "b3", "c3", "d1"]);
        assert_eq!(next, Offset(10));
    }
    let scanned = Topics::scan(
        &*broker,
        made.id,
        QueueId(0),
        Offset(2)..Offset(10),
        &Reads::of(&["key"]),
    );
    let rows = scanned.map(|batch| batch.unwrap().num_rows());
    assert_eq!(rows.fold(0, |sum, rows| async move { sum + rows }).await, 4);
    let progress = broker.group_progress(&group()).await.unwrap();
    assert_eq!(progress[0].lag, 4, "what is there still");
    broker.parts.clock.sleep(Duration::from_secs(40)).await;
    // What it held is gone, and it does not wait for it.
    let mut seen = Vec::new();
    loop {
        let found = broker.receive(receive_two()).await.unwrap();
        if found.is_empty() {
            break;
        }
        assert!(ack(&broker, &found).await.iter().all(Result::is_ok));
        seen.extend(bodies(&found));
    }
    assert_eq!(seen, ["a3", "b3", "c3", "d1"]);
    let progress = broker.group_progress(&group()).await.unwrap();
    assert_eq!((progress[0].ack_floor, progress[0].lag), (Offset(10), 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_without_a_key_is_refused_and_told_why() {
    let (broker, _) = compacting(&SimulatedDisk::new()).await;
    let keyless = Envelope {
        key: None,
        ..message("k", "x")
    };
    let refused = broker
        .send(&topic(), vec![keyless.clone()])
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("--cleanup delete"),
        "{refused}"
    );
    let delete = NewRetention {
        compacts: Some(false),
        ..NewRetention::default()
    };
    broker.alter_topic(&topic(), delete.into()).await.unwrap();
    assert!(broker.send(&topic(), vec![keyless]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_background_compacts_what_is_worth_it() {
    let (broker, made) = compacting(&SimulatedDisk::new()).await;
    three_rounds(&broker).await;
    broker.care().await;
    assert_eq!(
        broker.sizes_of(made.id).cold.superseded,
        0,
        "nothing is cold"
    );
    broker.tier().await.unwrap();
    broker.care().await;
    let sizes = broker.sizes_of(made.id);
    assert_eq!((sizes.cold.messages, sizes.cold.superseded), (3, 6));
    store(&broker, &[("a", None), ("e", Some("e1"))]).await;
    broker.tier().await.unwrap();
    broker.compact_keys(None).await.unwrap();
    let found = receive(&broker, 30, 0).await;
    let found: Vec<Envelope> = found.into_iter().map(|d| d.envelope).collect();
    assert_eq!(texts(&found), ["b3", "c3", "", "e1"]);
    // The tombstone goes a day after it was compacted, and then another one at most.
    for _ in 0..2 {
        broker.parts.clock.sleep(Duration::from_secs(86_401)).await;
        broker.care().await;
    }
    assert_eq!(broker.sizes_of(made.id).cold.messages, 3);
}

#[tokio::test(start_paused = true)]
async fn what_a_query_would_read_again_after_a_crash_stays() {
    let (broker, made) = compacting(&SimulatedDisk::new()).await;
    three_rounds(&broker).await;
    broker.tier().await.unwrap();
    let sql: &dyn Topics = &*broker;
    let text = format!("CREATE MATERIALIZED VIEW v AS SELECT * FROM {}", topic());
    let job = sql.create_job("v", &text, &[]).await.unwrap();
    let job = JobId(job.id);
    let held = broker.compact_keys(None).await.unwrap();
    assert_eq!(held[0].1.held_by.as_deref(), Some("v"));
    let cut = |epoch, offset| EpochCut {
        epoch,
        tick_ms: 1000,
        offsets: vec![(made.id.0, 0, offset)],
    };
    sql.commit(job, cut(1, 4)).await.unwrap();
    let held = broker.compact_keys(None).await.unwrap();
    assert_eq!(held[0].1.held_by.as_deref(), Some("v"));
    sql.checkpointed(job, Epoch(1), "state").await.unwrap();
    sql.commit(job, cut(2, 9)).await.unwrap();
    let done = broker.compact_keys(None).await.unwrap();
    assert_eq!(done[0].1.keys.superseded, 4, "below the saved state's cut");
    sql.checkpointed(job, Epoch(2), "state").await.unwrap();
    let done = broker.compact_keys(None).await.unwrap();
    assert_eq!(done[0].1.keys.superseded, 2);
}
