//! What lies in the cold tier, topic by topic: adding files, reading offsets, forgetting topics.
//!
//! **Invariants.** A manifest is the only thing that makes a file part of a topic, and the metadata
//! store's pointer the only thing that makes a manifest valid. Every change puts its file, puts the
//! manifest, swaps the pointer, in this order, and never writes to a name that was used before, so a late
//! writer of another incarnation can not change what a valid manifest names. What a manifest no longer
//! names is removed once nobody reads by an older one and outside readers had their time; what a crash left behind, at the next start.
//!
//! Reading order: this file, `sparse`, `put`, `typed`, `retention`, `compaction`, `family`, `keys`, `erasure`, `table`, `garbage`,
//! `waiting`, `lookup`, `verify`.
//!
//! Bytes: `storage/FORMAT.md`, Manifest and Metadata keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use millpond_proto::message::{Offset, QueueId, Term, TopicId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::async_reader::ParquetRecordBatchStream;
use parquet::errors::ParquetError;

use crate::error::{OpenError, ReadError, TierError};
use crate::format::columns::from_batch;
use crate::format::envelope::Envelope;
use crate::format::manifest::{File, Index, Manifest, ManifestError, Run, day_of};
use crate::log::ReadLimit;
use crate::meta::{MetaError, MetaStore, Versioned};
use crate::tier::cold::family::Shelf;
use crate::tier::cold::garbage::Garbage;
use crate::tier::cold::sparse::KnownOffsets;
use crate::tier::cold::table::Shown;
use crate::tier::cold::waiting::{Grace, Parting};
use crate::tier::parquet::{self as file, CheckedFile};

pub mod compaction;
pub mod erasure;
pub mod family;
mod garbage;
pub mod keys;
pub mod lookup;
mod put;
pub mod retention;
mod sparse;
mod table;
pub mod typed;
pub(crate) mod verify;
mod waiting;

pub use crate::tier::cold::table::TableMetadata;

/// Footers kept in memory.
const FOOTERS_MAX: usize = 256;
/// Rows asked for at first in a read; doubled while the limit allows more.
const READ_ROWS_FIRST: u64 = 64;
/// Most rows asked for at once in a read.
const READ_ROWS_MAX: u64 = 8192;

/// The cold tier of all topics.
#[derive(Debug)]
pub struct Cold {
    objects: Arc<dyn ObjectStore>,
    meta: Arc<dyn MetaStore>,
    manifests: Mutex<HashMap<TopicId, Arc<Index>>>,
    /// The family of each topic that has messages in one.
    members: Mutex<HashMap<TopicId, TopicId>>,
    footers: Mutex<Footers>,
    offsets: Mutex<KnownOffsets>,
    garbage: Mutex<Garbage>,
    /// Whoever puts something, and how much it has put: no name is used twice.
    term: Term,
    puts: AtomicU64,
    /// What outsiders see of the topics, once it is known.
    tables: OnceLock<Shown>,
    /// How long outsiders may go on with what was replaced.
    grace: OnceLock<Grace>,
    /// Held by whoever changes something.
    turn: tokio::sync::Mutex<()>,
    /// Held during a key compaction, which takes the turn for its steps only.
    compacting: tokio::sync::Mutex<()>,
}

/// Parsed footers by file key, the least recently used going first.
#[derive(Default)]
struct Footers {
    by_key: HashMap<String, (ArrowReaderMetadata, u64)>,
    uses: u64,
}

impl fmt::Debug for Footers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} footers", self.by_key.len())
    }
}

impl Footers {
    fn get(&mut self, key: &str) -> Option<ArrowReaderMetadata> {
        self.uses += 1;
        let (footer, used) = self.by_key.get_mut(key)?;
        *used = self.uses;
        Some(footer.clone())
    }

    fn remove(&mut self, key: &str) {
        self.by_key.remove(key);
    }

    fn insert(&mut self, key: &str, footer: ArrowReaderMetadata) {
        self.uses += 1;
        if self.by_key.len() >= FOOTERS_MAX {
            let oldest = self.by_key.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.by_key.remove(&oldest);
            }
        }
        self.by_key.insert(key.to_owned(), (footer, self.uses));
    }
}

fn pointer_key(topic: TopicId) -> String {
    format!("topic/{topic}/manifest")
}

