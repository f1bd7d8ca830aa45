//! What a WAL holds after a restart, record by record, and where it goes on.
//!
//! **Rules.** Everything below the highest durable mark was acknowledged, so what can not be read there
//! is damage: it is reported and stepped over, never cut. The first block at or above the mark that can not
//! be read whole is where the log ends: it was torn, or never landed while later ones did, because several
//! writes are in flight at once. It and all that follows is cut, block by block, because an append is
//! atomic. The next incarnation begins a new segment at the cut, and its header carries the mark.
//!
//! What a file holds from its life before is passed over without a word: it says so itself, by its term
//! and its positions.

#![deny(clippy::indexing_slicing)]

use std::ops::Range;

use bytes::Bytes;

use crate::disk::Disk;
use crate::error::OpenError;
use crate::format::block::{self, Entry, Head, Header};
use crate::format::checksum::crc32c;
use crate::wal::segment::{self, Segment};

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
    /// Segments without a byte that counts: they may be used again once the next one is durable.
    pub(crate) unused: Vec<Segment>,
    pub(crate) tail: u64,
    /// Everything below was durable; what lies between here and the tail was read, no more.
    pub(crate) durable: u64,
    pub(crate) sequence: u64,
    /// Bytes of blocks that were begun, but are behind the end.
    pub(crate) torn_bytes: u64,
    pub(crate) damage: Vec<String>,
    /// What no mark counts above.
    settled: u64,
}

/// A stretch of a segment.
enum Stretch {
    Block { head: Head, from: usize },
    Unreadable { from: usize, to: usize },
}

/// A segment that was read, up to where the next one begins.
struct Scan {
    wal: u16,
    header: Option<segment::Header>,
    body: Bytes,
    stretches: Vec<Stretch>,
}

/// How reading a segment ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The log goes on in the next one, if there is one.
    Open,
    /// The log ends here.
    Cut,
}

