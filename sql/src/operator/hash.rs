//! How keys that are at rest are found: by a hash that costs little and is the same in every run.
//!
//! Each eight bytes are one multiplication, whose upper half is folded into the lower. The order of a map that
//! hashes so is never seen: whoever gives or saves what is in it sorts it first.

use std::hash::{BuildHasherDefault, Hasher};

/// Makes hashes for maps of keys.
pub(crate) type Fixed = BuildHasherDefault<Folded>;

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;
const WORD: usize = size_of::<u64>();

/// A hash in the making.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folded(u64);

impl Default for Folded {
    fn default() -> Self {
        Self(SEED)
    }
}

impl Folded {
    #[inline]
    fn fold(&mut self, word: u64) {
        let word = self.0 ^ word;
        let upper = (u128::from(word) * u128::from(FACTOR)) >> 64;
        let upper = u64::try_from(upper).expect("half of it is left");
        // Adding the seed keeps a word that equals what is there from making nothing of all.
        self.0 = (word.wrapping_mul(FACTOR) ^ upper).wrapping_add(SEED);
    }
}

impl Hasher for Folded {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<WORD>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    #[inline]
    fn write_u8(&mut self, number: u8) {
        self.fold(u64::from(number));
    }

    #[inline]
    fn write_i64(&mut self, number: i64) {
        self.fold(number.cast_unsigned());
    }

    #[inline]
    fn write_u64(&mut self, number: u64) {
        self.fold(number);
    }

    /// Lengths: [`Hasher::write`] tells them already.
    #[inline]
    fn write_usize(&mut self, _length: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn numbers_and_rows_that_differ_little_fall_into_different_places() {
        let hasher = Fixed::default();
        // A map tells places by the upper seven bits and by the lower ones.
        let places = |hashes: &mut dyn Iterator<Item = u64>| {
            let places = hashes.map(|hash| (hash >> 57, hash & 0xfff));
            places.collect::<BTreeSet<_>>().len()
        };
        for step in [1_i64, 8, 1 << 20, 1 << 40] {
            let found = places(&mut (0..4096).map(|n| hasher.hash_one(n * step)));
            assert!(found > 4050, "{found} places for steps of {step}");
        }
        for length in [1_usize, 7, 8, 9, 24] {
            let row = |n: u32| {
                let mut row = vec![0; length + 3];
                row[length - 1..].copy_from_slice(&n.to_be_bytes());
                row
            };
            let found = places(&mut (0..4096).map(|n| hasher.hash_one(row(n).as_slice())));
            assert!(found > 4050, "{found} places for rows of {length} bytes");
        }
        let zeros = places(&mut (0..64).map(|n| hasher.hash_one(vec![0_u8; n].as_slice())));
        assert_eq!(zeros, 64, "the length counts");
    }
}
