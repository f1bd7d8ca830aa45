//! Clients of a topic that is in order, by message groups or by lite topics, whose messages die after a few
//! deliveries.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use millpond_engine::broker::lite::LiteGroup;
use millpond_engine::broker::lite::listeners::Action;
use millpond_engine::broker::lite::topics::Word;
use millpond_engine::broker::poll::Consumer;
use millpond_engine::broker::transfer::Selection;
use millpond_engine::broker::{BrokerError, Delivery, Group, NewTopic, Receive, TopicType};
use millpond_proto::name::{GroupName, TopicName};
use millpond_storage::format::envelope::Envelope;

use crate::history::Event;
use crate::order::{Name, Step};
use crate::sim::INVISIBLE_MS;
use crate::sim::client::{Client, group_name, topic_name};

/// A topic that is in order, and its one group.
pub(super) struct Ordered {
    pub(super) topic: &'static str,
    pub(super) group: &'static str,
    /// Whether each message group is a lite topic.
    pub(super) is_lite: bool,
}

/// Those that a run works with.
pub(super) static ORDERED: [Ordered; 2] = [
    Ordered {
        topic: "ordered",
        group: "workers",
        is_lite: false,
    },
    Ordered {
        topic: "chats",
        group: "readers-of-chats",
        is_lite: true,
    },
];

const QUEUES: u32 = 2;
const ATTEMPTS_MAX: u32 = 4;
/// Lite topics that are listed at once.
const LISTED: usize = 100;
/// Message groups that a producer sends to at once.
const MESSAGE_GROUPS: u64 = 3;

