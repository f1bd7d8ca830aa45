//! A cursor against a model that writes down every message's fate, and against one entry per message.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::broker::consume::{Consumed, Ends};
use crate::broker::group::naive::Cursor as Naive;
use crate::broker::record::{Change, CursorSnapshot, HolderSnapshot};
use crate::broker::request::{Pop, Reply};
use crate::broker::state::Moment;

fn wish(now: i64, end: u64, limit: usize) -> Wish<'static> {
    Wish {
        now: Timestamp(now),
        end: Offset(end),
        limit,
        attempts_max: 0,
        by_priority: false,
        scan: None,
    }
}

fn pop(cursor: &mut Cursor, now: i64, end: u64, limit: usize, lease: u64) -> Vec<Chosen> {
    let chosen = cursor.decide(&wish(now, end, limit)).chosen;
    let next = cursor.next;
    let again = chosen
        .iter()
        .map(|c| c.offset.0)
        .filter(|&o| o < next)
        .collect();
    let fresh = chosen.iter().filter(|c| c.offset.0 >= next).count();
    cursor.popped(&Popped {
        lease,
        until_ms: now + 100,
        again,
        fresh_from: next,
        fresh: u32::try_from(fresh).unwrap(),
        ..Popped::default()
    });
    chosen
}

fn ack(cursor: &mut Cursor, offsets: &[u64]) {
    cursor.acked(&Acked {
        offsets: offsets.to_vec(),
        ..Acked::default()
    });
}

