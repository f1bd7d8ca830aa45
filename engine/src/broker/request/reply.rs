//! What a shard answers, and why it refuses.

use bytes::Bytes;

use crate::broker::lite::{LitePage, LiteStand};
use crate::broker::record::{GroupRecord, Holder, JobRecord, JobSnapshot, TopicRecord, Transfer};
use crate::broker::request::{Empty, Handle};
use crate::broker::state::shelving::{AllShelved, Buckets, OpenTransactions, WaitingBucket};

/// Places of stored messages, in the order sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    /// One per message.
    #[prost(uint64, repeated, tag = "1")]
    pub offsets: Vec<u64>,
    /// Which of them were not stored, because their producer's number is too old to be known.
    #[prost(uint32, repeated, tag = "50")]
    pub stale: Vec<u32>,
}

/// A delivered message, without its content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Lease {
    /// Names the delivery.
    #[prost(message, required, tag = "1")]
    pub handle: Handle,
    /// From 1.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// The outcome of a poll.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Leases {
    /// Delivered, by queue and offset.
    #[prost(message, repeated, tag = "1")]
    pub leases: Vec<Lease>,
    /// When the next invisible message of these queues comes back, ms.
    #[prost(sint64, optional, tag = "2")]
    pub next_due_ms: Option<i64>,
    /// How many more could be delivered now; at least one when there is one.
    #[prost(uint32, tag = "3")]
    pub more: u32,
    /// Queues that the group meets and that were left alone.
    #[prost(uint32, repeated, tag = "4")]
    pub unstarted: Vec<u32>,
    /// Whether messages are on their way to the dead letters.
    #[prost(bool, tag = "5")]
    pub buried: bool,
    /// Whether a cursor moved, with or without a delivery.
    #[prost(bool, tag = "6")]
    pub advanced: bool,
    /// Group.
    #[prost(fixed64, tag = "7")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "8")]
    pub topic: u64,
    /// Whether there is something new that is not delivered because too much is in flight.
    #[prost(bool, tag = "55")]
    pub full: bool,
    /// The lite topics that a poll of such came to.
    #[prost(message, repeated, tag = "80")]
    pub lites: Vec<LiteStand>,
}

/// Where a group stands in one queue, as a poll needs it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stand {
    /// Queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// Whether the group has been here.
    #[prost(bool, tag = "2")]
    pub known: bool,
    /// First offset never delivered.
    #[prost(uint64, tag = "3")]
    pub next: u64,
    /// Priorities of those before it that could be delivered now, best first.
    #[prost(sint32, repeated, tag = "4")]
    pub ready: Vec<i32>,
    /// How many messages may still be parked.
    #[prost(uint32, tag = "5")]
    pub parking_room: u32,
    /// What the same attempt id holds still.
    #[prost(message, repeated, tag = "6")]
    pub repeats: Vec<Lease>,
    /// Whether some message is to go to the dead letters.
    #[prost(bool, tag = "7")]
    pub dead: bool,
}

/// Where a group stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stands {
    /// By queue, as asked.
    #[prost(message, repeated, tag = "1")]
    pub stands: Vec<Stand>,
    /// When the next invisible message of these queues comes back, ms.
    #[prost(sint64, optional, tag = "2")]
    pub next_due_ms: Option<i64>,
}

/// One message or lease that somebody holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeldMessage {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Names the delivery.
    #[prost(message, required, tag = "3")]
    pub handle: Handle,
    /// Deliveries so far.
    #[prost(uint32, tag = "4")]
    pub attempts: u32,
    /// When it becomes visible again, ms.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// Who holds it.
    #[prost(message, optional, tag = "6")]
    pub holder: Option<Holder>,
}

/// What is held.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeldMessages {
    /// By topic, queue and offset.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<HeldMessage>,
}

/// Transfers under way.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transfers {
    /// Oldest first.
    #[prost(message, repeated, tag = "1")]
    pub transfers: Vec<Transfer>,
}

/// One answer per handle, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Acks {
    /// Whether the message is acknowledged, now or before.
    #[prost(bool, repeated, tag = "1")]
    pub acknowledged: Vec<bool>,
}

/// Where a group stands in one queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueueProgress {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Every offset below is acknowledged.
    #[prost(uint64, tag = "3")]
    pub ack_floor: u64,
    /// First offset never delivered.
    #[prost(uint64, tag = "4")]
    pub next: u64,
    /// Invisible now.
    #[prost(uint64, tag = "5")]
    pub in_flight: u64,
    /// Not acknowledged.
    #[prost(uint64, tag = "6")]
    pub lag: u64,
}

/// Where a group stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Progress {
    /// By topic and queue.
    #[prost(message, repeated, tag = "1")]
    pub queues: Vec<QueueProgress>,
}

/// The offset that a reader noted, if it did.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct NotedOffset {
    /// Offset.
    #[prost(uint64, optional, tag = "1")]
    pub offset: Option<u64>,
}

/// A queue behind which there is more to do.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct QueuePlace {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
}

/// A shard's state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snapshot {
    /// The projection's encoding.
    #[prost(bytes = "bytes", tag = "1")]
    pub state: Bytes,
    /// Everything of the shard below this position is in `state`.
    #[prost(uint64, tag = "2")]
    pub position: u64,
}

/// Why a shard did not do what it was asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refused {
    /// Which reason.
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    /// The name or number concerned.
    #[prost(string, tag = "2")]
    pub what: String,
}

