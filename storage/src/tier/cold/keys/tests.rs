use futures::StreamExt as _;
use millpond_proto::chance::Seeded;
use millpond_proto::message::{Offset, QueueId};
use proptest::prelude::*;

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::error::ReadError;
use crate::format::envelope::Envelope;
use crate::log::ReadLimit;
use crate::tier::cold::compaction::Compaction;
use crate::tier::cold::lookup::Lookup;
use crate::tier::cold::tests::{Handle, open, paths, term};
use crate::tier::cold::typed::Reads;
use crate::tier::parquet as file;

const TOPIC: TopicId = TopicId(7);
const ALL: ReadLimit = ReadLimit {
    messages: usize::MAX,
    bytes: usize::MAX,
};
const DAY_MS: i64 = 24 * 60 * 60 * 1000;

fn message(queue: u32, offset: u64, key: Option<u8>, has_body: bool) -> Envelope {
    Envelope {
        topic: TOPIC.0,
        queue,
        offset,
        // A day for every twenty offsets.
        stored_at_ms: i64::try_from(offset / 20).unwrap() * DAY_MS + 5,
        message_id: format!("{queue}-{offset}"),
        keys: key.map(|key| format!("key {key}")).into_iter().collect(),
        key: key.map(|key| vec![b'k', key].into()),
        body: has_body.then(|| format!("{offset} of {queue}").into()),
        ..Envelope::default()
    }
}

async fn whole(cold: &Cold, queue: u32, first: u64) -> Vec<Envelope> {
    cold.read(TOPIC, QueueId(queue), Offset(first), ALL)
        .await
        .unwrap()
}

fn offsets(messages: &[Envelope]) -> Vec<u64> {
    messages.iter().map(|message| message.offset).collect()
}

/// Keys `0, 1, 2, 0, 1, 2, …` in two queues, in files of ten offsets.
async fn write_turns(cold: &Cold, files: u64) {
    for file in 0..files {
        let of = |queue| {
            let offsets = file * 10..file * 10 + 10;
            offsets.map(move |o| message(queue, o, Some(u8::try_from(o % 3).unwrap()), true))
        };
        let messages: Vec<_> = of(0).chain(of(4)).collect();
        cold.write(TOPIC, &messages, &[]).await.unwrap();
    }
}

#[tokio::test]
async fn the_last_message_of_each_key_stays_and_offsets_do_not_change() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    write_turns(&cold, 4).await;
    let done = cold
        .compact_keys(TOPIC, &KeyCompaction::default())
        .await
        .unwrap();
    assert_eq!((done.superseded, done.files), (74, 4));
    assert!(done.bytes_after < done.bytes_before);
    drop(cold);
    let cold = open(&disk).await;
    for queue in [0, 4] {
        assert_eq!(
            cold.extent(TOPIC, QueueId(queue)),
            Some(Offset(0)..Offset(40))
        );
        for from in 0..=37 {
            assert_eq!(offsets(&whole(&cold, queue, from).await), [37, 38, 39]);
        }
        assert_eq!(offsets(&whole(&cold, queue, 39).await), [39]);
        let missing = |range| cold.missing(TOPIC, QueueId(queue), range);
        assert_eq!(missing(0..40).await.unwrap(), 37);
        assert_eq!(missing(30..38).await.unwrap(), 7);
        assert_eq!(missing(38..40).await.unwrap(), 0);
    }
    let sizes = cold.sizes(TOPIC);
    assert_eq!((sizes.messages, sizes.superseded, sizes.lost), (6, 74, 0));
    assert_eq!(
        paths(&disk, "cold/topics/7/data").len(),
        1,
        "three were emptied"
    );
    // What comes next is compacted with what is there.
    let more = [message(0, 40, Some(1), true), message(0, 41, Some(9), true)];
    cold.write(TOPIC, &more, &[]).await.unwrap();
    let done = cold
        .compact_keys(TOPIC, &KeyCompaction::default())
        .await
        .unwrap();
    assert_eq!((done.superseded, done.files), (1, 1));
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [38, 39, 40, 41]);
}

