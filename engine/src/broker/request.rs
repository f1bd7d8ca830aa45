//! What a shard is asked and what it answers: plain values that can cross a wire.
//!
//! In one process they travel through a channel as they are. A broker that does not own a shard sends
//! the same values, encoded, to the one that does; that is why they hold numbers and bytes only.

use bytes::Bytes;
use millpond_storage::format::envelope::Envelope;

use crate::broker::lite::{EndLites, ListLites, LitePage, LiteStand, PopLite, StartLite};
use crate::broker::record::{
    Backoff, ColumnRecord, CutRecord, Erasure, Fact, GroupOffset, GroupRecord, Holder, JobRecord,
    JobSnapshot, Saved, SchemaRecord, TopicRecord, Transfer, Trimmed, ViewSwapped,
};
use crate::broker::shelf::Checked;
use crate::broker::state::shelving::{
    AllShelved, Buckets, DelayedFrom, EndHalf, Fire, OpenTransactions, Recall, Shelve,
    TransactionsOf, WaitingBucket,
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
    /// Whether a queue that the group meets is left alone and named in the answer.
    #[prost(bool, tag = "7")]
    pub only_known: bool,
    /// A message delivered so often goes to the dead letters; 0: never.
    #[prost(uint32, tag = "8")]
    pub attempts_max: u32,
    /// Who will hold what is delivered.
    #[prost(message, optional, tag = "9")]
    pub holder: Option<Holder>,
    /// Greater priorities first.
    #[prost(bool, tag = "10")]
    pub by_priority: bool,
    /// Whether messages are taken by `scans` only.
    #[prost(bool, tag = "11")]
    pub scanned: bool,
    /// What was read from where the cursors stand, by queue.
    #[prost(message, repeated, tag = "12")]
    pub scans: Vec<Scan>,
}

/// A look at the messages of one queue: which a group wants, and what must be known of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scan {
    /// Queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// First offset looked at.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// One past the last.
    #[prost(uint64, tag = "3")]
    pub to: u64,
    /// Those that the filter accepts, in order; the others in between are not wanted.
    #[prost(message, repeated, tag = "4")]
    pub accepted: Vec<Fact>,
}

/// Where the cursors of a group stand, for a poll that must read before it takes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Look {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queues.
    #[prost(uint32, repeated, tag = "3")]
    pub queues: Vec<u32>,
    /// Most messages that the poll wants.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// Hash of the poll's attempt id; 0: none.
    #[prost(fixed64, tag = "5")]
    pub poll: u64,
    /// Greater priorities first.
    #[prost(bool, tag = "6")]
    pub by_priority: bool,
    /// As in [`Pop`].
    #[prost(uint32, tag = "7")]
    pub attempts_max: u32,
}

/// A lease to be renewed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Renew {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Lease.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// Invisible from now on for.
    #[prost(int64, tag = "5")]
    pub invisible_ms: i64,
}

/// Deliveries that reached nobody.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Return {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Deliveries.
    #[prost(message, repeated, tag = "3")]
    pub handles: Vec<Handle>,
    /// Whether no consumer can have seen them.
    #[prost(bool, tag = "4")]
    pub unseen: bool,
}

/// A delivery whose message is to become a dead letter.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bury {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Delivery.
    #[prost(message, required, tag = "3")]
    pub handle: Handle,
}

/// The effect of burials: messages for the dead letter topic.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Place {
    /// Whose sequences these are.
    #[prost(fixed64, tag = "1")]
    pub origin: u64,
    /// Dead letter topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// One per message, growing.
    #[prost(uint64, repeated, tag = "3")]
    pub sequences: Vec<u64>,
    /// Queue is set.
    #[prost(message, repeated, tag = "4")]
    pub messages: Vec<Envelope>,
}

/// The effect of a redrive: the message is delivered once more where it lies.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reopen {
    /// Whose sequence this is.
    #[prost(fixed64, tag = "1")]
    pub origin: u64,
    /// Its number.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Group.
    #[prost(fixed64, tag = "3")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "4")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "5")]
    pub queue: u32,
    /// The message.
    #[prost(message, required, tag = "6")]
    pub fact: Fact,
}

/// Transfers whose effects are durable, or can not be had.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EndTransfers {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub sequences: Vec<u64>,
    /// Whether the messages are back where they were.
    #[prost(bool, tag = "2")]
    pub back: bool,
}

