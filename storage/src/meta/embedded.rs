//! The metadata store of a single broker: a redb file on the broker's own disk.
//!
//! **Invariants.** A change is durable when its call returns. Versions come from one counter of the
//! store and are never used twice, so a key that was removed and made anew has a higher version.
//!
//! redb does nothing more once the disk has said no, not even when it would say yes again. So the store is then opened anew
//! from what is on disk, as at a start: in a copy that is written and synced whole, because what a failed sync left in the
//! system's memory is not durable whatever a later one says.
//!
//! Bytes: `storage/FORMAT.md`, Metadata keys.

use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use redb::backends::InMemoryBackend;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, TableError,
};

use crate::disk::{Disk, DiskFile};
use crate::format::checksum::crc32c;
use crate::meta::{MetaError, MetaStore, Versioned};

/// Key to checksum (4 bytes), version (8 bytes), both little endian, and value.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("checked");
/// The same without checksums, as earlier versions left it.
const UNCHECKED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
/// The last version given out.
const VERSION: TableDefinition<'_, (), u64> = TableDefinition::new("version");
/// Memory for pages: the facts are small.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Facts in a redb file.
pub struct EmbeddedMeta {
    opened: RwLock<Opened>,
    /// Where it is opened again; none for a copy in memory.
    disk: Option<Arc<dyn Disk>>,
    path: String,
}

/// The database, and how often it was opened.
struct Opened {
    /// None once closed, and while it can not be opened again.
    database: Option<Database>,
    count: u64,
    is_closed: bool,
}

impl From<Database> for Opened {
    fn from(database: Database) -> Self {
        Self {
            database: Some(database),
            count: 0,
            is_closed: false,
        }
    }
}

impl fmt::Debug for EmbeddedMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedMeta({})", self.path)
    }
}

fn failed(error: impl Into<redb::Error>) -> MetaError {
    MetaError {
        detail: error.into().to_string(),
    }
}

impl EmbeddedMeta {
    /// Opens or makes the store in the file `path` of `disk`; nobody else may have it open.
    ///
    /// # Errors
    /// [`MetaError`] when the file can not be made or read, or is not one of ours.
    pub fn open(disk: Arc<dyn Disk>, path: &str) -> Result<Self, MetaError> {
        let database = opened(&*disk, path)?;
        Ok(Self {
            opened: RwLock::new(database.into()),
            disk: Some(disk),
            path: path.to_owned(),
        })
    }

    /// The facts of a store that nobody has open, in memory: its file stays as it is, and what is
    /// changed here is forgotten. Empty when there is no such file.
    ///
    /// # Errors
    /// [`MetaError`] when the file can not be read, or is not one of ours.
    pub fn copy_of(disk: &dyn Disk, path: &str) -> Result<Self, MetaError> {
        let explained = |error: io::Error| MetaError {
            detail: format!("{path}: {error}"),
        };
        let backend = InMemoryBackend::new();
        match disk.open(path) {
            Ok(file) => {
                let length = file.len().map_err(explained)?;
                let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                file.read_at(&mut bytes, 0).map_err(explained)?;
                backend.set_len(length).map_err(explained)?;
                backend.write(0, &bytes).map_err(explained)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(explained(error)),
        }
        let database = contained(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_BYTES);
            builder.create_with_backend(backend).map_err(failed)
        })?;
        contained(|| add_checksums(&database).map_err(failed))?;
        Ok(Self {
            opened: RwLock::new(database.into()),
            disk: None,
            path: path.to_owned(),
        })
    }

    /// Does something with the open database; again if it turns out to have stopped after an earlier failure.
    fn with<T>(&self, work: impl Fn(&Database) -> Result<T, redb::Error>) -> Result<T, MetaError> {
        let stopped = {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            match &opened.database {
                Some(database) => match contained(|| Ok(work(database)))? {
                    // Nothing was done.
                    Err(redb::Error::PreviousIo) => opened.count,
                    done => return done.map_err(failed),
                },
                None => opened.count,
            }
        };
        self.open_again(stopped)?;
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        match &opened.database {
            Some(database) => contained(|| work(database).map_err(failed)),
            None => Err(self.closed()),
        }
    }

    /// Opens the store anew from what is on disk, unless somebody else has done so since it was opened for the `stopped`th
    /// time, or it was closed.
    fn open_again(&self, stopped: u64) -> Result<(), MetaError> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        let Some(disk) = self.disk.as_ref().filter(|_| !opened.is_closed) else {
            return Err(self.closed());
        };
        if opened.count != stopped {
            return Ok(());
        }
        // Whatever it still writes comes before the copy is made.
        drop(opened.database.take());
        opened.database = Some(self::opened(&**disk, &self.path)?);
        opened.count += 1;
        tracing::warn!(path = %self.path, "the metadata store failed and was opened again");
        Ok(())
    }

    fn closed(&self) -> MetaError {
        MetaError {
            detail: format!("{} was closed", self.path),
        }
    }
}

