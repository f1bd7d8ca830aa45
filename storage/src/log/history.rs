//! Reading back what a shard wrote to the log besides messages, as far as the log reaches.
//!
//! For people who ask what happened, not for the server's own work: it reads whole segments on a thread that
//! may wait for the disk, and says how far back it looked and what it could not read.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millpond_proto::message::ShardId;
use millpond_proto::task::Lane;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::error::ReadError;
use crate::format::block::{self, Head, Kind};
use crate::format::checksum::crc32c;
use crate::format::envelope::Envelope;
use crate::log::Storage;
use crate::queue::view::Wal;
use crate::wal::segment::Segment;

/// Bytes that are read at once, unless one block is larger.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// No block is larger: one append, or some that together reached the target, with their directories twice.
const BLOCK_BYTES_MAX: u64 = (3 * block::APPEND_BYTES_MAX + block::TARGET_BYTES) as u64;

/// How far back a shard's records were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Store time, ms, of the first message of the log that was read, of whatever shard; none when there
    /// was none.
    pub since_ms: Option<i64>,
    /// Bytes of the log that were read.
    pub bytes: u64,
    /// Places that could not be read.
    pub damaged: u64,
    /// Whether the log is kept from its beginning, so that there is nothing before.
    pub is_whole: bool,
}

impl Storage {
    /// Hands `told` each durable state record of a shard, oldest first: of the last `bytes_max` bytes of the
    /// log, counted in whole segments and at least one.
    ///
    /// # Errors
    /// [`ReadError::Disk`] when the disk said no.
    pub async fn history<A: Send + 'static>(
        &self,
        shard: ShardId,
        bytes_max: u64,
        mut told: A,
        tell: impl Fn(&mut A, &[u8]) + Send + 'static,
    ) -> Result<(A, History), ReadError> {
        let (reply, answer) = oneshot::channel();
        let view = Arc::clone(&self.view);
        let wal = shard.0 % self.settings.wals;
        let work = async move {
            let found = read_back(view.wal(wal), (wal, shard), bytes_max, |bytes| {
                tell(&mut told, bytes);
            });
            // The asker may have left.
            let _ = reply.send(found.map(|history| (told, history)));
        };
        // Held until the answer is there: dropping the task would stop it.
        let _task = self.parts.spawn.spawn(Lane::Background, Box::pin(work));
        answer.await.unwrap_or_else(|_| {
            Err(ReadError::Disk {
                place: "the log".to_owned(),
                source: Arc::new(std::io::Error::other("the reading thread has ended")),
            })
        })
    }
}

fn read_back(
    wal: &Wal,
    of: (u16, ShardId),
    bytes_max: u64,
    mut tell: impl FnMut(&[u8]),
) -> Result<History, ReadError> {
    let end = wal.durable();
    let begins = wal.segments.begins();
    let enough = begins
        .iter()
        .rposition(|&first| end.saturating_sub(first) >= bytes_max);
    let mut at = begins.get(enough.unwrap_or(0)).copied().unwrap_or(end);
    let mut history = History {
        is_whole: at == 0,
        ..History::default()
    };
    while at < end {
        let Some(segment) = wal.segments.holding(at) else {
            // It was let go of meanwhile.
            at = wal
                .segments
                .begins()
                .first()
                .copied()
                .unwrap_or(end)
                .max(at + 1);
            history.is_whole = false;
            continue;
        };
        let behind = wal.segments.begins().into_iter().find(|&first| first > at);
        let stop = behind.unwrap_or(end).min(end);
        at = read_segment(&segment, at..stop, of, &mut history, &mut tell)?;
    }
    Ok(history)
}

/// Reads the blocks of a range of a segment; answers where to go on.
fn read_segment(
    segment: &Segment,
    range: std::ops::Range<u64>,
    (wal, shard): (u16, ShardId),
    history: &mut History,
    tell: &mut impl FnMut(&[u8]),
) -> Result<u64, ReadError> {
    let mut at = range.start;
    let mut window = WINDOW_BYTES;
    while at < range.end {
        let bytes = read(segment, at, window.min(range.end - at))?;
        let mut used = 0;
        while let Some(block) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let position = at + used as u64;
            let head = Head::decode(block);
            let ours = head.filter(|h| (h.header.wal, h.header.position) == (wal, position));
            let Some(head) = ours.filter(|head| head.copy_at() <= block.len()) else {
                break;
            };
            read_block(&head, block, shard, history, tell);
            used += head.block_bytes();
        }
        history.bytes += used.min(bytes.len()) as u64;
        if used > 0 {
            at += used as u64;
            window = WINDOW_BYTES;
        } else if window < BLOCK_BYTES_MAX {
            window = BLOCK_BYTES_MAX;
        } else {
            // Where the next block begins can not be told.
            history.damaged += 1;
            return Ok(range.end);
        }
    }
    Ok(range.end)
}

fn read(segment: &Segment, at: u64, length: u64) -> Result<Bytes, ReadError> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let mut buffer = BytesMut::zeroed(length);
    let read = segment.file.read_at(&mut buffer, segment.file_offset(at));
    let count = read.map_err(|source| ReadError::Disk {
        place: segment.path.clone(),
        source: Arc::new(source),
    })?;
    buffer.truncate(count);
    Ok(buffer.freeze())
}

fn read_block(
    head: &Head,
    block: &[u8],
    shard: ShardId,
    history: &mut History,
    tell: &mut impl FnMut(&[u8]),
) {
    for (entry, from) in head.payloads() {
        let is_state = entry.kind == Kind::State && entry.shard == shard.0;
        let is_first = entry.kind == Kind::Message && history.since_ms.is_none();
        if !is_state && !is_first {
            continue;
        }
        let payload = block.get(from..from + entry.length as usize);
        let Some(payload) = payload.filter(|bytes| crc32c(&[bytes]) == entry.checksum) else {
            history.damaged += u64::from(is_state);
            continue;
        };
        if is_state {
            tell(payload);
        } else if let Ok(message) = Envelope::decode(payload) {
            history.since_ms = Some(message.stored_at_ms);
        }
    }
}

#[cfg(test)]
mod tests;
