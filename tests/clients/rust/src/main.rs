//! RocketMQ's official Rust client against a running Millpond, with its default settings: plaintext.
//!
//! Usage: `checks HOST:PORT PREFIX FEATURE...`; what it reads and prints is told in
//! `tests/clients/README.md`. This client has no push consumer, no change of the invisible time, no
//! recall and no priorities.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Debug;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rocketmq::conf::{ClientOption, ProducerOption, SimpleConsumerOption};
use rocketmq::error::ErrorKind;
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};

const MESSAGES: usize = 100;
const INVISIBLE: Duration = Duration::from_secs(60);

type Checked = Result<(), Box<dyn Error>>;

struct Checks {
    endpoint: String,
    prefix: String,
    topic: String,
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut failed = false;
    for feature in &arguments[3..] {
        let prefix = arguments[2].clone();
        let checks = Checks {
            endpoint: arguments[1].clone(),
            topic: format!("{prefix}-{feature}"),
            prefix,
        };
        let checked = match feature.as_str() {
            "normal" => checks.normal().await,
            "poll" => checks.poll().await,
            "batch" => checks.batch().await,
            "unknown-topic" => checks.unknown_topic().await,
            "tag" => checks.tag().await,
            "sql" => checks.sql().await,
            "fifo" => checks.fifo().await,
            "delay" => checks.delay().await,
            "transaction" => checks.transaction().await,
            "check-back" => checks.check_back().await,
            _ => {
                println!("none {feature}");
                continue;
            }
        };
        match checked {
            Ok(()) => println!("ok {feature}"),
            Err(error) => {
                failed = true;
                println!("FAILED {feature}: {error}");
            }
        }
    }
    std::process::exit(i32::from(failed));
}

impl Checks {
    async fn normal(&self) -> Checked {
        let (producer, consumer) = (self.producer().await?, self.consumer(5).await?);
        let mut sent = BTreeMap::new();
        for i in 0..MESSAGES {
            let body = format!("body-{i}");
            let message = MessageBuilder::builder()
                .set_topic(&self.topic)
                .set_body(body.clone().into_bytes())
                .set_tag("order")
                .set_keys(vec![format!("key-{i}"), "all".to_owned()])
                .set_properties([("colour", "grün")].into())
                .build()?;
            let receipt = producer.send(message).await?;
            sent.insert(receipt.message_id().to_owned(), body);
        }
        equal(&MESSAGES, &sent.len(), "ids of the sends")?;
        let mut found = BTreeMap::new();
        for one in self.receive(&consumer, &all(), MESSAGES, 60).await? {
            let body = body(&one);
            equal(&Some("order"), &one.tag(), "tag")?;
            equal(
                &Some("grün"),
                &one.properties().get("colour").map(String::as_str),
                "property",
            )?;
            let keys = [format!("key-{}", &body[5..]), "all".to_owned()];
            equal(&keys.as_slice(), &one.keys(), "keys")?;
            equal(&1, &one.delivery_attempt(), "attempt")?;
            let before = found.insert(one.message_id().to_owned(), body);
            equal(&None, &before, "deliveries before")?;
        }
        equal(&sent, &found, "messages")?;
        let again = self.one_poll(&consumer, &all(), 32).await?;
        equal(&0, &again.len(), "deliveries of what is acknowledged")
    }

