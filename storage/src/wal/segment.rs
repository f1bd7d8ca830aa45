//! Segment files: names, headers, and finding the one that holds a position.
//!
//! A segment is `wal/<wal>/<first position>-<term>.log`. It ends where the next one begins; what the file
//! holds behind that place is a torn tail that was cut, or is left from the file's life before: its room
//! is taken when it is made, and it is used again for another segment once nobody needs it.
//!
//! **Invariant.** What is left from a life before never passes for a block of this one: a block says its
//! term and its position, and in one term positions only grow. Bytes: `FORMAT.md`, Segment.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use bytes::{BufMut, Bytes, BytesMut};

use crate::disk::{Disk, DiskFile};
use crate::format::block::{ALIGN_BYTES, Reader};
use crate::format::checksum::crc32c;

/// First bytes of a segment.
pub const MAGIC: [u8; 4] = *b"MPSG";
/// Version of this format.
pub const VERSION: u16 = 1;
/// Header of a segment, filled up so that the first block, which follows, is aligned.
pub const HEADER_BYTES: usize = ALIGN_BYTES;

const CHECKSUMMED_BYTES: usize = 40;

/// Folder of a WAL's segments.
#[must_use]
pub(crate) fn folder(wal: u16) -> String {
    format!("wal/{wal}")
}

/// What the header of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The WAL.
    pub wal: u16,
    /// The incarnation that writes it.
    pub term: u64,
    /// Position of its first byte behind the header.
    pub first: u64,
    /// Everything below was durable when the segment was made.
    pub durable: u64,
    /// Sequence of its first block.
    pub sequence: u64,
}

impl Header {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(self.wal);
        out.put_u64_le(self.term);
        out.put_u64_le(self.first);
        out.put_u64_le(self.durable);
        out.put_u64_le(self.sequence);
        let checksum = crc32c(&[&out]);
        out.put_u32_le(checksum);
        out.put_bytes(0, HEADER_BYTES - out.len());
        out.freeze()
    }

    /// Reads a header; `Err` holds the version when it is valid but newer than ours.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>, u16> {
        let Some(checked) = bytes.get(..CHECKSUMMED_BYTES) else {
            return Ok(None);
        };
        let mut reader = Reader(bytes);
        let mut read = || {
            let is_magic = reader.take::<4>()? == MAGIC;
            let version = reader.u16()?;
            let header = Self {
                wal: reader.u16()?,
                term: reader.u64()?,
                first: reader.u64()?,
                durable: reader.u64()?,
                sequence: reader.u64()?,
            };
            let is_valid = is_magic && reader.u32()? == crc32c(&[checked]);
            is_valid.then_some((version, header))
        };
        match read() {
            Some((version, _)) if version > VERSION => Err(version),
            Some((_, header)) => Ok(Some(header)),
            None => Ok(None),
        }
    }
}

/// An open segment file.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) term: u64,
    pub(crate) path: String,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Length of the file when it was opened: blocks have this room, less the header.
    pub(crate) file_bytes: u64,
}

/// Where a new segment gets its file from.
#[derive(Debug)]
pub(crate) enum Room {
    /// A file that is there already.
    Spare(Spare),
    /// A new one of so many bytes.
    Fresh(u64),
}

/// A file, zeros or left from a segment, that waits to become one.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: String,
    pub(crate) file_bytes: u64,
}

impl Segment {
    /// Makes a segment that is durable, header and name, before it is used. It has its name only once the
    /// header is durable, so a crash on the way leaves a spare, or a file that was not finished.
    pub(crate) fn create(disk: &dyn Disk, header: &Header, room: Room) -> io::Result<Self> {
        let folder = folder(header.wal);
        let name = format!("{folder}/{:020}-{:010}", header.first, header.term);
        let path = format!("{name}.log");
        let (file, from, file_bytes): (Arc<dyn DiskFile>, _, _) = match room {
            Room::Spare(Spare { path, file_bytes }) => (disk.open(&path)?.into(), path, file_bytes),
            Room::Fresh(file_bytes) => {
                let new = format!("{name}.new");
                let file = disk.create(&new)?;
                if let Err(error) = file.allocate(file_bytes) {
                    // Half of a file helps nobody, least of all on a full disk.
                    let _ = disk.remove(&new);
                    return Err(describe_full(&path, file_bytes, error));
                }
                (file.into(), new, file_bytes)
            }
        };
        file.write_durable(&header.encode(), 0)?;
        disk.rename(&from, &path)?;
        disk.sync_folder(&folder)?;
        Ok(Self {
            first: header.first,
            term: header.term,
            path,
            file,
            file_bytes,
        })
    }

    /// Whether a block of `block_bytes` fits behind the first `used` bytes of blocks.
    pub(crate) fn has_room(&self, used: u64, block_bytes: u64) -> bool {
        HEADER_BYTES as u64 + used + block_bytes <= self.file_bytes
    }

