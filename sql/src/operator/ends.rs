//! When state ends: its keys by the time at which each is forgotten.
//!
//! Nearly all that is noted ends as it was noted, and in about the order in which it came; so entries lie in stretches of time, within a
//! stretch as they came, and nothing is looked for. A key that goes, or that comes to end at another time, leaves its old entry
//! behind: whoever takes entries out asks the state whether they hold still. **Invariant.** Each key that ends has an entry
//! with its time; of entries that hold no more there are never more than of others, but for a few.

use std::collections::BTreeMap;

/// Milliseconds of a stretch.
const STRETCH_MS: i64 = 256;
/// So many entries that hold no more do no harm, however few others there are.
const STALE_FEW: usize = 1024;

/// Keys by when they end.
#[derive(Debug)]
pub(crate) struct Ends<K> {
    /// By their number of [`STRETCH_MS`].
    stretches: BTreeMap<i64, Stretch<K>>,
    count: usize,
    /// How many of them hold no more, at most.
    stale: usize,
}

#[derive(Debug)]
struct Stretch<K> {
    first_ms: i64,
    entries: Vec<(i64, K)>,
}

impl<K> Default for Ends<K> {
    fn default() -> Self {
        Self {
            stretches: BTreeMap::new(),
            count: 0,
            stale: 0,
        }
    }
}

impl<K: Ord> Ends<K> {
    /// Notes when a key ends.
    pub(crate) fn note(&mut self, at_ms: i64, key: K) {
        let stretch = self.stretches.entry(at_ms.div_euclid(STRETCH_MS));
        let stretch = stretch.or_insert_with(|| Stretch {
            first_ms: at_ms,
            entries: Vec::new(),
        });
        stretch.first_ms = stretch.first_ms.min(at_ms);
        stretch.entries.push((at_ms, key));
        self.count += 1;
    }

    /// Learns that an entry holds no more: its key went, or ends at another time.
    pub(crate) fn outdate(&mut self) {
        self.stale += 1;
    }

    /// Takes out what ends before a time, if there is one: entries that hold, and others.
    pub(crate) fn take_before(&mut self, before_ms: Option<i64>) -> Vec<(i64, K)> {
        let mut taken = Vec::new();
        let Some(before_ms) = before_ms else {
            return taken;
        };
        while let Some(mut first) = self.stretches.first_entry() {
            let stretch = first.get_mut();
            if stretch.first_ms >= before_ms {
                break;
            }
            let over = |(at_ms, _): &mut (i64, K)| *at_ms < before_ms;
            taken.extend(stretch.entries.extract_if(.., over));
            match stretch.entries.iter().map(|(at_ms, _)| *at_ms).min() {
                Some(first_ms) => stretch.first_ms = first_ms,
                None => drop(first.remove()),
            }
        }
        self.count -= taken.len();
        self.stale = self.stale.min(self.count);
        taken
    }

    /// Whether so many entries hold no more that they are worth a [`Self::sweep`].
    pub(crate) fn is_littered(&self) -> bool {
        self.stale > STALE_FEW && self.stale > self.count / 2
    }

    /// Lets go of entries that do not hold, and of all but one of those that say the same.
    pub(crate) fn sweep(&mut self, mut holds: impl FnMut(i64, &K) -> bool) {
        self.count = 0;
        self.stale = 0;
        self.stretches.retain(|_, stretch| {
            stretch.entries.sort_unstable();
            stretch.entries.dedup();
            stretch.entries.retain(|(at_ms, key)| holds(*at_ms, key));
            stretch.entries.shrink_to_fit();
            self.count += stretch.entries.len();
            match stretch.entries.first() {
                Some((first_ms, _)) => {
                    stretch.first_ms = *first_ms;
                    true
                }
                None => false,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_ends_before_a_time_is_found_once_and_nothing_else(
            steps in prop::collection::vec((0..4, 0_u8..12, -900_i64..900), 0..200),
        ) {
            let mut ends = Ends::default();
            let mut model: HashMap<u8, i64> = HashMap::new();
            for (how, key, at_ms) in steps {
                match how {
                    // Comes, or ends at another time.
                    0 | 1 => {
                        let before = model.insert(key, at_ms);
                        if before != Some(at_ms) {
                            before.iter().for_each(|_| ends.outdate());
                            ends.note(at_ms, key);
                        }
                    }
                    // Goes.
                    2 => model.remove(&key).iter().for_each(|_| ends.outdate()),
                    // Time goes on.
                    _ => {
                        let mut found = Vec::new();
                        for (end, key) in ends.take_before(Some(at_ms)) {
                            prop_assert!(end < at_ms);
                            if model.get(&key) == Some(&end) {
                                model.remove(&key);
                                found.push(key);
                            }
                        }
                        prop_assert!(model.values().all(|end| *end >= at_ms));
                    }
                }
                if ends.stale > ends.count / 2 {
                    ends.sweep(|at_ms, key| model.get(key) == Some(&at_ms));
                    prop_assert_eq!(ends.count, model.len());
                }
                let entries = ends.stretches.values().flat_map(|stretch| &stretch.entries);
                prop_assert_eq!(entries.count(), ends.count);
                prop_assert!(ends.count - ends.stale.min(ends.count) <= model.len());
            }
        }
    }

    #[test]
    fn entries_that_hold_no_more_do_not_add_up() {
        let mut ends = Ends::default();
        for at_ms in 0..100_000 {
            if at_ms > 0 {
                ends.outdate();
            }
            ends.note(at_ms, 'k');
            if ends.is_littered() {
                ends.sweep(|end, _| end == at_ms);
            }
            assert!(ends.count <= 2 * STALE_FEW + 2, "{}", ends.count);
        }
    }
}
