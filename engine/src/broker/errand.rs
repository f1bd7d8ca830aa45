//! What a shard's owner has others do for its shelf: reading what is due, and loading what is soon due.
//!
//! An errand reads and changes nothing; what comes of it the owner decides on like on any request. Work that
//! may wait for a disk runs on the background lane. What has left the log is read in one go through its files, and
//! what is due next with it ([`super::ahead`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use millpond_proto::message::{Offset, QueueId, ShardId, TopicId};
use millpond_proto::task::{Lane, Spawn};
use millpond_proto::time::Timestamp;
use millpond_storage::error::ReadError;
use millpond_storage::format::envelope::{self, Envelope};
use millpond_storage::log::{ReadLimit, Storage};
use millpond_storage::tier::cold::typed::Reads;
use tokio::sync::oneshot;

use crate::broker::ahead::{Lot, Room, Turn};
use crate::broker::catalog::Catalog;
use crate::broker::shelf::{Spot, shelf_topic, unshelved};
use crate::broker::state::shelving::Fire;

/// Messages that are fired together.
pub const FIRE_MESSAGES: usize = 512;
/// Bytes of bodies that are fired together, but for a single message.
pub const FIRE_BYTES: usize = 1024 * 1024;
/// Messages that are looked at together at first: a look holds all their bodies, however large.
const LOOK_MESSAGES: usize = 16;
/// Bytes of bodies after which a later, larger look ends.
const LOOK_BYTES: usize = 4 * FIRE_BYTES;
/// Messages between two wanted ones that are read along rather than asked for apart.
const GAP_MAX: u64 = 8;

/// What came of an errand.
#[derive(Debug)]
pub enum Outcome {
    /// These may be fired now; and what was read ahead, when files had to be looked into.
    Fire(Fire, Option<Lot>, Option<Turn>),
    /// A bucket was read.
    Loaded {
        /// Which.
        bucket: u32,
        /// Time and number of each message.
        messages: Vec<(Timestamp, u64)>,
        /// Numbers of those that are damaged.
        lost: Vec<u64>,
    },
    /// Nothing could be read now; a bucket, when one was to be loaded.
    Failed(Option<u32>),
}

/// Messages that are due.
#[derive(Debug, Default)]
pub struct Due {
    /// Which, the earliest first.
    pub messages: Vec<(Timestamp, Spot)>,
    /// Those of them that were read before.
    pub known: BTreeMap<Spot, Envelope>,
    /// What to read ahead, when some of them lie in files.
    pub ahead: Option<Ahead>,
}

/// What is to be read ahead.
#[derive(Debug)]
pub struct Ahead {
    /// Where it goes.
    pub lot: Lot,
    /// What is due next, the earliest first.
    pub next: Vec<(Timestamp, Spot)>,
}

impl Due {
    /// What of it may be fired when all of it is known.
    fn ready(mut self, catalog: &Catalog) -> Fire {
        let mut firing = Firing::default();
        for &(at, spot) in &self.messages {
            let Some(message) = self.known.remove(&spot) else {
                break;
            };
            if !firing.add(at, spot, Some(message), catalog) {
                break;
            }
        }
        firing.fire
    }
}

/// What is fired together, as it is put together.
#[derive(Default)]
struct Firing {
    fire: Fire,
    bytes: usize,
}

impl Firing {
    /// Adds the next message, none for a damaged one; whether there was room for it.
    fn add(
        &mut self,
        due: Timestamp,
        spot: Spot,
        message: Option<Envelope>,
        catalog: &Catalog,
    ) -> bool {
        if message.is_none() {
            tracing::error!(?spot, "a delayed message is damaged and is given up");
        }
        let body = message.as_ref().and_then(|message| message.body.as_ref());
        let size = body.map_or(0, bytes::Bytes::len);
        if self.bytes > 0 && self.bytes + size > FIRE_BYTES {
            return false;
        }
        self.bytes += size;
        let placed = message.and_then(unshelved);
        match placed.filter(|message| catalog.topic_by_id(message.topic).is_some()) {
            Some(message) => {
                self.fire.spots.push(spot);
                self.fire.messages.push(message);
            }
            None => {
                self.fire.lost.push(spot);
                self.fire.lost_due_ms.push(due.as_ms());
            }
        }
        true
    }
}

