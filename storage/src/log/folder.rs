//! A data folder that no server has open, for looking into it.
//!
//! Changes nothing: the metadata store is read from a copy in memory, and nothing is repaired, cut or swept.
//! Whoever passes the disk in holds the folder's lock.

use std::sync::Arc;

use bytes::Bytes;
use millpond_proto::message::{Offset, QueueId, ShardId, Term, TopicId};
use object_store::ObjectStore;
use prost::Message as _;

use crate::disk::Disk;
use crate::error::{OpenError, ReadError, ShardDamaged};
use crate::format::block::{Entry, Kind};
use crate::format::checkpoint::Saved;
use crate::format::envelope::Envelope;
use crate::log::verify::{AT_REST, Findings, verify_log};
use crate::log::{Projection, ReadLimit, checkpoint, identity, open};
use crate::meta::MetaStore;
use crate::meta::embedded::EmbeddedMeta;
use crate::tier::cold::{self, Cold};
use crate::tier::owner;
use crate::wal::recovery::{self, Found};

/// A folder at rest.
#[derive(Debug)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    objects: Arc<dyn ObjectStore>,
    meta: Arc<dyn MetaStore>,
    wals: u16,
}

/// One record of the log as it lies on disk.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// Segment.
    pub path: String,
    /// Position.
    pub position: u64,
    /// Shard.
    pub shard: ShardId,
    /// Topic, queue and offset of a message; `None` for a change of state.
    pub message: Option<(TopicId, QueueId, Offset)>,
    /// Its bytes; `None` when they are damaged.
    pub payload: Option<Bytes>,
}

/// What the cold tier of a folder is called; `None` when it never had one.
///
/// # Errors
/// [`OpenError`] when the metadata store can not be read.
pub fn cold_of(disk: &dyn Disk) -> Result<Option<String>, OpenError> {
    let meta = EmbeddedMeta::copy_of(disk, open::META_FILE)?;
    Ok(owner::name_of(&meta)?)
}

impl Folder {
    /// Looks at a folder.
    ///
    /// # Errors
    /// [`OpenError`] when it is not one of ours or of a newer version.
    pub fn open(disk: Arc<dyn Disk>, objects: Arc<dyn ObjectStore>) -> Result<Self, OpenError> {
        let wals = identity::stored(&*disk)?.wals;
        let meta = Arc::new(EmbeddedMeta::copy_of(&*disk, open::META_FILE)?);
        Ok(Self {
            disk,
            objects,
            meta,
            wals,
        })
    }

    /// Checks every byte.
    ///
    /// # Errors
    /// [`OpenError`] when something can not be read; damage is a finding.
    pub async fn verify(&self) -> Result<Findings, OpenError> {
        let mut findings = Findings::default();
        let settled = vec![AT_REST; usize::from(self.wals)];
        verify_log(&*self.disk, &settled, &mut findings)?;
        cold::verify::verify(&self.objects, &*self.meta, None, &mut findings).await?;
        Ok(findings)
    }

    /// Every record of the log, WAL by WAL.
    ///
    /// # Errors
    /// [`OpenError`] when the disk fails.
    pub fn records(&self, mut seen: impl FnMut(LogRecord)) -> Result<(), OpenError> {
        for wal in 0..self.wals {
            recovery::recover(&*self.disk, wal, |found| {
                if let Found::Record {
                    position,
                    entry,
                    payload,
                    path,
                    ..
                } = found
                {
                    seen(LogRecord {
                        path: path.to_owned(),
                        position,
                        shard: ShardId(entry.shard),
                        message: place(entry),
                        payload,
                    });
                }
            })?;
        }
        Ok(())
    }

