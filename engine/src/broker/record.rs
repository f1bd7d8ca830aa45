//! What a shard writes to the log besides messages, and what its snapshot holds.
//!
//! A [`Change`] is one state record: the outcome of a decision, in Protobuf. Applying it is the only way
//! that a shard's state moves, live and in recovery alike, so a change holds everything that its
//! application needs and never asks a clock or a dice. Field numbers are fixed for ever.

mod catalog;
mod consume;
mod places;
mod savepoint;
mod snapshot;

use bytes::Bytes;
use prost::Message as _;

use crate::broker::lite::{LiteLetGo, LiteMade, LitesGone};
use crate::broker::shelf::{Checked, Left};

pub use catalog::{
    Backoff, ColumnRecord, Erasure, GroupRecord, JobRecord, SchemaRecord, TimeBehindRecord,
    TopicKind, TopicRecord, TopicRenamed, Trimmed, ViewSwapped,
};
pub use consume::{
    Acked, EffectDone, Fact, Holder, Moved, Popped, Renewed, Reopened, Returned, Scanned, Started,
    Transfer, TransferKind, TransfersBegun, TransfersEnded,
};
pub use places::PlacesSnapshot;
pub use savepoint::SavepointRecord;
pub use snapshot::{
    CatalogSnapshot, CursorSnapshot, HeldSnapshot, HolderSnapshot, JobSnapshot, PendingSnapshot,
    ShardSnapshotRecord,
};

/// A continuous query committed an epoch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CutRecord {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Every row stored before this tick belongs to this epoch or an earlier one.
    #[prost(sint64, tag = "3")]
    pub tick_ms: i64,
    /// One past the last offset read, per queue.
    #[prost(message, repeated, tag = "4")]
    pub offsets: Vec<QueueOffset>,
    /// How many queues each output has when it is recorded: the rows are placed by it, also when they are appended again
    /// after queues were added. None in cuts of early versions.
    #[prost(message, repeated, tag = "67")]
    pub outputs: Vec<OutputQueues>,
}

impl CutRecord {
    /// Whether it is the same cut, whenever it was recorded.
    #[must_use]
    pub fn is_again(&self, other: &Self) -> bool {
        let at = |cut: &Self| (cut.job, cut.epoch, cut.tick_ms);
        at(self) == at(other) && self.offsets == other.offsets
    }
}

/// How many queues an output has.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct OutputQueues {
    /// Topic.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Queues.
    #[prost(uint32, tag = "2")]
    pub queues: u32,
}

/// A place in an input queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct QueueOffset {
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

/// A continuous query saved its state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Saved {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Epoch up to which the state goes.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Object that holds it.
    #[prost(string, tag = "3")]
    pub key: String,
}

/// The offset that a group's reader noted for a queue.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct GroupOffset {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The next offset that it wants.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
}