    /// All segments of a WAL, oldest first. Names that are not ours are passed over.
    pub(crate) fn list(disk: &dyn Disk, wal: u16) -> io::Result<Vec<Self>> {
        let folder = folder(wal);
        let mut segments = Vec::new();
        for name in disk.list(&folder)? {
            let Some((first, term)) = name.strip_suffix(".log").and_then(|n| n.split_once('-'))
            else {
                continue;
            };
            if let (Ok(first), Ok(term)) = (first.parse(), term.parse()) {
                let path = format!("{folder}/{name}");
                let file: Arc<dyn DiskFile> = disk.open(&path)?.into();
                let file_bytes = file.len()?;
                segments.push(Self {
                    first,
                    term,
                    path,
                    file,
                    file_bytes,
                });
            }
        }
        segments.sort_by_key(|segment| (segment.first, segment.term));
        Ok(segments)
    }

    /// Where a position lies in the file.
    pub(crate) fn file_offset(&self, position: u64) -> u64 {
        position - self.first + HEADER_BYTES as u64
    }

    /// The first `bytes` of the file, or all of it.
    pub(crate) fn read(&self, bytes: Option<u64>) -> io::Result<Bytes> {
        let len = self.file.len()?;
        let len = usize::try_from(bytes.map_or(len, |b| b.min(len))).map_err(io::Error::other)?;
        let mut bytes = BytesMut::zeroed(len);
        let count = self.file.read_at(&mut bytes, 0)?;
        bytes.truncate(count);
        Ok(bytes.freeze())
    }
}

/// Says which file there is no room for, and what to do.
pub(crate) fn describe_full(path: &str, bytes: u64, error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::StorageFull {
        let what = format!("no room on the disk for {path} of {bytes} bytes; free some ({error})");
        io::Error::new(io::ErrorKind::StorageFull, what)
    } else {
        error
    }
}

/// The segments of a WAL that are kept, for readers.
#[derive(Debug)]
pub(crate) struct Segments {
    kept: RwLock<Vec<Segment>>,
    /// Whether the next block begins a new one, however much room there is.
    begins_new: AtomicBool,
}

impl Segments {
    pub(crate) fn new(segments: Vec<Segment>) -> Self {
        Self {
            kept: RwLock::new(segments),
            begins_new: AtomicBool::new(false),
        }
    }

    /// Lets the next block begin a new segment.
    pub(crate) fn begin_new(&self) {
        self.begins_new.store(true, Ordering::Relaxed);
    }

    /// Whether the next block is to begin a new segment; asking takes it back.
    pub(crate) fn takes_new(&self) -> bool {
        self.begins_new.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn push(&self, segment: Segment) {
        self.kept.write().expect("no holder panics").push(segment);
    }

    /// The segment that holds `position`: the last that begins at or below it.
    pub(crate) fn holding(&self, position: u64) -> Option<Segment> {
        let segments = self.kept.read().expect("no holder panics");
        let behind = segments.partition_point(|segment| segment.first <= position);
        segments.get(behind.checked_sub(1)?).cloned()
    }

    /// Where each one begins, in order.
    pub(crate) fn begins(&self) -> Vec<u64> {
        let segments = self.kept.read().expect("no holder panics");
        segments.iter().map(|segment| segment.first).collect()
    }

    /// Takes out those that end at or below `position`; the last one always stays.
    pub(crate) fn take_below(&self, position: u64) -> Vec<Segment> {
        let mut segments = self.kept.write().expect("no holder panics");
        let ends = segments.iter().skip(1).map(|next| next.first);
        let count = ends.take_while(|&end| end <= position).count();
        segments.drain(..count).collect()
    }

    /// Bytes from the first kept position up to `next`.
    pub(crate) fn bytes_up_to(&self, next: u64) -> u64 {
        let segments = self.kept.read().expect("no holder panics");
        segments.first().map_or(0, |segment| next - segment.first)
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    reason = "tests index bytes that they made themselves"
)]
mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;

    fn header(first: u64, term: u64) -> Header {
        Header {
            wal: 0,
            term,
            first,
            durable: first,
            sequence: 4,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written_and_no_bit_may_differ() {
        let bytes = header(7, 3).encode();
        assert_eq!(Header::decode(&bytes), Ok(Some(header(7, 3))));
        for bit in 0..(CHECKSUMMED_BYTES + 4) * 8 {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), Ok(None));
        }
        assert_eq!(Header::decode(&bytes[..20]), Ok(None));
    }

    #[test]
    fn a_position_is_found_in_the_last_segment_that_begins_at_or_below_it() {
        let disk = SimulatedDisk::new();
        disk.create_folder("wal/0").unwrap();
        for (first, term) in [(0, 1), (100, 1), (100, 2), (300, 2)] {
            Segment::create(&disk, &header(first, term), Room::Fresh(8192)).unwrap();
        }
        let segments = Segments::new(Segment::list(&disk, 0).unwrap());
        let found = |position| segments.holding(position).map(|s| (s.first, s.term));
        assert_eq!(found(99), Some((0, 1)));
        assert_eq!(found(100), Some((100, 2)));
        assert_eq!(found(1000), Some((300, 2)));
        assert_eq!(segments.take_below(299).len(), 2);
        assert_eq!(found(99), None);
        assert_eq!(segments.take_below(5000).len(), 1);
        assert_eq!(found(5000), Some((300, 2)));
    }
}
