//! Messages that can not be read any more: the others are found and delivered as if they were not there.

use super::*;
use crate::broker::pull::Place;
use crate::broker::standing::ResetTo;

/// A broker whose only queue holds these, of which one can not be read.
async fn with_rot(bodies: &[&str], lost: &str) -> Arc<Broker> {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    let made = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(made).await.unwrap();
    for body in bodies {
        send(&broker, &[body]).await;
        broker.parts.clock.sleep(Duration::from_secs(1)).await;
    }
    broker.close().await;
    let files = disk.snapshot();
    let disk = SimulatedDisk::holding(&files);
    for (path, bytes) in &files {
        let mut windows = bytes.windows(lost.len());
        if let Some(at) = windows.position(|window| window == lost.as_bytes()) {
            disk.flip_bit(path, at * 8);
        }
    }
    open(&disk).await
}

#[tokio::test(start_paused = true)]
async fn a_search_by_time_skips_no_message_for_one_that_can_not_be_read() {
    let bodies: Vec<String> = (0..9).map(|n| format!("number {n}")).collect();
    let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let broker = with_rot(&bodies, "number 4").await;
    let (_, next) = broker
        .read(&topic(), QueueId(0), Offset(5), 9)
        .await
        .unwrap();
    assert_eq!(next, Offset(9));
    assert!(
        broker
            .read(&topic(), QueueId(0), Offset(4), 1)
            .await
            .is_err(),
        "it is damaged"
    );
    // Each message was stored at its own second; between the third and the fifth only a guess is left.
    broker.create_group(Group::new(group())).await.unwrap();
    for (second, expected) in [
        (0, 0),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 4),
        (6, 6),
        (8, 8),
        (9, 9),
    ] {
        let at = Timestamp(1_000_000 + second * 1000);
        let to = ResetTo::Time(at);
        let placed = broker
            .reset_group(&group(), &topic(), None, to)
            .await
            .unwrap();
        assert_eq!(placed, [(QueueId(0), Offset(expected))], "second {second}");
        let place = Place::StoredAt(at);
        let found = broker.offset_at(&topic(), QueueId(0), place).await.unwrap();
        assert_eq!(found, Offset(expected), "second {second}");
    }
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_not_be_read_comes_back_when_its_time_ends_and_not_before() {
    let broker = with_rot(&["rotten", "second"], "rotten").await;
    let deliveries = receive(&broker, 30, 0).await;
    assert_eq!(bodies(&deliveries), ["second"]);
    ack(&broker, &deliveries).await;
    let held = broker.group_in_flight(&group(), 9).await.unwrap();
    assert_eq!((held.len(), held[0].attempts), (1, 1));
    broker.parts.clock.sleep(Duration::from_secs(31)).await;
    assert!(receive(&broker, 30, 0).await.is_empty());
    broker.parts.clock.sleep(Duration::from_secs(1)).await;
    let held = broker.group_in_flight(&group(), 9).await.unwrap();
    assert_eq!((held.len(), held[0].attempts), (1, 2), "leased once more");
    broker.close().await;
}
