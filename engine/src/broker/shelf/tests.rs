//! The shelf of one shard against a naive model, with restarts at any time.

use std::collections::BTreeMap;

use millpond_proto::message::ShardId;
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::{Projection as _, Record};
use proptest::prelude::*;

use super::*;
use crate::broker::request::{Reason, Reply, Request, Snapshot};
use crate::broker::state::shelving::{
    Buckets, DelayedFrom, EndHalf, Fire, Recall, Shelve, TransactionsOf,
};
use crate::broker::state::{Moment, ShardState};

const SHARD: ShardId = ShardId(3);
const TOPIC: u64 = 7;
const START: i64 = 1_700_000_000_000;

/// What the model knows of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Waits,
    Placed,
    TakenBack,
    GivenUp,
}

/// A shard, the log behind it, and the model beside it.
struct World {
    state: ShardState,
    now: i64,
    /// The shelf's messages as the log has them.
    shelf: BTreeMap<Spot, Envelope>,
    /// Ids of placed messages, in order.
    placed: Vec<String>,
    delayed: BTreeMap<String, (Spot, i64, Known)>,
    halves: BTreeMap<String, (Spot, Known)>,
    sent: u32,
}

impl World {
    fn new() -> Self {
        Self {
            state: ShardState::restore(SHARD, None).unwrap(),
            now: START,
            shelf: BTreeMap::new(),
            placed: Vec::new(),
            delayed: BTreeMap::new(),
            halves: BTreeMap::new(),
            sent: 0,
        }
    }

    fn ask(&mut self, request: Request) -> Reply {
        let moment = Moment {
            now: Timestamp(self.now),
            random: 1,
        };
        let decision = self.state.decide(request, moment);
        for record in &decision.records {
            self.state.apply_record(record);
            if let Record::Message(message) = record {
                if is_shelf(message.topic) {
                    let spot = Spot {
                        bucket: message.queue,
                        number: message.offset,
                    };
                    assert!(self.shelf.insert(spot, message.clone()).is_none());
                } else {
                    assert_eq!(message.topic, TOPIC);
                    assert!(address_of(message).is_none(), "the address is taken off");
                    self.placed.push(message.message_id.clone());
                }
            }
        }
        decision.reply
    }

    fn message(&mut self, due: Option<i64>) -> Envelope {
        self.sent += 1;
        let mut message = Envelope {
            message_id: format!("m{}", self.sent),
            due_at_ms: due,
            ..Envelope::default()
        };
        let to = Address {
            topic: TOPIC,
            queue: 1,
            check_after_ms: 6000,
        };
        address(&mut message, &to);
        message
    }

    fn shelve(&mut self, message: Envelope, half: bool) {
        let id = message.message_id.clone();
        let due = message.due_at_ms.unwrap_or(0);
        let request = Shelve {
            messages: vec![message],
            half,
        };
        let Reply::Shelved(answer) = self.ask(Request::Shelve(request)) else {
            panic!("not shelved");
        };
        match answer.places[0].spot {
            Some(spot) if half => {
                self.halves.insert(id, (spot, Known::Waits));
            }
            Some(spot) => {
                assert!(due > self.now);
                self.delayed.insert(id, (spot, due, Known::Waits));
            }
            None => assert!(due <= self.now && self.placed.last() == Some(&id)),
        }
    }

