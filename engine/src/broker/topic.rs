//! Topics and groups: making, listing, deleting; [`crate::broker::alter`] changes them.
//!
//! The catalog shard decides; everybody else reads the catalog as it was last made durable.

use std::sync::Arc;

use millpond_proto::limits;
use millpond_proto::message::{QueueId, TopicId};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;
use millpond_sql::topic::{ColumnSpec, TimeBehind, WatermarkSpec};
use millpond_storage::log::Extent;

use crate::broker::encoding;
use crate::broker::family;
use crate::broker::record::{ColumnRecord, GroupRecord, TimeBehindRecord, TopicRecord};
use crate::broker::request::{Reason, Refused, Reply, Request};
use crate::broker::state::CATALOG_SHARD;
use crate::broker::{
    Bodies, Broker, BrokerError, Group, GroupStart, NewTopic, Retention, Topic, TopicType,
};

impl Broker {
    /// A topic by name.
    ///
    /// # Errors
    /// [`BrokerError::TopicNotFound`].
    pub fn topic(&self, name: &TopicName) -> Result<Topic, BrokerError> {
        let found = self
            .catalog()
            .topic(name.as_str())
            .map(|record| Topic::of(record));
        found.ok_or_else(|| BrokerError::TopicNotFound {
            name: name.to_string(),
        })
    }

    /// All topics, by name.
    #[must_use]
    pub fn topics(&self) -> Vec<Topic> {
        self.catalog()
            .topics()
            .map(|record| Topic::of(record))
            .collect()
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// [`BrokerError`] when the name is taken or a number is out of bounds.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<Topic, BrokerError> {
        self.create_topic_keeping(topic, Retention::default()).await
    }

    /// Makes a topic of which only so much is kept.
    ///
    /// # Errors
    /// [`BrokerError`] when the name is taken or a number is out of bounds.
    pub async fn create_topic_keeping(
        &self,
        topic: NewTopic,
        retention: Retention,
    ) -> Result<Topic, BrokerError> {
        self.create_topic_of(topic, retention, Bodies::default())
            .await
    }

    /// Makes a topic with bodies that are not plain JSON.
    ///
    /// # Errors
    /// [`BrokerError`] when the name is taken or a number is out of bounds.
    pub async fn create_topic_of(
        &self,
        topic: NewTopic,
        retention: Retention,
        bodies: Bodies,
    ) -> Result<Topic, BrokerError> {
        self.create_topic_in(None, topic, retention, bodies).await
    }

    /// A new topic as the catalog takes it, when its numbers are within bounds.
    pub(super) fn record_of(
        topic: NewTopic,
        retention: Retention,
        bodies: Bodies,
    ) -> Result<TopicRecord, BrokerError> {
        check_retention(retention.ms)?;
        check_retention(retention.tombstones_ms)?;
        check_retention(retention.table_ms.filter(|ms| *ms != 0))?;
        check_expiry(retention.lite_ms, topic.kind, &topic.name)?;
        check_compaction(retention.compacts, topic.kind, &topic.name)?;
        let queues = topic.queues.unwrap_or(limits::QUEUES_DEFAULT);
        check_queues(queues)?;
        check_columns(topic.columns.len())?;
        Ok(TopicRecord {
            id: 0,
            name: topic.name.to_string(),
            queues,
            kind: topic.kind.kind().into(),
            columns: topic.columns.iter().map(column_record).collect(),
            watermark_column: topic
                .watermark
                .as_ref()
                .map(|watermark| watermark.column.clone()),
            watermark_delay_ms: topic.watermark.as_ref().map_or(0, |w| w.delay_ms),
            times_behind: topic
                .watermark
                .iter()
                .flat_map(|watermark| &watermark.behind)
                .map(|behind| TimeBehindRecord {
                    column: behind.column.clone(),
                    by_ms: behind.by_ms,
                })
                .collect(),
            primary_key: topic.primary_key,
            written_by: topic.written_by,
            retention_ms: retention.ms,
            retention_bytes: retention.bytes,
            compacts: retention.compacts,
            tombstones_ms: retention.tombstones_ms,
            table_ms: retention.table_ms,
            table_bytes: retention.table_bytes,
            format: encoding::format_number(bodies.encoding.format),
            schemas: encoding::schema_records(&bodies.encoding.schemas),
            compatibility: encoding::compatibility_number(bodies.encoding.compatibility),
            message: bodies.encoding.message,
            changelog: encoding::changelog_number(bodies.changelog),
            lite_expiry_ms: retention.lite_ms,
            family: String::new(),
            family_id: 0,
        })
    }