impl Client {
    /// Makes the topics and the groups, as far as they are not there.
    pub(super) async fn make_ordered(&self) -> Result<(), String> {
        for of in &ORDERED {
            let topic = NewTopic {
                name: of.topic(),
                kind: if of.is_lite {
                    TopicType::Lite
                } else {
                    TopicType::Fifo
                },
                queues: Some(QUEUES),
                columns: Vec::new(),
                watermark: None,
                primary_key: Vec::new(),
                written_by: None,
            };
            let group = Group {
                attempts_max: Some(ATTEMPTS_MAX),
                lite: of.is_lite.then(|| LiteGroup {
                    topic: of.topic.to_owned(),
                    exclusive: false,
                }),
                ..Group::new(of.group())
            };
            let made = match self.broker.create_topic(topic).await {
                Ok(_) | Err(BrokerError::Exists { .. }) => {
                    self.broker.create_group(group).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            match made {
                Ok(()) | Err(BrokerError::Exists { .. }) => {}
                Err(error) => return Err(format!("{} could not be made: {error:?}", of.topic)),
            }
        }
        Ok(())
    }

    /// Sends the next message of some message group once the one before was answered. A send without an
    /// answer ends its message group: whether the message exists is unknown.
    pub(super) async fn produce_in_order(self, of: &'static Ordered) {
        let mut groups: Vec<(u64, u32)> = (0..MESSAGE_GROUPS).map(|number| (number, 1)).collect();
        let mut groups_used = MESSAGE_GROUPS;
        loop {
            self.pause(1500).await;
            let index = usize::try_from(self.chance.below(MESSAGE_GROUPS)).unwrap();
            let (number, next) = groups[index];
            let name = (format!("{}.{number}", self.name), next);
            let topic = of.topic();
            let sent = self
                .call(self.broker.send(&topic, vec![of.message(&name)]))
                .await;
            match sent.as_ref().map(|sent| sent.as_deref()) {
                Some(Ok([Ok(_)])) => {
                    self.step(Step::Sent(name));
                    groups[index] = (number, next + 1);
                }
                other => {
                    if let Some(Err(error) | Ok([Err(error)])) = other
                        && error.says_nothing_was_done()
                    {
                        self.step(Step::Refused(name));
                    }
                    groups[index] = (groups_used, 1);
                    groups_used += 1;
                }
            }
        }
    }

    /// Receives, and acknowledges, gives up, puts off or forgets what came.
    pub(super) async fn consume_in_order(self, of: &'static Ordered) {
        loop {
            let limit = usize::try_from(self.chance.below(6)).unwrap() + 1;
            let Some(deliveries) = self.receive_in_order(of, limit, 5000).await else {
                self.pause(1000).await;
                continue;
            };
            for delivery in deliveries {
                self.pause(200).await;
                match self.chance.below(100) {
                    0..60 => self.ack_in_order(of, delivery).await,
                    60..68 => self.forward(of, delivery).await,
                    68..80 => {
                        let invisible = Duration::from_millis(self.chance.below(3000));
                        let (group, topic) = (of.group(), of.topic());
                        let changed = self.broker.change_invisible(
                            &group,
                            &topic,
                            delivery.handle,
                            invisible,
                        );
                        let changed = self.call(changed).await;
                        self.note(Event::Note(format!("put off: {changed:?}")));
                    }
                    // Forgotten: it comes back by itself, and so do those behind it.
                    _ => break,
                }
            }
        }
    }

    /// Receives and acknowledges until nothing came for longer than anything may stay invisible, and
    /// reads the dead letters.
    pub(super) async fn drain_in_order(&self, of: &Ordered) {
        let mut quiet_since = self.now();
        while self.now().since(quiet_since) < Duration::from_millis(8 * INVISIBLE_MS.1) {
            let Some(deliveries) = self.receive_in_order(of, 16, 10_000).await else {
                let what = format!("{} can not receive from a healed broker", of.group);
                return self.broken(what);
            };
            for delivery in deliveries {
                quiet_since = self.now();
                self.ack_in_order(of, delivery).await;
            }
        }
        let mut selection = Selection {
            limit: 100,
            ..Selection::default()
        };
        loop {
            match self.broker.dead_letters(&of.group(), &selection).await {
                Err(error) => return self.broken(format!("dead letters: {error}")),
                Ok(found) => {
                    for letter in &found.letters {
                        self.step(Step::Dead(name_of(letter)));
                    }
                    match found.next {
                        Some(next) => selection.from = next,
                        None => return,
                    }
                }
            }
        }
    }

    fn step(&self, step: Step) {
        self.note(Event::Order(step));
    }

    async fn receive_in_order(
        &self,
        of: &Ordered,
        limit: usize,
        poll_ms: u64,
    ) -> Option<Vec<Delivery>> {
        if of.is_lite {
            self.listen_to_all(of).await?;
        }
        let (least, most) = INVISIBLE_MS;
        let call = self.world.shared.calls.fetch_add(1, Ordering::Relaxed);
        let receive = Receive {
            group: of.group(),
            topic: of.topic(),
            limit,
            invisible: Duration::from_millis(least + self.chance.below(most - least)),
            poll: Duration::from_millis(poll_ms),
        };
        let consumer = Consumer {
            id: self.name.to_string(),
            attempt_id: Some(format!("{}/{call}", self.name)),
            ..Consumer::default()
        };
        let poll = || async {
            let batch = self.broker.receive_as(receive.clone(), &consumer).await;
            batch.map(|batch| batch.take())
        };
        // An answer that is lost and was seen by us alone: who asks again gets the same.
        let lost = if !self.world.is_last && self.chance.percent(3) {
            self.world.history.count();
            poll().await.ok()
        } else {
            None
        };
        self.step(Step::Polled { call });
        let deliveries = match self.call(poll()).await? {
            Ok(deliveries) => deliveries,
            Err(error) => {
                self.note(Event::Note(format!("receive in order: {error}")));
                return None;
            }
        };
        // In any order of the queues, but in order within each message group.
        let names = |these: &[Delivery]| -> Vec<Name> {
            let mut names: Vec<Name> = these.iter().map(|one| name_of(&one.envelope)).collect();
            names.sort_by(|one, other| one.0.cmp(&other.0));
            names
        };
        if let Some(lost) = lost.filter(|lost| !lost.is_empty())
            && names(&lost) != names(&deliveries)
        {
            let (lost, found) = (names(&lost), names(&deliveries));
            self.broken(format!(
                "an attempt got {lost:?}, and asked again {found:?}"
            ));
        }
        for delivery in &deliveries {
            if delivery.attempt > ATTEMPTS_MAX {
                self.broken(format!("attempt {} of {ATTEMPTS_MAX}", delivery.attempt));
            }
            self.step(Step::Came {
                call,
                name: name_of(&delivery.envelope),
                attempt: delivery.attempt,
            });
        }
        Some(deliveries)
    }

    /// Says that this client listens to every lite topic that is there, as consumers do again and again.
    async fn listen_to_all(&self, of: &Ordered) -> Option<()> {
        let (group, topic) = (of.group(), of.topic());
        let mut names = Vec::new();
        let mut from = None;
        loop {
            let listed = self.broker.lite_topics(&topic, from, LISTED);
            match self.call(listed).await? {
                Ok(page) => {
                    names.extend(page.topics.into_iter().map(|one| one.name));
                    match page.next {
                        Some(next) => from = Some(next),
                        None => break,
                    }
                }
                Err(error) => {
                    self.note(Event::Note(format!("lite topics: {error}")));
                    return None;
                }
            }
        }
        let word = Word {
            group: &group,
            topic: &topic,
            consumer: &self.name,
            action: Action::Set,
            names: &names,
            version: None,
            start: None,
        };
        match self.call(self.broker.listen(word)).await? {
            Ok(_) => Some(()),
            Err(error) => {
                self.note(Event::Note(format!("listen: {error}")));
                None
            }
        }
    }

    async fn ack_in_order(&self, of: &Ordered, delivery: Delivery) {
        let name = name_of(&delivery.envelope);
        self.step(Step::GivenBack(name.clone()));
        let handles = vec![delivery.handle];
        let (group, topic) = (of.group(), of.topic());
        let acked = self.call(self.broker.ack(&group, &topic, handles)).await;
        match acked.as_ref().map(|acked| acked.as_deref()) {
            Some(Ok([Ok(())])) => self.step(Step::Acked(name)),
            other => {
                self.note(Event::Note(format!("ack {name:?}: {other:?}")));
                if let Some(Err(error) | Ok([Err(error)])) = other
                    && error.says_nothing_was_done()
                {
                    self.step(Step::StillHeld(name));
                }
            }
        }
    }

    async fn forward(&self, of: &Ordered, delivery: Delivery) {
        let name = name_of(&delivery.envelope);
        self.step(Step::GivenBack(name.clone()));
        let (group, topic) = (of.group(), of.topic());
        let forwarded = self
            .broker
            .forward_to_dead_letters(&group, &topic, delivery.handle);
        match self.call(forwarded).await {
            None => {}
            Some(Ok(())) => self.step(Step::Forwarded(name)),
            Some(Err(error)) => {
                self.note(Event::Note(format!("forward {name:?}: {error}")));
                if error.says_nothing_was_done() {
                    self.step(Step::StillHeld(name));
                }
            }
        }
    }
}

impl Ordered {
    fn topic(&self) -> TopicName {
        topic_name(self.topic)
    }

    fn group(&self) -> GroupName {
        group_name(self.group)
    }

    fn message(&self, name: &Name) -> Envelope {
        let message = Envelope {
            message_id: format!("{}#{}", name.0, name.1),
            body: Some(Bytes::from(name.1.to_string())),
            ..Envelope::default()
        };
        if self.is_lite {
            return Envelope {
                lite_topic: Some(name.0.clone()),
                ..message
            };
        }
        Envelope {
            message_group: Some(name.0.clone()),
            key: Some(Bytes::from(name.0.clone())),
            ..message
        }
    }
}

fn name_of(envelope: &Envelope) -> Name {
    let (group, number) = envelope.message_id.rsplit_once('#').unwrap();
    (group.to_owned(), number.parse().unwrap())
}
