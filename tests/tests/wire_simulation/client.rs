//! Clients at the wire: producers that send again until they are answered, consumers that are never sure of anything.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use millpond_proto::chance::Seeded;
use millpond_proto::client::consumer::timestamp;
use millpond_proto::property::{PRODUCER_ID, PRODUCER_SEQUENCE};
use millpond_proto::time::{Timestamp, within};
use millpond_proto::wire::admin as admin_pb;
use millpond_proto::wire::admin::admin_client::AdminClient;
use millpond_proto::wire::rocketmq as pb;
use millpond_proto::wire::rocketmq::messaging_service_client::MessagingServiceClient;
use millpond_proto::wire::rocketmq::receive_message_response::Content;
use millpond_tests::history::{Event, Message, Place};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::pipe::Connector;
use super::{GROUP, INVISIBLE_MS, Shared, TOPIC, TOPIC_ID};

/// How long a client waits for an answer before it gives the connection up.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a consumer lets the server wait for messages.
const POLL: Duration = Duration::from_secs(1);

/// One client of one life.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) name: Arc<str>,
    pub(super) connector: Connector,
    pub(super) shared: Arc<Shared>,
    pub(super) chance: Arc<Seeded>,
    pub(super) channel: Channel,
}

/// A connection that is made when it is needed, and again when it is lost.
pub(super) fn channel(connector: &Connector) -> Channel {
    Endpoint::from_static("http://millpond").connect_with_connector_lazy(connector.clone())
}

/// What a message is follows from its name.
fn body(name: &str) -> Vec<u8> {
    let word =
        Seeded::new(name.len() as u64 ^ millpond_proto::message::stable_hash(name.as_bytes()));
    let length = if word.percent(5) {
        9000
    } else {
        word.below(300)
    };
    let mut body = name.as_bytes().to_vec();
    body.extend((0..length).map(|at| u8::try_from(at % 251).unwrap()));
    body
}

fn resource(name: &str) -> Option<pb::Resource> {
    Some(pb::Resource {
        name: name.to_owned(),
        ..pb::Resource::default()
    })
}

fn on_the_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap()
}

/// Codes that begin with 4 are refusals of the request, also where it may be sent again.
fn says_nothing_was_done(code: i32) -> bool {
    (40_000..50_000).contains(&code)
}

fn place(offset: u64) -> Place {
    Place {
        topic: TOPIC_ID,
        queue: 0,
        offset,
    }
}

impl Client {
    fn now(&self) -> Timestamp {
        self.connector.clock.now()
    }

    pub(super) fn note(&self, event: Event) {
        self.shared.history.record(self.now(), &self.name, event);
    }

    async fn pause(&self, ms_max: u64) {
        let ms = Duration::from_millis(self.chance.below(ms_max));
        self.connector.clock.sleep(ms).await;
    }

    /// A call; `None` when nobody knows what became of it. Then the next one goes over a new connection.
    async fn call<T>(&mut self, call: impl Future<Output = Result<T, Status>>) -> Option<T> {
        self.shared.history.count();
        let clock = Arc::clone(&self.connector.clock);
        match within(clock.as_ref(), PATIENCE, call).await {
            Some(Ok(answer)) => Some(answer),
            Some(Err(_)) => None,
            None => {
                self.channel = channel(&self.connector);
                None
            }
        }
    }

