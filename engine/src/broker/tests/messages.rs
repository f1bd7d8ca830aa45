//! Finding and tracing messages, hot and cold; and polls that take what one shard has.

use std::collections::BTreeMap;

use millpond_storage::tier::cold::lookup::Lookup;

use super::*;
use crate::broker::filter::{Filter, FilterKind};
use crate::broker::find::{Found, Place, Search};
use crate::broker::request::FateKind;

fn everything() -> Search {
    Search {
        lookup: None,
        filter: Filter::all(),
        queue: None,
        since: None,
        until: None,
        from: Place::default(),
        limit: 1024,
    }
}

/// All steps of a search, `limit` messages each.
async fn find(broker: &Broker, search: Search) -> Found {
    let mut all = Found::default();
    let mut from = search.from;
    loop {
        let step = Search {
            from,
            ..search.clone()
        };
        let step = broker.find(&topic(), &step).await.unwrap();
        assert!(step.messages.len() <= search.limit);
        all.messages.extend(step.messages);
        all.scanned.compared += step.scanned.compared;
        all.scanned.ruled_out += step.scanned.ruled_out;
        match step.next {
            Some(next) => {
                assert!(next > from, "a step goes on");
                from = next;
            }
            None => return all,
        }
    }
}

fn ids(found: &Found) -> Vec<&str> {
    let ids = found.messages.iter().map(|m| m.message_id.as_str());
    ids.collect()
}

fn numbered(number: u32) -> Envelope {
    let tag = if number.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    };
    Envelope {
        message_id: format!("id-{number}"),
        keys: vec![format!("key-{}", number % 10)],
        tag: Some(tag.to_owned()),
        body: Some(vec![1; 10].into()),
        ..Envelope::default()
    }
}

