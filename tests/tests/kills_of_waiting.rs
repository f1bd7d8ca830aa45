//! A real server that is killed with -9 in the middle of delayed, transactional and ordered messages: each is there
//! once, in its order and not before its time, and nothing that was rolled back.
//!
//! Producers number what they send and send it again until it is answered, in whatever life, so in the end it is known
//! exactly what must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millpond_proto::chance::Seeded;
use millpond_proto::client::consumer::timestamp;
use millpond_proto::client::{Client, ClientError, OutgoingMessage, Producer, SimpleConsumer};
use millpond_proto::property::{PRODUCER_ID, PRODUCER_SEQUENCE};
use millpond_proto::time::{Clock as _, SystemClock, Timestamp};
use millpond_proto::wire::admin::{CreateTopicRequest, ReadRequest, StoredMessage};
use millpond_proto::wire::rocketmq::messaging_service_client::MessagingServiceClient;
use millpond_proto::wire::rocketmq::{
    Code, EndTransactionRequest, Message, MessageType, Resource, SendMessageRequest,
    SystemProperties, TransactionResolution, TransactionSource,
};
use millpond_tests::harness::{Folder, Kill, Server, eventually};
use tonic::Status;
use tonic::transport::Channel;

const DELAYED: &str = "reminders";
const HALVES: &str = "payments";
const ORDERED: &str = "accounts";
const GROUP: &str = "ledger";
const KILLS: u64 = 10;
const QUEUES: u32 = 2;
/// How far ahead delayed messages are due.
const AHEAD_MS: u64 = 3000;
const MESSAGE_GROUPS: u64 = 3;
const INVISIBLE: Duration = Duration::from_secs(10);

/// Delayed messages.
#[derive(Debug, Default)]
struct Delays {
    /// The time of each, by number; the last one may not be answered yet.
    due: Vec<i64>,
    is_open: bool,
}

/// A transaction: prepared, then ended as its number says.
#[derive(Debug, Default)]
struct Transactions {
    /// How many were prepared and ended.
    ended: u64,
    /// The one under way, once its half message is answered.
    prepared: Option<String>,
}

/// Message groups: how many messages each has; the last one may not be answered yet.
#[derive(Debug, Default)]
struct Order {
    sent: BTreeMap<u64, u64>,
    open: Option<(u64, u64)>,
    numbers: u64,
}

/// What a consumer of the ordered topic was given and told.
#[derive(Debug, Default)]
struct Consumed {
    came: BTreeSet<(u64, u64)>,
    /// Acknowledgements without an answer: they may have been taken.
    unanswered: BTreeSet<(u64, u64)>,
    acked: BTreeSet<(u64, u64)>,
}

/// A life of the server: it is over when so much was done.
struct Life<'a> {
    kill: Kill<'a>,
    client: Client,
    wire: MessagingServiceClient<Channel>,
    done: AtomicUsize,
}

impl<'a> Life<'a> {
    async fn of(server: &'a Server) -> Self {
        let wire = MessagingServiceClient::connect(server.url()).await;
        Self {
            kill: Kill::of(server),
            client: server.client(),
            wire: wire.unwrap(),
            done: AtomicUsize::new(0),
        }
    }

    fn did_one(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    async fn kill_after(&self, done: usize) {
        let is_time = || self.done.load(Ordering::Relaxed) >= done;
        self.kill.when(is_time).await;
    }

    /// Whether one more is to be done: after one that was, and after one that the server wants to see again.
    async fn goes_on<T>(&self, step: Result<T, ClientError>) -> bool {
        match step {
            Ok(_) => {
                self.did_one();
                true
            }
            Err(error) => !self.kill.is_over(&error).await,
        }
    }
}

fn numbered(message: OutgoingMessage, number: u64) -> OutgoingMessage {
    message
        .with_property(PRODUCER_ID, "till-7")
        .with_property(PRODUCER_SEQUENCE, number.to_string())
}

fn text(body: impl ToString) -> Bytes {
    Bytes::from(body.to_string())
}

impl Delays {
    /// Sends delayed messages until the server is gone.
    async fn produce(&mut self, life: &Life<'_>, chance: &Seeded) {
        while life.goes_on(self.send(life, chance).await).await {}
    }

    /// Sends one, or the one before again when it was not answered.
    async fn send(&mut self, life: &Life<'_>, chance: &Seeded) -> Result<(), ClientError> {
        if !self.is_open {
            let ahead = i64::try_from(chance.below(AHEAD_MS)).unwrap();
            self.due.push(SystemClock.now().as_ms() + ahead);
            self.is_open = true;
        }
        let number = self.due.len() - 1;
        let message = OutgoingMessage::new(text(number)).deliver_at(Timestamp(self.due[number]));
        let message = numbered(message, number as u64);
        let producer = Producer::new(&life.client);
        producer.send(DELAYED, message).await?;
        self.is_open = false;
        Ok(())
    }
}

impl Transactions {
    /// Prepares and ends transactions until the server is gone.
    async fn produce(&mut self, life: &Life<'_>) {
        while life.goes_on(self.step(life).await).await {}
    }

