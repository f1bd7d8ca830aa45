//! Clients of an ordered topic, whose messages die after a few deliveries.

use std::sync::atomic::Ordering;

use millpond_engine::broker::transfer::Selection;
use millpond_engine::broker::{Group, NewTopic, TopicType};

use super::{
    Broker, BrokerError, Bytes, Client, Delivery, Duration, Envelope, Event, GroupName,
    INVISIBLE_MS, Receive, TopicName,
};
use crate::order::{Name, Step};

const TOPIC: &str = "ordered";
const GROUP: &str = "workers";
const QUEUES: u32 = 2;
const ATTEMPTS_MAX: u32 = 4;
/// Message groups that a producer sends to at once.
const MESSAGE_GROUPS: u64 = 3;

/// Makes the topic and the group, as far as they are not there.
pub(super) async fn make(broker: &Broker) -> Result<(), String> {
    let topic = NewTopic {
        name: topic(),
        kind: TopicType::Fifo,
        queues: Some(QUEUES),
        columns: Vec::new(),
        watermark: None,
        primary_key: Vec::new(),
        written_by: None,
    };
    let group = Group {
        attempts_max: Some(ATTEMPTS_MAX),
        ..Group::new(group())
    };
    let made = match broker.create_topic(topic).await {
        Ok(_) | Err(BrokerError::Exists { .. }) => broker.create_group(group).await.map(|_| ()),
        Err(error) => Err(error),
    };
    match made {
        Ok(()) | Err(BrokerError::Exists { .. }) => Ok(()),
        Err(error) => Err(format!("the ordered topic could not be made: {error:?}")),
    }
}

impl Client {
    /// Sends the next message of some message group once the one before was answered. A send without an
    /// answer ends its message group: whether the message exists is unknown.
    pub(super) async fn produce_in_order(self) {
        let mut groups: Vec<(u64, u32)> = (0..MESSAGE_GROUPS).map(|number| (number, 1)).collect();
        let mut groups_used = MESSAGE_GROUPS;
        loop {
            self.pause(1500).await;
            let index = usize::try_from(self.chance.below(MESSAGE_GROUPS)).unwrap();
            let (number, next) = groups[index];
            let name = (format!("{}.{number}", self.name), next);
            match self
                .broker
                .send(&topic(), vec![message(&name)])
                .await
                .as_deref()
            {
                Ok([Ok(_)]) => {
                    self.step(Step::Sent(name));
                    groups[index] = (number, next + 1);
                }
                _ => {
                    groups[index] = (groups_used, 1);
                    groups_used += 1;
                }
            }
        }
    }

    /// Receives, and acknowledges, gives up, puts off or forgets what came.
    pub(super) async fn consume_in_order(self) {
        loop {
            let limit = usize::try_from(self.chance.below(6)).unwrap() + 1;
            let Some(deliveries) = self.receive_in_order(limit, 5000).await else {
                self.pause(1000).await;
                continue;
            };
            for delivery in deliveries {
                self.pause(200).await;
                match self.chance.below(100) {
                    0..60 => self.ack_in_order(delivery).await,
                    60..68 => self.forward(delivery).await,
                    68..80 => {
                        let invisible = Duration::from_millis(self.chance.below(3000));
                        let (group, topic) = (group(), topic());
                        let changed = self.broker.change_invisible(
                            &group,
                            &topic,
                            delivery.handle,
                            invisible,
                        );
                        self.note(Event::Note(format!("put off: {}", changed.await.is_ok())));
                    }
                    // Forgotten: it comes back by itself, and so do those behind it.
                    _ => break,
                }
            }
        }
    }

    /// Receives and acknowledges until nothing came for longer than anything may stay invisible, and
    /// reads the dead letters.
    pub(super) async fn drain_in_order(&self) {
        let mut quiet_since = self.clock.now();
        while self.clock.now().since(quiet_since) < Duration::from_millis(2 * INVISIBLE_MS.1) {
            let Some(deliveries) = self.receive_in_order(16, 10_000).await else {
                return self.broken("workers can not receive from a healed broker".to_owned());
            };
            for delivery in deliveries {
                quiet_since = self.clock.now();
                self.ack_in_order(delivery).await;
            }
        }
        let mut selection = Selection {
            limit: 100,
            ..Selection::default()
        };
        loop {
            match self.broker.dead_letters(&group(), &selection).await {
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

    async fn receive_in_order(&self, limit: usize, poll_ms: u64) -> Option<Vec<Delivery>> {
        let (least, most) = INVISIBLE_MS;
        let call = self.world.calls.fetch_add(1, Ordering::Relaxed);
        self.step(Step::Polled { call });
        let receive = Receive {
            group: group(),
            topic: topic(),
            limit,
            invisible: Duration::from_millis(least + self.chance.below(most - least)),
            poll: Duration::from_millis(poll_ms),
        };
        let deliveries = match self.broker.receive(receive).await {
            Ok(deliveries) => deliveries,
            Err(error) => {
                self.note(Event::Note(format!("receive in order: {error}")));
                return None;
            }
        };
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

    async fn ack_in_order(&self, delivery: Delivery) {
        let name = name_of(&delivery.envelope);
        self.step(Step::GivenBack(name.clone()));
        let handles = vec![delivery.handle];
        match self
            .broker
            .ack(&group(), &topic(), handles)
            .await
            .as_deref()
        {
            Ok([Ok(())]) => self.step(Step::Acked(name)),
            other => self.note(Event::Note(format!("ack {name:?}: {other:?}"))),
        }
    }

    async fn forward(&self, delivery: Delivery) {
        let name = name_of(&delivery.envelope);
        self.step(Step::GivenBack(name.clone()));
        let (group, topic) = (group(), topic());
        let forwarded = self
            .broker
            .forward_to_dead_letters(&group, &topic, delivery.handle);
        match forwarded.await {
            Ok(()) => self.step(Step::Forwarded(name)),
            Err(error) => self.note(Event::Note(format!("forward {name:?}: {error}"))),
        }
    }
}

fn topic() -> TopicName {
    TopicName::new(TOPIC).unwrap()
}

fn group() -> GroupName {
    GroupName::new(GROUP).unwrap()
}

fn message(name: &Name) -> Envelope {
    Envelope {
        message_id: format!("{}#{}", name.0, name.1),
        message_group: Some(name.0.clone()),
        key: Some(Bytes::from(name.0.clone())),
        body: Some(Bytes::from(name.1.to_string())),
        ..Envelope::default()
    }
}

fn name_of(envelope: &Envelope) -> Name {
    let (group, number) = envelope.message_id.rsplit_once('#').unwrap();
    (group.to_owned(), number.parse().unwrap())
}
