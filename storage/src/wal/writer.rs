//! The writer of a WAL: a few lanes that take turns, so that several durable writes are in flight.
//!
//! One lane at a time takes from the intake what waits, gives it a place in the log, and lets the next one
//! in before it writes. So a lone append waits for nobody and crosses from thread to thread only once, and
//! a disk that does more with several writes at once gets them. When a write starts: `intake`. There are
//! more lanes than writes in flight, so that some show and answer what has landed while others write.
//!
//! **Invariants.** Blocks are shown and answered in their order, whatever order they land in. After a
//! failed write or sync nothing is answered OK any more, and no sync is tried again: the kernel may have
//! dropped what it could not write. Each lane has a handle of its own on the segment, because a handle
//! tells of a failed write only once. Nobody waits for a lane that has panicked: `fuse`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::disk::{Disk, DiskFile, Way};
use crate::error::AppendError;
use crate::format::block::{self, Builder, Head};
use crate::log::Position;
use crate::queue::view::View;
use crate::wal::buffers::{Buffer, Buffers};
use crate::wal::fuse::Fuse;
use crate::wal::intake::{self, Append, Ending, Intake, Turn};
use crate::wal::segment::{self, HEADER_BYTES, Room, Segment};
use crate::wal::spare::{FIRST_BYTES, Spares};

/// Lanes above the number of writes in flight: they show and answer.
pub(crate) const SHOWING_LANES: usize = 1;

/// Where a writer begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) wal: u16,
    pub(crate) term: u64,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
}

impl Start {
    /// Makes the first segment of this incarnation.
    pub(crate) fn create_segment(&self, disk: &dyn Disk, spares: &Spares) -> io::Result<Segment> {
        let header = segment::Header {
            wal: self.wal,
            term: self.term,
            first: self.position,
            durable: self.position,
            sequence: self.sequence,
        };
        create_segment(disk, spares, &header, 0, FIRST_BYTES)
    }
}

/// Makes a segment of a spare of `least` bytes, or else of a new file of up to `wanted`.
fn create_segment(
    disk: &dyn Disk,
    spares: &Spares,
    header: &segment::Header,
    least: u64,
    wanted: u64,
) -> io::Result<Segment> {
    if let Some(spare) = spares.take(least) {
        return Segment::create(disk, header, Room::Spare(spare));
    }
    let [wanted, least] = spares.fresh_sizes(wanted, least);
    match Segment::create(disk, header, Room::Fresh(wanted)) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull && least < wanted => {
            Segment::create(disk, header, Room::Fresh(least))
        }
        made => made,
    }
}

/// The one who writes a WAL; every lane has a share in it.
#[derive(Debug)]
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    view: Arc<View>,
    start: Start,
    /// Asks for spares of a size.
    wanted: mpsc::Sender<u64>,
    intake: Arc<Intake>,
    /// Held while a lane takes its turn.
    place: Mutex<Place>,
    landing: Mutex<Landing>,
}

/// Where the next block goes.
#[derive(Debug)]
struct Place {
    segment: Segment,
    buffers: Buffers,
    next: u64,
    sequence: u64,
    /// Number of the next flight.
    ticket: u64,
}

/// A group of appends on its way to the disk.
#[derive(Debug)]
struct Flight {
    ticket: u64,
    /// What begins the block, its records and the memory for it. Nothing to write without.
    block: Option<(block::Header, usize, Buffer)>,
    segment: Segment,
    group: Vec<Append>,
    /// What the intake counts for it.
    bytes: usize,
    /// Where the log stood when it took off.
    position: u64,
    /// The last, empty block, which nobody waits for.
    is_closing_mark: bool,
}

/// The block that a flight wrote, and what its memory counts for; none when it had nothing to write.
type Written = io::Result<Option<Block>>;

type Block = (Head, Bytes, usize);

#[derive(Debug, Default)]
struct Landing {
    /// The ticket that is answered next.
    next: u64,
    /// A lane shows and answers; what lands meanwhile is left to it.
    is_answering: bool,
    landed: BTreeMap<u64, (Flight, Written)>,
}

/// A lane's own handle on the segment it writes, and the way that was chosen when it was opened.
type Handle = Option<(String, Way, Box<dyn DiskFile>)>;

