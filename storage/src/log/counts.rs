//! What has gone through an open log, and how much lies where: numbers for whoever watches it.
//!
//! **Invariant.** Counted where a block is shown to readers, so what is counted is durable. What recovery
//! finds was counted by the incarnation that wrote it and is not counted again.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::block::Head;
use crate::log::Storage;

/// What has become durable since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Messages and changes of state.
    pub records: u64,
    /// Their bytes, without what a block adds.
    pub bytes: u64,
    /// Blocks that they came in, each one write and one sync.
    pub groups: u64,
}

/// How much is kept, in both tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AtRest {
    /// Bytes of messages that lie in the log alone.
    pub hot_bytes: u64,
    /// Bytes of the Parquet files that topics consist of.
    pub cold_bytes: u64,
    /// How many files these are.
    pub cold_files: u64,
}

/// The same numbers as they grow, of one WAL.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
    groups: AtomicU64,
}

impl Counts {
    /// Counts a block.
    pub(crate) fn add(&self, head: &Head) {
        self.records
            .fetch_add(head.entries.len() as u64, Ordering::Relaxed);
        self.bytes
            .fetch_add(u64::from(head.body_bytes), Ordering::Relaxed);
        self.groups.fetch_add(1, Ordering::Relaxed);
    }
}

impl Storage {
    /// What has become durable since the log was opened.
    #[must_use]
    pub fn appended(&self) -> Appended {
        let mut sum = Appended::default();
        for wal in self.view.wals() {
            sum.records += wal.counts.records.load(Ordering::Relaxed);
            sum.bytes += wal.counts.bytes.load(Ordering::Relaxed);
            sum.groups += wal.counts.groups.load(Ordering::Relaxed);
        }
        sum
    }

    /// How much is kept of all topics; takes time for each cold file, none for messages.
    #[must_use]
    pub fn at_rest(&self) -> AtRest {
        let hot_bytes = self.view.index().bytes();
        let (cold_files, cold_bytes) = self.cold.at_rest();
        AtRest {
            hot_bytes,
            cold_bytes,
            cold_files,
        }
    }
}