/// Messages that a group is done with, whoever holds them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Settle {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Offsets, growing.
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
    /// Whether they go back to where they came from.
    #[prost(bool, tag = "5")]
    pub redrive: bool,
}

/// Which messages a group is not done with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Outstanding {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// First offset.
    #[prost(uint64, tag = "4")]
    pub from: u64,
    /// Most.
    #[prost(uint32, tag = "5")]
    pub limit: u32,
}

/// A cursor to be set; what the group held there is let go.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reset {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// First offset that the group will see.
    #[prost(uint64, tag = "4")]
    pub next: u64,
    /// Whether a group that has been here stays where it is.
    #[prost(bool, tag = "5")]
    pub only_new: bool,
}

/// A group that is to stand where another one stands.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloneGroup {
    /// The one that is copied.
    #[prost(fixed64, tag = "1")]
    pub from: u64,
    /// The one that is set.
    #[prost(fixed64, tag = "2")]
    pub to: u64,
}

/// What a group holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InFlight {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Most.
    #[prost(uint32, tag = "2")]
    pub limit: u32,
}

/// Where the groups stand with a message.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct FatesOf {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
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
    /// Instead: as long as this says for the number of deliveries so far.
    #[prost(message, optional, tag = "5")]
    pub backoff: Option<Backoff>,
    /// Whether the delivery is not to count.
    #[prost(bool, tag = "80")]
    pub suspended: bool,
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
    /// Whether only the last message of each key is kept from now on; none: as it is.
    #[prost(bool, optional, tag = "45")]
    pub compacts: Option<bool>,
    /// New time to keep tombstones; 0: the default; none: as it is.
    #[prost(int64, optional, tag = "46")]
    pub tombstones_ms: Option<i64>,
    /// New time to keep the table; 0: for ever; none: as it is.
    #[prost(int64, optional, tag = "47")]
    pub table_ms: Option<i64>,
    /// New number of bytes that the table keeps; 0: no bound; none: as it is.
    #[prost(uint64, optional, tag = "48")]
    pub table_bytes: Option<u64>,
    /// Whether the table is kept as the log is from now on.
    #[prost(bool, tag = "49")]
    pub table_as_log: bool,
    /// New time after which a lite topic ends; 0: the default; none: as it is.
    #[prost(int64, optional, tag = "40")]
    pub lite_expiry_ms: Option<i64>,
}

/// A change of how a topic's bodies are written from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ChangeSchema {
    /// Topic.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The next version of the schema.
    #[prost(message, optional, tag = "2")]
    pub schema: Option<SchemaRecord>,
    /// Columns that it brings.
    #[prost(message, repeated, tag = "3")]
    pub add_columns: Vec<ColumnRecord>,
    /// What later versions must be able to do.
    #[prost(uint32, optional, tag = "4")]
    pub compatibility: Option<u32>,
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
    #[prost(message, tag = "20")]
    CreateTopic(TopicRecord),
    /// Answers [`Reply::Topic`].
    #[prost(message, tag = "21")]
    AlterTopic(AlterTopic),
    /// Answers [`Reply::Topic`].
    #[prost(message, tag = "160")]
    ChangeSchema(ChangeSchema),
    /// Answers [`Reply::Done`].
    #[prost(message, tag = "161")]
    ReplaceJob(ReplaceJob),
    /// The settings of the job with this id. Answers [`Reply::Done`].
    #[prost(message, tag = "210")]
    SetJob(JobRecord),
    /// Answers [`Reply::NewJob`] with the job that has the name now.
    #[prost(message, tag = "162")]
    SwapView(ViewSwapped),
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
    /// The oldest transfers under way, so many. Answers [`Reply::Transfers`].
    #[prost(uint32, tag = "35")]
    Transfers(u32),
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
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 55, 60, 70, 80, 81, 100, 101, 102, 103, 104, 105, 106, 107, 160, 161, 162, 180, 181, 182, 183, 190, 210"
    )]
    pub request: Option<Request>,
}

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
}

/// A reply on the wire.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardReply {
    /// The reply.
    #[prost(
        oneof = "Reply",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 41, 55, 100, 101, 102, 103, 180"
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