fn opened(disk: &dyn Disk, path: &str) -> Result<Database, MetaError> {
    prepare(disk, path)?;
    let file = disk.open(path).map_err(|error| MetaError {
        detail: format!("{path}: {error}"),
    })?;
    let database = database(file)?;
    contained(|| add_checksums(&database).map_err(failed))?;
    Ok(database)
}

fn change(
    database: &Database,
    key: &str,
    expected: Option<u64>,
    value: Option<&[u8]>,
) -> Result<bool, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // In one phase redb relies on checksums to see a torn commit, and takes pages that it wrote
    // beyond the old end of the file for damage when the new length was lost with a crash.
    transaction.set_two_phase_commit(true);
    let mut changed = false;
    {
        let mut facts = transaction.open_table(FACTS)?;
        let found = match facts.get(key)? {
            Some(found) => Some(split(key, found.value())?.version),
            None => None,
        };
        if found == expected {
            changed = true;
            let mut counter = transaction.open_table(VERSION)?;
            let version = counter.get(())?.map_or(0, |last| last.value()) + 1;
            counter.insert((), version)?;
            match value {
                Some(value) => {
                    facts.insert(key, join(key, version, value).as_slice())?;
                }
                None => {
                    facts.remove(key)?;
                }
            }
        }
    }
    if changed {
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(changed)
}

fn find(database: &Database, key: &str) -> Result<Option<Versioned>, redb::Error> {
    let transaction = database.begin_read()?;
    let facts = match transaction.open_table(FACTS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        other => other?,
    };
    match facts.get(key)? {
        Some(found) => split(key, found.value()).map(Some),
        None => Ok(None),
    }
}

fn find_keys(database: &Database, prefix: &str) -> Result<Vec<String>, redb::Error> {
    let transaction = database.begin_read()?;
    let facts = match transaction.open_table(FACTS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        other => other?,
    };
    let mut keys = Vec::new();
    for entry in facts.range(prefix..)? {
        let (key, _) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        keys.push(key.value().to_owned());
    }
    Ok(keys)
}
fn database(file: Box<dyn DiskFile>) -> Result<Database, MetaError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    contained(|| builder.create_with_backend(Backend(file)).map_err(failed))
}

/// Takes a panic for damage: redb asserts on bytes that it did not write, and bytes from disk are no reason to stop
/// a process, which would only start again over the same bytes.
fn contained<T>(work: impl FnOnce() -> Result<T, MetaError>) -> Result<T, MetaError> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(MetaError {
            detail: "it is damaged; restore the file from a copy".to_owned(),
        })
    })
}

/// Lays out a new store, or repairs one that was not closed, in a copy that takes the name once all of
/// it is durable.
///
/// redb does both in place, and a second crash meanwhile can leave what it then takes for a foreign
/// file or for damage. The facts are small, so the copy costs little.
fn prepare(disk: &dyn Disk, path: &str) -> Result<(), MetaError> {
    let explained = |error: io::Error| MetaError {
        detail: format!("{path}: {error}"),
    };
    let copy = format!("{path}.new");
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    if !folder.is_empty() {
        disk.create_folder(folder).map_err(explained)?;
    }
    match disk.remove(&copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(explained(error)),
        _ => {}
    }
    let file = disk.create(&copy).map_err(explained)?;
    match disk.open(path) {
        Ok(store) => copy_all(store.as_ref(), file.as_ref()).map_err(explained)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(explained(error)),
    }
    // Closed again at once, so that redb has written all of it.
    drop(database(file)?);
    disk.open(&copy)
        .and_then(|file| file.sync())
        .map_err(explained)?;
    disk.sync_folder(folder).map_err(explained)?;
    disk.rename(&copy, path).map_err(explained)?;
    disk.sync_folder(folder).map_err(explained)?;
    // The folders above are new too, perhaps.
    let mut above = folder;
    while let Some((next, _)) = above.rsplit_once('/') {
        disk.sync_folder(next).map_err(explained)?;
        above = next;
    }
    disk.sync_folder("").map_err(explained)
}

fn copy_all(from: &dyn DiskFile, to: &dyn DiskFile) -> io::Result<()> {
    let mut buffer = vec![0; 1024 * 1024];
    let mut offset = 0;
    loop {
        let count = from.read_at(&mut buffer, offset)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        to.write_at(bytes, offset)?;
        offset += count as u64;
    }
}

/// A fact as it is stored: redb believes what it reads, so each says itself whether it is whole.
fn join(key: &str, version: u64, value: &[u8]) -> Vec<u8> {
    let version = version.to_le_bytes();
    let checksum = crc32c(&[key.as_bytes(), &version, value]);
    [&checksum.to_le_bytes(), &version[..], value].concat()
}

fn split(key: &str, stored: &[u8]) -> Result<Versioned, redb::Error> {
    let found = stored.get(4..).and_then(<[u8]>::split_first_chunk::<8>);
    let found = found.map(|(version, value)| (u64::from_le_bytes(*version), value));
    match found.filter(|(version, value)| join(key, *version, value) == stored) {
        Some((version, value)) => Ok(Versioned {
            value: Bytes::copy_from_slice(value),
            version,
        }),
        None => Err(redb::Error::Corrupted(format!("{key} is damaged"))),
    }
}

