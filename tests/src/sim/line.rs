//! Topics whose clients are alike: what they are, who reads them, and the clients.
//!
//! What a message is follows from its name alone, so that it can be checked wherever it turns up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use millpond_engine::broker::filter::{Filter, FilterKind};
use millpond_engine::broker::poll::Consumer;
use millpond_engine::broker::{
    BrokerError, Delivery, Group as BrokerGroup, NewRetention, NewTopic, ReceiptHandle, Receive,
    TopicType,
};
use millpond_proto::chance::{Chance as _, Seeded};
use millpond_proto::message::stable_hash;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::{Envelope, Property, PropertyValue};

use crate::history::{Event, Message, Place, Reader};
use crate::sim::INVISIBLE_MS;
use crate::sim::client::{Client, group_name, topic_name};

/// A topic and its clients.
pub(super) struct Line {
    pub(super) topic: &'static str,
    kind: TopicType,
    queues: u32,
    kept_ms: Option<i64>,
    pub(super) producers: u32,
    pub(super) groups: &'static [Group],
}

/// A group of consumers.
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) consumers: u32,
    filter: Option<(FilterKind, &'static str)>,
    /// The same, told from a message's name.
    wants: fn(&str) -> bool,
    attempts_max: Option<u32>,
}

/// Messages in one read.
const READ_AT_ONCE: usize = 500;
const ORDERS: usize = 0;
/// The topic that is deleted and made anew.
pub(super) const REMADE: usize = 4;
/// The group whose messages die.
pub(super) const AUDIT: &str = "audit";
/// The group that is moved about and paused.
pub(super) const WANDERERS: &str = "wanderers";
/// Deliveries before a message of [`AUDIT`] is dead.
pub(super) const ATTEMPTS_MAX: u32 = 3;

const TAGS: [&str; 3] = ["red", "green", "blue"];

const fn reading_all(name: &'static str, consumers: u32) -> Group {
    Group {
        name,
        consumers,
        filter: None,
        wants: |_| true,
        attempts_max: None,
    }
}

/// The topics.
pub(super) static LINES: [Line; 5] = [
    Line {
        topic: "orders",
        kind: TopicType::Normal,
        queues: 3,
        kept_ms: None,
        producers: 2,
        groups: &[
            reading_all("billing", 2),
            Group {
                attempts_max: Some(ATTEMPTS_MAX),
                ..reading_all(AUDIT, 1)
            },
            reading_all(WANDERERS, 1),
            // Comes when all is over, and must still see everything.
            reading_all("late", 0),
        ],
    },
    Line {
        topic: "chosen",
        kind: TopicType::Normal,
        queues: 2,
        kept_ms: None,
        producers: 1,
        groups: &[
            Group {
                filter: Some((FilterKind::Tag, "red || blue")),
                wants: |name| tag_of(name) != "green",
                ..reading_all("colours", 1)
            },
            Group {
                filter: Some((FilterKind::Sql92, "weight > 5 AND shape = 'round'")),
                wants: |name| weight_of(name) > 5 && shape_of(name) == Some("round"),
                ..reading_all("heavy", 1)
            },
        ],
    },
    Line {
        topic: "urgent",
        kind: TopicType::Priority,
        queues: 2,
        kept_ms: None,
        producers: 1,
        groups: &[reading_all("hurried", 1)],
    },
    Line {
        topic: "brief",
        kind: TopicType::Normal,
        queues: 2,
        kept_ms: Some(60_000),
        producers: 1,
        groups: &[reading_all("forgetful", 1)],
    },
    Line {
        topic: "remade",
        kind: TopicType::Normal,
        queues: 2,
        kept_ms: None,
        producers: 1,
        groups: &[reading_all("faithful", 1)],
    },
];

/// The groups that are drained in the end.
pub(super) fn readers() -> Vec<Reader> {
    let readers = LINES.iter().flat_map(|line| {
        line.groups.iter().map(|group| Reader {
            topic: line.topic,
            group: group.name,
            wants: group.wants,
            attempts_max: group.attempts_max,
        })
    });
    readers.collect()
}

/// What the producer that numbers its messages is about: it outlives the server.
#[derive(Debug, Default)]
pub(super) struct Numbered {
    last: u64,
    /// Not answered yet.
    pending: Vec<(Message, Envelope)>,
}

