//! How messages leave their group for its dead letters, and come back.

use millpond_proto::message::Offset;
use millpond_proto::time::Timestamp;
use millpond_storage::log::Record;

use crate::broker::consume::{Consumed, Ends, not_held, state};
use crate::broker::group::{Choice, Cursor, Held};
use crate::broker::record::{
    Acked, Change, Fact, Scanned, Transfer, TransferKind, TransfersBegun, TransfersEnded,
};
use crate::broker::request::{
    Bury, EndTransfers, Pop, Reason, Reply, Settle, Transfers, TransfersOf,
};
use crate::broker::state::Decision;

impl Consumed {
    /// Decides on a dead letter that a consumer asked for.
    pub fn decide_bury(&self, bury: &Bury, now: Timestamp) -> Decision {
        let handle = &bury.handle;
        match self.held(bury.group, bury.topic, handle, now) {
            Held::Current => {
                let cursor = self.cursors.get(&(bury.group, bury.topic, handle.queue));
                let transfer = Transfer {
                    sequence: self.last_transfer + 1,
                    kind: TransferKind::Bury.into(),
                    group: bury.group,
                    topic: bury.topic,
                    queue: handle.queue,
                    offset: handle.offset,
                    attempts: cursor.map_or(0, |cursor| cursor.attempts(handle.offset)),
                    requested: true,
                };
                let transfers = vec![transfer];
                let begun = Change::TransfersBegun(TransfersBegun {
                    transfers,
                    at_ms: now.as_ms(),
                });
                Decision::change(&begun, Reply::done())
            }
            // Asked again, because the answer was lost.
            Held::Acknowledged => Decision::reply(Reply::done()),
            held => Decision::reply(not_held(held)),
        }
    }

    /// The oldest transfers under way behind one.
    pub fn transfers(&self, of: TransfersOf) -> Reply {
        let behind = self.transfers.range(of.after.saturating_add(1)..);
        let transfers = behind.map(|(_, transfer)| transfer.clone());
        let transfers = transfers.take(of.limit as usize);
        Reply::Transfers(Transfers {
            transfers: transfers.collect(),
        })
    }

    /// Decides on the end of transfers.
    pub fn decide_end(&self, end: EndTransfers, now: Timestamp) -> Decision {
        let known = |sequence: &u64| self.transfers.contains_key(sequence);
        let sequences: Vec<u64> = end.sequences.into_iter().filter(known).collect();
        if sequences.is_empty() {
            return Decision::reply(Reply::done());
        }
        let ended = TransfersEnded {
            sequences,
            back: end.back,
            at_ms: now.as_ms(),
        };
        Decision::change(&Change::TransfersEnded(ended), Reply::done())
    }

    /// Decides on messages that a group is done with.
    pub fn decide_settle(&self, settle: &Settle, now: Timestamp) -> Decision {
        let key = (settle.group, settle.topic, settle.queue);
        let new = Cursor::starting_at(self.first(settle.topic, settle.queue));
        let cursor = self.cursors.get(&key).unwrap_or(&new);
        let next = cursor.next().0;
        let to = settle
            .offsets
            .last()
            .map_or(next, |last| next.max(last + 1));
        let between = (to - next).saturating_sub(settle.offsets.len() as u64);
        if between > cursor.parking_room() as u64 {
            let what = format!("{} messages lie before the last one", to - next);
            return Decision::reply(Reply::refused(Reason::TooFarAhead, what));
        }
        let parked = (next..to).map(|offset| Fact {
            offset,
            ..Fact::default()
        });
        let scanned = Scanned {
            group: settle.group,
            topic: settle.topic,
            queue: settle.queue,
            next: to,
            parked: parked.collect(),
            ..Scanned::default()
        };
        let mut records = Vec::new();
        if to > next {
            records.push(state(&Change::Scanned(scanned)));
        }
        let open = |offset: &&u64| {
            **offset >= next || cursor.held(Offset(**offset), 0, Timestamp(0)) != Held::Acknowledged
        };
        let offsets: Vec<u64> = settle.offsets.iter().filter(open).copied().collect();
        if settle.redrive {
            let sequences = self.last_transfer + 1..;
            let transfers = sequences.zip(&offsets).map(|(sequence, &offset)| Transfer {
                sequence,
                kind: TransferKind::Redrive.into(),
                group: settle.group,
                topic: settle.topic,
                queue: settle.queue,
                offset,
                attempts: cursor.attempts(offset),
                requested: true,
            });
            let transfers = transfers.collect();
            records.push(state(&Change::TransfersBegun(TransfersBegun {
                transfers,
                at_ms: now.as_ms(),
            })));
        } else {
            records.push(state(&Change::Acked(Acked {
                group: settle.group,
                topic: settle.topic,
                queue: settle.queue,
                offsets,
                at_ms: now.as_ms(),
            })));
        }
        Decision {
            records,
            reply: Reply::done(),
        }
    }

    pub(super) fn ended(&mut self, ended: &TransfersEnded, ends: &Ends) {
        for sequence in &ended.sequences {
            let Some(transfer) = self.transfers.remove(sequence) else {
                continue;
            };
            if ended.back {
                let fact = Fact {
                    offset: transfer.offset,
                    ..Fact::default()
                };
                let key = (transfer.group, transfer.topic, transfer.queue);
                self.change(key, ends, |cursor| {
                    cursor.reopened(&fact, transfer.attempts, Timestamp(ended.at_ms));
                });
            }
        }
    }
}

/// The record of a choice's dead letters; none when there are none.
pub(super) fn bury_dead(
    pop: &Pop,
    queue: u32,
    cursor: &Cursor,
    choice: &Choice,
    sequence: &mut u64,
    now: Timestamp,
) -> Option<Record> {
    if choice.dead.is_empty() {
        return None;
    }
    let transfers = choice.dead.iter().map(|&offset| {
        *sequence += 1;
        Transfer {
            sequence: *sequence,
            kind: TransferKind::Bury.into(),
            group: pop.group,
            topic: pop.topic,
            queue,
            offset,
            attempts: cursor.attempts(offset),
            requested: false,
        }
    });
    let begun = TransfersBegun {
        transfers: transfers.collect(),
        at_ms: now.as_ms(),
    };
    Some(state(&Change::TransfersBegun(begun)))
}

#[cfg(test)]
mod tests {
    use millpond_proto::limits;

    use super::*;
    use crate::broker::record::{QueueOffset, Trimmed};

    #[test]
    fn a_letter_behind_a_beginning_that_is_gone_is_settled_by_a_group_that_was_never_there() {
        let first = limits::PARKED_MESSAGES_MAX as u64 + 7;
        let ends = Ends::from([((7, 0), first + 1)]);
        let mut consumed = Consumed::default();
        let firsts = vec![QueueOffset {
            topic: 7,
            queue: 0,
            offset: first,
        }];
        consumed.apply(Change::Trimmed(Trimmed { firsts }), &ends);
        let settle = Settle {
            group: 1,
            topic: 7,
            queue: 0,
            offsets: vec![first],
            redrive: false,
        };
        let decision = consumed.decide_settle(&settle, Timestamp(1));
        assert_eq!(decision.reply, Reply::done());
    }
}
