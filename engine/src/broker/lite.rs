//! Lite topics: millions of small queues by name, inside the queues of one parent topic.
//!
//! A message with a lite name is an ordinary message of a queue of its parent, chosen by the name. The shard of
//! that queue keeps for each name where its messages lie ([`index`]), and gives it a *lite queue*: a number
//! above those of real queues, which says in itself what the real queue is ([`real`]). Cursors, leases, attempts
//! and dead letters work on lite queues as they do on others; offsets are those of the real queue. A lite topic
//! is made by its first message and ends so long after its last one.
//!
//! Messages of a lite topic are delivered in order, as those of a message group are: what is in flight holds back
//! what follows, in that lite topic alone.
//!
//! Who listens to what is not in the log: consumers say it again every half minute ([`listeners`]). A consumer
//! polls for the lite topics that have something for it ([`poll`]), of which it hears when a message is stored.
//! What is in the log is that a group has a place in a lite topic: from when one of its consumers listens and the
//! lite topic is there, until the group or the lite topic ends. So a full one lets go of nothing that a group has not read
//! that polls seldom.
//!
//! **Invariant.** A stored message has a lite name exactly when its topic is of type lite; dead letters lose it.
//!
//! Reading order: this file (numbers and records), [`offsets`], [`index`], [`listeners`], [`poll`], [`topics`]
//! (subscribing, listing, ending).

pub mod index;
pub mod listeners;
pub mod offsets;
pub mod poll;
pub mod topics;

use millpond_proto::limits;

use crate::broker::record::Holder;
use crate::broker::request::Request;

/// Set in the number of every lite queue.
const LITE: u32 = 1 << 31;
/// Bits that number the lite topics of a real queue.
const NUMBER_BITS: u32 = 21;
const NUMBERS: u32 = 1 << NUMBER_BITS;

const _: () = assert!(limits::QUEUES_MAX <= 1 << (31 - NUMBER_BITS));
const _: () = assert!(limits::LITE_TOPICS_PER_QUEUE_MAX <= NUMBERS as usize / 2);

/// The message group of every message of a lite topic.
pub const ORDER: u64 = 1;

/// Whether a number is that of a lite queue.
#[must_use]
pub fn is_lite(queue: u32) -> bool {
    queue & LITE != 0
}

/// The real queue that a queue's messages lie in: itself, or that of the lite topic.
#[must_use]
pub fn real(queue: u32) -> u32 {
    if is_lite(queue) {
        (queue & !LITE) >> NUMBER_BITS
    } else {
        queue
    }
}

fn numbered(real: u32, number: u32) -> u32 {
    LITE | (real << NUMBER_BITS) | (number % NUMBERS)
}

/// A lite topic was made by its first message.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LiteMade {
    /// Parent.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Lite queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// When.
    #[prost(sint64, tag = "4")]
    pub at_ms: i64,
}

/// Lite topics ended: nothing happened in them for long, or somebody deleted them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LitesGone {
    /// Parent.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Lite queues.
    #[prost(uint32, repeated, tag = "2")]
    pub queues: Vec<u32>,
    /// When.
    #[prost(sint64, tag = "3")]
    pub at_ms: i64,
}

/// The first messages of a lite topic are let go of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LiteLetGo {
    /// Parent.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Lite queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// First offset that stays.
    #[prost(uint64, tag = "3")]
    pub first: u64,
}

/// A lite topic in a shard's snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LiteSnapshot {
    /// Parent.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Lite queue.
    #[prost(uint32, tag = "2")]
    pub queue: u32,
    /// Name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// When its last message was stored.
    #[prost(sint64, tag = "4")]
    pub stored_at_ms: i64,
    /// What each offset adds to the one before, the first to 0.
    #[prost(uint64, repeated, tag = "5")]
    pub steps: Vec<u64>,
}

/// What makes a group one of lite topics.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LiteGroup {
    /// Name of the parent; the group reads the lite topics of this one alone.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// Whether a lite topic has one listener of the group at a time: the last one that asked.
    #[prost(bool, tag = "2")]
    pub exclusive: bool,
}

/// A lite topic as a shard finds it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LiteName {
    /// Real queue that the name belongs to.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// A poll of some lite topics of one parent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PopLite {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Parent.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Which, each once, in the order in which they are visited.
    #[prost(message, repeated, tag = "3")]
    pub names: Vec<LiteName>,
    /// Most messages.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// How long they stay invisible.
    #[prost(int64, tag = "5")]
    pub invisible_ms: i64,
    /// A message delivered so often goes to the dead letters; 0: never.
    #[prost(uint32, tag = "6")]
    pub attempts_max: u32,
    /// Who will hold what is delivered.
    #[prost(message, optional, tag = "7")]
    pub holder: Option<Holder>,
    /// It asks again: what its attempt holds still of these is wanted, all of it and nothing else.
    #[prost(bool, tag = "8")]
    pub again: bool,
}

