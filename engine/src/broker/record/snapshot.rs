//! What the snapshot of a shard holds.

use crate::broker::lite::LiteSnapshot;
use crate::broker::producer::ProducerSnapshot;
use crate::broker::record::{
    CutRecord, EffectDone, Fact, GroupOffset, GroupRecord, Holder, JobRecord, PlacesSnapshot,
    QueueOffset, Saved, SavepointRecord, TopicRecord, Transfer,
};
use crate::broker::shelf::BucketSnapshot;
use crate::broker::transaction::OpenTransaction;

/// One message that a group has seen and not acknowledged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PendingSnapshot {
    /// Offset.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Lease of the last delivery.
    #[prost(fixed64, tag = "2")]
    pub lease: u64,
    /// When it becomes, or became, visible.
    #[prost(sint64, tag = "3")]
    pub visible_at_ms: i64,
    /// Deliveries so far.
    #[prost(uint32, tag = "4")]
    pub attempts: u32,
    /// Hash of its message group; 0: none.
    #[prost(fixed64, tag = "5")]
    pub message_group: u64,
    /// Greater goes first.
    #[prost(sint32, tag = "6")]
    pub priority: i32,
}

/// Who holds a lease.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HolderSnapshot {
    /// Lease.
    #[prost(fixed64, tag = "1")]
    pub lease: u64,
    /// Who.
    #[prost(message, optional, tag = "2")]
    pub holder: Option<Holder>,
}

/// Messages that a group has seen and not acknowledged: of one lease, delivered equally often.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HeldSnapshot {
    /// Lease of the last delivery.
    #[prost(fixed64, tag = "1")]
    pub lease: u64,
    /// Whether it is a lease; otherwise nobody holds them.
    #[prost(bool, tag = "2")]
    pub is_held: bool,
    /// When they become, or became, visible.
    #[prost(sint64, tag = "3")]
    pub until_ms: i64,
    /// Deliveries so far.
    #[prost(uint32, tag = "4")]
    pub attempts: u32,
    /// Who holds the lease.
    #[prost(message, optional, tag = "5")]
    pub holder: Option<Holder>,
    /// Runs of offsets: the distance to the end of the run before, then how many.
    #[prost(uint64, repeated, tag = "6")]
    pub runs: Vec<u64>,
}

/// Where one group stands in one queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CursorSnapshot {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// First offset never delivered.
    #[prost(uint64, tag = "4")]
    pub next: u64,
    /// Delivered, not acknowledged; in snapshots of early versions.
    #[prost(message, repeated, tag = "5")]
    pub pending: Vec<PendingSnapshot>,
    /// Accepted and passed over.
    #[prost(message, repeated, tag = "6")]
    pub parked: Vec<Fact>,
    /// Who holds the leases of `pending`.
    #[prost(message, repeated, tag = "7")]
    pub holders: Vec<HolderSnapshot>,
    /// Delivered, not acknowledged.
    #[prost(message, repeated, tag = "20")]
    pub held: Vec<HeldSnapshot>,
    /// Of those that have a message group or a priority.
    #[prost(message, repeated, tag = "21")]
    pub facts: Vec<Fact>,
}

/// A job's log in its home shard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct JobSnapshot {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Last saved state.
    #[prost(message, optional, tag = "2")]
    pub saved: Option<Saved>,
    /// Cuts after it.
    #[prost(message, repeated, tag = "3")]
    pub cuts: Vec<CutRecord>,
    /// The cut that the state was saved at, from which on inputs are read again; none: it is not known.
    #[prost(message, optional, tag = "45")]
    pub since: Option<CutRecord>,
}

/// The whole state of a shard.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ShardSnapshotRecord {
    /// Next offset per queue; in snapshots of early versions.
    #[prost(message, repeated, tag = "1")]
    pub queues: Vec<QueueOffset>,
    /// Cursors; those that hold nothing, in snapshots of early versions alone.
    #[prost(message, repeated, tag = "2")]
    pub cursors: Vec<CursorSnapshot>,
    /// Last part of the last epoch appended, per job and topic.
    #[prost(message, repeated, tag = "3")]
    pub effects: Vec<EffectDone>,
    /// Jobs at home here.
    #[prost(message, repeated, tag = "4")]
    pub jobs: Vec<JobSnapshot>,
    /// Greatest store time given out.
    #[prost(sint64, tag = "5")]
    pub stored_at_ms: i64,
    /// The catalog (catalog shard only).
    #[prost(message, optional, tag = "6")]
    pub catalog: Option<CatalogSnapshot>,
    /// Offsets that readers noted.
    #[prost(message, repeated, tag = "19")]
    pub noted: Vec<GroupOffset>,
    /// First offset kept, of queues that do not begin at 0; in snapshots of early versions.
    #[prost(message, repeated, tag = "25")]
    pub firsts: Vec<QueueOffset>,
    /// Transfers whose effect is not known to be durable.
    #[prost(message, repeated, tag = "7")]
    pub transfers: Vec<Transfer>,
    /// Number of the last transfer.
    #[prost(uint64, tag = "8")]
    pub last_transfer: u64,
    /// Buckets of messages that are, or were, not visible yet.
    #[prost(message, repeated, tag = "30")]
    pub buckets: Vec<BucketSnapshot>,
    /// Transactions that nobody has decided on.
    #[prost(message, repeated, tag = "31")]
    pub transactions: Vec<OpenTransaction>,
    /// Transactions that were rolled back because nobody did, the oldest first.
    #[prost(message, repeated, tag = "32")]
    pub transactions_given_up: Vec<OpenTransaction>,
    /// What idempotent producers sent last.
    #[prost(message, repeated, tag = "40")]
    pub producers: Vec<ProducerSnapshot>,
    /// Lite topics.
    #[prost(message, repeated, tag = "55")]
    pub lites: Vec<LiteSnapshot>,
    /// Where groups stand in lite queues of which they hold nothing; in snapshots of early versions.
    #[prost(message, repeated, tag = "56")]
    pub resting: Vec<GroupOffset>,
    /// Next offset of each queue.
    #[prost(message, repeated, tag = "60")]
    pub ends: Vec<PlacesSnapshot>,
    /// Where groups stand in queues of which they hold nothing, lite queues included.
    #[prost(message, repeated, tag = "61")]
    pub idle: Vec<PlacesSnapshot>,
    /// First offset kept, of queues that do not begin at 0.
    #[prost(message, repeated, tag = "62")]
    pub begins: Vec<PlacesSnapshot>,
}

/// The catalog.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CatalogSnapshot {
    /// Greatest id given out.
    #[prost(uint64, tag = "1")]
    pub last_id: u64,
    /// Topics.
    #[prost(message, repeated, tag = "2")]
    pub topics: Vec<TopicRecord>,
    /// Groups.
    #[prost(message, repeated, tag = "3")]
    pub groups: Vec<GroupRecord>,
    /// Jobs.
    #[prost(message, repeated, tag = "4")]
    pub jobs: Vec<JobRecord>,
    /// Deleted topics that some shard may still hold.
    #[prost(fixed64, repeated, tag = "5")]
    pub dropped_topics: Vec<u64>,
    /// Deleted groups that some shard may still hold.
    #[prost(fixed64, repeated, tag = "6")]
    pub dropped_groups: Vec<u64>,
    /// Savepoints.
    #[prost(message, repeated, tag = "160")]
    pub savepoints: Vec<SavepointRecord>,
}
