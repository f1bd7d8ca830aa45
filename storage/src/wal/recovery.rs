//! What a WAL holds after a restart, record by record, and where it goes on.
//!
//! **Rules.** Everything below the highest durable mark was acknowledged, so what can not be read there
//! is damage: it is reported and stepped over, never cut. What can not be read at or above the mark is
//! the torn tail of the last write: it is cut, block by block, because an append is atomic. The next
//! incarnation begins a new segment at the cut, and its header carries the mark.
//!
//! The last block before a crash has no later block that carries a mark for it. There, a record that
//! fails its checksum is damage if every sector was written, and a torn write if a sector is all zeros:
//! segments only grow, so what never reached the disk reads as zeros or lies behind the end of the file.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::block::{self, Entry, Head};
use crate::format::checksum::crc32c;
use crate::wal::segment::{self, Segment};

const SECTOR_BYTES: usize = 512;

/// One thing that recovery finds, in order.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A record; no payload when it is damaged.
    Record {
        /// The position that stands for it.
        position: u64,
        /// Where its payload lies in the WAL.
        payload_position: u64,
        entry: &'a Entry,
        payload: Option<Bytes>,
        path: &'a str,
    },
    /// Records that were durable and can not be found any more.
    Gap { range: Range<u64>, path: &'a str },
}

/// Where the WAL goes on, and what was wrong with it.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) segments: Vec<Segment>,
    pub(crate) tail: u64,
    pub(crate) sequence: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) damage: Vec<String>,
}

/// A stretch of a segment.
enum Stretch {
    Block { head: Head, from: usize },
    Unreadable { from: usize, to: usize },
}