/// One state record.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Change {
    /// A topic was made or altered (catalog shard).
    #[prost(message, tag = "1")]
    TopicSet(TopicRecord),
    /// A topic was deleted; every shard must still forget it (catalog shard).
    #[prost(fixed64, tag = "2")]
    TopicDropped(u64),
    /// Every shard has forgotten a deleted topic (catalog shard).
    #[prost(fixed64, tag = "3")]
    TopicGone(u64),
    /// A group was made or altered (catalog shard).
    #[prost(message, tag = "4")]
    GroupSet(GroupRecord),
    /// A group was deleted; every shard must still forget it (catalog shard).
    #[prost(fixed64, tag = "5")]
    GroupDropped(u64),
    /// Every shard has forgotten a deleted group (catalog shard).
    #[prost(fixed64, tag = "6")]
    GroupGone(u64),
    /// A job was made (catalog shard).
    #[prost(message, tag = "7")]
    JobSet(JobRecord),
    /// A job was deleted (catalog shard).
    #[prost(fixed64, tag = "8")]
    JobDropped(u64),
    /// See [`ViewSwapped`] (catalog shard).
    #[prost(message, tag = "70")]
    ViewSwapped(ViewSwapped),
    /// See [`Popped`].
    #[prost(message, tag = "16")]
    Popped(Popped),
    /// See [`Started`].
    #[prost(message, tag = "17")]
    Started(Started),
    /// See [`Acked`].
    #[prost(message, tag = "18")]
    Acked(Acked),
    /// See [`Moved`].
    #[prost(message, tag = "19")]
    Moved(Moved),
    /// See [`EffectDone`].
    #[prost(message, tag = "20")]
    EffectDone(EffectDone),
    /// This shard forgets a topic.
    #[prost(fixed64, tag = "21")]
    TopicForgotten(u64),
    /// This shard forgets a group.
    #[prost(fixed64, tag = "22")]
    GroupForgotten(u64),
    /// See [`CutRecord`] (the job's home shard).
    #[prost(message, tag = "24")]
    Cut(CutRecord),
    /// See [`Saved`] (the job's home shard).
    #[prost(message, tag = "25")]
    Saved(Saved),
    /// This shard forgets a job.
    #[prost(fixed64, tag = "26")]
    JobForgotten(u64),
    /// See [`GroupOffset`].
    #[prost(message, tag = "80")]
    OffsetNoted(GroupOffset),
    /// See [`Trimmed`].
    #[prost(message, tag = "60")]
    Trimmed(Trimmed),
    /// See [`Scanned`].
    #[prost(message, tag = "30")]
    Scanned(Scanned),
    /// See [`Renewed`].
    #[prost(message, tag = "31")]
    Renewed(Renewed),
    /// See [`Returned`].
    #[prost(message, tag = "32")]
    Returned(Returned),
    /// See [`TransfersBegun`].
    #[prost(message, tag = "33")]
    TransfersBegun(TransfersBegun),
    /// See [`TransfersEnded`].
    #[prost(message, tag = "34")]
    TransfersEnded(TransfersEnded),
    /// See [`Reopened`].
    #[prost(message, tag = "35")]
    Reopened(Reopened),
    /// A cursor as it stands from now on, whatever it was.
    #[prost(message, tag = "36")]
    CursorSet(CursorSnapshot),
    /// See [`Left`].
    #[prost(message, tag = "100")]
    ShelfLeft(Left),
    /// See [`Checked`].
    #[prost(message, tag = "101")]
    ShelfChecked(Checked),
    /// A bucket of the shelf is done with.
    #[prost(uint32, tag = "102")]
    BucketClosed(u32),
    /// See [`Erasure`]; changes nothing.
    #[prost(message, tag = "85")]
    Erased(Erasure),
    /// See [`LiteMade`].
    #[prost(message, tag = "81")]
    LiteMade(LiteMade),
    /// See [`LitesGone`].
    #[prost(message, tag = "82")]
    LitesGone(LitesGone),
    /// See [`LiteLetGo`].
    #[prost(message, tag = "83")]
    LiteLetGo(LiteLetGo),
    /// A savepoint was taken (catalog shard).
    #[prost(message, tag = "160")]
    SavepointSet(SavepointRecord),
    /// A savepoint was dropped (catalog shard).
    #[prost(fixed64, tag = "161")]
    SavepointDropped(u64),
}

/// The frame of a [`Change`] in the log.
#[derive(Clone, PartialEq, prost::Message)]
struct StateRecord {
    #[prost(
        oneof = "Change",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 30, 31, 32, 33, 34, 35, 36, 60, 70, 80, 81, 82, 83, 85, 100, 101, 102, 160, 161"
    )]
    change: Option<Change>,
}