fn topic_of_pointer(key: &str) -> Option<TopicId> {
    let id = key.strip_prefix("topic/")?.strip_suffix("/manifest")?;
    id.parse().ok().map(TopicId)
}

fn topic_folder(topic: TopicId) -> Path {
    Path::from(format!("topics/{topic}"))
}

fn manifest_path(topic: TopicId, name: &str) -> Path {
    Path::from(format!("topics/{topic}/manifest/{name}"))
}

fn file_folder(topic: TopicId) -> String {
    format!("topics/{topic}/data")
}

/// What a file is called until it is put.
fn file_key(topic: TopicId, number: u64) -> String {
    format!("{}/{number:020}.parquet", file_folder(topic))
}

/// The manifest that the metadata store points to.
#[derive(Clone, Debug)]
struct Pointer {
    /// Its name in the topic's folder of manifests.
    name: String,
    /// Its version, with which the name begins.
    version: u64,
    /// What a swap must name.
    expected: u64,
}

impl Pointer {
    fn of(found: &Versioned) -> Option<Self> {
        let name = std::str::from_utf8(&found.value).ok()?;
        let is_plain = name.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        let version = name.split('-').next()?.parse().ok()?;
        is_plain.then(|| Self {
            name: name.to_owned(),
            version,
            expected: found.version,
        })
    }

    fn path(&self, topic: TopicId) -> Path {
        manifest_path(topic, &self.name)
    }
}

fn objects_failed(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> TierError {
    move |source| TierError::Objects {
        what: what.into(),
        source: Arc::new(source),
    }
}

/// Why a manifest could not be loaded.
enum LoadError {
    Pointer(String),
    Objects(String, object_store::Error),
    Manifest(String, ManifestError),
}

impl From<LoadError> for OpenError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Pointer(what) => Self::Damaged {
                what,
                detail: "it names no manifest".to_owned(),
            },
            LoadError::Objects(place, source) => Self::Objects {
                what: format!("read {place}"),
                source,
            },
            LoadError::Manifest(what, source) => Self::Damaged {
                what,
                detail: source.to_string(),
            },
        }
    }
}

impl From<LoadError> for TierError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Pointer(what) => Self::Meta(MetaError {
                detail: format!("{what} names no manifest"),
            }),
            LoadError::Objects(place, source) => objects_failed(format!("read {place}"))(source),
            LoadError::Manifest(place, source) => Self::Objects {
                what: format!("read {place}"),
                source: Arc::new(source),
            },
        }
    }
}

/// Reads the manifest that a pointer names.
async fn load(
    objects: &dyn ObjectStore,
    topic: TopicId,
    pointer: &Versioned,
) -> Result<Manifest, LoadError> {
    let pointer = Pointer::of(pointer).ok_or_else(|| LoadError::Pointer(pointer_key(topic)))?;
    let (version, path) = (pointer.version, pointer.path(topic));
    let read = async || -> Result<Result<Manifest, ManifestError>, LoadError> {
        let read = async { objects.get(&path).await?.bytes().await };
        let bytes: Bytes = read
            .await
            .map_err(|source| LoadError::Objects(path.to_string(), source))?;
        Ok(Manifest::decode(&bytes).and_then(|m| {
            let ours = m.topic == topic.0 && m.version == version;
            ours.then_some(m)
                .ok_or(ManifestError::Damaged("it belongs elsewhere"))
        }))
    };
    // Damage may have happened on the way: what the store answers twice is what it holds.
    let manifest = match read().await? {
        Err(ManifestError::Damaged(_)) => read().await?,
        manifest => manifest,
    };
    manifest.map_err(|source| LoadError::Manifest(path.to_string(), source))
}

