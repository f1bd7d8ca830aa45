//! Opening a data folder: identity, term, cold tier, checkpoint, then every WAL record by record.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use millpond_proto::message::{QueueId, ShardId, Term, TopicId};
use millpond_proto::task::Lane;
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc};

use crate::disk::Disk;
use crate::error::{OpenError, ShardDamaged};
use crate::format::block::{Entry, Kind};
use crate::format::checkpoint::Saved;
use crate::format::envelope::Envelope;
use crate::log::catch_up::CatchUp;
use crate::log::checkpoint::{self, Checkpoints};
use crate::log::read::HotReads;
use crate::log::room::Looked;
use crate::log::{Parts, Projection, Recovered, Replayed, Settings, Storage, identity, way};
use crate::meta::embedded::EmbeddedMeta;
use crate::meta::{MetaError, MetaStore};
use crate::queue::index::{Index, Place};
use crate::queue::view::{View, Wal};
use crate::tier::cold::Cold;
use crate::tier::owner;
use crate::wal::intake::{self, Door, Intake, Rules};
use crate::wal::recovery::{self, Found, Recovery};
use crate::wal::segment::{self, Segments};
use crate::wal::spare::Spares;
use crate::wal::writer::{SHOWING_LANES, Start, Writer};

const META_FOLDER: &str = "meta";
pub(crate) const META_FILE: &str = "meta/millpond.redb";
const TERM_KEY: &str = "term";

/// A shard while it is rebuilt.
struct Slot<P> {
    state: Result<P, ShardDamaged>,
    /// Records below are in the snapshot.
    position: u64,
    saved: Option<Saved>,
}

/// All that is rebuilt from the WALs.
struct Rebuild<'a, P> {
    slots: Vec<Slot<P>>,
    index: Index,
    cold: &'a Cold,
    wals: u16,
    damage: Vec<String>,
}

