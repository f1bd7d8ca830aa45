//! What is kept up change by change against what is worked out anew.

use millpond_proto::limits;
use millpond_storage::log::Record;
use proptest::prelude::*;

use super::*;
use crate::broker::consume::{Consumed, Ends};
use crate::broker::record::{Change, QueueOffset, Trimmed};
use crate::broker::request::{Ack, Handle, Leases, Move, Pop, Reply, Reset, Return, Scan};
use crate::broker::state::{Decision, Moment};

const TOPIC: u64 = 7;
const QUEUES: u32 = 4;
const INVISIBLE_MS: i64 = 10;

#[derive(Clone, Debug)]
enum Step {
    Send(u32, u64),
    Pop(u64, u32, usize),
    Scan(u64, u32),
    Ack(prop::sample::Index),
    Return(prop::sample::Index),
    Move(prop::sample::Index, i64),
    Reset(u64, u32, u64),
    Trim(u32, u64),
    Wait(i64),
    Forget(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || 0..QUEUES;
    let group = || 1..3_u64;
    prop_oneof![
        4 => (queue(), 1..4_u64).prop_map(|(queue, count)| Step::Send(queue, count)),
        6 => (group(), queue(), 0..5_usize).prop_map(|(g, first, limit)| Step::Pop(g, first, limit)),
        2 => (group(), queue()).prop_map(|(group, queue)| Step::Scan(group, queue)),
        4 => any::<prop::sample::Index>().prop_map(Step::Ack),
        1 => any::<prop::sample::Index>().prop_map(Step::Return),
        1 => (any::<prop::sample::Index>(), 0..30_i64).prop_map(|(index, ms)| Step::Move(index, ms)),
        1 => (group(), queue(), 0..6_u64).prop_map(|(g, queue, next)| Step::Reset(g, queue, next)),
        1 => (queue(), 1..4_u64).prop_map(|(queue, count)| Step::Trim(queue, count)),
        2 => (1..15_i64).prop_map(Step::Wait),
        1 => group().prop_map(Step::Forget),
    ]
}

/// A shard's queues and groups with a clock.
#[derive(Default)]
struct World {
    consumed: Consumed,
    ends: Ends,
    now_ms: i64,
    random: u64,
    held: Vec<(u64, Handle)>,
}

impl World {
    fn moment(&mut self) -> Moment {
        self.random += 1;
        Moment {
            now: Timestamp(self.now_ms),
            random: self.random,
        }
    }

    fn apply(&mut self, decision: Decision) -> Reply {
        for record in decision.records {
            let Record::State(bytes) = record else {
                panic!("groups store no messages");
            };
            let change = Change::from_bytes(&bytes).unwrap();
            assert!(self.consumed.apply(change, &self.ends).is_none());
        }
        decision.reply
    }

    fn end(&self, queue: u32) -> u64 {
        self.ends.get(&(TOPIC, queue)).copied().unwrap_or(0)
    }

    fn leases(&self, pop: &Pop, moment: Moment) -> Leases {
        match self.consumed.decide_pop(pop, &self.ends, moment).reply {
            Reply::Leases(leases) => leases,
            other => panic!("{other:?}"),
        }
    }

