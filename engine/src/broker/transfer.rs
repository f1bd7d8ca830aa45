//! Dead letters, and the way back.
//!
//! A message that was delivered too often, or that its consumer gave up, leaves its group by an intent
//! in its own shard ([`Transfer`]) and arrives in the group's dead letter topic by an effect in that
//! topic's shard, keyed by the intent. The other way, a redrive, leaves the dead letters by an intent
//! and is an effect where the message lies still: it is delivered to that group once more, in place, and
//! to no other. Whoever finds an intent may carry it out (`carry.rs`); doing it twice adds nothing.
//!
//! A group's dead letters are the messages of `%DLQ%group` that the group itself is not done with. The
//! topic is an ordinary one: any group may read it.

use std::collections::BTreeSet;

use millpond_proto::limits;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::{Envelope, Property, PropertyValue};
use millpond_storage::log::ReadLimit;

use crate::broker::consume::origin;
use crate::broker::incarnation::Incarnation;
use crate::broker::lite::topics::find;
use crate::broker::lite::{ORDER, is_lite, real};
use crate::broker::record::{Fact, GroupRecord, TopicKind, TopicRecord, Transfer};
use crate::broker::request::{
    Bury, Handle, Outstanding, Place, Reason, Reopen, Reply, Request, Reset, Settle,
};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError, NewTopic, ReceiptHandle, TopicType};

/// Bytes of bodies in one effect.
const EFFECT_BYTES: usize = 4 * 1024 * 1024;
const PREFIX: &str = "%DLQ%";

/// Properties of a dead letter that say where it came from; the first two are RocketMQ's.
pub mod property {
    /// Topic that it was delivered from.
    pub const TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    /// Its message id there.
    pub const MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    /// That topic's id.
    pub const TOPIC_ID: &str = "DLQ_ORIGIN_TOPIC_ID";
    /// Its queue there.
    pub const QUEUE: &str = "DLQ_ORIGIN_QUEUE";
    /// Its offset there.
    pub const OFFSET: &str = "DLQ_ORIGIN_OFFSET";
    /// How often it was delivered.
    pub const ATTEMPTS: &str = "DLQ_ATTEMPTS";
    /// Its lite topic there.
    pub const LITE_TOPIC: &str = "DLQ_ORIGIN_LITE_TOPIC";
    /// "attempts" when they were used up, "request" when its consumer gave it up.
    pub const REASON: &str = "DLQ_REASON";
    /// All of them.
    pub const ALL: [&str; 8] = [
        TOPIC, MESSAGE_ID, TOPIC_ID, QUEUE, OFFSET, ATTEMPTS, LITE_TOPIC, REASON,
    ];
}

/// Name of a group's dead letter topic.
#[must_use]
pub fn dead_letter_topic(group: &str) -> String {
    format!("{PREFIX}{group}")
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The dead letter.
    pub letter: Envelope,
    /// Why it is still there; none: done.
    pub failed: Option<String>,
}

/// Which dead letters are meant, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Message ids; empty: all.
    pub message_ids: BTreeSet<String>,
    /// Queue and offset in the dead letter topic to go on from.
    pub from: (u32, u64),
    /// Most letters looked at.
    pub limit: usize,
}

/// Some dead letters, and where to go on; none: that was all.
#[derive(Clone, Debug, PartialEq)]
pub struct Letters<T> {
    /// In order of the dead letter topic.
    pub letters: Vec<T>,
    /// Where to go on.
    pub next: Option<(u32, u64)>,
}

