//! Delayed and half messages through what loses, doubles or blocks them elsewhere; the list is in
//! [`super::elsewhere`].

use millpond_proto::limits;
use millpond_proto::message::TopicId;
use millpond_proto::time::Clock;
use millpond_storage::tier::simulated::SimulatedStore;

use super::*;
use crate::broker::delay::{Delayed, DelayedPlace, RecallHandle};
use crate::broker::half::TransactionId;
use crate::broker::shelf::shelf_topic;

const HOUR_MS: i64 = 60 * 60 * 1000;
const DUE: &str = "reminders";
const HALF: &str = "payments";

/// A broker's surroundings that outlive it: the clock goes on over restarts.
struct World {
    clock: Arc<dyn Clock>,
    store: SimulatedStore,
}

impl World {
    fn new() -> Self {
        Self {
            clock: Arc::new(SimulatedClock::starting_at(Timestamp(1_000_000))),
            store: SimulatedStore::new(1),
        }
    }

    async fn open(&self, disk: &SimulatedDisk) -> Arc<Broker> {
        let parts = Parts {
            clock: Arc::clone(&self.clock),
            objects: Arc::new(self.store.clone()),
            ..parts(disk)
        };
        let settings = Settings {
            // Nothing is read from memory that is not in the log.
            cache_bytes: 0,
            ..settings()
        };
        Broker::start(parts, settings).await.unwrap()
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_ms()
    }

    async fn sleep_ms(&self, ms: i64) {
        let ms = u64::try_from(ms).unwrap();
        self.clock.sleep(Duration::from_millis(ms)).await;
    }
}