#[tokio::test]
async fn few_new_messages_wait_for_more() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    write_turns(&cold, 6).await;
    let half = KeyCompaction {
        dirty_percent_min: 50,
        ..KeyCompaction::default()
    };
    assert!(cold.compact_keys(TOPIC, &half).await.unwrap().superseded > 0);
    let kept: Vec<_> = (100..160)
        .map(|offset| message(0, offset, Some(u8::try_from(offset).unwrap()), true))
        .collect();
    cold.write(TOPIC, &kept, &[]).await.unwrap();
    cold.compact_keys(TOPIC, &half).await.unwrap();
    let one = [message(0, 160, Some(0), true)];
    cold.write(TOPIC, &one, &[]).await.unwrap();
    let done = cold.compact_keys(TOPIC, &half).await.unwrap();
    assert_eq!(done, KeysCompacted::default());
    let now = cold.compact_keys(TOPIC, &KeyCompaction::default()).await;
    assert_eq!(now.unwrap().superseded, 1);
}

#[tokio::test]
async fn a_tombstone_stays_for_its_time_after_what_it_deletes_is_gone() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let at = |now_ms| KeyCompaction {
        now_ms,
        tombstones_ms: 100,
        ..KeyCompaction::default()
    };
    let first = [
        message(0, 0, Some(1), true),
        message(0, 1, Some(1), false),
        message(0, 2, Some(2), true),
    ];
    cold.write(TOPIC, &first, &[]).await.unwrap();
    cold.compact_keys(TOPIC, &at(1000)).await.unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [1, 2]);
    let second = [message(0, 3, Some(2), false)];
    cold.write(TOPIC, &second, &[]).await.unwrap();
    let done = cold.compact_keys(TOPIC, &at(1099)).await.unwrap();
    assert_eq!((done.superseded, done.tombstones), (1, 0));
    let done = cold.compact_keys(TOPIC, &at(1100)).await.unwrap();
    assert_eq!(
        (done.superseded, done.tombstones),
        (0, 1),
        "its time is over"
    );
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [3]);
    // The last message of a queue stays whatever it is, so that there is one below the end.
    cold.compact_keys(TOPIC, &at(1300)).await.unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [3]);
    cold.write(TOPIC, &[message(0, 4, Some(3), true)], &[])
        .await
        .unwrap();
    cold.compact_keys(TOPIC, &at(1500)).await.unwrap();
    cold.compact_keys(TOPIC, &at(1700)).await.unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [4]);
}

#[tokio::test]
async fn nothing_goes_at_or_above_what_is_read_again_after_a_crash() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    write_turns(&cold, 4).await;
    let held = KeyCompaction {
        below: [(0, 25)].into(),
        ..KeyCompaction::default()
    };
    cold.compact_keys(TOPIC, &held).await.unwrap();
    let left: Vec<u64> = (25..40).collect();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), left);
    assert_eq!(offsets(&whole(&cold, 4, 0).await), [37, 38, 39]);
    // Later the bound has moved on.
    cold.compact_keys(TOPIC, &KeyCompaction::default())
        .await
        .unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [37, 38, 39]);
}

#[tokio::test]
async fn a_damaged_file_keeps_its_messages_and_tombstones_wait_for_it() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    let at = |now_ms| KeyCompaction {
        now_ms,
        tombstones_ms: 10,
        ..KeyCompaction::default()
    };
    for messages in [
        [message(0, 0, Some(1), true), message(0, 1, Some(2), true)],
        [message(0, 2, Some(1), false), message(0, 3, Some(2), true)],
        [message(0, 4, Some(3), true), message(0, 5, Some(2), true)],
    ] {
        cold.write(TOPIC, &messages, &[]).await.unwrap();
    }
    let path = paths(&disk, "cold/topics/7/data").remove(0);
    disk.flip_bit(&path, 999);
    let cold = {
        drop(cold);
        open(&disk).await
    };
    for now in [100, 200, 300] {
        let done = cold.compact_keys(TOPIC, &at(now)).await.unwrap();
        assert_eq!((done.damaged, done.tombstones), (1, 0));
    }
    assert!(cold.read(TOPIC, QueueId(0), Offset(0), ALL).await.is_err());
    assert_eq!(offsets(&whole(&cold, 0, 2).await), [2, 4, 5]);
    disk.flip_bit(&path, 999);
    let cold = open(&disk).await;
    cold.compact_keys(TOPIC, &at(400)).await.unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [2, 4, 5]);
    cold.compact_keys(TOPIC, &at(500)).await.unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [4, 5]);
}

