//! A block: one group commit, header first, then a directory, the payloads, and the head once more.
//!
//! The header and the directory (together the *head*) have one checksum, each payload its own. So a
//! flipped bit in a payload damages that record alone, and its place stays known; a flipped bit in
//! the head is mended from its copy behind the payloads. Bytes: `FORMAT.md`, Block.

#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes, BytesMut};

use crate::format::checksum::crc32c;

/// First bytes of a block and of the copy of its head.
pub const MAGIC: [u8; 4] = *b"MPBK";
/// Version of this format.
pub const VERSION: u16 = 1;
/// Header before the directory.
pub const HEADER_BYTES: usize = 56;
/// One entry of the directory.
pub const ENTRY_BYTES: usize = 32;
/// A block takes no further append once it has this size: large enough that a disk is busy with it,
/// small enough that several are under way at once.
pub const TARGET_BYTES: usize = 2 * 1024 * 1024;
/// Blocks begin at multiples of this in their file and are filled up with zeros: what a disk and the
/// system's cache write at once never holds bytes of two blocks.
pub const ALIGN_BYTES: usize = 4096;
/// Largest append, payloads and directory; it has a block to itself when it is above the target.
pub const APPEND_BYTES_MAX: usize = 32 * 1024 * 1024;

const LENGTHS_AT: usize = 40;
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

const _: () = assert!(TARGET_BYTES <= APPEND_BYTES_MAX);

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message: the payload is an envelope.
    Message,
    /// A change of the broker's state: the payload is the broker's.
    State,
}

/// One entry of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The shard that it belongs to.
    pub shard: u16,
    /// What it is.
    pub kind: Kind,
    /// Bytes of its payload.
    pub length: u32,
    /// CRC32C of its payload.
    pub checksum: u32,
    /// Topic of a message, else 0.
    pub topic: u64,
    /// Queue of a message, else 0.
    pub queue: u32,
    /// Offset of a message, else 0.
    pub offset: u64,
}

/// The header, without what follows from the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The WAL.
    pub wal: u16,
    /// The incarnation that wrote it.
    pub term: u64,
    /// Counts the blocks of the WAL, without holes.
    pub sequence: u64,
    /// Where it starts in the WAL.
    pub position: u64,
    /// Everything below this position was durable when it was built.
    pub durable: u64,
}

/// Header and directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The header.
    pub header: Header,
    /// The directory.
    pub entries: Vec<Entry>,
    /// Bytes of all payloads.
    pub body_bytes: u32,
}

/// Bytes of header and directory.
#[must_use]
pub fn head_bytes(records: usize) -> usize {
    HEADER_BYTES + records * ENTRY_BYTES
}

/// Bytes of a block of so many records and bytes of payload, filled up.
#[must_use]
pub fn block_bytes(records: usize, body: usize) -> usize {
    (2 * head_bytes(records) + body).next_multiple_of(ALIGN_BYTES)
}

impl Header {
    /// What the beginning of a head says, unchecked: to pass over what can not be ours at small cost.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.take::<4>()? != MAGIC || reader.u16()? != VERSION {
            return None;
        }
        Some(Self {
            wal: reader.u16()?,
            term: reader.u64()?,
            sequence: reader.u64()?,
            position: reader.u64()?,
            durable: reader.u64()?,
        })
    }
}