impl Writer {
    /// A writer that goes on in `segment`, which is the last one that `view` shows.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        view: Arc<View>,
        start: Start,
        segment: Segment,
        intake: Arc<Intake>,
        wanted: mpsc::Sender<u64>,
    ) -> Self {
        let place = Mutex::new(Place {
            segment: segment.clone(),
            buffers: Buffers::new(view.wal(start.wal).cache_bytes()),
            next: start.position,
            sequence: start.sequence,
            ticket: 0,
        });
        let writer = Self {
            disk,
            view,
            start,
            wanted,
            intake,
            place,
            landing: Mutex::default(),
        };
        writer.want_next(segment.file_bytes);
        writer
    }

    /// One lane: writes until the writer is told to close, nobody can append any more, or the disk fails.
    pub(crate) async fn run(self: Arc<Self>, lane: usize) {
        let _fuse = Fuse::new(Arc::clone(&self));
        let mut handle = None;
        while let Some(mut flight) = self.next_flight(lane).await {
            let written = self.write(&mut flight, &mut handle).await;
            self.land(flight, written);
        }
    }

    async fn next_flight(&self, lane: usize) -> Option<Flight> {
        let mut has_watched = false;
        loop {
            let turn = {
                let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
                match self.intake.turn(lane, has_watched) {
                    Turn::Write(group) => return self.begin(&mut place, group),
                    Turn::End(ending) => return self.last_flight(&mut place, ending),
                    turn => turn,
                }
            };
            has_watched = false;
            match turn {
                Turn::Watch(looks) => {
                    self.intake.watch(looks);
                    has_watched = true;
                }
                Turn::Sleep => self.intake.sleep(lane).await,
                _ => return None,
            }
        }
    }

    /// Begins the flight of a group, or ends the log when it has failed.
    fn begin(&self, place: &mut Place, group: Vec<Append>) -> Option<Flight> {
        // Another WAL's failure ends the whole incarnation.
        let (group, error) = match self.view.failure() {
            Some(error) => (group, error),
            None => match self.take_off(place, group, false) {
                Ok(flight) => return Some(flight),
                Err((group, error)) => (group, self.view.fail(error)),
            },
        };
        answer_all(group, &error);
        self.end(&error);
        None
    }

    /// Gives a group its place in the log.
    fn take_off(
        &self,
        place: &mut Place,
        group: Vec<Append>,
        is_closing_mark: bool,
    ) -> Result<Flight, (Vec<Append>, io::Error)> {
        let records = group.iter().map(|append| append.count).sum();
        let body = group.iter().map(|append| append.payload_bytes).sum();
        let position = place.next;
        let mut block = None;
        if records > 0 || is_closing_mark {
            let block_bytes = block::block_bytes(records, body);
            if let Err(error) = self.make_room(place, block_bytes as u64) {
                return Err((group, error));
            }
            let header = block::Header {
                wal: self.start.wal,
                term: self.start.term,
                sequence: place.sequence,
                position,
                durable: self.view.wal(self.start.wal).durable(),
            };
            block = Some((header, records, place.buffers.take(block_bytes)));
            place.next += block_bytes as u64;
            place.sequence += 1;
        }
        place.ticket += 1;
        Ok(Flight {
            ticket: place.ticket - 1,
            block,
            segment: place.segment.clone(),
            bytes: intake::bytes_of(&group),
            group,
            position,
            is_closing_mark,
        })
    }

    /// Goes on in a new segment when this one has no room for the block. Writes that are in flight go on
    /// meanwhile, so the new header does not say that they are durable.
    fn make_room(&self, place: &mut Place, block_bytes: u64) -> io::Result<()> {
        let used = place.next - place.segment.first;
        let wal = self.view.wal(self.start.wal);
        let has_room = place.segment.has_room(used, block_bytes);
        if used == 0 || (has_room && !wal.segments.takes_new()) {
            return Ok(());
        }
        let header = segment::Header {
            wal: self.start.wal,
            term: self.start.term,
            first: place.next,
            durable: wal.durable(),
            sequence: place.sequence,
        };
        let least = HEADER_BYTES as u64 + block_bytes;
        let wanted = wal.spares.next_size(place.segment.file_bytes);
        // A smaller spare is used when no other is there: segments grow again while the log has time.
        place.segment = create_segment(&*self.disk, &wal.spares, &header, least, wanted)?;
        wal.segments.push(place.segment.clone());
        self.want_next(place.segment.file_bytes);
        Ok(())
    }

    /// Asks for a spare that the next segment can be made of; it is no loss when nobody has the time.
    fn want_next(&self, file_bytes: u64) {
        let wanted = self.view.wal(self.start.wal).spares.next_size(file_bytes);
        let _ = self.wanted.try_send(wanted);
    }

    /// Opens a segment the way that was chosen, or else the way that every file system has.
    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        match self.disk.open_durable(path, self.view.way()) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                tracing::warn!(%error, path, "no way past the system's cache; writing through it");
                self.view.set_way(Way::Buffered);
                self.disk.open_durable(path, Way::Buffered)
            }
            opened => opened,
        }
    }

    async fn write(&self, flight: &mut Flight, handle: &mut Handle) -> Written {
        let Some((header, records, buffer)) = flight.block.take() else {
            return Ok(None);
        };
        let block_bytes = buffer.room.capacity();
        let mut block = Builder::new(header, records, buffer.room);
        for append in &mut flight.group {
            for record in &append.records {
                record.write(append.shard, &mut block);
            }
            append.records = Vec::new();
        }
        let (head, block) = block.finish();
        assert_eq!(block.len(), block_bytes, "records are as long as they said");
        let segment = &flight.segment;
        // Blocks share no page, so a segment may be written both ways, and what was measured counts at once.
        let way = self.view.way();
        if handle
            .as_ref()
            .is_none_or(|(path, opened, _)| *path != segment.path || *opened != way)
        {
            *handle = Some((segment.path.clone(), way, self.open(&segment.path)?));
        }
        let (.., file) = handle.as_ref().expect("just opened");
        for _ in 0..file.turns() {
            tokio::task::yield_now().await;
        }
        file.write_durable(&block, segment.file_offset(header.position))?;
        Ok(Some((head, block, buffer.counts)))
    }

    /// Shows and answers what has landed, as far as all before it has landed too.
    fn land(&self, flight: Flight, result: Written) {
        let result = match result {
            Err(error) if flight.is_closing_mark => {
                tracing::warn!(%error, "the closing mark was not written; everything acknowledged is safe");
                Ok(None)
            }
            Err(error) => Err(io::Error::other(self.view.fail(error))),
            written => written,
        };
        self.intake.landed(flight.bytes);
        let mut landing = self.landing();
        landing.landed.insert(flight.ticket, (flight, result));
        if let Some(error) = self.view.failure() {
            drop(landing);
            return self.fall(&error);
        }
        if landing.is_answering {
            return;
        }
        landing.is_answering = true;
        let mut groups = 0;
        loop {
            let next = landing.next;
            let Some((flight, result)) = landing.landed.remove(&next) else {
                break;
            };
            landing.next += 1;
            groups += 1;
            drop(landing);
            self.answer(flight, result.unwrap_or_default());
            landing = self.landing();
        }
        landing.is_answering = false;
        drop(landing);
        self.intake.answered(groups);
        if let Some(error) = self.view.failure() {
            self.fall(&error);
        }
    }

    /// Ends a log that has failed: what has landed waits for no turn, because those before it may never land.
    fn fall(&self, error: &AppendError) {
        let landed = std::mem::take(&mut self.landing().landed);
        for (flight, _) in landed.into_values() {
            answer_all(flight.group, error);
        }
        self.end(error);
    }

    /// Ends the incarnation by something that is no failure of the disk, and answers all that it can reach.
    pub(super) fn break_down(&self, cause: io::Error) {
        let error = self.view.fail(cause);
        self.fall(&error);
    }

    fn answer(&self, flight: Flight, written: Option<Block>) {
        if let Some(error) = self.view.failure() {
            return answer_all(flight.group, &error);
        }
        let has_block = written.is_some();
        if let Some((head, block, counts)) = written {
            self.view.publish(&head, block, counts);
        }
        let mut records = 0;
        for append in flight.group {
            records += append.count;
            let bytes = if has_block {
                block::head_bytes(records)
            } else {
                0
            };
            // The sender may have left; the data stays.
            let _ = append
                .reply
                .send(Ok(Position(flight.position + bytes as u64)));
        }
    }

    fn landing(&self) -> MutexGuard<'_, Landing> {
        self.landing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends with an empty block, now that all has landed: its mark says that everything before it was durable.
    fn last_flight(&self, place: &mut Place, ending: Ending) -> Option<Flight> {
        let has_written = place.next > self.start.position;
        let is_marked = ending == Ending::Closed && has_written && self.view.failure().is_none();
        let mark = is_marked.then(|| self.take_off(place, Vec::new(), true).ok());
        self.end(&self.view.failure().unwrap_or(AppendError::Closed));
        mark.flatten()
    }

    /// Refuses all that waits; the lanes end as they find out.
    fn end(&self, error: &AppendError) {
        answer_all(self.intake.shut(), error);
    }
}

fn answer_all(group: impl IntoIterator<Item = Append>, error: &AppendError) {
    for append in group {
        let _ = append.reply.send(Err(error.clone()));
    }
}
