//! The groups of an aggregate by key: each has a slot that it keeps while it is there, so that a step may hold on to many at a time
//! and looks each of them up once.

use std::collections::HashMap;

use crate::operator::aggregate::Group;
use crate::operator::delta::Row;
use crate::operator::hash::Fixed;

/// Groups by key.
#[derive(Debug, Default)]
pub(super) struct Groups {
    places: HashMap<Row, usize, Fixed>,
    slots: Vec<Option<Group>>,
    /// Slots without a group.
    free: Vec<usize>,
}

impl Groups {
    /// The key of a group as it lies here, and its slot.
    pub(super) fn find(&self, key: &[u8]) -> Option<(Row, usize)> {
        let found = self.places.get_key_value(key);
        found.map(|(key, slot)| (Row::clone(key), *slot))
    }

    /// The group of a slot.
    pub(super) fn at(&self, slot: usize) -> &Group {
        let group = self.slots[slot].as_ref();
        group.expect("a slot is given up with its group")
    }

    /// The group of a slot, to be changed.
    pub(super) fn at_mut(&mut self, slot: usize) -> &mut Group {
        let group = self.slots[slot].as_mut();
        group.expect("a slot is given up with its group")
    }

    /// Adds a group that is not there; answers its slot.
    pub(super) fn insert(&mut self, key: Row, group: Group) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(group);
        let before = self.places.insert(key, slot);
        assert!(before.is_none(), "a group is there once");
        slot
    }

    /// Takes a group away.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Group> {
        let slot = self.places.remove(key)?;
        self.free.push(slot);
        self.slots[slot].take()
    }

    /// Takes a group away if it ends at that time.
    pub(super) fn remove_at(&mut self, key: &[u8], at_ms: i64) -> Option<Group> {
        let slot = *self.places.get(key)?;
        match self.at(slot).at_ms == Some(at_ms) {
            true => self.remove(key),
            false => None,
        }
    }

    /// All of them, in no order that is told.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Row, &Group)> {
        let places = self.places.iter();
        places.map(|(key, slot)| (key, self.at(*slot)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
