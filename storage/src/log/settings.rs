//! What a log is given when it is opened: the outside world, and what a user may set.

use std::sync::Arc;

use millpond_proto::chance::Chance;
use millpond_proto::task::Spawn;
use millpond_proto::time::Clock;
use object_store::ObjectStore;

use crate::disk::Disk;
use crate::format::block;
use crate::wal::spare;

/// The outside world, passed in.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The data folder.
    pub disk: Arc<dyn Disk>,
    /// Where the cold tier lies; must be durable when a put returns.
    pub objects: Arc<dyn ObjectStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
    /// Where work runs.
    pub spawn: Arc<dyn Spawn>,
}

/// What a user may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Units of ownership; fixed when the folder is made.
    pub shards: u16,
    /// WALs that the shards are spread over; fixed when the folder is made. More than one is for tests:
    /// nothing may lean on one WAL for atomicity across shards.
    pub wals: u16,
    /// Largest WAL segment; they begin at 1 MiB and double.
    pub segment_bytes: u64,
    /// Durable writes of one WAL that may be in flight at once.
    pub writes_in_flight: u16,
    /// Bytes that are always enough for a write beside one that is in flight; fewer are when few producers are
    /// at work.
    pub overlap_bytes: usize,
    /// How the WAL is written.
    pub wal_io: WalIo,
    /// Memory for the tail cache.
    pub cache_bytes: usize,
    /// Bytes that the log may keep before messages are refused; an eighth more is for what is no message.
    /// Segments made ahead come on top, at most [`Settings::spares_max`] of them.
    pub log_bytes_max: Option<u64>,
    /// Free bytes of the disk below which messages are refused.
    pub disk_reserve_bytes: u64,
    /// What the cold tier is called, in messages and for whoever asks where it lies: its URL.
    pub cold: String,
    /// Where outsiders find the object store, as a URL without a slash at the end; none: topics are not shown
    /// as tables.
    pub location: Option<String>,
    /// How long files that were merged or let go of stay for readers of the tables, ms.
    pub table_grace_ms: i64,
}

/// What the cold tier is called when it lies in the data folder.
pub const COLD_DEFAULT: &str = "objects";

/// The way that durable writes of the WAL take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WalIo {
    /// As [`crate::log::Storage::choose_wal_io`] once measured; until then past the system's cache, where the file system can.
    #[default]
    Auto,
    /// Through the system's cache, then a sync.
    Buffered,
    /// Past it, where the file system can.
    Direct,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: millpond_proto::limits::SHARDS_DEFAULT,
            wals: 1,
            segment_bytes: 64 * 1024 * 1024,
            writes_in_flight: 4,
            overlap_bytes: block::TARGET_BYTES,
            wal_io: WalIo::Auto,
            cache_bytes: 128 * 1024 * 1024,
            log_bytes_max: None,
            disk_reserve_bytes: 256 * 1024 * 1024,
            cold: COLD_DEFAULT.to_owned(),
            location: None,
            table_grace_ms: 0,
        }
    }
}

impl Settings {
    /// Parts of a bounded log, each of which is a segment and let go as a whole.
    const PARTS: u64 = 8;

    /// A log that keeps at most `bytes_max`, in segments small enough to be let go one by one; 0 for no bound.
    #[must_use]
    pub fn bounded(bytes_max: u64) -> Self {
        let settings = Self::default();
        if bytes_max == 0 {
            return settings;
        }
        Self {
            log_bytes_max: Some(bytes_max),
            segment_bytes: settings.segment_bytes.min(bytes_max / Self::PARTS),
            ..settings
        }
    }

    /// Segments made ahead, or left from before, that are kept for each WAL.
    #[must_use]
    pub fn spares_max(&self) -> usize {
        match self.log_bytes_max {
            None => spare::SPARES_MAX,
            Some(_) => 1,
        }
    }
}
