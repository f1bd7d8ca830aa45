//! What groups see: order, filters, priorities, dead letters, leases, and being put elsewhere.

use millpond_storage::format::envelope::{Property, PropertyValue};

use super::*;
use crate::broker::filter::{Filter, FilterKind};
use crate::broker::poll::Consumer;
use crate::broker::record::Backoff;
use crate::broker::standing::ResetTo;
use crate::broker::transfer::{Selection, property, text};

async fn make(broker: &Broker, kind: TopicType, queues: u32) {
    let topic = NewTopic {
        kind,
        queues: Some(queues),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap();
}

fn grouped(message_group: &str, body: &str) -> Envelope {
    Envelope {
        message_group: Some(message_group.to_owned()),
        ..message(message_group, body)
    }
}

async fn store(broker: &Broker, messages: Vec<Envelope>) {
    for stored in broker.send(&topic(), messages).await.unwrap() {
        stored.unwrap();
    }
}

async fn poll(broker: &Broker, limit: usize, poll_s: u64, consumer: &Consumer) -> Vec<Delivery> {
    let receive = Receive {
        group: group(),
        topic: topic(),
        limit,
        invisible: Duration::from_secs(30),
        poll: Duration::from_secs(poll_s),
    };
    broker.receive_as(receive, consumer).await.unwrap().take()
}

fn in_order(deliveries: &[Delivery]) -> Vec<String> {
    let body = |d: &Delivery| d.envelope.body.clone().unwrap().to_vec();
    let text = |d: &Delivery| String::from_utf8(body(d)).unwrap();
    deliveries.iter().map(text).collect()
}

fn all() -> Consumer {
    Consumer::default()
}

fn wanting(kind: FilterKind, expression: &str) -> Consumer {
    Consumer {
        filter: Some(Arc::new(Filter::parse(kind, expression).unwrap())),
        ..Consumer::default()
    }
}

async fn sleep(broker: &Broker, s: u64) {
    broker.parts.clock.sleep(Duration::from_secs(s)).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_group_waits_for_its_first_message_and_the_others_flow_on() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    make(&broker, TopicType::Fifo, 4).await;
    let messages = [
        ("x", "x1"),
        ("y", "y1"),
        ("x", "x2"),
        ("x", "x3"),
        ("y", "y2"),
    ];
    store(&broker, messages.map(|(g, b)| grouped(g, b)).into()).await;
    let first = poll(&broker, 1, 0, &all()).await;
    let second = poll(&broker, 9, 0, &all()).await;
    let (mine, other) = (in_order(&first)[0].clone(), in_order(&second));
    assert_eq!(other.len(), if mine == "x1" { 2 } else { 3 });
    assert!(
        other.iter().all(|body| body[..1] != mine[..1]),
        "{mine} {other:?}"
    );
    assert!(poll(&broker, 9, 0, &all()).await.is_empty());

    // A crash changes nothing: what is held stays held, and the rest comes in order.
    drop(broker);
    let broker = open(&disk.crash(&Seeded::new(5))).await;
    assert!(poll(&broker, 9, 0, &all()).await.is_empty());
    ack(&broker, &second).await;
    ack(&broker, &first).await;
    let rest = in_order(&poll(&broker, 9, 0, &all()).await);
    let expected: &[&str] = if mine == "x1" { &["x2", "x3"] } else { &["y2"] };
    assert_eq!(rest, expected);
    // Not acknowledged, they come again, in the same order.
    let again = poll(&broker, 9, 40, &all()).await;
    assert_eq!(in_order(&again), expected);
    assert!(again.iter().all(|delivery| delivery.attempt == 2));
}

#[tokio::test(start_paused = true)]
async fn an_ack_wakes_a_poll_that_waits_for_the_message_group() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Fifo, 2).await;
    store(&broker, vec![grouped("x", "1"), grouped("x", "2")]).await;
    let first = poll(&broker, 1, 0, &all()).await;
    let consumer = all();
    let (second, ()) = tokio::join!(poll(&broker, 1, 20, &consumer), async {
        sleep(&broker, 5).await;
        ack(&broker, &first).await;
    });
    assert_eq!(in_order(&second), ["2"]);
    assert!(broker.now() < Timestamp(1_000_000 + 6_000));
}