impl Broker {
    /// Sends a delivered message to the group's dead letters; `Ok` is durable. Asking again is `Ok`.
    ///
    /// # Errors
    /// [`BrokerError::InvalidHandle`] when the delivery is over.
    pub async fn forward_to_dead_letters(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: ReceiptHandle,
    ) -> Result<(), BrokerError> {
        let topic = self.topic_record(topic)?;
        let group = self.group_record(group)?;
        if handle.topic != topic.id {
            return Err(BrokerError::InvalidHandle {
                why: "it belongs to another topic, or to one that was deleted",
            });
        }
        let incarnation = self.incarnation()?;
        let shard = incarnation.shard(topic.id, handle.queue);
        let bury = Bury {
            group: group.id,
            topic: topic.id,
            handle: Handle {
                queue: handle.queue,
                offset: handle.offset,
                lease: handle.lease,
            },
        };
        accepted(incarnation.ask(shard, Request::Bury(bury)).await?)?;
        // The intent is durable: what goes wrong from here on is done again.
        let carried = self.carry_out(&incarnation, shard).await;
        if let Err(error) = carried.and_then(|carried| carried.of_group(group.id)) {
            tracing::warn!(%error, "a dead letter waits for the next turn");
        }
        Ok(())
    }

    /// A group's dead letters.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such group or a letter can not be read.
    ///
    /// # Panics
    /// Never: the limit is bounded.
    pub async fn dead_letters(
        &self,
        group: &GroupName,
        selection: &Selection,
    ) -> Result<Letters<Envelope>, BrokerError> {
        let group = self.group_record(group)?;
        let incarnation = self.incarnation()?;
        let catalog = incarnation.catalog();
        let Some(topic) = catalog.topic(&dead_letter_topic(&group.name)) else {
            return Ok(Letters::default());
        };
        let limit = selection.limit.clamp(1, limits::READ_MESSAGES_MAX);
        let mut letters = Vec::new();
        let (mut queue, mut from) = selection.from;
        while queue < topic.queues && letters.len() < limit {
            let kept = incarnation
                .storage()
                .extent(TopicId(topic.id), QueueId(queue))
                .unwrap_or_default();
            from = from.max(kept.first.0);
            let asked = Outstanding {
                group: group.id,
                topic: topic.id,
                queue,
                from,
                limit: u32::try_from(limit - letters.len()).expect("bounded above"),
            };
            let shard = incarnation.shard(topic.id, queue);
            let Reply::Stored(found) =
                accepted(incarnation.ask(shard, Request::Outstanding(asked)).await?)?
            else {
                return Err(BrokerError::Confused("dead letters"));
            };
            let full = letters.len() + found.offsets.len() >= limit;
            for offset in &found.offsets {
                if let Some(letter) = read_one(&incarnation, topic.id, queue, *offset).await? {
                    letters.push(letter);
                }
            }
            match found.offsets.last() {
                Some(last) if full => from = last + 1,
                _ => (queue, from) = (queue + 1, 0),
            }
            if full {
                break;
            }
        }
        let wanted = &selection.message_ids;
        letters.retain(|one: &Envelope| wanted.is_empty() || wanted.contains(&one.message_id));
        Ok(Letters {
            letters,
            next: (queue < topic.queues).then_some((queue, from)),
        })
    }

    /// Delivers dead letters to their group once more, where they lie.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such group or the log failed; the outcome of each letter is in
    /// the answer.
    pub async fn redrive(
        &self,
        group: &GroupName,
        selection: &Selection,
    ) -> Result<Letters<Outcome>, BrokerError> {
        self.settle(group, selection, true).await
    }

    /// Is done with dead letters; they stay in the dead letter topic for as long as that keeps them.
    ///
    /// # Errors
    /// As [`Broker::redrive`].
    pub async fn purge(
        &self,
        group: &GroupName,
        selection: &Selection,
    ) -> Result<Letters<Outcome>, BrokerError> {
        self.settle(group, selection, false).await
    }

