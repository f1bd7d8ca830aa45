//! Many idle consumers, and greedy ones: what they cost, and whom they harm.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use millpond_proto::limits;

use super::*;

/// Most bytes of one parked poll, all that it awaits included.
const POLL_BYTES_MAX: usize = 16 * 1024;
/// Polls that park.
const CROWD: usize = 10_000;

/// Counts how often the futures in it are looked at.
struct Counted<F>(Pin<Box<F>>, Arc<AtomicUsize>);

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.as_mut().poll(context)
    }
}

fn waits(group: &str) -> Receive {
    Receive {
        group: GroupName::new(group).unwrap(),
        topic: topic(),
        limit: 1,
        invisible: Duration::from_secs(30),
        poll: Duration::from_secs(20),
    }
}

async fn crowded() -> Arc<Broker> {
    let broker = open(&SimulatedDisk::new()).await;
    let topic = NewTopic {
        queues: Some(1),
        ..new_topic()
    };
    broker.create_topic(topic).await.unwrap();
    broker
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_parked_polls_cost_a_look_for_a_message_and_nothing_between() {
    let broker = crowded().await;
    let looks = Arc::new(AtomicUsize::new(0));
    let mut polls = FuturesUnordered::new();
    for _ in 0..CROWD {
        let poll = broker.receive(waits("crowd"));
        assert!(
            size_of_val(&poll) <= POLL_BYTES_MAX,
            "{} bytes",
            size_of_val(&poll)
        );
        polls.push(Counted(Box::pin(poll), Arc::clone(&looks)));
    }
    while broker.parking.count() < CROWD {
        assert!(futures::poll!(polls.next()).is_pending());
        tokio::task::yield_now().await;
    }
    // Nothing happens: nobody looks.
    let before = looks.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert!(futures::poll!(polls.next()).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(looks.load(Ordering::Relaxed), before);
    // One message: one poll gets it, and a handful look, not ten thousand.
    send(&broker, &["one"]).await;
    let got = polls.next().await.unwrap().unwrap();
    assert_eq!(bodies(&got), ["one"]);
    for _ in 0..100 {
        assert!(futures::poll!(polls.next()).is_pending());
        tokio::task::yield_now().await;
    }
    let woken = looks.load(Ordering::Relaxed) - before;
    assert!(woken < 100, "{woken} looks for one message");
    drop(polls);
    assert_eq!(
        broker.parking.count(),
        0,
        "whoever leaves gives its place back"
    );
    broker.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_group_over_its_places_is_refused_and_others_and_producers_go_on() {
    let broker = crowded().await;
    let held: Vec<_> = {
        broker
            .create_group(Group::new(GroupName::new("greedy").unwrap()))
            .await
            .unwrap();
        let greedy = broker.catalog().group("greedy").unwrap().id;
        let places = 0..limits::PARKED_POLLS_PER_GROUP_MAX;
        places
            .map(|_| broker.parking.park(greedy).unwrap())
            .collect()
    };
    let refused = broker.receive(waits("greedy")).await.unwrap_err();
    assert!(matches!(refused, BrokerError::TooMany { .. }), "{refused}");
    assert!(refused.to_string().contains("try again"), "{refused}");
    let modest = broker.receive(waits("modest"));
    let (got, _) = futures::join!(modest, send(&broker, &["one"]));
    assert_eq!(bodies(&got.unwrap()), ["one"]);
    // What is there needs no place: the greedy group is still served.
    assert_eq!(broker.receive(waits("greedy")).await.unwrap().len(), 1);
    drop(held);
    broker.close().await;
}