/// Reads a WAL from its oldest kept segment on and hands `found` what it finds.
///
/// # Errors
/// [`OpenError`] when the disk fails or a segment is of a newer version.
pub(crate) fn recover(
    disk: &dyn Disk,
    wal: u16,
    found: impl FnMut(Found<'_>),
) -> Result<Recovery, OpenError> {
    recover_settled(disk, wal, u64::MAX, found)
}

/// As [`recover`], of a WAL that is being written: everything below `settled` was durable before the reading began.
///
/// Whatever was read from there on may not have been written yet when it was, also where a block that was read later says
/// that it is durable now; so it ends the log and is no damage.
///
/// # Errors
/// As of [`recover`].
pub(crate) fn recover_settled(
    disk: &dyn Disk,
    wal: u16,
    settled: u64,
    mut found: impl FnMut(Found<'_>),
) -> Result<Recovery, OpenError> {
    let listed = Segment::list(disk, wal)
        .map_err(|source| failed(format!("list {}", segment::folder(wal)), source))?;
    let (mut segments, unused) = without_superseded(listed);
    let mut recovery = Recovery {
        tail: segments.first().map_or(0, |segment| segment.first),
        durable: 0,
        sequence: 0,
        torn_bytes: 0,
        damage: Vec::new(),
        segments: Vec::new(),
        unused,
        settled,
    };
    let mut mark = 0;
    let mut kept = segments.len();
    for (number, segment) in segments.iter().enumerate() {
        let later = segments.get(number + 1..).unwrap_or_default();
        let scan = Scan::read(segment, wal, later.first())?;
        mark = mark.max(scan.mark()).max(next_term_begins(segment, later));
        mark = mark.min(settled);
        if recovery.read_segment(segment, &scan, &mut mark, later, &mut found)? == End::Cut {
            kept = number + 1;
            break;
        }
    }
    recovery.unused.extend(segments.drain(kept..));
    recovery.segments = segments;
    recovery.durable = mark;
    Ok(recovery)
}

fn failed(what: String, source: std::io::Error) -> OpenError {
    OpenError::Disk { what, source }
}

/// Sets aside the segments that count no more: a later term has begun at or below their beginning, so
/// what they hold was cut.
fn without_superseded(segments: Vec<Segment>) -> (Vec<Segment>, Vec<Segment>) {
    let mut counting: Vec<Segment> = Vec::new();
    let mut superseded = Vec::new();
    for segment in segments {
        match counting.last() {
            Some(last) if last.term > segment.term => superseded.push(segment),
            Some(last) if last.first == segment.first => {
                superseded.extend(counting.pop());
                counting.push(segment);
            }
            _ => counting.push(segment),
        }
    }
    (counting, superseded)
}

/// Where a later incarnation has begun to write: all below was made durable first.
fn next_term_begins(segment: &Segment, later: &[Segment]) -> u64 {
    let next = later.iter().find(|next| next.term > segment.term);
    next.map_or(0, |next| next.first)
}

impl Scan {
    fn read(segment: &Segment, wal: u16, next: Option<&Segment>) -> Result<Self, OpenError> {
        let end = next.map(|next| segment.file_offset(next.first));
        let bytes = segment
            .read(end)
            .map_err(|source| failed(format!("read {}", segment.path), source))?;
        let header = segment::Header::decode(&bytes).map_err(|version| OpenError::NewerFormat {
            found: u32::from(version),
            known: u32::from(segment::VERSION),
        })?;
        let header =
            header.filter(|h| (h.wal, h.first, h.term) == (wal, segment.first, segment.term));
        Ok(Self {
            wal,
            header,
            stretches: stretches(&bytes, wal, segment),
            body: bytes,
        })
    }

    fn blocks(&self) -> impl Iterator<Item = &Head> {
        self.stretches.iter().filter_map(|stretch| match stretch {
            Stretch::Block { head, .. } => Some(head),
            Stretch::Unreadable { .. } => None,
        })
    }

    /// The highest durable mark in it.
    fn mark(&self) -> u64 {
        let marks = self.blocks().map(|head| head.header.durable);
        let header = self.header.map(|header| header.durable);
        marks.chain(header).max().unwrap_or(0)
    }

    fn block_bytes(&self) -> u64 {
        self.blocks().map(|head| head.block_bytes() as u64).sum()
    }

    fn block(&self, head: &Head, from: usize) -> Bytes {
        let end = (from + head.block_bytes()).min(self.body.len());
        self.body.slice(from.min(end)..end)
    }
}

impl Recovery {
    /// Makes durable what was read above the durable mark: the mark of the next segment will say that it is.
    ///
    /// It is written again, not only synced. After a failed sync the system takes what it could not write for
    /// clean: it is still read, a further sync says yes, and it is gone with the next loss of power.
    ///
    /// # Errors
    /// [`OpenError`] when the disk fails.
    pub(crate) fn make_durable(&self) -> Result<(), OpenError> {
        let ends = self.segments.iter().skip(1).map(|next| next.first);
        for (segment, end) in self.segments.iter().zip(ends.chain([u64::MAX])) {
            let range = self.durable.max(segment.first)..end.min(self.tail);
            if range.start >= range.end {
                continue;
            }
            let again = || {
                let from = segment.file_offset(range.start);
                let bytes = usize::try_from(range.end - range.start);
                let mut bytes = vec![0; bytes.map_err(std::io::Error::other)?];
                let count = segment.file.read_at(&mut bytes, from)?;
                segment
                    .file
                    .write_at(bytes.get(..count).unwrap_or_default(), from)?;
                segment.file.sync()
            };
            again().map_err(|source| failed(format!("write {} again", segment.path), source))?;
        }
        Ok(())
    }

    /// Takes in a segment. `mark` is the highest durable mark known; it is raised by what lies in `later`
    /// only when that decides.
    fn read_segment(
        &mut self,
        segment: &Segment,
        scan: &Scan,
        mark: &mut u64,
        later: &[Segment],
        found: &mut impl FnMut(Found<'_>),
    ) -> Result<End, OpenError> {
        let next = later.first();
        if scan.header.is_none() && segment.first >= self.settled {
            // It is being made just now.
            return Ok(End::Cut);
        }
        match scan.header {
            Some(header) => self.sequence = self.sequence.max(header.sequence),
            None => self.damage.push(format!(
                "the header of {} is damaged; its blocks were read without it",
                segment.path
            )),
        }
        if segment.first > self.tail {
            self.gap(self.tail..segment.first, segment, found);
        }
        self.tail = segment.first;
        for (number, stretch) in scan.stretches.iter().enumerate() {
            let (from, to, readable) = match stretch {
                Stretch::Block { head, from } => {
                    let block = scan.block(head, *from);
                    let is_whole = is_whole(head, &block);
                    let to = from + head.block_bytes();
                    (
                        *from,
                        to,
                        Some((head, block)).filter(|_| is_whole || head.end() <= *mark),
                    )
                }
                Stretch::Unreadable { from, to } => (*from, *to, None),
            };
            if let Some((head, block)) = readable {
                self.read_block(head, &block, segment, found);
                continue;
            }
            let position = |at: usize| segment.first + (at - segment::HEADER_BYTES) as u64;
            if position(from) >= *mark {
                let beyond = Beyond::read(scan.wal, segment, later, position(from))?;
                *mark = (*mark).max(beyond.mark.min(self.settled));
                if position(from) >= *mark {
                    let rest = scan.stretches.get(number..).unwrap_or_default();
                    let begun = rest.iter().map(|stretch| match stretch {
                        Stretch::Block { head, .. } => head.block_bytes() as u64,
                        Stretch::Unreadable { .. } => 0,
                    });
                    self.torn_bytes += begun.sum::<u64>() + beyond.block_bytes;
                    return Ok(End::Cut);
                }
            }
            match stretch {
                Stretch::Block { head, from } => {
                    self.read_block(head, &scan.block(head, *from), segment, found);
                }
                Stretch::Unreadable { .. } => {
                    self.gap(position(from)..position(to), segment, found)
                }
            }
        }
        if let Some(next) = next.filter(|next| self.tail < next.first) {
            // The file is shorter than it must be.
            self.gap(self.tail..next.first, segment, found);
        }
        Ok(End::Open)
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

/// Whether all payloads are there and are what was written.
fn is_whole(head: &Head, block: &Bytes) -> bool {
    let mut payloads = head.payloads();
    payloads.all(|(entry, at)| payload(block, entry, at).is_some())
}

/// What the segments behind one say that matters for its end.
struct Beyond {
    mark: u64,
    block_bytes: u64,
}

impl Beyond {
    /// Reads on until a mark lies above `position`, which shows that it was durable.
    fn read(
        wal: u16,
        segment: &Segment,
        later: &[Segment],
        position: u64,
    ) -> Result<Self, OpenError> {
        let mut beyond = Self {
            mark: next_term_begins(segment, later),
            block_bytes: 0,
        };
        let same_term = later.iter().take_while(|next| next.term == segment.term);
        for (number, next) in same_term.enumerate() {
            if beyond.mark > position {
                break;
            }
            let scan = Scan::read(next, wal, later.get(number + 1))?;
            beyond.mark = beyond.mark.max(scan.mark());
            beyond.block_bytes += scan.block_bytes();
        }
        Ok(beyond)
    }
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
    let bytes = body.get(at..)?;
    let says_so = place_said(bytes, wal, segment)? == at as u64;
    if says_so { Head::decode(bytes) } else { None }
}

/// Where in its file a block stands by what looks like its head, of this segment in this life of its file.
///
/// Nothing is checked yet. What is left from a life before, and what a message brought along that looks like a head, is
/// passed over by it without looking at all of it: a checksum of each would cost whoever opens the log hours.
fn place_said(bytes: &[u8], wal: u16, segment: &Segment) -> Option<u64> {
    let seen = Header::peek(bytes)?;
    let is_ours = seen.wal == wal && seen.term == segment.term;
    let within = seen
        .position
        .checked_sub(segment.first)
        .filter(|_| is_ours)?;
    within.checked_add(segment::HEADER_BYTES as u64)
}

/// The next block behind damage: by its own head, or by the copy behind its payloads.
fn next_block(body: &[u8], damaged: usize, wal: u16, segment: &Segment) -> Option<(Head, usize)> {
    let places = (damaged..body.len()).step_by(block::ALIGN_BYTES).skip(1);
    let by_head = |at| Some((head_at(body, at, wal, segment)?, at));
    let behind = places.into_iter().find_map(by_head);
    let until = behind.as_ref().map_or(body.len(), |&(_, from)| from);
    next_copy(body, damaged, until, wal, segment).or(behind)
}

/// The first block of which the copy of the head can be read and the head itself can not.
fn next_copy(
    body: &[u8],
    damaged: usize,
    until: usize,
    wal: u16,
    segment: &Segment,
) -> Option<(Head, usize)> {
    let mut at = damaged;
    loop {
        let rest = body.get(at..until)?;
        at += rest.windows(4).position(|window| window == block::MAGIC)?;
        if let Some(found) = copy_at(body, at, wal, segment).filter(|(_, from)| *from >= damaged) {
            return Some(found);
        }
        at += 1;
    }
}

/// A valid copy of a head that stands where it says, and where its block begins.
fn copy_at(body: &[u8], at: usize, wal: u16, segment: &Segment) -> Option<(Head, usize)> {
    let bytes = body.get(at..)?;
    let from = usize::try_from(place_said(bytes, wal, segment)?).ok()?;
    let says_so = from.checked_add(Head::peek_copy_at(bytes)?) == Some(at);
    let head = if says_so { Head::decode(bytes) } else { None };
    head.map(|head| (head, from))
}

#[cfg(test)]
mod tests;
