//! Savepoints in the catalog: what is remembered of a job's state under a name, and who must not take away what it needs.
//!
//! The state is an object of the state store; whoever asks for a record has written it. A topic is not compacted by key at or behind the
//! place from which a savepoint goes on: a job that begins with it reads what its predecessor would have read.
//! Retention does not wait for savepoints; a job that can not begin any more says what is missing.

use std::collections::BTreeMap;

use millpond_proto::limits;
use millpond_proto::time::Timestamp;
use millpond_sql::savepoint::Savepoint;

use crate::broker::catalog::Catalog;
use crate::broker::record::{Change, CutRecord, QueueOffset, SavepointRecord, TopicRecord};
use crate::broker::request::{Reason, Reply};
use crate::broker::sql::cut;
use crate::broker::state::Decision;

/// Gives a savepoint its id, unless its name is taken.
pub(super) fn decide_create(catalog: &Catalog, mut savepoint: SavepointRecord) -> Decision {
    let mut known = catalog.savepoints();
    if known.len() >= limits::SAVEPOINTS_MAX {
        return Decision::reply(Reply::refused(Reason::SavepointsFull, ""));
    }
    if known.any(|known| known.name == savepoint.name) {
        let taken = "a savepoint of that name exists";
        return Decision::reply(Reply::refused(Reason::BadChange, taken));
    }
    savepoint.id = catalog.next_id();
    Decision::change(&Change::SavepointSet(savepoint), Reply::done())
}

/// Forgets a savepoint, unless it is forgotten already.
pub(super) fn decide_drop(catalog: &Catalog, id: u64) -> Decision {
    match catalog.savepoints().any(|known| known.id == id) {
        true => Decision::change(&Change::SavepointDropped(id), Reply::done()),
        false => Decision::reply(Reply::done()),
    }
}

/// Where a savepoint reads on, by queue of a topic; none: it does not read the topic.
pub(super) fn bound_of(
    savepoint: &SavepointRecord,
    topic: &TopicRecord,
) -> Option<BTreeMap<u32, u64>> {
    let offsets = savepoint.cut.iter().flat_map(|cut| &cut.offsets);
    let offsets = offsets.filter(|at| at.topic == topic.id);
    let known: BTreeMap<u32, u64> = offsets.map(|at| (at.queue, at.offset)).collect();
    if known.is_empty() && !savepoint.sql.contains(&topic.name) {
        return None;
    }
    // A queue that nothing was read from is read from its beginning.
    let queues = (0..topic.queues).map(|queue| (queue, *known.get(&queue).unwrap_or(&0)));
    Some(queues.collect())
}

/// The record of a savepoint.
pub(super) fn record_of(savepoint: Savepoint) -> SavepointRecord {
    let offsets = savepoint.cut.offsets.into_iter();
    SavepointRecord {
        id: savepoint.id,
        name: savepoint.name,
        job: savepoint.job,
        sql: savepoint.sql,
        computes: savepoint.computes,
        cut: Some(CutRecord {
            job: 0,
            epoch: savepoint.cut.epoch,
            tick_ms: savepoint.cut.tick_ms,
            offsets: offsets
                .map(|(topic, queue, offset)| QueueOffset {
                    topic,
                    queue,
                    offset,
                })
                .collect(),
            outputs: Vec::new(),
        }),
        key: savepoint.key,
        size_bytes: savepoint.size_bytes,
        saved_at_ms: savepoint.saved_at.as_ms(),
    }
}

/// The savepoint of a record.
pub(super) fn savepoint_of(record: &SavepointRecord) -> Savepoint {
    Savepoint {
        id: record.id,
        name: record.name.clone(),
        job: record.job.clone(),
        sql: record.sql.clone(),
        computes: record.computes.clone(),
        cut: cut(record.cut.clone().unwrap_or_default()),
        key: record.key.clone(),
        size_bytes: record.size_bytes,
        saved_at: Timestamp(record.saved_at_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millpond_sql::topic::EpochCut;

    fn savepoint() -> Savepoint {
        Savepoint {
            id: 0,
            name: "s".to_owned(),
            job: "j".to_owned(),
            sql: "CREATE JOB j AS INSERT INTO u SELECT a FROM t".to_owned(),
            computes: "query".to_owned(),
            cut: EpochCut {
                epoch: 3,
                tick_ms: 700,
                offsets: vec![(7, 1, 12)],
            },
            key: "savepoints/1-s".to_owned(),
            size_bytes: 99,
            saved_at: Timestamp(5),
        }
    }

    #[test]
    fn a_savepoint_comes_back_from_its_record() {
        assert_eq!(savepoint_of(&record_of(savepoint())), savepoint());
    }

    #[test]
    fn a_name_is_taken_once_and_free_when_its_savepoint_is_dropped() {
        let mut catalog = Catalog::default();
        let record = SavepointRecord {
            id: 1,
            ..record_of(savepoint())
        };
        assert!(!decide_create(&catalog, record.clone()).records.is_empty());
        catalog.apply(&Change::SavepointSet(record.clone()));
        assert!(decide_create(&catalog, record.clone()).records.is_empty());
        assert_eq!(Catalog::restore(catalog.snapshot()).savepoints().len(), 1);
        assert_eq!(catalog.next_id(), 2);
        assert!(!decide_drop(&catalog, 1).records.is_empty());
        catalog.apply(&Change::SavepointDropped(1));
        assert!(decide_drop(&catalog, 1).records.is_empty());
        assert!(!decide_create(&catalog, record).records.is_empty());
    }

    #[test]
    fn a_topic_that_it_reads_is_held_from_where_it_goes_on() {
        let record = record_of(savepoint());
        let topic = |id, name: &str| TopicRecord {
            id,
            name: name.to_owned(),
            queues: 2,
            ..TopicRecord::default()
        };
        let held = bound_of(&record, &topic(7, "t"));
        assert_eq!(held, Some(BTreeMap::from([(0, 0), (1, 12)])));
        assert_eq!(bound_of(&record, &topic(8, "other")), None);
    }
}