/// The rows of a batch whose offsets are wanted, which are sorted.
fn wanted_rows(batch: &RecordBatch, numbers: &[u64]) -> RecordBatch {
    let Some(offsets) = batch.column_by_name("offset") else {
        return batch.clone();
    };
    let offsets = offsets.as_primitive::<Int64Type>().values().iter();
    let mask = offsets.map(|offset| numbers.binary_search(&offset.unsigned_abs()).is_ok());
    let mask: BooleanArray = mask.collect::<Vec<bool>>().into();
    filter_record_batch(batch, &mask).unwrap_or_else(|_| batch.clone())
}

/// An errand under way.
pub type Errand = BoxFuture<'static, Outcome>;

/// What an errand needs.
#[derive(Clone, Debug)]
pub struct Reader {
    /// The shard.
    pub shard: ShardId,
    /// The log.
    pub storage: Arc<Storage>,
    /// Where work runs.
    pub spawn: Arc<dyn Spawn>,
    /// Where turns come from.
    pub room: Room,
}

impl Reader {
    /// Reads messages that are due, in their order, and waits for a turn to place them; those that are known already
    /// are not read again.
    #[must_use]
    pub fn fire(&self, due: Due, catalog: Arc<Catalog>) -> Errand {
        let read = self.read(due, catalog);
        let turn = self.room.turn();
        Box::pin(async move {
            match read.await {
                Outcome::Fire(fire, lot, _) => Outcome::Fire(fire, lot, Some(turn.await)),
                other => other,
            }
        })
    }

    fn read(&self, due: Due, catalog: Arc<Catalog>) -> Errand {
        if due.known.len() == due.messages.len() {
            let fire = due.ready(&catalog);
            return Box::pin(std::future::ready(Outcome::Fire(fire, None, None)));
        }
        let reader = self.clone();
        self.in_background(None, async move {
            match reader.read_due(due, &catalog).await {
                Ok((fire, lot)) => Outcome::Fire(fire, lot, None),
                Err(error) => {
                    tracing::warn!(%error, "messages that are due can not be read; trying again");
                    Outcome::Failed(None)
                }
            }
        })
    }

    /// Reads times and numbers of the first `count` messages of a bucket.
    #[must_use]
    pub fn load(&self, bucket: u32, count: u64) -> Errand {
        let reader = self.clone();
        self.in_background(Some(bucket), async move {
            match reader.read_bucket(bucket, count).await {
                Ok((messages, lost)) => Outcome::Loaded {
                    bucket,
                    messages,
                    lost,
                },
                Err(error) => {
                    tracing::warn!(%error, "an hour of delayed messages can not be read; trying again");
                    Outcome::Failed(Some(bucket))
                }
            }
        })
    }

