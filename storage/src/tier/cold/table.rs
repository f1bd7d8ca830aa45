//! The cold tier's topics as Iceberg tables: writing what outside readers find, with each manifest.
//!
//! **Invariants.** What shows a manifest is named by its version and durable before the manifest is, so whoever
//! finds a valid manifest finds its table, and the two never disagree. Only `version-hint.text` is written over,
//! after the swap: a crash in between leaves it behind by one change, which [`Cold::show_tables`] makes up for.
//! A table is for outsiders alone; what can not be shown is told and keeps nothing from being moved.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use millpond_proto::message::TopicId;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::error::TierError;
use crate::format::checksum::crc32c;
use crate::format::manifest::{File, Manifest, ManifestError, Table as TableState};
use crate::tier::cold::{Cold, Pointer, objects_failed, pointer_key};
use crate::tier::columns::{Columns, Tables};
use crate::tier::iceberg::{self, Draft};

/// What outsiders see, and what is known to be shown.
pub(super) struct Shown {
    pub(super) tables: Arc<dyn Tables>,
    /// Where the object store lies, as outsiders write it; none: nothing is shown.
    location: Option<String>,
    /// By topic, the version that its hint names.
    hints: Mutex<HashMap<TopicId, u64>>,
    /// The revision of the tables that all topics were last compared with.
    compared: Mutex<Option<u64>>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tables at {:?}", self.location)
    }
}

/// The metadata of one table.
#[derive(Clone, Debug)]
pub struct TableMetadata {
    /// Where it lies, as outsiders write it.
    pub location: String,
    /// Iceberg table metadata, JSON.
    pub json: Bytes,
}

/// Every object that shows a manifest as a table.
pub(super) fn paths(topic: TopicId, manifest: &Manifest) -> Vec<Path> {
    match &manifest.table {
        Some(table) => iceberg::paths(topic, table),
        None => Vec::new(),
    }
}

impl Cold {
    /// Says what the topics are called and which columns they have, and where outsiders find the object store,
    /// if topics are to be shown as tables. The first call counts.
    pub fn set_tables(&self, location: Option<&str>, tables: Arc<dyn Tables>) {
        let shown = Shown {
            tables,
            location: location.map(|location| location.trim_end_matches('/').to_owned()),
            hints: Mutex::default(),
            compared: Mutex::default(),
        };
        // A later call finds it set.
        let _ = self.tables.set(shown);
    }

    /// The typed columns that new files of a topic get.
    pub(super) fn columns_of(&self, topic: TopicId) -> Option<Arc<dyn Columns>> {
        self.tables.get()?.tables.table(topic)?.columns
    }