impl Cold {
    /// Loads the manifest of every topic. No two that write may be opened under one `term`.
    ///
    /// # Errors
    /// [`OpenError`] when one can not be read or is damaged; nothing was changed.
    pub async fn open(
        objects: Arc<dyn ObjectStore>,
        meta: Arc<dyn MetaStore>,
        term: Term,
    ) -> Result<Self, OpenError> {
        let cold = Self {
            objects,
            meta,
            manifests: Mutex::default(),
            members: Mutex::default(),
            footers: Mutex::default(),
            offsets: Mutex::default(),
            garbage: Mutex::default(),
            term,
            puts: AtomicU64::new(0),
            tables: OnceLock::new(),
            grace: OnceLock::new(),
            turn: tokio::sync::Mutex::new(()),
            compacting: tokio::sync::Mutex::new(()),
        };
        let keys = cold.meta.keys("topic/")?;
        for topic in keys
            .iter()
            .filter_map(|key| garbage::topic_of_tombstone(key))
        {
            cold.garbage().bury(topic);
        }
        for key in keys {
            let Some(topic) = topic_of_pointer(&key) else {
                continue;
            };
            if let Some(pointer) = cold.meta.get(&key)? {
                let manifest = cold.load(topic, &pointer).await?;
                cold.show(topic, &manifest);
            }
        }
        Ok(cold)
    }

    fn manifests(&self) -> MutexGuard<'_, HashMap<TopicId, Arc<Index>>> {
        self.manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn footers(&self) -> MutexGuard<'_, Footers> {
        self.footers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_offsets(&self) -> MutexGuard<'_, KnownOffsets> {
        self.offsets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manifest(&self, topic: TopicId) -> Option<Arc<Index>> {
        self.manifests().get(&topic).map(Arc::clone)
    }

    /// What readers find from now on.
    fn show(&self, topic: TopicId, manifest: &Arc<Index>) {
        self.garbage().shown(topic, manifest);
        self.manifests().insert(topic, Arc::clone(manifest));
        self.note_members(topic, manifest);
    }

    async fn load(&self, topic: TopicId, pointer: &Versioned) -> Result<Arc<Index>, LoadError> {
        Ok(Arc::new(load(&*self.objects, topic, pointer).await?.into()))
    }

    /// Offsets of a queue that are cold; `None` when there are none.
    #[must_use]
    pub fn extent(&self, topic: TopicId, queue: QueueId) -> Option<Range<Offset>> {
        let Shelf { index, lane } = self.shelf(topic, queue)?;
        index.extent(lane).map(|e| Offset(e.start)..Offset(e.end))
    }

    /// The first offset that readers of a queue as a log see, where the table keeps more.
    #[must_use]
    pub fn log_first(&self, topic: TopicId, queue: QueueId) -> Offset {
        let manifest = self.manifest(topic);
        Offset(manifest.map_or(0, |manifest| manifest.log_first(queue.0)))
    }

    /// Every queue of a topic that has or had cold offsets, in order.
    #[must_use]
    pub fn queues_of(&self, topic: TopicId) -> Vec<QueueId> {
        if let Some(family) = self.family_index(topic) {
            let lanes = family.lanes().into_iter();
            let queues = lanes.flat_map(|lanes| lanes.of_topic(topic));
            return queues.map(|(queue, _)| queue).collect();
        }
        let manifest = self.manifest(topic);
        let queues = manifest.iter().flat_map(|manifest| manifest.queues());
        queues.map(QueueId).collect()
    }

    /// Every queue that has or had cold offsets, by topic and queue.
    #[must_use]
    pub fn queues(&self) -> Vec<(TopicId, QueueId, Range<Offset>)> {
        let manifests: Vec<_> = self.manifests().values().map(Arc::clone).collect();
        let mut queues: Vec<_> = manifests
            .iter()
            .flat_map(|manifest| {
                if manifest.lanes().is_some() {
                    return family::queues_of(manifest);
                }
                let topic = TopicId(manifest.manifest().topic);
                let queues = manifest.queues().filter_map(|queue| {
                    let extent = manifest.extent(queue)?;
                    let offsets = Offset(extent.start)..Offset(extent.end);
                    Some((topic, QueueId(queue), offsets))
                });
                queues.collect()
            })
            .collect();
        queues.sort_by_key(|(topic, queue, _)| (*topic, *queue));
        queues
    }

