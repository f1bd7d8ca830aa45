//! What became of the messages of one bucket of a shelf: two bits each.
//!
//! **Invariants.** A fate is given once: whatever is no longer waiting stays as it is. Bits exist up to the
//! last decided message only, so that a bucket of the far future costs next to nothing, however full.

/// What became of a message that was not visible when it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Fate {
    /// Nothing yet.
    Waiting = 0,
    /// It was placed in its queue: its time came, or its transaction was committed.
    Placed = 1,
    /// It was taken back: recalled, or its transaction was rolled back.
    Withdrawn = 2,
    /// It could not be placed: damaged, its topic is gone, or nobody decided on its transaction.
    GivenUp = 3,
}

const PER_BYTE: u64 = 4;

/// The fates of the messages of one bucket, by their number in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    count: u64,
    waiting: u64,
    bits: Vec<u8>,
}

impl Fates {
    /// Those that a snapshot holds: how many messages there are, and the bits of those decided.
    #[must_use]
    pub fn restore(count: u64, bits: &[u8]) -> Self {
        let mut fates = Self {
            count,
            waiting: count,
            bits: bits.to_vec(),
        };
        let decided = (0..count.min(bits.len() as u64 * PER_BYTE))
            .filter(|&number| fates.of(number) != Some(Fate::Waiting))
            .count() as u64;
        fates.waiting -= decided;
        fates
    }

    /// The bits, four messages a byte, the first in the lowest; those behind the end are waiting.
    #[must_use]
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// How many messages there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Adds messages up to this number, itself included; they wait.
    pub fn extend_to(&mut self, number: u64) {
        let count = number + 1;
        if count > self.count {
            self.waiting += count - self.count;
            self.count = count;
        }
    }

    /// What became of a message; `None` when there is none of that number.
    #[must_use]
    pub fn of(&self, number: u64) -> Option<Fate> {
        if number >= self.count {
            return None;
        }
        let byte = usize::try_from(number / PER_BYTE).ok();
        let byte = byte.and_then(|byte| self.bits.get(byte)).copied();
        let pair = byte.unwrap_or(0) >> (number % PER_BYTE * 2) & 3;
        Fate::try_from(i32::from(pair)).ok()
    }

    /// Gives a waiting message its fate; whether it was waiting.
    pub fn give(&mut self, number: u64, fate: Fate) -> bool {
        if self.of(number) != Some(Fate::Waiting) || fate == Fate::Waiting {
            return false;
        }
        let Ok(byte) = usize::try_from(number / PER_BYTE) else {
            return false;
        };
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        self.bits[byte] |= (fate as u8) << (number % PER_BYTE * 2);
        self.waiting -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fates_are_as_a_map_remembers_them(
            steps in prop::collection::vec((0_u64..40, 0_i32..4), 0..200),
        ) {
            let mut fates = Fates::default();
            let mut model: BTreeMap<u64, Fate> = BTreeMap::new();
            for (number, fate) in steps {
                let fate = Fate::try_from(fate).unwrap();
                if fate == Fate::Waiting {
                    fates.extend_to(number);
                    for new in 0..=number {
                        model.entry(new).or_insert(Fate::Waiting);
                    }
                } else {
                    let waits = model.get(&number) == Some(&Fate::Waiting);
                    prop_assert_eq!(fates.give(number, fate), waits);
                    if waits {
                        model.insert(number, fate);
                    }
                }
            }
            for number in 0..41 {
                prop_assert_eq!(fates.of(number), model.get(&number).copied());
            }
            let waiting = model.values().filter(|fate| **fate == Fate::Waiting).count();
            prop_assert_eq!(fates.waiting(), waiting as u64);
            prop_assert_eq!(&Fates::restore(fates.count(), fates.bits()), &fates);
        }
    }
}