    pub(super) async fn create(&self, record: TopicRecord) -> Result<Topic, BrokerError> {
        match self
            .ask_catalog(Request::CreateTopic(Box::new(record)))
            .await?
        {
            Reply::Topic(record) => Ok(Topic::of(&record)),
            _ => Err(BrokerError::Confused("create topic")),
        }
    }

    /// Deletes a topic with its messages and every group's place in it.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such topic or a continuous query writes it.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<(), BrokerError> {
        let topic = self.topic(name)?;
        if let Some(job) = topic.written_by {
            return Err(BrokerError::WrittenBy {
                name: name.to_string(),
                advice: "drop that query instead, its topics go with it",
                job,
            });
        }
        self.drop_topic_of_any_writer(name).await
    }

    /// Deletes a topic, whoever writes it.
    pub(super) async fn drop_topic_of_any_writer(
        &self,
        name: &TopicName,
    ) -> Result<(), BrokerError> {
        self.ask_catalog(Request::DropTopic(name.to_string()))
            .await?;
        // The name is gone for good; what is left to forget is done again if this run ends now.
        Ok(self.incarnation()?.finish_deletions().await?)
    }

    /// Durable extent of every queue of a topic, in order.
    #[must_use]
    pub fn extents(&self, topic: &Topic) -> Vec<(QueueId, Extent)> {
        let Ok(incarnation) = self.incarnation() else {
            return Vec::new();
        };
        let extent = |queue| {
            incarnation
                .storage()
                .extent(topic.id, queue)
                .unwrap_or_default()
        };
        (0..topic.queues)
            .map(QueueId)
            .map(|queue| (queue, extent(queue)))
            .collect()
    }

    /// A group by name.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`].
    pub fn group(&self, name: &GroupName) -> Result<Group, BrokerError> {
        match self.catalog().group(name.as_str()) {
            Some(record) => Group::of(record),
            None => Err(BrokerError::GroupNotFound {
                name: name.to_string(),
            }),
        }
    }

    /// All groups, by name.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.catalog()
            .groups()
            .filter_map(|record| Group::of(record).ok())
            .collect()
    }

    /// Makes a group.
    ///
    /// # Errors
    /// [`BrokerError::Exists`] when the name is taken.
    pub async fn create_group(&self, group: Group) -> Result<Group, BrokerError> {
        group.check()?;
        match self
            .ask_catalog(Request::CreateGroup(group.record()))
            .await?
        {
            Reply::Group(record) => Group::of(&record),
            _ => Err(BrokerError::Confused("create group")),
        }
    }

    /// Deletes a group with its place in every topic.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`].
    pub async fn delete_group(&self, name: &GroupName) -> Result<(), BrokerError> {
        self.ask_catalog(Request::DropGroup(name.to_string()))
            .await?;
        Ok(self.incarnation()?.finish_deletions().await?)
    }

    pub(super) fn topic_record(&self, name: &TopicName) -> Result<Arc<TopicRecord>, BrokerError> {
        let catalog = self.incarnation()?.catalog();
        let found = catalog.topic(name.as_str()).map(Arc::clone);
        found.ok_or_else(|| BrokerError::TopicNotFound {
            name: name.to_string(),
        })
    }

    pub(super) fn group_record(&self, name: &GroupName) -> Result<Arc<GroupRecord>, BrokerError> {
        let catalog = self.incarnation()?.catalog();
        let found = catalog.group(name.as_str()).map(Arc::clone);
        found.ok_or_else(|| BrokerError::GroupNotFound {
            name: name.to_string(),
        })
    }

    /// The group of a consumer; made on first use.
    pub(super) async fn group_or_new(
        &self,
        name: &GroupName,
    ) -> Result<Arc<GroupRecord>, BrokerError> {
        match self.group_record(name) {
            Err(BrokerError::GroupNotFound { .. }) => {}
            found => return found,
        }
        match self.create_group(Group::new(name.clone())).await {
            // Another consumer of the group was quicker.
            Ok(_) | Err(BrokerError::Exists { .. }) => self.group_record(name),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn ask_catalog(&self, request: Request) -> Result<Reply, BrokerError> {
        accepted(self.incarnation()?.ask(CATALOG_SHARD, request).await?)
    }
}

/// Turns a refusal into an error.
pub(super) fn accepted(reply: Reply) -> Result<Reply, BrokerError> {
    match reply {
        Reply::Refused(refused) => Err(refusal(refused)),
        reply => Ok(reply),
    }
}

fn refusal(refused: Refused) -> BrokerError {
    let reason = refused.reason();
    let name = refused.what;
    match reason {
        Reason::TopicExists => BrokerError::Exists {
            what: "topic",
            name,
        },
        Reason::GroupExists => BrokerError::Exists {
            what: "consumer group",
            name,
        },
        Reason::JobExists => BrokerError::Exists { what: "job", name },
        Reason::TopicNotFound => BrokerError::TopicNotFound { name },
        Reason::GroupNotFound => BrokerError::GroupNotFound { name },
        Reason::HandleExpired => BrokerError::InvalidHandle {
            why: "its invisible time is over or it was replaced by a newer one",
        },
        Reason::HandleAcknowledged => BrokerError::InvalidHandle {
            why: "the message is acknowledged",
        },
        Reason::TopicsFull => BrokerError::Full {
            what: "topics",
            limit: limits::TOPICS_MAX as u64,
            advice: "delete some, or use keys or lite topics within one",
        },
        Reason::GroupsFull => BrokerError::Full {
            what: "consumer groups",
            limit: limits::GROUPS_MAX as u64,
            advice: "delete some with: millpond group rm",
        },
        Reason::JobsFull => BrokerError::Full {
            what: "continuous queries",
            limit: limits::JOBS_MAX as u64,
            advice: "drop some, SHOW JOBS lists them",
        },
        Reason::SavepointsFull => BrokerError::Full {
            what: "savepoints",
            limit: limits::SAVEPOINTS_MAX as u64,
            advice: "drop some, SHOW SAVEPOINTS lists them",
        },
        Reason::FamilyFull => BrokerError::NotInFamily {
            family: name,
            why: family::full(),
        },
        Reason::WayFull => BrokerError::TooMany {
            what: "too many bytes of messages are on their way to the log",
            limit: limits::SENDING_BYTES_MAX,
        },
        Reason::ManyProducers => BrokerError::TooMany {
            what: "too many idempotent producers send to this shard",
            limit: limits::PRODUCERS_PER_SHARD_MAX,
        },
        Reason::LiteTopicsFull => BrokerError::LiteTopicsFull {
            what: "the queue of this lite topic has too many of them",
            name,
            limit: limits::LITE_TOPICS_PER_QUEUE_MAX,
            advice: "end some, or use a parent with more queues",
        },
        Reason::LiteTopicFull => BrokerError::LiteTopicsFull {
            what: "the lite topic holds too many messages that are not worked off",
            name,
            limit: limits::LITE_MESSAGES_MAX,
            advice: "consume some, or use more lite topics",
        },
        Reason::LiteTopicGone => BrokerError::InvalidHandle {
            why: "its lite topic ended",
        },
        Reason::BadChange => BrokerError::ChangeRefused(name),
        Reason::AlreadyPlaced => BrokerError::TransactionDecided { how: "committed" },
        Reason::AlreadyWithdrawn => BrokerError::TransactionDecided { how: "rolled back" },
        Reason::TransactionGivenUp => BrokerError::TransactionDecided {
            how: "rolled back by the server, because nobody had decided on it in time,",
        },
        Reason::NotShelved => BrokerError::InvalidTransaction {
            why: "it ended long ago, or its topic was deleted",
        },
        Reason::HourFull => BrokerError::TooMany {
            what: "too many messages of this queue's shard are due in the same hour",
            limit: limits::DELAYED_PER_HOUR_MAX,
        },
        Reason::TransactionsFull => BrokerError::TooMany {
            what: "too many transactions of this queue's shard are open",
            limit: limits::TRANSACTIONS_OPEN_MAX,
        },
        Reason::TooFarAhead => BrokerError::BadChange {
            what: "the place",
            name,
            why: "settle the older messages first, or all of them".into(),
        },
        Reason::Damaged => BrokerError::ShardDamaged(name),
        Reason::EpochOrder => BrokerError::Confused("an epoch out of order"),
        Reason::Malformed => BrokerError::Confused("a malformed request"),
    }
}

pub(super) fn check_queues(queues: u32) -> Result<(), BrokerError> {
    if (1..=limits::QUEUES_MAX).contains(&queues) {
        return Ok(());
    }
    Err(BrokerError::OutOfBounds {
        what: "the number of queues",
        found: queues.to_string(),
        allowed: format!("1 to {}", limits::QUEUES_MAX),
    })
}

pub(super) fn check_retention(ms: Option<i64>) -> Result<(), BrokerError> {
    let allowed = limits::RETENTION_MS_MIN..=limits::RETENTION_MS_MAX;
    match ms.filter(|ms| !allowed.contains(ms)) {
        None => Ok(()),
        Some(ms) => Err(BrokerError::OutOfBounds {
            what: "the time to keep messages",
            found: format!("{ms} ms"),
            allowed: format!("{} to {} ms", allowed.start(), allowed.end()),
        }),
    }
}

pub(super) fn check_expiry(
    ms: Option<i64>,
    kind: TopicType,
    name: &TopicName,
) -> Result<(), BrokerError> {
    let Some(ms) = ms else { return Ok(()) };
    if kind != TopicType::Lite {
        return Err(BrokerError::NoParent {
            name: name.to_string(),
        });
    }
    let allowed = limits::LITE_EXPIRY_MS_MIN..=limits::LITE_EXPIRY_MS_MAX;
    if allowed.contains(&ms) {
        return Ok(());
    }
    Err(BrokerError::OutOfBounds {
        what: "the time after which a lite topic ends",
        found: format!("{ms} ms"),
        allowed: format!("{} to {} ms", allowed.start(), allowed.end()),
    })
}

/// A lite topic counts its messages by where they lie, so none of them is taken out of the middle.
pub(super) fn check_compaction(
    compacts: bool,
    kind: TopicType,
    name: &TopicName,
) -> Result<(), BrokerError> {
    if !compacts || kind != TopicType::Lite {
        return Ok(());
    }
    Err(BrokerError::LiteCompaction {
        name: name.to_string(),
    })
}

pub(super) fn check_columns(columns: usize) -> Result<(), BrokerError> {
    if columns <= limits::COLUMNS_MAX {
        return Ok(());
    }
    Err(BrokerError::OutOfBounds {
        what: "the number of columns",
        found: columns.to_string(),
        allowed: format!("at most {}", limits::COLUMNS_MAX),
    })
}

pub(super) fn column_record(column: &ColumnSpec) -> ColumnRecord {
    ColumnRecord {
        name: column.name.clone(),
        sql_type: column.sql_type.clone(),
        expression: column.expression.clone(),
    }
}

impl Topic {
    pub(super) fn of(record: &TopicRecord) -> Self {
        let columns = record.columns.iter().map(|column| ColumnSpec {
            name: column.name.clone(),
            sql_type: column.sql_type.clone(),
            expression: column.expression.clone(),
        });
        let watermark = record
            .watermark_column
            .as_ref()
            .map(|column| WatermarkSpec {
                column: column.clone(),
                delay_ms: record.watermark_delay_ms,
                behind: record
                    .times_behind
                    .iter()
                    .map(|behind| TimeBehind {
                        column: behind.column.clone(),
                        by_ms: behind.by_ms,
                    })
                    .collect(),
            });
        Self {
            name: TopicName::new(&record.name).expect("checked when the topic was made"),
            id: TopicId(record.id),
            kind: TopicType::of(record.kind()),
            queues: record.queues,
            columns: columns.collect(),
            watermark,
            primary_key: record.primary_key.clone(),
            written_by: record.written_by.clone(),
            retention: Retention {
                ms: record.retention_ms,
                bytes: record.retention_bytes,
                compacts: record.compacts,
                tombstones_ms: record.tombstones_ms,
                table_ms: record.table_ms,
                table_bytes: record.table_bytes,
                lite_ms: record.lite_expiry_ms,
            },
            bodies: encoding::bodies_of(record),
            family: Some(record.family.clone()).filter(|family| !family.is_empty()),
        }
    }
}

impl Group {
    pub(super) fn of(record: &GroupRecord) -> Result<Self, BrokerError> {
        let start = match (record.from_latest, record.start_at_ms) {
            (true, _) => GroupStart::Latest,
            (false, Some(at)) => GroupStart::At(Timestamp(at)),
            (false, None) => GroupStart::Earliest,
        };
        Ok(Self {
            name: GroupName::new(&record.name)?,
            start,
            attempts_max: Some(record.attempts_max).filter(|attempts| *attempts > 0),
            backoff: record.backoff.clone(),
            fifo: record.fifo,
            paused: record.paused,
            lite: record.lite.clone(),
        })
    }

    pub(super) fn record(&self) -> GroupRecord {
        GroupRecord {
            id: 0,
            name: self.name.to_string(),
            from_latest: self.start == GroupStart::Latest,
            attempts_max: self.attempts_max.unwrap_or(0),
            backoff: self.backoff.clone(),
            fifo: self.fifo,
            paused: self.paused,
            start_at_ms: match self.start {
                GroupStart::At(at) => Some(at.as_ms()),
                GroupStart::Earliest | GroupStart::Latest => None,
            },
            lite: self.lite.clone(),
        }
    }

    pub(super) fn check(&self) -> Result<(), BrokerError> {
        let out = |what, found: String, allowed: String| {
            Err(BrokerError::OutOfBounds {
                what,
                found,
                allowed,
            })
        };
        let attempts = self.attempts_max.unwrap_or(1);
        if !(1..=limits::GROUP_ATTEMPTS_MAX).contains(&attempts) {
            let allowed = format!("1 to {}", limits::GROUP_ATTEMPTS_MAX);
            return out("the number of attempts", attempts.to_string(), allowed);
        }
        let Some(backoff) = &self.backoff else {
            return Ok(());
        };
        if backoff.list_ms.len() > limits::BACKOFF_STEPS_MAX {
            let allowed = format!("at most {}", limits::BACKOFF_STEPS_MAX);
            return out(
                "the number of back-off steps",
                backoff.list_ms.len().to_string(),
                allowed,
            );
        }
        let exponential = [backoff.initial_ms, backoff.max_ms];
        let times = backoff.list_ms.iter().chain(&exponential);
        for ms in times {
            if !(0..=limits::INVISIBLE_MS_MAX).contains(ms) {
                let allowed = format!("0 to {} ms", limits::INVISIBLE_MS_MAX);
                return out("a back-off", format!("{ms} ms"), allowed);
            }
        }
        if backoff.list_ms.is_empty() && backoff.max_ms < backoff.initial_ms {
            return out(
                "the longest back-off",
                format!("{} ms", backoff.max_ms),
                format!("{} ms, the first one, or more", backoff.initial_ms),
            );
        }
        if backoff.list_ms.is_empty() && !(1.0..=100.0).contains(&backoff.multiplier) {
            let found = backoff.multiplier.to_string();
            return out(
                "the multiplier of the back-off",
                found,
                "1 to 100".to_owned(),
            );
        }
        Ok(())
    }
}