/// Reasons of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// An error of ours: the request made no sense.
    Malformed = 0,
    /// A topic of that name exists.
    TopicExists = 1,
    /// No topic of that name.
    TopicNotFound = 2,
    /// A group of that name exists.
    GroupExists = 3,
    /// No group of that name.
    GroupNotFound = 4,
    /// A job of that name exists.
    JobExists = 5,
    /// The delivery's time is over, or another one has taken its place.
    HandleExpired = 6,
    /// The message is acknowledged.
    HandleAcknowledged = 7,
    /// Too many topics.
    TopicsFull = 8,
    /// Queues can only be added, columns must be new.
    BadChange = 9,
    /// An epoch out of order.
    EpochOrder = 10,
    /// The shard's state is damaged.
    Damaged = 11,
    /// Too many messages would have to be passed over.
    TooFarAhead = 12,
    /// The message was delivered, or the transaction committed.
    AlreadyPlaced = 40,
    /// The transaction was rolled back.
    AlreadyWithdrawn = 41,
    /// The transaction was rolled back because nobody had decided on it.
    TransactionGivenUp = 42,
    /// No such message is waiting, or it is not known any more.
    NotShelved = 43,
    /// Too many messages are due in the same hour.
    HourFull = 44,
    /// Too many transactions are open.
    TransactionsFull = 45,
    /// Too many idempotent producers.
    ManyProducers = 50,
    /// Too many groups.
    GroupsFull = 86,
    /// Too many continuous queries.
    JobsFull = 87,
    /// Too many savepoints.
    SavepointsFull = 88,
    /// Too many queues of the topics of a family.
    FamilyFull = 89,
    /// Too many bytes of messages are on their way to the log.
    WayFull = 265,
    /// Too many lite topics in a queue.
    LiteTopicsFull = 80,
    /// Too many messages of a lite topic that somebody has not worked off.
    LiteTopicFull = 81,
    /// The lite topic ended.
    LiteTopicGone = 82,
}

/// What a shard answers.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Reply {
    /// It is done.
    #[prost(message, tag = "1")]
    Done(Empty),
    /// See [`Stored`].
    #[prost(message, tag = "2")]
    Stored(Stored),
    /// See [`Leases`].
    #[prost(message, tag = "3")]
    Leases(Leases),
    /// See [`Acks`].
    #[prost(message, tag = "4")]
    Acks(Acks),
    /// The new lease.
    #[prost(fixed64, tag = "5")]
    Moved(u64),
    /// See [`Progress`].
    #[prost(message, tag = "6")]
    Progress(Progress),
    /// What a job goes on from.
    #[prost(message, tag = "7")]
    Job(JobSnapshot),
    /// See [`Snapshot`].
    #[prost(message, tag = "8")]
    Snapshot(Snapshot),
    /// A topic.
    #[prost(message, boxed, tag = "9")]
    Topic(Box<TopicRecord>),
    /// A group.
    #[prost(message, tag = "10")]
    Group(GroupRecord),
    /// A new job.
    #[prost(message, tag = "11")]
    NewJob(JobRecord),
    /// Nothing was done.
    #[prost(message, tag = "12")]
    Refused(Refused),
    /// See [`NotedOffset`].
    #[prost(message, tag = "41")]
    NotedOffset(NotedOffset),
    /// See [`Stands`].
    #[prost(message, tag = "13")]
    Stands(Stands),
    /// See [`HeldMessages`].
    #[prost(message, tag = "14")]
    Held(HeldMessages),
    /// See [`Transfers`].
    #[prost(message, tag = "15")]
    Transfers(Transfers),
    /// See [`Fates`].
    #[prost(message, tag = "55")]
    Fates(Fates),
    /// See [`AllShelved`].
    #[prost(message, tag = "100")]
    Shelved(AllShelved),
    /// See [`WaitingBucket`].
    #[prost(message, tag = "101")]
    WaitingBucket(WaitingBucket),
    /// See [`OpenTransactions`].
    #[prost(message, tag = "102")]
    OpenTransactions(OpenTransactions),
    /// See [`Buckets`].
    #[prost(message, tag = "103")]
    Buckets(Buckets),
    /// See [`LitePage`].
    #[prost(message, tag = "180")]
    LitePage(LitePage),
    /// A part of it is done: to be asked again for the rest, from this place on where a place is asked for.
    #[prost(message, tag = "270")]
    More(QueuePlace),
}

/// A reply on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardReply {
    /// The reply.
    #[prost(
        oneof = "Reply",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 41, 55, 100, 101, 102, 103, 180, 270"
    )]
    pub reply: Option<Reply>,
}

impl Reply {
    /// A refusal.
    #[must_use]
    pub fn refused(reason: Reason, what: impl Into<String>) -> Self {
        Self::Refused(Refused {
            reason: reason.into(),
            what: what.into(),
        })
    }

    /// Done, with nothing to say.
    #[must_use]
    pub fn done() -> Self {
        Self::Done(Empty {})
    }
}

/// How a group stands with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FateKind {
    /// Its cursor has not come there.
    NotDelivered = 0,
    /// A consumer holds it.
    InFlight = 1,
    /// It was delivered, and waits for another delivery.
    Waiting = 2,
    /// It was passed over until its turn comes.
    Parked = 3,
    /// Acknowledged, dead, not wanted, or before the group's start.
    Done = 4,
}

/// Where a group stands with a message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fate {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// How.
    #[prost(enumeration = "FateKind", tag = "2")]
    pub kind: i32,
    /// Deliveries so far, of one in flight or waiting.
    #[prost(uint32, tag = "3")]
    pub attempts: u32,
    /// Who holds it.
    #[prost(message, optional, tag = "4")]
    pub holder: Option<Holder>,
    /// When it becomes, or became, visible.
    #[prost(sint64, optional, tag = "5")]
    pub until_ms: Option<i64>,
}

/// Where the groups that have been in a queue stand with a message of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fates {
    /// By group.
    #[prost(message, repeated, tag = "1")]
    pub fates: Vec<Fate>,
}
