//! Families: many small topics with one set of files, one manifest and one table.
//!
//! A family has an id of its own, by which it has all that a topic has: a folder, a pointer, a manifest, a table. Its topics
//! have nothing; where they are asked for, the family's manifest is looked at by their lanes. So a round that moves
//! messages of a thousand topics puts one file, one manifest and swaps one pointer, as for one topic.
//!
//! **Invariants.** A topic's messages lie in files of its own or in those of one family, never in both: what it has decides,
//! and only where it has nothing what was declared. A deleted topic is not answered for from then on; its lanes are marked
//! with the family's next change ([`Cold::bury_members`] makes one), and its rows leave with the files that they lie in: when
//! nothing in a file is kept, when it is merged, or when most of it is no more. Its tombstone stays until its lanes are marked.
//!
//! Runs are dense: keys of a family are not compacted, so nothing is superseded.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError};

use millpond_proto::message::{Offset, QueueId, TopicId};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::error::TierError;
use crate::format::envelope::Envelope;
use crate::format::family::{Lane, Lanes, settle};
use crate::format::manifest::{File, Index, Manifest, Run, day_of};
use crate::meta::MetaError;
use crate::tier::cold::compaction::MergeError;
use crate::tier::cold::retention::{ColdSizes, FileAge, keys_of};
use crate::tier::cold::{Cold, by_day, file_key, objects_failed, parquet_failed, took};
use crate::tier::family::{Names, Rows, Writer};
use crate::tier::parquet::{self as file, CheckedFile, Made};

/// Offsets of a queue of a topic that are moved.
pub type Moved = (TopicId, QueueId, Range<u64>);

/// Where a queue is found: in which manifest, and by which number there.
pub(super) struct Shelf {
    pub(super) index: Arc<Index>,
    pub(super) lane: u32,
}

/// What a topic of a family has, by the places of files among those of the family.
#[derive(Default)]
struct Share {
    files: BTreeMap<usize, Part>,
    kept: u64,
    present: u64,
}

/// What a topic has in one file.
#[derive(Default)]
struct Part {
    rows: u64,
    /// One past the last offset, by queue.
    ends: BTreeMap<u32, u64>,
}

impl Cold {
    pub(super) fn members(&self) -> MutexGuard<'_, HashMap<TopicId, TopicId>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which topics a manifest answers for.
    pub(super) fn note_members(&self, owner: TopicId, index: &Index) {
        let Some(lanes) = index.lanes() else {
            return;
        };
        let topics: BTreeSet<TopicId> = lanes.kept().map(|(topic, ..)| topic).collect();
        let kept: Vec<TopicId> = topics
            .into_iter()
            .filter(|topic| !self.is_gone(*topic))
            .collect();
        let mut members = self.members();
        members.retain(|_, family| *family != owner);
        members.extend(kept.into_iter().map(|topic| (topic, owner)));
    }

    /// The family whose files a topic shares; none when it has files of its own.
    #[must_use]
    pub fn family_of(&self, topic: TopicId) -> Option<TopicId> {
        if let Some(family) = self.members().get(&topic) {
            return Some(*family);
        }
        if self.manifests().contains_key(&topic) {
            return None;
        }
        self.tables.get()?.tables.family(topic)
    }

    /// Every family that has a manifest, ascending.
    #[must_use]
    pub fn families(&self) -> Vec<TopicId> {
        let manifests = self.manifests();
        let families = manifests
            .iter()
            .filter(|(_, index)| index.lanes().is_some());
        let mut families: Vec<TopicId> = families.map(|(family, _)| *family).collect();
        families.sort_unstable();
        families
    }

    /// Whether an id is that of a family that has a manifest.
    #[must_use]
    pub fn is_family(&self, id: TopicId) -> bool {
        self.manifest(id)
            .is_some_and(|index| index.lanes().is_some())
    }

    pub(super) fn shelf(&self, topic: TopicId, queue: QueueId) -> Option<Shelf> {
        if let Some(index) = self.manifest(topic) {
            let lane = queue.0;
            return Some(Shelf { index, lane });
        }
        let index = self.family_index(topic)?;
        let lane = index.lanes()?.of(topic, queue)?;
        Some(Shelf { index, lane })
    }

