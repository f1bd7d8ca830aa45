//! A million queues against a hundred: what they carry, what an idle one takes, how long a restart takes.
//!
//! Each measurement is a process of its own over a folder of its own, on the real disk. One fills: every queue gets a
//! message that a group acknowledges, and all of it is moved into Parquet. Then batches go to queues chosen by chance, and
//! are popped and acknowledged, which is measured; and half as many are popped once they lie in Parquet, as by a group
//! that has fallen behind. At the end it stops as if killed. The next opens the folder and pops a message, which was left there:
//! once out of what the killed one left, once after a stop in order. What a queue takes is what the resident memory
//! (RSS) of the last is above that of the one with a hundred queues. The first number is how many topics of 1000 queues
//! there are (default 1000), the second how many messages are sent by chance (default 1,000,000).

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a bench reads the clock and prints what it measured"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use millpond_engine::broker::{Broker, NewTopic, Receive, TopicType};
use millpond_engine::parts::{Background, Parts};
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::limits;
use millpond_proto::message::{QueueId, queue_of};
use millpond_proto::name::{GroupName, TopicName};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::Settings;

/// Queues of each of the many topics.
const QUEUES: u32 = 1000;
/// Topics and queues of each that they are compared with.
const FEW: (u32, u32) = (10, 10);
/// Topics whose queues get their first message together: what is popped is in the log still.
const TOGETHER: u32 = 100;
const WORKERS: u32 = 32;
const BATCH: u32 = 64;
const BODY_BYTES: usize = 128;
const PAGE_BYTES: u64 = 4096;
const INVISIBLE: Duration = Duration::from_secs(600);

/// Topics with as many queues each.
#[derive(Clone, Copy)]
struct Shape {
    /// Number of the first topic.
    first: u32,
    topics: u32,
    queues: u32,
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |at: usize, usual: u32| {
        let word = words.get(at).and_then(|word| word.parse().ok());
        word.unwrap_or(usual)
    };
    match words.get(1).map(String::as_str) {
        Some("fill") => fill(
            Path::new(&words[2]),
            number(3, 1),
            number(4, 1),
            number(5, 1),
        ),
        Some("open") => open(Path::new(&words[2])),
        _ => {
            let numbers = words.iter().filter_map(|word| word.parse().ok());
            let numbers: Vec<u32> = numbers.collect();
            let topics = numbers.first().copied().unwrap_or(1000);
            compare(topics, numbers.get(1).copied().unwrap_or(1_000_000));
        }
    }
}

fn compare(topics: u32, messages: u32) {
    let (few, many) = ((FEW.0, FEW.1), (topics, QUEUES));
    let measured = [few, many].map(|(topics, queues)| {
        let folder = tempfile::tempdir().expect("there is a place for it");
        let shape = [topics, queues, messages].map(|number| number.to_string());
        let rates = run("fill", folder.path(), &shape);
        let [killed, stopped] = [0, 1].map(|_| run("open", folder.path(), &[]));
        println!(
            "{:9} queues: sent {:.0}/s, consumed {:.0}/s, out of Parquet {:.0}/s; first pop {:.2} s after being killed, {:.2} s after a stop; {:.0} \
             MiB resident",
            topics * queues,
            rates[0],
            rates[1],
            rates[2],
            killed[0],
            stopped[0],
            stopped[1] / 1024.0 / 1024.0,
        );
        (rates, stopped[1], f64::from(topics * queues))
    });
    let [(few, few_bytes, _), (many, many_bytes, count)] = &measured;
    for (index, step) in ["sent", "consumed", "caught up"].into_iter().enumerate() {
        let ratio = many[index] / few[index];
        println!("{step:9} {ratio:6.2} of the rate with few queues");
    }
    println!(
        "an idle queue takes {:.0} B, with the place of a group",
        (many_bytes - few_bytes) / count
    );
}