    /// Moves messages of one topic into new files, one for each day of store time, and answers their bytes.
    ///
    /// They are sorted by queue and offset, and each queue goes on at its cold end, or starts anywhere
    /// when it has none. What is cold already is passed over, so a write whose outcome was unknown is
    /// simply written again. An offset that is left out is damaged from then on; `moved` names the
    /// offsets of each queue that are taken over, so that those left out at its ends are known too.
    /// Of a topic that was forgotten nothing is written.
    ///
    /// # Errors
    /// [`TierError`]; then the messages are cold or not, which the next write finds out.
    ///
    /// # Panics
    /// When the messages are not sorted, or are of another topic.
    pub async fn write(
        &self,
        topic: TopicId,
        messages: &[Envelope],
        moved: &[(QueueId, Range<u64>)],
    ) -> Result<u64, TierError> {
        let _turn = self.turn.lock().await;
        if self.is_gone(topic) {
            return Ok(0);
        }
        let (current, expected) = self.current(topic).await?;
        let glance = Glance::of(messages, topic, &current);
        let kept: Vec<Envelope>;
        let messages = if glance.is_cold {
            let cold = |m: &Envelope| current.extent(m.queue).is_some_and(|e| m.offset < e.end);
            kept = messages.iter().filter(|m| !cold(m)).cloned().collect();
            kept.as_slice()
        } else {
            messages
        };

        let mut next = current.manifest().clone();
        let mut extents = next.extents();
        let mut bytes = 0;
        let columns = self.columns_of(topic);
        for messages in by_day(messages, glance.is_one_day) {
            let key = file_key(topic, next.next_file);
            let made = file::make(key, topic, &messages, columns.as_deref())
                .map_err(parquet_failed(topic))?;
            let file = self.put_file(topic, &mut next.next_file, made).await?;
            bytes += file.bytes;
            took(&mut extents, &file);
            next.files.push(file);
        }
        for (queue, range) in moved {
            let known = extents.entry(queue.0).or_insert_with(|| range.clone());
            if current.extent(queue.0).is_none() {
                known.start = known.start.min(range.start);
            }
            known.end = known.end.max(range.end);
        }
        next.set_extents(&extents);
        if next == *current.manifest() {
            return Ok(0);
        }
        self.swap(topic, current, expected, next).await?;
        Ok(bytes)
    }

    /// Makes `next` the valid manifest, and lets go of what only `current` names once outside readers had their
    /// time.
    async fn swap(
        &self,
        topic: TopicId,
        current: Arc<Index>,
        replaced: Option<Pointer>,
        next: Manifest,
    ) -> Result<(), TierError> {
        let parting = self.parting();
        self.swap_parting(topic, current, replaced, next, parting)
            .await
    }

    /// As [`Cold::swap`], and says how to part with what is let go of.
    async fn swap_parting(
        &self,
        topic: TopicId,
        current: Arc<Index>,
        replaced: Option<Pointer>,
        mut next: Manifest,
        parting: Parting,
    ) -> Result<(), TierError> {
        let name = self
            .put_manifest(topic, current.manifest(), &mut next, parting)
            .await?;
        let expected = replaced.as_ref().map(|pointer| pointer.expected);
        let swapped =
            self.meta
                .compare_and_swap(&pointer_key(topic), expected, Some(name.as_bytes()))?;
        if !swapped {
            return Err(TierError::Meta(MetaError {
                detail: format!("{} was changed by another process", pointer_key(topic)),
            }));
        }
        let objects = match &replaced {
            Some(pointer) => {
                let kept = named(topic, &next);
                let named = named(topic, current.manifest());
                let mut gone: Vec<Path> = named.difference(&kept).cloned().collect();
                gone.push(pointer.path(topic));
                gone
            }
            None => Vec::new(),
        };
        let version = next.version;
        drop(current);
        let next = Arc::new(Index::from(next));
        self.show(topic, &next);
        self.garbage().retire(topic, version, objects);
        self.put_hint(topic, next.manifest()).await;
        self.remove_garbage().await;
        Ok(())
    }

    /// The manifest that the metadata store names now, and its pointer.
    ///
    /// Read anew each time: an earlier swap may have happened although it answered an error.
    async fn current(&self, topic: TopicId) -> Result<(Arc<Index>, Option<Pointer>), TierError> {
        let Some(found) = self.meta.get(&pointer_key(topic))? else {
            let empty = Manifest {
                topic: topic.0,
                ..Manifest::default()
            };
            return Ok((Arc::new(empty.into()), None));
        };
        let pointer = Pointer::of(&found);
        let version = pointer.as_ref().map(|pointer| pointer.version);
        let known = self
            .manifest(topic)
            .filter(|m| version == Some(m.manifest().version));
        let manifest = match known {
            Some(known) => known,
            None => {
                let loaded = self.load(topic, &found).await?;
                self.show(topic, &loaded);
                loaded
            }
        };
        Ok((manifest, pointer))
    }

