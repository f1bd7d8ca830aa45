//! The writer of a WAL: a few lanes that take turns, so that several durable writes are in flight.
//!
//! One lane at a time holds the intake: it takes what waits, gives it a place in the log, and lets go of
//! the intake before it writes. Then the next lane takes what has come meanwhile. So a lone append waits
//! for nobody and crosses from thread to thread only once, and a disk that does more with several writes
//! at once gets them.
//!
//! There is no timer. While a write is in flight, appends gather; a further write starts beside it once
//! [`Start::overlap_bytes`] wait, because many small writes at once are slower than one that holds them all.
//! Nobody is woken for an append that would only be put to the others: the queue tells when enough has
//! come ([`Door`]).
//!
//! **Invariants.** Blocks are shown and answered in their order, whatever order they land in. After a
//! failed write or sync nothing is answered OK any more, and no sync is tried again: the kernel may have
//! dropped what it could not write. Each lane has a handle of its own on the segment, because a handle
//! tells of a failed write only once.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

use crate::disk::{Disk, DiskFile, Way};
use crate::error::AppendError;
use crate::format::block::{self, Entry, Head};
use crate::log::Position;
use crate::queue::view::View;
use crate::wal::segment::{self, HEADER_BYTES, Room, Segment};
use crate::wal::spare::{FIRST_BYTES, Spares};

/// Appends that may wait for the writer.
pub const QUEUE_MAX: usize = 4096;
/// Bytes of appends that may wait for the writers.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(block::APPEND_BYTES_MAX <= QUEUE_BYTES_MAX);

/// Records that become durable together.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) entries: Vec<Entry>,
    pub(crate) payload: Bytes,
    pub(crate) reply: oneshot::Sender<Result<Position, AppendError>>,
    /// Its share of [`QUEUE_BYTES_MAX`], given back when it is dropped.
    pub(crate) _share: OwnedSemaphorePermit,
}

impl Append {
    /// Bytes that it adds to a block.
    pub(crate) fn block_bytes(entries: usize, payload: usize) -> usize {
        2 * entries * block::ENTRY_BYTES + payload
    }

    fn bytes(&self) -> usize {
        Self::block_bytes(self.entries.len(), self.payload.len())
    }
}

/// What a writer is told.
#[derive(Debug)]
pub(crate) enum Command {
    Append(Append),
    Close,
}

/// The way to a writer.
#[derive(Debug)]
pub(crate) struct Door {
    commands: mpsc::Sender<Command>,
    backlog: Arc<Backlog>,
}

/// What a writer takes in.
#[derive(Debug)]
pub(crate) struct Queue {
    commands: mpsc::Receiver<Command>,
    backlog: Arc<Backlog>,
}

/// How much waits in the queue, and how much is enough for a writer that waits for more. What is counted
/// is in the queue; what was taken at once may be counted off before it was counted.
#[derive(Debug, Default)]
struct Backlog {
    bytes: AtomicIsize,
    enough: AtomicIsize,
    grown: Notify,
}

/// A queue and the way to it.
pub(crate) fn queue() -> (Door, Queue) {
    let (sender, commands) = mpsc::channel(QUEUE_MAX);
    let backlog = Arc::new(Backlog::default());
    let door = Door {
        commands: sender,
        backlog: Arc::clone(&backlog),
    };
    (door, Queue { commands, backlog })
}

impl Door {
    /// Tells the writer something, waiting while its queue is full; whether there is a writer.
    pub(crate) async fn send(&self, command: Command) -> bool {
        let Ok(place) = self.commands.reserve().await else {
            return false;
        };
        let bytes = signed(command.bytes());
        place.send(command);
        let backlog = &self.backlog;
        let before = backlog.bytes.fetch_add(bytes, Ordering::SeqCst);
        let enough = backlog.enough.load(Ordering::SeqCst);
        if before < enough && enough <= before + bytes {
            backlog.grown.notify_one();
        }
        true
    }
}

impl Queue {
    /// What waits, without waiting for it.
    fn take(&mut self) -> Result<Command, mpsc::error::TryRecvError> {
        let command = self.commands.try_recv()?;
        self.taken(&command);
        Ok(command)
    }

    /// The next command; none when nobody can send any more.
    async fn next(&mut self) -> Option<Command> {
        let command = self.commands.recv().await?;
        self.taken(&command);
        Some(command)
    }

    fn taken(&self, command: &Command) {
        let waiting = &self.backlog.bytes;
        waiting.fetch_sub(signed(command.bytes()), Ordering::SeqCst);
    }

    /// Waits until at least so many bytes wait.
    async fn grown(&self, enough: usize) {
        let enough = signed(enough);
        // The mark is set before the look: an append that comes in between sees it.
        self.backlog.enough.store(enough, Ordering::SeqCst);
        while self.backlog.bytes.load(Ordering::SeqCst) < enough {
            self.backlog.grown.notified().await;
        }
    }
}

