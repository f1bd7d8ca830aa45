//! Manifests beside the log, so that a data folder opens while its bucket does not answer.
//!
//! A wrapper around an object store elsewhere: whatever is a manifest is also kept on the local disk, where reading
//! it is tried first. That is sound because a name of a manifest is used once (`cold/put.rs`), so a copy is never
//! out of date. **Invariant.** The store elsewhere decides: a put or a removal has happened when it has happened there,
//! and a copy that can not be made or read, or is damaged, costs a round trip and nothing else.
//!
//! Files of messages are not kept: while the bucket is down, what has left the log can not be read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

use crate::disk::Disk;
use crate::format::manifest::Manifest;
use crate::tier::objects::DiskObjectStore;

/// Folder of the copies, below the data folder.
const FOLDER: &str = "mirror";

/// Says of a read that it is to be answered by the store elsewhere, whatever copy there is here.
#[derive(Clone, Copy)]
struct AskThere;

/// Options of a read that no copy answers: what is checked is what the store itself holds. Other stores take no notice.
pub(crate) fn without_copies() -> GetOptions {
    let mut options = GetOptions::default();
    options.extensions.insert(AskThere);
    options
}

/// A store elsewhere, and copies of its manifests here.
#[derive(Clone, Debug)]
pub struct Mirrored {
    there: Arc<dyn ObjectStore>,
    here: DiskObjectStore,
}

impl Mirrored {
    /// Keeps copies of the manifests of `there` on `disk`.
    #[must_use]
    pub fn new(there: Arc<dyn ObjectStore>, disk: Arc<dyn Disk>) -> Self {
        let here = DiskObjectStore::new(disk, FOLDER);
        Self { there, here }
    }

    async fn keep(&self, location: &Path, bytes: Bytes) {
        if let Err(error) = self.here.put(location, bytes.into()).await {
            tracing::warn!(%location, %error, "no copy of a manifest was kept");
        }
    }
}

/// `topics/<topic id>/manifest/<name>`.
fn is_manifest(location: &Path) -> bool {
    let mut parts = location.parts();
    parts.next().is_some_and(|part| part.as_ref() == "topics")
        && parts.nth(1).is_some_and(|part| part.as_ref() == "manifest")
}

/// An answer with its bytes in memory, and the bytes.
async fn taken_in(answer: GetResult) -> Result<(Bytes, GetResult)> {
    let (meta, range) = (answer.meta.clone(), answer.range.clone());
    let attributes = answer.attributes.clone();
    let bytes = answer.bytes().await?;
    let copy = bytes.clone();
    let payload = futures::stream::once(async { Ok(copy) }).boxed();
    let taken = GetResult {
        payload: GetResultPayload::Stream(payload),
        meta,
        range,
        attributes,
    };
    Ok((bytes, taken))
}

