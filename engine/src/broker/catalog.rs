//! The catalog: topics, groups and jobs by name. It is part of the state of the catalog shard.
//!
//! Deleting crosses shards, so it is an intent (the name is gone, the id stands in a list of dropped
//! ones) and an effect (every shard forgets the id, which may be done twice); when all have, the id
//! leaves the list. Nothing is ever deleted because it is *not* in the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::broker::record::{
    CatalogSnapshot, Change, GroupRecord, JobRecord, SavepointRecord, TopicRecord, ViewSwapped,
};

/// Topics, groups and jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Counts the changes of this run, so that a newer catalog is told from an older one cheaply.
    revision: u64,
    last_id: u64,
    topics: BTreeMap<String, Arc<TopicRecord>>,
    /// The same ones.
    topics_by_id: BTreeMap<u64, Arc<TopicRecord>>,
    groups: BTreeMap<String, Arc<GroupRecord>>,
    jobs: BTreeMap<u64, Arc<JobRecord>>,
    savepoints: BTreeMap<u64, Arc<SavepointRecord>>,
    dropped_topics: BTreeSet<u64>,
    dropped_groups: BTreeSet<u64>,
}

impl Catalog {
    /// Grows with every change; not kept over restarts.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The id that the next object gets. Ids are shared by all kinds and never reused.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicRecord>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: u64) -> Option<&Arc<TopicRecord>> {
        self.topics_by_id.get(&id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<TopicRecord>> {
        self.topics.values()
    }

    /// A group by name.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<&Arc<GroupRecord>> {
        self.groups.get(name)
    }

    /// All groups, by name.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Arc<GroupRecord>> {
        self.groups.values()
    }

    /// All jobs, oldest first.
    pub fn jobs(&self) -> impl ExactSizeIterator<Item = &Arc<JobRecord>> {
        self.jobs.values()
    }

    /// All savepoints, oldest first.
    pub fn savepoints(&self) -> impl ExactSizeIterator<Item = &Arc<SavepointRecord>> {
        self.savepoints.values()
    }

    /// Deleted topics that some shard may still hold.
    pub fn dropped_topics(&self) -> impl Iterator<Item = u64> {
        self.dropped_topics.iter().copied()
    }

    /// Deleted groups that some shard may still hold.
    pub fn dropped_groups(&self) -> impl Iterator<Item = u64> {
        self.dropped_groups.iter().copied()
    }

    /// Applies a change of the catalog; other changes are none of its business.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::TopicSet(topic) => {
                self.last_id = self.last_id.max(topic.id);
                self.put_topic(topic.clone());
            }
            Change::TopicDropped(id) => {
                self.take_topic(*id);
                self.dropped_topics.insert(*id);
            }
            Change::TopicGone(id) => {
                self.dropped_topics.remove(id);
            }
            Change::GroupSet(group) => {
                self.last_id = self.last_id.max(group.id);
                self.groups
                    .insert(group.name.clone(), Arc::new(group.clone()));
            }
            Change::GroupDropped(id) => {
                self.groups.retain(|_, group| group.id != *id);
                self.dropped_groups.insert(*id);
            }
            Change::GroupGone(id) => {
                self.dropped_groups.remove(id);
            }
            Change::JobSet(job) => {
                self.last_id = self.last_id.max(job.id);
                self.jobs.insert(job.id, Arc::new(job.clone()));
            }
            Change::ViewSwapped(swapped) => self.swap(swapped),
            Change::JobDropped(id) => {
                self.jobs.remove(id);
            }
            Change::SavepointSet(savepoint) => {
                self.last_id = self.last_id.max(savepoint.id);
                let set = Arc::new(savepoint.clone());
                self.savepoints.insert(savepoint.id, set);
            }
            Change::SavepointDropped(id) => {
                self.savepoints.remove(id);
            }
            _ => return,
        }
        self.revision += 1;
    }

    fn swap(&mut self, swapped: &ViewSwapped) {
        for dropped in &swapped.dropped {
            self.take_topic(*dropped);
        }
        self.dropped_topics.extend(&swapped.dropped);
        for renamed in &swapped.renamed {
            let Some(topic) = self.take_topic(renamed.id) else {
                continue;
            };
            let mut topic = TopicRecord::clone(&topic);
            topic.name.clone_from(&renamed.name);
            topic.written_by = Some(swapped.name.clone());
            self.put_topic(topic);
        }
        self.jobs.remove(&swapped.old);
        if let Some(job) = self.jobs.get_mut(&swapped.new) {
            let job = Arc::make_mut(job);
            job.name.clone_from(&swapped.name);
            job.sql.clone_from(&swapped.sql);
        }
    }

    /// Puts a topic in the place of the one of its name and the one of its id.
    fn put_topic(&mut self, topic: TopicRecord) {
        self.take_topic(topic.id);
        let topic = Arc::new(topic);
        let before = self.topics.insert(topic.name.clone(), Arc::clone(&topic));
        if let Some(before) = before {
            self.topics_by_id.remove(&before.id);
        }
        self.topics_by_id.insert(topic.id, topic);
    }

    fn take_topic(&mut self, id: u64) -> Option<Arc<TopicRecord>> {
        let topic = self.topics_by_id.remove(&id)?;
        self.topics.remove(&topic.name);
        Some(topic)
    }

    /// The catalog's part of a snapshot.
    #[must_use]
    pub fn snapshot(&self) -> CatalogSnapshot {
        CatalogSnapshot {
            last_id: self.last_id,
            topics: self
                .topics
                .values()
                .map(|topic| TopicRecord::clone(topic))
                .collect(),
            groups: self
                .groups
                .values()
                .map(|group| GroupRecord::clone(group))
                .collect(),
            jobs: self
                .jobs
                .values()
                .map(|job| JobRecord::clone(job))
                .collect(),
            savepoints: self
                .savepoints
                .values()
                .map(|savepoint| SavepointRecord::clone(savepoint))
                .collect(),
            dropped_topics: self.dropped_topics().collect(),
            dropped_groups: self.dropped_groups().collect(),
        }
    }

    /// The catalog that a snapshot holds.
    #[must_use]
    pub fn restore(snapshot: CatalogSnapshot) -> Self {
        let topics: Vec<_> = snapshot.topics.into_iter().map(Arc::new).collect();
        Self {
            revision: 0,
            last_id: snapshot.last_id,
            topics_by_id: topics.iter().map(|t| (t.id, Arc::clone(t))).collect(),
            topics: topics.into_iter().map(|t| (t.name.clone(), t)).collect(),
            groups: snapshot
                .groups
                .into_iter()
                .map(|g| (g.name.clone(), Arc::new(g)))
                .collect(),
            jobs: snapshot
                .jobs
                .into_iter()
                .map(|j| (j.id, Arc::new(j)))
                .collect(),
            savepoints: snapshot
                .savepoints
                .into_iter()
                .map(|savepoint| (savepoint.id, Arc::new(savepoint)))
                .collect(),
            dropped_topics: snapshot.dropped_topics.into_iter().collect(),
            dropped_groups: snapshot.dropped_groups.into_iter().collect(),
        }
    }
}
