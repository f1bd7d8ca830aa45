//! The disk, with the WAL's durable writes counted and timed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use millpond_proto::time::Clock;

use crate::disk::{Disk, DiskFile, Way};
use crate::metrics::Metrics;

/// A disk whose durable writes are counted.
#[derive(Debug)]
pub(super) struct WatchedDisk {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl WatchedDisk {
    pub(super) fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            disk,
            clock,
            metrics,
        }
    }
}

impl Disk for WatchedDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn open_durable(&self, path: &str, way: Way) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(WatchedFile {
            file: self.disk.open_durable(path, way)?,
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
        }))
    }

    fn has_ways(&self) -> bool {
        self.disk.has_ways()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        self.disk.create_folder(folder)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        self.disk.free_bytes()
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.disk.sync_folder(folder)
    }
}

/// A file of the WAL.
#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn DiskFile>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl DiskFile for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let wal = &self.metrics.wal;
        let began = self.clock.ticks();
        let done = self.file.write_durable(bytes, offset);
        wal.took(self.clock.ticks().saturating_sub(began));
        match done {
            Ok(()) => wal.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed),
            Err(_) => wal.errors.fetch_add(1, Ordering::Relaxed),
        };
        done
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn turns(&self) -> u32 {
        self.file.turns()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
