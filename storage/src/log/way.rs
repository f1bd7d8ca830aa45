//! Choosing the way that durable writes take: as set, as remembered, or as measured.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{Disk, Way};
use crate::error::OpenError;
use crate::log::{Storage, WalIo};
use crate::meta::MetaStore;
use crate::wal::probe;

/// Holds `buffered` or `direct` once it was measured.
const KEY: &str = "wal/io";
const DIRECT: &[u8] = b"direct";
const BUFFERED: &[u8] = b"buffered";

/// The way to begin with.
pub(crate) fn at_opening(
    disk: &dyn Disk,
    meta: &dyn MetaStore,
    asked: WalIo,
) -> Result<Way, OpenError> {
    match asked {
        WalIo::Buffered => Ok(Way::Buffered),
        WalIo::Direct => direct_if_possible(disk),
        WalIo::Auto => match meta.get(KEY)? {
            Some(known) if known.value == DIRECT => direct_if_possible(disk),
            Some(_) => Ok(Way::Buffered),
            None => Ok(guess(disk)),
        },
    }
}

fn direct_if_possible(disk: &dyn Disk) -> Result<Way, OpenError> {
    // The folder may have moved to another file system since.
    let is_possible = probe::is_direct_possible(disk).map_err(|source| OpenError::Disk {
        what: "try a write past the system's cache".to_owned(),
        source,
    })?;
    if is_possible {
        return Ok(Way::Direct);
    }
    tracing::warn!("this file system has no way past the system's cache; writing through it");
    Ok(Way::Buffered)
}

/// Until it is measured: past the cache where that is possible, which spares what the cache costs and is seldom slower.
fn guess(disk: &dyn Disk) -> Way {
    if !disk.has_ways() {
        return Way::Buffered;
    }
    match probe::is_direct_possible(disk) {
        Ok(true) => Way::Direct,
        Ok(false) => Way::Buffered,
        Err(error) => {
            tracing::warn!(%error, "no write past the system's cache could be tried; writing through it");
            Way::Buffered
        }
    }
}

impl Storage {
    pub(crate) fn measure_ways(&self) {
        let is_first = !self.was_measured.swap(true, Ordering::Relaxed);
        if !is_first || self.settings.wal_io != WalIo::Auto || !self.parts.disk.has_ways() {
            return;
        }
        match self.meta.get(KEY) {
            Ok(None) => {}
            Ok(Some(_)) => return,
            Err(error) => {
                return tracing::warn!(%error, "how the log is best written was not looked up");
            }
        }
        let disk = Arc::clone(&self.parts.disk);
        let measured = match probe::measure(&*disk, &self.parts.clock) {
            Ok(measured) => measured,
            Err(error) => {
                return tracing::warn!(%error, "how the log is best written was not measured");
            }
        };
        let way = measured.map_or(Way::Buffered, probe::Measured::better);
        let value = match way {
            Way::Buffered => BUFFERED,
            Way::Direct => DIRECT,
        };
        if let Err(error) = self.meta.compare_and_swap(KEY, None, Some(value)) {
            return tracing::warn!(%error, "how the log is best written was not remembered");
        }
        tracing::info!(?measured, ?way, "measured how the log is best written");
        self.view.set_way(way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::local::LocalDisk;
    use crate::disk::simulated::SimulatedDisk;
    use crate::meta::embedded::EmbeddedMeta;

    #[test]
    fn what_was_set_counts_more_than_what_is_remembered_and_nothing_means_past_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        disk.create_folder("wal").unwrap();
        let simulated: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        simulated.create_folder("meta").unwrap();
        let meta = EmbeddedMeta::open(simulated, "meta/store").unwrap();
        let way = |asked| at_opening(&disk, &meta, asked).unwrap();
        let direct = if probe::is_direct_possible(&disk).unwrap() {
            Way::Direct
        } else {
            Way::Buffered
        };
        assert_eq!(way(WalIo::Auto), direct);
        assert_eq!(way(WalIo::Direct), direct);
        assert_eq!(way(WalIo::Buffered), Way::Buffered);
        assert!(meta.compare_and_swap(KEY, None, Some(BUFFERED)).unwrap());
        assert_eq!(way(WalIo::Auto), Way::Buffered);
        let known = meta.get(KEY).unwrap().unwrap();
        let swapped = meta.compare_and_swap(KEY, Some(known.version), Some(DIRECT));
        assert!(swapped.unwrap());
        assert_eq!(way(WalIo::Auto), direct);
        assert_eq!(way(WalIo::Buffered), Way::Buffered);
    }
}
