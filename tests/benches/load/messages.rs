//! Durable sends, one by one and in batches, and pops with acks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use md5::{Digest as _, Md5};
use millpond_proto::client::{Client, OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::wire::admin::CreateTopicRequest;
use millpond_tests::harness::Server;

use crate::echo::{self, Echo};
use crate::measure::{Spent, cpu, say};

/// Calls in flight, over [`CONNECTIONS`].
pub(crate) const IN_FLIGHT: usize = 64;
pub(crate) const CONNECTIONS: usize = 4;
/// Sends of one message, and echoes.
const SENDS: usize = IN_FLIGHT * 250;
/// Size of a body that is sent, and of an echo.
pub(crate) const BODY_BYTES: usize = 1024;
/// Messages of a batch, and batches in flight.
pub(crate) const BATCH: usize = 64;
pub(crate) const BATCHES_IN_FLIGHT: usize = 16;
const BATCHES: usize = BATCHES_IN_FLIGHT * 90;
/// Size of a body that is popped, and how many.
const POPPED_BYTES: usize = 128;
const POPPED: usize = 150 * 1024;
/// Messages of a poll, and consumers.
pub(crate) const POLL: usize = 32;
pub(crate) const CONSUMERS: usize = 64;

/// Durable sends of one message each in closed loops, against echoes of the same size.
pub(crate) async fn sends(server: &Server, echo: &Echo, raw: f64) {
    create(server, "load").await;
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let mut channels = Vec::new();
    for _ in 0..CONNECTIONS {
        channels.push(echo.connect().await);
    }
    let echoes = |count: usize| {
        let calls = (0..IN_FLIGHT).map(|number| {
            let (channel, body) = (channels[number % CONNECTIONS].clone(), body.clone());
            async move {
                for _ in 0..count / IN_FLIGHT {
                    echo::call(&channel, body.clone()).await;
                }
            }
        });
        join_all(calls)
    };
    let clients = clients(server);
    let sends = |count: usize| {
        let calls = (0..IN_FLIGHT).map(|number| {
            let (producer, body) = (producer(&clients, number), body.clone());
            async move {
                for _ in 0..count / IN_FLIGHT {
                    let message = OutgoingMessage::new(body.clone());
                    producer.send("load", message).await.unwrap();
                }
            }
        });
        join_all(calls)
    };
    // Both in turns, so that what else the machine does meets both.
    let (mut echoed, mut sent) = (Vec::new(), Vec::new());
    echoes(SENDS / 4).await;
    sends(SENDS / 4).await;
    for _ in 0..3 {
        echoed.push(Spent::on(|| echo.cpu(), echoes(SENDS)).await.0);
        sent.push(Spent::on(|| cpu(server), sends(SENDS)).await.0);
    }
    let us = |spent: &[Spent]| spent.iter().map(|one| one.us(SENDS)).sum::<f64>() / 3.0;
    let rate = sent.iter().map(|one| one.rate(SENDS)).fold(0.0, f64::max);
    let (echoed, sent) = (us(&echoed), us(&sent));
    say(&format!(
        "durable sends of 1 KiB, {IN_FLIGHT} in flight: {rate:.0} a second = {:.1} per raw durable write; \
         {sent:.1} us of server CPU each = {:.2} of a bare echo ({echoed:.1} us)",
        rate / raw,
        sent / echoed,
    ));
}

/// Durable sends of batches in closed loops.
pub(crate) async fn batches(server: &Server) {
    create(server, "batches").await;
    let clients = clients(server);
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let sends = |count: usize| {
        let calls = (0..BATCHES_IN_FLIGHT).map(|number| {
            let (producer, body) = (producer(&clients, number), body.clone());
            async move {
                for _ in 0..count / BATCHES_IN_FLIGHT {
                    send_batch(&producer, "batches", BATCH, &body).await;
                }
            }
        });
        join_all(calls)
    };
    // Memory that is touched for the first time costs the system more than the messages in it.
    sends(BATCHES).await;
    let (spent, _) = Spent::on(|| cpu(server), sends(BATCHES)).await;
    let count = BATCHES * BATCH;
    say(&format!(
        "the same in batches of {BATCH}, {BATCHES_IN_FLIGHT} in flight: {:.0} messages a second; {:.2} us of server \
         CPU each",
        spent.rate(count),
        spent.us(count)
    ));
}

/// Consumers of one group take and acknowledge what lies there.
pub(crate) async fn pops(server: &Server) {
    create(server, "pops").await;
    let clients = clients(server);
    let body = Bytes::from(vec![b'x'; POPPED_BYTES]);
    let calls = (0..BATCHES_IN_FLIGHT).map(|number| {
        let (producer, body) = (producer(&clients, number), body.clone());
        async move {
            for _ in 0..POPPED / BATCH / BATCHES_IN_FLIGHT {
                send_batch(&producer, "pops", BATCH, &body).await;
            }
        }
    });
    join_all(calls).await;
    let count = POPPED / BATCH / BATCHES_IN_FLIGHT * BATCHES_IN_FLIGHT * BATCH;
    let popped = AtomicUsize::new(0);
    let popped = &popped;
    let consumers = (0..CONSUMERS).map(|number| {
        let consumer = SimpleConsumer::new(&clients[number % CONNECTIONS], "loaders", "pops");
        async move {
            let mut empty = 0;
            while popped.load(Ordering::Relaxed) < count && empty < 20 {
                let wait = Duration::from_millis(500);
                let messages = consumer.receive(POLL, Duration::from_secs(60), wait).await;
                let messages = messages.unwrap();
                empty += usize::from(messages.is_empty());
                if messages.is_empty() {
                    continue;
                }
                for acked in consumer.ack_all(&messages).await.unwrap() {
                    acked.unwrap();
                }
                popped.fetch_add(messages.len(), Ordering::Relaxed);
            }
        }
    });
    let (spent, _) = Spent::on(|| cpu(server), join_all(consumers)).await;
    let total = popped.load(Ordering::Relaxed);
    assert_eq!(total, count, "each message is delivered once");
    let digest = digest_us(&body);
    say(&format!(
        "pops by {POLL} with acks, bodies of {POPPED_BYTES} B, {CONSUMERS} consumers: {:.0} messages a second; \
         {:.2} us of server CPU each, {digest:.2} us of it for the body's digest",
        spent.rate(count),
        spent.us(count)
    ));
}

/// CPU time of a body's digest as text.
fn digest_us(body: &[u8]) -> f64 {
    const TIMES: u32 = 100_000;
    let started = crate::measure::now();
    for _ in 0..TIMES {
        std::hint::black_box(hex::encode_upper(Md5::digest(std::hint::black_box(body))));
    }
    started.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
}

pub(crate) async fn send_batch(producer: &Producer, topic: &str, count: usize, body: &Bytes) {
    let messages = (0..count).map(|_| OutgoingMessage::new(body.clone()));
    for sent in producer
        .send_batch(topic, messages.collect())
        .await
        .unwrap()
    {
        sent.unwrap();
    }
}

pub(crate) fn clients(server: &Server) -> Vec<Client> {
    (0..CONNECTIONS).map(|_| server.client()).collect()
}

pub(crate) fn producer(clients: &[Client], number: usize) -> Producer {
    Producer::new(&clients[number % clients.len()])
}

pub(crate) async fn create(server: &Server, name: &str) {
    let request = CreateTopicRequest {
        name: name.to_owned(),
        ..CreateTopicRequest::default()
    };
    server.admin().create_topic(request).await.unwrap();
}