    /// Reads whole messages from `from` on, oldest first. Empty at and above the cold end. The offsets of messages that a
    /// key compaction took away are passed over.
    ///
    /// # Errors
    /// [`ReadError::Trimmed`] below the first cold offset; [`ReadError::Damaged`] when the first message
    /// asked for is damaged (a later damaged one ends the answer before it).
    pub async fn read(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: ReadLimit,
    ) -> Result<Vec<Envelope>, ReadError> {
        let Some(Shelf { index, lane }) = self.shelf(topic, queue) else {
            return Ok(Vec::new());
        };
        let Some(extent) = index.extent(lane) else {
            return Ok(Vec::new());
        };
        if from.0 < extent.start {
            return Err(ReadError::Trimmed {
                topic,
                queue,
                first: Offset(extent.start),
                asked: from,
            });
        }
        let mut answer: Vec<Envelope> = Vec::new();
        let (mut bytes, mut step) = (0_usize, READ_ROWS_FIRST);
        let at = from.0;
        let mut place = Place {
            topic,
            queue,
            lane,
            at,
        };
        while place.at < extent.end && answer.len() < limit.messages {
            let left = Left {
                rows: u64::try_from(limit.messages - answer.len())
                    .unwrap_or(u64::MAX)
                    .min(step),
                bytes: limit.bytes.saturating_sub(bytes) as u64,
            };
            let read = self.read_some(&index, &mut place, extent.end, left);
            let messages = match read.await {
                Ok(messages) => messages,
                Err(error) if answer.is_empty() => return Err(error),
                // Whoever reads on from there meets it.
                Err(_) => return Ok(answer),
            };
            for message in messages {
                bytes = bytes.saturating_add(message.body.as_ref().map_or(0, Bytes::len));
                if bytes > limit.bytes && !answer.is_empty() {
                    return Ok(answer);
                }
                answer.push(message);
            }
            step = (step * 2).min(READ_ROWS_MAX);
        }
        Ok(answer)
    }

