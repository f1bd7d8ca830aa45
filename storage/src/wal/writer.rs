//! The writer of a WAL: everything that waits becomes one block, one write, one sync.
//!
//! There is no timer. While a sync runs, appends gather; the next block takes them all. So a lone
//! append waits for nobody, and under load the blocks grow by themselves.
//!
//! **Invariant.** After a failed write or sync nothing is answered OK any more, and no sync is tried
//! again: the kernel may have dropped what it could not write.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::disk::Disk;
use crate::error::AppendError;
use crate::format::block::{self, Entry, Head};
use crate::log::Position;
use crate::queue::view::View;
use crate::wal::segment::{self, Segment};

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

/// Where a writer begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub(crate) wal: u16,
    pub(crate) term: u64,
    pub(crate) position: u64,
    pub(crate) sequence: u64,
    pub(crate) segment_bytes: u64,
}

/// The one who writes a WAL.
#[derive(Debug)]
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    view: Arc<View>,
    start: Start,
    segment: Segment,
    next: u64,
    sequence: u64,
    commands: mpsc::Receiver<Command>,
}

impl Start {
    /// Makes the first segment of this incarnation.
    pub(crate) fn create_segment(&self, disk: &dyn Disk) -> io::Result<Segment> {
        create_segment(disk, self, self.position, self.sequence)
    }
}

fn create_segment(
    disk: &dyn Disk,
    start: &Start,
    position: u64,
    sequence: u64,
) -> io::Result<Segment> {
    let header = segment::Header {
        wal: start.wal,
        term: start.term,
        first: position,
        durable: position,
        sequence,
    };
    Segment::create(disk, &header)
}

impl Writer {
    /// A writer that goes on in `segment`, which is the last one that `view` shows.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        view: Arc<View>,
        start: Start,
        segment: Segment,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            disk,
            view,
            start,
            segment,
            next: start.position,
            sequence: start.sequence,
            commands,
        }
    }

    /// Writes until it is told to close, all senders are gone, or the disk fails.
    pub(crate) async fn run(mut self) {
        let mut first = None;
        loop {
            let command = match first.take() {
                Some(append) => Some(Command::Append(append)),
                None => self.commands.recv().await,
            };
            match command {
                Some(Command::Append(append)) => {
                    let (group, rest, is_closing) = self.gather(append);
                    if let Err(error) = self.commit(group) {
                        return self.refuse(rest, &error);
                    }
                    first = rest;
                    if is_closing {
                        return self.close();
                    }
                }
                Some(Command::Close) => return self.close(),
                None => return,
            }
        }
    }

    /// Takes what waits, up to the size of a block; what does not fit is the first of the next one.
    fn gather(&mut self, first: Append) -> (Vec<Append>, Option<Append>, bool) {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        while bytes < block::TARGET_BYTES {
            match self.commands.try_recv() {
                Ok(Command::Append(append)) => {
                    bytes += append.bytes();
                    if bytes > block::TARGET_BYTES {
                        return (group, Some(append), false);
                    }
                    group.push(append);
                }
                Ok(Command::Close) => return (group, None, true),
                Err(_) => break,
            }
        }
        (group, None, false)
    }

    /// Makes a group durable and answers it.
    fn commit(&mut self, group: Vec<Append>) -> Result<(), AppendError> {
        // Another WAL's failure ends the whole incarnation.
        if let Some(error) = self.view.failure() {
            return Err(answer_all(group, error));
        }
        let start = self.next;
        if group.iter().any(|append| !append.entries.is_empty()) {
            let appends = group
                .iter()
                .map(|append| (&append.entries[..], &append.payload[..]));
            if let Err(error) = self.write(appends) {
                return Err(answer_all(group, self.view.fail(error)));
            }
        }
        let is_written = self.next > start;
        let mut records = 0;
        for append in group {
            records += append.entries.len();
            let bytes = if is_written {
                block::head_bytes(records)
            } else {
                0
            };
            // The sender may have left; the data stays.
            let _ = append.reply.send(Ok(Position(start + bytes as u64)));
        }
        Ok(())
    }

    fn write<'a>(
        &mut self,
        appends: impl Iterator<Item = (&'a [Entry], &'a [u8])> + Clone,
    ) -> io::Result<()> {
        let header = block::Header {
            wal: self.start.wal,
            term: self.start.term,
            sequence: self.sequence,
            position: self.next,
            durable: self.next,
        };
        let (head, block) = block::encode(header, appends);
        self.make_room(block.len() as u64)?;
        self.segment
            .file
            .write_at(&block, self.segment.file_offset(self.next))?;
        self.segment.file.sync()?;
        assert!(head.end() > self.next, "a block advances the log");
        self.publish(&head, block);
        Ok(())
    }

    fn publish(&mut self, head: &Head, block: Bytes) {
        self.next = head.end();
        self.sequence += 1;
        self.view.publish(head, block);
    }

    /// Goes on in a new segment when the block would make this one too large.
    fn make_room(&mut self, block_bytes: u64) -> io::Result<()> {
        let used = self.next - self.segment.first;
        if used > 0 && used + block_bytes > self.start.segment_bytes {
            self.segment = create_segment(&*self.disk, &self.start, self.next, self.sequence)?;
            let segments = &self.view.wal(self.start.wal).segments;
            segments.push(self.segment.clone());
        }
        Ok(())
    }

    /// Ends with an empty block: its mark says that everything before it was durable.
    fn close(mut self) {
        self.commands.close();
        if self.view.failure().is_none()
            && self.next > self.start.position
            && let Err(error) = self.write(std::iter::empty())
        {
            tracing::warn!(%error, "the closing mark was not written; everything acknowledged is safe");
        }
        let error = self.view.failure().unwrap_or(AppendError::Closed);
        self.refuse(None, &error);
    }

    fn refuse(mut self, rest: Option<Append>, error: &AppendError) {
        self.commands.close();
        if let Some(append) = rest {
            let _ = append.reply.send(Err(error.clone()));
        }
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Append(append) = command {
                let _ = append.reply.send(Err(error.clone()));
            }
        }
    }
}

fn answer_all(group: Vec<Append>, error: AppendError) -> AppendError {
    for append in group {
        let _ = append.reply.send(Err(error.clone()));
    }
    error
}