    async fn settle(
        &self,
        group: &GroupName,
        selection: &Selection,
        redrive: bool,
    ) -> Result<Letters<Outcome>, BrokerError> {
        let Letters { letters, next } = self.dead_letters(group, selection).await?;
        let group = self.group_record(group)?;
        let incarnation = self.incarnation()?;
        let mut outcomes = Vec::with_capacity(letters.len());
        for run in letters.chunk_by(|a, b| (a.topic, a.queue) == (b.topic, b.queue)) {
            let Some(first) = run.first() else { continue };
            let settle = Settle {
                group: group.id,
                topic: first.topic,
                queue: first.queue,
                offsets: run.iter().map(|letter| letter.offset).collect(),
                redrive,
            };
            let shard = incarnation.shard(first.topic, first.queue);
            accepted(incarnation.ask(shard, Request::Settle(settle)).await?)?;
            let failed = if redrive {
                let carried = self.carry_out(&incarnation, shard).await?;
                // What keeps other groups' letters from leaving is none of this one's business.
                carried.of_group(group.id)?
            } else {
                Vec::new()
            };
            outcomes.extend(run.iter().map(|letter| {
                let place = (letter.topic, letter.queue, letter.offset);
                let why = failed.iter().find(|(at, _)| *at == place);
                Outcome {
                    letter: letter.clone(),
                    failed: why.map(|(_, why)| why.clone()),
                }
            }));
        }
        Ok(Letters {
            letters: outcomes,
            next,
        })
    }

    /// Copies messages to their group's dead letter topic.
    pub(super) async fn bury(
        &self,
        incarnation: &Incarnation,
        shard: ShardId,
        run: &[Transfer],
    ) -> Result<(), BrokerError> {
        let catalog = incarnation.catalog();
        let Some(group) = run.first().map(|one| one.group) else {
            return Ok(());
        };
        let Some(record) = catalog.groups().find(|known| known.id == group) else {
            return Ok(()); // The group was deleted meanwhile.
        };
        let target = self.dead_letters_of(&GroupName::new(&record.name)?).await?;
        // Always the same one: what is done is told by the last number in its shard, whatever queues are added.
        let queue = 0;
        let mut place = Place {
            origin: origin(group, shard),
            topic: target.id,
            ..Place::default()
        };
        let mut bytes = 0;
        for one in run {
            let Some(topic) = catalog.topic_by_id(one.topic) else {
                continue; // The topic was deleted meanwhile, and its messages with it.
            };
            let Some(message) = read_one(incarnation, one.topic, one.queue, one.offset).await?
            else {
                continue;
            };
            bytes += message.body.as_ref().map_or(0, bytes::Bytes::len);
            place.sequences.push(one.sequence);
            place
                .messages
                .push(letter(message, topic, one, target.id, queue));
            if bytes >= EFFECT_BYTES {
                let full = Place {
                    sequences: std::mem::take(&mut place.sequences),
                    messages: std::mem::take(&mut place.messages),
                    ..place.clone()
                };
                place_letters(incarnation, queue, full).await?;
                bytes = 0;
            }
        }
        place_letters(incarnation, queue, place).await
    }