    /// What may be `left` to read from a place on, which moves behind it; fewer messages at the end of a run or before
    /// damage, none where a run has no more.
    async fn read_some(
        &self,
        manifest: &Index,
        place: &mut Place,
        end: u64,
        left: Left,
    ) -> Result<Vec<Envelope>, ReadError> {
        let Some((file, run)) = place.seek(manifest, end)? else {
            return Ok(Vec::new());
        };
        let first = self.row_from(file, run, place.at, *place).await?;
        let mut count = left.rows_of(file).min(run.rows().end - first);
        if count == 0 {
            place.at = run.offsets().end;
            return Ok(Vec::new());
        }
        loop {
            match self
                .read_rows(file, run, *place, first..first + count)
                .await
            {
                // Damage behind the first message must not hide the first.
                Err(ReadError::Damaged { .. }) if count > 1 => count /= 2,
                Ok(messages) => {
                    let last = messages.last().map_or(place.at, |last| last.offset);
                    place.at = last.saturating_add(1);
                    return Ok(messages);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn read_rows(
        &self,
        file: &File,
        run: Run,
        place: Place,
        rows: Range<u64>,
    ) -> Result<Vec<Envelope>, ReadError> {
        let columns = file::column_names();
        let count = rows.end - rows.start;
        let mut batches = self.batches(file, rows, &columns, place).await?;
        let mut messages = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| place.unreadable(file, error))?;
            let read = from_batch(&batch, place.topic).map_err(|_| place.damaged(&file.key))?;
            messages.extend(read);
        }
        let mut next = place.at;
        let mut is_expected = |m: &Envelope| {
            let is_next = if run.is_sparse() {
                (next..run.offsets().end).contains(&m.offset)
            } else {
                m.offset == next
            };
            next = m.offset.saturating_add(1);
            m.queue == place.queue.0 && is_next
        };
        if messages.len() as u64 != count || !messages.iter().all(&mut is_expected) {
            return Err(place.damaged(&file.key));
        }
        Ok(messages)
    }

    async fn footer(&self, file: &File, place: Place) -> Result<ArrowReaderMetadata, ReadError> {
        if let Some(known) = self.footers().get(&file.key) {
            return Ok(known);
        }
        let checked = CheckedFile::new(&self.objects, file);
        let footer = file::footer(checked, file).await;
        let footer = footer.map_err(|error| place.unreadable(file, error))?;
        self.footers().insert(&file.key, footer.clone());
        Ok(footer)
    }

    async fn batches(
        &self,
        file: &File,
        rows: Range<u64>,
        columns: &[&str],
        place: Place,
    ) -> Result<ParquetRecordBatchStream<CheckedFile>, ReadError> {
        let footer = self.footer(file, place).await?;
        let checked = CheckedFile::new(&self.objects, file);
        file::batches(checked, footer, rows, columns).map_err(|error| place.unreadable(file, error))
    }

    /// Columns of the cold messages in `range`, in offset order; `columns` are names of
    /// [`crate::format::envelope::schema`], and the batches have them in that order.
    ///
    /// The range is cut to what is cold. A damaged message ends the stream with an error.
    pub fn scan(
        self: &Arc<Self>,
        topic: TopicId,
        queue: QueueId,
        range: Range<Offset>,
        columns: &[&str],
    ) -> BoxStream<'static, Result<RecordBatch, ReadError>> {
        let shelf = self.shelf(topic, queue);
        let extent = shelf
            .as_ref()
            .and_then(|shelf| shelf.index.extent(shelf.lane));
        let (Some(Shelf { index, lane }), Some(extent)) = (shelf, extent) else {
            return stream::empty().boxed();
        };
        let scan = Scan {
            cold: Arc::clone(self),
            manifest: index,
            place: Place {
                topic,
                queue,
                lane,
                at: range.start.0.max(extent.start),
            },
            end: range.end.0.min(extent.end),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            open: None,
        };
        stream::try_unfold(scan, |mut scan| async move {
            let batch = scan.next().await?;
            Ok(batch.map(|batch| (batch, scan)))
        })
        .boxed()
    }
}

/// How much more a read is to bring.
#[derive(Clone, Copy)]
struct Left {
    rows: u64,
    bytes: u64,
}

impl Left {
    /// Rows of a file to decode: no more than are likely to be handed on, because what is above the limit is thrown
    /// away. At least one.
    fn rows_of(self, file: &File) -> u64 {
        let bytes_of_a_row = file.bytes.checked_div(file.rows).unwrap_or(0).max(1);
        self.rows.min(self.bytes / bytes_of_a_row + 1)
    }
}

/// What is being read, for lookups and errors.
#[derive(Clone, Copy)]
struct Place {
    topic: TopicId,
    queue: QueueId,
    /// What the manifest calls the queue: its number, or its lane in a family.
    lane: u32,
    at: u64,
}

impl Place {
    fn damaged(&self, place: &str) -> ReadError {
        ReadError::Damaged {
            topic: self.topic,
            queue: self.queue,
            offset: Offset(self.at),
            place: place.to_owned(),
        }
    }

