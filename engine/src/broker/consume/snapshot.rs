//! What groups have consumed in a snapshot, and back.
//!
//! A cursor that holds nothing is a number there as it is here; only those that hold something are written one by one.

use std::collections::BTreeMap;

use millpond_proto::message::Offset;

use crate::broker::consume::ready::Ready;
use crate::broker::consume::{Consumed, Key};
use crate::broker::group::Cursor;
use crate::broker::lite::is_lite;
use crate::broker::record::{CursorSnapshot, PlacesSnapshot, ShardSnapshotRecord};

impl Consumed {
    /// Adds its part to a snapshot.
    pub fn save(&self, snapshot: &mut ShardSnapshotRecord) {
        let holders = self.holders();
        let cursors = holders.map(|((group, topic, queue), c)| c.snapshot(group, topic, queue));
        snapshot.cursors = cursors.collect();
        let cursors = self.cursors.iter();
        let idle = cursors.filter(|(_, cursor)| cursor.is_at_rest());
        let idle = idle.map(|(&key, cursor)| (key, cursor.next().0));
        snapshot.idle = PlacesSnapshot::of(idle);
        let resting = self.resting.iter().map(|(&key, &next)| (key, next));
        snapshot.idle.extend(PlacesSnapshot::of(resting));
        snapshot.transfers = self.transfers.values().cloned().collect();
        snapshot.last_transfer = self.last_transfer;
        let firsts = self.firsts.iter();
        let firsts = firsts.map(|(&(topic, queue), &offset)| ((0, topic, queue), offset));
        snapshot.begins = PlacesSnapshot::of(firsts);
    }

    /// What a snapshot holds.
    #[must_use]
    pub fn restore(snapshot: &ShardSnapshotRecord) -> Self {
        let key = |c: &CursorSnapshot| (c.group, c.topic, c.queue);
        let cursors = snapshot.cursors.iter();
        let cursors = cursors.map(|c| (key(c), Cursor::restore(c)));
        let idle = PlacesSnapshot::all(&snapshot.idle).filter(|(key, _)| !is_lite(key.2));
        let idle = idle.map(|(key, next)| (key, Cursor::starting_at(Offset(next))));
        let cursors: BTreeMap<Key, Cursor> = cursors.chain(idle).collect();
        let holding = cursors.iter().filter(|(_, cursor)| !cursor.is_at_rest());
        let early = snapshot.resting.iter();
        let early = early.map(|one| ((one.group, one.topic, one.queue), one.offset));
        let lite = PlacesSnapshot::all(&snapshot.idle).filter(|(key, _)| is_lite(key.2));
        let begins = PlacesSnapshot::all(&snapshot.begins);
        let begins = begins.map(|((_, topic, queue), first)| ((topic, queue), first));
        let firsts = snapshot.firsts.iter();
        let firsts = firsts.map(|q| ((q.topic, q.queue), q.offset));
        let transfers = snapshot.transfers.iter();
        Self {
            holding: holding.map(|(&key, _)| key).collect(),
            ready: Ready::default(),
            resting: early.chain(lite).collect(),
            firsts: firsts.chain(begins).collect(),
            transfers: transfers.map(|t| (t.sequence, t.clone())).collect(),
            last_transfer: snapshot.last_transfer,
            cursors,
        }
    }
}
