//! Keeping topics within their retention, and merging their small files.
//!
//! A turn lets go of messages in storage first, then tells the shards which offsets are gone, so that groups
//! skip them. A crash in between is made up for by the next run, which tells every shard once what storage
//! keeps. A topic that can not be cared for now does not keep the others from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use millpond_proto::message::{QueueId, TopicId};
use millpond_proto::time::Timestamp;
use millpond_storage::error::{AppendError, OpenError, TierError};
use millpond_storage::log::{Findings, Keep, KeepTable, TopicSizes, Trimmed};
use millpond_storage::tier::cold::compaction::{Compacted, Compaction, TARGET_BYTES};

use crate::broker::Broker;
use crate::broker::family;
use crate::broker::incarnation::Incarnation;
use crate::broker::record::{QueueOffset, TopicRecord, Trimmed as Firsts};
use crate::broker::request::Request;

/// Small files of a topic that are worth merging: fewer would be written again too often.
pub(super) const FILES_MIN: usize = 8;
/// A topic's retention is looked after so many times within its time.
const TURNS: i64 = 64;
/// Files hold at most this part of what a topic keeps, because they are dropped whole.
pub(super) const FILE_PART: u8 = 8;

/// What the last turns of a run did.
#[derive(Debug, Default)]
pub struct Care {
    /// First offsets that the shards know.
    told: Mutex<HashMap<(TopicId, QueueId), u64>>,
    /// When a topic's retention was last looked after.
    looked_at: Mutex<HashMap<TopicId, Timestamp>>,
}

impl Care {
    /// Whether it is time to look what a topic need not keep, or to tell its shards what storage keeps; notes it.
    pub(super) fn is_looked_after(&self, topic: &TopicRecord, now: Timestamp) -> bool {
        let has_retention = keep(topic, now) != Keep::default();
        let is_new = {
            let looked_at = self.looked_at.lock();
            let looked_at = looked_at.unwrap_or_else(PoisonError::into_inner);
            !looked_at.contains_key(&TopicId(topic.id))
        };
        (has_retention || is_new) && self.is_due(topic, now)
    }

    fn is_due(&self, topic: &TopicRecord, now: Timestamp) -> bool {
        let mut looked_at = self
            .looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let pause_ms = shortest_ms(topic).map_or(0, |ms| ms / TURNS);
        let due = looked_at
            .get(&TopicId(topic.id))
            .is_none_or(|last| now.as_ms() >= last.as_ms().saturating_add(pause_ms));
        if due {
            looked_at.insert(TopicId(topic.id), now);
        }
        due
    }
}

/// The shorter of the times that the log and the table are kept for.
pub(super) fn shortest_ms(topic: &TopicRecord) -> Option<i64> {
    let table_ms = topic.table_ms.filter(|ms| *ms > 0);
    topic.retention_ms.into_iter().chain(table_ms).min()
}

/// What is to be kept of a topic by now.
pub(super) fn keep(topic: &TopicRecord, now: Timestamp) -> Keep {
    let from = |ms: i64| now.as_ms().saturating_sub(ms);
    let is_apart = topic.table_ms.is_some() || topic.table_bytes.is_some();
    let table = KeepTable {
        stored_from_ms: topic.table_ms.filter(|ms| *ms > 0).map(from),
        bytes_max: topic.table_bytes.filter(|bytes| *bytes > 0),
    };
    Keep {
        stored_from_ms: topic.retention_ms.map(from),
        bytes_max: topic.retention_bytes,
        table: is_apart.then_some(table),
    }
}

fn compaction(topic: &TopicRecord, files_min: usize) -> Compaction {
    let table_bytes = topic.table_bytes.filter(|bytes| *bytes > 0);
    let bytes = topic.retention_bytes.into_iter().chain(table_bytes).min();
    let bytes = bytes.unwrap_or(u64::MAX) / u64::from(FILE_PART);
    Compaction {
        files_min,
        target_bytes: bytes.min(TARGET_BYTES),
        span_ms_max: shortest_ms(topic).map(|ms| ms / i64::from(FILE_PART)),
        across_days: topic.compacts,
    }
}

