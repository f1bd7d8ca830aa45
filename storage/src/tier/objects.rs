//! An object store in a local folder that is durable when a put returns.
//!
//! `object_store`'s own local store never syncs. This one writes a temporary file, syncs it, renames it
//! and syncs the folder, and makes the folders above durable the first time they are used.
//!
//! **Invariants.** An object is seen whole or not at all. Temporary files lie in [`TEMPORARY`] and are
//! never listed. A disk can not tell when a file was made, so every object's time is the epoch.
//!
//! Calls block on the disk inside the future, as the reads of a page cache do: use it where that is fine.
//! It does not keep tags, attributes or versions, and a multipart upload is gathered in memory.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload,
    ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart,
};

use crate::disk::Disk;

/// Folder of files that are not objects yet.
const TEMPORARY: &str = ".tmp";
const NAME: &str = "DiskObjectStore";

/// Objects in a folder of a [`Disk`].
#[derive(Clone, Debug)]
pub struct DiskObjectStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    folder: String,
    /// Names temporary files.
    next: AtomicU64,
    /// Folders known to be durable; held while an object appears, so that create-only is exact.
    durable_folders: Mutex<HashSet<String>>,
}

impl DiskObjectStore {
    /// The objects below `folder`, a path of `disk`; the folder is made with the first object.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, folder: &str) -> Self {
        Self {
            inner: Arc::new(Inner {
                disk,
                folder: folder.trim_matches('/').to_owned(),
                next: AtomicU64::new(0),
                durable_folders: Mutex::default(),
            }),
        }
    }
}

impl fmt::Display for DiskObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({})", self.inner.folder)
    }
}

fn join(folder: &str, name: &str) -> String {
    match (folder, name) {
        ("", name) => name.to_owned(),
        (folder, "") => folder.to_owned(),
        (folder, name) => format!("{folder}/{name}"),
    }
}

fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/') {
        Some((folder, _)) => Some(folder),
        None if path.is_empty() => None,
        None => Some(""),
    }
}

fn failed(location: &str, source: io::Error) -> Error {
    let path = location.to_owned();
    match source.kind() {
        // A folder is no object either.
        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => {
            Error::NotFound {
                path,
                source: source.into(),
            }
        }
        io::ErrorKind::PermissionDenied => Error::PermissionDenied {
            path,
            source: source.into(),
        },
        _ => Error::Generic {
            store: NAME,
            source: source.into(),
        },
    }
}

impl Inner {
    fn path(&self, location: &Path) -> Result<String> {
        let mut parts = location.parts();
        if parts.next().is_none_or(|first| first.as_ref() == TEMPORARY) {
            return Err(Error::NotSupported {
                source: format!("{location:?} can not name an object").into(),
            });
        }
        Ok(join(&self.folder, location.as_ref()))
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        self.disk.open(path)?.len()
    }

    fn put(&self, location: &Path, bytes: &[u8], create: bool) -> Result<()> {
        let path = self.path(location)?;
        self.put_file(&path, bytes, create).map_err(|source| {
            if create && source.kind() == io::ErrorKind::AlreadyExists {
                return Error::AlreadyExists {
                    path: location.to_string(),
                    source: source.into(),
                };
            }
            failed(location.as_ref(), source)
        })
    }

    fn put_file(&self, path: &str, bytes: &[u8], create: bool) -> io::Result<()> {
        let temporary_folder = join(&self.folder, TEMPORARY);
        self.disk.create_folder(&temporary_folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let temporary = join(&temporary_folder, &number.to_string());
        let file = match self.disk.create(&temporary) {
            // Left by a crash: nobody else writes here.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.disk.remove(&temporary)?;
                self.disk.create(&temporary)?
            }
            other => other?,
        };
        let written = file.write_at(bytes, 0).and_then(|()| file.sync());
        drop(file);
        let placed = written.and_then(|()| self.place(&temporary, path, create));
        if placed.is_err() {
            // Best effort: a leftover is overwritten after the next start.
            let _ = self.disk.remove(&temporary);
        }
        placed
    }