impl Head {
    /// Bytes of header and directory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        head_bytes(self.entries.len())
    }

    /// Bytes of the whole block, filled up.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        block_bytes(self.entries.len(), self.body_bytes as usize)
    }

    /// Bytes up to the copy of the head, counted from the start of the block.
    #[must_use]
    pub fn copy_at(&self) -> usize {
        self.bytes() + self.body_bytes as usize
    }

    /// Position behind the block.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.header.position + self.block_bytes() as u64
    }

    /// Position that stands for record number `record`: that of its entry, so that every record has one
    /// of its own, and the one behind it is the next.
    #[must_use]
    pub fn record_position(&self, record: usize) -> u64 {
        self.header.position + head_bytes(record) as u64
    }

    /// Each entry with the place of its payload, counted from the start of the block.
    pub fn payloads(&self) -> impl Iterator<Item = (&Entry, usize)> {
        self.entries.iter().scan(self.bytes(), |at, entry| {
            let start = *at;
            *at += entry.length as usize;
            Some((entry, start))
        })
    }

    /// Where in its block the copy of a head would stand by what the beginning of one says, unchecked as in
    /// [`Header::peek`].
    #[must_use]
    pub fn peek_copy_at(bytes: &[u8]) -> Option<usize> {
        let mut reader = Reader(bytes.get(LENGTHS_AT..HEADER_BYTES)?);
        let (body_bytes, count) = (reader.u32()? as usize, reader.u32()? as usize);
        let directory_bytes = count.checked_mul(ENTRY_BYTES)?;
        HEADER_BYTES
            .checked_add(directory_bytes)?
            .checked_add(body_bytes)
    }

    /// Reads a head at the beginning of `bytes`; `None` when there is no whole, valid one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let header = Header::peek(bytes.get(..HEADER_BYTES)?)?;
        let mut reader = Reader(bytes.get(LENGTHS_AT..HEADER_BYTES)?);
        let (body_bytes, count, reserved) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let checksum = reader.u32()?;
        let directory_bytes = (count as usize).checked_mul(ENTRY_BYTES)?;
        let directory = bytes.get(HEADER_BYTES..)?.get(..directory_bytes)?;
        if reserved != 0 || crc32c(&[bytes.get(..CHECKSUM_AT)?, directory]) != checksum {
            return None;
        }
        let entries: Vec<Entry> = directory
            .chunks_exact(ENTRY_BYTES)
            .map(Entry::decode)
            .collect::<Option<_>>()?;
        let sum: u64 = entries.iter().map(|entry| u64::from(entry.length)).sum();
        (sum == u64::from(body_bytes)).then_some(Self {
            header,
            entries,
            body_bytes,
        })
    }
}

impl Head {
    fn encode(&self) -> BytesMut {
        let mut out = BytesMut::with_capacity(self.bytes());
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(self.header.wal);
        out.put_u64_le(self.header.term);
        out.put_u64_le(self.header.sequence);
        out.put_u64_le(self.header.position);
        out.put_u64_le(self.header.durable);
        out.put_u32_le(self.body_bytes);
        out.put_u32_le(u32::try_from(self.entries.len()).expect("far below 4 billion records"));
        out.put_u32_le(0);
        let mut directory = out.split_off(HEADER_BYTES);
        for entry in &self.entries {
            entry.encode(&mut directory);
        }
        let checksum = crc32c(&[&out, &directory]);
        out.put_u32_le(checksum);
        out.unsplit(directory);
        out
    }
}

impl Entry {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.topic);
        out.put_u64_le(self.offset);
        out.put_u32_le(self.queue);
        out.put_u32_le(self.length);
        out.put_u32_le(self.checksum);
        out.put_u16_le(self.shard);
        out.put_u16_le(match self.kind {
            Kind::Message => 1,
            Kind::State => 2,
        });
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        Some(Self {
            topic: reader.u64()?,
            offset: reader.u64()?,
            queue: reader.u32()?,
            length: reader.u32()?,
            checksum: reader.u32()?,
            shard: reader.u16()?,
            kind: match reader.u16()? {
                1 => Kind::Message,
                2 => Kind::State,
                _ => return None,
            },
        })
    }
}

/// A block that is built where it stays: records are encoded once, in the memory that is written to the disk.
#[derive(Debug)]
pub(crate) struct Builder {
    header: Header,
    head_bytes: usize,
    entries: Vec<Entry>,
    out: BytesMut,
}

impl Builder {
    /// A block of so many records in `room`, which is empty and has room for all of it.
    pub(crate) fn new(header: Header, records: usize, mut room: BytesMut) -> Self {
        let head_bytes = head_bytes(records);
        room.put_bytes(0, head_bytes);
        Self {
            header,
            head_bytes,
            entries: Vec::with_capacity(records),
            out: room,
        }
    }

    /// Adds a record: what `write` appends is its payload, whose length and checksum go into the entry.
    pub(crate) fn push(&mut self, entry: Entry, write: impl FnOnce(&mut BytesMut)) {
        let from = self.out.len();
        write(&mut self.out);
        let payload = self.out.get(from..).unwrap_or_default();
        self.entries.push(Entry {
            length: u32::try_from(payload.len()).expect("an append is far below 4 GiB"),
            checksum: crc32c(&[payload]),
            ..entry
        });
    }

    /// The block, filled up, now that all of its records are there.
    ///
    /// # Panics
    /// When they are not as many as were said.
    pub(crate) fn finish(self) -> (Head, Bytes) {
        let (header, mut out) = (self.header, self.out);
        let body_bytes = out.len() - self.head_bytes;
        let head = Head {
            header,
            entries: self.entries,
            body_bytes: u32::try_from(body_bytes).expect("an append is far below 4 GiB"),
        };
        let bytes = head.encode();
        let front = out.get_mut(..self.head_bytes).unwrap_or_default();
        assert_eq!(front.len(), bytes.len(), "all records came");
        front.copy_from_slice(&bytes);
        out.put_slice(&bytes);
        out.put_bytes(0, head.block_bytes() - out.len());
        (head, out.freeze())
    }
}

