//! What was let go of stays for a while, so that outside readers that planned before can finish.
//!
//! Our own readers hold the manifest that they began with, and are waited for. Outsiders (whoever reads a topic's Iceberg
//! table or its files) can not be asked, so they get a *grace time*: what a manifest does not name any more is
//! listed in it as waiting until then, and so is no orphan. Snapshots stay in the table's metadata as long as
//! their files do.
//!
//! **Invariants.** Nothing that waits is removed before its time, by the clock that is passed in, but by those who promise
//! that it is gone when they return: erasing, and deleting a topic. A snapshot whose files go has left the metadata with the
//! same swap.
//!
//! Times are rounded up to whole minutes, so that a manifest has few of them. Objects of a table's metadata alone are no
//! reason to write a manifest: they go with the next change.

use std::collections::BTreeSet;
use std::sync::Arc;

use millpond_proto::message::TopicId;
use millpond_proto::time::Clock;
use object_store::path::Path;

use crate::error::TierError;
use crate::format::manifest::{Manifest, Waiting};
use crate::tier::cold::{Cold, shown_by, topic_folder};

/// Times are multiples of it.
const STEP_MS: i64 = 60_000;

/// How long outside readers have, and who says what time it is.
#[derive(Debug)]
pub(super) struct Grace {
    clock: Arc<dyn Clock>,
    ms: i64,
}

/// How a change parts with what it lets go of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parting {
    /// It goes as soon as none of our own readers needs it.
    AtOnce,
    /// It waits for outside readers.
    Later { now_ms: i64, grace_ms: i64 },
}

impl Parting {
    /// Takes out of `next` what has waited long enough, and answers the version up to which snapshots go with it.
    pub(super) fn begin(self, current: &Manifest, next: &mut Manifest) -> u64 {
        let Self::Later { now_ms, .. } = self else {
            let loses_files = {
                let kept: BTreeSet<&str> = next.files.iter().map(|f| f.key.as_str()).collect();
                let mut before = current.files.iter();
                before.any(|file| !kept.contains(file.key.as_str()))
            };
            let waited = std::mem::take(&mut next.waiting);
            let is_lost = loses_files || waited.iter().any(Waiting::has_files);
            return if is_lost { current.version } else { 0 };
        };
        let is_over = |waiting: &Waiting| waiting.until_ms <= now_ms;
        let over = next.waiting.iter().filter(|w| is_over(w) && w.has_files());
        let gone_up_to = over.map(|waiting| waiting.version).max().unwrap_or(0);
        next.waiting.retain(|waiting| !is_over(waiting));
        gone_up_to
    }

    /// Lists as waiting what `next` does not show any more.
    pub(super) fn finish(self, topic: TopicId, current: &Manifest, next: &mut Manifest) {
        let Self::Later { now_ms, grace_ms } = self else {
            return;
        };
        let kept = shown_by(topic, next);
        let folder = topic_folder(topic);
        let keys: Vec<String> = shown_by(topic, current)
            .difference(&kept)
            .filter_map(|path| {
                path.as_ref()
                    .strip_prefix(folder.as_ref())?
                    .strip_prefix('/')
            })
            .map(str::to_owned)
            .collect();
        if keys.is_empty() {
            return;
        }
        let until_ms = now_ms.saturating_add(grace_ms).saturating_add(STEP_MS - 1);
        let until_ms = until_ms.div_euclid(STEP_MS) * STEP_MS;
        match next.waiting.last_mut() {
            Some(last) if last.until_ms == until_ms => {
                last.version = current.version;
                last.keys.extend(keys);
            }
            _ => next.waiting.push(Waiting {
                version: current.version,
                until_ms,
                keys,
            }),
        }
    }
}

/// What waits, as objects.
pub(super) fn paths(topic: TopicId, manifest: &Manifest) -> impl Iterator<Item = Path> {
    let folder = topic_folder(topic);
    let keys = manifest.waiting.iter().flat_map(|waiting| &waiting.keys);
    keys.map(move |key| Path::from(format!("{folder}/{key}")))
}

impl Cold {
    /// Says how long what is let go of stays for outside readers; until then, and with 0, it does not. The first call
    /// counts.
    pub fn set_grace(&self, clock: Arc<dyn Clock>, grace_ms: i64) {
        if grace_ms > 0 {
            // A later call finds it set.
            let _ = self.grace.set(Grace {
                clock,
                ms: grace_ms,
            });
        }
    }

    pub(super) fn parting(&self) -> Parting {
        match self.grace.get() {
            Some(grace) => Parting::Later {
                now_ms: grace.clock.now().as_ms(),
                grace_ms: grace.ms,
            },
            None => Parting::AtOnce,
        }
    }

    /// Lets go of files that have waited long enough, topic by topic.
    pub(super) async fn release(&self) -> Result<(), TierError> {
        let is_due = |manifest: &Manifest| {
            let mut waiting = manifest.waiting.iter().filter(|w| w.has_files());
            waiting.any(|waiting| match self.parting() {
                Parting::AtOnce => true,
                Parting::Later { now_ms, .. } => waiting.until_ms <= now_ms,
            })
        };
        let due: Vec<TopicId> = {
            let manifests = self.manifests();
            let due = manifests.iter().filter(|(_, m)| is_due(m.manifest()));
            due.map(|(topic, _)| *topic).collect()
        };
        for topic in due {
            let _turn = self.turn.lock().await;
            if self.is_gone(topic) {
                continue;
            }
            let (current, expected) = self.current(topic).await?;
            if is_due(current.manifest()) {
                let next = current.manifest().clone();
                self.swap(topic, current, expected, next).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
