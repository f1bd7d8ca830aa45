//! A log and its table that are kept for different times: who sees what.

use futures::StreamExt as _;
use millpond_storage::tier::cold::typed::Reads;

use super::*;
use crate::broker::filter::Filter;
use crate::broker::pull::Pull;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn sent_on_three_days(broker: &Broker, retention: Retention) -> Topic {
    let one_queue = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    let made = broker
        .create_topic_keeping(one_queue, retention)
        .await
        .unwrap();
    for day in 0..3 {
        send(broker, &[&format!("a{day}"), &format!("b{day}")]).await;
        broker.tier().await.unwrap();
        broker.parts.clock.sleep(Duration::from_secs(86_400)).await;
    }
    made
}

/// What SQL sees, as a count of rows.
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

async fn pull(broker: &Broker, from: u64) -> Result<usize, BrokerError> {
    let mut at = Offset(from);
    let mut count = 0;
    loop {
        let pull = Pull {
            topic: topic(),
            queue: QueueId(0),
            from: at,
            limit: 32,
            filter: Filter::all(),
            poll: Duration::ZERO,
        };
        let pulled = broker.pull(pull).await?;
        if pulled.messages.is_empty() {
            return Ok(count);
        }
        count += pulled.messages.len();
        at = pulled.next;
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_outlives_its_log_and_only_sql_sees_the_rest() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let kept = Retention {
        ms: Some(DAY_MS * 3 / 2),
        table_ms: Some(DAY_MS * 5 / 2),
        ..Retention::default()
    };
    let made = sent_on_three_days(&broker, kept).await;
    assert_eq!(made.retention, kept);
    broker.care().await;
    drop(broker);
    let broker = open(&disk.crash(&Seeded::new(3))).await;
    let extent = broker.extents(&made)[0].1;
    assert_eq!(
        (extent.first, extent.kept, extent.next),
        (Offset(4), Offset(2), Offset(6))
    );
    assert_eq!(rows(&broker, &made).await, 4);
    assert_eq!(pull(&broker, 4).await.unwrap(), 2);
    let below = pull(&broker, 3).await.unwrap_err();
    assert!(matches!(
        below,
        BrokerError::OffsetOutside {
            first: Offset(4),
            ..
        }
    ));
    assert_eq!(bodies(&receive(&broker, 30, 0).await), ["a2", "b2"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_outlives_its_table_and_is_read_to_its_beginning() {
    let broker = open(&SimulatedDisk::new()).await;
    let kept = Retention {
        table_ms: Some(DAY_MS * 3 / 2),
        ..Retention::default()
    };
    let made = sent_on_three_days(&broker, kept).await;
    broker.care().await;
    let extent = broker.extents(&made)[0].1;
    assert_eq!((extent.first, extent.next), (Offset(0), Offset(6)));
    assert_eq!(pull(&broker, 0).await.unwrap(), 6);
    assert_eq!(
        rows(&broker, &made).await,
        6,
        "SQL sees what either of both keeps"
    );
    // Merging keeps what left the table apart from what is in it.
    broker.compact(Some(made.id)).await.unwrap();
    assert_eq!(pull(&broker, 0).await.unwrap(), 6);
    // As the log again: for ever.
    let as_log = NewRetention {
        table_as_log: true,
        ..NewRetention::default()
    };
    let altered = broker.alter_topic(&topic(), as_log.into()).await.unwrap();
    assert_eq!(altered.retention, Retention::default());
}