impl Command {
    /// Bytes that it adds to a block.
    fn bytes(&self) -> usize {
        match self {
            Self::Append(append) => append.bytes(),
            Self::Close => 0,
        }
    }
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// Where a writer begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) wal: u16,
    pub(crate) term: u64,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    /// Bytes that must wait before a write starts beside one that is in flight.
    pub(crate) overlap_bytes: usize,
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
    intake: tokio::sync::Mutex<Intake>,
    landing: Mutex<Landing>,
    /// Something has landed.
    landed: Notify,
}

/// Where the next block goes, and what waits for it.
#[derive(Debug)]
struct Intake {
    queue: Queue,
    /// Did not fit into the block before.
    held: Option<Append>,
    segment: Segment,
    next: u64,
    sequence: u64,
    /// Number of the next flight.
    ticket: u64,
    /// What the incarnation ends with.
    ending: Option<Ending>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It was told to close.
    Closed,
    /// Nobody can append any more.
    Abandoned,
}

/// A group of appends on its way to the disk.
#[derive(Debug)]
struct Flight {
    ticket: u64,
    /// Nothing to write without.
    block: Option<block::Header>,
    segment: Segment,
    group: Vec<Append>,
    /// Where the log stood when it took off.
    position: u64,
    /// The last, empty block, which nobody waits for.
    is_closing_mark: bool,
}

/// The block that a flight wrote; none when it had nothing to write.
type Written = io::Result<Option<(Head, Bytes)>>;

#[derive(Debug, Default)]
struct Landing {
    /// The ticket that is answered next.
    next: u64,
    landed: BTreeMap<u64, (Flight, Written)>,
}

/// A lane's own handle on the segment it writes.
type Handle = Option<(String, Box<dyn DiskFile>)>;

