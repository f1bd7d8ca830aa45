//! Leaving nothing of what was erased in the log's files.
//!
//! What lies in Parquet is written anew by an erasure, but what was sent lies in segments too, in those that were let go of
//! and wait to be used again, and in the one that is being written. So for a while segments are removed instead of being
//! kept, the one being written is given up early, and once nothing needs the old ones they go with the next checkpoint.
//!
//! **Invariant.** While a [`Shredding`] lives no file that held messages is used again. It changes nothing that a reader or a
//! recovery sees: a segment goes when neither a snapshot nor a message that is not in Parquet needs it, as ever.
//!
//! It removes files. What a disk keeps of removed files, and copies that were made of the folder, are not its business.

use std::io;
use std::sync::Arc;

use crate::error::TierError;
use crate::log::Storage;
use crate::queue::view::View;

/// The log while it keeps no segment to be used again.
#[derive(Debug)]
pub struct Shredding {
    view: Arc<View>,
    /// By WAL, the position below which everything is to go.
    below: Vec<u64>,
}

impl Storage {
    /// Removes the segments that wait to be used again, and keeps no more of them while the answer lives.
    ///
    /// # Errors
    /// [`TierError`] when the disk said no.
    pub fn shred(&self) -> Result<Shredding, TierError> {
        for wal in self.view.wals() {
            wal.spares.keep_none(true);
        }
        // Dropped on the way out by an error, too.
        let shredding = Shredding {
            view: Arc::clone(&self.view),
            below: vec![0; self.view.wals().len()],
        };
        shredding.remove_spares()?;
        Ok(shredding)
    }
}

impl Shredding {
    fn remove_spares(&self) -> Result<(), TierError> {
        let removed = self
            .view
            .wals()
            .iter()
            .try_for_each(|wal| wal.spares.remove_all());
        removed.map_err(|source: io::Error| TierError::Disk {
            what: "remove segments that held what was erased".to_owned(),
            source,
        })
    }

    /// Lets every WAL begin a new segment with its next block. What was durable before is to go; something must have
    /// been appended to each WAL since [`Storage::shred`].
    pub fn begin_segments(&mut self) {
        for (wal, below) in self.view.wals().iter().zip(&mut self.below) {
            wal.segments.begin_new();
            *below = wal.durable();
        }
    }

    /// Bytes of segments that hold something from before [`Shredding::begin_segments`] and are still needed.
    ///
    /// # Errors
    /// [`TierError`] when the disk said no.
    pub fn left(&self) -> Result<u64, TierError> {
        // What the checkpoint let go of while a spare was being made.
        self.remove_spares()?;
        let wals = self.view.wals().iter().zip(&self.below);
        let left = wals.map(|(wal, &below)| {
            let begins = wal.segments.begins();
            let old = begins.first().copied().filter(|first| *first < below);
            let new = begins.iter().copied().find(|first| *first >= below);
            old.map_or(0, |old| new.unwrap_or_else(|| wal.durable()) - old)
        });
        Ok(left.sum())
    }
}

impl Drop for Shredding {
    fn drop(&mut self) {
        for wal in self.view.wals() {
            wal.spares.keep_none(false);
        }
    }
}
