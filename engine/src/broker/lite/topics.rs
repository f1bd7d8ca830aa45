//! Listening to lite topics, and looking after them: what consumers and people ask of the broker.

use std::collections::{BTreeMap, BTreeSet};

use millpond_proto::limits;
use millpond_proto::message::{Offset, ShardId, queue_of};
use millpond_proto::name::{GroupName, TopicName};
use millpond_proto::time::Timestamp;

use crate::broker::incarnation::Incarnation;
use crate::broker::lite::listeners::{Action, OverQuota, Who};
use crate::broker::lite::poll::check_parent;
use crate::broker::lite::{EndLites, ListLites, LiteName, LitePage, StartLite};
use crate::broker::record::{TopicKind, TopicRecord};
use crate::broker::request::{Reply, Request};
use crate::broker::topic::accepted;
use crate::broker::{Broker, BrokerError, GroupStart};

/// Lite topics that a sweep looks at in one breath.
const SWEEP_LITES: u32 = 4096;

/// Where a group is to stand in the lite topics that a consumer adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the first message kept.
    Earliest,
    /// Behind the last one.
    Latest,
    /// At an offset of the parent's queue.
    Offset(Offset),
    /// Before so many of the last messages.
    Tail(u64),
    /// At the first message stored at or after a time.
    Time(Timestamp),
}

/// What a consumer says of the lite topics that it wants.
#[derive(Clone, Debug)]
pub struct Word<'a> {
    /// Group.
    pub group: &'a GroupName,
    /// Parent.
    pub topic: &'a TopicName,
    /// The consumer's client id.
    pub consumer: &'a str,
    /// What becomes of the names.
    pub action: Action,
    /// Names.
    pub names: &'a [String],
    /// Grows with each word of a consumer; an older one is passed over.
    pub version: Option<i64>,
    /// Where the group is to stand in those that it adds; none: where it stood, or as the group says.
    pub start: Option<StartAt>,
}

/// A lite topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteTopic {
    /// Name.
    pub name: String,
    /// Queue of the parent that holds its messages.
    pub queue: u32,
    /// Messages kept.
    pub messages: u64,
    /// When the last one was stored.
    pub stored_at: Timestamp,
    /// When it ends unless another one comes.
    pub ends_at: Timestamp,
    /// Where each group stands, by name; only where one lite topic was asked for.
    pub groups: Vec<LiteStanding>,
}

/// Where a group stands in a lite topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteStanding {
    /// Group.
    pub group: String,
    /// Delivered and invisible.
    pub in_flight: u64,
    /// Not acknowledged.
    pub lag: u64,
}

/// Some lite topics of a parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiteTopics {
    /// By queue and number.
    pub topics: Vec<LiteTopic>,
    /// How many there are in all.
    pub count: u64,
    /// Where to go on; none: that was all.
    pub next: Option<(u16, u32)>,
}

impl Broker {
    /// Notes which lite topics a consumer wants. Answers those that other consumers of an exclusive group have
    /// lost by it: consumer and name.
    ///
    /// # Errors
    /// [`BrokerError`] when the group is not one of this parent, or a bound is reached; nothing was changed.
    pub async fn listen(&self, word: Word<'_>) -> Result<Vec<(String, String)>, BrokerError> {
        let topic = self.lite_parent(word.topic)?;
        let group = self.group_record(word.group)?;
        check_parent(&group, &topic)?;
        let who = Who {
            group: group.id,
            consumer: word.consumer.to_owned(),
        };
        let exclusive = group.lite.as_ref().is_some_and(|lite| lite.exclusive);
        let adds = matches!(word.action, Action::Add | Action::Set);
        // Before it listens: a poll must not be given what is to be skipped.
        let (start, only_new) = match (word.start, crate::broker::Group::of(&group)?.start) {
            (Some(start), _) => (start, false),
            (None, GroupStart::Latest) => (StartAt::Latest, true),
            (None, GroupStart::At(at)) => (StartAt::Time(at), true),
            (None, GroupStart::Earliest) => (StartAt::Earliest, true),
        };
        let said = (word.action, word.names, word.version);
        let now = self.parts.clock.now();
        if adds && (start, only_new) != (StartAt::Earliest, true) {
            // Where a group stands is durable: a word that is refused or outdated must not move it.
            let hears = self.listeners.would_hear(&who, topic.id, said, now);
            if !hears.map_err(over_quota)? {
                return Ok(Vec::new());
            }
            self.start_lite(&topic, group.id, word.names, start, only_new)
                .await?;
        }
        let heard = self.listeners.hear(&who, topic.id, exclusive, said, now);
        let heard = heard.map_err(over_quota)?;
        // After it listens: whatever is made from now on, its shard gives a place in.
        let kept = self.start_lite(&topic, group.id, &heard.new, StartAt::Earliest, true);
        if let Err(error) = kept.await {
            // It says so again, and is new to these names then too.
            let undone = (Action::Remove, heard.new.as_slice(), None);
            let _ = self.listeners.hear(&who, topic.id, false, undone, now);
            return Err(error);
        }
        Ok(heard.taken)
    }