    /// What the shard's owner does: loads what is near, fires what is due, some of it twice.
    fn fire(&mut self, twice: bool) {
        loop {
            let now = Timestamp(self.now);
            if let Some((bucket, count)) = self.state.shelf().wish(now).load {
                self.state.shelf_mut().timer_mut().begin(bucket);
                let all = (0..count).map(|number| Spot { bucket, number });
                let due = all.map(|spot| (self.shelf[&spot].due_at_ms.unwrap(), spot.number));
                let due = due.map(|(due, number)| (Timestamp(due), number)).collect();
                self.state.shelf_mut().loaded(bucket, due);
                continue;
            }
            let due = self.state.shelf_mut().take_due(now, 3);
            if due.is_empty() {
                return;
            }
            assert!(due.is_sorted(), "in the order of their times");
            let messages = due.iter().map(|(_, spot)| self.shelf[spot].clone());
            let fire = Fire {
                messages: messages.filter_map(unshelved).collect(),
                spots: due.iter().map(|&(_, spot)| spot).collect(),
                ..Fire::default()
            };
            let before = self.placed.len();
            for _ in 0..=u8::from(twice) {
                self.ask(Request::Fire(fire.clone()));
            }
            for id in &self.placed[before..] {
                let (_, due, known) = self.delayed.get_mut(id).unwrap();
                assert!(*due <= self.now, "{id} came early");
                assert_eq!(*known, Known::Waits, "{id} came twice or after its recall");
                *known = Known::Placed;
            }
            assert_eq!(self.placed.len(), before + due.len());
        }
    }

    fn recall(&mut self, id: &str) {
        let (spot, due, known) = self.delayed[id];
        let recall = Recall {
            spot,
            due_ms: Some(due),
        };
        let reply = self.ask(Request::Recall(recall));
        let expected = match known {
            Known::Waits | Known::TakenBack => Reply::done(),
            Known::Placed => Reply::refused(Reason::AlreadyPlaced, ""),
            Known::GivenUp => unreachable!(),
        };
        assert_eq!(reply, expected, "{id} {known:?}");
        if known == Known::Waits {
            self.delayed
                .insert(id.to_owned(), (spot, due, Known::TakenBack));
        }
    }

    fn end(&mut self, id: &str, commit: bool) {
        let (spot, known) = self.halves[id];
        let message = unshelved(self.shelf[&spot].clone());
        let end = EndHalf {
            spot,
            commit,
            message: message.filter(|_| commit).map(Box::new),
        };
        let before = self.placed.len();
        let reply = self.ask(Request::EndHalf(end));
        let expected = match (known, commit) {
            (Known::Waits, _)
            | (Known::Placed, true)
            | (Known::TakenBack | Known::GivenUp, false) => Reply::done(),
            (Known::Placed, false) => Reply::refused(Reason::AlreadyPlaced, ""),
            (Known::TakenBack, true) => Reply::refused(Reason::AlreadyWithdrawn, ""),
            (Known::GivenUp, true) => Reply::refused(Reason::TransactionGivenUp, ""),
        };
        assert_eq!(reply, expected, "{id} {known:?}");
        let is_new = known == Known::Waits && commit;
        assert_eq!(self.placed.len(), before + usize::from(is_new));
        if known == Known::Waits {
            let now = if commit {
                Known::Placed
            } else {
                Known::TakenBack
            };
            self.halves.insert(id.to_owned(), (spot, now));
        }
    }

    /// Asks producers about what is due; whoever was asked too often is given up.
    fn check(&mut self, asked: bool) {
        let of = TransactionsOf {
            due: true,
            limit: 100,
            topic: 0,
            after: None,
        };
        let Reply::OpenTransactions(found) = self.ask(Request::Transactions(of)) else {
            panic!("no transactions");
        };
        for one in &found.open {
            assert!(one.next_check_ms <= self.now);
            let spent = Transactions::is_spent(one, Timestamp(self.now));
            let half = self.halves.values_mut().find(|(spot, _)| *spot == one.spot);
            let (_, known) = half.unwrap();
            assert_eq!(*known, Known::Waits);
            if spent {
                *known = Known::GivenUp;
            }
        }
        let checked = Checked {
            spots: found.open.iter().map(|one| one.spot).collect(),
            next_ms: 0,
            asked,
        };
        self.ask(Request::Checked(checked));
    }

    fn restart(&mut self) {
        let Reply::Snapshot(Snapshot { state, .. }) =
            self.ask(Request::Snapshot(Default::default()))
        else {
            panic!("no snapshot");
        };
        let restored = ShardState::restore(SHARD, Some(&state)).unwrap();
        assert_eq!(restored, self.state);
        self.state = restored;
    }