    /// Delivers dead letters once more where they came from; answers those for which that place is gone.
    pub(super) async fn reopen(
        &self,
        incarnation: &Incarnation,
        shard: ShardId,
        run: &[Transfer],
    ) -> Result<Vec<(Transfer, String)>, BrokerError> {
        let mut back = Vec::new();
        let known = incarnation.catalog();
        let group = run.first().map_or(0, |one| one.group);
        let group = known.groups().find(|known| known.id == group);
        for one in run {
            let letter = read_one(incarnation, one.topic, one.queue, one.offset).await?;
            let from = match letter.as_ref().map(Origin::of) {
                Some(Some(from)) => from,
                Some(None) => {
                    let why = "it does not say where it came from; send its body again yourself";
                    back.push((one.clone(), why.to_owned()));
                    continue;
                }
                None => {
                    back.push((one.clone(), "it can not be read".to_owned()));
                    continue;
                }
            };
            let catalog = incarnation.catalog();
            let Some(topic) = catalog.topic_by_id(from.topic) else {
                let why = "the topic that it came from was deleted; send its body again yourself";
                back.push((one.clone(), why.to_owned()));
                continue;
            };
            let there = read_one(incarnation, from.topic, from.queue, from.offset).await?;
            let Some(message) = there else {
                let why = format!(
                    "topic {:?} no longer keeps it; send its body again yourself",
                    topic.name
                );
                back.push((one.clone(), why));
                continue;
            };
            let mut queue = from.queue;
            if let Some(name) = letter
                .as_ref()
                .and_then(|letter| text(letter, property::LITE_TOPIC))
            {
                let Some(found) = find(incarnation, topic, name).await? else {
                    let why = format!("lite topic {name:?} ended; send its body again yourself");
                    back.push((one.clone(), why));
                    continue;
                };
                queue = found.queue;
            }
            if let Some(group) = group.filter(|_| !is_lite(queue)) {
                meet(incarnation, group, from.topic, queue).await?;
            }
            let target = incarnation.shard(from.topic, queue);
            let reopen = Reopen {
                origin: origin(one.group, shard),
                sequence: one.sequence,
                group: one.group,
                topic: from.topic,
                queue,
                fact: if is_lite(queue) {
                    Fact {
                        offset: from.offset,
                        message_group: ORDER,
                        priority: 0,
                    }
                } else {
                    fact_of(&message, topic)
                },
            };
            let reply = incarnation.ask(target, Request::Reopen(reopen)).await?;
            if let Reply::Refused(refused) = &reply
                && refused.reason() == Reason::LiteTopicGone
            {
                let why = "its lite topic ended; send its body again yourself";
                back.push((one.clone(), why.to_owned()));
                continue;
            }
            accepted(reply)?;
        }
        Ok(back)
    }

    /// Makes the topic if it is that of the dead letters of a group that is there.
    ///
    /// # Errors
    /// [`BrokerError`] when it is and can not be made.
    pub async fn make_dead_letters(&self, topic: &TopicName) -> Result<(), BrokerError> {
        let group = topic.as_str().strip_prefix(PREFIX);
        let Some(group) = group.and_then(|group| GroupName::new(group).ok()) else {
            return Ok(());
        };
        match self.group_record(&group) {
            Ok(_) => self.dead_letters_of(&group).await.map(drop),
            Err(BrokerError::GroupNotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A group's dead letter topic, made on first use.
    async fn dead_letters_of(
        &self,
        group: &GroupName,
    ) -> Result<std::sync::Arc<TopicRecord>, BrokerError> {
        let name = TopicName::new(&dead_letter_topic(group.as_str()))?;
        match self.topic_record(&name) {
            Err(BrokerError::TopicNotFound { .. }) => {}
            found => return found,
        }
        let topic = NewTopic {
            name: name.clone(),
            kind: TopicType::Normal,
            queues: Some(1),
            columns: Vec::new(),
            watermark: None,
            primary_key: Vec::new(),
            written_by: None,
        };
        match self.create_topic(topic).await {
            Ok(_) | Err(BrokerError::Exists { .. }) => self.topic_record(&name),
            Err(error) => Err(error),
        }
    }
}

/// Lets a group begin in a queue as its first poll there would, if it has not been there: a message that is delivered
/// once more must not bring it all that was stored before its start.
async fn meet(
    incarnation: &Incarnation,
    group: &GroupRecord,
    topic: u64,
    queue: u32,
) -> Result<(), BrokerError> {
    let next = match (group.from_latest, group.start_at_ms) {
        (true, _) => {
            let extent = incarnation.storage().extent(TopicId(topic), QueueId(queue));
            extent.unwrap_or_default().next
        }
        (false, Some(at)) => incarnation.first_at(topic, queue, Timestamp(at)).await?,
        (false, None) => return Ok(()),
    };
    let reset = Reset {
        group: group.id,
        topic,
        queue,
        next: next.0,
        only_new: true,
    };
    let shard = incarnation.shard(topic, queue);
    accepted(incarnation.ask(shard, Request::Reset(reset)).await?)?;
    Ok(())
}

/// Where a dead letter came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    topic: u64,
    queue: u32,
    offset: u64,
}

impl Origin {
    fn of(letter: &Envelope) -> Option<Self> {
        Some(Self {
            topic: text(letter, property::TOPIC_ID)?.parse().ok()?,
            queue: text(letter, property::QUEUE)?.parse().ok()?,
            offset: text(letter, property::OFFSET)?.parse().ok()?,
        })
    }
}

/// The last value of a property: ours stand behind the producer's.
#[must_use]
pub fn text<'a>(envelope: &'a Envelope, key: &str) -> Option<&'a str> {
    let mut properties = envelope.properties.iter().rev();
    match &properties.find(|property| property.key == key)?.value {
        Some(PropertyValue::Text(text)) => Some(text),
        Some(PropertyValue::Binary(_)) | None => None,
    }
}

