//! What can go wrong, one enum per public verb, each answering [`Remedy`].

use std::io;
use std::sync::Arc;

use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::remedy::Remedy;

use crate::log::room::Shortage;

/// Why a data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder holds files, but not a log of ours.
    #[error(
        "{folder} is not empty and holds no Millpond data; name an empty or new folder with --data"
    )]
    NotOurs {
        /// The folder.
        folder: String,
    },
    /// Another process has it open.
    #[error(
        "{folder} is in use by another Millpond process; stop that one or name another folder with --data"
    )]
    InUse {
        /// The folder.
        folder: String,
    },
    /// Written by a newer version.
    #[error(
        "the data was written in format {found}, this version reads up to {known}; use the newer Millpond"
    )]
    NewerFormat {
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// A setting that is fixed for the life of the folder differs.
    #[error(
        "the data folder was made with {setting} = {stored}, asked for {asked}; this can not change later"
    )]
    FixedSetting {
        /// Which one.
        setting: &'static str,
        /// As stored.
        stored: u64,
        /// As asked for.
        asked: u64,
    },
    /// A file that recovery can not do without is damaged.
    #[error("{what} is damaged: {detail}; nothing was changed, restore the file from a copy")]
    Damaged {
        /// The file.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The disk said no.
    #[error("could not {what}: check the disk and its permissions")]
    Disk {
        /// What was tried.
        what: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The object store said no.
    #[error("could not {what} in the object store")]
    Objects {
        /// What was tried.
        what: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// What has left the log lies elsewhere.
    #[error(
        "what has left the log of this data folder lies in {known}, not in {asked}; start with --cold {known}"
    )]
    OtherCold {
        /// The store asked for.
        asked: String,
        /// The store that was used before.
        known: String,
    },
    /// What has left the log is not where it was.
    #[error(
        "{asked} is not any more what it was when this data folder was last opened: what has left the log is not there; mount or restore it, then start again"
    )]
    ColdMissing {
        /// The store asked for.
        asked: String,
    },
    /// The object store belongs to another data folder.
    #[error(
        "{asked} is the cold tier of another data folder; name an empty place with --cold, such as another prefix"
    )]
    ColdTaken {
        /// The store asked for.
        asked: String,
    },
    /// The metadata store said no.
    #[error("could not read the metadata store")]
    Meta(#[from] crate::meta::MetaError),
}

impl OpenError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NotOurs { .. }
            | Self::FixedSetting { .. }
            | Self::OtherCold { .. }
            | Self::ColdTaken { .. } => Remedy::FixRequest,
            Self::InUse { .. }
            | Self::ColdMissing { .. }
            | Self::NewerFormat { .. }
            | Self::Damaged { .. }
            | Self::Disk { .. }
            | Self::Objects { .. }
            | Self::Meta(_) => Remedy::Operator,
        }
    }
}

/// Why an append was not made durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Too large for one block.
    #[error("the append is {size_bytes} bytes, limit {limit_bytes}; split it into smaller ones")]
    TooLarge {
        /// Bytes asked for.
        size_bytes: u64,
        /// Largest append.
        limit_bytes: u64,
    },
    /// A write or sync failed, or its writer panicked; the outcome is unknown and the incarnation has ended.
    #[error(
        "the log stopped after a failed write or sync; it reopens from disk under a new term, try again"
    )]
    Failed {
        /// What the disk said, or [`millpond_proto::task::Panicked`].
        #[source]
        cause: Arc<io::Error>,
    },
    /// There is no room; nothing was taken.
    #[error(
        "{shortage}; messages are refused until older ones have moved to the cold tier or are deleted, try again \
         later"
    )]
    Full {
        /// What there is too little of.
        shortage: Shortage,
    },
    /// The log was closed; nothing was written.
    #[error("the log is closing; try again once the server is back")]
    Closed,
}

impl AppendError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::TooLarge { .. } => Remedy::FixRequest,
            Self::Failed { .. } | Self::Full { .. } | Self::Closed => Remedy::Retry,
        }
    }
}

/// Why messages could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// Below the first offset that is kept.
    #[error(
        "queue {queue} of topic {topic} is kept from offset {first} on, asked for {asked}; start at {first}"
    )]
    Trimmed {
        /// Topic.
        topic: TopicId,
        /// Queue.
        queue: QueueId,
        /// First offset kept.
        first: Offset,
        /// Offset asked for.
        asked: Offset,
    },
    /// A checksum failed: this message is damaged, its neighbours are not.
    #[error(
        "the message at offset {offset} in queue {queue} of topic {topic} is damaged in {place}; skip it or restore a copy"
    )]
    Damaged {
        /// Topic.
        topic: TopicId,
        /// Queue.
        queue: QueueId,
        /// Offset.
        offset: Offset,
        /// File or object.
        place: String,
    },
    /// The disk said no.
    #[error("could not read {place}")]
    Disk {
        /// File.
        place: String,
        /// What the operating system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The object store said no.
    #[error("could not read {place} from the object store")]
    Objects {
        /// Object.
        place: String,
        /// What it said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

impl ReadError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Trimmed { .. } => Remedy::FixRequest,
            Self::Damaged { .. } | Self::Disk { .. } => Remedy::Operator,
            Self::Objects { .. } => Remedy::Retry,
        }
    }
}

/// A shard whose state could not be rebuilt: it stays closed, the others run.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "shard {shard} stays closed: {detail}; the other shards run, restore the data folder from a copy"
)]
pub struct ShardDamaged {
    /// The shard.
    pub shard: ShardId,
    /// What is damaged, and where.
    pub detail: String,
}

impl ShardDamaged {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        Remedy::Operator
    }
}

/// Why messages could not be moved to the cold tier, or a checkpoint not be written.
///
/// Nothing is lost: the log keeps what was not moved.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// Reading the log failed.
    #[error("could not read the log")]
    Read(#[from] ReadError),
    /// The disk said no.
    #[error("could not {what}")]
    Disk {
        /// What was tried.
        what: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The object store said no.
    #[error(
        "could not {what} in the object store; the log keeps the messages, the next turn tries again"
    )]
    Objects {
        /// What was tried.
        what: String,
        /// What it said.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The metadata store said no.
    #[error("could not record the new files")]
    Meta(#[from] crate::meta::MetaError),
}

impl TierError {
    /// What to do next.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Read(error) => error.remedy(),
            Self::Disk { .. } | Self::Meta(_) => Remedy::Operator,
            Self::Objects { .. } => Remedy::Retry,
        }
    }
}