    fn by<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = self.name.parse().unwrap();
        request.metadata_mut().insert("x-mq-client-id", id);
        request
    }

    fn messaging(&self) -> MessagingServiceClient<Channel> {
        MessagingServiceClient::new(self.channel.clone())
    }

    fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }

    /// Makes the topic, however often that takes.
    pub(super) async fn make_topic(&mut self) {
        loop {
            let mut admin = self.admin();
            let request = admin_pb::CreateTopicRequest {
                name: TOPIC.to_owned(),
                queues: 1,
                ..admin_pb::CreateTopicRequest::default()
            };
            // It may be there, from this call or one before.
            self.call(async move { admin.create_topic(request).await })
                .await;
            let mut admin = self.admin();
            let request = admin_pb::DescribeTopicRequest {
                name: TOPIC.to_owned(),
            };
            let found = self.call(async move { admin.describe_topic(request).await });
            if found.await.is_some() {
                return;
            }
            self.pause(200).await;
        }
    }

    /// Sends one message after the other, each until it is answered.
    pub(super) async fn produce(mut self) {
        for number in 0_u64.. {
            let message: Message = Arc::from(format!("{}-{number}", self.name).as_str());
            loop {
                self.note(Event::SendCalled {
                    message: Arc::clone(&message),
                });
                if let Some(offset) = self.send(&message, number).await {
                    let place = place(offset);
                    self.note(Event::Sent { message, place });
                    break;
                }
                self.pause(500).await;
            }
            self.pause(150).await;
        }
    }

    async fn send(&mut self, name: &str, number: u64) -> Option<u64> {
        let numbered = [
            (PRODUCER_ID.to_owned(), self.name.to_string()),
            (PRODUCER_SEQUENCE.to_owned(), number.to_string()),
        ];
        let message = pb::Message {
            topic: resource(TOPIC),
            body: body(name).into(),
            user_properties: numbered.into(),
            system_properties: Some(pb::SystemProperties {
                message_id: name.to_owned(),
                ..pb::SystemProperties::default()
            }),
        };
        let messages = vec![message];
        let request = self.by(pb::SendMessageRequest { messages });
        let mut messaging = self.messaging();
        let sent = self.call(async move { messaging.send_message(request).await });
        let answer = sent.await?.into_inner();
        let entry = answer.entries.first()?;
        let code = entry.status.as_ref().map_or(0, |status| status.code);
        if says_nothing_was_done(code) {
            let message = Arc::from(name);
            self.note(Event::Refused { message });
        }
        let is_ok = code == i32::from(pb::Code::Ok);
        is_ok.then(|| u64::try_from(entry.offset).unwrap())
    }

    /// Receives and acknowledges.
    pub(super) async fn consume(mut self) {
        loop {
            let invisible_ms = INVISIBLE_MS.0 + self.chance.below(INVISIBLE_MS.1 - INVISIBLE_MS.0);
            if let Some(messages) = self.receive(invisible_ms).await {
                // Some are forgotten, and come again.
                if self.chance.percent(90) {
                    self.acknowledge(&messages).await;
                }
            }
            self.pause(300).await;
        }
    }

    /// What came, if the answer was heard to its end.
    async fn receive(&mut self, invisible_ms: u64) -> Option<Vec<pb::Message>> {
        let call = self.shared.calls.fetch_add(1, Ordering::Relaxed);
        self.note(Event::ReceiveCalled {
            call,
            group: GROUP,
            invisible_ms: i64::try_from(invisible_ms).unwrap(),
        });
        let request = self.by(pb::ReceiveMessageRequest {
            group: resource(GROUP),
            message_queue: Some(pb::MessageQueue {
                topic: resource(TOPIC),
                ..pb::MessageQueue::default()
            }),
            filter_expression: Some(pb::FilterExpression {
                r#type: pb::FilterType::Tag.into(),
                expression: "*".to_owned(),
            }),
            batch_size: 1 + i32::try_from(self.chance.below(8)).unwrap(),
            invisible_duration: Some(on_the_wire(Duration::from_millis(invisible_ms))),
            long_polling_timeout: Some(on_the_wire(POLL)),
            ..pb::ReceiveMessageRequest::default()
        });
        let mut messaging = self.messaging();
        let received = self.call(async move {
            let mut frames = messaging.receive_message(request).await?.into_inner();
            let mut messages = Vec::new();
            while let Some(frame) = frames.message().await? {
                if let Some(Content::Message(message)) = frame.content {
                    messages.push(message);
                }
            }
            Ok(messages)
        });
        let Some(messages) = received.await else {
            self.note(Event::ReceiveLost { call });
            return None;
        };
        for one in &messages {
            let system = one.system_properties.clone().unwrap_or_default();
            let message: Message = Arc::from(system.message_id.as_str());
            if one.body != body(&message) {
                self.note(Event::Broken(format!("{message} came with another body")));
            }
            self.note(Event::Received {
                call,
                place: place(u64::try_from(system.queue_offset()).unwrap()),
                message,
                attempt: u32::try_from(system.delivery_attempt()).unwrap(),
            });
        }
        self.note(Event::ReceiveAnswered {
            call,
            nothing_of: None,
        });
        Some(messages)
    }

    async fn acknowledge(&mut self, messages: &[pb::Message]) {
        let mut entries = Vec::new();
        for one in messages {
            let system = one.system_properties.clone().unwrap_or_default();
            let place = place(u64::try_from(system.queue_offset()).unwrap());
            self.note(Event::AckCalled {
                group: GROUP,
                place,
            });
            let entry = pb::AckMessageEntry {
                receipt_handle: system.receipt_handle().to_owned(),
                message_id: system.message_id,
                ..pb::AckMessageEntry::default()
            };
            entries.push((place, entry));
        }
        if entries.is_empty() {
            return;
        }
        let request = self.by(pb::AckMessageRequest {
            group: resource(GROUP),
            topic: resource(TOPIC),
            entries: entries.iter().map(|(_, entry)| entry.clone()).collect(),
        });
        let mut messaging = self.messaging();
        let acked = self.call(async move { messaging.ack_message(request).await });
        let Some(answer) = acked.await else {
            return;
        };
        for result in answer.into_inner().entries {
            let code = result.status.map_or(0, |status| status.code);
            let of_entry = |(_, entry): &&(Place, pb::AckMessageEntry)| {
                entry.receipt_handle == result.receipt_handle
            };
            let Some(&(place, _)) = entries.iter().find(of_entry) else {
                continue;
            };
            let group = GROUP;
            if code == i32::from(pb::Code::Ok) {
                let stale = false;
                self.note(Event::Acked {
                    group,
                    place,
                    stale,
                });
            } else if says_nothing_was_done(code) {
                self.note(Event::AckRefused { group, place });
            }
        }
    }

    /// Receives and acknowledges until nothing came for longer than any message may stay invisible.
    pub(super) async fn drain(&mut self) {
        let mut quiet_since = self.now();
        while self.now().since(quiet_since) < Duration::from_millis(3 * INVISIBLE_MS.1) {
            match self.receive(INVISIBLE_MS.1).await {
                Some(messages) if messages.is_empty() => {}
                Some(messages) => {
                    self.acknowledge(&messages).await;
                    quiet_since = self.now();
                }
                None => return self.note(Event::Broken("a calm network loses a call".to_owned())),
            }
        }
    }

    /// Reads everything as it is stored.
    pub(super) async fn read(&mut self) {
        let mut from = 0;
        loop {
            let mut admin = self.admin();
            let request = admin_pb::ReadRequest {
                topic: TOPIC.to_owned(),
                from,
                limit: 100,
                ..admin_pb::ReadRequest::default()
            };
            let read = self.call(async move { admin.read_topic(request).await });
            let Some(answer) = read.await else {
                return self.note(Event::Broken("a calm network loses a read".to_owned()));
            };
            let answer = answer.into_inner();
            if answer.messages.is_empty() {
                return;
            }
            for one in answer.messages {
                let stored = one.stored_at.map(timestamp);
                if stored.is_none_or(|at| at > self.now()) {
                    self.note(Event::Broken(format!(
                        "{} is of the future",
                        one.message_id
                    )));
                }
                let message: Message = Arc::from(one.message_id.as_str());
                let place = place(one.offset);
                self.note(Event::Read { place, message });
            }
            from = answer.next;
        }
    }
}