#[tokio::test(start_paused = true)]
async fn the_same_attempt_gets_the_same_batch_without_another_attempt() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Fifo, 4).await;
    store(
        &broker,
        vec![grouped("x", "1"), grouped("y", "2"), grouped("x", "3")],
    )
    .await;
    let attempt = |id: &str| Consumer {
        attempt_id: Some(id.to_owned()),
        ..Consumer::default()
    };
    let sorted = |mut batch: Vec<Delivery>| {
        batch.sort_by_key(|d| (d.handle.queue, d.handle.offset));
        batch
    };
    let first = sorted(poll(&broker, 2, 0, &attempt("a")).await);
    assert_eq!(sorted(poll(&broker, 2, 0, &attempt("a")).await), first);
    ack(&broker, &first[..1]).await;
    assert_eq!(poll(&broker, 2, 0, &attempt("a")).await, first[1..]);
    let other = poll(&broker, 2, 0, &attempt("b")).await;
    assert!(other.iter().all(|d| !first.contains(d)));
}

#[tokio::test(start_paused = true)]
async fn what_a_filter_does_not_want_is_no_lag_and_blocks_nothing() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Normal, 4).await;
    let many = (0..3000).map(|n| Envelope {
        tag: Some(if n % 1000 == 999 { "rare" } else { "common" }.to_owned()),
        properties: vec![Property {
            key: "n".to_owned(),
            value: Some(PropertyValue::Text(n.to_string())),
        }],
        ..message(&n.to_string(), &n.to_string())
    });
    let many: Vec<Envelope> = many.collect();
    for part in many.chunks(500) {
        store(&broker, part.to_vec()).await;
    }
    let rare = wanting(FilterKind::Tag, "rare || absent");
    let mut found = Vec::new();
    loop {
        let some = poll(&broker, 2, 0, &rare).await;
        if some.is_empty() {
            break;
        }
        ack(&broker, &some).await;
        found.extend(in_order(&some));
    }
    found.sort();
    assert_eq!(found, ["1999", "2999", "999"]);
    let progress = broker.group_progress(&group()).await.unwrap();
    assert!(progress.iter().all(|queue| queue.lag == 0), "{progress:?}");

    store(&broker, vec![message("k", "plain"), many[7].clone()]).await;
    let sql = wanting(FilterKind::Sql92, "n BETWEEN 5 AND 9");
    assert_eq!(in_order(&poll(&broker, 9, 0, &sql).await), ["7"]);
}

#[tokio::test(start_paused = true)]
async fn the_greatest_priority_goes_first_over_all_queues() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Priority, 4).await;
    let with = |priority: i32, body: &str| Envelope {
        priority: Some(priority),
        ..message(body, body)
    };
    let messages = [
        (1, "b"),
        (9, "top"),
        (0, "c"),
        (5, "mid"),
        (0, "d"),
        (9, "top2"),
    ];
    store(&broker, messages.map(|(p, b)| with(p, b)).into()).await;
    let first = poll(&broker, 3, 0, &all()).await;
    assert_eq!(bodies(&first), ["mid", "top", "top2"]);
    assert_eq!(in_order(&first)[2], "mid");
    store(&broker, vec![with(7, "late")]).await;
    let second = in_order(&poll(&broker, 2, 0, &all()).await);
    assert_eq!(second, ["late", "b"]);
    assert_eq!(bodies(&poll(&broker, 9, 0, &all()).await), ["c", "d"]);
}

async fn kill(broker: &Broker, attempts: u32) {
    for attempt in 1..=attempts {
        let found = poll(broker, 9, 40, &all()).await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].attempt, attempt);
    }
}