    /// A consumer has said that it is gone.
    pub fn listens_no_more(&self, consumer: &str) {
        self.listeners.forget(consumer);
    }

    /// What each consumer of a group listens to.
    ///
    /// # Errors
    /// [`BrokerError::GroupNotFound`].
    pub fn listeners_of(
        &self,
        group: &GroupName,
    ) -> Result<Vec<(String, Vec<String>)>, BrokerError> {
        let group = self.group_record(group)?;
        Ok(self.listeners.of_group(group.id))
    }

    /// Lite topics of a parent, so many from a place on.
    ///
    /// # Errors
    /// [`BrokerError`] when there is no such parent or the log failed.
    ///
    /// # Panics
    /// Never: the limit is bounded.
    pub async fn lite_topics(
        &self,
        parent: &TopicName,
        from: Option<(u16, u32)>,
        limit: usize,
    ) -> Result<LiteTopics, BrokerError> {
        let topic = self.lite_parent(parent)?;
        let incarnation = self.incarnation()?;
        let limit = limit.clamp(1, limits::READ_MESSAGES_MAX);
        let mut found = LiteTopics::default();
        let (first, mut queue) = from.unwrap_or_default();
        for shard in shards_of(&incarnation, &topic) {
            let is_asked = shard.0 >= first && found.next.is_none();
            let room = if is_asked {
                limit - found.topics.len()
            } else {
                0
            };
            let asked = ListLites {
                topic: topic.id,
                from: queue,
                limit: u32::try_from(room).expect("bounded above"),
                only: None,
            };
            let page = ask_page(&incarnation, shard, Request::ListLites(asked)).await?;
            found.count += page.count;
            if is_asked {
                queue = 0;
                let topics = page.topics.into_iter();
                found
                    .topics
                    .extend(topics.map(|one| self.shown(&topic, one)));
                found.next = page.next.map(|next| (shard.0, next));
            }
        }
        Ok(found)
    }

    /// One lite topic, with where each group stands that has read it.
    ///
    /// # Errors
    /// [`BrokerError::LiteTopicNotFound`] when there is none of that name.
    pub async fn lite_topic(
        &self,
        parent: &TopicName,
        name: &str,
    ) -> Result<LiteTopic, BrokerError> {
        let topic = self.lite_parent(parent)?;
        let incarnation = self.incarnation()?;
        let found = find(&incarnation, &topic, name).await?;
        match found {
            Some(found) => Ok(self.shown(&topic, found)),
            None => Err(not_there(&topic, name)),
        }
    }

    /// Ends a lite topic: no group is given its messages any more. They stay in the parent for as long as that
    /// keeps them.
    ///
    /// # Errors
    /// [`BrokerError::LiteTopicNotFound`] when there is none of that name.
    pub async fn end_lite_topic(&self, parent: &TopicName, name: &str) -> Result<(), BrokerError> {
        let topic = self.lite_parent(parent)?;
        let incarnation = self.incarnation()?;
        let only = place(&topic, name);
        let shard = incarnation.shard(topic.id, only.queue);
        let end = EndLites {
            topic: topic.id,
            only: Some(only),
            ..EndLites::default()
        };
        let page = ask_page(&incarnation, shard, Request::EndLites(end)).await?;
        if page.count == 0 {
            return Err(not_there(&topic, name));
        }
        Ok(())
    }

    /// Ends the lite topics that had no message for as long as their parent says.
    pub(in crate::broker) async fn sweep_lites(
        &self,
        incarnation: &Incarnation,
    ) -> Result<(), BrokerError> {
        let catalog = incarnation.catalog();
        let parents = catalog.topics().filter(|t| t.kind() == TopicKind::Lite);
        for topic in parents {
            let mut ended = 0;
            for shard in shards_of(incarnation, topic) {
                let mut next = Some(0);
                while let Some(from) = next {
                    let end = EndLites {
                        topic: topic.id,
                        only: None,
                        expiry_ms: topic.lite_expiry_ms_or_default(),
                        from,
                        limit: SWEEP_LITES,
                    };
                    let page = ask_page(incarnation, shard, Request::EndLites(end)).await?;
                    ended += page.count;
                    next = page.next;
                }
            }
            if ended > 0 {
                tracing::info!(
                    topic = topic.name,
                    ended,
                    "lite topics had no message for long"
                );
            }
        }
        Ok(())
    }

