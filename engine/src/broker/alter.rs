//! Changes of topics and groups.
//!
//! A change is checked as a whole before anything of it is asked for, and it is one request and one record: it is made or
//! refused, never a part of it. It names fields; what it does not name stays as it is when the catalog's shard
//! decides, so that of two changes at once neither undoes the other.

use millpond_connectors::format::body::{Compatibility, SchemaVersion};
use millpond_proto::name::{GroupName, TopicName};
use millpond_sql::topic::ColumnSpec;

use crate::broker::encoding::{compatibility_number, schema_record};
use crate::broker::family;
use crate::broker::record::Backoff;
use crate::broker::request::{AlterGroup, AlterTopic, BackoffChange, Reply, Request, StartAt};
use crate::broker::topic::{
    check_columns, check_compaction, check_expiry, check_queues, check_retention, column_record,
};
use crate::broker::{Broker, BrokerError, Group, GroupStart, NewRetention, Topic, TopicType};

/// A change of a topic; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicChange {
    /// Number of queues, at least as many as there are.
    pub queues: Option<u32>,
    /// Columns behind those that there are.
    pub add_columns: Vec<ColumnSpec>,
    /// The next version of the schema of its bodies; refused when another one took its number meanwhile.
    pub schema: Option<SchemaVersion>,
    /// What later versions must be able to do.
    pub compatibility: Option<Compatibility>,
    /// How long and how much of it is kept.
    pub retention: NewRetention,
}

/// A change of a group; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupChange {
    /// Where it starts in queues that it has not read yet.
    pub start: Option<GroupStart>,
    /// Deliveries before a message goes to the dead letters; 0: the server's default.
    pub attempts_max: Option<u32>,
    /// How long failed messages are left alone; `Some(None)`: the server's default.
    pub backoff: Option<Option<Backoff>>,
    /// Whether its consumers are told to work in order, whatever the topic.
    pub fifo: Option<bool>,
    /// Whether nothing is delivered for the time being.
    pub paused: Option<bool>,
    /// Of lite topics: whether each has one listener at a time.
    pub exclusive: Option<bool>,
}

impl From<NewRetention> for TopicChange {
    fn from(retention: NewRetention) -> Self {
        Self {
            retention,
            ..Self::default()
        }
    }
}

impl Broker {
    /// Changes a topic, as a whole or not at all.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such topic, a number is out of bounds or a change is not possible.
    pub async fn alter_topic(
        &self,
        name: &TopicName,
        change: TopicChange,
    ) -> Result<Topic, BrokerError> {
        check_topic(&self.topic(name)?, &change)?;
        let retention = change.retention;
        let request = AlterTopic {
            name: name.to_string(),
            queues: change.queues.unwrap_or(0),
            add_columns: change.add_columns.iter().map(column_record).collect(),
            schema: change.schema.as_ref().map(schema_record),
            compatibility: change.compatibility.map(compatibility_number),
            retention_ms: retention.ms,
            retention_bytes: retention.bytes,
            compacts: retention.compacts,
            tombstones_ms: retention.tombstones_ms,
            table_ms: retention.table_ms,
            table_bytes: retention.table_bytes,
            table_as_log: retention.table_as_log,
            lite_expiry_ms: retention.lite_ms,
        };
        match self.ask_catalog(Request::AlterTopic(request)).await? {
            Reply::Topic(record) => Ok(Topic::of(&record)),
            _ => Err(BrokerError::Confused("alter topic")),
        }
    }

    /// Changes a group. Where it starts concerns queues that it has not read yet only.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`], or [`BrokerError::OutOfBounds`] for a number.
    pub async fn alter_group(
        &self,
        name: &GroupName,
        change: GroupChange,
    ) -> Result<Group, BrokerError> {
        let named = Group {
            attempts_max: change.attempts_max.filter(|attempts| *attempts > 0),
            backoff: change.backoff.clone().flatten(),
            ..Group::new(name.clone())
        };
        named.check()?;
        let request = AlterGroup {
            name: name.to_string(),
            start: change.start.map(|start| StartAt {
                latest: start == GroupStart::Latest,
                at_ms: match start {
                    GroupStart::At(at) => Some(at.as_ms()),
                    GroupStart::Earliest | GroupStart::Latest => None,
                },
            }),
            attempts_max: change.attempts_max,
            backoff: change.backoff.map(|to| BackoffChange { to }),
            fifo: change.fifo,
            paused: change.paused,
            exclusive: change.exclusive,
        };
        match self.ask_catalog(Request::AlterGroup(request)).await? {
            Reply::Group(record) => {
                // Polls that wait must learn that the group goes on.
                self.incarnation()?.wake_all();
                Group::of(&record)
            }
            _ => Err(BrokerError::Confused("alter group")),
        }
    }
}

/// Refuses what the topic as it stands can not become.
fn check_topic(known: &Topic, change: &TopicChange) -> Result<(), BrokerError> {
    if let Some(queues) = change.queues {
        check_queues(queues)?;
        if known.kind == TopicType::Lite && queues != known.queues {
            return Err(BrokerError::BadChange {
                what: "the number of queues",
                name: known.name.to_string(),
                why: "lite topics lie where their names say; make another parent".to_owned(),
            });
        }
    }
    check_columns(known.columns.len() + change.add_columns.len())?;
    let retention = &change.retention;
    let bounded = |ms: Option<i64>| ms.filter(|ms| *ms != 0);
    check_retention(bounded(retention.ms))?;
    check_retention(bounded(retention.tombstones_ms))?;
    check_retention(bounded(retention.table_ms))?;
    let is_apart = retention.table_ms.is_some() || retention.table_bytes.is_some();
    let compacts = retention.compacts == Some(true);
    family::check(known.family.as_deref(), compacts, is_apart)?;
    if let Some(ms) = retention.lite_ms {
        check_expiry(bounded(Some(ms)), known.kind, &known.name)?;
    }
    check_compaction(compacts, known.kind, &known.name)
}
