//! Many small pieces of bytes that come and go, in few large ones: so a row at rest costs no allocation of its own.
//!
//! A piece is written once, behind the others, and found by where it lies. What goes leaves a gap, and a block all of whose
//! pieces have gone is given back. **Invariant.** An [`At`] is good until it is freed, and for the arena that gave it alone;
//! whoever holds them moves them to a new arena when this one [`Arena::is_sparse`].

/// Most bytes of a block, unless one piece is larger.
const BLOCK_BYTES: usize = 64 * 1024;
/// So many bytes of gaps do no harm, however few others there are.
const GAPS_FEW: usize = 4 * BLOCK_BYTES;
/// What tells the size of a piece, before it.
const SIZE_BYTES: usize = size_of::<u32>();

/// Where a piece lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    block: u32,
    start: u32,
}

/// Pieces of bytes.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    blocks: Vec<Block>,
    /// Blocks without bytes, other than the open one.
    empty: Vec<u32>,
    /// The block that is written to, if there is one.
    open: Option<u32>,
    /// Bytes of all blocks that are used, and bytes of pieces that went.
    used: usize,
    gaps: usize,
}

#[derive(Debug, Default)]
struct Block {
    bytes: Vec<u8>,
    /// Bytes of pieces that are there.
    live: usize,
}

impl Arena {
    /// Adds a piece.
    pub(crate) fn put(&mut self, piece: &[u8]) -> At {
        let size = u32::try_from(piece.len()).expect("a row is smaller than 4 GiB");
        let needed = SIZE_BYTES + piece.len();
        let block = self.open_for(needed);
        let Block { bytes, live } = &mut self.blocks[block as usize];
        let start = u32::try_from(bytes.len()).expect("what is behind a block's start is small");
        bytes.extend_from_slice(&size.to_ne_bytes());
        bytes.extend_from_slice(piece);
        *live += needed;
        self.used += needed;
        At { block, start }
    }

    /// The block that a piece of so many bytes goes to.
    fn open_for(&mut self, needed: usize) -> u32 {
        if let Some(open) = self.open {
            let used = self.blocks[open as usize].bytes.len();
            if used == 0 || used + needed <= BLOCK_BYTES {
                return open;
            }
            self.close(open);
        }
        let open = self.empty.pop().unwrap_or_else(|| {
            self.blocks.push(Block::default());
            u32::try_from(self.blocks.len() - 1).expect("a bounded state has few blocks")
        });
        // The first one may stay small; what needs another needs much.
        if self.used > 0 {
            let bytes = &mut self.blocks[open as usize].bytes;
            bytes.reserve_exact(needed.max(BLOCK_BYTES));
        }
        self.open = Some(open);
        open
    }

    /// Ends the open block.
    fn close(&mut self, open: u32) {
        self.open = None;
        if self.blocks[open as usize].live == 0 {
            self.give_back(open);
        }
    }

    /// Gives the bytes of a block back, all of whose pieces went.
    fn give_back(&mut self, block: u32) {
        let bytes = std::mem::take(&mut self.blocks[block as usize].bytes);
        self.used -= bytes.len();
        self.gaps -= bytes.len();
        self.empty.push(block);
    }

    /// A piece.
    pub(crate) fn get(&self, at: At) -> &[u8] {
        let bytes = &self.blocks[at.block as usize].bytes[at.start as usize..];
        let (size, rest) = bytes
            .split_first_chunk::<SIZE_BYTES>()
            .expect("a piece begins with its size");
        &rest[..u32::from_ne_bytes(*size) as usize]
    }

    /// Lets go of a piece.
    pub(crate) fn free(&mut self, at: At) {
        let gap = SIZE_BYTES + self.get(at).len();
        self.gaps += gap;
        let block = &mut self.blocks[at.block as usize];
        block.live -= gap;
        if block.live == 0 && self.open != Some(at.block) {
            self.give_back(at.block);
        }
    }

    /// Whether most of what it takes are gaps, and many.
    pub(crate) fn is_sparse(&self) -> bool {
        self.gaps > GAPS_FEW && self.gaps > self.used / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_stay_as_they_are_until_they_go(
            steps in prop::collection::vec((0..5, 0_usize..400_000, 0_u8..8), 0..120),
        ) {
            let mut arena = Arena::default();
            let mut pieces: Vec<(At, Vec<u8>)> = Vec::new();
            for (how, size, byte) in steps {
                match how {
                    0 if !pieces.is_empty() => {
                        let (at, _) = pieces.swap_remove(size % pieces.len());
                        arena.free(at);
                    }
                    // Some are larger than a block.
                    1 => pieces.push((arena.put(&vec![byte; size / 4]), vec![byte; size / 4])),
                    _ => pieces.push((arena.put(&vec![byte; size % 30_000]), vec![byte; size % 30_000])),
                }
                for (at, piece) in &pieces {
                    prop_assert_eq!(arena.get(*at), &piece[..]);
                }
                let held: usize = arena.blocks.iter().map(|block| block.bytes.len()).sum();
                let live: usize = pieces.iter().map(|(_, piece)| SIZE_BYTES + piece.len()).sum();
                prop_assert_eq!((arena.used, arena.used - arena.gaps), (held, live));
            }
            for (at, _) in pieces.drain(..) {
                arena.free(at);
            }
            // At most the open block keeps its gaps.
            let held = arena.blocks.iter().filter(|block| !block.bytes.is_empty());
            prop_assert!(held.count() <= 1);
        }
    }
}
