//! Many queues of which few have something: which shards a poll asks, and that it never passes over what is there.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const QUEUES: u32 = 200;

async fn opened(kind: TopicType, from_latest: bool) -> Arc<Broker> {
    let broker = open(&SimulatedDisk::new()).await;
    let topic = NewTopic {
        kind,
        queues: Some(QUEUES),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap();
    let start = if from_latest {
        GroupStart::Latest
    } else {
        GroupStart::Earliest
    };
    let group = Group {
        start,
        ..Group::new(group())
    };
    broker.create_group(group).await.unwrap();
    broker
}

/// How many shards a poll of the group would ask now.
fn asked(broker: &Broker) -> usize {
    let incarnation = broker.incarnation().unwrap();
    let topic = broker.topic_record(&topic()).unwrap().id;
    let group = broker.group_record(&group()).unwrap().id;
    let spreads = incarnation.spreads();
    let spread = spreads.of(topic, QUEUES, |queue| incarnation.shard(topic, queue));
    let hints = incarnation.hints();
    let told = hints.of((topic, group), QUEUES, spread.shards());
    let open = hints.open(&told, spread.shards(), broker.now(), false);
    open.shards.len()
}

#[tokio::test(start_paused = true)]
async fn a_poll_asks_those_shards_alone_that_have_something() {
    for kind in [TopicType::Normal, TopicType::Fifo] {
        let broker = opened(kind, kind == TopicType::Fifo).await;
        assert_eq!(asked(&broker), 8, "nothing was told yet");
        assert!(receive(&broker, 30, 0).await.is_empty());
        assert_eq!(asked(&broker), 0);
        let grouped = Envelope {
            message_group: (kind == TopicType::Fifo).then(|| "a".to_owned()),
            ..message("a", "a")
        };
        broker.send(&topic(), vec![grouped]).await.unwrap();
        assert_eq!(asked(&broker), 1);
        let got = receive(&broker, 30, 0).await;
        assert_eq!(bodies(&got), ["a"]);
        assert_eq!(asked(&broker), 0, "it is invisible");
        broker.parts.clock.sleep(Duration::from_secs(31)).await;
        assert_eq!(asked(&broker), 1, "it has come back");
        let got = receive(&broker, 30, 0).await;
        ack(&broker, &got)
            .await
            .into_iter()
            .for_each(Result::unwrap);
        assert_eq!(asked(&broker), 0);
        broker.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_starts_at_the_latest_meets_all_queues_before_a_shard_is_passed_over() {
    let broker = opened(TopicType::Normal, true).await;
    assert!(receive(&broker, 30, 0).await.is_empty());
    let numbers = 0..2 * QUEUES;
    let texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    send(&broker, &texts).await;
    let mut found = BTreeSet::new();
    loop {
        let got = receive(&broker, 30, 0).await;
        if got.is_empty() {
            break;
        }
        found.extend(bodies(&got));
    }
    assert_eq!(found.len(), texts.len());
    broker.close().await;
}

/// What one group may be given, written down message by message.
#[derive(Default)]
struct Model {
    /// Until when each is invisible.
    held: BTreeMap<String, Timestamp>,
    handles: Vec<(String, ReceiptHandle)>,
}

impl Model {
    fn visible(&self, now: Timestamp) -> usize {
        self.held.values().filter(|until| **until <= now).count()
    }

    async fn pop(&mut self, broker: &Broker, limit: usize, invisible_s: u64) {
        let visible = self.visible(broker.now());
        let receive = Receive {
            group: group(),
            topic: topic(),
            limit,
            invisible: Duration::from_secs(invisible_s),
            poll: Duration::ZERO,
        };
        let got = broker.receive(receive).await.unwrap();
        assert_eq!(got.is_empty(), visible == 0, "{visible} are visible");
        assert!(got.len() <= visible.min(limit));
        for delivery in got {
            let body = bodies(std::slice::from_ref(&delivery)).remove(0);
            let until = broker.now() + Duration::from_secs(invisible_s);
            let before = self.held.insert(body.clone(), until);
            assert!(before.is_some(), "{body} was acknowledged");
            self.handles.retain(|(held, _)| *held != body);
            self.handles.push((body, delivery.handle));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_comes_back_empty_only_when_nothing_is_visible() {
    for seed in 0..6 {
        let chance = Seeded::new(seed);
        let broker = opened(TopicType::Normal, false).await;
        let mut model = Model::default();
        for number in 0..150 {
            match chance.below(8) {
                0 | 1 => {
                    let bodies = (0..=chance.below(4)).map(|n| format!("{number}-{n}"));
                    let bodies: Vec<String> = bodies.collect();
                    let texts: Vec<&str> = bodies.iter().map(String::as_str).collect();
                    send(&broker, &texts).await;
                    let now = broker.now();
                    model
                        .held
                        .extend(bodies.into_iter().map(|body| (body, now)));
                }
                2..5 => {
                    let limit = usize::try_from(1 + chance.below(6)).unwrap();
                    model.pop(&broker, limit, 1 + chance.below(20)).await;
                }
                5 | 6 => {
                    let now = broker.now();
                    let Some((body, handle)) = model.handles.pop() else {
                        continue;
                    };
                    if model.held[&body] <= now {
                        continue;
                    }
                    if chance.below(2) == 0 {
                        let acked = broker.ack(&group(), &topic(), vec![handle]).await;
                        acked.unwrap().into_iter().for_each(Result::unwrap);
                        model.held.remove(&body);
                    } else {
                        let (group, topic) = (group(), topic());
                        broker
                            .change_invisible(&group, &topic, handle, Duration::ZERO)
                            .await
                            .unwrap();
                        model.held.insert(body, now);
                    }
                }
                _ => {
                    broker
                        .parts
                        .clock
                        .sleep(Duration::from_secs(chance.below(9)))
                        .await
                }
            }
        }
        broker.close().await;
    }
}
