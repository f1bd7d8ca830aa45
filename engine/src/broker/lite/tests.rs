//! The lite topics of a shard against a model that keeps everything by name.

use std::collections::BTreeMap;

use millpond_proto::limits;
use millpond_proto::message::{QueueId, ShardId, queue_of};
use millpond_proto::time::Timestamp;
use millpond_storage::format::envelope::Envelope;
use millpond_storage::log::Projection as _;
use proptest::prelude::*;

use super::*;
use crate::broker::record::{QueueOffset, Trimmed};
use crate::broker::request::{Ack, Handle, Leases, Move, Reason, Reply, Return, Send};
use crate::broker::state::{Moment, ShardState};

const TOPIC: u64 = 7;
const QUEUES: u32 = 3;
const GROUPS: [u64; 2] = [100, 200];
const INVISIBLE_MS: i64 = 1000;
const ATTEMPTS: u32 = 3;

/// A shard that owns all queues of the parent.
struct Shard {
    state: ShardState,
    now: i64,
    random: u64,
}

impl Shard {
    fn new() -> Self {
        let state = ShardState::restore(ShardId(1), None).unwrap();
        Self {
            state,
            now: 1_000_000,
            random: 1,
        }
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.random += 1;
        let moment = Moment {
            now: Timestamp(self.now),
            random: self.random,
        };
        let decision = self.state.decide(request, moment);
        for record in &decision.records {
            self.state.apply_record(record);
        }
        decision.reply
    }

    /// The offset that a message of that name gets.
    fn send(&mut self, name: &str) -> u64 {
        let message = Envelope {
            topic: TOPIC,
            queue: place(name).queue,
            lite_topic: Some(name.to_owned()),
            ..Envelope::default()
        };
        let messages = vec![message];
        match self.ask(Request::Send(Send { messages })) {
            Reply::Stored(stored) => stored.offsets[0],
            other => panic!("{other:?}"),
        }
    }

    fn pop(&mut self, group: u64, names: &[&str], limit: u32) -> Leases {
        let pop = PopLite {
            group,
            topic: TOPIC,
            names: names.iter().map(|name| place(name)).collect(),
            limit,
            invisible_ms: INVISIBLE_MS,
            attempts_max: ATTEMPTS,
            holder: None,
            again: false,
        };
        match self.ask(Request::PopLite(pop)) {
            Reply::Leases(leases) => leases,
            other => panic!("{other:?}"),
        }
    }

    fn ack(&mut self, group: u64, handle: Handle) -> bool {
        let ack = Ack {
            group,
            topic: TOPIC,
            handles: vec![handle],
            frees: false,
        };
        match self.ask(Request::Ack(ack)) {
            Reply::Acks(acks) => acks.acknowledged[0],
            other => panic!("{other:?}"),
        }
    }

    /// What a snapshot and nothing else leads to.
    fn restored(&mut self) -> ShardState {
        let snapshot = match self.ask(Request::Snapshot(crate::broker::request::Empty {})) {
            Reply::Snapshot(snapshot) => snapshot.state,
            other => panic!("{other:?}"),
        };
        ShardState::restore(ShardId(1), Some(&snapshot)).unwrap()
    }
}

fn place(name: &str) -> LiteName {
    let QueueId(queue) = queue_of(name.as_bytes(), QUEUES);
    LiteName {
        queue,
        name: name.to_owned(),
    }
}

/// One message for one group, as the model has it.
#[derive(Clone, Debug, Default)]
struct Given {
    attempts: u32,
    until: i64,
    handle: Option<Handle>,
    done: bool,
}

/// A lite topic as the model has it: its messages in order, and what became of each for each group.
#[derive(Clone, Debug, Default)]
struct Model {
    messages: Vec<u64>,
    given: BTreeMap<(u64, u64), Given>,
    /// Groups never look before this.
    starts: BTreeMap<u64, u64>,
}

