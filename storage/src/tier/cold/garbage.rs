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

/// Removals of one call that may fail before it gives up: the store does not answer then.
const FAILURES_MAX: u32 = 8;
/// How often it is tried to remove what a change has retired; no more than [`FAILURES_MAX`], so that it can not pile up in
/// memory where nothing may be removed.
const TRIES_MAX: u32 = 8;

/// What waits to be removed, and who keeps it.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    /// Every manifest that some reader may hold.
    pub(super) manifests: HashMap<TopicId, Vec<Weak<Index>>>,
    retired: Vec<Retired>,
    gone: HashSet<TopicId>,
}

/// Objects that manifests below `version` name and later ones do not.
#[derive(Debug)]
struct Retired {
    topic: TopicId,
    version: u64,
    objects: Vec<Path>,
    /// How often it was tried in vain to remove them.
    tries: u32,
}

/// Objects that nobody reads by any more, and the change that has retired them: its topic and version.
struct Unread {
    change: (TopicId, u64),
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
                tries: 0,
            });
        }
    }

    pub(super) fn bury(&mut self, topic: TopicId) {
        self.gone.insert(topic);
    }

    /// What nobody reads by any more.
    fn unread(&self) -> Vec<Unread> {
        let is_read = |retired: &&Retired| {
            let held = self.manifests.get(&retired.topic).into_iter().flatten();
            held.filter_map(Weak::upgrade)
                .any(|manifest| manifest.manifest().version < retired.version)
        };
        let unread = self.retired.iter().filter(|retired| !is_read(retired));
        let unread = unread.map(|retired| Unread {
            change: (retired.topic, retired.version),
            objects: retired.objects.clone(),
        });
        unread.collect()
    }

    fn place(&self, change: (TopicId, u64)) -> Option<usize> {
        let is_its = |retired: &Retired| (retired.topic, retired.version) == change;
        self.retired.iter().position(is_its)
    }

    /// Notes that an object that a change has retired is removed.
    fn removed(&mut self, change: (TopicId, u64), removed: &Path) {
        if let Some(at) = self.place(change)
            && let Some(retired) = self.retired.get_mut(at)
        {
            retired.objects.retain(|path| path != removed);
            if retired.objects.is_empty() {
                self.retired.remove(at);
            }
        }
    }

    /// Lets what a change has retired wait behind the others, because an object could not be removed; or leaves it to the
    /// next start.
    fn put_off(&mut self, change: (TopicId, u64)) {
        let Some(at) = self.place(change) else {
            return;
        };
        let mut retired = self.retired.remove(at);
        retired.tries += 1;
        if retired.tries < TRIES_MAX {
            self.retired.push(retired);
        } else {
            let (topic, count) = (retired.topic, retired.objects.len());
            tracing::warn!(%topic, count, "replaced objects can not be removed; the next start tries again");
        }
    }

    /// Objects of a topic that were let go of and may still be there, and those that readers may still ask for: after a
    /// swap without an answer nobody has noted what it let go of.
    fn waiting(&self, topic: TopicId) -> HashSet<Path> {
        let retired = self.retired.iter().filter(|retired| retired.topic == topic);
        let objects = retired.flat_map(|retired| &retired.objects);
        let mut objects: HashSet<Path> = objects.cloned().collect();
        let held = self.manifests.get(&topic).into_iter().flatten();
        for manifest in held.filter_map(Weak::upgrade) {
            objects.extend(named(topic, manifest.manifest()));
        }
        objects
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.retired.is_empty()
    }

    /// Drops what is known of a topic of which no object is left; that it is gone stays known.
    fn clear(&mut self, topic: TopicId) {
        self.manifests.remove(&topic);
        self.retired.retain(|retired| retired.topic != topic);
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

    /// Removes the objects that were replaced and that no reader needs any more. What can not be removed now is tried
    /// again by later calls; it is forgotten only once it is gone, since whoever calls may be stopped meanwhile.
    pub async fn remove_garbage(&self) {
        let mut failed = 0;
        let unread = self.garbage().unread();
        for Unread { change, objects } in unread {
            for path in objects {
                self.forget_file(path.as_ref());
                match self.objects.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {
                        self.garbage().removed(change, &path);
                    }
                    Err(error) => {
                        tracing::debug!(%path, %error, "a replaced object stays for now");
                        self.garbage().put_off(change);
                        failed += 1;
                        break;
                    }
                }
            }
            if failed == FAILURES_MAX {
                return;
            }
        }
    }

    /// Removes what lies in the folder of a topic or a family and its manifest does not name, and answers how many files
    /// of messages stay all the same: a reader holds them, or they could not be removed. Whoever calls has the turn.
    pub(super) async fn remove_unnamed(&self, owner: TopicId) -> Result<u64, TierError> {
        let listed: Vec<_> = self
            .objects
            .list(Some(&topic_folder(owner)))
            .try_collect()
            .await
            .map_err(objects_failed(format!("list the files of topic {owner}")))?;
        let (manifest, pointer) = self.current(owner).await?;
        let mut named = named(owner, manifest.manifest());
        named.extend(pointer.map(|pointer| pointer.path(owner)));
        let waiting = self.garbage().waiting(owner);
        let mut held = 0;
        for object in listed {
            let path = object.location;
            if named.contains(&path) {
                continue;
            }
            if waiting.contains(&path) {
                held += u64::from(path.extension() == Some("parquet"));
                continue;
            }
            self.forget_file(path.as_ref());
            match self.objects.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(objects_failed(format!("remove {path}"))(source)),
            }
        }
        Ok(held)
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
        self.garbage().clear(topic);
        self.forget_hint(topic);
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