pub(crate) async fn open<P: Projection>(
    parts: Parts,
    settings: Settings,
) -> Result<(Arc<Storage>, Recovered<P>), OpenError> {
    assert!(
        settings.shards > 0 && settings.wals > 0,
        "a log has at least one shard and one WAL"
    );
    let disk = Arc::clone(&parts.disk);
    identity::check_or_make(&*disk, &settings)?;
    make_folders(&*disk, settings.wals)?;
    let meta: Arc<dyn MetaStore> = Arc::new(EmbeddedMeta::open(Arc::clone(&disk), META_FILE)?);
    let term = next_term(&*meta)?;
    owner::claim(&parts.objects, &*meta, &*parts.chance, &settings.cold).await?;
    let objects = Arc::clone(&parts.objects);
    let cold = Arc::new(Cold::open(objects, Arc::clone(&meta), term).await?);
    cold.set_grace(Arc::clone(&parts.clock), settings.table_grace_ms);
    let checkpoint = checkpoint::load(&*disk)?;

    let mut rebuild = Rebuild {
        slots: restore_all(settings.shards, &checkpoint.shards),
        index: Index::default(),
        cold: &cold,
        wals: settings.wals,
        damage: checkpoint.damage,
    };
    let mut recoveries = Vec::new();
    for wal in 0..settings.wals {
        let recovery = recovery::recover(&*disk, wal, |found| rebuild.apply(wal, found))?;
        recovery.make_durable()?;
        recoveries.push(rebuild.finish(wal, recovery));
    }
    if checkpoint.is_missing
        && let Some(recovery) = recoveries.iter().find(|r| !r.reaches_back())
    {
        let first = recovery.segments.first().map_or(0, |segment| segment.first);
        return Err(OpenError::Damaged {
            what: "the checkpoint".to_owned(),
            detail: format!("its table can not be read, and the log begins at position {first}"),
        });
    }
    let Rebuild {
        slots,
        mut index,
        damage,
        ..
    } = rebuild;
    for (topic, queue, range) in cold.queues() {
        index.begin_at((topic, queue), range.end.0);
    }

    let mut recovered = Recovered {
        term,
        shards: Vec::new(),
        torn_bytes: recoveries.iter().map(|recovery| recovery.torn_bytes).sum(),
        damage,
    };
    let mut checkpoints = Checkpoints::new(checkpoint.sequence);
    for (shard, slot) in (0..).map(ShardId).zip(slots) {
        checkpoints.keep(shard, slot.saved, slot.state.is_err());
        recovered.shards.push(slot.state);
    }
    let storage = start(
        parts,
        settings,
        term,
        meta,
        cold,
        index,
        recoveries,
        checkpoints,
    )?;
    Ok((Arc::new(storage), recovered))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the last step of opening: everything comes together here and nowhere else"
)]
fn start(
    parts: Parts,
    settings: Settings,
    term: Term,
    meta: Arc<dyn MetaStore>,
    cold: Arc<Cold>,
    index: Index,
    recoveries: Vec<Recovery>,
    checkpoints: Checkpoints,
) -> Result<Storage, OpenError> {
    let mut starts = Vec::new();
    let mut wals = Vec::new();
    for (wal, mut recovery) in (0..settings.wals).zip(recoveries) {
        let start = Start {
            wal,
            term: term.0,
            position: recovery.tail,
            sequence: recovery.sequence,
        };
        let failed = |what: &str| {
            let what = format!("{what} {}", segment::folder(wal));
            move |source| OpenError::Disk { what, source }
        };
        let disk = Arc::clone(&parts.disk);
        let spares = Spares::open(disk, wal, settings.segment_bytes, settings.spares_max())
            .map_err(failed("look for spare segments in"))?;
        let segment = start
            .create_segment(&*parts.disk, &spares)
            .map_err(failed("begin a segment in"))?;
        // Now that the next one is durable, what was cut can not come back.
        let first = segment.first;
        let mut unused = recovery.unused;
        unused.extend(recovery.segments.pop_if(|last| last.first == first));
        if !unused.is_empty() {
            spares
                .keep(unused)
                .map_err(failed("let go of what was cut in"))?;
        }
        recovery.segments.push(segment.clone());
        let cache_bytes = settings.cache_bytes / usize::from(settings.wals);
        wals.push(Wal::new(
            Segments::new(recovery.segments),
            Arc::new(spares),
            cache_bytes,
            recovery.tail,
        ));
        starts.push((start, segment));
    }
    let view = Arc::new(View::new(index, wals));
    view.set_way(way::at_opening(&*parts.disk, &*meta, settings.wal_io)?);
    let mut doors = Vec::new();
    let mut writers = Vec::new();
    for (start, segment) in starts {
        let flights_max = usize::from(settings.writes_in_flight.max(1));
        let lanes = flights_max + SHOWING_LANES;
        let intake = Arc::new(Intake::new(Rules {
            lanes,
            flights_max,
            overlap_bytes: settings.overlap_bytes,
            may_watch: parts.spawn.has_threads(),
        }));
        doors.push(Door::new(Arc::clone(&intake)));
        let disk = Arc::clone(&parts.disk);
        let (wanted, asked) = mpsc::channel(1);
        let spares = Arc::clone(&view.wal(start.wal).spares);
        let mut spawn = |work| writers.push(parts.spawn.spawn(Lane::Dedicated, work));
        let writer = Writer::new(disk, Arc::clone(&view), start, segment, intake, wanted);
        let writer = Arc::new(writer);
        for lane in 0..lanes {
            spawn(Box::pin(Arc::clone(&writer).run(lane)));
        }
        // It ends when the last lane has let go of the writer.
        spawn(Box::pin(spares.run(asked)));
    }
    let storage = Storage {
        catch_up: CatchUp::new(Arc::clone(&parts.spawn)),
        parts,
        settings,
        view,
        cold,
        meta,
        doors,
        budget: Arc::new(Semaphore::new(intake::QUEUE_BYTES_MAX)),
        writers: writers.into(),
        checkpoints: checkpoints.into(),
        tiering: tokio::sync::Mutex::new(()),
        was_measured: AtomicBool::new(false),
        looked: Looked::default(),
        hot_reads: HotReads::default(),
    };
    storage.look();
    Ok(storage)
}

