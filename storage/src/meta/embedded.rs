//! The metadata store of a single broker: a redb file on the broker's own disk.
//!
//! **Invariants.** A change is durable when its call returns. Versions come from one counter of the
//! store and are never used twice, so a key that was removed and made anew has a higher version.
//!
//! Bytes: `storage/FORMAT.md`, Metadata keys.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, TableError,
};

use crate::disk::{Disk, DiskFile};
use crate::meta::{MetaError, MetaStore, Versioned};

/// Key to version (8 bytes, little endian) and value.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
/// The last version given out.
const VERSION: TableDefinition<'_, (), u64> = TableDefinition::new("version");
/// Memory for pages: the facts are small.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Facts in a redb file.
pub struct EmbeddedMeta {
    database: Database,
    path: String,
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
        let file = open_file(disk.as_ref(), path).map_err(|error| MetaError {
            detail: format!("{path}: {error}"),
        })?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Backend(file))
            .map_err(failed)?;
        Ok(Self {
            database,
            path: path.to_owned(),
        })
    }

    fn change(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<bool, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
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
                        let stored = [&version.to_le_bytes(), value].concat();
                        facts.insert(key, stored.as_slice())?;
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

    fn find(&self, key: &str) -> Result<Option<Versioned>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let facts = match transaction.open_table(FACTS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            other => other?,
        };
        match facts.get(key)? {
            Some(found) => split(key, found.value()).map(Some),
            None => Ok(None),
        }
    }

    fn find_keys(&self, prefix: &str) -> Result<Vec<String>, redb::Error> {
        let transaction = self.database.begin_read()?;
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
}

fn split(key: &str, stored: &[u8]) -> Result<Versioned, redb::Error> {
    match stored.split_first_chunk::<8>() {
        Some((version, value)) => Ok(Versioned {
            value: Bytes::copy_from_slice(value),
            version: u64::from_le_bytes(*version),
        }),
        None => Err(redb::Error::Corrupted(format!("{key} has no version"))),
    }
}

impl MetaStore for EmbeddedMeta {
    fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        self.find(key).map_err(failed)
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<bool, MetaError> {
        self.change(key, expected, value).map_err(failed)
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, MetaError> {
        self.find_keys(prefix).map_err(failed)
    }
}

fn open_file(disk: &dyn Disk, path: &str) -> io::Result<Box<dyn DiskFile>> {
    match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            if !folder.is_empty() {
                disk.create_folder(folder)?;
            }
            let file = disk.create(path)?;
            disk.sync_folder(folder)?;
            // The folders above are new too, perhaps.
            let mut above = folder;
            while let Some((next, _)) = above.rsplit_once('/') {
                disk.sync_folder(next)?;
                above = next;
            }
            if !folder.is_empty() {
                disk.sync_folder("")?;
            }
            Ok(file)
        }
        other => other,
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
    use super::*;
    use crate::meta::contract;
    use crate::tier::memory::MemoryDisk;

    #[test]
    fn the_embedded_store_keeps_the_contract() {
        let disk = Arc::new(MemoryDisk::default());
        contract(|| {
            let disk = Arc::clone(&disk) as Arc<dyn Disk>;
            Arc::new(EmbeddedMeta::open(disk, "meta/facts.redb").unwrap())
        });
    }

    #[test]
    fn a_fact_survives_a_crash() {
        let disk = Arc::new(MemoryDisk::default());
        let open = || EmbeddedMeta::open(Arc::clone(&disk) as Arc<dyn Disk>, "a/b/facts").unwrap();
        let meta = open();
        assert!(meta.compare_and_swap("term", None, Some(b"1")).unwrap());
        // The process ends without closing its files.
        std::mem::forget(meta);
        disk.crash();
        assert_eq!(open().get("term").unwrap().unwrap().value, "1");
    }
}
