//! What a group of requests hands down to the log: one append, or several when one would be more than the log takes.
//!
//! **Invariant.** What one decision leads to lies in one append, so that it is durable as a whole or not at all, and no
//! append is larger than the log takes: an append that fails ends the incarnation, for everybody.

use millpond_proto::message::ShardId;
use millpond_storage::error::AppendError;
use millpond_storage::format::block::APPEND_BYTES_MAX;
use millpond_storage::log::{Batch, Durable, Record, Storage};

/// Bytes of records after which a group of requests is handed down.
const GROUP_BYTES: usize = 1024 * 1024;

/// The records of a group of requests.
pub(super) struct Handed {
    /// Appends that are full.
    full: Vec<Batch>,
    last: Batch,
    expected: usize,
}

/// What a decision leads to, with its size.
///
/// # Errors
/// [`AppendError::TooLarge`] when the log would not take it.
pub(super) fn measured(records: Vec<Record>) -> Result<Batch, AppendError> {
    let batch = Batch::from(records);
    let size = batch.append_bytes();
    if size > APPEND_BYTES_MAX {
        return Err(AppendError::TooLarge {
            size_bytes: size as u64,
            limit_bytes: APPEND_BYTES_MAX as u64,
        });
    }
    Ok(batch)
}

impl Handed {
    /// Nothing yet; so many records will come, most often.
    pub(super) fn expecting(expected: usize) -> Self {
        Self {
            full: Vec::new(),
            last: Batch::default(),
            expected,
        }
    }

    /// Adds what one decision leads to.
    pub(super) fn add(&mut self, decided: Batch, is_last: bool) {
        if self.last.append_bytes() + decided.append_bytes() > APPEND_BYTES_MAX {
            self.full.push(std::mem::take(&mut self.last));
        }
        if self.is_empty() && is_last {
            // A batch that comes alone stays where it is.
            self.last = decided;
        } else {
            self.last.append(decided, self.expected);
        }
    }

    /// Whether that is enough for one group.
    pub(super) fn is_full(&self) -> bool {
        self.last.append_bytes() >= GROUP_BYTES
    }

    /// Whether there is nothing to append.
    pub(super) fn is_empty(&self) -> bool {
        self.last.records().is_empty()
    }

    /// Hands all of it down. What answers is the last append: those before are durable when it is.
    ///
    /// # Errors
    /// [`AppendError`] when the log takes no more.
    pub(super) async fn append(
        self,
        storage: &Storage,
        shard: ShardId,
    ) -> Result<Durable, AppendError> {
        for records in self.full {
            drop(storage.append(shard, records).await?);
        }
        storage.append(shard, self.last).await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn decision(bytes: usize) -> Batch {
        measured(vec![Record::State(Bytes::from(vec![0; bytes]))]).unwrap()
    }

    #[test]
    fn a_group_is_cut_between_decisions_before_the_log_would_refuse_it() {
        let mut handed = Handed::expecting(2);
        assert!(handed.is_empty());
        handed.add(decision(GROUP_BYTES - 100), false);
        assert!(!handed.is_full(), "another one may come");
        handed.add(decision(APPEND_BYTES_MAX - 100), true);
        assert!(handed.is_full());
        let all = handed.full.iter().chain([&handed.last]);
        let sizes: Vec<usize> = all.map(Batch::append_bytes).collect();
        assert_eq!(sizes.len(), 2, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= APPEND_BYTES_MAX));
    }

    #[test]
    fn what_the_log_would_refuse_is_no_decision() {
        let huge = vec![Record::State(Bytes::from(vec![0; APPEND_BYTES_MAX]))];
        assert!(matches!(measured(huge), Err(AppendError::TooLarge { .. })));
    }
}
