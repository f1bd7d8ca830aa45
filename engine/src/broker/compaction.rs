//! Topics that keep the last message of each key: what they refuse, and when their old messages go.
//!
//! **Invariants.** A message without a key never gets into such a topic. Nothing goes that a continuous query would read again
//! after a crash: from the cut of its last saved state on, its input stays as it was, so that the same cuts give the
//! same rows. A query of which no saved state is known keeps all of its inputs as they are.
//!
//! What a compaction does to files: [`millpond_storage::tier::cold::keys`].

use std::collections::BTreeMap;
use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::message::{JobId, QueueId, TopicId};
use millpond_proto::time::Timestamp;
use millpond_sql::topic::Keep;
use millpond_storage::error::{AppendError, TierError};
use millpond_storage::format::envelope::Envelope;
use millpond_storage::tier::cold::keys::{KeyCompaction, KeysCompacted};

use crate::broker::incarnation::Incarnation;
use crate::broker::record::{JobRecord, JobSnapshot, TopicRecord};
use crate::broker::request::{Reply, Request};
use crate::broker::{Broker, BrokerError, NewRetention, Retention, savepoint};

/// What a turn of compaction did to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicCompacted {
    /// What went.
    pub keys: KeysCompacted,
    /// A continuous query whose inputs must stay as they are for now; nothing was done because of it.
    pub held_by: Option<String>,
}

impl Retention {
    /// What SQL says of a new topic.
    pub(super) fn of(keep: &Keep) -> Self {
        Self {
            ms: keep.retention_ms.filter(|ms| *ms > 0),
            bytes: keep.retention_bytes.filter(|bytes| *bytes > 0),
            compacts: keep.compacts.unwrap_or_default(),
            tombstones_ms: keep.tombstones_ms.filter(|ms| *ms > 0),
            table_ms: keep.table_ms,
            table_bytes: keep.table_bytes,
            lite_ms: None,
        }
    }

    /// What SQL would say for a topic to be kept so.
    pub(super) fn keep(self) -> Keep {
        Keep {
            retention_ms: self.ms,
            retention_bytes: self.bytes,
            compacts: self.compacts.then_some(true),
            tombstones_ms: self.tombstones_ms,
            table_ms: self.table_ms,
            table_bytes: self.table_bytes,
            table_as_log: false,
        }
    }
}

impl NewRetention {
    /// What SQL changes.
    pub(super) fn of(keep: &Keep) -> Self {
        Self {
            ms: keep.retention_ms,
            bytes: keep.retention_bytes,
            compacts: keep.compacts,
            tombstones_ms: keep.tombstones_ms,
            table_ms: keep.table_ms,
            table_bytes: keep.table_bytes,
            table_as_log: keep.table_as_log,
            lite_ms: None,
        }
    }
}

/// Refuses messages without a key where only the last one of each key is kept.
pub(super) fn check_keys(topic: &TopicRecord, messages: &[Envelope]) -> Result<(), BrokerError> {
    let is_missing = |message: &Envelope| message.key.as_ref().is_none_or(bytes::Bytes::is_empty);
    if topic.compacts && messages.iter().any(is_missing) {
        return Err(BrokerError::KeyMissing {
            name: topic.name.clone(),
        });
    }
    Ok(())
}

/// Where a query reads on after a crash, by queue of the topic.
enum Bound {
    /// It does not read the topic.
    None,
    Queues(BTreeMap<u32, u64>),
    /// Nobody knows.
    Unknown,
}

fn bound_of(job: &JobRecord, log: &JobSnapshot, topic: &TopicRecord) -> Bound {
    let of_topic = |offsets: &[crate::broker::record::QueueOffset]| -> BTreeMap<u32, u64> {
        let offsets = offsets.iter().filter(|at| at.topic == topic.id);
        offsets.map(|at| (at.queue, at.offset)).collect()
    };
    let read: BTreeMap<u32, u64> = log
        .cuts
        .iter()
        .flat_map(|cut| of_topic(&cut.offsets))
        .collect();
    match &log.since {
        Some(since) => {
            let known = of_topic(&since.offsets);
            if known.is_empty() && read.is_empty() && !job.sql.contains(&topic.name) {
                return Bound::None;
            }
            // A queue that it had not read from when it saved its state is read from its beginning.
            let queues = (0..topic.queues).map(|queue| (queue, *known.get(&queue).unwrap_or(&0)));
            Bound::Queues(queues.collect())
        }
        // It has read nothing yet, or nothing of this topic.
        None if log.saved.is_none() && read.is_empty() && !job.sql.contains(&topic.name) => {
            Bound::None
        }
        None => Bound::Unknown,
    }
}

