//! What lies in the cold tier, topic by topic: adding files, reading offsets, forgetting topics.
//!
//! **Invariants.** A manifest is the only thing that makes a file part of a topic, and the metadata
//! store's pointer the only thing that makes a manifest valid. Every change puts its file, puts the
//! manifest, swaps the pointer, in this order, and never writes to a name that was used before, so a late
//! writer of another incarnation can not change what a valid manifest names. What a manifest no longer
//! names is removed once nobody reads by an older one and outside readers had their time; what a crash left behind, at the next start.
//!
//! Reading order: this file, `reading`, `scan`, `neighbours`, `sparse`, `days`, `put`, `typed`, `retention`, `compaction`, `family`, `keys`, `erasure`, `table`, `garbage`,
//! `waiting`, `lookup`, `verify`.
//!
//! Bytes: `storage/FORMAT.md`, Manifest and Metadata keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use millpond_proto::message::{Offset, QueueId, Term, TopicId};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore};
use parquet::errors::ParquetError;

use crate::error::{OpenError, TierError};
use crate::format::envelope::Envelope;
use crate::format::manifest::{File, Index, Manifest, ManifestError};
use crate::meta::{MetaError, MetaStore, Versioned};
use crate::tier::cold::days::{Glance, by_day};
use crate::tier::cold::family::Shelf;
use crate::tier::cold::garbage::Garbage;
use crate::tier::cold::neighbours::Neighbours;
use crate::tier::cold::reading::Footers;
use crate::tier::cold::sparse::KnownOffsets;
use crate::tier::cold::table::Shown;
use crate::tier::cold::waiting::{Grace, Parting};
use crate::tier::parquet as file;

pub mod compaction;
mod days;
pub mod erasure;
pub mod family;
mod garbage;
pub mod keys;
pub mod lookup;
mod neighbours;
mod put;
mod reading;
pub mod retention;
mod scan;
mod sparse;
mod table;
pub mod typed;
pub(crate) mod verify;
mod waiting;

pub use crate::tier::cold::table::TableMetadata;

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
    neighbours: Mutex<Neighbours>,
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
    options: GetOptions,
) -> Result<Manifest, LoadError> {
    let pointer = Pointer::of(pointer).ok_or_else(|| LoadError::Pointer(pointer_key(topic)))?;
    let (version, path) = (pointer.version, pointer.path(topic));
    let read = async || -> Result<Result<Manifest, ManifestError>, LoadError> {
        let found = objects.get_opts(&path, options.clone());
        let read = async { found.await?.bytes().await };
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
            neighbours: Mutex::default(),
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
        let options = GetOptions::default();
        let manifest = load(&*self.objects, topic, pointer, options).await?;
        Ok(Arc::new(manifest.into()))
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

    /// Every queue that has or had cold offsets, by topic and queue; those of deleted topics are not among them.
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
        // The lanes of a family's deleted topic stay in its manifest until that changes.
        queues.retain(|(topic, ..)| !self.is_gone(*topic));
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
        let glance = Glance::of(messages, &current);
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

/// Lets what is kept grow by what a file holds.
fn took(extents: &mut BTreeMap<u32, Range<u64>>, file: &File) {
    for run in &file.runs {
        let offsets = run.offsets();
        let known = extents.entry(run.queue).or_insert_with(|| offsets.clone());
        known.end = known.end.max(offsets.end);
    }
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
