//! Families: small topics that share the files and the table of one name.
//!
//! A topic says when it is made which family it is of, and stays there. A family is nothing by itself: it begins with the
//! first topic that names it and ends with the last one; its id is that of its first topic, marked, so it is never used
//! again. What can not be told apart in shared files is refused: a table kept apart from the log, compaction by key, and
//! lite topics, whose queues come and go.
//!
//! A family is shown as a table by its name, so it may not be called as a topic is, nor a topic as a family.

use std::collections::BTreeMap;
use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::message::TopicId;
use millpond_proto::name::TopicName;
use millpond_proto::time::Timestamp;
use millpond_storage::log::Keep;
use millpond_storage::tier::cold::compaction::Compaction;

use crate::broker::care::{FILE_PART, FILES_MIN, keep, shortest_ms};
use crate::broker::catalog::Catalog;
use crate::broker::incarnation::Incarnation;
use crate::broker::record::{TopicKind, TopicRecord};
use crate::broker::{Bodies, Broker, BrokerError, NewTopic, Retention, Topic};

/// Marks the id of a family: no topic has one as high, and shelves are higher.
const MARK: u64 = 1 << 62;

/// The family of a topic, when it is of one.
pub(super) fn of(topic: &TopicRecord) -> Option<TopicId> {
    Some(TopicId(topic.family_id)).filter(|family| family.0 != 0)
}

/// Gives a new topic, which has its own id already, the id of its family.
pub(super) fn join(catalog: &Catalog, topic: &mut TopicRecord) {
    if topic.family.is_empty() {
        return;
    }
    let mut others = catalog.topics();
    let known = others.find(|other| other.family == topic.family);
    topic.family_id = known.map_or(topic.id | MARK, |known| known.family_id);
}

/// Whether the name of a new topic, or that of its family, is one of the other kind's already.
pub(super) fn is_taken(catalog: &Catalog, topic: &TopicRecord) -> bool {
    let is_topic = !topic.family.is_empty() && catalog.topic(&topic.family).is_some();
    is_topic
        || topic.family == topic.name
        || catalog.topics().any(|other| other.family == topic.name)
}

/// Whether a family has no room for the queues of a topic beside those of its others.
pub(super) fn is_full(catalog: &Catalog, topic: &TopicRecord) -> bool {
    let same = |other: &&Arc<TopicRecord>| {
        !topic.family.is_empty() && other.family == topic.family && other.name != topic.name
    };
    let queues: u64 = catalog
        .topics()
        .filter(same)
        .map(|other| u64::from(other.queues))
        .sum();
    !topic.family.is_empty() && queues + u64::from(topic.queues) > limits::FAMILY_QUEUES_MAX
}

/// Why a family takes no more queues.
pub(super) fn full() -> String {
    format!(
        "its topics have {} queues at most; use another family, or fewer queues",
        limits::FAMILY_QUEUES_MAX
    )
}

/// Refuses what a topic of a family can not have.
pub(super) fn check(
    family: Option<&str>,
    compacts: bool,
    is_apart: bool,
) -> Result<(), BrokerError> {
    let Some(family) = family else {
        return Ok(());
    };
    let why = if compacts {
        "it compacts by key, which needs files of its own"
    } else if is_apart {
        "its table is kept apart from its log, which needs files of its own"
    } else {
        return Ok(());
    };
    Err(refused(family, why))
}

fn refused(family: &str, why: &str) -> BrokerError {
    BrokerError::NotInFamily {
        family: family.to_owned(),
        why: why.to_owned(),
    }
}

impl Incarnation {
    /// Keeps the topics of families within their retention, merges the small files of families, and ends families that no
    /// topic is of any more.
    pub(super) async fn care_for_families(&self, now: Timestamp) {
        // Before the catalog is looked at: a family that begins meanwhile is none of these.
        let stored = self.storage().families();
        let mut families: BTreeMap<TopicId, Vec<Arc<TopicRecord>>> = BTreeMap::new();
        for topic in self.catalog().topics() {
            if let Some(family) = of(topic) {
                families.entry(family).or_default().push(Arc::clone(topic));
            }
        }
        for (&family, topics) in &families {
            self.retain_in_family(family, topics, now).await;
            let shortest = topics.iter().filter_map(|topic| shortest_ms(topic)).min();
            let how = Compaction {
                files_min: FILES_MIN,
                span_ms_max: shortest.map(|ms| ms / i64::from(FILE_PART)),
                ..Compaction::default()
            };
            let name = topics.first().map_or("", |topic| topic.family.as_str());
            match self.storage().compact(family, how).await {
                Ok(done) if done.files_merged > 0 => tracing::info!(
                    family = name,
                    done.files_merged,
                    done.files_made,
                    "merged small files"
                ),
                Ok(_) => {}
                Err(error) => tracing::warn!(family = name, %error, "files stay unmerged"),
            }
        }
        for family in stored
            .into_iter()
            .filter(|family| !families.contains_key(family))
        {
            if let Err(error) = self.storage().forget(family).await {
                tracing::warn!(%family, %error, "a family without topics still has objects; trying again later");
            }
        }
    }

    async fn retain_in_family(&self, family: TopicId, topics: &[Arc<TopicRecord>], now: Timestamp) {
        let due = topics
            .iter()
            .filter(|topic| self.care_taken().is_looked_after(topic, now));
        let due: Vec<&Arc<TopicRecord>> = due.collect();
        let keeps = due
            .iter()
            .map(|topic| (TopicId(topic.id), keep(topic, now)));
        let keeps: Vec<_> = keeps.filter(|(_, keep)| *keep != Keep::default()).collect();
        if !keeps.is_empty() {
            match self.storage().retain_in_family(family, &keeps).await {
                Ok(trimmed) if trimmed.messages > 0 => tracing::info!(
                    %family, trimmed.messages, trimmed.files, "let go of old messages"
                ),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%family, %error, "retention waits for the next turn");
                    return;
                }
            }
        }
        for topic in due {
            // What is not told now, because the log has failed, the next run tells.
            let _ = self.tell_firsts(TopicId(topic.id)).await;
        }
    }
}

impl Broker {
    /// Makes a topic that shares the files and the table of a family.
    ///
    /// # Errors
    /// [`BrokerError`] when a name is taken, a number is out of bounds or the topic has what a family can not hold.
    pub async fn create_topic_in(
        &self,
        family: Option<&str>,
        topic: NewTopic,
        retention: Retention,
        bodies: Bodies,
    ) -> Result<Topic, BrokerError> {
        let mut record = Self::record_of(topic, retention, bodies)?;
        if let Some(family) = family {
            // As topics are called: it is a table's name beside theirs.
            family.clone_into(&mut record.family);
            TopicName::new(family)?;
            let is_apart = record.table_ms.is_some() || record.table_bytes.is_some();
            check(Some(family), record.compacts, is_apart)?;
            if record.kind() == TopicKind::Lite {
                return Err(refused(
                    family,
                    "it is of type lite, whose queues come and go",
                ));
            }
            let catalog = self.catalog();
            if catalog.topic(family).is_some() || family == record.name {
                return Err(refused(
                    family,
                    "a topic is called so; give the family another name",
                ));
            }
            if is_full(&catalog, &record) {
                return Err(refused(family, &full()));
            }
        }
        if self
            .catalog()
            .topics()
            .any(|other| other.family == record.name)
        {
            let why = "a topic can not be called as a family is; give it another name";
            return Err(refused(&record.name, why));
        }
        self.create(record).await
    }
}
