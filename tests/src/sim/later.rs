//! Clients of delayed and of transactional messages, and one who reads what came.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use millpond_engine::broker::delay::Delayed;
use millpond_engine::broker::half::TransactionId;
use millpond_engine::broker::{BrokerError, NewTopic, TopicType};
use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId};
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;

use crate::history::{Event, Place};
use crate::later::Step;
use crate::sim::client::{Client, topic_name as topic};

const DELAYED: &str = "delayed";
const TRANSACTIONS: &str = "transactions";
const QUEUES: u32 = 2;
/// Most messages are due within this time; some are in another hour.
const SOON_MS: u64 = 20_000;
const LATE_MS: u64 = 75 * 60 * 1000;
/// How often a message is sent that is not answered.
const SENDS_MAX: usize = 4;
/// How often everything is looked at until it is over: 75 minutes, and longer when the clock was set back.
const LAST_TURNS: usize = 600;
const LAST_PAUSE_MS: u64 = 31_000;

fn message(name: &str, due_ms: Option<i64>) -> Envelope {
    Envelope {
        message_id: name.to_owned(),
        due_at_ms: due_ms,
        body: Some(Bytes::from(vec![b'x'; 300])),
        ..Envelope::default()
    }
}

impl Client {
    /// Makes the topics, as far as they are not there.
    pub(super) async fn make_later(&self) -> Result<(), String> {
        let kinds = [
            (DELAYED, TopicType::Delay),
            (TRANSACTIONS, TopicType::Transaction),
        ];
        for (name, kind) in kinds {
            let new = NewTopic {
                name: topic(name),
                kind,
                queues: Some(QUEUES),
                columns: Vec::new(),
                watermark: None,
                primary_key: Vec::new(),
                written_by: None,
            };
            match self.broker.create_topic(new).await {
                Ok(_) | Err(BrokerError::Exists { .. }) => {}
                Err(error) => return Err(format!("topic {name} could not be made: {error:?}")),
            }
        }
        Ok(())
    }

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
            let due_ms = self.now().as_ms() + i64::try_from(ahead).unwrap();
            let last = &self.world.shared.last_due_ms;
            last.fetch_max(due_ms, Ordering::Relaxed);
            self.later(Step::DelayCalled {
                name: name.clone(),
                due_ms,
            });
            let topic = topic(DELAYED);
            let message = self.numbered(sequence, message(&name, Some(due_ms)));
            let Some(sent) = self.delay(&message).await else {
                continue;
            };
            let handle = match sent {
                Delayed::Sent(_) => {
                    self.later(Step::Delayed(name));
                    continue;
                }
                Delayed::Waits(handle) => handle,
            };
            if self.chance.percent(10)
                && let Some(again) = self.delay(&message).await
                && again != sent
            {
                self.broken(format!("{name} was answered {sent:?}, and again {again:?}"));
            }
            self.later(Step::Delayed(name.clone()));
            while self.chance.percent(30) {
                self.pause(SOON_MS / 2).await;
                self.later(Step::RecallCalled(name.clone()));
                match self.call(self.broker.recall(&topic, handle)).await {
                    None => {}
                    Some(Ok(id)) if id == name => self.later(Step::Recalled(name.clone())),
                    Some(Ok(id)) => {
                        self.broken(format!("the recall of {name} was answered with {id}"));
                    }
                    Some(Err(BrokerError::TooLateToRecall)) => {
                        self.later(Step::TooLate(name.clone()));
                    }
                    Some(Err(error)) => self.note(Event::Note(format!("recall {name}: {error}"))),
                }
            }
        }
    }

    /// A message under this client's number: sent again it is the same one.
    fn numbered(&self, sequence: u64, message: Envelope) -> Envelope {
        Envelope {
            producer_id: Some(self.name.to_string()),
            producer_sequence: Some(sequence),
            ..message
        }
    }

    /// Sends a delayed message until it is answered, or too often.
    async fn delay(&self, message: &Envelope) -> Option<Delayed> {
        let topic = topic(DELAYED);
        let mut refused = true;
        for _ in 0..SENDS_MAX {
            let sent = self.broker.send_delayed(&topic, vec![message.clone()]);
            match self.call(sent).await {
                Some(Ok(sent)) if matches!(sent[..], [Ok(_)]) => {
                    return sent.into_iter().next().and_then(Result::ok);
                }
                other => {
                    let name = &message.message_id;
                    self.note(Event::Note(format!("delay {name}: {other:?}")));
                    let error = match &other {
                        Some(Err(error)) => Some(error),
                        Some(Ok(answers)) => answers.iter().find_map(|one| one.as_ref().err()),
                        None => None,
                    };
                    refused &= error.is_some_and(BrokerError::says_nothing_was_done);
                }
            }
            self.pause(500).await;
        }
        if refused {
            self.later(Step::Refused(message.message_id.clone()));
        }
        None
    }

    /// Sends a half message until it is answered, or too often.
    async fn prepare(&self, message: &Envelope) -> Option<TransactionId> {
        let topic = topic(TRANSACTIONS);
        let mut refused = true;
        for _ in 0..SENDS_MAX {
            let half = vec![(message.clone(), limits::TRANSACTION_CHECK_FIRST_MS)];
            match self.call(self.broker.send_half(&topic, half)).await {
                Some(Ok(sent)) if matches!(sent[..], [Ok(_)]) => {
                    return sent.into_iter().next().and_then(Result::ok);
                }
                other => {
                    let name = &message.message_id;
                    self.note(Event::Note(format!("half {name}: {other:?}")));
                    let error = match &other {
                        Some(Err(error)) => Some(error),
                        Some(Ok(answers)) => answers.iter().find_map(|one| one.as_ref().err()),
                        None => None,
                    };
                    refused &= error.is_some_and(BrokerError::says_nothing_was_done);
                }
            }
            self.pause(500).await;
        }
        if refused {
            self.later(Step::Refused(message.message_id.clone()));
        }
        None
    }

    /// Sends half messages and ends most of them, some twice and some both ways.
    pub(super) async fn produce_halves(self) {
        let mut sequence = 0;
        loop {
            self.pause(2000).await;
            sequence += 1;
            let name = format!("{}/{sequence}", self.name);
            let message = self.numbered(sequence, message(&name, None));
            let Some(id) = self.prepare(&message).await else {
                continue;
            };
            self.later(Step::Prepared(name.clone()));
            while self.chance.percent(70) {
                self.pause(1000).await;
                let commit = self.chance.percent(60);
                self.end(id, &name, commit).await;
            }
        }
    }

    async fn end(&self, id: TransactionId, name: &str, commit: bool) {
        let step = |name: &str| Step::EndCalled {
            name: name.to_owned(),
            commit,
        };
        self.later(step(name));
        let topic = topic(TRANSACTIONS);
        let ended = self.broker.end_transaction(&topic, id, Some(name), commit);
        let ended = self.call(ended).await;
        let name = name.to_owned();
        match ended {
            None => {}
            Some(Ok(())) => self.later(Step::Ended { name, commit }),
            Some(Err(BrokerError::TransactionDecided { .. })) => {
                self.later(Step::Decided { name, commit });
            }
            Some(Err(error)) => self.note(Event::Note(format!("end {name}: {error}"))),
        }
    }

    /// Asks about transactions that nobody ends, as the server does; sometimes somebody knows.
    pub(super) async fn ask(self) {
        loop {
            self.pause(2000).await;
            self.ask_once().await;
        }
    }

    async fn ask_once(&self) {
        self.later(Step::ChecksCalled);
        let found = match self.call(self.broker.transactions_to_check()).await {
            None => return,
            Some(Err(error)) => return self.note(Event::Note(format!("checks: {error}"))),
            Some(Ok(found)) => found,
        };
        let mut asked = Vec::new();
        for one in found {
            let Some(message) = one.message else { continue };
            let name = message.message_id;
            self.later(Step::Asked {
                name: name.clone(),
                checks: one.checks,
            });
            asked.push(one.id);
            if self.chance.percent(20) {
                self.end(one.id, &name, self.chance.percent(50)).await;
            }
        }
        if !asked.is_empty() {
            // At times no producer is there.
            let somebody = self.world.is_last || self.chance.percent(90);
            let told = self.broker.transactions_checked(&asked, somebody);
            let told = self.call(told).await;
            self.note(Event::Note(format!("asked: {told:?}")));
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
                    let messages = match self.call(read).await {
                        Some(Ok((messages, end))) if !messages.is_empty() => {
                            *next = end;
                            messages
                        }
                        None | Some(Ok(_)) => break,
                        Some(Err(error)) => {
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
                            place: Place {
                                topic: message.topic,
                                queue: message.queue,
                                offset: message.offset,
                            },
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
        let last = self.world.shared.last_due_ms.load(Ordering::Relaxed);
        for turn in 0.. {
            self.sleep(LAST_PAUSE_MS).await;
            self.ask_once().await;
            let open = match self.broker.transactions(None, None, 1000).await {
                Ok((open, _)) => open
                    .into_iter()
                    .filter(|one| one.next_check.is_some())
                    .count(),
                Err(error) => return self.broken(format!("transactions: {error}")),
            };
            if open == 0 && self.now() > Timestamp(last) {
                break;
            }
            if turn > LAST_TURNS {
                let now = self.now();
                return self.broken(format!("{open} transactions are open at {now}, not {last}"));
            }
        }
        self.sleep(LAST_PAUSE_MS).await;
        self.read_what_came(&mut BTreeMap::new()).await;
        match self.broker.delayed(None, Default::default(), 100).await {
            Ok((waiting, None)) if waiting.is_empty() => {}
            other => self.broken(format!("something waits still: {other:?}")),
        }
    }
}