    /// A poll that waits is answered as soon as a message comes, long before its time is over.
    async fn poll(&self) -> Checked {
        let (producer, consumer) = (self.producer().await?, self.consumer(15).await?);
        let started = Instant::now();
        let filter = all();
        let send = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            producer.send(self.message("first").build()?).await?;
            Ok::<_, Box<dyn Error>>(())
        };
        let (got, sent) = tokio::join!(self.one_poll(&consumer, &filter, 1), send);
        sent?;
        let got = got?;
        equal(&1, &got.len(), "messages")?;
        between(
            1000,
            6000,
            started.elapsed().as_millis(),
            "ms until the answer",
        )?;
        consumer.ack(&got[0]).await?;
        Ok(())
    }

    /// Several messages in one send; those without a key take turns over the queues, so their order is their queue's.
    async fn batch(&self) -> Checked {
        let (producer, consumer) = (self.producer().await?, self.consumer(5).await?);
        let bodies: Vec<String> = (0..MESSAGES).map(|i| format!("body-{i}")).collect();
        let messages: Result<Vec<_>, _> = bodies
            .iter()
            .map(|body| self.message(body).build())
            .collect();
        let receipts = producer.batch_send(messages?).await?;
        let ids: BTreeSet<&str> = receipts.iter().map(|one| one.message_id()).collect();
        equal(&MESSAGES, &ids.len(), "ids")?;
        let found = self.receive(&consumer, &all(), MESSAGES, 60).await?;
        let found: BTreeSet<String> = found.iter().map(body).collect();
        equal(&bodies.into_iter().collect(), &found, "messages")
    }

    async fn unknown_topic(&self) -> Checked {
        let producer = self.producer().await?;
        let unknown = format!("{}-no-such-topic", self.prefix);
        let message = MessageBuilder::builder()
            .set_topic(&unknown)
            .set_body(vec![1])
            .build()?;
        match producer.send(message).await {
            Ok(_) => Err("the send succeeded".into()),
            Err(error) if format!("{error:?}").contains(&unknown) => Ok(()),
            Err(error) => Err(format!("the refusal names no topic: {error:?}").into()),
        }
    }

    async fn tag(&self) -> Checked {
        let producer = self.producer().await?;
        for i in 0..30 {
            let message = self
                .message(&format!("body-{i}"))
                .set_tag(format!("tag-{}", i % 3));
            producer.send(message.build()?).await?;
        }
        let filter = FilterExpression::new(FilterType::Tag, "tag-0 || tag-2");
        self.filtered(&filter, |i| i % 3 != 1).await
    }

    async fn sql(&self) -> Checked {
        let producer = self.producer().await?;
        for i in 0..30 {
            let message = self
                .message(&format!("body-{i}"))
                .set_tag(format!("tag-{}", i % 3))
                .set_properties([("price".to_owned(), i.to_string())].into());
            producer.send(message.build()?).await?;
        }
        let expression = "price BETWEEN 5 AND 20 AND TAGS <> 'tag-0' AND colour IS NULL";
        let filter = FilterExpression::new(FilterType::Sql, expression);
        self.filtered(&filter, |i| (5..=20).contains(&i) && i % 3 != 0)
            .await
    }

    async fn filtered(&self, filter: &FilterExpression, wanted: fn(usize) -> bool) -> Checked {
        let wanted = (0..30).filter(|i| wanted(*i)).map(|i| format!("body-{i}"));
        let expected: BTreeSet<String> = wanted.collect();
        let consumer = self.consumer(5).await?;
        let got = self.receive(&consumer, filter, expected.len(), 60).await?;
        equal(
            &expected,
            &got.iter().map(body).collect(),
            "messages that pass the filter",
        )?;
        let more = self.one_poll(&consumer, filter, 32).await?;
        equal(&0, &more.len(), "messages that do not pass it")
    }

    async fn fifo(&self) -> Checked {
        let (producer, consumer) = (self.producer().await?, self.consumer(5).await?);
        let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for i in 0..20 {
            for group in ["red", "blue"] {
                let text = format!("{group}-{i}");
                let message = self.message(&text).set_message_group(group);
                producer.send(message.build()?).await?;
                sent.entry(group.to_owned()).or_default().push(text);
            }
        }
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for one in self.receive(&consumer, &all(), 40, 60).await? {
            let group = one.message_group().unwrap_or_default().to_owned();
            found.entry(group).or_default().push(body(&one));
        }
        equal(&sent, &found, "messages by group, in order")
    }

    /// This client's due times are whole seconds.
    async fn delay(&self) -> Checked {
        let (producer, consumer) = (self.producer().await?, self.consumer(15).await?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        let due = i64::try_from(now.as_secs())? + 4;
        let message = self.message("later").set_delivery_timestamp(due);
        producer.send(message.build()?).await?;
        let got = self.receive(&consumer, &all(), 1, 30).await?;
        equal(
            &vec!["later".to_owned()],
            &got.iter().map(body).collect(),
            "messages",
        )?;
        let late = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let due_ms = u128::try_from(due)? * 1000;
        between(due_ms, due_ms + 2000, late, "ms of its delivery")
    }

    async fn transaction(&self) -> Checked {
        let producer = self
            .transactional(|_| TransactionResolution::UNKNOWN)
            .await?;
        let consumer = self.consumer(5).await?;
        let half = |text: &str| self.message(text).enable_transaction().build();
        let rolled_back = producer
            .send_transaction_message(half("rolled back")?)
            .await?;
        let committed = producer
            .send_transaction_message(half("committed")?)
            .await?;
        let early = self.one_poll(&consumer, &all(), 32).await?;
        equal(&0, &early.len(), "messages before the commit")?;
        let id = committed.message_id().to_owned();
        rolled_back.rollback().await?;
        committed.commit().await?;
        let got = self.receive(&consumer, &all(), 1, 30).await?;
        equal(
            &vec!["committed".to_owned()],
            &got.iter().map(body).collect(),
            "messages",
        )?;
        equal(&id.as_str(), &got[0].message_id(), "id")?;
        let late = self.one_poll(&consumer, &all(), 32).await?;
        equal(&0, &late.len(), "messages rolled back")
    }

    /// A producer that says nothing is asked.
    async fn check_back(&self) -> Checked {
        let (asked, questions) = mpsc::channel();
        let producer = self
            .transactional(move |half| {
                let _ = asked.send(half.properties().get("colour").cloned());
                TransactionResolution::COMMIT
            })
            .await?;
        let consumer = self.consumer(10).await?;
        let message = self
            .message("undecided")
            .set_properties([("colour", "red")].into());
        let _undecided = producer
            .send_transaction_message(message.enable_transaction().build()?)
            .await?;
        let got = self.receive(&consumer, &all(), 1, 60).await?;
        equal(
            &vec!["undecided".to_owned()],
            &got.iter().map(body).collect(),
            "messages",
        )?;
        let colour = questions.recv_timeout(Duration::from_secs(5))?;
        equal(&Some("red".to_owned()), &colour, "property in the question")
    }

    async fn producer(&self) -> Result<Producer, Box<dyn Error>> {
        let mut producer = Producer::new(self.producer_option(), self.client_option())?;
        producer.start().await?;
        Ok(producer)
    }

    async fn transactional(
        &self,
        check: impl Fn(&MessageView) -> TransactionResolution + Send + Sync + 'static,
    ) -> Result<Producer, Box<dyn Error>> {
        let checker = Box::new(move |_: String, half: MessageView| check(&half));
        let mut producer = Producer::new_transaction_producer(
            self.producer_option(),
            self.client_option(),
            checker,
        )?;
        producer.start().await?;
        Ok(producer)
    }

    async fn consumer(&self, wait_seconds: u64) -> Result<SimpleConsumer, Box<dyn Error>> {
        let mut option = SimpleConsumerOption::default();
        option.set_topics(vec![&self.topic]);
        option.set_consumer_group(&self.topic);
        let mut client = self.client_option();
        client.set_long_polling_timeout(Duration::from_secs(wait_seconds));
        let mut consumer = SimpleConsumer::new(option, client)?;
        consumer.start().await?;
        Ok(consumer)
    }

    fn producer_option(&self) -> ProducerOption {
        let mut option = ProducerOption::default();
        option.set_topics(vec![&self.topic]);
        option
    }

    fn client_option(&self) -> ClientOption {
        let mut option = ClientOption::default();
        option.set_access_url(&self.endpoint);
        option
    }

    fn message(&self, body: &str) -> MessageBuilder {
        MessageBuilder::builder()
            .set_topic(&self.topic)
            .set_body(body.as_bytes().to_vec())
    }

    /// Receives until `count` messages came or the time is over; acknowledges each.
    async fn receive(
        &self,
        consumer: &SimpleConsumer,
        filter: &FilterExpression,
        count: usize,
        seconds: u64,
    ) -> Result<Vec<MessageView>, Box<dyn Error>> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut found = Vec::new();
        while found.len() < count && Instant::now() < end {
            for one in self.one_poll(consumer, filter, 32).await? {
                consumer.ack(&one).await?;
                found.push(one);
            }
        }
        Ok(found)
    }

    async fn one_poll(
        &self,
        consumer: &SimpleConsumer,
        filter: &FilterExpression,
        count: i32,
    ) -> Result<Vec<MessageView>, Box<dyn Error>> {
        match consumer
            .receive_with(&self.topic, filter, count, INVISIBLE)
            .await
        {
            Ok(got) => Ok(got),
            // This client has no name for a poll that found nothing.
            Err(error) if *error.kind() == ErrorKind::Server && empty(&format!("{error:?}")) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn empty(error: &str) -> bool {
    error.contains("40401") || error.contains("no new message")
}

fn all() -> FilterExpression {
    FilterExpression::new(FilterType::Tag, "*")
}

fn body(one: &MessageView) -> String {
    String::from_utf8_lossy(one.body()).into_owned()
}

fn equal<T: PartialEq + Debug>(expected: &T, found: &T, what: &str) -> Checked {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, found {found:?}").into())
}

fn between(low: u128, high: u128, found: u128, what: &str) -> Checked {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    Err(format!("{what}: {found}, expected {low} to {high}").into())
}
