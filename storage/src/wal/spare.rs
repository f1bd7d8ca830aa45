//! Files that wait to become segments: made ahead by a thread of its own, or left from segments that
//! nobody needs any more.
//!
//! Writing into a file that was written before changes no metadata, so each sync is one write of the
//! disk. That is why segments are used again and not removed, and why new ones are filled with zeros
//! before they are needed. Segments grow from [`FIRST_BYTES`], each twice as large as the one before, up to
//! the size that was set: a small log stays small.
//!
//! **Invariant.** A file is offered only once its name as a spare is durable. Otherwise a crash could
//! bring back the old name over new contents.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::disk::Disk;
use crate::wal::segment::{self, Segment, Spare};

/// Size of the first segment, header included.
pub(crate) const FIRST_BYTES: u64 = 1024 * 1024;
/// Size of a segment that is made while the writer waits for it.
const BRIDGE_BYTES: u64 = 4 * FIRST_BYTES;
/// Most spares that are kept unless the log is bounded; further segments that nobody needs are removed.
pub const SPARES_MAX: usize = 8;

/// The spares of one WAL.
#[derive(Debug)]
pub(crate) struct Spares {
    disk: Arc<dyn Disk>,
    folder: String,
    /// Largest file that is kept.
    file_bytes_max: u64,
    /// Most files that are kept.
    spares_max: usize,
    /// Size of a file that the disk had no room for; 0 when it had.
    missing: AtomicU64,
    stock: Mutex<Stock>,
    /// How many want segments that were in use to be removed, not kept.
    shredders: AtomicUsize,
}

#[derive(Debug, Default)]
struct Stock {
    spares: Vec<Spare>,
    /// Numbers the new files.
    next: u64,
}

