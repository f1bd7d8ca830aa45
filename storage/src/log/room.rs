//! Whether the log may grow: its bound, and the room on the disk.
//!
//! The log refuses nothing itself: whoever decides what goes into it asks [`Storage::room`] first, because a
//! record that was decided on must not be lost. Messages stop while there is a reserve left, so that what is
//! small and lets messages go (deliveries, acknowledgements, deletions) goes on in it.
//!
//! **Invariant.** Looking is cheap and changes nothing but an answer that is kept: it is looked at again after
//! each [`LOOK_BYTES`] of appends, after a checkpoint, and by [`Storage::look_for_room`].

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::error::AppendError;
use crate::log::Storage;
use crate::wal::intake::QUEUE_BYTES_MAX;

/// Appended bytes after which it is looked at again.
const LOOK_BYTES: u64 = 256 * 1024;
/// The part of the bound that is kept for what is no message.
const RESERVE_PART: u64 = 8;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// For everything.
    Enough,
    /// For what is no message.
    Reserve(Shortage),
    /// For nothing that can wait.
    Nothing(Shortage),
}

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// The log has reached its bound.
    Bound,
    /// The disk is nearly full.
    Disk,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bound => "the log has reached the size set by --log-bytes-max",
            Self::Disk => "the disk that the log lies on is nearly full",
        })
    }
}

impl Room {
    /// Refuses what needs more room than there is; `is_message` says which kind asks.
    ///
    /// # Errors
    /// [`AppendError::Full`].
    pub fn check(self, is_message: bool) -> Result<(), AppendError> {
        match self {
            Self::Nothing(shortage) => Err(AppendError::Full { shortage }),
            Self::Reserve(shortage) if is_message => Err(AppendError::Full { shortage }),
            Self::Enough | Self::Reserve(_) => Ok(()),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Enough => 0,
            Self::Reserve(Shortage::Bound) => 1,
            Self::Reserve(Shortage::Disk) => 2,
            Self::Nothing(Shortage::Bound) => 3,
            Self::Nothing(Shortage::Disk) => 4,
        }
    }

    fn of(code: u8) -> Self {
        match code {
            1 => Self::Reserve(Shortage::Bound),
            2 => Self::Reserve(Shortage::Disk),
            3 => Self::Nothing(Shortage::Bound),
            4 => Self::Nothing(Shortage::Disk),
            _ => Self::Enough,
        }
    }
}

/// What was seen last.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    room: AtomicU8,
    /// Bytes appended since.
    grown: AtomicU64,
}

impl Storage {
    /// Whether there is room, as it was seen last.
    #[must_use]
    pub fn room(&self) -> Room {
        Room::of(self.looked.room.load(Ordering::Relaxed))
    }

    /// Looks whether there is room, and makes a segment ahead if the last attempt found none.
    pub fn look_for_room(&self) -> Room {
        for wal in self.view.wals() {
            wal.spares.try_again();
        }
        let room = self.look();
        if let Room::Reserve(Shortage::Disk) | Room::Nothing(Shortage::Disk) = room {
            for wal in self.view.wals() {
                if let Err(error) = wal.spares.shed() {
                    tracing::warn!(%error, "segments made ahead could not be removed");
                }
            }
        }
        room
    }

    /// Counts what is appended, and looks again once it is much.
    pub(crate) fn count_growth(&self, bytes: u64) {
        if self.looked.grown.fetch_add(bytes, Ordering::Relaxed) + bytes >= LOOK_BYTES {
            self.look();
        }
    }

    pub(crate) fn look(&self) -> Room {
        self.looked.grown.store(0, Ordering::Relaxed);
        let room = self.by_bound().max(self.by_disk());
        let before = Room::of(self.looked.room.swap(room.code(), Ordering::Relaxed));
        match (before, room) {
            (Room::Enough, Room::Reserve(shortage) | Room::Nothing(shortage)) => {
                tracing::error!(%shortage, "messages are refused until there is room again");
            }
            (Room::Reserve(_) | Room::Nothing(_), Room::Enough) => {
                tracing::warn!("there is room again; messages are taken");
            }
            _ => {}
        }
        room
    }

    /// Bytes that the disk of the log still has room for; none when nobody knows.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.parts.disk.free_bytes().unwrap_or_default()
    }

    fn by_bound(&self) -> Room {
        let Some(bytes_max) = self.settings.log_bytes_max else {
            return Room::Enough;
        };
        let waiting = QUEUE_BYTES_MAX.saturating_sub(self.budget.available_permits());
        let kept = self.sizes().wal_bytes + waiting as u64;
        if kept < bytes_max {
            Room::Enough
        } else if kept < bytes_max + bytes_max / RESERVE_PART {
            Room::Reserve(Shortage::Bound)
        } else {
            Room::Nothing(Shortage::Bound)
        }
    }

    fn by_disk(&self) -> Room {
        // What can not be asked does not stop the log; a full disk shows when a segment is made.
        let free = self.free_bytes();
        let is_low = free.is_some_and(|free| free < self.settings.disk_reserve_bytes);
        let wals = self.view.wals().iter();
        if is_low || wals.into_iter().any(|wal| wal.spares.is_out_of_room()) {
            Room::Reserve(Shortage::Disk)
        } else {
            Room::Enough
        }
    }
}