/// A message that a consumer holds.
struct Held {
    delivery: Delivery,
    /// When its invisible time is surely over.
    until: Timestamp,
}

fn number_of(name: &str) -> u64 {
    stable_hash(name.as_bytes())
}

fn tag_of(name: &str) -> &'static str {
    TAGS[usize::try_from(number_of(name) % 3).unwrap()]
}

fn weight_of(name: &str) -> u64 {
    number_of(name) / 3 % 10
}

fn shape_of(name: &str) -> Option<&'static str> {
    [Some("round"), Some("square"), None][usize::try_from(number_of(name) / 30 % 3).unwrap()]
}

/// The message of a name: its body follows from the name, mostly small, at times larger than a segment's
/// share.
fn message(name: &str) -> Envelope {
    let bytes = Seeded::new(number_of(name));
    let length = match bytes.below(100) {
        0..90 => bytes.below(200),
        90..99 => bytes.below(3000),
        _ => bytes.below(60_000),
    };
    let mut body = name.as_bytes().to_vec();
    while (body.len() as u64) < length {
        body.extend_from_slice(&bytes.next_u64().to_le_bytes());
    }
    let property = |key: &str, value: &str| Property {
        key: key.to_owned(),
        value: Some(PropertyValue::Text(value.to_owned())),
    };
    let mut properties = vec![property("weight", &weight_of(name).to_string())];
    properties.extend(shape_of(name).map(|shape| property("shape", shape)));
    let key = bytes.percent(50).then(|| bytes.below(20).to_string());
    Envelope {
        message_id: name.to_owned(),
        tag: Some(tag_of(name).to_owned()),
        key: key.map(Bytes::from),
        priority: Some(i32::try_from(bytes.below(5)).unwrap()),
        properties,
        body: Some(Bytes::from(body)),
        ..Envelope::default()
    }
}

fn place_of(envelope: &Envelope) -> Place {
    Place {
        topic: envelope.topic,
        queue: envelope.queue,
        offset: envelope.offset,
    }
}

fn held_place(handle: &ReceiptHandle) -> Place {
    Place {
        topic: handle.topic,
        queue: handle.queue,
        offset: handle.offset,
    }
}

impl Client {
    /// Makes every topic and group, as far as they are not there.
    pub(super) async fn make(&self) -> Result<(), String> {
        for line in &LINES {
            self.make_topic(line).await?;
            for group in line.groups {
                let settings = BrokerGroup {
                    attempts_max: group.attempts_max,
                    ..BrokerGroup::new(group_name(group.name))
                };
                match self.broker.create_group(settings).await {
                    Ok(_) | Err(BrokerError::Exists { .. }) => {}
                    Err(error) => return Err(format!("no group {}: {error:?}", group.name)),
                }
            }
        }
        self.make_ordered().await?;
        self.make_later().await
    }

    pub(super) async fn make_topic(&self, line: &'static Line) -> Result<(), String> {
        let topic = NewTopic {
            name: topic_name(line.topic),
            kind: line.kind,
            queues: Some(line.queues),
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            written_by: None,
        };
        let made = match self.broker.create_topic(topic).await {
            Ok(_) | Err(BrokerError::Exists { .. }) => {
                let retention = NewRetention {
                    ms: line.kept_ms,
                    ..NewRetention::default()
                };
                self.broker
                    .alter_topic(&topic_name(line.topic), retention.into())
                    .await
            }
            Err(error) => Err(error),
        };
        let made = made.map_err(|error| format!("no topic {}: {error:?}", line.topic))?;
        self.note(Event::TopicIs {
            id: made.id.0,
            name: line.topic,
        });
        Ok(())
    }

    fn id_of(&self, line: &Line) -> Option<u64> {
        let topic = self.broker.topic(&topic_name(line.topic)).ok()?;
        Some(topic.id.0)
    }

    pub(super) async fn produce(self, line: &'static Line) {
        let mut sequence = 0;
        loop {
            self.pause(800).await;
            let mut batch = Vec::new();
            for _ in 0..=self.chance.below(4) {
                sequence += 1;
                let name: Message = Arc::from(format!("{}/{sequence}", self.name));
                let message = message(&name);
                batch.push((name, message));
            }
            self.send(line, &batch).await;
        }
    }