impl Model {
    /// What a poll gets: the oldest ones in a row, if none of them is held.
    fn pop(&mut self, group: u64, limit: usize, now: i64) -> Vec<(u64, u32)> {
        let start = self.starts.get(&group).copied().unwrap_or(0);
        let mut popped = Vec::new();
        for offset in self.messages.clone() {
            let given = self.given.entry((group, offset)).or_default();
            if given.done || (offset < start && given.attempts == 0) {
                continue;
            }
            if given.until > now || popped.len() == limit {
                break;
            }
            if given.attempts >= ATTEMPTS {
                // Dead; the next one may go.
                given.done = true;
                continue;
            }
            given.attempts += 1;
            given.until = now + INVISIBLE_MS;
            popped.push((offset, given.attempts));
        }
        popped
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    Pop(usize, Vec<usize>, u32),
    Ack(prop::sample::Index),
    Move(prop::sample::Index, i64, bool),
    Return(prop::sample::Index, bool),
    Wait(i64),
    Trim(u32, u64),
    End(usize),
    Expire(i64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..6_usize;
    let step = prop_oneof![
        8 => name.clone().prop_map(Step::Send),
        6 => (0..2_usize, prop::collection::vec(name.clone(), 1..5), 1..6_u32)
            .prop_map(|(group, names, limit)| Step::Pop(group, names, limit)),
        6 => any::<prop::sample::Index>().prop_map(Step::Ack),
        2 => (any::<prop::sample::Index>(), 0..2000_i64, any::<bool>())
            .prop_map(|(which, ms, suspended)| Step::Move(which, ms, suspended)),
        1 => (any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(which, unseen)| Step::Return(which, unseen)),
        3 => (1..1500_i64).prop_map(Step::Wait),
        1 => (0..QUEUES, 0..4_u64).prop_map(|(queue, more)| Step::Trim(queue, more)),
        1 => name.prop_map(Step::End),
        1 => (1..5000_i64).prop_map(Step::Expire),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn lite_topics_do_what_a_model_by_name_does(steps in steps()) {
        const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
        let mut shard = Shard::new();
        let mut model: BTreeMap<&str, Model> = BTreeMap::new();
        let mut stored_at: BTreeMap<&str, i64> = BTreeMap::new();
        let mut handles: Vec<(u64, &str, Handle)> = Vec::new();
        let mut trimmed = [0_u64; QUEUES as usize];
        for step in steps {
            match step {
                Step::Send(name) => {
                    let name = NAMES[name];
                    let offset = shard.send(name);
                    model.entry(name).or_default().messages.push(offset);
                    stored_at.insert(name, shard.now);
                }
                Step::Pop(group, names, limit) => {
                    let group = GROUPS[group];
                    let mut names: Vec<&str> = names.iter().map(|name| NAMES[*name]).collect();
                    names.sort_unstable();
                    names.dedup();
                    let got = shard.pop(group, &names, limit);
                    let mut left = limit as usize;
                    let mut expected = Vec::new();
                    for name in &names {
                        if left == 0 {
                            break;
                        }
                        if let Some(one) = model.get_mut(name) {
                            let popped = one.pop(group, left, shard.now);
                            left -= popped.len();
                            expected.extend(popped.into_iter().map(|(offset, n)| (*name, offset, n)));
                        }
                    }
                    let found: Vec<_> = got.leases.iter().map(|lease| (lease.handle.offset, lease.attempt)).collect();
                    let wanted: Vec<_> = expected.iter().map(|(_, offset, n)| (*offset, *n)).collect();
                    prop_assert_eq!(found, wanted);
                    for (lease, (name, offset, _)) in got.leases.into_iter().zip(expected) {
                        prop_assert_eq!(real(lease.handle.queue), place(name).queue);
                        let given = model.get_mut(name).unwrap().given.get_mut(&(group, offset)).unwrap();
                        given.handle = Some(lease.handle.clone());
                        handles.push((group, name, lease.handle));
                    }
                }
                Step::Ack(which) if !handles.is_empty() => {
                    let (group, name, handle) = which.get(&handles).clone();
                    let offset = handle.offset;
                    let now = shard.now;
                    let acked = shard.ack(group, handle.clone());
                    if let Some(given) = model.get_mut(name).and_then(|one| one.given.get_mut(&(group, offset))) {
                        let current = !given.done && given.until > now && given.handle == Some(handle);
                        if current {
                            given.done = true;
                        }
                        prop_assert_eq!(acked, given.done);
                    }
                }
                Step::Move(which, ms, suspended) if !handles.is_empty() => {
                    let (group, name, handle) = which.get(&handles).clone();
                    let change = Move {
                        group,
                        topic: TOPIC,
                        handle: handle.clone(),
                        invisible_ms: ms,
                        backoff: None,
                        suspended,
                    };
                    let moved = shard.ask(Request::Move(change));
                    let now = shard.now;
                    let given = model.get_mut(name).and_then(|one| one.given.get_mut(&(group, handle.offset)));
                    let current = given.filter(|g| !g.done && g.until > now && g.handle.as_ref() == Some(&handle));
                    match (moved, current) {
                        (Reply::Moved(lease), Some(given)) => {
                            let handle = Handle { lease, ..handle };
                            given.until = now + ms;
                            given.attempts = given.attempts.saturating_sub(u32::from(suspended));
                            given.handle = Some(handle.clone());
                            handles.push((group, name, handle));
                        }
                        (Reply::Refused(_), None) => {}
                        (found, wanted) => prop_assert!(false, "{found:?} {wanted:?}"),
                    }
                }
                Step::Return(which, unseen) if !handles.is_empty() => {
                    let (group, name, handle) = which.get(&handles).clone();
                    let back = Return { group, topic: TOPIC, handles: vec![handle.clone()], unseen };
                    shard.ask(Request::Return(back));
                    let now = shard.now;
                    let given = model.get_mut(name).and_then(|one| one.given.get_mut(&(group, handle.offset)));
                    if let Some(given) = given.filter(|g| !g.done && g.until > now && g.handle == Some(handle)) {
                        given.until = now;
                        given.attempts = given.attempts.saturating_sub(u32::from(unseen));
                    }
                }
                Step::Wait(ms) => shard.now += ms,
                Step::Trim(queue, more) => {
                    let first = trimmed[queue as usize] + more;
                    trimmed[queue as usize] = first;
                    let firsts = vec![QueueOffset { topic: TOPIC, queue, offset: first }];
                    // Only what is there is trimmed.
                    let end = model.iter().filter(|(name, _)| place(name).queue == queue)
                        .flat_map(|(_, one)| &one.messages).max().map_or(0, |last| last + 1);
                    if first <= end {
                        shard.ask(Request::Trim(Trimmed { firsts }));
                        for (name, one) in &mut model {
                            if place(name).queue == queue {
                                one.messages.retain(|offset| *offset >= first);
                                // What is no longer kept is done with, whoever held it.
                                let gone = one.given.iter_mut().filter(|((_, offset), _)| *offset < first);
                                gone.for_each(|(_, given)| given.done = true);
                            }
                        }
                    } else {
                        trimmed[queue as usize] = first - more;
                    }
                }
                Step::End(name) => {
                    let name = NAMES[name];
                    let end = EndLites { topic: TOPIC, only: Some(place(name)), ..EndLites::default() };
                    shard.ask(Request::EndLites(end));
                    model.remove(name);
                    stored_at.remove(name);
                }
                Step::Expire(expiry_ms) => {
                    let end = EndLites { topic: TOPIC, only: None, expiry_ms, from: 0, limit: 1000 };
                    shard.ask(Request::EndLites(end));
                    let now = shard.now;
                    stored_at.retain(|name, at| {
                        let stays = *at > now - expiry_ms;
                        if !stays {
                            model.remove(name);
                        }
                        stays
                    });
                }
                Step::Restart => {
                    let restored = shard.restored();
                    prop_assert_eq!(&restored, &shard.state);
                    shard.state = restored;
                }
                Step::Ack(_) | Step::Move(..) | Step::Return(..) => {}
            }
            for (name, one) in &model {
                let list = ListLites { topic: TOPIC, only: Some(place(name)), ..ListLites::default() };
                match shard.ask(Request::ListLites(list)) {
                    Reply::LitePage(page) => prop_assert_eq!(page.topics[0].messages, one.messages.len() as u64),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_lite_queue_says_where_its_messages_lie() {
    for real_queue in [0, 1, limits::QUEUES_MAX - 1] {
        for number in [0, 1, NUMBERS - 1] {
            let queue = numbered(real_queue, number);
            assert!(is_lite(queue) && real(queue) == real_queue);
        }
        assert!(!is_lite(real_queue) && real(real_queue) == real_queue);
    }
}

#[test]
fn a_full_lite_topic_lets_go_of_what_is_worked_off_and_else_refuses() {
    let mut shard = Shard::new();
    let queue = place("a").queue;
    for _ in 0..limits::LITE_MESSAGES_MAX / 1024 {
        let message = Envelope {
            topic: TOPIC,
            queue,
            lite_topic: Some("a".to_owned()),
            ..Envelope::default()
        };
        let messages = vec![message; 1024];
        let stored = shard.ask(Request::Send(Send { messages }));
        assert!(matches!(stored, Reply::Stored(_)));
    }
    let message = Envelope {
        topic: TOPIC,
        queue,
        lite_topic: Some("a".to_owned()),
        ..Envelope::default()
    };
    let send = Request::Send(Send {
        messages: vec![message],
    });
    let is_full = |reply: &Reply| match reply {
        Reply::Refused(refused) => refused.reason() == Reason::LiteTopicFull,
        _ => false,
    };
    assert!(is_full(&shard.ask(send.clone())), "nobody has read it");
    let leases = shard.pop(100, &["a"], 3).leases;
    assert!(
        is_full(&shard.ask(send.clone())),
        "all of it is held or waits"
    );
    for lease in leases {
        assert!(shard.ack(100, lease.handle));
    }
    let start = StartLite {
        group: 200,
        topic: TOPIC,
        names: vec![place("a")],
        offset: Some(0),
        tail: 0,
        only_new: true,
    };
    let mut listened = Shard::new();
    listened.state = shard.restored();
    listened.ask(Request::StartLite(start));
    assert!(
        is_full(&listened.ask(send.clone())),
        "another group listens and has read nothing"
    );
    assert!(matches!(shard.ask(send), Reply::Stored(_)));
    let list = ListLites {
        topic: TOPIC,
        only: Some(place("a")),
        ..ListLites::default()
    };
    match shard.ask(Request::ListLites(list)) {
        Reply::LitePage(page) => {
            let kept = limits::LITE_MESSAGES_MAX as u64 - 2;
            assert_eq!(
                (page.topics[0].messages, page.topics[0].groups[0].lag),
                (kept, kept)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_starts_where_it_is_told() {
    let mut shard = Shard::new();
    let offsets: Vec<u64> = (0..5).map(|_| shard.send("a")).collect();
    shard.send("b");
    let start = |offset, tail, only_new| StartLite {
        group: 100,
        topic: TOPIC,
        names: vec![place("a"), place("none")],
        offset,
        tail,
        only_new,
    };
    let mut popped = |start: StartLite| {
        shard.ask(Request::StartLite(start));
        let leases = shard.pop(100, &["a"], 32).leases;
        leases
            .iter()
            .map(|lease| lease.handle.offset)
            .collect::<Vec<_>>()
    };
    assert!(
        popped(start(None, 0, false)).is_empty(),
        "behind the last one"
    );
    assert_eq!(popped(start(None, 2, false)), offsets[3..]);
    assert_eq!(popped(start(Some(offsets[1]), 0, false)), offsets[1..]);
    assert_eq!(popped(start(Some(0), 0, false)), offsets);
    assert!(
        popped(start(Some(0), 0, true)).is_empty(),
        "it has been there"
    );
}

#[test]
fn a_poll_that_is_asked_again_gets_what_it_holds_and_nothing_else() {
    let mut shard = Shard::new();
    let names = ["a", "b", "c"];
    for name in ["a", "a", "c"] {
        shard.send(name);
    }
    let ask = |shard: &mut Shard, poll, again, limit| {
        let holder = Holder {
            consumer: "c".to_owned(),
            poll,
            ..Holder::default()
        };
        let pop = PopLite {
            group: 100,
            topic: TOPIC,
            names: names.iter().map(|name| place(name)).collect(),
            limit,
            invisible_ms: INVISIBLE_MS,
            attempts_max: ATTEMPTS,
            holder: Some(holder),
            again,
        };
        match shard.ask(Request::PopLite(pop)) {
            Reply::Leases(leases) => leases,
            other => panic!("{other:?}"),
        }
    };
    assert!(ask(&mut shard, 9, true, 0).leases.is_empty(), "not yet");
    let first = ask(&mut shard, 9, false, 3).leases;
    assert_eq!(first.len(), 3);
    // What came meanwhile is for the next poll, wherever it lies.
    shard.send("b");
    assert!(ask(&mut shard, 8, true, 0).leases.is_empty());
    shard.now += INVISIBLE_MS / 2;
    let again = ask(&mut shard, 9, true, 0);
    assert_eq!(again.leases, first);
    let found: Vec<u32> = again.lites.iter().map(|stand| stand.index).collect();
    assert_eq!(found, [0, 2]);
    shard.now += INVISIBLE_MS - 1;
    assert!(
        shard.ack(100, first[0].handle.clone()),
        "held for the time that it asked for"
    );
    assert_eq!(ask(&mut shard, 9, true, 0).leases, first[1..]);
}

#[test]
fn an_idle_lite_topic_costs_less_than_300_bytes() {
    // What a B-tree keeps of an entry at two thirds full, as it is after inserts in no order, with its share of
    // what a node of about eight entries has besides: 24 bytes.
    let in_tree = |bytes: usize| bytes * 3 / 2 + 3;
    let place = size_of::<((u64, u64, u32), u64)>();
    let name_of_a_uuid = 48;
    let a_few_offsets = 16;
    let lite = size_of::<(u32, index::Lite)>();
    let bytes = in_tree(lite) + name_of_a_uuid + a_few_offsets + in_tree(8) + in_tree(place);
    assert!(bytes < 300, "{bytes} bytes");
}
