//! Erasing what was sent under a key: gone from every file when it returns.
//!
//! **Invariants.** An erased message keeps its place, its times and its id and nothing else: no body, keys, properties,
//! group or typed columns, so offsets stay as they are and readers go on. The files that held it are written anew and swapped in
//! at once; a crash leaves all of the old files or all of the new ones. Doing it again changes nothing. Outside readers
//! get no time for the old ones, nor for what waits for them already: it may hold what is erased. That nothing is held is said
//! only when no file is there but those of the manifest.
//!
//! It does not know what a message of its own kind must keep to be of use: who calls says what is left of each. It does not
//! reach the log: what is to be erased is moved to the cold tier first, and the segments that held it are removed after
//! ([`crate::log::shred`]).

use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use futures::StreamExt as _;
use millpond_proto::message::TopicId;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::errors::ParquetError;

use crate::error::TierError;
use crate::format::columns::{from_batch, to_batch};
use crate::format::envelope::Envelope;
use crate::format::manifest::{File, Index, Run};
use crate::tier::cold::compaction::MergeError;
use crate::tier::cold::sparse::Walk;
use crate::tier::cold::waiting::Parting;
use crate::tier::cold::{Cold, file_key, objects_failed, parquet_failed};
use crate::tier::columns::with_typed;
use crate::tier::family::{Rows, Writer, with_topics_of};
use crate::tier::parquet::{self as file, CheckedFile, Made, Merge};

/// What is left of a message that was sent under a key; none when the message stays as it is.
pub type Rest<'a> = &'a (dyn Fn(&Envelope) -> Option<Envelope> + Send + Sync);

/// What is erased: of which topic, what was sent under which key, and what is left of it.
#[derive(Clone, Copy)]
struct What<'a> {
    topic: TopicId,
    key: &'a [u8],
    rest: Rest<'a>,
}

/// A message with nothing but its place, its times and its id.
#[must_use]
pub fn emptied(message: &Envelope) -> Envelope {
    Envelope {
        topic: message.topic,
        queue: message.queue,
        offset: message.offset,
        stored_at_ms: message.stored_at_ms,
        born_at_ms: message.born_at_ms,
        message_id: message.message_id.clone(),
        ..Envelope::default()
    }
}

/// What an erasure did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Messages that were erased.
    pub messages: u64,
    /// Files that were written anew.
    pub files: u64,
    /// Files that the topic, or its family, no longer consists of and that are still there, whichever change replaced
    /// them: a reader holds them, and they go when it is done.
    pub held: u64,
    /// Bytes of the log that may still hold what was erased; see [`crate::log::shred`].
    pub log_bytes: u64,
}

impl Erased {
    /// Adds what another one did.
    pub fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.files += other.files;
        self.held += other.held;
        self.log_bytes += other.log_bytes;
    }
}

impl Cold {
    /// Erases the messages of a topic that were sent under a key: those it routed, those of its message group, and
    /// those that have it among their look-up keys. `rest` says what is left of each, for example [`emptied`].
    ///
    /// # Errors
    /// [`TierError`]; then nothing was erased, for example because a file is damaged, or it was and old files may be left,
    /// because the store does not answer: the next call finds out.
    pub async fn erase(
        &self,
        topic: TopicId,
        key: &[u8],
        rest: Rest<'_>,
    ) -> Result<Erased, TierError> {
        let _turn = self.turn.lock().await;
        let owner = self.family_of(topic).unwrap_or(topic);
        let what = What { topic, key, rest };
        let mut erased = Erased::default();
        if self.is_gone(topic) {
            return Ok(erased);
        }
        let (current, expected) = self.current(owner).await?;
        let mut next = current.manifest().clone();
        for at in 0..next.files.len() {
            let Some(source) = next.files.get(at).cloned() else {
                break;
            };
            let (count, made) = if current.lanes().is_some() {
                let number = next.next_file;
                self.without_in_family(owner, &current, &source, what, number)
                    .await?
            } else {
                self.without(&source, what, next.next_file).await?
            };
            let Some(made) = made else { continue };
            let file = self.put_file(owner, &mut next.next_file, made).await?;
            erased.messages += count;
            erased.files += 1;
            if let Some(place) = next.files.get_mut(at) {
                *place = file;
            }
        }
        // What waits for outside readers may hold the key too, and goes in any case.
        if erased.files > 0 || !next.waiting.is_empty() {
            self.swap_parting(owner, current, expected, next, Parting::AtOnce)
                .await?;
        } else {
            // Who has it is a reader too.
            drop(current);
            self.remove_garbage().await;
        }
        // Not only what this call replaced: an earlier one, or a merge, may have left a file with the key.
        erased.held = self.remove_unnamed(owner).await?;
        Ok(erased)
    }