#[tokio::test]
async fn a_crash_anywhere_in_a_key_compaction_leaves_the_last_of_every_key() {
    for (dies_at, happens) in (0..14).flat_map(|at| [(at, false), (at, true)]) {
        let disk = Arc::new(SimulatedDisk::default());
        let cold = open(&disk).await;
        write_turns(&cold, 4).await;
        drop(cold);
        let dying = Handle::over(&disk, dies_at, happens);
        let cold = Cold::open(Arc::new(dying.clone()), Arc::new(dying.clone()), term())
            .await
            .unwrap();
        let steps = KeyCompaction {
            step_rows: 20,
            ..KeyCompaction::default()
        };
        // It may end before the crash, or fail by it.
        let _ = cold.compact_keys(TOPIC, &steps).await;
        let disk = Arc::new(disk.crash(&Seeded::new(dies_at as u64)));
        drop(cold);
        drop(dying);
        let cold = open(&disk).await;
        for queue in [0, 4] {
            let left = whole(&cold, queue, 0).await;
            assert!(left.iter().all(|m| {
                let key = u8::try_from(m.offset % 3).unwrap();
                *m == message(queue, m.offset, Some(key), true)
            }));
            assert!(offsets(&left).ends_with(&[37, 38, 39]));
        }
        cold.sweep().await.unwrap();
        let files = cold.ages(TOPIC).len();
        assert_eq!(paths(&disk, "cold/topics/").len(), files + 1);
        cold.compact_keys(TOPIC, &steps).await.unwrap();
        assert_eq!(offsets(&whole(&cold, 4, 0).await), [37, 38, 39]);
    }
}

/// What happens to a topic.
#[derive(Clone, Debug)]
enum Step {
    /// Messages are moved: queue, key (none above 5), whether there is a body.
    Write(Vec<(u32, u8, bool)>),
    Compact {
        after_ms: i64,
        keys_bytes: usize,
        step_rows: u64,
        bound: Option<u64>,
    },
    Merge {
        across_days: bool,
    },
    Trim {
        queue: u32,
        more: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let one = (0..3_u32, 0..8_u8, prop::bool::weighted(0.8));
    let compact = (
        0..150_i64,
        400..2000_usize,
        5..60_u64,
        prop::option::weighted(0.2, 0..60_u64),
    );
    prop_oneof![
        5 => prop::collection::vec(one, 1..30).prop_map(Step::Write),
        4 => compact.prop_map(|(after_ms, keys_bytes, step_rows, bound)| Step::Compact {
            after_ms,
            keys_bytes,
            step_rows,
            bound,
        }),
        2 => any::<bool>().prop_map(|across_days| Step::Merge { across_days }),
        1 => (0..3_u32, 0..9_u64).prop_map(|(queue, more)| Step::Trim { queue, more }),
        1 => Just(Step::Reopen),
    ]
}

/// The same as a list of messages.
#[derive(Default)]
struct Naive {
    messages: Vec<Envelope>,
    firsts: BTreeMap<u32, u64>,
    nexts: BTreeMap<u32, u64>,
    now_ms: i64,
    mark: Option<(i64, BTreeMap<u32, u64>)>,
}

impl Naive {
    fn of(&self, queue: u32) -> impl Iterator<Item = &Envelope> {
        let first = self.firsts.get(&queue).copied().unwrap_or(0);
        let messages = self.messages.iter();
        messages.filter(move |m| m.queue == queue && m.offset >= first)
    }

