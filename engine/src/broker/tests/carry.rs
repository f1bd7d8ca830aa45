//! Dead letters whose way is barred, and those that go past them.

use super::*;
use crate::broker::transfer::Selection;

async fn take_one(broker: &Broker, group: &GroupName) -> ReceiptHandle {
    let receive = Receive {
        group: group.clone(),
        topic: topic(),
        limit: 1,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    let found = broker.receive(receive).await.unwrap();
    found[0].handle.clone()
}

#[tokio::test(start_paused = true)]
async fn letters_that_can_not_be_placed_keep_no_other_group_waiting() {
    let broker = open(&SimulatedDisk::new()).await;
    let made = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(made).await.unwrap();
    send(&broker, &["a"]).await;
    // Somebody made a family of the name that the dead letters of alpha need.
    let alpha = GroupName::new("alpha").unwrap();
    let member = NewTopic {
        name: TopicName::new("member").unwrap(),
        ..new_topic()
    };
    let family = Some("%DLQ%alpha");
    let made = broker.create_topic_in(family, member, Retention::default(), Bodies::default());
    made.await.unwrap();
    for group in [&alpha, &group()] {
        let handle = take_one(&broker, group).await;
        broker
            .forward_to_dead_letters(group, &topic(), handle)
            .await
            .unwrap();
    }
    let everything = Selection {
        limit: 100,
        ..Selection::default()
    };
    let letters = broker
        .dead_letters(&group(), &everything)
        .await
        .unwrap()
        .letters;
    assert_eq!(letters.len(), 1, "billing's went past alpha's");
    let incarnation = broker.incarnation().unwrap();
    assert!(
        broker.finish_transfers(&incarnation).await.is_err(),
        "alpha's is there still"
    );
    let outcomes = broker.redrive(&group(), &everything).await.unwrap().letters;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].failed, None, "and back again");
    assert_eq!(bodies(&receive(&broker, 30, 0).await), ["a"]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_redrive_brings_a_group_that_starts_late_nothing_from_before_its_start() {
    let broker = open(&SimulatedDisk::new()).await;
    let made = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(made).await.unwrap();
    send(&broker, &["a"]).await;
    let handle = take_one(&broker, &group()).await;
    broker
        .forward_to_dead_letters(&group(), &topic(), handle)
        .await
        .unwrap();
    // The group is made anew and has not been there; its letters are there still.
    broker.delete_group(&group()).await.unwrap();
    send(&broker, &["b", "c"]).await;
    let late = Group {
        start: GroupStart::Latest,
        ..Group::new(group())
    };
    broker.create_group(late).await.unwrap();
    let everything = Selection {
        limit: 100,
        ..Selection::default()
    };
    let outcomes = broker.redrive(&group(), &everything).await.unwrap().letters;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(bodies(&receive(&broker, 30, 0).await), ["a"]);
    broker.close().await;
}