    fn unreadable(&self, file: &File, error: ParquetError) -> ReadError {
        match file::store_error(error) {
            Ok(source) => ReadError::Objects {
                place: file.key.clone(),
                source: Arc::new(source),
            },
            Err(_) => self.damaged(&file.key),
        }
    }
}

/// A scan on its way; it keeps the manifest that it began with.
struct Scan {
    cold: Arc<Cold>,
    manifest: Arc<Index>,
    place: Place,
    end: u64,
    columns: Vec<String>,
    open: Option<Open>,
}

/// The part of a run that is being read.
struct Open {
    batches: ParquetRecordBatchStream<CheckedFile>,
    file: File,
    /// Rows still to come.
    left: u64,
    /// Where the scan goes on behind it.
    until: u64,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<RecordBatch>, ReadError> {
        loop {
            let Some(open) = &mut self.open else {
                let (cold, manifest) = (Arc::clone(&self.cold), Arc::clone(&self.manifest));
                let Some((file, run)) = self.place.seek(&manifest, self.end)? else {
                    return Ok(None);
                };
                let place = self.place;
                let until = run.offsets().end.min(self.end);
                let rows = cold.rows_of(file, run, &(place.at..until), place).await?;
                let left = rows.end - rows.start;
                if left == 0 {
                    self.place.at = until;
                    continue;
                }
                let names: Vec<&str> = self.columns.iter().map(String::as_str).collect();
                self.open = Some(Open {
                    batches: cold.batches(file, rows, &names, place).await?,
                    file: file.clone(),
                    left,
                    until,
                });
                continue;
            };
            let Some(batch) = open.batches.next().await else {
                if open.left != 0 {
                    return Err(self.place.damaged(&open.file.key));
                }
                self.place.at = open.until;
                self.open = None;
                continue;
            };
            let batch = batch
                .and_then(|batch| file::arrange(&batch, &self.columns))
                .map_err(|error| self.place.unreadable(&open.file, error))?;
            let rows = batch.num_rows() as u64;
            open.left = open
                .left
                .checked_sub(rows)
                .ok_or_else(|| self.place.damaged(&open.file.key))?;
            // Exact in a dense run; in a sparse one it is only told where damage is.
            self.place.at = (self.place.at + rows).min(open.until);
            return Ok(Some(batch));
        }
    }
}

/// Every object that a manifest keeps, without itself.
pub(super) fn named(topic: TopicId, manifest: &Manifest) -> BTreeSet<Path> {
    let mut named = shown_by(topic, manifest);
    named.extend(waiting::paths(topic, manifest));
    named
}

/// Every object that belongs to a topic as a manifest has it: without what waits only to be removed.
fn shown_by(topic: TopicId, manifest: &Manifest) -> BTreeSet<Path> {
    let files = manifest.files.iter();
    let mut named: BTreeSet<Path> = files.map(|file| Path::from(file.key.as_str())).collect();
    named.extend(table::paths(topic, manifest));
    named
}

/// What one look at messages tells: looking again costs as much as writing a column of them.
struct Glance {
    /// Whether some are cold already.
    is_cold: bool,
    is_one_day: bool,
}

impl Glance {
    /// # Panics
    /// When a message is of another topic.
    fn of(messages: &[Envelope], topic: TopicId, current: &Index) -> Self {
        let (mut is_cold, mut queue) = (false, None);
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        for message in messages {
            assert!(message.topic == topic.0, "a file belongs to one topic");
            // They are sorted, so the first of a queue tells.
            if queue != Some(message.queue) {
                queue = Some(message.queue);
                let extent = current.extent(message.queue);
                is_cold |= extent.is_some_and(|extent| message.offset < extent.end);
            }
            first = first.min(message.stored_at_ms);
            last = last.max(message.stored_at_ms);
        }
        Self {
            is_cold,
            is_one_day: first > last || day_of(first) == day_of(last),
        }
    }
}

/// Lets what is kept grow by what a file holds.
fn took(extents: &mut BTreeMap<u32, Range<u64>>, file: &File) {
    for run in &file.runs {
        let offsets = run.offsets();
        let known = extents.entry(run.queue).or_insert_with(|| offsets.clone());
        known.end = known.end.max(offsets.end);
    }
}

/// Messages, sorted by topic, queue and offset, as one part for each day of store time, the earliest first; nothing
/// is copied when all are of one day. Where store times of a queue fall, a part holds more than its day, because
/// offsets must not fall from file to file.
fn by_day(messages: &[Envelope], is_one_day: bool) -> Vec<Cow<'_, [Envelope]>> {
    if messages.is_empty() {
        return Vec::new();
    }
    if is_one_day {
        return vec![Cow::Borrowed(messages)];
    }
    let mut parts: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    let mut last: Option<((u64, u32), i64)> = None;
    for (at, message) in messages.iter().enumerate() {
        let mut day = day_of(message.stored_at_ms);
        let place = (message.topic, message.queue);
        if let Some((_, before)) = last.filter(|(last, _)| *last == place) {
            day = day.max(before);
        }
        last = Some((place, day));
        parts.entry(day).or_default().push(at);
    }
    if parts.len() == 1 {
        return vec![Cow::Borrowed(messages)];
    }
    let taken = |part: Vec<usize>| part.into_iter().filter_map(|at| messages.get(at)).cloned();
    let parts = parts.into_values();
    parts
        .map(|part| Cow::Owned(taken(part).collect()))
        .collect()
}

fn parquet_failed(topic: TopicId) -> impl FnOnce(ParquetError) -> TierError {
    move |source| TierError::Objects {
        what: format!("write a file of topic {topic}"),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod rot;
#[cfg(test)]
pub(crate) mod tests;
