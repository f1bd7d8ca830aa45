//! Which way durable writes take on this disk: measured once, remembered with the data.
//!
//! The measuring runs beside the work of a server that is ready already, and writes some MiB to a file of
//! its own. Both ways take turns, so that what else happens on the machine hits both alike. They are compared
//! size by size, because a lone message, a group and a full block are written in very different times and
//! none is to count for more than another. The way past the system's cache must be clearly faster to be taken.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millpond_proto::time::Clock;

use crate::disk::{Disk, DiskFile, Way};
use crate::format::block::ALIGN_BYTES;

const FILE: &str = "wal/probe.new";
const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Sizes of writes, each with how often it is written in one round.
const WRITES: [(usize, u32); 3] = [(4096, 16), (64 * 1024, 12), (1024 * 1024, 4)];
const ROUNDS: u32 = 3;
/// The way past the cache must not take more of the time of the other than this, on the geometric mean of all sizes.
const CLEARLY_PERCENT: f64 = 90.0;
/// Nor more than this for any one of them.
const WORST_PERCENT: f64 = 125.0;

/// How long each way took, by size of writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) buffered: [Duration; WRITES.len()],
    pub(crate) direct: [Duration; WRITES.len()],
}

impl Measured {
    pub(crate) fn faster(&self) -> Way {
        let pairs = self.direct.iter().zip(&self.buffered);
        let percents = pairs.map(|(direct, buffered)| {
            // What takes no time that a clock can see is as good as the least that it can.
            let least = Duration::from_nanos(1);
            direct.max(&least).as_secs_f64() / buffered.max(&least).as_secs_f64() * 100.0
        });
        let (mut logarithms, mut worst) = (0.0, 0.0_f64);
        for percent in percents {
            logarithms += percent.ln();
            worst = worst.max(percent);
        }
        let mean = (logarithms / WRITES.len() as f64).exp();
        if mean <= CLEARLY_PERCENT && worst <= WORST_PERCENT {
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
        let mut measured = Measured::default();
        for _ in 0..ROUNDS {
            add_round(&mut measured.buffered, &*buffered, clock)?;
            add_round(&mut measured.direct, &*direct, clock)?;
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

fn add_round(
    times: &mut [Duration; WRITES.len()],
    file: &dyn DiskFile,
    clock: &Arc<dyn Clock>,
) -> io::Result<()> {
    for ((bytes, count), time) in WRITES.into_iter().zip(times) {
        let block = aligned(bytes);
        let start = clock.ticks();
        for number in 0..u64::from(count) {
            let offset = (number * bytes as u64) % FILE_BYTES;
            file.write_durable(&block, offset)?;
        }
        *time += clock.ticks().saturating_sub(start);
    }
    Ok(())
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
    fn the_way_past_the_cache_must_be_clearly_faster() {
        let faster = |direct: [u64; 3]| {
            Measured {
                buffered: [Duration::from_millis(100); 3],
                direct: direct.map(Duration::from_millis),
            }
            .faster()
        };
        assert_eq!(faster([90, 90, 90]), Way::Direct);
        assert_eq!(faster([91, 91, 91]), Way::Buffered);
        assert_eq!(faster([110, 85, 40]), Way::Direct, "a little slower alone");
        assert_eq!(faster([126, 85, 40]), Way::Buffered, "too slow alone");
        assert_eq!(faster([0, 0, 0]), Way::Direct);
        assert_eq!(Measured::default().faster(), Way::Buffered);
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
