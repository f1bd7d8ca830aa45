//! A disk whose power goes after so many changes, in the middle of whatever is under way.
//!
//! The change that finds no power does not happen, and every later one fails; reads go on, as they would not, so
//! that the code above meets the failure where it writes. What happens to the last changes is the crash's to say.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millpond_storage::disk::simulated::SimulatedDisk;
use millpond_storage::disk::{Disk, DiskFile};
use tokio::sync::Notify;

/// The power of one life: how many changes the disk still takes.
#[derive(Debug)]
pub struct Power {
    left: AtomicU64,
    /// Told when it goes.
    pub gone: Notify,
}

/// A disk whose power goes after so many changes; what happens to the last ones is the crash's to say.
#[derive(Clone, Debug)]
pub struct MortalDisk {
    /// The disk itself, to let it fail.
    pub inner: SimulatedDisk,
    /// What it still does.
    pub power: Arc<Power>,
}

#[derive(Debug)]
struct MortalFile {
    inner: Box<dyn DiskFile>,
    power: Arc<Power>,
}

impl Power {
    /// Whether it went.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Takes one change from what is left.
    fn change(&self) -> io::Result<()> {
        let took = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
        if took.is_ok() {
            return Ok(());
        }
        self.gone.notify_one();
        Err(io::Error::other("the power is gone"))
    }
}

impl MortalDisk {
    /// A disk that takes so many changes.
    #[must_use]
    pub fn new(inner: SimulatedDisk, operations: u64) -> Self {
        let power = Arc::new(Power {
            left: AtomicU64::new(operations),
            gone: Notify::new(),
        });
        Self { inner, power }
    }

    fn file(&self, inner: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let power = Arc::clone(&self.power);
        Box::new(MortalFile { inner, power })
    }
}

impl Disk for MortalDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.power.change()?;
        Ok(self.file(self.inner.create(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.inner.open(path)?))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.power.change()?;
        self.inner.create_folder(folder)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.power.change()?;
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.power.change()?;
        self.inner.remove(path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.free_bytes()
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.power.change()?;
        self.inner.sync_folder(folder)
    }
}

impl DiskFile for MortalFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.power.change()?;
        self.inner.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.power.change()?;
        self.inner.sync()
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)?;
        self.sync()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.power.change()?;
        self.inner.allocate(bytes)
    }

    fn turns(&self) -> u32 {
        self.inner.turns()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.power.change()?;
        self.inner.set_len(len)
    }
}
