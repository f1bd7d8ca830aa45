//! A log that may not grow: an object store that is down for an hour, a bound, a full disk.

use millpond_proto::remedy::Remedy;
use millpond_storage::error::AppendError;
use millpond_storage::log::ReadLimit;
use millpond_storage::log::room::Shortage;
use millpond_storage::tier::simulated::SimulatedStore;

use super::*;

const MIB: u64 = 1024 * 1024;

fn bounded() -> Settings {
    Settings {
        shards: 2,
        segment_bytes: 256 * 1024,
        log_bytes_max: Some(16 * MIB),
        ..Settings::default()
    }
}

fn body(number: usize) -> String {
    format!("{number:06}").repeat(4000)
}

/// Sends one message after the other until one is refused, and says why.
async fn send_until_refused(broker: &Broker, sent: &mut Vec<(Sent, usize)>) -> BrokerError {
    loop {
        let number = sent.len();
        let messages = vec![message(&number.to_string(), &body(number))];
        match broker.send(&topic(), messages).await {
            Ok(mut answers) => match answers.remove(0) {
                Ok(one) => sent.push((one, number)),
                Err(refused) => return refused,
            },
            Err(refused) => return refused,
        }
        assert!(sent.len() < 10_000, "nothing was ever refused");
    }
}

/// Whether everything that was acknowledged is there, with its bytes.
async fn check(broker: &Broker, sent: &[(Sent, usize)]) {
    let id = broker.topic(&topic()).unwrap().id;
    let storage = Arc::clone(broker.incarnation().unwrap().storage());
    let one = ReadLimit {
        messages: 1,
        bytes: 1,
    };
    for (place, number) in sent {
        let read = storage.read(id, place.queue, place.offset, one).await;
        let expected = Bytes::from(body(*number));
        assert_eq!(read.unwrap()[0].body, Some(expected), "message {number}");
    }
}

async fn take_one(broker: &Broker) {
    let one = Receive {
        group: group(),
        topic: topic(),
        limit: 1,
        invisible: Duration::from_secs(30),
        poll: Duration::from_secs(1),
    };
    let received = broker.receive(one).await.unwrap();
    assert!(!received.is_empty(), "there is something to receive");
    for answer in ack(broker, &received).await {
        answer.unwrap();
    }
}

fn is_full(refused: &BrokerError, of: Shortage) -> bool {
    matches!(refused, BrokerError::Append(AppendError::Full { shortage }) if *shortage == of)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_for_an_hour_costs_nothing_but_sends_above_the_bound() {
    let disk = SimulatedDisk::new();
    let store = SimulatedStore::new(1);
    let parts = Parts {
        objects: Arc::new(store.clone()),
        ..parts(&disk)
    };
    let clock = Arc::clone(&parts.clock);
    let broker = Broker::start(parts, bounded()).await.unwrap();
    broker.create_topic(new_topic()).await.unwrap();
    store.set_down(true);
    let mut sent = Vec::new();
    let refused = send_until_refused(&broker, &mut sent).await;
    assert!(is_full(&refused, Shortage::Bound), "{refused}");
    assert!(refused.to_string().contains("--log-bytes-max"), "{refused}");
    assert_eq!(refused.remedy(), Remedy::Retry);
    for _ in 0..60 {
        clock.sleep(Duration::from_secs(60)).await;
        let refused = send_until_refused(&broker, &mut sent).await;
        assert!(is_full(&refused, Shortage::Bound), "{refused}");
        take_one(&broker).await;
    }
    check(&broker, &sent).await;
    store.set_down(false);
    clock.sleep(Duration::from_secs(60)).await;
    let before = sent.len();
    send_until_refused(&broker, &mut sent).await;
    assert!(sent.len() > before + 10, "there is room again");
    check(&broker, &sent).await;
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_shards_are_saved_while_a_turn_of_the_tierer_takes_long() {
    let disk = SimulatedDisk::new();
    let store = SimulatedStore::new(1);
    let parts = parts(&disk);
    let clock = Arc::clone(&parts.clock);
    let parts = Parts {
        objects: Arc::new(store.by(Arc::clone(&clock))),
        ..parts
    };
    let broker = Broker::start(parts, bounded()).await.unwrap();
    broker.create_topic(new_topic()).await.unwrap();
    clock.sleep(Duration::from_secs(1)).await;
    store.set_latency(Duration::from_secs(3600));
    let grow = async |messages: usize| {
        for number in 0..messages {
            let messages = vec![message(&number.to_string(), &body(number))];
            broker.send(&topic(), messages).await.unwrap();
        }
        clock.sleep(Duration::from_secs(11)).await;
    };
    let saved = || {
        let files = disk.snapshot().into_keys();
        files.filter(|path| path.starts_with("checkpoint/")).max()
    };
    // Nine mebibytes begin a turn, five more are saved beside it; an id is as long as its body.
    grow(200).await;
    let before = saved();
    grow(110).await;
    assert!(saved() > before, "{before:?}");
    let hot = broker.incarnation().unwrap().storage().sizes().hot_messages;
    assert_eq!(hot, 310, "the turn has not come to an end");
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_nearly_full_refuses_messages_and_takes_acknowledgements() {
    let disk = SimulatedDisk::new();
    let settings = Settings {
        log_bytes_max: None,
        disk_reserve_bytes: MIB,
        ..bounded()
    };
    let parts = parts(&disk);
    let clock = Arc::clone(&parts.clock);
    let broker = Broker::start(parts, settings).await.unwrap();
    broker.create_topic(new_topic()).await.unwrap();
    let used: usize = disk.snapshot().values().map(Vec::len).sum();
    disk.limit_room(Some(used + 3 * 1024 * 1024));
    let mut sent = Vec::new();
    let refused = send_until_refused(&broker, &mut sent).await;
    assert!(is_full(&refused, Shortage::Disk), "{refused}");
    take_one(&broker).await;
    check(&broker, &sent).await;
    disk.limit_room(None);
    clock.sleep(Duration::from_secs(20)).await;
    let before = sent.len();
    disk.limit_room(Some(used + 30 * 1024 * 1024));
    send_until_refused(&broker, &mut sent).await;
    assert!(sent.len() > before + 10, "there is room again");
    check(&broker, &sent).await;
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_filled_up_unseen_ends_a_run_and_the_next_one_has_everything() {
    let disk = SimulatedDisk::new();
    let settings = Settings {
        log_bytes_max: None,
        disk_reserve_bytes: 0,
        ..bounded()
    };
    let parts = parts(&disk);
    let clock = Arc::clone(&parts.clock);
    let broker = Broker::start(parts, settings).await.unwrap();
    broker.create_topic(new_topic()).await.unwrap();
    let mut sent = Vec::new();
    for number in 0..20 {
        let messages = vec![message(&number.to_string(), &body(number))];
        let mut answers = broker.send(&topic(), messages).await.unwrap();
        sent.push((answers.remove(0).unwrap(), number));
    }
    // Something else takes all the room at once, the segment that was made ahead as well.
    let used: usize = disk.snapshot().values().map(Vec::len).sum();
    disk.limit_room(Some(used));
    let refused = send_until_refused(&broker, &mut sent).await;
    assert!(matches!(refused, BrokerError::Append(_)), "{refused}");
    clock.sleep(Duration::from_secs(10)).await;
    disk.limit_room(None);
    clock.sleep(Duration::from_secs(10)).await;
    check(&broker, &sent).await;
    let messages = vec![message("again", &body(sent.len()))];
    let mut answers = broker.send(&topic(), messages).await.unwrap();
    answers.remove(0).unwrap();
    broker.close().await;
}
