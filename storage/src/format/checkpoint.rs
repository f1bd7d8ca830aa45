//! A checkpoint: every shard's state at a position, in one file.
//!
//! The table has one checksum, each state its own, so a flipped bit in a state damages that shard alone.
//! Bytes: `FORMAT.md`, Checkpoint.

#![deny(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes, BytesMut};
use millpond_proto::message::ShardId;

use crate::format::block::Reader;
use crate::format::checksum::crc32c;

/// First bytes of a checkpoint.
pub(crate) const MAGIC: [u8; 4] = *b"MPCK";
/// Version of this format.
pub(crate) const VERSION: u16 = 1;

const HEADER_BYTES: usize = 20;
const ROW_BYTES: usize = 20;

/// The state of a shard, as it was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) shard: ShardId,
    /// Every record of the shard below this position is in the state.
    pub(crate) position: u64,
    pub(crate) checksum: u32,
    pub(crate) state: Bytes,
}

impl Saved {
    pub(crate) fn new(shard: ShardId, position: u64, state: Bytes) -> Self {
        Self {
            shard,
            position,
            checksum: crc32c(&[&state]),
            state,
        }
    }

    /// Whether the state is as it was written. A damaged one is carried along as it is: it is evidence.
    pub(crate) fn is_whole(&self) -> bool {
        crc32c(&[&self.state]) == self.checksum
    }
}

/// Makes the bytes of a checkpoint.
///
/// # Panics
/// When a state is larger than 4 GiB.
pub(crate) fn encode(sequence: u64, shards: &[Saved]) -> Bytes {
    let size = |saved: &Saved| u32::try_from(saved.state.len()).expect("a state is below 4 GiB");
    let mut out = BytesMut::new();
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u64_le(sequence);
    out.put_u32_le(u32::try_from(shards.len()).expect("shards are counted in 16 bits"));
    for saved in shards {
        out.put_u64_le(saved.position);
        out.put_u32_le(size(saved));
        out.put_u32_le(saved.checksum);
        out.put_u16_le(saved.shard.0);
        out.put_u16_le(0);
    }
    let checksum = crc32c(&[&out]);
    out.put_u32_le(checksum);
    for saved in shards {
        out.put_slice(&saved.state);
    }
    out.freeze()
}

/// Reads a checkpoint; `None` when its table is damaged. A state cut short is damaged, not absent.
pub(crate) fn decode(bytes: &Bytes) -> Option<Vec<Saved>> {
    let mut reader = Reader(bytes.get(..HEADER_BYTES)?);
    if reader.take::<4>()? != MAGIC || reader.u16()? != VERSION {
        return None;
    }
    let (_reserved, _sequence, count) = (reader.u16()?, reader.u64()?, reader.u32()?);
    let table_bytes = HEADER_BYTES.checked_add((count as usize).checked_mul(ROW_BYTES)?)?;
    let table = bytes.get(..table_bytes)?;
    if Reader(bytes.get(table_bytes..)?).u32()? != crc32c(&[table]) {
        return None;
    }
    let mut at = table_bytes + 4;
    let mut shards = Vec::new();
    for row in table.get(HEADER_BYTES..)?.chunks_exact(ROW_BYTES) {
        let mut reader = Reader(row);
        let (position, length, checksum) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let end = at.checked_add(length as usize)?;
        shards.push(Saved {
            shard: ShardId(reader.u16()?),
            position,
            checksum,
            state: bytes.slice(at.min(bytes.len())..end.min(bytes.len())),
        });
        at = end;
    }
    Some(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> Vec<Saved> {
        vec![
            Saved::new(ShardId(0), 7, Bytes::from_static(b"one")),
            Saved::new(ShardId(9), 8, Bytes::new()),
            Saved::new(ShardId(3), 9, Bytes::from_static(b"three")),
        ]
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        assert_eq!(decode(&encode(4, &shards())), Some(shards()));
    }

    #[test]
    fn a_flipped_bit_damages_one_state_or_is_found_in_the_table() {
        let bytes = encode(4, &shards());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Some(read) = decode(&Bytes::from(flipped)) {
                let whole = read.iter().filter(|saved| saved.is_whole()).count();
                assert_eq!((read.len(), whole), (3, 2), "bit {bit}");
            }
        }
        for cut in 0..bytes.len() {
            let read = decode(&bytes.slice(..cut));
            assert!(read.is_none_or(|read| read.iter().any(|saved| !saved.is_whole())));
        }
    }
}
