//! Both stores of a cold tier as they are when the process dies, or one call fails, at a place that is passed in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::meta::embedded::EmbeddedMeta;
use crate::meta::{MetaError, MetaStore, Versioned};
use crate::tier::objects::DiskObjectStore;

/// Dies at one of its calls: that one does nothing, or happens without being answered.
#[derive(Debug)]
pub(crate) struct Dying {
    pub(super) objects: DiskObjectStore,
    pub(super) meta: EmbeddedMeta,
    pub(super) calls: AtomicUsize,
    pub(super) dies_at: usize,
    pub(super) happens: bool,
    /// Whether the calls after that one are answered again.
    pub(super) revives: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Handle(pub(super) Arc<Dying>);

impl Handle {
    /// Both stores on a disk, which die at a call.
    pub(crate) fn over(disk: &Arc<SimulatedDisk>, dies_at: usize, happens: bool) -> Self {
        let shared = Arc::clone(disk) as Arc<dyn Disk>;
        Self(Arc::new(Dying {
            objects: DiskObjectStore::new(Arc::clone(&shared), "cold"),
            meta: EmbeddedMeta::open(shared, "facts").unwrap(),
            calls: AtomicUsize::new(0),
            dies_at,
            happens,
            revives: false,
        }))
    }

    /// Both stores on a disk, of whose calls one fails.
    pub(super) fn failing_once(disk: &Arc<SimulatedDisk>, at: usize, happens: bool) -> Self {
        let mut handle = Self::over(disk, at, happens);
        Arc::get_mut(&mut handle.0).unwrap().revives = true;
        handle
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dying")
    }
}

impl Dying {
    /// Whether this call takes place, and whether it is answered.
    fn call(&self) -> (bool, bool) {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        match number.cmp(&self.dies_at) {
            std::cmp::Ordering::Less => (true, true),
            std::cmp::Ordering::Equal => (self.happens, false),
            std::cmp::Ordering::Greater => (self.revives, self.revives),
        }
    }
}

fn died<T>() -> object_store::Result<T> {
    Err(object_store::Error::Generic {
        store: "Dying",
        source: "died".into(),
    })
}

#[async_trait]
impl ObjectStore for Handle {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let (happens, answers) = self.0.call();
        if happens {
            let result = self.0.objects.put_opts(location, payload, options).await;
            if answers {
                return result;
            }
        }
        died()
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        died()
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.0.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        match self.0.call() {
            (true, _) => self.0.objects.delete_stream(locations),
            (false, _) => stream::once(async { died() }).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        died()
    }
}

impl MetaStore for Handle {
    fn close(&self) {
        self.0.meta.close();
    }

    fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        self.0.meta.get(key)
    }

    fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<bool, MetaError> {
        let (happens, answers) = self.0.call();
        let result = if happens {
            self.0.meta.compare_and_swap(key, expected, value)
        } else {
            Ok(false)
        };
        if answers {
            return result;
        }
        Err(MetaError {
            detail: "died".to_owned(),
        })
    }

    fn keys(&self, prefix: &str) -> Result<Vec<String>, MetaError> {
        self.0.meta.keys(prefix)
    }
}