    fn pop(&mut self, group: u64, first: u32, limit: usize, scans: Vec<Scan>) {
        let pop = Pop {
            group,
            topic: TOPIC,
            queues: (first..QUEUES).chain(0..first).collect(),
            limit: u32::try_from(limit).unwrap(),
            invisible_ms: INVISIBLE_MS,
            // The second group begins behind what is there.
            from_latest: group == 2,
            attempts_max: 3,
            scanned: !scans.is_empty(),
            scans,
            ..Pop::default()
        };
        let moment = self.moment();
        let known = std::mem::take(&mut self.consumed.ready);
        let walked = self.leases(&pop, moment);
        self.consumed.ready = known;
        let found = self.leases(&pop, moment);
        assert_eq!(found.leases.len(), walked.leases.len());
        assert_eq!(found.more > 0, walked.more > 0);
        if (found.more as usize) < limits::RECEIVE_BATCH_MAX {
            assert_eq!(found.next_due_ms, walked.next_due_ms);
        }
        assert_eq!(found.full, walked.full);
        let decision = self.consumed.decide_pop(&pop, &self.ends, moment);
        if let Reply::Leases(found) = self.apply(decision) {
            let handles = found.leases.into_iter().map(|lease| (group, lease.handle));
            self.held.extend(handles);
        }
        // As the owner does after every poll.
        self.consumed.hint((TOPIC, group), &self.ends);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send(queue, count) => {
                *self.ends.entry((TOPIC, queue)).or_default() += count;
                self.consumed.arrived(TOPIC, queue);
            }
            Step::Pop(group, first, limit) => self.pop(group, first, limit, Vec::new()),
            Step::Scan(group, queue) => {
                let key = (group, TOPIC, queue);
                let cursor = self.consumed.cursors.get(&key);
                let from = cursor.map_or(0, |cursor| cursor.next().0);
                let scan = Scan {
                    queue,
                    from,
                    to: self.end(queue),
                    accepted: Vec::new(),
                };
                self.pop(group, queue, 2, vec![scan]);
            }
            Step::Ack(index) if !self.held.is_empty() => {
                let (group, handle) = self.held.swap_remove(index.index(self.held.len()));
                let ack = Ack {
                    group,
                    topic: TOPIC,
                    handles: vec![handle],
                    frees: false,
                };
                let decision = self.consumed.decide_ack(&ack, Timestamp(self.now_ms));
                self.apply(decision);
            }
            Step::Return(index) if !self.held.is_empty() => {
                let (group, handle) = self.held.swap_remove(index.index(self.held.len()));
                let back = Return {
                    group,
                    topic: TOPIC,
                    handles: vec![handle],
                    unseen: true,
                };
                let decision = self.consumed.decide_return(&back, Timestamp(self.now_ms));
                self.apply(decision);
            }
            Step::Move(index, invisible_ms) if !self.held.is_empty() => {
                let (group, handle) = self.held.swap_remove(index.index(self.held.len()));
                let change = Move {
                    group,
                    topic: TOPIC,
                    handle,
                    invisible_ms,
                    ..Move::default()
                };
                let moment = self.moment();
                let decision = self.consumed.decide_move(&change, moment);
                self.apply(decision);
            }
            Step::Reset(group, queue, next) => {
                let reset = Reset {
                    group,
                    topic: TOPIC,
                    queue,
                    next: next.min(self.end(queue)),
                    only_new: false,
                };
                let decision = self.consumed.decide_reset(&reset, Timestamp(self.now_ms));
                self.apply(decision);
            }
            Step::Trim(queue, count) => {
                let first = self.consumed.first(TOPIC, queue).0;
                let first = QueueOffset {
                    topic: TOPIC,
                    queue,
                    offset: (first + count).min(self.end(queue)),
                };
                let firsts = vec![first];
                let decision = self.consumed.decide_trim(Trimmed { firsts }, &self.ends);
                self.apply(decision);
            }
            Step::Wait(ms) => self.now_ms += ms,
            Step::Forget(group) => {
                self.consumed.forget_group(group);
                assert!(!self.consumed.knows_group(group));
                self.held.retain(|(held, _)| *held != group);
            }
            Step::Ack(_) | Step::Return(_) | Step::Move(..) => {}
        }
    }

    fn check(&mut self) {
        let holding = self.consumed.cursors.iter();
        let holding = holding.filter(|(_, cursor)| !cursor.is_at_rest());
        assert!(holding.map(|(key, _)| key).eq(self.consumed.holding.iter()));
        for (pair, hint) in self.consumed.news() {
            assert_eq!(self.consumed.hint(pair, &self.ends), hint);
        }
        let known = std::mem::take(&mut self.consumed.ready);
        for (&pair, stirs) in &known.pairs {
            self.consumed.hint(pair, &self.ends);
            let anew = self.consumed.ready.of(pair).unwrap();
            let parts = |s: &Stirs| (s.now.clone(), s.later.clone(), s.later_at.clone(), s.met);
            assert_eq!(parts(stirs), parts(anew), "{pair:?}");
            assert_eq!(stirs.told, anew.hint(), "what was told is so");
        }
        self.consumed.ready = known;
    }
}

proptest! {
    #[test]
    fn what_is_kept_up_is_what_a_walk_finds(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::default();
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}

#[test]
fn a_poll_of_many_queues_looks_into_those_alone_that_have_something() {
    let mut world = World::default();
    for queue in 0..1000 {
        world.ends.insert((TOPIC, queue), 1);
        let reset = Reset {
            group: 1,
            topic: TOPIC,
            queue,
            next: 1,
            only_new: true,
        };
        let decision = world.consumed.decide_reset(&reset, Timestamp(0));
        world.apply(decision);
    }
    let none = Hint::default();
    assert_eq!(world.consumed.hint((TOPIC, 1), &world.ends), none);
    *world.ends.get_mut(&(TOPIC, 500)).unwrap() += 1;
    world.consumed.arrived(TOPIC, 500);
    let told = Hint {
        stir: Stir::Now,
        queues: 1,
    };
    assert_eq!(world.consumed.news(), [((TOPIC, 1), told)]);
    let stirs = world.consumed.ready.of((TOPIC, 1)).unwrap();
    let due: Vec<u32> = stirs.due(Timestamp(0), 700).collect();
    assert_eq!(due, [500]);
    assert_eq!(stirs.met(), 1000);
    let pop = Pop {
        group: 1,
        topic: TOPIC,
        queues: (0..1000).collect(),
        limit: 32,
        ..Pop::default()
    };
    let moment = world.moment();
    assert_eq!(world.leases(&pop, moment).leases.len(), 1);
}
