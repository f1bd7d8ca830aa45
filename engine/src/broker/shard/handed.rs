//! What a group of requests hands down to the log: one append, or several when one would be more than the log takes.
//!
//! **Invariant.** What one decision leads to lies in one append, so that it is durable as a whole or not at all, and no
//! append is larger than the log takes: an append that fails ends the incarnation, for everybody.

use millpond_proto::message::ShardId;
use millpond_storage::error::AppendError;
use millpond_storage::format::block::APPEND_BYTES_MAX;
use millpond_storage::log::{Durable, Record, Storage};

/// Bytes of records after which a group of requests is handed down.
const GROUP_BYTES: usize = 1024 * 1024;

/// The records of a group of requests.
pub(super) struct Handed {
    /// Appends that are full.
    full: Vec<Vec<Record>>,
    last: Vec<Record>,
    bytes: usize,
    expected: usize,
}

/// Bytes of what a decision leads to.
///
/// # Errors
/// [`AppendError::TooLarge`] when the log would not take it.
pub(super) fn check_size(records: &[Record]) -> Result<usize, AppendError> {
    let size = records.iter().map(Record::append_bytes).sum();
    if size > APPEND_BYTES_MAX {
        return Err(AppendError::TooLarge {
            size_bytes: size as u64,
            limit_bytes: APPEND_BYTES_MAX as u64,
        });
    }
    Ok(size)
}

impl Handed {
    /// Nothing yet; so many records will come, most often.
    pub(super) fn expecting(expected: usize) -> Self {
        Self {
            full: Vec::new(),
            last: Vec::new(),
            bytes: 0,
            expected,
        }
    }

    /// Adds what one decision leads to, of so many bytes.
    pub(super) fn add(&mut self, records: Vec<Record>, size: usize, is_last: bool) {
        if self.bytes + size > APPEND_BYTES_MAX {
            self.full.push(std::mem::take(&mut self.last));
            self.bytes = 0;
        }
        self.bytes += size;
        if self.last.is_empty() && is_last {
            // A batch that comes alone stays where it is.
            self.last = records;
        } else {
            if self.last.is_empty() {
                self.last.reserve(self.expected);
            }
            self.last.extend(records);
        }
    }

    /// Whether that is enough for one group.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= GROUP_BYTES
    }

    /// Whether there is nothing to append.
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty()
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

    fn decision(bytes: usize) -> (Vec<Record>, usize) {
        let records = vec![Record::State(Bytes::from(vec![0; bytes]))];
        let size = check_size(&records).unwrap();
        (records, size)
    }

    #[test]
    fn a_group_is_cut_between_decisions_before_the_log_would_refuse_it() {
        let mut handed = Handed::expecting(2);
        assert!(handed.is_empty());
        let (small, size) = decision(GROUP_BYTES - 100);
        handed.add(small, size, false);
        assert!(!handed.is_full(), "another one may come");
        let (large, size) = decision(APPEND_BYTES_MAX - 100);
        handed.add(large, size, true);
        assert!(handed.is_full());
        let all = handed.full.iter().chain([&handed.last]);
        let sizes: Vec<usize> = all.map(|records| check_size(records).unwrap()).collect();
        assert_eq!(sizes.len(), 2, "{sizes:?}");
    }

    #[test]
    fn what_the_log_would_refuse_is_no_decision() {
        let huge = [Record::State(Bytes::from(vec![0; APPEND_BYTES_MAX]))];
        assert!(matches!(
            check_size(&huge),
            Err(AppendError::TooLarge { .. })
        ));
    }
}
