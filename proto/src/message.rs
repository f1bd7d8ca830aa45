//! Numbers and ids that could be mixed up, each with a type of its own.
//!
//! All are plain values: ordered, copied, printed as their number. Ranges of offsets are half-open.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The identity of a topic inside the house; a topic deleted and made anew gets another one.
    TopicId(u64)
}
number! {
    /// A queue of a topic, counted from 0.
    QueueId(u32)
}
number! {
    /// A place in a queue: dense from 0, never reused.
    Offset(u64)
}
number! {
    /// The unit of ownership: one task decides for each shard.
    ShardId(u16)
}
number! {
    /// Fences an owner: a higher term has taken over from every lower one.
    Term(u64)
}
number! {
    /// The identity of a continuous query.
    JobId(u64)
}
number! {
    /// One consistent cut of a continuous query, counted from 1.
    Epoch(u64)
}

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A 64-bit FNV-1a hash: ours, stable for ever, because queues are placed by it.
///
/// It decides which shard owns a queue and which queue a key goes to, so it must never change.
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0100_0000_01b3);
    }
    // FNV leaves the low bits of short keys poorly mixed; a finishing step spreads them.
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// The shard that owns a queue.
///
/// # Panics
/// When `shards` is zero.
#[must_use]
pub fn shard_of(topic: TopicId, queue: QueueId, shards: u16) -> ShardId {
    assert!(shards > 0, "a cluster has at least one shard");
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&topic.0.to_le_bytes());
    bytes[8..].copy_from_slice(&queue.0.to_le_bytes());
    let shard = stable_hash(&bytes) % u64::from(shards);
    ShardId(u16::try_from(shard).expect("a remainder of a u16 fits a u16"))
}

/// The queue that a key goes to: equal keys share a queue, so their order is kept.
///
/// # Panics
/// When `queues` is zero.
#[must_use]
pub fn queue_of(key: &[u8], queues: u32) -> QueueId {
    assert!(queues > 0, "a topic has at least one queue");
    let queue = stable_hash(key) % u64::from(queues);
    QueueId(u32::try_from(queue).expect("a remainder of a u32 fits a u32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_never_changes() {
        // These values are part of the format: a change would move every queue.
        assert_eq!(stable_hash(b""), 18_284_041_282_127_212_159);
        assert_eq!(shard_of(TopicId(7), QueueId(3), 64), ShardId(34));
        assert_eq!(queue_of(b"N14228", 8), QueueId(1));
    }

    #[test]
    fn keys_spread_over_queues() {
        let mut counts = [0_u32; 8];
        for key in 0..8000_u32 {
            counts[queue_of(key.to_string().as_bytes(), 8).0 as usize] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }
}
