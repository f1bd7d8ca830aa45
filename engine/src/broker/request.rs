//! What a shard is asked and what it answers: plain values that can cross a wire.
//!
//! In one process they travel through a channel as they are. A broker that does not own a shard sends
//! the same values, encoded, to the one that does; that is why they hold numbers and bytes only.

mod alter;
mod consume;
mod reply;

use millpond_storage::format::envelope::Envelope;

use crate::broker::lite::{EndLites, ListLites, PopLite, StartLite};
use crate::broker::record::{
    CutRecord, Erasure, GroupOffset, GroupRecord, JobRecord, Saved, SavepointRecord, TopicRecord,
    Trimmed, ViewSwapped,
};
use crate::broker::shelf::Checked;
use crate::broker::state::shelving::{
    Buckets, DelayedFrom, EndHalf, Fire, Recall, Shelve, TransactionsOf,
};

pub use alter::{AlterGroup, AlterTopic, BackoffChange, StartAt};
pub use consume::{
    Ack, Bury, CloneGroup, EndTransfers, FatesOf, Handle, InFlight, Look, Move, Outstanding, Place,
    Pop, Renew, Reopen, Reset, Return, Scan, Settle, TransfersOf,
};
pub use reply::{
    Acks, Fate, FateKind, Fates, HeldMessage, HeldMessages, Lease, Leases, NotedOffset, Progress,
    QueuePlace, QueueProgress, Reason, Refused, Reply, ShardReply, Snapshot, Stand, Stands, Stored,
    Transfers,
};

/// Messages to store; topic and queue are set, offset and store time are the shard's to give.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Send {
    /// In the order in which they are to be stored.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<Envelope>,
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

/// Another text for a remembered statement.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReplaceJob {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub id: u64,
    /// The whole statement.
    #[prost(string, tag = "2")]
    pub sql: String,
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
    #[prost(message, boxed, tag = "20")]
    CreateTopic(Box<TopicRecord>),
    /// Answers [`Reply::Topic`].
    #[prost(message, tag = "21")]
    AlterTopic(AlterTopic),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "161")]
    ReplaceJob(ReplaceJob),
    /// The settings of the job with this id. Answers [`Reply::Done`].
    #[prost(message, tag = "210")]
    SetJob(JobRecord),
    /// Answers [`Reply::NewJob`] with the job that has the name now.
    #[prost(message, tag = "162")]
    SwapView(ViewSwapped),
    /// Id is the shard's to give. Answers [`Reply::Done`].
    #[prost(message, tag = "250")]
    CreateSavepoint(SavepointRecord),
    /// By id. Answers [`Reply::Done`].
    #[prost(fixed64, tag = "251")]
    DropSavepoint(u64),
    /// By name. Answers [`Reply::Topic`] with what it was.
    #[prost(string, tag = "22")]
    DropTopic(String),
    /// Answers [`Reply::Done`].
    #[prost(fixed64, tag = "23")]
    TopicGone(u64),
    /// Id is the shard's to give. Answers [`Reply::Group`].
    #[prost(message, tag = "24")]
    CreateGroup(GroupRecord),
    /// Answers [`Reply::Group`].
    #[prost(message, tag = "265")]
    AlterGroup(AlterGroup),
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
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "190")]
    NoteErasure(Erasure),
    /// Answers [`Reply::Stands`].
    #[prost(message, tag = "30")]
    Look(Look),
    /// Answers [`Reply::Done`], also when nothing is held any more.
    #[prost(message, tag = "31")]
    Renew(Renew),
    /// Leases that are renewed and end within so many ms. Answers [`Reply::Held`].
    #[prost(int64, tag = "32")]
    Renewable(i64),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "33")]
    Return(Return),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "34")]
    Bury(Bury),
    /// The oldest transfers under way behind one. Answers [`Reply::Transfers`].
    #[prost(message, tag = "270")]
    Transfers(TransfersOf),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "36")]
    Place(Place),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "37")]
    Reopen(Reopen),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "38")]
    EndTransfers(EndTransfers),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "39")]
    Settle(Settle),
    /// Answers [`Reply::Stored`] with the offsets.
    #[prost(message, tag = "40")]
    Outstanding(Outstanding),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "41")]
    Reset(Reset),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "42")]
    CloneGroup(CloneGroup),
    /// Answers [`Reply::Fates`].
    #[prost(message, tag = "55")]
    Fates(FatesOf),
    /// Answers [`Reply::Held`].
    #[prost(message, tag = "43")]
    InFlight(InFlight),
    /// A consumer is gone: its renewed leases end now. Answers [`Reply::Done`].
    #[prost(string, tag = "44")]
    Release(String),
    /// Answers [`Reply::Shelved`].
    #[prost(message, tag = "100")]
    Shelve(Shelve),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "101")]
    Fire(Fire),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "102")]
    Recall(Recall),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "103")]
    EndHalf(EndHalf),
    /// Answers [`Reply::WaitingBucket`].
    #[prost(message, tag = "104")]
    Delayed(DelayedFrom),
    /// Answers [`Reply::OpenTransactions`].
    #[prost(message, tag = "105")]
    Transactions(TransactionsOf),
    /// Producers were asked, or there was nobody. Answers [`Reply::Done`].
    #[prost(message, tag = "106")]
    Checked(Checked),
    /// Answers [`Reply::Buckets`].
    #[prost(message, tag = "107")]
    SweepShelf(Buckets),
    /// Answers [`Reply::Leases`].
    #[prost(message, tag = "180")]
    PopLite(PopLite),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "181")]
    StartLite(StartLite),
    /// Answers [`Reply::LitePage`].
    #[prost(message, tag = "182")]
    ListLites(ListLites),
    /// Answers [`Reply::LitePage`] with how many ended.
    #[prost(message, tag = "183")]
    EndLites(EndLites),
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
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 36, 37, 38, 39, 40, 41, 42, 43, 44, 55, 60, 70, 80, 81, 100, 101, 102, 103, 104, 105, 106, 107, 160, 161, 162, 180, 181, 182, 183, 190, 210, 250, 251, 270"
    )]
    pub request: Option<Request>,
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
                scans: vec![Scan {
                    queue: 3,
                    from: 1,
                    to: 9,
                    accepted: Vec::new(),
                }],
                ..Pop::default()
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
                ..Leases::default()
            })),
        };
        assert_eq!(
            ShardReply::decode(reply.encode_to_vec().as_slice()).unwrap(),
            reply
        );
    }
}