impl Incarnation {
    /// Compacts a topic by key as far as no query needs it as it is; none where the topic is not to be compacted.
    pub(super) async fn compact_keys(
        &self,
        topic: &TopicRecord,
        now: Timestamp,
        dirty_percent_min: u64,
    ) -> Result<Option<TopicCompacted>, TierError> {
        if !topic.compacts {
            return Ok(None);
        }
        let mut below: BTreeMap<u32, u64> = BTreeMap::new();
        let catalog = self.catalog();
        for job in catalog.jobs() {
            let bound = match self.job_log(JobId(job.id)).await {
                Ok(Some(log)) => bound_of(job, &log, topic),
                Ok(None) | Err(_) => Bound::Unknown,
            };
            match bound {
                Bound::None => {}
                Bound::Queues(queues) => {
                    for (queue, offset) in queues {
                        let known = below.entry(queue).or_insert(offset);
                        *known = offset.min(*known);
                    }
                }
                Bound::Unknown => {
                    return Ok(Some(TopicCompacted {
                        held_by: Some(job.name.clone()),
                        ..TopicCompacted::default()
                    }));
                }
            }
        }
        for savepoint in catalog.savepoints() {
            for (queue, offset) in savepoint::bound_of(savepoint, topic).unwrap_or_default() {
                let known = below.entry(queue).or_insert(offset);
                *known = offset.min(*known);
            }
        }
        let how = KeyCompaction {
            now_ms: now.as_ms(),
            tombstones_ms: topic.tombstones_ms.unwrap_or(limits::TOMBSTONES_MS_DEFAULT),
            dirty_percent_min,
            below,
            ..KeyCompaction::default()
        };
        let keys = self.storage().compact_keys(TopicId(topic.id), &how).await;
        if !matches!(keys, Ok(kept) if kept == KeysCompacted::default()) {
            self.rewrites().note(TopicId(topic.id));
        }
        let keys = keys?;
        Ok(Some(TopicCompacted {
            keys,
            held_by: None,
        }))
    }

    async fn job_log(&self, job: JobId) -> Result<Option<JobSnapshot>, AppendError> {
        match self.ask(self.home(job), Request::Job(job.0)).await? {
            Reply::Job(log) => Ok(Some(log)),
            _ => Ok(None),
        }
    }

    /// A turn of compaction in the background.
    pub(super) async fn care_for_keys(&self, topic: &TopicRecord, now: Timestamp) {
        let percent = limits::COMPACTION_DIRTY_PERCENT;
        match self.compact_keys(topic, now, percent).await {
            Ok(Some(done)) if done.keys != KeysCompacted::default() => tracing::info!(
                topic = %topic.name, done.keys.superseded, done.keys.tombstones, done.keys.files,
                "kept the last message of each key"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!(topic = %topic.name, %error, "keys stay uncompacted"),
        }
    }
}

impl Broker {
    /// How many offsets of a queue have no message any more because a later one of its key superseded it.
    #[must_use]
    pub fn superseded(&self, topic: TopicId, queue: QueueId) -> u64 {
        let count = |incarnation: Arc<Incarnation>| incarnation.storage().superseded(topic, queue);
        self.incarnation().map(count).unwrap_or_default()
    }

    /// Keeps only the last message of each key of one topic, or of all that are so, now; by the name of the topic.
    ///
    /// # Errors
    /// [`TierError`]; what was done before stays done.
    pub async fn compact_keys(
        &self,
        only: Option<TopicId>,
    ) -> Result<Vec<(String, TopicCompacted)>, TierError> {
        let mut all = Vec::new();
        let Ok(incarnation) = self.incarnation() else {
            return Ok(all);
        };
        for topic in incarnation.catalog().topics() {
            if only.is_some_and(|only| only.0 != topic.id) {
                continue;
            }
            if let Some(done) = incarnation.compact_keys(topic, self.now(), 0).await? {
                all.push((topic.name.clone(), done));
            }
        }
        Ok(all)
    }
}