impl fmt::Display for Mirrored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.there.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Mirrored {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let done = self
            .there
            .put_opts(location, payload.clone(), options)
            .await?;
        if is_manifest(location) {
            self.keep(location, payload.into()).await;
        }
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.there.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_whole = !options.head && options.range.is_none();
        let is_asked_there = options.extensions.get::<AskThere>().is_some();
        if !is_manifest(location) || !is_whole || is_asked_there {
            return self.there.get_opts(location, options).await;
        }
        if let Ok(copy) = self.here.get_opts(location, options.clone()).await
            && let Ok((bytes, copy)) = taken_in(copy).await
        {
            match Manifest::decode(&bytes) {
                Ok(_) => return Ok(copy),
                Err(error) => tracing::warn!(
                    %location, %error,
                    "the copy of a manifest can not be used; it is read from the store and kept anew"
                ),
            }
        }
        let found = self.there.get_opts(location, options).await?;
        let (bytes, found) = taken_in(found).await?;
        self.keep(location, bytes).await;
        Ok(found)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.there.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let here = self.here.clone();
        let removed = self.there.delete_stream(locations);
        removed
            .then(move |location| {
                let here = here.clone();
                async move {
                    let location = location?;
                    if is_manifest(&location) {
                        // A copy that stays is never asked for again.
                        let _ = here.delete(&location).await;
                    }
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.there.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.there.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.there.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::tier::simulated::SimulatedStore;

    fn manifest(number: u64) -> Path {
        Path::from(format!("topics/7/manifest/{number:020}-0000000001-000000"))
    }

    fn bytes_of(version: u64) -> Bytes {
        let manifest = Manifest {
            topic: 7,
            version,
            ..Manifest::default()
        };
        manifest.encode()
    }

    #[tokio::test]
    async fn a_damaged_copy_is_no_answer_and_is_made_anew() {
        let (there, disk) = (SimulatedStore::new(1), Arc::new(SimulatedDisk::new()));
        let mirrored = Mirrored::new(Arc::new(there.clone()), Arc::clone(&disk) as _);
        let read = async || mirrored.get(&manifest(1)).await?.bytes().await;
        mirrored
            .put(&manifest(1), bytes_of(1).into())
            .await
            .unwrap();
        let copy = format!("{FOLDER}/{}", manifest(1));
        for bit in [0, 60, 70, 130] {
            disk.flip_bit(&copy, bit);
            assert_eq!(read().await.unwrap(), bytes_of(1), "bit {bit}");
            there.set_down(true);
            assert_eq!(read().await.unwrap(), bytes_of(1), "it was kept anew");
            there.set_down(false);
        }
        disk.flip_bit(&copy, 70);
        there.set_down(true);
        assert!(read().await.is_err(), "never what is damaged");
    }

    #[tokio::test]
    async fn a_check_reads_what_the_store_itself_holds() {
        let (there, disk) = (SimulatedStore::new(1), Arc::new(SimulatedDisk::new()));
        let mirrored = Mirrored::new(Arc::new(there.clone()), disk);
        mirrored
            .put(&manifest(1), bytes_of(1).into())
            .await
            .unwrap();
        there.put(&manifest(1), "rotten".into()).await.unwrap();
        let checked = mirrored.get_opts(&manifest(1), without_copies()).await;
        assert_eq!(checked.unwrap().bytes().await.unwrap(), "rotten");
        let read = mirrored.get(&manifest(1)).await.unwrap();
        assert_eq!(read.bytes().await.unwrap(), bytes_of(1));
    }

    #[tokio::test]
    async fn manifests_are_read_here_while_the_store_is_down_and_files_are_not() {
        let (there, disk) = (SimulatedStore::new(1), Arc::new(SimulatedDisk::new()));
        let file = Path::from("topics/7/data/1.parquet");
        let mirrored = Mirrored::new(Arc::new(there.clone()), Arc::clone(&disk) as _);
        mirrored
            .put(&manifest(1), bytes_of(1).into())
            .await
            .unwrap();
        mirrored.put(&file, "rows".into()).await.unwrap();
        // One that somebody else has put, or an earlier version: it is kept once it was read.
        there.put(&manifest(2), bytes_of(2).into()).await.unwrap();
        let read = async |path: &Path| mirrored.get(path).await?.bytes().await;
        assert_eq!(read(&manifest(2)).await.unwrap(), bytes_of(2));
        there.set_down(true);
        assert_eq!(read(&manifest(1)).await.unwrap(), bytes_of(1));
        assert_eq!(read(&manifest(2)).await.unwrap(), bytes_of(2));
        assert!(read(&file).await.is_err());
        assert!(mirrored.put(&manifest(3), "x".into()).await.is_err());
        assert!(mirrored.delete(&manifest(1)).await.is_err());
        assert_eq!(read(&manifest(1)).await.unwrap(), bytes_of(1));
        there.set_down(false);
        assert!(read(&manifest(3)).await.is_err());
        mirrored.delete(&manifest(1)).await.unwrap();
        assert!(read(&manifest(1)).await.is_err());
        assert!(
            disk.snapshot()
                .keys()
                .all(|path| !path.ends_with("1.parquet"))
        );
    }
}