fn make_folders(disk: &dyn Disk, wals: u16) -> Result<(), OpenError> {
    let make = || {
        disk.create_folder(META_FOLDER)?;
        disk.create_folder(checkpoint::FOLDER)?;
        for wal in 0..wals {
            disk.create_folder(&segment::folder(wal))?;
        }
        disk.sync_folder("wal")?;
        disk.sync_folder("")
    };
    make().map_err(|source| OpenError::Disk {
        what: "make the folders of the log".to_owned(),
        source,
    })
}

/// Takes the term after the last one; whoever held that is fenced.
fn next_term(meta: &dyn MetaStore) -> Result<Term, OpenError> {
    loop {
        let last = meta.get(TERM_KEY)?;
        let (term, version) = match &last {
            None => (0, None),
            Some(last) => {
                let bytes = <[u8; 8]>::try_from(&last.value[..]);
                let bytes = bytes.map_err(|_| MetaError {
                    detail: "the term is not a number of 8 bytes".to_owned(),
                })?;
                (u64::from_le_bytes(bytes), Some(last.version))
            }
        };
        let next = term + 1;
        if meta.compare_and_swap(TERM_KEY, version, Some(&next.to_le_bytes()))? {
            return Ok(Term(next));
        }
    }
}

fn restore_all<P: Projection>(shards: u16, saved: &BTreeMap<ShardId, Saved>) -> Vec<Slot<P>> {
    let restore = |shard| {
        let saved = saved.get(&shard);
        Slot {
            state: restored(shard, saved),
            position: saved.map_or(0, |saved| saved.position),
            saved: saved.cloned(),
        }
    };
    (0..shards).map(ShardId).map(restore).collect()
}

/// The state of a shard as its checkpoint has it.
pub(crate) fn restored<P: Projection>(
    shard: ShardId,
    saved: Option<&Saved>,
) -> Result<P, ShardDamaged> {
    match saved {
        Some(saved) if !saved.is_whole() => Err(ShardDamaged {
            shard,
            detail: "its state in the checkpoint is damaged".to_owned(),
        }),
        Some(saved) => P::restore(shard, Some(&saved.state)),
        None => P::restore(shard, None),
    }
}

/// Applies a record of the log to the state of its shard; a damaged message is told as lost.
///
/// # Errors
/// [`ShardDamaged`] when it is a change of state and damaged: what follows can not be applied.
pub(crate) fn apply_record<P: Projection>(
    state: &mut P,
    (entry, payload): (&Entry, Option<Bytes>),
    (path, position): (&str, u64),
) -> Result<(), ShardDamaged> {
    match replayed(entry, payload) {
        Some(record) => state.apply(&record),
        None => Err(ShardDamaged {
            shard: ShardId(entry.shard),
            detail: format!("a state change in {path} at position {position} is damaged"),
        }),
    }
}

/// That records which a shard may need can not be found.
pub(crate) fn unreadable(shard: ShardId, range: &Range<u64>, path: &str) -> ShardDamaged {
    let Range { start, end } = range;
    ShardDamaged {
        shard,
        detail: format!("positions {start} to {end} near {path} can not be read"),
    }
}

/// That the log begins behind the state of a shard.
pub(crate) fn begins_behind(shard: ShardId, wal: u16, first: u64) -> ShardDamaged {
    let folder = segment::folder(wal);
    ShardDamaged {
        shard,
        detail: format!("{folder} begins at position {first}, behind its state"),
    }
}

/// That the log ends before a state that was made from it.
pub(crate) fn ends_before(shard: ShardId, wal: u16) -> ShardDamaged {
    let folder = segment::folder(wal);
    ShardDamaged {
        shard,
        detail: format!("{folder} ends before the checkpoint"),
    }
}