    async fn step(&mut self, life: &Life<'_>) -> Result<(), ClientError> {
        match self.prepared.clone() {
            None => self.prepared = Some(self.prepare(life).await?),
            Some(id) => {
                self.end(life, id).await?;
                self.prepared = None;
                self.ended += 1;
            }
        }
        Ok(())
    }

    async fn prepare(&self, life: &Life<'_>) -> Result<String, ClientError> {
        let number = self.ended;
        let properties = [
            (PRODUCER_ID.to_owned(), "till-7".to_owned()),
            (PRODUCER_SEQUENCE.to_owned(), number.to_string()),
        ];
        let message = Message {
            topic: resource(HALVES),
            user_properties: properties.into(),
            system_properties: Some(SystemProperties {
                message_id: id_of(number),
                message_type: MessageType::Transaction as i32,
                ..SystemProperties::default()
            }),
            body: text(number),
        };
        let request = SendMessageRequest {
            messages: vec![message],
        };
        let mut wire = life.wire.clone();
        let answer = wire.send_message(from_client(request)).await;
        let mut entries = answer.map_err(not_answered)?.into_inner().entries;
        let entry = entries.pop().expect("an entry for the message");
        is_ok(entry.status.expect("each entry has a status"))?;
        Ok(entry.transaction_id)
    }

    async fn end(&self, life: &Life<'_>, id: String) -> Result<(), ClientError> {
        let resolution = if is_committed(self.ended) {
            TransactionResolution::Commit
        } else {
            TransactionResolution::Rollback
        };
        let request = EndTransactionRequest {
            topic: resource(HALVES),
            message_id: id_of(self.ended),
            transaction_id: id,
            resolution: resolution.into(),
            source: TransactionSource::SourceClient.into(),
            ..EndTransactionRequest::default()
        };
        let mut wire = life.wire.clone();
        let answer = wire.end_transaction(from_client(request)).await;
        let status = answer.map_err(not_answered)?.into_inner().status;
        // It was decided by nobody else, so it is refused for a while at most.
        is_ok(status.expect("an answer has a status"))
    }
}

fn not_answered(status: Status) -> ClientError {
    ClientError::Status {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

fn is_ok(status: millpond_proto::wire::rocketmq::Status) -> Result<(), ClientError> {
    match status.code() {
        Code::Ok => Ok(()),
        code => Err(ClientError::Refused {
            code,
            message: status.message,
        }),
    }
}

fn is_committed(number: u64) -> bool {
    !number.is_multiple_of(3)
}

fn id_of(number: u64) -> String {
    format!("01A2B3C4D5E6F7080900000000{number:08X}")
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource {
        name: name.to_owned(),
        ..Resource::default()
    })
}

fn from_client<T>(request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    let id = "kills-test".parse().unwrap();
    request.metadata_mut().insert("x-mq-client-id", id);
    request
}

impl Order {
    /// Sends to message groups, one message after the other, until the server is gone.
    async fn produce(&mut self, life: &Life<'_>, chance: &Seeded) {
        while life.goes_on(self.send(life, chance).await).await {}
    }

    async fn send(&mut self, life: &Life<'_>, chance: &Seeded) -> Result<(), ClientError> {
        let (group, place) = *self.open.get_or_insert_with(|| {
            let group = chance.below(MESSAGE_GROUPS);
            let place = self.sent.entry(group).or_default();
            *place += 1;
            self.numbers += 1;
            (group, *place)
        });
        let message = OutgoingMessage::new(text(format!("{group}:{place}")));
        let message = message.with_message_group(format!("g{group}"));
        let producer = Producer::new(&life.client);
        let sent = producer.send(ORDERED, numbered(message, self.numbers));
        sent.await?;
        self.open = None;
        Ok(())
    }
}

/// Message group and number of an ordered message.
fn place_of(body: &[u8]) -> (u64, u64) {
    let body = std::str::from_utf8(body).unwrap();
    let (group, place) = body.split_once(':').unwrap();
    (group.parse().unwrap(), place.parse().unwrap())
}

impl Consumed {
    /// Receives and acknowledges until the server is gone.
    async fn consume(&mut self, life: &Life<'_>) {
        let poll = Duration::from_secs(1);
        loop {
            match self.receive(life, poll).await {
                Ok(_) => {}
                Err(error) if life.kill.is_over(&error).await => return,
                Err(_) => {}
            }
        }
    }

    /// Receives, acknowledges, and answers how many came.
    async fn receive(&mut self, life: &Life<'_>, poll: Duration) -> Result<usize, ClientError> {
        let consumer = SimpleConsumer::new(&life.client, GROUP, ORDERED);
        let received = consumer.receive(8, INVISIBLE, poll).await?;
        let mut places = Vec::new();
        for message in &received {
            let (group, place) = place_of(&message.body);
            let again = self.acked.contains(&(group, place));
            assert!(
                !again,
                "{group}:{place} came again after its acknowledgement"
            );
            let earlier = self.came.range((group, 0)..(group, place)).count() as u64;
            assert_eq!(
                earlier + 1,
                place,
                "{group}:{place} came before an earlier one"
            );
            self.came.insert((group, place));
            places.push((group, place));
        }
        let answers = match consumer.ack_all(&received).await {
            Ok(answers) => answers,
            Err(error) => {
                if error.leaves_unknown() {
                    self.unanswered.extend(places);
                }
                return Err(error);
            }
        };
        for (place, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    self.acked.insert(place);
                }
                Err(error) if error.leaves_unknown() => {
                    self.unanswered.insert(place);
                }
                // Too late, or not done: then it comes again.
                Err(_) => {}
            }
        }
        Ok(received.len())
    }
}

