//! A cursor in a snapshot, and back.
//!
//! What is held is written by lease and by how often it was delivered, as runs of offsets: a batch takes
//! some thirty bytes however many messages it has. Early versions wrote one entry per message; these
//! are read for ever.

use std::collections::BTreeMap;

use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;

use crate::broker::group::window::{Delivered, Holding};
use crate::broker::group::{Cursor, Facts};
use crate::broker::record::{CursorSnapshot, HeldSnapshot, Holder};

impl PartialEq for Cursor {
    /// Cursors are equal when they behave the same from now on.
    fn eq(&self, other: &Self) -> bool {
        self.snapshot(0, 0, 0) == other.snapshot(0, 0, 0)
    }
}

impl Cursor {
    /// The cursor's part of a snapshot.
    #[must_use]
    pub fn snapshot(&self, group: u64, topic: u64, queue: u32) -> CursorSnapshot {
        let mut held: BTreeMap<(Holding, u32), Vec<u64>> = BTreeMap::new();
        for (offset, delivered) in self.kept.window.delivered_from(0) {
            let runs = held.entry((delivered.holding, delivered.attempts));
            extend(runs.or_default(), offset);
        }
        let held = held.into_iter().map(|((holding, attempts), runs)| {
            let (lease, holder) = match holding {
                Holding::Lease(id) => (id, self.kept.leases.holder(id)),
                Holding::Nobody(_) => (0, None),
            };
            HeldSnapshot {
                lease,
                is_held: matches!(holding, Holding::Lease(_)),
                until_ms: self.kept.leases.visible_at(holding).as_ms(),
                attempts,
                holder,
                runs: relative(&runs),
            }
        });
        let facts = self.kept.facts.iter();
        let facts = facts.filter(|(offset, _)| self.kept.window.get(**offset).is_some());
        let parked = self.kept.window.parked_ones();
        CursorSnapshot {
            group,
            topic,
            queue,
            next: self.next,
            parked: parked
                .map(|offset| self.facts(offset).unwrap_or_default().at(offset))
                .collect(),
            held: held.collect(),
            facts: facts.map(|(&offset, facts)| facts.at(offset)).collect(),
            ..CursorSnapshot::default()
        }
    }

    /// The cursor that a snapshot holds.
    #[must_use]
    pub fn restore(snapshot: &CursorSnapshot) -> Self {
        let mut cursor = Self::starting_at(Offset(snapshot.next));
        let holders = snapshot.holders.iter();
        let holders: BTreeMap<u64, &Holder> = holders
            .filter_map(|known| Some((known.lease, known.holder.as_ref()?)))
            .collect();
        for one in &snapshot.pending {
            let until = Timestamp(one.visible_at_ms);
            let holding = if one.lease == 0 {
                Holding::Nobody(until)
            } else {
                let holder = holders.get(&one.lease).copied();
                cursor.begin(one.lease, until, holder);
                Holding::Lease(one.lease)
            };
            let facts = Facts {
                message_group: one.message_group,
                priority: one.priority,
            };
            let attempts = one.attempts;
            cursor.set(one.offset, Delivered { holding, attempts }, facts);
        }
        let facts = snapshot.facts.iter();
        let facts: BTreeMap<u64, Facts> = facts.map(|f| (f.offset, Facts::of(f))).collect();
        for one in &snapshot.held {
            let until = Timestamp(one.until_ms);
            let holding = if one.is_held {
                cursor.begin(one.lease, until, one.holder.as_ref());
                Holding::Lease(one.lease)
            } else {
                Holding::Nobody(until)
            };
            let attempts = one.attempts;
            for offset in absolute(&one.runs) {
                let facts = facts.get(&offset).copied().unwrap_or_default();
                cursor.set(offset, Delivered { holding, attempts }, facts);
            }
        }
        for fact in &snapshot.parked {
            cursor.park(fact.offset, Facts::of(fact));
        }
        cursor
    }

    /// The same place for another group: what is pending here is visible to it at `now`, and new.
    #[must_use]
    pub fn copied_at(&self, now: Timestamp) -> Self {
        let mut snapshot = self.snapshot(0, 0, 0);
        for held in &mut snapshot.held {
            *held = HeldSnapshot {
                until_ms: now.as_ms(),
                runs: std::mem::take(&mut held.runs),
                ..HeldSnapshot::default()
            };
        }
        Self::restore(&snapshot)
    }

    fn begin(&mut self, lease: u64, until: Timestamp, holder: Option<&Holder>) {
        if self.kept.leases.span(lease).is_none() {
            self.open(lease, until.as_ms(), holder);
        }
    }
}

/// Adds an offset to runs of first and one past the last.
fn extend(runs: &mut Vec<u64>, offset: u64) {
    match runs.last_mut() {
        Some(end) if *end == offset => *end += 1,
        _ => runs.extend([offset, offset + 1]),
    }
}

/// Each number as its distance to the one before.
fn relative(runs: &[u64]) -> Vec<u64> {
    let before = std::iter::once(0).chain(runs.iter().copied());
    runs.iter()
        .zip(before)
        .map(|(run, before)| run - before)
        .collect()
}

/// The offsets of runs that are written so.
fn absolute(relative: &[u64]) -> impl Iterator<Item = u64> {
    let mut at = 0_u64;
    relative.chunks_exact(2).flat_map(move |pair| {
        let from = at.saturating_add(pair[0]);
        at = from.saturating_add(pair[1]);
        from..at
    })
}
