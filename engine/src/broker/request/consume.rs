//! What a shard is asked about the messages that groups consume.

use millpond_storage::format::envelope::Envelope;

use crate::broker::record::{Backoff, Fact, Holder};
use crate::broker::request::QueuePlace;

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

/// Which transfers are asked for.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TransfersOf {
    /// Those with a greater number.
    #[prost(uint64, tag = "1")]
    pub after: u64,
    /// Most.
    #[prost(uint32, tag = "2")]
    pub limit: u32,
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
    /// Where the part before ended; none: at the beginning.
    #[prost(message, optional, tag = "3")]
    pub behind: Option<QueuePlace>,
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
    /// Whether others may be waiting behind them.
    #[prost(bool, tag = "4")]
    pub frees: bool,
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
