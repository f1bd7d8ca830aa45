//! The output of a job as its shards store it: rows become messages, and messages parts of an effect.
//!
//! **Invariant.** An effect that is asked again comes to the same shards in the same parts, whatever happened meanwhile:
//! a shard knows by the number of a part whether it has it. So nothing here depends on anything but the rows and what
//! was recorded with their cut.
//!
//! Rows of the topic of a view that have an event time leave in its order, and are stored in it: the queues take turns by epoch there, not by row.

use std::collections::BTreeMap;

use millpond_proto::message::{Epoch, JobId, ShardId, queue_of};
use millpond_proto::remedy::Remedy;
use millpond_sql::topic::{OutputRow, TopicsError};
use millpond_storage::format::block::APPEND_BYTES_MAX;
use millpond_storage::format::envelope::{Envelope, Property, PropertyValue};
use millpond_storage::log::Record;
use prost::Message as _;

use crate::broker::incarnation::Incarnation;
use crate::broker::record::{OutputQueues, TopicKind, TopicRecord};
use crate::broker::request::{Effect, Reply, Request};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError};

/// Bytes of rows in one part of an effect: well below the largest append.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a part as the log stores it: what it takes, but for the mark of the effect.
const STORED_BYTES_MAX: usize = APPEND_BYTES_MAX - 4096;
/// Most bytes that a message gains when it is stored: its offset and its store time.
const PLACE_BYTES: usize = 32;

impl Broker {
    /// How many queues the outputs of a job have now.
    pub(super) fn outputs_of(&self, job: JobId) -> Vec<OutputQueues> {
        let catalog = self.catalog();
        let known = catalog.jobs().find(|known| known.id == job.0);
        let outputs = known.into_iter().flat_map(|known| &known.outputs);
        let topics = outputs.filter_map(|topic| catalog.topic_by_id(*topic));
        let counts = topics.map(|topic| OutputQueues {
            topic: topic.id,
            queues: topic.queues,
        });
        counts.collect()
    }

    /// Appends the rows of a recorded cut to an output; those that are there already are not appended again.
    ///
    /// # Errors
    /// [`BrokerError`] when the log failed or a shard is damaged.
    ///
    /// # Panics
    /// Never: an epoch is bounded.
    pub(super) async fn append_output(
        &self,
        job: JobId,
        topic: &TopicRecord,
        epoch: Epoch,
        rows: Vec<OutputRow>,
    ) -> Result<(), BrokerError> {
        let incarnation = self.incarnation()?;
        let queues = queues_at(&incarnation, job, topic, epoch).await?;
        let now_ms = self.now().as_ms();
        // Epochs come one after the other, and rows of one queue in their order: so none is behind one of a later time.
        let is_by_time = topic.written_by.is_some() && topic.watermark_column.is_some();
        let mut by_shard: BTreeMap<ShardId, Vec<Envelope>> = BTreeMap::new();
        for (number, row) in (0_u64..).zip(rows) {
            let id = format!("{job}-{epoch}-{number}");
            let turn = if is_by_time { epoch.0 } else { number };
            let message = message_of(topic, queues, turn, row, now_ms, &id);
            let shard = incarnation.shard(topic.id, message.queue);
            by_shard.entry(shard).or_default().push(message);
        }
        let effects = by_shard.into_iter().map(|(shard, messages)| {
            let incarnation = &incarnation;
            async move {
                for (part, messages) in parts(messages).into_iter().enumerate() {
                    let effect = Effect {
                        job: job.0,
                        topic: topic.id,
                        epoch: epoch.0,
                        part: u32::try_from(part).expect("an epoch is bounded"),
                        messages,
                    };
                    accepted(incarnation.ask(shard, Request::Effect(effect)).await?)?;
                }
                Ok::<_, BrokerError>(())
            }
        });
        futures::future::try_join_all(effects).await?;
        Ok(())
    }
}

/// How many queues an output had when a cut was recorded; as many as now when the cut does not say.
async fn queues_at(
    incarnation: &Incarnation,
    job: JobId,
    topic: &TopicRecord,
    epoch: Epoch,
) -> Result<u32, BrokerError> {
    let home = incarnation.home(job);
    let Reply::Job(log) = accepted(incarnation.ask(home, Request::Job(job.0)).await?)? else {
        return Err(BrokerError::Confused("job progress"));
    };
    let cut = log.cuts.iter().find(|cut| cut.epoch == epoch.0);
    let outputs = cut.into_iter().flat_map(|cut| &cut.outputs);
    let known = outputs.filter(|output| output.topic == topic.id);
    let queues = known.map(|output| output.queues).next();
    // Queues are never taken away.
    Ok(queues.unwrap_or(topic.queues).clamp(1, topic.queues))
}