    async fn start_lite(
        &self,
        topic: &TopicRecord,
        group: u64,
        names: &[String],
        start: StartAt,
        only_new: bool,
    ) -> Result<(), BrokerError> {
        let incarnation = self.incarnation()?;
        let mut by_queue: BTreeMap<u32, Vec<LiteName>> = BTreeMap::new();
        for name in names {
            let name = place(topic, name);
            by_queue.entry(name.queue).or_default().push(name);
        }
        for (queue, names) in by_queue {
            let (offset, tail) = match start {
                StartAt::Earliest => (Some(0), 0),
                StartAt::Latest => (None, 0),
                StartAt::Offset(offset) => (Some(offset.0), 0),
                StartAt::Tail(count) => (None, count),
                StartAt::Time(at) => {
                    let first = incarnation.first_at(topic.id, queue, at).await?;
                    (Some(first.0), 0)
                }
            };
            let start = StartLite {
                group,
                topic: topic.id,
                names,
                offset,
                tail,
                only_new,
            };
            let shard = incarnation.shard(topic.id, queue);
            accepted(incarnation.ask(shard, Request::StartLite(start)).await?)?;
        }
        Ok(())
    }

    fn lite_parent(&self, name: &TopicName) -> Result<std::sync::Arc<TopicRecord>, BrokerError> {
        let topic = self.topic_record(name)?;
        if topic.kind() == TopicKind::Lite {
            return Ok(topic);
        }
        Err(BrokerError::NoParent {
            name: name.to_string(),
        })
    }

    fn shown(&self, topic: &TopicRecord, found: super::LiteTopic) -> LiteTopic {
        let catalog = self.catalog();
        let groups = found.groups.iter().filter_map(|one| {
            let group = catalog.groups().find(|group| group.id == one.group)?;
            Some(LiteStanding {
                group: group.name.clone(),
                in_flight: one.in_flight,
                lag: one.lag,
            })
        });
        LiteTopic {
            queue: super::real(found.queue),
            groups: groups.collect(),
            name: found.name,
            messages: found.messages,
            stored_at: Timestamp(found.stored_at_ms),
            ends_at: Timestamp(
                found
                    .stored_at_ms
                    .saturating_add(topic.lite_expiry_ms_or_default()),
            ),
        }
    }
}

fn over_quota(over: OverQuota) -> BrokerError {
    match over {
        OverQuota::Consumer => BrokerError::LiteSubscriptions {
            what: "this consumer listens to",
            limit: limits::LITE_SUBSCRIPTIONS_MAX,
        },
        OverQuota::Server => BrokerError::LiteSubscriptions {
            what: "the consumers of this server listen to",
            limit: limits::LITE_SUBSCRIPTIONS_ALL_MAX,
        },
    }
}

/// A lite topic as its shard has it; none when it is not there.
pub(in crate::broker) async fn find(
    incarnation: &Incarnation,
    topic: &TopicRecord,
    name: &str,
) -> Result<Option<super::LiteTopic>, BrokerError> {
    let only = place(topic, name);
    let shard = incarnation.shard(topic.id, only.queue);
    let asked = ListLites {
        topic: topic.id,
        only: Some(only),
        ..ListLites::default()
    };
    let page = ask_page(incarnation, shard, Request::ListLites(asked)).await?;
    Ok(page.topics.into_iter().next())
}

fn place(topic: &TopicRecord, name: &str) -> LiteName {
    LiteName {
        queue: queue_of(name.as_bytes(), topic.queues).0,
        name: name.to_owned(),
    }
}

fn not_there(topic: &TopicRecord, name: &str) -> BrokerError {
    BrokerError::LiteTopicNotFound {
        topic: topic.name.clone(),
        name: name.to_owned(),
    }
}

fn shards_of(incarnation: &Incarnation, topic: &TopicRecord) -> BTreeSet<ShardId> {
    let queues = 0..topic.queues;
    let shards = queues.map(|queue| incarnation.shard(topic.id, queue));
    shards.collect()
}

async fn ask_page(
    incarnation: &Incarnation,
    shard: ShardId,
    request: Request,
) -> Result<LitePage, BrokerError> {
    match accepted(incarnation.ask(shard, request).await?)? {
        Reply::LitePage(page) => Ok(page),
        _ => Err(BrokerError::Confused("lite topics")),
    }
}
