//! Places for polls that wait: so many in all, so many for each group.
//!
//! A poll that waits costs some memory and nothing else, but each is a place that another can not have. A
//! group that opens more and more of them is told to stop long before the places of the others are gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use millpond_proto::limits;

use crate::broker::BrokerError;

/// The places taken.
#[derive(Debug, Default)]
pub struct Parking(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_group: BTreeMap<u64, usize>,
}

/// A place; free again when this is dropped.
#[derive(Debug)]
#[must_use = "the place is held by it"]
pub struct Parked<'a> {
    parking: &'a Parking,
    group: u64,
}

impl Parking {
    /// Takes a place for a group.
    ///
    /// # Errors
    /// [`BrokerError::TooMany`] over either bound.
    pub fn park(&self, group: u64) -> Result<Parked<'_>, BrokerError> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_group = taken.by_group.get(&group).copied().unwrap_or(0);
        if of_group >= limits::PARKED_POLLS_PER_GROUP_MAX {
            return Err(BrokerError::TooMany {
                what: "too many polls of this group wait for messages",
                limit: limits::PARKED_POLLS_PER_GROUP_MAX,
            });
        }
        if taken.all >= limits::PARKED_POLLS_MAX {
            return Err(BrokerError::TooMany {
                what: "too many polls wait for messages",
                limit: limits::PARKED_POLLS_MAX,
            });
        }
        taken.all += 1;
        taken.by_group.insert(group, of_group + 1);
        let parking = self;
        Ok(Parked { parking, group })
    }

    /// How many places are taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        let taken = self.parking.0.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(of_group) = taken.by_group.get_mut(&self.group) {
            *of_group -= 1;
            if *of_group == 0 {
                taken.by_group.remove(&self.group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_group_leaves_places_for_others_and_gives_its_own_back() {
        let parking = Parking::default();
        let held: Vec<_> = (0..limits::PARKED_POLLS_PER_GROUP_MAX)
            .map(|_| parking.park(1).unwrap())
            .collect();
        let refused = parking.park(1).unwrap_err();
        assert!(matches!(refused, BrokerError::TooMany { .. }));
        assert!(parking.park(2).is_ok());
        let others = limits::PARKED_POLLS_MAX - parking.count();
        let rest: Vec<_> = (0..others)
            .map(|n| parking.park(3 + n as u64).unwrap())
            .collect();
        assert!(parking.park(2).is_err(), "none is left at all");
        drop((held, rest));
        assert_eq!(parking.count(), 0);
        assert!(parking.0.lock().unwrap().by_group.is_empty());
    }
}
