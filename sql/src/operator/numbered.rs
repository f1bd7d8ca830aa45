//! What is at rest under keys of bytes, each told by a number.
//!
//! Keys lie in an [`Arena`] and what is known of each in one line that all share, so that one that comes costs its bytes and a place in one map,
//! and no allocation of its own. Whoever holds on to many at a time holds numbers, and looks each key up once.
//!
//! **Invariant.** A number that is free has no key, and no list leads to it; it may be given again, so whoever noted it for later asks whether
//! what it tells is what was meant. Keys of one hash are in a list, and told apart by their bytes.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::{Index, IndexMut};

use crate::operator::arena::{Arena, At};
use crate::operator::hash::{Hashed, Ready};

/// No number: the end of a list.
pub(crate) const NONE: u32 = u32::MAX;

/// Things by key.
#[derive(Debug)]
pub(crate) struct Numbered<T> {
    /// The first number of each hash.
    firsts: HashMap<u64, u32, BuildHasherDefault<Ready>>,
    arena: Arena,
    all: Vec<One<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct One<T> {
    /// `None` when the number is free.
    key: Option<At>,
    hash: u64,
    /// The next with the same hash.
    same: u32,
    known: T,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            firsts: HashMap::default(),
            arena: Arena::default(),
            all: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Numbered<T> {
    /// The number of a key.
    pub(crate) fn find(&self, key: Hashed<'_>) -> Option<u32> {
        let mut next = self.firsts.get(&key.hash).copied()?;
        while let Some(one) = self.all.get(next as usize) {
            if one.key.is_some_and(|at| self.arena.get(at) == key.bytes) {
                return Some(next);
            }
            next = one.same;
        }
        None
    }

    /// Adds a key that is not there; answers its number.
    pub(crate) fn insert(&mut self, key: Hashed<'_>, known: T) -> u32 {
        debug_assert!(self.find(key).is_none(), "a key is there once");
        let free = self.free.pop();
        let number = free.unwrap_or_else(|| {
            let count = u32::try_from(self.all.len());
            count.expect("a bounded state has few keys")
        });
        assert!(number < NONE, "a bounded state has few keys");
        let one = One {
            key: Some(self.arena.put(key.bytes)),
            hash: key.hash,
            same: self.firsts.insert(key.hash, number).unwrap_or(NONE),
            known,
        };
        match free {
            Some(free) => self.all[free as usize] = one,
            None => self.all.push(one),
        }
        number
    }

    /// Takes a key away.
    pub(crate) fn remove(&mut self, number: u32) {
        let one = &mut self.all[number as usize];
        let (key, hash, same) = (one.key.take(), one.hash, one.same);
        self.arena.free(key.expect("a key goes once"));
        self.free.push(number);
        let first = self.firsts.get_mut(&hash);
        let first = first.expect("a key is in the list of its hash");
        if *first == number {
            match same {
                NONE => drop(self.firsts.remove(&hash)),
                _ => *first = same,
            }
            return;
        }
        let mut at = *first;
        while let Some(other) = self.all.get_mut(at as usize) {
            if other.same == number {
                other.same = same;
                return;
            }
            at = other.same;
        }
    }

    /// The key of a number that is not free.
    pub(crate) fn key(&self, number: u32) -> &[u8] {
        let key = self.all[number as usize].key;
        self.arena.get(key.expect("a number in use has a key"))
    }

    /// What a number tells, if it is one and not free.
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let one = self.all.get(number as usize)?;
        one.key.is_some().then_some(&one.known)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let one = self.all.get_mut(number as usize)?;
        one.key.is_some().then_some(&mut one.known)
    }

    /// All that is there, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let all = (0..).zip(&self.all);
        let there = all.filter(|(_, one)| one.key.is_some());
        there.map(|(number, one)| (number, &one.known))
    }

    /// How many numbers were given, those that are free now among them.
    pub(crate) fn given(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.len() == self.free.len()
    }

    /// Gives back what keys left behind that went, once it is much.
    pub(crate) fn tidy(&mut self) {
        if self.arena.is_sparse() {
            let mut arena = Arena::default();
            for at in self.all.iter_mut().filter_map(|one| one.key.as_mut()) {
                *at = arena.put(self.arena.get(*at));
            }
            self.arena = arena;
        }
    }
}

impl<T> Index<u32> for Numbered<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.all[number as usize].known
    }
}

impl<T> IndexMut<u32> for Numbered<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.all[number as usize].known
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_are_found_until_they_go_even_if_hashes_collide(
            hashes in prop::sample::select(vec![1, 2, 7, u64::MAX]),
            steps in prop::collection::vec((any::<bool>(), 0_u8..30), 0..160),
        ) {
            let mut numbered = Numbered::default();
            let mut model: BTreeMap<[u8; 1], u32> = BTreeMap::new();
            for (comes, key) in steps {
                let bytes = [key];
                let key = Hashed { hash: Hashed::of(&bytes).hash % hashes, bytes: &bytes };
                let known = numbered.find(key);
                prop_assert_eq!(known, model.get(&bytes).copied());
                match (comes, known) {
                    (true, None) => {
                        let number = numbered.insert(key, bytes[0]);
                        prop_assert!(model.insert(bytes, number).is_none());
                    }
                    (false, Some(number)) => {
                        numbered.remove(number);
                        prop_assert_eq!(numbered.get(number), None);
                        model.remove(&bytes);
                    }
                    _ => {}
                }
                let found: BTreeMap<[u8; 1], u32> =
                    numbered.iter().map(|(number, key)| ([*key], number)).collect();
                prop_assert_eq!(&found, &model);
                for (key, number) in &model {
                    prop_assert_eq!((numbered.key(*number), numbered[*number]), (&key[..], key[0]));
                }
                prop_assert_eq!(numbered.is_empty(), model.is_empty());
                prop_assert!(numbered.given() <= 30);
            }
        }
    }

    #[test]
    fn what_many_keys_leave_behind_is_given_back() {
        let mut numbered = Numbered::default();
        let bytes = |number: u32| [number.to_be_bytes(); 24].concat();
        let mut live = std::collections::VecDeque::new();
        for number in 0..40_000 {
            let key = bytes(number);
            let given = numbered.insert(Hashed::of(&key), number);
            // Every hundredth stays, so that blocks never become empty by themselves.
            if number % 100 != 0 {
                live.push_back(given);
            }
            if live.len() > 1000 {
                live.pop_front()
                    .into_iter()
                    .for_each(|gone| numbered.remove(gone));
            }
            numbered.tidy();
            assert!(!numbered.arena.is_sparse());
        }
        assert!(numbered.given() < 2200, "{}", numbered.given());
        assert!(
            numbered
                .iter()
                .all(|(given, number)| numbered.key(given) == bytes(*number))
        );
    }
}
