//! What the log was given, as the simplest thing that can be compared with it: a list of messages per queue, and a hash over the
//! records per shard.
//!
//! **Invariants.** A message follows from its queue, offset and nonce, so a list of nonces is all that is known of a queue. It
//! knows nothing of files, tiers and crashes.

use bytes::Bytes;
use millpond_proto::message::{ShardId, stable_hash};
use millpond_storage::error::ShardDamaged;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Projection, Replayed};

use crate::logs::{COMPACTED, KEYS, QUEUES};

/// Ids of a checkpoint's snapshot: count and hash.
const SNAPSHOT_BYTES: usize = 16;

/// A shard's state: how many records it has seen, and a hash over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) count: u64,
    pub(super) hash: u64,
}

impl Sum {
    pub(super) fn fold(&mut self, words: [u64; 5]) {
        let mut bytes = [0; 48];
        let all = std::iter::once(self.hash).chain(words);
        for (place, word) in bytes.chunks_exact_mut(8).zip(all) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.hash = stable_hash(&bytes);
        self.count += 1;
    }

    pub(super) fn message(&mut self, message: &Envelope) {
        let body = stable_hash(message.body.as_deref().unwrap_or_default());
        let queue = u64::from(message.queue);
        self.fold([1, message.topic, queue, message.offset, body]);
    }

    pub(super) fn state(&mut self, bytes: &[u8]) {
        self.fold([2, stable_hash(bytes), 0, 0, 0]);
    }

    pub(super) fn encode(self) -> Bytes {
        [self.count.to_le_bytes(), self.hash.to_le_bytes()]
            .concat()
            .into()
    }
}

impl Projection for Sum {
    fn restore(shard: ShardId, snapshot: Option<&[u8]>) -> Result<Self, ShardDamaged> {
        let Some(bytes) = snapshot else {
            return Ok(Self::default());
        };
        let words: Option<[u8; SNAPSHOT_BYTES]> = bytes.try_into().ok();
        let words = words.ok_or_else(|| ShardDamaged {
            shard,
            detail: "a snapshot of another length".to_owned(),
        })?;
        let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().unwrap());
        Ok(Self {
            count: word(0),
            hash: word(8),
        })
    }

    fn apply(&mut self, record: &Replayed) -> Result<(), ShardDamaged> {
        match record {
            Replayed::Message(message) => self.message(message),
            Replayed::State(bytes) => self.state(bytes),
            Replayed::Lost { .. } => {
                return Err(ShardDamaged {
                    shard: ShardId(0),
                    detail: "a message was lost".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// What a shard was given.
#[derive(Debug)]
pub(super) struct Shard {
    /// Its state after so many records; the first is the empty one.
    pub(super) sums: Vec<Sum>,
    /// The queue of each record; none for a change of state.
    pub(super) records: Vec<Option<usize>>,
    /// Records that must be there after any crash.
    pub(super) acknowledged: usize,
}

/// What a queue was given.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Where its messages come from, by offset.
    pub(super) nonces: Vec<u64>,
    /// Offsets below were let go.
    pub(super) first: u64,
}

/// The message at a place: it follows from its nonce.
pub(super) fn message(queue: usize, offset: u64, nonce: u64) -> Envelope {
    let (topic, id) = QUEUES[queue];
    let word = stable_hash(&nonce.to_le_bytes());
    let length = match word % 100 {
        0..2 => 3000,
        2..20 => 400,
        _ => word % 90,
    };
    let mut body = nonce.to_le_bytes().to_vec();
    while (body.len() as u64) < length {
        body.extend_from_slice(&word.wrapping_mul(body.len() as u64 | 1).to_le_bytes());
    }
    Envelope {
        topic: topic.0,
        queue: id.0,
        offset,
        message_id: format!("{nonce:x}"),
        stored_at_ms: i64::try_from(nonce).unwrap(),
        key: (topic == COMPACTED).then(|| key(nonce).to_le_bytes().to_vec().into()),
        body: Some(body.into()),
        ..Envelope::default()
    }
}

pub(super) fn key(nonce: u64) -> u64 {
    nonce % KEYS
}