    /// Sends messages that have a number until they are answered, over all lives.
    pub(super) async fn produce_numbered(self) {
        loop {
            self.pause(800).await;
            {
                let mut numbered = self.world.shared.numbered.lock().unwrap();
                if numbered.pending.is_empty() {
                    for _ in 0..=self.chance.below(4) {
                        numbered.last += 1;
                        let name: Message = Arc::from(format!("numbered/{}", numbered.last));
                        let envelope = Envelope {
                            producer_id: Some("numbered".to_owned()),
                            producer_sequence: Some(numbered.last),
                            ..message(&name)
                        };
                        numbered.pending.push((name, envelope));
                    }
                }
            }
            self.send_numbered().await;
        }
    }

    /// Sends what the producer that numbers its messages has not been answered yet.
    pub(super) async fn send_numbered(&self) {
        let pending = self.world.shared.numbered.lock().unwrap().pending.clone();
        let answered = self.send(&LINES[ORDERS], &pending).await;
        let mut numbered = self.world.shared.numbered.lock().unwrap();
        numbered
            .pending
            .retain(|(name, _)| !answered.contains(name));
    }

    /// Sends a batch; the messages that were answered OK.
    async fn send(&self, line: &'static Line, batch: &[(Message, Envelope)]) -> Vec<Message> {
        let Some(id) = self.id_of(line) else {
            return Vec::new();
        };
        let (names, messages): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
        for message in &names {
            self.note(Event::SendCalled {
                message: Arc::clone(message),
            });
        }
        let topic = topic_name(line.topic);
        let answers = match self.call(self.broker.send(&topic, messages)).await {
            None => return Vec::new(),
            Some(Err(error)) => {
                self.note(Event::Note(format!("send: {error}")));
                for message in names.into_iter().filter(|_| error.says_nothing_was_done()) {
                    self.note(Event::Refused { message });
                }
                return Vec::new();
            }
            Some(Ok(answers)) => answers,
        };
        if answers.len() != names.len() {
            self.broken(format!("{} answers for {names:?}", answers.len()));
        }
        // Deleted and made anew meanwhile: nobody knows where they went.
        if self.id_of(line) != Some(id) {
            return Vec::new();
        }
        let mut stored = Vec::new();
        for (message, answer) in names.into_iter().zip(answers) {
            match answer {
                Ok(sent) => {
                    let place = Place {
                        topic: id,
                        queue: sent.queue.0,
                        offset: sent.offset.0,
                    };
                    let mut tails = self.world.shared.tails.lock().unwrap();
                    let tail = tails.entry((id, place.queue)).or_default();
                    *tail = place.offset.max(*tail);
                    stored.push(Arc::clone(&message));
                    self.note(Event::Sent { message, place });
                }
                Err(error) => {
                    self.note(Event::Note(format!("send {message}: {error}")));
                    if error.says_nothing_was_done() {
                        self.note(Event::Refused { message });
                    }
                }
            }
        }
        stored
    }

    pub(super) async fn consume(self, line: &'static Line, group: &'static Group) {
        loop {
            let limit = usize::try_from(self.chance.below(16)).unwrap() + 1;
            let poll_ms = self.chance.below(6000);
            let Some(held) = self.receive(line, group, limit, poll_ms).await else {
                self.pause(1000).await;
                continue;
            };
            // Some hang while they hold messages, and come back when others have them.
            match self.chance.below(50) {
                0 => self.pause(90_000).await,
                _ => self.pause(300).await,
            }
            let mut done = Vec::new();
            for one in held {
                match self.chance.below(100) {
                    0..75 => done.push(one),
                    75..88 => done.extend(self.change(line, group, one).await),
                    // Forgotten: it comes back by itself.
                    _ => {}
                }
            }
            self.ack(line, group, done).await;
        }
    }