/// Refuses a topic whose messages need what no row has.
pub(super) fn check_output(topic: &TopicRecord) -> Result<(), TopicsError> {
    if topic.kind() != TopicKind::Lite {
        return Ok(());
    }
    Err(TopicsError {
        message: format!(
            "topic {:?} is of type lite: each of its messages has a lite topic and a row has none; write to another \
             topic, or send messages with `millpond topic produce --lite-topic`",
            topic.name
        ),
        remedy: Remedy::FixRequest,
    })
}

/// The message of an output row. Its queue depends on the row, its turn and the number of queues alone, so that an
/// effect that is asked again asks the same shards.
pub(super) fn message_of(
    topic: &TopicRecord,
    queues: u32,
    turn: u64,
    row: OutputRow,
    now_ms: i64,
    message_id: &str,
) -> Envelope {
    let queue = match &row.key {
        Some(key) => queue_of(key, queues),
        None => queue_of(&turn.to_le_bytes(), queues),
    };
    let keys = row
        .key
        .as_ref()
        .and_then(|key| String::from_utf8(key.to_vec()).ok());
    let properties = row.properties.into_iter().map(|(key, value)| Property {
        key,
        value: Some(PropertyValue::Text(value)),
    });
    Envelope {
        topic: topic.id,
        queue: queue.0,
        born_at_ms: now_ms,
        message_id: message_id.to_owned(),
        keys: keys.into_iter().collect(),
        key: row.key,
        properties: properties.collect(),
        body: row.body,
        schema_id: topic.schemas.last().map(|schema| schema.version),
        ..Envelope::default()
    }
}

/// Cuts messages into parts; where the cuts fall depends on the messages alone.
///
/// The first version counted bodies and a guess for the rest, and what it had appended when it ended must be known
/// again: its parts are still these. One that the log does not take is cut once more: that version never got past it, so
/// no shard has it or any part behind it.
pub(super) fn parts(messages: Vec<Envelope>) -> Vec<Vec<Envelope>> {
    let mut parts = vec![Vec::new()];
    let (mut bytes, mut stored) = (0, 0);
    for message in messages {
        let size = message.body.as_ref().map_or(0, bytes::Bytes::len) + 256;
        let adds = stored_bytes(&message);
        if bytes > 0 && (bytes + size > PART_BYTES || stored + adds > STORED_BYTES_MAX) {
            parts.push(Vec::new());
            (bytes, stored) = (0, 0);
        }
        (bytes, stored) = (bytes + size, stored + adds);
        parts
            .last_mut()
            .expect("there is always a part")
            .push(message);
    }
    parts
}

/// Bytes that a message takes at most in an append.
fn stored_bytes(message: &Envelope) -> usize {
    let empty = Record::State(bytes::Bytes::new()).append_bytes();
    empty + message.encoded_len() + PLACE_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// A row as a deletion leaves it: a key and no body.
    fn message(key_bytes: usize, body_bytes: usize) -> Envelope {
        let row = OutputRow {
            key: Some(Bytes::from(vec![b'k'; key_bytes])),
            body: (body_bytes > 0).then(|| Bytes::from(vec![0; body_bytes])),
            properties: Vec::new(),
        };
        message_of(&TopicRecord::default(), 1, 0, row, 1, "id")
    }

    fn counts(messages: Vec<Envelope>) -> Vec<usize> {
        parts(messages).iter().map(Vec::len).collect()
    }

    #[test]
    fn parts_are_those_of_the_first_version_wherever_the_log_took_them() {
        let rows = vec![message(8, 1024 * 1024 - 256); 9];
        assert_eq!(counts(rows), [4, 4, 1]);
        // Keys were never counted: 16,384 of these are one part of 8 MiB.
        assert_eq!(counts(vec![message(200, 0); 16_385]), [16_384, 1]);
        assert_eq!(counts(Vec::new()), [0]);
    }

    #[test]
    fn a_part_that_the_log_would_not_take_is_cut() {
        let cut = parts(vec![message(2000, 0); 16_384]);
        assert_eq!(cut.len(), 3);
        for part in &cut {
            let mut placed = part.clone();
            for message in &mut placed {
                (message.offset, message.stored_at_ms) = (u64::MAX, i64::MAX);
            }
            let records = placed.into_iter().map(Record::Message);
            let size: usize = records.map(|record| record.append_bytes()).sum();
            assert!(size <= STORED_BYTES_MAX, "{size}");
        }
    }
}