impl<P: Projection> Rebuild<'_, P> {
    fn apply(&mut self, wal: u16, found: Found<'_>) {
        match found {
            Found::Gap { range, path } => self.close_behind(wal, &range, path),
            Found::Record {
                position,
                payload_position,
                entry,
                payload,
                path,
            } => {
                if entry.kind == Kind::Message {
                    self.insert(wal, entry, payload_position);
                }
                let Some(slot) = self.slots.get_mut(usize::from(entry.shard)) else {
                    return;
                };
                if position < slot.position {
                    return;
                }
                let Ok(state) = &mut slot.state else {
                    return;
                };
                let applied = apply_record(state, (entry, payload), (path, position));
                if let Err(damaged) = applied {
                    slot.state = Err(damaged);
                }
            }
        }
    }

    fn insert(&mut self, wal: u16, entry: &Entry, position: u64) {
        let (topic, queue) = (TopicId(entry.topic), QueueId(entry.queue));
        let is_cold = self
            .cold
            .extent(topic, queue)
            .is_some_and(|cold| entry.offset < cold.end.0);
        if !is_cold && !self.cold.is_gone(topic) {
            let place = Place {
                position,
                length: entry.length,
                checksum: entry.checksum,
            };
            self.index.insert((topic, queue), wal, entry.offset, place);
        }
    }

    /// Closes the shards whose state needs records from `range`: which lay there is unknown.
    fn close_behind(&mut self, wal: u16, range: &Range<u64>, path: &str) {
        let wals = self.wals;
        for (shard, slot) in (0..).map(ShardId).zip(&mut self.slots) {
            if shard.0 % wals == wal && slot.position < range.end && slot.state.is_ok() {
                slot.state = Err(unreadable(shard, range, path));
            }
        }
    }

    /// Checks that the WAL reaches from the checkpoint to its end.
    fn finish(&mut self, wal: u16, mut recovery: Recovery) -> Recovery {
        self.damage.append(&mut recovery.damage);
        let first = recovery.segments.first().map_or(0, |segment| segment.first);
        let wals = self.wals;
        let mine = |slots: &[Slot<P>]| {
            let positions = slots
                .iter()
                .skip(usize::from(wal))
                .step_by(usize::from(wals));
            let positions: Vec<u64> = positions.map(|slot| slot.position).collect();
            (
                positions.iter().min().copied(),
                positions.iter().max().copied(),
            )
        };
        let (lowest, highest) = mine(&self.slots);
        let folder = segment::folder(wal);
        if let Some(lowest) = lowest.filter(|&lowest| lowest < first) {
            self.damage.push(format!(
                "{folder} begins at position {first}, needed from {lowest} on"
            ));
            for (shard, slot) in (0..).map(ShardId).zip(&mut self.slots) {
                if shard.0 % wals == wal && slot.position < first && slot.state.is_ok() {
                    slot.state = Err(begins_behind(shard, wal, first));
                }
            }
        }
        if let Some(highest) = highest.filter(|&highest| highest > recovery.tail) {
            // New records must lie above every snapshot, or the next recovery would pass them over.
            let range = recovery.tail..highest;
            self.damage.push(format!(
                "{folder} ends at {}, before position {highest} of a checkpoint",
                range.start
            ));
            for (shard, slot) in (0..).map(ShardId).zip(&mut self.slots) {
                if shard.0 % wals == wal && slot.state.is_ok() {
                    slot.state = Err(ends_before(shard, wal));
                }
            }
            recovery.tail = highest;
        }
        recovery
    }
}

impl Recovery {
    pub(crate) fn reaches_back(&self) -> bool {
        self.segments
            .first()
            .is_none_or(|segment| segment.first == 0)
    }
}

/// The record as the projection sees it; `None` for a damaged change of state.
fn replayed(entry: &Entry, payload: Option<Bytes>) -> Option<Replayed> {
    match entry.kind {
        Kind::State => payload.map(Replayed::State),
        Kind::Message => Some(match payload.and_then(|p| Envelope::decode(p).ok()) {
            Some(envelope) => Replayed::Message(envelope),
            None => Replayed::Lost {
                topic: TopicId(entry.topic),
                queue: QueueId(entry.queue),
                offset: millpond_proto::message::Offset(entry.offset),
            },
        }),
    }
}
