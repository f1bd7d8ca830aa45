//! How keys that are at rest are found: by a hash that costs little and is the same in every run.
//!
//! The order of a map that hashes so is never seen: whoever gives or saves what is in it sorts it first. The seed is
//! fixed, since a replay must do what was done; keys that were chosen to collide make their own query slow, and no other.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher};

/// Makes hashes for maps of keys.
pub(crate) type Fixed = foldhash::fast::FixedState;

/// The end of a list.
pub(crate) const NONE: u32 = u32::MAX;

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

/// The first slot of each hash.
pub(crate) type Firsts = HashMap<u64, u32, BuildHasherDefault<Ready>>;

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

/// Takes one out of the list of those with its hash.
pub(crate) fn unlink<T>(
    firsts: &mut Firsts,
    all: &mut [T],
    same: fn(&mut T) -> &mut u32,
    hash: u64,
    number: u32,
) {
    let next = *same(&mut all[number as usize]);
    let Some(first) = firsts.get_mut(&hash) else {
        return;
    };
    if *first == number {
        match next {
            NONE => drop(firsts.remove(&hash)),
            _ => *first = next,
        }
        return;
    }
    let mut at = *first;
    while let Some(other) = all.get_mut(at as usize) {
        let of_other = same(other);
        if *of_other == number {
            *of_other = next;
            return;
        }
        at = *of_other;
    }
}
