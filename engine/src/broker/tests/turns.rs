//! Whose turn it is where many shards have something: one shard a batch while a group polls often, and none for long.

use std::collections::BTreeSet;

use millpond_proto::message::ShardId;

use super::*;

const QUEUES: u32 = 200;
const SHARDS: usize = 8;

/// A topic with messages in all of so many queues.
async fn opened(queues: u32) -> Arc<Broker> {
    let broker = open(&SimulatedDisk::new()).await;
    let topic = NewTopic {
        queues: Some(queues),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap();
    broker.create_group(Group::new(group())).await.unwrap();
    // The shards tell of what was polled once.
    assert!(receive(&broker, 30, 0).await.is_empty());
    let texts: Vec<String> = (0..600).map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    send(&broker, &texts).await;
    broker
}

fn shards_of(broker: &Broker, batch: &[Delivery]) -> BTreeSet<ShardId> {
    let incarnation = broker.incarnation().unwrap();
    let handles = batch.iter().map(|delivery| &delivery.handle);
    let shards = handles.map(|handle| incarnation.shard(handle.topic, handle.queue));
    shards.collect()
}

async fn pop(broker: &Broker, limit: usize) -> Vec<Delivery> {
    let receive = Receive {
        group: group(),
        topic: topic(),
        limit,
        invisible: Duration::from_secs(600),
        poll: Duration::ZERO,
    };
    broker.receive(receive).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_of_one_shard_and_each_shard_has_its_turn() {
    let broker = opened(QUEUES).await;
    // However long ago the group polled: nothing was passed over meanwhile.
    broker.parts.clock.sleep(Duration::from_secs(60)).await;
    let mut met = BTreeSet::new();
    for _ in 0..SHARDS {
        let batch = pop(&broker, 8).await;
        assert_eq!(batch.len(), 8);
        let shards = shards_of(&broker, &batch);
        assert_eq!(
            shards.len(),
            1,
            "one record in the log, and one for its acks"
        );
        met.extend(shards);
    }
    assert_eq!(met.len(), SHARDS, "none comes twice before all came once");
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_back_overtakes_the_backlog_of_all_queues() {
    let broker = opened(8).await;
    let first = pop(&broker, 1).await.remove(0);
    let (group, topic) = (group(), topic());
    let handle = first.handle.clone();
    let given_back = broker.change_invisible(&group, &topic, handle, Duration::ZERO);
    given_back.await.unwrap();
    let mut polls = 0;
    loop {
        polls += 1;
        let batch = pop(&broker, 8).await;
        let is_it = |d: &Delivery| d.envelope.message_id == first.envelope.message_id;
        if batch.iter().any(is_it) {
            break;
        }
    }
    assert!(polls <= 2 * SHARDS, "it came with poll {polls} of 75");
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_polls_seldom_gets_a_share_of_every_shard_that_it_passed_over() {
    let broker = opened(QUEUES).await;
    for (pause_ms, shards) in [(0, 1), (1000, SHARDS - 1), (1000, 1), (1000, SHARDS - 1)] {
        broker
            .parts
            .clock
            .sleep(Duration::from_millis(pause_ms))
            .await;
        let batch = pop(&broker, 16).await;
        assert_eq!(batch.len(), 16);
        assert_eq!(shards_of(&broker, &batch).len(), shards, "{pause_ms} ms");
    }
    broker.close().await;
}
