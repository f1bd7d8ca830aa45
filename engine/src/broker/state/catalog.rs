//! What the catalog's shard decides: which topics, groups and continuous queries there are, and what they are like.
//!
//! Names are given once; an id is never given again. The rest of a change (rows of queues, places of groups) follows from
//! its record in the shards that it concerns.

use millpond_proto::limits;

use crate::broker::catalog::Catalog;
use crate::broker::record::{Change, JobRecord, TopicRecord};
use crate::broker::request::{Reason, Reply, Request};
use crate::broker::state::{Decision, alter};
use crate::broker::{family, savepoint};

impl Catalog {
    /// Decides on a request of the catalog shard; changes nothing.
    pub(super) fn decide(&self, request: Request) -> Decision {
        let refused = |reason, what: &str| Decision::reply(Reply::refused(reason, what));
        match request {
            Request::CreateTopic(topic) if self.topic(&topic.name).is_some() => {
                refused(Reason::TopicExists, &topic.name)
            }
            Request::CreateTopic(topic) if family::is_taken(self, &topic) => {
                refused(Reason::TopicExists, &topic.name)
            }
            Request::CreateTopic(topic) if family::is_full(self, &topic) => {
                refused(Reason::FamilyFull, &topic.family)
            }
            Request::CreateTopic(_) if self.topics().len() >= limits::TOPICS_MAX => {
                refused(Reason::TopicsFull, "")
            }
            Request::CreateTopic(mut topic) => {
                topic.id = self.next_id();
                family::join(self, &mut topic);
                Decision::change(
                    &Change::TopicSet(TopicRecord::clone(&topic)),
                    Reply::Topic(topic),
                )
            }
            Request::AlterTopic(change) => match self.topic(&change.name) {
                Some(topic) => alter::decide_topic(self, topic, change),
                None => refused(Reason::TopicNotFound, &change.name),
            },
            Request::DropTopic(name) => match self.topic(&name) {
                Some(topic) => Decision::change(
                    &Change::TopicDropped(topic.id),
                    Reply::Topic(Box::new(TopicRecord::clone(topic))),
                ),
                None => refused(Reason::TopicNotFound, &name),
            },
            Request::TopicGone(id) => Decision::change(&Change::TopicGone(id), Reply::done()),
            Request::CreateGroup(group) if self.group(&group.name).is_some() => {
                refused(Reason::GroupExists, &group.name)
            }
            Request::CreateGroup(_) if self.groups().len() >= limits::GROUPS_MAX => {
                refused(Reason::GroupsFull, "")
            }
            Request::CreateGroup(mut group) => {
                group.id = self.next_id();
                Decision::change(&Change::GroupSet(group.clone()), Reply::Group(group))
            }
            Request::AlterGroup(change) => match self.group(&change.name) {
                Some(group) => alter::decide_group(group, change),
                None => refused(Reason::GroupNotFound, &change.name),
            },
            Request::DropGroup(name) => match self.group(&name) {
                Some(group) => Decision::change(
                    &Change::GroupDropped(group.id),
                    Reply::Group((**group).clone()),
                ),
                None => refused(Reason::GroupNotFound, &name),
            },
            Request::GroupGone(id) => Decision::change(&Change::GroupGone(id), Reply::done()),
            Request::CreateJob(job) if self.jobs().any(|known| known.name == job.name) => {
                refused(Reason::JobExists, &job.name)
            }
            Request::CreateJob(_) if self.jobs().len() >= limits::JOBS_MAX => {
                refused(Reason::JobsFull, "")
            }
            Request::CreateJob(mut job) => {
                job.id = self.next_id();
                Decision::change(&Change::JobSet(job.clone()), Reply::NewJob(job))
            }
            Request::PauseJob(pause) => match self.jobs().find(|job| job.id == pause.id) {
                Some(job) if job.paused == pause.paused => Decision::reply(Reply::done()),
                Some(job) => {
                    let mut job = JobRecord::clone(job);
                    job.paused = pause.paused;
                    Decision::change(&Change::JobSet(job), Reply::done())
                }
                None => refused(Reason::Malformed, "no such job"),
            },
            Request::SetJob(set) => match self.jobs().find(|job| job.id == set.id) {
                Some(job) => {
                    let mut job = JobRecord::clone(job);
                    job.parallelism = set.parallelism;
                    job.state_bytes_max = set.state_bytes_max;
                    job.restarts_max = set.restarts_max;
                    Decision::change(&Change::JobSet(job), Reply::done())
                }
                None => refused(Reason::Malformed, "no such job"),
            },
            Request::ReplaceJob(change) => match self.jobs().find(|job| job.id == change.id) {
                Some(job) => {
                    let mut job = JobRecord::clone(job);
                    job.sql = change.sql;
                    Decision::change(&Change::JobSet(job), Reply::done())
                }
                None => refused(Reason::Malformed, "no such job"),
            },
            Request::SwapView(swapped) => {
                let of = |id| self.jobs().find(|job| job.id == id);
                let renamed = swapped.renamed.iter();
                let taken = renamed.clone().find(|renamed| {
                    let found = self.topic(&renamed.name);
                    found.is_some_and(|found| !swapped.dropped.contains(&found.id))
                });
                if let Some(taken) = taken {
                    return refused(Reason::TopicExists, &taken.name);
                }
                let gone = renamed.map(|renamed| renamed.id);
                if gone.into_iter().any(|id| self.topic_by_id(id).is_none()) {
                    return refused(
                        Reason::BadChange,
                        "the topic of the new view is gone; submit the view again",
                    );
                }
                match (of(swapped.old), of(swapped.new)) {
                    (Some(_), Some(job)) => {
                        let mut job = JobRecord::clone(job);
                        job.name.clone_from(&swapped.name);
                        job.sql.clone_from(&swapped.sql);
                        Decision::change(&Change::ViewSwapped(swapped), Reply::NewJob(job))
                    }
                    _ => refused(Reason::Malformed, "no such job"),
                }
            }
            Request::CreateSavepoint(savepoint) => savepoint::decide_create(self, savepoint),
            Request::DropSavepoint(id) => savepoint::decide_drop(self, id),
            Request::DropJob(id) => Decision::change(&Change::JobDropped(id), Reply::done()),
            _ => refused(Reason::Malformed, "not a request of the catalog"),
        }
    }
}