/// Takes little-endian numbers off the front of untrusted bytes.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
#[expect(
    clippy::indexing_slicing,
    reason = "tests index bytes that they made themselves"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(shard: u16, is_message: bool, payload: &[u8], place: (u64, u32, u64)) -> Entry {
        Entry {
            shard,
            kind: if is_message {
                Kind::Message
            } else {
                Kind::State
            },
            length: u32::try_from(payload.len()).unwrap(),
            checksum: crc32c(&[payload]),
            topic: place.0,
            queue: place.1,
            offset: place.2,
        }
    }

    fn header() -> Header {
        Header {
            wal: 3,
            term: 5,
            sequence: 7,
            position: 11,
            durable: 9,
        }
    }

    fn encode<'a>(
        header: Header,
        records: impl ExactSizeIterator<Item = (Entry, &'a [u8])>,
    ) -> (Head, Bytes) {
        let mut builder = Builder::new(header, records.len(), BytesMut::new());
        for (entry, payload) in records {
            builder.push(entry, |out| out.put_slice(payload));
        }
        builder.finish()
    }

    #[test]
    fn the_head_stands_at_both_ends() {
        let records = [
            (entry(1, true, b"pond", (1, 2, 3)), &b"pond"[..]),
            (entry(1, false, b"", (0, 0, 0)), b""),
        ];
        let (head, bytes) = encode(header(), records.into_iter());
        assert_eq!(bytes.len(), head.block_bytes());
        assert_eq!(bytes.len() % ALIGN_BYTES, 0);
        assert_eq!(Head::decode(&bytes), Some(head.clone()));
        assert_eq!(Head::peek_copy_at(&bytes), Some(head.copy_at()));
        assert_eq!(Head::decode(&bytes[head.copy_at()..]), Some(head.clone()));
        let places: Vec<usize> = head.payloads().map(|(_, at)| at).collect();
        assert_eq!(places, [head.bytes(), head.bytes() + 4]);
        assert!(head.record_position(0) < head.record_position(1));
        assert!(head.record_position(2) < head.end());
    }

    #[test]
    fn the_example_in_the_format_document_holds() {
        let header = Header {
            wal: 0,
            term: 1,
            sequence: 0,
            position: 0,
            durable: 0,
        };
        let records = [(entry(2, false, b"hi", (0, 0, 0)), &b"hi"[..])];
        let (_, bytes) = encode(header, records.into_iter());
        let document = include_str!("../../FORMAT.md");
        let example = document.split("### Example").nth(1).unwrap();
        let lines = example.split("```").nth(1).unwrap().lines().skip(1).take(4);
        let hex: String = lines
            .flat_map(|line| line.split_whitespace())
            .filter(|word| word.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .collect();
        let written: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes.len(), ALIGN_BYTES);
        assert!(bytes[178..].iter().all(|&byte| byte == 0));
        assert!(written.starts_with(&hex) && hex.len() == 180, "{written}");
    }

    proptest! {
        #[test]
        fn a_block_is_read_as_it_was_written(
            records in prop::collection::vec(
                (any::<u16>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..40), any::<(u64, u32, u64)>()),
                0..12,
            ),
        ) {
            let written = records.iter().map(|(shard, is_message, payload, place)| {
                (entry(*shard, *is_message, payload, *place), &payload[..])
            });
            let (head, bytes) = encode(header(), written);
            let read = Head::decode(&bytes).unwrap();
            prop_assert_eq!(&read, &head);
            for ((entry, at), record) in read.payloads().zip(&records) {
                prop_assert_eq!(&bytes[at..at + entry.length as usize], &record.2[..]);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&VERSION.to_le_bytes());
            with_magic.extend_from_slice(&bytes);
            prop_assert_eq!(Head::decode(&with_magic), None);
            prop_assert_eq!(Head::decode(&bytes), None);
        }

        #[test]
        fn a_flipped_bit_in_the_head_is_found(bit in 0..(HEADER_BYTES + ENTRY_BYTES) * 8) {
            let records = [(entry(1, true, b"pond", (1, 2, 3)), &b"pond"[..])];
            let (_, bytes) = encode(header(), records.into_iter());
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Head::decode(&bytes), None);
        }
    }
}