/// What a poll found of one lite topic that it came to.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LiteStand {
    /// Which of the names asked for.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// When a message of it that is invisible now comes back.
    #[prost(sint64, optional, tag = "2")]
    pub next_due_ms: Option<i64>,
}

/// Where a group is to stand in lite topics.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StartLite {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Parent.
    #[prost(fixed64, tag = "2")]
    pub topic: u64,
    /// Which; those that are not there have nothing to skip.
    #[prost(message, repeated, tag = "3")]
    pub names: Vec<LiteName>,
    /// At this offset of the real queue.
    #[prost(uint64, optional, tag = "4")]
    pub offset: Option<u64>,
    /// Else before so many of the last messages; 0: behind the last one.
    #[prost(uint64, tag = "5")]
    pub tail: u64,
    /// Whether a group that has read a lite topic stays where it is.
    #[prost(bool, tag = "6")]
    pub only_new: bool,
}

/// Lite topics of a parent, by lite queue.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListLites {
    /// Parent.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// Lite queue to go on from.
    #[prost(uint32, tag = "2")]
    pub from: u32,
    /// Most.
    #[prost(uint32, tag = "3")]
    pub limit: u32,
    /// This one alone, with where each group stands in it.
    #[prost(message, optional, tag = "4")]
    pub only: Option<LiteName>,
}

/// A lite topic as people see it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LiteTopic {
    /// Lite queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// Name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Messages kept.
    #[prost(uint64, tag = "3")]
    pub messages: u64,
    /// When the last one was stored.
    #[prost(sint64, tag = "4")]
    pub stored_at_ms: i64,
    /// Where each group stands, where one was asked for.
    #[prost(message, repeated, tag = "5")]
    pub groups: Vec<LiteProgress>,
}

/// Where a group stands in a lite topic.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LiteProgress {
    /// Group.
    #[prost(fixed64, tag = "1")]
    pub group: u64,
    /// Delivered and invisible.
    #[prost(uint64, tag = "2")]
    pub in_flight: u64,
    /// Not acknowledged.
    #[prost(uint64, tag = "3")]
    pub lag: u64,
}

/// Some lite topics.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LitePage {
    /// By lite queue.
    #[prost(message, repeated, tag = "1")]
    pub topics: Vec<LiteTopic>,
    /// Where to go on; none: that was all.
    #[prost(uint32, optional, tag = "2")]
    pub next: Option<u32>,
    /// How many there are in the shard.
    #[prost(uint64, tag = "3")]
    pub count: u64,
}

/// Lite topics that are to end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EndLites {
    /// Parent.
    #[prost(fixed64, tag = "1")]
    pub topic: u64,
    /// This one.
    #[prost(message, optional, tag = "2")]
    pub only: Option<LiteName>,
    /// Else those that had no message for so long...
    #[prost(int64, tag = "3")]
    pub expiry_ms: i64,
    /// ...from this lite queue on...
    #[prost(uint32, tag = "4")]
    pub from: u32,
    /// ...looking at so many.
    #[prost(uint32, tag = "5")]
    pub limit: u32,
}

/// A place of a group in a lite queue of which more may be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Group.
    pub group: u64,
    /// Parent.
    pub topic: u64,
    /// Lite queue.
    pub queue: u32,
}

/// The places in lite queues that a request frees when it is done.
#[must_use]
pub fn touched(request: &Request) -> Vec<Touched> {
    let of = |group, topic, queues: &mut dyn Iterator<Item = u32>| {
        let mut touched: Vec<Touched> = Vec::new();
        for queue in queues.filter(|queue| is_lite(*queue)) {
            if touched.last().is_none_or(|last| last.queue != queue) {
                touched.push(Touched {
                    group,
                    topic,
                    queue,
                });
            }
        }
        touched
    };
    match request {
        Request::Ack(ack) => of(
            ack.group,
            ack.topic,
            &mut ack.handles.iter().map(|handle| handle.queue),
        ),
        Request::Return(back) => of(
            back.group,
            back.topic,
            &mut back.handles.iter().map(|handle| handle.queue),
        ),
        Request::Move(change) => of(
            change.group,
            change.topic,
            &mut std::iter::once(change.handle.queue),
        ),
        Request::Bury(bury) => of(
            bury.group,
            bury.topic,
            &mut std::iter::once(bury.handle.queue),
        ),
        Request::Reopen(reopen) => of(
            reopen.group,
            reopen.topic,
            &mut std::iter::once(reopen.queue),
        ),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