fn name(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

async fn make(broker: &Broker, topic: &str, kind: TopicType) {
    let topic = NewTopic {
        name: name(topic),
        kind,
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap();
}

fn named(id: &str, due_at_ms: Option<i64>) -> Envelope {
    Envelope {
        message_id: id.to_owned(),
        due_at_ms,
        body: Some(Bytes::from_static(b"body")),
        ..Envelope::default()
    }
}

async fn delay(broker: &Broker, id: &str, due_ms: i64) -> Option<RecallHandle> {
    let topic = name(DUE);
    let sent = broker.send_delayed(&topic, vec![named(id, Some(due_ms))]);
    match sent.await.unwrap().remove(0).unwrap() {
        Delayed::Waits(handle) => Some(handle),
        Delayed::Sent(_) => None,
    }
}

async fn half(broker: &Broker, id: &str) -> TransactionId {
    let half = vec![(named(id, None), limits::TRANSACTION_CHECK_FIRST_MS)];
    let sent = broker.send_half(&name(HALF), half).await.unwrap();
    sent.into_iter().next().unwrap().unwrap()
}

/// What lies in the one queue of a topic: id, time it was due at, time it was stored at.
async fn came(broker: &Broker, topic: &str) -> Vec<(String, i64, i64)> {
    let (mut all, mut next) = (Vec::new(), Offset(0));
    loop {
        let (some, end) = broker
            .read(&name(topic), QueueId(0), next, 1000)
            .await
            .unwrap();
        if some.is_empty() {
            return all;
        }
        let seen = |one: Envelope| (one.message_id, one.due_at_ms.unwrap_or(0), one.stored_at_ms);
        all.extend(some.into_iter().map(seen));
        next = end;
    }
}

/// Number 27: what was delivered is in the same append as the delivery, not in a file that is written at the end.
#[tokio::test(start_paused = true)]
async fn what_was_delivered_before_an_end_or_a_crash_is_not_delivered_again() {
    for round in 0..12_i64 {
        let world = World::new();
        let mut disk = SimulatedDisk::new();
        let broker = world.open(&disk).await;
        make(&broker, DUE, TopicType::Delay).await;
        let start = world.now_ms();
        let mut expected = Vec::new();
        for number in 0..20 {
            let due_ms = start + 1000 + number * 100;
            delay(&broker, &format!("{number:02}"), due_ms).await;
            expected.push((format!("{number:02}"), due_ms));
        }
        world.sleep_ms(1000 + round * 171).await;
        if round % 2 == 0 {
            broker.close().await;
        } else {
            let left = disk.crash(&Seeded::new(round.unsigned_abs()));
            broker.close().await;
            disk = left;
        }
        let broker = world.open(&disk).await;
        world.sleep_ms(10_000).await;
        let came = came(&broker, DUE).await;
        let ids = came.iter().map(|(id, due_ms, _)| (id.clone(), *due_ms));
        assert_eq!(ids.collect::<Vec<_>>(), expected, "round {round}");
        broker.close().await;
    }
}

/// Number 29: there is no number of failures after which a message is given up.
#[tokio::test(start_paused = true)]
async fn a_message_that_can_not_be_read_for_a_day_is_delivered_once_when_it_can() {
    let world = World::new();
    let disk = SimulatedDisk::new();
    let broker = world.open(&disk).await;
    make(&broker, DUE, TopicType::Delay).await;
    delay(&broker, "patient", world.now_ms() + HOUR_MS).await;
    broker.tier().await.unwrap();
    broker.close().await;
    let broker = world.open(&disk).await;
    world.store.set_down(true);
    for _ in 0..24 {
        world.sleep_ms(HOUR_MS).await;
        assert_eq!(came(&broker, DUE).await, []);
    }
    world.store.set_down(false);
    world.sleep_ms(10_000).await;
    let ids: Vec<_> = came(&broker, DUE)
        .await
        .into_iter()
        .map(|one| one.0)
        .collect();
    assert_eq!(ids, ["patient"]);
    broker.close().await;
}

/// Number 29, the other end: the log itself fails when the message is placed.
#[tokio::test(start_paused = true)]
async fn a_delivery_whose_append_fails_happens_once_all_the_same() {
    let world = World::new();
    let disk = SimulatedDisk::new();
    let broker = world.open(&disk).await;
    make(&broker, DUE, TopicType::Delay).await;
    for number in 1..=10 {
        delay(&broker, &format!("{number}"), world.now_ms() + 1000).await;
        world.sleep_ms(999).await;
        let before = broker.incarnation().unwrap();
        disk.fail_next_write();
        world.sleep_ms(3000).await;
        let after = broker.incarnation().unwrap();
        assert!(
            !Arc::ptr_eq(&before, &after),
            "the log failed and was reopened"
        );
        assert_eq!(came(&broker, DUE).await.len(), number);
    }
    broker.close().await;
}

/// Number 30: the timer is made anew from the log alone, the full time is compared, and a message can be taken back
/// whatever it waits in.
#[tokio::test(start_paused = true)]
async fn a_timer_made_anew_delivers_each_in_time_and_none_early() {
    for (case, tiers, crashes) in [
        (0, false, false),
        (1, true, false),
        (2, false, true),
        (3, true, true),
    ] {
        let world = World::new();
        let mut disk = SimulatedDisk::new();
        let broker = world.open(&disk).await;
        make(&broker, DUE, TopicType::Delay).await;
        // About the ends of hours, which buckets are made of, and about the time that one is loaded at.
        let hours = [1, 2, 3].into_iter().map(|hour| hour * HOUR_MS);
        let edges = hours.flat_map(|at| [at - 10 * 60 * 1000, at]);
        let near = edges.flat_map(|at| [at - 1001, at - 1, at, at + 1, at + 999]);
        let mut expected = Vec::new();
        for due_ms in near.filter(|due_ms| *due_ms > world.now_ms()) {
            for copy in ["a", "b"] {
                let id = format!("{due_ms:09}-{copy}");
                let handle = delay(&broker, &id, due_ms).await.unwrap();
                expected.push((id, due_ms, handle));
            }
        }
        world.sleep_ms(HOUR_MS / 2).await;
        if tiers {
            broker.tier().await.unwrap();
        }
        if crashes {
            let left = disk.crash(&Seeded::new(case));
            broker.close().await;
            disk = left;
        } else {
            broker.close().await;
        }
        let broker = world.open(&disk).await;
        // Every second copy is taken back, now or in the last moment.
        let mut kept = Vec::new();
        for (id, due_ms, handle) in expected {
            if id.ends_with('a') {
                kept.push((id, due_ms));
                continue;
            }
            if world.now_ms() < due_ms - 1 && due_ms % 2 == 0 {
                world.sleep_ms(due_ms - 1 - world.now_ms()).await;
            }
            match broker.recall(&name(DUE), handle).await {
                Ok(recalled) => assert_eq!(recalled, id),
                Err(BrokerError::TooLateToRecall) if world.now_ms() >= due_ms => {
                    kept.push((id, due_ms));
                }
                Err(error) => panic!("{id} at {}: {error}", world.now_ms()),
            }
        }
        world.sleep_ms(4 * HOUR_MS).await;
        kept.sort();
        let mut found = Vec::new();
        for (id, due_ms, stored_ms) in came(&broker, DUE).await {
            assert!(stored_ms >= due_ms, "{id} was stored at {stored_ms}");
            assert!(stored_ms <= due_ms + 1, "{id} was stored at {stored_ms}");
            found.push((id, due_ms));
        }
        found.sort();
        assert_eq!(found, kept, "case {case}");
        broker.close().await;
    }
}

/// Number 32: what is wrong with one half message is not the others' business.
#[tokio::test(start_paused = true)]
async fn a_half_message_that_can_not_be_read_keeps_no_other_from_being_asked_about() {
    let world = World::new();
    let disk = SimulatedDisk::new();
    let broker = world.open(&disk).await;
    make(&broker, HALF, TopicType::Transaction).await;
    for number in 0..5 {
        half(&broker, &format!("unreadable-{number}")).await;
    }
    broker.tier().await.unwrap();
    broker.close().await;
    let broker = world.open(&disk).await;
    // Those are in the cold tier alone, and that is down; these are in the log.
    world.store.set_down(true);
    for number in 0..5 {
        half(&broker, &format!("readable-{number}")).await;
    }
    for round in 0..limits::TRANSACTION_CHECKS_MAX {
        world.sleep_ms(limits::TRANSACTION_CHECK_PAUSE_MS).await;
        let asked = broker.transactions_to_check().await.unwrap();
        let mut names: Vec<_> = asked
            .iter()
            .map(|one| one.message.as_ref().unwrap().message_id.clone())
            .collect();
        names.sort();
        let expected = (0..5).map(|number| format!("readable-{number}"));
        assert_eq!(names, expected.collect::<Vec<_>>(), "round {round}");
        let ids: Vec<_> = asked.iter().map(|one| one.id).collect();
        broker.transactions_checked(&ids, true).await.unwrap();
    }
    world.sleep_ms(limits::TRANSACTION_CHECK_PAUSE_MS).await;
    assert_eq!(broker.transactions_to_check().await.unwrap(), []);
    // What could not be read was not asked about, and is once it can be.
    world.store.set_down(false);
    world.sleep_ms(limits::TRANSACTION_CHECK_PAUSE_MS).await;
    let asked = broker.transactions_to_check().await.unwrap();
    assert_eq!(asked.len(), 5);
    assert!(asked.iter().all(|one| one.checks == 0), "{asked:?}");
    let (all, _) = broker.transactions(None, None, 100).await.unwrap();
    let given_up = all.iter().filter(|one| one.next_check.is_none()).count();
    assert_eq!(given_up, 5, "an operator sees those that nobody decided on");
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_transactions_of_a_topic_are_found_behind_those_of_others() {
    let world = World::new();
    let broker = world.open(&SimulatedDisk::new()).await;
    make(&broker, HALF, TopicType::Transaction).await;
    make(&broker, "others", TopicType::Transaction).await;
    for number in 0..40 {
        half(&broker, &format!("{number}")).await;
    }
    let others = name("others");
    let last = vec![(named("mine", None), limits::TRANSACTION_CHECK_FIRST_MS)];
    broker.send_half(&others, last).await.unwrap();
    let (found, _) = broker.transactions(Some(&others), None, 1).await.unwrap();
    let ids: Vec<_> = found.iter().map(|one| one.topic.as_str()).collect();
    assert_eq!(ids, ["others"]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn transactions_are_listed_page_by_page_each_once_whatever_they_became() {
    let world = World::new();
    let broker = world.open(&SimulatedDisk::new()).await;
    make(&broker, HALF, TopicType::Transaction).await;
    // Of some nobody decides in time; the others are stored when those are given up.
    for number in 0..7 {
        half(&broker, &format!("given up {number}")).await;
        world.sleep_ms(1).await;
    }
    for _ in 0..=limits::TRANSACTION_CHECKS_MAX {
        world.sleep_ms(limits::TRANSACTION_CHECK_PAUSE_MS).await;
        let asked = broker.transactions_to_check().await.unwrap();
        let ids: Vec<_> = asked.iter().map(|one| one.id).collect();
        broker.transactions_checked(&ids, true).await.unwrap();
    }
    for number in 0..40 {
        half(&broker, &format!("open {number}")).await;
        world.sleep_ms(number % 2).await;
    }
    let (whole, more) = broker.transactions(None, None, 1000).await.unwrap();
    assert_eq!((whole.len(), more), (47, None));
    let given_up = whole.iter().position(|one| one.next_check.is_none());
    assert_eq!(given_up, Some(40), "the open ones come first");
    for limit in [1, 3, 40, 47] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = broker.transactions(None, after, limit).await.unwrap();
            seen.extend(page.0);
            after = page.1;
            if after.is_none() {
                break;
            }
        }
        assert!(
            seen == whole,
            "by {limit}: {} of {}",
            seen.len(),
            whole.len()
        );
    }
    broker.close().await;
}

/// Number 33: the first decision stands, whoever took it.
#[tokio::test(start_paused = true)]
async fn what_was_rolled_back_is_never_committed_and_what_was_committed_never_rolled_back() {
    let world = World::new();
    let mut disk = SimulatedDisk::new();
    let mut broker = world.open(&disk).await;
    make(&broker, HALF, TopicType::Transaction).await;
    let committed = half(&broker, "committed").await;
    let rolled_back = half(&broker, "rolled back").await;
    let given_up = half(&broker, "given up").await;
    let topic = name(HALF);
    let end = |broker: &Arc<Broker>, id, commit| {
        let (broker, topic) = (Arc::clone(broker), topic.clone());
        async move { broker.end_transaction(&topic, id, None, commit).await }
    };
    end(&broker, committed, true).await.unwrap();
    end(&broker, rolled_back, false).await.unwrap();
    for _ in 0..=limits::TRANSACTION_CHECKS_MAX {
        world.sleep_ms(limits::TRANSACTION_CHECK_PAUSE_MS).await;
        let asked = broker.transactions_to_check().await.unwrap();
        let ids: Vec<_> = asked.iter().map(|one| one.id).collect();
        assert!(ids.iter().all(|id| *id == given_up));
        broker.transactions_checked(&ids, true).await.unwrap();
    }
    for life in 0..3 {
        for id in [rolled_back, given_up] {
            let late = end(&broker, id, true).await;
            let is_refused = matches!(late, Err(BrokerError::TransactionDecided { .. }));
            assert!(is_refused, "life {life}: {late:?}");
            end(&broker, id, false).await.unwrap();
        }
        let late = end(&broker, committed, false).await;
        let is_refused = matches!(late, Err(BrokerError::TransactionDecided { .. }));
        assert!(is_refused, "life {life}: {late:?}");
        end(&broker, committed, true).await.unwrap();
        let ids: Vec<_> = came(&broker, HALF)
            .await
            .into_iter()
            .map(|one| one.0)
            .collect();
        assert_eq!(ids, ["committed"], "life {life}");
        if life == 1 {
            broker.tier().await.unwrap();
        }
        let left = disk.crash(&Seeded::new(life));
        broker.close().await;
        disk = left;
        broker = world.open(&disk).await;
    }
    broker.close().await;
}

/// A producer that numbers what it sends asks again until it is answered; what waits is there once, whatever became of it.
#[tokio::test(start_paused = true)]
async fn a_numbered_message_that_waits_is_answered_again_with_its_first_place() {
    let world = World::new();
    let disk = SimulatedDisk::new();
    let broker = world.open(&disk).await;
    make(&broker, DUE, TopicType::Delay).await;
    make(&broker, HALF, TopicType::Transaction).await;
    let due_ms = world.now_ms() + HOUR_MS;
    let numbered = |sequence: u64, due_ms| Envelope {
        producer_id: Some("till-7".to_owned()),
        producer_sequence: Some(sequence),
        ..named(&sequence.to_string(), due_ms)
    };
    let delay = async |broker: &Broker, sequences: [u64; 2]| {
        let messages = sequences.map(|s| numbered(s, Some(due_ms))).into();
        let sent = broker.send_delayed(&name(DUE), messages).await.unwrap();
        sent.into_iter().map(Result::unwrap).collect::<Vec<_>>()
    };
    let prepare = async |broker: &Broker| {
        let half = vec![(numbered(1, None), limits::TRANSACTION_CHECK_FIRST_MS)];
        let sent = broker.send_half(&name(HALF), half).await.unwrap();
        sent.into_iter().next().unwrap().unwrap()
    };
    let first = delay(&broker, [1, 2]).await;
    let transaction = prepare(&broker).await;
    assert!(matches!(first[..], [Delayed::Waits(_), Delayed::Waits(_)]));
    assert_eq!(delay(&broker, [1, 1]).await, [first[0], first[0]]);
    assert_eq!(prepare(&broker).await, transaction);
    // From a checkpoint and from the log alike.
    broker.tier().await.unwrap();
    let third = delay(&broker, [2, 3]).await;
    assert_eq!(third[0], first[1]);
    broker.close().await;
    let broker = world.open(&disk.crash(&Seeded::new(5))).await;
    assert_eq!(delay(&broker, [3, 1]).await, [third[1], first[0]]);
    assert_eq!(prepare(&broker).await, transaction);
    let Delayed::Waits(recalled) = first[1] else {
        panic!("waits");
    };
    broker.recall(&name(DUE), recalled).await.unwrap();
    broker
        .end_transaction(&name(HALF), transaction, None, true)
        .await
        .unwrap();
    world.sleep_ms(HOUR_MS + 1000).await;
    // Delivered, recalled, committed: the answer stays.
    assert_eq!(delay(&broker, [1, 2]).await, first);
    assert_eq!(prepare(&broker).await, transaction);
    world.sleep_ms(HOUR_MS).await;
    let ids = |all: Vec<(String, i64, i64)>| all.into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
    assert_eq!(ids(came(&broker, DUE).await), ["1", "3"]);
    assert_eq!(ids(came(&broker, HALF).await), ["1"]);
    // Too old to tell is refused by itself.
    let window = limits::PRODUCER_WINDOW as u64;
    for sequence in 4..4 + window / 2 {
        delay(&broker, [sequence, sequence + window / 2]).await;
    }
    let sent = [1, 3 + window].map(|s| numbered(s, Some(due_ms))).into();
    let sent = broker.send_delayed(&name(DUE), sent).await.unwrap();
    assert!(matches!(
        sent[0],
        Err(BrokerError::StaleSequence { sequence: 1, .. })
    ));
    assert!(sent[1].is_ok());
    broker.close().await;
}

/// What waits for months would lie in a file of every turn of the tierer, and each hour of it be read from all of them.
#[tokio::test(start_paused = true)]
async fn what_waits_for_long_lies_in_few_files_however_many_turns_moved_it() {
    let world = World::new();
    let disk = SimulatedDisk::new();
    let broker = world.open(&disk).await;
    make(&broker, DUE, TopicType::Delay).await;
    let due_ms = world.now_ms() + 30 * 24 * HOUR_MS;
    for turn in 0..9_i64 {
        for (number, hours) in [(0, 0), (1, 7)] {
            delay(
                &broker,
                &format!("{turn}-{number}"),
                due_ms + hours * HOUR_MS + turn,
            )
            .await;
        }
        broker.tier().await.unwrap();
    }
    let files = || {
        let paths = world.store.paths().into_iter();
        let data = paths.filter(|path| path.as_ref().ends_with(".parquet"));
        data.count()
    };
    assert_eq!(files(), 9);
    let incarnation = broker.incarnation().unwrap();
    incarnation.sweep_shelves(broker.now()).await;
    let shelves = incarnation
        .shards()
        .map(|shard| TopicId(shelf_topic(shard)));
    let kept = shelves.map(|shelf| broker.sizes_of(shelf).cold.files);
    assert_eq!(kept.sum::<u64>(), 1, "one file of both hours");
    drop(incarnation);
    assert!(broker.verify().await.unwrap().damage.is_empty());
    let topic = name(DUE);
    let listed = broker
        .delayed(Some(&topic), DelayedPlace::default(), 100)
        .await
        .unwrap();
    assert_eq!(listed.0.len(), 18, "each waits still");
    broker.close().await;
}