    /// A file without what was sent under a key, and how many messages that were; none when it holds none.
    async fn without(
        &self,
        source: &File,
        what: What<'_>,
        number: u64,
    ) -> Result<(u64, Option<Made>), TierError> {
        let topic = what.topic;
        let failed = |error| match file::store_error(error) {
            Ok(error) => objects_failed(format!("read {}", source.key))(error),
            Err(error) => parquet_failed(topic)(error),
        };
        let bytes = CheckedFile::new(&self.objects, source).all().await;
        let copies: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = Path::from(source.key.as_str());
        copies
            .put(&path, bytes.map_err(failed)?.into())
            .await
            .map_err(objects_failed("copy a file"))?;
        let copy = CheckedFile::new(&copies, source);
        let footer = file::footer(copy.clone(), source).await.map_err(failed)?;
        let all = 0..source.rows;
        let keys = ["key", "keys", "message_group"];
        let mut batches =
            file::batches(copy.clone(), footer.clone(), all, &keys).map_err(failed)?;
        let mut holds_key = false;
        while let Some(batch) = batches.next().await {
            let rows = matching(&batch.map_err(failed)?, what.key).map_err(failed)?;
            holds_key |= rows.contains(&true);
        }
        if !holds_key {
            return Ok((0, None));
        }
        let mut count = 0;
        let typed = self.columns_of(topic);
        let columns = file::column_names();
        let names: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let mut merge = Merge::new(topic, typed.as_deref()).map_err(failed)?;
        for run in &source.runs {
            let mut batches = file::batches(copy.clone(), footer.clone(), run.rows(), &columns)
                .map_err(failed)?;
            let mut walk = Walk::new(*run);
            while let Some(batch) = batches.next().await {
                let batch = batch.and_then(|batch| file::arrange(&batch, &names));
                let batch = batch
                    .and_then(|batch| {
                        let (erased, batch) = erased(&batch, what, &columns)?;
                        count += erased;
                        Ok(batch)
                    })
                    .and_then(|batch| match typed.as_deref() {
                        Some(typed) => Ok(with_typed(&batch, typed)?),
                        None => Ok(batch),
                    })
                    .map_err(failed)?;
                let offsets = walk.next(&batch).map_err(failed)?;
                merge.add(run.queue, offsets, &batch).map_err(failed)?;
            }
        }
        if count == 0 {
            return Ok((0, None));
        }
        let (first, last) = (source.stored_first_ms, source.stored_last_ms);
        let made = merge.finish(file_key(topic, number), first, last);
        let mut made = made.map_err(failed)?;
        made.file.compacted = source.compacted;
        made.file.hidden = source.hidden;
        Ok((count, Some(made)))
    }
}