async fn letters(broker: &Broker) -> Vec<Envelope> {
    let selection = Selection {
        limit: 100,
        ..Selection::default()
    };
    broker
        .dead_letters(&group(), &selection)
        .await
        .unwrap()
        .letters
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_over_is_a_dead_letter_though_nothing_else_is_there_to_deliver() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Fifo, 4).await;
    let settings = Group {
        attempts_max: Some(2),
        ..Group::new(group())
    };
    broker.create_group(settings).await.unwrap();
    store(&broker, vec![grouped("x", "poison")]).await;
    kill(&broker, 2).await;
    assert!(poll(&broker, 9, 40, &all()).await.is_empty());
    assert_eq!(letters(&broker).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn after_its_last_attempt_a_message_is_a_dead_letter_and_can_be_redriven() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    make(&broker, TopicType::Normal, 4).await;
    let settings = Group {
        attempts_max: Some(2),
        ..Group::new(group())
    };
    broker.create_group(settings).await.unwrap();
    send(&broker, &["poison"]).await;
    kill(&broker, 2).await;
    assert!(poll(&broker, 9, 40, &all()).await.is_empty());
    let dead = letters(&broker).await;
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].body.as_deref(), Some(b"poison".as_slice()));
    assert_eq!(text(&dead[0], property::TOPIC), Some("orders"));
    assert_eq!(text(&dead[0], property::MESSAGE_ID), Some("id-poison"));
    assert_eq!(text(&dead[0], property::ATTEMPTS), Some("2"));
    assert_eq!(text(&dead[0], property::REASON), Some("attempts"));
    drop(broker);

    let broker = open(&disk.crash(&Seeded::new(5))).await;
    // This life's clock begins where the first one's did: let it catch up.
    sleep(&broker, 200).await;
    assert_eq!(letters(&broker).await, dead);
    assert!(poll(&broker, 9, 40, &all()).await.is_empty());
    let progress = broker.group_progress(&group()).await.unwrap();
    assert!(progress.iter().all(|queue| queue.lag == 0), "{progress:?}");

    let nothing = Selection {
        message_ids: ["other".to_owned()].into(),
        limit: 100,
        ..Selection::default()
    };
    assert!(
        broker
            .redrive(&group(), &nothing)
            .await
            .unwrap()
            .letters
            .is_empty()
    );
    let everything = Selection {
        limit: 100,
        ..Selection::default()
    };
    let outcomes = broker.redrive(&group(), &everything).await.unwrap().letters;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].failed, None);
    assert!(letters(&broker).await.is_empty());
    // In place: the same offset, counted anew, for this group only.
    kill(&broker, 2).await;
    assert!(poll(&broker, 9, 40, &all()).await.is_empty());
    assert_eq!(letters(&broker).await.len(), 1);
    assert_eq!(
        broker
            .purge(&group(), &everything)
            .await
            .unwrap()
            .letters
            .len(),
        1
    );
    assert!(letters(&broker).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_may_give_a_message_up_and_a_lost_home_keeps_it_dead() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Fifo, 1).await;
    store(&broker, vec![grouped("x", "1"), grouped("x", "2")]).await;
    let first = poll(&broker, 1, 0, &all()).await;
    let handle = first[0].handle.clone();
    let (billing, orders) = (group(), topic());
    for _ in 0..2 {
        let forwarded = broker.forward_to_dead_letters(&billing, &orders, handle.clone());
        forwarded.await.unwrap();
    }
    let dead = letters(&broker).await;
    assert_eq!(text(&dead[0], property::REASON), Some("request"));
    assert_eq!(dead.len(), 1);
    // A dead letter counts as done with: the next of its message group goes on.
    assert_eq!(in_order(&poll(&broker, 9, 0, &all()).await), ["2"]);
    broker.delete_topic(&topic()).await.unwrap();
    let everything = Selection {
        limit: 100,
        ..Selection::default()
    };
    let outcomes = broker.redrive(&group(), &everything).await.unwrap().letters;
    assert!(outcomes[0].failed.as_ref().unwrap().contains("deleted"));
    assert_eq!(letters(&broker).await, dead);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_lives_with_its_consumer() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Normal, 2).await;
    send(&broker, &["long"]).await;
    let push = Consumer {
        id: "host@1".to_owned(),
        renewed: true,
        ..Consumer::default()
    };
    let held = poll(&broker, 9, 0, &push).await;
    for _ in 0..10 {
        sleep(&broker, 15).await;
        let lives = |id: &str| id == "host@1";
        broker.renew_leases(20_000, 30_000, lives).await.unwrap();
    }
    let found = broker.group_in_flight(&group(), 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].consumer.as_str(), found[0].attempts),
        ("host@1", 1)
    );
    assert!(found[0].renewed && found[0].until > broker.now());
    assert!(poll(&broker, 9, 0, &all()).await.is_empty());
    // It says goodbye: its messages come back at once.
    broker.release("host@1").await.unwrap();
    let again = poll(&broker, 9, 0, &push).await;
    assert_eq!(again[0].attempt, 2);
    assert!(ack(&broker, &held).await[0].is_err());
    // It falls silent: they come back when the lease ends.
    sleep(&broker, 15).await;
    broker
        .renew_leases(20_000, 30_000, |_| false)
        .await
        .unwrap();
    assert_eq!(poll(&broker, 9, 20, &all()).await[0].attempt, 3);
}

