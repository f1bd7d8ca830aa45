//! Removing what is not needed any more: replaced objects, orphans of a crash, topics that were deleted.
//!
//! **Invariants.** An object that a manifest named is removed only when no reader holds that manifest or an
//! older one. A topic that was forgotten leaves a *tombstone* in the metadata store, so that messages of it
//! which still lie in the log are never moved; its id is never used again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use futures::TryStreamExt as _;
use millpond_proto::message::TopicId;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use crate::error::TierError;
use crate::format::manifest::Index;
use crate::tier::cold::{Cold, named, objects_failed, pointer_key, topic_folder};

/// What waits to be removed, and who keeps it.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Every manifest that some reader may hold.
    manifests: HashMap<TopicId, Vec<Weak<Index>>>,
    retired: Vec<Retired>,
    gone: HashSet<TopicId>,
}

/// Objects that manifests below `version` name and later ones do not.
#[derive(Debug)]
struct Retired {
    topic: TopicId,
    version: u64,
    objects: Vec<Path>,
}

impl Garbage {
    pub(super) fn shown(&mut self, topic: TopicId, manifest: &Arc<Index>) {
        let manifests = self.manifests.entry(topic).or_default();
        manifests.retain(|held| held.strong_count() > 0);
        manifests.push(Arc::downgrade(manifest));
    }

    pub(super) fn retire(&mut self, topic: TopicId, version: u64, objects: Vec<Path>) {
        if !objects.is_empty() {
            self.retired.push(Retired {
                topic,
                version,
                objects,
            });
        }
    }

    pub(super) fn bury(&mut self, topic: TopicId) {
        self.gone.insert(topic);
    }

    /// Takes out what nobody reads by any more.
    fn take_unread(&mut self) -> Vec<Path> {
        let manifests = &self.manifests;
        let is_read = |retired: &Retired| {
            let held = manifests.get(&retired.topic).into_iter().flatten();
            held.filter_map(Weak::upgrade)
                .any(|manifest| manifest.manifest().version < retired.version)
        };
        let (kept, unread) = std::mem::take(&mut self.retired)
            .into_iter()
            .partition(is_read);
        self.retired = kept;
        unread
            .into_iter()
            .flat_map(|retired| retired.objects)
            .collect()
    }
}

fn tombstone_key(topic: TopicId) -> String {
    format!("topic/{topic}/gone")
}

pub(super) fn topic_of_tombstone(key: &str) -> Option<TopicId> {
    let id = key.strip_prefix("topic/")?.strip_suffix("/gone")?;
    id.parse().ok().map(TopicId)
}

fn topic_of_object(path: &Path) -> Option<TopicId> {
    let mut parts = path.parts();
    let is_ours = parts.next()?.as_ref() == "topics";
    let id = parts.next().filter(|_| is_ours)?;
    id.as_ref().parse().ok().map(TopicId)
}

impl Cold {
    pub(super) fn garbage(&self) -> MutexGuard<'_, Garbage> {
        self.garbage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the topic was forgotten: what is still found of it is nobody's.
    #[must_use]
    pub fn is_gone(&self, topic: TopicId) -> bool {
        self.garbage().gone.contains(&topic)
    }