    /// Messages of a queue from `from` on: those of the cold tier, or those of the log.
    ///
    /// # Errors
    /// [`OpenError`] when the folder can not be read; the inner error is the first message's own, [`ReadError::Damaged`] for
    /// example (a later damaged one ends the answer before it).
    pub async fn read(
        &self,
        topic: TopicId,
        queue: QueueId,
        from: Offset,
        limit: usize,
    ) -> Result<Result<Vec<Envelope>, ReadError>, OpenError> {
        let (objects, meta) = (Arc::clone(&self.objects), Arc::clone(&self.meta));
        // Nothing is written, so no term is taken.
        let cold = Cold::open(objects, meta, Term(0)).await?;
        let tiered = cold
            .extent(topic, queue)
            .map_or(Offset(0), |extent| extent.end);
        if from < tiered {
            let limit = ReadLimit {
                messages: limit,
                bytes: usize::MAX,
            };
            let read = cold.read(topic, queue, from, limit).await;
            // Only holes up to the cold end: what comes behind is in the log.
            if !matches!(&read, Ok(messages) if messages.is_empty()) {
                return Ok(read);
            }
        }
        let mut row = Row {
            messages: Vec::new(),
            limit,
            place: (topic, queue, from),
            next: cold.extent(topic, queue).map(|extent| extent.end),
            damaged: None,
        };
        self.records(|record| row.take(record))?;
        Ok(match row.damaged {
            // A damaged one behind others ends the answer before it.
            Some(damaged) if row.messages.is_empty() => Err(damaged),
            _ => Ok(row.messages),
        })
    }

    /// What the log makes of a shard: its state in the checkpoint and every record behind it, by the rules of an opening.
    ///
    /// # Errors
    /// [`OpenError`] when the folder can not be read; the inner error is the shard's own: a server would not open it.
    pub fn project<P: Projection>(
        &self,
        shard: ShardId,
    ) -> Result<Result<P, ShardDamaged>, OpenError> {
        let checkpoint = checkpoint::load(&*self.disk)?;
        let wal = shard.0 % self.wals;
        let saved = checkpoint.shards.get(&shard);
        let from = saved.map_or(0, |saved| saved.position);
        let mut state: Result<P, ShardDamaged> = open::restored(shard, saved);
        let recovery = recovery::recover(&*self.disk, wal, |found| {
            let Ok(projection) = &mut state else {
                return;
            };
            let applied = match found {
                Found::Gap { range, path } if from < range.end => {
                    Err(open::unreadable(shard, &range, path))
                }
                Found::Record {
                    position,
                    entry,
                    payload,
                    path,
                    ..
                } if entry.shard == shard.0 && position >= from => {
                    open::apply_record(projection, (entry, payload), (path, position))
                }
                Found::Gap { .. } | Found::Record { .. } => Ok(()),
            };
            if let Err(damaged) = applied {
                state = Err(damaged);
            }
        })?;
        let first = recovery.segments.first().map_or(0, |segment| segment.first);
        let is_of_wal = |saved: &&Saved| saved.shard.0 % self.wals == wal;
        let neighbours = checkpoint.shards.values().filter(is_of_wal);
        let highest = neighbours.map(|saved| saved.position).max();
        if state.is_ok() && (from < first || (checkpoint.is_missing && !recovery.reaches_back())) {
            state = Err(open::begins_behind(shard, wal, first));
        } else if state.is_ok() && highest.is_some_and(|highest| highest > recovery.tail) {
            state = Err(open::ends_before(shard, wal));
        }
        Ok(state)
    }
}

/// The messages of a queue that are read from the log, which has them without holes.
struct Row {
    messages: Vec<Envelope>,
    limit: usize,
    /// Topic, queue, and the offset asked for.
    place: (TopicId, QueueId, Offset),
    /// The offset that comes next; none before the first one.
    next: Option<Offset>,
    damaged: Option<ReadError>,
}

impl Row {
    fn take(&mut self, record: LogRecord) {
        let (topic, queue, from) = self.place;
        let Some((_, _, offset)) = record
            .message
            .filter(|(t, q, _)| (*t, *q) == (topic, queue))
        else {
            return;
        };
        let expected = self.next.unwrap_or(offset);
        let is_over = self.damaged.is_some() || self.messages.len() >= self.limit;
        if is_over || offset < expected {
            return;
        }
        self.next = Some(offset.next());
        if offset < from {
            return;
        }
        // Records between were lost with the blocks that held them.
        let lost = expected.max(from);
        let payload = record.payload.filter(|_| lost == offset);
        match payload.and_then(|payload| Envelope::decode(payload).ok()) {
            Some(message) => self.messages.push(message),
            None => {
                self.damaged = Some(ReadError::Damaged {
                    topic,
                    queue,
                    offset: lost,
                    place: format!("{} near position {}", record.path, record.position),
                });
            }
        }
    }
}

fn place(entry: &Entry) -> Option<(TopicId, QueueId, Offset)> {
    let place = (
        TopicId(entry.topic),
        QueueId(entry.queue),
        Offset(entry.offset),
    );
    (entry.kind == Kind::Message).then_some(place)
}
