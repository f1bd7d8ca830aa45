//! What the log was given, as the simplest thing that can be compared with it: a list of messages per queue, and a hash over the
//! records per shard.
//!
//! **Invariants.** A message follows from its queue, offset and nonce, so a list of nonces is all that is known of a queue. It
//! knows nothing of files, tiers and crashes.

use bytes::Bytes;
use millpond_proto::message::{QueueId, ShardId, TopicId, stable_hash};
use millpond_storage::error::ShardDamaged;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Projection, Replayed};

use crate::logs::{COMPACTED, KEYS, first_of};

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
#[derive(Debug)]
pub(super) struct Queue {
    /// Its topic as it is now.
    pub(super) topic: TopicId,
    pub(super) id: QueueId,
    /// Where its messages come from, by offset.
    pub(super) nonces: Vec<u64>,
    /// Offsets below were let go by the log.
    pub(super) first: u64,
    /// Offsets below were let go by the table too, where it is kept for another time; scans begin here.
    pub(super) kept: u64,
}

impl Queue {
    /// One without messages.
    pub(super) fn new((topic, id): (TopicId, QueueId)) -> Self {
        Self {
            topic,
            id,
            nonces: Vec::new(),
            first: 0,
            kept: 0,
        }
    }

    pub(super) fn is_compacted(&self) -> bool {
        first_of(self.topic) == COMPACTED
    }

    /// The message at an offset: it follows from its place and nonce.
    pub(super) fn message(&self, offset: u64, nonce: u64) -> Envelope {
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
        let key = key(nonce).to_le_bytes().to_vec();
        Envelope {
            topic: self.topic.0,
            queue: self.id.0,
            offset,
            message_id: format!("{nonce:x}"),
            stored_at_ms: stored_at_ms(nonce),
            key: self.is_compacted().then(|| key.into()),
            body: Some(body.into()),
            ..Envelope::default()
        }
    }

    /// The offset below which messages may go that were stored before a time, or are too many bytes.
    pub(super) fn let_go_below(&self, stored_from_ms: Option<i64>, bytes_max: Option<u64>) -> u64 {
        let is_old = |nonce: &&u64| stored_from_ms.is_some_and(|from| stored_at_ms(**nonce) < from);
        match bytes_max {
            // How many bytes a message takes is not known here.
            Some(_) => self.nonces.len() as u64,
            None => self.nonces.iter().take_while(is_old).count() as u64,
        }
    }
}

fn stored_at_ms(nonce: u64) -> i64 {
    i64::try_from(nonce).unwrap()
}

pub(super) fn key(nonce: u64) -> u64 {
    nonce % KEYS
}