    /// Removes the objects that were replaced and that no reader needs any more. What can not be removed
    /// now is an orphan, which the sweep at the next start finds.
    pub async fn remove_garbage(&self) {
        let unread = self.garbage().take_unread();
        for path in unread {
            self.forget_file(path.as_ref());
            match self.objects.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::debug!(%path, %error, "a replaced object stays"),
            }
        }
    }

    /// Removes objects below the topics' folders that no valid manifest names, and answers how many. They
    /// are what a crash left between putting an object and naming it, or between un-naming and removing.
    ///
    /// # Errors
    /// [`TierError`] when the store does not answer; what is left is found by the next sweep.
    pub async fn sweep(&self) -> Result<u64, TierError> {
        self.release().await?;
        let _turn = self.turn.lock().await;
        let mut removed = 0;
        for path in self.orphans().await? {
            match self.objects.delete(&path).await {
                Ok(()) => removed += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(objects_failed(format!("remove {path}"))(source)),
            }
        }
        Ok(removed)
    }

    /// Objects that neither a valid manifest nor a reader needs.
    pub(super) async fn orphans(&self) -> Result<Vec<Path>, TierError> {
        let listed: Vec<_> = self
            .objects
            .list(Some(&Path::from("topics")))
            .try_collect()
            .await
            .map_err(objects_failed("list the files of topics"))?;
        let mut needed: HashSet<Path> = {
            let garbage = self.garbage();
            let waiting = garbage.retired.iter().flat_map(|retired| &retired.objects);
            waiting.cloned().collect()
        };
        let mut seen = HashSet::new();
        let mut orphans = Vec::new();
        for object in listed {
            let Some(topic) = topic_of_object(&object.location) else {
                continue;
            };
            if seen.insert(topic) {
                // By the pointer, not by what is in memory: a swap may have happened unanswered.
                let (manifest, pointer) = self.current(topic).await?;
                if let Some(pointer) = pointer {
                    needed.insert(pointer.path(topic));
                    needed.extend(named(topic, manifest.manifest()));
                }
            }
            if !needed.contains(&object.location) {
                orphans.push(object.location);
            }
        }
        Ok(orphans)
    }

    /// Forgets a topic: a tombstone first, then its pointer, then every object below its folder. Doing it
    /// again changes nothing.
    ///
    /// # Errors
    /// [`TierError`] when something is left: call it again.
    pub async fn forget(&self, topic: TopicId) -> Result<(), TierError> {
        let _turn = self.turn.lock().await;
        let tombstone = tombstone_key(topic);
        while self.meta.get(&tombstone)?.is_none() {
            self.meta.compare_and_swap(&tombstone, None, Some(b""))?;
        }
        self.garbage().bury(topic);
        let key = pointer_key(topic);
        while let Some(pointer) = self.meta.get(&key)? {
            self.meta
                .compare_and_swap(&key, Some(pointer.version), None)?;
        }
        self.members().remove(&topic);
        if let Some(manifest) = self.manifests().remove(&topic) {
            for file in &manifest.manifest().files {
                self.forget_file(&file.key);
            }
        }
        let what = || format!("remove the files of topic {topic}");
        let listed: Vec<_> = self
            .objects
            .list(Some(&topic_folder(topic)))
            .try_collect()
            .await
            .map_err(objects_failed(what()))?;
        for object in listed {
            match self.objects.delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(objects_failed(what())(source)),
            }
        }
        Ok(())
    }

    /// Takes away the tombstones of topics of which the log holds nothing any more.
    ///
    /// The first call that meets a tombstone writes `durable` on it, a position per WAL; a later one takes
    /// it away once every WAL begins behind that.
    ///
    /// # Errors
    /// [`TierError`] when the metadata store does not answer.
    pub(crate) fn unbury(&self, durable: &[u64], begins: &[u64]) -> Result<(), TierError> {
        let mut gone: Vec<TopicId> = self.garbage().gone.iter().copied().collect();
        gone.sort_unstable();
        for topic in gone {
            let key = tombstone_key(topic);
            let Some(tombstone) = self.meta.get(&key)? else {
                continue;
            };
            let positions = std::str::from_utf8(&tombstone.value).unwrap_or_default();
            let positions: Vec<u64> = positions
                .split(' ')
                .filter_map(|position| position.parse().ok())
                .collect();
            if positions.len() != begins.len() {
                let text: Vec<String> = durable.iter().map(u64::to_string).collect();
                let text = text.join(" ");
                self.meta
                    .compare_and_swap(&key, Some(tombstone.version), Some(text.as_bytes()))?;
            } else if positions
                .iter()
                .zip(begins)
                .all(|(last, begin)| last <= begin)
                && !self.has_lanes(topic)
            {
                self.meta
                    .compare_and_swap(&key, Some(tombstone.version), None)?;
                self.garbage().gone.remove(&topic);
            }
        }
        Ok(())
    }
}