    fn sweep(&mut self) {
        let buckets: Vec<u32> = self.shelf.keys().map(|spot| spot.bucket).collect();
        let asked = Request::SweepShelf(Buckets { buckets });
        let Reply::Buckets(free) = self.ask(asked) else {
            panic!("no buckets");
        };
        let waits = |spot: &Spot| {
            let delayed = self.delayed.values().map(|one| (one.0, one.2));
            let all = delayed.chain(self.halves.values().copied());
            all.clone()
                .any(|(other, known)| other == *spot && known == Known::Waits)
        };
        for bucket in free.buckets {
            let mut spots = self.shelf.keys().filter(|spot| spot.bucket == bucket);
            assert!(!spots.any(waits), "what waits is not let go");
        }
    }

    fn waiting(&mut self) -> usize {
        let mut from = DelayedFrom {
            limit: 2,
            ..DelayedFrom::default()
        };
        let mut count = 0;
        loop {
            let Reply::WaitingBucket(found) = self.ask(Request::Delayed(from)) else {
                panic!("no bucket");
            };
            let Some(bucket) = found.bucket else {
                return count;
            };
            count += found.numbers.len();
            from.bucket = bucket;
            from.number = found.numbers.last().unwrap() + 1;
        }
    }

    fn check_counts(&mut self) {
        let waits = self.delayed.values().filter(|one| one.2 == Known::Waits);
        let waits = waits.count();
        assert_eq!(self.waiting(), waits);
        let open = self.halves.values().filter(|one| one.1 == Known::Waits);
        assert_eq!(self.state.shelf().transactions().len(), open.count());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Delay(i64),
    Half,
    Recall(prop::sample::Index),
    End(prop::sample::Index, bool),
    Pass(i64),
    Fire(bool),
    Check(bool),
    Restart,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let ahead = prop_oneof![
        -10..50_i64,
        0..HOUR_MS,
        0..30 * HOUR_MS,
        Just(9 * 365 * 24 * HOUR_MS)
    ];
    let pass = prop_oneof![0..20_i64, 0..60_000_i64, 0..HOUR_MS, 0..10 * HOUR_MS];
    prop_oneof![
        6 => ahead.prop_map(Step::Delay),
        3 => Just(Step::Half),
        2 => any::<prop::sample::Index>().prop_map(Step::Recall),
        3 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(at, yes)| Step::End(at, yes)),
        6 => pass.prop_map(Step::Pass),
        4 => any::<bool>().prop_map(Step::Fire),
        3 => any::<bool>().prop_map(Step::Check),
        1 => Just(Step::Restart),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn each_message_is_placed_once_at_its_time_or_never(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Delay(ahead) => {
                    let due = world.now + ahead;
                    let message = world.message(Some(due));
                    world.shelve(message, false);
                }
                Step::Half => {
                    let message = world.message(None);
                    world.shelve(message, true);
                }
                Step::Recall(at) => {
                    let ids: Vec<String> = world.delayed.keys().cloned().collect();
                    // The fates of old hours are forgotten in time.
                    if !ids.is_empty() {
                        let id = at.get(&ids);
                        if world.delayed[id].1 + 20 * HOUR_MS > world.now {
                            world.recall(id);
                        }
                    }
                }
                Step::End(at, commit) => {
                    let ids: Vec<String> = world.halves.keys().cloned().collect();
                    if !ids.is_empty() {
                        let id = at.get(&ids);
                        let spot = world.halves[id].0;
                        if world.state.shelf().fate(spot).is_some() {
                            world.end(id, commit);
                        } else {
                            prop_assert_ne!(world.halves[id].1, Known::Waits);
                        }
                    }
                }
                Step::Pass(ms) => world.now += ms,
                Step::Fire(twice) => world.fire(twice),
                Step::Check(asked) => world.check(asked),
                Step::Restart => world.restart(),
                Step::Sweep => world.sweep(),
            }
            world.check_counts();
        }
        // In the end everything is due, and nothing is lost.
        world.now += 10 * 366 * 24 * HOUR_MS;
        world.restart();
        world.fire(false);
        world.check_counts();
        let waits = |(_, _, known): &&(Spot, i64, Known)| *known == Known::Waits;
        prop_assert_eq!(world.delayed.values().filter(waits).count(), 0);
        world.check(false);
        world.sweep();
        world.check_counts();
        prop_assert_eq!(world.state.shelf().transactions().len(), 0);
    }
}

