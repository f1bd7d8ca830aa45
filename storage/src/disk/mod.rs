//! The one place that touches local files.
//!
//! Paths are relative to the data folder and use `/`. Calls block; whoever must not block calls them
//! from a background or dedicated lane. [`local::LocalDisk`] is real; the simulated disk (feature
//! `test-util`) loses or tears whatever was not synced when it crashes.

use std::fmt;
use std::io;

pub mod local;
#[cfg(any(test, feature = "test-util"))]
pub mod simulated;

/// The way that durable writes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into the system's cache, then a sync.
    Buffered,
    /// Past the cache, durable when the write returns: offsets, lengths and memory are multiples of 4096.
    Direct,
}

/// A folder of files.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a new, empty file for reading and writing; an existing one is an error.
    ///
    /// # Errors
    /// What the operating system says; `AlreadyExists` when the name is taken.
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What the operating system says; `NotFound` when there is none.
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for [`DiskFile::write_durable`] alone.
    ///
    /// # Errors
    /// What the operating system says; `Unsupported` when there is no such way to this file.
    fn open_durable(&self, path: &str, way: Way) -> io::Result<Box<dyn DiskFile>> {
        let _ = way;
        self.open(path)
    }

    /// Whether there is more than one way for durable writes, so that it is worth asking which is faster.
    fn has_ways(&self) -> bool {
        false
    }

    /// Names (not paths) of the entries of a folder, sorted; empty when the folder does not exist.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Makes a folder and those above it.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_folder(&self, folder: &str) -> io::Result<()>;

    /// Renames a file, replacing the target. Durable only after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the operating system says; `NotFound` when there is none.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Bytes that the disk still has room for; `None` when nobody knows.
    ///
    /// # Errors
    /// What the operating system says.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Makes the folder's entries (created, renamed, removed) durable.
    ///
    /// # Errors
    /// What the operating system says; the entries must then be taken as lost.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;
}

/// An open file.
#[expect(
    clippy::len_without_is_empty,
    reason = "nobody asks whether a file is empty"
)]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the operating system says; any part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written so far, and the length, durable (fdatasync).
    ///
    /// # Errors
    /// What the operating system says; what was written since the last sync must then be taken as lost.
    fn sync(&self) -> io::Result<()>;

    /// Writes all of `bytes` at `offset` and makes them durable. Several may be under way at once, each
    /// through a handle of its own: a handle that others sync may not learn of a failure.
    ///
    /// # Errors
    /// What the operating system says; any part may have been written, and nothing that was not durable
    /// before may be taken for durable.
    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.sync()
    }

    /// Makes a new file `bytes` long, all zeros, durably and with its room on the disk taken, so that
    /// later writes inside need none and change nothing but contents.
    ///
    /// # Errors
    /// What the operating system says; `StorageFull` when there is no room.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// How many other pieces of work go first when something is written durably: none on a real disk,
    /// where threads race; as many as the seed says on a simulated one.
    fn turns(&self) -> u32 {
        0
    }

    /// Current length in bytes.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
}