impl Change {
    /// The record's bytes in the log.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode(&mut bytes);
        bytes.into()
    }

    /// Reads a record; `None` when it is not one that this version knows.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        StateRecord::decode(bytes).ok()?.change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One change after another, each as empty as it gets, with its number; a new one has no place until it is listed here.
    fn after(change: Option<&Change>) -> Option<(u32, Change)> {
        Some(match change {
            None => (1, Change::TopicSet(TopicRecord::default())),
            Some(Change::TopicSet(_)) => (2, Change::TopicDropped(7)),
            Some(Change::TopicDropped(_)) => (3, Change::TopicGone(7)),
            Some(Change::TopicGone(_)) => (4, Change::GroupSet(GroupRecord::default())),
            Some(Change::GroupSet(_)) => (5, Change::GroupDropped(7)),
            Some(Change::GroupDropped(_)) => (6, Change::GroupGone(7)),
            Some(Change::GroupGone(_)) => (7, Change::JobSet(JobRecord::default())),
            Some(Change::JobSet(_)) => (8, Change::JobDropped(7)),
            Some(Change::JobDropped(_)) => (70, Change::ViewSwapped(ViewSwapped::default())),
            Some(Change::ViewSwapped(_)) => (16, Change::Popped(Popped::default())),
            Some(Change::Popped(_)) => (17, Change::Started(Started::default())),
            Some(Change::Started(_)) => (18, Change::Acked(Acked::default())),
            Some(Change::Acked(_)) => (19, Change::Moved(Moved::default())),
            Some(Change::Moved(_)) => (20, Change::EffectDone(EffectDone::default())),
            Some(Change::EffectDone(_)) => (21, Change::TopicForgotten(7)),
            Some(Change::TopicForgotten(_)) => (22, Change::GroupForgotten(7)),
            Some(Change::GroupForgotten(_)) => (24, Change::Cut(CutRecord::default())),
            Some(Change::Cut(_)) => (25, Change::Saved(Saved::default())),
            Some(Change::Saved(_)) => (26, Change::JobForgotten(7)),
            Some(Change::JobForgotten(_)) => (80, Change::OffsetNoted(GroupOffset::default())),
            Some(Change::OffsetNoted(_)) => (60, Change::Trimmed(Trimmed::default())),
            Some(Change::Trimmed(_)) => (30, Change::Scanned(Scanned::default())),
            Some(Change::Scanned(_)) => (31, Change::Renewed(Renewed::default())),
            Some(Change::Renewed(_)) => (32, Change::Returned(Returned::default())),
            Some(Change::Returned(_)) => (33, Change::TransfersBegun(TransfersBegun::default())),
            Some(Change::TransfersBegun(_)) => {
                (34, Change::TransfersEnded(TransfersEnded::default()))
            }
            Some(Change::TransfersEnded(_)) => (35, Change::Reopened(Reopened::default())),
            Some(Change::Reopened(_)) => (36, Change::CursorSet(CursorSnapshot::default())),
            Some(Change::CursorSet(_)) => (100, Change::ShelfLeft(Left::default())),
            Some(Change::ShelfLeft(_)) => (101, Change::ShelfChecked(Checked::default())),
            Some(Change::ShelfChecked(_)) => (102, Change::BucketClosed(7)),
            Some(Change::BucketClosed(_)) => (85, Change::Erased(Erasure::default())),
            Some(Change::Erased(_)) => (81, Change::LiteMade(LiteMade::default())),
            Some(Change::LiteMade(_)) => (82, Change::LitesGone(LitesGone::default())),
            Some(Change::LitesGone(_)) => (83, Change::LiteLetGo(LiteLetGo::default())),
            Some(Change::LiteLetGo(_)) => (160, Change::SavepointSet(SavepointRecord::default())),
            Some(Change::SavepointSet(_)) => (161, Change::SavepointDropped(7)),
            Some(Change::SavepointDropped(_)) => return None,
        })
    }

    #[test]
    fn a_change_of_every_number_comes_back_from_its_bytes() {
        // A number that the frame does not list would be lost, silently, until recovery.
        let mut seen = Vec::new();
        let mut next = after(None);
        while let Some((number, change)) = next {
            let bytes = change.to_bytes();
            let (found, _) = prost::encoding::decode_key(&mut bytes.clone()).unwrap();
            assert_eq!(found, number, "{change:?} has its number for ever");
            assert_eq!(Change::from_bytes(&bytes), Some(change.clone()));
            seen.push(number);
            next = after(Some(&change));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 37, "all of them, and each once: {seen:?}");
    }
}