    fn in_background(
        &self,
        bucket: Option<u32>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Errand {
        let (reply, answer) = oneshot::channel();
        let work = Box::pin(async move {
            // The owner may have ended.
            let _ = reply.send(work.await);
        });
        let task = self.spawn.spawn(Lane::Background, work);
        Box::pin(async move {
            // Held until the answer is there: dropping the task would stop it.
            let _task = task;
            answer.await.unwrap_or(Outcome::Failed(bucket))
        })
    }

    fn topic(&self) -> TopicId {
        TopicId(shelf_topic(self.shard))
    }

    /// Waits until all that the owner has handed down is durable, and so can be read.
    async fn settle(&self) -> Result<(), ReadError> {
        let closed = |_| ReadError::Disk {
            place: "the log".to_owned(),
            source: Arc::new(std::io::Error::other("the log has stopped")),
        };
        let durable = self.storage.append(self.shard, Vec::new()).await;
        durable.map_err(closed)?.await.map_err(closed)?;
        Ok(())
    }

    async fn read_due(
        &self,
        mut due: Due,
        catalog: &Catalog,
    ) -> Result<(Fire, Option<Lot>), ReadError> {
        let mut lot = None;
        if let Some(ahead) = due.ahead.take() {
            match self.look_into_files(&due, ahead).await {
                Ok(mut read) => {
                    let (taken, seen) = read.take_due(&due.messages, FIRE_BYTES / 2);
                    due.known.extend(taken);
                    due.messages.truncate(seen);
                    lot = Some(read);
                }
                // One by one it is found out which.
                Err(ReadError::Damaged { .. } | ReadError::Trimmed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut firing = Firing::default();
        let (mut rest, mut count, mut bytes_max) = (&due.messages[..], LOOK_MESSAGES, usize::MAX);
        while !rest.is_empty() {
            let (look, behind) = rest.split_at(count.min(rest.len()));
            let is_unknown = |(_, spot): &&(Timestamp, Spot)| !due.known.contains_key(spot);
            let unknown: Vec<_> = look.iter().filter(is_unknown).copied().collect();
            let mut found = self.look(&unknown, bytes_max).await?;
            (rest, count, bytes_max) = (behind, count * 2, LOOK_BYTES);
            for &(at, spot) in look {
                let message = match due.known.remove(&spot) {
                    Some(known) => Some(Some(known)),
                    None => found.remove(&spot),
                };
                // Whatever comes behind one that is not there must not go first.
                let goes_on = message.is_some_and(|message| firing.add(at, spot, message, catalog));
                if !goes_on {
                    return Ok((firing.fire, lot));
                }
            }
        }
        Ok((firing.fire, lot))
    }

    /// Reads what lies in files of what is due, and of what is due next, in one go, as far as a lot has room for it.
    async fn look_into_files(&self, due: &Due, ahead: Ahead) -> Result<Lot, ReadError> {
        // A burst needs lots for all shards at once, and all threads if it could: producers need some of them.
        let _alone = self.room.look().await;
        let Ahead { mut lot, next } = ahead;
        let mut wanted: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let unknown = |(_, spot): &&(Timestamp, Spot)| !due.known.contains_key(spot);
        let unknown = due.messages.iter().filter(unknown);
        for &(_, spot) in unknown.chain(&next) {
            wanted.entry(spot.bucket).or_default().push(spot.number);
        }
        for (bucket, mut numbers) in wanted {
            let extent = self.storage.extent(self.topic(), QueueId(bucket));
            let end = extent.map_or(0, |extent| extent.tiered.0);
            numbers.retain(|number| *number < end);
            numbers.sort_unstable();
            let (Some(&first), Some(&last)) = (numbers.first(), numbers.last()) else {
                continue;
            };
            let schema = envelope::schema();
            let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let range = Offset(first)..Offset(last + 1);
            let mut rows =
                self.storage
                    .scan(self.topic(), QueueId(bucket), range, &Reads::of(&columns));
            while let Some(batch) = rows.next().await {
                let batch = wanted_rows(&batch?, &numbers);
                let messages = envelope::from_batch(&batch, self.topic());
                // Whoever reads them one by one says which it is.
                let messages = messages.unwrap_or_default();
                for message in messages {
                    let spot = Spot {
                        bucket,
                        number: message.offset,
                    };
                    lot.add(spot, message);
                }
            }
        }
        Ok(lot)
    }

    /// The messages at these spots; none for a damaged one, and nothing for one that is not durable or is
    /// too much.
    async fn look(
        &self,
        wanted: &[(Timestamp, Spot)],
        bytes_max: usize,
    ) -> Result<BTreeMap<Spot, Option<Envelope>>, ReadError> {
        let mut spots: Vec<Spot> = wanted.iter().map(|&(_, spot)| spot).collect();
        spots.sort_unstable();
        let mut found = BTreeMap::new();
        let mut bytes = 0_usize;
        let near = |a: &Spot, b: &Spot| a.bucket == b.bucket && b.number - a.number <= GAP_MAX;
        for run in spots.chunk_by(near) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let bucket = first.bucket;
            let mut next = first.number;
            let mut settled = false;
            while next <= last.number && bytes <= bytes_max {
                let limit = ReadLimit {
                    messages: usize::try_from(last.number - next + 1).unwrap_or(1),
                    bytes: FIRE_BYTES,
                };
                let read = self
                    .storage
                    .read(self.topic(), QueueId(bucket), Offset(next), limit);
                match read.await {
                    Ok(messages) if messages.is_empty() && settled => break,
                    Ok(messages) if messages.is_empty() => {
                        self.settle().await?;
                        settled = true;
                    }
                    Ok(messages) => {
                        for message in messages {
                            let number = message.offset;
                            next = number + 1;
                            let spot = Spot { bucket, number };
                            bytes += message.body.as_ref().map_or(0, bytes::Bytes::len);
                            if run.binary_search(&spot).is_ok() {
                                found.insert(spot, Some(message));
                            }
                        }
                    }
                    Err(ReadError::Damaged { .. } | ReadError::Trimmed { .. }) => {
                        let spot = Spot {
                            bucket,
                            number: next,
                        };
                        found.insert(spot, None);
                        next += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    async fn read_bucket(
        &self,
        bucket: u32,
        count: u64,
    ) -> Result<(Vec<(Timestamp, u64)>, Vec<u64>), ReadError> {
        self.settle().await?;
        let (mut messages, mut lost) = (Vec::new(), Vec::new());
        let (mut next, mut is_damaged) = (0, false);
        while next < count {
            if !is_damaged {
                let scanned = self.scan_bucket(bucket, next..count, &mut messages);
                (next, is_damaged) = scanned.await?;
                continue;
            }
            // A scan of files gives up a whole row group for one page; a read tells which messages are lost. The
            // neighbour of a lost one is asked for alone: it most likely is too.
            let is_neighbour = lost.last().is_some_and(|last| last + 1 == next);
            let end = if is_neighbour { next + 1 } else { count };
            match self.read_to_damage(bucket, next..end).await? {
                Some(read) => {
                    next = read.last().map_or(next, |last| last.offset + 1);
                    let dues = read.iter().map(|one| (one.due_at_ms, one.offset));
                    messages.extend(dues.filter_map(|(due, at)| Some((Timestamp(due?), at))));
                    is_damaged = false;
                }
                None => {
                    lost.push(next);
                    next += 1;
                }
            }
        }
        Ok((messages, lost))
    }

    /// Adds times and numbers of a range as far as a scan gives them: where it ended, and whether damage ended it.
    async fn scan_bucket(
        &self,
        bucket: u32,
        range: Range<u64>,
        messages: &mut Vec<(Timestamp, u64)>,
    ) -> Result<(u64, bool), ReadError> {
        let (queue, offsets) = (QueueId(bucket), Offset(range.start)..Offset(range.end));
        let reads = Reads::of(&["offset", "due_at"]);
        let mut rows = self.storage.scan(self.topic(), queue, offsets, &reads);
        let mut next = range.start;
        while let Some(batch) = rows.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(ReadError::Damaged { .. }) => return Ok((next, true)),
                Err(error) => return Err(error),
            };
            let numbers = batch.column(0).as_primitive::<Int64Type>();
            let dues = batch.column(1).as_primitive::<TimestampMillisecondType>();
            for (row, number) in numbers.values().iter().enumerate() {
                let number = number.unsigned_abs();
                next = number + 1;
                if dues.is_valid(row) {
                    messages.push((Timestamp(dues.value(row)), number));
                }
            }
        }
        if next == range.start {
            return Err(self.not_there_yet(bucket));
        }
        Ok((next, false))
    }

    /// Reads the first messages of a range up to one that is damaged; none: the first one is.
    async fn read_to_damage(
        &self,
        bucket: u32,
        range: Range<u64>,
    ) -> Result<Option<Vec<Envelope>>, ReadError> {
        let limit = ReadLimit {
            messages: usize::try_from(range.end - range.start).unwrap_or(usize::MAX),
            bytes: FIRE_BYTES,
        };
        let (queue, from) = (QueueId(bucket), Offset(range.start));
        match self.storage.read(self.topic(), queue, from, limit).await {
            Ok(read) if read.is_empty() => Err(self.not_there_yet(bucket)),
            Ok(read) => Ok(Some(read)),
            Err(ReadError::Damaged { .. } | ReadError::Trimmed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn not_there_yet(&self, bucket: u32) -> ReadError {
        ReadError::Disk {
            place: format!("hour {bucket} of the delayed messages of {}", self.shard),
            source: Arc::new(std::io::Error::other("its end is not there yet")),
        }
    }
}
