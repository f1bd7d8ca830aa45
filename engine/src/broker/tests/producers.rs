//! Idempotent producers: what is sent again is there once, whatever was lost in between.

use super::*;

/// Messages that a producer numbers; those of even numbers have a key.
fn numbered(sequence: u64) -> Envelope {
    let keyed = sequence.is_multiple_of(2);
    Envelope {
        producer_id: Some("till-7".to_owned()),
        producer_sequence: Some(sequence),
        key: keyed.then(|| Bytes::from(format!("k{}", sequence % 3))),
        ..message("", &sequence.to_string())
    }
}

async fn try_send(broker: &Broker, sequences: &[u64]) -> Option<Vec<Sent>> {
    let messages = sequences.iter().map(|s| numbered(*s)).collect();
    let sent = broker.send(&topic(), messages).await.ok()?;
    sent.into_iter().map(Result::ok).collect()
}

/// Every body in the topic, sorted by number.
async fn stored(broker: &Broker) -> Vec<u64> {
    let known = broker.topic(&topic()).unwrap();
    let mut found = Vec::new();
    for (queue, extent) in broker.extents(&known) {
        let mut from = extent.first;
        while from < extent.next {
            let (messages, next) = broker.read(&topic(), queue, from, 1024).await.unwrap();
            let number = |m: &Envelope| {
                std::str::from_utf8(m.body.as_ref().unwrap())
                    .unwrap()
                    .parse::<u64>()
            };
            found.extend(messages.iter().map(|m| number(m).unwrap()));
            from = next;
        }
    }
    found.sort_unstable();
    found
}

#[tokio::test(start_paused = true)]
async fn a_repeated_send_answers_the_first_place_and_stores_nothing() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    broker.create_topic(new_topic()).await.unwrap();
    let first = try_send(&broker, &[1, 2, 3, 4]).await.unwrap();
    assert_eq!(try_send(&broker, &[1, 2, 3, 4]).await.unwrap(), first);
    broker.tier().await.unwrap();
    let again = try_send(&broker, &[4, 5]).await.unwrap();
    assert_eq!(again[0], first[3]);
    // Neither a crash nor a restart forgets it: it is in the log, and in the checkpoint.
    broker.close().await;
    let broker = open(&disk.crash(&Seeded::new(4))).await;
    assert_eq!(
        try_send(&broker, &[5, 1, 3]).await.unwrap(),
        [again[1], first[0], first[2]]
    );
    assert_eq!(stored(&broker).await, [1, 2, 3, 4, 5]);
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_number_that_is_too_old_to_tell_is_refused_alone() {
    let broker = open(&SimulatedDisk::new()).await;
    broker
        .create_topic(NewTopic {
            queues: Some(1),
            ..new_topic()
        })
        .await
        .unwrap();
    let window = millpond_proto::limits::PRODUCER_WINDOW as u64;
    let all: Vec<u64> = (1..=window + 1).collect();
    try_send(&broker, &all).await.unwrap();
    let sent = [1, window + 2].map(numbered).into();
    let sent = broker.send(&topic(), sent).await.unwrap();
    let stale = sent[0].as_ref().unwrap_err();
    assert!(matches!(
        stale,
        BrokerError::StaleSequence { sequence: 1, .. }
    ));
    assert!(stale.to_string().contains("till-7"), "{stale}");
    assert!(sent[1].is_ok());
    broker.close().await;
}

/// A producer that sends each message until it is answered, over answers that are lost and crashes.
#[tokio::test(start_paused = true)]
async fn lost_answers_and_crashes_leave_exactly_one_copy() {
    for seed in 0..4 {
        let chance = Seeded::new(seed);
        let mut disk = SimulatedDisk::new();
        let mut broker = open(&disk).await;
        broker.create_topic(new_topic()).await.unwrap();
        let mut sequence = 1;
        for turn in 0.. {
            assert!(turn < 1_000, "seed {seed} does not get on");
            let batch: Vec<u64> = (sequence..sequence + 1 + chance.below(4)).collect();
            let trouble = chance.below(8);
            if trouble == 0 {
                // A sync fails: nobody knows what became of it.
                disk.fail_next_sync();
            }
            if trouble < 3 {
                // The producer hangs up before the answer comes.
                let mut send = Box::pin(try_send(&broker, &batch));
                for _ in 0..chance.below(6) {
                    if futures::poll!(send.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            if trouble == 1 {
                // What a power cut leaves is another disk; the old one ends by itself.
                let left = disk.crash(&chance);
                broker.close().await;
                disk = left;
                broker = open(&disk).await;
            }
            if try_send(&broker, &batch).await.is_some() {
                sequence = batch[batch.len() - 1] + 1;
            } else {
                broker.parts.clock.sleep(Duration::from_secs(2)).await;
            }
            if sequence > 40 {
                break;
            }
        }
        let last = sequence - 1;
        // What it never had an answer for may be there, once.
        let mut found = stored(&broker).await;
        assert!(
            found.windows(2).all(|two| two[0] < two[1]),
            "seed {seed}: {found:?}"
        );
        found.retain(|number| *number <= last);
        assert_eq!(found, (1..=last).collect::<Vec<_>>(), "seed {seed}");
        broker.close().await;
    }
}