/// Everything in a topic, by queue and offset.
async fn stored(server: &Server, topic: &str) -> Vec<StoredMessage> {
    let admin = server.admin();
    let mut all = Vec::new();
    for queue in 0..QUEUES {
        let mut from = 0;
        loop {
            let request = ReadRequest {
                topic: topic.to_owned(),
                queue,
                from,
                limit: 500,
            };
            let answer = admin.read_topic(request).await.unwrap();
            if answer.messages.is_empty() {
                break;
            }
            from = answer.next;
            all.extend(answer.messages);
        }
    }
    all
}

fn number_of(message: &StoredMessage) -> u64 {
    let body = message.body.as_deref().unwrap();
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

async fn make_topics(server: &Server) {
    for (name, kind) in [
        (DELAYED, "delay"),
        (HALVES, "transaction"),
        (ORDERED, "fifo"),
    ] {
        let request = CreateTopicRequest {
            name: name.to_owned(),
            r#type: kind.to_owned(),
            queues: QUEUES,
            ..CreateTopicRequest::default()
        };
        server.admin().create_topic(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_what_is_in_order_comes_once_through_many_kills() {
    let folder = Folder::new();
    let chance = Seeded::new(3);
    let (mut delays, mut transactions) = (Delays::default(), Transactions::default());
    let (mut order, mut consumed) = (Order::default(), Consumed::default());
    for number in 0..KILLS {
        let server = folder.serve();
        if number == 0 {
            make_topics(&server).await;
        }
        let life = Life::of(&server).await;
        let after = usize::try_from(chance.below(150)).unwrap() + 1;
        let (due, ordered) = (Seeded::new(number), Seeded::new(number + KILLS));
        futures::join!(
            delays.produce(&life, &due),
            transactions.produce(&life),
            order.produce(&life, &ordered),
            consumed.consume(&life),
            life.kill_after(after),
        );
        server.kill();
    }
    let server = folder.serve();
    // What was not answered yet is sent or ended once more.
    let life = Life::of(&server).await;
    delays.send(&life, &chance).await.unwrap();
    order.send(&life, &chance).await.unwrap();
    transactions.step(&life).await.unwrap();
    while transactions.prepared.is_some() {
        transactions.step(&life).await.unwrap();
    }
    let poll = INVISIBLE + Duration::from_secs(2);
    while consumed.receive(&life, poll).await.unwrap() > 0 {}

    let wanted: BTreeSet<_> = order
        .sent
        .iter()
        .flat_map(|(group, count)| (1..=*count).map(|place| (*group, place)))
        .collect();
    let done = consumed.acked.union(&consumed.unanswered);
    assert_eq!(done.count(), wanted.len(), "what was kept came again");
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    for message in stored(&server, ORDERED).await {
        let (group, place) = place_of(message.body.as_deref().unwrap());
        let last = places.insert(group, place).unwrap_or(0);
        assert_eq!(
            place,
            last + 1,
            "message group {group} is whole and in order"
        );
    }
    assert_eq!(places, order.sent);

    let committed = (0..transactions.ended).filter(|number| is_committed(*number));
    let mut found: Vec<u64> = stored(&server, HALVES)
        .await
        .iter()
        .map(number_of)
        .collect();
    found.sort_unstable();
    assert_eq!(found, committed.collect::<Vec<_>>());

    let all_came = async || stored(&server, DELAYED).await.len() >= delays.due.len();
    let limit = Duration::from_secs(60);
    eventually("every delayed message comes", limit, all_came).await;
    let mut found = Vec::new();
    for message in stored(&server, DELAYED).await {
        let number = number_of(&message);
        let due_ms = delays.due[usize::try_from(number).unwrap()];
        let at_ms = timestamp(message.stored_at.unwrap()).as_ms();
        assert!(at_ms >= due_ms, "{number} came at {at_ms}, before {due_ms}");
        found.push(number);
    }
    found.sort_unstable();
    assert_eq!(found, (0..delays.due.len() as u64).collect::<Vec<_>>());
    let checked = server.millpond(&["storage", "verify"]);
    assert!(!checked.contains("DAMAGE"), "{checked}");
    assert!(server.stop());
}
