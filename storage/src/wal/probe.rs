//! Which way durable writes take on this disk: measured once, remembered with the data.
//!
//! The measuring runs beside the work of a server that is ready already, and writes a few MiB to a file of
//! its own. Both ways take turns, so that what else happens on the machine hits both alike, and no place is
//! written twice: a log hardly ever is, and what the cache costs is mostly its pages that are new. The way past
//! the system's cache is taken unless it is clearly slower, because it spares the copy, and leaves the cache to
//! those who read.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millpond_proto::time::Clock;

use crate::disk::{Disk, DiskFile, Way};
use crate::format::block::ALIGN_BYTES;

const FILE: &str = "wal/probe.new";
/// Sizes of writes, each with how often it is written in one round.
const WRITES: [(usize, u32); 2] = [(4096, 24), (256 * 1024, 8)];
const ROUNDS: u32 = 4;
/// Of both ways.
const FILE_BYTES: u64 = 2 * ROUNDS as u64 * round_bytes();
/// The way past the cache must not take more of the time of the other than this.
const CLEARLY_PERCENT: i64 = 110;

/// How long each way took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) buffered_ms: i64,
    pub(crate) direct_ms: i64,
}

impl Measured {
    pub(crate) fn better(self) -> Way {
        if self.direct_ms * 100 <= self.buffered_ms * CLEARLY_PERCENT {
            Way::Direct
        } else {
            Way::Buffered
        }
    }
}

/// Whether writes can go past the cache: tried with one.
pub(crate) fn is_direct_possible(disk: &dyn Disk) -> io::Result<bool> {
    with_file(disk, ALIGN_BYTES as u64, || {
        let tried = disk
            .open_durable(FILE, Way::Direct)
            .and_then(|file| file.write_durable(&aligned(ALIGN_BYTES), 0));
        match tried {
            Ok(()) => Ok(true),
            Err(error) if is_refusal(&error) => Ok(false),
            Err(error) => Err(error),
        }
    })
}

/// Measures both ways; `None` when there is only one.
pub(crate) fn measure(disk: &dyn Disk, clock: &Arc<dyn Clock>) -> io::Result<Option<Measured>> {
    if !disk.has_ways() || !is_direct_possible(disk)? {
        return Ok(None);
    }
    with_file(disk, FILE_BYTES, || {
        let buffered = disk.open_durable(FILE, Way::Buffered)?;
        let direct = disk.open_durable(FILE, Way::Direct)?;
        let mut measured = Measured {
            buffered_ms: 0,
            direct_ms: 0,
        };
        for round in 0..u64::from(ROUNDS) {
            let at = 2 * round * round_bytes();
            measured.buffered_ms += round_ms(&*buffered, at, clock)?;
            measured.direct_ms += round_ms(&*direct, at + round_bytes(), clock)?;
        }
        Ok(Some(measured))
    })
}

/// So do file systems refuse a write that can not go past the cache.
fn is_refusal(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::Unsupported || kind == io::ErrorKind::InvalidInput
}

fn with_file<T>(
    disk: &dyn Disk,
    bytes: u64,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    match disk.remove(FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let worked = disk
        .create(FILE)
        .and_then(|file| file.allocate(bytes))
        .and_then(|()| work());
    disk.remove(FILE)?;
    worked
}

/// Bytes that a round writes in one way.
const fn round_bytes() -> u64 {
    let [(small, often), (large, seldom)] = WRITES;
    small as u64 * often as u64 + large as u64 * seldom as u64
}

fn round_ms(file: &dyn DiskFile, mut at: u64, clock: &Arc<dyn Clock>) -> io::Result<i64> {
    let start = clock.now();
    for (bytes, count) in WRITES {
        let block = aligned(bytes);
        for _ in 0..count {
            file.write_durable(&block, at)?;
            at += bytes as u64;
        }
    }
    Ok(clock.now().as_ms() - start.as_ms())
}

fn aligned(bytes: usize) -> Bytes {
    let mut room = BytesMut::zeroed(bytes + ALIGN_BYTES);
    let skipped = room.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
    let mut block = room.split_off(skipped);
    block.truncate(bytes);
    block.freeze()
}

#[cfg(test)]
mod tests {
    use millpond_proto::time::SystemClock;

    use super::*;
    use crate::disk::local::LocalDisk;
    use crate::disk::simulated::SimulatedDisk;

    #[test]
    fn the_way_past_the_cache_is_taken_unless_it_is_clearly_slower() {
        let better = |buffered_ms, direct_ms| {
            Measured {
                buffered_ms,
                direct_ms,
            }
            .better()
        };
        assert_eq!(better(100, 90), Way::Direct);
        assert_eq!(better(100, 110), Way::Direct);
        assert_eq!(better(100, 111), Way::Buffered);
        assert_eq!(better(0, 0), Way::Direct);
        assert_eq!(better(0, 1), Way::Buffered);
    }

    #[test]
    fn measuring_leaves_nothing_behind_and_asks_only_where_there_is_a_choice() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        disk.create_folder("wal").unwrap();
        disk.create(FILE).unwrap();
        let measured = measure(&disk, &clock).unwrap();
        assert_eq!(measured.is_some(), is_direct_possible(&disk).unwrap());
        assert!(disk.list("wal").unwrap().is_empty());
        assert_eq!(measure(&SimulatedDisk::new(), &clock).unwrap(), None);
    }
}
