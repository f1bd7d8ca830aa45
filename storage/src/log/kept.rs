//! How much of a queue, a topic and a log is kept, read, moved and let go of, in numbers.

use millpond_proto::message::Offset;

use crate::tier::cold::retention::ColdSizes;

/// The durable extent of a queue: offsets `first..next`, those below `tiered` in Parquet; scans see `kept..next`.
///
/// `kept <= first <= next` and `kept <= tiered <= next`. A log that has let go of what still waits to be moved for its table
/// begins above `tiered`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First offset that can be read by offset.
    pub first: Offset,
    /// One past the last durable offset.
    pub next: Offset,
    /// Offsets below are read from the cold tier.
    pub tiered: Offset,
    /// First offset that scans see: below [`Extent::first`] where the table keeps more than the log.
    pub kept: Offset,
}

/// How much to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Most messages.
    pub messages: usize,
    /// Most bytes of messages; one message is returned even above it.
    pub bytes: usize,
}

/// What a turn of the tierer moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiered {
    /// Messages moved.
    pub messages: u64,
    /// Bytes of Parquet written.
    pub bytes: u64,
    /// Messages that were damaged in the log and are gaps from now on.
    pub damaged: u64,
}

/// What to keep of a topic; what is not said does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Messages stored before, ms since the epoch, may go.
    pub stored_from_ms: Option<i64>,
    /// The oldest messages go while there are more bytes.
    pub bytes_max: Option<u64>,
    /// What to keep of its table, where that is not what is kept of the log.
    pub table: Option<KeepTable>,
}

/// What to keep of a topic's table: what outside readers see, and scans beside what the log keeps; what is not said does
/// not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeepTable {
    /// Files whose messages were all stored before, ms since the epoch, may leave it.
    pub stored_from_ms: Option<i64>,
    /// The oldest files leave it while there are more bytes of Parquet.
    pub bytes_max: Option<u64>,
}

/// What was let go of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Messages.
    pub messages: u64,
    /// Parquet files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How much a topic holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicSizes {
    /// Messages in the log.
    pub hot_messages: u64,
    /// Their bytes.
    pub hot_bytes: u64,
    /// What lies in Parquet.
    pub cold: ColdSizes,
}

/// How much an open folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of WAL that are kept.
    pub wal_bytes: u64,
    /// Messages that are not in the cold tier yet.
    pub hot_messages: u64,
}