impl Writer {
    /// A writer that goes on in `segment`, which is the last one that `view` shows.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        view: Arc<View>,
        start: Start,
        segment: Segment,
        queue: Queue,
        wanted: mpsc::Sender<u64>,
    ) -> Self {
        let writer = Self {
            disk,
            view,
            start,
            wanted,
            intake: tokio::sync::Mutex::new(Intake {
                queue,
                held: None,
                segment: segment.clone(),
                next: start.position,
                sequence: start.sequence,
                ticket: 0,
                ending: None,
                is_over: false,
            }),
            landing: Mutex::default(),
            landed: Notify::new(),
        };
        writer.want_next(segment.file_bytes);
        writer
    }

    /// One lane: writes until the writer is told to close, all senders are gone, or the disk fails.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut handle = None;
        loop {
            let flight = {
                let mut intake = self.intake.lock().await;
                match self.next_flight(&mut intake).await {
                    Some(flight) => flight,
                    None => return,
                }
            };
            let result = self.write(&flight, &mut handle).await;
            self.land(flight, result);
        }
    }

    async fn next_flight(&self, intake: &mut Intake) -> Option<Flight> {
        if intake.is_over {
            return None;
        }
        let group = self.gather(intake).await;
        if let Some(error) = self.view.failure() {
            self.end(intake, group, &error);
            return None;
        }
        if group.is_empty() {
            return self.last_flight(intake).await;
        }
        match self.take_off(intake, group, false) {
            Ok(flight) => Some(flight),
            Err((group, error)) => {
                let error = self.view.fail(error);
                self.end(intake, group, &error);
                None
            }
        }
    }

    /// Takes what waits, up to the size of a block. Empty once nothing comes any more.
    async fn gather(&self, intake: &mut Intake) -> Vec<Append> {
        let mut group = Vec::new();
        let mut bytes = 0;
        if let Some(held) = intake.held.take() {
            bytes = held.bytes();
            group.push(held);
        }
        let mut received = None;
        loop {
            while bytes < block::TARGET_BYTES && intake.ending.is_none() {
                let next = received.take().map_or_else(|| intake.queue.take(), Ok);
                match next {
                    Ok(Command::Append(append)) => {
                        bytes += append.bytes();
                        if bytes > block::TARGET_BYTES && !group.is_empty() {
                            intake.held = Some(append);
                        } else {
                            group.push(append);
                        }
                    }
                    Ok(Command::Close) => intake.ending = Some(Ending::Closed),
                    Err(mpsc::error::TryRecvError::Disconnected) => {
                        intake.ending = Some(Ending::Abandoned);
                    }
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
            }
            // Another WAL's failure ends the whole incarnation.
            let is_ending = intake.ending.is_some() || self.view.failure().is_some();
            let in_flight = intake.ticket - self.landing().next;
            let overlap_bytes = self.start.overlap_bytes.min(block::TARGET_BYTES);
            let is_enough = in_flight == 0 || bytes >= overlap_bytes || is_ending;
            if is_enough && (is_ending || !group.is_empty()) {
                return group;
            }
            if in_flight == 0 {
                received = intake.queue.next().await;
                if received.is_none() {
                    intake.ending = Some(Ending::Abandoned);
                }
                continue;
            }
            // That the queue was closed is found out when what is in flight has landed.
            tokio::select! {
                biased;
                () = self.landed.notified() => {}
                () = intake.queue.grown(overlap_bytes.saturating_sub(bytes).max(1)) => {}
            }
        }
    }

    /// Gives a group its place in the log.
    fn take_off(
        &self,
        intake: &mut Intake,
        group: Vec<Append>,
        is_closing_mark: bool,
    ) -> Result<Flight, (Vec<Append>, io::Error)> {
        let records = group.iter().map(|append| append.entries.len()).sum();
        let body = group.iter().map(|append| append.payload.len()).sum();
        let position = intake.next;
        let mut block = None;
        if records > 0 || is_closing_mark {
            let block_bytes = block::block_bytes(records, body) as u64;
            if let Err(error) = self.make_room(intake, block_bytes) {
                return Err((group, error));
            }
            block = Some(block::Header {
                wal: self.start.wal,
                term: self.start.term,
                sequence: intake.sequence,
                position,
                durable: self.view.wal(self.start.wal).durable(),
            });
            intake.next += block_bytes;
            intake.sequence += 1;
        }
        intake.ticket += 1;
        Ok(Flight {
            ticket: intake.ticket - 1,
            block,
            segment: intake.segment.clone(),
            group,
            position,
            is_closing_mark,
        })
    }

    /// Goes on in a new segment when this one has no room for the block. Writes that are in flight go on
    /// meanwhile, so the new header does not say that they are durable.
    fn make_room(&self, intake: &mut Intake, block_bytes: u64) -> io::Result<()> {
        let used = intake.next - intake.segment.first;
        if used == 0 || intake.segment.has_room(used, block_bytes) {
            return Ok(());
        }
        let wal = self.view.wal(self.start.wal);
        let header = segment::Header {
            wal: self.start.wal,
            term: self.start.term,
            first: intake.next,
            durable: wal.durable(),
            sequence: intake.sequence,
        };
        let least = HEADER_BYTES as u64 + block_bytes;
        let wanted = wal.spares.next_size(intake.segment.file_bytes);
        // A smaller spare is used when no other is there: segments grow again while the log has time.
        intake.segment = create_segment(&*self.disk, &wal.spares, &header, least, wanted)?;
        wal.segments.push(intake.segment.clone());
        self.want_next(intake.segment.file_bytes);
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

    async fn write(
        &self,
        flight: &Flight,
        handle: &mut Handle,
    ) -> io::Result<Option<(Head, Bytes)>> {
        let Some(header) = flight.block else {
            return Ok(None);
        };
        let appends = flight.group.iter();
        let appends = appends.map(|append| (&append.entries[..], &append.payload[..]));
        let (head, block) = block::encode(header, appends);
        let segment = &flight.segment;
        if handle
            .as_ref()
            .is_none_or(|(path, _)| *path != segment.path)
        {
            *handle = Some((segment.path.clone(), self.open(&segment.path)?));
        }
        let (_, file) = handle.as_ref().expect("just opened");
        for _ in 0..file.turns() {
            tokio::task::yield_now().await;
        }
        file.write_durable(&block, segment.file_offset(header.position))?;
        Ok(Some((head, block)))
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
        {
            let mut landing = self.landing();
            landing.landed.insert(flight.ticket, (flight, result));
            loop {
                let next = landing.next;
                let Some((flight, result)) = landing.landed.remove(&next) else {
                    break;
                };
                landing.next += 1;
                self.answer(flight, result.unwrap_or_default());
            }
        }
        self.landed.notify_one();
    }

    fn answer(&self, flight: Flight, written: Option<(Head, Bytes)>) {
        if let Some(error) = self.view.failure() {
            return answer_all(flight.group, &error);
        }
        let has_block = written.is_some();
        if let Some((head, block)) = written {
            self.view.publish(&head, block);
        }
        let mut records = 0;
        for append in flight.group {
            records += append.entries.len();
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

    /// Ends with an empty block, once all has landed: its mark says that everything before it was durable.
    async fn last_flight(&self, intake: &mut Intake) -> Option<Flight> {
        while intake.ticket > self.landing().next {
            self.landed.notified().await;
        }
        let is_closed = intake.ending == Some(Ending::Closed);
        let has_written = intake.next > self.start.position;
        let mark = if is_closed && has_written && self.view.failure().is_none() {
            self.take_off(intake, Vec::new(), true).ok()
        } else {
            None
        };
        let error = self.view.failure().unwrap_or(AppendError::Closed);
        self.end(intake, Vec::new(), &error);
        mark
    }

    /// Refuses all that waits; the lanes end as they find out.
    fn end(&self, intake: &mut Intake, group: Vec<Append>, error: &AppendError) {
        intake.is_over = true;
        intake.queue.commands.close();
        answer_all(group, error);
        answer_all(intake.held.take(), error);
        while let Ok(command) = intake.queue.take() {
            if let Command::Append(append) = command {
                answer_all([append], error);
            }
        }
    }
}

fn answer_all(group: impl IntoIterator<Item = Append>, error: &AppendError) {
    for append in group {
        let _ = append.reply.send(Err(error.clone()));
    }
}
