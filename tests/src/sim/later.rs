//! Clients of delayed and of transactional messages, and one who reads what came.

use std::collections::BTreeMap;

use millpond_engine::broker::delay::Delayed;
use millpond_engine::broker::{NewTopic, TopicType};
use millpond_proto::limits;
use millpond_proto::time::Timestamp;

use super::{
    Broker, BrokerError, Bytes, Client, Duration, Envelope, Event, Offset, QueueId, TopicName,
};
use crate::later::Step;

const DELAYED: &str = "delayed";
const TRANSACTIONS: &str = "transactions";
const QUEUES: u32 = 2;
/// Most messages are due within this time; some are in another hour.
const SOON_MS: u64 = 20_000;
const LATE_MS: u64 = 75 * 60 * 1000;

/// Makes the topics, as far as they are not there.
pub(super) async fn make(broker: &Broker) -> Result<(), String> {
    let kinds = [
        (DELAYED, TopicType::Delay),
        (TRANSACTIONS, TopicType::Transaction),
    ];
    for (name, kind) in kinds {
        let topic = NewTopic {
            name: topic(name),
            kind,
            queues: Some(QUEUES),
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            written_by: None,
        };
        match broker.create_topic(topic).await {
            Ok(_) | Err(BrokerError::Exists { .. }) => {}
            Err(error) => return Err(format!("topic {name} could not be made: {error:?}")),
        }
    }
    Ok(())
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn message(name: &str, due_ms: Option<i64>) -> Envelope {
    Envelope {
        message_id: name.to_owned(),
        due_at_ms: due_ms,
        body: Some(Bytes::from(vec![b'x'; 300])),
        ..Envelope::default()
    }
}

impl Client {
    fn later(&self, step: Step) {
        self.note(Event::Later(step));
    }

    /// Sends delayed messages, and takes some of them back.
    pub(super) async fn produce_for_later(self) {
        let mut sequence = 0;
        loop {
            self.pause(2000).await;
            sequence += 1;
            let name = format!("{}/{sequence}", self.name);
            let ahead = match self.chance.below(100) {
                0..10 => 0,
                10..90 => self.chance.below(SOON_MS),
                _ => self.chance.below(LATE_MS),
            };
            let due_ms = self.clock.now().as_ms() + i64::try_from(ahead).unwrap();
            self.later(Step::DelayCalled {
                name: name.clone(),
                due_ms,
            });
            let sent = self
                .broker
                .send_delayed(&topic(DELAYED), vec![message(&name, Some(due_ms))])
                .await;
            let handle = match sent.as_deref() {
                Ok([Ok(Delayed::Sent(_))]) => {
                    self.later(Step::Delayed(name));
                    continue;
                }
                Ok([Ok(Delayed::Waits(handle))]) => *handle,
                other => {
                    self.note(Event::Note(format!("delay {name}: {}", other.is_ok())));
                    continue;
                }
            };
            self.later(Step::Delayed(name.clone()));
            while self.chance.percent(30) {
                self.pause(SOON_MS / 2).await;
                self.later(Step::RecallCalled(name.clone()));
                match self.broker.recall(&topic(DELAYED), handle).await {
                    Ok(id) if id == name => self.later(Step::Recalled(name.clone())),
                    Ok(id) => self.broken(format!("the recall of {name} was answered with {id}")),
                    Err(BrokerError::TooLateToRecall) => self.later(Step::TooLate(name.clone())),
                    Err(error) => self.note(Event::Note(format!("recall {name}: {error}"))),
                }
            }
        }
    }

    /// Sends half messages and ends most of them, some twice and some both ways.
    pub(super) async fn produce_halves(self) {
        let mut sequence = 0;
        loop {
            self.pause(2000).await;
            sequence += 1;
            let name = format!("{}/{sequence}", self.name);
            let half = vec![(message(&name, None), limits::TRANSACTION_CHECK_FIRST_MS)];
            let sent = self.broker.send_half(&topic(TRANSACTIONS), half).await;
            let Ok([Ok(id)]) = sent.as_deref() else {
                self.note(Event::Note(format!("half {name}: {}", sent.is_ok())));
                continue;
            };
            self.later(Step::Prepared(name.clone()));
            while self.chance.percent(70) {
                self.pause(1000).await;
                let commit = self.chance.percent(60);
                let end = || Step::EndCalled {
                    name: name.clone(),
                    commit,
                };
                self.later(end());
                let ended = self
                    .broker
                    .end_transaction(&topic(TRANSACTIONS), *id, Some(&name), commit)
                    .await;
                let name = name.clone();
                match ended {
                    Ok(()) => self.later(Step::Ended { name, commit }),
                    Err(BrokerError::TransactionDecided { .. }) => {
                        self.later(Step::Decided { name, commit });
                    }
                    Err(error) => self.note(Event::Note(format!("end {name}: {error}"))),
                }
            }
        }
    }

    /// Reads what has come into both topics, again and again.
    pub(super) async fn watch(self) {
        let mut from = BTreeMap::new();
        loop {
            self.pause(3000).await;
            self.read_what_came(&mut from).await;
        }
    }

    async fn read_what_came(&self, from: &mut BTreeMap<(&'static str, u32), Offset>) {
        for name in [DELAYED, TRANSACTIONS] {
            let topic = topic(name);
            for queue in 0..QUEUES {
                let next = from.entry((name, queue)).or_insert(Offset(0));
                loop {
                    let read = self.broker.read(&topic, QueueId(queue), *next, 100);
                    let messages = match read.await {
                        Ok((messages, end)) if !messages.is_empty() => {
                            *next = end;
                            messages
                        }
                        Ok(_) => break,
                        Err(error) => {
                            self.note(Event::Note(format!("read {name}: {error}")));
                            break;
                        }
                    };
                    for message in messages {
                        if !message.properties.is_empty() {
                            let id = &message.message_id;
                            self.broken(format!("{id} came with what is ours"));
                        }
                        self.later(Step::Came {
                            name: message.message_id,
                            place: (message.queue, message.offset),
                            stored_at_ms: message.stored_at_ms,
                        });
                    }
                }
            }
        }
    }

    /// Waits until everything is due, and reads all that came.
    pub(super) async fn wait_for_all(&self, tier: bool) {
        if tier {
            self.tier().await;
        }
        self.clock.sleep(Duration::from_millis(LATE_MS)).await;
        let deadline: Timestamp = self.clock.now();
        self.read_what_came(&mut BTreeMap::new()).await;
        self.note(Event::Note(format!("all was due by {deadline}")));
        match self.broker.delayed(None, Default::default(), 100).await {
            Ok((waiting, None)) if waiting.is_empty() => {}
            other => self.broken(format!("something waits still: {other:?}")),
        }
    }
}
