//! Distinct whole numbers of aggregates that differ in their `FILTER` alone: each number lies there once, with a bit for each that counts it.
//!
//! Where rows only come, a number that was counted stays counted, so how often it came need not be known. What is saved is what each
//! aggregate would save by itself: its own numbers, each once. **Invariant.** An aggregate that shares keeps as its total how many of
//! the numbers have its bit.

use std::collections::HashMap;

use crate::operator::aggregate::Taken;
use crate::operator::aggregate::groups::Groups;
use crate::operator::hash::Fixed;
use crate::operator::kept::{Arguments, Keeper, Kept, NUMBER_BYTES, Saved};

/// Most aggregates of one argument that share: as many as there are bits.
const SHARE_MAX: usize = u64::BITS as usize;

/// Which aggregates share, and what.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// The aggregates of each argument that several are of, by bit.
    sets: Vec<Vec<usize>>,
    /// For each aggregate its set and bit, if it shares.
    places: Vec<Option<(usize, usize)>>,
}

/// The numbers of a set in a group, and the bits of the aggregates that count each.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<i64, u64, Fixed>);

impl Sharing {
    /// How these aggregates share, over rows that only come if `is_append`.
    pub(super) fn of(keepers: &[Keeper], is_append: bool) -> Self {
        let mut sharing = Self {
            sets: Vec::new(),
            places: vec![None; keepers.len()],
        };
        let arguments = keepers.iter().map(Keeper::distinct_numbers);
        let arguments: Vec<Option<usize>> = arguments.map(|of| of.filter(|_| is_append)).collect();
        for (aggregate, argument) in arguments.iter().enumerate() {
            if argument.is_none() || sharing.places[aggregate].is_some() {
                continue;
            }
            let same = (aggregate..keepers.len()).filter(|other| arguments[*other] == *argument);
            let set: Vec<usize> = same
                .filter(|other| sharing.places[*other].is_none())
                .take(SHARE_MAX)
                .collect();
            if set.len() > 1 {
                for (bit, aggregate) in set.iter().enumerate() {
                    sharing.places[*aggregate] = Some((sharing.sets.len(), bit));
                }
                sharing.sets.push(set);
            }
        }
        sharing
    }

    /// Whether an aggregate shares what it keeps.
    pub(super) fn shares(&self, aggregate: usize) -> bool {
        self.places.get(aggregate).is_some_and(Option::is_some)
    }

    /// What is kept of a group that has no row yet, by aggregate.
    pub(super) fn fresh<'a>(&'a self, keepers: &'a [Keeper]) -> impl Iterator<Item = Kept> + 'a {
        let kept = keepers.iter().zip(&self.places);
        kept.map(|(keeper, place)| match place {
            Some(_) => Kept::Total { total: 0, count: 0 },
            None => keeper.fresh(),
        })
    }

    /// The numbers of a group that has no row yet, by set.
    pub(super) fn fresh_numbers(&self) -> impl Iterator<Item = Numbers> {
        self.sets.iter().map(|_| Numbers::default())
    }

    /// Adds the arguments of rows to their groups; those are of all aggregates.
    pub(super) fn add(&self, groups: &mut Groups, taken: &[Taken], arguments: &[Arguments]) {
        for (number, set) in self.sets.iter().enumerate() {
            let Some(numbers) = arguments[set[0]].numbers() else {
                continue;
            };
            let mut bits = vec![0_u64; numbers.len()];
            for (bit, aggregate) in set.iter().enumerate() {
                match arguments[*aggregate].counts() {
                    Some(counts) => counts.set_indices().for_each(|row| bits[row] |= 1 << bit),
                    None => bits.iter_mut().for_each(|bits| *bits |= 1 << bit),
                }
            }
            for Taken { row, slot, .. } in taken {
                if bits[*row] == 0 {
                    continue;
                }
                let (kept, shared, bytes) = groups.all_mut(*slot);
                let known = shared[number].0.entry(numbers.value(*row));
                let known = known.or_insert_with(|| {
                    *bytes += NUMBER_BYTES;
                    0
                });
                let mut new = bits[*row] & !*known;
                *known |= new;
                while new != 0 {
                    let aggregate = set[new.trailing_zeros() as usize];
                    kept[aggregate].count_one();
                    new &= new - 1;
                }
            }
        }
    }

    /// Gives the entries of an aggregate that shares to `put`, in the order of their numbers.
    pub(super) fn save(
        &self,
        aggregate: usize,
        shared: &[Numbers],
        mut put: impl FnMut(Saved<'_>),
    ) {
        let Some((set, bit)) = self.places[aggregate] else {
            return;
        };
        let numbers = shared[set].0.iter();
        let own = numbers.filter(|(_, bits)| **bits & (1 << bit) != 0);
        let mut own: Vec<i64> = own.map(|(number, _)| *number).collect();
        own.sort_unstable();
        for number in own {
            put(Saved {
                value: &number.to_be_bytes(),
                count: 1,
                is_total: false,
            });
        }
    }

    /// Takes an entry back that an aggregate saved which shares; answers whether it is one.
    pub(super) fn restore(
        &self,
        aggregate: usize,
        kept: &mut [Kept],
        shared: &mut [Numbers],
        saved: Saved<'_>,
        bytes: &mut usize,
    ) -> bool {
        let place = self.places.get(aggregate).copied().flatten();
        let number = saved.value.try_into().ok().filter(|_| !saved.is_total);
        let Some(((set, bit), number)) = place.zip(number) else {
            return false;
        };
        let known = shared[set].0.entry(i64::from_be_bytes(number));
        let known = known.or_insert_with(|| {
            *bytes += NUMBER_BYTES;
            0
        });
        if *known & (1 << bit) == 0 {
            *known |= 1 << bit;
            kept[aggregate].count_one();
        }
        true
    }
}

impl Numbers {
    /// Memory that they take, about.
    pub(super) fn bytes(&self) -> usize {
        NUMBER_BYTES * self.0.len()
    }
}
