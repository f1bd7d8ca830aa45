//! Which messages below a cursor's `next` are delivered or parked: bits, in words of 64 offsets.
//!
//! A word has one bit per message in each of its *pieces* (what one lease holds in it, delivered equally
//! often) and one for *parked*. Words without a bit do not exist, so that a message which nobody
//! acknowledges costs its own word and never the distance to the others: there is nothing to relocate,
//! and the bound on messages in flight bounds the memory.
//!
//! **Invariant.** A bit is set in one piece at most, and not in a piece and in `parked`.

use std::collections::BTreeMap;
use std::ops::Range;

use millpond_proto::time::Timestamp;

/// Offsets of a word.
const WORD: u64 = 64;

/// Who holds a delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holding {
    /// A lease.
    Lease(u64),
    /// Nobody; it is visible from that time on.
    Nobody(Timestamp),
}

/// A delivered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) holding: Holding,
    /// Deliveries so far.
    pub(super) attempts: u32,
}

/// The words, first to last, in which a holding has messages; there may be others in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// Some messages of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) word: u64,
    pub(super) mask: u64,
}

/// What one holding has in a word, delivered equally often. Its fields are those of a [`Delivered`], laid
/// out without gaps: there is one for about every 32 messages in flight.
#[derive(Clone, Copy, Debug)]
struct Piece {
    mask: u64,
    key: u64,
    attempts: u32,
    is_held: bool,
}

#[derive(Clone, Debug, Default)]
struct Word {
    pieces: Vec<Piece>,
    parked: u64,
}

/// The words that have a bit.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    words: BTreeMap<u64, Word>,
    delivered: usize,
    parked: usize,
}

impl Window {
    /// How many messages are delivered.
    pub(super) fn delivered(&self) -> usize {
        self.delivered
    }

    /// How many messages are parked.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// The first message that has a bit.
    pub(super) fn first(&self) -> Option<u64> {
        let (&number, word) = self.words.first_key_value()?;
        Some(number * WORD + u64::from(word.any().trailing_zeros()))
    }

    /// A message that is delivered.
    pub(super) fn get(&self, offset: u64) -> Option<Delivered> {
        let bits = Bits::of(offset);
        let word = self.words.get(&bits.word)?;
        let piece = word.pieces.iter().find(|piece| piece.mask & bits.mask != 0);
        piece.map(Piece::delivered)
    }

    /// Whether a message is parked.
    pub(super) fn is_parked(&self, offset: u64) -> bool {
        let bits = Bits::of(offset);
        let word = self.words.get(&bits.word);
        word.is_some_and(|word| word.parked & bits.mask != 0)
    }

    /// Sets messages that have no bit to be delivered.
    pub(super) fn put(&mut self, bits: Bits, delivered: Delivered) {
        if bits.mask == 0 {
            return;
        }
        let word = self.words.entry(bits.word).or_default();
        debug_assert_eq!(word.any() & bits.mask, 0, "they have no bit");
        self.delivered += bits.count() as usize;
        let mut pieces = word.pieces.iter_mut();
        match pieces.find(|piece| piece.delivered() == delivered) {
            Some(piece) => piece.mask |= bits.mask,
            None => {
                // There are rarely more than two, and what doubles would be half empty.
                word.pieces.reserve_exact(1);
                word.pieces.push(Piece::new(bits.mask, delivered));
            }
        }
    }

    /// Takes out those of the messages that are delivered, and tells of each holding how many it had.
    pub(super) fn take(&mut self, bits: Bits, mut told: impl FnMut(Delivered, u32)) {
        let Some(word) = self.words.get_mut(&bits.word) else {
            return;
        };
        let mut left = bits.mask;
        word.pieces.retain_mut(|piece| {
            let taken = piece.mask & left;
            if taken != 0 {
                left &= !taken;
                piece.mask &= !taken;
                self.delivered -= taken.count_ones() as usize;
                told(piece.delivered(), taken.count_ones());
            }
            piece.mask != 0
        });
        if word.any() == 0 {
            self.words.remove(&bits.word);
        }
    }

    /// Parks a message that has no bit.
    pub(super) fn park(&mut self, offset: u64) {
        let bits = Bits::of(offset);
        let word = self.words.entry(bits.word).or_default();
        self.parked += usize::from(word.parked & bits.mask == 0);
        word.parked |= bits.mask;
    }

    /// Takes a message out that is parked; whether it was.
    pub(super) fn unpark(&mut self, offset: u64) -> bool {
        let bits = Bits::of(offset);
        let Some(word) = self.words.get_mut(&bits.word) else {
            return false;
        };
        let was = word.parked & bits.mask != 0;
        if was {
            self.parked -= 1;
            word.parked &= !bits.mask;
            if word.any() == 0 {
                self.words.remove(&bits.word);
            }
        }
        was
    }

    /// The first message from `from` on that a holding has.
    pub(super) fn next_of(&self, holding: Holding, span: Span, from: u64) -> Option<u64> {
        let first = span.first.max(from / WORD);
        let mut words = self.words.range(first..=span.last.max(first));
        words.find_map(|(&number, word)| {
            let above = Bits::from(from, number);
            let mask = word.mask_of(holding) & above;
            (mask != 0).then(|| number * WORD + u64::from(mask.trailing_zeros()))
        })
    }