    /// Whether anything came since the last compaction is known to the files only, so what goes is a function of
    /// the messages alone: a compaction that is not worth it would take nothing away either.
    fn compact(&mut self, tombstones_ms: i64, bound: Option<u64>) {
        let is_due = self
            .mark
            .as_ref()
            .is_some_and(|(at, _)| at + tombstones_ms <= self.now_ms);
        let all = self.messages.clone();
        let over = self.mark.clone().filter(|_| is_due).map(|(_, ends)| ends);
        self.messages.retain(|m| {
            let is_later = |other: &&Envelope| {
                (other.queue, &other.key) == (m.queue, &m.key) && other.offset > m.offset
            };
            let last = all.iter().filter(|other| other.queue == m.queue).last();
            let is_last = last.is_some_and(|last| last.offset == m.offset);
            let is_bound = bound.is_some_and(|bound| m.queue == 0 && m.offset >= bound);
            let end = over.as_ref().and_then(|ends| ends.get(&m.queue));
            let is_over = m.body.is_none() && end.is_some_and(|end| m.offset < *end);
            let goes = all.iter().any(|other| is_later(&other)) || is_over;
            m.key.is_none() || is_last || is_bound || !goes
        });
        if is_due || self.mark.is_none() {
            let mut ends = self.nexts.clone();
            if let (Some(bound), Some(end)) = (bound, ends.get_mut(&0)) {
                *end = bound.min(*end);
            }
            self.mark = Some((self.now_ms, ends));
        }
    }
}

async fn check(cold: &Arc<Cold>, naive: &Naive) {
    for queue in 0..3 {
        let first = naive.firsts.get(&queue).copied().unwrap_or(0);
        let next = naive.nexts.get(&queue).copied().unwrap_or(0);
        let known: Vec<Envelope> = naive.of(queue).cloned().collect();
        if next == 0 {
            continue;
        }
        assert_eq!(
            cold.extent(TOPIC, QueueId(queue)),
            Some(Offset(first)..Offset(next))
        );
        for from in (first..=next).step_by(5) {
            let left: Vec<&Envelope> = known.iter().filter(|m| m.offset >= from).collect();
            let read = whole(cold, queue, from).await;
            assert_eq!(
                read.iter().collect::<Vec<_>>(),
                left,
                "queue {queue} from {from}"
            );
            let missing = cold.missing(TOPIC, QueueId(queue), from..next).await;
            assert_eq!(missing.unwrap(), next - from - left.len() as u64);
            let few = ReadLimit {
                messages: 2,
                bytes: 9,
            };
            let some = cold.read(TOPIC, QueueId(queue), Offset(from), few).await;
            let some = some.unwrap();
            assert_eq!(some.is_empty(), left.is_empty());
            assert!(some.iter().zip(&left).all(|(one, other)| one == *other));
        }
        let middle = first + (next - first) / 2;
        let range = Offset(middle)..Offset(next);
        let mut scan = cold.scan(TOPIC, QueueId(queue), range, &Reads::of(&["offset"]));
        let mut scanned = Vec::new();
        while let Some(batch) = scan.next().await {
            scanned.extend(file::offsets_of(&batch.unwrap()).unwrap());
        }
        let left = known.iter().map(|m| m.offset).filter(|o| *o >= middle);
        assert_eq!(scanned, left.collect::<Vec<_>>());
        let lookup = Lookup::Key("key 2".to_owned());
        let (mut at, mut found) = (first, Vec::new());
        while at < next {
            let step = cold.look_up(TOPIC, QueueId(queue), at..next, &lookup);
            let step = step.await.unwrap();
            assert!(step.to.0 > at, "a step goes on");
            at = step.to.0;
            found.extend(step.matches.iter().map(|offset| offset.0));
        }
        let matching = known.iter().filter(|m| lookup.matches(m));
        assert_eq!(found, matching.map(|m| m.offset).collect::<Vec<_>>());
    }
}

#[test]
fn any_run_of_compactions_agrees_with_a_list_of_messages() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let steps = prop::collection::vec(step(), 1..14);
    proptest!(ProptestConfig::with_cases(24), |(steps in steps)| {
        runtime.block_on(async {
            let disk = Arc::new(SimulatedDisk::default());
            let mut cold = open(&disk).await;
            let mut naive = Naive::default();
            for step in steps {
                match step {
                    Step::Write(rows) => {
                        let mut messages = Vec::new();
                        for (queue, key, has_body) in rows {
                            let next = naive.nexts.entry(queue).or_default();
                            let key = (key <= 5).then_some(key);
                            let has_body = has_body || key.is_none();
                            messages.push(message(queue, *next, key, has_body));
                            *next += 1;
                        }
                        messages.sort_by_key(|m| (m.queue, m.offset));
                        cold.write(TOPIC, &messages, &[]).await.unwrap();
                        naive.messages.extend(messages);
                        naive.messages.sort_by_key(|m| (m.queue, m.offset));
                    }
                    Step::Compact { after_ms, keys_bytes, step_rows, bound } => {
                        naive.now_ms += after_ms;
                        let how = KeyCompaction {
                            now_ms: naive.now_ms,
                            tombstones_ms: 100,
                            dirty_percent_min: 0,
                            below: bound.map(|bound| (0, bound)).into_iter().collect(),
                            keys_bytes,
                            step_rows,
                        };
                        let before = cold.manifest(TOPIC);
                        let is_worth_it = before.is_some_and(|m| is_worth_it(&m, &how));
                        cold.compact_keys(TOPIC, &how).await.unwrap();
                        if is_worth_it {
                            naive.compact(100, bound);
                        }
                    }
                    Step::Merge { across_days } => {
                        let how = Compaction { across_days, ..Compaction::default() };
                        cold.compact(TOPIC, how).await.unwrap();
                    }
                    Step::Trim { queue, more } => {
                        let next = naive.nexts.get(&queue).copied().unwrap_or(0);
                        if next > 0 {
                            let first = naive.firsts.entry(queue).or_default();
                            *first = (*first + more).min(next);
                            let firsts = [(queue, *first)].into();
                            cold.trim(TOPIC, &[], &firsts).await.unwrap();
                        }
                    }
                    Step::Reopen => {
                        drop(cold);
                        cold = open(&disk).await;
                    }
                }
            }
            check(&cold, &naive).await;
        });
    });
}

