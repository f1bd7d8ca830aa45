//! Chance comes in as an argument, so that a run can be replayed from its seed.

use std::cell::RefCell;
use std::fmt;
use std::sync::Mutex;

/// A source of random numbers.
pub trait Chance: Send + Sync + fmt::Debug {
    /// A number that the caller can not foresee.
    fn next_u64(&self) -> u64;
}

/// Numbers that a thread asks the operating system for at once: a call of it costs more than all else about a number.
const DRAWN: usize = 32;

thread_local! {
    static AHEAD: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Randomness of the operating system; each number is given once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entropy;

impl Chance for Entropy {
    fn next_u64(&self) -> u64 {
        AHEAD.with_borrow_mut(|ahead| match ahead.pop() {
            Some(number) => number,
            None => {
                let mut drawn = [0; DRAWN * size_of::<u64>()];
                getrandom::fill(&mut drawn)
                    .expect("the operating system has randomness once it has booted");
                let (numbers, _) = drawn.as_chunks();
                ahead.extend(numbers[1..].iter().copied().map(u64::from_ne_bytes));
                u64::from_ne_bytes(numbers[0])
            }
        })
    }
}

/// A sequence that depends on its seed alone (SplitMix64).
#[derive(Debug)]
pub struct Seeded(Mutex<u64>);

impl Seeded {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// A number below `bound`; slightly uneven for very large bounds, which no user of it minds.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing lies below zero");
        self.next_u64() % bound
    }

    /// Yes, `percent` times of a hundred.
    pub fn percent(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Chance for Seeded {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().expect("no holder panics");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operating_system_gives_no_number_twice() {
        let numbers = || (0..100).map(|_| Entropy.next_u64()).collect::<Vec<_>>();
        let other = std::thread::spawn(numbers).join().unwrap();
        let mut all = [numbers(), other].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200);
    }

    #[test]
    fn a_seed_always_gives_the_same_sequence() {
        let (a, b) = (Seeded::new(7), Seeded::new(7));
        let first: Vec<u64> = (0..8).map(|_| a.next_u64()).collect();
        let second: Vec<u64> = (0..8).map(|_| b.next_u64()).collect();
        assert_eq!(first, second);
        assert_ne!(first[0], Seeded::new(8).next_u64());
    }
}
