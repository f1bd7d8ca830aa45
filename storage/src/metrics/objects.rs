//! The object store, with its calls counted.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::metrics::{Call, Metrics};

/// An object store whose calls are counted.
#[derive(Debug)]
pub(super) struct WatchedStore {
    store: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
}

impl WatchedStore {
    pub(super) fn new(store: Arc<dyn ObjectStore>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }
}

impl Metrics {
    /// Counts a call, how it ended and the bytes that it moved.
    fn count<T>(&self, call: Call, done: &Result<T>, bytes: impl FnOnce(&T) -> u64) {
        let counts = self.of(call);
        counts.calls.fetch_add(1, Ordering::Relaxed);
        match done {
            Ok(answer) => {
                counts.bytes.fetch_add(bytes(answer), Ordering::Relaxed);
            }
            Err(
                Error::NotFound { .. }
                | Error::AlreadyExists { .. }
                | Error::Precondition { .. }
                | Error::NotModified { .. },
            ) => {}
            Err(_) => {
                counts.errors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl fmt::Display for WatchedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for WatchedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let done = self.store.put_opts(location, payload, options).await;
        self.metrics.count(Call::Put, &done, |_| bytes);
        if done.is_ok() && location.extension() == Some("parquet") {
            self.metrics.files.fetch_add(1, Ordering::Relaxed);
            self.metrics.file_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let done = self.store.get_opts(location, options).await;
        self.metrics.count(Call::Get, &done, |found| {
            if is_head {
                0
            } else {
                found.range.end - found.range.start
            }
        });
        done
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let done = self.store.get_ranges(location, ranges).await;
        let bytes = |parts: &Vec<Bytes>| parts.iter().map(|part| part.len() as u64).sum();
        self.metrics.count(Call::Get, &done, bytes);
        done
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let metrics = Arc::clone(&self.metrics);
        let removed = self.store.delete_stream(locations);
        removed
            .inspect(move |done| metrics.count(Call::Delete, done, |_| 0))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.metrics.count(Call::List, &Ok(()), |()| 0);
        let metrics = Arc::clone(&self.metrics);
        let listed = self.store.list(prefix);
        listed
            .inspect(move |object| {
                if object.is_err() {
                    let list = metrics.of(Call::List);
                    list.errors.fetch_add(1, Ordering::Relaxed);
                }
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let done = self.store.list_with_delimiter(prefix).await;
        self.metrics.count(Call::List, &done, |_| 0);
        done
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
