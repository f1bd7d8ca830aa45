//! What durable acknowledgements cost producers.
//!
//! Producers send as fast as they can, first alone, then while as many messages as they send are acknowledged, in
//! the batches in which they were popped before; in turns, so that what else the machine does meets both.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_proto::client::consumer::ReceivedMessage;
use millpond_proto::client::{Client, OutgoingMessage, SimpleConsumer};
use millpond_tests::harness::Server;
use tokio::sync::Semaphore;

use crate::measure::{Spent, cpu, say};
use crate::messages::{
    BATCH, BATCHES_IN_FLIGHT, BODY_BYTES, CONNECTIONS, CONSUMERS, IN_FLIGHT, POLL, clients, create,
    producer, send_batch,
};

/// Sends of a turn, and messages acknowledged in it.
const SENDS: usize = IN_FLIGHT * 250;
const TURNS: usize = 3;
/// Calls that acknowledge, in flight.
const ACKERS: usize = 8;

type Popped = Mutex<VecDeque<Vec<ReceivedMessage>>>;

/// Durable sends alone and beside durable acknowledgements.
pub(crate) async fn run(server: &Server) {
    create(server, "acked").await;
    create(server, "sent").await;
    let clients = clients(server);
    let popped = popped(&clients).await;
    sends(&clients, SENDS / 4, None).await;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let load = sends(&clients, SENDS, None);
        alone.push(Spent::on(|| cpu(server), load).await.0);
        let due = Semaphore::new(0);
        let load = async {
            let acks =
                (0..ACKERS).map(|number| acks(&clients[number % CONNECTIONS], &popped, &due));
            tokio::join!(sends(&clients, SENDS, Some(&due)), join_all(acks));
        };
        beside.push(Spent::on(|| cpu(server), load).await.0);
    }
    let rate = |turns: &[Spent]| turns.iter().map(|turn| turn.rate(SENDS)).sum::<f64>();
    let us = |turns: &[Spent]| turns.iter().map(|turn| turn.us(SENDS)).sum::<f64>();
    let turns = TURNS as f64;
    say(&format!(
        "durable sends of 1 KiB, {IN_FLIGHT} in flight: {:.0} a second alone, {:.0} while as many messages are \
         acknowledged by {POLL}: {:.1} % fewer; {:.1} and {:.1} us of server CPU each",
        rate(&alone) / turns,
        rate(&beside) / turns,
        (1.0 - rate(&beside) / rate(&alone)) * 100.0,
        us(&alone) / turns,
        us(&beside) / turns,
    ));
}

/// Sends `count` messages; each batch's worth of them makes one acknowledgement due.
async fn sends(clients: &[Client], count: usize, due: Option<&Semaphore>) {
    let (sent, body) = (AtomicUsize::new(0), Bytes::from(vec![b'x'; BODY_BYTES]));
    let (sent, body) = (&sent, &body);
    let calls = (0..IN_FLIGHT).map(|number| async move {
        let producer = producer(clients, number);
        for _ in 0..count / IN_FLIGHT {
            let message = OutgoingMessage::new(body.clone());
            producer.send("sent", message).await.unwrap();
            let sent = sent.fetch_add(1, Ordering::Relaxed) + 1;
            if let Some(due) = due.filter(|_| sent.is_multiple_of(POLL)) {
                due.add_permits(1);
            }
        }
    });
    join_all(calls).await;
    if let Some(due) = due {
        // The ackers end when what is due is done.
        due.add_permits(ACKERS);
    }
}

/// Acknowledges a batch each time that one is due; ends when this turn's are done.
async fn acks(client: &Client, popped: &Popped, due: &Semaphore) {
    let consumer = SimpleConsumer::new(client, "ackers", "acked");
    loop {
        due.acquire().await.unwrap().forget();
        let batch = {
            let mut popped = popped.lock().unwrap();
            // What is left belongs to the turns that come: this turn's are done when only the ends are due.
            popped.pop_front().filter(|batch| !batch.is_empty())
        };
        let Some(batch) = batch else { return };
        for acked in consumer.ack_all(&batch).await.unwrap() {
            acked.unwrap();
        }
    }
}

/// The batches of all turns, popped; behind each turn's batches lie as many empty ones as there are ackers.
async fn popped(clients: &[Client]) -> Popped {
    let body = Bytes::from_static(&[b'x'; 128]);
    let count = TURNS * SENDS;
    let calls = (0..BATCHES_IN_FLIGHT).map(|number| {
        let (producer, body) = (producer(clients, number), body.clone());
        async move {
            for _ in 0..count / BATCH / BATCHES_IN_FLIGHT + 1 {
                send_batch(&producer, "acked", BATCH, &body).await;
            }
        }
    });
    join_all(calls).await;
    let found = Mutex::new(Vec::new());
    let consumers = (0..CONSUMERS).map(|number| {
        let consumer = SimpleConsumer::new(&clients[number % CONNECTIONS], "ackers", "acked");
        let found = &found;
        async move {
            while found.lock().unwrap().len() < count {
                let (lease, wait) = (Duration::from_secs(600), Duration::from_millis(500));
                let messages = consumer.receive(POLL, lease, wait).await.unwrap();
                found.lock().unwrap().extend(messages);
            }
        }
    });
    join_all(consumers).await;
    // A poll may bring fewer than it asks for, so batches are made anew.
    let found = found.into_inner().unwrap();
    let mut batches = found.chunks_exact(POLL).map(<[_]>::to_vec);
    let mut popped = VecDeque::new();
    for _ in 0..TURNS {
        popped.extend(batches.by_ref().take(SENDS / POLL));
        popped.extend(std::iter::repeat_n(Vec::new(), ACKERS));
    }
    Mutex::new(popped)
}
