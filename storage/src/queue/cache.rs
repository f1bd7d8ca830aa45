//! The blocks written last, as the writer made them: reading the tail costs no disk and no copy.
//!
//! Bounded in memory, which is a little more than the bytes of the blocks (`wal::buffers`); the oldest block leaves
//! first. Only durable blocks come in.

use std::collections::VecDeque;

use bytes::Bytes;

/// The tail of one WAL.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Where each starts, its bytes, and what it counts for.
    blocks: VecDeque<(u64, Bytes, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            blocks: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Adds the block that starts at `position`, above all that are here, and counts for so many bytes.
    pub(crate) fn push(&mut self, position: u64, block: Bytes, counts: usize) {
        self.bytes += counts;
        self.blocks.push_back((position, block, counts));
        while self.bytes > self.bytes_max {
            let Some((.., counts)) = self.blocks.pop_front() else {
                break;
            };
            self.bytes -= counts;
        }
    }

    /// `length` bytes at `position`, when their block is still here.
    pub(crate) fn get(&self, position: u64, length: usize) -> Option<Bytes> {
        let behind = self
            .blocks
            .partition_point(|&(start, ..)| start <= position);
        let (start, block, _) = self.blocks.get(behind.checked_sub(1)?)?;
        let from = usize::try_from(position - start).ok()?;
        let to = from.checked_add(length)?;
        (to <= block.len()).then(|| block.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_block_leaves_first() {
        let mut cache = Cache::new(8);
        cache.push(0, Bytes::from_static(b"aaaa"), 4);
        cache.push(4, Bytes::from_static(b"bcde"), 4);
        assert_eq!(cache.get(5, 2).unwrap(), "cd");
        assert_eq!(cache.get(5, 4), None);
        cache.push(8, Bytes::from_static(b"ffff"), 4);
        assert_eq!(cache.get(0, 1), None);
        assert_eq!(cache.get(4, 4).unwrap(), "bcde");
    }
}