    /// Receives and checks what came against all that is known; `None` when nobody knows what did.
    async fn receive(
        &self,
        line: &'static Line,
        group: &'static Group,
        limit: usize,
        poll_ms: u64,
    ) -> Option<Vec<Held>> {
        let (least, most) = INVISIBLE_MS;
        let invisible = Duration::from_millis(least + self.chance.below(most - least));
        let id = self.id_of(line)?;
        let call = self.world.shared.calls.fetch_add(1, Ordering::Relaxed);
        self.note(Event::ReceiveCalled {
            call,
            group: group.name,
            invisible_ms: i64::try_from(invisible.as_millis()).unwrap(),
        });
        let receive = Receive {
            group: group_name(group.name),
            topic: topic_name(line.topic),
            limit,
            invisible,
            poll: Duration::from_millis(poll_ms),
        };
        let consumer = Consumer {
            id: self.name.to_string(),
            filter: group
                .filter
                .map(|(kind, expression)| Arc::new(Filter::parse(kind, expression).unwrap())),
            ..Consumer::default()
        };
        let received = self.broker.receive_as(receive, &consumer);
        let received = async { received.await.map(|batch| batch.take()) };
        let deliveries = match self.call(received).await {
            Some(Ok(deliveries)) => deliveries,
            lost => {
                if let Some(Err(error)) = lost {
                    self.note(Event::Note(format!("receive: {error}")));
                }
                self.note(Event::ReceiveLost { call });
                return None;
            }
        };
        if deliveries.len() > limit {
            self.broken(format!("{} came, asked for {limit}", deliveries.len()));
        }
        for delivery in &deliveries {
            let place = place_of(&delivery.envelope);
            if place != held_place(&delivery.handle) {
                self.broken(format!(
                    "the handle of {place:?} names {:?}",
                    delivery.handle
                ));
            }
            let message = self.known(&delivery.envelope);
            self.note(Event::Received {
                call,
                place,
                message,
                attempt: delivery.attempt,
            });
        }
        let is_plain = line.kind == TopicType::Normal && line.kept_ms.is_none();
        let wants_all = group.filter.is_none() && group.attempts_max.is_none();
        let is_telling = deliveries.is_empty() && is_plain && wants_all;
        let nothing_of = Some(id).filter(|_| is_telling && self.id_of(line) == Some(id));
        self.note(Event::ReceiveAnswered { call, nothing_of });
        let until = self.now() + invisible;
        let held = |delivery| Held { delivery, until };
        Some(deliveries.into_iter().map(held).collect())
    }

    /// Changes the invisible time; what is to be acknowledged with the new handle.
    async fn change(
        &self,
        line: &'static Line,
        group: &'static Group,
        mut held: Held,
    ) -> Option<Held> {
        let place = place_of(&held.delivery.envelope);
        self.note(Event::ChangeCalled {
            group: group.name,
            place,
        });
        let invisible = Duration::from_millis(self.chance.below(5000));
        let (group, topic) = (group_name(group.name), topic_name(line.topic));
        let handle = held.delivery.handle.clone();
        let changed = self
            .broker
            .change_invisible(&group, &topic, handle, invisible);
        match self.call(changed).await? {
            Ok(handle) => {
                held.delivery.handle = handle;
                held.until = self.now() + invisible;
                self.chance.percent(30).then_some(held)
            }
            Err(error) => {
                self.note(Event::Note(format!("change {place:?}: {error}")));
                None
            }
        }
    }

    async fn ack(&self, line: &'static Line, group: &'static Group, held: Vec<Held>) {
        if held.is_empty() {
            return;
        }
        let now = self.now();
        // Of what is no longer kept, or dead, a group is done with: then any ack is right.
        let tells = line.kept_ms.is_none() && group.attempts_max.is_none();
        let acked: Vec<(Place, bool)> = held
            .iter()
            .map(|one| (place_of(&one.delivery.envelope), tells && one.until < now))
            .collect();
        for &(place, _) in &acked {
            self.note(Event::AckCalled {
                group: group.name,
                place,
            });
        }
        let handles = held.into_iter().map(|one| one.delivery.handle).collect();
        let (name, topic) = (group_name(group.name), topic_name(line.topic));
        let refused = |place, error: &BrokerError| {
            if error.says_nothing_was_done() {
                let group = group.name;
                self.note(Event::AckRefused { group, place });
            }
        };
        match self.call(self.broker.ack(&name, &topic, handles)).await {
            None => {}
            Some(Err(error)) => {
                self.note(Event::Note(format!("ack: {error}")));
                for (place, _) in acked {
                    refused(place, &error);
                }
            }
            Some(Ok(answers)) => {
                for ((place, stale), answer) in acked.into_iter().zip(answers) {
                    match answer {
                        Ok(()) => self.note(Event::Acked {
                            group: group.name,
                            place,
                            stale,
                        }),
                        Err(error) => {
                            self.note(Event::Note(format!("ack {place:?}: {error}")));
                            refused(place, &error);
                        }
                    }
                }
            }
        }
    }