    fn place(&self, temporary: &str, path: &str, create: bool) -> io::Result<()> {
        let folder = parent(path).unwrap_or_default();
        let mut durable_folders = self
            .durable_folders
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if create {
            match self.disk.open(path) {
                Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        self.disk.create_folder(folder)?;
        self.disk.rename(temporary, path)?;
        self.disk.sync_folder(folder)?;
        let mut above = folder;
        while !durable_folders.contains(above) {
            let Some(next) = parent(above) else { break };
            self.disk.sync_folder(next)?;
            durable_folders.insert(above.to_owned());
            above = next;
        }
        Ok(())
    }

    fn read(&self, location: &Path, range: Range<u64>) -> Result<Bytes> {
        let path = self.path(location)?;
        let read = || {
            let file = self.disk.open(&path)?;
            let length = usize::try_from(range.end.saturating_sub(range.start))
                .map_err(|_| io::ErrorKind::FileTooLarge)?;
            let mut bytes = BytesMut::zeroed(length);
            let mut done = 0;
            while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, range.start + done as u64)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => done += count,
                }
            }
            Ok(bytes.freeze())
        };
        read().map_err(|source| failed(location.as_ref(), source))
    }

    fn head(&self, location: &Path) -> Result<ObjectMeta> {
        let path = self.path(location)?;
        let size = self
            .size(&path)
            .map_err(|source| failed(location.as_ref(), source))?;
        Ok(meta(location.clone(), size))
    }

    fn remove(&self, location: &Path) -> Result<()> {
        let path = self.path(location)?;
        self.disk
            .remove(&path)
            .and_then(|()| self.disk.sync_folder(parent(&path).unwrap_or_default()))
            .map_err(|source| failed(location.as_ref(), source))
    }

    /// Objects and folders directly in the folder `prefix` of the store.
    fn entries(&self, prefix: &Path) -> Result<(Vec<ObjectMeta>, Vec<Path>)> {
        let folder = join(&self.folder, prefix.as_ref());
        let names = match self.disk.list(&folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Vec::new(),
            Err(error) => return Err(failed(prefix.as_ref(), error)),
        };
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        for name in names {
            if prefix.as_ref().is_empty() && name == TEMPORARY {
                continue;
            }
            let location = Path::parse(join(prefix.as_ref(), &name))?;
            match self.size(&join(&folder, &name)) {
                Ok(size) => objects.push(meta(location, size)),
                // Whatever is listed and can not be opened as a file is a folder.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                    ) =>
                {
                    folders.push(location);
                }
                Err(error) => return Err(failed(location.as_ref(), error)),
            }
        }
        Ok((objects, folders))
    }

    fn list(&self, prefix: &Path) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let mut folders = vec![prefix.clone()];
        while let Some(folder) = folders.pop() {
            let (objects, below) = self.entries(&folder)?;
            found.extend(objects);
            folders.extend(below);
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }
}

fn meta(location: Path, size: u64) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: Default::default(),
        size,
        e_tag: None,
        version: None,
    }
}

fn put_result() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
    }
}

fn gather(payload: PutPayload) -> Bytes {
    payload.into()
}

