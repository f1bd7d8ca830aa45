//! Parquet files as a manifest names them: what lies in each, and in which rows.

use std::ops::Range;

use crate::format::checksum::crc32c;

/// Bytes of a file that one checksum covers.
///
/// A read fetches whole blocks, so small blocks cost manifest and large ones cost reading.
pub const BLOCK_BYTES: u64 = 128 * 1024;
/// The same for files that do not say how many.
pub(super) const BLOCK_BYTES_UNSAID: u64 = 256 * 1024;

/// A Parquet file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct File {
    /// Its key in the object store.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its length.
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Its rows.
    #[prost(uint64, tag = "3")]
    pub rows: u64,
    /// What lies in it, by queue; together they are all its rows, in order.
    #[prost(message, repeated, tag = "4")]
    pub runs: Vec<Run>,
    /// CRC32C of each [`File::bytes_of_a_block`] of it, the last block being shorter.
    #[prost(fixed32, repeated, tag = "5")]
    pub blocks: Vec<u32>,
    /// Least store time of its messages, ms since the epoch.
    #[prost(sint64, optional, tag = "6")]
    pub stored_first_ms: Option<i64>,
    /// Greatest store time of its messages; a file without one never grows too old.
    #[prost(sint64, optional, tag = "7")]
    pub stored_last_ms: Option<i64>,
    /// Bytes that one checksum covers; 0 for 256 KiB.
    #[prost(uint64, tag = "20")]
    pub block_bytes: u64,
    /// Version of the manifest that first named it; 0 while no manifest did.
    #[prost(uint64, tag = "30")]
    pub added: u64,
    /// The declaration that its typed columns are of; 0 when it has none.
    #[prost(fixed64, tag = "31")]
    pub columns: u64,
    /// Version with which the Iceberg manifest was made that lists it; 0 when it is not known.
    #[prost(uint64, tag = "41")]
    pub listed: u64,
    /// Whether a key compaction has looked at all of it: of all such files no two messages of a queue have one key.
    #[prost(bool, tag = "45")]
    pub compacted: bool,
    /// Messages without a body; none: nobody counted.
    #[prost(uint64, optional, tag = "46")]
    pub bodiless: Option<u64>,
    /// Whether it is no part of the topic's table any more, and kept for readers of the log alone.
    #[prost(bool, tag = "47")]
    pub hidden: bool,
}

/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The day of a time, counted from the epoch.
#[must_use]
pub fn day_of(stored_at_ms: i64) -> i64 {
    stored_at_ms.div_euclid(DAY_MS)
}

impl File {
    /// Bytes that one checksum covers.
    #[must_use]
    pub fn bytes_of_a_block(&self) -> u64 {
        match self.block_bytes {
            0 => BLOCK_BYTES_UNSAID,
            bytes => bytes,
        }
    }

    /// The one day in which all its messages were stored, if it is one.
    #[must_use]
    pub fn day(&self) -> Option<i64> {
        let (first, last) = (self.stored_first_ms?, self.stored_last_ms?);
        (day_of(first) == day_of(last)).then(|| day_of(first))
    }
}

/// Rows of one queue. Offsets are dense (a message lost before it was moved begins another run): row = `first_row` + offset -
/// `base`. In a sparse run some are missing, superseded: the column `offset` tells which are there.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Run {
    /// The queue.
    #[prost(uint32, tag = "1")]
    pub queue: u32,
    /// First offset.
    #[prost(uint64, tag = "2")]
    pub base: u64,
    /// Row of the first offset.
    #[prost(uint64, tag = "3")]
    pub first_row: u64,
    /// How many messages, at least one.
    #[prost(uint64, tag = "4")]
    pub count: u64,
    /// How many offsets a sparse run covers, more than it has messages; 0: it is dense.
    #[prost(uint64, tag = "45")]
    pub span: u64,
}

impl Run {
    /// The run of `count` messages that covers these offsets.
    #[must_use]
    pub fn covering(queue: u32, offsets: Range<u64>, first_row: u64, count: u64) -> Self {
        let span = offsets.end.saturating_sub(offsets.start);
        Self {
            queue,
            base: offsets.start,
            first_row,
            count,
            span: if span == count { 0 } else { span },
        }
    }

    /// The offsets that it covers.
    #[must_use]
    pub fn offsets(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.length())
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> Range<u64> {
        self.first_row..self.first_row.saturating_add(self.count)
    }

    /// Whether offsets may be missing in it.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.span != 0
    }

    pub(super) fn length(&self) -> u64 {
        if self.is_sparse() {
            self.span
        } else {
            self.count
        }
    }
}

/// Checksums of the blocks of a file.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a block is 128 KiB")]
pub fn block_checksums(file: &[u8]) -> Vec<u32> {
    file.chunks(BLOCK_BYTES as usize)
        .map(|block| crc32c(&[block]))
        .collect()
}
