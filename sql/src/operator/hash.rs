//! How keys that are at rest are found: by a hash that costs little and is the same in every run.
//!
//! The order of a map that hashes so is never seen: whoever gives or saves what is in it sorts it first. The seed is
//! fixed, since a replay must do what was done; keys that were chosen to collide make their own query slow, and no other.

use std::hash::{BuildHasher as _, Hash, Hasher};

/// Makes hashes for maps of keys.
pub(crate) type Fixed = foldhash::fast::FixedState;

/// Hashes of keys and rows, as maps find them: they are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// A key or a row as bytes, and their hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hashed<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) hash: u64,
}

impl<'a> Hashed<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self {
            hash: Fixed::default().hash_one(bytes),
            bytes,
        }
    }
}

impl Hash for Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}
