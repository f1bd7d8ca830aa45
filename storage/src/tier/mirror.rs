//! Manifests beside the log, so that a data folder opens while its bucket does not answer.
//!
//! A wrapper around an object store elsewhere: whatever is a manifest is also kept on the local disk, where reading
//! it is tried first. That is sound because a name of a manifest is used once (`cold/put.rs`), so a copy is never
//! out of date. **Invariant.** The store elsewhere decides: a put or a removal has happened when it has happened there,
//! and a copy that can not be made or read costs a round trip and nothing else.
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
use crate::tier::objects::DiskObjectStore;

/// Folder of the copies, below the data folder.
const FOLDER: &str = "mirror";

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
        if !is_manifest(location) || !is_whole {
            return self.there.get_opts(location, options).await;
        }
        if let Ok(copy) = self.here.get_opts(location, options.clone()).await {
            return Ok(copy);
        }
        let found = self.there.get_opts(location, options).await?;
        let (meta, range, attributes) = (
            found.meta.clone(),
            found.range.clone(),
            found.attributes.clone(),
        );
        let bytes = found.bytes().await?;
        self.keep(location, bytes.clone()).await;
        let payload = futures::stream::once(async { Ok(bytes) }).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes,
        })
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

    #[tokio::test]
    async fn manifests_are_read_here_while_the_store_is_down_and_files_are_not() {
        let (there, disk) = (SimulatedStore::new(1), Arc::new(SimulatedDisk::new()));
        let file = Path::from("topics/7/data/1.parquet");
        let mirrored = Mirrored::new(Arc::new(there.clone()), Arc::clone(&disk) as _);
        mirrored.put(&manifest(1), "one".into()).await.unwrap();
        mirrored.put(&file, "rows".into()).await.unwrap();
        // One that somebody else has put, or an earlier version: it is kept once it was read.
        there.put(&manifest(2), "two".into()).await.unwrap();
        let read = async |path: &Path| mirrored.get(path).await?.bytes().await;
        assert_eq!(read(&manifest(2)).await.unwrap(), "two");
        there.set_down(true);
        assert_eq!(read(&manifest(1)).await.unwrap(), "one");
        assert_eq!(read(&manifest(2)).await.unwrap(), "two");
        assert!(read(&file).await.is_err());
        assert!(mirrored.put(&manifest(3), "x".into()).await.is_err());
        assert!(mirrored.delete(&manifest(1)).await.is_err());
        assert_eq!(read(&manifest(1)).await.unwrap(), "one");
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
