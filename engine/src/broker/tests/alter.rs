//! Changes of topics and groups: whole or not at all, and none undoes another.

use millpond_proto::limits;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_change_of_a_topic_that_is_refused_in_part_is_refused() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    broker.create_topic(new_topic()).await.unwrap();
    let change = TopicChange {
        queues: Some(16),
        retention: NewRetention {
            ms: Some(1),
            ..NewRetention::default()
        },
        ..TopicChange::default()
    };
    let refused = broker.alter_topic(&topic(), change.clone()).await;
    assert!(
        matches!(refused, Err(BrokerError::OutOfBounds { .. })),
        "{refused:?}"
    );
    assert_eq!(broker.topic(&topic()).unwrap().queues, 4);
    let possible = TopicChange {
        retention: NewRetention {
            ms: Some(limits::RETENTION_MS_MIN),
            ..NewRetention::default()
        },
        ..change
    };
    let altered = broker.alter_topic(&topic(), possible).await.unwrap();
    assert_eq!(
        (altered.queues, altered.retention.ms),
        (16, Some(limits::RETENTION_MS_MIN))
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_of_a_group_at_once_neither_undoes_the_other() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let made = Group {
        fifo: true,
        ..Group::new(group())
    };
    broker.create_group(made).await.unwrap();
    let (name, pause, attempts) = (
        group(),
        GroupChange {
            paused: Some(true),
            ..GroupChange::default()
        },
        GroupChange {
            attempts_max: Some(5),
            ..GroupChange::default()
        },
    );
    let changes = [pause, attempts].map(|change| broker.alter_group(&name, change));
    for changed in futures::future::join_all(changes).await {
        changed.unwrap();
    }
    drop(broker);
    let broker = open(&disk.crash(&Seeded::new(3))).await;
    let expected = Group {
        fifo: true,
        paused: true,
        attempts_max: Some(5),
        ..Group::new(group())
    };
    assert_eq!(broker.group(&name).unwrap(), expected);
}
