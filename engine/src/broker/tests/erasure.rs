//! What is left on the disk of messages that were erased.

use super::*;

const SECRET: &[u8] = b"the secret of anna";

fn holding(disk: &SimulatedDisk) -> Vec<String> {
    let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|part| part == SECRET);
    let files = disk.snapshot().into_iter();
    let holding = files.filter(|(_, bytes)| holds(bytes));
    holding.map(|(path, _)| path).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_erased_is_in_no_file_when_the_erasure_says_so() {
    for wals in [1, 2] {
        let disk = SimulatedDisk::new();
        let settings = Settings { wals, ..settings() };
        let broker = Broker::start(parts(&disk), settings.clone()).await.unwrap();
        let made = broker.create_topic(new_topic()).await.unwrap();
        let secret = std::str::from_utf8(SECRET).unwrap();
        let send = async |key: &str, body: &str| {
            // An id stays, so it is not made of the body here.
            let one = Envelope {
                message_id: key.to_owned(),
                ..message(key, body)
            };
            let messages = vec![one];
            let sent = broker.send(&topic(), messages).await.unwrap();
            assert!(sent.into_iter().all(|one| one.is_ok()));
        };
        // In segments of several lives, some let go of and waiting to be used again, and in the one being written.
        for round in 0..4 {
            send("anna", secret).await;
            send("bert", &"x".repeat(300_000)).await;
            if round % 2 == 0 {
                broker.tier().await.unwrap();
            }
        }
        assert!(!holding(&disk).is_empty(), "the log has it as it came");
        let erased = broker.erase(made.id, b"anna").await.unwrap();
        assert_eq!((erased.messages, erased.held, erased.log_bytes), (4, 0, 0));
        assert_eq!(holding(&disk), Vec::<String>::new());
        // The log goes on, and so do its readers after a crash.
        send("bert", "after it").await;
        drop(broker);
        let disk = disk.crash(&Seeded::new(7));
        let broker = Broker::start(parts(&disk), settings).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let found = receive(&broker, 30, 0).await;
            if found.is_empty() {
                break;
            }
            seen.extend(found.into_iter().map(|d| d.envelope.body.map(|b| b.len())));
        }
        assert_eq!(seen.len(), 9);
        assert_eq!(seen.iter().filter(|body| body.is_none()).count(), 4);
        assert!(seen.contains(&Some("after it".len())));
    }
}

fn shelved(id: &str, key: &str, body: &str, due_at_ms: Option<i64>) -> Envelope {
    Envelope {
        message_id: id.to_owned(),
        due_at_ms,
        ..message(key, body)
    }
}

/// The messages of a topic of one queue: id, and body if there is one.
async fn placed(broker: &Broker, topic: &TopicName) -> Vec<(String, Option<Bytes>)> {
    let mut seen = Vec::new();
    loop {
        // A read answers what lies together, in files or in the log.
        let from = Offset(seen.len() as u64);
        let (found, _) = broker.read(topic, QueueId(0), from, 100).await.unwrap();
        if found.is_empty() {
            return seen;
        }
        seen.extend(found.into_iter().map(|one| (one.message_id, one.body)));
    }
}

/// One is on its way off the shelf with its content read ahead, one was placed already and lies on the shelf still, one waits
/// for hours, one for the end of its transaction, and one was rolled back.
#[tokio::test(start_paused = true)]
async fn what_waits_on_a_shelf_is_erased_and_is_placed_without_content() {
    let disk = SimulatedDisk::new();
    let surroundings = parts(&disk);
    let clock = Arc::clone(&surroundings.clock);
    let sleep_s = async |seconds| clock.sleep(Duration::from_secs(seconds)).await;
    let broker = Broker::start(surroundings, settings()).await.unwrap();
    let (delayed, halves) = (
        TopicName::new("reminders").unwrap(),
        TopicName::new("payments").unwrap(),
    );
    let mut ids = Vec::new();
    for (name, kind) in [
        (&delayed, TopicType::Delay),
        (&halves, TopicType::Transaction),
    ] {
        let topic = NewTopic {
            name: name.clone(),
            kind,
            queues: Some(1),
            ..new_topic()
        };
        ids.push(broker.create_topic(topic).await.unwrap().id);
    }
    let secret = std::str::from_utf8(SECRET).unwrap();
    let in_s = |seconds: i64| Some(clock.now().as_ms() + seconds * 1000);
    let waiting = vec![
        shelved("soon", "anna", secret, in_s(2)),
        shelved("later", "anna", secret, in_s(60)),
        shelved("far", "anna", secret, in_s(5 * 3600)),
        shelved("bert", "bert", "kept", in_s(61)),
    ];
    let sent = broker.send_delayed(&delayed, waiting).await.unwrap();
    assert!(sent.into_iter().all(|one| one.is_ok()));
    let check_after = millpond_proto::limits::TRANSACTION_CHECK_FIRST_MS;
    let open = ["open", "over"].map(|id| (shelved(id, "anna", secret, None), check_after));
    let sent = broker.send_half(&halves, open.into()).await.unwrap();
    let mut sent = sent.into_iter().map(|one| one.unwrap());
    let (open, over) = (sent.next().unwrap(), sent.next().unwrap());
    broker
        .end_transaction(&halves, over, None, false)
        .await
        .unwrap();
    broker.tier().await.unwrap();
    sleep_s(10).await;
    let before = placed(&broker, &delayed).await;
    assert_eq!(before, [("soon".to_owned(), Some(Bytes::from(SECRET)))]);
    let (delayed_id, halves_id) = (ids[0], ids[1]);

    let of_another = broker.erase(halves_id, b"bert").await.unwrap();
    assert_eq!(of_another.messages, 0, "bert's is for the other topic");
    let erased = broker.erase(delayed_id, b"anna").await.unwrap();
    assert_eq!((erased.messages, erased.held, erased.log_bytes), (4, 0, 0));
    let erased = broker.erase(halves_id, b"anna").await.unwrap();
    assert_eq!((erased.messages, erased.held, erased.log_bytes), (2, 0, 0));
    assert_eq!(holding(&disk), Vec::<String>::new());

    broker
        .end_transaction(&halves, open, None, true)
        .await
        .unwrap();
    assert_eq!(placed(&broker, &halves).await, [("open".to_owned(), None)]);
    sleep_s(120).await;
    let bert = || ("bert".to_owned(), Some(Bytes::from("kept")));
    let empty = |id: &str| (id.to_owned(), None);
    let now = placed(&broker, &delayed).await;
    assert_eq!(now, [empty("soon"), empty("later"), bert()]);
    sleep_s(6 * 3600).await;
    let now = placed(&broker, &delayed).await;
    assert_eq!(now, [empty("soon"), empty("later"), bert(), empty("far")]);
    assert_eq!(holding(&disk), Vec::<String>::new());
    let again = broker.erase(delayed_id, b"anna").await.unwrap();
    assert_eq!(again.messages, 0);
}
