//! A real server that is killed with -9 again and again, in the middle of sends, deliveries, acknowledgements and
//! tiering: what clients were told holds, to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use millpond_proto::chance::Seeded;
use millpond_proto::client::{OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::message::stable_hash;
use millpond_proto::time::{Clock as _, SystemClock};
use millpond_proto::wire::admin::{CreateTopicRequest, ReadRequest};
use millpond_tests::harness::{Folder, Kill, Server};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const QUEUES: u32 = 3;
const KILLS: u64 = 22;
const PRODUCERS: usize = 4;
const CONSUMERS: usize = 2;
const INVISIBLE: Duration = Duration::from_secs(10);

/// What clients did and were told, over all lives.
#[derive(Debug, Default)]
struct Told {
    numbers: AtomicU64,
    /// Acknowledged sends: offset by number. A call may be without an answer and stored all the same.
    sent: Mutex<BTreeMap<u64, i64>>,
    called: Mutex<BTreeSet<u64>>,
    /// Deliveries that were acknowledged, and the number of kills before.
    acked: Mutex<BTreeMap<u64, u64>>,
    /// Those whose acknowledgement has no answer: it may have been taken.
    unanswered: Mutex<BTreeSet<u64>>,
    progress: AtomicUsize,
    /// Messages that were moved.
    moved: AtomicU64,
    /// Turns of moving and merging that came to their end.
    turns: AtomicUsize,
}

/// The body of a number: mostly small, at times large.
fn body(number: u64) -> Bytes {
    let word = stable_hash(&number.to_le_bytes());
    let length = match word % 50 {
        0 => 200_000,
        1..10 => 5000,
        _ => word % 500,
    };
    let mut body = number.to_le_bytes().to_vec();
    while (body.len() as u64) < length {
        body.extend_from_slice(&word.wrapping_mul(body.len() as u64 | 1).to_le_bytes());
    }
    body.into()
}

/// The number of a body, which must be the very bytes that were sent.
fn number_of(found: &Bytes) -> u64 {
    let number = found.get(..8).map(|bytes| bytes.try_into().unwrap());
    let number = u64::from_le_bytes(number.expect("every body begins with its number"));
    assert_eq!(*found, body(number), "the body of {number}");
    number
}

impl Told {
    /// Sends until the server is gone.
    async fn produce(&self, server: &Server, kill: &Kill<'_>, seed: u64) {
        let producer = Producer::new(&server.client());
        let chance = Seeded::new(seed);
        loop {
            let numbers: Vec<u64> = (0..=chance.below(3))
                .map(|_| self.numbers.fetch_add(1, Ordering::Relaxed))
                .collect();
            self.called.lock().unwrap().extend(&numbers);
            let messages = numbers.iter().map(|&n| OutgoingMessage::new(body(n)));
            let answers = match producer.send_batch(TOPIC, messages.collect()).await {
                Ok(answers) => answers,
                Err(error) if kill.is_over(&error).await => return,
                Err(_) => continue,
            };
            for (number, answer) in numbers.into_iter().zip(answers) {
                match answer {
                    Ok(answer) => {
                        self.sent.lock().unwrap().insert(number, answer.offset);
                        self.progress.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) if kill.is_over(&error).await => return,
                    Err(_) => {}
                }
            }
        }
    }

    /// Receives and acknowledges until the server is gone.
    async fn consume(&self, server: &Server, kill: &Kill<'_>, life: u64) {
        let consumer = SimpleConsumer::new(&server.client(), GROUP, TOPIC);
        loop {
            let poll = Duration::from_secs(1);
            let received = match consumer.receive(16, INVISIBLE, poll).await {
                Ok(received) => received,
                Err(error) if kill.is_over(&error).await => return,
                Err(_) => continue,
            };
            let mut numbers = Vec::new();
            for message in &received {
                let number = number_of(&message.body);
                let acked = self.acked.lock().unwrap().get(&number).copied();
                assert_eq!(acked, None, "{number} came again after its acknowledgement");
                numbers.push(number);
            }
            let answers = match consumer.ack_all(&received).await {
                Ok(answers) => answers,
                Err(error) => {
                    if error.leaves_unknown() {
                        self.unanswered.lock().unwrap().extend(numbers);
                    }
                    if kill.is_over(&error).await {
                        return;
                    }
                    continue;
                }
            };
            for (number, answer) in numbers.into_iter().zip(answers) {
                match answer {
                    Ok(()) => {
                        self.acked.lock().unwrap().insert(number, life);
                    }
                    Err(error) if error.leaves_unknown() => {
                        self.unanswered.lock().unwrap().insert(number);
                    }
                    // Too late, or not done: then it comes again.
                    Err(_) => {}
                }
            }
        }
    }

    /// Moves, merges and checks until the server is gone.
    async fn operate(&self, server: &Server, kill: &Kill<'_>) {
        let admin = server.admin();
        loop {
            match admin.tier().await {
                Ok(tiered) => {
                    self.moved.fetch_add(tiered.messages, Ordering::Relaxed);
                }
                Err(error) if kill.is_over(&error).await => return,
                Err(_) => continue,
            }
            match admin.compact(TOPIC).await {
                Ok(_) => {}
                Err(error) if kill.is_over(&error).await => return,
                Err(_) => continue,
            }
            self.turns.fetch_add(1, Ordering::Relaxed);
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills after so many sends, and turns of the operator: none is in the middle of the first one, mostly.
    async fn kill_after(&self, kill: &Kill<'_>, sends: usize, turns: usize) {
        let done = || {
            let sent = self.progress.load(Ordering::Relaxed);
            (sent, self.turns.load(Ordering::Relaxed))
        };
        let (sent, turned) = done();
        let is_time = || done().0 >= sent + sends && done().1 >= turned + turns;
        kill.when(is_time).await;
    }

    /// Reads every queue from its beginning and compares with what was told.
    async fn check(&self, server: &Server) -> usize {
        let admin = server.admin();
        let (mut places, mut count) = (BTreeMap::new(), 0);
        for queue in 0..QUEUES {
            let mut next = 0;
            loop {
                let request = ReadRequest {
                    topic: TOPIC.to_owned(),
                    queue,
                    from: next,
                    limit: 200,
                };
                let answer = admin.read_topic(request).await.unwrap();
                if answer.messages.is_empty() {
                    break;
                }
                for message in answer.messages {
                    assert_eq!(message.offset, next, "offsets are dense");
                    let number = number_of(&message.body.unwrap());
                    let before = places.insert(number, next);
                    assert_eq!(before, None, "{number} is stored once");
                    next += 1;
                    count += 1;
                }
            }
        }
        let called = self.called.lock().unwrap();
        let stray: Vec<_> = places.keys().filter(|n| !called.contains(n)).collect();
        assert!(stray.is_empty(), "never sent: {stray:?}");
        for (number, offset) in self.sent.lock().unwrap().iter() {
            let found = places
                .get(number)
                .map(|&offset| i64::try_from(offset).unwrap());
            assert_eq!(found, Some(*offset), "{number} was acknowledged there");
        }
        count
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_were_told_holds_through_many_kills() {
    let folder = Folder::new();
    let told = Told::default();
    let chance = Seeded::new(1);
    for life in 0..KILLS {
        let server = folder.serve();
        if life == 0 {
            let request = CreateTopicRequest {
                name: TOPIC.to_owned(),
                queues: QUEUES,
                ..CreateTopicRequest::default()
            };
            server.admin().create_topic(request).await.unwrap();
        } else if life % 5 == 0 {
            told.check(&server).await;
        }
        let kill = &Kill::of(&server);
        let turns = [0, 1, 3][usize::try_from(life % 3).unwrap()];
        let producers = (0..PRODUCERS).map(|n| told.produce(&server, kill, life * 10 + n as u64));
        let consumers = (0..CONSUMERS).map(|_| told.consume(&server, kill, life));
        let after = usize::try_from(chance.below(150)).unwrap() + 1;
        futures::join!(
            join_all(producers),
            join_all(consumers),
            told.operate(&server, kill),
            told.kill_after(kill, after, turns),
        );
        server.kill();
    }
    let server = folder.serve();
    let stored = told.check(&server).await;
    // What was delivered and not acknowledged comes back when its invisible time is over.
    let consumer = SimpleConsumer::new(&server.client(), GROUP, TOPIC);
    let poll = INVISIBLE + Duration::from_secs(2);
    loop {
        let received = consumer.receive(32, INVISIBLE, poll).await.unwrap();
        if received.is_empty() {
            break;
        }
        for message in &received {
            let number = number_of(&message.body);
            let acked = told.acked.lock().unwrap().insert(number, KILLS);
            assert_eq!(acked, None, "{number} came again after its acknowledgement");
        }
        for answer in consumer.ack_all(&received).await.unwrap() {
            answer.unwrap();
        }
    }
    let mut done = told.unanswered.lock().unwrap().clone();
    done.extend(told.acked.lock().unwrap().keys());
    assert_eq!(done.len(), stored, "each came, and again if it was kept");
    assert!(told.moved.into_inner() > 0, "something was moved");
    let checked = server.millpond(&["storage", "verify"]);
    assert!(!checked.contains("DAMAGE"), "{checked}");
    assert!(server.stop());
}