impl Cold {
    /// As [`Cold::without`], of a file that topics of a family share.
    async fn without_in_family(
        &self,
        family: TopicId,
        current: &Index,
        source: &File,
        what: What<'_>,
        number: u64,
    ) -> Result<(u64, Option<Made>), TierError> {
        let failed = |error| match file::store_error(error) {
            Ok(error) => objects_failed(format!("read {}", source.key))(error),
            Err(error) => parquet_failed(family)(error),
        };
        let lane_of = |run: &Run| current.lanes().and_then(|lanes| lanes.get(run.queue));
        let is_ours = |run: &&Run| lane_of(run).is_some_and(|lane| lane.topic == what.topic.0);
        if !source.runs.iter().any(|run| is_ours(&run)) {
            return Ok((0, None));
        }
        let (copy, footer) = match self.copy_of(source).await {
            Ok(copy) => copy,
            Err(MergeError::Tier(error)) => return Err(error),
            Err(MergeError::Damaged(_, error)) => return Err(failed(error)),
        };
        let columns = file::column_names();
        let mut count = 0_u64;
        let mut made = Writer::new(family).map_err(failed)?;
        let mut rows = Rows::open(copy, footer).map_err(failed)?;
        for run in &source.runs {
            let lane = lane_of(run).expect("a manifest has a lane for each of its runs");
            for (offsets, batch) in rows.take(*run, lane).await.map_err(failed)? {
                let mut batch = batch;
                if is_ours(&run) {
                    let (hits, rest) = erased(&batch, what, &columns).map_err(failed)?;
                    count += hits;
                    if hits > 0 {
                        batch = with_topics_of(&batch, &rest).map_err(failed)?;
                    }
                }
                made.add_rows(run.queue, offsets, batch).map_err(failed)?;
            }
        }
        if count == 0 {
            return Ok((0, None));
        }
        made.stored_within(std::slice::from_ref(source));
        let made = made.finish(file_key(family, number)).map_err(failed)?;
        Ok((count, Some(made)))
    }
}

/// Per row, whether it was sent under the key.
fn matching(batch: &RecordBatch, key: &[u8]) -> Result<Vec<bool>, ParquetError> {
    let column = |name: &str| {
        let missing = || ParquetError::General(format!("the column {name} is missing"));
        batch.column_by_name(name).ok_or_else(missing)
    };
    let wrong = || ParquetError::General("a column of keys has another type".to_owned());
    let routed = column("key")?.as_binary_opt::<i32>().ok_or_else(wrong)?;
    let groups = column("message_group")?
        .as_string_opt::<i32>()
        .ok_or_else(wrong)?;
    let keys = column("keys")?.as_list_opt::<i32>().ok_or_else(wrong)?;
    let is_hit = |row: usize| {
        let listed = keys.value(row);
        let listed = listed.as_string_opt::<i32>();
        (routed.is_valid(row) && routed.value(row) == key)
            || (groups.is_valid(row) && groups.value(row).as_bytes() == key)
            || listed.is_some_and(|all| all.iter().flatten().any(|one| one.as_bytes() == key))
    };
    Ok((0..batch.num_rows()).map(is_hit).collect())
}

/// A batch with the rest of what was sent under the key, and how many of its messages that are.
fn erased(
    batch: &RecordBatch,
    what: What<'_>,
    columns: &[&str],
) -> Result<(u64, RecordBatch), ParquetError> {
    let rows = matching(batch, what.key)?;
    if !rows.contains(&true) {
        return Ok((0, batch.clone()));
    }
    let mut messages =
        from_batch(batch, what.topic).map_err(|error| ParquetError::External(Box::new(error)))?;
    let mut count = 0;
    for (message, _) in messages.iter_mut().zip(rows).filter(|(_, is_hit)| *is_hit) {
        if let Some(rest) = (what.rest)(message) {
            *message = rest;
            count += 1;
        }
    }
    Ok((count, to_batch(&messages, columns)))
}

#[cfg(test)]
mod tests {
    use millpond_proto::message::{Offset, QueueId};

    use super::*;
    use crate::disk::Disk;
    use crate::disk::simulated::SimulatedDisk;
    use crate::log::ReadLimit;
    use crate::meta::embedded::EmbeddedMeta;
    use crate::tier::cold::tests::{open, paths, term};
    use crate::tier::cold::typed::Reads;
    use crate::tier::objects::DiskObjectStore;

    const TOPIC: TopicId = TopicId(7);

    fn message(offset: u64) -> Envelope {
        Envelope {
            topic: TOPIC.0,
            offset,
            stored_at_ms: 5,
            message_id: format!("m{offset}"),
            key: offset.is_multiple_of(3).then(|| b"anna".to_vec().into()),
            keys: (offset % 3 == 1)
                .then(|| "anna".to_owned())
                .into_iter()
                .collect(),
            message_group: match offset {
                5 => Some("anna".to_owned()),
                8 => Some("bert".to_owned()),
                _ => None,
            },
            body: Some(format!("secret of {offset}").into()),
            ..Envelope::default()
        }
    }