#[tokio::test]
async fn files_chosen_before_a_compaction_do_not_take_what_came_behind_them() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    write_turns(&cold, 4).await;
    let chosen = cold.ages(TOPIC);
    cold.compact_keys(TOPIC, &KeyCompaction::default())
        .await
        .unwrap();
    // The first three were emptied, and the fourth has another name now.
    let oldest = &chosen[..2];
    assert_eq!(cold.ends_of(TOPIC, oldest), BTreeMap::new());
    let nothing = BTreeMap::new();
    cold.set_apart(TOPIC, oldest, &nothing).await.unwrap();
    cold.trim(TOPIC, oldest, &nothing).await.unwrap();
    assert_eq!(offsets(&whole(&cold, 0, 0).await), [37, 38, 39]);
    let is_hidden = |file: &File| file.hidden;
    let manifest = cold.manifest(TOPIC).unwrap();
    assert!(!manifest.manifest().files.iter().any(is_hidden));
}

#[tokio::test]
async fn what_is_below_the_first_offset_kept_is_told_as_before() {
    let disk = Arc::new(SimulatedDisk::default());
    let cold = open(&disk).await;
    write_turns(&cold, 4).await;
    cold.compact_keys(TOPIC, &KeyCompaction::default())
        .await
        .unwrap();
    cold.trim(TOPIC, &[], &[(0, 38)].into()).await.unwrap();
    let below = cold.read(TOPIC, QueueId(0), Offset(37), ALL).await;
    assert!(matches!(
        below,
        Err(ReadError::Trimmed {
            first: Offset(38),
            ..
        })
    ));
    assert_eq!(offsets(&whole(&cold, 0, 38).await), [38, 39]);
}
