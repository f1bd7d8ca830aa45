//! Changes of what groups have consumed.

/// A batch was delivered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Popped {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The lease that the whole batch shares.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// When the messages become visible again.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// Offsets delivered before, now again.
    #[prost(uint64, repeated, tag = "6")]
    pub again: Vec<u64>,
    /// First offset delivered for the first time.
    #[prost(uint64, tag = "7")]
    pub fresh_from: u64,
    /// How many offsets from there on.
    #[prost(uint32, tag = "8")]
    pub fresh: u32,
    /// Who holds them; none in logs of early versions.
    #[prost(message, optional, tag = "9")]
    pub holder: Option<Holder>,
}

/// Who holds a lease, and how.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Holder {
    /// The consumer's client id.
    #[prost(string, tag = "1")]
    pub consumer: String,
    /// Hash of the poll's attempt id; 0: none.
    #[prost(fixed64, tag = "2")]
    pub poll: u64,
    /// Whether the server renews the lease while the consumer lives.
    #[prost(bool, tag = "3")]
    pub renewed: bool,
    /// When the batch was delivered.
    #[prost(sint64, tag = "4")]
    pub since_ms: i64,
}

/// What is kept of a message besides its place.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Fact {
    /// Offset.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Hash of its message group; 0: none.
    #[prost(fixed64, tag = "2")]
    pub message_group: u64,
    /// Greater goes first.
    #[prost(sint32, tag = "3")]
    pub priority: i32,
}

/// A batch was delivered after a look at the messages. What lies between the cursor and `next` and is
/// not named here was not accepted, and is done with.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Scanned {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The lease that the whole batch shares.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// When the messages become visible again.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// Where the cursor then stands.
    #[prost(uint64, tag = "6")]
    pub next: u64,
    /// Delivered; known to the cursor before.
    #[prost(uint64, repeated, tag = "7")]
    pub again: Vec<u64>,
    /// Delivered for the first time.
    #[prost(message, repeated, tag = "8")]
    pub fresh: Vec<Fact>,
    /// Passed over until their turn comes.
    #[prost(message, repeated, tag = "9")]
    pub parked: Vec<Fact>,
    /// Who holds what was delivered.
    #[prost(message, optional, tag = "10")]
    pub holder: Option<Holder>,
}

/// A lease ends later than it would have.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Renewed {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Lease; stays what it is.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// When its messages become visible again.
    #[prost(sint64, tag = "5")]
    pub until_ms: i64,
    /// When it was renewed; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// Deliveries ended early: nobody got them, or whoever did is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Returned {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Lease that ends.
    #[prost(fixed64, tag = "4")]
    pub lease: u64,
    /// Offsets under it.
    #[prost(uint64, repeated, tag = "5")]
    pub offsets: Vec<u64>,
    /// When they become visible.
    #[prost(sint64, tag = "6")]
    pub at_ms: i64,
    /// Whether no consumer can have seen them, so that the attempt does not count.
    #[prost(bool, tag = "7")]
    pub unseen: bool,
}

/// A message leaves its group here and arrives somewhere else: the intent. The effect is keyed by the
/// sequence.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Transfer {
    /// Numbers the transfers of a shard, from 1.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Where to.
    #[prost(enumeration = "TransferKind", tag = "2")]
    pub kind: i32,
    /// Group.
    #[prost(fixed64, tag = "3")]
    pub group: u64,
    /// Topic that it leaves.
    #[prost(fixed64, tag = "4")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "5")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "6")]
    pub offset: u64,
    /// Deliveries so far.
    #[prost(uint32, tag = "7")]
    pub attempts: u32,
    /// Whether a consumer asked for it; otherwise the attempts were used up.
    #[prost(bool, tag = "8")]
    pub requested: bool,
}

/// Where a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TransferKind {
    /// To the group's dead letters.
    Bury = 0,
    /// From the dead letters back to where the message came from.
    Redrive = 1,
}

/// Transfers began, in order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransfersBegun {
    /// All of one queue.
    #[prost(message, repeated, tag = "1")]
    pub transfers: Vec<Transfer>,
    /// When; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// The effects of transfers are durable, or can not be had.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransfersEnded {
    /// Which.
    #[prost(uint64, repeated, tag = "1")]
    pub sequences: Vec<u64>,
    /// Whether the messages are back where they were, because there is nowhere to go.
    #[prost(bool, tag = "2")]
    pub back: bool,
    /// When they are visible there.
    #[prost(sint64, tag = "3")]
    pub at_ms: i64,
}

/// A message that was done with is delivered again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reopened {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// The message.
    #[prost(message, required, tag = "4")]
    pub fact: Fact,
    /// When it is visible.
    #[prost(sint64, tag = "5")]
    pub at_ms: i64,
}

/// A group met a queue and starts behind what it holds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Started {
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
    /// When; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// Deliveries were acknowledged.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Acked {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Offsets.
    #[prost(uint64, repeated, tag = "4")]
    pub offsets: Vec<u64>,
    /// When; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
}

/// The end of a delivery's invisible time was moved.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Moved {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Queue.
    #[prost(uint32, tag = "3")]
    pub queue: u32,
    /// Offset.
    #[prost(uint64, tag = "4")]
    pub offset: u64,
    /// The lease that takes the old one's place.
    #[prost(fixed64, tag = "5")]
    pub lease: u64,
    /// When the message becomes visible again.
    #[prost(sint64, tag = "6")]
    pub until_ms: i64,
    /// When it was moved; 0 in logs of early versions.
    #[prost(sint64, tag = "55")]
    pub at_ms: i64,
    /// Whether the delivery is not to count.
    #[prost(bool, tag = "80")]
    pub suspended: bool,
}

/// One part of an epoch's output was appended; stands in the same append as its messages.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EffectDone {
    /// Job.
    #[prost(fixed64, tag = "1")]
    pub job: u64,
    /// Output topic.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Epoch.
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Part of the epoch, from 0.
    #[prost(uint32, tag = "4")]
    pub part: u32,
}