    /// The manifest of the family that a topic has messages in.
    pub(super) fn family_index(&self, topic: TopicId) -> Option<Arc<Index>> {
        let family = self.members().get(&topic).copied()?;
        self.manifest(family)
    }

    /// Moves messages of topics of one family into new files, one for each day of store time, and answers their bytes. They
    /// are sorted by topic, queue and offset; all else is as with [`Cold::write`].
    ///
    /// # Errors
    /// [`TierError`]; then the messages are cold or not, which the next write finds out.
    ///
    /// # Panics
    /// When the messages are not sorted.
    pub async fn write_family(
        &self,
        family: TopicId,
        messages: &[Envelope],
        moved: &[Moved],
    ) -> Result<u64, TierError> {
        let _turn = self.turn.lock().await;
        if self.is_gone(family) || (messages.is_empty() && moved.is_empty()) {
            return Ok(0);
        }
        let place = |m: &Envelope| (TopicId(m.topic), QueueId(m.queue), m.offset);
        assert!(
            messages
                .windows(2)
                .all(|two| matches!(two, [one, other] if place(one) < place(other))),
            "messages are moved in the order of topic, queue and offset"
        );
        let (current, expected) = self.current(family).await?;
        let mut next = current.manifest().clone();
        let mut extents = next.extents();
        let mut lanes = Lanes::from(next.family.take().unwrap_or_default());
        let topics: BTreeSet<TopicId> = messages.iter().map(|m| TopicId(m.topic)).collect();
        let names = self.names_of(&topics);
        let gone: BTreeSet<TopicId> = topics.into_iter().filter(|t| self.is_gone(*t)).collect();
        let is_new = |m: &Envelope| {
            let (topic, queue, offset) = place(m);
            let lane = lanes.of(topic, queue);
            let end = lane
                .and_then(|lane| extents.get(&lane))
                .map_or(0, |extent| extent.end);
            offset >= end && !gone.contains(&topic)
        };
        let kept = if messages.iter().all(is_new) {
            Cow::Borrowed(messages)
        } else {
            Cow::Owned(messages.iter().filter(|m| is_new(m)).cloned().collect())
        };
        let full = || no_lane(family);
        for message in kept.iter() {
            let (topic, queue, _) = place(message);
            lanes.give(topic, queue).ok_or_else(full)?;
        }
        let mut bytes = 0;
        for messages in by_day(&kept, is_one_day(&kept)) {
            let key = file_key(family, next.next_file);
            let made = Writer::new(family).and_then(|mut writer| {
                writer.add_messages(&messages, &lanes, &names)?;
                writer.finish(key)
            });
            let made = made.map_err(parquet_failed(family))?;
            let file = self.put_file(family, &mut next.next_file, made).await?;
            bytes += file.bytes;
            took(&mut extents, &file);
            next.files.push(file);
        }
        for (topic, queue, range) in moved {
            let lane = lanes.give(*topic, *queue).ok_or_else(full)?;
            let known = extents.entry(lane).or_insert_with(|| range.clone());
            if current.extent(lane).is_none() {
                known.start = known.start.min(range.start);
            }
            known.end = known.end.max(range.end);
        }
        next.family = Some(lanes.into_family());
        self.swap_settled(family, current, expected, next, extents)
            .await?;
        Ok(bytes)
    }

    /// What topics are called, as far as it is known.
    fn names_of(&self, topics: &BTreeSet<TopicId>) -> Names {
        let name = |topic: &TopicId| Some((*topic, self.tables.get()?.tables.name(*topic)?));
        topics.iter().filter_map(name).collect()
    }

    /// Swaps a family's manifest, without what nobody needs any more, if that changes anything.
    async fn swap_settled(
        &self,
        family: TopicId,
        current: Arc<Index>,
        expected: Option<crate::tier::cold::Pointer>,
        mut next: Manifest,
        mut extents: BTreeMap<u32, Range<u64>>,
    ) -> Result<(), TierError> {
        settle(&mut next, &mut extents, |topic| self.is_gone(topic));
        if next == *current.manifest() {
            return Ok(());
        }
        self.swap(family, current, expected, next).await
    }