/// The dead letter of a message.
fn letter(
    mut message: Envelope,
    from: &TopicRecord,
    transfer: &Transfer,
    topic: u64,
    queue: u32,
) -> Envelope {
    let reason = if transfer.requested {
        "request"
    } else {
        "attempts"
    };
    let ours = [
        (property::TOPIC, from.name.clone()),
        (property::MESSAGE_ID, message.message_id.clone()),
        (property::TOPIC_ID, from.id.to_string()),
        (property::QUEUE, message.queue.to_string()),
        (property::OFFSET, message.offset.to_string()),
        (property::ATTEMPTS, transfer.attempts.to_string()),
        (property::REASON, reason.to_owned()),
    ];
    let lite = message.lite_topic.take();
    let lite = lite.map(|name| (property::LITE_TOPIC, name));
    // A dead letter that dies again says where it died last.
    message
        .properties
        .retain(|property| !property::ALL.contains(&property.key.as_str()));
    let ours = ours.into_iter().chain(lite);
    message.properties.extend(ours.map(|(key, value)| Property {
        key: key.to_owned(),
        value: Some(PropertyValue::Text(value)),
    }));
    message.topic = topic;
    message.queue = queue;
    // It is not its producer that stores it here.
    (message.producer_id, message.producer_sequence) = (None, None);
    message
}

pub(super) fn fact_of(message: &Envelope, topic: &TopicRecord) -> Fact {
    let group = message.message_group.as_ref();
    let group = group.filter(|_| topic.kind() == TopicKind::Fifo);
    let priority = message
        .priority
        .filter(|_| topic.kind() == TopicKind::Priority);
    Fact {
        offset: message.offset,
        message_group: group.map_or(0, |g| {
            millpond_proto::message::stable_hash(g.as_bytes()).max(1)
        }),
        priority: priority.unwrap_or(0),
    }
}

/// One message; none when it is damaged or no longer kept.
async fn read_one(
    incarnation: &Incarnation,
    topic: u64,
    queue: u32,
    offset: u64,
) -> Result<Option<Envelope>, BrokerError> {
    let limit = ReadLimit {
        messages: 1,
        bytes: limits::RECEIVE_BYTES_MAX,
    };
    let storage = incarnation.storage();
    match storage
        .read(TopicId(topic), QueueId(real(queue)), Offset(offset), limit)
        .await
    {
        Ok(read) => Ok(read.into_iter().find(|message| message.offset == offset)),
        Err(error @ (ReadError::Damaged { .. } | ReadError::Trimmed { .. })) => {
            tracing::error!(%error, "a message on its way to or from the dead letters is gone");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

async fn place_letters(
    incarnation: &Incarnation,
    queue: u32,
    place: Place,
) -> Result<(), BrokerError> {
    if place.messages.is_empty() {
        return Ok(());
    }
    let target = incarnation.shard(place.topic, queue);
    accepted(incarnation.ask(target, Request::Place(place)).await?)?;
    Ok(())
}

impl<T> Default for Letters<T> {
    fn default() -> Self {
        Self {
            letters: Vec::new(),
            next: None,
        }
    }
}