/// Runs this bench again in a process of its own; the numbers that it prints.
fn run(what: &str, folder: &Path, shape: &[String]) -> Vec<f64> {
    let this = std::env::current_exe().expect("it runs");
    let mut command = Command::new(this);
    command.arg(what).arg(folder).args(shape);
    let output = command.output().expect("it ran before");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(
        numbers.len() >= 2,
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    numbers
}

fn fill(folder: &Path, topics: u32, queues: u32, messages: u32) {
    on_a_broker(folder, async |broker| {
        for number in 0..topics {
            let topic = NewTopic {
                name: topic(number),
                kind: TopicType::Normal,
                queues: Some(queues),
                columns: Vec::new(),
                watermark: None,
                primary_key: Vec::new(),
                written_by: None,
            };
            broker.create_topic(topic).await.expect("the name is free");
        }
        for first in (0..topics).step_by(TOGETHER as usize) {
            let topics = TOGETHER.min(topics - first);
            let shape = Shape {
                first,
                topics,
                queues,
            };
            send_all(&broker, shape, topics * queues, false).await;
            consume_all(&broker, shape, topics * queues).await;
        }
        // What was made ready has moved before anything is measured, however long it took.
        broker.tier().await.expect("the disk can be written");
        let shape = Shape {
            first: 0,
            topics,
            queues,
        };
        let sent = send_all(&broker, shape, messages, true).await;
        let consumed = consume_all(&broker, shape, messages).await;
        send_all(&broker, shape, messages / 2, true).await;
        broker.tier().await.expect("the disk can be written");
        let caught_up = consume_all(&broker, shape, messages / 2).await;
        send(&broker, 0, vec![message(&Bytes::from_static(b"last"))]).await;
        println!("{sent} {consumed} {caught_up}");
        // As if killed: whatever is not durable by now is gone.
        std::process::exit(0);
    });
}

fn open(folder: &Path) {
    let before = resident_bytes();
    let started = Instant::now();
    on_a_broker(folder, async |broker| {
        let popped = pop(&broker, 0).await;
        let took = started.elapsed().as_secs_f64();
        assert_eq!(popped.len(), 1, "one message was left there");
        let receive = popped.into_iter().map(|delivery| delivery.handle.clone());
        let undone = receive.collect::<Vec<_>>();
        broker
            .change_invisible(&group(), &topic(0), undone[0].clone(), Duration::ZERO)
            .await
            .expect("it is held");
        println!("{took} {}", resident_bytes() - before);
        broker.close().await;
    });
}

fn on_a_broker(folder: &Path, work: impl AsyncFnOnce(Arc<Broker>)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("threads can be had");
    let background = Background::start().expect("threads can be had");
    runtime.block_on(async {
        let parts = Parts::local(folder, background.lanes()).expect("the folder is ours");
        let broker = Broker::start(parts.storage, Settings::default()).await;
        work(broker.expect("the log can be opened")).await;
    });
}

/// Sends messages, one to every queue or batches to queues by chance; messages per second.
async fn send_all(broker: &Arc<Broker>, shape: Shape, messages: u32, by_chance: bool) -> f64 {
    let keys: Arc<[Bytes]> = (0..shape.queues)
        .map(|queue| key_of(queue, shape.queues))
        .collect();
    let started = Instant::now();
    let senders = (0..WORKERS).map(|worker| {
        let (broker, keys) = (Arc::clone(broker), Arc::clone(&keys));
        tokio::spawn(async move {
            let chance = Seeded::new(worker.into());
            let batches = messages.div_ceil(BATCH);
            for batch in (worker..batches).step_by(WORKERS as usize) {
                let numbers = batch * BATCH..messages.min((batch + 1) * BATCH);
                if by_chance {
                    let random = chance.next_u64();
                    let topic = (random >> 32) % u64::from(shape.topics);
                    let key =
                        &keys[usize::try_from(random & 0xFFFF_FFFF).expect("32 bits") % keys.len()];
                    let batch = numbers.map(|_| message(key)).collect();
                    let topic = u32::try_from(topic).expect("one of them");
                    send(&broker, shape.first + topic, batch).await;
                } else {
                    let numbers: Vec<u32> = numbers.collect();
                    for side_by_side in
                        numbers.chunk_by(|a, b| a / shape.queues == b / shape.queues)
                    {
                        let queues = side_by_side.iter().map(|number| number % shape.queues);
                        let batch = queues.map(|queue| message(&keys[queue as usize]));
                        let topic = shape.first + side_by_side[0] / shape.queues;
                        send(&broker, topic, batch.collect()).await;
                    }
                }
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.expect("it sends all");
    }
    f64::from(messages) / started.elapsed().as_secs_f64()
}

/// Pops and acknowledges all that is there, so many messages; messages per second.
async fn consume_all(broker: &Arc<Broker>, shape: Shape, messages: u32) -> f64 {
    let started = Instant::now();
    let consumers = (0..WORKERS).map(|worker| {
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            let mut count = 0;
            let mine = (worker % shape.topics..shape.topics).step_by(WORKERS as usize);
            for topic in mine.map(|topic| shape.first + topic) {
                loop {
                    let popped = pop(&broker, topic).await;
                    if popped.is_empty() {
                        break;
                    }
                    count += popped.len();
                    let handles = popped.into_iter().map(|delivery| delivery.handle).collect();
                    let name = self::topic(topic);
                    for acked in broker
                        .ack(&group(), &name, handles)
                        .await
                        .expect("the log is open")
                    {
                        acked.expect("it is held");
                    }
                }
            }
            count
        })
    });
    let mut count = 0;
    for consumer in consumers.collect::<Vec<_>>() {
        count += consumer.await.expect("it consumes all");
    }
    assert_eq!(count, messages as usize, "every message is delivered once");
    f64::from(messages) / started.elapsed().as_secs_f64()
}

async fn send(broker: &Broker, topic: u32, messages: Vec<Envelope>) {
    let sent = broker.send(&self::topic(topic), messages).await;
    for one in sent.expect("the log is open") {
        one.expect("there is room");
    }
}

async fn pop(broker: &Broker, topic: u32) -> Vec<millpond_engine::broker::Delivery> {
    let receive = Receive {
        group: group(),
        topic: self::topic(topic),
        limit: limits::RECEIVE_BATCH_MAX,
        invisible: INVISIBLE,
        poll: Duration::ZERO,
    };
    broker.receive(receive).await.expect("the log is open")
}

fn topic(number: u32) -> TopicName {
    TopicName::new(&format!("topic-{number}")).expect("a short one")
}

fn group() -> GroupName {
    GroupName::new("group").expect("a short one")
}

/// A key whose messages go to that queue.
fn key_of(queue: u32, queues: u32) -> Bytes {
    let mut keys = (0_u64..).map(|number| Bytes::from(number.to_string()));
    let found = keys.find(|key| queue_of(key, queues) == QueueId(queue));
    found.expect("every queue has some")
}

fn message(key: &Bytes) -> Envelope {
    Envelope {
        message_id: "0123456789ABCDEF0123456789ABCDEF01".to_owned(),
        key: Some(key.clone()),
        body: Some(Bytes::from_static(&[b'x'; BODY_BYTES])),
        ..Envelope::default()
    }
}

/// Bytes of this process that lie in memory; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
