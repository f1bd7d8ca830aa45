//! The refusals of the broker: each says what, which, and what to do next.
//!
//! What a shard answers becomes one of these in [`topic`](super::topic); which code of the wire it is, `service/code.rs` knows alone.

use millpond_proto::message::{Offset, QueueId};
use millpond_proto::name::NameError;
use millpond_proto::remedy::Remedy;
use millpond_storage::error::{AppendError, ReadError};

/// Why the broker refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// A name breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No such topic.
    #[error("topic {name:?} does not exist; create it with: millpond topic create {name}")]
    TopicNotFound {
        /// Name asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{what} {name:?} exists already; choose another name or delete it first")]
    Exists {
        /// "topic", "consumer group" or "job".
        what: &'static str,
        /// Name.
        name: String,
    },
    /// No such group.
    #[error("consumer group {name:?} does not exist; create it with: millpond group create {name}")]
    GroupNotFound {
        /// Name asked for.
        name: String,
    },
    /// A continuous query writes it.
    #[error("topic {name:?} is written by the continuous query {job:?}; {advice}")]
    WrittenBy {
        /// Topic.
        name: String,
        /// Job.
        job: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// A message without a key, where only the last one of each key is kept.
    #[error(
        "topic {name:?} keeps the last message of each key (cleanup = compact), and a message has none; give it a key \
         or a message group, or keep all messages: millpond topic alter {name} --cleanup delete"
    )]
    KeyMissing {
        /// Topic.
        name: String,
    },
    /// A value outside its bound.
    #[error("{what} is {found}, allowed is {allowed}")]
    OutOfBounds {
        /// Which value.
        what: &'static str,
        /// As given.
        found: String,
        /// The bound in words.
        allowed: String,
    },
    /// An offset that is not kept, or behind the end.
    #[error(
        "offset {offset} of queue {queue} of topic {topic:?} is not there; kept are {first} to \
         {next}, go on at one of them"
    )]
    OffsetOutside {
        /// Topic.
        topic: String,
        /// Queue.
        queue: QueueId,
        /// Offset asked for.
        offset: Offset,
        /// The first one kept.
        first: Offset,
        /// The one that the next message gets.
        next: Offset,
    },
    /// The handle is malformed, of another topic, or its invisible time is over.
    #[error("the receipt handle is no longer valid: {why}; receive the message again")]
    InvalidHandle {
        /// Why.
        why: &'static str,
    },
    /// The recall handle is malformed, of another topic, or of a message that is not known.
    #[error(
        "the recall handle is of no message that waits here: {why}; use it as the send answered it"
    )]
    InvalidRecallHandle {
        /// Why.
        why: &'static str,
    },
    /// The message can not be recalled any more.
    #[error("the message was delivered already; a message can be recalled before its time only")]
    TooLateToRecall,
    /// The transaction id is malformed, of another topic or message, or not known any more.
    #[error("the transaction id is of no transaction here: {why}; use it as the send answered it")]
    InvalidTransaction {
        /// Why.
        why: &'static str,
    },
    /// The transaction has ended in another way.
    #[error(
        "the transaction was {how} before; the first decision stands, send the message again if needed"
    )]
    TransactionDecided {
        /// In which.
        how: &'static str,
    },
    /// More than the server may hold.
    #[error("{what}; limit {limit}, try again a little later")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The server has as many as it may have.
    #[error("there are {limit} {what}, which is the limit; {advice}")]
    Full {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// What to do.
        advice: &'static str,
    },
    /// A number of an idempotent producer that is too old to be known.
    #[error(
        "message {sequence} of producer {producer:?} is older than the latest {} that are remembered, so \
         nobody can tell whether it was stored; look for it in the topic before you send it under a new \
         number",
        millpond_proto::limits::PRODUCER_WINDOW
    )]
    StaleSequence {
        /// The producer's id of itself.
        producer: String,
        /// The number.
        sequence: u64,
    },
    /// The topic has no lite topics.
    #[error(
        "topic {name:?} is not of type lite; make one with: millpond topic create NAME --type lite"
    )]
    NoParent {
        /// Topic.
        name: String,
    },
    /// The group reads the lite topics of another parent.
    #[error(
        "group {group:?} reads the lite topics of {parent:?} and not those of {topic:?}; use another group"
    )]
    OtherParent {
        /// Group.
        group: String,
        /// Its parent.
        parent: String,
        /// The one asked for.
        topic: String,
    },
    /// The group reads whole topics.
    #[error(
        "group {group:?} reads whole topics and no lite topics; make one that does with: \
         millpond group create NAME --lite TOPIC"
    )]
    NotLite {
        /// Group.
        group: String,
    },
    /// The messages of lite topics are not kept by key.
    #[error(
        "topic {name:?} has lite topics, which keep all their messages until they end; leave out the cleanup by \
         key, or use a topic of another type"
    )]
    LiteCompaction {
        /// Its name.
        name: String,
    },
    /// No lite topic of that name.
    #[error("topic {topic:?} has no lite topic {name:?}; its first message makes it")]
    LiteTopicNotFound {
        /// Parent.
        topic: String,
        /// Name asked for.
        name: String,
    },
    /// Too many lite topics, or too many messages in one.
    #[error("{what}: {name:?}; limit {limit}, {advice}")]
    LiteTopicsFull {
        /// What there is too much of.
        what: &'static str,
        /// Lite topic.
        name: String,
        /// The bound.
        limit: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Too many subscriptions to lite topics.
    #[error("{what} {limit} lite topics, which is the limit; unsubscribe from some first")]
    LiteSubscriptions {
        /// Who.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// A topic that can not be of a family, or be called as one.
    #[error("family {family:?} can not have the topic: {why}")]
    NotInFamily {
        /// The family.
        family: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A change that is not possible.
    #[error("{what} of {name:?} can not be changed: {why}")]
    BadChange {
        /// What was to be changed.
        what: &'static str,
        /// Of which object.
        name: String,
        /// Why not.
        why: String,
    },
    /// A change that its shard's owner refused, and why.
    #[error("{0}")]
    ChangeRefused(String),
    /// An error of ours.
    #[error("a shard answered what it was not asked ({0}); please report this")]
    Confused(&'static str),
    /// The shard stays closed because its state is damaged.
    #[error("{0}")]
    ShardDamaged(String),
    /// Not durable; the outcome is unknown.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A message could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl BrokerError {
    /// Whether it says that nothing was done: what was asked for did not happen, and never will.
    ///
    /// The others leave open what became of it.
    #[must_use]
    pub fn says_nothing_was_done(&self) -> bool {
        !matches!(
            self,
            Self::Append(AppendError::Failed { .. })
                | Self::StaleSequence { .. }
                | Self::Confused(_)
        )
    }

    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Name(error) => error.remedy(),
            Self::TopicNotFound { .. }
            | Self::Exists { .. }
            | Self::GroupNotFound { .. }
            | Self::WrittenBy { .. }
            | Self::KeyMissing { .. }
            | Self::OutOfBounds { .. }
            | Self::BadChange { .. }
            | Self::ChangeRefused(_)
            | Self::NotInFamily { .. }
            | Self::OffsetOutside { .. }
            | Self::InvalidRecallHandle { .. }
            | Self::TooLateToRecall
            | Self::InvalidTransaction { .. }
            | Self::TransactionDecided { .. }
            | Self::StaleSequence { .. }
            | Self::NoParent { .. }
            | Self::OtherParent { .. }
            | Self::NotLite { .. }
            | Self::LiteCompaction { .. }
            | Self::LiteTopicNotFound { .. }
            | Self::Full { .. }
            | Self::InvalidHandle { .. } => Remedy::FixRequest,
            Self::Confused(_) => Remedy::Bug,
            Self::TooMany { .. } | Self::LiteTopicsFull { .. } | Self::LiteSubscriptions { .. } => {
                Remedy::Retry
            }
            Self::ShardDamaged(_) => Remedy::Operator,
            Self::Append(error) => error.remedy(),
            Self::Read(error) => error.remedy(),
        }
    }
}