impl Spares {
    /// The spares that an incarnation before has left; what was not finished is removed.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        wal: u16,
        file_bytes_max: u64,
        spares_max: usize,
    ) -> io::Result<Self> {
        let folder = segment::folder(wal);
        let mut stock = Stock::default();
        for name in disk.list(&folder)? {
            let path = format!("{folder}/{name}");
            if name.ends_with(".new") {
                disk.remove(&path)?;
            } else if let Some(name) = name.strip_suffix(".spare") {
                let number = name
                    .strip_prefix("made-")
                    .and_then(|n| n.parse::<u64>().ok());
                stock.next = stock.next.max(number.map_or(0, |number| number + 1));
                let file_bytes = disk.open(&path)?.len()?;
                stock.spares.push(Spare { path, file_bytes });
            }
        }
        Ok(Self {
            disk,
            folder,
            file_bytes_max,
            spares_max,
            missing: AtomicU64::new(0),
            stock: Mutex::new(stock),
            shredders: AtomicUsize::new(0),
        })
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How large the segment behind one of `file_bytes` is to be.
    pub(crate) fn next_size(&self, file_bytes: u64) -> u64 {
        (2 * file_bytes).min(self.file_bytes_max)
    }

    /// Sizes for a new file, best first, when there is no spare and the writer waits; the later ones are
    /// for a disk that is nearly full.
    pub(crate) fn fresh_sizes(&self, wanted: u64, least: u64) -> [u64; 2] {
        let size = |size: u64| size.min(self.file_bytes_max).max(least);
        [size(wanted.min(BRIDGE_BYTES)), size(FIRST_BYTES)]
    }

    /// The largest spare that has `least` bytes.
    pub(crate) fn take(&self, least: u64) -> Option<Spare> {
        let mut stock = self.stock();
        let fitting = stock.spares.iter().enumerate();
        let (number, _) = fitting
            .filter(|(_, spare)| spare.file_bytes >= least)
            .max_by_key(|(_, spare)| spare.file_bytes)?;
        Some(stock.spares.swap_remove(number))
    }

    /// Keeps the files of segments that nobody needs any more, the largest ones, and removes the others.
    pub(crate) fn keep(&self, segments: Vec<Segment>) -> io::Result<()> {
        let mut kept = Vec::new();
        for segment in segments {
            let (bytes, path) = (segment.file_bytes, segment.path);
            let is_useful = self.shredders.load(Ordering::SeqCst) == 0
                && bytes <= self.file_bytes_max
                && self.make_way(bytes, kept.len())?;
            match path.strip_suffix(".log").filter(|_| is_useful) {
                Some(name) => {
                    let spare = format!("{name}.spare");
                    self.disk.rename(&path, &spare)?;
                    kept.push(Spare {
                        path: spare,
                        file_bytes: bytes,
                    });
                }
                None => self.disk.remove(&path)?,
            }
        }
        self.disk.sync_folder(&self.folder)?;
        self.stock().spares.append(&mut kept);
        Ok(())
    }

    /// Says that segments are to be removed from now on, not kept; or takes that back, once for each time it was said.
    pub(crate) fn keep_none(&self, none: bool) {
        if none {
            self.shredders.fetch_add(1, Ordering::SeqCst);
        } else {
            self.shredders.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Removes every spare: some may hold what was in them before.
    pub(crate) fn remove_all(&self) -> io::Result<()> {
        let spares = std::mem::take(&mut self.stock().spares);
        for spare in &spares {
            self.disk.remove(&spare.path)?;
        }
        self.disk.sync_folder(&self.folder)
    }

    /// Whether there is a place for one more of `bytes`, after a smaller one was removed if need be.
    fn make_way(&self, bytes: u64, waiting: usize) -> io::Result<bool> {
        let smaller = {
            let mut stock = self.stock();
            if stock.spares.len() + waiting < self.spares_max {
                return Ok(true);
            }
            let spares = stock.spares.iter().enumerate();
            let smallest = spares.min_by_key(|(_, spare)| spare.file_bytes);
            match smallest.filter(|(_, spare)| spare.file_bytes < bytes) {
                Some((number, _)) => stock.spares.swap_remove(number),
                None => return Ok(false),
            }
        };
        self.disk.remove(&smaller.path)?;
        Ok(true)
    }

    /// Makes sure that there is a spare of `least` bytes.
    fn make(&self, least: u64) -> io::Result<()> {
        let number = {
            let mut stock = self.stock();
            if stock.spares.iter().any(|spare| spare.file_bytes >= least) {
                return Ok(());
            }
            stock.next += 1;
            stock.next - 1
        };
        let name = format!("{}/made-{number:010}", self.folder);
        let (new, path) = (format!("{name}.new"), format!("{name}.spare"));
        let file = self.disk.create(&new)?;
        if let Err(error) = file.allocate(least) {
            let _ = self.disk.remove(&new);
            if error.kind() == io::ErrorKind::StorageFull {
                self.missing.store(least, Ordering::Relaxed);
            }
            return Err(segment::describe_full(&path, least, error));
        }
        self.disk.rename(&new, &path)?;
        self.disk.sync_folder(&self.folder)?;
        self.stock().spares.push(Spare {
            path,
            file_bytes: least,
        });
        Ok(())
    }

    /// Whether the disk had no room for the last segment that was to be made ahead.
    pub(crate) fn is_out_of_room(&self) -> bool {
        self.missing.load(Ordering::Relaxed) > 0 && self.stock().spares.is_empty()
    }

    /// Removes all spares but the largest: the disk has no room for what may be needed later.
    pub(crate) fn shed(&self) -> io::Result<()> {
        let shed = {
            let mut stock = self.stock();
            stock.spares.sort_by_key(|spare| spare.file_bytes);
            let kept = stock.spares.pop();
            let shed = std::mem::take(&mut stock.spares);
            stock.spares.extend(kept);
            shed
        };
        for spare in &shed {
            self.disk.remove(&spare.path)?;
        }
        if shed.is_empty() {
            return Ok(());
        }
        self.disk.sync_folder(&self.folder)
    }

    /// Makes the segment that there was no room for, if there is now; a small one helps as well.
    pub(crate) fn try_again(&self) {
        let missing = self.missing.swap(0, Ordering::Relaxed);
        if missing == 0 {
            return;
        }
        for bytes in [missing, missing.min(FIRST_BYTES)] {
            match self.make(bytes) {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, bytes, "still no room for a segment"),
            }
        }
        self.missing.store(missing, Ordering::Relaxed);
    }

    /// Makes spares of the sizes that are asked for, until nobody can ask any more. What fails here is
    /// tried again by the writer, who then knows whether it matters.
    pub(crate) async fn run(self: Arc<Self>, mut wanted: mpsc::Receiver<u64>) {
        while let Some(bytes) = wanted.recv().await {
            if let Err(error) = self.make(bytes) {
                tracing::warn!(%error, "no segment was made ahead; the log goes on without");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::wal::segment::{Header, Room};

    fn header(first: u64) -> Header {
        Header {
            wal: 0,
            term: 1,
            first,
            durable: first,
            sequence: 0,
        }
    }

    fn names(disk: &SimulatedDisk) -> Vec<String> {
        disk.list("wal/0").unwrap()
    }

    #[test]
    fn a_segment_that_nobody_needs_becomes_the_next_one() {
        let disk = SimulatedDisk::new();
        disk.create_folder("wal/0").unwrap();
        let spares = Spares::open(Arc::new(disk.clone()), 0, 16384, SPARES_MAX).unwrap();
        let old = Segment::create(&disk, &header(0), Room::Fresh(8192)).unwrap();
        old.file.write_at(b"old", 5000).unwrap();
        spares.keep(vec![old]).unwrap();
        assert_eq!(names(&disk), ["00000000000000000000-0000000001.spare"]);
        assert!(spares.take(8193).is_none());
        let spare = spares.take(8192).unwrap();
        assert!(spares.take(0).is_none());
        let next = Segment::create(&disk, &header(4096), Room::Spare(spare)).unwrap();
        assert_eq!(names(&disk), ["00000000000000004096-0000000001.log"]);
        assert_eq!(next.file_bytes, 8192);
        assert_eq!(&next.read(None).unwrap()[5000..5003], b"old");
        let head = Header::decode(&next.read(Some(4096)).unwrap());
        assert_eq!(head, Ok(Some(header(4096))));
    }

    #[test]
    fn a_file_is_offered_only_once_no_crash_brings_back_its_old_name() {
        for (seed, is_made) in (0..20).flat_map(|seed| [(seed, false), (seed, true)]) {
            let disk = SimulatedDisk::new();
            disk.create_folder("wal/0").unwrap();
            let spares = Spares::open(Arc::new(disk.clone()), 0, 16384, SPARES_MAX).unwrap();
            if is_made {
                spares.make(8192).unwrap();
            } else {
                let old = Segment::create(&disk, &header(0), Room::Fresh(8192)).unwrap();
                spares.keep(vec![old]).unwrap();
            }
            let offered = spares.take(8192).unwrap().path;
            let disk = disk.crash(&Seeded::new(seed));
            let found = names(&disk);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(format!("wal/0/{}", found[0]), offered);
        }
    }

    #[test]
    fn the_stock_is_bounded_keeps_the_largest_and_survives_a_restart() {
        let disk = SimulatedDisk::new();
        disk.create_folder("wal/0").unwrap();
        let spares = Spares::open(Arc::new(disk.clone()), 0, 65536, SPARES_MAX).unwrap();
        let sizes = (0..12).map(|number| (number, 8192 + number % 6 * 4096));
        let segments = sizes.map(|(number, bytes)| {
            Segment::create(&disk, &header(number), Room::Fresh(bytes)).unwrap()
        });
        let mut segments: Vec<Segment> = segments.collect();
        spares.keep(segments.drain(..6).collect()).unwrap();
        spares.keep(segments).unwrap();
        assert_eq!(names(&disk).len(), SPARES_MAX);
        disk.create("wal/0/made-0000000007.new").unwrap();
        spares.make(32768).unwrap();
        drop(spares);
        let spares = Spares::open(Arc::new(disk.clone()), 0, 65536, SPARES_MAX).unwrap();
        assert!(!names(&disk).iter().any(|name| name.ends_with(".new")));
        let mut sizes = Vec::new();
        while let Some(spare) = spares.take(0) {
            sizes.push(spare.file_bytes);
        }
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert_eq!((sizes[0], sizes.len()), (32768, SPARES_MAX + 1));
        // One larger than what may be kept is removed.
        let large = Segment::create(&disk, &header(99), Room::Fresh(131_072)).unwrap();
        spares.keep(vec![large]).unwrap();
        assert!(spares.take(0).is_none());
    }

    #[test]
    fn a_full_disk_is_named_and_leaves_no_half_file() {
        let disk = SimulatedDisk::new();
        disk.create_folder("wal/0").unwrap();
        disk.limit_room(Some(10_000));
        let error = Segment::create(&disk, &header(0), Room::Fresh(16384)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("16384 bytes"), "{error}");
        let spares = Spares::open(Arc::new(disk.clone()), 0, 65536, SPARES_MAX).unwrap();
        assert_eq!(
            spares.make(16384).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert!(names(&disk).is_empty());
        disk.limit_room(None);
        spares.make(16384).unwrap();
    }
}