#[test]
fn a_transaction_is_asked_about_so_often_and_then_kept_to_be_looked_at() {
    let mut world = World::new();
    let message = world.message(None);
    world.shelve(message, true);
    let mut asked_at = Vec::new();
    for second in 0..600 {
        world.now = START + second * 1000;
        let of = TransactionsOf {
            due: true,
            limit: 9,
            topic: 0,
            after: None,
        };
        let Reply::OpenTransactions(found) = world.ask(Request::Transactions(of)) else {
            panic!("no transactions");
        };
        if !found.open.is_empty() {
            asked_at.push(second);
            world.check(true);
        }
    }
    let expected: Vec<i64> = (0..=15).map(|check| 6 + 30 * check).collect();
    assert_eq!(asked_at, expected, "the last turn gives it up");
    assert_eq!(world.halves["m1"].1, Known::GivenUp);
    assert_eq!(world.state.shelf().transactions().given_up().count(), 1);
    world.end("m1", false);
    world.end("m1", true);
}

#[test]
fn over_a_bound_nothing_is_taken() {
    let mut world = World::new();
    let many = vec![Envelope::default(); limits::TRANSACTIONS_OPEN_MAX + 1];
    let placed = world.state.shelf().place(many, true, Timestamp(START));
    assert_eq!(placed.unwrap_err(), Full::Transactions);
    let message = world.message(Some(START + HOUR_MS));
    world.shelve(message, false);
    assert_eq!(world.waiting(), 1);
}

#[test]
fn a_far_hour_costs_nothing_until_it_is_near() {
    let mut world = World::new();
    for number in 0..100 {
        let due = START + 48 * HOUR_MS + number;
        let message = world.message(Some(due));
        world.shelve(message, false);
    }
    world.fire(false);
    assert!(world.state.shelf().timer().is_empty());
    world.now += 48 * HOUR_MS - 1;
    world.fire(false);
    assert_eq!(
        (world.placed.len(), world.state.shelf().timer().len()),
        (0, 100)
    );
    world.now += 50;
    world.fire(false);
    assert_eq!(world.placed.len(), 50);
}

/// Whoever reads what is due may go by a clock that is ahead of the shard's.
#[test]
fn what_is_brought_before_its_time_waits_on() {
    let mut world = World::new();
    let due = START + 60_000;
    let message = world.message(Some(due));
    world.shelve(message, false);
    let (&spot, shelved) = world.shelf.iter().next().unwrap();
    let fire = Fire {
        messages: unshelved(shelved.clone()).into_iter().collect(),
        spots: vec![spot],
        ..Fire::default()
    };
    for (now, placed) in [(due - 1, 0), (due, 1), (due + 1, 1)] {
        world.now = now;
        world.ask(Request::Fire(fire.clone()));
        assert_eq!(
            world.placed.len(),
            placed,
            "{} ms behind its time",
            now - due
        );
    }
}

/// What was closed is let go of, so nothing may come into it any more.
#[test]
fn a_clock_that_is_set_back_opens_no_hour_again() {
    let mut world = World::new();
    let due = START + HOUR_MS / 2;
    let message = world.message(Some(due));
    world.shelve(message, false);
    world.recall("m1");
    let (spot, ..) = world.delayed["m1"];
    world.now += 3 * HOUR_MS;
    let buckets = vec![spot.bucket];
    let swept = world.ask(Request::SweepShelf(Buckets {
        buckets: buckets.clone(),
    }));
    assert_eq!(swept, Reply::Buckets(Buckets { buckets }));
    world.now = START;
    let messages = vec![world.message(Some(due))];
    let half = false;
    let Reply::Shelved(answer) = world.ask(Request::Shelve(Shelve { messages, half })) else {
        panic!("not taken");
    };
    assert_eq!(answer.places[0].spot, None, "it is due by the shard's time");
    assert_eq!(world.placed, ["m2"]);
}
