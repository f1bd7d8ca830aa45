//! A folder of the operating system, locked for one process.
//!
//! Writes are buffered by the system and made durable by `fdatasync`, or go past its cache with `O_DIRECT`
//! and `O_DSYNC`; entries of folders are made durable by `fsync` of the folder. The lock is the system's own and ends with the process, so a crash leaves none behind.
//!
//! **Invariant.** Names are looked up in the folder that was opened, or not at all. When it is moved away or its file
//! system unmounted, another one may lie under its name: what were written there would be gone once the first is back.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskFile, Way};
use crate::error::OpenError;
use crate::format::block::ALIGN_BYTES;

/// Name of the file that is locked while a process has the folder open.
pub const LOCK_FILE: &str = "LOCK";
/// Name of the file that tells a data folder from any other.
pub const IDENTITY_FILE: &str = "MILLPOND";

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1024 * 1024;

/// A data folder of this machine, held by this process alone.
#[derive(Debug)]
pub struct LocalDisk {
    root: PathBuf,
    /// The file system and the number in it of the folder that was opened.
    identity: (u64, u64),
    // Held, not used: the lock ends when the file is closed.
    _lock: File,
}

impl LocalDisk {
    /// Opens or makes the folder `root` and locks it.
    ///
    /// # Errors
    /// [`OpenError::NotOurs`] when it holds other files, [`OpenError::InUse`] when another process has it.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        let failed = |what: &str| {
            let what = format!("{what} {}", root.display());
            move |source| OpenError::Disk { what, source }
        };
        fs::create_dir_all(&root).map_err(failed("make the data folder"))?;
        // A folder that is not ours must stay as it is: look before the lock file is made.
        let is_ours = root.join(IDENTITY_FILE).exists() || root.join(LOCK_FILE).exists();
        let mut entries = fs::read_dir(&root).map_err(failed("read the data folder"))?;
        if !is_ours && entries.next().is_some() {
            return Err(OpenError::NotOurs {
                folder: root.display().to_string(),
            });
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join(LOCK_FILE))
            .map_err(failed("make the lock file of"))?;
        let identity = identity_of(&root).map_err(failed("read the data folder"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root,
                identity,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
                folder: root.display().to_string(),
            }),
            Err(TryLockError::Error(source)) => Err(failed("lock")(source)),
        }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a path lies, as long as the folder that was opened is there.
    fn path(&self, path: &str) -> io::Result<PathBuf> {
        match identity_of(&self.root) {
            Ok(identity) if identity == self.identity => Ok(self.root.join(path)),
            // Not as "not found": of a file that would be damage.
            _ => Err(io::Error::other(format!(
                "the folder {} is not the one that was opened: it was moved or unmounted; bring it back, or restart",
                self.root.display()
            ))),
        }
    }
}

fn identity_of(folder: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(folder)?;
    Ok((found.dev(), found.ino()))
}

impl Disk for LocalDisk {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(path)?)?;
        Ok(Box::new(LocalFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(path)?)?;
        Ok(Box::new(LocalFile(file)))
    }

    fn open_durable(&self, path: &str, way: Way) -> io::Result<Box<dyn DiskFile>> {
        match way {
            Way::Buffered => self.open(path),
            Way::Direct => open_direct(&self.path(path)?),
        }
    }

    fn has_ways(&self) -> bool {
        cfg!(target_os = "linux")
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(folder)?) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn create_folder(&self, folder: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(folder)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from)?, self.path(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path)?)
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.path(folder)?)?.sync_all()
    }
}

/// Writes zeros over the first `bytes` of a file, past the system's cache where that goes: nobody reads them, and in
/// the cache each costs a copy and pushes out what is read.
fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let buffer = vec![0; ZEROS_BYTES + ALIGN_BYTES];
    let aligned = buffer.as_ptr().align_offset(ALIGN_BYTES);
    let zeros = buffer.get(aligned..).unwrap_or(&buffer);
    let mut is_direct = set_direct(file, true).is_ok();
    let mut done = 0;
    while done < bytes {
        let count = usize::try_from(bytes - done).map_or(ZEROS_BYTES, |n| n.min(ZEROS_BYTES));
        match file.write_all_at(zeros.get(..count).unwrap_or(zeros), done) {
            Ok(()) => done += count as u64,
            // A piece, or a file system, with which it does not go.
            Err(error) if is_direct && error.kind() == io::ErrorKind::InvalidInput => {
                set_direct(file, false)?;
                is_direct = false;
            }
            Err(error) => return Err(error),
        }
    }
    if is_direct {
        set_direct(file, false)?;
    }
    Ok(())
}