#[async_trait]
impl ObjectStore for DiskObjectStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "put with PutMode::Update".to_owned(),
                    implementer: NAME.to_owned(),
                });
            }
        };
        self.inner.put(location, &gather(payload), create)?;
        Ok(put_result())
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.path(location)?;
        Ok(Box::new(Upload {
            store: Arc::clone(&self.inner),
            location: location.clone(),
            bytes: BytesMut::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let meta = self.inner.head(location)?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range_of(range, meta.size)?,
            None => 0..meta.size,
        };
        let bytes = if options.head {
            Bytes::new()
        } else {
            self.inner.read(location, range.clone())?
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
            meta,
            range,
            attributes: Attributes::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let size = self.inner.head(location)?.size;
        let read = |range: &Range<u64>| {
            let range = range_of(&GetRange::Bounded(range.clone()), size)?;
            self.inner.read(location, range)
        };
        ranges.iter().map(read).collect()
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let inner = Arc::clone(&self.inner);
        locations
            .map(move |location| {
                let location = location?;
                inner.remove(&location)?;
                Ok(location)
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.inner.list(&prefix.cloned().unwrap_or_default()) {
            Ok(found) => stream::iter(found.into_iter().map(Ok)).boxed(),
            Err(error) => stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (objects, folders) = self.inner.entries(&prefix.cloned().unwrap_or_default())?;
        // Folders stay when their last object goes; an object store would not know them any more.
        let mut common_prefixes = Vec::new();
        for folder in folders {
            if !self.inner.list(&folder)?.is_empty() {
                common_prefixes.push(folder);
            }
        }
        Ok(ListResult {
            common_prefixes,
            objects,
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let size = self.inner.head(from)?.size;
        let bytes = self.inner.read(from, 0..size)?;
        self.inner
            .put(to, &bytes, matches!(options.mode, CopyMode::Create))
    }
}

fn range_of(range: &GetRange, size: u64) -> Result<Range<u64>> {
    range.as_range(size).map_err(|source| Error::Generic {
        store: NAME,
        source: source.into(),
    })
}

/// A multipart upload: its parts are put in one piece when it is complete.
#[derive(Debug)]
struct Upload {
    store: Arc<Inner>,
    location: Path,
    bytes: BytesMut,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        for part in &payload {
            self.bytes.extend_from_slice(part);
        }
        Box::pin(async { Ok(()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let bytes = self.bytes.split().freeze();
        self.store.put(&self.location, &bytes, false)?;
        Ok(put_result())
    }

    async fn abort(&mut self) -> Result<()> {
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;
    use object_store::ObjectStoreExt as _;

    use super::*;
    use crate::tier::memory::MemoryDisk;

    fn store() -> (Arc<MemoryDisk>, DiskObjectStore) {
        let disk = Arc::new(MemoryDisk::default());
        let store = DiskObjectStore::new(Arc::clone(&disk) as Arc<dyn Disk>, "objects");
        (disk, store)
    }

    async fn names(store: &DiskObjectStore, prefix: &str) -> Vec<String> {
        let found: Vec<ObjectMeta> = store
            .list(Some(&prefix.into()))
            .try_collect()
            .await
            .unwrap();
        found.iter().map(|m| m.location.to_string()).collect()
    }

    #[tokio::test]
    async fn an_object_comes_back_whole_and_in_ranges() {
        let (_, store) = store();
        let at = Path::from("a/b/c.bin");
        store.put(&at, "0123456789".into()).await.unwrap();
        assert_eq!(
            store.get(&at).await.unwrap().bytes().await.unwrap(),
            "0123456789"
        );
        assert_eq!(store.get_range(&at, 2..4).await.unwrap(), "23");
        assert_eq!(
            store.get_ranges(&at, &[0..1, 8..20]).await.unwrap(),
            ["0", "89"]
        );
        assert_eq!(store.head(&at).await.unwrap().size, 10);
        assert!(store.get_range(&at, 10..11).await.is_err());
        let missing = store.get(&"a/b".into()).await.unwrap_err();
        assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    }

    #[tokio::test]
    async fn create_only_refuses_a_name_that_is_taken() {
        let (_, store) = store();
        let at = Path::from("a");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&at, "1".into(), create()).await.unwrap();
        let error = store.put_opts(&at, "2".into(), create()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&at).await.unwrap().bytes().await.unwrap(), "1");
        store.put(&at, "3".into()).await.unwrap();
        let error = store.copy_if_not_exists(&at, &at).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        store.copy(&at, &"b".into()).await.unwrap();
        assert_eq!(names(&store, "").await, ["a", "b"]);
    }

    #[tokio::test]
    async fn listing_goes_by_whole_segments_and_shows_no_temporary_files() {
        let (_, store) = store();
        for name in ["a/x/1", "a/2", "ab/3"] {
            store.put(&name.into(), name.into()).await.unwrap();
        }
        assert_eq!(names(&store, "a").await, ["a/2", "a/x/1"]);
        assert_eq!(names(&store, "").await, ["a/2", "a/x/1", "ab/3"]);
        let top = store.list_with_delimiter(Some(&"a".into())).await.unwrap();
        assert_eq!(top.common_prefixes, ["a/x".into()]);
        assert_eq!(top.objects.len(), 1);
        store.delete(&"a/x/1".into()).await.unwrap();
        let top = store.list_with_delimiter(Some(&"a".into())).await.unwrap();
        assert!(top.common_prefixes.is_empty());
    }

    #[tokio::test]
    async fn what_was_put_survives_a_crash() {
        let (disk, store) = store();
        store.put(&"a/b/1".into(), "1".into()).await.unwrap();
        store.put(&"a/b/2".into(), "2".into()).await.unwrap();
        store.put(&"a/c/3".into(), "3".into()).await.unwrap();
        disk.crash();
        assert_eq!(names(&store, "").await, ["a/b/1", "a/b/2", "a/c/3"]);
        assert_eq!(store.get_range(&"a/b/2".into(), 0..1).await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_multipart_upload_appears_when_it_is_complete() {
        let (_, store) = store();
        let mut upload = store.put_multipart(&"m".into()).await.unwrap();
        upload.put_part("ab".into()).await.unwrap();
        assert!(names(&store, "").await.is_empty());
        upload.put_part("cd".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(store.get_range(&"m".into(), 0..4).await.unwrap(), "abcd");
    }
}
