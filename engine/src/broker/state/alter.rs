//! What the catalog's shard decides on changes of topics and groups: what is not named stays as it is.
//!
//! A change is one record or a refusal, never a part of it; one that changes nothing needs no record.

use std::sync::Arc;

use crate::broker::catalog::Catalog;
use crate::broker::record::{Change, GroupRecord, TopicRecord};
use crate::broker::request::{AlterGroup, AlterTopic, Reason, Reply};
use crate::broker::state::Decision;
use crate::broker::{encoding, family};

/// Decides on a change of a topic.
pub(super) fn decide_topic(
    catalog: &Catalog,
    known: &Arc<TopicRecord>,
    change: AlterTopic,
) -> Decision {
    let refused = |reason, what: &str| Decision::reply(Reply::refused(reason, what));
    let mut topic = TopicRecord::clone(known);
    if change.queues != 0 {
        if change.queues < topic.queues {
            let why = format!(
                "topic {:?} has {} queues, and they can only become more; ask for at least as many, or make another topic",
                topic.name, topic.queues
            );
            return refused(Reason::BadChange, &why);
        }
        let keeps_last = topic.compacts || !topic.primary_key.is_empty();
        if keeps_last && change.queues > topic.queues {
            // The queue of a key is its hash among the queues, and which row counts is decided queue by queue.
            let why = format!(
                "of topic {:?} the last row of each key counts, and rows of a key must stay in one queue; make another topic with more queues, and copy the rows",
                topic.name
            );
            return refused(Reason::BadChange, &why);
        }
        topic.queues = change.queues;
    }
    if let Some(schema) = change.schema {
        let last = topic.schemas.last().map_or(0, |last| last.version);
        // Whoever checked it checked it against the last version that there was then.
        if schema.version != last + 1 {
            let why = "another version of the schema was added meanwhile; try again";
            return refused(Reason::BadChange, why);
        }
        topic.schemas.push(schema);
    }
    topic.compatibility = change.compatibility.unwrap_or(topic.compatibility);
    if let Some(ms) = change.lite_expiry_ms {
        topic.lite_expiry_ms = Some(ms).filter(|ms| *ms > 0);
    }
    for column in change.add_columns {
        if topic.columns.iter().any(|known| known.name == column.name) {
            let why = encoding::column_exists(&topic, &column.name);
            return refused(Reason::BadChange, &why);
        }
        topic.columns.push(column);
    }
    if let Some(ms) = change.retention_ms {
        topic.retention_ms = Some(ms).filter(|ms| *ms > 0);
    }
    if let Some(bytes) = change.retention_bytes {
        topic.retention_bytes = Some(bytes).filter(|bytes| *bytes > 0);
    }
    topic.compacts = change.compacts.unwrap_or(topic.compacts);
    if let Some(ms) = change.tombstones_ms {
        topic.tombstones_ms = Some(ms).filter(|ms| *ms > 0);
    }
    if change.table_as_log {
        (topic.table_ms, topic.table_bytes) = (None, None);
    }
    topic.table_ms = change.table_ms.or(topic.table_ms);
    topic.table_bytes = change.table_bytes.or(topic.table_bytes);
    if topic == **known {
        return Decision::reply(Reply::Topic(Box::new(topic)));
    }
    if topic.queues != known.queues && family::is_full(catalog, &topic) {
        return refused(Reason::FamilyFull, &topic.family);
    }
    Decision::change(
        &Change::TopicSet(topic.clone()),
        Reply::Topic(Box::new(topic)),
    )
}

/// Decides on a change of a group.
pub(super) fn decide_group(known: &Arc<GroupRecord>, change: AlterGroup) -> Decision {
    let mut group = GroupRecord::clone(known);
    if let Some(start) = change.start {
        group.from_latest = start.latest;
        group.start_at_ms = start.at_ms;
    }
    group.attempts_max = change.attempts_max.unwrap_or(group.attempts_max);
    if let Some(backoff) = change.backoff {
        group.backoff = backoff.to;
    }
    group.fifo = change.fifo.unwrap_or(group.fifo);
    group.paused = change.paused.unwrap_or(group.paused);
    if let (Some(lite), Some(exclusive)) = (&mut group.lite, change.exclusive) {
        lite.exclusive = exclusive;
    }
    if group == **known {
        return Decision::reply(Reply::Group(group));
    }
    Decision::change(&Change::GroupSet(group.clone()), Reply::Group(group))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millpond_proto::limits;

    use super::*;
    use crate::broker::record::SchemaRecord;

    fn topic(versions: u32) -> Arc<TopicRecord> {
        let version = |version| SchemaRecord {
            version,
            text: Bytes::new(),
        };
        Arc::new(TopicRecord {
            queues: 4,
            schemas: (1..=versions).map(version).collect(),
            ..TopicRecord::default()
        })
    }

    fn add(version: u32) -> AlterTopic {
        AlterTopic {
            schema: Some(SchemaRecord {
                version,
                text: Bytes::from_static(b"{}"),
            }),
            ..AlterTopic::default()
        }
    }

    #[test]
    fn a_version_follows_the_last_one_or_is_refused_with_the_rest_of_the_change() {
        let catalog = Catalog::default();
        assert!(matches!(
            decide_topic(&catalog, &topic(1), add(2)).reply,
            Reply::Topic(topic) if topic.schemas.len() == 2
        ));
        for version in [1, 3] {
            let change = AlterTopic {
                queues: 8,
                ..add(version)
            };
            let decision = decide_topic(&catalog, &topic(1), change);
            assert!(decision.records.is_empty(), "version {version}");
            assert!(
                matches!(decision.reply, Reply::Refused(_)),
                "version {version}"
            );
        }
    }

    #[test]
    fn queues_beyond_those_of_a_family_are_refused() {
        let of_family = |id, queues| TopicRecord {
            id,
            name: format!("t{id}"),
            queues,
            family: "meters".to_owned(),
            ..TopicRecord::default()
        };
        let most = u32::try_from(limits::FAMILY_QUEUES_MAX).unwrap();
        let mut catalog = Catalog::default();
        catalog.apply(&Change::TopicSet(of_family(1, most - 2)));
        let small = Arc::new(of_family(2, 1));
        catalog.apply(&Change::TopicSet(of_family(2, 1)));
        let grown = |queues| AlterTopic {
            queues,
            ..AlterTopic::default()
        };
        let decided = |queues| decide_topic(&catalog, &small, grown(queues)).reply;
        assert!(matches!(decided(2), Reply::Topic(_)));
        assert!(matches!(
            decided(3),
            Reply::Refused(refused) if refused.reason() == Reason::FamilyFull
        ));
    }

    #[test]
    fn a_change_of_nothing_writes_nothing() {
        let decision = decide_topic(&Catalog::default(), &topic(1), AlterTopic::default());
        assert!(decision.records.is_empty());
        assert!(matches!(decision.reply, Reply::Topic(same) if *same == *topic(1)));
        let group = Arc::new(GroupRecord::default());
        let decision = decide_group(&group, AlterGroup::default());
        assert!(decision.records.is_empty());
    }
}
