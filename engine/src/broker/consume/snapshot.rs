//! What groups have consumed in a snapshot, and back.

use std::collections::BTreeMap;

use crate::broker::consume::ready::Ready;
use crate::broker::consume::{Consumed, Key};
use crate::broker::group::Cursor;
use crate::broker::record::{CursorSnapshot, GroupOffset, QueueOffset, ShardSnapshotRecord};

impl Consumed {
    /// Adds its part to a snapshot.
    pub fn save(&self, snapshot: &mut ShardSnapshotRecord) {
        let cursors = self.cursors.iter();
        let cursors = cursors.map(|(&(group, topic, queue), c)| c.snapshot(group, topic, queue));
        snapshot.cursors = cursors.collect();
        snapshot.resting = self.save_resting();
        snapshot.transfers = self.transfers.values().cloned().collect();
        snapshot.last_transfer = self.last_transfer;
        let firsts = self.firsts.iter();
        let firsts = firsts.map(|(&(topic, queue), &offset)| QueueOffset {
            topic,
            queue,
            offset,
        });
        snapshot.firsts = firsts.collect();
    }

    /// What a snapshot holds.
    #[must_use]
    pub fn restore(snapshot: &ShardSnapshotRecord) -> Self {
        let key = |c: &CursorSnapshot| (c.group, c.topic, c.queue);
        let cursors = snapshot.cursors.iter();
        let cursors: BTreeMap<Key, Cursor> =
            cursors.map(|c| (key(c), Cursor::restore(c))).collect();
        let holding = cursors.iter().filter(|(_, cursor)| !cursor.is_at_rest());
        let transfers = snapshot.transfers.iter();
        Self {
            holding: holding.map(|(&key, _)| key).collect(),
            ready: Ready::default(),
            cursors,
            resting: snapshot
                .resting
                .iter()
                .map(|one| ((one.group, one.topic, one.queue), one.offset))
                .collect(),
            firsts: snapshot
                .firsts
                .iter()
                .map(|q| ((q.topic, q.queue), q.offset))
                .collect(),
            transfers: transfers.map(|t| (t.sequence, t.clone())).collect(),
            last_transfer: snapshot.last_transfer,
        }
    }

    /// The places of groups that hold nothing of lite queues, for a snapshot.
    fn save_resting(&self) -> Vec<GroupOffset> {
        let resting = self.resting.iter();
        let resting = resting.map(|(&(group, topic, queue), &offset)| GroupOffset {
            group,
            topic,
            queue,
            offset,
        });
        resting.collect()
    }
}