#[test]
fn a_popped_message_is_invisible_until_its_time_ends_and_then_returns_once_more() {
    let mut cursor = Cursor::default();
    assert_eq!(pop(&mut cursor, 0, 2, 32, 1).len(), 2);
    assert_eq!(pop(&mut cursor, 99, 2, 32, 2), []);
    let again = pop(&mut cursor, 100, 2, 32, 3);
    assert_eq!(again.iter().map(|c| c.attempt).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(cursor.held(Offset(0), 1, Timestamp(100)), Held::Expired);
    assert_eq!(cursor.held(Offset(0), 3, Timestamp(100)), Held::Current);
}

#[test]
fn an_acknowledged_message_never_returns_and_the_floor_follows() {
    let mut cursor = Cursor::default();
    pop(&mut cursor, 0, 3, 32, 1);
    ack(&mut cursor, &[1, 2]);
    assert_eq!(cursor.ack_floor(), Offset(0));
    ack(&mut cursor, &[0]);
    assert_eq!(cursor.ack_floor(), Offset(3));
    assert_eq!(pop(&mut cursor, 1_000, 3, 32, 2), []);
    assert_eq!(
        cursor.held(Offset(1), 1, Timestamp(1_000)),
        Held::Acknowledged
    );
}

#[test]
fn moving_the_invisible_time_replaces_the_handle() {
    let mut cursor = Cursor::default();
    pop(&mut cursor, 0, 1, 1, 1);
    cursor.moved(&Moved {
        offset: 0,
        lease: 9,
        until_ms: 500,
        ..Moved::default()
    });
    assert_eq!(cursor.held(Offset(0), 1, Timestamp(10)), Held::Expired);
    assert_eq!(cursor.held(Offset(0), 9, Timestamp(10)), Held::Current);
    assert_eq!(cursor.next_due(Timestamp(10)), Some(Timestamp(500)));
    assert_eq!(cursor.in_flight(Timestamp(499)), 1);
    assert_eq!(cursor.in_flight(Timestamp(500)), 0);
}

#[test]
fn nothing_new_is_delivered_above_the_bound_and_the_poll_learns_why() {
    let most = limits::IN_FLIGHT_MAX as u64;
    let mut consumed = Consumed::default();
    let popped = Popped {
        lease: 5,
        until_ms: 1_000,
        fresh: u32::try_from(most).unwrap(),
        ..Popped::default()
    };
    assert!(
        consumed
            .apply(Change::Popped(popped), &Ends::default())
            .is_none()
    );
    let pop = Pop {
        queues: vec![0],
        limit: 4,
        invisible_ms: 1_000,
        ..Pop::default()
    };
    let ends = Ends::from([((0, 0), most + 10)]);
    let decide = |consumed: &Consumed, now| {
        let moment = Moment {
            now: Timestamp(now),
            random: 6,
        };
        match consumed.decide_pop(&pop, &ends, moment).reply {
            Reply::Leases(leases) => (leases.leases, leases.full),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(decide(&consumed, 0), (Vec::new(), true));
    let (again, full) = decide(&consumed, 1_000);
    assert_eq!(
        (again.len(), full),
        (4, true),
        "what comes back is delivered still"
    );
    let acked = Acked {
        offsets: vec![17],
        ..Acked::default()
    };
    assert!(
        consumed
            .apply(Change::Acked(acked), &Ends::default())
            .is_none()
    );
    let (new, full) = decide(&consumed, 0);
    assert_eq!((new.len(), new[0].handle.offset, full), (1, most, false));
}

proptest! {
    /// Against a model that writes down every message's fate.
    #[test]
    fn behaves_as_a_list_of_fates(steps in proptest::collection::vec((0_u8..3, 0_u64..64), 1..200)) {
        let mut cursor = Cursor::default();
        let mut acknowledged = BTreeSet::new();
        let mut seen: BTreeMap<u64, (i64, u32)> = BTreeMap::new();
        let (mut now, mut end) = (0_i64, 0_u64);
        for (lease, (step, n)) in (1..).zip(steps) {
            match step {
                0 => end += n % 5,
                1 => {
                    now += i64::try_from(n).unwrap();
                    for chosen in pop(&mut cursor, now, end, 4, lease) {
                        let offset = chosen.offset.0;
                        prop_assert!(offset < end);
                        prop_assert!(!acknowledged.contains(&offset));
                        let (until, attempts) = seen.get(&offset).copied().unwrap_or((now, 0));
                        prop_assert!(until <= now, "delivered while invisible");
                        prop_assert_eq!(chosen.attempt, attempts + 1);
                        seen.insert(offset, (now + 100, attempts + 1));
                    }
                }
                _ => {
                    if seen.contains_key(&n) {
                        ack(&mut cursor, &[n]);
                        acknowledged.insert(n);
                    }
                }
            }
            let floor = (0..cursor.next).find(|o| !acknowledged.contains(o)).unwrap_or(cursor.next);
            prop_assert_eq!(cursor.ack_floor(), Offset(floor));
            let restored = Cursor::restore(&cursor.snapshot(1, 2, 3));
            prop_assert_eq!(&restored, &cursor);
        }
    }
}

/// One message of the model queue.
#[derive(Clone, Copy, Debug)]
struct Sent {
    group: u64,
    priority: i32,
    wanted: bool,
}

/// A naive group: every message's fate in a list, every rule by looking at all of them.
#[derive(Default)]
struct Model {
    sent: Vec<Sent>,
    /// Until when it is invisible, and deliveries so far.
    held: BTreeMap<u64, (i64, u32)>,
    done: BTreeSet<u64>,
}

impl Model {
    /// Whether a message may be delivered at `now`, given what was chosen before it in the batch.
    fn may_deliver(&self, offset: u64, now: i64, batch: &[u64], dead: &[u64]) -> bool {
        let one = self.sent[usize::try_from(offset).unwrap()];
        let visible = self
            .held
            .get(&offset)
            .is_none_or(|(until, _)| *until <= now);
        let waits_for = |earlier: &u64| {
            let other = self.sent[usize::try_from(*earlier).unwrap()];
            one.group != 0
                && other.wanted
                && other.group == one.group
                && !self.done.contains(earlier)
                && !batch.contains(earlier)
                && !dead.contains(earlier)
        };
        one.wanted && visible && !self.done.contains(&offset) && !(0..offset).any(|o| waits_for(&o))
    }
}

const ATTEMPTS_MAX: u32 = 3;

fn scan_of(model: &Model, cursor: &Cursor, most: u64) -> Scan {
    let from = cursor.next().0;
    let to = (model.sent.len() as u64).min(from + most);
    let fact = |offset: u64| {
        let sent = model.sent[usize::try_from(offset).unwrap()];
        let fact = Fact {
            offset,
            message_group: sent.group,
            priority: sent.priority,
        };
        sent.wanted.then_some(fact)
    };
    Scan {
        queue: 0,
        from,
        to,
        accepted: (from..to).filter_map(fact).collect(),
    }
}

fn scanned_pop(
    cursor: &mut Cursor,
    model: &Model,
    now: i64,
    limit: usize,
    lease: u64,
    by_priority: bool,
) -> Choice {
    let scan = scan_of(model, cursor, 8);
    let wish = Wish {
        attempts_max: ATTEMPTS_MAX,
        by_priority,
        scan: Some(&scan),
        ..wish(now, model.sent.len() as u64, limit)
    };
    let choice = cursor.decide(&wish);
    for &offset in &choice.dead {
        cursor.forget(offset);
    }
    let next = cursor.next();
    let (again, fresh): (Vec<&Chosen>, Vec<&Chosen>) =
        choice.chosen.iter().partition(|c| c.offset < next);
    cursor.scanned(&Scanned {
        lease,
        until_ms: now + 100,
        next: choice.next,
        again: again.iter().map(|c| c.offset.0).collect(),
        fresh: fresh.iter().map(|c| c.facts.at(c.offset.0)).collect(),
        parked: choice.parked.iter().map(|&(o, f)| f.at(o)).collect(),
        ..Scanned::default()
    });
    choice
}

proptest! {
    /// Message groups, filters, priorities, dead letters and restarts, against the naive group.
    #[test]
    fn scans_keep_order_and_lose_nothing(
        fifo in any::<bool>(),
        by_priority in any::<bool>(),
        steps in proptest::collection::vec((0_u8..5, 0_u64..64), 1..150),
    ) {
        let by_priority = by_priority && !fifo;
        let mut cursor = Cursor::default();
        let mut model = Model::default();
        let mut now = 0_i64;
        let mut lease = 0;
        for (step, n) in steps {
            match step {
                0 | 1 => model.sent.push(Sent {
                    group: if fifo { n % 4 } else { 0 },
                    priority: if by_priority { i32::try_from(n % 3).unwrap() } else { 0 },
                    wanted: n % 5 != 0,
                }),
                2 | 3 => {
                    lease += 1;
                    now += i64::try_from(n).unwrap();
                    check_pop(&mut cursor, &mut model, now, lease, by_priority)?;
                }
                _ => {
                    let held: Vec<u64> = model.held.keys().copied().collect();
                    if !held.is_empty() {
                        let offset = held[usize::try_from(n).unwrap() % held.len()];
                        cursor.acked(&Acked { offsets: vec![offset], ..Acked::default() });
                        model.held.remove(&offset);
                        model.done.insert(offset);
                    }
                }
            }
            let restored = Cursor::restore(&cursor.snapshot(1, 2, 3));
            prop_assert_eq!(&restored, &cursor);
        }
        // Drained, everything wanted was delivered and acknowledged, or is dead.
        for _ in 0..1000 {
            lease += 1;
            now += 200;
            let offsets = check_pop(&mut cursor, &mut model, now, lease, by_priority)?;
            cursor.acked(&Acked { offsets: offsets.clone(), ..Acked::default() });
            for offset in offsets {
                model.held.remove(&offset);
                model.done.insert(offset);
            }
        }
        let end = Offset(model.sent.len() as u64);
        prop_assert_eq!(cursor.lag(end), 0);
        for (offset, sent) in (0..).zip(&model.sent) {
            prop_assert_eq!(model.done.contains(&offset), sent.wanted, "{}", offset);
        }
    }
}

fn check_pop(
    cursor: &mut Cursor,
    model: &mut Model,
    now: i64,
    lease: u64,
    by_priority: bool,
) -> Result<Vec<u64>, TestCaseError> {
    let choice = scanned_pop(cursor, model, now, 4, lease, by_priority);
    for offset in &choice.dead {
        let (until, attempts) = model.held.remove(offset).unwrap();
        prop_assert!(until <= now && attempts == ATTEMPTS_MAX);
        model.done.insert(*offset);
    }
    let mut batch = Vec::new();
    let mut priorities = Vec::new();
    for chosen in &choice.chosen {
        let offset = chosen.offset.0;
        prop_assert!(
            model.may_deliver(offset, now, &batch, &choice.dead),
            "{}",
            offset
        );
        let attempts = model.held.get(&offset).map_or(0, |(_, attempts)| *attempts);
        prop_assert_eq!(chosen.attempt, attempts + 1);
        prop_assert!(attempts < ATTEMPTS_MAX);
        batch.push(offset);
        priorities.push(chosen.facts.priority);
    }
    if by_priority {
        prop_assert!(priorities.is_sorted_by(|a, b| a >= b), "{:?}", priorities);
    }
    for chosen in &choice.chosen {
        model
            .held
            .insert(chosen.offset.0, (now + 100, chosen.attempt));
    }
    Ok(batch)
}

#[test]
fn other_message_groups_flow_on_past_a_busy_one() {
    let mut cursor = Cursor::default();
    let one = |group| Sent {
        group,
        priority: 0,
        wanted: true,
    };
    let model = Model {
        sent: vec![one(1), one(1), one(2), one(1), one(3)],
        ..Model::default()
    };
    let offsets = |choice: &Choice| choice.chosen.iter().map(|c| c.offset.0).collect::<Vec<_>>();
    assert_eq!(
        offsets(&scanned_pop(&mut cursor, &model, 0, 1, 1, false)),
        [0]
    );
    // 1 and 3 wait for 0; 2 and 4 do not.
    assert_eq!(
        offsets(&scanned_pop(&mut cursor, &model, 0, 9, 2, false)),
        [2, 4]
    );
    ack(&mut cursor, &[0]);
    assert_eq!(
        offsets(&scanned_pop(&mut cursor, &model, 0, 9, 3, false)),
        [1, 3]
    );
    // In one batch, in order; given back, they come again in order, and the first blocks the second.
    cursor.moved(&Moved {
        offset: 1,
        lease: 9,
        until_ms: 500,
        ..Moved::default()
    });
    assert_eq!(
        offsets(&scanned_pop(&mut cursor, &model, 200, 9, 4, false)),
        [2, 4]
    );
    assert_eq!(
        offsets(&scanned_pop(&mut cursor, &model, 500, 9, 5, false)),
        [1, 2, 3, 4]
    );
}

#[test]
fn the_same_poll_finds_what_it_holds_and_renewal_keeps_the_handle() {
    let mut cursor = Cursor::default();
    let holder = Holder {
        consumer: "c".into(),
        poll: 77,
        renewed: true,
        since_ms: 0,
    };
    cursor.popped(&Popped {
        lease: 5,
        until_ms: 100,
        fresh: 2,
        holder: Some(holder),
        ..Popped::default()
    });
    assert_eq!(
        cursor.held_by_poll(77, Timestamp(10)),
        [(Offset(0), 5, 1), (Offset(1), 5, 1)]
    );
    assert_eq!(cursor.held_by_poll(0, Timestamp(10)), []);
    assert_eq!(cursor.renewable(Timestamp(10), Timestamp(99)).count(), 0);
    assert_eq!(cursor.renewable(Timestamp(10), Timestamp(100)).count(), 1);
    cursor.renewed(&Renewed {
        lease: 5,
        until_ms: 300,
        ..Renewed::default()
    });
    assert_eq!(cursor.held(Offset(1), 5, Timestamp(200)), Held::Current);
    ack(&mut cursor, &[0]);
    assert_eq!(cursor.held_by_poll(77, Timestamp(200)), [(Offset(1), 5, 1)]);
    cursor.returned(&Returned {
        lease: 5,
        offsets: vec![1],
        at_ms: 210,
        unseen: true,
        ..Returned::default()
    });
    let again = cursor.decide(&wish(210, 2, 9)).chosen;
    assert_eq!(
        (again[0].offset, again[0].attempt),
        (Offset(1), 1),
        "it was never seen"
    );
}

#[test]
fn what_is_no_longer_kept_is_neither_delivered_nor_waited_for() {
    let mut cursor = Cursor::default();
    pop(&mut cursor, 0, 9, 3, 1);
    cursor.trimmed(Offset(2));
    assert_eq!((cursor.ack_floor(), cursor.lag(Offset(9))), (Offset(2), 7));
    assert_eq!(cursor.held(Offset(0), 1, Timestamp(1)), Held::Acknowledged);
    assert_eq!(cursor.held(Offset(2), 1, Timestamp(1)), Held::Current);
    cursor.trimmed(Offset(6));
    assert_eq!(
        (cursor.next(), cursor.next_due(Timestamp(0))),
        (Offset(6), None)
    );
    assert_eq!(cursor.lag(Offset(9)), 3);
    cursor.trimmed(Offset(1));
    assert_eq!(cursor.next(), Offset(6), "it only rises");
}

/// The compact cursor and the plain one, and the messages of their queue.
struct Twins {
    compact: Cursor,
    naive: Naive,
    facts: Vec<Fact>,
    now: i64,
    lease: u64,
}

impl Twins {
    fn new() -> Self {
        Self {
            compact: Cursor::default(),
            naive: Naive::starting_at(Offset(0)),
            facts: Vec::new(),
            now: 0,
            lease: 0,
        }
    }

    fn holder(&self, n: u64) -> Holder {
        Holder {
            consumer: if n.is_multiple_of(2) { "a" } else { "b" }.to_owned(),
            poll: n % 3,
            renewed: n.is_multiple_of(5),
            since_ms: self.now,
        }
    }

    fn pop(&mut self, n: u64, with_scan: bool, by_priority: bool) -> Result<(), TestCaseError> {
        let from = self.naive.next().0;
        let end = self.facts.len() as u64;
        let to = end.min(from + 40);
        let accepted = (from..to).map(|o| self.facts[usize::try_from(o).unwrap()].clone());
        let scan = Scan {
            queue: 0,
            from,
            to,
            accepted: accepted.filter(|fact| fact.offset % 7 != 3).collect(),
        };
        let wish = Wish {
            now: Timestamp(self.now),
            end: Offset(end),
            limit: usize::try_from(n % 40).unwrap(),
            attempts_max: if n.is_multiple_of(3) { 3 } else { 0 },
            by_priority,
            scan: with_scan.then_some(&scan),
        };
        let choice = self.compact.decide(&wish);
        prop_assert_eq!(&choice, &self.naive.decide(&wish));
        prop_assert_eq!(self.compact.ready(&wish), self.naive.ready(&wish));
        self.lease += 1;
        for &offset in &choice.dead {
            self.compact.forget(offset);
            self.naive.forget(offset);
        }
        let (again, fresh): (Vec<&Chosen>, Vec<&Chosen>) =
            choice.chosen.iter().partition(|c| c.offset.0 < from);
        let until_ms = self.now + 50 + i64::try_from(n % 4).unwrap() * 20;
        let again = again.iter().map(|c| c.offset.0).collect();
        let holder = Some(self.holder(n));
        if with_scan {
            let record = Scanned {
                lease: self.lease,
                until_ms,
                next: choice.next,
                again,
                fresh: fresh.iter().map(|c| c.facts.at(c.offset.0)).collect(),
                parked: choice.parked.iter().map(|&(o, f)| f.at(o)).collect(),
                holder,
                ..Scanned::default()
            };
            self.compact.scanned(&record);
            self.naive.scanned(&record);
        } else {
            let record = Popped {
                lease: self.lease,
                until_ms,
                again,
                fresh_from: from,
                fresh: u32::try_from(fresh.len()).unwrap(),
                holder,
                ..Popped::default()
            };
            self.compact.popped(&record);
            self.naive.popped(&record);
        }
        Ok(())
    }

    /// Something happens to a message that was seen, or to its lease.
    fn touch(&mut self, step: u8, n: u64) {
        let pending: Vec<PendingSnapshot> = self.naive.pending().collect();
        let Some(one) = pending.get(usize::try_from(n).unwrap() % pending.len().max(1)) else {
            return;
        };
        let of_lease = pending.iter().filter(|other| other.lease == one.lease);
        match step {
            0 => {
                let offsets = pending
                    .iter()
                    .map(|p| p.offset)
                    .filter(|o| o % (1 + n % 5) == 0);
                let record = Acked {
                    offsets: offsets.collect(),
                    ..Acked::default()
                };
                self.compact.acked(&record);
                self.naive.acked(&record);
            }
            1 => {
                self.lease += 1;
                let record = Moved {
                    offset: one.offset,
                    lease: self.lease,
                    until_ms: self.now + i64::try_from(n).unwrap(),
                    ..Moved::default()
                };
                self.compact.moved(&record);
                self.naive.moved(&record);
            }
            2 => {
                let record = Renewed {
                    lease: one.lease,
                    until_ms: self.now + 90,
                    ..Renewed::default()
                };
                // Nobody's messages are under no lease.
                if one.lease != 0 {
                    self.compact.renewed(&record);
                    self.naive.renewed(&record);
                }
            }
            3 => {
                let record = Returned {
                    lease: one.lease,
                    offsets: of_lease.map(|p| p.offset).collect(),
                    at_ms: self.now + i64::try_from(n % 2).unwrap(),
                    unseen: n.is_multiple_of(3),
                    ..Returned::default()
                };
                if one.lease != 0 {
                    self.compact.returned(&record);
                    self.naive.returned(&record);
                }
            }
            4 => {
                let fact = self.facts[usize::try_from(n).unwrap() % self.facts.len()].clone();
                let attempts = u32::try_from(n % 3).unwrap();
                let at = Timestamp(self.now);
                self.compact.reopened(&fact, attempts, at);
                self.naive.reopened(&fact, attempts, at);
            }
            _ => {
                let first = Offset(one.offset.saturating_sub(n % 8));
                self.compact.trimmed(first);
                self.naive.trimmed(first);
            }
        }
    }

    /// As an early version wrote it.
    fn early_snapshot(&self) -> CursorSnapshot {
        let pending: Vec<PendingSnapshot> = self.naive.pending().collect();
        let leases: BTreeSet<u64> = pending.iter().map(|p| p.lease).collect();
        CursorSnapshot {
            parked: self.compact.snapshot(0, 0, 0).parked,
            next: self.naive.next().0,
            holders: leases
                .into_iter()
                .filter_map(|lease| {
                    let holder = Some(self.naive.holder(lease)?.clone());
                    Some(HolderSnapshot { lease, holder })
                })
                .collect(),
            pending,
            ..CursorSnapshot::default()
        }
    }

    fn check(&self, n: u64) -> Result<(), TestCaseError> {
        let (compact, naive, now) = (&self.compact, &self.naive, Timestamp(self.now));
        let end = Offset(self.facts.len() as u64);
        prop_assert_eq!(compact.next(), naive.next());
        prop_assert_eq!(compact.ack_floor(), naive.ack_floor());
        prop_assert_eq!(compact.in_flight(now), naive.in_flight(now));
        prop_assert_eq!(compact.lag(end), naive.lag(end));
        prop_assert_eq!(compact.next_due(now), naive.next_due(now));
        prop_assert_eq!(compact.parking_room(), naive.parking_room());
        prop_assert_eq!(
            compact.available(now, end, 20),
            naive.available(now, end, 20)
        );
        let pending: Vec<PendingSnapshot> = naive.pending().collect();
        prop_assert_eq!(&compact.pending().collect::<Vec<_>>(), &pending);
        // No handle names lease 0: it stands for nobody.
        for one in pending.iter().filter(|one| one.lease != 0) {
            let offset = Offset(one.offset);
            let holder = compact.holder(one.lease);
            prop_assert_eq!(holder.as_ref(), naive.holder(one.lease));
            let held = compact.held(offset, one.lease, now);
            prop_assert_eq!(held, naive.held(offset, one.lease, now));
            let is_current = compact.is_current(one.lease, now);
            prop_assert_eq!(is_current, naive.is_current(one.lease, now));
        }
        prop_assert_eq!(
            compact.held(Offset(n), 1, now),
            naive.held(Offset(n), 1, now)
        );
        let sorted = |mut held: Vec<(Offset, u64, u32)>| {
            held.sort_unstable();
            held
        };
        for poll in 0..3 {
            let held = sorted(compact.held_by_poll(poll, now));
            prop_assert_eq!(held, sorted(naive.held_by_poll(poll, now)));
        }
        for consumer in ["a", "b", "c"] {
            prop_assert_eq!(compact.held_by(consumer), naive.held_by(consumer));
        }
        let before = Timestamp(self.now + 60);
        let renewable: BTreeMap<u64, Holder> = compact.renewable(now, before).collect();
        let expected = naive.renewable(now, before).map(|(id, h)| (id, h.clone()));
        prop_assert_eq!(renewable, expected.collect::<BTreeMap<_, _>>());
        let outstanding: Vec<u64> = compact.outstanding(Offset(n), end).collect();
        prop_assert_eq!(
            outstanding,
            naive.outstanding(Offset(n), end).collect::<Vec<_>>()
        );
        Ok(())
    }
}

proptest! {
    /// Whatever happens, the compact cursor decides and answers as one entry per message does, also after
    /// a restart from its own snapshot or from one of an early version.
    #[test]
    fn decides_as_one_entry_per_message_does(
        with_scan in any::<bool>(),
        by_priority in any::<bool>(),
        steps in proptest::collection::vec((0_u8..12, 0_u64..200), 1..80),
    ) {
        let mut twins = Twins::new();
        for (step, n) in steps {
            match step {
                0 | 1 => {
                    for one in 0..n {
                        let fact = Fact {
                            offset: twins.facts.len() as u64,
                            message_group: if with_scan && !by_priority { one % 5 } else { 0 },
                            priority: if by_priority { i32::try_from(one % 3).unwrap() } else { 0 },
                        };
                        twins.facts.push(fact);
                    }
                }
                2..=4 => {
                    twins.now += i64::try_from(n % 60).unwrap();
                    twins.pop(n, with_scan, with_scan && by_priority)?;
                }
                5 => {
                    let snapshot = if n.is_multiple_of(2) {
                        twins.compact.snapshot(1, 2, 3)
                    } else {
                        twins.early_snapshot()
                    };
                    let restored = Cursor::restore(&snapshot);
                    prop_assert_eq!(&restored, &twins.compact);
                    twins.compact = restored;
                }
                step => twins.touch(step - 6, n),
            }
            twins.check(n)?;
        }
    }
}