    /// Reads all of every topic.
    pub(super) async fn read_lines(&self) {
        for line in &LINES {
            self.read(line, u64::MAX).await;
        }
    }

    /// Reads up to so many messages of each queue of a topic, from somewhere on.
    pub(super) async fn read(&self, line: &'static Line, most: u64) {
        let Ok(topic) = self.broker.topic(&topic_name(line.topic)) else {
            return;
        };
        let tails = self.world.shared.tails.lock().unwrap().clone();
        for (queue, extent) in self.broker.extents(&topic) {
            let id = topic.id.0;
            // A read sees whatever was answered before it.
            if tails
                .get(&(id, queue.0))
                .is_some_and(|tail| *tail >= extent.next.0)
            {
                self.broken(format!(
                    "{queue} of {id} ends at {} for a reader",
                    extent.next
                ));
            }
            if let Some(kept_ms) = line.kept_ms {
                let place = Place {
                    topic: id,
                    queue: queue.0,
                    offset: extent.first.0,
                };
                self.note(Event::Begins { place, kept_ms });
            }
            let count = extent.next.0 - extent.first.0;
            let skipped = match count.saturating_sub(most) {
                0 => 0,
                surplus => self.chance.below(surplus),
            };
            let mut next = millpond_proto::message::Offset(extent.first.0 + skipped);
            let end = extent.next.0.min(next.0.saturating_add(most));
            while next.0 < end {
                let read = self.call(self.broker.read(&topic.name, queue, next, READ_AT_ONCE));
                match read.await {
                    None => return,
                    Some(Ok((envelopes, after))) => {
                        for (envelope, offset) in envelopes.iter().zip(next.0..) {
                            let place = place_of(envelope);
                            let expected = Place {
                                topic: id,
                                queue: queue.0,
                                offset,
                            };
                            if place != expected {
                                self.broken(format!("asked for {expected:?}, got {place:?}"));
                            }
                            let message = self.known(envelope);
                            if self.world.is_last {
                                self.note(Event::Read { place, message });
                            }
                        }
                        if after <= next {
                            return self.broken(format!("{queue} can not be read from {next} on"));
                        }
                        next = after;
                    }
                    Some(Err(error)) => return self.note(Event::Note(format!("read: {error}"))),
                }
            }
        }
    }

    /// Drains every group of every topic; how many messages came.
    pub(super) async fn drain_lines(&self) -> usize {
        let mut count = 0;
        for line in &LINES {
            for group in line.groups {
                count += self.drain(line, group).await;
            }
        }
        count
    }

    /// Receives and acknowledges until nothing came for longer than any message may stay invisible.
    pub(super) async fn drain(&self, line: &'static Line, group: &'static Group) -> usize {
        let mut count = 0;
        let mut quiet_since = self.now();
        // What was held when the clock was set back is held until it says so again.
        let quiet = Duration::from_millis(8 * INVISIBLE_MS.1);
        while self.now().since(quiet_since) < quiet {
            match self.receive(line, group, 32, 60_000).await {
                Some(held) if held.is_empty() => {}
                Some(held) => {
                    count += held.len();
                    self.ack(line, group, held).await;
                    quiet_since = self.now();
                }
                None => {
                    let name = group.name;
                    self.broken(format!("{name} can not receive from a healed broker"));
                    break;
                }
            }
        }
        count
    }

    /// Checks a message against what was sent and what was read before; the answer is its name.
    fn known(&self, envelope: &Envelope) -> Message {
        let mut known = self.world.shared.known.lock().unwrap();
        let first = known.entry(place_of(envelope)).or_insert_with(|| {
            let sent = message(&envelope.message_id);
            let as_sent = Envelope {
                topic: envelope.topic,
                queue: envelope.queue,
                offset: envelope.offset,
                stored_at_ms: envelope.stored_at_ms,
                schema_id: envelope.schema_id,
                flags: envelope.flags,
                producer_id: envelope.producer_id.clone(),
                producer_sequence: envelope.producer_sequence,
                ..sent
            };
            if as_sent != *envelope {
                let name = &envelope.message_id;
                self.broken(format!(
                    "{name} came as {envelope:?}, was sent as {as_sent:?}"
                ));
            }
            envelope.clone()
        });
        if first != envelope {
            let name = &envelope.message_id;
            self.broken(format!("{name} reads differently: {first:?}, {envelope:?}"));
        }
        Arc::from(envelope.message_id.as_str())
    }
}
