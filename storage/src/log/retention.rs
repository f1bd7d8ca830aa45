//! Keeping a topic within a time or a size: choosing what to let go, and letting go of it.
//!
//! **Invariants.** What is chosen is the oldest: whole files at the front first, and only behind the last of
//! them what is still in the log. The cold tier's manifest says what is kept, also of the log, before anything
//! is dropped; so a crash leaves the old first offset or the new one, and no offset returns.
//!
//! Where the table is kept for another time than the log, what either of both keeps stays: a file that only the log keeps is
//! hidden from the table, and what only the table keeps lies below the log's first offset.
//!
//! Files are kept or dropped whole: a topic may hold up to one file more than it should.

use std::collections::BTreeMap;
use std::ops::Range;

use millpond_proto::message::{Offset, QueueId, TopicId};

use crate::error::{ReadError, TierError};
use crate::log::read::Hot;
use crate::log::{Keep, KeepTable, ReadLimit, Storage, TopicSizes, Trimmed};
use crate::tier::cold::compaction::{Compacted, Compaction};
use crate::tier::cold::retention::{FileAge, raise};

impl Storage {
    pub(crate) async fn retain_within(
        &self,
        topic: TopicId,
        keep: Keep,
    ) -> Result<Trimmed, TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        let before = self.extents(topic);
        let Chosen {
            ages,
            mut files,
            mut firsts,
        } = self.choose(topic, keep).await?;
        if let Some(table) = keep.table {
            // What one of both keeps stays; the other one begins behind it.
            let table_files = beyond(&ages, table);
            let (hidden, logged) = (oldest(&ages, table_files), oldest(&ages, files));
            let mut log_firsts = self.cold.ends_of(topic, logged);
            log_firsts.append(&mut firsts);
            self.cold.set_apart(topic, hidden, &log_firsts).await?;
            files = files.min(table_files);
        }
        if files > 0 || !firsts.is_empty() {
            self.cold.trim(topic, oldest(&ages, files), &firsts).await?;
            let mut index = self.view.index_mut();
            for (&queue, &first) in &firsts {
                index.drop_below((topic, QueueId(queue)), first);
            }
        }
        let gone = self.gone_since(topic, &before);
        Ok(Trimmed {
            messages: gone,
            files: files as u64,
            bytes: ages.iter().take(files).map(|file| file.bytes).sum(),
        })
    }

    /// Keeps topics of one family within their times and sizes, with one change for all of them: of a shared file each
    /// lets go of its part.
    pub(crate) async fn retain_family(
        &self,
        family: TopicId,
        keeps: &[(TopicId, Keep)],
    ) -> Result<Trimmed, TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        let (mut all, mut trimmed, mut before) = (BTreeMap::new(), Trimmed::default(), Vec::new());
        for &(topic, keep) in keeps {
            let Chosen {
                ages,
                files,
                firsts,
            } = self.choose(topic, keep).await?;
            let mut below = self.cold.ends_of(topic, oldest(&ages, files));
            raise(&mut below, &firsts);
            if below.is_empty() {
                continue;
            }
            before.push((topic, self.extents(topic)));
            trimmed.bytes += ages.iter().take(files).map(|file| file.bytes).sum::<u64>();
            let below = below.into_iter();
            all.extend(below.map(|(queue, first)| ((topic, QueueId(queue)), first)));
        }
        if all.is_empty() {
            return Ok(trimmed);
        }
        let files = self.cold.ages(family).len();
        self.cold.trim_family(family, &all).await?;
        {
            let mut index = self.view.index_mut();
            for (&place, &first) in &all {
                index.drop_below(place, first);
            }
        }
        trimmed.files = files.saturating_sub(self.cold.ages(family).len()) as u64;
        let gone = before
            .iter()
            .map(|(topic, before)| self.gone_since(*topic, before));
        trimmed.messages = gone.sum();
        Ok(trimmed)
    }

    /// Messages that a topic had and has no more.
    fn gone_since(&self, topic: TopicId, before: &BTreeMap<QueueId, Range<u64>>) -> u64 {
        let after = self.extents(topic);
        let gone = before.iter().map(|(queue, before)| {
            let first = after.get(queue).map_or(before.end, |after| after.start);
            first.saturating_sub(before.start)
        });
        gone.sum()
    }

    /// What a topic is to let go of.
    async fn choose(&self, topic: TopicId, keep: Keep) -> Result<Chosen, TierError> {
        let ages = self.cold.ages(topic);
        let is_old = |at: Option<i64>| {
            keep.stored_from_ms
                .zip(at)
                .is_some_and(|(from, at)| at < from)
        };
        let mut files = ages
            .iter()
            .take_while(|file| is_old(file.stored_last_ms))
            .count();

        let mut firsts = BTreeMap::new();
        if let Some(bytes_max) = keep.bytes_max {
            let hot_bytes = self.view.index().bytes_of(topic);
            let behind = |files: usize| ages.iter().skip(files).map(|f| f.bytes).sum::<u64>();
            while files < ages.len() && hot_bytes + behind(files) > bytes_max {
                files += 1;
            }
            if files == ages.len() && hot_bytes > bytes_max {
                firsts = self.view.index().newest(topic, bytes_max);
            }
        }
        if files == ages.len()
            && let Some(from) = keep.stored_from_ms
        {
            let hot: Vec<_> = self.view.index().queues_of(topic).collect();
            for (queue, offsets) in hot {
                let first = self
                    .first_stored_from(topic, queue, offsets.clone(), from)
                    .await?;
                if first > offsets.start {
                    let known = firsts.entry(queue.0).or_insert(first);
                    *known = first.max(*known);
                }
            }
        }
        Ok(Chosen {
            ages,
            files,
            firsts,
        })
    }

    pub(crate) async fn release_below(
        &self,
        topic: TopicId,
        firsts: &BTreeMap<QueueId, Offset>,
    ) -> Result<(), TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        let by_queue = firsts.iter().map(|(queue, first)| (queue.0, first.0));
        self.cold.trim(topic, &[], &by_queue.collect()).await?;
        let mut index = self.view.index_mut();
        for (&queue, first) in firsts {
            index.drop_below((topic, queue), first.0);
        }
        Ok(())
    }

    fn extents(&self, topic: TopicId) -> BTreeMap<QueueId, Range<u64>> {
        let queues = self.queues(topic).into_iter();
        queues
            .map(|(queue, extent)| (queue, extent.first.0..extent.next.0))
            .collect()
    }

    /// The first hot offset stored at or after a time. Store times of a queue never fall, so it is searched
    /// for in halves; of a damaged message the one behind it is asked.
    async fn first_stored_from(
        &self,
        topic: TopicId,
        queue: QueueId,
        offsets: Range<u64>,
        from_ms: i64,
    ) -> Result<u64, TierError> {
        let one = ReadLimit {
            messages: 1,
            bytes: usize::MAX,
        };
        let Range { mut start, mut end } = offsets;
        while start < end {
            // The first one is asked first: mostly nothing is old enough.
            let middle = if start == offsets.start {
                start
            } else {
                start + (end - start) / 2
            };
            let mut at = middle;
            let stored_at_ms = loop {
                if at >= end {
                    break None;
                }
                match self.read_hot(topic, queue, Offset(at), one).await {
                    Ok(Hot::Messages(messages)) => {
                        break messages.first().map(|message| message.stored_at_ms);
                    }
                    Ok(Hot::Elsewhere) => return Ok(start),
                    Err(ReadError::Damaged { .. }) => at += 1,
                    Err(error) => return Err(error.into()),
                }
            };
            match stored_at_ms {
                Some(stored_at_ms) if stored_at_ms < from_ms => start = at + 1,
                _ => end = middle,
            }
        }
        Ok(start)
    }

    pub(crate) async fn compact_topic(
        &self,
        topic: TopicId,
        how: Compaction,
    ) -> Result<Compacted, TierError> {
        let _not_while_tiering = self.tiering.lock().await;
        let has_few = self.cold.ages(topic).len() < how.files_min.max(2);
        // Of a family one file is worth writing anew when most of it is no more.
        if has_few && self.cold.family_of(topic).is_none() && !self.cold.is_family(topic) {
            return Ok(Compacted::default());
        }
        self.cold.compact(topic, how).await
    }

    pub(crate) fn sizes_of_topic(&self, topic: TopicId) -> TopicSizes {
        let (hot_messages, hot_bytes) = {
            let index = self.view.index();
            let queues = index.queues_of(topic);
            let hot_messages = queues.map(|(_, hot)| hot.end - hot.start).sum();
            (hot_messages, index.bytes_of(topic))
        };
        TopicSizes {
            hot_messages,
            hot_bytes,
            cold: self.cold.sizes(topic),
        }
    }
}

/// What a topic is to let go of: its oldest files, and what is hot below `firsts`, offsets by queue.
struct Chosen {
    ages: Vec<FileAge>,
    files: usize,
    firsts: BTreeMap<u32, u64>,
}

/// So many of the oldest files.
fn oldest(ages: &[FileAge], files: usize) -> &[FileAge] {
    ages.get(..files).unwrap_or(ages)
}

/// How many of the oldest files leave a table.
fn beyond(ages: &[FileAge], keep: KeepTable) -> usize {
    let is_old = |file: &&FileAge| {
        keep.stored_from_ms
            .zip(file.stored_last_ms)
            .is_some_and(|(from, at)| at < from)
    };
    let mut files = ages.iter().take_while(is_old).count();
    let mut bytes: u64 = ages.iter().skip(files).map(|file| file.bytes).sum();
    while let Some(file) = ages.get(files)
        && keep.bytes_max.is_some_and(|max| bytes > max)
    {
        bytes -= file.bytes;
        files += 1;
    }
    files
}