    async fn erase(cold: &Cold) -> Result<Erased, TierError> {
        let rest = |message: &Envelope| Some(emptied(message));
        cold.erase(TOPIC, b"anna", &rest).await
    }

    #[tokio::test]
    async fn what_was_sent_under_a_key_is_in_no_object_any_more() {
        let disk = Arc::new(SimulatedDisk::default());
        let shared = Arc::clone(&disk) as Arc<dyn Disk>;
        let objects = Arc::new(DiskObjectStore::new(Arc::clone(&shared), "cold"));
        let meta = Arc::new(EmbeddedMeta::open(shared, "facts").unwrap());
        let cold = Cold::open(objects, meta, term()).await.unwrap();
        for offsets in [0..10_u64, 10..12] {
            let messages: Vec<Envelope> = offsets.map(message).collect();
            cold.write(TOPIC, &messages, &[]).await.unwrap();
        }
        let erased = erase(&cold).await.unwrap();
        // 0, 1, 3, 4, 5, 6, 7, 9 and 10.
        let expected = Erased {
            messages: 9,
            files: 2,
            held: 0,
            log_bytes: 0,
        };
        assert_eq!(erased, expected);
        let all = ReadLimit {
            messages: 99,
            bytes: 9999,
        };
        let read = cold.read(TOPIC, QueueId(0), Offset(0), all).await.unwrap();
        assert_eq!(read.len(), 12);
        for (offset, found) in (0..).zip(&read) {
            if [2, 8, 11].contains(&offset) {
                assert_eq!(found, &message(offset));
            } else {
                assert_eq!((found.offset, found.stored_at_ms), (offset, 5));
                assert_eq!(
                    (&found.body, &found.key, found.keys.len()),
                    (&None, &None, 0)
                );
            }
        }
        assert_eq!(erase(&cold).await.unwrap(), Erased::default());
        let stays = |_: &Envelope| None;
        let none = cold.erase(TOPIC, b"bert", &stays).await.unwrap();
        assert_eq!(none, Erased::default(), "no file is written for what stays");
        let left = disk
            .snapshot()
            .into_keys()
            .filter(|path| path.ends_with("parquet"));
        assert_eq!(left.count(), 2, "the old files are gone");
    }

    #[tokio::test]
    async fn a_file_that_a_reader_holds_is_told_each_time_until_the_reader_is_done() {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk).await;
        let messages: Vec<Envelope> = (0..10).map(message).collect();
        cold.write(TOPIC, &messages, &[]).await.unwrap();
        let range = Offset(0)..Offset(10);
        let reader = cold.scan(TOPIC, QueueId(0), range, &Reads::of(&["body"]));
        let erased = erase(&cold).await.unwrap();
        assert_eq!((erased.files, erased.held), (1, 1));
        // The second call finds nothing to write anew.
        let erased = erase(&cold).await.unwrap();
        assert_eq!((erased.files, erased.held), (0, 1));
        drop(reader);
        assert_eq!(erase(&cold).await.unwrap(), Erased::default());
        assert_eq!(paths(&disk, "cold/topics/7/data").len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_a_broken_off_change_left_is_removed_too() {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk).await;
        let messages: Vec<Envelope> = (0..10).map(message).collect();
        cold.write(TOPIC, &messages, &[]).await.unwrap();
        let [file] = &paths(&disk, "cold/topics/7/data")[..] else {
            panic!("one file");
        };
        let bytes = disk.snapshot()[file].clone();
        let orphan = Path::from("topics/7/data/00000000000000000009-0000000001-000001.parquet");
        cold.objects.put(&orphan, bytes.into()).await.unwrap();
        assert_eq!(erase(&cold).await.unwrap().held, 0);
        assert_eq!(paths(&disk, "cold/topics/7/data").len(), 1);
    }
}
