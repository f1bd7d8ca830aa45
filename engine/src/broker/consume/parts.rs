//! What may change more cursors than one append has room for: it is decided on in parts, and asked for again until a
//! part is the last one.
//!
//! Each part is durable for itself. One that was not reached is reached by asking from the beginning again: a cursor
//! that is set twice stands where it stood, and what was given back is not held any more.

use millpond_proto::time::Timestamp;

use crate::broker::consume::{Consumed, Key, state};
use crate::broker::record::{Change, Returned, Started};
use crate::broker::request::{CloneGroup, QueuePlace, Reply};
use crate::broker::state::Decision;

/// Bytes of records after which a part ends.
const PART_BYTES: usize = 1024 * 1024;
/// Cursors of a part.
const PART_CURSORS: usize = 4096;

impl Consumed {
    /// Decides on the end of a consumer; [`Reply::More`] when it holds more than a part has room for.
    pub fn decide_release(&self, consumer: &str, now: Timestamp) -> Decision {
        let mut records = Vec::new();
        let mut bytes = 0;
        for ((group, topic, queue), cursor) in self.holders() {
            if bytes >= PART_BYTES {
                let reply = Reply::More(QueuePlace { topic, queue });
                return Decision { records, reply };
            }
            for (lease, offsets) in cursor.held_by(consumer) {
                let record = state(&Change::Returned(Returned {
                    group,
                    topic,
                    queue,
                    lease,
                    offsets,
                    at_ms: now.as_ms(),
                    unseen: false,
                }));
                bytes += record.append_bytes();
                records.push(record);
            }
        }
        Decision {
            records,
            reply: Reply::done(),
        }
    }

    /// Decides that a group stands where another one does; what that one holds is visible to it. [`Reply::More`] says
    /// behind which queue to go on.
    pub fn decide_clone(&self, clone: &CloneGroup, now: Timestamp) -> Decision {
        let mut keys = self.keys_behind(clone.from, clone.behind.as_ref(), PART_CURSORS + 1);
        let is_last = keys.len() <= PART_CURSORS;
        keys.truncate(PART_CURSORS);
        let mut records = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        for (at, key) in keys.iter().enumerate() {
            let &(_, topic, queue) = key;
            let change = match (self.cursors.get(key), self.resting.get(key)) {
                (Some(cursor), _) => {
                    Change::CursorSet(cursor.copied_at(now).snapshot(clone.to, topic, queue))
                }
                (None, Some(&next)) => Change::Started(Started {
                    group: clone.to,
                    topic,
                    queue,
                    next,
                    at_ms: now.as_ms(),
                }),
                (None, None) => continue,
            };
            let record = state(&change);
            bytes += record.append_bytes();
            records.push(record);
            if bytes >= PART_BYTES && !(is_last && at + 1 == keys.len()) {
                let reply = Reply::More(QueuePlace { topic, queue });
                return Decision { records, reply };
            }
        }
        let reply = match keys.last() {
            Some(&(_, topic, queue)) if !is_last => Reply::More(QueuePlace { topic, queue }),
            _ => Reply::done(),
        };
        Decision { records, reply }
    }

    /// The first queues behind a place of which a group has a cursor, or a place where it rests.
    fn keys_behind(&self, group: u64, behind: Option<&QueuePlace>, limit: usize) -> Vec<Key> {
        let from = behind.map_or((group, 0, 0), |place| {
            (group, place.topic, place.queue.saturating_add(1))
        });
        let range = from..(group + 1, 0, 0);
        let cursors = self.cursors.range(range.clone()).map(|(&key, _)| key);
        let resting = self.resting.range(range).map(|(&key, _)| key);
        let mut keys: Vec<Key> = cursors.take(limit).chain(resting.take(limit)).collect();
        keys.sort_unstable();
        keys.truncate(limit);
        keys
    }
}

#[cfg(test)]
mod tests {
    use millpond_storage::format::block::APPEND_BYTES_MAX;
    use millpond_storage::log::Record;

    use super::*;
    use crate::broker::consume::Ends;
    use crate::broker::record::{Holder, Popped};

    /// Asks until a part is the last one; how many parts there were.
    fn in_parts(
        consumed: &mut Consumed,
        ask: impl Fn(&Consumed, Option<QueuePlace>) -> Decision,
    ) -> usize {
        let (mut behind, mut parts) = (None, 0);
        loop {
            let decision = ask(consumed, behind);
            let size: usize = decision.records.iter().map(Record::append_bytes).sum();
            assert!(size < APPEND_BYTES_MAX / 8, "{size}");
            for record in &decision.records {
                let Record::State(bytes) = record else {
                    panic!("a message");
                };
                let change = Change::from_bytes(bytes).unwrap();
                assert_eq!(consumed.apply(change, &Ends::new()), None);
            }
            parts += 1;
            match decision.reply {
                Reply::More(place) => behind = Some(place),
                reply => {
                    assert_eq!(reply, Reply::done());
                    return parts;
                }
            }
        }
    }

    #[test]
    fn a_group_with_many_places_is_cloned_in_parts_and_nothing_of_it_is_left_out() {
        let mut consumed = Consumed::default();
        // Every third one is a lite queue, where the group rests.
        let places = 3 * u32::try_from(PART_CURSORS).unwrap();
        for n in 0..places {
            let queue = if n % 3 == 0 { n | 1 << 31 } else { n };
            let started = Started {
                group: 7,
                topic: u64::from(n % 2),
                queue,
                next: u64::from(n),
                at_ms: 0,
            };
            consumed.apply(Change::Started(started), &Ends::new());
        }
        let parts = in_parts(&mut consumed, |consumed, behind| {
            let (from, to) = (7, 9);
            consumed.decide_clone(&CloneGroup { from, to, behind }, Timestamp(1))
        });
        assert!(parts >= 3, "{parts}");
        assert_eq!(
            consumed.keys_behind(9, None, usize::MAX).len(),
            places as usize
        );
        for key in consumed.keys_behind(7, None, usize::MAX) {
            let copy = (9, key.1, key.2);
            assert_eq!(consumed.known(key), consumed.known(copy), "{key:?}");
        }
    }

    #[test]
    fn a_consumer_that_holds_much_is_released_in_parts() {
        let mut consumed = Consumed::default();
        let holder = Holder {
            consumer: "gone".to_owned(),
            renewed: true,
            ..Holder::default()
        };
        for queue in 0..16_384 {
            let popped = Popped {
                group: 7,
                topic: 1,
                queue,
                lease: u64::from(queue) + 1,
                until_ms: 1000,
                fresh: 32,
                holder: Some(holder.clone()),
                ..Popped::default()
            };
            consumed.apply(Change::Popped(popped), &Ends::new());
        }
        let parts = in_parts(&mut consumed, |consumed, _| {
            consumed.decide_release("gone", Timestamp(1))
        });
        assert!(parts >= 2, "{parts}");
        let held = consumed
            .holders()
            .flat_map(|(_, cursor)| cursor.held_by("gone"));
        assert_eq!(held.count(), 0);
    }
}