/// Reads a WAL from its oldest kept segment on and hands `found` what it finds.
///
/// # Errors
/// [`OpenError`] when the disk fails or a segment is of a newer version.
pub(crate) fn recover(
    disk: &dyn Disk,
    wal: u16,
    mut found: impl FnMut(Found<'_>),
) -> Result<Recovery, OpenError> {
    let failed = |what: String| move |source| OpenError::Disk { what, source };
    let segments =
        Segment::list(disk, wal).map_err(failed(format!("list {}", segment::folder(wal))))?;
    let mut recovery = Recovery {
        tail: segments.first().map_or(0, |segment| segment.first),
        sequence: 0,
        torn_bytes: 0,
        damage: Vec::new(),
        segments: Vec::new(),
    };
    for (segment, limit) in with_limits(&segments) {
        if limit == Some(segment.first) {
            continue; // Nothing of it was kept.
        }
        let bytes = segment
            .read_all()
            .map_err(failed(format!("read {}", segment.path)))?;
        recovery.read_segment(wal, segment, limit, &bytes, &mut found)?;
    }
    // What was read may not be durable yet if only the process crashed: the mark that the next segment
    // carries says it is, so it must be.
    if let Some(last) = segments.last() {
        last.file
            .sync()
            .map_err(failed(format!("sync {}", last.path)))?;
    }
    recovery.segments = segments;
    Ok(recovery)
}

fn with_limits(segments: &[Segment]) -> impl Iterator<Item = (&Segment, Option<u64>)> {
    let limits = segments.iter().skip(1).map(|next| Some(next.first));
    segments.iter().zip(limits.chain([None]))
}

impl Recovery {
    fn read_segment(
        &mut self,
        wal: u16,
        segment: &Segment,
        limit: Option<u64>,
        bytes: &Bytes,
        found: &mut impl FnMut(Found<'_>),
    ) -> Result<(), OpenError> {
        let header = segment::Header::decode(bytes).map_err(|version| OpenError::NewerFormat {
            found: u32::from(version),
            known: u32::from(segment::VERSION),
        })?;
        let header =
            header.filter(|h| (h.wal, h.first, h.term) == (wal, segment.first, segment.term));
        let body_end = limit.map_or(bytes.len(), |limit| {
            usize::try_from(segment.file_offset(limit))
                .map_or(bytes.len(), |end| end.min(bytes.len()))
        });
        let body = bytes.slice(..body_end);
        let stretches = stretches(&body, wal, segment);
        let blocks = || {
            stretches.iter().filter_map(|stretch| match stretch {
                Stretch::Block { head, .. } => Some(head),
                Stretch::Unreadable { .. } => None,
            })
        };
        match header {
            Some(header) => self.sequence = self.sequence.max(header.sequence),
            // A header is durable before its segment is used: without a block, the making of the file
            // was cut short and nothing was ever in it.
            None if limit.is_none() && blocks().next().is_none() => return Ok(()),
            None => self.damage.push(format!(
                "the header of {} is damaged; its blocks were read without it",
                segment.path
            )),
        }
        let marks = blocks().map(|head| head.header.durable);
        let mark = marks
            .chain(limit)
            .chain(header.map(|h| h.durable))
            .max()
            .unwrap_or(0);
        if segment.first > self.tail {
            self.gap(self.tail..segment.first, segment, found);
        }
        self.tail = segment.first;
        for stretch in &stretches {
            match stretch {
                Stretch::Block { head, from } => {
                    let block = body.slice(*from..(*from + head.block_bytes()).min(body.len()));
                    if head.end() > mark && is_torn(head, &block, *from) {
                        self.torn_bytes += (body.len() - from) as u64;
                        return Ok(());
                    }
                    self.read_block(head, &block, segment, found);
                }
                Stretch::Unreadable { from, to } => {
                    let position = |at: usize| segment.first + (at - segment::HEADER_BYTES) as u64;
                    if position(*from) >= mark {
                        self.torn_bytes += (body.len() - from) as u64;
                        return Ok(());
                    }
                    self.gap(position(*from)..position(*to), segment, found);
                }
            }
        }
        if let Some(limit) = limit.filter(|&limit| self.tail < limit) {
            self.gap(self.tail..limit, segment, found);
        }
        Ok(())
    }

    fn read_block(
        &mut self,
        head: &Head,
        block: &Bytes,
        segment: &Segment,
        found: &mut impl FnMut(Found<'_>),
    ) {
        for (number, (entry, at)) in head.payloads().enumerate() {
            let position = head.record_position(number);
            let payload = payload(block, entry, at);
            if payload.is_none() {
                self.damage.push(format!(
                    "a record of shard {} in {} at position {position} is damaged ({})",
                    entry.shard,
                    segment.path,
                    describe(entry)
                ));
            }
            found(Found::Record {
                position,
                payload_position: head.header.position + at as u64,
                entry,
                payload,
                path: &segment.path,
            });
        }
        self.tail = head.end();
        self.sequence = head.header.sequence + 1;
    }

    fn gap(&mut self, range: Range<u64>, segment: &Segment, found: &mut impl FnMut(Found<'_>)) {
        self.damage.push(format!(
            "positions {} to {} can not be read near {}; which records lay there is unknown",
            range.start, range.end, segment.path
        ));
        self.tail = range.end;
        found(Found::Gap {
            range,
            path: &segment.path,
        });
    }
}

fn describe(entry: &Entry) -> String {
    match entry.kind {
        block::Kind::Message => format!(
            "topic {}, queue {}, offset {}",
            entry.topic, entry.queue, entry.offset
        ),
        block::Kind::State => "a state change".to_owned(),
    }
}

fn payload(block: &Bytes, entry: &Entry, at: usize) -> Option<Bytes> {
    let end = at.checked_add(entry.length as usize)?;
    let payload = block.get(at..end)?;
    (crc32c(&[payload]) == entry.checksum).then(|| block.slice(at..end))
}

/// Whether a block, the last one, was not written whole.
fn is_torn(head: &Head, block: &Bytes, file_offset: usize) -> bool {
    if block.len() < head.bytes() + head.body_bytes as usize {
        return true;
    }
    let is_whole = head
        .payloads()
        .all(|(entry, at)| payload(block, entry, at).is_some());
    !is_whole && (block.len() < head.block_bytes() || has_unwritten_sector(block, file_offset))
}

fn has_unwritten_sector(block: &[u8], file_offset: usize) -> bool {
    let first = (SECTOR_BYTES - file_offset % SECTOR_BYTES).min(block.len());
    let (first, rest) = block.split_at(first);
    let is_zero = |sector: &[u8]| sector.iter().all(|&byte| byte == 0);
    is_zero(first) || rest.chunks(SECTOR_BYTES).any(is_zero)
}

/// Splits a segment into blocks and what lies unreadable between them.
fn stretches(body: &Bytes, wal: u16, segment: &Segment) -> Vec<Stretch> {
    let mut stretches = Vec::new();
    let mut at = segment::HEADER_BYTES;
    while at < body.len() {
        let (head, from) = match head_at(body, at, wal, segment) {
            Some(head) => (head, at),
            None => match next_block(body, at, wal, segment) {
                Some(next) => next,
                None => {
                    stretches.push(Stretch::Unreadable {
                        from: at,
                        to: body.len(),
                    });
                    break;
                }
            },
        };
        if from > at {
            stretches.push(Stretch::Unreadable { from: at, to: from });
        }
        at = from + head.block_bytes();
        stretches.push(Stretch::Block { head, from });
    }
    stretches
}

/// A valid head that stands where it says.
fn head_at(body: &[u8], at: usize, wal: u16, segment: &Segment) -> Option<Head> {
    let head = head_near(body, at, wal, segment)?;
    (segment.file_offset(head.header.position) == at as u64).then_some(head)
}

fn head_near(body: &[u8], at: usize, wal: u16, segment: &Segment) -> Option<Head> {
    let head = Head::decode(body.get(at..)?)?;
    let is_ours = head.header.wal == wal
        && head.header.term == segment.term
        && head.header.position >= segment.first;
    is_ours.then_some(head)
}

/// The next block behind damage: by its own head, or by the copy behind its payloads.
fn next_block(body: &[u8], damaged: usize, wal: u16, segment: &Segment) -> Option<(Head, usize)> {
    let mut at = damaged + 1;
    loop {
        let rest = body.get(at..)?;
        at += rest.windows(4).position(|window| window == block::MAGIC)?;
        if let Some(head) = head_near(body, at, wal, segment) {
            let from = usize::try_from(segment.file_offset(head.header.position)).ok()?;
            let copy_at = from + head.bytes() + head.body_bytes as usize;
            if from >= damaged && (from == at || copy_at == at) {
                return Some((head, from));
            }
        }
        at += 1;
    }
}