    /// Lets go of everything below `firsts` in topics of a family, also where it was never cold. Doing it again changes
    /// nothing.
    ///
    /// # Errors
    /// [`TierError`]; then it is done or not, which the next call finds out.
    pub async fn trim_family(
        &self,
        family: TopicId,
        firsts: &BTreeMap<(TopicId, QueueId), u64>,
    ) -> Result<(), TierError> {
        let _turn = self.turn.lock().await;
        let kept = firsts
            .iter()
            .filter(|((topic, _), _)| !self.is_gone(*topic));
        let kept: Vec<_> = kept.collect();
        if self.is_gone(family) || kept.is_empty() {
            return Ok(());
        }
        let (current, expected) = self.current(family).await?;
        let mut next = current.manifest().clone();
        let mut extents = next.extents();
        let mut lanes = Lanes::from(next.family.take().unwrap_or_default());
        for (&(topic, queue), &first) in kept {
            let lane = lanes.give(topic, queue).ok_or_else(|| no_lane(family))?;
            let extent = extents.entry(lane).or_insert(first..first);
            extent.start = extent.start.max(first);
            extent.end = extent.end.max(first);
        }
        next.family = Some(lanes.into_family());
        self.swap_settled(family, current, expected, next, extents)
            .await
    }

    /// Marks the lanes of topics that were deleted, so that their tombstones are not needed for them any more.
    ///
    /// # Errors
    /// [`TierError`]; the next call goes on.
    pub async fn bury_members(&self) -> Result<(), TierError> {
        for family in self.families() {
            let index = self.manifest(family);
            let Some(lanes) = index.as_ref().and_then(|index| index.lanes()) else {
                continue;
            };
            if !lanes.kept().any(|(topic, ..)| self.is_gone(topic)) {
                continue;
            }
            drop(index);
            let _turn = self.turn.lock().await;
            let (current, expected) = self.current(family).await?;
            let next = current.manifest().clone();
            let extents = next.extents();
            self.swap_settled(family, current, expected, next, extents)
                .await?;
        }
        Ok(())
    }

    /// Whether a family still answers for a topic, though it was deleted.
    pub(super) fn has_lanes(&self, topic: TopicId) -> bool {
        let manifests = self.manifests();
        let mut lanes = manifests.values().filter_map(|index| index.lanes());
        lanes.any(|lanes| lanes.of_topic(topic).next().is_some())
    }

    fn share(&self, index: &Index, topic: TopicId) -> Share {
        let mut share = Share::default();
        for (queue, lane) in index
            .lanes()
            .into_iter()
            .flat_map(|lanes| lanes.of_topic(topic))
        {
            let Some(extent) = index.extent(lane) else {
                continue;
            };
            share.kept += extent.end - extent.start;
            for (file, run) in index.runs_by_file(lane) {
                let offsets = run.offsets();
                let kept = offsets.end.saturating_sub(offsets.start.max(extent.start));
                if kept == 0 {
                    continue;
                }
                share.present += kept;
                let part = share.files.entry(file).or_default();
                part.rows += run.count;
                part.ends.insert(queue.0, offsets.end);
            }
        }
        share
    }

    /// As [`Cold::ages`], of a topic in a family: its part of each file.
    pub(super) fn ages_in(&self, index: &Index, topic: TopicId) -> Vec<FileAge> {
        let files = &index.manifest().files;
        let share = self.share(index, topic).files.into_iter();
        let age = |(place, part): (usize, Part)| {
            let file: &File = files.get(place)?;
            Some(FileAge {
                key: file.key.clone(),
                bytes: part_of(file, part.rows),
                stored_last_ms: file.stored_last_ms,
            })
        };
        share.filter_map(age).collect()
    }

    /// As [`Cold::sizes`], of a topic in a family.
    pub(super) fn sizes_in(&self, index: &Index, topic: TopicId) -> ColdSizes {
        let share = self.share(index, topic);
        let files = &index.manifest().files;
        let bytes = share.files.iter().filter_map(|(place, part)| {
            let file = files.get(*place)?;
            Some(part_of(file, part.rows))
        });
        ColdSizes {
            files: share.files.len() as u64,
            bytes: bytes.sum(),
            messages: share.present,
            lost: share.kept.saturating_sub(share.present),
            superseded: 0,
        }
    }