    /// Puts what shows `next` as a table, without the snapshots up to that of version `gone_up_to`. That a name is
    /// taken means that `next` needs another version.
    pub(super) async fn put_table(
        &self,
        topic: TopicId,
        current: &Manifest,
        next: &mut Manifest,
        gone_up_to: u64,
    ) -> object_store::Result<()> {
        next.table = None;
        let Some(shown) = self.tables.get() else {
            return Ok(());
        };
        let Some((location, table)) = shown.location.as_ref().zip(shown.tables.table(topic)) else {
            return Ok(());
        };
        let (previous, previous_list) = match &current.table {
            Some(before) => {
                let metadata = iceberg::metadata_path(topic, current.version);
                let list = iceberg::list_path(topic, current.version);
                futures::join!(
                    self.get_checked(&metadata, before.metadata_checksum),
                    self.get_checked(&list, before.list_checksum)
                )
            }
            None => (None, None),
        };
        let (current, shown_next) = (&current.shown(), &next.shown());
        let draft = Draft {
            topic,
            location,
            table: &table,
            current,
            next: shown_next,
            gone_up_to,
            previous,
            previous_list,
        };
        let made = match iceberg::make(draft).await {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(%topic, %error, "the topic is not shown as a table for now");
                return Ok(());
            }
        };
        for (path, bytes) in made.objects {
            self.put_once(&path, &bytes).await?;
        }
        let version = next.version;
        let is_listed = |file: &&mut File| made.listed.contains(&file.key);
        for file in next.files.iter_mut().filter(is_listed) {
            file.listed = version;
        }
        next.table = Some(TableState {
            location: location.clone(),
            columns: table.columns.map_or(0, |columns| columns.id()),
            snapshots: made.snapshots,
            parts: made.parts,
            metadata_checksum: Some(made.checksums.0),
            list_checksum: Some(made.checksums.1),
        });
        Ok(())
    }

    async fn get(&self, path: &Path) -> Option<Bytes> {
        let read = async { self.objects.get(path).await?.bytes().await };
        read.await
            .inspect_err(|error| tracing::debug!(%path, %error, "the table begins anew"))
            .ok()
    }

    /// An object whose CRC32C is known; none when it is not what was written.
    async fn get_checked(&self, path: &Path, checksum: Option<u32>) -> Option<Bytes> {
        let bytes = self.get(path).await?;
        if checksum.is_none_or(|checksum| checksum == crc32c(&[&bytes])) {
            return Some(bytes);
        }
        tracing::warn!(%path, "it is damaged: outside readers see the topic anew");
        None
    }

    /// Tells readers of folders which version is valid. A hint that can not be written stays behind until the
    /// next change or start.
    pub(super) async fn put_hint(&self, topic: TopicId, manifest: &Manifest) {
        let Some(shown) = self.tables.get().filter(|_| manifest.table.is_some()) else {
            return;
        };
        let text = manifest.version.to_string();
        let path = iceberg::hint_path(topic);
        match self.objects.put(&path, PutPayload::from(text)).await {
            Ok(_) => {
                let mut hints = shown.hints.lock().unwrap_or_else(PoisonError::into_inner);
                hints.insert(topic, manifest.version);
            }
            Err(error) => tracing::warn!(%path, %error, "readers of the folder see an older table"),
        }
    }

    /// Drops what is known of the hint of a topic that is gone.
    pub(super) fn forget_hint(&self, topic: TopicId) {
        if let Some(shown) = self.tables.get() {
            let mut hints = shown.hints.lock().unwrap_or_else(PoisonError::into_inner);
            hints.remove(&topic);
        }
    }

    /// Brings every table up to date that is not: because columns were declared, the object store lies
    /// elsewhere now, a crash came in between, or files have waited long enough for outside readers. Cheap when nothing
    /// has changed.
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn show_tables(&self) -> Result<(), TierError> {
        self.release().await?;
        let Some(shown) = self.tables.get().filter(|shown| shown.location.is_some()) else {
            return Ok(());
        };
        let compared = || {
            shown
                .compared
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let revision = shown.tables.revision();
        if *compared() == Some(revision) {
            return Ok(());
        }
        let topics: Vec<TopicId> = self.manifests().keys().copied().collect();
        for topic in topics {
            self.show_table(shown, topic).await?;
        }
        *compared() = Some(revision);
        Ok(())
    }

    async fn show_table(&self, shown: &Shown, topic: TopicId) -> Result<(), TierError> {
        let Some(table) = shown.tables.table(topic) else {
            return Ok(());
        };
        let _turn = self.turn.lock().await;
        if self.is_gone(topic) {
            return Ok(());
        }
        let (current, expected) = self.current(topic).await?;
        let columns = table.columns.as_ref().map_or(0, |columns| columns.id());
        let is_shown = current.manifest().table.as_ref().is_some_and(|state| {
            Some(&state.location) == shown.location.as_ref() && state.columns == columns
        });
        if expected.is_some() && !is_shown {
            let next = current.manifest().clone();
            return self.swap(topic, current, expected, next).await;
        }
        let version = current.manifest().version;
        let is_hinted = {
            let hints = shown.hints.lock().unwrap_or_else(PoisonError::into_inner);
            hints.get(&topic) == Some(&version)
        };
        if !is_hinted {
            let hint = self.get(&iceberg::hint_path(topic)).await;
            if hint.as_deref() != Some(version.to_string().as_bytes()) {
                self.put_hint(topic, current.manifest()).await;
            }
        }
        Ok(())
    }

    /// The table of a topic as of now; none when it is not shown (yet).
    ///
    /// # Errors
    /// [`TierError`] when the object store does not answer.
    pub async fn table_metadata(&self, topic: TopicId) -> Result<Option<TableMetadata>, TierError> {
        loop {
            let Some(manifest) = self.manifest(topic) else {
                return Ok(None);
            };
            let manifest = manifest.manifest();
            let Some(table) = &manifest.table else {
                return Ok(None);
            };
            let path = iceberg::metadata_path(topic, manifest.version);
            let read = async { self.objects.get(&path).await?.bytes().await };
            match read.await {
                Ok(json) => {
                    let known = table.metadata_checksum;
                    if known.is_some_and(|checksum| checksum != crc32c(&[&json])) {
                        let damaged = ManifestError::Damaged("its checksum differs");
                        return Err(TierError::Objects {
                            what: format!("read {path}"),
                            source: Arc::new(damaged),
                        });
                    }
                    return Ok(Some(TableMetadata {
                        location: format!("{}/{path}", table.location),
                        json,
                    }));
                }
                // It was replaced meanwhile, unless the pointer says that it should be there.
                Err(object_store::Error::NotFound { .. })
                    if self.meta.get(&pointer_key(topic))?.is_none_or(|found| {
                        Pointer::of(&found).map(|pointer| pointer.version) != Some(manifest.version)
                    }) =>
                {
                    tokio::task::yield_now().await;
                }
                Err(source) => return Err(objects_failed(format!("read {path}"))(source)),
            }
        }
    }

    /// Topics that are shown as tables, ascending.
    #[must_use]
    pub fn shown_topics(&self) -> Vec<TopicId> {
        let manifests = self.manifests();
        let shown = manifests
            .iter()
            .filter(|(_, m)| m.manifest().table.is_some());
        let mut topics: Vec<TopicId> = shown.map(|(topic, _)| *topic).collect();
        topics.sort_unstable();
        topics
    }
}
