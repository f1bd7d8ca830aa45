//! An object store that counts what passes through it, refuses some calls, and from which whoever uses it never hears again after
//! some call.
//!
//! What was done before that call stays; the call itself is done or not, as told. It is how a process
//! looks to its store that dies between, or within, two calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Whether the last call is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Nothing of it happens.
    Undone,
    /// It happens, and nobody hears of it.
    Done,
}

/// The store.
#[derive(Clone, Debug)]
pub struct DyingStore {
    inner: Arc<dyn ObjectStore>,
    counts: Arc<Counts>,
    fuse: Option<(u64, Last)>,
    /// Of so many reads one is refused, until so many were.
    refuses: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    written: AtomicU64,
    read: AtomicU64,
    gets: AtomicU64,
}

impl DyingStore {
    /// A store that only counts.
    #[must_use]
    pub fn counting(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            counts: Arc::default(),
            fuse: None,
            refuses: None,
        }
    }

    /// A store that refuses the last of every so many reads, so many times.
    #[must_use]
    pub fn refusing(inner: Arc<dyn ObjectStore>, every: u64, times: u64) -> Self {
        Self {
            refuses: Some((every, times)),
            ..Self::counting(inner)
        }
    }

    /// A store whose call number `last`, from 0, is the last one.
    #[must_use]
    pub fn dying(inner: Arc<dyn ObjectStore>, last: u64, is: Last) -> Self {
        Self {
            fuse: Some((last, is)),
            ..Self::counting(inner)
        }
    }

    /// Bytes of all objects that were put.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Bytes of all objects that were got.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.counts.read.load(Ordering::Relaxed)
    }

    /// How often it was called.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.counts.calls.load(Ordering::Relaxed)
    }

    /// Does one call, unless it is too late for it.
    async fn call<T>(&self, work: impl Future<Output = T>) -> T {
        let call = self.counts.calls.fetch_add(1, Ordering::Relaxed);
        match self.fuse {
            Some((last, Last::Undone)) if call >= last => std::future::pending().await,
            Some((last, Last::Done)) if call > last => std::future::pending().await,
            Some((last, Last::Done)) if call == last => {
                work.await;
                std::future::pending().await
            }
            _ => work.await,
        }
    }
}

impl fmt::Display for DyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for DyingStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        self.counts.written.fetch_add(bytes, Ordering::Relaxed);
        self.call(self.inner.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call(self.inner.put_multipart_opts(location, options))
            .await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let number = 1 + self.counts.gets.fetch_add(1, Ordering::Relaxed);
        let is_refused = |(every, times)| number.is_multiple_of(every) && number / every <= times;
        if self.refuses.is_some_and(is_refused) {
            return Err(object_store::Error::Generic {
                store: "refusing",
                source: format!("read {number} is refused").into(),
            });
        }
        let got = self.call(self.inner.get_opts(location, options)).await?;
        let bytes = got.range.end - got.range.start;
        self.counts.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(got)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let one = futures::stream::once(async { location }).boxed();
                    let mut done = store.inner.delete_stream(one);
                    let done = store.call(done.next()).await;
                    done.expect("one location has one answer")
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, found) = (self.clone(), self.inner.list(prefix));
        let opened = async move { store.call(async { found }).await };
        futures::stream::once(opened).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(self.inner.copy_opts(from, to, options)).await
    }
}