    /// As [`Cold::ends_of`], of a topic in a family.
    pub(super) fn ends_in(
        &self,
        index: &Index,
        topic: TopicId,
        files: &[FileAge],
    ) -> BTreeMap<u32, u64> {
        let keys = keys_of(files);
        let named = &index.manifest().files;
        let is_chosen = |place: usize| {
            let file = named.get(place);
            file.is_some_and(|file| keys.contains(file.key.as_str()))
        };
        let parts = self.share(index, topic).files.into_iter();
        let parts = parts.filter(|(place, _)| is_chosen(*place));
        parts.flat_map(|(_, part)| part.ends).collect()
    }

    /// A copy of a file in memory, checked.
    pub(super) async fn copy_of(
        &self,
        source: &File,
    ) -> Result<(CheckedFile, ArrowReaderMetadata), MergeError> {
        let damaged = |error| MergeError::unreadable(source, error);
        let bytes = CheckedFile::new(&self.objects, source)
            .all()
            .await
            .map_err(damaged)?;
        let copies: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        copies
            .put(&Path::from(source.key.as_str()), bytes.into())
            .await
            .map_err(|error| MergeError::Tier(objects_failed("copy a file")(error)))?;
        let copy = CheckedFile::new(&copies, source);
        let footer = file::footer(copy.clone(), source).await.map_err(damaged)?;
        Ok((copy, footer))
    }

    /// Files of a family as one, without what is not kept any more; none when nothing is left.
    pub(super) async fn merge_family(
        &self,
        family: TopicId,
        files: &[File],
        current: &Index,
        number: u64,
    ) -> Result<Option<Made>, MergeError> {
        let mut sources = Vec::new();
        let mut runs: Vec<(Lane, Run, usize)> = Vec::new();
        for (place, source) in files.iter().enumerate() {
            let (copy, footer) = self.copy_of(source).await?;
            let rows = Rows::open(copy, footer);
            sources.push((source, rows.map_err(|e| MergeError::unreadable(source, e))?));
            for run in &source.runs {
                let lane = current.lanes().and_then(|lanes| lanes.get(run.queue));
                runs.extend(lane.map(|lane| (lane, *run, place)));
            }
        }
        // Each file has its runs in this order, so it is read once and forward.
        runs.sort_by_key(|(lane, run, _)| (lane.place(), run.base));
        let failed = |error| MergeError::Tier(parquet_failed(family)(error));
        let mut made = Writer::new(family).map_err(failed)?;
        for (lane, run, place) in runs {
            let Some((source, rows)) = sources.get_mut(place) else {
                continue;
            };
            let damaged = |error| MergeError::unreadable(source, error);
            let first = current.extent(lane.lane).map_or(0, |extent| extent.start);
            for (offsets, batch) in rows.take(run, lane).await.map_err(damaged)? {
                let from = first.clamp(offsets.start, offsets.end);
                let skipped = usize::try_from(from - offsets.start).unwrap_or(batch.num_rows());
                let batch = batch.slice(skipped, batch.num_rows() - skipped);
                made.add_rows(lane.lane, from..offsets.end, batch)
                    .map_err(failed)?;
            }
        }
        if made.is_empty() {
            return Ok(None);
        }
        made.stored_within(files);
        made.finish(file_key(family, number))
            .map(Some)
            .map_err(failed)
    }
}

fn part_of(file: &File, rows: u64) -> u64 {
    let part = u128::from(file.bytes) * u128::from(rows) / u128::from(file.rows.max(1));
    u64::try_from(part).unwrap_or(file.bytes)
}

fn is_one_day(messages: &[Envelope]) -> bool {
    let mut days = messages.iter().map(|message| day_of(message.stored_at_ms));
    let first = days.next();
    days.all(|day| Some(day) == first)
}

fn no_lane(family: TopicId) -> TierError {
    TierError::Meta(MetaError {
        detail: format!(
            "family {family} has had as many queues as it can number; give new topics another family"
        ),
    })
}

/// Every queue of a family's topics that has or had cold offsets, by topic and queue.
pub(super) fn queues_of(index: &Index) -> Vec<(TopicId, QueueId, Range<Offset>)> {
    let lanes = index.lanes().into_iter().flat_map(Lanes::kept);
    let queue = |(topic, queue, lane)| {
        let extent = index.extent(lane)?;
        Some((topic, queue, Offset(extent.start)..Offset(extent.end)))
    };
    lanes.filter_map(queue).collect()
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