#[tokio::test(start_paused = true)]
async fn what_was_leased_for_nobody_comes_back_at_once_and_uncounted() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Normal, 4).await;
    send(&broker, &["a", "b", "c"]).await;
    let receive = || Receive {
        group: group(),
        topic: topic(),
        limit: 9,
        invisible: Duration::from_secs(30),
        poll: Duration::from_secs(5),
    };
    // The batch is dropped before anybody took it.
    let consumer = all();
    drop(broker.receive_as(receive(), &consumer).await.unwrap());
    let mut again = poll(&broker, 9, 5, &all()).await;
    if again.len() < 3 {
        // They come back shard by shard.
        again.extend(poll(&broker, 9, 5, &all()).await);
    }
    assert_eq!(bodies(&again), ["a", "b", "c"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    ack(&broker, &again).await;
    // The call is dropped at each of its waits.
    for steps in 0..40 {
        send(&broker, &["x", "y"]).await;
        let mut call = Box::pin(broker.receive_as(receive(), &consumer));
        for _ in 0..steps {
            if futures::poll!(call.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        let found = poll(&broker, 9, 5, &all()).await;
        let mut all_of_them = found.clone();
        if found.len() < 2 {
            all_of_them.extend(poll(&broker, 9, 5, &all()).await);
        }
        assert_eq!(bodies(&all_of_them), ["x", "y"], "after {steps} steps");
        assert!(all_of_them.iter().all(|delivery| delivery.attempt == 1));
        ack(&broker, &all_of_them).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_is_paused_reset_skipped_and_cloned() {
    let broker = open(&SimulatedDisk::new()).await;
    make(&broker, TopicType::Normal, 1).await;
    send(&broker, &["a", "b"]).await;
    sleep(&broker, 60).await;
    let noon = broker.now();
    send(&broker, &["c", "d"]).await;
    let taken = poll(&broker, 9, 0, &all()).await;
    ack(&broker, &taken[..3]).await;

    let reset = |to| broker.reset_group_of(to);
    let offsets = |found: Vec<Delivery>| found.iter().map(|d| d.handle.offset).collect::<Vec<_>>();
    reset(ResetTo::Time(noon)).await;
    assert_eq!(offsets(poll(&broker, 9, 0, &all()).await), [2, 3]);
    reset(ResetTo::Earliest).await;
    reset(ResetTo::Skip(1)).await;
    assert_eq!(offsets(poll(&broker, 9, 0, &all()).await), [1, 2, 3]);
    reset(ResetTo::Latest).await;
    assert!(poll(&broker, 9, 0, &all()).await.is_empty());
    reset(ResetTo::Offset(Offset(3))).await;
    assert!(
        ack(&broker, &taken).await[3].is_err(),
        "handles of before are void"
    );

    let paused = |paused| GroupChange {
        paused: Some(paused),
        ..GroupChange::default()
    };
    broker.alter_group(&group(), paused(true)).await.unwrap();
    let consumer = all();
    let (found, ()) = tokio::join!(poll(&broker, 9, 20, &consumer), async {
        sleep(&broker, 5).await;
        broker.alter_group(&group(), paused(false)).await.unwrap();
    });
    assert_eq!(offsets(found), [3]);
    assert!(broker.now().since(noon) < Duration::from_secs(6));

    let other = GroupName::new("copy").unwrap();
    broker.clone_group(&group(), &other).await.unwrap();
    let receive = Receive {
        group: other,
        topic: topic(),
        limit: 9,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    let found = broker.receive(receive).await.unwrap();
    assert_eq!(found[0].attempt, 1, "held there, visible here");
    assert_eq!(offsets(found), [3]);

    let late = GroupName::new("late").unwrap();
    let start = Group {
        start: GroupStart::At(noon),
        ..Group::new(late.clone())
    };
    broker.create_group(start).await.unwrap();
    let receive = Receive {
        group: late.clone(),
        topic: topic(),
        limit: 9,
        invisible: Duration::from_secs(30),
        poll: Duration::ZERO,
    };
    assert_eq!(offsets(broker.receive(receive).await.unwrap()), [2, 3]);
    sleep(&broker, 10).await;
    let progress = broker.group_progress(&late).await.unwrap();
    assert_eq!(progress[0].oldest_at, Some(noon));
    assert_eq!(progress[0].lag, 2);
}

impl Broker {
    async fn reset_group_of(&self, to: ResetTo) {
        self.reset_group(&group(), &topic(), None, to)
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_back_off_that_shrinks_is_refused_whoever_asks_for_it() {
    let broker = open(&SimulatedDisk::new()).await;
    let backoff = |initial_ms, max_ms| {
        Some(Backoff {
            initial_ms,
            max_ms,
            multiplier: 2.0,
            ..Backoff::default()
        })
    };
    let group_with = |backoff| Group {
        backoff,
        ..Group::new(group())
    };
    let refused = broker.create_group(group_with(backoff(10_000, 1000))).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("10000 ms, the first one, or more"), "{told}");
    broker
        .create_group(group_with(backoff(1000, 1000)))
        .await
        .unwrap();
    let shrink = GroupChange {
        backoff: Some(backoff(2000, 1999)),
        ..GroupChange::default()
    };
    let refused = broker.alter_group(&group(), shrink).await;
    assert!(matches!(refused, Err(BrokerError::OutOfBounds { .. })));
    // Steps of a list may go down: each was written on purpose.
    let list = Backoff {
        list_ms: vec![1000, 500],
        ..Backoff::default()
    };
    let listed = GroupChange {
        backoff: Some(Some(list)),
        ..GroupChange::default()
    };
    broker.alter_group(&group(), listed).await.unwrap();
    broker.close().await;
}