/// Takes over what a version without checksums has left.
fn add_checksums(database: &Database) -> Result<(), redb::Error> {
    match database.begin_read()?.open_table(UNCHECKED) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        other => drop(other?),
    }
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    {
        let unchecked = transaction.open_table(UNCHECKED)?;
        let mut facts = transaction.open_table(FACTS)?;
        for fact in unchecked.iter()? {
            let (key, stored) = fact?;
            let (key, stored) = (key.value(), stored.value());
            let (version, value) = stored
                .split_first_chunk::<8>()
                .ok_or_else(|| redb::Error::Corrupted(format!("{key} has no version")))?;
            let stored = join(key, u64::from_le_bytes(*version), value);
            facts.insert(key, stored.as_slice())?;
        }
    }
    transaction.delete_table(UNCHECKED)?;
    transaction.commit()?;
    Ok(())
}

impl MetaStore for EmbeddedMeta {
    fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        self.with(|database| find(database, key))
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<bool, MetaError> {
        self.with(|database| change(database, key, expected, value))
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, MetaError> {
        self.with(|database| find_keys(database, prefix))
    }

    fn close(&self) {
        // Dropping it writes what redb keeps for the next start.
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        opened.is_closed = true;
        drop(opened.database.take());
    }
}

/// What redb reads and writes.
#[derive(Debug)]
struct Backend(Box<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(data, offset)
    }
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::meta::contract;

    #[test]
    fn the_embedded_store_keeps_the_contract() {
        let disk = Arc::new(SimulatedDisk::default());
        contract(|| {
            let disk = Arc::clone(&disk) as Arc<dyn Disk>;
            Arc::new(EmbeddedMeta::open(disk, "meta/facts.redb").unwrap())
        });
    }

    #[test]
    fn facts_without_checksums_are_taken_over_and_damaged_ones_are_not_believed() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        prepare(&*disk, "facts").unwrap();
        {
            let database = database(disk.open("facts").unwrap()).unwrap();
            let transaction = database.begin_write().unwrap();
            {
                let mut old = transaction.open_table(UNCHECKED).unwrap();
                let stored = [&7_u64.to_le_bytes()[..], b"value"].concat();
                old.insert("a", stored.as_slice()).unwrap();
            }
            transaction.commit().unwrap();
        }
        for _ in 0..2 {
            let store = EmbeddedMeta::open(Arc::clone(&disk), "facts").unwrap();
            let found = store.get("a").unwrap().unwrap();
            assert_eq!((found.version, &found.value[..]), (7, &b"value"[..]));
        }
        let whole = join("a", 7, b"value");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(split("a", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_disk_that_fails_once_costs_one_call_and_no_fact() {
        for fails_at_sync in [true, false] {
            let disk = Arc::new(SimulatedDisk::new());
            let shared = Arc::clone(&disk) as Arc<dyn Disk>;
            let meta = EmbeddedMeta::open(Arc::clone(&shared), "meta/facts").unwrap();
            assert!(meta.compare_and_swap("a", None, Some(b"1")).unwrap());
            let first = meta.get("a").unwrap().unwrap().version;
            if fails_at_sync {
                disk.fail_next_sync();
            } else {
                disk.fail_next_write();
            }
            meta.compare_and_swap("a", Some(first), Some(b"2"))
                .unwrap_err();
            // Whether it happened is unknown: it is read back.
            let found = meta.get("a").unwrap().unwrap();
            assert!([&b"1"[..], b"2"].contains(&&found.value[..]));
            let swapped = meta.compare_and_swap("a", Some(found.version), Some(b"3"));
            assert!(swapped.unwrap());
            let disk = disk.crash(&Seeded::new(1));
            let again = EmbeddedMeta::open(Arc::new(disk), "meta/facts").unwrap();
            assert_eq!(again.get("a").unwrap().unwrap().value, "3");
            meta.close();
            assert!(meta.get("a").is_err(), "closed stays closed");
        }
    }

    #[test]
    fn facts_survive_crashes_at_any_write() {
        for seed in 0..40 {
            let chance = Seeded::new(seed);
            let mut disk = Arc::new(SimulatedDisk::new());
            let mut known = 0_u8;
            for turn in 0..5 {
                let shared = Arc::clone(&disk) as Arc<dyn Disk>;
                let meta = EmbeddedMeta::open(shared, "a/b/facts").unwrap();
                let found = meta.get("term").unwrap();
                let value = found.as_ref().map_or(0, |v| v.value[0]);
                // The change that failed may have happened.
                assert!(
                    value == known || value == known + 1,
                    "seed {seed} turn {turn}"
                );
                let version = found.map(|v| v.version);
                let first = value + 1;
                assert!(
                    meta.compare_and_swap("term", version, Some(&[first]))
                        .unwrap()
                );
                let version = meta.get("term").unwrap().map(|v| v.version);
                known = first;
                disk.fail_next_write();
                if let Ok(true) = meta.compare_and_swap("term", version, Some(&[first + 1])) {
                    known = first + 1;
                }
                disk = Arc::new(disk.crash(&chance));
            }
        }
    }
}