impl Incarnation {
    /// One turn over all topics.
    pub async fn care(&self, now: Timestamp) {
        if let Err(error) = self.storage().show_tables().await {
            tracing::warn!(%error, "tables wait for the next turn");
        }
        let catalog = self.catalog();
        for topic in catalog.topics() {
            let id = TopicId(topic.id);
            if family::of(topic).is_some() {
                continue;
            }
            if self.care_taken().is_looked_after(topic, now)
                && let Err(error) = self.retain(topic, now).await
            {
                tracing::warn!(topic = %topic.name, %error, "retention waits for the next turn");
            }
            self.care_for_keys(topic, now).await;
            let how = compaction(topic, FILES_MIN);
            match self.storage().compact(id, how).await {
                Ok(done) if done.files_made > 0 => tracing::info!(
                    topic = %topic.name, done.files_merged, done.files_made, "merged small files"
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!(topic = %topic.name, %error, "files stay unmerged"),
            }
        }
        self.care_for_families(now).await;
        let exists = |id: &TopicId| catalog.topic_by_id(id.0).is_some();
        let mut looked_at = self
            .care_taken()
            .looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if looked_at.len() > catalog.topics().len() {
            looked_at.retain(|id, _| exists(id));
            let mut told = self
                .care_taken()
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            told.retain(|(id, _), _| exists(id));
        }
    }

    /// Lets go of what a topic need not keep, and tells its shards.
    async fn retain(&self, topic: &TopicRecord, now: Timestamp) -> Result<(), TierError> {
        let keep = keep(topic, now);
        if keep != Keep::default() {
            let trimmed = self.storage().retain(TopicId(topic.id), keep).await?;
            if trimmed != Trimmed::default() {
                tracing::info!(
                    topic = %topic.name, trimmed.messages, trimmed.files, "let go of old messages"
                );
            }
        }
        // What is not told now, because the log has failed, the next run tells.
        let _ = self.tell_firsts(TopicId(topic.id)).await;
        Ok(())
    }

    pub(super) async fn tell_firsts(&self, topic: TopicId) -> Result<(), AppendError> {
        let mut by_shard: BTreeMap<_, Vec<QueueOffset>> = BTreeMap::new();
        {
            let told = self
                .care_taken()
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for (queue, extent) in self.storage().queues_of(topic) {
                let first = extent.first.0;
                if told.get(&(topic, queue)).copied().unwrap_or(0) < first {
                    let shard = self.shard(topic.0, queue.0);
                    by_shard.entry(shard).or_default().push(QueueOffset {
                        topic: topic.0,
                        queue: queue.0,
                        offset: first,
                    });
                }
            }
        }
        for (shard, firsts) in by_shard {
            let request = Request::Trim(Firsts {
                firsts: firsts.clone(),
            });
            self.ask(shard, request).await?;
            let mut told = self
                .care_taken()
                .told
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            told.extend(firsts.iter().map(|f| ((topic, QueueId(f.queue)), f.offset)));
        }
        Ok(())
    }
}

impl Broker {
    /// Keeps every topic within its retention and merges small files now, as the turn of upkeep does.
    pub async fn care(&self) {
        if let Ok(incarnation) = self.incarnation() {
            incarnation.care(self.now()).await;
        }
    }

    /// Merges the small files of one topic, or of all topics, now.
    ///
    /// # Errors
    /// [`TierError`]; what was merged before stays merged.
    pub async fn compact(&self, only: Option<TopicId>) -> Result<Compacted, TierError> {
        let mut all = Compacted::default();
        let Ok(incarnation) = self.incarnation() else {
            return Ok(all);
        };
        let mut families = BTreeSet::new();
        for topic in incarnation.catalog().topics() {
            let id = TopicId(topic.id);
            let is_done = family::of(topic).is_some_and(|family| families.contains(&family));
            if is_done || only.is_some_and(|only| only != id) {
                continue;
            }
            families.extend(family::of(topic));
            let done = incarnation
                .storage()
                .compact(id, compaction(topic, 2))
                .await?;
            all.files_merged += done.files_merged;
            all.files_made += done.files_made;
            all.bytes_merged += done.bytes_merged;
            all.bytes_made += done.bytes_made;
        }
        Ok(all)
    }

    /// How much a topic holds in the log and in Parquet.
    #[must_use]
    pub fn sizes_of(&self, topic: TopicId) -> TopicSizes {
        let sizes = |incarnation: Arc<Incarnation>| incarnation.storage().sizes_of(topic);
        self.incarnation().map(sizes).unwrap_or_default()
    }

    /// Bytes of the log that are kept.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        let bytes = |incarnation: Arc<Incarnation>| incarnation.storage().sizes().wal_bytes;
        self.incarnation().map(bytes).unwrap_or_default()
    }

    /// Checks every byte that is stored.
    ///
    /// # Errors
    /// [`OpenError`] when the disk or a store can not be read.
    pub async fn verify(&self) -> Result<Findings, OpenError> {
        match self.incarnation() {
            Ok(incarnation) => incarnation.storage().verify().await,
            Err(_) => Ok(Findings::default()),
        }
    }
}