    /// The first of the words from `from` on in which a holding has messages.
    pub(super) fn word_of(&self, holding: Holding, from: u64, last: u64) -> Option<u64> {
        let mut words = self.words.range(from..=last.max(from));
        words
            .find(|(_, word)| word.mask_of(holding) != 0)
            .map(|(&number, _)| number)
    }

    /// What a holding has, in order.
    pub(super) fn of(&self, holding: Holding, span: Span) -> impl Iterator<Item = u64> {
        let words = self.words.range(span.first..=span.last.max(span.first));
        words.flat_map(move |(&number, word)| ones(number, word.mask_of(holding)))
    }

    /// The delivered messages from `from` on, in order.
    pub(super) fn delivered_from(&self, from: u64) -> impl Iterator<Item = (u64, Delivered)> {
        self.words.range(from / WORD..).flat_map(move |(&n, word)| {
            let mask = word.delivered() & Bits::from(from, n);
            ones(n, mask).filter_map(move |offset| Some((offset, word.get(offset)?)))
        })
    }

    /// The parked messages, in order.
    pub(super) fn parked_ones(&self) -> impl Iterator<Item = u64> {
        self.words
            .iter()
            .flat_map(|(&n, word)| ones(n, word.parked))
    }

    /// Every message from `from` on that has a bit, in order.
    pub(super) fn all_from(&self, from: u64) -> impl Iterator<Item = u64> {
        self.words
            .range(from / WORD..)
            .flat_map(move |(&n, word)| ones(n, word.any() & Bits::from(from, n)))
    }
}

impl Word {
    fn delivered(&self) -> u64 {
        self.pieces.iter().fold(0, |mask, piece| mask | piece.mask)
    }

    fn any(&self) -> u64 {
        self.delivered() | self.parked
    }

    fn mask_of(&self, holding: Holding) -> u64 {
        let pieces = self.pieces.iter();
        let its = pieces.filter(|piece| piece.delivered().holding == holding);
        its.fold(0, |mask, piece| mask | piece.mask)
    }

    fn get(&self, offset: u64) -> Option<Delivered> {
        let mask = Bits::of(offset).mask;
        let piece = self.pieces.iter().find(|piece| piece.mask & mask != 0);
        piece.map(Piece::delivered)
    }
}

impl Piece {
    fn new(mask: u64, delivered: Delivered) -> Self {
        let (key, is_held) = match delivered.holding {
            Holding::Lease(lease) => (lease, true),
            Holding::Nobody(at) => (at.as_ms().cast_unsigned(), false),
        };
        Self {
            mask,
            key,
            attempts: delivered.attempts,
            is_held,
        }
    }

    fn delivered(&self) -> Delivered {
        let holding = if self.is_held {
            Holding::Lease(self.key)
        } else {
            Holding::Nobody(Timestamp(self.key.cast_signed()))
        };
        Delivered {
            holding,
            attempts: self.attempts,
        }
    }
}

impl Bits {
    /// One message.
    pub(super) fn of(offset: u64) -> Self {
        Self {
            word: offset / WORD,
            mask: 1 << (offset % WORD),
        }
    }

    /// The messages of a run, word by word.
    pub(super) fn of_run(run: Range<u64>) -> impl Iterator<Item = Self> {
        let words = run.start / WORD..run.end.div_ceil(WORD);
        let words = if run.is_empty() { 0..0 } else { words };
        words.map(move |word| {
            let above = Self::from(run.start, word);
            let behind = Self::from(run.end, word);
            Self {
                word,
                mask: above & !behind,
            }
        })
    }

    /// How many they are.
    pub(super) fn count(self) -> u32 {
        self.mask.count_ones()
    }

    /// The messages of a word that lie at `offset` or behind.
    fn from(offset: u64, word: u64) -> u64 {
        let before = offset.saturating_sub(word.saturating_mul(WORD));
        let shift = u32::try_from(before.min(WORD)).unwrap_or(64);
        u64::MAX.checked_shl(shift).unwrap_or(0)
    }
}

/// The offsets of a word's bits.
fn ones(word: u64, mut mask: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(word * WORD + u64::from(bit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_at_words() {
        let runs = |run: Range<u64>| {
            let bits = Bits::of_run(run);
            bits.map(|bits| (bits.word, bits.count()))
                .collect::<Vec<_>>()
        };
        assert_eq!(runs(0..64), [(0, 64)]);
        assert_eq!(runs(60..70), [(0, 4), (1, 6)]);
        assert_eq!(runs(63..193), [(0, 1), (1, 64), (2, 64), (3, 1)]);
        assert_eq!(runs(64..64), []);
    }

    #[test]
    fn a_message_far_behind_costs_a_word_and_not_the_distance() {
        let mut window = Window::default();
        let delivered = Delivered {
            holding: Holding::Lease(1),
            attempts: 1,
        };
        window.put(Bits::of(3), delivered);
        window.put(Bits::of(1 << 60), delivered);
        assert_eq!((window.words.len(), window.delivered()), (2, 2));
        let span = Span {
            first: 0,
            last: 1 << 54,
        };
        let all: Vec<u64> = window.of(Holding::Lease(1), span).collect();
        assert_eq!(all, [3, 1 << 60]);
        let mut told = 0;
        window.take(Bits::of(3), |_, count| told += count);
        window.take(Bits::of(4), |_, count| told += count);
        assert_eq!((told, window.first()), (1, Some(1 << 60)));
        assert_eq!(window.words.len(), 1);
    }
}
