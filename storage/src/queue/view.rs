//! What readers see of the WALs: published by the writers once it is durable.
//!
//! No lock here is held across a wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use millpond_proto::message::{QueueId, TopicId};
use tokio::sync::watch;

use crate::disk::Way;
use crate::error::AppendError;
use crate::format::block::{Head, Kind};
use crate::log::counts::Counts;
use crate::queue::cache::Cache;
use crate::queue::index::{Index, Place};
use crate::wal::segment::Segments;
use crate::wal::spare::Spares;

/// The readers' side of one WAL.
#[derive(Debug)]
pub(crate) struct Wal {
    pub(crate) segments: Segments,
    pub(crate) spares: Arc<Spares>,
    pub(crate) counts: Counts,
    cache: Mutex<Cache>,
    durable: AtomicU64,
}

/// The readers' side of all WALs.
#[derive(Debug)]
pub(crate) struct View {
    index: RwLock<Index>,
    wals: Vec<Wal>,
    /// Whether segments are written past the system's cache.
    is_direct: AtomicBool,
    failure: watch::Sender<Option<AppendError>>,
}

impl Wal {
    pub(crate) fn new(
        segments: Segments,
        spares: Arc<Spares>,
        cache_bytes: usize,
        durable: u64,
    ) -> Self {
        Self {
            segments,
            spares,
            counts: Counts::default(),
            cache: Mutex::new(Cache::new(cache_bytes)),
            durable: AtomicU64::new(durable),
        }
    }

    /// The position below which everything is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Memory that the tail cache may take.
    pub(crate) fn cache_bytes(&self) -> usize {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.bytes_max()
    }

    /// Each payload that the tail cache still has.
    pub(crate) fn cached(&self, places: &[Place]) -> Vec<Option<Bytes>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let get = |place: &Place| cache.get(place.position, place.length as usize);
        places.iter().map(get).collect()
    }
}

impl View {
    pub(crate) fn new(index: Index, wals: Vec<Wal>) -> Self {
        Self {
            index: RwLock::new(index),
            wals,
            is_direct: AtomicBool::new(false),
            failure: watch::Sender::new(None),
        }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wals(&self) -> &[Wal] {
        &self.wals
    }

    pub(crate) fn wal(&self, wal: u16) -> &Wal {
        &self.wals[usize::from(wal)]
    }

    /// The way that durable writes take.
    pub(crate) fn way(&self) -> Way {
        if self.is_direct.load(Ordering::Relaxed) {
            Way::Direct
        } else {
            Way::Buffered
        }
    }

    /// Sets the way of the writes to come.
    pub(crate) fn set_way(&self, way: Way) {
        self.is_direct.store(way == Way::Direct, Ordering::Relaxed);
    }

    /// Shows a block that has become durable.
    /// `counts` is what its memory counts for in the tail cache.
    pub(crate) fn publish(&self, head: &Head, block: Bytes, counts: usize) {
        let wal = self.wal(head.header.wal);
        {
            let mut cache = wal.cache.lock().unwrap_or_else(PoisonError::into_inner);
            cache.push(head.header.position, block, counts);
        }
        let messages = head
            .payloads()
            .filter(|(entry, _)| entry.kind == Kind::Message);
        let messages = messages.map(|(entry, at)| {
            let place = Place {
                position: head.header.position + at as u64,
                length: entry.length,
                checksum: entry.checksum,
            };
            let queue = (TopicId(entry.topic), QueueId(entry.queue));
            (queue, entry.offset, place)
        });
        self.index_mut().insert_all(head.header.wal, messages);
        wal.counts.add(head);
        wal.durable.store(head.end(), Ordering::Release);
    }

    /// Ends the incarnation; the first cause stays.
    pub(crate) fn fail(&self, cause: std::io::Error) -> AppendError {
        let error = AppendError::Failed {
            cause: Arc::new(cause),
        };
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(error);
            is_first
        });
        self.failure().expect("it was just set")
    }

    /// Why the incarnation ended, once it has.
    pub(crate) fn failure(&self) -> Option<AppendError> {
        self.failure.borrow().clone()
    }

    /// Waits until the incarnation has ended by a failure.
    pub(crate) async fn failed(&self) -> AppendError {
        let mut failure = self.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        let error = failed
            .expect("the sender lives as long as the view")
            .clone();
        error.expect("waited for")
    }
}