#[tokio::test(start_paused = true)]
async fn messages_are_found_by_id_key_time_and_filter_wherever_they_lie() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    for number in 0..300 {
        if number == 100 || number == 200 {
            broker.tier().await.unwrap();
        }
        broker.send(&topic(), vec![numbered(number)]).await.unwrap();
    }
    let by = |lookup| Search {
        lookup: Some(lookup),
        ..everything()
    };
    for number in [0, 99, 150, 299] {
        let id = format!("id-{number}");
        let found = find(&broker, by(Lookup::MessageId(id.clone()))).await;
        assert_eq!(ids(&found), [id]);
        assert_eq!(found.scanned.compared + found.scanned.ruled_out, 300);
    }
    let nobody = find(&broker, by(Lookup::MessageId("id-300".to_owned()))).await;
    assert_eq!(nobody.messages.len(), 0);
    let step_by_step = Search {
        limit: 7,
        ..by(Lookup::Key("key-3".to_owned()))
    };
    let found = find(&broker, step_by_step).await;
    assert_eq!(found.messages.len(), 30);
    assert!(found.messages.iter().all(|m| m.keys == ["key-3"]));

    let all = find(&broker, everything()).await;
    assert_eq!((all.messages.len(), all.scanned.compared), (300, 300));
    let odd = Search {
        filter: Filter::parse(FilterKind::Tag, "odd").unwrap(),
        limit: 11,
        ..everything()
    };
    assert_eq!(find(&broker, odd).await.messages.len(), 150);
    let stored = |id: &str| {
        let mut messages = all.messages.iter();
        messages.find(|m| m.message_id == id).unwrap().stored_at()
    };
    let (since, until) = (stored("id-50"), stored("id-250"));
    let between = Search {
        since: Some(since),
        until: Some(until),
        ..everything()
    };
    let expected = all.messages.iter().map(Envelope::stored_at);
    let expected = expected.filter(|at| since <= *at && *at < until).count();
    assert_eq!(find(&broker, between).await.messages.len(), expected);
    let elsewhere = Search {
        queue: Some(QueueId(9)),
        ..everything()
    };
    let refused = broker.find(&topic(), &elsewhere).await.unwrap_err();
    assert!(
        matches!(refused, BrokerError::OutOfBounds { .. }),
        "{refused}"
    );
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_deliveries_and_the_end_and_where_each_group_stands() {
    let disk = SimulatedDisk::new();
    let broker = open(&disk).await;
    broker.create_topic(new_topic()).await.unwrap();
    let sent = send(&broker, &["a"]).await.remove(0);
    let first = receive(&broker, 10, 0).await;
    let second = receive(&broker, 10, 60).await;
    assert_eq!((first.len(), second[0].attempt), (1, 2));
    let other = GroupName::new("other").unwrap();
    broker
        .create_group(Group::new(other.clone()))
        .await
        .unwrap();
    let trace = broker
        .trace(&topic(), sent.queue, sent.offset, None)
        .await
        .unwrap();
    let fates = trace
        .fates
        .iter()
        .map(|(group, f)| (group.as_str(), f.kind(), f.attempts));
    assert_eq!(
        fates.collect::<Vec<_>>(),
        [("billing", FateKind::InFlight, 2)]
    );
    assert!(ack(&broker, &second).await[0].is_ok());
    broker.close().await;

    // After a restart the log still tells.
    let broker = open(&disk).await;
    let trace = broker
        .trace(&topic(), sent.queue, sent.offset, Some(&group()))
        .await
        .unwrap();
    let events = trace
        .events
        .iter()
        .map(|e| (e.group.as_str(), e.what, e.attempt));
    assert_eq!(
        events.collect::<Vec<_>>(),
        [
            ("billing", "delivered", Some(1)),
            ("billing", "delivered", Some(2)),
            ("billing", "acknowledged", Some(2)),
        ]
    );
    assert!(trace.events.iter().all(|event| event.at.is_some()));
    assert!(trace.events[1].why.contains("invisible time ended"));
    assert_eq!(trace.fates[0].1.kind(), FateKind::Done);
    assert!(trace.is_complete, "{:?}", trace.history);
    assert_eq!(trace.message.unwrap().message_id, "id-a");
    let beyond = broker.trace(&topic(), sent.queue, Offset(99), None).await;
    assert!(matches!(beyond, Err(BrokerError::OutOfBounds { .. })));
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_out_of_a_backlog_takes_its_batch_from_one_queue_and_each_queue_has_its_turn() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    for _ in 0..8 {
        let batch = (0..64).map(numbered).collect();
        broker.send(&topic(), batch).await.unwrap();
    }
    let (mut seen, mut one_queue) = (BTreeMap::new(), 0);
    for _ in 0..16 {
        let batch = receive(&broker, 30, 0).await;
        assert_eq!(batch.len(), 32);
        let first = batch[0].handle.queue;
        one_queue += usize::from(batch.iter().all(|d| d.handle.queue == first));
        for delivery in batch {
            *seen.entry(delivery.handle.queue).or_insert(0) += 1;
        }
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [(0, 128), (1, 128), (2, 128), (3, 128)]
    );
    assert!(one_queue >= 12, "{one_queue} batches of one queue");
    assert!(receive(&broker, 30, 0).await.is_empty());
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_invisible_time_was_changed_is_held_since_it_was_delivered() {
    let broker = open(&SimulatedDisk::new()).await;
    broker.create_topic(new_topic()).await.unwrap();
    send(&broker, &["a"]).await;
    let delivered = broker.now();
    let held = receive(&broker, 30, 0).await;
    broker.parts.clock.sleep(Duration::from_secs(9)).await;
    let handle = held[0].handle.clone();
    let minute = Duration::from_secs(60);
    broker
        .change_invisible(&group(), &topic(), handle, minute)
        .await
        .unwrap();
    let shown = broker.group_in_flight(&group(), 9).await.unwrap();
    assert_eq!(
        (shown[0].since, shown[0].until),
        (delivered, broker.now() + minute)
    );
    broker.close().await;
}
