//! A data folder that no server has open, for looking into it.
//!
//! Changes nothing: the metadata store is read from a copy in memory, and nothing is repaired, cut or swept.
//! Whoever passes the disk in holds the folder's lock.

use std::sync::Arc;

use bytes::Bytes;
use millpond_proto::message::{Offset, QueueId, ShardId, Term, TopicId};
use object_store::ObjectStore;

use crate::disk::Disk;
use crate::error::{OpenError, ReadError, ShardDamaged};
use crate::format::block::{Entry, Kind};
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
    /// [`OpenError`] when the folder can not be read; the inner error is the message's own.
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
            return Ok(cold.read(topic, queue, from, limit).await);
        }
        let mut messages = Vec::new();
        self.records(|record| {
            let is_asked = record
                .message
                .is_some_and(|(t, q, offset)| (t, q) == (topic, queue) && offset >= from);
            if is_asked
                && messages.len() < limit
                && let Some(message) = record.payload.and_then(|p| prost::Message::decode(p).ok())
            {
                messages.push(message);
            }
        })?;
        Ok(Ok(messages))
    }

    /// What the log makes of a shard: its state in the checkpoint and every record behind it.
    ///
    /// # Errors
    /// [`OpenError`] when the folder can not be read; the inner error is the shard's own.
    pub fn project<P: Projection>(
        &self,
        shard: ShardId,
    ) -> Result<Result<P, ShardDamaged>, OpenError> {
        let saved = checkpoint::load(&*self.disk)?.shards.remove(&shard);
        let from = saved.as_ref().map_or(0, |saved| saved.position);
        let mut state = P::restore(shard, saved.as_ref().map(|saved| &saved.state[..]));
        self.records(|record| {
            if record.shard == shard
                && record.position >= from
                && let Ok(projection) = &mut state
                && let Some(replayed) = replayed(&record)
                && let Err(damaged) = projection.apply(&replayed)
            {
                state = Err(damaged);
            }
        })?;
        Ok(state)
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

fn replayed(record: &LogRecord) -> Option<Replayed> {
    match record.message {
        None => record.payload.clone().map(Replayed::State),
        Some((topic, queue, offset)) => {
            let message = record.payload.clone();
            Some(match message.and_then(|p| prost::Message::decode(p).ok()) {
                Some(envelope) => Replayed::Message(envelope),
                None => Replayed::Lost {
                    topic,
                    queue,
                    offset,
                },
            })
        }
    }
}
