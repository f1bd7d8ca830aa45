//! Memory that blocks are built in and stay in while the tail cache has them; it is used again.
//!
//! Memory that is new costs a fault for each page and the zeros that the system fills it with, about as much as
//! encoding a record into it. So blocks are cut off slabs of [`LOG_SLAB_BYTES`], one behind the other, and a slab is taken
//! again when its last block has left the cache and nobody reads it any more. A block that is larger than a slab has
//! memory of its own.
//!
//! **Invariants.** A block begins at a multiple of [`ALIGN_BYTES`], as writing past the system's cache asks for. What a
//! slab had left when its successor was begun counts with the next block, so the cache's bound is one of memory. A reader
//! that holds a payload for long holds its slab, which is then left to it: no more slabs are waited for than the
//! cache can fill.

use std::collections::VecDeque;

use bytes::{BufMut as _, BytesMut};
use millpond_proto::limits::LOG_SLAB_BYTES;

use crate::format::block::{self, ALIGN_BYTES};

/// Slabs besides those that the cache fills: of blocks on their way, and the one that is begun.
const BESIDE_CACHE: usize = 4;

const _: () = assert!(LOG_SLAB_BYTES >= 2 * block::TARGET_BYTES);

/// Where the memory of a WAL's blocks comes from.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// What the last slab has left.
    rest: BytesMut,
    /// The end of each slab, oldest first: once it is all that is left of it, the slab is free.
    slabs: VecDeque<BytesMut>,
    slabs_max: usize,
}

/// Memory for a block.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Empty, aligned, and of the block's size.
    pub(crate) room: BytesMut,
    /// What it counts for in the tail cache.
    pub(crate) counts: usize,
}

impl Buffers {
    /// Memory for blocks of which a cache keeps so many bytes.
    pub(crate) fn new(cache_bytes: usize) -> Self {
        Self {
            rest: BytesMut::new(),
            slabs: VecDeque::new(),
            slabs_max: cache_bytes / LOG_SLAB_BYTES + BESIDE_CACHE,
        }
    }

    /// Memory for a block of so many bytes, a multiple of [`ALIGN_BYTES`].
    pub(crate) fn take(&mut self, bytes: usize) -> Buffer {
        if bytes > LOG_SLAB_BYTES {
            let mut room = aligned(fresh(bytes));
            drop(room.split_off(bytes));
            let counts = bytes + ALIGN_BYTES;
            return Buffer { room, counts };
        }
        let mut counts = bytes;
        if self.rest.capacity() < bytes {
            counts += self.rest.capacity();
            // Let go of first: it keeps its slab from being free.
            self.rest = BytesMut::new();
            self.rest = self.slab();
        }
        let behind = self.rest.split_off(bytes);
        let room = std::mem::replace(&mut self.rest, behind);
        Buffer { room, counts }
    }

    /// A slab that is free, or else a new one.
    fn slab(&mut self) -> BytesMut {
        let slab_bytes = LOG_SLAB_BYTES + ALIGN_BYTES;
        let mut slabs = self.slabs.iter_mut();
        let free = slabs.position(|slab| slab.try_reclaim(slab_bytes));
        let free = free.and_then(|at| self.slabs.remove(at));
        if free.is_none() && self.slabs.len() >= self.slabs_max {
            self.slabs.pop_front();
        }
        let mut slab = aligned(free.unwrap_or_else(|| fresh(LOG_SLAB_BYTES)));
        // At least a byte is left, because what was skipped to align it is less than was added.
        self.slabs.push_back(slab.split_off(LOG_SLAB_BYTES));
        slab
    }
}

/// New memory for so many bytes once it is aligned.
fn fresh(bytes: usize) -> BytesMut {
    BytesMut::with_capacity(bytes + ALIGN_BYTES)
}

/// Passes over what is before the first aligned byte.
fn aligned(mut memory: BytesMut) -> BytesMut {
    let skipped = memory.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
    memory.put_bytes(0, skipped);
    memory.split_off(skipped)
}

#[cfg(test)]
mod tests {
    use millpond_proto::chance::Seeded;

    use super::*;

    fn fill(buffer: Buffer, byte: u8) -> bytes::Bytes {
        let (mut room, bytes) = (buffer.room, buffer.counts);
        room.put_bytes(byte, room.capacity());
        assert!(room.len() <= bytes);
        room.freeze()
    }

    #[test]
    fn blocks_lie_behind_each_other_and_what_a_slab_had_left_counts_with_the_next() {
        let mut buffers = Buffers::new(0);
        let first = buffers.take(ALIGN_BYTES);
        let second = buffers.take(LOG_SLAB_BYTES / 2);
        assert_eq!(
            second.room.as_ptr() as usize - first.room.as_ptr() as usize,
            ALIGN_BYTES
        );
        let third = buffers.take(LOG_SLAB_BYTES);
        assert_eq!(
            third.counts,
            LOG_SLAB_BYTES + LOG_SLAB_BYTES / 2 - ALIGN_BYTES
        );
        assert_eq!(third.room.capacity(), LOG_SLAB_BYTES);
        assert_eq!(buffers.take(ALIGN_BYTES).counts, ALIGN_BYTES);
    }

    #[test]
    fn memory_is_used_again_once_nobody_has_it_and_left_to_whoever_has_it_for_long() {
        let mut buffers = Buffers::new(0);
        let held = fill(buffers.take(LOG_SLAB_BYTES), 1);
        let mut places = std::collections::BTreeSet::new();
        for turn in 0..50 {
            let block = fill(buffers.take(LOG_SLAB_BYTES), 2);
            places.insert(block.as_ptr() as usize);
            assert!(held.iter().all(|&byte| byte == 1), "turn {turn}");
        }
        assert_eq!(places.len(), 1);
        // All are held: so many are waited for, and not one more.
        let many: Vec<_> = (0..20)
            .map(|_| fill(buffers.take(LOG_SLAB_BYTES), 3))
            .collect();
        assert_eq!(buffers.slabs.len(), BESIDE_CACHE);
        drop(many);
        assert!(held.iter().all(|&byte| byte == 1));
    }

    #[test]
    fn whatever_is_held_or_let_go_each_block_is_aligned_and_keeps_its_bytes() {
        for seed in 0..30 {
            let chance = Seeded::new(seed);
            let below = |bound: usize| usize::try_from(chance.below(bound as u64)).unwrap();
            let mut buffers = Buffers::new(2 * LOG_SLAB_BYTES);
            let mut held: Vec<(u8, bytes::Bytes)> = Vec::new();
            for turn in 0..60 {
                let most = if chance.percent(5) {
                    2 * LOG_SLAB_BYTES
                } else {
                    LOG_SLAB_BYTES
                };
                let bytes = (1 + below(most / ALIGN_BYTES)) * ALIGN_BYTES;
                let buffer = buffers.take(bytes);
                assert_eq!(buffer.room.as_ptr().align_offset(ALIGN_BYTES), 0);
                // Another's memory would show at both ends.
                let (mut room, place) = (buffer.room, buffer.counts);
                assert!(place >= bytes, "seed {seed}");
                let start = room.as_ptr();
                room.put_u8(turn);
                room.put_bytes(0, bytes - 2);
                room.put_u8(turn);
                assert_eq!(room.as_ptr(), start, "seed {seed}: it has room");
                held.push((turn, room.freeze()));
                while held.len() > below(8) {
                    held.swap_remove(below(held.len()));
                }
                for (byte, block) in &held {
                    assert_eq!(
                        (block[0], block[block.len() - 1]),
                        (*byte, *byte),
                        "seed {seed}"
                    );
                }
            }
        }
    }
}
