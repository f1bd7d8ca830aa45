//! What a shard is asked and what it answers: plain values that can cross a wire.
//!
//! In one process they travel through a channel as they are. A broker that does not own a shard sends
//! the same values, encoded, to the one that does; that is why they hold numbers and bytes only.

use bytes::Bytes;
use millpond_storage::format::envelope::Envelope;

use crate::broker::record::{
    ColumnRecord, CutRecord, GroupOffset, GroupRecord, JobRecord, JobSnapshot, Saved, TopicRecord,
    Trimmed,
};

/// Messages to store; topic and queue are set, offset and store time are the shard's to give.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Send {
    /// In the order in which they are to be stored.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<Envelope>,
}

/// A poll of some queues of one topic.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pop {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queues, in the order in which they are to be visited.
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    /// Most messages.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// How long they stay invisible.
    #[prost(int64, tag = "5")]
    pub invisible_ms: i64,
    /// Whether a group that meets a queue starts behind what it holds.
    #[prost(bool, tag = "6")]
    pub from_latest: bool,
}

/// One delivery, as its handle names it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Handle {
    /// Queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Lease.
    #[prost(fixed64, tag = "3")]
    pub lease: u64,
}

/// Acknowledgements.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Deliveries.
    #[prost(message, repeated, tag = "3")]
    pub handles: Vec<Handle>,
}

/// A change of invisible time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Move {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Delivery.
    #[prost(message, required, tag = "3")]
    pub handle: Handle,
    /// Invisible from now on for.
    #[prost(int64, tag = "4")]
    pub invisible_ms: i64,
}

/// One part of an epoch's output.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Effect {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Output topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Epoch.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Part of the epoch for this shard, from 0.
    #[prost(uint32, tag = "4")]
    pub part: u32,
    /// Rows; queue is set.
    #[prost(message, repeated, tag = "5")]
    pub messages: Vec<Envelope>,
}

/// A change of a topic: the number of queues (0: as it is) and new columns.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AlterTopic {
    /// Topic.
    #[prost(string, tag = "1")]
    pub name: String,
    /// New number of queues.
    #[prost(uint32, tag = "2")]
    pub queues: u32,
    /// Columns to add.
    #[prost(message, repeated, tag = "3")]
    pub add_columns: Vec<ColumnRecord>,
    /// New time to keep messages; 0: for ever; none: as it is.
    #[prost(int64, optional, tag = "9")]
    pub retention_ms: Option<i64>,
    /// New number of bytes to keep; 0: no bound; none: as it is.
    #[prost(uint64, optional, tag = "10")]
    pub retention_bytes: Option<u64>,
}

/// Which noted offset.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct OffsetOf {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
}

/// Nothing further to say.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// What a shard is asked.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Request {
    /// Answers [`Reply::Stored`].
    #[prost(message, tag = "1")]
    Send(Send),
    /// Answers [`Reply::Leases`].
    #[prost(message, tag = "2")]
    Pop(Pop),
    /// Answers [`Reply::Acks`].
    #[prost(message, tag = "3")]
    Ack(Ack),
    /// Answers [`Reply::Moved`].
    #[prost(message, tag = "4")]
    Move(Move),
    /// No message will be stored before this time (ms) any more. Answers [`Reply::Done`] once
    /// everything stored is durable.
    #[prost(sint64, tag = "5")]
    CloseTick(i64),
    /// Cursors of a group. Answers [`Reply::Progress`].
    #[prost(fixed64, tag = "6")]
    Progress(u64),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "7")]
    Effect(Effect),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "8")]
    Commit(CutRecord),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "9")]
    Saved(Saved),
    /// Answers [`Reply::Job`].
    #[prost(fixed64, tag = "10")]
    Job(u64),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "11")]
    ForgetTopic(u64),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "12")]
    ForgetGroup(u64),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "13")]
    ForgetJob(u64),
    /// The shard's state for a checkpoint. Answers [`Reply::Snapshot`].
    #[prost(message, tag = "14")]
    Snapshot(Empty),
    /// Id is the shard's to give. Answers [`Reply::Topic`].
    #[prost(message, tag = "20")]
    CreateTopic(TopicRecord),
    /// Answers [`Reply::Topic`].
    #[prost(message, tag = "21")]
    AlterTopic(AlterTopic),
    /// By name. Answers [`Reply::Topic`] with what it was.
    #[prost(string, tag = "22")]
    DropTopic(String),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "23")]
    TopicGone(u64),
    /// Id is the shard's to give. Answers [`Reply::Group`].
    #[prost(message, tag = "24")]
    CreateGroup(GroupRecord),
    /// By name. Answers [`Reply::Group`].
    #[prost(message, tag = "25")]
    AlterGroup(GroupRecord),
    /// By name. Answers [`Reply::Group`] with what it was.
    #[prost(string, tag = "26")]
    DropGroup(String),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "27")]
    GroupGone(u64),
    /// Id is the shard's to give. Answers [`Reply::NewJob`].
    #[prost(message, tag = "28")]
    CreateJob(JobRecord),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "29")]
    DropJob(u64),
    /// Answers [`Reply::Done`], also when it was so before.
    #[prost(message, tag = "70")]
    PauseJob(JobPause),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "80")]
    NoteOffset(GroupOffset),
    /// Answers [`Reply::NotedOffset`].
    #[prost(message, tag = "81")]
    OffsetOf(OffsetOf),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "60")]
    Trim(Trimmed),
}

/// A job is to rest, or to go on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobPause {
    /// Which.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// Whether it rests.
    #[prost(bool, tag = "2")]
    pub paused: bool,
}

/// A request on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardRequest {
    /// The request.
    #[prost(
        oneof = "Request",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 60, 70, 80, 81"
    )]
    pub request: Option<Request>,
}

/// Places of stored messages, in the order sent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    /// One per message.
    #[prost(uint64, repeated, tag = "1")]
    pub offsets: Vec<u64>,
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
    /// Too many topics, groups or jobs.
    TooMany = 8,
    /// Queues can only be added, columns must be new.
    BadChange = 9,
    /// An epoch out of order.
    EpochOrder = 10,
    /// The shard's state is damaged.
    Damaged = 11,
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
    #[prost(message, tag = "9")]
    Topic(TopicRecord),
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
}

/// A reply on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardReply {
    /// The reply.
    #[prost(oneof = "Reply", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 41")]
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

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn requests_and_replies_cross_a_wire_unchanged() {
        let request = ShardRequest {
            request: Some(Request::Pop(Pop {
                group: 7,
                topic: 9,
                queues: vec![3, 1],
                limit: 32,
                invisible_ms: 30_000,
                from_latest: true,
            })),
        };
        assert_eq!(
            ShardRequest::decode(request.encode_to_vec().as_slice()).unwrap(),
            request
        );
        let lease = Lease {
            handle: Handle {
                queue: 3,
                offset: 4,
                lease: 5,
            },
            attempt: 2,
        };
        let reply = ShardReply {
            reply: Some(Reply::Leases(Leases {
                leases: vec![lease],
                next_due_ms: Some(-1),
                more: 7,
            })),
        };
        assert_eq!(
            ShardReply::decode(reply.encode_to_vec().as_slice()).unwrap(),
            reply
        );
    }
}