/// Has the writes of a handle go past the system's cache, or through it again.
#[cfg(target_os = "linux")]
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(rustix::fs::OFlags::DIRECT, is_direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_: &File, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<Box<dyn DiskFile>> {
    use std::os::unix::fs::OpenOptionsExt;

    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(path);
    match opened {
        Ok(file) => Ok(Box::new(DirectFile(file))),
        // So do file systems say it that have no way past the cache.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(io::Error::new(io::ErrorKind::Unsupported, error))
        }
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<Box<dyn DiskFile>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A file for durable writes past the cache.
#[derive(Debug)]
struct DirectFile(File);

impl DiskFile for DirectFile {
    fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[derive(Debug)]
struct LocalFile(File);

impl DiskFile for LocalFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        // Takes the room at once, so that a full disk says so before anything is written.
        #[cfg(target_os = "linux")]
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // Room that was never written costs a change of metadata with each first write.
        fill(&self.0, bytes)?;
        self.0.sync_all()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opening_is_told_that_the_folder_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let first = LocalDisk::open(folder.path()).unwrap();
        assert!(matches!(
            LocalDisk::open(folder.path()),
            Err(OpenError::InUse { .. })
        ));
        drop(first);
        assert!(LocalDisk::open(folder.path()).is_ok());
    }

    #[test]
    fn a_foreign_folder_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "do not touch").unwrap();
        assert!(matches!(
            LocalDisk::open(folder.path()),
            Err(OpenError::NotOurs { .. })
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_looked_up_in_a_folder_that_took_the_place_of_the_one_that_was_opened() {
        let above = tempfile::tempdir().unwrap();
        let (root, away) = (above.path().join("cold"), above.path().join("away"));
        let disk = LocalDisk::open(&root).unwrap();
        disk.create("one").unwrap();
        fs::rename(&root, &away).unwrap();
        for is_replaced in [false, true] {
            if is_replaced {
                fs::create_dir(&root).unwrap();
            }
            for error in [
                disk.open("one").unwrap_err(),
                disk.create("two").unwrap_err(),
                disk.list("").unwrap_err(),
                disk.create_folder("a").unwrap_err(),
                disk.remove("one").unwrap_err(),
                disk.sync_folder("").unwrap_err(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::Other, "{error}");
                assert!(error.to_string().contains("bring it back"), "{error}");
            }
            assert_eq!(root.exists(), is_replaced, "nothing was made in its place");
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir(&root).unwrap();
        fs::rename(&away, &root).unwrap();
        assert!(disk.open("one").is_ok());
    }

    #[test]
    fn both_ways_write_the_same_bytes_or_one_says_that_it_can_not() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        let file = disk.create("one").unwrap();
        file.allocate(16384).unwrap();
        assert_eq!(file.len().unwrap(), 16384);
        let aligned = |byte| {
            let mut bytes = bytes::BytesMut::zeroed(8192);
            let skipped = bytes.as_ptr().align_offset(4096);
            let mut bytes = bytes.split_off(skipped);
            bytes.truncate(4096);
            bytes.fill(byte);
            bytes
        };
        let buffered = disk.open_durable("one", Way::Buffered).unwrap();
        buffered.write_durable(&aligned(1), 0).unwrap();
        let second = match disk.open_durable("one", Way::Direct) {
            Ok(direct) => {
                direct.write_durable(&aligned(2), 4096).unwrap();
                2
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::Unsupported);
                0
            }
        };
        let mut read = vec![9; 12288];
        file.read_at(&mut read, 0).unwrap();
        assert!(read[..4096].iter().all(|&byte| byte == 1));
        assert!(read[4096..8192].iter().all(|&byte| byte == second));
        assert!(read[8192..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn room_of_any_size_is_made_of_zeros_and_written_anywhere_then() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        for (name, bytes) in [("even", 2 * ZEROS_BYTES), ("odd", ZEROS_BYTES + 4097)] {
            let file = disk.create(name).unwrap();
            file.allocate(bytes as u64).unwrap();
            assert_eq!(file.len().unwrap(), bytes as u64);
            let mut read = vec![9; bytes];
            assert_eq!(file.read_at(&mut read, 0).unwrap(), bytes);
            assert!(read.iter().all(|&byte| byte == 0), "{name}");
            file.write_at(b"pond", 4095).unwrap();
            file.read_at(&mut read[..4], 4095).unwrap();
            assert_eq!(&read[..4], b"pond");
        }
    }

    #[test]
    fn files_are_read_where_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = LocalDisk::open(folder.path()).unwrap();
        disk.create_folder("a/b").unwrap();
        let file = disk.create("a/b/one").unwrap();
        file.write_at(b"pond", 4).unwrap();
        file.sync().unwrap();
        disk.rename("a/b/one", "a/b/two").unwrap();
        disk.sync_folder("a/b").unwrap();
        assert_eq!(disk.list("a/b").unwrap(), ["two"]);
        assert!(disk.list("a/none").unwrap().is_empty());
        let mut buffer = [0; 16];
        let count = disk
            .open("a/b/two")
            .unwrap()
            .read_at(&mut buffer, 2)
            .unwrap();
        assert_eq!(&buffer[..count], b"\0\0pond");
        disk.remove("a/b/two").unwrap();
        assert_eq!(
            disk.open("a/b/two").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
